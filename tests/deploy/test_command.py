"""The command against a running service: transcripts of what people and programs see."""

import base64
import grp
import json
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from strongroom.deploy import cli
from strongroom.deploy.cli.words import Noun, Verb
from tests.deploy.running import ROOT, Done, Up, clean_environment, eventually, strongroom
from tests.ssh_keys import private_key

Run = Callable[..., Done]
ESCAPE = "\x1b"


@pytest.fixture
def run(service: Up) -> Run:
    """The command, told where the service lives."""

    def with_home(*arguments: object, **options: object) -> Done:
        return strongroom("--home", service.home, *arguments, **options)  # type: ignore[arg-type]

    return with_home


@pytest.fixture
def box(run: Run, request: pytest.FixtureRequest) -> str:
    """A container of this test's own."""
    name = f"box{abs(hash(request.node.nodeid))}"
    assert run("secret", "mkdir", name).code == 0
    return name


class TestSecrets:
    """``strongroom secret``."""

    def test_a_secret_goes_in_and_comes_out(self, run: Run, box: str) -> None:
        """What standard input gave comes back to the byte, with nothing after it."""
        stored = run("secret", "put", "--exact", f"{box}/password", "--json", stdin=b"s3cret\n")
        assert (stored.code, stored.err) == (0, "")
        assert stored.json["name"] == f"{box}/password"

        assert run("secret", "get", f"{box}/password") == Done(0, "s3cret\n", "")

    def test_a_terminal_gets_a_line_break(self, run: Run, box: str) -> None:
        """The prompt of a shell stands on a line of its own; a pipe gets the secret alone."""
        run("secret", "put", f"{box}/p", stdin=b"s3cret")

        assert run("secret", "get", f"{box}/p", terminal=True).out == "s3cret\n"
        assert run("secret", "get", f"{box}/p").out == "s3cret"

    @pytest.mark.parametrize(
        ("sent", "stored"),
        [
            (b"hunter2\n", "hunter2"),
            (b"hunter2\r\n", "hunter2"),
            (b" two words \n", " two words "),
            (b"hunter2", "hunter2"),
            (b"hunter2\r", "hunter2\r"),
            (b"one\n\n", "one\n\n"),
            (b"one\ntwo\n", "one\ntwo\n"),
            (b"one\rtwo\n", "one\rtwo\n"),
            (b"-----BEGIN OPENSSH PRIVATE KEY-----\nAA==\n-----END OPENSSH PRIVATE KEY-----\n",) * 2,
        ],
    )
    @pytest.mark.parametrize("way", ["pipe", "file", "--exact"])
    def test_the_line_break_of_a_single_line_is_dropped(
        self, run: Run, box: str, short: Path, sent: bytes, stored: str | bytes, way: str
    ) -> None:
        """What ``echo`` adds to one line is dropped, which is said, unless --exact is; several lines stay whole."""
        (short / "in").write_bytes(sent)
        how = {"file": ("--file", short / "in"), "--exact": ("--exact",)}.get(way, ())
        expected = sent.decode() if way == "--exact" or isinstance(stored, bytes) else stored

        done = run("secret", "put", "--json", *how, f"{box}/p", stdin=sent)

        assert run("secret", "get", f"{box}/p").out == expected
        dropped = "strongroom: dropped the line break at its end; --exact keeps it\n"
        assert done.err == (dropped if expected != sent.decode() else "")

    def test_a_secret_without_a_container_is_told_so(self, run: Run, box: str, service: Up) -> None:
        """Whose container is missing is told that, too; who may not list it learns of the secret alone."""
        run("secret", "mkdir", box)
        assert run("secret", "get", f"{box}/none").err == f"strongroom: there is no such secret: {box}/none\n"
        told = f"strongroom: there is no such secret: {box}/x/none; there is no container {box}/x\n"
        assert run("secret", "get", f"{box}/x/none").err == told

        key = run("apikey", "create", f"get-{box}", "--path", f"/secrets/{box}", "--action", "get", "--json").json[
            "key"
        ]
        reader = clean_environment(
            STRONGROOM_SOCKET=str(service.socket), STRONGROOM_API_ID=f"get-{box}", STRONGROOM_API_KEY=key
        )
        done = strongroom("secret", "get", f"{box}/x/none", environ=reader)
        assert (done.code, done.err) == (4, f"strongroom: there is no such secret: {box}/x/none\n")

    def test_what_was_not_stored_lost_no_line_break(self, run: Run, box: str) -> None:
        """Where a put fails, nothing is said of what would have been dropped."""
        run("secret", "put", f"{box}/taken", stdin=b"x")
        done = run("secret", "put", f"{box}/taken", stdin=b"y\n")
        assert (done.code, "dropped" in done.err) == (5, False)

    def test_what_is_binary_is_kept_to_the_byte(self, run: Run, box: str) -> None:
        """Bytes have no lines."""
        assert run("secret", "put", "--binary", f"{box}/p", stdin=b"\xff\n").err == ""
        assert run("secret", "get", "--json", f"{box}/p").json["value"] == base64.b64encode(b"\xff\n").decode()

    @pytest.mark.parametrize("sent", [b"", b"\n", b"\r\n"])
    def test_nothing_is_not_a_secret(self, run: Run, box: str, sent: bytes) -> None:
        """A pipe that brings nothing, or an empty line, stores nothing."""
        done = run("secret", "put", f"{box}/p", stdin=sent)
        assert (done.code, "a secret must not be empty" in done.err) == (2, True)
        assert run("secret", "get", f"{box}/p").code == 4

    def test_chomp_says_that_it_is_the_rule(self, run: Run, box: str) -> None:
        """Who has it in a script is told that it can go."""
        done = run("secret", "put", "--chomp", f"{box}/p", stdin=b"s3cret\n")
        assert (done.code, "--chomp can be left out" in done.err) == (0, True)
        assert run("secret", "get", f"{box}/p").out == "s3cret"

    def test_a_secret_is_made(self, run: Run, box: str) -> None:
        """--generate stores random letters and digits, and shows them to who asks for that alone."""
        quiet = run("secret", "put", "--generate", "40", f"{box}/quiet", terminal=True)
        assert quiet == Done(0, f"stored {box}/quiet\n", "")
        made = run("secret", "get", f"{box}/quiet").out
        assert re.fullmatch("[A-Za-z0-9]{40}", made)

        shown = run("secret", "put", "--generate", "12", "--show", f"{box}/shown", terminal=True)
        assert shown == Done(0, run("secret", "get", f"{box}/shown").out + "\n", "")
        told = run("secret", "put", "--generate", "12", "--show", "--replace", "--json", f"{box}/shown").json
        assert told["value"] == run("secret", "get", f"{box}/shown").out != shown.out.rstrip()
        assert "value" not in run("secret", "put", "--generate", "12", "--json", f"{box}/more").json

    def test_putting_twice_is_a_conflict(self, run: Run, box: str) -> None:
        """A secret is replaced only by who says so; the text says how."""
        run("secret", "put", f"{box}/p", stdin=b"one")

        again = run("secret", "put", f"{box}/p", stdin=b"two")
        assert again == Done(5, "", f"strongroom: {box}/p exists already; say --replace to replace it\n")
        assert run("secret", "get", f"{box}/p").out == "one"

        assert run("secret", "put", "--replace", f"{box}/p", stdin=b"two").code == 0
        assert run("secret", "get", f"{box}/p").out == "two"

    def test_replacing_what_is_not_there_stores_it(self, run: Run, box: str) -> None:
        """--replace is for whatever is there, nothing included."""
        assert run("secret", "put", "--replace", f"{box}/p", stdin=b"one").code == 0

    def test_a_stale_tag_is_a_conflict(self, run: Run, box: str) -> None:
        """--if-match writes and removes only the revision it names."""
        first = run("secret", "put", f"{box}/p", "--json", stdin=b"one").json["etag"]
        second = run("secret", "put", "--if-match", first, f"{box}/p", stdin=b"two")
        assert second.code == 0

        for late in (
            run("secret", "put", "--if-match", first, f"{box}/p", stdin=b"three"),
            run("secret", "rm", "--if-match", first, f"{box}/p"),
        ):
            assert (late.code, late.out) == (5, "")
            assert "read it again and decide anew" in late.err
        assert run("secret", "get", f"{box}/p").out == "two"

    def test_bytes_are_kept_as_they_are(self, run: Run, box: str, short: Path) -> None:
        """--binary stores and gives back what is no text; without it such input is refused."""
        content = bytes(range(256))
        (short / "in").write_bytes(content)

        refused = run("secret", "put", "--file", short / "in", f"{box}/b")
        assert (refused.code, "say --binary" in refused.err) == (1, True)
        assert run("secret", "put", "--binary", "--file", short / "in", f"{box}/b").code == 0
        assert run("secret", "get", "--binary", "--output", short / "out", f"{box}/b") == Done(0, "", "")

        assert (short / "out").read_bytes() == content
        assert stat.S_IMODE((short / "out").stat().st_mode) == 0o600

    def test_text_is_not_taken_for_bytes(self, run: Run, box: str) -> None:
        """--binary of a secret that was stored as text is a mistake of the caller."""
        run("secret", "put", f"{box}/p", stdin=b"no base64!")

        got = run("secret", "get", "--binary", f"{box}/p")
        assert got.code == 1
        assert "it was stored as text; leave out --binary" in got.err

    def test_containers_are_made_listed_and_removed(self, run: Run, box: str) -> None:
        """A container shows what it and the ones within hold, and goes only when it is empty."""
        assert run("secret", "put", "-p", f"{box}/deep/er/key", stdin=b"x").code == 0
        assert run("secret", "mkdir", box, "--json").json == {"container": box, "created": False}

        assert run("secret", "ls", box, "--json").json == {
            "container": box,
            "names": ["deep/", "deep/er/", "deep/er/key"],
        }
        assert run("secret", "ls", box, terminal=True).out == "deep/\ndeep/er/\ndeep/er/key\n"
        full = run("secret", "rmdir", f"{box}/deep/er")
        assert (full.code, "remove what it holds first" in full.err) == (5, True)

        assert run("secret", "rm", f"{box}/deep/er/key").code == 0
        for container in (f"{box}/deep/er", f"{box}/deep", box):
            assert run("secret", "rmdir", container, terminal=True) == Done(0, f"removed {container}\n", "")

    @pytest.mark.parametrize(
        ("arguments", "code", "text"),
        [
            (("get", "BOX/none"), 4, "strongroom: there is no such secret: BOX/none\n"),
            (("rm", "BOX/none"), 4, "strongroom: there is no such secret: BOX/none\n"),
            (("rm", "--if-match", '"9"', "BOX/none"), 5, "strongroom: the secret is not at the revision that was"),
            (("put", "--if-match", "*", "BOX/none"), 5, "strongroom: there is no such secret to replace"),
            (("put", "none/p"), 4, "strongroom: there is no container none; make it first: strongroom "),
            (("put", "none/p"), 4, " secret mkdir none\n"),
            (("mkdir", "none/er/sub"), 4, " secret mkdir none/er\n"),
            (("ls", "none/er"), 4, "strongroom: there is no container none/er\n"),
            (("ls", "-R", "none/"), 4, "strongroom: there is no container none\n"),
            (("rmdir", "none"), 4, "strongroom: there is no container none\n"),
            (("rm", "-r", "none"), 4, "strongroom: there is no container none\n"),
            (("rm", "BOX/"), 1, "this is a container: say -r to remove it with all that it holds"),
            (("rm", "-r", "--if-match", "1", "BOX"), 1, "--if-match is for one secret, -r for a container"),
            (("rm", "-r", "BOX"), 1, "this would remove 1 container and 0 secrets with BOX/: say --yes"),
            (("rm", "-r", "/"), 1, "a part of a name is empty"),
            (("put", "--generate", "11", "BOX/p"), 1, "is a whole number from 12 to 1024"),
            (
                ("put", "--generate", "12", "--exact", "BOX/p"),
                1,
                "--generate goes without --file, --edit, --binary and",
            ),
            (("put", "--show", "BOX/p"), 1, "--show goes with --generate"),
            (("get", "alone"), 1, "a secret's name is CONTAINER/KEY"),
            (("get", "BOX/../x"), 1, "no part of a name is '.' or '..'"),
            (("get", "BOX/a b"), 1, "a name is of unaccented letters, digits and . _ @ : + - alone"),
            (("get", "BOX/%C3%A9"), 1, "a name has no percent sign: it is written as it is"),
            (("get", "BOX/é"), 1, "a name is of unaccented letters, digits and"),
            (("put", "BOX/p", "--file", "/none"), 1, "strongroom: /none: No such file or directory"),
            (("put", "--replace", "--if-match", "1", "BOX/p"), 1, "--replace and --if-match exclude each other"),
            (("put", "--edit", "--binary", "BOX/p"), 1, "--edit goes without --file, --binary and --replace"),
            (("put",), 1, "strongroom: missing argument 'CONTAINER/KEY' (strongroom secret put --help)"),
            (("put", "BOX/p", "s3cret"), 1, "unexpected extra argument, not repeated here since it may be a secret"),
            (("get", "--bogus", "BOX/p"), 1, "there is no such option (strongroom secret get --help)"),
            (("get", "--binari", "BOX/p"), 1, "there is no such option; did you mean --binary?"),
            (("gett",), 1, "there is no such command; did you mean get? (strongroom secret --help)"),
        ],
    )
    def test_what_goes_wrong_has_a_code_and_a_line(
        self, run: Run, box: str, arguments: tuple[str, ...], code: int, text: str
    ) -> None:
        """Nothing goes to standard output, one line goes to standard error, and the code says what kind it is."""
        done = run("secret", *(each.replace("BOX", box) for each in arguments), stdin=b"x")

        assert (done.code, done.out) == (code, "")
        assert text.replace("BOX", box) in done.err
        assert done.err.count("\n") == 1

    @pytest.mark.parametrize("name", ["BOX//p", "/BOX/p", "BOX/p/", "//BOX/p", "BOX/./p", "BOX/../p", "BOX/a b"])
    @pytest.mark.parametrize("verb", ["put", "put -p", "get", "rm"])
    def test_a_secret_has_one_spelling(self, run: Run, box: str, verb: str, name: str) -> None:
        """What the service would refuse in a path the command refuses in a name, and does nothing on the way."""
        run("secret", "put", f"{box}/p", stdin=b"kept")

        done = run("secret", *verb.split(), name.replace("BOX", box), stdin=b"x")

        assert (done.code, done.out) == (1, "")
        assert run("secret", "ls", box, "--json").json["names"] == ["p"]
        assert run("secret", "get", f"{box}/p").out == "kept"

    @pytest.mark.parametrize("name", ["BOX//sub", "/BOX/sub", "BOX/sub//", "/BOX", "//", "", "BOX/./sub"])
    @pytest.mark.parametrize("verb", ["mkdir", "mkdir -p", "ls", "rmdir"])
    def test_a_container_has_one_spelling(self, run: Run, box: str, verb: str, name: str) -> None:
        """So it is for containers, which may be said with the slash that they end in."""
        run("secret", "mkdir", f"{box}/sub/")

        done = run("secret", *verb.split(), name.replace("BOX", box))

        assert (done.code, done.out) == (1, "")
        assert run("secret", "ls", f"{box}/", "--json").json["names"] == ["sub/"]

    def test_a_secret_over_the_limit_is_refused(self, run: Run, box: str) -> None:
        """Over 512 KiB nothing is sent."""
        done = run("secret", "put", f"{box}/p", stdin=b"x" * (512 * 1024 + 1))
        assert (done.code, "over 512 KiB" in done.err) == (1, True)

    def test_no_command_takes_a_secret_from_its_command_line(self) -> None:
        """No command has an argument, or an option that takes something, for a value, a key or a password."""
        suspicious = re.compile(r"value|secret|password|api.?key|token|private", re.IGNORECASE)
        root = cli.strongroom
        context = click.Context(root)
        seen = 0
        for noun in root.list_commands(context):
            command = root.get_command(context, noun)
            verbs = list(command.commands.values()) if isinstance(command, click.Group) else [command]
            for verb in verbs:
                assert verb is not None
                seen += 1
                for parameter in verb.params:
                    if isinstance(parameter, click.Option) and parameter.is_flag:
                        continue
                    assert not suspicious.search(" ".join([parameter.name or "", *parameter.opts])), (verb, parameter)
        assert seen > 15


class TestEditing:
    """``strongroom secret put --edit``."""

    def editor(self, short: Path, body: str) -> dict[str, str]:
        """Return an environment whose editor does *body* to its file."""
        script = short / "editor"
        script.write_text(f"#!/bin/sh\nset -e\nstat -c '%a %n' \"$1\" > {short}/seen\n{body}\n")
        script.chmod(0o755)
        return clean_environment(EDITOR=str(script))

    def test_a_secret_is_written_in_an_editor(self, run: Run, box: str, short: Path) -> None:
        """The editor's file is private, lies in memory, and is gone afterwards."""
        environ = self.editor(short, 'printf edited > "$1"')

        assert run("secret", "put", "--edit", f"{box}/p", environ=environ).code == 0

        mode, name = (short / "seen").read_text().split()
        assert mode == "600"
        assert name.startswith("/dev/shm/")
        assert not Path(name).exists()
        assert not Path(name).parent.exists()
        assert run("secret", "get", f"{box}/p").out == "edited"

    def test_an_existing_secret_is_there_to_be_changed(self, run: Run, box: str, short: Path) -> None:
        """It replaces the revision that the editor began with."""
        run("secret", "put", "--exact", f"{box}/p", stdin=b"one\n")
        assert run("secret", "put", "--edit", f"{box}/p", environ=self.editor(short, 'echo two >> "$1"')).code == 0
        assert run("secret", "get", f"{box}/p").out == "one\ntwo\n"

    def test_the_editors_line_break_is_dropped(self, run: Run, box: str, short: Path) -> None:
        """Editors end the last line; a secret of one line has no line break then, unless it had one before."""
        etag = run("secret", "put", "--json", f"{box}/p", stdin=b"one").json["etag"]
        same = run("secret", "put", "--edit", "--json", f"{box}/p", environ=self.editor(short, 'echo >> "$1"'))
        assert same.json["etag"] == etag
        run("secret", "put", "--edit", f"{box}/p", environ=self.editor(short, 'echo two > "$1"'))
        assert run("secret", "get", f"{box}/p").out == "two"

        run("secret", "put", "--exact", "--replace", f"{box}/p", stdin=b"one\n")
        run("secret", "put", "--edit", f"{box}/p", environ=self.editor(short, 'echo two > "$1"'))
        assert run("secret", "get", f"{box}/p").out == "two\n"

    def test_a_change_meanwhile_is_a_conflict(self, run: Run, box: str, short: Path, service: Up) -> None:
        """What somebody else stored while the editor was open is not overwritten."""
        run("secret", "put", f"{box}/p", stdin=b"one")
        put = f"{sys.executable} -m strongroom.deploy.cli --home {service.home} secret put --replace {box}/p"
        body = f'echo mine > "$1"; printf theirs | {put} >/dev/null'

        done = run("secret", "put", "--edit", f"{box}/p", environ=self.editor(short, body))

        assert done.code == 5
        assert run("secret", "get", f"{box}/p").out == "theirs"

    @pytest.mark.parametrize("variable", ["EDITOR", "VISUAL"])
    @pytest.mark.parametrize(
        ("said", "told"),
        [
            ("nosucheditor -w", "the editor nosucheditor cannot be run: No such file or directory; set EDITOR to one"),
            ("/", "the editor / cannot be run: Permission denied; set EDITOR to one"),
            ("false", "the editor false ended with code 1; nothing was changed"),
            ("rm", "what the editor rm left cannot be read: No such file or directory; nothing was changed"),
            ("vi '", "VARIABLE is not a command: a quotation mark in it is not closed"),
        ],
    )
    def test_an_editor_that_fails_is_named(self, run: Run, box: str, variable: str, said: str, told: str) -> None:
        """The line has the program that failed, and why; nothing is stored."""
        done = run("secret", "put", "--edit", f"{box}/p", environ=clean_environment(**{variable: said}))

        assert (done.code, done.out) == (1, "")
        assert done.err.startswith(f"strongroom: {told.replace('VARIABLE', variable)}")
        assert run("secret", "ls", box).out == ""

    def test_nothing_changed_is_nothing_stored(self, run: Run, box: str, short: Path) -> None:
        """Leaving the editor without a change leaves the revision as it is."""
        etag = run("secret", "put", f"{box}/p", "--json", stdin=b"one").json["etag"]
        assert (
            run("secret", "put", "--edit", f"{box}/p", "--json", environ=self.editor(short, "true")).json["etag"]
            == etag
        )

    @pytest.mark.parametrize(("body", "text"), [("exit 3", "/editor ended with code 3; nothing was changed")])
    def test_a_failing_editor_stores_nothing(self, run: Run, box: str, short: Path, body: str, text: str) -> None:
        """The secret is as it was, and the code is that of a mistake."""
        done = run("secret", "put", "--edit", f"{box}/p", environ=self.editor(short, body))
        assert (done.code, text in done.err) == (1, True)
        assert run("secret", "get", f"{box}/p").code == 4

    def test_an_editor_that_is_not_there_is_told(self, run: Run, box: str) -> None:
        """The text names the variable to set."""
        done = run("secret", "put", "--edit", f"{box}/p", environ=clean_environment(EDITOR="/none/editor"))
        assert (done.code, "set EDITOR" in done.err) == (1, True)


def test_containers_are_listed_from_the_root(run: Run, box: str) -> None:
    """Without a name, `secret ls` lists the containers that lie in no other."""
    run("secret", "put", "--parents", f"{box}/inner/k", stdin=b"x")
    for root in ((), ("/",)):
        told = run("secret", "ls", *root, "--json").json
        assert told["container"] == ""
        assert [name for name in told["names"] if name.startswith(box)] == [f"{box}/"]


class TestHosts:
    """``strongroom host``."""

    def test_a_host_and_its_credentials(self, run: Run, short: Path) -> None:
        """A host shows no credentials; they are asked for by name, and go with it."""
        (short / "key").write_bytes(b"-----BEGIN KEY-----\nc4nary\n-----END KEY-----\n")
        stored = run(
            *("host", "put", "10.1.0.1", "--force", "--ssh-key-file", short / "key"),
            *("--remote-user", "ec2", "--cpus", "4", "--json"),
        )
        assert stored.json == {"address": "10.1.0.1", "credentials": True}

        shown = run("host", "get", "10.1.0.1", "--json")
        assert shown.json["cpus"] == 4
        assert "c4nary" not in shown.out + str(base64.b64encode(b"c4nary"))
        assert not {"ssh_priv_key", "remote_user"} & set(shown.json)

        assert run("host", "creds", "10.1.0.1").out == (short / "key").read_text()
        told = run("host", "creds", "--json", "10.1.0.1").json
        assert (told["remote_user"], base64.b64decode(told["ssh_priv_key"])) == ("ec2", (short / "key").read_bytes())

        assert run("host", "rm", "10.1.0.1", "--json").json == {
            "address": "10.1.0.1",
            "deleted": True,
            "credentials_deleted": True,
        }
        assert run("host", "creds", "10.1.0.1").code == 4
        assert run("host", "rm", "10.1.0.1").code == 4

    def test_what_is_not_said_stays(self, run: Run, short: Path) -> None:
        """A second put changes the fields it names, in the host and in its credentials."""
        (short / "key").write_text("key")
        run("host", "put", "10.1.0.2", "--cpus", "4", "--os", "fedora", "--force", "--ssh-key-file", short / "key")
        run("host", "put", "10.1.0.2", "--cpus", "8", "--remote-user", "admin")

        host = run("host", "get", "10.1.0.2", "--json").json
        assert (host["cpus"], host["os"]) == (8, "fedora")
        creds = run("host", "creds", "--json", "10.1.0.2").json
        assert (creds["remote_user"], base64.b64decode(creds["ssh_priv_key"])) == ("admin", b"key")

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            ("not a key\n", "holds no private key that OpenSSH reads"),
            ("ssh-ed25519 AAAA me\n", "is a public key or a certificate"),
            (private_key()[:200], "is a private key that is damaged, or was cut short"),
        ],
    )
    def test_what_is_no_private_key_opens_no_host(self, run: Run, short: Path, content: str, why: str) -> None:
        """It is refused by the rule of a migration, and nothing is stored; with --force it is, to the byte."""
        (short / "key").write_text(content)

        done = run("host", "put", "10.1.0.4", "--ssh-key-file", short / "key")

        assert (done.code, done.out) == (1, "")
        assert f"{short}/key {why}; --force stores it all the same" in done.err
        assert run("host", "get", "10.1.0.4").code == 4
        assert run("host", "put", "10.1.0.4", "--force", "--ssh-key-file", short / "key").code == 0
        assert run("host", "creds", "10.1.0.4").out == content
        run("host", "rm", "10.1.0.4")

    def test_a_key_that_ssh_would_refuse_for_its_spelling_is_spelled_anew(self, run: Run, short: Path) -> None:
        """A key with the line ends of Windows is stored as ssh reads it, and that is said; another as it is."""
        key = private_key()
        (short / "key").write_bytes(key.replace("\n", "\r\n").encode())
        done = run("host", "put", "10.1.0.5", "--ssh-key-file", short / "key")
        assert done.code == 0
        assert "the key was written anew, for ssh refuses it with line ends other than Unix's" in done.err
        assert run("host", "creds", "10.1.0.5").out == key

        (short / "key").write_text(key)
        assert run("host", "put", "10.1.0.5", "--ssh-key-file", short / "key").err == ""
        assert run("host", "creds", "10.1.0.5").out == key
        assert run("host", "put", "10.1.0.5", "--force").code == 1

    @pytest.mark.parametrize("nothing", [b"", b"\n"])
    def test_an_empty_pipe_replaces_no_key(self, run: Run, short: Path, nothing: bytes) -> None:
        """Where the program before the pipe failed, the command does, too, and the key that is stored stays."""
        (short / "key").write_text("key")
        run("host", "put", "10.1.0.3", "--force", "--ssh-key-file", short / "key")
        before = run("host", "creds", "--json", "10.1.0.3").json

        done = run("host", "put", "10.1.0.3", "--cpus", "4", "--ssh-key-file", "-", stdin=nothing)

        assert (done.code, done.out) == (1, "")
        assert "nothing is in it" in done.err
        assert run("host", "creds", "--json", "10.1.0.3").json == before

    @pytest.mark.parametrize(
        ("arguments", "code", "text"),
        [
            (("get", "10.9.9.9"), 4, "there is no host 10.9.9.9"),
            (
                ("creds", "10.9.9.9"),
                4,
                "there are no credentials of 10.9.9.9; to give it some: strongroom ",
            ),
            (("put", "a/b"), 1, "address must be one segment"),
            (("put", "10.9.9.9", "--status", "bogus"), 1, "status must be empty or one of"),
            (("put", "10.9.9.9", "--cpus", "many"), 1, "invalid value for '--cpus': is a whole number"),
        ],
    )
    def test_what_goes_wrong(self, run: Run, arguments: tuple[str, ...], code: int, text: str) -> None:
        """Mistakes are found before anything is sent."""
        done = run("host", *arguments)
        assert (done.code, done.out) == (code, "")
        assert text in done.err


class TestApiKeys:
    """``strongroom apikey``."""

    def test_a_key_is_shown_once(self, run: Run, service: Up) -> None:
        """The key stands in the answer that makes it, with a sentence that says so, and in no later one."""
        made = run("apikey", "create", "ci", "--path", "/secrets/ci", "--action", "get", "--action", "list", "--json")
        assert made.err.startswith("This is the only time that the key is shown")
        assert (made.json["paths"], made.json["actions"]) == (["/secrets/ci"], ["get", "list"])
        key = made.json["key"]

        listed = run("apikey", "list", "--json")
        assert key not in listed.out
        assert next(row for row in listed.json["apikeys"] if row["id"] == "ci")["paths"] == ["/secrets/ci"]

        as_ci = clean_environment(STRONGROOM_SOCKET=str(service.socket), STRONGROOM_API_ID="ci", STRONGROOM_API_KEY=key)
        assert strongroom("status", "--json", environ=as_ci).json["whoami"]["principal"] == "apikey:ci"
        denied = strongroom("secret", "mkdir", "ci", environ=as_ci)
        assert (denied.code, "see whom the service takes you for, if it knows you: strongroom " in denied.err) == (
            6,
            True,
        )

        assert run("apikey", "create", "ci").code == 5
        assert run("apikey", "revoke", "ci", "--json").json == {"id": "ci", "revoked": True}
        assert strongroom("status", environ=as_ci).code == 6
        assert run("apikey", "revoke", "ci").code == 4

    def test_a_key_is_rotated_without_a_gap(self, run: Run, service: Up) -> None:
        """Both open until the one before is ended; the list tells which is used; a further rotation waits for that."""

        def whoami(key: str) -> Done:
            names = {"STRONGROOM_SOCKET": str(service.socket), "STRONGROOM_API_ID": "rotated"}
            return strongroom("status", environ=clean_environment(**names, STRONGROOM_API_KEY=key))

        first = run("apikey", "create", "rotated", "--expires", "2999-01-31T12:00:00Z", "--json").json["key"]
        made = run("apikey", "rotate", "rotated", "--overlap", "1h", "--json")
        assert made.err.startswith("This is the only time that the key is shown")
        second = made.json["key"]
        assert whoami(first).code == whoami(second).code == 0

        def listed() -> Any:
            return next(row for row in run("apikey", "list", "--json").json["apikeys"] if row["id"] == "rotated")

        eventually(lambda: None not in (listed()["used"], listed()["former_used"]))
        row = listed()
        assert row["expires"] is None
        assert row["created"] < row["former_ends"] < "2999"
        again = run("apikey", "rotate", "rotated")
        assert (again.code, again.out) == (5, "")
        assert f"the key before it is good until {row['former_ends']}: end that first" in again.err
        assert "end it now: strongroom" in again.err
        assert again.err.endswith("apikey end-former rotated\n")
        assert run("apikey", "end-former", "rotated", "--json").json == {"id": "rotated", "ended": True}
        assert (whoami(first).code, whoami(second).code) == (6, 0)
        assert run("apikey", "end-former", "rotated").code == 4
        third = run("apikey", "rotate", "rotated", "--overlap", "0", "--json").json["key"]
        assert (whoami(second).code, whoami(third).code) == (6, 0)
        assert run("apikey", "rotate", "rotated", "--overlap", "soon").code == 2
        assert run("apikey", "rotate", "rotated", "--overlap", "91d").code == 2

    def test_a_narrow_key_rotates_none_that_reaches_further(self, run: Run, service: Up) -> None:
        """Whoever may change API keys gets none that reaches further than his own, his own one among them."""
        paths = ("--path", "/secrets/narrow", "--path", "/system/access/apikeys")
        narrow = run("apikey", "create", "narrow", *paths, "--json").json["key"]
        run("apikey", "create", "wide")
        run("apikey", "create", "within", "--path", "/secrets/narrow/in")
        names = {"STRONGROOM_SOCKET": str(service.socket), "STRONGROOM_API_ID": "narrow"}
        as_narrow = clean_environment(**names, STRONGROOM_API_KEY=narrow)

        for act in ("rotate", "end-former"):
            assert strongroom("apikey", act, "wide", environ=as_narrow).code == 6
        assert strongroom("apikey", "rotate", "within", environ=as_narrow).code == 0
        assert strongroom("apikey", "rotate", "narrow", "--overlap", "0", environ=as_narrow).code == 0
        assert strongroom("apikey", "rotate", "narrow", environ=as_narrow).code == 6

    @pytest.mark.parametrize("path", ["/api/v0/hosts", "/api/v0", "/api/", "/api"])
    def test_a_path_of_a_url_is_told_what_it_is_called_here(self, run: Run, path: str) -> None:
        """A path of the HTTP API, which would reach nothing, makes no key."""
        done = run("apikey", "create", "astray", "--path", "/secrets/db", "--path", path)

        assert (done.code, done.out) == (2, "")
        assert "without what stands before it in a URL: /hosts, nothing before it" in done.err
        assert all(row["id"] != "astray" for row in run("apikey", "list", "--json").json["apikeys"])

    @pytest.mark.parametrize("path", ["secrets/db", "/secrets//db"])
    def test_what_is_no_path_is_told_what_is_one(self, run: Run, path: str) -> None:
        """The line says what a path looks like, with an example, and does not repeat what was typed."""
        done = run("apikey", "create", "astray", "--path", path)

        assert done == Done(2, "", "strongroom: paths begin with a slash and go on with a name, such as /secrets/db\n")


@pytest.mark.parametrize("name", ["a/b", "/a", "a/", "a//b", "", "a b", ".."])
@pytest.mark.parametrize(
    "words",
    [
        *("host put", "host get", "host rm", "host creds", "apikey create", "apikey rotate"),
        *("apikey end-former", "apikey revoke"),
        *("key keyset create", "key keyset remove", "key backup register", "key backup forget"),
    ],
)
def test_what_is_no_name_is_refused(run: Run, words: str, name: str) -> None:
    """A name that the service would refuse in a path is refused wherever a command takes one."""
    done = run(*words.split(), name)

    assert (done.code in {1, 2}, done.out) == (True, ""), done
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ("key unlock", 5, "the service is unlocked already"),
        ("key keyset create twice", 5, "that keyset exists; use rotate for a new generation of it"),
        ("key backup register twice", 5, "a backup of that label is registered"),
        ("apikey create twice", 5, "an API key of that id exists"),
        ("key keyset remove none", 4, "there is no such keyset"),
        ("key rotate keyset none", 4, "there is no such keyset"),
        ("key backup forget none", 4, "no backup of that label is registered"),
        ("key rotate root --abandon none", 4, "there is no such root key"),
        ("key retire default.77", 4, "there is no such generation of a keyset"),
        ("apikey revoke none", 4, "there is no such API key"),
        ("host rm 192.0.2.99", 4, "there is no host 192.0.2.99"),
    ],
)
def test_what_the_service_said_is_what_is_told(run: Run, words: str, code: int, text: str) -> None:
    """Why the service refuses something stands in the line, and no advice that helps elsewhere alone."""
    if "twice" in words:
        run(*words.split())

    assert run(*words.split()) == Done(code, "", f"strongroom: {text}\n")


def every_command() -> list[tuple[str, ...]]:
    """Return the words of every command that there is."""
    found: list[tuple[str, ...]] = []

    def look(command: click.Command | None, words: tuple[str, ...]) -> None:
        assert command is not None
        if not isinstance(command, click.Group):
            found.append(words)
            return
        assert isinstance(command, Noun), words
        context = click.Context(command)
        for name in command.list_commands(context):
            look(command.get_command(context, name), (*words, name))

    look(cli.strongroom, ())
    assert len(found) > 40
    return found


@pytest.mark.parametrize("words", every_command(), ids=" ".join)
@pytest.mark.parametrize(
    "typed", ["c4nary-s3cret", "--c4nary-s3cret", "--c4nary-s3cret=x", "-c4nary", "--workers=c4nary"]
)
def test_nothing_that_was_typed_is_repeated(words: tuple[str, ...], typed: str) -> None:
    """A secret that somebody types where none belongs is not shown, whatever the command."""
    many = [typed] * 8 if typed.startswith("c4nary") else [typed]

    done = strongroom("--home", "/nonexistent", *words, *many)

    assert done.code in {1, 2}
    assert "c4nary" not in done.out + done.err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("c4nary", "there is no such command"),
        ("secret c4nary", "there is no such command"),
        ("key rotate c4nary", "there is no such command"),
        ("host put --cpus c4nary 192.0.2.9", "invalid value for '--cpus': is a whole number"),
        ("key init --keys c4nary", "invalid value for '--keys': is a whole number from 1 to 16"),
        ("key rotate keyset x --pace c4nary", "invalid value for '--pace': is a number from 0.01 to 1.0"),
        ("key rotate keyset x --pace 7.4242", "invalid value for '--pace': is a number from 0.01 to 1.0"),
        ("apikey create --action c4nary x", "invalid value for '--action': is one of get, list, put, delete"),
        ("serve c4nary", "is one of storage, proxy"),
        ("key import c4nary", "invalid value for 'FILE': names no file that this user can read"),
        ("restore c4nary", "invalid value for 'FILE': names no file that this user can read"),
    ],
)
def test_a_wrong_word_is_met_by_the_right_ones(words: str, text: str) -> None:
    """What would do is said, and not what was typed."""
    done = strongroom("--home", "/nonexistent", *words.split())

    assert (done.code, done.out) == (1, "")
    assert text in done.err
    assert "c4nary" not in done.err
    assert "4242" not in done.err


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (click.INT, "is a whole number"),
        (click.IntRange(1), "is a whole number from 1"),
        (click.IntRange(max=7), "is a whole number to 7"),
        (click.FLOAT, "is a number"),
        (click.FloatRange(0, 1), "is a number from 0 to 1"),
        (click.BOOL, "is true or false"),
        (click.UUID, "is not a uuid"),
        (click.DateTime(), "is not a datetime"),
        (click.File(), "names no file that this user can read"),
        (click.Path(exists=True), "names no file that this user can read"),
        (click.Choice(["a", "b"]), "is one of a, b"),
        (click.Tuple([int, str]), "is not a "),
        (int, "is a whole number"),
        (json.loads, "is not a loads"),
    ],
)
def test_no_kind_of_value_is_repeated(kind: Any, text: str) -> None:
    """Whatever kind an option or a word has, what is refused is told by what would do."""
    option = click.Option(["--o"], type=kind)
    word = click.Argument(["word"], type=kind)
    typed = ["c4nary"] * word.nargs

    tried: list[tuple[list[str], list[click.Parameter]]] = [(["--", *typed], [word]), (["--o", *typed], [option])]
    for words in tried:
        with pytest.raises(click.BadParameter) as refused:
            Verb("v", params=words[1]).make_context("v", words[0])
        assert text in refused.value.format_message()
        assert "c4nary" not in refused.value.format_message()


def test_who_says_a_socket_alone_is_told_what_else_is_wanted(service: Up) -> None:
    """It is the API key that is missing, and the line says where one may come from."""
    done = strongroom("--socket", service.socket, "status")

    assert (done.code, done.out) == (2, "")
    assert "no API key is given: set STRONGROOM_API_ID and STRONGROOM_API_KEY, or" in done.err


def test_who_is_not_in_the_group_is_told_of_it(short: Path) -> None:
    """A user who may not open the socket, or read the home, that was said hears whose it is."""
    code = (
        "import os, sys; from strongroom.deploy import cli\n"
        "for flag, path in zip(sys.argv[1::2], sys.argv[2::2]): cli.run([flag, path + '.none', 'status'])\n"  # imports
        "if os.getuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "print('---', file=sys.stderr)\n"
        "for flag, path in zip(sys.argv[1::2], sys.argv[2::2]): cli.run([flag, path, 'status'])\n"
    )
    short.chmod(0o755)
    home, path = short / "home", short / "s"
    home.mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        closed = 0o660 if os.geteuid() == 0 else 0
        path.chmod(closed)
        home.chmod(closed)
        environ = clean_environment(STRONGROOM_API_ID="ci", STRONGROOM_API_KEY="k")
        command = [sys.executable, "-c", code, "--socket", str(path), "--home", str(home)]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
        home.chmod(0o700)
    on_socket, in_home = done.stderr.partition("---\n")[2].splitlines()

    group = grp.getgrgid(path.stat().st_gid).gr_name
    assert f"may not open {path}, which is group {group}'s, mode {closed:04o}; add that user to the group" in on_socket
    assert f"may not enter {home}, where {home}/client.json lies; let that user in" in in_home


class TestPrinting:
    """Tables for people, JSON for programs."""

    @pytest.mark.parametrize(
        ("arguments", "keys"),
        [
            (
                ("status",),
                {"version", "state", "store", "store_fault", "keys", "active_key", "endpoints", "whoami"}
                | {"read_through", "reads_through"},
            ),
            (("secret", "mkdir", "schema"), {"container", "created"}),
            (("secret", "put", "--replace", "schema/x"), {"name", "etag"}),
            (("secret", "get", "--json", "schema/x"), {"name", "value", "etag"}),
            (("secret", "ls", "schema"), {"container", "names"}),
            (("secret", "rm", "schema/x"), {"name", "deleted"}),
            (("secret", "rmdir", "schema"), {"container", "deleted"}),
            (("host", "put", "10.2.0.1", "--remote-user", "x"), {"address", "credentials"}),
            (
                ("host", "get", "10.2.0.1"),
                {"address", "status", "os", "cpus", "memory", "space", "last_check", "source"},
            ),
            (("host", "creds", "--json", "10.2.0.1"), {"address", "ssh_priv_key", "remote_user"}),
            (("host", "ls"), {"hosts"}),
            (("host", "rm", "10.2.0.1"), {"address", "deleted", "credentials_deleted"}),
            (("apikey", "create", "schema-made"), {"id", "key", "paths", "actions"}),
            (("apikey", "list"), {"apikeys"}),
            (("apikey", "rotate", "schema-rotated"), {"id", "key", "paths", "actions"}),
            (("apikey", "end-former", "schema-former"), {"id", "ended"}),
            (("apikey", "revoke", "schema-ended"), {"id", "revoked"}),
            (("user", "add", "schema-a"), {"principal", "code", "expires", "administrator", "first"}),
            (("user", "ls"), {"users"}),
            (
                ("user", "show", "schema-b"),
                {"name", "state", "groups", "credentials", "created", "created_by", "note", "setup_until"},
            ),
            (("user", "key", "ls", "schema-b"), {"principal", "credentials"}),
            (("user", "rm", "schema-c", "--yes"), {"principal", "removed"}),
            (("user", "disable", "schema-b"), {"principal", "disabled"}),
            (("service", "ls"), {"services"}),
            (("group", "add", "schema-g"), {"group", "added"}),
            (("group", "ls"), {"groups"}),
            (("group", "show", "schema-h"), {"name", "members", "created", "created_by", "note", "damaged"}),
            (("group", "member", "add", "schema-h", "user:schema-b"), {"group", "member", "role"}),
            (("config", "show"), {"settings", "sources", "notes"}),
            (("config", "check"), {"valid", "notes", "tls"}),
        ],
    )
    def test_the_schema_of_json(self, run: Run, arguments: tuple[str, ...], keys: set[str]) -> None:
        """Each command's document has these members, and `docs/commands.md` tells of each."""
        for before in self._before(arguments):
            run(*before, stdin=b"x")
        done = run(*arguments, "--json", stdin=b"x")

        assert (done.code, set(done.json)) == (0, keys)
        text = (ROOT / "docs/commands.md").read_text()
        assert all(f"`{key}`" in text for key in keys)

    def _before(self, arguments: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Return the commands that make what *arguments* ask for; the cases come in any order."""
        noun, verb = (*arguments, "")[:2]
        if noun == "secret":
            secret = ("secret", "put", "--parents", "--replace", "schema/x")
            return [secret, ("secret", "rm", "schema/x")] if verb == "rmdir" else [secret]
        if noun == "host" and verb != "put":
            return [("host", "put", "10.2.0.1", "--remote-user", "x")]
        if noun == "apikey" and verb in ("revoke", "rotate"):
            return [("apikey", "create", arguments[2])]
        if (noun, verb) == ("apikey", "end-former"):
            return [("apikey", "create", arguments[2]), ("apikey", "rotate", arguments[2])]
        if noun in ("user", "group") and verb != "add":
            return [("user", "add", "schema-b"), ("user", "add", "schema-c"), ("group", "add", "schema-h")]
        return []

    def test_a_pipe_gets_the_table_that_a_terminal_gets(self, run: Run) -> None:
        """Who reads decides nothing but the layout; --json and -o decide the form, for both."""
        run("host", "put", "10.2.0.9", "--cpus", "3")

        plain = clean_environment(TERM="dumb")
        table, piped = run("host", "ls", terminal=True, environ=plain).out, run("host", "ls").out
        heads = ["address", "status", "os", "cpus", "memory", "space", "last_check"]
        assert table.split()[:7] == piped.split()[:7] == heads
        assert json.loads(run("--json", "host", "ls", terminal=True).out) == run("host", "ls", "--json").json
        assert run("host", "ls", "--json", terminal=True).out == run("host", "ls", "-o", "json").out

    @pytest.mark.parametrize(("arguments", "environ"), [(("--no-color",), {}), ((), {"NO_COLOR": "1"})])
    def test_colour_can_be_done_without(self, run: Run, arguments: tuple[str, ...], environ: dict[str, str]) -> None:
        """A terminal gets colour unless NO_COLOR or --no-color says no."""
        terminal = clean_environment(TERM="xterm-256color")
        terminal.pop("NO_COLOR", None)
        coloured = re.compile(r"\x1b\[[0-9;]*3[0-7]m")

        assert ESCAPE in run("status", terminal=True, environ=terminal).out
        assert not coloured.search(run(*arguments, "status", terminal=True, environ=terminal | environ).out)

    def test_a_terminal_is_not_given_orders(self, run: Run) -> None:
        """Control characters in what the service answers are shown as such, not obeyed."""
        run("host", "put", "10.2.0.8")
        with_escape = clean_environment(TERM="dumb")
        from strongroom.deploy.cli import show

        assert show._cell("a\x1b[2Jb\x07").plain == "a\N{REPLACEMENT CHARACTER}[2Jb\N{REPLACEMENT CHARACTER}"
        assert ESCAPE not in run("host", "get", "10.2.0.8", terminal=True, environ=with_escape).out


class TestFindingTheService:
    """Where the command looks for the service."""

    def test_without_a_word_it_looks_in_the_usual_home(self, short: Path) -> None:
        """Where there is none, the text says how to have one."""
        done = strongroom("status", environ=clean_environment(HOME=str(short)))
        assert (done.code, done.out) == (2, "")
        assert "say where the service is: --home DIR; or start one: strongroom up --home DIR" in done.err

    def test_the_usual_home_is_found(self, short: Path, service: Up) -> None:
        """~/.strongroom needs no word at all."""
        (short / ".strongroom").symlink_to(service.home)
        assert strongroom("status", environ=clean_environment(HOME=str(short))).code == 0

    def test_a_variable_may_name_the_home(self, service: Up) -> None:
        """STRONGROOM_HOME is as good as --home."""
        assert strongroom("status", environ=clean_environment(STRONGROOM_HOME=str(service.home))).code == 0

    def test_a_flag_comes_before_variables(self, service: Up, short: Path) -> None:
        """What the command line says is not undone by the environment."""
        environ = clean_environment(STRONGROOM_SOCKET="/none", STRONGROOM_API_ID="x", STRONGROOM_API_KEY="y")
        assert strongroom("--home", service.home, "status", environ=environ).code == 0

        key = json.loads((service.home / "client.json").read_text())
        environ = clean_environment(
            STRONGROOM_URL="http://127.0.0.1:1", STRONGROOM_API_ID=key["api_id"], STRONGROOM_API_KEY=key["api_key"]
        )
        assert strongroom("status", "--socket", service.socket, environ=environ).code == 0

    def test_a_service_that_does_not_run_is_told(self, short: Path) -> None:
        """The line says where nobody listens and what to do."""
        environ = clean_environment(
            STRONGROOM_SOCKET=str(short / "none.sock"), STRONGROOM_API_ID="x", STRONGROOM_API_KEY="y"
        )
        done = strongroom("status", environ=environ)
        assert done.code == 2
        assert f"{short}/none.sock does not listen: there is no such socket; see that it runs: " in done.err

    def test_wrong_credentials_are_denied(self, service: Up) -> None:
        """The code is that of a denial, and the key is not repeated."""
        environ = clean_environment(
            STRONGROOM_SOCKET=str(service.socket), STRONGROOM_API_ID="x", STRONGROOM_API_KEY="c4nary"
        )
        done = strongroom("status", environ=environ)
        assert done.code == 6
        assert "c4nary" not in done.err

    def test_through_the_proxy_there_are_secrets(self, service: Up, run: Run, box: str) -> None:
        """STRONGROOM_URL reaches the proxy, which offers secrets and no more."""
        run("secret", "put", f"{box}/p", stdin=b"x")
        key = json.loads((service.home / "client.json").read_text())
        environ = clean_environment(
            STRONGROOM_URL=service.url, STRONGROOM_API_ID=key["api_id"], STRONGROOM_API_KEY=key["api_key"]
        )
        assert strongroom("secret", "get", f"{box}/p", environ=environ).out == "x"
        assert strongroom("status", environ=environ).code == 2


class TestConfig:
    """``strongroom config``."""

    def test_the_settings_of_a_home_are_shown_masked(self, service: Up, run: Run) -> None:
        """What is in force and who said it is shown; the API key is not."""
        shown = run("config", "show", "--listen", "127.0.0.1:1", "--json").json
        key = json.loads((service.home / "client.json").read_text())["api_key"]

        assert shown["settings"]["listen"] == "127.0.0.1:1"
        assert (shown["sources"]["listen"], shown["sources"]["api_key"]) == ("--listen", "client.json")
        assert shown["sources"]["home"] == "--home"
        assert key not in json.dumps(shown)
        assert "said by" in run("config", "show", terminal=True).out

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (("--store", "sqlite:x?y=1"), "an SQLite store takes"),
            (("--workers", "0"), "--workers: is a whole number from 1 to 64"),
            (("--set", "x"), "is NAME=VALUE"),
            (("--store", "etcd://h/a//b"), "prefix"),
        ],
    )
    def test_what_is_wrong_is_found(self, run: Run, arguments: tuple[str, ...], text: str) -> None:
        """`config check` goes as far as can be gone without opening anything."""
        done = run("config", "check", *arguments)
        assert done.code in {1, 2}
        assert text in done.err

    def test_handlers_are_checked_too(self, home: Path) -> None:
        """A storage handler for a secret model is refused before any start."""
        home.mkdir()
        (home / "strongroom.toml").write_text('[[storage_handlers]]\ntype = "sqlite"\nmodels = ["HostCreds"]\n')

        done = strongroom("--home", home, "config", "check")
        assert done.code == 2
        assert "HostCreds" in done.err


def test_help_is_at_hand() -> None:
    """Each command's help is printed with code 0, and a noun alone shows its verbs with code 1."""
    assert "Exit codes: 0 done, 1 usage" in strongroom("--help").out
    for noun in ("up", "serve", "config", "status", "secret", "host", "apikey"):
        assert strongroom(noun, "--help").code == 0
    assert (strongroom("secret").code, "put" in strongroom("secret").err) == (1, True)
    assert strongroom("--version").out.startswith("strongroom ")


def test_the_command_starts_light() -> None:
    """Help is shown without importing the client, the servers or the table printer."""
    code = (
        "import sys; from strongroom.deploy import cli; assert cli.run(['--help']) == 0;"
        "heavy = ('httpx', 'rich', 'gunicorn', 'falcon', 'strongroom.storage_service');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_leaves_is_no_error(service: Up, run: Run, box: str) -> None:
    """A pipe that closes early ends the command without a word."""
    run("secret", "put", f"{box}/p", stdin=b"x" * 300_000)
    command = f"{sys.executable} -m strongroom.deploy.cli --home {service.home} secret get {box}/p | head -c 1"
    done = subprocess.run(
        ["sh", "-c", command], cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("x", "")


def test_no_secret_is_on_any_command_line(service: Up) -> None:
    """The process list of a running service shows no key."""
    key = json.loads((service.home / "client.json").read_text())["api_key"]
    for pid in service.family():
        assert key.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert key.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    assert os.getpid() not in service.family()

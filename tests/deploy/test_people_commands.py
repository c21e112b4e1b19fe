"""``strongroom user``, ``service`` and ``group``, on a real service and at a terminal."""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

import pytest

from tests.at_terminal import AtTerminal
from tests.deploy.running import ROOT, Done, Up, clean_environment, strongroom, up

Run: TypeAlias = Callable[..., Done]

PASSWORD: Final = "canary-5f1d correct horse"
_numbers = itertools.count()


@pytest.fixture
def run(service: Up) -> Run:
    """Run a command against the running service."""

    def run(*arguments: object, stdin: bytes = b"", environ: dict[str, str] | None = None) -> Done:
        said = clean_environment(STRONGROOM_HOME=str(service.home)) if environ is None else environ
        return strongroom(*arguments, stdin=stdin, environ=said)

    return run


@pytest.fixture
def name() -> str:
    """A name that no other test of the session uses."""
    return f"p{os.getpid()}-{next(_numbers)}"


@pytest.fixture
def public(tmp_path: Path) -> Path:
    """The file of a public key, beside that of its private half."""
    private = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", private], check=True, stdin=subprocess.DEVNULL)
    return tmp_path / "id.pub"


def fingerprint(public: Path) -> str:
    """Return what ssh-keygen calls a key."""
    told = subprocess.run(["ssh-keygen", "-lf", public], check=True, capture_output=True, text=True)
    return told.stdout.split()[1]


@pytest.mark.parametrize("noun", ["user", "service"])
def test_from_a_code_to_the_end(run: Run, service: Up, name: str, public: Path, noun: str) -> None:
    """The command that is printed sets up who has the code, with no other credentials; each verb does as it says."""
    added = run(noun, "add", name, "--note", "new here")
    code = next(line.split()[1] for line in added.out.splitlines() if line.startswith("code"))
    assert f"strongroom --socket {service.socket} {noun} setup {name} --key FILE" in added.err
    assert code not in added.err

    stranger = clean_environment(STRONGROOM_SOCKET=str(service.socket))
    wrong = run(noun, "setup", name, "--key", public, stdin=b"canary-wrong\n", environ=stranger)
    assert (wrong.code, "canary" in wrong.err, "another" in wrong.err) == (6, False, True)
    done = run(noun, "setup", name, "--key", public, "--json", stdin=f"{code}\n".encode(), environ=stranger)
    assert done.json == {"principal": f"{noun}:{name}", "set_up": True}

    shown = run(noun, "show", name)
    assert fingerprint(public) in shown.out
    assert public.read_text().split()[1] not in shown.out
    told = run(noun, "show", name, "--json").json
    assert (told["state"], told["note"], told["credentials"][0]["kind"]) == ("active", "new here", "access-key")
    row = next(row for row in run(noun, "ls", "--json").json[f"{noun}s"] if row["name"] == name)
    assert row == told
    assert name in run(noun, "ls").out
    assert run(noun, "add", name).code == 5

    typed = run(noun, "key", "add", name, "--password", "--name", "pw", "--json", stdin=f"{PASSWORD}\n".encode())
    assert (typed.json["kind"], typed.json["shown"]) == ("password", {"hash": "argon2"})
    assert [row["name"] for row in run(noun, "key", "ls", name, "--json").json["credentials"]][1] == "pw"
    again = run(noun, "key", "add", name, "--key", public, "--name", "same")
    assert (again.code, "somebody has that credential" in again.err) == (5, True)
    assert run(noun, "key", "rm", name, "pw").code == 0
    assert run(noun, "key", "rm", name, told["credentials"][0]["id"]).code == 5  # the only one

    assert run(noun, "disable", name, "--json").json == {"principal": f"{noun}:{name}", "disabled": True}
    assert run(noun, "show", name, "--json").json["state"] == "disabled"
    assert run(noun, "enable", name).out == f"{noun}:{name} may come in\n"
    unasked = run(noun, "rm", name)
    assert (unasked.code, "--yes" in unasked.err) == (1, True)
    assert run(noun, "rm", name, "--yes", "--json").json == {"principal": f"{noun}:{name}", "removed": True}
    assert run(noun, "show", name).code == 4
    gone = run("user", "add", name)
    assert (gone.code, "never given again" in gone.err) == (5, True)


def test_groups_by_the_command(run: Run, name: str) -> None:
    """A group is made, has members with roles, and is removed."""
    group = f"g-{name}"
    run("user", "add", name)
    assert run("group", "add", group, "--note", "of tests", "--json").json == {"group": group, "added": True}
    assert run("group", "member", "add", group, f"user:{name}", "--manager").code == 0
    assert run("group", "member", "add", group, "user:nobody-at-all").code == 4
    assert run("group", "show", group, "--json").json["members"] == {f"user:{name}": "manager"}
    assert f"user:{name}" in run("group", "show", group).out
    assert group in run("group", "ls").out
    assert run("user", "show", name, "--json").json["groups"] == {group: "manager"}
    assert f"{group} (manager)" in run("user", "show", name).out
    assert run("group", "member", "rm", group, f"user:{name}").code == 0
    listed = run("group", "ls", "--json").json["groups"]
    assert next(row for row in listed if row["name"] == group)["members"] == {}
    assert run("group", "rm", group, "--yes").code == 0
    assert run("group", "add", group).code == 5


def test_several_credentials_at_once(run: Run, name: str, public: Path) -> None:
    """With credentials there is no code; all kinds can be said together, each shown by what is public of it."""
    uri = f"spiffe://example.net/{name}"
    number = 2_000_000 + os.getpid() % 1000 * 1000 + next(_numbers)
    proofs = ("--key", public, "--password", "--certificate", uri, "--uid", number)
    added = run("service", "add", name, *proofs, "--json", stdin=f"{PASSWORD}\n".encode())
    assert added.json["code"] is None

    shown = run("service", "key", "ls", name).out

    for each in (fingerprint(public), "argon2", uri, str(number)):
        assert each in shown
    assert "canary" not in shown


@pytest.mark.parametrize(
    ("arguments", "stdin", "told"),
    [
        (("setup", "NAME"), b"", "say one credential"),
        (("setup", "NAME", "--password", "--key", "PUBLIC"), b"", "say one credential: --key FILE or --password"),
        (("key", "add", "NAME"), b"", "say one credential"),
        (("setup", "NAME", "--password"), b"canary\n", "the code, and then the password"),
        (("setup", "NAME", "--key", "PUBLIC"), b"canary\nmore\n", "standard input is the code"),
        (("setup", "NAME", "--key", "PUBLIC"), b"", "standard input is the code"),
        (("setup", "NAME", "--uid", "1"), b"canary\n", "no such option"),
        (("setup", "NAME", "--certificate", "spiffe://example.net/canary"), b"canary\n", "no such option"),
        (("add", "NAME", "--password"), b"canary\ncanary\n", "standard input is the password"),
        (("add", "NAME", "--password", "canary"), b"", "unexpected extra argument"),
        (("setup", "NAME", "canary", "--key", "PUBLIC"), b"", "unexpected extra argument"),
        (("add", "NAME", "--key", "PRIVATE"), b"", "private key"),
        (("add", "NAME", "--key", "/nonexistent"), b"", "No such file"),
        (("add", "NAME", "--window", "1"), b"", "from 30"),
    ],
)
def test_mistakes_are_told_before_the_service_is_asked(
    run: Run, name: str, public: Path, arguments: tuple[str, ...], stdin: bytes, told: str
) -> None:
    """Each ends with 1, says what is meant and repeats nothing that may be secret; nobody is added."""
    filled = [
        {"NAME": name, "PUBLIC": str(public), "PRIVATE": str(public.with_suffix(""))}.get(word, word)
        for word in arguments
    ]

    done = run("user", *filled, stdin=stdin)

    assert (done.code, told.lower() in done.err.lower(), "canary" in done.err) == (1, True, False)
    assert run("user", "show", name).code == 4


def test_the_first_administrator_at_a_terminal(home: Path, short: Path, public: Path) -> None:
    """The first one is told what it may do and what to type next; no code or password stands on screen or elsewhere."""
    with up(home) as running:
        environ = clean_environment(STRONGROOM_HOME=str(home))
        command = [sys.executable, "-m", "strongroom.deploy.cli", "user"]
        added = strongroom("user", "add", "ann", "--admin", "--json", environ=environ)
        assert (added.json["administrator"], added.json["first"]) == (True, True)
        with AtTerminal([*command, "setup", "ann", "--password"], environ, ROOT) as person:
            person.sees("Code: ")
            person.types(added.json["code"])
            person.sees("Password: ")
            person.types(PASSWORD)
            person.sees("once more: ")
            processes = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
            person.types(PASSWORD)
            assert person.ends() == 0
            assert PASSWORD not in person.screen
            assert added.json["code"] not in person.screen
        assert not any(b"canary-5f1d" in each or added.json["code"].encode() in each for each in processes)
        with AtTerminal([*command, "add", "bob", "--password"], environ, ROOT) as person:
            person.sees("Password: ")
            person.types(PASSWORD)
            person.sees("once more: ")
            person.types("something else")
            assert person.ends() == 1
        told = strongroom("user", "add", "carl", "--admin", "--key", public, environ=environ)
        assert "first administrator" not in told.err
        assert strongroom("user", "rm", "ann", "--yes", environ=environ).code == 0
        last = strongroom("user", "rm", "carl", "--yes", environ=environ)
        assert (last.code, "last administrator" in last.err) == (5, True)
        ended = running.end()
    kept = [path.read_bytes() for path in home.rglob("*") if path.is_file()]
    for secret in (PASSWORD, added.json["code"]):
        assert not [each for each in kept if secret.encode() in each]
        assert secret not in ended.out + ended.err


def test_what_the_first_administrator_is_told(home: Path) -> None:
    """People are told that this one may do everything, until when to set it up, and how to go on."""
    with up(home):
        told = strongroom("--home", home, "user", "add", "ann", "--admin")

    assert "user:ann is the first administrator, and may do everything once it is set up" in told.err
    assert f"strongroom --home {home} user add NAME" in told.err
    assert "This is the only time that the code is shown" in told.err

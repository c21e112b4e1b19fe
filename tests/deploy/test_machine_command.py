"""``strongroom machine``: what people see, what is left behind, and that whatever is malformed is one line."""

import asyncio
import ctypes
import json
import os
import pty
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from strongroom.deploy.cli.machine.here import OFFLINE
from strongroom.models.names import KEYRING_DOCUMENT, MACHINES
from strongroom.storage_service.backends import open_backend
from strongroom.storage_service.backends.base import Backend, Delete, Put
from strongroom.storage_service.keyring.ceremonies import rotation
from strongroom.storage_service.keyring.ceremonies.recipients import Recipients
from strongroom.storage_service.keyring.machines import key as machine_key
from strongroom.storage_service.keyring.opening.unattended import KeyFile
from tests.audit_lines import audit_lines
from tests.deploy.running import ROOT, Done, clean_environment, spawn, strongroom, up
from tests.etcd_server import free_port
from tests.forking import in_child

PR_GET_DUMPABLE = 3
TAMPERED = "strongroom: capability flag failed authentication — tampered or wrong DEK\n"


@pytest.fixture(params=["in the store", "in a file"])
def documents(request: pytest.FixtureRequest, short: Path) -> tuple[object, ...]:
    """What `config init` is told of where documents are to lie; machines share a store on this disk."""
    return ("--documents", short / "machines.json") if request.param == "in a file" else ()


class Machine:
    """One machine: a home of its own, on a store that it shares with others."""

    def __init__(self, home: Path, *documents: object) -> None:
        self.home = home
        self.made = strongroom("--home", home, "machine", "config", "init", *documents, "--json")
        with (home / "strongroom.toml").open("a") as settings:
            settings.write(f'store = "sqlite:{home.parent}/store.db"\n')

    def __call__(self, *arguments: object, **options: Any) -> Done:
        """Run ``strongroom machine`` here."""
        return strongroom("--home", self.home, "machine", *arguments, **options)

    @property
    def fingerprint(self) -> str:
        return str(self.made.json["fingerprint"])

    @property
    def public(self) -> Path:
        return self.home / "machine.pub"

    @property
    def audit(self) -> list[dict[str, Any]]:
        """What its commands recorded while no service ran."""
        return audit_lines(self.home / "log/audit-offline.log")

    @property
    def served_audit(self) -> list[dict[str, Any]]:
        """What its service recorded of them."""
        lines = audit_lines(self.home / "log/audit.log")
        return [line for line in lines if line["name"].startswith(MACHINES)]


@pytest.fixture
def a(short: Path, documents: tuple[object, ...]) -> Machine:
    """The first machine, before `init`."""
    return Machine(short / "a", *documents)


@pytest.fixture
def b(short: Path, documents: tuple[object, ...]) -> Machine:
    """The second machine."""
    return Machine(short / "b", *documents)


def on_store(directory: Path, act: Callable[[Backend], Any]) -> Any:
    """Do something to the store that machines in *directory* share, past all commands."""

    async def acted() -> Any:
        store = open_backend(f"sqlite:{directory}/store.db")
        await store.open()
        try:
            return await act(store)
        finally:
            await store.close()

    return asyncio.run(acted())


def rewrite(directory: Path, fingerprint: str, change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """Change a machine's document where it lies, and return what it was; *change* returns what is to be there."""
    file = directory / "machines.json"
    if file.exists():
        rows = json.loads(file.read_text())
        [place] = [number for number, row in enumerate(rows) if row["_id"] == fingerprint]
        held: dict[str, Any] = rows[place]
        file.write_text(json.dumps([*rows[:place], change(dict(held)), *rows[place + 1 :]]))
        return held

    async def act(store: Backend) -> Any:
        entry = await store.get(MACHINES + fingerprint)
        assert entry is not None
        held = json.loads(entry.value)
        await store.commit([Put(MACHINES + fingerprint, json.dumps(change(dict(held))).encode())])
        return held

    found: dict[str, Any] = on_store(directory, act)
    return found


def flip(document: dict[str, Any]) -> dict[str, Any]:
    """Change one character of every flag."""
    return with_flags(
        document,
        {
            root: flag[:-20] + ("A" if flag[-20] != "A" else "B") + flag[-19:]
            for root, flag in document["meta"]["authorizer"].items()
        },
    )


def with_flags(document: dict[str, Any], flags: dict[str, str]) -> dict[str, Any]:
    return document | {"meta": document["meta"] | {"authorizer": flags}}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class TestConfig:
    """``machine config``."""

    def test_alone_it_shows_its_help(self) -> None:
        """Without a verb, `config` prints what there is, and that is no error."""
        done = strongroom("machine", "config")

        assert (done.code, done.err) == (0, "")
        assert "init  Make this machine's key pair" in done.out

    @pytest.mark.parametrize(("kind", "kty"), [("EC", "EC"), ("RSA", "RSA")])
    def test_a_key_pair_is_made(self, home: Path, kind: str, kty: str) -> None:
        """A private key, 0600, its public half to be carried, and settings; the fingerprint is that of both."""
        done = strongroom("--home", home, "machine", "config", "init", "--type", kind, "--name", "db-1", "--json")

        assert (done.code, done.err) == (0, "")
        key, public = home / "machine.key", home / "machine.pub"
        assert done.json == {
            "fingerprint": machine_key.read_private(key).fingerprint,
            "key": str(key),
            "public_key": str(public),
            "settings": str(home / "strongroom.toml"),
            "add": [],
        }
        members = machine_key.parse_public(public.read_bytes())
        assert (members["kty"], "d" in members) == (kty, False)
        assert machine_key.fingerprint_of(members) == done.json["fingerprint"]
        assert [mode(path) for path in (home, key, home / "strongroom.toml")] == [0o700, 0o600, 0o600]
        assert (
            strongroom("--home", home, "config", "show", "--json").json["sources"]["machine_key"] == "strongroom.toml"
        )

    def test_the_name_is_kept(self, short: Path) -> None:
        """What `config init` was told, `machine init` calls it, unless it is told another name."""
        named, renamed = short / "named", short / "renamed"
        for home in (named, renamed):
            strongroom("--home", home, "machine", "config", "init", "--name", "db-1")

        assert strongroom("--home", named, "machine", "init", "--json").json["name"] == "db-1"
        assert strongroom("--home", renamed, "machine", "init", "--name", "db-2", "--json").json["name"] == "db-2"

    def test_people_are_told_how_to_go_on(self, home: Path) -> None:
        """At a terminal the next step is told, for the first machine and for any other."""
        done = strongroom("--home", home, "machine", "config", "init", "--name", "db-1", terminal=True)

        assert f"the first machine: strongroom --home {home} machine init\n" in done.out.replace("\r", "")
        assert "strongroom machine authorize machine.pub --name db-1" in done.out

    def test_nothing_is_replaced(self, home: Path) -> None:
        """A second `init` is a conflict and leaves key and settings alone; a public key that is gone it writes anew."""
        first = strongroom("--home", home, "machine", "config", "init")
        kept = {path: path.read_bytes() for path in home.iterdir() if path.is_file()}
        (home / "machine.pub").unlink()

        again = strongroom("--home", home, "machine", "config", "init", "--type", "RSA")

        assert (first.code, again.code, again.out) == (0, 5, "")
        assert again.err.startswith(f"strongroom: there is a machine's key at {home}/machine.key already")
        assert {path: path.read_bytes() for path in home.iterdir() if path.is_file()} == kept

    def test_settings_that_are_there_stay(self, home: Path, short: Path) -> None:
        """Where there are settings, the lines to add are told; with them the documents are where they were to be."""
        home.mkdir(mode=0o700)
        (home / "strongroom.toml").write_text("# mine\n")

        done = strongroom(
            "--home", home, "machine", "config", "init", "--documents", short / 'ma"chines.json', "--json"
        )

        assert (home / "strongroom.toml").read_text() == "# mine\n"
        (home / "strongroom.toml").write_text("\n".join(done.json["add"]))
        shown = strongroom("--home", home, "config", "show", "--json").json["settings"]
        assert shown["machine_documents"] == f'{short}/ma"chines.json'

    def test_documents_are_where_the_user_stands(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A relative path on the command line counts from where the user is, and is written in full."""
        home.parent.joinpath("here").mkdir()
        monkeypatch.chdir(home.parent / "here")

        strongroom("--home", home, "machine", "config", "init", "--documents", "machines.json")

        shown = strongroom("--home", home, "config", "show", "--json").json["settings"]
        assert shown["machine_documents"] == str(home.parent / "here/machines.json")

    @pytest.mark.parametrize("case", ["a file in the way", "open to others", "no file can be written", "no key"])
    def test_what_cannot_be_written_is_one_line(self, home: Path, case: str) -> None:
        """A home that is none, or lets nothing be written, is one line that names it; no key is left half."""
        if case == "a file in the way":
            home.write_text("")
        else:
            home.mkdir(mode=0o700)
        if case == "open to others":
            home.chmod(0o755)
        if case == "no file can be written":
            (home / "machine.pub").mkdir()
        if case == "no key":
            (home / "machine.key").write_text("rubbish")
            (home / "machine.key").chmod(0o600)

        done = strongroom("--home", home, "machine", "config", "init")

        assert (done.code, done.out) == (2, "")
        assert done.err.startswith("strongroom: ")
        assert done.err.count("\n") == 1
        assert str(home) in done.err

    @pytest.mark.parametrize("name", ["", "-x", "0" * 16, "a b"])
    def test_names_that_are_none(self, home: Path, name: str) -> None:
        """A name that is none is a mistake in the command line, told before anything is made."""
        done = strongroom("--home", home, "machine", "config", "init", f"--name={name or ' '}")

        assert done.code == 1
        assert done.err.startswith("strongroom: --name: a machine's name is 1 to 64 of")
        assert not home.exists()


class TestTranscripts:
    """What the seeds promise, as it is typed."""

    def test_the_first_machine(self, a: Machine, b: Machine) -> None:
        """After `init`, `list` shows the machine with authority; a second `init` is refused, on any machine."""
        done = a("init", "--name", "alpha", "--json")
        assert (done.code, done.err) == (0, "")
        assert done.json == {"fingerprint": a.fingerprint, "name": "alpha", "authorizer": True}

        [row] = a("list", "--json").json["machines"]
        assert (row["fingerprint"], row["name"], row["authorizer"]) == (a.fingerprint, "alpha", "Yes")
        [line] = [line for line in a("list", terminal=True).out.splitlines() if a.fingerprint[:16] in line]
        assert line.split()[:3] == [a.fingerprint[:16], "alpha", "Yes"]

        for machine in (a, b):
            again = machine("init")
            listed = f"to see existing keys: strongroom --home {machine.home} machine list"
            assert again == Done(5, "", f"strongroom: already initialized; {listed}\n")

    def test_a_server_authorizes_nobody(self, a: Machine, b: Machine) -> None:
        """A machine that is authorized without --authorizer opens the keyring, and its `authorize` is refused."""
        a("init", "--name", "alpha")
        assert b("verify").code == 6

        assert a("authorize", b.public, "--name", "beta", "--json").json["authorizer"] is False

        said = b("verify", "--json").json
        assert (said["fingerprint"], said["name"], said["authorizer"]) == (b.fingerprint, "beta", False)
        assert said["root"] == a("verify", "--json").json["root"]
        refused = b("authorize", a.public, "--name", "gamma")
        assert refused == Done(6, "", "strongroom: this machine is not an authorizer\n")
        assert [(line["principal"], line["action"], line["decision"]) for line in b.audit][-1] == (
            "machine:beta",
            "put",
            "denied",
        )

    def test_a_tampered_flag(self, a: Machine, b: Machine) -> None:
        """A command that has to read a flipped flag says so; the list shows a question mark, and the others."""
        a("init", "--name", "alpha")
        a("authorize", b.public, "--name", "beta", "--authorizer")
        rewrite(a.home.parent, a.fingerprint, flip)

        assert a("authorize", b.public, "--name", "gamma") == Done(2, "", TAMPERED)
        assert a("verify") == Done(2, "", TAMPERED)
        rows = {row["name"]: row["authorizer"] for row in a("list", "--json").json["machines"]}
        assert rows == {"alpha": "?", "beta": "Yes"}

    def test_revoking(self, a: Machine, b: Machine) -> None:
        """By an empty prefix, an ambiguous one and a sole one; the warning tells what revoking is not."""
        a("init", "--name", "alpha")
        a("authorize", b.public, "--name", "beta")
        twin = b.fingerprint[:20] + "0" * 44
        document = rewrite(a.home.parent, b.fingerprint, dict)
        self.plant(a.home.parent, document | {"_id": twin, "name": "twin"})

        assert a("revoke", "") == Done(2, "", "strongroom: fingerprint prefix must not be empty\n")
        assert a("revoke", b.fingerprint[:20]).err == (
            f"strongroom: fingerprint prefix '{b.fingerprint[:20]}' is ambiguous; matches: {twin[:16]}, {twin[:16]}\n"
        )
        assert a("revoke", "nobody").code == 4
        done = a("revoke", b.fingerprint[:24], "--json")

        assert (done.code, done.json) == (0, {"fingerprint": b.fingerprint, "name": "beta", "revoked": True})
        assert done.err.startswith("This is bookkeeping, not rotation:")
        assert done.err.endswith(f"Next: strongroom --home {a.home} key rotate root\n")
        refused = b("verify")
        assert (refused.code, refused.out) == (6, "")
        assert refused.err.startswith(
            "strongroom: this machine is not authorized: carry its public key to an authorizer"
        )
        assert a("verify").code == 0

    @staticmethod
    def plant(directory: Path, document: dict[str, Any]) -> None:
        """Put one more document where documents lie."""
        file = directory / "machines.json"
        if file.exists():
            file.write_text(json.dumps([*json.loads(file.read_text()), document]))
            return

        async def act(store: Backend) -> None:
            await store.commit([Put(MACHINES + document["_id"], json.dumps(document).encode())])

        on_store(directory, act)

    def test_the_last_way_in_stays(self, a: Machine) -> None:
        """What alone opens the keyring is removed by force only."""
        a("init", "--name", "alpha")

        refused = a("revoke", "alpha")
        assert (refused.code, refused.out) == (5, "")
        assert refused.err.startswith("strongroom: that machine's key is the last way into the keyring:")
        assert a("revoke", "alpha", "--force", "--json").json["revoked"] is True
        assert a("list", "--json").json["machines"] == []

    def test_unexpected_authorizers(self, a: Machine, b: Machine, short: Path) -> None:
        """A flag that was copied, and an authorizer that nobody expects, are named, and the exit code is 2."""
        c = Machine(short / "c", *self.documents_of(a))
        a("init", "--name", "alpha")
        a("authorize", b.public, "--name", "beta")
        a("authorize", c.public, "--name", "gamma", "--authorizer")
        expected = short / "expected"
        expected.write_text(f"# who may authorize\n{a.fingerprint[:16]}  # alpha\n\ngamma\n")

        assert a("list", "--expected", expected).code == 0
        expected.write_text(a.fingerprint)
        flags = rewrite(short, a.fingerprint, dict)["meta"]["authorizer"]
        rewrite(short, b.fingerprint, lambda document: with_flags(document, flags))
        done = a("list", "--expected", expected, "--json")

        assert done.code == 2
        assert done.err.splitlines() == [
            f"strongroom: unexpected authorizer: beta ({b.fingerprint[:16]}), whose flag is unreadable",
            f"strongroom: unexpected authorizer: gamma ({c.fingerprint[:16]})",
        ]
        assert done.json["unexpected"] == [b.fingerprint, c.fingerprint]

    @staticmethod
    def documents_of(machine: Machine) -> tuple[object, ...]:
        file = strongroom("--home", machine.home, "config", "show", "--json").json["settings"]["machine_documents"]
        return () if file is None else ("--documents", file)

    def test_acts_are_recorded(self, a: Machine, b: Machine) -> None:
        """Each act has a line: who, what, on which name."""
        a("init", "--name", "alpha")
        a("authorize", b.public, "--name", "beta")
        a("list")
        a("revoke", "beta")
        b("list")

        assert [(line["principal"], line["action"], line["name"]) for line in a.audit] == [
            ("machine:alpha", "put", MACHINES + a.fingerprint),
            ("machine:alpha", "put", MACHINES + b.fingerprint),
            ("machine:alpha", "list", MACHINES),
            ("machine:alpha", "delete", MACHINES + b.fingerprint),
        ]
        assert [line["principal"] for line in b.audit] == [f"machine:{b.fingerprint[:16]}"]
        assert {line["peer"]["uid"] for line in a.audit} == {os.geteuid()}
        assert {line["reason"] for line in a.audit} == {OFFLINE}
        assert not (a.home / "log/audit.log").exists()

    def test_a_service_that_runs_records_them(self, a: Machine, b: Machine) -> None:
        """Each act is a line of the service's own log, for the machine; commands write no log beside it."""
        a("init", "--name", "alpha")
        a("authorize", b.public, "--name", "beta")
        with up(b.home):
            refused = b("authorize", a.public, "--name", "gamma")
            verified = b("verify")

        assert (refused.code, verified.code) == (6, 0)
        own = f"service:{os.geteuid()}"
        assert [(line["principal"], line["for"], line["action"], line["decision"]) for line in b.served_audit] == [
            (own, "machine:beta", "put", "denied"),
            (own, "machine:beta", "get", "allowed"),
        ]
        assert {line["peer"]["uid"] for line in b.served_audit} == {os.geteuid()}
        assert not (b.home / "log/audit-offline.log").exists()

    def test_what_a_service_cannot_record_is_not_done(self, a: Machine, b: Machine) -> None:
        """A service that runs and cannot write its log keeps the command from acting, and from a log of its own."""
        a("init", "--name", "alpha")
        before = a("list", "--json").json["machines"]
        (a.home / "log/audit-offline.log").unlink()
        with up(a.home):
            (a.home / "log/audit.log").unlink(missing_ok=True)
            (a.home / "log/audit.log").mkdir()
            refused = a("authorize", b.public, "--name", "beta")
            (a.home / "log/audit.log").rmdir()

        assert (refused.code, refused.out) == (2, "")
        assert refused.err == "strongroom: the audit log cannot be written, so nothing was done: Is a directory\n"
        assert not (a.home / "log/audit-offline.log").exists()
        assert a("list", "--json").json["machines"] == before

    def test_what_cannot_be_recorded_is_not_done(self, a: Machine) -> None:
        """Without an audit log there is no first machine either."""
        (a.home / "log/audit-offline.log").mkdir()

        done = a("init")

        assert (done.code, done.out) == (2, "")
        assert done.err.startswith("strongroom: the audit log cannot be opened")
        (a.home / "log/audit-offline.log").rmdir()
        assert a("list", "--json").json["machines"] == []


class TestOtherWaysIn:
    """``machine init`` on a store whose keyring others open."""

    @pytest.fixture
    def a(self, short: Path) -> Machine:
        """A machine."""
        return Machine(short / "a")

    @staticmethod
    def made(machine: Machine, to: Recipients) -> list[str]:
        """Give the store a keyring, and return what people got."""

        async def act(store: Backend) -> Any:
            return await rotation.initialize(store, to, KeyFile(machine.home / "secrets.key"))

        return [secret.reveal() for secret in on_store(machine.home.parent, act).secrets]

    def test_by_the_key_file(self, a: Machine) -> None:
        """The root key file lets the first machine in, and nobody is asked."""
        self.made(a, Recipients("file"))

        assert a("init").code == 0
        assert a("verify", "--json").json["authorizer"] is True

    @pytest.mark.parametrize("by", ["standard input", "a file", "shares"])
    def test_by_people(self, a: Machine, by: str) -> None:
        """An unlock key, or enough shares, let it in: from standard input, or from a file."""
        if by == "shares":
            typed = "\n".join(self.made(a, Recipients("shares", 3, 2))[1:])
        else:
            typed = self.made(a, Recipients("unlock", 3))[2]
        file = a.home / "typed"
        file.write_text(typed)

        done = a("init", "--unlock-file", file) if by == "a file" else a("init", stdin=typed.encode())

        assert (done.code, done.err) == (0, "")
        assert a("verify", "--json").json["authorizer"] is True

    def test_what_does_not_open(self, a: Machine, short: Path) -> None:
        """A wrong key, a mistyped one, none at all, and a key file that is gone: one line each, and no machine."""
        keys = self.made(a, Recipients("unlock", 1))
        other = Machine(short / "elsewhere" / "x")
        (foreign,) = self.made(other, Recipients("unlock", 1))

        for stdin, code, text in (
            (foreign, 6, "strongroom: no key that was given opens the keyring\n"),
            (keys[0][:-1], 2, "strongroom: key 1 has"),
            ("", 2, "strongroom: nothing was given\n"),
        ):
            done = a("init", stdin=stdin.encode())
            assert (done.code, done.out) == (code, "")
            assert done.err.startswith(text)
            assert keys[0][-8:] not in done.err
        assert a("list", "--json").json["machines"] == []

    def test_without_the_key_file(self, a: Machine) -> None:
        """Where only a root key file opens, and it is gone, it is asked for by its name."""
        self.made(a, Recipients("file"))
        (a.home / "secrets.key").unlink()

        done = a("init")
        assert (done.code, done.out) == (2, "")
        assert f"there is no root key file at {a.home}/secrets.key" in done.err

    def test_where_machines_alone_open(self, a: Machine) -> None:
        """A keyring whose machines were all revoked by force opens to nobody, and that is said."""
        a("init", "--name", "alpha")
        a("revoke", "alpha", "--force")

        done = a("init")
        assert done == Done(
            6, "", "strongroom: the keyring is opened by machines alone, and this machine is not one of them\n"
        )


def truncated(document: dict[str, Any]) -> Any:
    return {"_id": document["_id"]}


MALFORMED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a date that is none": lambda document: document | {"meta": document["meta"] | {"created_at": "yesterday"}},
    "a date beyond all": lambda document: document | {"meta": document["meta"] | {"created_at": 10**30}},
    "no meta": lambda document: {name: document[name] for name in document if name != "meta"},
    "no keys": lambda document: {name: document[name] for name in document if name != "keys"},
    "a flag that is no text": lambda document: document | {"meta": document["meta"] | {"authorizer": {"x": 1}}},
    "an id alone": truncated,
    "a list": lambda document: [document["_id"]],
    "null": lambda _: None,
    "a later format": lambda document: document | {"format": 99},
    "a name with escapes": lambda document: document | {"name": "\x1b[2Jx"},
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_documents_are_lines(a: Machine, b: Machine, case: str) -> None:
    """However a document is malformed, each command ends with at most one line, and the list goes on."""
    a("init", "--name", "alpha")
    a("authorize", b.public, "--name", "beta")
    rewrite(a.home.parent, b.fingerprint, MALFORMED[case])

    for done in (b("verify"), b("authorize", a.public, "--name", "x"), b("list"), a("list"), a("list", terminal=True)):
        assert "Traceback" not in done.err
        assert "unexpected" not in done.err
        assert done.err.count("\n") <= 1
        assert done.err.startswith("strongroom: ") or not done.err
        assert "\x1b[2J" not in done.out
    [row] = [row for row in a("list", "--json").json["machines"] if row["name"] == "alpha"]
    assert row["authorizer"] == "Yes"
    assert len(a("list", "--json").json["machines"]) == 2


@pytest.mark.parametrize("text", ["", "{", "{}", "[1,]", '[{"_id":1}]x'])
def test_a_file_of_documents_that_is_none(short: Path, text: str) -> None:
    """A JSON file that is damaged as a whole is one line, and stays as it is."""
    a = Machine(short / "a", "--documents", short / "machines.json")
    (short / "machines.json").write_text(text)

    for arguments in (("init",), ("list",), ("verify",), ("revoke", "x")):
        done = a(*arguments)
        assert (done.code, done.out) == (2, "")
        assert "is not a JSON list of machines' documents" in done.err or "no keyring" in done.err
        assert done.err.count("\n") == 1
    assert (short / "machines.json").read_text() == text


def damage(directory: Path) -> None:
    """Change the end of the keyring in the store."""

    async def act(store: Backend) -> None:
        entry = await store.get(KEYRING_DOCUMENT)
        assert entry is not None
        await store.commit([Put(KEYRING_DOCUMENT, entry.value[:-9] + b"AAAAAAAAA")])

    on_store(directory, act)


def drop(directory: Path) -> None:
    """Remove the keyring from the store."""

    async def act(store: Backend) -> None:
        await store.commit([Delete(KEYRING_DOCUMENT)])

    on_store(directory, act)


@pytest.mark.parametrize(
    ("change", "code", "text"), [(damage, 2, "does not open"), (drop, 3, "there is no keyring; make one")]
)
def test_a_keyring_that_does_not_open(a: Machine, change: Callable[[Path], None], code: int, text: str) -> None:
    """A keyring that is damaged or gone is one line; the machines are listed all the same."""
    a("init", "--name", "alpha")
    change(a.home.parent)

    done = a("verify")
    assert (done.code, done.out) == (code, "")
    assert text in done.err
    assert [row["authorizer"] for row in a("list", "--json").json["machines"]] == ["?"]


def test_the_store_is_away(short: Path) -> None:
    """With etcd gone, no command takes that for a store that nobody has initialized."""
    a = Machine(short / "a")
    settings = a.home / "strongroom.toml"
    settings.write_text(f'store = "etcd://127.0.0.1:{free_port()}/x?timeout=0.5"\n')

    for arguments in (("list",), ("init",), ("verify",), ("revoke", "x")):
        done = a(*arguments)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith("strongroom: the store does not answer: ")
        assert "initialized" not in done.err


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ('store = "memory"\n', "the store is in memory, where no other process finds it"),
        ('machine_key = "other.key"\n', "other.key; make one: strongroom --home"),
        ("stroe = 1\n", "there is no 'stroe' here"),
    ],
)
def test_settings_that_do_not_do(short: Path, settings: str, text: str) -> None:
    """Settings under which no command can work are told in one line."""
    a = Machine(short / "a")
    (a.home / "strongroom.toml").write_text(settings)

    done = a("list")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert text in done.err


def test_a_home_that_is_not_there_is_not_made(home: Path) -> None:
    """A mistyped home is told, and no directory is made for it."""
    done = strongroom("--home", home, "machine", "list")

    typed = f"strongroom --home {home} machine config init"
    assert done == Done(2, "", f"strongroom: there is no home at {home}; make it: {typed}\n")
    assert not home.exists()


def test_what_is_no_public_key(a: Machine, b: Machine) -> None:
    """A file that is gone, no key, or a private key: one line, in which nothing of it stands."""
    a("init", "--name", "alpha")
    private = json.loads((b.home / "machine.key").read_text())

    for path, code, text in (
        (b.home / "none", 1, "No such file or directory"),
        (b.home / "strongroom.toml", 2, "that is not a machine's public key"),
        (b.home / "machine.key", 2, "it is a private key, which no machine may give away"),
    ):
        done = a("authorize", path, "--name", "beta")
        assert (done.code, done.out, done.err.count("\n")) == (code, "", 1)
        assert done.err.startswith("strongroom: ")
        assert text in done.err
        assert private["d"] not in done.err


def test_writers_at_one_moment(a: Machine, documents: tuple[object, ...], short: Path) -> None:
    """Of commands that run at one moment each is done or told that it was not; documents are whole, nothing is left."""
    a("init", "--name", "alpha")
    others = [Machine(short / f"m{number}", *documents) for number in range(4)]
    processes = [
        spawn("--home", a.home, "machine", "authorize", other.public, "--name", f"m{number}")
        for number, other in enumerate(others)
    ]
    ended = [(process.communicate(timeout=60), process.returncode) for process in processes]

    done = {f"m{number}" for number, (_, code) in enumerate(ended) if code == 0}
    assert done
    assert {code for _, code in ended} <= {0, 5}
    rows = a("list", "--json").json["machines"]
    assert {row["name"] for row in rows} == {"alpha", *done}
    assert {row["why"] for row in rows} == {""}
    assert [path.name for path in short.iterdir() if path.name.startswith(".")] == []
    for number, other in enumerate(others):
        assert other("verify").code == (0 if f"m{number}" in done else 6)


@pytest.mark.parametrize(("typed", "code"), [("y", 0), ("n", 130)])
def test_a_terminal_is_asked(short: Path, typed: str, code: int) -> None:
    """At a terminal `revoke` asks, naming the machine; who says no has revoked nobody."""
    a, b = Machine(short / "a"), Machine(short / "b")
    a("init", "--name", "alpha")
    a("authorize", b.public, "--name", "beta")
    ours, theirs = pty.openpty()
    os.write(ours, f"{typed}\n".encode())

    done = subprocess.run(
        [sys.executable, "-m", "strongroom.deploy.cli", "--home", str(a.home), "machine", "revoke", "beta"],
        stdin=theirs,
        capture_output=True,
        text=True,
        env=clean_environment(),
        cwd=ROOT,
        check=False,
    )
    os.close(ours)
    os.close(theirs)

    assert done.returncode == code
    assert f"Revoke beta ({b.fingerprint[:16]})?" in done.stderr
    assert len(a("list", "--json").json["machines"]) == (1 if code == 0 else 2)


def test_the_process_is_closed_to_others(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that opens the root key is closed to debuggers and core dumps, as the service is."""
    a = Machine(short / "a")
    monkeypatch.undo()

    def act() -> list[int]:
        return [a("init").code, ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0)]

    assert in_child(act) == [0, 0]


def secrets_of(machine: Machine) -> Iterator[str]:
    yield json.loads((machine.home / "machine.key").read_text())["d"]


def test_no_key_is_shown(a: Machine, b: Machine) -> None:
    """No command prints or records a private key."""
    said = [a.made, a("init", "--name", "alpha"), a("authorize", b.public, "--name", "beta"), a("list"), b("verify")]
    said += [b("authorize", a.public, "--name", "x"), a("revoke", "beta")]

    shown = "".join(done.out + done.err for done in said) + json.dumps([a.audit, b.audit])
    for secret in (*secrets_of(a), *secrets_of(b)):
        assert secret not in shown


def test_a_directory_of_settings_stays_one(home: Path) -> None:
    """One that others read gets a key pair and no folders of a home; one that others write is refused."""
    home.mkdir()
    (home / "strongroom.toml").touch()
    home.chmod(0o777)
    refused = strongroom("--home", home, "machine", "config", "init")
    assert (refused.code, list(home.glob("machine.*"))) == (2, []), refused

    home.chmod(0o755)
    assert strongroom("--home", home, "machine", "config", "init").code == 0
    assert {each.name for each in home.iterdir()} >= {"machine.key", "machine.pub", "strongroom.toml"}
    assert not {"run", "data", "log"} & {each.name for each in home.iterdir()}

"""``strongroom key`` as people and programs meet it: transcripts, at a terminal and away from one."""

import asyncio
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from strongroom.storage_service.backends import open_backend
from strongroom.storage_service.backends.base import Put
from strongroom.storage_service.client import StorageClient
from tests.deploy.running import PATIENCE, ROOT, Done, Up, clean_environment, spawn, strongroom, up
from tests.deploy.terminal import Terminal

Run = Callable[..., Done]
SR1 = re.compile(r"SR1(?:-[0-9A-Z]{1,5}){12}")


@pytest.fixture
def home() -> Iterator[Path]:
    """A home that does not exist yet; its path is short, for the socket in it."""
    path = Path(tempfile.mkdtemp(prefix="sr"))
    yield path / "home"
    shutil.rmtree(path)


@pytest.fixture
def running(home: Path) -> Iterator[Up]:
    """A service that nobody has made keys for yet."""
    with up(home, environ=clean_environment(STRONGROOM_AUTOGEN_ROOT_KEY="false")) as running:
        yield running


@pytest.fixture
def run(running: Up) -> Run:
    """``strongroom key`` on that service."""

    def run(*arguments: object, stdin: str = "", terminal: bool = False) -> Done:
        return strongroom("--home", running.home, "key", *arguments, stdin=stdin.encode(), terminal=terminal)

    return run


@pytest.fixture
def keys(run: Run) -> list[str]:
    """Two unlock keys; the service is unlocked with one of them."""
    made = run("init", "--keys", "2", "--json")
    assert made.code == 0
    keys: list[str] = made.json["keys"]
    assert run("unlock", "--json", stdin=keys[0]).json == {"state": "unlocked"}
    return keys


@pytest.fixture
def client(running: Up, keys: list[str]) -> Iterator[StorageClient]:
    """A client of it, and five secrets in one container."""
    with StorageClient.from_home(running.home) as client:
        client.create_container("db")
        for name in "abcde":
            client.set_secret("db", name, f"value of {name}")
        yield client


def damage(home: Path, name: str) -> None:
    """Let a stored secret open no more."""

    async def change() -> None:
        store = open_backend(f"sqlite:{home}/data/strongroom.db")
        await store.open()
        entry = await store.get(f"secrets/{name}")
        assert entry is not None
        await store.commit([Put(f"secrets/{name}", entry.value[:-4] + b"AAAA", entry.revision)])
        await store.close()

    asyncio.run(change())


class TestAtATerminal:
    """Where somebody can be asked."""

    def test_first_keys_are_shown_with_a_warning(self, running: Up, run: Run) -> None:
        """A line each on standard output, what to do with them on the other, and the state."""
        made = run("init", "--keys", "3", terminal=True)

        lines = made.out.splitlines()
        assert [line[:4] for line in lines[:3]] == [" 1  ", " 2  ", " 3  "]
        assert len(SR1.findall(made.out)) == 3
        assert lines[3] == "the service is locked"
        assert made.err.startswith("Any one of these keys opens every secret. This is the only time")

    def test_shares_are_asked_for_until_they_are_enough(self, running: Up, run: Run) -> None:
        """One line after the other and without echo; a slip is told at once, and asked for again."""
        one, two, _ = run("init", "--shares", "2/3", "--json").json["keys"]
        with Terminal(running.home, "unlock") as screen:
            screen.sees("Unlock key or share: ")
            screen.types(one)
            screen.sees("1 more share is needed (1 of 2 given)\nShare 2: ")
            screen.types(two.replace(" ", " x", 1))
            screen.sees("share 2: word 2 is not in the word list; once more\nShare 2: ")
            screen.types(two)
            screen.sees("the service is unlocked")

            assert screen.ends() == 0
            assert not any(word in screen.screen for word in two.split()[4:])

    def test_new_keys_are_typed_back(self, running: Up, run: Run, client: StorageClient) -> None:
        """The root key is rotated when each new key was typed back; before that, and with a slip, nothing changes."""
        before = client.keyring().root
        with Terminal(running.home, "rotate", "root") as screen:
            screen.sees("Type them back")
            screen.sees("New key 1 of 2: ")
            new = SR1.findall(screen.screen)
            assert len(new) == 2
            screen.types(new[0][:-1])
            screen.sees("key 1 has 57 characters after SR1, not 58; once more\nNew key 1 of 2: ")
            assert client.keyring().root == before
            screen.types(new[0])
            screen.sees("New key 2 of 2: ")
            screen.types(new[1])
            screen.sees("what opened the one before opens nothing")

            assert screen.ends() == 0
            assert len(SR1.findall(screen.screen)) == 2
        assert client.keyring().root != before
        assert client.get_secret("db", "a").reveal() == "value of a"

    def test_who_gives_up_changes_nothing(self, running: Up, run: Run, client: StorageClient, keys: list[str]) -> None:
        """Ctrl-C leaves the old keys as they were, and says how to go on, or not to."""
        with Terminal(running.home, "rotate", "root", "--keys", "1") as screen:
            screen.sees("New key 1 of 1: ")
            screen.interrupts()
            screen.sees(f"Nothing has changed. To go on: strongroom --home {running.home} key rotate root --confirm ")
            assert screen.ends() == 130

        pending = client.keyring().pending[0]
        assert run("rotate", "root", "--abandon", pending.root, "--json").json == {
            "root": pending.root,
            "abandoned": True,
        }
        client.lock()
        assert run("unlock", stdin=keys[1]).code == 0

    def test_status_is_a_page(self, run: Run, running: Up, client: StorageClient) -> None:
        """State, who can open it, generations and what is under way, with the command that goes on with it."""
        run("rotate", "keyset", "default")
        goes_on = f"strongroom --home {running.home} key reencrypt default"
        page, piped = run("status", terminal=True).out, run("status").out

        for piece in ("rotating", "unlock", "default.2", "to re-encrypt default, 5 records:", goes_on):
            assert piece in page
        assert f"to re-encrypt default, 5 records: {goes_on}\n" in piped


@pytest.mark.parametrize(("made", "says"), [(False, "for it has no keys yet"), (True, "for it is locked")])
def test_up_says_what_keeps_secrets_away(home: Path, made: bool, says: str) -> None:
    """A service without keys, or locked, is up and ready for all but secrets, and says which command mends that."""
    waiting = clean_environment(STRONGROOM_AUTOGEN_ROOT_KEY="false")
    if made:
        with up(home, environ=waiting):
            assert strongroom("--home", home, "key", "init", "--mode", "unlock").code == 0
    process = spawn("up", "--home", home, "--listen", "127.0.0.1:0", environ=waiting)
    assert process.stdout is not None
    first = process.stdout.readline()
    process.terminate()
    process.communicate(timeout=PATIENCE)

    assert first.startswith("Ready at http://127.0.0.1:")
    assert f"without secrets, {says}: strongroom --home {home} key {'unlock' if made else 'init'}\n" in first


class TestTheRootKey:
    """Away from a terminal: two calls, one that prints, one that confirms."""

    def test_two_calls_rotate_it(self, run: Run, client: StorageClient, keys: list[str], tmp_path: Path) -> None:
        """The first prints keys that open nothing yet, the second takes them; then the old ones open nothing."""
        made = run("rotate", "root", "--shares", "2/3", "--json")
        (step,) = made.json["next"]
        assert (step["verb"], step["options"]) == ("key rotate root", {"confirm": made.json["root"]})
        assert f"key rotate root --confirm {made.json['root']}\n" in made.err
        assert "Nothing has changed yet" in made.err

        wrong = run("rotate", "root", "--confirm", made.json["root"], stdin=keys[0])
        assert (wrong.code, client.keyring().root == made.json["root"]) == (2, False)
        (tmp_path / "shares").write_text("\n".join(made.json["keys"][:2]))
        done = run("rotate", "root", "--confirm", made.json["root"], "--confirm-file", tmp_path / "shares", "--json")
        assert done.json == {"root": made.json["root"], "confirmed": True}

        client.lock()
        assert run("unlock", stdin=keys[0]).code == 6
        while (again := run("unlock", stdin="\n".join(made.json["keys"]))).code == 2:
            assert "seconds" in again.err
        assert client.get_secret("db", "a").reveal() == "value of a"

    def test_a_key_file_needs_nobody(self, running: Up, run: Run, client: StorageClient) -> None:
        """To be opened by a file from now on takes one call; the next start is unlocked."""
        done = run("rotate", "root", "--mode", "file", "--json").json

        assert done["confirmed"] is True
        assert stat.S_IMODE((running.home / "secrets.key").stat().st_mode) == 0o600
        assert [each.kind for each in client.keyring().recipients] == ["file"]
        assert run("lock").code == 0
        assert run("unlock", "--json").json == {"state": "unlocked"}
        assert run("rotate", "root", "--keep-file", "--json").json["confirmed"] is True
        assert sorted(path.name for path in running.home.glob("secrets.key*")) == ["secrets.key"]


class TestKeysets:
    """New generations, and the end of old ones."""

    def test_as_one(self, run: Run, client: StorageClient) -> None:
        """Rotated and re-encrypted in one command, the old generation is retired, and every secret is there."""
        done = run("rotate", "keyset", "default", "--reencrypt", "--pace", "1", "--json").json
        assert (done["moved"], done["settled"], done["reverted"]) == (5, True, False)
        assert run("usage", "--json").json["generations"] == {"access.1": 0, "default.1": 0, "default.2": 5}
        assert run("retire", "default.1", "--json").json == {"generation": "default.1", "retired": True}
        assert [client.get_secret("db", name).reveal() for name in "abcde"] == [f"value of {name}" for name in "abcde"]

        active = run("retire", "default.2")
        assert (active.code, active.out) == (5, "")
        assert run("retire", "default.1").code == 4
        assert run("retire", "nonsense").code == 2

    def test_step_by_step(self, run: Run, client: StorageClient) -> None:
        """Rotated, written, re-encrypted later; what is left is told, and reverting goes back."""
        assert run("rotate", "keyset", "default", "--json").json == {"keyset": "default", "active": "default.2"}
        client.set_secret("db", "f", "value of f")
        held = run("retire", "default.1")
        assert held.code == 5
        assert "secrets/db/a" in held.err
        assert run("rotate", "keyset", "default", "--revert", "--json").json["reverting"] is True
        assert run("reencrypt", "default", "--json").json["moved"] == 1
        assert run("usage", "--json").json["generations"]["default.1"] == 6

    def test_what_cannot_be_finished_is_reverted(self, running: Up, run: Run, client: StorageClient) -> None:
        """A damaged record lets the whole of it go back to where it was, and says which one."""
        damage(running.home, "db/c")

        done = run("rotate", "keyset", "default", "--reencrypt", "--pace", "1", "--json")
        assert (done.code, done.json["reverted"], done.json["settled"]) == (2, True, True)
        assert "secrets/db/c" in done.err
        assert run("usage", "--json").json["generations"] == {"access.1": 0, "default.1": 5, "default.2": 0}
        client.set_secret("db", "f", "value of f")

    def test_a_halt_and_its_end(self, running: Up, run: Run, client: StorageClient) -> None:
        """A reversal that fails halts, and says what is left and how to go on; resumed, secrets are written again."""
        run("rotate", "keyset", "default", "--reencrypt")
        damage(running.home, "db/c")
        run("rotate", "keyset", "default", "--revert")

        halted = run("reencrypt", "default")
        assert (halted.code, halted.out) == (2, "")
        assert f"go on with: strongroom --home {running.home} key reencrypt default --resume" in halted.err
        assert "default.2: secrets/db/c" in halted.err
        assert strongroom("--home", running.home, "status", "--json").json["state"] == "fatal"
        refused = strongroom("--home", running.home, "secret", "put", "db/x", stdin=b"x")
        assert refused.code == 2
        assert client.get_secret("db", "a").reveal() == "value of a"

        left = run("reencrypt", "--resume")
        assert left.code == 2
        assert "secrets/db/c" in left.err
        done = run("reencrypt", "default", "--resume", "--leave-unreadable", "--json")
        assert (done.code, done.json["unreadable"]) == (0, ["secrets/db/c"])
        assert strongroom("--home", running.home, "secret", "put", "db/x", stdin=b"x").code == 0

    def test_a_keyset_of_its_own(self, run: Run, client: StorageClient) -> None:
        """A container is assigned to a keyset, its records follow, and the keyset stays as long as it is needed."""
        assert run("keyset", "create", "hosts", "--keys", "3", "--json").json == {"keyset": "hosts", "keys": 3}
        assert run("keyset", "create", "hosts").code == 5
        assert run("keyset", "assign", "db", "hosts", "--json").json == {"container": "db", "keyset": "hosts"}
        assert run("reencrypt", "--json").json["moved"] == 5
        shown = run("keyset", "show", "hosts", "--json").json
        assert (shown["places"], shown["generations"][0]["records"]) == (["secrets/db/"], 5)
        assert [each["name"] for each in run("keyset", "list", "--json").json["keysets"]] == [
            "access",
            "default",
            "hosts",
        ]
        in_use = run("keyset", "remove", "hosts")
        assert (in_use.code, "secrets/db/" in in_use.err) == (5, True)
        assert run("keyset", "remove", "default").code == 5
        assert run("keyset", "show", "none").code == 4

    def test_a_backup_keeps_what_it_needs(self, run: Run, client: StorageClient) -> None:
        """No generation is retired that a registered backup needs, until that is forgotten."""
        assert run("backup", "register", "monday", "--json").json == {"backup": "monday", "registered": True}
        run("rotate", "keyset", "default", "--reencrypt")
        held = run("retire", "default.1")
        assert (held.code, "monday" in held.err) == (5, True)
        assert run("backup", "list", "--json").json["backups"][0]["generations"] == ["access.1", "default.1"]
        assert run("backup", "forget", "monday").code == 0
        assert run("retire", "default.1").code == 0
        assert run("backup", "forget", "monday").code == 4

    def test_a_scan_looks_at_the_records(self, running: Up, run: Run, client: StorageClient) -> None:
        """It counts what opens under which key, names what opens under none, and finds the index right."""
        damage(running.home, "db/c")

        scan = run("usage", "--scan", "--json").json
        assert (scan["by_kid"], scan["missing"], scan["stale"]) == ({"default.1": 4}, 0, 0)
        assert scan["unreadable"] == ["secrets/db/c"]
        assert run("usage", "--scan", "--repair", "--json").json["repaired"] is True


class TestExport:
    """The keyring as a file."""

    def test_a_store_comes_back_elsewhere(self, running: Up, run: Run, client: StorageClient, keys: list[str]) -> None:
        """A copy of the records, the file and one key are enough for another home to read every secret."""
        file = running.home.parent / "keyring.json"
        assert run("export", "--file", file) == Done(0, "", "")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        other = running.home.parent / "other"
        with up(other, environ=clean_environment(STRONGROOM_AUTOGEN_ROOT_KEY="false")):
            pass

        wrong = strongroom("--home", other, "key", "import", file, stdin=b"SR1-1")
        assert wrong.code == 2
        done = strongroom("--home", other, "key", "import", file, "--json", stdin=keys[1].encode())
        assert (done.code, done.err) == (0, "")
        assert done.json["root"] == client.keyring().root

        records = asyncio.run(_copy(running.home, other))
        assert records == 6
        with up(other), StorageClient.from_home(other) as there:
            there.unlock(keys[0])
            assert there.get_secret("db", "e").reveal() == "value of e"


async def _copy(home: Path, other: Path) -> int:
    """Copy all secrets from one store to another, as they are; return how many rows."""
    here, there = (open_backend(f"sqlite:{each}/data/strongroom.db") for each in (home, other))
    await here.open()
    await there.open()
    names = (await here.list("secrets/")).names
    for name, entry in (await here.get_many(names)).items():
        await there.commit([Put(name, entry.value)])
    await here.close()
    await there.close()
    return len(names)


@pytest.mark.parametrize(
    "words",
    [
        ("init", "--mode", "file", "--keys", "3"),
        ("init", "--mode", "unlock", "--shares", "2/3"),
        ("init", "--shares", "3"),
        ("init", "--keys", "0"),
        ("init", "--mode", "machine"),
        ("unlock", "SR1-00000"),
        ("rotate", "root", "--confirm", "root.x", "--keys", "3"),
        ("rotate", "root", "--confirm-file", "x"),
        ("rotate", "keyset", "default", "--revert", "--reencrypt"),
        ("reencrypt", "--leave-unreadable"),
        ("reencrypt", "--pace", "0"),
        ("usage", "--repair"),
        ("rotate", "root", "--confirm", "root.x", "SR1-00000"),
    ],
)
def test_what_contradicts_itself_is_not_asked(words: tuple[str, ...]) -> None:
    """A wrong command line ends with 1 and one line, before any service is asked; no key is ever an argument."""
    done = strongroom("key", *words)

    assert (done.code, done.out) == (1, "")
    assert done.err.count("\n") == 1


def test_an_interrupted_sweep_goes_on(running: Up, run: Run, client: StorageClient) -> None:
    """Ctrl-C in the middle of re-encryption leaves every secret readable, and the next call does the rest."""
    for number in range(400):
        client.set_secret("db", f"n{number}", "x")
    run("rotate", "keyset", "default")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "strongroom.deploy.cli",
            "--home",
            str(running.home),
            "key",
            "reencrypt",
            "--pace",
            "0.01",
        ],
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + PATIENCE
    while client.key_usage().generations["default.2"] == 0:
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 130
    assert err.startswith("strongroom: interrupted: ")
    assert err.endswith(f"; to go on: strongroom --home {running.home} key reencrypt --pace 0.01\n")
    counted = client.key_usage().generations
    assert 0 < counted["default.2"] < 405
    done = run("reencrypt", "--pace", "1", "--json").json
    assert (done["moved"], done["settled"]) == (counted["default.1"], True)
    assert client.get_secret("db", "a").reveal() == "value of a"

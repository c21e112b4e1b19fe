"""``strongroom backup`` and ``restore`` on running services: under load, interrupted, killed, with wrong keys."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from strongroom.storage_service.client import StorageClient
from strongroom.storage_service.errors import Overtaken
from tests.another_user import NOBODY, user
from tests.deploy.running import Done, Up, clean_environment, eventually, finished, spawn, strongroom, up
from tests.etcd_server import Etcd, free_port

CANARY = "canary-in-a-backup"


@pytest.fixture
def there(home: Path) -> Iterator[Up]:
    """A running service with two secrets, a host and an API key."""
    with up(home) as running:
        for number in range(2):
            put(home, f"db/{number}", f"{CANARY}-{number}")
        key = home.parent / "id"
        key.write_text(f"{CANARY}-ssh")
        strongroom("--home", home, "host", "put", "10.0.0.7", "--force", "--ssh-key-file", key, "--remote-user", "root")
        yield running


def put(home: Path, name: str, value: str) -> None:
    """Store a secret."""
    done = strongroom("--home", home, "secret", "put", "--parents", name, stdin=value.encode())
    assert done.code == 0, done


def get(home: Path, name: str) -> str:
    """Return a secret."""
    return strongroom("--home", home, "secret", "get", name).out


def backup(home: Path, file: Path, *more: object) -> Done:
    """Take a backup."""
    return strongroom("--home", home, "backup", file, *more)


def restore(file: Path, home: Path, *more: object, stdin: bytes = b"") -> Done:
    """Restore one."""
    return strongroom("restore", file, "--home", home, *more, stdin=stdin)


def labels(home: Path) -> list[str]:
    """Return the backups that the key index knows."""
    return [each["label"] for each in strongroom("--home", home, "key", "backup", "list", "--json").json["backups"]]


@contextmanager
def writing(running: Up) -> Iterator[list[int]]:
    """Let somebody write numbered secrets without a pause; give the numbers acknowledged so far."""
    acknowledged: list[int] = []
    ended = threading.Event()

    def write() -> None:
        with StorageClient.from_environment({"STRONGROOM_HOME": str(running.home)}) as client:
            client.create_container("load")
            number = 0
            while not ended.is_set():
                client.set_secret("load", f"{number:06}", f"value {number} " + "x" * 2000)
                acknowledged.append(number)
                number += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        eventually(lambda: len(acknowledged) > 30)
        yield acknowledged
    finally:
        ended.set()
        thread.join()


def numbers_in(file: Path) -> list[int]:
    """Return the numbers of the secrets that `writing` wrote."""
    return [int(found) for found in re.findall(r'"name":"secrets/load/(\d+)"', file.read_text())]


def test_there_and_back(there: Up, short: Path) -> None:
    """All that a service keeps is there again in a new home: secrets, hosts, API keys; the key file is in its place."""
    file, new = short / "b", short / "new"
    made = strongroom(
        "--home", there.home, "apikey", "create", "ci", "--path", "/secrets/db", "--action", "get", "--json"
    ).json

    done = backup(there.home, file, "--json")
    assert (done.code, done.err) == (0, "")
    assert (file.stat().st_mode & 0o777, done.json["left_out"]) == (0o600, [])

    back = restore(file, new, "--key-file", there.home / "secrets.key", "--json")
    assert (back.code, back.json["unreadable"]) == (0, [])
    assert back.json["next"] == [{"reason": "start its service", "verb": "up", "options": {"home": str(new)}}]
    assert (new / "secrets.key").read_bytes() == (there.home / "secrets.key").read_bytes()
    with up(new) as running:
        assert [get(new, f"db/{number}") for number in range(2)] == [f"{CANARY}-0", f"{CANARY}-1"]
        assert strongroom("--home", new, "host", "creds", "10.0.0.7").out == f"{CANARY}-ssh"
        environ = clean_environment(STRONGROOM_URL=running.url, STRONGROOM_API_ID="ci", STRONGROOM_API_KEY=made["key"])
        assert strongroom("secret", "get", "db/0", environ=environ).out == f"{CANARY}-0"
        usage = strongroom("--home", new, "key", "usage", "--scan", "--json").json
        assert (usage["missing"], usage["stale"], usage["unreadable"]) == (0, 0, [])


def test_a_home_goes_back_to_what_it_was(there: Up, short: Path) -> None:
    """A keyring that changed since the backup is forgotten by the home that the backup is restored into."""
    file, kept = short / "b", short / "kept"
    backup(there.home, file)
    assert strongroom("--home", there.home, "key", "rotate", "keyset", "default").code == 0
    there.end()
    assert (there.home / "keyring.seen").exists()
    (there.home / "data").rename(kept)

    done = restore(file, there.home)

    assert done.code == 0, done
    with up(there.home):
        assert get(there.home, "db/1") == f"{CANARY}-1"


def test_nothing_secret_is_in_it(there: Up, short: Path) -> None:
    """Neither a value nor a key is in a backup, whatever is searched for."""
    file = short / "b"
    backup(there.home, file)
    text = file.read_bytes()
    root = json.loads((there.home / "secrets.key").read_bytes())["k"]
    api = json.loads((there.home / "client.json").read_bytes())["api_key"]

    assert b"secrets/db/0" in text
    for planted in (b"canary", b"Y2FuYXJ5", b"NhbmFye", b"jYW5hcn", root.encode(), api.encode()):
        assert planted not in text


def test_a_copy_under_load_is_of_one_moment(there: Up, short: Path) -> None:
    """Of secrets written in a row it has all that were acknowledged before, and none without those before it."""
    with writing(there) as acknowledged:
        for turn in range(3):
            file = short / f"b{turn}"
            before = len(acknowledged)
            assert backup(there.home, file).code == 0
            after = len(acknowledged)

            found = numbers_in(file)
            assert found == list(range(len(found)))
            assert before <= len(found) <= after + 1
            assert after > before
    last = short / "b2"
    assert restore(last, short / "new", "--key-file", there.home / "secrets.key").code == 0
    with up(short / "new"):
        number = numbers_in(last)[-1]
        assert get(short / "new", f"load/{number:06}").startswith(f"value {number} ")


def test_nobody_waits_for_who_does_not_read(there: Up, short: Path) -> None:
    """While a backup stands still, because its reader does, the service writes on; killed, it leaves only its label."""
    with StorageClient.from_environment({"STRONGROOM_HOME": str(there.home)}) as client:
        client.create_container("big")
        for number in range(20):
            client.set_secret("big", str(number), "x" * 100_000)
        # From nobody's end of a pipe, some 64 kB are taken.
        process = spawn("--home", there.home, "backup", "-", "--label", "stuck")
        assert process.stdout is not None
        assert process.stdout.read(10) == '{"what":"s'

        client.set_secret("big", "20", "y")
        assert client.get_secret("big", "20").reveal() == "y"

        process.kill()
        process.communicate()
    assert labels(there.home) == ["stuck"]
    assert strongroom("--home", there.home, "key", "backup", "forget", "stuck").code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_interrupted_it_leaves_no_file(there: Up, short: Path, number: signal.Signals) -> None:
    """Ctrl-C takes file and label back; what a kill leaves bears no name that could be taken for a backup's."""
    with StorageClient.from_environment({"STRONGROOM_HOME": str(there.home)}) as client:
        client.create_container("many")
        for each in range(400):
            client.set_secret("many", str(each), "x" * 30_000)
    place = short / "copies"
    place.mkdir()
    process = spawn("--home", there.home, "backup", place / "b")
    eventually(lambda: any(place.iterdir()))
    process.send_signal(number)
    process.communicate()

    left = [each.name for each in place.iterdir()]
    if number is signal.SIGINT and process.returncode != 0:
        assert (process.returncode, left, labels(there.home)) == (130, [], [])
    assert all(name.startswith(".b.") or (name == "b" and process.returncode == 0) for name in left)
    assert backup(there.home, place / "c").code == 0


def test_a_backup_keeps_the_keys_that_it_needs(there: Up, short: Path) -> None:
    """No key is retired that a backup needs, until it is forgotten; the refusal names the backup."""
    backup(there.home, short / "b", "--label", "monday")
    command = ("--home", there.home, "key")
    assert strongroom(*command, "rotate", "keyset", "default", "--reencrypt").code == 0

    refused = strongroom(*command, "retire", "default.1")
    assert (refused.code, "monday" in refused.err) == (5, True)

    strongroom(*command, "backup", "forget", "monday")
    assert strongroom(*command, "retire", "default.1").code == 0
    # The file is whole all the same: it has its own keyring.
    assert restore(short / "b", short / "new", "--key-file", there.home / "secrets.key").code == 0


def test_keys_that_rotate_meanwhile_are_kept_too(there: Up, short: Path) -> None:
    """While somebody rotates keys, each backup has the keyring of its moment, and all its generations are kept."""
    ended = threading.Event()

    def rotate() -> None:
        with StorageClient.from_environment({"STRONGROOM_HOME": str(there.home)}) as client:
            for _ in range(3):
                with suppress(Overtaken):
                    client.rotate_keyset("default")
                if ended.wait(0.05):
                    return

    thread = threading.Thread(target=rotate)
    thread.start()
    try:
        done = [backup(there.home, short / f"b{turn}", "--label", f"b{turn}") for turn in range(2)]
    finally:
        ended.set()
        thread.join()

    assert [each.code for each in done] == [0, 0]
    known = strongroom("--home", there.home, "key", "backup", "list", "--json").json["backups"]
    for turn in range(2):
        said = strongroom(
            "backup", "verify", short / f"b{turn}", "--key-file", there.home / "secrets.key", "--json"
        ).json
        assert (said["opened"], said["unreadable"]) == (3, [])
    assert [each["label"] for each in known] == ["b0", "b1"]


def test_no_file_is_replaced(there: Up, short: Path) -> None:
    """A file of that name stays as it is, and the key index learns of nothing."""
    file = short / "b"
    file.write_text("mine")

    assert backup(there.home, file) == Done(
        5, "", f"strongroom: {file} exists already, and no backup takes the place of anything\n"
    )
    assert (file.read_text(), labels(there.home)) == ("mine", [])


def test_a_full_disk_is_told(there: Up, short: Path) -> None:
    """Where there is no room it says so, leaves no file and no label; on standard output as well."""
    place = short / "copies"
    place.mkdir()

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    command = [sys.executable, "-m", "strongroom.deploy.cli", "--home", str(there.home), "backup"]
    # Python notices no short write of its compiled modules: what it left so would break every later start.
    environ = clean_environment(PYTHONDONTWRITEBYTECODE="1")
    options: dict[str, Any] = {"env": environ, "text": True, "stderr": subprocess.PIPE}
    done = subprocess.run([*command, str(place / "b")], preexec_fn=no_room, check=False, **options)
    assert (done.returncode, "too large" in done.stderr, [*place.iterdir()]) == (1, True, [])
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*command, "-"], stdout=full, check=False, **options)
    assert (done.returncode, "No space left" in done.stderr) == (1, True)
    assert labels(there.home) == []


@pytest.mark.parametrize("offline", [False, True], ids=["asked", "offline"])
def test_a_name_that_is_taken_meanwhile_leaves_no_label(there: Up, short: Path, offline: bool) -> None:
    """Where the file cannot be finished, for its name was taken while it was written, the key index forgets it."""
    place = short / "copies"
    place.mkdir()
    taken = (
        "import os, sys\n"
        "link = os.link\n"
        "def late(old, new):\n"
        "    open(new, 'w').write('theirs')\n"
        "    link(old, new)\n"
        "os.link = late\n"
        "from strongroom.deploy.cli import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", taken, "--home", str(there.home), "backup", str(place / "b")]
    done = subprocess.run(
        [*command, *(["--offline"] if offline else [])],
        check=False,
        env=clean_environment(),
        text=True,
        capture_output=True,
    )

    assert (done.returncode, "exists already" in done.stderr) == (5, True), done.stderr
    assert ([each.name for each in place.iterdir()], labels(there.home)) == (["b"], [])
    assert (place / "b").read_text() == "theirs"


def test_a_backup_is_not_for_a_terminal(there: Up) -> None:
    """Nobody gets a screen full of it."""
    done = strongroom("--home", there.home, "backup", "-", terminal=True)
    assert (done.code, "not for a terminal" in done.err) == (1, True)


def test_verify_says_what_is_in_it(there: Up, short: Path) -> None:
    """Without a key: when, how much of what, who opens it; with one, that everything opens; from a pipe, too."""
    file = short / "b"
    backup(there.home, file, "--label", "monday")

    said = strongroom("backup", "verify", file, "--json").json
    assert (said["backup"], said["store"], said["opened"]) == ("monday", "sqlite", None)
    assert (said["records"]["secrets"], said["records"]["hosts"]) == (5, 1)
    assert [each["kind"] for each in said["recipients"]] == ["file"]

    key = there.home / "secrets.key"
    opened = strongroom("backup", "verify", "-", "--key-file", key, "--json", stdin=file.read_bytes()).json
    assert opened["opened"] == 3
    screen = strongroom("backup", "verify", file, "--key-file", key, terminal=True)
    assert "it is whole, and all 3 secrets in it open" in screen.out


def test_a_file_of_a_verbs_name_is_said_with_its_directory(there: Up, short: Path) -> None:
    """What follows the noun is a verb if it is one; else it is the file, options before it or not."""
    assert backup(there.home, short / "verify").code == 0
    assert strongroom("--home", there.home, "backup", "--label", "x", short / "x").code == 0
    assert strongroom("--home", there.home, "backup", "take", short / "y").code == 0
    missing = strongroom("--home", there.home, "backup", "verify")
    assert (missing.code, "missing argument" in missing.err) == (1, True)


@pytest.mark.parametrize("damage", ["cut", "bent"])
def test_a_damaged_file_changes_nothing(there: Up, short: Path, damage: str) -> None:
    """A file that was cut short or bent is refused by both, and no home and no store is made for it."""
    file = short / "b"
    backup(there.home, file)
    text = file.read_bytes()
    bent = bytearray(text)
    bent[-400] ^= 1
    (short / "c").write_bytes(text[:-100] if damage == "cut" else bytes(bent))

    for done in (
        strongroom("backup", "verify", short / "c"),
        restore(short / "c", short / "new", "--key-file", there.home / "secrets.key"),
    ):
        assert (done.code, re.search("cut short|damaged", done.err) is not None) == (2, True), done
    assert not (short / "new").exists()


def test_wrong_keys_open_nothing(there: Up, short: Path) -> None:
    """Another key file, none, and what nobody could type are told apart, and nothing is made."""
    file, other = short / "b", short / "other"
    backup(there.home, file)
    with up(other):
        pass

    wrong = restore(file, short / "new", "--key-file", other / "secrets.key")
    none = restore(file, short / "new")
    gone = restore(file, short / "new", "--key-file", short / "none")
    assert (wrong.code, "no key that was given opens" in wrong.err) == (6, True)
    assert (none.code, "say --key-file" in none.err) == (1, True)
    assert (gone.code, "no root key file" in gone.err) == (2, True)
    assert not (short / "new").exists()


def test_a_home_in_use_is_not_restored_into(there: Up, short: Path) -> None:
    """Neither a home in which a service runs, nor a store with something in it, nor a home with another key file."""
    file, other = short / "b", short / "other"
    key = there.home / "secrets.key"
    backup(there.home, file)
    with up(other):
        running = restore(file, other, "--key-file", key)
    stopped = restore(file, other, "--key-file", key)
    (other / "secrets.key").unlink()
    filled = restore(file, other, "--key-file", key)

    assert (running.code, "is in use by process" in running.err) == (2, True)
    assert (stopped.code, "another root key file" in stopped.err) == (5, True)
    assert (filled.code, "not empty" in filled.err) == (5, True)


def test_unlock_keys_and_shares_open_a_backup(home: Path, short: Path) -> None:
    """A service that people unlock: its backup is opened by what they type, and what is restored wants it again."""
    home.mkdir(mode=0o700)
    (home / "strongroom.toml").write_text("autogen_root_key = false\n")
    file, new = short / "b", short / "new"
    with up(home):
        empty = backup(home, short / "e")
        assert (empty.code, (short / "e").exists()) == (3, False)
        keys = strongroom("--home", home, "key", "init", "--mode", "shares", "--shares", "2/3", "--json").json["keys"]
        typed = "\n".join(keys[:2]).encode()
        assert not (home / "store.json").exists()  # nothing is in the store that could be missed
        strongroom("--home", home, "key", "unlock", stdin=typed)
        assert (home / "store.json").exists()
        put(home, "db/a", CANARY)
        assert backup(home, file).code == 0
        strongroom("--home", home, "key", "lock")
        locked = backup(home, short / "l")
        assert (locked.code, (short / "l").exists()) == (3, False)
        assert backup(home, short / "l", "--offline", "--file", _file(short, typed)).code == 0

    few = restore(file, new, stdin=keys[0].encode())
    assert (few.code, new.exists()) == (1 if "usage" in few.err else few.code, False)
    assert few.code != 0
    done = restore(short / "l", new, "--json", stdin=typed)
    unlock = {"reason": "unlock it", "verb": "key unlock", "options": {"home": str(new)}}
    assert (done.code, done.json["next"][1]) == (0, unlock)
    (new / "store.json").unlink()
    with up(new) as running:
        assert (running.said["state"], (new / "store.json").exists()) == ("locked", True)
        strongroom("--home", new, "key", "unlock", stdin="\n".join(keys[1:]).encode())
        assert get(new, "db/a") == CANARY


def _file(short: Path, content: bytes) -> Path:
    path = short / "typed"
    path.write_bytes(content)
    return path


def test_a_stopped_service_is_copied(there: Up, short: Path) -> None:
    """Without the service the command opens the keyring itself and tells the key index; it makes no store."""
    file = short / "b"
    there.end()
    assert backup(there.home, file).code == 2
    done = backup(there.home, file, "--offline", "--label", "stopped")
    assert done.code == 0, done

    assert strongroom("backup", "verify", file, "--key-file", there.home / "secrets.key", "--json").json["opened"] == 3
    with up(there.home):
        assert labels(there.home) == ["stopped"]
    none = backup(short / "none", short / "n", "--offline")
    assert (none.code, "there is no store" in none.err) == (2, True)
    assert not (short / "none").exists()
    assert not (short / "n").exists()


def test_an_older_keyring_is_not_made_new_by_a_backup(there: Up, short: Path) -> None:
    """Where an older keyring was put back, an offline backup is refused like a start, and makes it no newer."""
    there.end()
    shutil.copytree(there.home / "data", short / "old")
    with up(there.home):
        assert strongroom("--home", there.home, "key", "rotate", "keyset", "default").code == 0
    shutil.rmtree(there.home / "data")
    (short / "old").rename(there.home / "data")

    done = backup(there.home, short / "b", "--offline")

    assert (done.code != 0, "older than the one that was seen here last" in done.err) == (True, True), done
    assert not (short / "b").exists()
    started = spawn("up", "--home", there.home, "--listen", "127.0.0.1:0")
    done = finished(started)
    assert (done.code, "older than the one" in done.err) == (2, True), done


@pytest.mark.parametrize("step", range(4))
def test_a_restore_that_is_killed_says_so(there: Up, short: Path, step: int) -> None:
    """Killed while it fills the store, it leaves one on which no service starts; the same command finishes it."""
    with StorageClient.from_environment({"STRONGROOM_HOME": str(there.home)}) as client:
        client.create_container("many")
        for each in range(300):
            client.set_secret("many", str(each), "x" * 20_000)
    file, new = short / "b", short / "new"
    key = there.home / "secrets.key"
    backup(there.home, file)
    process = spawn("restore", file, "--home", new, "--key-file", key)
    log = new / "data" / "strongroom.db-wal"
    eventually(lambda: process.poll() is not None or log.stat().st_size > step * 1_200_000)
    process.kill()
    process.communicate()

    if process.returncode != 0:
        started = spawn("up", "--home", new, "--listen", "127.0.0.1:0")
        done = finished(started)
        assert done.code == 2, done
        assert "half restored" in done.err or "the store holds no records of ours" in done.err
        assert restore(file, new, "--key-file", key).code == 0
    with up(new):
        assert get(new, "many/299") == "x" * 20_000


def test_between_sqlite_and_etcd(there: Up, short: Path, etcd: Etcd) -> None:
    """A backup of SQLite fills an etcd, and one of etcd an SQLite file; the home knows where its records are."""
    key = there.home / "secrets.key"
    one, two, url = short / "one", short / "two", etcd.url("restored")
    backup(there.home, short / "a")
    done = restore(short / "a", one, "--store", url, "--key-file", key, "--json")
    assert [(step["reason"], step["verb"], step["options"]) for step in done.json["next"]] == [
        (f'say store = "{url}" in {one}/strongroom.toml, in place of any other store there', None, {}),
        ("start its service", "up", {"home": str(one)}),
    ]
    with up(one, "--store", url):
        put(one, "db/2", "written to etcd")
        assert backup(one, short / "b", "--store", url).code == 0
    assert restore(short / "b", two, "--key-file", key).code == 0
    with up(two):
        assert (get(two, "db/2"), get(two, "db/1")) == ("written to etcd", f"{CANARY}-1")


def test_another_store_than_the_services_is_noticed(there: Up, short: Path, etcd: Etcd) -> None:
    """What is copied is what the service keeps, not what lies elsewhere; if they differ, it is told."""
    done = backup(there.home, short / "b", "--store", etcd.url("another"))
    assert (done.code, "say with --store where the service keeps its records" in done.err) == (5, True)
    assert labels(there.home) == []


def refused(home: Path, *arguments: object) -> str:
    """Return what a start says that is refused."""
    done = finished(spawn("up", "--home", home, "--listen", "127.0.0.1:0", *arguments))
    assert done.code == 2, done
    return done.err


class TestAnotherStore:
    """A store that is not the one which the home's records are in, whatever it holds."""

    def test_what_was_written_since_is_not_left_behind_unsaid(self, there: Up, short: Path, etcd: Etcd) -> None:
        """A move by a backup that is older than the store is refused; by a new one all of it moves, started or not."""
        home, url = there.home, etcd.url("since")
        there.end()
        assert backup(home, short / "old", "--offline").code == 0
        with up(home):
            put(home, "db/late", "late")
        kept = (home / "store.json").read_bytes()

        done = restore(short / "old", home, "--store", url)

        assert (done.code, "which holds something else than this backup" in done.err) == (5, True), done
        assert (home / "store.json").read_bytes() == kept
        assert backup(home, short / "new", "--offline").code == 0
        with up(home):
            assert get(home, "db/late") == "late"
        assert restore(short / "new", home, "--store", url).code == 0
        with up(home, "--store", url):
            assert get(home, "db/late") == "late"

    def test_the_record_that_a_service_left_counts_without_a_home(self, there: Up, short: Path, etcd: Etcd) -> None:
        """Where a unit keeps its state there is no `run`, and what is there is not left behind unsaid either."""
        home = there.home
        there.end()
        assert backup(home, short / "old", "--offline").code == 0
        with up(home):
            put(home, "db/late", "late")
        shutil.rmtree(home / "run")

        done = restore(short / "old", home, "--store", etcd.url("unit"))

        assert (done.code, "which holds something else than this backup" in done.err) == (5, True), done

    def test_who_says_so_leaves_behind_what_was_written_since(self, there: Up, short: Path, etcd: Etcd) -> None:
        """A person may go back to a backup, and a store that is lost is no reason to stay there."""
        home = there.home
        there.end()
        assert backup(home, short / "old", "--offline").code == 0
        with up(home):
            put(home, "db/late", "late")
        lost = shutil.copytree(home, short / "lost")
        for file in (lost / "data").iterdir():
            file.unlink()

        done = restore(short / "old", lost, "--store", etcd.url("lost"))
        assert (done.code, "was not compared" in done.err) == (0, True), done
        assert restore(short / "old", home, "--store", etcd.url("back"), "--leave-newer").code == 0
        with up(home, "--store", etcd.url("back")):
            assert get(home, "db/0") == f"{CANARY}-0"

    def test_records_that_moved_are_not_looked_for_where_they_were(self, there: Up, short: Path, etcd: Etcd) -> None:
        """A start that does not say the new store is refused and told what to say; what is copied is the new one."""
        home, url = there.home, etcd.url("moved")
        there.end()
        assert backup(home, short / "a", "--offline", "--json").json["store"] == f"sqlite:{home}/data/strongroom.db"
        assert restore(short / "a", home, "--store", url).code == 0
        kept = (home / "store.json").read_bytes()

        said = refused(home)

        assert f"this home's records are in {url}" in said
        assert f'say store = "{url}" in strongroom.toml, or --store' in said
        assert f"remove {home}/store.json" in said
        assert (home / "store.json").read_bytes() == kept
        checked = strongroom("--home", home, "config", "check")
        assert (checked.code, f"records are in {url}" in checked.err) == (2, True)
        with up(home, "--store", url):
            put(home, "db/2", "in the new one")
            assert backup(home, short / "b", "--json").json["store"] == url
        offline = backup(home, short / "c", "--offline", "--json")
        assert offline.json["store"] == url
        for file in (short / "b", short / "c"):
            assert '"name":"secrets/db/2"' in file.read_text()

    def test_a_refused_restore_changes_nothing(self, there: Up, short: Path, etcd: Etcd) -> None:
        """Where the store that was said is not empty, the home goes on with the one that it has."""
        home, url = there.home, etcd.url("filled")
        backup(home, short / "a")
        there.end()
        assert restore(short / "a", short / "new", "--store", url, "--key-file", home / "secrets.key").code == 0

        for place in (home, short / "other"):
            done = restore(short / "a", place, "--store", url, "--key-file", home / "secrets.key")
            assert (done.code, "not empty" in done.err) == (5, True)

        nobody = restore(short / "a", short / "other", "--store", f"etcd://127.0.0.1:{free_port()}/x?timeout=0.5")
        assert (nobody.code, "no member of etcd" in nobody.err) == (2, True), nobody
        assert not (short / "other/store.json").exists()
        with up(home):
            assert get(home, "db/1") == f"{CANARY}-1"

    def test_no_command_works_on_the_store_that_was_left(self, there: Up) -> None:
        """A command that opens the store itself is refused like a start."""
        there.end()
        strongroom("--home", there.home, "machine", "config", "init")
        (there.home / "store.json").write_text('{"store":"etcd://127.0.0.1:1/left"}\n')

        listed = strongroom("--home", there.home, "machine", "list")

        assert (listed.code, "records are in etcd://127.0.0.1:1/left" in listed.err) == (2, True), listed


class TestEmptyStores:
    """A store with nothing in it, where the home says that there is something."""

    def test_a_store_that_is_gone(self, there: Up) -> None:
        """If the file is not there any more, no new one is taken for it."""
        there.end()
        (there.home / "data" / "strongroom.db").unlink()

        assert "the store holds no records of ours, and this home's records are in sqlite:" in refused(there.home)

    def test_another_store_beside_it(self, there: Up, etcd: Etcd) -> None:
        """A first start with another store is refused, whoever else keeps keys there, and told how to move.

        So it is in an older home.
        """
        there.end()
        with etcd.admin() as admin:
            admin.put("/another-store/registry/pods", b"somebody else's")
        said = refused(there.home, "--store", etcd.url("another-store"))
        assert "records are in sqlite:" in said
        where = f"strongroom --home {there.home}"
        assert f"; to move them, copy them while no service runs: {where} backup FILE --offline; " in said
        assert f"; and fill the other store: {where} restore FILE --store {etcd.url('another-store')}\n" in said
        (there.home / "store.json").unlink()
        assert "the store holds no records of ours, and this home's records are in sqlite:" in refused(
            there.home, "--store", etcd.url("another-store")
        )

    def test_a_copy_without_the_log(self, there: Up, short: Path) -> None:
        """The file of a running service, copied by hand with its keys, does not come up without the newest secrets."""
        new = short / "new"
        shutil.copytree(there.home, new, ignore=lambda *_: ["run", "log", "strongroom.db-wal", "strongroom.db-shm"])

        said = refused(new)

        assert "a copy of a store that was in use, without its log strongroom.db-wal" in said
        assert not re.search("canary", said)


def test_a_home_that_holds_only_settings(there: Up, short: Path) -> None:
    """A directory of settings, as systemd's units have one, is not made into a home; store and key go where it says."""
    place, data = short / "etc", short / "var"
    place.mkdir(mode=0o755)
    data.mkdir(mode=0o700)
    (place / "strongroom.toml").write_text(f'store = "sqlite:{data}/strongroom.db"\n')
    backup(there.home, short / "b")
    if os.geteuid() == 0:
        short.chmod(0o711)  # as the directories above that of a service are
        os.chown(data, 65534, 65534)
        (data / "strongroom.db").symlink_to("/etc/hostname")  # what that user may not write, root does not for him
        assert restore(short / "b", place, "--key-file", there.home / "secrets.key").code != 0
        (data / "strongroom.db").unlink()

    assert restore(short / "b", place, "--key-file", there.home / "secrets.key").code == 0

    assert sorted(each.name for each in place.iterdir()) == ["secrets.key", "strongroom.toml"]
    made = (data / "strongroom.db").stat()
    assert (made.st_uid, made.st_mode & 0o777) == (data.stat().st_uid, 0o600)


@pytest.mark.parametrize("moved", [False, True])
def test_a_containers_state_is_not_made_into_a_home(there: Up, short: Path, etcd: Etcd, moved: bool) -> None:
    """Where keys are handed in from elsewhere, a restore makes the store and its record, the owner's, and no more."""
    state, given, file = short / "state", short / "given", short / "b"
    assert backup(there.home, file).code == 0
    for directory in (state, given):
        directory.mkdir(mode=0o700)
    for name in ("secrets.key", "client.json", "proxy.json"):
        shutil.copy(there.home / name, given)
    if os.geteuid() == 0:
        short.chmod(0o711)
        os.chown(state, NOBODY, NOBODY)
    environ = clean_environment(
        STRONGROOM_HOME=str(state),
        STRONGROOM_STORE=f"sqlite:{state}/strongroom.db",
        STRONGROOM_ROOT_KEY=str(given / "secrets.key"),
        STRONGROOM_CLIENT=str(given / "client.json"),
    )
    url = etcd.url("from-a-container")

    done = strongroom("restore", file, *(("--store", url) if moved else ()), "--json", environ=environ)

    assert done.code == 0, done
    assert {each.name for each in state.iterdir()} == ({"store.json"} if moved else {"store.json", "strongroom.db"})
    assert {each.stat().st_uid for each in state.iterdir()} == {state.stat().st_uid}
    assert (url in (state / "store.json").read_text()) is moved
    said = [f"say STRONGROOM_STORE={url} to it, in place of the store that the variable says now"] if moved else []
    assert [step["reason"] for step in done.json["next"]] == [*said, "start its service"]


def machines_in(file: Path) -> list[str]:
    """Return the rows of machines that a backup has beside its keyring."""
    return re.findall(r'"name":"(system/keyring/machines/[^"]+)"', file.read_text())


def test_rows_of_machines_that_moved_into_a_file(there: Up, short: Path) -> None:
    """What the store has left of them keeps no backup from being taken, and is not in it; a restore knows them all."""
    home, file, new = there.home, short / "b", short / "new"
    machine = ("--home", home, "machine")
    there.end()
    assert (strongroom(*machine, "config", "init").code, strongroom(*machine, "init").code) == (0, 0)
    assert backup(home, short / "a", "--offline").code == 0
    with (home / "strongroom.toml").open("a") as settings:
        settings.write('machine_documents = "machines.json"\n')
    assert strongroom(*machine, "init").code == 0

    done = backup(home, file, "--offline")

    assert done.code == 0, done
    assert (len(machines_in(short / "a")), machines_in(file)) == (1, [])
    with up(home):
        assert backup(home, short / "c").code == 0
    assert strongroom("backup", "verify", file, "--key-file", home / "secrets.key", "--json").json["opened"] == 3
    assert restore(file, new, "--key-file", home / "secrets.key").code == 0
    assert strongroom("--home", new, "machine", "config", "init").code == 0
    assert len(strongroom("--home", new, "machine", "list", "--json").json["machines"]) == 1


def test_what_root_restores_is_the_services(there: Up, short: Path) -> None:
    """Store, record and the file of machines' documents are whose the store's directory is, made with his rights."""
    place, data, file = short / "etc", short / "var", short / "b"
    there.end()
    machine = ("--home", there.home, "machine")
    assert (strongroom(*machine, "config", "init").code, strongroom(*machine, "init").code) == (0, 0)
    assert backup(there.home, file, "--offline").code == 0
    place.mkdir(mode=0o755)
    data.mkdir(mode=0o700)
    text = f'store = "sqlite:{data}/s.db"\nkeyring_seen = "{data}/keyring.seen"\nmachine_documents = "{{}}/m/m.json"\n'
    key = ("--key-file", there.home / "secrets.key")
    if os.geteuid() == 0:
        short.chmod(0o711)
        os.chown(data, NOBODY, NOBODY)
        (place / "strongroom.toml").write_text(text.format(place))
        done = restore(file, place, *key, "--json")
        assert (done.code, f"{place}/m/m.json cannot be written" in done.err) == (2, True), done
    (place / "strongroom.toml").write_text(text.format(data))

    done = restore(file, place, *key, "--json")

    assert (done.code, done.json["next"][0]["reason"]) == (
        0,
        "start its service: systemctl start strongroom-storage strongroom-proxy",
    )
    made = {each.relative_to(data): (each.stat().st_uid, each.stat().st_mode & 0o077) for each in data.rglob("*")}
    assert {str(each) for each in made} == {"s.db", "store.json", "m", "m/m.json"}
    assert set(made.values()) == {(user() if os.geteuid() == 0 else os.geteuid(), 0)}


def test_root_copies_the_store_of_a_service(there: Up, short: Path) -> None:
    """As the operator of a unit that is stopped: what belongs to the service's user is read, and stays that user's."""
    place, data = short / "etc", short / "var"
    there.end()
    place.mkdir(mode=0o755)
    data.mkdir(mode=0o700)
    for name in ("data/strongroom.db", "keyring.seen"):
        shutil.copy(there.home / name, data)
    shutil.copy(there.home / "secrets.key", place)
    text = f'store = "sqlite:{data}/strongroom.db"\nkeyring_seen = "{data}/keyring.seen"\n'
    (place / "strongroom.toml").write_text(text)
    if os.geteuid() == 0:
        for each in (data, *data.iterdir()):
            os.chown(each, NOBODY, NOBODY)

    done = backup(place, short / "b", "--offline")

    assert done.code == 0, done
    assert {each.stat().st_uid for each in data.iterdir()} == {data.stat().st_uid}


@pytest.mark.parametrize("command", ["verify", "restore"])
def test_what_is_wrong_with_a_backup_names_it(there: Up, short: Path, command: str) -> None:
    """Of several files that a script goes through, the one that is damaged is told."""
    file = short / "b"
    backup(there.home, file)
    file.write_bytes(file.read_bytes()[:-100])

    key = ("--key-file", there.home / "secrets.key")
    done = strongroom("backup", "verify", file) if command == "verify" else restore(file, short / "new", *key)

    assert (done.code, done.err.startswith(f"strongroom: {file}: ")) == (2, True), done

"""Locked and unlocked, on the running product: all workers together, whoever of them is asked, killed or new."""

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from strongroom.models.hosts import Host
from strongroom.storage_service import wire
from strongroom.storage_service.client import StorageClient
from strongroom.storage_service.errors import Denied, InUse, Invalid, Locked, TooManyAttempts, Uninitialized, WrongKey
from strongroom.storage_service.keyring.opening.unlock_keys import make_keys, make_shares
from tests.audit_lines import audit_lines
from tests.deploy.running import Done, Up, clean_environment, descendants, eventually, strongroom, up

WAITING = clean_environment(STRONGROOM_AUTOGEN_ROOT_KEY="false")  # for somebody to make the first keys


@pytest.fixture
def home() -> Iterator[Path]:
    """A home that does not exist yet; its path is short, for the socket in it."""
    path = Path(tempfile.mkdtemp(prefix="sr"))
    yield path / "home"
    shutil.rmtree(path)


def command(home: Path, *arguments: object, stdin: str = "") -> Done:
    """Run ``strongroom key`` on a home."""
    return strongroom("--home", home, "key", *arguments, stdin=stdin.encode())


def workers(running: Up) -> list[int]:
    """Return the workers of the storage service."""
    return descendants(running.gunicorn("storage"))


def each_worker(running: Up, ask: Callable[[StorageClient], object]) -> list[object]:
    """Return what each worker answers to *ask*, or the error: all others are stopped while it is asked."""
    found: list[object] = []
    for worker in workers(running):
        others = [other for other in workers(running) if other != worker]
        for other in others:
            os.kill(other, signal.SIGSTOP)
        try:
            with StorageClient.from_home(running.home) as client:  # on a connection of its own
                found.append(ask(client))
        except Locked as error:
            found.append(type(error))
        finally:
            for other in others:
                os.kill(other, signal.SIGCONT)
    return found


def read(client: StorageClient) -> str:
    return client.get_secret("db", "password").reveal()


@contextmanager
def local(running: Up) -> Iterator[httpx.Client]:
    """Give an HTTP client of the socket with the service's own credentials."""
    known = json.loads((running.home / "client.json").read_text())
    credentials = {wire.ID_HEADER: known["api_id"], wire.KEY_HEADER: known["api_key"]}
    transport = httpx.HTTPTransport(uds=str(running.socket))
    with httpx.Client(transport=transport, base_url="http://socket", headers=credentials) as client:
        yield client


def test_one_lock_is_a_lock_in_all_workers(home: Path) -> None:
    """Whichever of four workers is told, all lock and unlock at once; plain records go on; a new worker follows."""
    with up(home, "--workers", "4") as running, StorageClient.from_home(home) as client:
        eventually(lambda: len(workers(running)) == 4)
        client.create_container("db")
        client.set_secret("db", "password", "hunter2")
        assert each_worker(running, read) == ["hunter2"] * 4

        client.lock()
        assert each_worker(running, read) == [Locked] * 4
        assert each_worker(running, lambda each: each.status().state) == ["locked"] * 4
        assert client.save(Host.new(address="10.0.0.7")).model.address == "10.0.0.7"
        with local(running) as http:
            answer = http.get("/secrets/db/password")
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:strongroom:problem:locked")
        assert answer.headers["retry-after"] == "1"
        with httpx.Client() as proxied:
            assert proxied.get(running.url + "/readyz").json()["status"] == "ready"

        killed = workers(running)[0]
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: len(workers(running)) == 4 and killed not in workers(running))
        assert each_worker(running, read) == [Locked] * 4

        client.unlock()
        assert each_worker(running, read) == ["hunter2"] * 4
        killed = workers(running)[0]
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: len(workers(running)) == 4 and killed not in workers(running))
        assert each_worker(running, read) == ["hunter2"] * 4


def test_from_the_first_key_to_the_next_start(home: Path) -> None:
    """Nothing before there are keys; locked with them, once and after every start; any one of them unlocks."""
    with up(home, environ=WAITING) as running, StorageClient.from_home(home) as client:
        assert running.said["state"] == "uninitialized"
        assert not (home / "secrets.key").exists()
        with pytest.raises(Uninitialized):
            client.create_container("db")
        assert client.save(Host.new(address="10.0.0.7")).model.address == "10.0.0.7"

        made = command(home, "init", "--mode", "unlock", "--keys", "3", "--json").json
        assert (made["mode"], len(made["keys"]), made["state"]) == ("unlock", 3, "locked")
        again = command(home, "init")
        assert again.code == 5
        assert again.err.startswith("strongroom: the store is initialized already; its keyring is kept")
        with pytest.raises(Locked):
            client.create_container("db")

        assert command(home, "unlock", "--json", stdin=made["keys"][2]).json == {"state": "unlocked"}
        client.create_container("db")
        client.set_secret("db", "password", "hunter2")
        assert list((home / "data").parent.glob("secrets.key*")) == []

    with up(home) as running, StorageClient.from_home(home) as client:
        assert running.said["state"] == "locked"
        with pytest.raises(Locked):
            read(client)
        locked = strongroom("--home", home, "secret", "get", "db/password")
        assert (locked.code, locked.out) == (3, "")
        assert locked.err == f"strongroom: the service is locked; unlock it: strongroom --home {home} key unlock\n"

        assert command(home, "unlock", stdin=made["keys"][0]).code == 0
        assert read(client) == "hunter2"
        assert command(home, "unlock", stdin=made["keys"][0]).code == 5


def test_wrong_keys_and_slips(home: Path) -> None:
    """A wrong key is counted and slows the next, a mistyped share is named, and neither unlocks anything."""
    with up(home, environ=WAITING) as running, StorageClient.from_home(home) as client:
        made = command(home, "init", "--shares", "2/3", "--json").json
        [(wrong, _)] = make_keys(1)
        strangers, _ = make_shares(2, 3)

        refused = command(home, "unlock", stdin=wrong.reveal())
        assert (refused.code, refused.out) == (6, "")
        with pytest.raises((WrongKey, TooManyAttempts)):
            client.unlock("\n".join(share.reveal() for share in strangers))
        for _ in range(4):
            with pytest.raises((WrongKey, TooManyAttempts)):
                client.unlock(wrong)
        told = client.keyring()
        assert (told.state, told.wrong_keys >= 1, told.recipients[0].needed) == ("locked", True, 2)

        with local(running) as http:
            while (answer := http.post("/keyring/unlock", json={"text": wrong.reveal()})).status_code != 429:
                assert answer.status_code == 403
        assert int(answer.headers["retry-after"]) >= 1
        slow = command(home, "unlock", stdin=wrong.reveal())
        assert slow.code in (2, 6)

        one, two, _ = made["keys"]
        words = two.split()
        words[7] = "acid" if words[7] != "acid" else "acne"
        mistyped = command(home, "unlock", stdin=f"{one}\n{' '.join(words)}\n")
        assert (mistyped.code, mistyped.err) == (2, "strongroom: share 2 is mistyped: its checksum is wrong\n")
        few = command(home, "unlock", stdin=one)
        assert (few.code, few.err) == (2, "strongroom: 1 more share is needed (1 of 2 given)\n")
        assert client.status().state == "locked"

        eventually(lambda: client.keyring().wait == 0)
        assert command(home, "unlock", stdin=f"{one}\n\n  {two.upper()}\n").code == 0
        assert client.keyring().wrong_keys == 0


def test_nobody_else_gets_at_keys(home: Path) -> None:
    """Not without credentials, not with a key for secrets, and never through the proxy."""
    with up(home) as running, StorageClient.from_home(home) as client:
        issued = client.create_apikey("user")
        user = client.acting_for(api_id=issued.api_id, api_key=issued.api_key)
        for act in (user.lock, user.keyring, user.export_keyring, lambda: user.retire_generation("default.1")):
            with pytest.raises(Denied):
                act()
        transport = httpx.HTTPTransport(uds=str(running.socket))
        with httpx.Client(transport=transport, base_url="http://socket") as stranger:
            assert stranger.post("/keyring/unlock", json={"text": "SR1"}).status_code == 401
            assert stranger.get("/keyring").status_code == 401
        known = json.loads((home / "client.json").read_text())
        credentials = {wire.ID_HEADER: known["api_id"], wire.KEY_HEADER: known["api_key"]}
        before = (home / "log" / "audit.log").read_text()
        with httpx.Client(base_url=running.url, headers=credentials) as proxied:
            for path in ("/keyring", "/keyring/lock", "/api/v0/keyring", "/api/v0/keyring/lock", "/keyring/unlock"):
                for method in ("GET", "POST", "DELETE"):
                    assert proxied.request(method, path).status_code in (401, 404, 405, 501)
            climbing = proxied.post("/api/v0/secrets/%2e%2e/keyring/lock")
            assert climbing.status_code == 400
        assert "system/keyring" not in (home / "log" / "audit.log").read_text().removeprefix(before)
        assert client.status().state == "unlocked"

        lines = audit_lines(home / "log" / "audit.log")
        refused = [line for line in lines if line["decision"] == "denied" and line["principal"] == "apikey:user"]
        assert [line["name"] for line in refused] == [
            f"system/keyring/{what}" for what in ("lock", "keys", "export", "generations/default.1")
        ]


def test_keys_are_known_while_locked(home: Path) -> None:
    """Whoever came with a key before the lock is told that it is locked; the holder of no key still is nobody."""
    with up(home) as running, StorageClient.from_home(home) as client:
        issued = client.create_apikey("user", paths=("/secrets", "/storage", "/hosts"))
        user = client.acting_for(api_id="user", api_key=issued.api_key)
        assert user.whoami().principal == "apikey:user"

        client.lock()
        assert user.whoami().principal == "apikey:user"
        with pytest.raises(Locked):
            user.list_container("db")
        with pytest.raises(Denied):
            client.acting_for(api_id="user", api_key="wrong").whoami()
        client.unlock()

    with up(home) as running, StorageClient.from_home(home) as client:
        eventually(lambda: _is_known_when_locked(client, user_key=issued.api_key))
        assert running.said["state"] == "unlocked"


def _is_known_when_locked(client: StorageClient, user_key: Any) -> bool:
    """Whether a worker that nobody has come to with the key knows it while it is locked."""
    client.lock()
    try:
        return client.acting_for(api_id="user", api_key=user_key).whoami().principal == "apikey:user"
    except Locked:
        return False
    finally:
        client.unlock()


def test_no_key_comes_out(home: Path) -> None:
    """At DEBUG, through init, unlock and rotation, no log, audit line, error, file or process list has any of a key."""
    seen: dict[str, bytes] = {}
    with up(home, "--debug", environ=WAITING) as running, StorageClient.from_home(home) as client:
        made = command(home, "init", "--keys", "2", "--json").json["keys"]
        client.unlock(made[0])
        client.create_container("db")
        client.set_secret("db", "password", "hunter2")
        new = client.prepare_root("shares", total=3, needed=2)
        shares = [share.reveal() for share in new.keys]
        failed = [command(home, "rotate", "root", "--confirm", new.root, stdin=made[0])]
        with pytest.raises(Invalid):
            client.confirm_root(new.root, shares[0])
        client.confirm_root(new.root, "\n".join(shares[:2]))
        client.lock()
        failed.append(command(home, "unlock", stdin=made[1]))
        eventually(lambda: client.keyring().wait == 0)
        client.unlock("\n".join(shares[1:]))
        with pytest.raises(InUse):
            client.retire_generation("default.1")
        for pid in running.family():
            for piece in ("cmdline", "environ"):
                with suppress(PermissionError):  # closed to all but root, where there are keys
                    seen[f"{piece} of {pid}"] = Path(f"/proc/{pid}/{piece}").read_bytes()
        seen["export"] = client.export_keyring()
        done = running.end()
    seen |= {"standard output": done.out.encode(), "standard error": done.err.encode()}
    seen |= {f"error {number}": (each.out + each.err).encode() for number, each in enumerate(failed)}
    seen |= {str(path): path.read_bytes() for path in home.rglob("*") if path.is_file()}

    pieces = [group for key in made for group in key.split("-")[1:-1]]
    pieces += [" ".join(share.split()[start : start + 3]) for share in shares for start in range(4, 30, 3)]
    assert len(pieces) > 40
    assert [(where, piece) for where, text in seen.items() for piece in pieces if piece.encode() in text] == []
    assert len(seen["standard error"]) > 0

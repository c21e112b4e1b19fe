"""What becomes of acknowledged writes, and of callers, when parts of the product die or are tampered with."""

import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from strongroom.storage_service import wire
from tests.audit_lines import audit_lines
from tests.deploy.running import Up, descendants, eventually, spawn, up

WRITES = 1000


def credentials(home: Path) -> dict[str, str]:
    """Return the headers of the service's own key."""
    known = json.loads((home / "client.json").read_text())
    return {wire.ID_HEADER: known["api_id"], wire.KEY_HEADER: known["api_key"]}


def through_proxy(running: Up) -> httpx.Client:
    """Return a client of the secrets path of the proxy."""
    return httpx.Client(base_url=running.url + wire.PROXIED_SECRETS_PATH, headers=credentials(running.home), timeout=10)


def put(client: httpx.Client, name: str, value: str) -> httpx.Response:
    """Put *value* under *name*."""
    return client.put(f"/{name}", headers={"Content-Type": wire.OCTET_STREAM}, content=value.encode())


def worker(role: str) -> Callable[[Up], int]:
    """Return what finds the one worker of the service or of the proxy."""
    return lambda running: descendants(running.gunicorn(role))[0]


@pytest.mark.parametrize(
    ("who", "at"),
    [
        ("worker of the service", 250),
        ("worker of the proxy", 250),
        ("gunicorn of the service", 500),
        ("gunicorn of the proxy", 500),
        ("up itself", 750),
    ],
)
def test_kill_9_during_a_thousand_writes(tmp_path: Path, who: str, at: int) -> None:
    """Whichever process is killed, every write that was acknowledged is there afterwards, whole."""
    victims: dict[str, Callable[[Up], int]] = {
        "worker of the service": worker("storage"),
        "worker of the proxy": worker("proxy"),
        "gunicorn of the service": lambda running: running.gunicorn("storage"),
        "gunicorn of the proxy": lambda running: running.gunicorn("proxy"),
        "up itself": lambda running: running.process.pid,
    }
    acknowledged: list[int] = []
    numbers = iter(range(WRITES))
    lock = threading.Lock()
    with up(tmp_path / "home") as running:

        def write() -> None:
            with through_proxy(running) as client:
                while True:
                    with lock:
                        number = next(numbers, None)
                        if number == at:
                            os.kill(victims[who](running), signal.SIGKILL)
                    if number is None:
                        return
                    try:
                        answer = put(client, f"box/{number}", f"value {number} " * 40)
                    except httpx.TransportError:
                        if who not in ("worker of the service", "worker of the proxy"):
                            return  # the whole product ends with them
                        continue
                    if answer.status_code == 201:
                        acknowledged.append(number)
                    else:
                        assert answer.status_code == 503

        with through_proxy(running) as client:
            assert client.post("/box/").status_code == 201
        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    with up(tmp_path / "home") as again, through_proxy(again) as client:
        listed = {int(name) for name in client.get("/box/").json()}
        assert set(acknowledged) <= listed
        assert len(acknowledged) >= at - 4
        for number in sorted(listed):
            assert client.get(f"/box/{number}", headers={"Accept": wire.OCTET_STREAM}).text == f"value {number} " * 40


def test_the_service_restarts_under_the_proxy(tmp_path: Path) -> None:
    """While the service's worker is gone the proxy answers 503 with Retry-After, and afterwards 200 by itself."""
    with up(tmp_path / "home") as running, through_proxy(running) as client:
        client.post("/box/")
        put(client, "box/a", "here")
        os.kill(running.gunicorn("storage"), signal.SIGSTOP)  # so that no new worker comes at once
        gone = worker("storage")(running)
        os.kill(gone, signal.SIGKILL)
        eventually(lambda: not Path(f"/proc/{gone}/cmdline").read_bytes())

        away = client.get("/box/a", timeout=30)
        os.kill(running.gunicorn("storage"), signal.SIGCONT)

        eventually(lambda: client.get("/box/a").status_code == 200)
        assert away.status_code == 503
        assert away.headers["retry-after"] == "1"
        assert away.json()["type"] == "urn:strongroom:problem:unavailable"


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """When the store's file may grow no more, writes are 503 and reads go on; with room again, so do writes.

    The log says why, in one line that counts the others.
    """
    acknowledged = []
    with up(tmp_path / "home") as running, through_proxy(running) as client:
        client.post("/box/")
        service = worker("storage")(running)
        before = resource.prlimit(service, resource.RLIMIT_FSIZE)
        resource.prlimit(service, resource.RLIMIT_FSIZE, (1024 * 1024, before[1]))

        answers = []
        for number in range(200):
            answers.append(put(client, f"box/{number}", "x" * 30_000))
            if answers[-1].status_code != 201:
                break
            acknowledged.append(number)
        refused = [put(client, "box/more", "x" * 30_000) for _ in range(20)]
        listed = client.get("/box/")
        resource.prlimit(service, resource.RLIMIT_FSIZE, before)
        afterwards = put(client, "box/again", "yes")
        kept = [client.get(f"/box/{number}", headers={"Accept": wire.OCTET_STREAM}).text for number in acknowledged]
        ended = running.end()

    told = [line for line in ended.err.splitlines() if "refused (unavailable, " in line]
    assert 0 < len(told) < 8
    assert all("the store" in line for line in told)
    assert all(answer.status_code == 503 and "fate" in answer.json() for answer in refused)
    assert answers[-1].status_code == 503
    assert answers[-1].json()["fate"] in ("not-applied", "unknown")
    assert listed.status_code == 200
    assert afterwards.status_code == 201
    assert len(kept) > 5
    assert set(kept) == {"x" * 30_000}


@contextmanager
def read_only(file: Path) -> Iterator[None]:
    """Let nobody write *file*, not even root."""
    if os.geteuid() != 0:
        file.chmod(0o400)
    else:
        subprocess.run(["chattr", "+i", file], check=True)
    try:
        yield
    finally:
        if os.geteuid() != 0:
            file.chmod(0o600)
        else:
            subprocess.run(["chattr", "-i", file], check=True)


def test_a_store_that_may_not_be_written_is_never_ready(tmp_path: Path) -> None:
    """A service does not start on it, one whose worker starts on it ends, and both say why; then all is well."""
    home = tmp_path / "home"
    file = home / "data" / "strongroom.db"
    with up(home) as running, through_proxy(running) as client:
        client.post("/box/")
        with read_only(file):
            os.kill(worker("storage")(running), signal.SIGKILL)
            ended = running.ended()
    with read_only(file):
        started = spawn("up", "--home", home, "--listen", "127.0.0.1:0", "--json")
        out, err = started.communicate(timeout=60)

    assert (ended.code, started.returncode, out) == (2, 2, "")
    assert "may not be written" in ended.err
    assert "may not be written" in err
    with up(home) as again, through_proxy(again) as client:
        assert put(client, "box/a", "aaa").status_code == 201


def test_a_store_that_is_moved_away_takes_no_write(tmp_path: Path) -> None:
    """Of a file that no restart would find, writes are refused and known not to be applied; put back, they go on."""
    with up(tmp_path / "home") as running, through_proxy(running) as client:
        client.post("/box/")
        file = running.home / "data" / "strongroom.db"
        file.rename(tmp_path / "away")
        refused = put(client, "box/a", "aaa")
        eventually(lambda: httpx.get(running.url + "/readyz").status_code == 503)
        (tmp_path / "away").rename(file)
        eventually(lambda: httpx.get(running.url + "/readyz").status_code == 200)

        assert (refused.status_code, refused.json()["fate"]) == (503, "not-applied")
        assert put(client, "box/a", "aaa").status_code == 201
        ended = running.end()
    assert "was moved or replaced under the running service" in ended.err


TAMPERINGS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "edited": lambda token, _: token[:-1] + (b"A" if token[-1:] != b"A" else b"B"),
    "cut": lambda token, _: token[: len(token) // 2],
    "emptied": lambda _, __: b"",
    "swapped": lambda _, other: other,
    "in the clear": lambda _, __: b'{"type":"simple","value":"planted"}',
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_a_tampered_row_fails_closed(tmp_path: Path, tampering: str) -> None:
    """A row changed in the store is a 500 that reveals nothing, an audit line that says why, and harms no other."""
    with up(tmp_path / "home") as running, through_proxy(running) as client:
        client.post("/box/")
        put(client, "box/a", "aaa")
        put(client, "box/b", "bbb")
        with closing(sqlite3.connect(running.home / "data" / "strongroom.db")) as store, store:
            ((a,), (b,)) = store.execute(
                "select value from entry where name in ('secrets/box/a', 'secrets/box/b') order by name"
            )
            store.execute("update entry set value = ? where name = 'secrets/box/a'", (TAMPERINGS[tampering](a, b),))

        answer = client.get("/box/a")
        batch = client.post("/?batch=get", json={"names": ["box/a", "box/b"]})
        other = client.get("/box/b")

        assert [answer.status_code, batch.status_code, other.status_code] == [500, 500, 200]
        assert set(answer.json()) == {"type", "title", "status", "request_id", "fate"}
        assert "bbb" not in batch.text
        lines = audit_lines(running.home / "log" / "audit.log")
        failed = [line for line in lines if line["decision"] == "failed"]
        assert [(line["request"], line["name"]) for line in failed] == [
            (answer.headers["x-request-id"], "secrets/box/a"),
            (batch.headers["x-request-id"], "secrets/box/a"),
        ]
        assert all(line["reason"] for line in failed)


def rows(home: Path) -> list[tuple[object, ...]]:
    """Return every row of the store of a home in which nothing runs; the file's header counts who opened it."""
    with closing(sqlite3.connect(home / "data" / "strongroom.db")) as store:
        return store.execute("SELECT * FROM entry ORDER BY name").fetchall()


def refused(home: Path, *arguments: str) -> str:
    """Start on *home*, which must be refused, and return what is said to the operator."""
    process = spawn("up", "--home", home, "--listen", "127.0.0.1:0", *arguments)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    return err


def test_a_lost_root_key_is_never_replaced(tmp_path: Path) -> None:
    """When the store holds secrets and secrets.key is gone, the service says what to restore and makes no new one."""
    home = tmp_path / "home"
    with up(home) as running, through_proxy(running) as client:
        client.post("/box/")
        put(client, "box/a", "aaa")
    (home / "secrets.key").rename(tmp_path / "kept")

    said = refused(home)

    assert "restore" in said
    assert not (home / "secrets.key").exists()
    (tmp_path / "kept").rename(home / "secrets.key")
    with up(home) as running, through_proxy(running) as client:
        assert client.get("/box/a", headers={"Accept": wire.OCTET_STREAM}).text == "aaa"


def test_a_wrong_root_key_is_refused(tmp_path: Path) -> None:
    """A root key of another store stops the start, says so, and changes nothing."""
    with up(tmp_path / "one"), up(tmp_path / "two"):
        pass
    before = rows(tmp_path / "one")
    shutil.copy(tmp_path / "two" / "secrets.key", tmp_path / "one" / "secrets.key")

    said = refused(tmp_path / "one")

    assert "the store's root key is wrapped for file." in said
    assert "put the secrets.key that was made with this store in its place" in said
    assert rows(tmp_path / "one") == before


def test_an_audit_log_that_cannot_be_written_refuses_everything(tmp_path: Path) -> None:
    """Without its audit log the service reveals and changes nothing, is not ready, and recovers with the log."""
    with up(tmp_path / "home") as running, through_proxy(running) as client:
        client.post("/box/")
        put(client, "box/a", "sesame")
        log = running.home / "log"
        log.rename(tmp_path / "away")

        answers = [
            client.get("/box/a"),
            put(client, "box/b", "bbb"),
            client.delete("/box/a"),
            httpx.get(client.base_url),
        ]
        ready = httpx.get(f"{running.url}/readyz")
        (tmp_path / "away").rename(log)
        eventually(lambda: httpx.get(f"{running.url}/readyz").status_code == 200)

        checks = {"service": True, "audit": False, "store": True, "keyring": True}
        assert (ready.status_code, ready.json()) == (503, {"status": "unready", "state": "unlocked", "checks": checks})
        assert {(a.status_code, a.json()["type"], a.json()["fate"]) for a in answers} == {
            (503, "urn:strongroom:problem:audit-unavailable", "not-applied")
        }
        assert {answer.json()["detail"] for answer in answers[:3]} == {
            "the audit log cannot be written, so nothing was done: No such file or directory"
        }
        assert all("sesame" not in answer.text and "c2VzYW1l" not in answer.text for answer in answers)
        assert client.get("/box/").json() == ["a"]

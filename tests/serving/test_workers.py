"""A worker's life: it starts or says why not, is replaced without a refused connection, and ends in good order."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from strongroom.deploy.home import Home
from tests.deploy.running import eventually
from tests.raw_http import Client, read_message, request
from tests.served import ROOT, Running, gunicorn, tcp_listener, unix_listener
from tests.serving.conftest import SMALL

CANNOT = """
from strongroom.storage_service.errors import ConfigurationError
from tests.serving.face import Face


class App(Face):
    async def open(self):
        raise ConfigurationError("this face cannot serve; mend that")


app = App()
"""
FIRST_IS_SLOW = """
import asyncio
import os
from pathlib import Path
from strongroom.storage_service.errors import ConfigurationError
from tests.serving.face import Face


class App(Face):
    async def open(self):
        master = os.getppid()
        workers = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        if os.getpid() == min(map(int, workers)):
            await asyncio.sleep(1)
        raise ConfigurationError("this face cannot serve; mend that")


app = App()
"""
SLOW_START = """
import asyncio
from tests.serving.face import Face


class App(Face):
    async def open(self):
        print("opening", flush=True)
        await asyncio.sleep(600)


app = App()
"""

GRACE = """
import asyncio
from tests.serving.face import Face


class App(Face):
    async def _grace(self, exchange):
        await asyncio.sleep(0.5)
        exchange.answer(200, (), b"whole")


app = App()
"""


@pytest.fixture(params=["tcp", "unix"])
def listener(request: pytest.FixtureRequest, short_dir: Path) -> Iterator[socket.socket]:
    """A listener of each kind."""
    path = short_dir / f"l{os.urandom(4).hex()}"
    with tcp_listener() if request.param == "tcp" else unix_listener(path) as listening:
        yield listening


def place(listener: socket.socket) -> int | Path:
    """Where it listens."""
    name = listener.getsockname()
    return Path(name) if isinstance(name, str) else int(name[1])


def connected(listener: socket.socket) -> socket.socket:
    """Return a new connection to *listener*."""
    connection = socket.socket(listener.family)
    connection.settimeout(15)
    connection.connect(listener.getsockname())
    return connection


def said(connection: socket.socket, path: str) -> bytes:
    """Return what is answered to a GET."""
    connection.sendall(request("GET", path))
    return connection.recv(65536)


async def test_told_to_end_it_lets_go_of_the_idle_and_finishes_the_busy(
    listener: socket.socket, tmp_path: Path
) -> None:
    """Who waits for nothing is closed at once, also in the middle of a head; who waits for an answer gets it."""
    with gunicorn(tmp_path, SMALL, listener=listener) as running:
        async with (
            await Client.at(place(listener)) as silent,
            await Client.at(place(listener)) as idle,
            await Client.at(place(listener)) as half,
            await Client.at(place(listener)) as busy,
            await Client.at(place(listener)) as sending,
        ):
            half.writer.write(b"GET /quick HT")
            busy.writer.write(request("GET", "/hold"))
            sending.writer.write(request("PUT", "/echo", "content-length: 6", "expect: 100-continue"))
            assert (await idle.ask(request("GET", "/quick"))).status == 200
            assert await sending.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            assert await release_is_possible(idle)
            running.process.send_signal(signal.SIGTERM)
            listener.close()
            assert [await each.rest() for each in (silent, idle, half)] == [b"", b"", b""]
            sending.writer.write(b"abcdef")
            answer = await asyncio.wait_for(read_message(sending.reader), 10)
            assert (answer.status, answer.body, answer.get("connection")) == (200, b"abcdef", "close")
            assert await sending.rest() == b""
            # graceful_timeout is a second in these tests: who is not done by then is cut off.
            assert await busy.rest() == b""
        assert running.process.wait(15) == 0


async def test_replaced_it_says_with_an_answer_that_it_ends(listener: socket.socket, tmp_path: Path) -> None:
    """At a reload who asks goes on being answered, lastly with `Connection: close`; who asks nothing is closed soon."""
    with gunicorn(tmp_path, SMALL, listener=listener) as running:
        async with await Client.at(place(listener)) as asking, await Client.at(place(listener)) as idle:
            assert (await idle.ask(request("GET", "/quick"))).status == 200
            running.process.send_signal(signal.SIGHUP)
            async with asyncio.timeout(60):
                while (answer := await asking.ask(request("GET", "/quick"))).get("connection") != "close":
                    assert answer.status == 200
                    await asyncio.sleep(0.05)  # a client that asks now and then
                assert answer.status == 200
                assert await asking.rest() == b""
                assert await idle.rest() == b""
        async with await Client.at(place(listener)) as anew:
            assert (await anew.ask(request("GET", "/quick"))).get("connection") != "close"


async def release_is_possible(client: Client) -> bool:
    """Whether a request that is held is known to the face; it is, when one that came later was answered."""
    return (await client.ask(request("GET", "/later"))).status == 200


def test_a_request_that_is_held_is_finished_within_the_grace(listener: socket.socket, tmp_path: Path) -> None:
    """An answer that is under way goes out whole, and then the connection ends."""
    with gunicorn(tmp_path, GRACE, listener=listener) as running, connected(listener) as connection:
        assert b"/quick" in said(connection, "/quick")
        connection.sendall(request("GET", "/grace"))
        with connected(listener) as other:
            assert said(other, "/quick")
        running.process.send_signal(signal.SIGTERM)
        told = connection.recv(65536)
        assert told.endswith(b"connection: close\r\n\r\nwhole")
        assert connection.recv(1) == b""
        assert running.process.wait(15) == 0


def test_a_stop_during_the_start_is_never_lost(tmp_path: Path) -> None:
    """Whenever TERM comes, between the fork and the first answer, the end is an end: twenty starts."""
    with tcp_listener() as listener:
        for turn in range(20):
            home = tmp_path / str(turn)
            home.mkdir()
            with gunicorn(home, SMALL, listener=listener) as running:
                if turn % 2:
                    eventually(lambda running=running: running.workers)
                threading.Event().wait(turn * 0.02)
                running.process.send_signal(signal.SIGTERM)
                assert running.process.wait(10) in {0, -signal.SIGTERM}
                assert "SIGKILL" not in running.log.read_text()


def test_a_stop_ends_a_worker_that_is_still_opening(tmp_path: Path) -> None:
    """A store that does not answer keeps nobody from ending the service."""
    with tcp_listener() as listener, gunicorn(tmp_path, SLOW_START, listener=listener) as running:
        eventually(lambda: "opening" in running.log.read_text())
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(10) == 0


def test_workers_are_replaced_without_a_refused_connection(listener: socket.socket, tmp_path: Path) -> None:
    """Through six hang-ups every one of a loop's clients connects and is answered."""
    with gunicorn(tmp_path, SMALL, listener=listener, workers=2) as running:
        with connected(listener) as connection:
            assert said(connection, "/quick")
        told: list[bytes] = []
        ended = threading.Event()

        def ask() -> None:
            while not ended.is_set():
                with connected(listener) as connection:
                    told.append(said(connection, "/later")[:15])

        clients = [threading.Thread(target=ask) for _ in range(4)]
        for client in clients:
            client.start()
        for _ in range(6):
            before = running.workers
            running.process.send_signal(signal.SIGHUP)
            eventually(lambda before=before: len(running.workers) == 2 and not before & running.workers)
        ended.set()
        for client in clients:
            client.join()
    assert len(told) > 100
    assert set(told) == {b"HTTP/1.1 200 OK"}


@pytest.mark.parametrize(("application", "workers"), [(CANNOT, 1), (CANNOT, 3), (FIRST_IS_SLOW, 2)])
def test_a_worker_that_cannot_start_says_why_once_and_ends_the_start(
    tmp_path: Path, application: str, workers: int
) -> None:
    """One line, a code that is not 0, and no end of new workers, whichever of them comes to its end first."""
    with tcp_listener() as listener, gunicorn(tmp_path, application, listener=listener, workers=workers) as running:
        assert running.process.wait(20) != 0
        log = running.log.read_text()
    assert log.count("this face cannot serve; mend that") == 1
    assert "opening" not in log


def test_systemd_is_told_when_a_worker_serves(short_dir: Path, tmp_path: Path) -> None:
    """READY=1 comes once, not before a worker serves, and from the master, which is whom systemd knows."""
    address = short_dir / f"n{os.urandom(4).hex()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard, tcp_listener() as listener:
        heard.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        heard.bind(str(address))
        heard.settimeout(15)
        with gunicorn(
            tmp_path, SMALL, listener=listener, workers=2, environ={"NOTIFY_SOCKET": str(address)}
        ) as running:
            data, ancillary, _, _ = heard.recvmsg(1024, socket.CMSG_SPACE(12))
            pid = int.from_bytes(ancillary[0][2][:4], sys.byteorder)
            assert (data, pid) == (b"READY=1", running.process.pid)
            listener.close()  # the test's own end: what answers now is a worker
            with socket.create_connection(("127.0.0.1", port_of(running)), timeout=15) as connection:
                assert said(connection, "/quick")
            running.process.send_signal(signal.SIGHUP)
            first = running.workers
            eventually(lambda: len(running.workers) == 2 and not first & running.workers)
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(15) == 0
        heard.settimeout(0.1)
        with pytest.raises(TimeoutError):
            heard.recv(1024)


def port_of(running: Running) -> int:
    """Return the port that a gunicorn listens on, as the kernel tells it."""
    mine = {
        link[8:-1]
        for fd in Path(f"/proc/{running.process.pid}/fd").iterdir()
        if (link := str(fd.readlink())).startswith("socket:")
    }
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[9] in mine and fields[3] == "0A":
            return int(fields[1].split(":")[1], 16)
    raise AssertionError("it does not listen")


@pytest.mark.parametrize("application", [CANNOT, SLOW_START])
def test_systemd_is_not_told_of_what_does_not_serve(short_dir: Path, tmp_path: Path, application: str) -> None:
    """Sockets that listen are not yet a service."""
    address = short_dir / f"n{os.urandom(4).hex()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard, tcp_listener() as listener:
        heard.bind(str(address))
        environ = {"NOTIFY_SOCKET": str(address)}
        with gunicorn(tmp_path, application, listener=listener, environ=environ) as running:
            eventually(lambda: "opening" in running.log.read_text() or running.process.poll() is not None)
            running.process.send_signal(signal.SIGTERM)
            running.process.wait(15)
        heard.setblocking(False)
        with pytest.raises(BlockingIOError):
            heard.recv(1024)


def worker_of(connection: socket.socket) -> int:
    """Return the process at the other end."""
    told = said(connection, "/pid")
    return int(told.rpartition(b"\r\n\r\n")[2])


PIDS = SMALL.replace(
    "app = Face()",
    """import os


class App(Face):
    async def _pid(self, exchange):
        exchange.answer(200, (), b"%d" % os.getpid())


app = App()
""",
)


def test_connections_spread_over_the_workers(listener: socket.socket, tmp_path: Path) -> None:
    """Sixteen that are opened at once, or again after some went, lie about eight with each of two workers.

    A worker that does not run in the moment that the other leaves it gets none then; so not every turn has to succeed.
    """
    spread = 0
    with gunicorn(tmp_path, PIDS, listener=listener, workers=2) as running:
        log = running.log
        eventually(lambda: log.read_text().count("Booting worker") == 2)
        for worker in running.workers:
            eventually(lambda worker=worker: serves(listener, worker))
        for _ in range(16):
            connections = [connected(listener) for _ in range(16)]
            pids = [worker_of(connection) for connection in connections]
            # All of one worker's go; the next go to whom has fewer.
            for connection, pid in zip(connections, pids, strict=True):
                if pid == pids[0]:
                    connection.close()
            left = [connection for connection, pid in zip(connections, pids, strict=True) if pid != pids[0]]
            new = []
            for _ in range(len(connections) - len(left)):
                new.append(connected(listener))
                assert said(new[-1], "/quick")
            again = [worker_of(connection) for connection in (*left, *new)]
            for connection in (*left, *new):
                connection.close()
            eventually(lambda: idle(listener, running))
            spread += level(pids) and level(again)
            if spread == 3:
                break
    assert spread == 3


def level(pids: list[int]) -> bool:
    """Whether sixteen connections lie with two workers, about as many with each."""
    return len(pids) == 16 and all(6 <= pids.count(pid) <= 10 for pid in pids)


def serves(listener: socket.socket, worker: int) -> bool:
    """Whether *worker* answers: one of some connections is its."""
    connections = [connected(listener) for _ in range(8)]
    try:
        return worker in {worker_of(connection) for connection in connections}
    finally:
        for connection in connections:
            connection.close()


def idle(listener: socket.socket, running: Running) -> bool:
    """Whether both workers have let go of everybody."""
    connections = [connected(listener) for _ in range(2)]
    try:
        for connection in connections:
            said(connection, "/quick")
        return len({worker_of(connection) for connection in connections}) == 2
    finally:
        for connection in connections:
            connection.close()


def test_the_product_ends_a_start_that_cannot_be(tmp_path: Path) -> None:
    """``serve`` with a store that is none ends with a code that is not 0, and one of its workers says why."""
    home = Home(tmp_path / "home")
    home.prepare()
    home.furnish()
    (tmp_path / "store.db").write_text("this is no database, however long one looks at it" * 100)
    (tmp_path / "home/strongroom.toml").write_text(f'store = "sqlite:{tmp_path}/store.db"\n')
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "strongroom.deploy.cli",
            "serve",
            "storage",
            "--home",
            str(tmp_path / "home"),
            "--workers",
            "3",
        ],
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    told = [line for line in done.stderr.splitlines() if " ERROR strongroom.deploy.serving" in line]
    assert done.returncode > 0
    assert len(told) == 1, done.stderr
    assert not re.search("Traceback|unexpected ", done.stderr)

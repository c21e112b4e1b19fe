"""Fixtures that give a test a running service: the product itself, in a home of its own.

    def test_reads_its_password(strongroom):
        strongroom.create_container("db")
        strongroom.set_secret("db", "password", "hunter2")
        assert my_application(...).connects()

======================  =======  =============================================================================
fixture                 scope    what it is
======================  =======  =============================================================================
strongroom_home         session  the service's home directory (mode 0700), empty until the service starts
strongroom_server       session  both processes, running: `Server`, with home, socket and url
strongroom_proxy_url    session  where the HTTP proxy listens, on loopback
strongroom              test     a `StorageClient` on the unix socket, with all rights
strongroom_async        test     an `AsyncStorageClient`, not yet entered: ``async with strongroom_async as client``
======================  =======  =============================================================================

They start a service, and so need ``pip install '.[server]'``, and say so where the library alone is.
One service serves the whole session, because starting one takes a second or so; what a test leaves in it, the next
one finds, so let each use a container or keys of its own. Importing this module imports pytest and nothing of ours.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from strongroom.storage_service.client import AsyncStorageClient, StorageClient

READY_WITHIN: Final = 60.0  # seconds; much longer than a start takes, so that only a broken one reaches it
ENDED_WITHIN: Final = 30.0  # seconds for the requests under way to finish and the processes to end


@dataclass(frozen=True)
class Server:
    """A running service: its home, its unix socket, the url of its HTTP proxy, and the process to end."""

    home: Path
    socket: Path
    url: str
    pid: int


@pytest.fixture(scope="session")
def strongroom_home() -> Iterator[Path]:
    """A directory for the service, removed in the end.

    Not below pytest's own: a unix socket's path is at most 107 bytes, and those are long.
    """
    base = Path(tempfile.mkdtemp(prefix="strongroom-"))
    home = base / "home"
    home.mkdir(mode=0o700)
    yield home
    shutil.rmtree(base)


@pytest.fixture(scope="session")
def strongroom_server(strongroom_home: Path) -> Iterator[Server]:
    """The storage service and its HTTP proxy, on a SQLite file in the home, until the session ends."""
    from strongroom.deploy import extras

    if lacking := extras.lacking("server"):
        pytest.fail(f"strongroom_server starts a service; {lacking}", pytrace=False)
    up = [
        sys.executable,
        "-m",
        "strongroom.deploy.cli",
        "up",
        "--home",
        str(strongroom_home),
        "--listen",
        "127.0.0.1:0",
        "--json",
    ]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("STRONGROOM_")}
    log = strongroom_home.with_name("log")
    with (
        log.open("wb") as errors,
        subprocess.Popen(  # noqa: S603  # a command of ours, without a shell
            up,
            cwd=Path(__file__).parents[2],  # so that it is this product that runs, installed or not
            env=environ | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        ) as process,
    ):
        overdue = Timer(READY_WITHIN, process.kill)
        overdue.start()
        try:
            said = process.stdout.readline() if process.stdout else b""  # one line, once both processes are ready
            overdue.cancel()
            if not said:
                raise RuntimeError(f"strongroom did not start:\n{log.read_text(errors='replace')}")
            running = json.loads(said)
            yield Server(strongroom_home, Path(running["socket"]), running["url"], process.pid)
        finally:
            overdue.cancel()
            process.terminate()
            _bury(process)


@pytest.fixture(scope="session")
def strongroom_proxy_url(strongroom_server: Server) -> str:
    """The url of the HTTP proxy."""
    return strongroom_server.url


@pytest.fixture
def strongroom(strongroom_server: Server) -> "Iterator[StorageClient]":
    """A client with all rights."""
    from strongroom.storage_service.client import StorageClient

    with StorageClient.from_home(strongroom_server.home) as client:
        yield client


@pytest.fixture
def strongroom_async(strongroom_server: Server) -> "AsyncStorageClient":
    """A client with all rights, for the test to enter on its own event loop; this needs no plugin for asyncio."""
    from strongroom.storage_service.client import AsyncStorageClient

    return AsyncStorageClient.from_home(strongroom_server.home)


def _bury(process: "subprocess.Popen[bytes]") -> None:
    """Wait for the end of what was told to end; nothing outlives the session."""
    try:
        process.wait(ENDED_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        raise

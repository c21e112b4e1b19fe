"""What the tests of the proxy share: a scripted service on a unix socket, and the real proxy before it."""

import json
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import argon2
import pytest

from strongroom.storage_service.client import AsyncStorageClient
from tests.raw_http import ScriptedService
from tests.served import PROXY, SERVICE, gunicorn, tcp_listener, unix_listener

CONNECTIONS = 8
TIMEOUT = 2.0  # seconds
PASSWORD = "correct:horse:battery"


@dataclass(frozen=True)
class Proxy:
    """A proxy that runs, and the socket that it expects its service on."""

    port: int
    socket: Path
    log: Path


@pytest.fixture(scope="session")
def short_dir() -> Iterator[Path]:
    """A directory for sockets: the kernel takes 107 bytes of a socket's path, and pytest's are longer than that."""
    path = Path(tempfile.mkdtemp(prefix="sr-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def users_file(short_dir: Path) -> Path:
    """Two users, of whom alice may see credentials."""
    path = short_dir / "users.json"
    hashed = argon2.PasswordHasher.from_parameters(argon2.profiles.CHEAPEST).hash(PASSWORD)
    path.write_text(json.dumps({"alice": {"hash": hashed, "reveal_credentials": True}, "bob": {"hash": hashed}}))
    path.chmod(0o600)
    return path


@pytest.fixture(scope="session")
def proxy(short_dir: Path, users_file: Path) -> Iterator[Proxy]:
    """The proxy, in a process of its own."""
    home = short_dir / "proxy"
    home.mkdir()
    socket = short_dir / "s"
    text = PROXY.format(
        socket=str(socket), key="proxy-key", connections=CONNECTIONS, timeout=TIMEOUT, users=str(users_file)
    )
    with tcp_listener() as listener, gunicorn(home, text, listener=listener) as running:
        yield Proxy(listener.getsockname()[1], socket, running.log)


@pytest.fixture
async def service(proxy: Proxy) -> AsyncIterator[ScriptedService]:
    """The service that the proxy expects, following the test's script."""
    async with ScriptedService(proxy.socket) as service:
        yield service


@dataclass(frozen=True)
class Platform:
    """The real service, and the proxy before it."""

    home: Path
    port: int
    log: Path
    inside: AsyncStorageClient


@pytest.fixture(scope="session")
def platform_processes(short_dir: Path, users_file: Path) -> Iterator[tuple[Path, int, Path]]:
    """Both processes, as they run in earnest."""
    home, key = short_dir / "service", secrets.token_hex(32)
    home.mkdir(mode=0o700)
    (home / "key").write_text(key)
    front = short_dir / "front"
    front.mkdir()
    application = PROXY.format(
        socket=str(home / "s"), key=key, connections=CONNECTIONS, timeout=10.0, users=str(users_file)
    )
    with (
        unix_listener(home / "s") as inner,
        tcp_listener() as outer,
        gunicorn(home, SERVICE.format(home=str(home), key=key, users=str(users_file)), listener=inner),
        gunicorn(front, application, listener=outer) as running,
    ):
        yield home, outer.getsockname()[1], running.log


@pytest.fixture
async def platform(platform_processes: tuple[Path, int, Path]) -> AsyncIterator[Platform]:
    """The whole, with a client on the socket that has every right."""
    home, port, log = platform_processes
    async with AsyncStorageClient(socket=home / "s", api_id="own", api_key=(home / "key").read_text()) as client:
        yield Platform(home, port, log, client)

"""What the tests of the connection share: a small face on TCP and on a unix socket, and both real faces."""

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.served import PROXY, SERVICE, Running, gunicorn, tcp_listener, unix_listener

SMALL = """
from tests.serving.face import Face

app = Face()
"""


@dataclass(frozen=True)
class Served:
    """A face that is served: where, by what gunicorn, and what a body is taken with."""

    place: int | Path
    path: bytes  # of a body that is taken
    fields: bytes  # whole lines: credentials
    running: Running

    @property
    def log(self) -> Path:
        """Where it logs."""
        return self.running.log


@pytest.fixture(scope="session")
def short_dir() -> Iterator[Path]:
    """A directory for sockets: the kernel takes 107 bytes of a socket's path, and pytest's are longer than that."""
    path = Path(tempfile.mkdtemp(prefix="sr-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def small_tcp(short_dir: Path) -> Iterator[Served]:
    """The small face on TCP."""
    home = short_dir / "small_tcp"
    home.mkdir()
    with tcp_listener() as listener, gunicorn(home, SMALL, listener=listener) as running:
        yield Served(listener.getsockname()[1], b"/echo", b"", running)


@pytest.fixture(scope="session")
def small_unix(short_dir: Path) -> Iterator[Served]:
    """The small face on a unix socket."""
    home = short_dir / "small_unix"
    home.mkdir()
    with unix_listener(home / "s") as listener, gunicorn(home, SMALL, listener=listener) as running:
        yield Served(home / "s", b"/echo", b"", running)


@pytest.fixture(params=["tcp", "unix"])
def small(request: pytest.FixtureRequest) -> Served:
    """The small face, on both."""
    served: Served = request.getfixturevalue(f"small_{request.param}")
    return served


@contextmanager
def both(place: Path, workers: int = 1) -> Iterator[dict[str, Served]]:
    """Run service and proxy below the directory *place*, which has a short name."""
    home, front, key = place / "service", place / "front", secrets.token_hex(32)
    home.mkdir(mode=0o700)
    front.mkdir()
    users = front / "users.json"
    users.write_text("{}")
    users.chmod(0o600)
    proxy = PROXY.format(socket=str(home / "s"), key=key, connections=16, timeout=10.0, users=str(users))
    fields = f"CUSTODIA_AUTH_ID: own\r\nCUSTODIA_AUTH_KEY: {key}\r\nContent-Type: application/octet-stream\r\n".encode()
    with (
        unix_listener(home / "s") as inner,
        tcp_listener() as outer,
        gunicorn(
            home, SERVICE.format(home=str(home), key=key, users=str(users)), listener=inner, workers=workers
        ) as service,
        gunicorn(front, proxy, listener=outer) as front_running,
    ):
        yield {
            "socket": Served(home / "s", b"/secrets/s/k", fields, service),
            "proxy": Served(outer.getsockname()[1], b"/api/v0/secrets/p/k", fields, front_running),
        }


@pytest.fixture(scope="session")
def product(short_dir: Path) -> Iterator[dict[str, Served]]:
    """Service and proxy, as they run in earnest."""
    with both(short_dir) as served:
        yield served


@pytest.fixture(params=["tcp", "unix", "socket", "proxy"])
def face(request: pytest.FixtureRequest) -> Served:
    """Each face: the small one on TCP and on a unix socket, the service's and the proxy's."""
    if request.param in {"tcp", "unix"}:
        served: Served = request.getfixturevalue(f"small_{request.param}")
    else:
        served = request.getfixturevalue("product")[request.param]
    return served

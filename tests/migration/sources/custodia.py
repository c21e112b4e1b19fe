"""Estates of the real Custodia 0.6.0: its own server, on a socket, over its own stores in SQLite.

All that an estate holds, Custodia has stored, but for what is malformed. The server of those that are read by file goes
on running, as an operator's would.
"""

import base64
import contextlib
import json
import secrets
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final

import httpx

from strongroom.migration.sources.custodia.records import id_of
from strongroom.models import HostCreds, Secret
from tests.ssh_keys import private_key

CUSTODIA: Final = Path(__file__).parents[3] / ".venv-custodia/bin/custodia"  # made by `make test`
READY_WITHIN: Final = 30.0  # seconds, also on a busy machine
POLL: Final = 0.02  # seconds between two questions
TABLE: Final = "CustodiaSecrets"
API_ID: Final = "mover"

_OVERLAY: Final = """
[store:sqlite]
handler = SqliteStore
dburi = ${configdir}/custodia.db
[store:served]
handler = EncryptedOverlay
backing_store = sqlite
master_key = ${configdir}/master.key
autogen_master_key = true
"""
STORES: Final[Mapping[str, str]] = {
    "pinned": _OVERLAY,  # which is what Custodia does if it is told nothing
    "unpinned": f"{_OVERLAY}secret_protection = encrypt\n",
    "short key": f"{_OVERLAY}master_enctype = A128CBC-HS256\n",
    "encrypted store": """
[store:served]
handler = EncryptedStore
dburi = ${configdir}/custodia.db
master_key = ${configdir}/master.key
""",
    "in the clear": """
[store:served]
handler = SqliteStore
dburi = ${configdir}/custodia.db
""",
}
"""The stores that Custodia serves secrets from here, by how they are encrypted."""

_FILL: Final = """
import json, sys
from custodia.server import _load_plugins
from custodia.server.args import parse_args
from custodia.server.config import parse_config

parser, config = parse_config(parse_args(sys.argv[1:]))
_load_plugins(config, parser)
for line in sys.stdin:
    for key, value in json.loads(line):
        config["stores"]["served"].set(key, value, replace=True)
    print("kept", flush=True)
"""
"""What has Custodia's own store keep many values, without a request for each: a line of them at a time."""

_CONF: Final = """
[global]
server_socket = {socket}
auditlog = ${{configdir}}/audit.log
[store:keys]
handler = SqliteStore
dburi = ${{configdir}}/keys.db
[auth:user]
handler = SimpleHeaderAuth
value = tests
[auth:keys]
handler = SimpleAuthKeys
store = keys
[authz:paths]
handler = SimplePathAuthz
paths = /. /secrets
[/]
handler = Root
[/secrets]
handler = Secrets
store = served
"""


class Server:
    """A Custodia in *home*, where its configuration, its store, its keys and its log are."""

    def __init__(self, home: Path, store: str, sockets: Path) -> None:
        assert CUSTODIA.exists(), "Custodia is missing: make .venv-custodia/complete"
        self.home = home
        self.socket = sockets / "custodia.sock"  # in a directory of its own: a socket's path is at most 108 bytes
        self.conf, self.db = home / "custodia.conf", home / "custodia.db"
        self.key, self.api_key = home / "master.key", home / "api.key"
        self.conf.write_text(_CONF.format(socket=self.socket) + STORES[store])
        if store == "encrypted store":
            self._file(self.key, json.dumps({"kty": "oct", "k": secrets.token_urlsafe(64)}))
        self._file(self.api_key, secrets.token_urlsafe(32))
        self.client = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.socket)),
            base_url="http://custodia/secrets",
            headers={"REMOTE_USER": "tests"},
            timeout=READY_WITHIN,
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._filler: subprocess.Popen[str] | None = None
        self._made: set[tuple[str, ...]] = set()
        self.start()
        with self.sql("keys.db") as table:
            table.execute(f"INSERT INTO {TABLE} VALUES (?, ?)", (f"custodiaSAK/{API_ID}", self.api_key.read_text()))

    def start(self) -> None:
        """Start it, and wait until it answers; from the main thread, at whose end it is killed (prctl(2))."""
        with (self.home / "output").open("ab") as output:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", CUSTODIA, self.conf],
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + READY_WITHIN
        while True:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.socket))
                return
            assert self._process.poll() is None, (self.home / "output").read_text()
            assert time.monotonic() < deadline, "Custodia does not answer"
            time.sleep(POLL)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(READY_WITHIN)
            self._process = None
        self.socket.unlink(missing_ok=True)  # where it was too busy to do so itself

    def close(self) -> None:
        """End it for good."""
        self.stop()
        self.client.close()
        if self._filler is not None:
            self._filler.communicate(timeout=READY_WITHIN)

    def ask(self, method: str, path: str, *allowed: int, **request: object) -> httpx.Response:
        """Return its answer to a request for a secret; the status is to be one of *allowed*."""
        answer = self.client.request(method, path, **request)  # type: ignore[arg-type]
        assert answer.status_code in allowed, (method, path, answer.status_code)
        return answer

    def make_container(self, *path: str) -> None:
        """Make a container, and those it lies in."""
        for depth in range(1, len(path) + 1):
            if path[:depth] not in self._made:
                self.ask("POST", "/" + "/".join(path[:depth]) + "/", 200, 201)
                self._made.add(path[:depth])

    def store(self, path: str, value: str | bytes) -> None:
        """Store a secret in place of the one that is there: a text as a message, bytes as they are."""
        self.make_container(*path.split("/")[:-1])
        self.ask("DELETE", f"/{path}", 204, 404)
        if isinstance(value, str):
            self.ask("PUT", f"/{path}", 201, json={"type": "simple", "value": value})
        else:
            self.ask("PUT", f"/{path}", 201, content=value, headers={"Content-Type": "application/octet-stream"})

    def fill(self, values: Mapping[str, str | bytes]) -> None:
        """Store many secrets at once."""
        for container in {path.rpartition("/")[0] for path in values}:
            self.make_container(*container.split("/"))
        rows = [
            (f"keys/{path}", value if isinstance(value, str) else base64.b64encode(value).decode())
            for path, value in values.items()
        ]
        if self._filler is None:  # one for all: it takes longer to start than to keep a thousand
            self._filler = subprocess.Popen(
                [
                    "setpriv",
                    "--pdeathsig",
                    "KILL",
                    CUSTODIA.with_name("python"),
                    "-W",
                    "ignore",
                    "-c",
                    _FILL,
                    self.conf,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._filler.stdin is not None
        assert self._filler.stdout is not None
        self._filler.stdin.write(json.dumps(rows) + "\n")
        self._filler.stdin.flush()
        assert self._filler.stdout.readline() == "kept\n"

    @contextmanager
    def sql(self, name: str = "custodia.db") -> Iterator[sqlite3.Connection]:
        """Give its database, for what Custodia would not do."""
        with closing(sqlite3.connect(self.home / name)) as connection, connection:
            yield connection

    def rows(self) -> dict[str, str]:
        """Return what is stored."""
        with self.sql() as table:
            return dict(table.execute(f"SELECT key, value FROM {TABLE}"))

    @staticmethod
    def _file(path: Path, content: str) -> None:
        path.write_text(content)
        path.chmod(0o600)


class CustodiaEstate:
    """An estate that is read from the file of Custodia's store."""

    kind = "custodia-sqlite"

    def __init__(self, server: Server, *, encrypted: bool) -> None:
        self.server = server
        self.place = str(server.db)
        self.options: Mapping[str, Sequence[str]] = {"key": [str(server.key)]} if encrypted else {}
        self._secrets: dict[int, str] = {}

    def put(self, number: int) -> str:
        """Make or change the item *number*: one in three the credentials of a host, in octets as CPD-101 has them."""
        return self.put_secret(number, _text(number) if number % 3 else private_key())

    def put_secret(self, number: int, text: str) -> str:
        """Make or change the item *number* with that secret, which a host has in base64."""
        path, value = self._made(number, text)
        self.server.store(path, value)
        return self._id(path)

    def put_many(self, numbers: Sequence[int]) -> list[str]:
        """Make or change many."""
        made = [self._made(number, _text(number) if number % 3 else private_key()) for number in numbers]
        self.server.fill(dict(made))
        return [self._id(path) for path, _ in made]

    def break_one(self) -> str:
        """Lay a value under another key than it belongs to, or what no host has, as a row."""
        path = f"hosts/broken-{secrets.token_hex(4)}"
        self.server.make_container("hosts")
        with self.server.sql() as table:
            table.execute(f"INSERT INTO {TABLE} VALUES (?, ?)", (f"keys/{path}", "no value of Custodia's"))
        return self._id(path)

    def change(self, key: str, /) -> None:
        """Store something else there."""
        path = key.removeprefix(self._id(""))
        self.server.store(path, _content(path, private_key()))

    def remove(self, key: str) -> None:
        """Remove the item of that id."""
        self.server.ask("DELETE", "/" + key.removeprefix(self._id("")), 204)

    def secret_of(self, number: int) -> str:
        """Return what `put` stored last; of a host its key, in base64."""
        return self._secrets[number]

    def raw(self) -> Iterator[bytes]:
        """Yield the file of the store, and what SQLite has beside it."""
        for path in sorted(self.server.home.glob("custodia.db*")):
            yield path.read_bytes()

    def _id(self, path: str) -> str:
        return id_of(f"keys/{path}".encode())

    def _made(self, number: int, text: str) -> tuple[str, str | bytes]:
        path = f"hosts/h{number:06}" if number % 3 == 0 else f"law/s{number:06}"
        self._secrets[number] = base64.b64encode(text.encode()).decode() if number % 3 == 0 else text
        return path, _content(path, text)


class CustodiaSocketEstate(CustodiaEstate):
    """An estate that is read from the running Custodia."""

    kind = "custodia"

    def __init__(self, server: Server) -> None:
        super().__init__(server, encrypted=True)
        self.place = str(server.socket)
        self.options = {"container": ["hosts", "law"], "api_id": [API_ID], "api_key_file": [str(server.api_key)]}
        server.make_container("hosts")
        server.make_container("law")

    def stop(self) -> None:
        """End Custodia."""
        self.server.stop()

    def start(self) -> None:
        """Start it again."""
        self.server.start()

    def _id(self, path: str) -> str:
        return id_of(path.encode())


@contextmanager
def server(directory: Path, store: str = "pinned") -> Iterator[Server]:
    """Run a Custodia in *directory*, over one of `STORES`."""
    with ExitStack() as stack:
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sr-custodia-")))
        running = Server(directory, store, sockets)
        stack.callback(running.close)
        yield running


@contextmanager
def estate_overlay(directory: Path) -> Iterator[CustodiaEstate]:
    """Give a store under EncryptedOverlay, every value pinned to its key."""
    with server(directory, "pinned") as running:
        yield CustodiaEstate(running, encrypted=True)


@contextmanager
def estate_unpinned(directory: Path) -> Iterator[CustodiaEstate]:
    """Give a store under EncryptedOverlay as it was before it pinned."""
    with server(directory, "unpinned") as running:
        yield CustodiaEstate(running, encrypted=True)


@contextmanager
def estate_encrypted_store(directory: Path) -> Iterator[CustodiaEstate]:
    """Give an EncryptedStore."""
    with server(directory, "encrypted store") as running:
        yield CustodiaEstate(running, encrypted=True)


@contextmanager
def estate_clear(directory: Path) -> Iterator[CustodiaEstate]:
    """Give a SqliteStore that nothing encrypts."""
    with server(directory, "in the clear") as running:
        yield CustodiaEstate(running, encrypted=False)


@contextmanager
def estate_socket(directory: Path) -> Iterator[CustodiaSocketEstate]:
    """Give a running Custodia."""
    with server(directory, "pinned") as running:
        yield CustodiaSocketEstate(running)


def _text(number: int) -> str:
    return f"the secret of {number}: {secrets.token_hex(16)}"


def _content(path: str, text: str) -> str | bytes:
    container, _, key = path.rpartition("/")
    if container != "hosts":
        return text
    encoded = base64.b64encode(text.encode()).decode()
    return HostCreds(address=key, ssh_priv_key=Secret(encoded)).to_json()

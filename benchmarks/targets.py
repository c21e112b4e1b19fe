"""What is measured: Strongroom on two stores, OpenBao, Custodia, and a route that does nothing.

Each target is started as its own documentation tells to for production, as far as one machine can: OpenBao with raft
storage, sealed, initialised and unsealed, never in dev mode; Custodia with its encrypted overlay on SQLite. OpenBao
runs twice, as it is installed and with its file audit; the others always write an audit log. Nothing speaks TLS, since
all of it stays on this machine.
"""

import json
import secrets
import sqlite3
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx

from benchmarks.load import Plan
from benchmarks.processes import Program, free_port

ROOT = Path(__file__).resolve().parents[1]
BAO = ROOT / ".venv-openbao/bin/bao"
CUSTODIA = ROOT / ".venv-custodia/bin/custodia"
SCRIPTS = Path(sys.executable).parent  # of the environment that runs this
# As long as an RSA-2048 key in PEM, which is what a platform keeps most; random, so that nothing compresses it.
SECRET = "".join(f"{secrets.token_urlsafe(48)}\n" for _ in range(26))


@dataclass(frozen=True, slots=True)
class Door:
    """Where a target listens, and what makes a get, a put and a batch there."""

    address: str
    root: str  # path that the records lie under; "{}" follows it
    headers: dict[str, str] = field(default_factory=dict)
    put_headers: dict[str, str] = field(default_factory=dict)
    body: str = SECRET

    def get(self, count: int) -> Plan:
        """Fetch the first *count* records, one after the other."""
        return Plan(self.address, "GET", self.root + "h{}", self.headers, count=count)

    def put(self, first: int) -> Plan:
        """Create records that are not there, from number *first* on."""
        return replace(self._put, path=self.root + "n{}", first=first)

    def fill(self, first: int, count: int) -> Plan:
        """Create *count* of the records that `get` fetches, from number *first* on."""
        return replace(self._put, path=self.root + "h{}", first=first, limit=count, connections=16, seconds=900)

    @property
    def _put(self) -> Plan:
        return Plan(self.address, "PUT", self.root, {**self.headers, **self.put_headers}, self.body)


class Target(ABC):
    """One thing that is measured, in a folder of its own."""

    name: str
    version: str = ""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(parents=True)
        self._program: Program | None = None

    @property
    @abstractmethod
    def tcp(self) -> Door | None:
        """Its door on the network."""

    @property
    @abstractmethod
    def socket(self) -> Door | None:
        """Its door on a unix socket."""

    @abstractmethod
    def start(self) -> float:
        """Start it and return the seconds until it serves secrets."""

    @abstractmethod
    def prepare(self) -> None:
        """Make what must be there before the first record, once."""

    def batch(self, names: int) -> Plan | None:
        """Return a request for *names* records at once, where the target has one."""
        del names
        return None

    def memory(self) -> float:
        """Return the MiB all its processes hold."""
        assert self._program is not None
        return self._program.memory()

    def worked(self) -> float:
        """Return the seconds of processor time that all its processes have taken."""
        assert self._program is not None
        return self._program.worked()

    def stop(self) -> None:
        """End all its processes."""
        if self._program is not None:
            self._program.stop()
            self._program = None

    def _started(
        self, command: list[str | Path], ready: Callable[[], bool], cwd: Path | None = None, **environ: str
    ) -> float:
        self._program = Program([str(part) for part in command], self.home / "output.log", environ, cwd)
        return self._program.wait_until(ready)


class Strongroom(Target):
    """Both processes of ``strongroom up``, as it comes; *source* is the tree it is run from."""

    def __init__(self, home: Path, store: str = "sqlite", source: Path = ROOT) -> None:
        super().__init__(home)
        self.name = "Strongroom, SQLite" if store == "sqlite" else "Strongroom, etcd"
        self._store = store
        self._source = source
        self._port = free_port()
        self.service_home = home / "home"

    def start(self, *, unlocked: bool = True) -> float:
        """Start it as an operator would; if it does not come up *unlocked*, return the seconds until it only lives."""
        # An earlier tree may be one whose folders were imported by their own names.
        module = "strongroom.deploy.cli" if (self._source / "strongroom").is_dir() else "deploy.cli"
        command: list[str | Path] = [sys.executable, "-m", module, "up", "--home", self.service_home]
        command += ["--listen", f"127.0.0.1:{self._port}", "--store", self._store]
        with httpx.Client(base_url=f"http://127.0.0.1:{self._port}") as client:
            ready = lambda: client.get("/readyz" if unlocked else "/livez").is_success  # noqa: E731
            # Python looks in the folder it is run in before it looks anywhere else.
            return self._started(command, ready, self._source, PYTHONPATH=str(self._source))

    def prepare(self) -> None:
        """Make the container."""
        with httpx.Client(headers=self._credentials()) as client:
            client.post(f"http://127.0.0.1:{self._port}/api/v0/secrets/bench/").raise_for_status()

    def _credentials(self) -> dict[str, str]:
        known = json.loads((self.service_home / "client.json").read_text())
        return {"CUSTODIA-AUTH-ID": known["api_id"], "CUSTODIA-AUTH-KEY": known["api_key"]}

    @property
    def tcp(self) -> Door:
        """The proxy."""
        return self._door(f"127.0.0.1:{self._port}", "/api/v0/secrets/bench/")

    @property
    def socket(self) -> Door:
        """The storage service itself."""
        return self._door(json.loads((self.service_home / "client.json").read_text())["socket"], "/secrets/bench/")

    def _door(self, address: str, root: str) -> Door:
        raw = "application/octet-stream"
        return Door(address, root, {**self._credentials(), "Accept": raw}, {"Content-Type": raw})

    def batch(self, names: int) -> Plan:
        """Ask the proxy for many at once."""
        body = json.dumps({"names": [f"bench/h{number}" for number in range(names)]})
        headers = {**self._credentials(), "Content-Type": "application/json"}
        return Plan(self.tcp.address, "POST", "/api/v0/secrets/?batch=get", headers, body)


class Etcd(Target):
    """The etcd that Strongroom keeps its records in; also a floor of its own."""

    name = "etcd"

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.address = f"127.0.0.1:{free_port()}"
        self._peer = f"127.0.0.1:{free_port()}"

    def start(self) -> float:
        """Start one member."""
        command: list[str | Path] = ["etcd", "--data-dir", self.home / "data", "--log-level", "error"]
        command += [
            "--listen-client-urls",
            f"http://{self.address}",
            "--advertise-client-urls",
            f"http://{self.address}",
        ]
        command += [
            "--listen-peer-urls",
            f"http://{self._peer}",
            "--initial-advertise-peer-urls",
            f"http://{self._peer}",
        ]
        command += ["--initial-cluster", f"default=http://{self._peer}"]
        return self._started(command, lambda: httpx.get(f"http://{self.address}/health").is_success)

    def prepare(self) -> None:
        """Nothing is needed."""

    tcp = None
    socket = None


class OpenBao(Target):
    """OpenBao's server on one node: as it is installed, or with an audit log in a file."""

    def __init__(self, home: Path, *, audited: bool = False) -> None:
        super().__init__(home)
        self.name = "OpenBao, audited" if audited else "OpenBao"
        audit = f'audit "file" "to-file" {{ options {{ file_path = "{home / "audit.log"}" }} }}' if audited else ""
        self._address, cluster = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        self._unix = home / "bao.sock"
        (home / "raft").mkdir()
        (home / "bao.hcl").write_text(
            f'''
            api_addr = "http://{self._address}"
            cluster_addr = "http://{cluster}"
            storage "raft" {{ path = "{home / "raft"}" }}
            listener "tcp" {{
              address = "{self._address}"
              cluster_address = "{cluster}"
              tls_disable = true
            }}
            listener "unix" {{ address = "{self._unix}" }}
            {audit}
            '''
        )
        self._token = ""
        self._unseal_key = ""

    def start(self) -> float:
        """Start it, initialise it the first time, and unseal it."""
        url = f"http://{self._address}/v1/sys"
        with httpx.Client(timeout=30) as client:
            self._started(
                [BAO, "server", f"-config={self.home / 'bao.hcl'}"], lambda: client.get(f"{url}/init").is_success
            )
            assert self._program is not None
            if not self._unseal_key:
                made = (
                    client.put(f"{url}/init", json={"secret_shares": 1, "secret_threshold": 1})
                    .raise_for_status()
                    .json()
                )
                self._unseal_key, self._token = made["keys_base64"][0], made["root_token"]
            client.put(f"{url}/unseal", json={"key": self._unseal_key}).raise_for_status()
            return self._program.wait_until(lambda: client.get(f"{url}/health").status_code == 200)

    def prepare(self) -> None:
        """Mount a key-value engine, version 1: like ours, it keeps one value under a name."""
        mount = {"type": "kv", "options": {"version": "1"}}
        url = f"http://{self._address}/v1/sys/mounts/bench"
        httpx.post(url, json=mount, headers={"X-Vault-Token": self._token}).raise_for_status()

    @property
    def tcp(self) -> Door:
        """Its own listener."""
        return self._door(self._address)

    @property
    def socket(self) -> Door:
        """Its listener on a socket."""
        return self._door(str(self._unix))

    def _door(self, address: str) -> Door:
        return Door(address, "/v1/bench/", {"X-Vault-Token": self._token}, body=json.dumps({"value": SECRET}))


class Custodia(Target):
    """Custodia 0.6.0; it listens in one place at a time, so there is one for the network and one for the socket."""

    def __init__(self, home: Path, *, on_socket: bool) -> None:
        super().__init__(home)
        self.name = "Custodia, socket" if on_socket else "Custodia"
        self._on_socket = on_socket
        self._port, self._unix, self._key = free_port(), home / "custodia.sock", secrets.token_urlsafe(32)
        place = f"server_socket = {self._unix}" if on_socket else f"server_url = http://127.0.0.1:{self._port}"
        (home / "custodia.conf").write_text(
            f"""
[global]
{place}
auditlog = {home / "audit.log"}
debug = false
[store:sqlite]
handler = SqliteStore
dburi = {home / "secrets.db"}
table = secrets
[store:encrypted]
handler = EncryptedOverlay
backing_store = sqlite
master_key = {home / "secrets.key"}
master_enctype = A256CBC-HS512
autogen_master_key = true
secret_protection = pinning
[auth:keys]
handler = SimpleAuthKeys
store = sqlite
[authz:paths]
handler = SimplePathAuthz
paths = /. /secrets
[/]
handler = Root
[/secrets]
handler = Secrets
store = encrypted
"""
        )

    def start(self) -> float:
        """Start it."""
        transport = httpx.HTTPTransport(uds=str(self._unix)) if self._on_socket else None
        with httpx.Client(transport=transport, base_url=f"http://127.0.0.1:{self._port}") as client:
            return self._started([CUSTODIA, self.home / "custodia.conf"], lambda: client.get("/").status_code < 500)

    def prepare(self) -> None:
        """Give it a key for its clients, which it expects in its store in the clear, and make the container."""
        with sqlite3.connect(self.home / "secrets.db") as store:
            store.execute("insert into secrets values (?, ?)", ("custodiaSAK/bench", self._key))
        store.close()
        transport = httpx.HTTPTransport(uds=str(self._unix)) if self._on_socket else None
        with httpx.Client(transport=transport, headers=self._credentials()) as client:
            client.post(f"http://127.0.0.1:{self._port}/secrets/bench/").raise_for_status()

    def _credentials(self) -> dict[str, str]:
        return {"CUSTODIA_AUTH_ID": "bench", "CUSTODIA_AUTH_KEY": self._key}

    @property
    def tcp(self) -> Door | None:
        """Its own server."""
        return None if self._on_socket else self._door(f"127.0.0.1:{self._port}")

    @property
    def socket(self) -> Door | None:
        """Its own server, on the socket."""
        return self._door(str(self._unix)) if self._on_socket else None

    def _door(self, address: str) -> Door:
        raw = "application/octet-stream"
        return Door(address, "/secrets/bench/", {**self._credentials(), "Accept": raw}, {"Content-Type": raw})


class Nothing(Target):
    """A falcon route that returns a constant as long as a secret, on our worker through its ASGI bridge: a floor."""

    name = "a constant"

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self._address = f"127.0.0.1:{free_port()}"

    def start(self) -> float:
        """Start one worker."""
        command: list[str | Path] = [SCRIPTS / "gunicorn", "-c", "python:benchmarks.constant", "--bind", self._address]
        answers = lambda: httpx.get(f"http://{self._address}/h0").is_success  # noqa: E731
        return self._started(command, answers, ROOT, PYTHONPATH=str(ROOT))

    @property
    def tcp(self) -> Door:
        """Its listener."""
        return Door(self._address, "/")

    def prepare(self) -> None:
        """Nothing is needed."""

    socket = None

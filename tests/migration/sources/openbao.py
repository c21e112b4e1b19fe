"""Estates in a real OpenBao on loopback: one server for all tests of a process, a mount of its own for each estate.

Its storage is raft's, so that it can be stopped, started, sealed and unsealed with what it holds. The server ends with
the process of the tests, whatever happens to that.
"""

import atexit
import base64
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

import httpx

from strongroom.migration.sources.openbao.http import shown
from tests.etcd_server import free_port
from tests.ssh_keys import private_key

BAO: Final = Path(__file__).resolve().parents[3] / ".venv-openbao/bin/bao"
READY_WITHIN: Final = 60.0  # seconds, on a busy machine
HANDS: Final = 16  # writes at once: the server writes them to its disk together
POLL: Final = 0.02  # seconds between two questions

# A parent-death signal comes when the thread ends that started the process (prctl(2)): this one lives to the end.
_STARTER: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bao")
_NUMBERS: Final = count()


class Bao:
    """One server and the directory that it keeps everything in."""

    def __init__(self, directory: Path, certificate: tuple[Path, Path] | None = None) -> None:
        """Make it, unstarted; with a *certificate* and its key it speaks TLS."""
        self._directory = directory
        self._port, cluster = free_port(), free_port()
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self._port}"
        tls = 'tls_cert_file = "{}"\ntls_key_file = "{}"'.format(*certificate) if certificate else "tls_disable = true"
        self._process: subprocess.Popen[bytes] | None = None
        self._client: httpx.Client | None = None
        self._key = ""
        self.token = ""
        (directory / "raft").mkdir()
        (directory / "bao.hcl").write_text(
            f'''
            api_addr = "{self.url}"
            cluster_addr = "http://127.0.0.1:{cluster}"
            storage "raft" {{
              path = "{directory / "raft"}"
              performance_multiplier = 1
            }}
            listener "tcp" {{
              address = "127.0.0.1:{self._port}"
              cluster_address = "127.0.0.1:{cluster}"
              {tls}
            }}
            '''
        )

    def start(self) -> None:
        """Start it if it does not run, initialised and unsealed."""
        self.start_sealed()
        if not self._key:
            made = self.ask("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1}).raise_for_status().json()
            self._key, self.token = made["keys_base64"][0], made["root_token"]
        self.unseal()

    def start_sealed(self) -> None:
        """Start it if it does not run, and wait until it answers."""
        if self._process is None:
            self._process = _STARTER.submit(self._started).result()
            self._client = httpx.Client(base_url=f"{self.url}/v1/", trust_env=False, timeout=READY_WITHIN, verify=False)
        self._wait(lambda: self.ask("GET", "sys/seal-status").is_success)

    def _started(self) -> subprocess.Popen[bytes]:
        command = ["setpriv", "--pdeathsig", "KILL", str(BAO), "server", f"-config={self._directory / 'bao.hcl'}"]
        with (self._directory / "bao.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def _wait(self, ready: Callable[[], bool]) -> None:
        until = time.monotonic() + READY_WITHIN
        while time.monotonic() < until and self._process is not None and self._process.poll() is None:
            try:
                if ready():
                    return
            except httpx.TransportError:
                pass
            time.sleep(POLL)
        raise RuntimeError(f"OpenBao is not ready; see {self._directory / 'bao.log'}")

    def stop(self) -> None:
        """End it as a power cut would; a second call does nothing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._client is not None:
            self._client.close()
            self._client = None

    def seal(self) -> None:
        """Let it forget its keys."""
        self.ask("PUT", "sys/seal").raise_for_status()

    def unseal(self) -> None:
        """Give it its key, and wait until it serves."""
        self.ask("PUT", "sys/unseal", {"key": self._key}).raise_for_status()
        self._wait(lambda: self.ask("GET", "sys/health").status_code == 200)

    def ask(self, method: str, path: str, body: Any = None, **query: str) -> httpx.Response:
        """Send one request as root."""
        assert self._client is not None, "it was stopped"
        headers = {"X-Vault-Token": self.token} if self.token else {}
        return self._client.request(method, path, json=body, params=query or None, headers=headers)

    def token_of(self, policy: str) -> str:
        """Return a token that may do what *policy* says, and nothing else."""
        name = f"policy{next(_NUMBERS)}"
        self.ask("PUT", f"sys/policies/acl/{name}", {"policy": policy}).raise_for_status()
        asked = {"policies": [name], "no_default_policy": True}
        return str(self.ask("POST", "auth/token/create", asked).raise_for_status().json()["auth"]["client_token"])

    def mount(self, version: int) -> str:
        """Mount a KV engine, and return where, once it takes something."""
        mount = f"kv{next(_NUMBERS)}"
        made = {"type": "kv", "options": {"version": str(version)}}
        self.ask("POST", f"sys/mounts/{mount}", made).raise_for_status()
        # Version 2 sets itself up after it was mounted, and refuses everything meanwhile.
        folder = f"{mount}/metadata/" if version == 2 else f"{mount}/"
        self._wait(lambda: self.ask("GET", folder, list="true").status_code in (200, 404))
        return mount


@cache
def shared() -> Bao:
    """Return the one server of this process, running."""
    directory = Path(tempfile.mkdtemp(prefix="bao-"))
    bao = Bao(directory)
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    atexit.register(bao.stop)
    return bao


class BaoEstate:
    """A mount of a server's KV engine; what lies below ``ssh`` becomes credentials of hosts."""

    kind = "openbao"

    def __init__(self, bao: Bao, version: int, directory: Path) -> None:
        self.bao = bao
        self.version = version
        self.name = bao.mount(version)
        self._directory = directory
        self._serial = count()
        self._secrets: dict[int, str] = {}
        self.options: dict[str, Sequence[str]] = {
            "mount": [self.name],
            "map": ["ssh=hosts", f"apps={self.name}"],
            "token_file": [str(self.token_file(bao.token))],
        }

    @property
    def place(self) -> str:
        """Where the server listens."""
        return self.bao.url

    def token_file(self, token: str) -> Path:
        """Return a new file that holds *token*."""
        path = self._directory / f"token{next(_NUMBERS)}"
        path.touch(mode=0o600)
        path.write_text(f"{token}\n")
        return path

    # As every estate

    def put(self, number: int) -> str:
        """Make or change an item: one in three is a host, one has two fields, and one a value alone."""
        text = f"the secret of {number}, {next(self._serial)}, of {self.name} at {self.place}"
        if number % 3 == 0:
            pem = private_key(text)
            self._secrets[number] = base64.b64encode(pem.encode()).decode()
            return self.write(f"ssh/h{number:06}", {"private_key": pem, "username": "core"})
        self._secrets[number] = text
        fields = {"password": text, "user": f"user{number}"} if number % 3 == 1 else {"value": text}
        return self.write(f"apps/s{number:06}", fields)

    def put_many(self, numbers: Sequence[int]) -> Sequence[str]:
        """Make or change many items."""
        with ThreadPoolExecutor(HANDS) as hands:
            return list(hands.map(self.put, numbers))

    def put_secret(self, number: int, text: str) -> str | None:
        """Make or change an item whose one value is *text*."""
        try:
            text.encode()
        except UnicodeEncodeError:
            return None
        if not text:
            return None
        try:
            written = self.write(f"apps/s{number:06}", {"value": text})
        except httpx.HTTPStatusError:  # larger than the server's storage takes
            return None
        self._secrets[number] = text
        return written

    def break_one(self) -> str:
        """Write to a path whose name is none here."""
        return self.write(f"broken/höst {next(self._serial)}", {"value": "the secret of a broken one"})

    def change(self, id: str) -> None:  # noqa: A002  # as the sources call it
        """Change what every field of an item holds, into something as valid."""
        path = unquote(id).removeprefix(f"{self.name}/")
        serial = next(self._serial)
        changed = {
            name: private_key(f"another {serial}") if text.startswith("-----") else f"{text} {serial}"
            for name, text in self.read(path).items()
        }
        self.write(path, changed)

    def secret_of(self, number: int) -> str:
        """Return what `put` made last for *number*: of a host its key, in base64."""
        return self._secrets[number]

    def raw(self) -> Iterator[bytes]:
        """Yield all that the server tells of the mount, in its order: its files are encrypted, and never at rest."""
        for path in self.paths():
            if self.version == 1:
                yield repr((path, self.read(path))).encode()
                continue
            about = self.bao.ask("GET", self._url(path, "metadata/")).json()["data"]
            yield repr((path, about)).encode()
            for number in about["versions"]:
                yield repr(self.bao.ask("GET", self._url(path, "data/"), version=number).json()["data"]).encode()

    def stop(self) -> None:
        """End the server."""
        self.bao.stop()

    def start(self) -> None:
        """Start it again."""
        self.bao.start()

    # As an operator's hands

    def write(self, path: str, fields: dict[str, Any]) -> str:
        """Write to a path, and return its item's id."""
        body = {"data": fields} if self.version == 2 else fields
        self.bao.ask("POST", self._url(path, "data/"), body).raise_for_status()
        return self.id_of(path)

    def read(self, path: str) -> dict[str, Any]:
        """Return the fields of a path."""
        data = self.bao.ask("GET", self._url(path, "data/")).raise_for_status().json()["data"]
        fields: dict[str, Any] = data["data"] if self.version == 2 else data
        return fields

    def about(self, path: str) -> dict[str, Any]:
        """Return what version 2 says of a path's versions."""
        found: dict[str, Any] = self.bao.ask("GET", self._url(path, "metadata/")).raise_for_status().json()["data"]
        return found

    def act(self, verb: str, path: str, **said: Any) -> None:
        """Do with a path of version 2 what *verb* says: delete, undelete, destroy, metadata."""
        self.bao.ask("POST", self._url(path, f"{verb}/"), said).raise_for_status()

    def remove(self, path: str) -> None:
        """Remove a path with all that it holds."""
        self.bao.ask("DELETE", self._url(path, "metadata/")).raise_for_status()

    def paths(self, folder: str = "") -> Iterator[str]:
        """Yield every path, in order."""
        listing = self.bao.ask("GET", self._url(folder, "metadata/"), list="true")
        for name in listing.json().get("data", {}).get("keys", ()):
            if name.endswith("/"):
                yield from self.paths(folder + name)
            else:
                yield folder + name

    def id_of(self, path: str) -> str:
        """Return the id of a path's item."""
        return shown(f"{self.name}/{path}")

    def _url(self, path: str, of_version_2: str = "") -> str:
        return f"{self.name}/{of_version_2 if self.version == 2 else ''}{quote(path, safe='/')}"


@contextmanager
def _estate(directory: Path, version: int) -> Iterator[BaoEstate]:
    bao = shared()
    bao.start()
    try:
        yield BaoEstate(bao, version, directory)
    finally:
        bao.start()  # a test may have stopped it; what is mounted goes with the server


@contextmanager
def estate_v1(directory: Path) -> Iterator[BaoEstate]:
    """Make an estate in a mount of version 1."""
    with _estate(directory, 1) as made:
        yield made


@contextmanager
def estate_v2(directory: Path) -> Iterator[BaoEstate]:
    """Make an estate in a mount of version 2."""
    with _estate(directory, 2) as made:
        yield made

"""Estates of Commissaire in a real etcd, by either of its interfaces: hosts and container managers as it wrote them."""

import base64
import http.client
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import quote, urlencode

from tests.etcd_server import Etcd, running
from tests.migration.sources.base import Estate
from tests.ssh_keys import in_base64, private_key

WRITERS: Final = 8  # threads, where there is much to put in
MALFORMED: Final = b'{"address": "broken", "ssh_priv_key": "it is cut sho'


class CommissaireEstate:
    """An etcd, and one Commissaire's keys in it."""

    kind: ClassVar[str] = "commissaire"
    scheme: ClassVar[str] = ""

    def __init__(self, store: Etcd, prefix: str = "") -> None:
        """Take a *store*, and a *prefix* where several estates share it."""
        self.store = store
        self.prefix = f"/{prefix or 'commissaire'}/"
        self.options: dict[str, list[str]] = {"timeout": ["2"]}
        self._path = f"/{prefix}" if prefix else ""
        self._secrets: dict[int, str] = {}
        self._serial = count()

    @property
    def place(self) -> str:
        """All members, and the prefix if it is not the usual one."""
        return f"{self.scheme}://{self.store.endpoints}{self._path}"

    @property
    def directory(self) -> Path:
        """The first member's files."""
        member = self.store.members[0]
        return member.directory / member.name

    # As a test's hands

    def put(self, number: int) -> str:
        """Make or change item *number*: a container manager, a host with a key in PEM, hosts with theirs in base64."""
        serial = next(self._serial)
        text = private_key(f"key {serial} of {number}, of {self.store.endpoints}")
        if number % 5 == 4:
            token = base64.b64encode(text.encode()).decode().rstrip("=")
            self._secrets[number] = token
            return self.put_value(f"container_managers/c{number:06}", container_manager(f"c{number:06}", token=token))
        self._secrets[number] = base64.b64encode(text.encode()).decode()
        key = text if number % 5 == 3 else self._secrets[number]
        return self.put_value(f"hosts/h{number:06}", host(f"h{number:06}", key))

    def put_secret(self, number: int, text: str) -> str:
        """Make or change host *number*, with *text* for its key."""
        self._secrets[number] = base64.b64encode(text.encode()).decode()
        return self.put_value(f"hosts/h{number:06}", host(f"h{number:06}", self._secrets[number]))

    def put_many(self, numbers: Sequence[int]) -> list[str]:
        """Make many, by several threads."""
        with ThreadPoolExecutor(WRITERS) as threads:
            return list(threads.map(self.put, numbers))

    def put_value(self, path: str, value: Mapping[str, Any] | bytes) -> str:
        """Write any value under any key below the prefix; return its id."""
        text = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.write(self.prefix + path, text)
        return self.prefix + path

    def break_one(self) -> str:
        """Put a host in that is no JSON."""
        return self.put_value(f"hosts/broken-{next(self._serial)}", MALFORMED)

    def change(self, key: str) -> None:
        """Change a host's key, or a container manager's token."""
        value = json.loads(self.read(key))
        text = in_base64(f"changed for the time {next(self._serial)}")
        if "options" in value:
            value["options"]["token"] = text
        else:
            value["ssh_priv_key"] = text
        self.write(key, json.dumps(value).encode())

    def secret_of(self, number: int) -> str:
        """Return what `put` made last for *number*: a key in base64, or a token."""
        return self._secrets[number]

    def raw(self) -> Iterator[bytes]:
        """Yield the files of every member, without the zeros that etcd sets aside at the end of its log."""
        for member in self.store.members:
            for path in sorted((member.directory / member.name).rglob("*")):
                if path.is_file():
                    yield path.read_bytes().rstrip(b"\0")

    def stop(self) -> None:
        """Kill every member."""
        for member in self.store.members:
            member.kill()

    def start(self) -> None:
        """Start them again."""
        for member in self.store.members:
            member.start()
        for member in self.store.members:
            member.wait()

    # As the system

    def write(self, key: str, value: bytes) -> None:
        """Let *key* hold *value*."""
        raise NotImplementedError

    def read(self, key: str) -> bytes:
        """Return what *key* holds."""
        raise NotImplementedError

    def delete(self, key: str) -> None:
        """Remove *key*."""
        raise NotImplementedError


class EstateV3(CommissaireEstate):
    """Its keys are those of the v3 interface."""

    scheme = "etcd"

    def write(self, key: str, value: bytes) -> None:
        with self.store.admin() as admin:
            admin.put(key, value)

    def read(self, key: str) -> bytes:
        with self.store.admin() as admin:
            return bytes(admin.keys(key)[key].value)

    def delete(self, key: str) -> None:
        with self.store.admin() as admin:
            admin.delete_all(key)


class EstateV2(CommissaireEstate):
    """Its keys are those of the v2 interface."""

    scheme = "etcd2"

    def write(self, key: str, value: bytes) -> None:
        self.ask("PUT", key, value=value)

    def read(self, key: str) -> bytes:
        return str(self.ask("GET", key)["node"]["value"]).encode()

    def delete(self, key: str) -> None:
        self.ask("DELETE", key)

    def ask(self, method: str, key: str, query: str = "", **form: Any) -> Any:
        """Return etcd's answer, an error too."""
        connection = http.client.HTTPConnection(self.store.members[0].endpoint, timeout=20)
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        try:
            connection.request(method, f"/v2/keys{quote(key)}{query}", urlencode(form), headers)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


def host(address: str, key: str = "", user: str = "root", **more: Any) -> dict[str, Any]:
    """Return a host as Commissaire 0.0.5 wrote it."""
    plain = {"address": address, "status": "active", "os": "fedora", "cpus": 2, "memory": 11989228, "space": 487652}
    last = {"last_check": "2016-11-05T16:04:59.000001", "ssh_priv_key": key, "remote_user": user, "source": ""}
    return {**plain, **last, **more}


def container_manager(name: str, **options: Any) -> dict[str, Any]:
    """Return a container manager as Commissaire wrote it."""
    return {"name": name, "type": "openshift", "options": {"server_url": "https://127.0.0.1:8080/", **options}}


@contextmanager
def estate_v3(directory: Path) -> Iterator[Estate]:
    """Give an etcd of its own, and its keys by the v3 interface."""
    with running(directory) as store:
        yield EstateV3(store)


@contextmanager
def estate_v2(directory: Path) -> Iterator[Estate]:
    """Give an etcd of its own, and its keys by the v2 interface."""
    with running(directory, flags=["--enable-v2"]) as store:
        yield EstateV2(store)

"""Estates that are a Strongroom of their own: both processes, running, on a SQLite file or on an etcd."""

import asyncio
import base64
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import ClassVar, Final

from strongroom.models import Host, HostCreds
from strongroom.models.secret import Secret
from strongroom.storage_service.backends import open_backend
from strongroom.storage_service.backends.base import Put
from strongroom.storage_service.client import StorageClient
from strongroom.storage_service.client.bulk_operations import Write
from strongroom.storage_service.wire import NEW
from tests.deploy.running import PATIENCE, spawn
from tests.migration.sources.base import Estate
from tests.ssh_keys import private_key

CONTAINER: Final = "secrets/estate/"
"""Where the estate's secrets lie."""


class StrongroomEstate:
    """A running service."""

    kind: ClassVar[str] = "strongroom"
    options: ClassVar[Mapping[str, Sequence[str]]] = {}

    def __init__(self, home: Path, *arguments: str) -> None:
        """Take the home, which need not exist, and what ``strongroom up`` is told besides."""
        self.home = home
        self._arguments = ("--listen", "127.0.0.1:0", "--workers", "1", "--json", *arguments)
        self._process: subprocess.Popen[str] | None = None
        self._secrets: dict[int, str] = {}
        self._serial = count()

    @property
    def place(self) -> str:
        """Its home."""
        return str(self.home)

    @property
    def client(self) -> StorageClient:
        """A new client, with all rights."""
        return StorageClient.from_home(self.home)

    def start(self) -> None:
        """Run it, until it is ready."""
        process = self._process = spawn("up", "--home", self.home, *self._arguments)
        assert process.stdout is not None
        if not (line := process.stdout.readline()):
            raise AssertionError(f"it did not start: {process.communicate()[1]}")
        json.loads(line)

    def stop(self) -> None:
        """End it. A second call does nothing."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.communicate(timeout=PATIENCE)

    def put(self, number: int) -> str:
        """Make or change the secret *number*, of a multiple of three a host's credentials."""
        (key,) = self.put_many([number])
        return key

    def put_many(self, numbers: Sequence[int]) -> list[str]:
        """Make or change many."""
        return self._write(
            {
                number: self._text(f"the secret of {number}, {next(self._serial)}, of {self.home}", number)
                for number in numbers
            }
        )

    def put_secret(self, number: int, text: str) -> str:
        """Make or change one, with *text*."""
        return self._write({number: text})[0]

    def break_one(self) -> str:
        """Put what nobody can open where a secret lies."""
        name = f"{CONTAINER}broken-{next(self._serial)}"
        put_past(self.store, {name: b"no ciphertext"})
        return name

    def change(self, key: str, /) -> None:
        """Change a secret."""
        address = key.removeprefix(HostCreds.prefix())
        text = private_key()
        value = Secret(text) if address == key else self._credentials(address, text)[1].value
        with self.client as client:
            client.commit_bulk([Write(key, value, "*")])

    def secret_of(self, number: int) -> str:
        """Return what was put last: of a host's credentials the key, in base64."""
        return self._secrets[number]

    def raw(self) -> Iterator[bytes]:
        """Yield the store's files, where it is a file."""
        for path in sorted(self.home.glob("data/*")):
            if not path.name.endswith("-shm"):  # which tells who is reading
                yield path.read_bytes()

    @property
    def store(self) -> str:
        """The URL of its store."""
        return f"sqlite:{self.home}/data/strongroom.db"

    def _text(self, text: str, number: int) -> str:
        return text if number % 3 else private_key(text)

    def _credentials(self, address: str, text: str) -> tuple[str, Write]:
        key = base64.b64encode(text.encode()).decode()
        value = base64.b64encode(HostCreds(address=address, ssh_priv_key=Secret(key)).to_json()).decode()
        return key, Write(HostCreds.name_of(address), Secret(value))

    def _write(self, texts: Mapping[int, str]) -> list[str]:
        writes: list[Write] = []
        for number, text in texts.items():
            if number % 3:
                self._secrets[number], write = text, Write(f"{CONTAINER}s{number:06}", Secret(text))
            else:
                self._secrets[number], write = self._credentials(f"h{number:06}", text)
            writes.append(write)
        with self.client as client:
            room = client.bulk_limit() - 2
            for start in range(0, len(writes), room):
                client.commit_bulk(writes[start : start + room])
        return [write.name for write in writes]

    def fill(self) -> None:
        """Make the containers that all secrets lie in, and a host."""
        with self.client as client:
            client.commit_bulk([Write(CONTAINER, Secret(""), NEW), Write(HostCreds.prefix(), Secret(""), NEW)])
            client.save(Host(address="10.0.0.7", cpus=4))


def put_past(store: str, values: Mapping[str, bytes]) -> None:
    """Write to a store past its service."""

    async def put() -> None:
        backend = open_backend(store)
        await backend.open()
        try:
            await backend.commit([Put(name, value) for name, value in values.items()])
        finally:
            await backend.close()

    asyncio.run(put())


@contextmanager
def estate(directory: Path) -> Iterator[Estate]:
    """Give a Strongroom on a SQLite file, with a host in it."""
    made = StrongroomEstate(directory / "home")
    made.start()
    try:
        made.fill()
        yield made
    finally:
        made.stop()

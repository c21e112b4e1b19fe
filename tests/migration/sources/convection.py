"""A storage directory of Convection: made by its server once, copied for each test, and changed by its own code."""

import functools
import itertools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from strongroom.migration.sources.convection.source import QUIET
from tests.migration.sources.base import Estate
from tests.migration.sources.convection_server import BIN, Server

KEYSET: Final = "vault"
_HANDS: Final = Path(__file__).with_name("convection_hands.py")
_IN_ONE_STORE: Final = 100  # secrets: each of them that is written costs Convection a millisecond for all of them
_SERIAL: Final = itertools.count()


class Made(NamedTuple):
    """What the server made."""

    directory: "tempfile.TemporaryDirectory[str]"
    unlock_keys: list[str]


class ConvectionEstate:
    """The directory, and Convection's hands on it; its server is stopped, and was for longer than it must be."""

    kind: Final = "convection"

    def __init__(self, directory: Path, unlock_keys: list[str]) -> None:
        self.directory = directory / "secrets"
        self.unlock_keys = unlock_keys
        self.options: Mapping[str, Sequence[str]] = {
            "unlock_key_file": [str(directory / "unlock.key")],
            "socket": [str(directory / "socket")],
        }
        (directory / "unlock.key").touch(0o600)
        (directory / "unlock.key").write_text(unlock_keys[-1] + "\n")
        rest(self.directory)
        self._hands = subprocess.Popen(
            [BIN / "python", "-P", _HANDS, self.directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._stores: set[str] = set()
        self._secrets: dict[int, str] = {}
        self.ask("unlock", unlock_keys[0])

    @property
    def place(self) -> str:
        """The directory."""
        return str(self.directory)

    def put(self, number: int) -> str:
        """Make or change a secret."""
        ((key, store, name, text),) = self._new([number])
        self.ask("set", store, name, text)
        return key

    def put_many(self, numbers: Sequence[int]) -> Sequence[str]:
        """Make or change many, each store written once."""
        new = self._new(numbers)
        for store, some in itertools.groupby(new, lambda each: each[1]):
            self.ask("fill", store, {name: text for _, _, name, text in some})
        return [key for key, *_ in new]

    def put_secret(self, number: int, text: str) -> str | None:
        """Make a secret of any text, if Convection gives it back as it was."""
        store, name = self.store(f"text{number}"), "text"  # a long one makes every access to its store slow
        self._secrets[number] = text
        self.ask("set", store, name, text)
        if self.ask("get", store, name) == text:
            return f"{store}:{name}"
        self.ask("remove", store, name)
        return None

    def break_one(self) -> str:
        """Make a secret whose name no record can have."""
        name = f"broken {next(_SERIAL)}"
        self.ask("set", self.store("broken"), name, "the secret of a broken one")
        return f"broken:{name.replace(' ', '%20')}"

    def change(self, id: str) -> None:  # noqa: A002  # as the sources call it
        """Change a secret."""
        self.ask("set", *id.split(":"), f"changed to {next(_SERIAL)}")

    def secret_of(self, number: int) -> str:
        """Return what was put last."""
        return self._secrets[number]

    def raw(self) -> Iterator[bytes]:
        """Yield every file of the directory."""
        for file in sorted(self.directory.rglob("*")):
            if file.is_file():
                yield file.read_bytes()

    def store(self, name: str) -> str:
        """Return *name*, a generic store, made if it is not there."""
        if name not in self._stores:
            self.ask("create_store", name, KEYSET)
            self._stores.add(name)
        return name

    def ask(self, verb: str, *arguments: object) -> Any:
        """Have Convection do something, and return what it returned."""
        assert self._hands.stdin is not None
        assert self._hands.stdout is not None
        self._hands.stdin.write(json.dumps([verb, *arguments]) + "\n")
        self._hands.stdin.flush()
        return json.loads(self._hands.stdout.readline())

    def close(self) -> None:
        """Take Convection's hands off."""
        self._hands.communicate()

    def _new(self, numbers: Sequence[int]) -> list[tuple[str, str, str, str]]:
        """Return for each of *numbers* id, store, name, and a text that is found nowhere else."""
        new = []
        for number in numbers:
            store, name = self.store(f"store{number // _IN_ONE_STORE}"), f"s{number:06}"
            self._secrets[number] = f"the secret of {number}, {next(_SERIAL)}, of {self.place}"
            new.append((f"{store}:{name}", store, name, self._secrets[number]))
        return new


@contextmanager
def estate(directory: Path) -> Iterator[Estate]:
    """Give a directory that has a keyset and no store but the users'."""
    with convection(directory) as made:
        yield made


@contextmanager
def convection(directory: Path) -> Iterator[ConvectionEstate]:
    """Give the same, with what this module's estates have besides."""
    made = _made()
    shutil.copytree(made.directory.name, directory / "secrets")
    one = ConvectionEstate(directory, made.unlock_keys)
    try:
        yield one
    finally:
        one.close()


def rest(storage: Path) -> None:
    """Let the directory be one that no unlocked server was at for a while."""
    users = storage / "auth.db"
    was = users.stat()
    os.utime(users, (was.st_atime, was.st_mtime - 2 * QUIET))


@functools.cache
def _made() -> Made:
    """Have a server make a storage directory; it goes when this process ends."""
    kept: tempfile.TemporaryDirectory[str] = tempfile.TemporaryDirectory(prefix="sr-convection-")
    with tempfile.TemporaryDirectory(prefix="sr-convection-") as directory:
        server = Server(Path(directory))
        server.start()
        try:
            keys = server.initialize(unlock_keys=3)
            server.unlock(keys[1])
            server.ask("create_keyset", keyset_name=KEYSET)
            server.lock()
        finally:
            server.stop()
        shutil.copytree(server.storage, kept.name, dirs_exist_ok=True)
    return Made(kept, keys)

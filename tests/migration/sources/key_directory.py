"""A directory of SSH private keys, in the forms that ssh-keygen writes."""

import base64
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.migration.sources.base import Estate


class KeyDirectory:
    """The directory."""

    kind: Final = "keys"

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "keys"
        self.directory.mkdir()
        self.options: Mapping[str, Sequence[str]] = {"strip": [".pem"]}
        self._serial = itertools.count()
        self._secrets: dict[int, str] = {}

    @property
    def place(self) -> str:
        """The directory."""
        return str(self.directory)

    def put(self, number: int) -> str:
        """Write a new key for a host; every other file has an ending."""
        name = f"h{number:06}" + (".pem" if number % 2 else "")
        self._secrets[number] = base64.b64encode(self.write(name, new_key()).read_bytes()).decode()
        return name

    def break_one(self) -> str:
        """Write what is no key."""
        name = f"broken{next(self._serial)}"
        self.write(name, b"this was a key once\n")
        return name

    def change(self, id: str) -> None:  # noqa: A002  # as the sources call it
        """Write another key."""
        self.write(id, new_key())

    def secret_of(self, number: int) -> str:
        """Return the key as the record has it: in base64."""
        return self._secrets[number]

    def raw(self) -> Iterator[bytes]:
        """Yield every file."""
        for file in sorted(self.directory.iterdir()):
            yield file.read_bytes()

    def write(self, name: str, content: bytes) -> Path:
        """Write a file as ssh-keygen does, and return its path."""
        path = self.directory / name
        path.touch(0o600)
        path.write_bytes(content)
        return path


@contextmanager
def estate(directory: Path) -> Iterator[Estate]:
    """Give an empty directory."""
    yield KeyDirectory(directory)


def new_key() -> bytes:
    """Return a new private key in OpenSSH's form."""
    return ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())

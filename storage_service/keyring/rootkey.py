"""The root key file, ``secrets.key``: one JWK in Custodia's own form, so that a Custodia key file is a root key file.

Whoever can read it can, with a copy of the store, read every secret; `strongroom.storage_service.private_file`
says which files are accepted, and how one is made.

All of this blocks on the disk; `strongroom.storage_service.keyring.stored` calls it off the event loop.
"""

import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

from strongroom.storage_service.errors import KeyFileUnusable
from strongroom.storage_service.jose import jwk
from strongroom.storage_service.jose.content_encryption import KEY_SIZE
from strongroom.storage_service.jose.key import Key
from strongroom.storage_service.keyring.seen import Seen
from strongroom.storage_service.private_file import PrivateFile

_FILE: Final = PrivateFile("root key file", exposed="the keys it wraps are to be rotated")
_KID: Final = re.compile(r"root\.[A-Za-z0-9_-]{16}", re.ASCII)


class RootKey(Key):
    """The key that wraps data keys, and encrypts nothing else.

    Its kid is ``root.`` and the first 96 bits of its thumbprint, by which an operator can tell two root keys apart. Who
    opens keyrings with it may let it remember what was *seen* of them; then it opens no older one.

    Raises:
        ValueError: not 64 bytes.
    """

    __slots__ = ("seen",)

    def __init__(self, octets: bytes, seen: Seen | None = None) -> None:
        super().__init__(f"root.{jwk.thumbprint(octets)[:16]}", octets)
        self.seen = seen


def is_root_kid(kid: str) -> bool:
    """Whether *kid* has the form of a root key's id."""
    return _KID.fullmatch(kid) is not None


def look(path: Path) -> None:
    """Judge the file at *path* without reading it, if there is one; raises what reading it would."""
    _FILE.look(path)


def read(path: Path) -> RootKey:
    """Return the root key in the file at *path*.

    Raises:
        KeyFileMissing: there is no such file.
        KeyFileUnusable: it cannot be read, is no plain file, is open to others, or holds no 512-bit key.
    """
    text = _FILE.read(path, jwk.MAX_JWK)
    try:
        return RootKey(jwk.octets_of(jwk.decode(text)))
    except ValueError as error:
        raise KeyFileUnusable(
            f"{path} does not hold a root key: {error}; put back the secrets.key that belongs to this store"
        ) from None


def make(path: Path, random: Callable[[int], bytes] = secrets.token_bytes) -> RootKey:
    """Return the root key in the file at *path*, making the file first if there is none.

    However many callers race, one file wins, every one of them returns its key, and no reader ever sees part of it.
    When this returns, the file and its name are on disk, so nothing wrapped under the key can outlive it.

    Args:
        path: where; the directory must exist.
        random: gives that many unpredictable bytes.

    Raises:
        KeyFileUnusable: the file cannot be made here, or the one that is here is not to be used.
    """
    _FILE.make(path, lambda: jwk.encode(random(KEY_SIZE)))
    return read(path)

"""The root key file, ``secrets.key``: one JWK in Custodia's own form, so that a Custodia key file is a root key file.

Whoever can read it can, with a copy of the store, read every secret; so it is refused unless it is a plain file of
ours or root's that nobody else can read or change. It is made once, whole or not at all, whatever number of workers
try; nothing here ever replaces or removes one.

All of this blocks on the disk; `storage_service.keyring.vault` calls it off the event loop.
"""

import os
import re
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from storage_service.errors import KeyFileMissing, KeyFileUnusable
from storage_service.keyring import jwk
from storage_service.keyring.content_encryption import KEY_SIZE
from storage_service.keyring.ring import Key

_MODE: Final = 0o600
_CREDENTIAL_MODE: Final = 0o440  # what systemd's LoadCredential= shows where it lets the unit in by an ACL
_KID: Final = re.compile(r"root\.[A-Za-z0-9_-]{16}", re.ASCII)


class RootKey(Key):
    """The key that wraps data keys, and encrypts nothing else.

    Its kid is ``root.`` and the first 96 bits of its thumbprint, by which an operator can tell two root keys apart.

    Raises:
        ValueError: not 64 bytes.
    """

    __slots__ = ()

    def __init__(self, octets: bytes) -> None:
        super().__init__(f"root.{jwk.thumbprint(octets)[:16]}", octets)


def is_root_kid(kid: str) -> bool:
    """Whether *kid* has the form of a root key's id."""
    return _KID.fullmatch(kid) is not None


def read(path: Path) -> RootKey:
    """Return the root key in the file at *path*.

    Raises:
        KeyFileMissing: there is no such file.
        KeyFileUnusable: it cannot be read, is no plain file, is open to others, or holds no 512-bit key.
    """
    try:
        # O_NOFOLLOW: a link may lead to what others can write. O_NONBLOCK: a FIFO must not hang the start.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise KeyFileMissing(f"there is no root key file at {path}") from None
    except OSError as error:
        if path.is_symlink():
            raise KeyFileUnusable(f"{path} is a symbolic link; give the path of the root key file itself") from None
        raise _unusable(path, "opened", error) from None
    try:
        check(path, os.fstat(descriptor), os.geteuid())
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            text = file.read(jwk.MAX_JWK + 1)
    except OSError as error:
        raise _unusable(path, "read", error) from None
    finally:
        os.close(descriptor)
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
    try:
        if not os.path.lexists(path):
            _link(path, jwk.encode(random(KEY_SIZE)))
        _sync_directory(path.parent)
    except OSError as error:
        raise _unusable(path, "made", error) from None
    return read(path)


def check(path: Path, status: os.stat_result, uid: int) -> None:
    """Accept a file with this *status* as the root key file of a process that runs as *uid*.

    Raises:
        KeyFileUnusable: it is no plain file, another user's, or open to others; the text says what to run.
    """
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileUnusable(f"{path} is not a plain file; give the path of the root key file itself")
    if status.st_uid not in (uid, 0):
        raise KeyFileUnusable(f"{path} belongs to another user; run: chown {uid} {path}")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077 and not (status.st_uid == 0 and mode == _CREDENTIAL_MODE):
        raise KeyFileUnusable(
            f"{path} is open to others (mode {mode:04o}); run: chmod 600 {path}; "
            "if others could really have read it, the keys it wraps are to be rotated"
        )


def _link(path: Path, text: bytes) -> None:
    """Write *text* to a new file and give it the name *path*, unless something has that name already."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, _MODE)  # whatever the umask took away
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):
            os.link(temporary, path)  # unlike a rename, a link never replaces: the first to arrive stays
    finally:
        temporary.unlink()


def _sync_directory(directory: Path) -> None:
    """Bring the names in *directory* to the disk: those that another process has just made, too."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unusable(path: Path, done: str, error: OSError) -> KeyFileUnusable:
    return KeyFileUnusable(f"the root key file {path} cannot be {done}: {error.strerror}")

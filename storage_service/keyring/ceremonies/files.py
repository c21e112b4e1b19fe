"""Key files as commands find them, before any store is open: looked at, made, read. All of it blocks on the disk."""

from pathlib import Path

from strongroom.storage_service.errors import Exists
from strongroom.storage_service.keyring import rootkey
from strongroom.storage_service.keyring.ceremonies.export import Given
from strongroom.storage_service.keyring.machines import key as machine_key
from strongroom.storage_service.keyring.machines.key import MachineKey
from strongroom.storage_service.keyring.rootkey import RootKey


def look(root_key: Path, own: Path | None) -> None:
    """Judge the root key file and this machine's own key, those of them that are there, without reading them.

    Raises:
        KeyFileUnusable: one is no plain file, another user's, or open to others.
    """
    rootkey.look(root_key)
    if own is not None:
        machine_key.look(own)


def make_root(path: Path) -> None:
    """Make the root key file at *path*, unless there is one.

    Raises:
        KeyFileUnusable: it cannot be made, or the one that is there is not to be used.
    """
    rootkey.make(path)


def read_root(path: Path) -> Given:
    """Return what is in the root key file at *path*, to open something with.

    Raises:
        KeyFileMissing, KeyFileUnusable: there is none, or it is no key.
    """
    return rootkey.read(path)


def put_root(path: Path, given: Given) -> None:
    """Make the root key file that was *given*, if it is one, at *path* as well.

    Raises:
        Exists: there is another one.
        KeyFileUnusable: it cannot be made.
    """
    if isinstance(given, RootKey) and rootkey.make(path, lambda _: given.reveal()).kid != given.kid:
        raise Exists(f"there is another root key file at {path}; put it away first, if it is not needed here")


def read_own(path: Path) -> MachineKey:
    """Return this machine's own key.

    Raises:
        KeyFileMissing, KeyFileUnusable: there is none, or it is no machine's key.
    """
    return machine_key.read_private(path)

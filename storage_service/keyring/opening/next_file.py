"""The root key file that is to take the place of the one in use: made, put in its place, or removed.

    secrets.key         the file in use
    secrets.key.next    made by a rotation of the root key; opens nothing until the rotation is confirmed, and then
                        takes the place of the other

A process that was held up cannot tell such a file from the one that another process has put there since. So whoever
replaces or removes one holds the lock on their directory, and looks at the file again while holding it; a process that
dies gives the lock up, and leaves no file behind for it.

All of this blocks on the disk.
"""

import hmac
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from strongroom.storage_service.errors import KeyFileMissing, KeyFileUnusable
from strongroom.storage_service.files import sync_directory, try_lock
from strongroom.storage_service.jose.key import Key
from strongroom.storage_service.keyring import rootkey
from strongroom.storage_service.keyring.rootkey import RootKey

NEXT: Final = ".next"  # what is appended to the name of the file in use


def of(file: Path) -> Path:
    """Return the path of the file that is to take the place of *file*."""
    return file.with_name(file.name + NEXT)


@contextmanager
def alone(file: Path) -> Iterator[bool]:
    """Hold the lock on the directory of *file* until the block ends, and give whether it was free; never waits.

    Raises:
        KeyFileUnusable: the directory cannot be opened or locked.
    """
    try:
        directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True  # no directory, no files
        return
    except OSError as error:
        raise KeyFileUnusable(f"the directory {file.parent} cannot be opened: {error.strerror}") from None
    try:
        try:
            free = try_lock(directory)
        except OSError as error:
            raise KeyFileUnusable(f"the directory {file.parent} cannot be locked: {error.strerror}") from None
        yield free
    finally:
        os.close(directory)  # this lets go of the lock, too


def make(file: Path) -> RootKey:
    """Return the key in a new file, which is on disk then and is to take the place of *file*; an older one is removed.

    Who calls this holds the lock.

    Raises:
        KeyFileUnusable: it cannot be made here.
    """
    if file.is_symlink():
        raise KeyFileUnusable(f"{file} is a symbolic link, and what it leads to would stay")
    remove(file)
    return rootkey.make(of(file))


def take_place(file: Path, key: Key) -> None:
    """Put the next file in the place of *file*, for good, if it still is the one that holds *key*.

    Who calls this holds the lock.

    Raises:
        KeyFileUnusable: the directory cannot be written, or the file is no key.
    """
    path = of(file)
    try:
        held = rootkey.read(path)
    except KeyFileMissing:
        return  # another process was faster
    if not hmac.compare_digest(held.reveal(), key.reveal()):
        return
    try:
        path.replace(file)
        sync_directory(file.parent)
    except OSError as error:
        raise KeyFileUnusable(f"{path} cannot take the place of {file}: {error.strerror}") from None


def remove(file: Path) -> None:
    """Remove the file that was to take the place of *file*, if there is one.

    Who calls this holds the lock.

    Raises:
        KeyFileUnusable: the directory cannot be written.
    """
    path = of(file)
    if not os.path.lexists(path):  # asked first, for a directory that is read-only refuses even what changes nothing
        return
    try:
        with suppress(FileNotFoundError):
            path.unlink()
            sync_directory(file.parent)
    except OSError as error:
        raise KeyFileUnusable(f"{path} cannot be removed: {error.strerror}") from None

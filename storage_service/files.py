"""Files for this user alone: made and replaced whole or not at all, names synced to disk, directories locked."""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def make_directory(path: Path) -> None:
    """Make a directory where there is none, mode 0700, and those above it; where root does that, it is whose that is.

    Raises:
        OSError: it cannot be made.
    """
    if path.is_dir():
        return
    make_directory(path.parent)
    with opened_directory(path.parent) as parent, suppress(FileExistsError):
        os.mkdir(path.name, 0o700, dir_fd=parent)
        descriptor = os.open(path.name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            give_to_owner_of(parent, descriptor)
        finally:
            os.close(descriptor)


def give_to_owner_of(directory: int, descriptor: int) -> None:
    """Where root has just made *descriptor* in *directory*, by a command for a service, give it to the owner of that.

    Both are descriptors, and what was made was made within the one, new and through no link: whose the directory is
    could else have put a file of root's in its place, or another directory, and be given it.
    """
    if os.geteuid() == 0:
        owner = os.fstat(directory)
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


@contextmanager
def opened_directory(directory: Path) -> Iterator[int]:
    """Give a descriptor of *directory*, in which files are made and removed, whatever becomes of its name.

    Raises:
        OSError: it cannot be opened.
    """
    descriptor = os.open(directory, _DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def replace_private(path: Path, content: bytes, *, for_service: bool = False) -> None:
    """Bring *content* to the disk as the file *path*, mode 0600, whole or not at all, also after a power cut.

    The file is this user's; one that root makes by a command *for_service* is whose its directory is.

    Raises:
        OSError: it cannot be written.
    """
    with _blamed_on(path), opened_directory(path.parent) as directory:
        replace_private_in(directory, path.name, content, for_service=for_service)


def replace_private_in(directory: int, name: str, content: bytes, *, for_service: bool = False) -> None:
    """Do the same in what is open as *directory*, which was looked at before.

    Raises:
        OSError: it cannot be written.
    """
    with _draft(directory, name, content, for_service=for_service) as draft:
        os.replace(draft, name, src_dir_fd=directory, dst_dir_fd=directory)
    os.fsync(directory)


def create_private(path: Path, content: bytes) -> bool:
    """Bring *content* to the disk as a new file *path*, mode 0600; return whether it was, and nothing had that name.

    No reader ever sees part of it. The name is on the disk only after `sync_directory`.

    Raises:
        OSError: it cannot be written.
    """
    with _blamed_on(path), opened_directory(path.parent) as directory, _draft(directory, path.name, content) as draft:
        try:
            os.link(
                draft, path.name, src_dir_fd=directory, dst_dir_fd=directory
            )  # unlike a rename, a link never replaces: the first to arrive stays
        except FileExistsError:
            return False
    return True


def sync_directory(directory: Path) -> None:
    """Bring the names in *directory* to the disk: those that another process has just made, too.

    Raises:
        OSError: it cannot be done.
    """
    with opened_directory(directory) as descriptor:
        os.fsync(descriptor)


def try_lock(descriptor: int) -> bool:
    """Take the lock on what is open as *descriptor* (flock(2)), and return whether it was free; never waits.

    It ends with the last process that has the descriptor, and cannot be left behind.

    Raises:
        OSError: it cannot be locked.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _blamed_on(path: Path) -> Iterator[None]:
    """Let an error name the whole *path*, and not a file of another name within a directory that it does not name."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


@contextmanager
def _draft(directory: int, name: str, content: bytes, *, for_service: bool = False) -> Iterator[str]:
    """Give the name of a new file in *directory*, 0600, with *content*, on the disk; it is gone after the block."""
    draft = f".{name}.{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(draft, flags, 0o600, dir_fd=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)  # whatever the umask took away
            if for_service:
                give_to_owner_of(directory, descriptor)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        yield draft
    finally:
        with suppress(OSError):
            os.unlink(draft, dir_fd=directory)

"""Files for this user alone: made and replaced whole or not at all, names synced to disk, directories locked."""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def make_directory(path: Path) -> None:
    """Make a directory where there is none, mode 0700, and those above it; where root does that, it is whose that is.

    Raises:
        OSError: it cannot be made.
    """
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        give_to_owner_of(path.parent, descriptor)
    finally:
        os.close(descriptor)


def give_to_owner_of(directory: Path, descriptor: int) -> None:
    """Where root makes what is open as *descriptor*, by a command for a service, give it to the owner of *directory*.

    By its descriptor and not by its name: whose the directory is could have put something else in its place.
    """
    if os.geteuid() == 0:
        owner = directory.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def replace_private(path: Path, content: bytes, *, for_service: bool = False) -> None:
    """Bring *content* to the disk as the file *path*, mode 0600, whole or not at all, also after a power cut.

    The file is this user's; one that root makes by a command *for_service* is whose its directory is.

    Raises:
        OSError: it cannot be written.
    """
    with _draft(path, content, for_service=for_service) as draft:
        draft.replace(path)
    sync_directory(path.parent)


def create_private(path: Path, content: bytes) -> bool:
    """Bring *content* to the disk as a new file *path*, mode 0600; return whether it was, and nothing had that name.

    No reader ever sees part of it. The name is on the disk only after `sync_directory`.

    Raises:
        OSError: it cannot be written.
    """
    with _draft(path, content) as draft:
        try:
            os.link(draft, path)  # unlike a rename, a link never replaces: the first to arrive stays
        except FileExistsError:
            return False
    return True


def sync_directory(directory: Path) -> None:
    """Bring the names in *directory* to the disk: those that another process has just made, too.

    Raises:
        OSError: it cannot be done.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
def _draft(path: Path, content: bytes, *, for_service: bool = False) -> Iterator[Path]:
    """Give a file beside *path*, mode 0600, that holds *content*, on the disk; it is gone after the block."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)  # whatever the umask took away
            if for_service:
                give_to_owner_of(path.parent, descriptor)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        yield draft
    finally:
        with suppress(OSError):
            draft.unlink()

"""Files that a process keeps for its own next start."""

import os
import secrets
from contextlib import suppress
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
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                if for_service:
                    give_to_owner_of(path.parent, descriptor)
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        os.fsync(directory)
    finally:
        os.close(directory)

"""Files of a source: read within bounds, replaced as a whole or not at all, and removed only as they were read.

A file system has no compare-and-set. So what is about to be replaced or removed is looked at again right before that;
a change in the few microseconds between is not noticed.
"""

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, NoReturn, Self

from strongroom.migration.errors import MigrationError, SourceUnavailable
from strongroom.migration.sources.base import Place
from strongroom.storage_service.files import sync_directory

CHUNK: Final = 1024 * 1024  # bytes that are read at a time
_SHARED_BITS: Final = 0o077
_UNFINISHED: Final = ".strongroom-new"
_REPOSITORIES: Final = (".git", ".hg", ".svn", ".bzr")


class Unfit(MigrationError):
    """What lies at the source cannot move; the text says why, and repeats no value. It becomes the item's fault."""


class Identity(NamedTuple):
    """What changes whenever somebody writes a file or puts another one in its place."""

    inode: int
    size: int  # bytes
    mtime: int  # nanoseconds

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """Return the identity of the file that *status* is of."""
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class File:
    """A file as it was read, with all that it takes to make it anew."""

    content: bytes = field(repr=False)
    mode: int
    owner: int
    group: int
    names: int = 1  # hard links
    identity: Identity | None = None

    @property
    def shared(self) -> bool:
        """Whether others than its owner may read or write it."""
        return bool(self.mode & _SHARED_BITS)


def read(path: Path | str, limit: int) -> File:
    """Return the regular file *path*.

    Raises:
        Unfit: it is missing, unreadable, something else than a file, or over *limit* bytes. The text begins with a
            verb, and leaves it to the caller to say which file.
    """
    try:
        # A pipe in its place must not keep us waiting for somebody to write to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        raise Unfit("is missing") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise Unfit(f"cannot be read ({_reason(error)})") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Unfit("is not a regular file")
        content = b""
        while len(content) <= limit and (more := os.read(descriptor, min(status.st_size, limit) + 1)):
            content += more
    except OSError as error:
        raise Unfit(f"cannot be read ({_reason(error)})") from None
    finally:
        os.close(descriptor)
    if len(content) > limit:
        raise Unfit(f"is over {limit // 1024} KiB")
    mode = stat.S_IMODE(status.st_mode)
    return File(content, mode, status.st_uid, status.st_gid, status.st_nlink, Identity.of(status))


def identity(path: Path) -> Identity:
    """Return the present identity of a file that must be there.

    Raises:
        SourceUnavailable: it is not, or cannot be looked at.
    """
    try:
        return Identity.of(path.stat())
    except OSError as error:
        raise unavailable(path, error) from error


def unavailable(path: Path, error: OSError) -> SourceUnavailable:
    """Return the error that says that *path* cannot be used, and why."""
    return SourceUnavailable(f"{path}: {_reason(error)}")


@contextmanager
def replacing(path: Path, expected: Identity) -> Iterator[BinaryIO]:
    """Give a file to write, which takes the place of *path* when the block ends well: durably, and at once.

    It has the mode and the owner of the old one, and until it is whole nobody but its owner can read it.

    Raises:
        SourceUnavailable: it cannot be written, or *path* is no longer as *expected*; *path* is as it was.
    """
    unfinished = unfinished_of(path)
    try:
        unfinished.unlink(missing_ok=True)  # of a run that was killed
        descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb", buffering=CHUNK) as file:
            yield file
            file.flush()
            _take_after(file.fileno(), path.stat())
            os.fsync(file.fileno())
        if identity(path) != expected:
            raise SourceUnavailable(f"{path} is being changed by somebody else; try again when that is over")
        unfinished.rename(path)
        sync_directory(path.parent)
    except OSError as error:
        raise unavailable(path, error) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def unfinished_of(path: Path) -> Path:
    """Return where the file that is to replace *path* lies until it is whole."""
    return path.with_name(f".{path.name}{_UNFINISHED}")


def create(path: Path, file: File) -> bool:
    """Make *path* anew, durably; return whether it has that content now: False where something else is there.

    Raises:
        SourceUnavailable: it cannot be written; nothing is there.
    """
    unfinished = unfinished_of(path)
    try:
        unfinished.unlink(missing_ok=True)
        descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as made:
            made.write(file.content)
            made.flush()
            _own(made.fileno(), file.owner, file.group)
            os.fchmod(made.fileno(), file.mode)
            os.fsync(made.fileno())
        try:
            os.link(unfinished, path)  # and not rename, which would replace what somebody put there
        except FileExistsError:
            return _holds(path, file.content)
        unfinished.unlink()  # before the names are made durable: a power cut must not bring a second one back
        sync_directory(path.parent)
    except OSError as error:
        raise unavailable(path, error) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return True


def remove(path: Path, content: bytes) -> bool:
    """Remove *path* if it holds *content*; return whether it is gone now.

    Raises:
        SourceUnavailable: it cannot be removed.
    """
    try:
        if not path.exists():
            return True
        if not _holds(path, content):
            return False
        path.unlink()
        sync_directory(path.parent)
    except OSError as error:
        raise unavailable(path, error) from error
    return True


async def chunks(path: Path) -> AsyncIterator[bytes]:
    """Yield the bytes of *path* in order; of one that is gone, none.

    Raises:
        SourceUnavailable: it cannot be read.
    """
    try:
        file = await asyncio.to_thread(path.open, "rb")
    except FileNotFoundError:
        return
    except OSError as error:
        raise unavailable(path, error) from error
    try:
        while chunk := await asyncio.to_thread(file.read, CHUNK):
            yield chunk
    except OSError as error:
        raise unavailable(path, error) from error
    finally:
        file.close()


def place(path: Path, advice: str) -> Place:
    """Return *path* as a place to search."""
    return Place(str(path), _chunks_of(path), advice)


def below(directory: Path) -> Iterator[Path]:
    """Yield every regular file in *directory* and below it; links are not followed.

    Raises:
        SourceUnavailable: one of the directories cannot be read.
    """

    def fail(error: OSError) -> NoReturn:
        raise unavailable(Path(str(error.filename)), error) from error

    for parent, directories, names in os.walk(directory, onerror=fail):
        directories.sort()
        for path in (Path(parent, name) for name in sorted(names)):
            if path.is_file() and not path.is_symlink():
                yield path


def copies(path: Path) -> list[Place]:
    """Return the copies of *path* that lie beside it, as editors and careful people leave them."""
    try:
        beside = sorted(path.parent.iterdir())
        found = [each for each in beside if _is_copy(each.name, path.name) and each.is_file() and each != path]
    except OSError as error:
        raise unavailable(path.parent, error) from error
    return [place(each, "a copy beside the file: remove it") for each in found]


def out_of_reach(path: Path) -> list[Place]:
    """Return where copies of *path* may be that cannot be looked into from here."""
    repository = _repository_of(path)
    return [
        Place(
            f"the version control of {repository}" if repository else f"version control that ever held {path.name}",
            None,
            "its history keeps what was committed: rewrite it, or replace these secrets at what they open",
        ),
        Place(f"backups of {path}", None, "let them expire, or replace these secrets at what they open"),
        Place(
            f"freed blocks and snapshots of the file system that holds {path}",
            None,
            "remove its snapshots; blocks are given back by fstrim, or lie on an encrypted disk",
        ),
    ]


def printable(text: str) -> str:
    """Return *text* in printable ASCII, so that no two texts look the same."""
    return text.replace("\\", "\\\\").encode("ascii", "backslashreplace").decode().translate(_CONTROLS)


_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(32), 127)}


def _chunks_of(path: Path) -> Callable[[], AsyncIterator[bytes]]:
    return lambda: chunks(path)


def _is_copy(name: str, original: str) -> bool:
    stem, _, _ = original.rpartition(".")
    return (
        name in (f"{original}~", f"#{original}#", f"{stem}~")
        or name.startswith((f"{original}.", f".{original}."))
        or (bool(stem) and name in (f"{stem}.bak", f"{stem}.old", f"{stem}.orig"))
    )


def _repository_of(path: Path) -> Path | None:
    return next((parent for parent in path.parents if any((parent / each).exists() for each in _REPOSITORIES)), None)


def _holds(path: Path, content: bytes) -> bool:
    try:
        return read(path, len(content)).content == content
    except Unfit:
        return False


def _take_after(descriptor: int, old: os.stat_result) -> None:
    _own(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))


def _own(descriptor: int, owner: int, group: int) -> None:
    status = os.fstat(descriptor)
    if (status.st_uid, status.st_gid) != (owner, group):
        try:
            os.fchown(descriptor, owner, group)
        except PermissionError:
            raise SourceUnavailable("the file belongs to somebody else: run this as its owner, or as root") from None


def _reason(error: Exception) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else "its path is invalid"

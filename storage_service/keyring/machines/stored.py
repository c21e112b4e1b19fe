"""Where the documents of machines lie: in the store, beside the keyring that they open, or in one file of JSON.

Rows are given out as they are found, so that a damaged one never hides the others: `MachineDocument.decode` says
whether a row is a document, `listed` shows any row. Neither place is trusted.
"""

import asyncio
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Final, Protocol, TypeVar

import msgspec

from strongroom.models import names, strict_json
from strongroom.models.names import MACHINES
from strongroom.storage_service.backends.base import (
    ABSENT,
    PRESENT,
    Backend,
    Conflict,
    Delete,
    Entry,
    Put,
    failed_guards,
    not_applied,
    pages,
)
from strongroom.storage_service.errors import Fate, KeyringDamaged, Unavailable
from strongroom.storage_service.files import give_to_owner_of, make_directory, try_lock
from strongroom.storage_service.keyring.machines.document import MachineDocument, is_fingerprint

MAX_FILE: Final = 16 * 1024 * 1024  # bytes
PATIENCE: Final = 10.0  # seconds to wait while another process writes the file
_PAUSE: Final = 0.01  # seconds between two looks whether it still does
_MODE: Final = 0o600

_Answer = TypeVar("_Answer")


class MachineDocuments(Protocol):
    """The documents of all machines, by fingerprint; guards and revisions are those of `Backend`.

    Every method raises Unavailable when the documents cannot be reached, and with the fate of what was to be written.
    """

    async def get(self, fingerprint: str) -> Entry | None:
        """Return the machine's document as it is found, for `MachineDocument.decode`."""

    async def get_all(self) -> Mapping[str, Entry]:
        """Return every row as it is found, by the fingerprint it is found under, for `listed`."""

    async def save(self, document: MachineDocument, expected: int | None = None) -> int:
        """Write *document*, if the row is at the *expected* revision, and return its new one.

        Raises:
            Conflict: it is not; nothing was written.
        """

    async def delete(self, fingerprint: str) -> bool:
        """Remove a machine's document, and return whether there was one.

        This revokes the machine and rotates nothing: a root key that it has unwrapped, it may have kept.
        """


class StoredDocuments:
    """Documents in the store, one record each, ``system/keyring/machines/<fingerprint>``.

    Whoever changes the keyring with a document takes the change itself, `put` or `removal`, into one batch of both.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def get(self, fingerprint: str) -> Entry | None:
        """Return the machine's document as it is found."""
        return await self._backend.get(_name(fingerprint))

    async def get_all(self) -> Mapping[str, Entry]:
        """Return every row as it is found, a page at a time."""
        found: dict[str, Entry] = {}
        async for page in pages(self._backend.list, MACHINES):
            entries = await self._backend.get_many(page)
            found |= {name.removeprefix(MACHINES): entries[name] for name in page if name in entries}
        return found

    async def save(self, document: MachineDocument, expected: int | None = None) -> int:
        """Write *document* alone."""
        return await self._backend.commit([self.put(document, expected)])

    async def delete(self, fingerprint: str) -> bool:
        """Remove a machine's document alone, and return whether there was one."""
        try:
            await self._backend.commit([self.removal(fingerprint)])
        except Conflict:
            return False
        return True

    @staticmethod
    def put(document: MachineDocument, expected: int | None = None) -> Put:
        """Return the change that writes *document*."""
        return Put(_name(document.fingerprint), document.encode(), expected)

    @staticmethod
    def removal(fingerprint: str, expected: int | None = PRESENT) -> Delete:
        """Return the change that removes a machine's document."""
        return Delete(_name(fingerprint), expected)


class Disk(Protocol):
    """What writing a file needs of the operating system: `os` itself, or in a test one that fails on command."""

    def open(self, path: str, flags: int, mode: int, /, *, dir_fd: int) -> int:
        """Open a file in a directory."""

    def fchmod(self, descriptor: int, mode: int, /) -> None:
        """Set a file's mode."""

    def write(self, descriptor: int, octets: memoryview, /) -> int:
        """Write, perhaps not all, and return how much."""

    def fsync(self, descriptor: int, /) -> None:
        """Bring a file, or the names in a directory, to the disk."""

    def close(self, descriptor: int, /) -> None:
        """Close a file."""

    def replace(self, old: str, new: str, /, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        """Rename a file in a directory, over what has that name."""

    def unlink(self, path: str, /, *, dir_fd: int) -> None:
        """Remove a file's name from a directory."""


class FileDocuments:
    """Documents in one file, a JSON list, 0600, for those who keep them apart from the store.

    A writer holds a lock on the file's directory, so that of two at once neither loses the other's document, and no
    file has to be left behind for it. The file is replaced as a whole: readers, who take no lock, and whoever comes
    after a crash, find the old one or the new one. A writer that is killed may leave ``.<name>.new`` beside it, which
    the next one removes. A row's revision is a digest of the row: it tells two rows apart, not which is later.

    All of it blocks, and leaves the event loop in the four public methods.

    Args:
        path: the file; it and its directory are made when something is saved.
        disk: what files are written by.
        patience: seconds to wait while another process writes.
    """

    def __init__(self, path: Path, disk: Disk = os, patience: float = PATIENCE) -> None:
        self._path = path
        self._temporary = f".{path.name}.new"
        self._disk = disk
        self._patience = patience

    async def get(self, fingerprint: str) -> Entry | None:
        """Return the machine's document as it is found.

        Raises:
            KeyringDamaged: the file is no list of rows.
        """
        return (await self.get_all()).get(fingerprint)

    async def get_all(self) -> Mapping[str, Entry]:
        """Return every row as it is found; one without a fingerprint, or with another's, under ``row <number>``.

        Raises:
            KeyringDamaged: the file is no list of rows.
        """
        rows = await asyncio.to_thread(self._read)
        return {key: Entry(row, _revision(row)) for key, row in rows.items()}

    async def save(self, document: MachineDocument, expected: int | None = None) -> int:
        """Write *document*, if the row is at the *expected* revision, and return its new one.

        Raises:
            Conflict: it is not; nothing was written.
            KeyringDamaged: the file is no list of rows; it is left as it is.
        """
        put = Put(document.fingerprint, document.encode(), expected)

        def change(rows: dict[str, bytes]) -> int:
            if failed_guards([put], lambda key: _revision(rows[key]) if key in rows else ABSENT, lambda _: False):
                raise Conflict([put])
            rows[put.name] = put.value
            return _revision(put.value)

        return await asyncio.to_thread(self._change, change)

    async def delete(self, fingerprint: str) -> bool:
        """Remove a row, and return whether there was one.

        Raises:
            KeyringDamaged: the file is no list of rows; it is left as it is.
        """
        return await asyncio.to_thread(self._change, lambda rows: rows.pop(fingerprint, None) is not None)

    def _change(self, change: Callable[[dict[str, bytes]], _Answer]) -> _Answer:
        """Let *change* change the rows, and write them if it did, while nobody else does."""
        with self._locked() as directory:
            before = self._read()
            after = dict(before)
            answer = change(after)
            if after != before:
                self._write(_text(after), directory)
            return answer

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Hold the lock, and give the directory's descriptor."""
        try:
            make_directory(self._path.parent)
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise self._unwritten(error, Fate.NOT_APPLIED) from None
        try:
            self._lock(directory)
            yield directory
        finally:
            os.close(directory)  # this lets go of the lock, too

    def _lock(self, directory: int) -> None:
        deadline = time.monotonic() + self._patience
        while True:
            try:
                if try_lock(directory):
                    return
            except OSError as error:
                raise self._unwritten(error, Fate.NOT_APPLIED) from None
            if time.monotonic() >= deadline:
                raise not_applied(f"another process has not finished writing {self._path}")
            time.sleep(_PAUSE)

    def _write(self, text: bytes, directory: int) -> None:
        """Replace the file; if this fails, it is the old one or the new one, and there is no other."""
        if len(text) > MAX_FILE:
            raise not_applied(f"{self._path} would become larger than {MAX_FILE} bytes")
        fate = Fate.NOT_APPLIED
        try:
            try:
                with suppress(FileNotFoundError):
                    self._disk.unlink(
                        self._temporary, dir_fd=directory
                    )  # of a writer that was killed: a living one holds the lock
                self._fill(text, directory)
                fate = Fate.UNKNOWN
                self._disk.replace(self._temporary, self._path.name, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                with suppress(OSError):
                    self._disk.unlink(self._temporary, dir_fd=directory)
                raise
            self._disk.fsync(directory)
        except OSError as error:
            raise self._unwritten(error, fate) from None

    def _fill(self, text: bytes, directory: int) -> None:
        """Make the temporary file in *directory*, with all of *text* on the disk."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = self._disk.open(self._temporary, flags, _MODE, dir_fd=directory)
        try:
            give_to_owner_of(directory, descriptor)
            self._disk.fchmod(descriptor, _MODE)  # whatever the umask took away
            rest = memoryview(text)
            while rest:
                rest = rest[self._disk.write(descriptor, rest) :]
            self._disk.fsync(descriptor)
        finally:
            self._disk.close(descriptor)

    def _read(self) -> dict[str, bytes]:
        """Return the rows by fingerprint, in the order of the file."""
        text = self._found()
        if text is None:
            return {}
        rows = None
        with suppress(*strict_json.UNREADABLE):  # they may quote from it
            rows = msgspec.json.decode(text, type=list[msgspec.Raw]) if len(text) <= MAX_FILE else None
        if rows is None:
            raise KeyringDamaged(f"{self._path} is not a JSON list of machines' documents; restore it from a backup")
        found: dict[str, bytes] = {}
        for number, raw in enumerate(rows, 1):
            row = msgspec.json.format(bytes(raw), indent=-1)
            own = _own_fingerprint(row)
            found[f"row {number}" if own is None or own in found else own] = row
        return found

    def _found(self) -> bytes | None:
        """Return what the file holds, one byte over the limit at most; None if there is no file."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unread(error) from None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise not_applied(f"{self._path} is not a plain file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(MAX_FILE + 1)
        except OSError as error:
            raise self._unread(error) from None
        finally:
            os.close(descriptor)

    def _unread(self, error: OSError) -> Unavailable:
        return not_applied(f"{self._path} cannot be read: {error.strerror}")

    def _unwritten(self, error: OSError, fate: Fate) -> Unavailable:
        return Unavailable(f"{self._path} cannot be written: {error.strerror}", fate)


def documents_in(backend: Backend, file: Path | None) -> MachineDocuments:
    """Return the documents that lie in *file*, or, where none is said, in the store."""
    return StoredDocuments(backend) if file is None else FileDocuments(file)


def _name(fingerprint: str) -> str:
    return names.check(MACHINES + fingerprint)


def _own_fingerprint(row: bytes) -> str | None:
    """Return the fingerprint that *row* says it has; None if it says none."""
    try:
        said = strict_json.decode(row)
    except strict_json.MalformedJSON:
        return None
    own = said.get("_id") if isinstance(said, dict) else None
    return own if isinstance(own, str) and is_fingerprint(own) else None


def _text(rows: Mapping[str, bytes]) -> bytes:
    return msgspec.json.format(b"[" + b",".join(rows.values()) + b"]", indent=2) + b"\n"


def _revision(row: bytes) -> int:
    return int.from_bytes(sha256(row).digest()[:7], "big") + 1  # positive, as every revision

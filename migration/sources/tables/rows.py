"""A file of rows as a source, whatever its rows look like: where each begins, what it becomes, how it is scrubbed.

An item is a row, and its id the file and the number of the row, as spreadsheets and editors count. Of the whole file
only where each row begins is remembered, 8 bytes a row, and found anew when the file is another.

A row may name a *key file*, which is then part of the item. Scrubbing blanks what became an encrypted record in the
row, the name of its key file with it, and removes every key file that no row names any more: one that rows share goes
with the last of them. Restoring puts both back, the key file with its mode and owner. The file is replaced as a whole,
so that somebody who reads it sees either all of a batch or nothing; nobody else may write to it meanwhile, and if
somebody does, that is noticed and nothing is replaced, unless it happens in the very moment of replacing.
"""

import asyncio
import os
import re
import threading
from array import array
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import BinaryIO, ClassVar, Final, NamedTuple, Protocol, TypeVar

import msgspec

from strongroom.migration.digest import Digest
from strongroom.migration.errors import SourceUnavailable
from strongroom.migration.records import Item, Record
from strongroom.migration.sources import files
from strongroom.migration.sources.base import Original, Place
from strongroom.migration.sources.files import File, Identity, Unfit
from strongroom.models.secret import Secret
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.files import sync_directory
from strongroom.storage_service.wire import MAX_SECRET

MAX_ROW: Final = 4 * 1024 * 1024  # bytes: a secret of the largest size, every byte of it written as \u0000
_SLICE_ROWS: Final = 200  # that are read in one go
_SLICE_BYTES: Final = 1024 * 1024  # after which no more rows are added to a slice
_NO_FILE: Final = 0  # stands for the key file of a row that names none

T = TypeVar("T")


class TakenOut(NamedTuple):
    """A row without what becomes an encrypted record, and the texts of that which are worth a search."""

    scrubbed: bytes
    patterns: tuple[bytes, ...]


@dataclass(frozen=True)
class Row:
    """What a row says. *make* takes the content of the *key_file* it names, or nothing, and may raise `Unfit`.

    *take_out* is asked only for a row that is to be scrubbed: reading a source does without.
    """

    make: Callable[[bytes], tuple[Record, ...]]
    take_out: Callable[[], TakenOut] = field(repr=False)
    key_file: str = ""
    notes: tuple[str, ...] = ()

    @cached_property
    def _taken_out(self) -> TakenOut:
        return self.take_out()

    @property
    def scrubbed(self) -> bytes:
        """The row without what becomes an encrypted record."""
        return self._taken_out.scrubbed

    @property
    def patterns(self) -> tuple[bytes, ...]:
        """The texts that are taken out of it."""
        return self._taken_out.patterns


class Layout(Protocol):
    """How the rows of one file are read."""

    @property
    def notes(self) -> Sequence[str]:
        """What is to be said of the file as a whole."""

    @property
    def names_key_files(self) -> bool:
        """Whether rows may name key files; where they do not, a row is all there is to an item."""

    def parse(self, raw: bytes) -> Row:
        """Return what a row says.

        Raises:
            Unfit: it is invalid; the text says why, and repeats no value.
        """


class Format(Protocol):
    """A kind of files of rows."""

    kind: ClassVar[str]
    row: ClassVar[str]
    """What a row is called."""
    headed: ClassVar[bool]
    """Whether the first row that is not blank says what is in the others."""

    def lengths(self, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
        """Yield of each row its length in bytes, and as much of it as says whether it is blank."""

    def is_blank(self, raw: bytes) -> bool:
        """Whether a row is no item."""

    def layout(self, header: bytes | None) -> Layout:
        """Return how the rows below *header* are read; None: there is none.

        Raises:
            ConfigurationError: this is no such file; the text says what to do.
        """


def lines(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield each line with its length in bytes; of one over `MAX_ROW`, only as much as that."""
    while line := file.readline(MAX_ROW + 1):
        length = len(line)
        while not line.endswith(b"\n") and (more := file.readline(files.CHUNK)):
            length += len(more)
            if more.endswith(b"\n"):
                break
        yield line[: MAX_ROW + 1], length


class _Index:
    """Where the rows of a file begin, as of one identity of it."""

    def __init__(self, identity: Identity, starts: "array[int]", header: int, items: int, layout: Layout) -> None:
        self.identity = identity
        self.items = items
        self.layout = layout
        self.first = header + 1  # number of the first row that may be an item; rows count from 1
        self._starts = starts
        self._key_files: array[int] | None = None  # a hash of the path for each row

    @classmethod
    def of(cls, file: BinaryIO, form: Format) -> "_Index":
        identity = Identity.of(os.fstat(file.fileno()))
        file.seek(0)
        starts, header, items, at = array("Q", [0]), 0, 0, 0
        layout = None if form.headed else form.layout(None)
        for length, raw in form.lengths(file):
            if layout is not None:
                items += not form.is_blank(raw)
            elif not form.is_blank(raw):
                layout, header = form.layout(raw), len(starts)
            at += length
            starts.append(at)
        return cls(identity, starts, header, items, layout or form.layout(None))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def span(self, number: int) -> tuple[int, int]:
        return self._starts[number - 1], self._starts[number]

    def read(self, file: BinaryIO, number: int) -> bytes:
        """Return a row; of one that is too long, one byte more than a row may have."""
        start, end = self.span(number)
        return os.pread(file.fileno(), min(end - start, MAX_ROW + 1), start)

    def rewritten(self, changes: Mapping[int, bytes], identity: Identity) -> "_Index":
        """Return the index of the file once *changes* are in their places."""
        starts, shift, before = array("Q"), 0, 0
        for number in sorted(changes):
            starts.extend(array("Q", (at + shift for at in self._starts[before:number])))
            start, end = self.span(number)
            shift, before = shift + len(changes[number]) - (end - start), number
        starts.extend(array("Q", (at + shift for at in self._starts[before:])))
        new = _Index(identity, starts, self.first - 1, self.items, self.layout)
        new._key_files = self._key_files
        return new

    def named(self, wanted: Iterable[int], find: Callable[[], "array[int]"]) -> set[int]:
        """Return those of *wanted*, hashes of paths, that rows name."""
        if self._key_files is None:
            self._key_files = find()
        return set(wanted).intersection(self._key_files)

    def rename(self, number: int, key_file: int) -> None:
        """Take down that a row names another key file now."""
        if self._key_files is not None:
            self._key_files[number - 1] = key_file


class _Slice(NamedTuple):
    """Some items, with the number of the row after them, and the last row that was read; empty: that was all."""

    items: list[Item]
    rows: _Index
    number: int
    last: bytes


class _KeyFile(msgspec.Struct, kw_only=True):
    content: bytes
    mode: int
    owner: int
    group: int


class _Content(msgspec.Struct, kw_only=True):
    """The content of an original. Its repr would show the secret, so it lives no longer than one call."""

    row: bytes
    patterns: tuple[bytes, ...] = ()
    key_file: _KeyFile | None = None


class RowSource:
    """The source: one file of rows. Calls may overlap; each has the file to itself for a slice of its work."""

    scrub_batch: ClassVar[int] = 1000

    def __init__(self, path: Path, form: Format) -> None:
        self._path = Path(os.path.realpath(path))  # so that not a link is replaced, but what it leads to
        self._directory = str(self._path.parent)
        self._form = form
        self._prefix = f"{files.printable(self._path.name)}:{form.row} "
        self._number = re.compile(re.escape(self._prefix) + "([1-9][0-9]{0,15})")
        self._digest = Digest()
        self._index: _Index | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<RowSource {self.identity}>"

    @property
    def identity(self) -> str:
        """The kind and the path of the file."""
        return f"{self._form.kind}:{files.printable(str(self._path))}"

    # -- reading

    async def open(self, digest: Digest) -> None:
        """Find where the rows begin.

        Raises:
            ConfigurationError: there is no such file, or it is not of this kind.
            SourceUnavailable: it cannot be read.
        """
        self._digest = digest
        if not await asyncio.to_thread(self._path.is_file):
            raise ConfigurationError(f"{self._path} is not a file that can be found")
        await self._in_thread(lambda _, index: index.items)

    async def close(self) -> None:
        """Forget where the rows begin."""
        self._index = None

    async def count(self) -> int | None:
        """Return how many rows there are."""
        return await self._in_thread(lambda _, index: index.items)

    async def items(self) -> AsyncIterator[Item]:
        """Yield every row, of the file as it was when this began: also where another has taken its place since.

        Raises:
            SourceUnavailable: it cannot be read, or was written over so that rows are no longer where they were.
        """
        file = await asyncio.to_thread(self._opened)
        try:
            slice_ = await asyncio.to_thread(self._first_slice, file)
            while slice_.items or slice_.last:
                for item in slice_.items:
                    yield item
                slice_ = await asyncio.to_thread(self._next_slice, file, slice_)
        finally:
            file.close()

    async def marks(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Return the marks of rows: a keyed hash of the row, and of its key file."""

        def look(file: BinaryIO, index: _Index) -> dict[str, str]:
            found = self._found(file, index, ids)
            if not index.layout.names_key_files:
                return {id_: self._digest.of(raw) for id_, _, raw in found}
            return {id_: self._item(index, number, raw).mark for id_, number, raw in found}

        return await self._in_thread(look)

    def _opened(self) -> BinaryIO:
        try:
            return self._path.open("rb")
        except OSError as error:
            raise files.unavailable(self._path, error) from error

    @contextmanager
    def _held(self, file: BinaryIO) -> Iterator[_Index]:
        """Give the index of a file, and the file to nobody else; it may be the one that was there before another."""
        with self._lock:
            try:
                index, now = self._index, Identity.of(os.fstat(file.fileno()))
                if index is None or index.identity != now:
                    index = self._index = _Index.of(file, self._form)
                yield index
            except OSError as error:
                raise files.unavailable(self._path, error) from error

    async def _in_thread(self, work: Callable[[BinaryIO, _Index], T]) -> T:
        def held() -> T:
            with self._opened() as file, self._held(file) as index:
                return work(file, index)

        return await asyncio.to_thread(held)

    def _first_slice(self, file: BinaryIO) -> _Slice:
        """Return the first items; the first of all tells what there is to say of the file as a whole."""
        with self._held(file) as index:
            notes = [*index.layout.notes]
            if os.fstat(file.fileno()).st_mode & 0o044:
                name = self._prefix.partition(":")[0]
                notes.append(f"others than its owner can read {name}: they may know what it holds")
            slice_ = self._read(file, index, index.first)
        if slice_.items:
            first = slice_.items[0]
            slice_.items[0] = replace(first, notes=(*first.notes, *notes))
        return slice_

    def _next_slice(self, file: BinaryIO, before: _Slice) -> _Slice:
        """Return the items after others."""
        index, number = before.rows, before.number
        if Identity.of(os.fstat(file.fileno())) != index.identity:
            with self._held(file) as index:
                if number - 1 > len(index) or index.read(file, number - 1) != before.last:
                    raise SourceUnavailable(f"{self._path} was written over while it was read; read it again")
        try:
            return self._read(file, index, number)
        except OSError as error:
            raise files.unavailable(self._path, error) from error

    def _read(self, file: BinaryIO, index: _Index, number: int) -> _Slice:
        some: list[Item] = []
        size, raw = 0, b""
        while number <= len(index) and len(some) < _SLICE_ROWS and size < _SLICE_BYTES:
            raw = index.read(file, number)
            size += len(raw)
            if not self._form.is_blank(raw):
                some.append(self._item(index, number, raw))
            number += 1
        return _Slice(some, index, number, raw)

    def _item(self, index: _Index, number: int, raw: bytes) -> Item:
        id_ = f"{self._prefix}{number}"
        mark = self._digest.of(raw)
        try:
            row = self._row(index, raw)
            notes, content = row.notes, b""
            if row.key_file:
                file = self._key_file(row.key_file)
                mark = self._digest.of(raw, file.content)
                notes, content = (*notes, *_notes_of(file)), file.content
            return Item(id_, mark, row.make(content), notes=notes)
        except Unfit as error:
            return Item(id_, mark, fault=str(error))

    def _row(self, index: _Index, raw: bytes) -> Row:
        if len(raw) > MAX_ROW:
            raise Unfit(f"the {self._form.row} is over {MAX_ROW // 1024} KiB")
        return index.layout.parse(raw)

    def _path_of(self, key_file: str) -> str:
        # A str and no Path, which would leave a trace in the interpreter's table of strings for each.
        return os.path.realpath(os.path.join(self._directory, key_file))  # noqa: PTH118

    def _key_file(self, key_file: str) -> File:
        """Return a key file.

        Raises:
            Unfit: it cannot be taken.
        """
        try:
            return files.read(self._path_of(key_file), MAX_SECRET)
        except Unfit as error:
            raise Unfit(f"its key file {error}") from None
        except ValueError:
            raise Unfit("its key file has a path that is invalid") from None

    def _found(self, file: BinaryIO, index: _Index, ids: Iterable[str]) -> Iterator[tuple[str, int, bytes]]:
        """Yield those of *ids* that are items, with number and row."""
        for id_ in ids:
            said = self._number.fullmatch(id_)
            number = int(said[1]) if said else 0
            if index.first <= number <= len(index):
                raw = index.read(file, number)
                if not self._form.is_blank(raw):
                    yield id_, number, raw

    # -- scrubbing

    async def originals(self, ids: Sequence[str]) -> Mapping[str, Original]:
        """Return rows, each with its key file."""

        def look(file: BinaryIO, index: _Index) -> dict[str, Original]:
            return {id_: self._original(index, number, raw) for id_, number, raw in self._found(file, index, ids)}

        return await self._in_thread(look)

    async def scrub(self, originals: Sequence[Original]) -> Sequence[bool]:
        """Blank the secrets of rows, and remove key files that no row names any more."""
        return await self._in_thread(lambda file, index: self._scrub(file, index, originals))

    async def restore(self, originals: Sequence[Original]) -> Sequence[bool]:
        """Put key files back, and then rows."""
        return await self._in_thread(lambda file, index: self._restore(file, index, originals))

    def search_patterns(self, original: Original) -> Sequence[bytes]:
        """Return the secret as it stands in the row, and the content of the key file."""
        content = _content_of(original)
        return (*content.patterns, content.key_file.content) if content.key_file else content.patterns

    async def purge(self) -> Sequence[str]:
        """Remove what a killed run left unfinished beside the file; the file itself remembers nothing."""

        def remove() -> list[str]:
            unfinished = files.unfinished_of(self._path)
            try:
                if not unfinished.exists():
                    return []
                unfinished.unlink()
                sync_directory(self._path.parent)
            except OSError as error:
                raise files.unavailable(unfinished, error) from error
            return [f"removed {unfinished}, which was left unfinished"]

        return await asyncio.to_thread(remove)

    async def places(self) -> Sequence[Place]:
        """Return the file, its key files, copies beside it, and what cannot be searched."""
        copies = await asyncio.to_thread(files.copies, self._path)
        return [
            files.place(self._path, f"{self._form.row}s that were not scrubbed hold secrets still"),
            Place(
                f"the key files that {self._path} names",
                self._key_file_chunks,
                f"they belong to {self._form.row}s that were not scrubbed",
            ),
            *copies,
            *files.out_of_reach(self._path),
        ]

    def _original(self, index: _Index, number: int, raw: bytes) -> Original:
        content = _Content(row=raw)
        with suppress(Unfit):  # what cannot move will not be scrubbed either
            row = self._row(index, raw)
            content.patterns = row.patterns
            if row.key_file:
                key = self._key_file(row.key_file)
                content.key_file = _KeyFile(content=key.content, mode=key.mode, owner=key.owner, group=key.group)
        said = Secret(msgspec.json.encode(content).decode())
        return Original(f"{self._prefix}{number}", self._item(index, number, raw).mark, said)

    def _scrub(self, file: BinaryIO, index: _Index, originals: Sequence[Original]) -> list[bool]:
        answer: list[bool] = []
        changes: dict[int, bytes] = {}
        key_files: dict[Path, bytes] = {}
        for original in originals:
            content = _content_of(original)
            number, present, row = self._present(file, index, original, content)
            done = row is not None and (
                present == row.scrubbed or (present == content.row and self._key_file_is(row, content))
            )
            answer.append(done)
            if row is not None and done:
                if present != row.scrubbed:
                    changes[number] = row.scrubbed
                if content.key_file is not None:
                    key_files[Path(self._path_of(row.key_file))] = content.key_file.content
        index = self._rewrite(file, index, changes, {})
        named = (
            index.named((hash(str(path)) for path in key_files), lambda: self._named_key_files(index))
            if key_files
            else set()
        )
        for path, held in key_files.items():
            if hash(str(path)) not in named:
                files.remove(path, held)
        return answer

    def _restore(self, file: BinaryIO, index: _Index, originals: Sequence[Original]) -> list[bool]:
        answer: list[bool] = []
        changes: dict[int, bytes] = {}
        named: dict[int, int] = {}
        for original in originals:
            content = _content_of(original)
            number, present, row = self._present(file, index, original, content)
            done = row is not None and present in (content.row, row.scrubbed)
            if row is not None and done and content.key_file is not None:
                path, kept = self._path_of(row.key_file), content.key_file
                done = files.create(Path(path), File(kept.content, kept.mode, kept.owner, kept.group))
                named[number] = hash(path)
            if done and present != content.row:
                changes[number] = content.row
            answer.append(done)
        self._rewrite(file, index, changes, named)
        return answer

    def _present(
        self, file: BinaryIO, index: _Index, original: Original, content: _Content
    ) -> tuple[int, bytes, Row | None]:
        """Return the number of an original's row, what is there now, and what it said; None: it was no good row."""
        for _, number, raw in self._found(file, index, [original.id]):
            with suppress(Unfit):
                row = self._row(index, content.row)
                row.make(content.key_file.content if content.key_file else b"")
                return number, raw, row
        return 0, b"", None

    def _key_file_is(self, row: Row, content: _Content) -> bool:
        """Whether the key file of a row is as its original, or gone already."""
        if content.key_file is None:
            return not row.key_file
        path = self._path_of(row.key_file)
        try:
            return files.read(path, MAX_SECRET).content == content.key_file.content
        except Unfit:
            return not os.path.lexists(path)

    def _rewrite(
        self, file: BinaryIO, index: _Index, changes: Mapping[int, bytes], key_files: Mapping[int, int]
    ) -> _Index:
        """Put rows in the places of others; return the index of the file as it is now."""
        if not changes:
            return index
        with files.replacing(self._path, index.identity) as new:
            at = 0
            for number in sorted(changes):
                start, end = index.span(number)
                _copy(file, new, at, start)
                new.write(changes[number])
                at = end
            _copy(file, new, at, index.identity.size)
        index = self._index = index.rewritten(changes, files.identity(self._path))
        for number in changes:
            index.rename(number, key_files.get(number, _NO_FILE))
        return index

    def _named_key_files(self, index: _Index) -> "array[int]":
        """Return a hash of the path of each row's key file, as the file is now."""
        found = array("q")
        with self._opened() as file:
            for number in range(1, len(index) + 1):
                path = self._path_named(index, number, index.read(file, number))
                found.append(_NO_FILE if path is None else hash(path))
        return found

    def _path_named(self, index: _Index, number: int, raw: bytes) -> str | None:
        if number < index.first or self._form.is_blank(raw):
            return None
        try:
            name = self._row(index, raw).key_file
            return self._path_of(name) if name else None
        except (Unfit, ValueError):
            return None

    async def _key_file_chunks(self) -> AsyncIterator[bytes]:
        number = 1
        while True:
            paths, number = await self._in_thread(partial(self._some_named, start=number))
            for path in paths:
                for each in (path, files.unfinished_of(path)):
                    async for chunk in files.chunks(each):
                        yield chunk
            if not number:
                return

    def _some_named(self, file: BinaryIO, index: _Index, start: int) -> tuple[list[Path], int]:
        """Return the key files that some rows name, and the number of the row after them; 0: that was all."""
        end = min(start + _SLICE_ROWS, len(index) + 1)
        paths = [self._path_named(index, number, index.read(file, number)) for number in range(start, end)]
        found = [Path(path) for path in paths if path is not None and os.path.isfile(path)]  # noqa: PTH113  # see _path_of
        return found, end if end <= len(index) else 0


def _content_of(original: Original) -> _Content:
    return msgspec.json.decode(original.content.reveal(), type=_Content)


def _notes_of(file: File) -> Iterator[str]:
    if file.shared:
        yield "others than its owner can read its key file: they may know the key, so replace it"
    if file.names > 1:
        yield "its key file has another name besides (a hard link)"


def _copy(source: BinaryIO, target: BinaryIO, start: int, end: int) -> None:
    while start < end:
        chunk = os.pread(source.fileno(), min(files.CHUNK, end - start), start)
        if not chunk:
            raise SourceUnavailable("the file became shorter while it was read; try again")
        target.write(chunk)
        start += len(chunk)

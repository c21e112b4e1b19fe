"""The store of one machine: an SQLite file that several processes may share.

Reads run where they stand, on the event loop's own connection (some 10 microseconds from the page cache); writes wait
for their group's fsync in the writer's thread, and the loop goes on. A value that was replaced or deleted is
overwritten in the file at once and gone from the write-ahead log about a second later, and at `SqliteBackend.close`.
The blocks that a cut log gives back to the file system, and its snapshots, are not ours to wipe.
"""

import asyncio
import json
import sqlite3
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Self
from urllib.parse import SplitResult

from strongroom.storage_service.backends.base import (
    MAX_BATCH,
    MAX_PAGE,
    Change,
    Entry,
    Page,
    Snapshot,
    check_batch,
    check_limit,
    check_names,
    check_size,
    not_applied,
)
from strongroom.storage_service.backends.sqlite.file import (
    BEYOND,
    REVISION,
    connect_reader,
    connect_snapshot,
    make,
    unavailable,
)
from strongroom.storage_service.backends.sqlite.writer import Writer
from strongroom.storage_service.backends.url import file_of
from strongroom.storage_service.errors import ConfigurationError

BUSY_TIMEOUT: Final = 5.0  # seconds a commit waits for another process' transaction
CHECK_INTERVAL: Final = 1.0  # seconds between two looks whether the file can be written

_GET: Final = "SELECT value, revision FROM entry WHERE name = ?"
_GET_MANY: Final = "SELECT name, value, revision FROM entry WHERE name IN (SELECT value FROM json_each(?))"
_SIZE: Final = "SELECT ifnull(sum(length(value)), 0) FROM entry WHERE name IN (SELECT value FROM json_each(?))"
_LIST: Final = "SELECT name FROM entry WHERE name >= ? AND name < ? ORDER BY name LIMIT ?"
_LIST_AFTER: Final = "SELECT name FROM entry WHERE name > ? AND name >= ? AND name < ? ORDER BY name LIMIT ?"
_ALL: Final = "SELECT name, value FROM entry ORDER BY name"
_COUNT: Final = "SELECT count(*) FROM entry"
_COPIED: Final = 1024 * 1024  # bytes of values from which on a page of a snapshot is full


class SqliteBackend:
    """An SQLite file (https://sqlite.org/wal.html), one writer's thread a process, and one connection to read.

    Args:
        path: the file; it is made, 0600, where it does not exist, and its directory, 0700.
        busy_timeout: seconds a commit waits for another process' transaction before it is `Unavailable`.
        factory: the class of the connection that writes; tests give one that fails.
    """

    max_batch: Final = MAX_BATCH

    def __init__(
        self,
        path: Path,
        *,
        busy_timeout: float = BUSY_TIMEOUT,
        factory: type[sqlite3.Connection] = sqlite3.Connection,
    ) -> None:
        self._path = path
        self._busy_timeout = round(busy_timeout * 1000)
        self._factory = factory
        self._writer: Writer | None = None
        self._reader: sqlite3.Connection | None = None
        self._well_until = 0.0  # seconds of the loop's clock

    @classmethod
    def from_url(cls, url: SplitResult, options: Mapping[str, str]) -> Self:
        """Make the backend that ``sqlite:/absolute/path?busy_timeout=5`` means.

        Raises:
            ConfigurationError: the path is not absolute, or an option is unknown or out of range.
        """
        path = file_of(url.path)
        if url.netloc or url.fragment or not path.is_absolute() or "\x00" in str(path):
            raise ConfigurationError("an SQLite store is 'sqlite:' and the absolute path of a file on this machine")
        if unknown := options.keys() - {"busy_timeout"}:
            raise ConfigurationError(f"an SQLite store takes busy_timeout, not {', '.join(sorted(unknown))}")
        try:
            busy_timeout = float(options.get("busy_timeout", BUSY_TIMEOUT))
        except ValueError:
            raise ConfigurationError("busy_timeout is a number of seconds") from None
        if not 0 <= busy_timeout <= 60:
            raise ConfigurationError("busy_timeout is 0 to 60 seconds")
        return cls(path, busy_timeout=busy_timeout)

    async def open(self) -> None:
        """Open the file, or make it.

        Raises:
            ConfigurationError: it is no store of ours, of a later version, damaged, or may not be written.
            Unavailable: it is locked, or the disk is full or fails.
        """
        make(self._path)
        writer = Writer(self._path, busy_timeout=self._busy_timeout, factory=self._factory)
        try:
            await writer.start()
            self._reader = connect_reader(self._path)
        except BaseException:
            await writer.stop()
            raise
        self._writer = writer

    async def check(self) -> None:
        """See that the file can be written; what was found to be well is believed for a second.

        Raises:
            Unavailable: it cannot, or was moved away; the text says why.
        """
        if self._writer is None:
            raise not_applied("the store is closed")
        now = asyncio.get_running_loop().time()
        if now >= self._well_until:
            await self._writer.check()
            self._well_until = now + CHECK_INTERVAL

    async def measure(self) -> Mapping[tuple[str, str], float]:
        """Return the bytes of the file and of its write-ahead log."""
        log = self._path.with_name(self._path.name + "-wal")
        return {
            ("sqlite_bytes", which): path.stat().st_size
            for which, path in (("database", self._path), ("log", log))
            if path.exists()
        }

    async def close(self) -> None:
        """Write what was begun, empty the log into the file, and let go of both connections."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()  # first: the writer sees whether it is the last
        await writer.stop()

    async def get(self, name: str) -> Entry | None:
        """Return what is stored under *name*."""
        try:
            row = self._db.execute(_GET, (name,)).fetchone()
        except sqlite3.Error as exc:
            raise unavailable(exc) from exc
        return None if row is None else Entry(*row)

    async def get_many(self, names: Sequence[str], *, limit: int | None = None) -> Mapping[str, Entry]:
        """Return those of *names* that exist; what they weigh is asked of the same moment, without the values."""
        check_names(names)
        wanted = (json.dumps(list(names)),)
        db = self._db
        try:
            if limit is None:
                rows = db.execute(_GET_MANY, wanted).fetchall()  # one statement sees one moment
            else:
                db.execute("BEGIN")
                try:
                    check_size(db.execute(_SIZE, wanted).fetchone()[0], limit)
                    rows = db.execute(_GET_MANY, wanted).fetchall()
                finally:
                    db.execute("COMMIT")
        except sqlite3.Error as exc:
            raise unavailable(exc) from exc
        return {name: Entry(value, revision) for name, value, revision in rows}

    async def list(self, prefix: str, after: str | None = None, limit: int = MAX_PAGE) -> Page:
        """Return a page of the names that begin with *prefix*, from the index alone."""
        check_limit(limit)
        try:
            if after is None:
                rows = self._db.execute(_LIST, (prefix, prefix + BEYOND, limit + 1)).fetchall()
            else:
                rows = self._db.execute(_LIST_AFTER, (after, prefix, prefix + BEYOND, limit + 1)).fetchall()
        except sqlite3.Error as exc:
            raise unavailable(exc) from exc
        return Page(tuple(name for (name,) in rows[:limit]), more=len(rows) > limit)

    async def commit(self, changes: Sequence[Change]) -> int:
        """Apply all of *changes* or none, and return their revision when they are on disk."""
        check_batch(changes)
        if self._writer is None:
            raise not_applied("the store is closed")
        return await self._writer.submit(tuple(changes))

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator[Snapshot, None]:
        """Hold this moment, by a read transaction on a connection of its own.

        While it lasts, the write-ahead log grows with what others write, and keeps what they replace and delete.
        """
        db = await asyncio.to_thread(connect_snapshot, self._path)
        try:
            yield _Moment(db)
        finally:
            await asyncio.to_thread(db.close)

    @property
    def _db(self) -> sqlite3.Connection:
        if self._reader is None:
            raise not_applied("the store is closed")
        return self._reader


class _Moment:
    """The moment that a connection's transaction holds."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.revision: int = db.execute(REVISION).fetchone()[0]
        self.count: int = db.execute(_COUNT).fetchone()[0]

    async def get(self, name: str) -> bytes | None:
        """Return what was stored under *name*."""
        try:
            row = self._db.execute(_GET, (name,)).fetchone()
        except sqlite3.Error as exc:
            raise unavailable(exc) from exc
        return None if row is None else row[0]

    async def pages(self) -> AsyncGenerator[Sequence[tuple[str, bytes]], None]:
        """Yield all rows, about a mebibyte at once."""
        rows = self._db.execute(_ALL)
        while page := await asyncio.to_thread(_next_page, rows):
            yield page


def _next_page(rows: sqlite3.Cursor) -> Sequence[tuple[str, bytes]]:
    page: list[tuple[str, bytes]] = []
    size = 0
    try:
        while size < _COPIED and len(page) < MAX_PAGE and (row := rows.fetchone()) is not None:
            page.append(row)
            size += len(row[1])
    except sqlite3.Error as exc:
        raise unavailable(exc) from exc
    return page

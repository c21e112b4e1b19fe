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
    Compacted,
    Entry,
    Event,
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
    STATE,
    connect_reader,
    connect_snapshot,
    make,
    unavailable,
)
from strongroom.storage_service.backends.sqlite.writer import Writer
from strongroom.storage_service.backends.url import file_of
from strongroom.storage_service.errors import ConfigurationError

BUSY_TIMEOUT: Final = 5.0  # seconds a commit waits for another process' transaction
HISTORY: Final = 1000  # deleted names that watches can still be told of
CHECK_INTERVAL: Final = 1.0  # seconds between two looks whether the file can be written
POLL_INTERVAL: Final = 0.2  # seconds between a watch's looks for what other processes wrote

_GET: Final = "SELECT value, revision FROM entry WHERE name = ?"
_GET_MANY: Final = "SELECT name, value, revision FROM entry WHERE name IN (SELECT value FROM json_each(?))"
_SIZE: Final = "SELECT ifnull(sum(length(value)), 0) FROM entry WHERE name IN (SELECT value FROM json_each(?))"
_LIST: Final = "SELECT name FROM entry WHERE name >= ? AND name < ? ORDER BY name LIMIT ?"
_LIST_AFTER: Final = "SELECT name FROM entry WHERE name > ? AND name >= ? AND name < ? ORDER BY name LIMIT ?"
_ALL: Final = "SELECT name, value FROM entry ORDER BY name"
_COUNT: Final = "SELECT count(*) FROM entry"
_NEWS: Final = """
    SELECT revision, name, value FROM entry WHERE revision > ?1 AND name >= ?2 AND name < ?3
    UNION ALL
    SELECT revision, name, NULL FROM tombstone WHERE revision > ?1 AND name >= ?2 AND name < ?3
    ORDER BY revision, name LIMIT ?4
"""
_NEWS_PAGE: Final = MAX_BATCH + 1  # so that one page always holds a whole revision
_COPIED: Final = 1024 * 1024  # bytes of values from which on a page of a snapshot is full


class SqliteBackend:
    """An SQLite file (https://sqlite.org/wal.html), one writer's thread a process, and one connection to read.

    Args:
        path: the file; it is made, 0600, where it does not exist, and its directory, 0700.
        busy_timeout: seconds a commit waits for another process' transaction before it is `Unavailable`.
        history: how many deleted names a watch can still be told of.
        factory: the class of the connection that writes; tests give one that fails.
    """

    max_batch: Final = MAX_BATCH

    def __init__(
        self,
        path: Path,
        *,
        busy_timeout: float = BUSY_TIMEOUT,
        history: int = HISTORY,
        factory: type[sqlite3.Connection] = sqlite3.Connection,
    ) -> None:
        self._path = path
        self._busy_timeout = round(busy_timeout * 1000)
        self._history = history
        self._factory = factory
        self._writer: Writer | None = None
        self._reader: sqlite3.Connection | None = None
        self._well_until = 0.0  # seconds of the loop's clock
        self._changed = asyncio.Event()  # set, and replaced, whenever this process has written

    @classmethod
    def from_url(cls, url: SplitResult, options: Mapping[str, str]) -> Self:
        """Make the backend that ``sqlite:/absolute/path?busy_timeout=5&history=1000`` means.

        Raises:
            ConfigurationError: the path is not absolute, or an option is unknown or out of range.
        """
        path = file_of(url.path)
        if url.netloc or url.fragment or not path.is_absolute() or "\x00" in str(path):
            raise ConfigurationError("an SQLite store is 'sqlite:' and the absolute path of a file on this machine")
        if unknown := options.keys() - {"busy_timeout", "history"}:
            raise ConfigurationError(
                f"an SQLite store takes busy_timeout and history, not {', '.join(sorted(unknown))}"
            )
        try:
            busy_timeout = float(options.get("busy_timeout", BUSY_TIMEOUT))
            history = int(options.get("history", HISTORY))
        except ValueError:
            raise ConfigurationError("busy_timeout is a number of seconds, history a number of names") from None
        if not 0 <= busy_timeout <= 60 or history < 1:
            raise ConfigurationError("busy_timeout is 0 to 60 seconds, history at least 1")
        return cls(path, busy_timeout=busy_timeout, history=history)

    async def open(self) -> None:
        """Open the file, or make it.

        Raises:
            ConfigurationError: it is no store of ours, of a later version, damaged, or may not be written.
            Unavailable: it is locked, or the disk is full or fails.
        """
        make(self._path)
        writer = Writer(
            self._path,
            busy_timeout=self._busy_timeout,
            history=self._history,
            on_change=self._wake,
            factory=self._factory,
        )
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

    async def close(self) -> None:
        """Write what was begun, empty the log into the file, and let go of both connections; watches end."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()  # first: the writer sees whether it is the last
        try:
            await writer.stop()
        finally:
            self._wake()

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

    async def watch(self, prefix: str, since: int) -> AsyncGenerator[Event, None]:
        """Yield every change under *prefix* after revision *since*; overtaken ones are left out.

        Raises:
            Compacted: names were deleted since then that are no longer remembered.
            Unavailable: the store was closed, or cannot be read.
        """
        while True:
            changed = self._changed
            version = self._data_version()
            events, since = self._news(prefix, since)
            for event in events:
                yield event
            while not events and not changed.is_set() and self._data_version() == version:
                try:
                    async with asyncio.timeout(POLL_INTERVAL):
                        await changed.wait()
                except TimeoutError:
                    continue

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

    def _data_version(self) -> int:
        """Return a number that changes when any other connection, in any process, has committed."""
        try:
            (version,) = self._db.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error as exc:
            raise unavailable(exc) from exc
        return int(version)

    def _news(self, prefix: str, since: int) -> tuple[Sequence[Event], int]:
        """Return the next changes after *since*, whole revisions, and the revision up to which they are all."""
        db = self._db
        try:
            db.execute("BEGIN")
            try:
                compacted, revision = db.execute(STATE).fetchone()
                rows = db.execute(_NEWS, (since, prefix, prefix + BEYOND, _NEWS_PAGE)).fetchall()
            finally:
                db.execute("COMMIT")
        except sqlite3.Error as exc:
            raise unavailable(exc) from exc
        if since < compacted:
            raise Compacted
        if len(rows) == _NEWS_PAGE:  # the last revision may go on beyond the page
            last = rows[-1][0]
            rows = [row for row in rows if row[0] < last]
            revision = last - 1
        events = [Event(name, None if value is None else Entry(value, at), at) for at, name, value in rows]
        return events, max(since, revision)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class _Moment:
    """The moment that a connection's transaction holds."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.revision: int = db.execute(STATE).fetchone()[1]
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

"""The one thread of a process that writes to an SQLite store, a group of commits at a time.

A store that takes no writes is tried again with every commit, and whenever somebody asks whether it can be written: the
thread ends for no failure of the disk, and works again when the disk does.

Commits that wait while the disk is busy share the next transaction and its one fsync. The group is decided in memory,
in order, each commit under its own guards and with its own revision; what remains of it is written in few statements,
for every statement hands the interpreter lock over and has to win it back from a busy event loop.
"""

import asyncio
import contextlib
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, NamedTuple, TypeAlias

from strongroom.storage_service.backends.base import (
    ABSENT,
    Change,
    Conflict,
    Delete,
    Put,
    Vacant,
    failed_guards,
    not_applied,
)
from strongroom.storage_service.backends.sqlite.file import (
    BEYOND,
    REVISION,
    TOUCH,
    Presence,
    alone,
    connect_writer,
    leave,
    place_of,
    primary_code,
    unavailable,
)
from strongroom.storage_service.errors import Fate, StrongroomError, Unavailable
from strongroom.storage_service.traces import trace_of

MAX_GROUP: Final = 64  # commits in one transaction, so that the first does not wait long for the last
MAX_PART: Final = 4 * 1024 * 1024  # bytes of values in one statement, which counts them in 24 bits
POLL: Final = 0.0002  # seconds between looks whether another process has finished its group
CHECK_WAIT: Final = 0.1  # seconds that a look whether the store can be written waits for another process' transaction
SCRUB_AFTER: Final = 1.0  # seconds from a deletion or replacement until the old value is gone from the log too

_REVISIONS: Final = "SELECT json_group_object(name, revision) FROM entry WHERE name IN (SELECT value FROM json_each(?))"
_BELOW: Final = "SELECT name FROM entry WHERE name > ? AND name < ? LIMIT ?"
# Of many rows at once, each a name and a number that holds three: its revision, as the distance from the third
# argument, and where in the second its value begins, and how long it is. Bits are taken apart sooner than JSON.
_PUT: Final = """
    INSERT INTO entry (name, revision, value)
    SELECT key, ?3 + (value >> 48), substr(?2, (value >> 24) & 0xFFFFFF, value & 0xFFFFFF)
    FROM json_each(?1) WHERE TRUE
    ON CONFLICT (name) DO UPDATE SET revision = excluded.revision, value = excluded.value
"""
_DELETE: Final = "DELETE FROM entry WHERE name IN (SELECT value FROM json_each(?))"
_REVISION: Final = "UPDATE store SET revision = ?"

# A COMMIT that failed so has not written its last frame, without which the log's earlier ones count for nothing
# (https://sqlite.org/fileformat2.html#walformat). Any other failure, above all of fsync, may have left it whole.
_NOT_COMMITTED: Final = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_IOERR_WRITE}

# Failures that a connection may keep for good, though the file is as it should be again.
_REOPENED: Final = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}
_UNWRITABLE: Final = _REOPENED | {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
}
_WAITING: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}

log = logging.getLogger(__name__)

Outcome: TypeAlias = int | Exception
"""The revision a commit got, or the error it gets."""


class _Job(NamedTuple):
    changes: Sequence[Change]  # none: only see whether the store can be written
    future: "asyncio.Future[int]"


class Writer:
    """Takes commits from the event loop and answers them there, one wake-up a group.

    Args:
        path: the store's file, made and checked.
        busy_timeout: milliseconds to wait for another process' transaction.
        factory: the class of the connection.
    """

    def __init__(
        self,
        path: Path,
        *,
        busy_timeout: int,
        factory: type[sqlite3.Connection],
    ) -> None:
        self._path = path
        self._busy_timeout = busy_timeout
        self._factory = factory
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._waiting: set[asyncio.Future[int]] = set()
        self._ending = False
        self._scrub_at: float | None = None  # monotonic seconds
        self._db: sqlite3.Connection  # of the thread
        self._place: tuple[int, int] | None = None  # which file is open
        self._stale = False  # the connection is to be opened anew
        self._failure = ""  # why the store took no write when it was last tried
        self._unscrubbed = ""  # why the log could not be brought into the file

    async def start(self) -> None:
        """Start the thread, and return when it can write.

        Raises:
            ConfigurationError, Unavailable: as `file.connect_writer`.
        """
        threading.Thread(target=self._run, name="sqlite-writer", daemon=True).start()
        await self._started

    def submit(self, changes: Sequence[Change]) -> "asyncio.Future[int]":
        """Queue one commit; cancelling what is returned before its turn withdraws it."""
        if self._ending:
            raise not_applied("the store is closed")
        future: asyncio.Future[int] = self._loop.create_future()
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        self._jobs.put(_Job(changes, future))
        return future

    def check(self) -> "asyncio.Future[int]":
        """See, when it is its turn, whether the store can be written; the future fails as that of a commit."""
        return self.submit(())

    async def stop(self) -> None:
        """Write what is queued, empty the log into the file, and end the thread."""
        self._ending = True
        self._jobs.put(None)
        await asyncio.shield(self._ended)

    def _answer(self, jobs: Sequence[_Job], outcomes: Sequence[Outcome]) -> None:
        for job, outcome in zip(jobs, outcomes, strict=True):
            if job.future.done():  # cancelled meanwhile
                continue
            if isinstance(outcome, Exception):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)

    def _end(self, error: Exception | None) -> None:
        """Tell everyone who waits that the thread is gone; it should have left nobody waiting."""
        self._ending = True
        if not self._started.done():
            self._started.set_exception(error or not_applied("the store is closed"))
        for future in self._waiting:
            if not future.done():
                future.set_exception(Unavailable("the store's writer has stopped", Fate.UNKNOWN))
        self._ended.set_result(None)

    # What follows runs in the thread.

    def _run(self) -> None:
        try:
            with self._opened():
                self._tell(_succeed, self._started)
                self._scrub(self._db)  # of what a process that was killed left in the log
                while (jobs := self._next_group()) is not None:
                    if jobs:
                        outcomes = self._served([job.changes for job in jobs])
                        self._tell(self._answer, jobs, outcomes)
                    self._scrub_when_due(self._db)
                self._scrub(self._db)
        except StrongroomError as exc:
            self._tell(self._end, exc)
        except Exception as exc:  # noqa: BLE001  # whatever it is, those who wait are told
            log.error("the writer of the SQLite store has stopped: %s", trace_of(exc))  # noqa: TRY400  # its text may quote
            self._tell(self._end, exc)
        else:
            self._tell(self._end, None)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[None]:
        """Have the file open, and be known to have; raises what `_connect` does."""
        with alone(self._path):
            presence = Presence(self._path)
            try:
                self._db = self._connect()
            except BaseException:
                presence.end()
                raise
        try:
            yield
        finally:
            leave(self._db, self._path, presence)

    def _tell(self, function: Callable[..., None], *args: object) -> None:
        """Run *function* on the event loop; one that was closed over our head has nobody left to tell."""
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            self._jobs.put(None)

    def _next_group(self) -> list[_Job] | None:
        """Wait for commits and return all that are there, in order; none when it is time to scrub, None at the end."""
        wait = None if self._scrub_at is None else max(0.0, self._scrub_at - time.monotonic())
        jobs: list[_Job] = []
        try:
            job = self._jobs.get(timeout=wait)
            while job is not None:
                if not job.future.cancelled():
                    jobs.append(job)
                if len(jobs) == MAX_GROUP:
                    return jobs
                job = self._jobs.get_nowait()
        except Empty:
            return jobs
        if jobs:
            self._jobs.put(None)  # the end comes after this group
        return jobs or None

    def _connect(self) -> sqlite3.Connection:
        """Open the file; from here on `_begin` waits for others.

        Raises:
            ConfigurationError, Unavailable: as `file.connect_writer`.
        """
        place = place_of(self._path)
        db = connect_writer(self._path, self._busy_timeout, self._factory)
        db.execute("PRAGMA busy_timeout = 0")
        self._place, self._stale = place, False
        return db

    def _served(self, batches: Sequence[Sequence[Change]]) -> list[Outcome]:
        """Write a group, and look, where that was asked, whether it could be."""
        if place_of(self._path) != self._place:
            # Nothing is opened, closed or made: our log, and the locks on it, are of the file that lay there.
            gone = (
                f"{self._path} was moved or replaced under the running service: stop it, put the store back, start it"
            )
            return [not_applied(gone) for _ in batches]
        if self._stale:
            try:
                with alone(self._path):
                    old, self._db = self._db, self._connect()
                    old.close()
            except StrongroomError as error:
                return [not_applied(str(error)) for _ in batches]
        writes = [changes for changes in batches if changes]
        written = iter(self._apply(self._db, writes) if writes else ())
        checked = 0 if len(writes) == len(batches) else self._checked(self._db)  # once for all who ask
        return [next(written) if changes else checked for changes in batches]

    def _checked(self, db: sqlite3.Connection) -> Outcome:
        """Return whether the store can be written: an error, or any number."""
        if self._unscrubbed:
            return not_applied(self._unscrubbed)
        try:
            self._begin(db, CHECK_WAIT)
            db.execute(TOUCH)
            # What failed on its way to the disk is known to work only by going there.
            db.execute("COMMIT" if self._failure else "ROLLBACK")
        except sqlite3.Error as exc:
            _roll_back(db)
            if primary_code(exc) in _WAITING:  # who has the lock writes
                return not_applied(self._failure) if self._failure else 0
            return self._told(exc)
        self._failure = ""
        return 0

    def _told(self, error: sqlite3.Error, fate: Fate = Fate.NOT_APPLIED) -> Unavailable:
        """Return what to answer for *error*, and keep in mind what it says of the store."""
        answer = unavailable(error, fate)
        if primary_code(error) in _UNWRITABLE:
            self._failure = str(answer)
            self._stale = primary_code(error) in _REOPENED
        return answer

    def _apply(self, db: sqlite3.Connection, batches: Sequence[Sequence[Change]]) -> list[Outcome]:
        """Write a group in one transaction; where it cannot be written together, each commit by itself."""
        begun = False
        try:
            self._begin(db)
            begun = True
            group = _Group(db, batches)
            group.write()
        except sqlite3.Error as exc:
            _roll_back(db)
            if begun and len(batches) > 1:
                return [self._apply(db, [changes])[0] for changes in batches]
            return [self._told(exc) for _ in batches]
        try:
            db.execute("COMMIT")
        except sqlite3.Error as exc:
            _roll_back(db)
            code = getattr(exc, "sqlite_errorcode", None)
            fate = Fate.NOT_APPLIED if code in _NOT_COMMITTED else Fate.UNKNOWN
            return [self._told(exc, fate) for _ in batches]
        if group.writes:
            self._failure = ""
        if group.destroys and self._scrub_at is None:
            self._scrub_at = time.monotonic() + SCRUB_AFTER
        return group.outcomes

    def _begin(self, db: sqlite3.Connection, patience: float | None = None) -> None:
        """Begin a transaction when no other process has one; *patience* is seconds, the busy timeout unless said.

        SQLite's own waiting begins with a millisecond and goes on to tens of them, where another worker's group takes
        a few tenths of one.
        """
        deadline = time.monotonic() + (self._busy_timeout / 1000 if patience is None else patience)
        while True:
            try:
                db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as exc:
                if primary_code(exc) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(POLL)
            else:
                return

    def _scrub_when_due(self, db: sqlite3.Connection) -> None:
        if self._scrub_at is not None and time.monotonic() >= self._scrub_at:
            self._scrub(db)

    def _scrub(self, db: sqlite3.Connection) -> None:
        """Bring the log into the file and cut it to nothing; while others read from it, try again later."""
        try:
            (busy, _, _) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as exc:
            busy = True
            why = "" if primary_code(exc) in _WAITING else str(unavailable(exc))
            if why and not self._unscrubbed:
                log.error("the store's log cannot be written to its file, and grows until it can: %s", why)  # noqa: TRY400
            self._unscrubbed = why or self._unscrubbed
        else:
            self._unscrubbed = ""
        self._scrub_at = time.monotonic() + SCRUB_AFTER if busy else None


class _Group:
    """What a group of commits makes of the store, decided before any of it is written.

    Only a name's last state in the group is written: nobody could have seen those between.
    """

    def __init__(self, db: sqlite3.Connection, batches: Sequence[Sequence[Change]]) -> None:
        self._db = db
        names = {change.name for changes in batches for change in changes if not isinstance(change, Vacant)}
        self._revision: int = db.execute(REVISION).fetchone()[0]
        (there,) = db.execute(_REVISIONS, (json.dumps(list(names)),)).fetchone()
        self._revisions: dict[str, int] = json.loads(there)  # of the names in question, as of the commits decided
        self._stored = frozenset(self._revisions)
        self._puts: dict[str, tuple[int, bytes]] = {}
        self._deletes: set[str] = set()
        self.outcomes = [self._decide(changes) for changes in batches]

    @property
    def writes(self) -> bool:
        """Whether there is anything to be written."""
        return bool(self._puts or self._deletes)

    @property
    def destroys(self) -> bool:
        """Whether a value that was stored is stored no longer."""
        return not self._stored.isdisjoint(self._puts.keys() | self._deletes)

    def write(self) -> None:
        """Write what was decided, within the transaction that is open."""
        if not self.writes:
            return
        db = self._db
        for puts in self._parts():
            _put(db, puts)
        if self._deletes:
            db.execute(_DELETE, (json.dumps(list(self._deletes)),))
        db.execute(_REVISION, (self._revision,))

    def _parts(self) -> Iterator[Sequence[tuple[str, int, bytes]]]:
        """Give out what is to be put, so much at once that it is not copied in one great piece."""
        part: list[tuple[str, int, bytes]] = []
        size = 0
        for name, (revision, value) in self._puts.items():
            if part and size + len(value) > MAX_PART:
                yield part
                part, size = [], 0
            part.append((name, revision, value))
            size += len(value)
        if part:
            yield part

    def _decide(self, changes: Sequence[Change]) -> Outcome:
        if failed := failed_guards(changes, self._revision_of, self._occupied):
            return Conflict(failed)
        revision = self._revision + 1
        for change in changes:
            if isinstance(change, Put):
                self._revisions[change.name] = self._revision = revision
                self._puts[change.name] = (revision, change.value)
                self._deletes.discard(change.name)
            elif isinstance(change, Delete) and self._revisions.pop(change.name, None) is not None:
                self._revision = revision
                self._puts.pop(change.name, None)
                self._deletes.add(change.name)
        return self._revision

    def _revision_of(self, name: str) -> int:
        return self._revisions.get(name, ABSENT)

    def _occupied(self, prefix: str) -> bool:
        """Whether a name lies below *prefix*, what the group put and deleted there taken into account."""
        if any(name.startswith(prefix) and name != prefix for name in self._puts):
            return True
        below = self._db.execute(_BELOW, (prefix, prefix + BEYOND, len(self._deletes) + 1))
        return any(name not in self._deletes for (name,) in below)


def _put(db: sqlite3.Connection, puts: Sequence[tuple[str, int, bytes]]) -> None:
    first = min(revision for _, revision, _ in puts)
    rows: dict[str, int] = {}
    begin = 1  # SQLite counts from one
    for name, revision, value in puts:
        rows[name] = (revision - first) << 48 | begin << 24 | len(value)
        begin += len(value)
    # The byte at the end is nobody's: of no bytes at all, substr() makes NULL.
    values = b"".join([*(value for _, _, value in puts), b"\0"])
    db.execute(_PUT, (json.dumps(rows), values, first))


def _roll_back(db: sqlite3.Connection) -> None:
    with contextlib.suppress(sqlite3.Error):
        if db.in_transaction:
            db.execute("ROLLBACK")


def _succeed(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)

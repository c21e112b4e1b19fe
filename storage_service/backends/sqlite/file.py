"""The file of an SQLite store: making it, knowing it from other programs' files, connecting to it, naming its errors.

One table holds what is there, each row with the revision of the commit that wrote it; one row more holds the
revision of the store. The file is 0600, its directory 0700 where it is made here.

    entry(name, revision, value)   store(revision)

While somebody has the file open, what is newest may lie in its log alone (``-wal``), and a copy of the file without it
looks whole. So the file itself says that it is in use (``user_version``), and the last who closes it says that it is
not: a file in use without a log is a copy that lost it.

Trusted: whoever may write the file's directory. Not for network file systems: WAL needs shared memory and real locks.
"""

import contextlib
import fcntl
import os
import sqlite3
import stat
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from strongroom.storage_service.errors import ConfigurationError, Fate, StoreFails, Unavailable
from strongroom.storage_service.reach import refuse_changed_by_others

APPLICATION_ID: Final = 0x53_74_72_67  # "Strg", in the file's header
SCHEMA_VERSION: Final = 2  # 1 was never released, and told for a while what was deleted
IN_USE: Final = 0x10000  # added to that while the file is open
READ_TIMEOUT: Final = 100  # milliseconds a read may wait, on the event loop, while another process recovers the file
CACHE_SIZE: Final = -16384  # KiB, negative as SQLite counts kibibytes; each connection's
BEYOND: Final = "\x7f"  # sorts after every character that a name can have
REVISION: Final = "SELECT revision FROM store"
TOUCH: Final = "UPDATE store SET revision = revision"
"""Changes nothing, and fails where nothing may be changed."""

_SCHEMA: Final = (
    "CREATE TABLE entry (name TEXT NOT NULL UNIQUE, revision INTEGER NOT NULL, value BLOB NOT NULL)",
    "CREATE TABLE store (revision INTEGER NOT NULL)",
    "INSERT INTO store (revision) VALUES (1)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)

_FLOCK: Final = struct.Struct("hhqqi4x")  # struct flock of fcntl(2): kind, whence, start, length, process

_REASONS: Final = {
    sqlite3.SQLITE_FULL: "the store is full",
    sqlite3.SQLITE_BUSY: "the store is locked by another process",
    sqlite3.SQLITE_LOCKED: "the store is locked by another process",
    sqlite3.SQLITE_IOERR: "the store's disk fails",
    sqlite3.SQLITE_CORRUPT: "the store's file is damaged; restore it from a backup",
    sqlite3.SQLITE_NOTADB: "the store's file is not an SQLite database, or is damaged",
    sqlite3.SQLITE_READONLY: "the store's file, or its directory, may not be written",
    sqlite3.SQLITE_PERM: "the store's file may not be read",
    sqlite3.SQLITE_CANTOPEN: "the store's file cannot be opened: see that it is a file, and whose",
}
_PASSING: Final = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR}
_TOLD: Final = _PASSING | {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN}  # to whoever asks


def primary_code(error: sqlite3.Error) -> int:
    """Return the primary result code of *error*, 0 where SQLite itself gave none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def place_of(path: Path) -> tuple[int, int] | None:
    """Return which file lies at *path*, None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def unavailable(error: sqlite3.Error, fate: Fate = Fate.NOT_APPLIED) -> Unavailable:
    """Return what to answer for *error*: its kind in our words and SQLite's name for it, nothing of the statement."""
    reason = _REASONS.get(primary_code(error), "the store's file cannot be used")
    plain = reason if primary_code(error) in _TOLD else "the store's file cannot be used"
    return StoreFails(f"{reason} ({getattr(error, 'sqlite_errorname', type(error).__name__)})", fate, plain=plain)


def make(path: Path) -> None:
    """Make the file (0600), and its directory (0700), where there is none; refuse a file that is not ours, untouched.

    Raises:
        ConfigurationError: it cannot be made; it is another program's, written by a later version, or lost its log.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        refuse_changed_by_others(path.parent)
        try:
            # Not open(): closing a descriptor of a file drops all locks this process holds on it (fcntl(2)).
            os.mknod(path, stat.S_IFREG | 0o600)
        except FileExistsError:
            with alone(path):
                _refuse_foreign_file(path)
            if path.stat().st_mode & 0o077:
                path.chmod(0o600)
    except OSError as exc:
        raise ConfigurationError(f"the store {path} cannot be made or kept to its owner: {exc.strerror}") from exc


def connect_writer(path: Path, busy_timeout: int, factory: type[sqlite3.Connection]) -> sqlite3.Connection:
    """Return the connection that writes: what it commits is on disk, and what it deletes is overwritten.

    Args:
        path: a file that :func:`make` has seen.
        busy_timeout: milliseconds to wait for another process' transaction.
        factory: the class of the connection; tests give one that fails.

    Raises:
        ConfigurationError: the file is damaged, not ours, or may not be written.
        Unavailable: it is locked, or the disk is full or fails.
    """
    try:
        # Never made here: a store that went away must not come back empty.
        uri = f"{path.absolute().as_uri()}?mode=rw"
        db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=busy_timeout / 1000, factory=factory)
        try:
            for pragma in ("secure_delete = ON", "synchronous = FULL", "cell_size_check = ON", "trusted_schema = OFF"):
                db.execute(f"PRAGMA {pragma}")
            db.execute(f"PRAGMA cache_size = {CACHE_SIZE}")
            _lay_schema(db, path)
            _use_wal(db, busy_timeout)
            db.execute("BEGIN IMMEDIATE")
            db.execute(TOUCH)  # who may not write learns it now: of such a file, the statement before reads quietly
            db.execute("ROLLBACK")
            _say_in_use(db)
        except BaseException:
            db.close()
            raise
    except sqlite3.Error as exc:
        raise _startup_error(exc, path) from exc
    return db


class Presence:
    """That somebody has the file open to write, by which the last one knows that it is the last.

    It is a read lock on a byte of the directory that stands for the file (F_OFD_SETLK, fcntl(2)): like any number of
    others it needs no file of its own, is seen by all processes, and cannot be left behind.
    """

    def __init__(self, path: Path) -> None:
        """Be present; *path* must be there."""
        self._byte = path.stat().st_ino
        self._descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, self._lock(fcntl.F_RDLCK))

    @property
    def is_last(self) -> bool:
        """Whether nobody else is."""
        found = fcntl.fcntl(self._descriptor, fcntl.F_OFD_GETLK, self._lock(fcntl.F_WRLCK))
        kind: int = _FLOCK.unpack(found)[0]
        return kind == fcntl.F_UNLCK

    def end(self) -> None:
        """Be so no longer."""
        os.close(self._descriptor)

    def _lock(self, kind: int) -> bytes:
        return _FLOCK.pack(kind, os.SEEK_SET, self._byte, 1, 0)


def leave(db: sqlite3.Connection, path: Path, presence: Presence) -> None:
    """Close the connection that writes; the last one of all processes leaves a file that is whole without a log."""
    with alone(path), contextlib.closing(db), contextlib.suppress(sqlite3.Error):
        try:
            if presence.is_last:
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # so that the file says so before the log goes
                db.execute("PRAGMA journal_mode = DELETE")  # refused while somebody reads from it
        finally:
            presence.end()


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Be the only one who opens or closes the file: by a lock on its directory (flock(2)), which needs no file."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def connect_reader(path: Path) -> sqlite3.Connection:
    """Return a connection that only reads, for a file that a writer has opened.

    Raises:
        ConfigurationError: the file is damaged.
        Unavailable: it cannot be read now.
    """
    try:
        db = sqlite3.connect(path, isolation_level=None, timeout=READ_TIMEOUT / 1000)
        try:
            for pragma in ("query_only = ON", "cell_size_check = ON", "trusted_schema = OFF"):
                db.execute(f"PRAGMA {pragma}")
            db.execute(f"PRAGMA cache_size = {CACHE_SIZE}")
            db.execute(REVISION).fetchone()
        except BaseException:
            db.close()
            raise
    except sqlite3.Error as exc:
        raise _startup_error(exc, path) from exc
    return db


def connect_snapshot(path: Path) -> sqlite3.Connection:
    """Return a connection that holds this moment of the file, and may be used in any one thread at a time.

    It is opened for reading alone: nothing is made where there is nothing, and nobody is kept from writing.

    Raises:
        ConfigurationError: there is no store of ours, it is damaged, or lost its log.
        Unavailable: it cannot be read now.
    """
    if not path.exists():
        raise ConfigurationError(f"there is no store at {path}")
    with alone(path):
        _refuse_foreign_file(path)
    try:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        try:
            for pragma in ("cell_size_check = ON", "trusted_schema = OFF"):
                db.execute(f"PRAGMA {pragma}")
            db.execute("BEGIN")
            if not _is_ours(db, path):
                raise ConfigurationError(f"{path} holds no store yet")
            db.execute(REVISION).fetchone()  # from this first look on, the moment is held
        except BaseException:
            db.close()
            raise
    except sqlite3.Error as exc:
        raise _startup_error(exc, path) from exc
    return db


def _startup_error(error: sqlite3.Error, path: Path) -> ConfigurationError | Unavailable:
    answer = unavailable(error)
    return answer if primary_code(error) in _PASSING else ConfigurationError(f"{path}: {answer}")


def _refuse_foreign_file(path: Path) -> None:
    """Look at a file without locking, recovering or changing anything of it; what cannot be read so is let pass."""
    uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    try:
        db = sqlite3.connect(uri, uri=True, isolation_level=None)
        try:
            if _is_ours(db, path):
                _refuse_without_log(db, path)
        finally:
            db.close()
    except sqlite3.Error as exc:
        if primary_code(exc) == sqlite3.SQLITE_NOTADB:
            raise _startup_error(exc, path) from exc


def _refuse_without_log(db: sqlite3.Connection, path: Path) -> None:
    """Refuse a file that was in use when it was copied, if its log was not copied with it.

    Args:
        db: a connection that sees nothing but the file itself.
        path: the file.

    Raises:
        ConfigurationError: the log is not there.
    """
    log = path.with_name(f"{path.name}-wal")
    if _is_in_use(db) and not os.path.lexists(log):
        raise ConfigurationError(
            f"{path} is a copy of a store that was in use, without its log {log.name}, so that its newest records are "
            f"missing: restore a backup, or put the log beside it; to make do with what is here, run: touch {log}"
        )


def _is_in_use(db: sqlite3.Connection) -> bool:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return bool(version & IN_USE)


def _is_ours(db: sqlite3.Connection, path: Path) -> bool:
    """Tell a store of ours (True) from a file that nobody has written yet (False).

    Raises:
        ConfigurationError: it is neither, or written by another version.
    """
    (application,), (version,) = (db.execute(f"PRAGMA {p}").fetchone() for p in ("application_id", "user_version"))
    if application == APPLICATION_ID:
        form = version & ~IN_USE
        if form > SCHEMA_VERSION:
            raise ConfigurationError(f"{path} was written by a later version of Strongroom: upgrade this one")
        if form < SCHEMA_VERSION:
            raise ConfigurationError(
                f"{path} was written before the first release of Strongroom, and no release opens it: "
                "name another file for the store"
            )
        return True
    if application or version or db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
        raise ConfigurationError(f"{path} belongs to another program: name another file for the store")
    return False


def _lay_schema(db: sqlite3.Connection, path: Path) -> None:
    """Give an empty file its tables, in one transaction, whoever else tries the same at the same time."""
    if _is_ours(db, path):
        return
    db.execute("BEGIN EXCLUSIVE")
    if not _is_ours(db, path):
        for statement in _SCHEMA:
            db.execute(statement)
    db.execute("COMMIT")


def _say_in_use(db: sqlite3.Connection) -> None:
    """Let the file itself say that it is in use; where the disk is full it does not, and works all the same."""
    with contextlib.suppress(sqlite3.OperationalError):
        if not _is_in_use(db):
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION | IN_USE}")
            db.execute("PRAGMA wal_checkpoint(PASSIVE)")  # into the file, before anything else is in the log


def _use_wal(db: sqlite3.Connection, busy_timeout: int) -> None:
    """Switch to write-ahead logging; SQLite does not wait by itself for others who do the same."""
    deadline = time.monotonic() + busy_timeout / 1000
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as exc:
            if primary_code(exc) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return

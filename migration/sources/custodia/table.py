"""The table that Custodia's SqliteStore keeps, as SQLite has it: its rows in order, compared, deleted, put back.

Every act is a connection of its own, as with Custodia itself, and for reading a read-only one: no lock is held between
two acts, and that of a reader, which writers wait for, for one page. All of this blocks.

Any type may lie in any column of SQLite's (https://www.sqlite.org/datatype3.html), so nothing is taken for text before
it was looked at: keys and values come and go as octets, with the name of the value's type.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

from strongroom.migration.errors import MigrationError, SourceUnavailable
from strongroom.storage_service.errors import ConfigurationError

TEXTS: Final = ("text", "blob")  # SQLite's names of the types that can hold what Custodia writes

_PAGE: Final = 500  # rows
_PAGE_SIZE: Final = 4 * 1024 * 1024  # bytes of values after which a page ends
_MAX_VALUE: Final = 32 * 1024 * 1024  # bytes; Custodia takes requests of 10 MiB, and base64 twice makes 18 of them
_BUSY: Final = 10.0  # seconds to wait for others' locks


# Statements are put together of the words below, and of the table's name, quoted: hence each "noqa".
# A key that is a text is less than every one that is a blob; SQLite finds these bounds in the index of the keys.
_TEXTS: Final = "key >= '' AND key < x''"
_EMPTY: Final = "(value IS NULL OR value = '' OR value = x'')"
_CHILDREN: Final = (  # "0" is what follows "/"
    "EXISTS (SELECT 1 FROM {table} AS child WHERE child.key > here.key || '/' AND child.key < here.key || '0')"
)
_SIZE: Final = "coalesce(length(CAST(value AS BLOB)), 0)"
_ROW: Final = (
    f"SELECT CAST(key AS BLOB), typeof(value), {_SIZE}, CASE WHEN {_SIZE} <= {_MAX_VALUE} THEN CAST(value AS BLOB) END,"  # noqa: S608
    f" CASE WHEN {_EMPTY} THEN {_CHILDREN} ELSE 0 END FROM {{table}} AS here WHERE "
)
_FIRST: Final = f"{_ROW} {_TEXTS} ORDER BY key LIMIT {_PAGE}"
_NEXT: Final = f"{_ROW} key > CAST(? AS TEXT) AND key < x'' ORDER BY key LIMIT {_PAGE}"
_ONE: Final = f"{_ROW} key = CAST(? AS TEXT)"
_COUNT: Final = f"SELECT count(*) FROM {{table}} AS here WHERE {_TEXTS} AND NOT ({_EMPTY} AND {_CHILDREN})"  # noqa: S608
_ODD: Final = f"SELECT 1 FROM {{table}} WHERE key IS NULL OR NOT ({_TEXTS}) LIMIT 1"  # noqa: S608
_DELETE: Final = "DELETE FROM {table} WHERE key = CAST(? AS TEXT) AND typeof(value) = ? AND CAST(value AS BLOB) = ?"
_INSERT: Final = {
    "text": "INSERT INTO {table} (key, value) VALUES (CAST(? AS TEXT), CAST(? AS TEXT))",
    "blob": "INSERT INTO {table} (key, value) VALUES (CAST(? AS TEXT), ?)",
}


class Row(NamedTuple):
    """A row; *value* is None where it is NULL, or larger than anything that Custodia writes."""

    key: bytes
    kind: str
    size: int
    value: bytes | None
    has_children: bool  # of a row without a value, which is a container


class Cell(NamedTuple):
    """A key and the value that it has, or had; *kind* is one of `TEXTS`."""

    key: bytes
    kind: str
    value: bytes


class Table:
    """One table of one file.

    Every method raises `SourceUnavailable` where SQLite cannot do it, and then nothing was changed, and
    `ConfigurationError` if the file is no database.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.page_size = 0
        """Bytes of one page of the file, once it was checked."""
        self._name = name

    def check(self) -> None:
        """Return if this is a table of Custodia's.

        Raises:
            ConfigurationError: it is invalid; the text says what to do.
        """
        try:
            is_file = self.path.is_file()
        except OSError as error:
            raise SourceUnavailable(f"{self.path} cannot be looked at: {error.strerror}") from None
        if not is_file:
            raise ConfigurationError(f"there is no file {self.path}")
        with self._connection() as connection:
            columns = {name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (self._name,))}
            if not columns >= {"key", "value"}:
                raise ConfigurationError(
                    f"{self.path} has no table {self._name!a} of Custodia's: say which it is with -o table=NAME"
                )
            # What CAST makes a text of must be in the encoding of the file.
            if (
                connection.execute("PRAGMA encoding").fetchone() != ("UTF-8",)
                or connection.execute(self._sql(_ODD)).fetchone()
            ):
                raise ConfigurationError(f"{self.path}: a key in {self._name!a} is not text, as Custodia's keys are")
            (self.page_size,) = connection.execute("PRAGMA page_size").fetchone()

    def count(self) -> int:
        """Return how many rows there are, without containers that are not empty."""
        with self._connection() as connection:
            (count,) = connection.execute(self._sql(_COUNT)).fetchone()
            return int(count)

    def page(self, after: bytes | None = None) -> Sequence[Row]:
        """Return the rows whose keys follow *after*, in order: the first of them, or none if there are no more."""
        rows = []
        with self._connection() as connection:
            found = connection.execute(self._sql(_FIRST if after is None else _NEXT), () if after is None else (after,))
            size = 0
            for row in map(_row, found):
                rows.append(row)
                size += row.size
                if size >= _PAGE_SIZE:
                    break
        return rows

    def rows(self, keys: Sequence[bytes]) -> Iterator[Row]:
        """Yield the rows of those of *keys* that there are."""
        with self._connection() as connection:
            for key in keys:
                yield from map(_row, connection.execute(self._sql(_ONE), (key,)))

    def delete(self, cells: Sequence[Cell]) -> Sequence[bool]:
        """Delete what still has the value of its cell, all at once; return for each whether it is gone now."""
        with self._transaction() as connection:
            return [
                connection.execute(self._sql(_DELETE), cell).rowcount == 1 or self._value(connection, cell.key) is None
                for cell in cells
            ]

    def insert(self, cells: Sequence[Cell]) -> Sequence[bool]:
        """Insert what is not there, all at once; return for each whether it is there now with the value of its cell."""
        with self._transaction() as connection:
            told = []
            for cell in cells:
                there = self._value(connection, cell.key)
                if there is None:
                    connection.execute(self._sql(_INSERT[cell.kind]), (cell.key, cell.value))
                told.append(there in (None, cell))
            return told

    def vacuum(self) -> None:
        """Write the file anew, and overwrite what it was."""
        with self._connection(write=True) as connection:
            self._checkpoint(connection)
            connection.execute("VACUUM")
            self._checkpoint(connection)

    def _sql(self, statement: str) -> str:
        quoted = self._name.replace('"', '""')
        return statement.replace("{table}", f'"{quoted}"')

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        """Bring what lies in a write-ahead log into the file, and empty the log; where there is none, do nothing."""
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise self._busy()

    def _value(self, connection: sqlite3.Connection, key: bytes) -> Cell | None:
        for row in map(_row, connection.execute(self._sql(_ONE), (key,))):
            return Cell(row.key, row.kind, row.value or b"")
        return None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connection(write=True) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection  # an error leaves the transaction open, and closing the connection undoes it
            connection.execute("COMMIT")

    @contextmanager
    def _connection(self, *, write: bool = False) -> Iterator[sqlite3.Connection]:
        uri = f"file:{quote(str(self.path))}?mode={'rw' if write else 'ro'}"
        try:
            with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY, isolation_level=None)) as connection:
                connection.execute("PRAGMA trusted_schema = OFF")
                if write:
                    connection.execute("PRAGMA secure_delete = ON").fetchall()
                yield connection
        except sqlite3.Error as error:
            raise self._told(error) from None

    def _busy(self) -> SourceUnavailable:
        return SourceUnavailable(f"others hold {self.path}: try again, or stop Custodia meanwhile")

    def _told(self, error: sqlite3.Error) -> MigrationError | ConfigurationError:
        """Return what SQLite's error is to an operator; its own text might quote from the file."""
        code = str(getattr(error, "sqlite_errorname", type(error).__name__))
        match code.split("_")[1:]:
            case ["NOTADB"]:
                return ConfigurationError(f"{self.path} is not an SQLite database")
            case ["BUSY" | "LOCKED", *_]:
                return self._busy()
            case ["READONLY", "ROLLBACK" | "RECOVERY"]:
                return SourceUnavailable(
                    f"{self.path} was left in the middle of a write: start Custodia, and let it read once, to undo that"
                )
            case ["READONLY", *_]:
                return SourceUnavailable(
                    f"{self.path}, or its directory, cannot be written: run this as Custodia's user"
                )
            case ["CANTOPEN", *_]:
                return SourceUnavailable(f"{self.path} cannot be opened: run this as Custodia's user")
            case ["FULL"]:
                return SourceUnavailable(f"there is no room for {self.path}: VACUUM takes as much as the file again")
        return SourceUnavailable(f"{self.path} cannot be used: {code}")


def _row(columns: tuple[bytes, str, int, bytes | None, int]) -> Row:
    key, kind, size, value, has_children = columns
    return Row(key, kind, size, value, bool(has_children))

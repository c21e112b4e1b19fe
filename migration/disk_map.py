"""A mapping of texts on disk: a run remembers something of every record, in memory that does not grow."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Final, Self

_CACHE: Final = 8 * 1024  # KiB of pages held in memory
_SLICE: Final = 500  # keys in one question


class DiskMap:
    """Texts by text, in a nameless file that is gone when this is closed. Not for secrets: the file is in the clear."""

    def __init__(self) -> None:
        self._file = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._file.executescript(f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-{_CACHE};")
        self._file.execute("CREATE TABLE texts (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")

    def __setitem__(self, key: str, value: str) -> None:
        self.update([(key, value)])

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def __len__(self) -> int:
        (count,) = self._file.execute("SELECT count(*) FROM texts").fetchone()
        return int(count)

    def update(self, texts: Iterable[tuple[str, str]]) -> None:
        """Set the value of each key."""
        self._file.execute("BEGIN")
        self._file.executemany("INSERT OR REPLACE INTO texts VALUES (?, ?)", texts)
        self._file.execute("COMMIT")

    def discard(self, keys: Iterable[str]) -> None:
        """Forget those of *keys* that there are."""
        self._file.executemany("DELETE FROM texts WHERE key = ?", ((key,) for key in keys))

    def get(self, key: str) -> str | None:
        """Return the value of *key*, or None."""
        found = self._file.execute("SELECT value FROM texts WHERE key = ?", (key,)).fetchone()
        return None if found is None else str(found[0])

    def get_many(self, keys: Sequence[str]) -> Mapping[str, str]:
        """Return the values of those of *keys* that there are."""
        found: dict[str, str] = {}
        for start in range(0, len(keys), _SLICE):
            some = keys[start : start + _SLICE]
            marks = ",".join("?" * len(some))
            found |= self._file.execute(f"SELECT key, value FROM texts WHERE key IN ({marks})", some)  # noqa: S608  # marks only
        return found

    def items(self, after: str = "") -> Iterator[tuple[str, str]]:
        """Yield every key after *after* with its value, in order; keys that are set meanwhile may be among them."""
        while page := self._file.execute(
            "SELECT key, value FROM texts WHERE key > ? ORDER BY key LIMIT ?", (after, _SLICE)
        ).fetchall():
            yield from page
            after = page[-1][0]

    def keys(self, after: str) -> Iterator[str]:
        """Yield the keys of `items`."""
        return (key for key, _ in self.items(after))

    def values(self) -> Iterator[str]:
        """Yield the values of `items`."""
        return (value for _, value in self.items(""))

    def close(self) -> None:
        """Forget everything."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

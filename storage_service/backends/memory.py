"""A store in memory that keeps the whole law: for tests and trials. What it holds is gone with the process."""

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Self
from urllib.parse import SplitResult

from strongroom.storage_service.backends.base import (
    MAX_BATCH,
    MAX_PAGE,
    Change,
    Conflict,
    Delete,
    Entry,
    Page,
    Put,
    Snapshot,
    check_batch,
    check_limit,
    check_names,
    check_size,
    failed_guards,
    not_applied,
)
from strongroom.storage_service.errors import ConfigurationError


class MemoryBackend:
    """A dict with revisions.

    What it holds outlives `close`, as a store outlives the service: open it again, and it is there. *calls* counts
    what was asked of it, by method, so that a test can say how many store operations a request costs.
    """

    def __init__(self) -> None:
        self.max_batch = MAX_BATCH
        self.calls: Counter[str] = Counter()
        self._entries: dict[str, Entry] = {}
        self._names: list[str] = []  # sorted
        self._revision = 1  # of the empty store, as etcd counts
        self._opened = False

    @classmethod
    def from_url(cls, url: SplitResult, options: Mapping[str, str]) -> Self:
        """Make the backend that ``memory:`` means; it takes no options.

        Raises:
            ConfigurationError: the URL or the options say more.
        """
        if options or url.netloc or url.path:
            raise ConfigurationError("a memory store is 'memory:' and nothing more; it takes no path and no options")
        return cls()

    async def open(self) -> None:
        """Begin to answer."""
        self._opened = True

    async def close(self) -> None:
        """Cease to answer."""
        self._opened = False

    async def get(self, name: str) -> Entry | None:
        """Return what is stored under *name*."""
        self._asked("get")
        return self._entries.get(name)

    async def get_many(self, names: Sequence[str], *, limit: int | None = None) -> Mapping[str, Entry]:
        """Return those of *names* that exist."""
        check_names(names)
        self._asked("get_many")
        found = {name: self._entries[name] for name in names if name in self._entries}
        check_size(sum(len(entry.value) for entry in found.values()), limit)
        return found

    async def list(self, prefix: str, after: str | None = None, limit: int = MAX_PAGE) -> Page:
        """Return a page of the names that begin with *prefix*."""
        check_limit(limit)
        self._asked("list")
        start = bisect_left(self._names, prefix)
        if after is not None:
            start = max(start, bisect_right(self._names, after))
        names = [name for name in self._names[start : start + limit + 1] if name.startswith(prefix)]
        return Page(tuple(names[:limit]), more=len(names) > limit)

    async def commit(self, changes: Sequence[Change]) -> int:
        """Apply all of *changes* or none."""
        check_batch(changes)
        self._asked("commit")
        if failed := failed_guards(changes, self._revision_of, self._occupied):
            raise Conflict(failed)
        revision = self._revision + 1
        for change in changes:
            if isinstance(change, Put):
                self._put(change.name, Entry(change.value, revision))
                self._revision = revision
            elif isinstance(change, Delete) and change.name in self._entries:
                self._delete(change.name)
                self._revision = revision
        return self._revision

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator[Snapshot, None]:
        """Hold this moment."""
        yield _Moment(self._revision, {name: self._entries[name].value for name in self._names})

    def _asked(self, method: str) -> None:
        if not self._opened:
            raise not_applied("the store is closed")
        self.calls[method] += 1

    def _revision_of(self, name: str) -> int:
        entry = self._entries.get(name)
        return 0 if entry is None else entry.revision

    def _occupied(self, prefix: str) -> bool:
        following = self._names[bisect_right(self._names, prefix) :][:1]
        return bool(following) and following[0].startswith(prefix)

    def _put(self, name: str, entry: Entry) -> None:
        if name not in self._entries:
            insort(self._names, name)
        self._entries[name] = entry

    def _delete(self, name: str) -> None:
        del self._entries[name]
        del self._names[bisect_left(self._names, name)]


class _Moment:
    """The values of one moment."""

    def __init__(self, revision: int, values: Mapping[str, bytes]) -> None:
        self.revision = revision
        self.count = len(values)
        self._values = values

    async def get(self, name: str) -> bytes | None:
        """Return what was stored under *name*."""
        return self._values.get(name)

    async def pages(self) -> AsyncGenerator[Sequence[tuple[str, bytes]], None]:
        """Yield all of it at once: it is in memory anyway."""
        yield [*self._values.items()]

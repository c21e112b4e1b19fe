"""What a store of bytes must do, and nothing more.

Every backend, and every wrapper round one (encryption, prefixes, faults), keeps the law in ``tests/laws/backends.py``.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, runtime_checkable

from strongroom.storage_service.errors import Fate, StrongroomError, TooLarge, Unavailable
from strongroom.storage_service.wire import MAX_STORED
from strongroom.storage_service.wire.etags import ABSENT as ABSENT  # noqa: PLC0414  # guards speak of it, too
from strongroom.storage_service.wire.etags import PRESENT as PRESENT  # noqa: PLC0414  # guards speak of it, too

MAX_BATCH: Final = 128
"""Changes in one commit of a store; etcd's own default limit for a transaction. What wraps one may take fewer."""
MAX_KEY: Final = 1024
"""Bytes of a name as stores keep it: of ``strongroom.models.names``, and room for what the service puts before it."""
MAX_PAGE: Final = 1000
"""Names in one page of a listing."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored value and the revision that wrote it. The value stays out of the repr."""

    value: bytes
    revision: int

    def __repr__(self) -> str:
        return f"<Entry {len(self.value)} bytes, revision {self.revision}>"


@dataclass(frozen=True, slots=True)
class Page:
    """Names in byte order; *more* says that the listing goes on after the last of them."""

    names: tuple[str, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class Put:
    """Write *value* under *name*, if the name is at the *expected* revision (None: whatever it is at)."""

    name: str
    value: bytes
    expected: int | None = None

    def __repr__(self) -> str:
        return f"<Put {self.name} {len(self.value)} bytes, expected {self.expected}>"


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove *name*, if it is at the *expected* revision (None: deleting what is not there is no error)."""

    name: str
    expected: int | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """Change nothing, but let the batch fail unless *name* is at the *expected* revision."""

    name: str
    expected: int


@dataclass(frozen=True, slots=True)
class Vacant:
    """Change nothing, but let the batch fail if any name begins with *prefix* (names equal to it excepted)."""

    prefix: str


Change: TypeAlias = Put | Delete | Check | Vacant


class Conflict(StrongroomError):
    """A guard of the batch did not hold and nothing was applied; *failed* holds the guards that did not."""

    def __init__(self, failed: Sequence[Change]) -> None:
        super().__init__("a guard of the batch did not hold; nothing was applied")
        self.failed = tuple(failed)


class Backend(Protocol):
    """A place for bytes under names. Untrusted: whoever runs it may read, swap, cut and roll back what it holds.

    Names are spelled as ``strongroom.models.names`` says and at most `MAX_KEY` bytes long, for the service's own rows
    may have a whole name within theirs; values are at most ``wire.MAX_STORED`` bytes, those of containers empty.
    Revisions are positive integers that grow with every commit of the whole store; a name's revision is that of the
    commit that last wrote it. Missing is None, not an error.

    Every method raises `Unavailable` when the store cannot answer: full, stopped, locked by others, or unreadable.
    """

    @property
    def max_batch(self) -> int:
        """Changes, of whatever kinds, that one commit surely takes; 2 or more: a record and its container.

        What adds changes of its own takes fewer than what it wraps, and not always as many: read it for each batch.
        """

    async def open(self) -> None:
        """Connect. Called once, in the process and on the event loop that will use it, after any fork.

        Raises:
            Unavailable: the store cannot be reached or opened.
            ConfigurationError: it can, but does not accept us (a wrong password, a file that is no store of ours).
        """

    async def close(self) -> None:
        """Finish what was begun and let go of everything; a second call does nothing."""

    async def get(self, name: str) -> Entry | None:
        """Return what is stored under *name*."""

    async def get_many(self, names: Sequence[str], *, limit: int | None = None) -> Mapping[str, Entry]:
        """Return those of *names* that exist, all as of one moment; at most `MAX_PAGE` names.

        Raises:
            ValueError: more names than that.
            TooLarge: as stored, their values are more than *limit* bytes together; which is found out before they are
                in memory, as far as the store can tell it.
        """

    async def list(self, prefix: str, after: str | None = None, limit: int = MAX_PAGE) -> Page:
        """Return names that begin with *prefix* and sort after *after*, in byte order, without their values.

        Raises:
            ValueError: *limit* is not 1 to `MAX_PAGE`.
        """

    async def commit(self, changes: Sequence[Change]) -> int:
        """Apply all of *changes* or none, durably, and return the revision they got.

        At most `max_batch` changes, no two of them for one name (a `Check` of a name that is also put counts:
        give the put its expected revision instead). Guards speak of the store before the batch. When this returns,
        the changes are on disk. A batch that writes nothing (checks alone, or deletes of what is not there) gets no
        revision of its own but that of the store.

        Raises:
            Conflict: a guard did not hold; nothing was applied.
            Unavailable: with its *fate*: not applied, applied, or unknown.
            ValueError: the batch breaks a rule of `check_batch`, or is over `max_batch` and too large for that.
        """


class Listed(Protocol):
    """A page of a listing, of a backend's or of what tells one on."""

    @property
    def names(self) -> Sequence[str]:
        """The names, in byte order."""

    @property
    def more(self) -> bool:
        """Whether the listing goes on after the last of them."""


async def pages(
    listing: Callable[[str, str | None, int], Awaitable[Listed]], prefix: str, size: int = MAX_PAGE
) -> AsyncIterator[Sequence[str]]:
    """Give out all names that begin with *prefix*, in byte order, up to *size* at once; *listing* gives a page."""
    after: str | None = None
    while True:
        page = await listing(prefix, after, size)
        if page.names:
            yield page.names
        if not page.more:
            return
        after = page.names[-1]


@runtime_checkable
class Checkable(Protocol):
    """The optional ability to tell beforehand that nothing could be written."""

    async def check(self) -> None:
        """See that the store can be written.

        Raises:
            Unavailable: it cannot.
        """


@runtime_checkable
class Measurable(Protocol):
    """The optional ability to tell how large the store is, or how many of those that keep it are there."""

    async def measure(self) -> Mapping[tuple[str, str], float]:
        """Return numbers by the short name of a metric in `strongroom.storage_service.metrics`, and by its label or "".

        Raises:
            Unavailable: it cannot be told now.
        """


class Snapshot(Protocol):
    """A store as it was at one moment, while others write on."""

    revision: int
    count: int  # of names

    async def get(self, name: str) -> bytes | None:
        """Return what was stored under *name*."""

    def pages(self) -> AsyncGenerator[Sequence[tuple[str, bytes]], None]:
        """Yield all names with their values, in byte order, so few at once that they take little memory.

        Raises:
            Unavailable: the store went away, or no longer keeps that moment.
        """


@runtime_checkable
class Copyable(Protocol):
    """The optional ability to be read as a whole, as of one moment."""

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """Hold a moment of the store for as long as the block; nothing in the store is changed by it.

        It needs no `open`, and leaves the backend as it found it.

        Raises:
            Unavailable, ConfigurationError: as `Backend.open`; a store that is not there is not made.
        """


def check_batch(changes: Sequence[Change]) -> None:
    """Refuse a batch that no store may be given.

    Raises:
        ValueError: empty, over `MAX_BATCH`, a name over `MAX_KEY`, a value over `wire.MAX_STORED`, or one name twice.
            etcd can lose a live value when one transaction deletes and puts the same key (etcd#22376), so the rule
            holds everywhere.
    """
    if not 0 < len(changes) <= MAX_BATCH:
        raise ValueError(f"a batch is 1 to {MAX_BATCH} changes")
    names = [change.name for change in changes if not isinstance(change, Vacant)]
    if len(names) != len(set(names)):
        raise ValueError("a batch names a record once")
    if any(len(name) > MAX_KEY for name in names):
        raise ValueError(f"a name is at most {MAX_KEY} bytes")
    if any(isinstance(change, Put) and len(change.value) > MAX_STORED for change in changes):
        raise ValueError(f"a value is at most {MAX_STORED} bytes")


def check_names(names: Sequence[str]) -> None:
    """Refuse to read more at once than a page.

    Raises:
        ValueError: more than `MAX_PAGE` names.
    """
    if len(names) > MAX_PAGE:
        raise ValueError(f"at most {MAX_PAGE} names are read at once")


def check_size(size: int, limit: int | None) -> None:
    """Refuse to read values of *size* bytes together where *limit* says how many may be.

    Raises:
        TooLarge: they are more.
    """
    if limit is not None and size > limit:
        raise TooLarge("the requested values together are over the limit")


def check_limit(limit: int) -> None:
    """Refuse a page of no size, or over the limit.

    Raises:
        ValueError: not 1 to `MAX_PAGE`.
    """
    if not 0 < limit <= MAX_PAGE:
        raise ValueError(f"a page is 1 to {MAX_PAGE} names")


def failed_guards(
    changes: Sequence[Change], revision_of: Callable[[str], int], occupied: Callable[[str], bool]
) -> list[Change]:
    """Return those of *changes* whose guard does not hold: what a guard means, for every backend.

    Args:
        changes: the batch.
        revision_of: gives a name's revision before the batch, `ABSENT` where there is none.
        occupied: whether any name begins with a prefix, the name equal to it excepted.
    """
    return [change for change in changes if not _holds(change, revision_of, occupied)]


def _holds(change: Change, revision_of: Callable[[str], int], occupied: Callable[[str], bool]) -> bool:
    if isinstance(change, Vacant):
        return not occupied(change.prefix)
    if change.expected is None:
        return True
    revision = revision_of(change.name)
    return revision != ABSENT if change.expected == PRESENT else revision == change.expected


def not_applied(reason: str) -> Unavailable:
    """An `Unavailable` that promises nothing was written."""
    return Unavailable(reason, Fate.NOT_APPLIED)

"""What a store of bytes must do, and nothing more.

Every backend, and every wrapper round one (encryption, prefixes, faults), keeps the law in ``tests/laws/backends.py``.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, runtime_checkable

from storage_service.errors import Fate, StrongroomError, Unavailable

ABSENT: Final = 0
"""An expected revision: the name must not exist."""
PRESENT: Final = -1
"""An expected revision: the name must exist, at whatever revision."""
MAX_BATCH: Final = 128
"""Changes in one commit; etcd's own default limit for a transaction."""
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


@dataclass(frozen=True, slots=True)
class Event:
    """One change that a watch saw; *entry* is None when the name was deleted."""

    name: str
    entry: Entry | None
    revision: int


class Conflict(StrongroomError):
    """A guard of the batch did not hold and nothing was applied; *failed* holds the guards that did not."""

    def __init__(self, failed: Sequence[Change]) -> None:
        super().__init__("a guard of the batch did not hold; nothing was applied")
        self.failed = tuple(failed)


class Compacted(StrongroomError):
    """The changes since that revision are no longer kept; read everything again and watch from there."""


class Backend(Protocol):
    """A place for bytes under names. Untrusted: whoever runs it may read, swap, cut and roll back what it holds.

    Names are those of ``models.names``; values are at most ``wire.MAX_STORED`` bytes. Revisions are positive
    integers that grow with every commit of the whole store; a name's revision is that of the commit that last
    wrote it. Missing is None, not an error.

    Every method raises `Unavailable` when the store cannot answer: full, stopped, locked by others, or unreadable.
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

    async def get_many(self, names: Sequence[str]) -> Mapping[str, Entry]:
        """Return those of *names* that exist, all as of one moment; at most `MAX_PAGE` names."""

    async def list(self, prefix: str, after: str | None = None, limit: int = MAX_PAGE) -> Page:
        """Return names that begin with *prefix* and sort after *after*, in byte order, without their values."""

    async def commit(self, changes: Sequence[Change]) -> int:
        """Apply all of *changes* or none, durably, and return the revision they got.

        At most `MAX_BATCH` changes, no two of them for one name (a `Check` of a name that is also put counts:
        give the put its expected revision instead). When this returns, the changes are on disk.

        Raises:
            Conflict: a guard did not hold; nothing was applied.
            Unavailable: with its *fate*: not applied, applied, or unknown.
        """


@runtime_checkable
class Watchable(Protocol):
    """The optional ability to tell changes as they happen."""

    def watch(self, prefix: str, since: int) -> AsyncIterator[Event]:
        """Yield every change under *prefix* after revision *since*, in order, until closed.

        Raises:
            Compacted: changes since then are no longer kept.
            Unavailable: the store went away; resume from the last event's revision.
        """


def check_batch(changes: Sequence[Change]) -> None:
    """Refuse a batch that no backend may be given.

    Raises:
        ValueError: empty, over `MAX_BATCH`, or one name twice. etcd can lose a live value when one transaction
            deletes and puts the same key (etcd#22376), so the rule holds everywhere.
    """
    if not 0 < len(changes) <= MAX_BATCH:
        raise ValueError(f"a batch is 1 to {MAX_BATCH} changes")
    names = [change.name for change in changes if not isinstance(change, Vacant)]
    if len(names) != len(set(names)):
        raise ValueError("a batch names a record once")


def not_applied(reason: str) -> Unavailable:
    """An `Unavailable` that promises nothing was written."""
    return Unavailable(reason, Fate.NOT_APPLIED)

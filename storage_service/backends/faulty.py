"""A backend round a backend that fails on command, so that every way of failing can be walked through, in order.

Operations (get, get_many, list, commit) are numbered from 0 as they are asked. A test runs once without faults to
learn how many there are, then once more for each number with a fault at it. A process that is killed there is tried
the same way: what was to be asked after that is never done, and what it left is looked at through another backend.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import Enum, auto
from typing import NoReturn

from strongroom.storage_service.backends.base import (
    MAX_PAGE,
    Backend,
    Change,
    Copyable,
    Entry,
    Page,
    Put,
    Snapshot,
    not_applied,
)
from strongroom.storage_service.errors import Fate, Unavailable


class Fault(Enum):
    """One way for an operation to fail."""

    BEFORE = auto()
    """It is not done, and says so."""
    AFTER = auto()
    """It is done, but the answer is lost: a commit's fate is unknown."""
    LOST = auto()
    """It is not done, but that cannot be told: a commit's fate is unknown."""
    SLOW = auto()
    """It is done only when `FaultyBackend.release` is called."""
    DIE_BEFORE = auto()
    """The process is killed before it is done."""
    DIE_AFTER = auto()
    """The process is killed when it is done, before it hears so."""


class Killed(BaseException):
    """The process is as good as killed. No `Exception`: what a program would do about an error, the dead do not."""


class FaultyBackend:
    """What it wraps, with faults at the operations whose numbers *faults* holds; deterministic.

    *operations* tells what was asked so far, by method. While *full* is set, every commit that would put something
    fails, not applied, as on a full disk; reading and deleting go on.

    Once a fault has killed the process, nothing that is asked through this backend is done any more, and all of it,
    also what others are still waiting for, raises `Killed`. The backend within goes on, for those who outlive it.
    """

    def __init__(self, backend: Backend, faults: Mapping[int, Fault] | None = None) -> None:
        self.faults = dict(faults or {})
        self.operations: list[str] = []
        self.full = False
        self._backend = backend
        self._released = asyncio.Event()
        self._dead = False

    @property
    def max_batch(self) -> int:
        """As many as the backend within takes."""
        return self._backend.max_batch

    def release(self) -> None:
        """Let slow operations go on, those to come too."""
        self._released.set()

    async def open(self) -> None:
        """Open what is wrapped."""
        self._check_alive()
        await self._backend.open()

    async def close(self) -> None:
        """Close what is wrapped; the dead close nothing."""
        if not self._dead:
            await self._backend.close()

    async def get(self, name: str) -> Entry | None:
        """Return what is stored under *name*, or fail."""
        async with self._operation("get"):
            return await self._backend.get(name)

    async def get_many(self, names: Sequence[str], *, limit: int | None = None) -> Mapping[str, Entry]:
        """Return those of *names* that exist, or fail."""
        async with self._operation("get_many"):
            return await self._backend.get_many(names, limit=limit)

    async def list(self, prefix: str, after: str | None = None, limit: int = MAX_PAGE) -> Page:
        """Return a page of names, or fail."""
        async with self._operation("list"):
            return await self._backend.list(prefix, after, limit)

    async def commit(self, changes: Sequence[Change]) -> int:
        """Apply *changes* or fail, before, after, or without telling."""
        async with self._operation("commit"):
            if self.full and any(isinstance(change, Put) for change in changes):
                raise not_applied("the store is full (injected)")
            return await self._backend.commit(changes)

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator[Snapshot, None]:
        """Hold a moment of what is wrapped, or fail; to begin with it is the one operation."""
        async with self._operation("snapshot"):
            pass
        if not isinstance(self._backend, Copyable):
            raise TypeError("what is wrapped cannot be read as a whole")
        async with self._backend.snapshot() as moment:
            yield moment

    @asynccontextmanager
    async def _operation(self, name: str) -> AsyncGenerator[None, None]:
        """Be one operation, with the fault of its number before or after what is done within."""
        fault = self.faults.get(len(self.operations))
        self.operations.append(name)
        await self._begin(fault)
        try:
            yield
        finally:  # an operation that is refused is done too: the dead hear no refusal either
            if fault is Fault.DIE_AFTER:
                self._die()
            self._check_alive()
        if fault is Fault.AFTER:
            raise Unavailable("the store's answer was lost (injected)", Fate.UNKNOWN)

    async def _begin(self, fault: Fault | None) -> None:
        self._check_alive()
        if fault is Fault.DIE_BEFORE:
            self._die()
        if fault is Fault.BEFORE:
            raise not_applied("the store does not answer (injected)")
        if fault is Fault.LOST:
            raise Unavailable("the store's answer was lost (injected)", Fate.UNKNOWN)
        if fault is Fault.SLOW:
            await self._released.wait()
            self._check_alive()

    def _check_alive(self) -> None:
        if self._dead:
            raise Killed

    def _die(self) -> NoReturn:
        self._dead = True
        self._released.set()  # who waited for a slow store learns of the end
        raise Killed

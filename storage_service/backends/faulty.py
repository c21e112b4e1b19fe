"""A backend round a backend that fails on command, so that every way of failing can be walked through, in order.

Operations (get, get_many, list, commit) are numbered from 0 as they are asked. A test runs once without faults to
learn how many there are, then once more for each number with a fault at it.
"""

import asyncio
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import TypeVar

from storage_service.backends.base import MAX_PAGE, Backend, Change, Entry, Page, Put, not_applied
from storage_service.errors import Fate, Unavailable

_Answer = TypeVar("_Answer")


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


class FaultyBackend:
    """What it wraps, with faults at the operations whose numbers *faults* holds; deterministic.

    *operations* tells what was asked so far, by method. While *full* is set, every commit that would put something
    fails, not applied, as on a full disk; reading and deleting go on.
    """

    def __init__(self, backend: Backend, faults: Mapping[int, Fault] | None = None) -> None:
        self.faults = dict(faults or {})
        self.operations: list[str] = []
        self.full = False
        self._backend = backend
        self._released = asyncio.Event()

    def release(self) -> None:
        """Let slow operations go on, those to come too."""
        self._released.set()

    async def open(self) -> None:
        """Open what is wrapped."""
        await self._backend.open()

    async def close(self) -> None:
        """Close what is wrapped."""
        await self._backend.close()

    async def get(self, name: str) -> Entry | None:
        """Return what is stored under *name*, or fail."""
        fault = await self._begin("get")
        return self._end(fault, await self._backend.get(name))

    async def get_many(self, names: Sequence[str]) -> Mapping[str, Entry]:
        """Return those of *names* that exist, or fail."""
        fault = await self._begin("get_many")
        return self._end(fault, await self._backend.get_many(names))

    async def list(self, prefix: str, after: str | None = None, limit: int = MAX_PAGE) -> Page:
        """Return a page of names, or fail."""
        fault = await self._begin("list")
        return self._end(fault, await self._backend.list(prefix, after, limit))

    async def commit(self, changes: Sequence[Change]) -> int:
        """Apply *changes* or fail, before, after, or without telling."""
        fault = await self._begin("commit")
        if self.full and any(isinstance(change, Put) for change in changes):
            raise not_applied("the store is full (injected)")
        return self._end(fault, await self._backend.commit(changes))

    async def _begin(self, operation: str) -> Fault | None:
        fault = self.faults.get(len(self.operations))
        self.operations.append(operation)
        if fault is Fault.BEFORE:
            raise not_applied("the store does not answer (injected)")
        if fault is Fault.LOST:
            raise Unavailable("the store's answer was lost (injected)", Fate.UNKNOWN)
        if fault is Fault.SLOW:
            await self._released.wait()
        return fault

    @staticmethod
    def _end(fault: Fault | None, answer: _Answer) -> _Answer:
        if fault is Fault.AFTER:
            raise Unavailable("the store's answer was lost (injected)", Fate.UNKNOWN)
        return answer

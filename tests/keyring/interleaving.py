"""Processes that share a store, one operation at a time, in an order that a seed decides.

Each operation of each process waits at a gate. When all processes wait, or are done, one that waits is let through; so
a seed stands for one order of all operations, and many seeds for many orders. A process may be given more weight than
another, so that in some orders one runs far while another stands still.
"""

import asyncio
import random
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final

from strongroom.storage_service.backends.base import MAX_PAGE, Backend, Change, Entry, Page

_ROUNDS: Final = 2  # of the event loop, until what was let through has come to its next operation or its end
_WEIGHTS: Final = (1, 1, 4, 32)


class Order:
    """One order of the operations of several processes."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []
        self._weights: dict[str, int] = {}

    def store(self, process: str, store: Backend) -> "Gated":
        """Return *store* as *process* has it: with the gate before each operation."""
        self._weights[process] = self._random.choice(_WEIGHTS)
        return Gated(self, process, store)

    async def gate(self, process: str) -> None:
        """Wait to be let through."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((process, future))
        await future

    async def run(self, *processes: Coroutine[Any, Any, None]) -> None:
        """Run the processes to their ends; raises what one of them raises."""
        tasks = [asyncio.ensure_future(process) for process in processes]
        try:
            while not all(task.done() for task in tasks):
                for _ in range(_ROUNDS):
                    await asyncio.sleep(0)
                if self._waiting:
                    weights = [self._weights[process] for process, _ in self._waiting]
                    (index,) = self._random.choices(range(len(self._waiting)), weights)
                    _, future = self._waiting.pop(index)
                    if not future.done():  # cancelled with what asked
                        future.set_result(None)
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end


class Gated:
    """A store whose operations wait for their turn."""

    def __init__(self, order: Order, process: str, store: Backend) -> None:
        self._order = order
        self._process = process
        self._store = store

    @property
    def max_batch(self) -> int:
        return self._store.max_batch

    async def open(self) -> None:
        """Nothing is to be opened."""

    async def close(self) -> None:
        """Nothing is to be closed."""

    async def get(self, name: str) -> Entry | None:
        await self._order.gate(self._process)
        return await self._store.get(name)

    async def get_many(self, names: Sequence[str], *, limit: int | None = None) -> Mapping[str, Entry]:
        await self._order.gate(self._process)
        return await self._store.get_many(names, limit=limit)

    async def list(self, prefix: str, after: str | None = None, limit: int = MAX_PAGE) -> Page:
        await self._order.gate(self._process)
        return await self._store.list(prefix, after, limit)

    async def commit(self, changes: Sequence[Change]) -> int:
        await self._order.gate(self._process)
        return await self._store.commit(changes)

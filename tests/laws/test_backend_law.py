"""The law of backends, run over the table of those that need no server, wrappers included."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import pytest
from hypothesis import given, settings

from strongroom.storage_service.backends.base import Backend, Change, Delete, Put
from strongroom.storage_service.backends.faulty import FaultyBackend
from strongroom.storage_service.backends.memory import HISTORY, MemoryBackend
from strongroom.storage_service.backends.sqlite import SqliteBackend
from tests.laws.backends import (
    BATCHES,
    LAWS,
    LEAST_BATCH,
    STORE_LAWS,
    WATCH_LAWS,
    Law,
    Opener,
    Step,
    WatchableBackend,
    WatchLaw,
    compacted_history_is_said,
    follows_the_model,
    name_of,
)

FEW: Final = 20  # changes in a commit
SHORT_HISTORY: Final = 4  # changes kept, so that a test soon outruns them


@asynccontextmanager
async def memory(history: int = HISTORY) -> AsyncGenerator[WatchableBackend, None]:
    """Give a store in memory."""
    backend = MemoryBackend(history)
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()


@asynccontextmanager
async def faulty() -> AsyncGenerator[Backend, None]:
    """Give a wrapper that has no fault to inject."""
    backend = FaultyBackend(MemoryBackend())
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()


@asynccontextmanager
async def sqlite(history: int = HISTORY) -> AsyncGenerator[WatchableBackend, None]:
    """Give a store in a file of its own."""
    with TemporaryDirectory() as directory:
        backend = SqliteBackend(Path(directory) / "store.db", history=history)
        await backend.open()
        try:
            yield backend
        finally:
            await backend.close()


class Narrow(MemoryBackend):
    """A store that takes fewer changes at once, as what adds changes of its own to a batch does."""

    def __init__(self, size: int, history: int = HISTORY) -> None:
        super().__init__(history)
        self.max_batch = size

    async def commit(self, changes: Sequence[Change]) -> int:
        """Apply all of *changes* or none."""
        if len(changes) > self.max_batch:
            raise ValueError(f"a batch is at most {self.max_batch} changes")
        return await super().commit(changes)


@asynccontextmanager
async def narrow(size: int = FEW, history: int = HISTORY) -> AsyncGenerator[WatchableBackend, None]:
    """Give a store that takes *size* changes at once."""
    backend = Narrow(size, history)
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()


class Watching(NamedTuple):
    """A backend that can be watched: how to open it, and how with a history of `SHORT_HISTORY`."""

    opened: Callable[[], AbstractAsyncContextManager[WatchableBackend]]
    opened_with_short_history: Callable[[], AbstractAsyncContextManager[WatchableBackend]]


OPENERS: Final[dict[str, Opener]] = {
    "memory": memory,
    "sqlite": sqlite,
    "faulty": faulty,
    "narrow": narrow,
    "narrowest": lambda: narrow(LEAST_BATCH),
}
WATCHING: Final = {
    "memory": Watching(memory, lambda: memory(SHORT_HISTORY)),
    "sqlite": Watching(sqlite, lambda: sqlite(SHORT_HISTORY)),
    "narrow": Watching(narrow, lambda: narrow(history=SHORT_HISTORY)),
}


async def outrun_history(backend: WatchableBackend) -> None:
    """Delete more than the history keeps."""
    for number in range(SHORT_HISTORY + 1):
        await backend.commit([Put(f"f/{number}", b"")])
        await backend.commit([Delete(f"f/{number}")])


@pytest.mark.parametrize("opened", OPENERS.values(), ids=OPENERS)
@pytest.mark.parametrize("law", [*LAWS, *STORE_LAWS], ids=name_of)
async def test_law(opened: Opener, law: Law) -> None:
    """Every backend keeps every law."""
    async with opened() as backend:
        await law(backend)


@pytest.mark.parametrize("watching", WATCHING.values(), ids=WATCHING)
@pytest.mark.parametrize("law", WATCH_LAWS, ids=name_of)
async def test_watch_law(watching: Watching, law: WatchLaw) -> None:
    """Every backend that can be watched keeps the laws of watching."""
    async with watching.opened() as backend:
        await law(backend)


@pytest.mark.parametrize("watching", WATCHING.values(), ids=WATCHING)
async def test_compacted_history_is_said(watching: Watching) -> None:
    """No watch skips silently what is no longer kept."""
    async with watching.opened_with_short_history() as backend:
        await compacted_history_is_said(backend, outrun_history)


@pytest.mark.parametrize("opened", OPENERS.values(), ids=OPENERS)
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(batches=BATCHES)
def test_model(opened: Opener, batches: Sequence[Sequence[Step]]) -> None:
    """Every backend does what a dict under the same rules does."""

    async def run() -> None:
        async with opened() as backend:
            await follows_the_model(backend, batches)

    asyncio.run(run())

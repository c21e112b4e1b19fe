"""The law of backends, run over the table of those that need no server, wrappers included."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest
from hypothesis import given, settings

from strongroom.storage_service.backends.base import Backend, Change
from strongroom.storage_service.backends.faulty import FaultyBackend
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.backends.sqlite import SqliteBackend
from tests.laws.backends import (
    BATCHES,
    LAWS,
    LEAST_BATCH,
    STORE_LAWS,
    Law,
    Opener,
    Step,
    follows_the_model,
    name_of,
)

FEW: Final = 20  # changes in a commit


@asynccontextmanager
async def memory() -> AsyncGenerator[Backend, None]:
    """Give a store in memory."""
    backend = MemoryBackend()
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
async def sqlite() -> AsyncGenerator[Backend, None]:
    """Give a store in a file of its own."""
    with TemporaryDirectory() as directory:
        backend = SqliteBackend(Path(directory) / "store.db")
        await backend.open()
        try:
            yield backend
        finally:
            await backend.close()


class Narrow(MemoryBackend):
    """A store that takes fewer changes at once, as what adds changes of its own to a batch does."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.max_batch = size

    async def commit(self, changes: Sequence[Change]) -> int:
        """Apply all of *changes* or none."""
        if len(changes) > self.max_batch:
            raise ValueError(f"a batch is at most {self.max_batch} changes")
        return await super().commit(changes)


@asynccontextmanager
async def narrow(size: int = FEW) -> AsyncGenerator[Backend, None]:
    """Give a store that takes *size* changes at once."""
    backend = Narrow(size)
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()


OPENERS: Final[dict[str, Opener]] = {
    "memory": memory,
    "sqlite": sqlite,
    "faulty": faulty,
    "narrow": narrow,
    "narrowest": lambda: narrow(LEAST_BATCH),
}


@pytest.mark.parametrize("opened", OPENERS.values(), ids=OPENERS)
@pytest.mark.parametrize("law", [*LAWS, *STORE_LAWS], ids=name_of)
async def test_law(opened: Opener, law: Law) -> None:
    """Every backend keeps every law."""
    async with opened() as backend:
        await law(backend)


@pytest.mark.parametrize("opened", OPENERS.values(), ids=OPENERS)
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(batches=BATCHES)
def test_model(opened: Opener, batches: Sequence[Sequence[Step]]) -> None:
    """Every backend does what a dict under the same rules does."""

    async def run() -> None:
        async with opened() as backend:
            await follows_the_model(backend, batches)

    asyncio.run(run())

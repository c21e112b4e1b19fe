"""The law of backends, run over a real etcd."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Final

import pytest
from hypothesis import given, settings

from strongroom.storage_service.backends import open_backend
from tests.etcd_server import Etcd
from tests.laws.backends import (
    BATCHES,
    LAWS,
    STORE_LAWS,
    WATCH_LAWS,
    Law,
    Step,
    WatchableBackend,
    WatchLaw,
    compacted_history_is_said,
    follows_the_model,
    name_of,
)

_PREFIXES: Final = count()


@asynccontextmanager
async def opened(etcd: Etcd) -> AsyncGenerator[WatchableBackend, None]:
    """Give a backend on a prefix of its own."""
    backend = open_backend(etcd.url(f"law-{next(_PREFIXES)}"))
    await backend.open()
    try:
        yield backend  # type: ignore[misc]  # open_backend promises a Backend; etcd's is Watchable too
    finally:
        await backend.close()


@pytest.mark.parametrize("law", [*LAWS, *STORE_LAWS], ids=name_of)
async def test_law(etcd: Etcd, law: Law) -> None:
    """A backend on etcd keeps every law."""
    async with opened(etcd) as backend:
        await law(backend)


@pytest.mark.parametrize("law", WATCH_LAWS, ids=name_of)
async def test_watch_law(etcd: Etcd, law: WatchLaw) -> None:
    """A backend on etcd keeps the laws of watching."""
    async with opened(etcd) as backend:
        await law(backend)


async def test_compacted_history_is_said(etcd: Etcd) -> None:
    """No watch skips silently what etcd has compacted."""

    async def compact(_: WatchableBackend) -> None:
        with etcd.admin() as admin:
            admin.compact()

    async with opened(etcd) as backend:
        await compacted_history_is_said(backend, compact)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(batches=BATCHES)
def test_model(etcd: Etcd, batches: Sequence[Sequence[Step]]) -> None:
    """A backend on etcd does what a dict under the same rules does."""

    async def run() -> None:
        async with opened(etcd) as backend:
            await follows_the_model(backend, batches)

    asyncio.run(run())

"""The law of backends, run over a real etcd."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Final

import pytest
from hypothesis import given, settings

from strongroom.storage_service.backends import open_backend
from strongroom.storage_service.backends.base import Backend
from tests.etcd_server import Etcd
from tests.laws.backends import (
    BATCHES,
    LAWS,
    STORE_LAWS,
    Law,
    Step,
    follows_the_model,
    name_of,
)

_PREFIXES: Final = count()


@asynccontextmanager
async def opened(etcd: Etcd) -> AsyncGenerator[Backend, None]:
    """Give a backend on a prefix of its own."""
    backend = open_backend(etcd.url(f"law-{next(_PREFIXES)}"))
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()


@pytest.mark.parametrize("law", [*LAWS, *STORE_LAWS], ids=name_of)
async def test_law(etcd: Etcd, law: Law) -> None:
    """A backend on etcd keeps every law."""
    async with opened(etcd) as backend:
        await law(backend)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(batches=BATCHES)
def test_model(etcd: Etcd, batches: Sequence[Sequence[Step]]) -> None:
    """A backend on etcd does what a dict under the same rules does."""

    async def run() -> None:
        async with opened(etcd) as backend:
            await follows_the_model(backend, batches)

    asyncio.run(run())

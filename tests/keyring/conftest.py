"""The stores that stories about the keyring are told on: in memory, in a file, in an etcd."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from strongroom.storage_service.backends import open_backend
from strongroom.storage_service.backends.base import Backend
from tests.keyring.story import Stores

_NUMBERS: Final = count()


@pytest.fixture(params=["memory", "sqlite", "etcd"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Stores:
    """Unused stores of each kind."""

    def url() -> str:
        number = next(_NUMBERS)
        if request.param == "sqlite":
            return f"sqlite:{tmp_path}/{number}/store.db"
        if request.param == "etcd":
            return str(request.getfixturevalue("etcd").url(f"rings-{number}"))
        return "memory:"

    @asynccontextmanager
    async def opened() -> AsyncIterator[Backend]:
        store = open_backend(url())
        await store.open()
        try:
            yield store
        finally:
            await store.close()

    return opened


@pytest.fixture
async def store(stores: Stores) -> AsyncIterator[Backend]:
    """One unused store of each kind."""
    async with stores() as store:
        yield store

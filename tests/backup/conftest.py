"""The kinds of stores that are copied, and restored into."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Final, TypeAlias

import pytest

from strongroom.storage_service.backends import open_backend
from strongroom.storage_service.backends.base import Backend
from tests.etcd_server import Etcd

_NUMBERS: Final = count()

Stores: TypeAlias = Callable[[str], AbstractAsyncContextManager[Backend]]
"""Gives an unused store of that kind (memory, sqlite, etcd), opened, until its block ends."""


@pytest.fixture
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Stores:
    """Unused stores of each kind."""

    def url(kind: str) -> str:
        number = next(_NUMBERS)
        if kind == "etcd":
            etcd: Etcd = request.getfixturevalue("etcd")
            return etcd.url(f"copies-{number}")
        return f"sqlite:{tmp_path}/{number}/store.db" if kind == "sqlite" else "memory:"

    @asynccontextmanager
    async def opened(kind: str) -> AsyncIterator[Backend]:
        store = open_backend(url(kind))
        await store.open()
        try:
            yield store
        finally:
            await store.close()

    return opened

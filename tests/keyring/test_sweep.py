"""Re-encryption: every record comes under the right key, whoever writes or sweeps meanwhile, and its row with it."""

from collections.abc import Callable
from typing import Final

import pytest

from storage_service.backends.base import Backend, Delete, Put
from storage_service.backends.memory import MemoryBackend
from storage_service.errors import InUse, NotFound
from storage_service.keyring import census, sweep, vault
from storage_service.keyring.document import Document
from storage_service.keyring.ring import Keys
from storage_service.keyring.rootkey import RootKey
from storage_service.keyring.sweep import Step
from tests.keyring.story import (
    BITS,
    VALUES,
    assert_census_is_true,
    initialize,
    opened,
    put_all,
    read_all,
    read_document,
    versions,
)

ROOT: Final = RootKey(BITS)


async def change(store: Backend, how: Callable[[Document], Document]) -> Document:
    """Change the keyring document."""
    document, _ = await vault.edit(store, ROOT, how)
    return document


async def rotate(store: Backend, keyset: str = "default") -> Document:
    """Give *keyset* a new version."""
    return await change(store, lambda said: said.rotated(keyset, vault.now()))


async def swept(store: Backend, keys: Keys, keyset: str | None = None, limit: int = 100) -> Step:
    """Go through it all once, and return the sum of the steps."""
    moved = overtaken = 0
    unreadable: set[str] = set()
    after: str | None = None
    while True:
        step = await sweep.step(store, keys, keyset, after, limit)
        moved, overtaken, unreadable = moved + step.moved, overtaken + step.overtaken, unreadable | {*step.unreadable}
        after = step.after
        if after is None:
            return Step(moved, overtaken, tuple(sorted(unreadable)), None)


@pytest.mark.parametrize("limit", [1, 3, 7, 8, 1000])
async def test_all_records_come_under_the_new_version(store: Backend, limit: int) -> None:
    """However short the steps are, each record is moved once, with its row, and reads as before."""
    await initialize(store)
    async with opened(store) as worker:
        await put_all(worker.secrets, VALUES)
        await rotate(store)
        worker.keeper.changed()

        assert await swept(store, worker.keeper, "default", limit) == Step(len(VALUES), 0, (), None)

        assert set((await versions(store)).values()) == {"default.2"}
        assert await read_all(worker.secrets) == VALUES
        await assert_census_is_true(store)
        assert await swept(store, worker.keeper) == Step(0, 0, (), None)

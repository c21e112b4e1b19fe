"""A first keyring whose keys nobody got to see is taken back, and none that is of use."""

import pytest

from strongroom.models.names import WRAPS
from strongroom.storage_service.backends.base import Put
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import InUse, NotFound
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.ceremonies import rotation
from strongroom.storage_service.keyring.ceremonies.rotation import Recipients


async def opened() -> MemoryBackend:
    store = MemoryBackend()
    await store.open()
    return store


async def test_nothing_is_left_of_it() -> None:
    """The store is as it was before: no document, no wrap, and another keyring can be made."""
    store = await opened()
    made = await rotation.initialize(store, Recipients("unlock", 3), None)

    await rotation.take_back(store, made.root)

    assert await stored.read(store) is None
    assert not (await store.list(WRAPS)).names
    assert (await rotation.initialize(store, Recipients("unlock", 3), None)).root != made.root


@pytest.mark.parametrize("name", ["secrets/db/password", "system/access/apikeys/ci", "system/journal/run"])
async def test_one_that_is_used_stays(name: str) -> None:
    """When anything is encrypted under it, it is not taken back, and nothing of it is lost."""
    store = await opened()
    made = await rotation.initialize(store, Recipients("shares", 3, 2), None)
    await store.commit([Put(name, b"...")])

    with pytest.raises(InUse):
        await rotation.take_back(store, made.root)

    sealed = await stored.read(store)
    assert sealed is not None
    assert sealed.root == made.root
    assert len((await store.list(WRAPS)).names) == 1


async def test_another_one_stays() -> None:
    """Who asks for one that was replaced meanwhile, or for one where there is none, is told, and nothing is done."""
    store = await opened()
    first = await rotation.initialize(store, Recipients("unlock", 1), None)
    second = await rotation.initialize(store, Recipients("unlock", 1), None, again=True)

    with pytest.raises(NotFound):
        await rotation.take_back(store, first.root)

    sealed = await stored.read(store)
    assert sealed is not None
    assert sealed.root == second.root
    with pytest.raises(NotFound):
        await rotation.take_back(await opened(), first.root)

"""The house that the migration's tests run in: the real service, alive, dead and hanging."""

import asyncio

import pytest

from strongroom.models import Host, HostCreds, Hosts
from strongroom.models.secret import Secret
from strongroom.storage_service.backends.faulty import Fault, FaultyBackend, Killed
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import Fate, NotFound, Unavailable
from tests.migration.house import house


async def test_it_is_the_service() -> None:
    """A house keeps what it is given, and another house opens the same store."""
    store = MemoryBackend()
    async with house(store) as client:
        await client.save_many([Host(address="a"), Host(address="b")])
        await client.save(HostCreds(address="a", ssh_priv_key=Secret("cw==")))

    async with house(store) as client:
        assert [each.model.address async for each in client.list(Hosts)] == ["a", "b"]
        assert (await client.get(HostCreds, "a")).model.ssh_priv_key == Secret("cw==")
        with pytest.raises(NotFound):
            await client.get(HostCreds, "b")


@pytest.mark.parametrize(("fault", "saved"), [(Fault.DIE_BEFORE, False), (Fault.DIE_AFTER, True)])
async def test_it_dies_with_the_test(fault: Fault, saved: bool) -> None:
    """A death at a store operation ends what the test does; the store goes on."""
    inner = MemoryBackend()
    store = FaultyBackend(inner)
    with pytest.raises(Killed):  # noqa: PT012
        async with house(store) as client:
            await client.save(HostCreds(address="b", ssh_priv_key=Secret("cw==")))
            store.faults[len(store.operations)] = fault
            await client.save(HostCreds(address="a", ssh_priv_key=Secret("cw==")))

    async with house(inner) as client:
        assert (await client.get_many(HostCreds, ["a"]) != [None]) is saved


async def test_it_dies_apart() -> None:
    """A service that dies apart is a connection that breaks: nobody knows what became of a write."""
    store = FaultyBackend(MemoryBackend())
    async with house(store, apart=True) as client:
        store.faults[len(store.operations)] = Fault.DIE_AFTER
        with pytest.raises(Unavailable) as caught:
            await client.save(Host(address="a"))
        with pytest.raises(Unavailable):
            await client.get(Host, "a")

    assert caught.value.fate is Fate.UNKNOWN


async def test_it_hangs() -> None:
    """A store that hangs lets the client's time run out."""
    store = FaultyBackend(MemoryBackend())
    async with house(store, timeout=0.05) as client:
        store.faults[len(store.operations)] = Fault.SLOW
        with pytest.raises(Unavailable):
            await client.save(Host(address="a"))
        store.release()


async def test_one_of_several_calls_dies() -> None:
    """A death among calls that go on together reaches the test through its task group."""
    store = FaultyBackend(MemoryBackend())
    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012
        async with house(store) as client:
            store.faults[len(store.operations) + 3] = Fault.DIE_BEFORE
            async with asyncio.TaskGroup() as group:
                for number in range(8):
                    group.create_task(client.save(Host(address=f"h{number}")))

    assert caught.value.subgroup(Killed) is not None

"""What the backend that fails on command promises: each fault where it was asked for, and nowhere else."""

import asyncio

import pytest

from storage_service.backends.base import ABSENT, Backend, Conflict, Delete, Put
from storage_service.backends.faulty import Fault, FaultyBackend
from storage_service.backends.memory import MemoryBackend
from storage_service.errors import Fate, Unavailable


async def faulty(faults: dict[int, Fault] | None = None) -> tuple[FaultyBackend, MemoryBackend]:
    """Return a faulty backend, opened, and the store within it."""
    store = MemoryBackend()
    backend = FaultyBackend(store, faults)
    await backend.open()
    return backend, store


@pytest.mark.parametrize(
    ("fault", "fate", "applied"),
    [
        (Fault.BEFORE, Fate.NOT_APPLIED, False),
        (Fault.AFTER, Fate.UNKNOWN, True),
        (Fault.LOST, Fate.UNKNOWN, False),
    ],
)
async def test_a_commit_fails_as_told(fault: Fault, fate: Fate, applied: bool) -> None:
    """The commit with the fault's number fails with its fate, applied or not as the fault says; the others do not."""
    backend, store = await faulty({1: fault})
    await backend.commit([Put("a", b"")])
    with pytest.raises(Unavailable) as caught:
        await backend.commit([Put("b", b"")])
    await backend.commit([Put("c", b"")])

    assert caught.value.fate is fate
    assert (await store.list("")).names == (("a", "b", "c") if applied else ("a", "c"))
    assert backend.operations == ["commit"] * 3


async def test_reads_fail_too() -> None:
    """Each reading method fails at its number."""
    backend, _ = await faulty(dict.fromkeys(range(3), Fault.BEFORE))
    for read in (backend.get("a"), backend.get_many(["a"]), backend.list("")):
        with pytest.raises(Unavailable):
            await read
    assert backend.operations == ["get", "get_many", "list"]
    assert await backend.get("a") is None


async def test_a_slow_operation_waits_to_be_released() -> None:
    """A slow commit is not done until it is released, while others pass it by."""
    backend, store = await faulty({0: Fault.SLOW})
    slow = asyncio.create_task(backend.commit([Put("slow", b"")]))
    await asyncio.sleep(0)
    await backend.commit([Put("quick", b"")])
    assert (await store.list("")).names == ("quick",)

    backend.release()
    await slow
    assert (await store.list("")).names == ("quick", "slow")


async def test_a_full_store_reads_and_deletes() -> None:
    """While full, puts fail, not applied; deletes and reads go on."""
    backend, _ = await faulty()
    await backend.commit([Put("a", b"")])
    backend.full = True
    with pytest.raises(Unavailable) as caught:
        await backend.commit([Delete("a"), Put("b", b"")])
    assert caught.value.fate is Fate.NOT_APPLIED
    assert await backend.get("a") is not None
    await backend.commit([Delete("a")])
    assert await backend.get("a") is None


async def create_once(backend: Backend) -> None:
    """Create "a" under a guard, asking again after each failure, as a caller who must know may do."""
    while await backend.get("a") is None:
        await backend.commit([Put("a", b"mine", ABSENT)])


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER, Fault.LOST])
async def test_every_place_can_be_walked_through(fault: Fault) -> None:
    """A caller that asks again under a guard ends in the same state, wherever it was failed."""
    counting, _ = await faulty()
    await create_once(counting)
    for number in range(len(counting.operations)):
        backend, store = await faulty({number: fault})
        with pytest.raises(Unavailable):
            await create_once(backend)
        try:
            await create_once(backend)
        except Conflict:  # the first attempt was applied after all
            pytest.fail("it looked before it wrote")
        entry = await store.get("a")
        assert entry is not None
        assert entry.value == b"mine"

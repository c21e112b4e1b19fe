"""What the backend that fails on command promises: each fault where it was asked for, and nowhere else."""

import asyncio
from collections.abc import Awaitable, Sequence

import pytest

from strongroom.storage_service.backends.base import ABSENT, Backend, Change, Conflict, Delete, Put
from strongroom.storage_service.backends.faulty import Fault, FaultyBackend, Killed
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import Fate, Unavailable


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


# Dying.


@pytest.mark.parametrize(("fault", "applied"), [(Fault.DIE_BEFORE, False), (Fault.DIE_AFTER, True)])
@pytest.mark.parametrize("change", [Put("b", b"", ABSENT), Put("a", b"", ABSENT)], ids=["taken", "refused"])
async def test_a_killed_process_does_nothing_more(fault: Fault, applied: bool, change: Put) -> None:
    """From its number on every operation is Killed, whatever the store below answers, and no error handler sees it."""
    backend, store = await faulty({1: fault})
    await backend.commit([Put("a", b"")])
    calls = store.calls.total()
    acts: list[Awaitable[object]] = [
        backend.commit([change]),
        backend.get("a"),
        backend.get_many(["a"]),
        backend.list(""),
        backend.commit([Delete("a")]),
        backend.open(),
    ]
    for act in acts:
        with pytest.raises(Killed) as caught:
            await act
        assert not isinstance(caught.value, Exception)
    await backend.close()

    assert store.calls.total() == calls + applied
    assert await store.get("a") is not None
    assert (await store.get("b") is not None) == (applied and change.name == "b")
    assert backend.operations == ["commit", "commit", "get", "get_many", "list", "commit"]


class Halfway(MemoryBackend):
    """A store whose commits are done, but not yet answered, until *answer* is set."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = asyncio.Event()

    async def commit(self, changes: Sequence[Change]) -> int:
        """Apply *changes*, and answer in time."""
        revision = await super().commit(changes)
        await self.answer.wait()
        return revision


async def test_a_process_is_killed_in_all_its_tasks() -> None:
    """What other tasks still wait for is Killed as well; only what the store had begun is done."""
    store = Halfway()
    backend = FaultyBackend(store, {0: Fault.SLOW, 2: Fault.DIE_BEFORE})
    await backend.open()
    slow = asyncio.create_task(backend.commit([Put("slow", b"")]))
    begun = asyncio.create_task(backend.commit([Put("begun", b"")]))
    await asyncio.sleep(0)
    with pytest.raises(Killed):
        await backend.get("a")
    store.answer.set()
    answers = await asyncio.gather(slow, begun, return_exceptions=True)

    assert [type(answer) for answer in answers] == [Killed, Killed]
    assert (await store.list("")).names == ("begun",)


@pytest.mark.parametrize("fault", [Fault.DIE_BEFORE, Fault.DIE_AFTER])
async def test_every_place_to_die_can_be_walked_through(fault: Fault) -> None:
    """Who comes after the dead, on the same store, ends in the same state, wherever they died."""
    counting, _ = await faulty()
    await create_once(counting)
    assert len(counting.operations) == 3
    for number in range(len(counting.operations)):
        backend, store = await faulty({number: fault})
        with pytest.raises(Killed):
            await create_once(backend)
        await create_once(store)
        entry = await store.get("a")
        assert entry is not None
        assert entry.value == b"mine"

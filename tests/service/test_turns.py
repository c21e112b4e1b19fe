"""Turns at what only so many may do at a time: everybody has a little, and who is slow keeps nobody waiting."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from strongroom.storage_service.errors import Busy
from strongroom.storage_service.turns import Queue, Rule, Turn

ONE = Rule(turns=1, held=1, waiting=1, patience=30.0, longest=30.0, grace=30.0)
HASTY = replace(ONE, grace=0.05, rate=1000.0)  # bytes a second


async def settled() -> None:
    """Let all tasks do what they can."""
    for _ in range(10):
        await asyncio.sleep(0)


class Worker:
    """A task that holds a turn until it is told to end."""

    def __init__(self, queue: Queue, holder: str, then: Callable[[Turn], Awaitable[None]] | None = None) -> None:
        self.begun = asyncio.Event()
        self.told = asyncio.Event()
        self._then = then
        self.task = asyncio.create_task(self._work(queue, holder))

    async def _work(self, queue: Queue, holder: str) -> None:
        async with await queue.begin(holder) as turn:
            self.begun.set()
            if self._then is not None:
                await self._then(turn)
            await self.told.wait()

    async def end(self) -> None:
        """Let it end, and see that it ended well."""
        self.told.set()
        await self.task


async def silent(turn: Turn) -> None:
    """Wait for a client that does nothing."""
    turn.await_client()


async def test_a_holder_has_one_turn_and_one_that_waits() -> None:
    """A third request of one holder is refused at once, while another holder's waits and has its turn."""
    queue = Queue(ONE)
    first, second = Worker(queue, "a"), Worker(queue, "a")
    await settled()
    with pytest.raises(Busy):
        await queue.begin("a")
    other = Worker(queue, "b")
    await settled()
    assert (first.begun.is_set(), second.begun.is_set(), other.begun.is_set()) == (True, False, False)
    await first.end()
    await asyncio.wait_for(other.begun.wait(), 30)
    await other.end()
    await second.end()


async def test_who_had_the_last_turn_comes_after_the_others() -> None:
    """However many requests one holder sends, another waits for one turn of it and no more."""
    queue = Queue(ONE)
    running, behind = Worker(queue, "a"), Worker(queue, "a")
    await settled()
    others = [Worker(queue, name) for name in ("b", "c")]
    await settled()
    order = []
    left = {"a": behind, "b": others[0], "c": others[1]}
    while True:
        await running.end()
        await settled()
        begun = [name for name, worker in left.items() if worker.begun.is_set()]
        assert len(begun) == bool(left)
        if not left:
            break
        order += begun
        running = left.pop(begun[0])
    assert order == ["b", "a", "c"]


async def test_who_holds_fewest_comes_first() -> None:
    """Of several turns a holder has so many at most, though others are free; who has none comes before who has some."""
    queue = Queue(replace(ONE, turns=3, held=2, waiting=4))
    a = [Worker(queue, "a") for _ in range(4)]
    await settled()
    assert [each.begun.is_set() for each in a] == [True, True, False, False]
    b = Worker(queue, "b")
    await settled()
    assert b.begun.is_set()
    c = Worker(queue, "c")
    await settled()
    assert not c.begun.is_set()
    await a[0].end()
    await settled()
    assert (a[2].begun.is_set(), c.begun.is_set()) == (False, True)
    for worker in (b, c, *a[1:]):
        await worker.end()


async def test_all_together_wait_for_so_many() -> None:
    """Where as many wait as may, whoever else comes is refused at once."""
    queue = Queue(replace(ONE, queue=3))
    workers = [Worker(queue, str(number)) for number in range(4)]
    await settled()
    with pytest.raises(Busy):
        await queue.begin("another")
    for worker in workers:
        await worker.end()
    async with await queue.begin("another"):
        pass


async def test_who_does_not_keep_up_loses_its_turn_to_another() -> None:
    """A client that does nothing ends with its turn when another waits, and is told that it was slow."""
    queue = Queue(HASTY)
    slow = Worker(queue, "slow", silent)
    await settled()
    async with asyncio.timeout(30), await queue.begin("other"):
        with pytest.raises(Busy):
            await slow.task
    assert not slow.task.cancelled()


async def test_who_waits_already_sees_the_client_fall_behind() -> None:
    """It is the same for one that waited before the client was waited for."""
    queue = Queue(HASTY)
    begin = asyncio.Event()

    async def later(turn: Turn) -> None:
        await begin.wait()
        turn.await_client()

    slow = Worker(queue, "slow", later)
    await settled()
    other = Worker(queue, "other")
    await settled()
    begin.set()
    await asyncio.wait_for(other.begun.wait(), 30)
    with pytest.raises(Busy):
        await slow.task
    await other.end()


async def test_a_slow_client_that_keeps_nobody_waiting_goes_on() -> None:
    """Without another that waits, or with one of its own alone, a turn lasts as long as it takes."""
    queue = Queue(HASTY)
    slow = Worker(queue, "slow", silent)
    own = Worker(queue, "slow")
    await asyncio.sleep(HASTY.grace * 4)
    assert not (slow.task.done() or own.begun.is_set())
    await slow.end()
    await own.end()


async def test_behind_one_address_a_slow_one_loses_to_its_like() -> None:
    """Where several stand behind one holder, one of them that waits is another."""
    queue = Queue(replace(HASTY, turns=2, shared=True))
    slow = Worker(queue, "address", silent)
    other = Worker(queue, "address")
    await asyncio.wait_for(other.begun.wait(), 30)
    with pytest.raises(Busy):
        await slow.task
    await other.end()


async def test_what_moves_keeps_its_turn() -> None:
    """A client that takes bytes fast enough is never behind, and neither is one whose part is done."""
    queue = Queue(HASTY)

    async def keeps_up(turn: Turn) -> None:
        turn.await_client()
        turn.moved(1_000_000)
        await asyncio.sleep(HASTY.grace * 3)
        turn.client_done()

    good = Worker(queue, "good", keeps_up)
    other = Worker(queue, "other")
    await asyncio.sleep(HASTY.grace * 6)
    assert not (good.task.done() or other.begun.is_set())
    await good.end()
    await other.end()


async def test_drops_are_no_progress() -> None:
    """A client that takes a byte now and then is as slow as one that takes none."""
    queue = Queue(HASTY)

    async def drips(turn: Turn) -> None:
        turn.await_client()
        while True:
            turn.moved(1)
            await asyncio.sleep(0.01)

    slow, other = Worker(queue, "slow", drips), Worker(queue, "other")
    await asyncio.wait_for(other.begun.wait(), 30)
    with pytest.raises(Busy):
        await slow.task
    await other.end()


async def test_a_turn_has_an_end_where_others_wait() -> None:
    """Whatever it waits for, a turn that others wait for lasts so long at most."""
    queue = Queue(replace(ONE, longest=0.05))
    first, other = Worker(queue, "a"), Worker(queue, "b")
    await asyncio.wait_for(other.begun.wait(), 30)
    with pytest.raises(Busy):
        await first.task
    await other.end()


async def test_who_is_cancelled_for_another_reason_is_cancelled() -> None:
    """A cancellation that has nothing to do with the turn stays one, and the turn is free."""
    queue = Queue(ONE)
    worker, waiting = Worker(queue, "a"), Worker(queue, "b")
    await settled()
    for each in (waiting, worker):
        each.task.cancel()
        await asyncio.wait((each.task,))
        assert each.task.cancelled()
    async with asyncio.timeout(30), await queue.begin("c"):
        pass


async def test_a_queue_forgets_who_left() -> None:
    """However many came, waited, lost or were refused: nothing of them stays, and every turn is free."""
    queue = Queue(replace(HASTY, turns=2, held=2, waiting=2, patience=0.2))
    workers = [Worker(queue, f"holder {number % 7}", silent if number % 2 else None) for number in range(40)]
    await settled()
    for number, worker in enumerate(workers):
        worker.task.cancel() if number % 5 == 0 else worker.told.set()
    ends = await asyncio.wait_for(asyncio.gather(*(each.task for each in workers), return_exceptions=True), 30)
    assert {type(end) for end in ends} <= {type(None), Busy, asyncio.CancelledError}
    assert [len(queue._held), len(queue._waiting), len(queue._of), queue._timer] == [0, 0, 0, None]

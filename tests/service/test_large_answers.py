"""One large answer at a time."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from strongroom.storage_service.errors import TooLarge, Unavailable
from strongroom.storage_service.services.large_answers import RULE, LargeAnswers
from strongroom.storage_service.wire import LARGE_ANSWER, MAX_BATCH_STORED


async def _settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def _reading(size: int, asked: list[int]) -> Callable[[int], Awaitable[int]]:
    async def read(limit: int) -> int:
        asked.append(limit)
        if size > limit:
            raise TooLarge("it is more")
        return size

    return read


async def test_the_next_begins_when_one_ends() -> None:
    """Of three principals that want a turn one has it, and the others get it in the order in which they came."""
    answers = LargeAnswers()
    first = await answers.begin("a")
    second, third = (asyncio.create_task(answers.begin(holder)) for holder in ("b", "c"))
    await _settled()
    assert not second.done()

    first.end()
    await _settled()
    assert second.done()
    assert not third.done()

    second.result().end()
    (await third).end()


async def test_a_principal_has_one_and_one_that_waits() -> None:
    """With the rule of the product, the third large answer of one principal is refused at once."""
    answers = LargeAnswers()
    turn = await answers.begin("a")
    second = asyncio.create_task(answers.begin("a"))
    await _settled()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(answers.begin("a"), 1e-9)
    turn.end()
    (await second).end()


async def test_ending_twice_ends_one() -> None:
    """A turn that is ended again does not end the one after it."""
    answers = LargeAnswers()
    first = await answers.begin("a")
    first.end()
    second = await answers.begin("a")
    first.end()
    waiting = asyncio.create_task(answers.begin("b"))
    await _settled()
    assert not waiting.done()
    second.end()
    (await waiting).end()


async def test_who_waits_too_long_is_told_to_come_back() -> None:
    """After the patience of the worker it is `Unavailable`, and the turn goes on as if nobody had waited."""
    answers = LargeAnswers(replace(RULE, patience=0.01))
    turn = await answers.begin("a")
    with pytest.raises(Unavailable):
        await answers.begin("b")
    turn.end()
    (await answers.begin("b")).end()


async def test_who_leaves_while_waiting_keeps_nothing() -> None:
    """A waiter that is cancelled has no turn, and takes none from those behind."""
    answers = LargeAnswers()
    turn = await answers.begin("a")
    leaving = asyncio.create_task(answers.begin("b"))
    staying = asyncio.create_task(answers.begin("c"))
    await _settled()
    leaving.cancel()
    turn.end()
    (await staying).end()
    assert leaving.cancelled()


async def test_small_answers_never_wait() -> None:
    """What fits into a small answer is read while another's turn lasts, and gets none."""
    answers = LargeAnswers()
    turn = await answers.begin("a")
    asked: list[int] = []
    assert await answers.made("b", _reading(LARGE_ANSWER, asked)) == (LARGE_ANSWER, None)
    assert asked == [LARGE_ANSWER]
    turn.end()


async def test_a_large_answer_is_read_in_its_turn() -> None:
    """What does not fit is read again, in a turn of its own, with the limit of large answers."""
    answers = LargeAnswers()
    turn = await answers.begin("a")
    asked: list[int] = []
    reading = asyncio.create_task(answers.made("b", _reading(MAX_BATCH_STORED, asked)))
    await _settled()
    assert asked == [LARGE_ANSWER]

    turn.end()
    size, own = await reading
    assert (size, asked) == (MAX_BATCH_STORED, [LARGE_ANSWER, MAX_BATCH_STORED])
    assert own is not None
    own.end()


@pytest.mark.parametrize("error", [TooLarge("it is more"), asyncio.CancelledError()])
async def test_what_fails_gives_its_turn_back(error: BaseException) -> None:
    """A reading that is too large for any answer, or whose client left, keeps no turn."""
    answers = LargeAnswers(replace(RULE, patience=0.1))

    async def read(limit: int) -> int:
        raise TooLarge("it is more") if limit == LARGE_ANSWER else error

    with pytest.raises(type(error)):
        await answers.made("b", read)
    (await answers.begin("a")).end()

"""The one loop in which a migration asks again."""

from collections.abc import Awaitable, Callable

import pytest

from strongroom.migration.retries import Retries
from strongroom.storage_service.errors import Changed, Denied, Unavailable

THREE = Retries(attempts=3, first=0.001, longest=0.001)


def failing(*errors: Exception) -> tuple[Callable[[], Awaitable[str]], list[str]]:
    """Return what fails with each of *errors* and then does not, and what tells how often it was called."""
    left, calls = list(errors), []

    async def attempt() -> str:
        calls.append("")
        if left:
            raise left.pop(0)
        return "done"

    return attempt, calls


async def test_what_passes_is_waited_for() -> None:
    """Two failures of three are none; a third is raised as it is."""
    attempt, calls = failing(Unavailable("once"), Unavailable("twice"))
    assert (await THREE.run(attempt), len(calls)) == ("done", 3)

    attempt, calls = failing(*(Unavailable(text) for text in ("1", "2", "3", "4")))
    with pytest.raises(Unavailable, match="3"):
        await THREE.run(attempt)
    assert len(calls) == 3


async def test_what_neither_passes_nor_was_overtaken_is_raised_at_once() -> None:
    """It is not tried again, and nothing is settled."""
    attempt, calls = failing(Denied("no"))
    with pytest.raises(Denied):
        await THREE.run(attempt, overtaken=(Changed,))
    assert len(calls) == 1


async def test_what_is_to_be_settled_comes_before_the_next_attempt() -> None:
    """It is told what failed, also after the last attempt that was overtaken, and what it raises ends all."""
    told: list[Exception] = []

    async def settle(error: Exception) -> None:
        told.append(error)
        if len(told) == 4:
            raise Denied("enough")

    errors = [Unavailable("1"), Changed("2"), Changed("3")]
    attempt, _ = failing(*errors)
    with pytest.raises(Changed, match="3"):
        await THREE.run(attempt, overtaken=(Changed,), settle=settle)
    assert told == errors
    attempt, calls = failing(Changed("4"))
    with pytest.raises(Denied, match="enough"):
        await THREE.run(attempt, overtaken=(Changed,), settle=settle)
    assert len(calls) == 1

"""Several requests at a time: so many and no more, in their order, and none left in doubt."""

import asyncio

import pytest

from strongroom.migration.errors import SourceUnavailable
from strongroom.migration.sources.at_once import at_once


@pytest.mark.parametrize("limit", [1, 3, 50])
async def test_answers_are_in_order_and_so_many_are_under_way(limit: int) -> None:
    """Whichever answer comes first, each stands in its place; as many are under way as was said, and no more."""
    under_way = most = 0

    async def act(thing: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(1 + thing * 7 % 5):
            await asyncio.sleep(0)
        under_way -= 1
        return -thing

    assert await at_once(act, range(20), limit) == [-thing for thing in range(20)]
    assert most == min(limit, 20)


async def test_the_first_failure_ends_it_when_the_others_have_ended() -> None:
    """After a failure nothing is begun any more, and what is under way is not cut off; the first error is raised."""
    begun: list[int] = []
    ended: list[int] = []

    async def act(thing: int) -> None:
        begun.append(thing)
        if thing == 2:
            raise SourceUnavailable("gone")
        for _ in range(5):
            await asyncio.sleep(0)
        ended.append(thing)
        if thing == 3:
            raise SourceUnavailable("later")

    with pytest.raises(SourceUnavailable, match="gone"):
        await at_once(act, range(100), 4)

    assert begun == [0, 1, 2, 3]
    assert ended == [0, 1, 3]

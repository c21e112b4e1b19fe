"""Several requests at a time, as many as a source bears."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def at_once(act: Callable[[T], Awaitable[R]], things: Iterable[T], limit: int) -> list[R]:
    """Return what *act* gives for each of *things*, in their order, *limit* of them under way at a time.

    Where one fails none is begun any more, those under way end by themselves, so that none is left in doubt, and the
    first error is raised.
    """
    left = enumerate(things)
    done: dict[int, R] = {}
    failures: list[Exception] = []

    async def work() -> None:
        for number, thing in left:
            try:
                done[number] = await act(thing)
            except Exception as error:  # noqa: BLE001  # it is raised when the others have ended
                failures.append(error)
            if failures:
                return

    await asyncio.gather(*(work() for _ in range(limit)))
    if failures:
        raise failures[0]
    return [done[number] for number in sorted(done)]

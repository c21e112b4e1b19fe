"""One large answer at a time: a worker holds no more values in memory at once than one of them has.

An answer is large when what it is made of takes more than `wire.LARGE_ANSWER` bytes in the store; small ones never
wait. Who has its turn, for how long, and who may wait is `turns.Rule`'s to say: a principal has one, and one request
more that waits. A turn ends when its answer was handed over, or with the answer, where its reader is slow and
another principal waits.
"""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Final, TypeVar

from strongroom.storage_service.errors import TooLarge
from strongroom.storage_service.turns import Queue, Rule, Turn
from strongroom.storage_service.wire import LARGE_ANSWER, MAX_BATCH_STORED

T = TypeVar("T")

RULE: Final = Rule(turns=1, held=1, waiting=1)


class LargeAnswers:
    """The turns of one worker."""

    def __init__(self, rule: Rule = RULE) -> None:
        """Take who has a turn, and for how long."""
        self.queue = Queue(rule)

    async def begin(self, holder: str) -> Turn:
        """Wait for a turn of *holder*, which the caller must end.

        Raises:
            Busy: others' answers took too long, or as many of the holder's as may wait do.
        """
        return await self.queue.begin(holder)

    async def made(self, holder: str, read: Callable[[int], Awaitable[T]]) -> tuple[T, Turn | None]:
        """Return what *read* returns, and if that is large the turn it was made in, which the caller must end.

        Args:
            holder: for whom.
            read: makes it, of at most so many bytes in the store.

        Raises:
            TooLarge: it takes more than `wire.MAX_BATCH_STORED`.
            Busy: as `begin`.
        """
        with suppress(TooLarge):
            return await read(LARGE_ANSWER), None
        async with AsyncExitStack() as stack:
            turn = await stack.enter_async_context(await self.begin(holder))
            made = await read(MAX_BATCH_STORED)
            stack.pop_all()
        return made, turn

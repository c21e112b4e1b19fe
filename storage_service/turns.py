"""Long work on the event loop, in stretches short enough that nobody who waits for the loop notices."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

STRETCH: Final = 0.0005  # seconds; one value at a time cannot be divided, and a large one takes longer


class Turns:
    """Lets the event loop's other tasks run whenever work has gone on for a stretch.

    Args:
        pace: which part of the time the work may take, above 0; at 1, others get a turn between two stretches, and
            below it, they have the rest of the time to themselves.
        clock: seconds, of any clock that only goes forward.
        sleep: waits for so many seconds; none: until the others had their turn.
    """

    def __init__(
        self,
        pace: float = 1.0,
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rest = 1 / pace - 1  # of the time that a stretch took
        self._clock = clock
        self._sleep = sleep
        self._since = clock()

    def begin(self) -> None:
        """Begin a stretch: what was awaited until now was a turn for the others."""
        self._since = self._clock()

    @property
    def over(self) -> bool:
        """Whether this stretch is; to be asked first where the work is many small pieces, for it costs less."""
        return self._clock() - self._since >= STRETCH

    async def take(self) -> None:
        """Wait for a turn if this stretch is over; to be called between any two pieces of work."""
        if self.over:
            await self.rest()

    async def rest(self) -> None:
        """Wait for a turn, however short this stretch was; to be called when the work is done for now."""
        await self._sleep((self._clock() - self._since) * self._rest)
        self.begin()

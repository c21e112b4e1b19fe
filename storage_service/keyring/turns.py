"""Long work on the event loop, in stretches short enough that nobody who waits for the loop notices."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

STRETCH: Final = 0.0005  # seconds; one value at a time cannot be divided, and a large one takes longer


class Turns:
    """Lets the event loop's other tasks run whenever work has gone on for a stretch.

    Args:
        clock: seconds, of any clock that only goes forward.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
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
            await asyncio.sleep(0)
            self.begin()

"""One large answer at a time: so many values at once are in a worker's memory as one of them holds, whoever asks.

An answer is large when what it is made of takes more than `wire.LARGE_ANSWER` bytes in the store; small ones never
wait. Whoever waits too long is told to come back. A turn ends when its answer was handed over, and after `LONGEST` in
any case: a client that does not read does not keep the others waiting for ever.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeVar

from storage_service.errors import TooLarge, Unavailable
from storage_service.wire import LARGE_ANSWER, MAX_BATCH_STORED

T = TypeVar("T")

PATIENCE: Final = 10.0  # seconds that a large answer waits for its turn
LONGEST: Final = 60.0  # seconds that a turn lasts at most


class Turn:
    """The right to make one large answer; ending it again does nothing."""

    def __init__(self, lock: asyncio.Lock, longest: float) -> None:
        self._lock: asyncio.Lock | None = lock
        self._timer = asyncio.get_running_loop().call_later(longest, self.end)

    def end(self) -> None:
        """Let the next one begin."""
        lock, self._lock = self._lock, None
        if lock is not None:
            self._timer.cancel()
            lock.release()


class LargeAnswers:
    """The turns of one worker."""

    def __init__(self, patience: float = PATIENCE, longest: float = LONGEST) -> None:
        """Take the seconds that somebody waits for a turn, and that a turn lasts at most."""
        self.patience = patience
        self._longest = longest
        self._lock = asyncio.Lock()

    async def begin(self) -> Turn:
        """Wait for a turn, which the caller must end.

        Raises:
            Unavailable: others' answers took too long.
        """
        try:
            async with asyncio.timeout(self.patience):
                await self._lock.acquire()
        except TimeoutError:
            raise Unavailable("other large answers are under way") from None
        return Turn(self._lock, self._longest)

    async def made(self, read: Callable[[int], Awaitable[T]]) -> "tuple[T, Turn | None]":
        """Return what *read* returns, and if that is large the turn it was made in, which the caller must end.

        Args:
            read: makes it, of at most so many bytes in the store.

        Raises:
            TooLarge: it takes more than `wire.MAX_BATCH_STORED`.
            Unavailable: as `begin`.
        """
        with suppress(TooLarge):
            return await read(LARGE_ANSWER), None
        turn = await self.begin()
        try:
            return await read(MAX_BATCH_STORED), turn
        except BaseException:
            turn.end()
            raise

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Be one turn, from when it comes; raises what `begin` does."""
        turn = await self.begin()
        try:
            yield
        finally:
            turn.end()

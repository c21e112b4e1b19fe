"""How often and after how long a migration asks again: one policy, which tests and callers may set, and one loop."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

from strongroom.storage_service.errors import Unavailable

T = TypeVar("T")
Errors: TypeAlias = tuple[type[Exception], ...]


async def _nothing(_: Exception) -> None:
    """Do nothing between two attempts."""


@dataclass(frozen=True, slots=True)
class Retries:
    """How often something is tried in all, and the seconds before it is tried again: doubled each time."""

    attempts: int = 8
    first: float = 0.2
    longest: float = 2.0

    def pause(self, left: int) -> float:
        """Return how long to wait while so many attempts are left after the one that failed."""
        return min(self.first * 2.0 ** (self.attempts - 1 - left), self.longest)

    async def run(
        self,
        attempt: Callable[[], Awaitable[T]],
        *,
        passing: Errors = (Unavailable,),
        overtaken: Errors = (),
        settle: Callable[[Exception], Awaitable[object]] = _nothing,
    ) -> T:
        """Return what *attempt* comes to; while there are attempts left, what fails is tried again.

        Args:
            attempt: what is to be done; called again, it must see what the one before it did.
            passing: what passes: it is waited for.
            overtaken: what says that somebody else was faster: it is tried again at once.
            settle: called with what failed, before it is tried again, and where it was overtaken in any case; what it
                raises ends it.

        Raises:
            Exception: what the last attempt raised, and at once what neither passes nor was overtaken.
        """
        left = self.attempts
        while True:
            left -= 1
            try:
                return await attempt()
            except overtaken as error:
                await settle(error)
                if not left:
                    raise
            except passing as error:
                if not left:
                    raise
                await asyncio.sleep(self.pause(left))
                await settle(error)


PATIENT: Final = Retries()
"""What a migration does if nobody says otherwise: some nine seconds, on top of those that the client takes."""

"""How often and after how long a migration asks again: one policy, which tests and callers may set."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Retries:
    """How often something is tried in all, and the seconds before it is tried again: doubled each time."""

    attempts: int = 8
    first: float = 0.2
    longest: float = 2.0

    def pause(self, left: int) -> float:
        """Return how long to wait while so many attempts are left after the one that failed."""
        return min(self.first * 2.0 ** (self.attempts - 1 - left), self.longest)


PATIENT: Final = Retries()
"""What a migration does if nobody says otherwise: some nine seconds, on top of those that the client takes."""

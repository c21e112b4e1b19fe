"""A breaker: who has been silent again and again is left alone for a while, and then asked once."""

import time
from collections.abc import Callable
from typing import Final

THRESHOLD: Final = 5  # failures one after another that open it
PAUSE: Final = 30.0  # seconds before the next question, which decides


class Admission:
    """Leave to ask once, to be given back in one of three ways: `passed`, `failed`, or `left` where nobody knows."""

    __slots__ = ("_breaker", "_probe")

    def __init__(self, breaker: "Breaker", *, probe: bool) -> None:
        self._breaker = breaker
        self._probe = probe

    def passed(self) -> None:
        """Say that there was an answer: all may ask again."""
        self._breaker.close()

    def failed(self) -> None:
        """Say that there was none."""
        self._breaker.count(probe=self._probe)

    def left(self) -> None:
        """Say that who asked went away: if this was the one that decides, another may be."""
        if self._probe:
            self._breaker.free()


class Breaker:
    """Closed until `THRESHOLD` failures follow one another; then open for `PAUSE`, and one question is let through."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Take the clock."""
        self._now = now
        self._failures = 0
        self._until = 0.0
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether it has opened, and no question since was answered."""
        return self._failures >= THRESHOLD

    def admit(self) -> Admission | None:
        """Return leave to ask; None while there is none."""
        if not self.is_open:
            return Admission(self, probe=False)
        if self._probing or self._now() < self._until:
            return None
        self._probing = True
        return Admission(self, probe=True)

    def close(self) -> None:
        """Let all questions through."""
        self._failures = 0
        self._probing = False

    def count(self, *, probe: bool) -> None:
        """Count a failure; that of the *probe*, or the one too many, opens for a whole pause."""
        was_open = self.is_open
        self._failures += 1
        if probe:
            self._probing = False
        if self.is_open and (probe or not was_open):
            self._until = self._now() + PAUSE

    def free(self) -> None:
        """Let another question be the one that decides."""
        self._probing = False

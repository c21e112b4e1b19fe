"""A breaker for a cluster that does not answer: operations fail at once instead of each waiting for its whole timeout.

`FAILURES` operations in a row that no member answered open it. While it is open one operation at a time is let
through, the first after `FIRST_WAIT` seconds and each after twice the wait of the last, up to `LONGEST_WAIT`; whatever
answer comes closes it. An operation goes on asking for its whole timeout, so a cluster that comes back while one is
under way is noticed at once.
"""

import logging
from typing import Final

from strongroom.storage_service.backends.etcd.failures import CallFailed, Kind

FAILURES: Final = 5
FIRST_WAIT: Final = 1.0  # seconds
LONGEST_WAIT: Final = 30.0

log = logging.getLogger(__name__)


class Breaker:
    """Whether operations may begin; all times are on the loop's clock."""

    def __init__(self) -> None:
        self._failures = 0  # in a row
        self._wait = FIRST_WAIT
        self._next_probe: float | None = None  # None: it is closed
        self._probing = False

    def admit(self, now: float) -> bool:
        """Let an operation begin, and return whether it is a probe, whose end `probed` is to be told.

        Raises:
            CallFailed: not at present; nothing was sent.
        """
        if self._next_probe is None:
            return False
        if self._probing or now < self._next_probe:
            failure = CallFailed(Kind.NOT_DONE, "etcd has not answered for a while, and is asked again in a moment")
            failure.retry_after = FIRST_WAIT if self._probing else self._next_probe - now
            raise failure
        self._probing = True
        return True

    def answered(self) -> None:
        """Note that a member has answered, were it with a refusal."""
        if self._next_probe is not None:
            log.warning("etcd answers again")
        self._failures, self._wait, self._next_probe = 0, FIRST_WAIT, None

    def unanswered(self, now: float) -> None:
        """Note that no member has answered in the time that an operation has."""
        if self._next_probe is not None:
            return  # of an operation that began before, or of the probe, which `probed` is told of
        self._failures += 1
        if self._failures >= FAILURES:
            self._next_probe = now + self._wait
            log.error("etcd has not answered %d times in a row; operations fail at once until it does", FAILURES)

    def probed(self, now: float, *, cut_short: bool) -> None:
        """Note that the probe has ended; one that was *cut_short* says nothing, and the next may begin."""
        self._probing = False
        if self._next_probe is not None and not cut_short:
            self._wait = min(2 * self._wait, LONGEST_WAIT)
            self._next_probe = now + self._wait

"""Failures in the service's log: the first for each reason at once, the others counted.

A full disk refuses every write for as long as it lasts. Whoever reads the log must find the reason in it.
"""

import asyncio
import logging
from typing import Final, NamedTuple

from strongroom.storage_service.errors import Behind, Fate, Locked, ServiceError

PERIOD: Final = 60.0  # seconds between two lines of one reason
MOST: Final = 32  # reasons told apart; they are texts of ours, but may name a version or a file

log = logging.getLogger(__name__)


class _Reason(NamedTuple):
    """What refusals that are counted together have in common."""

    level: int
    code: str
    fate: Fate
    text: str

    @classmethod
    def of(cls, error: ServiceError) -> "_Reason":
        asked_for = isinstance(error, Locked) and not isinstance(error, Behind)
        return cls(logging.INFO if asked_for else logging.WARNING, error.code, error.fate, str(error))


class FailureLog:
    """Tells of requests that failed, on the event loop on which they do."""

    def __init__(self, period: float = PERIOD) -> None:
        self._period = period
        self._more: dict[_Reason, int] = {}  # since the last line, of each reason that was told of lately
        self._timers: dict[_Reason, asyncio.TimerHandle] = {}

    def tell(self, error: ServiceError, request_id: str) -> None:
        """Tell that a request was answered with *error*."""
        reason = _Reason.of(error)
        if reason not in self._more and len(self._more) >= MOST:
            reason = reason._replace(text="other reasons")
        if reason in self._more:
            self._more[reason] += 1
            return
        log.log(
            reason.level, "request %s was refused (%s, %s): %s", request_id, reason.code, reason.fate.value, reason.text
        )
        self._begin(reason)

    def close(self) -> None:
        """Tell what was counted."""
        for reason in list(self._more):
            self._timers.pop(reason).cancel()
            self._count(reason)

    def _begin(self, reason: _Reason) -> None:
        self._more[reason] = 0
        self._timers[reason] = asyncio.get_running_loop().call_later(self._period, self._next, reason)

    def _next(self, reason: _Reason) -> None:
        del self._timers[reason]
        if self._count(reason):
            self._begin(reason)

    def _count(self, reason: _Reason) -> int:
        more = self._more.pop(reason)
        if more:
            log.log(
                reason.level,
                "%d more requests were refused (%s, %s): %s",
                more,
                reason.code,
                reason.fate.value,
                reason.text,
            )
        return more

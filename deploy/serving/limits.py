"""What one worker gives to connections: how many, for how long, and which is closed first when there are too many.

A stranger gets nothing for free: every state that a connection can wait in has a deadline, and the connections are
counted, in all and for each address. When they are too many, the one that has been silent longest is closed; one whose
request is being worked on never is.
"""

import contextlib
import logging
import math
import resource
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

_SPARE: Final = 256  # descriptors that are not for connections: stores, logs, the socket's pool
_DESCRIPTORS: Final = 65_536  # that a process asks for
_TOLD_EVERY: Final = 60.0  # seconds between two log lines about the same cap

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Counts, and seconds."""

    connections: int = 8192  # in all, of one worker; fewer where the process may not open as many descriptors
    per_address: int = 1024  # of one network address, or of one user on the unix socket
    head: float = 10.0  # for a request's head, and for a TLS handshake
    body: float = 10.0  # until a body must have come, and a second more for each …
    body_rate: int = 16 * 1024  # … so many bytes of it
    write: float = 10.0  # for a client that does not read to go on reading
    idle: float = 75.0  # between two requests, so that the pools of proxy and clients are worth having
    linger: float = 2.0  # to read on, unheeded, after an early answer, so that the client sees it


class Evictable(Protocol):
    """A connection, as far as counting goes."""

    address: str
    silent: bool  # it has not had an answer yet

    def evict(self) -> None:
        """Close at once: no request of it is under way."""


class Ledger:
    """The connections of one worker, those that wait for a request in the order in which they began to."""

    def __init__(self, limits: Limits, changed: Callable[[int], None] = lambda _: None) -> None:
        """Take the limits, and what is told of the count whenever it changes."""
        self._changed = changed
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = max(16, min(limits.connections, soft - _SPARE))
        self._per_address = limits.per_address
        self._count = 0
        self._of: dict[str, int] = {}
        self._silent: dict[Evictable, None] = {}
        self._kept: dict[Evictable, None] = {}
        self._waiting_of: defaultdict[str, dict[Evictable, None]] = defaultdict(dict)
        self._told: dict[str, float] = {}

    def __len__(self) -> int:
        return self._count

    def enter(self, address: str) -> bool:
        """Count a new connection from *address*; False if it is one too many and nobody can go in its place."""
        if self._of.get(address, 0) >= self._per_address:
            self._tell("one address", f"{self._per_address} connections from one address are open")
            if not self._evict(self._waiting_of[address]):
                return False
        if self._count >= self._most:
            self._tell("all", f"{self._most} connections are open")
            if not (self._evict(self._silent) or self._evict(self._kept)):
                return False
        self._count += 1
        self._of[address] = self._of.get(address, 0) + 1
        self._changed(self._count)
        return True

    def leave(self, address: str) -> None:
        """Count a connection from *address* no longer."""
        self._count -= 1
        self._changed(self._count)
        left = self._of[address] - 1
        if left:
            self._of[address] = left
        else:
            del self._of[address]
            self._waiting_of.pop(address, None)

    def wait(self, connection: Evictable) -> None:
        """Note that *connection* waits for its client from now on."""
        (self._silent if connection.silent else self._kept)[connection] = None
        self._waiting_of[connection.address][connection] = None

    def work(self, connection: Evictable) -> None:
        """Note that *connection* waits no longer: a request came, or it is gone."""
        if self._silent.pop(connection, self) is self:
            self._kept.pop(connection, None)
        self._waiting_of[connection.address].pop(connection, None)

    def _evict(self, waiting: dict[Evictable, None]) -> bool:
        longest = next(iter(waiting), None)
        if longest is None:
            return False
        longest.evict()
        return True

    def _tell(self, cap: str, what: str) -> None:
        now = time.monotonic()
        if now >= self._told.get(cap, -math.inf) + _TOLD_EVERY:
            self._told[cap] = now
            log.warning("%s: for each new one the longest silent is closed, or the new one where all are at work", what)


def raise_descriptors() -> None:
    """Let this process open as many descriptors as it may: the usual soft limit is for programs that use select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # fewer will do: the ledger counts by what there is
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

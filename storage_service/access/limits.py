"""Who is slowed: whose credentials were wrong again and again, and who asks too often, where there is a limit.

A worker counts for itself, in bounded memory. What waits is a name at an address, right or wrong: who guesses at a name
slows it where he guesses, also for its owner, if the two share an address. At an address that tries many names each
name waits that was not right there lately. So nobody is kept out by what others get wrong elsewhere, nor, where many
share an address, by guesses at others' names who was there before.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from strongroom.storage_service.errors import TooManyAttempts
from strongroom.storage_service.strangers import network_of
from strongroom.storage_service.wire.http1 import Peer

FREE: Final = 20  # wrong credentials of one name at one address before the first wait
FREE_AT_ADDRESS: Final = 200  # of any names
FIRST_WAIT: Final = 0.5  # seconds; each more doubles it
LONGEST_WAIT: Final = 60.0  # seconds
WINDOW: Final = 60.0  # seconds that a limit of requests is for
FORGOTTEN: Final = 900.0  # seconds without a failure, after which it is as if there had been none
KNOWN: Final = 3600.0  # seconds for which a name that was right at an address is known there
MOST: Final = 4096  # entries of each kind; who has been quiet for longest is forgotten first

K = TypeVar("K")


def place_of(address: str | None, peer: Peer | None) -> str:
    """Return from where somebody shows credentials: a network, or a user of this machine."""
    if address is not None:
        return network_of(address)
    return "" if peer is None else f"uid {peer.uid}"


class _Failures(Generic[K]):
    """How often something failed, when it did last, and how long it waits for that."""

    def __init__(self, free: int) -> None:
        self._free = free
        self._counts: OrderedDict[K, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, key: K, now: float) -> None:
        count, _ = self._counts.pop(key, (0, now)) if self.wait(key, now) is not None else (0, now)
        self._counts[key] = count + 1, now
        if len(self._counts) > MOST:
            self._counts.popitem(last=False)

    def drop(self, key: K) -> None:
        self._counts.pop(key, None)

    def wait(self, key: K, now: float) -> float | None:
        """Return the seconds that are left to wait; None where nothing is remembered."""
        found = self._counts.get(key)
        if found is None:
            return None
        count, last = found
        if now - last >= FORGOTTEN:
            del self._counts[key]
            return None
        if count <= self._free:
            return 0.0
        doublings = min(count - self._free - 1, 16)
        return max(0.0, last + min(FIRST_WAIT * 2.0**doublings, LONGEST_WAIT) - now)


class Slowdown:
    """Remembers wrong credentials by address and name."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Take the clock."""
        self._now = now
        self._pairs: _Failures[tuple[str, str]] = _Failures(FREE)
        self._addresses: _Failures[str] = _Failures(FREE_AT_ADDRESS)
        self._right: OrderedDict[tuple[str, str], float] = OrderedDict()

    def wait(self, address: str, name: str) -> float:
        """Return the seconds that *name* has to wait at *address* before its credentials are looked at; mostly 0.

        That it was right there lately spares it the wait for what is wrong of other names, not that for its own.
        """
        if not self._addresses:  # nobody has failed
            return 0.0
        now = self._now()
        own = self._pairs.wait((address, name), now) or 0.0
        if now - self._right.get((address, name), -KNOWN) < KNOWN:
            return own
        return max(own, self._addresses.wait(address, now) or 0.0)

    def refuse_early(self, address: str, name: str) -> None:
        """Return if credentials of *name* are looked at, at *address*, now.

        Raises:
            TooManyAttempts: they have to wait.
        """
        if (wait := self.wait(address, name)) > 0:
            raise TooManyAttempts("wrong credentials were shown", wait)

    def failed(self, address: str, name: str) -> None:
        """Say that credentials of *name* were wrong at *address*."""
        now = self._now()
        self._pairs.add((address, name), now)
        self._addresses.add(address, now)

    def passed(self, address: str, name: str) -> None:
        """Say that they were right."""
        pair = address, name
        now = self._now()
        if now - self._right.get(pair, -KNOWN) < KNOWN / 2:  # PERF: most know it already
            if self._pairs:
                self._pairs.drop(pair)
            return
        self._pairs.drop(pair)
        self._right.pop(pair, None)
        self._right[pair] = now
        if len(self._right) > MOST:
            self._right.popitem(last=False)


class Rates:
    """How often each may ask: a bucket of so many requests, which fills again within `WINDOW`."""

    def __init__(self, requests: int, now: Callable[[], float] = time.monotonic) -> None:
        """Take how many *requests* there may be in a window, at once or one after another, and the clock."""
        self.requests: Final = requests
        self._each = WINDOW / requests  # seconds for one
        self._now = now
        self._full: OrderedDict[str, float] = OrderedDict()  # when the bucket of each is full again

    def take(self, who: str) -> float:
        """Count a request of *who* and return 0; or the seconds after which there is room for one, and count none."""
        now = self._now()
        full = max(self._full.pop(who, now), now) + self._each
        wait = full - now - WINDOW
        if wait > 1e-6:  # a whole bucket is not to be lost to rounding
            self._full[who] = full - self._each
            return wait
        self._full[who] = full
        if len(self._full) > MOST:
            self._full.popitem(last=False)
        return 0.0

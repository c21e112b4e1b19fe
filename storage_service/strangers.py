"""Refused requests are counted, so that the evidence stays small: a line a second.

Of strangers the first from an address is told at once. Who comes from there within the second is counted, and told as
one line with their number, the last of them and the names they claimed. So many addresses have a line of their own; the
others share one. Of somebody known the first refusal of each act is told at once, and the same again is counted. So
many acts of one caller have a line of their own; the others share one. So many callers have lines at all; the others
share one, too.

Where the disk has little room left, that is for acts: all strangers share one line a minute, and whoever is known has
one. Both processes count by this rule: the service for its log, the proxy for what it reports to the service.
"""

import asyncio
import contextlib
import functools
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from strongroom.storage_service.errors import ServiceError
from strongroom.storage_service.wire import MAX_CLAIMED, MAX_REFUSALS, MAX_TOLD, Refusal

PERIOD: Final = 1.0  # seconds that are told in one line
SCANT: Final = 60.0  # where there is no room
MOST: Final = 16  # addresses with a line of their own; where there is no room, callers who are known
MOST_ACTS: Final = 8  # of one caller who is known
MOST_KNOWN: Final = 64  # of all of them together
MOST_CALLERS: Final = 256  # who are known, of whom each has a line for what else he is refused

log = logging.getLogger(__name__)

Key = tuple[str, ...]

UNKNOWN: Final = "unknown"  # the principal of a stranger
_MANY: Final[Key] = ("", "many")
_EVERYBODY: Final[Key] = ("", "everybody")
_MANY_KNOWN: Final = "many"  # no principal, for each bears its kind


class Tally:
    """Those of one line to come."""

    def __init__(self, due: float) -> None:
        self.due = due
        self.last: Refusal | None = None

    def add(self, refusal: Refusal) -> None:
        """Count *refusal*: it is the last now."""
        before = self.last
        if before is not None:
            refusal = _together(before, refusal)
        self.last = refusal

    def put_back(self, told: Refusal) -> None:
        """Count what could not be told."""
        self.last = told if self.last is None else _together(told, self.last)


class Strangers:
    """The tallies of one worker.

    Nothing is lost where telling fails: it is counted on, and tried again each second; *failing* says so.
    """

    def __init__(
        self,
        tell: Callable[[Sequence[Refusal]], Awaitable[object]],
        has_room: Callable[[], bool] = lambda: True,
        period: float = PERIOD,
    ) -> None:
        """Take what tells of refusals, and whether there is room for them, as asked once a *period* of seconds."""
        self.failing = False
        self._why = ""  # in the words that callers may read
        self._tell = tell
        self._has_room = has_room
        self._period = period
        self._room = True
        self._asked = float("-inf")
        self._tallies: dict[Key, Tally] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._telling: set[asyncio.Task[None]] = set()

    async def turn_away(self, *refusals: Refusal) -> None:
        """Count *refusals*; those that are the first of their line are told before this returns.

        Raises:
            ServiceError: of what tells; they are counted all the same.
        """
        at_once: dict[Key, Refusal] = {}
        for refusal in refusals:
            key, tally, first = self._tally(refusal)
            if first or self.failing:
                at_once[key] = _together(at_once[key], refusal) if key in at_once else refusal
            else:
                tally.add(refusal)
        await self._tell_of(at_once)

    def note(self, refusal: Refusal) -> None:
        """Count *refusal*; the first of its line is told at once, but nobody waits for it."""
        key, tally, first = self._tally(refusal)
        if first and not self.failing:
            self._begin({key: refusal})
        else:
            tally.add(refusal)

    async def close(self) -> None:
        """Tell of all that is counted, as far as it can be told."""
        if self._timer is not None:
            self._timer.cancel()
        if self._telling:
            await asyncio.wait(set(self._telling))
        await self._try(self._due(float("inf")))

    def _tally(self, refusal: Refusal) -> tuple[Key, Tally, bool]:
        """Return where *refusal* counts, and whether it is the first there."""
        now = asyncio.get_running_loop().time()
        if now >= self._asked + self._period:
            self._asked, room = now, self._has_room()
            if self._room and not room:
                log.warning(
                    "the disk of the audit log is nearly full: only one refusal a minute is recorded for each caller"
                )
            self._room = room
        key = self._key(refusal)
        tally = self._tallies.get(key)
        if tally is not None:
            return key, tally, False
        tally = self._tallies[key] = Tally(now + self._wait)
        self._come_back()
        return key, tally, True

    def _key(self, refusal: Refusal) -> Key:
        # What speaks of a tampered record, or of what broke, is not lost among guesses.
        odd = ("failed",) if refusal.decision == "failed" else ()
        if refusal.principal != UNKNOWN:
            return self._key_of_known(refusal, odd)
        if not self._room:
            return _EVERYBODY
        key = ("", network(refusal), *odd)
        return key if key in self._tallies or self._count("") < MOST else _MANY

    def _key_of_known(self, refusal: Refusal, odd: Key) -> Key:
        who = _who(refusal)
        if not self._room:
            return (who,) if (who,) in self._tallies or len(self._tallies) < MOST else _EVERYBODY
        key = (who, refusal.action, refusal.name, *odd)
        known = len(self._tallies) - self._count("")
        if key in self._tallies or (self._count(who) < MOST_ACTS and known < MOST_KNOWN):
            return key
        rest = (who, *odd)
        return rest if rest in self._tallies or known < MOST_KNOWN + MOST_CALLERS else (_MANY_KNOWN, *odd)

    def _count(self, who: str) -> int:
        """Return how many lines there are of *who*; "": of strangers."""
        return sum(each[0] == who for each in self._tallies)

    @property
    def _wait(self) -> float:
        return self._period if self._room else self._period * SCANT / PERIOD

    def _come_back(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._period, self._tick)

    def _tick(self) -> None:
        """Tell of those who came since, and forget where nobody did."""
        self._timer = None
        if not self._telling:
            now = asyncio.get_running_loop().time()
            due = self._due(now)
            for key, tally in list(self._tallies.items()):
                if key in due:
                    tally.due = now + self._wait
                elif tally.due <= now:
                    del self._tallies[key]
            if due:
                self._begin(due)
        if self._tallies:
            self._come_back()

    def _due(self, now: float) -> dict[Key, Refusal]:
        """Take what is to be told *now* out of its tallies."""
        due = {}
        for key, tally in self._tallies.items():
            if tally.due <= now and tally.last is not None:
                due[key], tally.last = tally.last, None
        return due

    def _begin(self, due: Mapping[Key, Refusal]) -> None:
        task = asyncio.get_running_loop().create_task(self._try(due))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _try(self, due: Mapping[Key, Refusal]) -> None:
        with contextlib.suppress(ServiceError):  # it has been logged, and will be tried again
            await self._tell_of(due)

    async def _tell_of(self, due: Mapping[Key, Refusal]) -> None:
        left = dict(due)
        while left:
            part = list(left)[:MAX_REFUSALS]
            try:
                await self._tell([left[key] for key in part])
            except ServiceError as error:
                for key, refusal in left.items():
                    self._tallies.setdefault(key, Tally(0.0)).put_back(refusal)
                self._come_back()
                if not self.failing:
                    log.error("refused requests could not be recorded: %s", error)  # noqa: TRY400  # that is all
                self.failing, self._why = True, getattr(error, "plain", "")
                raise
            self.failing = False
            for key in part:
                del left[key]


def network(refusal: Refusal) -> str:
    """Return whom *refusal* counts for: of IPv6, a whole /56, which one household has; of the socket, a user."""
    if refusal.address is None:
        return "here" if refusal.peer is None else f"uid {refusal.peer['uid']}"
    return network_of(refusal.address)


@functools.lru_cache(maxsize=1024)  # PERF: reading an address takes as long as opening a secret
def network_of(client: str) -> str:
    """Return whom what comes from the address *client* counts for: of IPv6, a whole /56, which one household has."""
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return client
    if isinstance(address, ipaddress.IPv4Address):
        return client
    mapped = address.ipv4_mapped
    return str(mapped) if mapped is not None else address.exploded[:17]


def site_of(network: str) -> str:
    """Return the /48 that a *network* of IPv6 (as `network_of` says it) is part of, which one subscriber may have."""
    return network[:14] if ":" in network else network


def bounded(text: str) -> str:
    """Return *text*, or as much of it as a line about a stranger holds."""
    return text if len(text) <= MAX_TOLD else text[: MAX_TOLD - 1] + "…"


def _who(refusal: Refusal) -> str:
    """Return whom a *refusal* of somebody known counts for."""
    return refusal.principal if refusal.on_behalf_of is None else f"{refusal.principal} for {refusal.on_behalf_of}"


def _together(before: Refusal, last: Refusal) -> Refusal:
    """Return both as one: the later, with the number and the claims of the two.

    A line of several who are known is nobody's: it names them among those who were claimed.
    """
    alike = _who(before) == _who(last)
    known = [] if alike else [_who(each) for each in (before, last) if each.principal != UNKNOWN]
    claimed = list(dict.fromkeys([*before.claimed, *last.claimed, *known]))
    if len(claimed) > MAX_CLAIMED:
        claimed = [*claimed[: MAX_CLAIMED - 1], "…"]
    return Refusal(
        request=last.request,
        action=last.action,
        name=last.name,
        reason=last.reason,
        decision=last.decision,
        principal=last.principal if alike else UNKNOWN,
        on_behalf_of=last.on_behalf_of if alike else None,
        claimed=claimed,
        address=last.address,
        peer=last.peer,
        count=before.count + last.count,
        decided=last.decided if alike else None,
    )

"""The queue of passwords to verify: which is next, and which is refused when it is full.

Addresses have their turns one after the other, and within an address the names that are claimed. Where all places are
taken, a newcomer gets the place of the last who came from the site that has the most of them (a /48 of IPv6, or else an
address), if that is more than the newcomer's would have then; between sites that have as many, from the address, and
then with the name, that most of them come with. Whether there is a user of a name plays no part.

So a flood from fewer addresses than there are places keeps nobody else out. One from as many does, or one of as many
names through a TLS terminator, behind which all have one address: the rate of those is limited before the proxy.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TypeAlias

from strongroom.storage_service.errors import Busy
from strongroom.storage_service.strangers import site_of

_Kinds: TypeAlias = tuple[str, str, str]


def _kinds(address: str, name: str) -> _Kinds:
    """Return what is counted of who claims *name* at *address*: first what weighs most."""
    return site_of(address), address, name


@dataclass(eq=False, slots=True)
class _Waiting:
    """One that waits."""

    address: str
    name: str
    turn: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def kinds(self) -> _Kinds:
        return _kinds(self.address, self.name)

    @property
    def has_turn(self) -> bool:
        return self.turn.done() and not self.turn.cancelled() and self.turn.exception() is None


class Line:
    """Gives turns, so many at a time."""

    def __init__(self, turns: int, places: int, patience: float, come_back: float) -> None:
        """Take how many have a turn at once, how many may wait, and for how many seconds; others come back later."""
        self._free = turns
        self._places = places
        self._patience = patience
        self._come_back = come_back
        self._waiting: dict[_Waiting, None] = {}  # in the order they came
        self._queues: dict[str, dict[str, list[_Waiting]]] = {}  # by address and name, both in the order of their turns

    def __len__(self) -> int:
        return len(self._waiting)

    async def enter(self, address: str, name: str) -> None:
        """Wait for a turn; whoever got one leaves after it.

        Raises:
            Busy: there is no place, or there was none any more; or it took too long.
        """
        if self._free:  # then nobody waits
            self._free -= 1
            return
        if len(self._waiting) >= self._places:
            self._make_room(address, name)
        waiting = _Waiting(address, name)
        self._waiting[waiting] = None
        self._queues.setdefault(address, {}).setdefault(name, []).append(waiting)
        try:
            async with asyncio.timeout(self._patience):
                await waiting.turn
        except BaseException as error:
            if waiting in self._waiting:
                self._remove(waiting)
            elif waiting.has_turn:  # it came, but too late
                self.leave()
            if isinstance(error, TimeoutError):
                raise self._no_place() from None
            raise

    def leave(self) -> None:
        """End a turn; the next begins."""
        while self._waiting:
            first = self._next()
            self._remove(first)
            self._go_last(first)
            if not first.turn.done():
                first.turn.set_result(None)
                return
        self._free += 1

    def _next(self) -> _Waiting:
        by_name = next(iter(self._queues.values()))
        return next(iter(by_name.values()))[0]

    def _go_last(self, had: _Waiting) -> None:
        """Let the address of *had* have its next turn after all others, and there its name after all other names."""
        by_name = self._queues.pop(had.address, None)
        if by_name is not None:
            if had.name in by_name:
                by_name[had.name] = by_name.pop(had.name)
            self._queues[had.address] = by_name

    def _remove(self, waiting: _Waiting) -> None:
        del self._waiting[waiting]
        by_name = self._queues[waiting.address]
        by_name[waiting.name].remove(waiting)
        if not by_name[waiting.name]:
            del by_name[waiting.name]
        if not by_name:
            del self._queues[waiting.address]

    def _make_room(self, address: str, name: str) -> None:
        """Send the last of those away who have the most places, for one who would have fewer.

        Raises:
            Busy: the newcomer would not.
        """
        newcomer = _kinds(address, name)
        have = [Counter(kind) for kind in zip(*(each.kinds for each in self._waiting), strict=True)]

        def of_its_kinds(kinds: _Kinds, besides: _Kinds | None = None) -> list[int]:
            """Return how many wait of each of *kinds*; with one more, where that is no place of *besides*."""
            more = (0, 0, 0) if besides is None else [kind != other for kind, other in zip(kinds, besides, strict=True)]
            return [counted[kind] + one for counted, kind, one in zip(have, kinds, more, strict=True)]

        last = max(reversed(self._waiting), key=lambda each: of_its_kinds(each.kinds))
        if of_its_kinds(last.kinds) <= of_its_kinds(newcomer, last.kinds):
            raise self._no_place()
        self._remove(last)
        if not last.turn.done():
            last.turn.set_exception(self._no_place())

    def _no_place(self) -> Busy:
        return Busy("too many sign-ins at once", retry_after=self._come_back)

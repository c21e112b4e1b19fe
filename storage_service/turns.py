"""Turns, of two kinds: on the event loop (`Turns`), and at what only so many may do at a time (`Queue`).

Both keep one from taking what others wait for: long work gives up the loop after a short stretch, and of what is few
everybody holds a little.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from strongroom.storage_service.errors import Busy

STRETCH: Final = 0.0005  # seconds; one value at a time cannot be divided, and a large one takes longer


class Turns:
    """Lets the event loop's other tasks run whenever work has gone on for a stretch.

    Args:
        pace: which part of the time the work may take, above 0; at 1, others get a turn between two stretches, and
            below it, they have the rest of the time to themselves.
        clock: seconds, of any clock that only goes forward.
        sleep: waits for so many seconds; none: until the others had their turn.
    """

    def __init__(
        self,
        pace: float = 1.0,
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rest = 1 / pace - 1  # of the time that a stretch took
        self._clock = clock
        self._sleep = sleep
        self._since = clock()

    def begin(self) -> None:
        """Begin a stretch: what was awaited until now was a turn for the others."""
        self._since = self._clock()

    @property
    def over(self) -> bool:
        """Whether this stretch is; to be asked first where the work is many small pieces, for it costs less."""
        return self._clock() - self._since >= STRETCH

    async def take(self) -> None:
        """Wait for a turn if this stretch is over; to be called between any two pieces of work."""
        if self.over:
            await self.rest()

    async def rest(self) -> None:
        """Wait for a turn, however short this stretch was; to be called when the work is done for now."""
        await self._sleep((self._clock() - self._since) * self._rest)
        self.begin()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Who has a turn, and for how long. A *holder* is whoever is counted as one: a principal, or an address."""

    turns: int = 1  # at a time
    held: int = 1  # of one holder
    waiting: int = 1  # of one holder; a further one is refused at once
    queue: int = 64  # that wait, of all holders
    patience: float = 10.0  # seconds that one waits
    longest: float = 60.0  # seconds that a turn lasts at most where others wait
    grace: float = 3.0  # seconds that a client may be behind, …
    rate: float = 1_250_000.0  # … at so many bytes a second: 10 Mbit/s
    shared: bool = False  # several may stand behind one holder: who is slow there loses its turn to them, too


class Turn:
    """The right to do it; ending it again does nothing.

    It can be lost: where another waits for it, and this one's client does not keep up, or it has lasted too long. Then
    its task is cancelled. Left as a context, it ends, and says `Busy` where it was lost.
    """

    def __init__(self, queue: "Queue", holder: str) -> None:
        """Take the queue it is one of, and whose it is."""
        self.holder = holder
        self._queue = queue
        self._task = asyncio.current_task()
        self._cancelling = self._task.cancelling() if self._task is not None else 0
        self._end = asyncio.get_running_loop().time() + queue.rule.longest
        self._since = math.inf  # when the client was first waited for
        self._moved = 0  # bytes since then
        self._lost = False

    def await_client(self) -> None:
        """From now on it is the client that is waited for: to read, or to send."""
        self._since, self._moved = asyncio.get_running_loop().time(), 0
        self._queue.look()

    def moved(self, size: int) -> None:
        """Note that the client took, or sent, *size* bytes."""
        self._moved += size

    def client_done(self) -> None:
        """From now on it is not the client that is waited for."""
        self._since = math.inf

    @property
    def deadline(self) -> float:
        """When it is lost if another waits then, in the loop's time."""
        rule = self._queue.rule
        return min(self._end, self._since + rule.grace + self._moved / rule.rate)

    def end(self) -> None:
        """Let the next one begin."""
        self._queue.release(self)

    def lose(self) -> None:
        """End it, and what is done in it."""
        self._lost = True
        self.end()
        if self._task is not None:
            self._task.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()
        if self._lost and self._task is not None:
            left = self._task.uncancel()
            if left <= self._cancelling and kind is asyncio.CancelledError:
                raise Busy("others are waiting, and this client did not keep up") from None


class Queue:
    """Gives turns: to who holds fewest first, then to who did not have the last one, then in the order they came."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._held: dict[Turn, None] = {}
        self._of: Counter[str] = Counter()  # turns of each holder that has some
        self._waiting: dict[asyncio.Future[None], str] = {}  # in the order they came, with their holders
        self._last = ""  # whose turn ended last
        self._timer: asyncio.TimerHandle | None = None

    async def begin(self, holder: str, deadline: float = math.inf) -> Turn:
        """Wait for a turn of *holder*, at most until *deadline*; the caller must end it.

        Raises:
            Busy: the holder has one that waits already, or too many wait; or it took too long.
        """
        if not self._has_room(holder):
            await self._wait(holder, deadline)
        else:
            self._of[holder] += 1
        turn = Turn(self, holder)
        self._held[turn] = None
        self.look()
        return turn

    def release(self, turn: Turn) -> None:
        """Count *turn* no longer, and let others begin."""
        if self._held.pop(turn, self) is not self:
            self._forget(turn.holder)

    def look(self) -> None:
        """See to it that who does not keep up loses its turn when another waits for it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting and (deadlines := [turn.deadline for turn in self._kept_from_others()]):
            loop = asyncio.get_running_loop()
            if (first := min(deadlines)) < math.inf:
                self._timer = loop.call_at(first, self._expire)

    def _kept_from_others(self) -> list[Turn]:
        """Return the turns that somebody else waits for."""
        full = self._of.total() >= self.rule.turns  # else who waits, waits for a turn of its own
        holders = set(self._waiting.values())
        return [
            turn
            for turn in self._held
            if (full and holders - {turn.holder}) or (self.rule.shared and turn.holder in holders)
        ]

    def _expire(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for turn in self._kept_from_others():
            if turn.deadline <= now and turn in self._kept_from_others():
                turn.lose()
        self.look()

    def _has_room(self, holder: str) -> bool:
        return self._of.total() < self.rule.turns and self._of[holder] < self.rule.held

    async def _wait(self, holder: str, deadline: float) -> None:
        """Wait until a turn was counted for *holder*."""
        if list(self._waiting.values()).count(holder) >= self.rule.waiting or len(self._waiting) >= self.rule.queue:
            raise Busy("too many requests are waiting for a turn already")
        loop = asyncio.get_running_loop()
        given: asyncio.Future[None] = loop.create_future()
        self._waiting[given] = holder
        self.look()
        try:
            async with asyncio.timeout_at(min(deadline, loop.time() + self.rule.patience)):
                await given
        except BaseException as error:
            if self._waiting.pop(given, None) is None:  # it came, but too late
                self._forget(holder)
            if isinstance(error, TimeoutError):
                raise Busy("others' turns took too long") from None
            raise

    def _forget(self, holder: str) -> None:
        """Count one turn of *holder* less, and give on what is free."""
        self._last = holder
        self._of[holder] -= 1
        if not self._of[holder]:
            del self._of[holder]
        while (given := self._next()) is not None:
            self._of[self._waiting.pop(given)] += 1
            given.set_result(None)
        self.look()

    def _next(self) -> "asyncio.Future[None] | None":
        able = [given for given, holder in self._waiting.items() if not given.done() and self._has_room(holder)]
        return min(able, key=self._rank, default=None)  # the first of equals

    def _rank(self, given: "asyncio.Future[None]") -> tuple[int, bool]:
        holder = self._waiting[given]
        return self._of[holder], holder == self._last

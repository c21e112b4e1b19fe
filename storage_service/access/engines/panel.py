"""All engines together: they are asked at once, each counts as its stance says, and what failed is a no.

An engine whose yes or no could make no difference is not asked. Nothing is remembered from one request to the next.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from strongroom.models.access import Right
from strongroom.storage_service.access.engines.base import (
    MAX_SAID,
    Engine,
    EngineFailed,
    Outcome,
    Stance,
    action_of,
    resource_of,
)
from strongroom.storage_service.printable import printable

WIDTH: Final = 8  # questions of all batches and lists of a worker at a time; half of a server's connections
LONGEST: Final = 5.0  # seconds after which no more of one batch or list is asked
PERIOD: Final = 60.0  # seconds between two lines of the log on one engine

log = logging.getLogger(__name__)


class Seat(NamedTuple):
    """An engine, what it is called, and what its answers count for."""

    name: str
    stance: Stance
    engine: Engine


class Question(NamedTuple):
    """Whether a subject has all of *rights* to *name*; *opinion* is what all others who decide said together."""

    rights: tuple[Right, ...]
    name: str
    opinion: bool | None


class Heard(NamedTuple):
    """Whether all together allow, and what each engine that was asked said."""

    allowed: bool
    said: Mapping[str, Outcome]


_NOBODY: Final[Mapping[str, Outcome]] = {}


class Panel:
    """Asks the engines of a service."""

    def __init__(self, seats: Sequence[Seat], now: Callable[[], float] = time.monotonic) -> None:
        """Take the engines, and the log's clock."""
        self._seats = tuple(seats)
        self._now = now
        self._width = asyncio.Semaphore(WIDTH)
        self._told: dict[str, tuple[float, int]] = {}  # when the log told of an engine last, and what it did not since
        self.may_allow: Final = any(seat.stance is Stance.MAY for seat in self._seats)

    def asked(self, opinion: bool | None) -> tuple[Seat, ...]:  # it is an answer, no switch
        """Return the engines that can make a difference where the others say *opinion*."""
        if opinion is False or (opinion is None and not self.may_allow):
            return ()
        return tuple(seat for seat in self._seats if opinion is None or seat.stance is Stance.MUST)

    async def ask(self, subject: str, questions: Sequence[Question]) -> list[Heard]:
        """Return what is said of each of *questions*, in their order."""
        jobs = [(place, seat) for place, each in enumerate(questions) for seat in self.asked(each.opinion)]
        said: list[dict[str, Outcome]] = [{} for _ in questions]
        if len(questions) == 1 or len(jobs) < 2:
            outcomes = await asyncio.gather(*[self._one(subject, questions[place], seat) for place, seat in jobs])
            for (place, seat), outcome in zip(jobs, outcomes, strict=True):
                said[place][seat.name] = outcome
        else:
            await self._many(subject, questions, jobs, said)
        return [self._joined(each.opinion, heard) for each, heard in zip(questions, said, strict=True)]

    def close(self) -> None:
        """Let go of what the engines have open."""
        for seat in self._seats:
            seat.engine.close()

    async def _many(
        self,
        subject: str,
        questions: Sequence[Question],
        jobs: Sequence[tuple[int, Seat]],
        said: Sequence[dict[str, Outcome]],
    ) -> None:
        loop = asyncio.get_running_loop()
        end, left = loop.time() + LONGEST, iter(jobs)

        async def work() -> None:
            for place, seat in left:
                async with self._width:
                    if loop.time() < end:
                        said[place][seat.name] = await self._one(subject, questions[place], seat)
                    else:
                        self._tell(seat, EngineFailed("too much was asked at once"))
                        said[place][seat.name] = Outcome.FAILED

        async with asyncio.TaskGroup() as group:
            for _ in range(min(WIDTH, len(jobs))):
                group.create_task(work())

    async def _one(self, subject: str, question: Question, seat: Seat) -> Outcome:
        resource = resource_of(question.name)
        actions = [action_of(right, question.name) for right in question.rights]
        try:
            answers = await asyncio.gather(
                *[seat.engine.check(subject=subject, action=action, resource=resource) for action in actions]
            )
        except EngineFailed as error:
            self._tell(seat, error)
            return Outcome.FAILED
        return Outcome.ALLOWED if answers and all(answers) else Outcome.DENIED

    def _joined(self, opinion: bool | None, said: Mapping[str, Outcome]) -> Heard:  # as above
        if not said:
            return Heard(opinion is True and not self.asked(opinion), _NOBODY)
        yes = opinion is True
        for seat in self._seats:
            outcome = said.get(seat.name)
            if seat.stance is Stance.MUST and outcome is not Outcome.ALLOWED:
                return Heard(False, said)
            yes = yes or (seat.stance is Stance.MAY and outcome is Outcome.ALLOWED)
        return Heard(yes, said)

    def _tell(self, seat: Seat, error: EngineFailed) -> None:
        """Log a failure: the first at once, then how many there were more."""
        last, more = self._told.get(seat.name, (None, 0))
        if last is not None and self._now() - last < PERIOD:
            self._told[seat.name] = last, more + 1
            return
        self._told[seat.name] = self._now(), 0
        said = f": {printable(error.said[:MAX_SAID])}" if error.said else ""
        log.warning(
            "engine %s gave no answer: %s%s (and %d times since it was told last)", seat.name, error, said, more
        )

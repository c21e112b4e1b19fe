"""How an operation becomes attempts and pauses: the rules of the client, and none of its I/O.

An `Operation` yields each `Call` it needs and is sent the `Answer`. `converse` makes of it a `Talk` of `Send` and
`Pause`, which a face (blocking or awaiting) carries out, reporting every outcome. What may be sent twice stands here:

============================  =====  ===============  ===========
the attempt ended in          reads  guarded writes   other writes
============================  =====  ===============  ===========
Unavailable, not applied      again  again            again
Unavailable, fate unknown     again  again            no
Unavailable, applied          again  no               no
Untrusted                     no     no               no
any other error, or Locked    no     no               no
============================  =====  ===============  ===========

A guarded write names the very revision that it replaces. Revisions never come back, so it is applied at most once
however often it is sent. An error that follows an attempt of unknown fate says nothing of that attempt (`Changed` may
be its own work), so the caller is told what is true: the fate is unknown. Creating, plain saving and plain deleting
are not sent again, because between two attempts someone else may have written what the second would undo.

Unless a number is given, a call is sent as often as its time allows, so that a service that is restarted is waited for.
"""

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias, TypeVar

from strongroom.storage_service import wire
from strongroom.storage_service.errors import Fate, ServiceError, TooLarge, Unavailable, Untrusted
from strongroom.storage_service.wire.http1 import Field

T = TypeVar("T")
E = TypeVar("E", bound=ServiceError)

FIRST_PAUSE: Final = 0.05  # seconds, at most, before the first repetition; doubled for each further one
LONGEST_PAUSE: Final = 1.0  # seconds; what the service asks for with Retry-After comes on top
_LEAST: Final = 0.5  # of the longest allowed pause, so that nobody is asked without end in no time


class Effect(StrEnum):
    """What a call does to the store, as far as sending it twice goes."""

    READ = "read"
    GUARDED = "guarded write"
    WRITE = "write"


@dataclass(frozen=True, slots=True)
class Call:
    """One request. Its body and header fields may hold secrets and stay out of the repr."""

    method: str
    path: str
    effect: Effect
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    name: str = ""  # of the record that it is about; of several, what their names begin with
    says: Mapping[type[ServiceError], str] = field(default_factory=dict)  # what errors are in words of the library

    def __repr__(self) -> str:
        return f"<Call {self.method} {self.path}: a {self.effect}, {len(self.body)} bytes>"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, whole; header names in lower case. The body may hold secrets and stays out of the repr."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def request_id(self) -> str:
        """The id that it goes by, "" if by none."""
        return self.headers.get(wire.REQUEST_ID_HEADER.lower(), "")

    @classmethod
    def of(cls, status: int, fields: Iterable[Field], body: bytes) -> "Answer":
        """Return the answer that came as these."""
        return cls(status, {name.decode("latin-1"): value.decode("latin-1") for name, value in fields}, body)

    def __repr__(self) -> str:
        return f"<Answer {self.status}, {len(self.body)} bytes>"


@dataclass(frozen=True, slots=True)
class Send:
    """Send the call; this attempt may take *seconds*."""

    call: Call
    seconds: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait *seconds* before the next attempt."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to go on trying, and by which clock."""

    total: float  # seconds for one call: its attempts and pauses together
    retries: int | None  # attempts after the first, at most; None: as many as there is time for
    clock: Callable[[], float]  # monotonic seconds
    jitter: Callable[[], float]  # 0 to 1: which part of the longest allowed pause to take, from its half to all of it


Operation: TypeAlias = Generator[Call, Answer, T]
Outcome: TypeAlias = Answer | Unavailable
Talk: TypeAlias = Generator[Send | Pause, Outcome | None, T]


def converse(operation: Operation[T], patience: Patience) -> Talk[T]:
    """Carry *operation* through to its result.

    Raises:
        ServiceError: what the service answered, or `Unavailable` where no attempt got an answer.
    """
    answer: Answer | TooLarge | None = None
    call: Call | None = None
    while True:
        try:
            if isinstance(answer, TooLarge):
                call = operation.throw(answer)
            else:
                call = next(operation) if answer is None else operation.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result
        except ServiceError as error:
            if call is not None and isinstance(answer, Answer):
                _tell(error, call, answer.request_id)
            raise
        try:
            answer = yield from _attempts(call, patience)
        except TooLarge as error:
            answer = error  # the operation's own affair: it may ask for less


def may_repeat(effect: Effect, error: ServiceError) -> bool:
    """Whether a call that ended in *error* may be sent again: the table above."""
    if not isinstance(error, Unavailable) or isinstance(error, Untrusted):
        return False
    match effect:
        case Effect.READ:
            return True
        case Effect.GUARDED:
            return error.fate is not Fate.APPLIED
        case Effect.WRITE:
            return error.fate is Fate.NOT_APPLIED


def _attempts(call: Call, patience: Patience) -> Talk[Answer]:
    deadline = patience.clock() + patience.total
    doubt: Unavailable | None = None  # an attempt that may have been applied
    told: Unavailable | None = None  # what the service said of an attempt before
    attempt = 0
    while True:
        outcome = yield Send(call, deadline - patience.clock())
        if isinstance(outcome, Answer) and 200 <= outcome.status < 300:
            return outcome
        error = _error(call, outcome)
        if isinstance(error, Unavailable) and error.fate is not Fate.NOT_APPLIED:
            doubt = error
        if isinstance(error, Unavailable) and error.told:
            told = error
        pause = _asked_for(outcome) + _pause(attempt, patience.jitter())
        too_late = attempt == patience.retries or patience.clock() + pause >= deadline
        if too_late or not may_repeat(call.effect, error):
            # Where the time runs out on the last attempt, the service has said before what is wrong.
            raise doubt or (told if told is not None and patience.clock() >= deadline else error)
        yield Pause(pause)
        attempt += 1


def _pause(attempt: int, jitter: float) -> float:
    longest = min(FIRST_PAUSE * (1 << min(attempt, 16)), LONGEST_PAUSE)
    return longest * (_LEAST + (1 - _LEAST) * jitter)


def _error(call: Call, outcome: Outcome | None) -> ServiceError:
    if isinstance(outcome, Answer):
        error = wire.error_of(outcome.status, outcome.body)
        error.request_id = outcome.request_id
    elif outcome is None:
        raise RuntimeError("a Send is answered with its outcome")
    else:
        error = outcome
    if call.effect is Effect.READ and isinstance(error, Unavailable) and error.fate is not Fate.NOT_APPLIED:
        plain = Unavailable(error.text)  # what changes nothing was not applied, whatever the answer says
        plain.told, plain.request_id = error.told, error.request_id
        error = plain
    return _tell(error, call, error.request_id)


def _tell(error: E, call: Call, request_id: str) -> E:
    """Return *error* with what it is of: record and request, in the words of the library."""
    if said := call.says.get(type(error)):
        error.args = (said,)
    error.name = error.name or call.name
    error.request_id = request_id
    return error


def _asked_for(outcome: Outcome | None) -> float:
    """Return the seconds that the service asks to be left alone (RFC 9110 sec. 10.2.3; its form in seconds)."""
    asked = outcome.headers.get("retry-after", "") if isinstance(outcome, Answer) else ""
    return float(asked) if asked.isdecimal() and asked.isascii() else 0.0

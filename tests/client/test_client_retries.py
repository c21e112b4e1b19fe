"""The rules of repeating, with no I/O: what is sent again, when, and what the caller is told."""

from collections.abc import Iterator
from typing import Any

import pytest

from strongroom.storage_service import errors, wire
from strongroom.storage_service.client.retries import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    Answer,
    Call,
    Effect,
    Operation,
    Outcome,
    Patience,
    Pause,
    Send,
    converse,
    may_repeat,
)
from strongroom.storage_service.errors import Fate, Unavailable, Untrusted

OK = Answer(200, {}, b"done")


def answer(error: errors.ServiceError, **headers: str) -> Answer:
    """Return the answer that *error* makes on the wire."""
    status, _, body = wire.problem_response(error, "request-1")
    return Answer(status, headers, body)


LOST = Unavailable("cut", Fate.UNKNOWN)
REFUSED = Unavailable("refused", Fate.NOT_APPLIED)
APPLIED = Unavailable("half an answer", Fate.APPLIED)
CHANGED = answer(errors.Changed("changed"))
STORE_AWAY = answer(Unavailable("away", Fate.NOT_APPLIED))
STORE_IN_DOUBT = answer(Unavailable("away", Fate.UNKNOWN))
LOCKED = answer(errors.Locked("locked"))


class Told:
    """Carries out a talk: plays *outcomes* in order, and notes what was sent and paused by a clock of its own."""

    def __init__(
        self, outcomes: list[Outcome], *, retries: int | None = 3, total: float = 10.0, jitter: float = 0.0
    ) -> None:
        self.now = 1000.0
        self.sent: list[float] = []  # seconds each attempt was given
        self.pauses: list[float] = []
        self._outcomes: Iterator[Outcome] = iter(outcomes)
        self.took = 0.0  # seconds each attempt takes
        self._patience = Patience(total=total, retries=retries, clock=lambda: self.now, jitter=lambda: jitter)

    def carry_out(self, operation: Operation[Any]) -> Any:
        talk = converse(operation, self._patience)
        outcome: Outcome | None = None
        while True:
            try:
                act = talk.send(outcome)
            except StopIteration as done:
                return done.value
            if isinstance(act, Pause):
                self.pauses.append(act.seconds)
                self.now += act.seconds
                outcome = None
            else:
                assert isinstance(act, Send)
                self.sent.append(act.seconds)
                self.now += self.took
                outcome = next(self._outcomes)


def one(effect: Effect) -> Operation[bytes]:
    """An operation of one call."""
    return (yield Call("POST", "/x", effect)).body


READ, GUARDED, WRITE = Effect.READ, Effect.GUARDED, Effect.WRITE

STORIES: dict[str, tuple[Effect, list[Outcome], int, type[errors.ServiceError] | bytes, Fate | None]] = {
    # story: effect, outcomes in order, attempts made, what the caller gets, and the fate of an error
    "an answer is the end": (WRITE, [OK], 1, b"done", None),
    "a read that found nobody is sent again": (READ, [REFUSED, OK], 2, b"done", None),
    "a read whose answer was cut is sent again": (READ, [LOST, OK], 2, b"done", None),
    "a read the store had no answer for is sent again": (READ, [STORE_IN_DOUBT, OK], 2, b"done", None),
    "a read that never succeeds was not applied": (READ, [LOST] * 4, 4, Unavailable, Fate.NOT_APPLIED),
    "a write that found nobody is sent again": (WRITE, [REFUSED, OK], 2, b"done", None),
    "a write the store refused is sent again": (WRITE, [STORE_AWAY, OK], 2, b"done", None),
    "a write that was cut is not sent again": (WRITE, [LOST], 1, Unavailable, Fate.UNKNOWN),
    "a write the store is unsure of is not": (WRITE, [STORE_IN_DOUBT], 1, Unavailable, Fate.UNKNOWN),
    "a write that found nobody, then was cut": (WRITE, [REFUSED, LOST], 2, Unavailable, Fate.UNKNOWN),
    "a guarded write that was cut is sent again": (GUARDED, [LOST, OK], 2, b"done", None),
    "a guarded write known as done is not": (GUARDED, [APPLIED], 1, Unavailable, Fate.APPLIED),
    "changed, at the first attempt, is changed": (GUARDED, [CHANGED], 1, errors.Changed, Fate.NOT_APPLIED),
    "changed, after nothing was applied, is changed": (
        GUARDED,
        [REFUSED, CHANGED],
        2,
        errors.Changed,
        Fate.NOT_APPLIED,
    ),
    "changed, after a cut, may be our own doing": (GUARDED, [LOST, CHANGED], 2, Unavailable, Fate.UNKNOWN),
    "no listener, after a cut, leaves the doubt": (
        GUARDED,
        [LOST, REFUSED, REFUSED, REFUSED],
        4,
        Unavailable,
        Fate.UNKNOWN,
    ),
    "refused after a cut leaves the doubt": (GUARDED, [LOST, LOCKED], 2, Unavailable, Fate.UNKNOWN),
    "a locked service needs a person, not a repetition": (READ, [LOCKED], 1, errors.Locked, Fate.NOT_APPLIED),
}


@pytest.mark.parametrize("story", STORIES)
def test_repeats_what_is_safe_and_says_what_is_true(story: str) -> None:
    """Each story ends as the table says: in so many attempts, with that result, and with that fate."""
    effect, outcomes, attempts, result, fate = STORIES[story]
    told = Told(outcomes)

    if isinstance(result, bytes):
        assert told.carry_out(one(effect)) == result
    else:
        with pytest.raises(result) as caught:
            told.carry_out(one(effect))
        assert caught.value.fate == fate
    assert len(told.sent) == attempts


@pytest.mark.parametrize(
    "code", [code for code, row in wire.PROBLEMS.items() if not issubclass(row.error, Unavailable)]
)
@pytest.mark.parametrize("effect", Effect)
def test_nothing_but_unavailable_is_repeated(code: str, effect: Effect) -> None:
    """An error that says what is wrong is the answer, whatever the call."""
    assert not may_repeat(effect, wire.PROBLEMS[code].error("reason"))


@pytest.mark.parametrize(("jitter", "part"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
def test_pauses_double_up_to_the_longest_and_are_jittered(jitter: float, part: float) -> None:
    """The pauses are 50 ms, 100 ms … 1 s, or down to half of that, as the jitter says."""
    told = Told([REFUSED] * 8 + [OK], retries=8, total=100.0, jitter=jitter)
    told.carry_out(one(READ))

    assert told.pauses == pytest.approx([part * min(FIRST_PAUSE * 2**n, LONGEST_PAUSE) for n in range(8)])


@pytest.mark.parametrize("jitter", [0.0, 1.0])
def test_without_a_number_the_time_is_used_up(jitter: float) -> None:
    """A service that is away for nine of ten seconds is waited for, and not asked more than a few times a second."""
    told = Told([REFUSED] * 100, retries=None, total=10.0, jitter=jitter)
    with pytest.raises(Unavailable):
        told.carry_out(one(READ))

    assert told.now >= 1009.0
    assert len(told.sent) <= 25


@pytest.mark.parametrize("away", [STORE_AWAY, STORE_IN_DOUBT])
def test_what_the_service_said_is_told_when_time_runs_out(away: Answer) -> None:
    """A service that says what is wrong is not blamed for no answer because the last attempt came too late for one."""
    said = Told([away, LOST])
    said.took = 6.0
    with pytest.raises(Unavailable, match="The service or its store cannot do this now") as caught:
        said.carry_out(one(READ))
    assert (caught.value.told, caught.value.fate) == (True, Fate.NOT_APPLIED)

    gone = Told([away, REFUSED, REFUSED, REFUSED])
    with pytest.raises(Unavailable, match="refused"):  # there was time enough: it is gone by now
        gone.carry_out(one(READ))
    doubt = Told([STORE_AWAY, LOST])
    doubt.took = 6.0
    with pytest.raises(Unavailable, match="cut"):
        doubt.carry_out(one(WRITE))


def test_who_is_not_trusted_is_not_asked_again() -> None:
    """A certificate does not become trusted by asking again, and the caller sees what it is."""
    told = Told([Untrusted("its certificate is not trusted")])
    with pytest.raises(Untrusted, match="is not trusted"):
        told.carry_out(one(READ))

    assert len(told.sent) == 1


def test_retry_after_comes_on_top_of_the_pause() -> None:
    """The service is left alone for as long as it asks, and a jittered moment more."""
    away = answer(Unavailable("away", Fate.NOT_APPLIED), **{"retry-after": "3"})
    told = Told([away, OK], jitter=1.0)
    told.carry_out(one(WRITE))

    assert told.pauses == [3 + FIRST_PAUSE]


@pytest.mark.parametrize("asked", ["soon", "-1", "1.5", "", "Wed, 21 Oct 2026 07:28:00 GMT", "\u0663"])
def test_a_retry_after_that_is_no_number_of_seconds_is_not_heeded(asked: str) -> None:
    """Only digits are a number of seconds."""
    told = Told([answer(Unavailable("away", Fate.NOT_APPLIED), **{"retry-after": asked}), OK])
    told.carry_out(one(WRITE))

    assert told.pauses == [FIRST_PAUSE / 2]


def test_no_pause_that_would_outlast_the_patience() -> None:
    """If the pause would end after the deadline, the caller is told at once instead of then."""
    told = Told([answer(Unavailable("away", Fate.NOT_APPLIED), **{"retry-after": "30"})], total=10.0)

    with pytest.raises(Unavailable):
        told.carry_out(one(READ))
    assert told.pauses == []


def test_attempts_share_one_deadline() -> None:
    """Each attempt is given what the ones before, and the pauses, have left of the total."""
    told = Told([REFUSED, REFUSED, OK], total=10.0, jitter=1.0)
    told.took = 4.0
    told.carry_out(one(READ))

    assert told.sent == pytest.approx([10.0, 6.0 - FIRST_PAUSE, 2.0 - 3 * FIRST_PAUSE])


def test_zero_retries_is_one_attempt() -> None:
    """With retries=0 nothing is repeated."""
    told = Told([REFUSED], retries=0)

    with pytest.raises(Unavailable):
        told.carry_out(one(READ))


def test_each_call_of_an_operation_has_its_own_patience() -> None:
    """An operation of several calls is not cut short by the time that the first ones took."""

    def two() -> Operation[bytes]:
        first = yield Call("GET", "/1", READ)
        second = yield Call("GET", "/2", READ)
        return first.body + second.body

    told = Told([OK, OK], total=10.0)
    told.took = 8.0

    assert told.carry_out(two()) == b"donedone"
    assert told.sent == [10.0, 10.0]


def test_what_is_no_success_and_no_problem_of_ours_is_an_error() -> None:
    """A redirection, or another server's error page, is never taken for an answer."""
    for status in (101, 301, 304, 502):
        with pytest.raises(errors.Internal):
            Told([Answer(status, {}, b"<html>")]).carry_out(one(READ))


def test_a_refusal_of_the_connection_itself_is_the_requests_fault() -> None:
    """A type that has no class, with a status of the client's, is `Invalid`, and says what was said."""
    body = (
        b'{"type":"urn:strongroom:problem:head-too-large","title":"x","status":431,"detail":"too many header fields"}'
    )
    with pytest.raises(errors.Invalid, match="too many header fields"):
        Told([Answer(431, {}, body)]).carry_out(one(READ))


def test_reprs_show_no_body_and_no_header() -> None:
    """Calls and answers are shown by kind and size."""
    call = Call("PUT", "/secrets/db/p", WRITE, b"hunter2", {"If-Match": "hunter2"})

    assert repr(call) == "<Call PUT /secrets/db/p: a write, 7 bytes>"
    assert repr(Answer(200, {"etag": "hunter2"}, b"hunter2")) == "<Answer 200, 7 bytes>"
    assert "hunter2" not in repr(Send(call, 1.0))

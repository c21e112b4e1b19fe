"""The breaker: a cluster that does not answer is left alone, and found again."""

import asyncio
import signal
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Final, NamedTuple

import pytest

from strongroom.storage_service.backends import open_backend
from strongroom.storage_service.backends.base import Backend, Check, Put
from strongroom.storage_service.backends.etcd.breaker import FAILURES, FIRST_WAIT, LONGEST_WAIT, Breaker
from strongroom.storage_service.backends.etcd.failures import CallFailed
from strongroom.storage_service.errors import Fate, Locked, Unavailable
from strongroom.storage_service.wire import RETRY_AFTER, problem_response
from tests.etcd_server import Etcd, Member, running

TIMEOUT: Final = 1.0  # seconds of an operation
AT_ONCE: Final = 0.2  # seconds, on a busy machine


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """Run an etcd of one member that tests may stop and start."""
    with running(tmp_path_factory.mktemp("mortal")) as store:
        yield store


@asynccontextmanager
async def opened(url: str, timeout: float = TIMEOUT) -> AsyncGenerator[Backend, None]:
    """Give an opened backend with a short timeout."""
    backend = open_backend(url, timeout=str(timeout))
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()


class Absence(NamedTuple):
    """A way for a member to be away, and to come back."""

    title: str
    leave: Callable[[Member], None]
    come: Callable[[Member], None]


ABSENCES: Final = [
    Absence("a port on which nothing listens", Member.kill, Member.restart),
    Absence(
        "a member that hangs",
        lambda member: member.signal(signal.SIGSTOP),
        lambda member: member.signal(signal.SIGCONT),
    ),
]


async def refused(backend: Backend) -> tuple[Unavailable, float]:
    """Return how a read failed, and how long it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(Unavailable) as caught:
        await backend.get("a")
    return caught.value, loop.time() - began


@pytest.mark.parametrize("absence", ABSENCES, ids=lambda absence: absence.title.replace(" ", "-"))
async def test_a_cluster_that_is_away_is_refused_at_once(mortal: Etcd, absence: Absence) -> None:
    """After five failures operations fail at once, nothing applied, and say when to ask again; then all goes on."""
    (member,) = mortal.members
    async with opened(mortal.url("away")) as backend:
        revision = await backend.commit([Put("a", b"one")])
        absence.leave(member)
        for number in range(FAILURES):
            failure, took = await refused(backend)
            assert failure.retry_after is None, number
            assert took > TIMEOUT / 2
        loop = asyncio.get_running_loop()
        began = loop.time()
        operations = [
            *(backend.get("a") for _ in range(50)),
            *(backend.get_many(["a"]), backend.list("")),
            *(backend.commit([Put("a", b"two")]), backend.commit([Check("a", revision)])),
        ]
        answers = await asyncio.gather(*operations, return_exceptions=True)
        assert loop.time() - began < AT_ONCE
        for answer in answers:
            assert isinstance(answer, Unavailable)
            assert answer.fate is Fate.NOT_APPLIED
            assert answer.retry_after is not None
            assert 0 < answer.retry_after <= FIRST_WAIT

        absence.come(member)
        async with asyncio.timeout(20):
            while True:
                with suppress(Unavailable):
                    entry = await backend.get("a")
                    break
                await asyncio.sleep(0.02)
        assert entry is not None
        assert entry.value == b"one"
        assert await backend.commit([Put("a", b"three", entry.revision)]) > revision
        assert await asyncio.gather(*(backend.get("a") for _ in range(50)))


async def test_one_asks_while_the_others_are_refused(mortal: Etcd) -> None:
    """When the wait is over, one operation asks for its whole timeout; those that come meanwhile still fail at once."""
    (member,) = mortal.members
    async with opened(mortal.url("probe")) as backend:
        await backend.commit([Put("a", b"one")])
        member.signal(signal.SIGSTOP)
        await asyncio.gather(*(refused(backend) for _ in range(FAILURES)))
        await asyncio.sleep(FIRST_WAIT)
        answers = await asyncio.gather(*(refused(backend) for _ in range(20)))
        member.signal(signal.SIGCONT)

        slow = [failure for failure, took in answers if took > AT_ONCE]
        assert [failure.retry_after for failure in slow] == [None]
        assert all(failure.retry_after == FIRST_WAIT for failure, took in answers if took <= AT_ONCE)


async def test_one_that_comes_back_is_noticed_while_it_is_asked(mortal: Etcd) -> None:
    """A member that comes back while an operation asks is noticed by it, and everybody is let in again."""
    (member,) = mortal.members
    async with opened(mortal.url("back"), 4 * TIMEOUT) as backend:
        await backend.commit([Put("a", b"one")])
        member.kill()
        await asyncio.gather(*(refused(backend) for _ in range(FAILURES)))
        await asyncio.sleep(FIRST_WAIT)
        probe = asyncio.create_task(backend.get("a"))
        await asyncio.sleep(0.05)
        member.restart()

        assert await probe
        assert all(await asyncio.gather(*(backend.get("a") for _ in range(20))))


async def test_a_caller_that_goes_while_it_asks_leaves_the_question_to_the_next(mortal: Etcd) -> None:
    """A probe that is cancelled neither keeps the others out nor makes them wait longer."""
    (member,) = mortal.members
    async with opened(mortal.url("cancelled")) as backend:
        await backend.commit([Put("a", b"one")])
        member.signal(signal.SIGSTOP)
        await asyncio.gather(*(refused(backend) for _ in range(FAILURES)))
        await asyncio.sleep(FIRST_WAIT)
        probe = asyncio.create_task(backend.get("a"))
        await asyncio.sleep(0.05)
        probe.cancel()
        with suppress(asyncio.CancelledError):
            await probe
        next_one = asyncio.create_task(backend.get("a"))
        await asyncio.sleep(0)
        member.signal(signal.SIGCONT)

        assert await next_one


async def test_a_cluster_that_loses_one_member_is_not_left_alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    """While another member answers, no operation is refused, however often the first is tried in vain."""
    with running(tmp_path_factory.mktemp("three"), members=3) as cluster:
        follower = next(member for member in cluster.members if member is not cluster.leader())
        endpoints = ",".join(m.endpoint for m in (follower, *(m for m in cluster.members if m is not follower)))
        backend = open_backend(f"etcd://{endpoints}", timeout="5")
        await backend.open()
        await backend.commit([Put("a", b"one")])
        follower.kill()

        assert all(await asyncio.gather(*(backend.get("a") for _ in range(4 * FAILURES))))
        await backend.close()


# The breaker by itself: it reads no clock.


def opened_breaker(now: float) -> Breaker:
    """Return one that has just opened."""
    breaker = Breaker()
    for _ in range(FAILURES):
        assert not breaker.admit(now)
        breaker.unanswered(now)
    return breaker


def test_waits_double_up_to_the_longest() -> None:
    """Each probe in vain doubles the wait, from one second to thirty; between two, nobody is let in."""
    now = 100.0
    breaker = opened_breaker(now)
    waits = []
    for _ in range(8):
        with pytest.raises(CallFailed) as caught:
            breaker.admit(now)
        assert caught.value.retry_after is not None
        waits.append(caught.value.retry_after)
        now += caught.value.retry_after
        with pytest.raises(CallFailed):
            breaker.admit(now - 0.001)
        assert breaker.admit(now)
        breaker.unanswered(now)
        breaker.probed(now, cut_short=False)

    assert waits == [FIRST_WAIT, 2, 4, 8, 16, LONGEST_WAIT, LONGEST_WAIT, LONGEST_WAIT]


def test_failures_count_in_a_row() -> None:
    """One answer in between begins the count anew, and one while it is open closes it and begins the waits anew."""
    breaker = Breaker()
    for _ in range(3):
        for _ in range(FAILURES - 1):
            breaker.unanswered(0)
        breaker.answered()
    assert not breaker.admit(0)

    breaker = opened_breaker(0)
    assert breaker.admit(FIRST_WAIT)
    breaker.probed(FIRST_WAIT, cut_short=False)
    breaker.answered()
    assert not breaker.admit(FIRST_WAIT)
    for _ in range(FAILURES):
        breaker.unanswered(50)
    assert breaker.admit(50 + FIRST_WAIT)


def test_late_failures_do_not_lengthen_the_wait() -> None:
    """Operations that began before it opened, and fail after that, change nothing."""
    breaker = opened_breaker(0)
    for _ in range(100):
        breaker.unanswered(0.5)

    assert breaker.admit(FIRST_WAIT)


# On the wire.


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (Unavailable("", retry_after=0.001), 1),
        (Unavailable("", retry_after=29.2), 30),
        (Unavailable(""), RETRY_AFTER),
        (Locked(""), RETRY_AFTER),
    ],
)
def test_the_answer_says_when_to_ask_again(error: Unavailable | Locked, says: int) -> None:
    """Retry-After is what the error knows, in whole seconds and never too early, or else what every 503 has."""
    _, headers, _ = problem_response(error, "00000000")

    assert dict(headers)[b"retry-after"] == b"%d" % says

"""Writes to etcd whose answer is lost are settled: applied once, or not at all, or said to be unknown."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import count
from typing import Final, NamedTuple

import pytest

from strongroom.storage_service.backends import open_backend
from strongroom.storage_service.backends.base import ABSENT, MAX_BATCH, Backend, Check, Conflict, Delete, Entry, Put
from strongroom.storage_service.errors import Fate, Unavailable
from tests.etcd_server import Etcd
from tests.tcp_fault import Fault, TcpFault

NONE, LOSE_REQUEST, LOSE_REPLY, HOLD, SWALLOW = Fault

PATIENT: Final = 20.0  # seconds; an attempt has 8 of them, and no test waits for that
SHORT: Final = 2.0  # seconds, where a test does; an attempt has 0.8 of them
_NUMBERS: Final = count()


class Scene(NamedTuple):
    """A store seen through a faulty network by one backend, and directly by another."""

    etcd: Etcd
    prefix: str
    network: TcpFault
    backend: Backend
    other: Backend

    def versions(self) -> dict[str, int]:
        """Return how often each name has been written since it was made, receipts left out."""
        with self.etcd.admin() as admin:
            keys = admin.keys(f"/{self.prefix}/")
        names = {key.removeprefix(f"/{self.prefix}/"): kv.version for key, kv in keys.items()}
        return {name: version for name, version in names.items() if not name.startswith("~")}


@asynccontextmanager
async def opened(url: str, timeout: float = PATIENT) -> AsyncGenerator[Backend, None]:
    """Give an opened backend."""
    backend = open_backend(url, timeout=str(timeout))
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()


@asynccontextmanager
async def scene(etcd: Etcd, also_direct: bool = False, timeout: float = PATIENT) -> AsyncGenerator[Scene, None]:
    """Open both backends; *also_direct* gives the first a second member to go to, past the network."""
    prefix = f"lost-{next(_NUMBERS)}"
    async with TcpFault(etcd.members[0].endpoint).running() as network:
        endpoints = f"{network.endpoint},{etcd.endpoints}" if also_direct else network.endpoint
        async with opened(f"etcd://{endpoints}/{prefix}", timeout) as backend, opened(etcd.url(prefix)) as other:
            yield Scene(etcd, prefix, network, backend, other)
            network.say(())


class Story(NamedTuple):
    """A script for the network, and what becomes of a commit that makes a name."""

    title: str
    script: tuple[Fault, ...]
    requests: int  # that the commit costs


@pytest.mark.parametrize(
    "story",
    [
        Story("no fault", (), 1),
        Story("the request is lost", (LOSE_REQUEST,), 3),
        Story("the request is lost, and the settling", (LOSE_REQUEST, LOSE_REQUEST), 4),
        Story("the request is lost, and the settling's reply", (LOSE_REQUEST, LOSE_REPLY), 4),
        Story("the request is lost twice", (LOSE_REQUEST, NONE, LOSE_REQUEST), 5),
        Story("the reply is lost", (LOSE_REPLY,), 2),
        Story("the reply is lost, and the settling", (LOSE_REPLY, LOSE_REQUEST), 3),
        Story("the reply is lost, and the settling's reply", (LOSE_REPLY, LOSE_REPLY), 3),
        Story("the request is lost, then the reply", (LOSE_REQUEST, NONE, LOSE_REPLY), 4),
    ],
    ids=lambda story: story.title.replace(" ", "-"),
)
async def test_a_lost_write_is_applied_once(etcd: Etcd, story: Story) -> None:
    """Whatever is lost, a commit through a network that heals is applied exactly once, with the revision it says."""
    async with scene(etcd) as at:
        at.network.say(story.script)
        before = at.network.requests
        revision = await at.backend.commit([Put("a", b"one", ABSENT), Put("b", b"one")])

        assert at.network.requests - before == story.requests
        assert at.versions() == {"a": 1, "b": 1}
        entry = await at.backend.get("a")
        assert entry is not None
        assert entry.revision == revision

        after = await at.backend.commit([Put("a", b"two", revision)])
        assert after > revision


async def test_many_writers_on_a_bad_network_lose_and_double_nothing(etcd: Etcd) -> None:
    """Where every twentieth message breaks the connection of all, each write is applied once, as it was answered."""
    dice = random.Random(7)
    async with scene(etcd) as at:
        at.network.say(dice.choice([LOSE_REQUEST, LOSE_REPLY, *[NONE] * 38]) for _ in range(10_000))
        names = [[f"w/{writer}/{number}" for number in range(25)] for writer in range(8)]

        async def write(writer: int) -> dict[str, int]:
            return {name: await at.backend.commit([Put(name, b"", ABSENT)]) for name in names[writer]}

        answered = await asyncio.gather(*(write(writer) for writer in range(8)))
        at.network.say(())

        assert set(at.versions().values()) == {1}
        for revisions in answered:
            stored = await at.other.get_many(list(revisions))
            assert {name: entry.revision for name, entry in stored.items()} == revisions


async def test_a_lost_delete_is_applied_once(etcd: Etcd) -> None:
    """A guarded delete whose reply is lost is answered as done, where doing it again would be a conflict."""
    async with scene(etcd) as at:
        revision = await at.backend.commit([Put("a", b"one")])
        at.network.say([LOSE_REPLY])

        assert await at.backend.commit([Delete("a", revision)]) > revision
        assert await at.other.get("a") is None


@pytest.mark.parametrize("fault", [LOSE_REQUEST, LOSE_REPLY])
async def test_a_lost_conflict_is_a_conflict(etcd: Etcd, fault: Fault) -> None:
    """A commit whose guards do not hold is a conflict, also when its answer is lost on the way."""
    async with scene(etcd) as at:
        await at.other.commit([Put("a", b"there")])
        at.network.say([fault])

        with pytest.raises(Conflict):
            await at.backend.commit([Put("a", b"one", ABSENT)])
        assert at.versions() == {"a": 1}


async def test_anothers_like_write_is_not_taken_for_ours(etcd: Etcd) -> None:
    """When a request is lost and another writes the same, ours is a conflict: reading back would have been misled."""
    async with scene(etcd) as at:
        at.network.say([LOSE_REQUEST, HOLD])
        ours = asyncio.create_task(at.backend.commit([Put("a", b"same", ABSENT)]))
        await at.network.held.wait()
        await at.other.commit([Put("a", b"same", ABSENT)])
        at.network.release()

        with pytest.raises(Conflict):
            await ours


async def test_anothers_later_write_does_not_hide_ours(etcd: Etcd) -> None:
    """When a reply is lost and another writes over it, ours is answered as applied, with its own revision."""
    async with scene(etcd) as at:
        await at.backend.commit([Put("warm", b"")])
        at.network.say([LOSE_REPLY, HOLD])
        ours = asyncio.create_task(at.backend.commit([Put("a", b"ours")]))
        await at.network.held.wait()
        entry = await at.other.get("a")
        assert entry is not None
        theirs = await at.other.commit([Put("a", b"theirs", entry.revision)])
        at.network.release()

        assert await ours == entry.revision < theirs
        assert (await at.backend.get("a")) == (await at.other.get("a"))


async def test_a_late_write_comes_too_late(etcd: Etcd) -> None:
    """A request that reaches etcd after it was settled, and done again elsewhere, changes nothing."""
    async with scene(etcd, also_direct=True, timeout=SHORT) as at:
        at.network.say([HOLD])
        revision = await at.backend.commit([Put("a", b"one")])
        await at.network.cancelled.wait()
        assert at.versions() == {"a": 1}

        at.network.release()
        await asyncio.wait_for(at.network.answered.wait(), 5)
        assert at.versions() == {"a": 1}
        entry = await at.backend.get("a")
        assert entry is not None
        assert entry.revision == revision


async def test_a_late_write_does_not_come_between(etcd: Etcd) -> None:
    """A request that arrives after it was settled, and before it is done again, is not taken for another's write."""
    direct = etcd.endpoints
    async with TcpFault(direct).running() as first, TcpFault(direct).running() as second:
        url = f"etcd://{first.endpoint},{second.endpoint}/between"
        async with opened(url, SHORT) as backend, opened(etcd.url("between")) as other:
            first.say([HOLD])
            second.say([NONE, HOLD])  # settling it passes, doing it again waits
            ours = asyncio.create_task(backend.commit([Put("a", b"one", ABSENT)]))
            await second.held.wait()
            await first.cancelled.wait()
            first.release()
            await asyncio.wait_for(first.answered.wait(), 5)
            second.release()

            revision = await ours
            assert await other.get("a") == Entry(b"one", revision)


async def test_a_write_into_silence_is_unknown(etcd: Etcd) -> None:
    """A commit that vanishes with all that follows it is Unavailable, its fate unknown; afterwards all goes on."""
    async with scene(etcd, timeout=SHORT) as at:
        at.network.say([SWALLOW])
        with pytest.raises(Unavailable) as caught:
            await at.backend.commit([Put("a", b"one")])
        assert caught.value.fate is Fate.UNKNOWN

        at.network.cut()
        assert await at.backend.commit([Put("a", b"two")]) > 0
        assert at.versions() == {"a": 1}


async def test_a_full_batch_has_no_receipt(etcd: Etcd) -> None:
    """A batch that fills etcd's limit cannot be settled: with its reply lost, its fate is unknown, not guessed."""
    async with scene(etcd) as at:
        batch = [Put(f"n/{number}", b"") for number in range(MAX_BATCH)]
        at.network.say([LOSE_REPLY])
        with pytest.raises(Unavailable) as caught:
            await at.backend.commit(batch)

        assert caught.value.fate is Fate.UNKNOWN
        assert len(at.versions()) == MAX_BATCH


async def test_a_cancelled_write_is_settled_before_the_next(etcd: Etcd) -> None:
    """What a cancelled commit left open is closed by the next one, so that it cannot be applied later."""
    async with scene(etcd, also_direct=True, timeout=SHORT) as at:
        at.network.say([HOLD])
        ours = asyncio.create_task(at.backend.commit([Put("a", b"cancelled")]))
        await at.network.held.wait()
        ours.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ours
        await at.network.cancelled.wait()
        await at.backend.commit([Put("a", b"kept")])

        at.network.release()
        await asyncio.wait_for(at.network.answered.wait(), 5)
        entry = await at.other.get("a")
        assert entry is not None
        assert entry.value == b"kept"


async def test_a_cancelled_write_is_not_taken_for_the_next(etcd: Etcd) -> None:
    """That a cancelled commit was applied says nothing of the next one, whose request is lost."""
    async with scene(etcd) as at:
        at.network.say([HOLD])
        ours = asyncio.create_task(at.backend.commit([Put("a", b"cancelled")]))
        await at.network.held.wait()
        ours.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ours
        await at.network.cancelled.wait()
        at.network.release()
        await asyncio.wait_for(at.network.answered.wait(), 5)
        at.network.say([LOSE_REQUEST, LOSE_REQUEST])
        revision = await at.backend.commit([Put("a", b"kept")])

        assert await at.other.get("a") == Entry(b"kept", revision)


@pytest.mark.parametrize("script", [(LOSE_REQUEST,), (LOSE_REPLY,), (LOSE_REPLY, LOSE_REQUEST)])
async def test_reads_are_asked_again(etcd: Etcd, script: tuple[Fault, ...]) -> None:
    """A read through a network that heals is answered, whatever was lost of it; so is a batch of mere guards."""
    async with scene(etcd) as at:
        revision = await at.other.commit([Put("a", b"one")])
        for read in (
            lambda: at.backend.get("a"),
            lambda: at.backend.get_many(["a"]),
            lambda: at.backend.list(""),
            lambda: at.backend.commit([Check("a", revision)]),
        ):
            at.network.say(script)
            assert await read()
            assert not at.network.script


async def test_reading_many_survives_a_forgotten_moment(etcd: Etcd) -> None:
    """When etcd compacts the moment of a reading's first part before its second, the whole is read anew."""
    async with scene(etcd) as at:
        names = [f"m/{number:03}" for number in range(MAX_BATCH + 1)]
        await at.other.commit([Put(name, b"old") for name in names[:MAX_BATCH]])
        await at.other.commit([Put(names[-1], b"old")])
        at.network.say([NONE, HOLD])
        reading = asyncio.create_task(at.backend.get_many(names))
        await at.network.held.wait()
        await at.other.commit([Put(names[0], b"new"), Put(names[-1], b"new")])
        with etcd.admin() as admin:
            admin.compact()
        at.network.release()

        got = await reading
        assert len(got) == len(names)
        assert (got[names[0]].value, got[names[-1]].value) == (b"new", b"new")


async def test_reading_many_is_of_the_first_parts_moment(etcd: Etcd) -> None:
    """What is written between two parts of a reading is not seen by it."""
    async with scene(etcd) as at:
        names = [f"m/{number:03}" for number in range(MAX_BATCH + 1)]
        await at.other.commit([Put(names[0], b"old"), Put(names[-1], b"old")])
        at.network.say([NONE, HOLD])
        reading = asyncio.create_task(at.backend.get_many(names))
        await at.network.held.wait()
        await at.other.commit([Put(names[0], b"new"), Put(names[-1], b"new")])
        at.network.release()

        assert {name: entry.value for name, entry in (await reading).items()} == {names[0]: b"old", names[-1]: b"old"}

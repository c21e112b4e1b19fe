"""Apply, scrub and rollback, killed at every operation on the store and on the source, one after the other.

Each story is told once for each operation: it is cut off there, and another process looks at what is left. No secret
is lost: it lies at the source or in the service. Begun again, the verb comes to the same end as if nothing had been;
and rolled back instead, both sides are exactly as they were before the migration.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import pytest

from strongroom.migration.compare import Policy
from strongroom.migration.records import Record
from strongroom.models import Host, Network, NetworkType
from strongroom.models.secret import Secret
from strongroom.storage_service.backends import open_backend
from strongroom.storage_service.backends.base import Backend
from strongroom.storage_service.backends.faulty import Fault, FaultyBackend, Killed
from strongroom.storage_service.backends.memory import MemoryBackend
from tests.migration.moving import Mover, another, contents, kept, lay_down, lying, moving, rows_of, sealed_in
from tests.migration.sources.memory import MemoryEstate

Opener: TypeAlias = Callable[[], Backend]
"""Gives the same store each time, unopened."""


class Narrow(FaultyBackend):
    """A store that takes few changes at once, so that a verb has several commits."""

    @property
    def max_batch(self) -> int:
        """Nine sealed changes, as each takes three."""
        return 28


class Begun(NamedTuple):
    """A migration that has come so far: what lies on both sides, and what lay there before it began."""

    rows: Mapping[str, bytes]  # of the store
    estate: MemoryEstate
    held_before: Mapping[str, str]
    lay_before: Mapping[str, bytes]


class Story(NamedTuple):
    """A verb that is to be killed, and those that came before it."""

    verb: str
    before: tuple[str, ...] = ()

    async def act(self, mover: Mover, faults: Mapping[int, Fault] | None = None) -> None:
        """Do the verb with a source that has *faults*; it is complete, if it ends."""
        await do(self.verb, mover, faults)


STORIES: Final = {
    "apply": Story("apply"),
    "scrub": Story("scrub", ("apply", "verify")),
    "rollback": Story("rollback", ("apply", "verify", "scrub")),
}


async def do(verb: str, mover: Mover, faults: Mapping[int, Fault] | None = None) -> None:
    """Do a verb, with all of its ways out of a conflict, and see that it is complete."""
    source = mover.source = mover.estate.source(faults)
    said = {"policy": Policy.REPLACE} if verb == "apply" else {"skip_differing": True} if verb == "verify" else {}
    report = await getattr(mover, verb)(source, **said)
    assert report.complete, report.problems


def estate() -> MemoryEstate:
    """Return an estate with one of everything: what is new, equal and different in the service, nested and plain."""
    made = MemoryEstate()
    made.put_many(range(6))
    deep = f"secrets/{made.place}/deep/er/s"
    made.put_records(deep, [Record(deep, Secret("a secret that lies deep"))])
    made.put_records("networks/n", [Record.of(Network(name="n", type=NetworkType.FLANNEL_ETCD))])
    return made


async def furnish(mover: Mover) -> None:
    """Have records in the service: equal ones and different ones, plain and sealed, and some that the estate lacks."""
    place = mover.estate.place
    await mover.client.create_container(place)
    await mover.client.set_secret(place, "s000001", mover.estate.secret_of(1))
    await mover.client.set_secret(place, "s000002", "what was there before")
    await mover.client.set_secret(place, "own", "its own")
    await mover.client.save_many([Host(address="h000000", cpus=7), Host(address="own")])


async def begin(story: Story) -> Begun:
    """Come so far that the verb of *story* is next."""
    store, made = MemoryBackend(), estate()
    async with moving(made, Narrow(store)) as mover:
        await furnish(mover)
        held, lay = await contents(mover.client), lying(made)
        for verb in story.before:
            await do(verb, mover)
    async with opened(store):
        return Begun(await rows_of(store), made, held, lay)


@contextlib.asynccontextmanager
async def opened(store: Backend) -> AsyncIterator[Backend]:
    """Open a store for as long as the block takes."""
    await store.open()
    try:
        yield store
    finally:
        await store.close()


class Telling:
    """A story that is told again and again, each time on stores of its own."""

    def __init__(self, story: Story, begun: Begun, new: Callable[[], Opener]) -> None:
        self._story = story
        self._begun = begun
        self._new = new

    async def learn(self) -> None:
        """Learn what the verb does, and how it ends if nothing happens."""
        opener, made = await self._laid_down()
        store = Narrow(opener())
        async with moving(made, store) as mover:
            started = len(store.operations)
            await self._story.act(mover)
            self.on_store = store.operations[started:]
            self.at_source = mover.source.operations
            self._ended = await contents(mover.client), lying(made)

    async def is_cut_off(self, number: int, fault: Fault, *, at_source: bool = False, again: bool) -> None:
        """Tell it until it is killed at an operation, and how it goes on: begun *again*, or rolled back instead."""
        opener, made = await self._laid_down()
        store = Narrow(opener())
        with contextlib.suppress(Killed):
            async with moving(made, store) as mover:
                if not at_source:
                    store.faults[len(store.operations) + number] = fault
                await self._story.act(mover, {number: fault} if at_source else None)
                raise AssertionError("nobody was killed")

        async with moving(made, Narrow(opener())) as mover:
            await self._assert_nothing_is_lost(mover)
            if again:
                await self._story.act(mover)
                assert (await contents(mover.client), lying(made)) == self._ended
                return
            await do("rollback", mover)
            assert await contents(mover.client) == self._begun.held_before
            assert lying(made) == self._begun.lay_before
            assert await kept(mover.client) == []

    async def _laid_down(self) -> tuple[Opener, MemoryEstate]:
        opener = self._new()
        async with opened(opener()) as store:
            await lay_down(self._begun.rows, store)
        return opener, another(self._begun.estate)

    async def _assert_nothing_is_lost(self, mover: Mover) -> None:
        held, lies = await contents(mover.client), sealed_in(lying(mover.estate))
        for name, value in sealed_in(self._begun.lay_before).items():
            assert value in (held.get(name), lies.get(name)), name


def memory() -> Opener:
    """Return a new store in memory, which outlives those who open it."""
    store = MemoryBackend()
    return lambda: store


@pytest.mark.parametrize("name", STORIES)
async def test_killed_at_the_store(name: str) -> None:
    """Killed before any operation on the store, or after a commit: nothing is lost, and both ways on come to an end."""
    telling = Telling(STORIES[name], await begin(STORIES[name]), memory)
    await telling.learn()

    for number, operation in enumerate(telling.on_store):
        await telling.is_cut_off(number, Fault.DIE_BEFORE, again=True)
        # To be killed after a read is to be killed before what follows.
        if operation == "commit":
            await telling.is_cut_off(number, Fault.DIE_AFTER, again=False)


@pytest.mark.parametrize("name", STORIES)
async def test_killed_at_the_source(name: str) -> None:
    """Killed before or after any operation at the source: the same."""
    telling = Telling(STORIES[name], await begin(STORIES[name]), memory)
    await telling.learn()

    for number, operation in enumerate(telling.at_source):
        await telling.is_cut_off(number, Fault.DIE_BEFORE, at_source=True, again=True)
        if operation in ("scrub", "restore", "purge"):
            await telling.is_cut_off(number, Fault.DIE_AFTER, at_source=True, again=False)


@pytest.fixture(params=["sqlite", "etcd"])
def real(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Opener]:
    """Give new stores that others outlive, of each real kind."""
    numbers = count()

    def new() -> Opener:
        number = next(numbers)
        if request.param == "sqlite":
            return lambda: open_backend(f"sqlite:{tmp_path}/{number}/store.db")
        url = request.getfixturevalue("etcd").url(f"killed-{tmp_path.name}-{number}")
        return lambda: open_backend(url)

    return new


@pytest.mark.parametrize("name", STORIES)
async def test_killed_at_a_real_store(name: str, real: Callable[[], Opener]) -> None:
    """Killed after every commit to a real store, and gone on with in turns: the same."""
    telling = Telling(STORIES[name], await begin(STORIES[name]), real)
    await telling.learn()

    commits = [number for number, operation in enumerate(telling.on_store) if operation == "commit"]
    for turn, number in enumerate(commits):
        await telling.is_cut_off(number, Fault.DIE_AFTER, again=turn % 2 == 0)

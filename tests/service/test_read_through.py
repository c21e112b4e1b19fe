"""Reading what has not moved yet: where it still lies, under which guards, and that what is removed stays removed."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from typing import Final, cast

import pytest
from hypothesis import given, settings

from strongroom.models import HostCreds
from strongroom.models.names import MAX_NAME, TOMBSTONES
from strongroom.models.secret import Secret
from strongroom.storage_service.backends.base import (
    ABSENT,
    MAX_PAGE,
    PRESENT,
    Backend,
    Change,
    Check,
    Conflict,
    Delete,
    Entry,
    Put,
    Vacant,
)
from strongroom.storage_service.backends.closed import Discreet
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.backends.read_through import AT_ONCE, OldPlaces, ReadThroughBackend
from strongroom.storage_service.errors import Changed, Exists, Fate, TooLarge, Unavailable, Undecipherable
from strongroom.storage_service.handlers import Handler
from strongroom.storage_service.keyring.overlay import EncryptedBackend
from strongroom.storage_service.keyring.ring import DataKey, Ring
from tests.keyring.fixed import Fixed
from tests.laws import backends as law_of_backends
from tests.laws import old_places as law_of_places
from tests.laws.backends import BATCHES, LAWS, Step, follows_the_model
from tests.laws.old_places import Attic
from tests.service import single

A, B = "secrets/hosts/a", "secrets/hosts/b"
CANARY: Final = "cAnArY-0ld3"


def discreet(store: Backend) -> Discreet:
    """Return a store that keeps what it is given as it is, for the tests that ask nothing closed of it."""
    return cast("Discreet", store)


@dataclass
class Rig:
    """A store that reads through to two attics, the first of which has A."""

    store: MemoryBackend = field(default_factory=MemoryBackend)
    first: Attic = field(default_factory=lambda: Attic("first"))
    second: Attic = field(default_factory=lambda: Attic("second"))

    def __post_init__(self) -> None:
        self.first.values[A] = "old a"
        self.old = OldPlaces([self.first.place(), self.second.place()])
        self.backend = ReadThroughBackend(discreet(self.store), self.old)

    async def seen(self, *names: str) -> list[str | None]:
        """The values under *names*, by both ways of reading."""
        found = await self.backend.get_many(names)
        for name in names:
            assert await self.backend.get(name) == found.get(name)
        return [found[name].value.decode() if name in found else None for name in names]

    async def stored(self) -> dict[str, str]:
        """All that the store has."""
        page = await self.store.list("")
        return {name: entry.value.decode() for name, entry in (await self.store.get_many(page.names)).items()}


class Story:
    """A rig that has B, too; before each question of a read, those of *acts* that are of its number are committed."""

    def __init__(self, acts: Mapping[int, Sequence[Sequence[Change]]], *, buries: bool = True) -> None:
        self.done = 0
        self._acts = acts
        self._moment = 0
        self._acting = False
        goes_on = self.goes_on

        class Asked(MemoryBackend):
            async def get(self, name: str) -> Entry | None:
                await goes_on()
                return await super().get(name)

            async def get_many(self, names: Sequence[str], *, limit: int | None = None) -> Mapping[str, Entry]:
                await goes_on()
                return await super().get_many(names, limit=limit)

        self.store = EncryptedBackend(Asked(), Fixed(Ring([DataKey("default.1", bytes(64))])))
        self.rig = Rig()
        self._place = self.rig.first.place()
        self.backend = ReadThroughBackend(self.store, OldPlaces([self]))
        self._writes = self.backend if buries else self.store

    @property
    def identity(self) -> str:
        """As an old place."""
        return "the place of a story"

    async def open(self) -> None:
        """Open both, and begin."""
        if self._moment == 0 and not self._acting:
            self._acting = True
            await self.backend.open()
            await self.backend.commit([Put(B, b"b0")])
            await self._place.open()
            self._acting = False

    async def close(self) -> None:
        """As an old place."""
        await self._place.close()

    async def find(self, names: Sequence[str]) -> Mapping[str, str | None]:
        """As an old place, before whose answer something may happen, too."""
        await self.goes_on()
        return await self._place.find(names)

    async def goes_on(self) -> int:
        """Let happen what is to happen now; return how many acts have."""
        if not self._acting:
            self._acting = True
            for changes in self._acts.get(self._moment, ()):
                await self._writes.commit(changes)
                self.done += 1
            self._moment += 1
            self._acting = False
        return self.done

    async def read(self, way: str) -> tuple[str | None, str | None]:
        """Read A and B in one *way*."""
        found: dict[str, Entry | None]
        if way == "get":
            found = {name: await self.backend.get(name) for name in (A, B)}
        elif way == "get_many":
            found = dict(await self.backend.get_many([A, B]))
        else:
            found = {name: each.open() for name, each in (await self.backend.get_closed([A, B])).items()}
        values = [None if (entry := found.get(name)) is None else entry.value.decode() for name in (A, B)]
        return values[0], values[1]


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    """The rig, opened."""
    rig = Rig()
    await rig.backend.open()
    yield rig
    await rig.backend.close()


@asynccontextmanager
async def empty() -> AsyncIterator[Backend]:
    """Give a backend whose old place has nothing that a law asks for."""
    rig = Rig()
    await rig.backend.open()
    yield rig.backend
    await rig.backend.close()


@pytest.mark.parametrize("law", LAWS, ids=law_of_backends.name_of)
async def test_law_of_backends(law: law_of_backends.Law) -> None:
    """Where nothing is left to be moved, it is a backend like any other."""
    async with empty() as backend:
        await law(backend)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(batches=BATCHES)
def test_model(batches: Sequence[Sequence[Step]]) -> None:
    """It does what a dict under the same rules does."""

    async def run() -> None:
        async with empty() as backend:
            await follows_the_model(backend, batches)

    asyncio.run(run())


@pytest.mark.parametrize("law", law_of_places.LAWS, ids=law_of_places.name_of)
def test_law_of_places(law: law_of_places.Law) -> None:
    """The attic of these tests is an old place."""
    law(Attic())


class TestReading:
    """What is not here is looked for elsewhere, in order."""

    async def test_here_before_there(self, rig: Rig) -> None:
        """What the store has is read from it, and nobody else is asked."""
        await rig.store.commit([Put(A, b"new a")])

        assert await rig.seen(A) == ["new a"]
        assert rig.first.asked == rig.second.asked == []

    async def test_one_place_before_the_other(self, rig: Rig) -> None:
        """The first that has it tells it; the second is asked for the rest alone."""
        rig.second.values |= {A: "older a", B: "older b"}

        assert await rig.seen(A, B, "secrets/hosts/c") == ["old a", "older b", None]
        assert A not in rig.second.asked

    async def test_its_revision_is_that_of_what_does_not_exist(self, rig: Rig) -> None:
        """So its tag is that of a new record."""
        assert await rig.backend.get(A) == Entry(b"old a", ABSENT)

    @pytest.mark.parametrize("name", ["secrets/hosts/", "hosts/a", "system/access/apikeys/a", "system/journal/a"])
    async def test_only_secrets_are_asked_for(self, rig: Rig, name: str) -> None:
        """No old place is asked for containers, plain records or what is the service's own."""
        rig.first.values[name] = "planted"

        assert await rig.seen(name) == [None]
        assert rig.first.asked == []

    async def test_nothing_is_listed(self, rig: Rig) -> None:
        """A listing shows what the store has."""
        assert (await rig.backend.list("secrets/")).names == ()

    async def test_silence_is_no_answer(self, rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
        """While a place that may have it is silent, it is unavailable; what is here is served. It is logged once."""
        await rig.store.commit([Put(B, b"b")])
        rig.first.stop()
        for _ in range(2):
            with pytest.raises(Unavailable) as caught:
                await rig.backend.get_many([A, B])
            assert caught.value.fate is Fate.NOT_APPLIED
        assert await rig.seen(B) == ["b"]
        rig.first.start()

        assert await rig.seen(A) == ["old a"]
        warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert warned == ["what has not moved cannot be read: first does not answer: first is silent"]

    async def test_it_waits_no_longer_than_it_may(self, rig: Rig) -> None:
        """A place that hangs is as silent as one that is down, whether it is asked or opened."""
        for hangs_at_the_start in (False, True):
            rig.first.hangs = hangs_at_the_start
            backend = ReadThroughBackend(discreet(rig.store), OldPlaces([rig.first.place()], deadline=0.01))
            await backend.open()
            rig.first.hangs = True
            with pytest.raises(Unavailable):
                await backend.get(A)

    async def test_a_place_that_is_silent_at_the_start_is_opened_later(self) -> None:
        """The service starts without it, and asks for what lies there when it is up."""
        rig = Rig()
        rig.first.stop()
        await rig.backend.open()
        with pytest.raises(Unavailable):
            await rig.backend.get(A)
        rig.first.start()

        assert await asyncio.gather(*(rig.seen(A) for _ in range(3))) == [["old a"]] * 3
        assert rig.first.opened == 1

    @pytest.mark.parametrize("value", [None, "", "\ud800" + CANARY])
    async def test_what_is_malformed_there(self, rig: Rig, value: str | None) -> None:
        """It is an error of the inside that names it and shows nothing of it, never 'not found'."""
        rig.first.values[B] = value
        with pytest.raises(Undecipherable, match=f"{B}: it is malformed in its old place") as caught:
            await rig.backend.get_many([A, B])

        assert caught.value.__context__ is None
        assert await rig.seen(A) == ["old a"]

    async def test_it_is_counted_and_logged_quietly(self, rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
        """Each record that was read counts; the log tells of the first alone, and of no value."""
        caplog.set_level(logging.DEBUG)
        rig.first.values[B] = CANARY
        for _ in range(3):
            await rig.backend.get_many([A, B, "secrets/hosts/c"])

        assert rig.old.count == 6
        assert rig.old.identities == ["first", "second"]
        assert [record.levelname for record in caplog.records] == ["INFO"]
        assert CANARY not in caplog.text

    async def test_what_moves_meanwhile_is_found(self, rig: Rig) -> None:
        """A record that moves, and is taken from the old place, between the two questions is found where it is."""

        class Moving(MemoryBackend):
            async def get_many(self, names: Sequence[str], *, limit: int | None = None) -> Mapping[str, Entry]:
                found = await super().get_many(names, limit=limit)
                if TOMBSTONES + A in names:
                    rig.first.values.clear()
                    await self.commit([Put(A, b"old a, moved")])
                return found

        store = Moving()
        await store.open()
        assert await ReadThroughBackend(discreet(store), rig.old).get(A) == Entry(b"old a, moved", 2)

    @pytest.mark.parametrize("way", ["get", "get_many", "get_closed"])
    async def test_what_was_replaced_meanwhile_never_comes_back(self, way: str) -> None:
        """Whatever is removed and made anew between any two of its questions, a read tells what was there during it."""
        acts: list[Sequence[Change]] = [
            [Delete(A, PRESENT), Put(B, b"b1")],
            [Put(A, b"a2", ABSENT), Put(B, b"b2")],
            [Delete(A, PRESENT), Put(B, b"b3")],
            [Put(A, b"a4", ABSENT), Put(B, b"b4")],
        ]
        states = [("old a", "b0"), (None, "b1"), ("a2", "b2"), (None, "b3"), ("a4", "b4")]
        for moments in combinations_with_replacement(range(8), len(acts)):
            story = Story(
                {moment: [act for act, at in zip(acts, moments, strict=True) if at == moment] for moment in moments}
            )
            await story.open()
            began = await story.goes_on()
            seen = await story.read(way)

            during = states[began : story.done + 1]
            assert seen[0] in [a for a, _ in during], moments
            assert seen[1] in [b for _, b in during], moments

    async def test_a_batch_that_moves_meanwhile_is_of_one_moment(self, rig: Rig) -> None:
        """A record that is moved while a batch is read is not told beside what its commit replaced."""
        story = Story({2: [[Put(A, b"a1", ABSENT), Put(B, b"b1")]]})
        await story.open()

        assert await story.read("get_many") == ("a1", "b1")

    async def test_what_moves_without_end(self, rig: Rig) -> None:
        """A batch of which a record comes and goes at each look is unavailable, rather than of two moments."""
        come: Sequence[Change] = [Put(A, b"a1"), Put(B, b"b1")]
        # Of the four questions of an attempt, the first finds it gone, and the last finds it here.
        acts = {4 * turn + at: [what] for turn in range(20) for at, what in ((0, [Delete(A)]), (3, come))}
        story = Story(acts, buries=False)
        await story.open()
        with pytest.raises(Unavailable, match="keep moving"):
            await story.read("get_many")

    async def test_a_full_page_is_looked_at_again(self, rig: Rig) -> None:
        """As many names as are read at once may all lie in an old place."""
        names = [f"secrets/hosts/n{number:04}" for number in range(MAX_PAGE)]
        rig.first.values.update(dict.fromkeys(names, "x"))

        assert (await rig.backend.get_many(names)).keys() == set(names)

    async def test_there_is_a_limit_there_too(self, rig: Rig) -> None:
        """Of what lies in an old place no more is asked than a limit allows, little by little."""
        names = [f"secrets/hosts/n{number:03}" for number in range(100)]
        rig.first.values.update(dict.fromkeys(names, "x" * 100))

        for reading in (rig.backend.get_many(names, limit=5000), rig.backend.get_many([names[0]], limit=99)):
            with pytest.raises(TooLarge):
                await reading
        assert rig.old.count <= 5000 // 100 + AT_ONCE + 1
        found = await rig.backend.get_many([*names, "secrets/hosts/none"], limit=10_000)
        assert {name: entry.value for name, entry in found.items()} == dict.fromkeys(names, b"x" * 100)

    async def test_what_is_closed_is_read_there_too(self) -> None:
        """Values that are had closed are those of the store, and what lies in an old place."""
        rig = Rig()
        overlay = EncryptedBackend(rig.store, Fixed(Ring([DataKey("default.1", bytes(64))])))
        backend = ReadThroughBackend(overlay, rig.old)
        await backend.open()
        await overlay.commit([Put(B, b"new b")])

        closed = await backend.get_closed([A, B, "secrets/hosts/c"])

        assert {name: each.open().value for name, each in closed.items()} == {A: b"old a", B: b"new b"}
        assert closed[A].revision == ABSENT
        with pytest.raises(TooLarge):
            await backend.get_closed([A], limit=4)

    async def test_the_longest_name_has_a_tombstone(self, rig: Rig) -> None:
        """The row of a tombstone is no longer than what a store takes."""
        name = "secrets/hosts/" + "h" * (MAX_NAME - 14)
        rig.first.values[name] = "x"
        await rig.backend.commit([Delete(name, PRESENT)])

        assert await rig.seen(name) == [None]


GONE: Final[dict[str, str]] = {TOMBSTONES + A: ""}

# what the store has before; what is committed; what it has then, or which of the changes fail
COMMITS: dict[str, tuple[dict[str, str], list[Change], dict[str, str] | list[int]]] = {
    "create over what has not moved": ({}, [Put(A, b"1", ABSENT)], {A: "1"}),
    "create over what has": ({A: "0"}, [Put(A, b"1", ABSENT)], [0]),
    "create what was removed": (GONE, [Put(A, b"1", ABSENT)], {A: "1"}),
    "replace what has not moved": ({}, [Put(A, b"1", PRESENT)], {A: "1"}),
    "replace what has": ({A: "0"}, [Put(A, b"1", PRESENT)], {A: "1"}),
    "replace what was removed": (GONE, [Put(A, b"1", PRESENT)], [0]),
    "replace what there is nowhere": ({}, [Put(B, b"1", PRESENT)], [0]),
    "write over anything": (GONE, [Put(A, b"1")], {A: "1"}),
    "remove what has not moved": ({}, [Delete(A, PRESENT)], GONE),
    "remove what has": ({A: "0"}, [Delete(A, PRESENT)], GONE),
    "remove what was removed": (GONE, [Delete(A, PRESENT)], [0]),
    "remove what there is nowhere": ({}, [Delete(B, PRESENT)], [0]),
    "remove anything": ({}, [Delete(A)], GONE),
    "remove only what has not moved": ({A: "0"}, [Delete(A, ABSENT)], [0]),
    "require what has not moved": ({}, [Check(A, PRESENT), Put("x", b"1")], {"x": "1"}),
    "require what was removed": (GONE, [Check(A, PRESENT), Put("x", b"1")], [0]),
    "require that it has not moved": ({}, [Check(A, ABSENT), Put("x", b"1")], {"x": "1"}),
    "one of two is nowhere": ({}, [Put(A, b"1", PRESENT), Delete(B, PRESENT)], [1]),
    "another guard fails": ({}, [Put(A, b"1", PRESENT), Check("x", PRESENT)], [1]),
    "what is no secret": ({"x": "0"}, [Delete("x", PRESENT), Put("y", b"1", ABSENT)], {"y": "1"}),
    "a container": ({"secrets/hosts/": ""}, [Delete("secrets/hosts/", PRESENT), Vacant("secrets/hosts/")], {}),
}


class TestWriting:
    """Guards go on meaning what they say, across the border."""

    @pytest.mark.parametrize("story", COMMITS)
    async def test_what_becomes_of_it(self, rig: Rig, story: str) -> None:
        """It is applied whole, or the caller's own changes that failed are named and nothing is applied."""
        before, changes, outcome = COMMITS[story]
        if before:
            await rig.store.commit([Put(name, value.encode()) for name, value in before.items()])

        if isinstance(outcome, dict):
            await rig.backend.commit(changes)
            assert await rig.stored() == outcome
        else:
            with pytest.raises(Conflict) as caught:
                await rig.backend.commit(changes)
            assert list(caught.value.failed) == [changes[place] for place in outcome]
            assert await rig.stored() == before

    async def test_what_was_removed_does_not_come_back(self, rig: Rig) -> None:
        """Removed, it is not there, although it still lies in the old place; made anew and removed again, neither."""
        for change in (Delete(A, PRESENT), Put(A, b"1", ABSENT), Delete(A, PRESENT)):
            await rig.backend.commit([change])
            assert await rig.seen(A) == ["1" if isinstance(change, Put) else None]

    async def test_the_old_place_is_asked_only_if_it_matters(self, rig: Rig) -> None:
        """A guard that holds here asks nobody; and nobody is asked where another guard could not be helped."""
        await rig.store.commit([Put(A, b"0")])
        await rig.backend.commit([Put(A, b"1", PRESENT), Delete(B), Put("secrets/hosts/c", b"1", ABSENT)])
        assert rig.first.asked == []

    async def test_silence_applies_nothing(self, rig: Rig) -> None:
        """Whether something is there cannot be told while the old place is silent."""
        rig.first.stop()
        for change in (Put(A, b"1", PRESENT), Delete(A, PRESENT)):
            with pytest.raises(Unavailable) as caught:
                await rig.backend.commit([change])
            assert caught.value.fate is Fate.NOT_APPLIED
        assert await rig.stored() == {}

    @pytest.mark.parametrize("meanwhile", [Put(A, b"moved"), Put(TOMBSTONES + A, b"")])
    @pytest.mark.parametrize("change", [Put(A, b"1", PRESENT), Delete(A, PRESENT), Check(A, PRESENT)])
    async def test_what_moves_or_goes_while_it_is_written(self, rig: Rig, change: Change, meanwhile: Change) -> None:
        """What was in the old place when it was looked for, and is not when it is written, is judged anew."""
        happened = False

        class Overtaken(MemoryBackend):
            async def commit(self, changes: Sequence[Change]) -> int:
                nonlocal happened
                if not happened and any(each.expected == ABSENT for each in changes if isinstance(each, Check | Put)):
                    happened = True
                    await super().commit([meanwhile])
                return await super().commit(changes)

        store = Overtaken()
        await store.open()
        backend = ReadThroughBackend(discreet(store), rig.old)
        batch = [change, Put("x", b"1")]
        if meanwhile == Put(A, b"moved"):
            await backend.commit(batch)
            entry = await backend.get(A)
            left = {Put: b"1", Delete: None, Check: b"moved"}[type(change)]
            assert (None if entry is None else entry.value) == left
        else:
            with pytest.raises(Conflict) as caught:
                await backend.commit(batch)
            assert caught.value.failed == (change,)
        assert happened

    async def test_others_without_end(self, rig: Rig) -> None:
        """Where it moves forth and back at every attempt, the writer gives up, and nothing was applied."""

        class Restless(MemoryBackend):
            async def commit(self, changes: Sequence[Change]) -> int:
                raise Conflict([change for change in changes if change.name == A])  # type: ignore[union-attr]

        store = Restless()
        await store.open()
        with pytest.raises(Unavailable) as caught:
            await ReadThroughBackend(discreet(store), rig.old).commit([Delete(A, PRESENT)])
        assert caught.value.fate is Fate.NOT_APPLIED

    async def test_a_full_batch_of_each_kind_fits(self, rig: Rig) -> None:
        """As many changes as it says it takes are taken, each with its tombstone."""
        names = [f"secrets/hosts/{n}" for n in range(rig.backend.max_batch)]
        rig.first.values |= dict.fromkeys(names, "old")
        kinds: list[Callable[[str], Change]] = [
            lambda name: Put(name, b"1", PRESENT),
            lambda name: Delete(name, PRESENT),
            lambda name: Put(name, b"2", ABSENT),
            Delete,
        ]
        for kind in kinds:
            await rig.backend.commit([kind(name) for name in names])
        assert await rig.seen(*names) == [None] * len(names)


Act = Callable[[Handler], Awaitable[object]]


class TestRecords:
    """What a program does with the credentials of a host that has not moved."""

    @pytest.fixture
    def handler(self, rig: Rig) -> Handler:
        """The handler of secrets; a host's credentials lie in the first attic."""
        plain = Handler(rig.store, secret=True)
        rig.first.values["secrets/hosts/h1"] = plain._encode(creds("old")).decode()
        return Handler(rig.backend, secret=True)

    async def test_an_edit_creates_it_here(self, handler: Handler) -> None:
        """Read, changed, and saved at the tag that it was read with; whoever does so second is told."""
        first, second = [await single.get(handler, HostCreds, "h1") for _ in range(2)]
        assert first.record.remote_user == "old"
        saved = await single.save(handler, creds("new"), first.revision)
        with pytest.raises(Exists):
            await single.save(handler, creds("late"), second.revision)

        assert saved.revision > ABSENT
        assert await single.get(handler, HostCreds, "h1") == saved

    @pytest.mark.parametrize("expected", [PRESENT, None])
    async def test_it_is_replaced_whatever_it_is(self, handler: Handler, expected: int | None) -> None:
        """Saving over any, or whatever is there, makes it, and its container."""
        await single.save(handler, creds("new"), expected)

        assert (await single.get(handler, HostCreds, "h1")).record.remote_user == "new"

    async def test_what_is_nowhere_is_not_replaced(self, handler: Handler) -> None:
        """Only what is there, here or there, is replaced."""
        with pytest.raises(Changed):
            await single.save(handler, HostCreds(address="h2"), PRESENT)

    async def test_it_is_removed_once(self, handler: Handler) -> None:
        """It was there, and then it is not."""
        assert await handler.delete_many(HostCreds, ["h1", "h2"]) == [True, False]
        assert await handler.get_many(HostCreds, ["h1"]) == [None]
        assert await handler.delete_many(HostCreds, ["h1"]) == [False]


def creds(user: str) -> HostCreds:
    """The credentials of the host h1."""
    return HostCreds(address="h1", ssh_priv_key=Secret("a2V5"), remote_user=user)

"""A migration that is taken over, before whichever commit: nothing that the lock guards is written after that."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pytest

from strongroom.migration.compare import Policy
from strongroom.migration.errors import RunHeld
from strongroom.migration.journal import LOCK
from strongroom.migration.records import Record
from strongroom.models import names
from strongroom.models.names import MIGRATION
from strongroom.models.secret import Secret
from strongroom.storage_service.backends.base import Change, Put
from strongroom.storage_service.backends.memory import MemoryBackend
from tests.migration.moving import Mover, another, lay_down, moving, rows_of
from tests.migration.sources.memory import MemoryEstate

GUARDED: Final = (names.SECRETS, MIGRATION)


class Contested(MemoryBackend):
    """A store in which somebody takes the lock over right before the commit number *at*, of those while it is held."""

    at: int | None = None
    commits = 0
    then: Mapping[str, bytes] | None = None  # what was guarded, as it was in that moment

    async def commit(self, changes: Sequence[Change]) -> int:
        """Take it over first, where it is time for that."""
        held = await self.get(LOCK)
        if held is not None:
            if self.commits == self.at:
                await super().commit([Put(LOCK, held.value)])  # another revision: that is what a lock is known by
                self.then = await self.guarded()
            self.commits += 1
        return await super().commit(changes)

    async def guarded(self) -> Mapping[str, bytes]:
        """Return all that is written under the lock."""
        return {name: value for name, value in (await rows_of(self)).items() if name.startswith(GUARDED)}


@dataclass
class Situation:
    """An estate and a store, at rest: the start of a story that is told often."""

    estate: MemoryEstate
    rows: Mapping[str, bytes]


Verb = Callable[[Mover], Awaitable[object]]


async def _prepared(*verbs: Verb) -> Situation:
    """Return where *verbs* lead, from an estate of which the service holds some of it already, in other values."""
    estate, store = MemoryEstate(), MemoryBackend()
    estate.put_many(range(8))
    deep = f"secrets/{estate.place}/deep/er/s"
    estate.put_records(deep, [Record(deep, Secret("a secret that lies deep"))])
    async with moving(estate, store) as mover:
        await mover.client.create_container(estate.place)
        await mover.client.set_secret(estate.place, "s000002", "what was there before")
        for verb in verbs:
            await verb(mover)
        return Situation(another(estate), await rows_of(store))


async def _apply(mover: Mover) -> None:
    assert (await mover.apply(policy=Policy.REPLACE)).complete


async def _verify(mover: Mover) -> None:
    assert (await mover.verify()).complete


async def _scrub(mover: Mover) -> None:
    assert (await mover.scrub()).complete


async def _rollback(mover: Mover) -> None:
    assert (await mover.rollback()).complete


async def _forget(mover: Mover) -> None:
    journal = await mover.journal()
    async with journal.held("forget", take_over=True):
        await journal.forget()


async def _change(mover: Mover) -> None:
    await mover.client.set_secret(mover.estate.place, "s000004", "newer", etag="*")


async def _apply_again(mover: Mover) -> None:
    """Apply over what somebody wrote, in which case that is kept, too."""
    await mover.client.set_secret(mover.estate.place, "s000001", "newer still", etag="*")
    await _apply(mover)


STORIES: Final[dict[str, tuple[Sequence[Verb], Verb, int]]] = {
    # what came before, the verb, and how many commits it has at least, with the lock's own removal
    "apply": ([], _apply, 5),
    "apply again": ([_apply, _change], _apply_again, 5),
    "verify": ([_apply], _verify, 2),
    "scrub": ([_apply, _verify], _scrub, 4),
    "rollback of copies": ([_apply], _rollback, 5),
    "rollback of a scrub": ([_apply, _verify, _scrub], _rollback, 6),
    "forget": ([_apply, _verify, _scrub], _forget, 4),
}


async def _told(situation: Situation, verb: Verb, at: int | None) -> tuple[int, bool]:
    """Return how many commits *verb* has, and whether it ended of itself; the lock is taken over before number *at*."""
    store = Contested()
    await store.open()
    await lay_down(situation.rows, store)
    ended = False
    async with moving(another(situation.estate), store) as mover:
        store.at, store.commits = at, 0
        try:
            await verb(mover)
            ended = True
        except RunHeld:
            assert at is not None
        if at is not None:
            assert store.then is not None, at
            assert await store.guarded() == store.then, at
    return store.commits, ended


@pytest.mark.parametrize("story", STORIES)
async def test_taken_over_before_any_commit(story: str) -> None:
    """Whichever commit it is before, whoever was taken over says so and has written nothing more under the lock."""
    before, verb, least = STORIES[story]
    situation = await _prepared(*before)
    commits, ended = await _told(situation, verb, None)
    assert ended
    assert commits >= least

    unheard = [at for at in range(commits) if (await _told(situation, verb, at))[1]]
    assert unheard == [commits - 1]  # when all was done but to give the lock back

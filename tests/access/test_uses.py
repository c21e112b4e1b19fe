"""When a credential was last used: written behind the answer, seldom, and never in anybody's way."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from strongroom.models import names
from strongroom.storage_service.access.uses import EVERY, KEPT, REMEMBERED, WAITING, Uses
from strongroom.storage_service.backends.base import Change, Put
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import Unavailable

ANN = "users/ann"


class Clock:
    """A clock that a test turns."""

    seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return datetime(2026, 11, 30, tzinfo=UTC) + timedelta(seconds=self.seconds)


class Counted(MemoryBackend):
    """A store that counts what is written, and fails when told."""

    commits = 0
    fails = False

    async def commit(self, changes: Sequence[Change]) -> int:
        if self.fails:
            raise Unavailable("the store is away")
        self.commits += 1
        return await super().commit(changes)


async def opened() -> Counted:
    store = Counted()
    await store.open()
    return store


def uses(store: Counted, clock: Clock) -> Uses:
    return Uses(store, now=clock.now, monotonic=clock.monotonic)


async def settled(found: Uses) -> None:
    """Return when nothing waits to be written."""
    while found._writing is not None and not found._writing.done():
        await asyncio.wait([found._writing])


async def test_a_use_is_written_once_a_minute_by_whatever_number_of_workers() -> None:
    """Of many uses the first is written, and the next one after a minute; another worker's counts."""
    store, clock = await opened(), Clock()
    one, two = uses(store, clock), uses(store, clock)
    for each in (one, two):
        for _ in range(50):
            each.note(ANN, "a")
            await settled(each)
    assert store.commits == 1
    assert await one.of(ANN) == {"a": "2026-11-30T00:00:00Z"}

    clock.seconds = EVERY
    two.note(ANN, "a")
    two.note(ANN, "b")
    await settled(two)
    assert store.commits == 2
    assert await one.of(ANN) == {"a": "2026-11-30T00:01:00Z", "b": "2026-11-30T00:01:00Z"}
    assert await one.of_many([ANN, "users/bob"]) == {ANN: await two.of(ANN)}


async def test_a_use_waits_for_nothing_and_fails_nobody() -> None:
    """A store that is away loses a use; the next one is written, and what cannot be read is not told."""
    store, clock = await opened(), Clock()
    found = uses(store, clock)
    store.fails = True
    found.note(ANN, "a")
    await settled(found)
    assert await found.of(ANN) == {}
    store.fails = False
    clock.seconds = EVERY
    found.note(ANN, "a")
    await settled(found)
    assert await found.of(ANN) == {"a": "2026-11-30T00:01:00Z"}


async def test_a_use_that_two_workers_write_at_once_loses_neither() -> None:
    """Rows are written at the revision that they were read at, again where somebody else was faster."""
    store, clock = await opened(), Clock()
    workers = [uses(store, clock) for _ in range(3)]
    for number, each in enumerate(workers):
        each.note(ANN, str(number))
    await asyncio.gather(*map(settled, workers))
    assert set(await workers[0].of(ANN)) == {"0", "1", "2"}


async def test_what_waits_and_what_is_kept_is_bounded() -> None:
    """However many use however many credentials, a row, the memory and what waits stay small."""
    store, clock = await opened(), Clock()
    found = uses(store, clock)
    for number in range(REMEMBERED + 10):
        found.note(f"users/u{number}", "a")
    assert len(found._waiting) == WAITING
    assert len(found._noted) <= REMEMBERED
    await settled(found)
    assert store.commits == WAITING
    for number in range(KEPT + 5):
        clock.seconds += 1
        found.note(ANN, str(number))
        await settled(found)
    kept = await found.of(ANN)
    assert len(kept) == KEPT
    assert "0" not in kept


async def test_a_damaged_row_is_replaced() -> None:
    """What says nothing that is understood is told as nothing, and the next use is written over it."""
    store, clock = await opened(), Clock()
    found = uses(store, clock)
    for text in (b"", b"[]", b'{"used":{"a":7}}', b'{"format":1,"later":1}'):
        await store.commit([Put(names.USED + ANN, text)])
        assert await found.of(ANN) == {}
        clock.seconds += EVERY
        found.note(ANN, "a")
        await settled(found)
        assert set(await found.of(ANN)) == {"a"}


async def test_no_epoch_is_raised() -> None:
    """A use changes nothing that anybody decides by."""
    store, clock = await opened(), Clock()
    found = uses(store, clock)
    found.note(ANN, "a")
    await found.close()
    await settled(found)
    found.note(ANN, "b")
    await settled(found)
    rows: list[Any] = [name async for page in _pages(store) for name in page]
    assert rows == [names.USED + ANN]
    row = await store.get(names.USED + ANN)
    assert row is not None
    assert set(msgspec.json.decode(row.value)) == {"format", "used"}


async def _pages(store: MemoryBackend) -> Any:
    yield (await store.list("")).names

"""Whoever writes between two looks of a migration loses nothing by it, at the source and in the service."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

import pytest

from strongroom.migration.compare import Policy
from strongroom.migration.sources.base import Original
from strongroom.models import Host
from strongroom.storage_service.backends.base import Change, Delete, Put
from strongroom.storage_service.backends.memory import MemoryBackend
from tests.migration.moving import Mover, contents, lying, moving, sealed_at
from tests.migration.sources.memory import MemoryEstate, MemorySource


class Hasty(MemoryBackend):
    """A store in which somebody acts right before *name* is written or removed for the first time."""

    name: str = ""
    act: Callable[[], Awaitable[object]] | None = None

    async def commit(self, changes: Sequence[Change]) -> int:
        """Let them act first, once."""
        if any(isinstance(change, Put | Delete) and change.name == self.name for change in changes):
            act, self.act = self.act, None
            if act is not None:
                await act()
        return await super().commit(changes)


@pytest.fixture
def store() -> Hasty:
    """The service's store."""
    return Hasty()


@pytest.fixture
async def mover(estate: MemoryEstate, store: Hasty) -> AsyncIterator[Mover]:
    """What moves an estate into a service that holds a secret and a host of it already, in other values."""
    async with moving(estate, store) as mover:
        await mover.client.create_container(estate.place)
        await mover.client.set_secret(estate.place, "s000002", "what was there before")
        await mover.client.save(Host(address="h000000", cpus=7))
        yield mover


async def _apply(mover: Mover) -> None:
    assert (await mover.apply(policy=Policy.REPLACE)).complete


async def _scrub(mover: Mover) -> None:
    await _apply(mover)
    assert (await mover.verify()).complete
    assert (await mover.scrub()).complete


# At the source.


async def test_changed_between_reading_and_scrubbing(mover: Mover) -> None:
    """An item that is another when its original is taken keeps its secret, which never moved; the others are scrubbed.

    What was journalled of it would be the only copy.
    """
    await _apply(mover)
    assert (await mover.verify()).complete
    changed = f"secrets/{mover.estate.place}/s000001"
    source = mover.estate.source()
    source.edits = {2: lambda: mover.estate.change(changed)}

    report = await mover.scrub(source)

    assert source.operations[:3] == ["open", "page", "originals"]
    assert not report.complete
    assert [(each.kind, each.item) for each in report.problems] == [("changed", changed)]
    assert set(sealed_at(mover.estate)) == {changed}


async def test_an_item_that_was_scrubbed_twice(mover: Mover) -> None:
    """An item that got a new secret after its scrub, and was scrubbed again, comes back as it was before the second."""
    before = await contents(mover.client)
    await _scrub(mover)
    for number in range(6):
        mover.estate.put(number)
    lay = lying(mover.estate)
    await _scrub(mover)
    assert sealed_at(mover.estate) == {}

    report = await mover.rollback()

    assert report.complete, report.problems
    assert lying(mover.estate) == lay
    assert await contents(mover.client) == before


class Liar(MemorySource):
    """A source that says of one item that it was put back, and forgets it."""

    forgets = ""

    async def restore(self, originals: Sequence[Original]) -> Sequence[bool]:
        """Put back the others."""
        await super().restore([each for each in originals if each.id != self.forgets])
        return [True] * len(originals)


async def test_put_back_only_in_words(mover: Mover) -> None:
    """While an item is not seen at the source again its copy stays in the service, whatever the source says of it."""
    before = await contents(mover.client)
    await _scrub(mover)
    held = await contents(mover.client)
    source = Liar(mover.estate)
    name = source.forgets = f"secrets/{mover.estate.place}/s000004"

    report = await mover.rollback(source)

    assert not report.complete
    assert [(each.kind, each.name) for each in report.problems if each.kind == "waiting"] == [("waiting", name)]
    assert await contents(mover.client) == before | {name: held[name]}


# In the service.


async def _write_secret(mover: Mover, name: str) -> str:
    _, container, key = name.split("/")
    etag = "*" if name in await contents(mover.client) else None
    await mover.client.set_secret(container, key, "written in that moment", etag=etag)
    return "written in that moment"


async def _write_host(mover: Mover, name: str) -> str:
    host = Host(address=name.removeprefix("hosts/"), cpus=99)
    await mover.client.save(host)
    return host.to_json().decode()


NAMES: Final = {
    "a secret that is new": ("secrets/{}/s000001", _write_secret),
    "a secret that was another": ("secrets/{}/s000002", _write_secret),
    "a host that is new": ("hosts/h000003", _write_host),
    "a host that was another": ("hosts/h000000", _write_host),
}


@pytest.mark.parametrize("which", NAMES)
async def test_written_between_comparing_and_applying(mover: Mover, store: Hasty, which: str) -> None:
    """What somebody writes in the moment before it is replaced is not lost: a rollback puts it back."""
    template, write = NAMES[which]
    name = template.format(mover.estate.place)
    before = await contents(mover.client)
    written: dict[str, str] = {}

    async def act() -> None:
        written[name] = await write(mover, name)

    store.name, store.act = name, act
    await _apply(mover)
    assert list(written) == [name]
    assert (await contents(mover.client))[name] != written[name]

    assert (await mover.rollback()).complete
    assert await contents(mover.client) == before | written


@pytest.mark.parametrize("which", NAMES)
async def test_written_between_comparing_and_rolling_back(mover: Mover, store: Hasty, which: str) -> None:
    """What somebody writes in the moment before it is removed or put back stays, and is told."""
    template, write = NAMES[which]
    name = template.format(mover.estate.place)
    before = await contents(mover.client)
    await _apply(mover)
    written: dict[str, str] = {}

    async def act() -> None:
        written[name] = await write(mover, name)

    store.name, store.act = name, act
    report = await mover.rollback()

    assert list(written) == [name]
    assert [(each.kind, each.name) for each in report.problems] == [("changed", name)]
    assert await contents(mover.client) == before | written


@pytest.mark.parametrize("which", NAMES)
async def test_written_over_our_copy(mover: Mover, which: str) -> None:
    """What somebody wrote over a copy, and the operator had replaced again, is put back by a rollback."""
    template, write = NAMES[which]
    name = template.format(mover.estate.place)
    before = await contents(mover.client)
    await _apply(mover)
    written = {name: await write(mover, name)}
    await _apply(mover)
    assert (await contents(mover.client))[name] != written[name]

    assert (await mover.rollback()).complete
    assert await contents(mover.client) == before | written

"""``status``: every run, who is at one, what has not moved; and what would be lost with a run's journal."""

from collections.abc import AsyncIterator

import msgspec
import pytest

from strongroom.migration.errors import NoSuchRun
from strongroom.migration.journal import Journal, Run, Stage, new_run, now
from strongroom.migration.records import Record
from strongroom.migration.status import loses, status
from strongroom.migration.target import Target
from strongroom.models.names import TOMBSTONES
from strongroom.models.secret import Secret
from strongroom.models.steps import Step
from strongroom.storage_service import wire
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.client.bulk_operations import Write
from tests.migration.moving import Mover, journalled, moving
from tests.migration.sources.memory import MemoryEstate


@pytest.fixture
async def mover() -> AsyncIterator[Mover]:
    """What moves an estate with a few items."""
    estate = MemoryEstate()
    estate.put_many(range(6))
    async with moving(estate, MemoryBackend()) as mover:
        yield mover


async def test_nothing_yet(mover: Mover) -> None:
    """Where nothing moved there is no run, and nobody at one."""
    found = await status(Target(mover.client))

    assert (found.runs, found.holder, found.reading_through, found.source) == ([], None, [], None)


async def test_every_run(mover: Mover) -> None:
    """Every run is told with its stages, and none of its keys."""
    await mover.apply()
    await mover.verify()
    elsewhere = Mover(mover.client, MemoryEstate())
    elsewhere.estate.put(1)
    await elsewhere.apply()
    found = await status(Target(mover.client))

    assert {run.source: set(run.stages) for run in found.runs} == {
        mover.source.identity: {"applied", "verified"},
        elsewhere.source.identity: {"applied"},
    }
    told = msgspec.json.encode(found).decode()
    for name in await Journal.runs(Target(mover.client)):
        journal = await Journal.find(Target(mover.client), name)
        assert journal is not None
        assert journal.run.digest_key not in told
        assert msgspec.json.decode(journal.run.signing_key)["d"] not in told


async def test_who_is_at_one(mover: Mover) -> None:
    """A verb that is under way is told, whoever asks."""
    async with (await mover.journal()).held("apply"):
        found = await status(Target(mover.client))

    assert found.holder is not None
    assert found.holder.verb == "apply"


async def test_one_that_is_none(mover: Mover) -> None:
    """A run that there is not is told so."""
    with pytest.raises(NoSuchRun, match="there is no run no-such-run"):
        await status(Target(mover.client), name="no-such-run")


async def test_what_has_not_moved(mover: Mover) -> None:
    """What waits is counted by items, as long as any secret of theirs is not in the service."""
    await mover.apply()
    mover.estate.put_many([6, 7])
    mover.estate.put_records("two", [Record("secrets/c/1", Secret("a")), Record("secrets/c/2", Secret("b"))])
    mover.estate.break_one()
    half = (await mover.status()).source
    await mover.apply(skip_bad=True)
    done = (await mover.status()).source

    assert half is not None
    assert (half.items, half.waiting, half.bad, half.read_through) == (10, 3, 1, True)
    assert half.next == [Step("move what is missing", "migrate apply")]
    assert done is not None
    assert (done.items, done.waiting, done.bad, done.read_through) == (10, 0, 1, False)


async def test_what_the_service_has_otherwise(mover: Mover) -> None:
    """What the service holds with another value, or has deleted before it moved, is not waited for."""
    await mover.apply()
    await mover.client.set_secret(mover.estate.place, "s000001", "another", etag="*")
    gone = mover.estate.put(7)
    await mover.client.commit_bulk([Write(TOMBSTONES + gone, Secret("x"), wire.NEW)])
    found = (await mover.status()).source

    assert found is not None
    assert (found.waiting, found.superseded) == (0, 1)


async def test_what_the_source_still_holds(mover: Mover) -> None:
    """Secrets that were changed or removed in the service since are counted where they lie, until they are scrubbed."""
    await mover.apply()
    await mover.client.set_secret(mover.estate.place, "s000001", "another", etag="*")
    await mover.client.delete_secret(mover.estate.place, "s000002")
    before = (await mover.status()).source
    await mover.verify(skip_differing=True)
    await mover.scrub(superseded=True)
    after = (await mover.status()).source

    assert before is not None
    assert after is not None
    assert (before.waiting, before.superseded, after.waiting, after.superseded) == (0, 2, 0, 0)
    assert [(each.verb, each.options) for each in before.next] == [("migrate scrub", {"superseded": True})]
    assert after.next == []


async def test_it_changes_nothing(mover: Mover) -> None:
    """To ask how it is writes nothing."""
    await mover.apply()
    rows = await journalled(mover.client)
    await mover.status()

    assert await journalled(mover.client) == rows
    assert set(mover.source.operations) == {"open", "page"}


def _run(**complete: bool) -> Run:
    run = new_run("memory", "somewhere", {}, "memory:somewhere")
    run.stages = {stage: Stage(at=now(), complete=ended, counts={}) for stage, ended in complete.items()}
    return run


@pytest.mark.parametrize(
    ("stages", "lost"),
    [
        ({}, ""),
        ({"applied": False}, "nothing proves"),
        ({"applied": True}, "nothing proves"),
        ({"applied": True, "verified": False}, "nothing proves"),
        ({"applied": True, "verified": True}, "the source still has its secrets"),
        ({"applied": True, "verified": True, "scrubbed": False}, "the scrub is not finished"),
        ({"scrubbed": False}, "the scrub is not finished"),
        ({"applied": True, "verified": True, "scrubbed": True}, ""),
        ({"rolled back": False}, "the rollback left something"),
    ],
)
def test_what_is_lost(stages: dict[str, bool], lost: str) -> None:
    """Before a journal is forgotten it is told what that takes with it, if the run is not done."""
    said = loses(_run(**stages))

    assert said.startswith(lost)
    assert bool(said) is bool(lost)

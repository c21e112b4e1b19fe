"""``apply`` of more than one commit takes: the parts of a batch, and what becomes of those that the service refuses."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

import pytest

from strongroom.migration.apply import Apply
from strongroom.migration.journal import Applied
from strongroom.migration.records import Record
from strongroom.migration.report import Report
from strongroom.migration.target import Change, Target
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import Changed, Invalid, ServiceError, TooLarge
from tests.migration.moving import Mover, contents, moving, sealed_at
from tests.migration.sources.memory import MemoryEstate

ITEMS: Final = 150  # of which every third is a host, so 200 records


@pytest.fixture
async def mover() -> AsyncIterator[Mover]:
    """What moves an estate that takes several commits."""
    estate = MemoryEstate()
    estate.put_many(range(ITEMS))
    async with moving(estate, MemoryBackend()) as mover:
        yield mover


class Refusing(Target):
    """The service, where it refuses whatever some record is in; or once, with *times*."""

    def __init__(self, mover: Mover, name: str, error: ServiceError, times: int = 1000) -> None:
        super().__init__(mover.client)
        self._name = name
        self._error = error
        self._times = times

    async def commit(self, changes: Sequence[Change], witness: str) -> str | None:
        self._see([each.name for each in changes])
        return await super().commit(changes, witness)

    async def save(self, records: Sequence[Record], etags: Sequence[str]) -> Mapping[str, str]:
        self._see([each.name for each in records])
        return await super().save(records, etags)

    def _see(self, names: Sequence[str]) -> None:
        if self._name in names and self._times:
            self._times -= 1
            raise self._error


async def applied(mover: Mover, target: Target) -> Report:
    """Return what comes of an apply to *target*."""
    journal, source = await mover.journal(), mover.estate.source()
    await source.open(journal.digest)
    async with journal.held("apply"):
        return await Apply(source, target, journal).run()


async def test_each_commit_has_a_row_of_its_own(mover: Mover) -> None:
    """A batch takes as many commits as it needs, and the row of each tells of every record that it writes."""
    report = await mover.apply()
    rows = [row async for _, row in (await mover.journal()).rows("applied", Applied)]
    room = await mover.client.bulk_limit()

    assert report.counts["created"] == ITEMS * 4 // 3
    assert len(rows) >= ITEMS / room
    told = [copy.name for row in rows for copy in row.copies]
    assert len(told) == len(set(told)) == ITEMS * 4 // 3
    assert all(sum(copy.name.startswith("secrets/") for copy in row.copies) < room for row in rows)


@pytest.mark.parametrize("late", ["sealed", "plain"])
async def test_what_an_attempt_wrote_is_written(mover: Mover, late: str) -> None:
    """When the last part finds something changed, the others are not written again, and count as what they were."""
    name = f"secrets/{mover.estate.place}/s{ITEMS - 1:06}" if late == "sealed" else f"hosts/h{ITEMS - 3:06}"
    report = await applied(mover, Refusing(mover, name, Changed("changed"), times=1))

    assert report.complete
    assert report.counts["created"] == ITEMS * 4 // 3
    assert "present" not in report.counts
    assert sealed_at(mover.estate).items() <= (await contents(mover.client)).items()


async def test_a_client_writes_between_two_attempts(mover: Mover) -> None:
    """What an attempt wrote, and a client changed before the next one, is the client's; the run goes on."""
    place = mover.estate.place

    class Overtaken(Refusing):
        async def save(self, records: Sequence[Record], etags: Sequence[str]) -> Mapping[str, str]:
            if self._times:
                await mover.client.set_secret(place, "s000001", "newer", etag="*")
            return await super().save(records, etags)

    report = await applied(mover, Overtaken(mover, "hosts/h000000", Changed("changed"), times=1))

    assert report.complete
    assert [(each.kind, each.name) for each in report.problems] == [("note", f"secrets/{place}/s000001")]
    assert (await contents(mover.client))[f"secrets/{place}/s000001"] == "newer"


REFUSALS: Final[dict[str, tuple[ServiceError, str]]] = {
    "Invalid": (Invalid("no", (("status", "must be right"),)), "status must be right"),
    "TooLarge": (TooLarge("a value is over its limit"), "a value is over its limit"),
}


@pytest.mark.parametrize("kind", REFUSALS)
@pytest.mark.parametrize("refused", ["sealed", "plain"])
async def test_one_that_is_refused_is_found(mover: Mover, kind: str, refused: str) -> None:
    """Of all that go together, the one that the service refuses is told and stays out; the others move."""
    error, why = REFUSALS[kind]
    name = f"secrets/{mover.estate.place}/s000100" if refused == "sealed" else "hosts/h000099"
    report = await applied(mover, Refusing(mover, name, error))
    held = await contents(mover.client)

    assert [(each.kind, each.why, each.name) for each in report.problems] == [
        ("refused", f"the service refuses it: {why}", name)
    ]
    assert not report.complete
    assert report.counts["created"] == ITEMS * 4 // 3 - 1
    assert name not in held
    assert sealed_at(mover.estate).keys() - {name} <= held.keys()

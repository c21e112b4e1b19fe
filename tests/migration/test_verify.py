"""``verify``: both sides compared, whatever the journal says; what is a success, and what never is."""

from collections.abc import AsyncIterator

import msgspec
import pytest

from strongroom.migration.compare import Policy
from strongroom.migration.digest import Digest
from strongroom.migration.journal import Left
from strongroom.migration.records import Record
from strongroom.migration.verify import MAX_EXTRA
from strongroom.models import Host, HostCreds
from strongroom.models.names import MIGRATION
from strongroom.models.secret import Secret
from strongroom.models.steps import Step
from strongroom.storage_service import wire
from strongroom.storage_service.backends.faulty import FaultyBackend
from strongroom.storage_service.client.bulk_operations import Remove, Write
from tests.migration.moving import Mover, contents, journalled, moving
from tests.migration.sources.memory import MemoryEstate


@pytest.fixture
async def mover(estate: MemoryEstate, store: FaultyBackend) -> AsyncIterator[Mover]:
    """What has moved it."""
    async with moving(estate, store) as mover:
        await mover.apply()
        yield mover


async def verified(mover: Mover) -> bool:
    """Whether the journal says that all is verified."""
    stage = (await mover.journal()).run.stages.get("verified")
    return stage is not None and stage.complete


async def test_all_is_the_same(mover: Mover) -> None:
    """What moved is the same on both sides, and the journal says so, with the sum."""
    report = await mover.verify()

    assert report.complete
    assert report.counts == {"items": 6, "records": 8, "same": 8}
    assert report.problems == []
    stage = (await mover.journal()).run.stages["verified"]
    assert (stage.complete, stage.sum) == (True, report.sum)
    assert report.next == [Step("remove the secrets from the source", "migrate scrub")]


async def test_it_believes_no_journal(mover: Mover) -> None:
    """Without a row of what was applied it says the same."""
    with_rows = await mover.verify()
    for name in await journalled(mover.client):
        if not name.endswith("/run"):
            await mover.client.commit_bulk([Remove(name)])
    without = await mover.verify()

    assert [name.removeprefix(MIGRATION).count("/") for name in await journalled(mover.client)] == [1]
    assert (without.complete, without.counts, without.sum) == (with_rows.complete, with_rows.counts, with_rows.sum)


async def test_the_sum(mover: Mover) -> None:
    """The sum stands for every record's name and value in the source's order: anyone with the run's key can make it."""
    report = await mover.verify()
    digest = Digest(bytes.fromhex((await mover.journal()).run.digest_key))
    expected = ""
    async for item in mover.estate.source().items():
        for record in item.records:
            expected = digest.of(expected, record.name, digest.of(record.name, record.value.reveal()))

    assert report.sum == expected
    mover.estate.change("hosts/h000000")
    await mover.apply()
    assert (await mover.verify()).sum != expected


async def test_what_is_missing_or_differs(mover: Mover) -> None:
    """What is not there, or is another value, is told by name, secrets and plain records alike; it is no success."""
    place = mover.estate.place
    await mover.verify()
    await mover.client.delete_secret(place, "s000001")
    await mover.client.set_secret(place, "s000002", "another", etag="*")
    await mover.client.save(Host(address="h000000", cpus=7))
    await mover.client.delete(Host, "h000003")
    new = mover.estate.put(7)
    report = await mover.verify()

    assert not report.complete
    assert {(each.kind, each.name) for each in report.problems} == {
        ("differs", f"secrets/{place}/s000001"),
        ("differs", f"secrets/{place}/s000002"),
        ("differs", "hosts/h000000"),
        ("differs", "hosts/h000003"),
        ("missing", new),
    }
    gone = {each.name for each in report.problems if "no longer" in each.why}
    assert gone == {f"secrets/{place}/s000001", "hosts/h000003"}
    assert report.counts["same"] == 4
    assert not await verified(mover)  # although it was before


async def test_what_the_estate_does_not_have(mover: Mover) -> None:
    """What the service has beside the estate, in its containers and below them, is told and is no fault."""
    place = mover.estate.place
    await mover.client.set_secret(place, "own", "its own")
    await mover.client.create_container(f"{place}/deep")
    await mover.client.set_secret(f"{place}/deep", "own", "its own")
    await mover.client.create_container("elsewhere")
    await mover.client.set_secret("elsewhere", "own", "its own")
    await mover.client.save(Host(address="own"))
    report = await mover.verify()

    assert report.complete
    assert {each.name for each in report.problems} == {f"secrets/{place}/own", f"secrets/{place}/deep/own", "hosts/"}
    (shared,) = [each for each in report.problems if each.name == "hosts/"]
    assert shared.why == "1 record lies there that the source does not have"
    assert report.counts["extra"] == 3


async def test_many_are_counted(mover: Mover) -> None:
    """Of very many names that the source does not have, some are told and all counted."""
    names = [f"secrets/{mover.estate.place}/own{number}" for number in range(MAX_EXTRA + 40)]
    for start in range(0, len(names), 20):
        await mover.client.commit_bulk([Write(name, Secret("own"), wire.NEW) for name in names[start : start + 20]])
    report = await mover.verify()

    assert len(report.problems) == MAX_EXTRA
    assert report.counts["extra"] == MAX_EXTRA + 40


async def test_what_many_sources_share(mover: Mover) -> None:
    """Where the records of a model lie, what other sources brought is one line for each model, and no name."""
    await mover.client.save_many([Host(address=f"own{number}") for number in range(30)])
    await mover.client.save_many([HostCreds(address=f"own{number}") for number in range(3)])
    report = await mover.verify()

    assert report.complete
    assert {(each.kind, each.item, each.name, each.why) for each in report.problems} == {
        ("extra", "", "hosts/", "30 records lie there that the source does not have"),
        ("extra", "", "secrets/hosts/", "3 records lie there that the source does not have"),
    }
    assert report.counts["extra"] == 33


async def test_what_was_left_behind_may_stay_so(mover: Mover) -> None:
    """What an apply was told to leave behind need not be said again; one more that cannot move is no success."""
    mover.estate.break_one()
    assert not (await mover.verify()).complete
    assert (await mover.apply(skip_bad=True)).complete
    told = await mover.verify()
    mover.estate.break_one()

    assert told.complete
    assert told.counts["bad"] == 1
    assert not (await mover.verify()).complete
    assert (await mover.verify(skip_bad=True)).complete


async def test_another_in_its_place_was_not_left_behind(mover: Mover) -> None:
    """A row in the place of one that was left, which cannot move either, is no success; nor what old journals know."""
    broken = mover.estate.break_one()
    assert (await mover.apply(skip_bad=True)).complete
    mover.estate.write(broken, b"{ and another secret, which cannot move either")
    assert not (await mover.verify()).complete
    assert (await mover.apply(skip_bad=True)).complete
    assert (await mover.verify()).complete

    journal = await mover.journal()
    (name,) = [each for each in await journalled(mover.client) if "/left/" in each]
    (row,) = await mover.client.read_bulk([name])
    assert row is not None
    old = msgspec.json.decode(row.value.reveal(), type=Left)
    old.problems = [problem[:3] for problem in old.problems]
    await mover.client.commit_bulk([Write(name, Secret(msgspec.json.encode(old).decode()), row.etag)])
    assert journal.run.name in name
    assert not (await mover.verify()).complete


async def test_another_one_was_not_left_behind(mover: Mover) -> None:
    """As many as were left behind are no success where one of them is another; fewer of the same are."""
    first, second = mover.estate.break_one(), mover.estate.break_one()
    for key, value in (("a1", "one"), ("a2", "another")):
        mover.estate.put_records(key, [Record("secrets/c/twice", Secret(value))])
    assert (await mover.apply(skip_bad=True)).complete
    assert (await mover.verify()).complete

    mover.estate.remove(first)
    assert (await mover.verify()).complete
    mover.estate.break_one()
    swapped = await mover.verify()
    assert (swapped.counts["bad"], swapped.complete) == (2, False)
    mover.estate.remove(second)
    assert not (await mover.verify()).complete
    assert (await mover.apply(skip_bad=True)).complete
    assert (await mover.verify()).complete

    mover.estate.remove("a2")
    mover.estate.put_records("a3", [Record("secrets/c/twice", Secret("a third"))])
    other = await mover.verify()
    assert (other.counts["duplicate"], other.complete) == (1, False)


async def test_nothing_is_never_a_success(store: FaultyBackend) -> None:
    """Zero records prove nothing, neither in an empty estate nor in one where nothing is valid."""
    async with moving(MemoryEstate(), store) as mover:
        empty = await mover.verify(skip_bad=True, skip_differing=True)
        mover.estate.break_one()
        bad = await mover.verify(skip_bad=True, skip_differing=True)

        assert (empty.complete, bad.complete, await verified(mover)) == (False, False, False)
        assert "proves nothing" in empty.next[0].reason


async def test_nothing_the_same_is_no_success(mover: Mover) -> None:
    """That everything differs is no success either, whatever may differ."""
    for key in list(mover.estate.rows):
        mover.estate.remove(key)
    mover.estate.put_records("a", [Record(f"secrets/{mover.estate.place}/s000001", Secret("another"))])

    assert not (await mover.verify(skip_differing=True)).complete


async def test_skip_bad(mover: Mover) -> None:
    """What cannot move is no success, unless it may stay behind; it is told in any case."""
    broken = mover.estate.break_one()
    strict, lenient = await mover.verify(), await mover.verify(skip_bad=True)

    assert (strict.complete, lenient.complete) == (False, True)
    assert [each.item for each in lenient.problems] == [broken]
    assert [(each.verb, each.options) for each in strict.next] == [("migrate verify", {"skip_bad": True})]


async def test_skip_differing(mover: Mover) -> None:
    """That the service holds newer values, or none any more, is no success unless it may; what never came is none."""
    place = mover.estate.place
    await mover.client.set_secret(place, "s000002", "newer", etag="*")
    await mover.apply(policy=Policy.NEWER)
    strict, lenient = await mover.verify(), await mover.verify(skip_differing=True)
    await mover.client.delete_secret(place, "s000001")
    removed = [(await mover.verify(skip_differing=skip)).complete for skip in (False, True)]
    mover.estate.put(7)
    missing = await mover.verify(skip_differing=True)

    assert (strict.complete, lenient.complete, missing.complete) == (False, True, False)
    assert removed == [False, True]
    assert [(each.verb, each.options) for each in strict.next] == [
        ("migrate apply", {"on_conflict": "replace"}),
        ("migrate verify", {"skip_differing": True}),
    ]


async def test_an_edit_meanwhile(mover: Mover) -> None:
    """What is changed at the source while it is compared is told as that, and is no success."""
    source = mover.estate.source()
    source.edits[2] = lambda: (mover.estate.change("hosts/h000000"), mover.estate.remove("hosts/h000003"))
    report = await mover.verify(source)

    assert source.operations == ["open", "page", "marks"]
    assert not report.complete
    assert [(each.kind, each.item) for each in report.problems] == [
        ("changed", "hosts/h000000"),
        ("changed", "hosts/h000003"),
    ]


async def test_after_an_apply_it_must_be_done_again(mover: Mover) -> None:
    """An apply, even one that finds nothing to do, takes back what was verified before."""
    await mover.verify()
    before = await verified(mover)
    await mover.apply()

    assert before
    assert not await verified(mover)


async def test_what_was_scrubbed(mover: Mover) -> None:
    """After a scrub what is left is compared, and it is said how much is in the service alone."""
    await mover.verify()
    await mover.scrub()
    report = await mover.verify()

    assert report.complete
    assert report.counts == {"items": 2, "records": 2, "same": 2}
    assert report.facts["scrubbed"].startswith("6 items")
    assert report.problems == []


async def test_nothing_left(store: FaultyBackend) -> None:
    """Where a scrub left nothing, there is nothing to compare: no success, and no doubt about the one before."""
    estate = MemoryEstate()
    estate.put(1)
    async with moving(estate, store) as mover:
        await mover.apply()
        await mover.verify()
        await mover.scrub()
        report = await mover.verify()

        assert estate.rows == {}
        assert not report.complete
        assert [(each.verb, each.options) for each in report.next] == [("migrate scrub", {"search_only": True})]
        assert await verified(mover)
        assert (await mover.scrub()).complete


async def test_no_value_is_told(mover: Mover) -> None:
    """Whatever differs, a report holds no value of either side."""
    await mover.client.set_secret(mover.estate.place, "s000002", "a value of the service", etag="*")
    mover.estate.break_one()
    report = repr(await mover.verify())

    for value in [*(await contents(mover.client)).values(), *(mover.estate.secret_of(each) for each in range(6))]:
        assert not value or value not in report

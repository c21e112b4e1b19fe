"""``rollback``: both sides as they were, except what somebody changed since; the source first."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from strongroom.migration.compare import Policy
from strongroom.migration.errors import MigrationError, SourceUnavailable
from strongroom.migration.records import Record
from strongroom.migration.rollback import Rollback
from strongroom.migration.target import Target
from strongroom.models import Host
from strongroom.models.secret import Secret
from strongroom.storage_service.backends.faulty import Fault, FaultyBackend
from strongroom.storage_service.errors import Unavailable
from tests.migration.moving import Mover, contents, journalled, kept, lying, moving, sealed_at
from tests.migration.sources.memory import MemoryEstate


@pytest.fixture
def estate() -> MemoryEstate:
    """An estate with a few items, some of them in a container within another."""
    made = MemoryEstate()
    made.put_many(range(20))
    deep = f"secrets/{made.place}/deep/er/s"
    made.put_records(deep, [Record(deep, Secret("a secret that lies deep"))])
    return made


@pytest.fixture
async def mover(estate: MemoryEstate, store: FaultyBackend) -> AsyncIterator[Mover]:
    """What is to move it, into a service that holds some of it already."""
    async with moving(estate, store) as mover:
        await mover.client.create_container(estate.place)
        await mover.client.set_secret(estate.place, "s000001", estate.secret_of(1))
        await mover.client.set_secret(estate.place, "s000002", "what was there before")
        await mover.client.set_secret(estate.place, "own", "its own")
        await mover.client.save_many([Host(address="h000000", cpus=7), Host(address="h000003")])
        yield mover


async def come_to(mover: Mover, stage: str) -> None:
    """Migrate as far as that."""
    assert (await mover.apply(policy=Policy.REPLACE)).complete
    if stage != "apply":
        assert (await mover.verify()).complete
        report = await mover.scrub()
        assert report.complete, report.problems


@pytest.mark.parametrize("stage", ["apply", "scrub"])
async def test_all_is_as_it_was(mover: Mover, stage: str) -> None:
    """Both sides have what they had; made containers are gone, and of the journal all but its head."""
    before, lay = await contents(mover.client), lying(mover.estate)
    await come_to(mover, stage)
    report = await mover.rollback()

    assert report.complete
    assert report.counts.get("restored", 0) == (21 if stage == "scrub" else 0)
    assert report.counts["not ours"] == 2  # equal before, or there already
    (told,) = (await mover.status()).runs
    assert told.stages.keys() == {"rolled back"}
    assert told.stages["rolled back"].complete
    assert await contents(mover.client) == before
    assert lying(mover.estate) == lay
    assert await kept(mover.client) == []


async def test_and_forth_again(mover: Mover) -> None:
    """What was rolled back moves again, as if it never had."""
    before, lay = await contents(mover.client), lying(mover.estate)
    for _ in range(2):
        await come_to(mover, "scrub")
        assert sealed_at(mover.estate) == {}
        assert (await mover.rollback()).complete
        assert (await contents(mover.client), lying(mover.estate)) == (before, lay)


async def test_of_nothing(mover: Mover) -> None:
    """To roll back what never moved does nothing."""
    before, lay = await contents(mover.client), lying(mover.estate)

    assert (await mover.rollback()).complete
    assert (await contents(mover.client), lying(mover.estate)) == (before, lay)
    assert await kept(mover.client) == []


async def test_without_the_source(mover: Mover) -> None:
    """Where nothing was scrubbed the source is not needed; where something was, nothing is done without it."""
    before = await contents(mover.client)
    await come_to(mover, "apply")
    async with (journal := await mover.journal()).held("rollback"):
        assert (await Rollback(None, Target(mover.client), journal).run()).complete
    assert await contents(mover.client) == before

    await come_to(mover, "scrub")
    held = await contents(mover.client)
    async with (journal := await mover.journal()).held("rollback"):
        with pytest.raises(MigrationError, match="say which it is"):
            await Rollback(None, Target(mover.client), journal).run()
    assert await contents(mover.client) == held


async def test_the_source_is_away(mover: Mover) -> None:
    """While the source does not answer, no copy is touched."""
    await come_to(mover, "scrub")
    held = await contents(mover.client)
    for number in range(1, 4):
        with pytest.raises(SourceUnavailable):
            await mover.rollback(mover.estate.source({number: Fault.BEFORE}))
        assert await contents(mover.client) == held
    assert (await mover.rollback()).complete


# What changed since.


async def replaced_in_the_service(mover: Mover) -> None:
    await mover.client.set_secret(mover.estate.place, "s000004", "newer", etag="*")


async def put_back_in_the_service(mover: Mover) -> None:
    await mover.client.set_secret(mover.estate.place, "s000002", "newer", etag="*")


async def deleted_what_replaced(mover: Mover) -> None:
    await mover.client.delete_secret(mover.estate.place, "s000002")


async def a_plain_one(mover: Mover) -> None:
    await mover.client.save(Host(address="h000006", cpus=8))


@pytest.mark.parametrize("stage", ["apply", "scrub"])
@pytest.mark.parametrize(
    ("change", "name"),
    [
        (replaced_in_the_service, "secrets/{}/s000004"),
        (put_back_in_the_service, "secrets/{}/s000002"),
        (deleted_what_replaced, "secrets/{}/s000002"),
        (a_plain_one, "hosts/h000006"),
    ],
)
async def test_changed_in_the_service(
    mover: Mover, change: Callable[[Mover], Awaitable[None]], name: str, stage: str
) -> None:
    """What somebody changed in the service since is told and left; the rest is undone, and the journal stays for it."""
    name = name.format(mover.estate.place)
    before, lay = await contents(mover.client), lying(mover.estate)
    await come_to(mover, stage)
    await change(mover)
    changed = (await contents(mover.client)).get(name)
    report = await mover.rollback()
    again = await mover.rollback()
    held = await contents(mover.client)

    assert [(each.kind, each.name) for each in report.problems] == [("changed", name)]
    assert [(each.kind, each.name) for each in again.problems] == [("changed", name)]
    assert not report.complete
    assert held.get(name) == changed
    assert {key: value for key, value in held.items() if key != name} == {
        key: value for key, value in before.items() if key != name
    }
    assert lying(mover.estate) == lay
    assert await journalled(mover.client) != []


async def test_what_the_operator_set_right(mover: Mover) -> None:
    """When what was changed is seen to, the next rollback is complete, and the journal goes."""
    before, lay = await contents(mover.client), lying(mover.estate)
    await come_to(mover, "scrub")
    await replaced_in_the_service(mover)
    await mover.rollback()
    await mover.client.delete_secret(mover.estate.place, "s000004")

    assert (await mover.rollback()).complete
    assert (await contents(mover.client), lying(mover.estate)) == (before, lay)
    assert await kept(mover.client) == []


async def test_deleted_in_the_service(mover: Mover) -> None:
    """What was created and is gone already is as it was: nothing to tell."""
    before = await contents(mover.client)
    await come_to(mover, "scrub")
    await mover.client.delete_secret(mover.estate.place, "s000004")
    await mover.client.delete(Host, "h000006")

    assert (await mover.rollback()).complete
    assert await contents(mover.client) == before


async def test_changed_at_the_source(mover: Mover) -> None:
    """An item that somebody wrote at the source since is left as it is, and its copy stays in the service."""
    await come_to(mover, "scrub")
    host, key = mover.estate.put(0), mover.estate.put(4)
    held, lay = await contents(mover.client), lying(mover.estate)
    report = await mover.rollback()
    after = await contents(mover.client)

    assert not report.complete
    assert {(each.kind, each.item, each.name) for each in report.problems} == {
        ("changed", host, ""),
        ("waiting", host, "hosts/h000000"),
        ("waiting", host, "secrets/hosts/h000000"),
        ("changed", key, ""),
        ("waiting", key, key),
    }
    for name in (key, "secrets/hosts/h000000", "hosts/h000000"):
        assert after[name] == held[name]
    assert {each: lying(mover.estate)[each] for each in (host, key)} == {each: lay[each] for each in (host, key)}
    assert report.counts["restored"] == 19


async def test_journalled_and_then_moved_anew(mover: Mover) -> None:
    """An item that changed before it could be scrubbed, and moved again as it was then, is no hindrance."""
    await mover.apply(policy=Policy.REPLACE)
    await mover.verify()
    source = mover.estate.source()
    source.edits[3] = lambda: mover.estate.change("hosts/h000006")
    before = mover.estate.rows["hosts/h000006"]
    await mover.scrub(source)
    changed = mover.estate.rows["hosts/h000006"]
    await mover.apply()
    report = await mover.rollback()

    assert before != changed
    assert report.complete
    assert mover.estate.rows["hosts/h000006"] == changed
    assert "secrets/hosts/h000006" not in await contents(mover.client)


async def test_others_in_the_container(mover: Mover) -> None:
    """A container that was made and holds something else by now stays; those that are empty go."""
    await come_to(mover, "scrub")
    await mover.client.set_secret(f"{mover.estate.place}/deep", "own", "its own")
    report = await mover.rollback()
    held = await contents(mover.client)

    assert report.complete
    assert report.counts["containers kept"] == 1
    assert f"secrets/{mover.estate.place}/deep/own" in held
    assert f"secrets/{mover.estate.place}/deep/er/" not in held


async def test_apply_after_half_a_rollback(mover: Mover) -> None:
    """After a rollback that left something, an apply moves everything again: what was taken out is no conflict."""
    await come_to(mover, "scrub")
    await replaced_in_the_service(mover)
    await mover.rollback()
    report = await mover.apply(policy=Policy.KEEP)

    assert report.complete
    assert report.counts == {"items": 21, "created": 23, "present": 2, "kept": 3}


async def test_scrub_after_half_a_rollback(mover: Mover) -> None:
    """After a rollback nothing is removed from the source before all was moved and verified again."""
    await come_to(mover, "scrub")
    await replaced_in_the_service(mover)
    await mover.rollback()

    assert set((await mover.journal()).run.stages) == {"rolled back"}


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER, Fault.LOST])
async def test_lost_answers(mover: Mover, store: FaultyBackend, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever answer of the store is lost, this run or the next leaves the service as it was."""
    monkeypatch.setattr("strongroom.storage_service.wire.RETRY_AFTER", 0)
    before = await contents(mover.client)
    await come_to(mover, "apply")
    for number in range(40):
        store.faults = {len(store.operations) + number: fault}
        try:
            ended = (await mover.rollback()).complete
        except Unavailable:
            ended = False
        store.faults = {}
        if ended:
            assert await contents(mover.client) == before
            await come_to(mover, "apply")

    assert (await mover.rollback()).complete
    assert await contents(mover.client) == before
    assert await kept(mover.client) == []

"""``scrub``: nothing goes but what was proved to have moved, nothing goes unjournalled, and what remains is found."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from strongroom.migration.compare import Policy
from strongroom.migration.errors import MigrationError, NotVerified, SourceUnavailable
from strongroom.migration.journal import Scrubbed
from strongroom.migration.records import Record
from strongroom.migration.scrub import Scrub
from strongroom.migration.target import Target
from strongroom.models import HostCreds, Network, NetworkType
from strongroom.models.secret import Secret
from strongroom.models.steps import Step
from strongroom.storage_service.backends.faulty import Fault, FaultyBackend
from strongroom.storage_service.errors import Unavailable
from tests.migration.moving import Mover, contents, journalled, lying, moving, sealed_at, sealed_in
from tests.migration.sources.memory import MemoryEstate


@pytest.fixture
def estate() -> MemoryEstate:
    """An estate with a few items, one of which has nothing secret."""
    made = MemoryEstate()
    made.put_many(range(40))
    made.put_records("networks/n", [Record.of(Network(name="n", type=NetworkType.FLANNEL_ETCD))])
    return made


@pytest.fixture
async def mover(estate: MemoryEstate, store: FaultyBackend) -> AsyncIterator[Mover]:
    """What has moved it, and verified that."""
    async with moving(estate, store) as mover:
        assert (await mover.apply()).complete
        assert (await mover.verify()).complete
        yield mover


async def originals(mover: Mover) -> list[tuple[str, str, str]]:
    """Return what the journal holds of the source, in order."""
    rows = (await mover.journal()).rows("scrubbed", Scrubbed)
    return [original async for _, row in rows for original in row.originals]


# What goes.


async def test_the_secrets_go(mover: Mover) -> None:
    """The secrets are at the source no more, in no record and no file; the rest stays, and all of it in the service."""
    secrets, held = sealed_at(mover.estate), await contents(mover.client)
    network = mover.estate.rows["networks/n"]
    report = await mover.scrub()

    assert report.complete
    assert report.counts == {"items": 41, "scrubbed now": 40, "scrubbed": 40, "searched": 40}
    assert sealed_at(mover.estate) == {}
    assert set(mover.estate.rows) == {f"hosts/h{number:06}" for number in range(0, 40, 3)} | {"networks/n"}
    assert mover.estate.rows["networks/n"] == network
    assert not any(value.encode() in file for value in secrets.values() for file in mover.estate.raw())
    assert await contents(mover.client) == held
    assert report.facts == {"given up by the source": "compacted the file", "the file": "searched, and clean"}
    assert (await mover.journal()).run.stages["scrubbed"].complete


async def test_a_row_stands_before(mover: Mover, store: FaultyBackend) -> None:
    """Whatever the source was asked to remove was in the journal by then, exactly as it lay there."""
    lay = lying(mover.estate)
    seen: list[int] = []
    source = mover.estate.source()

    def look() -> None:
        seen.append(store.operations.count("commit"))

    source.edits = dict.fromkeys(range(4, 60), look)
    before = store.operations.count("commit")
    await mover.scrub(source)

    assert source.operations[:5] == ["open", "page", "originals", "scrub", "scrub"]
    assert min(seen) >= before + 3  # the lock, the stage, and the row
    assert {item: text.encode() for item, _, text in await originals(mover)} == {
        key: content for key, content in lay.items() if sealed_in({key: content})
    }


async def test_again_it_searches_alone(mover: Mover) -> None:
    """A second run finds nothing to remove, journals nothing, and searches again for all that ever was."""
    await mover.scrub()
    rows = await journalled(mover.client)
    again = await mover.scrub()
    search = await mover.scrub(search_only=True)

    assert (again.complete, again.counts["scrubbed"], again.counts["searched"]) == (True, 40, 40)
    assert (search.complete, search.counts["searched"]) == (True, 40)
    assert await journalled(mover.client) == rows


async def test_nothing_secret(store: FaultyBackend) -> None:
    """An estate without secrets, be there empty containers for them, is not touched, and that is complete."""
    estate = MemoryEstate()
    estate.put_records("container", [Record("secrets/empty/", Secret(""))])
    estate.put_records("networks/n", [Record.of(Network(name="n", type=NetworkType.FLANNEL_ETCD))])
    async with moving(estate, store) as mover:
        await mover.apply()
        await mover.verify()
        report = await mover.scrub()

        assert report.complete
        assert set(mover.source.operations) == {"open", "page"}
        assert report.next == [Step("nothing was removed from this source, so there is nothing to search for")]


# What does not.


async def test_not_before_it_is_verified(mover: Mover) -> None:
    """Without a verify that was complete, or after another apply, nothing is removed."""
    lay = lying(mover.estate)
    await mover.client.set_secret(mover.estate.place, "s000001", "another", etag="*")
    assert not (await mover.verify()).complete
    with pytest.raises(NotVerified):
        await mover.scrub()
    await mover.client.set_secret(mover.estate.place, "s000001", mover.estate.secret_of(1), etag="*")
    await mover.verify()
    await mover.apply()
    with pytest.raises(NotVerified):
        await mover.scrub()

    assert lying(mover.estate) == lay
    assert "scrubbed" not in (await mover.journal()).run.stages


async def test_never_moved(store: FaultyBackend) -> None:
    """Of an estate that never moved nothing is removed."""
    estate = MemoryEstate()
    estate.put(1)
    async with moving(estate, store) as mover:
        with pytest.raises(NotVerified) as caught:
            await mover.scrub()
        assert caught.value.next == (Step("prove it", "migrate verify"),)


async def test_a_source_that_cannot_be_scrubbed(mover: Mover) -> None:
    """Where nothing can be removed by us, it is said what to do by hand."""

    class ReadOnly:
        """A source that is no more than that."""

        identity, open, close, count, items, marks = ("nowhere", *[None] * 5)

    journal = await mover.journal()
    with pytest.raises(MigrationError, match="remove it by hand"):
        Scrub(ReadOnly(), Target(mover.client), journal)  # type: ignore[arg-type]


async def change_at_the_source(mover: Mover) -> None:
    mover.estate.change(f"secrets/{mover.estate.place}/s000001")


async def change_in_the_service(mover: Mover) -> None:
    await mover.client.set_secret(mover.estate.place, "s000001", "another", etag="*")


async def delete_in_the_service(mover: Mover) -> None:
    await mover.client.delete_secret(mover.estate.place, "s000001")


async def touch_at_the_source(mover: Mover) -> None:
    key = f"secrets/{mover.estate.place}/s000001"
    mover.estate.write(key, mover.estate.rows[key][1])


async def break_at_the_source(mover: Mover) -> None:
    mover.estate.write(f"secrets/{mover.estate.place}/s000001", b"{malformed")


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (change_at_the_source, "changed"),
        (touch_at_the_source, "changed"),
        (change_in_the_service, "differs"),
        (delete_in_the_service, "differs"),
        (break_at_the_source, "bad"),
    ],
)
async def test_what_changed_since(mover: Mover, act: Callable[[Mover], AsyncIterator[None]], kind: str) -> None:
    """An item that is not as it moved, or not in the service as it moved, keeps its secrets; the others lose theirs."""
    await act(mover)  # type: ignore[misc]
    key = f"secrets/{mover.estate.place}/s000001"
    before = mover.estate.rows[key]
    report = await mover.scrub()

    assert not report.complete
    assert {(each.kind, each.item) for each in report.problems} == {(kind, key)}
    assert mover.estate.rows[key] == before
    assert report.counts["scrubbed"] == 39
    assert not (await mover.journal()).run.stages["scrubbed"].complete
    assert set(sealed_at(mover.estate)) <= {key}


async def test_what_is_new(mover: Mover) -> None:
    """An item that came since is left, and told: it has not moved."""
    new = mover.estate.put(41)
    report = await mover.scrub()

    assert not report.complete
    assert [(each.kind, each.item) for each in report.problems] == [("unmoved", new)]
    assert [each.verb for each in report.next] == ["migrate apply"]


async def test_what_was_kept(mover: Mover) -> None:
    """An item of which the service keeps another value is left, though the verify was content with it."""
    await change_in_the_service(mover)
    await mover.apply(policy=Policy.KEEP)
    await mover.verify(skip_differing=True)
    report = await mover.scrub()

    assert [(each.kind, each.item) for each in report.problems] == [
        ("differs", f"secrets/{mover.estate.place}/s000001")
    ]
    assert [(each.verb, each.options) for each in report.next] == [("migrate scrub", {"superseded": True})]
    assert report.counts["scrubbed"] == 39


@pytest.mark.parametrize("kept", [False, True])
async def test_what_was_changed_or_removed_here_can_go(mover: Mover, kept: bool) -> None:
    """What the service has another value of, or none any more, is named, goes if that is said, and comes back."""
    place, before = mover.estate.place, dict(sealed_at(mover.estate))
    await change_in_the_service(mover)
    await mover.client.delete_secret(place, "s000002")
    await mover.client.delete(HostCreds, "h000003")
    if kept:
        await mover.apply(policy=Policy.KEEP)
    await mover.verify(skip_differing=True)
    named = await mover.scrub()
    left = set(sealed_at(mover.estate))
    report = await mover.scrub(superseded=True)

    old = {f"secrets/{place}/s000001", f"secrets/{place}/s000002", "secrets/hosts/h000003"}
    assert left == {each.name for each in named.problems if each.kind == "differs"} == old
    assert {each.name for each in report.problems if each.kind == "superseded"} == old
    assert (report.complete, sealed_at(mover.estate)) == (True, {})
    assert report.counts["scrubbed"] == 40

    await mover.rollback()
    assert sealed_at(mover.estate) == before


@pytest.mark.parametrize("act", [change_at_the_source, touch_at_the_source, break_at_the_source])
async def test_what_is_newer_at_the_source_never_goes(
    mover: Mover, act: Callable[[Mover], AsyncIterator[None]]
) -> None:
    """Of an item that changed at the source, no word about the service's values removes anything."""
    await act(mover)  # type: ignore[misc]
    await change_in_the_service(mover)
    key = f"secrets/{mover.estate.place}/s000001"
    before = mover.estate.rows[key]
    await mover.scrub(superseded=True)

    assert mover.estate.rows[key] == before


async def test_an_edit_in_the_last_moment(mover: Mover) -> None:
    """An item that is changed after all was looked at, but before it is removed, stays, by compare-and-set."""
    source = mover.estate.source()
    source.edits[3] = lambda: mover.estate.change("hosts/h000000")
    report = await mover.scrub(source)

    assert source.operations[3] == "scrub"
    assert ("changed", "hosts/h000000") in [(each.kind, each.item) for each in report.problems]
    assert set(sealed_at(mover.estate)) == {"secrets/hosts/h000000"}
    assert report.counts["scrubbed"] == 39


async def test_then_it_moves_and_goes(mover: Mover) -> None:
    """What changed in the last moment moves with the next apply, and goes with the next scrub."""
    source = mover.estate.source()
    source.edits[3] = lambda: mover.estate.change("hosts/h000000")
    await mover.scrub(source)
    await mover.apply()
    await mover.verify()
    report = await mover.scrub()

    assert report.complete
    assert report.counts["scrubbed"] == 40
    assert sealed_at(mover.estate) == {}


async def test_too_large_for_the_journal(store: FaultyBackend) -> None:
    """An item that no row of the journal holds is told and left, and the rest goes."""
    estate = MemoryEstate()
    estate.put_many(range(4))
    estate.put_records("large", [Record(f"secrets/c/{number}", Secret('"' * 400_000)) for number in range(2)])
    async with moving(estate, store) as mover:
        assert (await mover.apply()).complete
        await mover.verify()
        report = await mover.scrub()

        assert not report.complete
        assert [(each.kind, each.item) for each in report.problems] == [("too-large", "large")]
        (step,) = report.next
        assert "by hand" in step.reason
        assert (step.verb, step.options) == ("migrate scrub", {"search_only": True})
        assert report.counts["scrubbed"] == 4


async def test_large_ones_take_a_row_each(store: FaultyBackend) -> None:
    """Rows hold few large items or many small ones, each no more than the store takes."""
    estate = MemoryEstate()
    for number in range(5):
        estate.put_records(f"i{number}", [Record(f"secrets/c/{number}", Secret("x" * 300_000))])
    async with moving(estate, store) as mover:
        await mover.apply()
        await mover.verify()

        assert (await mover.scrub()).complete
        assert [len(row.originals) async for _, row in (await mover.journal()).rows("scrubbed", Scrubbed)] == [1] * 5


async def test_duplicates_go_both(store: FaultyBackend) -> None:
    """Of two items that become the same record both lose it: what they hold is in the service."""
    estate = MemoryEstate()
    for key in ("one", "two"):
        estate.put_records(key, [Record("secrets/c/same", Secret("the same value"))])
    async with moving(estate, store) as mover:
        await mover.apply()
        await mover.verify()

        assert (await mover.scrub()).complete
        assert estate.rows == {}


# What remains.


async def test_what_remains_is_found(mover: Mover) -> None:
    """A snapshot that still holds secrets is named, with how many and what to do, until it is gone."""
    mover.estate.snapshots["snapshot-1"] = b"\n".join(mover.estate.raw())[:3000]
    mover.estate.snapshots["snapshot-2"] = b"nothing"
    report = await mover.scrub()
    stage = (await mover.journal()).run.stages["scrubbed"]
    again = await mover.scrub(search_only=True)
    del mover.estate.snapshots["snapshot-1"]
    clean = await mover.scrub(search_only=True)

    assert not report.complete
    ((kind, place, why),) = [(each.kind, each.item, each.why) for each in report.problems]
    assert (kind, place) == ("found", "snapshot-1")
    assert "secrets are still in it" in why
    assert "delete it" in why
    assert report.facts["snapshot-2"] == "searched, and clean"
    assert not stage.complete
    assert not again.complete
    assert clean.complete
    assert (await mover.journal()).run.stages["scrubbed"].complete


async def test_a_fragment_is_found(mover: Mover) -> None:
    """Half a secret in a file is found."""
    mover.estate.put_records(
        "long", [Record("secrets/c/long", Secret("0123456789abcdef" * 4 + "fedcba9876543210" * 4))]
    )
    await mover.apply()
    await mover.verify()
    mover.estate.snapshots["page"] = b"..." + b"fedcba9876543210" * 4 + b"..."
    report = await mover.scrub()

    assert [(each.kind, each.item) for each in report.problems] == [("found", "page")]


async def test_places_that_cannot_be_reached(mover: Mover) -> None:
    """What cannot be looked into is named with advice, and what is said next tells to see to it; the rest is done."""
    mover.estate.hidden.append("a backup elsewhere")
    report = await mover.scrub()

    assert report.complete
    assert [(each.kind, each.item) for each in report.problems] == [("unreachable", "a backup elsewhere")]
    assert "look into it yourself" in report.problems[0].why
    (step,) = report.next
    assert ("could not be searched" in step.reason, step.verb) == (True, None)


async def test_short_secrets_are_told(store: FaultyBackend) -> None:
    """Secrets too short to be searched for are removed, and it is told that they were not searched for."""
    estate = MemoryEstate()
    estate.put_records("a", [Record("secrets/c/short", Secret("1234"))])
    estate.put_records("b", [Record("secrets/c/long", Secret("long enough"))])
    async with moving(estate, store) as mover:
        await mover.apply()
        await mover.verify()
        report = await mover.scrub()

        assert report.complete
        assert [(each.kind, each.why) for each in report.problems] == [
            ("note", "1 secret is shorter than 8 bytes: no search is made for so little")
        ]


async def test_search_of_nothing(mover: Mover) -> None:
    """A search before anything was removed proves nothing."""
    report = await mover.scrub(search_only=True)

    assert not report.complete
    assert report.next == [Step("nothing was removed from this source, so there is nothing to search for")]


async def test_no_secret_is_told(mover: Mover) -> None:
    """No report of a scrub holds a secret, whatever was found."""
    secrets = sealed_at(mover.estate)
    mover.estate.snapshots["snapshot"] = b"\n".join(mover.estate.raw())
    mover.estate.break_one()
    report = await mover.scrub()
    rows = [row async for _, row in (await mover.journal()).rows("scrubbed", Scrubbed)]

    assert report.counts["found"] == 1
    assert not any(value in text for value in secrets.values() for text in (repr(report), repr(rows)))


# Under its hands.


async def test_the_source_goes_away(mover: Mover) -> None:
    """Wherever the source stops to answer, the next run goes on; an answer that was lost is no harm."""
    lay = lying(mover.estate)
    for number in range(1, 7):
        for fault in (Fault.BEFORE, Fault.AFTER, Fault.LOST):
            with pytest.raises(SourceUnavailable):
                await mover.scrub(mover.estate.source({number: fault}))
            stage = (await mover.journal()).run.stages["scrubbed"]
            assert not stage.complete
    report = await mover.scrub()

    assert report.complete
    assert report.counts["scrubbed"] == 40
    assert len({item for item, _, _ in await originals(mover)}) == 40
    assert len(await originals(mover)) == 40  # no item twice
    assert (await mover.rollback()).complete
    assert lying(mover.estate) == lay


async def test_a_search_is_no_end(mover: Mover) -> None:
    """After a scrub that broke off, a search that finds nothing does not say that the scrub is done."""
    with pytest.raises(SourceUnavailable):
        await mover.scrub(mover.estate.source({20: Fault.BEFORE}))
    await mover.scrub(search_only=True)

    assert not (await mover.journal()).run.stages["scrubbed"].complete


async def test_a_slow_source(mover: Mover) -> None:
    """A source that is slow is waited for."""
    source = mover.estate.source({3: Fault.SLOW})
    async with asyncio.TaskGroup() as group:
        running = group.create_task(mover.scrub(source))
        while len(source.operations) < 4:
            await asyncio.sleep(0)
        source.release()

    assert running.result().complete


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER, Fault.LOST])
async def test_lost_answers(mover: Mover, store: FaultyBackend, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever answer of the store is lost, in this run or the next all secrets go, and nothing goes unjournalled."""
    monkeypatch.setattr("strongroom.storage_service.wire.RETRY_AFTER", 0)
    secrets = sealed_at(mover.estate)
    for number in range(30):
        store.faults = {len(store.operations) + number: fault}
        try:
            report = await mover.scrub()
        except Unavailable:
            kept = {item for item, _, _ in await originals(mover)}
            gone = {name for name in secrets if name not in sealed_at(mover.estate)}
            assert len(gone) <= len(kept)
    store.faults = {}
    report = await mover.scrub()

    assert report.complete
    assert report.counts["scrubbed"] == 40
    assert secrets.items() <= (await contents(mover.client)).items()

"""``apply``: what moves, what does not and why, by which policy; and sides that fail, or change, under its hands."""

import asyncio
import gc
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

from strongroom.migration.apply import NOTHING_FOUND, Apply
from strongroom.migration.compare import Act, Policy, decide
from strongroom.migration.errors import Mismatch, SourceRefused, SourceUnavailable
from strongroom.migration.journal import Applied, Copy
from strongroom.migration.records import Record
from strongroom.migration.retries import Retries
from strongroom.migration.target import Held, Target
from strongroom.models import Host, HostCreds
from strongroom.models.secret import Secret
from strongroom.storage_service.backends import open_backend
from strongroom.storage_service.backends.faulty import Fault, FaultyBackend
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import Unavailable
from strongroom.storage_service.wire import MAX_SECRET
from tests.migration.house import house
from tests.migration.moving import HASTY, Mover, contents, journalled, lying, moving, sealed_at
from tests.migration.sources.memory import MemoryEstate


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody pauses before trying again."""
    monkeypatch.setattr("strongroom.storage_service.wire.RETRY_AFTER", 0)


async def copies(mover: Mover) -> dict[str, Copy]:
    """Return the journal's last word on each record."""
    journal = await mover.journal()
    return {copy.name: copy async for _, row in journal.rows("applied", Applied) for copy in row.copies}


# What moves.


async def test_everything_moves(mover: Mover) -> None:
    """Each record is in the service as it is at the source, and can be asked for by its model; each is journalled."""
    report = await mover.apply()

    assert report.complete
    assert report.counts == {"items": 6, "created": 8}
    held = await contents(mover.client)
    assert sealed_at(mover.estate).items() <= held.items()
    assert (await mover.client.get(HostCreds, "h000003")).model.ssh_priv_key.reveal() == mover.estate.secret_of(3)
    assert (await mover.client.get(Host, "h000003")).model == Host(address="h000003")
    assert {name for name in held if not name.endswith("/")} == set(await copies(mover))
    assert (await mover.journal()).run.stages["applied"].complete


async def test_again_it_does_nothing(mover: Mover, store: FaultyBackend) -> None:
    """A second run finds all of it there, and writes no row but the head and the lock."""
    await mover.apply()
    before, rows, started = await contents(mover.client), await journalled(mover.client), len(store.operations)
    report = await mover.apply()

    assert report.complete
    assert report.counts == {"items": 6, "present": 8}
    assert await contents(mover.client) == before
    assert await journalled(mover.client) == rows
    assert store.operations[started:].count("commit") == 4  # the lock, taken and let go; the head, before and after


async def test_what_changes_at_the_source_follows(mover: Mover) -> None:
    """A copy of ours that nobody changed since follows the source; nothing need be decided."""
    await mover.apply()
    mover.estate.put(1)
    mover.estate.put(3)
    report = await mover.apply()

    assert report.complete
    assert (report.counts["replaced"], report.counts["present"]) == (2, 6)
    assert sealed_at(mover.estate).items() <= (await contents(mover.client)).items()
    assert {copy.act for copy in (await copies(mover)).values()} == {"created"}  # as it is to be undone


async def test_nothing_is_no_success(mover: Mover) -> None:
    """Where nothing is found, nothing has been done."""
    for key in list(mover.estate.rows):
        mover.estate.remove(key)
    report = await mover.apply()

    assert not report.complete
    assert report.next == [NOTHING_FOUND]


TEXTS: Final[Mapping[str, str]] = {
    "unicode": "Grüße, 東京, \U0001f511, e\u0301",
    "controls": "".join(map(chr, range(1, 32))) + "\x7f\u2028",
    "blank": " \t\n",
    "nul": "a\0b",
    "quotes": '\\"' * 1000,
    "largest": "x" * MAX_SECRET,
    "largest of two bytes each": "é" * (MAX_SECRET // 2),
}


@pytest.mark.parametrize("text", TEXTS)
async def test_any_text_moves(mover: Mover, text: str) -> None:
    """Any text within the limit comes through the whole way and back: moved, replaced, scrubbed and rolled back."""
    await mover.client.create_container("odd")
    await mover.client.set_secret("odd", "there", "x" * 30 if text == "blank" else TEXTS[text])
    mover.estate.put_records("new", [Record("secrets/odd/new", Secret(TEXTS[text]))])
    mover.estate.put_records("there", [Record("secrets/odd/there", Secret("another value"))])
    before, lay = await contents(mover.client), lying(mover.estate)

    assert (await mover.apply(policy=Policy.REPLACE)).complete
    assert (await contents(mover.client))["secrets/odd/new"] == TEXTS[text]
    assert (await mover.verify()).complete
    assert (await mover.scrub()).complete
    assert (await mover.rollback()).complete
    assert (await contents(mover.client), lying(mover.estate)) == (before, lay)


# What does not.


BAD: Final[Mapping[str, tuple[Record, str]]] = {
    "empty": (Record("secrets/c/empty", Secret("")), "it is empty"),
    "too large": (Record("secrets/c/large", Secret("x" * (MAX_SECRET + 1))), "it is larger than 512 KiB"),
    "a name that is none": (Record("secrets/c/a b", Secret("v")), "its name cannot be used"),
    "a name with dots": (Record("secrets/c/../d", Secret("v")), "its name cannot be used"),
    "in no container": (Record("secrets/alone", Secret("v")), "a secret must lie in a container"),
    "of no kind": (Record("hostz/h", Secret("{}")), "records of that kind are not kept"),
    "an invalid model": (Record("hosts/h", Secret('{"address":"h","cpus":"many"}')), "cpus"),
    "a model of another name": (Record("hosts/h", Secret('{"address":"g"}')), "its name is not that of its record"),
}


@pytest.mark.parametrize("kind", BAD)
async def test_what_cannot_move(mover: Mover, kind: str) -> None:
    """What cannot move is told with the reason and without the value, and stops the run before anything is written."""
    record, why = BAD[kind]
    mover.estate.put_records("a bad one", [record])
    report = await mover.apply()

    assert not report.complete
    assert [(each.kind, each.item) for each in report.problems] == [("bad", "a bad one")]
    assert why in report.problems[0].why
    assert await contents(mover.client) == {}
    (step,) = report.next
    assert (step.verb, step.options) == ("migrate apply", {"skip_bad": True})


async def test_skip_bad(mover: Mover) -> None:
    """Malformed items in the middle are listed and left; the rest moves."""
    broken = [mover.estate.break_one() for _ in range(3)]
    mover.estate.put_records("bad", [Record("secrets/c/empty", Secret(""))])
    report = await mover.apply(skip_bad=True)

    assert report.complete
    assert [each.item for each in report.problems] == ["bad", *broken]
    assert report.counts["created"] == 8
    assert "secret of a broken one" not in repr(report)


async def test_an_item_moves_whole_or_not(mover: Mover) -> None:
    """Of an item with one record that cannot move, none moves."""
    records = [Record("secrets/c/good", Secret("value")), Record("secrets/c/bad", Secret(""))]
    mover.estate.put_records("half", records)
    await mover.apply(skip_bad=True)

    assert "secrets/c/good" not in await contents(mover.client)


async def test_duplicates(mover: Mover) -> None:
    """Of two items with one name the first counts; the second is told, unless it says the same."""
    for key, value in (("a1", "one"), ("a2", "one"), ("a3", "another")):
        mover.estate.put_records(key, [Record("secrets/c/twice", Secret(value))])
    stopped = await mover.apply()
    report = await mover.apply(skip_bad=True)

    assert not stopped.complete
    assert [(each.kind, each.item, each.name) for each in report.problems] == [("duplicate", "a3", "secrets/c/twice")]
    assert "a1" in report.problems[0].why
    assert (await contents(mover.client))["secrets/c/twice"] == "one"


# Policies.

SOURCE, OURS, OTHER = "of the source", "as we left it", "another"


def last(act: str, digest: str) -> Copy:
    """Return what the journal says of a record."""
    return Copy("item", "mark", "secrets/c/k", act, digest)


class Facts:
    """What is known of a record; named as a test's id."""

    NEW = (None, None, False)
    EQUAL = (SOURCE, None, False)
    DIFFERENT = (OTHER, None, False)
    BURIED = (None, None, True)  # deleted before it moved
    MOVED = (SOURCE, last("created", SOURCE), False)
    CHANGED_HERE = (OURS, last("created", OURS), False)  # at the source
    CHANGED_THERE = (OTHER, last("created", SOURCE), False)  # in the service
    CHANGED_BOTH = (OTHER, last("created", OURS), False)
    DELETED = (None, last("created", SOURCE), True)
    DELETED_CHANGED = (None, last("created", OURS), True)
    PRESENT_CHANGED_HERE = (OURS, last("present", OURS), False)
    PRESENT_CHANGED_THERE = (OTHER, last("present", SOURCE), False)
    KEPT = (OTHER, last("kept", OTHER), False)
    KEPT_CHANGED_HERE = (OTHER, last("kept", SOURCE), False)
    KEPT_GONE = (None, last("kept", SOURCE), False)


_C, _R, _P, _K, _X = Act.CREATE, Act.REPLACE, Act.PRESENT, Act.KEEP, Act.CONFLICT
TABLE: Final = [
    #                         stop keep replace newer
    ("NEW", _C, _C, _C, _C),
    ("EQUAL", _P, _P, _P, _P),
    ("DIFFERENT", _X, _K, _R, _X),
    ("BURIED", _X, _K, _C, _X),
    ("MOVED", _P, _P, _P, _P),
    ("CHANGED_HERE", _R, _R, _R, _R),
    ("CHANGED_THERE", _X, _K, _R, _K),
    ("CHANGED_BOTH", _X, _K, _R, _X),
    ("DELETED", _X, _K, _C, _K),
    ("DELETED_CHANGED", _X, _K, _C, _X),
    ("PRESENT_CHANGED_HERE", _R, _R, _R, _R),
    ("PRESENT_CHANGED_THERE", _X, _K, _R, _K),
    ("KEPT", _X, _K, _R, _X),
    ("KEPT_CHANGED_HERE", _X, _K, _R, _X),
    ("KEPT_GONE", _C, _C, _C, _C),
]


@pytest.mark.parametrize(("facts", "acts"), [(row[0], row[1:]) for row in TABLE], ids=[row[0] for row in TABLE])
def test_the_table(facts: str, acts: Sequence[Act]) -> None:
    """What is to be done, by what is known of both sides and by the policy; of a conflict it is said why."""
    held, copy, deleted = getattr(Facts, facts)
    for policy, act in zip((Policy.STOP, Policy.KEEP, Policy.REPLACE, Policy.NEWER), acts, strict=True):
        decided, why = decide(SOURCE, held, copy, deleted=deleted, policy=policy)
        assert decided is act, policy
        assert bool(why) is (act is Act.CONFLICT)


async def test_stop_is_the_default(mover: Mover) -> None:
    """What differs stops the run, is told, and is left as it is."""
    await mover.client.create_container(mover.estate.place)
    await mover.client.set_secret(mover.estate.place, "s000001", "the service's own")
    report = await mover.apply()

    assert not report.complete
    assert [(each.kind, each.why) for each in report.problems] == [("conflict", "the service holds another value")]
    assert (await contents(mover.client))[f"secrets/{mover.estate.place}/s000001"] == "the service's own"
    (step,) = report.next
    assert (step.verb, step.options) == ("migrate apply", {"on_conflict": "keep"})


async def test_keep_and_replace(mover: Mover) -> None:
    """To keep leaves what the service holds; to replace writes over it, and keeps what it was in the journal."""
    name = f"secrets/{mover.estate.place}/s000001"
    await mover.client.create_container(mover.estate.place)
    await mover.client.set_secret(mover.estate.place, "s000001", "the service's own")
    kept = await mover.apply(policy=Policy.KEEP)
    there = (await contents(mover.client))[name]
    replaced = await mover.apply(policy=Policy.REPLACE)

    assert (kept.complete, kept.counts["kept"], there) == (True, 1, "the service's own")
    assert (replaced.complete, replaced.counts["replaced"]) == (True, 1)
    assert (await contents(mover.client))[name] == mover.estate.secret_of(1)
    assert (await copies(mover))[name].former > 0


async def test_newer(mover: Mover) -> None:
    """With ``newer`` each side's change since they were equal stands, and one on both sides stops."""
    place = mover.estate.place
    await mover.apply()
    await mover.client.set_secret(place, "s000001", "changed in the service", etag="*")
    mover.estate.put(2)
    report = await mover.apply(policy=Policy.NEWER)
    held = await contents(mover.client)
    mover.estate.put(1)
    stopped = await mover.apply(policy=Policy.NEWER)

    assert report.complete
    assert held[f"secrets/{place}/s000001"] == "changed in the service"
    assert held[f"secrets/{place}/s000002"] == mover.estate.secret_of(2)
    assert not stopped.complete
    assert [each.kind for each in stopped.problems] == ["conflict"]


async def test_what_was_deleted_in_the_service(mover: Mover) -> None:
    """What somebody removed from the service since it moved does not come back by itself."""
    await mover.apply()
    await mover.client.delete_secret(mover.estate.place, "s000001")
    stopped = await mover.apply()
    back = await mover.apply(policy=Policy.REPLACE)

    assert [(each.kind, each.why) for each in stopped.problems] == [("conflict", "it was deleted in the service since")]
    assert back.complete
    assert f"secrets/{mover.estate.place}/s000001" in await contents(mover.client)


# Under its hands.


async def test_an_edit_during_the_run(mover: Mover) -> None:
    """What is changed or removed at the source while it moves is told; the next run brings it in."""
    source = mover.estate.source()
    source.edits[3] = lambda: (mover.estate.change("hosts/h000000"), mover.estate.remove("hosts/h000003"))
    report = await mover.apply(source)
    again = await mover.apply()

    assert source.operations[3] == "marks"
    assert not report.complete
    assert {(each.kind, each.item, each.why) for each in report.problems} == {
        ("changed", "hosts/h000000", "it was changed while it was moved"),
        ("changed", "hosts/h000003", "it was removed while it was moved"),
    }
    assert again.complete
    assert sealed_at(mover.estate).items() <= (await contents(mover.client)).items()


class Meddled(Target):
    """The service, where somebody else writes a record right before it is read back."""

    def __init__(self, mover: Mover, meddle: Callable[[], object]) -> None:
        super().__init__(mover.client)
        self._reads = itertools.count()
        self._meddle = meddle

    async def read(self, wanted: Sequence[str]) -> Mapping[str, Held]:
        if next(self._reads) == 1:
            await self._meddle()  # type: ignore[misc]
        return await super().read(wanted)


@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize("removed", [False, True])
async def test_a_client_writes_before_it_is_read_back(mover: Mover, policy: Policy, removed: bool) -> None:
    """Who writes a record as soon as it is there is named, what was written stands, and everything else moves."""

    async def meddle() -> None:
        if removed:
            await mover.client.delete_secret(mover.estate.place, "s000001")
            await mover.client.delete(Host, "h000003")
        else:
            await mover.client.set_secret(mover.estate.place, "s000001", "newer", etag="*")
            await mover.client.save(Host(address="h000003", cpus=7))

    journal, source = await mover.journal(), mover.estate.source()
    async with journal.held("apply"):
        report = await Apply(source, Meddled(mover, meddle), journal, policy=policy).run()

    assert report.complete
    assert sorted((each.kind, each.name) for each in report.problems) == [
        ("note", "hosts/h000003"),
        ("note", f"secrets/{mover.estate.place}/s000001"),
    ]
    found = await contents(mover.client)
    assert found.get(f"secrets/{mover.estate.place}/s000001") == (None if removed else "newer")
    assert ("hosts/h000003" in found) is not removed
    assert len(sealed_at(mover.estate).items() - found.items()) == 1


async def test_what_is_read_back_is_compared(mover: Mover) -> None:
    """A record at the revision that was written, and not what was written, ends the run; no stage says all is well."""

    class Forgetful(Target):
        async def read(self, wanted: Sequence[str]) -> Mapping[str, Held]:
            held = await super().read(wanted)
            return {name: each._replace(value=Secret("else")) for name, each in held.items()}

    journal, source = await mover.journal(), mover.estate.source()
    async with journal.held("apply"):
        with pytest.raises(Mismatch, match="what was read back is not what was saved"):
            await Apply(source, Forgetful(mover.client), journal).run()

    assert "applied" not in (await mover.journal()).run.stages


@pytest.mark.parametrize("operation", range(3))
async def test_the_source_goes_away(mover: Mover, operation: int) -> None:
    """A source that stops to answer ends the run, which goes on when it is back."""
    with pytest.raises(SourceUnavailable):
        await mover.apply(mover.estate.source({operation: Fault.BEFORE}))

    assert (await mover.apply()).complete
    assert sealed_at(mover.estate).items() <= (await contents(mover.client)).items()


async def test_the_source_refuses(mover: Mover) -> None:
    """A source that does not accept us is told apart from one that is away."""
    mover.estate.refusing = True

    with pytest.raises(SourceRefused):
        await mover.apply()


async def test_a_slow_source(mover: Mover) -> None:
    """A source that is slow is waited for."""
    source = mover.estate.source({1: Fault.SLOW})
    async with asyncio.TaskGroup() as group:
        running = group.create_task(mover.apply(source))
        while len(source.operations) < 2:
            await asyncio.sleep(0)
        assert not running.done()
        source.release()

    assert running.result().complete


async def operations_of_apply(estate: MemoryEstate) -> list[str]:
    """Return what an apply asks of the store."""
    store = FaultyBackend(MemoryBackend())
    async with moving(estate, store) as mover:
        started = len(store.operations)
        await mover.apply()
        return store.operations[started:]


@pytest.mark.parametrize("fault", [Fault.AFTER, Fault.LOST, Fault.BEFORE])
@pytest.mark.usefixtures("hasty")
async def test_lost_answers(estate: MemoryEstate, fault: Fault) -> None:
    """Whichever answer of the store is lost: the run, or the one after it, ends with each record there once."""
    by_itself = 0
    operations = await operations_of_apply(estate)
    for number in range(len(operations)):
        store = FaultyBackend(MemoryBackend())
        async with moving(estate, store) as mover:
            store.faults[len(store.operations) + number] = fault
            try:
                by_itself += (await mover.apply()).complete
            except Unavailable:
                assert (await mover.apply()).complete
            held = await contents(mover.client)
            assert sealed_at(estate).items() <= held.items()
            assert {copy.act for copy in (await copies(mover)).values()} == {"created"}
            assert (await mover.rollback()).complete
            assert await contents(mover.client) == {}

    assert by_itself > len(operations) // 2


@pytest.mark.usefixtures("hasty")
async def test_a_full_store(mover: Mover, store: FaultyBackend) -> None:
    """A store that is full ends the run with nothing half done; when there is room, it goes on."""
    journal, source = await mover.journal(), mover.estate.source()
    with pytest.raises(Unavailable):  # noqa: PT012
        async with journal.held("apply"):
            await journal.begin()
            store.full = True
            await Apply(source, Target(mover.client, HASTY), journal).run()

    assert await contents(mover.client) == {}
    store.full = False
    assert (await mover.apply()).complete


@pytest.mark.usefixtures("hasty")
async def test_a_store_that_hangs(estate: MemoryEstate) -> None:
    """A store that does not answer in time ends the run; when it answers, it goes on."""
    store = FaultyBackend(MemoryBackend())
    async with house(store, timeout=0.1) as client:
        mover = Mover(client, estate, Retries(attempts=1))
        await mover.journal()
        store.faults |= dict.fromkeys(range(len(store.operations) + 6, len(store.operations) + 400), Fault.SLOW)
        with pytest.raises(Unavailable):
            await mover.apply()
        store.faults.clear()
        store.release()
    async with house(store) as client:
        assert (await Mover(client, estate).apply()).complete


# Size.


async def test_flat_memory(tmp_path: Path) -> None:
    """After 8,000 items no more is held in memory than after the first ones: far less than one object for each."""
    estate = MemoryEstate()
    estate.put_many(range(8_000))
    async with moving(estate, open_backend(f"sqlite:{tmp_path}/store.db")) as mover:
        for verb, done in (("apply", "created"), ("verify", "same")):
            blocks: list[int] = []

            def sample(more: int, blocks: list[int] = blocks) -> None:
                gc.collect(0)
                blocks.append(sys.getallocatedblocks())

            report = await getattr(mover, verb)(advance=sample)

            assert report.complete
            assert report.counts[done] == 10_667
            quarter = len(blocks) // 4
            assert min(blocks[-quarter:]) - min(blocks[:quarter]) < 2000

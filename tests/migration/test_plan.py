"""``plan``: what it tells, that it changes nothing, and the file that holds an apply to what was shown."""

import stat
from pathlib import Path

import pytest

from strongroom.migration.apply import NOTHING_FOUND
from strongroom.migration.compare import Policy
from strongroom.migration.disk_map import DiskMap
from strongroom.migration.errors import MigrationError
from strongroom.migration.plan import PlanFile, read_plan
from strongroom.migration.records import Record
from strongroom.models import Host, HostCreds
from strongroom.models.secret import Secret
from strongroom.storage_service.backends.faulty import FaultyBackend
from tests.migration.moving import Mover, contents, journalled, lying
from tests.migration.sources.memory import MemoryEstate
from tests.ssh_keys import in_base64


@pytest.fixture
def estate() -> MemoryEstate:
    """An estate with a few items."""
    made = MemoryEstate()
    made.put_many(range(4))
    return made


async def test_it_changes_nothing(mover: Mover, store: FaultyBackend) -> None:
    """To plan writes neither to the store nor to the source."""
    lay, started = lying(mover.estate), len(store.operations)
    report = await mover.plan()

    assert report.complete
    assert report.counts == {"items": 4, "create": 6}
    assert "commit" not in store.operations[started:]
    assert set(mover.source.operations) == {"open", "page"}
    assert lying(mover.estate) == lay
    assert await journalled(mover.client) == []


async def test_what_it_tells(mover: Mover) -> None:
    """It tells apart what is new, changed at the source, there already, different, malformed and met twice."""
    estate, place = mover.estate, mover.estate.place
    await mover.client.create_container(place)
    await mover.client.set_secret(place, "s000001", estate.secret_of(1))
    await mover.client.set_secret(place, "s000002", "the service's own value")
    await mover.apply(policy=Policy.KEEP)
    estate.put(4)
    estate.change("hosts/h000000")
    broken = estate.break_one()
    estate.put_records("twice", [Record(f"secrets/{place}/s000004", Secret("another"))])
    estate.put_records("noted", [Record.of(Host(address="noted"))], notes=["its field colour stays behind"])
    report = await mover.plan()

    assert not report.complete
    assert {kind: count for kind, count in report.counts.items() if count} == {
        "items": 8,
        "create": 2,
        "update": 1,
        "present": 4,
        "conflict": 1,
        "bad": 1,
        "duplicate": 1,
        "note": 1,
    }
    told = {(problem.kind, problem.item) for problem in report.problems}
    assert told == {
        ("conflict", f"secrets/{place}/s000002"),
        ("bad", broken),
        ("duplicate", "twice"),
        ("note", "noted"),
    }
    assert report.facts["to write"].startswith("3 records, ")
    assert "estimate" in report.facts


@pytest.mark.parametrize(
    ("policy", "count"), [(Policy.STOP, "conflict"), (Policy.KEEP, "keep"), (Policy.REPLACE, "update")]
)
async def test_by_policy(mover: Mover, policy: Policy, count: str) -> None:
    """What differs is counted by what the policy would do about it."""
    await mover.client.create_container(mover.estate.place)
    await mover.client.set_secret(mover.estate.place, "s000001", "another value")
    report = await mover.plan(policy=policy)

    assert report.counts[count] == 1
    assert report.complete is (policy is not Policy.STOP)


async def test_nothing_is_no_plan(mover: Mover) -> None:
    """An estate in which nothing is found is no success, and the plan says so."""
    for key in list(mover.estate.rows):
        mover.estate.remove(key)
    report = await mover.plan()

    assert not report.complete
    assert report.next == [NOTHING_FOUND]


async def test_apply_moves_what_was_planned(mover: Mover, tmp_path: Path) -> None:
    """With a plan's file only what is still as it was planned moves; the rest is told and left."""
    run = (await mover.journal()).run.name
    file = PlanFile(tmp_path / "plan", run)
    await mover.plan(out=file.add)
    file.finish()
    mover.estate.change("hosts/h000000")
    new = mover.estate.put(5)
    with DiskMap() as planned:
        read_plan(tmp_path / "plan", run, planned)
        report = await mover.apply(planned=planned)

    assert not report.complete
    assert report.counts["created"] == 4
    assert {(each.kind, each.item) for each in report.problems} == {("unplanned", "hosts/h000000"), ("unplanned", new)}
    held = await contents(mover.client)
    assert new not in held
    assert "secrets/hosts/h000000" not in held


async def test_the_file(mover: Mover, tmp_path: Path) -> None:
    """It is readable by its owner alone, holds a line for each item and no value, and appears when it is whole."""
    path = tmp_path / "plan"
    file = PlanFile(path, "a-run")
    await mover.plan(out=file.add)
    assert not path.exists()
    file.finish()

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_text().splitlines()) == 1 + len(mover.estate.rows)
    assert not any(mover.estate.secret_of(number) in path.read_text() for number in range(4))
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_given_up(tmp_path: Path) -> None:
    """Nothing is left of a plan that broke off."""
    file = PlanFile(tmp_path / "plan", "a-run")
    file.add("an item", "its mark")
    file.abandon()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'["strongroom plan 1","a-run","2026-01-01T00:00:00Z"]\n["item","ma', "cut short"),
        (b'["strongroom plan 1","another-run","2026-01-01T00:00:00Z"]\n', "not a plan of a-run"),
        (b"hello\n", "not a plan"),
        (b"", "not a plan"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, text: bytes | None, said: str) -> None:
    """A file that is missing, cut short, or of another run is refused with what to do."""
    path = tmp_path / "plan"
    if text is not None:
        path.write_bytes(text)

    with DiskMap() as planned, pytest.raises(MigrationError, match=said):
        read_plan(path, "a-run", planned)


async def test_an_item_that_two_batches_part(mover: Mover) -> None:
    """A host whose key comes only in the next batch is a host all the same."""
    for number in range(1000):
        host = Host(address=f"many-{number:04}")
        creds = HostCreds(address=host.address, ssh_priv_key=Secret(in_base64(str(number))))
        mover.estate.put_records(host.address, [Record.of(host), Record.of(creds)])
    report = await mover.plan()

    assert report.counts["create"] == 6 + 2 * 1000
    assert "no host" not in report.counts

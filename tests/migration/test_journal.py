"""The journal of a run: its rows, its head, and the one lock that keeps two migrations apart."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest

from strongroom.migration import journal as journals
from strongroom.migration.apply import Apply
from strongroom.migration.errors import MigrationError, NoSuchRun, RunHeld
from strongroom.migration.journal import (
    LIST_RUNS,
    LOCK,
    ROLLED_BACK,
    Applied,
    Copy,
    Former,
    Holder,
    Journal,
    Scrubbed,
    Stage,
    new_run,
    now,
    run_name,
)
from strongroom.migration.target import Target
from strongroom.models.names import MIGRATION
from strongroom.models.secret import Secret
from strongroom.storage_service import wire
from strongroom.storage_service.backends.base import MAX_PAGE
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.client.bulk_operations import Remove, Write
from strongroom.storage_service.errors import Changed
from tests.migration.house import house
from tests.migration.moving import Mover, contents, journalled, rows_of
from tests.migration.sources.memory import MemoryEstate


@pytest.fixture
def store() -> MemoryBackend:
    """The service's store."""
    return MemoryBackend()


@pytest.fixture
async def target(store: MemoryBackend) -> AsyncIterator[Target]:
    """A service."""
    async with house(store) as client:
        yield Target(client)


@pytest.fixture
def journal(target: Target) -> Journal:
    """The journal of a run that is to begin."""
    return Journal(target, new_run("memory", "somewhere", {}, "memory:somewhere"))


@pytest.fixture
def another_process() -> Iterator["subprocess.Popen[bytes]"]:
    """A process of this machine that lives."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def holder(**differences: Any) -> Holder:
    """Return a holder of the lock: this process, but for the differences."""
    return msgspec.structs.replace(journals._myself("apply", "other-run"), **differences)


async def take(target: Target, by: Holder) -> None:
    """Let the lock be taken by somebody."""
    await target.client.commit_bulk([Write(LOCK, Secret(msgspec.json.encode(by).decode()), wire.NEW)])


async def lock(target: Target) -> bool:
    """Whether anybody has the lock."""
    return (await target.client.read_bulk([LOCK]))[0] is not None


def copy(name: str) -> Copy:
    """Return something that a row may hold."""
    return Copy("item", "mark", name, "created", "digest")


# The lock.


async def test_it_is_taken_and_let_go(target: Target, journal: Journal) -> None:
    """The lock is there for as long as the block takes, also one that fails, and says who has it."""
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with journal.held("apply"):
            found = await Journal.holder(target)
            assert found is not None
            assert (found.verb, found.run) == ("apply", journal.run.name)
            raise ZeroDivisionError
    assert not await lock(target)
    assert await Journal.holder(target) is None


async def test_two_at_once(target: Target, journal: Journal) -> None:
    """The second is refused, whatever run it is of, and is told who is at it."""
    other = Journal(target, new_run("memory", "elsewhere", {}, "memory:elsewhere"))
    async with journal.held("apply"):
        with pytest.raises(RunHeld, match=r"a migration is under way: apply of memory-.* by process \d+ on"):
            async with other.held("plan"):
                pass
        assert await lock(target)


async def test_two_in_the_same_moment(target: Target, journal: Journal) -> None:
    """Of two that begin in one moment one is refused."""
    other = Journal(target, new_run("memory", "elsewhere", {}, "memory:elsewhere"))
    there = asyncio.Event()

    async def hold(one: Journal) -> None:
        async with one.held("apply"):
            await there.wait()

    tasks = [asyncio.create_task(hold(one)) for one in (journal, other)]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    there.set()
    ended = await asyncio.gather(*tasks, return_exceptions=True)

    assert len(done) == 1
    assert sorted(type(each).__name__ for each in ended) == ["NoneType", "RunHeld"]


async def test_a_living_process(target: Target, journal: Journal, another_process: "subprocess.Popen[bytes]") -> None:
    """What a living process of this machine holds is not taken."""
    await take(target, holder(pid=another_process.pid, started=journals._started(another_process.pid)))
    with pytest.raises(RunHeld, match=f"process {another_process.pid} on .*; wait for it, or end it"):
        async with journal.held("apply"):
            pass


async def test_a_process_that_ended(
    target: Target, journal: Journal, another_process: "subprocess.Popen[bytes]"
) -> None:
    """A process that was killed is succeeded at once, even while its parent has not yet heard of its end."""
    started = journals._started(another_process.pid)
    await take(target, holder(pid=another_process.pid, started=started))
    another_process.kill()
    while journals._started(another_process.pid):  # until it is a zombie: nobody has waited for it
        await asyncio.sleep(0.001)

    assert started
    assert await Journal.holder(target) is None
    async with journal.held("apply"):
        pass
    another_process.wait()
    await take(target, holder(pid=another_process.pid, started=started))
    async with journal.held("apply"):
        pass


@pytest.mark.parametrize(
    "differences",
    [{"started": "1"}, {"boot": "another"}, {"boot": "another", "namespace": "another"}, {"started": ""}],
    ids=["its number is another's by now", "the machine started anew", "the same in a container", "none at all"],
)
async def test_who_is_seen_to_be_dead(target: Target, journal: Journal, differences: dict[str, str]) -> None:
    """Who cannot be alive is succeeded at once."""
    await take(target, holder(**differences))

    assert await Journal.holder(target) is None
    async with journal.held("apply"):
        assert await Journal.holder(target) is not None
    assert not await lock(target)


@pytest.mark.parametrize(
    "differences",
    [{"machine": "another"}, {"host": "another.example"}, {"namespace": "pid:[1]"}],
    ids=["another machine", "another container", "another namespace"],
)
async def test_who_cannot_be_seen(target: Target, journal: Journal, differences: dict[str, str]) -> None:
    """Who may live where it cannot be seen is succeeded only when somebody says so."""
    await take(target, holder(**differences))
    with pytest.raises(RunHeld, match="cannot be seen from here; if it has ended, say --take-over"):
        async with journal.held("apply"):
            pass

    assert await Journal.holder(target) is not None
    async with journal.held("apply", take_over=True):
        pass
    assert not await lock(target)


async def test_who_was_taken_for_dead_writes_nothing(target: Target, journal: Journal) -> None:
    """Whoever was taken over finds that out with the next commit, and leaves the other's lock alone."""
    other = Journal(target, new_run("memory", "elsewhere", {}, "memory:elsewhere"))
    async with journal.held("apply"):
        await journal.begin()
        async with other.held("apply", take_over=True):
            with pytest.raises(RunHeld, match="taken this migration over"):
                await journal.reached("applied", Stage(at=now(), complete=True, counts={}))
            with pytest.raises(RunHeld):
                await journal.check_held()
            row = journal.row("applied", journal.next_number(), Applied(copies=[copy("secrets/c/k")]))
            with pytest.raises(Changed):
                await target.commit([row, journal.guard], row.name)
            await other.begin()
            await other.check_held()
    assert await journal.numbers("applied") == []
    found = await Journal.find(target, journal.run.name)
    assert found is not None
    assert found.run.stages == {}


async def test_taken_over_in_the_middle_of_an_apply(target: Target) -> None:
    """An apply that is taken over ends, and none of its records is written after that."""
    estate = MemoryEstate()
    estate.put_many(range(3))
    mover = Mover(target.client, estate)
    first, second = await mover.journal(), await mover.journal()
    source = estate.source()

    async with first.held("apply"):
        await source.open(first.digest)
        await first.begin()
        async with second.held("apply", take_over=True):
            with pytest.raises(RunHeld):
                await Apply(source, target, first).run()
    assert await contents(target.client) == {}


async def test_without_the_lock(journal: Journal) -> None:
    """Nothing is written by who does not hold the lock."""
    with pytest.raises(RunHeld, match="does not hold"):
        await journal.begin()
    with pytest.raises(RunHeld, match="does not hold"):
        await journal.forget()


# The head.


def test_a_run_has_the_name_of_its_estate() -> None:
    """The same estate has the same run; another has another; and no name tells an identity."""
    assert run_name("csv", "file:/etc/hosts") == run_name("csv", "file:/etc/hosts")
    assert run_name("csv", "file:/etc/hosts") != run_name("csv", "file:/etc/passwd")
    assert journals.RUN_NAME.fullmatch(run_name("csv", "file:/etc/hosts"))
    assert "etc" not in run_name("csv", "file:/etc/hosts")


async def test_a_run_is_found_again(target: Target, journal: Journal) -> None:
    """A run that began is found by its name, with its keys and its stages, and listed; none other is."""
    stage = Stage(at=now(), complete=True, counts={"items": 3}, sum="sum")
    async with journal.held("apply"):
        await journal.begin()
        await journal.reached("applied", stage)
    found = await Journal.find(target, journal.run.name)

    assert found is not None
    assert found.run == journal.run
    assert found.run.stages == {"applied": stage}
    assert found.digest.of("x") == journal.digest.of("x")
    assert await Journal.runs(target) == [journal.run.name]
    assert await Journal.find(target, "no-such-run") is None


@pytest.mark.parametrize("name", ["", "UPPER", "../lock", "a/b", "-x", "x" * 64])
async def test_names_that_are_none(target: Target, name: str) -> None:
    """What cannot be a run's name is told to be none, and asked of nobody."""
    with pytest.raises(NoSuchRun) as caught:
        await Journal.find(target, name)
    assert caught.value.next == (LIST_RUNS,)


async def test_stages_are_taken_back(target: Target, journal: Journal) -> None:
    """All of the stages named are taken back, and no other."""
    async with journal.held("apply"):
        for stage in ("applied", "verified", "scrubbed"):
            await journal.reached(stage, Stage(at=now(), complete=True, counts={}))
        await journal.left("applied", "verified", "no such stage")
    found = await Journal.find(target, journal.run.name)

    assert found is not None
    assert set(found.run.stages) == {"scrubbed"}


async def test_two_begin_one_run(target: Target) -> None:
    """Two that begin the same run in one moment do not both think that it is theirs."""
    journal, other = (Journal(target, new_run("memory", "s", {}, "memory:s")) for _ in range(2))
    async with journal.held("apply"):
        await journal.begin()
    async with other.held("apply"):
        with pytest.raises(RunHeld):
            await other.begin()


@pytest.mark.parametrize("text", ["", "{}", "[1]", "no JSON, but a secret", '{"x": ' + "[" * 60_000])
async def test_a_damaged_head(target: Target, journal: Journal, text: str) -> None:
    """A head that is none is told as damaged, and none of it is repeated."""
    name = f"{MIGRATION}{journal.run.name}/run"
    await target.client.commit_bulk([Write(name, Secret(text or " "), wire.NEW)])
    with pytest.raises(MigrationError, match="damaged, or a later version") as caught:
        await Journal.find(target, journal.run.name)

    assert "a secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


# Rows.


async def test_rows_come_in_order(journal: Journal, target: Target) -> None:
    """Rows come in the order of their numbers, however many; of those asked for, in the order asked."""
    count = MAX_PAGE // 10
    async with journal.held("apply"):
        for _ in range(count):
            row = journal.row("applied", journal.next_number(), Applied(copies=[copy("secrets/c/k")]))
            await target.commit([row, journal.guard], row.name)

    assert [number async for number, _ in journal.rows("applied", Applied)] == list(range(1, count + 1))
    assert [number async for number, _ in journal.rows("applied", Applied, [7, 3])] == [7, 3]


async def test_numbers_go_on(journal: Journal, target: Target) -> None:
    """A number is given once, over all kinds of rows and all processes."""
    async with journal.held("apply"):
        for kind, content in (
            ("applied", Applied(copies=[])),
            ("former", Former(values={})),
            ("scrubbed", Scrubbed(originals=[])),
        ):
            row = journal.row(kind, journal.next_number(), content)
            await target.commit([row, journal.guard], row.name)
    later = Journal(target, journal.run)
    async with later.held("apply"):
        assert later.next_number() == 4


async def test_a_row_that_is_gone(journal: Journal, target: Target) -> None:
    """A row that is missing is told, and not passed over."""
    with pytest.raises(MigrationError, match="row 7 of former is gone"):
        _ = [row async for row in journal.rows("former", Former, [7])]


async def test_to_forget(journal: Journal, target: Target) -> None:
    """To forget removes every row, the head last, and nothing of another run; the run can begin again."""
    other = Journal(target, new_run("memory", "elsewhere", {}, "memory:elsewhere"))
    for one in (journal, other):
        async with one.held("apply"):
            await one.begin()
            for _ in range(130):
                row = one.row("applied", one.next_number(), Applied(copies=[]))
                await target.commit([row, one.guard], row.name)
    async with journal.held("forget"):
        await journal.forget()

    assert await Journal.runs(target) == [other.run.name]
    assert len(await journalled(target.client)) == 131
    async with journal.held("apply"):
        await journal.begin()
    assert set(await Journal.runs(target)) == {journal.run.name, other.run.name}


async def test_a_run_that_was_rolled_back(journal: Journal, target: Target) -> None:
    """What a rollback that died before its end left of the journal is forgotten when the run begins anew."""
    async with journal.held("rollback"):
        row = journal.row("applied", journal.next_number(), Applied(copies=[copy("secrets/c/k")]))
        await target.commit([row, journal.guard], row.name)
        await journal.reached(ROLLED_BACK, Stage(at=now(), complete=True, counts={}))
    found = await Journal.find(target, journal.run.name)
    assert found is not None
    async with found.held("apply"):
        await found.begin()

    assert await found.numbers("applied") == []
    assert found.run.stages == {}


async def test_it_is_sealed(journal: Journal, target: Target, store: MemoryBackend) -> None:
    """Nothing of a journal lies in the store in the clear, and no repr shows any of it."""
    async with journal.held("apply"):
        await journal.begin()
        contents_: tuple[Former | Scrubbed, ...] = (
            Former(values={"n": "a secret value"}),
            Scrubbed(originals=[("i", "m", "a secret value")]),
        )
        for kind, content in zip(("former", "scrubbed"), contents_, strict=True):
            row = journal.row(kind, journal.next_number(), content)
            await target.commit([row, journal.guard], row.name)
    rows = await rows_of(store)

    assert len([name for name in rows if name.startswith(MIGRATION)]) == 3
    for text in rows.values():
        assert b"a secret value" not in text
        assert journal.run.digest_key.encode() not in text
    for shown in (repr(journal.run), *map(repr, contents_), repr(journal.digest)):
        assert "a secret value" not in shown
        assert journal.run.digest_key not in shown


async def test_rows_of_nobody(target: Target, journal: Journal) -> None:
    """To remove what nobody holds any more does no harm: a lock that is gone is no error at the end."""
    async with journal.held("apply"):
        await target.client.commit_bulk([Remove(LOCK)])
    assert not await lock(target)

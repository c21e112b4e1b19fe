"""Reads that wait together go to etcd together: how often etcd is asked, who fails with whom, and what each may see."""

import asyncio
import random
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from strongroom.storage_service.backends import open_backend
from strongroom.storage_service.backends.base import Backend, Delete, Entry, Put
from strongroom.storage_service.backends.etcd.cluster import Cluster
from strongroom.storage_service.backends.etcd.failures import CallFailed, Kind
from strongroom.storage_service.backends.etcd.methods import Metadata
from strongroom.storage_service.backends.etcd.reads import IN_FLIGHT, SIZE, Reads
from strongroom.storage_service.backends.etcd.target import parse
from strongroom.storage_service.backends.url import split
from tests.backends.history import Act, History
from tests.etcd_server import Etcd, running
from tests.tcp_fault import Fault, TcpFault

NONE, LOSE_REQUEST, LOSE_REPLY, HOLD, SWALLOW = Fault
PATIENT: Final = "20"  # seconds; an attempt has 8 of them, and no test waits for that
WRITES: Final = 50  # in a history, of each writer
READS: Final = 500  # in a history, of all readers
_NUMBERS: Final = count()


@asynccontextmanager
async def opened(url: str, timeout: str = PATIENT) -> AsyncGenerator[Backend, None]:
    """Give an opened backend."""
    backend = open_backend(url, timeout=timeout)
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()


@asynccontextmanager
async def scene(etcd: Etcd, timeout: str = PATIENT) -> AsyncGenerator[tuple[TcpFault, Backend, Backend], None]:
    """Give a network, a backend that goes through it, and another on the same names that does not."""
    prefix = f"reads-{next(_NUMBERS)}"
    async with (
        TcpFault(etcd.members[0].endpoint).running() as network,
        opened(f"etcd://{network.endpoint}/{prefix}", timeout) as backend,
        opened(etcd.url(prefix)) as other,
    ):
        yield network, backend, other
        network.say(())


async def fill(backend: Backend, names: int, value: bytes = b"") -> dict[str, Entry]:
    """Write so many names, and return what is under each."""
    made = {f"n/{number:03}": value or b"%d" % number for number in range(names)}
    revisions = [await backend.commit([Put(name, each)]) for name, each in made.items()]
    return {name: Entry(each, revision) for (name, each), revision in zip(made.items(), revisions, strict=True)}


async def get_all(backend: Backend, names: dict[str, Entry]) -> dict[str, Entry | None]:
    """Read each of *names* by a call of its own, all at once."""
    return dict(zip(names, await asyncio.gather(*map(backend.get, names)), strict=True))


# How often etcd is asked.


@pytest.mark.parametrize(("callers", "requests"), [(1, 1), (2, 1), (64, 1), (128, 1), (129, 2), (300, 3)])
async def test_reads_of_one_turn_go_together(etcd: Etcd, callers: int, requests: int) -> None:
    """So many reads at once are one request for each 128 of them, and each gets its own answer."""
    async with scene(etcd) as (network, backend, other):
        names = await fill(other, callers)
        for _ in range(60):
            await backend.get("n/000")  # it is known that values are small
        before = network.requests

        assert await get_all(backend, names) == names
        assert network.requests - before == requests


async def test_what_waits_behind_others_goes_together(etcd: Etcd) -> None:
    """While as many requests are under way as may be, all reads that come gather into the next one."""
    async with scene(etcd) as (network, backend, other):
        names = await fill(other, 40)
        before = network.requests
        network.say([HOLD])
        held = []
        for name in list(names)[:IN_FLIGHT]:
            held.append(asyncio.create_task(backend.get(name)))
            while network.requests - before < len(held):
                await asyncio.sleep(0.001)
        gathered = []
        for name in names:
            gathered.append(asyncio.create_task(backend.get(name)))
            await asyncio.sleep(0)
        assert network.requests - before == IN_FLIGHT
        network.release()

        assert await asyncio.gather(*gathered) == list(names.values())
        assert await asyncio.gather(*held) == list(names.values())[:IN_FLIGHT]
        assert network.requests - before == IN_FLIGHT + 1


async def test_one_name_is_read_once_for_all(etcd: Etcd) -> None:
    """A hundred callers that want one name cost one answer with one value."""
    async with scene(etcd) as (network, backend, other):
        names = await fill(other, 1, bytes(100_000))
        requests, replied = network.requests, network.replied_bytes

        assert await asyncio.gather(*(backend.get("n/000") for _ in range(100))) == [names["n/000"]] * 100
        assert network.requests - requests == 1
        assert network.replied_bytes - replied < 2 * 100_000


async def test_names_that_are_not_there_are_none(etcd: Etcd) -> None:
    """Among reads that go together, those of names that do not exist find nothing, and the others what is theirs."""
    async with scene(etcd) as (_, backend, other):
        names = await fill(other, 10)
        await other.commit([Delete("n/003"), Delete("n/009")])
        expected = {name: None if name in {"n/003", "n/009"} else entry for name, entry in names.items()}

        assert await get_all(backend, names) == expected


async def test_large_values_go_in_answers_of_a_mebibyte(etcd: Etcd) -> None:
    """Once a value was large, as many go together as make a mebibyte; when all are small again, more do."""
    async with scene(etcd) as (network, backend, other):
        large = await fill(other, 32, bytes(SIZE // 8))
        await backend.get("n/000")
        before = network.requests
        assert await get_all(backend, large) == large
        assert network.requests - before == 4

        small = await fill(other, 32)
        for _ in range(60):
            await backend.get("n/000")
        before = network.requests
        assert await get_all(backend, small) == small
        assert network.requests - before == 1


# Who fails with whom.


async def test_a_caller_that_goes_harms_nobody(etcd: Etcd) -> None:
    """Callers that are cancelled while their reads wait, or are under way, leave the answers of all others alone."""
    async with scene(etcd) as (network, backend, other):
        names = await fill(other, 60)
        network.say([HOLD])
        under_way = [asyncio.create_task(backend.get(name)) for name in names]
        await network.held.wait()
        waiting = [asyncio.create_task(backend.get(name)) for name in names]
        await asyncio.sleep(0)
        for task in (*under_way[::3], *waiting[::3]):
            task.cancel()
        network.release()

        for tasks in (under_way, waiting):
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            for number, (answer, entry) in enumerate(zip(answers, names.values(), strict=True)):
                assert isinstance(answer, asyncio.CancelledError) if number % 3 == 0 else answer == entry


async def test_what_nobody_waits_for_is_ended(etcd: Etcd) -> None:
    """When all callers of a request have gone, etcd is told; the next reads go on as if nothing had been."""
    async with scene(etcd) as (network, backend, other):
        names = await fill(other, 8)
        network.say([HOLD])
        tasks = [asyncio.create_task(backend.get(name)) for name in names]
        await network.held.wait()
        for task in tasks:
            task.cancel()
        async with asyncio.timeout(5):
            await network.cancelled.wait()
        network.release()

        assert await get_all(backend, names) == names


async def test_cancelled_turns_are_passed_on(etcd: Etcd) -> None:
    """However callers come and go within turns of the loop, none keeps a place under way that another waits for."""
    dice = random.Random(5)
    async with scene(etcd) as (_, backend, other):
        names = list((await fill(other, 8)).items())
        for _ in range(300):
            tasks = [asyncio.create_task(backend.get(dice.choice(names)[0])) for _ in range(dice.randrange(1, 4))]
            for _ in range(dice.randrange(5)):
                await asyncio.sleep(0)
            for task in tasks[: dice.randrange(4)]:
                task.cancel()
            async with asyncio.timeout(5):
                await asyncio.gather(*tasks, return_exceptions=True)
        name, entry = names[0]
        async with asyncio.timeout(5):
            assert await backend.get(name) == entry


@pytest.mark.parametrize("fault", [LOSE_REQUEST, LOSE_REPLY])
async def test_who_failed_in_company_is_asked_alone(etcd: Etcd, fault: Fault) -> None:
    """Where a request for many is lost, each asks again by itself, so that no one's value can stop the others'."""
    async with scene(etcd) as (network, backend, other):
        names = await fill(other, 8)
        before = network.requests
        network.say([fault])

        assert await get_all(backend, names) == names
        assert network.requests - before == 1 + 8
        assert await get_all(backend, names) == names
        assert network.requests - before == 1 + 8 + 1


async def test_a_refusal_hits_whom_it_is_meant_for(tmp_path: Path) -> None:
    """Where etcd's user may read some keys of a request and not one other, that one fails and the rest are answered."""
    with running(tmp_path, flags=["--bcrypt-cost=4"]) as store:
        with store.admin() as admin:
            admin.put("/other/secret", b"hidden")
            admin.enable_auth("strongroom", "correct-horse", "/strongroom/")
        url = store.url(user="strongroom")
        async with opened(url.replace("@", ":correct-horse@")) as backend:
            names = await fill(backend, 10)
        cluster = Cluster(parse(split(url), {"password": "correct-horse"}))
        await cluster.open()
        keys = [f"/strongroom/{name}".encode() for name in names]
        with cluster.operation():
            answers = await asyncio.gather(*map(cluster.get, [b"/other/secret", *keys]), return_exceptions=True)
        await cluster.drain()
        await cluster.close()

        assert isinstance(answers[0], CallFailed)
        assert answers[0].kind is Kind.REFUSED
        assert answers[1:] == list(names.values())


async def test_a_limit_of_etcds_for_transactions_hits_nobody(tmp_path: Path) -> None:
    """Where etcd takes fewer operations in one transaction than go together, each read is still answered."""
    with running(tmp_path, flags=["--max-txn-ops=8"]) as store:
        async with opened(store.url()) as backend:
            names = await fill(backend, 32)
            assert await get_all(backend, names) == names


async def test_each_read_ends_in_its_own_time(tmp_path: Path) -> None:
    """Whether a read waits behind others or is under way with them, it ends when its own time is over, not theirs."""
    with running(tmp_path) as store:
        async with opened(store.url()) as backend:
            names = await fill(backend, 4)
        cluster = Cluster(parse(split(store.url()), {}))
        await cluster.open()
        (member,) = cluster.members
        keys = [f"/strongroom/{name}".encode() for name in names]
        store.members[0].signal(signal.SIGSTOP)
        began = cluster.time()
        patient = []
        for _ in range(IN_FLIGHT):
            patient.append(asyncio.create_task(member.reads.get(keys[0], (), began + 60)))
            patient.append(asyncio.create_task(member.reads.get(keys[1], (), began + 60)))
            with pytest.raises(CallFailed) as under_way:
                await member.reads.get(keys[2], (), cluster.time() + 0.2)
        with pytest.raises(CallFailed) as waiting:
            await member.reads.get(keys[3], (), cluster.time() + 0.2)
        took = cluster.time() - began
        store.members[0].signal(signal.SIGCONT)

        assert took < 10
        assert (under_way.value.kind, waiting.value.kind) == (Kind.LOST, Kind.LOST)
        found = [names["n/000"], names["n/001"]] * IN_FLIGHT
        assert await asyncio.gather(*patient) == found
        await cluster.drain()
        await cluster.close()


async def test_what_waits_for_a_member_goes_to_the_next(tmp_path: Path) -> None:
    """When a member hangs, reads that wait behind others go to the next one with them, not an attempt later."""
    with running(tmp_path, members=3) as cluster:
        async with opened(cluster.url()) as backend:
            names = await fill(backend, 30)
        follower = next(member for member in cluster.members if member is not cluster.leader())
        endpoints = ",".join(m.endpoint for m in (follower, *(m for m in cluster.members if m is not follower)))
        async with opened(f"etcd://{endpoints}", "10") as reader:
            assert await get_all(reader, names) == names
            follower.signal(signal.SIGSTOP)
            loop = asyncio.get_running_loop()
            began = loop.time()
            first = []
            for _ in range(IN_FLIGHT):
                first.append(asyncio.create_task(reader.get("n/000")))
                await asyncio.sleep(0.01)
            await asyncio.sleep(2)  # of the four seconds that an attempt has
            late = [asyncio.create_task(reader.get(name)) for name in names]

            assert await asyncio.gather(*first) == [names["n/000"]] * IN_FLIGHT
            assert await asyncio.gather(*late) == list(names.values())
            assert loop.time() - began < 5.5
            follower.signal(signal.SIGCONT)


# What each may see.


async def record(history: History, store: Backend, writer: Backend) -> None:
    """Let readers read through *store* while writers write past it, and record what each of them sees."""
    dice = random.Random(11)
    keys = [f"k/{number}" for number in range(6)]
    over = asyncio.Event()

    async def write(number: int) -> None:
        turns = count()
        while (turn := next(turns)) < WRITES or sum(not act.wrote for act in history.acts) < READS:
            key, value = dice.choice(keys), f"{number}.{turn}".encode()
            began = next(history.clock)
            revision = await writer.commit([Put(key, value)])
            history.acts.append(Act(key, True, revision, value, began, next(history.clock)))

    async def read() -> None:
        while not over.is_set():
            key = dice.choice(keys)
            began = next(history.clock)
            entry = await store.get(key)
            seen = (entry.revision, entry.value) if entry else (0, b"")
            history.acts.append(Act(key, False, *seen, began, next(history.clock)))
            for _ in range(dice.randrange(4)):
                await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for _ in range(24):
            group.create_task(read())
        async with asyncio.timeout(60):
            await asyncio.gather(*(write(number) for number in range(6)))
        over.set()


@pytest.mark.parametrize("faults", [False, True], ids=["good network", "bad network"])
async def test_reads_that_go_together_are_linearizable(etcd: Etcd, faults: bool) -> None:
    """No read misses a write acknowledged before it began, or goes back behind what another has seen, faults or not."""
    history = History()
    dice = random.Random(3)
    # One request of twenty, however fast the machine is: the others get through, and no read's time ends.
    script = [dice.choice([LOSE_REQUEST, LOSE_REPLY, *[NONE] * 38]) for _ in range(100_000)]
    async with scene(etcd) as (network, backend, other):
        network.say(script if faults else ())
        await record(history, backend, other)
        assert network.script or not faults

    assert history.faults() == []
    assert {act.key for act in history.acts if not act.wrote and act.revision} == {f"k/{n}" for n in range(6)}


class Joining(Reads):
    """What must not be: a read joins one of its name that is under way already."""

    _flights: dict[bytes, "asyncio.Task[Entry | None]"]

    async def get(self, key: bytes, token: Metadata, until: float, *, alone: bool = False) -> Entry | None:
        flights = self.__dict__.setdefault("_flights", {})
        if key not in flights:
            flights[key] = asyncio.create_task(super().get(key, token, until, alone=alone))
            flights[key].add_done_callback(lambda _: flights.pop(key))
        return await asyncio.shield(flights[key])


async def test_the_checker_finds_reads_that_join_older_ones(etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were reads to share an answer that was asked for before they began, the history would show it."""
    monkeypatch.setattr("strongroom.storage_service.backends.etcd.cluster.Reads", Joining)
    history = History()
    async with scene(etcd) as (_, backend, other):
        await record(history, backend, other)

    assert history.faults()


def _history(*acts: tuple[bool, int, int, int]) -> History:
    return History(
        [
            Act("k", wrote, revision, b"%d" % revision if revision else b"", began, ended)
            for wrote, revision, began, ended in acts
        ]
    )


@pytest.mark.parametrize(
    ("history", "right"),
    [
        (_history((True, 5, 0, 1), (False, 5, 2, 3)), True),
        (_history((True, 5, 0, 1), (False, 0, 2, 3)), False),  # a write that was there is missed
        (_history((True, 5, 0, 3), (False, 0, 1, 2)), True),
        (_history((True, 5, 0, 9), (False, 5, 1, 2), (False, 0, 3, 4)), False),  # it was seen, and then no more
        (_history((True, 5, 0, 9), (False, 5, 1, 4), (False, 0, 2, 3)), True),
        (_history((False, 5, 0, 1), (True, 5, 2, 3)), False),  # seen before it was written
        (_history((True, 6, 0, 1), (True, 5, 2, 3)), False),  # a later write has an earlier revision
        (_history((True, 5, 0, 1), (True, 5, 2, 3)), False),
        (_history((True, 5, 0, 1), (False, 4, 2, 3)), False),  # nobody wrote that
    ],
)
def test_the_checker_is_right(history: History, right: bool) -> None:
    """Of histories written by hand, those that one store could have made pass, and no others."""
    assert (not history.faults()) is right

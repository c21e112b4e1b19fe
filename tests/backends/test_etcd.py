"""What a backend on etcd does with its own keys, and what it does when etcd is away, slow, full, or loses a member."""

import asyncio
import itertools
import signal
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
import uvloop

from strongroom.storage_service.backends import open_backend
from strongroom.storage_service.backends.base import (
    ABSENT,
    MAX_PAGE,
    PRESENT,
    Backend,
    Change,
    Check,
    Conflict,
    Delete,
    Entry,
    Put,
    Vacant,
)
from strongroom.storage_service.backends.etcd import EtcdBackend
from strongroom.storage_service.errors import Fate, TooLarge, Unavailable
from tests.etcd_server import Etcd, Member, running
from tests.tcp_fault import Fault, TcpFault

SHORT: Final = "1.5"  # seconds of an operation's timeout where a test waits for it to pass
_NUMBERS: Final = itertools.count()


@asynccontextmanager
async def opened(etcd: Etcd, timeout: str = "4.0", prefix: str | None = None) -> AsyncGenerator[Backend, None]:
    """Give a backend on a prefix of its own."""
    backend = open_backend(etcd.url(prefix or f"t-{next(_NUMBERS)}"), timeout=timeout)
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """Run an etcd of one member that tests may stop and start."""
    with running(tmp_path_factory.mktemp("mortal")) as store:
        yield store


# Keys.


async def test_no_key_outside_the_prefix_is_touched(etcd: Etcd) -> None:
    """Neither reading nor emptying a store sees or changes keys beside its prefix, however alike."""
    alike = ("/prefix", "/prefix/", "/prefix0", "/prefix/own0", "/prefix/ow")
    with etcd.admin() as admin:
        for key in (*alike, "/zzz"):
            admin.put(key, b"1")
        async with opened(etcd, prefix="prefix/own") as backend:
            await backend.commit([Vacant("")])
            await backend.commit([Put("a", b"one"), Put("z", b"one")])
            assert (await backend.list("")).names == ("a", "z")
            await backend.commit([Delete("a"), Delete("z")])
            await backend.commit([Vacant("")])
        assert {key: kv.value for key, kv in admin.keys("/prefix").items()} == dict.fromkeys(alike, b"1")
        assert "/zzz" in admin.keys("/zzz")


async def test_receipts_are_not_records(etcd: Etcd) -> None:
    """What settles lost writes is neither listed nor in the way of vacancy, and is gone after closing."""
    async with opened(etcd, prefix="receipts") as backend:
        await backend.commit([Put("a", b"one")])
        with etcd.admin() as admin:
            assert any("~" in key for key in admin.keys("/receipts/"))
        assert (await backend.list("")).names == ("a",)
        await backend.commit([Delete("a")])
        await backend.commit([Vacant("")])

    with etcd.admin() as admin:
        assert admin.keys("/receipts/") == {}


async def test_removed_receipts_are_made_anew(etcd: Etcd) -> None:
    """When somebody removes the receipts of a running service, its commits go on."""
    async with opened(etcd, prefix="swept") as backend:
        await backend.commit([Put("a", b"one")])
        with etcd.admin() as admin:
            admin.delete_all("/swept/~receipts/")
        revision = await backend.commit([Put("a", b"two")])

        entry = await backend.get("a")
        assert entry is not None
        assert (entry.value, entry.revision) == (b"two", revision)


@pytest.mark.parametrize(
    ("guard", "holds", "calls"),
    [
        (None, True, 1),
        (Check("keys", PRESENT), True, 1),
        (Check("keys", ABSENT), False, 1),
        (Vacant("keys/"), True, 2),  # a look first, which spares etcd to read every value there
        (Vacant("other/"), False, 1),
    ],
)
async def test_a_commit_is_one_round_trip(etcd: Etcd, guard: Change | None, holds: bool, calls: int) -> None:
    """A guard costs no question of its own, whether it holds or not; which did not hold is in the one answer."""
    async with opened(etcd) as backend:
        await backend.commit([Put("keys", b""), Put("other/a", b"")])
        before = etcd.calls("Txn")
        batch = [Put("a", b"1"), Put("index/a", b""), *([guard] if guard else [])]
        if holds:
            await backend.commit(batch)
        else:
            with pytest.raises(Conflict) as caught:
                await backend.commit(batch)
            assert caught.value.failed == (guard,)

        assert etcd.calls("Txn") - before == calls


async def test_a_key_that_is_no_name_is_said(etcd: Etcd) -> None:
    """A key that somebody else put under the prefix, and that cannot be a name, is an error that names the remedy."""
    async with opened(etcd, prefix="foreign") as backend:
        with etcd.admin() as admin:
            admin.put("/foreign/hü", b"")
        with pytest.raises(Unavailable, match="not a valid name"):
            await backend.list("")


async def test_listings_leave_values_where_they_are(etcd: Etcd) -> None:
    """Five thousand names are listed in five pages, and what crosses the wire is a small part of their values."""
    names = [f"n/{number:05}" for number in range(5 * MAX_PAGE)]
    value = bytes(2048)
    async with TcpFault(etcd.members[0].endpoint).running() as network:
        backend = open_backend(f"etcd://{network.endpoint}/big")
        await backend.open()
        for start in range(0, len(names), 100):
            await backend.commit([Put(name, value) for name in names[start : start + 100]])
        requests, replied = network.requests, network.replied_bytes
        listed: list[str] = []
        more = True
        while more:
            page = await backend.list("n/", listed[-1] if listed else None)
            listed += page.names
            more = page.more

        assert listed == names
        assert network.requests - requests == 5
        assert network.replied_bytes - replied < len(names) * len(value) / 10
        await backend.close()


async def test_a_batch_over_etcds_size_is_too_large(etcd: Etcd) -> None:
    """Lawful values that together are over etcd's limit for a request are TooLarge, and none of them is written."""
    async with opened(etcd) as backend:
        for size in (1_000_000, 400_000):  # refused by gRPC in etcd, and by etcd itself
            with pytest.raises(TooLarge):
                await backend.commit([Put(f"a/{number}", bytes(size)) for number in range(4)])
        assert (await backend.list("")).names == ()


def test_it_works_under_uvloop(etcd: Etcd) -> None:
    """On the event loop of the service's workers, the backend reads, writes and refuses."""

    async def work() -> None:
        async with opened(etcd) as backend:
            revision = await backend.commit([Put("a", b"one")])
            answers = await asyncio.gather(
                *(backend.commit([Put("a", b"two", revision)]) for _ in range(8)), return_exceptions=True
            )
            assert sum(isinstance(answer, Conflict) for answer in answers) == 7
            (written,) = [answer for answer in answers if isinstance(answer, int)]
            assert await backend.get("a") == Entry(b"two", written)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())


@pytest.mark.parametrize(
    ("limit", "parts"),
    [(0, 1), (15 * 100_000, 1), (16 * 100_000, 2), (31 * 100_000, 2), (40 * 100_000 - 1, 3)],
)
async def test_what_is_too_large_together_is_not_read_to_its_end(etcd: Etcd, limit: int, parts: int) -> None:
    """With a limit, reading stops with the part that goes over it: TooLarge, and no more crosses the wire."""
    prefix = f"t-{next(_NUMBERS)}"
    async with TcpFault(etcd.members[0].endpoint).running() as network, opened(etcd, prefix=prefix) as writer:
        names = [f"n/{number:02}" for number in range(40)]
        for name in names:
            await writer.commit([Put(name, bytes(100_000))])
        backend = open_backend(f"etcd://{network.endpoint}/{prefix}")
        assert isinstance(backend, EtcdBackend)
        await backend.open()
        requests, replied = network.requests, network.replied_bytes
        with pytest.raises(TooLarge):
            await backend.get_many(names, limit=limit)
        assert network.requests - requests == parts
        assert network.replied_bytes - replied < limit + 17 * 100_000

        assert len(await backend.get_many(names, limit=40 * 100_000)) == 40
        await backend.close()


async def test_a_limited_reading_is_of_one_moment(etcd: Etcd) -> None:
    """What is written between two parts of a limited reading is not seen by it."""
    prefix = f"t-{next(_NUMBERS)}"
    async with TcpFault(etcd.members[0].endpoint).running() as network, opened(etcd, prefix=prefix) as writer:
        names = [f"n/{number:02}" for number in range(20)]
        await writer.commit([Put(name, b"old") for name in names])
        backend = open_backend(f"etcd://{network.endpoint}/{prefix}")
        assert isinstance(backend, EtcdBackend)
        await backend.open()
        network.say([Fault.NONE, Fault.HOLD])
        reading = asyncio.create_task(backend.get_many(names, limit=100))
        await network.held.wait()
        await writer.commit([Put(name, b"new") for name in names])
        network.release()

        assert {entry.value for entry in (await reading).values()} == {b"old"}
        await backend.close()


# etcd is away, or slow.


async def test_a_stopped_etcd_is_unavailable_until_it_is_back(mortal: Etcd) -> None:
    """While etcd is down every operation is Unavailable in time, nothing applied; when it is back, all goes on."""
    (member,) = mortal.members
    async with opened(mortal, SHORT) as backend:
        await backend.commit([Put("a", b"one")])
        member.kill()
        with pytest.raises(Unavailable):
            await backend.get("a")
        async with asyncio.timeout(10):  # a hanging operation would never end
            answers = await asyncio.gather(
                *(backend.list(""), backend.get_many(["a"]), backend.commit([Put("a", b"two")])),
                return_exceptions=True,
            )
        assert [isinstance(answer, Unavailable) and answer.fate for answer in answers] == [Fate.NOT_APPLIED] * 3
        member.restart()

        entry = await backend.get("a")
        assert entry is not None
        assert entry.value == b"one"
        assert await backend.commit([Put("a", b"three", entry.revision)]) > entry.revision


async def test_a_restart_within_the_timeout_goes_unseen(mortal: Etcd) -> None:
    """Reads and writes that meet a restart which is over in time are answered as if nothing had been."""
    (member,) = mortal.members
    async with opened(mortal, "20") as backend:
        await backend.commit([Put("a", b"0")])
        member.kill()
        operations = asyncio.gather(backend.get("a"), backend.commit([Put("b", b"one", ABSENT)]))
        await asyncio.sleep(0)
        member.start()

        entry, revision = await operations
        assert entry is not None
        assert revision > entry.revision


async def test_opening_without_etcd_is_unavailable(tmp_path: Path) -> None:
    """A backend whose cluster does not answer cannot be opened, and says so in time."""
    nowhere = Etcd([Member("none", tmp_path, "http")])
    backend = open_backend(nowhere.url(), timeout="0.3")
    with pytest.raises(Unavailable):
        await backend.open()
    with pytest.raises(Unavailable):
        await backend.get("a")
    await backend.close()


async def test_a_slow_etcd_is_unavailable_and_says_the_fate(mortal: Etcd) -> None:
    """Where etcd hangs, reads and writes end in time; a write may yet be applied, and says that; then all goes on."""
    (member,) = mortal.members
    async with opened(mortal, SHORT) as backend:
        await backend.commit([Put("a", b"old")])
        member.signal(signal.SIGSTOP)
        answers = await asyncio.gather(backend.get("a"), backend.commit([Put("a", b"new")]), return_exceptions=True)
        member.signal(signal.SIGCONT)

        assert [answer.fate for answer in answers if isinstance(answer, Unavailable)] == [
            Fate.NOT_APPLIED,
            Fate.UNKNOWN,
        ]
        revision = await backend.commit([Put("b", b"after")])
        entry = await backend.get("a")
        assert entry is not None
        assert entry.value in {b"old", b"new"}
        assert entry.revision < revision


# etcd is full.


async def test_a_full_etcd_tells_the_truth(tmp_path: Path) -> None:
    """Out of space, each write says rightly whether it was applied; reads and deletes go on; freed, writes do too."""
    with running(tmp_path, flags=["--quota-backend-bytes=4194304"]) as store:
        async with opened(store) as backend:
            names: list[str] = []
            refused: dict[str, BaseException] = {}
            while not refused:
                news = [f"n/{len(names) + number}" for number in range(16)]
                writes = (backend.commit([Put(name, bytes(200_000), ABSENT)]) for name in news)
                answers = await asyncio.gather(*writes, return_exceptions=True)
                refused = {name: a for name, a in zip(news, answers, strict=True) if isinstance(a, BaseException)}
                names += news
            written = set(names) - refused.keys()

            assert written
            assert refused
            assert all(isinstance(a, Unavailable) and a.fate is Fate.NOT_APPLIED for a in refused.values())
            assert "disarm" in str(next(iter(refused.values())))
            assert set((await backend.list("n/")).names) == written
            assert set(await backend.get_many(names)) == written

            await backend.commit([Delete(name) for name in written])
            assert (await backend.list("")).names == ()
            async with opened(store) as late:
                assert await late.get(names[0]) is None
            with store.admin() as admin:
                admin.free_space()
            assert await backend.commit([Put("n/again", b"")]) > 0


# etcd loses a member.


async def test_a_cluster_loses_a_member_and_no_write(tmp_path: Path) -> None:
    """While the leader of three is killed, writers see no error, and every write answered is there."""
    with running(tmp_path, members=3) as cluster:
        leader = cluster.leader()
        endpoints = ",".join(m.endpoint for m in (leader, *(m for m in cluster.members if m is not leader)))
        backend = open_backend(f"etcd://{endpoints}", timeout="15")
        await backend.open()
        dead = asyncio.Event()
        written: dict[str, int] = {}

        async def write(writer: int) -> None:
            after = 0
            for number in itertools.count():
                name = f"w/{writer}/{number:04}"
                written[name] = await backend.commit([Put(name, b"x" * 500, ABSENT)])
                after += dead.is_set()
                if after == 20:
                    return

        writing = [asyncio.create_task(write(number)) for number in range(8)]
        while len(written) < 200:
            await asyncio.sleep(0.01)
        leader.kill()
        dead.set()
        await asyncio.gather(*writing)

        found: dict[str, int] = {}
        while (page := await backend.list("w/", max(found, default=None))).names:
            found |= {name: entry.revision for name, entry in (await backend.get_many(page.names)).items()}
        assert found == written
        await backend.close()

"""Deadlines and caps: nobody waits for ever, and who is silent makes room."""

import asyncio
import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from strongroom.deploy.serving.limits import Ledger, Limits
from tests.raw_http import Client, read_message, request
from tests.served import gunicorn, tcp_listener, unix_listener
from tests.serving.conftest import SMALL, Served

SHORT = "head=0.3, body=0.3, body_rate=10_000, write=0.3, idle=0.3, linger=0.2"
# Deadlines are looked at once a second; here more often, so that nobody waits for the tests.
OFTEN = "from strongroom.deploy.serving import workers\n\nworkers.TICK = 0.05\n"


@pytest.fixture(scope="module", params=["tcp", "unix"])
def hasty(request: pytest.FixtureRequest, short_dir: Path) -> Iterator[Served]:
    """The small face with short deadlines."""
    home = short_dir / f"hasty_{request.param}"
    home.mkdir()
    with (
        tcp_listener() if request.param == "tcp" else unix_listener(home / "s") as listener,
        gunicorn(home, SMALL + OFTEN, listener=listener, limits=SHORT) as running,
    ):
        place = listener.getsockname()[1] if request.param == "tcp" else home / "s"
        yield Served(place, b"/echo", b"", running)


async def drip(client: Client, piece: bytes) -> None:
    """Send *piece* again and again, until that is refused."""
    try:
        while True:
            client.writer.write(piece)
            await client.writer.drain()
            await asyncio.sleep(0.05)
    except ConnectionError:
        pass


SLOW = {
    "nothing": (b"", b"", None),
    "half a head": (b"GET /quick HTTP/1.1\r\nHo", b"", 408),
    "a head in drops": (b"GET /quick HTTP/1.1\r\nX: ", b"x", 408),
    "empty lines": (b"\r\n", b"\r\n", 400),
    "carriage returns": (b"\r", b"\r", 408),
    "half a body": (request("PUT", "/echo", "content-length: 10") + b"abc", b"", 408),
    "no body": (request("PUT", "/echo", "content-length: 10"), b"", 408),
    "a body that was asked for": (request("PUT", "/echo", "content-length: 10", "expect: 100-continue"), b"", 408),
    "a body in drops": (request("PUT", "/echo", "content-length: 100000"), b"x", 408),
    "chunks in drops": (request("PUT", "/echo", "transfer-encoding: chunked"), b"1\r\nx\r\n", 408),
    "a size in drops": (request("PUT", "/echo", "transfer-encoding: chunked"), b"0", 408),
    "a body that nobody reads": (request("PUT", "/hold", "content-length: 100000"), b"x", 408),
}


async def test_who_is_too_slow_is_told_and_closed(hasty: Served) -> None:
    """Whatever a connection waits for, it does not wait for ever; a request that has begun is answered with 408."""

    async def told(first: bytes, piece: bytes) -> int | None:
        async with await Client.at(hasty.place) as client:
            client.writer.write(first)
            dripping = asyncio.create_task(drip(client, piece) if piece else asyncio.sleep(0))
            answer = (await client.rest()).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
            dripping.cancel()
        assert answer.count(b"HTTP/1.1 ") == bool(answer)
        return int(answer[9:12]) if answer else None

    answers = await asyncio.gather(*(told(first, piece) for first, piece, _ in SLOW.values()))
    assert dict(zip(SLOW, answers, strict=True)) == {story: status for story, (_, _, status) in SLOW.items()}


async def test_an_idle_connection_is_closed_without_a_word(hasty: Served) -> None:
    """After an answer there is nothing to answer."""
    async with await Client.at(hasty.place) as client:
        assert (await client.ask(request("GET", "/quick"))).status == 200
        assert await client.rest() == b""


@pytest.mark.parametrize("path", ["/large/60000000", "/stream/60000000"])
async def test_who_does_not_read_is_cut_off(hasty: Served, path: str) -> None:
    """An answer that nobody takes ends, whole in memory or in pieces, and leaves nothing behind."""
    async with await Client.at(hasty.place) as client, await Client.at(hasty.place) as other:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.writer.write(request("GET", path))
        for _ in range(200):
            counts = json.loads((await other.ask(request("GET", "/counts"))).body)
            if counts["connections"] == 0:
                break
            await asyncio.sleep(0.05)
        assert counts["connections"] == 0
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len(await client.rest()) < 60_000_000


async def test_a_slow_body_that_goes_on_is_taken(hasty: Served) -> None:
    """It may take longer than the deadline, as long as enough of it comes."""
    async with await Client.at(hasty.place) as client:
        client.writer.write(request("PUT", "/echo", "content-length: 60000"))
        for _ in range(30):
            await asyncio.sleep(0.08)
            client.writer.write(b"x" * 2000)
        assert len((await asyncio.wait_for(read_message(client.reader), 10)).body) == 60_000


async def test_a_slow_reader_that_goes_on_gets_all(hasty: Served) -> None:
    """It may take longer than the deadline, as long as it reads."""
    async with await Client.at(hasty.place) as client:
        client.writer.write(request("GET", "/stream/20000000"))
        got = b""
        for _ in range(40):
            got += await client.reader.read(500_000)
            await asyncio.sleep(0.05)
        while len(got) < 20_000_000:
            piece = await client.reader.read(2**20)
            assert piece
            got += piece


async def test_a_request_that_is_worked_on_has_no_deadline_here(hasty: Served) -> None:
    """The client did its part; how long the face may take is the face's affair."""
    async with await Client.at(hasty.place) as client:
        client.writer.write(request("GET", "/hold"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.reader.read(1), 2.0)
        async with await Client.at(hasty.place) as other:
            await other.ask(request("GET", "/release"))
        assert (await asyncio.wait_for(read_message(client.reader), 10)).body == b"held"


# caps


@pytest.fixture
def capped(short_dir: Path, tmp_path: Path) -> Iterator[Served]:
    """The small face with room for 20 connections, 8 of one address."""
    home = tmp_path / "capped"
    home.mkdir()
    with (
        tcp_listener() as listener,
        gunicorn(home, SMALL, listener=listener, limits="connections=20, per_address=8") as running,
    ):
        yield Served(listener.getsockname()[1], b"/echo", b"", running)


class Crowd:
    """Clients on many addresses, all of which are gone in the end."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Crowd":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def connect(self, address: str) -> Client:
        """Connect from an address of the loopback."""
        assert isinstance(self._served.place, int)
        streams = await asyncio.open_connection("127.0.0.1", self._served.place, local_addr=(address, 0))
        return await self._stack.enter_async_context(Client(*streams))


async def closed(client: Client) -> bool:
    """Whether the other end has closed; one that has not would answer."""
    try:
        return (await client.ask(request("GET", "/quick"))).status != 200
    except (EOFError, ConnectionError):
        return True


async def test_one_address_has_so_many_and_the_longest_silent_goes(capped: Served) -> None:
    """Who has waited longest makes room for the new; nobody of another address does, and it is told once."""
    async with Crowd(capped) as crowd:
        other = await crowd.connect("127.0.0.9")
        clients = [await crowd.connect("127.0.0.2") for _ in range(8)]
        assert not await closed(clients[0])  # it has had its answer, and waits from now on
        clients += [await crowd.connect("127.0.0.2") for _ in range(3)]
        gone = await asyncio.gather(*map(closed, clients))
        assert [number for number, each in enumerate(gone) if each] == [1, 2, 3]
        assert not await closed(other)
        log = capped.log.read_text()
        assert log.count("8 connections from one address are open") == 1
        assert "20 connections" not in log


async def test_all_addresses_have_so_many_and_who_never_asked_goes_first(capped: Served) -> None:
    """A connection that had an answer stays as long as there is one that had none."""
    async with Crowd(capped) as crowd:
        asked = [await crowd.connect("127.0.0.2") for _ in range(7)]
        assert not any([await closed(each) for each in asked])
        silent = [await crowd.connect(f"127.0.0.{3 + number % 2}") for number in range(13)]
        new = [await crowd.connect(f"127.0.0.{5 + number % 3}") for number in range(9)]
        gone = await asyncio.gather(*map(closed, [*asked, *silent, *new]))
        assert gone == [False] * 7 + [True] * 9 + [False] * 4 + [False] * 9
        assert capped.log.read_text().count("20 connections are open") == 1


async def test_who_goes_in_the_moment_of_coming_is_closed_too(capped: Served) -> None:
    """Of 60 that a worker accepts at once, 8 are served; the others see their end, and nothing stays of them."""
    async with Crowd(capped) as crowd:
        other = await crowd.connect("127.0.0.2")
        assert not await closed(other)
        (worker,) = capped.running.workers
        descriptors = Path(f"/proc/{worker}/fd")
        before = len(list(descriptors.iterdir()))
        os.kill(worker, signal.SIGSTOP)  # so that they come while it looks elsewhere
        crowded = [await crowd.connect("127.0.0.3") for _ in range(60)]
        os.kill(worker, signal.SIGCONT)
        ends = await asyncio.gather(*(each.rest() for each in crowded[:52]))
        assert ends == [b""] * 52
        assert not any(await asyncio.gather(*map(closed, [other, *crowded[52:]])))
        assert len(list(descriptors.iterdir())) == before + 8


async def test_who_is_worked_for_is_never_closed_for_another(capped: Served) -> None:
    """Where all are at work, the new one goes; and there is room again when they are done."""
    async with Crowd(capped) as crowd:
        busy = [await crowd.connect("127.0.0.2") for _ in range(8)]
        for client in busy:
            client.writer.write(request("GET", "/hold"))
        other = await crowd.connect("127.0.0.3")
        while json.loads((await other.ask(request("GET", "/counts"))).body)["exchanges"] < 8:
            await asyncio.sleep(0)
        assert await closed(await crowd.connect("127.0.0.2"))
        assert (await other.ask(request("GET", "/release"))).status == 200
        answers = [await asyncio.wait_for(read_message(client.reader), 10) for client in busy]
        assert [answer.body for answer in answers] == [b"held"] * 8
        assert not await closed(await crowd.connect("127.0.0.2"))


async def test_who_does_not_send_the_body_makes_room(capped: Served) -> None:
    """A request whose body does not come is nobody's work: the longest silent of them goes for a new connection."""
    async with Crowd(capped) as crowd:
        waiting = [await crowd.connect("127.0.0.2") for _ in range(8)]
        other = await crowd.connect("127.0.0.3")
        for client in waiting:
            client.writer.write(request("PUT", "/echo", "content-length: 16000") + b"x")
        while json.loads((await other.ask(request("GET", "/counts"))).body)["exchanges"] < 8:
            await asyncio.sleep(0)
        assert not await closed(await crowd.connect("127.0.0.2"))
        assert await waiting[0].rest() == b""
        waiting[7].writer.write(b"x" * 15999)
        assert (await asyncio.wait_for(read_message(waiting[7].reader), 10)).status == 200


async def test_who_was_refused_makes_room(capped: Served) -> None:
    """A connection that is read on for a moment, so that its client sees a refusal, is in nobody's way."""
    async with Crowd(capped) as crowd:
        for _ in range(40):
            client = await crowd.connect("127.0.0.2")
            assert (await client.ask(b"nonsense\r\n\r\n")).status == 400
        assert not await closed(await crowd.connect("127.0.0.2"))


async def test_who_left_in_the_middle_is_gone_at_once(capped: Served) -> None:
    """A client that was refused, and had sent its last before, is not waited for."""
    async with Crowd(capped) as crowd:
        kept = await crowd.connect("127.0.0.3")
        for turn in range(40):
            client = await crowd.connect("127.0.0.2")
            client.writer.write((b"nonsense\r\n\r\n", request("PUT", "/early", "content-length: 9"))[turn % 2])
            client.writer.write_eof()
            await client.rest()
        assert json.loads((await kept.ask(request("GET", "/counts"))).body)["connections"] == 0
    assert "are open" not in capped.log.read_text()


async def test_two_thousand_silent_connections_keep_nobody_out(short_dir: Path, tmp_path: Path) -> None:
    """With the limits as they are shipped: all of them are open, and everybody else is served."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
    home = tmp_path / "shipped"
    home.mkdir()
    with tcp_listener() as listener, gunicorn(home, SMALL, listener=listener) as running:
        served = Served(listener.getsockname()[1], b"/echo", b"", running)
        async with Crowd(served) as crowd:
            for number in range(2000):
                await crowd.connect(f"127.0.0.{2 + number % 2}")
            client = await crowd.connect("127.0.0.1")
            for _ in range(100):
                assert (await client.ask(request("GET", "/quick"))).status == 200
            assert json.loads((await client.ask(request("GET", "/counts"))).body)["connections"] == 2000
            for _ in range(100):
                other = await crowd.connect("127.0.0.1")
                assert (await other.ask(request("GET", "/later"))).status == 200
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Counted:
    """A connection, as far as counting goes."""

    def __init__(self, ledger: Ledger, address: str) -> None:
        self.ledger, self.address, self.silent, self.gone = ledger, address, True, False
        assert ledger.enter(address)
        ledger.wait(self)

    def evict(self) -> None:
        """Be closed, to make room."""
        self.gone = True
        self.ledger.work(self)
        self.ledger.leave(self.address)


def test_a_ledger_forgets_who_left() -> None:
    """However many came and went from however many addresses: nothing of them stays."""
    ledger = Ledger(Limits(connections=100, per_address=3))
    for number in range(1000):
        one = Counted(ledger, f"address {number}")
        ledger.work(one)
        one.silent = False
        ledger.wait(one)
        one.evict()
    assert len(ledger) == 0
    kept = [ledger._of, ledger._silent, ledger._kept, ledger._waiting_of]
    assert [len(each) for each in kept] == [0, 0, 0, 0]  # type: ignore[arg-type]


def test_the_count_is_told_whenever_it_changes() -> None:
    """The other workers go by it."""
    told: list[int] = []
    ledger = Ledger(Limits(connections=100, per_address=2), told.append)
    connections = [Counted(ledger, "here") for _ in range(3)]
    assert [each.gone for each in connections] == [True, False, False]
    assert told == [1, 2, 1, 2]

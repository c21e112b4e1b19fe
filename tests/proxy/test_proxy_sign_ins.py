"""Sign-ins that wait: a flood of some keeps nobody else out, and nothing is hashed for who has left."""

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from strongroom.http_proxy.authn.base import Identity, Refused
from strongroom.http_proxy.authn.basic import COME_BACK, MAX_WAITING, THREADS, BasicAuthenticator
from strongroom.http_proxy.middleware import AuthenticationManager
from strongroom.http_proxy.refusals import RefusalReporter, RefusedRequest, Why
from strongroom.http_proxy.request import forwarded
from strongroom.storage_service.errors import Unavailable
from strongroom.storage_service.line import Line
from strongroom.storage_service.wire import http1
from tests.in_process import inside
from tests.raw_http import Message, request

FLOOD = MAX_WAITING + THREADS + 20  # sign-ins: more than have a thread or a place
ATTACKER = "192.0.2.1"
HASH = "$argon2id$of-"  # and the user's name: what `Hashing` takes for the hash of the user's name as a password


class Hashing:
    """Stands in for the hashing: slow until it is let go, and it knows who had a turn, and how many at once."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.passwords: list[str] = []  # in the order of their turns
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    def __call__(self, stored: str, password: bytes) -> bool:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            self.passwords.append(password.decode())
        self.go.wait(20)
        with self._lock:
            self._now -= 1
        return stored == HASH + password.decode()


@pytest.fixture
def hashing() -> Iterator[Hashing]:
    hashing = Hashing()
    yield hashing
    hashing.go.set()


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """Users whose passwords are their names."""
    path = tmp_path / "users.json"
    path.touch(0o600)
    path.write_text(json.dumps({name: {"hash": HASH + name} for name in ("alice", "bob", "carol")}))
    return path


class SignIns:
    """Sign-ins at one authenticator."""

    def __init__(self, basic: BasicAuthenticator) -> None:
        self.basic = basic
        self.begun: list[asyncio.Task[Identity | None]] = []

    async def begin(self, name: str, password: str, address: str) -> "asyncio.Task[Identity | None]":
        """Begin one, and let it come as far as it does by itself."""
        fields = {
            b"authorization": b"Basic " + base64.b64encode(f"{name}:{password}".encode()),
            b"forwarded": forwarded(address, "http").encode(),
        }
        task = asyncio.create_task(self.basic.authenticate(fields))
        self.begun.append(task)
        for _ in range(5):
            await asyncio.sleep(0)
        return task


@pytest.fixture
async def sign_ins(users: Path, hashing: Hashing) -> AsyncIterator[SignIns]:
    """Sign-ins, none of which outlives the test."""
    sign_ins = SignIns(BasicAuthenticator(users, verify=hashing))
    yield sign_ins
    hashing.go.set()
    await asyncio.gather(*sign_ins.begun, return_exceptions=True)


FLOODS: dict[str, Callable[[int], tuple[str, str]]] = {
    "one address, one name": lambda n: ("carol", ATTACKER),
    "one address, many names": lambda n: (f"m{n}", ATTACKER),
    "one address, names that are long": lambda n: (f"m{n}" * 300, ATTACKER),
    "three addresses": lambda n: (f"m{n}", f"192.0.2.{n % 3 + 1}"),
    "one name of many addresses": lambda n: ("carol", f"192.0.2.{n + 1}"),
    "one host with all of its IPv6 addresses": lambda n: (f"m{n}", f"2001:db8::{n + 1:x}"),
    "one household with all of its IPv6 networks": lambda n: (f"m{n}", f"2001:db8:0:{n + 1:x}::1"),
    "one site with all of its IPv6 networks": lambda n: (f"m{n}", f"2001:db8:0:{(n + 1) * 256:x}::1"),
    "no address at all": lambda n: (f"m{n}", "unknown"),
}


@pytest.mark.parametrize("story", FLOODS)
async def test_a_flood_keeps_nobody_else_out(sign_ins: SignIns, hashing: Hashing, story: str) -> None:
    """While more wrong guesses wait than may, a user from elsewhere signs in, and so does the next one."""
    told = [await sign_ins.begin(*_guess(FLOODS[story](n), n)) for n in range(FLOOD)]
    alice = await sign_ins.begin("alice", "alice", "198.51.100.1")
    bob = await sign_ins.begin("bob", "bob", "203.0.113.1")
    assert not alice.done()
    hashing.go.set()

    assert await alice == Identity("user:alice")
    assert await bob == Identity("user:bob")
    answers = await asyncio.gather(*told, return_exceptions=True)
    assert sum(isinstance(one, Refused) for one in answers) == MAX_WAITING + THREADS - 2
    assert sum(isinstance(one, Unavailable) for one in answers) == FLOOD - MAX_WAITING - THREADS + 2
    assert hashing.most == THREADS


def _guess(who: tuple[str, str], number: int) -> tuple[str, str, str]:
    return who[0], f"guess-{number}", who[1]


async def test_a_flood_from_the_same_address_keeps_other_names_in(sign_ins: SignIns, hashing: Hashing) -> None:
    """Behind one address, as behind a TLS front, those who guess at one name leave room for who claims another."""
    for number in range(FLOOD):
        await sign_ins.begin("carol", f"guess-{number}", ATTACKER)
    alice = await sign_ins.begin("alice", "alice", ATTACKER)
    hashing.go.set()

    assert await alice == Identity("user:alice")
    assert hashing.passwords.index("alice") <= THREADS + 2


async def test_addresses_have_their_turns_one_after_the_other(sign_ins: SignIns, hashing: Hashing) -> None:
    """Who comes after a flood waits for a turn of each address before, and not for all that wait there."""
    for number in range(FLOOD):
        await sign_ins.begin("carol", f"guess-{number}", ATTACKER)
    for number in range(1, 4):
        await sign_ins.begin("carol", f"other-{number}", f"198.51.100.{number}")
    alice = await sign_ins.begin("alice", "alice", "203.0.113.1")
    hashing.go.set()

    assert await alice == Identity("user:alice")
    assert hashing.passwords.index("alice") <= THREADS + 5


async def test_beyond_its_places_everybody_comes_back_later(sign_ins: SignIns) -> None:
    """Who would have as many places as any other is told when to come back, at once, and nobody loses one for that."""
    waiting = [await sign_ins.begin(f"m{n}", "x", f"192.0.2.{n + 1}") for n in range(MAX_WAITING + THREADS)]
    late = await sign_ins.begin("alice", "alice", "198.51.100.1")

    error = late.exception() if late.done() else None
    assert isinstance(error, Unavailable)
    assert error.retry_after == COME_BACK
    assert not any(each.done() for each in waiting)


@pytest.mark.parametrize("story", ["as many addresses as places", "as many names through one terminator"])
async def test_what_a_flood_takes_from_all(sign_ins: SignIns, hashing: Hashing, story: str) -> None:
    """Who floods from enough addresses, or through a front that tells none, keeps new sign-ins out, and no others."""
    hashing.go.set()
    address = "198.51.100.1" if story.startswith("as many addresses") else ATTACKER
    assert await (await sign_ins.begin("alice", "alice", address)) == Identity("user:alice")
    hashing.go.clear()
    for number in range(MAX_WAITING + THREADS):
        await sign_ins.begin(f"m{number}", "x", ATTACKER if address == ATTACKER else f"192.0.2.{number + 1}")

    with pytest.raises(Unavailable):
        await (await sign_ins.begin("bob", "bob", address))
    assert await (await sign_ins.begin("alice", "alice", address)) == Identity("user:alice")


async def test_nothing_is_hashed_for_who_has_left(sign_ins: SignIns, hashing: Hashing) -> None:
    """Clients that go while they wait give up their places; what a thread has begun it ends, and no others begin."""
    left = [await sign_ins.begin("carol", f"guess-{n}", ATTACKER) for n in range(THREADS + 10)]
    for each in left:
        each.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    alice = await sign_ins.begin("alice", "alice", ATTACKER)
    assert len(sign_ins.basic._line) == 1  # the threads are at work, and she waits
    hashing.go.set()

    assert await alice == Identity("user:alice")
    assert hashing.passwords[THREADS:] == ["alice"]
    assert hashing.most == THREADS


async def test_who_asks_again_after_leaving_is_served(sign_ins: SignIns, hashing: Hashing) -> None:
    """A sign-in that its client gave up is not what the client's next one gets."""
    for number in range(THREADS):
        await sign_ins.begin("carol", f"guess-{number}", ATTACKER)
    first = await sign_ins.begin("alice", "alice", ATTACKER)
    first.cancel()
    again = await sign_ins.begin("alice", "alice", ATTACKER)
    hashing.go.set()

    assert await again == Identity("user:alice")


async def test_the_file_counts_as_it_is_when_the_turn_comes(sign_ins: SignIns, hashing: Hashing, users: Path) -> None:
    """A user who was taken out while waiting does not get in, and one who was put in does."""
    for number in range(THREADS):
        await sign_ins.begin("carol", f"guess-{number}", ATTACKER)
    alice = await sign_ins.begin("alice", "alice", "198.51.100.1")
    dave = await sign_ins.begin("dave", "dave", "198.51.100.2")
    users.write_text(json.dumps({name: {"hash": HASH + name} for name in ("bob", "dave")}))
    hashing.go.set()

    with pytest.raises(Refused):
        await alice
    assert await dave == Identity("user:dave")


async def test_a_place_is_kept_for_so_long() -> None:
    """Who waited long enough is told to come back, and leaves its place and the turns to others."""
    line = Line(turns=1, places=1, patience=0.05, come_back=7.0)
    await line.enter("a", "x")
    with pytest.raises(Unavailable) as told:
        await line.enter("b", "x")
    assert told.value.retry_after == 7.0
    assert len(line) == 0
    line.leave()
    await line.enter("c", "x")


async def test_a_turn_that_comes_too_late_is_the_next_ones() -> None:
    """Who was given a turn and left in the same moment takes it along from nobody."""
    line = Line(turns=1, places=4, patience=10.0, come_back=1.0)
    await line.enter("a", "x")
    leaving, staying = (asyncio.create_task(line.enter(address, "x")) for address in ("b", "c"))
    await asyncio.sleep(0)
    line.leave()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await staying


async def test_the_door_counts_by_the_address_of_the_connection(users: Path, hashing: Hashing) -> None:
    """Through the proxy's own door it is the client's address that counts, whatever ``Forwarded`` it sends itself."""

    def behind(exchange: http1.Exchange, path: str, identity: Identity | None) -> None:
        exchange.answer(200, ())

    def as_user(name: str, password: str, number: int = 0) -> bytes:
        shown = base64.b64encode(f"{name}:{password}".encode()).decode()
        return request("GET", "/api/v0/hosts", f"authorization: Basic {shown}", f"forwarded: for=10.0.0.{number}")

    door = AuthenticationManager(behind, [BasicAuthenticator(users, verify=hashing)])
    async with inside(door) as served:
        flood = [asyncio.create_task(served.ask(as_user("carol", f"guess-{n}", n), ATTACKER)) for n in range(FLOOD)]
        turned_away = await _first(flood, FLOOD - MAX_WAITING - THREADS)
        assert {(answer.status, answer.get("retry-after")) for answer in turned_away} == {(503, str(round(COME_BACK)))}
        alice = asyncio.create_task(served.ask(as_user("alice", "alice"), "198.51.100.1"))
        turned_away = await _first(flood, FLOOD - MAX_WAITING - THREADS + 1)  # alice has a place
        hashing.go.set()

        assert (await alice).status == 200
        assert sorted({answer.status for answer in await asyncio.gather(*flood)}) == [403, 503]


async def test_a_guess_that_was_begun_is_counted(users: Path, hashing: Hashing) -> None:
    """Clients that leave as soon as they have sent their guesses take none of them out of the count."""
    counted: list[tuple[RefusedRequest, Why]] = []

    class Counting(RefusalReporter):
        def __init__(self) -> None:
            pass

        async def check(self) -> None:
            pass

        def note(self, refused: RefusedRequest, why: Why) -> None:
            counted.append((refused, why))

    def behind(exchange: http1.Exchange, path: str, identity: Identity | None) -> None:
        exchange.answer(200, ())

    door = AuthenticationManager(behind, [BasicAuthenticator(users, verify=hashing)], refusals=Counting())
    async with inside(door) as served:
        for number in range(20):
            shown = base64.b64encode(f"carol:guess-{number}".encode()).decode()
            async with await served.connect(client=ATTACKER) as client:
                client.writer.write(request("GET", "/api/v0/hosts", f"authorization: Basic {shown}"))
                await client.writer.drain()
                await asyncio.sleep(0.01)
        async with asyncio.timeout(15):
            while served.server.connections:
                for connection in list(served.server.connections):
                    connection.abort()  # as when the client resets it: what came to its end alone is still answered
                await asyncio.sleep(0.01)
        assert counted == []
        hashing.go.set()
        async with asyncio.timeout(15):
            while len(counted) < 20:
                await asyncio.sleep(0.01)

    assert {(each.exchange.client, each.claimed, why.status) for each, why in counted} == {
        (ATTACKER, "user:carol", 403)
    }
    assert sorted(hashing.passwords) == sorted(f"guess-{number}" for number in range(20))


async def _first(asked: "list[asyncio.Task[Message]]", count: int) -> list[Message]:
    """Return the first answers, when there are so many."""
    async with asyncio.timeout(15):
        while sum(each.done() for each in asked) < count:
            await asyncio.wait([each for each in asked if not each.done()], return_when=asyncio.FIRST_COMPLETED)
    return [each.result() for each in asked if each.done()]

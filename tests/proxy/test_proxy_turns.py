"""The turns of uploads and batches: slow clients hold a part of the pool, and of that one address a part."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from strongroom.http_proxy.forward import rule_for
from tests.proxy.conftest import CONNECTIONS, Proxy
from tests.raw_http import Client, Exchange, Message, ScriptedService, read_head, read_message, request
from tests.served import PROXY, gunicorn, tcp_listener

TURNS = CONNECTIONS // 4
PATIENCE = 60.0  # seconds: the tests' own, for a machine that has much to do
SECRET = "/api/v0/secrets/hosts/10.0.0.7"
BATCH = "/api/v0/secrets/?batch=get"
NAMES = b'{"names":[]}'
LONG = 20_000_000  # bytes of a batch's answer: more than all sockets on the way hold
SLOW_ONE, GOOD_ONE = "-slow", "-good"  # what the ids of their requests end in
ADDRESSES = [f"127.0.0.{number}" for number in range(2, 12)]


# Nothing ends by itself in the tests that count what is slow: who ended would be counted for a while beside the next.
ENDLESS = """
import dataclasses
from strongroom.http_proxy import forward

rule_for = forward.rule_for
forward.rule_for = lambda connections: dataclasses.replace(rule_for(connections), grace=600.0, patience=600.0)
"""


@pytest.fixture(scope="module", params=["as shipped", "endless"])
def either(request: pytest.FixtureRequest, short_dir: Path, users_file: Path) -> Iterator[Proxy]:
    """A proxy whose own deadlines for a request and its body are so far away that nothing here meets them."""
    home = short_dir / request.param.replace(" ", "_")
    home.mkdir()
    socket, endless = home / "s", request.param == "endless"
    text = PROXY.format(socket=str(socket), key="k", connections=CONNECTIONS, timeout=600.0, users=str(users_file))
    with (
        tcp_listener() as listener,
        gunicorn(home, (ENDLESS if endless else "") + text, listener=listener, limits="body=600, write=600") as running,
    ):
        yield Proxy(listener.getsockname()[1], socket, running.log)


shipped = pytest.mark.parametrize("either", ["as shipped"], indirect=True)
endless = pytest.mark.parametrize("either", ["endless"], indirect=True)


class Slow:
    """A script for the service, and a count of what is slow in it at this moment.

    Who only wants a turn is answered shortly: to take a long answer, too, takes a busy machine longer than patience.
    """

    def __init__(self) -> None:
        self.now = self.most = 0
        self.token = secrets.token_hex(8)  # of this test: what the one before left may still come
        self._changed = asyncio.Condition()

    async def __call__(self, exchange: Exchange) -> None:
        """Take the body, and answer: a batch by more than anybody takes unread."""
        request_id = exchange.head.get("x-request-id") or ""
        if not request_id.startswith(self.token):
            exchange.hang_up()
            return
        if exchange.head.method == "GET":
            exchange.answer()
            return
        await self._count(1)
        try:
            await exchange.body()
            long = exchange.head.method == "POST" and request_id.endswith(SLOW_ONE)
            exchange.answer(200, b"x" * LONG if long else b"{}")
            await exchange.writer.drain()
        finally:
            await self._count(-1)

    async def _count(self, change: int) -> None:
        async with self._changed:
            self.now += change
            self.most = max(self.most, self.now)
            self._changed.notify_all()

    async def reach(self, count: int) -> None:
        """Wait until so many are under way."""
        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(lambda: self.now >= count)


@asynccontextmanager
async def scripted(proxy: Proxy) -> AsyncIterator[Slow]:
    """Run the service that *proxy* expects, with a script that counts."""
    script = Slow()
    async with ScriptedService(proxy.socket, script):
        yield script


class Crowd:
    """Clients on many addresses, all of which are gone in the end."""

    def __init__(self, proxy: Proxy, token: str) -> None:
        self._proxy = proxy
        self._token = token
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Crowd":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def send(self, kind: str, address: str = "127.0.0.1") -> Client:
        """Begin a request of this *kind* from *address*, and do no more for it."""
        client = await self._stack.enter_async_context(await Client.to(self._proxy.port, address))
        sent = self._request(kind, SLOW_ONE)
        if kind == "batch in two":
            client.writer.write(sent[: -len(NAMES)])
            await client.writer.drain()
            await self.ask("get")  # the proxy has seen the first half before this
            sent = NAMES
        client.writer.write(sent)
        await client.writer.drain()
        return client

    def _request(self, kind: str, which: str) -> bytes:
        line = f"HTTP/1.1\r\nx-request-id: {self._token}{which}\r\n".encode()
        return REQUESTS[kind].replace(b"HTTP/1.1\r\n", line, 1)

    async def ask(self, kind: str, address: str = "127.0.0.1") -> Message:
        """Ask, and take the answer as fast as it comes."""
        client = await self._stack.enter_async_context(await Client.to(self._proxy.port, address))
        client.writer.write(self._request(kind, GOOD_ONE))
        async with asyncio.timeout(PATIENCE):
            return await read_message(client.reader)


REQUESTS = {
    "get": request("GET", SECRET),
    "upload": request("PUT", SECRET, body=b"x" * 600_000),
    "batch": request("POST", BATCH, body=NAMES),
    "batch in two": request("POST", BATCH, body=NAMES),
    "silent upload": request("PUT", SECRET, "content-length: 5000000"),
    "begun upload": request("PUT", SECRET, "content-length: 5000000") + b"x" * 50_000,
    "chunked upload": request("PUT", SECRET, "transfer-encoding: chunked") + b"1\r\nx\r\n",
    "expected upload": request("PUT", SECRET, "content-length: 3", "expect: 100-continue"),
}
SLOW = sorted(set(REQUESTS) - {"get", "upload"})


@endless
@pytest.mark.parametrize("kind", SLOW)
async def test_slow_clients_hold_a_part_of_the_pool(either: Proxy, kind: str) -> None:
    """While many send or read nothing, from many addresses, others' gets go through at once: the pool is not held."""
    async with scripted(either) as slow, Crowd(either, slow.token) as crowd:
        for number in range(CONNECTIONS * 3):
            await crowd.send(kind, ADDRESSES[number % len(ADDRESSES)])
        await slow.reach(TURNS)
        answers = [await crowd.ask("get") for _ in range(20)]
        assert [answer.status for answer in answers] == [200] * 20
        assert slow.most == TURNS


@endless
async def test_slow_clients_that_drip_hold_no_more(either: Proxy) -> None:
    """A byte now and then makes no difference."""
    async with scripted(either) as slow, Crowd(either, slow.token) as crowd:
        clients = [await crowd.send("begun upload", ADDRESSES[n % len(ADDRESSES)]) for n in range(CONNECTIONS * 2)]
        await slow.reach(TURNS)
        for _ in range(20):
            for client in clients:
                client.writer.write(b"x")
            assert (await crowd.ask("get")).status == 200
        assert slow.most == TURNS


@endless
@pytest.mark.parametrize(("kind", "good"), [("silent upload", "upload"), ("batch", "batch")])
async def test_one_address_holds_half_of_the_turns(either: Proxy, kind: str, good: str) -> None:
    """However many slow ones come from one address, another's goes through, and none of theirs has to end for that."""
    async with scripted(either) as slow, Crowd(either, slow.token) as crowd:
        for _ in range(10):
            await crowd.send(kind, ADDRESSES[0])
        await slow.reach(TURNS // 2)
        assert (await crowd.ask(good, ADDRESSES[1])).status == 200
        assert slow.most <= TURNS


@endless
@pytest.mark.parametrize("kind", SLOW)
async def test_who_has_left_has_no_turn(either: Proxy, kind: str) -> None:
    """Whatever they were slow with, the turns of clients that are gone, and that waited and are gone, are free."""
    async with scripted(either) as slow:
        async with Crowd(either, slow.token) as leaving:
            for number in range(CONNECTIONS * 3):
                await leaving.send(kind, ADDRESSES[number % len(ADDRESSES)])
            await slow.reach(TURNS)
        async with Crowd(either, slow.token) as crowd:
            for address in ADDRESSES:
                assert (await crowd.ask("batch" if "batch" in kind else "upload", address)).status == 200


@shipped
@pytest.mark.parametrize(("kind", "good"), [("silent upload", "upload"), ("batch", "batch")])
async def test_who_is_slow_loses_its_turn_to_another(either: Proxy, kind: str, good: str) -> None:
    """With every turn in slow hands a good client waits a moment and is served; the deadline is far away."""
    async with scripted(either) as slow, Crowd(either, slow.token) as crowd:
        for number in range(TURNS):
            await crowd.send(kind, ADDRESSES[number])
        await slow.reach(TURNS)
        assert (await crowd.ask(good, ADDRESSES[-1])).status == 200


@shipped
async def test_a_slow_upload_is_told_why_it_ended(either: Proxy) -> None:
    """Who lost its turn hears 503 and that nothing was done, on the same connection."""
    async with scripted(either) as slow, Crowd(either, slow.token) as crowd:
        slow_ones = [await crowd.send("silent upload", ADDRESSES[number]) for number in range(TURNS)]
        await slow.reach(TURNS)
        waiting = [asyncio.create_task(crowd.ask("upload", ADDRESSES[-1 - number])) for number in range(TURNS)]
        async with asyncio.timeout(PATIENCE):
            told = [await read_message(each.reader) for each in slow_ones]
        assert [(each.status, each.get("retry-after")) for each in told] == [(503, "1")] * TURNS
        assert all(b'"fate":"not-applied"' in each.body for each in told)
        assert [(await each).status for each in waiting] == [200] * TURNS


@endless
@pytest.mark.parametrize("kind", ["silent upload", "batch"])
async def test_more_than_may_wait_are_refused_at_once(either: Proxy, kind: str) -> None:
    """Of one address so many wait, and the next are told to come back though no turn ends."""
    rule, extra = rule_for(CONNECTIONS), 5
    async with scripted(either) as slow, Crowd(either, slow.token) as crowd:
        clients = [await crowd.send(kind) for _ in range(rule.held + rule.waiting + extra)]
        heads = [asyncio.ensure_future(read_head(client.reader)) for client in clients]
        async with asyncio.timeout(PATIENCE):
            while sum(_refused(each) for each in heads) < extra:
                await asyncio.wait([each for each in heads if not each.done()], return_when=asyncio.FIRST_COMPLETED)
        answers = [await crowd.ask("get") for _ in range(5)]
        assert [answer.status for answer in answers] == [200] * 5
        assert sum(map(_refused, heads)) == extra
        assert slow.most == rule.held
        for each in heads:
            each.cancel()


def _refused(head: "asyncio.Future[Message]") -> bool:
    return head.done() and head.result().status == 503

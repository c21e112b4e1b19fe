"""The pool of connections to the service, and the reading of its answers, without a proxy round them."""

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from strongroom.storage_service.client.pool import HIGH_WATER, Place, Pool, UpstreamError
from tests.raw_http import Exchange, ScriptedService, read_head

GET = b"GET /secrets/a/b HTTP/1.1\r\nhost: strongroom\r\n\r\n"
PUT = b"PUT /secrets/a/b HTTP/1.1\r\nhost: strongroom\r\ncontent-length: 2\r\n\r\n{}"


@pytest.fixture
def path() -> Iterator[Path]:
    """Where a service listens, or will."""
    with tempfile.TemporaryDirectory(prefix="sr-") as home:
        yield Path(home) / "s"


@pytest.fixture
async def scripted(path: Path) -> AsyncIterator[ScriptedService]:
    """A service that does as told."""
    async with ScriptedService(path) as service:
        yield service


@pytest.fixture
async def pool(path: Path) -> AsyncIterator[Pool]:
    """A pool of two connections."""
    pool = Pool(Place(str(path)), 2)
    yield pool
    pool.close()


def soon(seconds: float = 10.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_the_repr_tells_how_busy_the_pool_is(scripted: ScriptedService, pool: Pool) -> None:
    """What an operator sees of the pool is numbers, and nothing of what passes through."""
    assert repr(pool) == "<Pool 0 of 2 open, 0 idle, 0 waiting>"
    connection = await pool.exchange(GET, soon(), repeatable=True)
    assert repr(pool) == "<Pool 1 of 2 open, 0 idle, 0 waiting>"
    assert repr(connection) == "<Connection idle>"
    pool.finish(connection)
    assert repr(pool) == "<Pool 1 of 2 open, 1 idle, 0 waiting>"


async def test_nobody_waits_past_the_deadline(scripted: ScriptedService, pool: Pool) -> None:
    """Who finds all connections taken is told at the deadline, and told that nothing was sent."""
    taken = [await pool.take(soon()) for _ in range(2)]
    with pytest.raises(UpstreamError) as told:
        await pool.take(soon(0.05))
    assert told.value.unread
    for connection in taken:
        pool.finish(connection)
    assert repr(pool) == "<Pool 2 of 2 open, 2 idle, 0 waiting>"


async def test_a_waiter_that_gives_up_leaves_its_turn_to_the_next(scripted: ScriptedService, pool: Pool) -> None:
    """A connection that comes free for a caller who left in that moment goes on to the one behind."""
    first, second = [await pool.take(soon()) for _ in range(2)]
    leaving = asyncio.create_task(pool.take(soon()))
    staying = asyncio.create_task(pool.take(soon()))
    await asyncio.sleep(0)
    pool.finish(first)  # it is the turn of the one that leaves
    leaving.cancel()
    assert await asyncio.wait_for(staying, 10) is first
    pool.finish(first)
    pool.finish(second)


async def test_a_service_that_does_not_listen_costs_no_place(pool: Pool) -> None:
    """Connecting in vain, however often, leaves the pool as it was."""
    for _ in range(5):
        with pytest.raises(UpstreamError) as told:
            await pool.exchange(PUT, soon(), repeatable=False)
        assert told.value.unread
    assert repr(pool) == "<Pool 0 of 2 open, 0 idle, 0 waiting>"


async def test_a_write_that_was_left_unread_is_sent_again(path: Path, pool: Pool) -> None:
    """A service that closes without having read the request resets the connection: it cannot have acted on it."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.setblocking(False)

        async def serve() -> bytes:
            connection, _ = await loop.sock_accept(listener)
            with connection:
                await loop.sock_recv(connection, 65536)
                await loop.sock_sendall(connection, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                asked = asyncio.Event()
                loop.add_reader(connection, asked.set)
                await asked.wait()  # the second request is there, and is not read
                loop.remove_reader(connection)
            connection, _ = await loop.sock_accept(listener)
            with connection:
                request = await loop.sock_recv(connection, 65536)
                await loop.sock_sendall(connection, b"HTTP/1.1 201 OK\r\nContent-Length: 0\r\n\r\n")
            return request

        serving = asyncio.create_task(serve())
        pool.finish(await pool.exchange(GET, soon(), repeatable=True))
        connection = await pool.exchange(PUT, soon(), repeatable=False)
        assert connection.status == 201
        assert await serving == PUT
        pool.finish(connection)


async def test_a_slow_reader_slows_the_service_down(scripted: ScriptedService, pool: Pool) -> None:
    """No more of a long answer is held than the high-water mark and what the sockets take."""
    size = 8 * 1024 * 1024

    async def script(exchange: Exchange) -> None:
        exchange.answer(200, b"x" * size)

    scripted.script = script
    connection = await pool.exchange(GET, soon(), repeatable=True)
    for _ in range(1000):
        await asyncio.sleep(0)
    assert connection._held < HIGH_WATER + 512 * 1024
    received = 0
    while piece := await connection.read():
        received += len(piece)
    assert received == size
    assert connection.reusable
    pool.finish(connection)


async def test_what_one_reader_leaves_never_reaches_the_next(scripted: ScriptedService, pool: Pool) -> None:
    """A long answer that nobody read to its end does not run into the answer after it."""
    begun = asyncio.Event()

    async def long(exchange: Exchange) -> None:
        exchange.writer.write(b"HTTP/1.1 200 -\r\ncontent-length: 100000\r\n\r\n" + b"x" * 70_000)
        await begun.wait()
        exchange.writer.write(b"x" * 30_000)
        scripted.script = short

    async def short(exchange: Exchange) -> None:
        exchange.answer(200, b"short")

    scripted.script = long
    connection = await pool.exchange(GET, soon(), repeatable=True)
    assert connection.streamed
    begun.set()
    while not connection.complete:
        await asyncio.sleep(0)
    pool.finish(connection)
    assert await pool.fetch(GET, soon()) == (200, b"short")


@pytest.mark.parametrize(
    ("line", "taken"),
    [
        (b"x-request-id: request-1\r\n", True),
        (b"X-Request-ID:request-1\r\n", True),
        (b"x-request-id: request-2\r\n", False),
        (b"x-request-id: request-2\r\nx-request-id: request-1\r\n", False),
        (b"", False),
    ],
)
async def test_an_answer_to_another_request_is_no_answer(
    scripted: ScriptedService, pool: Pool, line: bytes, taken: bool
) -> None:
    """An answer that goes by another id than the one sent, or by none, reaches nobody, and ends its connection."""

    async def script(exchange: Exchange) -> None:
        exchange.writer.write(b"HTTP/1.1 200 -\r\n%bcontent-length: 2\r\n\r\n{}" % line)

    scripted.script = script
    asking = pool.exchange(GET, soon(), repeatable=True, request_id=b"request-1")
    if taken:
        connection = await asking
        assert connection.body == b"{}"
        pool.finish(connection)
        assert repr(pool) == "<Pool 1 of 2 open, 1 idle, 0 waiting>"
    else:
        with pytest.raises(UpstreamError) as told:
            await asking
        assert (told.value.answered, told.value.unread) == (True, False)
        assert repr(pool) == "<Pool 0 of 2 open, 0 idle, 0 waiting>"


async def test_a_deadline_earlier_than_the_last_is_kept(scripted: ScriptedService, pool: Pool) -> None:
    """The connection's one timer serves the shorter wait as well."""

    async def script(exchange: Exchange) -> None:
        if exchange.head.method == "GET":
            exchange.answer()
        else:
            await exchange.reader.read()

    scripted.script = script
    assert await pool.fetch(GET, soon(1000)) == (200, b"{}")
    with pytest.raises(UpstreamError):
        await asyncio.wait_for(pool.fetch(PUT, soon(0.05)), 10)


async def test_closing_the_pool_closes_what_is_idle(scripted: ScriptedService, pool: Pool) -> None:
    """After it, the service sees the connection end."""
    ended = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        exchange.answer()
        await exchange.writer.drain()
        with pytest.raises(EOFError):
            await read_head(exchange.reader)
        ended.set()

    scripted.script = script
    assert await pool.fetch(GET, soon()) == (200, b"{}")
    pool.close()
    await asyncio.wait_for(ended.wait(), 10)

"""Who sends faster than is answered, or counts for more than one: what strangers cannot make a worker hold."""

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any

import pytest

from strongroom.deploy.serving.connection import HIGH_WATER, Connection, Exchange, Server
from strongroom.deploy.serving.limits import Ledger, Limits
from strongroom.storage_service.strangers import network_of


def _answer_nothing(exchange: Exchange) -> Coroutine[Any, Any, None] | None:
    exchange.answer(204, ())
    return None


async def test_what_is_held_of_next_requests_is_bounded() -> None:
    """A client that pipelines on and on is read no further than its held requests are answered."""
    loop = asyncio.get_running_loop()
    limits = Limits()
    server = Server(_answer_nothing, Ledger(limits), limits, loop)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    server.ledger.enter("here")
    connection = Connection(server, ours, "here", "", "http")
    await loop.connect_accepted_socket(lambda: connection, ours)
    reader, writer = await asyncio.open_connection(sock=theirs)
    one, most, heard = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n", 0, 0
    for _ in range(40):
        writer.write(one * 1000)
    while heard < 40_000:
        heard += (await reader.read(1 << 20)).count(b"HTTP/1.1 204")
        most = max(most, len(connection._buffer))
    assert 0 < most <= 2 * HIGH_WATER
    writer.close()
    connection.abort()


@pytest.mark.parametrize(
    ("client", "counted"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:0db8:0001:00"),
        ("2001:db8:1:ff::9", "2001:0db8:0001:00"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("fe80::1%eth0", "fe80:0000:0000:00"),
    ],
)
def test_whom_a_connection_counts_for(client: str, counted: str) -> None:
    """A household has a whole /56 of IPv6, so all of it is one address."""
    assert network_of(client) == counted


async def test_a_handshake_makes_room() -> None:
    """Who has not come as far as a connection is closed for the next who comes, before anyone who was answered."""
    loop = asyncio.get_running_loop()
    limits = Limits(connections=100, per_address=1)
    server = Server(_answer_nothing, Ledger(limits), limits, loop)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        server.ledger.enter("here")
        connection = Connection(server, ours, "here", "", "https")
        handshake: asyncio.Task[None] = loop.create_task(asyncio.sleep(60))
        connection.handshake = handshake
        assert server.ledger.enter("here")
        with pytest.raises(asyncio.CancelledError):
            await handshake

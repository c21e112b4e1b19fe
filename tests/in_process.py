"""One connection of ours in this process: a real socket pair, the server's end served by a face of the test's own."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from strongroom.deploy.serving.connection import Connection, Face, Server
from strongroom.deploy.serving.limits import Ledger, Limits
from tests.raw_http import Client, Message


@dataclass
class Inside:
    """A server, and how to connect to it."""

    server: Server

    async def connect(self, address: str = "here", client: str = "127.0.0.1") -> Client:
        """Return a new connection, which counts for *address* and comes from *client*."""
        near, far = socket.socketpair()
        far.setblocking(False)
        assert self.server.ledger.enter(address)
        connection = Connection(self.server, far, address, client, "http")
        await self.server.loop.connect_accepted_socket(lambda: connection, far)
        return Client(*await asyncio.open_connection(sock=near))

    async def ask(self, request: bytes, client: str = "127.0.0.1") -> Message:
        """Send *request* over a connection of its own, and return the answer."""
        async with await self.connect(client=client) as asking:
            return await asking.ask(request)


@asynccontextmanager
async def inside(face: Face, limits: Limits | None = None) -> AsyncIterator[Inside]:
    """Serve *face*; nobody looks at the time but a test that calls ``server.tick``."""
    limits = limits or Limits()
    server = Server(face, Ledger(limits), limits, asyncio.get_running_loop())
    try:
        yield Inside(server)
    finally:
        server.abort()
        await server.drain()

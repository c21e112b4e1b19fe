"""A server of policies, of this process, that answers as a test says: in bytes, so that it can break every rule."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple


class Asked(NamedTuple):
    """A question, as it came."""

    line: str
    fields: Mapping[str, str]
    body: Any

    @property
    def input(self) -> dict[str, str]:
        return self.body["input"]


Behave = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


def response(body: bytes, status: str = "200 OK", *fields: str) -> bytes:
    """Return a whole answer."""
    head = "\r\n".join((f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields))
    return head.encode() + b"\r\n\r\n" + body


def saying(body: object, status: str = "200 OK", *fields: str) -> Behave:
    """Return what answers every question with *body*, JSON unless it is bytes."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        del asked
        writer.write(response(text, status, *fields))

    return behave


def policy(allows: Callable[[Mapping[str, str]], bool]) -> Behave:
    """Return what answers as OPA does, by what *allows* says of an input."""

    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        result = json.dumps({"decision_id": "d-1", "result": allows(asked.input)}).encode()
        writer.write(response(result, "200 OK", "Content-Type: application/json"))

    return behave


class PolicyServer:
    """Keeps what it was asked; *behave* can be changed while it serves."""

    def __init__(self, behave: Behave) -> None:
        self.behave = behave
        self.asked: list[Asked] = []
        self.connections = 0
        self.busy = 0
        self.busiest = 0  # questions at a time
        self.port = 0

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                line, *rest = head.rstrip().split("\r\n")
                fields = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in rest)}
                body = await reader.readexactly(int(fields["content-length"]))
                self.asked.append(Asked(line, fields, json.loads(body)))
                self.busy += 1
                self.busiest = max(self.busiest, self.busy)
                try:
                    await self.behave(self.asked[-1], writer)
                    await writer.drain()
                finally:
                    self.busy -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/data/strongroom/allow"


@asynccontextmanager
async def serving(behave: Behave, context: ssl.SSLContext | None = None) -> AsyncIterator[PolicyServer]:
    """Give a server that listens on loopback."""
    policies = PolicyServer(behave)
    tasks: set[asyncio.Task[None]] = set()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(policies.converse(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(begin, "127.0.0.1", 0, ssl=context)
    policies.port = server.sockets[0].getsockname()[1]
    try:
        yield policies
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()

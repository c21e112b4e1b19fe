"""HTTP/1.1 as bytes: a client that sends exactly what a test says, and a service on a unix socket that answers so."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

from strongroom.storage_service import wire

DEADLINE = 15.0  # seconds for anything a test waits for
_TURNS = 10  # of the event loop, more than asyncio takes from accepting a connection to serving it


@dataclass(frozen=True)
class Message:
    """A request or an answer as it came: its first line, its fields with names in lower case, and its body."""

    first: str
    fields: tuple[tuple[str, str], ...]
    body: bytes = b""

    @property
    def status(self) -> int:
        return int(self.first.split(" ")[1])

    @property
    def target(self) -> str:
        return self.first.split(" ")[1]

    @property
    def method(self) -> str:
        return self.first.split(" ")[0]

    def all(self, name: str) -> list[str]:
        return [value for known, value in self.fields if known == name]

    def get(self, name: str) -> str | None:
        return next(iter(self.all(name)), None)


async def read_head(reader: asyncio.StreamReader) -> Message:
    """Read a head.

    Raises:
        EOFError: the other side ended before it was whole.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head[:-4].split("\r\n")
    pairs = (line.split(":", 1) for line in lines)
    return Message(first, tuple((name.lower(), value.strip(" ")) for name, value in pairs))


async def read_body(reader: asyncio.StreamReader, head: Message) -> bytes:
    """Read the body that a head announces."""
    if head.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
        return body
    return await reader.readexactly(int(head.get("content-length") or 0))


async def read_message(reader: asyncio.StreamReader) -> Message:
    """Read a whole message."""
    head = await read_head(reader)
    return Message(head.first, head.fields, await read_body(reader, head))


@dataclass
class Client:
    """One connection to a server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def to(cls, port: int, address: str = "127.0.0.1") -> Self:
        """Connect to a port, from an *address* of the loopback."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0)))

    @classmethod
    async def at(cls, place: int | Path) -> Self:
        """Connect to a port, or to a unix socket."""
        if isinstance(place, int):
            return await cls.to(place)
        return cls(*await asyncio.open_unix_connection(place))

    async def rest(self) -> bytes:
        """Return what still comes until the other end closes, or resets, the connection."""
        told = b""
        async with asyncio.timeout(DEADLINE):
            with suppress(ConnectionError):
                while piece := await self.reader.read(65536):
                    told += piece
        return told

    async def ask(self, request: bytes) -> Message:
        self.writer.write(request)
        async with asyncio.timeout(DEADLINE):
            return await read_message(self.reader)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.writer.transport.abort()
        with suppress(OSError):
            await self.writer.wait_closed()


async def ask(port: int, request: bytes) -> Message:
    """Send *request* over a connection of its own and return the answer."""
    async with await Client.to(port) as client:
        return await client.ask(request)


def request(method: str, target: str, *lines: str, body: bytes = b"") -> bytes:
    """Return a request; a body brings its content length."""
    framing = [f"content-length: {len(body)}"] if body else []
    head = "\r\n".join([f"{method} {target} HTTP/1.1", "host: test", *lines, *framing, "", ""])
    return head.encode("latin-1") + body


Script: TypeAlias = Callable[["Exchange"], Awaitable[None]]


@dataclass
class Exchange:
    """What a script works with: the request (its body unread unless the script reads it) and the connection."""

    head: Message
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    keep: bool = True

    async def body(self) -> bytes:
        """Read the request's body, having asked for it where the other end waits for that."""
        if self.head.get("expect") == "100-continue":
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return await read_body(self.reader, self.head)

    @property
    def id_line(self) -> bytes:
        """The line by which an answer says whose it is; empty where the request has no id."""
        known = self.head.get("x-request-id")
        return b"" if known is None else b"x-request-id: %b\r\n" % known.encode("latin-1")

    def answer(self, status: int = 200, body: bytes = b"{}", *lines: str) -> None:
        """Answer as the service does, by the request's id."""
        identity = self.id_line.decode("latin-1")
        head = f"HTTP/1.1 {status} -\r\n{identity}" + "\r\n".join([f"content-length: {len(body)}", *lines, "", ""])
        self.writer.write(head.encode("latin-1") + body)

    def say(self, raw: bytes) -> None:
        """Answer with these bytes, and close."""
        self.writer.write(raw)
        self.keep = False

    def hang_up(self) -> None:
        """Close without an answer."""
        self.keep = False


@dataclass
class ScriptedService:
    """A service whose every answer is a script; without one it reads the request and says 200.

    What the proxy tells beside of whom it refused is taken without the script, and kept apart.
    """

    path: Path
    script: Script | None = None
    heard: list[Message] = field(default_factory=list)
    told: list[Message] = field(default_factory=list)  # reports of refusals
    connections: int = 0  # on which something else than such a report was asked
    most_at_once: int = 0
    _open: set[asyncio.StreamWriter] = field(default_factory=set)
    _asked: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _server: asyncio.Server | None = None

    @property
    def open(self) -> int:
        return len(self._open)

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path, limit=2**20)

    async def stop(self) -> None:
        """Vanish: no listener, and every connection cut."""
        if self._server is not None:
            self._server.close()
            for _ in range(_TURNS):  # who was accepted a moment ago is here by then, and nobody comes later
                await asyncio.sleep(0)
            for writer in list(self._open):
                writer.transport.abort()
            await asyncio.gather(*self._tasks)
            self._server = None
            self.path.unlink(missing_ok=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._open.add(writer)
        self.most_at_once = max(self.most_at_once, len(self._open))
        try:
            with suppress(EOFError, OSError):
                while await self._serve_one(reader, writer):
                    pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        exchange = Exchange(await read_head(reader), reader, writer)
        if exchange.head.target == wire.REFUSALS_PATH:
            self.told.append(Message(exchange.head.first, exchange.head.fields, await exchange.body()))
            exchange.answer(204, b"")
            await writer.drain()
            return exchange.keep
        if writer not in self._asked:
            self._asked.add(writer)
            self.connections += 1
        if self.script is None:
            body = await exchange.body()
            exchange.answer()
        else:
            body = b""
            self.heard.append(exchange.head)
            await self.script(exchange)
        if self.script is None:
            self.heard.append(Message(exchange.head.first, exchange.head.fields, body))
        await writer.drain()
        return exchange.keep

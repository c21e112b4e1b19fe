"""A TCP proxy for gRPC that loses, holds and swallows exactly what a test says, at exactly that request.

It reads HTTP/2 frames (RFC 9113 sec. 4.1) as far as it must to tell a request from a ping: a fault "at the reply"
strikes when the server has answered, and not a moment before. Clear text only.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, NamedTuple

_PREFACE: Final = 24  # bytes that a client sends before its first frame
_HEADER: Final = 9  # bytes of a frame's header: length (3), type (1), flags (1), stream (4)
_HEADERS, _RST_STREAM = 1, 3  # types of frames


class Fault(Enum):
    """What happens to one request."""

    NONE = auto()
    LOSE_REQUEST = auto()
    """The connection breaks before the server has seen it."""
    LOSE_REPLY = auto()
    """The connection breaks when the server has answered, before the client has seen that."""
    HOLD = auto()
    """It, and all that follows it, reaches the server when `TcpFault.release` is called; its cancelling never does."""
    SWALLOW = auto()
    """It and all that follows it vanish; the connection stands."""


class _Frame(NamedTuple):
    type: int
    stream: int
    data: bytes  # with its header


@dataclass
class _Connection:
    to_client: asyncio.StreamWriter
    to_server: asyncio.StreamWriter
    held: list[bytes] | None = None  # frames for the server; None: nothing is held
    held_streams: set[int] = field(default_factory=set)
    doomed: set[int] = field(default_factory=set)  # streams whose reply breaks the connection
    swallowing: bool = False

    def cut(self) -> None:
        for writer in (self.to_client, self.to_server):
            writer.transport.abort()


class TcpFault:
    """A proxy before *upstream* (host:port); *script* holds a fault for each request to come, and none follows."""

    def __init__(self, upstream: str) -> None:
        self._host, _, port = upstream.rpartition(":")
        self._port = int(port)
        self._server: asyncio.Server | None = None
        self._connections: list[_Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.script: deque[Fault] = deque()
        self.requests = 0
        self.replied_bytes = 0
        self.held = asyncio.Event()  # a request is being held
        self.cancelled = asyncio.Event()  # the client has given up a request that is held
        self.answered = asyncio.Event()  # the server has answered a request that was held

    @property
    def endpoint(self) -> str:
        """Where clients reach it."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator["TcpFault", None]:
        """Listen on loopback while the block runs."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield self
        finally:
            self._server.close()
            self.cut()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def say(self, faults: Iterable[Fault]) -> None:
        """Begin a new script."""
        self.script = deque(faults)
        self.held.clear()
        self.cancelled.clear()
        self.answered.clear()

    def cut(self) -> None:
        """Break every connection that stands."""
        for connection in self._connections:
            connection.cut()
        self._connections.clear()

    def release(self) -> None:
        """Let the server have what was held, in its order."""
        for connection in self._connections:
            for data in connection.held or ():
                connection.to_server.write(data)
            connection.held = None

    async def _accept(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection(self._host, self._port)
        except OSError:
            to_client.transport.abort()
            return
        connection = _Connection(to_client, to_server)
        self._connections.append(connection)
        for pump in (self._requests(connection, from_client), self._replies(connection, from_server)):
            task = asyncio.create_task(pump)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _requests(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            connection.to_server.write(await reader.readexactly(_PREFACE))
            async for frame in _frames(reader):
                fault = Fault.NONE
                if frame.type == _HEADERS:
                    self.requests += 1
                    fault = self.script.popleft() if self.script else Fault.NONE
                if fault is Fault.LOSE_REQUEST:
                    break
                self._strike(connection, fault, frame)
                if connection.swallowing:
                    continue
                if connection.held is None:
                    connection.to_server.write(frame.data)
                elif frame.type == _RST_STREAM:
                    self.cancelled.set()
                else:
                    connection.held.append(frame.data)
        connection.cut()

    def _strike(self, connection: _Connection, fault: Fault, frame: _Frame) -> None:
        if fault is Fault.LOSE_REPLY:
            connection.doomed.add(frame.stream)
        elif fault is Fault.HOLD:
            connection.held = connection.held or []
            connection.held_streams.add(frame.stream)
            self.held.set()
        elif fault is Fault.SWALLOW:
            connection.swallowing = True

    async def _replies(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            async for frame in _frames(reader):
                if frame.type == _HEADERS and frame.stream in connection.doomed:
                    break
                if frame.type == _HEADERS and frame.stream in connection.held_streams:
                    self.answered.set()
                if not connection.swallowing:
                    self.replied_bytes += len(frame.data)
                    connection.to_client.write(frame.data)
        connection.cut()


async def _frames(reader: asyncio.StreamReader) -> AsyncIterator[_Frame]:
    """Yield frames until the connection ends, with IncompleteReadError."""
    while True:
        header = await reader.readexactly(_HEADER)
        payload = await reader.readexactly(int.from_bytes(header[:3], "big"))
        yield _Frame(header[3], int.from_bytes(header[5:], "big") & 0x7FFFFFFF, header + payload)

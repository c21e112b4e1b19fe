"""Connections to the storage service: a bounded pool of HTTP/1.1 conversations kept open, for one event loop.

The service is trusted as far as framing goes and no further: an answer that breaks RFC 9112, whose end only the end of
the connection would tell, or that goes by another request's id, counts as no answer. A connection is used again only
when its last answer was read to the end and nothing followed it.

What a broken connection says about a request rests on a property of unix sockets: a peer that closes with bytes unread
resets the connection, and one that has closed already makes the write fail. So after a reset or a failed write the
service cannot have read the whole request, and it may be sent again whatever its method; after a plain end of file
it may have read all of it. Over TCP a reset says nothing; there a request is unread if a part of it was never written.

A pool belongs to its event loop and its process. A forked child forgets the connections (`forget`) and makes its own.
"""

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Final, cast
from weakref import WeakSet

from strongroom.storage_service.client.place import (
    FULL_QUEUE_PAUSE,
    KEPT_OPEN,
    Place,
    SpeaksTls,
    UpstreamError,
    closed_early,
    connect_unix,
    forget_in_children,
    refuse_tls,
)
from strongroom.storage_service.wire import http1
from strongroom.storage_service.wire.http1 import Field, Malformed

__all__ = ["CONNECT_TIMEOUT", "HIGH_WATER", "INLINE_BODY", "Connection", "Place", "Pool", "UpstreamError"]

CONNECT_TIMEOUT: Final = 1.0  # seconds
INLINE_BODY: Final = 64 * 1024  # bytes; an answer up to here is awaited whole, a longer one is streamed
LONG: Final = 16 * 1024  # bytes of a request that a socket's buffer may have no room for
HIGH_WATER: Final = 256 * 1024  # bytes of an answer waiting for its reader before the socket is no longer read

_left_behind: list[asyncio.Transport] = []  # by forks: see `Connection.forget`


class Connection(asyncio.Protocol):
    """One conversation with the service: an exchange at a time, never pipelined.

    ``ask`` begins an exchange. When *told* is called, *error* says what went wrong, or *status* and *fields* hold the
    answer's head and *body* its body, unless the answer is *streamed*: then its body comes from ``read``. The answer is
    *complete* when it has come to its end, read or not. *deadline* is when, by the loop's clock, the exchange must be
    over.
    """

    __slots__ = (
        "__weakref__",
        "_buffer",
        "_chunks",
        "_continued",
        "_cut",
        "_expected",
        "_held",
        "_in_head",
        "_keep",
        "_local",
        "_long",
        "_loop",
        "_more",
        "_on_idle_loss",
        "_reader",
        "_reading",
        "_timer",
        "_told",
        "_transport",
        "_writable",
        "body",
        "complete",
        "deadline",
        "error",
        "fields",
        "heard",
        "since",
        "status",
        "streamed",
        "used",
    )

    def __init__(self, on_idle_loss: Callable[["Connection"], None], *, local: bool = True) -> None:
        self._on_idle_loss = on_idle_loss
        self._local = local  # a unix socket
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._told: Callable[[], None] | None = None  # while an exchange is under way, until its head has come
        self._continued: Callable[[], None] | None = None
        self._expected = b""  # the request's id, which its answer goes by
        self._more: asyncio.Future[None] | None = None  # while a reader waits
        self._writable: asyncio.Future[None] | None = None  # while the socket takes no more
        self._timer: asyncio.TimerHandle | None = None
        self._reader = http1.AnswerReader()
        self._buffer = b""  # of a head that is not whole
        self._chunks: deque[bytes] = deque()  # of a body that is not whole, or not yet read
        self._held = 0  # bytes in them
        self._in_head = False  # the head of the current answer is awaited
        self._reading = True
        self._keep = True
        self._cut = False  # what was to be written failed at once
        self._long = False  # the request may be longer than what the socket takes at once
        self.deadline = 0.0
        self.since = 0.0  # when, by the loop's clock, it was last used
        self.error: UpstreamError | None = None
        self.heard = False  # something of the current answer came
        self.used = False  # an exchange went well before this one
        self.status = 0
        self.fields: list[Field] = []
        self.body = b""
        self.streamed = False
        self.complete = True

    def __repr__(self) -> str:
        return f"<Connection {'broken' if self.error else 'idle' if self.complete else 'busy'}>"

    # -- the side of who asks

    @property
    def reusable(self) -> bool:
        """Whether the last answer was read to its end and the service goes on listening."""
        return self.complete and self._keep and self._reading and self.error is None and self._transport is not None

    @property
    def decided(self) -> bool:
        """Whether more of the request has no point: the head of the answer is here, or the connection broke."""
        return self._told is None

    def ask(
        self,
        request: bytes,
        deadline: float,
        told: Callable[[], None],
        *,
        request_id: bytes = b"",
        continued: Callable[[], None] | None = None,
    ) -> None:
        """Write *request*, or its beginning.

        Args:
            request: a head, with all of its body or as much of it as is here.
            deadline: when the loop's clock reaches it, the exchange has failed.
            told: called once, when the answer is there or will not come; never before this returns.
            request_id: what the request goes by; an answer that goes by another belongs to somebody else.
            continued: called when the service says that it wants the body that it was told to expect.
        """
        self.complete = self.streamed = self.heard = False
        self._in_head = True
        self._expected = request_id
        self._continued = continued
        self._chunks.clear()  # what the last reader left
        if self.error is not None or self._transport is None:
            self.error = UpstreamError("the connection was closed", unread=True)
            self._loop.call_soon(told)
            return
        self._told = told
        # One timer serves many exchanges: it is set again only when it fires and finds a later deadline.
        self.deadline = deadline
        if self._timer is not None and self._timer.when() > deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._expire)
        self._long = len(request) > LONG
        self._transport.write(request)
        if not self._local:
            self._cut = self._transport.is_closing()

    async def write(self, data: bytes) -> None:
        """Send more of a request's body, as fast as the service takes it."""
        if self._transport is not None and self.error is None:
            self._long = True
            self._transport.write(data)
            if self._writable is not None:
                await self._writable

    async def read(self) -> bytes:
        """Return the next piece of a streamed answer, b"" at its end.

        Raises:
            UpstreamError: the connection broke before the end.
        """
        while not self._chunks:
            if self.complete:
                return b""
            if self.error is not None:
                raise self.error.anew()
            self._more = self._loop.create_future()
            try:
                await self._more
            finally:
                self._more = None
        piece = self._chunks.popleft()
        self._held -= len(piece)
        if not self._reading and self._held < HIGH_WATER and self._transport is not None:
            self._reading = True
            self._transport.resume_reading()
        return piece

    def spoil(self) -> None:
        """Say that this connection must not be used again, whatever comes of the exchange."""
        self._keep = False

    def close(self) -> None:
        """End the conversation at once; who waits for its answer is not told."""
        self._told = self._continued = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()

    def let_go(self) -> None:
        """Hold nothing of the last exchange any more."""
        self.body, self.fields = b"", []
        self._buffer = b""
        self._reader.pieces = []
        self._reader.fields = []
        self._chunks.clear()

    def forget(self) -> None:
        """In a forked child: be no connection any more, and leave the parent's alone.

        The descriptor comes to stand for nothing, and the transport is kept: closing either would have the loop, whose
        epoll is the parent's, too, forget the parent's connection.
        """
        self.error = UpstreamError("the connection belongs to another process", unread=True)
        self.let_go()
        transport, self._transport = self._transport, None
        if transport is None:
            return
        _left_behind.append(transport)
        number = transport.get_extra_info("socket").fileno()
        if number >= 0:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, number, inheritable=False)
            os.close(nothing)

    # -- the side of the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio: the socket is open."""
        self._transport = cast("asyncio.Transport", transport)
        if not self._local:
            self._transport.set_write_buffer_limits(1, 0)  # so that `pause_writing` says what was not written

    def data_received(self, data: bytes) -> None:
        """Asyncio: the service sent *data*."""
        self.heard = True
        try:
            if self._in_head:
                self._receive_heads(self._buffer + data if self._buffer else data)
            elif self.complete:
                self._break(UpstreamError("bytes that nobody asked for", answered=True))
            else:
                self._receive_body(data)
        except SpeaksTls as error:
            self._break(UpstreamError(str(error), unread=True, untrusted=True))
        except Malformed as error:
            self._break(UpstreamError(str(error), answered=True, status=0 if self._in_head else self.status))

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio: the socket is closed."""
        idle, heard = self.complete, self.heard
        reset = self._local and isinstance(exc, BrokenPipeError | ConnectionResetError)
        plain = not self._local and self._transport is not None and not self._transport.get_extra_info("ssl_object")
        self._break(
            UpstreamError(
                closed_early(silent=plain and not heard),
                unread=self._unsent or (reset and not heard),
                answered=heard,
                status=0 if self._in_head else self.status,
            )
        )
        self._transport = None
        if idle:
            self._on_idle_loss(self)

    def pause_writing(self) -> None:
        """Asyncio: the service does not keep up with what is sent."""
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """Asyncio: it has caught up."""
        waiting, self._writable = self._writable, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def _receive_heads(self, data: bytes) -> None:
        """Take the answer's head, after any interim ones."""
        while True:
            end = http1.find_head(data)
            if not end:
                refuse_tls(data)
                self._buffer = data
                return
            answer = self._reader.head(data[:end])
            data = data[end:]
            if answer is not None:
                break
            self.heard = False  # the service has not decided yet
            if self._continued is not None:
                self._continued()
        if self._expected:
            http1.check_id(answer, self._expected)
        self._buffer, self._in_head = b"", False
        self.status, self.fields, length, keep = answer
        self._keep = self._keep and keep
        if self._long and self._transport is not None and self._transport.get_write_buffer_size():
            self._keep = False  # it was answered early, and the rest of it may never be read
        self.body = b""
        self._held = 0
        if length:
            if data:
                self._receive_body(data)
            if not self.complete and not 0 <= length <= INLINE_BODY:
                self.streamed = True
                self._tell()
        else:
            self._keep = self._keep and not data
            self.complete = True
            self._tell()

    @property
    def _unsent(self) -> bool:
        """Whether a part of the request was never written."""
        return self._cut or self._writable is not None

    def _receive_body(self, data: bytes) -> None:
        reader = self._reader
        if reader.feed_body(data):
            self._keep = False  # what follows the answer belongs to nobody
        if reader.complete and not self.streamed:  # whole before anybody was told of it
            pieces = [*self._chunks, *reader.pieces]
            self.body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self._chunks.clear()
            reader.pieces = []
            self.complete = True
            self._tell()
            return
        self._chunks.extend(reader.pieces)
        self._held += sum(map(len, reader.pieces))
        reader.pieces = []
        if reader.complete:
            self.complete = True
        elif self._held > HIGH_WATER and self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()
        self._wake_reader()

    def _tell(self) -> None:
        told, self._told, self._continued = self._told, None, None
        if told is not None:
            told()

    def _break(self, error: UpstreamError) -> None:
        if self.error is not None:
            return
        self.error = error
        told = self._told
        self.close()
        self._wake_reader()
        self.resume_writing()
        if told is not None:
            told()

    def _wake_reader(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    def _expire(self) -> None:
        self._timer = None
        if self.complete:
            return
        if self._loop.time() < self.deadline:
            self._timer = self._loop.call_at(self.deadline, self._expire)
        else:
            unsent = self._unsent or (self._transport is not None and self._transport.get_write_buffer_size() > 0)
            self._break(
                UpstreamError(
                    "the service did not answer in time",
                    unread=unsent,
                    answered=self.heard,
                    status=0 if self._in_head else self.status,
                )
            )


class Pool:
    """At most *connections* conversations at a time, waiting callers served in their order.

    A taken connection is given back with ``finish``, however the exchange ended. Connections are opened when
    they are first needed, on the loop that needs them.
    """

    def __init__(self, place: Place, connections: int, connect_timeout: float = CONNECT_TIMEOUT) -> None:
        self._place = place
        self._limit = connections
        self._connect_timeout = connect_timeout
        self._open = 0  # connections that exist or are being made
        self._idle: list[Connection] = []  # the last used is used first, so that a quiet hour needs few
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._all: WeakSet[Connection] = WeakSet()
        forget_in_children(self)

    def __repr__(self) -> str:
        return f"<Pool {self._open} of {self._limit} open, {len(self._idle)} idle, {len(self._waiting)} waiting>"

    def take_idle(self) -> Connection | None:
        """Return a connection that is open and free, if there is one."""
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                if asyncio.get_running_loop().time() - connection.since < KEPT_OPEN:
                    return connection
                connection.close()
            self._open -= 1  # it broke a moment ago, or is about to be closed at the other end
        return None

    async def exchange(
        self, request: bytes, deadline: float, *, repeatable: bool, request_id: bytes = b""
    ) -> Connection:
        """Send a whole *request* and return the connection that holds the answer's beginning, or all of it.

        A connection that had been kept open may turn out closed; then the request goes once more over a new one,
        if it is *repeatable* or cannot have been read, and there is time.

        Raises:
            UpstreamError: there is no answer; *unread* says whether something may have come of the request.
        """
        connection = await self.take(deadline)
        used = connection.used
        error = await self._ask(connection, request, deadline, request_id)
        if error is None:
            return connection
        late = asyncio.get_running_loop().time() >= deadline
        if late or not used or error.answered or not (repeatable or error.unread):
            self.finish(connection)
            raise error.anew()
        connection.close()
        connection = await self.connect(deadline)  # in the place of the one that failed
        error = await self._ask(connection, request, deadline, request_id)
        if error is not None:
            self.finish(connection)
            raise error.anew()
        return connection

    async def _ask(
        self, connection: Connection, request: bytes, deadline: float, request_id: bytes
    ) -> UpstreamError | None:
        """Return what went wrong with the exchange, if something did; a caller that is cancelled gives up its place."""
        answered: asyncio.Future[UpstreamError | None] = asyncio.get_running_loop().create_future()

        def told() -> None:
            if not answered.done():
                answered.set_result(connection.error)  # as of now: it may close as soon as it has answered

        connection.ask(request, deadline, told, request_id=request_id)
        try:
            return await answered
        except BaseException:
            self.finish(connection)
            raise

    async def take(self, deadline: float) -> Connection:
        """Return a connection for one exchange, waiting for one until *deadline*.

        Raises:
            UpstreamError: none came free, or none could be made; nothing was sent.
        """
        connection = self.take_idle()
        if connection is not None:
            return connection
        if self._open < self._limit:
            self._open += 1
            return await self.connect(deadline)
        turn: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout_at(deadline):
                given = await turn
        except BaseException as exc:
            # A turn that was cancelled stays in the queue; whoever gives something passes it over.
            if turn.done() and not turn.cancelled():  # it came, but too late
                late = turn.result()
                self._give_place() if late is None else self._give(late)
            if isinstance(exc, TimeoutError):
                raise UpstreamError("every connection to the service is busy", unread=True) from exc
            raise
        return given or await self.connect(deadline)

    def finish(self, connection: Connection) -> None:
        """Give back a connection; it is kept only if its exchange ended cleanly."""
        connection.let_go()
        if connection.reusable:
            connection.used = True
            connection.since = asyncio.get_running_loop().time()
            self._give(connection)
        else:
            connection.close()
            self._give_place()

    async def fetch(self, request: bytes, deadline: float) -> tuple[int, bytes]:
        """Send a repeatable *request* and return status and body of its answer, both in full.

        Raises:
            UpstreamError: there is no answer, or only a part.
        """
        connection = await self.exchange(request, deadline, repeatable=True)
        try:
            body = [connection.body]
            while piece := await connection.read():
                body.append(piece)
            return connection.status, b"".join(body)
        finally:
            self.finish(connection)

    def close(self) -> None:
        """Close what is idle; what is busy ends with its exchange."""
        while self._idle:
            self._idle.pop().close()
            self._give_place()
        for connection in self._all:
            connection.spoil()

    def forget(self) -> None:
        """In a forked child: begin anew, without a connection."""
        for connection in list(self._all):
            connection.forget()
        self._all = WeakSet()
        self._idle.clear()
        self._waiting.clear()
        self._open = 0

    async def connect(self, deadline: float) -> Connection:
        """Return a new connection, in a place that the caller has taken; a failure gives the place back.

        Raises:
            UpstreamError: the service does not listen.
        """
        loop = asyncio.get_running_loop()
        place = self._place
        make = lambda: Connection(self._forget, local=bool(place.socket))  # noqa: E731
        try:
            until = min(deadline, loop.time() + self._connect_timeout)
            async with asyncio.timeout_at(until):
                if place.socket:
                    _, connection = await loop.create_unix_connection(make, sock=await self._queue())
                else:
                    # A little earlier than all of it, so that who listens and is silent can be told apart.
                    shaking = None if place.context is None else max(0.9 * (until - loop.time()), 0.001)
                    _, connection = await loop.create_connection(
                        make, place.host, place.port, ssl=place.context, ssl_handshake_timeout=shaking
                    )
        except OSError as exc:  # TimeoutError is one
            self._give_place()
            raise place.unreachable(exc) from exc
        except BaseException:
            self._give_place()
            raise
        self._all.add(connection)
        return connection

    async def _queue(self) -> socket.socket:
        """Return a connection to the unix socket, waiting for room in the service's queue of them."""
        while True:
            try:
                return connect_unix(self._place.socket)
            except BlockingIOError:
                await asyncio.sleep(FULL_QUEUE_PAUSE)

    def _give(self, connection: Connection) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(connection)
                return
        self._idle.append(connection)

    def _give_place(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._open -= 1

    def _forget(self, connection: Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
            self._give_place()

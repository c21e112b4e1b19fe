"""One HTTP/1.1 connection, the same for both processes: bytes in, one request at a time to its face, one answer out.

It knows neither falcon nor services. A face (`Face`) is given each request as an `Exchange`: it answers at once, or
returns a coroutine that will, or keeps the exchange and answers from a callback; what is not hot it gives on to an ASGI
application. A next request that comes early waits in a bounded buffer. When the answer is out and its request's body
was read, the next request begins; where a body was left unread, the connection ends with the answer. An exchange that
is over reaches its connection no more, so that no late answer goes to another request.

Every state that waits for the client has a deadline (`limits.Limits`), looked at once a second by the server, which
costs a request nothing. Nothing of a request outlives its answer, and nothing of a connection its end.
"""

import asyncio
import functools
import logging
import math
import socket
import ssl
import struct
import time
from collections.abc import Coroutine, Iterable
from http import HTTPStatus
from typing import Any, Final, Protocol, TypeAlias, cast

import msgspec

from strongroom.deploy.serving import asgi
from strongroom.deploy.serving.limits import Ledger, Limits
from strongroom.storage_service import wire
from strongroom.storage_service.errors import Fate, TooLarge
from strongroom.storage_service.meter import STORAGE, Meter, Refused
from strongroom.storage_service.traces import trace_of
from strongroom.storage_service.wire import http1
from strongroom.storage_service.wire.http1 import CHUNKED, Field, Gone, Malformed, Peer, Request

HIGH_WATER: Final = 256 * 1024  # bytes that came and nobody took yet, before the socket is no longer read
UNHEEDED: Final = 1024 * 1024  # bytes of a body that are read on after its request was answered early
FIRST_REQUEST: Final = 0.25  # seconds that a connection which has not had one is left when the worker ends
ALLOWED: Final = b"GET, HEAD, PUT, POST, DELETE, OPTIONS"

_UCRED: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))
_APART: Final = 64 * 1024  # bytes of a body from which on it is not copied behind its head

log = logging.getLogger(__name__)

Work: TypeAlias = Coroutine[Any, Any, None]


class Face(Protocol):
    """What answers requests."""

    def __call__(self, exchange: "Exchange") -> Work | None:
        """Answer *exchange*, or return a coroutine that does, or keep it for a callback that does."""


class Server:
    """What the connections of one worker share."""

    def __init__(
        self,
        face: Face,
        ledger: Ledger,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        meter: Meter | None = None,
        *,
        always: bytes = b"",
    ) -> None:
        """Take who answers, what may be held, the loop, what counts, and the header lines that every answer carries."""
        self.face = face
        self.meter = meter or Meter(STORAGE)
        self.limits = limits
        self.loop = loop
        self.ledger = ledger
        self.connections: set[Connection] = set()
        self.ending = False
        self._empty = asyncio.Event()
        self.now = 0.0  # of the last tick: precise enough for deadlines of seconds
        self._always = always
        self.standing = b""  # the lines that every answer carries
        self.tick()

    def tick(self) -> None:
        """Look at the time, and at every connection's deadline; called once a second."""
        self.now = self.loop.time()
        self.standing = http1.date_line(time.time()) + self._always
        for connection in [each for each in self.connections if each.deadline < self.now]:
            try:
                connection.expire()
            except Exception as error:  # noqa: BLE001  # the clock goes on for all the others
                log.error("a connection could not be ended: %s", type(error).__name__)  # noqa: TRY400
                connection.abort()

    async def drain(self, farewell: float = 0.0) -> None:
        """Close the connections on which nobody waits for an answer, and each of the others after its answer.

        For *farewell* seconds the former are left: who asks once more hears with the answer that it is the last.

        Who has only just come may have a request on its way, and would take the end for a refusal: who was never
        answered has a moment to be heard in.
        """
        self.ending = True
        for connection in list(self.connections):
            connection.drain(farewell)
        if self.connections:
            await self._empty.wait()

    def leave(self, connection: "Connection") -> None:
        """Forget *connection*, which is closed, or about to be; it counts no longer."""
        if connection not in self.connections:
            return
        self.connections.discard(connection)
        self.ledger.work(connection)
        self.ledger.leave(connection.address)
        if self.ending and not self.connections:
            self._empty.set()

    def abort(self) -> None:
        """End what is left."""
        for connection in list(self.connections):
            connection.abort()


class Connection(asyncio.Protocol):
    """One connection: the side of the socket."""

    __slots__ = (
        "__weakref__",
        "_buffer",
        "_closing",
        "_exchange",
        "_half_closed",
        "_pending",
        "_reading",
        "_unheeded",
        "address",
        "certificate",
        "client",
        "deadline",
        "handshake",
        "peer",
        "reader",
        "scheme",
        "server",
        "silent",
        "transport",
        "writable",
    )

    def __init__(self, server: Server, accepted: socket.socket, address: str, client: str, scheme: str) -> None:
        """Take what it belongs to, its socket, whom it counts for, the client's address, and "http" or "https"."""
        self.server = server
        self.address = address
        self.client = client
        self.scheme = scheme
        self.peer = peer_of(accepted)
        self.certificate: bytes | None = None
        self.silent = True
        self.deadline = math.inf
        self.handshake: asyncio.Task[Any] | None = None  # what makes its transport
        self.transport: asyncio.Transport | None = None
        self.reader = http1.RequestReader()
        self.writable: asyncio.Future[None] | None = None  # while the client does not keep up
        self._exchange: Exchange | None = None  # the one under way
        self._buffer = b""  # of a head that is not whole, or of a next request
        self._reading = True
        self._pending = False  # what is in the buffer is about to be begun
        self._half_closed = False  # the client sends no more
        self._closing = False  # it ends with the answer
        self._unheeded = 0  # bytes still read, unheeded, after a last answer
        server.connections.add(self)
        server.ledger.wait(self)  # from its first moment on, so that no handshake is above making room

    def __repr__(self) -> str:
        return f"<Connection {'busy' if self._exchange else 'idle'}>"

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request."""
        self.transport = cast("asyncio.Transport", transport)
        self.certificate = _verified(transport.get_extra_info("ssl_object"))
        if self not in self.server.connections:  # it made room for another before it was there
            self.abort()
            return
        self._wait_for_request(self.server.limits.head)
        if self.server.ending:  # a handshake took its time
            self.drain()

    def data_received(self, data: bytes) -> None:
        """Take bytes in the order they came."""
        if self._unheeded:
            self._heed_not(len(data))
        elif self._exchange is not None and not self.reader.complete:
            self._receive_body(self._exchange, data)
        elif self._exchange is not None or self.writable is not None or self._pending:
            self._keep_for_later(data)
        else:
            self._begin(self._buffer + data if self._buffer else data, len(self._buffer))

    def eof_received(self) -> bool:
        """Note that the client sends no more; it may still read (RFC 9112 sec. 9.6), if its request is whole."""
        self._half_closed = True
        if self._unheeded:
            return False
        return self._pending or self.writable is not None or (self._exchange is not None and self.reader.complete)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything; what the face still does is answered to nobody."""
        del exc
        self.server.leave(self)
        self.transport = None
        self.deadline = math.inf
        self._buffer = b""
        self.resume_writing()
        self._let_go()

    def pause_writing(self) -> None:
        """Note that the client does not read as fast as it is written to."""
        if self.writable is None:
            self.writable = self.server.loop.create_future()
            self.deadline = self._in(self.server.limits.write)

    def resume_writing(self) -> None:
        """Note that it has caught up, or is gone."""
        waiting, self.writable = self.writable, None
        if waiting is None:
            return
        if not waiting.done():
            waiting.set_result(None)
        if self.transport is None or self._unheeded:
            return
        if self._exchange is None:
            self._next(self.transport)
        else:
            self.deadline = self._exchange.deadline()

    # the server and the ledger call these

    def expire(self) -> None:
        """End what has waited too long: with 408 where a request has begun and can still be answered."""
        if self.writable is None and not self._unheeded and (self._buffer or self._exchange is not None):
            self.server.meter.refuse(Refused.LATE)
            self.refuse(Malformed("the request did not come in time", 408))
        else:
            self.abort()

    def evict(self) -> None:
        """Close, to make room."""
        self.server.meter.refuse(Refused.CROWDED)
        self.server.leave(self)  # at once, so that the next to go is another, and only where there is need
        if self.handshake is not None and self.transport is None:
            self.handshake.cancel()
        self.abort()

    def drain(self, farewell: float = 0.0) -> None:
        """Close after the answer that is under way, or after *farewell* seconds; a new one has a request on its way."""
        self._closing = True
        wait = max(farewell, FIRST_REQUEST) if self.silent else farewell
        if wait:
            self.server.loop.call_later(wait, self._close_unless_busy)
        else:
            self._close_unless_busy()

    def _close_unless_busy(self) -> None:
        if self._exchange is None and self.transport is not None and not self._unheeded:
            self.transport.close()

    def abort(self) -> None:
        """End at once."""
        self._closing = True
        self.deadline = math.inf
        if self.transport is not None:
            self.transport.abort()

    # a request's way

    def _begin(self, data: bytes, seen: int) -> None:
        """Begin the request that *data* starts with, if its head is whole; *seen* bytes were looked through before."""
        server, came = self.server, data
        try:
            if data[:2] == b"\r\n":  # one empty line before a request is forgiven (RFC 9112 sec. 2.2)
                data, seen = data[2:], 0
            end = http1.find_head(data, seen)
            if not end:
                http1.refuse_handshake(data)
                if self._half_closed:
                    self.abort()
                    return
                if not self._buffer:
                    self.deadline = self._in(server.limits.head)
                self._buffer = came
                self.go_on_reading()
                return
            self._buffer = b""
            request = self.reader.head(data[:end])
        except Malformed as error:
            self.refuse(error, head_only=data.startswith(b"HEAD "))
            return
        server.ledger.work(self)
        self.deadline = math.inf
        if request.close:
            self._closing = True
        exchange = self._exchange = Exchange(self, request)
        if end < len(data):
            if request.length:
                self._receive_body(exchange, data[end:])
                if self._exchange is not exchange:
                    return
            else:
                self._keep_for_later(data[end:])
        elif request.length:
            self.deadline = exchange.deadline()
        if self._half_closed and not self.reader.complete:
            self.abort()  # it will never be whole
            return
        if request.path == b"*":  # asked of the server, not of a resource
            exchange.answer(204, ((b"allow", ALLOWED),))
        elif request.method == b"TRACE":  # nothing is reflected here: credentials would be
            exchange.answer(405, ((b"allow", ALLOWED), *_PROBLEM), _problem(405))
        else:
            self._hand_over(exchange)

    def _hand_over(self, exchange: "Exchange") -> None:
        try:
            work = self.server.face(exchange)
        except Exception as error:  # noqa: BLE001  # whatever it is, its place is told and the client is answered
            _failed(exchange, error)
            return
        if work is not None:
            task = self.server.loop.create_task(work)
            task.add_done_callback(functools.partial(_worked, exchange))

    def _receive_body(self, exchange: "Exchange", data: bytes) -> None:
        try:
            rest = self.reader.feed_body(data)
        except Malformed as error:
            self.refuse(error)
            return
        exchange.receive(self.reader.pieces)
        self.reader.pieces = []
        if self.writable is None:
            self.deadline = exchange.deadline()
        if rest:
            self._keep_for_later(rest)
        elif exchange.held > HIGH_WATER and not exchange.waiting:
            self._stop_reading()

    def _keep_for_later(self, data: bytes) -> None:
        """Keep what belongs to a next request; no more of it is read than is worth holding."""
        self._buffer += data
        if len(self._buffer) > http1.MAX_HEAD:
            self._stop_reading()

    def _stop_reading(self) -> None:
        if self._reading and self.transport is not None:
            self._reading = False
            self.deadline = math.inf if self.writable is None else self.deadline  # it is not the client that is slow
            self.transport.pause_reading()

    def go_on_reading(self) -> bool:
        """Read from the socket again; return whether it had been left unread."""
        if self._reading or self.transport is None:
            return False
        self._reading = True
        self.transport.resume_reading()
        return True

    def ends(self) -> bool:
        """Whether the connection ends with this answer: it was asked to, or the request's body is not whole."""
        last = self._half_closed and not self._buffer
        self._closing = self._closing or self.server.ending or not self.reader.complete or last
        return self._closing

    def finished(self) -> None:
        """Go on after an answer: the exchange is over."""
        unread = not self.reader.complete
        self._exchange = None
        self.silent = False
        transport = self.transport
        if transport is None:
            return
        if unread or (self._closing and self._buffer):
            self._linger(transport)
        elif self._closing:
            self.deadline = self._in(self.server.limits.write)
            transport.close()
        elif self.writable is None:
            self._next(transport)

    def _next(self, transport: asyncio.Transport) -> None:
        """Wait for the next request, or begin the one that is here already."""
        if self._closing or self.server.ending or (self._half_closed and not self._buffer):
            transport.close()
            return
        self._wait_for_request(self.server.limits.idle)
        if not self._buffer:
            self.go_on_reading()
        else:  # as long as that holds requests, no more is read
            self._pending = True
            self.server.loop.call_soon(self._begin_kept)

    def _wait_for_request(self, seconds: float) -> None:
        self.server.ledger.wait(self)
        self.deadline = self._in(seconds)

    def _begin_kept(self) -> None:
        self._pending = False
        if self._buffer and self._exchange is None and self.transport is not None and not self.transport.is_closing():
            data, self._buffer = self._buffer, b""
            self._begin(data, 0)

    def refuse(self, error: Malformed, *, head_only: bool = False) -> None:
        """Answer what is no request, or did not come, and close; one that asked for a head alone gets no more."""
        self.server.ledger.work(self)
        exchange, transport = self._exchange, self.transport
        if transport is None:
            return
        if exchange is not None and exchange.streaming:
            self.abort()
            return
        if exchange is not None:
            exchange.status = error.status
        elif error.status != 408:
            self.server.meter.refuse(Refused.MALFORMED)
        body = _problem(error.status, str(error))
        head = http1.write_head(error.status, _PROBLEM, len(body), self.server.standing, close=True)
        head_only = head_only or (exchange is not None and exchange.head_only)
        transport.write(head if head_only else head + body)
        self._let_go()
        self._linger(transport)

    def _let_go(self) -> None:
        """Let the face know that there is nobody to answer any more."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.cut_off()

    def _linger(self, transport: asyncio.Transport) -> None:
        """Read on for a moment what nobody wants: closing with bytes unread would take the answer away again."""
        self._closing = True
        self._buffer = b""
        if self._half_closed:  # there is nothing more to read
            self.deadline = self._in(self.server.limits.write)
            transport.close()
            return
        self._unheeded = UNHEEDED
        self.server.ledger.wait(self)  # it may make room for another
        self.deadline = self._in(self.server.limits.linger)
        if transport.can_write_eof():
            transport.write_eof()
        self.go_on_reading()

    def _heed_not(self, count: int) -> None:
        self._unheeded = max(1, self._unheeded - count)
        if self._unheeded == 1:
            self.abort()

    def _in(self, seconds: float) -> float:
        return self.server.now + seconds + 1  # `Server.now` may be a second old


class Exchange:
    """One request and its answer: the side of the face, as `http1.Exchange` says. When it is over it holds nothing."""

    __slots__ = (
        "_began",
        "_begun",
        "_connection",
        "_left",
        "_more",
        "_pieces",
        "_received",
        "address",
        "certificate",
        "client",
        "head_only",
        "held",
        "peer",
        "request",
        "scheme",
        "status",
        "streaming",
    )

    def __init__(self, connection: Connection, request: Request) -> None:
        self._connection: Connection | None = connection  # until it is over
        self.request = request
        self.peer = connection.peer
        self.certificate = connection.certificate
        self.client = connection.client
        self.address = connection.address
        self.scheme = connection.scheme
        self.held = 0  # bytes of the body that nobody took yet
        self.streaming = False  # the answer's head was sent
        self.status = 0  # of a whole answer, or of one that has begun
        self._began = connection.server.meter.begin()
        self._pieces: list[bytes] = []
        self._received = 0  # bytes of the body
        self._begun = connection.server.now
        self._more: asyncio.Future[None] | None = None  # while the face waits for more of the body
        self._left = 0  # bytes of a streamed answer to come, or CHUNKED
        self.head_only = request.method == b"HEAD"
        if self.head_only:
            request.method = b"GET"  # which it is, but for the body of its answer (RFC 9110 sec. 9.3.2)

    def __repr__(self) -> str:
        return f"<Exchange {self.request!r}{'' if self._connection else ', over'}>"

    # the face calls these

    @property
    def open(self) -> bool:
        """Whether somebody still waits for the answer."""
        return self._connection is not None

    @property
    def whole(self) -> bool:
        """Whether the request's body is here to its end, or there is none."""
        return self._connection is None or self._connection.reader.complete

    async def body(self, limit: int) -> bytes:
        """Return the request's whole body.

        Raises:
            TooLarge: it is, or says it is, over *limit* bytes; nothing more of it is read.
            Gone: the client left before its end, or did not go on sending.
        """
        if self.request.length > limit:
            raise TooLarge("the body is over its limit")
        while self._received <= limit and not self._reader().complete:
            await self._receive_more()
        if self._received > limit:
            raise TooLarge("the body is over its limit")
        return self.taken()

    async def read(self) -> bytes:
        """Return the next piece of the request's body, b"" at its end; raises `Gone` as `body` does."""
        while not self._pieces:
            if self._reader().complete:
                return b""
            await self._receive_more()
        return self.taken()

    def answer(self, status: int, fields: Iterable[Field], body: bytes = b"") -> None:
        """Send the whole answer; its framing and date are added."""
        connection = self._connection
        if connection is None or connection.transport is None:
            return
        if self.streaming:  # what went wrong in the middle can only be shown by ending there
            self.abandon()
            return
        head = http1.write_head(status, fields, len(body), connection.server.standing, close=connection.ends())
        if self.head_only or not body:
            connection.transport.write(head)
        elif len(body) < _APART:
            connection.transport.write(head + body)
        else:
            connection.transport.writelines((head, body))
        self.status = status
        self._over(connection)

    def start(self, status: int, fields: Iterable[Field], length: int = CHUNKED) -> None:
        """Send the head of an answer whose body follows in pieces."""
        connection = self._connection
        if connection is None or connection.transport is None:
            return
        self.streaming = True
        self.status = status
        self._left = length
        minor = self.request.minor
        close = connection.ends()
        connection.transport.write(
            http1.write_head(status, fields, length, connection.server.standing, close=close, minor=minor)
        )

    async def write(self, piece: bytes) -> None:
        """Send a piece of the body, as fast as the client takes it.

        Raises:
            Gone: the client left, or did not read.
        """
        connection = self._connection
        if connection is None or connection.transport is None:
            raise Gone("the client left before the answer was whole")
        if not piece:
            return
        if self._left != CHUNKED:
            self._left -= len(piece)
        if not self.head_only:
            framed = self._left == CHUNKED and self.request.minor
            connection.transport.write(http1.chunk(piece) if framed else piece)
        while connection.writable is not None:
            await asyncio.shield(connection.writable)
        if connection.transport is None:
            raise Gone("the client left before the answer was whole")

    def finish(self) -> None:
        """Say that the body is complete; one that is shorter than was said ends the connection."""
        connection = self._connection
        if connection is None or connection.transport is None:
            return
        if self._left > 0:
            self.abandon()
            return
        if self._left == CHUNKED and self.request.minor and not self.head_only:
            connection.transport.write(http1.LAST_CHUNK)
        self._over(connection)

    def abandon(self) -> None:
        """End the connection, so that the client sees that there is no answer, or not all of it."""
        if self._connection is not None:
            self._connection.abort()

    async def asgi(self, app: Any, **state: object) -> None:
        """Let an ASGI application answer; *state* stands in its scope's ``state``."""
        await asgi.run(app, self, state)

    # the connection calls these

    @property
    def waiting(self) -> bool:
        """Whether the face waits for more of the body."""
        return self._more is not None

    def receive(self, pieces: list[bytes]) -> None:
        """Take *pieces* of the body."""
        if pieces:
            size = sum(map(len, pieces))
            self.held += size
            self._received += size
            self._pieces += pieces
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    def deadline(self) -> float:
        """Return when the body must be here to its end, at the least rate that is accepted."""
        connection = self._connection
        if connection is None or connection.reader.complete or (self.request.expects and not self._received):
            return math.inf
        limits = connection.server.limits
        return self._begun + limits.body + 1 + self._received / limits.body_rate

    def cut_off(self) -> None:
        """Be over: there is nobody to answer."""
        self._count(0 if self.streaming else self.status)
        self._connection = None
        self._pieces = []
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    def _over(self, connection: Connection) -> None:
        self._count(self.status)
        self._connection = None
        self._pieces = []
        connection.finished()

    def _count(self, status: int) -> None:
        connection = self._connection
        if connection is not None:
            request = self.request
            connection.server.meter.end(request.path, request.method, self.head_only, status, self._began)

    def _reader(self) -> http1.RequestReader:
        if self._connection is None:
            raise Gone("the client left before its request was whole")
        return self._connection.reader

    def taken(self) -> bytes:
        """Take what of the body is here."""
        pieces, self._pieces, self.held = self._pieces, [], 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _receive_more(self) -> None:
        """Wait until more of the body is here; tell a client that waits to be told to send it."""
        connection = self._connection
        if connection is None or connection.transport is None:
            raise Gone("the client left before its request was whole")
        server = connection.server
        waited = connection.go_on_reading()
        if self.request.expects:
            self.request.expects = False
            waited = True
            if not self._received:
                connection.transport.write(http1.CONTINUE)
        if waited:  # for us, which is not held against it
            self._begun = max(self._begun, server.now - self._received / server.limits.body_rate)
        if connection.writable is None:
            connection.deadline = self.deadline()
        self._more = server.loop.create_future()
        server.ledger.wait(connection)  # whoever does not go on sending may have to make room
        try:
            await self._more
        finally:
            self._more = None
            if self._connection is not None:
                server.ledger.work(connection)


def _verified(tls: ssl.SSLObject | None) -> bytes | None:
    """Return the certificate (DER) that the other end has shown, if it was asked for one, and that was verified."""
    if tls is None or tls.context.verify_mode is ssl.CERT_NONE:
        return None
    return tls.getpeercert(binary_form=True)


def peer_of(accepted: socket.socket) -> Peer | None:
    """Return the process at the other end of *accepted*, if it is on this machine."""
    if accepted.family != socket.AF_UNIX:
        return None
    return Peer(*_UCRED.unpack(accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


def _worked(exchange: Exchange, task: asyncio.Task[None]) -> None:
    """Look at how a face's coroutine ended: it should have answered, or the client have left."""
    if task.cancelled():
        exchange.abandon()
    elif (error := task.exception()) is not None:
        _failed(exchange, error)


def _failed(exchange: Exchange, error: BaseException) -> None:
    if isinstance(error, Gone):
        exchange.abandon()
        return
    log.error("a request ended in %s", trace_of(error))
    if exchange.streaming:
        exchange.abandon()
    else:
        exchange.answer(500, _PROBLEM, _problem(500))


_PROBLEM: Final[tuple[Field, ...]] = (
    (b"content-type", wire.PROBLEM_JSON.encode()),
    (b"cache-control", b"no-store"),
)


def _problem(status: int, detail: str = "") -> bytes:
    """Return a problem of the connection's own; of a write that broke off inside, nobody knows what became."""
    said: dict[str, object] = {"type": wire.type_of(status), "title": HTTPStatus(status).phrase, "status": status}
    if status >= 500:
        said["fate"] = (Fate.NOT_APPLIED if status == 501 else Fate.UNKNOWN).value
    return msgspec.json.encode(said | {"detail": detail} if detail else said)

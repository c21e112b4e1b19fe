"""Connections to the storage service: a bounded pool of HTTP/1.1 conversations kept open over its unix socket.

The service is trusted as far as framing goes and no further: an answer whose head breaks RFC 9112, or whose end only
the end of the connection would tell, counts as no answer. A connection is used again only when its last answer was
read to the end and nothing followed it.

What a broken connection says about a request rests on a property of unix sockets: a peer that closes with bytes unread
resets the connection, and one that has closed already makes the write fail. So after a reset or a failed write the
service cannot have read the whole request, and it may be sent again whatever its method; after a plain end of file
it may have read all of it.
"""

import asyncio
import re
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, cast

CONNECT_TIMEOUT: Final = 1.0  # seconds
MAX_HEAD: Final = 16 * 1024  # bytes of an answer's head
INLINE_BODY: Final = 64 * 1024  # bytes; an answer up to here is awaited whole, a longer one is streamed
HIGH_WATER: Final = 256 * 1024  # bytes of an answer waiting for its reader before the socket is no longer read

PASSED_BACK: Final = frozenset(
    (
        b"allow",
        b"cache-control",
        b"content-length",
        b"content-type",
        b"etag",
        b"location",
        b"retry-after",
        b"www-authenticate",
    )
)
"""Fields of an answer that reach the client; all others stop here."""

# One match says that a whole head is well-formed, so that finding its fields afterwards may be simple, and is quick.
_HEAD = re.compile(
    rb"HTTP/1\.1 ([1-5][0-9]{2})(?: [^\x00-\x1f\x7f]*)?"
    rb"(?:\r\n[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00-\x08\x0a-\x1f\x7f]*)*"
)
_FIELD = re.compile(rb"\r\n([^:]+):[ \t]*([^\r]*)")
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,8}")
_CHUNKED: Final = -1  # the length of a body in chunks
_NEXT: Final = -2  # the length of an interim answer: there is none, the real head follows


class UpstreamError(Exception):
    """The service gave no whole answer.

    Attributes:
        unread: the service cannot have read the whole request, so nothing has come of it.
        answered: some of an answer had come.
    """

    def __init__(self, reason: str, *, unread: bool = False, answered: bool = False) -> None:
        super().__init__(reason)
        self.unread = unread
        self.answered = answered


class Head(NamedTuple):
    """The head of an answer; *length* is the body's in bytes, or one of the two marks above."""

    status: int
    headers: list[tuple[bytes, bytes]]
    length: int
    keep: bool  # the connection stays open after it


def read_head(head: bytes) -> Head:
    """Read an answer's head, given without its last empty line (RFC 9112 sec. 4, 5 and 6).

    Raises:
        ValueError: it is no HTTP/1.1, or its framing can be read in two ways, or not at all.
    """
    matched = _HEAD.fullmatch(head)
    if matched is None:
        raise ValueError("no head of HTTP/1.1")
    status = int(matched[1])
    headers: list[tuple[bytes, bytes]] = []
    length: int | None = None
    chunked, keep = False, True
    for given, padded in _FIELD.findall(head):
        name, value = given.lower(), padded.rstrip(b" \t")
        if name == b"content-length":
            if length is not None or len(value) > 15 or not value.isdigit():
                raise ValueError("the content length is doubled or no number")
            length = int(value)
        elif name == b"transfer-encoding":
            if chunked or value.lower() != b"chunked":
                raise ValueError("a transfer coding other than chunked")
            chunked = True
        elif name == b"connection" and b"close" in value.lower():
            keep = False
        if name in PASSED_BACK:
            headers.append((name, value))
    if chunked and length is not None:
        raise ValueError("both a content length and a transfer coding")
    if status < 200:
        if status == 101:
            raise ValueError("a change of protocol nobody asked for")
        return Head(status, headers, _NEXT, keep)
    if status in (204, 304):
        return Head(status, [field for field in headers if field[0] != b"content-length"], 0, keep)
    if chunked:
        return Head(status, headers, _CHUNKED, keep)
    if length is None:
        raise ValueError("only the end of the connection would end the body")
    return Head(status, headers, length, keep)


class Dechunker:
    """Takes the chunked coding off a body (RFC 9112 sec. 7.1); extensions are refused and trailers dropped."""

    __slots__ = ("_buffer", "_expect", "_left", "done", "surplus")

    def __init__(self) -> None:
        self._buffer = b""
        self._expect = "size"  # "size", "data", "end of chunk" or "trailer"
        self._left = 0  # bytes of the current chunk still to come
        self.done = False
        self.surplus = False  # bytes came after the end

    def feed(self, data: bytes) -> list[bytes]:
        """Return the pieces of the body that *data* brings.

        Raises:
            ValueError: it is no chunked coding.
        """
        data, self._buffer = self._buffer + data, b""
        pieces: list[bytes] = []
        while data and not self.done:
            if self._expect == "data":
                piece, data = data[: self._left], data[self._left :]
                pieces.append(piece)
                self._left -= len(piece)
                if self._left == 0:
                    self._expect = "end of chunk"
                continue
            line, found, rest = data.partition(b"\r\n")
            if not found:
                if len(data) > MAX_HEAD:
                    raise ValueError("a line of the chunked coding has no end")
                self._buffer = data
                return pieces
            data = rest
            self._line(line)
        self.surplus = self.done and bool(data)
        return pieces

    def _line(self, line: bytes) -> None:
        if self._expect == "end of chunk":
            if line:
                raise ValueError("a chunk does not end where it said")
            self._expect = "size"
        elif self._expect == "trailer":
            self.done = not line
        elif _CHUNK_SIZE.fullmatch(line) is None:
            raise ValueError("a chunk size is no number")
        else:
            self._left = int(line, 16)
            self._expect = "data" if self._left else "trailer"


class Connection(asyncio.Protocol):
    """One conversation with the service: an exchange at a time, never pipelined.

    ``ask`` begins an exchange and gives a future; when it is done, *status* and *headers* hold the answer's head, and
    *body* its body, unless the answer is *streamed*: then its body comes from ``read``. It is *complete* when it has
    come to its end, read or not. *deadline* is when, by the loop's clock, the exchange must be over.
    """

    __slots__ = (
        "_answer",
        "_broken",
        "_buffer",
        "_buffered",
        "_chunks",
        "_dechunker",
        "_heard",
        "_in_head",
        "_keep",
        "_left",
        "_loop",
        "_more",
        "_on_idle_loss",
        "_reading",
        "_timer",
        "_transport",
        "_writable",
        "body",
        "complete",
        "deadline",
        "headers",
        "status",
        "streamed",
        "used",
    )

    def __init__(self, on_idle_loss: Callable[["Connection"], None]) -> None:
        self._on_idle_loss = on_idle_loss
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[None] | None = None  # while an exchange is under way, until its head has come
        self._more: asyncio.Future[None] | None = None  # while a reader waits
        self._writable: asyncio.Future[None] | None = None  # while the socket takes no more
        self._timer: asyncio.TimerHandle | None = None
        self.deadline = 0.0
        self._broken: UpstreamError | None = None
        self._buffer = b""  # of a head that is not whole
        self._chunks: deque[bytes] = deque()  # of a body that is not whole, or not yet read
        self._buffered = 0  # bytes in them
        self._left = 0  # bytes of the body still to come; only where a content length says so
        self._dechunker: Dechunker | None = None
        self._in_head = False  # the head of the current answer is awaited
        self._heard = False  # something of the current answer came
        self._reading = True
        self._keep = True
        self.used = False  # an exchange went well before this one
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.streamed = False
        self.complete = True

    def __repr__(self) -> str:
        return f"<Connection {'broken' if self._broken else 'idle' if self.complete else 'busy'}>"

    # -- the side of the proxy

    @property
    def reusable(self) -> bool:
        """Whether the last answer was read to its end and the service goes on listening."""
        return self.complete and self._keep and self._reading and self._broken is None

    @property
    def decided(self) -> bool:
        """Whether more of the request has no point: the head of the answer is here, or the connection broke."""
        return self._answer is None

    def ask(self, request: bytes, deadline: float) -> asyncio.Future[None]:
        """Write *request*, or its beginning, and return what is done when the answer is there.

        Args:
            request: a head, with all of its body or as much of it as is here.
            deadline: when the loop's clock reaches it, the exchange has failed.

        The future raises `UpstreamError`.
        """
        answer: asyncio.Future[None] = self._loop.create_future()
        self.complete = self.streamed = self._heard = False
        self._in_head = True
        if self._chunks:
            self._chunks.clear()  # what the last reader left
        if self._broken is not None or self._transport is None:
            answer.set_exception(UpstreamError("the connection had closed", unread=True))
            answer.exception()
            return answer
        self._answer = answer
        # One timer serves many exchanges: it is set again only when it fires and finds a later deadline.
        self.deadline = deadline
        if self._timer is not None and self._timer.when() > deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._expire)
        self._transport.write(request)
        return answer

    async def write(self, data: bytes) -> None:
        """Send more of a request's body, as fast as the service takes it."""
        if self._transport is not None and self._broken is None:
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
            if self._broken is not None:
                raise self._broken
            self._more = self._loop.create_future()
            try:
                await self._more
            finally:
                self._more = None
        piece = self._chunks.popleft()
        self._buffered -= len(piece)
        if not self._reading and self._buffered < HIGH_WATER and self._transport is not None:
            self._reading = True
            self._transport.resume_reading()
        return piece

    def spoil(self) -> None:
        """Say that this connection must not be used again, whatever comes of the exchange."""
        self._keep = False

    def close(self) -> None:
        """End the conversation at once."""
        if self._answer is not None:
            self._answer.cancel()
            self._answer = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()

    # -- the side of the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio: the socket is open."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Asyncio: the service sent *data*."""
        self._heard = True
        if self._in_head:
            try:
                self._receive_head(data)
            except ValueError as exc:
                self._break(UpstreamError(str(exc), answered=True))
        elif self.complete:
            self._break(UpstreamError("bytes that nobody asked for", answered=True))
        else:
            self._receive_body(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio: the socket is closed."""
        idle, heard = self.complete, self._heard
        unread = not heard and isinstance(exc, BrokenPipeError | ConnectionResetError)
        self._break(UpstreamError("the service closed the connection", unread=unread, answered=heard))
        self._transport = None
        if idle:
            self._on_idle_loss(self)

    def pause_writing(self) -> None:
        """Asyncio: the service does not keep up with what is sent."""
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """Asyncio: it has caught up."""
        if self._writable is not None:
            if not self._writable.done():
                self._writable.set_result(None)
            self._writable = None

    def _receive_head(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        while True:
            end = data.find(b"\r\n\r\n")
            if end > MAX_HEAD or (end < 0 and len(data) > MAX_HEAD):
                raise ValueError("the head is too long")
            if end < 0:
                self._buffer = data
                return
            status, headers, length, keep = read_head(data[:end])
            data = data[end + 4 :]
            if length != _NEXT:
                break
        self._buffer, self._in_head = b"", False
        self.status, self.headers = status, headers
        self._keep = self._keep and keep
        if length == len(data):  # by far the most answers come in one piece
            self.body = data
            self._finish()
            return
        self.body = b""
        self._left = length
        self._dechunker = Dechunker() if length == _CHUNKED else None
        self._buffered = 0
        if data:
            self._receive_body(data)
        if not self.complete and not 0 <= length <= INLINE_BODY:
            self.streamed = True
            self._answered()

    def _receive_body(self, data: bytes) -> None:
        if self._dechunker is not None:
            try:
                pieces = self._dechunker.feed(data)
            except ValueError as exc:
                self._break(UpstreamError(str(exc), answered=True))
                return
            self._keep = self._keep and not self._dechunker.surplus
            ended = self._dechunker.done
        else:
            if len(data) > self._left:
                self._keep = False  # what follows the answer belongs to nobody
                data = data[: self._left]
            self._left -= len(data)
            pieces, ended = [data], self._left == 0
        self._chunks.extend(pieces)
        self._buffered += sum(map(len, pieces))
        if ended and not self.streamed:  # whole before anybody was told of it
            self.body = b"".join(self._chunks)
            self._chunks.clear()
            self._finish()
            return
        if ended:
            self.complete = True
        elif self._buffered > HIGH_WATER and self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()
        self._wake_reader()

    def _finish(self) -> None:
        self.complete = True
        self._answered()

    def _answered(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result(None)

    def _break(self, error: UpstreamError) -> None:
        if self._broken is not None:
            return
        self._broken = error
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(error)
            answer.exception()  # who sent a part and then turned away has nothing to be told
        self._wake_reader()
        self.resume_writing()
        self.close()

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
            self._break(UpstreamError("the service did not answer in time", answered=self._heard))


class Upstream:
    """The pool: at most *connections* conversations at a time, waiting callers served in their order.

    Whoever takes a connection gives it back with ``finish``, however the exchange ended. Connections are opened when
    they are first needed, on the loop that needs them.
    """

    def __init__(self, socket: str, connections: int) -> None:
        self._socket = socket
        self._limit = connections
        self._open = 0  # connections that exist or are being made
        self._idle: list[Connection] = []  # the last used is used first, so that a quiet hour needs few
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()

    def __repr__(self) -> str:
        return f"<Upstream {self._open} of {self._limit} open, {len(self._idle)} idle, {len(self._waiting)} waiting>"

    async def exchange(self, request: bytes, deadline: float, *, repeatable: bool) -> Connection:
        """Send a whole *request* and return the connection that holds the answer's beginning, or all of it.

        A connection that had been kept open may turn out closed; then the request goes once more over a new one,
        if it is *repeatable* or cannot have been read.

        Raises:
            UpstreamError: there is no answer; *unread* says whether something may have come of the request.
        """
        connection = await self.take(deadline)
        used = connection.used
        try:
            await connection.ask(request, deadline)
        except UpstreamError as exc:
            if not used or exc.answered or not (repeatable or exc.unread):
                self.finish(connection)
                raise
        except BaseException:
            self.finish(connection)
            raise
        else:
            return connection
        connection.close()
        connection = await self._connect(deadline)  # in the place of the one that failed
        try:
            await connection.ask(request, deadline)
        except BaseException:
            self.finish(connection)
            raise
        return connection

    async def take(self, deadline: float) -> Connection:
        """Return a connection for one exchange, waiting for one until *deadline*.

        Raises:
            UpstreamError: none came free, or none could be made; nothing was sent.
        """
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
            self._open -= 1  # it broke a moment ago
        if self._open < self._limit:
            self._open += 1
            return await self._connect(deadline)
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
        return given or await self._connect(deadline)

    def finish(self, connection: Connection) -> None:
        """Give back a connection; it is kept only if its exchange ended cleanly."""
        if connection.reusable:
            connection.used = True
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

    async def _connect(self, deadline: float) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(min(deadline, loop.time() + CONNECT_TIMEOUT)):
                _, connection = await loop.create_unix_connection(lambda: Connection(self._forget), self._socket)
        except (OSError, TimeoutError) as exc:
            self._give_place()
            raise UpstreamError("the service does not listen", unread=True) from exc
        except BaseException:
            self._give_place()
            raise
        return connection

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

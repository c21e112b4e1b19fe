"""The way of a secret through the proxy: from the client to the service's socket and back, unread.

Only the fields listed here are sent on, and ``Forwarded`` (RFC 7239) says that the caller is no local peer. The
credentials go through in the spelling they came in: the service judges them, and refuses two spellings of one. Nothing
here knows what a secret looks like.

What is short goes from connection to connection, by callbacks alone. A body that is still arriving is asked for only
when the service has said that it wants it (``Expect: 100-continue``), so that no stranger's is read. Of the
connections to the service, those that wait for a client are a few, given in turns (`strongroom.storage_service.turns`).
"""

import asyncio
import functools
import logging
import math
from collections.abc import Callable, Coroutine
from typing import Any, Final

from strongroom.http_proxy.certificate import line
from strongroom.http_proxy.refusals import RefusedRequest, Why, why
from strongroom.http_proxy.request import REQUEST_ID, forwarded, request_id, request_id_of
from strongroom.storage_service import wire
from strongroom.storage_service.client.pool import Connection, Pool, UpstreamError
from strongroom.storage_service.errors import Fate, NotImplementedHere, ServiceError, TooLarge, Unavailable
from strongroom.storage_service.traces import trace_of
from strongroom.storage_service.turns import Queue, Rule, Turn
from strongroom.storage_service.wire import http1
from strongroom.storage_service.wire.http1 import CHUNKED, Exchange, Field, Gone

_log = logging.getLogger(__name__)

SHORT: Final = http1.MAX_HEAD // 2  # bytes of a body that is taken like a part of the head: it costs no more

_METHODS: Final = frozenset((b"GET", b"PUT", b"POST", b"DELETE", b"OPTIONS"))
_BODYLESS: Final = frozenset((b"GET", b"DELETE", b"OPTIONS"))
_PASSED_ON: Final[dict[bytes, bytes]] = {
    name: name + b": "
    for name in (
        b"accept",
        b"content-type",
        b"if-match",
        b"if-none-match",
        *wire.AUTH_ID_HEADERS,
        *wire.AUTH_KEY_HEADERS,
        b"authorization",
        wire.TRACE_HEADER.encode(),
    )
}
"""Fields that reach the service, with the beginnings of their lines."""
_PASSED_BACK: Final = frozenset(
    (
        b"allow",
        b"cache-control",
        b"content-type",
        b"etag",
        b"location",
        b"ratelimit",
        b"ratelimit-policy",
        b"retry-after",
        b"www-authenticate",
    )
)
"""Fields of an answer that reach the client; all others stop here."""
_BATCH_GET: Final = b"batch=get"
_SHARE: Final = 4  # long uploads hold at most one in so many connections, and so do batches: slow ones starve nobody


def rule_for(connections: int) -> Rule:
    """Return who has the turns of uploads, or of batches, before a pool of *connections*.

    A holder is a network address here, for nobody is known yet, and many may share one. So one address has half of the
    turns, and of the places to wait. Beyond what the rule says, the request's own deadline ends a turn.
    """
    turns = max(1, connections // _SHARE)
    return Rule(turns=turns, held=max(1, turns // 2), waiting=32, queue=64, longest=math.inf, shared=True)


class Forwarder:
    """Sends requests at or below *prefix* to *target* on the service, and the answers back."""

    def __init__(
        self,
        pool: Pool,
        *,
        timeout: float,
        connections: int,
        proof: bytes = b"",
        refused: Callable[[RefusedRequest, Why], None] = lambda *_: None,
        prefix: str = wire.PROXIED_SECRETS_PATH,
        target: str = wire.SECRETS_PATH,
    ) -> None:
        """Take the way to the service, the line that shows it the proxy, and what counts those who are refused here."""
        self._pool = pool
        self._proof = proof
        self._refused = refused
        self._timeout = timeout  # seconds, from the request's head to the answer's last byte
        self._uploads = Queue(rule_for(connections))
        self._batches = Queue(rule_for(connections))
        self._skip = len(prefix)
        self._target = target

    def __call__(self, exchange: Exchange, path: str) -> Coroutine[Any, Any, None] | None:
        """Forward one request for *path*, the plain one."""
        way = _Way(exchange, asyncio.get_running_loop().time() + self._timeout, path, self._refused)
        request = exchange.request
        if request.method not in _METHODS:
            way.request_id = request_id_of(request.fields)
            way.refuse(NotImplementedHere("no such method"))
            return None
        way.head = self._head(exchange, path, way)
        if exchange.whole:
            body = exchange.taken()
            if body or request.method not in _BODYLESS:
                way.request = b"%bcontent-length: %d\r\n\r\n%b" % (way.head, len(body), body)
            else:
                way.request = way.head + b"\r\n"
            if way.is_batch:
                return self._batch(way)
            connection = self._pool.take_idle()
            if connection is not None:
                told = functools.partial(self._answered, way, connection)
                connection.ask(way.request, way.deadline, told, request_id=way.request_id)
                return None
            return self._exchange(way)
        return self._receive(way)

    def _head(self, exchange: Exchange, path: str, way: "_Way") -> bytes:
        """Return the request's head up to where its framing goes: the caller adds that and the empty line."""
        request = exchange.request
        lines: list[bytes] = []
        given: bytes | None = None
        for name, value in request.fields:
            start = _PASSED_ON.get(name)
            if start is not None:
                lines += (start, value, b"\r\n")
            elif name == REQUEST_ID:
                given = value
        way.request_id = request_id(given)
        return b"".join(
            (
                request.method,
                b" ",
                (self._target + path[self._skip :]).encode("ascii"),
                b"?" + request.query if request.query else b"",
                b" HTTP/1.1\r\nhost: strongroom\r\nforwarded: ",
                forwarded(exchange.client, exchange.scheme).encode("ascii"),
                b"\r\nx-request-id: ",
                way.request_id,
                b"\r\n",
                self._proof,
                line(exchange.certificate),
                *lines,
            )
        )

    # short: without a task, unless something has to be waited for

    def _answered(self, way: "_Way", connection: Connection) -> None:
        """Pass on the answer that *connection* holds, or ask again where the connection was closed meanwhile."""
        error = connection.error
        if error is None:
            if connection.streamed:
                _start(self._stream(way, connection))
                return
            status, fields, body = connection.status, connection.fields, connection.body
            self._pool.finish(connection)
            way.answer(status, fields, body)
        elif connection.used and not error.answered and (way.repeatable or error.unread):
            self._pool.finish(connection)
            _start(self._exchange(way))
        else:
            self._pool.finish(connection)
            way.fail(error)

    async def _batch(self, way: "_Way") -> None:
        """Send a batch get: its answer may be long, and wait for others, so that batches have a share of the pool."""
        try:
            async with await self._batches.begin(way.exchange.address, way.deadline) as turn:
                if way.exchange.open:  # who left while waiting costs no connection
                    await self._exchange(way, turn)
        except Unavailable as error:
            way.refuse(error)

    async def _exchange(self, way: "_Way", turn: Turn | None = None) -> None:
        """Send a whole request, and pass on its answer, as far as it is long in the *turn* that it has."""
        try:
            connection = await self._pool.exchange(
                way.request, way.deadline, repeatable=way.repeatable, request_id=way.request_id
            )
        except UpstreamError as error:
            way.fail(error)
            return
        if connection.streamed:
            await self._stream(way, connection, turn)
            return
        status, fields, body = connection.status, connection.fields, connection.body
        self._pool.finish(connection)
        way.answer(status, fields, body)

    # long

    async def _receive(self, way: "_Way") -> None:
        """Forward a request whose body is still arriving."""
        exchange = way.exchange
        length = exchange.request.length
        if length > wire.MAX_BODY:
            way.refuse(TooLarge("the body is longer than it may be"))
            return
        if 0 <= length <= SHORT and not exchange.request.expects:  # who waits to be asked waits for the service's word
            try:
                body = await exchange.body(SHORT)
            except ServiceError as error:
                way.refuse(error)
                return
            way.request = b"%bcontent-length: %d\r\n\r\n%b" % (way.head, len(body), body)
            await (self._batch(way) if way.is_batch else self._exchange(way))
            return
        try:  # The turn comes before the connection: who waits for one must not hold the other.
            async with await self._uploads.begin(exchange.address, way.deadline) as turn:
                if exchange.open:  # who left while waiting costs no connection
                    await self._receive_long(way, length, turn)
        except Unavailable as error:
            way.refuse(error)

    async def _receive_long(self, way: "_Way", length: int, turn: Turn) -> None:
        """Forward a request whose body is long, or was not sent yet, in its *turn*."""
        try:
            connection = await self._pool.take(way.deadline)
        except UpstreamError as error:
            way.fail(error)
            return
        try:
            refusal = await self._upload(way, connection, length, turn)
        except BaseException as error:
            self._pool.finish(connection)
            if not isinstance(error, UpstreamError):
                raise
            way.fail(error)
            return
        if refusal is not None:
            self._pool.finish(connection)
            way.refuse(refusal)
        elif connection.streamed:
            await self._stream(way, connection, turn)
        else:
            status, fields, body = connection.status, connection.fields, connection.body
            self._pool.finish(connection)
            way.answer(status, fields, body)

    async def _upload(self, way: "_Way", connection: Connection, length: int, turn: Turn) -> ServiceError | None:
        """Send a body as fast as the service takes it, when it has said that it does; return why it is refused here.

        Raises:
            UpstreamError: there is no answer.
            Gone: the client left before its body was whole.
        """
        loop = asyncio.get_running_loop()
        wanted: asyncio.Future[None] = loop.create_future()
        answered: asyncio.Future[None] = loop.create_future()
        errors: list[UpstreamError | None] = []

        def told() -> None:
            errors.append(connection.error)  # as of now: the service may close as soon as it has answered
            _done(answered, wanted)

        framing = b"transfer-encoding: chunked" if length == CHUNKED else b"content-length: %d" % length
        connection.ask(
            b"%bexpect: 100-continue\r\n%b\r\n\r\n" % (way.head, framing),
            way.deadline,
            told,
            request_id=way.request_id,
            continued=lambda: _done(wanted),
        )
        whole = False
        try:
            await wanted
            if not connection.decided:
                async with asyncio.timeout_at(way.deadline):
                    whole = await _pump(way.exchange, connection, length, turn)
            turn.client_done()
            if not whole:
                connection.spoil()  # the service decided without the rest
            await answered
        except TooLarge as error:
            connection.spoil()
            connection.close()
            return error
        except TimeoutError:
            raise UpstreamError("the request took too long", unread=not whole) from None
        except BaseException:
            connection.close()
            raise
        failure = errors[0]
        if failure is not None:
            raise UpstreamError(str(failure), unread=not whole, answered=failure.answered)
        return None

    async def _stream(self, way: "_Way", connection: Connection, turn: Turn | None = None) -> None:
        """Pass on a long answer, as fast as the client takes it; one that breaks off is left visibly short."""
        exchange = way.exchange
        try:
            way.start(connection.status, connection.fields)
            if turn is not None:
                turn.await_client()
            async with asyncio.timeout_at(connection.deadline):
                while piece := await connection.read():
                    await exchange.write(piece)
                    if turn is not None:
                        turn.moved(len(piece))
            exchange.finish()
        except (UpstreamError, TimeoutError) as error:
            _log.warning("an answer broke off: %s", error)
            exchange.abandon()
        finally:
            self._pool.finish(connection)


class _Way:
    """One request on its way."""

    __slots__ = ("_refused", "deadline", "exchange", "head", "path", "request", "request_id")

    def __init__(
        self, exchange: Exchange, deadline: float, path: str, refused: Callable[[RefusedRequest, Why], None]
    ) -> None:
        self.exchange = exchange
        self.deadline = deadline
        self.path = path
        self._refused = refused
        self.request_id = b""
        self.head = b""
        self.request = b""

    @property
    def repeatable(self) -> bool:
        """Whether asking twice does no more than asking once."""
        request = self.exchange.request
        return request.method == b"GET" or self.is_batch

    @property
    def is_batch(self) -> bool:
        """Whether it asks for many secrets at once."""
        request = self.exchange.request
        return request.method == b"POST" and request.query == _BATCH_GET

    def answer(self, status: int, fields: list[Field], body: bytes) -> None:
        """Pass on a whole answer."""
        self.exchange.answer(status, self._passed(fields), body)

    def start(self, status: int, fields: list[Field]) -> None:
        """Pass on the beginning of an answer."""
        length = next((int(value) for name, value in fields if name == b"content-length"), CHUNKED)
        self.exchange.start(status, self._passed(fields), length)

    def refuse(self, error: ServiceError) -> None:
        """Answer what is not forwarded, or came to nothing."""
        self._refused(RefusedRequest(self.exchange, self.path, self.request_id), why(error))
        self.exchange.answer(*wire.problem_answer(error, self.request_id.decode("ascii")))

    def fail(self, error: UpstreamError) -> None:
        """Answer that there is no answer, and what is known of the request's fate."""
        fate = Fate.NOT_APPLIED if self.repeatable or error.unread else Fate.UNKNOWN
        _log.warning("%s failed (%s): %s", self.exchange.request.method.decode("ascii"), fate.value, error)
        self.refuse(Unavailable("the service does not answer", fate))

    def _passed(self, fields: list[Field]) -> list[Field]:
        return [(REQUEST_ID, self.request_id), *(field for field in fields if field[0] in _PASSED_BACK)]


async def _pump(exchange: Exchange, connection: Connection, length: int, turn: Turn) -> bool:
    """Send the client's body on until it is whole, or the service has decided; return whether it is whole.

    A client that is slow to send it may lose its *turn*.

    Raises:
        TooLarge: it is longer than a body may be.
        Gone: the client left before its end.
    """
    size = 0
    chunked = length == CHUNKED
    turn.await_client()
    while not connection.decided:
        piece = await exchange.read()
        size += len(piece)
        turn.moved(len(piece))
        if size > wire.MAX_BODY:
            raise TooLarge("the body is longer than it may be")
        if piece:
            await connection.write(http1.chunk(piece) if chunked else piece)
        if exchange.whole and not exchange.held:
            if chunked:
                await connection.write(http1.LAST_CHUNK)
            return True
    return False


def _done(*futures: "asyncio.Future[None]") -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


_running: set[asyncio.Task[None]] = set()  # asyncio itself holds tasks by weak references alone


def _start(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.get_running_loop().create_task(work)
    _running.add(task)
    task.add_done_callback(_ended)


def _ended(task: "asyncio.Task[None]") -> None:
    _running.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, Gone):
        _log.error("forwarding ended in %s", trace_of(error))

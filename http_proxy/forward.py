"""The way of a secret through the proxy: from the client to the service's socket and back, unread.

The proxy checks how a request is framed, sends on only the fields listed here, and says by ``Forwarded`` (RFC 7239)
that the caller is no local peer. The credentials go through in the spelling they came in: the service judges them,
and refuses two spellings of one. Nothing here knows what a secret looks like.
"""

import asyncio
import logging
from typing import Final

from http_proxy.asgi import REQUEST_ID, UNFRAMED, Message, Receive, Scope, Send, body_length, forwarded, request_id
from http_proxy.errors import send_problem
from http_proxy.upstream import INLINE_BODY, Connection, Upstream, UpstreamError
from storage_service import wire
from storage_service.errors import Fate, Invalid, NotImplementedHere, ServiceError, TooLarge, Unavailable

_log = logging.getLogger(__name__)

_METHODS: Final = {"GET": b"GET ", "PUT": b"PUT ", "POST": b"POST ", "DELETE": b"DELETE "}
_BODYLESS: Final = frozenset(("GET", "DELETE"))  # without a framing field there is no body to ask for
_PASSED_ON: Final[dict[bytes, bytes]] = {
    name: name + b": "
    for name in (
        b"accept",
        b"content-type",
        b"if-match",
        b"if-none-match",
        *wire.AUTH_ID_HEADERS,
        *wire.AUTH_KEY_HEADERS,
    )
} | dict.fromkeys((b"content-length", b"transfer-encoding", REQUEST_ID), b"")
"""Fields that reach the service, with the beginnings of their lines; those with none are read here and written anew."""
_BATCH_GET: Final = b"batch=get"
_UPLOADS_SHARE: Final = 4  # long uploads hold at most one in so many connections, so that slow ones starve nobody
_LAST_CHUNK: Final = b"0\r\n\r\n"


class _ClientGone(Exception):
    """The client left before its request was whole; there is nobody to answer."""


class Forwarder:
    """An ASGI application that sends requests at or below *prefix* to *target* on the service."""

    def __init__(
        self,
        upstream: Upstream,
        *,
        timeout: float,
        connections: int,
        prefix: str = wire.PROXIED_SECRETS_PATH,
        target: str = wire.SECRETS_PATH,
    ) -> None:
        self._upstream = upstream
        self._timeout = timeout  # seconds, from the request's first byte to the answer's last
        self._uploads = asyncio.Semaphore(max(1, connections // _UPLOADS_SHARE))
        self._skip = len(prefix)
        self._target = target.encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: forward one request; its path is one that ``middleware.check_path`` let pass."""
        lines: list[bytes] = []
        identifier: bytes | None = None
        lengths: list[bytes] = []
        coded = False
        for name, value in scope["headers"]:
            start = _PASSED_ON.get(name)
            if start is None:
                continue
            if start:
                lines += (start, value, b"\r\n")
            elif name == b"content-length":
                lengths.append(value)
            elif name == REQUEST_ID:
                identifier = value
            else:
                coded = True
        identifier = request_id(identifier)
        try:
            length = body_length(lengths, coded) if lengths or coded else 0
            head = self._head(scope, lines, identifier)
            connection = await self._send(scope, receive, head, length)
        except ServiceError as exc:
            await send_problem(scope, send, exc, identifier)
            return
        except _ClientGone:
            return
        headers = connection.headers
        headers.append((REQUEST_ID, identifier))
        start_of_answer = {"type": "http.response.start", "status": connection.status, "headers": headers}
        if connection.streamed:
            await self._stream(connection, start_of_answer, send)
            return
        body = connection.body
        self._upstream.finish(connection)
        await send(start_of_answer)
        await send({"type": "http.response.body", "body": body})

    def _head(self, scope: Scope, lines: list[bytes], identifier: bytes) -> bytes:
        """Return the request's head up to where its framing goes: the caller adds that and the empty line.

        Raises:
            NotImplementedHere: no method of the service.
            Invalid: a field would break out of its line.
        """
        method = _METHODS.get(scope["method"])
        if method is None:
            raise NotImplementedHere("no such method")
        query = scope["query_string"]
        head = b"".join(
            (
                method,
                self._target,
                scope["raw_path"][self._skip :],
                b"?" + query if query else b"",
                b" HTTP/1.1\r\nhost: strongroom\r\nforwarded: ",
                forwarded(scope).encode("ascii"),
                b"\r\nx-request-id: ",
                identifier,
                b"\r\n",
                *lines,
            )
        )
        ends = 4 + len(lines) // 3
        if head.count(b"\r") != ends or head.count(b"\n") != ends or b"\0" in head:
            raise Invalid("a header field holds a line break or a null")
        return head

    async def _send(self, scope: Scope, receive: Receive, head: bytes, length: int) -> Connection:
        """Send the request and return the connection with the answer, or its beginning.

        Raises:
            ServiceError: a body too large, or no answer.
            _ClientGone: the client left before its request was whole.
        """
        deadline = asyncio.get_running_loop().time() + self._timeout
        method = scope["method"]
        repeatable = method == "GET" or (method == "POST" and scope["query_string"] == _BATCH_GET)
        try:
            if length == 0 and method in _BODYLESS:
                return await self._upstream.exchange(head + b"\r\n", deadline, repeatable=repeatable)
            body, more = await _beginning(receive, deadline)
            if more:
                return await self._upload(head, body, length, receive, deadline)
            framed = b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)
            return await self._upstream.exchange(framed, deadline, repeatable=repeatable)
        except UpstreamError as exc:
            fate = Fate.NOT_APPLIED if repeatable or exc.unread else Fate.UNKNOWN
            _log.warning("%s failed (%s): %s", method, fate.value, exc)
            raise Unavailable("the service does not answer", fate) from exc

    async def _upload(self, head: bytes, body: bytes, length: int, receive: Receive, deadline: float) -> Connection:
        """Send a request whose body is still arriving, as fast as the service takes it."""
        whole = False
        connection: Connection | None = None
        try:
            async with asyncio.timeout_at(deadline), self._uploads:
                connection = await self._upstream.take(deadline)
                chunked = length == UNFRAMED
                framing = b"transfer-encoding: chunked\r\n\r\n" if chunked else b"content-length: %d\r\n\r\n" % length
                answer = connection.ask(head + framing + (_chunk(body) if chunked else body), deadline)
                size, more = len(body), True
                while more and not connection.decided:
                    piece, more = await _next(receive)
                    size += len(piece)
                    if size > wire.MAX_BODY or (not chunked and size > length):
                        raise TooLarge("the body is longer than it may be")
                    if piece:
                        await connection.write(_chunk(piece) if chunked else piece)
                    if chunked and not more:
                        await connection.write(_LAST_CHUNK)
                whole = not more
                if not whole:
                    connection.spoil()  # the service decided without the rest
                await answer
        except BaseException as exc:
            if connection is not None:
                self._upstream.finish(connection)
            if isinstance(exc, UpstreamError | TimeoutError):
                raise UpstreamError(str(exc) or "the request took too long", unread=not whole) from exc
            raise
        return connection

    async def _stream(self, connection: Connection, start_of_answer: Message, send: Send) -> None:
        """Pass on a long answer, as fast as the client takes it; one that breaks off is left visibly short."""
        try:
            async with asyncio.timeout_at(connection.deadline):
                await send(start_of_answer)
                while piece := await connection.read():
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        except (UpstreamError, TimeoutError) as exc:
            _log.warning("an answer broke off: %s", exc)
        finally:
            self._upstream.finish(connection)


async def _next(receive: Receive) -> tuple[bytes, bool]:
    """Return the next piece of the client's body, and whether there is more."""
    message = await receive()
    if message["type"] != "http.request":
        raise _ClientGone
    return message.get("body", b""), message.get("more_body", False)


async def _beginning(receive: Receive, deadline: float) -> tuple[bytes, bool]:
    """Return the client's body, or so much of it as is worth holding before a connection is taken for the rest.

    Raises:
        Invalid: it did not come in time.
    """
    body, more = await _next(receive)
    if not more:
        return body, False
    pieces, size = [body], len(body)
    try:
        async with asyncio.timeout_at(deadline):
            while more and size < INLINE_BODY:
                body, more = await _next(receive)
                pieces.append(body)
                size += len(body)
    except TimeoutError:
        raise Invalid("the body did not come in time") from None
    return b"".join(pieces), more


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""

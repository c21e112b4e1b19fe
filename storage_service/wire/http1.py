"""HTTP/1.1 as both processes and the client speak it: bytes become heads and bodies, and heads become bytes. No I/O.

httptools (llhttp) reads; what it lets pass, and two readers could take for two things, is refused here, once for
every face: the head is measured and its first line checked before the parser sees a byte of it, its framing and its
``Host`` afterwards (RFC 9112 sec. 3 to 7). What follows a body's last chunk (trailer fields) is dropped. Whoever is at
the other end is not trusted at all in requests, and in answers as far as their framing goes.
"""

from collections.abc import Awaitable, Coroutine, Iterable, Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import httptools

Field: TypeAlias = tuple[bytes, bytes]

MAX_LINE: Final = 4094  # bytes of a request's first line: a name of 512 bytes, percent-encoded throughout, and a query
MAX_HEAD: Final = 32 * 1024  # bytes of a head
MAX_FIELDS: Final = 64  # header fields in a head
# PERF: a chunk costs 2 µs whatever is in it, so 10 MiB in chunks of 20 bytes cost 1.2 s, 30 ms at a time; byte by byte
# it would be 20 s. So of the lines that say sizes there may be so many bytes, and one more for so many of the body:
# chunks of 12 bytes are never too small, and 512 KiB may come in chunks of 9.
MAX_CODING: Final = 64 * 1024
CODED: Final = 4

_LENGTH_DIGITS: Final = 15
CHUNKED: Final = -1  # the length of a body that comes in chunks
_METHODS: Final = {name: place for place, name in enumerate(("GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"))}
HEAD_END: Final = b"\r\n\r\n"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"
REQUEST_ID: Final = b"x-request-id"  # the field that an answer goes by the id of its request in

METHODS: Final = frozenset((b"GET", b"HEAD", b"PUT", b"POST", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE"))
_VERSIONS: Final = {b"HTTP/1.1": 1, b"HTTP/1.0": 0}
_STATUS_LINES: Final = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode("ascii")) for status in HTTPStatus
}
_BODYLESS: Final = frozenset((204, 304))  # answers that have no body, whatever they say (RFC 9112 sec. 6.3)


class Peer(NamedTuple):
    """The process at the other end of a unix socket, as the kernel tells it (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


class Malformed(Exception):
    """Bytes that are no message, or could be read as two; *status* is the answer, and nothing repeats what was sent."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


class Gone(Exception):
    """The other end left, or took too long, before the message was whole: there is nobody to answer."""


class Request:
    """The head of a request: its fields' names are in lower case, and their values as they were sent."""

    __slots__ = ("close", "expects", "fields", "length", "method", "minor", "path", "query")

    def __init__(self, method: bytes, target: bytes, minor: int) -> None:
        self.method = method
        self.path, _, self.query = target.partition(b"?")
        self.minor = minor  # of HTTP/1
        self.fields: list[Field] = []
        self.length = 0  # bytes of the body, or `CHUNKED`
        self.close = minor == 0  # the connection ends with the answer
        self.expects = False  # the client waits to be told that its body is wanted (RFC 9110 sec. 10.1.1)

    def __repr__(self) -> str:
        return f"<Request {self.method.decode()}, {len(self.fields)} fields>"


class Answer(NamedTuple):
    """The head of an answer; *length* is its body's in bytes, or `CHUNKED`."""

    status: int
    fields: list[Field]
    length: int
    keep: bool  # the connection stays open after it


class Exchange(Protocol):
    """What a face sees of one request, and how it answers: exactly once, whole or in pieces."""

    @property
    def request(self) -> Request:
        """Its head."""

    @property
    def peer(self) -> Peer | None:
        """The process that asks, if it is on this machine."""

    client: str
    """The network address of the other end; "" over a unix socket."""

    address: str
    """Whom it counts for where everybody may have only so much: a network address, or a user of this machine."""

    @property
    def scheme(self) -> str:
        """Return "http" or "https"."""

    @property
    def certificate(self) -> bytes | None:
        """The certificate (DER) that the other end has shown, if the TLS library has verified it."""

    @property
    def open(self) -> bool:
        """Whether somebody still waits for the answer."""

    @property
    def streaming(self) -> bool:
        """Whether an answer in pieces has begun."""

    def body(self, limit: int) -> Awaitable[bytes]:
        """Return the request's whole body.

        Raises:
            TooLarge: it is, or says it is, over *limit* bytes; nothing more of it is read.
            Gone: the client left before its end, or did not go on sending.
        """

    def read(self) -> Awaitable[bytes]:
        """Return the next piece of the request's body, b"" at its end; raises `Gone` as `body` does."""

    @property
    def whole(self) -> bool:
        """Whether the request's body is here to its end, or there is none."""

    @property
    def held(self) -> int:
        """Bytes of the body that are here and not taken."""

    def taken(self) -> bytes:
        """Take what of the body is here."""

    def answer(self, status: int, fields: Iterable[Field], body: bytes = b"") -> None:
        """Send the whole answer; its framing and date are added."""

    def start(self, status: int, fields: Iterable[Field], length: int = CHUNKED) -> None:
        """Send the head of an answer whose body follows in pieces."""

    def write(self, piece: bytes) -> Awaitable[None]:
        """Send a piece of the body, as fast as the client takes it; raises `Gone` when it does not."""

    def finish(self) -> None:
        """Say that the body is complete."""

    def abandon(self) -> None:
        """End the connection, so that the client sees that the answer is not whole."""

    def asgi(self, app: Any, **state: object) -> Coroutine[Any, Any, None]:
        """Let an ASGI application answer; *state* stands in its scope's ``state``."""


def find_head(data: bytes, seen: int = 0) -> int:
    """Return where the head that *data* begins with ends, its empty line included, or 0 while it is not whole.

    Args:
        data: what has come.
        seen: how much of it was looked through before.

    Raises:
        Malformed: it is longer than a head may be.
    """
    end = data.find(HEAD_END, seen - 3 if seen > 3 else 0) + 4
    if end > MAX_HEAD or (end == 3 and len(data) > MAX_HEAD):
        raise Malformed("the head is too long", 431)
    if end == 3:
        if len(data) > MAX_LINE and data.find(b"\r\n", 0, MAX_LINE + 2) < 0:
            raise Malformed("the request line is too long", 414)
        return 0
    return end


def allowed(methods: Iterable[str]) -> tuple[str, ...]:
    """Return *methods* of a resource with what this connection serves besides: HEAD where there is GET, and OPTIONS."""
    known = {*methods, "OPTIONS"} - {""}
    if "GET" in known:
        known.add("HEAD")
    return tuple(sorted(known, key=lambda method: (_METHODS.get(method, len(_METHODS)), method)))


def refuse_handshake(data: bytes) -> None:
    """Refuse at once what a client of TLS begins with, which would be waited for as a head that is not whole.

    Raises:
        Malformed: it is that; the answer lets the client's TLS fail, which says that none is spoken here.
    """
    if data[:2] == b"\x16\x03":
        raise Malformed("TLS is not spoken here")


class _Body:
    """What is common to reading requests and answers: the fields, and a body whose end is found exactly."""

    def __init__(self) -> None:
        self.fields: list[Field] = []
        self.pieces: list[bytes] = []
        self.complete = True  # no body is under way
        self._in_head = False
        self._left = 0  # bytes of the body to come, or `CHUNKED`
        self._coding = 0  # bytes of chunked coding
        self._coded = 0  # bytes of the chunks that began
        self._line = b""  # of that, what is here of a line that is not whole
        self._chunk = 0  # bytes of a chunk to come, the line's end after it included
        self._trailing = False  # the last chunk was there

    # httptools calls these

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else it is a trailer
            if len(self.fields) == MAX_FIELDS:
                raise Malformed("too many header fields", 431)
            self.fields.append((name.lower(), value.rstrip(b" \t")))

    def on_body(self, piece: bytes) -> None:
        self.pieces.append(piece)

    def on_message_complete(self) -> None:
        self.complete = True

    # and these are called by whoever reads

    def _begin(self, length: int) -> None:
        self._left = length
        self._coding, self._coded, self._line, self._chunk, self._trailing = 0, 0, b"", 0, False

    def feed(self, parser: Any, data: bytes) -> bytes:
        """Give *parser* what of *data* belongs to the body that is under way, and return the rest.

        Raises:
            Malformed: it is no chunked coding, or far more coding than body.
        """
        try:
            if self._left == CHUNKED:
                stop, ended = self._find_end(data)
            else:
                stop = min(self._left, len(data))
                self._left -= stop
                ended = self._left == 0
            parser.feed_data(data[:stop])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            raise Malformed("the body does not match its framing") from None
        if self.complete is not ended:
            raise Malformed("the end of the body is ambiguous")
        return data[stop:]

    def _find_end(self, data: bytes) -> tuple[int, bool]:
        """Return how much of *data* belongs to a body in chunks, and whether that is its end.

        httptools does not say where a message ended, so the sizes are followed here (RFC 9112 sec. 7.1); what they are
        made of is for httptools to judge, which is given the same bytes.

        Raises:
            Malformed: there is no size where one should be, or far more coding than a body needs.
        """
        at = 0
        while at < len(data):
            if self._chunk:
                step = min(self._chunk, len(data) - at)
                self._chunk -= step
                at += step
                continue
            end = data.find(b"\n", at) + 1
            line = self._line + data[at : end or len(data)]
            self._coding += (end or len(data)) - at
            if self._coding > MAX_CODING + self._coded // CODED:
                raise Malformed("the body has too many chunks, and they are too small: send larger ones")
            at, self._line = end or len(data), b"" if end else line
            if not end:
                break
            if self._trailing:
                if line == b"\r\n":
                    return at, True
                continue
            try:
                size = int(line.partition(b";")[0], 16)
            except ValueError:
                raise Malformed("the body does not match its framing") from None
            self._coded += size
            self._trailing = size == 0
            self._chunk = size + 2 if size > 0 else 0  # the line's end after it
        return at, False


class RequestReader(_Body):
    """Reads the requests of one connection, one after the other: a head, then its body.

    ``head`` is given a whole head, as `find_head` found it; then, until it is ``complete``, ``feed_body`` is given
    what comes, puts the body's parts into ``pieces`` and returns what belongs to the next request.
    """

    def __init__(self) -> None:
        super().__init__()
        self._parser = httptools.HttpRequestParser(self)

    def head(self, head: bytes) -> Request:
        """Return the request that *head* is the head of.

        Raises:
            Malformed: it is malformed, or ambiguous.
        """
        line = head[: head.find(b"\r\n")]
        if len(line) > MAX_LINE:
            raise Malformed("the request line is too long", 414)
        words = line.split(b" ")
        minor = _VERSIONS.get(words[2]) if len(words) == 3 else None
        if minor is None:
            raise Malformed("the request line is not method, path and HTTP/1.1")
        method, target, _ = words
        if method not in METHODS:
            known = method.isalpha() and method.isupper()
            raise Malformed("there is no such method", 501 if known else 400)
        if target[:1] != b"/" and line != b"OPTIONS * HTTP/1.1":
            raise Malformed("the request target is not a path")
        request = Request(method, target, minor)
        self._read_fields(head)
        request.fields, self.fields = self.fields, []  # nothing of a request stays here when it is over
        self._frame(request)
        if self.complete is not (request.length == 0):
            raise Malformed("the length of the body is ambiguous")  # an upgrade, say, that has a body
        return request

    def feed_body(self, data: bytes) -> bytes:
        """Take *data* of the request's body, and return what comes after it; as `feed`."""
        return self.feed(self._parser, data)

    def _read_fields(self, head: bytes) -> None:
        self.fields, self.pieces = [], []
        self.complete, self._in_head = False, True
        try:
            self._parser.feed_data(head)
        except httptools.HttpParserUpgrade:  # which nobody has to agree to (RFC 9110 sec. 7.8)
            self._parser = httptools.HttpRequestParser(self)
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, Malformed):
                raise error.__context__ from None
            raise
        except httptools.HttpParserError:
            raise Malformed("the head is not well-formed") from None
        finally:
            self._in_head = False

    def _frame(self, request: Request) -> None:
        """Find out how the body is framed, and how the connection goes on."""
        hosts = length = coded = 0
        for name, value in request.fields:
            if name == b"content-length":
                if len(value) > _LENGTH_DIGITS:  # whatever llhttp makes of it, the two shall not differ
                    raise Malformed("the body is longer than allowed", 413)
                request.length = length = int(value)
            elif name == b"host":
                hosts += 1
                if not value.isascii() or b"," in value or b" " in value or b"/" in value or b"@" in value:
                    raise Malformed("the Host is not a valid host")
            elif name == b"connection":
                request.close = request.close or b"close" in value.lower()
            elif name == b"transfer-encoding":
                if coded or value.lower() != b"chunked" or request.minor == 0:
                    raise Malformed("a transfer coding other than chunked", 501 if request.minor else 400)
                coded = 1
                request.length = CHUNKED
            elif name == b"expect":
                if value.lower() != b"100-continue":
                    raise Malformed("only 100-continue can be expected", 417)
                request.expects = request.minor == 1
            elif name == b"content-encoding" and value.lower() != b"identity":
                raise Malformed("the body's content coding is not served here", 415)
        if coded and length:
            raise Malformed("both a length and a transfer coding")
        if hosts > 1 or (hosts == 0 and request.minor == 1):
            raise Malformed("a request must have one Host")
        self._begin(request.length)


class AnswerReader(_Body):
    """Reads the answers on one connection, whose requests have methods that may have a body in their answer.

    ``feed`` is given what comes. It returns the heads and surplus of an answer as they become known.
    """

    def __init__(self) -> None:
        super().__init__()
        self._parser = httptools.HttpResponseParser(self)

    def head(self, head: bytes) -> Answer | None:
        """Return the answer that *head* is the head of; None for an interim one, which another follows.

        Raises:
            Malformed: it is malformed, or only the end of the connection would end its body.
        """
        if not head.startswith(b"HTTP/1.1 "):
            raise Malformed("the answer is not HTTP/1.1")
        self.fields, self.pieces = [], []
        self.complete, self._in_head = False, True
        try:
            self._parser.feed_data(head)
        except httptools.HttpParserError:  # an upgrade that nobody asked for is one, too
            raise Malformed("the answer's head is not well-formed") from None
        finally:
            self._in_head = False
        return self._framed(self._parser.get_status_code())

    def feed_body(self, data: bytes) -> bytes:
        """Take *data* of the answer's body, and return what comes after it; as `feed`."""
        return self.feed(self._parser, data)

    def _framed(self, status: int) -> Answer | None:
        length: int | None = None
        coded, keep = False, True
        for name, value in self.fields:
            if name == b"content-length":
                if len(value) > _LENGTH_DIGITS:
                    raise Malformed("the body is longer than allowed")
                length = int(value)
            elif name == b"transfer-encoding":
                if coded or value.lower() != b"chunked":
                    raise Malformed("a transfer coding other than chunked")
                coded = True
            elif name == b"connection" and b"close" in value.lower():
                keep = False
        if not 100 <= status < 600:
            raise Malformed("the answer has no status")
        if status < 200:
            return None
        if status in _BODYLESS:
            length, coded = 0, False
        if coded and length is not None:
            raise Malformed("both a length and a transfer coding")
        if not coded and length is None:
            raise Malformed("only the end of the connection would end the body")
        size = CHUNKED if coded or length is None else length
        self._begin(size)
        if self.complete is not (size == 0):
            raise Malformed("the length of the body is ambiguous")
        return Answer(status, self.fields, size, keep)


def check_id(answer: Answer, expected: bytes) -> None:
    """See that *answer* is that of the request with the id *expected*.

    Raises:
        Malformed: it goes by another id, or says that all is well and goes by none.
    """
    found = next((value for name, value in answer.fields if name == REQUEST_ID), None)
    if found != expected and not (found is None and answer.status >= 400):
        raise Malformed("the answer belongs to another request")


def write_head(status: int, fields: Iterable[Field], length: int, date: bytes, *, close: bool, minor: int = 1) -> bytes:
    """Return the head of an answer.

    Args:
        status: its status.
        fields: its fields, without those below; none holds a line break.
        length: its body's bytes, or `CHUNKED`.
        date: the ``Date`` line, as `date_line` gives it, and other whole lines that every answer of a server carries.
        close: whether the connection ends with it.
        minor: of the HTTP/1 that the client speaks: to one of HTTP/1.0 the end of the connection ends the body.
    """
    parts = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status, date]
    for name, value in fields:
        parts += (name, b": ", value, b"\r\n")
    if status not in _BODYLESS:
        if length != CHUNKED:
            parts.append(b"content-length: %d\r\n" % length)
        elif minor:
            parts.append(b"transfer-encoding: chunked\r\n")
    parts.append(b"connection: close\r\n\r\n" if close else b"\r\n")
    return b"".join(parts)


def date_line(seconds: float) -> bytes:
    """Return the ``Date`` line for the time *seconds* since 1970 (RFC 9110 sec. 6.6.1)."""
    return b"date: %b\r\n" % formatdate(seconds, usegmt=True).encode("ascii")


def write_request(method: bytes, target: bytes, fields: Sequence[Field], body: bytes = b"") -> bytes:
    """Return a whole request of our own, whose length is always said.

    Raises:
        ValueError: a field or the target would break out of its line.
    """
    parts = [method, b" ", target, b" HTTP/1.1\r\n"]
    for name, value in fields:
        parts += (name, b": ", value, b"\r\n")
    if body or method not in (b"GET", b"HEAD", b"DELETE"):
        parts.append(b"content-length: %d\r\n" % len(body))
        breaks = 1
    else:
        breaks = 0
    parts.append(b"\r\n")
    head = b"".join(parts)
    breaks += 2 + len(fields)
    if head.count(b"\r") != breaks or head.count(b"\n") != breaks or b"\0" in head or target.count(b" "):
        raise ValueError("a header field holds a line break or a null")
    return head + body


def chunk(piece: bytes) -> bytes:
    """Return *piece* as a chunk (RFC 9112 sec. 7.1); nothing for nothing, which would be the last."""
    return b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""

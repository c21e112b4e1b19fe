"""HTTP/1.1 as bytes, without a connection: what is read, what is refused, and what is written."""

import random

import pytest

from strongroom.storage_service.wire import http1
from strongroom.storage_service.wire.http1 import CHUNKED, MAX_HEAD, MAX_LINE, AnswerReader, Malformed, RequestReader
from tests.serving.shapes import BAD_BODIES, BAD_HEADS, GOOD_BODIES, ODD_BUT_GOOD, chunked, sent

PATH = b"/secrets/a/b"


def read(data: bytes, reader: RequestReader | None = None) -> tuple[http1.Request, bytes, bytes]:
    """Return the request that *data* begins with, its body, and what follows.

    Raises:
        Malformed: it is malformed.
        EOFError: it is not whole.
    """
    reader = reader or RequestReader()
    if data.startswith(b"\r\n"):
        data = data[2:]
    end = http1.find_head(data)
    if not end:
        raise EOFError
    request, rest = reader.head(data[:end]), data[end:]
    body = b""
    if request.length:
        rest = reader.feed_body(rest)
        body = b"".join(reader.pieces)
        if not reader.complete:
            raise EOFError
    return request, body, rest


@pytest.mark.parametrize("story", BAD_HEADS)
def test_a_bad_head_is_refused(story: str) -> None:
    """With the status that says what is wrong, in words that repeat nothing of it."""
    status, shape = BAD_HEADS[story]
    with pytest.raises(Malformed) as told:
        read(sent(shape, PATH))
    assert told.value.status == status or {told.value.status, status} == {414, 431}
    assert "PATH" not in str(told.value) and "secrets" not in str(told.value)


def read_in_pieces(data: bytes, size: int) -> bytes:
    """Read one request that comes *size* bytes at a time, and return its body.

    Raises:
        Malformed: it is malformed.
        EOFError: it is not whole.
    """
    reader, body, end = RequestReader(), b"", 0
    for stop in range(size, len(data) + size, size):
        if not end:
            end = http1.find_head(data[:stop], stop - size)
            if end:
                reader.head(data[:end])
                reader.feed_body(data[end:stop])
        elif not reader.complete:
            reader.feed_body(data[stop - size : stop])
        body += b"".join(reader.pieces)
        reader.pieces.clear()
    if not end or not reader.complete:
        raise EOFError
    return body


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("story", [story for story in BAD_HEADS if len(BAD_HEADS[story][1]) < 40_000])
def test_a_bad_head_is_refused_wherever_it_is_cut(story: str, size: int) -> None:
    """Whether a head is found and taken does not depend on how it comes."""
    with pytest.raises(Malformed):
        read_in_pieces(sent(BAD_HEADS[story][1], PATH), size)


@pytest.mark.parametrize("story", BAD_BODIES)
@pytest.mark.parametrize("size", [1, 3, 1000, 10**9])
def test_a_bad_body_is_refused(story: str, size: int) -> None:
    """However it is cut; and what followed it is nobody's request."""
    with pytest.raises(Malformed):
        read_in_pieces(chunked(BAD_BODIES[story], PATH), size)


@pytest.mark.parametrize("story", ODD_BUT_GOOD)
def test_an_odd_request_is_read(story: str) -> None:
    """What the standard allows is served, and leaves the reader ready for the next."""
    reader = RequestReader()
    for _ in range(2):
        request, body, rest = read(sent(ODD_BUT_GOOD[story], PATH) + b"GET", reader)
        assert (request.method, request.path, body, rest) == (b"GET", PATH, b"", b"GET")
        assert (request.close, request.minor) == (False, 1)


@pytest.mark.parametrize("story", GOOD_BODIES)
def test_a_chunked_body_is_read_and_its_trailers_dropped(story: str) -> None:
    """Wherever it is cut: the body is whole, its end exact, and what came after it is no field of the request."""
    data = chunked(GOOD_BODIES[story], PATH)
    end = http1.find_head(data)
    for size in range(1, len(data) - end + 10):
        reader = RequestReader()
        request = reader.head(data[:end])
        body, rest = b"", b""
        following = data + b"GET / HTTP"
        for start in range(end, len(following), size):
            if reader.complete:
                rest += following[start : start + size]
                continue
            rest = reader.feed_body(following[start : start + size])
            body += b"".join(reader.pieces)
            reader.pieces.clear()
        assert (body, rest) == (b"abc", b"GET / HTTP")
        assert [name for name, _ in request.fields] == [b"host", b"transfer-encoding"]


def test_fields_are_read_as_they_stand() -> None:
    """Names in lower case, values without the white space round them, in their order, twice where they stand twice."""
    request, _, _ = read(b"GET /a?b=c?d HTTP/1.1\r\nHost: x\r\nX_Y:  1 \r\nx_y:2\r\nX-Z: \xe9 \t e\r\n\r\n")
    assert (request.path, request.query) == (b"/a", b"b=c?d")
    assert request.fields == [(b"host", b"x"), (b"x_y", b"1"), (b"x_y", b"2"), (b"x-z", b"\xe9 \t e")]


@pytest.mark.parametrize(
    ("line", "close"),
    [
        (b"HTTP/1.1\r\n", False),
        (b"HTTP/1.1\r\nConnection: keep-alive\r\n", False),
        (b"HTTP/1.1\r\nConnection: close\r\n", True),
        (b"HTTP/1.1\r\nConnection: Keep-Alive, CLOSE\r\n", True),
        (b"HTTP/1.0\r\n", True),
        (b"HTTP/1.0\r\nConnection: keep-alive\r\n", True),
    ],
)
def test_who_closes_is_known_from_the_head(line: bytes, close: bool) -> None:
    """HTTP/1.0 is served and closed, whatever it asks for."""
    request, _, _ = read(b"GET / " + line + b"Host: x\r\n\r\n")
    assert request.close is close


def test_http_1_0_needs_no_host() -> None:
    """It knew none; two are two there as well."""
    assert read(b"GET / HTTP/1.0\r\n\r\n")[0].minor == 0
    with pytest.raises(Malformed):
        read(b"GET / HTTP/1.0\r\nHost: x\r\nHost: x\r\n\r\n")


def test_an_expectation_is_noted() -> None:
    """Of HTTP/1.1 alone: HTTP/1.0 has no interim answers."""
    assert read(b"PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\na")[0].expects
    assert not read(b"PUT / HTTP/1.0\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\na")[0].expects


def test_the_longest_line_and_head_are_read() -> None:
    """The limits are limits, not one less."""
    line = b"GET /" + b"a" * (MAX_LINE - len(b"GET / HTTP/1.1")) + b" HTTP/1.1\r\n"
    assert read(line + b"Host: x\r\n\r\n")[0].method == b"GET"
    with pytest.raises(Malformed) as told:
        read(line.replace(b" HTTP", b"a HTTP") + b"Host: x\r\n\r\n")
    assert told.value.status == 414
    start = b"GET / HTTP/1.1\r\nHost: x\r\nX: "
    fill = MAX_HEAD - len(start) - 4
    assert read(start + b"x" * fill + b"\r\n\r\n")[0].method == b"GET"
    with pytest.raises(Malformed) as told:
        read(start + b"x" * (fill + 1) + b"\r\n\r\n")
    assert told.value.status == 431


def test_requests_follow_one_another_through_one_reader() -> None:
    """Of every kind and in any order: nothing of one is left in the next."""
    draw = random.Random(8)
    shapes = {
        b"": sent(ODD_BUT_GOOD["an upgrade"], PATH),
        b"abc": chunked(GOOD_BODIES["trailers that would be fields"], PATH),
        b"body": b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody",
    }
    wanted = [draw.choice(list(shapes)) for _ in range(300)]
    data = b"".join(shapes[body] for body in wanted)
    reader, told = RequestReader(), []
    while data:
        _, body, data = read(data, reader)
        told.append(body)
    assert told == wanted


def test_a_request_shows_no_value() -> None:
    """Neither path nor fields stand in its repr."""
    request, _, _ = read(b"GET /canary HTTP/1.1\r\nHost: x\r\nX: canary\r\n\r\n")
    assert repr(request) == "<Request GET, 2 fields>"


# answers

CHUNKS = b"3\r\nabc\r\nA\r\n0123456789\r\n00\r\nX: y\r\n\r\n"


@pytest.mark.parametrize("size", range(1, len(CHUNKS) + 1))
def test_an_answers_chunks_may_be_cut_anywhere(size: int) -> None:
    """The coding comes off the same, wherever the socket cuts it."""
    reader = AnswerReader()
    answer = reader.head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert answer is not None and answer.length == CHUNKED
    for start in range(0, len(CHUNKS), size):
        assert not reader.complete
        assert reader.feed_body(CHUNKS[start : start + size]) == b""
    assert (b"".join(reader.pieces), reader.complete) == (b"abc0123456789", True)
    assert answer.fields == [(b"transfer-encoding", b"chunked")]


@pytest.mark.parametrize(
    "story", sorted(BAD_BODIES.keys() - {"a coding after the body"})
)  # in an answer it is but dropped
def test_what_is_no_chunked_coding_is_refused_in_answers_too(story: str) -> None:
    """The other end is trusted no further than its framing goes."""
    reader = AnswerReader()
    reader.head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    with pytest.raises(Malformed):
        reader.feed_body(BAD_BODIES[story])


def test_bytes_after_the_last_chunk_are_told() -> None:
    """Whatever follows the coding's end is handed back, and spoils the connection there."""
    reader = AnswerReader()
    reader.head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert reader.feed_body(b"0\r\n\r\nHTTP/1.1 200 OK\r\n") == b"HTTP/1.1 200 OK\r\n"
    assert reader.pieces == []


def test_an_answers_head_is_read() -> None:
    """Status, fields, length, and whether the connection goes on."""
    answer = AnswerReader().head(
        b'HTTP/1.1 201 Created\r\nETag:  "1" \r\nSet-Cookie: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\n'
    )
    assert answer is not None
    assert (answer.status, answer.length, answer.keep) == (201, 3, False)
    assert answer.fields[:2] == [(b"etag", b'"1"'), (b"set-cookie", b"x")]


@pytest.mark.parametrize("status", [b"099", b"600", b"999", b"20", b"2000", b"abc"])
def test_a_status_that_is_none_is_no_answer(status: bytes) -> None:
    """Only 100 to 599 are (RFC 9110 sec. 15)."""
    with pytest.raises(Malformed):
        AnswerReader().head(b"HTTP/1.1 " + status + b" -\r\nContent-Length: 0\r\n\r\n")


# what is written


def test_an_answers_head_is_written_and_read_back() -> None:
    """Framing, date and end of the connection stand where they belong, for each version and status."""
    date = http1.date_line(784111777)
    assert date == b"date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    for status, length, minor, framed in (
        (200, 3, 1, b"content-length: 3"),
        (200, CHUNKED, 1, b"transfer-encoding: chunked"),
        (200, CHUNKED, 0, None),
        (204, 0, 1, None),
        (304, 0, 1, None),
        (299, 0, 1, b"content-length: 0"),
    ):
        head = http1.write_head(status, [(b"etag", b'"1"')], length, date, close=not minor, minor=minor)
        lines = head.split(b"\r\n")
        assert lines[0].startswith(b"HTTP/1.1 %d " % status)
        assert [line for line in lines if line.startswith((b"content-length", b"transfer-"))] == (
            [framed] if framed else []
        )
        assert (b"connection: close" in lines) is not bool(minor)
        assert lines[-2:] == [b"", b""]


def test_a_request_is_written_and_read_back() -> None:
    """Its length is said where a body may be."""
    for method, body in ((b"GET", b""), (b"PUT", b"abc"), (b"POST", b""), (b"DELETE", b"x")):
        data = http1.write_request(method, b"/a?b", [(b"host", b"x"), (b"x", b"\xe9")], body)
        request, told, rest = read(data)
        assert (request.method, request.path, request.query, told, rest) == (method, b"/a", b"b", body, b"")
        assert (b"content-length" in data) is (method == b"POST" or bool(body))


@pytest.mark.parametrize(
    ("target", "name", "value"),
    [
        (b"/a", b"x", b"a\r\nb: c"),
        (b"/a", b"x", b"a\nb"),
        (b"/a", b"x", b"a\rb"),
        (b"/a", b"x", b"a\x00b"),
        (b"/a", b"x\r\ny", b"a"),
        (b"/a b", b"x", b"a"),
        (b"/a\r\nx: y", b"x", b"a"),
        (b"/a\n", b"x", b"a"),
    ],
)
def test_nothing_breaks_out_of_its_line(target: bytes, name: bytes, value: bytes) -> None:
    """A request of our own that would be two is not written."""
    with pytest.raises(ValueError, match="line break or a null"):
        http1.write_request(b"GET", target, [(b"host", b"x"), (name, value)])


def test_a_chunk_of_nothing_is_nothing() -> None:
    """An empty chunk would be the last."""
    assert http1.chunk(b"") == b""
    assert http1.chunk(b"a" * 26) == b"1a\r\n" + b"a" * 26 + b"\r\n"


@pytest.mark.parametrize("length", [b"0000000000000000005", b"1" * 16])
def test_a_length_of_too_many_digits_is_refused(length: bytes) -> None:
    """A padded length could be read as two numbers, so that what follows it would land in the body; it is 413."""
    with pytest.raises(Malformed) as told:
        read(b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: " + length + b"\r\n\r\nhello")
    assert told.value.status == 413


def test_empty_lines_in_a_chunk_cost_nothing() -> None:
    """A chunk of nothing but line ends is taken as one piece, and what follows the body is the next request's."""
    reader, lines = RequestReader(), b"\r\n\r\n" * 10_000
    reader.head(b"PUT /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    rest = reader.feed_body(b"%x\r\n%b\r\n0\r\n\r\nGET /" % (len(lines), lines))
    assert (reader.pieces, rest, reader.complete) == ([lines], b"GET /", True)


@pytest.mark.parametrize(("size", "total"), [(9, 512 * 1024), (12, 2 << 20), (20, 2 << 20), (24, 2 << 20)])
def test_a_body_may_come_in_lines(size: int, total: int) -> None:
    """Who flushes lines of twenty bytes says a size for each, however long the body; a secret may come in nines."""
    body = read_in_pieces(
        chunked((b"%x\r\n%b\r\n" % (size, b"x" * size)) * (total // size) + b"0\r\n\r\n", PATH), 65_536
    )

    assert len(body) == total // size * size


@pytest.mark.parametrize("size", [1, 2, 4, 6])
def test_a_body_byte_by_byte_is_refused(size: int) -> None:
    """A few bytes a chunk cost what a long body costs, and come to an end that says what to do."""
    with pytest.raises(Malformed, match="they are too small: send larger ones") as told:
        read_in_pieces(chunked((b"%x\r\n%b\r\n" % (size, b"x" * size)) * 100_000, PATH), 65_536)
    assert told.value.status == 400


def test_the_size_of_a_chunk_that_is_to_come_pays_for_nothing_before() -> None:
    """A line that says a size must itself be within what came before it."""
    with pytest.raises(Malformed):
        read_in_pieces(chunked(b"ffffffff;" + b"x" * (http1.MAX_CODING + 10) + b"\r\n", PATH), 65_536)

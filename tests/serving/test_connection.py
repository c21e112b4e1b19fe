"""The connection, in a real worker on real sockets: strict reading, pipelining, early answers, and who closes when."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from tests.raw_http import Client, read_head, read_message, request
from tests.serving.conftest import Served
from tests.serving.shapes import BAD_BODIES, BAD_HEADS, GOOD_BODIES, ODD_BUT_GOOD, chunked, sent

NEXT = b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-ID: smuggled-1\r\n\r\n"
STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d{3}) ")


async def say(served: Served, data: bytes, *, size: int = 0, end: bool = False) -> bytes:
    """Send *data* over a new connection, *size* bytes at a time, and return all that comes until it is closed."""
    async with await Client.at(served.place) as client:
        answer = asyncio.create_task(client.rest())
        try:
            for start in range(0, len(data), size or len(data)):
                client.writer.write(data[start : start + (size or len(data))])
                await client.writer.drain()
                if size:
                    await asyncio.sleep(0)
            if end:
                client.writer.write_eof()
        except ConnectionError:
            pass  # it has its answer, and was cut off
        return await answer


def statuses(told: bytes) -> list[int]:
    """Return the statuses of all answers."""
    return [int(status) for status in STATUS_LINE.findall(told)]


@pytest.mark.parametrize("story", BAD_HEADS)
async def test_a_bad_head_is_refused(face: Served, story: str) -> None:
    """One answer that says so and repeats nothing, the end of the connection, and nothing of what followed."""
    status, shape = BAD_HEADS[story]
    told = await say(face, sent(shape, b"/livez", face.fields) + NEXT)
    (found,) = statuses(told)
    assert found == status or {found, status} == {414, 431}
    head, _, body = told.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert b"livez" not in told and len(told) < 1000
    assert b'"status":%d' % found in body
    assert b'"type":"urn:strongroom:problem:' in body


@pytest.mark.parametrize("story", BAD_BODIES)
@pytest.mark.parametrize("cut", [False, True])
async def test_a_bad_body_is_refused(face: Served, story: str, cut: bool) -> None:
    """In one piece with its head or after it: one answer, the end of the connection, and nothing of what followed."""
    data = chunked(BAD_BODIES[story], face.path, face.fields) + NEXT
    told = await say(face, data, size=data.index(b"\r\n\r\n") + 4 if cut else 0)
    assert statuses(told) == [400]
    assert b"connection: close" in told.partition(b"\r\n\r\n")[0]


@pytest.mark.parametrize("story", ODD_BUT_GOOD)
async def test_an_odd_request_is_served(face: Served, story: str) -> None:
    """What the standard allows is answered, and so is the next request on the same connection."""
    async with await Client.at(face.place) as client:
        for _ in range(2):
            client.writer.write(sent(ODD_BUT_GOOD[story], b"/livez", face.fields))
        for _ in range(2):
            answer = await asyncio.wait_for(read_message(client.reader), 10)
            assert answer.status == 200


@pytest.mark.parametrize("story", GOOD_BODIES)
@pytest.mark.parametrize("size", [0, 1, 5])
async def test_a_chunked_body_arrives(small: Served, story: str, size: int) -> None:
    """Wherever it is cut; its trailers are no fields."""
    data = chunked(GOOD_BODIES[story], small.path) + request("GET", "/quick", "connection: close")
    told = await say(small, data, size=size)
    assert statuses(told) == [200, 200]
    head, _, rest = told.partition(b"\r\n\r\n")
    assert b"x-names: host,transfer-encoding\r\n" in head
    assert rest.startswith(b"abc")


async def test_trailers_reach_neither_real_face(product: dict[str, Served]) -> None:
    """Credentials after the body are none: who has not said before it who asks is a stranger."""
    for served in product.values():
        lines = served.fields.split(b"\r\n")
        content_type = lines[2] + b"\r\n"
        body = b"3\r\nabc\r\n0\r\n" + b"\r\n".join(lines[:2]) + b"\r\n\r\n"
        told = await say(served, chunked(body, served.path, content_type) + NEXT, end=True)
        assert statuses(told)[0] == 401


async def test_head_is_get_without_a_body(face: Served) -> None:
    """Status and fields are those of GET, on errors too; the next request is answered on the same connection."""
    for path in ("/livez", "/nothing/here"):
        got, headed = request("GET", path), request("HEAD", path)
        async with await Client.at(face.place) as client:
            client.writer.write(headed + got)
            head = await asyncio.wait_for(read_head(client.reader), 10)
            whole = await asyncio.wait_for(read_message(client.reader), 10)
        assert head.status == whole.status
        assert head.get("content-length") == whole.get("content-length") == str(len(whole.body)) != "0"


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Encoding: gzip", "Content-Length: 3"],
        ["Expect: x"],
        ["Host: y"],
        ["X-A: " + "x" * 40_000],
        ["Transfer-Encoding: chunked", "", "zz"],
    ],
)
async def test_a_head_request_that_is_refused_has_no_body_in_its_answer(face: Served, lines: list[str]) -> None:
    """Whatever is wrong with it: a client that asked for the head alone would take a body for the next answer."""
    told = await say(face, request("HEAD", "/livez", *lines) + NEXT)
    (status,) = statuses(told)
    assert status >= 400
    assert told.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("lines", [[], ["Content-Length: 3", "", "abc"]])
async def test_options_of_the_server(face: Served, lines: list[str]) -> None:
    """``OPTIONS *`` asks for nothing but what the server does at all."""
    data = b"OPTIONS * HTTP/1.1\r\nHost: x\r\n" + "".join(f"{line}\r\n" for line in lines[:1]).encode() + b"\r\n"
    data += b"abc" if lines else b""
    told = await say(face, data + request("GET", "/livez", "connection: close"))
    assert statuses(told) == [204, 200]
    assert b"allow: GET, HEAD, PUT, POST, DELETE, OPTIONS\r\n" in told


async def test_trace_reflects_nothing(face: Served) -> None:
    """A request that comes back would bring its credentials along."""
    async with await Client.at(face.place) as client:
        answer = await client.ask(request("TRACE", "/livez", "custodia-auth-key: canary"))
        assert (answer.status, answer.get("allow")) == (405, "GET, HEAD, PUT, POST, DELETE, OPTIONS")
        assert b"canary" not in answer.body
        assert (await client.ask(request("GET", "/livez"))).status == 200


@pytest.mark.parametrize(
    "line", ["HTTP/1.0\r\n", "HTTP/1.0\r\nConnection: keep-alive\r\n", "HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"]
)
async def test_who_wants_it_closed_gets_it_closed(face: Served, line: str) -> None:
    """HTTP/1.0 is served and closed, whatever it asks; what comes after is not read."""
    told = await say(face, f"GET /livez {line}\r\n".encode() + NEXT)
    assert statuses(told) == [200]
    assert b"connection: close" in told


async def test_an_answer_in_pieces_to_http_1_0_ends_with_the_connection(small: Served) -> None:
    """It knows no chunks."""
    told = await say(small, b"PUT /pieces HTTP/1.0\r\nContent-Length: 6\r\n\r\npieces")
    head, _, body = told.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert body == b"pieces"


@pytest.mark.parametrize("size", [3, 100_000])
async def test_a_client_that_waits_is_told_to_go_on_once(small: Served, size: int) -> None:
    """100 Continue comes when the body is wanted, and the body is read once."""
    async with await Client.at(small.place) as client:
        client.writer.write(request("PUT", "/echo", "Expect: 100-continue", f"Content-Length: {size}"))
        assert (await asyncio.wait_for(read_head(client.reader), 10)).status == 100
        client.writer.write(b"e" * size + request("GET", "/quick"))
        assert (await asyncio.wait_for(read_message(client.reader), 10)).body == b"e" * size
        assert (await asyncio.wait_for(read_message(client.reader), 10)).body == b"/quick"


async def test_a_client_that_did_not_wait_is_not_told_to_go_on(small: Served) -> None:
    """A body that is here already needs no invitation; neither does none."""
    for data in (
        request("PUT", "/echo", "Expect: 100-continue", body=b"abc"),
        request("PUT", "/echo", "Expect: 100-continue"),
    ):
        async with await Client.at(small.place) as client:
            assert (await client.ask(data)).status == 200


async def test_a_body_that_nobody_wants_is_not_asked_for(face: Served) -> None:
    """A client that waits gets the refusal in place of the invitation, and the connection ends."""
    path = "/early" if face.path == b"/echo" else face.path.decode()
    told = await say(face, request("PUT", path, "Expect: 100-continue", "Content-Length: 100000"))
    assert statuses(told) in ([403], [401])


@pytest.mark.parametrize("size", [0, 1, 17])
async def test_many_requests_in_one_go_are_answered_in_order(face: Served, size: int) -> None:
    """In one segment, byte by byte, or cut anywhere: each has its own answer."""
    count = 300 if size != 1 else 40
    small = face.path == b"/echo"
    data = b""
    for number in range(count):
        path = ("/quick", "/later", "/echo")[number % 3] if small else "/livez" if number % 2 else face.path.decode()
        body = b"%d" % number if path == "/echo" else b""
        data += request("PUT" if body else "GET", path, f"x-request-id: pipelined-{number}", body=body)
    data += request("GET", "/livez", "x-request-id: pipelined-last", "connection: close")
    told = await say(face, data, size=size)
    ids = re.findall(rb"x-request-id: pipelined-(\w+)\r\n", told)
    if small:
        assert ids == [*(b"%d" % number for number in range(count)), b"last"]
    assert len(statuses(told)) == count + 1
    assert set(statuses(told)) <= {200, 401}


async def test_requests_that_come_while_others_are_answered_are_not_mixed(small: Served) -> None:
    """However the segments fall on the turns of the loop, no head is taken for a part of another."""
    async with await Client.at(small.place) as client:
        told = asyncio.create_task(client.rest())
        for number in range(2000):
            path = ("/later", "/quick")[number % 3 == 0]
            client.writer.write(request("GET", f"{path}/{number}", f"x-request-id: mixed-{number:08}"))
            if number % 7 == 0:
                await asyncio.sleep(0)
            if number % 100 == 0:
                await asyncio.sleep(0.001)
        client.writer.write(request("GET", "/quick", "connection: close"))
        answers = await told
    assert statuses(answers) == [200] * 2001
    assert re.findall(rb"x-request-id: mixed-(\d+)\r\n", answers) == [b"%08d" % number for number in range(2000)]


async def test_a_large_request_that_comes_early_waits(small: Served) -> None:
    """No more of it is read than a buffer holds, and then it is served whole."""
    size = 24_000_000  # more than the sockets hold
    async with await Client.at(small.place) as client, await Client.at(small.place) as other:
        client.writer.write(request("GET", "/hold") + request("PUT", "/pieces", f"content-length: {size}"))
        client.writer.write(b"b" * size)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.writer.drain(), 0.2)
        assert (await other.ask(request("GET", "/release"))).status == 200
        assert (await asyncio.wait_for(read_message(client.reader), 10)).body == b"held"
        assert (await asyncio.wait_for(read_message(client.reader), 10)).body == b"b" * size


async def test_who_sends_no_more_still_reads(face: Served) -> None:
    """A client that has closed its half gets its answer, and every answer that it asked for before."""
    assert statuses(await say(face, request("GET", "/livez"), end=True)) == [200]
    assert statuses(await say(face, request("GET", "/livez") * 5, end=True)) == [200] * 5


async def test_who_sends_no_more_in_the_middle_is_not_waited_for(face: Served) -> None:
    """Half a head or half a body will never be whole: the connection ends."""
    for data in (b"GET /livez HT", request("PUT", face.path.decode(), "content-length: 10") + b"abc"):
        assert set(statuses(await say(face, data, end=True))) <= {400, 401, 408}


@pytest.mark.parametrize("size", [1, 100_000, 900_000, 3_000_000])
@pytest.mark.parametrize("announced", [True, False])
async def test_an_early_answer_is_seen(face: Served, size: int, announced: bool) -> None:
    """Who is answered before its body was read sees the answer, however much it sends on, and the connection ends."""
    path = "/early" if face.path == b"/echo" else face.path.decode()
    if announced:
        size += 20_000  # the proxy waits for a short body as for a part of the head
        data = request("PUT", path, f"content-length: {size + 1}") + b"u" * size
    else:
        data = request("PUT", path, "transfer-encoding: chunked") + b"%x\r\n" % (size + 1) + b"u" * size
    told = await say(face, data)
    assert statuses(told) in ([403], [401])
    assert b"connection: close" in told


async def test_an_answer_is_seen_though_more_comes_than_was_asked_for(face: Served) -> None:
    """Who wants the connection closed, and goes on sending, still sees the answer."""
    for _ in range(20):
        told = await say(face, request("GET", "/livez", "connection: close") + b"x" * 500_000)
        assert statuses(told) == [200]


@pytest.mark.parametrize("path", ["/breaks", "/fails"])
async def test_a_face_that_breaks_is_an_error_without_a_word_of_it(small: Served, path: str) -> None:
    """The client gets a 500, the log class and place, and nobody what the exception said."""
    async with await Client.at(small.place) as client:
        answer = await client.ask(request("GET", path))
        assert answer.status == 500
        assert json.loads(answer.body) == {
            "type": "urn:strongroom:problem:internal",
            "title": "Internal Server Error",
            "status": 500,
            "fate": "unknown",
        }
        assert (await client.ask(request("GET", "/quick"))).status == 200
    log = small.log.read_text()
    assert "a request ended in ValueError at " in log
    assert "canary" not in log


async def test_an_answer_that_breaks_off_is_visibly_short(small: Served) -> None:
    """The connection ends before the length that was said."""
    told = await say(small, request("GET", "/breaks_off"))
    assert b"content-length: 1000\r\n" in told
    assert told.endswith(b"begun")


async def test_nothing_of_all_this_was_a_surprise(product: dict[str, Served], small: Served) -> None:
    """No log holds a traceback, or tells of what nobody foresaw."""
    for log in (small.log, *(served.log for served in product.values())):
        assert not re.search("Traceback|unexpected |on the event loop", Path(log).read_text())

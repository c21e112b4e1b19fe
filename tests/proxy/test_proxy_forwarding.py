"""What the proxy sends on, what it sends back, and what it does when the service does neither."""

import asyncio
import json
import re
from contextlib import suppress

import pytest

from tests.proxy.conftest import CONNECTIONS, TIMEOUT, Proxy
from tests.raw_http import Client, Exchange, Message, ScriptedService, ask, read_head, read_message, request

CREDENTIALS = ("CUSTODIA_AUTH_ID: ci", "CUSTODIA_AUTH_KEY: k3y")
SECRET = "/api/v0/secrets/hosts/10.0.0.7"


async def get(proxy: Proxy, *lines: str, target: str = SECRET) -> Message:
    return await ask(proxy.port, request("GET", target, *CREDENTIALS, *lines))


async def test_a_get_and_its_answer_pass(proxy: Proxy, service: ScriptedService) -> None:
    """Path, method and credentials arrive at the service, its answer at the client, with the request's id."""

    async def script(exchange: Exchange) -> None:
        exchange.answer(200, b'{"type":"simple","value":"x"}', "content-type: application/json", 'etag: "7"')

    service.script = script
    answer = await get(proxy, "x-request-id: from-the-client")

    assert (answer.status, answer.body) == (200, b'{"type":"simple","value":"x"}')
    assert answer.get("etag") == '"7"'
    assert answer.get("x-request-id") == "from-the-client"
    (heard,) = service.heard
    assert heard.first == "GET /secrets/hosts/10.0.0.7 HTTP/1.1"
    assert (heard.get("custodia_auth_id"), heard.get("custodia_auth_key")) == ("ci", "k3y")
    assert heard.get("x-request-id") == "from-the-client"
    assert heard.get("forwarded") == "for=127.0.0.1;proto=http"


ALLOWED = {
    "accept: application/octet-stream",
    "content-type: application/json",
    'if-match: "7"',
    "if-none-match: *",
    "custodia-auth-id: a",
    "custodia_auth_id: a",
    "custodia-auth-key: b",
    "custodia_auth_key: b",
    "custodia-key-id: b",
    "custodia_key_id: b",
    "authorization: bearer abc",
}
STOPPED = {
    "REMOTE_USER: root",
    "remote-user: root",
    "CUSTODIA_CERT_AUTH: yes",
    "custodia-cert-auth: yes",
    "GSSAPI: x",
    "X-Forwarded-For: 10.0.0.1",
    "X-Forwarded-Proto: https",
    "Forwarded: for=10.0.0.1",
    "Strongroom-Proxy: proxy:proxy-key",
    "Strongroom-On-Behalf-Of: root",
    "Cookie: a=b",
    "Connection: keep-alive, custodia-auth-id",
    "Keep-Alive: timeout=5",
    "Upgrade: h2c",
    "TE: trailers",
    "Trailer: x",
    "Via: 1.1 x",
    "User-Agent: x",
    "X-Request-ID: a b c d e f g h",
    "Range: bytes=0-1",
}


@pytest.mark.parametrize("line", sorted(ALLOWED | STOPPED))
async def test_only_listed_fields_reach_the_service(proxy: Proxy, service: ScriptedService, line: str) -> None:
    """A field is sent on if the allow-list has it, and otherwise leaves no trace."""
    assert (await ask(proxy.port, request("GET", SECRET, line))).status == 200

    (heard,) = service.heard
    ours = {"host", "forwarded", "x-request-id", "strongroom-proxy"}
    passed = [f"{name}: {value}" for name, value in heard.fields if name not in ours]
    assert passed == ([line.lower()] if line in ALLOWED else [])
    assert heard.all("forwarded") == ["for=127.0.0.1;proto=http"]
    assert heard.all("strongroom-proxy") == ["proxy:proxy-key"]
    (identifier,) = heard.all("x-request-id")
    assert re.fullmatch("[0-9a-f]{24}", identifier)


async def test_only_listed_fields_of_an_answer_reach_the_client(proxy: Proxy, service: ScriptedService) -> None:
    """What the service says beside the contract stays between the two."""
    passed = ["Allow: GET", "Cache-Control: no-store", "Content-Type: text/x", 'ETag: "1"', "Location: /x"]
    passed += ["Retry-After: 9", "WWW-Authenticate: Custodia"]
    stopped = ["Set-Cookie: a=b", "X-Powered-By: x", "Keep-Alive: timeout=5", "Via: x", "Server: x"]

    async def script(exchange: Exchange) -> None:
        exchange.answer(200, b"{}", *passed, *stopped)

    service.script = script
    answer = await get(proxy, "x-request-id: of-the-client")

    told = {name: value for name, value in answer.fields if name not in {"date", "content-length"}}
    assert told == dict(line.lower().split(": ") for line in passed) | {
        "x-request-id": "of-the-client",
        "etag": '"1"',
        "allow": "GET",
        "www-authenticate": "Custodia",
    }


@pytest.mark.parametrize(
    ("target", "forwarded"),
    [
        ("/api/v0/secrets", "/secrets"),
        ("/api/v0/secrets/", "/secrets/"),
        ("/api/v0/secrets/a/b/c", "/secrets/a/b/c"),
        ("/api/v0/secrets/a/?x=1%2F&y", "/secrets/a/?x=1%2F&y"),
        ("/api/v0/secrets/a?", "/secrets/a"),
    ],
)
async def test_the_path_is_rewritten_and_the_query_kept(
    proxy: Proxy, service: ScriptedService, target: str, forwarded: str
) -> None:
    """The prefix is taken off; nothing else changes."""
    await get(proxy, target=target)

    assert [heard.target for heard in service.heard] == [forwarded]


@pytest.mark.parametrize(("method", "status"), [("PATCH", 501), ("TRACE", 405), ("CONNECT", 501), ("FOO", 501)])
async def test_other_methods_are_not_forwarded(
    proxy: Proxy, service: ScriptedService, method: str, status: int
) -> None:
    """GET, HEAD, PUT, POST, DELETE and OPTIONS are all there is."""
    answer = await ask(proxy.port, request(method, SECRET, "x-request-id: abcdefgh"))

    assert answer.status == status
    assert answer.get("x-request-id") == ("abcdefgh" if method == "PATCH" else None)  # the others are no requests
    assert service.heard == []


async def test_a_head_request_is_a_get_without_a_body(proxy: Proxy, service: ScriptedService) -> None:
    """The service is asked for the whole, and the client told of it all but the body; its next request is served."""

    async def script(exchange: Exchange) -> None:
        exchange.answer(200, b"x" * size, 'etag: "7"')

    service.script = script
    async with await Client.to(proxy.port) as client:
        for size in (0, 5, 300_000):
            client.writer.write(request("HEAD", SECRET) + request("GET", SECRET))
            head = await asyncio.wait_for(read_head(client.reader), 10)
            whole = await asyncio.wait_for(read_message(client.reader), 10)
            assert head.status == whole.status == 200
            assert head.get("content-length") == whole.get("content-length") == str(size) == str(len(whole.body))
            assert head.get("etag") == whole.get("etag") == '"7"'

    assert {heard.method for heard in service.heard} == {"GET"}


async def test_what_a_path_allows_is_the_services_to_say(proxy: Proxy, service: ScriptedService) -> None:
    """OPTIONS goes on, and what the service allows comes back."""

    async def script(exchange: Exchange) -> None:
        exchange.writer.write(b"HTTP/1.1 204 -\r\n%ballow: GET, PUT\r\n\r\n" % exchange.id_line)

    service.script = script
    answer = await ask(proxy.port, request("OPTIONS", SECRET))

    assert (answer.status, answer.get("allow")) == (204, "GET, PUT")
    assert [heard.first for heard in service.heard] == ["OPTIONS /secrets/hosts/10.0.0.7 HTTP/1.1"]


@pytest.mark.parametrize("size", [1, 1000, 65536, 300_000, 3_000_000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_pass_whole(proxy: Proxy, service: ScriptedService, size: int, chunked: bool) -> None:
    """A body arrives as it was sent, however long, and however it was framed."""
    body = bytes(range(251)) * (size // 251 + 1)
    body = body[:size]
    if chunked:
        pieces = [body[start : start + 50_000] for start in range(0, size, 50_000)]
        framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        sent = request("PUT", SECRET, "transfer-encoding: chunked") + framed
    else:
        sent = request("PUT", SECRET, body=body)
    assert (await ask(proxy.port, sent)).status == 200

    (heard,) = service.heard
    assert heard.body == body
    assert len(heard.all("content-length")) + len(heard.all("transfer-encoding")) == 1


@pytest.mark.parametrize("size", [0, 5, 65536, 65537, 5_000_000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_answers_pass_whole(proxy: Proxy, service: ScriptedService, size: int, chunked: bool) -> None:
    """An answer arrives as it was sent, and the connection goes on to serve the next request."""
    body = (bytes(range(253)) * (size // 253 + 1))[:size]

    async def script(exchange: Exchange) -> None:
        if chunked:
            exchange.writer.write(b"HTTP/1.1 200 OK\r\n%bTransfer-Encoding: chunked\r\n\r\n" % exchange.id_line)
            for start in range(0, size, 70_001):
                piece = body[start : start + 70_001]
                exchange.writer.write(b"%X\r\n%b\r\n" % (len(piece), piece))
            exchange.writer.write(b"0\r\nTrailer: dropped\r\n\r\n")
        else:
            exchange.answer(200, body)

    service.script = script
    async with await Client.to(proxy.port) as client:
        for _ in range(2):
            answer = await client.ask(request("GET", SECRET))
            assert answer.body == body
            assert answer.get("trailer") is None
    assert service.connections == 1


async def test_an_answer_that_comes_in_crumbs_is_whole(proxy: Proxy, service: ScriptedService) -> None:
    """It does not matter where the socket cuts an answer."""

    async def script(exchange: Exchange) -> None:
        head = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n%bContent-Length: 5\r\n\r\n" % exchange.id_line
        for byte in head + b"hello":
            exchange.writer.write(bytes([byte]))
            await exchange.writer.drain()
            await asyncio.sleep(0)

    service.script = script
    assert (await get(proxy)).body == b"hello"


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_without_a_body_end_with_their_head(proxy: Proxy, service: ScriptedService, status: int) -> None:
    """204 and 304 have no body, whatever length they tell."""

    async def script(exchange: Exchange) -> None:
        exchange.writer.write(b'HTTP/1.1 %d -\r\n%bETag: "1"\r\n\r\n' % (status, exchange.id_line))

    service.script = script
    async with await Client.to(proxy.port) as client:
        for _ in range(2):
            client.writer.write(request("GET", SECRET))
            head = (await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), 10)).lower()
            assert head.startswith(b"http/1.1 %d" % status)
            assert b'etag: "1"' in head
    assert service.connections == 1


@pytest.mark.parametrize("declared", [10 * 1024 * 1024 + 1, 10**14, 10**30])
async def test_a_body_that_says_it_is_too_long_is_not_even_begun(
    proxy: Proxy, service: ScriptedService, declared: int
) -> None:
    """413 comes before a byte of the body is asked for, and without asking the service."""
    head = request("PUT", SECRET, f"content-length: {declared}", "expect: 100-continue")
    answer = await ask(proxy.port, head)

    assert answer.status in {413, 400}  # gunicorn's own parser refuses a length that no machine can count
    assert service.connections == 0


async def test_a_body_that_becomes_too_long_is_cut_off(proxy: Proxy, service: ScriptedService) -> None:
    """Chunks may go on for ever; the proxy does not."""

    async def script(exchange: Exchange) -> None:
        await exchange.body()

    service.script = script
    async with await Client.to(proxy.port) as client:
        client.writer.write(request("PUT", SECRET, "transfer-encoding: chunked"))
        chunk = b"%x\r\n%b\r\n" % (256 * 1024, b"x" * (256 * 1024))
        for _ in range(41):
            client.writer.write(chunk)
        answer = await asyncio.wait_for(read_message(client.reader), 10)

    assert answer.status == 413


async def test_who_waits_to_be_asked_is_asked_when_the_service_asks(proxy: Proxy, service: ScriptedService) -> None:
    """A client that waits for 100 gets it, however short its body is, when the service has said that it wants it."""
    async with await Client.to(proxy.port) as client:
        client.writer.write(request("PUT", SECRET, "expect: 100-continue", "content-length: 3"))
        assert await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), 10) == b"HTTP/1.1 100 Continue\r\n\r\n"
        answer = await client.ask(b"abc")

    assert answer.status == 200
    assert [(heard.body, heard.get("expect")) for heard in service.heard] == [(b"abc", "100-continue")]


async def test_who_is_refused_is_not_asked_for_a_body(proxy: Proxy, service: ScriptedService) -> None:
    """A client that waits for 100 before a short body hears the refusal and nothing before it."""

    async def script(exchange: Exchange) -> None:
        exchange.answer(403)

    service.script = script
    async with await Client.to(proxy.port) as client:
        answer = await client.ask(request("PUT", SECRET, "expect: 100-continue", "content-length: 3"))
    assert answer.status == 403


SMUGGLING = {
    "both framings": request("PUT", SECRET, "content-length: 3", "transfer-encoding: chunked") + b"0\r\n\r\nabc",
    "two lengths": request("PUT", SECRET, "content-length: 3", "content-length: 4") + b"abc",
    "a list of lengths": request("PUT", SECRET, "content-length: 3, 3") + b"abc",
    "a signed length": request("PUT", SECRET, "content-length: +3") + b"abc",
    "a coding twice": request("PUT", SECRET, "transfer-encoding: chunked", "transfer-encoding: chunked") + b"0\r\n\r\n",
    "an unknown coding": request("PUT", SECRET, "transfer-encoding: xchunked") + b"0\r\n\r\n",
    "a coding after chunked": request("PUT", SECRET, "transfer-encoding: chunked, identity") + b"0\r\n\r\n",
    "a space before the colon": request("PUT", SECRET, "content-length : 3") + b"abc",
    "a folded field": request("GET", SECRET, "accept: a", " b"),
    "a bare line feed": b"GET %b HTTP/1.1\r\nhost: x\r\naccept: a\nx: b\r\n\r\n" % SECRET.encode(),
    "a bare carriage return": b"GET %b HTTP/1.1\r\nhost: x\r\naccept: a\rx: b\r\n\r\n" % SECRET.encode(),
    "a null": b"GET %b HTTP/1.1\r\nhost: x\r\naccept: a\x00b\r\n\r\n" % SECRET.encode(),
    "a chunk that lies": request("PUT", SECRET, "transfer-encoding: chunked") + b"3\r\nabcdef\r\n0\r\n\r\n",
    "a chunk size of words": request("PUT", SECRET, "transfer-encoding: chunked") + b"xyz\r\nabc\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("story", SMUGGLING)
async def test_nothing_is_smuggled(proxy: Proxy, service: ScriptedService, story: str) -> None:
    """Bytes that two readers could frame in two ways never become a second request at the service."""
    async with await Client.to(proxy.port) as client:
        client.writer.write(SMUGGLING[story] + request("GET", "/api/v0/secrets/smuggled"))
        client.writer.write_eof()
        told = await asyncio.wait_for(client.reader.read(), 10)

    assert b"HTTP/1.1 200" not in told.split(b"\r\n")[0]
    assert all("smuggled" not in heard.target for heard in service.heard)
    assert all(heard.body in {b"", b"abc"} for heard in service.heard)


GARBAGE = {
    "nothing": b"",
    "words": b"hello there\r\n\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "HTTP/2": b"HTTP/2 200\r\nContent-Length: 2\r\n\r\n{}",
    "no status": b"HTTP/1.1 OK\r\nContent-Length: 2\r\n\r\n{}",
    "a status out of range": b"HTTP/1.1 999 OK\r\nContent-Length: 2\r\n\r\n{}",
    "half a body": b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{}",
    "a body up to the end": b"HTTP/1.1 200 OK\r\n\r\n{}",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}",
    "both framings": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a folded field": b"HTTP/1.1 200 OK\r\nETag: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
    "a bare line feed": b"HTTP/1.1 200 OK\r\nETag: a\nSet-Cookie: b\r\nContent-Length: 2\r\n\r\n{}",
    "a bare carriage return": b"HTTP/1.1 200 OK\r\nETag: a\rb\r\nContent-Length: 2\r\n\r\n{}",
    "a space before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n{}",
    "a change of protocol": b"HTTP/1.1 101 Switching Protocols\r\nContent-Length: 2\r\n\r\n{}",
    "an endless head": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000,
}


@pytest.mark.parametrize("story", GARBAGE)
@pytest.mark.parametrize(("method", "fate"), [("GET", "not-applied"), ("PUT", "unknown"), ("DELETE", "unknown")])
async def test_what_is_no_answer_is_a_503(
    proxy: Proxy, service: ScriptedService, story: str, method: str, fate: str
) -> None:
    """Garbage never reaches the client; whether a write was applied is then unknown, and said to be."""

    async def script(exchange: Exchange) -> None:
        await exchange.body()
        exchange.say(GARBAGE[story])

    service.script = script
    answer = await ask(proxy.port, request(method, SECRET))

    assert answer.status == 503
    assert answer.get("retry-after") == "1"
    assert answer.get("content-type") == "application/problem+json"
    problem = json.loads(answer.body)
    assert problem["type"] == "urn:strongroom:problem:unavailable"
    assert problem["fate"] == fate
    assert problem["request_id"] == answer.get("x-request-id")


async def test_bytes_after_an_answer_belong_to_nobody(proxy: Proxy, service: ScriptedService) -> None:
    """What follows an answer on its connection is never given to the next client."""

    async def script(exchange: Exchange) -> None:
        exchange.writer.write(
            b"HTTP/1.1 200 OK\r\n%bContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
            % exchange.id_line
        )

    service.script = script
    for _ in range(3):
        assert (await get(proxy)).body == b"{}"
    assert service.connections == 3


async def test_bytes_that_come_unasked_end_the_connection(proxy: Proxy, service: ScriptedService) -> None:
    """A connection on which the service speaks out of turn is not used again."""
    spoken = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        exchange.answer(200, b"one")
        await exchange.writer.drain()
        if not spoken.is_set():
            exchange.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
            await exchange.reader.read()  # the proxy hangs up
            spoken.set()

    service.script = script
    assert (await get(proxy)).body == b"one"
    await asyncio.wait_for(spoken.wait(), 10)
    assert (await get(proxy)).body == b"one"


async def test_a_long_answer_that_breaks_off_is_visibly_short(proxy: Proxy, service: ScriptedService) -> None:
    """The client of an answer cut short sees less than it was promised, and the connection end."""

    async def script(exchange: Exchange) -> None:
        head = b"HTTP/1.1 200 OK\r\n%bContent-Length: 1000000\r\n\r\n" % exchange.id_line
        exchange.say(head + b"x" * 500_000)

    service.script = script
    with pytest.raises(asyncio.IncompleteReadError):
        await get(proxy)


@pytest.mark.parametrize(("method", "fate"), [("GET", "not-applied"), ("PUT", "unknown")])
async def test_a_service_that_says_nothing_is_given_up(
    proxy: Proxy, service: ScriptedService, method: str, fate: str
) -> None:
    """The deadline ends the wait, and the connection with it."""
    gone = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.reader.read()
        gone.set()

    service.script = script
    answer = await ask(proxy.port, request(method, SECRET))

    assert answer.status == 503
    assert json.loads(answer.body)["fate"] == fate
    await asyncio.wait_for(gone.wait(), 10)


async def test_a_service_that_is_not_there_is_a_503_until_it_is(proxy: Proxy, service: ScriptedService) -> None:
    """Nothing has to be done for the proxy to find a service that came back."""
    assert (await get(proxy)).status == 200
    await service.stop()
    for method in ("GET", "PUT", "DELETE"):
        answer = await ask(proxy.port, request(method, SECRET))
        assert (answer.status, answer.get("retry-after")) == (503, "1")
        assert json.loads(answer.body)["fate"] == "not-applied"
    await service.start()
    assert (await get(proxy)).status == 200


READS = [request("GET", SECRET), request("POST", "/api/v0/secrets/?batch=get", body=b'{"names":[]}')]
WRITES = [
    request("PUT", SECRET, body=b"{}"),
    request("POST", "/api/v0/secrets/hosts/"),
    request("DELETE", SECRET),
    request("POST", "/api/v0/secrets/?batch=put", body=b"{}"),
]


@pytest.mark.parametrize("sent", READS, ids=["get", "batch get"])
async def test_a_read_that_met_a_dying_connection_is_sent_again(
    proxy: Proxy, service: ScriptedService, sent: bytes
) -> None:
    """A kept connection that the service ends is no reason for a read to fail."""
    assert (await get(proxy)).status == 200  # a connection is kept now
    first = True

    async def script(exchange: Exchange) -> None:
        nonlocal first
        await exchange.body()
        if first:
            first = False
            exchange.hang_up()
        else:
            exchange.answer()

    service.script = script
    assert (await ask(proxy.port, sent)).status == 200
    assert service.connections == 2


@pytest.mark.parametrize("sent", WRITES, ids=["put", "container", "delete", "other batch"])
async def test_a_write_that_may_have_been_read_is_not_sent_again(
    proxy: Proxy, service: ScriptedService, sent: bytes
) -> None:
    """When the service ends a connection having read a write, only it knows what became of it."""
    assert (await get(proxy)).status == 200

    async def script(exchange: Exchange) -> None:
        await exchange.body()
        exchange.hang_up()

    service.script = script
    answer = await ask(proxy.port, sent)

    assert answer.status == 503
    assert json.loads(answer.body)["fate"] == "unknown"
    assert len(service.heard) == 2


async def test_a_read_is_not_sent_a_third_time(proxy: Proxy, service: ScriptedService) -> None:
    """A service that ends every connection is not asked again and again."""
    assert (await get(proxy)).status == 200

    async def script(exchange: Exchange) -> None:
        exchange.hang_up()

    service.script = script
    assert (await get(proxy)).status == 503
    assert len(service.heard) == 3


async def test_the_pool_is_bounded_and_everyone_is_served(proxy: Proxy, service: ScriptedService) -> None:
    """A thousand requests over two hundred connections use no more than the pool has, and all are answered."""

    async def script(exchange: Exchange) -> None:
        await asyncio.sleep(0)
        exchange.answer(200, exchange.head.target.encode())

    service.script = script

    async def caller(number: int) -> None:
        async with await Client.to(proxy.port) as client:
            for turn in range(5):
                answer = await client.ask(request("GET", f"/api/v0/secrets/c{number}/k{turn}"))
                assert (answer.status, answer.body) == (200, f"/secrets/c{number}/k{turn}".encode())

    await asyncio.gather(*(caller(number) for number in range(200)))

    assert service.most_at_once <= CONNECTIONS
    assert service.connections <= CONNECTIONS


async def test_a_busy_pool_keeps_nobody_waiting_for_ever(proxy: Proxy, service: ScriptedService) -> None:
    """With every connection stuck, those who wait are told to come back, and the next find a service that works."""

    async def script(exchange: Exchange) -> None:
        await exchange.reader.read()

    service.script = script
    answers = await asyncio.gather(*(ask(proxy.port, request("PUT", SECRET)) for _ in range(CONNECTIONS + 4)))

    assert [answer.status for answer in answers] == [503] * (CONNECTIONS + 4)
    assert service.most_at_once == CONNECTIONS
    service.script = None
    assert (await get(proxy)).status == 200


async def test_slow_uploads_leave_room_for_reads(proxy: Proxy, service: ScriptedService) -> None:
    """Clients that never finish their long bodies hold a part of the pool at most."""
    ended = 0
    let_go = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        nonlocal ended
        if exchange.head.method != "PUT":
            exchange.answer()
            return
        try:
            await exchange.body()
        finally:
            ended += 1
            if ended == CONNECTIONS * 2:
                let_go.set()

    service.script = script
    async with asyncio.TaskGroup() as group:
        clients = [await Client.to(proxy.port) for _ in range(CONNECTIONS * 2)]
        for client in clients:
            client.writer.write(request("PUT", SECRET, "content-length: 5000000") + b"x" * 500_000)
            await client.writer.drain()
        answers = [group.create_task(get(proxy)) for _ in range(4)]
    for client in clients:
        client.writer.transport.abort()
    # Uploads that waited for their turn still dial, find their client gone and hang up, or reach their deadline;
    # the next test's service must not meet them.
    with suppress(TimeoutError):
        async with asyncio.timeout(TIMEOUT):
            await let_go.wait()

    assert [answer.result().status for answer in answers] == [200] * 4


async def test_a_client_that_leaves_takes_its_connection_along(proxy: Proxy, service: ScriptedService) -> None:
    """A connection that carries half a request is closed, not given to the next."""
    ended = asyncio.Event()
    begun = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        if exchange.head.method == "PUT":
            begun.set()
            try:
                await exchange.body()
            finally:
                ended.set()
        else:
            exchange.answer()

    service.script = script
    async with await Client.to(proxy.port) as client:
        client.writer.write(request("PUT", SECRET, "content-length: 5000000") + b"x" * 500_000)
        await asyncio.wait_for(begun.wait(), 10)
    await asyncio.wait_for(ended.wait(), 10)
    assert (await get(proxy)).status == 200
    assert service.connections == 2


async def test_an_answer_may_come_before_the_body_ends(proxy: Proxy, service: ScriptedService) -> None:
    """A service that refuses on the head alone is heard, and the half-sent request spoils its connection only."""

    async def script(exchange: Exchange) -> None:
        exchange.answer(403 if exchange.head.method == "PUT" else 200)
        if exchange.head.method == "PUT":
            await exchange.writer.drain()
            await exchange.reader.read()

    service.script = script
    async with await Client.to(proxy.port) as client:
        client.writer.write(request("PUT", SECRET, "content-length: 9000000"))
        client.writer.write(b"x" * 9_000_000)
        assert (await asyncio.wait_for(read_message(client.reader), 10)).status == 403
    assert (await get(proxy)).status == 200
    assert service.connections == 2


async def test_pipelined_requests_are_answered_in_their_order(proxy: Proxy, service: ScriptedService) -> None:
    """Requests that a client sends at once are answered one after another, each with its own answer."""

    async def script(exchange: Exchange) -> None:
        exchange.answer(200, exchange.head.target.encode())

    service.script = script
    async with await Client.to(proxy.port) as client:
        for number in range(5):
            client.writer.write(request("GET", f"/api/v0/secrets/c/{number}"))
        told = [await asyncio.wait_for(read_message(client.reader), 10) for _ in range(5)]

    assert [answer.body for answer in told] == [f"/secrets/c/{number}".encode() for number in range(5)]

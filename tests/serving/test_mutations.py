"""Requests that chance made of good ones: whatever comes, every face goes on, and says nothing that has no end."""

import random
import re
import socket
from pathlib import Path

import pytest

from tests.campaign import as_many_as
from tests.raw_http import request
from tests.serving.conftest import Served

REQUESTS = as_many_as(20_000)  # on each real face, and a fifth on the small
AT_ONCE = 12  # requests on one connection
LONGEST = 256 * 1024  # bytes that are answered on one connection
PIECES = [
    *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"  ", b"\t", b"\x00", b"\xff", b":", b";", b",", b"%", b"%2e", b"%2f"),
    *(b"..", b"/", b"?", b"0", b"-1", b"f" * 16, b"9" * 20, b"chunked", b"gzip", b"identity", b"HTTP/1.0", b"HTTP/1.1"),
    *(b"HTTP/2.0", b"GET", b"HEAD", b"PUT", b"POST", b"DELETE", b"OPTIONS", b"*", b"TRACE", b"CONNECT", b"Host: x\r\n"),
    *(b"Content-Length: 3\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n"),
    *(b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n", b"Content-Encoding: gzip\r\n", b" folded\r\n"),
    *(
        b'If-Match: "1"\r\n',
        b"X-Request-ID: \r\n",
        b"Forwarded: x\r\n",
        b"{",
        b"[",
        b'"',
        b"\\u0000",
        b"A" * 300,
        b"a/" * 300,
    ),
]


def seeds(served: Served) -> list[bytes]:
    """Return good requests for a face."""
    path, lines = served.path.decode(), [line for line in served.fields.decode().split("\r\n") if line]
    folder = path.rpartition("/")[0] + "/"
    root = folder.rpartition("secrets/")[0] + "secrets/"
    chunks = b"3\r\nabc\r\n4;x=y\r\n1234\r\n0\r\nX-A: b\r\n\r\n"
    return [
        request("GET", path, *lines),
        request("HEAD", path + "?type=simple", *lines),
        request("GET", folder, *lines),
        request("PUT", path, *lines, "if-none-match: *", body=b'{"type":"simple","value":"x"}'),
        request("PUT", path, *lines, "transfer-encoding: chunked") + chunks,
        request("DELETE", path, *lines, 'if-match: "1"'),
        request("POST", root + "?batch=get", *lines, body=b'{"names":["a/b","c/d"]}'),
        request("OPTIONS", path, *lines),
        request("GET", "/livez"),
        request("GET", "/readyz"),
        request("GET", "/api/v0/hosts/", *lines),
        request("PUT", "/api/v0/host/10.0.0.7", *lines, body=b'{"status":"active"}'),
        request("POST", "/storage/get", *lines, body=b'{"model":"Host","records":[{"address":"10.0.0.7"}]}'),
    ]


def mutated(draw: random.Random, data: bytes) -> bytes:
    """Return *data* with some bytes changed, cut out, doubled or put in."""
    changed = bytearray(data)
    for _ in range(draw.choice((0, 1, 1, 1, 2, 3, 8))):
        at = draw.randrange(len(changed) + 1)
        match draw.randrange(5):
            case 0:
                changed[at : at + 1] = bytes([draw.randrange(256)])
            case 1:
                del changed[at : at + draw.choice((1, 2, 5, 40))]
            case 2:
                changed[at:at] = draw.choice(PIECES)
            case 3:
                changed[at:at] = changed[at : at + draw.choice((1, 10, 100))]
            case _:
                changed[at : at + draw.choice((1, 4, 10))] = draw.choice(PIECES)
    return bytes(changed)


def said(served: Served, data: bytes) -> bytes:
    """Send *data* and no more, and return all that is answered."""
    with socket.socket(socket.AF_UNIX if isinstance(served.place, Path) else socket.AF_INET) as connection:
        connection.settimeout(20)
        connection.connect(str(served.place) if isinstance(served.place, Path) else ("127.0.0.1", served.place))
        told = bytearray()
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65536):
                told += piece
                assert len(told) < LONGEST
        except (ConnectionError, BrokenPipeError):
            pass
        return bytes(told)


@pytest.mark.campaign
def test_mutated_requests(face: Served) -> None:
    """No worker dies, nothing surprises it, no answer goes on without end, and afterwards it serves."""
    assert said(face, request("GET", "/livez")).startswith(b"HTTP/1.1 200 ")
    workers = face.running.workers
    start = len(face.log.read_text())
    draw, good = random.Random(8), seeds(face)
    seen: dict[bytes, int] = {}
    count = REQUESTS // 5 if face.path == b"/echo" else REQUESTS
    for _ in range(count // AT_ONCE):
        data = b"".join(mutated(draw, draw.choice(good)) for _ in range(AT_ONCE))
        for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", said(face, data)):
            seen[status] = seen.get(status, 0) + 1
    assert face.running.workers == workers
    assert said(face, request("GET", "/livez")).startswith(b"HTTP/1.1 200 ")
    log = face.log.read_text()[start:]
    assert not re.search("Traceback|unexpected |ended in|on the event loop", log)
    assert b"500" not in seen, seen
    assert {b"200", b"400"} <= seen.keys()

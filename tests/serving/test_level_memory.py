"""Nothing outlives its connection: neither objects, nor memory, nor what a request held."""

import json
import re
import secrets
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.campaign import as_many_as
from tests.raw_http import request
from tests.serving.conftest import Served, both

CONNECTIONS = as_many_as(10_000)  # on each kind of socket
BATCH = 50  # that are open at a time
REQUESTS = 600
COPIES = 40  # of one text, in all of a process: what allocators have not yet written over


def connected(served: Served) -> socket.socket:
    """Return a new connection."""
    connection = socket.socket(socket.AF_UNIX if isinstance(served.place, Path) else socket.AF_INET)
    connection.settimeout(15)
    connection.connect(str(served.place) if isinstance(served.place, Path) else ("127.0.0.1", served.place))
    return connection


def ask(connection: socket.socket, data: bytes) -> bytes:
    """Send a request, and return the answer, which is short."""
    connection.sendall(data)
    told = b""
    while b"\r\n\r\n" not in told:
        told += connection.recv(65536)
    head, _, body = told.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    while length and len(body) < int(length[1]):
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def counts(served: Served) -> dict[str, int]:
    """Return what the face says of its process."""
    with connected(served) as connection:
        told: dict[str, int] = json.loads(ask(connection, request("GET", "/counts")).partition(b"\r\n\r\n")[2])
        return told


def open_and_close(served: Served, count: int) -> None:
    """Open *count* connections, a batch at a time: most are asked on, some are left in the middle."""
    kinds = [
        request("GET", "/later", "x-a: " + "a" * 2000),
        request("GET", "/quick"),
        request("PUT", "/echo", body=b"b" * 3000),
        request("PUT", "/early", "content-length: 100000") + b"c",
        request("PUT", "/echo", "content-length: 100000") + b"d",
        b"GET /half HTTP/1.1\r\nX: ",
        b"nonsense\r\n\r\n",
        b"",
    ]
    for start in range(0, count, BATCH):
        connections = [connected(served) for _ in range(BATCH)]
        for number, connection in enumerate(connections):
            kind = (start + number) % (len(kinds) * 2)
            if kind < 3 or kind >= len(kinds):
                ask(connection, kinds[kind % 3])
            else:
                connection.sendall(kinds[kind])
        for connection in connections:
            connection.close()


@pytest.mark.campaign
def test_memory_is_level(small: Served) -> None:
    """After thousands of connections of every kind there are as many objects as before, and as much memory."""
    open_and_close(small, 2000)
    before = counts(small)
    open_and_close(small, CONNECTIONS - 2000)
    for _ in range(100):
        after = counts(small)
        if after["connections"] == after["exchanges"] == 0:
            break
    assert (after["connections"], after["exchanges"]) == (0, 0)
    assert after["tasks"] <= before["tasks"] + 2
    assert after["memory"] < before["memory"] + 3 * 1024 * 1024  # the leak that this replaced: 85 MiB


def occurrences(pid: int, texts: list[bytes]) -> list[int]:
    """Return how often each of *texts* stands in the writable memory of a process."""
    found = [0] * len(texts)
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, mode, *_ = line.split()
            if not mode.startswith("rw"):
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            try:
                memory.seek(start)
                content = memory.read(end - start)
            except OSError:
                continue  # no pages that could be read, as the kernel's own
            for number, text in enumerate(texts):
                found[number] += content.count(text)
    return found


@pytest.fixture
def fresh() -> Iterator[dict[str, Served]]:
    """Service and proxy that nobody else asks anything."""
    with tempfile.TemporaryDirectory(prefix="sr-") as place, both(Path(place)) as served:
        yield served


def test_little_of_what_passed_stays_in_memory(fresh: dict[str, Served]) -> None:
    """After six hundred gets, each on a connection of its own, few copies of value and key are in either process."""
    key = fresh["proxy"].fields.split(b"\r\n")[1].split(b": ")[1]
    credentials = [line.decode() for line in fresh["proxy"].fields.split(b"\r\n")[:2]]
    value = secrets.token_urlsafe(48)
    with connected(fresh["proxy"]) as connection:
        body = json.dumps({"type": "simple", "value": value}).encode()
        made = request(
            "PUT", "/api/v0/secrets/memory/canary", *credentials, "content-type: application/json", body=body
        )
        ask(connection, request("POST", "/api/v0/secrets/memory/", *credentials))
        assert ask(connection, made).startswith(b"HTTP/1.1 201 ")
    for name, path in (("proxy", "/api/v0/secrets/memory/canary"), ("socket", "/secrets/memory/canary")):
        for _ in range(REQUESTS // 2):
            with connected(fresh[name]) as connection:
                assert value.encode() in ask(connection, request("GET", path, *credentials))
    connections = [connected(fresh["proxy"]) for _ in range(20)]
    for connection in connections:  # and these stay open, idle
        for _ in range(15):
            assert value.encode() in ask(connection, request("GET", "/api/v0/secrets/memory/canary", *credentials))
    for served in fresh.values():
        (pid,) = served.running.workers
        found = occurrences(pid, [value.encode(), key])
        assert found[1] > 0  # it is the process' own key, too: the search finds what is there
        assert all(count <= COPIES for count in found), found
    for connection in connections:
        connection.close()

"""What a request may cost, whoever sends it: the limits of bodies by route, rights before bodies, and memory."""

import json
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

import httpx
import pytest

from strongroom.deploy.pytest_plugin import Server
from strongroom.models import HostCreds
from strongroom.storage_service import wire
from strongroom.storage_service.client import StorageClient
from strongroom.storage_service.client.operations import IssuedKey
from tests.audit_lines import audit_lines
from tests.deploy.running import descendants, up

GROWTH = 100 * 1024  # KiB that a worker may grow by under the worst that its clients ask for
AT_ONCE = 64
CUT = 0  # in place of the status of an answer that ended early

Connect = Callable[[], socket.socket]


@pytest.fixture(params=["socket", "proxy"])
def face(request: pytest.FixtureRequest, strongroom_server: Server) -> tuple[str, Connect]:
    """The name of a face, and what makes raw connections to it."""
    return request.param, _connecting(strongroom_server, request.param)


@pytest.fixture
def inside(strongroom_server: Server) -> Connect:
    """What makes raw connections to the service's socket."""
    return _connecting(strongroom_server, "socket")


@pytest.fixture
def nothing(strongroom: StorageClient) -> Iterator[IssuedKey]:
    """A key that reaches nothing that there is."""
    key = strongroom.create_apikey("nothing-" + secrets.token_hex(4), paths=["/none/"], actions=["get"])
    yield key
    strongroom.revoke_apikey(key.api_id)


def _connecting(server: Server, face: str) -> Connect:
    if face == "proxy":
        address = urlsplit(server.url)
        return lambda: socket.create_connection((address.hostname, address.port), timeout=20)

    def connect() -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(20)
        made.connect(str(server.socket))
        return made

    return connect


def _own(server: Server) -> bytes:
    known = json.loads((server.home / "client.json").read_text())
    return _head_of(known["api_id"], known["api_key"])


def _head_of(api_id: str, api_key: str) -> bytes:
    return f"{wire.ID_HEADER}: {api_id}\r\n{wire.KEY_HEADER}: {api_key}\r\n".encode()


def _status(connect: Connect, head: bytes, body: bytes, rest: int = 0) -> int:
    """Return how a request is answered of which *body*, and then *rest* chunks of 64 KiB, are sent."""
    with connect() as connection:
        connection.sendall(head + b"\r\n")
        sending = threading.Thread(target=_send, args=(connection, body, rest))
        sending.start()
        line = connection.makefile("rb").readline()
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        sending.join()
    return int(line.split()[1])


def _send(connection: socket.socket, body: bytes, rest: int) -> None:
    with suppress(OSError):  # it was answered before its end
        connection.sendall(body)
        for _ in range(rest):
            connection.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        if rest:
            connection.sendall(b"0\r\n\r\n")


# Of each route of the socket that reads a body, how large that may be.
ROUTES = {
    "POST /secrets/?batch=get": wire.MAX_NAMES_BODY,
    "POST /storage/save": wire.MAX_RECORDS_BODY,
    "POST /storage/get": wire.MAX_RECORDS_BODY,
    "POST /storage/delete": wire.MAX_RECORDS_BODY,
    "POST /storage/list": wire.MAX_LISTING_BODY,
    "POST /storage/may": wire.MAX_LISTING_BODY,
    "POST /apikeys": wire.MAX_KEY_BODY,
    "POST /bulk/read": wire.MAX_NAMES_BODY,
    "POST /bulk/list": wire.MAX_LISTING_BODY,
    "POST /bulk/commit": wire.MAX_COMMIT_BODY,
    "POST /keyring/init": wire.MAX_CEREMONY_BODY,
    "POST /keyring/unlock": wire.MAX_CEREMONY_BODY,
    "POST /keyring/root": wire.MAX_CEREMONY_BODY,
    "POST /keyring/keysets": wire.MAX_CEREMONY_BODY,
    "POST /keyring/keysets/none/rotate": wire.MAX_CEREMONY_BODY,
    "POST /keyring/assign": wire.MAX_CEREMONY_BODY,
    "POST /keyring/reencrypt": wire.MAX_CEREMONY_BODY,
    "POST /keyring/resume": wire.MAX_CEREMONY_BODY,
    "POST /keyring/retire": wire.MAX_CEREMONY_BODY,
    "POST /keyring/usage/scan": wire.MAX_CEREMONY_BODY,
    "POST /keyring/backups": wire.MAX_CEREMONY_BODY,
}
MODELS = ("host", "host/a", "host/a/creds", "cluster/a", "cluster/a/hosts", "cluster/a/deploy", "network/a")
PROXIED = {f"PUT /api/v0/{path}": wire.MAX_MODEL_BODY for path in (*MODELS, "containermanager/a")} | {
    "POST /api/v0/secrets/?batch=get": wire.MAX_NAMES_BODY
}


@pytest.mark.parametrize(
    ("face", "route"), [("socket", each) for each in ROUTES] + [("proxy", each) for each in PROXIED], indirect=["face"]
)
def test_a_body_is_limited_by_its_route(face: tuple[str, Connect], strongroom_server: Server, route: str) -> None:
    """One byte over the limit is 413 with a length and in chunks; a body at the limit is read, and found to be none."""
    connect, limit = face[1], (ROUTES | PROXIED)[route]
    head = f"{route} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode() + _own(strongroom_server)
    chunked, whole, left = head + b"Transfer-Encoding: chunked\r\n", limit // 0x10000, limit % 0x10000
    first = b"%x\r\n%b\r\n" % (left + 1, b" " * (left + 1))

    assert _status(connect, head + b"Content-Length: %d\r\n" % limit, b" " * limit) == 400
    assert _status(connect, head + b"Content-Length: %d\r\n" % (limit + 1), b" " * (limit + 1)) == 413
    assert _status(connect, chunked, first, whole) == 413


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST"])
def test_no_body_of_a_secret_is_over_the_outermost_limit(
    face: tuple[str, Connect], strongroom_server: Server, method: str
) -> None:
    """What is over `MAX_BODY` is 413 on the way of the secrets, too, whether its length is said or not."""
    path = ("/api/v0" if face[0] == "proxy" else "") + ("/secrets/a/" if method == "POST" else "/secrets/a/b")
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n".encode()
    head += _own(strongroom_server)
    chunks = wire.MAX_BODY // 0x10000

    assert _status(face[1], head + b"Content-Length: %d\r\n" % (wire.MAX_BODY + 1), b" ") == 413
    assert _status(face[1], head + b"Transfer-Encoding: chunked\r\n", b"1\r\n \r\n", chunks) == 413


@pytest.mark.parametrize("escape", ["%2E", "%2e", "%2E%2E", "%2F", "%2f", "%5C", "%5c", "%00"])
@pytest.mark.parametrize("path", ["/secrets/a{}b", "/secrets/{}/b", "/secrets{}a/b", "/secrets/a/{}"])
def test_what_is_encoded_to_mean_two_paths_is_refused(
    face: tuple[str, Connect], strongroom_server: Server, path: str, escape: str
) -> None:
    """An encoded dot, slash, backslash or zero byte is 400 on both faces, in capitals and in small letters."""
    asked = ("/api/v0" if face[0] == "proxy" else "") + path.format(escape)
    head = f"GET {asked} HTTP/1.1\r\nHost: x\r\n".encode() + _own(strongroom_server)
    assert _status(face[1], head, b"") == 400


LATE = [route for route in ROUTES if "/secrets/" not in route]


@pytest.mark.parametrize("route", LATE)
def test_a_declared_length_is_refused_unread(inside: Connect, strongroom_server: Server, route: str) -> None:
    """Who says that a body is over its limit is answered when it begins, not when it has come."""
    head = f"{route} HTTP/1.1\r\nHost: x\r\nContent-Length: {ROUTES[route] + 1}\r\n".encode() + _own(strongroom_server)
    assert _status(inside, head, b" ") == 413


@pytest.mark.parametrize("path", [each for each in (*MODELS, "containermanager/a") if each != "host"])
def test_rights_come_before_bodies(strongroom_server: Server, nothing: IssuedKey, path: str) -> None:
    """Of a key that may not change the record that the path names no body is read; the refusal is written down once."""
    name = secrets.token_hex(6)
    asked = path.replace("/a", "/" + name, 1)
    head = f"PUT /api/v0/{asked} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n".encode()
    head += _head_of(nothing.api_id, nothing.api_key.reveal())

    assert _status(_connecting(strongroom_server, "proxy"), head, b"[") == 403

    lines = audit_lines(strongroom_server.home / "log" / "audit.log")
    told = [(line["action"], line["decision"]) for line in lines if line["name"].endswith("/" + name)]
    assert told == [("put", "denied")]


# What is asked for stands in the body: who may do the like to nothing at all is refused before.
NAMED_WITHIN = {
    "proxy PUT /api/v0/host": ("/secrets", "get,put"),
    "proxy POST /api/v0/secrets/?batch=get": ("/hosts", "get,put"),
    "socket POST /secrets/?batch=get": ("/secrets", "put,list"),
    "socket POST /storage/save": ("/", "get,list"),
    "socket POST /storage/delete": ("/", "get,put"),
    "socket POST /storage/get": ("/", "put"),
    "socket POST /apikeys": ("/secrets", "get,put"),
}


@pytest.mark.parametrize("route", NAMED_WITHIN)
def test_who_may_do_the_like_to_nothing_is_refused_unread(
    strongroom: StorageClient, strongroom_server: Server, route: str
) -> None:
    """Where the body names what is meant, a key that can mean nothing there is refused before it, with one line."""
    (paths, actions), (face, asked) = NAMED_WITHIN[route], route.split(" ", 1)
    key = strongroom.create_apikey("within-" + secrets.token_hex(4), paths=[paths], actions=actions.split(","))
    head = f"{asked} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n".encode()
    head += _head_of(key.api_id, key.api_key.reveal())

    assert _status(_connecting(strongroom_server, face), head, b"") == 403

    lines = audit_lines(strongroom_server.home / "log" / "audit.log")
    decisions = [line["decision"] for line in lines if line["principal"] == f"apikey:{key.api_id}"]
    assert decisions == ["denied"]


def test_a_short_body_is_asked_for_when_it_may_be_sent(
    face: tuple[str, Connect], strongroom_server: Server, nothing: IssuedKey
) -> None:
    """A client that waits for 100 before a short secret hears 403 in its place where it may not write."""
    path = "/api/v0/secrets/a/b" if face[0] == "proxy" else "/secrets/a/b"
    head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n".encode()
    assert _status(face[1], head + _head_of(nothing.api_id, nothing.api_key.reveal()), b"") == 403


WHOLE = [
    route
    for route in ROUTES
    if route.startswith(
        ("POST /bulk", "POST /keyring/init", "POST /keyring/unlock", "POST /keyring/root", "POST /keyring/keysets/")
    )
]


@pytest.mark.parametrize("route", WHOLE)
def test_what_is_for_all_rights_is_refused_unread(inside: Connect, nothing: IssuedKey, route: str) -> None:
    """A key without all rights is told so before its body has come."""
    head = f"{route} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n".encode()
    assert _status(inside, head + _head_of(nothing.api_id, nothing.api_key.reveal()), b"[") == 403


NESTED = b"[[[[]]]],"


@pytest.mark.parametrize("what", [NESTED, b"{},", b"1,", b'"",', b'{"a":0},'])
@pytest.mark.parametrize(
    ("face", "route"),
    [
        ("socket", "POST /secrets/?batch=get"),
        ("socket", "PUT /secrets/a/b"),
        ("socket", "POST /storage/save"),
        ("socket", "POST /bulk/read"),
        ("proxy", "PUT /api/v0/network/a"),
        ("proxy", "POST /api/v0/secrets/?batch=get"),
    ],
    indirect=["face"],
)
def test_a_body_of_many_things_is_refused(
    face: tuple[str, Connect], strongroom_server: Server, route: str, what: bytes
) -> None:
    """A body within its limit that holds hundreds of thousands of things is refused for that."""
    limit = 650_000
    body = b'{"names":[' + what * (limit // len(what)) + b"0]}"
    head = f"{route} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n".encode()
    assert _status(face[1], head + _own(strongroom_server), body) == 400


def test_a_cluster_of_thousands_goes_through(strongroom_server: Server) -> None:
    """A record with more in it than is parsed at once is read all the same, on both ways in."""
    name = "cluster-" + secrets.token_hex(4)
    hosts = [f"10.{number // 65536}.{number // 256 % 256}.{number % 256}" for number in range(20_000)]
    known = json.loads((strongroom_server.home / "client.json").read_text())
    headers = {wire.ID_HEADER: known["api_id"], wire.KEY_HEADER: known["api_key"]}
    with httpx.Client(base_url=strongroom_server.url, headers=headers, timeout=30) as client:
        made = client.put(f"/api/v0/cluster/{name}", json={"hostset": hosts})
        assert made.status_code == 201, made.text
        assert client.get(f"/api/v0/cluster/{name}/hosts").json() == hosts


def test_a_large_batch_is_413_and_its_parts_are_not(strongroom: StorageClient, strongroom_server: Server) -> None:
    """What is over 8 MiB in the store is not answered at once; the client asks again, for less, until all is there."""
    container = secrets.token_hex(6)
    strongroom.create_container(container)
    value = "v" * wire.MAX_SECRET
    names = [f"{container}/{number}" for number in range(13)]
    for name in names:
        strongroom.set_secret(container, name.rpartition("/")[2], value)
    known = json.loads((strongroom_server.home / "client.json").read_text())
    headers = {wire.ID_HEADER: known["api_id"], wire.KEY_HEADER: known["api_key"]}

    for url in ("/api/v0/secrets/?batch=get",):
        asked = httpx.post(strongroom_server.url + url, json={"names": names}, headers=headers, timeout=30)
        assert (asked.status_code, asked.json()["type"]) == (413, "urn:strongroom:problem:too-large")
        twice = httpx.post(strongroom_server.url + url, json={"names": names[:1] * 2}, headers=headers)
        assert twice.status_code == 400
    found = strongroom.get_secrets(names)
    assert [secret.reveal() == value for secret in found.values() if secret] == [True] * 13
    sealed = strongroom.read_bulk(["secrets/" + name for name in names])
    assert [entry.value.reveal() == value for entry in sealed if entry] == [True] * 13


def test_large_records_come_in_parts(strongroom: StorageClient) -> None:
    """Records that are more than one answer holds are asked for in halves, and listed in short pages, each once."""
    mark = secrets.token_hex(4)
    key = "k" * (wire.MAX_SECRET // 4 * 3 // 4 * 4 - 1000)
    records = [HostCreds.new(address=f"{mark}-{number:02}", ssh_priv_key=key) for number in range(20)]
    for record in records:
        strongroom.save(record)
    wanted = [record.address for record in records]

    found = strongroom.get_many(HostCreds, [*wanted, wanted[0]])
    assert [record.model for record in found if record] == [*records, records[0]]
    texts = strongroom.get_texts(HostCreds, wanted)
    assert [len(text.text.reveal()) > len(key) for text in texts if text] == [True] * len(records)


def _peak(pid: int) -> int:
    """Return the most KiB that a process has ever had in memory."""
    (line,) = (each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("VmHWM:"))
    return int(line.split()[1])


def test_no_64_batches_swell_a_worker(tmp_path: Path) -> None:
    """64 clients who ask at once for all that one answer may hold make no process of the service grow by 100 MiB."""
    with up(tmp_path / "h") as running:
        before = {pid: _peak(pid) for pid in descendants(running.process.pid)}
        names = [f"db/{number}" for number in range(11)]
        with StorageClient.from_home(running.home) as client:
            client.create_container("db")
            for number in range(len(names)):
                client.set_secret("db", str(number), "v" * wire.MAX_SECRET)

            keys = [client.create_apikey(f"k{number}") for number in range(AT_ONCE // 2)]
        principals = [{wire.ID_HEADER: key.api_id, wire.KEY_HEADER: key.api_key.reveal()} for key in keys]

        def ask(number: int) -> tuple[int, int]:
            body, headers, size = {"names": names}, principals[number // 2], 0
            with httpx.stream(
                "POST", running.url + "/api/v0/secrets/?batch=get", json=body, headers=headers, timeout=60
            ) as answer:
                try:
                    for part in answer.iter_bytes():
                        size += len(part)
                except (httpx.RemoteProtocolError, httpx.ReadError):
                    return CUT, size  # on a busy machine this end is slow, and loses its turn to another
                return answer.status_code, size

        begun = monotonic()
        with ThreadPoolExecutor(AT_ONCE) as clients:
            answers = list(clients.map(ask, range(AT_ONCE)))
        grown = {pid: _peak(pid) - size for pid, size in before.items()}

    assert {status for status, _ in answers} <= {200, 503, CUT}, monotonic() - begun
    assert all(size > len(names) * wire.MAX_SECRET for status, size in answers if status == 200)
    assert {status for status, _ in answers} & {200, CUT}, "nobody was answered"
    assert max(grown.values()) < GROWTH, grown

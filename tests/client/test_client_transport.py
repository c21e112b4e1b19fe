"""How both faces keep connections: what is used again, what is sent once more, and what every wait is bounded by."""

import gc
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import msgspec
import pytest

from strongroom.storage_service import errors, wire
from strongroom.storage_service.client import StorageClient, place, pool, sockets
from strongroom.storage_service.client.loops import LoopPools
from strongroom.storage_service.client.place import Place
from strongroom.storage_service.client.sockets import SocketPool
from strongroom.storage_service.errors import Fate, Unavailable
from strongroom.storage_service.wire.http1 import AnswerReader
from tests.client.scripted_service import (
    CloseAfterReading,
    CloseUnread,
    Deaf,
    Drip,
    Echo,
    Raw,
    Refuse,
    Reply,
    ScriptedService,
    Silence,
    wait_for_end,
)

Connect = Callable[..., Any]

CANARY = "cAnArY-51e7"
Parts = pool.Connection | sockets.Connection | AnswerReader | pool.UpstreamError | SocketPool | LoopPools
OK = Reply(b"", 201, {"ETag": '"7"'})


def secret(value: str = "hunter2", **said: Any) -> Reply:
    """The answer that holds a secret."""
    return Reply(msgspec.json.encode({"type": "simple", "value": value}), headers={"ETag": '"1"'}, **said)


def framed(body: bytes, *lines: bytes, status: bytes = b"200 OK") -> bytes:
    """An answer with these lines in its head."""
    return b"\r\n".join([b"HTTP/1.1 " + status, b"X-Request-ID: {id}", *lines, b"", b""]) + body


BODY = b'{"type":"simple","value":"hunter2"}'
CHUNKED = b"5\r\n" + BODY[:5] + b"\r\n" + b"%x\r\n" % len(BODY[5:]) + BODY[5:] + b"\r\n0\r\n\r\n"
LENGTH = b"Content-Length: %d" % len(BODY)


@pytest.fixture(params=["unix", "tcp"])
def anywhere(request: pytest.FixtureRequest, short_path: Path) -> Iterator[ScriptedService]:
    """A service that does as told, on a unix socket and on TCP."""
    with ScriptedService(short_path / "a" if request.param == "unix" else None) as service:
        yield service


# What is used again


def test_one_connection_serves_one_after_another(anywhere: ScriptedService, connect: Connect) -> None:
    """Reads and writes, small and large, follow one another on the connection that the first one opened."""
    anywhere.script(secret(), secret("x" * 300_000), OK, secret())
    client = connect(**anywhere.where)

    assert client.get_secret("db", "p").reveal() == "hunter2"
    assert client.get_secret("db", "p").reveal() == "x" * 300_000
    assert client.set_secret("db", "p", "y" * 500_000) == '"7"'
    assert client.get_secret("db", "p").reveal() == "hunter2"
    assert anywhere.connections == 1


@pytest.mark.parametrize("told", [True, False])
def test_a_connection_that_was_closed_meanwhile_is_replaced(
    service: ScriptedService, connect: Connect, told: bool
) -> None:
    """Whether the answer said so or not, the next request, be it a plain write, goes over a new connection."""
    closing = Reply(b"", 201, {"ETag": '"7"', "Connection": "close"}) if told else OK
    service.script(Reply(closing.body, closing.status, closing.headers, leave=True), OK)
    client = connect(**service.where, retries=0)

    client.set_secret("db", "p", "1")
    client.set_secret("db", "p", "2")
    assert service.connections == 2


def test_what_may_have_been_read_goes_once_more_only_if_it_reads(anywhere: ScriptedService, connect: Connect) -> None:
    """On a kept connection that ends without a word, a read is repeated and a write is told as of unknown fate."""
    anywhere.script(OK, CloseAfterReading(), secret(), CloseAfterReading())
    client = connect(**anywhere.where, retries=0)

    client.set_secret("db", "p", "1")
    assert client.get_secret("db", "p").reveal() == "hunter2"
    with pytest.raises(Unavailable) as caught:
        client.set_secret("db", "p", "2")
    assert caught.value.fate is Fate.UNKNOWN


def test_a_reset_over_tcp_says_nothing_of_a_write(connect: Connect) -> None:
    """A kernel resets a TCP connection also for a service that has read all; so the fate is unknown there."""
    with ScriptedService() as service:
        service.script(CloseUnread())
        with pytest.raises(Unavailable) as caught:
            connect(**service.where, retries=0).set_secret("db", "p", "1")
    assert caught.value.fate is Fate.UNKNOWN


def test_an_idle_connection_is_not_used_for_ever(
    service: ScriptedService, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that nobody has used for longer than it is kept is closed, and the next request opens another."""
    monkeypatch.setattr(sockets, "KEPT_OPEN", 0.0)
    monkeypatch.setattr(pool, "KEPT_OPEN", 0.0)
    service.script(secret(), secret(), secret())
    client = connect(**service.where, connections=1)

    for _ in range(3):
        client.get_secret("db", "p")
    assert service.connections == 3
    assert place.KEPT_OPEN < 75


def test_a_closed_client_can_be_used_again(service: ScriptedService, connect: Connect) -> None:
    """Closing ends the connections, and takes no place for the ones that are opened later."""
    service.script(*[secret()] * 3)
    client = connect(**service.where, connections=1)
    for _ in range(3):
        client.get_secret("db", "p")
        client.close() if isinstance(client, StorageClient) else client._runner.run(client.client.close())
    assert service.connections == 3


# How answers come

FORMS = {
    "with its length": framed(BODY, LENGTH),
    "in chunks": framed(CHUNKED, b"Transfer-Encoding: chunked"),
    "after interim answers": b"HTTP/1.1 102 -\r\n\r\nHTTP/1.1 103 -\r\nLink: </x>\r\n\r\n" + framed(BODY, LENGTH),
}


@pytest.mark.parametrize("form", FORMS)
def test_an_answer_is_read_to_its_end_and_no_further(anywhere: ScriptedService, connect: Connect, form: str) -> None:
    """Whatever its framing, and the connection serves the next request."""
    anywhere.script(Raw(FORMS[form]), Raw(FORMS[form]))
    client = connect(**anywhere.where, retries=0)

    assert [client.get_secret("db", "p").reveal() for _ in range(2)] == ["hunter2"] * 2
    assert anywhere.connections == 1


@pytest.mark.parametrize("form", FORMS)
def test_an_answer_may_come_in_any_pieces(connect: Connect, short_path: Path, form: str) -> None:
    """A byte at a time makes the same answer as all at once."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_path / "s"))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                asked = connection.recv(65536)
                request_id = asked.partition(b"x-request-id: ")[2][:24]
                for byte in FORMS[form].replace(b"{id}", request_id):
                    connection.sendall(bytes([byte]))
                wait_for_end(connection)

        serving = threading.Thread(target=serve)
        serving.start()
        client = connect(socket=short_path / "s", retries=0)
        assert client.get_secret("db", "p").reveal() == "hunter2"
        client.close() if isinstance(client, StorageClient) else client._runner.run(client.client.close())
        serving.join()


NO_ANSWERS = {
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "of HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "without end": framed(BODY),
    "of two lengths": framed(BODY, LENGTH, b"Content-Length: 3"),
    "in another coding": framed(BODY, b"Transfer-Encoding: gzip, chunked"),
    "with a head that is too long": framed(BODY, LENGTH, b"X-Long: " + b"x" * 40_000),
    "in broken chunks": framed(b"zz\r\n{}\r\n0\r\n\r\n", b"Transfer-Encoding: chunked"),
    "with another's id": framed(BODY, LENGTH).replace(b"{id}", b"another-0001"),
    "with no id": framed(BODY, LENGTH).replace(b"X-Request-ID: {id}\r\n", b""),
}


@pytest.mark.parametrize("form", NO_ANSWERS)
def test_what_is_no_answer_of_ours_is_unavailable(service: ScriptedService, connect: Connect, form: str) -> None:
    """It ends the connection, quotes nothing, and says of a write no more than is known."""
    service.script(Raw(NO_ANSWERS[form]), Raw(NO_ANSWERS[form]), secret())
    client = connect(**service.where, retries=0)

    with pytest.raises(Unavailable) as caught:
        client.get_secret("db", "p")
    assert caught.value.fate is Fate.NOT_APPLIED
    assert "hunter2" not in str(caught.value)
    with pytest.raises(Unavailable) as caught:
        client.set_secret("db", "p", "1")
    assert caught.value.fate is (Fate.APPLIED if form == "in broken chunks" else Fate.UNKNOWN)
    assert client.get_secret("db", "p").reveal() == "hunter2"
    assert service.connections == 3


def test_a_refusal_needs_no_id(service: ScriptedService, connect: Connect) -> None:
    """A service that refuses what it could not read knows no id of it."""
    service.script(Reply(wire.problem_body(errors.NotFound("x"), "-"), 404, {"X-Request-ID": ""}))
    with pytest.raises(errors.NotFound):
        connect(**service.where, retries=0).get_secret("db", "p")


def test_what_follows_an_answer_belongs_to_nobody(service: ScriptedService, connect: Connect) -> None:
    """Bytes behind an answer end the connection; the next request does not take them for its own."""
    service.script(Raw(framed(BODY, LENGTH) + framed(BODY, LENGTH)), secret("right"))
    client = connect(**service.where, retries=0)

    assert client.get_secret("db", "p").reveal() == "hunter2"
    assert client.get_secret("db", "p").reveal() == "right"
    assert service.connections == 2


def test_an_early_answer_is_heard(anywhere: ScriptedService, connect: Connect) -> None:
    """A service that refuses a long body unread is believed at once, and that connection is not used again."""
    anywhere.script(Refuse(413), OK)
    client = connect(**anywhere.where, retries=0, timeout=20)

    with pytest.raises(errors.ServiceError) as caught:
        client.set_secret("db", "p", "x" * 8_000_000)
    assert not isinstance(caught.value, Unavailable)
    client.set_secret("db", "p", "1")
    assert anywhere.connections == 2


# What every wait is bounded by


@pytest.mark.parametrize("act", [Silence(), Drip(), Deaf()])
def test_no_wait_outlasts_the_timeout(anywhere: ScriptedService, connect: Connect, act: Any) -> None:
    """Whatever the service does or does not, the caller is told in time."""
    anywhere.script(act)
    began = time.monotonic()
    with pytest.raises(Unavailable, match="did not answer in time"):
        connect(**anywhere.where, timeout=0.3).set_secret("db", "p", "1")
    assert 0.29 <= time.monotonic() - began < 5


def test_what_could_not_be_written_in_time_was_not_applied(anywhere: ScriptedService, connect: Connect) -> None:
    """Of a request that the service never took to its end, nothing can have come."""
    anywhere.script(Deaf())
    with pytest.raises(Unavailable) as caught:
        connect(**anywhere.where, timeout=0.5, retries=0).set_secret("db", "p", "x" * 30_000_000)
    assert caught.value.fate is Fate.NOT_APPLIED


def test_a_full_queue_is_waited_for(connect: Connect, short_path: Path) -> None:
    """A service that is too busy to take a connection listens all the same: its client waits, until it is too late."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_path / "s"))
        listener.listen(0)
        others = []
        with suppress(BlockingIOError):
            while True:
                others.append(socket.socket(socket.AF_UNIX))
                others[-1].setblocking(False)
                others[-1].connect(str(short_path / "s"))

        late = connect(socket=short_path / "s", timeout=0.2, retries=0)
        began = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            late.set_secret("db", "p", "1")
        assert caught.value.fate is Fate.NOT_APPLIED
        assert time.monotonic() - began >= 0.15

        def serve() -> None:
            for _ in others[1:]:
                listener.accept()[0].close()
            connection, _ = listener.accept()
            with connection:
                request_id = connection.recv(65536).partition(b"x-request-id: ")[2][:24].decode()
                connection.sendall(secret().bytes(request_id))

        serving = threading.Timer(0.1, serve)
        serving.start()
        assert connect(socket=short_path / "s", timeout=20, retries=0).get_secret("db", "p").reveal() == "hunter2"
        serving.join()
        for other in others:
            other.close()


def test_a_name_with_several_addresses_is_tried_by_each(connect: Connect) -> None:
    """``localhost`` may mean ::1 first; who listens on 127.0.0.1 alone is found."""
    with ScriptedService() as service:
        service.script(secret())
        assert connect(**service.where).get_secret("db", "p").reveal() == "hunter2"


def test_no_proxy_of_the_environment_is_used(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be sent the API key."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with ScriptedService() as service:
        service.script(secret())
        assert connect(**service.where, retries=0).get_secret("db", "p").reveal() == "hunter2"


# Threads


def test_threads_share_the_connections_and_none_hears_another(anywhere: ScriptedService) -> None:
    """Sixteen threads on three connections: no more are opened, and each answer is the asker's own."""
    asked = 40
    anywhere.script(*[Echo()] * (16 * asked))
    with StorageClient(**anywhere.where, api_id="t", api_key="k", connections=3) as client:
        barrier = threading.Barrier(16)

        def ask(number: int) -> int:
            barrier.wait()
            said = [client.get_secret("db", f"p{number}").reveal() for _ in range(asked)]
            return sum(path.endswith(f"/secrets/db/p{number}") for path in said)

        with ThreadPoolExecutor(16) as threads:
            assert list(threads.map(ask, range(16))) == [asked] * 16
        opened = anywhere.connections
        assert repr(client._transport) == f"<SocketPool {opened} of 3 open, {opened} idle, 0 waiting>"
    assert opened <= 3


def test_who_finds_all_connections_busy_is_told_in_time(service: ScriptedService) -> None:
    """Waiting for a connection is waiting, too, and nothing was sent."""
    service.script(Silence())
    with StorageClient(socket=service.path, api_id="t", api_key="k", connections=1, retries=0, timeout=1.0) as client:

        def wait_in_vain() -> None:
            with suppress(Unavailable):
                client.set_secret("db", "p", "1")

        busy = threading.Thread(target=wait_in_vain)
        busy.start()
        while not service.heard:
            time.sleep(0.001)
        soon = StorageClient(socket=service.path, api_id="t", api_key="k", retries=0, timeout=0.1)
        soon._transport = client._transport
        with pytest.raises(Unavailable, match="every connection to the service is busy") as caught:
            soon.set_secret("db", "p", "2")
        busy.join()
    assert caught.value.fate is Fate.NOT_APPLIED
    assert len(service.heard) == 1


def test_an_interrupted_call_leaves_the_pool_usable(service: ScriptedService) -> None:
    """A signal's exception in the middle of a wait closes that connection, and gives its place back."""

    class Interrupted(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    service.script(Silence(), secret())
    with StorageClient(socket=service.path, api_id="t", api_key="k", connections=1) as client:
        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            with pytest.raises(Interrupted):
                client.get_secret("db", "p")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert repr(client._transport) == "<SocketPool 0 of 1 open, 0 idle, 0 waiting>"
        assert client.get_secret("db", "p").reveal() == "hunter2"


def test_a_place_that_nobody_listens_at_takes_no_place(short_path: Path) -> None:
    """Connecting in vain, however often, leaves the pool as it was."""
    empty = SocketPool(Place(str(short_path / "nobody")), 1, 1.0)
    for _ in range(3):
        with pytest.raises(pool.UpstreamError, match="nobody does not listen"):
            empty.exchange(b"GET / HTTP/1.1\r\n\r\n", 1.0, repeatable=True, request_id=b"1")
    assert repr(empty) == "<SocketPool 0 of 1 open, 0 idle, 0 waiting>"


# What is left behind


def reachable(root: object) -> Iterator[object]:
    """Yield everything that *root* leads to, but for code and modules."""
    seen = {id(root)}
    ahead = [root]
    while ahead:
        each = ahead.pop()
        yield each
        for other in gc.get_referents(each):
            if id(other) not in seen and not isinstance(other, type | ModuleType | FunctionType | threading.Thread):
                seen.add(id(other))
                ahead.append(other)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What nothing refers to goes at once or not at all."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_nothing_of_an_exchange_stays(service: ScriptedService, connect: Connect, no_collector: None) -> None:
    """Neither what was sent nor what came, whole or broken off, waits in a connection or for the collector."""
    half = framed(CANARY.encode() * 3, b"Content-Length: %d" % 100_000)
    long = framed(CANARY.encode() * 9_000, b"Content-Length: %d" % 100_000)
    service.script(
        secret(CANARY),
        secret(CANARY * 30_000),
        OK,
        Raw(half[: half.index(b"Content")] + b"X-Secret: " + CANARY.encode()),
        Raw(half),
        Raw(long),
        CloseAfterReading(),
        Reply(BODY, headers={"X-Secret": CANARY}),
    )
    client = connect(**service.where, api_key="another", retries=0, timeout=0.5)
    client.get_secret("db", "p")
    client.get_secret("db", "p")
    client.set_secret("db", "p", CANARY)
    for _ in range(3):
        with suppress(Unavailable):
            client.get_secret("db", "p")
    with suppress(Unavailable):
        client.set_secret("db", "p", CANARY)
    client.get_secret("db", "p")
    assert len(service.heard) == 8

    alive = [each for each in gc.get_objects() if isinstance(each, Parts)]
    assert [type(each).__name__ for each in alive].count("Connection") == 1
    assert not [each for each in alive if isinstance(each, pool.UpstreamError)]
    found = [part for each in alive for part in reachable(each) if isinstance(part, bytes | bytearray | str)]
    assert found
    assert not [part for part in found if CANARY in (part if isinstance(part, str) else part.decode("latin-1"))]

"""What whoever asks the service does with an answer that is no whole one: the proxy, and both clients."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

import pytest

from strongroom.storage_service.client import AsyncStorageClient, StorageClient
from strongroom.storage_service.errors import Unavailable
from tests.proxy.conftest import Proxy
from tests.raw_http import Exchange, ScriptedService, ask, request

BODY: Final = b'{"type":"simple","value":"x"}'
HEAD: Final = b'HTTP/1.1 200 OK\r\nID\r\nETag: "7"\r\n'  # and the line of the request's id
EVIL: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"


@dataclass(frozen=True)
class Asker:
    """One who asks the service: reading and writing a secret return the status of the answer."""

    get: Callable[[], Awaitable[int]]
    put: Callable[[], Awaitable[int]]

    def __call__(self, method: str) -> Awaitable[int]:
        """Ask by that method."""
        return self.get() if method == "GET" else self.put()


@pytest.fixture(params=["proxy", "client", "blocking client"])
async def asker(request: pytest.FixtureRequest, proxy: Proxy, service: ScriptedService) -> AsyncIterator[Asker]:
    """Each who asks; the clients ask once, so that what is asked again is asked by the connection alone."""
    said: dict[str, Any] = {"socket": service.path, "api_id": "ci", "api_key": "k3y", "retries": 0}
    async with AsyncExitStack() as stack:
        if request.param == "proxy":
            yield _through(proxy)
        elif request.param == "client":
            client = await stack.enter_async_context(AsyncStorageClient(**said))
            yield Asker(
                lambda: _status(client.get_secret("hosts", "a")),
                lambda: _status(client.set_secret("hosts", "a", "x", etag="*")),
            )
        else:
            blocking = stack.enter_context(StorageClient(**said))
            yield Asker(
                lambda: _status(asyncio.to_thread(blocking.get_secret, "hosts", "a")),
                lambda: _status(asyncio.to_thread(blocking.set_secret, "hosts", "a", "x", etag="*")),
            )


def _through(proxy: Proxy) -> Asker:
    async def asked(method: str, *lines: str, body: bytes = b"") -> int:
        try:
            answer = await ask(proxy.port, request(method, "/api/v0/secrets/hosts/a", *lines, body=body))
        except asyncio.IncompleteReadError:
            return 503  # it had begun to pass it on: the client, too, sees that it is not whole
        assert b"evil" not in answer.body
        return answer.status

    return Asker(lambda: asked("GET"), lambda: asked("PUT", "content-type: application/json", body=BODY))


async def _status(asking: Awaitable[object]) -> int:
    try:
        told = await asking
    except Unavailable:
        return 503
    assert "evil" not in repr(told)
    return 200


def _good(exchange: Exchange) -> None:
    exchange.answer(200, BODY, "content-type: application/json", 'etag: "7"')


async def _at_the_second(exchange: Exchange, service: ScriptedService, raw: bytes, *, end: bool) -> None:
    """Answer well, but for the second request, which *raw* answers: and that is the end of the connection, or not."""
    await exchange.body()
    if len(service.heard) == 2:
        raw = raw.replace(b"ID\r\n", exchange.id_line)
        if end:
            exchange.say(raw)
        else:
            exchange.writer.write(raw)
    else:
        _good(exchange)


HALVES: Final = {
    "half a head": HEAD + b"Content-Le",
    "a head alone": HEAD + b"Content-Length: 29\r\n\r\n",
    "half a body": HEAD + b'Content-Length: 29\r\n\r\n{"type":"sim',
    "half a chunk": HEAD + b'Transfer-Encoding: chunked\r\n\r\n1d\r\n{"type":"sim',
    "no last chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1d\r\n%b\r\n" % BODY,
    "one byte": b"H",
}


@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize("story", HALVES)
async def test_what_was_answered_by_half_is_not_asked_again(
    asker: Asker, service: ScriptedService, story: str, method: str
) -> None:
    """On a connection that was used before, too: whoever heard a part of an answer neither asks again nor takes it."""
    service.script = lambda exchange: _at_the_second(exchange, service, HALVES[story], end=True)

    assert [await asker(method) for _ in range(3)] == [200, 503, 200]
    assert len(service.heard) == 3
    assert service.connections == 2


TWICE: Final = {
    "the same length twice": HEAD + b"Content-Length: 29\r\nContent-Length: 29\r\n\r\n",
    "the same in one field": HEAD + b"Content-Length: 29, 29\r\n\r\n",
    "two lengths, the first right": HEAD + b"Content-Length: 29\r\nContent-Length: 40\r\n\r\n",
    "two lengths, the last right": HEAD + b"Content-Length: 40\r\nContent-Length: 29\r\n\r\n",
    "a length and chunks": HEAD + b"Content-Length: 29\r\nTransfer-Encoding: chunked\r\n\r\n",
    "chunks and a length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 29\r\n\r\n",
}


@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize("story", TWICE)
async def test_an_answer_that_can_be_read_in_two_ways(
    asker: Asker, service: ScriptedService, story: str, method: str
) -> None:
    """Two lengths, equal or not, are no answer; the question is not asked again, and the connection not used again."""
    service.script = lambda exchange: _at_the_second(exchange, service, TWICE[story] + BODY, end=False)

    assert [await asker(method) for _ in range(3)] == [200, 503, 200]
    assert len(service.heard) == 3
    assert service.connections == 2


SURPLUS: Final = {
    "after a length": ("GET", HEAD + b"Content-Length: 29\r\n\r\n%b" % BODY),
    "after the last chunk": ("GET", HEAD + b"Transfer-Encoding: chunked\r\n\r\n1d\r\n%b\r\n0\r\n\r\n" % BODY),
    "after a trailer": ("GET", HEAD + b"Transfer-Encoding: chunked\r\n\r\n1d\r\n%b\r\n0\r\nX: y\r\n\r\n" % BODY),
    "after no body": ("PUT", HEAD + b"Content-Length: 0\r\n\r\n"),
}


@pytest.mark.parametrize("story", SURPLUS)
async def test_what_follows_an_answer_is_nobody_s(asker: Asker, service: ScriptedService, story: str) -> None:
    """A connection on which more came than the answer is not used again, and nobody is given what came."""
    method, raw = SURPLUS[story]
    service.script = lambda exchange: _at_the_second(exchange, service, raw + EVIL, end=False)

    assert [await asker(method) for _ in range(3)] == [200, 200, 200]
    assert len(service.heard) == 3
    assert service.connections == 2

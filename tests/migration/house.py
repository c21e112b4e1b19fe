"""The real service in this process, over a store that a test hands in: made in milliseconds, dying where a test says.

Its client speaks to the application itself, so that what a `FaultyBackend` does to the store happens in the test's own
process: `Killed` comes through to the test, unless the house is told to die apart, and a store that hangs lets the
client's time run out. Nothing listens anywhere.

All houses of one process have one root key file, so that a store can be opened again, in another house.
"""

import asyncio
import functools
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Final

from strongroom.deploy.serving import asgi
from strongroom.models.secret import Secret
from strongroom.storage_service.backends.base import Backend
from strongroom.storage_service.backends.faulty import Killed
from strongroom.storage_service.bootstrap import SharedRoot
from strongroom.storage_service.client import AsyncStorageClient
from strongroom.storage_service.client.place import UpstreamError
from strongroom.storage_service.client.retries import Answer
from strongroom.storage_service.config import ServiceSettings
from strongroom.storage_service.errors import TooLarge
from strongroom.storage_service.http.app import StorageApp
from strongroom.storage_service.wire import http1

API_ID: Final = "tests"
API_KEY: Final = Secret("the-key-of-the-house")

_LOGS: Final = count()


@asynccontextmanager
async def house(store: Backend, *, apart: bool = False, timeout: float = 10.0) -> AsyncIterator[AsyncStorageClient]:
    """Serve *store*, unopened, by the real service, and give a client of it with all rights.

    What the service asks of the store when it starts is done before this yields: a test that numbers operations counts
    from ``len(faulty.operations)``, and adds to ``faulty.faults`` then.

    Args:
        store: it is closed with the house, and can be opened by another.
        apart: the service is a process of its own: its death is a connection that breaks, and is heard no further.
        timeout: the client's seconds for one call; it does not pause before it repeats one.

    Raises:
        Killed: the service died when it started; in the block, whenever it dies and not *apart*.
    """
    base = _directory()
    shared = SharedRoot()
    settings = ServiceSettings(
        socket=base / "socket",
        audit_log=base / f"audit-{next(_LOGS)}.log",
        root_key=base / "secrets.key",
        store="memory:",
        api_id=API_ID,
        api_key=API_KEY,
    )
    app = StorageApp(settings, shared, lambda _: store)
    try:
        async with _living(app):
            client = AsyncStorageClient(
                socket=settings.socket,
                api_id=API_ID,
                api_key=API_KEY,
                timeout=timeout,
                retries=3,
                sleep=lambda _: asyncio.sleep(0),
            )
            client._transport = InProcess(app, apart=apart)  # type: ignore[assignment]  # a pool in all that is called
            async with client:
                yield client
    finally:
        shared.close()
        settings.audit_log.unlink(missing_ok=True)


class InProcess:
    """What takes a client's requests to the service in this process; the limits of their time hold."""

    def __init__(self, app: StorageApp, *, apart: bool) -> None:
        self._app = app
        self._apart = apart

    async def exchange(self, request: bytes, seconds: float, *, repeatable: bool, request_id: bytes) -> Answer:
        """Return the service's answer.

        Raises:
            UpstreamError: it did not come in time, or the service died, and does so apart.
        """
        end = http1.find_head(request)
        reader = http1.RequestReader()
        asked = OneExchange(reader.head(request[:end]), request[end:])
        try:
            async with asyncio.timeout(seconds):
                await self._app(asked)
        except TimeoutError:
            raise UpstreamError("the service did not answer in time") from None
        except Killed:
            if not self._apart:
                raise
            raise UpstreamError("the service died") from None
        assert not asked.open
        return Answer.of(asked.status, asked.fields, b"".join(asked.body_said))

    async def close(self) -> None:
        """Close nothing: there are no connections."""


class OneExchange:
    """One request and its answer, as `http1.Exchange` says, with no connection round them."""

    peer = None
    client = ""
    scheme = "http"
    certificate = None
    address = ""
    whole = True

    def __init__(self, request: http1.Request, body: bytes) -> None:
        self.request = request
        self.open = True
        self.streaming = False
        self.status = 0
        self.fields: list[http1.Field] = []
        self.body_said: list[bytes] = []
        self._body = body

    @property
    def held(self) -> int:
        return len(self._body)

    async def body(self, limit: int) -> bytes:
        if len(self._body) > limit:
            raise TooLarge("the body is over its limit")
        return self.taken()

    async def read(self) -> bytes:
        return self.taken()

    def taken(self) -> bytes:
        body, self._body = self._body, b""
        return body

    def answer(self, status: int, fields: Iterable[http1.Field], body: bytes = b"") -> None:
        self.start(status, fields)
        self.body_said.append(body)
        self.finish()

    def start(self, status: int, fields: Iterable[http1.Field], length: int = http1.CHUNKED) -> None:
        assert self.open
        self.streaming = True
        self.status, self.fields = status, list(fields)

    async def write(self, piece: bytes) -> None:
        self.body_said.append(piece)

    def finish(self) -> None:
        self.open = False

    def abandon(self) -> None:
        raise UpstreamError("the service closed the connection", answered=self.streaming, status=self.status)

    async def asgi(self, app: Any, **state: object) -> None:
        await asgi.run(app, self, state)  # type: ignore[arg-type]  # it is one


@asynccontextmanager
async def _living(app: StorageApp) -> AsyncIterator[None]:
    """Take the service through its life, as a worker does."""
    await app.open()
    await asyncio.sleep(0)  # what it does beside its opening has begun, and asked the store what it asks
    try:
        yield
    finally:
        with suppress(Killed):  # the dead shut nothing down
            await app.close()


@functools.cache
def _made() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="sr-houses-")


def _directory() -> Path:
    """Return the directory of all houses of this process; it goes when the process ends."""
    return Path(_made().name)

"""The real service in this process, over a store that a test hands in: made in milliseconds, dying where a test says.

Its client speaks to the application itself, so that what a `FaultyBackend` does to the store happens in the test's own
process: `Killed` comes through to the test, unless the house is told to die apart, and a store that hangs lets the
client's time run out. Nothing listens anywhere.

All houses of one process have one root key file, so that a store can be opened again, in another house.
"""

import asyncio
import functools
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Final, NoReturn

import httpx

from models.secret import Secret
from storage_service.app import StorageApp
from storage_service.backends.base import Backend
from storage_service.backends.faulty import Killed
from storage_service.bootstrap import Page
from storage_service.client import AsyncStorageClient
from storage_service.config import ServiceSettings

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
    page = Page()
    settings = ServiceSettings(
        socket=base / "socket",
        audit_log=base / f"audit-{next(_LOGS)}.log",
        root_key=base / "secrets.key",
        store="memory:",
        api_id=API_ID,
        api_key=API_KEY,
    )
    app = StorageApp(settings, page, lambda _: store)
    try:
        async with _living(app):
            client = AsyncStorageClient(
                socket=settings.socket,
                api_id=API_ID,
                api_key=API_KEY,
                timeout=timeout,
                sleep=lambda _: asyncio.sleep(0),
            )
            client._transport = InProcess(app, apart=apart)  # type: ignore[assignment]  # no HTTP needs httpx's own
            async with client:
                yield client
    finally:
        page.close()
        settings.audit_log.unlink(missing_ok=True)


class InProcess(httpx.AsyncBaseTransport):
    """What takes a client's requests to an application in this process; the limits of their time hold."""

    def __init__(self, app: Callable[..., Any], *, apart: bool) -> None:
        self._app = httpx.ASGITransport(app)
        self._apart = apart

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Return the application's answer.

        Raises:
            httpx.ReadTimeout: it did not come in the request's time.
            httpx.ReadError: the service died, and does so apart.
        """
        try:
            async with asyncio.timeout(request.extensions["timeout"]["read"]):
                return await self._app.handle_async_request(request)
        except TimeoutError:
            raise httpx.ReadTimeout("the service did not answer in time") from None
        except Killed:
            if not self._apart:
                raise
        raise httpx.ReadError("the service died")


@asynccontextmanager
async def _living(app: StorageApp) -> AsyncIterator[None]:
    """Take an application through its life, as a server does (ASGI's lifespan)."""
    said: asyncio.Queue[str] = asyncio.Queue()
    heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def tell(message: dict[str, Any]) -> None:
        if "failed" in message["type"]:
            _fail(message)
        heard.put_nowait(message)

    async def listen() -> dict[str, Any]:
        return {"type": await said.get()}

    life = asyncio.create_task(app({"type": "lifespan"}, listen, tell), name="house")
    try:
        said.put_nowait("lifespan.startup")
        await _either(life, heard.get())
        yield
    finally:
        said.put_nowait("lifespan.shutdown")
        with suppress(Killed):  # the dead shut nothing down
            await life


def _fail(message: dict[str, Any]) -> NoReturn:
    raise AssertionError(f"the house does not start: {message['message']}")


async def _either(life: "asyncio.Task[None]", hearing: Any) -> None:
    """Wait until something is heard; where life ends before, raise what it ended with."""
    heard = asyncio.create_task(hearing)
    await asyncio.wait({life, heard}, return_when=asyncio.FIRST_COMPLETED)
    if not heard.done():
        heard.cancel()
        life.result()


@functools.cache
def _made() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="sr-houses-")


def _directory() -> Path:
    """Return the directory of all houses of this process; it goes when the process ends."""
    return Path(_made().name)

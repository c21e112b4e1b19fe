"""A small face for a worker under test: what it does is said by the path."""

import asyncio
import gc
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from strongroom.deploy.serving.connection import Connection
from strongroom.deploy.serving.connection import Exchange as Ours
from strongroom.storage_service.errors import TooLarge
from strongroom.storage_service.wire.http1 import Exchange

MOST = 4 * 1024 * 1024  # bytes of a body that is read


class Face:
    """``/quick`` answers at once; all else by a coroutine, see the methods below."""

    def __init__(self) -> None:
        self._held = asyncio.Event()

    async def open(self) -> None:
        """Open nothing."""

    async def close(self) -> None:
        """Close nothing."""

    def __call__(self, exchange: Exchange) -> Coroutine[Any, Any, None] | None:
        """Answer, or return what will."""
        name = exchange.request.path.decode("latin-1").split("/")[1]
        if name in {"quick", "livez"}:
            exchange.answer(200, _fields(exchange), exchange.request.path)
            return None
        if name == "early":  # an answer before any of the body is read
            exchange.answer(403, _fields(exchange), b"early")
            return None
        if name == "breaks":
            raise ValueError("canary-of-an-exception")
        work: Coroutine[Any, Any, None] = getattr(self, f"_{name}", self._missing)(exchange)
        return work

    async def _missing(self, exchange: Exchange) -> None:
        exchange.answer(404, _fields(exchange), b"missing")

    async def _later(self, exchange: Exchange) -> None:
        """Answer after others had their turn."""
        for _ in range(3):
            await asyncio.sleep(0)
        exchange.answer(200, _fields(exchange), exchange.request.path)

    async def _echo(self, exchange: Exchange) -> None:
        """Tell the body, and the names of the fields."""
        try:
            body = await exchange.body(MOST)
        except TooLarge:
            exchange.answer(413, _fields(exchange), b"too large")
            return
        names = ",".join(name.decode("latin-1") for name, _ in exchange.request.fields)
        exchange.answer(200, (*_fields(exchange), (b"x-names", names.encode("latin-1"))), body)

    async def _pieces(self, exchange: Exchange) -> None:
        """Stream back what is sent, piece by piece."""
        exchange.start(200, _fields(exchange))
        while piece := await exchange.read():
            await exchange.write(piece)
        exchange.finish()

    async def _stream(self, exchange: Exchange) -> None:
        """Stream as many bytes as the path says."""
        left = int(exchange.request.path.decode().split("/")[2])
        exchange.start(200, _fields(exchange), left)
        while left:
            piece = b"s" * min(left, 65536)
            left -= len(piece)
            await exchange.write(piece)
        exchange.finish()

    async def _large(self, exchange: Exchange) -> None:
        """Answer at once with as many bytes as the path says."""
        exchange.answer(200, _fields(exchange), b"l" * int(exchange.request.path.decode().split("/")[2]))

    async def _fails(self, exchange: Exchange) -> None:
        raise ValueError("canary-of-an-exception")

    async def _breaks_off(self, exchange: Exchange) -> None:
        exchange.start(200, _fields(exchange), 1000)
        await exchange.write(b"begun")
        raise ValueError("canary-of-an-exception")

    async def _hold(self, exchange: Exchange) -> None:
        """Answer when ``/release`` is asked for."""
        await self._held.wait()
        exchange.answer(200, _fields(exchange), b"held")

    async def _release(self, exchange: Exchange) -> None:
        self._held.set()
        self._held = asyncio.Event()
        exchange.answer(200, _fields(exchange), b"released")

    async def _counts(self, exchange: Exchange) -> None:
        """Tell how many objects of a connection there are, beside this one's, and how much memory is used."""
        gc.collect()
        kinds = [type(each) for each in gc.get_objects()]
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        counts = {
            "connections": kinds.count(Connection) - 1,
            "exchanges": kinds.count(Ours) - 1,
            "tasks": len(asyncio.all_tasks()),
            "memory": pages * 4096,
        }
        exchange.answer(200, (), json.dumps(counts).encode())


def _fields(exchange: Exchange) -> tuple[tuple[bytes, bytes], ...]:
    """Return the request's id, so that the answer can be told from others."""
    return tuple((name, value) for name, value in exchange.request.fields if name == b"x-request-id")

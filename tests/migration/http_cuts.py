"""An HTTP/1.1 proxy that breaks a connection before a request, at its reply, or in the middle of that.

As ``tests/tcp_fault.py``, for the other interface of etcd. One request at a time on a connection; clear text only.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator
from typing import Final

_MIDDLE: Final = 40_000  # bytes of a reply that pass before it breaks


class HttpCuts:
    """A proxy before *upstream* (host:port).

    *script* says of each request to come what becomes of it: "request": the server never sees it; "reply": it does,
    and the client does not see the answer; "middle": only its beginning; "": nothing happens. Then nothing does.
    """

    def __init__(self, upstream: str) -> None:
        self._host, _, port = upstream.rpartition(":")
        self._port = int(port)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.script: deque[str] = deque()

    @property
    def endpoint(self) -> str:
        """Where clients reach it."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator["HttpCuts", None]:
        """Listen on loopback while the block runs."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield self
        finally:
            self._server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(self._host, self._port)
        try:
            await self._pass(client, to_client, server, to_server)
        except (OSError, asyncio.IncompleteReadError):
            pass  # one side has ended
        finally:
            for writer in (to_client, to_server):
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def _pass(
        self,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> None:
        """Pass requests and replies on, until one is to be cut."""
        while True:
            request = await _message(client)
            cut = self.script.popleft() if self.script else ""
            if cut == "request":
                return
            to_server.write(request)
            reply = await _message(server)
            if cut == "reply":
                return
            to_client.write(reply[:_MIDDLE] if cut == "middle" else reply)
            await to_client.drain()
            if cut == "middle":
                return


async def _message(reader: asyncio.StreamReader) -> bytes:
    """Return one request or reply, whole."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    if fields.get(b"transfer-encoding") != b"chunked":
        return head + await reader.readexactly(int(fields.get(b"content-length", b"0")))
    parts = [head]
    while True:
        size = await reader.readuntil(b"\r\n")
        parts += [size, await reader.readexactly(int(size, 16) + 2)]
        if int(size, 16) == 0:
            return b"".join(parts)

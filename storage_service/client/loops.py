"""The pools of one awaiting client: one for each event loop that it is used on."""

import asyncio
from contextlib import suppress

from strongroom.storage_service.client.place import Place
from strongroom.storage_service.client.pool import Pool
from strongroom.storage_service.client.retries import Answer


class LoopPools:
    """At most *connections* conversations at a time on each event loop, whichever thread or process it runs in.

    A connection belongs to the loop that opened it: another one would wait for ever for what comes on it.
    """

    def __init__(self, place: Place, connections: int, connect_timeout: float) -> None:
        self._place = place
        self._connections = connections
        self._connect_timeout = connect_timeout
        self._pools: dict[asyncio.AbstractEventLoop, Pool] = {}

    async def exchange(self, request: bytes, seconds: float, *, repeatable: bool, request_id: bytes) -> Answer:
        """Send a whole *request* and return its whole answer, within *seconds*; see `Pool.exchange`.

        Raises:
            UpstreamError: there is no answer; *unread* says whether something may have come of the request.
        """
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop) or self._make(loop)
        connection = await pool.exchange(request, loop.time() + seconds, repeatable=repeatable, request_id=request_id)
        try:
            body = connection.body
            if connection.streamed:
                pieces = []
                while piece := await connection.read():
                    pieces.append(piece)
                body = b"".join(pieces)
            return Answer.of(connection.status, connection.fields, body)
        finally:
            pool.finish(connection)

    async def close(self) -> None:
        """Close what is idle, on every loop; what is busy ends with its exchange."""
        here = asyncio.get_running_loop()
        for loop, pool in list(self._pools.items()):
            if loop is here:
                pool.close()
            else:
                with suppress(RuntimeError):  # it is closed, and with it what it watched
                    loop.call_soon_threadsafe(pool.close)
        await asyncio.sleep(0)  # the loop closes sockets in its next turn

    def _make(self, loop: asyncio.AbstractEventLoop) -> Pool:
        for other in list(self._pools):
            if other.is_closed():
                self._pools.pop(other, None)
        pool = self._pools[loop] = Pool(self._place, self._connections, self._connect_timeout)
        return pool

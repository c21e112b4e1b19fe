"""``/metrics``: what this process measures of itself, and behind it what the storage service says of its own."""

import asyncio
from typing import Final

from strongroom.http_proxy.authn.base import Identity
from strongroom.http_proxy.errors import Request, Response
from strongroom.http_proxy.resources.base import identity_of
from strongroom.storage_service import wire
from strongroom.storage_service.client.pool import Pool, UpstreamError
from strongroom.storage_service.errors import Denied, Unavailable
from strongroom.storage_service.meter import Meter
from strongroom.storage_service.metrics import CONTENT_TYPE, written

TIMEOUT: Final = 8.0  # seconds for the service to answer; Prometheus waits for ten


class Metrics:
    """One page for both processes: the names of the one never stand for the other."""

    def __init__(self, pool: Pool, proof: bytes, meter: Meter, expiry: float | None) -> None:
        """Take the way to the service, what shows it that the proxy asks, the counts, and when the certificate ends."""
        self._pool = pool
        self._proof = proof
        self._meter = meter
        self._expiry = expiry

    async def on_get(self, req: Request, resp: Response) -> None:
        """Tell it to who showed the token; of others the service decides, as for its own status.

        Raises:
            Denied: they may not read that.
            ServiceError: as the service says.
        """
        identity = identity_of(req) if req.scope["state"]["identity"] is not None else None
        behind = await self._ask(req, identity)
        measured: dict[str, dict[tuple[str, ...], float]] = {"service_up": {(): behind is not None}}
        if self._expiry is not None:
            measured["certificate_expiry_timestamp_seconds"] = {(): self._expiry}
        resp.content_type = CONTENT_TYPE
        resp.set_header("Cache-Control", "no-store")
        resp.data = written(self._meter, measured) + (behind or b"")

    async def _ask(self, req: Request, identity: Identity | None) -> bytes | None:
        """Return the service's own page; None where it does not answer, and nobody has to be judged by it."""
        credentials = b""
        if identity is not None:
            if identity.api_id is None or identity.api_key is None:
                raise Denied("metrics are for API keys that may read the status, and for who shows the token")
            credentials = f"custodia-auth-id: {identity.api_id}\r\ncustodia-auth-key: {identity.api_key}\r\n".encode()
        state = req.scope["state"]
        head = f"forwarded: {state['forwarded']}\r\n{wire.REQUEST_ID_HEADER}: {state['request_id']}\r\n".encode()
        request = b"GET /metrics HTTP/1.1\r\nhost: strongroom\r\n" + head + self._proof + credentials + b"\r\n"
        try:
            status, body = await self._pool.fetch(request, asyncio.get_running_loop().time() + TIMEOUT)
        except UpstreamError:
            if identity is None:
                return None
            raise Unavailable("the service does not answer") from None
        if status == 200:
            return body
        if identity is None:
            return None
        raise wire.error_of(status, body)

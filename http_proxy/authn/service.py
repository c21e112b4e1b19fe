"""What the service says of credentials of its own: whose they are."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from strongroom.http_proxy.authn.base import Refused
from strongroom.http_proxy.request import ASKED, REQUEST_ID
from strongroom.models.strict_json import UNREADABLE
from strongroom.storage_service import wire
from strongroom.storage_service.client.pool import Pool, UpstreamError
from strongroom.storage_service.errors import Denied, NotAuthenticated, TooManyAttempts, Unavailable

TIMEOUT: Final = 5.0  # seconds for the service to answer


@dataclass(frozen=True, slots=True)
class Service:
    """The service, asked by the proxy, which shows that it is the proxy by the line *proof*."""

    pool: Pool
    proof: bytes

    def __repr__(self) -> str:
        return "<Service>"

    async def whose(self, headers: Mapping[bytes, bytes], shown: bytes, patience: float = TIMEOUT) -> str:
        """Return the principal whose credentials *shown* are, whole lines of a head. Nothing is remembered.

        *patience*: seconds for the service to answer.

        Raises:
            Refused: they are wrong.
            Unavailable: the service does not answer.
        """
        principal = await self.holder(headers, shown, patience)
        if principal is None:
            raise Refused(told=True)
        return principal

    async def holder(self, headers: Mapping[bytes, bytes], shown: bytes, patience: float = TIMEOUT) -> str | None:
        """Return whose what is *shown* is; None where the service knows nobody by it; raises as `whose`."""
        try:
            status, body = await self.pool.fetch(
                # Forwarded: the proxy asks for somebody else, so that its being a local process must not count.
                b"GET /whoami HTTP/1.1\r\nhost: strongroom\r\nforwarded: %b\r\n%b%b%b\r\n"
                % (headers.get(b"forwarded", b"for=unknown"), self.proof, _told(headers), shown),
                asyncio.get_running_loop().time() + patience,
            )
        except UpstreamError as exc:
            raise Unavailable("the service does not answer") from exc
        if status != 200:
            error = wire.error_of(status, body)
            if isinstance(error, NotAuthenticated):
                return None
            if isinstance(error, Denied):
                raise Refused(told=True)
            error.told = isinstance(error, TooManyAttempts)
            raise error
        try:
            return msgspec.json.decode(body, type=wire.WhoAmI).principal
        except UNREADABLE:
            raise Unavailable("the service's answer is unreadable") from None


def _told(headers: Mapping[bytes, bytes]) -> bytes:
    """Return the lines that let the service's log name the request that the credentials came with."""
    return b"".join(b"%b: %b\r\n" % (name, headers[name]) for name in (REQUEST_ID, ASKED) if name in headers)

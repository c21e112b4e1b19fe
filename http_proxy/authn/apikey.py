"""API keys: the service's own, told in the same header fields as on its socket, and judged by the service."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Final, Self

import msgspec

from strongroom.http_proxy.authn.base import Identity, Refused
from strongroom.http_proxy.request import ASKED, REQUEST_ID
from strongroom.models.strict_json import UNREADABLE
from strongroom.storage_service import wire
from strongroom.storage_service.client.pool import Pool, UpstreamError
from strongroom.storage_service.errors import ConfigurationError, Denied, Invalid, NotAuthenticated, Unavailable

TIMEOUT: Final = 5.0  # seconds for the service to say whose key it is
_VALUE = re.compile(rb"[\x21-\x7e]{1,256}")


class ApiKeyAuthenticator:
    """Knows callers by API id and key.

    The identity carries both, so that the model routes ask the service with them, and it decides what they reach.
    Nothing is remembered: a revoked key ends at once.
    """

    challenge: str | None = wire.CHALLENGE

    def __init__(self, pool: Pool, proof: bytes = b"") -> None:
        """Take the way to the service, and the line that shows it that the proxy asks."""
        self._pool = pool
        self._proof = proof

    @classmethod
    def from_options(cls, options: Mapping[str, str], pool: Pool, proof: bytes) -> Self:
        """Return the authenticator that a configuration describes; there is nothing to describe.

        Raises:
            ConfigurationError: there are options all the same.
        """
        if options:
            raise ConfigurationError("the authenticator apikey takes no options")
        return cls(pool, proof)

    async def authenticate(self, headers: Mapping[bytes, bytes]) -> Identity | None:
        """Return whom the service takes the caller for.

        Raises:
            Refused: the key is wrong, or a half of the pair is missing.
            Invalid: id or key stands in two spellings.
            Unavailable: the service does not answer.
        """
        api_id, api_key = _one(headers, wire.AUTH_ID_HEADERS), _one(headers, wire.AUTH_KEY_HEADERS)
        if api_id is None and api_key is None:
            return None
        if api_id is None or api_key is None or not (_VALUE.fullmatch(api_id) and _VALUE.fullmatch(api_key)):
            raise Refused
        try:
            status, body = await self._pool.fetch(
                # Forwarded: the proxy asks for somebody else, so that its being a local process must not count.
                b"GET /whoami HTTP/1.1\r\nhost: strongroom\r\nforwarded: %b\r\n%b%b"
                b"custodia-auth-id: %b\r\ncustodia-auth-key: %b\r\n\r\n"
                % (headers.get(b"forwarded", b"for=unknown"), self._proof, _told(headers), api_id, api_key),
                asyncio.get_running_loop().time() + TIMEOUT,
            )
        except UpstreamError as exc:
            raise Unavailable("the service does not answer") from exc
        if status != 200:
            error = wire.error_of(status, body)
            if isinstance(error, Denied | NotAuthenticated):
                raise Refused(told=True)
            raise error
        try:
            principal = msgspec.json.decode(body, type=wire.WhoAmI).principal
        except UNREADABLE:
            raise Unavailable("the service's answer is unreadable") from None
        return Identity(principal, api_id=api_id.decode("ascii"), api_key=api_key.decode("ascii"))


def _told(headers: Mapping[bytes, bytes]) -> bytes:
    """Return the lines that let the service's log name the request that the key came with."""
    return b"".join(b"%b: %b\r\n" % (name, headers[name]) for name in (REQUEST_ID, ASKED) if name in headers)


def _one(headers: Mapping[bytes, bytes], spellings: Sequence[bytes]) -> bytes | None:
    found = [headers[name] for name in spellings if name in headers]
    if len(found) > 1:
        raise Invalid("a credential appears in two spellings")
    return found[0] if found else None

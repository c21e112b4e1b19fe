"""Tokens that the service gave at a login, in ``Authorization: Bearer`` (RFC 6750), judged by the service."""

import re
from collections.abc import Mapping
from typing import Final, Self

from strongroom.http_proxy.authn.base import Identity, Refused
from strongroom.http_proxy.authn.service import Service
from strongroom.storage_service.client.pool import Pool
from strongroom.storage_service.errors import ConfigurationError

_BEARER: Final = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +[A-Za-z0-9._~+/=-]{1,4096}")


class TokenAuthenticator:
    """Knows callers by the token that they show; it goes along, and the service decides what they may do.

    Nothing is remembered: a token that was revoked ends at once.
    """

    challenge: str | None = 'Bearer realm="strongroom"'

    def __init__(self, pool: Pool, proof: bytes = b"") -> None:
        """Take the way to the service, and the line that shows it that the proxy asks."""
        self._service = Service(pool, proof)

    @classmethod
    def from_options(cls, options: Mapping[str, str], pool: Pool, proof: bytes) -> Self:
        """Return the authenticator that a configuration describes; there is nothing to describe.

        Raises:
            ConfigurationError: there are options all the same.
        """
        if options:
            raise ConfigurationError("the authenticator token takes no options")
        return cls(pool, proof)

    async def authenticate(self, headers: Mapping[bytes, bytes]) -> Identity | None:
        """Return whom the token speaks for.

        Raises:
            Refused: it is worth nothing.
            Unavailable: the service does not answer.
        """
        shown = headers.get(b"authorization", b"")
        if shown[:7].lower() != b"bearer ":
            return None
        if _BEARER.fullmatch(shown) is None:
            raise Refused
        principal = await self._service.whose(headers, b"authorization: %b\r\n" % shown)
        return Identity(principal, authorization=shown.decode("ascii"))

"""API keys: the service's own, told in the same header fields as on its socket, and judged by the service."""

import re
from collections.abc import Mapping, Sequence
from typing import Self

from strongroom.http_proxy.authn.base import Identity, Refused
from strongroom.http_proxy.authn.service import Service
from strongroom.storage_service import wire
from strongroom.storage_service.client.pool import Pool
from strongroom.storage_service.errors import ConfigurationError, Invalid

_VALUE = re.compile(rb"[\x21-\x7e]{1,256}")


class ApiKeyAuthenticator:
    """Knows callers by API id and key.

    The identity carries both, so that the model routes ask the service with them, and it decides what they reach.
    Nothing is remembered: a revoked key ends at once.
    """

    challenge: str | None = wire.CHALLENGE

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
        principal = await self._service.whose(
            headers, b"custodia-auth-id: %b\r\ncustodia-auth-key: %b\r\n" % (api_id, api_key)
        )
        return Identity(principal, api_id=api_id.decode("ascii"), api_key=api_key.decode("ascii"))


def _one(headers: Mapping[bytes, bytes], spellings: Sequence[bytes]) -> bytes | None:
    found = [headers[name] for name in spellings if name in headers]
    if len(found) > 1:
        raise Invalid("a credential appears in two spellings")
    return found[0] if found else None

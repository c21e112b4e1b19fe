"""The ways of knowing a caller, by the names that a configuration gives them."""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from strongroom.http_proxy.authn.apikey import ApiKeyAuthenticator
from strongroom.http_proxy.authn.base import Authenticator
from strongroom.http_proxy.authn.passed_on import PasswordAuthenticator, TokenAuthenticator
from strongroom.storage_service.client.pool import Pool
from strongroom.storage_service.errors import ConfigurationError


class _Configurable(Protocol):
    def from_options(self, options: Mapping[str, str], pool: Pool, proof: bytes) -> Authenticator:
        """Return the authenticator that *options* describe."""


AUTHENTICATORS: Final[Mapping[str, _Configurable]] = {
    "apikey": ApiKeyAuthenticator,
    "token": TokenAuthenticator,
    "basic": PasswordAuthenticator,
}


def make(wanted: Sequence[tuple[str, Mapping[str, str]]], pool: Pool, proof: bytes = b"") -> tuple[Authenticator, ...]:
    """Return the authenticators that (name, options) pairs describe, in their order. Does no I/O.

    *proof* is the line of a request's head that shows the service that the proxy asks.

    Raises:
        ConfigurationError: a name is unknown, or its options are not its own.
    """
    for name, _ in wanted:
        if name not in AUTHENTICATORS:
            raise ConfigurationError(f"no authenticator {name!r}; there are {', '.join(AUTHENTICATORS)}")
    return tuple(AUTHENTICATORS[name].from_options(options, pool, proof) for name, options in wanted)

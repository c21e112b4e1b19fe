"""How the proxy learns who calls: authenticators asked in order, each saying mine, not mine, or mine and wrong."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls, and what the service is asked with: it decides.

    *api_id* and *api_key* are set when the caller came with an API key, else *authorization*.
    """

    name: str  # "user:alice", "apikey:ci"
    api_id: str | None = None
    api_key: str | None = None
    authorization: str = ""  # a token or a password, which goes along in the key's place; "": nothing does
    certificate: str | None = None  # which tells who it is, where nothing else is shown

    def __repr__(self) -> str:
        return f"<Identity {self.name}>"


class Refused(Exception):
    """The credentials were for this authenticator, and they are wrong; the chain ends here."""

    def __init__(self, *, told: bool = False) -> None:
        """Take whether the service said so, and recorded it."""
        super().__init__()
        self.told = told


class Authenticator(Protocol):
    """One way of knowing a caller."""

    challenge: str | None  # its WWW-Authenticate scheme and parameters (RFC 9110 sec. 11.6.1), or None

    async def authenticate(self, headers: Mapping[bytes, bytes]) -> Identity | None:
        """Return who calls, or None where the headers (names in lower case) hold nothing for this authenticator.

        Among them are ``Forwarded``, ``X-Request-ID``, ``Strongroom-Asked`` and, where there is a certificate,
        ``Strongroom-Certificate`` as the proxy itself says them, never as the client did.

        Raises:
            Refused: they do, and it is wrong.
            ServiceError: it cannot be told now (the service does not answer); the request is a 503.
        """

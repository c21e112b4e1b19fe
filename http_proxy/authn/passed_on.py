"""What the service gave or knows, in ``Authorization``: it goes along as it came, and the service judges it."""

import re
from collections.abc import Mapping
from typing import ClassVar, Self

from strongroom.http_proxy.authn.base import Identity, Refused
from strongroom.http_proxy.authn.service import TIMEOUT, Service
from strongroom.storage_service.client.pool import Pool
from strongroom.storage_service.errors import ConfigurationError, NotAuthenticated


class PassedOn:
    """Knows callers by what they show in one scheme; it goes along, and the service decides what they may do.

    Nothing is remembered: what ended ends at once.
    """

    name: ClassVar[str]
    scheme: ClassVar[bytes]  # in lower case
    form: ClassVar[re.Pattern[bytes]]  # of the whole field
    patience: ClassVar[float] = TIMEOUT  # seconds for the service to look at it
    options: ClassVar[frozenset[str]] = frozenset()  # that the service reads, from the same settings
    challenge: str | None = None

    def __init__(self, pool: Pool, proof: bytes = b"") -> None:
        """Take the way to the service, and the line that shows it that the proxy asks."""
        self._service = Service(pool, proof)

    @classmethod
    def from_options(cls, options: Mapping[str, str], pool: Pool, proof: bytes) -> Self:
        """Return the authenticator that a configuration describes; there is nothing to describe to it.

        Raises:
            ConfigurationError: there are options that are not its own.
        """
        if not cls.options.issuperset(options):
            known = f"one option: {', '.join(cls.options)}" if cls.options else "no options"
            raise ConfigurationError(f"the authenticator {cls.name} takes {known}")
        return cls(pool, proof)

    async def authenticate(self, headers: Mapping[bytes, bytes]) -> Identity | None:
        """Return whom the service takes the caller for.

        Raises:
            Refused: it is wrong.
            NotAuthenticated: it is worth nothing, or no more.
            ServiceError: the service does not answer, or has no time to look.
        """
        shown = headers.get(b"authorization", b"")
        if shown.partition(b" ")[0].lower() != self.scheme:
            return None
        if self.form.fullmatch(shown) is None:
            raise self._malformed()
        principal = await self._service.holder(headers, b"authorization: %b\r\n" % shown, self.patience)
        if principal is None:
            nobody = NotAuthenticated("no credentials")
            nobody.told = True  # the service has recorded it
            raise nobody
        return Identity(principal, authorization=shown.decode("ascii"))

    def _malformed(self) -> Exception:
        """Return what the service, too, says of what is not of the form."""
        return Refused()


class TokenAuthenticator(PassedOn):
    """Tokens that the service gave at a login (RFC 6750)."""

    name = "token"
    scheme = b"bearer"
    form = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +[A-Za-z0-9._~+/=-]{1,4096}")
    challenge: str | None = 'Bearer realm="strongroom"'

    def _malformed(self) -> Exception:
        return NotAuthenticated("no credentials")


class PasswordAuthenticator(PassedOn):
    """Names and passwords of users and services that the service knows (RFC 7617), also by a file of its own."""

    name = "basic"
    options = frozenset(("filepath",))  # the users file
    scheme = b"basic"
    patience = 12.0  # sign-ins wait for their turn at the service, for ten seconds at most
    form = re.compile(rb"[Bb][Aa][Ss][Ii][Cc] +[A-Za-z0-9+/]{1,4096}={0,2}")
    challenge: str | None = 'Basic realm="strongroom", charset="UTF-8"'

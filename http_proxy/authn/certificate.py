"""Client certificates: verified by the TLS library, and known, or not, by the service."""

from collections.abc import Mapping

from strongroom.http_proxy.authn.base import Identity
from strongroom.http_proxy.authn.service import Service
from strongroom.http_proxy.request import CERTIFICATE
from strongroom.storage_service import wire
from strongroom.storage_service.client.pool import Pool
from strongroom.storage_service.errors import NotAuthenticated

_OTHERS = frozenset((b"authorization", *wire.AUTH_ID_HEADERS, *wire.AUTH_KEY_HEADERS))


class CertificateAuthenticator:
    """Knows callers who show nothing but a certificate. Beside another credential it is the gate, and no more."""

    challenge: str | None = None

    def __init__(self, pool: Pool, proof: bytes = b"") -> None:
        """Take the way to the service, and the line that shows it that the proxy asks."""
        self._service = Service(pool, proof)

    async def authenticate(self, headers: Mapping[bytes, bytes]) -> Identity | None:
        """Return whose certificate it is, as the service says.

        Raises:
            Refused: by its names it is several principals'.
            NotAuthenticated: it is nobody's.
            Unavailable: the service does not answer.
        """
        shown = headers.get(CERTIFICATE)
        if shown is None or not _OTHERS.isdisjoint(headers):
            return None
        principal = await self._service.holder(headers, b"%b: %b\r\n" % (CERTIFICATE, shown))
        if principal is None:
            nobody = NotAuthenticated("no credentials")
            nobody.told = True  # the service has recorded it
            raise nobody
        return Identity(principal, certificate=shown.decode("ascii"))

"""What the service is told of a client's certificate, which the TLS library has verified: its fingerprint and URIs.

No field of a client's own passes for that: the service hears it of the proxy alone, beside the proxy's proof.
"""

import re
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256

from strongroom.http_proxy.request import CERTIFICATE
from strongroom.storage_service import wire

_URI: Final = re.compile(r"[\x21-\x7e]+", re.ASCII)
_UNREADABLE: Final = (  # what cryptography raises for names that it cannot read
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


@lru_cache(maxsize=1024)
def told(der: bytes | None) -> bytes:
    """Return the text that tells of a certificate; "" where there is none, or none that can be read.

    One with more names than fit is known by its fingerprint alone, so that nobody chooses which of them count.
    """
    if der is None:
        return b""
    try:
        certificate = x509.load_der_x509_certificate(der)
    except _UNREADABLE:
        return b""
    fingerprint = f"SHA256:{certificate.fingerprint(SHA256()).hex()}"
    text = " ".join([fingerprint, *_uris(certificate)])
    return (text if len(text) <= wire.MAX_CERTIFICATE else fingerprint).encode("ascii")


def line(der: bytes | None) -> bytes:
    """Return the line of a request's head that tells of a certificate; nothing where there is none."""
    text = told(der)
    return b"%b: %b\r\n" % (CERTIFICATE, text) if text else b""


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, *_UNREADABLE):
        return []
    return [uri for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if _URI.fullmatch(uri)]

"""A client certificate: by a URI among its names (RFC 5280 sec. 4.2.1.6), or by the fingerprint of the whole of it.

spiffe://example.net/runner        whoever has a certificate of our authority with that URI
SHA256:<64 hex digits>             this one certificate
"""

import re
from typing import Final

from strongroom.models.access import InvalidAccess

MAX_URI: Final = 2048  # bytes, as SPIFFE has it

_URI: Final = re.compile(
    r"[a-z][a-z0-9+.-]*://[A-Za-z0-9._~-]+(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~%!$&'()*+,;=:@-]+)*", re.ASCII
)
_FINGERPRINT: Final = re.compile(r"SHA256:[0-9a-f]{64}", re.ASCII)
_PREFIX: Final = "sha256:"


def canonical(given: str) -> str:
    """Return the URI or fingerprint *given*; of a fingerprint, colons and capitals make no difference.

    Raises:
        InvalidAccess: it is neither.
    """
    text = given.strip()
    if text.lower().startswith(_PREFIX):
        text = "SHA256:" + text[len(_PREFIX) :].replace(":", "").lower()
        if _FINGERPRINT.fullmatch(text):
            return text
    elif len(text) <= MAX_URI and _URI.fullmatch(text):
        return text
    raise InvalidAccess(
        "a certificate is known by a URI of its names, as in spiffe://example.net/runner, or by SHA256: and the 64 hex "
        "digits of its fingerprint",
        "data",
    )


def identity(data: str) -> str:
    """Return the URI or fingerprint: a certificate is one principal."""
    return data


def shown(data: str) -> dict[str, str]:
    """Return the URI or fingerprint."""
    return {"fingerprint" if _FINGERPRINT.fullmatch(data) else "uri": data}

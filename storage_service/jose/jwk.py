"""A key as JSON: the symmetric JWK (RFC 7517, RFC 7518 sec. 6.4) that jwcrypto and Custodia read and write.

{"k":"<512 bits, base64url>","kty":"oct"}
"""

from collections.abc import Container, Mapping
from typing import Any, Final

import msgspec
from jwcrypto.jwk import JWK

from strongroom.models import strict_json
from strongroom.storage_service.jose import base64url
from strongroom.storage_service.jose.content_encryption import KEY_SIZE

MAX_JWK: Final = 4096  # bytes of JSON; a bare key is 107


def encode(octets: bytes, **members: str | int) -> bytes:
    """Return the JWK of *octets*, with more *members* beside it; all are sorted, as Custodia has them."""
    return msgspec.json.encode({**members, **_jwk(octets).export(as_dict=True)}, order="sorted")


def decode(text: bytes) -> dict[str, Any]:
    """Return the members of the JSON object that *text* holds.

    Raises:
        ValueError: it holds no such thing; the message says why and repeats nothing of it.
    """
    if len(text) > MAX_JWK:
        raise ValueError("it is too large for a key")
    match strict_json.decode(text):
        case dict() as members:
            return members
    raise ValueError("it is not a JSON object")


def octets_of(members: Mapping[str, object], sizes: Container[int] = (KEY_SIZE,)) -> bytes:
    """Return the bytes of the JWK with these *members*; what others it has is for the caller to judge.

    Raises:
        ValueError: it is no symmetric key of one of *sizes*; the message says why and repeats nothing of it.
    """
    if members.get("kty") != "oct":
        raise ValueError('it is not a JWK of type "oct"')
    spelled = members.get("k")
    if not isinstance(spelled, str) or not spelled.isascii():
        raise ValueError('its "k" is not base64url')
    octets = base64url.decode(spelled.encode())
    if len(octets) not in sizes:
        raise ValueError(f"its key is not {KEY_SIZE * 8} bits")
    return octets


def thumbprint(octets: bytes) -> str:
    """Return the key's thumbprint (RFC 7638, SHA-256): of 512 random bits it tells nothing but which they are."""
    return str(_jwk(octets).thumbprint())


def _jwk(octets: bytes) -> JWK:
    return JWK(kty="oct", k=base64url.encode(octets).decode())

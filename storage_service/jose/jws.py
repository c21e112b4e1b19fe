"""A compact JWS under HS256 (RFC 7515 sec. 7.1, RFC 7518 sec. 3.2), and under nothing else.

    BASE64URL({"alg":"HS256","typ":"JWT"}) . BASE64URL(payload) . BASE64URL(HMAC-SHA-256)

Whoever reads has said which algorithm it is; what a token says of it is only compared. A header may hold ``typ`` and
``kid`` beside, and nothing else: not ``crit`` or ``b64``, which change what the rest means, nor what names keys and
places (``jwk``, ``jku``, ``x5u`` …). A ``kid`` is looked at by nobody.
"""

import functools
import hmac
from collections.abc import Sequence
from typing import Final

from strongroom.models import strict_json
from strongroom.storage_service.jose import base64url

ALG: Final = "HS256"
MIN_SECRET: Final = 32  # bytes: no shorter than the hash (RFC 7518 sec. 3.2)
MAX_TOKEN: Final = 8192  # characters

_DIGEST: Final = "sha256"
_HEADER: Final = base64url.encode(b'{"alg":"HS256","typ":"JWT"}')
_MEMBERS: Final = frozenset({"alg", "typ", "kid"})


class WrongSignature(Exception):
    """None of the secrets signed it."""


def signed(secret: bytes, payload: bytes) -> bytes:
    """Return *payload*, signed with *secret*."""
    head = b"%b.%b" % (_HEADER, base64url.encode(payload))
    return b"%b.%b" % (head, base64url.encode(hmac.digest(secret, head, _DIGEST)))


def payload_of(secrets: Sequence[bytes], token: bytes) -> bytes:
    """Return what one of *secrets* signed as *token*; each is tried, whichever it was.

    Raises:
        ValueError: it is no such token; the message says why and repeats nothing of it.
        WrongSignature: none of them did.
    """
    if len(token) > MAX_TOKEN:
        raise ValueError("it is longer than any token is")
    header, *rest = token.split(b".", 3)
    if len(rest) != 2:
        raise ValueError("it is not three parts joined by dots")
    _check_header(header)
    payload, signature = map(base64url.decode, rest)
    head = token[: -len(rest[1]) - 1] if rest[1] else token[:-1]
    right = [hmac.compare_digest(hmac.digest(secret, head, _DIGEST), signature) for secret in secrets]
    if not any(right):
        raise WrongSignature
    return payload


@functools.lru_cache(maxsize=64)
def _check_header(header: bytes) -> None:
    """Return if *header* is one to accept. It is no secret, and those in use are few.

    Raises:
        ValueError: it is not.
    """
    members = strict_json.decode(base64url.decode(header))
    if not isinstance(members, dict) or not all(isinstance(each, str) for each in members.values()):
        raise ValueError("its header is not an object of texts")
    if members.get("alg") != ALG:
        raise ValueError(f"its header names another algorithm than {ALG}")
    if not members.keys() <= _MEMBERS:
        raise ValueError("its header has members that are not understood here")
    if members.get("typ", "JWT").upper() != "JWT":
        raise ValueError("its header says that it is something else than a JWT")

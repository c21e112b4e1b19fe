"""Tokens: JWTs under HS256, bound to an audience, which services make and read, with secrets of their own or with ours.

    {"aud":"strongroom","exp":1764500000,"iat":1764499400,"iss":"strongroom","jti":"…","sub":"user:ann"}

With HS256 whoever can verify can also sign: services that share a secret trust each other with it. Two secrets are
accepted while one replaces the other, and every one is tried, whichever fits, so that no clock tells which it was. What
a token is refused for is decided after that, from what it says and not from which secret was tried last.

Outside, every refusal is one message; the log has what it was.
"""

import hmac
import logging
import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

import msgspec

from strongroom.models import strict_json
from strongroom.storage_service.errors import NotAuthenticated
from strongroom.storage_service.jose import jws

TTL: Final = 3600  # seconds
LEEWAY: Final = 30  # seconds by which clocks may differ
RESERVED: Final = frozenset({"iss", "aud", "iat", "exp", "sub", "jti", "nbf"})
REQUIRED: Final = ("iss", "aud", "iat", "exp")
LATEST: Final = 2**53  # seconds; more is no moment

_log = logging.getLogger(__name__)


class Failure(StrEnum):
    """What a token was refused for. For the log: outside, all of these are one."""

    EXPIRED = "service_auth.expired"
    AUDIENCE = "service_auth.invalid_audience"
    SIGNATURE = "service_auth.invalid_signature"
    MISSING = "service_auth.missing_claim"
    MALFORMED = "service_auth.malformed"
    INVALID = "service_auth.invalid_token"
    ISSUER = "service_auth.invalid_issuer"
    HEADER = "service_auth.invalid_header"


class TokenRefused(NotAuthenticated):
    """A token is worth nothing here; *failure* says what for, and stays inside."""

    def __init__(self, failure: Failure, text: str = "Token verification failed") -> None:
        super().__init__(text)
        self.failure = failure
        self.inner = failure.value


class Claims(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What a token says that was found good. *extra* is all that has no member of its own, ``nbf`` among it."""

    iss: str
    aud: str
    iat: float
    exp: float
    sub: str | None = None
    jti: str | None = None
    extra: dict[str, Any] = {}


class Signer:
    """Signs tokens of one issuer with one secret. Trusted: whoever holds it can be anybody."""

    __slots__ = ("_issuer", "_now", "_secret", "_ttl")

    def __init__(
        self,
        secret: bytes | str,
        issuer: str,
        token_ttl_seconds: int = TTL,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Take the *secret*, 32 bytes or more, and how long a token lives at most.

        Raises:
            ValueError: the secret is too short, the issuer is empty, or the time is not positive.
        """
        self._secret = _secret_of(secret)
        self._issuer = _checked("the issuer", issuer)
        if token_ttl_seconds <= 0:
            raise ValueError("a token lives for one second or more")
        self._ttl = token_ttl_seconds
        self._now = now

    def __repr__(self) -> str:
        return f"<Signer of {self._issuer}>"

    def sign(
        self,
        audience: str,
        subject: str | None = None,
        jti: str | None = None,
        extra_claims: Mapping[str, object] | None = None,
        *,
        ttl_seconds: int | None = None,
    ) -> str:
        """Return a token for *audience*, without "Bearer ".

        Args:
            audience: who is to take it.
            subject: whom it speaks for.
            jti: its id; without one a random one of 128 bits.
            extra_claims: what else it says.
            ttl_seconds: how long it lives; longer than the signer's it never does.

        Raises:
            ValueError: an argument is empty, or *extra_claims* hold what has an argument of its own, which is listed.
        """
        extra = dict(extra_claims or {})
        if taken := sorted(RESERVED & extra.keys()):
            raise ValueError(f"extra claims cannot be {', '.join(taken)}")
        ttl = self._ttl if ttl_seconds is None else min(ttl_seconds, self._ttl)
        if ttl <= 0:
            raise ValueError("a token lives for one second or more")
        issued = int(self._now())
        claims: dict[str, object] = {
            **extra,
            "iss": self._issuer,
            "aud": _checked("the audience", audience),
            "iat": issued,
            "exp": issued + ttl,
            "jti": uuid.uuid4().hex if jti is None else _checked("the id", jti),
        }
        if subject is not None:
            claims["sub"] = _checked("the subject", subject)
        token = jws.signed(self._secret, msgspec.json.encode(claims, order="sorted"))
        if len(token) > jws.MAX_TOKEN:
            raise ValueError(f"a token is at most {jws.MAX_TOKEN} characters")
        return token.decode()


class Verifier:
    """Reads tokens for one audience, under the secrets of now and of before."""

    __slots__ = ("_audience", "_issuers", "_leeway", "_now", "_secrets")

    def __init__(
        self,
        secrets: Sequence[bytes | str],
        audience: str,
        allowed_issuers: Sequence[str],
        leeway_seconds: float = LEEWAY,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Take the *secrets*, newest first.

        Raises:
            ValueError: there is no secret or no issuer, one of them is empty, a secret is too short, or the leeway is
                negative.
        """
        bare = isinstance(secrets, bytes | str) or isinstance(allowed_issuers, str)
        if bare or not secrets or not allowed_issuers:
            raise ValueError("a verifier takes tuples of one secret and of one issuer, or more")
        if not 0 <= leeway_seconds < math.inf:
            raise ValueError("the leeway is not negative, and has an end")
        self._secrets = tuple(map(_secret_of, secrets))
        self._audience = _checked("the audience", audience)
        self._issuers = frozenset(_checked("an issuer", each) for each in allowed_issuers)
        self._leeway = leeway_seconds
        self._now = now

    def __repr__(self) -> str:
        return f"<Verifier for {self._audience}, {len(self._secrets)} secrets>"

    def verify(self, token: str) -> Claims:
        """Return what *token* says.

        Raises:
            TokenRefused: it is worth nothing here.
        """
        if not token:
            raise TokenRefused(Failure.INVALID, "Empty token")
        try:
            return self._verified(token)
        except _Wrong as wrong:
            failure, why = wrong.failure, wrong.why
        _log.info("a token was refused (%s): %s", failure.value, why)
        raise TokenRefused(failure)  # outside, so that the reason hangs on it nowhere

    def _verified(self, token: str) -> Claims:
        try:
            payload = jws.payload_of(self._secrets, token.encode("ascii"))
            said = strict_json.decode(payload)
        except jws.WrongSignature:
            raise _Wrong(Failure.SIGNATURE, "none of the secrets signed it") from None
        except UnicodeEncodeError:
            raise _Wrong(Failure.MALFORMED, "it is not ASCII") from None
        except ValueError as error:
            raise _Wrong(Failure.MALFORMED, str(error)) from None
        if not isinstance(said, dict):
            raise _Wrong(Failure.MALFORMED, "what it says is not an object")
        return self._judged(said)

    def _judged(self, said: dict[str, Any]) -> Claims:
        """Return the claims that a token of ours says, if they hold now."""
        for name in REQUIRED:
            if said.get(name) is None:
                raise _Wrong(Failure.MISSING, f"it does not say {name}")
        for name in ("iss", "aud", "sub", "jti"):
            if name in said and not _is_text(said[name]):
                raise _Wrong(Failure.MALFORMED, f"its {name} is not a text, or is empty or has blanks round it")
        for name in ("iat", "exp", "nbf"):
            if name in said and not _is_moment(said[name]):
                raise _Wrong(Failure.MALFORMED, f"its {name} is not a moment")
        now = self._now()
        if max(said["iat"], said.get("nbf", 0)) > now + self._leeway:
            raise _Wrong(Failure.INVALID, "it is of a moment yet to come")
        if said["exp"] <= now - self._leeway:
            raise _Wrong(Failure.EXPIRED, "it has expired")
        if not hmac.compare_digest(said["aud"].encode(), self._audience.encode()):
            raise _Wrong(Failure.AUDIENCE, "it is for another audience")
        if said["iss"] not in self._issuers:
            raise _Wrong(Failure.ISSUER, "it is of an issuer that is not accepted")
        own = {name: said.pop(name) for name in ("iss", "aud", "iat", "exp", "sub", "jti") if name in said}
        return Claims(**own, extra=said)


def bearer(field: str) -> str:
    """Return the token that an ``Authorization`` field holds (RFC 6750 sec. 2.1).

    Raises:
        TokenRefused: it holds none.
    """
    scheme, _, token = field.strip(" ").partition(" ")
    token = token.lstrip(" ")
    if scheme.lower() != "bearer" or not token or " " in token:
        raise TokenRefused(Failure.HEADER)
    return token


class _Wrong(Exception):
    """The way out of the checks."""

    def __init__(self, failure: Failure, why: str) -> None:
        super().__init__(failure)
        self.failure = failure
        self.why = why


def _secret_of(secret: bytes | str) -> bytes:
    octets = secret.encode() if isinstance(secret, str) else bytes(secret)
    if len(octets) < jws.MIN_SECRET:
        raise ValueError(f"a secret of tokens is {jws.MIN_SECRET} bytes or more")
    return octets


def _checked(what: str, text: str) -> str:
    if not _is_text(text):
        raise ValueError(f"{what} is a text that is not empty and has no blanks round it")
    return text


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value) and value == value.strip()


def _is_moment(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LATEST

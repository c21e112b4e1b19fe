"""Tokens: what is signed is read, what is refused has the right reason inside and one message outside."""

import hmac
import json
import logging
from typing import Any

import pytest
from jwcrypto.jwk import JWK
from jwcrypto.jwt import JWT

from strongroom.storage_service.access.tokens import Claims, Failure, Signer, TokenRefused, Verifier, bearer
from strongroom.storage_service.errors import NotAuthenticated
from strongroom.storage_service.jose import base64url, jws

NOW = 1_764_500_000
CURRENT, PREVIOUS, OTHER = (bytes([number]) * 64 for number in (1, 2, 3))


def signer(secret: bytes = CURRENT, issuer: str = "strongroom", ttl: int = 3600, now: float = NOW) -> Signer:
    return Signer(secret, issuer, ttl, now=lambda: now)


def verifier(*secrets: bytes, now: float = NOW, leeway: float = 30) -> Verifier:
    return Verifier(secrets or (CURRENT, PREVIOUS), "store", ("strongroom", "other"), leeway, now=lambda: now)


def failure(token: str, checker: Verifier | None = None) -> Failure:
    """Return what *token* is refused for; outside there is the one message."""
    with pytest.raises(TokenRefused) as caught:
        (checker or verifier()).verify(token)
    error: BaseException = caught.value
    assert str(error) == "Token verification failed"
    assert error.__cause__ is None
    assert error.__context__ is None
    return caught.value.failure


def made(changes: dict[str, Any], secret: bytes = CURRENT) -> str:
    """Return a token whose claims are those of a good one but for *changes*; None takes one away."""
    claims = {"iss": "strongroom", "aud": "store", "iat": NOW, "exp": NOW + 60, "jti": "a", "sub": "user:ann"} | changes
    said = {name: value for name, value in claims.items() if value is not None}
    return jws.signed(secret, json.dumps(said).encode()).decode()


def test_what_is_signed_is_read() -> None:
    """All that a signer says comes back, and a token of its own id each time."""
    token = signer().sign("store", "user:ann", extra_claims={"credential": "c1", "groups": ["ops"]})
    claims = verifier().verify(token)

    assert claims == Claims(
        iss="strongroom",
        aud="store",
        iat=NOW,
        exp=NOW + 3600,
        sub="user:ann",
        jti=claims.jti,
        extra={"credential": "c1", "groups": ["ops"]},
    )
    assert claims.jti is not None
    assert len(bytes.fromhex(claims.jti)) == 16
    assert verifier().verify(signer().sign("store")).jti != verifier().verify(signer().sign("store")).jti
    assert verifier().verify(signer().sign("store", jti="mine")).jti == "mine"
    assert verifier().verify(signer().sign("store")).sub is None


def test_jwcrypto_reads_a_token() -> None:
    """Another implementation finds the token good and says the same of it."""
    token = Signer(CURRENT, "strongroom").sign("store", "user:ann")
    key = JWK(kty="oct", k=base64url.encode(CURRENT).decode())

    read = JWT(jwt=token, key=key, algs=["HS256"], check_claims={"aud": "store", "iss": "strongroom", "exp": None})

    assert json.loads(read.claims)["sub"] == "user:ann"


def test_a_token_lives_no_longer_than_the_signer_lets_it() -> None:
    """A shorter life is given as asked, a longer one is clipped."""
    lives = [verifier().verify(signer(ttl=600).sign("store", ttl_seconds=asked)).exp - NOW for asked in (60, 600, 9999)]

    assert lives == [60, 600, 600]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Signer(b"", "strongroom"),
        lambda: Signer(b"x" * 31, "strongroom"),
        lambda: Signer(CURRENT, ""),
        lambda: Signer(CURRENT, " strongroom"),
        lambda: Signer(CURRENT, "strongroom", 0),
        lambda: Signer(CURRENT, "strongroom", -1),
        lambda: signer().sign(""),
        lambda: signer().sign("store", jti=""),
        lambda: signer().sign("store", ""),
        lambda: signer().sign("store", ttl_seconds=0),
        lambda: signer().sign("store", extra_claims={"long": "x" * jws.MAX_TOKEN}),
        lambda: Verifier((), "store", ("strongroom",)),
        lambda: Verifier((CURRENT, b""), "store", ("strongroom",)),
        lambda: Verifier((b"x" * 31,), "store", ("strongroom",)),
        lambda: Verifier(CURRENT, "store", ("strongroom",)),  # type: ignore[arg-type]
        lambda: Verifier((CURRENT,), "", ("strongroom",)),
        lambda: Verifier((CURRENT,), "store", ()),
        lambda: Verifier((CURRENT,), "store", ("",)),
        lambda: Verifier((CURRENT,), "store", "strongroom"),
        lambda: Verifier((CURRENT,), "store", ("strongroom",), -1),
        lambda: Verifier((CURRENT,), "store", ("strongroom",), float("nan")),
        lambda: Verifier((CURRENT,), "store", ("strongroom",), float("inf")),
    ],
)
def test_what_would_make_no_safe_token_is_refused(wrong) -> None:
    """Empty or short secrets, empty names, no time and no end are errors of whoever sets it up."""
    with pytest.raises(ValueError, match=r"^[a-z0-9 ,]+$"):
        wrong()


def test_extra_claims_override_nothing() -> None:
    """A claim that has an argument of its own, or a meaning, is refused as an extra one, and all such are listed."""
    reserved = {"iss": 1, "aud": 1, "iat": 1, "exp": 1, "sub": 1, "jti": 1, "nbf": 1}
    for name in reserved:
        with pytest.raises(ValueError, match=name):
            signer().sign("store", extra_claims={name: 1})
    with pytest.raises(ValueError, match="aud, exp, iat, iss, jti, nbf, sub"):
        signer().sign("store", extra_claims=reserved | {"mine": 1})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"iss": None}, Failure.MISSING),
        ({"aud": None}, Failure.MISSING),
        ({"iat": None}, Failure.MISSING),
        ({"exp": None}, Failure.MISSING),
        ({"aud": "else"}, Failure.AUDIENCE),
        ({"aud": "Store"}, Failure.AUDIENCE),
        ({"aud": ["store"]}, Failure.MALFORMED),
        ({"aud": ""}, Failure.MALFORMED),
        ({"aud": {"store": 1}}, Failure.MALFORMED),
        ({"iss": "stranger"}, Failure.ISSUER),
        ({"iss": ["strongroom"]}, Failure.MALFORMED),
        ({"sub": 7}, Failure.MALFORMED),
        ({"sub": ["user:ann"]}, Failure.MALFORMED),
        ({"sub": "user:ann "}, Failure.MALFORMED),
        ({"jti": 7}, Failure.MALFORMED),
        ({"jti": ""}, Failure.MALFORMED),
        ({"exp": str(NOW + 60)}, Failure.MALFORMED),
        ({"exp": True}, Failure.MALFORMED),
        ({"exp": -1}, Failure.MALFORMED),
        ({"exp": 2**53 + 1}, Failure.MALFORMED),
        ({"exp": 10**31}, Failure.MALFORMED),
        ({"exp": 10**40}, Failure.MALFORMED),
        ({"iat": [NOW]}, Failure.MALFORMED),
        ({"nbf": "now"}, Failure.MALFORMED),
        ({"exp": NOW - 40}, Failure.EXPIRED),
        ({"exp": NOW - 30}, Failure.EXPIRED),
        ({"exp": 0}, Failure.EXPIRED),
        ({"iat": NOW + 100}, Failure.INVALID),
        ({"nbf": NOW + 100}, Failure.INVALID),
        ({"exp": NOW - 40, "aud": "else", "iss": "stranger"}, Failure.EXPIRED),
        ({"aud": "else", "iss": "stranger"}, Failure.AUDIENCE),
    ],
    ids=repr,
)
def test_each_wrong_claim_has_its_reason(changes: dict[str, object], why: Failure) -> None:
    """What is missing, of another kind, for another, out of time or of a stranger is refused for just that."""
    assert failure(made(changes)) is why
    assert failure(made(changes, PREVIOUS)) is why


@pytest.mark.parametrize("changes", [{"exp": NOW - 10}, {"exp": NOW - 29.5}, {"iat": NOW + 30}, {"nbf": NOW + 20}])
def test_clocks_may_differ_by_thirty_seconds(changes: dict[str, object]) -> None:
    """What is out of time by less than the leeway holds, and without leeway it does not."""
    verifier().verify(made(changes))

    failure(made(changes), verifier(leeway=0))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"null",
        b'"x"',
        b"{",
        b"\xff",
        b'{"exp":1e999,"iat":1,"iss":"strongroom","aud":"store"}',
        b'{"exp":NaN,"iat":1,"iss":"strongroom","aud":"store"}',
        b'{"exp":1,"exp":9999999999,"iat":1,"iss":"strongroom","aud":"store"}',
        b'{"a":' * 2000 + b"1" + b"}" * 2000,
    ],
    ids=lambda each: repr(each[:40]),
)
def test_a_payload_that_is_no_object_of_claims_is_malformed(payload: bytes) -> None:
    """What is signed and no JSON of one meaning is refused as malformed."""
    assert failure(jws.signed(CURRENT, payload).decode()) is Failure.MALFORMED


@pytest.mark.parametrize("token", ["garbage", "a.b.c", "..", "\u20ac.a.b", "\ud800", "x" * 100_000])
def test_garbage_is_malformed(token: str) -> None:
    """What is no token is refused as malformed."""
    assert failure(token) is Failure.MALFORMED


@pytest.mark.parametrize("alg", ["none", "HS512", "RS256"])
def test_another_algorithm_is_malformed(alg: str) -> None:
    """A token that says another algorithm is refused though its MAC is right."""
    payload = made({}).split(".")[1].encode()
    head = base64url.encode(json.dumps({"alg": alg}).encode()) + b"." + payload

    assert failure((head + b"." + base64url.encode(hmac.digest(CURRENT, head, "sha256"))).decode()) is Failure.MALFORMED
    assert failure(head.decode() + ".") is Failure.MALFORMED


def test_an_empty_token_is_told_apart() -> None:
    """Whoever sends nothing is told so: there is nothing in it to learn from."""
    with pytest.raises(TokenRefused, match=r"^Empty token$") as caught:
        verifier().verify("")

    assert caught.value.failure is Failure.INVALID
    assert isinstance(caught.value, NotAuthenticated)


def test_the_secret_before_holds_while_it_is_listed() -> None:
    """A token of the previous secret is good while that is accepted, and a wrong signature afterwards."""
    token = signer(PREVIOUS).sign("store")

    verifier(CURRENT, PREVIOUS).verify(token)

    assert failure(token, verifier(CURRENT)) is Failure.SIGNATURE
    assert failure(made({}, OTHER)) is Failure.SIGNATURE


def test_expired_stays_expired_whichever_secret_signed_it() -> None:
    """The reason comes from what the token says, in whatever order the secrets stand."""
    for secrets in ((CURRENT, PREVIOUS), (PREVIOUS, CURRENT), (CURRENT,)):
        assert failure(made({"exp": NOW - 99}), verifier(*secrets)) is Failure.EXPIRED


def test_the_reason_stands_in_the_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    """The log has the reason, and nothing of the token."""
    token = made({"aud": "elsewhere", "sub": "user:canary"})
    with caplog.at_level(logging.INFO):
        failure(token)

    assert "service_auth.invalid_audience" in caplog.text
    assert not any(each in caplog.text for each in ("elsewhere", "canary", *token.split(".")))


def test_no_secret_is_shown() -> None:
    """Neither signer nor verifier shows its secret, nor an error what it got."""
    shown = repr(Signer("canary" * 8, "strongroom")) + repr(Verifier(("canary" * 8,), "store", ("strongroom",)))
    with pytest.raises(ValueError, match="bytes") as caught:
        Signer("canary", "strongroom")

    assert "canary" not in shown + str(caught.value)


def test_a_bearer_field_holds_one_token() -> None:
    """The scheme is told in any case, and what is no such field has a reason of its own."""
    assert bearer("Bearer abc") == bearer("bearer  abc ") == "abc"
    for field in ("", "Bearer", "Bearer ", "Basic abc", "abc", "Bearer a b", "Bearerabc"):
        with pytest.raises(TokenRefused, match=r"^Token verification failed$") as caught:
            bearer(field)
        assert caught.value.failure is Failure.HEADER

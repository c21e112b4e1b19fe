"""A JWE to a public key: jwcrypto reads it and is read, and whatever is changed does not open."""

import functools
import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwcrypto.jwe import JWE
from jwcrypto.jwk import JWK

from strongroom.storage_service.jose import base64url, to_public_key
from strongroom.storage_service.jose.to_public_key import (
    MAX_PLAINTEXT,
    MAX_TOKEN,
    Private,
    Unopened,
    decrypt,
    encrypt,
)

CURVES = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
KINDS = ("rsa", *CURVES)
ALGS = {"rsa": "RSA-OAEP-256"}
kinds = pytest.mark.parametrize("kind", KINDS)


@functools.cache
def private(kind: str) -> Private:
    """Return the key of that kind, made once."""
    return rsa.generate_private_key(65537, 3072) if kind == "rsa" else ec.generate_private_key(CURVES[kind])


def jwk(kind: str) -> JWK:
    """Return the private key as jwcrypto has it."""
    pem = private(kind).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return JWK.from_pem(pem)


def made_by_jwcrypto(kind: str, plaintext: bytes, **members: str) -> bytes:
    """Return a token of another implementation."""
    header = {"alg": ALGS.get(kind, "ECDH-ES+A256KW"), "enc": "A256CBC-HS512", **members}
    token = JWE(plaintext, json.dumps(header))
    token.add_recipient(jwk(kind))
    return token.serialize(compact=True).encode()


@kinds
def test_jwcrypto_reads_it(kind: str) -> None:
    """Another implementation opens what is encrypted here."""
    token = JWE()
    token.deserialize(encrypt(private(kind).public_key(), b"nonce").decode(), jwk(kind))

    assert token.payload == b"nonce"


@kinds
def test_what_jwcrypto_writes_is_read(kind: str) -> None:
    """What another implementation encrypts opens here."""
    assert decrypt(private(kind), made_by_jwcrypto(kind, b"nonce")) == b"nonce"


@kinds
def test_what_was_changed_does_not_open(kind: str) -> None:
    """A changed character in any of the five parts is refused, in the same words."""
    token = encrypt(private(kind).public_key(), b"nonce")
    at = 0
    for part in token.split(b"."):
        for place in (at, at + len(part) // 2):
            other = b"A" if token[place : place + 1] != b"A" else b"B"
            with pytest.raises(Unopened, match=r"^it does not open with this key$") as caught:
                decrypt(private(kind), token[:place] + other + token[place + 1 :])
            assert caught.value.__context__ is None
        at += len(part) + 1


@kinds
def test_another_key_does_not_open_it(kind: str) -> None:
    """A token for one key opens with no other, of its own kind or another."""
    others = [
        rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(CURVES[kind]),
        *(private(name) for name in KINDS if name != kind),
    ]
    for other in others:
        with pytest.raises(Unopened):
            decrypt(other, encrypt(private(kind).public_key(), b"nonce"))


@pytest.mark.parametrize("members", [{"zip": "DEF"}, {"kid": "a"}, {"cty": "JWT"}, {"apu": "QQ", "apv": "QQ"}])
@kinds
def test_a_header_that_asks_for_more_is_refused(kind: str, members: dict[str, str]) -> None:
    """No compression, no party information and no other member is accepted, though the token is right."""
    with pytest.raises(Unopened):
        decrypt(private(kind), made_by_jwcrypto(kind, b"nonce", **members))


@pytest.mark.parametrize(
    ("alg", "enc"), [("RSA-OAEP", "A256CBC-HS512"), ("RSA-OAEP-256", "A256GCM"), ("RSA-OAEP-256", "A128CBC-HS256")]
)
def test_other_algorithms_are_refused(alg: str, enc: str) -> None:
    """RSA-OAEP with SHA-1, and other encryptions of the content, do not open."""
    with pytest.raises(Unopened):
        decrypt(private("rsa"), made_by_jwcrypto("rsa", b"nonce", alg=alg, enc=enc))


@pytest.mark.parametrize(
    "epk",
    [
        None,
        {},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43},
        {"kty": "EC", "crv": "P-384", "x": "A" * 64, "y": "A" * 64},
        {"kty": "oct", "crv": "P-256", "x": "A" * 43, "y": "A" * 43},
        {"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43, "d": "AA"},
        {"kty": "EC", "crv": "P-256", "x": 1, "y": 2},
    ],
    ids=repr,
)
def test_a_point_that_is_not_on_the_curve_is_refused(epk: object) -> None:
    """Nothing is agreed with a point on no curve or another one."""
    token = encrypt(private("p256").public_key(), b"nonce").partition(b".")[2]
    header = json.dumps({"alg": "ECDH-ES+A256KW", "enc": "A256CBC-HS512", "epk": epk}).encode()

    with pytest.raises(Unopened):
        decrypt(private("p256"), base64url.encode(header) + b"." + token)


def test_the_curve_must_be_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token whose point is said to be on another curve does not open, though all else in it is right."""
    with monkeypatch.context() as patch:
        patch.setitem(to_public_key._CURVES, "secp256r1", "P-384")
        token = encrypt(private("p256").public_key(), b"nonce")

        assert decrypt(private("p256"), token) == b"nonce"
    with pytest.raises(Unopened):
        decrypt(private("p256"), token)


def test_sizes_are_bounded() -> None:
    """A long token is refused before it is read, and a long plaintext or another curve before it is encrypted."""
    with pytest.raises(Unopened):
        decrypt(private("rsa"), encrypt(private("rsa").public_key(), b"x") + b"A" * MAX_TOKEN)
    with pytest.raises(ValueError, match="at most"):
        encrypt(private("rsa").public_key(), bytes(MAX_PLAINTEXT + 1))
    with pytest.raises(ValueError, match="curve"):
        encrypt(ec.generate_private_key(ec.SECP256K1()).public_key(), b"x")

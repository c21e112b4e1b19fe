"""A compact JWE to somebody's public key: RSA-OAEP-256, or ECDH-ES+A256KW on a curve of NIST (RFC 7518 sec. 4.3, 4.6).

    BASE64URL(header) . BASE64URL(wrapped key) . BASE64URL(IV) . BASE64URL(ciphertext) . BASE64URL(tag)

    {"alg":"RSA-OAEP-256","enc":"A256CBC-HS512"}
    {"alg":"ECDH-ES+A256KW","enc":"A256CBC-HS512","epk":{"crv":"P-256","kty":"EC","x":"…","y":"…"}}

The key of the content is random and used once. Whoever decrypts accepts these two headers and no other member: no
``zip``, no ``apu``, nothing that names keys or places.
"""

import os
from typing import Final, TypeAlias

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash

from strongroom.models import strict_json
from strongroom.storage_service.jose import base64url
from strongroom.storage_service.jose.content_encryption import (
    BLOCK,
    IV_SIZE,
    KEY_SIZE,
    TAG_SIZE,
    ContentEncryption,
)

ENC: Final = "A256CBC-HS512"
RSA: Final = "RSA-OAEP-256"
ECDH: Final = "ECDH-ES+A256KW"
MAX_TOKEN: Final = 8192  # characters: the key wrapped by RSA of 16,384 bits has 2,731
MAX_PLAINTEXT: Final = 2048  # bytes

_CURVES: Final = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_OAEP: Final = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)

Public: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
Private: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class Unopened(ValueError):
    """It does not open with this key. For what reason is not said: that would help whoever made it up."""

    def __init__(self) -> None:
        super().__init__("it does not open with this key")


def encrypt(key: Public, plaintext: bytes) -> bytes:
    """Return *plaintext* so that only the holder of *key*'s private half reads it.

    Raises:
        ValueError: it is too long, or the key is on another curve.
    """
    if len(plaintext) > MAX_PLAINTEXT:
        raise ValueError(f"a plaintext is at most {MAX_PLAINTEXT} bytes")
    content_key = os.urandom(KEY_SIZE)
    header: dict[str, object] = {"enc": ENC}
    if isinstance(key, rsa.RSAPublicKey):
        header["alg"] = RSA
        wrapped = key.encrypt(content_key, _OAEP)
    else:
        ephemeral = ec.generate_private_key(key.curve)
        header |= {"alg": ECDH, "epk": _spelled(ephemeral.public_key())}
        wrapped = keywrap.aes_key_wrap(_agreed(ephemeral, key), content_key)
    protected = base64url.encode(msgspec.json.encode(header, order="sorted"))
    iv = os.urandom(IV_SIZE)
    ciphertext, tag = ContentEncryption(content_key).encrypt(protected, plaintext, iv)
    return b".".join((protected, *map(base64url.encode, (wrapped, iv, ciphertext, tag))))


def decrypt(key: Private, token: bytes) -> bytes:
    """Return the plaintext that was encrypted to *key* as *token*.

    Raises:
        Unopened: there is none.
    """
    try:
        return _decrypted(key, token)
    except (ValueError, InvalidSignature, keywrap.InvalidUnwrap):
        pass
    raise Unopened  # outside, so that what went wrong hangs on it nowhere


def _decrypted(key: Private, token: bytes) -> bytes:
    if len(token) > MAX_TOKEN:
        raise Unopened
    protected, *parts = token.split(b".", 5)
    wrapped, iv, ciphertext, tag = map(base64url.decode, parts)  # of another count it is a ValueError, too
    if len(iv) != IV_SIZE or len(tag) != TAG_SIZE or not ciphertext or len(ciphertext) % BLOCK:
        raise Unopened
    header = strict_json.decode(base64url.decode(protected))
    if not isinstance(header, dict) or header.get("enc") != ENC:
        raise Unopened
    if isinstance(key, rsa.RSAPrivateKey):
        if header.get("alg") != RSA or len(header) != 2:
            raise Unopened
        content_key = key.decrypt(wrapped, _OAEP)
    else:
        if header.get("alg") != ECDH or header.keys() != {"alg", "enc", "epk"}:
            raise Unopened
        content_key = keywrap.aes_key_unwrap(_agreed(key, _point(header["epk"], key.curve)), wrapped)
    if len(content_key) != KEY_SIZE:
        raise Unopened
    return ContentEncryption(content_key).decrypt(protected, iv, ciphertext, tag)


def _agreed(ours: ec.EllipticCurvePrivateKey, theirs: ec.EllipticCurvePublicKey) -> bytes:
    """Return the key that both agree on to wrap with (RFC 7518 sec. 4.6.2, without apu and apv)."""
    alg = ECDH.encode()
    info = len(alg).to_bytes(4) + alg + bytes(4) + bytes(4) + (256).to_bytes(4)
    return ConcatKDFHash(hashes.SHA256(), 32, info).derive(ours.exchange(ec.ECDH(), theirs))


def _spelled(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    if key.curve.name not in _CURVES:
        raise ValueError("the key is on a curve that is not used here")
    size = (key.curve.key_size + 7) // 8
    numbers = key.public_numbers()
    x, y = (base64url.encode(each.to_bytes(size)).decode() for each in (numbers.x, numbers.y))
    return {"crv": _CURVES[key.curve.name], "kty": "EC", "x": x, "y": y}


def _point(spelled: object, curve: ec.EllipticCurve) -> ec.EllipticCurvePublicKey:
    """Return the public key that an ``epk`` spells; that it lies on *curve* is checked.

    Raises:
        ValueError: it does not, or is spelled otherwise.
    """
    if not isinstance(spelled, dict) or spelled.keys() != {"crv", "kty", "x", "y"}:
        raise Unopened
    if spelled["kty"] != "EC" or spelled["crv"] != _CURVES.get(curve.name):
        raise Unopened
    x, y = (base64url.decode(str(spelled[each]).encode()) for each in ("x", "y"))
    size = (curve.key_size + 7) // 8
    if not len(x) == len(y) == size:
        raise Unopened
    return ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), curve).public_key()

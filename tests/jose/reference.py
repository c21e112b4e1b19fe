"""A second implementation of A256CBC-HS512, step by step from RFC 7518 sec. 5.2.2, for tests alone."""

import hashlib
import hmac
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from strongroom.storage_service.jose import base64url
from strongroom.storage_service.jose.key import Key
from strongroom.storage_service.keyring.ring import DataKey

VECTORS_FOLDER: Final = Path(__file__).parents[1] / "vectors"  # each file names its source
KEY: Final = DataKey("default.1", bytes(range(64)))  # the key of RFC 7518, B.3
OTHER: Final = DataKey("default.2", bytes(range(64, 128)))
IV: Final = bytes.fromhex("1af38c2dc2b96ffdd86694092341bc04")  # its IV
NAME: Final = "secrets/hosts/10.0.0.7"


class ReferenceCipher:
    """The content encryption with a known IV; *pad* False leaves the plaintext as it is, to make broken padding."""

    def __init__(self, iv: bytes = IV, pad: bool = True) -> None:
        self._iv = iv
        self._pad = pad

    def encrypt(self, k: bytes, aad: bytes, m: bytes, /) -> tuple[bytes, bytes, bytes]:
        """Return IV, ciphertext and tag."""
        if self._pad:
            padder = PKCS7(128).padder()
            m = padder.update(m) + padder.finalize()
        encryptor = Cipher(algorithms.AES256(k[32:]), modes.CBC(self._iv)).encryptor()
        e = encryptor.update(m) + encryptor.finalize()
        return self._iv, e, _tag(k, aad, self._iv, e)

    def decrypt(self, k: bytes, aad: bytes, iv: bytes, e: bytes, t: bytes, /) -> bytes:
        """Return the plaintext."""
        if not hmac.compare_digest(t, _tag(k, aad, iv, e)):
            raise InvalidSignature
        decryptor = Cipher(algorithms.AES256(k[32:]), modes.CBC(iv)).decryptor()
        unpadder = PKCS7(128).unpadder()
        return unpadder.update(decryptor.update(e) + decryptor.finalize()) + unpadder.finalize()


def sealed(header: bytes, value: bytes, key: Key = KEY, pad: bool = True) -> bytes:
    """Return *value* as a compact JWE with whatever *header*, its tag right: what a holder of the key could write."""
    protected = base64url.encode(header)
    iv, ciphertext, tag = ReferenceCipher(pad=pad).encrypt(key.reveal(), protected, value)
    return b".".join([protected, b"", *map(base64url.encode, (iv, ciphertext, tag))])


def _tag(k: bytes, aad: bytes, iv: bytes, e: bytes) -> bytes:
    al = (len(aad) * 8).to_bytes(8, "big")
    return hmac.digest(k[:32], aad + iv + e + al, hashlib.sha512)[:32]

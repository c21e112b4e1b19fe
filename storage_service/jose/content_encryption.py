"""A256CBC-HS512: AES-256 in CBC mode and HMAC-SHA-512, encrypt-then-MAC (RFC 7518 sec. 5.2.2 and 5.2.5).

Composed here from cryptography's primitives, because what does not change with a value (the key schedule of the MAC)
is made once a key. jwcrypto's primitive, a second composition, and the vectors of the RFC and of Wycheproof hold it to
the standard (``tests/jose``). With a key of half the size it is A128CBC-HS256 (sec. 5.2.3), which Custodia's stores may
be under and nothing of ours ever is: a `strongroom.storage_service.jose.key.Key` has the whole size.
"""

import hmac
from typing import Final, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES128, AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.hashes import SHA256, SHA512
from cryptography.hazmat.primitives.hmac import HMAC

from strongroom.storage_service.errors import Locked

KEY_SIZE: Final = 64  # bytes: 32 for the MAC, then 32 for AES
IV_SIZE: Final = 16  # bytes
TAG_SIZE: Final = 32  # bytes: half of what HMAC-SHA-512 gives
BLOCK: Final = 16  # bytes
HALF_KEY_SIZE: Final = KEY_SIZE // 2  # bytes: of A128CBC-HS256, whose tag is half the size, too

_PADDINGS: Final = tuple(bytes([size]) * size for size in range(BLOCK + 1))  # PKCS #7


class ContentEncryption:
    """The content encryption under one key, which nothing of this class shows.

    Raises:
        ValueError: the key is neither 64 bytes nor 32.
    """

    __slots__ = ("_aes", "_aes_key", "_decryptors", "_mac", "_tag_size")

    def __init__(self, key: bytes | bytearray) -> None:
        if len(key) not in (KEY_SIZE, HALF_KEY_SIZE):
            raise ValueError(f"a key is {KEY_SIZE} bytes, or {HALF_KEY_SIZE}")
        half = len(key) // 2
        whole = len(key) == KEY_SIZE
        # Never fed: copied for each value.
        self._mac: HMAC | _Wiped = HMAC(bytes(key[:half]), SHA512() if whole else SHA256())
        self._aes_key = bytearray(key[half:])  # cryptography keeps this very object, so it can be wiped
        self._aes = AES256(self._aes_key) if whole else AES128(self._aes_key)
        self._tag_size = half
        self._decryptors: list[CipherContext] = []  # that wait for their next value

    def encrypt(self, associated: bytes, plaintext: bytes, iv: bytes) -> tuple[bytes, bytes]:
        """Return ciphertext and tag.

        Args:
            associated: what is authenticated with the value and not encrypted.
            plaintext: of any size.
            iv: 16 bytes that nobody could foretell.

        Raises:
            Locked: the key was wiped.
        """
        mac = self._mac.copy()  # first: a key that was wiped must never encrypt anything
        encryptor = Cipher(self._aes, CBC(iv)).encryptor()
        padding = _PADDINGS[BLOCK - len(plaintext) % BLOCK]
        ciphertext = encryptor.update(plaintext + padding) + encryptor.finalize()
        return ciphertext, _tag(mac, associated, iv, ciphertext, self._tag_size)

    def verify(self, associated: bytes, iv: bytes, ciphertext: bytes, tag: bytes) -> None:
        """Return if `decrypt` would return a plaintext; no more of it than the last block is made for that.

        Raises:
            InvalidSignature, ValueError, Locked: as `decrypt`.
        """
        self._check_tag(associated, iv, ciphertext, tag)
        before = ciphertext[-2 * BLOCK : -BLOCK] or iv
        decryptor = Cipher(self._aes, CBC(before)).decryptor()
        _check_padding(decryptor.update(ciphertext[-BLOCK:]) + decryptor.finalize())

    def decrypt(self, associated: bytes, iv: bytes, ciphertext: bytes, tag: bytes) -> bytes:
        """Return the plaintext; the tag is checked, in constant time, before anything is decrypted.

        Raises:
            InvalidSignature: the tag is wrong.
            ValueError: the tag is right but the padding is not, so a holder of the key wrote nonsense.
            Locked: the key was wiped.
        """
        self._check_tag(associated, iv, ciphertext, tag)
        # In CBC the block before is the IV: so one context goes on from value to value, each behind its own IV, and is
        # spared its making, a quarter of a short value's cost. It holds one block of ciphertext between two.
        try:
            decryptor = self._decryptors.pop()
        except IndexError:
            decryptor = Cipher(self._aes, CBC(bytes(BLOCK))).decryptor()
        padded = decryptor.update(iv + ciphertext)[BLOCK:]
        self._decryptors.append(decryptor)
        return padded[: -_check_padding(padded)]

    def _check_tag(self, associated: bytes, iv: bytes, ciphertext: bytes, tag: bytes) -> None:
        if not hmac.compare_digest(tag, _tag(self._mac.copy(), associated, iv, ciphertext, self._tag_size)):
            raise InvalidSignature

    def wipe(self) -> None:
        """Overwrite the key where Python lets us, and refuse every later use."""
        self._mac = _Wiped()  # OpenSSL clears the context when it is freed
        self._decryptors.clear()
        self._aes_key[:] = bytes(len(self._aes_key))


class _Wiped:
    """Stands where the MAC of a wiped key stood, so that whoever still holds the key cannot use it."""

    __slots__ = ()

    def copy(self) -> NoReturn:
        raise Locked("the key was dropped")


def _check_padding(padded: bytes) -> int:
    """Return how many bytes at the end of *padded* are padding (PKCS #7).

    Raises:
        ValueError: it ends in none.
    """
    size = padded[-1] if padded else 0
    if not 0 < size <= BLOCK or not padded.endswith(_PADDINGS[size]):
        raise ValueError("the padding is wrong")
    return size


def _tag(mac: HMAC, associated: bytes, iv: bytes, ciphertext: bytes, size: int) -> bytes:
    mac.update(b"".join((associated, iv, ciphertext, (len(associated) * 8).to_bytes(8, "big"))))
    return mac.finalize()[:size]

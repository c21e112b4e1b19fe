"""What Custodia's EncryptedOverlay and EncryptedStore write: compact JWEs under one master key (RFC 7516).

    {"alg":"dir","enc":"A256CBC-HS512","custodia.key":"keys/hosts/10.0.0.7"}

The overlay *pins* a value to its key by the header ``custodia.key``, unless it is told to ``encrypt`` alone;
EncryptedStore pins nothing. The table is not trusted: exactly the two algorithms that Custodia knows are taken (RFC
8725 sec. 3.1), each with a key of its own size, and nothing in a header is believed before the tag has proved it.
"""

from pathlib import Path
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature

from strongroom.migration.sources.private_file import read_private
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.jose import base64url, jwe, jwk
from strongroom.storage_service.jose.content_encryption import HALF_KEY_SIZE, KEY_SIZE, ContentEncryption
from strongroom.storage_service.wire import MAX_STORED

_ENCS: Final = {KEY_SIZE: jwe.ENC, HALF_KEY_SIZE: "A128CBC-HS256"}
_MAX_HEADER: Final = 4096  # bytes, in base64url: Custodia's names may be longer than ours


class Unopenable(Exception):
    """A value does not open; the text is fit for a report."""


class Opened(NamedTuple):
    """A value as it was before Custodia encrypted it, and whether it was pinned to its key."""

    value: bytes
    pinned: bool


class MasterKey:
    """The key of a store. It shows itself nowhere."""

    __slots__ = ("_content", "_enc", "_tag_size")

    def __init__(self, key: bytes) -> None:
        """Take the octets.

        Raises:
            KeyError: they are neither 64 nor 32.
        """
        self._enc = _ENCS[len(key)]
        self._content = ContentEncryption(key)
        self._tag_size = len(key) // 2

    @classmethod
    def read(cls, path: Path) -> "MasterKey":
        """Return the key in the file at *path*, a symmetric JWK in JSON (RFC 7517). It blocks on the disk.

        Raises:
            ConfigurationError: it cannot be read, is open to others, or holds no such key.
        """
        try:
            return cls(jwk.octets_of(jwk.decode(read_private(path)), _ENCS))
        except ValueError:
            pass  # the text is one of a key of ours, which has no other size
        raise ConfigurationError(f"{path} holds no master key of Custodia's: a JWK of type oct with 512 or 256 bits")

    def open(self, token: bytes, key: str) -> Opened:
        """Return what *token*, the value of *key*, holds.

        Raises:
            Unopenable: it is invalid, another key's or changed, or pinned to another key of the store.
        """
        members, value = self._decrypt(token)
        pin = members.get(jwe.PIN)
        if pin is not None and pin != key:
            raise Unopenable("its value is pinned to another key: somebody moved it")
        return Opened(value, pin is not None)

    def fits(self, token: bytes) -> bool:
        """Whether this key encrypted *token*, for whichever key of the store."""
        try:
            self._decrypt(token)
        except Unopenable:
            return False
        return True

    def _decrypt(self, token: bytes) -> tuple[dict[str, str], bytes]:
        if len(token) > MAX_STORED:
            raise Unopenable("its value is over the limit of a secret")
        members = _header(token)
        if members["enc"] != self._enc:
            raise Unopenable("it is encrypted with an algorithm that the master key is not for")
        try:
            return members, self._content.decrypt(*jwe.segments(token, self._tag_size, _MAX_HEADER))
        except (jwe.Refused, InvalidSignature, ValueError):
            raise Unopenable("the master key does not open it") from None

    def __repr__(self) -> str:
        return f"<MasterKey for {self._enc}>"


def is_token(value: bytes) -> bool:
    """Whether *value* is what Custodia writes where it encrypts, under whatever key."""
    try:
        _header(value)
    except Unopenable:
        return False
    return True


def _header(token: bytes) -> dict[str, str]:
    """Return the members of *token*'s protected header.

    Raises:
        Unopenable: it is no token, or one that Custodia does not write.
    """
    protected, *others = token.split(b".", 5)
    if len(others) != 4 or others[0] or len(protected) > _MAX_HEADER:
        raise Unopenable("its value is not a JWE in compact form")
    try:
        return jwe.members_of(base64url.decode(protected), tuple(_ENCS.values()))
    except jwe.Refused:
        raise Unopenable("its JWE is not one that Custodia writes") from None
    except ValueError:
        raise Unopenable("its value is not a JWE in compact form") from None

"""What Custodia's EncryptedOverlay and EncryptedStore write: compact JWEs under one master key (RFC 7516).

    {"alg":"dir","enc":"A256CBC-HS512","custodia.key":"keys/hosts/10.0.0.7"}

The overlay *pins* a value to its key by the header ``custodia.key``, unless it is told to ``encrypt`` alone;
EncryptedStore pins nothing. The table is not trusted: exactly the two algorithms that Custodia knows are taken (RFC
8725 sec. 3.1), each with a key of its own size, and nothing in a header is believed before the tag has proved it.
"""

import base64
from pathlib import Path
from typing import Any, Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from jwcrypto.jwa import JWA

from strongroom.migration.sources.private_file import read_private
from strongroom.models import strict_json
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.wire import MAX_STORED

_ALG: Final = "dir"
_ENCS: Final = {64: "A256CBC-HS512", 32: "A128CBC-HS256"}  # by the size of the key, in bytes
_PIN: Final = "custodia.key"
_MEMBERS: Final = frozenset({"alg", "enc", "kid", _PIN})  # no zip, no crit, nothing that names another key
_MAX_HEADER: Final = 4096  # bytes, in base64url


class Unopenable(Exception):
    """A value does not open; the text is fit for a report."""


class Opened(NamedTuple):
    """A value as it was before Custodia encrypted it, and whether it was pinned to its key."""

    value: bytes
    pinned: bool


class MasterKey:
    """The key of a store. It shows itself nowhere."""

    __slots__ = ("_enc", "_key", "_primitive")

    def __init__(self, key: bytes) -> None:
        """Take the octets.

        Raises:
            KeyError: they are neither 64 nor 32.
        """
        self._key = key
        self._enc = _ENCS[len(key)]
        self._primitive: Any = JWA.encryption_alg(self._enc)

    @classmethod
    def read(cls, path: Path) -> "MasterKey":
        """Return the key in the file at *path*, a symmetric JWK in JSON (RFC 7517). It blocks on the disk.

        Raises:
            ConfigurationError: it cannot be read, is open to others, or holds no such key.
        """
        content = read_private(path)
        try:
            members = strict_json.decode(content)
            if members["kty"] == "oct":
                return cls(_octets(members["k"].encode()))
        except (AttributeError, KeyError, TypeError, ValueError):
            pass  # what they would tell is a part of the key
        raise ConfigurationError(f"{path} holds no master key of Custodia's: a JWK of type oct with 512 or 256 bits")

    def open(self, token: bytes, key: str) -> Opened:
        """Return what *token*, the value of *key*, holds.

        Raises:
            Unopenable: it is none, another key's or changed, or pinned to another key of the store.
        """
        members, value = self._decrypt(token)
        pin = members.get(_PIN)
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

    def _decrypt(self, token: bytes) -> tuple[dict[str, object], bytes]:
        if len(token) > MAX_STORED:
            raise Unopenable("its value is over the limit of a secret")
        protected, members, sealed = _parts(token)
        if members["enc"] != self._enc:
            raise Unopenable("it is encrypted by another algorithm than the master key is for")
        try:
            value: bytes = self._primitive.decrypt(self._key, protected, *map(_octets, sealed))
        except (InvalidSignature, ValueError):
            raise Unopenable("the master key does not open it") from None
        return members, value

    def __repr__(self) -> str:
        return f"<MasterKey for {self._enc}>"


def is_token(value: bytes) -> bool:
    """Whether *value* is what Custodia writes where it encrypts, under whatever key."""
    try:
        _parts(value)
    except Unopenable:
        return False
    return True


def _parts(token: bytes) -> tuple[bytes, dict[str, object], list[bytes]]:
    """Return the protected header as it stands, its members, and the IV, the ciphertext and the tag in base64url.

    Raises:
        Unopenable: it is no token, or one that Custodia does not write.
    """
    protected, _, rest = token.partition(b".")
    wrapped, *sealed = rest.split(b".", 4)
    members: object = None
    if len(protected) <= _MAX_HEADER and not wrapped and len(sealed) == 3:
        try:
            members = strict_json.decode(_octets(protected))
        except ValueError:
            members = None
    if not isinstance(members, dict):
        raise Unopenable("its value is no JWE in compact form")
    if members.get("alg") != _ALG or members.get("enc") not in _ENCS.values() or not members.keys() <= _MEMBERS:
        raise Unopenable("its JWE is none that Custodia writes")
    return protected, members, sealed


def _octets(spelled: bytes) -> bytes:
    """Return what base64url (RFC 4648 sec. 5), not padded, spells.

    Raises:
        ValueError: it is none; the text quotes nothing.
    """
    return base64.b64decode(spelled + b"=" * (-len(spelled) % 4), altchars=b"-_", validate=True)

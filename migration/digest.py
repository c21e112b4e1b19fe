"""A keyed hash: it tells whether two values are equal, and nothing else to anyone without its key."""

import hashlib
import secrets
from typing import Final

from strongroom.storage_service.jose import base64url

KEY_SIZE: Final = 32  # bytes
_SIZE: Final = 16  # bytes of the hash: nobody can make two values meet without the key


class Digest:
    """The keyed hash of one run (BLAKE2b, RFC 7693, of 128 bits). Its key lies in the run's sealed journal."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes | None = None) -> None:
        """Take the key, or draw one that lives as long as this object."""
        self._key = key or secrets.token_bytes(KEY_SIZE)

    def of(self, *parts: str | bytes) -> str:
        """Return the hash of *parts*, in base64url: where one ends and the next begins counts."""
        encoded = [part.encode(errors="surrogatepass") if isinstance(part, str) else part for part in parts]
        lengths = ",".join(str(len(part)) for part in encoded).encode()
        state = hashlib.blake2b(b";".join((lengths, *encoded)), key=self._key, digest_size=_SIZE)
        return base64url.encode(state.digest()).decode()

    def __repr__(self) -> str:
        return "<Digest>"

"""A keyed hash: it tells whether two values are equal, and nothing else to who does not have its key."""

import base64
import hmac
import secrets
from typing import Final

KEY_SIZE: Final = 32  # bytes
_SIZE: Final = 16  # bytes of the hash that are kept: nobody can make two values meet without the key


class Digest:
    """The keyed hash of one run (HMAC-SHA-256, RFC 2104, cut to 128 bits). Its key lies in the run's sealed journal."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes | None = None) -> None:
        """Take the key, or draw one that lives as long as this object."""
        self._key = key or secrets.token_bytes(KEY_SIZE)

    def of(self, *parts: str | bytes) -> str:
        """Return the hash of *parts*, in base64url: where one ends and the next begins counts."""
        state = hmac.new(self._key, digestmod="sha256")
        for part in parts:
            each = part.encode(errors="surrogatepass") if isinstance(part, str) else part
            state.update(len(each).to_bytes(8, "big"))
            state.update(each)
        return base64.urlsafe_b64encode(state.digest()[:_SIZE]).rstrip(b"=").decode()

    def __repr__(self) -> str:
        return "<Digest>"

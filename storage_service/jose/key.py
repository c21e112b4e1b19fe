"""A key: 512 secret bits and the id that they are known by."""

import hmac
import re
from typing import Final, NoReturn

from strongroom.storage_service.errors import Locked
from strongroom.storage_service.jose.content_encryption import KEY_SIZE, ContentEncryption

_ID: Final = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)


class Key:
    """512 secret bits and the id they are known by.

    The bits come out of :meth:`reveal` alone: repr shows the id, pickling and copying are refused, and comparing
    takes the same time wherever two keys differ.

    Raises:
        ValueError: not 64 bytes, or an id with other characters than ``A-Z a-z 0-9 . _ -``.
    """

    __slots__ = ("_content", "_kid", "_octets")

    def __init__(self, kid: str, octets: bytes | bytearray) -> None:
        if _ID.fullmatch(kid) is None:
            raise ValueError("a key's id is of letters, digits, dots, dashes and underscores")
        if len(octets) != KEY_SIZE:
            raise ValueError(f"a key is {KEY_SIZE} bytes")
        self._content = ContentEncryption(octets)
        self._kid = kid
        self._octets = bytearray(octets)

    @property
    def kid(self) -> str:
        """The key's id; it reveals nothing about the key."""
        return self._kid

    @property
    def content(self) -> ContentEncryption:
        """The encryption of values under this key."""
        return self._content

    def reveal(self) -> bytes:
        """Return the 64 bytes themselves.

        Raises:
            Locked: the key was wiped; zeros are nobody's key.
        """
        if not self._octets:
            raise Locked("the key was dropped")
        return bytes(self._octets)

    def wipe(self) -> None:
        """Overwrite the bits that this object holds; whoever still uses it gets `Locked`.

        What Python and OpenSSL copied meanwhile (`reveal`, a MAC under way) is out of reach and stays in freed memory
        until the allocator uses the place again: docs/threat-model.md.
        """
        self._content.wipe()
        self._octets[:] = bytes(len(self._octets))
        self._octets.clear()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._kid == other._kid and hmac.compare_digest(self._octets, other._octets)

    __hash__ = None  # type: ignore[assignment]  # a key is looked up by its kid, never by its bits

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._kid}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not pickled")

"""The keys of the running service, as immutable values: what a key is, and which of them is used for what.

    default.1   default.2   default.3 (active)        a keyset "default" in three versions

New values are encrypted under the active version of a keyset; the older ones go on decrypting what was written under
them. A key id (*kid*) means one key for ever: versions only grow, and no ring takes a second key under a known kid.
Nothing here does I/O; who persists a key before it is used is `storage_service.keyring.vault`.
"""

import hmac
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, NoReturn, Self

from storage_service.keyring.content_encryption import ContentEncryption

DEFAULT_KEYSET: Final = "default"

_ID: Final = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_KID: Final = re.compile(r"(?P<keyset>[a-z0-9][a-z0-9-]{0,62})\.(?P<version>[1-9][0-9]{0,8})", re.ASCII)


def is_kid(text: str) -> bool:
    """Whether *text* has the form of a data key's id."""
    return _KID.fullmatch(text) is not None


class Key:
    """512 secret bits and the id they are known by.

    The bits come out of :meth:`reveal` alone: repr shows the id, pickling and copying are refused, and comparing
    takes the same time wherever two keys differ. Python can neither lock nor wipe the memory they lie in; dropping
    the last reference leaves them there until the allocator uses the place again, and this class claims no more.

    Raises:
        ValueError: not 64 bytes, or an id with other characters than ``A-Z a-z 0-9 . _ -``.
    """

    __slots__ = ("_content", "_kid", "_octets")

    def __init__(self, kid: str, octets: bytes) -> None:
        if _ID.fullmatch(kid) is None:
            raise ValueError("a key's id is of letters, digits, dots, dashes and underscores")
        self._content = ContentEncryption(octets)
        self._kid = kid
        self._octets = bytes(octets)

    @property
    def kid(self) -> str:
        """The key's id; it reveals nothing about the key."""
        return self._kid

    @property
    def content(self) -> ContentEncryption:
        """The encryption of values under this key."""
        return self._content

    def reveal(self) -> bytes:
        """Return the 64 bytes themselves."""
        return self._octets

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._kid == other._kid and hmac.compare_digest(self._octets, other._octets)

    __hash__ = None  # type: ignore[assignment]  # a key is looked up by its kid, never by its bits

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._kid}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not pickled")


class DataKey(Key):
    """A key that values are encrypted under: version *version* of keyset *keyset*, with kid ``<keyset>.<version>``.

    Raises:
        ValueError: the kid is not of that form, or the key is not 64 bytes.
    """

    __slots__ = ("_keyset", "_version")

    def __init__(self, kid: str, octets: bytes) -> None:
        match = _KID.fullmatch(kid)
        if match is None:
            raise ValueError("a data key's id is <keyset>.<version>, the version a number from 1")
        super().__init__(kid, octets)
        self._keyset = match["keyset"]
        self._version = int(match["version"])

    @property
    def keyset(self) -> str:
        """The keyset this key is a version of."""
        return self._keyset

    @property
    def version(self) -> int:
        """Its place in the keyset, from 1."""
        return self._version


class Ring:
    """All data keys the service holds, as one value: every change returns a new ring and leaves this one as it is.

    The active key of a keyset is its newest version, unless *active* names another; *unnamed* is the kid of the key
    that values without a kid (Custodia's) are tried under, None for "refuse them".

    Raises:
        ValueError: two different keys with one kid, or *active* or *unnamed* names a key that is not here.
    """

    __slots__ = ("_active", "_keys", "_unnamed")

    def __init__(
        self, keys: Iterable[DataKey] = (), active: Mapping[str, str] | None = None, unnamed: str | None = None
    ) -> None:
        self._keys: dict[str, DataKey] = {}
        for key in sorted(keys, key=lambda key: (key.keyset, key.version)):
            if self._keys.setdefault(key.kid, key) != key:
                raise ValueError(f"{key.kid} is another key already; a kid means one key for ever")
        self._active = {key.keyset: key for key in self._keys.values()}  # the newest of each: the last in order
        for keyset, kid in (active or {}).items():
            if self._known(kid).keyset != keyset:
                raise ValueError(f"{kid} is no key of keyset {keyset}")
            self._active[keyset] = self._keys[kid]
        self._unnamed = None if unnamed is None else self._known(unnamed)

    def get(self, kid: str | None) -> DataKey | None:
        """Return the key with that id, or None; for ``None``, the key for values that name none."""
        return self._unnamed if kid is None else self._keys.get(kid)

    def active(self, keyset: str = DEFAULT_KEYSET) -> DataKey:
        """Return the key that new values of *keyset* are encrypted under.

        Raises:
            LookupError: the ring has no such keyset.
        """
        try:
            return self._active[keyset]
        except KeyError:
            raise LookupError(f"the ring has no keyset {keyset}") from None

    @property
    def kids(self) -> tuple[str, ...]:
        """The ids of all keys, keyset by keyset, oldest first."""
        return tuple(self._keys)

    @property
    def active_kids(self) -> Mapping[str, str]:
        """Keyset to the id of its active key."""
        return MappingProxyType({keyset: key.kid for keyset, key in self._active.items()})

    @property
    def unnamed_kid(self) -> str | None:
        """The id of the key for values that name none, if there is one."""
        return None if self._unnamed is None else self._unnamed.kid

    def next_kid(self, keyset: str = DEFAULT_KEYSET) -> str:
        """Return the id a new key of *keyset* gets: one version above the newest."""
        newest = max((key.version for key in self._keys.values() if key.keyset == keyset), default=0)
        return f"{keyset}.{newest + 1}"

    def with_key(self, key: DataKey) -> Self:
        """Return a ring that also decrypts under *key*; what is active stays active.

        Raises:
            ValueError: its kid is another key's already.
        """
        return type(self)([*self._keys.values(), key], {key.keyset: key.kid, **self.active_kids}, self.unnamed_kid)

    def activate(self, kid: str) -> Self:
        """Return a ring that encrypts under *kid* from now on.

        Raises:
            ValueError: there is no such key, or its keyset has a newer one active: versions only grow.
        """
        key = self._known(kid)
        if key.version < self._active[key.keyset].version:
            raise ValueError(f"{self._active[key.keyset].kid} is active and newer than {kid}")
        return type(self)(self._keys.values(), {**self.active_kids, key.keyset: kid}, self.unnamed_kid)

    def without(self, kid: str) -> Self:
        """Return a ring that no longer decrypts under *kid*.

        Raises:
            ValueError: there is no such key, or it is in use: active, or the one for values that name none.
        """
        key = self._known(kid)
        if kid in (self._active[key.keyset].kid, self.unnamed_kid):
            raise ValueError(f"{kid} is in use")
        rest = (other for other in self._keys.values() if other.kid != kid)
        return type(self)(rest, self.active_kids, self.unnamed_kid)

    def with_unnamed(self, kid: str | None) -> Self:
        """Return a ring that tries values without a kid under *kid*, or, for None, refuses them.

        Raises:
            ValueError: there is no such key.
        """
        return type(self)(self._keys.values(), self.active_kids, kid)

    def _known(self, kid: str) -> DataKey:
        try:
            return self._keys[kid]
        except KeyError:
            raise ValueError(f"the ring has no key {kid}") from None

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        active = {key.kid for key in self._active.values()}
        return f"<Ring {' '.join(kid + '*' * (kid in active) for kid in self._keys)}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a ring is not pickled")

"""The keys that logins and tokens are signed with: those of the keyset ``tokens``, made when first needed.

Nothing is encrypted under that keyset. It is rotated like any other: what its newest two generations signed is taken,
so after two rotations nothing that was given out before is worth anything. It never leaves the service, since whoever
can verify under HS256 can also sign.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

from strongroom.storage_service.backends.base import Backend
from strongroom.storage_service.errors import Overtaken
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.document import TOKENS_KEYSET
from strongroom.storage_service.keyring.holder import Holder
from strongroom.storage_service.keyring.ring import Ring

T = TypeVar("T")


class SigningKeys(Generic[T]):
    """What is made of the keys, as long as they are the ones: it is forgotten when they are dropped."""

    def __init__(self, store: Backend, holder: Holder, make: Callable[[tuple[bytes, ...]], T]) -> None:
        """Take the bare *store*, the *holder*, and what is made of the keys, which come newest first."""
        self._store = store
        self._holder = holder
        self._make = make
        self._ring: Ring | None = None
        self._made: T | None = None

    def forget(self) -> None:
        """Let go of what was made."""
        self._ring = self._made = None

    async def current(self) -> T:
        """Return what is made of the keys as they are now.

        Raises:
            Locked, Uninitialized: there are no keys.
            Unavailable: the store does not answer.
        """
        ring = self._holder.current or await self._holder.sync()
        if ring is not self._ring or self._made is None:
            keys = ring.newest(TOKENS_KEYSET) or (await self._begun()).newest(TOKENS_KEYSET)
            self._made = self._make(tuple(key.reveal() for key in keys))
            self._ring = ring
        return self._made

    async def refreshed(self) -> T:
        """Return what is made of the keys in the store: somebody else may have rotated them. Raises as `current`."""
        ring = self._holder.current or await self._holder.sync()
        await self._holder.refresh(ring)
        return await self.current()

    async def _begun(self) -> Ring:
        """Make the keyset, unless somebody else was faster, and return the ring with it."""
        try:
            async with self._holder.root() as root:
                await stored.edit(self._store, root, lambda said: said.with_tokens(stored.now()))
        except Overtaken:
            pass
        finally:
            self._holder.changed()
        return await self._holder.sync()

"""A ring that is what a test says: for what encrypts, where it does not matter who holds the keys."""

from strongroom.storage_service.errors import Locked
from strongroom.storage_service.keyring.ring import Ring


class Fixed:
    """Gives out *current*; None stands for locked.

    *newer* is the ring that a refresh finds, and *refreshed* how often one was asked for.
    """

    def __init__(self, ring: Ring | None) -> None:
        self.current = ring
        self.newer: Ring | None = None
        self.refreshed = 0

    async def sync(self) -> Ring:
        """Return the ring to use now."""
        if self.current is None:
            raise Locked("locked")
        return self.current

    async def refresh(self, seen: Ring) -> Ring:
        """Return the ring that took the place of *seen*, or *seen* if none did."""
        self.refreshed += 1
        if self.newer is not None and self.current is seen:
            self.current = self.newer
        return await self.sync()

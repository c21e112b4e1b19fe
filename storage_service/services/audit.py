"""What others tell of what they refused, or are about to do, where the service alone writes the audit log."""

from collections.abc import Sequence

from strongroom.storage_service.errors import Denied
from strongroom.storage_service.services.door import Caller, Door
from strongroom.storage_service.wire import Refusal


class AuditService:
    """All that can be told."""

    def __init__(self, door: Door, proxy: str = "") -> None:
        """Take the door, and the principal of the proxy, which alone may tell whom it turned away."""
        self._door = door
        self._proxy = proxy

    def check_is_proxy(self, caller: Caller) -> None:
        """Return if *caller* is the proxy.

        Raises:
            Denied: it is not.
        """
        if caller.principal.id != self._proxy:
            raise Denied("that is the proxy's to tell")

    async def take_report(self, caller: Caller, refusals: Sequence[Refusal]) -> None:
        """Record whom the proxy turned away, with the others.

        Raises:
            Denied: *caller* is not the proxy.
            AuditUnavailable: it cannot be recorded.
        """
        self.check_is_proxy(caller)
        await self._door.turn_away(*refusals)

"""Reports of what others refused, or are about to do: the service alone writes its audit log."""

import re
from collections.abc import Sequence

from strongroom.models import names
from strongroom.models.errors import InvalidName
from strongroom.storage_service.access.base import Action
from strongroom.storage_service.access.paths import WholeReachAlone
from strongroom.storage_service.errors import Denied, Invalid
from strongroom.storage_service.services.door import Caller, Door
from strongroom.storage_service.wire import Refusal

_MACHINE = re.compile(r"machine:[A-Za-z0-9._@+-]{1,64}", re.ASCII)


class AuditService:
    """All that can be told."""

    def __init__(self, door: Door, proxy: str = "") -> None:
        """Take the door, and the principal of the proxy, which alone may tell whom it turned away."""
        self._door = door
        self._whole = door.only(WholeReachAlone())
        self._proxy = proxy

    def check_is_proxy(self, caller: Caller) -> None:
        """Return if *caller* is the proxy.

        Raises:
            Denied: it is not.
        """
        if caller.principal.id != self._proxy:
            raise Denied("only the proxy may report this")

    async def take_report(self, caller: Caller, refusals: Sequence[Refusal]) -> None:
        """Record whom the proxy turned away, with the others.

        Raises:
            Denied: *caller* is not the proxy.
            AuditUnavailable: it cannot be recorded.
        """
        self.check_is_proxy(caller)
        await self._door.turn_away(*refusals)

    async def take_act(self, caller: Caller, by: str, action: Action, name: str, *, denied: bool = False) -> None:
        """Record what a command is about to do beside the service, or was refused; it is for who reaches everything.

        Who hands it over decides: the command acts with the keys of its machine, whatever paths the service allows.

        Args:
            caller: who hands it over: the line is his, and says for whom.
            by: the machine whose command it is, ``machine:<name>``.
            action: what is done.
            name: to which name.
            denied: the command has refused it.

        Raises:
            Invalid: *by* or *name* is invalid.
            Denied: *caller* may not do it himself.
            AuditUnavailable: it cannot be recorded.
        """
        if _MACHINE.fullmatch(by) is None:
            raise Invalid("that is not a machine", (("by", "is not machine:<name>"),))
        try:
            names.check(name)
        except InvalidName as error:
            raise Invalid(str(error), (("name", "is not a name"),)) from None
        if not name.startswith(names.MACHINES):
            raise Invalid("commands act on machines alone", (("name", f"is not below {names.MACHINES}"),))
        caller.on_behalf_of = by
        await self._whole.expect(caller, action, [name])
        if denied:
            await self._door.deny(caller, action, name, "the command refused it")
        else:
            await self._whole.permit(caller, action, [name])

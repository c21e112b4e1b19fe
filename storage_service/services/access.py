"""Who has access: API keys, which reach no further than the key that makes or ends them."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from strongroom.models import names
from strongroom.models.errors import InvalidName
from strongroom.models.secret import Secret
from strongroom.storage_service.access import durations
from strongroom.storage_service.access.apikeys import ApiKeyRecord, ApiKeys
from strongroom.storage_service.access.base import Action, Principal
from strongroom.storage_service.access.paths import covers
from strongroom.storage_service.access.ruling import EVERY_RULE
from strongroom.storage_service.errors import Denied, Invalid
from strongroom.storage_service.services.door import Caller, Door


class AccessService:
    """All that can be done about access."""

    def __init__(self, door: Door, keys: ApiKeys) -> None:
        """Take the parts."""
        self._door = door
        self._keys = keys

    async def expect_some(self, caller: Caller, action: Action) -> None:
        """Refuse, and record that, who may do *action* to no API key: where a body has the id.

        Raises:
            Denied, AuditUnavailable
        """
        await self._door.expect_some(caller, action, names.APIKEYS)

    def knows(self, key_id: str | None) -> bool:
        """Whether there is an API key of that id: who claims to be one that there is not may have sent a key for it."""
        return self._keys.knows(key_id)

    async def whoami(self, caller: Caller, *, own: bool = False) -> Principal:
        """Return whom the service takes *caller* for; where the proxy asks, its act will be recorded, not this.

        *own*: it does not ask, but the caller, through it.

        Raises:
            AuditUnavailable: it cannot be recorded.
        """
        if own or not caller.through_proxy:
            await self._door.note(caller, Action.GET, names.WHOAMI)
        return caller.principal

    async def create_key(
        self,
        caller: Caller,
        key_id: str,
        paths: Sequence[str],
        actions: Sequence[str],
        expires: str | None = None,
    ) -> tuple[Secret, ApiKeyRecord]:
        """Make an API key that reaches no further than the caller's own.

        Raises:
            Denied, Invalid, Exists, Unavailable, AuditUnavailable
        """
        name, reach = _key_name(key_id), caller.principal
        await self._door.expect(caller, Action.PUT, [name])
        if reach.ruled:  # who may write every rule could allow himself whatever the key reaches
            await self._door.expect(caller, Action.PUT, [EVERY_RULE])
        if not (set(actions) <= reach.actions and all(covers(reach.paths, path) for path in paths)):
            await self._door.deny(caller, Action.PUT, name, "it would reach further than the key that makes it")
            raise Denied("a key reaches no further than the key that makes it")
        await self._door.permit(caller, Action.PUT, [name])
        return await self._keys.create(key_id, paths, actions, expires)

    async def rotate_key(
        self, caller: Caller, key_id: str, overlap: str, expires: str | None = None
    ) -> tuple[Secret, ApiKeyRecord]:
        """Make another key in the place of one that reaches no further than the caller's own; both open for a while.

        *overlap* is a duration; without one the key before ends at once.

        Raises:
            Denied, Invalid, NotFound, Contradicted, Unavailable, AuditUnavailable
        """
        try:
            both = durations.duration(overlap) if overlap else timedelta()
        except ValueError as error:
            raise Invalid(str(error), (("overlap", "is not a duration"),)) from None
        about = f"another key; the one before is good for {overlap}" if overlap else "another key; the one before ends"
        await self._permit_over(caller, Action.PUT, key_id, about)
        return await self._keys.rotate(key_id, both, expires)

    async def end_former_key(self, caller: Caller, key_id: str) -> None:
        """End the key before, of a key that reaches no further than the caller's own, at once and everywhere.

        Raises:
            Denied, Invalid, NotFound, Unavailable, AuditUnavailable
        """
        await self._permit_over(caller, Action.PUT, key_id, "the key before ends")
        await self._keys.end_former(key_id)

    async def list_keys(self, caller: Caller) -> list[tuple[str, ApiKeyRecord, Mapping[str, str]]]:
        """Return all API keys, and when each, and the one before it, was last used: who has access, not with what.

        Raises:
            Denied, Unavailable, AuditUnavailable
        """

        async def read() -> list[tuple[str, ApiKeyRecord, Mapping[str, str]]]:
            found = await self._keys.list()
            used = await self._keys.used(key_id for key_id, _ in found)
            return [(key_id, record, used.get(key_id, {})) for key_id, record in found]

        return await self._door.read(caller, Action.LIST, [names.APIKEYS], read)

    async def revoke_key(self, caller: Caller, key_id: str) -> None:
        """End an API key that reaches no further than the caller's own, at once and everywhere.

        Raises:
            Denied, Invalid, NotFound, Unavailable, AuditUnavailable
        """
        name = _key_name(key_id)
        await self._door.expect(caller, Action.DELETE, [name])
        if caller.principal.id == f"apikey:{key_id}":
            await self._door.deny(caller, Action.DELETE, name, "a key cannot revoke itself")
            raise Invalid("a key cannot revoke itself")
        await self._permit_over(caller, Action.DELETE, key_id)
        await self._keys.revoke(key_id)

    async def _permit_over(self, caller: Caller, action: Action, key_id: str, about: str = "") -> None:
        """Let *caller* change or end a key that reaches no further than his own.

        Raises:
            Denied, NotFound, Unavailable, AuditUnavailable
        """
        name, reach = _key_name(key_id), caller.principal
        await self._door.expect(caller, action, [name])
        if reach.ruled:  # as in making one
            await self._door.expect(caller, Action.PUT, [EVERY_RULE])
        await self._door.permit(caller, action, [name], about)
        if not (reach.ruled or reach.is_whole):  # who reaches everything ends what is damaged, too
            record = await self._keys.record(key_id)
            if not (set(record.actions) <= reach.actions and all(covers(reach.paths, path) for path in record.paths)):
                raise Denied("a key neither changes nor ends one that reaches further than itself")


def _key_name(key_id: str) -> str:
    try:
        return names.check(names.APIKEYS + key_id)
    except InvalidName:
        raise Invalid("that is not an API id") from None

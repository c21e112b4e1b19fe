"""Whether the service can do its work, and what it says of itself."""

from collections.abc import Sequence
from dataclasses import dataclass

from strongroom.models import names
from strongroom.storage_service.access.base import Action
from strongroom.storage_service.backends.base import Backend, Checkable
from strongroom.storage_service.backends.read_through import OldPlaces
from strongroom.storage_service.services.door import Caller, Door
from strongroom.storage_service.services.keys import KeyService
from strongroom.storage_service.services.keys_overview import State


@dataclass(frozen=True, slots=True)
class Status:
    """What the service says of itself; of keys and old places nothing, but to those who may read its own records."""

    state: State
    store: str  # the scheme of the store of secrets
    fault: str = ""  # what keeps it from its work
    keys: tuple[str, ...] = ()  # ids of the keys that are held
    active_key: str = ""
    read_through: tuple[str, ...] = ()  # the old places where what has not moved is read, by identity
    reads_through: int = 0  # records that were, by this worker


class HealthService:
    """What is asked of the service as a whole."""

    def __init__(self, door: Door, keys: KeyService, stores: Sequence[Backend], scheme: str, old: OldPlaces) -> None:
        """Take the parts; *stores* are all that there are, that of the secrets first, whose scheme is *scheme*."""
        self._door = door
        self._keys = keys
        self._stores = tuple(stores)
        self._scheme = scheme
        self._old = old

    async def check(self) -> State:
        """Return the state if stores and audit log can be written, and the keyring is the one in force.

        Raises:
            AuditUnavailable: the audit log cannot be written.
            Behind, Internal: the keyring is another, and cannot be opened.
            Unavailable: a store does not answer, or cannot be written.
        """
        await self._door.check_audit()
        await self._stores[0].get(names.READY)
        for store in self._stores:
            if isinstance(store, Checkable):
                await store.check()
        return await self._keys.check()

    async def ping(self, caller: Caller) -> None:
        """Decide and record that *caller* is there, and nothing else.

        Raises:
            Denied, AuditUnavailable
        """
        await self._door.permit(caller, Action.GET, [""])

    async def status(self, caller: Caller) -> Status:
        """Return the state of the service, which whoever is known may know; what is its own to those who may read that.

        Raises:
            AuditUnavailable: it cannot be recorded.
        """
        await self._door.note(caller, Action.GET, names.STATUS)
        state, fault = await self._keys.whole_state()
        if not self._door.reaches(caller, Action.GET, names.STATUS):
            return Status(state, self._scheme, fault)
        held = self._keys.held
        return Status(
            state,
            self._scheme,
            fault,
            keys=held.kids,
            active_key=held.active,
            read_through=tuple(self._old.identities),
            reads_through=self._old.count,
        )

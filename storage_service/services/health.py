"""Whether the service can do its work, and what it says of itself."""

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from strongroom.models import names
from strongroom.storage_service.access.base import Action
from strongroom.storage_service.backends.base import Backend, Checkable
from strongroom.storage_service.backends.read_through import OldPlaces
from strongroom.storage_service.errors import ServiceError, StoreFails
from strongroom.storage_service.services.door import Caller, Door
from strongroom.storage_service.services.keys import KeyService
from strongroom.storage_service.services.keys_overview import State

PATIENCE: Final = 1.5  # seconds for the stores: less than the proxy waits for the service


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether requests would be served, and what was found well or not; words and truth values, for anybody."""

    ready: bool
    state: State
    checks: Mapping[str, bool]  # audit, store, keyring
    error: ServiceError | None  # what was found first
    seconds: float | None  # that the store took to answer; None: it did not


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

    def __init__(
        self,
        door: Door,
        keys: KeyService,
        stores: Sequence[Backend],
        scheme: str,
        old: OldPlaces,
        *,
        ready_when_locked: bool = True,
    ) -> None:
        """Take the parts; *stores* are all that there are, that of the secrets first, whose scheme is *scheme*."""
        self._ready_when_locked = ready_when_locked
        self._door = door
        self._keys = keys
        self._stores = tuple(stores)
        self._scheme = scheme
        self._old = old

    async def check(self) -> Readiness:
        """Return whether stores and audit log can be written, and the keyring is the one in force.

        Without keys it is as the settings say. What comes after a store that does not answer is not known to be well.
        """
        began = time.monotonic()
        store = await _fault(self._stores_answer())
        seconds = None if store else time.monotonic() - began
        audit = await _fault(self._door.check_audit())
        keyring = store or await _fault(self._keys.check())
        error = audit or store or keyring
        state = self._keys.state
        waiting = state in ("locked", "uninitialized") and not self._ready_when_locked
        checks = {"audit": audit is None, "store": store is None, "keyring": keyring is None}
        return Readiness(error is None and not waiting, state, checks, error, seconds)

    async def _stores_answer(self) -> None:
        """Check the stores, within a time in which whoever asks still waits: he would else blame the service.

        Raises:
            StoreFails: one does not answer in time.
            ServiceError: one cannot do its work.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                await self._check_stores()
        except TimeoutError:
            raise StoreFails("the store did not answer in time") from None

    async def _check_stores(self) -> None:
        await self._stores[0].get(names.READY)
        for store in self._stores:
            if isinstance(store, Checkable):
                await store.check()

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
        if not await self._door.able(caller, Action.GET, [names.STATUS]):
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


async def _fault(check: Awaitable[object]) -> ServiceError | None:
    """Return what *check* found wrong."""
    try:
        await check
    except ServiceError as error:
        return error
    return None

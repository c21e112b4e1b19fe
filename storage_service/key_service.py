"""The door for all that is done to keys: decided and recorded like every act on a record, and only then done.

What is decided on, and what the audit log names, are names under ``system/keyring/``: ``system/keyring/unlock``,
``system/keyring/keysets/default/rotate``. No ceremony is anonymous, unlocking included: CVE-2026-5807 is what becomes
of one that is. Nothing that people typed, and no key that was made, comes into a record, a log or an error.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from storage_service import key_overview
from storage_service.authz.base import Action
from storage_service.backends.base import Backend
from storage_service.errors import Invalid, Locked, StartupError, Unusable, WrongKey
from storage_service.keyring.document import KEYRING
from storage_service.keyring.keeper import Keeper
from storage_service.keyring_wire import KeyringStatus, State
from storage_service.service import Caller, Service


class KeyService:
    """All that can be done to the keyring of a running service, whoever asks and however.

    Every method raises Denied and AuditUnavailable before anything is done, `Unusable` where what the store or the
    disk holds cannot be used, and Unavailable where the store does not answer.
    """

    def __init__(self, service: Service, store: Backend, keeper: Keeper) -> None:
        """Take the parts; *store* is the bare one."""
        self._service = service
        self._store = store
        self._keeper = keeper

    # What can be told

    @property
    def state(self) -> State:
        """The state, as far as it can be told at once: what is under way is not looked for."""
        return key_overview.state_of(self._keeper)

    async def whole_state(self) -> State:
        """Return the state; ``rotating`` while the service is unlocked and something of the keyring is under way.

        Raises:
            Unavailable: the store does not answer.
        """
        if self.state == "unlocked":
            with suppress(Locked, StartupError):
                document, root = await key_overview.read(self._store, self._keeper)
                return "rotating" if await key_overview.pending(self._store, document, root) else "unlocked"
        return self.state

    async def status(self, caller: Caller) -> KeyringStatus:
        """Return all that can be told of the keyring now."""
        async with self._permitted(caller, Action.GET, "keys"):
            return await key_overview.tell(self._store, self._keeper)

    # Locking and unlocking

    async def unlock(self, caller: Caller, text: str | None) -> None:
        """Unlock the service with what people typed.

        Raises:
            Invalid, WrongKey, TooManyAttempts, Exists, Uninitialized: as `Keeper.unlock`.
        """
        async with self._permitted(caller, Action.PUT, "unlock") as name:
            if text is None:
                raise Invalid("nothing was given", (("text", "is missing"),))
            try:
                await self._keeper.unlock(text)
            except WrongKey:
                await self._service.failed(caller, Action.PUT, name, "wrong-key")
                raise

    async def lock(self, caller: Caller) -> None:
        """Lock the service, in every worker."""
        async with self._permitted(caller, Action.PUT, "lock"):
            self._keeper.lock()

    # Decide, record, act

    @asynccontextmanager
    async def _permitted(self, caller: Caller, action: Action, what: str) -> AsyncIterator[str]:
        """Decide and record an act on ``system/keyring/<what>``, give out that name, and do the act inside."""
        name = KEYRING + what
        await self._service.allow(caller, action, name)
        try:
            yield name
        except StartupError as error:
            raise Unusable(str(error)) from None

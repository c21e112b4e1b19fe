"""The door for all that is done to keys: decided and recorded like every act on a record, and only then done.

What is decided on, and what the audit log names, are names under ``system/keyring/``: ``system/keyring/unlock``,
``system/keyring/keysets/default/rotate``. No ceremony is anonymous, unlocking included: CVE-2026-5807 is what becomes
of one that is. Nothing that people typed, and no key that was made, comes into a record, a log or an error.

Re-encryption is done a step at a time, by whoever asks for the next one, and can be left at any step. What must not be
left is a reversal that fails: there the keyring is halted, with every key kept, until somebody resumes.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final, NamedTuple

from strongroom.models import names
from strongroom.models.errors import InvalidName
from strongroom.models.secret import Secret
from strongroom.models.steps import Step
from strongroom.storage_service.access.base import Action
from strongroom.storage_service.backends.base import Backend
from strongroom.storage_service.errors import (
    Halted,
    InUse,
    Invalid,
    NotFollowed,
    NotFound,
    Overtaken,
    StartupError,
    StoreFails,
    StrongroomError,
    Unavailable,
    Unusable,
    WrongKey,
)
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.ceremonies import rotation
from strongroom.storage_service.keyring.ceremonies.export import export
from strongroom.storage_service.keyring.ceremonies.recipients import Mode, Recipients
from strongroom.storage_service.keyring.ceremonies.rotation import Made
from strongroom.storage_service.keyring.document import Document
from strongroom.storage_service.keyring.holder import Holder
from strongroom.storage_service.keyring.machines.stored import MachineDocuments
from strongroom.storage_service.keyring.opening.unattended import KeyFile, MachineKeyFile
from strongroom.storage_service.keyring.ring import DEFAULT_KEYSET, generation_of, is_keyset
from strongroom.storage_service.keyring.rootkey import RootKey, is_root_kid
from strongroom.storage_service.keyring.usage import index, sweep
from strongroom.storage_service.keyring.usage.index import Scan
from strongroom.storage_service.services import keys_overview
from strongroom.storage_service.services.door import Caller, Door
from strongroom.storage_service.services.keys_overview import Backup, Keyset, Overview, State
from strongroom.storage_service.services.keys_overview import Vitals as Vitals  # noqa: PLC0414  # what `vitals` returns
from strongroom.storage_service.wire.keys import DEFAULT_LIMIT, DEFAULT_TOTAL, MAX_LIMIT, MIN_PACE

ATTEMPTS: Final = 3  # at a step of a reversal, before the keyring is halted
PAUSE: Final = 0.2  # seconds before the second of them; doubled before the third

log = logging.getLogger(__name__)


class Held(NamedTuple):
    """What one worker holds: the ids of its keys, and the active generation of the default keyset; locked, nothing."""

    kids: tuple[str, ...] = ()
    active: str = ""


class KeysMade(NamedTuple):
    """New keys, told this once: for *mode* ``unlock`` any of *keys* opens, for ``shares`` *needed* of them together."""

    root: str  # kid of the root key that they open
    mode: Mode
    keys: tuple[Secret, ...]
    needed: int | None = None


class Reencrypted(NamedTuple):
    """What one step of re-encryption did; at the end, whether nothing is left, or some of what is."""

    step: sweep.Step
    settled: bool = False
    left: tuple[str, ...] = ()


class Counted(NamedTuple):
    """How many records are under each generation, and whether the index is known to be complete."""

    complete: bool
    generations: Mapping[str, int]


class KeyService:
    """All that can be done to the keyring of a running service, whoever asks and however.

    Every method raises Denied and AuditUnavailable before anything is done; Locked or Uninitialized where it takes the
    root key and there is none; Overtaken where somebody else changed the keyring meanwhile; `Unusable` where what the
    store or the disk holds cannot be used; and Unavailable, with the fate of what was to be written.
    """

    def __init__(
        self,
        door: Door,
        store: Backend,
        holder: Holder,
        file: KeyFile,
        machines: MachineDocuments,
        *,
        machine: MachineKeyFile | None = None,
        renew: Callable[[], None] | None = None,
    ) -> None:
        """Take the parts.

        *store* is the bare one, *machine* this machine's own key; *renew* lets new workers take the place of all,
        which finish what they have begun.
        """
        self._door = door
        self._store = store
        self._holder = holder
        self._file = file
        self._machines = machines
        self._machine = machine
        self._renew = renew
        self._counting = keys_overview.Counting()

    async def expect(self, caller: Caller, action: Action, what: str) -> None:
        """Refuse *caller* what would be refused anyway, before anything is read: *what* is a name below the keyring's.

        Raises:
            Denied, AuditUnavailable
        """
        try:
            name = names.check(names.KEYRING + what)
        except InvalidName:
            return  # the act itself says what is wrong with it
        await self._door.expect(caller, action, [name])

    # What can be told

    @property
    def state(self) -> State:
        """The state, as far as it can be told at once: what is under way is not looked for."""
        return keys_overview.state_of(self._holder)

    @property
    def held(self) -> Held:
        """The keys that this worker holds, by their ids."""
        ring = self._holder.current
        return Held() if ring is None else Held(ring.kids, ring.active_generations[DEFAULT_KEYSET])

    async def check(self) -> State:
        """Return the state if the keyring that is in the store is the one in force, or the service is locked.

        Raises:
            Behind, Internal: it is another, and cannot be opened.
            Unavailable: the store does not answer.
        """
        await self._holder.look()
        return self.state

    async def whole_state(self) -> tuple[State, str]:
        """Return the state; ``rotating`` while the service is unlocked and something of the keyring is under way.

        Where the store does not tell what is, this is what can be told without it, and what is wrong with the store.
        """
        try:
            document, _ = await keys_overview.read(self._store, self._holder)
            if self.state == "unlocked" and await keys_overview.is_under_way(self._store, document):
                return "rotating", ""
        except StoreFails as error:
            return self.state, error.plain
        except StrongroomError:
            pass
        return self.state, ""

    @property
    def wrong_keys(self) -> int:
        """How many wrong unlock keys were tried since the last right one."""
        return self._holder.wrong_keys

    async def vitals(self) -> Vitals:
        """Return numbers of the whole keyring, which name nothing.

        Raises:
            StrongroomError: the keyring cannot be read now.
        """
        return await self._counting.vitals(self._store, self._holder, self._machines)

    async def status(self, caller: Caller) -> Overview:
        """Return all that can be told of the keyring now."""
        async with self._permitted(caller, Action.GET, "keys"):
            said = await keys_overview.tell(self._store, self._holder, self._machines)
            if said.state == "uninitialized":
                said.proposed = await self._proposal()
            return said

    async def _proposal(self) -> Mode:
        """Return what suits this service as it was set up: who was handed a key file is not to be asked for keys."""
        if await asyncio.to_thread(os.path.lexists, self._file.path):
            return "file"
        if self._machine is not None and await asyncio.to_thread(os.path.lexists, self._machine.path):
            return "machine"
        return "unlock"

    # The root key

    async def initialize(
        self,
        caller: Caller,
        mode: Mode,
        *,
        total: int = DEFAULT_TOTAL,
        needed: int | None = None,
        keys: int = 1,
        again: bool = False,
    ) -> KeysMade:
        """Make the store's first keyring, and return what people are given, this once.

        Args:
            caller: who asks.
            mode: who is to open it, as `Recipients` has it, and *total* and *needed* of them.
            total: how many unlock keys, or shares.
            needed: how many of the shares open.
            keys: how many keys a generation of a keyset has.
            again: in the place of one whose keys were lost before anything was encrypted under it.

        Raises:
            Exists: there is one.
            Invalid: nobody, or not so many, can be the recipients.
            InUse: it is to be made again, and something is encrypted under it.
        """
        async with self._permitted(caller, Action.PUT, "init"):
            recipients = Recipients(mode, total, needed)
            made = await rotation.initialize(
                self._store,
                recipients,
                self._file,
                keys,
                machines=self._machines,
                again=again,
                seen=self._holder.seen,
            )
            with suppress(StrongroomError):  # from here on nothing may keep the keys from who asked for them
                self._holder.changed()
                await self._holder.look_for_keyring()
                await self._holder.sync()
            return _made(made, recipients)

    async def take_back(self, caller: Caller, kid: str) -> None:
        """Undo `initialize`, whose keys could not be shown or were not typed back: the store has no keyring then.

        Raises:
            NotFound: that is no root key, or not the one in use.
            InUse: something is encrypted under it.
        """
        async with self._permitted(caller, Action.DELETE, f"init/{_root_kid(kid)}"):
            await rotation.take_back(self._store, kid)
            self._holder.forget()
            await self._holder.seen.forget()  # the next keyring is another one

    async def prepare_root(
        self,
        caller: Caller,
        mode: Mode,
        *,
        total: int = DEFAULT_TOTAL,
        needed: int | None = None,
        keep_file: bool = False,
    ) -> KeysMade:
        """Prepare the next root key, and return what people are given, this once; it opens nothing until confirmed.

        Args:
            caller: who asks.
            mode: as `initialize`.
            total: as `initialize`.
            needed: as `initialize`.
            keep_file: let the root key file that is there open it, instead of a new one.

        Raises:
            Invalid: nobody, or not so many, can be the recipients; or a key file cannot be made.
            InUse: a machine would be left without it.
        """
        async with self._permitted(caller, Action.PUT, "root"):
            recipients = Recipients(mode, total, needed, keep_file)
            async with self._changing() as root:
                made = await rotation.prepare(self._store, root, recipients, self._file, self._machines)
            return _made(made, recipients)

    async def confirm_root(self, caller: Caller, kid: str, text: str | None) -> None:
        """Put the root key that was prepared in the place of the one in use, if *text* shows that people open it.

        Raises:
            Invalid: what was typed does not show it; nothing was done.
            NotFound: that is no root key.
        """
        async with self._permitted(caller, Action.PUT, f"root/{_root_kid(kid)}"):
            async with self._changing() as root:
                machine = None if self._machine is None else await self._machine.read()
                new = await rotation.confirm(self._store, root, kid, text, self._file, self._machines, machine)
                self._holder.adopt(new)
                new.wipe()
            if text is not None and self.state == "locked":
                # Another worker saw the new root key before it could be shared, and locked the service for want of it.
                with suppress(StrongroomError):  # it is rotated all the same
                    await self._holder.unlock(text)

    async def abandon_root(self, caller: Caller, kid: str) -> None:
        """Drop the root key that was prepared.

        Raises:
            NotFound: no such one is prepared.
            InUse: it is in use.
        """
        async with self._permitted(caller, Action.DELETE, f"root/{_root_kid(kid)}"), self._changing() as root:
            await rotation.abandon(self._store, root, kid, self._file, self._machines)

    # Locking and unlocking

    async def unlock(self, caller: Caller, text: str | None) -> None:
        """Unlock the service with what people typed; None: with the file, or the key of this machine, as on starting.

        Raises:
            Invalid, WrongKey, TooManyAttempts, Exists: as `Holder.unlock`.
        """
        async with self._permitted(caller, Action.PUT, "unlock") as name:
            if text is None:
                await self._holder.unlock_unattended()
                return
            try:
                await self._holder.unlock(text)
            except WrongKey:
                await self._door.failed(caller, Action.PUT, name, WrongKey.code)
                raise

    async def lock(self, caller: Caller, *, forget: bool = False) -> None:
        """Lock the service, in every worker.

        Args:
            caller: who asks.
            forget: end the workers, too, for the kernel clears what Python cannot; others take their places.

        Raises:
            Invalid: *forget*, where nobody replaces workers; it is locked.
        """
        async with self._permitted(caller, Action.PUT, "lock"):
            self._holder.lock()
            if forget:
                if self._renew is None:
                    raise Invalid("it is locked, but nobody here replaces workers: start it anew")
                self._renew()

    # Keysets

    async def keysets(self, caller: Caller) -> list[Keyset]:
        """Return all keysets."""
        async with self._permitted(caller, Action.LIST, "keysets/"):
            document, _ = await keys_overview.read(self._store, self._holder)
            return await keys_overview.keysets(self._store, document)

    async def create_keyset(self, caller: Caller, name: str, keys: int) -> None:
        """Make a keyset, with *keys* keys a generation.

        Raises:
            Invalid, Exists: as `Document.with_keyset`.
        """
        async with self._permitted(caller, Action.PUT, f"keysets/{_keyset(name)}"):
            await self._edit(lambda document: document.with_keyset(name, stored.now(), keys))

    async def remove_keyset(self, caller: Caller, name: str) -> None:
        """Destroy a keyset, when nothing is under it.

        Raises:
            NotFound, InUse: as `sweep.remove_keyset`.
        """
        async with self._permitted(caller, Action.DELETE, f"keysets/{_keyset(name)}"), self._changing() as root:
            await sweep.remove_keyset(self._store, root, name)

    async def rotate(self, caller: Caller, name: str, keys: int | None) -> None:
        """Give a keyset a new generation, which all that is written from now on is under.

        Raises:
            NotFound, Invalid, InUse: as `Document.rotated`.
        """
        async with self._permitted(caller, Action.PUT, f"keysets/{_keyset(name)}/rotate"):
            await self._edit(lambda document: document.rotated(name, stored.now(), keys))

    async def revert(self, caller: Caller, name: str) -> None:
        """Let the generation before the active one be active again; re-encryption brings back what is under newer ones.

        Raises:
            NotFound, Invalid: as `Document.reverted`.
        """
        async with self._permitted(caller, Action.PUT, f"keysets/{_keyset(name)}/revert"):
            await self._edit(lambda document: document.reverted(name))

    async def assign(self, caller: Caller, container: str, name: str) -> None:
        """Let the records of *container*, and of those in it, be written under a keyset from now on.

        Raises:
            NotFound, Invalid, InUse: as `Document.assigned`.
        """
        try:
            place = names.check(container)
        except InvalidName as error:
            raise Invalid(str(error), (("container", "is not a container's name"),)) from None
        async with self._permitted(caller, Action.PUT, f"places/{place}"):
            await self._edit(lambda document: document.assigned(place, _keyset(name)))

    async def retire(self, caller: Caller, generation: str) -> None:
        """Destroy a generation of a keyset, when it is proven that nothing is under it.

        Raises:
            NotFound, InUse: as `sweep.retire`.
        """
        if generation_of(generation) != generation:
            raise Invalid("that is not a generation of a keyset", (("generation", "is not <keyset>.<number>"),))
        async with self._permitted(caller, Action.DELETE, f"generations/{generation}"), self._changing() as root:
            await sweep.retire(self._store, root, generation)

    # Re-encryption

    async def reencrypt(
        self,
        caller: Caller,
        name: str | None = None,
        after: str | None = None,
        limit: int = DEFAULT_LIMIT,
        *,
        resume: bool = False,
        pace: float = 1.0,
    ) -> Reencrypted:
        """Do one step of re-encryption; after the last one, see whether anything is left, and settle if nothing is.

        Args:
            caller: who asks.
            name: the keyset to bring records under; None: all of them.
            after: what the step before returned; None: at the beginning.
            limit: how many records to look at.
            resume: let a record that does not open stop nothing, also while its keyset is being reverted.
            pace: the part of the worker's time that the step may take.

        Raises:
            NotFound: there is no such keyset.
            Invalid: the step is too large, or at no pace.
            InUse: the index is not complete.
            Halted: the keyset is being reverted, and that cannot be done; every key is kept, and no secret is written
                until somebody resumes.
        """
        what = "reencrypt" if name is None else f"keysets/{_keyset(name)}/reencrypt"
        async with self._permitted(caller, Action.PUT, what):
            if not 1 <= limit <= MAX_LIMIT:
                raise Invalid(f"a step is of 1 to {MAX_LIMIT} records", (("limit", f"is not 1 to {MAX_LIMIT}"),))
            if not MIN_PACE <= pace <= 1:
                raise Invalid(f"a pace is {MIN_PACE} to 1", (("pace", f"is not {MIN_PACE} to 1"),))
            document, _ = await keys_overview.read(self._store, self._holder)
            wanted = document.keysets if name is None else {name: document.keyset(name)}
            reverting = sorted(each for each, keyset in wanted.items() if keyset.reverting)
            try:
                step = await self._step(
                    lambda: sweep.step(self._store, self._holder, name, after, limit, pace=pace),
                    ATTEMPTS if reverting else 1,
                )
            except Unavailable as error:
                if reverting:
                    raise await self._halt(reverting[0], f"the store refuses: {error}") from None
                raise
            if step.unreadable and reverting and not resume:
                raise await self._halt(reverting[0], f"{len(step.unreadable)} or more of its records do not open")
            if step.after is not None:
                return Reencrypted(step)
            left = await self._settle(name)
            return Reencrypted(step, settled=left is None, left=left or ())

    async def resume(self, caller: Caller, name: str, *, leave_unreadable: bool) -> None:
        """Write secrets again, when nothing is left of the reversal that failed.

        Args:
            caller: who asks.
            name: the keyset.
            leave_unreadable: also when something is left; it stays under the generations that it is under.

        Raises:
            NotFound: there is no such keyset.
            Invalid: it is the reversal of another keyset that failed.
            Halted: something is left.
        """
        async with self._permitted(caller, Action.PUT, f"keysets/{_keyset(name)}/resume"):
            document, _ = await keys_overview.read(self._store, self._holder)
            if document.halted is not None and document.halted.keyset != name:
                raise Invalid("it is another keyset whose reversal failed", (("keyset", "is not the halted one"),))
            left = await self._settle(name)
            if left is not None:
                if not leave_unreadable:
                    raise Halted(f"{name} is not reverted yet", left)
                await self._edit(lambda document: document.left_as_it_is(name))
                self._holder.resume()

    async def _step(self, act: Callable[[], Awaitable[sweep.Step]], attempts: int) -> sweep.Step:
        for attempt in range(1, attempts):
            with suppress(Unavailable):
                return await act()
            await asyncio.sleep(PAUSE * attempt)
        return await act()

    async def _settle(self, name: str | None) -> tuple[str, ...] | None:
        """Write down that nothing is left, and return None; or return some of what is."""
        try:
            async with self._changing() as root:
                document = await sweep.settle(self._store, root, name)
        except Overtaken:
            return ()  # another pass will tell
        except InUse as error:
            if not error.holders:
                raise
            return error.holders
        if document.halted is None and not any(keyset.reverting for keyset in document.keysets.values()):
            self._holder.resume()
        return None

    async def _halt(self, name: str, why: str) -> Halted:
        """Stop the writing of secrets, in the store or else in all workers of this service; return what to raise."""
        reason = f"{name} could not be reverted: {why}"
        step = Step("go on with", "key reencrypt", {"keyset": name, "resume": True})
        log.error("no secret is written from now on: %s", reason, extra={"next": (step,)})
        try:
            for _ in range(ATTEMPTS):
                with suppress(Overtaken):
                    await self._edit(lambda document: document.halt(name, stored.now(), reason))
                    break
        except StrongroomError:
            self._holder.halt()
        left: tuple[str, ...] = ()
        with suppress(StrongroomError):
            document, _ = await keys_overview.read(self._store, self._holder)
            left = await keys_overview.names_left(self._store, document, name)
        return Halted(reason, left).advising(step)

    # Key usage, backups and export

    async def usage(self, caller: Caller) -> Counted:
        """Return how many records are under each generation, by the index."""
        async with self._permitted(caller, Action.LIST, "usage"):
            document, _ = await keys_overview.read(self._store, self._holder)
            generations = await index.count(self._store, document.generations)
            return Counted(document.counted, generations)

    async def scan(self, caller: Caller, *, repair: bool) -> Scan:
        """Look at every record, and hold the index against what they are under; put right what it says wrongly."""
        async with self._permitted(caller, Action.PUT if repair else Action.GET, "usage/scan"):
            if repair:
                async with self._changing() as root:
                    await index.complete(self._store, root, self._holder)
            return await index.scan(self._store, self._holder)

    async def backups(self, caller: Caller) -> list[Backup]:
        """Return the registered backups."""
        async with self._permitted(caller, Action.LIST, "backups/"):
            document, _ = await keys_overview.read(self._store, self._holder)
            return keys_overview.backups(document)

    async def register_backup(self, caller: Caller, label: str) -> None:
        """Keep every generation of today for as long as the backup *label* is registered.

        Raises:
            Invalid, Exists: as `Document.with_backup`.
        """
        async with self._permitted(caller, Action.PUT, f"backups/{_label(label)}"):
            await self._edit(lambda document: document.with_backup(label, stored.now()))

    async def forget_backup(self, caller: Caller, label: str) -> None:
        """Let go of what the backup *label* needs.

        Raises:
            NotFound: none of that label is registered.
        """
        async with self._permitted(caller, Action.DELETE, f"backups/{_label(label)}"):
            await self._edit(lambda document: document.without_backup(label))

    async def export(self, caller: Caller) -> bytes:
        """Return the keyring as one file, in which everything secret is encrypted."""
        async with self._permitted(caller, Action.PUT, "export"), self._holder.root() as root:
            return await export(self._store, root, self._machines)

    # Decide, record, act

    @asynccontextmanager
    async def _permitted(self, caller: Caller, action: Action, what: str) -> AsyncIterator[str]:
        """Decide and record an act on ``system/keyring/<what>``, give out that name, and let the act be done inside."""
        name = names.KEYRING + what
        await self._door.permit(caller, action, [name])
        try:
            yield name
        except (StartupError, NotFollowed) as error:
            raise Unusable(str(error)).advising(*error.next) from None

    async def _edit(self, change: Callable[[Document], Document]) -> None:
        async with self._changing() as root:
            await stored.edit(self._store, root, change)

    @asynccontextmanager
    async def _changing(self) -> AsyncIterator[RootKey]:
        """Give the root key, and let all workers look at the keyring afterwards, be it known to have changed or not."""
        async with self._holder.root() as root:
            try:
                yield root
            finally:
                self._holder.changed()


def _made(made: Made, recipients: Recipients) -> KeysMade:
    needed = recipients.threshold if recipients.mode == "shares" else None
    return KeysMade(made.root, recipients.mode, made.secrets, needed)


# What stands in a name that is decided on and recorded is checked before; none of it is repeated.


def _keyset(name: str) -> str:
    if not is_keyset(name):
        raise Invalid("a keyset's name is 1 to 63 of [a-z0-9-]", (("name", "is not a keyset's name"),))
    return name


def _root_kid(kid: str) -> str:
    if not is_root_kid(kid):
        raise NotFound("there is no such root key")
    return kid


def _label(label: str) -> str:
    try:
        if "/" not in label:
            return names.check(label)
    except InvalidName:
        pass
    raise Invalid("a label is one segment of [A-Za-z0-9._@:+-]", (("label", "is not a label"),))

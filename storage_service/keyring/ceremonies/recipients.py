"""Who opens the keyring, besides machines: what is made for them, and how they show that it opens.

Keys that were shown to people, and turn out not to open when they are needed, are the end of a store. So a new root
key is used only after all that was made for it has opened it once: every unlock key, enough of the shares, the file as
it is on the disk, or the machine at hand where there are only machines.
"""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from strongroom.models.secret import Secret
from strongroom.storage_service.backends.base import Backend
from strongroom.storage_service.errors import Invalid, KeyringDamaged
from strongroom.storage_service.jose.key import Key
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.machines.document import MachineDocument
from strongroom.storage_service.keyring.machines.key import MachineKey
from strongroom.storage_service.keyring.machines.stored import MachineDocuments
from strongroom.storage_service.keyring.opening import unlock_keys, wraps
from strongroom.storage_service.keyring.opening.key_files import KeyFiles
from strongroom.storage_service.keyring.opening.unattended import as_recipient
from strongroom.storage_service.keyring.opening.unlock_keys import MAX_KEYS, Mistyped
from strongroom.storage_service.keyring.opening.wraps import Wrap
from strongroom.storage_service.keyring.rootkey import RootKey

Mode = Literal["file", "unlock", "shares", "machine"]


@dataclass(frozen=True, slots=True)
class Recipients:
    """Who is to open the keyring; machines that are authorized do so in every mode, in `machine` nobody else does.

    Args:
        mode: a root key file, unlock keys (any one opens), shares (some open together), or machines alone.
        total: how many unlock keys or shares there are to be.
        needed: how many of the shares open; None: more than half of them.
        keep_file: wrap for the root key file that is there, instead of making another.

    Raises:
        Invalid: there cannot be so many, or what is said does not go with the mode.
    """

    mode: Mode
    total: int = 5
    needed: int | None = None
    keep_file: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.total <= MAX_KEYS:
            raise Invalid(f"keys and shares are 1 to {MAX_KEYS}", (("total", f"is not 1 to {MAX_KEYS}"),))
        if self.needed is not None and self.mode != "shares":
            raise Invalid("a threshold is only for shares", (("needed", "is for shares"),))
        if not 1 <= self.threshold <= self.total:
            raise Invalid(
                "the threshold must be between 1 and the number of shares", (("needed", "is not 1 to the total"),)
            )
        if self.mode == "shares" and self.threshold == 1 < self.total:
            raise Invalid("for keys of which any one opens, use unlock keys", (("needed", "is 1"),))
        if self.keep_file and self.mode != "file":
            raise Invalid("only a root key file can be kept", (("keep_file", "is for a root key file"),))

    @property
    def threshold(self) -> int:
        """How many of the shares open."""
        return self.total // 2 + 1 if self.needed is None else self.needed


class Wrapped(NamedTuple):
    """A root key as it is to be stored, and what people are to be given, which is shown once and kept nowhere."""

    wraps: tuple[Wrap, ...]
    secrets: tuple[Secret, ...] = ()


async def wrap(root: RootKey, recipients: Recipients, file: RootKey | None) -> Wrapped:
    """Return *root* wrapped for *recipients*; *file* is the key in the root key file, where there is to be one."""
    now = stored.now()
    if recipients.mode == "unlock":
        made = await asyncio.to_thread(unlock_keys.make_keys, recipients.total)
        return Wrapped(tuple(_wrap(root, key, now) for _, key in made), tuple(secret for secret, _ in made))
    if recipients.mode == "shares":
        numbers = recipients.threshold, recipients.total
        shares, key = await asyncio.to_thread(unlock_keys.make_shares, *numbers)
        return Wrapped((_wrap(root, key, now, *numbers),), tuple(shares))
    return Wrapped(() if file is None else (_wrap(root, as_recipient(file), now),))


def _wrap(root: RootKey, key: Key, now: str, threshold: int | None = None, total: int | None = None) -> Wrap:
    """Return the wrap of *root* for *key*, which is wiped."""
    try:
        return wraps.wrap(root, key, now, threshold=threshold, total=total)
    finally:
        key.wipe()


def is_for_file(recipients: Collection[str]) -> bool:
    """Whether one of *recipients*, kids of keys, is a root key file."""
    return any(recipient.startswith("file.") for recipient in recipients)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What there is to show that a root key opens.

    Args:
        text: what people have typed: unlock keys or shares, a line each.
        files: the root key files.
        machines: where the documents of machines lie.
        machine: this machine's key.
    """

    text: str | None
    files: KeyFiles
    machines: MachineDocuments
    machine: MachineKey | None = None

    async def open(self, store: Backend, root: str, recipients: Collection[str]) -> RootKey:
        """Return the root key *root*, after all of *recipients* have opened it; the kids of their keys, none: machines.

        Raises:
            Mistyped: what was typed is wrong, or not enough.
            Invalid: the file that was prepared is not there, or this machine opens nothing.
            KeyringDamaged, ConfigurationError: a wrap is missing or broken, or of a later version.
            Unavailable: the store does not answer.
        """
        if not recipients:
            return await self._open_as_machine(root)
        keys = await self._keys(recipients)
        held = {wrap.recipient: wrap for wrap in await wraps.wraps_of(store, root)}
        if lost := [each for each in recipients if each not in held]:
            raise KeyringDamaged(f"the store has lost the wrap {lost[0]}; prepare another root key")
        for number, key in enumerate(keys, 1):
            if key.kid not in recipients:
                raise Mistyped(f"what was given, number {number}, does not belong to the new root key", number)
        if missing := len(recipients) - len({key.kid for key in keys}):
            raise Mistyped(
                f"{missing} of {len(recipients)} new keys were not given; all must be confirmed before any counts"
            )
        opened = [wraps.unwrap(held[key.kid], key) for key in keys]
        return opened[0]

    async def _keys(self, recipients: Collection[str]) -> Sequence[Key]:
        if is_for_file(recipients):
            return [as_recipient(await self.files.prepared(recipients))]
        return (await asyncio.to_thread(unlock_keys.parse, self.text or "")).keys

    async def _open_as_machine(self, root: str) -> RootKey:
        machine = self.machine
        entry = None if machine is None else await self.machines.get(machine.fingerprint)
        if machine is None or entry is None:
            raise Invalid("only machines open the new root key, and this machine is not one; confirm it on one of them")
        document = MachineDocument.decode(entry.value, machine.fingerprint)
        return await asyncio.to_thread(document.opened_by, machine, root)

"""The keyring of a store without its service: opened, changed and brought back by commands that hold the store.

Who does so says by which keys: the root key file, this machine's own key, or what people type. As the service does,
each tells an older keyring than the home has seen, and remembers the one that it leaves.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from strongroom.models.names import KEYRING_DOCUMENT
from strongroom.storage_service.backends.base import Backend
from strongroom.storage_service.config import ServiceSettings
from strongroom.storage_service.errors import StartupError, Uninitialized, WrongKey
from strongroom.storage_service.jose.jwe import kid_of
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.ceremonies import export
from strongroom.storage_service.keyring.ceremonies.enrolment import Enrolment, Opener, Record
from strongroom.storage_service.keyring.ceremonies.export import Exported
from strongroom.storage_service.keyring.ceremonies.restore import Restored, restore
from strongroom.storage_service.keyring.document import Document
from strongroom.storage_service.keyring.machines.endorsement import PinnedRoots
from strongroom.storage_service.keyring.machines.key import MachineKey
from strongroom.storage_service.keyring.machines.stored import documents_in
from strongroom.storage_service.keyring.opening import unlock_keys, wraps
from strongroom.storage_service.keyring.opening.unattended import KeyFile, MachineKeyFile, Way
from strongroom.storage_service.keyring.rootkey import RootKey
from strongroom.storage_service.keyring.seen import Seen
from strongroom.storage_service.keyring.shared_root import SharedRoot
from strongroom.storage_service.keyring.stored import Sealed, now

__all__ = ["Opened", "bring_back", "enrolment", "forget_seen", "now", "open_for_backup", "opener", "save_machines"]

Typed = Callable[[], str]
"""Asks people for unlock keys or shares, and returns what they type. It may block: nothing else waits for the loop."""


class Opened:
    """The key index in a store whose keyring was opened here: it knows which generations of keys a backup needs."""

    def __init__(self, store: Backend, root: RootKey, settings: ServiceSettings) -> None:
        self._store = store
        self._root = root
        self._settings = settings

    async def register(self, label: str) -> None:
        """Let it know a backup, which is about to be made."""
        await self._edit(lambda document: document.with_backup(label, now()))

    async def forget(self, label: str) -> None:
        """Let it forget that."""
        await self._edit(lambda document: document.without_backup(label))

    async def keyring(self, label: str) -> dict[str, Any] | None:
        """Return the keyring's export, if all versions in it are kept for that backup."""
        documents = documents_in(self._store, self._settings.machine_documents)
        text = await export.export(self._store, self._root, documents)
        document = export.prove(export.read(text), self._root)
        exported: dict[str, Any] = json.loads(text)
        return exported if set(document.backups[label].generations) >= set(document.generations) else None

    async def _edit(self, change: Callable[[Document], Document]) -> None:
        await stored.edit(self._store, self._root, change)


async def open_for_backup(
    store: Backend, settings: ServiceSettings, key_file: Path | None, typed: Typed, *, by_typing: bool
) -> Opened:
    """Return the key index of *store*, opened.

    Args:
        store: the bare store, opened.
        settings: of its service: the key files that this opens it with, and where the home keeps what it knows.
        key_file: a root key file that was said, in the place of these.
        typed: asks people, where no file opens it.
        by_typing: what people type is to open it, and no file.

    Raises:
        Uninitialized: there is no keyring.
        WrongKey: what was typed opens nothing.
        StartupError: the file does not; the text says what to do.
    """
    sealed = await stored.read(store)
    if sealed is None:
        raise Uninitialized("there is no keyring in the store, and so no secret")
    ways: list[Way] = [] if by_typing else [KeyFile(key_file or settings.root_key)]
    if not (by_typing or key_file) and settings.machine_key is not None:
        ways.append(MachineKeyFile(settings.machine_key, documents_in(store, settings.machine_documents)))
    root = await _opened(store, sealed.root, ways, typed)
    root.seen = await _seen(settings)  # or an older keyring would be given a new edition
    return Opened(store, root, settings)


async def enrolment(
    store: Backend, settings: ServiceSettings, path: Path, key: MachineKey, record: Record
) -> Enrolment:
    """Return what this machine does about itself and others.

    Args:
        store: the bare store, opened.
        settings: of its service.
        path: where this machine's own key lies; what it knows of root keys lies beside it.
        key: that key, from `files.read_own`.
        record: writes the audit log.
    """
    documents = documents_in(store, settings.machine_documents)
    return Enrolment(store, documents, key, record, knows=PinnedRoots(path), seen=await _seen(settings))


def opener(store: Backend, settings: ServiceSettings, typed: Typed, *, by_typing: bool) -> Opener:
    """Return what opens the keyring by the root key file, or, where *by_typing* or else only people can, by typing.

    It raises WrongKey where what was typed opens nothing, or machines alone open it; StartupError where the file does
    not open it, and nobody could.
    """

    async def open_root(sealed: Sealed) -> RootKey:
        if not by_typing and (root := await _by_file(store, settings.root_key, sealed.root)) is not None:
            return root
        return await _opened(store, sealed.root, (), typed)

    return open_root


async def bring_back(
    store: Backend, settings: ServiceSettings, exported: Exported, root: RootKey, *, replace: bool, leave: bool
) -> Restored:
    """Bring an exported keyring back, into one of another root key if the service's own file opens that.

    Args:
        store: the bare store, opened.
        settings: of its service.
        exported: the keyring.
        root: the root key in it, from `export.open_root`.
        replace: put it in the place of one that does not open.
        leave: do so although records open under none of its keys.

    Raises:
        StrongroomError: as `restore.restore`.
    """
    entry = await store.get(KEYRING_DOCUMENT)
    present = None if entry is None else kid_of(entry.value)
    own = None
    if present not in (None, root.kid) and not replace:
        with suppress(StartupError):  # then it is refused, and told why
            own = await KeyFile(settings.root_key).open(store, str(present))
    seen = await _seen(settings)
    return await restore(store, exported, root, own=own, replace=replace, leave_unreadable=leave, seen=seen)


async def save_machines(store: Backend, file: Path | None, exported: Exported) -> None:
    """Save the documents of machines that are not where they belong, *file* or the store, for they did not before."""
    documents = documents_in(store, file)
    for machine in exported.machines:
        if await documents.get(machine.fingerprint) is None:
            await documents.save(machine)


async def forget_seen(settings: ServiceSettings) -> None:
    """Take the next keyring on trust: who restores a store says that its keyring is right."""
    await Seen(SharedRoot(), settings.keyring_seen).forget()


async def _seen(settings: ServiceSettings) -> Seen:
    seen = Seen(SharedRoot(), settings.keyring_seen)
    await seen.load()
    return seen


async def _opened(store: Backend, root: str, ways: Sequence[Way], typed: Typed) -> RootKey:
    """Return the root key *root*, by one of *ways*, or else by what people type."""
    for way in ways:
        if (opened := await way.open(store, root)) is not None:
            return opened
    held = {each.recipient: each for each in await wraps.wraps_of(store, root)}
    for key in unlock_keys.parse(typed()).keys:
        if key.kid in held:
            return wraps.unwrap(held[key.kid], key)
    raise WrongKey("no key that was given opens the keyring")


async def _by_file(store: Backend, file: Path, root: str) -> RootKey | None:
    """Return the root key, opened by the root key file; None where somebody has to type.

    Raises:
        StartupError: the file does not open it, and nobody could.
        WrongKey: only machines open it.
    """
    failed: StartupError | None = None
    try:
        opened = await KeyFile(file).open(store, root)
    except StartupError as error:
        opened, failed = None, error
    if opened is not None or any(each.kind in wraps.HUMAN for each in await wraps.wraps_of(store, root)):
        return opened
    raise failed or WrongKey("the keyring is opened by machines alone, and this machine is not one of them")

"""Opening the keyring with nobody at hand: by the root key file, or by this machine's own key.

Each way returns the root key; None where it is not meant for this store; or raises with what the operator must mend.
All of it but the store is read off the event loop.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from strongroom.storage_service.backends.base import Backend
from strongroom.storage_service.errors import KeyFileMissing, WrongKey, WrongRootKey
from strongroom.storage_service.jose.key import Key
from strongroom.storage_service.keyring import rootkey
from strongroom.storage_service.keyring.machines import endorsement
from strongroom.storage_service.keyring.machines import key as machine_key
from strongroom.storage_service.keyring.machines.document import MachineDocument
from strongroom.storage_service.keyring.machines.endorsement import PinnedRoots
from strongroom.storage_service.keyring.machines.key import MachineKey
from strongroom.storage_service.keyring.machines.stored import MachineDocuments
from strongroom.storage_service.keyring.opening import next_file, wraps
from strongroom.storage_service.keyring.rootkey import RootKey

log: Final = logging.getLogger(__name__)


class Way(Protocol):
    """One way to the root key that needs no person."""

    async def open(self, backend: Backend, root: str) -> RootKey | None:
        """Return the root key with the kid *root*; None if this way was never given one for this store.

        Raises:
            StartupError: it was, but it does not open; the text says what to do.
            Unavailable: the store does not answer.
        """


@dataclass(frozen=True, slots=True)
class KeyFile:
    """The root key file at *path*, and the one beside it that a root rotation is about to put in its place."""

    path: Path

    async def open(self, backend: Backend, root: str) -> RootKey | None:
        """Return the root key that the file opens; as `Way` says.

        Raises:
            KeyFileMissing: the store has a wrap for such a file, but there is none.
            KeyFileUnusable: the file is no key, or is open to others.
            WrongRootKey: the store has wraps for other files only.
        """
        meant = {wrap.recipient: wrap for wrap in await wraps.wraps_of(backend, root) if wrap.kind == "file"}
        if not meant:
            return None
        found = await asyncio.to_thread(self._read)
        if not found:
            raise KeyFileMissing(
                f"the store holds secrets or their keys, but there is no root key file at {self.path}: restore the one "
                "that was made with this store; no new one will be made, as it could open none of them"
            )
        for path, key in found:
            if (wrap := meant.get(key.kid)) is not None:
                opened = wraps.unwrap(wrap, key)
                if path != self.path:  # the rotation that made it was cut off after its point of no return
                    await asyncio.to_thread(self._replace, key)
                return opened
        raise WrongRootKey(
            f"the store's root key is wrapped for {', '.join(sorted(meant))}, but {self.path} is {found[0][1].kid}: "
            f"put the {self.path.name} that was made with this store in its place"
        )

    async def make(self) -> Key:
        """Return the key in the file, made if there is none.

        Raises:
            KeyFileUnusable: the file cannot be made here, or the one that is here is not to be used.
        """
        return as_recipient(await asyncio.to_thread(rootkey.make, self.path))

    @property
    def next(self) -> Path:
        """The file that a root rotation is about to put in the place of this one."""
        return next_file.of(self.path)

    def _replace(self, key: Key) -> None:
        """Put the next file, which holds *key*, in the place of this one, unless somebody else is at these files."""
        with next_file.alone(self.path) as free:
            if free:
                next_file.take_place(self.path, key)

    def _read(self) -> Sequence[tuple[Path, Key]]:
        """Return the files that are there, this one first, each with its key."""
        found = []
        # The next one first: should it take the place of this one meanwhile, it is seen there.
        for path in (self.next, self.path):
            try:
                found.append((path, as_recipient(rootkey.read(path))))
            except KeyFileMissing:
                continue
        return found[::-1]


@dataclass(frozen=True, slots=True)
class MachineKeyFile:
    """This machine's own key in the file at *path*; its document is among *documents*, if it is authorized.

    Public keys are public, so that its wrap proves nothing: what it holds is accepted as `endorsement` says.
    """

    path: Path
    documents: MachineDocuments

    async def open(self, backend: Backend, root: str) -> RootKey | None:
        """Return the root key that the machine's wrap holds; as `Way` says.

        Raises:
            KeyFileUnusable: the file is no machine's key, or is open to others.
            WrongRootKey: the machine is authorized, but not for this root key; or it knows another one.
            KeyringDamaged, ConfigurationError: its document or wrap is broken, or of a later version.
        """
        key = await self.read()
        if key is None:
            return None
        entry = await self.documents.get(key.fingerprint)
        if entry is None:
            log.warning("this machine, %s, is not authorized to open the keyring, or no longer", key.fingerprint)
            return None
        document = MachineDocument.decode(entry.value, key.fingerprint)
        opened = await self._opened(document, key, root)
        if opened is not None:
            await endorsement.accept(backend, PinnedRoots(self.path), opened)
            return opened
        raise WrongRootKey(
            f"this machine, {document.name}, is authorized for another root key than the store's, which is {root}: on "
            f"an authorizer, revoke it and authorize it again"
        )

    async def _opened(self, document: MachineDocument, key: MachineKey, root: str) -> RootKey | None:
        try:
            return await asyncio.to_thread(document.opened_by, key, root)
        except WrongKey:
            return None

    async def read(self) -> MachineKey | None:
        """Return the key in the file; None if there is no file.

        Raises:
            KeyFileUnusable: the file is no machine's key, or is open to others.
        """
        try:
            return await asyncio.to_thread(machine_key.read_private, self.path)
        except KeyFileMissing:
            return None


def as_recipient(file: RootKey) -> Key:
    """Return the key in a root key file as the recipient of a wrap."""
    return Key("file." + file.kid.partition(".")[2], file.reveal())

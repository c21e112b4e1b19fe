"""Stores whose root key is rotated, and the hands that hold what opens them."""

import asyncio
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Final

from strongroom.models.names import WRAPS
from strongroom.storage_service.backends.base import MAX_PAGE, Backend, Change, Entry, Page, Put
from strongroom.storage_service.errors import KeyFileMissing
from strongroom.storage_service.jose.key import Key
from strongroom.storage_service.keyring import rootkey, stored
from strongroom.storage_service.keyring.ceremonies import rotation
from strongroom.storage_service.keyring.ceremonies.rotation import Made, Recipients
from strongroom.storage_service.keyring.document import Document
from strongroom.storage_service.keyring.machines.document import MachineDocument
from strongroom.storage_service.keyring.machines.key import Kind, MachineKey
from strongroom.storage_service.keyring.machines.stored import MachineDocuments, StoredDocuments
from strongroom.storage_service.keyring.opening import next_file, unlock_keys, wraps
from strongroom.storage_service.keyring.opening.unattended import KeyFile, as_recipient
from strongroom.storage_service.keyring.overlay import EncryptedBackend
from strongroom.storage_service.keyring.ring import Ring
from strongroom.storage_service.keyring.rootkey import RootKey
from tests.keyring import story
from tests.keyring.machine_keys import key_of

MACHINE: Final = key_of(Kind.EC)
CREATED: Final = 1763800000

_COPIES: Final = count()


@dataclass(frozen=True)
class Hand:
    """What somebody holds; one of these."""

    text: str | None = None
    file: Path | None = None
    machine: MachineKey | None = None

    async def open(self, store: Backend, machines: MachineDocuments) -> tuple[RootKey, Document] | None:
        """Return the root key in use and the keyring, or None if this opens neither."""
        sealed = await stored.read(store)
        if sealed is None:
            return None
        held = {wrap.recipient: wrap for wrap in await wraps.wraps_of(store, sealed.root)}
        root: RootKey | None = None
        for key in self._keys():
            root = wraps.unwrap(held[key.kid], key) if key.kid in held else root
        if self.machine is not None and (entry := await machines.get(self.machine.fingerprint)) is not None:
            document = MachineDocument.decode(entry.value, self.machine.fingerprint)
            root = document.opened_by(self.machine, sealed.root) if sealed.root in document.keys else root
        return None if root is None else (root, stored.open_document(sealed, root))

    def _keys(self) -> Sequence[Key]:
        if self.text is not None:
            return _parsed(self.text)
        if self.file is not None:
            # The next one first: should it take the place of the other meanwhile, it is seen there.
            found = [next_file.of(self.file), self.file]
            return [key for path in found if (key := _read(path)) is not None]
        return ()


@dataclass
class Site:
    """A store, the machine at hand, and its root key file."""

    store: Backend
    file: KeyFile
    machines: MachineDocuments
    machine: MachineKey = MACHINE

    @classmethod
    def at(cls, store: Backend, directory: Path) -> "Site":
        """Return the site of *store*, with its file in *directory*."""
        return cls(store, KeyFile(directory / "secrets.key"), StoredDocuments(store))

    def through(self, store: Backend) -> "Site":
        """Return the same as a process sees it whose store is *store*."""
        machines = StoredDocuments(store) if isinstance(self.machines, StoredDocuments) else self.machines
        return replace(self, store=store, machines=machines)

    async def initialize(self, to: Recipients, *, machine: bool = False) -> Made:
        """Make the first keyring, of which the machine is a recipient if it is to be one."""
        first = MachineDocument.new("db-1", self.machine.public_jwk(), CREATED) if machine else None
        return await rotation.initialize(self.store, to, self.file, machines=self.machines, machine=first)

    async def prepare(self, root: RootKey, to: Recipients) -> Made:
        return await rotation.prepare(self.store, root, to, self.file, self.machines)

    async def confirm(self, root: RootKey, made: Made, text: str | None = None) -> RootKey:
        """Confirm with everything that was made, or with *text*."""
        typed = typed_of(made) if text is None else text
        return await rotation.confirm(self.store, root, made.root, typed, self.file, self.machines, self.machine)

    async def rotate(self, root: RootKey, to: Recipients) -> tuple[RootKey, Made]:
        made = await self.prepare(root, to)
        return await self.confirm(root, made), made

    async def abandon(self, root: RootKey, made: Made) -> None:
        await rotation.abandon(self.store, root, made.root, self.file, self.machines)

    def hands(self, to: Recipients, made: Made) -> list[Hand]:
        """Return what each of those holds for whom *made* was made; of a file, a copy of it as it is now."""
        if to.mode == "unlock":
            return [Hand(text=secret.reveal()) for secret in made.secrets]
        if to.mode == "shares":
            shares = [secret.reveal() for secret in made.secrets]
            return [Hand(text="\n".join(random.sample(shares, to.threshold))) for _ in range(3)]
        if to.mode == "file":
            copy = self.file.path.with_name(f"copy-{next(_COPIES)}")
            shutil.copy(self.file.path, copy)
            return [Hand(file=copy)]
        return [Hand(machine=self.machine)]

    async def root(self, hand: Hand) -> RootKey | None:
        """Return the root key in use if *hand* opens it."""
        opened = await hand.open(self.store, self.machines)
        return None if opened is None else opened[0]

    async def roots(self) -> set[str]:
        """Return the kids of all root keys that there are wraps of."""
        found = {name.removeprefix(WRAPS).partition("/")[0] for name in await story.names(self.store, WRAPS)}
        for fingerprint, entry in (await self.machines.get_all()).items():
            document = MachineDocument.decode(entry.value, fingerprint)
            found |= {*document.keys, *document.meta.authorizer}
        return found

    async def snapshot(self) -> dict[str, bytes]:
        """Return all that is stored, and the files."""
        names = await story.names(self.store, "")
        there = {name: entry.value for name, entry in (await self.store.get_many(names)).items()} if names else {}
        directory = self.file.path.parent
        return there | {str(path): path.read_bytes() for path in directory.iterdir() if path.is_file()}

    def secrets(self, hands: Sequence[Hand]) -> EncryptedBackend:
        """Return the secrets as a process sees them that opens the keyring with any of *hands*."""
        return EncryptedBackend(self.store, Rings(self, hands))


def typed_of(made: Made) -> str:
    """Return all that people were given, typed."""
    return "\n".join(secret.reveal() for secret in made.secrets)


def _read(path: Path) -> Key | None:
    try:
        return as_recipient(rootkey.read(path))
    except KeyFileMissing:
        return None


@cache
def _parsed(text: str) -> Sequence[Key]:
    """Return the keys in *text*; combining shares takes its time, and stories ask often."""
    return unlock_keys.parse(text).keys


class Rings:
    """What gives out rings in a process that opens the keyring with any of *hands*; somebody adds new ones to them."""

    def __init__(self, site: Site, hands: Sequence[Hand]) -> None:
        self.current: Ring | None = None
        self._site = site
        self._hands = hands

    async def sync(self) -> Ring:
        """Return the ring to use now."""
        return self.current or await self._load()

    async def refresh(self, seen: Ring) -> Ring:
        """Return the ring of the keyring as it is in the store."""
        ring = await self._load()
        self.current = seen if ring.revision == seen.revision else ring
        return self.current

    async def _load(self) -> Ring:
        for _ in range(100):  # somebody may rotate between two looks, or be about to tell the new keys
            for hand in self._hands:
                sealed = await stored.read(self._site.store)
                opened = await hand.open(self._site.store, self._site.machines)
                if sealed is not None and opened is not None and opened[0].kid == sealed.root:
                    self.current = opened[1].ring(sealed.revision)
                    return self.current
            await asyncio.sleep(0.001)
        raise AssertionError("nobody opens the keyring")


class Writers:
    """Processes that write secrets until they are told to stop: each its own, again and again."""

    def __init__(self, site: Site, hands: Sequence[Hand], number: int) -> None:
        self.acknowledged: dict[str, bytes] = {}
        self._stopped = False
        self._tasks = [asyncio.create_task(self._write(f"secrets/writer-{n}", site, hands)) for n in range(number)]

    async def stop(self) -> None:
        """Stop, after each has written once more."""
        self._stopped = True
        await asyncio.gather(*self._tasks)

    async def _write(self, name: str, site: Site, hands: Sequence[Hand]) -> None:
        secrets = site.secrets(hands)
        last = False
        for number in count():
            value = b"%d" % number
            await secrets.commit([Put(f"{name}/{number % 3}", value)])
            self.acknowledged[f"{name}/{number % 3}"] = value
            await asyncio.sleep(0)
            if last:
                return
            last = self._stopped


class Breathing:
    """A store that lets others have their turn before each operation, as one does that is not in memory."""

    def __init__(self, store: Backend, max_batch: int | None = None) -> None:
        self._store = store
        self.max_batch = max_batch or store.max_batch

    async def open(self) -> None:
        await self._store.open()

    async def close(self) -> None:
        await self._store.close()

    async def get(self, name: str) -> Entry | None:
        await asyncio.sleep(0)
        return await self._store.get(name)

    async def get_many(self, names: Sequence[str], *, limit: int | None = None) -> Mapping[str, Entry]:
        await asyncio.sleep(0)
        return await self._store.get_many(names, limit=limit)

    async def list(self, prefix: str, after: str | None = None, limit: int = MAX_PAGE) -> Page:
        await asyncio.sleep(0)
        return await self._store.list(prefix, after, limit)

    async def commit(self, changes: Sequence[Change]) -> int:
        await asyncio.sleep(0)
        assert len(changes) <= self.max_batch
        return await self._store.commit(changes)

"""What stories about the keyring begin and end with: a store with a keyring, services that hold it, truths to check."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

from strongroom.models.names import ENCRYPTED, USAGE, is_container
from strongroom.storage_service.backends.base import Backend, Put, pages
from strongroom.storage_service.errors import Locked
from strongroom.storage_service.jose.jwe import kid_of
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.document import Document
from strongroom.storage_service.keyring.holder import Holder
from strongroom.storage_service.keyring.overlay import EncryptedBackend
from strongroom.storage_service.keyring.ring import DEFAULT_KEYSET, Keys, Ring, generation_of
from strongroom.storage_service.keyring.rootkey import RootKey
from strongroom.storage_service.keyring.shared_root import SharedRoot
from strongroom.storage_service.keyring.stored import Sealed
from strongroom.storage_service.keyring.usage import index, sweep
from strongroom.storage_service.keyring.usage.sweep import Step

BITS: Final = bytes(range(64))  # of the root key of every story
ROOT: Final = RootKey(BITS)
VALUES: Final[Mapping[str, bytes]] = {f"secrets/{number:03}": b"value %d" % number for number in range(7)}

Stores: TypeAlias = Callable[[], AbstractAsyncContextManager[Backend]]
"""Gives a store that nobody has used, opened, until its block ends."""


class Known:
    """A way to open the keyring with nobody at hand: to know the root key."""

    async def open(self, backend: Backend, root: str) -> RootKey | None:
        """Return the root key, if it is that one."""
        known = RootKey(BITS)
        return known if known.kid == root else None


class Worker(NamedTuple):
    """One worker of a service: what it holds, and the store as it sees it."""

    holder: Holder
    secrets: EncryptedBackend


@asynccontextmanager
async def opened(store: Backend, shared: SharedRoot | None = None) -> AsyncIterator[Worker]:
    """Give a worker on *store*: of a service of its own, or of the one whose *shared* root it is."""
    own = shared or SharedRoot()
    holder = Holder(store, own, [Known()])
    await holder.open()
    try:
        yield Worker(holder, EncryptedBackend(store, holder))
    finally:
        await holder.close()
        if shared is None:
            own.close()


class Rings:
    """What a process holds that knows the root key and nothing else: a Holder, without its page and its task."""

    def __init__(self, store: Backend) -> None:
        self.store = store
        self.current: Ring | None = None
        self.locked = False

    async def sync(self) -> Ring:
        """Return the ring to use now."""
        if self.locked:
            raise Locked("locked")
        return self.current or await self._load()

    async def refresh(self, seen: Ring) -> Ring:
        """Return the ring of the keyring as it is in the store."""
        if self.current is not None and self.current is not seen:
            return self.current
        ring = await self._load()
        if ring.revision == seen.revision:
            self.current = seen
        return await self.sync()

    def lock(self) -> None:
        """Drop the keys: whoever uses them still gets `Locked`."""
        self.locked = True
        if self.current is not None:
            self.current.wipe()
        self.current = None

    def unlock(self) -> None:
        """Let the keys be opened again."""
        self.locked = False

    async def _load(self) -> Ring:
        document, revision = await read_document(self.store)
        self.current = document.ring(revision)
        return self.current


async def initialize(store: Backend, keys: int = 1) -> None:
    """Give *store* its first keyring: keysets `default` and `access`, generations of so many keys."""
    await stored.create(store, ROOT, Document.new(stored.now(), keys), [])


async def read_document(store: Backend) -> tuple[Document, int]:
    """Return the keyring document and its revision."""
    sealed = await stored.read(store)
    assert sealed is not None
    return _opened(sealed), sealed.revision


@lru_cache(maxsize=64)
def _opened(sealed: Sealed) -> Document:
    # Tests that play thousands of orders open the same document again and again.
    return stored.open_document(sealed, ROOT)


async def change(store: Backend, how: Callable[[Document], Document]) -> Document:
    """Change the keyring document."""
    document, _ = await stored.edit(store, ROOT, how)
    return document


async def rotate(store: Backend, keyset: str = DEFAULT_KEYSET) -> Document:
    """Give *keyset* a new generation."""
    return await change(store, lambda said: said.rotated(keyset, stored.now()))


async def sweep_all(store: Backend, keys: Keys, keyset: str | None = None, limit: int = 100) -> Step:
    """Go through everything that is to be re-encrypted once, and return the sum of the steps."""
    moved = overtaken = 0
    unreadable: set[str] = set()
    after: str | None = None
    while True:
        step = await sweep.step(store, keys, keyset, after, limit)
        moved, overtaken, unreadable = moved + step.moved, overtaken + step.overtaken, unreadable | {*step.unreadable}
        after = step.after
        if after is None:
            return Step(moved, overtaken, tuple(sorted(unreadable)), None)


async def put_all(secrets: Backend, values: Mapping[str, bytes]) -> None:
    """Store all of *values*, one commit each."""
    for name, value in values.items():
        await secrets.commit([Put(name, value)])


async def read_all(secrets: Backend) -> dict[str, bytes]:
    """Return every value that is encrypted in the store, decrypted, by its name."""
    return {
        name: entry.value
        for prefix in ENCRYPTED
        for name, entry in (
            await secrets.get_many([n for n in await names(secrets, prefix) if not is_container(n)])
        ).items()
    }


async def names(store: Backend, prefix: str) -> list[str]:
    """Return all names under *prefix*."""
    return [name async for page in pages(store.list, prefix) for name in page]


async def rows(store: Backend) -> set[tuple[str, str]]:
    """Return generation and record of every row of the index."""
    return {tells for row in await names(store, USAGE) if (tells := index.read(row)) is not None}


async def generations(store: Backend) -> dict[str, str | None]:
    """Return the generation that each record in the bare *store* says it is under."""
    found: dict[str, str | None] = {}
    for prefix in ENCRYPTED:
        sealed = [name for name in await names(store, prefix) if not is_container(name)]
        for name, entry in (await store.get_many(sealed)).items():
            kid = kid_of(entry.value)
            found[name] = None if kid is None else generation_of(kid)
    return found


async def assert_index_is_true(store: Backend) -> None:
    """Assert that the bare *store* has one row for each record, under the generation that the record is under."""
    assert await rows(store) == {(generation, name) for name, generation in (await generations(store)).items()}
    assert len(await names(store, USAGE)) == len(await generations(store))

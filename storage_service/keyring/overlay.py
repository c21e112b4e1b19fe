"""Encryption as a backend round a backend: what lies below sees names, revisions and ciphertext."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from strongroom.models.names import KEYRING_DOCUMENT, USAGE, is_container
from strongroom.storage_service.backends.base import (
    MAX_PAGE,
    Backend,
    Change,
    Check,
    Conflict,
    Delete,
    Entry,
    Page,
    Put,
    Vacant,
    check_batch,
    check_limit,
    not_applied,
)
from strongroom.storage_service.backends.closed import Closed
from strongroom.storage_service.errors import Halted, Undecipherable
from strongroom.storage_service.jose.jwe import UNKNOWN, decrypt, encrypt, verified
from strongroom.storage_service.keyring import document
from strongroom.storage_service.keyring.ring import DataKey, Keys, Ring
from strongroom.storage_service.keyring.usage import index
from strongroom.storage_service.turns import Turns

T = TypeVar("T")

ATTEMPTS = 8  # at one batch, while others change the keyring
_LEAST = 3  # changes below for one here, and never fewer are reckoned with: a value, its row, and a row it had


class EncryptedBackend:
    """A backend whose values are ciphertext in the backend below, each bound to its name.

    The backend below is untrusted: a value that it changed, swapped or took from elsewhere does not open. It can
    still delete, or bring back what once stood under the same name. Names are not hidden from it. Containers carry no
    value; their marker is stored as it is. A value is at most `jwe.MAX_VALUE` bytes.

    Every batch also keeps the index, and holds only as long as the keyring is the one it was encrypted under: so no
    value is ever written under a key that was rotated away or retired meanwhile, by whichever process.

    Besides what every backend raises, everything raises `Locked` while there is no key; reading raises
    `Undecipherable` for a value that does not open (of a batch with such a value nothing is returned), and writing
    `Halted` while no value may be encrypted.
    """

    def __init__(self, backend: Backend, keys: Keys) -> None:
        self._backend = backend
        self._keys = keys

    def __repr__(self) -> str:
        return f"<EncryptedBackend round {self._backend!r}>"

    @property
    def max_batch(self) -> int:
        """Changes in one commit, at most: fewer than below, for each brings the rows of the index with it."""
        ring = self._keys.current
        widest = document.MAX_GENERATIONS if ring is None else ring.widest
        # One generation more than now, since the keyring may change between this and the commit; and the guard.
        return (self._backend.max_batch - 1) // (1 + widest + 1)

    async def open(self) -> None:
        """Open the backend below."""
        await self._backend.open()

    async def close(self) -> None:
        """Close the backend below."""
        await self._backend.close()

    async def get(self, name: str) -> Entry | None:
        """Return what is stored under *name*, decrypted."""
        ring = self._keys.current or await self._keys.sync()
        entry = await self._backend.get(name)
        if entry is None:
            return None
        try:  # PERF: without the detours that those take which do not open at once
            return Entry(decrypt(ring.at(name), name, entry.value), entry.revision)
        except Undecipherable:
            return await self._opened(ring, name, entry)

    async def get_many(self, names: Sequence[str], *, limit: int | None = None) -> Mapping[str, Entry]:
        """Return those of *names* that exist, decrypted; *limit* is of what is stored, and asked before."""
        ring = self._keys.current or await self._keys.sync()
        entries = await self._backend.get_many(names, limit=limit)
        turns = Turns()
        opened = {}
        for name, entry in entries.items():
            await turns.take()
            try:  # PERF: as in `get`
                opened[name] = Entry(decrypt(ring.at(name), name, entry.value), entry.revision)
            except Undecipherable:
                opened[name] = await self._opened(ring, name, entry)
        return opened

    async def get_closed(self, names: Sequence[str], *, limit: int | None = None) -> Mapping[str, Closed]:
        """Return those of *names* that exist, as `get_many`, each found to open and none of them opened.

        So much plaintext is in memory as whoever asked has opened and not let go of.
        """
        ring = self._keys.current or await self._keys.sync()
        entries = await self._backend.get_many(names, limit=limit)
        turns = Turns()
        closed: dict[str, Closed] = {}
        for name, entry in entries.items():
            await turns.take()
            closed[name] = await self._verified(ring, name, entry)
        return closed

    async def list(self, prefix: str, after: str | None = None, limit: int = MAX_PAGE) -> Page:
        """Return a page of the names that begin with *prefix*, without the rows of the index; nothing is decrypted."""
        check_limit(limit)
        if not self._keys.current:
            await self._keys.sync()
        if not (USAGE.startswith(prefix) or prefix.startswith(USAGE)):
            return await self._backend.list(prefix, after, limit)
        names: list[str] = []
        while True:
            page = await self._backend.list(prefix, after, limit - len(names))
            names += [name for name in page.names if not name.startswith(USAGE)]
            if not page.more or len(names) == limit:
                return Page(tuple(names), page.more)
            after = page.names[-1]

    async def commit(self, changes: Sequence[Change]) -> int:
        """Apply all of *changes* or none, each value encrypted under the active generation of its keyset."""
        check_batch(changes)
        if len(changes) > (self._backend.max_batch - 1) // _LEAST:
            raise ValueError(f"a batch to encrypt is at most {self.max_batch} changes")
        if any(isinstance(change, Put) and change.value and is_container(change.name) for change in changes):
            raise ValueError("a container carries no value")
        for _ in range(ATTEMPTS):
            ring = self._keys.current or await self._keys.sync()
            if ring.halted:  # unless the reversal was finished elsewhere, of which nothing but the store tells
                ring = await self._keys.refresh(ring)
            epoch = Check(KEYRING_DOCUMENT, ring.revision)
            sealed = await _sealed(ring, changes)
            batch = [*(change for group in sealed for change in group), epoch]
            if len(batch) > self._backend.max_batch:
                raise not_applied(f"the keyring has grown: a batch is at most {self.max_batch} changes now")
            try:
                return await self._backend.commit(batch)
            except Conflict as conflict:
                if epoch not in conflict.failed:
                    # The caller knows its own changes, not what became of them here.
                    own = {id(group[0]): change for group, change in zip(sealed, changes, strict=True)}
                    raise Conflict([own[id(change)] for change in conflict.failed]) from None
            await self._keys.refresh(ring)
        raise not_applied("others keep changing the keyring")

    async def _opened(self, ring: Ring, name: str, entry: Entry) -> Entry:
        """Return *entry* decrypted: with *ring*, or, if that does not have its key, with the one that took its place.

        Whatever was read with it is tried with *ring* all the same: it may be under a key that was retired since.
        """
        if is_container(name) and not entry.value:
            return entry
        return Entry(await self._tried(decrypt, ring, name, entry.value), entry.revision)

    async def _verified(self, ring: Ring, name: str, entry: Entry) -> Closed:
        """Return *entry*, found to open with one of the rings that `_opened` tries."""
        if is_container(name) and not entry.value:
            return Closed.of(entry)
        return Closed(entry.revision, (await self._tried(verified, ring, name, entry.value)).open)

    async def _tried(
        self, act: Callable[[Mapping[str, DataKey], str, bytes], T], ring: Ring, name: str, token: bytes
    ) -> T:
        try:
            return act(ring.at(name), name, token)
        except Undecipherable as error:
            if error.reason not in UNKNOWN or (newer := await self._keys.refresh(ring)) is ring:
                raise
        return act(newer.at(name), name, token)


async def _sealed(ring: Ring, changes: Sequence[Change]) -> list[list[Change]]:
    """Return for each of *changes* what is to be done below: first the change itself, then its rows in the index."""
    turns = Turns()
    sealed: list[list[Change]] = []
    for change in changes:
        if isinstance(change, (Check, Vacant)) or is_container(change.name):
            sealed.append([change])
        elif isinstance(change, Delete):
            sealed.append([change, *_uncounted(change.name, ring.generations_of(change.name))])
        else:
            if ring.halted:
                raise Halted("no secret is written until a reversal is finished")
            await turns.take()
            key, others = ring.choose(change.name)
            put = Put(change.name, encrypt(key, change.name, change.value), change.expected)
            counted = Put(index.row(key.generation, change.name), b"")
            sealed.append([put, counted, *_uncounted(change.name, others)])
    return sealed


def _uncounted(name: str, generations: Sequence[str]) -> list[Delete]:
    # Blindly: which of them has the row, if any, only a read could tell.
    return [Delete(index.row(generation, name)) for generation in generations]

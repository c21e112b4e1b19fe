"""Re-encryption of what is under old keys, and the end of keys that nothing is under any more.

    step            one bounded slice of re-encryption; by any number of processes at once, each at its own pace
    settle          nothing is left to re-encrypt: say so in the keyring document
    retire          nothing is under this generation any more, which is proven: destroy it
    remove_keyset   the same for all generations of a keyset

A record is moved from one key to another by a commit that holds only while the record is at the revision that was
read, and the keyring document at the revision of the ring in use; its row of the index moves with it. Whatever stops
a sweep, each record is thus under the old key or under the new one, and its row says which. What others write
meanwhile is under the new key already, and is left alone.

That nothing is left is found out while the document stays at one revision, and written with it at that revision or not
at all. No batch of older keys is accepted any more then, and none of those keys writes under what is to go: so nothing
can come in between.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final, NamedTuple

from strongroom.storage_service.backends.base import ABSENT, MAX_PAGE, Backend, Change, Delete, Put, Vacant, pages
from strongroom.storage_service.errors import InUse, NotFound, Undecipherable
from strongroom.storage_service.jose import jwe
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.document import Document
from strongroom.storage_service.keyring.ring import Keys, Ring
from strongroom.storage_service.keyring.rootkey import RootKey
from strongroom.storage_service.keyring.usage import index, records
from strongroom.storage_service.turns import Turns

IN_FLIGHT: Final = 4  # commits at once, so that they share a write to the disk: at full pace
GENTLE: Final = 14  # records in a commit, one at once, at any other: so little that nobody has to wait for it
NAMED: Final = 20  # holders that a refusal names; it counts them all
_CHANGES: Final = 3  # of one record, nearly always: itself, its new row, its old row


class Step(NamedTuple):
    """What one slice of re-encryption did, in records, and where the next one begins.

    Records that were *overtaken* had been written by others meanwhile; those that are *unreadable* do not open, and
    stay as they are. *after* is None when the end was reached. What was overtaken, or came under an old key while a
    rotation was under way, is found by another pass: it takes passes until `settle` agrees.
    """

    moved: int
    overtaken: int
    unreadable: tuple[str, ...]
    after: str | None


async def step(
    store: Backend, keys: Keys, keyset: str | None, after: str | None, limit: int, *, pace: float = 1.0
) -> Step:
    """Re-encrypt the next records that are not under the key that is right for them; also while writing is halted.

    Args:
        store: the store as it is, ciphertext.
        keys: gives the ring.
        keyset: the records under old generations of this one, and those that were assigned to it; None: of all keysets.
        after: where the last step ended; None: begin.
        limit: records to look at, at most.
        pace: which part of this event loop's time to take, above 0 and up to 1; below 1, what others do meanwhile
            goes on nearly as if nothing were.

    Raises:
        NotFound: there is no such keyset.
        Locked: there is no key; what was begun is done or not done, record by record.
        Unavailable: the store does not answer, or others keep changing the keyring; begin again from *after*.
    """
    ring = keys.current or await keys.sync()
    if after is None:
        ring = await keys.refresh(ring)  # a pass by a ring from before the rotation would find nothing to do
    if keyset is not None and keyset not in ring.active_generations:
        raise NotFound("there is no such keyset")
    rows = await _rows(store, _sources(ring, keyset), after, limit)
    sweep = _Sweep(store, keys, pace)
    await sweep.move(_due(ring, rows))
    end = rows[-1] if len(rows) == limit else None
    return Step(sweep.moved, sweep.overtaken, tuple(sorted(sweep.unreadable)), end)


async def settle(store: Backend, root: RootKey, keyset: str | None) -> Document:
    """Say in the keyring document that nothing is left to re-encrypt, of one keyset or of all, and return it.

    A reversal is over then, and so is the halt that waited for it.

    Raises:
        InUse: something is left; names some of the records.
        NotFound: there is no such keyset.
        Overtaken: somebody else changed the keyring meanwhile.
        WrongRootKey, KeyringDamaged, ConfigurationError: as `stored.open_document`.
        Unavailable: with its fate.
    """
    said, revision = await _read(store, root)
    if not said.counted:
        raise InUse("the key usage index is not complete: which records are under old keys cannot be told yet")
    settled = said
    for name in said.keysets if keyset is None else (keyset,):
        settled = settled.settled(name)
        if said.halted is not None and said.halted.keyset == name:
            settled = settled.resumed()
    left = _Holders()
    async for rows in due(store, said, keyset):
        left.add(name for _, name in rows)
    left.refuse("records are still to be re-encrypted")
    async for name in _shut_out(store, said, settled):
        left.add([name])
    left.refuse(
        "records are under a keyset that is to open nothing there any more, of which the key usage index says nothing"
    )
    if settled != said:
        settled, _ = await stored.replace(store, root, settled, revision)
    return settled


async def _shut_out(store: Backend, said: Document, settled: Document) -> AsyncGenerator[str, None]:
    """Give out the records that open by *said* and would not by *settled*, as they say themselves."""
    places = [prefix for prefix, each in said.places.items() if each.before and not settled.places[prefix].before]
    with _ring_of(said) as now, _ring_of(settled) as then:
        for prefix in places:
            async for name, generation in index.claims(store, prefix):
                if generation in now.generations_of(name) and generation not in then.generations_of(name):
                    yield name


async def due(store: Backend, said: Document, keyset: str | None) -> AsyncGenerator[Sequence[tuple[str, str]], None]:
    """Give out generation and name of the records still to be re-encrypted by *said*, of one keyset or of all."""
    with _ring_of(said) as ring:
        for prefix in _sources(ring, keyset):
            async for rows in pages(store.list, prefix):
                yield _due(ring, rows)


async def retire(store: Backend, root: RootKey, generation: str) -> Document:
    """Destroy *generation* of a keyset, when it is proven that nothing needs it, and return the document without it.

    Raises:
        InUse: it is active, or a backup needs it, or records are under it; names some of them.
        NotFound: there is no such generation.
        Overtaken: somebody else changed the keyring meanwhile; nothing was done.
        WrongRootKey, KeyringDamaged, ConfigurationError: as `stored.open_document`.
        Unavailable: with its fate.
    """
    return await _destroy(store, root, lambda said: said.without_generation(generation), index.rows_of(generation))


async def remove_keyset(store: Backend, root: RootKey, name: str) -> Document:
    """Destroy the keyset *name*, when it is proven that nothing needs it, and return the document without it.

    Raises:
        InUse: it is protected, or a container is assigned to it, or a backup needs it, or records are under it.
        and otherwise as `retire`.
    """
    return await _destroy(store, root, lambda said: said.without_keyset(name), index.rows_of_keyset(name))


# What is to be moved, and moving it


def _sources(ring: Ring, keyset: str | None) -> Sequence[str]:
    """Return the prefixes of the rows to go through for *keyset*, in byte order, none within another."""
    active = ring.active_generations
    wanted = active.keys() if keyset is None else {keyset}
    old = set(ring.generations) - set(active.values())
    found = {index.rows_of(generation) for generation in old if _keyset_of(generation) in wanted}
    for prefix, place in ring.places.items():
        if place.keyset in wanted:
            found |= {
                index.row(generation, prefix)
                for generation in ring.generations
                if _keyset_of(generation) in place.before
            }
    apart: list[str] = []
    for each in sorted(found):
        if not apart or not each.startswith(apart[-1]):
            apart.append(each)
    return apart


def _due(ring: Ring, rows: Iterable[str]) -> Sequence[tuple[str, str]]:
    """Return generation and name of the records that, by *rows*, are not under the generation they belong under."""
    active = ring.active_generations
    tells = filter(None, map(index.read, rows))
    return [(generation, name) for generation, name in tells if generation != active[ring.keyset_of(name)]]


def _keyset_of(generation: str) -> str:
    return generation.rpartition(".")[0]


async def _rows(store: Backend, prefixes: Iterable[str], after: str | None, limit: int) -> Sequence[str]:
    """Return the next rows under *prefixes*, which are in byte order, after the row *after*."""
    rows: list[str] = []
    for prefix in prefixes:
        more = after is None or prefix > after or after.startswith(prefix)
        while more and len(rows) < limit:
            page = await store.list(prefix, after, min(limit - len(rows), MAX_PAGE))
            rows += page.names
            after, more = rows[-1] if rows else after, page.more
    return rows


class _Sweep:
    """Moves records to the keys that are right for them, some at a time, with several commits under way."""

    def __init__(self, store: Backend, keys: Keys, pace: float) -> None:
        self.moved = 0
        self.overtaken = 0
        self.unreadable: set[str] = set()
        self._store = store
        self._keys = keys
        self._alone = asyncio.Lock()  # one encrypts, the others wait for the store
        self._turns = Turns(pace)
        full = (store.max_batch - 1) // _CHANGES
        self._in_flight, self._part = (IN_FLIGHT, full) if pace == 1 else (1, min(GENTLE, full))

    async def move(self, due: Sequence[tuple[str, str]]) -> None:
        """Move the records that are *due*, each given with the generation that its row tells of."""
        parts = records.parts(due, self._part)

        async def work() -> None:
            for part in parts:
                rows: dict[str, list[str]] = {}
                for generation, name in part:
                    rows.setdefault(name, []).append(generation)
                await records.under_one_ring(self._keys, partial(self._move, rows))

        tasks = [asyncio.create_task(work()) for _ in range(self._in_flight)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _move(self, rows: Mapping[str, Sequence[str]], ring: Ring) -> None:
        entries = await self._store.get_many([*rows])
        changes: dict[str, Sequence[Change]] = {}
        turns = self._turns
        async with self._alone:
            turns.begin()
            for name, generations in rows.items():
                if turns.over:
                    await turns.take()
                entry = entries.get(name)
                if entry is None or not index.is_counted(name):
                    changes[name] = index.corrected(name, ABSENT, None, generations)
                    continue
                try:
                    under, value = jwe.opened(ring.at(name), name, entry.value)
                except Undecipherable as error:
                    await records.see_newer(self._keys, ring, error)
                    self.unreadable.add(name)
                    continue
                target = ring.active(ring.keyset_of(name))
                if under.generation == target.generation:
                    changes[name] = index.corrected(name, entry.revision, under.generation, generations)
                    continue
                if turns.over:
                    await turns.take()
                changes[name] = [
                    Put(name, jwe.encrypt(target, name, value), entry.revision),
                    Put(index.row(target.generation, name), b""),
                    *(Delete(index.row(each, name)) for each in {under.generation, *generations} - {target.generation}),
                ]
            await turns.rest()
        for batch in records.batches(self._store, changes):
            done = await records.commit(self._store, ring, batch)
            self.moved += sum(isinstance(of[0], Put) for of in done.values())
            self.overtaken += len(batch) - len(done)


# What is to be destroyed


class _Holders:
    """Counts the records for which something is refused, and keeps the names of the first."""

    def __init__(self) -> None:
        self._count = 0
        self._names: list[str] = []

    def add(self, names: Iterable[str]) -> None:
        """Count these."""
        for name in names:
            self._count += 1
            if len(self._names) < NAMED:
                self._names.append(name)

    def refuse(self, because: str) -> None:
        """Raise InUse if there are any."""
        if self._count:
            raise InUse(f"{because}: {self._count}", tuple(self._names))


async def _destroy(store: Backend, root: RootKey, change: Callable[[Document], Document], rows: str) -> Document:
    """Destroy the generations that *change* leaves out, whose rows have the prefix *rows*, in one commit."""
    said, revision = await _read(store, root)
    left = change(said)
    gone = set(said.generations) - set(left.generations)
    holders = _Holders()
    async for page in pages(store.list, rows):
        holders.add(name for _, name in filter(None, map(index.read, page)))
    holders.refuse("records are still under it, to be re-encrypted first")
    # The rows are as untrusted as the store: what the records themselves say counts, too.
    async for name, generation in index.claims(store):
        if generation in gone:
            holders.add([name])
    holders.refuse("records are under it of which the key usage index says nothing, and which is to be repaired first")
    return (await stored.replace(store, root, left, revision, [Vacant(rows)]))[0]


async def _read(store: Backend, root: RootKey) -> tuple[Document, int]:
    """Return the keyring document and its revision."""
    said, sealed = await stored.current(store, root)
    return said, sealed.revision


@contextmanager
def _ring_of(said: Document) -> Iterator[Ring]:
    """Give the ring that *said* means, and wipe it: it is asked for no key."""
    ring = said.ring()
    try:
        yield ring
    finally:
        ring.wipe()

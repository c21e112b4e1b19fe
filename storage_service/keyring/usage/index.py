"""The key usage index: for every encrypted record an empty row that says which generation it is under.

    system/usage/default.3/secrets/hosts/10.0.0.7

The row is written and removed in the atomic batch that writes and removes the record, so that "what is still under this
generation?" is a listing of one prefix, exact at every moment. The rows are as untrusted as the store: somebody who
edits them can hide a record from a sweep, so a key is destroyed only after the records themselves were looked at, too.
A store that was imported, or is of an earlier form, begins without rows: there `complete` writes them.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from strongroom.models.names import ENCRYPTED, USAGE, is_container
from strongroom.storage_service.backends.base import ABSENT, Backend, Change, Check, Delete, Entry, Put, pages
from strongroom.storage_service.jose.jwe import kid_of
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.document import Document
from strongroom.storage_service.keyring.ring import DataKey, Keys, Ring, generation_of, is_kid
from strongroom.storage_service.keyring.rootkey import RootKey
from strongroom.storage_service.keyring.usage import records
from strongroom.storage_service.turns import Turns


def row(generation: str, name: str) -> str:
    """Return the name of the row that says: the record *name* is under *generation*."""
    return f"{USAGE}{generation}/{name}"


def rows_of(generation: str) -> str:
    """Return the prefix of all rows of *generation*."""
    return f"{USAGE}{generation}/"


def rows_of_keyset(keyset: str) -> str:
    """Return the prefix of all rows of all generations of *keyset*."""
    return f"{USAGE}{keyset}."


def read(row: str) -> tuple[str, str] | None:
    """Return the generation and the record that *row* tells of; None if it is no row."""
    generation, _, name = row.removeprefix(USAGE).partition("/")
    return (generation, name) if row.startswith(USAGE) and name and is_kid(generation) else None


def is_counted(name: str) -> bool:
    """Whether a record of that name has a row: what is encrypted has, and containers are not."""
    return name.startswith(ENCRYPTED) and not is_container(name)


# What the rows say


async def count(store: Backend, generations: Iterable[str]) -> dict[str, int]:
    """Return how many records are under each of *generations*, by the rows alone."""
    counts = dict.fromkeys(generations, 0)
    for generation in counts:
        async for rows in pages(store.list, rows_of(generation)):
            counts[generation] += len(rows)
            await asyncio.sleep(0)  # others get their turn after each page
    return counts


# What the records say


async def claims(store: Backend, within: str = "") -> AsyncIterator[tuple[str, str | None]]:
    """Give out every encrypted record whose name begins with *within*, and the generation that it says it is under.

    None for one that says none; nothing is opened.
    """
    turns = Turns()
    async for names in _sealed(store, within):
        entries = await store.get_many(names)
        turns.begin()
        for name, entry in entries.items():
            await turns.take()
            kid = kid_of(entry.value)
            yield name, None if kid is None else generation_of(kid)


class Scan(NamedTuple):
    """What a look at every record, opened, and at every row has found.

    *by_kid* and *by_generation* count the records under each key; *missing* are rows that should be there, *stale* ones
    that should not, and *unreadable* the records that open under no key, of whose rows nothing is said. Each record was
    seen with its row as of one moment, different records at different ones.
    """

    by_kid: Mapping[str, int]
    by_generation: Mapping[str, int]
    missing: tuple[str, ...]
    stale: tuple[str, ...]
    unreadable: tuple[str, ...]


async def scan(store: Backend, keys: Keys) -> Scan:
    """Open every record, and hold the index against what they are under.

    Args:
        store: the store as it is, ciphertext.
        keys: gives the ring.

    Raises:
        Locked: there is no key.
        Unavailable: the store does not answer, or others keep changing the keyring.
    """
    look = _Look(store, keys)
    by_kid: Counter[str] = Counter()
    by_generation: Counter[str] = Counter()
    missing: list[str] = []
    stale: list[str] = []
    unreadable: list[str] = []
    async for names in _sealed(store):
        under = await records.under_one_ring(keys, partial(look.at_records, names))
        unreadable += (name for name, key in under.items() if key is None)
        by_kid.update(key.kid for key in under.values() if key is not None)
        by_generation.update(key.generation for key in under.values() if key is not None)
        missing += await look.for_missing({name: key.generation for name, key in under.items() if key is not None})
    async for rows in pages(store.list, USAGE, records.READ):
        stale += await records.under_one_ring(keys, partial(look.at_rows, rows))
    return Scan(by_kid, by_generation, tuple(missing), tuple(stale), tuple(unreadable))


class _Look:
    """Looks at some records, or at some rows, at once."""

    def __init__(self, store: Backend, keys: Keys) -> None:
        self._store = store
        self._keys = keys
        self._turns = Turns()

    async def at_records(self, names: Sequence[str], ring: Ring) -> Mapping[str, DataKey | None]:
        """Return the key that each record opens under, None for none."""
        under: dict[str, DataKey | None] = {}
        entries = await self._store.get_many(names)
        self._turns.begin()
        for name, entry in entries.items():
            await self._turns.take()
            opened = await records.opened(self._keys, ring, name, entry.value)
            under[name] = None if opened is None else opened[0]
        return under

    async def for_missing(self, under: Mapping[str, str]) -> Sequence[str]:
        """Return the rows that are not there of records *under* these generations."""
        rows = {row(generation, name): name for name, generation in under.items()}
        lacking = rows.keys() - (await self._store.get_many([*rows])).keys()
        if not lacking:
            return ()
        # Records that were written meanwhile have their rows elsewhere: only what is seen at one moment counts.
        entries = await self._store.get_many([*lacking, *(rows[each] for each in lacking)])
        return sorted(
            each
            for each in lacking
            if each not in entries and (entry := entries.get(rows[each])) and under[rows[each]] == _claim(entry)
        )

    async def at_rows(self, rows: Sequence[str], ring: Ring) -> Sequence[str]:
        """Return those of *rows* that tell of a record that is not there, or opens under another generation."""
        said = {row: tells for row in rows if (tells := read(row)) is not None}
        entries = await self._store.get_many([*said, *{name for _, name in said.values()}])
        self._turns.begin()
        stale = []
        for each, (generation, name) in said.items():
            await self._turns.take()
            entry = entries.get(name) if is_counted(name) else None
            if each in entries and (entry is None or await self._is_under_another(ring, generation, name, entry)):
                stale.append(each)
        return stale

    async def _is_under_another(self, ring: Ring, generation: str, name: str, entry: Entry) -> bool:
        if _claim(entry) == generation:
            return False
        opened = await records.opened(self._keys, ring, name, entry.value)
        return opened is not None and opened[0].generation != generation


async def repair(store: Backend, keys: Keys, found: Scan) -> None:
    """Put the rows that are missing by *found*, and remove those that are stale.

    What others have written since is right already, and is left alone; another scan tells.

    Raises:
        Locked: there is no key.
        Unavailable: the store does not answer, or others keep changing the keyring; begin again with a scan.
    """
    wrong: dict[str, list[str]] = {}
    for generation, name in filter(None, map(read, (*found.missing, *found.stale))):
        wrong.setdefault(name, []).append(generation)
    turns = Turns()

    async def right(names: Sequence[str], ring: Ring) -> None:
        entries = await store.get_many(names)
        turns.begin()
        changes: dict[str, Sequence[Change]] = {}
        for name in names:
            await turns.take()
            entry = entries.get(name)
            revision = ABSENT if entry is None else entry.revision
            generation = None
            if entry is not None and is_counted(name):
                opened = await records.opened(keys, ring, name, entry.value)
                if opened is None:
                    continue
                generation = opened[0].generation
            changes[name] = corrected(name, revision, generation, wrong[name])
        for batch in records.batches(store, changes):
            await records.commit(store, ring, batch)

    for names in records.parts([*wrong], records.READ):
        await records.under_one_ring(keys, partial(right, names))


async def complete(store: Backend, root: RootKey, keys: Keys) -> Document:
    """Write the rows of a store that has not had them from its first record on, and say so in the keyring document.

    Every write keeps the index, so that what a scan finds whole stays whole; killed before the end, begin again.

    Raises:
        Overtaken: somebody else changed the keyring meanwhile.
        Locked: there is no key.
        Unavailable: the store does not answer, or others keep changing the keyring.
    """
    while (found := await scan(store, keys)).missing or found.stale:
        await repair(store, keys, found)
    said, _ = await stored.edit(store, root, Document.with_index)
    return said


def corrected(name: str, revision: int, generation: str | None, rows: Iterable[str]) -> Sequence[Change]:
    """Return the changes that leave of a record the row of *generation* alone (None: no row), if it is at *revision*.

    Args:
        name: the record; rows of what is not counted are removed, whatever that is.
        revision: as the record was read, `ABSENT` where it is not there.
        generation: what it is under.
        rows: the generations that have a row of it, or may have.
    """
    guard = (Check(name, revision),) if is_counted(name) else ()
    put = () if generation is None else (Put(row(generation, name), b""),)
    return [*guard, *put, *(Delete(row(each, name)) for each in rows if each != generation)]


async def _sealed(store: Backend, within: str = "") -> AsyncIterator[Sequence[str]]:
    for prefix in ENCRYPTED:
        if not (within.startswith(prefix) or prefix.startswith(within)):
            continue
        async for names in pages(store.list, max(prefix, within, key=len), records.READ):
            if counted := [name for name in names if is_counted(name)]:
                yield counted


def _claim(entry: Entry) -> str | None:
    kid = kid_of(entry.value)
    return None if kid is None else generation_of(kid)

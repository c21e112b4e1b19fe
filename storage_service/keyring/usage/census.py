"""The census: for every encrypted record an empty row that says which version it is under.

    system/census/default.3/secrets/hosts/10.0.0.7

The row is written and removed in the atomic batch that writes and removes the record, so that "what is still under
this version?" is a listing of one prefix, exact at every moment. The rows are as untrusted as the store: somebody who
edits them can hide a record from a sweep, so a key is destroyed only after the records themselves were looked at, too.
A store that was imported, or is of an earlier form, begins without rows: there `complete` writes them.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from strongroom.models.names import CENSUS, ENCRYPTED, is_container
from strongroom.storage_service.backends.base import ABSENT, Backend, Change, Check, Delete, Entry, Put, pages
from strongroom.storage_service.jose.envelope import kid_of
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.document import Document
from strongroom.storage_service.keyring.ring import DataKey, Keys, Ring, is_kid, version_of
from strongroom.storage_service.keyring.rootkey import RootKey
from strongroom.storage_service.keyring.usage import records
from strongroom.storage_service.turns import Turns


def row(version: str, name: str) -> str:
    """Return the name of the row that says: the record *name* is under *version*."""
    return f"{CENSUS}{version}/{name}"


def rows_of(version: str) -> str:
    """Return the prefix of all rows of *version*."""
    return f"{CENSUS}{version}/"


def rows_of_keyset(keyset: str) -> str:
    """Return the prefix of all rows of all versions of *keyset*."""
    return f"{CENSUS}{keyset}."


def read(row: str) -> tuple[str, str] | None:
    """Return the version and the record that *row* tells of; None if it is no row."""
    version, _, name = row.removeprefix(CENSUS).partition("/")
    return (version, name) if row.startswith(CENSUS) and name and is_kid(version) else None


def is_counted(name: str) -> bool:
    """Whether a record of that name has a row: what is encrypted has, and containers are not."""
    return name.startswith(ENCRYPTED) and not is_container(name)


# What the rows say


async def count(store: Backend, versions: Iterable[str]) -> dict[str, int]:
    """Return how many records are under each of *versions*, by the rows alone."""
    return {version: sum([len(rows) async for rows in pages(store.list, rows_of(version))]) for version in versions}


# What the records say


async def claims(store: Backend, within: str = "") -> AsyncIterator[tuple[str, str | None]]:
    """Give out every encrypted record whose name begins with *within*, and the version that it says it is under.

    None for one that says none; nothing is opened.
    """
    turns = Turns()
    async for names in _sealed(store, within):
        entries = await store.get_many(names)
        turns.begin()
        for name, entry in entries.items():
            await turns.take()
            kid = kid_of(entry.value)
            yield name, None if kid is None else version_of(kid)


class Scan(NamedTuple):
    """What a look at every record, opened, and at every row has found.

    *by_kid* and *by_version* count the records under each key; *missing* are rows that should be there, *stale* ones
    that should not, and *unreadable* the records that open under no key, of whose rows nothing is said. Each record was
    seen with its row as of one moment, different records at different ones.
    """

    by_kid: Mapping[str, int]
    by_version: Mapping[str, int]
    missing: tuple[str, ...]
    stale: tuple[str, ...]
    unreadable: tuple[str, ...]


async def scan(store: Backend, keys: Keys) -> Scan:
    """Open every record, and hold the census against what they are under.

    Args:
        store: the store as it is, ciphertext.
        keys: gives the ring.

    Raises:
        Locked: there is no key.
        Unavailable: the store does not answer, or others keep changing the keyring.
    """
    look = _Look(store, keys)
    by_kid: Counter[str] = Counter()
    by_version: Counter[str] = Counter()
    missing: list[str] = []
    stale: list[str] = []
    unreadable: list[str] = []
    async for names in _sealed(store):
        under = await records.under_one_ring(keys, partial(look.at_records, names))
        unreadable += (name for name, key in under.items() if key is None)
        by_kid.update(key.kid for key in under.values() if key is not None)
        by_version.update(key.version for key in under.values() if key is not None)
        missing += await look.for_missing({name: key.version for name, key in under.items() if key is not None})
    async for rows in pages(store.list, CENSUS, records.READ):
        stale += await records.under_one_ring(keys, partial(look.at_rows, rows))
    return Scan(by_kid, by_version, tuple(missing), tuple(stale), tuple(unreadable))


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
        """Return the rows that are not there of records *under* these versions."""
        rows = {row(version, name): name for name, version in under.items()}
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
        """Return those of *rows* that tell of a record that is not there, or opens under another version."""
        said = {row: tells for row in rows if (tells := read(row)) is not None}
        entries = await self._store.get_many([*said, *{name for _, name in said.values()}])
        self._turns.begin()
        stale = []
        for each, (version, name) in said.items():
            await self._turns.take()
            entry = entries.get(name) if is_counted(name) else None
            if each in entries and (entry is None or await self._is_under_another(ring, version, name, entry)):
                stale.append(each)
        return stale

    async def _is_under_another(self, ring: Ring, version: str, name: str, entry: Entry) -> bool:
        if _claim(entry) == version:
            return False
        opened = await records.opened(self._keys, ring, name, entry.value)
        return opened is not None and opened[0].version != version


async def repair(store: Backend, keys: Keys, found: Scan) -> None:
    """Put the rows that are missing by *found*, and remove those that are stale.

    What others have written since is right already, and is left alone; another scan tells.

    Raises:
        Locked: there is no key.
        Unavailable: the store does not answer, or others keep changing the keyring; begin again with a scan.
    """
    wrong: dict[str, list[str]] = {}
    for version, name in filter(None, map(read, (*found.missing, *found.stale))):
        wrong.setdefault(name, []).append(version)
    turns = Turns()

    async def right(names: Sequence[str], ring: Ring) -> None:
        entries = await store.get_many(names)
        turns.begin()
        changes: dict[str, Sequence[Change]] = {}
        for name in names:
            await turns.take()
            entry = entries.get(name)
            revision = ABSENT if entry is None else entry.revision
            version = None
            if entry is not None and is_counted(name):
                opened = await records.opened(keys, ring, name, entry.value)
                if opened is None:
                    continue
                version = opened[0].version
            changes[name] = corrected(name, revision, version, wrong[name])
        for batch in records.batches(store, changes):
            await records.commit(store, ring, batch)

    for names in records.parts([*wrong], records.READ):
        await records.under_one_ring(keys, partial(right, names))


async def complete(store: Backend, root: RootKey, keys: Keys) -> Document:
    """Write the rows of a store that has not had them from its first record on, and say so in the keyring document.

    Every write keeps the census, so that what a scan finds whole stays whole; killed before the end, begin again.

    Raises:
        Overtaken: somebody else changed the keyring meanwhile.
        Locked: there is no key.
        Unavailable: the store does not answer, or others keep changing the keyring.
    """
    while (found := await scan(store, keys)).missing or found.stale:
        await repair(store, keys, found)
    said, _ = await stored.edit(store, root, Document.with_census)
    return said


def corrected(name: str, revision: int, version: str | None, rows: Iterable[str]) -> Sequence[Change]:
    """Return the changes that leave of a record the row of *version* alone (None: no row), if it is at *revision*.

    Args:
        name: the record; rows of what is not counted are removed, whatever that is.
        revision: as the record was read, `ABSENT` where it is not there.
        version: what it is under.
        rows: the versions that have a row of it, or may have.
    """
    guard = (Check(name, revision),) if is_counted(name) else ()
    put = () if version is None else (Put(row(version, name), b""),)
    return [*guard, *put, *(Delete(row(each, name)) for each in rows if each != version)]


async def _sealed(store: Backend, within: str = "") -> AsyncIterator[Sequence[str]]:
    for prefix in ENCRYPTED:
        if not (within.startswith(prefix) or prefix.startswith(within)):
            continue
        async for names in pages(store.list, max(prefix, within, key=len), records.READ):
            if counted := [name for name in names if is_counted(name)]:
                yield counted


def _claim(entry: Entry) -> str | None:
    kid = kid_of(entry.value)
    return None if kid is None else version_of(kid)

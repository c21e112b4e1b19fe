"""The index: one row for each record, right at every moment; and what is done for a store that came without."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final

import pytest

from strongroom.models.names import USAGE
from strongroom.storage_service.backends.base import ABSENT, MAX_PAGE, Backend, Change, Check, Delete, Entry, Page, Put
from strongroom.storage_service.backends.faulty import Fault, FaultyBackend, Killed
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import Locked
from strongroom.storage_service.keyring.document import Document
from strongroom.storage_service.keyring.overlay import EncryptedBackend
from strongroom.storage_service.keyring.usage import index
from tests.keyring.story import (
    ROOT,
    VALUES,
    Rings,
    assert_index_is_true,
    change,
    initialize,
    names,
    put_all,
    read_all,
    rotate,
    rows,
)

NOW: Final = "2026-01-02T03:04:05Z"


async def begin(store: Backend, keys: int = 1) -> Rings:
    """Store the values under ``default.1`` and return who holds its keys."""
    await initialize(store, keys)
    rings = Rings(store)
    await put_all(EncryptedBackend(store, rings), VALUES)
    return rings


async def memory() -> tuple[MemoryBackend, Rings]:
    """Return a store in memory that `begin` was done with."""
    store = MemoryBackend()
    await store.open()
    return store, await begin(store)


async def strip(store: Backend) -> None:
    """Take all rows away, and let the document say that they were never there, as after an import."""
    rows_there = await names(store, USAGE)
    await store.commit([Delete(row) for row in rows_there])
    await change(store, lambda said: Document(said.keysets, said.numbers, said.places, counted=False))


# Rows.

SPELLINGS: Final = {
    "system/usage/default.1/secrets/a": ("default.1", "secrets/a"),
    "system/usage/default.12/secrets/hosts/10.0.0.7": ("default.12", "secrets/hosts/10.0.0.7"),
    "system/usage/access.1/system/access/key": ("access.1", "system/access/key"),
    "system/usage/default.1/": None,
    "system/usage/default.1": None,
    "system/usage/default/secrets/a": None,
    "system/usage/default.0/secrets/a": None,
    "system/usage/root.1234567890123456/secrets/a": None,
    "system/keyring/keys": None,
    "secrets/a": None,
}


@pytest.mark.parametrize(("row", "tells"), SPELLINGS.items(), ids=SPELLINGS)
def test_a_row_tells_generation_and_record(row: str, tells: tuple[str, str] | None) -> None:
    """A row is read as it was written, and what is no row tells nothing."""
    assert index.read(row) == tells
    if tells is not None:
        generation, name = tells
        assert index.row(generation, name) == row
        assert row.startswith(index.rows_of(generation))
        assert row.startswith(index.rows_of_keyset(generation.partition(".")[0]))


def test_prefixes_of_rows_do_not_overlap() -> None:
    """The rows of one generation, or keyset, are not found among those of another that begins with the same letters."""
    assert not index.row("default.12", "secrets/a").startswith(index.rows_of("default.1"))
    assert not index.row("default-2.1", "secrets/a").startswith(index.rows_of_keyset("default"))


async def test_every_write_keeps_the_index(store: Backend) -> None:
    """Writing, writing again after a rotation, and deleting leave one row a record, and none of what is gone."""
    rings = await begin(store)
    secrets = EncryptedBackend(store, rings)
    await assert_index_is_true(store)

    await rotate(store)
    await secrets.commit([Put("secrets/000", b"new"), Put("secrets/001", b"new"), Delete("secrets/002")])
    await secrets.commit([Put("secrets/container/", b""), Delete("secrets/001")])

    await assert_index_is_true(store)
    assert await index.count(store, ["default.1", "default.2", "access.1", "default.3"]) == {
        "default.1": 4,
        "default.2": 1,
        "access.1": 0,
        "default.3": 0,
    }


# Scanning and repairing.


async def test_a_scan_counts_what_opens() -> None:
    """Every record is counted under the key and the generation that it opens under."""
    store = MemoryBackend()
    await store.open()
    rings = await begin(store, keys=2)
    await rotate(store, "access")
    await EncryptedBackend(store, rings).commit([Put("system/access/key", b"hash")])

    found = await index.scan(store, rings)

    assert found.by_generation == {"default.1": len(VALUES), "access.2": 1}
    assert sum(found.by_kid.values()) == len(VALUES) + 1
    assert {*found.by_kid} <= {"default.1.1", "default.1.2", "access.2.1", "access.2.2"}
    assert (found.missing, found.stale, found.unreadable) == ((), (), ())


DAMAGE: Final[dict[str, tuple[Sequence[Change], tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]]]] = {
    "a row was removed": (
        [Delete("system/usage/default.1/secrets/003")],
        (("system/usage/default.1/secrets/003",), (), ()),
    ),
    "a row was added": (
        [Put("system/usage/access.1/secrets/003", b"")],
        ((), ("system/usage/access.1/secrets/003",), ()),
    ),
    "a row was moved": (
        [Delete("system/usage/default.1/secrets/003"), Put("system/usage/access.1/secrets/003", b"")],
        (("system/usage/default.1/secrets/003",), ("system/usage/access.1/secrets/003",), ()),
    ),
    "a row of nothing": (
        [Put("system/usage/default.1/secrets/gone", b"")],
        ((), ("system/usage/default.1/secrets/gone",), ()),
    ),
    "a row of a generation that never was": (
        [Put("system/usage/default.7/secrets/003", b"")],
        ((), ("system/usage/default.7/secrets/003",), ()),
    ),
    "a row of a container": (
        [Put("secrets/c/", b""), Put("system/usage/default.1/secrets/c/", b"")],
        ((), ("system/usage/default.1/secrets/c/",), ()),
    ),
    "a row of a plain record": (
        [Put("hosts/a", b"{}"), Put("system/usage/default.1/hosts/a", b"")],
        ((), ("system/usage/default.1/hosts/a",), ()),
    ),
    "a row of the keyring": (
        [Put("system/usage/default.1/system/keyring/keys", b"")],
        ((), ("system/usage/default.1/system/keyring/keys",), ()),
    ),
    "a record was removed": (
        [Delete("secrets/003")],
        ((), ("system/usage/default.1/secrets/003",), ()),
    ),
    "a value was damaged": (
        [Put("secrets/003", b"damaged")],
        ((), (), ("secrets/003",)),
    ),
    "a value was damaged and its row removed": (
        [Put("secrets/003", b"damaged"), Delete("system/usage/default.1/secrets/003")],
        ((), (), ("secrets/003",)),
    ),
}


@pytest.mark.parametrize(("damage", "found"), DAMAGE.values(), ids=DAMAGE)
async def test_damage_is_found_and_repaired(
    damage: Sequence[Change], found: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
) -> None:
    """What somebody did to the store is found, and the rows put right; values are not touched."""
    store, rings = await memory()
    await store.commit(damage)
    before = {name: await store.get(name) for name in VALUES}

    scan = await index.scan(store, rings)
    assert (scan.missing, scan.stale, scan.unreadable) == found
    await index.repair(store, rings, scan)

    again = await index.scan(store, rings)
    assert (again.missing, again.stale, again.unreadable) == ((), (), found[2])
    assert {name: await store.get(name) for name in VALUES} == before
    assert await store.get("system/keyring/keys") is not None


async def test_the_row_of_what_does_not_open_stays() -> None:
    """A damaged value may be restored: until then its row keeps the key that opens it from being destroyed."""
    store, rings = await memory()
    await store.commit([Put("secrets/003", b"damaged")])
    await index.repair(store, rings, await index.scan(store, rings))

    assert ("default.1", "secrets/003") in await rows(store)


async def test_what_was_written_since_the_scan_is_left_alone(store: Backend) -> None:
    """A repair by an old scan does nothing to records that others have written, moved or deleted since."""
    rings = await begin(store)
    await store.commit(
        [
            *(Delete(index.row("default.1", f"secrets/{number:03}")) for number in range(4)),
            Put(index.row("access.1", "secrets/000"), b""),
        ]
    )
    scan = await index.scan(store, rings)
    await rotate(store)
    secrets = EncryptedBackend(store, Rings(store))
    await secrets.commit([Put("secrets/000", b"new"), Delete("secrets/001")])

    await index.repair(store, rings, scan)

    await assert_index_is_true(store)


async def test_a_scan_follows_a_rotation() -> None:
    """Values under a key that is newer than the ring that the scan began with are no damage."""
    store, rings = await memory()
    await rings.sync()
    await rotate(store)
    await EncryptedBackend(store, Rings(store)).commit([Put("secrets/000", b"new")])
    assert rings.current is not None
    assert rings.current.revision != (await Rings(store).sync()).revision

    found = await index.scan(store, rings)

    assert (found.unreadable, found.missing, found.stale) == ((), (), ())
    assert found.by_generation == {"default.1": len(VALUES) - 1, "default.2": 1}


class Overtaken(FaultyBackend):
    """A store that somebody else writes right before the operation of a number."""

    def __init__(self, store: Backend, at: int, write: Callable[[], Awaitable[object]]) -> None:
        super().__init__(store)
        self._at = at
        self._write = write
        self.written = False

    async def get_many(self, names: Sequence[str], *, limit: int | None = None) -> Mapping[str, Entry]:
        """Let them write first."""
        await self._perhaps()
        return await super().get_many(names, limit=limit)

    async def list(self, prefix: str, after: str | None = None, limit: int = MAX_PAGE) -> Page:
        """Let them write first."""
        await self._perhaps()
        return await super().list(prefix, after, limit)

    async def _perhaps(self) -> None:
        if len(self.operations) >= self._at and not self.written:
            self.written = True
            await self._write()


async def test_a_scan_takes_no_write_for_damage() -> None:
    """What is moved to another key, deleted or new between any two looks of a scan is neither missing nor stale."""
    at = 0
    while True:
        store, rings = await memory()
        await rotate(store)
        writer = EncryptedBackend(store, Rings(store))
        batch: list[Change] = [Put("secrets/000", b"moved"), Delete("secrets/001"), Put("secrets/new", b"new")]
        meddled = Overtaken(store, at, partial(writer.commit, batch))

        found = await index.scan(meddled, rings)

        assert (found.missing, found.stale, found.unreadable) == ((), (), ()), at
        if not meddled.written:
            break
        at += 1
    assert at > 5


async def test_nothing_is_scanned_while_locked() -> None:
    """Without keys nothing can be said of what opens."""
    store, rings = await memory()
    rings.lock()
    with pytest.raises(Locked):
        await index.scan(store, rings)


async def test_claims_are_what_the_values_say() -> None:
    """What a value says it is under is given out without any key, None where it says nothing that can be read."""
    store, _ = await memory()
    await store.commit([Put("secrets/003", b"damaged"), Put("secrets/container/", b"")])

    claims = {name: generation async for name, generation in index.claims(store)}

    assert claims == dict.fromkeys(VALUES, "default.1") | {"secrets/003": None}


# A store that came without.


@pytest.mark.parametrize("fault", [Fault.DIE_BEFORE, Fault.DIE_AFTER])
async def test_an_index_is_completed(fault: Fault) -> None:
    """At whichever operation the process is killed, beginning again ends with a true index, and says so."""
    operation, killed = 0, True
    while killed:
        store, _ = await memory()
        await strip(store)
        dying = FaultyBackend(store, {operation: fault})
        try:
            await index.complete(dying, ROOT, Rings(dying))
            killed = False
        except Killed:
            operation += 1
        assert (await index.complete(store, ROOT, Rings(store))).counted
        await assert_index_is_true(store)
        assert await read_all(EncryptedBackend(store, Rings(store))) == VALUES
    assert operation > 10


async def test_an_index_is_completed_while_others_write() -> None:
    """What is written while the rows are completed has its row from that write on, and none that is older."""
    store, _ = await memory()
    await strip(store)
    secrets = EncryptedBackend(store, Rings(store))
    number = 0

    class Busy(FaultyBackend):
        """A store on which somebody else writes before every commit."""

        async def commit(self, changes: Sequence[Change]) -> int:
            nonlocal number
            number += 1
            if number < 5:
                await secrets.commit([Put(f"secrets/{number:03}", b"new"), Delete(f"secrets/{number + 1:03}")])
            return await super().commit(changes)

    busy = Busy(store)
    assert (await index.complete(busy, ROOT, Rings(busy))).counted

    assert number > 2
    await assert_index_is_true(store)


def test_a_correction_guards_the_record() -> None:
    """Rows are corrected only while the record is as it was read, but those of what is not counted in any case."""
    assert index.corrected("secrets/a", 7, "default.2", ["default.1", "default.2"]) == [
        Check("secrets/a", 7),
        Put("system/usage/default.2/secrets/a", b""),
        Delete("system/usage/default.1/secrets/a"),
    ]
    assert index.corrected("secrets/a", ABSENT, None, ["default.1"])[0] == Check("secrets/a", ABSENT)
    assert index.corrected("hosts/a", ABSENT, None, ["default.1"]) == [Delete("system/usage/default.1/hosts/a")]

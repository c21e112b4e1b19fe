"""An exported keyring comes back: with a copy of the records and one key everything reads, and nothing is ever lost."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from strongroom.models.names import ENCRYPTED, KEYRING_DOCUMENT, MACHINES
from strongroom.models.secret import Secret
from strongroom.storage_service.access.apikeys import ApiKeys
from strongroom.storage_service.backends.base import Backend, Change, Delete, Entry, Put
from strongroom.storage_service.backends.faulty import Fault, FaultyBackend, Killed
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import Exists, InUse, KeyringDamaged, Overtaken, StrongroomError, Unavailable
from strongroom.storage_service.jose.key import Key
from strongroom.storage_service.keyring import shared_root, stored
from strongroom.storage_service.keyring.ceremonies import export
from strongroom.storage_service.keyring.ceremonies.export import Exported
from strongroom.storage_service.keyring.ceremonies.restore import Restored, restore, union
from strongroom.storage_service.keyring.document import Document, Pending
from strongroom.storage_service.keyring.holder import Holder
from strongroom.storage_service.keyring.machines.stored import FileDocuments
from strongroom.storage_service.keyring.opening import wraps
from strongroom.storage_service.keyring.overlay import EncryptedBackend
from strongroom.storage_service.keyring.ring import Ring
from strongroom.storage_service.keyring.rootkey import RootKey
from strongroom.storage_service.keyring.usage import index, sweep
from tests.directories import directory_of
from tests.keyring import holders, story
from tests.keyring.holders import ROOT, held
from tests.keyring.machine_keys import NEXT_ROOT
from tests.keyring.story import Stores

VALUES: Final[Mapping[str, bytes]] = {
    "secrets/old": b"under default.1",
    "secrets/hosts/10.0.0.7": b"under hosts.1",
    "secrets/hosts/10.0.0.8": b"under default.1, to be moved",
    "secrets/new": b"under default.2",
}


class Fixed:
    """Keys that somebody holds who knows this root key."""

    def __init__(self, store: Backend, root: RootKey) -> None:
        self._store = store
        self._root = root
        self.current: Ring | None = None

    async def sync(self) -> Ring:
        found = await stored.read(self._store)
        assert found is not None
        self.current = stored.open_document(found, self._root).ring(found.revision)
        return self.current

    async def refresh(self, seen: Ring) -> Ring:
        return await self.sync()


async def lived_in(store: Backend) -> str:
    """Give *store* a keyring for every recipient, a keyset more, a rotation, secrets and an API key; return that."""
    await holders.initialize(store, keys=2)
    keys = Fixed(store, ROOT)
    secrets = EncryptedBackend(store, keys)
    await secrets.commit([Put("secrets/hosts/", b"")])
    await story.put_all(secrets, {name: VALUES[name] for name in ("secrets/old", "secrets/hosts/10.0.0.8")})
    await stored.edit(store, ROOT, lambda said: said.with_keyset("hosts", holders.CREATED))
    await stored.edit(store, ROOT, lambda said: said.assigned("secrets/hosts/", "hosts").rotated("default", "", 1))
    await keys.sync()
    await story.put_all(secrets, {name: VALUES[name] for name in ("secrets/new", "secrets/hosts/10.0.0.7")})
    key, _ = await ApiKeys(directory_of(store, secrets), ("own", Secret("own"))).create("backup", ["/secrets"], ["get"])
    return key.reveal()


async def copy(store: Backend, other: Backend, prefixes: Sequence[str]) -> None:
    """Copy what lies under *prefixes* as it lies there: what any dump of a store is."""
    for prefix in prefixes:
        for name in await story.names(store, prefix):
            entry = await store.get(name)
            assert entry is not None
            await other.commit([Put(name, entry.value)])


async def everything(store: Backend) -> Mapping[str, bytes]:
    names = await story.names(store, "")
    return {name: entry.value for name, entry in (await store.get_many(names)).items()}


async def secrets_of(store: Backend, root: RootKey = ROOT) -> dict[str, bytes]:
    """Return every secret, as a holder of that root key reads it."""
    read = await story.read_all(EncryptedBackend(store, Fixed(store, root)))
    return {name: value for name, value in read.items() if name.startswith("secrets/")}


async def document_of(store: Backend, root: RootKey = ROOT) -> Document:
    found = await stored.read(store)
    assert found is not None
    return stored.open_document(found, root)


async def exported_from(store: Backend, root: RootKey = ROOT) -> Exported:
    return export.read(await export.export(store, root))


@asynccontextmanager
async def unlocked(store: Backend, key: str) -> AsyncIterator[Holder]:
    """Give what a service holds that was started on *store*, and unlocked with *key*."""
    shared = shared_root.SharedRoot()
    holder = Holder(store, shared, [])
    await holder.open()
    try:
        await holder.unlock(key)
        yield holder
    finally:
        await holder.close()
        shared.close()


@pytest.fixture
async def memory() -> Callable[[], Awaitable[MemoryBackend]]:
    """Makes stores in memory."""

    async def made() -> MemoryBackend:
        store = MemoryBackend()
        await store.open()
        return store

    return made


# The walk: a machine is gone, and its keyring's file, a dump and one unlock key are left.


@pytest.mark.parametrize("dump", [ENCRYPTED, ("",)], ids=["records", "everything"])
async def test_a_dump_the_file_and_one_unlock_key_are_enough(stores: Stores, dump: Sequence[str]) -> None:
    """On a fresh store everything reads again, API keys included, and the index is true once it was completed."""
    async with stores() as lost, stores() as fresh:
        key = await lived_in(lost)
        text = await export.export(lost, ROOT)
        await copy(lost, fresh, dump)

        exported = export.read(text)
        root = export.open_root(exported, held().unlock_keys[0])
        restored = await restore(fresh, exported, root)

        had_keyring = dump == ("",)
        assert restored.added == (() if had_keyring else ("access.1", "default.1", "default.2", "hosts.1"))
        assert restored.root == ROOT.kid and not restored.unreadable and not restored.counted
        async with unlocked(fresh, held().unlock_keys[1]) as holder:
            secrets = EncryptedBackend(fresh, holder)
            assert {name: (await story.read_all(secrets))[name] for name in VALUES} == VALUES
            assert await ApiKeys(directory_of(fresh, secrets), ("own", Secret("own"))).authenticate("backup", key)
            await index.complete(fresh, ROOT, holder)
            await story.assert_index_is_true(fresh)
            assert (await document_of(fresh)).counted
        assert held().document.encode() == (await everything(fresh))[MACHINES + held().machine.fingerprint]


async def test_a_store_without_records_needs_no_count(stores: Stores) -> None:
    """Where nothing is encrypted yet, the index is complete as it is, for it says that of nothing."""
    async with stores() as lost, stores() as fresh:
        await lived_in(lost)

        restored = await restore(fresh, await exported_from(lost), ROOT)

        assert restored.counted and (await document_of(fresh)).counted


async def test_a_rotation_that_was_under_way_is_not_under_way_any_more(stores: Stores) -> None:
    """A root key that was prepared, and not yet in use, is in no export: the keyring that comes back knows of none."""
    async with stores() as lost, stores() as fresh:
        await lived_in(lost)
        pending = Pending(NEXT_ROOT.kid, holders.CREATED, ("unlock.another",))
        await stored.edit(lost, ROOT, lambda said: said.with_pending(pending))

        await restore(fresh, await exported_from(lost), ROOT)

        assert (await document_of(fresh)).pending is None


async def test_machines_may_come_back_into_a_file(
    memory: Callable[[], Awaitable[MemoryBackend]], tmp_path: Path
) -> None:
    """Where documents of machines are kept in a file, that is where they come back to."""
    lost, fresh = await memory(), await memory()
    await lived_in(lost)
    documents = FileDocuments(tmp_path / "machines.json")

    await restore(fresh, await exported_from(lost), ROOT, machines=documents)

    assert [*await documents.get_all()] == [held().machine.fingerprint]
    assert await story.names(fresh, MACHINES) == []


async def test_a_keyring_for_very_many_comes_in_batches(stores: Stores) -> None:
    """More recipients than fit into one commit come before the document, which is what makes them count."""
    many = [Key(f"unlock.{n:03}", bytes([n]) * 64) for n in range(200)]
    async with stores() as lost, stores() as fresh:
        await holders.initialize(lost)
        for start in range(0, len(many), 100):
            await lost.commit([wraps.put(wraps.wrap(ROOT, key, "")) for key in many[start : start + 100]])
        exported = await exported_from(lost)

        await restore(fresh, exported, ROOT)

        wrapped = {wrap.recipient: wrap for wrap in await wraps.wraps_of(fresh, ROOT.kid)}
        assert all(wraps.unwrap(wrapped[key.kid], key) == ROOT for key in many)
        assert (await document_of(fresh)).generations == ("access.1", "default.1")


# Into a keyring that is there.


@pytest.fixture
async def store(memory: Callable[[], Awaitable[MemoryBackend]]) -> MemoryBackend:
    """A store in memory that was lived in."""
    made = await memory()
    await lived_in(made)
    return made


async def test_a_generation_that_was_retired_comes_back_and_is_not_active(store: MemoryBackend) -> None:
    """A record from an old backup reads again, under its old generation; nothing new is written under that."""
    exported = await exported_from(store)
    old = await store.get("secrets/old")
    assert old is not None
    keys = Fixed(store, ROOT)
    while (await sweep.step(store, keys, None, None, 100)).after is not None:
        pass
    await sweep.settle(store, ROOT, None)
    await sweep.retire(store, ROOT, "default.1")
    await stored.edit(store, ROOT, lambda said: said.rotated("default", ""))
    await store.commit([Put("secrets/old", old.value)])

    restored = await restore(store, exported, ROOT)

    assert restored.added == ("default.1",)
    document = await document_of(store)
    assert document.generations == ("access.1", "default.1", "default.2", "default.3", "hosts.1")
    assert (document.active_generations["default"], document.numbers["default"]) == ("default.3", 3)
    assert await secrets_of(store) == VALUES


async def test_machines_that_were_revoked_do_not_come_back(store: MemoryBackend) -> None:
    """Into a keyring that is there come generations, and wraps of the same root key, but no machine."""
    exported = await exported_from(store)
    wrap = wraps.name_of(ROOT.kid, held().wraps[1].recipient)
    await store.commit([Delete(MACHINES + held().machine.fingerprint), Put(wrap, b"damaged")])

    await restore(store, exported, ROOT)

    assert await story.names(store, MACHINES) == []
    async with unlocked(store, held().unlock_keys[0]):
        assert await secrets_of(store) == VALUES


@pytest.fixture
async def rotated(store: MemoryBackend) -> Exported:
    """What was exported before the root key was rotated, and with it default; the old wraps are gone."""
    exported = await exported_from(store)
    document, revision = await story.read_document(store)
    dropped = await wraps.others_than(store, NEXT_ROOT.kid)
    await stored.replace(store, NEXT_ROOT, document.rotated("default", ""), revision, dropped)
    return exported


async def test_another_root_key_is_refused(store: MemoryBackend, rotated: Exported) -> None:
    """A store whose keyring is under another root key stays as it is, and the refusal names both."""
    before = await everything(store)

    with pytest.raises(Exists, match=f"{NEXT_ROOT.kid}.*{ROOT.kid}"):
        await restore(store, rotated, ROOT)

    assert await everything(store) == before


async def test_with_both_root_keys_they_are_joined(store: MemoryBackend, rotated: Exported) -> None:
    """Who opens the store's keyring as well adds to it, under the root key that it has; its recipients stay."""
    before = await everything(store)

    restored = await restore(store, rotated, ROOT, own=NEXT_ROOT)

    assert (restored.root, restored.added) == (NEXT_ROOT.kid, ())
    assert (await document_of(store, NEXT_ROOT)).active_generations["default"] == "default.3"
    assert {name for name, value in (await everything(store)).items() if before.get(name) != value} == {
        KEYRING_DOCUMENT
    }


async def test_a_keyring_that_nothing_needs_is_replaced_if_so_told(
    store: MemoryBackend, memory: Callable[[], Awaitable[MemoryBackend]]
) -> None:
    """A fresh service made a keyring of its own before the dump came: the exported one takes its place."""
    fresh = await memory()
    await stored.create(fresh, NEXT_ROOT, Document.new(""), [])
    await copy(store, fresh, ENCRYPTED)

    restored = await restore(fresh, await exported_from(store), ROOT, replace=True)

    assert restored.root == ROOT.kid and not restored.counted
    assert await secrets_of(fresh) == VALUES


@pytest.mark.parametrize("rest", [b"", b"cut", b"eyJ.."])
async def test_a_damaged_document_is_replaced_only_if_so_told(store: MemoryBackend, rest: bytes) -> None:
    """What lies in the place of the keyring and is none stops the import, unless it is told to replace it."""
    exported = await exported_from(store)
    entry = await store.get(KEYRING_DOCUMENT)
    assert entry is not None
    await store.commit([Put(KEYRING_DOCUMENT, rest or entry.value[:-8] + b"AAAAAAAA")])

    with pytest.raises(KeyringDamaged):
        await restore(store, exported, ROOT)
    await restore(store, exported, ROOT, replace=True)

    assert await secrets_of(store) == VALUES


@pytest.mark.parametrize("replace", [False, True])
async def test_keys_that_records_need_are_not_left_behind(
    store: MemoryBackend, memory: Callable[[], Awaitable[MemoryBackend]], replace: bool
) -> None:
    """Records under keys that the export does not have are named before anything is written, and nothing is."""
    exported = await exported_from(store)
    await stored.edit(store, ROOT, lambda said: said.rotated("default", ""))
    await EncryptedBackend(store, Fixed(store, ROOT)).commit([Put("secrets/later", b"under default.3")])
    fresh = await memory()
    if replace:
        await stored.create(fresh, NEXT_ROOT, Document.new(""), [])
    await copy(store, fresh, ENCRYPTED)
    before = await everything(fresh)

    with pytest.raises(InUse, match=r"1 records .* under default\.3") as caught:
        await restore(fresh, exported, ROOT, replace=replace)

    assert caught.value.holders == ("secrets/later",)
    assert await everything(fresh) == before


async def test_left_behind_by_order_their_numbers_are_not_given_out_again(
    store: MemoryBackend, memory: Callable[[], Awaitable[MemoryBackend]]
) -> None:
    """Told to, it leaves records unreadable and names them; no new key gets the id that they are under."""
    exported = await exported_from(store)
    await stored.edit(store, ROOT, lambda said: said.rotated("default", ""))
    await EncryptedBackend(store, Fixed(store, ROOT)).commit([Put("secrets/later", b"under default.3")])
    fresh = await memory()
    await copy(store, fresh, ENCRYPTED)

    restored = await restore(fresh, exported, ROOT, leave_unreadable=True)

    assert restored.unreadable == ("secrets/later",)
    document, _ = await stored.edit(fresh, ROOT, lambda said: said.rotated("default", ""))
    assert document.active_generations["default"] == "default.4"


async def test_records_under_keysets_of_the_past_find_home(
    store: MemoryBackend, memory: Callable[[], Awaitable[MemoryBackend]]
) -> None:
    """A dump from before a re-encryption, beside a file from after it: what lies under old keysets is moved again."""
    dump = await memory()
    await copy(store, dump, ENCRYPTED)
    keys = Fixed(store, ROOT)
    while (await sweep.step(store, keys, None, None, 100)).after is not None:
        pass
    await sweep.settle(store, ROOT, None)

    await restore(dump, await exported_from(store), ROOT)

    assert (await document_of(dump)).places["secrets/hosts/"].before == ("default",)
    keys = Fixed(dump, ROOT)
    await index.complete(dump, ROOT, keys)
    await sweep.step(dump, keys, None, None, 100)
    await sweep.settle(dump, ROOT, None)
    generations = await story.generations(dump)
    assert {generations[name] for name in VALUES if name.startswith("secrets/hosts/")} == {"hosts.1"}
    await story.assert_index_is_true(dump)


async def test_records_outside_all_places_find_home(
    store: MemoryBackend, memory: Callable[[], Awaitable[MemoryBackend]]
) -> None:
    """A file from before a container got its own keyset does not know of that place; the records are moved back."""
    exported = await exported_from(store)
    await stored.edit(store, ROOT, lambda said: said.assigned("secrets/old/", "hosts"))
    await EncryptedBackend(store, Fixed(store, ROOT)).commit([Put("secrets/old/er", b"under hosts.1")])
    dump = await memory()
    await copy(store, dump, ENCRYPTED)

    await restore(dump, exported, ROOT)

    keys = Fixed(dump, ROOT)
    await index.complete(dump, ROOT, keys)
    await sweep.step(dump, keys, None, None, 100)
    await sweep.settle(dump, ROOT, None)
    assert (await story.generations(dump))["secrets/old/er"] == "default.2"
    await story.assert_index_is_true(dump)


# Joining two keyrings: what it does, and when it is refused.

BEGIN: Final = Document.new(holders.CREATED)
LONGER: Final = BEGIN.rotated("default", holders.CREATED)
OTHER: Final = Document.new(holders.CREATED)
HOSTS: Final = LONGER.with_keyset("hosts", holders.CREATED, keys=3)


@pytest.mark.parametrize(
    ("own", "other", "added", "active"),
    [
        (LONGER, BEGIN, (), "default.2"),
        (LONGER.without_generation("default.1"), BEGIN, ("default.1",), "default.2"),
        (BEGIN, LONGER, ("default.2",), "default.1"),
        (LONGER, HOSTS, ("hosts.1",), "default.2"),
        (HOSTS.without_keyset("hosts"), HOSTS, ("hosts.1",), "default.2"),
    ],
    ids=["older", "retired", "newer", "a-keyset-more", "a-removed-keyset"],
)
def test_what_is_joined(own: Document, other: Document, added: tuple[str, ...], active: str) -> None:
    """The union has all generations of both, what was active stays so, and no number is forgotten."""
    document, more = union(own, other)

    assert more == added
    assert set(document.generations) == {*own.generations, *other.generations}
    assert document.active_generations["default"] == active
    assert all(document.numbers[name] == max(own.numbers.get(name, 0), n) for name, n in other.numbers.items())
    ring, theirs = document.ring(), other.ring()
    assert all(ring.everywhere.get(kid) == theirs.everywhere.get(kid) for kid in theirs.kids)


def after(document: Document, rotations: int) -> Document:
    """Return the document after so many rotations more."""
    for _ in range(rotations):
        document = document.rotated("default", holders.CREATED)
    return document


FULL: Final = after(BEGIN, 11).without_generation("default.1").rotated("default", holders.CREATED)


@pytest.mark.parametrize(
    ("own", "other", "kind", "text"),
    [
        (BEGIN, OTHER, Exists, "access.1 is one key in the store and another in the export"),
        (LONGER, BEGIN.rotated("default", ""), Exists, "default.2 is one key"),
        (FULL, BEGIN, InUse, "13 generations"),
    ],
    ids=["another-keyring", "a-fork", "too-many"],
)
def test_what_is_not_joined(own: Document, other: Document, kind: type[StrongroomError], text: str) -> None:
    """A kid that means two keys is refused and named, and so are more generations than a write can answer for."""
    with pytest.raises(kind, match=text):
        union(own, other)


# Whoever races, and whoever is killed.


async def emptied(store: Backend) -> None:
    """Leave the records alone, as a dump of them does."""
    await store.commit([Delete(name) for name in await story.names(store, "") if not name.startswith(ENCRYPTED)])


async def others(store: Backend) -> None:
    """Let the store have a keyring that none of its records is under."""
    await emptied(store)
    await stored.create(store, NEXT_ROOT, Document.new(""), [])


async def shorter(store: Backend) -> None:
    """Let the store's own keyring lack a generation."""
    await stored.edit(store, ROOT, lambda said: said.without_generation("default.1"))


@pytest.mark.parametrize("before", [emptied, others, shorter])
@pytest.mark.parametrize("fault", [Fault.DIE_BEFORE, Fault.DIE_AFTER, Fault.BEFORE, Fault.AFTER, Fault.LOST])
async def test_cut_off_at_any_operation_it_is_done_or_can_be_done_again(
    memory: Callable[[], Awaitable[MemoryBackend]], before: Callable[[Backend], Awaitable[None]], fault: Fault
) -> None:
    """Killed or failed at each operation in turn, with commits so small that it takes many: done, or done next."""
    number = 0
    while True:
        store = await memory()
        await lived_in(store)
        exported = await exported_from(store)
        await before(store)
        keyring = await store.get(KEYRING_DOCUMENT)
        store.max_batch = 5
        faulty = FaultyBackend(store, {number: fault})

        try:
            await restore(faulty, exported, ROOT, replace=True)
        except (Killed, Unavailable):
            if await store.get(KEYRING_DOCUMENT) == keyring:  # it was cut off before
                await restore(store, exported, ROOT, replace=True)
        else:
            assert len(faulty.operations) == number
            return

        assert await secrets_of(store) == VALUES
        wrapped = await wraps.wraps_of(store, ROOT.kid)
        assert sorted(map(str, wrapped)) == sorted(map(str, held().wraps))
        number += 1


async def test_of_several_imports_at_once_none_spoils_another(stores: Stores) -> None:
    """Four imports of one file into one fresh store: each is done or overtaken, and everything reads."""
    async with stores() as lost, stores() as fresh:
        await lived_in(lost)
        exported = await exported_from(lost)
        await copy(lost, fresh, ENCRYPTED)

        ends = await asyncio.gather(*(restore(fresh, exported, ROOT) for _ in range(4)), return_exceptions=True)

        assert {type(end) for end in ends} <= {Restored, Overtaken}
        assert any(isinstance(end, Restored) for end in ends)
        assert await secrets_of(fresh) == VALUES


class Interrupted(FaultyBackend):
    """A store in which somebody does something just before each commit."""

    def __init__(self, store: Backend, act: Callable[[], Awaitable[object]]) -> None:
        super().__init__(store)
        self._act = act

    async def commit(self, changes: Sequence[Change]) -> int:
        await self._act()
        return await super().commit(changes)


async def test_a_service_that_writes_while_its_keyring_is_replaced_gets_it_back(
    store: MemoryBackend, memory: Callable[[], Awaitable[MemoryBackend]]
) -> None:
    """A record that is written under the keyring that is being replaced would be lost: so that one is put back."""
    fresh = await memory()
    await stored.create(fresh, NEXT_ROOT, Document.new("", keys=2), [])
    await copy(store, fresh, ENCRYPTED)
    keyring = await fresh.get(KEYRING_DOCUMENT)
    service = EncryptedBackend(fresh, Fixed(fresh, NEXT_ROOT))

    async def serve() -> None:
        if keyring == await fresh.get(KEYRING_DOCUMENT):
            await service.commit([Put("secrets/meanwhile", b"written")])

    with pytest.raises(Overtaken, match="stop it first"):
        await restore(Interrupted(fresh, serve), await exported_from(store), ROOT, replace=True)

    entry = await EncryptedBackend(fresh, Fixed(fresh, NEXT_ROOT)).get("secrets/meanwhile")
    assert entry is not None and entry.value == b"written"


async def test_a_keyring_that_changed_again_is_not_put_back(
    store: MemoryBackend, memory: Callable[[], Awaitable[MemoryBackend]]
) -> None:
    """Where somebody has changed the keyring since it was replaced, what was there before does not come back."""
    fresh = await memory()
    await stored.create(fresh, NEXT_ROOT, Document.new("", keys=2), [])
    await copy(store, fresh, ENCRYPTED)
    before = await fresh.get(KEYRING_DOCUMENT)
    changed: list[Entry] = []

    async def serve_and_change() -> None:
        now = await fresh.get(KEYRING_DOCUMENT)
        assert now is not None
        if now == before:
            await EncryptedBackend(fresh, Fixed(fresh, NEXT_ROOT)).commit([Put("secrets/meanwhile", b"written")])
        elif not changed:
            await fresh.commit([Put(KEYRING_DOCUMENT, now.value)])
            changed.extend((await fresh.get_many([KEYRING_DOCUMENT])).values())

    with pytest.raises(Overtaken, match="stop it first"):
        await restore(Interrupted(fresh, serve_and_change), await exported_from(store), ROOT, replace=True)

    assert changed == [await fresh.get(KEYRING_DOCUMENT)]


async def test_records_that_come_meanwhile_are_not_taken_for_counted(
    store: MemoryBackend, memory: Callable[[], Awaitable[MemoryBackend]]
) -> None:
    """A dump that is loaded at the same moment stops the import, which had found nothing to count."""
    fresh = await memory()
    record = Put("secrets/old", (await everything(store))["secrets/old"])

    with pytest.raises(Overtaken):
        await restore(Interrupted(fresh, lambda: fresh.commit([record])), await exported_from(store), ROOT)

    assert not (await restore(fresh, await exported_from(store), ROOT)).counted

"""A copy becomes a store again: which one, how far, and what is left where it ends early."""

import io
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Final

import pytest

from strongroom.models.names import KEYRING_DOCUMENT, MACHINES, RESTORE, WRAPS
from strongroom.storage_service.backends.base import Backend, Delete, Entry, Put, Snapshot
from strongroom.storage_service.backends.faulty import Fault, FaultyBackend, Killed
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.backup.checking import Openers, exported_in, refuse_unreadable
from strongroom.storage_service.backup.marker import refuse_half
from strongroom.storage_service.backup.restoring import restore
from strongroom.storage_service.backup.taking import copy
from strongroom.storage_service.errors import (
    ConfigurationError,
    Exists,
    InUse,
    Invalid,
    Overtaken,
    Unavailable,
    WrongRootKey,
)
from strongroom.storage_service.keyring.machines import key as machine_key
from strongroom.storage_service.keyring.machines.document import MachineDocument
from strongroom.storage_service.keyring.machines.stored import StoredDocuments
from strongroom.storage_service.keyring.rootkey import RootKey
from tests.backup.conftest import Stores
from tests.backup.copies import CANARIES, checked, copied, fill, head_of, held, rewritten, rows_of, snapshot_of
from tests.keyring.keeping import STRANGER
from tests.keyring.story import ROOT, opened


async def restored(file: io.BytesIO, store: Backend) -> None:
    """Check *file* and restore it."""
    await restore(file, store, checked(file), lambda _: None)


async def a_copy(more: int = 0) -> io.BytesIO:
    """Return the copy of a store in use."""
    store = MemoryBackend()
    await store.open()
    await fill(store, more)
    return await copied(store)


@pytest.mark.parametrize("source", ["memory", "sqlite", "etcd"])
@pytest.mark.parametrize("target", ["memory", "sqlite", "etcd"])
async def test_any_store_becomes_any_other(stores: Stores, source: str, target: str) -> None:
    """All rows come over, and nothing else; every secret reads; a copy of the copy has the same rows to the byte."""
    async with stores(source) as one, stores(target) as other:
        await fill(one, 20)
        file = await copied(one)

        await restored(file, other)

        assert await held(other) == await held(one)
        async with opened(other) as worker:
            entry = await worker.secrets.get("secrets/db/0")
            assert entry is not None
            assert entry.value.decode() == CANARIES[0]
        again = await copied(other)
        assert again.getvalue().splitlines()[1:-1] == file.getvalue().splitlines()[1:-1]


async def test_nothing_of_a_secret_is_in_a_copy() -> None:
    """What was secret in the store is as secret in the file: values and keys, spelled in any way."""
    text = (await a_copy()).getvalue()

    for canary in (*CANARIES, ROOT.reveal().hex()):
        assert canary.encode() not in text
    assert b"canary" not in text
    assert ROOT.reveal() not in text


async def test_every_secret_is_opened_before_anything_is_written(stores: Stores) -> None:
    """A secret that was put in another's place is named, though the checksums are right."""
    file = await a_copy()
    rows = rows_of(file)
    rows["secrets/db/0"] = rows["secrets/db/1"]

    found = checked(rewritten(file, rows.items()))

    assert (found.opened, found.unreadable) == (1, ["secrets/db/0"])
    with pytest.raises(InUse, match="1 records of the backup do not open") as caught:
        refuse_unreadable(found)
    assert caught.value.holders == ("secrets/db/0",)
    assert checked(file).opened == 2


async def test_the_wrong_root_key_opens_nothing() -> None:
    """Another store's root key is told from the right one."""
    with pytest.raises(WrongRootKey):
        checked(await a_copy(), STRANGER)


async def test_rows_and_keyring_belong_together() -> None:
    """A keyring of another moment among the rows, or none, is refused without any key."""
    file = await a_copy()
    rows = rows_of(file)

    for other in (
        {**rows, KEYRING_DOCUMENT: rows[KEYRING_DOCUMENT] + b"x"},
        {name: value for name, value in rows.items() if name != KEYRING_DOCUMENT},
    ):
        with pytest.raises(Invalid, match="not of one moment"):
            checked(rewritten(file, other.items()), None)


def wrap_in(rows: dict[str, bytes]) -> str:
    """Return the name of the one wrap among *rows*."""
    (name,) = (name for name in rows if name.startswith(WRAPS))
    return name


ODD_WRAPS: Final[dict[str, Callable[[str, bytes], dict[str, bytes | None]]]] = {
    "none": lambda name, value: {name: None},
    "another": lambda name, value: {name: value.replace(b'"created":"2', b'"created":"1')},
    "damaged": lambda name, value: {name: b"{}"},
    "one more": lambda name, value: {f"{name}x": value},
}


@pytest.mark.parametrize("odd", ODD_WRAPS)
@pytest.mark.parametrize("root", [ROOT, None], ids=["opened", "read"])
async def test_wraps_among_the_rows_are_those_of_the_export(odd: str, root: RootKey | None) -> None:
    """Rows whose wraps are not those in the head, which open it, are refused: nothing would open what they become."""
    file = await a_copy()
    rows = rows_of(file)
    name = wrap_in(rows)
    bent = {**rows, **ODD_WRAPS[odd](name, rows[name])}

    with pytest.raises(Invalid, match="not of one moment"):
        checked(rewritten(file, ((each, value) for each, value in bent.items() if value is not None)), root)


@pytest.mark.parametrize("odd", ODD_WRAPS)
async def test_a_store_without_the_wraps_of_its_export_is_not_copied(odd: str) -> None:
    """A moment whose wraps are not those of the export becomes no backup that says that they open it."""
    store = MemoryBackend()
    await store.open()
    await fill(store)
    rows = await held(store)
    name = wrap_in(rows)
    async with snapshot_of(store).snapshot() as snapshot:
        head = await head_of(store, snapshot)
    for each, value in ODD_WRAPS[odd](name, rows[name]).items():
        await store.commit([Delete(each) if value is None else Put(each, value)])

    async with snapshot_of(store).snapshot() as snapshot:
        assert await Openers(exported_in(head)).are_in(snapshot) is (odd == "one more")
        with pytest.raises(Invalid, match="not of one moment"):
            await copy(snapshot, head, io.BytesIO(), lambda _: None)


async def test_a_machine_among_the_rows_is_as_in_the_export() -> None:
    """A document with another root key beside is the same; a changed one is refused; one that is not there may be."""
    store = MemoryBackend()
    await store.open()
    await fill(store)
    key = machine_key.make()
    machine = MachineDocument.new("db-1", key.public_jwk(), 1763800000).with_root(ROOT, True)
    await StoredDocuments(store).save(machine.with_root(STRANGER, True))
    file = await copied(store)
    rows, name = rows_of(file), MACHINES + machine.fingerprint

    assert checked(file).opened == 2
    assert checked(rewritten(file, ((each, value) for each, value in rows.items() if each != name))).opened == 2
    for bent in (machine.without_root(ROOT.kid), machine.with_root(ROOT, True)):
        with pytest.raises(Invalid, match="not of one moment"):
            checked(rewritten(file, {**rows, name: bent.encode()}.items()))


async def test_a_half_restored_store_is_never_copied_for_whole() -> None:
    """Neither is such a store copied, nor such a copy restored."""
    file = await a_copy()
    rows = {**rows_of(file), RESTORE: b"{}"}
    with pytest.raises(Invalid, match="half restored"):
        checked(rewritten(file, rows.items()))

    store = MemoryBackend()
    await store.open()
    await fill(store)
    await store.commit([Put(RESTORE, b"{}")])
    with pytest.raises(ConfigurationError, match="half restored"):
        await copied(store)


@pytest.mark.parametrize("kind", ["memory", "sqlite", "etcd"])
async def test_only_an_empty_store_is_filled(stores: Stores, kind: str) -> None:
    """A store with one row in it is refused, and left as it is."""
    async with stores(kind) as store:
        await store.commit([Put("hosts/mine", b"{}")])

        with pytest.raises(Exists, match="not empty"):
            await restored(await a_copy(), store)

        assert await held(store) == {"hosts/mine": b"{}"}


FAULTS = (Fault.DIE_BEFORE, Fault.DIE_AFTER, Fault.BEFORE, Fault.AFTER, Fault.LOST)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_killed_at_any_step_it_says_so(fault: Fault) -> None:
    """Whatever step it ends at: the store is empty, or whole, or no service starts on it and the file finishes it."""
    file = await a_copy(150)
    counting = FaultyBackend(MemoryBackend())
    await counting.open()
    await restored(file, counting)
    steps, seen = len(counting.operations), set()
    whole = await held(counting)
    assert counting.operations.count("commit") > 4

    for step in range(steps):
        within = MemoryBackend()
        await within.open()
        with suppress(Killed, Unavailable):
            await restored(file, FaultyBackend(within, {step: fault}))
        left = await held(within)
        if not left:
            seen.add("empty")
        elif RESTORE not in left:
            seen.add("whole")
            assert left == whole
            continue
        else:
            seen.add("half")
            assert KEYRING_DOCUMENT not in left
            with pytest.raises(ConfigurationError, match="half restored"):
                await refuse_half(within)
        await restored(file, within)
        assert await held(within) == whole
        await refuse_half(within)

    assert seen == {"empty", "half"} | ({"whole"} if fault in {Fault.DIE_AFTER, Fault.AFTER} else set())


async def test_another_backup_does_not_go_on() -> None:
    """What one backup half restored, another does not finish."""
    one, other = await a_copy(150), await a_copy(3)
    store = MemoryBackend()
    await store.open()
    with pytest.raises(Killed):
        await restored(one, FaultyBackend(store, {4: Fault.DIE_BEFORE}))

    with pytest.raises(Exists, match="another backup"):
        await restored(other, store)


@pytest.mark.parametrize("row", [Put("hosts/theirs", b"{}"), Put("secrets/db/0", b"theirs"), Put("~", b"")])
async def test_who_writes_meanwhile_is_noticed(row: Put) -> None:
    """A row that somebody wrote while it was filled keeps the store from being whole; it says that it is half."""
    file = await a_copy(150)
    store = MemoryBackend()
    await store.open()

    class Meddled(FaultyBackend):
        """A store into which somebody else writes just before it is looked at."""

        def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:  # type: ignore[override]  # a narrower name of it
            store._put(row.name, Entry(row.value, 99))
            return super().snapshot()

    with pytest.raises(Overtaken, match="somebody else wrote"):
        await restored(file, Meddled(store))

    with pytest.raises(ConfigurationError, match="half restored"):
        await refuse_half(store)


async def test_who_empties_the_store_meanwhile_is_noticed() -> None:
    """A commit after the marker has gone does nothing: two restores that begin anew in turn do not mix."""
    file = await a_copy(150)
    store = MemoryBackend()
    await store.open()

    def begin_anew(_: int) -> None:
        for name in [*store._entries]:
            store._delete(name)

    with pytest.raises(Overtaken, match="emptied it meanwhile"):
        await restore(file, store, checked(file), begin_anew)

    assert await held(store) == {}


async def test_a_full_store_is_told() -> None:
    """Where the store is full the restore ends with that word, and the store says that it is half restored."""
    file = await a_copy(150)
    within = MemoryBackend()
    await within.open()
    store = FaultyBackend(within)

    def fill_up(_: int) -> None:
        store.full = True

    with pytest.raises(Unavailable, match="full"):
        await restore(file, store, checked(file), fill_up)

    with pytest.raises(ConfigurationError, match="half restored"):
        await refuse_half(within)


async def test_a_file_that_changes_meanwhile_is_noticed() -> None:
    """The file is read again to be written; if it is another by then, the store does not become whole."""
    file, other = await a_copy(), await a_copy()
    found = checked(file)
    store = MemoryBackend()
    await store.open()

    with pytest.raises(Invalid, match="changed while it was restored"):
        await restore(other, store, found, lambda _: None)

    assert RESTORE in await held(store)

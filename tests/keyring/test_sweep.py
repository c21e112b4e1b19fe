"""Re-encryption: every record comes under the right key, whoever writes or sweeps meanwhile, and its row with it."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import pytest

from strongroom.models.names import KEYRING_DOCUMENT
from strongroom.storage_service.backends.base import MAX_BATCH, Backend, Change, Delete, Entry, Put
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import Fate, Halted, InUse, Locked, NotFound, Overtaken, Unavailable
from strongroom.storage_service.jose.jwe import MAX_VALUE
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.document import Document
from strongroom.storage_service.keyring.overlay import EncryptedBackend
from strongroom.storage_service.keyring.usage import index, records, sweep
from strongroom.storage_service.keyring.usage.sweep import Step
from strongroom.storage_service.turns import STRETCH, Turns
from tests.keyring.story import (
    ROOT,
    VALUES,
    Rings,
    assert_index_is_true,
    change,
    generations,
    initialize,
    opened,
    put_all,
    read_all,
    read_document,
    rotate,
    rows,
    sweep_all,
)

NOW: Final = "2026-01-02T03:04:05Z"


async def memory(values: Mapping[str, bytes] = VALUES) -> tuple[MemoryBackend, Rings]:
    """Return a store with *values* under ``default.1``, and who holds its keys."""
    store = MemoryBackend()
    await store.open()
    await initialize(store)
    rings = Rings(store)
    await put_all(EncryptedBackend(store, rings), values)
    return store, rings


# What is moved.


@pytest.mark.parametrize("limit", [1, 3, 7, 8, 1000])
async def test_all_records_come_under_the_new_generation(store: Backend, limit: int) -> None:
    """However short the steps are, each record is moved once, with its row, and reads as before."""
    await initialize(store)
    async with opened(store) as worker:
        await put_all(worker.secrets, VALUES)
        await rotate(store)
        worker.holder.changed()

        assert await sweep_all(store, worker.holder, "default", limit) == Step(len(VALUES), 0, (), None)

        assert set((await generations(store)).values()) == {"default.2"}
        assert await read_all(worker.secrets) == VALUES
        await assert_index_is_true(store)
        assert await sweep_all(store, worker.holder) == Step(0, 0, (), None)


async def test_a_generation_of_many_keys_spreads_them() -> None:
    """Each record that is moved gets a key of the new generation at random, as a record that is written does."""
    store, rings = await memory({f"secrets/{number}": b"v" for number in range(64)})
    await change(store, lambda said: said.rotated("default", NOW, keys=3))

    await sweep_all(store, rings)

    assert {*(await index.scan(store, rings)).by_kid} == {"default.2.1", "default.2.2", "default.2.3"}


ROTATED: Final = ("rotate default", "rotate access", "add spare")
STORIES: Final[Mapping[str, tuple[Sequence[str], str | None, Mapping[str, str]]]] = {
    "one keyset alone": (
        ROTATED,
        "default",
        {
            "secrets/a/1": "default.2",
            "secrets/a/b/2": "default.2",
            "secrets/3": "default.2",
            "system/access/k": "access.1",
        },
    ),
    "another keyset alone": (
        ROTATED,
        "access",
        {
            "secrets/a/1": "default.1",
            "secrets/a/b/2": "default.1",
            "secrets/3": "default.1",
            "system/access/k": "access.2",
        },
    ),
    "all keysets": (
        ROTATED,
        None,
        {
            "secrets/a/1": "default.2",
            "secrets/a/b/2": "default.2",
            "secrets/3": "default.2",
            "system/access/k": "access.2",
        },
    ),
    "a container that was assigned": (
        ("add spare", "assign secrets/a/ spare"),
        "spare",
        {"secrets/a/1": "spare.1", "secrets/a/b/2": "spare.1", "secrets/3": "default.1", "system/access/k": "access.1"},
    ),
    "a container within it that has its own": (
        ("add spare", "add inner", "assign secrets/a/ spare", "assign secrets/a/b/ inner"),
        None,
        {"secrets/a/1": "spare.1", "secrets/a/b/2": "inner.1", "secrets/3": "default.1", "system/access/k": "access.1"},
    ),
    "a container within it that stays where it was": (
        ("add spare", "assign secrets/a/b/ default", "assign secrets/a/ spare"),
        "spare",
        {
            "secrets/a/1": "spare.1",
            "secrets/a/b/2": "default.1",
            "secrets/3": "default.1",
            "system/access/k": "access.1",
        },
    ),
    "assigned twice, and rotated between": (
        (
            "add spare",
            "add inner",
            "assign secrets/a/ spare",
            "rotate default",
            "rotate spare",
            "assign secrets/a/ inner",
        ),
        "inner",
        {"secrets/a/1": "inner.1", "secrets/a/b/2": "inner.1", "secrets/3": "default.1", "system/access/k": "access.1"},
    ),
    "there and back": (
        ("add spare", "assign secrets/a/ spare", "sweep", "assign secrets/a/ default"),
        "default",
        {
            "secrets/a/1": "default.1",
            "secrets/a/b/2": "default.1",
            "secrets/3": "default.1",
            "system/access/k": "access.1",
        },
    ),
    "reverted": (
        ("rotate default", "sweep", "revert default"),
        "default",
        {
            "secrets/a/1": "default.1",
            "secrets/a/b/2": "default.1",
            "secrets/3": "default.1",
            "system/access/k": "access.1",
        },
    ),
    "nothing to do": (
        ("add spare",),
        None,
        {
            "secrets/a/1": "default.1",
            "secrets/a/b/2": "default.1",
            "secrets/3": "default.1",
            "system/access/k": "access.1",
        },
    ),
}


async def act(store: Backend, rings: Rings, deed: str) -> None:
    """Do one of the deeds that stories are told in."""
    match deed.split():
        case ["rotate", keyset]:
            await rotate(store, keyset)
        case ["revert", keyset]:
            await change(store, lambda said: said.reverted(keyset))
        case ["add", keyset]:
            await change(store, lambda said: said.with_keyset(keyset, NOW))
        case ["assign", container, keyset]:
            await change(store, lambda said: said.assigned(container, keyset))
        case ["sweep"]:
            await sweep_all(store, rings)
        case _:
            raise AssertionError(deed)


@pytest.mark.parametrize(("deeds", "keyset", "after"), STORIES.values(), ids=STORIES)
async def test_what_is_moved(deeds: Sequence[str], keyset: str | None, after: Mapping[str, str]) -> None:
    """What was done to the keyring, which keyset is swept, and which generation each record is under in the end."""
    values = dict.fromkeys(after, b"value")
    store, rings = await memory(values)
    for deed in deeds:
        await act(store, rings, deed)

    await sweep_all(store, rings, keyset, limit=1)

    assert await generations(store) == after
    assert await read_all(EncryptedBackend(store, rings)) == values
    await assert_index_is_true(store)
    settled = await sweep.settle(store, ROOT, keyset)
    assert all(not each.before for each in settled.places.values() if keyset in (None, each.keyset))
    assert not any(each.reverting for name, each in settled.keysets.items() if keyset in (None, name))


async def test_an_unknown_keyset_is_none() -> None:
    """There is nothing to sweep or to settle of a keyset that is not there; one that was just made is there."""
    store, rings = await memory()
    with pytest.raises(NotFound):
        await sweep.step(store, rings, "spare", None, 10)
    with pytest.raises(NotFound):
        await sweep.settle(store, ROOT, "spare")

    await act(store, rings, "add spare")

    assert await sweep.step(store, rings, "spare", None, 10) == Step(0, 0, (), None)


# Rows and values that are not as they should be.


async def test_what_does_not_open_is_named_and_stays() -> None:
    """A value that was damaged stays as it is, with its row; the others are moved, and settling names it."""
    store, rings = await memory()
    await store.commit([Put("secrets/003", b"damaged")])
    await rotate(store)

    assert await sweep_all(store, rings, limit=2) == Step(6, 0, ("secrets/003",), None)

    entry = await store.get("secrets/003")
    assert entry is not None
    assert entry.value == b"damaged"
    assert ("default.1", "secrets/003") in await rows(store)
    with pytest.raises(InUse) as caught:
        await sweep.settle(store, ROOT, "default")
    assert caught.value.holders == ("secrets/003",)


async def test_rows_that_are_wrong_are_put_right() -> None:
    """Rows of records that are gone, under another generation, or nothing to count go; a right one that lacks comes."""
    store, rings = await memory()
    await rotate(store)
    await EncryptedBackend(store, Rings(store)).commit([Put("secrets/000", b"new")])
    await store.commit(
        [
            Put(index.row("default.1", "secrets/gone"), b""),
            Put(index.row("default.1", "secrets/000"), b""),
            Delete(index.row("default.2", "secrets/000")),
            Put(index.row("default.1", "secrets/container/"), b""),
            Put(index.row("default.1", "hosts/plain"), b""),
            Put("hosts/plain", b"in the clear"),
            Put(index.row("default.1", KEYRING_DOCUMENT), b""),
        ]
    )

    assert await sweep_all(store, rings) == Step(6, 0, (), None)

    await assert_index_is_true(store)
    assert await store.get("hosts/plain") is not None
    assert (await sweep.settle(store, ROOT, None)).counted


async def test_two_rows_of_one_record_are_no_trouble() -> None:
    """A record of which two old generations have a row, for whatever reason, is moved once, and both rows go."""
    store, rings = await memory()
    await rotate(store)
    await rotate(store)
    await store.commit([Put(index.row("default.2", name), b"") for name in VALUES])

    swept = await sweep_all(store, rings)

    assert swept.moved == len(VALUES)
    await sweep_all(store, rings)
    await assert_index_is_true(store)


async def test_a_record_that_is_moved_has_one_row_at_once() -> None:
    """A wrong row leads to a record; when that is moved its true row goes with it, and not a step later."""
    store, rings = await memory()
    await rotate(store)
    await EncryptedBackend(store, Rings(store)).commit([Put("secrets/000", b"new")])
    await store.commit([Put(index.row("default.1", "secrets/000"), b"")])
    await rotate(store)

    assert (await sweep.step(store, rings, None, None, 1)).moved == 1

    assert {generation for generation, name in await rows(store) if name == "secrets/000"} == {"default.3"}


# Others who write and sweep.


class Rotated(MemoryBackend):
    """A store in which somebody rotates, and writes a record, just before records are read for the first time."""

    armed = False

    async def get_many(self, names: Sequence[str], *, limit: int | None = None) -> Mapping[str, Entry]:
        """Let them do that first."""
        if self.armed and "secrets/003" in names:
            self.armed = False
            await rotate(self)
            await EncryptedBackend(self, Rings(self)).commit([Put("secrets/003", b"newer")])
        return await super().get_many(names, limit=limit)


async def test_what_is_under_a_newer_key_is_not_unreadable() -> None:
    """A record that was written under a key which the sweep has not heard of is no damage: it asks for the new ring."""
    store = Rotated()
    await store.open()
    await initialize(store)
    await put_all(EncryptedBackend(store, Rings(store)), VALUES)
    await rotate(store)
    store.armed = True

    swept = await sweep_all(store, Rings(store))

    assert not store.armed
    assert swept.unreadable == ()
    assert (await read_all(EncryptedBackend(store, Rings(store))))["secrets/003"] == b"newer"
    assert set((await generations(store)).values()) == {"default.3"}


class Meddling(MemoryBackend):
    """A store in which somebody else does something just before a commit."""

    def __init__(self) -> None:
        super().__init__()
        self.meddle: list[Sequence[Change]] = []
        self.batches: list[int] = []

    async def commit(self, changes: Sequence[Change]) -> int:
        """Let the other one go first."""
        if self.meddle:
            await super().commit(self.meddle.pop())
        self.batches.append(len(changes))
        return await super().commit(changes)


async def meddling() -> tuple[Meddling, Rings]:
    """Return such a store with the values, after a rotation."""
    store = Meddling()
    await store.open()
    await initialize(store)
    await put_all(EncryptedBackend(store, Rings(store)), VALUES)
    await rotate(store)
    rings = Rings(store)
    await rings.sync()
    return store, rings


async def test_a_record_that_was_written_meanwhile_is_left_alone() -> None:
    """What others wrote or deleted since it was read is theirs; the rest of the batch is moved."""
    store, rings = await meddling()
    entry = await store.get("secrets/001")
    assert entry is not None
    store.meddle = [
        [Put("secrets/001", entry.value), Delete("secrets/002"), Delete(index.row("default.1", "secrets/002"))]
    ]

    assert await sweep_all(store, rings, limit=100) == Step(5, 2, (), None)
    assert await sweep_all(store, rings, limit=100) == Step(1, 0, (), None)

    await assert_index_is_true(store)


async def test_a_ring_that_is_stale_is_replaced() -> None:
    """A sweep under way when the keyring is changed goes on with the new ring, and writes nothing under the old one."""
    store, rings = await meddling()
    document, revision = await read_document(store)
    elsewhere = MemoryBackend()
    await elsewhere.open()
    await initialize(elsewhere)
    await stored.replace(elsewhere, ROOT, document.rotated("default", NOW), 2)
    entry = await elsewhere.get(KEYRING_DOCUMENT)
    assert entry is not None
    store.meddle = [[Put(KEYRING_DOCUMENT, entry.value, revision)]]

    assert (await sweep_all(store, rings)).moved == len(VALUES)

    assert set((await generations(store)).values()) == {"default.3"}
    await assert_index_is_true(store)


async def test_a_keyring_that_never_rests_ends_the_step() -> None:
    """While others keep changing the keyring nothing is moved, and the caller is told to come again."""
    store, rings = await meddling()
    entry = await store.get(KEYRING_DOCUMENT)
    assert entry is not None
    store.meddle = [[Put(KEYRING_DOCUMENT, entry.value)]] * 100

    with pytest.raises(Unavailable) as caught:
        await sweep.step(store, rings, None, None, 10)

    assert caught.value.fate is Fate.NOT_APPLIED
    assert len(store.meddle) == 100 - records.ATTEMPTS
    assert set((await generations(store)).values()) == {"default.1"}


async def test_writers_and_sweepers_at_once(store: Backend) -> None:
    """Three processes sweep while three write: nothing is lost, all is moved, and the index is true."""
    await initialize(store)
    names = [f"secrets/{number:02}" for number in range(30)]
    await put_all(EncryptedBackend(store, Rings(store)), dict.fromkeys(names, b"first"))
    written: dict[str, bytes] = {}

    async def write(mine: Sequence[str]) -> None:
        secrets = EncryptedBackend(store, Rings(store))
        for name in mine:
            await secrets.commit([Put(name, name.encode())])
            written[name] = name.encode()

    await rotate(store)
    sweeps = (sweep_all(store, Rings(store), None, limit) for limit in (4, 10, 30))
    await asyncio.gather(*sweeps, *(write(names[number::6]) for number in range(3)))
    await sweep_all(store, Rings(store))

    assert await read_all(EncryptedBackend(store, Rings(store))) == dict.fromkeys(names, b"first") | written
    assert set((await generations(store)).values()) == {"default.2"}
    await assert_index_is_true(store)
    await sweep.settle(store, ROOT, None)


# Being locked, being halted.


async def test_a_lock_ends_a_sweep() -> None:
    """Once the service is locked nothing more is moved; unlocked, the sweep goes on where it was."""
    store, rings = await meddling()
    step = await sweep.step(store, rings, None, None, 3)
    rings.lock()
    with pytest.raises(Locked):
        await sweep.step(store, rings, None, step.after, 100)
    rings.unlock()

    assert (await sweep.step(store, rings, None, step.after, 100)).moved == 4
    await assert_index_is_true(store)


async def test_a_lock_in_the_middle_of_a_step_ends_it() -> None:
    """A ring that is wiped while a step is under way encrypts nothing more, and the step says so."""
    store, rings = await meddling()
    await rings.sync()

    async def lock_when_read() -> None:
        while not store.calls["get_many"]:
            await asyncio.sleep(0)
        rings.lock()

    store.calls.clear()
    original = store.get_many

    async def get_many(names: Sequence[str]) -> Mapping[str, object]:
        entries = await original(names)
        rings.lock()
        return entries

    store.get_many = get_many  # type: ignore[method-assign, assignment]
    with pytest.raises(Locked):
        await sweep.step(store, rings, None, None, 100)
    assert set((await generations(store)).values()) == {"default.1"}


async def test_a_reversal_goes_on_while_writing_is_halted() -> None:
    """While nobody may write, the sweep that ends the halt still may; settling its keyset ends it."""
    store, rings = await memory()
    await act(store, rings, "rotate default")
    await sweep_all(store, rings, limit=100)
    await change(store, lambda said: said.reverted("default").halt("default", NOW, "a disk was full"))
    rings = Rings(store)
    secrets = EncryptedBackend(store, rings)
    with pytest.raises(Halted):
        await secrets.commit([Put("secrets/new", b"")])

    assert (await sweep_all(store, rings, "default")).moved == len(VALUES)
    assert (await sweep.settle(store, ROOT, "access")).halted is not None
    assert (await sweep.settle(store, ROOT, "default")).halted is None

    await secrets.commit([Put("secrets/new", b"")])
    assert set((await generations(store)).values()) == {"default.1"}


# Settling.


async def test_settling_says_what_is_left() -> None:
    """While records are left nothing is settled; the refusal counts them, and names the first twenty."""
    store, _ = await memory({f"secrets/{number:03}": b"" for number in range(30)})
    await rotate(store)
    before = await read_document(store)

    with pytest.raises(InUse, match=": 30") as caught:
        await sweep.settle(store, ROOT, "default")

    assert caught.value.holders == tuple(f"secrets/{number:03}" for number in range(20))
    assert await read_document(store) == before


async def test_settling_what_is_settled_changes_nothing() -> None:
    """The document is not rewritten where it says so already: nobody has to look at it again."""
    store, _ = await memory()
    before = await read_document(store)

    assert await sweep.settle(store, ROOT, None) == before[0]
    assert await read_document(store) == before


async def test_without_an_index_nothing_is_settled() -> None:
    """In a store whose index is not complete nobody can say that nothing is left."""
    store, rings = await memory()
    await change(store, lambda said: Document(said.keysets, said.numbers, said.places, counted=False))
    with pytest.raises(InUse, match="not complete"):
        await sweep.settle(store, ROOT, None)

    await index.complete(store, ROOT, rings)

    assert (await sweep.settle(store, ROOT, None)).counted


async def test_a_keyring_that_is_gone_is_not_settled() -> None:
    """Whoever removed the keyring meanwhile was faster."""
    store = MemoryBackend()
    await store.open()
    with pytest.raises(Overtaken):
        await sweep.settle(store, ROOT, None)


# Sizes and turns.


async def test_large_values_go_in_commits_of_their_own(store: Backend) -> None:
    """However large the records, a commit is one that the store takes."""
    await initialize(store)
    rings = Rings(store)
    values = {
        f"secrets/{number}": bytes(size) for number, size in enumerate([MAX_VALUE, 10, 400_000, 400_000, MAX_VALUE])
    }
    await put_all(EncryptedBackend(store, rings), values)
    await rotate(store)

    assert (await sweep_all(store, rings)).moved == len(values)
    assert await read_all(EncryptedBackend(store, rings)) == values


async def test_many_records_share_a_commit() -> None:
    """A commit is nearly as full as the store takes it, and never fuller."""
    store, rings = await meddling()
    await put_all(EncryptedBackend(store, rings), {f"secrets/{number}": b"" for number in range(100)})
    await rotate(store)
    store.batches.clear()

    await sweep_all(store, rings, limit=1000)

    assert max(store.batches) == MAX_BATCH - 1
    assert len(store.batches) == 3


async def test_at_a_pace_commits_are_small() -> None:
    """Below full pace, one commit goes after the other, and each is soon done."""
    store, rings = await meddling()
    await put_all(EncryptedBackend(store, rings), {f"secrets/{number}": b"" for number in range(100)})
    await rotate(store)
    store.batches.clear()

    done = await sweep.step(store, rings, None, None, 1000, pace=0.5)

    assert done.moved == 100 + len(VALUES)
    assert max(store.batches) == sweep.GENTLE * 3 + 1
    await assert_index_is_true(store)


@pytest.mark.parametrize(("pace", "slept"), [(1.0, 0.0), (0.5, STRETCH), (0.25, 3 * STRETCH)])
async def test_a_pace_leaves_the_rest_of_the_time(pace: float, slept: float) -> None:
    """After a stretch, the work rests for as long as leaves it that part of the time."""
    time = 0.0
    asked: list[float] = []

    async def sleep(seconds: float) -> None:
        asked.append(seconds)

    turns = Turns(pace, clock=lambda: time, sleep=sleep)
    await turns.take()
    time += STRETCH
    await turns.take()
    time += STRETCH / 2
    await turns.rest()

    assert asked == [pytest.approx(slept), pytest.approx(slept / 2)]


async def test_turns_are_short() -> None:
    """Between two turns of the others lies one stretch of work and one piece more, however many pieces there are."""
    time = 0.0
    turns = Turns(clock=lambda: time)
    given = 0
    longest = stretch = 0.0

    async def other() -> None:
        nonlocal given, stretch
        while True:
            given += 1
            stretch = 0.0
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await asyncio.sleep(0)
    for _ in range(1000):
        await turns.take()
        time += STRETCH / 10
        stretch += STRETCH / 10
        longest = max(longest, stretch)
    task.cancel()

    assert longest <= STRETCH * 1.11
    assert given > 90

"""The end of a key: it comes when nothing is under it, whatever the index says, and never a moment sooner."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import pytest

from strongroom.models.names import KEYRING_DOCUMENT
from strongroom.storage_service.backends.base import Backend, Change, Check, Delete, Put, Vacant
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import (
    InUse,
    Invalid,
    NotFound,
    Overtaken,
    ServiceError,
    Undecipherable,
    WrongRootKey,
)
from strongroom.storage_service.jose import base64url
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.document import Document
from strongroom.storage_service.keyring.overlay import EncryptedBackend
from strongroom.storage_service.keyring.ring import Ring
from strongroom.storage_service.keyring.rootkey import RootKey
from strongroom.storage_service.keyring.usage import index, sweep
from tests.campaign import as_many_as
from tests.keyring.interleaving import Gated, Order
from tests.keyring.story import (
    ROOT,
    VALUES,
    Rings,
    assert_index_is_true,
    change,
    generations,
    initialize,
    names,
    opened,
    put_all,
    read_all,
    read_document,
    rotate,
    sweep_all,
)

NOW: Final = "2026-01-02T03:04:05Z"


async def memory() -> tuple[MemoryBackend, Rings]:
    """Return a store with the values under ``default.1``, and who holds its keys."""
    store = MemoryBackend()
    await store.open()
    await initialize(store)
    rings = Rings(store)
    await put_all(EncryptedBackend(store, rings), VALUES)
    return store, rings


async def test_a_generation_that_nothing_needs_is_destroyed(store: Backend) -> None:
    """After rotation and re-encryption the old generation goes, and everything reads as before."""
    await initialize(store, keys=2)
    async with opened(store) as worker:
        await put_all(worker.secrets, VALUES)
        await rotate(store)
        worker.holder.changed()
        await sweep_all(store, worker.holder)
        await sweep.settle(store, ROOT, None)

        document = await sweep.retire(store, ROOT, "default.1")
        worker.holder.changed()

        assert document.generations == ("access.1", "default.2")
        assert (await read_document(store))[0] == document
        assert (await worker.holder.sync()).kids == ("access.1.1", "access.1.2", "default.2.1", "default.2.2")
        assert await read_all(worker.secrets) == VALUES
        with pytest.raises(NotFound):
            await sweep.retire(store, ROOT, "default.1")


async def test_the_destruction_is_one_commit() -> None:
    """The document without the generation is written only where there is no row of it, in the same moment."""

    class Watched(MemoryBackend):
        batches: list[Sequence[Change]] = []  # noqa: RUF012  # one store, one test

        async def commit(self, changes: Sequence[Change]) -> int:
            self.batches.append(changes)
            return await super().commit(changes)

    store = Watched()
    await store.open()
    await initialize(store)
    await rotate(store)
    _, revision = await read_document(store)
    store.batches.clear()

    await sweep.retire(store, ROOT, "default.1")

    ((put, vacant),) = store.batches
    assert isinstance(put, Put)
    assert (put.name, put.expected) == (KEYRING_DOCUMENT, revision)
    assert vacant == Vacant(index.rows_of("default.1"))


# Refusals: what was done before, what is asked for, what is raised, who is named.

REFUSALS: Final[dict[str, tuple[Sequence[str], str, type[ServiceError], tuple[str, ...]]]] = {
    "an active generation": ((), "default.1", InUse, ("new records",)),
    "a generation that is active again": (("rotate", "revert"), "default.1", InUse, ("new records",)),
    "a generation under which records are": (("rotate",), "default.1", InUse, tuple(VALUES)),
    "one that is being reverted": (("rotate", "sweep", "revert"), "default.2", InUse, tuple(VALUES)),
    "one that a backup needs": (("backup", "rotate", "sweep"), "default.1", InUse, ("backup monday",)),
    "one of which the index does not tell": (("rotate", "hide"), "default.1", InUse, ("secrets/000",)),
    "one under which a damaged record was": (("rotate", "sweep", "damage"), "default.1", InUse, ("secrets/000",)),
    "no generation": ((), "default.2", NotFound, ()),
    "of no keyset": ((), "spare.1", NotFound, ()),
    "a keyset": ((), "default", NotFound, ()),
    "a keyset's removal that is none": ((), "remove spare", NotFound, ()),
    "the removal of one that is protected": ((), "remove default", InUse, ()),
    "of one that a container is assigned to": (("add", "assign"), "remove spare", InUse, ("secrets/c/",)),
    "of one that records are under": (
        ("add", "assign", "write", "assign away"),
        "remove spare",
        InUse,
        ("secrets/c/",),
    ),
    "of one of which the document does not tell": (
        ("add", "assign", "write", "unassign"),
        "remove spare",
        InUse,
        ("secrets/c/1",),
    ),
    "of one of which neither document nor index tell": (
        ("add", "assign", "write", "unassign", "hide spare"),
        "remove spare",
        InUse,
        ("secrets/c/1",),
    ),
}


async def do(store: Backend, rings: Rings, deed: str) -> None:
    """Do one of the deeds that refusals are told with."""
    match deed:
        case "rotate":
            await rotate(store)
        case "revert":
            await change(store, lambda said: said.reverted("default"))
        case "sweep":
            await sweep_all(store, rings)
        case "backup":
            await change(store, lambda said: said.with_backup("monday", NOW))
        case "hide":
            entry = await store.get("secrets/000")
            assert entry is not None
            await sweep_all(store, rings)
            await store.commit([Put("secrets/000", entry.value)])  # as from a backup
        case "damage":
            head = b'{"alg":"dir","enc":"A256CBC-HS512","kid":"default.1","custodia.key":"keys/000"}'
            token = base64url.encode(head) + b".." + b".".join([b"A" * 22, b"A" * 22, b"A" * 43])
            await store.commit([Put("secrets/000", token)])
        case "add":
            await change(store, lambda said: said.with_keyset("spare", NOW))
        case "assign":
            await change(store, lambda said: said.assigned("secrets/c/", "spare"))
        case "assign away":
            await change(store, lambda said: said.assigned("secrets/c/", "default"))
        case "write":
            await EncryptedBackend(store, Rings(store)).commit([Put("secrets/c/1", b"value")])
        case "unassign":
            await change(store, lambda said: Document(said.keysets, said.numbers))
        case "hide spare":
            await store.commit([Delete(row) for row in await names(store, index.rows_of("spare.1"))])
        case _:
            raise AssertionError(deed)


@pytest.mark.parametrize(("deeds", "what", "error", "holders"), REFUSALS.values(), ids=REFUSALS)
async def test_what_is_needed_is_not_destroyed(
    deeds: Sequence[str], what: str, error: type[ServiceError], holders: tuple[str, ...]
) -> None:
    """What is still needed is refused, by the name of what needs it, and the keyring stays as it was."""
    store, rings = await memory()
    for deed in deeds:
        await do(store, rings, deed)
    before = await read_document(store)

    destroy = sweep.remove_keyset if what.startswith("remove ") else sweep.retire
    with pytest.raises(error) as caught:
        await destroy(store, ROOT, what.removeprefix("remove "))

    assert getattr(caught.value, "holders", ()) == holders
    assert await read_document(store) == before


async def test_many_holders_are_counted() -> None:
    """A refusal names twenty records, and says how many there are."""
    store, rings = await memory()
    await put_all(EncryptedBackend(store, rings), {f"secrets/x/{number:03}": b"" for number in range(30)})
    await rotate(store)

    with pytest.raises(InUse, match=": 37") as caught:
        await sweep.retire(store, ROOT, "default.1")

    assert len(caught.value.holders) == 20


async def test_a_keyset_that_nothing_needs_is_destroyed(store: Backend) -> None:
    """When its containers are assigned to others and re-encrypted, a keyset goes, and its numbers never come again."""
    await initialize(store)
    rings = Rings(store)
    secrets = EncryptedBackend(store, rings)
    await change(store, lambda said: said.with_keyset("spare", NOW).assigned("secrets/c/", "spare"))
    await secrets.commit([Put("secrets/c/1", b"value")])
    await rotate(store, "spare")
    await change(store, lambda said: said.assigned("secrets/c/", "default"))
    await sweep_all(store, rings)
    await sweep.settle(store, ROOT, None)

    document = await sweep.remove_keyset(store, ROOT, "spare")

    assert document.generations == ("access.1", "default.1")
    assert await read_all(EncryptedBackend(store, Rings(store))) == {"secrets/c/1": b"value"}
    again = await change(store, lambda said: said.with_keyset("spare", NOW))
    assert again.generations == ("access.1", "default.1", "spare.3")


async def test_who_does_not_hold_the_root_key_destroys_nothing() -> None:
    """Another root key opens no document, so that nothing can be proven by it."""
    store, _ = await memory()
    await rotate(store)
    with pytest.raises(WrongRootKey):
        await sweep.retire(store, RootKey(bytes(64)), "default.1")


# Orders.

ORDERS: Final = as_many_as(500)
"""How many are played: without either guard some twenty of as many lose a record."""

RECORDS: Final = {"secrets/a": b"a", "secrets/b": b"b", "secrets/c": b"c"}


@dataclass(frozen=True)
class Rotated:
    """A store with records under ``default.1`` whose keyring was rotated a moment ago, to be made again and again."""

    first: Sequence[Put]  # what it held before the rotation
    old: Document
    keyring: Put  # the rotation

    @classmethod
    async def make(cls) -> "Rotated":
        """Make one."""
        store = MemoryBackend()
        await store.open()
        await initialize(store)
        await put_all(EncryptedBackend(store, Rings(store)), RECORDS)
        old, _ = await read_document(store)
        entries = await store.get_many(await names(store, ""))
        await rotate(store)
        entry = await store.get(KEYRING_DOCUMENT)
        assert entry is not None
        return cls([Put(name, each.value) for name, each in entries.items()], old, Put(KEYRING_DOCUMENT, entry.value))

    async def store(self) -> tuple[MemoryBackend, Ring]:
        """Return one more, with the ring that a worker who has not heard of the rotation goes on holding."""
        store = MemoryBackend()
        await store.open()
        revision = await store.commit(self.first)
        await store.commit([self.keyring])
        return store, self.old.ring(revision)


class Unguarded(Gated):
    """A store through which writers forget to say which keyring they wrote under."""

    async def commit(self, changes: Sequence[Change]) -> int:
        return await super().commit(
            [each for each in changes if not (isinstance(each, Check) and each.name == KEYRING_DOCUMENT)]
        )


class Blind(Gated):
    """A store through which a sweep forgets to say which values it has read."""

    async def commit(self, changes: Sequence[Change]) -> int:
        return await super().commit(
            [replace(each, expected=None) if isinstance(each, Put) else each for each in changes]
        )


Stores = Callable[[Order, str, Backend], Backend]


def _with(kind: type[Gated], order: Order, process: str, store: Backend) -> Backend:
    order.store(process, store)
    return kind(order, process, store)


def guarded(order: Order, process: str, store: Backend) -> Backend:
    """Return the store as everybody has it."""
    return order.store(process, store)


async def live(seed: int, rotated: Rotated, writing: Stores = guarded, sweeping: Stores = guarded) -> Sequence[str]:
    """Play one order of re-encryption and retirement against who writes, deletes, rotates and sweeps.

    Returns:
        What came of it, for counting.

    Raises:
        AssertionError: a record was lost, or a key while something was under it.
    """
    choose = random.Random(seed)
    order = Order(seed)
    store, stale = await rotated.store()
    values: dict[str, bytes | None] = dict(RECORDS)
    outcomes: list[str] = []

    async def operator() -> None:
        mine = order.store("operator", store)
        rings = Rings(sweeping(order, "operator", store))
        generation = choose.choice(["default.1", "default.1", "default.2"])
        for _ in range(choose.randint(1, 3)):
            try:
                await sweep_all(sweeping(order, "operator", store), rings, None, choose.choice([1, 2, 10]))
                await sweep.retire(mine, ROOT, generation)
            except (InUse, Overtaken, NotFound) as refusal:
                outcomes.append(type(refusal).__name__)
                continue
            outcomes.append("retired")
            assert generation not in (await generations(store)).values()

    async def writer(name: str, *others: str) -> None:
        mine = writing(order, f"writer of {name}", store)
        rings = Rings(mine)
        rings.current = stale
        secrets = EncryptedBackend(mine, rings)
        for each in (name, *others):
            value = b"new" if choose.random() < 0.7 else None
            await secrets.commit([Delete(each) if value is None else Put(each, value)])
            values[each] = value

    async def meddler(process: str) -> None:
        mine = order.store(process, store)
        try:
            match choose.randrange(4):
                case 0:
                    await stored.edit(mine, ROOT, lambda said: said.rotated("default", NOW))
                case 1:
                    await stored.edit(mine, ROOT, lambda said: said.reverted("default"))
                case 2:
                    await sweep_all(sweeping(order, process, store), Rings(mine))
                case 3:
                    await sweep.settle(mine, ROOT, None)
                    outcomes.append("settled")
        except (Overtaken, InUse, Invalid) as refusal:
            outcomes.append(type(refusal).__name__)

    await order.run(operator(), writer("secrets/a", "secrets/d"), meddler("one"), meddler("another"))

    secrets = EncryptedBackend(store, Rings(store))
    assert await read_all(secrets) == {name: value for name, value in values.items() if value is not None}
    await assert_index_is_true(store)
    return outcomes


@pytest.mark.campaign
async def test_no_order_destroys_a_key_too_soon() -> None:
    """In no order of re-encryption, retirement, writing, rotation and reversal is a record or its key ever lost."""
    rotated = await Rotated.make()
    outcomes: Counter[str] = Counter()
    for seed in range(ORDERS):
        outcomes.update(await live(seed, rotated))

    assert all(outcomes[each] > ORDERS // 100 for each in ("retired", "settled", "InUse", "Overtaken")), outcomes


@pytest.mark.parametrize(
    ("writing", "sweeping"),
    [
        (lambda order, process, store: _with(Unguarded, order, process, store), guarded),
        (guarded, lambda order, process, store: _with(Blind, order, process, store)),
    ],
    ids=[
        "a write that does not name its keyring",
        "a sweep that does not name what it read",
    ],
)
async def test_each_guard_is_needed(writing: Stores, sweeping: Stores) -> None:
    """Without either guard some order loses a record: what the orders are to find, they find."""
    rotated = await Rotated.make()

    async def orders() -> None:
        for seed in range(ORDERS):
            await live(seed, rotated, writing, sweeping)

    with pytest.raises((AssertionError, Undecipherable)):
        await orders()

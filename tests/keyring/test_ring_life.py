"""The whole life of a keyring, in whatever order: what was acknowledged is read, and no key means two things.

A state machine (https://hypothesis.readthedocs.io/en/latest/stateful.html) of two workers that know nothing of each
other and a store: writing, deleting, keysets, containers, rotation, reversal, re-encryption, retirement, backups and
locks, each of which may be cut off by the death of its worker at any operation on the store.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from strongroom.storage_service.backends.base import Backend, Delete, Put
from strongroom.storage_service.backends.faulty import Fault, FaultyBackend, Killed
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import Exists, Halted, InUse, Invalid, Locked, NotFound, Overtaken
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.document import Document
from strongroom.storage_service.keyring.overlay import EncryptedBackend
from strongroom.storage_service.keyring.usage import sweep
from tests.keyring.story import (
    ROOT,
    Rings,
    assert_index_is_true,
    generations,
    initialize,
    read_all,
    read_document,
    sweep_all,
)

NOW: Final = "2026-01-02T03:04:05Z"
REFUSALS: Final = (Exists, Halted, InUse, Invalid, NotFound, Overtaken)  # nothing is done, and the story goes on

WORKERS: Final = st.sampled_from([0, 1])
RECORDS: Final = st.sampled_from(["secrets/top", "secrets/a/1", "secrets/a/2", "secrets/a/b/3", "system/access/key"])
CONTAINERS: Final = st.sampled_from(["secrets/a/", "secrets/a/b/", "secrets/c/"])
KEYSETS: Final = st.sampled_from(["default", "default", "red", "red", "blue", "access"])
DEATHS: Final = st.sampled_from(
    [None] * 50 + [(at, how) for at in range(12) for how in (Fault.DIE_BEFORE, Fault.DIE_AFTER)]
)

Death = tuple[int, Fault] | None
Act = Callable[[Backend, Rings], Awaitable[object]]


class Life(RuleBasedStateMachine):
    """A store, two workers, and what is known of them."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.store = MemoryBackend()
        self.may: dict[str, set[bytes | None]] = {}  # what each record may read as
        self.keys: dict[str, bytes] = {}  # every key there ever was, by its kid
        self.gone: set[str] = set()  # kids that were destroyed
        self.runner.run(self.begin())
        self.workers = [Rings(self.store), Rings(self.store)]
        self.cursors: list[str | None] = [None, None]

    async def begin(self) -> None:
        """Make the store and its keyring."""
        await self.store.open()
        await initialize(self.store)

    def teardown(self) -> None:
        """Let go of the loop."""
        self.runner.close()

    def do(self, worker: int, death: Death, act: Act) -> bool:
        """Let a worker *act*, until its *death*; return whether it came to the end."""
        faults = {} if death is None else {death[0]: death[1]}
        faulty = FaultyBackend(self.store, faults)
        rings = self.workers[worker]
        rings.store = faulty
        try:
            self.runner.run(_finish(act(faulty, rings)))
        except REFUSALS:
            return False
        except Locked:
            assert rings.locked
            return False
        except Killed:
            self.workers[worker] = Rings(self.store)
            self.cursors[worker] = None
            return False
        finally:
            rings.store = self.store
        return True

    def change(self, worker: int, death: Death, how: Callable[[Document], Document]) -> None:
        """Let a worker change the keyring document."""
        self.do(worker, death, lambda store, _: stored.edit(store, ROOT, how))

    @rule(worker=WORKERS, death=DEATHS, name=RECORDS, value=st.none() | st.binary(max_size=3))
    def write(self, worker: int, death: Death, name: str, value: bytes | None) -> None:
        """Write or delete a record."""
        self.may.setdefault(name, {None}).add(value)
        put = Delete(name) if value is None else Put(name, value)
        if self.do(worker, death, lambda store, rings: EncryptedBackend(store, rings).commit([put])):
            self.may[name] = {value}

    @rule(worker=WORKERS, death=DEATHS, name=st.sampled_from(["red", "blue"]), keys=st.integers(1, 2))
    def add_keyset(self, worker: int, death: Death, name: str, keys: int) -> None:
        """Make a keyset."""
        self.change(worker, death, lambda said: said.with_keyset(name, NOW, keys))

    @rule(worker=WORKERS, death=DEATHS, name=KEYSETS)
    def remove_keyset(self, worker: int, death: Death, name: str) -> None:
        """Remove a keyset."""
        self.do(worker, death, lambda store, _: sweep.remove_keyset(store, ROOT, name))

    @rule(worker=WORKERS, death=DEATHS, container=CONTAINERS, name=KEYSETS)
    def assign(self, worker: int, death: Death, container: str, name: str) -> None:
        """Assign a container to a keyset."""
        self.change(worker, death, lambda said: said.assigned(container, name))

    @rule(worker=WORKERS, death=DEATHS, name=KEYSETS)
    def rotate(self, worker: int, death: Death, name: str) -> None:
        """Give a keyset a new generation."""
        self.change(worker, death, lambda said: said.rotated(name, NOW))

    @rule(worker=WORKERS, death=DEATHS, name=KEYSETS)
    def revert(self, worker: int, death: Death, name: str) -> None:
        """Go back to the generation before."""
        self.change(worker, death, lambda said: said.reverted(name))

    @rule(worker=WORKERS, death=DEATHS, name=KEYSETS)
    def halt(self, worker: int, death: Death, name: str) -> None:
        """Let nothing be written until a reversal is settled, if one is under way."""

        def halted(said: Document) -> Document:
            if not said.keyset(name).reverting:
                raise Invalid("nothing is being reverted")
            return said.halt(name, NOW, "a disk is full")

        self.change(worker, death, halted)

    @rule(worker=WORKERS, death=DEATHS, name=st.none() | KEYSETS, limit=st.integers(1, 4))
    def sweep_on(self, worker: int, death: Death, name: str | None, limit: int) -> None:
        """Re-encrypt some more, from where this worker was."""

        async def step(store: Backend, rings: Rings) -> None:
            taken = await sweep.step(store, rings, name, self.cursors[worker], limit)
            assert not taken.unreadable
            self.cursors[worker] = taken.after

        self.do(worker, death, step)

    @rule(worker=WORKERS, death=DEATHS, name=st.none() | KEYSETS)
    def settle(self, worker: int, death: Death, name: str | None) -> None:
        """Say that nothing is left."""
        self.do(worker, death, lambda store, _: sweep.settle(store, ROOT, name))

    @rule(worker=WORKERS, name=st.none() | KEYSETS)
    def sweep_and_settle(self, worker: int, name: str | None) -> None:
        """Re-encrypt everything: with nobody else at work one pass is enough."""

        async def all_of_it(store: Backend, rings: Rings) -> None:
            await sweep_all(store, rings, name, limit=3)
            try:
                await sweep.settle(store, ROOT, name)
            except InUse as refusal:
                raise AssertionError from refusal

        self.do(worker, None, all_of_it)

    @rule(worker=WORKERS, death=DEATHS, late=st.integers(0, 40), name=KEYSETS)
    def renew(self, worker: int, death: Death, late: int, name: str) -> None:
        """Rotate, re-encrypt, and destroy what is old."""

        async def renewed(store: Backend, rings: Rings) -> None:
            said, _ = await stored.edit(store, ROOT, lambda said: said.rotated(name, NOW))
            await sweep_all(store, rings, limit=3)
            await sweep.settle(store, ROOT, None)
            for each in said.keysets[name].generations[:-1]:
                await sweep.retire(store, ROOT, f"{name}.{each.number}")

        self.do(worker, death and (death[0] + late, death[1]), renewed)

    @rule(worker=WORKERS, death=DEATHS, data=st.data())
    def retire(self, worker: int, death: Death, data: st.DataObject) -> None:
        """Destroy a generation."""
        document, _ = self.runner.run(read_document(self.store))
        old = {*document.generations} - {*document.active_generations.values()}
        generation = data.draw(st.sampled_from([*sorted(old), "default.1"]))
        self.do(worker, death, lambda store, _: sweep.retire(store, ROOT, generation))

    @rule(worker=WORKERS, death=DEATHS, add=st.booleans())
    def back_up(self, worker: int, death: Death, add: bool) -> None:
        """Register a backup, or forget it."""
        self.change(worker, death, lambda said: said.with_backup("b", NOW) if add else said.without_backup("b"))

    @rule(worker=WORKERS)
    def lock(self, worker: int) -> None:
        """Drop the keys of a worker."""
        self.workers[worker].lock()

    @rule(worker=WORKERS)
    def unlock(self, worker: int) -> None:
        """Let it have them again."""
        self.workers[worker].unlock()

    @invariant()
    def what_was_acknowledged_is_read(self) -> None:
        """Every record reads as what was last acknowledged, or as what was asked for since without an answer."""
        found = self.runner.run(read_all(EncryptedBackend(self.store, Rings(self.store))))
        assert found.keys() <= self.may.keys()
        assert all(found.get(name) in may for name, may in self.may.items())
        self.may = {name: {found.get(name)} for name in self.may}  # read once, it stays that

    @invariant()
    def the_index_is_true(self) -> None:
        """There is one row for each record, under its generation."""
        self.runner.run(assert_index_is_true(self.store))

    @invariant()
    def a_kid_means_one_key(self) -> None:
        """No kid ever means two keys, and none comes back that was destroyed."""
        document, _ = self.runner.run(read_document(self.store))
        ring = document.ring()
        bits = {kid: key.reveal() for kid in ring.kids if (key := ring.everywhere.get(kid)) is not None}
        assert all(self.keys.setdefault(kid, each) == each for kid, each in bits.items())
        self.gone |= self.keys.keys() - bits.keys()
        assert self.gone.isdisjoint(bits)

    @invariant()
    def what_is_in_use_is_there(self) -> None:
        """Every record is under a generation of the keyring that is in the document."""
        document, _ = self.runner.run(read_document(self.store))
        assert {*self.runner.run(generations(self.store)).values()} <= {*document.generations}


async def _finish(act: Awaitable[object]) -> None:
    await act


Life.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, derandomize=True, database=None
)
TestLife = Life.TestCase

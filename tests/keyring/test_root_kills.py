"""A process that is killed while it makes or rotates a root key, at each operation on the store and on the files.

Each story is told once to count its operations, and once more for each of them with a fault there. Afterwards other
processes look at what it left: one root key is in use, those open it whom it was made for and whose keys were given
out, every secret reads, and what was begun can be finished, done again, or dropped.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from strongroom.storage_service.backends.base import Backend
from strongroom.storage_service.backends.faulty import Fault, FaultyBackend, Killed
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import Exists, Overtaken, Unavailable
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.ceremonies import rotation
from strongroom.storage_service.keyring.ceremonies.rotation import Made, Recipients
from strongroom.storage_service.keyring.rootkey import RootKey
from tests.keyring import story
from tests.keyring.dying import killed_at
from tests.keyring.hands import MACHINE, Breathing, Hand, Site, Writers
from tests.keyring.story import Stores

FILE: Final = Recipients("file")
KEPT: Final = Recipients("file", keep_file=True)
UNLOCK: Final = Recipients("unlock", 2)
SHARES: Final = Recipients("shares", 3, 2)
ALONE: Final = Recipients("machine")

FAULTS: Final = (Fault.DIE_BEFORE, Fault.DIE_AFTER, Fault.BEFORE, Fault.AFTER, Fault.LOST)
WAYS: Final = ("confirm", "abandon", "rotate")  # to go on
ROTATIONS: Final = {
    "file to file": (FILE, FILE),
    "file kept": (FILE, KEPT),
    "file to unlock": (FILE, UNLOCK),
    "unlock to shares": (UNLOCK, SHARES),
    "shares to machine": (SHARES, ALONE),
    "machine to file": (ALONE, FILE),
}


@dataclass
class Told:
    """What came of one story: who had what in hand when the process died, or was done."""

    site: Site  # as those see it who are alive
    to: Recipients
    old: list[Hand]
    root: RootKey
    hands: list[Hand] = field(default_factory=list)  # all who can open the keyring at some moment
    made: Made | None = None
    confirmed: bool = False

    @property
    def file(self) -> list[Hand]:
        """The file at its place, if the old root key is for a file."""
        return [Hand(file=self.site.file.path)] if self.old[0].file is not None else []

    @property
    def new(self) -> list[Hand]:
        """Those who were given the new keys."""
        if self.made is None:
            return []
        return [Hand(file=self.site.file.path)] if self.to.mode == "file" else self.site.hands(self.to, self.made)[:1]


async def begin(site: Site, old: Recipients, to: Recipients) -> Told:
    """Give *site* a keyring and secrets under it."""
    made = await site.initialize(old, machine=ALONE in (old, to))
    hands = site.hands(old, made)[:1]
    root = await site.root(hands[0])
    assert root is not None
    await story.put_all(site.secrets(hands), story.VALUES)
    return Told(site, to, hands, root, [*hands, Hand(file=site.file.path)])


async def rotate(told: Told, site: Site) -> None:
    """Rotate as a process does that sees *site*, and note what it was that people were given."""
    told.made = await site.prepare(told.root, told.to)
    told.hands += told.new
    await site.confirm(told.root, told.made)
    told.confirmed = True


async def look(told: Told) -> None:
    """See that all is well, whatever happened."""
    site = told.site
    sealed = await stored.read(site.store)
    assert sealed is not None
    switched = sealed.root != told.root.kid
    assert switched or not told.confirmed
    if switched:
        assert told.made is not None
        assert sealed.root == told.made.root
    for hand in told.new if switched else [*told.old, *told.file]:
        root = await site.root(hand)
        assert root is not None
        assert root.kid == sealed.root
    if switched and told.to is not KEPT:
        assert not [hand for hand in told.old if hand.machine is None and await site.root(hand) is not None]
    in_use = told.new if switched else told.old
    read = await story.read_all(site.secrets(in_use))
    assert {name: read[name] for name in story.VALUES} == story.VALUES
    await story.assert_index_is_true(site.store)


async def go_on(told: Told, way: str) -> None:
    """Do as an operator would who comes next, and see that it is done, with nothing left over."""
    site = told.site
    sealed = await stored.read(site.store)
    assert sealed is not None
    switched = sealed.root != told.root.kid
    [root, *_] = [root for hand in (told.new if switched else told.old) if (root := await site.root(hand))]
    if told.made is not None and way == "confirm":
        with suppress(Overtaken):
            root = await site.confirm(root, told.made)
    elif told.made is not None and way == "abandon" and not switched:
        await site.abandon(root, told.made)
    else:
        root, told.made = await site.rotate(root, told.to)
    assert await site.roots() == {root.kid}
    assert not site.file.next.exists()
    sealed = await stored.read(site.store)
    assert sealed is not None
    assert sealed.root == root.kid
    in_use = told.new if told.made is not None and root.kid == told.made.root else told.old
    assert [await site.root(hand) for hand in in_use] == [root] * len(in_use)
    assert story.VALUES.items() <= (await story.read_all(site.secrets(in_use))).items()


async def operations_of(store: MemoryBackend, directory: Path, old: Recipients, to: Recipients) -> list[str]:
    """Return the operations on the store that a rotation consists of."""
    await store.open()
    directory.mkdir()
    told = await begin(Site.at(store, directory), old, to)
    counted = FaultyBackend(store)
    await rotate(told, told.site.through(counted))
    return counted.operations


async def told_with(
    store: Backend, directory: Path, old: Recipients, to: Recipients, faults: dict[int, Fault], writers: int = 0
) -> Told:
    """Tell the story of a rotation with these faults, beside so many who write, and look at what is left."""
    directory.mkdir()
    told = await begin(Site.at(store, directory), old, to)
    working = Writers(told.site, told.hands, writers)
    with suppress(Killed, Unavailable, Overtaken):
        await rotate(told, told.site.through(FaultyBackend(Breathing(store), faults)))
    await working.stop()
    await look(told)
    read = await story.read_all(told.site.secrets(told.hands))
    assert working.acknowledged.items() <= read.items()
    return told


def faults_of(operations: list[str]) -> list[tuple[int, Fault]]:
    """Return every fault worth telling of: to die after reading is to die before what comes next."""
    return [
        (at, fault)
        for at, operation in enumerate(operations)
        for fault in (FAULTS if operation == "commit" else (Fault.DIE_BEFORE, Fault.BEFORE))
    ]


@pytest.mark.parametrize(("old", "to"), ROTATIONS.values(), ids=ROTATIONS)
async def test_a_rotation_with_a_fault_at_each_operation(tmp_path: Path, old: Recipients, to: Recipients) -> None:
    """Whatever operation on the store fails, one root key is in use, its recipients open it, and one can go on."""
    operations = await operations_of(MemoryBackend(), tmp_path / "counted", old, to)
    for number, (at, fault) in enumerate(faults_of(operations)):
        store = MemoryBackend()
        await store.open()
        told = await told_with(store, tmp_path / f"told-{number}", old, to, {at: fault})
        await go_on(told, WAYS[number % len(WAYS)])


@pytest.mark.parametrize("writers", [1, 3])
async def test_a_rotation_while_others_write(stores: Stores, tmp_path: Path, writers: int) -> None:
    """Others who write meanwhile lose nothing, on any store, at whichever operation the rotation is cut off."""
    operations = await operations_of(MemoryBackend(), tmp_path / "counted", UNLOCK, FILE)
    faults = [(at, fault) for at, fault in faults_of(operations) if fault is not Fault.BEFORE]
    for number, (at, fault) in enumerate(faults):
        async with stores() as store:
            told = await told_with(store, tmp_path / f"told-{number}", UNLOCK, FILE, {at: fault}, writers)
            await go_on(told, WAYS[number % len(WAYS)])


@pytest.mark.parametrize(("old", "to"), ROTATIONS.values(), ids=ROTATIONS)
async def test_a_rotation_killed_at_each_operation_on_files(tmp_path: Path, old: Recipients, to: Recipients) -> None:
    """Whatever operation on files is the last, a file that opens is there if one is to open, and one can go on."""
    for at in count():
        store = MemoryBackend()
        await store.open()
        directory = tmp_path / f"at-{at}"
        directory.mkdir()
        told = await begin(Site.at(store, directory), old, to)
        with killed_at(directory, at) as death, suppress(Killed):
            await rotate(told, told.site)
        await look(told)
        await go_on(told, WAYS[at % len(WAYS)])
        if len(death.operations) <= at:
            assert told.confirmed
            return


async def test_an_abandoning_that_is_cut_off(tmp_path: Path) -> None:
    """Whatever operation is the last, the old file opens, and what was prepared can still be dropped."""
    for at in count():
        done = 0
        for on_files in (False, True):
            store = MemoryBackend()
            await store.open()
            directory = tmp_path / f"{'files' if on_files else 'store'}-{at}"
            directory.mkdir()
            told = await begin(Site.at(store, directory), FILE, FILE)
            told.made = await told.site.prepare(told.root, FILE)
            dying = FaultyBackend(store, {} if on_files else {at: Fault.DIE_BEFORE})
            with killed_at(directory, at if on_files else None), suppress(Killed):
                await told.site.through(dying).abandon(told.root, told.made)
                done += 1
            await look(told)
            await told.site.abandon(told.root, told.made)
            assert await told.site.roots() == {told.root.kid}
            assert not told.site.file.next.exists()
        if done == 2:
            return


# The first keyring


async def first_told(store: Backend, site: Site, to: Recipients) -> Made | None:
    """Make a first keyring through *store*, and return what people are given, if they are."""
    with suppress(Killed, Unavailable):
        return await site.through(store).initialize(to, machine=to is ALONE)
    return None


async def look_at_first(site: Site, to: Recipients, made: Made | None) -> None:
    """See that there is no keyring, or one that those open whom it was made for; and that one can go on."""
    if made is None and (sealed := await stored.read(site.store)) is not None and to in (UNLOCK, SHARES):
        # It was stored, and nobody was told its keys: nothing can be under it, so it is made again.
        with pytest.raises(Exists):
            await site.initialize(to)
        made = await rotation.initialize(site.store, to, site.file, machines=site.machines, again=True)
        assert await site.roots() == {made.root} != {sealed.root}
    if made is None:
        with suppress(Exists):
            made = await site.initialize(to, machine=to is ALONE)
    if made is None:
        hands = [Hand(machine=MACHINE)] if to is ALONE else [Hand(file=site.file.path)]
    else:
        hands = site.hands(to, made)
    secrets = site.secrets(hands)
    await story.put_all(secrets, story.VALUES)
    assert await story.read_all(secrets) == story.VALUES
    assert None not in [await site.root(hand) for hand in hands]


@pytest.mark.parametrize("to", [FILE, UNLOCK, SHARES, ALONE], ids=["file", "unlock", "shares", "machine"])
async def test_a_first_keyring_with_a_fault_at_each_operation(stores: Stores, tmp_path: Path, to: Recipients) -> None:
    """Whatever operation on the store fails, there is no keyring, or one that opens, or one that is made again."""
    async with stores() as store:
        counted = FaultyBackend(store)
        assert await first_told(counted, Site.at(store, tmp_path), to) is not None
    for number, (at, fault) in enumerate(faults_of(counted.operations)):
        (tmp_path / f"told-{number}").mkdir()
        async with stores() as store:
            site = Site.at(store, tmp_path / f"told-{number}")
            made = await first_told(FaultyBackend(store, {at: fault}), site, to)
            await look_at_first(site, to, made)


async def test_a_first_keyring_killed_at_each_operation_on_files(tmp_path: Path) -> None:
    """Whatever operation on files is the last, the next start finds no keyring, or the file that opens it."""
    for at in count():
        directory = tmp_path / f"at-{at}"
        directory.mkdir()
        store = MemoryBackend()
        await store.open()
        site = Site.at(store, directory)
        with killed_at(directory, at) as death:
            made = await first_told(store, site, FILE)
        await look_at_first(site, FILE, made)
        if len(death.operations) <= at:
            assert made is not None
            return

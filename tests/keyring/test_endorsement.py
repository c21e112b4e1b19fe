"""Which root key a machine accepts: nobody who only writes the store can put a keyring of their own before it."""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from strongroom.models.names import ENDORSEMENTS
from strongroom.storage_service.backends.base import Put
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import KeyFileUnusable, WrongRootKey
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.ceremonies import rotation
from strongroom.storage_service.keyring.ceremonies.recipients import Recipients
from strongroom.storage_service.keyring.machines import endorsement
from strongroom.storage_service.keyring.machines.document import MachineDocument
from strongroom.storage_service.keyring.machines.endorsement import PinnedRoots
from strongroom.storage_service.keyring.machines.key import make, write_private
from strongroom.storage_service.keyring.machines.stored import StoredDocuments
from strongroom.storage_service.keyring.opening.unattended import MachineKeyFile
from strongroom.storage_service.keyring.rootkey import RootKey

FIRST: Final = RootKey(b"a" * 64)
SECOND: Final = RootKey(b"b" * 64)
THIRD: Final = RootKey(b"c" * 64)
STRANGER: Final = RootKey(b"s" * 64)


@pytest.fixture
async def store() -> MemoryBackend:
    backend = MemoryBackend()
    await backend.open()
    return backend


@pytest.fixture
def machine(tmp_path: Path) -> PinnedRoots:
    return PinnedRoots(tmp_path / "machine.key")


def renamed(put: Put, root: RootKey) -> Put:
    return Put(ENDORSEMENTS + root.kid, put.value)


# What the machine knew, what the store says, which root key it is given, and whether it takes it.
STORIES: Final[dict[str, tuple[list[RootKey], Callable[[], list[Put]], RootKey, bool]]] = {
    "the first is taken on trust": ([], list, FIRST, True),
    "the one it knows": ([FIRST], list, FIRST, True),
    "another, of which nothing is said": ([FIRST], list, SECOND, False),
    "the next, with an endorsement of the one before": (
        [FIRST],
        lambda: [endorsement.endorse(FIRST, SECOND)],
        SECOND,
        True,
    ),
    "the next but one, after sleeping through a rotation": (
        [FIRST],
        lambda: [endorsement.endorse(FIRST, SECOND), endorsement.endorse(SECOND, THIRD)],
        THIRD,
        False,
    ),
    "a stranger that testifies for itself": (
        [FIRST],
        lambda: [endorsement.endorse(STRANGER, STRANGER)],
        STRANGER,
        False,
    ),
    "a stranger under the endorsement for another": (
        [FIRST],
        lambda: [renamed(endorsement.endorse(FIRST, SECOND), STRANGER)],
        STRANGER,
        False,
    ),
    "what is no endorsement": ([FIRST], lambda: [Put(ENDORSEMENTS + SECOND.kid, b"yes, it is")], SECOND, False),
}


@pytest.mark.parametrize(("knew", "said", "given", "taken"), STORIES.values(), ids=STORIES)
async def test_who_follows(
    store: MemoryBackend,
    machine: PinnedRoots,
    knew: list[RootKey],
    said: Callable[[], list[Put]],
    given: RootKey,
    taken: bool,
) -> None:
    """A machine takes the root key it knows, or one that the holder of that has put in its place, and no other."""
    for root in knew:
        machine.keep(root)
    for put in said():
        await store.commit([put])

    if taken:
        await endorsement.accept(store, machine, given)
        assert machine.known() == [endorsement.derived(given)]
    else:
        with pytest.raises(WrongRootKey, match="may have put another keyring there"):
            await endorsement.accept(store, machine, given)
        assert machine.known() == [endorsement.derived(root) for root in knew]


def test_what_it_knows_is_private_and_opens_nothing_else(machine: PinnedRoots) -> None:
    """The record is a file of mode 0600 with a key that is not the root key, nor tells it."""
    machine.keep(FIRST)

    (path,) = machine.key.parent.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert FIRST.reveal() not in path.read_bytes()
    assert endorsement.derived(FIRST).reveal() != FIRST.reveal()
    assert repr(endorsement.derived(FIRST)) == f"<Key knows.{FIRST.kid}>"


def test_a_record_that_is_none_is_refused(machine: PinnedRoots) -> None:
    """What is damaged is not taken for knowing nothing, which would be to trust anybody."""
    machine.keep(FIRST)
    (path,) = machine.key.parent.iterdir()
    path.write_bytes(b"{}")

    with pytest.raises(KeyFileUnusable, match="is not a record of a root key"):
        machine.known()


async def test_a_rotation_is_followed_and_a_planted_keyring_is_not(store: MemoryBackend, tmp_path: Path) -> None:
    """The machine starts after a rotation by itself; after somebody replaced the whole keyring it does not start."""
    key = make()
    path = tmp_path / "machine.key"
    write_private(path, key)
    documents = StoredDocuments(store)
    document = MachineDocument.new("a", key.public_jwk(), 1)
    made = await rotation.initialize(store, Recipients("machine"), None, machines=documents, machine=document)
    way = MachineKeyFile(path, documents)

    first = await way.open(store, made.root)
    assert first is not None
    prepared = await rotation.prepare(store, first, Recipients("machine"), None, documents)
    second = await rotation.confirm(store, first, prepared.root, None, None, documents, key)
    followed = await way.open(store, second.kid)
    assert followed == second

    planted = stored.new_root()
    raw = await documents.get(key.fingerprint)
    assert raw is not None
    await documents.save(MachineDocument.new("a", key.public_jwk(), 1).with_root(planted, allowed=True), raw.revision)
    with pytest.raises(WrongRootKey, match="another keyring"):
        await way.open(store, planted.kid)

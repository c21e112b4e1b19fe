"""The first root key and the next: who opens the keyring when, who is refused what, and what is left behind."""

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from strongroom.models.names import KEYRING_DOCUMENT, MACHINES
from strongroom.storage_service.backends.base import Backend, Delete, Put
from strongroom.storage_service.backends.faulty import Fault, FaultyBackend
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import (
    ConfigurationError,
    Exists,
    Fate,
    InUse,
    Invalid,
    KeyringDamaged,
    NotFound,
    Overtaken,
    StrongroomError,
    Unavailable,
    WrongKey,
)
from strongroom.storage_service.jose import jwk
from strongroom.storage_service.keyring import rootkey, stored
from strongroom.storage_service.keyring.ceremonies import rotation
from strongroom.storage_service.keyring.ceremonies.rotation import Made, Recipients
from strongroom.storage_service.keyring.document import Document
from strongroom.storage_service.keyring.holder import Holder
from strongroom.storage_service.keyring.machines import key as machine_key
from strongroom.storage_service.keyring.machines.document import SHORT, MachineDocument
from strongroom.storage_service.keyring.machines.key import Kind
from strongroom.storage_service.keyring.machines.stored import FileDocuments, StoredDocuments
from strongroom.storage_service.keyring.opening import next_file, unlock_keys, wraps
from strongroom.storage_service.keyring.opening.key_files import KeyFiles
from strongroom.storage_service.keyring.opening.unlock_keys import Mistyped
from strongroom.storage_service.keyring.overlay import EncryptedBackend
from strongroom.storage_service.keyring.rootkey import RootKey
from strongroom.storage_service.keyring.shared_root import SharedRoot, State
from tests.keyring import story
from tests.keyring.hands import CREATED, MACHINE, Breathing, Hand, Site, typed_of
from tests.keyring.story import Stores

MODES: Final = {
    "file": Recipients("file"),
    "kept file": Recipients("file", keep_file=True),
    "unlock": Recipients("unlock", 3),
    "shares": Recipients("shares", 3, 2),
    "machine": Recipients("machine"),
}
FILE, KEPT, UNLOCK, SHARES, ALONE = MODES.values()


@pytest.fixture
async def memory() -> MemoryBackend:
    store = MemoryBackend()
    await store.open()
    return store


@pytest.fixture
def site(memory: MemoryBackend, tmp_path: Path) -> Site:
    return Site.at(memory, tmp_path)


async def begun(site: Site, to: Recipients, *, machine: bool = True) -> tuple[RootKey, Made, list[Hand]]:
    """Give *site* its first keyring, and return the root key, what was made, and who opens it."""
    made = await site.initialize(to, machine=machine)
    hands = site.hands(to, made)
    root = await site.root(hands[0])
    assert root is not None
    return root, made, hands


def files(site: Site) -> set[str]:
    """Return the names beside the root key file, without the copies that hands hold."""
    return {path.name for path in site.file.path.parent.iterdir() if not path.name.startswith("copy-")}


# Who opens the keyring


@pytest.mark.parametrize("to", [FILE, UNLOCK, SHARES, ALONE], ids=["file", "unlock", "shares", "machine"])
async def test_the_first_keyring(stores: Stores, tmp_path: Path, to: Recipients) -> None:
    """Each of those whom the first keyring is made for opens it, and a second one is refused and changes nothing."""
    async with stores() as store:
        site = Site.at(store, tmp_path)
        root, made, hands = await begun(site, to, machine=to is ALONE)
        before = await site.snapshot()
        with pytest.raises(Exists):
            await site.initialize(UNLOCK)

        assert [await site.root(hand) for hand in hands] == [root] * len(hands)
        assert root.kid == made.root
        assert await site.snapshot() == before


@pytest.mark.parametrize("new", MODES.values(), ids=MODES)
@pytest.mark.parametrize("old", [FILE, UNLOCK, SHARES, ALONE], ids=["file", "unlock", "shares", "machine"])
async def test_a_rotation_changes_who_opens(site: Site, old: Recipients, new: Recipients) -> None:
    """Until the switch those open whom the old root key was made for, then those of the new one; machines always."""
    root, _, before = await begun(site, old)
    if new is KEPT and old is not FILE:
        rootkey.make(site.file.path)
    await story.put_all(site.secrets(before), story.VALUES)

    made = await site.prepare(root, new)
    for hand in [*before, Hand(machine=MACHINE)]:
        assert await site.root(hand) == root
    rotated = await site.confirm(root, made)

    after = site.hands(new, made)
    for hand in [*after, Hand(machine=MACHINE)]:
        assert await site.root(hand) == rotated
    if not (old is ALONE or (old is FILE and new is KEPT)):
        assert [await site.root(hand) for hand in before] == [None] * len(before)
    assert rotated.kid == made.root != root.kid
    assert await site.roots() == {rotated.kid}
    assert next_file.of(site.file.path).name not in files(site)
    assert await story.read_all(site.secrets(after)) == story.VALUES


async def test_a_rotation_on_every_store(stores: Stores, tmp_path: Path) -> None:
    """On each kind of store: two rotations, the old keys dead, the new ones alive, every secret as it was."""
    async with stores() as store:
        site = Site.at(store, tmp_path)
        root, _, first = await begun(site, UNLOCK)
        await story.put_all(site.secrets(first), story.VALUES)
        root, made = await site.rotate(root, SHARES)
        second = site.hands(SHARES, made)
        root, made = await site.rotate(root, FILE)
        third = site.hands(FILE, made)

        assert [await site.root(hand) for hand in first + second] == [None] * 6
        assert [await site.root(hand) for hand in third] == [root]
        assert await story.read_all(site.secrets(third)) == story.VALUES
        await story.assert_index_is_true(store)


async def test_the_keyring_itself_stays(site: Site) -> None:
    """A rotation changes nothing in the keyring, and what is changed between its two halves stays changed."""
    root, _, _ = await begun(site, UNLOCK)
    made = await site.prepare(root, UNLOCK)
    changed, _ = await stored.edit(site.store, root, lambda document: document.rotated("default", stored.now()))
    assert changed.pending is not None
    assert (changed.pending.root, len(changed.pending.recipients)) == (made.root, 3)

    await site.confirm(root, made)

    opened = await site.hands(UNLOCK, made)[0].open(site.store, site.machines)
    assert opened is not None
    assert opened[1] == msgspec.structs.replace(changed.with_pending(None), edition=opened[1].edition)
    assert opened[1].edition > changed.edition


# Transcripts: what Convection's users were promised


async def service(store: Backend, shared: SharedRoot, site: Site) -> Holder:
    """Return a worker of a service, begun."""
    holder = Holder(store, shared, [site.file])
    await holder.open()
    return holder


async def test_unlock_keys_from_the_first_day_on(site: Site) -> None:
    """Uninitialized; three keys, once; locked; a wrong key changes nothing; each of the three unlocks."""
    shared = SharedRoot()
    holder = await service(site.store, shared, site)
    assert holder.state is State.UNINITIALIZED
    made = await site.initialize(UNLOCK)
    await holder.look_for_keyring()
    with pytest.raises(Exists):
        await site.initialize(UNLOCK)
    assert len({secret.reveal() for secret in made.secrets}) == 3

    [(stranger, _)] = unlock_keys.make_keys(1)
    holder.changed()
    await wait_for(holder, State.LOCKED)
    with pytest.raises(WrongKey):
        await holder.unlock(stranger.reveal())
    assert holder.state is State.LOCKED
    for secret in made.secrets:
        other_shared = SharedRoot()
        fresh = await service(site.store, other_shared, site)
        assert fresh.state is State.LOCKED
        await fresh.unlock(secret.reveal())
        assert fresh.state is State.UNLOCKED
        await fresh.close()
        other_shared.close()
    await holder.close()
    shared.close()


async def wait_for(holder: Holder, state: State) -> None:
    """Let *holder* follow its shared root, and see it in *state*."""
    with pytest.raises(StrongroomError):
        await holder.sync()
    assert holder.state is state


async def test_a_root_rotation_of_a_running_service(site: Site) -> None:
    """A failed rotation leaves the old keys alive; one that is done, the new ones; secrets are there throughout."""
    _, old, _ = await begun(site, UNLOCK)
    shared = SharedRoot()
    workers = [await service(site.store, shared, site) for _ in range(2)]
    secrets = [EncryptedBackend(site.store, worker) for worker in workers]
    await workers[0].unlock(old.secrets[0].reveal())
    await story.put_all(secrets[0], story.VALUES)

    failing = FaultyBackend(site.store)
    async with workers[0].root() as root:
        broken = await site.prepare(root, UNLOCK)
        failing.full = True
        with pytest.raises(Unavailable):
            await site.through(failing).confirm(root, broken)
    workers[0].lock()
    await workers[1].unlock(old.secrets[1].reveal())
    assert await story.read_all(secrets[1]) == story.VALUES

    async with workers[1].root() as root:
        made = await site.prepare(root, UNLOCK)
        await site.confirm(root, made)
    workers[1].changed()
    for worker in workers:
        await wait_for(worker, State.LOCKED)
    with pytest.raises(WrongKey):
        await workers[0].unlock(old.secrets[0].reveal())
    late = Holder(site.store, shared, [site.file], clock=lambda: float("inf"))
    await late.unlock(made.secrets[2].reveal())
    assert [await story.read_all(each) for each in secrets] == [story.VALUES] * 2
    for worker in [*workers, late]:
        await worker.close()
    shared.close()


async def test_a_service_with_a_file_goes_on(site: Site) -> None:
    """Where a file opens the keyring, a service is unlocked before, during and after a rotation, in all its workers."""
    root, _, _ = await begun(site, FILE)
    shared = SharedRoot()
    workers = [await service(site.store, shared, site) for _ in range(2)]
    secrets = [EncryptedBackend(site.store, worker) for worker in workers]
    await story.put_all(secrets[0], story.VALUES)
    rotated, _ = await site.rotate(root, FILE)

    assert [await story.read_all(each) for each in secrets] == [story.VALUES] * 2
    await story.put_all(secrets[1], story.VALUES)
    async with workers[0].root() as held:
        assert held == rotated
    for worker in workers:
        await worker.close()
    shared.close()


# What is typed back


def no_key(made: Made, old: Made) -> str:
    return ""


def all_but_one(made: Made, old: Made) -> str:
    return typed_of(made._replace(secrets=made.secrets[:-1]))


def one_of_them_twice(made: Made, old: Made) -> str:
    return typed_of(made._replace(secrets=(*made.secrets[:-1], made.secrets[0])))


def an_old_one_among_them(made: Made, old: Made) -> str:
    return typed_of(made._replace(secrets=(made.secrets[0], old.secrets[1], *made.secrets[2:])))


def the_old_ones(made: Made, old: Made) -> str:
    return typed_of(old)


def one_mistyped(made: Made, old: Made) -> str:
    text = typed_of(made)
    return text[:-1] + ("0" if text[-1] != "0" else "1")


def one_share(made: Made, old: Made) -> str:
    return made.secrets[0].reveal()


def shares_instead(made: Made, old: Made) -> str:
    shares, _ = unlock_keys.make_shares(2, 3)
    return "\n".join(share.reveal() for share in shares)


def a_share_of_another_set(made: Made, old: Made) -> str:
    return "\n".join([made.secrets[0].reveal(), old.secrets[0].reveal()])


TYPED: Final[dict[str, tuple[Recipients, Callable[[Made, Made], str], str]]] = {
    "nothing": (UNLOCK, no_key, "nothing was given"),
    "all but one": (UNLOCK, all_but_one, "1 of 3 new keys were not given"),
    "one of them twice": (UNLOCK, one_of_them_twice, "1 of 3 new keys were not given"),
    "an old one among them": (UNLOCK, an_old_one_among_them, "number 2, does not belong to the new root key"),
    "the old ones": (UNLOCK, the_old_ones, "number 1, does not belong to the new root key"),
    "one of them mistyped": (UNLOCK, one_mistyped, "key 3 is mistyped"),
    "shares instead": (UNLOCK, shares_instead, "number 1, does not belong to the new root key"),
    "one share of two": (SHARES, one_share, "1 more share is needed"),
    "the old shares": (SHARES, the_old_ones, "number 1, does not belong to the new root key"),
    "a share of another set": (SHARES, a_share_of_another_set, "share 2 is of another set"),
}


@pytest.mark.parametrize(("to", "typed", "text"), TYPED.values(), ids=TYPED)
async def test_what_does_not_confirm(site: Site, to: Recipients, typed: Callable[[Made, Made], str], text: str) -> None:
    """What is not all of the new keys, or not enough of the shares, is told how, and changes nothing."""
    root, old, hands = await begun(site, to)
    made = await site.prepare(root, to)
    before = await site.snapshot()

    with pytest.raises(Mistyped) as caught:
        await site.confirm(root, made, typed(made, old))

    assert text in str(caught.value)
    assert await site.snapshot() == before
    assert await site.root(hands[0]) == root
    await site.confirm(root, made)


@pytest.mark.parametrize("number", [2, 3])
async def test_as_many_shares_as_are_needed_confirm(site: Site, number: int) -> None:
    """Any two of three shares are enough, and a third is welcome."""
    root, _, _ = await begun(site, FILE)
    made = await site.prepare(root, SHARES)

    rotated = await site.confirm(root, made, typed_of(made._replace(secrets=made.secrets[-number:])))

    assert rotated.kid == made.root


async def test_a_machine_at_hand_confirms(site: Site) -> None:
    """Where only machines are to open, this one has to; without its key, or on none of them, nothing is switched."""
    root, _, hands = await begun(site, UNLOCK)
    made = await site.prepare(root, ALONE)
    stranger = machine_key.make(Kind.EC)
    for machine in (None, stranger):
        with pytest.raises(Invalid, match="confirm it on one"):
            await rotation.confirm(site.store, root, made.root, None, site.file, site.machines, machine)

    assert await site.root(hands[0]) == root
    assert (await site.confirm(root, made)).kid == made.root


async def test_nobody_is_left_outside(site: Site) -> None:
    """A root key for machines alone is refused where there is none, for the first keyring and for the next."""
    with pytest.raises(Invalid, match="the first machine makes the keyring") as caught:
        await site.initialize(ALONE)
    assert [step.verb for step in caught.value.next] == ["machine init"]
    root, _, _ = await begun(site, UNLOCK, machine=False)
    before = await site.snapshot()

    with pytest.raises(Invalid, match="nobody would open the keyring"):
        await site.prepare(root, ALONE)

    assert await site.snapshot() == before


REFUSED: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "no keys": ({"mode": "unlock", "total": 0}, "1 to 16"),
    "too many keys": ({"mode": "unlock", "total": 17}, "1 to 16"),
    "too many shares": ({"mode": "shares", "total": 17}, "1 to 16"),
    "more needed than there are": ({"mode": "shares", "total": 3, "needed": 4}, "between 1 and the number of shares"),
    "none needed": ({"mode": "shares", "total": 3, "needed": 0}, "between 1 and the number of shares"),
    "any one share": ({"mode": "shares", "total": 3, "needed": 1}, "use unlock keys"),
    "some of the unlock keys": ({"mode": "unlock", "total": 3, "needed": 2}, "only for shares"),
    "to keep what is no file": ({"mode": "unlock", "keep_file": True}, "only a root key file"),
}


@pytest.mark.parametrize(("said", "text"), REFUSED.values(), ids=REFUSED)
def test_recipients_that_cannot_be(said: dict[str, Any], text: str) -> None:
    """Numbers that cannot be, and what does not go with the mode, are refused before anything is made."""
    with pytest.raises(Invalid, match=text) as caught:
        Recipients(**said)
    assert caught.value.faults


@pytest.mark.parametrize(("total", "needed"), [(1, 1), (2, 2), (3, 2), (5, 3), (16, 9)])
def test_more_than_half_of_the_shares_are_needed(total: int, needed: int) -> None:
    """Where nobody says how many shares open, it takes more than half of them."""
    assert Recipients("shares", total).threshold == needed


# Two at once


async def test_the_second_to_prepare_takes_over(site: Site) -> None:
    """Of two who prepare, the second can confirm; the first is told, and what was made for him opens nothing."""
    root, _, hands = await begun(site, UNLOCK)
    first = await site.prepare(root, UNLOCK)
    second = await site.prepare(root, FILE)

    assert await site.roots() == {root.kid, second.root}
    with pytest.raises(Overtaken):
        await site.confirm(root, first)
    assert await site.root(hands[0]) == root
    rotated = await site.confirm(root, second)
    with pytest.raises(Overtaken):
        await site.confirm(root, first)
    assert await site.roots() == {rotated.kid} == {second.root}


@pytest.mark.parametrize("number", [2, 3])
async def test_operators_at_one_moment(stores: Stores, tmp_path: Path, number: int) -> None:
    """However many rotate at one moment, each on his own machine: at most one has done it, and his keys alone open."""
    async with stores() as store:
        sites = [Site.at(Breathing(store), tmp_path / f"machine-{n}") for n in range(number)]
        for each in sites:
            each.file.path.parent.mkdir()
        root, _, hands = await begun(sites[0], UNLOCK)
        rotations = [each.rotate(root, to) for each, to in zip(sites, [FILE, UNLOCK, SHARES], strict=False)]
        results = await asyncio.gather(*rotations, return_exceptions=True)

        done = [(n, result) for n, result in enumerate(results) if not isinstance(result, BaseException)]
        assert [each for each in results if not isinstance(each, (tuple, Overtaken))] == []
        assert len(done) <= 1
        for n, (rotated, made) in done:
            for hand in sites[n].hands([FILE, UNLOCK, SHARES][n], made):
                assert await sites[n].root(hand) == rotated
            assert await sites[0].roots() == {rotated.kid}
        assert (await sites[0].root(hands[0]) == root) is not bool(done)


async def test_one_file_and_two_operators(site: Site) -> None:
    """Two who rotate at one moment beside one file never lose the file that opens."""
    root, _, _ = await begun(site, FILE)
    breathing = site.through(Breathing(site.store))
    for _ in range(10):
        results = await asyncio.gather(*(breathing.rotate(root, FILE) for _ in range(3)), return_exceptions=True)
        assert all(isinstance(each, (tuple, Overtaken, Invalid)) for each in results)
        opened = await site.root(Hand(file=site.file.path))
        assert opened is not None
        root = opened


async def test_a_confirmation_twice(site: Site) -> None:
    """To confirm again, with the old root key at hand or the new one, is as good as once."""
    root, _, _ = await begun(site, UNLOCK)
    made = await site.prepare(root, UNLOCK)
    rotated = await site.confirm(root, made)
    before = await site.snapshot()

    for held in (root, rotated):
        assert await site.confirm(held, made) == rotated
    with pytest.raises(Overtaken):
        await site.confirm(root, made._replace(root=root.kid))

    assert await site.snapshot() == before


# Machines


async def authorize(site: Site, root: RootKey, *, allowed: bool = False) -> MachineDocument:
    """Authorize another machine, and return its document."""
    key = machine_key.make(Kind.EC)
    document = MachineDocument.new("db-2", key.public_jwk(), CREATED).with_root(root, allowed)
    await site.machines.save(document)
    return document


async def test_a_machine_that_is_authorized_meanwhile(site: Site) -> None:
    """One that is authorized between the two halves of a rotation opens the new root key, with the authority it has."""
    root, _, _ = await begun(site, UNLOCK)
    made = await site.prepare(root, UNLOCK)
    late = await authorize(site, root, allowed=True)

    rotated = await site.confirm(root, made)

    entry = await site.machines.get(late.fingerprint)
    assert entry is not None
    document = MachineDocument.decode(entry.value, late.fingerprint)
    assert document.keys.keys() == {rotated.kid}
    assert document.allowed(rotated)


async def test_a_machine_that_is_revoked_meanwhile(site: Site) -> None:
    """One that is revoked between the two halves has no wrap of the new root key, and holds nothing up."""
    root, _, _ = await begun(site, UNLOCK)
    gone = await authorize(site, root)
    made = await site.prepare(root, UNLOCK)
    await site.machines.delete(gone.fingerprint)

    rotated = await site.confirm(root, made)

    assert await site.machines.get(gone.fingerprint) is None
    assert await site.root(Hand(machine=MACHINE)) == rotated


def cut(document: MachineDocument) -> bytes:
    return document.encode()[:-20]


def of_the_future(document: MachineDocument) -> bytes:
    return document.encode().replace(b'"format":1', b'"format":2')


def another_machines(document: MachineDocument) -> bytes:
    return MachineDocument.new("db-1", MACHINE.public_jwk(), CREATED).encode()


def without_flag(document: MachineDocument) -> bytes:
    return msgspec.structs.replace(document, meta=msgspec.structs.replace(document.meta, authorizer={})).encode()


def with_a_flag_of_another(document: MachineDocument) -> bytes:
    stranger = RootKey(bytes(64))
    flags = {kid: document.with_root(stranger, allowed=True).meta.authorizer[stranger.kid] for kid in document.keys}
    return msgspec.structs.replace(document, meta=msgspec.structs.replace(document.meta, authorizer=flags)).encode()


SPOILT: Final = {
    each.__name__: each for each in (cut, of_the_future, another_machines, without_flag, with_a_flag_of_another)
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
async def test_a_machine_that_would_be_shut_out(site: Site, spoil: Callable[[MachineDocument], bytes]) -> None:
    """A machine whose document is not in order stops both halves of a rotation by its name, until it is revoked."""
    root, _, _ = await begun(site, UNLOCK)
    made = await site.prepare(root, UNLOCK)
    document = await authorize(site, root)
    await site.store.commit([Put(MACHINES + document.fingerprint, spoil(document))])
    before = await site.snapshot()

    for half in (lambda: site.prepare(root, UNLOCK), lambda: site.confirm(root, made)):
        with pytest.raises(InUse) as caught:
            await half()
        assert caught.value.holders == (f"machine {document.fingerprint[:SHORT]}",)
    assert await site.snapshot() == before
    await site.machines.delete(document.fingerprint)
    await site.confirm(root, made)


async def test_documents_in_a_file(memory: MemoryBackend, tmp_path: Path) -> None:
    """Documents that lie in a file, beside the root key file, follow a rotation as those in the store do."""
    site = Site.at(memory, tmp_path)
    site.machines = FileDocuments(tmp_path / "machines.json", patience=0.0)
    root, _, _ = await begun(site, FILE)
    made = await site.prepare(root, FILE)
    late = await authorize(site, root)

    rotated = await site.confirm(root, made)

    assert await site.root(Hand(machine=MACHINE)) == rotated
    assert await site.roots() == {rotated.kid}
    assert await site.machines.get(late.fingerprint) is not None
    assert files(site) == {"secrets.key", "machines.json"}


@pytest.mark.parametrize("max_batch", [2, 3, 5, 128])
async def test_more_than_one_commit_takes(memory: MemoryBackend, tmp_path: Path, max_batch: int) -> None:
    """A rotation for more recipients than one commit takes is as good as any."""
    site = Site.at(Breathing(memory, max_batch), tmp_path)
    root, _, _ = await begun(site.through(memory), UNLOCK)
    for _ in range(6):
        await authorize(site, root)

    rotated, made = await site.rotate(root, Recipients("unlock", 16))

    for hand in [*site.hands(UNLOCK, made), Hand(machine=MACHINE)]:
        assert await site.root(hand) == rotated
    assert await site.roots() == {rotated.kid}


# Files


async def test_a_rotated_file(site: Site) -> None:
    """The new file lies beside the old one, 0600, until it is confirmed, and then takes its place."""
    root, _, before = await begun(site, FILE)
    text = site.file.path.read_bytes()
    made = await site.prepare(root, FILE)
    assert (site.file.path.read_bytes(), site.file.next.stat().st_mode & 0o777) == (text, 0o600)
    prepared = site.file.next.read_bytes()

    rotated = await site.confirm(root, made)

    assert files(site) == {"secrets.key"}
    assert site.file.path.read_bytes() == prepared != text
    assert await site.root(Hand(file=site.file.path)) == rotated
    assert await site.root(before[0]) is None


async def test_a_file_that_was_prepared_and_is_gone(site: Site) -> None:
    """A new file that is gone, or another by now, confirms nothing: the old one opens, and one prepares again."""
    root, _, _ = await begun(site, FILE)
    made = await site.prepare(root, FILE)
    site.file.next.unlink()
    for _ in range(2):
        with pytest.raises(Invalid, match="prepare another"):
            await site.confirm(root, made)
        rootkey.make(site.file.next)

    assert await site.root(Hand(file=site.file.path)) == root
    rotated, _ = await site.rotate(root, FILE)
    assert await site.root(Hand(file=site.file.path)) == rotated


async def test_a_leftover_is_not_used_again(site: Site) -> None:
    """A new file that an earlier rotation left, and others may have copied since, is replaced, or removed."""
    root, _, _ = await begun(site, FILE)
    leftover = rootkey.make(site.file.next)
    await site.prepare(root, FILE)
    assert rootkey.read(site.file.next) != leftover

    await site.prepare(root, KEPT)
    assert files(site) == {"secrets.key"}


async def test_a_directory_that_cannot_be_written(memory: MemoryBackend) -> None:
    """Where no file can be made, that is said before anything is done, and how to go on with the one that is there."""
    site = Site.at(memory, Path("/proc"))  # where not even root makes files
    made = await site.initialize(UNLOCK, machine=True)
    root = await site.root(site.hands(UNLOCK, made)[0])
    assert root is not None
    commits = memory.calls["commit"]

    with pytest.raises(Invalid, match=r"cannot be made: .*; to go on with the file that is there, .* --keep-file"):
        await site.prepare(root, FILE)

    assert memory.calls["commit"] == commits
    await site.rotate(root, SHARES)


async def test_a_file_that_is_kept(site: Site) -> None:
    """A kept file is the same file, byte for byte, and opens one root key after the other."""
    root, _, hands = await begun(site, FILE)
    text = site.file.path.read_bytes()

    rotated, _ = await site.rotate(root, KEPT)

    assert (site.file.path.read_bytes(), files(site)) == (text, {"secrets.key"})
    assert await site.root(hands[0]) == rotated != root


async def test_a_file_where_there_is_no_directory(memory: MemoryBackend, tmp_path: Path) -> None:
    """A file in a directory that is not there can be neither made nor kept; who needs no file rotates all the same."""
    site = Site.at(memory, tmp_path / "nowhere")
    with pytest.raises(Invalid, match="cannot be made"):
        await site.initialize(FILE)
    root, _, _ = await begun(site, UNLOCK)
    with pytest.raises(Invalid, match="--keep-file"):
        await site.prepare(root, FILE)
    with pytest.raises(Invalid, match="there is no root key file"):
        await site.prepare(root, KEPT)
    await site.rotate(root, SHARES)


async def test_a_service_without_a_file(site: Site) -> None:
    """A service that knows of no root key file makes none, and rotates among people and machines."""
    for act in (
        lambda: rotation.initialize(site.store, FILE, None),
        lambda: rotation.prepare(site.store, RootKey(bytes(64)), FILE, None, site.machines),
    ):
        with pytest.raises((Invalid, Overtaken)):
            await act()
    made = await rotation.initialize(site.store, UNLOCK, None)
    root = await site.root(site.hands(UNLOCK, made)[0])
    assert root is not None
    with pytest.raises(Invalid, match="no root key file"):
        await rotation.prepare(site.store, root, FILE, None, site.machines)
    made = await rotation.prepare(site.store, root, SHARES, None, site.machines)
    assert (await rotation.confirm(site.store, root, made.root, typed_of(made), None, site.machines)).kid == made.root


async def test_somebody_at_the_files(site: Site) -> None:
    """While another process is at the files nobody else touches them; who waits in vain is told."""
    root, _, _ = await begun(site, FILE)
    before = await site.snapshot()
    with next_file.alone(site.file.path) as free:
        assert free
        with pytest.raises(Overtaken, match="has not finished"):
            async with KeyFiles(site.file, patience=0.0).alone():
                pytest.fail("two were alone")
        waiting = asyncio.create_task(site.rotate(root, FILE))
        await asyncio.sleep(0)
        assert await site.snapshot() == before
    rotated, _ = await waiting

    assert await site.root(Hand(file=site.file.path)) == rotated


async def test_a_held_up_worker_replaces_nothing(site: Site) -> None:
    """A worker that once saw the next file open does not put in place one that is prepared now."""
    root, _, _ = await begun(site, FILE)
    await site.prepare(root, FILE)
    seen = rootkey.read(site.file.next)
    await site.prepare(root, FILE)
    text = site.file.path.read_bytes()

    next_file.take_place(site.file.path, seen)

    assert site.file.path.read_bytes() == text
    assert site.file.next.exists()


# To drop what was prepared


@pytest.mark.parametrize("to", MODES.values(), ids=MODES)
async def test_an_abandoned_rotation(site: Site, to: Recipients) -> None:
    """What is abandoned leaves neither wraps nor files, opens nothing, and can be abandoned twice."""
    root, _, hands = await begun(site, FILE)
    before = await site.snapshot()
    made = await site.prepare(root, to)

    for _ in range(2):
        await site.abandon(root, made)

    after = await site.snapshot()
    assert after.keys() == before.keys()
    assert {name for name in before if before[name] != after[name]} == {KEYRING_DOCUMENT}
    assert await site.roots() == {root.kid}
    assert await site.root(hands[0]) == root
    with pytest.raises(Overtaken):
        await site.confirm(root, made)


async def test_what_cannot_be_abandoned(site: Site) -> None:
    """Neither the root key in use is abandoned, nor what somebody else has prepared."""
    root, made, _ = await begun(site, FILE)
    first = await site.prepare(root, FILE)
    second = await site.prepare(root, FILE)

    with pytest.raises(InUse):
        await site.abandon(root, made)
    with pytest.raises(NotFound):
        await site.abandon(root, first)
    rotated = await site.confirm(root, second)
    with pytest.raises(Overtaken):
        await site.abandon(root, first)
    with pytest.raises(InUse):
        await site.abandon(rotated, second)
    assert await site.root(Hand(file=site.file.path)) == rotated


# What is not in order


async def gone(site: Site, made: Made) -> None:
    await site.store.commit([Delete(KEYRING_DOCUMENT)])


async def cut_document(site: Site, made: Made) -> None:
    await change(site, KEYRING_DOCUMENT, lambda text: text[:-8])


async def edited_document(site: Site, made: Made) -> None:
    await change(site, KEYRING_DOCUMENT, lambda text: text[:-8] + (b"A" if text[-8:-7] != b"A" else b"B") + text[-7:])


async def garbage(site: Site, made: Made) -> None:
    await change(site, KEYRING_DOCUMENT, lambda _: b"garbage")


async def a_future_document(site: Site, made: Made) -> None:
    root = await site.root(site.hands(FILE, made)[0])
    assert root is not None
    sealed = await stored.read(site.store)
    assert sealed is not None
    future = msgspec.structs.replace(stored.open_document(sealed, root), format_=2)
    await stored.replace(site.store, root, future, sealed.revision)


async def another_root(site: Site, made: Made) -> None:
    root = await site.root(site.hands(FILE, made)[0])
    assert root is not None
    await site.rotate(root, KEPT)


async def change(site: Site, name: str, by: Callable[[bytes], bytes]) -> None:
    entry = await site.store.get(name)
    assert entry is not None
    await site.store.commit([Put(name, by(entry.value))])


BROKEN: Final[dict[str, tuple[Callable[[Site, Made], Awaitable[None]], type[StrongroomError], str]]] = {
    "the document is gone": (gone, KeyringDamaged, "restore"),
    "the document is cut": (cut_document, KeyringDamaged, "is not a keyring"),
    "the document is edited": (edited_document, KeyringDamaged, "does not open: its tag is wrong"),
    "the document is garbage": (garbage, KeyringDamaged, "is not a keyring"),
    "the document is of the future": (a_future_document, ConfigurationError, "a later version wrote it"),
    "the root key is another by now": (another_root, Overtaken, "rotated meanwhile"),
}


@pytest.mark.parametrize(("story_", "error", "text"), BROKEN.values(), ids=BROKEN)
async def test_a_keyring_that_is_not_in_order(
    site: Site, story_: Callable[[Site, Made], Awaitable[None]], error: type[StrongroomError], text: str
) -> None:
    """A document that is gone, cut, of another root key or of the future stops everything by its reason, as it is."""
    root, made, _ = await begun(site, FILE)
    prepared = await site.prepare(root, UNLOCK)
    await story_(site, made)
    before = await site.snapshot()

    for act in (
        lambda: site.prepare(root, UNLOCK),
        lambda: site.confirm(root, prepared),
        lambda: site.abandon(root, prepared),
        lambda: rotation.tidy(site.store, root, site.machines),
    ):
        with pytest.raises(error, match=text):
            await act()

    assert await site.snapshot() == before


def text_of(wrap: wraps.Wrap) -> bytes:
    return wraps.put(wrap).value


def truncated(wrap: wraps.Wrap, other: wraps.Wrap) -> bytes | None:
    return text_of(wrap)[:-30]


def short_inside(wrap: wraps.Wrap, other: wraps.Wrap) -> bytes | None:
    return text_of(msgspec.structs.replace(wrap, wrapped=wrap.wrapped[:-8]))


def swapped(wrap: wraps.Wrap, other: wraps.Wrap) -> bytes | None:
    return text_of(other)


def swapped_inside(wrap: wraps.Wrap, other: wraps.Wrap) -> bytes | None:
    return text_of(msgspec.structs.replace(wrap, wrapped=other.wrapped))


def a_future_wrap(wrap: wraps.Wrap, other: wraps.Wrap) -> bytes | None:
    return text_of(msgspec.structs.replace(wrap, format_=2))


def missing(wrap: wraps.Wrap, other: wraps.Wrap) -> bytes | None:
    return None


WRAPS_SPOILT: Final[dict[str, tuple[Callable[[wraps.Wrap, wraps.Wrap], bytes | None], type[StrongroomError], str]]] = {
    "truncated": (truncated, KeyringDamaged, "is not a wrap"),
    "truncated inside": (short_inside, KeyringDamaged, "does not open"),
    "under another's name": (swapped, KeyringDamaged, "belongs under another name"),
    "with another's text": (swapped_inside, KeyringDamaged, "was not written under this name"),
    "of the future": (a_future_wrap, ConfigurationError, "a later version wrote it"),
    "missing": (missing, KeyringDamaged, "has lost the wrap"),
}


@pytest.mark.parametrize(("spoil", "error", "text"), WRAPS_SPOILT.values(), ids=WRAPS_SPOILT)
async def test_a_prepared_wrap_that_is_not_in_order(
    site: Site,
    spoil: Callable[[wraps.Wrap, wraps.Wrap], bytes | None],
    error: type[StrongroomError],
    text: str,
) -> None:
    """A wrap that was prepared and is not as it was made is found before anything counts, and one prepares again."""
    root, _, hands = await begun(site, FILE)
    made = await site.prepare(root, UNLOCK)
    wrap, other, _ = await wraps.wraps_of(site.store, made.root)
    spoilt = spoil(wrap, other)
    await site.store.commit([Delete(wrap.name) if spoilt is None else Put(wrap.name, spoilt)])

    with pytest.raises(error, match=text):
        await site.confirm(root, made)

    assert await site.root(hands[0]) == root
    rotated, _ = await site.rotate(root, UNLOCK)
    assert await site.roots() == {rotated.kid}


async def test_the_store_cannot_prepare_a_root_key(site: Site) -> None:
    """A root key of the store's own, which it can wrap for machines, is not confirmed: nobody has prepared it."""
    root, _, hands = await begun(site, FILE)
    planted = RootKey(bytes(range(64, 128)))
    entry = await site.machines.get(MACHINE.fingerprint)
    assert entry is not None
    document = MachineDocument.decode(entry.value, MACHINE.fingerprint).with_root(planted, allowed=True)
    await site.machines.save(document)

    for prepared in (None, await site.prepare(root, ALONE)):
        with pytest.raises(Overtaken):
            await site.confirm(root, Made(planted.kid, () if prepared is None else prepared.secrets))
    assert await site.root(hands[0]) == root


# Answers that are lost, and keys that nobody got to see


@pytest.mark.parametrize("to", [FILE, UNLOCK, SHARES], ids=["file", "unlock", "shares"])
async def test_a_first_keyring_of_unknown_fate(memory: MemoryBackend, tmp_path: Path, to: Recipients) -> None:
    """Where an answer is lost the store is looked at: what is there is given out, what is not is made anew."""
    for fault in (Fault.BEFORE, Fault.LOST, Fault.AFTER):
        site = Site.at(memory, tmp_path)
        counted = FaultyBackend(memory)
        counted.full = True
        with pytest.raises(Unavailable):
            await site.through(counted).initialize(to)
        faulty = FaultyBackend(memory, {counted.operations.index("commit"): fault})
        if fault is Fault.AFTER:
            made = await site.through(faulty).initialize(to)
            assert await site.root(site.hands(to, made)[0]) is not None
            return
        with pytest.raises(Unavailable) as caught:
            await site.through(faulty).initialize(to)
        assert caught.value.fate is (Fate.UNKNOWN if fault is Fault.LOST else Fate.NOT_APPLIED)
        assert await stored.read(memory) is None


async def test_a_first_keyring_made_again(site: Site) -> None:
    """A keyring whose keys nobody got to see is made again, while nothing is encrypted under it; afterwards never."""
    lost, _, _ = await begun(site, UNLOCK)
    made = await rotation.initialize(site.store, UNLOCK, site.file, machines=site.machines, again=True)
    hands = site.hands(UNLOCK, made)
    root = await site.root(hands[0])
    assert root is not None
    assert await site.roots() == {root.kid} != {lost.kid}

    await story.put_all(site.secrets(hands), {"secrets/first": b"1"})
    before = await site.snapshot()
    with pytest.raises(InUse) as caught:
        await rotation.initialize(site.store, UNLOCK, site.file, again=True)
    assert caught.value.holders == ("secrets/",)
    assert await site.snapshot() == before


async def test_nothing_is_lost_while_a_keyring_is_made_again(site: Site) -> None:
    """A secret that is written while a keyring is made again stops that, or is refused itself; it is never stranded."""
    _, _, hands = await begun(site, UNLOCK)
    secrets = site.secrets(hands)
    await secrets.list("secrets/")  # holds the ring of the keyring that is about to go

    class Interrupted(Breathing):
        async def commit(self, changes: Any) -> int:
            await story.put_all(secrets, {"secrets/first": b"1"})
            return await super().commit(changes)

    with pytest.raises(Exists):
        await rotation.initialize(Interrupted(site.store), UNLOCK, site.file, again=True)
    assert await story.read_all(site.secrets(hands)) == {"secrets/first": b"1"}


async def test_a_failure_of_tidying_is_no_failure(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """When the switch is done the rotation is, whether its leftovers can be dropped or not; the next one drops them."""
    root, _, _ = await begun(site, UNLOCK)
    made = await site.prepare(root, UNLOCK)
    counted = FaultyBackend(site.store)
    switch = await first_commit(site, root, made, counted)
    faulty = FaultyBackend(site.store, dict.fromkeys(range(switch + 1, switch + 50), Fault.BEFORE))
    site.machines = StoredDocuments(site.store)
    rotated = await rotation.confirm(faulty, root, made.root, typed_of(made), site.file, StoredDocuments(faulty), None)

    assert "still in the store" in caplog.text
    assert await site.roots() == {root.kid, rotated.kid}
    await rotation.tidy(site.store, rotated, site.machines)
    assert await site.roots() == {rotated.kid}


async def first_commit(site: Site, root: RootKey, made: Made, counted: FaultyBackend) -> int:
    """Return the number of the operation at which a confirmation commits, which is refused here."""
    counted.full = True
    with pytest.raises(Unavailable):
        await site.through(counted).confirm(root, made)
    return counted.operations.index("commit")


# Canaries


async def test_nothing_shows_a_key(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """No error, repr, or line of any log shows a key, a share, or bits of a root key, whatever goes wrong."""
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []
    hidden: list[bytes] = []
    root, old, _ = await begun(site, SHARES)
    hidden += [jwk.encode(root.reveal())[20:60], root.reveal()[:16].hex().encode()]
    made = await site.prepare(root, UNLOCK)
    rotated: RootKey | None = None
    for typed in (typed_of(old), all_but_one(made, old), one_mistyped(made, old), typed_of(made)):
        try:
            rotated = await site.confirm(root, made, typed)
        except StrongroomError as error:
            shown += [repr(error), *traceback.format_exception(error), *locals_of(error)]
    assert rotated is not None
    hidden += [jwk.encode(rotated.reveal())[20:60]]
    hidden += [line.encode()[:40] for line in (typed_of(old) + "\n" + typed_of(made)).splitlines()]
    shown += [repr(each) for each in (made, old, rotated, site.file, SHARES, KeyFiles(site.file))]
    opened = await site.hands(UNLOCK, made)[0].open(site.store, site.machines)
    assert opened is not None
    assert isinstance(opened[1], Document)
    shown += [caplog.text, repr(opened)]

    left = await site.snapshot()
    for secret in hidden:
        assert not any(secret.decode() in text for text in shown)
        assert not any(secret in value for value in left.values())


def locals_of(error: BaseException) -> list[str]:
    """Return what an error tells of itself and of those that hang on it."""
    told = [str(error), repr(error.args)]
    for other in (error.__cause__, error.__context__):
        told += [] if other is None else locals_of(other)
    return told

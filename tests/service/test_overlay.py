"""The encrypted backend: the law of backends holds over it, and below it there is nothing to read or to edit."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import pytest
from hypothesis import given, settings

from strongroom.models.names import KEYRING_DOCUMENT, USAGE
from strongroom.storage_service.backends.base import (
    ABSENT,
    MAX_BATCH,
    PRESENT,
    Backend,
    Change,
    Check,
    Conflict,
    Delete,
    Entry,
    Put,
    Vacant,
)
from strongroom.storage_service.backends.faulty import Fault, FaultyBackend
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import Fate, Halted, Locked, TooLarge, Unavailable, Undecipherable
from strongroom.storage_service.jose.jwe import MAX_VALUE, Reason, encrypt, kid_of
from strongroom.storage_service.keyring import document
from strongroom.storage_service.keyring.overlay import ATTEMPTS, EncryptedBackend
from strongroom.storage_service.keyring.ring import DataKey, Place, Ring
from strongroom.storage_service.keyring.usage import index
from tests.keyring.fixed import Fixed
from tests.laws.backends import (
    BATCHES,
    LAWS,
    Law,
    Step,
    any_bytes_are_a_value,
    follows_the_model,
    name_of,
    unlawful_batches_are_refused,
)

ONE: Final = DataKey("default.1", bytes(range(64)))
TWO: Final = DataKey("default.2", bytes(range(64, 128)))
CANARY: Final = b"canary-that-no-store-may-see"


class Encrypted(NamedTuple):
    """An opened overlay, the store below it, and the keys it uses."""

    overlay: EncryptedBackend
    below: MemoryBackend
    keys: Fixed


@asynccontextmanager
async def encrypted(ring: Ring | None = None) -> AsyncGenerator[Encrypted, None]:
    """Give an overlay on an empty store, with one key or with *ring*."""
    below = MemoryBackend()
    keys = Fixed(ring or Ring([ONE]))
    overlay = EncryptedBackend(below, keys)
    await overlay.open()
    try:
        yield Encrypted(overlay, below, keys)
    finally:
        await overlay.close()


def wide(generations: int, revision: int = 0) -> Ring:
    """Return a ring of so many generations."""
    keys = [DataKey(f"default.{number}", bytes([number]) * 64) for number in range(1, generations + 1)]
    return Ring(keys, revision=revision)


async def rows(below: Backend) -> set[str]:
    """Return the rows of the index, without what they all begin with."""
    return {name.removeprefix(USAGE) for name in (await below.list(USAGE)).names}


# The law.

WIDEST: Final = wide(document.MAX_GENERATIONS)


@pytest.mark.parametrize("law", [law for law in LAWS if law is not any_bytes_are_a_value], ids=name_of)
async def test_law(law: Law) -> None:
    """The overlay keeps every law of backends but for the size of the largest value, which is its own."""
    async with encrypted() as (overlay, _, _):
        await law(overlay)


@pytest.mark.parametrize(
    "law", [law for law in LAWS if law not in (any_bytes_are_a_value, unlawful_batches_are_refused)], ids=name_of
)
async def test_law_of_the_widest_ring(law: Law) -> None:
    """It keeps them, too, while every record could be under as many generations as the keyring allows."""
    async with encrypted(ring=WIDEST) as (overlay, _, _):
        await law(overlay)


async def test_any_bytes_are_a_value() -> None:
    """Values are bytes of any kind, from none at all to the overlay's limit."""
    async with encrypted() as (overlay, below, _):
        for value in (b"", b"\x00", bytes(range(256)), b"\xff\xfe\xc3\x28", bytes(MAX_VALUE)):
            revision = await overlay.commit([Put("secrets/a", value)])
            assert await overlay.get("secrets/a") == Entry(value, revision)
        with pytest.raises(ValueError, match="at most"):
            await overlay.commit([Put("secrets/b", b""), Put("secrets/a", bytes(MAX_VALUE + 1))])
        assert (await below.list("secrets/")).names == ("secrets/a",)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(batches=BATCHES)
def test_model(batches: Sequence[Sequence[Step]]) -> None:
    """The overlay does what a dict under the same rules does."""

    async def run() -> None:
        async with encrypted() as (overlay, _, _):
            await follows_the_model(overlay, batches)

    asyncio.run(run())


# What lies below.


async def test_the_store_sees_ciphertext() -> None:
    """Names, revisions and empty container markers lie below as they are, values never."""
    async with encrypted() as (overlay, below, _):
        revision = await overlay.commit([Put("secrets/hosts/", b""), Put("secrets/hosts/a", CANARY, ABSENT)])

        assert (await below.list("")).names == (
            "secrets/hosts/",
            "secrets/hosts/a",
            "system/usage/default.1/secrets/hosts/a",
        )
        assert await below.get("secrets/hosts/") == Entry(b"", revision)
        entry = await below.get("secrets/hosts/a")
        assert entry is not None
        assert entry.revision == revision
        assert kid_of(entry.value) == "default.1"
        assert CANARY not in entry.value
        assert await overlay.get("secrets/hosts/a") == Entry(CANARY, revision)


async def test_one_operation_is_one_operation() -> None:
    """Each verb asks the store below once; encrypting costs no round trip."""
    async with encrypted() as (overlay, below, _):
        await overlay.commit([Put("secrets/a", b"1"), Put("secrets/b", b"2")])
        await overlay.get("secrets/a")
        await overlay.get_many(["secrets/a", "secrets/b"])
        await overlay.list("secrets/")

        assert below.calls == {"commit": 1, "get": 1, "get_many": 1, "list": 1}


async def test_what_is_closed_opens_to_what_is_stored() -> None:
    """Values that are had closed are those that are had open, containers among them, with their revisions."""
    async with encrypted() as (overlay, _, _):
        await overlay.commit([Put("secrets/a", CANARY), Put("secrets/hosts/", b""), Put("secrets/b", b"2")])
        names = ["secrets/b", "secrets/hosts/", "secrets/none", "secrets/a"]

        closed = await overlay.get_closed(names)

        assert {name: each.open() for name, each in closed.items()} == await overlay.get_many(names)
        assert {name: each.revision for name, each in closed.items()} == dict.fromkeys(closed, 2)
        assert CANARY.decode() not in repr(closed)
        with pytest.raises(TooLarge):
            await overlay.get_closed(names, limit=len(CANARY))


EDITS: Final[dict[str, tuple[Callable[[dict[str, bytes]], bytes], Reason]]] = {
    "swapped with another": (lambda stored: stored["secrets/b"], Reason.WRONG_NAME),
    "put there in the clear": (lambda stored: b"in the clear", Reason.MALFORMED),
    "emptied": (lambda stored: b"", Reason.MALFORMED),
    "cut": (lambda stored: stored["secrets/a"][:-1], Reason.MALFORMED),
    "another's text behind its header": (
        lambda stored: b".".join([stored["secrets/a"].split(b".")[0], *stored["secrets/b"].split(b".")[1:]]),
        Reason.WRONG_TAG,
    ),
}


@pytest.mark.parametrize(("edit", "reason"), EDITS.values(), ids=EDITS)
async def test_an_edited_value_does_not_open(edit: Callable[[dict[str, bytes]], bytes], reason: Reason) -> None:
    """Whoever writes the store cannot plant or swap a value: get, get_many and get_closed all refuse, silently."""
    async with encrypted() as (overlay, below, _):
        await overlay.commit([Put("secrets/a", CANARY), Put("secrets/b", b"other")])
        stored = {name: entry.value for name, entry in (await below.get_many(["secrets/a", "secrets/b"])).items()}
        await below.commit([Put("secrets/a", edit(stored))])

        for act in (
            overlay.get("secrets/a"),
            overlay.get_many(["secrets/b", "secrets/a"]),
            overlay.get_closed(["secrets/b", "secrets/a"]),
        ):
            with pytest.raises(Undecipherable) as caught:
                await act
            assert (caught.value.name, caught.value.reason) == ("secrets/a", reason)
            assert CANARY.decode() not in str(caught.value)
        assert (await overlay.get_many(["secrets/b"]))["secrets/b"].value == b"other"


async def test_a_container_carries_no_value() -> None:
    """No value goes in through a container's marker, which would escape the index; one planted there does not open."""
    async with encrypted() as (overlay, below, _):
        with pytest.raises(ValueError, match="container"):
            await overlay.commit([Put("secrets/a", b"x"), Put("secrets/hosts/", CANARY)])
        assert (await below.list("")).names == ()

        await below.commit([Put("secrets/hosts/", b"planted")])
        with pytest.raises(Undecipherable):
            await overlay.get("secrets/hosts/")


# The index.

PLACED: Final = Ring(
    [ONE, TWO, DataKey("hosts.1.1", bytes(64)), DataKey("hosts.1.2", b"2" * 64), DataKey("access.1", b"3" * 64)],
    places={"system/access/": Place("access"), "secrets/hosts/": Place("hosts", ("default",))},
)
OLD: Final = ("default.1/secrets/a", "default.1/secrets/hosts/a")  # before, of records that are under default.1

COUNTED: Final[dict[str, tuple[Sequence[Change], set[str]]]] = {
    "nothing is written": ([Check("secrets/a", PRESENT), Vacant("secrets/b/")], {*OLD}),
    "a record is new": ([Put("secrets/b", b"")], {*OLD, "default.2/secrets/b"}),
    "a record is replaced": ([Put("secrets/a", b"")], {"default.2/secrets/a", OLD[1]}),
    "a record is replaced at its revision": ([Put("secrets/a", b"", 2)], {"default.2/secrets/a", OLD[1]}),
    "its container has another keyset by now": ([Put("secrets/hosts/a", b"")], {OLD[0], "hosts.1/secrets/hosts/a"}),
    "a record of the service": (
        [Put("system/access/apikeys/ci", b"")],
        {*OLD, "access.1/system/access/apikeys/ci"},
    ),
    "a record is deleted": ([Delete("secrets/a")], {OLD[1]}),
    "a record under the keyset of before is deleted": ([Delete("secrets/hosts/a", PRESENT)], {OLD[0]}),
    "what was never there is deleted": ([Delete("secrets/x")], {*OLD}),
    "containers come and go": ([Put("secrets/box/", b""), Delete("secrets/hosts/")], {*OLD}),
    "all at once": (
        [Put("secrets/a", b""), Delete("secrets/hosts/a"), Put("secrets/hosts/b", b""), Put("secrets/box/", b"")],
        {"default.2/secrets/a", "hosts.1/secrets/hosts/b"},
    ),
}


@pytest.mark.parametrize(("changes", "counted"), COUNTED.values(), ids=COUNTED)
async def test_the_index_goes_with_the_record(changes: Sequence[Change], counted: set[str]) -> None:
    """Every record has one row, under the generation it is under, written and removed in the commit that writes it."""
    async with encrypted() as (overlay, below, keys):
        await overlay.commit([Put("secrets/a", b""), Put("secrets/hosts/", b""), Put("secrets/hosts/a", b"")])
        keys.current = PLACED
        del below.calls["commit"]
        revision = await overlay.commit(changes)

        assert await rows(below) == counted
        assert below.calls["commit"] == 1
        for put in changes:
            if isinstance(put, Put) and not put.name.endswith("/"):
                generation = PLACED.choose(put.name).key.generation
                row = await below.get(index.row(generation, put.name))
                assert row == Entry(b"", revision)


async def test_what_is_refused_is_not_counted() -> None:
    """A batch that conflicts leaves the index as it was."""
    async with encrypted() as (overlay, below, keys):
        await overlay.commit([Put("secrets/a", b"")])
        keys.current = Ring([ONE, TWO])

        with pytest.raises(Conflict):
            await overlay.commit([Put("secrets/a", b"", ABSENT), Put("secrets/b", b""), Delete("secrets/a2", PRESENT)])

        assert await rows(below) == {"default.1/secrets/a"}


async def test_the_index_is_not_seen_from_above() -> None:
    """Listings of any size leave its rows out and nothing else."""
    names = ["a", "system/access/x", "system/d", "system/usable", "system/usage.x", "z"]
    async with encrypted() as (overlay, below, _):
        await overlay.commit([Put(name, b"") for name in names])
        assert len((await below.list("")).names) == 2 * len(names)

        for prefix in ("", "s", "system/", "system/u", "system/usage/", "system/usage/default.1/", "z"):
            for limit in range(1, len(names) + 2):
                listed: list[str] = []
                after: str | None = None
                more = True
                while more:
                    page = await overlay.list(prefix, after, limit)
                    listed += page.names
                    after, more = page.names[-1] if page.names else after, page.more
                assert listed == [n for n in names if n.startswith(prefix)], (prefix, limit)


# A keyring that changes under what is under way.


async def test_a_conflict_names_the_callers_changes() -> None:
    """The guards that failed are told as the caller wrote them, not as they lay below."""
    async with encrypted() as (overlay, _, _):
        await overlay.commit([Put("secrets/a", b"there")])
        changes: list[Change] = [Put("secrets/a", CANARY, ABSENT), Put("secrets/b", b"x"), Delete("secrets/c", 7)]

        with pytest.raises(Conflict) as caught:
            await overlay.commit(changes)

        assert caught.value.failed == (changes[0], changes[2])
        assert caught.value.failed[0] is changes[0]


async def test_after_a_rotation_new_values_are_under_the_new_key() -> None:
    """The old ones still open, until their key is gone."""
    async with encrypted() as (overlay, below, keys):
        await overlay.commit([Put("secrets/old", b"old")])
        keys.current = Ring([ONE, TWO])
        await overlay.commit([Put("secrets/new", b"new")])

        stored = await below.get_many(["secrets/old", "secrets/new"])
        assert {name: kid_of(entry.value) for name, entry in stored.items()} == {
            "secrets/old": "default.1",
            "secrets/new": "default.2",
        }
        opened = await overlay.get_many(["secrets/old", "secrets/new"])
        assert {name: entry.value for name, entry in opened.items()} == {"secrets/old": b"old", "secrets/new": b"new"}

        keys.current = Ring([TWO])
        with pytest.raises(Undecipherable) as caught:
            await overlay.get("secrets/old")
        assert caught.value.reason == Reason.UNKNOWN_KID


async def test_an_operation_sees_one_ring() -> None:
    """A ring that is replaced while a long batch is encrypted does not split the batch between two keys."""
    async with encrypted() as (overlay, below, keys):
        puts = [Put(f"secrets/{number}", bytes(500_000)) for number in range(8)]
        writing = asyncio.create_task(overlay.commit(puts))
        await asyncio.sleep(0)
        assert not writing.done(), "long work gives others their turn"
        keys.current = Ring([TWO])
        await writing

        stored = await below.get_many([put.name for put in puts])
        assert {kid_of(entry.value) for entry in stored.values()} == {"default.1"}


async def changed_elsewhere(below: Backend, keys: Fixed) -> None:
    """Change the keyring in the store, of which *keys* learn when they ask: default.2 is active there."""
    revision = await below.commit([Put(KEYRING_DOCUMENT, b"a document")])
    keys.newer = Ring([ONE, TWO], revision=revision)


async def test_nothing_is_written_under_a_stale_ring() -> None:
    """Whoever holds an older keyring than the store's writes under the store's, after one look at it."""
    async with encrypted() as (overlay, below, keys):
        await changed_elsewhere(below, keys)
        del below.calls["commit"]
        await overlay.commit([Put("secrets/a", b"x", ABSENT), Put("secrets/hosts/", b"")])

        entry = await below.get("secrets/a")
        assert entry is not None
        assert kid_of(entry.value) == "default.2"
        assert await rows(below) == {"default.2/secrets/a"}
        assert (keys.refreshed, below.calls["commit"]) == (1, 2)

        await overlay.commit([Put("secrets/a", b"y")])
        assert (keys.refreshed, below.calls["commit"]) == (1, 3)


@pytest.mark.parametrize(
    "change", [Delete("secrets/a"), Put("secrets/box/", b""), Check("secrets/a", PRESENT)], ids=repr
)
async def test_every_batch_holds_only_for_its_keyring(change: Change) -> None:
    """Deletes and containers, too, go through under the store's keyring alone: which rows to remove depends on it."""
    async with encrypted() as (overlay, below, keys):
        await overlay.commit([Put("secrets/a", b"x")])
        await changed_elsewhere(below, keys)
        await overlay.commit([change])

        assert keys.refreshed == 1


async def test_a_stale_ring_hides_no_conflict() -> None:
    """Where both the keyring and a record have changed, the caller is told of the record."""
    async with encrypted() as (overlay, below, keys):
        await overlay.commit([Put("secrets/a", b"x")])
        await changed_elsewhere(below, keys)
        write = Put("secrets/a", b"y", ABSENT)

        with pytest.raises(Conflict) as caught:
            await overlay.commit([write])

        assert caught.value.failed == (write,)
        assert keys.refreshed == 1


async def test_a_keyring_that_never_rests_is_given_up_on() -> None:
    """Trying is bounded, and then nothing was written."""
    async with encrypted() as (overlay, below, keys):
        await below.commit([Put(KEYRING_DOCUMENT, b"a document")])  # and no refresh finds it

        with pytest.raises(Unavailable, match="keep changing the keyring") as caught:
            await overlay.commit([Put("secrets/a", b"x")])

        assert caught.value.fate is Fate.NOT_APPLIED
        assert keys.refreshed == ATTEMPTS
        assert (await below.list("")).names == (KEYRING_DOCUMENT,)


@pytest.mark.parametrize(
    ("fault", "fate"),
    [(Fault.BEFORE, Fate.NOT_APPLIED), (Fault.AFTER, Fate.UNKNOWN), (Fault.LOST, Fate.UNKNOWN)],
)
async def test_a_store_that_fails_is_not_asked_twice(fault: Fault, fate: Fate) -> None:
    """The fate of a write is told as it is: nothing is tried again that may have been applied."""
    below = FaultyBackend(MemoryBackend(), {0: fault})
    overlay = EncryptedBackend(below, Fixed(Ring([ONE])))
    await overlay.open()

    with pytest.raises(Unavailable) as caught:
        await overlay.commit([Put("secrets/a", b"x")])

    assert caught.value.fate is fate
    assert below.operations == ["commit"]
    assert (await overlay.get("secrets/a") is not None) == (fault is Fault.AFTER)


async def read_one(overlay: EncryptedBackend) -> bytes:
    entry = await overlay.get("secrets/new")
    assert entry is not None
    return entry.value


async def read_many(overlay: EncryptedBackend) -> bytes:
    return (await overlay.get_many(["secrets/new"]))["secrets/new"].value


@pytest.mark.parametrize("read", [read_one, read_many])
async def test_a_key_that_is_not_known_yet_is_looked_for_once(
    read: Callable[[EncryptedBackend], Awaitable[bytes]],
) -> None:
    """A value under a key newer than the ring opens with the newer ring; under a key of nobody's it never does."""
    async with encrypted() as (overlay, below, keys):
        await below.commit([Put("secrets/new", encrypt(TWO, "secrets/new", b"new"))])

        with pytest.raises(Undecipherable) as caught:
            await read(overlay)
        assert (caught.value.reason, keys.refreshed) == (Reason.UNKNOWN_KID, 1)

        keys.newer = Ring([ONE, TWO])
        assert await read(overlay) == b"new"
        assert keys.refreshed == 2
        assert await read(overlay) == b"new"
        assert keys.refreshed == 2


async def test_what_was_read_together_opens_with_both_rings() -> None:
    """Values read while a key is rotated, and the old one destroyed, open: each with the ring that has its key."""
    async with encrypted() as (overlay, below, keys):
        names = [f"secrets/{number}" for number in range(4)]
        for name, key in zip(names, (ONE, TWO, ONE, TWO), strict=True):
            await below.commit([Put(name, encrypt(key, name, name.encode()))])
        keys.newer = Ring([TWO])

        opened = await overlay.get_many(names)

        assert {name: entry.value for name, entry in opened.items()} == {name: name.encode() for name in names}


@pytest.mark.parametrize("reason", [Reason.WRONG_TAG, Reason.WRONG_NAME, Reason.MALFORMED])
async def test_no_other_fault_asks_for_a_ring(reason: Reason) -> None:
    """What is wrong for any other reason stays wrong with any ring, and the keyring is not read for it."""
    planted = {
        Reason.WRONG_TAG: encrypt(DataKey("default.1", bytes(64)), "secrets/a", b"x"),
        Reason.WRONG_NAME: encrypt(ONE, "secrets/b", b"x"),
        Reason.MALFORMED: b"x",
    }
    async with encrypted() as (overlay, below, keys):
        await below.commit([Put("secrets/a", planted[reason])])
        with pytest.raises(Undecipherable) as caught:
            await overlay.get("secrets/a")

        assert (caught.value.reason, keys.refreshed) == (reason, 0)


# How much goes into one commit.


@pytest.mark.parametrize("generations", range(1, document.MAX_GENERATIONS + 1))
async def test_a_batch_of_the_largest_size_always_fits(generations: int) -> None:
    """As many puts, or deletes, as are promised go through, also if a generation is added before they are committed."""
    async with encrypted(ring=wide(generations)) as (overlay, below, keys):
        size = overlay.max_batch
        assert size == (MAX_BATCH - 1) // (2 + generations)
        names = [f"secrets/{number:03}" for number in range(size)]
        for grown in (generations, generations + 1):
            revision = await below.commit([Put(KEYRING_DOCUMENT, b"a document")])
            keys.newer = wide(grown, revision=revision)
            await overlay.commit([Put(name, b"x") for name in names])
            assert await rows(below) == {f"default.{grown}/{name}" for name in names}
        revision = await below.commit([Put(KEYRING_DOCUMENT, b"a document")])
        keys.newer = wide(generations + 1, revision=revision)
        await overlay.commit([Delete(name, PRESENT) for name in names])
        assert await rows(below) == set()


async def test_a_batch_planned_without_a_ring_fits_whatever_ring_comes() -> None:
    """While the ring to use is not known, as after a change of the keyring, no more is promised than fits any."""
    async with encrypted(ring=WIDEST) as (overlay, _, keys):
        keys.current = None
        size = overlay.max_batch
        keys.current = WIDEST

        await overlay.commit([Put(f"secrets/{number}", b"") for number in range(size)])


async def test_a_keyring_that_grew_too_much_is_a_matter_of_trying_again() -> None:
    """Whoever planned a batch long before, for a smaller keyring, is told to try again; nothing was written."""
    async with encrypted() as (overlay, below, keys):
        size = overlay.max_batch
        revision = await below.commit([Put(KEYRING_DOCUMENT, b"a document")])
        keys.newer = wide(5, revision=revision)
        puts = [Put(f"secrets/{number}", b"") for number in range(size)]

        with pytest.raises(Unavailable, match="has grown") as caught:
            await overlay.commit(puts)

        assert caught.value.fate is Fate.NOT_APPLIED
        assert (await below.list("")).names == (KEYRING_DOCUMENT,)
        assert await overlay.commit(puts[: overlay.max_batch]) > revision


async def test_a_batch_that_no_ring_takes_is_refused() -> None:
    """More than fits with the narrowest ring of all is the caller's mistake, whatever the ring is."""
    async with encrypted() as (overlay, below, keys):
        puts = [Put(f"secrets/{number}", b"") for number in range(overlay.max_batch + 1)]
        for ring in (keys.current, WIDEST):
            keys.current = ring
            with pytest.raises(ValueError, match="batch"):
                await overlay.commit(puts)
        assert (await below.list("")).names == ()


# Halted, and locked.

ACTS: Final[dict[str, Callable[[EncryptedBackend], Awaitable[object]]]] = {
    "get": lambda overlay: overlay.get("secrets/a"),
    "get_many": lambda overlay: overlay.get_many(["secrets/a"]),
    "get_closed": lambda overlay: overlay.get_closed(["secrets/a"]),
    "list": lambda overlay: overlay.list("secrets/"),
    "put": lambda overlay: overlay.commit([Put("secrets/a", b"y")]),
    "delete": lambda overlay: overlay.commit([Delete("secrets/a")]),
    "make a container": lambda overlay: overlay.commit([Put("secrets/box/", b"")]),
    "check": lambda overlay: overlay.commit([Check("secrets/a", PRESENT)]),
}


@pytest.mark.parametrize("act", ACTS)
async def test_halted_nothing_is_encrypted_and_all_else_goes_on(act: str) -> None:
    """Puts are refused whole; reading, deleting and containers, which encrypt nothing, are as ever."""
    async with encrypted() as (overlay, below, keys):
        await overlay.commit([Put("secrets/a", b"x")])
        keys.current = Ring([ONE], halted=True)
        if act != "put":
            await ACTS[act](overlay)
        else:
            with pytest.raises(Halted):
                await overlay.commit([Delete("secrets/a"), Put("secrets/box/", b""), Put("secrets/b", b"y")])
            assert (await below.list("secrets/")).names == ("secrets/a",)


@pytest.mark.parametrize("act", ACTS)
async def test_locked_the_store_is_not_even_asked(act: str) -> None:
    """Without a ring everything is refused, and for reading nothing is fetched that could not be opened."""
    async with encrypted() as (overlay, below, keys):
        await overlay.commit([Put("secrets/a", b"x")])
        keys.current = None
        below.calls.clear()

        with pytest.raises(Locked):
            await ACTS[act](overlay)

        assert below.calls.total() == 0


async def test_a_lock_in_the_middle_of_a_batch_stops_it() -> None:
    """A batch under way when the keys are wiped is Locked: nothing of it is written, least of all under zeros."""
    async with encrypted(ring=wide(1)) as (overlay, below, keys):
        ring = keys.current
        assert ring is not None
        puts = [Put(f"secrets/{number}", bytes(500_000)) for number in range(8)]
        writing = asyncio.create_task(overlay.commit(puts))
        await asyncio.sleep(0)
        keys.current = None
        ring.wipe()

        with pytest.raises(Locked):
            await writing

        assert (await below.list("")).names == ()


async def test_a_lock_in_the_middle_of_a_reading_stops_it() -> None:
    """Values that are not decrypted yet when the keys are wiped stay so, and none of them passes for damaged."""
    async with encrypted(ring=wide(1)) as (overlay, _, keys):
        ring = keys.current
        assert ring is not None
        names = [f"secrets/{number}" for number in range(8)]
        await overlay.commit([Put(name, bytes(500_000)) for name in names])
        reading = asyncio.create_task(overlay.get_many(names))
        await asyncio.sleep(0)
        assert not reading.done()
        keys.current = None
        ring.wipe()

        with pytest.raises(Locked):
            await reading


async def test_what_was_sent_before_the_lock_is_whole() -> None:
    """A commit that the store has already been asked for when the lock falls is under the key, not under zeros."""
    below = MemoryBackend()
    faulty = FaultyBackend(below, {0: Fault.SLOW})
    ring = wide(1)
    keys = Fixed(ring)
    overlay = EncryptedBackend(faulty, keys)
    await overlay.open()
    writing = asyncio.create_task(overlay.commit([Put("secrets/a", CANARY)]))
    await asyncio.sleep(0)
    ring.wipe()
    faulty.release()
    await writing

    keys.current = wide(1)
    entry = await overlay.get("secrets/a")
    assert entry is not None
    assert entry.value == CANARY


# Turns.


async def test_long_reads_let_others_run() -> None:
    """While many large values are decrypted, the event loop goes on serving others."""
    async with encrypted() as (overlay, _, _):
        names = [f"secrets/{number}" for number in range(8)]
        await overlay.commit([Put(name, bytes(500_000)) for name in names])
        reading = asyncio.create_task(overlay.get_many(names))
        turns = 0
        while not reading.done():
            await asyncio.sleep(0)
            turns += 1

        assert turns >= len(names)
        assert len(await reading) == len(names)


def test_its_repr_shows_no_key() -> None:
    """The operator sees which store it is round, and nothing of its keys."""
    backend: Backend = EncryptedBackend(FaultyBackend(MemoryBackend()), Fixed(Ring([ONE, TWO])))

    assert repr(backend).startswith("<EncryptedBackend round <")
    assert ONE.reveal().hex() not in repr(vars(backend))

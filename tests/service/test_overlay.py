"""The encrypted backend: the law of backends holds over it, and below it there is nothing to read or to edit."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Final

import pytest
from hypothesis import given, settings

from storage_service.backends.base import ABSENT, Backend, Change, Conflict, Delete, Entry, Put, Watchable
from storage_service.backends.faulty import FaultyBackend
from storage_service.backends.memory import HISTORY, MemoryBackend
from storage_service.errors import Undecipherable
from storage_service.keyring.envelope import MAX_VALUE, Reason, kid_of
from storage_service.keyring.ring import DataKey, Ring
from storage_service.overlay import EncryptedBackend
from tests.laws.backends import (
    BATCHES,
    LAWS,
    WATCH_LAWS,
    Law,
    Step,
    WatchLaw,
    any_bytes_are_a_value,
    compacted_history_is_said,
    follows_the_model,
    name_of,
)
from tests.laws.test_backend_law import SHORT_HISTORY, outrun_history

ONE: Final = DataKey("default.1", bytes(range(64)))
TWO: Final = DataKey("default.2", bytes(range(64, 128)))
CANARY: Final = b"canary-that-no-store-may-see"


@asynccontextmanager
async def encrypted(history: int = HISTORY) -> AsyncGenerator[tuple[EncryptedBackend, MemoryBackend], None]:
    """Give an opened overlay, and the store below it."""
    below = MemoryBackend(history)
    overlay = EncryptedBackend(below, Ring([ONE]))
    await overlay.open()
    try:
        yield overlay, below
    finally:
        await overlay.close()


# The law.


@pytest.mark.parametrize("law", [law for law in LAWS if law is not any_bytes_are_a_value], ids=name_of)
async def test_law(law: Law) -> None:
    """The overlay keeps every law of backends but for the size of the largest value, which is its own."""
    async with encrypted() as (overlay, _):
        await law(overlay)


async def test_any_bytes_are_a_value() -> None:
    """Values are bytes of any kind, from none at all to the overlay's limit."""
    async with encrypted() as (overlay, below):
        for value in (b"", b"\x00", bytes(range(256)), b"\xff\xfe\xc3\x28", bytes(MAX_VALUE)):
            revision = await overlay.commit([Put("secrets/a", value)])
            assert await overlay.get("secrets/a") == Entry(value, revision)
        with pytest.raises(ValueError, match="at most"):
            await overlay.commit([Put("secrets/b", b""), Put("secrets/a", bytes(MAX_VALUE + 1))])
        assert (await below.list("")).names == ("secrets/a",)


@pytest.mark.parametrize("law", WATCH_LAWS, ids=name_of)
async def test_watch_law(law: WatchLaw) -> None:
    """Over a store that can be watched, the overlay keeps the laws of watching."""
    async with encrypted() as (overlay, _):
        await law(overlay)


async def test_compacted_history_is_said() -> None:
    """No watch through the overlay skips silently what is no longer kept."""
    async with encrypted(SHORT_HISTORY) as (overlay, _):
        await compacted_history_is_said(overlay, outrun_history)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(batches=BATCHES)
def test_model(batches: Sequence[Sequence[Step]]) -> None:
    """The overlay does what a dict under the same rules does."""

    async def run() -> None:
        async with encrypted() as (overlay, _):
            await follows_the_model(overlay, batches)

    asyncio.run(run())


async def test_watching_is_there_if_it_is_below() -> None:
    """The overlay can be watched exactly if the store below can."""
    below = MemoryBackend()

    assert isinstance(EncryptedBackend(below, Ring()), Watchable)
    assert not isinstance(EncryptedBackend(FaultyBackend(below), Ring()), Watchable)


# What lies below.


async def test_the_store_sees_ciphertext() -> None:
    """Names, revisions and empty container markers lie below as they are, values never."""
    async with encrypted() as (overlay, below):
        revision = await overlay.commit([Put("secrets/hosts/", b""), Put("secrets/hosts/a", CANARY, ABSENT)])

        assert (await below.list("")).names == ("secrets/hosts/", "secrets/hosts/a")
        assert await below.get("secrets/hosts/") == Entry(b"", revision)
        entry = await below.get("secrets/hosts/a")
        assert entry is not None
        assert entry.revision == revision
        assert kid_of(entry.value) == "default.1"
        assert CANARY not in entry.value
        assert await overlay.get("secrets/hosts/a") == Entry(CANARY, revision)


async def test_one_operation_is_one_operation() -> None:
    """Each verb asks the store below once; encrypting costs no round trip."""
    async with encrypted() as (overlay, below):
        await overlay.commit([Put("secrets/a", b"1"), Put("secrets/b", b"2")])
        await overlay.get("secrets/a")
        await overlay.get_many(["secrets/a", "secrets/b"])
        await overlay.list("secrets/")

        assert below.calls == {"commit": 1, "get": 1, "get_many": 1, "list": 1}


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
    """Whoever writes the store cannot plant or swap a value: get, get_many and watch all refuse, silently."""
    async with encrypted() as (overlay, below):
        since = await overlay.commit([Put("secrets/a", CANARY), Put("secrets/b", b"other")])
        stored = {name: entry.value for name, entry in (await below.get_many(["secrets/a", "secrets/b"])).items()}
        await below.commit([Put("secrets/a", edit(stored))])

        async def watched() -> None:
            async with aclosing(overlay.watch("secrets/", since)) as events:
                await anext(events)

        for act in (overlay.get("secrets/a"), overlay.get_many(["secrets/b", "secrets/a"]), watched()):
            with pytest.raises(Undecipherable) as caught:
                await act
            assert (caught.value.name, caught.value.reason) == ("secrets/a", reason)
            assert CANARY.decode() not in str(caught.value)
        assert (await overlay.get_many(["secrets/b"]))["secrets/b"].value == b"other"


async def test_a_container_cannot_smuggle_a_value() -> None:
    """Only the empty value of a container is stored as it is; any other is encrypted, and must be, to be read."""
    async with encrypted() as (overlay, below):
        await overlay.commit([Put("secrets/hosts/", CANARY)])
        entry = await below.get("secrets/hosts/")
        assert entry is not None
        assert CANARY not in entry.value
        await below.commit([Put("secrets/hosts/", b"planted")])

        with pytest.raises(Undecipherable):
            await overlay.get("secrets/hosts/")


# Conflicts, rings and turns.


async def test_a_conflict_names_the_callers_changes() -> None:
    """The guards that failed are told as the caller wrote them, not as they lay below."""
    async with encrypted() as (overlay, _):
        await overlay.commit([Put("secrets/a", b"there")])
        changes: list[Change] = [Put("secrets/a", CANARY, ABSENT), Put("secrets/b", b"x"), Delete("secrets/c", 7)]

        with pytest.raises(Conflict) as caught:
            await overlay.commit(changes)

        assert caught.value.failed == (changes[0], changes[2])
        assert caught.value.failed[0] is changes[0]


async def test_a_ring_is_replaced_as_a_value() -> None:
    """After a rotation new values are under the new key, the old ones still open, and a dropped key opens none."""
    async with encrypted() as (overlay, below):
        await overlay.commit([Put("secrets/old", b"old")])
        overlay.ring = overlay.ring.with_key(TWO).activate("default.2")
        await overlay.commit([Put("secrets/new", b"new")])

        stored = await below.get_many(["secrets/old", "secrets/new"])
        assert {name: kid_of(entry.value) for name, entry in stored.items()} == {
            "secrets/old": "default.1",
            "secrets/new": "default.2",
        }
        opened = await overlay.get_many(["secrets/old", "secrets/new"])
        assert {name: entry.value for name, entry in opened.items()} == {"secrets/old": b"old", "secrets/new": b"new"}

        overlay.ring = overlay.ring.without("default.1")
        with pytest.raises(Undecipherable) as caught:
            await overlay.get("secrets/old")
        assert caught.value.reason == Reason.UNKNOWN_KID


async def test_an_operation_sees_one_ring() -> None:
    """A ring that is replaced while a long batch is encrypted does not split the batch between two keys."""
    async with encrypted() as (overlay, below):
        puts = [Put(f"secrets/{number}", bytes(200_000)) for number in range(8)]
        writing = asyncio.create_task(overlay.commit(puts))
        await asyncio.sleep(0)
        assert not writing.done(), "long work gives others their turn"
        overlay.ring = Ring([TWO])
        await writing

        stored = await below.get_many([put.name for put in puts])
        assert {kid_of(entry.value) for entry in stored.values()} == {"default.1"}


async def test_long_reads_let_others_run() -> None:
    """While many large values are decrypted, the event loop goes on serving others."""
    async with encrypted() as (overlay, _):
        names = [f"secrets/{number}" for number in range(8)]
        await overlay.commit([Put(name, bytes(200_000)) for name in names])
        reading = asyncio.create_task(overlay.get_many(names))
        turns = 0
        while not reading.done():
            await asyncio.sleep(0)
            turns += 1

        assert turns >= len(names)
        assert len(await reading) == len(names)


def test_its_repr_shows_the_ring_by_ids() -> None:
    """The operator sees which keys and which store, and no key."""
    backend: Backend = EncryptedBackend(FaultyBackend(MemoryBackend()), Ring([ONE, TWO]))

    assert "<EncryptedBackend <Ring default.1 default.2*> round <" in repr(backend)

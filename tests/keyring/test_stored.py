"""The keyring in the store: made once, changed by one at a time, and refused, by its reason, when it is not sound."""

import asyncio
import base64
import json
import logging
import re
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import msgspec
import pytest

from strongroom.models.names import ENCRYPTED, KEYRING_DOCUMENT, check
from strongroom.storage_service.backends.base import (
    ABSENT,
    PRESENT,
    Backend,
    Change,
    Check,
    Delete,
    Entry,
    Page,
    Put,
    Vacant,
)
from strongroom.storage_service.backends.faulty import Fault, FaultyBackend
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import (
    ConfigurationError,
    Fate,
    KeyringDamaged,
    NotFound,
    Overtaken,
    StartupError,
    StrongroomError,
    Unavailable,
    WrongRootKey,
)
from strongroom.storage_service.jose import jwe
from strongroom.storage_service.jose.key import Key
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.document import Document
from strongroom.storage_service.keyring.opening import wraps
from strongroom.storage_service.keyring.rootkey import RootKey
from strongroom.storage_service.keyring.usage import index

NOW: Final = "2026-11-22T09:30:00Z"
ROOT_BITS: Final = b"root-key-bits-that-must-never-be-shown-anywhere-outside-the-file"
DATA_BITS: Final = b"data-key-bits-that-must-never-be-shown-anywhere-outside-the-ring"
ROOT: Final = RootKey(ROOT_BITS)
STRANGER: Final = RootKey(bytes(64))
HOLDER: Final = Key("unlock.abcd", bytes(range(64)))


def first() -> Document:
    """Return the document that a store begins with, its keys canaries."""
    return Document.new(NOW, random=lambda size: DATA_BITS[:size])


def sealed(text: bytes, root: Key = ROOT, name: str = KEYRING_DOCUMENT) -> bytes:
    """Return *text* as a holder of *root* could encrypt it."""
    return jwe.encrypt(root, name, text)


@pytest.fixture
async def store() -> MemoryBackend:
    backend = MemoryBackend()
    await backend.open()
    return backend


async def found_in(backend: Backend, root: RootKey = ROOT) -> tuple[Document, int]:
    """Return the document in the store, and its revision."""
    found = await stored.read(backend)
    assert found is not None
    return stored.open_document(found, root), found.revision


def unnamed(document: Document) -> Document:
    """Return a stored document without what storing it gave it."""
    return msgspec.structs.replace(document, keyring="", edition=0)


# What is read.

UNUSED: Final[dict[str, Sequence[Put]]] = {
    "nothing": (),
    "plain records": (Put("hosts/10.0.0.7", b"{}"), Put("clusters/c", b"{}")),
    "names that begin alike": (Put("secretsX", b"x"), Put("system/accessX/a", b"x"), Put("system/ready", b"")),
    "a machine that asks to be authorized": (Put("system/keyring/machines/" + "0" * 64, b"{}"),),
}


@pytest.mark.parametrize("there", UNUSED.values(), ids=UNUSED)
async def test_a_store_that_was_never_used(store: MemoryBackend, there: Sequence[Put]) -> None:
    """A store that nothing in needs a key may be given one."""
    if there:
        await store.commit(there)

    assert await stored.read(store) is None


NEEDED: Final[dict[str, Put]] = {
    "a container": Put("secrets/hosts/", b""),
    "a secret": Put("secrets/a", b"x"),
    "an API key": Put("system/access/apikeys/ci", b"x"),
    "a wrap": wraps.put(wraps.wrap(ROOT, HOLDER, NOW)),
}


@pytest.mark.parametrize("there", NEEDED.values(), ids=NEEDED)
async def test_a_keyring_that_is_missed(store: MemoryBackend, there: Put) -> None:
    """Where something needs a keyring and there is none, it has been lost: no new one takes its place."""
    await store.commit([there])

    with pytest.raises(KeyringDamaged, match="no new key will be made") as caught:
        await stored.read(store)

    assert KEYRING_DOCUMENT in str(caught.value)
    assert "restore" in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"garbage",
        first().encode(),
        sealed(first().encode(), Key("default.1", bytes(64))),
        sealed(first().encode(), HOLDER),
        sealed(first().encode(), Key("root.short", bytes(64))),
    ],
    ids=["empty", "garbage", "in the clear", "under a data key", "under an unlock key", "under no root key's id"],
)
async def test_what_is_no_keyring(store: MemoryBackend, value: bytes) -> None:
    """What does not even claim to be under a root key is no keyring."""
    await store.commit([Put(KEYRING_DOCUMENT, value)])

    with pytest.raises(KeyringDamaged, match="is not a keyring; restore it from a backup"):
        await stored.read(store)


async def test_what_is_read_says_its_root_key(store: MemoryBackend) -> None:
    """Which root key the keyring takes can be told without it, and so can its revision; the rest stays sealed."""
    revision = await stored.create(store, ROOT, first(), [])
    found = await stored.read(store)

    assert found is not None
    assert (found.root, found.revision) == (ROOT.kid, revision)
    assert repr(found) == f"<Sealed under {ROOT.kid}, revision {revision}>"


class Interrupted(FaultyBackend):
    """A store to which something happens just before the operation of that number."""

    def __init__(self, backend: Backend, at: int, happens: Callable[[], Awaitable[object]]) -> None:
        super().__init__(backend)
        self._at = at
        self._happens = happens

    async def _before(self) -> None:
        if len(self.operations) == self._at:
            await self._happens()

    async def get(self, name: str) -> Entry | None:
        """Return what is stored under *name*."""
        await self._before()
        return await super().get(name)

    async def get_many(self, names: Sequence[str], *, limit: int | None = None) -> Mapping[str, Entry]:
        """Return those of *names* that exist."""
        await self._before()
        return await super().get_many(names, limit=limit)

    async def list(self, prefix: str, after: str | None = None, limit: int = 1000) -> Page:
        """Return a page of names."""
        await self._before()
        return await super().list(prefix, after, limit)

    async def commit(self, changes: Sequence[Change]) -> int:
        """Apply *changes*."""
        await self._before()
        return await super().commit(changes)


READS: Final = 1  # of the store by one reading: the document
READS_OF_NEW: Final = len(ENCRYPTED) + 3  # where there is none: what is sealed, the wraps, and the document again


@pytest.mark.parametrize("at", range(READS_OF_NEW + 1))
async def test_a_first_start_elsewhere_is_not_taken_for_a_loss(store: MemoryBackend, at: int) -> None:
    """Whenever another process makes the keyring and the first secrets, reading finds no keyring, or that one."""

    async def begin() -> None:
        await stored.create(store, ROOT, first(), [wraps.put(wraps.wrap(ROOT, HOLDER, NOW))])
        await store.commit([Put("secrets/a", b"x"), Put("system/access/apikeys/ci", b"x")])

    found = await stored.read(Interrupted(store, at, begin))

    assert found is None or found.root == ROOT.kid
    assert (found is None) == (at == READS_OF_NEW), "the document is looked for last"


# What is opened.

LATER: Final = b'{"format":4,"seed":"of another kind"}'
UNOPENED: Final[dict[str, tuple[bytes, type[StartupError], str]]] = {
    "under another root key": (sealed(first().encode(), STRANGER), WrongRootKey, f"is encrypted under {STRANGER.kid}"),
    "another's, under our id": (
        sealed(first().encode(), Key(ROOT.kid, STRANGER.reveal())),
        KeyringDamaged,
        "its tag is wrong",
    ),
    "bound to another name": (sealed(first().encode(), name="secrets/a"), KeyringDamaged, "under this name"),
    "cut": (sealed(first().encode())[:-4], KeyringDamaged, "is not a keyring"),
    "a wrap in its place": (
        sealed(ROOT_BITS, Key(ROOT.kid, ROOT_BITS), wraps.name_of(ROOT.kid, ROOT.kid)),
        KeyringDamaged,
        "not written under this name",
    ),
    "no document": (sealed(b"{}"), KeyringDamaged, "decrypts, but its document is invalid"),
    "no JSON": (sealed(ROOT_BITS), KeyringDamaged, "decrypts, but its document is invalid"),
    "one that contradicts itself": (
        sealed(msgspec.structs.replace(first(), numbers={}).encode()),
        KeyringDamaged,
        "decrypts, but its document is invalid",
    ),
    "of a later version": (sealed(LATER), ConfigurationError, "a later version wrote it"),
}


@pytest.mark.parametrize(("value", "error", "text"), UNOPENED.values(), ids=UNOPENED)
async def test_what_does_not_open(store: MemoryBackend, value: bytes, error: type[StartupError], text: str) -> None:
    """Each keyring that is not sound is refused by its reason, before anything is done with it."""
    await store.commit([Put(KEYRING_DOCUMENT, value)])
    commits = store.calls["commit"]

    async def look() -> None:
        await found_in(store)

    async def edit() -> None:
        await stored.edit(store, ROOT, lambda document: document.rotated("default", NOW))

    for act in (look, edit):
        with pytest.raises(error) as caught:
            await act()
        assert type(caught.value) is error
        assert text in str(caught.value)
    assert store.calls["commit"] == commits


# What is made, and changed.


async def test_a_keyring_is_made_with_its_wraps(store: MemoryBackend) -> None:
    """The document and the wraps come in one commit; what lies in the store opens, and shows nothing."""
    revision = await stored.create(store, ROOT, first(), [wraps.put(wraps.wrap(ROOT, HOLDER, NOW))])

    document, at = await found_in(store)
    assert (unnamed(document), at) == (first(), revision)
    [wrap] = await wraps.wraps_of(store, ROOT.kid)
    assert wraps.unwrap(wrap, HOLDER) == ROOT
    found = await store.get_many((await store.list("")).names)
    assert {entry.revision for entry in found.values()} == {revision}
    assert len(found) == 2
    assert all(check(name) == name for name in found)
    for bits in (ROOT_BITS, DATA_BITS):
        assert not any(spelling in entry.value for entry in found.values() for spelling in spellings(bits))


async def test_every_keyring_has_keys_of_its_own() -> None:
    """Two stores share no key, and neither do the keysets of one; each key is drawn anew."""
    drawn = [
        generation.keys
        for document in (Document.new(NOW, 2), Document.new(NOW, 2))
        for keyset in document.keysets.values()
        for generation in keyset.generations
    ]

    assert len({key for keys in drawn for key in keys}) == 8
    assert stored.new_root() != stored.new_root()


async def test_a_keyring_is_not_made_over_another(store: MemoryBackend) -> None:
    """Who comes second is told, and neither his document nor his wraps are there."""
    await stored.create(store, ROOT, first(), [])
    before = await store.list("")

    with pytest.raises(Overtaken):
        await stored.create(store, STRANGER, first(), [wraps.put(wraps.wrap(STRANGER, HOLDER, NOW))])
    await stored.create_if_new(store, STRANGER, [wraps.put(wraps.wrap(STRANGER, HOLDER, NOW))])

    assert await store.list("") == before
    assert unnamed((await found_in(store))[0]) == first()


async def test_of_racing_makers_one_is_first(store: MemoryBackend) -> None:
    """Many first starts at one moment end with one keyring, and with the wraps of that one alone."""
    roots = [stored.new_root() for _ in range(12)]
    await asyncio.gather(
        *(stored.create_if_new(store, root, [wraps.put(wraps.wrap(root, HOLDER, NOW))]) for root in roots)
    )

    found = await stored.read(store)
    assert found is not None
    [winner] = [root for root in roots if root.kid == found.root]
    assert stored.open_document(found, winner).generations == ("access.1", "default.1")
    assert (await store.list("")).names == (KEYRING_DOCUMENT, wraps.name_of(winner.kid, HOLDER.kid))


async def test_a_change_is_one_commit(store: MemoryBackend) -> None:
    """A change reads the document, replaces it with all that goes with it, and returns it with its revision."""
    await stored.create(store, ROOT, first(), [])
    store.calls.clear()
    row = index.row("default.1", "secrets/a")

    document, revision = await stored.edit(
        store, ROOT, lambda document: document.rotated("default", NOW), [Put(row, b""), Vacant(row + "/")]
    )

    assert store.calls["commit"] == 1
    assert await found_in(store) == (document, revision)
    assert document.active_generations["default"] == "default.2"
    assert await store.get(row) == Entry(b"", revision)


GUARDS: Final[dict[str, Change]] = {
    "a prefix that is not vacant": Vacant("system/usage/default.1/"),
    "a row that is not there": Check(index.row("default.1", "secrets/x"), PRESENT),
    "a row that is there": Put(index.row("default.1", "secrets/a"), b"", ABSENT),
    "a row that is to go": Delete(index.row("default.1", "secrets/x"), PRESENT),
}


@pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
async def test_a_change_whose_guard_fails_is_none(store: MemoryBackend, guard: Change) -> None:
    """Whatever goes with a change goes with it or stops it: the document stays at its revision."""
    await stored.create(store, ROOT, first(), [])
    await store.commit([Put(index.row("default.1", "secrets/a"), b"")])
    before = await found_in(store)

    with pytest.raises(Overtaken, match="meanwhile"):
        await stored.edit(store, ROOT, lambda document: document.rotated("default", NOW), [guard])

    assert await found_in(store) == before


async def test_a_change_that_is_refused_writes_nothing(store: MemoryBackend) -> None:
    """What the change itself raises comes out, and the store was not asked to write."""
    await stored.create(store, ROOT, first(), [])
    commits = store.calls["commit"]

    with pytest.raises(NotFound):
        await stored.edit(store, ROOT, lambda document: document.rotated("x", NOW))

    assert store.calls["commit"] == commits


async def test_of_two_who_change_it_one_wins(store: MemoryBackend) -> None:
    """Who read the keyring before another changed it is told so, and has done nothing."""
    await stored.create(store, ROOT, first(), [])

    async def overtake() -> None:
        await stored.edit(store, ROOT, lambda document: document.rotated("access", NOW))

    with pytest.raises(Overtaken):
        await stored.edit(Interrupted(store, READS, overtake), ROOT, lambda document: document.rotated("default", NOW))

    assert dict((await found_in(store))[0].active_generations) == {"access": "access.2", "default": "default.1"}


async def test_many_who_change_it_lose_nothing(store: MemoryBackend) -> None:
    """Operators who try again when they were overtaken each get a generation of their own."""
    await stored.create(store, ROOT, first(), [])

    async def rotate(keyset: str) -> None:
        while True:
            with suppress(Overtaken):
                await stored.edit(store, ROOT, lambda document: document.rotated(keyset, NOW))
                return

    await asyncio.gather(*(rotate(keyset) for keyset in ("default", "access") for _ in range(5)))

    assert dict((await found_in(store))[0].active_generations) == {"access": "access.6", "default": "default.6"}


async def test_a_stale_revision_replaces_nothing(store: MemoryBackend) -> None:
    """A document is put in the place of one revision, and of no other, even if the text there is the same."""
    stale = await stored.create(store, ROOT, first(), [])
    _, revision = await stored.replace(store, ROOT, first(), stale)

    assert revision > stale
    with pytest.raises(Overtaken):
        await stored.replace(store, ROOT, first(), stale)
    assert (await found_in(store))[1] == revision


async def test_a_keyring_that_is_gone_is_not_made_anew(store: MemoryBackend) -> None:
    """A change finds no document: nothing is written in its place."""
    with pytest.raises(Overtaken, match="gone"):
        await stored.edit(store, ROOT, lambda document: document)

    assert store.calls["commit"] == 0


# Faults.


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER, Fault.LOST])
async def test_a_store_that_fails_at_any_step_of_a_change(store: MemoryBackend, fault: Fault) -> None:
    """Wherever the store fails, the keyring is the one of before or the one of after, as the fate says."""
    await stored.create(store, ROOT, first(), [])
    before = await found_in(store)
    for step in range(READS + 1):
        faulty = FaultyBackend(store, {step: fault})

        with pytest.raises(Unavailable) as caught:
            await stored.edit(faulty, ROOT, lambda document: document.halt("default", NOW, "why"))

        after = await found_in(store)
        applied = fault is Fault.AFTER and step == READS
        assert (after != before) == applied
        assert caught.value.fate is (Fate.NOT_APPLIED if fault is Fault.BEFORE else Fate.UNKNOWN)


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER, Fault.LOST])
async def test_a_store_that_fails_the_maker(store: MemoryBackend, fault: Fault) -> None:
    """A first keyring whose fate is not known is read by whoever comes next, or made by them."""
    with pytest.raises(Unavailable):
        await stored.create_if_new(FaultyBackend(store, {0: fault}), ROOT, [])
    await stored.create_if_new(store, STRANGER, [])

    found = await stored.read(store)
    assert found is not None
    assert found.root == (ROOT.kid if fault is Fault.AFTER else STRANGER.kid)


# What must not come out.


def spellings(bits: bytes) -> list[bytes]:
    """Return how *bits* might be spelled, wherever in a text they begin."""
    return [
        bits,
        bits.hex().encode(),
        json.dumps(list(bits)).encode(),
        *(base64.b64encode(bits[start : start + 30]) for start in range(3)),
    ]


async def test_no_key_comes_out(store: MemoryBackend, caplog: pytest.LogCaptureFixture) -> None:
    """No repr, error, traceback or log line, and no stored byte, holds a key's bits."""
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    for value, *_ in UNOPENED.values():
        fresh = MemoryBackend()
        await fresh.open()
        await fresh.commit([Put(KEYRING_DOCUMENT, value)])
        try:
            await stored.edit(fresh, ROOT, lambda document: document)
        except StrongroomError as error:
            said += [*traceback.format_exception(error), repr(error)]
    await stored.create(store, ROOT, first(), [wraps.put(wraps.wrap(ROOT, HOLDER, NOW))])
    document, revision = await found_in(store)
    ring = document.ring(revision)
    parts = (ROOT, document, ring, ring.active(), ring.choose("secrets/a"), await stored.read(store))
    said += [repr(part) for part in parts]
    said += [repr(entry.value) for entry in (await store.get_many((await store.list("")).names)).values()]
    said += [repr(wraps.put(wraps.wrap(ROOT, HOLDER, NOW))), caplog.text]

    text = "\n".join(said)
    for bits in (ROOT_BITS, DATA_BITS):
        for spelling in spellings(bits):
            assert spelling.decode() not in text


def test_the_time_is_spelled_one_way() -> None:
    """Times are RFC 3339, UTC, whole seconds."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", stored.now())

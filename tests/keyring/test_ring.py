"""Keys and rings: values that do not change, and show their ids and nothing else."""

import copy
import pickle
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import pytest

from strongroom.models.names import check
from strongroom.storage_service.errors import Locked
from strongroom.storage_service.jose.key import Key
from strongroom.storage_service.keyring.ring import (
    DEFAULT_KEYSET,
    Choice,
    DataKey,
    Place,
    Ring,
    generation_of,
    is_keyset,
    is_kid,
)
from strongroom.storage_service.keyring.rootkey import RootKey

BITS: Final = bytes(range(64))


def key(kid: str) -> DataKey:
    return DataKey(kid, kid.encode().ljust(64, b"."))


ONE, TWO, TEN, OTHER = key("default.1"), key("default.2"), key("default.10"), key("other.1")
FIRST, SECOND = key("default.3.1"), key("default.3.2")


# Keys.


@pytest.mark.parametrize(
    ("kid", "generation"),
    [
        ("default.1", "default.1"),
        ("default.1.1", "default.1"),
        ("a.999999999.999", "a.999999999"),
        ("0-9.7", "0-9.7"),
        (f"{'k' * 63}.1", f"{'k' * 63}.1"),
    ],
)
def test_kids(kid: str, generation: str) -> None:
    """A kid is keyset, generation and perhaps which key of the generation, and can be part of a name as it stands."""
    data_key = DataKey(kid, BITS)

    assert (data_key.kid, data_key.generation, f"{data_key.keyset}.{data_key.number}") == (kid, generation, generation)
    assert is_kid(kid)
    assert is_keyset(data_key.keyset)
    assert generation_of(kid) == generation
    assert check(f"system/usage/{kid}/secrets/a")


@pytest.mark.parametrize(
    "kid",
    [
        "",
        "default",
        "default.",
        ".1",
        "default.0",
        "default.01",
        "default.-1",
        "default.1.",
        "default.1.0",
        "default.1.01",
        "default.1.1000",
        "default.1.1.1",
        "Default.1",
        "a/b.1",
        "default.1\n",
        "default.\u0661",
        "-a.1",
        f"{'k' * 64}.1",
        "default.1000000000",
        "../x.1",
    ],
    ids=repr,
)
def test_what_is_no_kid(kid: str) -> None:
    """Anything else is no kid of a data key."""
    with pytest.raises(ValueError, match=r"<keyset>\.<generation>"):
        DataKey(kid, BITS)
    assert not is_kid(kid)
    assert generation_of(kid) is None


@pytest.mark.parametrize("name", ["", "A", "a.b", "-a", "a_b", "a\n", "k" * 64, "\u0661"], ids=repr)
def test_what_is_no_keyset(name: str) -> None:
    """A keyset's name is small letters, digits and dashes, so that no two are taken for one and none has a dot."""
    assert not is_keyset(name)


@pytest.mark.parametrize("kid", ["", 'a"b', "a\\b", "a/b", "a b", "a\n", "\xe4"], ids=ascii)
def test_no_id_needs_escapes(kid: str) -> None:
    """The id of a key of any kind can stand in a header as it is."""
    with pytest.raises(ValueError, match="a key's id"):
        Key(kid, BITS)


@pytest.mark.parametrize("size", [0, 16, 32, 63, 65, 128])
def test_a_key_is_512_bits(size: int) -> None:
    """No other size is a key."""
    for make in (lambda bits: DataKey("default.1", bits), RootKey):
        with pytest.raises(ValueError, match="64 bytes"):
            make(bytes(size))


@pytest.mark.parametrize("shown", [DataKey("default.1", BITS), RootKey(BITS), Key("any", BITS)], ids=repr)
def test_a_key_does_not_show_itself(shown: Key) -> None:
    """A key's text is its kind and id; it is not copied, pickled, hashed or listed by its attributes."""
    assert repr(shown) == str(shown) == f"{shown}" == f"<{type(shown).__name__} {shown.kid}>"
    assert not hasattr(shown, "__dict__")
    for act in (pickle.dumps, copy.copy, copy.deepcopy, hash):
        with pytest.raises(TypeError):
            act(shown)


def test_keys_are_equal_by_id_and_bits() -> None:
    """The same bits under another id, or as a key of another kind, are another key."""
    assert key("default.1") == ONE
    assert DataKey("default.1", BITS) != DataKey("default.1", bytes(64))
    assert DataKey("default.1", BITS) != DataKey("default.2", BITS)
    assert Key("default.1", BITS) != DataKey("default.1", BITS)
    assert ONE != "default.1"


@pytest.mark.parametrize("make", [lambda: DataKey("default.1", BITS), lambda: RootKey(BITS)], ids=["data", "root"])
def test_a_wiped_key_is_none(make: Callable[[], Key]) -> None:
    """Of a key that was wiped, neither the bits nor zeros in their place can be had, used, or taken for the key."""
    wiped = make()
    held: Any = wiped
    octets = held._octets
    wiped.wipe()

    assert not any(octets)
    assert wiped != make()
    acts: tuple[Callable[[], object], ...] = (
        wiped.reveal,
        lambda: wiped.content.encrypt(b"", b"value", bytes(16)),
        lambda: wiped.content.decrypt(b"", bytes(16), bytes(16), bytes(32)),
    )
    for act in acts:
        with pytest.raises(Locked, match="dropped"):
            act()
    wiped.wipe()  # twice is once


def test_a_key_keeps_bits_of_its_own() -> None:
    """What a key was made of may be wiped after, and wiping the key leaves that alone."""
    octets = bytearray(BITS)
    data_key = DataKey("default.1", octets)
    octets[:] = bytes(64)
    assert data_key.reveal() == BITS

    octets[:] = BITS
    data_key.wipe()
    assert octets == BITS


# Rings.


def test_the_newest_generation_is_active() -> None:
    """Generations are numbers, not texts; each keyset has its own active one."""
    ring = Ring([TEN, OTHER, ONE, TWO])

    assert ring.kids == ring.generations == ("default.1", "default.2", "default.10", "other.1")
    assert ring.active() is TEN
    assert ring.active("other") is OTHER
    assert dict(ring.active_generations) == {"default": "default.10", "other": "other.1"}
    assert repr(ring) == "<Ring default.1 default.2 default.10* other.1*>"
    assert len(ring.everywhere) == 4


def test_another_generation_may_be_active() -> None:
    """A generation that is told is active, whatever its number; the others are there to read with."""
    ring = Ring([ONE, TWO, OTHER], {"default": 1})

    assert ring.active() is ONE
    assert ring.everywhere.get("default.2") is TWO
    assert repr(ring) == "<Ring default.1* default.2 other.1*>"


def test_of_several_keys_each_write_takes_one_at_random() -> None:
    """All keys of the active generation are used alike, none of an older one; how often says nothing of anything."""
    ring = Ring([ONE, FIRST, SECOND])

    taken = Counter(ring.choose("secrets/a").key.kid for _ in range(400))

    assert taken.keys() == {"default.3.1", "default.3.2"}
    assert min(taken.values()) > 100  # of 400: by chance once in 10**24
    assert (ring.generations, ring.active_generations) == (("default.1", "default.3"), {"default": "default.3"})
    assert repr(ring) == "<Ring default.1 default.3.1* default.3.2*>"


def test_keys_are_found_by_kid() -> None:
    """A known kid gives its key, an unknown one None."""
    ring = Ring([ONE, TWO])

    assert ring.everywhere.get("default.1") is ONE
    assert ring.everywhere.get("default.3") is None


REFUSALS: Final[dict[str, Callable[[], object]]] = {
    "two keys under one kid": lambda: Ring([ONE, DataKey("default.1", BITS)]),
    "activating what is not there": lambda: Ring([ONE], {"default": 2}),
    "activating in a keyset that is not there": lambda: Ring([ONE], {"other": 1}),
}


@pytest.mark.parametrize("make", REFUSALS.values(), ids=REFUSALS)
def test_refused_rings(make: Callable[[], object]) -> None:
    """No ring strands a value or makes one kid mean two keys."""
    with pytest.raises(ValueError, match=r"default|other"):
        make()


def test_the_same_key_again_is_one_key() -> None:
    """A key that is given twice is there once."""
    assert repr(Ring([ONE, TWO, key("default.1")])) == "<Ring default.1 default.2*>"


def test_an_empty_ring_encrypts_nothing() -> None:
    """A keyset without keys has no active one, and no record can be written under it."""
    for act in (Ring().active, lambda: Ring().choose("secrets/a"), lambda: Ring([ONE]).active("other")):
        with pytest.raises(LookupError, match="no keyset"):
            act()


# Places: which keyset a record is under.

PLACES: Final = {
    "system/access/": Place("access"),
    "secrets/hosts/": Place("hosts", ("default",)),
    "secrets/hosts/far/": Place("other", ("hosts", "default")),
}
MANY: Final = Ring([ONE, TWO, key("hosts.1"), key("hosts.4"), OTHER, key("access.1")], places=PLACES)


@pytest.mark.parametrize(
    ("name", "under", "others"),
    [
        ("secrets/a", "default.2", ("default.1",)),
        ("secrets/hosts", "default.2", ("default.1",)),
        ("secrets/hostsx/a", "default.2", ("default.1",)),
        ("hosts/a", "default.2", ("default.1",)),
        ("secrets/hosts/", "hosts.4", ("hosts.1", "default.1", "default.2")),
        ("secrets/hosts/a", "hosts.4", ("hosts.1", "default.1", "default.2")),
        ("secrets/hosts/fa", "hosts.4", ("hosts.1", "default.1", "default.2")),
        ("secrets/hosts/far/a", "other.1", ("hosts.1", "hosts.4", "default.1", "default.2")),
        ("system/access/apikeys/ci", "access.1", ()),
    ],
)
def test_the_nearest_prefix_says_the_keyset(name: str, under: str, others: tuple[str, ...]) -> None:
    """A record goes under the active generation of its nearest prefix's keyset, and may be under others of before."""
    choice = MANY.choose(name)

    assert choice == Choice(key(under), others)
    assert MANY.keyset_of(name) == choice.key.keyset
    assert set(MANY.generations_of(name)) == {under, *others}
    assert MANY.widest == 5


def test_without_places_all_is_default() -> None:
    """A ring that says nothing of places puts everything under one keyset."""
    ring = Ring([ONE, OTHER])

    assert ring.keyset_of("secrets/a") == ring.keyset_of("") == DEFAULT_KEYSET
    assert ring.widest == 1


def test_a_ring_says_what_it_is_of() -> None:
    """A ring knows the revision of the document it is of, and whether writing has stopped."""
    assert (Ring().revision, Ring().halted) == (0, False)
    assert (Ring(revision=7, halted=True).revision, Ring(revision=7, halted=True).halted) == (7, True)


def test_a_ring_is_wiped_whole() -> None:
    """After a lock no key of the ring opens or encrypts anything, whichever generation it is of."""
    ring = Ring([key("default.1"), key("default.2"), key("other.1")])
    ring.wipe()

    for kid in ring.kids:
        held = ring.everywhere.get(kid)
        assert held is not None
        with pytest.raises(Locked):
            held.content.encrypt(b"", b"", bytes(16))
    assert repr(ring) == "<Ring default.1 default.2* other.1*>"


def test_a_ring_does_not_leave_the_process() -> None:
    """A ring is neither pickled nor copied, and what it says of its generations is not the ring's own to edit."""
    ring = Ring([ONE])
    said: Any = ring.active_generations

    for act in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled"):
            act(ring)
    said["default"] = "x"
    assert ring.active_generations == {"default": "default.1"}

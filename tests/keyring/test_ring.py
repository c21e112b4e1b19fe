"""Keys and rings: immutable values that show their ids and nothing else."""

import copy
import pickle
from collections.abc import Callable
from typing import Final

import pytest

from models.names import check
from storage_service.keyring.ring import DataKey, Key, Ring
from storage_service.keyring.rootkey import RootKey

BITS: Final = bytes(range(64))


def key(kid: str) -> DataKey:
    return DataKey(kid, kid.encode().ljust(64, b"."))


ONE, TWO, TEN, OTHER = key("default.1"), key("default.2"), key("default.10"), key("other.1")


@pytest.mark.parametrize("kid", ["default.1", "a.999999999", "0-9.7", f"{'k' * 63}.1"])
def test_kids(kid: str) -> None:
    """A kid is keyset and version, and can be part of a name as it stands."""
    data_key = DataKey(kid, BITS)

    assert (data_key.kid, f"{data_key.keyset}.{data_key.version}") == (kid, kid)
    assert check(f"system/keyring/{kid}")


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
        "default.1.1",
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
    with pytest.raises(ValueError, match=r"<keyset>\.<version>"):
        DataKey(kid, BITS)


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


def test_the_newest_version_is_active() -> None:
    """Versions are numbers, not texts; each keyset has its own active key."""
    ring = Ring([TEN, OTHER, ONE, TWO])

    assert ring.kids == ("default.1", "default.2", "default.10", "other.1")
    assert ring.active() is TEN
    assert ring.active("other") is OTHER
    assert dict(ring.active_kids) == {"default": "default.10", "other": "other.1"}
    assert repr(ring) == "<Ring default.1 default.2 default.10* other.1*>"
    assert len(ring) == 4


def test_keys_are_found_by_kid() -> None:
    """A known kid gives its key, an unknown one None; and so does no kid, unless a key is designated for it."""
    ring = Ring([ONE, TWO])

    assert ring.get("default.1") is ONE
    assert ring.get("default.3") is None
    assert ring.get(None) is None
    assert ring.with_unnamed("default.1").get(None) is ONE
    assert ring.with_unnamed("default.1").with_unnamed(None).get(None) is None


def test_each_change_is_a_new_ring() -> None:
    """A rotation in steps: a key comes in passive, is activated, and the old one goes; no ring changes."""
    first = Ring([ONE])
    second = first.with_key(TWO)
    third = second.activate("default.2")
    fourth = third.without("default.1")

    assert [repr(ring) for ring in (first, second, third, fourth)] == [
        "<Ring default.1*>",
        "<Ring default.1* default.2>",
        "<Ring default.1 default.2*>",
        "<Ring default.2*>",
    ]
    assert repr(first.with_key(OTHER)) == "<Ring default.1* other.1*>"


def test_designation_survives_changes() -> None:
    """The key for values that name none stays so while others come and go."""
    ring = Ring([ONE, TWO], unnamed="default.1").with_key(TEN).activate("default.10").without("default.2")

    assert ring.unnamed_kid == "default.1"
    assert ring.get(None) is ONE


def test_a_kid_is_never_given_twice() -> None:
    """The next kid is one above the newest, active or not."""
    assert Ring().next_kid() == "default.1"
    assert Ring([ONE, TEN]).next_kid() == "default.11"
    assert Ring([ONE]).with_key(TWO).next_kid() == "default.3"
    assert Ring([ONE]).next_kid("other") == "other.1"


REFUSALS: Final[dict[str, Callable[[], object]]] = {
    "another key under a known kid": lambda: Ring([ONE]).with_key(DataKey("default.1", BITS)),
    "two keys under one kid": lambda: Ring([ONE, DataKey("default.1", BITS)]),
    "activating what is not there": lambda: Ring([ONE]).activate("default.2"),
    "activating an older version": lambda: Ring([ONE, TWO]).activate("default.1"),
    "active in a keyset it is not of": lambda: Ring([ONE, OTHER], {"default": "other.1"}),
    "dropping what is not there": lambda: Ring([ONE]).without("default.2"),
    "dropping the active key": lambda: Ring([ONE, TWO]).without("default.2"),
    "dropping the designated key": lambda: Ring([ONE, TWO], unnamed="default.1").without("default.1"),
    "designating what is not there": lambda: Ring([ONE]).with_unnamed("default.2"),
}


@pytest.mark.parametrize("change", REFUSALS.values(), ids=REFUSALS)
def test_refused_changes(change: Callable[[], object]) -> None:
    """No change strands a value or makes one kid mean two keys."""
    with pytest.raises(ValueError, match=r"default|other"):
        change()


def test_the_same_key_again_is_no_change() -> None:
    """Adding a key that is there already leaves the ring as it was."""
    assert repr(Ring([ONE, TWO]).with_key(key("default.1"))) == "<Ring default.1 default.2*>"


def test_an_empty_ring_encrypts_nothing() -> None:
    """A keyset without keys has no active one."""
    with pytest.raises(LookupError, match="no keyset"):
        Ring().active()


def test_a_ring_does_not_leave_the_process() -> None:
    """A ring is not pickled, and its active kids cannot be edited."""
    ring = Ring([ONE])

    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(ring)
    with pytest.raises(TypeError):
        ring.active_kids["default"] = "x"  # type: ignore[index]  # that it is refused is the point

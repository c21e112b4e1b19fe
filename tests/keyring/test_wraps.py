"""Wraps of the root key: what is stored, who opens it, and that nothing else passes for one."""

import json
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import msgspec
import pytest

from strongroom.models.names import WRAPS
from strongroom.storage_service.backends.base import MAX_PAGE, Delete, Put
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import ConfigurationError, KeyringDamaged, StartupError
from strongroom.storage_service.jose import jwe, jwk
from strongroom.storage_service.jose.key import Key
from strongroom.storage_service.keyring.opening import unlock_keys, wraps
from strongroom.storage_service.keyring.opening.wraps import Wrap
from strongroom.storage_service.keyring.rootkey import RootKey

NOW: Final = "2026-11-22T09:30:00Z"
ROOT_BITS: Final = b"root-key-bits-that-must-never-be-shown-anywhere-outside-the-page"
ROOT: Final = RootKey(ROOT_BITS)
ANOTHER: Final = RootKey(bytes(64))
HOLDER: Final = Key("unlock.abcd", bytes(range(64)))
OTHER: Final = Key("unlock.efgh", bytes(range(64, 128)))
WRAP: Final = wraps.wrap(ROOT, HOLDER, NOW)


@pytest.fixture
async def store() -> AsyncIterator[MemoryBackend]:
    backend = MemoryBackend()
    await backend.open()
    yield backend
    await backend.close()


# What is stored.


def test_a_wrap_as_it_is_stored() -> None:
    """A wrap lies under the root key's kid and its recipient's, and says both; the root key in it is encrypted."""
    stored = wraps.put(wraps.wrap(ROOT, Key("shares.abcd", HOLDER.reveal()), NOW, threshold=3, total=5))

    assert stored.name == f"system/keyring/wraps/{ROOT.kid}/shares.abcd"
    assert stored.expected is None
    said = json.loads(stored.value)
    wrapped = said.pop("wrapped")
    assert said == {
        "format": 1,
        "kind": "shares",
        "id": "abcd",
        "root": ROOT.kid,
        "created": NOW,
        "threshold": 3,
        "total": 5,
    }
    assert jwe.kid_of(wrapped.encode()) == "shares.abcd"
    assert ROOT_BITS not in stored.value


@pytest.mark.parametrize("kind", ["file", "unlock", "shares"])
def test_a_recipient_opens_its_wrap(kind: str) -> None:
    """Whoever holds the recipient's key has the root key, after a journey through the store."""
    holder = Key(f"{kind}.abcd", HOLDER.reveal())
    stored = wraps.put(wraps.wrap(ROOT, holder, NOW))

    assert wraps.unwrap(wraps.decode(stored.name, stored.value), holder) == ROOT


def test_what_people_hold_opens() -> None:
    """An unlock key, and shares, each become the key that their wrap is for."""
    [(text, key)] = unlock_keys.make_keys(1)
    mnemonics, shared = unlock_keys.make_shares(2, 3)
    held = "\n".join(share.reveal() for share in mnemonics[1:])

    for recipient, typed in ((key, text.reveal()), (shared, held)):
        (given,) = unlock_keys.parse(typed).keys
        assert wraps.unwrap(wraps.wrap(ROOT, recipient, NOW), given) == ROOT


# What passes for no wrap.


def edited(edit: Callable[[Any], None]) -> bytes:
    """Return the stored wrap after *edit*."""
    members = json.loads(wraps.put(WRAP).value)
    edit(members)
    return json.dumps(members).encode()


UNREAD: Final[dict[str, tuple[bytes, type[StartupError], str]]] = {
    "nothing": (b"", KeyringDamaged, "is not a wrap"),
    "no JSON": (ROOT_BITS, KeyringDamaged, "is not a wrap"),
    "cut": (wraps.put(WRAP).value[:-1], KeyringDamaged, "is not a wrap"),
    "a list": (b"[]", KeyringDamaged, "is not a wrap"),
    "a member twice": (wraps.put(WRAP).value[:-1] + b',"id":"abcd"}', KeyringDamaged, "is not a wrap"),
    "a member more": (edited(lambda m: m.update(hint="x")), KeyringDamaged, "is not a wrap"),
    "a member less": (edited(lambda m: m.pop("wrapped")), KeyringDamaged, "is not a wrap"),
    "a member of another type": (edited(lambda m: m.update(threshold="3")), KeyringDamaged, "is not a wrap"),
    "a format that is no number": (edited(lambda m: m.update(format="1")), KeyringDamaged, "is not a wrap"),
    "a kind that nobody knows": (edited(lambda m: m.update(kind="telepathy")), KeyringDamaged, "is not a wrap"),
    "the next format": (edited(lambda m: m.update(format=2)), ConfigurationError, "a later version wrote it"),
    "a later format, all else unknown": (b'{"format":9,"seed":1}', ConfigurationError, "a later version wrote it"),
    "another recipient's": (edited(lambda m: m.update(id="efgh")), KeyringDamaged, "belongs under another name"),
    "another root key's": (edited(lambda m: m.update(root=ANOTHER.kid)), KeyringDamaged, "belongs under another name"),
    "of another kind": (edited(lambda m: m.update(kind="file")), KeyringDamaged, "belongs under another name"),
    "an id that is a path": (edited(lambda m: m.update(id="../x")), KeyringDamaged, "belongs under another name"),
}


@pytest.mark.parametrize(("text", "error", "why"), UNREAD.values(), ids=UNREAD)
def test_what_is_no_wrap(text: bytes, error: type[StartupError], why: str) -> None:
    """What lies where a wrap should is refused by its reason, named by where it lies, and not repeated."""
    with pytest.raises(error) as caught:
        wraps.decode(WRAP.name, text)

    assert type(caught.value) is error
    assert WRAP.name in str(caught.value)
    assert why in str(caught.value)
    assert ROOT_BITS.decode() not in "".join(traceback.format_exception(caught.value))


def holding(plaintext: bytes, key: Key = HOLDER, name: str = WRAP.name, root: str = ROOT.kid) -> Wrap:
    """Return the wrap that holds *plaintext*, as a holder of *key* could make it."""
    token = jwe.encrypt(key, name, plaintext).decode()
    return Wrap(kind="unlock", id="abcd", root=root, created=NOW, wrapped=token)


STRANGER: Final = Key(HOLDER.kid, bytes(64))
SHORT: Final = jwk.encode(bytes(64)).replace(b"AAAA", b"", 1)

UNOPENED: Final[dict[str, tuple[Wrap, str]]] = {
    "cut": (msgspec.structs.replace(WRAP, wrapped=WRAP.wrapped[:-1]), "not a compact JWE"),
    "garbage": (msgspec.structs.replace(WRAP, wrapped="garbage"), "not a compact JWE"),
    "no text": (msgspec.structs.replace(WRAP, wrapped="\ud800"), "not a compact JWE"),
    "in the clear": (msgspec.structs.replace(WRAP, wrapped=jwk.encode(ROOT_BITS).decode()), "not a compact JWE"),
    "of another key with the same id": (holding(jwk.encode(ROOT_BITS), STRANGER), "its tag is wrong"),
    "under another key's id": (holding(jwk.encode(ROOT_BITS), OTHER), "names no key"),
    "swapped with another recipient's": (
        holding(jwk.encode(ROOT_BITS), name=wraps.name_of(ROOT.kid, OTHER.kid)),
        "not written under this name",
    ),
    "swapped with another root key's": (
        holding(jwk.encode(ANOTHER.reveal()), name=wraps.name_of(ANOTHER.kid, HOLDER.kid)),
        "not written under this name",
    ),
    "another root key than it says": (holding(jwk.encode(ANOTHER.reveal())), "another root key than it says"),
    "no key": (holding(b"{}"), 'not a JWK of type "oct"'),
    "no JSON": (holding(ROOT_BITS), "not JSON"),
    "nothing": (holding(b""), "not JSON"),
    "a list": (holding(b"[]"), "not a JSON object"),
    "a key too short": (holding(SHORT), "512 bits"),
}


@pytest.mark.parametrize(("wrap", "why"), UNOPENED.values(), ids=UNOPENED)
def test_what_does_not_open(wrap: Wrap, why: str) -> None:
    """Wrong, truncated, swapped: each is told by its reason, by whom it was for, and what to do; never by content."""
    with pytest.raises(KeyringDamaged) as caught:
        wraps.unwrap(wrap, HOLDER)

    assert f"the wrap {HOLDER.kid} " in str(caught.value)
    assert why in str(caught.value)
    assert "restore it from a backup" in str(caught.value)
    told = "".join(traceback.format_exception(caught.value)) + repr(wrap)
    assert ROOT_BITS.decode() not in told


# All of a root key.


async def test_wraps_are_found_by_root_key(store: MemoryBackend) -> None:
    """The wraps of one root key are read without those of another, however alike their kids, in the order of ids."""
    mine = [wraps.wrap(ROOT, Key(kid, HOLDER.reveal()), NOW) for kid in ("file.x", "shares.b", "unlock.a", "unlock.c")]
    await store.commit([wraps.put(wrap) for wrap in (*reversed(mine), wraps.wrap(ANOTHER, HOLDER, NOW))])
    await store.commit([Put(f"{WRAPS}{ROOT.kid}x/unlock.a", b"not ours")])

    assert await wraps.wraps_of(store, ROOT.kid) == mine
    assert [wrap.kind in wraps.HUMAN for wrap in mine] == [False, True, True, True]
    assert await wraps.wraps_of(store, "root.aaaaaaaaaaaaaaaa") == []


async def test_the_wraps_of_other_root_keys_can_be_removed(store: MemoryBackend) -> None:
    """Everything under the wraps but those of one root key is what a rotation leaves to be removed, broken or not."""
    await store.commit([wraps.put(wraps.wrap(root, HOLDER, NOW)) for root in (ROOT, ANOTHER)])
    await store.commit([Put(f"{WRAPS}broken", b"x"), Put("system/keyring/keys", b"x")])

    assert await wraps.others_than(store, ROOT.kid) == [
        Delete(name) for name in sorted([f"{WRAPS}broken", wraps.name_of(ANOTHER.kid, HOLDER.kid)])
    ]


async def test_no_wrap_is_beyond_the_first_page(store: MemoryBackend) -> None:
    """However many there are, each is read."""
    kids = [f"unlock.{number:04}" for number in range(MAX_PAGE + 1)]
    stored = [wraps.put(wraps.wrap(ROOT, Key(kid, HOLDER.reveal()), NOW)) for kid in kids]
    for start in range(0, len(stored), 100):
        await store.commit(stored[start : start + 100])

    assert [wrap.recipient for wrap in await wraps.wraps_of(store, ROOT.kid)] == kids


async def test_one_broken_wrap_is_not_passed_over(store: MemoryBackend) -> None:
    """Where one of a root key's wraps is broken, that is said, and not that there are fewer."""
    await store.commit([wraps.put(WRAP), Put(wraps.name_of(ROOT.kid, OTHER.kid), wraps.put(WRAP).value)])

    with pytest.raises(KeyringDamaged, match="belongs under another name"):
        await wraps.wraps_of(store, ROOT.kid)

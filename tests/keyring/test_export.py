"""The keyring as one file: what stands in it, who can open it, and everything that is not to be believed in it."""

import base64
import json
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import pytest

from strongroom.models.names import KEYRING_DOCUMENT, MACHINES
from strongroom.models.secret import Secret
from strongroom.storage_service.backends.base import Backend, Change, Entry, Page, Put
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import (
    ConfigurationError,
    Invalid,
    KeyringDamaged,
    Overtaken,
    StrongroomError,
    Uninitialized,
    WrongKey,
    WrongRootKey,
)
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.ceremonies import export
from strongroom.storage_service.keyring.ceremonies.export import Given
from strongroom.storage_service.keyring.machines import key as machine_key
from strongroom.storage_service.keyring.machines.document import MachineDocument
from strongroom.storage_service.keyring.machines.key import Kind
from strongroom.storage_service.keyring.machines.stored import StoredDocuments
from strongroom.storage_service.keyring.opening import unlock_keys, wraps
from strongroom.storage_service.keyring.rootkey import RootKey
from tests.keyring import holders, story
from tests.keyring.holders import FILE, ROOT, held
from tests.keyring.machine_keys import NEXT_ROOT, key_of


@pytest.fixture
async def store() -> MemoryBackend:
    """A store whose keyring every sort of recipient opens."""
    backend = MemoryBackend()
    await backend.open()
    await holders.initialize(backend)
    return backend


@pytest.fixture
async def text(store: MemoryBackend) -> bytes:
    """Its export."""
    return await export.export(store, ROOT)


# What stands in it.


async def test_people_can_see_whose_keys_open_it(text: bytes) -> None:
    """The file says what it is and of when, and lists every recipient: kind, id, date, k of n, a machine's name."""
    said = json.loads(text)

    assert [said["what"], said["format"], said["root"]] == ["strongroom keyring", 1, ROOT.kid]
    rows = [{key: value for key, value in row.items() if value is not None} for row in said["recipients"]]
    ids = [wrap.id for wrap in sorted(held().wraps, key=lambda wrap: wrap.recipient)]
    assert rows == [
        {"kind": "file", "id": ids[0], "created": holders.CREATED},
        {"kind": "shares", "id": ids[1], "created": holders.CREATED, "needed": 2, "of": 3},
        {"kind": "unlock", "id": ids[2], "created": holders.CREATED},
        {"kind": "unlock", "id": ids[3], "created": holders.CREATED},
        {"kind": "machine", "id": held().machine.fingerprint, "created": "2025-11-22 08:26:40", "name": "db-1"},
    ]


async def test_nothing_secret_is_in_it(store: MemoryBackend, text: bytes) -> None:
    """No key, in no spelling, stands in the file, nor in the repr of what was read of it."""
    document, _ = await story.read_document(store)
    keys = [
        ROOT.reveal(),
        FILE.reveal(),
        *(key for of in document.keysets.values() for v in of.generations for key in v.keys),
    ]
    shown = text + repr(export.read(text)).encode()
    for key in keys:
        spelled = [key, key.hex().encode(), base64.b64encode(key), base64.urlsafe_b64encode(key)]
        assert not any(each[:20] in shown for each in spelled)
    assert not any(word.encode() in shown for word in (*held().unlock_keys, *held().shares))


WHO: Final[Mapping[str, Callable[[], Given]]] = {
    "an unlock key": lambda: held().unlock_keys[0],
    "another unlock key, in small letters": lambda: str.lower(held().unlock_keys[1]),
    "both": lambda: "\n".join(held().unlock_keys),
    "two shares of three": lambda: "\n".join(held().shares[1:]),
    "the root key file": lambda: FILE,
    "the machine": lambda: held().machine,
}


@pytest.mark.parametrize("who", WHO)
async def test_each_recipient_opens_it_alone(text: bytes, who: str) -> None:
    """Whatever opens the service opens the file, and nothing else is needed for it."""
    exported = export.read(text)

    assert export.open_root(exported, WHO[who]()) == ROOT
    assert export.prove(exported, ROOT).generations == ("access.1", "default.1")


NOBODY: Final[Mapping[str, tuple[Callable[[], Given], type[StrongroomError], str]]] = {
    "a strange unlock key": (
        lambda: Secret.reveal(unlock_keys.make_keys(1)[0][0]),
        WrongKey,
        "opens this export",
    ),
    "a strange file": (lambda: RootKey(bytes(64)), WrongKey, "opens this export"),
    "a strange machine": (lambda: key_of(Kind.RSA), WrongKey, "opens this export"),
    "a mistyped key": (lambda: held().unlock_keys[0][:-1] + "!", unlock_keys.Mistyped, "key 1"),
    "one share of two": (lambda: held().shares[0], unlock_keys.TooFew, "1 more share is needed"),
    "nothing": (lambda: "", unlock_keys.Mistyped, "nothing was given"),
}


@pytest.mark.parametrize("who", NOBODY)
async def test_who_is_no_recipient_is_told_so(text: bytes, who: str) -> None:
    """A key that opens nothing, and one that cannot be right, are told apart, and neither is repeated."""
    given, kind, reason = NOBODY[who]

    with pytest.raises(kind, match=reason) as caught:
        export.open_root(export.read(text), given())

    assert not any(word in str(caught.value) for word in str(given()).split("-")[1:])


async def test_it_may_be_laid_out_anew(text: bytes) -> None:
    """An editor that changes white space and the order of members leaves a file that opens as before."""
    anew = json.dumps(dict(reversed(json.loads(text).items()))).encode()

    assert export.open_root(export.read(anew), FILE) == ROOT


async def test_machines_are_taken_along_as_far_as_they_are_proven(store: MemoryBackend) -> None:
    """A machine that is damaged, planted, or not authorized under this root key is named as left out, not taken."""
    document = held().document
    others = {each: machine_key.make() for each in ("planted", "former", "damaged")}
    planted = MachineDocument.new("db-2", others["planted"].public_jwk(), 1)
    planted = planted.with_root(NEXT_ROOT, True)
    copied = {**json.loads(planted.encode()), "keys": document.keys}
    copied["meta"]["authorizer"] = document.meta.authorizer
    former = MachineDocument.new("db-3", others["former"].public_jwk(), 1).with_root(NEXT_ROOT, False)
    await store.commit(
        [
            StoredDocuments.put(document.with_root(NEXT_ROOT, True)),  # a rotation is prepared
            Put(MACHINES + planted.fingerprint, json.dumps(copied).encode()),
            StoredDocuments.put(former),
            Put(MACHINES + others["damaged"].fingerprint, b"{"),
            Put(MACHINES + "no-fingerprint", b"{}"),
        ]
    )

    exported = export.read(await export.export(store, ROOT))

    assert [each.name for each in exported.machines] == ["db-1"]
    assert exported.machines[0].keys.keys() == exported.machines[0].meta.authorizer.keys() == {ROOT.kid}
    assert sorted(exported.left_out) == sorted(["-", *(each.fingerprint for each in others.values())])


# When it is made.


async def test_a_store_without_a_keyring_has_nothing_to_export() -> None:
    """No keyring is an error of its own."""
    empty = MemoryBackend()
    await empty.open()

    with pytest.raises(Uninitialized):
        await export.export(empty, ROOT)


class Meddled(MemoryBackend):
    """A store in which others do something before each read of the keyring document, as often as they like."""

    def __init__(self, store: Backend, meddle: Callable[[int], Awaitable[object]]) -> None:
        super().__init__()
        self._store = store
        self._meddle = meddle
        self._reads = 0

    async def get(self, name: str) -> Entry | None:
        if name == KEYRING_DOCUMENT:
            self._reads += 1
            await self._meddle(self._reads)
        return await self._store.get(name)

    async def get_many(self, names: Sequence[str], *, limit: int | None = None) -> Mapping[str, Entry]:
        return await self._store.get_many(names, limit=limit)

    async def list(self, prefix: str, after: str | None = None, limit: int = 1000) -> Page:
        return await self._store.list(prefix, after, limit)

    async def commit(self, changes: Sequence[Change]) -> int:
        return await self._store.commit(changes)


async def test_it_is_of_one_moment(store: MemoryBackend) -> None:
    """A machine that is revoked while the parts are read is not in the file: they are read again."""

    async def revoke(reads: int) -> None:
        if reads == 2:
            removal = StoredDocuments.removal(held().machine.fingerprint)
            await stored.edit(store, ROOT, lambda said: said.rotated("default", stored.now()), [removal])

    exported = export.read(await export.export(Meddled(store, revoke), ROOT))

    assert exported.machines == ()
    assert "default.2" in export.prove(exported, ROOT).generations


async def test_a_keyring_that_never_rests_is_not_exported(store: MemoryBackend) -> None:
    """Where the keyring changes at every look, the export gives up, and says so."""

    async def touch(_: int) -> None:
        await stored.edit(store, ROOT, lambda said: said)

    with pytest.raises(Overtaken, match="keep changing"):
        await export.export(Meddled(store, touch), ROOT)


async def test_a_root_key_of_the_past_exports_nothing(store: MemoryBackend) -> None:
    """Who holds the root key that was rotated away gets no file sealed with it."""
    await stored.replace(store, NEXT_ROOT, (await story.read_document(store))[0], (await story.read_document(store))[1])

    with pytest.raises(WrongRootKey):
        await export.export(store, ROOT)


async def test_a_damaged_wrap_is_no_backup(store: MemoryBackend) -> None:
    """A wrap in the store that is none stops the export, for nobody is to trust in a file without it."""
    await store.commit([Put(wraps.name_of(ROOT.kid, "unlock.another"), b"{}")])

    with pytest.raises(KeyringDamaged):
        await export.export(store, ROOT)


# What is not believed.


async def test_a_part_of_it_is_never_taken_for_the_whole(text: bytes) -> None:
    """Cut short anywhere, it is refused for that."""
    for end in range(0, len(text.rstrip()), 61):
        with pytest.raises(Invalid, match="cut short"):
            export.read(text[:end])


Edit: TypeAlias = Callable[[dict[str, Any], dict[str, Any]], object]
"""Changes what a file says; it may take from another file of the same keyring, made later."""


def put(**members: object) -> Edit:
    return lambda said, _: said.update(members)


def flipped(token: str) -> str:
    """Return a JWE with another tag."""
    return token[:-6] + ("A" if token[-6] != "A" else "B") + token[-5:]


READ: Final[Mapping[str, tuple[Edit, type[StrongroomError], str]]] = {
    "of another sort": (put(what="a shopping list"), Invalid, "not an export of a keyring"),
    "of a later format": (put(format=2, more=1), ConfigurationError, "a later version wrote it"),
    "of a format that is none": (put(format="1"), Invalid, "accepted form"),
    "with a later wrap": (lambda said, _: said["wraps"][0].update(format=2), ConfigurationError, "later version"),
    "with a later machine": (lambda said, _: said["machines"][0].update(format=2), ConfigurationError, "later version"),
    "with one member more": (put(comment="hello"), Invalid, "accepted form"),
    "without its wraps": (lambda said, _: said.pop("wraps"), Invalid, "accepted form"),
    "with another root key": (put(root=NEXT_ROOT.kid), Invalid, "damaged"),
    "with a root key that is none": (put(root="canary"), Invalid, "damaged"),
    "with a wrap gone": (lambda said, _: said["wraps"].pop(), Invalid, "its table does not match"),
    "with a wrap twice": (lambda said, _: said["wraps"].append(said["wraps"][0]), Invalid, "twice"),
    "with a wrap of another root key": (
        lambda said, _: said["wraps"][0].update(root=NEXT_ROOT.kid),
        Invalid,
        "of another root key",
    ),
    "with a wrap of no name": (
        lambda said, _: said["wraps"][0].update(id="../canary"),
        Invalid,
        "cannot have a name here",
    ),
    "with a machine of no fingerprint": (
        lambda said, _: said["machines"][0].update(_id="canary"),
        Invalid,
        "has no fingerprint",
    ),
    "with a machine's key of another": (
        lambda said, _: said["machines"][0].update(public=key_of(Kind.RSA).public_jwk()),
        Invalid,
        "the document of a machine",
    ),
    "with a machine of another root key": (
        lambda said, _: said["machines"][0]["keys"].update({NEXT_ROOT.kid: "canary"}),
        Invalid,
        "the document of a machine",
    ),
    "with a row of the table changed": (
        lambda said, _: said["recipients"][0].update(id="canary"),
        Invalid,
        "its table does not match",
    ),
    "with keys that are none": (put(keys="canary"), Invalid, "its keys are under another root key"),
    "with a seal that is none": (put(seal="canary"), Invalid, "its seal is under another root key"),
    "with a name left out that is none": (put(left_out=["canary\n"]), Invalid, "cannot have a name here"),
}


async def edited(store: MemoryBackend, edit: Edit) -> bytes:
    """Return an export that somebody changed, with or without parts of a later one."""
    said = json.loads(await export.export(store, ROOT))
    await stored.edit(store, ROOT, lambda document: document.rotated("default", stored.now()))
    edit(said, json.loads(await export.export(store, ROOT)))
    return json.dumps(said).encode()


@pytest.mark.parametrize("case", READ)
async def test_a_file_that_cannot_be_right_is_refused_before_any_key(store: MemoryBackend, case: str) -> None:
    """What does not fit by itself is refused on reading, each for its own reason, and nothing of it is repeated."""
    edit, kind, reason = READ[case]

    with pytest.raises(kind, match=reason) as caught:
        export.read(await edited(store, edit))

    assert "canary" not in "".join(traceback.format_exception(caught.value))


OPENED: Final[Mapping[str, tuple[Edit, type[StrongroomError], str]]] = {
    "keys of a later export": (lambda said, later: said.update(keys=later["keys"]), Invalid, "changed after"),
    "the seal of a later export": (lambda said, later: said.update(seal=later["seal"]), Invalid, "changed after"),
    "another date": (put(created="2020-01-01T00:00:00Z"), Invalid, "changed after"),
    "keys with another tag": (lambda said, _: said.update(keys=flipped(said["keys"])), Invalid, "changed after"),
    "a seal with another tag": (lambda said, _: said.update(seal=flipped(said["seal"])), Invalid, "changed after"),
    "a machine with another name": (
        lambda said, _: (said["machines"][0].update(name="db-9"), said["recipients"][-1].update(name="db-9")),
        Invalid,
        "changed after",
    ),
    "a recipient gone from everywhere": (
        lambda said, _: (said["wraps"].pop(), said["recipients"].pop(3)),
        Invalid,
        "changed after",
    ),
    "a wrap with another tag": (
        lambda said, _: [wrap.update(wrapped=flipped(wrap["wrapped"])) for wrap in said["wraps"]],
        KeyringDamaged,
        "does not open",
    ),
    "the wrapped of another": (
        lambda said, _: said["wraps"][0].update(wrapped=said["wraps"][1]["wrapped"]),
        KeyringDamaged,
        "does not open",
    ),
}


@pytest.mark.parametrize("case", OPENED)
async def test_a_file_that_was_changed_opens_for_nobody(store: MemoryBackend, case: str) -> None:
    """What fits by itself, but is not what a holder of the root key sealed, is refused when it is opened."""
    edit, kind, reason = OPENED[case]
    exported = export.read(await edited(store, edit))

    with pytest.raises(kind, match=reason):
        export.open_root(exported, FILE)


async def test_a_file_that_the_store_made_up_is_sealed_by_nobody(text: bytes) -> None:
    """Whoever writes files without the root key can wrap one of their own, and opens nothing of ours with it."""
    exported = export.read(text)

    with pytest.raises(WrongRootKey, match=NEXT_ROOT.kid):
        export.prove(exported, NEXT_ROOT)


async def test_it_is_measured_before_it_is_read() -> None:
    """A file that no keyring fills is not even parsed."""
    with pytest.raises(Invalid, match="at most"):
        export.read(b" " * (export.MAX_FILE + 1))


async def test_what_is_read_is_what_was_made(store: MemoryBackend, text: bytes) -> None:
    """Reading loses nothing: wraps, machines and keys are those of the store."""
    exported = export.read(text)

    entry = await store.get(KEYRING_DOCUMENT)
    assert entry is not None and exported.keys == entry.value
    assert sorted(map(str, exported.wraps)) == sorted(map(str, held().wraps))
    assert exported.machines == (held().document,)
    assert repr(exported) == f"<Exported keyring under {ROOT.kid} of {exported.created}>"

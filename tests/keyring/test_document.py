"""The keyring document: what each change does and refuses, and that no kid ever means two keys."""

import base64
import json
import random
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
import pytest

from strongroom.storage_service.errors import (
    ConfigurationError,
    Exists,
    InUse,
    Invalid,
    KeyringDamaged,
    NotFound,
    ServiceError,
    StrongroomError,
)
from strongroom.storage_service.keyring.document import MAX_GENERATIONS, MAX_KEYS, Document, Pending
from strongroom.storage_service.keyring.ring import DataKey

NOW: Final = "2026-11-22T09:30:00Z"
CANARY: Final = b"canary-bits-that-must-not-be-seen-outside-of-the-keyring-itself!"


def draws() -> Callable[[int], bytes]:
    """Return what gives bytes that are all different, in an order that is known."""
    numbers: Iterator[int] = iter(range(1, 10**6))
    return lambda size: next(numbers).to_bytes(size, "big")


def new(keys: int = 1) -> Document:
    """Return the first document of a store."""
    return Document.new(NOW, keys, draws())


def rotated(name: str = "default", times: int = 1) -> Document:
    """Return a document in which that keyset was rotated so many times."""
    document = new()
    draw = draws()
    for _ in range(times):
        document = document.rotated(name, NOW, random=lambda size: b"\xff" + draw(size - 1))
    return document


def hosted(document: Document | None = None) -> Document:
    """Return the document with a keyset for hosts, and their container assigned to it."""
    return (document or new()).with_keyset("hosts", NOW).assigned("secrets/hosts/", "hosts")


def said(document: Document) -> str:
    """Return what *document* says, in a line: generations and keys, and all that is under way."""
    ring = document.ring()
    words = [repr(ring)]
    words += [f"{name} reverting" for name, keyset in sorted(document.keysets.items()) if keyset.reverting]
    words += [
        f"{prefix}={place.keyset}" + "".join(f"<{each}" for each in place.before)
        for prefix, place in sorted(document.places.items())
        if prefix != "system/access/"
    ]
    words += [f"backup {label}: {','.join(each.generations)}" for label, each in sorted(document.backups.items())]
    words += ["halted"] * ring.halted + ["uncounted"] * (not document.counted)
    words += [f"pending {document.pending.root}"] if document.pending else []
    return "; ".join(words)


# What a document is.


def test_the_first_document() -> None:
    """A store begins with a keyset for secrets and one for API keys; this is the JSON that lies in it, encrypted."""
    keys = [base64.b64encode(number.to_bytes(64, "big")).decode() for number in (1, 2)]

    assert json.loads(new().encode()) == {
        "format": 1,
        "keysets": {
            name: {
                "active": 1,
                "keys": 1,
                "reverting": False,
                "generations": [{"number": 1, "created": NOW, "keys": [key]}],
            }
            for name, key in zip(("access", "default"), keys, strict=True)
        },
        "numbers": {"access": 1, "default": 1},
        "places": {"system/access/": {"keyset": "access", "before": []}},
        "backups": {},
        "halted": None,
        "pending": None,
        "counted": True,
        "keyring": "",
        "edition": 0,
    }


@pytest.mark.parametrize(
    "document",
    [
        new(),
        new(3),
        rotated(times=5),
        hosted().with_backup("b", NOW).halt("hosts", NOW, "why"),
        rotated().reverted("default").with_pending(Pending("root.x", NOW, ("file.y",))),
    ],
    ids=["new", "three keys", "rotated", "halted", "reverting"],
)
def test_what_is_encoded_is_decoded(document: Document) -> None:
    """A document comes back from its JSON as it was, and the same document is the same JSON."""
    assert Document.decode(document.encode()) == document
    assert Document.decode(document.encode()).encode() == document.encode()


def test_a_ring_of_the_document() -> None:
    """The ring has all keys, each under its kid, the active generations, the places, and the revision it is told."""
    document = hosted(new(2))
    ring = document.ring(7)

    assert ring.kids == ("access.1.1", "access.1.2", "default.1.1", "default.1.2", "hosts.1")
    assert ring.everywhere.get("default.1.1") == DataKey(
        "default.1.1", document.keysets["default"].generations[0].keys[0]
    )
    assert ring.revision == 7
    assert ring.generations == document.generations
    assert ring.active_generations == document.active_generations
    assert ring.keyset_of("secrets/hosts/a") == "hosts"
    assert ring.keyset_of("system/access/apikeys/ci") == "access"
    assert ring.generations_of("secrets/hosts/a") == ("hosts.1", "default.1")


def test_two_reasons_to_halt() -> None:
    """A ring is halted if the document says so, or the service does; neither lifts the other's halt."""
    document = new()

    assert not document.ring().halted
    assert document.ring(halted=True).halted
    assert document.halt("default", NOW, "why").ring(halted=False).halted
    assert not document.halt("default", NOW, "why").resumed().ring().halted


# What each change does.

CHANGES: Final[dict[str, tuple[Document, Callable[[Document], Document], str]]] = {
    "nothing": (new(), lambda d: d, "<Ring access.1* default.1*>"),
    "a rotation": (new(), lambda d: d.rotated("default", NOW), "<Ring access.1* default.1 default.2*>"),
    "a rotation keeps the number of keys": (
        new(2),
        lambda d: d.rotated("access", NOW),
        "<Ring access.1.1 access.1.2 access.2.1* access.2.2* default.1.1* default.1.2*>",
    ),
    "a rotation to more keys": (
        new(),
        lambda d: d.rotated("default", NOW, 2).rotated("default", NOW),
        "<Ring access.1* default.1 default.2.1 default.2.2 default.3.1* default.3.2*>",
    ),
    "a rotation back to one key": (
        new(2),
        lambda d: d.rotated("default", NOW, 1),
        "<Ring access.1.1* access.1.2* default.1.1 default.1.2 default.2*>",
    ),
    "a reversal": (
        rotated(),
        lambda d: d.reverted("default"),
        "<Ring access.1* default.1* default.2>; default reverting",
    ),
    "a reversal of a reversal's kind": (
        rotated(times=2),
        lambda d: d.reverted("default").reverted("default"),
        "<Ring access.1* default.1* default.2 default.3>; default reverting",
    ),
    "a reversal that is done": (
        rotated(),
        lambda d: d.reverted("default").settled("default"),
        "<Ring access.1* default.1* default.2>",
    ),
    "a rotation after a reversal takes a new number": (
        rotated(),
        lambda d: d.reverted("default").settled("default").rotated("default", NOW),
        "<Ring access.1* default.1 default.2 default.3*>",
    ),
    "a reversal after a hole": (
        rotated(times=2),
        lambda d: d.without_generation("default.2").reverted("default"),
        "<Ring access.1* default.1* default.3>; default reverting",
    ),
    "an old generation retired": (
        rotated(),
        lambda d: d.without_generation("default.1"),
        "<Ring access.1* default.2*>",
    ),
    "a newer generation retired after a reversal": (
        rotated(),
        lambda d: d.reverted("default").settled("default").without_generation("default.2"),
        "<Ring access.1* default.1*>",
    ),
    "a keyset": (new(), lambda d: d.with_keyset("a-9", NOW), "<Ring a-9.1* access.1* default.1*>"),
    "a keyset of several keys": (
        new(),
        lambda d: d.with_keyset("x", NOW, 2),
        "<Ring access.1* default.1* x.1.1* x.1.2*>",
    ),
    "a keyset removed": (new().with_keyset("x", NOW), lambda d: d.without_keyset("x"), "<Ring access.1* default.1*>"),
    "a keyset removed and made anew": (
        new().with_keyset("x", NOW).rotated("x", NOW),
        lambda d: d.without_keyset("x").with_keyset("x", NOW),
        "<Ring access.1* default.1* x.3*>",
    ),
    "a container assigned": (
        new().with_keyset("hosts", NOW),
        lambda d: d.assigned("secrets/hosts/", "hosts"),
        "<Ring access.1* default.1* hosts.1*>; secrets/hosts/=hosts<default",
    ),
    "a container in one that is assigned": (
        hosted().with_keyset("far", NOW),
        lambda d: d.assigned("secrets/hosts/far/", "far"),
        (
            "<Ring access.1* default.1* far.1* hosts.1*>; "
            "secrets/hosts/=hosts<default; secrets/hosts/far/=far<hosts<default"
        ),
    ),
    "all secrets assigned": (
        hosted(),
        lambda d: d.assigned("secrets/", "hosts"),
        "<Ring access.1* default.1* hosts.1*>; secrets/=hosts<default; secrets/hosts/=hosts<default",
    ),
    "a container assigned back": (
        hosted(),
        lambda d: d.assigned("secrets/hosts/", "default"),
        "<Ring access.1* default.1* hosts.1*>; secrets/hosts/=default<hosts",
    ),
    "a container assigned to what it is assigned to": (
        hosted(),
        lambda d: d.assigned("secrets/hosts/", "hosts"),
        "<Ring access.1* default.1* hosts.1*>; secrets/hosts/=hosts<default",
    ),
    "a container assigned to and fro": (
        hosted().with_keyset("x", NOW),
        lambda d: d.assigned("secrets/hosts/", "x").assigned("secrets/hosts/", "hosts"),
        "<Ring access.1* default.1* hosts.1* x.1*>; secrets/hosts/=hosts<x<default",
    ),
    "a container settled": (
        hosted(),
        lambda d: d.settled("hosts"),
        "<Ring access.1* default.1* hosts.1*>; secrets/hosts/=hosts",
    ),
    "another keyset settled": (
        hosted(),
        lambda d: d.settled("default"),
        "<Ring access.1* default.1* hosts.1*>; secrets/hosts/=hosts<default",
    ),
    "a backup": (
        rotated(),
        lambda d: d.with_backup("monday", NOW).rotated("default", NOW),
        "<Ring access.1* default.1 default.2 default.3*>; backup monday: access.1,default.1,default.2",
    ),
    "a backup forgotten": (
        rotated().with_backup("monday", NOW),
        lambda d: d.without_backup("monday").without_generation("default.1"),
        "<Ring access.1* default.2*>",
    ),
    "halted": (new(), lambda d: d.halt("default", NOW, "why"), "<Ring access.1* default.1*>; halted"),
    "resumed": (new().halt("default", NOW, "why"), lambda d: d.resumed(), "<Ring access.1* default.1*>"),
    "a reversal left as it is": (
        rotated().reverted("default").halt("default", NOW, "why"),
        lambda d: d.left_as_it_is("default"),
        "<Ring access.1* default.1* default.2>",
    ),
    "a root key to come": (
        new(),
        lambda d: d.with_pending(Pending("root.x", NOW, ())),
        "<Ring access.1* default.1*>; pending root.x",
    ),
    "none to come any more": (
        new().with_pending(Pending("root.x", NOW, ())),
        lambda d: d.with_pending(None),
        "<Ring access.1* default.1*>",
    ),
    "an index completed": (
        msgspec.structs.replace(new(), counted=False),
        lambda d: d.with_index(),
        "<Ring access.1* default.1*>",
    ),
}


@pytest.mark.parametrize(("before", "change", "after"), CHANGES.values(), ids=CHANGES)
def test_changes(before: Document, change: Callable[[Document], Document], after: str) -> None:
    """Each change gives another document, which can be stored, and leaves the one it began with."""
    text = before.encode()

    changed = change(before)

    assert said(changed) == after
    assert Document.decode(changed.encode()) == changed
    assert before.encode() == text


# What is refused.

BACKED_UP: Final = rotated().with_backup("monday", NOW)
WIDE: Final = rotated(times=MAX_GENERATIONS - 1)

Act = Callable[[Document], object]


def keyset(name: str = "x", keys: int = 1) -> Act:
    return lambda document: document.with_keyset(name, NOW, keys)


def rotate(keys: int) -> Act:
    return lambda document: document.rotated("default", NOW, keys)


def retire(generation: str) -> Act:
    return lambda document: document.without_generation(generation)


def assign(container: str) -> Act:
    return lambda document: document.assigned(container, "default")


def back_up(label: str) -> Act:
    return lambda document: document.with_backup(label, NOW)


REFUSED: Final[dict[str, tuple[Document, Act, type[ServiceError], str]]] = {
    "a keyset that is there": (new(), lambda d: d.with_keyset("default", NOW), Exists, "use rotate"),
    "a keyset kept for the service": (new(), lambda d: d.with_keyset("root", NOW), Invalid, "kept for the service"),
    **{
        f"a keyset called {name!r}": (new(), keyset(name), Invalid, "keyset's name")
        for name in ("", "X", "a.b", "-a", "a/b", "k" * 64)
    },
    **{
        f"a keyset of {keys} keys": (new(), keyset(keys=keys), Invalid, "1 to 32 keys")
        for keys in (-1, 0, MAX_KEYS + 1)
    },
    **{
        f"a rotation to {keys} keys": (
            new(),
            rotate(keys),
            Invalid,
            "1 to 32 keys",
        )
        for keys in (-1, 0, MAX_KEYS + 1)
    },
    "a rotation of what is not there": (new(), lambda d: d.rotated("x", NOW), NotFound, "no such keyset"),
    "a rotation while reverting": (
        rotated().reverted("default"),
        lambda d: d.rotated("default", NOW),
        InUse,
        "default is being reverted",
    ),
    "one generation too many": (WIDE, lambda d: d.rotated("default", NOW), InUse, "13 generations, which is too many"),
    "one generation too many, of a container": (
        WIDE.with_keyset("x", NOW),
        lambda d: d.assigned("secrets/x/", "x"),
        InUse,
        "13 generations, which is too many",
    ),
    "a reversal to nothing": (new(), lambda d: d.reverted("default"), Invalid, "no older generation"),
    "a reversal to what is retired": (
        rotated().without_generation("default.1"),
        lambda d: d.reverted("default"),
        Invalid,
        "no older generation",
    ),
    "a reversal of what is not there": (new(), lambda d: d.reverted("x"), NotFound, "no such keyset"),
    "settling what is not there": (new(), lambda d: d.settled("x"), NotFound, "no such keyset"),
    "leaving what is not there": (new(), lambda d: d.left_as_it_is("x"), NotFound, "no such keyset"),
    "retiring the active generation": (rotated(), lambda d: d.without_generation("default.2"), InUse, "rotate first"),
    "retiring the generation gone back to": (
        rotated().reverted("default"),
        lambda d: d.without_generation("default.1"),
        InUse,
        "rotate first",
    ),
    "retiring what a backup needs": (
        BACKED_UP,
        lambda d: d.without_generation("default.1"),
        InUse,
        "needed to read a registered backup: backup monday",
    ),
    "retiring twice": (
        rotated().without_generation("default.1"),
        lambda d: d.without_generation("default.1"),
        NotFound,
        "no such generation",
    ),
    **{
        f"retiring {generation!r}": (rotated(), retire(generation), NotFound, "no such generation")
        for generation in ("", "default", "default.3", "default.1.1", "default.01", "default. 1", "x.1", "root.1", "1")
    },
    "removing default": (new(), lambda d: d.without_keyset("default"), InUse, "protected"),
    "removing access": (new(), lambda d: d.without_keyset("access"), InUse, "protected"),
    "removing what is not there": (new(), lambda d: d.without_keyset("x"), NotFound, "no such keyset"),
    "removing what a container is assigned to": (
        hosted(),
        lambda d: d.without_keyset("hosts"),
        InUse,
        "in use: secrets/hosts/",
    ),
    "removing what a container was assigned to": (
        hosted().assigned("secrets/hosts/", "default"),
        lambda d: d.without_keyset("hosts"),
        InUse,
        "in use: secrets/hosts/",
    ),
    "removing what a backup needs": (
        new().with_keyset("x", NOW).with_backup("monday", NOW),
        lambda d: d.without_keyset("x"),
        InUse,
        "in use: backup monday",
    ),
    "assigning to what is not there": (new(), lambda d: d.assigned("secrets/a/", "x"), NotFound, "no such keyset"),
    **{
        f"assigning {container!r}": (
            new(),
            assign(container),
            Invalid,
            "",
        )
        for container in (
            "",
            "/",
            "secrets",
            "secrets/a",
            "hosts/",
            "system/access/",
            "secrets/../",
            "secrets//a/",
            "a b/",
        )
    },
    "a backup that is there": (BACKED_UP, lambda d: d.with_backup("monday", NOW), Exists, "registered"),
    **{
        f"a backup labelled {label[:3]!r}": (new(), back_up(label), Invalid, "label")
        for label in ("", "a\nb", "\x1b[1m", "l" * 129)
    },
    "forgetting what is not there": (new(), lambda d: d.without_backup("monday"), NotFound, "no backup"),
}


@pytest.mark.parametrize(("before", "change", "error", "text"), REFUSED.values(), ids=REFUSED)
def test_refusals(before: Document, change: Act, error: type[ServiceError], text: str) -> None:
    """Each refusal says why, and who is in the way."""
    with pytest.raises(error) as caught:
        change(before)

    assert type(caught.value) is error
    holders = getattr(caught.value, "holders", ())
    assert text in f"{caught.value}: {', '.join(holders)}"


def test_an_error_names_what_is_in_the_way() -> None:
    """Whoever is refused for old generations is told which ones to re-encrypt and retire."""
    with pytest.raises(InUse) as caught:
        WIDE.rotated("default", NOW)

    assert caught.value.holders == tuple(f"default.{number}" for number in range(1, MAX_GENERATIONS + 1))


# A kid means one key for ever.


def test_no_kid_ever_means_two_keys() -> None:
    """Through any history of rotations, reversals, removals and keysets made anew, a kid names the same 64 bytes."""
    chosen = random.Random(7)
    for _ in range(60):
        document = new()
        keys: dict[str, bytes] = {}
        for _ in range(60):
            name = chosen.choice(["default", "access", "x", "y"])
            acts: list[Callable[[Document, str], Document]] = [
                lambda d, name: d.rotated(name, NOW),
                lambda d, name: d.rotated(name, NOW, chosen.choice([1, 3])),
                lambda d, name: d.with_keyset(name, NOW, chosen.choice([1, 2])),
                lambda d, name: d.reverted(name),
                lambda d, name: d.settled(name),
                lambda d, name: d.without_keyset(name),
                lambda d, name: d.assigned(f"secrets/{chosen.choice('ab')}/", name),
                lambda d, name: d.without_generation(chosen.choice(d.generations)),
            ]
            try:
                document = chosen.choice(acts)(document, name)
            except ServiceError:
                continue
            document = Document.decode(document.encode())
            for keyset in document.keysets.values():
                assert keyset.active in {generation.number for generation in keyset.generations}
            ring = document.ring()
            for kid in ring.kids:
                key = ring.everywhere.get(kid)
                assert key is not None
                assert keys.setdefault(kid, key.reveal()) == key.reveal(), kid
        assert len(set(keys.values())) == len(keys)


# What is no document.


def edited(edit: Callable[[Any], None], document: Document | None = None) -> bytes:
    """Return the JSON of a document after *edit*."""
    members = json.loads((document or rotated()).encode())
    edit(members)
    return json.dumps(members).encode()


def _default(members: Any) -> Any:
    return members["keysets"]["default"]


KEY: Final = base64.b64encode(CANARY).decode()

WRONG: Final[dict[str, tuple[bytes, type[StrongroomError], str]]] = {
    "nothing": (b"", KeyringDamaged, "invalid"),
    "no JSON": (CANARY, KeyringDamaged, "invalid"),
    "no object": (b"[]", KeyringDamaged, "invalid"),
    "cut": (new().encode()[:-1], KeyringDamaged, "invalid"),
    "no format": (edited(lambda m: m.pop("format")), KeyringDamaged, "invalid"),
    "a format that is no number": (edited(lambda m: m.update(format="2")), KeyringDamaged, "invalid"),
    "a later format": (b'{"format":2,"seed":"of another kind"}', ConfigurationError, "format 2"),
    "a member of a later version": (edited(lambda m: m.update(policy=KEY)), KeyringDamaged, "invalid"),
    "a member of a keyset's": (edited(lambda m: _default(m).update(policy=KEY)), KeyringDamaged, "invalid"),
    "no keysets": (edited(lambda m: m.pop("keysets")), KeyringDamaged, "invalid"),
    "no numbers": (edited(lambda m: m.pop("numbers")), KeyringDamaged, "invalid"),
    "no default keyset": (edited(lambda m: m["keysets"].pop("default")), KeyringDamaged, "invalid"),
    "no keyset for a place": (edited(lambda m: m["keysets"].pop("access")), KeyringDamaged, "invalid"),
    "a place of nobody's": (
        edited(lambda m: m["places"].update({"secrets/a/": {"keyset": "x", "before": []}})),
        KeyringDamaged,
        "invalid",
    ),
    "a place after nobody": (
        edited(lambda m: m["places"].update({"secrets/a/": {"keyset": "default", "before": ["x"]}})),
        KeyringDamaged,
        "invalid",
    ),
    "an active generation that is not there": (
        edited(lambda m: _default(m).update(active=3)),
        KeyringDamaged,
        "invalid",
    ),
    "a keyset without generations": (edited(lambda m: _default(m).update(generations=[])), KeyringDamaged, "invalid"),
    "a number that was never given": (edited(lambda m: m["numbers"].update(default=1)), KeyringDamaged, "invalid"),
    "a keyset that never had a number": (edited(lambda m: m["numbers"].pop("default")), KeyringDamaged, "invalid"),
    "one kid for two keys": (
        edited(lambda m: _default(m)["generations"][1].update(number=1)),
        KeyringDamaged,
        "invalid",
    ),
    "a generation with number 0": (
        edited(lambda m: _default(m)["generations"][0].update(number=0)),
        KeyringDamaged,
        "invalid",
    ),
    "a key too short": (
        edited(lambda m: _default(m)["generations"][0].update(keys=[KEY[:40]])),
        KeyringDamaged,
        "invalid",
    ),
    "a key that is no base64": (
        edited(lambda m: _default(m)["generations"][0].update(keys=["*" + KEY])),
        KeyringDamaged,
        "is invalid",
    ),
    "a keyset whose name is none": (
        edited(lambda m: m["keysets"].update({"X": _default(m)})),
        KeyringDamaged,
        "is invalid",
    ),
}


@pytest.mark.parametrize(("text", "error", "said"), WRONG.values(), ids=WRONG)
def test_what_is_no_document(text: bytes, error: type[StrongroomError], said: str) -> None:
    """What opens but contradicts itself is refused, without a word of it; a later format is told from damage."""
    with pytest.raises(error, match=said) as caught:
        Document.decode(text)

    told = "".join(traceback.format_exception(caught.value))
    assert CANARY.decode() not in told
    assert KEY[:40] not in told


def test_nothing_shows_a_key() -> None:
    """No repr of a document or of a part of it, and no refusal, shows the bits of a key in any spelling."""
    document = Document.new(NOW, 2, lambda size: CANARY[: size - 1] + b"!").with_backup("b", NOW)
    told = [repr(part) for part in (document, *document.keysets.values(), document.keysets["default"].generations[0])]
    told += [repr(document.keysets["default"].generations), str(document)]
    for _, change, _, _ in REFUSED.values():
        try:
            change(document)
        except ServiceError as error:
            told.append("".join(traceback.format_exception(error)))

    text = "\n".join(told)
    assert "<Generation 1 of 2026-11-22T09:30:00Z, 2 keys>" in text
    for spelling in (CANARY.decode(), CANARY.hex(), KEY[:40]):
        assert spelling not in text

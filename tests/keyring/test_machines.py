"""The documents of machines: who opens what, who may authorize, and what the store can do about it: nothing."""

import json
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import pytest

from strongroom.models.names import MACHINE_FLAGS
from strongroom.storage_service.errors import (
    ConfigurationError,
    Internal,
    Invalid,
    KeyringDamaged,
    NotFound,
    StrongroomError,
    WrongKey,
)
from strongroom.storage_service.jose import jwe, jwk
from strongroom.storage_service.keyring.machines import document as machines
from strongroom.storage_service.keyring.machines import key as machine_key
from strongroom.storage_service.keyring.machines.document import (
    FlagTampered,
    MachineDocument,
    Row,
    find,
    listed,
    read_flag,
    seal_flag,
)
from strongroom.storage_service.keyring.machines.key import Kind, MachineKey
from strongroom.storage_service.keyring.rootkey import RootKey
from tests.keyring.machine_keys import NEXT_ROOT, RFC_7517, ROOT, key_of

TAMPERED: Final = "capability flag failed authentication — tampered or wrong DEK"
CREATED: Final = 1763800000  # 2025-11-22 08:26:40 UTC
A: Final = MachineKey(RFC_7517)
B: Final = key_of(Kind.EC)
KEYS: Final = {"A": A, "B": B}


def document(key: MachineKey = A, name: str = "A") -> MachineDocument:
    return MachineDocument.new(name, key.public_jwk(), CREATED)


class World:
    """Two machines, the documents that the store holds of them, and two root keys; who holds what is the story."""

    def __init__(self) -> None:
        self.documents = {"A": document(A, "A").with_root(ROOT, True), "B": document(B, "B")}

    def authorize(self, who: str, allowed: bool) -> None:
        self.documents[who] = self.documents[who].with_root(ROOT, allowed)

    def prepare(self) -> None:
        """Do what a rotation of the root key begins with."""
        self.documents = {who: each.rewrapped(ROOT, NEXT_ROOT) for who, each in self.documents.items() if each.keys}

    def drop(self) -> None:
        """Do what it ends with."""
        self.documents = {who: each.without_root(ROOT.kid) for who, each in self.documents.items()}

    def exchange(self, part: Callable[[MachineDocument], dict[str, str]]) -> None:
        """Let the store exchange a part of A's document for the same part of B's."""
        one, other = (dict(part(self.documents[who])) for who in "AB")
        part(self.documents["A"]).update(other)
        part(self.documents["B"]).update(one)

    def seen(self, who: str, root: RootKey) -> str:
        """Return what the machine finds: whether its key opens that root key, and whether it may authorize others."""
        held = self.documents[who]
        try:
            opened = "opens" if held.opened_by(KEYS[who], root.kid) == root else "opens another"
        except WrongKey:
            opened = "no wrap"
        except KeyringDamaged:
            opened = "damaged"
        try:
            return f"{opened}, {'may' if held.allowed(root) else 'may not'}"
        except FlagTampered:
            return f"{opened}, tampered"


def server(world: World) -> None:
    world.authorize("B", False)


def copied_flag(world: World) -> None:
    server(world)
    flags = world.documents["B"].meta.authorizer
    flags[ROOT.kid] = world.documents["A"].meta.authorizer[ROOT.kid]


def exchanged_wraps(world: World) -> None:
    server(world)
    world.exchange(lambda each: each.keys)


def exchanged_flags(world: World) -> None:
    server(world)
    world.exchange(lambda each: each.meta.authorizer)


def flag_gone(world: World) -> None:
    world.documents["A"].meta.authorizer.clear()


def prepared(world: World) -> None:
    server(world)
    world.prepare()


def rotated(world: World) -> None:
    prepared(world)
    world.drop()


def flag_of_the_old_root(world: World) -> None:
    prepared(world)
    flags = world.documents["B"].meta.authorizer
    flags[NEXT_ROOT.kid] = flags[ROOT.kid]


def wrap_of_the_old_root(world: World) -> None:
    prepared(world)
    wraps = world.documents["B"].keys
    wraps[NEXT_ROOT.kid] = wraps[ROOT.kid]


def planted_root(world: World) -> None:
    server(world)
    wraps = world.documents["B"].keys
    wraps[ROOT.kid] = machine_key.wrap(NEXT_ROOT, B.public_jwk())


def authorized_again(world: World) -> None:
    server(world)
    world.authorize("B", True)


# What happened, and then what A and B find, of the root key and of the next one.
STORIES: Final[Mapping[str, tuple[Callable[[World], object], str, str, str, str]]] = {
    "A is the first": (
        lambda world: None,
        *("opens, may", "no wrap, may not"),
        *("no wrap, may not", "no wrap, may not"),
    ),
    "A authorizes B as a server": (
        server,
        *("opens, may", "no wrap, may not"),
        *("opens, may not", "no wrap, may not"),
    ),
    "B is authorized again, to authorize": (
        authorized_again,
        *("opens, may", "no wrap, may not"),
        *("opens, may", "no wrap, may not"),
    ),
    "B copies A's flag": (
        copied_flag,
        *("opens, may", "no wrap, may not"),
        *("opens, tampered", "no wrap, may not"),
    ),
    "the store exchanges their flags": (
        exchanged_flags,
        *("opens, tampered", "no wrap, may not"),
        *("opens, tampered", "no wrap, may not"),
    ),
    "the store exchanges their wraps": (
        exchanged_wraps,
        *("damaged, may", "no wrap, may not"),
        *("damaged, may not", "no wrap, may not"),
    ),
    "the store takes A's flag away": (
        flag_gone,
        *("opens, may not", "no wrap, may not"),
        *("no wrap, may not", "no wrap, may not"),
    ),
    "the store wraps a root key of its own for B": (
        planted_root,
        *("opens, may", "no wrap, may not"),
        *("damaged, may not", "no wrap, may not"),
    ),
    "a rotation of the root key is prepared": (
        prepared,
        *("opens, may", "opens, may"),
        *("opens, may not", "opens, may not"),
    ),
    "the root key was rotated": (
        rotated,
        *("no wrap, may not", "opens, may"),
        *("no wrap, may not", "opens, may not"),
    ),
    "a flag of the old root key stands for the new one's": (
        flag_of_the_old_root,
        *("opens, may", "opens, may"),
        *("opens, may not", "opens, tampered"),
    ),
    "a wrap of the old root key stands for the new one's": (
        wrap_of_the_old_root,
        *("opens, may", "opens, may"),
        *("opens, may not", "damaged, may not"),
    ),
}


@pytest.mark.parametrize(("happens", "a_old", "a_new", "b_old", "b_new"), STORIES.values(), ids=STORIES)
def test_stories(happens: Callable[[World], object], a_old: str, a_new: str, b_old: str, b_new: str) -> None:
    """Each machine opens what it was given, and may authorize if a holder of the root key said so of it."""
    world = World()

    happens(world)

    found = {f"{who}, {root.kid}": world.seen(who, root) for who in "AB" for root in (ROOT, NEXT_ROOT)}
    assert list(found.values()) == [a_old, a_new, b_old, b_new]


def test_another_machines_key_opens_nothing() -> None:
    """With its own key, a machine opens its own document and no other."""
    held = document(A).with_root(ROOT, True)

    with pytest.raises(WrongKey, match="not authorized"):
        held.opened_by(B, ROOT.kid)


@pytest.mark.parametrize("kind", Kind)
def test_documents_of_every_kind_of_key(kind: Kind) -> None:
    """A document comes back from its text as it was, small, and with a date that people can read."""
    key = key_of(kind)
    held = document(key).with_root(ROOT, False).with_root(NEXT_ROOT, False)

    raw = held.encode()

    assert MachineDocument.decode(raw, key.fingerprint) == held
    assert len(raw) < machines.MAX_DOCUMENT / 8
    assert held.created() == "2025-11-22 08:26:40"
    assert json.loads(raw).keys() == {"_id", "format", "keys", "meta", "name", "public"}
    assert held.opened_by(key, NEXT_ROOT.kid) == NEXT_ROOT


def test_changes_leave_the_document_as_it_is() -> None:
    """Every change makes another document."""
    first = document()
    before = first.encode()

    first.with_root(ROOT, True).rewrapped(ROOT, NEXT_ROOT).without_root(ROOT.kid)

    assert first.encode() == before


# A rotation gives the new root key to nobody whom a holder of the old one did not authorize.


def planted() -> MachineDocument:
    """Return a document as the store can make one, of a key pair of its own."""
    return document(B, "B")


def planted_with_a_flag() -> MachineDocument:
    """Return the same with A's flag in it."""
    held = document(A).with_root(ROOT, True)
    return msgspec.structs.replace(planted(), meta=held.meta)


def planted_under_another_root() -> MachineDocument:
    """Return the same with a flag under a root key of the store's own."""
    own = document(B, "B").with_root(NEXT_ROOT, True)
    return msgspec.structs.replace(
        own, meta=machines.Meta(authorizer={ROOT.kid: own.meta.authorizer[NEXT_ROOT.kid]}, created_at=0)
    )


@pytest.mark.parametrize("make", [planted, planted_with_a_flag, planted_under_another_root])
def test_no_root_key_for_planted_documents(make: Callable[[], MachineDocument]) -> None:
    """A rotation refuses a document without a flag that opens: it may be one that the store has planted."""
    with pytest.raises(FlagTampered):
        make().rewrapped(ROOT, NEXT_ROOT)


def test_an_exchanged_public_key_is_noticed() -> None:
    """The fingerprint, to which the flag is bound, is that of the public key, or the document is refused."""
    held = json.loads(document(A).with_root(ROOT, True).encode()) | {"public": B.public_jwk()}

    with pytest.raises(KeyringDamaged, match="another machine's public key"):
        MachineDocument.decode(json.dumps(held).encode(), A.fingerprint)


# Flags.


@pytest.mark.parametrize("allowed", [True, False])
def test_a_flag_says_what_was_sealed(allowed: bool) -> None:
    """A flag opens for its machine under its root key, and says yes or no."""
    assert read_flag(ROOT, A.fingerprint, seal_flag(ROOT, A.fingerprint, allowed)) is allowed


def test_flags_that_do_not_open() -> None:
    """A flag of another machine, of another root key, cut, changed at any place, or none at all, is tampered with."""
    flag = seal_flag(ROOT, A.fingerprint, True)
    changed = [flag[:place] + ("A" if flag[place] != "A" else "B") + flag[place + 1 :] for place in range(len(flag))]
    others = [seal_flag(NEXT_ROOT, A.fingerprint, True), seal_flag(ROOT, B.fingerprint, True)]

    for text in (*changed, *others, *(flag[:cut] for cut in range(len(flag))), flag + "A", "Ä", "\udc80"):
        with pytest.raises(FlagTampered) as caught:
            read_flag(ROOT, A.fingerprint, text)
        assert str(caught.value) == TAMPERED
        assert isinstance(caught.value, Internal)
        assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "plain",
    [
        *(b"", b"hunter2", b"true", b"1", b"[]", b"null", b"{}", b'"allowed"', b"\xff", b'{"allowed":true}{}'),
        *(b'{"allowed":1}', b'{"allowed":"true"}', b'{"allowed":null}', b'{"allowed":{}}', b'{"Allowed":true}'),
        *(b'{"allowed":true,"allowed":true}', b'{"allowed":true,"until":0}', b'[{"allowed":true}]'),
    ],
)
def test_an_unclear_flag_is_a_no(plain: bytes) -> None:
    """A flag that opens, but says anything else than yes or no, says no."""
    flag = jwe.encrypt(ROOT, MACHINE_FLAGS + A.fingerprint, plain).decode()

    assert read_flag(ROOT, A.fingerprint, flag) is False


# What is a document.


def members(**changed: object) -> dict[str, Any]:
    """Return the members of A's document, with some *changed*, and those that are None left out."""
    said = json.loads(document(A).with_root(ROOT, True).encode()) | changed
    return {name: member for name, member in said.items() if member is not None}


META: Final = members()["meta"]
DAMAGED: Final[Mapping[str, object]] = {
    "empty": b"",
    "no JSON": b"hunter2",
    "half of it": json.dumps(members()).encode()[:200],
    "not UTF-8": b'{"_id":"\xff"}',
    "a member twice": json.dumps(members()).encode()[:-1] + b',"format":1}',
    "nested without end": b"[" * 1000,
    "too large": json.dumps(members()).encode() + b" " * machines.MAX_DOCUMENT,
    "a list": [],
    "null": None,
    "nothing": {},
    "another machine's": json.loads(document(B, "B").encode()),
    "a fingerprint that is none": members(_id="x"),
    "a fingerprint that is no text": members(_id=5),
    "no wraps": members(keys="hunter2"),
    "a wrap of nothing known": members(keys={"default.1": "x"}),
    "a flag of nothing known": members(meta=META | {"authorizer": {"default.1": "x"}}),
    "a wrap that is no text": members(keys={ROOT.kid: 5}),
    "no meta": members(meta=None),
    "meta a list": members(meta=[]),
    "a date that is a text": members(meta=META | {"created_at": "2025"}),
    "a date that is a fraction": members(meta=META | {"created_at": 0.5}),
    "a date that is true": members(meta=META | {"created_at": True}),
    "a date before all dates": members(meta=META | {"created_at": -1}),
    "more to say": members(color="mauve"),
    "more to say inside": members(meta=META | {"color": "mauve"}),
    "no format": members(format=None),
    "a format that is true": members(format=True),
    "a format before the first": members(format=0),
    "no name": members(name=None),
    "a name that is none": members(name="\x1b[31mmauve"),
    "a name like a fingerprint": members(name=B.fingerprint),
    "no public key": members(public=None),
    "a public key that is none": members(public={"kty": "EC"}),
    "its private key": members(public=RFC_7517),
}


def text_of(said: object) -> bytes:
    return said if isinstance(said, bytes) else json.dumps(said).encode()


@pytest.mark.parametrize("said", DAMAGED.values(), ids=DAMAGED)
def test_damaged_documents(said: object) -> None:
    """Whatever is not a document of that machine is refused, and nothing of it is repeated."""
    with pytest.raises(KeyringDamaged) as caught:
        MachineDocument.decode(text_of(said), A.fingerprint)

    assert str(caught.value).startswith(f"the document of the machine {A.fingerprint[:16]} is damaged: ")
    shown = "".join(traceback.format_exception(caught.value))
    assert not any(text in shown for text in ("hunter2", "mauve", RFC_7517["d"], "\x1b"))


@pytest.mark.parametrize("said", [members(format=2), members(format=2, color="mauve"), {"format": 99}])
def test_documents_of_a_later_generation(said: object) -> None:
    """A document of a later format is not guessed at, and not called damaged."""
    with pytest.raises(ConfigurationError, match="a later version wrote it; run that one"):
        MachineDocument.decode(text_of(said), A.fingerprint)


@pytest.mark.parametrize("name", ["", "-", ".a", "a b", "a/b", "ä", "a" * 65, "0123456789abcdef", "a\n", A.fingerprint])
def test_names_that_are_none(name: str) -> None:
    """A machine's name is like an API id, and cannot be taken for a fingerprint."""
    with pytest.raises(Invalid, match="a machine's name is"):
        document(A, name)


@pytest.mark.parametrize("name", ["a", "db-1", "web@example.org", "0123456789abcde", "0123456789ABCDEF", "z" * 64])
def test_names(name: str) -> None:
    """Names that people give machines are names."""
    assert MachineDocument.decode(document(A, name).encode(), A.fingerprint).name == name


def test_a_document_needs_a_public_key() -> None:
    """A private key, or none, is no machine's public key."""
    for public in ({}, RFC_7517):
        with pytest.raises(Invalid, match="that is not a machine's public key"):
            MachineDocument.new("A", public, CREATED)


# Listing.


def flagged(flag: object) -> dict[str, Any]:
    return members(meta=META | {"authorizer": {ROOT.kid: flag}})


NONE: Final = "is not of the accepted form"
LISTED: Final[Mapping[str, tuple[object, tuple[str, str, str], str]]] = {
    "as it should be": (members(), ("A", "Yes", "2025-11-22 08:26:40"), ""),
    "a server": (flagged(seal_flag(ROOT, A.fingerprint, False)), ("A", "No", "2025-11-22 08:26:40"), ""),
    "a flag of another machine": (
        flagged(seal_flag(ROOT, B.fingerprint, True)),
        ("A", "?", "2025-11-22 08:26:40"),
        TAMPERED,
    ),
    "a flag under another root key": (
        flagged(seal_flag(NEXT_ROOT, A.fingerprint, True)),
        ("A", "?", "2025-11-22 08:26:40"),
        TAMPERED,
    ),
    "a flag that is no text": (flagged(5), ("A", "?", "2025-11-22 08:26:40"), NONE),
    "no flag": (
        members(meta={"created_at": CREATED}),
        ("A", "?", "2025-11-22 08:26:40"),
        "it has no flag under this root key",
    ),
    "no wraps": (members(keys=None), ("A", "Yes", "2025-11-22 08:26:40"), ""),
    "wraps that are none": (members(keys=[]), ("A", "Yes", "2025-11-22 08:26:40"), NONE),
    "no meta": (members(meta=None), ("A", "?", "-"), NONE),
    "meta a list": (members(meta=[]), ("A", "?", "-"), NONE),
    "no date": (members(meta={"authorizer": META["authorizer"]}), ("A", "Yes", "-"), NONE),
    "a date that is a text": (members(meta=META | {"created_at": "soon"}), ("A", "Yes", "-"), NONE),
    "a date that is a list": (members(meta=META | {"created_at": [1]}), ("A", "Yes", "-"), NONE),
    "a date beyond all years": (members(meta=META | {"created_at": 10**12}), ("A", "Yes", "-"), NONE),
    "a date beyond all clocks": (members(meta=META | {"created_at": 10**18}), ("A", "Yes", "-"), NONE),
    "a date beyond all numbers": (members(meta=META | {"created_at": 10**40}), ("-", "?", "-"), NONE),
    "a date of long ago": (
        members(meta=META | {"created_at": -62135596800}),
        ("A", "Yes", "0001-01-01 00:00:00"),
        NONE,
    ),
    "a name for the terminal": (members(name="\x1b[31mmauve"), ("-", "Yes", "2025-11-22 08:26:40"), NONE),
    "no name": (members(name=None), ("-", "Yes", "2025-11-22 08:26:40"), NONE),
    "another's public key": (
        members(public=B.public_jwk()),
        ("A", "Yes", "2025-11-22 08:26:40"),
        "it has another machine's public key",
    ),
    "another's document": (
        json.loads(document(B, "B").with_root(ROOT, True).encode()),
        ("B", "?", "2025-11-22 08:26:40"),
        TAMPERED,
    ),
    "of a later version": (members(format=2), ("A", "Yes", "2025-11-22 08:26:40"), "a later version wrote it"),
    "no JSON": (b"hunter2", ("-", "?", "-"), NONE),
    "a list": ([], ("-", "?", "-"), NONE),
    "nested without end": (b"[" * 5000, ("-", "?", "-"), NONE),
    "too large": (b" " * machines.MAX_DOCUMENT + text_of(members()), ("-", "?", "-"), NONE),
    "half a character": (members(name="\ud800"), ("-", "?", "-"), NONE),
    "half a character for a flag": (flagged("\ud800"), ("-", "?", "-"), NONE),
}


@pytest.mark.parametrize(("said", "shown", "why"), LISTED.values(), ids=LISTED)
def test_every_document_is_listed(said: object, shown: tuple[str, str, str], why: str) -> None:
    """Whatever is wrong with a document, there is a row for it, which says what can be told, and what is wrong."""
    row = listed(text_of(said), ROOT, A.fingerprint)

    assert (row.name, row.authority, row.created) == shown
    assert row.fingerprint == A.fingerprint
    assert why in row.why
    assert bool(why) == bool(row.why)
    assert not any(text in repr(row) for text in ("hunter2", "mauve", "\\x1b", RFC_7517["d"]))


@pytest.mark.parametrize("said", DAMAGED.values(), ids=DAMAGED)
def test_listing_never_raises(said: object) -> None:
    """Every damaged document has a row, with root key and without, and wherever it was found."""
    for root in (None, ROOT, NEXT_ROOT):
        assert listed(text_of(said), root, A.fingerprint).why
        assert listed(text_of(said), root, "row 3").fingerprint == "row 3"
        assert listed(text_of(said), root).fingerprint


def test_listing_while_locked() -> None:
    """Without the root key nobody's authority can be told, and all else can."""
    row = listed(text_of(members()))

    assert row == Row(A.fingerprint, "A", "?", "2025-11-22 08:26:40")


def test_listing_with_a_wiped_root_key() -> None:
    """A root key that was dropped meanwhile reads no flag, and the row is there."""
    root = RootKey(ROOT.reveal())
    root.wipe()

    assert listed(text_of(members()), root).authority == "?"


# Finding.


FOUND: Final = [
    Row("aa" * 32, "web", "Yes", "-"),
    Row("ab" + "aa" * 31, "db", "No", "-"),
    Row("ab" + "ab" * 31, "abc", "No", "-"),
    Row("cc" * 32, "twin", "No", "-"),
    Row("cd" * 32, "twin", "No", "-"),
    Row("row 3", "-", "?", "-"),
    Row("row 33", "-", "?", "-"),
]


@pytest.mark.parametrize(
    ("wanted", "place"),
    [
        *(("web", 0), ("db", 1), ("abc", 2), ("a" * 8, 0), ("A" * 8, 0), ("cd" * 32, 4)),
        *(("ab" + "a" * 6, 1), ("abababab", 2), ("c" * 8, 3)),
        *(("row 3", 5), ("row 33", 6)),
    ],
)
def test_machines_are_found(wanted: str, place: int) -> None:
    """A machine is found by its name, or else by the beginning of its fingerprint."""
    assert find(FOUND, wanted) is FOUND[place]


NOT_FOUND: Final[Mapping[str, tuple[str, type[StrongroomError], str]]] = {
    "nothing": ("", Invalid, "fingerprint prefix must not be empty"),
    "a prefix of two": (
        "ab",
        Invalid,
        "fingerprint prefix 'ab' is ambiguous; matches: abaaaaaaaaaaaaaa, abababababababab",
    ),
    "a prefix too short": (
        "aa",
        NotFound,
        (
            "no machine is called 'aa', and it is too short for a fingerprint prefix; if this one is meant, give 8"
            " characters or more: aaaaaaaaaaaaaaaa"
        ),
    ),
    "a prefix of none": ("ff", NotFound, "no machine has that name, or a fingerprint that begins so"),
    "a name of none": ("\x1b[31m", NotFound, "no machine has that name, or a fingerprint that begins so"),
    "a name of two": (
        "twin",
        Invalid,
        "several machines have that name; give the fingerprint of one: cccccccccccccccc, cdcdcdcdcdcdcdcd",
    ),
    "the sign for no name": ("-", NotFound, "no machine has that name, or a fingerprint that begins so"),
    "a name in other letters": ("WEB", NotFound, "no machine has that name, or a fingerprint that begins so"),
}


@pytest.mark.parametrize(("wanted", "error", "text"), NOT_FOUND.values(), ids=NOT_FOUND)
def test_machines_are_not_guessed(wanted: str, error: type[StrongroomError], text: str) -> None:
    """What means no machine, or more than one, is refused with the choice there is."""
    with pytest.raises(error) as caught:
        find(FOUND, wanted)

    assert str(caught.value) == text


def test_documents_are_found_too() -> None:
    """Documents are looked for as rows are."""
    assert find([document(A, "A"), document(B, "B")], B.fingerprint[:8]).name == "B"


# What is never shown.


def test_no_secret_is_shown() -> None:
    """Neither a private key nor the root key stands in a document, a repr, a row, or what any refusal tells."""
    held = document(A).with_root(ROOT, True)
    shown = [
        held.encode().decode(),
        repr(held),
        repr(held.meta),
        repr(listed(held.encode(), ROOT)),
        repr(A),
        repr(ROOT),
    ]
    refusals: list[Callable[[], object]] = [
        lambda: held.opened_by(B, ROOT.kid),
        lambda: held.opened_by(A, NEXT_ROOT.kid),
        lambda: msgspec.structs.replace(held, keys={ROOT.kid: "x"}).opened_by(A, ROOT.kid),
        lambda: msgspec.structs.replace(
            held, keys={NEXT_ROOT.kid: machine_key.wrap(ROOT, A.public_jwk()), ROOT.kid: ""}
        ).opened_by(A, NEXT_ROOT.kid),
        lambda: held.rewrapped(NEXT_ROOT, ROOT),
        lambda: read_flag(NEXT_ROOT, A.fingerprint, held.meta.authorizer[ROOT.kid]),
        lambda: MachineDocument.decode(text_of(members(public=RFC_7517)), A.fingerprint),
        lambda: MachineDocument.new("A", RFC_7517, CREATED),
        lambda: find([held], "x"),
    ]
    for refusal in refusals:
        with pytest.raises(StrongroomError) as caught:
            refusal()
        shown += [repr(caught.value), "".join(traceback.TracebackException.from_exception(caught.value).format())]

    octets = ROOT.reveal()
    secrets = (RFC_7517["d"], json.loads(jwk.encode(octets))["k"], octets.hex(), repr(octets)[2:-1])
    assert not [text for text in shown for secret in secrets if secret in text]

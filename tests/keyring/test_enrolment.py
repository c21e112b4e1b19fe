"""Machines that authorize each other on the store itself: who may, what is refused, and what is left by the killed."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from strongroom.models.names import KEYRING_DOCUMENT, MACHINES
from strongroom.models.steps import Step
from strongroom.storage_service.access.base import Action
from strongroom.storage_service.backends.base import Backend, Change, Delete, Entry, Put
from strongroom.storage_service.backends.faulty import Fault, FaultyBackend, Killed
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import (
    AuditUnavailable,
    Denied,
    Exists,
    Fate,
    InUse,
    Invalid,
    KeyFileUnusable,
    KeyringDamaged,
    NotFound,
    Overtaken,
    StrongroomError,
    Unavailable,
    Uninitialized,
    WrongKey,
    WrongRootKey,
)
from strongroom.storage_service.jose.key import Key
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.ceremonies import rotation
from strongroom.storage_service.keyring.ceremonies.enrolment import Enrolment, unexpected
from strongroom.storage_service.keyring.ceremonies.recipients import Recipients
from strongroom.storage_service.keyring.holder import Holder
from strongroom.storage_service.keyring.machines import key as machine_key
from strongroom.storage_service.keyring.machines.document import FlagTampered, MachineDocument, Row
from strongroom.storage_service.keyring.machines.key import MachineKey
from strongroom.storage_service.keyring.machines.stored import FileDocuments, MachineDocuments, documents_in
from strongroom.storage_service.keyring.opening import wraps
from strongroom.storage_service.keyring.opening.unattended import MachineKeyFile
from strongroom.storage_service.keyring.overlay import EncryptedBackend
from strongroom.storage_service.keyring.rootkey import RootKey
from strongroom.storage_service.keyring.shared_root import SharedRoot, State
from strongroom.storage_service.keyring.stored import Sealed
from tests.keyring import story
from tests.keyring.story import Stores

ROOT: Final = RootKey(story.BITS)
NOW: Final = 1763800000
KINDS: Final = ("in the store", "in a file")
FAULTS: Final = (Fault.DIE_BEFORE, Fault.DIE_AFTER, Fault.BEFORE, Fault.LOST, Fault.AFTER)


@cache
def machine(name: str) -> MachineKey:
    """Return the key pair of the machine of that name; every name has one."""
    del name
    return machine_key.make()


A, B, C = map(machine, ("a", "b", "c"))


@dataclass
class Site:
    """A store, and where the documents of its machines lie."""

    store: Backend
    file: Path | None  # None: in the store
    records: list[tuple[str, str, str, str]] = field(default_factory=list)

    @property
    def documents(self) -> MachineDocuments:
        return documents_in(self.store, self.file)

    def on(self, key: MachineKey) -> Enrolment:
        """Return the commands as they are given on the machine with that key."""
        return Enrolment(self.store, self.documents, key, self.record, lambda: NOW)

    async def record(self, principal: str, action: Action, name: str, decision: str) -> None:
        self.records.append((principal, action, name.removeprefix(MACHINES), decision))

    async def open(self, sealed: Sealed) -> RootKey:
        """Open the keyring as somebody does who knows the root key of all stories."""
        assert sealed.root == ROOT.kid
        return RootKey(story.BITS)

    async def initialized(self) -> "Site":
        """Have A be the first authorizer, of a keyring that nobody else opens."""
        await self.on(A).initialize("a", refuse)
        return self

    async def everything(self) -> dict[str, Entry | bytes]:
        """Return all that is stored."""
        names = await story.names(self.store, "")
        there: dict[str, Entry | bytes] = dict(await self.store.get_many(names)) if names else {}
        return there | ({"file": self.file.read_bytes()} if self.file is not None and self.file.exists() else {})

    async def plant(self, document: MachineDocument) -> None:
        """Put a document where documents lie, past all rules."""
        await self.documents.save(document)

    async def held(self, key: MachineKey) -> MachineDocument:
        entry = await self.documents.get(key.fingerprint)
        assert entry is not None
        return MachineDocument.decode(entry.value, key.fingerprint)


async def refuse(_: Sealed) -> RootKey:
    raise AssertionError("nobody was to be asked")


def site_of(kind: str, store: Backend, directory: Path) -> Site:
    return Site(store, directory / "machines.json" if kind == "in a file" else None)


@pytest.fixture(params=KINDS)
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    """An unused store in memory, with documents in it or in a file."""
    async with in_memory() as store:
        yield site_of(request.param, store, tmp_path)


@asynccontextmanager
async def service(site: Site, key: MachineKey, directory: Path) -> AsyncIterator[tuple[Holder, Backend]]:
    """Give a service on the machine with that key, which has no other way to the keyring and makes none."""
    path = directory / f"{key.fingerprint[:8]}.key"
    if not path.exists():
        machine_key.write_private(path, key)
    shared = SharedRoot()
    holder = Holder(site.store, shared, [MachineKeyFile(path, site.documents)])
    try:
        await holder.open()
        yield holder, EncryptedBackend(site.store, holder)
    finally:
        await holder.close()
        shared.close()


# The first machine


@pytest.mark.parametrize("kind", KINDS)
async def test_the_first_machine_makes_the_keyring(kind: str, store: Backend, tmp_path: Path) -> None:
    """On an unused store the first machine becomes an authorizer and its service starts unlocked, secrets and all."""
    site = await site_of(kind, store, tmp_path).initialized()

    said = await site.on(A).verify()
    assert (said.fingerprint, said.name, said.authorizer) == (A.fingerprint, "a", True)
    async with service(site, A, tmp_path) as (holder, secrets):
        assert holder.state is State.UNLOCKED
        await story.put_all(secrets, story.VALUES)
    async with service(site, A, tmp_path) as (_, secrets):
        assert await story.read_all(secrets) == story.VALUES


@pytest.mark.parametrize("kind", KINDS)
async def test_the_first_machine_joins_a_keyring(kind: str, store: Backend, tmp_path: Path) -> None:
    """Where there is a keyring, the first machine is let in by another way, and reads what was written before it."""
    await story.initialize(store)
    async with story.opened(store) as worker:
        await story.put_all(worker.secrets, story.VALUES)
    site = site_of(kind, store, tmp_path)

    await site.on(A).initialize("a", site.open)

    assert (await site.on(A).verify()).root == ROOT.kid
    async with service(site, A, tmp_path) as (_, secrets):
        assert await story.read_all(secrets) == story.VALUES


@pytest.mark.parametrize("again", [A, B], ids=["the same", "another"])
async def test_there_is_one_first_machine(site: Site, again: MachineKey) -> None:
    """A second `init` is refused, on whichever machine, and changes nothing."""
    await site.initialized()
    before = await site.everything()

    with pytest.raises(Exists) as error:
        await site.on(again).initialize("b", refuse)

    assert str(error.value) == "already initialized"
    assert error.value.next == (Step("to see existing keys", "machine list"),)
    assert await site.everything() == before


async def test_machines_of_another_root_key_are_machines(site: Site) -> None:
    """What a killed `init` left is replaced by the same machine; with any other beside it, it is no such thing."""
    await story.initialize(site.store)
    old = RootKey(bytes(64))
    await site.plant(MachineDocument.new("a", A.public_jwk(), NOW).with_root(old, True))
    await site.plant(MachineDocument.new("b", B.public_jwk(), NOW).with_root(old, True))

    for key in (A, B, C):
        with pytest.raises(Exists):
            await site.on(key).initialize("c", site.open)
    await site.documents.delete(B.fingerprint)
    with pytest.raises(Exists):
        await site.on(C).initialize("c", site.open)
    await site.on(A).initialize("a", site.open)

    assert (await site.on(A).verify()).root == ROOT.kid


@pytest.mark.parametrize("kind", KINDS)
async def test_two_first_machines_at_once(kind: str, stores: Stores, tmp_path: Path) -> None:
    """Of two that begin at one moment one becomes the first; the other is told, and opens nothing."""
    for number in range(5):
        async with stores() as store:
            (tmp_path / f"machines-{number}").mkdir()
            site = site_of(kind, store, tmp_path / f"machines-{number}")
            results = await asyncio.gather(
                *(site.on(key).initialize("m", refuse) for key in (A, B)), return_exceptions=True
            )

            refused = [each for each in results if not isinstance(each, MachineDocument)]
            assert [type(each) for each in refused] == [Exists]
            winner, loser = (A, B) if isinstance(results[0], MachineDocument) else (B, A)
            assert (await site.on(winner).verify()).authorizer
            with pytest.raises(WrongKey):
                await site.on(loser).verify()


async def test_whoever_does_not_open_the_keyring_is_no_machine_of_it(site: Site) -> None:
    """A root key that is not the keyring's makes nobody an authorizer."""
    await story.initialize(site.store)
    before = await site.everything()

    async def wrong(_: Sealed) -> RootKey:
        return RootKey(bytes(64))

    with pytest.raises(WrongRootKey):
        await site.on(A).initialize("a", wrong)
    assert await site.everything() == before
    assert site.records == []


# Authorizing


async def test_a_server_opens_and_authorizes_nobody(site: Site, tmp_path: Path) -> None:
    """A machine with a flag that says no starts and decrypts; what it authorizes is refused, and recorded."""
    await site.initialized()
    async with service(site, A, tmp_path) as (_, secrets):
        await story.put_all(secrets, story.VALUES)

    await site.on(A).authorize(B.public_jwk(), "b", allowed=False)

    async with service(site, B, tmp_path) as (holder, secrets):
        assert holder.state is State.UNLOCKED
        assert await story.read_all(secrets) == story.VALUES
    before = await site.everything()
    with pytest.raises(Denied, match="this machine is not an authorizer"):
        await site.on(B).authorize(C.public_jwk(), "c", allowed=True)
    assert await site.everything() == before
    assert site.records[-1] == ("machine:b", "put", C.fingerprint, "denied")


async def test_authority_is_handed_on(site: Site) -> None:
    """A machine with a flag that says yes authorizes others."""
    await site.initialized()
    await site.on(A).authorize(B.public_jwk(), "b", allowed=True)
    await site.on(B).authorize(C.public_jwk(), "c", allowed=False)

    assert [(row.name, row.authority) for row in (await site.on(C).listed()).rows] == [
        ("a", "Yes"),
        ("b", "Yes"),
        ("c", "No"),
    ]
    assert [record[:1] + record[3:] for record in site.records] == [
        ("machine:a", "allowed"),
        ("machine:a", "allowed"),
        ("machine:b", "allowed"),
        ("machine:c", "allowed"),
    ]


def flipped(document: MachineDocument) -> MachineDocument:
    [(root, flag)] = document.meta.authorizer.items()
    return with_flags(document, {root: flag[:-30] + ("A" if flag[-30] != "A" else "B") + flag[-29:]})


def with_flags(document: MachineDocument, flags: dict[str, str]) -> MachineDocument:
    return msgspec.structs.replace(document, meta=msgspec.structs.replace(document.meta, authorizer=flags))


def without_flag(document: MachineDocument) -> MachineDocument:
    return with_flags(document, {})


def without_wrap(document: MachineDocument) -> MachineDocument:
    return msgspec.structs.replace(document, keys={})


def as_it_is(document: MachineDocument) -> MachineDocument:
    return document


@pytest.mark.parametrize(
    ("own", "key", "name", "kind", "text"),
    [
        (flipped, B, "b", FlagTampered, "capability flag failed authentication — tampered or wrong DEK"),
        (without_flag, B, "b", Denied, "this machine is not an authorizer"),
        (without_wrap, B, "b", WrongKey, "this machine is not authorized for that root key"),
        (as_it_is, A, "b", Exists, "a machine with that key is there already"),
        (as_it_is, B, "a", Exists, "a machine of that name is there already"),
        (as_it_is, B, "-b", Invalid, "a machine's name is"),
        (as_it_is, B, "0" * 16, Invalid, "a machine's name is"),
    ],
)
async def test_what_is_not_authorized(
    site: Site,
    own: Callable[[MachineDocument], MachineDocument],
    key: MachineKey,
    name: str,
    kind: type[StrongroomError],
    text: str,
) -> None:
    """Without authority, or with a key or name that is taken or none, nobody is authorized, and nothing changes."""
    await site.initialized()
    await site.plant(own(await site.held(A)))
    before = await site.everything()

    with pytest.raises(kind) as error:
        await site.on(A).authorize(key.public_jwk(), name, allowed=True)

    assert text in str(error.value)
    assert await site.everything() == before


async def test_a_stranger_authorizes_nobody(site: Site) -> None:
    """A machine that nobody authorized opens nothing, before there is a keyring and after."""
    with pytest.raises(Uninitialized):
        await site.on(B).verify()
    await site.initialized()

    with pytest.raises(WrongKey, match="not authorized: carry its public key to an authorizer"):
        await site.on(B).authorize(B.public_jwk(), "b", allowed=True)


async def test_a_damaged_name_is_not_given_again(site: Site) -> None:
    """A machine whose document is damaged keeps its name as long as it can be read."""
    await site.initialized()
    await site.on(A).authorize(B.public_jwk(), "b", allowed=False)
    await site.plant(msgspec.structs.replace(await site.held(B), public=C.public_jwk()))

    with pytest.raises(Exists, match="of that name"):
        await site.on(A).authorize(C.public_jwk(), "b", allowed=False)


# Revoking


@dataclass(frozen=True)
class Revocation:
    """A story: what is said, and what becomes of it; None: the machine of that name is gone."""

    wanted: str
    error: type[StrongroomError] | None = None
    text: str = ""


TWIN: Final = B.fingerprint[:20] + "0" * 44  # of a planted document


@pytest.mark.parametrize(
    "told",
    [
        Revocation("b"),
        Revocation(B.fingerprint),
        Revocation(B.fingerprint[:24].upper()),
        Revocation("", Invalid, "fingerprint prefix must not be empty"),
        Revocation(
            B.fingerprint[:18],
            Invalid,
            f"fingerprint prefix '{B.fingerprint[:18]}' is ambiguous; matches: {TWIN[:16]}, {TWIN[:16]}",
        ),
        Revocation("nobody", NotFound, "no machine has that name"),
        Revocation("f" * 64, NotFound, "no machine has that name"),
    ],
    ids=["a name", "a fingerprint", "a prefix", "empty", "an ambiguous prefix", "nobody", "no such fingerprint"],
)
async def test_revoking(site: Site, told: Revocation, tmp_path: Path) -> None:
    """A machine is revoked by name or by the beginning of its fingerprint, if that means one; others still start."""
    await site.initialized()
    await site.on(A).authorize(B.public_jwk(), "b", allowed=False)
    twin = msgspec.structs.replace(await site.held(B), fingerprint=TWIN, name="twin")
    await site.plant(twin)
    before = await site.everything()
    asked: list[Row] = []

    if told.error is not None:
        with pytest.raises(told.error) as error:
            await site.on(A).revoke(told.wanted, asked.append)
        assert told.text in str(error.value)
        assert await site.everything() == before
        return
    row = await site.on(A).revoke(told.wanted, asked.append)

    assert [row] == asked
    assert row.name == "b"
    assert site.records[-1] == ("machine:a", "delete", B.fingerprint, "allowed")
    async with service(site, B, tmp_path) as (holder, _):
        assert holder.state is State.LOCKED
    async with service(site, A, tmp_path) as (holder, _):
        assert holder.state is State.UNLOCKED


async def test_revoking_takes_no_authority(site: Site) -> None:
    """A machine that opens nothing revokes the stolen authorizer, and is in the record by its fingerprint."""
    await site.initialized()
    await site.on(A).authorize(B.public_jwk(), "b", allowed=False)

    await site.on(C).revoke("a")

    assert site.records[-1] == (f"machine:{C.fingerprint[:16]}", "delete", A.fingerprint, "allowed")
    assert [row.name for row in (await site.on(B).listed()).rows] == ["b"]


async def rotated(site: Site, root: RootKey) -> None:
    """Give the keyring another root key, which its machines open; A confirms it."""
    made = await rotation.prepare(site.store, root, Recipients("machine"), None, site.documents)
    (await rotation.confirm(site.store, root, made.root, None, None, site.documents, A)).wipe()


async def test_a_document_that_is_put_back_opens_until_the_root_key_is_rotated(site: Site) -> None:
    """Whoever writes where documents lie takes a revocation back, but not a rotation."""
    await story.initialize(site.store)
    await site.on(A).initialize("a", site.open)
    await site.on(A).authorize(B.public_jwk(), "b", allowed=False)
    document = await site.held(B)
    await site.on(A).revoke("b")
    assert not await opens(site, B)

    await site.plant(document)
    assert await opens(site, B)

    await site.on(A).revoke("b")
    await rotated(site, ROOT)
    await site.plant(document)
    assert not await opens(site, B)


async def test_a_root_key_that_was_kept_opens_until_it_is_rotated(site: Site) -> None:
    """A machine that kept the root key opens the keyring after it was revoked, and no longer after a rotation."""
    await story.initialize(site.store)
    await site.on(A).initialize("a", site.open)
    await site.on(A).authorize(B.public_jwk(), "b", allowed=False)
    kept = (await site.held(B)).opened_by(B, ROOT.kid)
    await site.on(A).revoke("b")
    before = await stored.read(site.store)
    assert before is not None
    assert stored.open_document(before, kept).keysets

    await rotated(site, ROOT)

    after = await stored.read(site.store)
    assert after is not None
    with pytest.raises(WrongRootKey):
        stored.open_document(after, kept)


async def test_who_has_the_root_key_and_writes_the_store_is_an_authorizer(site: Site) -> None:
    """A document that was made with the root key is as good as any; only who knows whom to expect sees it."""
    await story.initialize(site.store)
    await site.on(A).initialize("a", site.open)

    await site.plant(MachineDocument.new("c", C.public_jwk(), NOW).with_root(ROOT, True))

    assert (await site.on(C).verify()).authorizer
    assert [row.name for row in unexpected((await site.on(A).listed()).rows, ["a"])] == ["c"]


async def test_what_is_not_agreed_to_is_not_done(site: Site) -> None:
    """Whoever says no when told which machine it is leaves all as it is, without a record."""
    await site.initialized()
    await site.on(A).authorize(B.public_jwk(), "b", allowed=False)
    before, records = await site.everything(), len(site.records)

    def no(_: Row) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await site.on(A).revoke("b", no)
    assert (await site.everything(), len(site.records)) == (before, records)


async def test_the_last_way_in_stays(site: Site) -> None:
    """The only machine of a keyring that nothing else opens is revoked by force alone."""
    await site.initialized()

    with pytest.raises(InUse, match="the last way into the keyring") as error:
        await site.on(A).revoke("a")
    assert error.value.holders == ("the keyring",)
    await site.on(A).revoke("a", force=True)

    assert (await site.on(A).listed()).rows == ()


@pytest.mark.parametrize("other", ["a machine", "a file", "no keyring"])
async def test_what_is_not_the_last_way_in(site: Site, other: str) -> None:
    """With another machine, or a wrap for people or a file, or nothing to open, a machine is revoked."""
    await site.initialized()
    sealed = await stored.read(site.store)
    assert sealed is not None
    if other == "a machine":
        await site.on(A).authorize(B.public_jwk(), "b", allowed=False)
    elif other == "a file":
        root = (await site.held(A)).opened_by(A, sealed.root)
        await site.store.commit([wraps.put(wraps.wrap(root, Key("file.0123456789abcdef", bytes(64)), stored.now()))])
    else:
        await site.store.commit([keyring_removal()])

    assert (await site.on(A).revoke("a")).name == "a"


def keyring_removal() -> Change:
    return Delete(KEYRING_DOCUMENT)


async def test_a_planted_row_is_no_way_in_and_can_be_removed(site: Site) -> None:
    """Rubbish among the documents neither passes for a way in nor stays for ever."""
    await site.initialized()
    await site.plant(msgspec.structs.replace(await site.held(A), fingerprint=TWIN, name="twin"))

    with pytest.raises(InUse):
        await site.on(A).revoke("a")
    await site.on(A).revoke("twin")

    assert [row.name for row in (await site.on(A).listed()).rows] == ["a"]


# Listing


async def test_one_bad_row_hides_no_other(site: Site) -> None:
    """A flipped flag, a copied one, a missing one, a bad date and a bad name are question marks and dashes in a row."""
    await site.initialized()
    keys = {name: machine(name) for name in ("flipped", "copied", "bare", "dated", "named", "sound")}
    for name, key in keys.items():
        await site.on(A).authorize(key.public_jwk(), name, allowed=False)
    own = await site.held(A)
    documents = {name: await site.held(key) for name, key in keys.items()}
    await site.plant(flipped(documents["flipped"]))
    await site.plant(with_flags(documents["copied"], dict(own.meta.authorizer)))
    await site.plant(without_flag(documents["bare"]))
    dated = documents["dated"]
    await site.plant(msgspec.structs.replace(dated, meta=msgspec.structs.replace(dated.meta, created_at=10**18)))
    await site.plant(msgspec.structs.replace(documents["named"], name="\x1b[2Jnamed"))

    listing = await site.on(A).listed()

    when = "2025-11-22 08:26:40"
    assert listing.why == ""
    assert [(row.name, row.authority, row.created, bool(row.why)) for row in listing.rows] == [
        ("-", "No", when, True),
        ("a", "Yes", when, False),
        ("bare", "?", when, True),
        ("copied", "?", when, True),
        ("dated", "No", "-", True),
        ("flipped", "?", when, True),
        ("sound", "No", when, False),
    ]
    assert {row.name for row in unexpected(listing.rows, ["a"])} == {"bare", "copied", "flipped"}


@pytest.mark.parametrize("state", ["a stranger", "a damaged keyring", "no keyring"])
async def test_where_nothing_opens_all_are_listed(site: Site, state: str) -> None:
    """A machine whose key opens nothing lists all the same, with question marks, and says why."""
    await site.initialized()
    if state == "a damaged keyring":
        await site.store.commit([Put(KEYRING_DOCUMENT, b"rubbish")])
    elif state == "no keyring":
        await site.store.commit([keyring_removal()])

    listing = await site.on(B).listed()

    assert [(row.name, row.authority, row.created) for row in listing.rows] == [("a", "?", "2025-11-22 08:26:40")]
    assert listing.why


@pytest.mark.parametrize(
    ("rows", "expected", "found"),
    [
        ([("a", "Yes")], [A.fingerprint], []),
        ([("a", "Yes")], [A.fingerprint[:16].upper()], []),
        ([("a", "Yes")], [A.fingerprint[:15]], ["a"]),
        ([("a", "Yes")], ["a"], []),
        ([("a", "Yes")], [], ["a"]),
        ([("a", "?")], [], ["a"]),
        ([("a", "No")], [], []),
        ([("a", "Yes"), ("a", "No")], ["a"], ["a"]),
        ([("a", "Yes"), ("a", "Yes")], ["a"], ["a", "a"]),
        ([("a", "Yes"), ("b", "Yes")], ["b", "nobody"], ["a"]),
    ],
)
def test_who_is_not_expected(rows: list[tuple[str, str]], expected: list[str], found: list[str]) -> None:
    """Authorizers, and who may be one, are expected by fingerprint, or by a name that nobody else has."""
    listed = [Row(A.fingerprint, name, authority, "-") for name, authority in rows]  # type: ignore[arg-type]

    assert [row.name for row in unexpected(listed, expected)] == found


# What cannot be recorded, or comes in between


Act = Callable[[Site], Awaitable[object]]


async def initialize(site: Site) -> object:
    return await site.on(A).initialize("a", site.open)


async def authorize(site: Site) -> object:
    return await site.on(A).authorize(B.public_jwk(), "b", allowed=False)


async def revoke(site: Site) -> object:
    return await site.on(A).revoke("c")


async def listed(site: Site) -> object:
    return await site.on(A).listed()


async def verified(site: Site) -> object:
    return await site.on(A).verify()


@pytest.mark.parametrize("act", [initialize, authorize, revoke, listed, verified])
async def test_what_cannot_be_recorded_is_not_done(site: Site, act: Act, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an audit log that cannot be written, nothing is done and nothing told."""
    if act is not initialize:
        await site.initialized()
        await site.on(A).authorize(C.public_jwk(), "c", allowed=False)
    before = await site.everything()

    async def full(*_: object) -> None:
        raise AuditUnavailable("the log is full")

    monkeypatch.setattr(site, "record", full)
    with pytest.raises(AuditUnavailable):
        await act(site)
    assert await site.everything() == before


class Meddled(FaultyBackend):
    """A store that somebody else changes just before its next commit."""

    def __init__(self, backend: Backend, meddle: Callable[[], Awaitable[object]]) -> None:
        super().__init__(backend)
        self._meddle: Callable[[], Awaitable[object]] | None = meddle

    async def commit(self, changes: Sequence[Change]) -> int:
        meddle, self._meddle = self._meddle, None
        if meddle is not None:
            await meddle()
        return await super().commit(changes)


@pytest.mark.parametrize("act", [initialize, authorize, revoke])
async def test_whoever_is_overtaken_has_done_nothing(site: Site, act: Act) -> None:
    """If the keyring changes between the look and the commit, the machine is told, and all is as the other left it."""
    if act is initialize:
        await story.initialize(site.store)
    else:
        await site.initialized()
        await site.on(A).authorize(C.public_jwk(), "c", allowed=False)
    machines_before = dict(await site.documents.get_all())

    async def touch() -> None:
        entry = await site.store.get(KEYRING_DOCUMENT)
        assert entry is not None
        await site.store.commit([Put(KEYRING_DOCUMENT, entry.value)])

    with pytest.raises(Overtaken):
        await act(Site(Meddled(site.store, touch), site.file))

    assert {name: entry.value for name, entry in (await site.documents.get_all()).items()} == {
        name: entry.value for name, entry in machines_before.items()
    }
    await act(site)


async def test_no_rotation_misses_a_machine(site: Site) -> None:
    """A machine that is authorized while the root key is rotated is refused, or has the new root key, too."""
    await site.initialized()
    sealed = await stored.read(site.store)
    assert sealed is not None
    root = (await site.held(A)).opened_by(A, sealed.root)
    made = await rotation.prepare(site.store, root, Recipients("machine"), None, site.documents)
    await site.on(A).authorize(B.public_jwk(), "b", allowed=False)

    async def come_between() -> None:
        await site.on(A).authorize(C.public_jwk(), "c", allowed=False)

    meddled = Site(Meddled(site.store, come_between), site.file)
    confirm = (made.root, None, None)
    with pytest.raises(Overtaken):
        await rotation.confirm(meddled.store, root, *confirm, meddled.documents, A)
    (await rotation.confirm(site.store, root, *confirm, site.documents, A)).wipe()

    for key, name in ((A, "a"), (B, "b"), (C, "c")):
        said = await site.on(key).verify()
        assert (said.root, said.name, said.authorizer) == (made.root, name, key is A)


async def test_who_tidies_up_is_overtaken_like_anybody() -> None:
    """Of a keyring that somebody else changes meanwhile nothing is removed; the next one removes what opens nothing."""
    async with in_memory() as store:
        await story.initialize(store)
        stray = wraps.put(wraps.wrap(RootKey(bytes(64)), Key("file.0123456789abcdef", bytes(64)), stored.now()))
        await store.commit([stray])

        async def touch() -> None:
            entry = await store.get(KEYRING_DOCUMENT)
            assert entry is not None
            await store.commit([Put(KEYRING_DOCUMENT, entry.value)])

        with pytest.raises(Overtaken):
            await rotation.tidy(Meddled(store, touch), ROOT)
        assert await store.get(stray.name) is not None

        await rotation.tidy(store, ROOT)
        assert await store.get(stray.name) is None


async def test_a_planted_flag_of_the_next_root_key_stops_the_rotation(site: Site) -> None:
    """A document that only seems to be authorized under the next root key is named, and its machine not shut out."""
    await story.initialize(site.store)
    await site.on(A).initialize("a", site.open)
    await site.on(A).authorize(B.public_jwk(), "b", allowed=False)
    made = await rotation.prepare(site.store, ROOT, Recipients("machine"), None, site.documents)
    held = await site.held(B)
    flags = held.meta.authorizer
    await site.plant(with_flags(held, flags | {made.root: flags[ROOT.kid]}))

    with pytest.raises(InUse) as error:
        await rotation.confirm(site.store, ROOT, made.root, None, None, site.documents, A)

    assert error.value.holders == (f"machine {B.fingerprint[:16]}",)
    assert await opens(site, B)


@pytest.mark.parametrize(
    ("kind", "at"), [("in the store", 0), ("in the store", 1), ("in a file", 0), ("in a file", 1), ("in a file", 2)]
)
async def test_no_rotation_brings_a_machine_back(
    kind: str, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A document that is removed after a rotation has read it is not written again, whichever time it was read."""
    async with in_memory() as store:
        site = site_of(kind, store, tmp_path)
        await story.initialize(store)
        await site.on(A).initialize("a", site.open)
        made = await rotation.prepare(store, ROOT, Recipients("machine"), None, site.documents)
        await site.on(A).authorize(B.public_jwk(), "b", allowed=False)
        documents, reads = site.documents, 0
        read = documents.get_all

        async def read_and_removed() -> Mapping[str, Entry]:
            nonlocal reads
            found = await read()
            if reads == at:
                await documents.delete(B.fingerprint)
            reads += 1
            return found

        monkeypatch.setattr(documents, "get_all", read_and_removed)
        with suppress(Overtaken):
            (await rotation.confirm(store, ROOT, made.root, None, None, documents, A)).wipe()

        assert reads > at
        assert list(await read()) == [A.fingerprint]


async def test_what_cannot_be_taken_back_is_said(tmp_path: Path) -> None:
    """If a file cannot be put back as it was, the machine hears that the fate of its command is unknown."""
    store = MemoryBackend()
    await store.open()
    site = await site_of("in a file", store, tmp_path).initialized()

    class Stubborn(FileDocuments):
        async def delete(self, fingerprint: str) -> bool:
            raise Unavailable("the file cannot be written")

    async def touch() -> None:
        entry = await store.get(KEYRING_DOCUMENT)
        assert entry is not None
        await store.commit([Put(KEYRING_DOCUMENT, entry.value)])

    assert site.file is not None
    enrolment = Enrolment(Meddled(store, touch), Stubborn(site.file), A, site.record)
    with pytest.raises(Unavailable) as error:
        await enrolment.authorize(B.public_jwk(), "b", allowed=False)
    assert error.value.fate is Fate.UNKNOWN


# Killed


class FaultyDocuments:
    """Documents in a file, whose operations are counted among those of a store, and fail as they do."""

    def __init__(self, within: MachineDocuments, store: FaultyBackend) -> None:
        self._within = within
        self._operation = store._operation

    async def get(self, fingerprint: str) -> Entry | None:
        async with self._operation("documents.get"):
            return await self._within.get(fingerprint)

    async def get_all(self) -> object:
        async with self._operation("documents.get_all"):
            return await self._within.get_all()

    async def save(self, document: MachineDocument, expected: int | None = None) -> int:
        async with self._operation("documents.save"):
            return await self._within.save(document, expected)

    async def delete(self, fingerprint: str) -> bool:
        async with self._operation("documents.delete"):
            return await self._within.delete(fingerprint)


class FaultySite(Site):
    """The site as a process sees it in which one operation fails."""

    @property
    def documents(self) -> MachineDocuments:
        assert isinstance(self.store, FaultyBackend)
        return super().documents if self.file is None else FaultyDocuments(super().documents, self.store)  # type: ignore[return-value]


@dataclass(frozen=True)
class Life:
    """A story of one command: what was before it, and who opens the keyring when it is done."""

    act: Act
    begins: str  # "nothing" | "a keyring" | "machines"
    ends: tuple[MachineKey, ...]


LIVES: Final = {
    "init of a new keyring": Life(initialize, "nothing", (A,)),
    "init of one that is there": Life(initialize, "a keyring", (A,)),
    "authorize": Life(authorize, "machines", (A, B, C)),
    "revoke": Life(revoke, "machines", (A,)),
}


async def begin(life: Life, site: Site) -> None:
    if life.begins == "a keyring":
        await story.initialize(site.store)
    if life.begins == "machines":
        await story.initialize(site.store)
        await site.on(A).initialize("a", site.open)
        await site.on(A).authorize(C.public_jwk(), "c", allowed=False)
    if life.begins != "nothing":
        async with story.opened(site.store) as worker:
            await story.put_all(worker.secrets, {"secrets/1": b"one"})


async def opens(site: Site, key: MachineKey) -> bool:
    try:
        await site.on(key).verify()
    except (WrongKey, Uninitialized):
        return False
    return True


async def finish(life: Life, site: Site) -> None:
    """Do it again, as people would who do not know what became of it; it is done, or was."""
    try:
        await life.act(site)
    except Exists:
        assert life.act in (initialize, authorize)
    except NotFound:
        assert life.act is revoke


async def look(life: Life, site: Site, tmp_path: Path) -> None:
    """See that every secret reads and the command can be repeated, or its result is there."""
    if life.begins != "nothing":
        async with story.opened(site.store) as worker:
            assert await story.read_all(worker.secrets) == {"secrets/1": b"one"}
    await finish(life, site)
    assert {key for key in (A, B, C) if await opens(site, key)} == set(life.ends)
    assert (await site.on(A).verify()).authorizer
    async with service(site, A, tmp_path) as (_, secrets):
        await story.put_all(secrets, {"secrets/2": b"two"})
        assert (await story.read_all(secrets)).keys() >= {"secrets/2"}


async def walk(life: Life, kind: str, fault: Fault, stores: Stores, directory: Path) -> None:
    """Let the command fail at each of its operations in turn, and look at what that leaves."""
    for number in count():
        async with stores() as store:
            place = directory / f"machine-{number}"
            place.mkdir()
            site = site_of(kind, store, place)
            await begin(life, site)
            faulty = FaultyBackend(store, {number: fault})
            try:
                await life.act(FaultySite(faulty, site.file))
            except (Killed, Unavailable):
                pass
            else:
                if number >= len(faulty.operations):
                    break
            await look(life, site, place)
    assert number > 1


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
@pytest.mark.parametrize("name", LIVES)
async def test_killed_at_every_operation(name: str, fault: Fault, stores: Stores, tmp_path: Path) -> None:
    """Wherever a command is killed, or its store fails, every secret reads, and the command can be given again."""
    await walk(LIVES[name], "in the store", fault, stores, tmp_path)


@asynccontextmanager
async def in_memory() -> AsyncIterator[Backend]:
    store = MemoryBackend()
    await store.open()
    yield store
    await store.close()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
@pytest.mark.parametrize("name", LIVES)
async def test_killed_between_file_and_store(name: str, fault: Fault, tmp_path: Path) -> None:
    """The same holds where documents lie in a file, whose operations are killed, too."""
    await walk(LIVES[name], "in a file", fault, in_memory, tmp_path)


class KilledAfter(FaultyBackend):
    """A store whose process is killed when its first operation of that name is done."""

    def __init__(self, backend: Backend, last: str) -> None:
        super().__init__(backend)
        self._last = last

    def _operation(self, name: str) -> Any:
        if name == self._last:
            self.faults[len(self.operations)] = Fault.DIE_AFTER
        return super()._operation(name)


@pytest.mark.parametrize(
    ("name", "last", "opening"),
    [
        ("authorize", "documents.save", {A, B, C}),
        ("init of one that is there", "documents.save", {A}),
        ("init of a new keyring", "documents.save", set()),
        ("revoke", "commit", {A, C}),
    ],
)
async def test_what_is_left_between_file_and_store(
    name: str, last: str, opening: set[MachineKey], tmp_path: Path
) -> None:
    """Between the two writes a machine is authorized already, or not revoked yet; a rotation takes along who opens."""
    store = MemoryBackend()
    await store.open()
    site = site_of("in a file", store, tmp_path)
    await begin(LIVES[name], site)

    with pytest.raises(Killed):
        await LIVES[name].act(FaultySite(KilledAfter(store, last), site.file))

    assert {key for key in (A, B, C) if await opens(site, key)} == opening
    if opening:
        made = await rotation.prepare(store, ROOT, Recipients("machine"), None, site.documents)
        (await rotation.confirm(store, ROOT, made.root, None, None, site.documents, A)).wipe()
        assert {key for key in (A, B, C) if await opens(site, key)} == opening


async def test_a_machine_that_a_rotation_missed(tmp_path: Path) -> None:
    """Who was put into the file by a command that was killed, while a rotation was under way, is authorized again."""
    store = MemoryBackend()
    await store.open()
    site = site_of("in a file", store, tmp_path)
    await begin(LIVES["authorize"], site)

    async def die() -> None:
        with pytest.raises(Killed):
            await authorize(FaultySite(KilledAfter(store, "documents.save"), site.file))

    made = await rotation.prepare(store, ROOT, Recipients("machine"), None, site.documents)
    meddled = Site(Meddled(store, die), site.file)
    (await rotation.confirm(meddled.store, ROOT, made.root, None, None, meddled.documents, A)).wipe()

    with pytest.raises(WrongKey):
        await site.on(B).verify()
    with pytest.raises(Exists, match="revoke it first"):
        await authorize(site)
    await site.on(A).revoke("b")
    await authorize(site)
    assert await opens(site, B)


# Starting with nobody at hand


async def test_a_machine_without_a_key_has_no_say(site: Site, tmp_path: Path) -> None:
    """Where there is no key file, this way is none, and nobody is told of it."""
    assert await MachineKeyFile(tmp_path / "none.key", site.documents).open(site.store, ROOT.kid) is None


async def test_a_machine_that_nobody_authorized_waits(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A key without a document opens nothing; the service starts locked, and its log says which machine it is."""
    await site.initialized()

    with caplog.at_level(logging.WARNING):
        async with service(site, B, tmp_path) as (holder, _):
            assert holder.state is State.LOCKED

    assert [record.getMessage() for record in caplog.records] == [
        f"this machine, {B.fingerprint}, is not authorized to open the keyring, or no longer"
    ]


def of_another_root(document: MachineDocument) -> MachineDocument:
    return document.without_root(*document.keys).with_root(RootKey(bytes(64)), False)


def with_a_torn_wrap(document: MachineDocument) -> MachineDocument:
    [(root, wrap)] = document.keys.items()
    return msgspec.structs.replace(document, keys={root: wrap[:-8]})


def named_badly(document: MachineDocument) -> MachineDocument:
    return msgspec.structs.replace(document, name="\x1b[2J")


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        (of_another_root, WrongRootKey, "on an authorizer, revoke it and authorize it again"),
        (with_a_torn_wrap, KeyringDamaged, "authorize the machine again"),
        (named_badly, KeyringDamaged, "restore it from a backup, or revoke and authorize again"),
    ],
)
async def test_a_document_that_does_not_open_stops_the_start(
    site: Site,
    tmp_path: Path,
    change: Callable[[MachineDocument], MachineDocument],
    kind: type[StrongroomError],
    text: str,
) -> None:
    """A machine that is authorized, but whose document is of no use, does not start, and says what is to be done."""
    await site.initialized()
    await site.plant(change(await site.held(A)))

    with pytest.raises(kind, match=text):
        async with service(site, A, tmp_path):
            pass


async def test_a_key_that_others_can_read_is_refused(site: Site, tmp_path: Path) -> None:
    """A key file that is open to others is not used, and the text says what to run."""
    await site.initialized()
    async with service(site, A, tmp_path):
        pass
    path = tmp_path / f"{A.fingerprint[:8]}.key"
    path.chmod(0o644)

    with pytest.raises(KeyFileUnusable, match="chmod 600"):
        await MachineKeyFile(path, site.documents).open(site.store, ROOT.kid)


async def test_a_service_follows_a_rotation_by_itself(site: Site, tmp_path: Path) -> None:
    """A service with nothing but its machine's key goes on over a rotation that another machine does."""
    await site.initialized()
    await site.on(A).authorize(B.public_jwk(), "b", allowed=False)
    async with service(site, B, tmp_path) as (holder, secrets):
        await story.put_all(secrets, story.VALUES)
        sealed = await stored.read(site.store)
        assert sealed is not None
        root = (await site.held(A)).opened_by(A, sealed.root)
        made = await rotation.prepare(site.store, root, Recipients("machine"), None, site.documents)
        (await rotation.confirm(site.store, root, made.root, None, None, site.documents, A)).wipe()

        await story.put_all(secrets, {"secrets/later": b"later"})
        assert await story.read_all(secrets) == {**story.VALUES, "secrets/later": b"later"}
        async with holder.root() as held:
            assert held.kid == made.root

"""The door to what is encrypted, as it is stored: who may, what is written down, and what a commit refuses."""

import base64
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from strongroom.models.names import MAX_NAME, TOMBSTONES
from strongroom.models.secret import Secret
from strongroom.storage_service import wire
from strongroom.storage_service.access.apikeys import ApiKeys
from strongroom.storage_service.access.base import ALL_ACTIONS, Action, Principal
from strongroom.storage_service.access.paths import Reach, SimplePathAuthz
from strongroom.storage_service.access.ruling import EVERY_RULE
from strongroom.storage_service.audit.log import AuditLog
from strongroom.storage_service.backends.base import PRESENT, Check, Delete, Put
from strongroom.storage_service.backends.faulty import Fault, FaultyBackend
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import (
    AuditUnavailable,
    Changed,
    Denied,
    Fate,
    Invalid,
    Locked,
    NoContainer,
    NotEmpty,
    ServiceError,
    TooLarge,
    Unavailable,
    Undecipherable,
)
from strongroom.storage_service.http.bulk import changes_of, entries_of
from strongroom.storage_service.jose.jwe import MAX_VALUE
from strongroom.storage_service.keyring.holder import Holder
from strongroom.storage_service.keyring.opening.unattended import KeyFile
from strongroom.storage_service.keyring.overlay import EncryptedBackend
from strongroom.storage_service.keyring.shared_root import SharedRoot
from strongroom.storage_service.services.bulk import BulkService
from strongroom.storage_service.services.door import Caller, Door
from tests.audit_lines import audit_lines
from tests.directories import directory_of

OPERATOR = Caller(Principal("apikey:operator"), "request-1")
CANARY = "cAnArY-7a31"
KEY = (
    '{"format":1,"verifier":"' + "0a" * 32 + '","paths":["/secrets/db"],"actions":["get"],'
    '"created":"2026-11-22T09:30:00Z"}'
)
TOMBSTONE = TOMBSTONES + "secrets/db/" + "x" * (MAX_NAME - 11)
OCTETS = base64.b64encode(b"x" * wire.MAX_SECRET).decode()


def write(name: str, value: str = "", etag: str | None = None) -> wire.BulkChange:
    return wire.BulkChange(name=name, value=value, etag=etag)


def remove(name: str, etag: str | None = None) -> wire.BulkChange:
    return wire.BulkChange(name=name, etag=etag)


def require(name: str, etag: str | None) -> wire.BulkChange:
    return wire.BulkChange(name=name, etag=etag, check=True)


@dataclass
class Rig:
    """One worker's door on a store in memory."""

    store: FaultyBackend
    holder: Holder
    encrypted: EncryptedBackend
    keys: ApiKeys
    bulk: BulkService
    log: AuditLog
    audit: Path

    def lines(self) -> list[tuple[str, str, str]]:
        """What was written down: action, name and decision."""
        lines = audit_lines(self.audit)
        return [(line["action"], line["name"], line["decision"]) for line in lines]

    async def commit(self, *changes: wire.BulkChange) -> str:
        """Commit as the operator."""
        return wire.etag_of(await self.bulk.commit(OPERATOR, await changes_of(changes)))

    async def values(self, *names: str) -> list[str | None]:
        """Read as the operator."""
        entries = await self.bulk.read(OPERATOR, names)
        return [None if entry is None else entry.value for entry in entries]

    async def names(self) -> list[str]:
        """All names that this door shows."""
        return [
            name
            for prefix in ("secrets/", "system/journal/", "system/access/apikeys/")
            for name in (await self.bulk.list(OPERATOR, prefix, None, 1000)).names
        ]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """An open service with the container ``db`` and in it the secret ``a``, and the container ``empty``."""
    store = FaultyBackend(MemoryBackend())
    await store.open()
    audit = AuditLog(tmp_path / "audit.log")
    audit.open()
    shared, file = SharedRoot(), KeyFile(tmp_path / "secrets.key")
    holder = Holder(store, shared, [file], autogen=file)
    await holder.open()
    encrypted = EncryptedBackend(store, holder)
    directory = directory_of(store, encrypted)
    keys = ApiKeys(directory, ("own", Secret("own-key")))
    door = Door((Reach(), SimplePathAuthz(("/",))), audit)
    await encrypted.commit([Put("secrets/db/", b""), Put("secrets/db/a", b"old"), Put("secrets/empty/", b"")])
    bulk = BulkService(door, encrypted, keys, directory)
    yield Rig(store, holder, encrypted, keys, bulk, audit, tmp_path / "audit.log")
    await directory.close()
    await holder.close()
    await audit.close()
    shared.close()


Act = Callable[[BulkService, Caller], Awaitable[object]]

# what is done, and what is decided on and written down before it
ACTS: dict[str, tuple[Act, list[tuple[str, str]]]] = {
    "limit": (lambda bulk, who: bulk.limit(who), [("get", "system/journal/")]),
    "read": (
        lambda bulk, who: bulk.read(who, ["secrets/db/a", "system/journal/x"]),
        [("get", "secrets/db/a"), ("get", "system/journal/x")],
    ),
    "list": (lambda bulk, who: bulk.list(who, "secrets/db/", None, 10), [("list", "secrets/db/")]),
    "commit": (
        lambda bulk, who: bulk.commit(
            who,
            [
                Put("secrets/db/b", b"1"),
                Delete("secrets/db/a"),
                Check("secrets/db/", PRESENT),
                Put("system/journal/x", b""),
            ],
        ),
        [("put", "secrets/db/b"), ("delete", "secrets/db/a"), ("get", "secrets/db/"), ("put", "system/journal/x")],
    ),
    "read_held": (lambda bulk, who: bulk.read_held(who, ["secrets/db/a"]), [("get", "secrets/db/a")]),
    "commit a key": (
        lambda bulk, who: bulk.commit(who, [Put("system/access/apikeys/ci", KEY.encode())]),
        [("put", "system/access/apikeys/ci")],
    ),
}

UNRULED = ("put", EVERY_RULE)  # what is asked first of those whom rules let do something

# who does not reach everything
LIMITED: dict[str, Principal] = {
    "all secrets": Principal("apikey:a", ("/secrets",)),
    "all secrets, all of the system": Principal("apikey:b", ("/secrets", "/system")),
    "everything but deleting": Principal("apikey:c", ("/",), ALL_ACTIONS - {Action.DELETE}),
    "the ping and its like": Principal("apikey:d", ("/.", "//")),
    "a user without the right to every rule": Principal("user:e", ruled=True),
}


class TestTheDoor:
    """Decided, recorded, and only then done."""

    @pytest.mark.parametrize("who", LIMITED)
    @pytest.mark.parametrize("act", ACTS)
    async def test_whoever_has_a_limit_does_none_of_it(self, rig: Rig, act: str, who: str) -> None:
        """Each name's refusal is written down, or that of every rule, and the store was not even asked."""
        do, acts = ACTS[act]
        asked = len(rig.store.operations)

        with pytest.raises(Denied):
            await do(rig.bulk, Caller(LIMITED[who], "request-2"))
        refused = [UNRULED] if LIMITED[who].ruled else acts
        assert rig.lines() == [(*each, "denied") for each in refused]
        assert len(rig.store.operations) == asked

    def test_every_verb_is_in_the_table(self) -> None:
        """A verb that the service gains must say here what it decides on."""
        methods = {name for name, _ in inspect.getmembers(BulkService, inspect.isfunction) if not name.startswith("_")}

        assert {act.partition(" ")[0] for act in ACTS} == methods - {"expect"}

    @pytest.mark.parametrize("action", sorted(ALL_ACTIONS))
    async def test_what_is_asked_beforehand(self, rig: Rig, action: Action) -> None:
        """Before a body is read whoever has a limit is refused, and a line says so; nothing is written of others."""
        await rig.bulk.expect(OPERATOR, action)
        assert rig.lines() == []

        for who in LIMITED.values():
            with pytest.raises(Denied):
                await rig.bulk.expect(Caller(who, "request-2"), action)
        refused = [UNRULED if who.ruled else (str(action), "secrets/") for who in LIMITED.values()]
        assert rig.lines() == [(*each, "denied") for each in refused]

    @pytest.mark.parametrize("act", ACTS)
    async def test_every_name_is_written_down(self, rig: Rig, act: str) -> None:
        """Whoever reaches everything does it, and one line a name says so."""
        do, acts = ACTS[act]
        await do(rig.bulk, OPERATOR)

        assert rig.lines() == [(*each, "allowed") for each in acts]

    @pytest.mark.parametrize("act", ACTS)
    async def test_what_cannot_be_recorded_is_not_done(self, rig: Rig, act: str) -> None:
        """Without an audit log nothing is answered, and nothing is written."""
        await rig.log.close()
        asked = len(rig.store.operations)
        with pytest.raises(AuditUnavailable):
            await ACTS[act][0](rig.bulk, OPERATOR)
        assert "commit" not in rig.store.operations[asked:]

    async def test_no_value_is_written_down(self, rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
        """Neither the audit log, nor a log, nor a repr or an error tells a value."""
        caplog.set_level("DEBUG")
        changes = [write("secrets/db/b", CANARY), write("system/journal/x", CANARY)]
        await rig.commit(*changes)
        read = await rig.bulk.read(OPERATOR, ["secrets/db/b"])
        told = [
            repr(wire.BulkCommit(changes=changes)),
            repr(read),
            repr(await entries_of(read)),
            rig.audit.read_text(),
            caplog.text,
        ]
        for refused in (
            write("system/access/apikeys/ci", CANARY),
            write("secrets/db/", CANARY),
            write("secrets/db/c", CANARY, CANARY),
            write("secrets/none/c", CANARY),
            write("secrets/db/b", CANARY, wire.NEW),
        ):
            with pytest.raises(ServiceError) as caught:
                await rig.commit(refused)
            told.append(repr(caught.value) + repr(caught.value.__context__))

        assert [text for text in told if CANARY in text] == []

    async def test_while_locked_nothing_is_served(self, rig: Rig) -> None:
        """Locked is said to readers, listers and writers."""
        rig.holder.lock()
        for act in ("read", "list", "commit"):
            with pytest.raises(Locked):
                await ACTS[act][0](rig.bulk, OPERATOR)

    @pytest.mark.parametrize(
        ("fault", "fate"), [(Fault.BEFORE, Fate.NOT_APPLIED), (Fault.AFTER, Fate.UNKNOWN), (Fault.LOST, Fate.UNKNOWN)]
    )
    async def test_the_fate_of_a_commit_comes_through(self, rig: Rig, fault: Fault, fate: Fate) -> None:
        """What the store says of a write is what the caller hears."""
        rig.store.faults = {len(rig.store.operations): fault}
        with pytest.raises(Unavailable) as caught:
            await rig.commit(write("secrets/db/b", "1"))
        assert caught.value.fate is fate


# what is committed, and what becomes of it: the error, or what is there afterwards besides what was
COMMITS: dict[str, tuple[list[wire.BulkChange], type[ServiceError] | list[str]]] = {
    "a secret and a journal": (
        [write("secrets/db/b", "1"), write("system/journal/m/1", "")],
        ["secrets/db/b", "system/journal/m/1"],
    ),
    "a container with what is in it": (
        [write("secrets/new/", "", wire.NEW), write("secrets/new/in/", ""), write("secrets/new/in/a", "1")],
        ["secrets/new/", "secrets/new/in/", "secrets/new/in/a"],
    ),
    "a container that is there already, new": ([write("secrets/db/", "", wire.NEW)], Changed),
    "no container": ([write("secrets/new/a", "1")], NoContainer),
    "no container of one of two": ([write("secrets/db/b", "1"), write("secrets/new/a", "1")], NoContainer),
    "no container of a container": ([write("secrets/new/in/", "")], NoContainer),
    "a container required by itself": ([require("secrets/db/", "*"), write("secrets/db/b", "1")], ["secrets/db/b"]),
    "a container required to be absent": ([require("secrets/new/", wire.NEW), write("secrets/new/b", "1")], Invalid),
    "into a container that goes": ([remove("secrets/empty/"), write("secrets/empty/b", "1")], Invalid),
    "the guard of a new one holds": ([write("secrets/db/b", "1", wire.NEW)], ["secrets/db/b"]),
    "the guard of a new one fails": ([write("secrets/db/a", "1", wire.NEW)], Changed),
    "the guard of an old one fails": ([write("secrets/db/b", "1", "*")], Changed),
    "a guard alone fails": ([require("secrets/db/b", "*"), write("secrets/db/c", "1")], Changed),
    "both a guard and a container fail": ([write("secrets/db/a", "1", wire.NEW), write("secrets/new/b", "1")], Changed),
    "a guard alone holds": ([require("secrets/db/b", wire.NEW), write("secrets/db/c", "1")], ["secrets/db/c"]),
    "a removal expects a revision": ([remove("secrets/db/a", '"999"')], Changed),
    "a removal expects absence": ([remove("secrets/db/a", wire.NEW)], Invalid),
    "a removal of nothing": ([remove("secrets/db/none")], []),
    "a container that is not empty": ([remove("secrets/db/")], NotEmpty),
    "a container and all that is in it": ([remove("secrets/db/"), remove("secrets/db/a")], NotEmpty),
    "a container that is not there": ([remove("secrets/none/", "*")], Changed),
    "a check of nothing": ([require("secrets/db/a", None)], Invalid),
    "a check with a value": ([wire.BulkChange(name="secrets/db/a", value="x", etag="*", check=True)], Invalid),
    "no tag of ours": ([write("secrets/db/b", "1", "W/1")], Invalid),
    "nothing at all": ([], Invalid),
    "one name twice": ([write("secrets/db/b", "1"), remove("secrets/db/b")], Invalid),
    "too many": ([write(f"system/journal/{n}", "1") for n in range(43)], Invalid),
    "too many with their container": ([write(f"secrets/db/{n}", "1") for n in range(42)], Invalid),
    "an empty secret": ([write("secrets/db/b", "")], Invalid),
    "a container with a value": ([write("secrets/new/", "1")], Invalid),
    "a secret in no container": ([write("secrets/b", "1")], Invalid),
    "the root": ([write("secrets/", "")], Invalid),
    "a folder of journals": ([write("system/journal/x/", "")], Invalid),
    "a secret too large": ([write("secrets/db/b", "é" * (wire.MAX_SECRET // 2) + "x")], TooLarge),
    "the largest text": ([write("secrets/db/b", "é" * (wire.MAX_SECRET // 2))], ["secrets/db/b"]),
    "the largest octets": ([write("secrets/db/b", OCTETS)], ["secrets/db/b"]),
    "octets too large": ([write("secrets/db/b", OCTETS[:-2] + "eA==")], TooLarge),
    "a text as long as octets": ([write("secrets/db/b", "!" * len(OCTETS))], TooLarge),
    "the largest row of a journal": ([write("system/journal/x", "x" * wire.MAX_JOURNAL)], ["system/journal/x"]),
    "a row of a journal too large": ([write("system/journal/x", "x" * (wire.MAX_JOURNAL + 1))], TooLarge),
    "an API key": ([write("system/access/apikeys/ci", KEY)], ["system/access/apikeys/ci"]),
    "no API key": ([write("system/access/apikeys/ci", "{}")], Invalid),
    "an API key of another format": ([write("system/access/apikeys/ci", KEY.replace("1,", "2,", 1))], Invalid),
    "an API key that verifies nothing": ([write("system/access/apikeys/ci", KEY.replace("0a", "", 1))], Invalid),
    "an API key that reaches nothing": ([write("system/access/apikeys/ci", KEY.replace("/secrets/db", ".."))], Invalid),
    "an API key that does nothing": ([write("system/access/apikeys/ci", KEY.replace('"get"', ""))], Invalid),
    "an API key of no id": ([write("system/access/apikeys/-", KEY)], Invalid),
    "the service's own API key": ([write("system/access/apikeys/own", KEY)], Invalid),
    "the tombstone of the longest name": ([write(TOMBSTONE)], [TOMBSTONE]),
    "a name that is longer": ([write("system/journal/" + "x" * 500)], Invalid),
    "the keyring": ([remove("system/keyring/keys")], Invalid),
    "the index": ([write("system/usage/default.1/secrets/db/a", "")], Invalid),
    "a plain record": ([write("hosts/10.0.0.7", "{}")], Invalid),
    "a climb": ([write("secrets/db/../../system/keyring/keys", "1")], Invalid),
}


class TestCommits:
    """All or nothing, under the rules of what is stored."""

    @pytest.mark.parametrize("story", COMMITS)
    async def test_what_becomes_of_it(self, rig: Rig, story: str) -> None:
        """It is done whole, and the tag is that of all of it; or it is refused, and everything is as it was."""
        changes, outcome = COMMITS[story]
        before = await rig.names()

        if isinstance(outcome, list):
            etag = await rig.commit(*changes)
            assert sorted(set(await rig.names()) - set(before)) == outcome
            entries = (await entries_of(await rig.bulk.read(OPERATOR, outcome))).entries
            assert [entry and entry.etag for entry in entries] == [etag] * len(outcome)
        else:
            with pytest.raises(outcome) as caught:
                await rig.commit(*changes)
            assert type(caught.value) is outcome
            assert await rig.names() == before
            assert await rig.values("secrets/db/a") == ["old"]

    async def test_the_limit_counts_the_containers(self, rig: Rig) -> None:
        """As many changes as the limit says are taken, one for their container among them."""
        most = await rig.bulk.limit(OPERATOR)
        await rig.commit(*[write(f"secrets/db/{n}", "1") for n in range(most - 1)])

        assert most == rig.encrypted.max_batch >= 40
        assert len(await rig.names()) == 3 + most - 1

    async def test_a_commit_is_one_operation_of_the_store(self, rig: Rig) -> None:
        """Neither containers nor guards are asked for beforehand."""
        asked = len(rig.store.operations)
        await rig.commit(write("secrets/db/b", "1"), write("secrets/empty/c", "1"), write("system/journal/x", "1"))

        assert rig.store.operations[asked:] == ["commit"]

    async def test_the_largest_row_fits_into_the_store(self) -> None:
        """What the wire allows of a journal is no more than can be encrypted."""
        assert wire.MAX_JOURNAL <= MAX_VALUE


class TestReading:
    """Values as they are stored, and names."""

    async def test_in_the_order_asked(self, rig: Rig) -> None:
        """What is not there is null, of a container nothing but its being there, and a name may be asked for twice."""
        wanted = ["secrets/db/none", "secrets/db/a", "secrets/db/", "secrets/db/a"]

        assert await rig.values(*wanted) == [None, "old", "", "old"]
        assert await rig.values() == []

    @pytest.mark.parametrize("wanted", [["secrets/db/a"] * 1001, ["system/keyring/keys"], ["secrets/.."], ["hosts/a"]])
    async def test_what_is_not_served(self, rig: Rig, wanted: list[str]) -> None:
        """Neither what belongs elsewhere, nor more than the limit."""
        with pytest.raises(Invalid):
            await rig.bulk.read(OPERATOR, wanted)

    async def test_what_is_no_text(self, rig: Rig) -> None:
        """A value that is not UTF-8 is an error of the inside; the audit log says of which name, and why."""
        await rig.encrypted.commit([Put("secrets/db/b", b"\xff" + CANARY.encode())])
        with pytest.raises(Undecipherable, match="secrets/db/b: it is not text") as caught:
            await rig.values("secrets/db/a", "secrets/db/b")

        assert wire.problem_of(caught.value).status == 500
        assert caught.value.__context__ is None
        assert rig.lines()[-1] == ("get", "secrets/db/b", "failed")

    async def test_pages(self, rig: Rig) -> None:
        """A listing goes on after the last name of the page before; its prefix need not be a container's name."""
        await rig.commit(*[write(f"secrets/db/b{n}", "1") for n in range(3)])
        first = await rig.bulk.list(OPERATOR, "secrets/db/b", None, 2)
        last = await rig.bulk.list(OPERATOR, "secrets/db/b", first.names[-1], 2)

        assert (first.names, first.more) == (("secrets/db/b0", "secrets/db/b1"), True)
        assert (last.names, last.more) == (("secrets/db/b2",), False)

    @pytest.mark.parametrize(
        ("prefix", "after", "limit"),
        [
            ("", None, 1),
            ("system/", None, 1),
            ("system/keyring/", None, 1),
            ("secrets", None, 1),
            ("secrets//", None, 1),
            ("secrets/", "é", 1),
            ("secrets/", None, 0),
            ("secrets/", None, 1001),
        ],
    )
    async def test_what_is_not_listed(self, rig: Rig, prefix: str, after: str | None, limit: int) -> None:
        """Neither what belongs elsewhere, nor pages of no size."""
        with pytest.raises(Invalid):
            await rig.bulk.list(OPERATOR, prefix, after, limit)


async def test_no_key_is_moved_in_under_an_id_that_was_revoked_here(rig: Rig) -> None:
    """An id that is spent is spent for who brings records in, too; of the batch with it nothing is written."""
    elsewhere = ApiKeys(directory_of(rig.store, rig.encrypted), ("own", Secret("own-key")))
    await elsewhere.create("ci", ["/secrets/db"], ["get"])
    (moved,) = await rig.values("system/access/apikeys/ci")
    assert moved is not None
    await elsewhere.revoke("ci")

    with pytest.raises(Invalid, match="never used again"):
        await rig.commit(write("system/access/apikeys/ci", moved), write("secrets/db/new", "value"))

    assert await rig.values("system/access/apikeys/ci", "secrets/db/new") == [None, None]


async def test_a_key_that_was_moved_in_opens_at_once(rig: Rig) -> None:
    """Whoever had the key elsewhere has it here, with the same reach; when it is removed or replaced, no more."""
    elsewhere = ApiKeys(directory_of(rig.store, rig.encrypted), ("own", Secret("own-key")))
    key, _ = await elsewhere.create("ci", ["/secrets/db"], ["get"])
    (moved,) = await rig.values("system/access/apikeys/ci")
    assert moved is not None
    await rig.commit(remove("system/access/apikeys/ci", "*"))
    assert await rig.keys.authenticate("ci", key.reveal()) is None

    etag = await rig.commit(write("system/access/apikeys/ci", moved, wire.NEW))
    assert await rig.keys.authenticate("ci", key.reveal()) == Principal(
        "apikey:ci", ("/secrets/db",), frozenset({Action.GET})
    )
    await rig.commit(write("system/access/apikeys/ci", KEY, etag))
    assert await rig.keys.authenticate("ci", key.reveal()) is None

"""The door to the keys: who may do what, what is written down, what is told, and what a failed reversal leaves."""

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

import pytest

from strongroom.models.names import KEYRING_DOCUMENT
from strongroom.models.secret import Secret
from strongroom.models.steps import Step
from strongroom.storage_service.access.apikeys import ApiKeys
from strongroom.storage_service.access.base import Principal
from strongroom.storage_service.access.paths import Reach, SimplePathAuthz
from strongroom.storage_service.audit.log import AuditLog
from strongroom.storage_service.backends.base import Change, Delete, Put
from strongroom.storage_service.backends.faulty import Fault, FaultyBackend
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import (
    AuditUnavailable,
    Denied,
    Exists,
    Halted,
    InUse,
    Invalid,
    Locked,
    NotFound,
    ServiceError,
    TooManyAttempts,
    Unavailable,
    Uninitialized,
    Unusable,
    WrongKey,
)
from strongroom.storage_service.http.keys import keys_shown
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.holder import Holder
from strongroom.storage_service.keyring.machines.stored import StoredDocuments
from strongroom.storage_service.keyring.opening.unattended import KeyFile
from strongroom.storage_service.keyring.opening.unlock_keys import make_keys
from strongroom.storage_service.keyring.overlay import EncryptedBackend
from strongroom.storage_service.keyring.shared_root import SharedRoot
from strongroom.storage_service.services.door import Caller, Door
from strongroom.storage_service.services.keys import KeyService, Reencrypted
from tests.audit_lines import audit_lines
from tests.directories import directory_of

OPERATOR = Caller(Principal("apikey:operator"), "request-1")
USER = Caller(Principal("apikey:user", ("/secrets",)), "request-2")
KID = "root.0123456789abcdef"


class Refusing(FaultyBackend):
    """A store that reads, and refuses what *refuses* says of a commit."""

    refuses: Callable[[str], bool] = staticmethod(lambda _: False)

    async def commit(self, changes: Sequence[Change]) -> int:
        """Refuse it, or commit it."""
        if any(self.refuses(change.name) for change in changes if isinstance(change, Put)):
            raise Unavailable("the store is full (injected)")
        return await super().commit(changes)


def typed(keys: Sequence[Secret]) -> str:
    """Return what people type who were given *keys*."""
    return "\n".join(key.reveal() for key in keys)


@dataclass
class Rig:
    """One worker of a service on a store in memory, and the door to its keys."""

    store: Refusing
    shared: SharedRoot
    holder: Holder
    secrets: EncryptedBackend
    apikeys: ApiKeys
    keys: KeyService
    audit: Path
    now: list[float]

    def lines(self) -> list[tuple[str, str, str]]:
        """What was written down: action, name and decision."""
        lines = audit_lines(self.audit)
        return [(line["action"], line["name"], line["decision"]) for line in lines]

    async def sweep(self, name: str | None = "default", *, resume: bool = False) -> Reencrypted:
        """Re-encrypt in steps of two to the end, and return the last answer."""
        after: str | None = None
        while True:
            said = await self.keys.reencrypt(OPERATOR, name, after, 2, resume=resume)
            after = said.step.after
            if after is None:
                return said

    async def write(self, *names: str) -> None:
        """Put a secret under each of *names*."""
        for name in names:
            await self.secrets.commit([Put(f"secrets/{name}", b"value of " + name.encode())])

    async def read(self, *names: str) -> list[bytes]:
        """Return what is stored under *names*."""
        entries = await self.secrets.get_many([f"secrets/{name}" for name in names])
        return [entries[f"secrets/{name}"].value for name in names]

    async def damage(self, name: str) -> None:
        """Let a stored secret open no more."""
        entry = await self.store.get(f"secrets/{name}")
        assert entry is not None
        header, _, rest = entry.value.partition(b".")
        broken = header + b"." + rest[:-6] + (b"AAAAAA" if rest[-6:] != b"AAAAAA" else b"BBBBBB")
        await self.store.commit([Put(f"secrets/{name}", broken)])


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A service whose store has no keyring yet."""
    store = Refusing(MemoryBackend())
    await store.open()
    audit = AuditLog(tmp_path / "audit.log")
    audit.open()
    file, shared, now = KeyFile(tmp_path / "secrets.key"), SharedRoot(), [1000.0]
    holder = Holder(store, shared, [file], clock=lambda: now[0])
    secrets = EncryptedBackend(store, holder)
    directory = directory_of(store, secrets)
    apikeys = ApiKeys(directory, ("own", Secret("own-key")))
    holder.on_open = directory.learn
    await holder.open()
    door = Door((Reach(), SimplePathAuthz(("/",))), audit)
    keys = KeyService(door, store, holder, file, StoredDocuments(store))
    yield Rig(store, shared, holder, secrets, apikeys, keys, tmp_path / "audit.log", now)
    await directory.close()
    await holder.close()
    await audit.close()
    shared.close()


@pytest.fixture
async def opened(rig: Rig) -> Rig:
    """The same, with a keyring that its key file opens, and five secrets."""
    await rig.keys.initialize(OPERATOR, "file")
    await rig.write("a", "b", "c", "d", "e")
    return rig


Act = Callable[[KeyService, Caller], Awaitable[object]]

# what is done, and what is decided on and written down before it
ACTS: dict[str, tuple[Act, str, str]] = {
    "status": (lambda keys, who: keys.status(who), "get", "keys"),
    "initialize": (lambda keys, who: keys.initialize(who, "file"), "put", "init"),
    "take_back": (lambda keys, who: keys.take_back(who, KID), "delete", f"init/{KID}"),
    "prepare_root": (lambda keys, who: keys.prepare_root(who, "file"), "put", "root"),
    "confirm_root": (lambda keys, who: keys.confirm_root(who, KID, None), "put", f"root/{KID}"),
    "abandon_root": (lambda keys, who: keys.abandon_root(who, KID), "delete", f"root/{KID}"),
    "unlock": (lambda keys, who: keys.unlock(who, "SR1"), "put", "unlock"),
    "lock": (lambda keys, who: keys.lock(who), "put", "lock"),
    "keysets": (lambda keys, who: keys.keysets(who), "list", "keysets/"),
    "create_keyset": (lambda keys, who: keys.create_keyset(who, "hosts", 1), "put", "keysets/hosts"),
    "remove_keyset": (lambda keys, who: keys.remove_keyset(who, "hosts"), "delete", "keysets/hosts"),
    "rotate": (lambda keys, who: keys.rotate(who, "default", None), "put", "keysets/default/rotate"),
    "revert": (lambda keys, who: keys.revert(who, "default"), "put", "keysets/default/revert"),
    "assign": (lambda keys, who: keys.assign(who, "secrets/db/", "default"), "put", "places/secrets/db/"),
    "reencrypt one": (
        lambda keys, who: keys.reencrypt(who, "default"),
        *("put", "keysets/default/reencrypt"),
    ),
    "reencrypt all": (lambda keys, who: keys.reencrypt(who), "put", "reencrypt"),
    "resume": (lambda keys, who: keys.resume(who, "default", leave_unreadable=True), "put", "keysets/default/resume"),
    "retire": (lambda keys, who: keys.retire(who, "default.1"), "delete", "generations/default.1"),
    "usage": (lambda keys, who: keys.usage(who), "list", "usage"),
    "scan": (lambda keys, who: keys.scan(who, repair=False), "get", "usage/scan"),
    "scan and repair": (lambda keys, who: keys.scan(who, repair=True), "put", "usage/scan"),
    "backups": (lambda keys, who: keys.backups(who), "list", "backups/"),
    "register_backup": (lambda keys, who: keys.register_backup(who, "monday"), "put", "backups/monday"),
    "forget_backup": (lambda keys, who: keys.forget_backup(who, "monday"), "delete", "backups/monday"),
    "export": (lambda keys, who: keys.export(who), "put", "export"),
}


class TestTheDoor:
    """Decided, recorded, and only then done."""

    def test_every_verb_is_in_the_table(self) -> None:
        """A verb that the service gains must say here what it decides on; the others hand out nothing."""
        methods = {name for name, _ in inspect.getmembers(KeyService, inspect.isfunction) if not name.startswith("_")}

        assert {act.partition(" ")[0] for act in ACTS} == methods - {"expect", "check", "vitals", "whole_state"}

    @pytest.mark.parametrize("act", ACTS)
    async def test_a_key_for_secrets_does_none_of_it(self, opened: Rig, act: str) -> None:
        """Whoever reaches all secrets reaches no key; the refusal is written down, and the store was not even asked."""
        do, action, what = ACTS[act]
        before, asked = opened.lines(), len(opened.store.operations)

        with pytest.raises(Denied):
            await do(opened.keys, USER)

        assert opened.lines() == [*before, (action, f"system/keyring/{what}", "denied")]
        assert len(opened.store.operations) == asked
        assert opened.holder.current is not None

    @pytest.mark.parametrize("act", ACTS)
    async def test_what_is_allowed_is_recorded(self, opened: Rig, act: str) -> None:
        """Each act has one line of its own, under a name that says what and to which, whatever comes of it."""
        do, action, what = ACTS[act]
        before = opened.lines()

        with suppress(ServiceError):
            await do(opened.keys, OPERATOR)

        assert opened.lines() == [*before, (action, f"system/keyring/{what}", "allowed")]

    @pytest.mark.parametrize("act", ACTS)
    async def test_what_cannot_be_recorded_is_not_done(self, opened: Rig, act: str) -> None:
        """Without an audit log nothing happens to any key."""
        do, _, _ = ACTS[act]
        document = await opened.store.get(KEYRING_DOCUMENT)
        opened.audit.unlink()
        opened.audit.mkdir()

        with pytest.raises(AuditUnavailable):
            await do(opened.keys, OPERATOR)

        assert await opened.store.get(KEYRING_DOCUMENT) == document
        assert opened.keys.state == "unlocked"

    @pytest.mark.parametrize(
        "do",
        [
            lambda keys: keys.create_keyset(OPERATOR, "../x", 1),
            lambda keys: keys.rotate(OPERATOR, "default/rotate", None),
            lambda keys: keys.assign(OPERATOR, "secrets/../system/", "default"),
            lambda keys: keys.assign(OPERATOR, "secrets/db/", "a/b"),
            lambda keys: keys.confirm_root(OPERATOR, "../unlock", None),
            lambda keys: keys.retire(OPERATOR, "default.1.2"),
            lambda keys: keys.retire(OPERATOR, "x"),
            lambda keys: keys.register_backup(OPERATOR, "a/b"),
            lambda keys: keys.forget_backup(OPERATOR, "\n"),
        ],
    )
    async def test_no_name_is_made_of_what_is_none(
        self, opened: Rig, do: Callable[[KeyService], Awaitable[object]]
    ) -> None:
        """What would lead a decision or a line of the log astray is refused before there is either."""
        before = opened.lines()

        with pytest.raises((Invalid, NotFound)):
            await do(opened.keys)

        assert [line for line in opened.lines() if line not in before or "places/secrets/db/" in line[1]] in (
            [],
            [("put", "system/keyring/places/secrets/db/", "allowed")],
        )


class TestStates:
    """What the service says of itself, from the first day on."""

    async def test_from_nothing_to_unlocked(self, rig: Rig) -> None:
        """Without keys it is uninitialized, with keys for people locked, with one of these unlocked."""
        assert (rig.keys.state, (await rig.keys.whole_state())[0]) == ("uninitialized", "uninitialized")
        with pytest.raises(Uninitialized):
            await rig.write("a")

        made = await rig.keys.initialize(OPERATOR, "unlock", total=3)
        status = await rig.keys.status(OPERATOR)
        assert (rig.keys.state, status.state, status.root) == ("locked", "locked", made.root)
        assert [each.kind for each in status.recipients] == ["unlock"] * 3
        assert status.keysets == []

        await rig.keys.unlock(OPERATOR, made.keys[1].reveal())
        assert (rig.keys.state, (await rig.keys.whole_state())[0]) == ("unlocked", "unlocked")

        await rig.keys.lock(OPERATOR)
        assert rig.keys.state == "locked"
        with pytest.raises(Locked):
            await rig.write("a")

    async def test_a_file_opens_it_again(self, opened: Rig) -> None:
        """A service that a key file opens is unlocked again with nothing typed."""
        await opened.keys.lock(OPERATOR)
        assert opened.keys.state == "locked"

        await opened.keys.unlock(OPERATOR, None)
        assert await opened.read("a") == [b"value of a"]

    async def test_a_second_keyring_is_refused(self, opened: Rig) -> None:
        """Whoever initializes twice is told, and nothing is changed."""
        with pytest.raises(Exists):
            await opened.keys.initialize(OPERATOR, "unlock", total=3)
        assert await opened.read("a") == [b"value of a"]

    async def test_wrong_keys_are_counted_slowed_and_written_down(self, rig: Rig) -> None:
        """A wrong key leaves it as locked as it was; the status counts them, and the log says that it failed."""
        made = await rig.keys.initialize(OPERATOR, "unlock", total=3)
        [(wrong, _)] = make_keys(1)

        with pytest.raises(WrongKey):
            await rig.keys.unlock(OPERATOR, wrong.reveal())
        assert rig.lines()[-2:] == [
            ("put", "system/keyring/unlock", "allowed"),
            ("put", "system/keyring/unlock", "failed"),
        ]
        with pytest.raises(TooManyAttempts):
            await rig.keys.unlock(OPERATOR, made.keys[0].reveal())
        status = await rig.keys.status(OPERATOR)
        assert (status.state, status.wrong_keys, status.wait) == ("locked", 1, 0.25)

        rig.now[0] += 0.25
        await rig.keys.unlock(OPERATOR, made.keys[0].reveal())
        assert (await rig.keys.status(OPERATOR)).wrong_keys == 0

    async def test_what_is_under_way(self, opened: Rig) -> None:
        """It is rotating while old rows or a prepared root key are left, and says what goes on with each."""
        await opened.keys.rotate(OPERATOR, "default", None)
        await opened.keys.create_keyset(OPERATOR, "hosts", 2)
        await opened.keys.assign(OPERATOR, "secrets/hosts/", "hosts")
        made = await opened.keys.prepare_root(OPERATOR, "unlock", total=2)
        status = await opened.keys.status(OPERATOR)

        assert (opened.keys.state, (await opened.keys.whole_state())[0], status.state) == (
            "unlocked",
            "rotating",
            "rotating",
        )
        assert [(each.what, each.keyset, each.records) for each in status.pending] == [
            ("re-encrypt", "default", 5),
            ("re-encrypt", "hosts", 0),
            ("confirm", None, None),
        ]
        assert [(step.verb, step.options) for each in status.pending for step in each.next] == [
            ("key reencrypt", {"keyset": "default"}),
            ("key reencrypt", {"keyset": "hosts"}),
            ("key rotate root", {"confirm": made.root}),
        ]

        await opened.keys.abandon_root(OPERATOR, made.root)
        assert (await opened.sweep(None)).settled
        assert (await opened.keys.status(OPERATOR)).state == "unlocked"

    async def test_a_store_that_is_gone_hides_no_state(self, opened: Rig) -> None:
        """Whether it is unlocked can be told without the store."""
        opened.store.faults = dict.fromkeys(range(1000), Fault.BEFORE)

        assert (await opened.keys.whole_state())[0] == "unlocked"
        opened.store.faults = {}

    async def test_a_damaged_keyring_says_what_to_do(self, opened: Rig) -> None:
        """What the operator must mend is an answer with the text that says how, not a failure of the service."""
        await opened.keys.lock(OPERATOR)
        (opened.audit.parent / "secrets.key").unlink()

        with pytest.raises(Unusable, match="there is no root key file at"):
            await opened.keys.unlock(OPERATOR, None)


class TestTheRootKey:
    """What people are given, and what it takes for it to count."""

    async def test_the_service_stays_unlocked(self, rig: Rig) -> None:
        """After a rotation the old keys open nothing, the new ones do, and no secret was out of reach meanwhile."""
        old = await rig.keys.initialize(OPERATOR, "unlock", total=3)
        await rig.keys.unlock(OPERATOR, old.keys[0].reveal())
        await rig.write("a")

        new = await rig.keys.prepare_root(OPERATOR, "shares", total=3, needed=2)
        await rig.keys.confirm_root(OPERATOR, new.root, typed(new.keys[:2]))
        assert rig.keys.state == "unlocked"
        assert await rig.read("a") == [b"value of a"]

        await rig.keys.lock(OPERATOR)
        with pytest.raises(WrongKey):
            await rig.keys.unlock(OPERATOR, old.keys[0].reveal())
        rig.now[0] += 60
        await rig.keys.unlock(OPERATOR, typed(new.keys[1:]))
        assert await rig.read("a") == [b"value of a"]

    async def test_another_worker_that_was_too_quick_locks_nobody_out(self, rig: Rig) -> None:
        """A worker that meets the new root key first locks the service; the keys that were typed unlock it again."""
        old = await rig.keys.initialize(OPERATOR, "unlock", total=3)
        await rig.keys.unlock(OPERATOR, old.keys[0].reveal())
        new = await rig.keys.prepare_root(OPERATOR, "unlock", total=1)
        other = Holder(rig.store, rig.shared, [])
        await other.open()
        ring = await other.sync()
        commit = rig.store.commit
        refused: list[Locked] = []

        async def quick(changes: Sequence[Change]) -> int:
            revision = await commit(changes)
            sealed = await stored.read(rig.store)
            if sealed is not None and sealed.root == new.root and not refused:
                with pytest.raises(Locked) as told:
                    await other.refresh(ring)
                refused.append(told.value)
            return revision

        rig.store.commit = quick  # type: ignore[method-assign]
        await rig.keys.confirm_root(OPERATOR, new.root, new.keys[0].reveal())

        assert len(refused) == 1
        assert rig.keys.state == "unlocked"
        await rig.write("a")
        await other.close()

    async def test_only_root_keys_that_were_prepared(self, opened: Rig) -> None:
        """What typed keys do not open, and what was never prepared, changes nothing."""
        made = await opened.keys.prepare_root(OPERATOR, "unlock", total=2)

        with pytest.raises(Invalid):
            await opened.keys.confirm_root(OPERATOR, made.root, made.keys[0].reveal())
        with pytest.raises(NotFound):
            await opened.keys.abandon_root(OPERATOR, KID)
        assert (await opened.keys.status(OPERATOR)).root != made.root


class TestSteps:
    """Re-encryption goes in steps, of the size and at the pace that whoever asks for one says."""

    @pytest.mark.parametrize("wanted", [{"limit": 0}, {"limit": 1001}, {"pace": 0.0}, {"pace": 1.1}, {"pace": nan}])
    async def test_what_is_no_step(self, opened: Rig, wanted: dict[str, Any]) -> None:
        """A step that could not be ended in time, or could not begin, is refused."""
        with pytest.raises(Invalid):
            await opened.keys.reencrypt(OPERATOR, "default", **wanted)


class TestReversals:
    """What was begun is finished, or reverted; and where neither can be, nothing more is written and every key kept."""

    async def test_a_rotation_is_reverted(self, opened: Rig) -> None:
        """All records are brought back to the generation before, whether they were moved or written meanwhile."""
        await opened.keys.rotate(OPERATOR, "default", None)
        await opened.keys.reencrypt(OPERATOR, "default", limit=2)
        await opened.write("f")

        await opened.keys.revert(OPERATOR, "default")
        [pending] = (await opened.keys.status(OPERATOR)).pending
        assert (pending.what, pending.records) == ("revert", 3)

        assert (await opened.sweep()).settled
        assert (await opened.keys.usage(OPERATOR)).generations == {"access.1": 0, "default.1": 6, "default.2": 0}
        await opened.keys.retire(OPERATOR, "default.2")
        assert await opened.read("a", "f") == [b"value of a", b"value of f"]

    async def test_what_does_not_open_stops_nothing_on_the_way(self, opened: Rig) -> None:
        """A damaged record is named and left, the others are moved, and what is left keeps the keyset from settling."""
        await opened.damage("b")
        await opened.keys.rotate(OPERATOR, "default", None)

        said = await opened.sweep()
        assert (said.settled, said.left) == (False, ("secrets/b",))
        assert await opened.read("a", "c", "d", "e") == [b"value of " + each for each in (b"a", b"c", b"d", b"e")]
        with pytest.raises(InUse):
            await opened.keys.retire(OPERATOR, "default.1")

    async def halted(self, opened: Rig) -> Halted:
        """Let a reversal meet a record that does not open, and return what is said then."""
        await opened.keys.rotate(OPERATOR, "default", None)
        assert (await opened.sweep()).settled
        await opened.damage("b")
        await opened.keys.revert(OPERATOR, "default")
        with pytest.raises(Halted) as told:
            await opened.sweep()
        return told.value

    async def test_a_reversal_that_fails_halts(self, opened: Rig, caplog: pytest.LogCaptureFixture) -> None:
        """No secret is written, all can be read, no key goes; the answer says what is left where, and what to do."""
        told = await self.halted(opened)

        assert "default.2: secrets/b" in told.holders
        assert set(told.holders) <= {f"default.2: secrets/{name}" for name in "abcde"}
        assert told.next == (Step("go on with", "key reencrypt", {"keyset": "default", "resume": True}),)
        assert [(record.levelno, vars(record)["next"]) for record in caplog.records] == [(logging.ERROR, told.next)]
        with pytest.raises(Halted):
            await opened.write("x")
        assert await opened.read("a", "e") == [b"value of a", b"value of e"]
        with pytest.raises(InUse):
            await opened.keys.retire(OPERATOR, "default.2")
        status = await opened.keys.status(OPERATOR)
        assert (opened.keys.state, (await opened.keys.whole_state())[0], status.state) == ("fatal", "fatal", "fatal")
        assert status.halted is not None
        (step,) = status.pending[0].next
        assert (status.halted.keyset, step.verb, step.options) == ("default", "key reencrypt", told.next[0].options)

    async def test_only_the_halted_keyset_is_resumed(self, opened: Rig) -> None:
        """To resume another keyset, or one that does not exist, ends no halt."""
        await self.halted(opened)

        for name, error in (("access", Invalid), ("none", Invalid)):
            with pytest.raises(error):
                await opened.keys.resume(OPERATOR, name, leave_unreadable=True)
        assert (await opened.keys.status(OPERATOR)).halted is not None

    async def test_a_halt_outlives_the_service(self, opened: Rig) -> None:
        """It stands in the store: a service that begins anew writes nothing either."""
        await self.halted(opened)

        holder = Holder(opened.store, SharedRoot(), [KeyFile(opened.audit.parent / "secrets.key")])
        await holder.open()
        with pytest.raises(Halted):
            await EncryptedBackend(opened.store, holder).commit([Put("secrets/x", b"x")])
        await holder.close()

    async def test_it_is_resumed_when_nothing_is_left(self, opened: Rig) -> None:
        """When the record that was in the way is gone, the sweep goes on and secrets are written again."""
        await self.halted(opened)
        with pytest.raises(Halted, match="not reverted yet"):
            await opened.keys.resume(OPERATOR, "default", leave_unreadable=False)

        await opened.secrets.commit([Delete("secrets/b")])
        assert (await opened.sweep(resume=True)).settled
        await opened.keys.resume(OPERATOR, "default", leave_unreadable=False)

        await opened.write("x")
        assert (await opened.keys.usage(OPERATOR)).generations == {"access.1": 0, "default.1": 5, "default.2": 0}
        assert (await opened.keys.status(OPERATOR)).state == "unlocked"

    async def test_it_is_resumed_without_what_does_not_open(self, opened: Rig) -> None:
        """Told to leave it, the service brings back all others and writes again; what is left is still told of."""
        await self.halted(opened)

        said = await opened.sweep(resume=True)
        assert (said.settled, said.left) == (False, ("secrets/b",))
        await opened.keys.resume(OPERATOR, "default", leave_unreadable=True)

        await opened.write("x")
        assert (await opened.keys.usage(OPERATOR)).generations == {"access.1": 0, "default.1": 5, "default.2": 1}
        [pending] = (await opened.keys.status(OPERATOR)).pending
        assert (pending.what, pending.records) == ("re-encrypt", 1)

    async def test_a_store_that_refuses_halts_too(self, opened: Rig) -> None:
        """A reversal that the store refuses again and again halts the keyring, if that much can be written."""
        await opened.keys.rotate(OPERATOR, "default", None)
        assert (await opened.sweep()).settled
        await opened.keys.revert(OPERATOR, "default")
        opened.store.refuses = lambda name: name.startswith("secrets/")

        with pytest.raises(Halted, match="the store refuses"):
            await opened.sweep()
        assert (await opened.keys.status(OPERATOR)).halted is not None

        opened.store.refuses = lambda _: False
        assert (await opened.sweep(resume=True)).settled
        await opened.keys.resume(OPERATOR, "default", leave_unreadable=False)
        await opened.write("x")

    async def test_where_not_even_that_is_written_the_workers_halt(self, opened: Rig) -> None:
        """A store that takes nothing leaves the halt to the memory that the workers share, until somebody resumes."""
        await opened.keys.rotate(OPERATOR, "default", None)
        assert (await opened.sweep()).settled
        await opened.keys.revert(OPERATOR, "default")
        opened.store.refuses = lambda _: True

        with pytest.raises(Halted):
            await opened.sweep()
        opened.store.refuses = lambda _: False
        other = Holder(opened.store, opened.shared, [])
        await other.open()
        with pytest.raises(Halted):
            await EncryptedBackend(opened.store, other).commit([Put("secrets/x", b"x")])
        assert opened.keys.state == "fatal"

        assert (await opened.sweep(resume=True)).settled
        await opened.keys.resume(OPERATOR, "default", leave_unreadable=False)
        await EncryptedBackend(opened.store, other).commit([Put("secrets/x", b"x")])
        await other.close()

    async def test_one_refusal_is_no_reason_to_halt(self, opened: Rig) -> None:
        """A store that refuses once and then takes it lets the reversal go on."""
        await opened.keys.rotate(OPERATOR, "default", None)
        assert (await opened.sweep()).settled
        await opened.keys.revert(OPERATOR, "default")
        refusals = iter([True])
        opened.store.refuses = lambda name: name.startswith("secrets/") and next(refusals, False)

        assert (await opened.sweep()).settled


class TestWhileLocked:
    """Who is known while nothing can be opened."""

    async def test_keys_are_known_beforehand(self, opened: Rig) -> None:
        """A key that this worker has seen while it was unlocked makes its principal; one that it has not is Locked."""
        elsewhere = ApiKeys(directory_of(opened.store, opened.secrets), ("own", Secret("own-key")))
        known, _ = await elsewhere.create("known", ["/secrets"], ["get"])
        await opened.keys.lock(OPERATOR)
        with pytest.raises(Locked):
            await opened.apikeys.authenticate("known", known.reveal())

        await opened.keys.unlock(OPERATOR, None)
        async with asyncio.timeout(30):
            while not opened.apikeys.knows("known"):
                await asyncio.sleep(0)
        await opened.keys.lock(OPERATOR)

        principal = await opened.apikeys.authenticate("known", known.reveal())
        assert principal is not None
        assert principal.id == "apikey:known"
        assert await opened.apikeys.authenticate("known", "wrong") is None

    async def test_a_planted_key_hides_no_other(self, opened: Rig) -> None:
        """A record that does not open keeps nobody else from being known."""
        known, _ = await opened.apikeys.create("known", ["/secrets"], ["get"])
        await opened.store.commit([Put("system/access/apikeys/a", b"planted")])
        await opened.keys.lock(OPERATOR)
        await opened.keys.unlock(OPERATOR, None)
        async with asyncio.timeout(30):
            while not opened.apikeys.knows("known"):
                await asyncio.sleep(0)
        await opened.keys.lock(OPERATOR)

        assert await opened.apikeys.authenticate("known", known.reveal()) is not None


async def test_nothing_of_a_key_is_shown(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """Reprs of what carries keys, log and audit log hold none of them."""
    caplog.set_level(logging.DEBUG)
    made = await rig.keys.initialize(OPERATOR, "unlock", total=3)
    await rig.keys.unlock(OPERATOR, made.keys[0].reveal())
    new = await rig.keys.prepare_root(OPERATOR, "shares", total=3, needed=2)
    await rig.keys.confirm_root(OPERATOR, new.root, typed(new.keys))

    said = repr(made) + repr(new) + repr(keys_shown(made)) + caplog.text + rig.audit.read_text()
    pieces = [piece for key in made.keys for piece in key.reveal().split("-")[1:]] + [
        " ".join(key.reveal().split()[4:7]) for key in new.keys
    ]
    assert [piece for piece in pieces if piece in said] == []

"""The door to users, services and groups: who may do what, for whom, and what is written down of it."""

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from strongroom.models.access import ADMINISTRATORS, Kind, Right, Role, Rule
from strongroom.models.secret import Secret
from strongroom.storage_service.access.apikeys import ApiKeys
from strongroom.storage_service.access.base import ALL_ACTIONS, Action, Principal
from strongroom.storage_service.access.directory import Snapshot
from strongroom.storage_service.access.limits import FREE, Slowdown
from strongroom.storage_service.access.paths import Reach
from strongroom.storage_service.access.principals import Principals
from strongroom.storage_service.access.ruling import Ruling
from strongroom.storage_service.audit.log import AuditLog
from strongroom.storage_service.backends.base import MAX_PAGE
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import Denied, Exists, Invalid, NotFound, ServiceError, TooManyAttempts
from strongroom.storage_service.keyring.overlay import EncryptedBackend
from strongroom.storage_service.keyring.ring import DataKey, Ring
from strongroom.storage_service.services.door import Caller, Door
from strongroom.storage_service.services.principals import PrincipalService
from strongroom.storage_service.wire.access import NewCredential
from strongroom.storage_service.wire.http1 import Peer
from tests.audit_lines import audit_lines
from tests.directories import directory_of
from tests.keyring.fixed import Fixed

USER, SERVICE = Kind.USER, Kind.SERVICE
OPERATOR: Final = Caller(Principal("apikey:operator"), "request-1")
USERS: Final = "system/access/users/"
GROUPS: Final = "system/access/groups/"
ADMINISTRATION: Final = GROUPS + ADMINISTRATORS
HASH: Final = f"$argon2id$v=19$m=65536,t=3,p=4${'x' * 22}${'y' * 43}"
KEY: Final = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB"
CANARY: Final = "canary-5f1d-long-enough"


class Granted:
    """Rules, as far as this page needs any: *rights* are who may do which action to which name."""

    def __init__(self, rights: Iterable[tuple[str, Action, str]] = ()) -> None:
        self.rights = set(rights)

    def decide(self, principal: Principal, action: Action, name: str) -> bool | None:
        """Return whether somebody who is ruled may; None where no rule speaks of it."""
        return True if principal.ruled and (principal.id, action, name) in self.rights else None

    def rules_out(self, principal: Principal, action: Action, below: str) -> bool:
        """Return False: it cannot tell."""
        del principal, action, below
        return False

    def tops(self, principal: Principal) -> Iterable[str]:
        """Return none."""
        del principal
        return ()

    def own_container(self, principal: Principal) -> str | None:
        """Return None."""
        del principal
        return None


def ruled(who: str) -> Caller:
    """Return somebody who has a record, and for whom rules decide."""
    return Caller(Principal(who, ruled=True), "request-2")


def narrow(*actions: Action, paths: tuple[str, ...] = ("/",)) -> Caller:
    """Return a key that does not reach everything."""
    return Caller(Principal("apikey:narrow", paths, frozenset(actions)), "request-2")


def uid(number: int, name: str = "") -> NewCredential:
    """Return a process's user."""
    return NewCredential(kind="process", data=str(number), name=name)


def word_of(name: str = "", **more: Any) -> NewCredential:
    """Return a password, which everybody may give himself."""
    return NewCredential(kind="password", data="long-enough", name=name, **more)


@dataclass
class Rig:
    """The service, its store, its rules and its audit log."""

    principals: PrincipalService
    records: Principals
    store: MemoryBackend
    granted: Granted
    audit: Path
    clock: list[float]  # the moment of what slows, as its only entry

    def lines(self, request: str = "request-2") -> list[tuple[str, str, str]]:
        """What was written down of one caller: action, name and decision."""
        lines = audit_lines(self.audit)
        return [(line["action"], line["name"], line["decision"]) for line in lines if line["request"] == request]

    async def rows(self) -> dict[str, bytes]:
        """All that the store holds."""
        page = await self.store.list("", None, MAX_PAGE)
        return {name: entry.value for name, entry in (await self.store.get_many(page.names)).items()}


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """Ann administers, and so does adam; bob manages the group ops, in which the service runner is; eve waits."""
    store = MemoryBackend()
    await store.open()
    audit = AuditLog(tmp_path / "audit.log")
    audit.open()
    ring = Ring([DataKey("default.1", bytes(64))])
    directory = directory_of(store, EncryptedBackend(store, Fixed(ring)))
    granted = Granted()
    door = Door((Reach(), granted), audit)
    ApiKeys(directory, ("own", Secret("own-key")))
    records = Principals(directory, reserved=["own"], random=lambda: "code-of-eve")
    clock = [1000.0]
    principals = PrincipalService(door, records, Slowdown(lambda: clock[0]))
    for number, name in enumerate(("ann", "adam", "bob")):
        proofs = [uid(number, "first"), uid(number + 50, "second")]
        await principals.add(OPERATOR, USER, name, proofs, admin=name.startswith("a"))
    await principals.add(OPERATOR, SERVICE, "runner", [uid(10)])
    await principals.add(OPERATOR, USER, "eve", window=3600)
    await principals.add_group(OPERATOR, "ops")
    await principals.add_member(OPERATOR, "ops", "user:bob", Role.MANAGER)
    await principals.add_member(OPERATOR, "ops", "service:runner", Role.MEMBER)
    yield Rig(principals, records, store, granted, tmp_path / "audit.log", clock)
    await door.close()
    await directory.close()
    await audit.close()


Do = Callable[[PrincipalService, Caller], Awaitable[object]]

# Each verb that looks at something: what it needs, on which name.
LOOKS: Final[dict[str, tuple[Do, Action, str]]] = {
    "page": (lambda to, who: to.page(who, USER), Action.LIST, USERS),
    "get": (lambda to, who: to.get(who, USER, "bob"), Action.GET, USERS + "bob"),
    "groups": (lambda to, who: to.groups(who), Action.LIST, GROUPS),
    "group": (lambda to, who: to.group(who, "ops"), Action.GET, GROUPS + "ops"),
}
# Each verb that changes something.
CHANGES: Final[dict[str, tuple[Do, Action, str]]] = {
    "add": (lambda to, who: to.add(who, USER, "carl"), Action.CREATE, USERS + "carl"),
    "remove": (lambda to, who: to.remove(who, USER, "bob"), Action.DELETE, USERS + "bob"),
    "disable": (lambda to, who: to.disable(who, USER, "bob", disabled=True), Action.MODIFY, USERS + "bob"),
    "end_tokens": (lambda to, who: to.end_tokens(who, USER, "bob", timedelta(hours=1)), Action.MODIFY, USERS + "bob"),
    "add_credential": (
        lambda to, who: to.add_credential(who, USER, "bob", uid(77)),
        Action.MODIFY,
        USERS + "bob",
    ),
    "remove_credential": (
        lambda to, who: to.remove_credential(who, USER, "bob", "first"),
        Action.MODIFY,
        USERS + "bob",
    ),
    "add_group": (lambda to, who: to.add_group(who, "web"), Action.CREATE, GROUPS + "web"),
    "remove_group": (lambda to, who: to.remove_group(who, "ops"), Action.DELETE, GROUPS + "ops"),
    "add_member": (lambda to, who: to.add_member(who, "ops", "user:ann", Role.MEMBER), Action.MODIFY, GROUPS + "ops"),
    "remove_member": (lambda to, who: to.remove_member(who, "ops", "user:bob"), Action.MODIFY, GROUPS + "ops"),
}
NO_VERBS: Final = {"expect", "expect_group", "set_up"}  # of strangers, below


def word(action: Action) -> str:
    """Return what the audit log calls it."""
    return str(action.word)


def test_every_verb_is_here() -> None:
    """A verb that the service gains must say here what it needs."""
    found = {name for name, _ in inspect.getmembers(PrincipalService, inspect.isfunction) if not name.startswith("_")}

    assert found == NO_VERBS | LOOKS.keys() | CHANGES.keys()


@pytest.mark.parametrize("verb", [*LOOKS, *CHANGES])
async def test_who_reaches_everything_does_it(rig: Rig, verb: str) -> None:
    """A key that reaches everything does each of them, and one line says so."""
    do, action, name = (LOOKS | CHANGES)[verb]

    await do(rig.principals, Caller(Principal("apikey:whole"), "request-2"))

    assert rig.lines() == [(word(action), name, "allowed")]


@pytest.mark.parametrize("verb", CHANGES)
@pytest.mark.parametrize(
    "caller",
    [
        narrow(*ALL_ACTIONS, paths=("/system/access",)),
        narrow(*ALL_ACTIONS, paths=("/system", "/secrets")),
        narrow(Action.PUT, Action.DELETE),
        narrow(*ALL_ACTIONS, paths=("/secrets",)),
        ruled("user:mallory"),
    ],
    ids=["access alone", "all but hosts", "no looking", "secrets", "no rule"],
)
async def test_nobody_else_changes_anything(rig: Rig, verb: str, caller: Caller) -> None:
    """No narrow key, though it reaches all of access, and nobody without a rule: the store stays, a line says so."""
    do, action, name = CHANGES[verb]
    before = await rig.rows()

    with pytest.raises(Denied):
        await do(rig.principals, caller)

    assert await rig.rows() == before
    assert rig.lines() == [(word(action), name, "denied")]


@pytest.mark.parametrize("verb", LOOKS)
async def test_a_look_takes_its_action_on_its_name(rig: Rig, verb: str) -> None:
    """A key that may look there does."""
    do, action, name = LOOKS[verb]

    await do(rig.principals, narrow(action, paths=("/system/access",)))

    assert rig.lines() == [(word(action), name, "allowed")]


@pytest.mark.parametrize("verb", LOOKS)
@pytest.mark.parametrize("lacking", ["the action", "the name", "a rule"])
async def test_nobody_else_looks(rig: Rig, verb: str, lacking: str) -> None:
    """A key that lacks the action or does not reach the name, and who has no rule, sees nothing."""
    do, action, name = LOOKS[verb]
    elsewhere = narrow(*ALL_ACTIONS, paths=("/secrets",))
    caller = {"the action": narrow(*ALL_ACTIONS - {action}), "the name": elsewhere, "a rule": ruled("user:mallory")}

    with pytest.raises(Denied):
        await do(rig.principals, caller[lacking])

    assert rig.lines() == [(word(action), name, "denied")]


@pytest.mark.parametrize("verb", [*LOOKS, *CHANGES])
async def test_a_rule_on_the_name_is_enough(rig: Rig, verb: str) -> None:
    """Whoever has the one right to the one name does it, of all who are ruled."""
    do, action, name = (LOOKS | CHANGES)[verb]
    rig.granted.rights = {("user:mallory", action, name)}

    await do(rig.principals, ruled("user:mallory"))

    assert rig.lines() == [(word(action), name, "allowed")]


_TO_ANN: Final[dict[str, tuple[Do, Action]]] = {
    "remove": (lambda to, who: to.remove(who, USER, "ann"), Action.DELETE),
    "disable": (lambda to, who: to.disable(who, USER, "ann", disabled=True), Action.MODIFY),
    "enable": (lambda to, who: to.disable(who, USER, "ann", disabled=False), Action.MODIFY),
    "add_credential": (lambda to, who: to.add_credential(who, USER, "ann", uid(66)), Action.MODIFY),
    "end_tokens": (lambda to, who: to.end_tokens(who, USER, "ann"), Action.MODIFY),
}


@pytest.mark.parametrize("verb", _TO_ANN)
async def test_who_may_change_users_does_not_become_an_administrator(rig: Rig, verb: str) -> None:
    """A right to a user is none to an administrator: it takes the right to the group of administrators as well."""
    do, action = _TO_ANN[verb]
    rig.granted.rights = {("user:mallory", each, USERS + "ann") for each in Action}
    before = await rig.rows()

    with pytest.raises(Denied):
        await do(rig.principals, ruled("user:mallory"))

    assert await rig.rows() == before
    assert rig.lines() == [("put", ADMINISTRATION, "denied")]
    rig.granted.rights.add(("user:mallory", Action.MODIFY, ADMINISTRATION))
    await do(rig.principals, ruled("user:mallory"))
    assert rig.lines()[1:] == [(word(action), USERS + "ann", "allowed"), ("put", ADMINISTRATION, "allowed")]


async def test_to_make_an_administrator_takes_the_right_to_their_group(rig: Rig) -> None:
    """Who may make users makes no administrator of one."""
    rig.granted.rights = {("user:mallory", Action.CREATE, USERS + "carl")}

    with pytest.raises(Denied):
        await rig.principals.add(ruled("user:mallory"), USER, "carl", admin=True)

    with pytest.raises(NotFound):
        await rig.records.get(USER, "carl")
    with pytest.raises(Denied):
        await rig.principals.add_member(ruled("user:mallory"), ADMINISTRATORS, "user:mallory", Role.MEMBER)


# For oneself


_OWN: Final[dict[str, Do]] = {
    "get": lambda to, who: to.get(who, USER, "bob"),
    "add_credential": lambda to, who: to.add_credential(who, USER, "bob", word_of()),
    "remove_credential": lambda to, who: to.remove_credential(who, USER, "bob", "first"),
    "end_tokens": lambda to, who: to.end_tokens(who, USER, "bob"),
}


@pytest.mark.parametrize("verb", _OWN)
async def test_for_oneself_it_takes_no_rule(rig: Rig, verb: str) -> None:
    """One looks at oneself, and adds, removes and ends what is one's own; that is written down."""
    await rig.principals.expect(ruled("user:bob"), Action.MODIFY, USER, "bob")
    await _OWN[verb](rig.principals, ruled("user:bob"))

    assert rig.lines() == [("get" if verb == "get" else "put", USERS + "bob", "allowed")]


@pytest.mark.parametrize("verb", _OWN)
@pytest.mark.parametrize(
    "who",
    [
        Principal("service:bob", ruled=True),
        Principal("user:Bob", ruled=True),
        Principal("user:ann", ruled=True),
        Principal("user:bob", ("/secrets",)),
        Principal("apikey:bob", ("/secrets",), ruled=False),
    ],
    ids=lambda who: f"{who.id}-{who.ruled}",
)
async def test_nobody_else_is_oneself(rig: Rig, verb: str, who: Principal) -> None:
    """Another kind, another case, an administrator by name alone, and a key of the name are not that one."""
    before = await rig.rows()

    with pytest.raises(Denied):
        await _OWN[verb](rig.principals, Caller(who, "request-2"))

    assert await rig.rows() == before


@pytest.mark.parametrize(
    "credential",
    [
        uid(0),
        NewCredential(kind="certificate", data="SHA256:" + "ab" * 32),
        NewCredential(kind="certificate", data="spiffe://example.net/runner"),
        NewCredential(kind="password", data=HASH, hashed=True),
    ],
    ids=["uid", "fingerprint", "uri", "hash"],
)
async def test_what_nobody_proves_takes_a_right(rig: Rig, credential: NewCredential) -> None:
    """Nobody says by himself that root's processes or a certificate's holder are he, nor what a sign-in costs."""
    bob = ruled("user:bob")
    await rig.principals.remove_credential(OPERATOR, USER, "ann", "first")  # who was uid 0
    before = await rig.rows()
    with pytest.raises(Denied, match="by oneself"):
        await rig.principals.add_credential(bob, USER, "bob", credential)
    assert await rig.rows() == before

    rig.granted.rights.add(("user:bob", Action.MODIFY, USERS + "bob"))
    await rig.principals.add_credential(bob, USER, "bob", credential)


async def test_ones_own_credential_ends_with_the_one_that_is_shown(rig: Rig) -> None:
    """Who came in by one that expires gives himself none that lasts longer, unless he has the right."""
    ends, later, sooner = "2090-01-01T00:00:00Z", "2090-01-01T00:00:01Z", "2089-01-01T00:00:00Z"
    shown = await rig.principals.add_credential(OPERATOR, USER, "bob", word_of(expires=ends))
    bob = Caller(Principal("user:bob", ruled=True, credential=shown.id), "request-2")

    with pytest.raises(Denied, match="outlives"):
        await rig.principals.add_credential(bob, USER, "bob", word_of(expires=later))
    assert (await rig.principals.add_credential(bob, USER, "bob", word_of())).expires == ends
    assert (await rig.principals.add_credential(bob, USER, "bob", word_of(expires=sooner))).expires == sooner
    with pytest.raises(Invalid):
        await rig.principals.add_credential(bob, USER, "bob", word_of(expires="tomorrow"))
    rig.granted.rights.add(("user:bob", Action.MODIFY, USERS + "bob"))
    assert (await rig.principals.add_credential(bob, USER, "bob", word_of(expires=later))).expires == later


@pytest.mark.parametrize("verb", ["remove", "disable"])
async def test_what_one_does_not_do_to_oneself(rig: Rig, verb: str) -> None:
    """To remove oneself, or let oneself in again, takes a right."""
    with pytest.raises(Denied):
        await CHANGES[verb][0](rig.principals, ruled("user:bob"))


async def test_a_process_is_not_a_service_of_its_number(rig: Rig) -> None:
    """A process that the kernel calls 1000 is not who has a record, whatever records there are."""
    with pytest.raises(Invalid):
        await rig.principals.add(OPERATOR, SERVICE, "1000")
    with pytest.raises(Denied):
        await rig.principals.add_credential(
            Caller(Principal("service:1000", ("/secrets",)), "request-2"), SERVICE, "runner", uid(5)
        )


# Managers


async def test_a_manager_says_who_is_in_its_group(rig: Rig) -> None:
    """It looks at the group, adds and removes members and makes managers, which is written down; it takes no rule."""
    bob = ruled("user:bob")
    await rig.principals.expect_group(bob, Action.MODIFY, "ops")
    assert (await rig.principals.group(bob, "ops")).record is not None
    await rig.principals.add_member(bob, "ops", "user:ann", Role.MANAGER)
    await rig.principals.remove_member(bob, "ops", "service:runner")

    (_, record) = await rig.principals.group(OPERATOR, "ops")
    assert record is not None
    assert record.members == {"user:bob": Role.MANAGER, "user:ann": Role.MANAGER}
    assert rig.lines() == [("get", GROUPS + "ops", "allowed"), *[("put", GROUPS + "ops", "allowed")] * 2]


@pytest.mark.parametrize(
    ("who", "group"),
    [("user:bob", ADMINISTRATORS), ("service:runner", "ops"), ("user:bob", "nothing"), ("user:eve", "ops")],
)
async def test_no_other_does(rig: Rig, who: str, group: str) -> None:
    """A manager of another group, a mere member and a stranger do not, and a group that is none is refused alike."""
    before = await rig.rows()
    for do in (
        lambda: rig.principals.expect_group(ruled(who), Action.MODIFY, group),
        lambda: rig.principals.add_member(ruled(who), group, who, Role.MANAGER),
        lambda: rig.principals.remove_member(ruled(who), group, "user:ann"),
    ):
        with pytest.raises(Denied):
            await do()
    for do in (
        lambda: rig.principals.remove_group(ruled("user:bob"), "ops"),
        lambda: rig.principals.expect_group(ruled("user:bob"), Action.CREATE, "ops"),
    ):
        with pytest.raises(Denied):
            await do()

    assert await rig.rows() == before


async def test_an_administrator_says_who_else_is_one(rig: Rig) -> None:
    """A manager of the administrators adds and removes them, but not the last."""
    ann = ruled("user:ann")
    await rig.principals.add_member(ann, ADMINISTRATORS, "user:bob", Role.MEMBER)
    await rig.principals.remove_member(ann, ADMINISTRATORS, "user:adam")
    await rig.principals.remove_member(ann, ADMINISTRATORS, "user:bob")

    with pytest.raises(ServiceError, match="last administrator"):
        await rig.principals.remove_member(ann, ADMINISTRATORS, "user:ann")


# What a rule denies


@pytest.fixture
async def denied(rig: Rig) -> AsyncIterator[tuple[Rig, PrincipalService]]:
    """The same service by real rules, which deny bob his own record and his group, and adam nothing."""
    ruling = Ruling()
    names = (USERS + "bob", GROUPS + "ops")
    deny = Rule(effect="deny", subjects=("user:bob",), actions=(Right.ACCESS,), names=names)
    ruling.take(Snapshot(rules={"not-bob": deny}))
    audit = AuditLog(rig.audit)
    audit.open()
    yield rig, PrincipalService(Door((Reach(), ruling), audit), rig.records, Slowdown())
    await audit.close()


_AS_MANAGER: Final[dict[str, Do]] = {
    "expect_group": lambda to, who: to.expect_group(who, Action.MODIFY, "ops"),
    "group": lambda to, who: to.group(who, "ops"),
    "add_member": lambda to, who: to.add_member(who, "ops", "user:ann", Role.MEMBER),
    "remove_member": lambda to, who: to.remove_member(who, "ops", "service:runner"),
}


@pytest.mark.parametrize("verb", [*_OWN, *_AS_MANAGER, "expect"])
async def test_a_rule_denies_what_is_ones_own(denied: tuple[Rig, PrincipalService], verb: str) -> None:
    """A rule that denies it stops what one does for oneself and as a manager, and the line names the rule."""
    rig, principals = denied
    do = (_OWN | _AS_MANAGER | {"expect": lambda to, who: to.expect(who, Action.MODIFY, USER, "bob")})[verb]
    before = await rig.rows()

    with pytest.raises(Denied):
        await do(principals, ruled("user:bob"))

    assert await rig.rows() == before
    (line,) = [each for each in audit_lines(rig.audit) if each["request"] == "request-2"]
    assert (line["decision"], line["decided"]["rules"]) == ("denied", ["not-bob"])
    assert line["decided"]["rights"] == ["access"]


async def test_what_no_rule_denies_is_on_record_as_it_was_decided(denied: tuple[Rig, PrincipalService]) -> None:
    """That nobody's rule allowed it, and that it was one's own, is in the line."""
    rig, principals = denied
    await principals.add_credential(ruled("user:adam"), USER, "adam", word_of())

    (line,) = [each for each in audit_lines(rig.audit) if each["request"] == "request-2"]
    assert (line["decision"], line["name"]) == ("allowed", USERS + "adam")
    assert line["decided"] | {"revision": 0} == line["decided"]
    assert (line["decided"]["rules"], line["decided"]["others"]) == ([], True)


async def test_a_token_for_less_does_not_change_its_bearer(rig: Rig) -> None:
    """Where credentials have bounds of their own, what is one's own lies within them or is refused."""
    bounded = Caller(Principal("user:bob", ("/secrets",), ruled=True), "request-2")
    before = await rig.rows()

    with pytest.raises(Denied):
        await rig.principals.add_credential(bounded, USER, "bob", word_of())

    assert await rig.rows() == before


# Listings


async def test_a_listing_shows_what_may_be_seen(rig: Rig) -> None:
    """Of all records those are told that the asker may list and read, by real rules; pages follow each other."""
    ruling = Ruling()
    rules = {
        "look": Rule(effect="allow", subjects=("user:mallory",), actions=(Right.ACCESS,), names=("system/access/**",)),
        "bob": Rule(effect="deny", subjects=("user:mallory",), actions=(Right.ACCESS,), names=(USERS + "bob",)),
    }
    ruling.take(Snapshot(rules=rules))
    audit = AuditLog(rig.audit)
    audit.open()
    principals = PrincipalService(Door((Reach(), ruling), audit), rig.records, Slowdown())

    page = await principals.page(ruled("user:mallory"), USER)

    assert [each.name for each in page.principals] == ["adam", "ann", "eve"]
    assert [each.name for each in await principals.groups(ruled("user:mallory"))] == [ADMINISTRATORS, "ops"]
    with pytest.raises(Denied):
        await principals.get(ruled("user:mallory"), USER, "bob")
    with pytest.raises(Denied):
        await principals.page(ruled("user:eve"), USER)
    await audit.close()
    found: list[str] = []
    while True:
        some = await rig.principals.page(OPERATOR, USER, found[-1] if found else "", 2)
        found += [each.name for each in some.principals]
        if not some.more:
            break
    assert found == ["adam", "ann", "bob", "eve"]


# Setting up


def stranger(address: str = "192.0.2.7") -> Caller:
    """Return somebody whom nobody knows."""
    return Caller(Principal("unknown", (), frozenset()), "request-2", Peer(7, 1000, 1000), None, address, True)


async def test_who_has_the_code_sets_itself_up(rig: Rig) -> None:
    """It is written down as the principal's own act, from where it came; the code is good once."""
    await rig.principals.set_up(stranger(), "user:eve", "code-of-eve", word_of("laptop"))

    (line,) = [line for line in audit_lines(rig.audit) if line["request"] == "request-2"]
    assert (line["principal"], line["action"], line["name"], line["decision"]) == (
        "user:eve",
        "put",
        USERS + "eve",
        "allowed",
    )
    assert line["from"] == "192.0.2.7"
    assert [each.name for each in (await rig.records.get(USER, "eve")).credentials] == ["laptop"]
    with pytest.raises(Denied):
        await rig.principals.set_up(stranger(), "user:eve", "code-of-eve", word_of())


@pytest.mark.parametrize("who", ["user:eve", "user:bob", "user:nobody", "service:eve", f"user:{CANARY}"])
async def test_strangers_write_nothing(rig: Rig, who: str) -> None:
    """A wrong code writes no record, and one line, of whom it was said to be if there is such a one."""
    before = await rig.rows()
    caller = stranger()

    with pytest.raises(Denied) as caught:
        await rig.principals.set_up(caller, who, CANARY, NewCredential(kind="password", data=CANARY))

    assert await rig.rows() == before
    assert CANARY not in str(caught.value)
    assert CANARY not in rig.audit.read_text()
    (line,) = [line for line in audit_lines(rig.audit) if line["request"] == "request-2"]
    assert (line["principal"], line["decision"]) == ("unknown", "denied")
    assert line.get("claimed", []) == ([who] if who in ("user:eve", "user:bob") else [])
    assert caller.ended  # so that there is no second line


@pytest.mark.parametrize(
    ("credential", "error"),
    [
        (NewCredential(kind="password", data="short"), Invalid),
        (NewCredential(kind="nothing", data="x"), Invalid),
        (NewCredential(kind="access-key", data="ssh-rsa AAAA"), Invalid),
        (word_of(expires="2001-01-01T00:00:00Z"), Invalid),
        (word_of("a b"), Invalid),
        (word_of("0" * 32), Invalid),
        (NewCredential(kind="access-key", data=KEY), Exists),  # ann's
        (uid(40), Invalid),
        (NewCredential(kind="certificate", data="spiffe://example.net/runner"), Invalid),
        (NewCredential(kind="password", data=HASH, hashed=True), Invalid),
    ],
    ids=lambda each: each.kind if isinstance(each, NewCredential) else "",
)
async def test_a_mistake_does_not_use_the_code_up(
    rig: Rig, credential: NewCredential, error: type[ServiceError]
) -> None:
    """A credential that cannot be, or is somebody's, is told to who has the code, and the code is good still."""
    await rig.principals.add_credential(OPERATOR, USER, "ann", NewCredential(kind="access-key", data=KEY))
    with pytest.raises(error):
        await rig.principals.set_up(stranger(), "user:eve", "code-of-eve", credential)

    await rig.principals.set_up(stranger(), "user:eve", "code-of-eve", word_of())


async def test_wrong_codes_wait(rig: Rig) -> None:
    """After so many for one principal at one address the next waits, right or wrong; elsewhere, or later, none does."""
    for _ in range(FREE + 1):
        with pytest.raises(Denied):
            await rig.principals.set_up(stranger(), "user:eve", "wrong", word_of())

    for code in ("wrong", "code-of-eve"):
        with pytest.raises(TooManyAttempts) as caught:
            await rig.principals.set_up(stranger(), "user:eve", code, word_of())
        assert caught.value.wait == 0.5
    with pytest.raises(Denied):
        await rig.principals.set_up(stranger("198.51.100.4"), "user:eve", "wrong", word_of())
    rig.clock[0] += 1
    await rig.principals.set_up(stranger(), "user:eve", "code-of-eve", word_of())


async def test_a_code_that_waits_is_on_record(rig: Rig) -> None:
    """It is told like another stranger's, with whose it was said to be and where it came from."""
    for _ in range(FREE + 1):
        with pytest.raises(Denied):
            await rig.principals.set_up(stranger(), "user:eve", "wrong", word_of())
    caller = stranger()
    caller.request_id = "request-3"

    with pytest.raises(TooManyAttempts):
        await rig.principals.set_up(caller, "user:eve", "wrong", word_of())

    assert caller.ended
    await rig.principals._door.close()
    lines = audit_lines(rig.audit)
    (line,) = [each for each in lines if each.get("reason") == "wrong credentials were shown"]
    assert (line["claimed"], line["from"], line["decision"]) == (["user:eve"], "192.0.2.7", "denied")


# What is told of nothing


async def test_nothing_that_opens_is_shown(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """No password and no code is in a log, a repr, the audit log or the store, nor a password in an error."""
    caplog.set_level(logging.DEBUG)
    given = NewCredential(kind="password", data=CANARY)
    made: list[Any] = [given, await rig.principals.add_credential(OPERATOR, USER, "bob", given)]
    made += [await rig.principals.add(OPERATOR, USER, "carl"), await rig.principals.page(OPERATOR, USER)]
    made.append(await rig.records.get(USER, "carl"))
    with pytest.raises(Invalid) as caught:
        await rig.principals.add_credential(
            OPERATOR, USER, "bob", NewCredential(kind="password", data="x", name=f" {CANARY}", expires=CANARY)
        )

    shown = [repr(made), str(caught.value), repr(caught.value.faults), caplog.text, rig.audit.read_text()]
    shown += [value.decode(errors="replace") for value in (await rig.rows()).values()]
    assert not [each for each in shown if CANARY in each or "code-of-eve" in each]


async def test_the_record_tells_what_of_a_record_was_changed(rig: Rig) -> None:
    """A member and its role, a credential by its kind and id: each is beside the name, in a failed act's line, too."""
    service = rig.principals
    made = await service.add_credential(OPERATOR, USER, "bob", word_of("third"))
    await service.remove_credential(OPERATOR, USER, "bob", "third")
    await service.add_member(OPERATOR, "ops", "user:ann", Role.MANAGER)
    await service.remove_member(OPERATOR, "ops", "user:ann")
    with pytest.raises(NotFound):
        await service.remove_member(OPERATOR, "ops", "apikey:ci")
    await service.disable(OPERATOR, USER, "bob", disabled=True)
    with pytest.raises(Denied):
        await service.add_member(narrow(), "ops", "no principal: perhaps a password", Role.MEMBER)

    told = [line["about"] for line in audit_lines(rig.audit) if "about" in line][-7:]
    assert told == [
        "with a new password",
        f"without the password {made.id}",
        "user:ann as manager",
        "without user:ann",
        "without apikey:ci",
        "shut out",
        "a member",
    ]

"""The door: which one action every verb needs, that a batch is decided as a whole, and what a key may make."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import pytest

from strongroom.models import Host, HostCreds
from strongroom.models.secret import Secret
from strongroom.storage_service.access.base import ALL_ACTIONS, Action, Principal
from strongroom.storage_service.backends.base import MAX_PAGE, PRESENT, Backend, Check, Delete, Put
from strongroom.storage_service.backends.faulty import FaultyBackend
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.bootstrap import Parts, SharedRoot, build
from strongroom.storage_service.config import AuthorizerSettings, ServiceSettings
from strongroom.storage_service.errors import Denied, Invalid
from strongroom.storage_service.services.access import AccessService
from strongroom.storage_service.services.audit import AuditService
from strongroom.storage_service.services.door import Caller
from strongroom.storage_service.services.health import HealthService
from strongroom.storage_service.services.logins import LoginService
from strongroom.storage_service.services.records import RecordService, Reference
from strongroom.storage_service.services.secrets import SecretService
from strongroom.storage_service.strangers import MOST_ACTS
from tests.audit_lines import audit_lines

OPERATOR: Final = Caller(Principal("apikey:operator"), "request-1")
CREDS: Final = HostCreds.new(address="h1", ssh_priv_key="a2V5")
KEY: Final = "system/access/apikeys/made"
ROTATED: Final = "system/access/apikeys/rotated"
BOTH: Final = "system/access/apikeys/both"
TOLD: Final = "machine:alpha", Action.PUT, "system/keyring/machines/0a"
COMMIT: Final = [
    Put("secrets/db/b", b"x"),
    Delete("secrets/db/a"),
    Check("secrets/db/", PRESENT),
]


def who(*actions: Action, paths: tuple[str, ...] = ("/",)) -> Caller:
    """Return a caller whose credentials reach *actions* on *paths*, and nothing else."""
    return Caller(Principal("apikey:narrow", paths, frozenset(actions)), "request-2")


@dataclass
class Rig:
    """One worker as the configuration makes it, on a store in memory that counts."""

    parts: Parts
    store: FaultyBackend
    audit: Path

    def lines(self) -> list[tuple[str, str, str]]:
        """What was written down of the narrow caller: action, name and decision."""
        lines = audit_lines(self.audit)
        return [(line["action"], line["name"], line["decision"]) for line in lines if line["request"] == "request-2"]

    async def rows(self) -> dict[str, tuple[bytes, int]]:
        """All that the store holds."""
        page = await self.store.list("", None, MAX_PAGE)
        assert not page.more
        found = await self.store.get_many(page.names)
        return {name: (entry.value, entry.revision) for name, entry in found.items()}


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A service in which everything that the table's verbs need is there, and everybody may do all with secrets."""
    stores: list[FaultyBackend] = []

    def opened(_: str) -> Backend:
        stores.append(FaultyBackend(MemoryBackend()))
        return stores[-1]

    settings = ServiceSettings(
        socket=tmp_path / "socket",
        audit_log=tmp_path / "audit.log",
        root_key=tmp_path / "secrets.key",
        store="memory:",
        api_id="own",
        api_key=Secret("own-key"),
        authorizers=(AuthorizerSettings(handler="SimplePathAuthz", options={"paths": "/"}),),
    )
    shared = SharedRoot()
    parts = await build(settings, shared, opened)
    await parts.secrets.create_container(OPERATOR, "secrets/db/")
    await parts.secrets.create_container(OPERATOR, "secrets/empty/")
    for name in ("secrets/db/a", "secrets/db/z"):
        await parts.secrets.put(OPERATOR, name, b"value of " + name.encode(), 0)
    await parts.records.save(OPERATOR, [Host.new(address="h1"), CREDS], [None, None])
    await parts.access.create_key(OPERATOR, "made", ["/secrets/db"], ["delete"])  # a key ends none that reaches further
    for key_id in ("rotated", "both"):
        await parts.access.create_key(OPERATOR, key_id, ["/secrets/db"], ["put"])
    await parts.access.rotate_key(OPERATOR, "both", "1h")
    yield Rig(parts, stores[0], settings.audit_log)
    await parts.close()
    shared.close()


async def _read_many(parts: Parts, caller: Caller) -> None:
    async with parts.secrets.read_many(caller, ["secrets/db/a"]):
        pass


Verb = Callable[[Parts, Caller], Awaitable[object]]

HOST: Final = [Reference("h1")]

# Each verb of the service: how it is done, the one action that it needs, and on which names.
VERBS: dict[str, tuple[Verb, Action, list[str]]] = {
    "secrets.get": (lambda parts, who: parts.secrets.get(who, "secrets/db/a"), Action.GET, ["secrets/db/a"]),
    "secrets.read_many": (_read_many, Action.GET, ["secrets/db/a"]),
    "secrets.get_many": (
        lambda parts, who: parts.secrets.get_many(who, ["secrets/db/a", "secrets/db/z"]),
        Action.GET,
        ["secrets/db/a", "secrets/db/z"],
    ),
    "secrets.put": (lambda parts, who: parts.secrets.put(who, "secrets/db/b", b"b", 0), Action.PUT, ["secrets/db/b"]),
    "secrets.delete": (lambda parts, who: parts.secrets.delete(who, "secrets/db/a"), Action.DELETE, ["secrets/db/a"]),
    "secrets.create_container": (
        lambda parts, who: parts.secrets.create_container(who, "secrets/new/"),
        Action.PUT,
        ["secrets/new/"],
    ),
    "secrets.list_container": (
        lambda parts, who: parts.secrets.list_container(who, "secrets/db/"),
        Action.LIST,
        ["secrets/db/"],
    ),
    "secrets.listing": (lambda parts, who: parts.secrets.listing(who, "secrets/db/"), Action.LIST, ["secrets/db/"]),
    "secrets.containers": (lambda parts, who: parts.secrets.containers(who), Action.LIST, ["secrets/"]),
    "secrets.page": (lambda parts, who: parts.secrets.page(who, "secrets/db/", "a", 9), Action.LIST, ["secrets/db/"]),
    "secrets.containers_page": (
        lambda parts, who: parts.secrets.containers_page(who, "", 9),
        Action.LIST,
        ["secrets/"],
    ),
    "secrets.delete_container": (
        lambda parts, who: parts.secrets.delete_container(who, "secrets/empty/"),
        Action.DELETE,
        ["secrets/empty/"],
    ),
    "records.save": (
        lambda parts, who: parts.records.save(
            who, [Host.new(address="h2"), HostCreds.new(address="h2", ssh_priv_key="a2V5")], [None, None]
        ),
        Action.PUT,
        ["hosts/h2", "secrets/hosts/h2"],
    ),
    "records.fetch": (lambda parts, who: parts.records.fetch(who, HostCreds, HOST), Action.GET, ["secrets/hosts/h1"]),
    "records.fetch_held": (lambda parts, who: parts.records.fetch_held(who, Host, HOST), Action.GET, ["hosts/h1"]),
    "records.remove": (
        lambda parts, who: parts.records.remove(who, HostCreds, HOST, [None]),
        Action.DELETE,
        ["secrets/hosts/h1"],
    ),
    "records.list_records": (
        lambda parts, who: parts.records.list_records(who, Host, None, 10),
        Action.LIST,
        ["hosts/"],
    ),
    "records.list_record_keys": (
        lambda parts, who: parts.records.list_record_keys(who, HostCreds, None, 10),
        Action.LIST,
        ["secrets/hosts/"],
    ),
    "access.create_key": (
        lambda parts, who: parts.access.create_key(who, "new", ["/secrets/db"], ["put"]),
        Action.PUT,
        ["system/access/apikeys/new"],
    ),
    "access.list_keys": (lambda parts, who: parts.access.list_keys(who), Action.LIST, ["system/access/apikeys/"]),
    "logins.revoke": (lambda parts, who: parts.logins.revoke(who, "0" * 32, ""), Action.DELETE, ["system/tokens"]),
    "access.rotate_key": (lambda parts, who: parts.access.rotate_key(who, "rotated", "1h"), Action.PUT, [ROTATED]),
    "access.end_former_key": (lambda parts, who: parts.access.end_former_key(who, "both"), Action.PUT, [BOTH]),
    "access.revoke_key": (lambda parts, who: parts.access.revoke_key(who, "made"), Action.DELETE, [KEY]),
}

# What decides on no record: what is configured, and what is asked before an act.
NO_VERBS: Final = {
    *("secrets.own_container", "secrets.expect", "secrets.expect_some"),
    *("records.handlers", "records.expect", "records.expect_some"),
    *("access.knows", "access.whoami", "access.expect_some"),
    *("logins.challenge", "logins.log_in", "logins.log_out", "logins.shown", "logins.shown"),
    *("audit.check_is_proxy", "audit.take_report", "audit.take_act"),
    *("health.check", "health.ping", "health.status"),
}


def verbs_of(**services: type) -> set[str]:
    """Return all that the classes of these services can do, as ``service.verb``."""
    return {
        f"{service}.{name}"
        for service, of in services.items()
        for name, _ in inspect.getmembers(of, inspect.isfunction)
        if not name.startswith("_")
    }


def test_every_verb_is_in_a_table() -> None:
    """A verb that a service gains must say here what it needs; keys, bulk and principals have tables of their own."""
    found = verbs_of(
        secrets=SecretService,
        records=RecordService,
        access=AccessService,
        logins=LoginService,
        audit=AuditService,
        health=HealthService,
    )

    assert found - NO_VERBS == VERBS.keys()
    assert found > NO_VERBS


def test_every_service_has_a_table(rig: Rig) -> None:
    """A service that is added must have its verbs in a table, too."""
    services = {name for name, part in vars_of(rig.parts) if type(part).__name__.endswith("Service")}

    assert services == {
        *("secrets", "records", "access", "audit", "health", "keys", "bulk", "telemetry", "logins"),
        *("principals", "rules"),
    }


def vars_of(parts: Parts) -> list[tuple[str, object]]:
    """Return the parts by name."""
    return [(each.name, getattr(parts, each.name)) for each in fields(parts)]


@pytest.mark.parametrize("verb", VERBS)
async def test_all_actions_but_the_one_it_needs(rig: Rig, verb: str) -> None:
    """Whoever may do all but the one thing is refused, the store is not even asked, and one line a name says so."""
    do, action, named = VERBS[verb]
    before, asked = await rig.rows(), len(rig.store.operations)

    with pytest.raises(Denied):
        await do(rig.parts, who(*ALL_ACTIONS - {action}))

    assert len(rig.store.operations) == asked
    assert await rig.rows() == before
    assert rig.lines() == [(str(action), name, "denied") for name in named]


@pytest.mark.parametrize("verb", VERBS)
async def test_the_one_action_it_needs(rig: Rig, verb: str) -> None:
    """Whoever may do that one thing alone does it, and one line a name says so."""
    do, action, named = VERBS[verb]

    await do(rig.parts, who(action))

    assert rig.lines() == [(str(action), name, "allowed") for name in named]


# What tells everybody of what is within reach, and only of that.
WITHIN_REACH: Final = {"secrets.containers", "secrets.containers_page"}


@pytest.mark.parametrize("verb", sorted(VERBS.keys() - WITHIN_REACH))
async def test_the_right_action_elsewhere(rig: Rig, verb: str) -> None:
    """Whoever may do everything, but in another place, is refused, and the store stays as it is."""
    do, action, named = VERBS[verb]
    before = await rig.rows()

    with pytest.raises(Denied):
        await do(rig.parts, who(*ALL_ACTIONS, paths=("/secrets/elsewhere", "/elsewhere")))

    assert await rig.rows() == before
    assert rig.lines() == [(str(action), name, "denied") for name in named]


@pytest.mark.parametrize(
    ("paths", "told"),
    [
        (("/",), ["db/", "empty/", "hosts/"]),
        (("/secrets/db", "/secrets/none", "/secrets/hosts/h1"), ["db/"]),
        (("/secrets/db", "/secrets/db/inner", "/secrets/empty/", "/hosts"), ["db/", "empty/"]),
        (("/secrets/dbmore", "/elsewhere", "/secrets/elsewhere"), []),
    ],
)
async def test_the_containers_within_reach(rig: Rig, paths: tuple[str, ...], told: list[str]) -> None:
    """Whoever asks for containers is told the outermost that it may list, and the log has each that it may."""
    caller = who(Action.LIST, paths=paths)

    assert [name async for page in await rig.parts.secrets.containers(caller) for name in page] == told
    noted = {name for _, name, decision in rig.lines() if decision == "allowed"}
    assert noted >= ({f"secrets/{name}" for name in told} if paths != ("/",) else {"secrets/"})
    found: list[str] = []
    while page := await rig.parts.secrets.containers_page(caller, found[-1] if found else "", 1):
        found += page
    assert found == told


@pytest.mark.parametrize(
    ("paths", "actions"), [(("/hosts",), ALL_ACTIONS), (("/secrets/db/a.",), ALL_ACTIONS), (("/",), {Action.GET})]
)
async def test_no_container_within_reach(rig: Rig, paths: tuple[str, ...], actions: frozenset[Action]) -> None:
    """Whoever may list no container is refused before the store is asked, which is written down."""
    caller = who(*actions, paths=paths)
    asked = len(rig.store.operations)

    with pytest.raises(Denied):
        await rig.parts.secrets.containers(caller)

    assert len(rig.store.operations) == asked
    assert rig.lines() == [("list", "secrets/", "denied")]


@pytest.mark.parametrize("missing", sorted(ALL_ACTIONS))
@pytest.mark.parametrize(
    "do",
    [
        pytest.param(lambda parts, who: parts.bulk.limit(who), id="bulk.limit"),
        pytest.param(lambda parts, who: parts.bulk.read(who, ["secrets/db/a"]), id="bulk.read"),
        pytest.param(lambda parts, who: parts.bulk.list(who, "secrets/", None, 10), id="bulk.list"),
        pytest.param(lambda parts, who: parts.bulk.commit(who, COMMIT), id="bulk.commit"),
        pytest.param(lambda parts, who: parts.audit.take_act(who, *TOLD), id="audit.take_act"),
    ],
)
async def test_what_needs_all_actions(rig: Rig, do: Verb, missing: Action) -> None:
    """Whole estates, and what commands tell, are for whoever may do everything: without one action nothing is done."""
    before = await rig.rows()

    with pytest.raises(Denied):
        await do(rig.parts, who(*ALL_ACTIONS - {missing}))

    assert await rig.rows() == before
    assert {decision for _, _, decision in rig.lines()} == {"denied"}


async def test_what_is_counted_at_either_door_is_written_down_in_the_end(rig: Rig) -> None:
    """Of batches that are refused the first names have lines at once, and the others are in a count before the end."""
    names = [f"secrets/db/{number}" for number in range(50)]
    with pytest.raises(Denied):
        await rig.parts.secrets.get_many(who(Action.LIST), names)
    with pytest.raises(Denied):
        await rig.parts.bulk.read(Caller(Principal("apikey:narrower", ("/secrets",)), "request-3"), names)
    assert len(rig.lines()) == MOST_ACTS + 1

    await rig.parts.door.close()

    told = audit_lines(rig.audit)
    for principal in ("apikey:narrow", "apikey:narrower"):
        counts = [line.get("count", 1) for line in told if line["principal"] == principal]
        assert sum(counts) == 50
        assert len(counts) == MOST_ACTS + 2


async def test_an_action_that_is_asked_for_beforehand(rig: Rig) -> None:
    """What is asked before a body is read refuses as the act would, and writes down no more than the refusal."""
    for action in sorted(ALL_ACTIONS):
        await rig.parts.door.expect(who(action), action, ["secrets/db/a"])
    assert rig.lines() == []

    for action in sorted(ALL_ACTIONS):
        with pytest.raises(Denied):
            await rig.parts.door.expect(who(*ALL_ACTIONS - {action}), action, ["secrets/db/a"])
    assert rig.lines() == [(str(action), "secrets/db/a", "denied") for action in sorted(ALL_ACTIONS)]


# Mixed batches: what is in reach and what is not, in either order.

HERE: Final = ("/secrets/db/a", "/secrets/hosts/h1", "/hosts/h2")

MIXED: dict[str, tuple[Callable[[Parts, Caller, bool], Awaitable[object]], Action, str]] = {
    "get_many": (
        lambda parts, who, turned: parts.secrets.get_many(
            who, ["secrets/db/a", "secrets/db/z"][:: -1 if turned else 1]
        ),
        Action.GET,
        "secrets/db/z",
    ),
    "fetch": (
        lambda parts, who, turned: parts.records.fetch(
            who, HostCreds, [Reference("h1"), Reference("h9")][:: -1 if turned else 1]
        ),
        Action.GET,
        "secrets/hosts/h9",
    ),
    "save": (
        lambda parts, who, turned: parts.records.save(
            who, [Host.new(address="h2"), Host.new(address="h3")][:: -1 if turned else 1], [None, None]
        ),
        Action.PUT,
        "hosts/h3",
    ),
    "remove": (
        lambda parts, who, turned: parts.records.remove(
            who, HostCreds, [Reference("h1"), Reference("h9")][:: -1 if turned else 1], [None, None]
        ),
        Action.DELETE,
        "secrets/hosts/h9",
    ),
}


@pytest.mark.parametrize("turned", [False, True], ids=["the denied last", "the denied first"])
@pytest.mark.parametrize("verb", MIXED)
async def test_one_name_out_of_reach(rig: Rig, verb: str, *, turned: bool) -> None:
    """Of a batch with one name out of reach nothing is read or written, and what is written down is that name."""
    do, action, denied = MIXED[verb]
    before, asked = await rig.rows(), len(rig.store.operations)

    with pytest.raises(Denied):
        await do(rig.parts, who(*ALL_ACTIONS, paths=HERE), turned)

    assert len(rig.store.operations) == asked
    assert await rig.rows() == before
    assert rig.lines() == [(str(action), denied, "denied")]


# What a key may make.

MADE: dict[str, tuple[Caller, list[str], list[str]]] = {
    "another action": (who(Action.PUT, Action.GET), ["/secrets/db"], ["get", "list"]),
    "all actions": (who(Action.PUT), ["/secrets/db"], ["get", "list", "put", "delete"]),
    "another place": (who(*ALL_ACTIONS, paths=("/secrets/db", "/system/access/apikeys")), ["/secrets/hosts"], ["get"]),
    "the place above": (who(*ALL_ACTIONS, paths=("/secrets/db", "/system/access/apikeys")), ["/secrets"], ["get"]),
    "everything": (who(*ALL_ACTIONS, paths=("/secrets", "/system")), ["/"], ["get"]),
    "one place of two": (
        who(*ALL_ACTIONS, paths=("/secrets/db", "/system/access/apikeys")),
        ["/secrets/db", "/secrets/hosts"],
        ["get"],
    ),
    "more than exactly that": (
        who(*ALL_ACTIONS, paths=("/secrets/db/", "/system/access/apikeys")),
        ["/secrets/db"],
        ["get"],
    ),
}


@pytest.mark.parametrize("made", MADE)
async def test_no_key_reaches_further_than_its_maker(rig: Rig, made: str) -> None:
    """A key with an action or a path that its maker has not is not made, and the store stays as it is."""
    caller, paths, actions = MADE[made]
    before = await rig.rows()

    with pytest.raises(Denied):
        await rig.parts.access.create_key(caller, "new", paths, actions)

    assert await rig.rows() == before


async def test_a_key_reaches_as_far_as_its_maker(rig: Rig) -> None:
    """What its maker reaches a key may reach, to the last path and action."""
    maker = who(Action.PUT, Action.GET, paths=("/secrets/db", "/system/access/apikeys"))

    await rig.parts.access.create_key(maker, "new", ["/secrets/db", "/secrets/db/a"], ["put", "get"])

    ((_, made, _),) = [each for each in await rig.parts.access.list_keys(OPERATOR) if each[0] == "new"]
    assert (made.paths, made.actions) == (["/secrets/db", "/secrets/db/a"], [Action.PUT, Action.GET])


async def test_no_key_revokes_itself(rig: Rig) -> None:
    """A key that may revoke every key but for itself is still there after it has tried that."""
    before = await rig.rows()

    with pytest.raises(Invalid):
        await rig.parts.access.revoke_key(Caller(Principal("apikey:made"), "request-2"), "made")

    assert await rig.rows() == before
    await rig.parts.access.revoke_key(Caller(Principal("apikey:another"), "request-2"), "made")
    assert "made" not in [key_id for key_id, *_ in await rig.parts.access.list_keys(OPERATOR)]

"""The door: which one action every verb needs, that a batch is decided as a whole, and what a key may make."""

import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from strongroom.models import Host, HostCreds
from strongroom.models.secret import Secret
from strongroom.storage_service import wire
from strongroom.storage_service.authz.base import ALL_ACTIONS, Action, Principal
from strongroom.storage_service.backends.base import MAX_PAGE, Backend
from strongroom.storage_service.backends.faulty import FaultyBackend
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.bootstrap import Page, build
from strongroom.storage_service.config import AuthorizerSettings, ServiceSettings
from strongroom.storage_service.errors import Denied, Invalid
from strongroom.storage_service.sealed_service import SealedService
from strongroom.storage_service.service import Caller, Reference, Service
from strongroom.storage_service.strangers import MOST_ACTS

OPERATOR: Final = Caller(Principal("apikey:operator"), "request-1")
CREDS: Final = HostCreds.new(address="h1", ssh_priv_key="a2V5")
KEY: Final = "system/access/apikeys/made"
COMMIT: Final = [
    wire.SealedChange(name="secrets/db/b", value="x"),
    wire.SealedChange(name="secrets/db/a"),
    wire.SealedChange(name="secrets/db/", etag="*", check=True),
]


def who(*actions: Action, paths: tuple[str, ...] = ("/",)) -> Caller:
    """Return a caller whose credentials reach *actions* on *paths*, and nothing else."""
    return Caller(Principal("apikey:narrow", paths, frozenset(actions)), "request-2")


@dataclass
class Rig:
    """One worker as the configuration makes it, on a store in memory that counts."""

    service: Service
    sealed: SealedService
    store: FaultyBackend
    audit: Path

    def lines(self) -> list[tuple[str, str, str]]:
        """What was written down of the narrow caller: action, name and decision."""
        lines = map(json.loads, self.audit.read_text().splitlines())
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
    page = Page()
    parts = await build(settings, page, opened)
    service = parts.service
    await service.create_container(OPERATOR, "secrets/db/")
    await service.create_container(OPERATOR, "secrets/empty/")
    for name in ("secrets/db/a", "secrets/db/z"):
        await service.put(OPERATOR, name, b"value of " + name.encode(), 0)
    await service.save(OPERATOR, [Host.new(address="h1"), CREDS], [None, None])
    await service.create_key(OPERATOR, "made", ["/secrets/db"], ["delete"])  # a key ends none that reaches further
    yield Rig(service, parts.sealed_service, stores[0], settings.audit_log)
    await parts.close()
    page.close()


async def _read_many(service: Service, caller: Caller) -> None:
    async with service.read_many(caller, ["secrets/db/a"]):
        pass


Verb = Callable[[Service, Caller], Awaitable[object]]

HOST: Final = [Reference("h1")]

# Each verb of the service: how it is done, the one action that it needs, and on which names.
VERBS: dict[str, tuple[Verb, Action, list[str]]] = {
    "get": (lambda service, who: service.get(who, "secrets/db/a"), Action.GET, ["secrets/db/a"]),
    "read_many": (_read_many, Action.GET, ["secrets/db/a"]),
    "get_many": (
        lambda service, who: service.get_many(who, ["secrets/db/a", "secrets/db/z"]),
        Action.GET,
        ["secrets/db/a", "secrets/db/z"],
    ),
    "put": (lambda service, who: service.put(who, "secrets/db/b", b"b", 0), Action.PUT, ["secrets/db/b"]),
    "delete": (lambda service, who: service.delete(who, "secrets/db/a"), Action.DELETE, ["secrets/db/a"]),
    "create_container": (
        lambda service, who: service.create_container(who, "secrets/new/"),
        Action.PUT,
        ["secrets/new/"],
    ),
    "list_container": (lambda service, who: service.list_container(who, "secrets/db/"), Action.LIST, ["secrets/db/"]),
    "listing": (lambda service, who: service.listing(who, "secrets/db/"), Action.LIST, ["secrets/db/"]),
    "containers": (lambda service, who: service.containers(who), Action.LIST, ["secrets/"]),
    "delete_container": (
        lambda service, who: service.delete_container(who, "secrets/empty/"),
        Action.DELETE,
        ["secrets/empty/"],
    ),
    "save": (
        lambda service, who: service.save(
            who, [Host.new(address="h2"), HostCreds.new(address="h2", ssh_priv_key="a2V5")], [None, None]
        ),
        Action.PUT,
        ["hosts/h2", "secrets/hosts/h2"],
    ),
    "fetch": (lambda service, who: service.fetch(who, HostCreds, HOST), Action.GET, ["secrets/hosts/h1"]),
    "fetch_held": (lambda service, who: service.fetch_held(who, Host, HOST), Action.GET, ["hosts/h1"]),
    "remove": (lambda service, who: service.remove(who, HostCreds, HOST, [None]), Action.DELETE, ["secrets/hosts/h1"]),
    "list_records": (lambda service, who: service.list_records(who, Host, None, 10), Action.LIST, ["hosts/"]),
    "list_record_keys": (
        lambda service, who: service.list_record_keys(who, HostCreds, None, 10),
        Action.LIST,
        ["secrets/hosts/"],
    ),
    "create_key": (
        lambda service, who: service.create_key(who, "new", ["/secrets/db"], ["put"]),
        Action.PUT,
        ["system/access/apikeys/new"],
    ),
    "list_keys": (lambda service, who: service.list_keys(who), Action.LIST, ["system/access/apikeys/"]),
    "revoke_key": (lambda service, who: service.revoke_key(who, "made"), Action.DELETE, [KEY]),
}

# What decides on no record: what is configured, and what is told the action in so many words.
NO_VERBS: Final = {
    *("own_container", "handlers", "close", "door", "turn_away", "check_is_proxy", "check_audit", "take_report"),
    *("failed", "allow", "note", "end", "expect", "expect_some", "reaches"),
}


def test_every_verb_is_in_the_table() -> None:
    """A verb that the service gains must say here which action it needs."""
    methods = {name for name, _ in inspect.getmembers(Service, inspect.isfunction) if not name.startswith("_")}

    assert methods - NO_VERBS == VERBS.keys()


@pytest.mark.parametrize("verb", VERBS)
async def test_all_actions_but_the_one_it_needs(rig: Rig, verb: str) -> None:
    """Whoever may do all but the one thing is refused, the store is not even asked, and one line a name says so."""
    do, action, named = VERBS[verb]
    before, asked = await rig.rows(), len(rig.store.operations)

    with pytest.raises(Denied):
        await do(rig.service, who(*ALL_ACTIONS - {action}))

    assert len(rig.store.operations) == asked
    assert await rig.rows() == before
    assert rig.lines() == [(str(action), name, "denied") for name in named]


@pytest.mark.parametrize("verb", VERBS)
async def test_the_one_action_it_needs(rig: Rig, verb: str) -> None:
    """Whoever may do that one thing alone does it, and one line a name says so."""
    do, action, named = VERBS[verb]

    await do(rig.service, who(action))

    assert rig.lines() == [(str(action), name, "allowed") for name in named]


@pytest.mark.parametrize("verb", VERBS)
async def test_the_right_action_elsewhere(rig: Rig, verb: str) -> None:
    """Whoever may do everything, but in another place, is refused, and the store stays as it is."""
    do, action, named = VERBS[verb]
    before = await rig.rows()

    with pytest.raises(Denied):
        await do(rig.service, who(*ALL_ACTIONS, paths=("/secrets/elsewhere", "/elsewhere")))

    assert await rig.rows() == before
    assert rig.lines() == [(str(action), name, "denied") for name in named]


@pytest.mark.parametrize("missing", sorted(ALL_ACTIONS))
@pytest.mark.parametrize(
    "do",
    [
        pytest.param(lambda sealed, who: sealed.limits(who), id="limits"),
        pytest.param(lambda sealed, who: sealed.read(who, ["secrets/db/a"]), id="read"),
        pytest.param(lambda sealed, who: sealed.list(who, "secrets/", None, 10), id="list"),
        pytest.param(lambda sealed, who: sealed.commit(who, COMMIT), id="commit"),
    ],
)
async def test_what_is_sealed_needs_all_actions(
    rig: Rig, do: Callable[[SealedService, Caller], Awaitable[object]], missing: Action
) -> None:
    """Whole estates are for whoever may do everything: without any one action, whichever, none of it is done."""
    before = await rig.rows()

    with pytest.raises(Denied):
        await do(rig.sealed, who(*ALL_ACTIONS - {missing}))

    assert await rig.rows() == before
    assert {decision for _, _, decision in rig.lines()} == {"denied"}


async def test_what_is_counted_at_either_door_is_written_down_in_the_end(rig: Rig) -> None:
    """Of batches that are refused the first names have lines at once, and the others are in a count before the end."""
    names = [f"secrets/db/{number}" for number in range(50)]
    with pytest.raises(Denied):
        await rig.service.get_many(who(Action.LIST), names)
    with pytest.raises(Denied):
        await rig.sealed.read(Caller(Principal("apikey:narrower", ("/secrets",)), "request-3"), names)
    assert len(rig.lines()) == MOST_ACTS + 1

    await rig.service.close()

    told = [json.loads(line) for line in rig.audit.read_text().splitlines()]
    for principal in ("apikey:narrow", "apikey:narrower"):
        counts = [line.get("count", 1) for line in told if line["principal"] == principal]
        assert sum(counts) == 50
        assert len(counts) == MOST_ACTS + 2


async def test_an_action_that_is_asked_for_beforehand(rig: Rig) -> None:
    """What is asked before a body is read refuses as the act would, and writes down no more than the refusal."""
    for action in sorted(ALL_ACTIONS):
        await rig.service.expect(who(action), action, ["secrets/db/a"])
    assert rig.lines() == []

    for action in sorted(ALL_ACTIONS):
        with pytest.raises(Denied):
            await rig.service.expect(who(*ALL_ACTIONS - {action}), action, ["secrets/db/a"])
    assert rig.lines() == [(str(action), "secrets/db/a", "denied") for action in sorted(ALL_ACTIONS)]


# Mixed batches: what is in reach and what is not, in either order.

HERE: Final = ("/secrets/db/a", "/secrets/hosts/h1", "/hosts/h2")

MIXED: dict[str, tuple[Callable[[Service, Caller, bool], Awaitable[object]], Action, str]] = {
    "get_many": (
        lambda service, who, turned: service.get_many(who, ["secrets/db/a", "secrets/db/z"][:: -1 if turned else 1]),
        Action.GET,
        "secrets/db/z",
    ),
    "fetch": (
        lambda service, who, turned: service.fetch(
            who, HostCreds, [Reference("h1"), Reference("h9")][:: -1 if turned else 1]
        ),
        Action.GET,
        "secrets/hosts/h9",
    ),
    "save": (
        lambda service, who, turned: service.save(
            who, [Host.new(address="h2"), Host.new(address="h3")][:: -1 if turned else 1], [None, None]
        ),
        Action.PUT,
        "hosts/h3",
    ),
    "remove": (
        lambda service, who, turned: service.remove(
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
        await do(rig.service, who(*ALL_ACTIONS, paths=HERE), turned)

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
        await rig.service.create_key(caller, "new", paths, actions)

    assert await rig.rows() == before


async def test_a_key_reaches_as_far_as_its_maker(rig: Rig) -> None:
    """What its maker reaches a key may reach, to the last path and action."""
    maker = who(Action.PUT, Action.GET, paths=("/secrets/db", "/system/access/apikeys"))

    await rig.service.create_key(maker, "new", ["/secrets/db", "/secrets/db/a"], ["put", "get"])

    made = dict(await rig.service.list_keys(OPERATOR))["new"]
    assert (made.paths, made.actions) == (["/secrets/db", "/secrets/db/a"], [Action.PUT, Action.GET])


async def test_no_key_revokes_itself(rig: Rig) -> None:
    """A key that may revoke every key but for itself is still there after it has tried that."""
    before = await rig.rows()

    with pytest.raises(Invalid):
        await rig.service.revoke_key(Caller(Principal("apikey:made"), "request-2"), "made")

    assert await rig.rows() == before
    await rig.service.revoke_key(Caller(Principal("apikey:another"), "request-2"), "made")
    assert [key_id for key_id, _ in await rig.service.list_keys(OPERATOR)] == []

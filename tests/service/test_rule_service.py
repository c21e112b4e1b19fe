"""Rules as a service: what each verb needs, and that every verb there is gives a name the verdict of its rule."""

import asyncio
import gzip
import itertools
import json
import os
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from strongroom.models import names
from strongroom.models.access import Credential, Kind, Right, Role, Rule
from strongroom.models.hosts import Host, HostCreds
from strongroom.models.secret import Secret
from strongroom.storage_service.access import rule_document
from strongroom.storage_service.access.base import ALL_ACTIONS, Action, Principal
from strongroom.storage_service.access.rules import rights_of
from strongroom.storage_service.audit.decisions import Decisions, Reading
from strongroom.storage_service.backends.base import Backend, Put
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.bootstrap import Parts, SharedRoot, build
from strongroom.storage_service.config import AuthorizerSettings, ServiceSettings
from strongroom.storage_service.errors import Busy, Denied, Invalid, NotFound, ServiceError
from strongroom.storage_service.http import rules as http
from strongroom.storage_service.services.door import Caller
from strongroom.storage_service.services.rules import RuleService
from tests.access.brute import Someone, verdict
from tests.audit_lines import audit_lines
from tests.service import test_door

ANN: Final = Principal("user:ann", groups=frozenset(("ops",)), ruled=True)
BOB: Final = Principal("user:bob", ruled=True)
RULES: Final = "system/access/rules/"
Rules = Mapping[str, Rule]
Do = Callable[[Parts, Caller], Awaitable[object]]
_numbers = itertools.count(1)


def asking(who: Principal, request: str = "") -> Caller:
    return Caller(who, request or f"request-{next(_numbers)}", address=who.address)


OPERATOR: Final = asking(Principal("apikey:own", exempt=True))


def rule(effect: str, right: str | Right, *patterns: str, subject: str = "user:ann", **more: Any) -> Rule:
    return Rule(
        effect="allow" if effect == "allow" else "deny",
        subjects=(subject,),
        actions=tuple(map(Right, right.split(","))),
        names=patterns,
        **more,
    )


@dataclass
class Rig:
    """One worker of a service, whose API keys reach all of the secrets, and its log."""

    parts: Parts
    store: Backend
    audit: Path

    @property
    def rules(self) -> RuleService:
        return self.parts.rules

    async def hold(self, rules: Rules) -> None:
        """Put these rules in the place of all."""
        await self.rules.replace_all(OPERATOR, rule_document.write(rules))

    async def learn(self) -> None:
        """Know the records as they are, as whoever authenticates does."""
        await self.rules.page(OPERATOR, "", 1)

    def lines(self) -> list[dict[str, Any]]:
        return audit_lines(self.audit)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A service with some secrets, and with ann in the group ops."""
    async for made in service(tmp_path):
        yield made


async def service(home: Path) -> AsyncIterator[Rig]:
    home.mkdir(exist_ok=True)
    stores: list[Backend] = []

    def opened(_: str) -> Backend:
        stores.append(MemoryBackend())
        return stores[-1]

    settings = ServiceSettings(
        socket=home / "socket",
        audit_log=home / "audit.log",
        root_key=home / "secrets.key",
        store="memory:",
        api_id="own",
        api_key=Secret("own-key"),
        authorizers=(AuthorizerSettings(handler="SimplePathAuthz", options={"paths": "/"}),),
    )
    shared = SharedRoot()
    parts = await build(settings, shared, opened)
    for container in ("secrets/db/", "secrets/empty/", "secrets/web/"):
        await parts.secrets.create_container(OPERATOR, container)
    for name in ("secrets/db/a", "secrets/db/z", "secrets/web/a", "secrets/web/root"):
        await parts.secrets.put(OPERATOR, name, b"value of " + name.encode(), 0)
    await parts.records.save(OPERATOR, [Host.new(address="h1"), test_door.CREDS], [None, None])
    await parts.access.create_key(OPERATOR, "made", ["/secrets/db"], ["delete"])
    for name in ("ann", "bob"):
        await add_user(parts, name)
    await parts.principals.add_group(OPERATOR, "ops")
    await parts.principals.add_group(OPERATOR, "dev")
    await parts.principals.add_member(OPERATOR, "ops", "user:ann", Role.MEMBER)
    yield Rig(parts, stores[0], settings.audit_log)
    await parts.close()
    shared.close()


async def add_user(parts: Parts, name: str, *, admin: bool = False) -> None:
    number = next(_numbers)
    key = Credential(id=f"{number:032x}", kind="process", name="k", data=str(number), created="2026-11-30T12:00:00Z")
    await parts.principals._principals.add(Kind.USER, name, "apikey:own", credentials=[key], admin=admin)


# What each verb needs

DOCUMENT: Final = rule_document.write({"new": rule("allow", "read", "secrets/db/**")})
VERBS: Final[dict[str, tuple[Do, Action, list[str]]]] = {
    "page": (lambda parts, who: parts.rules.page(who, "", 9), Action.LIST, [RULES]),
    "get": (lambda parts, who: parts.rules.get(who, "old"), Action.GET, [RULES + "old"]),
    "put": (
        lambda parts, who: parts.rules.put(who, "new", rule("allow", "read", "a")),
        Action.PUT,
        [RULES + "new"],
    ),
    "remove": (lambda parts, who: parts.rules.remove(who, "old"), Action.DELETE, [RULES + "old"]),
    "export": (lambda parts, who: parts.rules.export(who), Action.GET, [RULES, RULES + "old"]),
    "diff": (lambda parts, who: parts.rules.diff(who, DOCUMENT), Action.GET, [RULES, RULES + "old"]),
    "replace_all": (
        lambda parts, who: parts.rules.replace_all(who, DOCUMENT),
        Action.PUT,
        [RULES, RULES + "new", RULES + "old"],
    ),
    "who_can": (lambda parts, who: parts.rules.who_can(who, "get", "a"), Action.GET, [RULES, RULES + "old"]),
    "explain": (
        lambda parts, who: parts.rules.explain(who, "get", "a", "user:bob"),
        Action.GET,
        [RULES, RULES + "old"],
    ),
    "what_can": (lambda parts, who: parts.rules.what_can(who, "user:bob"), Action.GET, [RULES, RULES + "old"]),
    "try_rules": (
        lambda parts, who: parts.rules.try_rules(who, DOCUMENT, timedelta(days=1)),
        Action.GET,
        [RULES, RULES + "old", names.DECISIONS],
    ),
}
CHANGES: Final = {"put", "remove", "replace_all"}  # for who reaches everything, or has the right
FOR_ITSELF: Final = {"cases", "expect"}  # decided by what is asked for


def test_every_verb_is_in_the_table() -> None:
    """A verb that the service gains must say here what it needs."""
    assert test_door.verbs_of(rules=RuleService) == {f"rules.{verb}" for verb in {*VERBS, *FOR_ITSELF}}


@pytest.mark.parametrize("verb", VERBS)
async def test_the_right_that_a_verb_needs(rig: Rig, verb: str) -> None:
    """Whoever has the right `access`, or for what is on record `audit`, to each name, does it; with one less, not."""
    do, _, needed = VERBS[verb]
    await rig.hold({"old": rule("allow", "read", "secrets/db/**")})
    for missing in [*needed, None]:
        has = [name for name in needed if name != missing]
        may = {f"m{number}": rule("allow", str(rights_of("get", name)[0]), name) for number, name in enumerate(has)}
        await rig.hold({"old": rule("allow", "read", "secrets/db/**"), **may})
        scope = {name: RULES + name for name in may}
        if len(needed) > 1:  # what concerns all rules concerns these, too
            more = {f"n{number}": rule("allow", "access", name) for number, name in enumerate(scope.values())}
            more["more"] = rule("allow", "access", *(RULES + name for name in ("more", *more)))
            await rig.hold({"old": rule("allow", "read", "secrets/db/**"), **may, **more})
        before = await rules_of(rig)
        if missing is None:
            await do(rig.parts, asking(ANN))
        else:
            with pytest.raises(Denied):
                await do(rig.parts, asking(ANN))
            assert await rules_of(rig) == before


@pytest.mark.parametrize("verb", VERBS)
async def test_what_an_api_key_needs(rig: Rig, verb: str) -> None:
    """An API key does by its reach what reads; what changes rules is for keys that reach everything."""
    do, action, needed = VERBS[verb]
    await rig.hold({"old": rule("allow", "read", "secrets/db/**")})
    narrow = Principal("apikey:narrow", tuple(f"/{name}" if name[-1] != "/" else f"/{name[:-1]}" for name in needed))
    before = await rules_of(rig)
    for who in (replace(narrow, actions=ALL_ACTIONS - {action}), replace(narrow, paths=("/secrets",))):
        with pytest.raises(Denied):
            await do(rig.parts, asking(who))
    if verb in CHANGES:
        with pytest.raises(Denied):
            await do(rig.parts, asking(narrow))
        assert await rules_of(rig) == before
        await do(rig.parts, asking(Principal("apikey:whole")))
    else:
        await do(rig.parts, asking(replace(narrow, actions=frozenset({action}))))


async def rules_of(rig: Rig) -> str:
    return (await rig.rules.export(OPERATOR)).text


async def test_a_deny_of_one_rule_keeps_all_of_them_back(rig: Rig) -> None:
    """Who may not see one rule gets no answer that it has a part in, and imports no document that changes it."""
    rules = {
        "all": rule("allow", "access", "system/access/**"),
        "hidden": rule("deny", "access", RULES + "hidden"),
    }
    await rig.hold(rules)

    assert [each.name for each in (await rig.rules.page(asking(ANN), "", 9)).rules] == ["all"]
    for verb in ("export", "diff", "who_can", "explain", "what_can", "replace_all"):
        with pytest.raises(Denied):
            await VERBS[verb][0](rig.parts, asking(ANN))
    await rig.rules.replace_all(asking(ANN), rule_document.write({**rules, "more": rule("allow", "read", "a")}))
    assert set(rule_document.read(await rules_of(rig))) == {"all", "hidden", "more"}


async def test_who_may_write_one_rule_can_give_himself_everything(rig: Rig) -> None:
    """The right to one rule is the right to whatever that rule says: it is power over everything."""
    await rig.hold({"one": rule("allow", "access", RULES + "mine")})
    with pytest.raises(Denied):
        await rig.rules.put(asking(ANN), "other", rule("allow", "read", "**"))
    await rig.rules.put(asking(ANN), "mine", rule("allow", ",".join(Right), "**"))
    await rig.learn()
    assert (await rig.parts.secrets.get(asking(ANN), "secrets/web/root")).value == b"value of secrets/web/root"


# The verdict of a rule

NOT_BY_RULES: Final = {  # which look at the reach of a key, too
    f"access.{verb}" for verb in ("create_key", "rotate_key", "end_former_key", "revoke_key")
}
BY_RULES: Final = sorted(test_door.VERBS.keys() - test_door.WITHIN_REACH - NOT_BY_RULES)


def allowing(action: Action, wanted: list[str]) -> dict[str, Rule]:
    """Return the rules that allow that, and no more."""
    rights = {name: ",".join(rights_of(action.value, name)) for name in wanted}
    return {f"r{number}": rule("allow", said, name) for number, (name, said) in enumerate(rights.items())}


def near(name: str) -> list[str]:
    """Return what is nearly *name*: another case, something more or less, with a slash or without."""
    bare = name.removesuffix("/")
    return [bare.upper() + name[len(bare) :], f"{bare}x", f"x{name}", bare[:-1], bare if bare != name else f"{name}/"]


@pytest.mark.parametrize("verb", BY_RULES)
async def test_every_verb_gives_a_name_the_verdict_of_its_rule(rig: Rig, verb: str) -> None:
    """Each verb does what rules allow on each of its names, and refuses it without one, or against a deny.

    Neither how closely a rule names a thing, nor its place among the others, makes a difference.
    """
    do, action, wanted = test_door.VERBS[verb]
    allowed = allowing(action, wanted)
    rights = ",".join(dict.fromkeys(right for name in wanted for right in rights_of(action.value, name)))
    every = ",".join(Right)
    last = wanted[-1]
    refusing: list[Rules] = [
        {},
        {name: each for name, each in allowed.items() if name != f"r{len(wanted) - 1}"},
        {**allowed, "z": rule("deny", rights, last)},
        {**allowed, "a": rule("deny", rights, "**")},
        {"a": rule("allow", every, "**"), "z": rule("deny", rights, last, subject="*")},
        {"a": rule("allow", every, "**", last), "z": rule("deny", every, last, subject="group:ops")},
        {"a": rule("allow", every, *near(last))},
        {"a": rule("allow", every, "**", subject="user:an")},
        {"a": rule("allow", every, "**", expires="2026-01-01T00:00:00Z")},
        {"a": rule("allow", every, "**", networks=("192.0.2.0/24",))},
    ]
    for rules in refusing:
        await rig.hold(rules)
        with pytest.raises(Denied):
            await do(rig.parts, asking(ANN))
    await rig.hold(allowed)
    await do(rig.parts, asking(ANN))


@pytest.mark.parametrize("seed", range(12))
async def test_what_a_listing_shows_is_what_list_allows(rig: Rig, seed: int) -> None:
    """Whatever the rules are, a listing shows a name where the rules say yes to listing that name, and no other."""
    said = random.Random(seed)
    inside = [f"secrets/db/{name}" for name in ("a", "z", "b", "B", "a.b", "user:ann", "ann", "@", "--", "a+b")]
    await rig.store.commit([Put(name, b"x") for name in inside[2:]])
    patterns = [*inside, "secrets/db/*", "secrets/**", "secrets/db/{principal}", "secrets/*/a", "*/*/z", "secrets/db/"]
    rules = {
        f"r{number}": rule(
            said.choice(["allow", "allow", "deny"]),
            said.choice(["list", "list", "read"]),
            *said.sample(patterns, 2),
            subject=said.choice(["*", "user:ann", "group:ops", "user:bob"]),
        )
        for number in range(6)
    } | {"top": rule("allow", "list", "secrets/db/")}
    await rig.hold(rules)
    who = asker(ANN)

    try:
        shown = await rig.parts.secrets.list_container(asking(ANN), "secrets/db/")
    except Denied:
        assert verdict(rules, who, [Right.LIST], "secrets/db/") is not True
    else:
        wanted = sorted(name for name in inside if verdict(rules, who, [Right.LIST], name))
        assert [f"secrets/db/{name}" for name in shown] == wanted


def asker(who: Principal) -> Someone:
    """Return who asks the same, as the one knows him who reads the page of rules."""
    someone = Someone(who.id, who.groups, who.address)
    assert someone.namespace == who.namespace
    return someone


async def test_a_batch_with_one_denied_name_is_refused_whole(rig: Rig) -> None:
    """Of a batch in which one name is denied nothing is answered, and of a save of two nothing is written."""
    await rig.hold(
        {
            "all": rule("allow", "read,create,modify", "secrets/**", "hosts/**"),
            "not": rule("deny", "read,create", "secrets/web/root", "secrets/hosts/*"),
        }
    )
    with pytest.raises(Denied):
        await rig.parts.secrets.get_many(asking(ANN), ["secrets/db/a", "secrets/web/root", "secrets/db/z"])
    assert [(line["name"], line["decision"]) for line in rig.lines()][-1:] == [("secrets/web/root", "denied")]
    hosts = [Host.new(address="h9"), HostCreds.new(address="h9", ssh_priv_key="a2V5")]
    with pytest.raises(Denied):
        await rig.parts.records.save(asking(ANN), hosts, [None, None])
    assert not (await rig.store.list("hosts/h9")).names


async def test_a_listing_of_ten_thousand(rig: Rig) -> None:
    """Of 10,000 names those are shown that the rules allow, in pages that miss none."""
    many = [f"secrets/db/n{number:05}" for number in range(10_000)]
    for first in range(0, len(many), 100):
        await rig.store.commit([Put(name, b"x") for name in many[first : first + 100]])
    hidden = set(random.Random(1).sample(many, 250))
    await rig.hold(
        {
            "all": rule("allow", "list", "secrets/db/**"),
            "not": rule("deny", "list", *sorted(hidden)[:200]),
            "nor": rule("deny", "list", *sorted(hidden)[200:], subject="group:ops"),
        }
    )

    shown = await rig.parts.secrets.list_container(asking(ANN), "secrets/db/")

    assert [f"secrets/db/{name}" for name in shown] == sorted({"secrets/db/a", "secrets/db/z", *many} - hidden)


@pytest.mark.parametrize(
    "name", ["secrets/db/A", "secrets/db//a", "secrets//db/a", "secrets/db/./a", "secrets/db/../db/a", "secrets/db/a/",
             "/secrets/db/a", "secrets/db/%61", "secrets/db/a\x00", "secrets/db/\uff41", "SECRETS/db/a",
             "secrets/db/a "]
)  # fmt: skip
async def test_no_other_spelling_gets_round_a_deny(rig: Rig, name: str) -> None:
    """A name in another spelling is no name, or another one: it never reads what is denied."""
    await rig.hold({"all": rule("allow", "read,list", "**"), "not": rule("deny", "read", "secrets/db/a")})
    with pytest.raises(ServiceError) as caught:
        await rig.parts.secrets.get(asking(ANN), name)
    assert isinstance(caught.value, (Denied, Invalid, NotFound))


# Why


async def test_an_explanation_is_what_the_door_says(rig: Rig) -> None:
    """Of users, of API keys and of oneself, the joint answer that is explained is the one that is given."""
    said = random.Random(7)
    words = ["get", "list", "put", "create", "modify", "delete"]
    places = [
        "secrets/db/a",
        "secrets/web/root",
        "secrets/db/",
        "system/access/rules/x",
        "hosts/h1",
        "system/journal/x",
    ]
    whom = {"user:ann": ANN, "user:bob": BOB, "apikey:made": Principal("apikey:made", ("/secrets/db",), frozenset({Action.DELETE}))}  # noqa: E501  # fmt: skip
    seen = set()
    for _ in range(12):
        rules = {
            f"r{number}": rule(
                said.choice(["allow", "allow", "deny"]),
                ",".join(said.sample(list(Right), 3)),
                *said.sample([*places, "secrets/**", "**"], 2),
                subject=said.choice(["user:ann", "group:ops", "*", "apikey:made", "user:bob"]),
            )
            for number in range(5)
        }
        await rig.hold(rules)
        for word, place, who in itertools.product(words, places, whom):
            found = await rig.rules.explain(OPERATOR, word, place, who)
            allowed = rig.parts.door.allows(whom[who], Action(word), place)
            assert found.allowed is allowed, (rules, word, place, who)
            assert (found.rules.remedy is None) is allowed
            own = await rig.rules.explain(asking(whom[who]), word, place)
            assert own.allowed is allowed
            assert own.deciders == found.deciders
            seen.add((who, allowed))
    assert len(seen) == 6


async def test_a_remedy_is_one(rig: Rig) -> None:
    """The rule that an explanation proposes allows it; for an API key, to whose reach none adds, it proposes none."""
    await rig.hold({"not": rule("deny", "read", "secrets/web/**", "secrets/db/z")})
    found = await rig.rules.explain(OPERATOR, "get", "secrets/db/a", "user:ann")
    info = http._explanation(found)
    assert info.remedy is not None and info.remedy.add is not None
    await rig.rules.put(OPERATOR, "added", http._rule(info.remedy.add))
    await rig.learn()
    assert (await rig.parts.secrets.get(asking(ANN), "secrets/db/a")).value == b"value of secrets/db/a"
    with pytest.raises(Denied):
        await rig.parts.secrets.get(asking(ANN), "secrets/db/z")
    key = await rig.rules.explain(OPERATOR, "get", "secrets/db/a", "apikey:made")
    assert key.rules.remedy is not None and not key.rules.remedy.possible


async def test_who_can_is_who_may(rig: Rig) -> None:
    """Everybody who is told to be able to do a thing may do it, and nobody else; who is shut out cannot."""
    await add_user(rig.parts, "eve")
    await rig.hold(
        {
            "a": rule("allow", "read,list", "secrets/db/**", subject="group:ops"),
            "b": rule("allow", "read", "secrets/**", subject="*"),
            "c": rule("deny", "read", "secrets/db/a", subject="user:bob"),
        }
    )
    assert [each.id for each in await rig.rules.who_can(OPERATOR, "get", "secrets/db/a")] == ["user:ann", "user:eve"]
    assert [each.id for each in await rig.rules.who_can(OPERATOR, "list", "secrets/db/a")] == ["user:ann"]
    assert [each.id for each in await rig.rules.who_can(OPERATOR, "delete", "secrets/db/a")] == ["apikey:made"]
    await rig.parts.principals.disable(OPERATOR, Kind.USER, "eve", disabled=True)
    assert [each.id for each in await rig.rules.who_can(OPERATOR, "get", "secrets/db/a")] == ["user:ann"]


async def test_what_cannot_be_asked(rig: Rig) -> None:
    """No action, no name, no address and no principal that there is not is answered for."""
    asks = (
        lambda: rig.rules.explain(OPERATOR, "frobnicate", "secrets/a"),
        lambda: rig.rules.explain(OPERATOR, "get", "secrets//a"),
        lambda: rig.rules.explain(OPERATOR, "get", "secrets/a", "user:ann", "10.0.0.0/8"),
        lambda: rig.rules.explain(OPERATOR, "get", "secrets/a", "user:ann", "here"),
        lambda: rig.rules.who_can(OPERATOR, "frobnicate", "secrets/a"),
        lambda: rig.rules.try_rules(OPERATOR, "rules: {}", timedelta(days=1000)),
        lambda: rig.rules.try_rules(OPERATOR, "rules: [", timedelta(days=1)),
        lambda: rig.rules.cases(OPERATOR, "../x"),
    )
    for ask in asks:
        with pytest.raises(Invalid):
            await ask()
    for nobody in ("user:nobody", "service:ann", "ann", "group:ops", ""):
        with pytest.raises(NotFound):
            await rig.rules.explain(OPERATOR, "get", "secrets/a", nobody)


async def test_all_that_is_wrong_with_a_document_is_told(rig: Rig) -> None:
    """Each fault is told with its line and its rule, and the rules stay as they are."""
    before = await rules_of(rig)
    with pytest.raises(Invalid) as caught:
        await rig.rules.replace_all(OPERATOR, "rules:\n  a: {effect: maybe}\n  b c: {}\n  d: 3\n")
    assert {field for field, _ in caught.value.faults} == {"line 2, rule a:", "line 3:", "line 4, rule d:"}
    assert await rules_of(rig) == before


# What nobody learns


async def test_who_has_no_access_learns_nothing_of_others_rules(rig: Rig) -> None:
    """Whoever has no right to rules gets the same bytes, whatever the rules of others are."""
    own = {
        "mine": rule("allow", "read,list", "secrets/db/**"),
        "ours": rule("deny", "read", "secrets/db/z", subject="group:ops"),
        "all": rule("allow", "read", "secrets/web/**", subject="*", networks=("192.0.2.0/24",)),
    }
    said = random.Random(3)
    told = []
    for round_ in range(8):
        others = {
            f"{said.choice('ox')}{number}": rule(
                said.choice(["allow", "deny"]),
                ",".join(said.sample(list(Right), 4)),
                *said.sample(["**", "secrets/**", "secrets/db/a", "secrets/web/root", RULES + "**"], 3),
                subject=said.choice(["user:bob", "group:dev", "apikey:made", "service:runner"]),
            )
            for number in range(round_ * 2)
        }
        await rig.hold({**own, **others})
        told.append([await said_to(ann, rig) for ann in (ANN, replace(ANN, address="192.0.2.7"))])
    assert len({msgspec.json.encode(each) for each in told}) == 1
    assert any(b"mine" in each for each in told[0][0])


async def said_to(who: Principal, rig: Rig) -> list[bytes]:
    """Return all that somebody can get told of rules."""
    asks: list[Callable[[Caller], Awaitable[object]]] = [
        lambda caller: rig.rules.page(caller, "", 99),
        *(lambda caller, name=name: rig.rules.get(caller, name) for name in ("mine", "o1", "x2", "none")),
        *(
            lambda caller, word=word, name=name: rig.rules.explain(caller, word, name)
            for word in ("get", "list", "put", "lock", "access")
            for name in ("secrets/db/a", "secrets/db/z", "secrets/web/root", "hosts/h1", RULES + "o1")
        ),
        lambda caller: rig.rules.explain(caller, "get", "secrets/db/a", "user:ann", "10.0.0.1"),
        lambda caller: rig.rules.explain(caller, "get", "secrets/db/a", "user:bob"),
        lambda caller: rig.rules.explain(caller, "get", "secrets/db/a", "user:nobody"),
        rig.rules.what_can,
        lambda caller: rig.rules.what_can(caller, "user:bob"),
        *(
            lambda caller, verb=verb: VERBS[verb][0](rig.parts, caller)
            for verb in ("put", "remove", "export", "diff", "replace_all", "who_can", "try_rules")
        ),
    ]
    found = []
    for ask in asks:
        try:
            said = await ask(asking(who, "request-0"))
        except ServiceError as error:
            found.append(msgspec.json.encode([type(error).__name__, str(error)]))
            continue
        if isinstance(said, tuple):
            said = str(said)
        elif type(said).__name__ == "Explained":
            said = http._explanation(said)  # type: ignore[arg-type]
        found.append(msgspec.json.encode(said))
    return found


# What is on record


async def outcomes(rig: Rig, requests: list[tuple[Principal, str, str]]) -> list[bool]:
    """Return whether each is allowed, as the door says and records it."""
    found = []
    for number, (who, action, name) in enumerate(requests):
        caller = asking(who, f"case-{number:05}")
        try:
            await rig.parts.door.permit(caller, Action(action), [name])
        except Denied:
            found.append(False)
        else:
            found.append(True)
        await rig.parts.door.close()  # which writes down what is counted: else one line stands for several refusals
    return found


WHOM: Final = {
    "user:ann": ANN,
    "user:bob": BOB,
    "user:far": Principal("user:far", ruled=True, address="192.0.2.9"),
    "apikey:ci": Principal("apikey:ci", ("/secrets/db",), frozenset({Action.GET, Action.LIST})),
}
BASE: Final = {
    "ops": rule("allow", "read,list,modify", "secrets/db/**", subject="group:ops"),
    "bob": rule("allow", "read", "secrets/web/*", subject="user:bob"),
    "far": rule("allow", "read", "secrets/**", subject="user:far", networks=("192.0.2.0/24",)),
    "ann": rule("allow", "create,modify,delete", "secrets/web/**"),
    "root": rule("deny", "read", "secrets/*/root", subject="*"),
}


def regressions() -> list[tuple[str, Rules]]:
    """Return twenty documents, each with one change that somebody may make by mistake."""
    seeds: list[tuple[str, Rules]] = []
    for name, each in BASE.items():
        seeds.append((f"without {name}", {other: said for other, said in BASE.items() if other != name}))
        seeds.append((f"{name} the other way", {**BASE, name: msgspec.structs.replace(each, effect="deny" if each.effect == "allow" else "allow")}))  # noqa: E501  # fmt: skip
        seeds.append((f"{name} of one segment", {**BASE, name: msgspec.structs.replace(each, names=("secrets/*",))}))
    seeds += [
        ("a deny of all", {**BASE, "z": rule("deny", "read", "**", subject="*")}),
        ("an allow of all", {**BASE, "z": rule("allow", "read", "**", subject="*")}),
        ("another network", {**BASE, "far": msgspec.structs.replace(BASE["far"], networks=("198.51.100.0/24",))}),
        ("a key's deny", {**BASE, "z": rule("deny", "list", "secrets/db/", subject="apikey:ci")}),
        ("expired", {**BASE, "ops": msgspec.structs.replace(BASE["ops"], expires="2026-01-01T00:00:00Z")}),
    ]
    assert len(seeds) == 20
    return seeds


async def test_a_trial_finds_twenty_regressions(rig: Rig, tmp_path: Path) -> None:
    """Of what is on record, in files that were rotated and packed too, a trial finds what new rules decide otherwise.

    What they would decide is told by a service that has them: each request that ends otherwise there is found, and
    no other; and rules that are spelled otherwise change nothing.
    """
    said = random.Random(11)
    places = ["secrets/db/a", "secrets/db/z", "secrets/db/root", "secrets/web/a", "secrets/web/root", "secrets/db/"]
    requests = [
        (WHOM[said.choice(list(WHOM))], said.choice(["get", "list", "create", "modify", "delete"]), said.choice(places))
        for _ in range(240)
    ]
    await rig.hold(BASE)
    before = []
    for number, some in enumerate((requests[:80], requests[80:160], requests[160:])):
        before += await outcomes(rig, some)
        if number == 0:
            packed = tmp_path / "audit.log-20261129-1764400000.gz"
            packed.write_bytes(gzip.compress(rig.audit.read_bytes()))
            rig.audit.unlink()
        elif number == 1:
            rig.audit.rename(tmp_path / "audit.log.1")
    distinct = dict.fromkeys((who.id, action, name) for who, action, name in requests)
    by_request = {(who.id, action, name): (who, was) for (who, action, name), was in zip(requests, before, strict=True)}
    async for other in service(tmp_path / "other"):
        for what, rules in [("spelled otherwise", BASE), *regressions()]:
            await other.hold(rules)
            truth = {
                key: now
                for key in distinct
                if (now := other.parts.door.allows(by_request[key][0], Action(key[1]), key[2])) != by_request[key][1]
            }
            tried = await rig.rules.try_rules(OPERATOR, rule_document.write(rules), timedelta(days=7))
            assert tried.complete
            told = {
                (flip.decision.id, rights, flip.decision.name): now
                for now, flips in ((False, tried.trial.denied), (True, tried.trial.allowed))
                for flip in flips
                for rights in [tuple(flip.decision.rights)]
            }
            assert told == {(who, rights_of(act, name), name): now for (who, act, name), now in truth.items()}, what
            assert bool(truth) == (what != "spelled otherwise")
            assert tried.trial.tried >= len(distinct)


async def test_a_trial_is_of_its_time(rig: Rig) -> None:
    """What is older than is asked for is not tried, whether it stands in the same file or in another."""
    await rig.hold(BASE)
    await outcomes(rig, [(ANN, "get", "secrets/db/a")] * 3)
    kept = [line for line in rig.audit.read_bytes().splitlines(keepends=True) if b'"user:ann"' in line]
    assert len(kept) == 3
    old = datetime.now(UTC) - timedelta(days=3)
    stamp = old.isoformat(timespec="microseconds").removesuffix("+00:00").encode()
    filler = b"".join(b'{"time":"%bZ"%b' % (stamp, line[37:]) for line in kept[:2]) * 400
    assert json.loads(filler.splitlines()[0])["principal"] == "user:ann"
    rig.audit.write_bytes(filler + b"".join(kept) + b'{"time":"torn\n')

    for days, number in ((1, 3), (7, 803)):
        tried = await rig.rules.try_rules(OPERATOR, "rules: {}", timedelta(days=days))
        assert (tried.trial.tried, tried.complete) == (number, True)
        (flip,) = tried.trial.denied
        assert flip.times == number
    os.utime(rig.audit, (0, 0))  # the log itself is read whatever its file says
    assert (await rig.rules.try_rules(OPERATOR, "rules: {}", timedelta(days=1))).trial.tried == 3


def test_a_reading_is_bounded(tmp_path: Path) -> None:
    """Where there is more than a reading takes in, or a file that cannot be read, it says that it is not all."""
    line = b'{"time":"2026-11-30T12:00:00.000000Z","request":"r-1234567","principal":"user:ann","action":"get","name":"a","decision":"denied","decided":{"rights":["read"],"rules":[],"verdict":null}}\n'  # noqa: E501
    log = tmp_path / "audit.log"
    log.write_bytes(line * 3000)
    since = datetime(2026, 11, 1, tzinfo=UTC)
    for decisions in (Decisions(log, lines=1000), Decisions(log, seconds=0.0)):
        reading = Reading()
        assert len(list(decisions.since(since, reading))) < 3000
        assert not reading.complete
    for other in ("audit.log-20261130.xz", "audit.log.1.gz"):
        (tmp_path / other).write_bytes(b"no such form")
        reading = Reading()
        assert len(list(Decisions(log).since(since, reading))) == 3000
        assert not reading.complete
        (tmp_path / other).unlink()
    (tmp_path / "audit.log.backup").write_bytes(b"\xff")
    (tmp_path / "audit-offline.log").write_bytes(b"\xff")
    reading = Reading()
    assert len(list(Decisions(log).since(since, reading))) == 3000
    assert reading.complete


async def test_one_trial_at_a_time(rig: Rig) -> None:
    """While the log is read for somebody, also if he has gone, others wait; he may wait once himself, and no more."""
    go_on, begun = threading.Event(), asyncio.Event()
    loop, order = asyncio.get_running_loop(), list[str]()

    def slow() -> str:
        loop.call_soon_threadsafe(begun.set)
        assert go_on.wait(30)
        return "the first"

    async def read(who: Caller) -> None:
        order.append(await rig.rules._in_turn(who, lambda: who.principal.id))

    first = asyncio.create_task(rig.rules._in_turn(asking(ANN), slow))
    await begun.wait()
    first.cancel()
    again, other = asyncio.create_task(read(asking(ANN))), asyncio.create_task(read(asking(BOB)))
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await rig.rules._in_turn(asking(ANN), str)
    assert order == []
    go_on.set()
    await asyncio.gather(again, other)

    assert order == [BOB.id, ANN.id]


async def test_a_case_is_explained(rig: Rig) -> None:
    """By the id of a refused request is told what was decided, by which rules, and why it would be so now."""
    await rig.hold(BASE)
    for who, request in ((ANN, "case-of-ann"), (BOB, "case-of-bob")):
        with pytest.raises(Denied):
            await rig.parts.secrets.get(asking(who, request), "secrets/web/root")
    await rig.hold({**BASE, "root": BASE["bob"]})

    (case,) = await rig.rules.cases(OPERATOR, "case-of-bob")

    assert (case.line.decision, case.line.name, case.line.action) == ("denied", "secrets/web/root", "get")
    assert case.line.decided is not None
    assert case.line.decided.rules == ["bob", "root"]
    assert case.now is not None and case.now.allowed
    (own,) = await rig.rules.cases(asking(ANN), "case-of-ann")
    assert own.now is not None and not own.now.whole
    for nothing in ("case-of-bob", "case-of-nobody"):
        with pytest.raises(NotFound) as caught:
            await rig.rules.cases(asking(ANN), nothing)
        assert str(caught.value) == "nothing is on record of a request of that id that you may see"


async def test_who_may_read_rules_alone_reads_no_record_of_others(rig: Rig) -> None:
    """The right to rules without the one to the audit log tries no rules, and tells no case but one's own."""
    await rig.hold({**BASE, "a": rule("allow", "access", "system/access/**")})
    with pytest.raises(Denied):
        await rig.parts.secrets.get(asking(BOB, "case-of-bob"), "secrets/web/root")
    with pytest.raises(Denied):
        await rig.rules.try_rules(asking(ANN), "rules: {}", timedelta(days=1))
    with pytest.raises(NotFound):
        await rig.rules.cases(asking(ANN), "case-of-bob")
    await rig.hold({**BASE, "a": rule("allow", "access,audit", "system/**")})
    assert len(await rig.rules.cases(asking(ANN), "case-of-bob")) == 1

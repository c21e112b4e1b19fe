"""Rules: what they decide, held to one who tries each rule on each question; and the faults that others had."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.models.access import InvalidAccess, Right, Rule
from strongroom.storage_service.access import rules as evaluator
from strongroom.storage_service.access.rules import Rules, is_within, matches, rights_of
from tests.access.brute import (
    HERE,
    NAMES,
    NOW,
    PATTERNS,
    RIGHTS,
    SOMEONE,
    UNIVERSE,
    Someone,
    matched,
    speaks,
    stands_for,
    verdict,
)

bounded = settings(max_examples=100, deadline=None, database=None, derandomize=True)

ANN = Someone("user:ann", frozenset({"ops"}), HERE)
READ = (Right.READ,)


def allow(*names: str, subjects: tuple[str, ...] = ("*",), actions: tuple[Right, ...] = READ) -> Rule:
    """Return a rule that allows."""
    return Rule(effect="allow", subjects=subjects, actions=actions, names=names)


def deny(*names: str, subjects: tuple[str, ...] = ("*",), actions: tuple[Right, ...] = READ) -> Rule:
    """Return a rule that denies."""
    return Rule(effect="deny", subjects=subjects, actions=actions, names=names)


def may(rules: dict[str, Rule], name: str, who: Someone = ANN, right: Right = Right.READ) -> bool | None:
    """Return what compiled *rules* say."""
    return Rules(rules).decide(who, (right,), name, NOW).allowed


def test_every_pattern_on_every_name() -> None:
    """Each pattern alone stands for just the names that it says, in the tree as in the plain comparison."""
    hits = 0
    for pattern, name, who in itertools.product(PATTERNS, NAMES, (ANN, Someone("apikey:ci"))):
        expected = stands_for(pattern, name, who.namespace)
        hits += expected
        assert matches(pattern, name, who.namespace) is expected, (pattern, name)
        assert (may({"r": allow(pattern)}, name, who) is True) is expected, (pattern, name)
        assert (may({"r": deny(pattern)}, name, who) is False) is expected, (pattern, name)
    assert 200 < hits < len(PATTERNS) * len(NAMES)


@bounded
@given(UNIVERSE, st.lists(SOMEONE, min_size=1, max_size=4))
def test_the_matrix(rules: dict[str, Rule], askers: list[Someone]) -> None:
    """Principals, rights and names of small universes get the verdict of brute force, and the rules that matched."""
    compiled = Rules(rules)
    for who in askers:
        for name in NAMES:
            for right in RIGHTS:
                said = compiled.decide(who, (right,), name, NOW)
                assert said.allowed is verdict(rules, who, (right,), name), (who, right, name)
                assert list(said.rules) == matched(rules, who, (right,), name)
                assert all(rules[each].effect == "deny" for each in said.denies)
            both = (Right.CREATE, Right.MODIFY)
            assert compiled.decide(who, both, name, NOW).allowed is verdict(rules, who, both, name)


@bounded
@given(UNIVERSE, SOMEONE)
def test_a_listing_shows_what_may_be_listed(rules: dict[str, Rule], who: Someone) -> None:
    """A listing shows a name just where a decision on that name allows to list it, and keeps the order."""
    compiled = Rules(rules)
    named = [*NAMES, *reversed(NAMES)]
    expected = [name for name in named if compiled.decide(who, (Right.LIST,), name, NOW).allowed]

    assert compiled.visible(who, named, NOW) == expected
    assert expected == [name for name in named if verdict(rules, who, (Right.LIST,), name)]


@bounded
@given(UNIVERSE, SOMEONE)
def test_what_is_ruled_out_is_never_allowed(rules: dict[str, Rule], who: Someone) -> None:
    """Where a right is ruled out below a prefix, no name that goes on from it is allowed."""
    compiled = Rules(rules)
    for below, right in itertools.product(["", "a/", "a/b/", "a", "a/b", "A/", "b/", "ci/", "a/user:", "x/"], RIGHTS):
        if compiled.rules_out(who, right, below, NOW):
            inside = [name for name in NAMES if name.startswith(below) and name != below]
            assert not any(verdict(rules, who, (right,), name) for name in inside), (below, right)


@bounded
@given(UNIVERSE, SOMEONE)
def test_tops_miss_nothing(rules: dict[str, Rule], who: Someone) -> None:
    """Whatever may be listed lies in one of the containers where that may begin, or is it."""
    compiled = Rules(rules)
    tops = compiled.tops(who, Right.LIST, NOW)
    for name in compiled.visible(who, NAMES, NOW):
        assert any(name.startswith(top) for top in tops), (name, tops)


@bounded
@given(UNIVERSE, UNIVERSE, SOMEONE)
def test_rules_that_change_are_as_if_made_anew(before: dict[str, Rule], after: dict[str, Rule], who: Someone) -> None:
    """Rules that come by changes say what they say when all are compiled; those they come from are as they were."""
    first = Rules(before)
    then = first.changed({name: after.get(name) for name in before.keys() | after.keys()})
    anew = Rules(after)
    assert then.rules == after
    for name, right in itertools.product(NAMES, RIGHTS):
        assert then.decide(who, (right,), name, NOW) == anew.decide(who, (right,), name, NOW)
        assert first.decide(who, (right,), name, NOW).allowed is verdict(before, who, (right,), name)
    assert then.tops(who, Right.LIST, NOW) == anew.tops(who, Right.LIST, NOW)


def test_rules_that_all_go_leave_nothing_behind() -> None:
    """When every rule has gone, the tree is empty again."""
    many = {f"r{number}": allow(pattern) for number, pattern in enumerate(PATTERNS)}

    left = Rules(many).changed(dict.fromkeys(many))

    assert left._root.unless_empty() is None
    assert left._of_subject == {}


def test_no_rule_means_no() -> None:
    """Without a rule nothing is said, which allows nothing; nor is an act allowed that needs no right."""
    assert may({}, "secrets/a/b") is None
    assert Rules({"r": allow("**")}).decide(ANN, (), "secrets/a/b", NOW).allowed is None


def test_neither_order_nor_closeness_means_anything() -> None:
    """A deny of much wins over an allow of one name, in either order; so does a deny of one over an allow of all."""
    wide, close = deny("secrets/**"), allow("secrets/db/web")
    assert may({"a": wide, "b": close}, "secrets/db/web") is may({"a": close, "b": wide}, "secrets/db/web") is False
    assert may({"a": allow("**"), "b": deny("secrets/db/web")}, "secrets/db/web") is False
    assert may({"a": allow("**"), "b": deny("secrets/db/web")}, "secrets/db/other") is True


def test_a_deny_holds_for_a_listing_too() -> None:
    """A deny under a wildcard hides the name from whoever may list all, for itself and for what lies below it."""
    rules = Rules(
        {
            "all": allow("secrets/**", actions=(Right.LIST, Right.READ)),
            "not": deny("secrets/*/root", "secrets/*/keys/**", actions=(Right.LIST,)),
        }
    )
    named = ["secrets/a/", "secrets/a/root", "secrets/a/web", "secrets/a/keys/", "secrets/a/keys/k", "secrets/root"]

    assert rules.visible(ANN, named, NOW) == ["secrets/a/", "secrets/a/web", "secrets/root"]


@pytest.mark.parametrize(
    "own", ["*", "**", "+", "a/b", "a,b", "", "../a", "{principal}", "user:*", "user:a/../b", "b/", "/"], ids=repr
)
def test_a_principal_of_an_odd_name_reaches_nothing_more(own: str) -> None:
    """What an asker is called widens no pattern: it is one segment that a name has just so, or nothing."""
    who = Someone("user:ann", own=own)
    for pattern, name in itertools.product([each for each in PATTERNS if "{principal}" in each], NAMES):
        assert may({"r": allow(pattern)}, name, who) is None, (pattern, name)


@pytest.mark.parametrize("name", ["secrets/*", "secrets/**", "secrets/{principal}", "secrets/*/", "*", "**"])
def test_a_name_is_never_a_pattern(name: str) -> None:
    """A name that looks like a pattern is told apart from it: it takes the ways that any other does."""
    said = Rules({"r": allow("secrets/*"), "s": allow("secrets/db/**"), "t": allow("a/{principal}")})

    decided = said.decide(ANN, READ, name, NOW)

    assert decided.allows == (("r",) if name.startswith("secrets/") and not name.endswith("/") else ())


def test_case_is_never_folded() -> None:
    """Subjects, groups and names that differ in case alone are others."""
    rules = {"r": allow("secrets/Db/**", subjects=("user:Ann", "group:Ops"))}
    for who in (Someone("user:ann", frozenset({"ops"})), Someone("USER:Ann", frozenset({"OPS"}))):
        assert may(rules, "secrets/Db/x", who) is None
    assert may(rules, "secrets/db/x", Someone("user:Ann")) is None
    assert may(rules, "secrets/Db/x", Someone("user:Ann")) is True


def test_nobody_is_a_group_for_being_called_so() -> None:
    """An asker whose id reads like a group's is not taken for its members."""
    assert may({"r": allow("**", subjects=("group:ops",))}, "a", Someone("group:ops")) is None


def test_the_container_alone_and_all_below() -> None:
    """A container is itself alone, ``*`` one segment, ``**`` all below with the container, and no neighbour of it."""
    names = [
        "secrets/db/",
        "secrets/db",
        "secrets/db/a",
        "secrets/db/a/",
        "secrets/db/a/b",
        "secrets/dbx/a",
        "secrets/",
    ]

    def met(pattern: str) -> list[str]:
        return [name for name in names if may({"r": allow(pattern)}, name)]

    assert met("secrets/db/") == ["secrets/db/"]
    assert met("secrets/db/*") == ["secrets/db/a"]
    assert met("secrets/db/*/") == ["secrets/db/a/"]
    assert met("secrets/db/**") == ["secrets/db/", "secrets/db/a", "secrets/db/a/", "secrets/db/a/b"]


def test_a_network_needs_a_known_address_within() -> None:
    """A rule with networks says nothing of an address that is unknown, unreadable, outside, or of the other version."""
    networks = evaluator.Network.of("10.0.0.0/8"), evaluator.Network.of("2001:db8::/32")
    assert all(is_within(each, networks) for each in ("10.0.0.1", "10.255.255.255", "2001:db8::1", "2001:DB8:0::1"))
    assert is_within("::ffff:10.0.0.1", networks)
    assert is_within("2001:db8::1%eth0", networks)
    outside = (None, "", "unknown", "11.0.0.0", "9.255.255.255", "2001:db9::", "::10.0.0.1", "10.0.0.1:80", "010.0.0.1")
    assert not any(is_within(each, networks) for each in outside)
    assert not is_within("10.0.0.1", [evaluator.Network.of("::/0")])
    assert is_within("10.0.0.1", [evaluator.Network.of("0.0.0.0/0")])


def test_a_rule_that_is_none_is_not_compiled() -> None:
    """A pattern that could not be heeded ends the compiling, whether the rule denies or allows."""
    for pattern in ("secrets/**/root", "secrets/db*", "secrets/**/", "", "/"):
        with pytest.raises(InvalidAccess):
            Rules({"r": deny(pattern)})
        with pytest.raises(InvalidAccess):
            Rules({}).changed({"r": deny(pattern)})


PLACES = {
    "system/keyring/lock": {Right.LOCK},
    "system/keyring/unlock": {Right.LOCK},
    "system/keyring/export": {Right.EXPORT},
    "system/keyring/keysets/default/rotate": {Right.ROTATE},
    "system/keyring/exported": {Right.ROTATE},
    "system/keyring/": {Right.ROTATE},
    "system/journal/migration/x": {Right.MIGRATE},
    "system/audit/": {Right.AUDIT},
    "system/access/rules/r": {Right.ACCESS},
    "system/access/": {Right.ACCESS},
}


def test_what_an_act_needs_is_told_by_its_name() -> None:
    """Below the service's own places every action needs the place's right; elsewhere each needs its own."""
    for action in ("get", "list", "put", "create", "modify", "delete"):
        for name, rights in PLACES.items():
            assert set(rights_of(action, name)) == rights, (action, name)
    usual = {
        "get": {Right.READ},
        "list": {Right.LIST},
        "put": {Right.CREATE, Right.MODIFY},
        "create": {Right.CREATE},
        "modify": {Right.MODIFY},
        "delete": {Right.DELETE},
    }
    for name in (
        "secrets/a/b",
        "hosts/10.0.0.7",
        "system/status",
        "system/accessible",
        "systemx/access/",
        "",
        "system/",
    ):
        assert {action: set(rights_of(action, name)) for action in usual} == usual, name


def test_a_rule_of_all_rights_but_one_lends_none_of_the_others() -> None:
    """No right is part of another: whoever may read everything may not export, and whoever may export reads nothing."""
    for right in Right:
        rules = Rules({"r": allow("**", actions=(right,))})
        for other in Right:
            assert rules.decide(ANN, (other,), "secrets/a/b", NOW).allowed is (True if other is right else None)


@bounded
@given(UNIVERSE, SOMEONE, st.sampled_from(["get", "list", "put", "delete"]))
def test_an_act_that_is_ruled_out_is_allowed_nowhere(rules: dict[str, Rule], who: Someone, action: str) -> None:
    """Where an act is ruled out below a prefix, it is allowed on no name there, in whatever place it lies."""
    compiled = Rules(
        rules | {"m": allow("system/journal/*", "system/keyring/lock", actions=(Right.MIGRATE, Right.LOCK))}
    )
    named = (*NAMES, *PLACES, "system/journal/x", "system/status")
    for below in ("", "a/", "system/", "system/journal/", "system/keyring/", "system/access/", "sys"):
        if compiled.rules_out_act(who, action, below, NOW):
            inside = [name for name in named if name.startswith(below) and name != below]
            assert not any(compiled.act(who, action, name, NOW).allowed for name in inside), below


def test_an_act_is_not_ruled_out_for_a_place_of_its_own() -> None:
    """Whoever may migrate, access or lock alone is not turned away before his name is known."""
    for name, right in (
        ("system/journal/migration/**", Right.MIGRATE),
        ("system/access/", Right.ACCESS),
        ("system/keyring/lock", Right.LOCK),
    ):
        rules = Rules({"r": allow(name, actions=(right,))})
        assert not rules.rules_out_act(ANN, "put", "", NOW)
        assert not rules.rules_out_act(ANN, "put", "system/", NOW)
        assert rules.rules_out_act(ANN, "put", "secrets/", NOW)


def test_a_decision_visits_what_its_name_can_take() -> None:
    """With 10,000 rules of other names, a decision looks where its own name leads, and nowhere else."""
    rules = {
        f"r{number}": allow(f"secrets/c{number // 50}/h{number}", subjects=("user:x",)) for number in range(10_000)
    }
    rules |= {"own": allow("secrets/{principal}/**"), "star": allow("secrets/*/h7"), "all": allow("secrets/**")}

    visited = list(evaluator._reached(Rules(rules)._root, "secrets/c0/h7", "user:ann"))

    assert len(visited) == 3  # all, star, r7


def test_a_listing_finds_each_container_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What holds of all that lies in a container is found once, however many names it has."""
    into, entered = evaluator._Way.into, []
    monkeypatch.setattr(
        evaluator._Way,
        "into",
        lambda way, container, **of: entered.append(container) or into(way, container, **of),
    )
    rules = Rules({"r": allow("secrets/**", actions=(Right.LIST,))})
    names = [f"secrets/c{number % 10}/h{number}" for number in range(2000)]

    assert rules.visible(ANN, names, NOW) == names
    assert sorted(entered) == [f"secrets/c{number}/" for number in range(10)]


def test_a_change_compiles_the_rule_that_changed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One rule among many is changed without compiling the others anew."""
    rules = Rules({f"r{number}": allow(f"secrets/c{number}/**") for number in range(500)})
    compiled, seen = evaluator._compiled, []
    monkeypatch.setattr(evaluator, "_compiled", lambda name, rule: seen.append(name) or compiled(name, rule))

    other = rules.changed({"r7": deny("secrets/c7/**"), "r8": None})

    assert seen == ["r7"]
    asked = [other.decide(ANN, READ, f"secrets/c{number}/x", NOW).allowed for number in (6, 7, 8)]
    assert asked == [True, False, None]
    assert rules.decide(ANN, READ, "secrets/c8/x", NOW).allowed is True


def test_askers_are_remembered_within_bounds() -> None:
    """Ever more askers do not fill the memory."""
    rules = Rules({"r": allow("**")})
    for number in range(evaluator.MAX_REMEMBERED + 100):
        rules.decide(Someone(f"user:u{number}"), READ, "a", NOW)

    assert rules._subjects.cache_info().currsize == evaluator.MAX_REMEMBERED


def test_a_rule_speaks_until_its_moment_comes() -> None:
    """The oracle and the rules agree on the very second at which a rule is over."""
    rule = Rule(effect="allow", subjects=("*",), actions=READ, names=("a",), expires="2026-11-30T12:00:00Z")
    before = NOW.replace(hour=11, minute=59, second=59, microsecond=999_999)

    assert Rules({"r": rule}).decide(ANN, READ, "a", before).allowed is True
    assert Rules({"r": rule}).decide(ANN, READ, "a", NOW).allowed is None
    assert speaks(rule, ANN, Right.READ, "a", before)
    assert not speaks(rule, ANN, Right.READ, "a")

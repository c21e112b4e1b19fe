"""Explanations are true, what they propose allows, and nothing smaller does; all that a change would do is found."""

import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from strongroom.models.access import ADMINISTRATORS, Right, Rule, check_rule
from strongroom.storage_service.access.explain import (
    Add,
    Aspect,
    Join,
    Narrow,
    Near,
    Question,
    Recorded,
    Remedy,
    Remove,
    covers,
    explain,
    try_rules,
    what_can,
    who_can,
)
from strongroom.storage_service.access.rules import Rules
from tests.access.brute import (
    GROUPS,
    HERE,
    NAMES,
    NOW,
    PATTERNS,
    RIGHTS,
    SOMEONE,
    UNIVERSE,
    Someone,
    is_from,
    matched,
    stands_for,
    verdict,
)

bounded = settings(max_examples=150, deadline=None, database=None, derandomize=True)

READ = (Right.READ,)
ASKED = st.sampled_from([(Right.READ,), (Right.LIST,), (Right.CREATE, Right.MODIFY)])
GRAMMATICAL = [name for name in NAMES if name]

Edit = Join | Add | Remove | Narrow


def allow(*names: str, subjects: tuple[str, ...] = ("*",), actions: tuple[Right, ...] = READ) -> Rule:
    """Return a rule that allows."""
    return Rule(effect="allow", subjects=subjects, actions=actions, names=names)


def deny(*names: str, subjects: tuple[str, ...] = ("*",), actions: tuple[Right, ...] = READ) -> Rule:
    """Return a rule that denies."""
    return Rule(effect="deny", subjects=subjects, actions=actions, names=names)


def edited(rules: dict[str, Rule], who: Someone, edits: Iterable[Edit]) -> tuple[dict[str, Rule], Someone]:
    """Return the rules and the asker after *edits*, each of which has to be one that can be made."""
    rules = dict(rules)
    for edit in edits:
        match edit:
            case Join(group):
                assert group not in who.groups
                who = replace(who, groups=who.groups | {group})
            case Add(rule):
                rules["added"] = check_rule(rule)
            case Remove(name):
                del rules[name]
            case Narrow(name, member, without):
                left = tuple(each for each in getattr(rules[name], member) if each not in without)
                rules[name] = check_rule(msgspec.structs.replace(rules[name], **{member: left}))
    return rules, who


def choices(remedy: Remedy) -> Iterator[tuple[Edit, ...]]:
    """Yield each way to do what *remedy* proposes."""
    grants: tuple[tuple[Edit, ...], ...] = tuple((each,) for each in remedy.grants) or ((),)
    for ways in itertools.product(*remedy.denies.values()):
        for grant in grants:
            yield (*ways, *grant)


def smallest(rules: dict[str, Rule], who: Someone, rights: tuple[Right, ...], name: str) -> set[frozenset[Edit]]:
    """Return the smallest of all sets of changes that allow: groups joined, rules removed, the one rule added."""
    kind, _, called = who.id.partition(":")
    assert kind and called
    add = Add(Rule(effect="allow", subjects=(who.id,), actions=rights, names=(name,)))
    possible: list[Edit] = [*map(Join, set(GROUPS) - who.groups), *map(Remove, rules), add]
    for size in range(len(possible) + 1):
        found = {
            frozenset(some)
            for some in itertools.combinations(possible, size)
            if verdict(*edited(rules, who, some), rights, name)
        }
        if found:
            return found
    raise AssertionError("a rule can always be added")


DENIED_BY_JOINING = {"r0": allow("a", subjects=("group:ops",)), "r1": deny("a", subjects=("group:ops",))}
DENIED_BOTH_WAYS = {"r0": allow("a", subjects=("group:dev",)), "r1": deny("a", subjects=("user:ann", "group:dev"))}


@bounded
@example(DENIED_BY_JOINING, Someone(), READ, "a")
@example(DENIED_BOTH_WAYS, Someone(), READ, "a")
@given(UNIVERSE, SOMEONE, ASKED, st.sampled_from(GRAMMATICAL))
def test_a_remedy_is_sound_and_minimal(
    rules: dict[str, Rule], who: Someone, rights: tuple[Right, ...], name: str
) -> None:
    """Each way to do what is proposed allows; none is larger than the smallest changes; all smallest are told."""
    said = explain(Rules(rules), Question(who, rights, name, NOW), GROUPS)
    if verdict(rules, who, rights, name):
        assert said.remedy is None
        return

    assert said.remedy is not None
    assert said.remedy.possible
    least = smallest(rules, who, rights, name)
    for edits in choices(said.remedy):
        assert verdict(*edited(rules, who, edits), rights, name), edits
        assert {len(edits)} == {len(each) for each in least}
    told = {
        frozenset("add" if isinstance(edit, Add) else edit for edit in edits)
        for edits in choices(said.remedy)
        if not any(isinstance(edit, Narrow) for edit in edits)
    }
    assert told == {frozenset("add" if isinstance(edit, Add) else edit for edit in some) for some in least}


@bounded
@given(UNIVERSE, SOMEONE, ASKED, st.sampled_from(NAMES))
def test_an_explanation_is_the_decision(
    rules: dict[str, Rule], who: Someone, rights: tuple[Right, ...], name: str
) -> None:
    """What is explained is what is decided, with every rule that matched and what in it did."""
    said = explain(Rules(rules), Question(who, rights, name, NOW), GROUPS)

    assert said.verdict.allowed is verdict(rules, who, rights, name)
    assert [each.rule for each in said.matched] == matched(rules, who, rights, name)
    for each in said.matched:
        assert each.subjects
        assert all(stands_for(pattern, name, who.namespace) for pattern in each.names)
        for pattern, right, subject in itertools.product(each.names, each.rights, each.subjects):
            alone = msgspec.structs.replace(rules[each.rule], names=(pattern,), actions=(right,), subjects=(subject,))
            assert matched({"r": alone}, who, rights, name) == ["r"]


@bounded
@given(UNIVERSE, SOMEONE, ASKED, st.sampled_from(NAMES))
def test_what_nearly_matched_lacks_one_thing(
    rules: dict[str, Rule], who: Someone, rights: tuple[Right, ...], name: str
) -> None:
    """A rule nearly matched just where it would match with its one aspect widened, and does not as it is."""
    wide: dict[Aspect, dict[str, Any]] = {
        Aspect.SUBJECT: {"subjects": ("*",)},
        Aspect.RIGHT: {"actions": tuple(Right)},
        Aspect.NAME: {"names": ("**",)},
        Aspect.NETWORK: {"networks": ()},
        Aspect.EXPIRY: {"expires": None},
    }
    expected = {
        Near(key, rule.effect, aspect)
        for key, rule in rules.items()
        for aspect, change in wide.items()
        if not matched({key: rule}, who, rights, name)
        and matched({key: msgspec.structs.replace(rule, **change)}, who, rights, name)
    }

    assert set(explain(Rules(rules), Question(who, rights, name, NOW), GROUPS).nearly) == expected


def test_the_rule_that_is_proposed_is_the_narrowest() -> None:
    """It allows the asker alone, what is missing alone, and the name alone."""
    rules = Rules({"r": allow("a/b", actions=(Right.CREATE,))})

    said = explain(rules, Question(Someone(), (Right.CREATE, Right.MODIFY), "a/b", NOW), ())

    assert said.missing == (Right.MODIFY,)
    assert said.remedy == Remedy(
        {}, (Add(allow("a/b", subjects=("user:ann",), actions=(Right.MODIFY,))),), possible=True
    )


def test_nobody_is_made_administrator_where_anything_else_will_do() -> None:
    """The administrators' group is proposed last."""
    rules = Rules(
        {ADMINISTRATORS: allow("**", subjects=("group:administrators",)), "z": allow("a", subjects=("group:z",))}
    )

    said = explain(rules, Question(Someone(), READ, "a", NOW), (ADMINISTRATORS, "z"))

    assert said.remedy is not None
    assert said.remedy.grants[1:] == (Join("z"), Join(ADMINISTRATORS))


@pytest.mark.parametrize("name", ["", "secrets/*", "secrets/**", "{principal}", "a//b"])
def test_no_rule_is_proposed_that_would_say_more_than_the_name(name: str) -> None:
    """For what is not a name that a pattern can say alone, no rule is proposed."""
    said = explain(Rules({}), Question(Someone(), READ, name, NOW), GROUPS)

    assert said.remedy == Remedy({}, (), possible=False)


@pytest.mark.parametrize("asker", ["*", "group:ops", "nobody", "user:", "user:a/b"])
def test_no_rule_is_proposed_for_more_than_the_asker(asker: str) -> None:
    """For an asker whom no rule can name alone, none is proposed."""
    said = explain(Rules({}), Question(Someone(asker), READ, "a", NOW), ())

    assert said.remedy == Remedy({}, (), possible=False)


@bounded
@given(UNIVERSE, st.sampled_from(RIGHTS), st.sampled_from(NAMES))
def test_who_can_is_who_is_allowed(rules: dict[str, Rule], right: Right, name: str) -> None:
    """Those who can are those who are allowed from some address, and where they may come from is told."""
    people = [
        Someone(id_, frozenset(groups))
        for id_ in ("user:ann", "user:bob", "apikey:ci")
        for groups in ((), ("ops",), ("dev",))
    ]
    addresses = (None, HERE, "192.0.2.8", "10.1.2.3", "198.51.100.1")

    said = {
        (each.id, number): each
        for number, who in enumerate(people)
        for each in who_can(Rules(rules), right, name, [who], NOW)
    }

    for number, who in enumerate(people):
        for address in addresses:
            allowed = verdict(rules, replace(who, address=address), (right,), name) is True
            told = said.get((who.id, number))
            expected = (
                told is not None
                and (not told.networks or is_from(address, told.networks))
                and not is_from(address, told.barred)
            )
            assert allowed is expected, (who, address, told)


@bounded
@given(UNIVERSE, SOMEONE)
def test_what_can_is_what_is_allowed(rules: dict[str, Rule], who: Someone) -> None:
    """A name is allowed just where a line allows it and none denies it, and no line says what another does."""
    said = what_can(Rules(rules), who, NOW)

    for name, right in itertools.product(NAMES, RIGHTS):
        allowed, denied = (
            any(
                right in line.rights
                and stands_for(line.pattern, name, "")
                and (not line.networks or is_from(who.address, line.networks))
                for line in lines
            )
            for lines in (said.allowed, said.denied)
        )
        assert (verdict(rules, who, (right,), name) is True) is (allowed and not denied), (name, right)
    for one, other in itertools.permutations(said.allowed, 2):
        if not other.networks and other.expires is None:
            assert not (set(one.rights) & set(other.rights) and covers(other.pattern, one.pattern))


def test_one_pattern_covers_another_where_no_name_is_left_out() -> None:
    """Whatever is said to cover stands for all names of the other; what is not is told from it by a name."""
    plain = [each for each in PATTERNS if "{" not in each]
    segments = ("a", "b", "c", "A", "ci", "x", "secrets")
    names = {
        "/".join(some) + end
        for length in range(1, 5)
        for some in itertools.product(segments[: 7 if length < 3 else 3], repeat=length)
        for end in ("", "/")
    } | {""}
    for wide, narrow in itertools.product(plain, repeat=2):
        within = all(stands_for(wide, name, "") for name in names if stands_for(narrow, name, ""))
        assert covers(wide, narrow) is within, (wide, narrow)


def test_a_principal_of_an_odd_name_is_told_nothing_more() -> None:
    """What stands for the asker in a pattern is never told as a wildcard."""
    said = what_can(Rules({"r": allow("secrets/{principal}/**", "a")}), Someone(own="*"), NOW)

    assert [line.pattern for line in said.allowed] == ["a"]


def recorded(rules: dict[str, Rule], count: int, seed: int) -> list[Recorded]:
    """Return decisions of a house, as its rules made them."""
    chance = random.Random(seed)
    compiled = Rules(rules)
    found = []
    for number in range(count):
        who = chance.choice(range(40))
        asked = Recorded(
            id=f"user:u{who}",
            groups=frozenset({f"g{who % 10}"}),
            address=chance.choice([None, HERE]),
            credential="c",
            rights=(chance.choice(RIGHTS),),
            name=f"secrets/c{chance.randrange(20)}/h{chance.randrange(5)}",
            moment=NOW + timedelta(seconds=number),
            verdict=None,
        )
        said = compiled.decide(asked, asked.rights, asked.name, asked.moment).allowed
        found.append(replace(asked, verdict=said))
    return found


def house() -> dict[str, Rule]:
    """Return rules in which every container is a group's, and some names in them are nobody's."""
    rules = {
        f"c{number}": allow(
            f"secrets/c{number}/**", subjects=(f"group:g{number % 10}", f"user:u{number}"), actions=RIGHTS
        )
        for number in range(20)
    }
    return rules | {f"d{number}": deny(f"secrets/c{number}/h0", actions=RIGHTS) for number in range(0, 20, 2)}


def broken(number: int) -> dict[str, Rule | None]:
    """Return a change of the house's rules that somebody would regret: of each kind some."""
    container = f"secrets/c{number}"
    changes: list[dict[str, Rule | None]] = [
        {f"c{number}": None},
        {f"d{number - number % 2}": None},
        {f"c{number}": allow(f"{container}/*/**", subjects=(f"group:g{number % 10}",), actions=RIGHTS)},
        {f"new{number}": deny(f"{container}/h3", subjects=(f"group:g{number % 10}",), actions=RIGHTS)},
        {f"new{number}": allow(f"{container}/h1", subjects=("*",), actions=(Right.MODIFY,))},
    ]
    return changes[number % 5]


@pytest.mark.parametrize("number", range(20))
def test_a_regression_is_found(number: int) -> None:
    """Each of twenty changes flips decisions that are on record: those that flip are told, to their side, no other."""
    rules = house()
    decisions = recorded(rules, 4000, number)
    after = {name: rule for name, rule in (rules | broken(number)).items() if rule is not None}

    trial = try_rules(decisions, Rules(after))

    denied: set[tuple[object, ...]] = set()
    allowed: set[tuple[object, ...]] = set()
    for each in decisions:
        who = Someone(each.id, each.groups, each.address)
        now = verdict(after, who, each.rights, each.name, each.moment) is True
        if now is not (each.verdict is True):
            (allowed if now else denied).add((each.id, each.address, each.rights, each.name))
    assert denied or allowed
    for flips, expected in ((trial.denied, denied), (trial.allowed, allowed)):
        assert {(f.decision.id, f.decision.address, f.decision.rights, f.decision.name) for f in flips} == expected
        assert len(flips) == len(expected)
    assert trial.tried == len(decisions)


@pytest.mark.parametrize("seed", range(5))
def test_no_regression_is_found_where_there_is_none(seed: int) -> None:
    """Rules that mean the same flip nothing: other names, another order, a rule in two, one that is nobody's."""
    rules = house()
    same = {f"x-{name}": rule for name, rule in reversed(rules.items())}
    taken = same.pop("x-c3")
    for subject in taken.subjects:
        same[f"x-{subject}"] = msgspec.structs.replace(taken, subjects=(subject,))
    same["nobody"] = deny("**", subjects=("user:nobody",), actions=RIGHTS)

    trial = try_rules(recorded(rules, 3000, seed), Rules(same))

    assert (trial.denied, trial.allowed, trial.tried) == ((), (), 3000)


def test_a_decision_is_all_deciders() -> None:
    """What another decider denied stays denied, what one allowed needs no rule, and a deny holds for it."""
    asked = recorded({}, 1, 1)[0]
    denied, reached, plain = (replace(asked, others=said) for said in (False, True, None))

    opened, closed = Rules({"r": allow("**", actions=RIGHTS)}), Rules({"r": deny("**", actions=RIGHTS)})

    assert [flip.decision for flip in try_rules([denied, reached, plain], opened).allowed] == [plain]
    assert [flip.decision for flip in try_rules([denied, reached, plain], closed).denied] == [reached]


def test_decisions_that_are_alike_are_told_once() -> None:
    """A thousand of the same are one line, with how many they are and when the last was."""
    asked = recorded({}, 1, 1)[0]
    many = [replace(asked, moment=asked.moment + timedelta(seconds=number)) for number in range(1000)]

    (flip,) = try_rules(many, Rules({"r": allow("**", actions=RIGHTS)})).allowed

    assert (flip.decision, flip.times, flip.last, flip.rules) == (many[0], 1000, many[-1].moment, ("r",))


def test_rules_are_tried_at_the_moment_of_the_decision() -> None:
    """A rule that had ended by then allows nothing, and one that had not does."""
    asked = recorded({}, 1, 1)[0]
    until = Rule(effect="allow", subjects=("*",), actions=RIGHTS, names=("**",), expires="2026-11-30T12:00:00Z")
    before = replace(asked, moment=NOW - timedelta(seconds=1))

    assert [flip.decision for flip in try_rules([asked, before], Rules({"r": until})).allowed] == [before]

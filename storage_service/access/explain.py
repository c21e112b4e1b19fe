"""Why rules say what they say, what would change it, who can do a thing, what somebody can do, and what a change does.

All of it asks the rules as they are: nothing here decides for itself. Whoever shows any of it to people sees to it that
nobody learns of more than he may see.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple

from strongroom.models import names as places
from strongroom.models.access import (
    ADMINISTRATORS,
    EVERYBODY,
    OWN,
    Effect,
    Right,
    Rule,
    check_subject,
    check_time,
)
from strongroom.models.errors import InvalidName
from strongroom.storage_service.access.rules import Asker, Network, Rules, Verdict, is_within, matches, subject_of

_ALL_BELOW: Final = "**"
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._@:+-]+", re.ASCII)


class Aspect(StrEnum):
    """In what a rule can fit an act or not."""

    SUBJECT = "subject"
    RIGHT = "right"
    NAME = "name"
    NETWORK = "network"
    EXPIRY = "expiry"


class Question(NamedTuple):
    """What is asked about: whether *asker* may do to *name* what needs *rights*."""

    asker: Asker
    rights: tuple[Right, ...]
    name: str
    now: datetime

    def put_to(self, rules: Rules) -> Verdict:
        """Return what *rules* say."""
        return rules.decide(self.asker, self.rights, self.name, self.now)

    def granted(self, rules: Rules) -> list[Right]:
        """Return the rights that *rules* allow, a deny aside."""
        return [right for right in self.rights if rules.decide(self.asker, (right,), self.name, self.now).allows]


class Match(NamedTuple):
    """A rule that speaks of an act, and what in it does."""

    rule: str
    effect: Effect
    subjects: tuple[str, ...]
    rights: tuple[Right, ...]
    names: tuple[str, ...]


class Near(NamedTuple):
    """A rule that would speak of an act, but for one thing."""

    rule: str
    effect: Effect
    lacks: Aspect


class Join(NamedTuple):
    """The asker becomes a member of a group."""

    group: str


class Add(NamedTuple):
    """A rule is added."""

    rule: Rule


class Remove(NamedTuple):
    """A rule that denies is removed."""

    rule: str


class Narrow(NamedTuple):
    """A rule that denies is kept, without these of its *member*: ``subjects``, ``actions`` or ``names``."""

    rule: str
    member: str
    without: tuple[str, ...]


class Remedy(NamedTuple):
    """The smallest change that would allow: each of *denies* undone in one of its ways, and one of *grants*.

    There are no *grants* where the rules allow already what a rule denies. Where *possible* is False, no change of
    rules and groups is known that would allow.
    """

    denies: Mapping[str, tuple[Narrow | Remove, ...]]
    grants: tuple[Add | Join, ...]
    possible: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """What rules say of an act, and why.

    Attributes:
        verdict: as it is decided.
        missing: the rights that no rule allows.
        matched: every rule that speaks of it, by name.
        nearly: those that fit in all but one thing.
        remedy: the smallest change that would allow; None for what is allowed.
    """

    verdict: Verdict
    missing: tuple[Right, ...]
    matched: tuple[Match, ...]
    nearly: tuple[Near, ...]
    remedy: Remedy | None


def explain(rules: Rules, question: Question, groups: Iterable[str]) -> Explanation:
    """Return why *rules* say what they say; *groups* are those that one can join."""
    verdict, granted = question.put_to(rules), question.granted(rules)
    missing = tuple(right for right in question.rights if right not in granted)
    fits = [_fit(key, rule, question) for key, rule in sorted(rules.rules.items())]
    matched = tuple(each for each in fits if isinstance(each, Match))
    nearly = tuple(each for each in fits if isinstance(each, Near))
    remedy = None if verdict.allowed else _remedy(rules, question, missing, verdict.denies, groups)
    return Explanation(verdict, missing, matched, nearly, remedy)


def _fit(key: str, rule: Rule, question: Question) -> Match | Near | None:
    subjects, actions, patterns = _speaking(rule, question)
    fits = {
        Aspect.SUBJECT: bool(subjects),
        Aspect.RIGHT: bool(actions),
        Aspect.NAME: bool(patterns),
        Aspect.NETWORK: not rule.networks or is_within(question.asker.address, map(Network.of, rule.networks)),
        Aspect.EXPIRY: rule.expires is None or question.now < check_time(rule.expires, "expires"),
    }
    lacking = [aspect for aspect, fit in fits.items() if not fit]
    if not lacking:
        return Match(key, rule.effect, subjects, actions, patterns)
    return Near(key, rule.effect, lacking[0]) if len(lacking) == 1 else None


def _speaking(rule: Rule, question: Question) -> tuple[tuple[str, ...], tuple[Right, ...], tuple[str, ...]]:
    """Return the subjects, the rights and the patterns of *rule* that are those of what is asked about."""
    asker = question.asker
    known_as = {EVERYBODY, *subject_of(asker.id), *(f"group:{group}" for group in asker.groups)}
    return (
        tuple(each for each in rule.subjects if each in known_as),
        tuple(each for each in rule.actions if each in question.rights),
        tuple(each for each in rule.names if matches(each, question.name, asker.namespace)),
    )


def _remedy(
    rules: Rules, question: Question, missing: Sequence[Right], denies: Sequence[str], groups: Iterable[str]
) -> Remedy:
    """Return the smallest change that would allow.

    Every rule that denies has to give way, and no other change makes one do so. What is allowed by nothing then needs
    one change more and never two, since a rule can be added; nor is a group joined that brings another deny.
    """
    grants: list[Add | Join] = []
    joins: list[str] = []
    if missing:
        if (rule := _grant(question, missing)) is not None:
            grants.append(Add(rule))
        joins = [group for group in set(groups) - question.asker.groups if _helps(rules, question, group, denies)]
        joins.sort(key=lambda group: (group == ADMINISTRATORS, group))
        grants += map(Join, joins)
    ways = {key: _undone(key, rules.rules[key], question, joins) for key in denies}
    return Remedy(ways, tuple(grants), possible=bool(question.rights) and (not missing or bool(grants)))


def _helps(rules: Rules, question: Question, group: str, denies: Sequence[str]) -> bool:
    """Whether a member of *group* would be allowed, once *denies* are undone."""
    member = question._replace(asker=_Member(question.asker, group))
    return len(member.granted(rules)) == len(question.rights) and set(member.put_to(rules).denies) <= set(denies)


class _Member:
    """An asker, as he would be as a member of one group more."""

    def __init__(self, asker: Asker, group: str) -> None:
        self.id = asker.id
        self.groups = asker.groups | {group}
        self.namespace = asker.namespace
        self.address = asker.address


def _undone(key: str, rule: Rule, question: Question, joins: Iterable[str]) -> tuple[Narrow | Remove, ...]:
    """Return the ways in which a rule would no longer deny: those that leave something of it come first.

    That it no longer speaks of the asker is not one, where it would speak of one of the groups that he may join.
    """
    subjects, actions, patterns = _speaking(rule, question)
    found: list[Narrow | Remove] = []
    if len(patterns) < len(rule.names):
        found.append(Narrow(key, "names", patterns))
    if len(actions) < len(rule.actions):
        found.append(Narrow(key, "actions", tuple(map(str, actions))))
    if len(subjects) < len(rule.subjects) and not any(f"group:{group}" in rule.subjects for group in joins):
        found.append(Narrow(key, "subjects", subjects))
    return (*found, Remove(key))


def _grant(question: Question, missing: Sequence[Right]) -> Rule | None:
    """Return the rule that allows just that to the asker, if one can say it."""
    try:
        subject, pattern = check_subject(question.asker.id), places.check(question.name)
    except InvalidName:
        return None
    if subject == EVERYBODY or not subject_of(subject):
        return None
    return Rule(effect="allow", subjects=(subject,), actions=tuple(missing), names=(pattern,))


class Who(NamedTuple):
    """Somebody who can do a thing, and by which rules.

    *networks* are those that he has to come from, none where it makes no difference; from those of *barred* he cannot.
    """

    id: str
    allows: tuple[str, ...]
    networks: tuple[str, ...]
    barred: tuple[str, ...]


def who_can(rules: Rules, right: Right, name: str, askers: Iterable[Asker], now: datetime) -> list[Who]:
    """Return those of *askers* who have *right* to *name*, from wherever they may have to come, in their order."""
    found = []
    for asker in askers:
        allows: list[str] = []
        denies: list[str] = []
        for key in rules.speaking_of(asker, (right,), name, now):
            (denies if rules.rules[key].effect == "deny" else allows).append(key)
        networks = [rules.rules[key].networks for key in allows]
        barred = [rules.rules[key].networks for key in denies]
        if allows and all(barred):
            found.append(
                Who(asker.id, tuple(allows), _joined(networks) if all(networks) else (), _joined(barred)),
            )
    return found


def _joined(entries: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(sorted({each for some in entries for each in some}))


class Can(NamedTuple):
    """What somebody can do to the names of one pattern, or cannot; with the networks and the end that it holds for."""

    pattern: str
    rights: tuple[Right, ...]
    networks: tuple[str, ...]
    expires: str | None


class Reach(NamedTuple):
    """All that somebody can do: what of *allowed* is not *denied*."""

    allowed: tuple[Can, ...]
    denied: tuple[Can, ...]


def what_can(rules: Rules, asker: Asker, now: datetime) -> Reach:
    """Return what *asker* can do from anywhere, in as few lines as say it; a line that another implies is left out.

    ``{principal}`` is said as what stands for it. A line that is wholly denied is left out, and so is a denial of
    what is not allowed.
    """
    is_segment = _SEGMENT.fullmatch(asker.namespace) is not None  # else nothing is called so
    said: dict[bool, dict[tuple[str, tuple[str, ...], str | None], set[Right]]] = {True: {}, False: {}}
    for key in rules.of(asker, now):
        rule = rules.rules[key]
        for pattern in rule.names if is_segment else [each for each in rule.names if OWN not in each]:
            spelled = "/".join(asker.namespace if each == OWN else each for each in pattern.split("/"))
            line = spelled, tuple(sorted(rule.networks)), rule.expires
            said[rule.effect == "allow"].setdefault(line, set()).update(rule.actions)
    denied = _compact(said[False], said[False])
    allowed = _compact(
        said[True], said[True], {line: rights for line, rights in said[False].items() if not any(line[1:])}
    )
    met = [
        can
        for can in denied
        if any(set(can.rights) & set(other.rights) and _overlap(can.pattern, other.pattern) for other in allowed)
    ]
    return Reach(tuple(allowed), tuple(met))


_Lines = Mapping[tuple[str, tuple[str, ...], str | None], set[Right]]


def _compact(lines: _Lines, among: _Lines, against: _Lines | None = None) -> list[Can]:
    """Return *lines* without what another of *among* says of the same right, or one of *against* takes back."""
    found = []
    for line, rights in sorted(lines.items(), key=lambda item: (item[0][0], item[0][1], item[0][2] or "")):
        left = {
            right
            for right in rights
            if not any(right in more and other != line and _implies(other, line) for other, more in among.items())
            and not any(right in more and covers(other[0], line[0]) for other, more in (against or {}).items())
        }
        if left:
            pattern, networks, expires = line
            found.append(Can(pattern, tuple(right for right in Right if right in left), networks, expires))
    return found


def _implies(wide: tuple[str, tuple[str, ...], str | None], narrow: tuple[str, tuple[str, ...], str | None]) -> bool:
    """Whether all that *narrow* speaks of, *wide* speaks of as well: names, networks, and as long."""
    return (
        covers(wide[0], narrow[0])
        and (not wide[1] or (bool(narrow[1]) and set(narrow[1]) <= set(wide[1])))
        and (wide[2] is None or (narrow[2] is not None and narrow[2] <= wide[2]))
    )


def covers(wide: str, narrow: str) -> bool:
    """Whether each name that *narrow* stands for is one that *wide* stands for."""
    wanted, given = wide.split("/"), narrow.split("/")
    if wanted[-1] == _ALL_BELOW:
        wanted.pop()
        if len(given) <= len(wanted):
            return False
    elif len(given) != len(wanted):
        return False
    return all(
        bool(there) and there != _ALL_BELOW if each == "*" else each == there
        for each, there in zip(wanted, given, strict=False)
    )


def _overlap(one: str, other: str) -> bool:
    """Whether a name may be of both patterns."""
    for ours, theirs in zip(one.split("/"), other.split("/"), strict=False):
        if _ALL_BELOW in (ours, theirs):
            return True
        if ours != theirs and not ("*" in (ours, theirs) and ours and theirs):
            return False
    return one.count("/") == other.count("/")


@dataclass(frozen=True, slots=True)
class Recorded:
    """A decision as it is on record: who asked for what, from where and when, and what was said.

    Attributes:
        groups: of the asker, as they were then.
        credential: what it was known by; it decides nothing here.
        moment: when; rules that had ended by then had ended.
        verdict: what the rules said.
        others: what all deciders beside the rules said together.
    """

    id: str
    groups: frozenset[str]
    address: str | None
    credential: str | None
    rights: tuple[Right, ...]
    name: str
    moment: datetime
    verdict: bool | None
    others: bool | None = None

    @property
    def namespace(self) -> str:
        """What stood for ``{principal}``: as `Principal.namespace`."""
        kind, _, name = self.id.partition(":")
        return name if kind == "apikey" else self.id


class Flip(NamedTuple):
    """A decision that would be another: the first of those that are alike, how many they are, and what would decide."""

    decision: Recorded
    times: int
    last: datetime
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """What proposed rules would change in the decisions that are on record.

    Attributes:
        tried: how many there are.
        denied: those that were allowed, and would not be.
        allowed: those that were denied, and would not be.
        more: how many that would be others are not told, because so many others are.
    """

    tried: int
    denied: tuple[Flip, ...]
    allowed: tuple[Flip, ...]
    more: int = 0


def try_rules(recorded: Iterable[Recorded], proposed: Rules, most: int | None = None) -> Trial:
    """Return which of the *recorded* decisions, in whatever order, would be others under the *proposed* rules.

    A decision is all deciders' together: one that was not the rules' to make is not changed by them. At most *most*
    that are not alike are told of those that would be denied, and of those that would be allowed.
    """
    tried = more = 0
    flips: dict[bool, dict[tuple[object, ...], Flip]] = {False: {}, True: {}}
    for each in recorded:
        tried += 1
        said = proposed.decide(each, each.rights, each.name, each.moment)
        before, after = _together(each.verdict, each.others), _together(said.allowed, each.others)
        if before == after:
            continue
        alike = each.id, each.groups, each.address, each.rights, each.name, each.others, said
        known = flips[after].get(alike)
        if known is None:
            if most is not None and len(flips[after]) >= most:
                more += 1
                continue
            known = Flip(each, 0, each.moment, said.rules)
        first = each if each.moment < known.decision.moment else known.decision
        flips[after][alike] = Flip(first, known.times + 1, max(known.last, each.moment), known.rules)
    return Trial(tried, tuple(flips[False].values()), tuple(flips[True].values()), more)


def _together(rules: bool | None, others: bool | None) -> bool:
    """Return the joint answer: any no is no, and one yes is needed."""
    return False not in (rules, others) and True in (rules, others)

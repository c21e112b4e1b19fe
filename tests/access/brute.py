"""The rules as their page says them, read by one who has all day: each rule tried on each question, word by word.

Nothing here is taken from the evaluator but its answers' names. Universes are small, so that all of them can be tried.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Final

from hypothesis import strategies as st

from strongroom.models.access import Right, Rule

NOW: Final = datetime(2026, 11, 30, 12, tzinfo=UTC)
PAST: Final = "2026-11-30T12:00:00Z"  # a rule that expires now is over
FUTURE: Final = "2026-11-30T12:00:01Z"
HERE: Final = "192.0.2.7"

RIGHTS: Final = (Right.READ, Right.LIST, Right.CREATE, Right.MODIFY)
SUBJECTS: Final = ("*", "user:ann", "user:bob", "apikey:ci", "group:ops", "group:dev")
GROUPS: Final = ("ops", "dev")
PATTERNS: Final = (
    *("**", "*", "a", "a/", "a/**", "a/*", "a/*/", "a/b", "a/b/", "a/b/**", "a/*/c", "*/b", "*/*", "*/", "*/**"),
    *(
        "{principal}",
        "{principal}/",
        "{principal}/**",
        "a/{principal}",
        "a/{principal}/**",
        "*/{principal}",
        "a/b/c/**",
    ),
    *("A/b", "ci/**", "secrets/{principal}/*"),
)
NAMES: Final = (
    *("", "a", "a/", "a/b", "a/b/", "a/b/c", "a/b/c/", "a/b/c/d", "a/c", "a/d/c", "b", "b/", "b/b", "A/b", "A", "a/B"),
    *("user:ann", "user:ann/", "user:ann/x", "a/user:ann", "a/user:ann/", "a/user:ann/x", "a/user:bob", "a/user:bob/x"),
    *("ci", "ci/", "ci/x", "a/ci", "a/ci/x", "b/ci", "secrets/user:ann/x", "secrets/user:ann/x/", "secrets/ci/x"),
)


@dataclass(frozen=True, slots=True)
class Someone:
    """Who asks."""

    id: str = "user:ann"
    groups: frozenset[str] = frozenset()
    address: str | None = None
    own: str | None = None
    namespace: str = field(init=False)

    def __post_init__(self) -> None:
        kind, _, name = self.id.partition(":")
        said = name if kind == "apikey" else self.id
        object.__setattr__(self, "namespace", said if self.own is None else self.own)


@cache
def stands_for(pattern: str, name: str, own: str) -> bool:
    """Whether *pattern* stands for *name*: one segment after the other is taken off both."""
    if pattern == "**":
        return True
    first, slash, pattern_rest = pattern.partition("/")
    segment, name_slash, name_rest = name.partition("/")
    if first == "*":
        same = segment != ""
    elif first == "{principal}":
        same = segment != "" and segment == own
    else:
        same = segment == first
    if not same or slash != name_slash:
        return False
    if not slash:
        return True
    if pattern_rest == "" or name_rest == "":  # a container's end
        return pattern_rest == name_rest or pattern_rest == "**"
    return stands_for(pattern_rest, name_rest, own)


@cache
def is_from(address: str | None, networks: tuple[str, ...]) -> bool:
    """Whether an IPv4 address lies in one of the networks, bit by bit."""

    def bits(dotted: str) -> str:
        return "".join(f"{int(part):08b}" for part in dotted.split("."))

    for network in networks:
        base, _, length = network.partition("/")
        count = int(length or 32)
        if address is not None and bits(address)[:count] == bits(base)[:count]:
            return True
    return False


def speaks(rule: Rule, who: Someone, right: Right, name: str, now: datetime = NOW) -> bool:
    """Whether *rule* speaks of *who*'s doing what needs *right* to *name*, now and from where he is."""
    if right not in rule.actions:
        return False
    known_as = ["*", who.id] + ["group:" + group for group in who.groups]
    if not any(subject in known_as for subject in rule.subjects):
        return False
    if not any(stands_for(pattern, name, who.namespace) for pattern in rule.names):
        return False
    if rule.networks and not is_from(who.address, rule.networks):
        return False
    return rule.expires is None or now < datetime.strptime(rule.expires, "%Y-%m-%dT%H:%M:%S%z")


def verdict(
    rules: Mapping[str, Rule], who: Someone, rights: Iterable[Right], name: str, now: datetime = NOW
) -> bool | None:
    """Return what all rules say together: a deny wins, every right needs an allow, silence is None."""
    rights = list(rights)
    for right in rights:
        if any(rule.effect == "deny" and speaks(rule, who, right, name, now) for rule in rules.values()):
            return False
    for right in rights:
        if not any(rule.effect == "allow" and speaks(rule, who, right, name, now) for rule in rules.values()):
            return None
    return True if rights else None


def matched(rules: Mapping[str, Rule], who: Someone, rights: Iterable[Right], name: str) -> list[str]:
    """Return the names of all rules that speak of it."""
    rights = list(rights)
    return sorted(key for key, rule in rules.items() if any(speaks(rule, who, right, name) for right in rights))


def some(items: Iterable[str], most: int = 2) -> st.SearchStrategy[tuple[str, ...]]:
    """Return some of *items*, none of them twice."""
    return st.lists(st.sampled_from(list(items)), min_size=1, max_size=most, unique=True).map(tuple)


RULE: Final = st.builds(
    Rule,
    effect=st.sampled_from(["allow", "allow", "deny"]),
    subjects=some(SUBJECTS),
    actions=some(RIGHTS, 3),
    names=some(PATTERNS),
    networks=st.sampled_from([(), (), (), ("192.0.2.0/24",), ("10.0.0.0/8", "192.0.2.7")]),
    expires=st.sampled_from([None, None, None, PAST, FUTURE]),
)
UNIVERSE: Final = st.lists(RULE, max_size=6).map(
    lambda rules: {f"r{number}": rule for number, rule in enumerate(rules)}
)
SOMEONE: Final = st.builds(
    Someone,
    id=st.sampled_from(["user:ann", "user:bob", "apikey:ci"]),
    groups=st.sets(st.sampled_from(GROUPS)).map(frozenset),
    address=st.sampled_from([None, HERE, "10.1.2.3", "198.51.100.1"]),
)

"""The rules, compiled: who may do what to which names, decided by all of them together.

A rule that denies wins, those that allow add up, and without a rule there is nothing: neither the order of rules nor
how closely one names a thing means anything. What an act needs a right to is told by its name (`rights_of`), so that
no verb gets round a rule that another verb heeds.

All patterns lie in one tree, by their segments; where one ends, it says for whom. A decision goes down the few
branches that its name can take, however many rules there are, and whoever asks needs nothing compiled for himself.
"""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Final, NamedTuple, Protocol, Self

from strongroom.models import names as places
from strongroom.models.access import EVERYBODY, OWN, Right, Rule, check_rule, check_time

MAX_REMEMBERED: Final = 4096  # askers whose subjects are remembered


class Network(NamedTuple):
    """A network, as addresses are compared with it."""

    version: int
    first: int
    mask: int

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the network that *text* spells."""
        known = ipaddress.ip_network(text)
        return cls(known.version, int(known.network_address), int(known.netmask))


class Asker(Protocol):
    """What rules need to know of who asks."""

    @property
    def id(self) -> str:
        """Kind and name, ``user:ann``."""

    @property
    def groups(self) -> frozenset[str]:
        """The names of the groups that it is a member of."""

    @property
    def namespace(self) -> str:
        """What stands for ``{principal}`` in a pattern: one segment, or it matches nothing."""

    @property
    def address(self) -> str | None:
        """The client's, on the network; None where there is no network, or it is unknown."""


class Verdict(NamedTuple):
    """What the rules say together, and the names of all that matched, for the record."""

    allowed: bool | None  # True: allowed, False: denied, None: no rule says anything, which allows nothing
    allows: tuple[str, ...]
    denies: tuple[str, ...]

    @property
    def rules(self) -> tuple[str, ...]:
        """All rules that matched."""
        return tuple(sorted({*self.allows, *self.denies}))


# What an act on a name needs: in each place the rights of each action, the longest prefix first.
_ACTIONS: Final = ("get", "list", "put", "create", "modify", "delete")
_PLACES: Final[tuple[tuple[str, tuple[Right, ...]], ...]] = (
    (places.KEYRING + "lock", (Right.LOCK,)),
    (places.KEYRING + "unlock", (Right.LOCK,)),
    (places.KEYRING + "export", (Right.EXPORT,)),
    (places.KEYRING, (Right.ROTATE,)),
    (places.JOURNAL, (Right.MIGRATE,)),
    (places.SYSTEM + "audit/", (Right.AUDIT,)),
    (places.ACCESS, (Right.ACCESS,)),
    (places.TOKENS, (Right.ACCESS,)),
)
_RECORDS: Final[Mapping[str, tuple[Right, ...]]] = {
    "get": (Right.READ,),
    "list": (Right.LIST,),
    "put": (Right.CREATE, Right.MODIFY),
    "create": (Right.CREATE,),
    "modify": (Right.MODIFY,),
    "delete": (Right.DELETE,),
}
_BIT: Final[Mapping[Right, int]] = {right: 1 << number for number, right in enumerate(Right)}
_LISTING: Final = _BIT[Right.LIST]


def rights_of(action: str, name: str) -> tuple[Right, ...]:
    """Return what *action*, one of an `Action`'s values, needs a right to where it is done to *name*."""
    if name.startswith(places.SYSTEM):
        for place, rights in _PLACES:
            if name == place or (place.endswith("/") and name.startswith(place)):
                return rights
    return _RECORDS[action]


class _Entry(NamedTuple):
    """A rule, as it lies where one of its patterns ends."""

    rule: str
    denies: bool
    rights: int
    networks: tuple[Network, ...]
    expires: datetime | None
    anywhere: bool  # and at any time

    def holds(self, asker: Asker, now: datetime) -> bool:
        """Whether it is still in force, and speaks of the address that *asker* comes from."""
        if self.anywhere:
            return True
        if self.expires is not None and now >= self.expires:
            return False
        return not self.networks or is_within(asker.address, self.networks)


_Ends = dict[str, tuple[_Entry, ...]]  # by subject


class _Node:
    """Where patterns branch: the ways on, and what ends here."""

    __slots__ = ("below", "ends", "named", "own", "star")

    def __init__(self) -> None:
        self.named: dict[str, _Node] = {}  # the last segment of a container is empty
        self.star: _Node | None = None
        self.own: _Node | None = None
        self.ends: _Ends = {}
        self.below: _Ends = {}  # of patterns that go on with ``**``

    def changed(self, segments: Sequence[str], change: "_Change") -> "_Node":
        """Return a copy in which *change* is made where the pattern of these *segments* ends; the rest is shared."""
        copy = _Node()
        copy.named, copy.star, copy.own, copy.ends, copy.below = self.named, self.star, self.own, self.ends, self.below
        if not segments:
            copy.ends = change.made(self.ends)
        elif segments[0] == "**":  # it is the last
            copy.below = change.made(self.below)
        elif segments[0] == "*":
            copy.star = (self.star or _Node()).changed(segments[1:], change).unless_empty()
        elif segments[0] == OWN:
            copy.own = (self.own or _Node()).changed(segments[1:], change).unless_empty()
        else:
            child = self.named.get(segments[0], _Node()).changed(segments[1:], change).unless_empty()
            copy.named = {name: node for name, node in self.named.items() if child is not None or name != segments[0]}
            if child is not None:
                copy.named[segments[0]] = child
        return copy

    def unless_empty(self) -> "_Node | None":
        """Return the node, if there is anything in it."""
        return self if self.named or self.star or self.own or self.ends or self.below else None

    def step(self, segment: str) -> "_Node":
        """Return the node behind that segment of a pattern; it is made where there is none."""
        if segment == "*":
            self.star = self.star or _Node()
            return self.star
        if segment == OWN:
            self.own = self.own or _Node()
            return self.own
        return self.named.setdefault(segment, _Node())


class _Change(NamedTuple):
    """What is changed where a pattern of a rule ends: the rule goes, unless it is there anew."""

    subjects: Sequence[str]
    rule: str
    entry: _Entry | None

    def made(self, before: _Ends) -> _Ends:
        """Return what ends there then."""
        ends = dict(before)
        for subject in self.subjects:
            left = tuple(each for each in ends.pop(subject, ()) if each.rule != self.rule)
            if self.entry is not None:
                left += (self.entry,)
            if left:
                ends[subject] = left
        return ends


def _on(nodes: Sequence[_Node], segment: str, own: str) -> list[_Node]:
    """Return the nodes that *segment* of a name leads to from *nodes*."""
    found = []
    for node in nodes:
        if (named := node.named.get(segment)) is not None:
            found.append(named)
        if segment:  # that of a container's end is no segment, and no wildcard stands for it
            if node.star is not None:
                found.append(node.star)
            if node.own is not None and segment == own:
                found.append(node.own)
    return found


def _reached(root: _Node, name: str, own: str) -> Iterator[_Ends]:
    """Yield what ends on the ways that *name* can take."""
    nodes = [root]
    for segment in name.split("/"):
        for node in nodes:
            if node.below:
                yield node.below
        nodes = _on(nodes, segment, own)
        if not nodes:
            return
    for node in nodes:
        if node.ends:
            yield node.ends


class Rules:
    """All rules, compiled. They do not change: other rules are another object, which shares what stays."""

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        """Compile *rules*, by their names.

        Raises:
            InvalidAccess: one of them is not a rule.
        """
        self.rules: Mapping[str, Rule] = dict(rules)
        self._root = _Node()
        self._of_subject: dict[str, dict[str, _Entry]] = {}  # and by rule
        self._subjects = lru_cache(MAX_REMEMBERED)(_subjects)
        for name, rule in self.rules.items():
            entry = _compiled(name, rule)
            for subject in rule.subjects:
                self._of_subject.setdefault(subject, {})[name] = entry
            for pattern in rule.names:
                *segments, last = pattern.split("/")
                node = self._root
                for segment in segments:
                    node = node.step(segment)
                ends = node.below if last == "**" else node.step(last).ends
                for subject in rule.subjects:
                    ends[subject] = (*ends.get(subject, ()), entry)

    def changed(self, changes: Mapping[str, Rule | None]) -> "Rules":
        """Return the rules with *changes* made to them, None for one that goes; work is done for these alone.

        Raises:
            InvalidAccess: one of them is not a rule.
        """
        other = Rules({})
        other._root, other._subjects = self._root, self._subjects
        rules, of_subject = dict(self.rules), dict(self._of_subject)
        for name, rule in changes.items():
            entry = None if rule is None else _compiled(name, rule)
            before = rules.pop(name, None)
            if before is not None:
                for subject in before.subjects:
                    of_subject[subject] = {each: kept for each, kept in of_subject[subject].items() if each != name}
                for pattern in before.names:
                    other._root = other._root.changed(pattern.split("/"), _Change(before.subjects, name, None))
            if rule is not None:
                rules[name] = rule
                for subject in rule.subjects:
                    of_subject[subject] = of_subject.get(subject, {}) | ({} if entry is None else {name: entry})
                for pattern in rule.names:
                    other._root = other._root.changed(pattern.split("/"), _Change(rule.subjects, name, entry))
        other.rules = rules
        other._of_subject = {subject: entries for subject, entries in of_subject.items() if entries}
        return other

    def decide(self, asker: Asker, rights: Sequence[Right], name: str, now: datetime) -> Verdict:
        """Return what the rules say of *asker*'s doing to *name* what needs all of *rights*."""
        wanted = 0
        for right in rights:
            wanted |= _BIT[right]
        granted = 0
        allows, denies = [], []
        subjects, own = self._subjects(asker.id, asker.groups), asker.namespace
        for ends in _reached(self._root, name, own):
            for subject in ends.keys() & subjects:
                for entry in ends[subject]:
                    if entry.rights & wanted and (entry.anywhere or entry.holds(asker, now)):
                        if entry.denies:
                            denies.append(entry.rule)
                        else:
                            granted |= entry.rights
                            allows.append(entry.rule)
        allowed = False if denies else (True if wanted and granted & wanted == wanted else None)
        return Verdict(allowed, _told(allows), _told(denies))

    def act(self, asker: Asker, action: str, name: str, now: datetime) -> Verdict:
        """Return what the rules say of *asker*'s doing *action* to *name*."""
        return self.decide(asker, rights_of(action, name), name, now)

    def visible(self, asker: Asker, names: Iterable[str], now: datetime) -> list[str]:
        """Return those of *names*, in their order, that *asker* may see in a listing."""
        way = _Way(self._root, self._subjects(asker.id, asker.groups), asker, now)
        known: dict[tuple[str, bool], tuple[list[_Node], bool, bool]] = {}
        found = []
        for name in names:
            if not name or name.startswith(places.SYSTEM):  # it lies in nothing, or where another right is asked for
                if self.act(asker, "list", name, now).allowed:
                    found.append(name)
                continue
            container = places.container_of(name)
            is_container = name.endswith("/")
            if (met := known.get((container, is_container))) is None:
                met = known[container, is_container] = way.into(container, are_containers=is_container)
            nodes, denied, allowed = met
            if nodes and not denied:
                last = name[len(container) :].rstrip("/")
                for node in nodes:
                    if (named := node.named.get(last)) is not None:
                        denied, allowed = way.on(named, (denied, allowed), is_container=is_container)
                    if node.own is not None and last == way.own:
                        denied, allowed = way.on(node.own, (denied, allowed), is_container=is_container)
            if allowed and not denied:
                found.append(name)
        return found

    def rules_out(self, asker: Asker, right: Right, below: str, now: datetime) -> bool:
        """Whether *asker* has *right* to no name that begins with *below* and goes on; "" stands for all names."""
        bit, own = _BIT[right], asker.namespace
        meets = False
        for pattern, entry in self._patterns(asker):
            if entry.rights & bit and entry.holds(asker, now):
                if entry.denies and _covers(pattern, below, own):
                    return True
                meets = meets or (not entry.denies and _meets(pattern, below, own))
        return not meets

    def rules_out_act(self, asker: Asker, action: str, below: str, now: datetime) -> bool:
        """Whether *asker* may do *action* to no name that begins with *below* and goes on; "" stands for all names."""
        for place, rights in _PLACES:
            if place.startswith(below) and place != below:
                if self.decide(asker, rights, place, now).allowed:
                    return False
                if place.endswith("/") and not any(self.rules_out(asker, right, place, now) for right in rights):
                    return False
        rights = rights_of(action, f"{below}-")  # what no place of its own begins with
        return any(self.rules_out(asker, right, below, now) for right in rights)

    def tops(self, asker: Asker, right: Right, now: datetime) -> list[str]:
        """Return the containers at which what *asker* has *right* to may begin, sorted: none is missing.

        Where a pattern goes on with a wildcard, it is the container that the wildcard is in; "" is all names.
        """
        bit = _BIT[right]
        return sorted(
            {
                _top(pattern, asker.namespace)
                for pattern, entry in self._patterns(asker)
                if entry.rights & bit and not entry.denies and entry.holds(asker, now)
            }
        )

    def of(self, asker: Asker, now: datetime) -> list[str]:
        """Return the names of the rules in force that speak of *asker*, wherever he comes from, sorted."""
        found = {
            name
            for subject in self._subjects(asker.id, asker.groups)
            for name, entry in self._of_subject.get(subject, {}).items()
            if entry.expires is None or now < entry.expires
        }
        return sorted(found)

    def speaking_of(self, asker: Asker, rights: Iterable[Right], name: str, now: datetime) -> list[str]:
        """Return the names of the rules in force that speak of such an act, wherever *asker* comes from, sorted."""
        wanted, subjects = _mask(rights), self._subjects(asker.id, asker.groups)
        return sorted(
            {
                entry.rule
                for ends in _reached(self._root, name, asker.namespace)
                for subject in ends.keys() & subjects
                for entry in ends[subject]
                if entry.rights & wanted and (entry.expires is None or now < entry.expires)
            }
        )

    def _patterns(self, asker: Asker) -> Iterator[tuple[str, _Entry]]:
        for subject in self._subjects(asker.id, asker.groups):
            for name, entry in self._of_subject.get(subject, {}).items():
                for pattern in self.rules[name].names:
                    yield pattern, entry


class _Way:
    """What an asker may list, found container by container: what holds of all that lies in one is found once."""

    def __init__(self, root: _Node, subjects: frozenset[str], asker: Asker, now: datetime) -> None:
        self.own = asker.namespace
        self._root = root
        self._subjects = subjects
        self._asker = asker
        self._now = now

    def into(self, container: str, *, are_containers: bool) -> tuple[list[_Node], bool, bool]:
        """Return the nodes that *container* leads to, and whether what lies in it is denied, and allowed, for that."""
        nodes, said = [self._root], (False, False)
        for segment in [*container.split("/")[:-1], None]:
            for node in nodes:
                said = self._with(said, node.below)
            if segment is not None:
                nodes = _on(nodes, segment, self.own)
        for node in nodes:
            if node.star is not None:
                said = self.on(node.star, said, is_container=are_containers)
        return [node for node in nodes if node.named or node.own], *said

    def on(self, node: _Node, said: tuple[bool, bool], *, is_container: bool) -> tuple[bool, bool]:
        """Return what is *said*, and by what ends at *node*, or at the container that it stands for."""
        if not is_container:
            return self._with(said, node.ends)
        end = node.named.get("")
        said = self._with(said, node.below)
        return said if end is None else self._with(said, end.ends)

    def _with(self, said: tuple[bool, bool], ends: _Ends) -> tuple[bool, bool]:
        denied, allowed = said
        for subject in ends.keys() & self._subjects:
            for entry in ends[subject]:
                if entry.rights & _LISTING and entry.holds(self._asker, self._now):
                    denied, allowed = denied or entry.denies, allowed or not entry.denies
        return denied, allowed


def _subjects(asker: str, groups: frozenset[str]) -> frozenset[str]:
    """Return all that stands for *asker* in a rule; nobody is a group, whatever he is called."""
    return frozenset((EVERYBODY, *(f"group:{group}" for group in groups), *subject_of(asker)))


def subject_of(asker: str) -> tuple[str, ...]:
    """Return how a rule names that asker alone, if it can."""
    return () if asker.startswith("group:") else (asker,)


def _compiled(name: str, rule: Rule) -> _Entry:
    check_rule(rule)
    networks = tuple(Network.of(network) for network in rule.networks)
    expires = None if rule.expires is None else check_time(rule.expires, "expires")
    return _Entry(
        name, rule.effect == "deny", _mask(rule.actions), networks, expires, anywhere=not networks and expires is None
    )


def _mask(rights: Iterable[Right]) -> int:
    return sum(_BIT[right] for right in rights)


def _told(rules: list[str]) -> tuple[str, ...]:
    return tuple(rules) if len(rules) < 2 else tuple(sorted(set(rules)))


def is_within(address: str | None, networks: Iterable[Network]) -> bool:
    """Whether *address* is known and lies in one of *networks*; IPv4 within IPv6 is the IPv4 address that it is."""
    known = _address(address)
    if known is None:
        return False
    version, number = known
    return any(each.version == version and number & each.mask == each.first for each in networks)


@lru_cache(MAX_REMEMBERED)
def _address(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if address.version == 6 else None
    known = address if mapped is None else mapped
    return known.version, int(known)


def matches(pattern: str, name: str, own: str) -> bool:
    """Whether *name* is one of those that *pattern* stands for, where *own* asks."""
    wanted, given = pattern.split("/"), name.split("/")
    if wanted[-1] == "**":
        wanted.pop()
        return len(given) > len(wanted) and _agree(wanted, given, own)
    return len(given) == len(wanted) and _agree(wanted, given, own)


def _agree(wanted: Sequence[str], given: Sequence[str], own: str) -> bool:
    """Whether each segment of a pattern stands for the one of a name in the same place, as far as both go."""
    return all(
        bool(there) and (each == "*" or there == own) if each in ("*", OWN) else each == there
        for each, there in zip(wanted, given, strict=False)
    )


def _meets(pattern: str, below: str, own: str) -> bool:
    """Whether *pattern* may stand for a name that begins with *below* and goes on."""
    *whole, begun = below.split("/")
    wanted = pattern.split("/")
    if wanted[-1] == "**" and len(wanted) <= len(whole):
        return _agree(wanted[:-1], whole, own)
    if len(wanted) <= len(whole) or not _agree(wanted[: len(whole)], whole, own):
        return False
    following = own if wanted[len(whole)] == OWN else wanted[len(whole)]
    if following in ("*", "**"):
        return True
    return following.startswith(begun) and (len(following) > len(begun) or len(wanted) > len(whole) + 1)


def _covers(pattern: str, below: str, own: str) -> bool:
    """Whether *pattern* stands for every name that begins with *below* and goes on, as far as that is plain."""
    *wanted, last = pattern.split("/")
    whole = below.split("/")[:-1]
    return last == "**" and len(wanted) <= len(whole) and _agree(wanted, whole, own)


def _top(pattern: str, own: str) -> str:
    """Return the innermost container that all that *pattern* stands for lies in, or is."""
    *containers, _ = pattern.split("/")
    top = ""
    for segment in containers:
        if segment == "*":
            break
        top += f"{own if segment == OWN else segment}/"
    return top

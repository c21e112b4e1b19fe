"""All rules as one document in YAML, which people read, keep beside their code, and bring back whole.

    rules:
      web-reads-its-keys:
        effect: allow
        subjects: [group:web]
        actions: [read]
        names: [secrets/web/*]
        networks: [192.0.2.0/24]           # these three may be left out
        expires: 2027-01-01T00:00:00Z
        note: until the new cluster is there

A scalar is the text that it is, whether in quotes or not: ``no``, ``1.10`` and a moment mean what they look like.
Anchors, aliases, tags and members that no rule has are refused, and so is a name that appears twice: nothing in a
document is passed over. What is written is in one order, so that two documents differ where the rules do.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec
import yaml

from strongroom.models.access import InvalidAccess, Right, Rule, check_name, check_rule
from strongroom.models.errors import InvalidName, ModelError

MAX_TEXT: Final = 16 << 20  # characters
MAX_RULES: Final = 100_000
MAX_FAULTS: Final = 50  # that are told of one document

_TOP: Final = "rules"
_LISTS: Final = ("subjects", "actions", "names", "networks")
_TEXTS: Final = ("effect", "expires", "note")
_NEEDED: Final = ("effect", "subjects", "actions", "names")
_ORDER: Final = ("effect", "subjects", "actions", "names", "networks", "expires", "note")
_DEPTH: Final = 4  # the document, its rules, a rule, a list
_LOADER: Final[type[yaml.SafeLoader]] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER: Final[type[yaml.SafeDumper]] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class Fault(NamedTuple):
    """One thing that is wrong: in which line, if that is known, and of which rule, if it has a name."""

    line: int | None
    rule: str | None
    reason: str

    def __str__(self) -> str:
        where = [f"line {self.line}"] if self.line is not None else []
        where += [f"rule {self.rule}"] if self.rule is not None else []
        return f"{', '.join(where)}: {self.reason}" if where else self.reason


class InvalidDocument(ModelError):
    """A text is not a document of rules; *faults* says each thing that is wrong, and repeats nothing but names."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = tuple(faults[:MAX_FAULTS])
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        super().__init__(f"the rules are invalid: {faults[0]}{more}")


class Changed(NamedTuple):
    """A member of a rule that is another: as in the document, None where it is left out."""

    member: str
    before: str | tuple[str, ...] | None
    after: str | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Difference:
    """What turns some rules into others, by the names of rules, sorted."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: Mapping[str, tuple[Changed, ...]]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


def canonical(rule: Rule) -> Rule:
    """Return *rule* as a document has it: its lists sorted, and nothing of who made it."""
    return Rule(
        effect=rule.effect,
        subjects=tuple(sorted(rule.subjects)),
        actions=tuple(sorted(rule.actions)),
        names=tuple(sorted(rule.names)),
        networks=tuple(sorted(rule.networks)),
        expires=rule.expires,
        note=rule.note,
    )


def write(rules: Mapping[str, Rule]) -> str:
    """Return the document of *rules*: always the same text for the same rules."""
    described = {name: _members(rule) for name, rule in sorted(rules.items())}
    return yaml.dump({_TOP: described}, Dumper=_DUMPER, sort_keys=False, allow_unicode=True, default_flow_style=False)


def difference(before: Mapping[str, Rule], after: Mapping[str, Rule]) -> Difference:
    """Return what turns *before* into *after*; the order of lists, and who made a rule, make no difference."""
    changed = {}
    for name in sorted(before.keys() & after.keys()):
        old, new = _members(before[name]), _members(after[name])
        if old != new:
            changed[name] = tuple(
                Changed(member, _told(old.get(member)), _told(new.get(member)))
                for member in _ORDER
                if old.get(member) != new.get(member)
            )
    return Difference(tuple(sorted(after.keys() - before.keys())), tuple(sorted(before.keys() - after.keys())), changed)


def _members(rule: Rule) -> dict[str, str | list[str]]:
    """Return what a document says of *rule*, in its order."""
    said = msgspec.to_builtins(canonical(rule))
    return {member: said[member] for member in _ORDER if said.get(member)}


def _told(said: str | list[str] | None) -> str | tuple[str, ...] | None:
    return tuple(said) if isinstance(said, list) else said


def read(text: str) -> dict[str, Rule]:
    """Return the rules of a document, by their names, in canonical form.

    Raises:
        InvalidDocument: it is not one, or one of its rules is invalid; with all that is wrong.
    """
    if len(text) > MAX_TEXT:
        raise InvalidDocument([Fault(None, None, f"a document is at most {MAX_TEXT} characters")])
    reader = _Reader()
    rules = reader.document(_node(text))
    if reader.faults:
        raise InvalidDocument(reader.faults)
    return rules


def _node(text: str) -> yaml.Node:
    """Return the one document of *text* as nodes, once it is known to be flat and without aliases and tags."""
    line: int | None = None
    try:
        for depth, event in _deep(yaml.parse(text, Loader=_LOADER)):
            if refused := _refused(event, depth):
                raise InvalidDocument([Fault(_line(event), None, refused)])
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, node = (mark.line + 1 if mark else None), None
    except (yaml.YAMLError, ValueError):
        node = None
    if node is None:
        raise InvalidDocument([Fault(line, None, "it is not one document in YAML")])  # out here: errors quote the text
    return node


def _deep(events: Iterator[yaml.Event]) -> Iterator[tuple[int, yaml.Event]]:
    """Yield *events*, each with how many lists and mappings it is in."""
    depth = 0
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent)
        yield depth, event
        depth -= isinstance(event, yaml.CollectionEndEvent)


def _line(where: yaml.Event | yaml.Node) -> int | None:
    return where.start_mark.line + 1 if where.start_mark is not None else None


def _refused(event: yaml.Event, depth: int) -> str | None:
    if depth > _DEPTH:
        return "it is nested more deeply than rules are"
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
        return "anchors and aliases are not part of a document of rules"
    if getattr(event, "tag", None) is not None:
        return "tags are not part of a document of rules"
    return None


def _is_name(text: str) -> bool:
    try:
        check_name(text)
    except InvalidName:
        return False
    return True


class _Reader:
    """Reads nodes, and keeps all that is wrong with them."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self._rule: str | None = None

    def document(self, node: yaml.Node) -> dict[str, Rule]:
        """Return the rules of a whole document."""
        rules: dict[str, Rule] = {}
        top = self._mapping(node, "a document is a mapping with the one member 'rules'")
        for key, value in top:
            if key.value != _TOP:
                self._fault(key, "a document has the one member 'rules'")
                continue
            for name, said in self._mapping(value, "rules are a mapping from names to rules", of_rules=True):
                if len(rules) >= MAX_RULES:
                    self._fault(name, f"there are at most {MAX_RULES} rules")
                    break
                self._read(name, said, rules)
        if not top and not self.faults:
            self._fault(node, "a document has the one member 'rules'")
        return rules

    def _read(self, name: yaml.ScalarNode, said: yaml.Node, rules: dict[str, Rule]) -> None:
        try:
            self._rule = check_name(name.value)
        except InvalidName as error:
            self._fault(name, f"it has a name that a rule cannot have: {error}")
            return
        before = len(self.faults)
        members = self._members(name, said)
        if len(self.faults) == before:
            try:
                rules[self._rule] = canonical(check_rule(Rule(**members)))
            except InvalidAccess as error:
                place = next((key for key, _ in said.value if key.value == error.field), name)
                self._fault(place, f"{error.field}: {error}")
        self._rule = None

    def _members(self, name: yaml.ScalarNode, said: yaml.Node) -> dict[str, Any]:
        members: dict[str, Any] = {}
        for key, value in self._mapping(said, f"a rule is a mapping with the members {', '.join(_ORDER)}"):
            if key.value in _LISTS:
                members[key.value] = self._list(key, value)
            elif key.value in _TEXTS:
                members[key.value] = self._text(value, f"{key.value} is a text")
            else:
                self._fault(key, f"it has a member that a rule does not have; a rule has {', '.join(_ORDER)}")
        for member in _NEEDED:
            if member not in members:
                self._fault(name, f"it has no {member}")
        if members.get("effect") not in ("allow", "deny", None):
            self._fault(name, "effect is allow or deny")
        if "actions" in members and not set(members["actions"]) <= set(Right):
            self._fault(name, f"actions are {', '.join(Right)}")
        elif "actions" in members:
            members["actions"] = tuple(Right(each) for each in members["actions"])
        return members

    def _mapping(
        self, node: yaml.Node, otherwise: str, *, of_rules: bool = False
    ) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
        """Return the members of *node*, each of which has a name of its own."""
        if not isinstance(node, yaml.MappingNode):
            self._fault(node, otherwise)
            return []
        seen: set[str] = set()
        found = []
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._fault(key, "a name is a text")
            elif key.value in seen:
                self._fault(key, "a name appears twice", key.value if of_rules and _is_name(key.value) else None)
            else:
                seen.add(key.value)
                found.append((key, value))
        return found

    def _list(self, key: yaml.ScalarNode, node: yaml.Node) -> tuple[str, ...]:
        otherwise = f"{key.value} is a list of texts"
        if not isinstance(node, yaml.SequenceNode):
            self._fault(node, otherwise)
            return ()
        return tuple(self._text(each, otherwise) for each in node.value)

    def _text(self, node: yaml.Node, otherwise: str) -> str:
        if not isinstance(node, yaml.ScalarNode) or (not node.style and node.tag == "tag:yaml.org,2002:null"):
            self._fault(node, otherwise)
            return ""
        return str(node.value)

    def _fault(self, node: yaml.Node, reason: str, rule: str | None = None) -> None:
        self.faults.append(Fault(_line(node), self._rule or rule, reason))

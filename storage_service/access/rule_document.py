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
_NOTHING: Final = ("", "~", "null", "Null", "NULL")  # without quotes, where a text has to be
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


class _Scalar(NamedTuple):
    line: int
    text: str
    is_nothing: bool


class _List(NamedTuple):
    line: int
    within: "list[_Node]"


class _Mapping(NamedTuple):
    line: int
    pairs: "list[tuple[_Node, _Node]]"


_Node = _Scalar | _List | _Mapping


def _node(text: str) -> _Node:
    """Return what the one document of *text* holds, without aliases and tags, and no deeper than rules are."""
    line: int | None = None
    node: _Node | None = None
    try:
        node = _composed(yaml.parse(text, Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
    except (yaml.YAMLError, ValueError):
        pass
    if node is None:
        raise InvalidDocument([Fault(line, None, "it is not one document in YAML")])  # out here: errors quote the text
    return node


def _composed(events: Iterator[yaml.Event]) -> _Node | None:
    """Return what *events* make."""
    begun: list[tuple[int, list[_Node]]] = []
    done: list[_Node] = []
    for event in events:
        line = event.start_mark.line + 1 if event.start_mark is not None else 0
        if refused := _refused(event, len(begun), done):
            raise InvalidDocument([Fault(line, None, refused)])
        if isinstance(event, yaml.CollectionStartEvent):
            begun.append((line, []))
            continue
        node: _Node
        if isinstance(event, yaml.ScalarEvent):
            node = _Scalar(line, event.value, not event.style and event.value in _NOTHING)
        elif isinstance(event, yaml.SequenceEndEvent):
            node = _List(*begun.pop())
        elif isinstance(event, yaml.MappingEndEvent):
            line, within = begun.pop()
            node = _Mapping(line, list(zip(within[::2], within[1::2], strict=True)))
        else:
            continue
        (begun[-1][1] if begun else done).append(node)
    return done[0] if done else None


def _refused(event: yaml.Event, depth: int, done: list[_Node]) -> str | None:
    if depth == _DEPTH and isinstance(event, yaml.CollectionStartEvent):
        return "it is nested more deeply than rules are"
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
        return "anchors and aliases are not part of a document of rules"
    if getattr(event, "tag", None) is not None:
        return "tags are not part of a document of rules"
    if isinstance(event, yaml.DocumentStartEvent) and done:
        return "it is not one document in YAML"
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

    def document(self, node: _Node) -> dict[str, Rule]:
        """Return the rules of a whole document."""
        rules: dict[str, Rule] = {}
        top = self._mapping(node, "a document is a mapping with the one member 'rules'")
        for key, value in top:
            if key.text != _TOP:
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

    def _read(self, name: _Scalar, said: _Node, rules: dict[str, Rule]) -> None:
        try:
            self._rule = check_name(name.text)
        except InvalidName as error:
            self._fault(name, f"it has a name that a rule cannot have: {error}")
            return
        before = len(self.faults)
        members = self._members(name, said)
        if len(self.faults) == before:
            try:
                rules[self._rule] = canonical(check_rule(Rule(**members)))
            except InvalidAccess as error:
                line = next((key.line for key, _ in self._mapping(said, "") if key.text == error.field), name.line)
                self.faults.append(Fault(line, self._rule, f"{error.field}: {error}"))
        self._rule = None

    def _members(self, name: _Scalar, said: _Node) -> dict[str, Any]:
        members: dict[str, Any] = {}
        for key, value in self._mapping(said, f"a rule is a mapping with the members {', '.join(_ORDER)}"):
            if key.text in _LISTS:
                members[key.text] = self._list(key, value)
            elif key.text in _TEXTS:
                members[key.text] = self._text(value, f"{key.text} is a text")
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

    def _mapping(self, node: _Node, otherwise: str, *, of_rules: bool = False) -> list[tuple[_Scalar, _Node]]:
        """Return the members of *node*, each of which has a name of its own."""
        if not isinstance(node, _Mapping):
            self._fault(node, otherwise)
            return []
        seen: set[str] = set()
        found = []
        for key, value in node.pairs:
            if not isinstance(key, _Scalar):
                self._fault(key, "a name is a text")
            elif key.text in seen:
                self._fault(key, "a name appears twice", key.text if of_rules and _is_name(key.text) else None)
            else:
                seen.add(key.text)
                found.append((key, value))
        return found

    def _list(self, key: _Scalar, node: _Node) -> tuple[str, ...]:
        otherwise = f"{key.text} is a list of texts"
        if not isinstance(node, _List):
            self._fault(node, otherwise)
            return ()
        return tuple(self._text(each, otherwise) for each in node.within)

    def _text(self, node: _Node, otherwise: str) -> str:
        if not isinstance(node, _Scalar) or node.is_nothing:
            self._fault(node, otherwise)
            return ""
        return node.text

    def _fault(self, node: _Node, reason: str, rule: str | None = None) -> None:
        self.faults.append(Fault(node.line, self._rule or rule, reason))

"""YAML and JSON as Ansible writes them, and the inventories in them.

    all:                                     {"_meta": {"hostvars": {"web01": {"ansible_user": "admin"}}},
      children:                               "all": {"children": ["web"]},
        web:                                  "web": {"hosts": ["web01"], "vars": {…}}}
          hosts:
            web01: {ansible_user: admin}     the second is what ``ansible-inventory --list`` prints
          vars: {…}

YAML is read with PyYAML's safe loader and Ansible's two tags, ``!vault`` and ``!unsafe``; any other tag is refused, so
that nothing is ever made of a text but data. A few lines of aliases can stand for any number of values, and a few
kilobytes of brackets for any depth: both are measured before anything is made.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from strongroom.migration.sources import files
from strongroom.migration.sources.ansible.inventory import UNGROUPED, Inventory, Problem, take_host
from strongroom.migration.sources.files import Unfit
from strongroom.models import strict_json

MAX_DEPTH: Final = 64  # mappings and lists inside one another, written so or through aliases
MAX_VALUES: Final = 4_000_000  # once every alias is what it stands for

_VAULT_TAGS: Final = ("!vault", "!vault-encrypted")
_SECTIONS: Final = ("vars", "children", "hosts")
_UNDER_WAY: Final = (0, 0)
_BASE: Final[type[yaml.SafeLoader]] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Vaulted:
    """A value that only ``ansible-vault`` can read."""

    text: str = field(repr=False)


class Unsafe(str):
    """A text that is no template, whatever it looks like."""

    __slots__ = ()


class _Loader(_BASE):  # type: ignore[misc, valid-type]  # libyaml's, where PyYAML was built with it
    """The safe loader, with Ansible's tags."""


def _construct_text(loader: yaml.SafeLoader, node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise yaml.constructor.ConstructorError(None, None, "this tag is of text", node.start_mark)
    return str(loader.construct_scalar(node))


def _construct_unsafe(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    """Return what a node holds, its tag aside: it says only that the value is no template."""
    if isinstance(node, yaml.ScalarNode):
        return Unsafe(node.value)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_mapping(node, deep=True) if isinstance(node, yaml.MappingNode) else None


for _tag in _VAULT_TAGS:
    _Loader.add_constructor(_tag, lambda loader, node: Vaulted(_construct_text(loader, node)))
_Loader.add_constructor("!unsafe", _construct_unsafe)


def load(content: bytes) -> Any:
    """Return what a text in YAML or JSON holds.

    Raises:
        Unfit: it is invalid, or stands for too much; the text says where, and repeats nothing.
    """
    if content.lstrip()[:1] in (b"{", b"["):
        try:
            return _json(strict_json.decode(content, most=len(content)))
        except strict_json.MalformedJSON:
            pass  # then it may be YAML, which has brackets too
    where = ""
    try:
        return _yaml(content)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    except (yaml.YAMLError, ValueError, OverflowError):
        pass
    except RecursionError:
        raise Unfit("is nested too deeply") from None
    raise Unfit(f"is not YAML that can be read{where}")  # out here: the parser's error quotes the text


def _yaml(content: bytes) -> Any:
    depth = 0
    for event in yaml.parse(content, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise Unfit(f"is nested deeper than {MAX_DEPTH}")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    loader = _Loader(content)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _measure(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Return how many values a node stands for, and how deep they are nested."""
    if isinstance(node, yaml.ScalarNode):
        return 1, 0
    if id(node) in known:
        if known[id(node)] == _UNDER_WAY:
            raise Unfit("holds itself")
        return known[id(node)]
    known[id(node)] = _UNDER_WAY
    children = (each for pair in node.value for each in pair) if isinstance(node, yaml.MappingNode) else node.value
    size, depth = 1, 1
    for each in children:
        more, below = _measure(each, known)
        size, depth = size + more, max(depth, below + 1)
    if size > MAX_VALUES:
        raise Unfit(f"stands for more than {MAX_VALUES} values")
    if depth > MAX_DEPTH:
        raise Unfit(f"is nested deeper than {MAX_DEPTH}")
    known[id(node)] = size, depth
    return size, depth


def _json(value: Any) -> Any:
    """Return what JSON holds, Ansible's own marks understood."""
    match value:
        case {"__ansible_vault": str(text)}:
            return Vaulted(text)
        case {"__ansible_unsafe": str(text)}:
            return Unsafe(text)
        case dict():
            return {name: _json(each) for name, each in value.items()}
        case list():
            return [_json(each) for each in value]
        case _:
            return value


def is_inventory(data: object) -> bool:
    """Whether *data* may be an inventory at all."""
    return isinstance(data, dict) and bool(data)


def parse(data: Mapping[Any, Any], inventory: Inventory, file: str) -> None:
    """Read what `load` returned into *inventory*, whichever of the two forms it has.

    Raises:
        Unfit: it is the configuration of a program that makes inventories.
    """
    if "plugin" in data:
        raise Unfit("is the configuration of an inventory plugin")
    reader = _Reader(inventory, files.printable(file))
    if "_meta" in data:
        reader.listed(data)
    else:
        for name, said in data.items():
            reader.group(name, said)


class _Reader:
    def __init__(self, inventory: Inventory, file: str) -> None:
        self._inventory = inventory
        self._file = file

    def group(self, name: object, said: object) -> bool:
        """Read a group and all below it; return whether it is one."""
        if not isinstance(name, str) or not name or not isinstance(said, dict | None):
            self._problem(f"group {name}", "a group must have a name in quotes, and hosts, vars or children")
            return False
        self._inventory.add_group(name)
        sections = {section: self._section(name, section, (said or {}).get(section)) for section in _SECTIONS}
        if (said or {}).keys() - _SECTIONS:
            self._inventory.notes.append(
                f"{self._file}: a group has more than hosts, vars and children, which are ignored"
            )
        self._variables(name, sections["vars"])
        for child, below in sections["children"].items():
            with self._problem_of(f"group {child}"):
                if self.group(child, below):
                    self._inventory.add_child(name, child)
        for pattern, variables in sections["hosts"].items():
            self._hosts(pattern, name, variables)
        return True

    def listed(self, data: Mapping[Any, Any]) -> None:
        """Read what ``ansible-inventory --list`` printed."""
        meta = data["_meta"]
        variables = meta.get("hostvars") if isinstance(meta, dict) else None
        if not isinstance(variables, dict):
            raise Unfit("has a _meta without hostvars: make it with ansible-inventory --list --export")
        groups = {name: said for name, said in data.items() if name != "_meta"}
        for name, said in groups.items():
            if not isinstance(said, dict):
                self._problem(f"group {name}", "a group must be an object")
                continue
            self._inventory.add_group(name)
            self._variables(name, self._section(name, "vars", said.get("vars")))
            for host in self._names(name, "hosts", said):
                with self._problem_of(f"host {host}"):
                    self._inventory.add_host(host, name)
            for child in self._names(name, "children", said):
                with self._problem_of(f"group {child}"):
                    self._inventory.add_group(child)
                    self._inventory.add_child(name, child)
        for host, said in variables.items():
            with self._problem_of(f"host {host}"):
                if not isinstance(said, dict):
                    raise Unfit("the variables of a host must be an object")
                if host not in self._inventory:
                    self._inventory.add_host(host, UNGROUPED)
                for variable, value in said.items():
                    self._inventory.set_host(host, variable, value)

    def _hosts(self, pattern: object, group: str, variables: object) -> None:
        if not isinstance(pattern, str) or not isinstance(variables, dict | None):
            self._problem(f"host {pattern}", "a host must have a name in quotes, and variables by their names")
            return
        with self._problem_of(f"host {pattern}"):
            said = {str(name): value for name, value in (variables or {}).items()}
            take_host(self._inventory, pattern, group, said)

    def _variables(self, group: str, said: Mapping[Any, Any]) -> None:
        for variable, value in said.items():
            with self._problem_of(f"group {group}"):
                self._inventory.set_group(group, str(variable), value)

    def _section(self, group: str, section: str, said: object) -> Mapping[Any, Any]:
        if isinstance(said, str):
            return {said: None}
        if isinstance(said, dict):
            return said
        if said is not None:
            self._problem(f"group {group}, {section}", "it must be a mapping")
        return {}

    def _names(self, group: str, section: str, said: Mapping[Any, Any]) -> list[str]:
        names = said.get(section, [])
        if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
            self._problem(f"group {group}, {section}", "it must be a list of names")
            return []
        return names

    @contextmanager
    def _problem_of(self, where: str) -> Iterator[None]:
        try:
            yield
        except Unfit as error:
            self._problem(where, str(error))

    def _problem(self, where: str, reason: str) -> None:
        self._inventory.problems.append(Problem(f"{self._file}:{files.printable(where)}", reason))

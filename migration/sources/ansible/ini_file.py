"""The INI form of an Ansible inventory.

    mail.example.com ansible_user=admin          hosts before any section are in no group
    [web]
    web[01:50].example.com:2222
    [web:vars]
    ansible_ssh_private_key_file=keys/web.pem
    [datacenter:children]
    web

A value is a literal of Python if it can be one, and otherwise text. A line that cannot be read is a problem of its own;
a section that cannot be one ends the reading, because nobody knows what the lines below it are.
"""

import ast
import re
import shlex
import warnings
from functools import lru_cache
from typing import Any, Final

from strongroom.migration.sources import files
from strongroom.migration.sources.ansible.inventory import UNGROUPED, Inventory, Problem, take_host
from strongroom.migration.sources.files import Unfit

_SECTION: Final = re.compile(r"\[([^:\]\s]+)(?::(\w+))?\]\s*(?:#.*)?")
_GROUP: Final = re.compile(r"([^:\]\s]+)\s*(?:#.*)?")
_PLAIN_TEXT: Final = re.compile(r"(?!True|False|None|set)[A-Za-z_/~][^\"']*\Z")  # surely no literal
_COMMENTS: Final = ("#", ";")
_MAX_LITERAL: Final = 64 * 1024  # characters; what is longer is text


def parse(text: str, inventory: Inventory, file: str) -> None:
    """Read *text* into *inventory*; *file* is what the file is called where a line of it is a problem.

    Raises:
        Unfit: a section is malformed; the text says in which line.
    """
    _Reader(inventory, file).read(text)


class _Reader:
    def __init__(self, inventory: Inventory, file: str) -> None:
        self._inventory = inventory
        self._file = file
        self._value = lru_cache(maxsize=1024)(_value)  # many hosts say the same, and may share it
        self._declared: set[str] = set()
        self._wanted: list[tuple[int, str, str]] = []  # line, group, and the parent that it is to have

    def read(self, text: str) -> None:
        group, kind = UNGROUPED, "hosts"
        for number, raw in enumerate(text.splitlines(), 1):
            line = raw.strip()
            if not line or line.startswith(_COMMENTS):
                continue
            section = _SECTION.fullmatch(line)
            if section is not None:
                group, kind = section[1], section[2] or "hosts"
                self._open(group, kind, number)
            elif line.startswith("[") and line.endswith("]"):
                raise Unfit(f"line {number} is not a section: [group], [group:vars] or [group:children]")
            else:
                try:
                    self._take(line, group, kind, number)
                except Unfit as error:
                    self._problem(number, str(error))
        self._adopt()

    def _open(self, group: str, kind: str, number: int) -> None:
        if kind not in ("hosts", "vars", "children"):
            raise Unfit(f"line {number} is a section of an unknown kind: there are hosts, vars and children")
        if kind != "vars":
            self._declared.add(group)
        elif group not in self._inventory.groups and group not in self._declared:
            self._wanted.append((number, group, ""))
        self._inventory.add_group(group)

    def _take(self, line: str, group: str, kind: str, number: int) -> None:
        if kind == "hosts":
            self._host(line, group)
        elif kind == "vars":
            name, equals, value = line.partition("=")
            if not equals:
                raise Unfit("name=value is expected below :vars")
            self._inventory.set_group(group, name.strip(), self._value(value.strip()))
        else:
            child = _GROUP.fullmatch(line)
            if child is None:
                raise Unfit("the name of a group is expected below :children")
            self._wanted.append((number, child[1], group))

    def _host(self, line: str, group: str) -> None:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            words = []
        if not words:
            raise Unfit("a quote is not closed, or there is no host")
        pattern, *said = words
        if pattern.endswith(":") or pattern == "---":
            raise Unfit("the name of a host is expected")
        variables: dict[str, Any] = {}
        for each in said:
            name, equals, value = each.partition("=")
            if not equals:
                raise Unfit("name=value is expected behind the name of a host")
            variables[name] = self._value(value)
        take_host(self._inventory, pattern, group, variables)

    def _adopt(self) -> None:
        """Make groups the children of others, once all that the file declares are known."""
        for number, group, parent in self._wanted:
            known = group in self._declared or (parent and group in self._inventory.groups)
            if not known:
                self._problem(number, "the group is declared nowhere")
            elif parent:
                try:
                    self._inventory.add_child(parent, group)
                except Unfit as error:
                    self._problem(number, str(error))

    def _problem(self, number: int, reason: str) -> None:
        self._inventory.problems.append(Problem(f"{files.printable(self._file)}:line {number}", reason))


def _value(text: str) -> Any:
    """Return what *text* stands for, as Ansible takes it."""
    if len(text) > _MAX_LITERAL or _PLAIN_TEXT.match(text):
        return text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that are none
            return _plain(ast.literal_eval(text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {_plain(name): _plain(each) for name, each in value.items()}
        case list() | tuple() | set():
            return [_plain(each) for each in value]
        case bytes():
            return value.decode(errors="surrogateescape")
        case complex():
            return str(value)
        case _:
            return "..." if value is ... else value

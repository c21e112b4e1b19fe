"""An Ansible inventory in memory: hosts, groups, what each says, and what a host's variables are in the end.

    all                      every group without another parent is a child of it; depth 0
     ├─ ungrouped            hosts that are in no other group
     └─ datacenter           depth 1
         └─ web              depth 2: its variables come after, and so win

What hosts say themselves wins over groups; see `Inventory.variables` for the whole order, as Ansible documents it under
"Using variables: where to set a variable" and its ``ansible-inventory`` shows it.
"""

import ipaddress
import re
import string
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from strongroom.migration.sources.files import Unfit

Variables: TypeAlias = dict[str, Any]

ALL: Final = "all"
UNGROUPED: Final = "ungrouped"
MAX_HOSTS: Final = 250_000  # that one inventory may have; a range can say any number in a few characters

_PRIORITY: Final = "ansible_group_priority"
_BRACKETED_PORT: Final = re.compile(r"\[(.+)\]:([0-9]+)")
_PORT: Final = re.compile(r"((?:[^:\[\]]|\[[^\]]*\])*):([0-9]+)")
_RANGE: Final = r"\[(?:[a-zA-Z]:[a-zA-Z]|[0-9]+:[0-9]+)(?::[0-9]+)?\]"
_LABEL: Final = rf"(?:\w|{_RANGE})(?:[\w-]|{_RANGE})*(?<![_-])"
_HOSTNAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_HEXADECIMAL_RANGE: Final = re.compile(r"\[[0-9a-fA-F]+:[0-9a-fA-F]+(?::[0-9]+)?\]")
_KEPT_MERGES: Final = 256  # groups' variables, merged, for so many combinations of groups


@dataclass(slots=True)
class Group:
    """A group: what it says in the inventory, and which groups it is a child of."""

    name: str
    variables: Variables = field(default_factory=dict, repr=False)
    parents: list[str] = field(default_factory=list)
    depth: int = 0
    priority: int = 1


@dataclass(slots=True)
class _Host:
    variables: Variables | None = None
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """A part of the inventory that cannot be read: where it lies, and why."""

    where: str
    reason: str


class Inventory:
    """Hosts and groups, as they are read from one file after another."""

    def __init__(self) -> None:
        self.groups = {ALL: Group(ALL), UNGROUPED: Group(UNGROUPED, parents=[ALL], depth=1)}
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.group_files: dict[str, Sequence[Variables]] = {}
        """What files in ``group_vars`` say of a group: first beside the inventory, then beside the playbooks."""
        self._hosts: dict[str, _Host] = {}
        self._memberships: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._merged: dict[tuple[str, ...], Variables] = {}

    @property
    def hosts(self) -> Sequence[str]:
        """The names of all hosts, in the order in which they came."""
        return list(self._hosts)

    def __contains__(self, host: str) -> bool:
        return host in self._hosts

    # -- filling it

    def add_group(self, name: str) -> Group:
        """Return the group *name*, made if it is new."""
        return self.groups.setdefault(name, Group(name))

    def add_child(self, parent: str, child: str) -> None:
        """Make a group a child of another; both are there.

        Raises:
            Unfit: the child is an ancestor of its parent, or the same.
        """
        if parent == child or child in self._ancestors([parent]):
            raise Unfit("a group would be a child of itself")
        group = self.groups[child]
        if parent not in group.parents:
            group.parents.append(parent)

    def set_group(self, name: str, variable: str, value: object) -> None:
        """Set a variable of a group, or its priority."""
        group = self.groups[name]
        if variable == _PRIORITY:
            try:
                group.priority = int(value)  # type: ignore[call-overload]  # whatever was written there
            except (TypeError, ValueError):
                raise Unfit(f"{_PRIORITY} must be a whole number") from None
        else:
            group.variables[sys.intern(variable)] = value

    def add_host(self, name: str, group: str, port: int | None = None) -> None:
        """Put a host into a group; only when it is new its *port* counts.

        Raises:
            Unfit: it has no name, or there are too many.
        """
        if not name:
            raise Unfit("a host has no name")
        host = self._hosts.get(name)
        if host is None:
            if len(self._hosts) >= MAX_HOSTS:
                raise Unfit(f"there are more than {MAX_HOSTS} hosts")
            host = self._hosts[name] = _Host()
            if port:
                self.set_host(name, "ansible_port", port)
        if group not in host.groups:
            groups = (*host.groups, group)
            host.groups = self._memberships.setdefault(groups, groups)

    def set_host(self, name: str, variable: str, value: object) -> None:
        """Set a variable of a host."""
        host = self._hosts[name]
        if host.variables is None:
            host.variables = {}
        host.variables[sys.intern(variable)] = value

    def settle(self) -> None:
        """Bring groups into their final order, once everything is read."""
        for group in self.groups.values():
            if group.name != ALL and not group.parents:
                group.parents.append(ALL)
        depths: dict[str, int] = {ALL: 0}
        for name in self.groups:
            self.groups[name].depth = self._depth(name, depths)
        self._merged.clear()

    def _depth(self, name: str, depths: dict[str, int]) -> int:
        """Return the length of the longest way from ``all`` to a group."""
        waiting = [name]
        while waiting:
            unknown = [parent for parent in self.groups[waiting[-1]].parents if parent not in depths]
            if unknown:
                waiting.extend(unknown)
            else:
                done = waiting.pop()
                depths[done] = 1 + max((depths[each] for each in self.groups[done].parents), default=-1)
        return depths[name]

    # -- reading it

    def groups_of(self, host: str) -> list[Group]:
        """Return all groups of a host but ``all``, in the order in which their variables count."""
        direct = [name for name in self._hosts[host].groups if name != ALL]
        if direct != [UNGROUPED]:
            direct = [name for name in direct if name != UNGROUPED] or [UNGROUPED]
        found = (self.groups[name] for name in {*direct, *self._ancestors(direct)} if name != ALL)
        return sorted(found, key=lambda group: (group.depth, group.priority, group.name))

    def variables(self, host: str, files: Sequence[Variables] = ()) -> Variables:
        """Return a host's variables, where *files* is what files in ``host_vars`` say of it.

        A later one wins: ``all`` in the inventory, other groups there, ``group_vars/all``, other files of groups, first
        those beside the inventory and then those beside the playbooks, the host in the inventory, its files. Groups
        come by depth, then by priority, then by name.
        """
        mine = self._hosts[host]
        merged = self._merged.get(mine.groups)
        if merged is None:
            if len(self._merged) >= _KEPT_MERGES:
                self._merged.clear()
            merged = self._merged[mine.groups] = self._merge(self.groups_of(host))
        found = dict(merged)
        for each in (mine.variables or {}, *files):
            found.update(each)
        return found

    def _merge(self, groups: Sequence[Group]) -> Variables:
        merged = dict(self.groups[ALL].variables)
        for group in groups:
            merged.update(group.variables)
        for names in ([ALL], [group.name for group in groups]):
            for stage in range(2):
                for name in names:
                    said = self.group_files.get(name, ())
                    if stage < len(said):
                        merged.update(said[stage])
        return merged

    def _ancestors(self, names: Sequence[str]) -> set[str]:
        found: set[str] = set()
        waiting = list(names)
        while waiting:
            new = set(self.groups[waiting.pop()].parents) - found
            found |= new
            waiting.extend(new)
        return found


def expand(pattern: str) -> tuple[Iterator[str], int | None]:
    """Return the names that ``web[01:50].example.com:2222`` stands for, and the port.

    Raises:
        Unfit: a range is malformed; also while the names are taken.
    """
    rest, port = pattern, None
    for form in (_BRACKETED_PORT, _PORT):
        said = form.fullmatch(rest)
        if said is not None:
            rest, port = said[1], int(said[2][:9])
    if port is not None and not _is_address(rest):
        rest, port = pattern, None
    return _expanded(rest), port


def _is_address(text: str) -> bool:
    if _HOSTNAME.fullmatch(text):
        return True
    try:
        ipaddress.IPv6Address(_HEXADECIMAL_RANGE.sub("0", text))
    except ValueError:
        return False
    return True


def _expanded(pattern: str) -> Iterator[str]:
    head, bracket, rest = pattern.partition("[")
    if not bracket:
        yield pattern
        return
    inside, bracket, tail = rest.partition("]")
    bounds = inside.split(":")
    if not bracket or len(bounds) not in (2, 3):
        raise Unfit("a range of hosts must be [begin:end] or [begin:end:step]")
    for each in _sequence(*bounds):
        yield from _expanded(f"{head}{each}{tail}")


def _sequence(begin: str, end: str, step: str = "1") -> Iterator[str]:
    begin = begin or "0"
    if not step.isdecimal() or not int(step[:9]):
        raise Unfit("the step of a range must be a number")
    letters = string.ascii_letters
    if len(begin) == len(end) == 1 and begin in letters and end in letters:
        first, last = letters.index(begin), letters.index(end)
        if first > last:
            raise Unfit("a range of hosts must not end before it begins")
        yield from letters[first : last + 1 : int(step)]
        return
    if not begin.isdecimal() or not end.isdecimal() or max(len(begin), len(end)) > 18:
        raise Unfit("a range of hosts must be of numbers, or of two letters")
    padded = begin.startswith("0") and len(begin) > 1
    if padded and len(begin) != len(end):
        raise Unfit("a range of hosts with leading zeros must be as wide at its end")
    for number in range(int(begin), int(end) + 1, int(step)):
        yield str(number).zfill(len(begin)) if padded else str(number)


def take_host(inventory: Inventory, pattern: str, group: str, variables: Mapping[str, object]) -> None:
    """Put the hosts that *pattern* stands for into a group, with their variables.

    Raises:
        Unfit: it is no pattern, or stands for too many.
    """
    names, port = expand(pattern)
    for name in names:
        inventory.add_host(name, group, port)
        for variable, value in variables.items():
            inventory.set_host(name, variable, value)

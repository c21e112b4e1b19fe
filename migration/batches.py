"""A source in batches, each record met once; and each batch in the parts that commits take."""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from strongroom.migration.compare import Decision, fault_of
from strongroom.migration.digest import Digest
from strongroom.migration.disk_map import DiskMap
from strongroom.migration.records import Item, Moving, Record
from strongroom.migration.report import Report
from strongroom.migration.sources.base import Source
from strongroom.migration.sources.reading import items_of
from strongroom.migration.target import READ_SIZE
from strongroom.models import names
from strongroom.models.steps import Step

_PAGE: Final = 100  # items looked at together
_OWN: Final = 2  # changes of the journal in each commit: its row and its lock


class _Bounds(NamedTuple):
    """How much goes together at most."""

    changes: int  # one for each sealed record and each container, and those of the journal
    plain: int  # records
    characters: int  # of values


_BATCH: Final = _Bounds(READ_SIZE, READ_SIZE, 1024 * 1024)


def _commit(room: int) -> _Bounds:
    """Return what one commit surely takes if it takes *room* changes."""
    return _Bounds(room, 100, 384 * 1024)  # what values grow to encrypted stays below etcd's limit


@dataclass(slots=True)
class Batch:
    """Records whose both sides are read at once, and how many items are done with them."""

    records: list[Moving] = field(default_factory=list)
    items: int = 0


class _Pack:
    """Counts what goes together."""

    def __init__(self, bounds: _Bounds) -> None:
        self._bounds = bounds
        self._changes = _OWN
        self._plain = 0
        self._characters = 0
        self._containers: set[str] = set()

    def takes(self, record: Record) -> bool:
        """Count *record* in, if it is the first or there is room for it; return whether it was."""
        # Each container is checked, or made, and so may be those round it.
        containers = _containers_of(record) - self._containers
        sealed = record.sealed
        changes = self._changes + sealed + len(containers)
        plain = self._plain + (not sealed)
        characters = self._characters + len(record.value)
        within = changes <= self._bounds.changes and plain <= self._bounds.plain
        first = self._changes == _OWN and not self._plain
        if not (first or (within and characters <= self._bounds.characters)):
            return False
        self._changes, self._plain, self._characters = changes, plain, characters
        self._containers |= containers
        return True


def _containers_of(record: Record) -> set[str]:
    found: set[str] = set()
    if record.sealed:
        container = names.container_of(record.name)
        while container.startswith(names.SECRETS) and container != names.SECRETS:
            found.add(container)
            container = names.container_of(container)
    return found


def parts(decisions: Sequence[Decision], room: int) -> Iterator[Sequence[Decision]]:
    """Yield *decisions* in parts, each as much as one commit surely takes if it takes *room* changes."""
    part: list[Decision] = []
    pack = _Pack(_commit(room))
    for each in decisions:
        if not pack.takes(each.record):
            yield part
            part, pack = [], _Pack(_commit(room))
            pack.takes(each.record)
        part.append(each)
    if part:
        yield part


async def batches(source: Source, digest: Digest, report: Report) -> AsyncIterator[Batch]:
    """Yield the records of *source* in batches; what cannot move is told in *report* instead.

    Of two records with one name the first counts: the second is told, unless it is the same. Counts ``items``.
    """
    batch, pack = Batch(), _Pack(_BATCH)
    with DiskMap() as met:
        async for items in _pages(items_of(source)):
            for records in _first_met(items, digest, met, report):
                for each in records:
                    if not pack.takes(each.record):
                        yield batch
                        batch, pack = Batch(), _Pack(_BATCH)
                        pack.takes(each.record)
                    batch.records.append(each)
                batch.items += 1
    if batch.items:
        yield batch


async def _pages(items: AsyncIterator[Item]) -> AsyncIterator[Sequence[Item]]:
    page: list[Item] = []
    async for item in items:
        page.append(item)
        if len(page) == _PAGE:
            yield page
            page = []
    yield page


def _first_met(items: Sequence[Item], digest: Digest, met: DiskMap, report: Report) -> Iterator[Sequence[Moving]]:
    """Yield for each item those of its records that can move and that nothing before had the name of."""
    known = dict(met.get_many([record.name for item in items for record in item.records]))
    new: dict[str, str] = {}
    for item in items:
        report.count("items")
        for note in item.notes:
            step = note if isinstance(note, Step) else Step(note)
            report.tell("note", item.id, step.reason, next_=() if step.verb is None else (step,))
        fault = item.fault or next((fault for record in item.records if (fault := fault_of(record))), "")
        if fault:
            report.tell("bad", item.id, fault, mark=item.mark)
        records = []
        for record in () if fault else item.records:
            mine = digest.of(record.name, record.value.reveal())
            if record.name not in known:
                known[record.name] = new[record.name] = f"{mine} {item.id}"
                records.append(Moving(item, record, mine))
                continue
            theirs, _, where = known[record.name].partition(" ")
            if theirs != mine:
                why = f"another value of this name comes from {where}"
                report.tell("duplicate", item.id, why, record.name, mark=item.mark)
        yield records
    met.update(new.items())

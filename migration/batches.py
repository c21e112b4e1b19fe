"""An estate in batches: as many records as one commit surely takes, each record met once."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from migration.compare import fault_of
from migration.digest import Digest
from migration.records import Item, Record
from migration.report import Report
from migration.sources.base import Source
from migration.spill import Spill
from models import names

MAX_CHARACTERS: Final = 384 * 1024  # of values: what they grow to when encrypted stays below etcd's limit
MAX_PLAIN: Final = 100  # plain records beside the sealed ones
_PAGE: Final = 100  # items looked at together
_OWN: Final = 2  # changes of the journal in each commit: its row and its lock


@dataclass(slots=True)
class Batch:
    """Records that go together, and the items that are done with them."""

    pairs: list[tuple[Item, Record]] = field(default_factory=list)
    items: int = 0
    _sealed: int = 0
    _plain: int = 0
    _characters: int = 0
    _containers: set[str] = field(default_factory=set)

    def takes(self, record: Record, room: int) -> bool:
        """Whether there is room for *record*, if a commit takes *room* changes."""
        if not self.pairs:
            return True
        # Each container is checked, or made, and so may be those round it.
        containers = self._containers | _containers_of(record)
        fits = self._sealed + len(containers) + _OWN < room if record.sealed else self._plain < MAX_PLAIN
        return fits and self._characters + len(record.value) <= MAX_CHARACTERS

    def add(self, item: Item, record: Record) -> None:
        """Take *record* of *item*."""
        self.pairs.append((item, record))
        self._containers |= _containers_of(record)
        self._characters += len(record.value)
        if record.sealed:
            self._sealed += 1
        else:
            self._plain += 1


def _containers_of(record: Record) -> set[str]:
    found: set[str] = set()
    if record.sealed:
        container = names.container_of(record.name)
        while container.startswith(names.SECRETS) and container != names.SECRETS:
            found.add(container)
            container = names.container_of(container)
    return found


async def batches(source: Source, digest: Digest, room: Callable[[], int], report: Report) -> AsyncIterator[Batch]:
    """Yield the records of *source* in batches; what cannot move is told in *report* instead.

    *room* tells how many changes one commit takes. Of two records with one name the first counts: the second is told,
    unless it is the same. Counts ``items``.
    """
    batch = Batch()
    with Spill() as met:
        async for items in _pages(source.items()):
            for item, records in _first_met(items, digest, met, report):
                for record in records:
                    if not batch.takes(record, room()):
                        yield batch
                        batch = Batch()
                    batch.add(item, record)
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


def _first_met(
    items: Sequence[Item], digest: Digest, met: Spill, report: Report
) -> Iterator[tuple[Item, Sequence[Record]]]:
    """Yield each item with those of its records that can move and that nothing before had the name of."""
    known = dict(met.get_many([record.name for item in items for record in item.records]))
    new: dict[str, str] = {}
    for item in items:
        report.count("items")
        for note in item.notes:
            report.tell("note", item.id, note)
        fault = item.fault or next((fault for record in item.records if (fault := fault_of(record))), "")
        if fault:
            report.tell("bad", item.id, fault)
        records = []
        for record in () if fault else item.records:
            mine = digest.of(record.name, record.value.reveal())
            if record.name not in known:
                known[record.name] = new[record.name] = f"{mine} {item.id}"
                records.append(record)
                continue
            theirs, _, where = known[record.name].partition(" ")
            if theirs != mine:
                report.tell("duplicate", item.id, f"another value of this name comes from {where}", record.name)
        yield item, records
    met.update(new.items())

"""``plan``: what would move, what is there already, what differs, what cannot move and why. It changes nothing.

With a file to write to, the plan keeps the marks of all items, and ``apply --plan`` moves only what is still as it was
planned. Marks of what has no revision are hashes under the run's key, which is then stored, sealed, with the run's
head: so the file tells nothing of any value.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from strongroom.migration.apply import NOTHING_FOUND, known_copies, to_decide
from strongroom.migration.batches import batches
from strongroom.migration.compare import Act, Comparison, Decision, Policy
from strongroom.migration.disk_map import DiskMap
from strongroom.migration.errors import MigrationError
from strongroom.migration.journal import Journal, now
from strongroom.migration.report import Report
from strongroom.migration.sources.base import Source
from strongroom.migration.target import Target
from strongroom.models import Host, HostCreds
from strongroom.models.steps import Step
from strongroom.models.strict_json import UNREADABLE
from strongroom.storage_service.errors import Denied

_WRITING: Final = 3.0  # how much longer moving a record takes than reading both sides of it: seen, and rounded up

_WOULD: Final = {Act.CREATE: "create", Act.REPLACE: "update", Act.PRESENT: "present", Act.KEEP: "keep"}


class Planned(msgspec.Struct, array_like=True):
    """A line of a plan's file, the first of which is the head: format, run, and when it was made."""

    item: str
    mark: str


async def plan(
    source: Source,
    target: Target,
    journal: Journal,
    *,
    policy: Policy = Policy.STOP,
    advance: Callable[[int], object] = bool,
    out: Callable[[str, str], object] | None = None,
    tell: Callable[[Decision], object] = bool,
) -> Report:
    """Compare both sides, and return what ``apply`` would do.

    Args:
        source: opened with the journal's digest.
        target: where to.
        journal: of the run; it need not be begun.
        policy: for conflicts.
        advance: called with how many items more are done.
        out: called with the id and the mark of every item.
        tell: called with what is decided about every record that can move.

    Raises:
        SourceUnavailable, Unavailable, Denied, Locked: one side does not answer, or not us.
    """
    run = journal.run
    report = Report(verb="plan", run=run.name, kind=run.kind, source=run.identity, started=now())
    began = time.monotonic()
    characters = 0
    with DiskMap() as copies:
        await known_copies(journal, copies)
        comparison = Comparison(target, journal.digest, copies, policy)
        async for batch in batches(source, journal.digest, report):
            for each in await _with_hosts(target, await comparison.of(batch.records)):
                if each.no_host:
                    report.count("no host")
                if each.act is Act.CONFLICT:
                    report.tell("conflict", each.item.id, each.why, each.record.name)
                else:
                    report.count(_WOULD[each.act])
                if each.act in (Act.CREATE, Act.REPLACE):
                    characters += len(each.record.value)
                tell(each)
                if out is not None:
                    out(each.item.id, each.item.mark)
            advance(batch.items)
    took = time.monotonic() - began
    moving = report.counts.get("create", 0) + report.counts.get("update", 0)
    total = moving + sum(report.counts.get(kind, 0) for kind in ("present", "keep", "conflict"))
    report.facts["to write"] = f"{moving:,} records, {_size(characters)}"
    report.facts["estimate"] = _duration(took * (1 + _WRITING * moving / max(total, 1)))
    report.finished = now()
    report.complete = bool(total) and not any(report.counts.get(kind) for kind in ("bad", "duplicate", "conflict"))
    report.next = [_advice(report, moving)]
    return report


async def _with_hosts(target: Target, decisions: Sequence[Decision]) -> Sequence[Decision]:
    """Return *decisions*, and which of the credentials among them open no host that anybody has recorded.

    A host that a later item has does not count yet. Who may not read hosts is told nothing of them.
    """
    prefix = HostCreds.prefix()
    wanted = {
        each.record.name: each.record.name.removeprefix(prefix)
        for each in decisions
        if each.record.name.startswith(prefix) and each.record.name != prefix
    }
    coming = {record.name for each in decisions for record in each.item.records}  # a batch may part an item
    alone = {name: address for name, address in wanted.items() if Host.prefix() + address not in coming}
    if not alone:
        return decisions
    hosts: set[str] = set()
    addresses = list(alone.values())
    try:
        for source in await target.client.host_sources():
            found = await target.client.get_many(Host, addresses, source=source)
            hosts.update(record.model.address for record in found if record is not None)
    except Denied:
        return decisions
    return [
        replace(each, no_host=each.record.name in alone and alone[each.record.name] not in hosts) for each in decisions
    ]


class PlanFile:
    """A plan's file: a head, and a line of JSON for each item."""

    def __init__(self, path: Path, run: str) -> None:
        """Begin the file, readable by its owner alone; it takes its name when it is whole."""
        self._path = path
        self._draft = path.with_name(path.name + ".part")
        self._file = os.fdopen(os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
        self._last = ""
        self._line(["strongroom plan 1", run, now()])

    def add(self, item: str, mark: str) -> None:
        """Write one item; of several calls for one item in a row, the first counts."""
        if item != self._last:
            self._last = item
            self._line([item, mark])

    def _line(self, content: list[str]) -> None:
        self._file.write(msgspec.json.encode(content) + b"\n")

    def finish(self) -> None:
        """Write it out."""
        self._file.close()
        self._draft.replace(self._path)

    def abandon(self) -> None:
        """Leave nothing behind."""
        self._file.close()
        self._draft.unlink(missing_ok=True)


def read_plan(path: Path, run: str, into: DiskMap) -> None:
    """Fill *into* with the mark of every item of a plan's file.

    Raises:
        MigrationError: it cannot be read, or is of another run.
    """
    try:
        with path.open("rb") as file:
            head = msgspec.json.decode(file.readline(), type=list[str])
            if head[:2] != ["strongroom plan 1", run]:
                again = Step("make one", "migrate plan", {"out": str(path)})
                raise MigrationError(f"{path} is not a plan of {run}").advising(again)
            into.update(_lines(file))
    except OSError as error:
        raise MigrationError(f"{path} cannot be read: {error.strerror}") from None
    except UNREADABLE:
        raise MigrationError(f"{path} is not a plan, or it was cut short") from None


def _lines(file: Iterator[bytes]) -> Iterator[tuple[str, str]]:
    for line in file:
        planned = msgspec.json.decode(line, type=Planned)
        yield planned.item, planned.mark


def _advice(report: Report, moving: int) -> Step:
    counts = report.counts
    if not counts.get("items"):
        return NOTHING_FOUND
    bad = bool(counts.get("bad") or counts.get("duplicate"))
    if counts.get("conflict"):
        return to_decide(skip_bad=bad)
    if bad:
        return Step("fix at the source what cannot move, or leave it behind", "migrate apply", {"skip_bad": True})
    if moving:
        return Step("move it", "migrate apply")
    return Step("all of it is there; compare both sides", "migrate verify")


def _size(characters: int) -> str:
    size = float(characters)
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _duration(seconds: float) -> str:
    if seconds < 1.5:
        return "about a second"
    if seconds < 90:
        return f"about {seconds:.0f} seconds"
    return f"about {seconds / 60:.0f} minutes"

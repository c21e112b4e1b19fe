"""``status``: every run and how far it is, who is at one; and of one, what the service does not have yet."""

from collections.abc import Callable
from typing import Final

import msgspec

from strongroom.migration.apply import known_copies
from strongroom.migration.disk_map import DiskMap
from strongroom.migration.errors import NoSuchRun
from strongroom.migration.journal import LIST_RUNS, MOVING, ROLLED_BACK, Copy, Holder, Journal, Run, Stage
from strongroom.migration.records import Item
from strongroom.migration.sources.base import Source
from strongroom.migration.sources.reading import items_of
from strongroom.migration.target import Target
from strongroom.models import names
from strongroom.models.names import TOMBSTONES
from strongroom.models.steps import Step

SCHEMA: Final = "strongroom.migrate.status/2"
_PAGE: Final = 200  # items looked up in one go


class RunStatus(msgspec.Struct, kw_only=True):
    """A run, without its keys."""

    run: str
    kind: str  # of the source
    place: str
    source: str  # its identity
    created: str  # RFC 3339, UTC
    stages: dict[str, Stage]


class Waiting(msgspec.Struct, kw_only=True):
    """What of a source the service does not have yet, and whether it must read that where it lies."""

    run: str
    items: int  # at the source
    waiting: int  # of those: with a secret that the service does not have
    bad: int  # of those: which cannot move
    superseded: int  # of those: with a secret that the service had, and has another value of by now, or none
    read_through: bool  # whether the service still has to read from the source
    next: list[Step]


class Status(msgspec.Struct, kw_only=True):
    """All that is known of migrations of a service."""

    runs: list[RunStatus]
    holder: Holder | None  # who has one under way
    reading_through: list[str]  # from where the service reads what has not moved, as it says itself
    source: Waiting | None = None  # of the run that was asked for
    schema: str = SCHEMA


async def status(
    target: Target, source: Source | None = None, name: str | None = None, *, advance: Callable[[int], object] = bool
) -> Status:
    """Return how all runs are, or the one that *name* names; with its *source*, what has not moved of that.

    Args:
        target: the service.
        source: opened with the journal's digest.
        name: of a run.
        advance: called with how many items of the source more are done.

    Raises:
        NoSuchRun: there is none of that name.
        SourceUnavailable, Unavailable, Denied, Locked: one side does not answer, or not us.
    """
    runs = []
    for each in [name] if name is not None else await Journal.runs(target):
        journal = await Journal.find(target, each)
        if journal is not None:
            runs.append(await _as_told(journal))
    if name is not None and not runs:
        raise NoSuchRun(f"there is no run {name}").advising(LIST_RUNS)
    through = (await target.client.status()).read_through
    found = Status(runs=runs, holder=await Journal.holder(target), reading_through=through)
    if source is not None and name is not None:
        looked = await Journal.find(target, name)
        if looked is None:
            raise NoSuchRun(f"there is no run {name} any more")
        found.source = await _waiting(target, source, looked, advance, through=source.identity in through)
    return found


def loses(run: Run) -> str:
    """Return what is lost if the journal of *run* is forgotten now, in words; "" where it has done its work."""
    stages = run.stages
    scrubbed = stages.get("scrubbed")
    if scrubbed is not None and not scrubbed.complete:
        return "the scrub is not finished: what was removed from the source so far can then not be put back"
    if ROLLED_BACK in stages:
        if stages[ROLLED_BACK].complete:
            return ""
        return "the rollback left something that was changed since: it can then not be undone any more"
    if MOVING in stages:
        return "a part of it has moved: the copies can then not be taken out any more"
    if scrubbed is None and "applied" not in stages:
        return ""
    verified = stages.get("verified")
    if scrubbed is None and (verified is None or not verified.complete):
        return "nothing proves that all of it is in the service: the copies can then not be taken out any more"
    if scrubbed is None:
        return "the source still has its secrets: they can then be removed only after another apply and verify"
    return ""


async def _as_told(journal: Journal) -> RunStatus:
    run = journal.run
    stages = {name: stage for name, stage in run.stages.items() if name != MOVING}
    if not run.stages.keys() & {"applied", ROLLED_BACK} and (done := await moved(journal)):
        stages = {"applied": _half(run, done), **stages}
    return RunStatus(
        run=run.name,
        kind=run.kind,
        place=run.place,
        source=run.identity,
        created=run.created,
        stages=stages,
    )


async def moved(journal: Journal) -> int:
    """Return how many items the journal knows to have moved, or to have been there."""
    with DiskMap() as copies, DiskMap() as items:
        await known_copies(journal, copies)
        items.update((msgspec.json.decode(text, type=Copy).item, "") for text in copies.values())
        return len(items)


def _half(run: Run, moved: int) -> Stage:
    """Return how an apply ended that did not: interrupted, killed, or still under way."""
    begun = run.stages.get(MOVING)
    counts = {"moved": moved}
    if begun is not None and "items" in begun.counts:
        counts["left"] = max(0, begun.counts["items"] - moved)
    return Stage(at=run.created if begun is None else begun.at, complete=False, counts=counts)


async def _waiting(
    target: Target, source: Source, journal: Journal, advance: Callable[[int], object], *, through: bool
) -> Waiting:
    found = Waiting(run=journal.run.name, items=0, waiting=0, bad=0, superseded=0, read_through=False, next=[])
    page: list[Item] = []
    with DiskMap() as copies:
        await known_copies(journal, copies)
        async for item in items_of(source):
            found.items += 1
            found.bad += bool(item.fault)
            page.append(item)
            if len(page) == _PAGE:
                await _count(found, target, journal, copies, page)
                advance(len(page))
                page = []
        await _count(found, target, journal, copies, page)
    advance(len(page))
    found.read_through = found.waiting > 0
    found.next = _advice(found, through=through)
    return found


async def _count(found: Waiting, target: Target, journal: Journal, copies: DiskMap, items: list[Item]) -> None:
    """Count those of *items* with a secret that the service neither has nor knows to be deleted, or once had."""
    sealed = [record.name for item in items for record in item.records if record.sealed]
    wanted = [each for each in sealed if not names.is_container(each)]
    held = await target.read(wanted)
    missing = [each for each in wanted if each not in held]
    deleted = await target.read([TOMBSTONES + each for each in missing])
    gone = {each for each in missing if TOMBSTONES + each not in deleted}
    known = copies.get_many(wanted)
    moved = {name: msgspec.json.decode(text, type=Copy) for name, text in known.items()}
    for item in items:
        waits, old = False, False
        for record in item.records:
            name, copy = record.name, moved.get(record.name)
            if not record.sealed or names.is_container(name):
                continue
            digest = journal.digest.of(name, record.value.reveal())
            had = copy is not None and copy.digest == digest
            there = held.get(name)
            waits |= name in gone and not had
            old |= had and (there is None or journal.digest.of(name, there.value.reveal()) != digest)
        found.waiting += waits
        found.superseded += old


def _advice(found: Waiting, *, through: bool) -> list[Step]:
    if found.waiting:
        return [Step("move what is missing", "migrate apply")]
    steps = [Step("read_through is no longer needed: take it out of the configuration")] if through else []
    if found.superseded:
        steps.append(
            Step(
                "the source still holds what was changed or removed in the service since, and when nobody needs that"
                " any more, it can go, too",
                "migrate scrub",
                {"superseded": True},
            )
        )
    return steps

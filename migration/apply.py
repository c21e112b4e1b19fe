"""``apply``: every record is read, saved, read back, compared and journalled; repeating it does no harm.

A batch goes so. Both sides are read, and each record decided. Then it is written in parts: what is sealed in one commit
with the row of the journal that tells of the whole part. What is plain follows, each record guarded by the revision it
was seen at. Then all is read back and compared by keyed hash, and the marks at the source are looked at again: what
changed there meanwhile is told. What a client of the service wrote meanwhile is newer, so it stands, and is told, too.
Killed anywhere, the journal tells of everything that may have been written, and the next run compares everything again.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from strongroom.migration.batches import Batch, batches, parts
from strongroom.migration.compare import Act, Comparison, Decision, Policy
from strongroom.migration.disk_map import DiskMap
from strongroom.migration.errors import Mismatch, RunHeld
from strongroom.migration.journal import (
    MAX_ROW,
    MOVING,
    ROLLED_BACK,
    UNDONE,
    Applied,
    Copy,
    Former,
    Journal,
    Stage,
    now,
)
from strongroom.migration.records import Moving
from strongroom.migration.report import Report
from strongroom.migration.sources.base import Source
from strongroom.migration.target import Change, Target
from strongroom.models import names
from strongroom.models.secret import Secret
from strongroom.models.steps import Option, Step
from strongroom.storage_service import wire
from strongroom.storage_service.client.bulk_operations import Write
from strongroom.storage_service.errors import Changed, Exists, Invalid, NoContainer, TooLarge, Unavailable

PARALLEL: Final = 4  # batches under way at once

_WRITES: Final = (Act.CREATE, Act.REPLACE)
_DONE: Final = {Act.CREATE: "created", Act.REPLACE: "replaced", Act.PRESENT: "present", Act.KEEP: "kept"}


LEFT: Final = ("bad", "duplicate")
"""Kinds of problems: what cannot move, and stays behind where the apply is told so."""
NOTHING_FOUND: Final = Step("nothing was found at the source: see that its place and options are right")


async def known_copies(journal: Journal, copies: DiskMap) -> None:
    """Fill *copies* with what the journal says of each record, the last word counting."""
    async for _, row in journal.rows("applied", Applied):
        copies.update((copy.name, _text(copy)) for copy in row.copies if copy.act != UNDONE)
        copies.discard([copy.name for copy in row.copies if copy.act == UNDONE])


@dataclass(slots=True)
class _Work:
    """What came of one batch, over all attempts at it."""

    tried: list[tuple[str, Sequence[Copy]]] = field(default_factory=list)  # names of rows, and what they say
    begun: dict[str, Act] = field(default_factory=dict)  # writes, by the record's name
    refused: set[str] = field(default_factory=set)  # names of records
    tags: dict[str, str | None] = field(default_factory=dict)  # of what was written, by name; None: it was not heard
    overtaken: set[str] = field(default_factory=set)  # names of records that a client has changed since

    def act(self, each: Decision) -> Act:
        """Return what was done about a record: what an attempt finds present and ours, one before it wrote."""
        present = each.act is Act.PRESENT and each.ours
        return self.begun.get(each.record.name, each.act) if present else each.act


class Apply:
    """One run of ``apply``; its journal's lock is held."""

    def __init__(
        self,
        source: Source,
        target: Target,
        journal: Journal,
        *,
        policy: Policy = Policy.STOP,
        skip_bad: bool = False,
        planned: Mapping[str, str] | DiskMap | None = None,
        advance: Callable[[int], object] = bool,
    ) -> None:
        """Take the parts.

        Args:
            source: opened with the journal's digest.
            target: where to.
            journal: with its lock held.
            policy: for conflicts.
            skip_bad: go on although something cannot move.
            planned: the marks of the items that a plan showed; an item that is not as it was then does not move.
            advance: called with how many items more are done.
        """
        self._source = source
        self._target = target
        self._journal = journal
        self._policy = policy
        self._skip_bad = skip_bad
        self._planned = planned
        self._advance = advance
        self._copies = DiskMap()
        self._stopped = False
        self._room = 0  # changes that one commit takes, when it was last asked
        self._comparison = Comparison(target, journal.digest, self._copies, policy)
        run = journal.run
        self.report = Report(verb="apply", run=run.name, kind=run.kind, source=run.identity, started=now())

    async def run(self) -> Report:
        """Move everything that can move, and return what came of it.

        Raises:
            RunHeld: another process has taken this run over.
            Mismatch: what was read back is not what was saved.
            SourceUnavailable, Unavailable, Denied, Locked: one side does not answer, or not us; run it again later.
        """
        total = await self._source.count()
        await self._journal.begin()
        for stage in ("applied", "verified", ROLLED_BACK):  # what they said no longer holds
            self._journal.run.stages.pop(stage, None)
        begun = Stage(at=self.report.started, complete=False, counts={} if total is None else {"items": total})
        await self._journal.reached(MOVING, begun)
        try:
            await known_copies(self._journal, self._copies)
            await self._move_all()
        finally:
            self._copies.close()
        return await self._ended()

    async def _move_all(self) -> None:
        self._room = await self._target.room()
        turns = asyncio.Semaphore(PARALLEL)
        try:
            async with asyncio.TaskGroup() as group:
                async for batch in batches(self._source, self._journal.digest, self.report):
                    await turns.acquire()
                    if self._stopped or not (self._skip_bad or self._all_good()):
                        break  # what is under way is finished
                    task = group.create_task(self._move(batch))
                    task.add_done_callback(lambda _: turns.release())
        except BaseExceptionGroup as failed:
            raise _gravest(failed) from None

    def _all_good(self) -> bool:
        return not (self.report.counts.get("bad") or self.report.counts.get("duplicate"))

    async def _ended(self) -> Report:
        report = self.report
        counts = report.counts
        report.finished = now()
        stopped = any(counts.get(kind) for kind in ("conflict", "changed", "refused", "unplanned"))
        report.complete = not stopped and (self._skip_bad or self._all_good()) and counts.get("items", 0) > 0
        report.next = [_advice(report, skip_bad=self._skip_bad)]
        await self._journal.leave(each for each in report.problems if each.kind in LEFT)
        self._journal.run.stages.pop(MOVING, None)
        await self._journal.reached("applied", Stage(at=report.finished, complete=report.complete, counts=dict(counts)))
        return report

    # One batch

    async def _move(self, batch: Batch) -> None:
        records = self._as_planned(batch.records)
        work = _Work()

        async def attempt() -> Sequence[Decision]:
            return await self._write(await self._comparison.of(records), work)

        async def settle(error: Exception) -> None:
            if not isinstance(error, Unavailable):
                await self._journal.check_held()
                self._target.forget_containers()
            await self._settle(work)

        overtaken = (Changed, Exists, NoContainer)
        written = await self._target.retries.run(attempt, overtaken=overtaken, settle=settle)
        await asyncio.gather(self._compare_back(written, work), self._look_again(records))
        self._advance(batch.items)

    async def _settle(self, work: "_Work") -> None:
        """Learn which of the commits that were tried came about: what they wrote is ours."""
        for name, copies in work.tried:
            (row,) = await self._target.client.read_bulk([name])
            if row is not None:
                self._remember(copies)

    def _as_planned(self, records: Sequence[Moving]) -> Sequence[Moving]:
        if self._planned is None:
            return records
        kept = []
        told: set[str] = set()
        for each in records:
            item = each.item
            planned = self._planned.get(item.id)
            if planned == item.mark:
                kept.append(each)
            elif item.id not in told:
                told.add(item.id)
                why = "it is new since the plan" if planned is None else "it changed at the source since the plan"
                self.report.tell("unplanned", item.id, f"{why}, and was left; plan again")
        return kept

    async def _write(self, decisions: Sequence[Decision], work: "_Work") -> Sequence[Decision]:
        """Write what is to be written, unless there is a conflict; return what was, by this attempt or one before."""
        for each in decisions:
            if each.act is Act.CONFLICT and each.record.name in work.tags and _moved(each):
                self._overtaken(each, work, removed=each.held is None)  # since an attempt before this one wrote it
        decisions = [each for each in decisions if each.record.name not in work.overtaken]
        conflicts = [each for each in decisions if each.act is Act.CONFLICT]
        for each in conflicts:
            self.report.tell("conflict", each.item.id, each.why, each.record.name)
        if conflicts:
            self._stopped = True
            return []
        left = [each for each in decisions if each.record.name not in work.refused]
        work.begun |= {each.record.name: each.act for each in left if each.act in _WRITES}
        for part in parts(left, self._room):
            await self._commit(part, work)
        plain = [each for each in left if each.act in _WRITES and not each.record.sealed]
        for same in _by_model(plain):
            for part in parts(same, self._room):
                await self._save_plain(part, work)
        done = [each for each in left if each.record.name not in work.refused]
        for each in done:
            self.report.count(_DONE[work.act(each)])
        return [each for each in done if work.act(each) in _WRITES]

    async def _commit(self, decisions: Sequence[Decision], work: "_Work") -> None:
        """Write the row that tells of *decisions*, and what is sealed with it; without what the service refuses."""
        try:
            await self._commit_together(decisions, work)
        except (Invalid, TooLarge) as error:
            self._room = await self._target.room()  # a commit takes fewer changes now, or one of them is refused
            for half in self._halves(decisions, error, work):
                await self._commit(half, work)

    def _halves(
        self, decisions: Sequence[Decision], error: Invalid | TooLarge, work: "_Work"
    ) -> Sequence[Sequence[Decision]]:
        """Return the halves of what the service does not take together; one alone is refused."""
        if len(decisions) > 1:
            return decisions[: len(decisions) // 2], decisions[len(decisions) // 2 :]
        (one,) = decisions
        faults = error.faults if isinstance(error, Invalid) else ()
        why = "; ".join(f"{field} {reason}" for field, reason in faults) or error.text
        self.report.tell("refused", one.item.id, f"the service refuses it: {why}", one.record.name)
        work.refused.add(one.record.name)
        return ()

    async def _commit_together(self, decisions: Sequence[Decision], work: "_Work") -> None:
        former = await self._keep_former(decisions)
        copies = [copy for each in decisions if (copy := _copy(each, former)) is not None]
        if not copies:
            return  # of everything that is written, the journal has something new to say
        sealed = [each for each in decisions if each.act in _WRITES and each.record.sealed]
        containers = await self._target.missing_containers([each.record.name for each in sealed])
        row = self._journal.row(
            "applied", self._journal.next_number(), Applied(copies=copies, containers=list(containers))
        )
        changes: list[Change] = [
            *(
                Write(each.record.name, each.record.value, _tag(each))
                for each in sealed
                if not names.is_container(each.record.name)
            ),
            *(Write(container, Secret(""), wire.NEW) for container in containers),
            row,
            self._journal.guard,
        ]
        work.tried.append((row.name, copies))
        work.tags |= dict.fromkeys((each.record.name for each in sealed), None)
        tag = await self._target.commit(changes, row.name)
        work.tags |= dict.fromkeys((each.record.name for each in sealed), tag)
        self._remember(copies)

    async def _keep_former(self, decisions: Sequence[Decision]) -> Mapping[str, int]:
        """Journal what is about to be replaced and is not our own; return for each name the row that has it."""
        rows: dict[str, int] = {}
        values: dict[str, str] = {}

        async def store() -> None:
            if values:
                number = self._journal.next_number()
                row = self._journal.row("former", number, Former(values=dict(values)))
                await self._target.commit([row, self._journal.guard], row.name)
                rows.update(dict.fromkeys(values, number))
                values.clear()

        for each in decisions:
            if each.act is Act.REPLACE and each.held is not None and not each.ours:
                if sum(map(len, values.values())) + len(each.held.value) > MAX_ROW:
                    await store()
                values[each.record.name] = each.held.value.reveal()
        await store()
        return rows

    async def _save_plain(self, plain: Sequence[Decision], work: "_Work") -> None:
        """Save plain records of one model, as few as are saved at once or not at all, without what is refused."""
        try:
            work.tags |= dict.fromkeys((each.record.name for each in plain), None)
            work.tags |= await self._target.save([each.record for each in plain], [_tag(each) for each in plain])
        except (Invalid, TooLarge) as error:
            for half in self._halves(plain, error, work):
                await self._save_plain(half, work)

    def _remember(self, copies: Sequence[Copy]) -> None:
        self._copies.update((copy.name, _text(copy)) for copy in copies)

    async def _compare_back(self, written: Sequence[Decision], work: "_Work") -> None:
        """Read what was written back, and compare it by keyed hash with what was read at the source.

        What is at another revision than the one that was written is a client's, who may write as soon as it is there.

        Raises:
            Mismatch: it is at the revision that was written, and is something else.
        """
        held = await self._target.read([each.record.name for each in written])
        for each in written:
            back = held.get(each.record.name)
            if back is not None and self._comparison.digest(each.record.name, back) == each.digest:
                continue
            if back is not None and back.etag == work.tags.get(each.record.name):
                raise Mismatch(
                    f"{each.record.name}: what was read back is not what was saved from {each.item.id}, though nobody"
                    " wrote there since; nothing at the source was touched: see to the service's store"
                )
            self._overtaken(each, work, removed=back is None)

    def _overtaken(self, each: Decision, work: "_Work", *, removed: bool) -> None:
        """Tell that a client changed a record right after it had moved; what the client did stands."""
        work.overtaken.add(each.record.name)
        done = "removed" if removed else "changed"
        self.report.tell(
            "note", each.item.id, f"a client {done} it in the service as soon as it was there", each.record.name
        )

    async def _look_again(self, records: Sequence[Moving]) -> None:
        """Tell of every item that was changed at the source since it was read."""
        read = {each.item.id: each.item.mark for each in records}
        marks = await self._source.marks(list(read))
        for item, mark in read.items():
            if marks.get(item) != mark:
                gone = item not in marks
                self.report.tell("changed", item, f"it was {'removed' if gone else 'changed'} while it was moved")


def _moved(each: Decision) -> bool:
    """Whether the journal says that the service had of this record what the source has."""
    return each.last is not None and each.last.act != "kept" and each.last.digest == each.digest


def _tag(each: Decision) -> str:
    """Return the tag of what a write replaces."""
    return wire.NEW if each.held is None else each.held.etag


def _by_model(plain: Sequence[Decision]) -> Iterable[Sequence[Decision]]:
    found: dict[str, list[Decision]] = {}
    for each in plain:
        found.setdefault(names.container_of(each.record.name), []).append(each)
    return found.values()


def _copy(each: Decision, former: Mapping[str, int]) -> Copy | None:
    """Return what the journal is to say of a decision; None: it says so already."""
    act, row, last = _DONE[each.act], former.get(each.record.name, 0), each.last
    if last is not None and (each.ours or (each.act is Act.PRESENT and last.digest == each.digest)):
        act, row = last.act, last.former  # what undoes it is what undid it before
    copy = Copy(each.item.id, each.item.mark, each.record.name, act, each.digest, row)
    return None if copy == last and each.act in (Act.PRESENT, Act.KEEP) else copy


def _text(copy: Copy) -> str:
    return msgspec.json.encode(copy).decode()


def _gravest(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return one of several errors: that the run is no longer ours comes before what follows from it."""
    flat: list[BaseException] = []
    for error in group.exceptions:
        flat += [_gravest(error)] if isinstance(error, BaseExceptionGroup) else [error]
    return min(flat, key=lambda error: not isinstance(error, (RunHeld, Mismatch)))


def to_decide(*, skip_bad: bool) -> Step:
    """Return what is to be done where both sides differ; *skip_bad*: what cannot move stays behind."""
    options: dict[str, Option] = {"on_conflict": "keep"}
    return Step(
        "decide which side wins where they differ: keep, replace or newer",
        "migrate apply",
        {"skip_bad": True, **options} if skip_bad else options,
    )


def _advice(report: Report, *, skip_bad: bool) -> Step:
    counts = report.counts
    if not counts.get("items"):
        return NOTHING_FOUND
    if counts.get("conflict"):
        return to_decide(skip_bad=skip_bad)
    if (counts.get("bad") or counts.get("duplicate")) and not skip_bad:
        return Step(
            "fix at the source what cannot move, and run it again; or leave it", "migrate apply", {"skip_bad": True}
        )
    if counts.get("changed") or counts.get("unplanned"):
        return Step("some items changed meanwhile; plan again, then apply that", "migrate plan")
    left = counts.get("bad") or counts.get("duplicate")
    again: dict[str, Option] = {"skip_bad": True} if left else {}
    if counts.get("refused"):
        return Step(
            "the service refuses some records: fix them at the source, and run it again", "migrate apply", again
        )
    return Step("compare both sides", "migrate verify", again)

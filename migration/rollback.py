"""``rollback``: the source as it was, from the journal, and then the copies out of the service; except what changed.

The source comes first. Each item that was scrubbed is put back from its last original, and read back; a record leaves
the service only if its item was never scrubbed, or is back. What the run created is removed, and what it replaced is
put back, each only if it is still what the run wrote, by the revision that was compared. Each batch goes in one commit
with a row of the journal that says so. Whatever somebody changed since, on either side, is told and left.

Killed anywhere, it is run again. When nothing is left to undo, the journal goes, too, for it holds all those originals;
of it stays the head, which says that the run was rolled back.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, cast

import msgspec

from strongroom.migration.apply import known_copies
from strongroom.migration.disk_map import DiskMap
from strongroom.migration.errors import MigrationError
from strongroom.migration.journal import (
    MAX_ROW,
    MOVING,
    ROLLED_BACK,
    UNDONE,
    Applied,
    Copy,
    Former,
    Journal,
    Scrubbed,
    Stage,
    now,
)
from strongroom.migration.records import Record, is_sealed
from strongroom.migration.report import Report
from strongroom.migration.sources.base import Original, Scrubbable, Source
from strongroom.migration.target import Change, Held, Target
from strongroom.models import names
from strongroom.models.secret import Secret
from strongroom.models.steps import Step
from strongroom.storage_service.client.bulk_operations import Remove, Write
from strongroom.storage_service.errors import Changed, NotEmpty

_PAGE: Final = 100  # names in one go
_OWN: Final = 2  # changes of the journal in each commit: its row and its lock

_BACK: Final = "back"  # said of an item that was scrubbed: it is as it was
_AWAY: Final = "away "  # it is not; its mark follows


class _Undo(NamedTuple):
    """What is to become of what lies under a name: *value* is put back, or it is removed."""

    copy: Copy
    held: Held
    value: Secret | None


class _Told(NamedTuple):
    """What is to be told of a name that is left as it is."""

    kind: str
    copy: Copy
    why: str


class _Page(NamedTuple):
    """What is to be done about some names."""

    undo: Sequence[_Undo]
    undone: Sequence[Copy]  # there is nothing to do any more
    left: Sequence[_Told]


class Rollback:
    """One run of ``rollback``; its journal's lock is held."""

    def __init__(
        self, source: Source | None, target: Target, journal: Journal, *, advance: Callable[[int], object] = bool
    ) -> None:
        """Take the parts.

        Args:
            source: opened with the journal's digest; None will do where nothing was scrubbed.
            target: where the copies are.
            journal: with its lock held.
            advance: called with how many items or records more are done.
        """
        self._source = source
        self._target = target
        self._journal = journal
        self._advance = advance
        self._copies = DiskMap()
        self._items = DiskMap()  # that were scrubbed: how they are now
        self._former: tuple[int, Mapping[str, str]] = (0, {})  # the row that was read last, and what it holds
        run = journal.run
        self.report = Report(verb="rollback", run=run.name, kind=run.kind, source=run.identity, started=now())

    async def run(self) -> Report:
        """Undo what can be undone, and return what came of it.

        Raises:
            MigrationError: items were scrubbed, and there is no source to put them back into. Nothing was done.
            RunHeld: another process has taken this run over.
            SourceUnavailable, Unavailable, Denied, Locked: one side does not answer, or not us; run it again later.
        """
        ended = self._journal.run.stages.get(ROLLED_BACK)
        if ended is None or not ended.complete:  # or else all that is left is to forget
            try:
                await self._undo()
            finally:
                self._copies.close()
                self._items.close()
        return await self._ended()

    async def _undo(self) -> None:
        rows = await self._journal.numbers("scrubbed")
        if rows and not isinstance(self._source, Scrubbable):
            raise MigrationError("items were removed from the source: say which it is, so that they can be put back")
        await self._journal.left(MOVING, "applied", "verified", "scrubbed")
        if rows:
            await self._restore_all(rows)
        await known_copies(self._journal, self._copies)
        page: list[Copy] = []
        for text in self._copies.values():
            page.append(msgspec.json.decode(text, type=Copy))
            if len(page) == _PAGE:
                await self._take_out(page)
                page = []
        await self._take_out(page)
        await self._remove_containers()
        for item, state in self._items.items():
            if state != _BACK:
                self.report.tell("changed", item, "it was changed at the source since, and is left as it is there")

    async def _ended(self) -> Report:
        report = self.report
        counts = report.counts
        report.finished = now()
        report.complete = not any(counts.get(kind) for kind in ("changed", "waiting"))
        report.next = _advice(report)
        ended = Stage(at=report.finished, complete=report.complete, counts=dict(counts))
        await self._journal.reached(ROLLED_BACK, ended)
        if report.complete:
            await self._journal.clear()  # but for the head, which says that this was done
        return report

    # The source

    async def _restore_all(self, rows: Sequence[int]) -> None:
        """Put every item back from its last original."""
        hands = cast("Scrubbable", self._source)
        async for _, row in self._journal.rows("scrubbed", Scrubbed, list(reversed(rows))):
            done = self._items.get_many([item for item, _, _ in row.originals])
            last = [Original(item, mark, Secret(text)) for item, mark, text in row.originals if item not in done]
            for start in range(0, len(last), hands.scrub_batch):
                await self._restore(hands, last[start : start + hands.scrub_batch])

    async def _restore(self, hands: Scrubbable, originals: Sequence[Original]) -> None:
        restored = await hands.restore(originals)
        # A copy goes only when its item was seen to be there again.
        there = await hands.originals([each.id for each in originals])
        for original, done in zip(originals, restored, strict=True):
            now_there = there.get(original.id)
            if done and now_there is not None and now_there.content == original.content:
                self._items[original.id] = _BACK
                self.report.count("restored")
            else:
                self._items[original.id] = _AWAY + (now_there.mark if now_there else "")
        self._advance(len(originals))

    # The service

    async def _take_out(self, copies: Sequence[Copy]) -> None:
        """Undo what the journal says of some names, as often as somebody else is faster."""
        ours = [each for each in copies if each.act in ("created", "replaced") and not names.is_container(each.name)]

        async def attempt() -> _Page:
            page = await self._look_at(ours)
            for some in _in_commits(page.undo, await self._target.room() - _OWN):
                await self._undo_now(some)
            await self._note(page.undone)
            return page

        async def settle(error: Exception) -> None:
            if isinstance(error, Changed):
                await self._journal.check_held()

        page = await self._target.retries.run(attempt, overtaken=(Changed,), settle=settle)
        for kind, copy, why in page.left:
            self.report.tell(kind, copy.item, why, copy.name)
        self.report.count("not ours", len(copies) - len(ours))
        self.report.count("undone", len(ours) - len(page.left))
        self._advance(len(copies))

    async def _look_at(self, copies: Sequence[Copy]) -> _Page:
        """Return what is to be done about some names, as they are now."""
        page: tuple[list[_Undo], list[Copy], list[_Told]] = ([], [], [])
        undo, undone, left = page
        held = await self._target.read([each.name for each in copies])
        items = self._items.get_many([each.item for each in copies])
        for copy in copies:
            there = held.get(copy.name)
            lies = "" if there is None else self._digest(copy.name, there.value)
            former = await self._former_of(copy)
            if self._is_away(copy, items.get(copy.item)):
                left.append(_Told("waiting", copy, "it stays, for its item is not back at the source"))
            elif (lies == "" and former is None) or (former is not None and lies == self._digest(copy.name, former)):
                undone.append(copy)
            elif there is not None and lies == copy.digest:
                undo.append(_Undo(copy, there, former))
            else:
                left.append(_Told("changed", copy, "it was changed in the service since, and is left as it is"))
        return _Page(*page)

    def _is_away(self, copy: Copy, state: str | None) -> bool:
        """Whether what *copy* was made from is not at the source now."""
        if state is None or state == _BACK:
            return False
        if state != _AWAY + copy.mark:
            return True
        self._items[copy.item] = _BACK  # it was never touched: it is there as it was when it moved
        return False

    def _digest(self, name: str, value: Secret) -> str:
        return self._journal.digest.of(name, value.reveal())

    async def _former_of(self, copy: Copy) -> Secret | None:
        """Return what lay under the name before."""
        if not copy.former:
            return None
        if copy.former != self._former[0]:
            async for number, row in self._journal.rows("former", Former, [copy.former]):
                self._former = (number, row.values)
        return Secret(self._former[1][copy.name])

    async def _undo_now(self, undos: Sequence[_Undo]) -> None:
        """Undo one commit's worth: what is plain first, and then what is sealed, with the row that tells of all."""
        removed = [each for each in undos if each.value is None]
        put_back = [(each, each.value) for each in undos if each.value is not None]
        plain = [each for each in removed if not is_sealed(each.copy.name)]
        await self._target.remove_plain([each.copy.name for each in plain], [each.held.etag for each in plain])
        plain_back = [(each, value) for each, value in put_back if not is_sealed(each.copy.name)]
        await self._target.save(
            [Record(each.copy.name, value) for each, value in plain_back], [each.held.etag for each, _ in plain_back]
        )
        changes: list[Change] = [
            Remove(each.copy.name, each.held.etag) for each in removed if is_sealed(each.copy.name)
        ]
        changes += [
            Write(each.copy.name, value, each.held.etag) for each, value in put_back if is_sealed(each.copy.name)
        ]
        await self._note([each.copy for each in undos], changes)

    async def _note(self, copies: Sequence[Copy], changes: Sequence[Change] = ()) -> None:
        """Journal that those names are undone, in one commit with *changes*."""
        if copies:
            undone = [msgspec.structs.replace(each, act=UNDONE, former=0) for each in copies]
            row = self._journal.row("applied", self._journal.next_number(), Applied(copies=undone))
            await self._target.commit([*changes, row, self._journal.guard], row.name)

    # Containers

    async def _remove_containers(self) -> None:
        """Remove the containers that were made for the copies and are empty now, inner ones first."""
        with DiskMap() as made:
            async for _, row in self._journal.rows("applied", Applied):
                created = [each.name for each in row.copies if each.act == "created" and names.is_container(each.name)]
                made.update((f"{999 - each.count('/'):03} {each}", "") for each in [*row.containers, *created])
            for key in made.keys(""):
                await self._remove_container(key[4:])

    async def _remove_container(self, container: str) -> None:
        commit = functools.partial(self._target.client.commit_bulk, [Remove(container), self._journal.guard])
        try:
            await self._target.retries.run(commit)
        except NotEmpty:
            self.report.count("containers kept")
        except Changed:
            await self._journal.check_held()
            raise


def _in_commits(undos: Sequence[_Undo], room: int) -> Iterator[Sequence[_Undo]]:
    """Yield *undos* in parts, each of which a commit takes that has room for so many changes."""
    part: list[_Undo] = []
    changes = size = 0
    for each in undos:
        more = _changes(each)
        grown = 0 if each.value is None else len(each.value)
        if part and (changes + more > room or size + grown > MAX_ROW):
            yield part
            part, changes, size = [], 0, 0
        part.append(each)
        changes += more
        size += grown
    if part:
        yield part


def _changes(undo: _Undo) -> int:
    """Return how many changes of a commit it takes to undo one name: what is written needs its container."""
    if not is_sealed(undo.copy.name):
        return 0
    return 1 if undo.value is None else 2


def _advice(report: Report) -> list[Step]:
    if report.complete:
        return [
            Step("it is undone, and the journal has forgotten all that it kept; to begin anew", "migrate plan"),
            Step("or, so that nothing is told of this run any more", "migrate forget"),
        ]
    if report.counts.get("waiting"):
        why = "some items were changed at the source since, and their copies stay"
        return [
            Step(f"{why}: see to those by hand, and run it again", "migrate rollback"),
            Step("or keep them as they are", "migrate forget"),
        ]
    return [
        Step("what was changed since is left: see to it by hand, and run it again", "migrate rollback"),
        Step("or keep it as it is", "migrate forget"),
    ]

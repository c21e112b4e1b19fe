"""``scrub``: what moved is taken from the source, and its files are searched for what remains.

Nothing is removed but what was proved a moment before to be in the service: each item is read again, and must be as it
was when it moved; each of its records must be in the service as the journal says that it was put there. Then the item,
exactly as it lies at the source, goes into a row of the journal, and only then does the source remove its secrets, by
compare-and-set against that. Killed anywhere, the row is there for ``rollback``, and a second run goes on.

What the service changed or lost since it moved, and still lies at the source, is the old value of a record: a key that
was replaced, or removed. It is named, and stays, unless it is said (*superseded*) that it goes, too: then it is in the
journal alone.

At last the source gives up what it removed (compacts, vacuums), and every file that can be reached is searched for
pieces of everything that was ever journalled. Places that cannot be reached are named, with what to do about them.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

import msgspec

from strongroom.migration.apply import known_copies
from strongroom.migration.disk_map import DiskMap
from strongroom.migration.errors import MigrationError, NotVerified
from strongroom.migration.journal import MAX_ROW, Copy, Journal, Scrubbed, Stage, now
from strongroom.migration.records import Item
from strongroom.migration.report import Report
from strongroom.migration.search_patterns import SHORTEST, Search
from strongroom.migration.sources.base import Original, Scrubbable, Source
from strongroom.migration.sources.reading import items_of
from strongroom.migration.target import Target
from strongroom.models import names
from strongroom.models.secret import Secret
from strongroom.models.steps import Option, Step
from strongroom.storage_service.errors import Changed
from strongroom.storage_service.wire import MAX_JOURNAL

STAGE: Final = "scrubbed"

_UNFINISHED: Final = "unfinished"
_DIFFERS: Final = "differs"
_LEFT: Final = ("bad", "unmoved", _DIFFERS, "changed", "too-large", _UNFINISHED)  # why an item keeps its secrets
_BESIDE: Final = 1024  # bytes of a row that are no original's


class Wanted(msgspec.Struct, array_like=True):
    """An item with secrets as it was read now: its mark, and each record's name and keyed hash."""

    mark: str
    records: list[tuple[str, str]]


Batch: TypeAlias = Sequence[tuple[str, Wanted]]


class _Doubt(NamedTuple):
    """Why an item keeps its secrets."""

    kind: str
    why: str
    name: str = ""


def check_verified(journal: Journal) -> None:
    """See that all at the source was proved to be in the service.

    Raises:
        NotVerified: it was not.
    """
    verified = journal.run.stages.get("verified")
    if verified is None or not verified.complete:
        raise NotVerified("nothing is removed before all of it was proved to be in the service").advising(
            Step("prove it", "migrate verify")
        )


class Scrub:
    """One run of ``scrub``; its journal's lock is held."""

    def __init__(
        self,
        source: Source,
        target: Target,
        journal: Journal,
        *,
        superseded: bool = False,
        advance: Callable[[int], object] = bool,
    ) -> None:
        """Take the parts.

        Args:
            source: opened with the journal's digest.
            target: where everything must be.
            journal: with its lock held.
            superseded: remove, too, what the service holds another value of, or none any more.
            advance: called with how many items more are done.

        Raises:
            MigrationError: nothing can be removed from a source of this kind; the text says what to do.
        """
        if not isinstance(source, Scrubbable):
            raise MigrationError(
                f"nothing is removed from a source of the kind {journal.run.kind}: remove it by hand, backups too"
            ).advising(Step("but not before this says that all of it has moved", "migrate verify"))
        self._source: Source = source
        self._hands: Scrubbable = source
        self._target = target
        self._journal = journal
        self._superseded = superseded
        self._advance = advance
        self._copies = DiskMap()  # of every record, what the journal says
        self._wanted = DiskMap()  # of every item that has secrets, what it is
        self._journalled = DiskMap()  # of every item that was to be scrubbed, the mark of its last original
        self._left_behind = 0  # of those, the ones that still have secrets
        run = journal.run
        self.report = Report(verb="scrub", run=run.name, kind=run.kind, source=run.identity, started=now())

    async def run(self, *, search_only: bool = False) -> Report:
        """Remove what can be removed, search for what remains, and return what came of it.

        Args:
            search_only: remove nothing; search again for what was removed before.

        Raises:
            NotVerified: not everything at the source was proved to be in the service. Nothing was done.
            RunHeld: another process has taken this run over.
            SourceUnavailable, Unavailable, Denied, Locked: one side does not answer, or not us; run it again later.
        """
        try:
            if search_only:
                await self._search()
            else:
                await self._remove_all()
            return await self._ended(search_only=search_only)
        finally:
            for each in (self._copies, self._wanted, self._journalled):
                each.close()

    # Removing

    async def _remove_all(self) -> None:
        check_verified(self._journal)
        # Said before anything is: from here on the source is not what it was.
        await self._note(complete=False, counts={**self._counts_so_far(), _UNFINISHED: 1})
        await known_copies(self._journal, self._copies)
        await self._know_journalled()
        await self._read_source()
        batch: list[tuple[str, Wanted]] = []
        for item, text in self._wanted.items():
            batch.append((item, msgspec.json.decode(text, type=Wanted)))
            if len(batch) == self._hands.scrub_batch:
                await self._remove(batch)
                batch = []
        await self._remove(batch)
        if len(self._journalled):
            done = await self._hands.purge()
            self.report.facts["given up by the source"] = "; ".join(done) or "nothing: it keeps no older versions"
            await self._search()

    def _counts_so_far(self) -> dict[str, int]:
        stage = self._journal.run.stages.get(STAGE)
        return {} if stage is None else stage.counts

    async def _know_journalled(self) -> None:
        async for _, row in self._journal.rows("scrubbed", Scrubbed):
            self._journalled.update((item, mark) for item, mark, _ in row.originals)

    async def _read_source(self) -> None:
        """Learn what has secrets there, before any of it is touched."""
        async for item in items_of(self._source):
            self.report.count("items")
            if item.fault:
                self._leave(item.id, _Doubt("bad", f"it did not move, and keeps what it has: {item.fault}"))
            elif any(record.sealed and not names.is_container(record.name) for record in item.records):
                self._wanted[item.id] = msgspec.json.encode(self._as_wanted(item)).decode()
                continue
            self._advance(1)

    def _as_wanted(self, item: Item) -> Wanted:
        digest = self._journal.digest
        return Wanted(item.mark, [(each.name, digest.of(each.name, each.value.reveal())) for each in item.records])

    async def _remove(self, batch: Batch) -> None:
        """Scrub those of a batch that are where they should be, and as they were."""
        if not batch:
            return
        moved = await self._moved(batch)
        found = await self._hands.originals([item for item, _ in moved]) if moved else {}
        row: list[Original] = []
        size = 0
        for item, wanted in moved:
            original = found.get(item)
            if original is None or original.mark != wanted.mark:
                self._leave(item, _Doubt("changed", "it was changed at the source in this moment: move it again"))
                continue
            grown = len(msgspec.json.encode((item, original.mark, original.content.reveal())))
            if grown > MAX_JOURNAL - _BESIDE:
                self._leave(item, _Doubt("too-large", "it is too large to be journalled: remove its secrets by hand"))
                continue
            if row and size + grown > MAX_ROW:
                await self._scrub(row)
                row, size = [], 0
            row.append(original)
            size += grown
        await self._scrub(row)
        self._advance(len(batch))

    async def _moved(self, batch: Batch) -> Batch:
        """Return those of *batch* that the journal says have moved as they are, and that the service has like that."""
        wanted = [name for _, each in batch for name, _ in each.records]
        copies = {name: msgspec.json.decode(text, type=Copy) for name, text in self._copies.get_many(wanted).items()}
        held = await self._target.read(wanted)
        digest = self._journal.digest
        lies = {name: digest.of(name, each.value.reveal()) for name, each in held.items()}
        moved = []
        for item, each in batch:
            doubt = _doubt(item, each, copies, lies)
            if doubt is not None and doubt.kind == _DIFFERS and self._superseded:
                self.report.tell("superseded", item, "from now on what lay here is only in the journal", doubt.name)
                doubt = None
            if doubt is None:
                moved.append((item, each))
            else:
                self._leave(item, doubt)
        return moved

    async def _scrub(self, originals: Sequence[Original]) -> None:
        if not originals:
            return
        journalled = self._journalled.get_many([each.id for each in originals])
        if new := [each for each in originals if journalled.get(each.id) != each.mark]:
            content = Scrubbed(originals=[(each.id, each.mark, each.content.reveal()) for each in new])
            row = self._journal.row("scrubbed", self._journal.next_number(), content)
            try:
                await self._target.commit([row, self._journal.guard], row.name)
            except Changed:
                await self._journal.check_held()
                raise
            self._journalled.update((each.id, each.mark) for each in new)
        for original, done in zip(originals, await self._hands.scrub(originals), strict=True):
            if done:
                self.report.count("scrubbed now")
            else:
                self._leave(
                    original.id, _Doubt("changed", "it was changed at the source in this moment: move it again")
                )

    def _leave(self, item: str, doubt: _Doubt) -> None:
        self.report.tell(doubt.kind, item, doubt.why, doubt.name)
        self._left_behind += item in self._journalled

    # Searching

    async def _search(self) -> None:
        """Look for everything that was ever journalled, everywhere."""
        search = Search(await self._hands.places())
        for finding in await search.run(self._patterns()):
            place = finding.place
            if finding.unreachable:
                self.report.tell("unreachable", place.name, f"{finding.unreachable}; {place.advice}")
            if finding.patterns:
                self.report.tell("found", place.name, f"{_secrets(finding.patterns)} still in it; {place.advice}")
            if finding.clean:
                self.report.facts[place.name] = "searched, and clean"
        self.report.count("searched", search.patterns)
        if search.short:
            self.report.tell(
                "note", "", f"{_secrets(search.short)} shorter than {SHORTEST} bytes: no search is made for so little"
            )

    async def _patterns(self) -> AsyncIterator[bytes]:
        async for _, row in self._journal.rows("scrubbed", Scrubbed):
            for item, mark, content in row.originals:
                for pattern in self._hands.search_patterns(Original(item, mark, Secret(content))):
                    yield pattern

    # The end

    async def _ended(self, *, search_only: bool) -> Report:
        report, before = self.report, self._counts_so_far()
        left: dict[str, int]
        if search_only:
            left = {kind: before[kind] for kind in _LEFT if kind in before}
            counts = {**before, **report.counts}
        else:
            report.counts["scrubbed"] = len(self._journalled) - self._left_behind
            left = {kind: report.counts[kind] for kind in _LEFT if kind in report.counts}
            counts = dict(report.counts)
        found = bool(report.counts.get("found"))
        report.finished = now()
        report.complete = not found and (search_only or not left)
        if search_only and not report.counts.get("searched"):
            report.complete = False
        report.next = _advice(report, left)
        await self._note(complete=not found and not left, counts=counts)
        return report

    async def _note(self, *, complete: bool, counts: dict[str, int]) -> None:
        await self._journal.reached(STAGE, Stage(at=now(), complete=complete, counts=counts))


def _secrets(count: int) -> str:
    return "1 secret is" if count == 1 else f"{count:,} secrets are"


def _doubt(item: str, wanted: Wanted, copies: dict[str, Copy], lies: dict[str, str]) -> _Doubt | None:
    """Return why *item* must keep its secrets; None: they are in the service, as they are here.

    That it differs comes last: of such an item nothing else is in doubt.
    """
    differs: _Doubt | None = None
    for name, digest in wanted.records:
        copy = copies.get(name)
        if copy is None:
            return _Doubt("unmoved", "it is not in the journal: move it first", name)
        if copy.item == item and copy.mark != wanted.mark:
            return _Doubt("changed", "it was changed at the source since it was moved: move it again", name)
        if copy.digest != digest:
            return _Doubt("changed", "it is not the item that was compared when it moved: move it again", name)
        if copy.act == "kept" or lies.get(name) != digest:
            gone = name not in lies
            why = "the service had it, and has it no longer" if gone else "what the service holds is not what lies here"
            differs = differs or _Doubt(_DIFFERS, why, name)
    return differs


def _advice(report: Report, left: dict[str, int]) -> list[Step]:
    counts = report.counts
    again: dict[str, Option] = {"search_only": True}
    if counts.get("found"):
        return [
            Step(
                "secrets remain in the files named; follow the advice for each, search again",
                "migrate scrub",
                again,
            )
        ]
    if left.get(_DIFFERS) and not left.keys() - {_DIFFERS}:
        return [
            Step(
                "the service has other values, or none, in the place of what these items still hold; if those are no"
                " longer needed, remove them, too",
                "migrate scrub",
                {"superseded": True},
            )
        ]
    if any(left.get(kind) for kind in ("unmoved", "changed", _DIFFERS)):
        return [Step("some items still have their secrets; move what is new, verify, and scrub again", "migrate apply")]
    if left:
        return [
            Step("some items still have their secrets; remove those by hand, then search again", "migrate scrub", again)
        ]
    if counts.get("unreachable"):
        return [Step("check the places that could not be searched: their secrets may live on there; then it is done")]
    if not counts.get("searched"):
        return [Step("nothing was removed from this source, so there is nothing to search for")]
    return [Step("it is done; when nobody wants to go back", "migrate forget")]

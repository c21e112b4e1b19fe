"""``verify``: both sides are compared completely, and nothing is the same because the journal says so.

Every record of every item is read anew, at the source and in the service, and compared by keyed hash. The reverse is
looked at too: what the service holds in the containers where the records of the source lie, and the source does not
have.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final

import msgspec

from strongroom.migration.apply import LEFT, known_copies
from strongroom.migration.batches import Batch, batches
from strongroom.migration.disk_map import DiskMap
from strongroom.migration.journal import Copy, Journal, Left, Run, Stage, now
from strongroom.migration.records import is_sealed
from strongroom.migration.report import Problem, Report
from strongroom.migration.sources.base import Source
from strongroom.migration.target import READ_SIZE, Target
from strongroom.models import LIST_MODELS, MODELS, ListModel, names
from strongroom.models.names import TOMBSTONES
from strongroom.models.steps import Option, Step
from strongroom.storage_service.backends.base import pages

MAX_EXTRA: Final = 100  # names that the source does not have, told by name; the rest are counted

_NAME: Final = "n"  # before a name of the source, among what is remembered of it
_CONTAINER: Final = "c"  # before a container that its names lie in


async def verify(
    source: Source,
    target: Target,
    journal: Journal,
    *,
    skip_bad: bool = False,
    skip_differing: bool = False,
    advance: Callable[[int], object] = bool,
) -> Report:
    """Compare everything, note in the journal whether all of it is the same, and return what came of it.

    The report's *sum* stands for all that was compared: it begins as the empty text, and becomes, for each record in
    the order of the source, the keyed hash of what it was, the record's name and the keyed hash of its value.

    Args:
        source: opened with the journal's digest.
        target: the service.
        journal: with its lock held.
        skip_bad: what cannot move may stay behind: it is told, and the rest counts.
        skip_differing: that the service holds other values, as newer ones do, is told, and the rest counts.
        advance: called with how many items more are done.

    Raises:
        RunHeld: another process has taken this run over.
        SourceUnavailable, Unavailable, Denied, Locked: one side does not answer, or not us.
    """
    run = journal.run
    report = Report(verb="verify", run=run.name, kind=run.kind, source=run.identity, started=now())
    with DiskMap() as met, DiskMap() as copies:
        await known_copies(journal, copies)
        async for batch in batches(source, journal.digest, report):
            await _compare(batch, source, target, journal, report, copies=copies)
            _remember(met, batch)
            advance(batch.items)
        # What was scrubbed is in the service alone, as it should be: it is counted.
        await _look_for_more(target, met, report, bound=0 if "scrubbed" in run.stages else MAX_EXTRA)
    _tell_scrubbed(run, report)
    left = set(LEFT) if skip_bad else await _left_behind(journal, report)
    skipped = left | ({"differs"} if skip_differing else set())
    bad = {kind for kind in (*LEFT, "missing", "differs", "changed") if report.counts.get(kind)} - skipped
    report.finished = now()
    report.complete = report.counts.get("same", 0) > 0 and not bad
    report.next = _advice(run, report, bad)
    if report.counts.get("records") or "scrubbed" not in run.stages:  # nothing left to compare disproves nothing
        ended = Stage(at=report.finished, complete=report.complete, counts=dict(report.counts), sum=report.sum)
        await journal.reached("verified", ended)
    return report


async def _left_behind(journal: Journal, report: Report) -> set[str]:
    """Return those kinds of what cannot move of which there is nothing but what the apply was told to leave behind."""
    applied = journal.run.stages.get("applied")
    if applied is None or not applied.complete:
        return set()
    known = {problem async for _, row in journal.rows("left", Left) for problem in row.problems}
    new = {each.kind for each in report.problems if journal.left_as(each) not in known}
    return set(LEFT) - new


async def _compare(
    batch: Batch, source: Source, target: Target, journal: Journal, report: Report, *, copies: DiskMap
) -> None:
    """Compare one batch; what changed while that was done is told as such, whatever it looked like.

    Nothing is the same because the journal says so; of what the service does not have, it says whether it had it.
    """
    digest = journal.digest
    held = await target.read([each.record.name for each in batch.records])
    absent = [each.record for each in batch.records if each.record.name not in held]
    missing = [TOMBSTONES + record.name for record in absent if record.sealed]
    deleted = await target.read(missing) if missing else {}
    moved = copies.get_many([record.name for record in absent])
    applied = "applied" in journal.run.stages
    marks = await _marks(source, list({each.item.id: None for each in batch.records}))
    told: set[str] = set()
    for item, record, mine in batch.records:
        report.count("records")
        report.sum = digest.of(report.sum, record.name, mine)
        there = held.get(record.name)
        if marks.get(item.id) != item.mark:
            if item.id not in told:
                told.add(item.id)
                report.tell("changed", item.id, "it was changed or removed at the source while it was compared")
        elif there is None and TOMBSTONES + record.name in deleted:
            report.tell("differs", item.id, "it was deleted in the service before it had moved", record.name)
        elif there is None and _had(record.name, mine, applied, moved):
            report.tell("differs", item.id, "the service had it, and has it no longer", record.name)
        elif there is None:
            report.tell("missing", item.id, "the service does not have it", record.name)
        elif digest.of(record.name, there.value.reveal()) != mine:
            report.tell("differs", item.id, "the service holds another value", record.name)
        else:
            report.count("same")


def _had(name: str, digest: str, applied: bool, moved: Mapping[str, str]) -> bool:
    """Whether the service had what the source has: what is sealed came with its row, the rest before the end."""
    if name not in moved or not (applied or is_sealed(name)):
        return False
    return msgspec.json.decode(moved[name], type=Copy).digest == digest


async def _marks(source: Source, ids: Sequence[str]) -> Mapping[str, str]:
    return await source.marks(ids) if ids else {}


def _remember(met: DiskMap, batch: Batch) -> None:
    wanted = [each.record.name for each in batch.records if not names.is_container(each.record.name)]
    met.update((_NAME + name, "") for name in wanted)
    met.update((_CONTAINER + container, "") for container in {names.container_of(name) for name in wanted})


async def _look_for_more(target: Target, met: DiskMap, report: Report, *, bound: int) -> None:
    """Tell what the service has beside the source, in the containers and kinds of its records and below them.

    What lies where records of a model lie is counted alone: many sources fill those.
    """
    shared: dict[str, int] = {}
    last = None
    for key in met.keys(_CONTAINER):
        if not key.startswith(_CONTAINER):
            break
        container = key.removeprefix(_CONTAINER)
        if last is not None and container.startswith(last):
            continue  # it was listed with the one round it
        last = container
        async for page in _listed(target, container):
            known = met.get_many([_NAME + name for name in page])
            for name in page:
                if _NAME + name in known:
                    continue
                if model := _model_container(name):
                    shared[model] = shared.get(model, 0) + 1
                    report.count("extra")
                elif report.counts.get("extra", 0) < bound:
                    report.tell("extra", "", "the service has it, and the source does not", name)
                else:
                    report.count("extra")

    for model, count in shared.items() if bound else ():
        have = "1 record lies" if count == 1 else f"{count:,} records lie"
        report.problems.append(
            Problem(kind="extra", item="", name=model, why=f"{have} there that the source does not have")
        )


_MODEL_CONTAINERS: Final = frozenset(model.prefix() for model in MODELS.values())


def _model_container(name: str) -> str:
    container = names.container_of(name)
    return container if container in _MODEL_CONTAINERS else ""


async def _listed(target: Target, prefix: str) -> AsyncIterator[Sequence[str]]:
    """Yield the names of records that begin with *prefix*, in pages."""
    if not is_sealed(prefix):
        page: list[str] = []
        async for record in target.client.list(_list_model(prefix)):
            page.append(record.model.record_name)
            if len(page) == READ_SIZE:
                yield page
                page = []
        yield page
        return
    async for listed in pages(target.client.list_bulk, prefix):
        yield [name for name in listed if not names.is_container(name)]


def _list_model(prefix: str) -> type[ListModel]:  # type: ignore[type-arg]  # whichever it is
    return next(model for model in LIST_MODELS.values() if model.prefix() == prefix)


def _tell_scrubbed(run: Run, report: Report) -> None:
    stage = run.stages.get("scrubbed")
    if stage is not None:
        report.facts["scrubbed"] = (
            f"{stage.counts.get('scrubbed', 0):,} items have lost their secrets at the source since:"
            " those are in the service alone, and cannot be compared any more"
        )


def _advice(run: Run, report: Report, bad: set[str]) -> list[Step]:
    if not report.counts.get("records"):
        if "scrubbed" in run.stages:
            remains = "nothing is left at the source to compare; search for remains"
            return [Step(remains, "migrate scrub", {"search_only": True})]
        return [Step("nothing was compared, which proves nothing: see that the source's place and options are right")]
    skip: dict[str, Option] = {}
    if report.counts.get("bad") or report.counts.get("duplicate"):
        skip = {"skip_bad": True}
    if "changed" in bad:
        return [Step("the source is being changed; move what is new, and compare again", "migrate apply", skip)]
    if "missing" in bad:
        return [Step("move what is missing", "migrate apply", skip)]
    if "differs" in bad:
        stand = "or let what the service holds stand"
        return [
            Step("replace what differs in the service", "migrate apply", {**skip, "on_conflict": "replace"}),
            Step(stand, "migrate verify", {**skip, "skip_differing": True}),
        ]
    if bad:
        return [Step("fix at the source what cannot move, or leave it behind", "migrate verify", skip)]
    if not report.complete:
        return [Step("nothing is the same: see that this is the source that was moved")]
    if "scrubbed" in run.stages:
        return [Step("what the source still has is in the service, too")]
    return [Step("remove the secrets from the source", "migrate scrub")]

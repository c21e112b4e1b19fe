"""``strongroom migrate status``: the runs, who works on one, and which part of a source has not moved yet."""

from typing import TYPE_CHECKING

import msgspec

from strongroom.deploy.cli import show
from strongroom.deploy.cli.migrate import reports
from strongroom.deploy.cli.migrate.source import SourceSpec, counting, open_sides, opened_target

if TYPE_CHECKING:
    from strongroom.migration.journal import Stage
    from strongroom.migration.status import Status, Waiting


async def every() -> None:
    """Show every run."""
    from strongroom.migration.status import status

    async with opened_target() as target:
        _show(await status(target))


async def one(spec: SourceSpec) -> None:
    """Show one run, and what of its source is not in the service."""
    from strongroom.migration.status import status

    async with open_sides(spec) as sides:
        total = await sides.from_.count()
        with counting("comparing", total) as advance:
            said = await status(sides.target, sides.source, sides.journal.run.name, advance=advance)
        if said.source is not None:
            said.source.next = sides.completed(said.source.next)
    _show(said)


def _show(said: "Status") -> None:
    if show.as_json():
        show.answer(msgspec.to_builtins(said))
        return
    if not said.runs:
        show.line(show.advice("nothing was moved yet; what can be", "migrate sources"))
        return
    for each in said.runs:
        show.line(each.run, style="bold")
        stages = [_of_stage(stage, how) for stage, how in each.stages.items()]
        show.words(f"{each.source}", indent=4)
        show.words(f"{', '.join(stages) or 'planned'}; begun {each.created.partition('T')[0]}", indent=4)
    if said.holder is not None:
        holder = said.holder
        show.words(
            f"{holder.verb} of {holder.run} is under way: process {holder.pid} on {holder.host} since {holder.since}",
            style="yellow",
        )
    if said.reading_through:
        show.words(f"what has not moved is read from: {', '.join(said.reading_through)}")
    if said.source is not None:
        show.words(_of_source(said.source), style="yellow" if said.source.waiting or said.source.bad else "green")
        reports.next_steps(said.source.next)


def _of_stage(name: str, stage: "Stage") -> str:
    if stage.complete:
        return name
    moved, left = stage.counts.get("moved"), stage.counts.get("left")
    if moved is None:
        return f"{name} in part"
    return f"{name} in part ({moved:,} items moved{'' if left is None else f', {left:,} left'})"


def _of_source(waiting: "Waiting") -> str:
    if not waiting.items:
        return "nothing was found at the source"
    bad = f"; {waiting.bad:,} cannot move" if waiting.bad else ""
    if waiting.superseded:
        bad = f"; {waiting.superseded:,} hold old secrets of records that the service has changed or removed{bad}"
    items = "1 item" if waiting.items == 1 else f"{waiting.items:,} items"
    if not waiting.waiting:
        return f"of {items} at the source none waits to be moved{bad}"
    verb = "is" if waiting.waiting == 1 else "are"
    return f"{waiting.waiting:,} of {items} at the source {verb} not in the service yet{bad}"

"""``strongroom migrate status``: the runs, who is at one, and what of an estate has not moved yet."""

from typing import TYPE_CHECKING

import msgspec

from deploy.cli import show
from deploy.cli.migrate_estate import Estate, open_sides, opened_target

if TYPE_CHECKING:
    from migration.status import Status


async def every() -> None:
    """Show every run."""
    from migration.status import status

    async with opened_target() as target:
        _show(await status(target))


async def one(estate: Estate) -> None:
    """Show one run, and what of its estate is not in the service."""
    from migration.status import status

    async with open_sides(estate) as sides:
        total = await sides.from_.count()
        with show.progress("comparing", total) as advance:
            said = await status(sides.target, sides.source, sides.journal.run.name, advance=advance)
    _show(said)


def _show(said: "Status") -> None:
    if show.as_json():
        show.answer(msgspec.to_builtins(said))
        return
    if not said.runs:
        show.line("nothing was moved yet; what can be: strongroom migrate sources")
        return
    show.table(
        ("run", "estate", "began", "how far"),
        (
            [
                each.run,
                each.estate,
                each.created.partition("T")[0],
                [stage if how.complete else f"{stage} in part" for stage, how in each.stages.items()],
            ]
            for each in said.runs
        ),
    )
    if said.holder is not None:
        holder = said.holder
        show.line(
            f"{holder.verb} of {holder.run} is under way: process {holder.pid} on {holder.host} since {holder.since}",
            style="yellow",
        )
    if said.reading_through:
        show.line(f"what has not moved is read from: {', '.join(said.reading_through)}")
    if said.estate is not None:
        waiting = said.estate
        show.line(f"of {waiting.items:,} items {waiting.waiting:,} are not in the service, {waiting.bad:,} cannot move")
        if waiting.next:
            show.line(f"next: {waiting.next}")

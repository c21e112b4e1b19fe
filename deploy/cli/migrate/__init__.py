"""``strongroom migrate``: what lies elsewhere moves in, with proof."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from strongroom.deploy.cli import completion, show
from strongroom.deploy.cli.asking import sure
from strongroom.deploy.cli.common import common_options, forms_apart
from strongroom.deploy.cli.migrate import lists
from strongroom.deploy.cli.migrate.source import (
    Sides,
    SourceSpec,
    counted_by_journal,
    finish,
    open_sides,
    run,
    source_options,
    spec_of,
    watched,
)
from strongroom.deploy.cli.words import Noun

if TYPE_CHECKING:
    from strongroom.migration.report import Report
    from strongroom.models.steps import Option, Step

C = TypeVar("C", bound=Callable[..., Any])

_VERBS = ("plan", "apply", "verify", "check", "scrub", "rollback", "status", "forget", "sources")
_POLICIES = ("stop", "keep", "replace", "newer")


class Verbs(Noun):
    """The verbs in the order of the work; a source without a verb is planned, which changes nothing."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs."""
        del ctx
        return list(_VERBS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the verb that *args* begin with, or ``plan`` where they begin with a source, or the name of a run."""
        from strongroom.migration.sources import SOURCES

        known = args[0] in SOURCES or args[0].rpartition("-")[0] in SOURCES
        return super().resolve_command(ctx, ["plan", *args] if known else args)


# A \b before a paragraph keeps its lines as they are.
@click.group(
    cls=Verbs,
    help="""Move in what lies elsewhere: plan, apply, verify; then scrub the source, or roll back.

    \b
    strongroom migrate commissaire etcd://127.0.0.1:2379
    strongroom migrate apply commissaire etcd://127.0.0.1:2379
    strongroom migrate verify commissaire etcd://127.0.0.1:2379

    The first shows what would move, as `plan` does, and changes nothing. After the first apply the name of the run will
    do in the place of SOURCE and PLACE; `status` lists the runs, and `sources` what can be moved from where.

    Exit codes: 0 all is well, 1 the command line is wrong, 2 something is left to do or failed, 3 the service is
    locked, 4 nothing was found, 5 both sides differ and you must decide or another migration is under way, 6 denied,
    130 interrupted.
    """,
)
def migrate() -> None:
    """Group the verbs."""


def _on_conflict(command: C) -> C:
    return click.option(
        "--on-conflict",
        type=click.Choice(_POLICIES),
        default="stop",
        show_default=True,
        help="Where the service holds another value: stop, keep that, replace it, or take what changed last.",
    )(command)


def _take_over(command: C) -> C:
    return click.option(
        "--take-over", is_flag=True, help="Take the place of a run on another machine that you know has ended."
    )(command)


@migrate.command()
@source_options
@_on_conflict
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Keep the plan, for: apply --plan FILE.")
@click.option("--list", "listed", is_flag=True, help="Show where each record would go, too.")
@common_options
def plan(*, words: tuple[str, ...], options: tuple[str, ...], on_conflict: str, out: Path | None, listed: bool) -> int:
    """Show what would move; change nothing.

    Both sides are read and compared: what would be created, what is there already, what differs, and what cannot move
    and why. With --list each record is shown by its name at the source, its name here, and its kind, never its value.
    With --out the marks of all items are kept in FILE, and a run is begun to keep their key.
    """
    with lists.Listing() if listed else nullcontext() as listing:
        report = run(_plan(spec_of(words, options), on_conflict, out, listing))
        if listing is not None:
            listing.show()
    return finish(report)


async def _plan(spec: SourceSpec, on_conflict: str, out: Path | None, listing: "lists.Listing | None") -> "Report":
    from strongroom.migration.compare import Policy
    from strongroom.migration.plan import PlanFile
    from strongroom.migration.plan import plan as make

    async with open_sides(spec, new=True) as sides:
        file = None
        if out is not None:
            async with sides.journal.held("plan"):
                await sides.journal.begin()  # the marks in the file are hashes under the key of a run
            with _writable(out):
                file = PlanFile(out, sides.journal.run.name)

        async def make_plan(advance: Callable[[int], object]) -> "Report":
            made = await make(
                sides.from_,
                sides.target,
                sides.journal,
                policy=Policy(on_conflict),
                advance=advance,
                out=file.add if file is not None else None,
                tell=listing.add if listing is not None else bool,
            )
            made.next = [_as_planned(step, on_conflict, out) for step in made.next]
            return made

        try:
            report = await watched("comparing", sides, make_plan)
            if file is not None:
                file.finish()
        except BaseException:
            if file is not None:
                file.abandon()
            raise
    return report


def _as_planned(step: "Step", on_conflict: str, out: Path | None) -> "Step":
    """Return *step* with what makes its apply the one that was planned."""
    if step.verb != "migrate apply":
        return step
    planned: dict[str, Option] = {} if out is None else {"plan": str(out.absolute())}
    return step.given(planned if on_conflict == "stop" else {**planned, "on_conflict": on_conflict})


@migrate.command()
@source_options
@_on_conflict
@click.option("--skip-bad", is_flag=True, help="Leave behind what cannot move; it is listed all the same.")
@click.option(
    "--plan", "plan_file", type=click.Path(path_type=Path), metavar="FILE", help="Move only what was planned."
)
@_take_over
@common_options
def apply(
    *,
    words: tuple[str, ...],
    options: tuple[str, ...],
    on_conflict: str,
    skip_bad: bool,
    plan_file: Path | None,
    take_over: bool,
) -> int:
    """Move it, with a proof of each record.

    Each record is read, saved, read back, compared, and journalled. Safe to interrupt, and to run again.
    """
    return run(_apply(spec_of(words, options), on_conflict, plan_file, skip_bad=skip_bad, take_over=take_over))


async def _apply(spec: SourceSpec, on_conflict: str, plan_file: Path | None, *, skip_bad: bool, take_over: bool) -> int:
    from strongroom.migration.apply import Apply
    from strongroom.migration.compare import Policy
    from strongroom.migration.disk_map import DiskMap
    from strongroom.migration.plan import read_plan

    async with open_sides(spec, new=True) as sides:
        with DiskMap() as planned:
            if plan_file is not None:
                read_plan(plan_file, sides.journal.run.name, planned)
            async with counted_by_journal(sides), sides.journal.held("apply", take_over=take_over):
                report = await watched(
                    "moving",
                    sides,
                    lambda advance: Apply(
                        sides.from_,
                        sides.target,
                        sides.journal,
                        policy=Policy(on_conflict),
                        skip_bad=skip_bad,
                        planned=planned if plan_file is not None else None,
                        advance=advance,
                    ).run(),
                )
    return finish(report)


@migrate.command()
@source_options
@click.option(
    "--report", "report_file", type=click.Path(path_type=Path), metavar="FILE", help="Keep the signed report."
)
@click.option("--skip-bad", is_flag=True, help="What cannot move may stay behind; it is listed all the same.")
@click.option("--skip-differing", is_flag=True, help="What the service holds otherwise may stay so; it is listed.")
@_take_over
@common_options
def verify(
    *,
    words: tuple[str, ...],
    options: tuple[str, ...],
    report_file: Path | None,
    skip_bad: bool,
    skip_differing: bool,
    take_over: bool,
) -> int:
    """Compare both sides completely, and sign a report of it.

    Every record is read again on both sides, whatever the journal says.
    """
    spec = spec_of(words, options)
    with _kept(report_file) as keep:
        report, document = run(_verify(spec, skip_bad=skip_bad, skip_differing=skip_differing, take_over=take_over))
        keep(document)
    return finish(report, more={name: document[name] for name in ("jws", "public_key")})


async def _verify(
    spec: SourceSpec, *, skip_bad: bool, skip_differing: bool, take_over: bool
) -> "tuple[Report, dict[str, Any]]":
    from strongroom.migration.signing import signed
    from strongroom.migration.verify import verify as compare

    async with open_sides(spec) as sides, sides.journal.held("verify", take_over=take_over):
        report = await watched(
            "comparing",
            sides,
            lambda advance: compare(
                sides.from_,
                sides.target,
                sides.journal,
                skip_bad=skip_bad,
                skip_differing=skip_differing,
                advance=advance,
            ),
        )
        return report, signed(report, sides.journal.run)


@migrate.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@common_options
def check(*, file: Path) -> int:
    """Show a report that was kept, if its signature holds.

    The report is that of `verify --report`; it must have been signed by its run, and be as it was signed.
    """
    report = run(_check(file.read_bytes()))
    report.next = []  # what was to be done then
    if not show.as_json():
        show.words(f"the signature holds: {report.run} signed this report, and nothing of it was changed since")
        show.line("")
    return finish(report, more={"signature": "holds"})


async def _check(text: bytes) -> "Report":
    import msgspec

    from strongroom.migration import signing
    from strongroom.migration.errors import Forged
    from strongroom.models.strict_json import UNREADABLE

    try:
        document = msgspec.json.decode(text, type=dict[str, Any])
        name = str(document["payload"]["run"])
    except (*UNREADABLE, KeyError, TypeError):
        raise Forged("this is not a signed report") from None
    async with open_sides(SourceSpec(None, "", {}, name), source_needed=False) as sides:
        return signing.check(document, signing.public_key(sides.journal.run))


@migrate.command()
@source_options
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--search-only", is_flag=True, help="Remove nothing; search again for what was removed.")
@click.option(
    "--superseded", is_flag=True, help="Remove, too, what was changed or removed in the service since; it is listed."
)
@_take_over
@common_options
def scrub(
    *,
    words: tuple[str, ...],
    options: tuple[str, ...],
    yes: bool,
    search_only: bool,
    superseded: bool,
    take_over: bool,
) -> int:
    """Remove from the source the secrets that have moved.

    Only what a verified apply moved, and only if it is still as it was moved; then the source's files are searched for
    what remains. `rollback` puts it back.
    """
    return run(
        _scrub(spec_of(words, options), yes=yes, search_only=search_only, superseded=superseded, take_over=take_over)
    )


async def _scrub(spec: SourceSpec, *, yes: bool, search_only: bool, superseded: bool, take_over: bool) -> int:
    from strongroom.migration.scrub import Scrub, check_verified

    async with open_sides(spec) as sides, sides.journal.held("scrub", take_over=take_over):
        if not search_only:
            check_verified(sides.journal)
            sure(yes, f"remove the secrets that have moved from {sides.journal.run.identity}", "nothing was removed")
        report = await watched(
            "scrubbing",
            sides,
            lambda advance: Scrub(sides.from_, sides.target, sides.journal, superseded=superseded, advance=advance).run(
                search_only=search_only
            ),
        )
    return finish(report)


@migrate.command()
@source_options
@click.option("--yes", is_flag=True, help="Do not ask.")
@_take_over
@common_options
def rollback(*, words: tuple[str, ...], options: tuple[str, ...], yes: bool, take_over: bool) -> int:
    """Put the source back as it was, and take the copies out.

    What was changed since, on either side, is left and told.
    """
    return run(_rollback(spec_of(words, options), yes=yes, take_over=take_over))


async def _rollback(spec: SourceSpec, *, yes: bool, take_over: bool) -> int:
    from strongroom.migration.rollback import Rollback

    async def act(sides: Sides) -> "Report":
        async with sides.journal.held("rollback", take_over=take_over):
            what = f"put {sides.journal.run.identity} back as it was, and take the copies out of the service"
            sure(yes, what, "nothing was put back, and nothing taken out")
            return await watched(
                "rolling back",
                sides,
                lambda advance: Rollback(sides.source, sides.target, sides.journal, advance=advance).run(),
                counted=False,  # it is not the source's items that are gone through
            )

    # The source is needed only if something of it was removed.
    async with open_sides(spec, source_needed=False) as sides:
        scrubbed = bool(await sides.journal.numbers("scrubbed"))
        report = None if scrubbed else await act(sides)
    if report is None:
        async with open_sides(spec) as sides:
            report = await act(sides)
    return finish(report)


@migrate.command()
@click.argument("run_name", metavar="RUN", shell_complete=completion.RUN)
@click.option("--yes", is_flag=True, help="Do not ask.")
@_take_over
@common_options
def forget(*, run_name: str, yes: bool, take_over: bool) -> None:
    """Remove the journal of a run, and with it the way back."""
    run(_forget(run_name, yes=yes, take_over=take_over))


async def _forget(run_name: str, *, yes: bool, take_over: bool) -> None:
    from strongroom.migration.status import loses

    async with (
        open_sides(SourceSpec(None, "", {}, run_name), source_needed=False) as sides,
        sides.journal.held("forget", take_over=take_over),
    ):
        lost = loses(sides.journal.run)
        what = f"forget how to undo {run_name}" + (f" ({lost})" if lost else "")
        sure(yes, what, "nothing was forgotten")
        await sides.journal.forget()
    show.done({"run": run_name, "forgotten": True}, f"the journal of {run_name} is gone")


@migrate.command()
@click.argument("words", nargs=-1, metavar="[SOURCE PLACE | RUN]", shell_complete=completion.source_or_run)
@click.option(
    "-o", "options", multiple=True, metavar="NAME=VALUE", callback=forms_apart, help="An option of the source."
)
@common_options
def status(*, words: tuple[str, ...], options: tuple[str, ...]) -> None:
    """Show the runs, or how much of one has not moved yet.

    Of one run its source is read, too: what is not in the service, and whether read_through is still needed.
    """
    from strongroom.deploy.cli.migrate import runs

    run(runs.one(spec_of(words, options)) if words else runs.every())


@migrate.command()
@common_options
def sources() -> None:
    """Show what can be moved from where, and its options."""
    from strongroom.migration.sources import SOURCES, options_of

    if show.as_json():
        show.answer(
            [
                {
                    "source": name,
                    "reads": kind.help,
                    "place": kind.place,
                    "options": {option: said._asdict() for option, said in options_of(name).items()},
                }
                for name, kind in SOURCES.items()
            ]
        )
        return
    for name, kind in SOURCES.items():
        show.line(f"{name} {kind.place}: {kind.help}", style="bold")
        show.fields({f"  -o {option}=": said.help for option, said in options_of(name).items()})


@contextmanager
def _writable(file: Path) -> Iterator[None]:
    """Tell of a file that cannot be written as of the command line's mistake.

    Raises:
        UsageError: it cannot.
    """
    try:
        yield
    except OSError as error:
        raise click.UsageError(f"{file} cannot be written: {error.strerror}") from None


@contextmanager
def _kept(file: Path | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Give what keeps a document in *file*; that it can be written is seen before the work, not after it.

    Raises:
        UsageError: it cannot.
    """
    if file is None:
        yield lambda _: None
        return
    import msgspec

    draft = file.with_name(f"{file.name}.part")
    with _writable(file):
        draft.touch()

    def keep(document: dict[str, Any]) -> None:
        with _writable(file):
            draft.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
            draft.replace(file)

    try:
        yield keep
    finally:
        draft.unlink(missing_ok=True)

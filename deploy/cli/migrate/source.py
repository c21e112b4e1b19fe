"""What the verbs of ``strongroom migrate`` share: the source that is meant, opened on both sides."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import click

from strongroom.deploy import steps
from strongroom.deploy.cli import show
from strongroom.deploy.cli.common import RETRIES, common, forms_apart, places
from strongroom.deploy.cli.completion import source_or_run
from strongroom.deploy.cli.interruption import CTRL_C, Interrupted, heeded
from strongroom.storage_service.traces import trace_of

if TYPE_CHECKING:
    from strongroom.migration.journal import Journal
    from strongroom.migration.report import Report
    from strongroom.migration.sources.base import Source
    from strongroom.migration.target import Target
    from strongroom.models.steps import Option, Step, Verb

C = TypeVar("C", bound=Callable[..., Any])
T = TypeVar("T")

_FILES: Final = re.compile(r"key|cert|cacert|socket|.*_(?:file|dir)")  # options of sources that name a file
_OF_A_SOURCE: Final = frozenset(
    f"migrate {verb}" for verb in ("plan", "apply", "verify", "scrub", "rollback", "forget")
)  # verbs that are told which
CALL: Final = 60.0  # seconds that one call may take, when the store is slow
SOON: Final = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """The source that was said: a source, its place and its options; or the name of a run, which knows them."""

    kind: str | None
    place: str
    options: dict[str, list[str]]
    run: str | None


@dataclass(frozen=True, slots=True)
class Sides:
    """Both sides, opened; *source* is None where a verb does without."""

    source: "Source | None"
    target: "Target"
    journal: "Journal"
    options: Mapping[str, Sequence[str]]  # of the source, that its run does not know yet

    @property
    def from_(self) -> "Source":
        """The source, where there must be one."""
        assert self.source is not None  # noqa: S101  # only `open_sides` without a source leaves it out
        return self.source

    def completed(self, steps: "Iterable[Step]") -> "list[Step]":
        """Return *steps* with what names the source, in those that need it."""
        return [step.given(self._named(step.verb)) if step.verb in _OF_A_SOURCE else step for step in steps]

    def _named(self, verb: str) -> "dict[str, Option]":
        """Return what names the source to *verb*: the run, once something is known of it."""
        run = self.journal.run
        if verb == "migrate forget":
            return {"run": run.name}
        begun = bool(run.stages)
        named: dict[str, Option] = {"run": run.name} if begun else {"source": run.kind, "place": run.place}
        options = self.options if begun else run.options
        said = [f"{name}={value}" for name, values in options.items() for value in values]
        return {**named, "option": said} if said else named


def source_options(command: C) -> C:
    """Give *command* what names a source."""
    command = click.option(
        "-o",
        "options",
        multiple=True,
        metavar="NAME=VALUE",
        callback=forms_apart,
        help="An option of the source: strongroom migrate sources",
    )(command)
    return click.argument("words", nargs=-1, metavar="SOURCE PLACE | RUN", shell_complete=source_or_run)(command)


def spec_of(words: tuple[str, ...], options: tuple[str, ...]) -> SourceSpec:
    """Return the source that was said; the run is to find its files from any directory.

    Raises:
        UsageError: none was, or an option has no value.
    """
    from strongroom.migration.sources import SOURCES

    said: dict[str, list[str]] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            # The option itself is not shown: what was to be its name may be a secret.
            raise click.UsageError("say -o NAME=VALUE; the options of each source: strongroom migrate sources")
        said.setdefault(name, []).append(_absolute(value) if _FILES.fullmatch(name) else value)
    match words:
        case (kind, place):
            return SourceSpec(kind, _absolute(place), said, None)
        case (kind,) if kind in SOURCES:
            raise click.UsageError(f"say where the source is: {kind} {SOURCES[kind].place}")
        case (run,):
            return SourceSpec(None, "", said, run)
    raise click.UsageError("say what is to be moved: SOURCE PLACE, or the name of a RUN")


def _absolute(place: str) -> str:
    """Return *place* as it is found from every directory, if it is a file."""
    path = Path(place)
    try:
        return str(path.absolute()) if path.exists() else place
    except OSError:  # too long for a path, or not ours to look at
        return place


def run(act: Coroutine[Any, Any, T]) -> T:
    """Carry *act* out, on the loop that the service runs on, too.

    Raises:
        Interrupted: somebody ended it.
    """
    try:
        import uvloop
    except ModuleNotFoundError:
        act.close()  # so that nothing is said of it: what to install is all that there is to say
        raise
    ended: list[int] = []

    async def quietly() -> T:
        asyncio.get_running_loop().set_exception_handler(_heard)
        with _ended_by_signals(ended):
            return await act

    try:
        return uvloop.run(quietly())
    except (asyncio.CancelledError, KeyboardInterrupt):
        said = "interrupted"
    except Interrupted as error:
        said = str(error)
    raise Interrupted(said, _again(), code=128 + ended[0] if ended else CTRL_C)


@contextmanager
def _ended_by_signals(ended: list[int]) -> Iterator[None]:
    """Let what a service manager or a closed terminal sends end the task as Ctrl-C does: orderly; note which it was."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def end(number: int) -> None:
        ended.append(number)
        if task is not None:
            task.cancel()

    endings = heeded()
    for number in endings:
        loop.add_signal_handler(number, end, number)
    try:
        yield
    finally:
        for number in endings:
            loop.remove_signal_handler(number)


def _again() -> "Step":
    """Return the command that was given, as a step: what goes on where it was interrupted."""
    from strongroom.models.steps import Step

    ctx = click.get_current_context()
    given: dict[str, Any] = {}
    for parameter in ctx.command.params:
        name, value = str(parameter.name), ctx.params.get(str(parameter.name))
        if not parameter.expose_value or name == "take_over" or value in (None, False, ()):
            continue
        if ctx.get_parameter_source(name) is not click.core.ParameterSource.COMMANDLINE:
            continue
        if name == "words":
            given |= dict(zip(("run",) if len(value) == 1 else ("source", "place"), map(_absolute, value), strict=True))
        elif name in ("run_name", "file"):
            given[name.removesuffix("_name")] = str(value.absolute() if isinstance(value, Path) else value)
        else:
            flag = parameter.opts[-1].lstrip("-").replace("-", "_")
            said: Any = value.absolute() if isinstance(value, Path) else value
            given["option" if name == "options" else flag] = (
                said if isinstance(said, bool) else list(said) if isinstance(said, tuple) else str(said)
            )
    verb = cast("Verb", f"migrate {ctx.info_name}")
    return Step("it is safe to run it again, and so it goes on", verb, given)


def _heard(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Tell where something broke that nobody waits for.

    Nothing of a socket that became ready for who was cancelled in that moment, as anyio's unix sockets can.
    """
    error = context.get("exception")
    if error is not None and not isinstance(error, asyncio.InvalidStateError):
        click.echo(f"strongroom: unexpected {trace_of(error)}", err=True)


@asynccontextmanager
async def opened_target() -> "AsyncIterator[Target]":
    """Open the service that was said."""
    from strongroom.migration.target import Target
    from strongroom.storage_service.client import AsyncStorageClient

    async with AsyncStorageClient.from_environment(places(), timeout=CALL, retries=RETRIES) as client:
        yield Target(client)


@asynccontextmanager
async def open_sides(spec: SourceSpec, *, source_needed: bool = True, new: bool = False) -> AsyncIterator[Sides]:
    """Open both sides.

    Args:
        spec: what was said.
        source_needed: open the source, too.
        new: there need be no run yet.

    Raises:
        UsageError: there is no such source, or its place or an option is not understood.
        SourceUnavailable, SourceRefused: the source cannot be opened.
        NoSuchRun: there is none, and there must be.
    """
    from strongroom.migration.errors import MigrationError, NoSuchRun
    from strongroom.migration.journal import LIST_RUNS, Journal, new_run, run_name
    from strongroom.migration.sources import open_source
    from strongroom.storage_service.errors import ConfigurationError

    async with opened_target() as target:
        source = None
        if spec.kind is not None:
            try:
                source = open_source(spec.kind, spec.place, spec.options)
            except ConfigurationError as error:
                raise click.UsageError(steps.line(str(error), error.next, common().lead)) from None
            name = run_name(spec.kind, source.identity)
        else:
            name = str(spec.run)
        journal = await Journal.find(target, name)
        if journal is None and (spec.kind is None or not new):
            raise NoSuchRun("there is no such run").advising(LIST_RUNS)
        if journal is None and source is not None:
            journal = Journal(target, new_run(str(spec.kind), spec.place, spec.options, source.identity))
        assert journal is not None  # noqa: S101  # a source was said, or the run was found
        head = journal.run
        if source is None and source_needed:
            source = open_source(head.kind, head.place, head.options | spec.options)
            if run_name(head.kind, source.identity) != head.name:
                raise ConfigurationError("with these options it is another source; say SOURCE PLACE in place of RUN")
        # What is said of the source once is remembered, from the next time on that the head is stored.
        news = {name: values for name, values in spec.options.items() if head.options.get(name) != values}
        head.options.update(news)
        sides = Sides(source, target, journal, news)
        try:
            if source is not None and source_needed:
                await source.open(journal.digest)
            yield sides
        except MigrationError as error:
            error.next = tuple(sides.completed(error.next))
            raise
        finally:
            if source is not None:
                await source.close()


async def watched(
    what: str, sides: Sides, act: "Callable[[Callable[[int], object]], Awaitable[Report]]", *, counted: bool = True
) -> "Report":
    """Carry *act* out with a progress bar, over the source's items if they are *counted*; complete what it advises."""
    total = await sides.source.count() if counted and sides.source is not None else None
    with counting(what, total, "items" if counted else "records and items") as count:
        report = await act(count)
    report.next = sides.completed(report.next)
    return report


@contextmanager
def counting(what: str, total: int | None, things: str = "items") -> Iterator[Callable[[int], None]]:
    """Show the progress of the block, which says how many *things* more are done.

    Raises:
        Interrupted: it was cancelled; the text says how far it came.
    """
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        advance(more)

    try:
        with show.progress(what, total) as advance:
            yield count
    except asyncio.CancelledError:
        raise _after(what, done, total, things) from None


@asynccontextmanager
async def counted_by_journal(sides: Sides) -> AsyncIterator[None]:
    """Let an interruption of an apply count what its journal knows to have moved, also in batches that broke off.

    The block holds the lock that guards what is written: behind it, nothing more is.

    Raises:
        Interrupted: it was interrupted.
    """
    try:
        yield
    except Interrupted as interrupted:
        done = await _moved(sides)
        if done is None:
            raise
        raise _after("moving", done, await sides.from_.count()) from interrupted


async def _moved(sides: Sides) -> int | None:
    """Return how many items have moved; None where that is not known soon, for somebody waits for the end."""
    from strongroom.migration.status import moved
    from strongroom.storage_service.errors import StrongroomError

    with suppress(TimeoutError, StrongroomError):
        async with asyncio.timeout(SOON):
            return await moved(sides.journal)
    return None


def _after(what: str, done: int, total: int | None, things: str = "items") -> Interrupted:
    far = f"{done:,} {things}" if total is None else f"{done:,} of {total:,} {things}"
    return Interrupted(f"interrupted while {what}, after {far}")


def finish(report: "Report", *, more: dict[str, Any] | None = None) -> int:
    """Print *report*, and return the exit code that it is."""
    from strongroom.deploy.cli.migrate import reports

    reports.report(report, more or {})
    return reports.code(report)

"""What the verbs of ``strongroom migrate`` share: the estate that is meant, opened on both sides."""

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from deploy.cli import show
from deploy.cli.common import places

if TYPE_CHECKING:
    from migration.journal import Journal
    from migration.report import Report
    from migration.sources.base import Source
    from migration.target import Target

C = TypeVar("C", bound=Callable[..., Any])
T = TypeVar("T")

CALL = 60.0  # seconds that one call may take, when the store is slow


@dataclass(frozen=True, slots=True)
class Estate:
    """The estate that was said: a source, its place and its options; or the name of a run, which knows them."""

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

    @property
    def from_(self) -> "Source":
        """The source, where there must be one."""
        assert self.source is not None  # noqa: S101  # only `open_sides` without a source leaves it out
        return self.source


def estate_options(command: C) -> C:
    """Give *command* what names an estate; it gets it as the keyword *estate*."""
    command = click.option(
        "-o", "options", multiple=True, metavar="NAME=VALUE", help="An option of the source: strongroom migrate sources"
    )(command)
    return click.argument("words", nargs=-1, metavar="SOURCE PLACE | RUN")(command)


def estate_of(words: tuple[str, ...], options: tuple[str, ...]) -> Estate:
    """Return the estate that was said.

    Raises:
        UsageError: none was, or an option has no value.
    """
    said: dict[str, list[str]] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise click.UsageError(f"-o {name}: say NAME=VALUE")
        said.setdefault(name, []).append(value)
    match words:
        case (kind, place):
            return Estate(kind, place, said, None)
        case (run,):
            return Estate(None, "", said, run)
    raise click.UsageError("say what is to be moved: SOURCE PLACE, or the name of a RUN")


def run(act: Coroutine[Any, Any, T]) -> T:
    """Carry *act* out, on the loop that the service runs on, too."""
    import uvloop

    return uvloop.run(act)


@asynccontextmanager
async def opened_target() -> "AsyncIterator[Target]":
    """Open the service that was said."""
    from migration.target import Target
    from storage_service.client import AsyncStorageClient

    async with AsyncStorageClient.from_environment(places(), timeout=CALL) as client:
        yield Target(client)


@asynccontextmanager
async def open_sides(estate: Estate, *, source_needed: bool = True, new: bool = False) -> AsyncIterator[Sides]:
    """Open both sides.

    Args:
        estate: what was said.
        source_needed: open the source, too.
        new: there need be no run yet.

    Raises:
        ConfigurationError, EstateUnavailable, EstateRefused: the source cannot be opened.
        NoSuchRun: there is none, and there must be.
    """
    from migration.errors import NoSuchRun
    from migration.journal import Journal, new_run, run_name
    from migration.sources import open_source
    from storage_service.errors import ConfigurationError

    async with opened_target() as target:
        source = None
        if estate.kind is not None:
            source = open_source(estate.kind, estate.place, estate.options)
            name = run_name(estate.kind, source.identity)
        else:
            name = str(estate.run)
        journal = await Journal.find(target, name)
        if journal is None and (estate.kind is None or not new):
            raise NoSuchRun("there is no such run; those that there are: strongroom migrate status")
        if journal is None and source is not None:
            journal = Journal(target, new_run(str(estate.kind), estate.place, estate.options, source.identity))
        assert journal is not None  # noqa: S101  # a source was said, or the run was found
        head = journal.run
        if source is None and source_needed:
            source = open_source(head.kind, head.place, head.options | estate.options)
            if run_name(head.kind, source.identity) != head.name:
                raise ConfigurationError("with these options it is another estate; say SOURCE PLACE in place of RUN")
        try:
            if source is not None and source_needed:
                await source.open(journal.digest)
            yield Sides(source, target, journal)
        finally:
            if source is not None:
                await source.close()


async def watched(what: str, sides: Sides, act: Callable[[Callable[[int], object]], Awaitable[T]]) -> T:
    """Carry *act* out with a progress bar over the source's items."""
    total = await sides.source.count() if sides.source is not None else None
    with show.progress(what, total) as advance:
        return await act(advance)


def finish(report: "Report", *, more: dict[str, Any] | None = None) -> int:
    """Print *report*, and return the exit code that it is."""
    from deploy.cli import migrate_show

    migrate_show.report(report, more or {})
    return migrate_show.code(report)

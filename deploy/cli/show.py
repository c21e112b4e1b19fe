"""How answers are printed: tables for people at a terminal, JSON for everything else."""

import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from strongroom.deploy.cli.common import common
from strongroom.deploy.steps import sentence

if TYPE_CHECKING:
    from strongroom.models.steps import Option, Verb

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def as_json() -> bool:
    """Whether this answer is for a program: --json was said, or nobody is at the other end."""
    return common().as_json or not sys.stdout.isatty()


def answer(data: Any) -> None:
    """Print *data* as JSON, one document on one line."""
    sys.stdout.write(json.dumps(data, ensure_ascii=False) + "\n")
    sys.stdout.flush()  # `up` goes on for long, and who reads its pipe waits for this line


def done(data: Any, text: str) -> None:
    """Print what came of a command: *data* for programs, *text* for people."""
    if as_json():
        answer(data)
    else:
        line(text)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], style: str = "") -> None:
    """Print rows under headings; *style* colours the rows."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    grid = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold")  # a value is never cut short
    for row in rows:
        grid.add_row(*map(_cell, row), style=style)
    _console().print(grid)


def fields(values: Mapping[str, object]) -> None:
    """Print one record, a field a line."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for name, value in values.items():
        grid.add_row(name, _cell(value))
    _console().print(grid)


def line(text: str, style: str = "") -> None:
    """Print one line for people."""
    _console().print(_cell(text), soft_wrap=True, style=style)


def words(text: str, style: str = "", indent: int = 0) -> None:
    """Print a text for people, broken between words where the terminal ends, each line indented by *indent*."""
    space = " " * indent
    wrapped = textwrap.fill(
        text,
        max(_console().width, indent + 20),
        initial_indent=space,
        subsequent_indent=space,
        break_long_words=False,
        break_on_hyphens=False,
    )
    for each in wrapped.splitlines():
        line(each, style)


def advice(reason: str, verb: "Verb", **options: "Option") -> str:
    """Return what is to be done next in words that end with the command for it."""
    from strongroom.models.steps import Step

    return sentence(Step(reason, verb, options), common().lead)


def fits(text: str) -> bool:
    """Whether *text* is no wider than the terminal."""
    return bool(_console().measure(_cell(text)).maximum <= _console().width)


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show how far long work is, at a terminal; the block says how much more is done. *total* may be unknown: None.

    What is shown goes to standard error: standard output is for what comes of it.
    """
    if common().as_json or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    class Rate(TextColumn):
        def render(self, task: Any) -> Any:
            speed = task.finished_speed or task.speed
            return _cell(f"{speed:,.0f}/s" if speed else "")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(""), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True, no_color=True if common().no_color else None)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda more: bar.advance(task, more)


def _console() -> Any:
    from rich.console import Console

    # Width and colour are the terminal's affair, NO_COLOR rich's own; highlighting would colour parts of names.
    return Console(highlight=False, no_color=True if common().no_color else None)


def _cell(value: object) -> Any:
    """Return *value* as text that a terminal takes for text, whatever is in it."""
    from rich.text import Text

    return Text(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", _plain(value)))


def _plain(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case dict():
            return " ".join(f"{name}={_plain(each)}" for name, each in value.items() if each is not None)
        case list() | tuple():
            return ", ".join(map(_plain, value))
    return str(value)

"""How answers are printed: for people, unless JSON or plain fields were asked for.

A pipe gets what a terminal gets, as a document: nothing is cut, wrapped, coloured or drawn over.
"""

import io
import json
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Final

from strongroom.deploy.cli.common import Form, common
from strongroom.deploy.steps import sentence

if TYPE_CHECKING:
    from strongroom.models.steps import Option, Verb

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_COMMAND = re.compile(r"(?<=: )(?:strongroom|systemctl)(?: (?:'[^']*'|[^\s;'])+)+")  # as `steps` writes it into a text
_USUAL: Final = 80  # columns, where a terminal does not say
_WIDE: Final = 100_000  # columns: wider than any table
_INDENT: Final = 4  # of a command below a text that leads to it


def as_json() -> bool:
    """Whether this answer is one JSON document."""
    return common().answers_as is Form.JSON


def as_raw() -> bool:
    """Whether this answer is plain fields, which a program takes apart at tabs."""
    return common().answers_as is Form.RAW


def answer(data: Any) -> None:
    """Print *data* as JSON, one document on one line."""
    sys.stdout.write(json.dumps(data, ensure_ascii=False) + "\n")
    sys.stdout.flush()  # `up` goes on for long, and who reads its pipe waits for this line


def done(data: Any, text: str) -> None:
    """Print what came of a command: *data* for programs, *text* for people."""
    if as_json():
        answer(data)
    else:
        words(text)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], style: str = "") -> None:
    """Print rows under headings; *style* colours the rows."""
    if as_raw():
        _raw(rows)
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    grid = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold")  # a value is never cut short
    for row in rows:
        grid.add_row(*map(_cell, row), style=style)
    _print(grid)


def fields(values: Mapping[str, object]) -> None:
    """Print one record, a field a line."""
    if as_raw():
        _raw(values.items())
        return
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for name, value in values.items():
        grid.add_row(name, _cell(value))
    _print(grid)


def line(text: str, style: str = "") -> None:
    """Print one line for people."""
    if sys.stdout.isatty():
        _console().print(_cell(text), soft_wrap=True, style=style)
    else:
        sys.stdout.write(f"{_clean(text)}\n")


def words(text: str, style: str = "", indent: int = 0) -> None:
    """Print a text for people, broken between words where the terminal ends, each line indented by *indent*."""
    for each in _lines(text, sys.stdout, indent):
        line(each, style)


def note(text: str) -> None:
    """Tell people something on standard error, broken between words where their terminal ends.

    There a command in it stands on a line of its own, whole, so that it can be copied.
    """
    for each in _lines(text, sys.stderr):
        sys.stderr.write(f"{each}\n")
    sys.stderr.flush()


def _lines(text: str, stream: IO[str], indent: int = 0) -> list[str]:
    """Return *text* as it stands on *stream*: as one line, or broken for a terminal."""
    space = " " * indent
    if not stream.isatty():
        return [space + text]
    width = max(_width(stream), indent + 20)
    if len(space + text) <= width:
        return [space + text]
    lines: list[str] = []
    begun = 0
    for found in _COMMAND.finditer(text):
        lines += _folded(text[begun : found.start()].strip(" ;"), width, space)
        lines.append(" " * (indent + _INDENT) + found.group())
        begun = found.end()
    return lines + _folded(text[begun:].lstrip(" ;"), width, space)


def _folded(text: str, width: int, space: str) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=space,
        subsequent_indent=space,
        break_long_words=False,
        break_on_hyphens=False,
    )


def grouped(label: str, groups: str) -> None:
    """Print a key, a fingerprint or a share behind its *label*, broken between its groups where the terminal ends."""
    hanging = " " * len(label)
    width = _width(sys.stdout) if sys.stdout.isatty() and not as_raw() else _WIDE
    wrapped = textwrap.wrap(
        label + groups, width, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False
    )
    for each in wrapped:
        line(each)


def advice(reason: str, verb: "Verb", **options: "Option") -> str:
    """Return what is to be done next in words that end with the command for it."""
    from strongroom.models.steps import Step

    return sentence(Step(reason, verb, options), common().lead)


def fits(text: str) -> bool:
    """Whether *text* is no wider than the terminal; a pipe has no width."""
    return not sys.stdout.isatty() or bool(_console().measure(_cell(text)).maximum <= _console().width)


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show how far long work is, at a terminal; the block says how much more is done. *total* may be unknown: None.

    What is shown goes to standard error: standard output is for what comes of it. Where that goes to another program,
    which may own the screen, nothing is shown.
    """
    if common().answers_as is not Form.TABLE or not sys.stderr.isatty() or not sys.stdout.isatty():
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


def _print(grid: Any) -> None:
    """Print to the terminal, or into a pipe as wide as it is and without a space at the end of a line."""
    if sys.stdout.isatty():
        _console().print(grid)
        return
    from rich.console import Console

    drawn = io.StringIO()
    Console(file=drawn, width=_WIDE, highlight=False, color_system=None, force_terminal=False).print(grid)
    lines = [each.rstrip(" ") for each in drawn.getvalue().splitlines()]
    sys.stdout.write("\n".join(lines).strip("\n") + "\n")


def _raw(rows: Iterable[Sequence[object]]) -> None:
    for row in rows:
        sys.stdout.write("\t".join(_clean(_plain(each)) for each in row) + "\n")


def _width(stream: IO[str]) -> int:
    """Return the columns of the terminal behind *stream*; COLUMNS says them, too, as to other programs."""
    said = os.environ.get("COLUMNS", "")
    if said.isdecimal() and int(said) > 0:
        return int(said)
    try:
        return os.get_terminal_size(stream.fileno()).columns or _USUAL
    except (OSError, ValueError):  # it is no terminal of the system's
        return _USUAL


def _console() -> Any:
    from rich.console import Console

    # Width and colour are the terminal's affair, NO_COLOR rich's own; highlighting would colour parts of names.
    return Console(highlight=False, no_color=True if common().no_color else None)


def _cell(value: object) -> Any:
    """Return *value* as text that a terminal takes for text, whatever is in it."""
    from rich.text import Text

    return Text(_clean(_plain(value)))


def _clean(text: str) -> str:
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


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

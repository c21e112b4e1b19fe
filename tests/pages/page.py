"""A page of the documentation as its readers follow it: what it tells them to type, and what it says they will see."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
LANGUAGES: Final = frozenset({"console", "python", "json", "toml", "yaml", "ini", "sh", "text"})
"""What a block of a page may be: `text` alone is neither run nor read by anything."""

_BLOCK: Final = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TYPED: Final = re.compile(r"^([A-Z]?)([$#]) (.*)$")


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a page.

    Attributes:
        line: where it stands.
        machine: whose it is, where a page tells of several: ``A`` in ``A$``.
        root: whether it is root's: behind ``#`` in place of ``$``.
        text: what is typed, over several lines where they end in a backslash.
        shown: the lines below it; ``…`` stands for anything.
    """

    line: int
    machine: str
    root: bool
    text: str
    shown: tuple[str, ...]


def blocks(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line, the language and the content of each block."""
    for block in _BLOCK.finditer(text):
        yield text.count("\n", 0, block.start(2)) + 1, block[1], block[2]


def commands(text: str) -> Iterator[Command]:
    """Yield the commands of the page's ``console`` blocks, in the order they stand."""
    for first, language, content in blocks(text):
        if language == "console":
            yield from _commands(first, content)


def programs(text: str) -> Iterator[Command]:
    """Yield each ``python`` block, as a command that runs it."""
    for line, language, content in blocks(text):
        if language == "python":
            yield Command(line, "", False, f"python - <<'PROGRAM'\n{content}PROGRAM", ())


def _commands(first: int, content: str) -> Iterator[Command]:
    typed: Command | None = None
    for number, line in enumerate(content.splitlines(), first):
        begun = _TYPED.match(line)
        if typed is not None and typed.text.endswith("\\"):
            typed = Command(typed.line, typed.machine, typed.root, f"{typed.text}\n{line}", ())
        elif begun is not None:
            if typed is not None:
                yield typed
            typed = Command(number, begun[1], begun[2] == "#", begun[3], ())
        else:
            assert typed is not None, f"line {number}: {line!r} is shown before anything is typed"
            typed = Command(typed.line, typed.machine, typed.root, typed.text, (*typed.shown, line))
    if typed is not None:
        yield typed


def is_shown(expected: Sequence[str], screen: str) -> bool:
    """Whether the lines stand on the screen, wherever it breaks them; ``…`` stands for anything."""
    parts = [re.escape(" ".join(part.split())) for part in "\n".join(expected).split("…")]
    return re.search(" ?.*? ?".join(parts), " ".join(screen.split())) is not None


def code_of(shown: Sequence[str]) -> int:
    """Return the exit code that the last line says, ``(exit code 4)``; 0 where none does."""
    said = re.fullmatch(r"\(exit code (\d+)\)", shown[-1]) if shown else None
    return int(said[1]) if said else 0

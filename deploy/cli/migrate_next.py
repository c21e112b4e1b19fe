"""What a text of the engine says to do next, as it can be typed: each command in it names the estate that is meant."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from strongroom.deploy.cli.common import common

if TYPE_CHECKING:
    from strongroom.migration.journal import Run

_PART: Final = r"""(?:'[^']*'|"[^"]*"|[^;'"])"""  # of a command line: what is quoted may be anything
_COMMAND: Final = re.compile(
    rf"strongroom migrate (?P<verb>plan|apply|verify|scrub|rollback|forget)(?! [^-])(?P<flags>(?: -{_PART}*)?)"
)
_STEP: Final = re.compile(rf"(?P<words>.*?): (?P<command>strongroom {_PART}+)(?:; |$)")


def estate_words(run: "Run", news: Mapping[str, Sequence[str]]) -> list[str]:
    """Return what names the estate of *run* on a command line: the run, once something is known of it.

    Args:
        run: the run, which may not have begun.
        news: options of the source that the run may not know yet.
    """
    words, options = ([run.name], news) if run.stages else ([run.kind, run.place], run.options)
    return words + [word for name, values in options.items() for value in values for word in ("-o", f"{name}={value}")]


def completed(text: str, estate: Sequence[str]) -> str:
    """Return *text* with *estate* in each command of it that needs one and has none, and leading to this service."""
    said = common()
    where = [("--home", said.home), ("--socket", said.socket)]
    before = " ".join(f" {flag} {shlex.quote(str(path))}" for flag, path in where if path is not None)

    def complete(match: re.Match[str]) -> str:
        words = estate[:1] if match["verb"] == "forget" else estate
        return f"strongroom{before} migrate {match['verb']} {shlex.join(words)}{match['flags']}"

    return _COMMAND.sub(complete, text)


def steps(text: str) -> Iterator[tuple[str, str]]:
    """Yield what to do next in words, and the command that does it: "" where none does."""
    end = 0
    for step in _STEP.finditer(text):
        yield step["words"], step["command"]
        end = step.end()
    if text[end:]:
        yield text[end:], ""

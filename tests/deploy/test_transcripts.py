"""The command as it is typed: each transcript is a file of commands, what they print, and the codes they end with.

A line that begins with ``$`` is a command for bash; below it stands what it prints on both outputs, and its code in
brackets where that is not 0. Of a pipe the code is that of the command. An ellipsis stands for whatever is there; a
line break at the end of all is not looked at.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.deploy.running import PATIENCE, ROOT, clean_environment, up

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))
PROGRAM = f'#!/bin/sh\nexec {sys.executable} -m strongroom.deploy.cli "$@"\n'


class Typed(NamedTuple):
    """One command of a transcript."""

    command: str
    printed: str
    code: str


def read(text: str) -> list[Typed]:
    """Return the commands of a transcript."""
    typed = []
    for each in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, printed = each.partition("\n")
        code = "0"
        if found := re.search(r"^\[(\d+|…)\]\n\Z", printed, re.MULTILINE):
            code, printed = found[1], printed[: found.start()]
        typed.append(Typed(command, printed, code))
    return typed


def is_as(expected: str, found: str) -> bool:
    """Whether *found* is what was *expected*, whatever stands for the ellipses."""
    return re.fullmatch(".*?".join(map(re.escape, expected.split("…"))), found, re.DOTALL) is not None


def test_a_transcript_is_read_as_it_is_written() -> None:
    """Commands, what they print and their codes are told apart, and an ellipsis is anything but something else."""
    assert read("$ a | b\nx\ny\n[4]\n$ c\n[1] is no code\n") == [
        Typed("a | b", "x\ny\n", "4"),
        Typed("c", "[1] is no code\n", "0"),
    ]
    assert is_as("a … c\n", "a bb c\n")
    assert not is_as("a … c\n", "a bb d\n")


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda path: path.stem)
def test_what_is_typed_is_answered_so(transcript: Path, short: Path) -> None:
    """Every command prints, in a pipe as elsewhere, what stands below it, and ends with the code that stands there."""
    programs = short / "bin"
    programs.mkdir()
    (programs / "strongroom").write_text(PROGRAM)
    (programs / "strongroom").chmod(0o755)
    with up(short / "home") as running:
        environ = clean_environment(STRONGROOM_HOME=str(running.home))
        environ |= {"PATH": f"{programs}:{environ['PATH']}", "TERM": "dumb"}
        wrong = []
        for typed in read(transcript.read_text()):
            # The code of a pipe is that of whichever command of ours is in it: the first that is not 0.
            line = f"set -o pipefail\n{typed.command}"
            done = subprocess.run(
                ["bash", "-c", line],
                cwd=ROOT,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=PATIENCE,
                text=True,
                check=False,
            )
            printed = done.stdout and done.stdout.removesuffix("\n") + "\n"
            if not is_as(typed.printed, printed) or not is_as(typed.code, str(done.returncode)):
                wrong.append(f"$ {typed.command}\n{done.stdout}[{done.returncode}]")
    assert not wrong, "\n".join(wrong)

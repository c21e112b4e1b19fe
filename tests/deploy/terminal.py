"""``strongroom key``, or another noun, at a terminal of its own, with somebody before it."""

import sys
from collections.abc import Sequence
from pathlib import Path

from tests.at_terminal import AtTerminal
from tests.deploy.running import ROOT, clean_environment

PROGRAM = (sys.executable, "-m", "strongroom.deploy.cli")


class Terminal(AtTerminal):
    """The command at a terminal of its own, and what stands on the screen."""

    def __init__(self, home: Path, *arguments: str, noun: str = "key", program: Sequence[str | Path] = PROGRAM) -> None:
        command = [*program, "--home", str(home), noun, *arguments]
        super().__init__(command, clean_environment(TERM="dumb", COLUMNS="400"), ROOT)

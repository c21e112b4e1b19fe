"""``strongroom key``, or another noun, at a terminal of its own, with somebody before it."""

import fcntl
import os
import select
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.deploy.running import PATIENCE, ROOT, clean_environment

PROGRAM = (sys.executable, "-m", "strongroom.deploy.cli")


class Terminal:
    """The command at a terminal of its own, and what stands on the screen."""

    def __init__(self, home: Path, *arguments: str, noun: str = "key", program: Sequence[str | Path] = PROGRAM) -> None:
        self._master, slave = os.openpty()
        self._process = subprocess.Popen(
            [*program, "--home", str(home), noun, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=ROOT,
            env=clean_environment(TERM="dumb", COLUMNS="400"),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  # so that it can be asked
        )
        os.close(slave)
        self.screen = ""
        self._seen = 0

    def sees(self, text: str) -> None:
        """Wait until *text* stands on the screen behind what was waited for before."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.screen[self._seen :]:
            assert self._more(deadline), self.screen
        self._seen = self.screen.index(text, self._seen) + len(text)

    def types(self, line: str) -> None:
        """Type a line."""
        os.write(self._master, line.encode() + b"\n")

    def interrupts(self) -> None:
        """Press Ctrl-C."""
        os.write(self._master, b"\x03")

    def ends(self) -> int:
        """Wait for the end, and return the exit code."""
        while self._more(time.monotonic() + PATIENCE):
            pass
        return self._process.wait(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._master)  # whoever still reads there gets SIGHUP
        self._process.wait(PATIENCE)

    def _more(self, deadline: float) -> bool:
        if not select.select([self._master], [], [], deadline - time.monotonic())[0]:
            return False
        try:
            read = os.read(self._master, 65536)
        except OSError:  # EIO: nobody has the other end open any more
            return False
        self.screen += read.decode().replace("\r\n", "\n")
        return bool(read)

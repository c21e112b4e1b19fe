"""A terminal of its own for a program, with somebody before it who reads and types."""

import fcntl
import os
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

PATIENCE: Final = 60.0  # seconds, for what takes one; only what is broken takes as long
_ROWS: Final = 50


class AtTerminal:
    """A program at a terminal of its own, and what stands on the screen."""

    def __init__(
        self, command: Sequence[str | Path], environ: Mapping[str, str], cwd: Path, *, columns: int = 400
    ) -> None:
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, columns, 0, 0))
        self._process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=cwd,
            env=environ,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  # so that it can be asked
        )
        os.close(slave)
        self.screen = ""
        self.seen = 0

    def sees(self, *texts: str, within: float = PATIENCE) -> str:
        """Wait until one of *texts* stands on the screen behind what was waited for before, and return which."""
        deadline = time.monotonic() + within
        while not (found := [text for text in texts if text in self.screen[self.seen :]]):
            assert self._more(deadline), f"{texts} is not on the screen:\n{self.screen}"
        first = min(found, key=lambda text: self.screen.index(text, self.seen))
        self.seen = self.screen.index(first, self.seen) + len(first)
        return first

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
        os.close(self._master)  # who still reads there gets SIGHUP
        self._process.wait(PATIENCE)

    def _more(self, deadline: float) -> bool:
        if not select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return False
        try:
            read = os.read(self._master, 65536)
        except OSError:  # EIO: nobody has the other end open any more
            return False
        self.screen += read.decode(errors="replace").replace("\r\n", "\n")
        return bool(read)

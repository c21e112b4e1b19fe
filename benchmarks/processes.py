"""Start programs, wait until they answer, weigh them, and stop them by their ids, whatever happens in between."""

import math
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import httpx

PATIENCE = 60.0  # seconds until a program must answer, or must have ended


class NotReadyError(Exception):
    """A program ended, or did not answer in time; the text holds the end of what it wrote."""


class Program:
    """One started program with all its children; *cwd* is where it runs, if not here."""

    def __init__(
        self, command: Sequence[str], log: Path, environ: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self._log = log
        self.started = time.perf_counter()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environ or {})},
                cwd=cwd,
            )

    def wait_until(self, ready: Callable[[], bool]) -> float:
        """Return the seconds from the start until *ready* said yes.

        Raises:
            NotReadyError: the program ended, or it took longer than `PATIENCE`.
        """
        while not _holds(ready):
            if self._process.poll() is not None:
                raise NotReadyError(f"ended with {self._process.returncode}: {self._tail()}")
            if time.perf_counter() - self.started > PATIENCE:
                raise NotReadyError(f"no answer in {PATIENCE:.0f} s: {self._tail()}")
            time.sleep(0.005)
        return time.perf_counter() - self.started

    def memory(self) -> float:
        """Return the MiB that the program and its children hold: the sum of their proportional set sizes.

        Not a number where one of them is closed to us: those that hold keys are, to all but root.
        """
        kilobytes = 0
        for pid in _family(self._process.pid):
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except PermissionError:
                return math.nan
            kilobytes += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        return kilobytes / 1024

    def worked(self) -> float:
        """Return the seconds of processor time that the program and its living children have taken."""
        ticks = 0
        for pid in _family(self._process.pid):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])  # proc(5): utime and stime, counted from the state
        return ticks / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """End the program, and whatever of its children outlives it."""
        children = list(_family(self._process.pid))[1:]
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]


def _holds(ready: Callable[[], bool]) -> bool:
    try:
        return ready()
    except (httpx.TransportError, OSError):
        return False


def _family(pid: int) -> Iterator[int]:
    """Yield *pid* and the processes below it."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from _family(int(child))


def free_port() -> int:
    """Return a TCP port that nothing listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port

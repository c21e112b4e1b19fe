"""Programs that the examples are run with, from the machine or from where ``make test-tools`` puts them."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
READY_WITHIN: Final = 20.0  # seconds, also on a busy machine


def program(name: str) -> str:
    """Return the path of the program *name*."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), str(ROOT / ".tools/bin")]))
    if found is None:
        raise RuntimeError(f"no {name}: make test-tools gets it")
    return found


@contextmanager
def running(command: Sequence[str | Path], log: Path, ready: Callable[[], bool]) -> Iterator[None]:
    """Run *command* for as long as the block lasts, which begins when *ready* says so."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        until = time.monotonic() + READY_WITHIN
        while not ready():
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{command[0]} does not serve: {log.read_text()[-2000:]}")
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait(READY_WITHIN)


def listens(port: int) -> bool:
    """Whether something accepts connections at *port* of loopback."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True

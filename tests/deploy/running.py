"""The command as users meet it: run in a process of its own, or in this one with the streams that a test gives it."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from strongroom.deploy import cli

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0  # seconds, for what takes one; only what is broken takes as long
ENDED_WITHIN = 60.0  # seconds
PATIENT = {"STRONGROOM_TIMEOUT": "300"}  # requests under way are given longer than a test waits for an end


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, which is one document on one line."""
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)


def clean_environment(**more: str) -> dict[str, str]:
    """Return this environment without what would lead the command anywhere."""
    # PYTHONUNBUFFERED would hide a line that is written and not flushed; most users do not have it.
    kept = {k: v for k, v in os.environ.items() if not k.startswith("STRONGROOM_") and k != "PYTHONUNBUFFERED"}
    return kept | {"PYTHONPATH": str(ROOT), "HOME": "/nonexistent"} | more


class _Stream(io.TextIOWrapper):
    """A text stream in memory that may pass for a terminal."""

    def __init__(self, content: bytes = b"", *, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(content), encoding="utf-8", write_through=True)
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def written(self) -> str:
        buffer = self.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode(errors="surrogateescape")


@contextmanager
def _environment(environ: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def strongroom(
    *arguments: object, stdin: bytes = b"", terminal: bool = False, environ: Mapping[str, str] | None = None
) -> Done:
    """Run the command in this process and return how it ended.

    Args:
        arguments: its command line, without its name.
        stdin: what it reads.
        terminal: whether its output is a terminal.
        environ: its environment; None: `clean_environment`.
    """
    before = sys.stdin, sys.stdout, sys.stderr
    streams = _Stream(stdin), _Stream(terminal=terminal), _Stream(terminal=terminal)
    sys.stdin, sys.stdout, sys.stderr = streams
    try:
        with _environment(clean_environment() if environ is None else environ):
            code = cli.run([str(argument) for argument in arguments])
    finally:
        sys.stdin, sys.stdout, sys.stderr = before
    return Done(code, streams[1].written(), streams[2].written())


def spawn(
    *arguments: object, environ: Mapping[str, str] | None = None, prefix: Sequence[str] = (), **options: Any
) -> "subprocess.Popen[str]":
    """Start the command in a process of its own, by way of the command *prefix*."""
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "strongroom.deploy.cli", *map(str, arguments)],
        env=dict(clean_environment() if environ is None else environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finished(process: "subprocess.Popen[str]", within: float = PATIENCE) -> Done:
    """Return how *process* ended; one that goes on is ended with its children, so that no later test meets it."""
    try:
        out, err = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        for each in (process.pid, *descendants(process.pid)):
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        process.communicate()
        raise
    return Done(process.returncode, out, err)


def descendants(pid: int) -> list[int]:
    """Return the processes that descend from *pid*, children before grandchildren."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return children + [each for child in children for each in descendants(child)]


def alive(pid: int) -> bool:
    """Whether *pid* is a process that has not ended; one that waits to be buried has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def eventually(holds: Any) -> None:
    """Return once *holds()* is true; asked again and again, because nobody tells.

    Raises:
        AssertionError: it was not, for as long as patience lasts.
    """
    pause = threading.Event()
    for _ in range(int(PATIENCE / 0.02)):
        with suppress(OSError):
            if holds():
                return
        pause.wait(0.02)
    raise AssertionError("it never came to be")


@dataclass
class Up:
    """A running ``strongroom up``."""

    process: "subprocess.Popen[str]"
    said: dict[str, Any] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        """Where it lives."""
        return Path(self.said["home"])

    @property
    def url(self) -> str:
        """Where its proxy listens."""
        return str(self.said["url"])

    @property
    def socket(self) -> Path:
        """Where its service listens."""
        return Path(self.said["socket"])

    def family(self) -> list[int]:
        """Every process of it: the parent, the two gunicorns (service, proxy), their workers."""
        return [self.process.pid, *descendants(self.process.pid)]

    def gunicorn(self, role: str) -> int:
        """Return the process id of one of the two gunicorns."""
        return descendants(self.process.pid)[{"storage": 0, "proxy": 1}[role]]

    def end(self, number: signal.Signals = signal.SIGTERM) -> Done:
        """Send a signal, and return how it ended."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> Done:
        """Wait for the end, and return it."""
        out, err = self.process.communicate(timeout=ENDED_WITHIN)
        return Done(self.process.returncode, out, err)


@contextmanager
def up(home: Path, *arguments: object, environ: Mapping[str, str] | None = None, **options: Any) -> Iterator[Up]:
    """Run ``strongroom up`` on *home* and a free port; give it out when it says that it is ready, end it after."""
    one = () if "--workers" in arguments else ("--workers", "1")  # so that a test can tell which one did what
    process = spawn(
        "up", "--home", home, "--listen", "127.0.0.1:0", "--json", *one, *arguments, environ=environ, **options
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            assert process.stderr is not None
            raise AssertionError(f"up did not start: {process.stderr.read()}")
        yield Up(process, json.loads(line))
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=PATIENCE)

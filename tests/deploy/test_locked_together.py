"""A lock and an unlock reach every worker, those that come later too, however the service was started."""

import os
import signal
import sys
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

from strongroom.deploy.home import Home
from tests.deploy.running import PATIENCE, ROOT, clean_environment, descendants, eventually, strongroom

GUNICORN = ROOT / "deploy/serving/gunicorn"
STARTED = {
    "by the command": ["strongroom.deploy.cli", "serve", "storage"],
    "by gunicorn, from a file that it runs anew": ["gunicorn", "-c", f"{GUNICORN}/storage_service.py"],
}
ASKED = 12  # times, on connections of their own, so that both workers answer


def key(home: Path, verb: str) -> None:
    assert strongroom("--home", home, "key", verb).code == 0


def states(home: Path) -> set[str]:
    """Return the states that the workers say they are in."""
    return {strongroom("--home", home, "--json", "status").json["state"] for _ in range(ASKED)}


def replaced(parent: int, number: signal.Signals, *told: int) -> None:
    """Send a signal, and return when the parent has two workers, none of them one that it had."""
    before = descendants(parent)
    for pid in told or before:
        os.kill(pid, number)
    eventually(lambda: len(descendants(parent)) == 2 and not set(before) & set(descendants(parent)))


@pytest.mark.parametrize("how", STARTED)
def test_workers_are_locked_and_unlocked_together(home: Path, how: str) -> None:
    """One worker is asked, both obey, and so do those that take their places: after a kill, and after a SIGHUP."""
    Home(home).prepare()
    Home(home).furnish()
    environ = clean_environment(STRONGROOM_HOME=str(home))
    with Popen([sys.executable, "-m", *STARTED[how]], cwd=ROOT, env=environ, stderr=PIPE, text=True) as service:
        try:
            eventually(lambda: strongroom("--home", home, "status").code == 0 and len(descendants(service.pid)) == 2)
            assert states(home) == {"unlocked"}

            key(home, "lock")
            assert states(home) == {"locked"}
            replaced(service.pid, signal.SIGKILL)
            assert states(home) == {"locked"}
            replaced(service.pid, signal.SIGHUP, service.pid)
            assert states(home) == {"locked"}

            key(home, "unlock")
            assert states(home) == {"unlocked"}
            replaced(service.pid, signal.SIGKILL)
            assert states(home) == {"unlocked"}
        finally:
            service.terminate()
            service.communicate(timeout=PATIENCE)

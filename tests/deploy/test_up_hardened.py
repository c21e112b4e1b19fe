"""``strongroom up`` as a user without root's rights: all its processes are closed to that user's others."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest

from tests import another_user
from tests.deploy.running import Up, alive, descendants, eventually, strongroom, up


def raise_core_limit() -> None:
    """Let this process write cores, as far as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    most = resource.RLIM_INFINITY if os.geteuid() == 0 else hard
    resource.setrlimit(resource.RLIMIT_CORE, (most, most))


@pytest.fixture
def running(short: Path) -> Iterator[Up]:
    """A service of a user of its own, with two workers, where cores could be written."""
    os.chown(short, another_user.user(), -1)
    options: dict[str, Any] = {"prefix": another_user.command(), "preexec_fn": raise_core_limit}
    with up(short / "home", "--workers", "2", **options) as service:
        eventually(lambda: len(storage(service)) == 3)  # gunicorn starts its workers in turn
        yield service


def storage(service: Up) -> list[int]:
    """Return the processes of the storage service: its gunicorn and the workers."""
    gunicorn = service.gunicorn("storage")
    return [gunicorn, *descendants(gunicorn)]


def everybody(service: Up) -> list[int]:
    """Return all processes: the parent, both gunicorns, and the workers."""
    return [service.process.pid, *descendants(service.process.pid)]


def limit(pid: int) -> list[str]:
    """Return the soft and the hard limit of the size of a core."""
    line = next(line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if line.startswith("Max core"))
    return line.split()[4:6]


def closed(service: Up) -> bool:
    """Whether the storage service is complete; whoever is there of all processes, that user can look into nobody."""
    looks = another_user.look_into(*everybody(service))
    assert set(looks.values()) == {(False, False)}
    for pid in looks:
        with suppress(FileNotFoundError):  # it has ended meanwhile
            assert limit(pid) == ["0", "0"]
    return len(storage(service)) == 3 and len(looks) >= 6


def test_every_process_is_closed(running: Up) -> None:
    """No debugger of the same user gets in, and no core is written: parent, gunicorns, workers, the proxy's as well.

    A worker that takes the place of a killed one, and all that come with a SIGHUP, are as closed.
    """
    eventually(lambda: closed(running))

    gunicorn, *workers = storage(running)
    os.kill(workers[0], signal.SIGKILL)
    eventually(lambda: not alive(workers[0]) and closed(running))
    workers = storage(running)[1:]
    os.kill(gunicorn, signal.SIGHUP)
    eventually(lambda: not any(alive(pid) for pid in workers) and closed(running))


# Runs the command, and ends where the page with the root key would be made: with what a look from outside finds.
BEFORE_THE_PAGE: Final = """
import ctypes, os, sys
from strongroom.storage_service.keyring import shared_root

def instead(_):
    os.write(2, b"dumpable %d" % ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
    os._exit(1)

shared_root.SharedRoot.__init__ = instead
if sys.argv[1] == "gunicorn":
    from gunicorn.app.wsgiapp import run
    sys.argv[1:] = ["-c", "python:strongroom.deploy.serving.gunicorn.storage_service"]
    run()
else:
    from strongroom.deploy.cli import main
    main()
"""


@pytest.mark.parametrize("way", ["up", "serve", "gunicorn"])
def test_there_is_no_page_before_the_process_is_closed(short: Path, way: str) -> None:
    """However the service is started, the process is closed when it makes what the root key will lie in."""
    home = short / "home"
    words = {"up": ["up", "--listen", "127.0.0.1:0"], "serve": ["serve", "storage"], "gunicorn": ["gunicorn"]}[way]
    settings = {"STRONGROOM_HOME": str(home), "STRONGROOM_MAKEDIRS": "true", "STRONGROOM_API_ID": "own"}
    done = subprocess.run(
        [sys.executable, "-c", BEFORE_THE_PAGE, *words],
        env={**os.environ, **settings, "STRONGROOM_API_KEY": "k" * 43, "PYTHONPATH": str(another_user.ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert "dumpable 0" in done.stderr


def test_it_serves(running: Up) -> None:
    """Closed as it is, it stores, gives out, and ends like any other, with no word but that."""
    put = strongroom("--home", running.home, "secret", "put", "--parents", "closed/one", stdin=b"a value")
    got = strongroom("--home", running.home, "secret", "get", "closed/one")

    assert (put.code, got.code, got.out) == (0, 0, "a value")
    done = running.end()
    assert (done.code, done.err.count("\n"), "SIGTERM: the proxy ends" in done.err) == (0, 1, True), done


def test_the_roots_page_stays_in_memory(running: Up) -> None:
    """The process that forks the workers keeps one page, the one that they share, out of swap."""
    status = Path(f"/proc/{running.gunicorn('storage')}/status").read_text()

    assert status.partition("VmLck:")[2].split()[:2] == [str(resource.getpagesize() // 1024), "kB"]

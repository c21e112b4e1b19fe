"""``strongroom up`` as a user without root's rights: the processes that hold keys are closed to that user's others."""

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

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
    options = {"prefix": another_user.command(), "preexec_fn": raise_core_limit}
    with up(short / "home", "--workers", "2", **options) as service:
        eventually(lambda: len(storage(service)) == 3)  # gunicorn starts its workers in turn
        yield service


def storage(service: Up) -> list[int]:
    """Return the processes of the storage service: its gunicorn and the workers."""
    gunicorn = service.gunicorn("storage")
    return [gunicorn, *descendants(gunicorn)]


def limit(pid: int) -> list[str]:
    """Return the soft and the hard limit of the size of a core."""
    line = next(line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if line.startswith("Max core"))
    return line.split()[4:6]


def closed(service: Up) -> bool:
    """Whether the storage service is complete; whoever is there of it, that user can look into nobody."""
    looks = another_user.look_into(*storage(service))
    assert set(looks.values()) == {(False, False)}
    assert all(limit(pid) == ["0", "0"] for pid in looks)
    return len(looks) == 3


def test_who_holds_keys_is_closed(running: Up) -> None:
    """No debugger of the same user gets in, and no core is written; the parent, which holds no key, is like any other.

    A worker that takes the place of a killed one, and all that come with a SIGHUP, are as closed.
    """
    _, read = another_user.look_into(running.process.pid)[running.process.pid]
    assert read
    eventually(lambda: closed(running))

    gunicorn, *workers = storage(running)
    os.kill(workers[0], signal.SIGKILL)
    eventually(lambda: not alive(workers[0]) and closed(running))
    workers = storage(running)[1:]
    os.kill(gunicorn, signal.SIGHUP)
    eventually(lambda: not any(alive(pid) for pid in workers) and closed(running))


def test_it_serves(running: Up) -> None:
    """Closed as it is, it stores, gives out, and ends like any other, without a word."""
    put = strongroom("--home", running.home, "secret", "put", "--parents", "closed/one", stdin=b"a value")
    got = strongroom("--home", running.home, "secret", "get", "closed/one")

    assert (put.code, got.code, got.out) == (0, 0, "a value")
    done = running.end()
    assert (done.code, done.err) == (0, "")


def test_the_roots_page_stays_in_memory(running: Up) -> None:
    """The process that forks the workers keeps one page, the one that they share, out of swap."""
    status = Path(f"/proc/{running.gunicorn('storage')}/status").read_text()

    assert status.partition("VmLck:")[2].split()[:2] == [str(resource.getpagesize() // 1024), "kB"]

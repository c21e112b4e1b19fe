"""What a process that holds keys asks of the kernel, seen from itself and from another process of its user."""

import ctypes
import faulthandler
import logging
import mmap
import os
import resource
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any, Final

import pytest

from strongroom.storage_service import hardening
from strongroom.storage_service.hardening import Traced, harden, prctl
from tests import another_user
from tests.forking import in_child

PR_GET_DUMPABLE: Final = 3
_PTRACE_TRACEME: Final = 0  # the process that forked this one becomes its debugger (ptrace(2))
DUMPABLE: Final = f"import ctypes; print(ctypes.CDLL(None).prctl({PR_GET_DUMPABLE}, 0, 0, 0, 0))"
PROGRAM: Final = """
import sys
from strongroom.storage_service.hardening import harden
if sys.argv[1] == "hardened":
    harden()
print("ready", flush=True)
sys.stdin.readline()
"""


def dumpable() -> int:
    return ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0)


def warnings_of(act: Any) -> list[str]:
    """Return what *act* makes the module warn of."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("strongroom.storage_service.hardening")
    logger.addHandler(handler)
    act()
    logger.removeHandler(handler)
    return said


def test_a_hardened_process_leaves_no_core() -> None:
    """It is not dumpable, it may not write a core, nor raise that limit again; and there is nothing to warn of."""
    said, held, limits = in_child(lambda: (warnings_of(harden), dumpable(), resource.getrlimit(resource.RLIMIT_CORE)))

    assert (said, held, limits) == ([], 0, [0, 0])


def test_a_fork_inherits_it_and_an_exec_does_not() -> None:
    """A worker is born as closed as its master; a program that it executes begins open, but still writes no core."""

    def act() -> object:
        harden()
        executed = subprocess.run([sys.executable, "-c", DUMPABLE], capture_output=True, text=True, check=True)
        return in_child(dumpable), int(executed.stdout)

    assert in_child(act) == [0, 1]


@pytest.mark.parametrize(("how", "can"), [("plain", True), ("hardened", False)])
def test_others_of_the_same_user_cannot_look_in(how: str, can: bool) -> None:
    """What any process of a user can do to another of the same, it cannot do to a hardened one."""
    process = subprocess.Popen(
        another_user.command(sys.executable, "-c", PROGRAM, how),
        env={**os.environ, "PYTHONPATH": str(another_user.ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"

    attached, read = another_user.look_into(process.pid)[process.pid]

    process.communicate("\n")
    assert read is can
    assert can or not attached  # whether one may attach to an open one is said by the machine's Yama, too


def test_under_a_debugger_nothing_is_served() -> None:
    """Who was attached before the process was closed would stay, and follow every fork: that ends the start."""

    def act() -> object:
        assert ctypes.CDLL(None).ptrace(_PTRACE_TRACEME, 0, None, None) == 0
        try:
            harden()
        except Traced as error:
            return str(os.getppid()) in str(error)
        return False

    assert in_child(act) is True


def test_what_cannot_be_had_is_told() -> None:
    """A kernel that refuses one thing is told of in a warning, and asked for the others all the same."""

    def refuse() -> None:
        raise PermissionError(1, "Operation not permitted")

    def act() -> object:
        hardening._refuse_debuggers = refuse
        return warnings_of(harden), resource.getrlimit(resource.RLIMIT_CORE)

    said, limits = in_child(act)

    assert said == ["memory stays open to debuggers of the same user: Operation not permitted"]
    assert limits == [0, 0]


def test_a_refusal_of_the_kernel_is_an_error() -> None:
    """There is no such thing to set: EINVAL."""
    with pytest.raises(OSError, match="Invalid argument"):
        prctl(-1, 0)


def test_memory_is_kept_where_it_may_be() -> None:
    """A mapping is locked up to the limit, and beyond it told of in a warning."""

    def act() -> object:
        if os.geteuid() == 0:
            os.setresuid(another_user.NOBODY, another_user.NOBODY, another_user.NOBODY)  # root has no limit
        pages = [mmap.mmap(-1, mmap.PAGESIZE) for _ in range(2)]
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (mmap.PAGESIZE, mmap.PAGESIZE))
        return [warnings_of(lambda page=page: hardening.keep_in_memory(page)) for page in pages]

    assert in_child(act) == [[], ["the root key's page can be swapped out (RLIMIT_MEMLOCK): Cannot allocate memory"]]


def test_tracebacks_name_places_alone(tmp_path: Path) -> None:
    """Neither the traceback of an error nor faulthandler's shows the value of a local variable."""

    def fail(local: bytes) -> None:
        with (tmp_path / "dump").open("w") as dump:
            faulthandler.dump_traceback(dump)
        raise ValueError(len(local))

    canary = bytes(range(65, 91))
    with pytest.raises(ValueError, match="26") as caught:
        fail(canary)
    told = "".join(traceback.format_exception(caught.value)) + (tmp_path / "dump").read_text()

    assert told.count("in fail") == 2
    assert canary.decode() not in told

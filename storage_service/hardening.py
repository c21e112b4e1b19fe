"""What a process with keys or secrets in it asks of the kernel: no core dump, no look into its memory, no swap.

CPython copies what it computes with, and wipes nothing that it drops. So keys are not hunted through the heap: the
whole process is closed to others, and one page alone (`strongroom.storage_service.keyring.shared_root`) is kept out of
swap and wiped. Root is trusted: whoever has CAP_SYS_PTRACE sees everything. Tracebacks and faulthandler name places,
never values.
"""

import ctypes
import logging
import mmap
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Final

from strongroom.storage_service.errors import StartupError

PR_SET_PDEATHSIG: Final = 1  # <linux/prctl.h>
PR_SET_DUMPABLE: Final = 4
PR_SET_CHILD_SUBREAPER: Final = 36
_NOT_DUMPABLE: Final = 0  # SUID_DUMP_DISABLE

log = logging.getLogger(__name__)


class Traced(StartupError):
    """A debugger is attached to the process that is to hold keys or secrets."""


def harden() -> None:
    """Close this process to debuggers of its own user and to core dumps; what cannot be had is logged as a warning.

    A process that is not dumpable cannot be attached to, its ``/proc/<pid>/mem``, ``maps``, ``environ`` and ``fd`` are
    root's, and no core is written, nor piped to a program that would ignore the limit (prctl(2), ptrace(2), core(5)).
    All of it is inherited over a fork. An exec makes a process dumpable again and a change of user does what
    ``fs.suid_dumpable`` says, so this is called anew after either; and as the first act of a command that serves, for
    who looks in before that keeps what he has opened.

    Raises:
        Traced: a debugger is attached already. It would stay, and follow every fork.
    """
    _attempt("memory stays open to debuggers of the same user", _refuse_debuggers)
    _attempt("the limit on core dumps stays as it is", _refuse_core_dumps)
    if tracer := _tracer():
        raise Traced(f"process {tracer} traces this one, and would see every key and secret; start it without that")


def keep_in_memory(mapping: mmap.mmap) -> None:
    """Keep *mapping* out of swap (mlock(2)) and out of core dumps; what cannot be had is logged as a warning.

    A fork takes over the latter alone. That is enough for shared memory: it is the page that is held, not one
    process' view of it, for as long as the process that called this has it mapped.
    """
    _attempt("the root key's page can be swapped out (RLIMIT_MEMLOCK)", lambda: _mlock(mapping))
    _attempt("the root key's page is part of core dumps", lambda: mapping.madvise(mmap.MADV_DONTDUMP))


def prctl(option: int, value: int) -> None:
    """Set one property of this process (prctl(2)).

    Raises:
        OSError: the kernel refuses.
    """
    _check(_libc().prctl(option, ctypes.c_ulong(value), 0, 0, 0))


def _refuse_debuggers() -> None:
    prctl(PR_SET_DUMPABLE, _NOT_DUMPABLE)


def _refuse_core_dumps() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _tracer() -> int:
    """Return the process that traces this one; 0 for none, or where nothing tells."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("TracerPid:")), 0)


def _mlock(mapping: mmap.mmap) -> None:
    start = ctypes.c_char.from_buffer(mapping)
    _check(_libc().mlock(ctypes.byref(start), ctypes.c_size_t(len(mapping))))


def _attempt(otherwise: str, act: Callable[[], None]) -> None:
    try:
        act()
    except (OSError, ValueError) as error:
        log.warning("%s: %s", otherwise, error.strerror if isinstance(error, OSError) else error)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

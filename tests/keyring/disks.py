"""Disks that fail, or end the process, at the call that a test names; otherwise they are the operating system's."""

import errno
import os
import signal
from collections.abc import Callable
from enum import Enum, auto
from typing import Any


class Fault(Enum):
    """One way for a call to fail."""

    BEFORE = auto()
    """It is not done, and says so."""
    AFTER = auto()
    """It is done, and says that it is not."""
    KILLED_BEFORE = auto()
    """The process dies before it is done."""
    KILLED_AFTER = auto()
    """The process dies when it is done."""


class FaultyDisk:
    """The `Disk` of the operating system; call number *at*, from 0, has the *fault*. Writes are short, to be many."""

    def __init__(self, at: int | None = None, fault: Fault = Fault.BEFORE) -> None:
        self.calls: list[str] = []
        self._at = at
        self._fault = fault

    def open(self, path: str, flags: int, mode: int, *, dir_fd: int) -> int:
        return self._do(os.open, path, flags, mode, dir_fd=dir_fd)

    def fchmod(self, descriptor: int, mode: int) -> None:
        self._do(os.fchmod, descriptor, mode)

    def write(self, descriptor: int, octets: memoryview) -> int:
        return self._do(os.write, descriptor, octets[:1500])

    def fsync(self, descriptor: int) -> None:
        self._do(os.fsync, descriptor)

    def close(self, descriptor: int) -> None:
        self._do(os.close, descriptor)

    def replace(self, old: str, new: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        self._do(os.replace, old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    def unlink(self, path: str, *, dir_fd: int) -> None:
        self._do(os.unlink, path, dir_fd=dir_fd)

    def _do(self, call: Callable[..., Any], *arguments: object, **places: int) -> Any:
        here = len(self.calls) == self._at
        self.calls.append(call.__name__)
        if here and self._fault is Fault.KILLED_BEFORE:
            os.kill(os.getpid(), signal.SIGKILL)
        if here and self._fault is Fault.BEFORE:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        answer = call(*arguments, **places)
        if here and self._fault is Fault.KILLED_AFTER:
            os.kill(os.getpid(), signal.SIGKILL)
        if here and self._fault is Fault.AFTER:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return answer

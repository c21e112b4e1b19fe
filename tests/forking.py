"""Processes that share what this one made before: forked from it, as gunicorn forks its workers."""

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any


def fork(act: Callable[[], object]) -> int:
    """Return the id of a child that does *act* and ends: with code 0, or with 1 if that raised."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        act()
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def end_of(pid: int) -> int:
    """Return how a child ended: its code, or less than 0 for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def in_child(act: Callable[[], Any]) -> Any:
    """Return what *act* returns in a child, which must be JSON."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as answers:
        pid = fork(lambda: os.write(writing, json.dumps(act()).encode()))
        os.close(writing)
        answer = answers.read()
    assert end_of(pid) == 0
    return json.loads(answer)


def killed_at(step: int, file: str, act: Callable[[], object]) -> bool:
    """Do *act* in a child that kills itself before it executes the *step*-th bytecode of the module *file*.

    Returns:
        Whether it was killed: False when *act* has no more than so many.
    """
    left = step

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename != file:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    def traced() -> None:
        sys.settrace(trace)
        act()
        sys.settrace(None)

    end = end_of(fork(traced))
    assert end in (0, -signal.SIGKILL)
    return end != 0

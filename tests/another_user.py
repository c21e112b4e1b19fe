"""Programs run as a user without root's rights, whoever runs the tests, and how far one gets with another's memory.

Run as a program, with process ids: tries to attach to each as a debugger and to read its environment, and prints
``{"<pid>": [attached, read], …}``.
"""

import ctypes
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
NOBODY: Final = 65534
_PTRACE_SEIZE: Final = 0x4206  # attaches without stopping; let go of when the debugger ends (ptrace(2))
_READING: Final = {"dac_override": 1, "dac_read_search": 2}  # capabilities(7)


def user() -> int:
    """Return the id of the user that `command` runs programs as."""
    return os.geteuid() or NOBODY


def command(*words: object) -> list[str]:
    """Return *words* as a command of that user, who may read the files that this one may: Python's may be root's."""
    said = [str(word) for word in words]
    if os.geteuid() != 0:
        return said
    status = Path("/proc/self/status").read_text()
    held = int(status.partition("CapEff:")[2].split()[0], 16)
    reading = ",".join(f"+{name}" for name, bit in _READING.items() if held >> bit & 1)
    ids = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    return ["setpriv", *ids, f"--inh-caps={reading}", f"--ambient-caps={reading}", *said]


def look_into(*pids: int) -> dict[int, tuple[bool, bool]]:
    """Return of each process that has not ended whether that user can attach to it, and read its environment."""
    done = subprocess.run(command(sys.executable, __file__, *pids), capture_output=True, text=True, check=True)
    return {int(pid): (attached, read) for pid, (attached, read) in json.loads(done.stdout).items()}


def _attaches(pid: int) -> bool:
    return ctypes.CDLL(None).ptrace(_PTRACE_SEIZE, pid, None, None) == 0


def _reads(pid: int) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/environ").read_bytes())
    except PermissionError:
        return False


if __name__ == "__main__":
    looks = {}
    for word in sys.argv[1:]:
        with suppress(FileNotFoundError, ProcessLookupError):
            looks[word] = _attaches(int(word)), _reads(int(word))
    print(json.dumps(looks))

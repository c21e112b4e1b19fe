"""Processes that start at one moment: each says it is ready, and all go on when the last has."""

import subprocess
import sys
from collections.abc import Sequence


def race(program: str, racers: Sequence[Sequence[str]]) -> list[str]:
    """Run *program* once for each of *racers*, its arguments, and return what each prints.

    The program finds a function ``ready``, which returns when all of them have called it.
    """
    prelude = "import sys\ndef ready():\n    print('ready', flush=True)\n    sys.stdin.readline()\n"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", prelude + program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for arguments in racers
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=30)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return outputs

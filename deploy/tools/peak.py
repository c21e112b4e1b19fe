"""Run a command and write down how much memory it held at most.

    python -m strongroom.deploy.tools.peak FILE COMMAND…

Linux counts to a process what its parent held when it was started (the address space before execve is part of
``ru_maxrss``, getrusage(2)). So what is to be weighed is started by something that holds next to nothing: this.
"""

import resource
import subprocess
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Run the command, write its largest resident set in KiB into the file, and return its exit code."""
    file, *command = arguments
    code = subprocess.call(command)
    Path(file).write_text(f"{resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

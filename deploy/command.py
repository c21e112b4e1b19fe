"""The ``strongroom`` command as it is installed: also where the library alone is, which has no command line."""

import sys
from typing import NoReturn

from strongroom.deploy import extras


def main() -> NoReturn:
    """Run the command and exit with its code; without a command line, say what to install, and exit with 2."""
    try:
        from strongroom.deploy.cli import root
    except ModuleNotFoundError as error:
        if (said := extras.missing(error)) is None:
            raise
        sys.stderr.write(f"strongroom: {said}; where a service is to run: 'strongroom[server]'\n")
        sys.exit(2)  # `exits.FAILED`, which cannot be imported
    root.main()

"""The ``strongroom`` command as it is installed: also where the library alone is, which has no command line."""

from typing import Final, NoReturn

from strongroom.deploy import extras

SERVER: Final = "; where a service is to run: '.[server]'"


def main() -> NoReturn:
    """Run the command and exit with its code; without a command line, say what to install, and exit with 2."""
    with extras.needed(SERVER):
        from strongroom.deploy.cli import root
    root.main()

"""Whether something is meant that cannot be taken back: asked where somebody can be asked."""

import signal
import sys

import click

from strongroom.deploy.cli import exits


def sure(yes: bool, what: str, otherwise: str) -> None:
    """Ask whether *what* is meant; *otherwise* says what it means that it is not.

    Raises:
        UsageError: nobody can be asked, and --yes was not said.
        Exit: it is not meant; that was told.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"this would {what}: say --yes")
    # Handlers of a loop would wait for the answer.
    before = {each: signal.signal(each, signal.default_int_handler) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        if click.confirm(f"{what}?", err=True):
            return
    except click.Abort:
        otherwise = f"interrupted: {otherwise}"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    click.echo(f"strongroom: {otherwise}", err=True)
    raise click.exceptions.Exit(exits.INTERRUPTED)

"""Keys and shares as people type them: without echo and a line each at a terminal, else from a file or a pipe.

They are measured here before they are sent, so that a slip of the fingers is told at once, and is no wrong key.
"""

import getpass
import sys
from collections.abc import Callable

import click

from deploy.cli import secret_input
from models.secret import Secret


def read(file: str | None, ask: Callable[[], Secret]) -> Secret:
    """Return what is in *file*, or on standard input; where that is a terminal, what *ask* asks for.

    Raises:
        UsageError: it cannot be read, or is no text.
    """
    if file is None and sys.stdin.isatty():
        return ask()
    try:
        return Secret(secret_input.read(file, "The keys").decode())
    except UnicodeDecodeError:
        raise click.UsageError("keys and shares are text") from None


def ask_for_enough() -> Secret:
    """Ask for one unlock key, or for shares until they are enough; a mistyped line is asked for again."""
    from storage_service.keyring import unlock

    lines: list[str] = []
    while True:
        lines.append(_ask("Unlock key or share" if not lines else f"Share {len(lines) + 1}"))
        try:
            unlock.parse("\n".join(lines))
        except unlock.TooFew as error:
            click.echo(f"{error}", err=True)
        except unlock.Mistyped as error:
            lines.pop()
            click.echo(f"{error}; again, or Ctrl-C", err=True)
        else:
            return Secret("\n".join(lines))


def _ask(what: str) -> str:
    line = ""
    while not line.strip():
        try:
            line = getpass.getpass(f"{what}: ")
        except EOFError:
            raise click.Abort from None
    return line

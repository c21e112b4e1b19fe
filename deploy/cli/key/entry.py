"""Keys and shares as people type them: without echo and a line each at a terminal, else from a file or a pipe.

They are measured here before they are sent, so that a slip of the fingers is told at once, and is no wrong key.
"""

import getpass
import sys
from collections.abc import Callable

import click

from strongroom.deploy.cli import show
from strongroom.deploy.cli.secret import source as secret_input
from strongroom.models.secret import Secret


def read(file: str | None, ask: Callable[[], Secret]) -> Secret:
    """Return what is in *file*, or on standard input; where that is a terminal, what *ask* asks for.

    Raises:
        UsageError: it cannot be read, or is no text.
    """
    if file is None and is_asked():
        return ask()
    try:
        return Secret(secret_input.read(file, "The keys").decode())
    except UnicodeDecodeError:
        raise click.UsageError("keys and shares are text") from None


def read_text(file: str | None) -> str:
    """Return the keys or shares in *file*, or what is typed until it is enough.

    Raises:
        UsageError: as `read`.
    """
    return read(file, ask_for_enough).reveal()


def is_asked() -> bool:
    """Whether somebody is there to be asked."""
    return sys.stdin.isatty()


def ask_for_enough() -> Secret:
    """Ask for one unlock key, or for shares until they are enough."""
    return _ask(lambda done: f"Share {done + 1}" if done else "Unlock key or share", 1)


def ask_for(count: int, what: str) -> Secret:
    """Ask for *count* keys, or for shares until they are enough.

    Args:
        count: of unlock keys, each of which is asked for; of shares, how many are needed.
        what: what to call one.
    """
    return _ask(lambda done: f"{what} {done + 1} of {count}", count)


def _ask(prompt: Callable[[int], str], count: int) -> Secret:
    """Ask for lines until there are *count* that are in order and enough; what is mistyped is asked for again."""
    from strongroom.storage_service.keyring.ceremonies import typed

    lines: list[str] = []
    while True:
        lines.append(_line(prompt(len(lines))))
        try:
            typed.check("\n".join(lines))
        except typed.TooFew as error:
            show.note(str(error))
        except typed.Mistyped as error:
            lines.pop()
            show.note(f"{error}; once more")
        else:
            if len(lines) >= count:
                return Secret("\n".join(lines))


def _line(prompt: str) -> str:
    line = ""
    while not line.strip():
        try:
            line = getpass.getpass(f"{prompt}: ")
        except EOFError:
            raise click.Abort from None
    return line

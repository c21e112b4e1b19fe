"""How the shell sees each error: one table of exit codes, and one line of text that says what to do."""

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from strongroom.deploy import extras, steps
from strongroom.deploy.cli.common import Common

if TYPE_CHECKING:
    from strongroom.models.steps import Step

DONE: Final = 0
USAGE: Final = 1  # the command line, or a name or field in it, is wrong; nothing was asked of the service
FAILED: Final = 2  # the service said no or failed, or a process did not run
LOCKED: Final = 3
NOT_FOUND: Final = 4
CONFLICT: Final = 5  # it exists, is not empty, or has changed since
DENIED: Final = 6  # the credentials, or the key that was to unlock it
INTERRUPTED: Final = 130  # as shells count an end by SIGINT


class Exit(NamedTuple):
    """One row: the code, and what goes with it: words, and steps for an error that has none of its own."""

    code: int
    advice: str = ""
    next: "tuple[Step, ...]" = ()


def _table() -> dict[type[BaseException], Exit]:
    """Return the table. Made when an error is there: the command itself starts without these imports."""
    from strongroom.migration import errors as migration
    from strongroom.models.errors import ModelError
    from strongroom.models.steps import Step
    from strongroom.storage_service import errors

    return {
        click.UsageError: Exit(USAGE),
        click.ClickException: Exit(USAGE),
        ModelError: Exit(USAGE),
        errors.StrongroomError: Exit(FAILED),
        errors.Unavailable: Exit(FAILED),  # who is to blame is told by the text: the store, or a service that runs
        errors.NotListening: Exit(
            FAILED,
            "or systemctl status strongroom-storage; its log says more",
            (Step("see that it runs", "up"),),
        ),
        errors.Untrusted: Exit(FAILED),  # its text says what to do
        errors.Barred: Exit(FAILED),
        errors.AuditUnavailable: Exit(FAILED, "see that its audit log can be written; its own log says more"),
        errors.Internal: Exit(FAILED),
        errors.Locked: Exit(LOCKED),
        errors.Behind: Exit(LOCKED, "put this machine's new key file in its place; its log says which"),
        errors.Halted: Exit(FAILED),
        errors.WrongKey: Exit(DENIED),
        errors.TooManyAttempts: Exit(FAILED),
        errors.InUse: Exit(CONFLICT),
        errors.Overtaken: Exit(CONFLICT),
        errors.NotFound: Exit(NOT_FOUND),
        errors.NoContainer: Exit(NOT_FOUND, next=(Step("make it first", "secret mkdir", {"container": "CONTAINER"}),)),
        errors.Exists: Exit(CONFLICT),
        errors.Contradicted: Exit(CONFLICT),
        errors.NotEmpty: Exit(CONFLICT, "remove what it holds first"),
        errors.Changed: Exit(CONFLICT, "read it again and decide anew"),
        errors.NotAuthenticated: Exit(DENIED, "say whose key to use: --home DIR, or STRONGROOM_API_ID and _API_KEY"),
        migration.RunHeld: Exit(CONFLICT),
        migration.NoSuchRun: Exit(NOT_FOUND),
        migration.SourceRefused: Exit(DENIED),
        errors.Denied: Exit(
            DENIED,
            "the audit log has the reason; strongroom status tells whom the service takes you for, if it knows you",
        ),
    }


def exit_of(error: BaseException) -> Exit | None:
    """Return the row for *error*: that of its nearest class; None for what nobody foresaw."""
    table = _table()
    return next((table[kind] for kind in type(error).__mro__ if kind in table), None)


def report(error: BaseException, write: Callable[[str], object] | None = None, *, said: Common | None = None) -> int:
    """Write one line about *error* and what can be done about it, and return the exit code.

    Args:
        error: what happened.
        write: what writes the line; None: it goes to standard error.
        said: which service was meant; None: nobody said.

    Raises:
        BaseException: *error* itself, where nobody foresaw it and STRONGROOM_DEBUG asks for the traceback.
    """
    write = write or (lambda line: click.echo(line, err=True))
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        write(error.format_message())
        return USAGE
    if isinstance(error, click.Abort):
        write("strongroom: interrupted")
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        # Who read the output has gone; so that the interpreter does not complain when it flushes at the end:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    if extra := extras.missing(error):
        write(f"strongroom: {extra}")
        return FAILED
    found = exit_of(error)
    if found is None:
        if os.environ.get("STRONGROOM_DEBUG"):
            raise error
        # The text of an unforeseen error may hold anything; its kind does not.
        write(f"strongroom: unexpected {type(error).__name__}; STRONGROOM_DEBUG=1 shows where")
        return FAILED
    following = getattr(error, "next", ()) or found.next
    line = steps.line(_text(error), following, (said or Common()).lead)
    write(f"strongroom: {line}" + (f"; {found.advice}" if found.advice else ""))
    return found.code


def _text(error: BaseException) -> str:
    from strongroom.models.errors import StrongroomError

    if isinstance(error, click.ClickException):
        text = error.format_message()
        if isinstance(error, click.UsageError) and error.ctx is not None:
            text = f"{text.rstrip('.')} ({error.ctx.command_path} --help)"
    else:
        text = error.text if isinstance(error, StrongroomError) else str(error)
        faults = getattr(error, "faults", ())
        if faults and not any(field in text for field, _ in faults):
            text += ": " + "; ".join(f"{field} {reason}" for field, reason in faults)
        if holders := getattr(error, "holders", ()):
            text += f" ({', '.join(holders)})"
        if (wait := getattr(error, "wait", None)) is not None:
            text += f": {wait:.0f} seconds"
    text = " ".join(text.split())
    first = text.partition(" ")[0]
    return text[:1].lower() + text[1:] if first[1:].islower() else text  # OpenSSL stays what it is

"""How the shell sees each error: one table of exit codes, and a text, or a document, that says what to do."""

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from strongroom.deploy import extras, steps
from strongroom.deploy.cli import show
from strongroom.deploy.cli.common import Common, Form
from strongroom.deploy.cli.interruption import CTRL_C
from strongroom.deploy.cli.words import ReaderGone
from strongroom.deploy.places import PREFIX

if TYPE_CHECKING:
    from strongroom.models.steps import Step

DONE: Final = 0
USAGE: Final = 1  # the command line, or a name or field in it, is wrong; nothing was asked of the service
FAILED: Final = 2  # the service said no or failed, or a process did not run
LOCKED: Final = 3
NOT_FOUND: Final = 4
CONFLICT: Final = 5  # it exists, is not empty, or has changed since
DENIED: Final = 6  # the credentials, or the key that was to unlock it
DIFFERS: Final = 7  # something would be otherwise: of a trial, by which a pipeline decides
INTERRUPTED: Final = CTRL_C  # and by another signal, what shells count that as
CLOSED_PIPE: Final = 141  # and one by SIGPIPE

UNITS: Final = tuple(map(Path, ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")))
"""Where systemd looks for units."""

# What JSON says of an error that is no answer of the service, by exit code: the end of its type, and its title.
_KINDS: Final = {
    USAGE: ("usage", "The command line is wrong"),
    FAILED: ("failed", "It could not be done"),
    NOT_FOUND: ("not-found", "It does not exist"),
    CONFLICT: ("conflict", "Something is in the way"),
    DENIED: ("denied", "It is not allowed"),
    INTERRUPTED: ("interrupted", "It was interrupted"),
}


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
    from strongroom.storage_service.client import login, ssh_agent

    return {
        click.UsageError: Exit(USAGE),
        click.ClickException: Exit(USAGE),
        ModelError: Exit(USAGE),
        errors.StrongroomError: Exit(FAILED),
        errors.Unavailable: Exit(FAILED),  # who is to blame is told by the text: the store, or a service that runs
        errors.NotListening: Exit(
            FAILED,
            "systemctl status strongroom-storage says more of the one that systemd starts" if _has_unit() else "",
            (Step("see that it runs", "up"),),
        ),
        errors.Untrusted: Exit(FAILED),  # its text says what to do
        errors.Barred: Exit(FAILED),
        errors.AuditUnavailable: Exit(FAILED, "see that its audit log can be written; its own log says more"),
        errors.Internal: Exit(FAILED),
        errors.Locked: Exit(LOCKED),
        errors.Behind: Exit(LOCKED, "put this machine's new key file in its place; its log says which"),
        errors.Halted: Exit(FAILED),
        errors.Forbidden: Exit(DENIED),  # its text says why, and its steps what to do
        errors.WrongKey: Exit(DENIED),
        errors.TooManyAttempts: Exit(FAILED),
        errors.TooManyRequests: Exit(FAILED),
        errors.InUse: Exit(CONFLICT),
        errors.Overtaken: Exit(CONFLICT),
        errors.NotFound: Exit(NOT_FOUND),
        errors.NoContainer: Exit(NOT_FOUND, next=(Step("make it first", "secret mkdir", {"container": "CONTAINER"}),)),
        errors.Exists: Exit(CONFLICT),
        errors.Contradicted: Exit(CONFLICT),
        errors.NotEmpty: Exit(CONFLICT, "remove what it holds first"),
        errors.Changed: Exit(CONFLICT, "read it again and decide anew"),
        errors.NotAuthenticated: Exit(
            DENIED, "say whose key to use: --home DIR, or STRONGROOM_API_ID and _API_KEY", (Step("or log in", "login"),)
        ),
        login.NoKey: Exit(DENIED),
        login.Misled: Exit(DENIED),
        ssh_agent.AgentError: Exit(DENIED),
        migration.RunHeld: Exit(CONFLICT),
        migration.NoSuchRun: Exit(NOT_FOUND),
        migration.SourceRefused: Exit(DENIED),
        errors.Denied: Exit(
            DENIED,
            "the audit log has the reason",
            (Step("see whom the service takes you for, if it knows you", "whoami"),),
        ),
    }


def _has_unit() -> bool:
    """Whether systemd knows a service of ours: where it does not, its tools help nobody."""
    return any((place / "strongroom-storage.service").exists() for place in UNITS)


def exit_of(error: BaseException) -> Exit | None:
    """Return the row for *error*: that of its nearest class; None for what nobody foresaw."""
    table = _table()
    return next((table[kind] for kind in type(error).__mro__ if kind in table), None)


def report(error: BaseException, write: Callable[[str], object] | None = None, *, said: Common | None = None) -> int:
    """Tell of *error* and what can be done about it, and return the exit code.

    Args:
        error: what happened.
        write: what writes the line; None: it goes to standard error, where a terminal gets it broken between words.
        said: which service was meant, and how answers are printed; None: nobody said.

    Raises:
        BaseException: *error* itself, where nobody foresaw it and STRONGROOM_DEBUG asks for the traceback.
    """
    write = write or show.note
    said = said or Common()
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return USAGE
    if isinstance(error, ReaderGone):
        forget_output()
        return CLOSED_PIPE
    told = _told(error, said)
    if said.answers_as is Form.JSON:
        _tell(write, json.dumps(_as_data(error, told), ensure_ascii=False))
        return told.code
    line = steps.line(told.text, told.next, said.lead)
    _tell(write, f"strongroom: {line}" + (f"; {told.advice}" if told.advice else ""))
    return told.code


def _tell(write: Callable[[str], object], text: str) -> None:
    with suppress(OSError):  # a terminal that was closed, or a log on a full disk: the exit code tells it still
        write(text)


def forget_output() -> None:
    """Let what standard output could not take go nowhere, so that the interpreter does not complain when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Told(NamedTuple):
    """What there is to say of an error."""

    code: int
    text: str
    next: "tuple[Step, ...]" = ()
    advice: str = ""


def _told(error: BaseException, said: Common) -> _Told:
    if isinstance(error, click.Abort):
        return _Told(getattr(error, "code", INTERRUPTED), str(error) or "interrupted", getattr(error, "next", ()))
    if extra := extras.missing(error):
        return _Told(FAILED, extra)
    found = exit_of(error)
    if found is not None:
        if said.login and _is_ended(error):
            return _ended(found.code, said.login)
        following = getattr(error, "next", ())
        if said.offline:
            return _Told(found.code, _text(error), following)
        return _Told(found.code, _text(error), following or found.next, found.advice)
    if isinstance(error, OSError) and type(error).__module__ == "builtins" and error.strerror:
        return _Told(FAILED, ": ".join(str(each) for each in (error.filename, error.strerror) if each))
    if os.environ.get("STRONGROOM_DEBUG"):
        raise error
    # The text of an unforeseen error may hold anything; its kind does not.
    return _Told(FAILED, f"unexpected {type(error).__name__}; STRONGROOM_DEBUG=1 shows where")


def _is_ended(error: BaseException) -> bool:
    """Whether the service answered that what it was shown is worth nothing."""
    from strongroom.storage_service.errors import NotAuthenticated

    return isinstance(error, NotAuthenticated) and bool(error.request_id)


def _ended(code: int, login: str) -> _Told:
    """Return that the service takes a token no longer that has not expired."""
    from strongroom.models.steps import Step

    why = (
        f"the service takes the token of the login as {login} no longer, though it has not expired: it was ended, or "
        "what it was given for was taken away"
    )
    return _Told(code, why, (Step("log in again", "login", {"as": login}),))


def _as_data(error: BaseException, told: _Told) -> dict[str, object]:
    """Return *error* for programs, as the service tells problems (RFC 9457)."""
    from strongroom.storage_service import errors, wire

    kind, title = _KINDS[INTERRUPTED] if isinstance(error, click.Abort) else _KINDS.get(told.code, _KINDS[FAILED])
    if isinstance(error, errors.ServiceError):
        kind, title = error.code, wire.problem_of(error).title
    return {
        "type": wire.type_named(kind),
        "title": title,
        "detail": "; ".join(filter(None, (told.text, told.advice))),
        "record": getattr(error, "name", "") or None,
        "request_id": getattr(error, "request_id", "") or None,
        "next": steps.as_data(told.next),
        "exit_code": told.code,
    }


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
        # The client knows variables alone: a command has a flag for it, too.
        text = text.replace(f" in {PREFIX}CA,", f" with --ca FILE, in {PREFIX}CA,")
    text = " ".join(text.split())
    first = text.partition(" ")[0]
    return text[:1].lower() + text[1:] if first[1:].islower() else text  # OpenSSL stays what it is

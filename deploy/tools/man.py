"""The manual page, strongroom(1), written from the commands themselves: ``python -m strongroom.deploy.tools.man FILE``.

A page for the whole command, as git's and openssl's first pages are: every verb with its arguments, what it does, and
its options. It is man(7)'s macros and nothing else, so that any man reads it. A build makes it; nothing here runs on a
machine that Strongroom serves.
"""

import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from os import environ
from pathlib import Path
from typing import Final

import click

from strongroom.deploy.cli.root import strongroom
from strongroom.storage_service.wire import VERSION

_CODES: Final = (
    (0, "done"),
    (1, "usage: the command line, or a name in it, is wrong; nothing was asked of the service"),
    (2, "the service said no or failed, or a process did not run"),
    (3, "locked, or without a keyring yet"),
    (4, "not found"),
    (5, "conflict: it exists, is not empty, is in use, or has changed since"),
    (6, "denied"),
    (130, "interrupted"),
    (141, "who read the output has gone"),
)
_VARIABLES: Final = (
    ("STRONGROOM_HOME", "the home of the service"),
    ("STRONGROOM_SOCKET, STRONGROOM_URL", "where the service listens"),
    ("STRONGROOM_API_ID, STRONGROOM_API_KEY", "who asks"),
    ("STRONGROOM_CLIENT", "a client.json, which says all of that"),
    ("STRONGROOM_CA", "a file with the authorities that an https URL's certificate must be signed by"),
    ("SSL_CERT_FILE, SSL_CERT_DIR", "the same for all programs"),
    ("STRONGROOM_OUTPUT", "table, json or raw: how answers are printed"),
    ("STRONGROOM_DEBUG", "1 shows the traceback of an error that nobody foresaw"),
    ("NO_COLOR", "if it is set, nothing is coloured"),
)


def page(root: click.Command, day: datetime) -> str:
    """Return the manual page of *root*, as of *day*."""
    top = click.Context(root, info_name="strongroom", **root.context_settings)
    lines = [
        f'.TH STRONGROOM 1 "{day:%Y-%m-%d}" "Strongroom {VERSION}" "User Commands"',
        ".SH NAME",
        "strongroom \\- keep the records of a platform, and its secrets apart and encrypted",
        ".SH SYNOPSIS",
        ".B strongroom",
        "[\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGS\\fR]...",
        ".SH DESCRIPTION",
        *_prose(root.help or ""),
        ".SH OPTIONS",
        *_options(root, top),
        ".SH COMMANDS",
    ]
    for context in _verbs(top):
        lines += [f".SS {_quoted(context.command_path.partition(' ')[2])}", *_synopsis(context)]
        lines += _prose(context.command.help or "")
        lines += _options(context.command, context)
    lines.append(".SH ENVIRONMENT")
    for names, meaning in _VARIABLES:
        lines += [".TP", f".B {_escaped(names)}", _escaped(meaning)]
    lines.append('.SH "EXIT STATUS"')
    for code, meaning in _CODES:
        lines += [".TP", f".B {code}", _escaped(meaning)]
    return "\n".join(lines) + "\n"


def _verbs(context: click.Context) -> Iterator[click.Context]:
    """Yield what can be done, in the order of the help: each verb, and each noun that is one, too."""
    group = context.command
    if not isinstance(group, click.Group):
        yield context
        return
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None and not command.hidden:
            yield from _verbs(click.Context(command, info_name=name, parent=context))


def _synopsis(context: click.Context) -> list[str]:
    pieces = context.command.collect_usage_pieces(context)
    return [f"\\fB{_escaped(context.command_path)}\\fR {_escaped(' '.join(pieces))}"]


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    """Yield the options of *command*; those of every command stand once, with those of the root."""
    of_all = {each.name for each in strongroom.params} if command is not strongroom else set()
    for each in command.get_params(context):
        record = each.get_help_record(context)
        if record is None or each.name in of_all or (command is not strongroom and "--help" in each.opts):
            continue
        yield ".TP"
        yield f"\\fB{_escaped(record[0])}\\fR"
        yield _escaped(" ".join(record[1].split()) or "\\&")


def _prose(text: str) -> Iterator[str]:
    """Yield the paragraphs of a help text; one that click is to leave as it is keeps its lines."""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        lines = [line.strip() for line in paragraph.strip().splitlines()]
        if lines and lines[0] == "\b":
            yield from (".PP", ".nf", *map(_escaped, lines[1:]), ".fi")
        else:
            yield from (".PP", _escaped(" ".join(lines)))


def _escaped(text: str) -> str:
    """Return *text* as roff takes it for text: a backslash is one, a hyphen can be copied, and no line is a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("\N{HORIZONTAL ELLIPSIS}", "...")
    return f"\\&{text}" if text[:1] in {".", "'"} else text


def _quoted(text: str) -> str:
    return f'"{_escaped(text)}"'


def main() -> None:
    """Write the page to the file that was named; SOURCE_DATE_EPOCH is its day, if that is set."""
    said = environ.get("SOURCE_DATE_EPOCH")
    day = datetime.fromtimestamp(int(said), UTC) if said else datetime.now(UTC)
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(strongroom, day), encoding="utf-8")


if __name__ == "__main__":
    main()

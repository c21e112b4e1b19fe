"""The flags that set settings, for the commands that start something or show what would be started."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from strongroom.deploy.cli.common import common

C = TypeVar("C", bound=Callable[..., Any])

_FLAGS = (
    (
        "--listen",
        {"metavar": "HOST:PORT", "help": "Where the proxy listens [127.0.0.1:8000]; port 0: a free one."},
    ),
    ("--store", {"metavar": "URL", "help": "Where all is kept: sqlite, memory, etcd://HOST:PORT,…/PREFIX [sqlite]."}),
    ("--workers", {"type": int, "metavar": "N", "help": "Workers of the service [2; in memory 1]."}),
    ("--storage-conf", {"metavar": "FILE", "help": "Take settings from a storage.conf (JSON)."}),
    ("--custodia-conf", {"metavar": "FILE", "help": "Take settings from a custodia.conf (INI)."}),
    ("--makedirs/--no-makedirs", {"default": None, "help": "Make directories that are missing."}),
    ("--log-format", {"metavar": "plain|json", "help": "How log lines look [plain]."}),
    ("--debug/--no-debug", {"default": None, "help": "Log more."}),
)


def settings_options(command: C) -> C:
    """Give *command* the flags; they arrive as keyword arguments, None where not said, and `sets` a mapping."""
    command = click.option(
        "--set", "sets", multiple=True, metavar="NAME=VALUE", callback=_pairs, help="Fill a placeholder of those files."
    )(command)
    for name, settings in reversed(_FLAGS):
        command = click.option(name, **settings)(command)
    return command


def _pairs(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.BadParameter("is NAME=VALUE")
        pairs[name] = value
    return pairs


def flags_of(options: dict[str, Any]) -> dict[str, Any]:
    """Return the settings among a command's options; a file is where the user stands, not in the home."""
    flags = dict(options)
    for name in ("storage_conf", "custodia_conf"):
        if flags.get(name) is not None:
            flags[name] = str(Path(flags[name]).absolute())
    if common().socket is not None:
        flags["socket"] = str(Path(str(common().socket)).absolute())
    return flags

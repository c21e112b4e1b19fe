"""What every noun and verb of the command is: click's group and command, whose errors repeat nothing that was typed.

Sooner or later somebody types a secret where none belongs. It is in the shell's history then; it is not to be on the
screen, in a pipeline's log or in a timer's mail as well. Only what we know ourselves is named: options, verbs, choices.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import click

C = TypeVar("C", bound=click.Command)

_TOO_MANY: Final = (
    "unexpected extra argument, not repeated here since it may be a secret: those are typed at a prompt, or come from "
    "a file or a pipe"
)


class ReaderGone(Exception):
    """Who read standard output has gone, as ``head`` does when it has enough. Not of OSError: click ends on those."""


@contextmanager
def _reader_watched() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise ReaderGone from None


class BadForm(click.BadParameter):
    """A value that a type of ours refuses, with words of ours."""


class Verb(click.Command):
    """A command. One that *needs_server* ends where that extra is missing, whatever else is wrong with it."""

    needs_server = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Make it. Where ``-o`` is an option of its own, that of all commands goes by its long name alone."""
        super().__init__(*args, **kwargs)
        own = {flag for each in self.params if each.name != "form" for flag in each.opts}
        for each in self.params:
            if each.name == "form":
                each.opts = [flag for flag in each.opts if flag not in own]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words that follow it.

        Raises:
            UsageError: they are not what it takes.
            ConfigurationError: what it needs is not installed.
        """
        if self.needs_server and not ctx.resilient_parsing and not {*args} & {*ctx.help_option_names}:
            _refuse_without_server()
        strict, ctx.allow_extra_args = not ctx.allow_extra_args, True
        try:
            with _reader_watched():
                left = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise click.UsageError(_unknown("option", error.possibilities), ctx) from None
        except click.MissingParameter:
            raise
        except click.BadParameter as error:
            if isinstance(error, BadForm) or error.param is None or (form := _form(error.param.type)) is None:
                raise
            raise click.BadParameter(form, ctx, error.param) from None
        finally:
            ctx.allow_extra_args = not strict
        if left and strict and not ctx.resilient_parsing:
            ctx.fail(_TOO_MANY)
        return left

    def invoke(self, ctx: click.Context) -> Any:
        """Carry it out.

        Raises:
            ReaderGone: who read what it prints has gone.
        """
        with _reader_watched():
            return super().invoke(ctx)


def needing_server(command: C) -> C:
    """Return *command*, which needs the extra of the server although its noun does not."""
    assert isinstance(command, Verb)  # noqa: S101  # no other is made here
    command.needs_server = True
    return command


def _refuse_without_server() -> None:
    from strongroom.deploy import extras

    if said := extras.lacking("server"):
        from strongroom.storage_service.errors import ConfigurationError

        raise ConfigurationError(said)


class Noun(Verb, click.Group):
    """A group of commands."""

    command_class = Verb
    group_class = type

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the next word names.

        Raises:
            UsageError: there is none of that name.
        """
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            import difflib

            near = difflib.get_close_matches(error.command_name, self.list_commands(ctx))
            raise click.UsageError(_unknown("command", near), ctx) from None


def _unknown(what: str, near: Iterable[str] | None) -> str:
    meant = " or ".join(near or ())
    return f"there is no such {what}" + (f"; did you mean {meant}?" if meant else "")


def _form(kind: click.ParamType[Any]) -> str | None:
    """Return what a value of that *kind* is like; None for text, which click takes, and only we refuse.

    All other kinds of click's quote what they refuse, so one that is not known here is told by its name alone.
    """
    match kind:
        case click.types.StringParamType() | click.types.UnprocessedParamType():
            return None
        case click.Choice():
            return f"is one of {', '.join(map(str, kind.choices))}"
        case click.types.IntParamType():
            return f"is a whole number{_between(kind)}"
        case click.types.FloatParamType():
            return f"is a number{_between(kind)}"
        case click.types.BoolParamType():
            return "is true or false"
        case click.Path() | click.File():
            return "names no file that this user can read"
        case _:
            return f"is not a {kind.name}"


def _between(kind: click.ParamType[Any]) -> str:
    least, most = getattr(kind, "min", None), getattr(kind, "max", None)
    return (f" from {least}" if least is not None else "") + (f" to {most}" if most is not None else "")

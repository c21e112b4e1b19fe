"""``strongroom help``: what ``--help`` tells, as a command."""

import click

from strongroom.deploy.cli.words import Verb


@click.command(cls=Verb)
@click.argument("words", nargs=-1, metavar="[COMMAND]...")
@click.pass_context
def help(ctx: click.Context, *, words: tuple[str, ...]) -> None:  # noqa: A001  # named as it is called
    """Tell what a command is for, and what it takes: strongroom help secret put."""
    at = ctx.find_root()
    for word in words:
        if not isinstance(at.command, click.Group):
            raise click.UsageError(f"{at.command_path} has no commands of its own", at)
        name, command, _ = at.command.resolve_command(at, [word])
        assert command is not None  # noqa: S101  # else it would have been refused
        at = click.Context(command, info_name=name, parent=at)
    click.echo(at.get_help())

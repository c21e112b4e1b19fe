"""The root of the command: the nouns, each imported only when it is used, and where every error becomes an end."""

import importlib
import sys
from typing import Final, NoReturn

import click

from strongroom.deploy.cli.common import Common, check_form, common_options
from strongroom.deploy.cli.exits import forget_output, report
from strongroom.deploy.cli.words import Noun, ReaderGone, Verb

# noun -> (module, what it is for); the module's attribute of the noun's name is the click command.
_COMMANDS: Final = {
    "up": "Run the storage service and the HTTP proxy in the foreground.",
    "serve": "Run one of the two processes, for systemd.",
    "config": "Show or check the settings.",
    "status": "Show how the service is, and whom it takes you for.",
    "secret": "Read and write secrets.",
    "host": "Read and write hosts and their credentials.",
    "user": "Add, set up, disable and remove people.",
    "service": "Add, set up, disable and remove programs.",
    "group": "Make groups, and say who is in them.",
    "rule": "Say who may do what, ask why, and try other rules.",
    "login": "Log in with an SSH key, for ten minutes at a time.",
    "logout": "End this login.",
    "whoami": "Show whom the service takes you for, and until when.",
    "token": "End the token of a login.",
    "apikey": "Make, list and revoke API keys.",
    "key": "Make, unlock, lock, rotate and retire the keys behind the secrets.",
    "machine": "Let machines open the keyring by keys of their own.",
    "backup": "Copy a running store into one file, or look whether such a file is whole.",
    "restore": "Fill an empty store from such a file.",
    "migrate": "Move in what lies elsewhere, with proof.",
    "help": "Tell what a command is for, and what it takes.",
}


# What runs a service, or works on a store or an estate: it needs the extra of that name.
_OF_THE_SERVER: Final = frozenset({"up", "serve", "machine", "backup", "restore", "migrate"})


class Nouns(Noun):
    """The root of the command; help is shown from the table above, without importing a noun."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the nouns in the order of the table."""
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a noun's module and return its command."""
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        command: Verb = getattr(importlib.import_module(f"strongroom.deploy.cli.{cmd_name}"), cmd_name)
        command.needs_server = cmd_name in _OF_THE_SERVER
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from strongroom.storage_service.wire import VERSION

        click.echo(f"strongroom {VERSION}")
        ctx.exit()


@click.group(cls=Nouns, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@common_options
def strongroom() -> None:
    """Keep the records of a platform, and its secrets apart and encrypted.

    Where the service is, is said by --home, --socket or the variables STRONGROOM_HOME, _SOCKET, _URL, _API_ID and
    _API_KEY; without any of them it is looked for in ~/.strongroom.

    Exit codes: 0 done, 1 usage, 2 the service said no or failed, 3 locked, 4 not found, 5 conflict, 6 denied, 7 it
    would be otherwise (of a trial), 130 interrupted, 141 who read the output has gone.
    """
    check_form()


def main() -> NoReturn:
    """Run the command and exit with its code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command and return its exit code; whatever goes wrong is told on standard error."""
    said = Common()
    try:
        result = strongroom.main(arguments, prog_name="strongroom", standalone_mode=False, obj=said)
        sys.stdout.flush()  # not later, where a reader who has gone could only be complained about
    except BrokenPipeError:
        return report(ReaderGone(), said=said)
    except Exception as error:  # noqa: BLE001  # the one place where errors become exit codes
        code = report(error, said=said)
        _let_go_of_output()
        return code
    except KeyboardInterrupt:
        return report(click.Abort(), said=said)
    return result if isinstance(result, int) else 0


def _let_go_of_output() -> None:
    """Write what is left for standard output; what cannot be written is not tried again when the interpreter ends."""
    try:
        sys.stdout.flush()
    except OSError:
        forget_output()

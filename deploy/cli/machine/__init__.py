"""``strongroom machine``: which machines open the keyring by keys of their own.

The commands run on the machine itself and directly on the store: its private key never leaves it, and they work while
no service runs.
"""

import os
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from strongroom.deploy import steps
from strongroom.deploy.cli import exits, show
from strongroom.deploy.cli.common import common, common_options, home_or_default
from strongroom.deploy.cli.settings_options import flags_of, settings_options
from strongroom.deploy.cli.words import Noun

if TYPE_CHECKING:
    from strongroom.deploy.settings import Settings
    from strongroom.storage_service.keyring.ceremonies.enrolment import Listing
    from strongroom.storage_service.keyring.ceremonies.machines import Row

_COLUMNS: Final = ("fingerprint", "name", "authorizer", "created")
_MAX_FILE: Final = 1024 * 1024  # bytes of a file that an argument names

C = TypeVar("C", bound=Callable[..., Any])


def _here(command: C) -> C:
    """Give *command* the options that say settings, which arrive as `file`, `sets` and `options`."""
    path = click.Path(path_type=Path)
    named = click.option("--config", "file", type=path, metavar="FILE", help="The TOML file.", callback=_keep)
    return named(settings_options(common_options(command)))


def _keep(ctx: click.Context, _: click.Parameter, value: Path | None) -> Path | None:
    common(ctx).config = value
    return value


def _settings(file: Path | None, sets: dict[str, str], options: dict[str, Any]) -> "Settings":
    from strongroom.deploy.settings import load

    flags = flags_of(options)
    common().offline = True
    return load(environ=os.environ, home=common().home, config=file, flags=flags, sets=sets, without_key=True)


@click.group(cls=Noun)
def machine() -> None:
    """Let machines open the keyring by keys of their own, and end that.

    Run these on the machine itself, as the user whose service it is. `machine config init` makes its key. The first
    machine makes itself an authorizer with `machine init`; every other carries its machine.pub to an authorizer.
    """


@machine.group(cls=Noun, invoke_without_command=True)
@click.pass_context
def config(ctx: click.Context) -> None:
    """Make what a machine needs before anything else."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@config.command("init")
@click.option("--name", metavar="NAME", help="What people are to call the machine [the host's name].")
@click.option("--type", "kind", type=click.Choice(["EC", "RSA"]), default="EC", help="Which sort of key [EC].")
@click.option(
    "--documents",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Keep the documents of machines in a JSON file [in the store].",
)
@common_options
def config_init(*, name: str | None, kind: str, documents: Path | None) -> None:
    """Make this machine's key pair, and settings if there are none. Nothing is ever replaced."""
    from strongroom.deploy.cli.machine.pair import initialize
    from strongroom.storage_service.keyring.ceremonies.machines import Kind

    called = _name(name)
    made = initialize(home_or_default(), Kind(kind), documents and documents.absolute(), name)
    if show.as_json():
        show.answer(
            {
                "fingerprint": made.fingerprint,
                "key": str(made.key),
                "public_key": str(made.public),
                "settings": str(made.config),
                "add": made.add,
            }
        )
        return
    show.fields({"fingerprint": made.fingerprint, "key": made.key, "public key": made.public, "settings": made.config})
    for line in made.add:
        show.line(f"add to {made.config}:  {line}")
    show.words(show.advice("the first machine", "machine init"))
    show.words(f"any other, on an authorizer: strongroom machine authorize {made.public.name} --name {called}")


@machine.command()
@click.option(
    "--name", metavar="NAME", help="What people are to call this machine [as config init was told, or the host's name]."
)
@click.option("--unlock-file", metavar="FILE", help="Read an unlock key or shares from a file; - is standard input.")
@_here
def init(*, name: str | None, unlock_file: str | None, file: Path | None, sets: dict[str, str], **options: Any) -> None:
    """Make this machine the first authorizer, and the first keyring if there is none.

    A keyring that is there is opened by the root key file, or by an unlock key or shares, which are asked for at a
    terminal and else read from standard input. They never stand on a command line.
    """
    from strongroom.deploy.cli.machine import here
    from strongroom.deploy.cli.machine.pair import name_beside

    settings = _settings(file, sets, options)
    key = settings.service.machine_key
    name = _name(name or (None if key is None else name_beside(key)))
    made = here.run(
        settings,
        lambda enrolment, store: enrolment.initialize(name, here.otherwise(settings, store, unlock_file)),
    )
    _done(
        {"fingerprint": made.fingerprint, "name": made.name, "authorizer": True},
        f"{made.name} opens the keyring, and may authorize others",
    )


@machine.command()
@click.argument("public", metavar="PUBFILE")
@click.option("--name", required=True, metavar="NAME", help="What people are to call the machine.")
@click.option("--authorizer", is_flag=True, help="It may authorize others, too.")
@_here
def authorize(
    *, public: str, name: str, authorizer: bool, file: Path | None, sets: dict[str, str], **options: Any
) -> None:
    """Let the machine whose public key is in PUBFILE open the keyring; see to it that the fingerprint is its own."""
    from strongroom.deploy.cli.machine import here
    from strongroom.storage_service.keyring.ceremonies.machines import parse_public

    members = parse_public(_read(public))
    settings = _settings(file, sets, options)
    made = here.run(settings, lambda enrolment, _: enrolment.authorize(members, name, allowed=authorizer))
    _done(
        {"fingerprint": made.fingerprint, "name": made.name, "authorizer": authorizer},
        f"{made.name}, {made.fingerprint}, opens the keyring{', and may authorize others' if authorizer else ''}",
    )


@machine.command("list")
@click.option("--expected", metavar="FILE", help="Whom to expect: a fingerprint or name a line; # begins a comment.")
@_here
def list_(*, expected: str | None, file: Path | None, sets: dict[str, str], **options: Any) -> None:
    """List machines. With --expected, exit with 2 and name every authorizer that is not in FILE."""
    from strongroom.deploy.cli.machine import here
    from strongroom.storage_service.keyring.ceremonies.enrolment import unexpected

    awaited = None if expected is None else _lines(_read(expected))
    listing = here.run(_settings(file, sets, options), lambda enrolment, _: enrolment.listed())
    found = [] if awaited is None else unexpected(listing.rows, awaited)
    _show(listing, None if awaited is None else found)
    for row in found:
        unreadable = "" if row.authority == "Yes" else ", whose flag is unreadable"
        show.note(f"strongroom: unexpected authorizer: {_named(row)}{unreadable}")
    if found:
        click.get_current_context().exit(exits.FAILED)


@machine.command()
@click.argument("wanted", metavar="NAME|PREFIX")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Also if nothing is left then that opens the keyring.")
@_here
def revoke(*, wanted: str, yes: bool, force: bool, file: Path | None, sets: dict[str, str], **options: Any) -> None:
    """Remove a machine, by its name or the beginning of its fingerprint. It takes no authorizer."""
    from strongroom.deploy.cli.machine import here

    def agree(row: "Row") -> None:
        if not yes and sys.stdin.isatty():
            click.confirm(f"Revoke {_named(row)}?", abort=True, err=True)

    settings = _settings(file, sets, options)
    row = here.run(settings, lambda enrolment, _: enrolment.revoke(wanted, agree, force=force))
    warning = (
        "This is bookkeeping, not rotation: the machine cannot open the keyring anew, but a service that runs there "
        "goes on until it is locked or ended, and the root key may have been kept. Next"
    )
    show.note(show.advice(warning, "key rotate root"))
    _done({"fingerprint": row.fingerprint, "name": row.name, "revoked": True}, f"revoked {_named(row)}")


@machine.command()
@_here
def verify(*, file: Path | None, sets: dict[str, str], **options: Any) -> None:
    """See that this machine's own key opens the keyring, and what it may do."""
    from strongroom.deploy.cli.machine import here

    said = here.run(_settings(file, sets, options), lambda enrolment, _: enrolment.verify())
    if show.as_json():
        show.answer(said._asdict())
    else:
        show.fields(
            {
                "fingerprint": said.fingerprint,
                "name": said.name,
                "opens": said.root,
                "authorizer": "Yes" if said.authorizer else "No",
            }
        )


def _name(said: str | None) -> str:
    """Return a machine's name: what was said, or the host's.

    Raises:
        UsageError: neither is one.
    """
    from strongroom.storage_service.keyring.ceremonies.machines import is_name

    name = said or socket.gethostname().partition(".")[0]
    if not is_name(name):
        raise click.UsageError("--name: a machine's name is 1 to 64 of [A-Za-z0-9._@+-], and no fingerprint")
    return name


def _read(file: str) -> bytes:
    """Return what is in a file that was named; one byte over the limit at most."""
    try:
        with Path(file).open("rb") as opened:
            return opened.read(_MAX_FILE + 1)
    except OSError as error:
        raise click.UsageError(f"{file}: {error.strerror}") from error


def _lines(text: bytes) -> set[str]:
    lines = text.decode(errors="replace").splitlines()
    return {line.strip() for line in (re.sub(r"#.*", "", each) for each in lines)} - {""}


def _show(listing: "Listing", found: "list[Row] | None") -> None:
    from strongroom.storage_service.keyring.ceremonies.machines import SHORT

    if show.as_json():
        rows = [
            {
                "fingerprint": row.fingerprint,
                "name": row.name,
                "authorizer": row.authority,
                "created": row.created,
                "why": row.why,
            }
            for row in listing.rows
        ]
        data: dict[str, Any] = {"machines": rows, "why": listing.why, "next": steps.as_data(listing.next)}
        show.answer(data if found is None else data | {"unexpected": [row.fingerprint for row in found]})
        return
    show.table(_COLUMNS, ([row.fingerprint[:SHORT], row.name, row.authority, row.created] for row in listing.rows))
    for row in listing.rows:
        if row.why and not listing.why:
            show.words(f"{_named(row)}: {row.why}")
    if listing.why:
        show.words(steps.line(f"no flag can be read here: {listing.why}", listing.next, common().lead))


def _named(row: "Row") -> str:
    from strongroom.storage_service.keyring.ceremonies.machines import SHORT

    return f"{row.name} ({row.fingerprint[:SHORT]})"


def _done(data: dict[str, object], text: str) -> None:
    if show.as_json():
        show.answer(data)
    else:
        show.words(text)

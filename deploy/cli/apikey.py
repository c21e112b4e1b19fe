"""``strongroom apikey``: who may ask the service, and how far."""

from typing import TYPE_CHECKING

import click

from strongroom.deploy.cli import show
from strongroom.deploy.cli.common import client, common_options
from strongroom.deploy.cli.completion import API_ID, APIKEY_PATH
from strongroom.deploy.cli.words import Noun

if TYPE_CHECKING:
    from strongroom.storage_service.client.operations import IssuedKey

_COLUMNS = ("id", "paths", "actions", "created", "used", "expires", "former_ends", "former_used")
_ACTIONS = ("get", "list", "put", "delete")


@click.group(cls=Noun)
def apikey() -> None:
    """Make, list and revoke API keys."""


_EXPIRES = click.option(
    "--expires", metavar="TIME", help="When it is worth nothing any more, as in 2027-01-31T12:00:00Z [never]."
)


def _show(made: "IssuedKey") -> None:
    show.note("This is the only time that the key is shown; the service keeps no copy. Put it away now.")
    told = {"id": made.api_id, "key": made.api_key.reveal(), "paths": made.paths, "actions": made.actions}
    (show.answer if show.as_json() else show.fields)(told)


@apikey.command()
@click.argument("id_", metavar="ID")
@click.option(
    "--path",
    "paths",
    multiple=True,
    metavar="PATH",
    help="What it reaches [/secrets]; may be repeated.",
    shell_complete=APIKEY_PATH,
)
@click.option("--action", "actions", multiple=True, type=click.Choice(_ACTIONS), help="What it may do there [all].")
@_EXPIRES
@common_options
def create(*, id_: str, paths: tuple[str, ...], actions: tuple[str, ...], expires: str | None) -> None:
    """Make an API key and print it, this once."""
    with client() as service:
        _show(service.create_apikey(id_, paths=paths or ("/secrets",), actions=actions or _ACTIONS, expires=expires))


@apikey.command()
@click.argument("id_", metavar="ID", shell_complete=API_ID)
@click.option(
    "--overlap",
    default="24h",
    show_default=True,
    metavar="DURATION",
    help="How long the key before is good, too; 0: it ends at once.",
)
@_EXPIRES
@common_options
def rotate(*, id_: str, overlap: str, expires: str | None) -> None:
    """Make another key in the place of one, and print it, this once."""
    with client() as service:
        _show(service.rotate_apikey(id_, overlap="" if overlap == "0" else overlap, expires=expires))


@apikey.command("end-former")
@click.argument("id_", metavar="ID", shell_complete=API_ID)
@common_options
def end_former(*, id_: str) -> None:
    """End the key before, of a key that was rotated, at once and everywhere."""
    with client() as service:
        service.end_former_apikey(id_)
    if show.as_json():
        show.answer({"id": id_, "ended": True})
    else:
        show.words(f"ended the key before {id_}'s")


@apikey.command("list")
@common_options
def list_() -> None:
    """List API keys; the keys themselves are known to nobody."""
    with client() as service:
        keys = service.list_apikeys()
    rows = [{column: getattr(key, column) for column in _COLUMNS} for key in keys]
    if show.as_json():
        show.answer({"apikeys": rows})
    else:
        show.table(_COLUMNS, ([row[column] for column in _COLUMNS] for row in rows))


@apikey.command()
@click.argument("id_", metavar="ID", shell_complete=API_ID)
@common_options
def revoke(*, id_: str) -> None:
    """End an API key, at once and everywhere."""
    with client() as service:
        service.revoke_apikey(id_)
    if show.as_json():
        show.answer({"id": id_, "revoked": True})
    else:
        show.words(f"revoked {id_}")

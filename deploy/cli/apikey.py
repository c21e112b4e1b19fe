"""``strongroom apikey``: who may ask the service, and how far."""

import click

from strongroom.deploy.cli import show
from strongroom.deploy.cli.common import client, common_options
from strongroom.deploy.cli.completion import API_ID, APIKEY_PATH
from strongroom.deploy.cli.words import Noun

_COLUMNS = ("id", "paths", "actions", "created", "used")
_ACTIONS = ("get", "list", "put", "delete")


@click.group(cls=Noun)
def apikey() -> None:
    """Make, list and revoke API keys."""


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
@common_options
def create(*, id_: str, paths: tuple[str, ...], actions: tuple[str, ...]) -> None:
    """Make an API key and print it, this once."""
    with client() as service:
        made = service.create_apikey(id_, paths=paths or ("/secrets",), actions=actions or _ACTIONS)
    show.note("This is the only time that the key is shown; the service keeps no copy. Put it away now.")
    if show.as_json():
        show.answer({"id": made.api_id, "key": made.api_key.reveal(), "paths": made.paths, "actions": made.actions})
    else:
        show.fields({"id": made.api_id, "key": made.api_key.reveal(), "paths": made.paths, "actions": made.actions})


@apikey.command("list")
@common_options
def list_() -> None:
    """List API keys; the keys themselves are known to nobody."""
    with client() as service:
        keys = service.list_apikeys()
    rows = [
        {"id": key.id, "paths": key.paths, "actions": key.actions, "created": key.created, "used": key.used}
        for key in keys
    ]
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

"""``strongroom key keyset`` and ``strongroom key backup``: which keys are for what, and what keeps them."""

import click
import msgspec

from strongroom.deploy.cli import show
from strongroom.deploy.cli.common import client, common_options
from strongroom.deploy.cli.completion import BACKUP, CONTAINER, KEYSET
from strongroom.deploy.cli.words import Noun

_NAME = click.argument("name", shell_complete=KEYSET)
_LABEL = click.argument("label", shell_complete=BACKUP)


@click.group(cls=Noun)
def keyset() -> None:
    """Make keysets, and say which containers are encrypted under them."""


@keyset.command()
@click.argument("name")
@click.option("--keys", type=click.IntRange(1, 32), default=1, metavar="N", help="Keys in each generation [1].")
@common_options
def create(*, name: str, keys: int) -> None:
    """Make a keyset. Of the keys of a generation, each write takes one at random."""
    with client() as service:
        service.create_keyset(name, keys=keys)
    show.done({"keyset": name, "keys": keys}, f"made keyset {name}")


@keyset.command("list")
@common_options
def list_() -> None:
    """List all keysets."""
    with client(60.0) as service:
        known = service.list_keysets()
    if show.as_json():
        show.answer({"keysets": msgspec.to_builtins(known)})
        return
    show.table(
        ("keyset", "active", "generations", "keys", "records"),
        ([k.name, k.active, len(k.generations), k.keys, sum(each.records for each in k.generations)] for k in known),
    )


@keyset.command("show")
@_NAME
@common_options
def show_(*, name: str) -> None:
    """Show a keyset and its generations."""
    from strongroom.storage_service.errors import NotFound

    with client(60.0) as service:
        said = service.keyring()
    found = next((each for each in said.keysets if each.name == name), None)
    if found is None:
        raise NotFound("there is no such keyset")
    places = [place.prefix for place in said.places if place.keyset == name]
    if show.as_json():
        show.answer(msgspec.to_builtins(found) | {"places": places})
        return
    show.fields({"keyset": found.name, "reverting": found.reverting, "for": places})
    columns = ("generation", "", "keys", "records", "created")
    rows = ([v.generation, "active" if v.active else "", v.keys, v.records, v.created] for v in found.generations)
    show.table(columns, rows)


@keyset.command()
@_NAME
@common_options
def remove(*, name: str) -> None:
    """Destroy a keyset that nothing is under and no container is assigned to."""
    from strongroom.deploy.cli.key.usage import LONG

    with client(LONG) as service:
        service.remove_keyset(name)
    show.done({"keyset": name, "removed": True}, f"removed keyset {name}")


@keyset.command()
@click.argument("container", shell_complete=CONTAINER)
@_NAME
@common_options
def assign(*, container: str, name: str) -> None:
    """Let the secrets in CONTAINER be written under keyset NAME from now on; reencrypt brings over those there are."""
    with client() as service:
        service.assign_keyset(container, name)
    text = show.advice(f"{container} is under {name}; to follow", "key reencrypt", keyset=name)
    show.done({"container": container, "keyset": name}, text)


@click.group(cls=Noun)
def backup() -> None:
    """Register copies of the store, so that no key is retired without which one cannot be read."""


@backup.command()
@click.argument("label")
@common_options
def register(*, label: str) -> None:
    """Keep every generation of today for the copy of the store that is called LABEL."""
    with client() as service:
        service.register_backup(label)
    show.done({"backup": label, "registered": True}, f"registered backup {label}")


@backup.command("list")
@common_options
def list_backups() -> None:
    """List the registered backups, and the generations that each needs."""
    with client() as service:
        known = service.list_backups()
    if show.as_json():
        show.answer({"backups": msgspec.to_builtins(known)})
    else:
        show.table(("backup", "taken", "needs"), ([each.label, each.taken, each.generations] for each in known))


@backup.command()
@_LABEL
@common_options
def forget(*, label: str) -> None:
    """Let go of what a backup needs: it cannot be read any more once those generations are retired."""
    with client() as service:
        service.forget_backup(label)
    show.done({"backup": label, "forgotten": True}, f"forgot backup {label}")

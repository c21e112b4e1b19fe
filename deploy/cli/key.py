"""``strongroom key``: the keys behind the secrets, from the first to the last."""

from typing import TYPE_CHECKING

import click

from deploy.cli import key_input, show
from deploy.cli.common import client, common_options

if TYPE_CHECKING:
    from storage_service.keyring_wire import KeyringStatus


@click.group()
def key() -> None:
    """Make, unlock, lock, rotate and retire the keys that secrets are encrypted under."""


@key.command()
@common_options
def status() -> None:
    """Show the state of the keyring, who can open it, its keysets, and what is under way."""
    import msgspec

    with client() as service:
        said = service.keyring()
    if show.as_json():
        show.answer(msgspec.to_builtins(said))
    else:
        _tell(said)


def _tell(said: "KeyringStatus") -> None:
    show.fields({"state": said.state, "root key": said.root})
    if said.wrong_keys:
        show.line(f"{said.wrong_keys} wrong keys since the last right one; wait {said.wait:.0f} seconds")
    if said.recipients:
        columns = ("opened by", "id", "created", "needed", "of", "name")
        rows = ([r.kind, r.id, r.created, r.needed, r.total, r.name] for r in said.recipients)
        show.table(columns, rows)
    if said.keysets:
        show.table(
            ("version", "", "keys", "records", "created"),
            (
                [each.version, "active" if each.active else "", each.keys, each.records, each.created]
                for keyset in said.keysets
                for each in keyset.versions
            ),
        )
    if said.places:
        show.table(("records under", "keyset", "also still"), ([p.prefix, p.keyset, p.before] for p in said.places))
    if said.backups:
        show.table(("backup", "taken", "needs"), ([b.label, b.taken, b.versions] for b in said.backups))
    if said.halted is not None:
        show.line(f"no secret is written since {said.halted.since}: {said.halted.reason}")
    for each in said.pending:
        records = "" if each.records is None else f", {each.records} records"
        show.line(f"to {each.what} {each.keyset or each.root or ''}{records}: {each.command}")
    match said.state:
        case "uninitialized":
            show.line("make the first keys: strongroom key init")
        case "locked":
            show.line("unlock it: strongroom key unlock")


@key.command()
@click.option("--file", "file", metavar="FILE", help="Read the key or shares from a file; - is standard input.")
@common_options
def unlock(*, file: str | None) -> None:
    """Unlock the service with an unlock key, or with enough shares, a line each.

    At a terminal they are asked for without echo. They never stand on a command line.
    """
    text = key_input.read(file, key_input.ask_for_enough)
    with client() as service:
        service.unlock(text)
        said = service.keyring()
    _done({"state": said.state}, f"the service is {said.state}")


@key.command()
@common_options
def lock() -> None:
    """Lock the service: no secret is read or written until somebody unlocks it. Plain records go on working."""
    with client() as service:
        service.lock()
    _done({"state": "locked"}, "the service is locked")


def _done(data: dict[str, object], text: str) -> None:
    if show.as_json():
        show.answer(data)
    else:
        show.line(text)

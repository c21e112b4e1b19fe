"""``strongroom key``: the keys behind the secrets, from the first to the last."""

from typing import TYPE_CHECKING

import click

from strongroom.deploy import steps
from strongroom.deploy.cli import show
from strongroom.deploy.cli.common import client, common, common_options
from strongroom.deploy.cli.key import entry
from strongroom.deploy.cli.key.file import export, import_
from strongroom.deploy.cli.key.init import init
from strongroom.deploy.cli.key.keysets import backup, keyset
from strongroom.deploy.cli.key.rotate import reencrypt, retire, rotate
from strongroom.deploy.cli.key.usage import usage
from strongroom.deploy.cli.words import Noun

if TYPE_CHECKING:
    from strongroom.storage_service.wire.keys import KeyringStatus

_HUMAN = frozenset({"unlock", "shares"})


@click.group(cls=Noun)
def key() -> None:
    """Make, unlock, lock, rotate and retire the keys behind the secrets."""


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
        show.words(f"{said.wrong_keys} wrong keys since the last right one; wait {said.wait:.0f} seconds")
    if said.recipients:
        columns = ("opened by", "id", "created", "needed", "of", "name")
        rows = ([r.kind, r.id, r.created, r.needed, r.total, r.name] for r in said.recipients)
        show.table(columns, rows)
    if said.keysets:
        show.table(
            ("generation", "", "keys", "records", "created"),
            (
                [each.generation, "active" if each.active else "", each.keys, each.records, each.created]
                for keyset in said.keysets
                for each in keyset.generations
            ),
        )
    if said.places:
        show.table(("records under", "keyset", "also still"), ([p.prefix, p.keyset, p.before] for p in said.places))
    if said.backups:
        show.table(("backup", "taken", "needs"), ([b.label, b.taken, b.generations] for b in said.backups))
    if said.halted is not None:
        show.words(f"no secret is written since {said.halted.since}: {said.halted.reason}")
    for each in said.pending:
        records = "" if each.records is None else f", {each.records} records"
        for step in each.next:
            typed = steps.command(step, common().lead)
            show.words(f"to {each.what} {each.keyset or each.root or ''}{records}: {typed}")
    match said.state:
        case "uninitialized":
            show.words(show.advice("to make the first keys", "key init"))
        case "locked":
            show.words(show.advice("to unlock it", "key unlock"))
        case "behind":
            show.words(
                "another machine rotated the root key: put the new key file in its place here; the log says which"
            )


@key.command()
@click.option("--file", "file", metavar="FILE", help="Read the key or the shares from a file; - is standard input.")
@common_options
def unlock(*, file: str | None) -> None:
    """Unlock the service with an unlock key, or with enough shares, a line each.

    At a terminal they are asked for without echo; they never stand on a command line. A service that a key file opens
    needs nothing typed.
    """
    with client() as service:
        by_people = file is not None or any(each.kind in _HUMAN for each in service.keyring().recipients)
        service.unlock(entry.read(file, entry.ask_for_enough) if by_people else None)
        state = service.keyring().state
    show.done({"state": state}, f"the service is {state}")


@key.command()
@click.option("--forget", is_flag=True, help="End the workers, too, in whose memory copies of keys may be left.")
@common_options
def lock(*, forget: bool) -> None:
    """Lock the service: no secret is read or written until somebody unlocks it. Plain records go on working.

    With --forget other workers take the place of those who had the keys. They know the service's own API key alone
    until it is unlocked.
    """
    with client() as service:
        service.lock(forget=forget)
    show.done({"state": "locked"}, "the service is locked")


for _command in (init, rotate, reencrypt, retire, usage, keyset, backup, export, import_):
    key.add_command(_command)

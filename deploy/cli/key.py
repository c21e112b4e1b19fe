"""``strongroom key``: the keys behind the secrets, from the first to the last."""

from typing import TYPE_CHECKING

import click

from deploy.cli import key_input, key_options, key_print, show
from deploy.cli.common import client, common_options
from deploy.cli.key_census import census
from deploy.cli.key_file import export, import_
from deploy.cli.key_keysets import backup, keyset
from deploy.cli.key_rotate import reencrypt, retire, rotate

if TYPE_CHECKING:
    from storage_service.keyring_wire import KeyringStatus, Mode

_HUMAN = frozenset({"unlock", "shares"})


@click.group()
def key() -> None:
    """Make, unlock, lock, rotate and retire the keys behind the secrets."""


@key.command()
@key_options.recipients_options
@click.option("--keyset-keys", type=click.IntRange(1, 32), default=1, metavar="N", help="Keys in each version [1].")
@click.option("--again", is_flag=True, help="In the place of one whose keys got lost before it was used.")
@common_options
def init(
    *, mode: "Mode | None", count: int | None, shares: tuple[int, int] | None, keyset_keys: int, again: bool
) -> None:
    """Make the first keys of a store, and print those for people, this once.

    With --mode file the key file opens it, and the service starts unlocked. With unlock keys (any one opens) or shares
    (some open together) it is locked now and after every start, until somebody unlocks it.
    """
    from storage_service.errors import Exists

    said = key_options.wanted(mode, count, shares) or key_options.Wanted("unlock")
    if said.mode == "machine":
        raise click.UsageError("the first machine makes its keyring itself: strongroom machine init")
    with client() as service:
        try:
            made = service.init_keyring(said.mode, total=said.total, needed=said.needed, keys=keyset_keys, again=again)
        except Exists:
            raise Exists("the store is initialized already; its keyring is kept") from None
        state = service.keyring().state
    key_print.new_keys(made, state=state)
    if not show.as_json():
        show.line(f"the service is {state}")


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
            show.line("to make the first keys: strongroom key init")
        case "locked":
            show.line("to unlock it: strongroom key unlock")


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
        service.unlock(key_input.read(file, key_input.ask_for_enough) if by_people else None)
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


for _command in (rotate, reencrypt, retire, census, keyset, backup, export, import_):
    key.add_command(_command)

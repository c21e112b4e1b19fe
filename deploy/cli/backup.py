"""``strongroom backup``: a running store as one file, and whether such a file is whole.

``backup FILE`` and ``backup verify FILE``: what follows the noun is a verb if it is one, else the file to be made. A
file of a verb's name is ``./verify``.
"""

import asyncio
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import click

from deploy.cli import backup_file, show
from deploy.cli.backup_file import place_options
from deploy.cli.common import client, common_options

if TYPE_CHECKING:
    from deploy.settings import Settings
    from storage_service.backends.base import Snapshot
    from storage_service.backup.form import End
    from storage_service.client import StorageClient
    from storage_service.keyring_wire import KeyringStatus

ATTEMPTS: Final = 8  # at finding a moment at which nobody changes the keyring
PAUSE: Final = 0.1  # seconds between them


class _VerbOrFile(click.Group):
    """A group whose first word is a verb of its own, or the file of the verb that goes unsaid."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the verb in where it goes unsaid."""
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["take", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_VerbOrFile, options_metavar="", subcommand_metavar="[take] FILE | verify FILE")
def backup() -> None:
    """Copy a running store into FILE (- is standard output), or verify such a file.

    The copy is of one moment, with the keyring in it, and needs one key of those that open the service. Nobody is kept
    from writing meanwhile. What is secret stays encrypted; nothing is decrypted for it.
    """


@backup.command()
@click.argument("file", metavar="FILE|-")
@click.option("--label", metavar="NAME", help="What the key index calls it [time and four digits].")
@place_options
@common_options
def take(*, file: str, label: str | None, store: str | None, config: Path | None) -> None:
    """Copy the store into a new file, mode 0600, or to standard output; this verb may go unsaid."""
    if file == "-" and sys.stdout.isatty():
        raise click.UsageError("a backup is not for a terminal: name a file, or pipe it on")
    settings = backup_file.settings(store, config)
    label = label or f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(2)}"
    with client(60.0) as service, _output(file) as out, _registered(service, label):
        end = asyncio.run(_copy(settings, service, label, out))
    others = backup_file.other_stores(settings)
    if file == "-":
        return
    if show.as_json():
        show.answer({"backup": label, "file": file, "rows": end.rows, "left_out": others})
        return
    show.line(f"copied {end.rows} records into {file}; the key index knows it as {label}")
    for each in others:
        show.line(f"not in it are the records kept in {each}")
    show.line(f"to see that it is whole: strongroom backup verify {file}")


@backup.command()
@click.argument("file", metavar="FILE|-")
@click.option(
    "--open", "opening", is_flag=True, help="Open every secret in it, too; asks for a key where none is said."
)
@backup_file.key_options
@common_options
def verify(*, file: str, opening: bool, key_file: Path | None, typed: str | None) -> None:
    """Read a backup to its end, and say what is in it, and which keys open it.

    Without a key that takes checksums alone; with one every secret in it is opened. Nothing is written anywhere.
    """
    from storage_service.backup.checking import check, exported_in
    from storage_service.backup.form import Reader, rows_said

    with backup_file.opened(file) as source:
        total = rows_said(source) if source.seekable() else None
        reader = Reader(source)
        exported = exported_in(reader.head)
        root = None
        if opening or key_file or typed:
            root = backup_file.root_of(exported, backup_file.given(exported, key_file, typed))
        with show.progress("reading", total) as advance:
            found = check(reader, advance, root)
    said = {
        "backup": found.head.label,
        "taken": found.head.taken,
        "store": found.head.store,
        "rows": found.end.rows,
        "records": dict(sorted(found.by_place.items())),
        "opened": None if root is None else found.opened,
        "unreadable": found.unreadable,
    }
    if show.as_json():
        show.answer(said | {"recipients": [backup_file.recipient(each) for each in exported.recipients]})
    else:
        show.fields({name: value for name, value in said.items() if name != "unreadable"})
        columns = ("opened by", "id", "created", "needed", "of", "name")
        show.table(columns, ([r.kind, r.id, r.created, r.needed, r.of, r.name] for r in exported.recipients))
        for name in found.unreadable:
            show.line(f"does not open: {name}")
        if not found.strangers:
            show.line("it is whole" + ("" if root is None else f", and all {found.opened} secrets in it open"))
    if found.strangers:
        click.get_current_context().exit(2)


@contextmanager
def _output(file: str) -> Iterator[IO[bytes]]:
    """Give where the backup goes."""
    from deploy.home import new_private
    from storage_service.errors import Exists

    try:
        if file == "-":
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        else:
            with new_private(Path(file).absolute()) as out:
                yield out
    except FileExistsError:
        raise Exists(f"{file} exists already, and no backup takes the place of anything") from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror}; nothing was left there") from None


@contextmanager
def _registered(service: "StorageClient", label: str) -> Iterator[None]:
    """Let the key index know the backup *label*, and forget it again if it does not come about."""
    from storage_service.errors import StrongroomError

    service.register_backup(label)
    try:
        yield
    except BaseException:
        with suppress(StrongroomError):  # what is left there keeps keys, and loses nothing
            service.forget_backup(label)
        raise


async def _copy(settings: "Settings", service: "StorageClient", label: str, out: IO[bytes]) -> "End":
    """Copy a moment at which the keyring is that of its export, and all its versions are kept for this backup."""
    import msgspec

    from storage_service.backends import open_backend
    from storage_service.backends.base import Copyable
    from storage_service.backup.form import Head
    from storage_service.backup.taking import copy
    from storage_service.errors import Overtaken
    from storage_service.keyring.vault import now
    from storage_service.wire import VERSION

    store = open_backend(settings.service.store)
    if not isinstance(store, Copyable):
        raise click.UsageError("a store of that kind cannot be copied")
    for _ in range(ATTEMPTS):
        keyring = msgspec.json.decode(service.export_keyring())
        covered = _covers(service.keyring(), label)
        async with store.snapshot() as snapshot:
            # Its token is never the same twice. Read between the two, the list of versions is of that keyring, too.
            if covered and await _keyring_of(snapshot) == keyring["keys"]:
                head = Head(
                    version=VERSION,
                    label=label,
                    taken=now(),
                    store=settings.service.store.partition(":")[0],
                    revision=snapshot.revision,
                    keyring=keyring,
                )
                with show.progress("copying", snapshot.count) as advance:
                    return await copy(snapshot, head, out, advance)
        if not covered:
            service.forget_backup(label)
            service.register_backup(label)
        await asyncio.sleep(PAUSE)
    raise Overtaken(
        "the store does not hold the keyring of the service: say with --store where the service keeps its records; or "
        "others change its keyring without end"
    )


def _covers(status: "KeyringStatus", label: str) -> bool:
    """Whether every version of the keyring is kept for that backup."""
    kept = {version for each in status.backups if each.label == label for version in each.versions}
    return kept >= {each.version for keyset in status.keysets for each in keyset.versions}


async def _keyring_of(snapshot: "Snapshot") -> str | None:
    from storage_service.keyring.document import NAME

    value = await snapshot.get(NAME)
    return None if value is None else value.decode(errors="replace")

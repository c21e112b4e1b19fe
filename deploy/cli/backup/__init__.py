"""``strongroom backup``: a running store as one file, and whether such a file is whole.

``backup FILE`` and ``backup verify FILE``: what follows the noun is a verb if it is one, else the file to be made. A
file of a verb's name is ``./verify``.
"""

import asyncio
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from strongroom.deploy.cli import show
from strongroom.deploy.cli.backup import file as backup_file
from strongroom.deploy.cli.backup.copying import Asked, copy, moment_of
from strongroom.deploy.cli.backup.file import place_options
from strongroom.deploy.cli.common import client, common_options
from strongroom.deploy.cli.interruption import Stretch, interruptible, said_again
from strongroom.deploy.cli.key import entry
from strongroom.deploy.cli.words import Noun

if TYPE_CHECKING:
    from strongroom.storage_service.backup.form import End
    from strongroom.storage_service.config import ServiceSettings


class _VerbOrFile(Noun):
    """A group whose first word is a verb, or the file for the verb that may be left out."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert the verb where it is left out."""
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["take", *args]
        return super().parse_args(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the verb of that name; of any other name, the one that may be left out."""
        return super().get_command(ctx, cmd_name) or self.commands["take"]


@click.group(cls=_VerbOrFile, options_metavar="", subcommand_metavar="[take] FILE | verify FILE")
def backup() -> None:
    """Copy a running store into FILE (- is standard output), or verify such a file.

    The copy is of one moment, with the keyring in it, and needs one key of those that open the service. Nobody is kept
    from writing meanwhile. What is secret stays encrypted; nothing is decrypted for it.
    """


@backup.command()
@click.argument("file", metavar="FILE|-")
@click.option("--label", metavar="NAME", help="What the key index calls it [time and four digits].")
@click.option("--offline", is_flag=True, help="Do not ask the service, which is stopped or locked; takes a key.")
@backup_file.key_options
@place_options
@common_options
def take(
    *,
    file: str,
    label: str | None,
    offline: bool,
    key_file: Path | None,
    typed: str | None,
    store: str | None,
    config: Path | None,
) -> None:
    """Copy the store into a new file, mode 0600, or to standard output; this verb may go unsaid.

    The service that runs is asked for the keyring, and to keep the keys that the copy needs. With --offline both is
    done here, with the key that opens it: what the service opens it with, or --key-file, or what is typed.
    """
    if file == "-" and sys.stdout.isatty():
        raise click.UsageError("a backup is not for a terminal: name a file, or pipe it on")
    if (key_file or typed) and not offline:
        raise click.UsageError("a service that runs needs no key for it; --key-file and --file go with --offline")
    from strongroom.storage_service.backends.url import as_said, without_password

    said = {"label": label, "key_file": key_file, "typed": typed, "store": store, "config": config}
    again = said_again("to begin again", "backup take", file, said, offline=offline)
    settings = backup_file.settings_with_records(store, config)
    copied = as_said(without_password(settings.service.store))
    label = label or f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(2)}"
    partly = "what came is not a backup" if file == "-" else "no file is left"
    far = f"{{done}} records were copied; {partly}, and in the store all is as it was"
    with interruptible(far, again) as stretch, _output(file) as out:
        if offline:
            end = asyncio.run(_copy_offline(settings.service, label, out, (key_file, typed), stretch))
        else:
            with client(60.0) as service:
                end = asyncio.run(copy(settings.service, Asked(service), label, out, stretch))
    others = backup_file.other_stores(settings)
    if file == "-":
        return
    if show.as_json():
        show.answer({"backup": label, "file": file, "store": copied, "rows": end.rows, "left_out": others})
        return
    show.words(f"copied {end.rows} records of {copied} into {file}; the key index knows it as {label}")
    for each in others:
        show.words(f"not in it are the records kept in {each}")
    show.words(show.advice("to see that it is whole", "backup verify", file=file))


@backup.command()
@click.argument("file", metavar="FILE|-")
@click.option(
    "--open", "opening", is_flag=True, help="Open every secret in it, too; asks for a key where none is given."
)
@backup_file.key_options
@common_options
def verify(*, file: str, opening: bool, key_file: Path | None, typed: str | None) -> None:
    """Read a backup to its end, and say what is in it, and which keys open it.

    Without a key that takes checksums alone; with one every secret in it is opened. Nothing is written anywhere.
    """
    from strongroom.storage_service.backup.checking import check, exported_in
    from strongroom.storage_service.backup.form import Reader, rows_said
    from strongroom.storage_service.keyring.ceremonies.export import open_root

    again = said_again("to read it again", "backup verify", file, {"key_file": key_file, "typed": typed}, open=opening)
    with backup_file.opened(file) as source:
        with backup_file.named(file):
            total = rows_said(source) if source.seekable() else None
        with backup_file.named(file):
            reader = Reader(source)
            exported = exported_in(reader.head)
        root = None
        if opening or key_file or typed:
            given = backup_file.given(exported, key_file, typed)
            with backup_file.named(file):
                root = open_root(exported, given)
        with (
            interruptible("{done} records were read, and nothing was wrong with them", again) as stretch,
            backup_file.named(file),
            show.progress("reading", total) as advance,
        ):
            found = check(reader, stretch.counting(advance), root)
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
            show.words(f"does not open: {name}")
        if not found.strangers:
            show.words("it is whole" + ("" if root is None else f", and all {found.opened} secrets in it open"))
    if found.strangers:
        click.get_current_context().exit(2)


@contextmanager
def _output(file: str) -> Iterator[IO[bytes]]:
    """Give where the backup goes."""
    from strongroom.deploy.home import new_private
    from strongroom.storage_service.errors import Exists

    try:
        if file == "-":
            yield sys.stdout.buffer
        else:
            with new_private(Path(file).absolute()) as out:
                yield out
    except FileExistsError:
        raise Exists(f"{file} exists already, and no backup takes the place of anything") from None
    except BrokenPipeError:
        raise
    except OSError as error:
        if file == "-":  # what was not written is not to be tried again at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.ClickException(f"{file}: {error.strerror}; nothing was left there") from None


async def _copy_offline(
    settings: "ServiceSettings",
    label: str,
    out: IO[bytes],
    key: tuple[Path | None, str | None],
    stretch: Stretch,
) -> "End":
    from strongroom.storage_service.backends import open_backend
    from strongroom.storage_service.keyring.ceremonies.offline import open_for_backup

    key_file, typed = key
    async with moment_of(settings.store):
        pass  # first: to open one to write would make it where there is none
    store = open_backend(settings.store)
    await store.open()
    try:
        index = await open_for_backup(store, settings, key_file, lambda: entry.read_text(typed), by_typing=bool(typed))
        return await copy(settings, index, label, out, stretch)
    finally:
        await store.close()

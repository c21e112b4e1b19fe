"""``strongroom key export`` and ``import``: the keyring as one encrypted file, and back."""

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from strongroom.deploy.cli import show
from strongroom.deploy.cli.common import client, common, common_options
from strongroom.deploy.cli.interruption import interruptible, said_again
from strongroom.deploy.cli.key import entry as key_input
from strongroom.deploy.cli.secret import write_out
from strongroom.deploy.cli.settings_options import flags_of, settings_options
from strongroom.deploy.cli.words import Verb, needing_server

if TYPE_CHECKING:
    from strongroom.storage_service.config import ServiceSettings
    from strongroom.storage_service.keyring.ceremonies.export import Exported, Given
    from strongroom.storage_service.keyring.ceremonies.restore import Restored

_TYPED = frozenset({"unlock", "shares"})


@click.command(cls=Verb)
@click.option(
    "--file", "output", metavar="FILE", type=click.Path(path_type=Path), help="Write it to a file, mode 0600."
)
@common_options
def export(*, output: Path | None) -> None:
    """Write the keyring as one file, in which everything secret is encrypted.

    With it, a copy of the store, and one key that opens it, every secret is there again: strongroom key import.
    """
    with client(60.0) as service:
        content = service.export_keyring()
    write_out(content, output)


@needing_server
@click.command("import", cls=Verb)
@click.argument("exported", metavar="FILE", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--key-file", type=click.Path(path_type=Path), metavar="FILE", help="The root key file that opens it.")
@click.option("--file", "typed", metavar="FILE", help="Read the unlock key or shares from a file; - is standard input.")
@click.option("--replace", is_flag=True, help="Put it in the place of a keyring that does not open.")
@click.option("--leave-unreadable", is_flag=True, help="Do so although records are under keys that it does not have.")
@click.option("--config", "file", type=click.Path(path_type=Path), metavar="FILE", help="The TOML file to read.")
@settings_options
@common_options
def import_(
    *,
    exported: Path,
    key_file: Path | None,
    typed: str | None,
    replace: bool,
    leave_unreadable: bool,
    file: Path | None,
    sets: dict[str, str],
    **options: Any,
) -> None:
    """Bring an exported keyring back to the store of a service, which need not run.

    It takes one key that opens the file: an unlock key or shares, asked for or read from standard input, or the root
    key file. A keyring that is there keeps what it has, and gets what only the file has.
    """
    from strongroom.deploy.settings import load, refuse_another_store
    from strongroom.storage_service.errors import Invalid
    from strongroom.storage_service.keyring.ceremonies.export import MAX_FILE, read

    settings = load(
        environ=os.environ, home=common().home, config=file, flags=flags_of(options), sets=sets, without_key=True
    )
    with exported.open("rb") as opened:
        found = read(opened.read(MAX_FILE + 1))
    refuse_another_store(settings)
    given = _given(found, key_file or settings.service.root_key, typed, file_said=key_file is not None)
    said = {"key_file": key_file, "typed": typed, "config": file, "store": options["store"]}
    flags = {"replace": replace, "leave_unreadable": leave_unreadable}
    again = said_again("to go on", "key import", str(exported), said, **flags)
    try:
        with interruptible("the store has the keyring that it had, or all of the one that was brought", again):
            done = asyncio.run(_restore(settings.service, found, given, replace=replace, leave=leave_unreadable))
    except OSError as error:
        raise Invalid(f"the store cannot be opened: {error.strerror}") from None
    counting = show.advice("once the service runs and is unlocked", "key usage", scan=True, repair=True)
    show.done(
        {"root": done.root, "added": done.added, "unreadable": done.unreadable, "counted": done.counted},
        f"the keyring under {done.root} is back"
        + (f", with {', '.join(done.added)}" if done.added else "")
        + ("" if done.counted else f"; {counting}"),
    )


def _given(found: "Exported", key_file: Path, typed: str | None, *, file_said: bool) -> "Given":
    """Return what is to open the file: what is typed, if that can open it, else the root key file."""
    from strongroom.storage_service.keyring.ceremonies.files import read_root

    kinds = {each.kind for each in found.recipients}
    if file_said or (typed is None and not kinds & _TYPED):
        return read_root(key_file)
    return key_input.read(typed, key_input.ask_for_enough).reveal()


async def _restore(
    settings: "ServiceSettings", found: "Exported", given: "Given", *, replace: bool, leave: bool
) -> "Restored":
    from strongroom.storage_service.backends import open_backend
    from strongroom.storage_service.keyring.ceremonies.export import open_root
    from strongroom.storage_service.keyring.ceremonies.offline import bring_back

    root = await asyncio.to_thread(open_root, found, given)
    store = open_backend(settings.store)
    await store.open()
    try:
        return await bring_back(store, settings, found, root, replace=replace, leave=leave)
    finally:
        await store.close()

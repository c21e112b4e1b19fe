"""What ``strongroom backup`` and ``restore`` have in common: the place, the file, and the key that opens it."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from strongroom.deploy.cli.common import common
from strongroom.deploy.cli.key import entry

if TYPE_CHECKING:
    from strongroom.deploy.settings import Settings
    from strongroom.storage_service.keyring.ceremonies.export import Exported, Given, Recipient

C = TypeVar("C", bound=Callable[..., Any])

_TYPED = frozenset({"unlock", "shares"})


def place_options(command: C) -> C:
    """Give *command* the options that say where the store is."""
    path = click.Path(path_type=Path)
    command = click.option("--config", type=path, metavar="FILE", help="The TOML file to read.")(command)
    return click.option("--store", metavar="URL", help="Where all is kept, if the settings do not say so.")(command)


def key_options(command: C) -> C:
    """Give *command* the options that say which key opens a backup."""
    path = click.Path(path_type=Path)
    command = click.option(
        "--file", "typed", metavar="FILE", help="Read the unlock key or shares from a file; - is standard input."
    )(command)
    return click.option("--key-file", type=path, metavar="FILE", help="The root key file that opens it.")(command)


def settings_with_records(store: str | None, config: Path | None) -> "Settings":
    """Return the settings of the service that was said, with the store that the home's records are in.

    What the home says of that comes before settings that speak of a store which the records have left, and behind
    *store*, which a person has just said.

    Raises:
        ConfigurationError: they are wrong.
        UsageError: they are of a store that no other process can see.
    """
    from strongroom.storage_service.backends.url import as_said, same_place
    from strongroom.storage_service.record_of_store import RecordOfStore

    said = settings(store, config)
    record = said.service.store_record
    # Who may read the store, and not the home, copies what the settings say.
    readable = store is None and record is not None and os.access(record, os.R_OK)
    kept = RecordOfStore(record).read() if readable and record is not None else None
    return said if kept is None or same_place(kept, said.service.store) else settings(as_said(kept), config)


def settings(store: str | None, config: Path | None) -> "Settings":
    """Return the settings of the service that was said.

    Raises:
        ConfigurationError: they are wrong.
        UsageError: they are of a store that no other process can see.
    """
    from strongroom.deploy.settings import load

    said = load(environ=os.environ, home=common().home, config=config, flags={"store": store}, without_key=True)
    if said.service.store.startswith("memory:"):
        raise click.UsageError("a store in memory is gone with its process; say a store: --store")
    return said


def other_stores(said: "Settings") -> list[str]:
    """Return the stores that records are kept in beside the one that is copied, without passwords."""
    from strongroom.storage_service.backends.url import as_said, without_password

    urls = {each.options["url"] for each in said.service.storage_handlers if "url" in each.options}
    return sorted(as_said(without_password(url)) for url in urls - {said.service.store})


@contextmanager
def named(file: str) -> Iterator[None]:
    """Let what is wrong with a backup, found inside, be told with the name of its file.

    Raises:
        StrongroomError: what was raised inside, which is the backup's fault.
    """
    from strongroom.storage_service.errors import StrongroomError

    try:
        yield
    except StrongroomError as error:
        error.args = (f"{'standard input' if file == '-' else file}: {error}", *error.args[1:])
        raise


@contextmanager
def opened(file: str) -> Iterator[IO[bytes]]:
    """Give a backup to read.

    Raises:
        UsageError: it cannot be.
    """
    if file == "-":
        yield sys.stdin.buffer
        return
    try:
        with Path(file).open("rb") as source:
            yield source
    except OSError as error:
        raise click.UsageError(f"{file}: {error.strerror}") from None


def given(exported: "Exported", key_file: Path | None, typed: str | None) -> "Given":
    """Return what is to open a backup: the root key file that was said, or else what is typed.

    Raises:
        UsageError: neither was said, and nobody who typed something could open it.
        KeyFileMissing, KeyFileUnusable: the file is no key.
    """
    from strongroom.storage_service.keyring.ceremonies.files import read_root

    if key_file is not None:
        return read_root(key_file)
    if typed is None and not {each.kind for each in exported.recipients} & _TYPED:
        raise click.UsageError("no key that people type opens it; say --key-file")
    return entry.read_text(typed)


def recipient(each: "Recipient") -> dict[str, Any]:
    """Return who opens it, for programs."""
    import msgspec

    said: dict[str, Any] = msgspec.to_builtins(each)
    return said

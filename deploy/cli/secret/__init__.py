"""``strongroom secret``: Custodia's containers and keys from the shell."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from strongroom.deploy.cli import show
from strongroom.deploy.cli.common import client, common, common_options
from strongroom.deploy.cli.completion import CONTAINER, SECRET
from strongroom.deploy.cli.secret import naming
from strongroom.deploy.cli.secret import source as secret_input
from strongroom.deploy.cli.secret.listing import ls
from strongroom.deploy.cli.secret.moving import cp, mv
from strongroom.deploy.cli.secret.removing import rm
from strongroom.deploy.cli.words import Noun

if TYPE_CHECKING:
    from strongroom.storage_service.client import StorageClient

_NAME = click.argument("name", metavar="CONTAINER/KEY", shell_complete=SECRET)
_CONTAINER = click.argument("container", shell_complete=CONTAINER)
_BINARY = click.option("--binary", is_flag=True, help="Bytes, not text.")
_ETAG = click.option("--if-match", "etag", metavar="ETAG", help="Only if it is still at this revision.")


@click.group(cls=Noun)
def secret() -> None:
    """Read and write secrets. A secret's name is CONTAINER/KEY, such as db/password."""


@secret.command()
@_NAME
@click.option("--file", "file", metavar="FILE", help="Read the secret from a file; - is standard input.")
@click.option("--edit", "editor", is_flag=True, help="Write it in $EDITOR, beginning with what is stored.")
@click.option(
    "--generate",
    "length",
    metavar="N",
    type=click.IntRange(12, 1024),
    help="Make it of N random letters and digits, and do not show it.",
)
@click.option("--show", "shown", is_flag=True, help="With --generate: write it to standard output.")
@_BINARY
@click.option("--exact", is_flag=True, help="Keep the line break at the end of a single line.")
@click.option("--chomp", is_flag=True, hidden=True)
@click.option("--replace", is_flag=True, help="Replace what is there; without this, that is a conflict.")
@click.option("--parents", "-p", is_flag=True, help="Make the containers on the way.")
@_ETAG
@common_options
def put(
    *,
    name: str,
    file: str | None,
    editor: bool,
    length: int | None,
    shown: bool,
    binary: bool,
    exact: bool,
    chomp: bool,
    replace: bool,
    parents: bool,
    etag: str | None,
) -> None:
    """Store a secret, read from standard input unless told otherwise.

    At a terminal it is asked for without echo. Of a single line, from a pipe, a file or the editor, the line break at
    the end is left out, and that is said; --exact keeps it. Several lines, such as a key's, are kept to the byte, and
    so is what --binary reads.
    """
    container, key = naming.split(name)
    if editor and (file or binary or replace):
        raise click.UsageError("--edit goes without --file, --binary and --replace")
    if length is not None and (file or editor or binary or exact):
        raise click.UsageError("--generate goes without --file, --edit, --binary and --exact")
    if shown and length is None:
        raise click.UsageError("--show goes with --generate")
    if replace and etag is not None:
        raise click.UsageError("--replace and --if-match exclude each other")
    if chomp:
        click.echo("strongroom: --chomp can be left out: of a single line that is the rule now", err=True)
    with client() as service:
        if editor:
            stored, etag = _stored(service, container, key, etag)
            edited = secret_input.edit(stored)
            read = stored if edited is None else edited
            content = stored if edited is None else _kept(edited, exact=exact or stored.endswith(b"\n"))
            if content == stored:
                show.done({"name": name, "etag": etag}, f"{name} is as it was")
                return
        elif length is not None:
            read = content = secret_input.generated(length).encode()
        else:
            if secret_input.is_typed(file) and not replace and etag is None:
                naming.refuse_taken(service, container, key, parents=parents)
            read = secret_input.read(file, "Secret")
            content = _kept(read, exact=exact or binary)
        value = content if binary else _text(content)
        if parents:
            naming.make_parents(service, container)
        with naming.of_secret(container, key):
            tag = _set(service, container, key, value, etag, replace=replace)
    if content != read:
        show.note("strongroom: dropped the line break at its end; --exact keeps it")
    if not shown:
        show.done({"name": name, "etag": tag}, f"stored {name}")
    elif show.as_json():
        show.answer({"name": name, "etag": tag, "value": value})
    else:
        write_out(content, None)


def _kept(content: bytes, *, exact: bool) -> bytes:
    """Return what is to be stored of *content*."""
    return content if exact else secret_input.one_line(content)


def _stored(service: "StorageClient", container: str, key: str, etag: str | None) -> tuple[bytes, str | None]:
    """Return the stored text and the revision to replace; nothing and None where there is none."""
    from strongroom.storage_service.errors import NotFound

    try:
        stored = service.get_secret(container, key)
    except NotFound:
        return b"", etag
    return stored.reveal().encode(), etag or stored.etag


def _set(
    service: "StorageClient", container: str, key: str, value: str | bytes, etag: str | None, *, replace: bool
) -> str:
    """Store *value*, creating; where it exists and *replace* is said, over whatever is there."""
    from strongroom.storage_service.errors import Exists

    try:
        return service.set_secret(container, key, value, etag=etag)
    except Exists:
        if replace:
            return service.set_secret(container, key, value, etag="*")
        raise


@secret.command()
@_NAME
@_BINARY
@click.option("--output", metavar="FILE", type=click.Path(path_type=Path), help="Write it to a file of mode 0600.")
@common_options
def get(*, name: str, binary: bool, output: Path | None) -> None:
    """Write a secret to standard output, as it is; a line break follows only at a terminal."""
    container, key = naming.split(name)
    with client() as service, naming.of_secret(container, key, service):
        stored = service.get_secret(container, key)
    if common().as_json:
        show.answer({"name": name, "value": stored.reveal(), "etag": stored.etag})
        return
    try:
        content = stored.reveal_bytes() if binary else stored.reveal().encode()
    except ValueError:
        raise click.UsageError("it was stored as text; leave out --binary") from None
    write_out(content, output)


def write_out(content: bytes, output: Path | None) -> None:
    """Write a secret to a private file, or to standard output."""
    if output is not None:
        from strongroom.storage_service.files import replace_private

        try:
            replace_private(output.absolute(), content)
        except OSError as error:
            raise click.UsageError(f"{output}: {error.strerror}") from error
        return
    sys.stdout.buffer.write(content)
    if sys.stdout.isatty() and not content.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


@secret.command()
@_CONTAINER
@click.option("--parents", "-p", is_flag=True, help="Make the containers on the way.")
@common_options
def mkdir(*, container: str, parents: bool) -> None:
    """Make a container; one that exists is as good."""
    bare = naming.container_named(container)
    with client() as service:
        if parents:
            naming.make_parents(service, bare.rpartition("/")[0])
        with naming.of_container(bare.rpartition("/")[0]):
            created = service.create_container(bare)
    show.done({"container": container, "created": created}, f"{'made' if created else 'there is already'} {container}")


@secret.command()
@_CONTAINER
@common_options
def rmdir(*, container: str) -> None:
    """Remove an empty container."""
    bare = naming.container_named(container)
    with client() as service, naming.of_listed(bare):
        service.delete_container(bare)
    show.done({"container": container, "deleted": True}, f"removed {container}")


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise click.UsageError("this is not UTF-8 text; say --binary to store it as it is") from None


for _verb in (ls, rm, mv, cp):
    secret.add_command(_verb)

"""``strongroom secret``: Custodia's containers and keys from the shell."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from strongroom.deploy.cli import show
from strongroom.deploy.cli.common import client, common, common_options
from strongroom.deploy.cli.secret import source as secret_input
from strongroom.deploy.cli.words import Noun

if TYPE_CHECKING:
    from strongroom.storage_service.client import StorageClient

_NAME = click.argument("name", metavar="CONTAINER/KEY")
_CONTAINER = click.argument("container")
_BINARY = click.option("--binary", is_flag=True, help="Bytes, not text.")
_ETAG = click.option("--if-match", "etag", metavar="ETAG", help="Only if it is still at this revision.")


@click.group(cls=Noun)
def secret() -> None:
    """Read and write secrets. A secret's name is CONTAINER/KEY, such as db/password."""


@secret.command()
@_NAME
@click.option("--file", "file", metavar="FILE", help="Read the secret from a file; - is standard input.")
@click.option("--edit", "editor", is_flag=True, help="Write it in $EDITOR, beginning with what is stored.")
@_BINARY
@click.option("--chomp", is_flag=True, help="Leave out one line break at the end.")
@click.option("--replace", is_flag=True, help="Replace what is there; without this, that is a conflict.")
@click.option("--parents", "-p", is_flag=True, help="Make the containers on the way.")
@_ETAG
@common_options
def put(
    *,
    name: str,
    file: str | None,
    editor: bool,
    binary: bool,
    chomp: bool,
    replace: bool,
    parents: bool,
    etag: str | None,
) -> None:
    """Store a secret, read from standard input unless told otherwise.

    At a terminal it is asked for without echo. What comes from a pipe or a file is kept to the byte, line break
    included, unless --chomp is said.
    """
    container, key = _split(name)
    if editor and (file or binary or replace):
        raise click.UsageError("--edit goes without --file, --binary and --replace")
    if replace and etag is not None:
        raise click.UsageError("--replace and --if-match exclude each other")
    with client() as service:
        if editor:
            stored, etag = _stored(service, container, key, etag)
            edited = secret_input.edit(stored)
            if edited is None:
                _done({"name": name, "etag": etag}, f"{name} is as it was")
                return
            content = edited
        else:
            content = secret_input.read(file, "Secret")
        if chomp:
            content = content.removesuffix(b"\n").removesuffix(b"\r")
        value = content if binary else _text(content)
        if parents:
            _make_parents(service, container)
        tag = _set(service, container, key, value, etag, replace=replace)
    _done({"name": name, "etag": tag}, f"stored {name}")


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
        raise Exists(f"{container}/{key} exists already; say --replace to replace it") from None


@secret.command()
@_NAME
@_BINARY
@click.option("--output", metavar="FILE", type=click.Path(path_type=Path), help="Write it to a file of mode 0600.")
@common_options
def get(*, name: str, binary: bool, output: Path | None) -> None:
    """Write a secret to standard output, as it is; a line break follows only at a terminal."""
    container, key = _split(name)
    with client() as service:
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
@click.argument("container", default="/")
@common_options
def ls(*, container: str) -> None:
    """List what a container holds, or without one, all containers; those end in a slash."""
    at_root = container == "/"
    if not at_root:
        _check(container.removesuffix("/") + "/")
    with client() as service:
        inside = service.list_containers() if at_root else service.list_container(container)
    if show.as_json():
        show.answer({"container": container.removesuffix("/"), "names": inside})
    else:
        for each in inside:
            show.line(each)


@secret.command()
@_NAME
@_ETAG
@common_options
def rm(*, name: str, etag: str | None) -> None:
    """Remove a secret."""
    container, key = _split(name)
    with client() as service:
        service.delete_secret(container, key, etag=etag)
    _done({"name": name, "deleted": True}, f"removed {name}")


@secret.command()
@_CONTAINER
@click.option("--parents", "-p", is_flag=True, help="Make the containers on the way.")
@common_options
def mkdir(*, container: str, parents: bool) -> None:
    """Make a container; one that exists is as good."""
    _check(container.removesuffix("/") + "/")
    with client() as service:
        if parents:
            _make_parents(service, container.removesuffix("/").rpartition("/")[0])
        created = service.create_container(container)
    _done({"container": container, "created": created}, f"{'made' if created else 'there is already'} {container}")


@secret.command()
@_CONTAINER
@common_options
def rmdir(*, container: str) -> None:
    """Remove an empty container."""
    _check(container.removesuffix("/") + "/")
    with client() as service:
        service.delete_container(container)
    _done({"container": container, "deleted": True}, f"removed {container}")


def _make_parents(service: "StorageClient", container: str) -> None:
    parts = container.split("/") if container else []
    for depth in range(1, len(parts) + 1):
        service.create_container("/".join(parts[:depth]))


def _split(name: str) -> tuple[str, str]:
    container, _, key = name.rpartition("/")
    if not container or not key:
        raise click.UsageError("a secret's name is CONTAINER/KEY")
    _check(name)
    return container, key


def _check(name: str) -> None:
    """Refuse, before anything is done, a *name* that the service would refuse: in one spelling there is one secret.

    Raises:
        InvalidName: it is such.
    """
    from strongroom.models import names

    names.check(names.SECRETS + name)


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise click.UsageError("this is not UTF-8 text; say --binary to store it as it is") from None


def _done(data: dict[str, object], text: str) -> None:
    if show.as_json():
        show.answer(data)
    else:
        show.line(text)

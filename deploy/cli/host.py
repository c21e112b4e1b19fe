"""``strongroom host``: hosts, and apart from them the credentials that open them."""

import base64
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from deploy.cli import secret_input, show
from deploy.cli.common import client, common, common_options
from deploy.cli.secret import write_out
from deploy.cli.words import Noun

if TYPE_CHECKING:
    from models.base import Model
    from storage_service.client import StorageClient

M = TypeVar("M", bound="Model")

_ADDRESS = click.argument("address")
_COLUMNS = ("address", "status", "os", "cpus", "memory", "space", "last_check")


@click.group(cls=Noun)
def host() -> None:
    """Read and write hosts and their credentials."""


@host.command()
@_ADDRESS
@click.option("--ssh-key-file", metavar="FILE", help="The private key that opens it; - is standard input.")
@click.option("--remote-user", metavar="USER", help="Whom to log in as (root, when not said).")
@click.option("--status", metavar="STATE", help="Where it is on its way into the platform.")
@click.option("--os", "os_", metavar="NAME", help="Its operating system.")
@click.option("--cpus", type=int)
@click.option("--memory", type=int)
@click.option("--space", type=int)
@common_options
def put(*, address: str, ssh_key_file: str | None, remote_user: str | None, os_: str | None, **values: Any) -> None:
    """Store a host; what is not said stays as it is. A key goes into its credentials, which are encrypted."""
    from models.hosts import Host, HostCreds

    key = None if ssh_key_file is None else _ssh_key(ssh_key_file)
    with client() as service:
        _update(service, Host, address, values | {"os": os_})
        if key is not None or remote_user is not None:
            _update(service, HostCreds, address, {"ssh_priv_key": key, "remote_user": remote_user})
    data = {"address": address, "credentials": key is not None or remote_user is not None}
    if show.as_json():
        show.answer(data)
    else:
        show.line(f"stored {address}" + (" and its credentials" if data["credentials"] else ""))


def _ssh_key(file: str) -> str:
    """Return the key in *file* in base64.

    Raises:
        UsageError: it cannot be read, or there is nothing in it, as behind a pipe whose other end failed.
    """
    content = secret_input.read(file, "SSH key")
    if not content.strip():
        raise click.UsageError(f"{file}: nothing is in it; no key is replaced by that")
    return base64.b64encode(content).decode()


def _update(service: "StorageClient", model: type[M], key: str, values: dict[str, Any]) -> None:
    """Save the record with those of *values* that are not None; over a record that nobody changed meanwhile."""
    from storage_service.errors import NotFound

    said = {model.primary_key: key} | {name: value for name, value in values.items() if value is not None}
    record, etag = model.from_dict(said), None  # checked before anything is asked
    with suppress(NotFound):
        stored = service.get(model, key)
        record, etag = model.from_dict(stored.model.to_dict() | said), stored.etag
    service.save(record, etag=etag)


@host.command()
@_ADDRESS
@common_options
def get(*, address: str) -> None:
    """Show a host."""
    from models.hosts import Host

    with client() as service:
        values = service.get(Host, address).model.to_dict()
    if show.as_json():
        show.answer(values)
    else:
        show.fields(values)


@host.command()
@common_options
def ls() -> None:
    """List all hosts."""
    from models.hosts import Hosts

    with client() as service:
        hosts = [record.model.to_dict() for record in service.list(Hosts)]
    if show.as_json():
        show.answer({"hosts": hosts})
    else:
        show.table(_COLUMNS, ([each[column] for column in _COLUMNS] for each in hosts))


@host.command()
@_ADDRESS
@common_options
def rm(*, address: str) -> None:
    """Remove a host and its credentials, the credentials first."""
    from models.hosts import Host, HostCreds
    from storage_service.errors import NotFound

    with client() as service:
        (credentials,) = service.delete_many(HostCreds, [address])
        (record,) = service.delete_many(Host, [address])
    if not credentials and not record:
        raise NotFound(f"there is no host {address}")
    if show.as_json():
        show.answer({"address": address, "deleted": record, "credentials_deleted": credentials})
    else:
        show.line(f"removed {address}" + (" and its credentials" if credentials else ""))


@host.command()
@_ADDRESS
@click.option("--output", metavar="FILE", type=click.Path(path_type=Path), help="Write the key to a file, mode 0600.")
@common_options
def creds(*, address: str, output: Path | None) -> None:
    """Write a host's private key to standard output; with --json all its credentials, the key in base64."""
    from models.hosts import HostCreds

    with client() as service:
        values = service.get(HostCreds, address).model.to_dict()
    if common().as_json:
        show.answer(values)
    else:
        write_out(base64.b64decode(str(values["ssh_priv_key"])), output)

"""``strongroom host``: hosts, and apart from them the credentials that open them."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from strongroom.deploy.cli import show
from strongroom.deploy.cli.common import client, common, common_options
from strongroom.deploy.cli.completion import HOST
from strongroom.deploy.cli.secret import source as secret_input
from strongroom.deploy.cli.secret import write_out
from strongroom.deploy.cli.words import Noun

if TYPE_CHECKING:
    from strongroom.models.base import Model
    from strongroom.models.hosts import Host, HostCreds
    from strongroom.storage_service.client import StorageClient
    from strongroom.storage_service.client.operations import Record

M = TypeVar("M", bound="Model")

_ADDRESS = click.argument("address", shell_complete=HOST)
_COLUMNS = ("address", "status", "os", "cpus", "memory", "space", "last_check")


@click.group(cls=Noun)
def host() -> None:
    """Read and write hosts and their credentials."""


@host.command()
@_ADDRESS
@click.option("--ssh-key-file", metavar="FILE", help="The private key that opens it; - is standard input.")
@click.option("--force", is_flag=True, help="Store the key as it is, also if ssh cannot read it.")
@click.option("--remote-user", metavar="USER", help="Whom to log in as (root, when not given).")
@click.option("--status", metavar="STATE", help="Where it is on its way into the platform.")
@click.option("--os", "os_", metavar="NAME", help="Its operating system.")
@click.option("--cpus", type=int)
@click.option("--memory", type=int)
@click.option("--space", type=int)
@click.option("--source", metavar="NAME", help="The handler that keeps it, where that is not the one for hosts.")
@common_options
def put(
    *, address: str, ssh_key_file: str | None, force: bool, remote_user: str | None, os_: str | None, **values: Any
) -> None:
    """Store a host; what is not said stays as it is. A key goes into its credentials, which are encrypted."""
    from strongroom.models.hosts import Host, HostCreds

    if force and ssh_key_file is None:
        raise click.UsageError("--force goes with --ssh-key-file")
    key, notes = (None, ()) if ssh_key_file is None else _ssh_key(ssh_key_file, force=force)
    with client() as service:
        _update(service, Host, address, values | {"os": os_}, _find)
        if key is not None or remote_user is not None:
            _update(service, HostCreds, address, {"ssh_priv_key": key, "remote_user": remote_user}, _creds)
    for note in notes:
        show.note(f"strongroom: the key {note}")
    data = {"address": address, "credentials": key is not None or remote_user is not None}
    if show.as_json():
        show.answer(data)
    else:
        show.words(f"stored {address}" + (" and its credentials" if data["credentials"] else ""))


def _ssh_key(file: str, *, force: bool) -> tuple[str, tuple[str, ...]]:
    """Return the key in *file* in base64, spelled so that ssh reads it, and what is to be told of it.

    The rule is that of a migration. With *force* nothing is looked at: it may be of a kind that is not known here.

    Raises:
        UsageError: it cannot be read, is not a private key, or there is nothing in it, as behind a pipe whose other end
            failed.
    """
    content, notes = secret_input.read(file, "SSH key"), tuple[str, ...]()
    if not content.strip():
        raise click.UsageError(f"{file}: nothing is in it; no key is replaced by that")
    if not force:
        from strongroom.migration.sources import ssh_keys
        from strongroom.migration.sources.files import Unfit

        try:
            content, notes = ssh_keys.examine(content)
        except Unfit as error:
            raise click.UsageError(f"{file} {error}; --force stores it all the same, as it is") from None
    return base64.b64encode(content).decode(), notes


def _update(
    service: "StorageClient",
    model: type[M],
    key: str,
    values: dict[str, Any],
    find: "Callable[[StorageClient, str], Record[M] | None]",
) -> None:
    """Save the record with those of *values* that are not None; over a record that nobody changed meanwhile."""
    from strongroom.storage_service.errors import Exists

    said = {model.primary_key: key} | {name: value for name, value in values.items() if value is not None}
    record, etag = model.from_dict(said), None  # checked before anything is asked
    stored = find(service, key)
    if stored is not None:
        if said.get("source", "") not in ("", getattr(stored.model, "source", "")):
            raise Exists(f"{key} is there with another source, and is not moved; remove it first")
        record, etag = model.from_dict(stored.model.to_dict() | said), stored.etag
    service.save(record, etag=etag)


def _creds(service: "StorageClient", address: str) -> "Record[HostCreds] | None":
    from strongroom.models.hosts import HostCreds

    return service.get_many(HostCreds, [address])[0]


def _find(service: "StorageClient", address: str) -> "Record[Host] | None":
    """Return the record of a host, from the first handler that has one; None where none has."""
    from strongroom.models.hosts import Host

    for source in service.host_sources():
        (record,) = service.get_many(Host, [address], source=source)
        if record is not None:
            return record
    return None


@host.command()
@_ADDRESS
@common_options
def get(*, address: str) -> None:
    """Show a host, whichever handler keeps it."""
    from strongroom.storage_service.errors import NotFound

    with client() as service:
        record = _find(service, address)
    if record is None:
        raise NotFound(f"there is no host {address}")
    values = record.model.to_dict()
    if show.as_json():
        show.answer(values)
    else:
        show.fields(values)


@host.command()
@common_options
def ls() -> None:
    """List all hosts, of all handlers; of an address one."""
    from strongroom.models.hosts import Hosts

    hosts: dict[str, dict[str, Any]] = {}
    with client() as service:
        for source in service.host_sources():
            for record in service.list(Hosts, source=source):
                hosts.setdefault(record.model.address, record.model.to_dict())
    if show.as_json():
        show.answer({"hosts": list(hosts.values())})
    else:
        show.table(_COLUMNS, ([each[column] for column in _COLUMNS] for each in hosts.values()))


@host.command()
@_ADDRESS
@common_options
def rm(*, address: str) -> None:
    """Remove a host and its credentials, the credentials first."""
    from strongroom.models.hosts import Host, HostCreds
    from strongroom.storage_service.errors import NotFound

    with client() as service:
        sources = service.host_sources()
        (credentials,) = service.delete_many(HostCreds, [address])
        removed = [service.delete_many(Host, [address], source=source) for source in sources]
    record = [True] in removed
    if not credentials and not record:
        raise NotFound(f"there is no host {address}")
    if show.as_json():
        show.answer({"address": address, "deleted": record, "credentials_deleted": credentials})
    else:
        show.words(f"removed {address}" + (" and its credentials" if credentials else ""))


@host.command()
@_ADDRESS
@click.option("--output", metavar="FILE", type=click.Path(path_type=Path), help="Write the key to a file, mode 0600.")
@common_options
def creds(*, address: str, output: Path | None) -> None:
    """Write a host's private key to standard output; with --json all its credentials, the key in base64."""
    from strongroom.models.steps import Step
    from strongroom.storage_service.errors import NotFound

    with client() as service:
        record = _creds(service, address)
    if record is None:
        step = Step("to give it some", "host put", {"address": address, "ssh_key_file": "FILE"})
        raise NotFound(f"there are no credentials of {address}").advising(step)
    values = record.model.to_dict()
    if common().as_json:
        show.answer(values)
    else:
        write_out(base64.b64decode(str(values["ssh_priv_key"])), output)

"""What a type checker makes of the client: checked by mypy in ``test_client_types``, never run.

``type: ignore`` marks what must be refused; mypy's strict mode complains of one that is not needed.
"""

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

from strongroom.models.hosts import Host, HostCreds, Hosts
from strongroom.models.networks import Network, Networks
from strongroom.models.secret import Secret
from strongroom.storage_service import wire
from strongroom.storage_service.client import (
    AsyncStorageClient,
    IssuedKey,
    NewKeys,
    Record,
    StorageClient,
    StoredSecret,
)
from strongroom.storage_service.client.bulk_operations import BulkValue, Require, Write
from strongroom.storage_service.wire import keys


def blocking(client: StorageClient) -> None:
    """The types of the blocking face."""
    assert_type(client.get(Host, "10.0.0.7"), Record[Host])
    assert_type(client.get(Host, "10.0.0.7").model, Host)
    host, etag = client.get(Host, "10.0.0.7", source="attic")
    assert_type(host, Host)
    assert_type(etag, str)
    assert_type(client.get_many(HostCreds, ["10.0.0.7"]), list[Record[HostCreds] | None])
    assert_type(client.save(host, etag=etag), Record[Host])
    assert_type(client.save_many([Network(name="a")]), list[Record[Network]])
    assert_type(client.delete_many(Host, ["10.0.0.7"]), list[bool])
    assert_type(client.list(Hosts), Iterator[Record[Host]])
    with client.edit(HostCreds, "10.0.0.7") as creds:
        assert_type(creds, HostCreds)
    assert_type(client.get_secret("db", "password"), StoredSecret)
    assert_type(client.get_secrets(["db/password"]), dict[str, Secret | None])
    assert_type(client.set_secret("db", "password", b"bytes", etag="*"), str)
    assert_type(client.create_container("db"), bool)
    assert_type(client.status(), wire.Status)
    assert_type(client.create_apikey("ci", paths=["/secrets/db"]), IssuedKey)
    assert_type(client.keyring(), keys.KeyringStatus)
    assert_type(client.init_keyring("shares", total=5, needed=3), NewKeys)
    assert_type(client.unlock(Secret("words")), None)
    assert_type(client.reencrypt("default"), keys.Reencrypted)
    assert_type(client.export_keyring(), bytes)
    assert_type(client.read_bulk(["secrets/db/password"]), list[BulkValue | None])
    assert_type(client.commit_bulk([Write("system/journal/x", Secret("1")), Require("secrets/db/", "*")]), str)
    assert_type(client.acting_for("user:alice"), StorageClient)

    client.commit_bulk(["secrets/db/password"])  # type: ignore[list-item]
    client.init_keyring("words")  # type: ignore[arg-type]

    client.get(Host, 7)  # type: ignore[arg-type]
    client.get(str, "10.0.0.7")  # type: ignore[type-var]
    client.list(Host)  # type: ignore[arg-type]
    client.save(Hosts())  # type: ignore[type-var]
    client.set_secret("db", "password", 7)  # type: ignore[arg-type]
    client.get_secret("db")  # type: ignore[call-arg]
    client.save(host, tag=etag)  # type: ignore[call-arg]
    StorageClient(socket="/s", token=7)  # type: ignore[arg-type]
    StorageClient.from_home("/srv", timeuot=1.0)  # type: ignore[call-arg]


async def awaiting(client: AsyncStorageClient) -> None:
    """The types of the awaiting face."""
    assert_type(await client.get(Host, "10.0.0.7"), Record[Host])
    assert_type(await client.save_many([Network(name="a")]), list[Record[Network]])
    assert_type(client.list(Networks), AsyncIterator[Record[Network]])
    async for network, etag in client.list(Networks):
        assert_type(network, Network)
        assert_type(etag, str)
    async with client.edit(Host, "10.0.0.7") as host:
        assert_type(host, Host)
    assert_type((await client.get_secret("db", "password")).reveal(), str)
    assert_type(client.acting_for("user:alice"), AsyncStorageClient)

    host = client.get(Host, "10.0.0.7").model  # type: ignore[attr-defined]
    await client.get(Host, 7)  # type: ignore[arg-type]

"""What the state of the service tells to whom."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from strongroom.deploy.pytest_plugin import Server
from strongroom.storage_service.client import StorageClient


@contextmanager
def acting(strongroom: StorageClient, server: Server, paths: Sequence[str]) -> Iterator[StorageClient]:
    """A client whose key reaches *paths*."""
    key = strongroom.create_apikey(f"told-{secrets.token_hex(4)}", paths=paths, actions=["get"])
    with StorageClient(socket=server.socket, api_id=key.api_id, api_key=key.api_key) as client:
        yield client
    strongroom.revoke_apikey(key.api_id)


@pytest.mark.parametrize(
    ("paths", "told"),
    [(["/"], True), (["/system"], True), (["/system/status."], True), (["/secrets"], False), (["/none/"], False)],
)
def test_keys_are_named_to_whom_they_concern(
    strongroom: StorageClient, strongroom_server: Server, paths: Sequence[str], told: bool
) -> None:
    """The ids of keys are for who reaches what is the service's own; how it is and where, for whoever it knows."""
    whole = strongroom.status()
    with acting(strongroom, strongroom_server, paths) as client:
        said = client.status()

    assert (said.version, said.state, said.store, said.endpoints) == (
        whole.version,
        whole.state,
        whole.store,
        whole.endpoints,
    )
    assert whole.keys and whole.active_key
    assert (said.keys, said.active_key) == ((whole.keys, whole.active_key) if told else ([], ""))

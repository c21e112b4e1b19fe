"""The client library: typed records and secrets, over the unix socket or through the proxy, blocking or awaiting.

    with StorageClient.from_home("/srv/strongroom") as client:
        with client.edit(Host, "10.0.0.7") as host:
            host.status = "active"
        password = client.get_secret("db", "password").reveal()

These have no I/O: ``operations``, ``access_operations``, ``login_operations``, ``key_operations`` and
``bulk_operations`` (what is asked), ``login`` (how a challenge is answered; it asks an SSH agent),
``retries`` (what is asked again), ``address`` (where, and who asks) and ``session`` (what an error means). Connections
are kept by ``sockets`` for threads and by ``pool`` for an event loop, which the HTTP proxy uses, too; ``place`` is what
the two share. The faces, ``blocking`` and ``awaiting``, put both together.
"""

from strongroom.storage_service.client.access_operations import AddedPrincipal, NewCredential
from strongroom.storage_service.client.awaiting import AsyncStorageClient
from strongroom.storage_service.client.blocking import StorageClient
from strongroom.storage_service.client.key_operations import NewKeys
from strongroom.storage_service.client.login import LoggedIn
from strongroom.storage_service.client.operations import IssuedKey, Record, StoredSecret

__all__ = [
    "AddedPrincipal",
    "AsyncStorageClient",
    "IssuedKey",
    "LoggedIn",
    "NewCredential",
    "NewKeys",
    "Record",
    "StorageClient",
    "StoredSecret",
]

"""A directory of access over a store, for tests that need no service."""

from strongroom.models.names import APIKEYS
from strongroom.storage_service.access.apikeys import decode
from strongroom.storage_service.access.directory import Directory
from strongroom.storage_service.backends.base import Backend


def directory_of(store: Backend, sealed: Backend) -> Directory:
    """Return what knows the records of access in *store*, which *sealed* encrypts."""
    return Directory(store, sealed, {APIKEYS: decode})

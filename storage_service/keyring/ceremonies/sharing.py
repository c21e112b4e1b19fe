"""What whoever starts a service makes before its workers are forked: the page that they share, with the root key."""

from strongroom.storage_service.keyring.shared_root import SharedRoot

__all__ = ["SharedRoot"]

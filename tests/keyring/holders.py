"""A keyring that every sort of recipient can open, and what each of them holds."""

from functools import cache
from typing import Final, NamedTuple

from strongroom.storage_service.backends.base import Backend
from strongroom.storage_service.jose.key import Key
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.document import Document
from strongroom.storage_service.keyring.machines.document import MachineDocument
from strongroom.storage_service.keyring.machines.key import Kind, MachineKey
from strongroom.storage_service.keyring.machines.stored import StoredDocuments
from strongroom.storage_service.keyring.opening import unlock_keys as unlock
from strongroom.storage_service.keyring.opening import wraps
from strongroom.storage_service.keyring.opening.unattended import as_recipient
from strongroom.storage_service.keyring.rootkey import RootKey
from tests.keyring import story
from tests.keyring.machine_keys import key_of

ROOT: Final = RootKey(story.BITS)
FILE: Final = RootKey(bytes(range(100, 164)))  # what the root key file holds
CREATED: Final = "2026-11-22T09:30:00Z"


class Held(NamedTuple):
    """What the recipients hold."""

    unlock_keys: tuple[str, ...]  # two
    shares: tuple[str, ...]  # three, any two of which open
    machine: MachineKey
    wraps: tuple[wraps.Wrap, ...]
    document: MachineDocument


@cache
def held() -> Held:
    """Return the recipients, made once."""
    pairs = unlock.make_keys(2)
    shares, key = unlock.make_shares(2, 3)
    machine = key_of(Kind.EC)
    recipients: list[Key] = [as_recipient(FILE), *(each for _, each in pairs)]
    return Held(
        tuple(text.reveal() for text, _ in pairs),
        tuple(share.reveal() for share in shares),
        machine,
        (
            *(wraps.wrap(ROOT, each, CREATED) for each in recipients),
            wraps.wrap(ROOT, key, CREATED, threshold=2, total=3),
        ),
        MachineDocument.new("db-1", machine.public_jwk(), 1763800000).with_root(ROOT, True),
    )


async def initialize(store: Backend, keys: int = 1) -> None:
    """Give *store* its first keyring, for all of these recipients."""
    also = [*(wraps.put(each) for each in held().wraps), StoredDocuments.put(held().document)]
    await stored.create(store, ROOT, Document.new(CREATED, keys), also)

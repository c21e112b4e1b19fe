"""Work on records as they lie in the store, under one ring for as long as that is the keyring's.

Whoever goes through many records reads some, opens them, and commits changes that hold only while each record is at
the revision that was read and the keyring document at that of the ring. Where the keyring has changed meanwhile, it is
all done again with the new ring; where a record has, somebody else wrote it, and it is left alone.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

from strongroom.models.names import KEYRING_DOCUMENT
from strongroom.storage_service.backends.base import Backend, Change, Check, Conflict, Put, Vacant, not_applied
from strongroom.storage_service.errors import Undecipherable
from strongroom.storage_service.jose import jwe
from strongroom.storage_service.jose.jwe import UNKNOWN
from strongroom.storage_service.keyring.ring import DataKey, Keys, Ring
from strongroom.storage_service.wire import MAX_STORED

ATTEMPTS: Final = 8  # at some records, while others change the keyring
READ: Final = 64  # records to read at once: values may be large

T = TypeVar("T")


class Stale(Exception):
    """The ring in use is no longer that of the keyring in the store."""


async def under_one_ring(keys: Keys, act: Callable[[Ring], Awaitable[T]]) -> T:
    """Return what *act* returns for the ring of the keyring; again for a newer one when it raises `Stale`.

    Raises:
        Locked: there is no ring.
        Unavailable: the store does not answer, or others keep changing the keyring.
    """
    for _ in range(ATTEMPTS):
        ring = keys.current or await keys.sync()
        try:
            return await act(ring)
        except Stale:
            await keys.refresh(ring)
    raise not_applied("others keep changing the keyring")


async def opened(keys: Keys, ring: Ring, name: str, token: bytes) -> tuple[DataKey, bytes] | None:
    """Return the key that the record *name* opens under, and its value; or None if it opens under none.

    Raises:
        Stale: under no key of *ring*, but there is a newer one.
    """
    try:
        return jwe.opened(ring.at(name), name, token)
    except Undecipherable as error:
        await see_newer(keys, ring, error)
        return None


async def see_newer(keys: Keys, ring: Ring, error: Undecipherable) -> None:
    """Raise `Stale` if what does not open with *ring*, by *error*, may open with a newer one."""
    if error.reason in UNKNOWN and await keys.refresh(ring) is not ring:
        raise Stale from None


def parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Give out *items*, *size* at once."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def batches(store: Backend, records: Mapping[str, Sequence[Change]]) -> Iterator[Mapping[str, Sequence[Change]]]:
    """Give out *records*, the changes of each by its name, in parts that fit into one commit with its guard."""
    room = store.max_batch - 1
    batch: dict[str, Sequence[Change]] = {}
    changes = size = 0
    for name, of in records.items():
        more = 0
        for change in of:
            if isinstance(change, Put):
                more += len(change.value)
        if batch and (changes + len(of) > room or size + more > MAX_STORED):
            yield batch
            batch, changes, size = {}, 0, 0
        batch[name] = of
        changes += len(of)
        size += more
    if batch:
        yield batch


async def commit(store: Backend, ring: Ring, batch: Mapping[str, Sequence[Change]]) -> Mapping[str, Sequence[Change]]:
    """Apply the changes of every record of *batch* that is as it was read, and return those that were applied.

    Args:
        store: the store as it is, ciphertext.
        ring: the ring that the changes were made with.
        batch: by name of the record its changes; what is guarded among them is the record itself.

    Raises:
        Stale: the keyring has changed; nothing was done.
        Unavailable: with its fate.
    """
    epoch = Check(KEYRING_DOCUMENT, ring.revision)
    left = batch
    while left:
        try:
            await store.commit([*(change for changes in left.values() for change in changes), epoch])
        except Conflict as conflict:
            failed = {change.name for change in conflict.failed if not isinstance(change, Vacant)}
            if KEYRING_DOCUMENT in failed:
                raise Stale from None
            left = {name: changes for name, changes in left.items() if name not in failed}
        else:
            break
    return left

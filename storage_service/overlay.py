"""Encryption as a backend round a backend: what lies below sees names, revisions and ciphertext."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

from models.names import is_container
from storage_service.backends.base import (
    MAX_PAGE,
    Backend,
    Change,
    Conflict,
    Entry,
    Event,
    Page,
    Put,
    Watchable,
    check_batch,
)
from storage_service.keyring.envelope import decrypt, encrypt
from storage_service.keyring.ring import Ring

_STRETCH = 256 * 1024  # bytes to encrypt or decrypt, about 2 ms, before others get their turn on the event loop


class EncryptedBackend:
    """A backend whose values are ciphertext in the backend below, each bound to its name.

    The backend below is untrusted: a value that it changed, swapped or took from elsewhere does not open. It can
    still delete, or bring back what once stood under the same name. Names are not hidden from it. The empty value
    of a container's marker is stored as it is; it says nothing. A value is at most `envelope.MAX_VALUE` bytes.

    *ring* may be replaced by another at any time: an operation reads it once and sees one ring from begin to end.
    `watch` is there if the backend below has it.

    Besides what every backend raises, reading raises Undecipherable for a value that does not open; of a batch with
    such a value nothing is returned.
    """

    watch: Callable[[str, int], AsyncGenerator[Event, None]]

    def __init__(self, backend: Backend, ring: Ring) -> None:
        self.ring = ring
        self._backend = backend
        if isinstance(backend, Watchable):
            self.watch = lambda prefix, since: self._watch(backend, prefix, since)

    def __repr__(self) -> str:
        return f"<EncryptedBackend {self.ring!r} round {self._backend!r}>"

    async def open(self) -> None:
        """Open the backend below."""
        await self._backend.open()

    async def close(self) -> None:
        """Close the backend below."""
        await self._backend.close()

    async def get(self, name: str) -> Entry | None:
        """Return what is stored under *name*, decrypted."""
        entry = await self._backend.get(name)
        return None if entry is None else _opened(self.ring, name, entry)

    async def get_many(self, names: Sequence[str]) -> Mapping[str, Entry]:
        """Return those of *names* that exist, decrypted."""
        ring = self.ring
        entries = await self._backend.get_many(names)
        turns = _Turns()
        opened = {}
        for name, entry in entries.items():
            await turns.take(len(entry.value))
            opened[name] = _opened(ring, name, entry)
        return opened

    async def list(self, prefix: str, after: str | None = None, limit: int = MAX_PAGE) -> Page:
        """Return a page of the names that begin with *prefix*; nothing is decrypted."""
        return await self._backend.list(prefix, after, limit)

    async def commit(self, changes: Sequence[Change]) -> int:
        """Apply all of *changes* or none, each value encrypted under the ring's active key."""
        check_batch(changes)
        ring = self.ring
        turns = _Turns()
        sealed: list[Change] = []
        for change in changes:
            if isinstance(change, Put):
                await turns.take(len(change.value))
                sealed.append(_sealed(ring, change))
            else:
                sealed.append(change)
        try:
            return await self._backend.commit(sealed)
        except Conflict as conflict:
            # The caller knows its own changes, not what became of them here.
            failed = [changes[sealed.index(change)] for change in conflict.failed]
        raise Conflict(failed)

    async def _watch(self, backend: Watchable, prefix: str, since: int) -> AsyncGenerator[Event, None]:
        events = backend.watch(prefix, since)
        try:
            async for event in events:
                entry = None if event.entry is None else _opened(self.ring, event.name, event.entry)
                yield Event(event.name, entry, event.revision)
        finally:
            await events.aclose()


class _Turns:
    """Lets the event loop's other tasks run now and then during long work."""

    def __init__(self) -> None:
        self._done = 0  # bytes

    async def take(self, size: int) -> None:
        """Wait for a turn if, with *size* bytes more, the stretch would grow too long."""
        self._done += size
        if self._done > _STRETCH:
            self._done = size
            await asyncio.sleep(0)


def _sealed(ring: Ring, put: Put) -> Put:
    if is_container(put.name) and not put.value:
        return put
    return Put(put.name, encrypt(ring.active(), put.name, put.value), put.expected)


def _opened(ring: Ring, name: str, entry: Entry) -> Entry:
    if is_container(name) and not entry.value:
        return entry
    return Entry(decrypt(ring, name, entry.value), entry.revision)

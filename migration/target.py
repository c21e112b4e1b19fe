"""The service that a source moves into: records read, written and removed, whether they are sealed there or plain."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from strongroom.migration.records import Record, is_sealed, plain_model
from strongroom.migration.retries import PATIENT, Retries
from strongroom.models import Model, names
from strongroom.models.secret import Secret
from strongroom.storage_service import wire
from strongroom.storage_service.backends.base import pages
from strongroom.storage_service.client import AsyncStorageClient
from strongroom.storage_service.client.bulk_operations import Remove, Require, Write
from strongroom.storage_service.errors import Changed, Fate, Unavailable

Change = Write | Remove | Require

READ_SIZE: Final = 400  # records in one question: their values together stay far below what one answer may hold
READING: Final = 2  # such questions at once: the service makes one large answer for us while one more waits


class Held(NamedTuple):
    """What lies in the service under a name."""

    value: Secret
    etag: str


class Target:
    """The service, through the client of a platform service: it holds the keys, decides and records; nothing here does.

    Every method raises what the client raises: `Denied`, `Locked`, `Unavailable` and so on.
    """

    def __init__(self, client: AsyncStorageClient, retries: Retries = PATIENT) -> None:
        """Take a client, and how often what it could not do is tried again."""
        self.retries = retries
        self._client = client
        self._reading = asyncio.Semaphore(READING)
        self._containers: set[str] = {names.SECRETS}  # that are known to exist; the root always does

    @property
    def client(self) -> AsyncStorageClient:
        """The client."""
        return self._client

    # Reading

    async def read(self, wanted: Sequence[str]) -> Mapping[str, Held]:
        """Return what lies in the service's own store under those of *wanted* that exist there.

        What the service reads through to an old place has not moved, so it is not there.
        """
        sealed = [name for name in wanted if is_sealed(name)]
        plain = _by_model(name for name in wanted if not is_sealed(name))
        found = await asyncio.gather(
            *(self._read_sealed(sealed[start : start + READ_SIZE]) for start in range(0, len(sealed), READ_SIZE)),
            *(self._read_plain(model, keys) for model, keys in plain.items()),
        )
        return {name: held for some in found for name, held in some}

    async def _read_sealed(self, wanted: Sequence[str]) -> "list[tuple[str, Held]]":
        async with self._reading:
            found = await self._client.read_bulk(wanted)
        return [
            (name, Held(entry.value, entry.etag))
            for name, entry in zip(wanted, found, strict=True)
            if entry is not None and entry.etag != wire.NEW
        ]

    async def _read_plain(self, model: type[Model], keys: Sequence[str]) -> "list[tuple[str, Held]]":
        entries = zip(keys, await self._client.get_texts(model, keys), strict=True)
        return [(model.prefix() + key, Held(entry.text, entry.etag)) for key, entry in entries if entry is not None]

    async def names(self, prefix: str) -> "list[str]":
        """Return every name in the service that begins with *prefix*, which is sealed, containers left out."""
        listed = pages(self._client.list_bulk, prefix)
        return [name async for page in listed for name in page if not names.is_container(name)]

    # Writing what is sealed

    async def room(self) -> int:
        """Return how many changes one commit takes, containers of its writes among them."""
        return await self._client.bulk_limit()

    async def missing_containers(self, wanted: Iterable[str]) -> Sequence[str]:
        """Return those containers that must be made before secrets with the names *wanted* can be, outer ones first."""
        needed: dict[str, None] = {}
        for name in wanted:
            outer = []
            container = name if names.is_container(name) else names.container_of(name)
            while container.startswith(names.SECRETS) and container not in self._containers:
                outer.append(container)
                container = names.container_of(container)
            needed |= dict.fromkeys(reversed(outer))
        entries = await self._client.read_bulk(list(needed)) if needed else []
        there = {name for name, entry in zip(needed, entries, strict=True) if entry is not None}
        self._containers |= there
        return [name for name in needed if name not in there]

    async def commit(self, changes: Sequence[Change], witness: str) -> str | None:
        """Apply *changes* at once or not at all, whatever answers get lost; return the tag of what was written.

        None: the answer that had it was lost.

        Args:
            changes: what is to be done; among them the creation of *witness*.
            witness: a name that exists only if they were applied, and that nobody else makes.

        Raises:
            Changed: something was not at the revision expected of it; nothing was applied.
        """
        lost = False  # an answer

        async def attempt() -> str | None:
            if lost and await self._exists(witness):
                return None
            try:
                return await self._client.commit_bulk(changes)
            except Changed:
                if lost and await self._exists(witness):
                    return None
                raise

        async def settle(error: Exception) -> None:
            nonlocal lost
            if isinstance(error, Unavailable) and error.fate is Fate.NOT_APPLIED:
                raise error  # the client has asked more than once already
            lost = True

        tag = await self.retries.run(attempt, settle=settle)
        self._containers |= {each.name for each in changes if isinstance(each, Write) and names.is_container(each.name)}
        return tag

    async def _exists(self, name: str) -> bool:
        (entry,) = await self._client.read_bulk([name])
        return entry is not None

    def forget_containers(self) -> None:
        """Look again for containers: one that was there has been removed."""
        self._containers = {names.SECRETS}

    # Writing what is plain

    async def save(self, records: Sequence[Record], etags: Sequence[str]) -> Mapping[str, str]:
        """Save plain records, each only if it is at its tag; return their new tags, by name.

        Raises:
            Changed: one is not; of its model, those before its batch are saved.
            Invalid: the service refuses one.
        """
        by_model: dict[type[Model], list[tuple[Record, str]]] = {}
        for record, etag in zip(records, etags, strict=True):
            by_model.setdefault(plain_model(record.name), []).append((record, etag))
        tags: dict[str, str] = {}
        for model, pairs in by_model.items():
            texts = [record.value for record, _ in pairs]
            new = await self._client.save_texts(model, texts, etags=[etag for _, etag in pairs])
            tags.update((record.name, tag) for (record, _), tag in zip(pairs, new, strict=True))
        return tags

    # Removing

    async def remove_plain(self, names: Sequence[str], etags: Sequence[str]) -> None:
        """Remove plain records, each only if it is at its tag.

        Raises:
            Changed: one is not; of its model, those before its batch are removed.
        """
        by_model: dict[type[Model], list[tuple[str, str]]] = {}
        for name, etag in zip(names, etags, strict=True):
            by_model.setdefault(plain_model(name), []).append((_key_of(name), etag))
        for model, pairs in by_model.items():
            await self._client.delete_many(model, [key for key, _ in pairs], etags=[etag for _, etag in pairs])


def _by_model(wanted: Iterable[str]) -> Mapping[type[Model], list[str]]:
    keys: dict[type[Model], list[str]] = {}
    for name in wanted:
        keys.setdefault(plain_model(name), []).append(_key_of(name))
    return keys


def _key_of(name: str) -> str:
    return name.removeprefix(names.container_of(name))

"""Another running Strongroom, by its home or its socket: every record that it serves, from one store to another.

An item is a record, and its id the record's name: plain ones of every model, the API keys, which go on being valid, and
the secrets with their containers, empty ones too. A host that a storage handler of its own keeps has the handler's name
in its id. Marks are the service's entity tags. What the service cannot open, or takes for no valid record, is told item
by item. Left out are the service's own keys and its journals, which mean nothing elsewhere.

Scrubbing removes the secrets, each if it still has the value that was moved, and restoring writes them back where there
is nothing. All of it is compare-and-set. Plain records, containers and API keys, of which the store has a verifier
alone, stay as they are. There is no pattern to look for: what lay in that store was encrypted, and what remains of it
in its files and their copies opens only with its keys. So it is they that end what is left, as the place tells.

A service that moved into itself would lose at the scrub what is nowhere else. So one that has the journal of a
migration from its own socket is refused.
"""

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, NamedTuple

from strongroom.migration.digest import Digest
from strongroom.migration.errors import SourceUnavailable
from strongroom.migration.journal import run_name
from strongroom.migration.records import Item, Record
from strongroom.migration.retries import PATIENT, Retries
from strongroom.migration.sources.base import Option, Options, Original, Place
from strongroom.migration.sources.strongroom.reading import SEALED, SHELVES, Found, Reading, Shelf, Where, ask
from strongroom.models import Host, Hosts, names, steps
from strongroom.models.names import MIGRATION
from strongroom.models.secret import Secret
from strongroom.storage_service import wire
from strongroom.storage_service.client import AsyncStorageClient
from strongroom.storage_service.client import file as client_file
from strongroom.storage_service.client.bulk_operations import Remove, Write
from strongroom.storage_service.client.file import ClientFile
from strongroom.storage_service.errors import Changed, ConfigurationError, NoContainer, Unavailable

OPTIONS: Final[Mapping[str, Option]] = {
    "client_file": Option("a client.json with the API key to use; needed where the place is a socket"),
}


_UNREADABLE: Final = "the service cannot open it, or it is not a valid record: its log says more"
_PASSING: Final = (Changed, NoContainer, Unavailable)
_AT_HANDLER: Final = " of the handler "  # in ids; no name has a blank

Change = Write | Remove


def make(place: str, options: Options) -> "StrongroomSource":
    """Return the source.

    Raises:
        ConfigurationError: the place is neither a home nor a socket, or there is no API key for it.
    """
    path = Path(place)
    (said,) = options.get("client_file", [""])
    file = Path(said) if said else path / client_file.NAME
    if path.is_socket():
        if not said:
            raise ConfigurationError("a socket tells no API key: name a client.json, -o client_file=PATH")
        socket: Path | None = path
    elif path.is_dir():
        socket = ClientFile.read(path / client_file.NAME).socket
    else:
        raise ConfigurationError(f"{place} is neither the home of a Strongroom nor its socket")
    known = ClientFile.read(file)
    if socket is None:
        raise ConfigurationError(f"{place} names no socket: only the socket gives encrypted values as they are stored")
    return StrongroomSource(socket, known.api_id, known.api_key, None if path.is_socket() else path)


class Step(NamedTuple):
    """What is to be done about an original, and whether it then is as asked."""

    change: Change | None
    done: bool


class StrongroomSource:
    """The source."""

    scrub_batch: ClassVar[int] = 32

    def __init__(
        self, socket: Path, api_id: str, api_key: Secret, home: Path | None = None, *, retries: Retries = PATIENT
    ) -> None:
        """Take the socket, an API key that reaches everything, the home that was named, if one was, and retries."""
        self._retries = retries
        place: dict[str, steps.Option] = {"socket": str(socket)} if home is None else {"home": str(home)}
        self._where = Where(f"the Strongroom at {_printable(os.path.realpath(socket))}", place)
        self._identity = "strongroom:" + _printable(os.path.realpath(socket))
        self._socket, self._api_id, self._api_key = socket, api_id, api_key
        self._opened: AsyncStorageClient | None = None
        self._handlers: Mapping[str, str] = {}  # how they stand in ids -> of those that keep hosts besides the first

    @property
    def identity(self) -> str:
        """Its socket."""
        return self._identity

    async def open(self, digest: Digest) -> None:  # noqa: ARG002  # there are entity tags: nothing is digested
        """Look whether the service is there, unlocked, and tells us everything.

        Raises:
            ConfigurationError: it has no keyring yet, or is the service that its records would move into.
        """
        client = self._opened = AsyncStorageClient(socket=self._socket, api_id=self._api_id, api_key=self._api_key)
        status = await ask(client.status(), self._where)
        if status.state == "uninitialized":
            raise ConfigurationError(f"{self._where} has no keyring yet, and so nothing to move")
        await self._refuse_itself(client)
        handlers = await ask(client.list_store_handlers(), self._where)
        others = [each.name for each in handlers if each.name != "secrets" and Host.__name__ not in each.models]
        self._handlers = {_printable(name): name for name in others}

    async def _refuse_itself(self, client: AsyncStorageClient) -> None:
        """Refuse a service that has the journal of its own migration: it would scrub what it had moved into itself."""
        run = run_name("strongroom", self._identity)
        (head,) = await ask(client.read_bulk([f"{MIGRATION}{run}/run"]), self._where)
        if head is not None:
            raise ConfigurationError(
                f"{self._where} would move into itself: say another service for the records to move into"
            ).advising(
                steps.Step(
                    "or if it was put where the one before it was, let it forget that one's migration",
                    "migrate forget",
                    {**self._where.options, "run": run},
                )
            )

    async def close(self) -> None:
        """Close the connections."""
        client, self._opened = self._opened, None
        if client is not None:
            await client.close()

    async def count(self) -> int | None:
        """Nobody knows before reading."""
        return None

    async def items(self) -> AsyncIterator[Item]:
        """Yield every record: plain ones shelf by shelf, API keys, containers and secrets, in order of names each."""
        reading = self._reading()
        for shelf in SHELVES:
            async for name, found in reading.shelf(shelf):
                yield _item(name, found)
        for spelled, handler in self._handlers.items():
            async for name, found in reading.shelf(Shelf(Hosts, handler)):
                yield _item(name + _AT_HANDLER + spelled, found)
        for prefix in SEALED:
            async for name, found in reading.walk(prefix):
                yield _item(name, found)

    async def marks(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Return their entity tags."""
        return {key: found.mark async for key, found in self._look(ids)}

    async def find(self, names: Sequence[str]) -> Mapping[str, Record | None]:
        """Return the records of those names, hosts from whichever handler has them."""
        found = {name: each.record async for name, each in self._look(names)}
        for handler in self._handlers.values():
            left = [name for name in names if name not in found]
            found |= {name: each.record async for name, each in self._reading().plain(left, handler)}
        return found

    async def originals(self, ids: Sequence[str]) -> Mapping[str, Original]:
        """Return what can be read, as it is read."""
        return {
            key: Original(key, found.mark, found.record.value)
            async for key, found in self._look(ids)
            if found.record is not None
        }

    async def scrub(self, originals: Sequence[Original]) -> Sequence[bool]:
        """Remove the secrets."""
        return await self._settle(originals, _scrubbing)

    async def restore(self, originals: Sequence[Original]) -> Sequence[bool]:
        """Write the secrets back, into containers of theirs."""
        return await self._settle(originals, _restoring)

    def search_patterns(self, original: Original) -> Sequence[bytes]:  # noqa: ARG002  # whatever it is
        """Return none: it lay there encrypted."""
        return ()

    async def purge(self) -> Sequence[str]:
        """Do nothing: what remains is encrypted."""
        return ()

    async def places(self) -> Sequence[Place]:
        """Return its store, which is not to be looked into."""
        advice = (
            "what was removed lay there encrypted, and may remain in its files, their snapshots and backups: destroy"
            " them, or the keys that open them: the key file, unlock keys and shares, and exports of the keyring"
        )
        return [Place(f"the store of {self._where}", None, advice)]

    def __repr__(self) -> str:
        return f"<StrongroomSource {self._identity}>"

    @property
    def _client(self) -> AsyncStorageClient:
        if self._opened is None:
            raise SourceUnavailable(f"{self._where} is not open")
        return self._opened

    def _reading(self) -> Reading:
        return Reading(self._client, self._where)

    async def _look(self, ids: Sequence[str]) -> AsyncIterator[tuple[str, Found]]:
        """Yield what is there of *ids*; what can be no id is not."""
        reading = self._reading()
        async for name, found in reading.sealed(ids):
            yield name, found
        async for name, found in reading.plain(ids):
            yield name, found
        for spelled, handler in self._handlers.items():
            ending = _AT_HANDLER + spelled
            of_it = [key.removesuffix(ending) for key in ids if key.endswith(ending)]
            async for name, found in reading.plain(of_it, handler):
                yield name + ending, found

    # Writing

    async def _settle(
        self, originals: Sequence[Original], step: Callable[[Original, Found | None], Step]
    ) -> Sequence[bool]:
        """Do *step* for each of *originals*, whatever answers get lost: what is done already is seen to be."""

        async def attempt() -> Sequence[bool]:
            found = {key: each async for key, each in self._look([original.id for original in originals])}
            steps = [step(original, found.get(original.id)) for original in originals]
            await self._commit([change for each in steps if (change := each.change) is not None])
            return [each.done for each in steps]

        try:
            return await self._retries.run(attempt, passing=_PASSING)
        except _PASSING:
            raise SourceUnavailable(
                f"{self._where} did not do it {self._retries.attempts} times: it does not answer, or is written to"
            ) from None

    async def _commit(self, changes: Sequence[Change]) -> None:
        # A commit has room for a container of each of its writes besides.
        room = await ask(self._client.bulk_limit(), self._where, *_PASSING) // 2
        for container in await self._missing(changes):
            await ask(self._client.commit_bulk([container]), self._where, *_PASSING)
        for start in range(0, len(changes), room):
            await ask(self._client.commit_bulk(changes[start : start + room]), self._where, *_PASSING)

    async def _missing(self, changes: Sequence[Change]) -> Sequence[Write]:
        """Return what makes the containers that *changes* write into and that are not there, outer ones first."""
        wanted = sorted({outer for each in changes if isinstance(each, Write) for outer in _containers_of(each.name)})
        there = {name async for name, _ in self._reading().sealed(wanted)}
        return [_new(name) for name in wanted if name not in there]


def _item(key: str, found: Found) -> Item:
    if found.record is None:
        return Item(key, found.mark, fault=_UNREADABLE)
    return Item(key, found.mark, (found.record,), notes=found.notes)


def _scrubbing(original: Original, found: Found | None) -> Step:
    """Return how to remove a secret that is still as its original."""
    if found is None or not _is_secret(original.id):
        return Step(None, done=True)
    if found.record is None or found.record.value != original.content:
        return Step(None, done=False)
    return Step(Remove(original.id, found.mark), done=True)


def _restoring(original: Original, found: Found | None) -> Step:
    """Return how to put a secret, or a container, back where there is nothing."""
    if found is not None:
        return Step(None, done=found.record is not None and found.record.value == original.content)
    if original.id.startswith(names.SECRETS):
        return Step(_new(original.id, original.content), done=True)
    return Step(None, done=False)


def _new(name: str, value: Secret | None = None) -> Write:
    return Write(name, value or Secret(""), wire.NEW)


def _is_secret(name: str) -> bool:
    return name.startswith(names.SECRETS) and not names.is_container(name)


def _containers_of(name: str) -> Sequence[str]:
    """Return the containers that *name* lies in, but the root of them all, which always is."""
    found = []
    while (name := names.container_of(name)) != names.SECRETS:
        found.append(name)
    return found


def _printable(text: str) -> str:
    """Return *text* with what is not printable ASCII escaped."""
    return text.encode("ascii", "backslashreplace").decode() if text.isprintable() else ascii(text)[1:-1]

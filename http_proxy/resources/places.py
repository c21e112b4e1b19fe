"""Where hosts lie: with the handler that keeps hosts, and with every other that a host's *source* can name.

Who asks for a host by its address need not know which: all places are looked at, in their order, and the first that
has the address counts. What is told of the places is kept for a moment, for they change when the service starts anew.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from strongroom.models import Host, Hosts, InvalidName
from strongroom.storage_service.client import AsyncStorageClient, Record
from strongroom.storage_service.errors import Changed, Malformed, NotFound

KEPT: Final = 5.0  # seconds


class Revision(NamedTuple):
    """A place that has a host, and the tag of what it has there; None where that is no valid host."""

    source: str
    etag: str | None


def is_address(text: str) -> bool:
    """Return whether a host can have that address."""
    with suppress(InvalidName):
        return bool(Host.name_of(text))
    return False


class HostPlaces:
    """The places of hosts, as the service told them last."""

    def __init__(self) -> None:
        self._sources: Sequence[str] = ()
        self._until = float("-inf")

    async def get(self, client: AsyncStorageClient, address: str) -> Host:
        """Return the host *address*.

        Raises:
            NotFound: there is none.
        """
        return (await self.get_record(client, address)).model

    async def get_record(self, client: AsyncStorageClient, address: str) -> Record[Host]:
        """Return the host *address* with its revision.

        Raises:
            NotFound: there is none.
        """
        record = await self.find_record(client, address)
        if record is None:
            raise NotFound("there is no such host")
        return record

    async def find(self, client: AsyncStorageClient, address: str) -> Host | None:
        """Return the host *address*, or None."""
        return (await self.get_many(client, [address]))[0]

    async def get_many(self, client: AsyncStorageClient, addresses: Iterable[str]) -> list[Host | None]:
        """Return the hosts of *addresses*, in the order asked, None in the place of each that does not exist.

        What is no address, which a cluster that the socket stored may have among its hosts, does not exist.
        """
        wanted = list(addresses)
        legal = [address for address in dict.fromkeys(wanted) if is_address(address)]
        found: dict[str, Host] = {}
        for source in await self._all(client):
            left = [address for address in legal if address not in found]
            if left:
                records = await client.get_many(Host, left, source=source)
                found |= {record.model.address: record.model for record in records if record is not None}
        return [found.get(address) for address in wanted]

    async def list(self, client: AsyncStorageClient) -> AsyncIterator[Host]:
        """Yield every host, of each address one; by place, and there by address."""
        seen: set[str] = set()
        for source in await self._all(client):
            async for record in client.list(Hosts, source=source):
                if record.model.address not in seen:
                    seen.add(record.model.address)
                    yield record.model

    async def records(self, client: AsyncStorageClient, address: str) -> Sequence[Record[Host]]:
        """Return what each place has of *address*; places that lie in one store have the same."""
        found = [await client.get_many(Host, [address], source=source) for source in await self._all(client)]
        return [record for (record,) in found if record is not None]

    async def find_record(self, client: AsyncStorageClient, address: str) -> Record[Host] | None:
        """Return the host *address* with its revision, or None."""
        return next(iter(await self.records(client, address)), None)

    async def remove(self, client: AsyncStorageClient, address: str, found: Iterable[Revision]) -> Sequence[bool]:
        """Remove the host *address* where it was *found*; return for each place whether it was there as it was read."""
        removed = []
        for source, etag in found:
            try:
                removed += await client.delete_many(Host, [address], etags=[etag], source=source)
            except Changed:
                removed.append(False)
        return removed

    async def revisions(self, client: AsyncStorageClient, address: str) -> Sequence[Revision]:
        """Return where *address* is, and at which revision there, of what is no valid host, too."""
        found: list[Revision] = []
        for source in await self._all(client):
            with suppress(NotFound):
                try:
                    found.append(Revision(source, (await client.get(Host, address, source=source)).etag))
                except Malformed:
                    found.append(Revision(source, None))
        return found

    async def is_there(self, client: AsyncStorageClient, address: str) -> bool:
        """Return whether there is a host *address*, valid or not."""
        return bool(await self.revisions(client, address))

    async def check_there(self, client: AsyncStorageClient, address: str) -> None:
        """Return if there is a host *address*, valid or not.

        Raises:
            NotFound: there is none.
        """
        if not await self.is_there(client, address):
            raise NotFound("there is no such host")

    async def _all(self, client: AsyncStorageClient) -> Sequence[str]:
        now = asyncio.get_running_loop().time()
        if now >= self._until:
            self._sources = await client.host_sources()
            self._until = now + KEPT
        return self._sources

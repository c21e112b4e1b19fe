"""How a host is added: its record, its place in a cluster and its credentials, or nothing of them."""

from typing import Final

from strongroom.http_proxy.errors import Rejected
from strongroom.http_proxy.resources.base import Storage
from strongroom.http_proxy.resources.clusters import joining, leaving, staying
from strongroom.http_proxy.resources.twins import ATTEMPTS, lock, save_where_none, take_back
from strongroom.models import Cluster, Host, HostCreds
from strongroom.models.steps import Step
from strongroom.storage_service import wire
from strongroom.storage_service.client import AsyncStorageClient, Record
from strongroom.storage_service.errors import Changed, Denied, NotFound

NO_CLUSTER: Final = "There is no such cluster to join"
_TAKEN: Final = (
    "There are credentials of that address already: of another PUT at the same time, left behind, or moved here before"
    " their host"
)
_HAVE_HOST: Final = "if they are to open it, make the host beside them"
_MEANWHILE: Final = "The host was changed or removed at the same time"


class Addition:
    """One addition of a host, as far as it got: what it did itself is taken back where another is in its way.

    What stops it otherwise (a store that is away) leaves a host without credentials, which the same PUT completes.
    """

    def __init__(
        self, storage: Storage, client: AsyncStorageClient, address: str, creds: HostCreds | None, cluster: str = ""
    ) -> None:
        self._storage = storage
        self._client = client
        self._creds = creds
        self._address = address
        self._cluster = cluster
        self._made: Record[Host] | None = None
        self._joined: Record[Cluster] | None = None  # as this addition wrote it
        self._opened: Record[HostCreds] | None = None

    @property
    def opened(self) -> Record[HostCreds]:
        """The credentials, once the addition is finished."""
        if self._opened is None:
            raise RuntimeError("the addition is not finished")
        return self._opened

    async def make(self, host: Host) -> Record[Host]:
        """Add *host*, which is not there, and return it as it is now.

        Raises:
            Exists: it is by now.
            Rejected: as `finish`. Of two who add it with different sources, one finds the other's credentials; and one
                that comes without a key must not be opened by what another left behind.
        """
        if self._creds is None and await self._client.find_tag(HostCreds, self._address) is not None:
            raise Rejected(409, _TAKEN)
        self._made = await self._client.save(host, etag=wire.NEW)
        return await self.finish(self._made)

    async def open(self) -> bool:
        """Store the credentials where there are some to store and none stored; return whether that was so."""
        if self._creds is not None:
            self._opened = await save_where_none(self._client, self._creds)
        return self._opened is not None

    async def finish(self, host: Record[Host]) -> Record[Host]:
        """Add what *host*, which is there, is without; return it as it is now.

        Raises:
            Rejected: somebody else stored its credentials, or removed the host or its cluster, at the same time.
        """
        try:
            await self._join()
            if self._opened is None:
                await self.open()
            if self._opened is None and self._creds is not None:
                raise Rejected(409, _TAKEN, Step(_HAVE_HOST, "host put", {"address": self._address}))
            await self._stay()
            return await self._lock(host)
        except Rejected:
            await self._take_back()
            raise

    async def _join(self) -> None:
        if self._cluster:
            try:
                record, joins = await self._storage.changed(
                    self._client, Cluster, self._cluster, joining(self._address)
                )
            except NotFound:
                raise Rejected(409, NO_CLUSTER) from None
            self._joined = record if joins else None

    async def _stay(self) -> None:
        """Make the membership that another addition wrote this one's, so that the other does not take it back."""
        if self._cluster and self._joined is None:
            try:
                self._joined, _ = await self._storage.changed(
                    self._client, Cluster, self._cluster, staying(self._address)
                )
            except NotFound:
                raise Rejected(409, NO_CLUSTER) from None

    async def _lock(self, host: Record[Host]) -> Record[Host]:
        """Store *host* over its revision: who removes it, or takes it back, at the same time sees it changed."""
        for _ in range(ATTEMPTS):
            if (locked := await lock(self._client, host)) is not None:
                return locked
            places = await self._storage.hosts.records(self._client, self._address)
            there = next((record for record in places if record.model.source == host.model.source), None)
            # Changed by the platform, say, or removed and made anew: are the credentials still these?
            if there is None or not await self._still_open():
                break
            host = there
        raise Rejected(409, _MEANWHILE)

    async def _still_open(self) -> bool:
        """Return whether the credentials, if any were stored, are as this addition stored them; lock them.

        Who may store them and not replace them cannot, and begins again.
        """
        if self._opened is None:
            return True
        try:
            still = await lock(self._client, self._opened)
        except Denied:
            return False
        self._opened = still or self._opened
        return still is not None

    async def _take_back(self) -> None:
        if self._opened is not None:
            await take_back(self._client, self._opened)
        if self._made is not None:
            await take_back(self._client, self._made)
        await self._leave()

    async def _leave(self) -> None:
        """Leave the cluster that was joined; if it changed since, only while no other has added the host."""
        record, leave = self._joined, leaving(self._address)
        for _ in range(ATTEMPTS):
            if record is None or not leave(record.model):
                return
            try:
                await self._client.save(record.model, etag=record.etag)
            except Changed:
                (record,) = await self._client.get_many(Cluster, [self._cluster])
            else:
                return
            if await self._storage.hosts.is_there(self._client, self._address):
                return

"""``/hosts`` and ``/host/{address}``: machines, and apart from them what opens them."""

from contextlib import suppress
from typing import Final

import falcon

from strongroom.http_proxy.errors import Rejected, Request, Response
from strongroom.http_proxy.resources.additions import NO_CLUSTER, Addition
from strongroom.http_proxy.resources.base import (
    Resource,
    Storage,
    check_may_reveal,
    find,
    may_reveal,
    remove_if_there,
    respond,
    settle,
)
from strongroom.http_proxy.resources.clusters import leaving
from strongroom.http_proxy.resources.twins import ATTEMPTS, check_may_each, take_back
from strongroom.models import Cluster, Clusters, Host, HostCreds, HostStatus, Model
from strongroom.storage_service import wire
from strongroom.storage_service.client import AsyncStorageClient, Record
from strongroom.storage_service.client.operations import ANY_REVISION
from strongroom.storage_service.errors import Busy, Changed, Invalid, NotFound

_CREDENTIALS: Final = ("ssh_priv_key", "remote_user")  # members of a PUT that belong to HostCreds
_OTHER_KEY: Final = "The host is known with another key"
_OTHER_SOURCE: Final = "The host is known with another source"
_KNOWN: Final = "The host is known; send it without credentials to see it"
_NOT_THERE: Final = "The host is known and not in that cluster"


class HostCollection(Resource):
    """All hosts."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """List their records, without credentials."""
        client = self.storage.for_caller(req)
        respond(resp, [host.to_dict_safe() async for host in self.storage.hosts.list(client)])


class NewHost(Resource):
    """A host whose address stands in the body."""

    async def on_put(self, req: Request, resp: Response) -> None:
        """Add it, as `HostItem` does."""
        await _add(self.storage, req, resp, await self.read_for(req, Host, None))


class HostItem(Resource):
    """One host. Investigating a new one and joining it to its cluster's software is the platform's part."""

    async def on_get(self, req: Request, resp: Response, address: str) -> None:
        """Show its record, without credentials."""
        respond(resp, (await self.storage.hosts.get(self.storage.for_caller(req), address)).to_dict_safe())

    async def on_put(self, req: Request, resp: Response, address: str) -> None:
        """Add it: ``ssh_priv_key``, ``remote_user`` and, if it is to join one, ``cluster``."""
        body = await self.read_for(req, Host, address)
        settle(body, "address", address)
        await _add(self.storage, req, resp, body)

    async def on_delete(self, req: Request, resp: Response, address: str) -> None:
        """Remove the host, its credentials first: a deletion that fails is told, and can be asked for again.

        Who may not do all of it does nothing of it. Of what is no host nothing is removed, credentials of that
        address neither. If the host is changed or made anew meanwhile, it is removed as it is then (see ``twins``).
        """
        client, hosts = self.storage.for_caller(req), self.storage.hosts
        await check_may_each(client, "delete", (Host, address), (HostCreds, address))
        removed = False
        for _ in range(ATTEMPTS):
            found = await hosts.revisions(client, address)
            if not found:
                break
            clusters = [record.model.name async for record in client.list(Clusters) if address in record.model.hostset]
            for action in ("get", "put"):
                await check_may_each(client, action, *((Cluster, name) for name in clusters))
            await remove_if_there(client, HostCreds, address)
            for name in clusters:
                with suppress(NotFound):  # it went meanwhile
                    await self.storage.change(client, Cluster, name, leaving(address))
            gone = await hosts.remove(client, address, found)
            removed |= any(gone)
            if all(gone):
                break
        else:
            raise Busy("others keep changing this host")
        if not removed:
            raise NotFound("there is no such host")
        respond(resp, [])


class HostCredentials(Resource):
    """What opens a host; for those alone who may see credentials."""

    async def on_get(self, req: Request, resp: Response, address: str) -> None:
        """Show it in the clear; of an address that is no host's nothing is shown."""
        check_may_reveal(req)
        client = self.storage.for_caller(req)
        record = await client.get(HostCreds, address)
        await self.storage.hosts.check_there(client, address)
        resp.set_header("ETag", record.etag)
        respond(resp, record.model.to_dict())

    async def on_put(self, req: Request, resp: Response, address: str) -> None:
        """Replace it, for a key that was changed; with ``If-Match``, only if it is still the one that was read.

        A host that has none yet gets it, as by a PUT of the host.
        """
        check_may_reveal(req)
        body = await self.read_for(req, HostCreds, address)
        settle(body, "address", address)
        creds = HostCreds.from_dict(body)
        client = self.storage.for_caller(req)
        await self.storage.hosts.check_there(client, address)
        told = req.get_header("If-Match")
        try:
            saved = await client.save(creds, etag=ANY_REVISION if told is None else told)
        except Changed:
            if told is not None:
                raise
            saved = await self._save_first(client, creds)
        if not await self.storage.hosts.is_there(client, address):
            await take_back(client, saved)
            raise NotFound("there is no such host any more")
        resp.set_header("ETag", saved.etag)
        resp.status = falcon.HTTP_204

    async def _save_first(self, client: AsyncStorageClient, creds: HostCreds) -> Record[HostCreds]:
        """Store *creds* of a host that has none.

        Raises:
            Rejected: others store some, or change or remove the host, at the same time.
        """
        await client.check_may("put", Host, creds.address)
        host = await self.storage.hosts.find_record(client, creds.address)
        if host is None:
            raise NotFound("there is no such host")
        return await Addition(self.storage, client, creds).finish(host)


class HostStatusItem(Resource):
    """How a host is."""

    async def on_get(self, req: Request, resp: Response, address: str) -> None:
        """Show what its record says; what a container manager knows of it, the platform adds."""
        host = await self.storage.hosts.get(self.storage.for_caller(req), address)
        status = HostStatus(type="host_only", host={"last_check": host.last_check, "status": host.status})
        respond(resp, status.to_dict_safe())


async def _add(storage: Storage, req: Request, resp: Response, body: dict[str, object]) -> None:
    """Add a host and what opens it (see `Addition`).

    The credentials are written last and only where there are none: so of many who add one host at a time one wins, and
    a PUT that failed half-way can be sent again. A host that is there with its credentials is only shown, provided
    that key and cluster are the same. Who may not see credentials is not told whether a key is the same, for nobody
    looks: those of a known host are not said again.
    """
    cluster = body.pop("cluster", "")
    if not isinstance(cluster, str):
        raise Invalid("the body is not valid", (("cluster", "must be a string"),))
    given: dict[str, object] = {name: body.pop(name) for name in _CREDENTIALS if name in body}
    host = Host.from_dict(body)
    creds = HostCreds.from_dict({"address": host.address, **given})
    client = storage.for_caller(req)
    wanted: list[tuple[type[Model], str]] = [(Host, host.address), (HostCreds, host.address)]
    await check_may_each(client, "put", *wanted, *([(Cluster, cluster)] if cluster else []))

    existing = await storage.hosts.find_record(client, host.address)
    if existing is not None and host.source.strip() not in ("", existing.model.source.strip()):
        raise Rejected(409, _OTHER_SOURCE)
    joined = await find(client, Cluster, cluster) if cluster else None
    if cluster and joined is None:
        raise Rejected(409, NO_CLUSTER)
    addition = Addition(storage, client, creds, cluster)
    if existing is None:
        added = await addition.make(host)
    elif not await _is_known(req, client, addition, creds, said=bool(given)):
        await addition.finish(existing)
        added = existing.model
    elif joined is not None and host.address not in joined.hostset:
        raise Rejected(409, _NOT_THERE)
    else:
        respond(resp, existing.model.to_dict_safe())
        return
    resp.location = f"{wire.API_PATH}/host/{host.address}"
    respond(resp, added.to_dict_safe(), status=201)


async def _is_known(
    req: Request, client: AsyncStorageClient, addition: Addition, creds: HostCreds, *, said: bool
) -> bool:
    """Return whether a host that is there has credentials; if not, a PUT failed half-way.

    Who may not see credentials stores his, if there are none: so nobody has to look.

    Raises:
        Rejected: they are others than *creds*, or the caller *said* some and may not know whether they are.
    """
    if not may_reveal(req):
        if await addition.open():
            return False
        if said:
            raise Rejected(409, _KNOWN)
        return True
    stored = await find(client, HostCreds, creds.address)
    if stored is not None and stored.ssh_priv_key != creds.ssh_priv_key:
        raise Rejected(409, _OTHER_KEY)
    return stored is not None

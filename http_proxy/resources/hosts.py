"""``/hosts`` and ``/host/{address}``: machines, and apart from them what opens them."""

from typing import Final

import falcon

from http_proxy.errors import Rejected, Request, Response
from http_proxy.resources.base import (
    Resource,
    Storage,
    check_may_reveal,
    find,
    may_reveal,
    remove_if_there,
    respond,
    save_new,
    settle,
)
from http_proxy.resources.clusters import joining, leaving
from models import Cluster, Clusters, Host, HostCreds, HostStatus
from storage_service.client import AsyncStorageClient
from storage_service.errors import Exists, Invalid

_CREDENTIALS: Final = ("ssh_priv_key", "remote_user")  # members of a PUT that belong to HostCreds
_OTHER_KEY: Final = "The host is known with another key"
_KNOWN: Final = "The host is known; say it without credentials to see it"
_NOT_THERE: Final = "The host is known and not in that cluster"
_OTHER_SOURCE: Final = "The host is known with another source"


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

        Of what is no host nothing is removed, credentials of that address neither.
        """
        client = self.storage.for_caller(req)
        await self.storage.hosts.check_there(client, address)
        await remove_if_there(client, HostCreds, address)
        async for record in client.list(Clusters):
            if address in record.model.hostset:
                await self.storage.change(client, Cluster, record.model.name, leaving(address))
        await self.storage.hosts.remove(client, address)
        respond(resp, [])


class HostCredentials(Resource):
    """What opens a host; for those alone who may see credentials."""

    async def on_get(self, req: Request, resp: Response, address: str) -> None:
        """Show it in the clear."""
        check_may_reveal(req)
        record = await self.storage.for_caller(req).get(HostCreds, address)
        resp.set_header("ETag", record.etag)
        respond(resp, record.model.to_dict())

    async def on_put(self, req: Request, resp: Response, address: str) -> None:
        """Replace it, for a key that was changed; with ``If-Match``, only if it is still the one that was read."""
        check_may_reveal(req)
        body = await self.read_for(req, HostCreds, address)
        settle(body, "address", address)
        creds = HostCreds.from_dict(body)
        client = self.storage.for_caller(req)
        await self.storage.hosts.check_there(client, address)
        saved = await client.save(creds, etag=req.get_header("If-Match"))
        resp.set_header("ETag", saved.etag)
        resp.status = falcon.HTTP_204


class HostStatusItem(Resource):
    """How a host is."""

    async def on_get(self, req: Request, resp: Response, address: str) -> None:
        """Show what its record says; what a container manager knows of it, the platform adds."""
        host = await self.storage.hosts.get(self.storage.for_caller(req), address)
        status = HostStatus(type="host_only", host={"last_check": host.last_check, "status": host.status})
        respond(resp, status.to_dict_safe())


async def _add(storage: Storage, req: Request, resp: Response, body: dict[str, object]) -> None:
    """Add a host and what opens it.

    The credentials are written last and only where there are none: so of many who add one host at a time one wins, and
    a PUT that failed half-way can be sent again. A host that is there with its credentials is only shown, provided
    that key and cluster are the same. Who may not see credentials is not told whether a key is the same, for nobody
    looks: those of a known host are not said again.
    """
    cluster = body.pop("cluster", "")
    if not isinstance(cluster, str):
        raise Invalid("the body is not valid", (("cluster", "must be a text"),))
    given: dict[str, object] = {name: body.pop(name) for name in _CREDENTIALS if name in body}
    host = Host.from_dict(body)
    creds = HostCreds.from_dict({"address": host.address, **given})
    client = storage.for_caller(req)

    existing = await storage.hosts.find(client, host.address)
    if existing is not None and host.source.strip() not in ("", existing.source.strip()):
        raise Rejected(409, _OTHER_SOURCE)
    joined = await find(client, Cluster, cluster) if cluster else None
    if cluster and joined is None:
        raise Rejected(409, "There is no such cluster to join")
    is_new, written = existing is None, False
    if existing is not None and may_reveal(req):
        stored = await find(client, HostCreds, host.address)
        is_new = stored is None  # a PUT failed half-way
        if stored is not None and stored.ssh_priv_key != creds.ssh_priv_key:
            raise Rejected(409, _OTHER_KEY)
    elif existing is not None:
        is_new = written = await _wrote_new(client, creds)
        if given and not is_new:
            raise Rejected(409, _KNOWN)
    if existing is not None and not is_new:
        if joined is not None and host.address not in joined.hostset:
            raise Rejected(409, _NOT_THERE)
        respond(resp, existing.to_dict_safe())
        return
    saved = existing or await save_new(client, host)
    if cluster:
        await storage.change(client, Cluster, cluster, joining(host.address))
    if not written and not await _wrote_new(client, creds):
        raise Rejected(409, _OTHER_KEY)
    resp.location = f"/api/v0/host/{host.address}"
    respond(resp, saved.to_dict_safe(), status=201)


async def _wrote_new(client: AsyncStorageClient, creds: HostCreds) -> bool:
    """Store *creds* where there are none, and return whether that was so; what is there is not looked at."""
    try:
        await save_new(client, creds)
    except Exists:
        return False
    return True

"""``/networks`` and ``/network/{name}``: what clusters are joined to."""

from strongroom.http_proxy.errors import Rejected, Request, Response
from strongroom.http_proxy.resources.base import (
    Resource,
    as_told,
    check_at,
    expected_of,
    find_record,
    is_update,
    names_revision,
    overlay,
    respond,
    save_new,
    settle,
    show,
    tag_of,
)
from strongroom.models import Network, Networks
from strongroom.storage_service import wire


class NetworkCollection(Resource):
    """All networks."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """List their names."""
        respond(resp, [record.model.name async for record in self.storage.for_caller(req).list(Networks)])


class NetworkItem(Resource):
    """One network."""

    guarded = frozenset(("PUT", "DELETE"))

    async def on_get(self, req: Request, resp: Response, name: str) -> None:
        """Show its record."""
        show(resp, await self.storage.for_caller(req).get(Network, name))

    async def on_put(self, req: Request, resp: Response, name: str) -> None:
        """Make it; one that is there already must be the same, or is changed where If-Match names it."""
        told = expected_of(req)
        body = await self.read_for(req, Network, name)
        settle(body, "name", name)
        network = Network.from_dict(body)
        client = self.storage.for_caller(req)
        if is_update(told):
            change = self.storage.changed(client, Network, name, overlay(body, network), etag=told)
            show(resp, await as_told(change))
            return
        existing = None if told == wire.NEW else await find_record(client, Network, name)
        if existing is None:
            resp.location = f"{wire.API_PATH}/network/{name}"
            show(resp, await save_new(client, network), 201)
            return
        if existing.model != network:
            raise Rejected(409, "There is another network of that name; send If-Match to change it")
        show(resp, existing)

    async def on_delete(self, req: Request, resp: Response, name: str) -> None:
        """Remove it; with If-Match, only at that revision."""
        told = expected_of(req)
        client = self.storage.for_caller(req)
        if told is not None:
            await client.check_may("delete", Network, name)
            check_at(told, await tag_of(client, Network, name))  # of what is not there, 404 comes first
        await client.delete(Network, name, etag=told if names_revision(told) else None)
        respond(resp, [])

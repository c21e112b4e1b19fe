"""``/networks`` and ``/network/{name}``: what clusters are joined to."""

from strongroom.http_proxy.errors import Rejected, Request, Response
from strongroom.http_proxy.resources.base import Resource, find, respond, save_new, settle
from strongroom.models import Network, Networks
from strongroom.storage_service import wire


class NetworkCollection(Resource):
    """All networks."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """List their names."""
        respond(resp, [record.model.name async for record in self.storage.for_caller(req).list(Networks)])


class NetworkItem(Resource):
    """One network."""

    async def on_get(self, req: Request, resp: Response, name: str) -> None:
        """Show its record."""
        respond(resp, (await self.storage.for_caller(req).get(Network, name)).model.to_dict_safe())

    async def on_put(self, req: Request, resp: Response, name: str) -> None:
        """Make it; one that is there already must be the same."""
        body = await self.read_for(req, Network, name)
        settle(body, "name", name)
        network = Network.from_dict(body)
        client = self.storage.for_caller(req)
        existing = await find(client, Network, name)
        if existing is None:
            resp.location = f"{wire.API_PATH}/network/{name}"
            respond(resp, (await save_new(client, network)).to_dict_safe(), status=201)
            return
        if existing != network:
            raise Rejected(409, "There is another network of that name")
        respond(resp, existing.to_dict_safe())

    async def on_delete(self, req: Request, resp: Response, name: str) -> None:
        """Remove it."""
        await self.storage.for_caller(req).delete(Network, name)
        respond(resp, [])

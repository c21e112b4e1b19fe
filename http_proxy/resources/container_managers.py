"""``/containermanagers`` and ``/containermanager/{name}``: how to reach them, and apart from that what opens them."""

from typing import Final

import msgspec

from http_proxy.errors import Rejected, Request, Response
from http_proxy.resources.base import (
    Resource,
    check_there,
    find,
    may_reveal,
    remove_if_there,
    respond,
    save_new,
    save_over,
    settle,
)
from models import ContainerManagerConfig, ContainerManagerConfigs, ContainerManagerCreds
from storage_service.errors import Invalid

_CREDENTIALS: Final = frozenset(field.name for field in msgspec.structs.fields(ContainerManagerCreds)) - {
    ContainerManagerCreds.primary_key
}
_OTHER: Final = "There is another container manager of that name"
_KNOWN: Final = "There is a container manager of that name; say it without credentials to see whether it is the same"


class ContainerManagerCollection(Resource):
    """All container managers."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """List their names."""
        client = self.storage.for_caller(req)
        respond(resp, [record.model.name async for record in client.list(ContainerManagerConfigs)])


class ContainerManagerItem(Resource):
    """One container manager."""

    async def on_get(self, req: Request, resp: Response, name: str) -> None:
        """Show how to reach it; what opens it lies elsewhere and is not shown."""
        respond(resp, (await self.storage.for_caller(req).get(ContainerManagerConfig, name)).model.to_dict_safe())

    async def on_put(self, req: Request, resp: Response, name: str) -> None:
        """Make it; one that is there already must be the same.

        Options that open it (``token``, ``password`` and the other fields of its credentials) are taken out and kept
        as a secret; the plain record is written last, so that a PUT that failed half-way can be sent again.

        Who may not see credentials is not told whether those of a known one are these: nobody looks.
        """
        body = await self.read_for(req, ContainerManagerConfig, name)
        settle(body, "name", name)
        options = body.get("options", {})
        if not isinstance(options, dict):
            raise Invalid("the body is not valid", (("options", "must be an object"),))
        body["options"] = {option: value for option, value in options.items() if option not in _CREDENTIALS}
        taken = {option: value for option, value in options.items() if option in _CREDENTIALS}
        config = ContainerManagerConfig.from_dict(body)
        creds = ContainerManagerCreds.from_dict({"name": name, **taken})
        client = self.storage.for_caller(req)
        existing = await find(client, ContainerManagerConfig, name)
        if existing is None:
            if taken:
                await save_over(client, creds)
            else:  # what an earlier one of the name may have left must not open this one
                await remove_if_there(client, ContainerManagerCreds, name)
            resp.location = f"/api/v0/containermanager/{name}"
            respond(resp, (await save_new(client, config)).to_dict_safe(), status=201)
            return
        if not may_reveal(req):
            if taken:
                raise Rejected(409, _KNOWN)
        elif (await find(client, ContainerManagerCreds, name) or ContainerManagerCreds(name=name)) != creds:
            raise Rejected(409, _OTHER)
        if existing != config:
            raise Rejected(409, _OTHER)
        respond(resp, existing.to_dict_safe())

    async def on_delete(self, req: Request, resp: Response, name: str) -> None:
        """Remove it, what opens it first: a deletion that fails is told, and can be asked for again."""
        client = self.storage.for_caller(req)
        await check_there(client, ContainerManagerConfig, name)
        await remove_if_there(client, ContainerManagerCreds, name)
        await client.delete(ContainerManagerConfig, name)
        respond(resp, [])

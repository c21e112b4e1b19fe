"""All that the socket serves of keys, under ``/keyring``: one noun a class, and nothing in it but the way in and out.

The proxy forwards none of it.
"""

from typing import Any

import falcon
import falcon.asgi

from storage_service.answering import Request, Response, answer, body, caller
from storage_service.key_service import KeyService
from storage_service.keyring_wire import KEYRING_PATH, Typed


def add_routes(app: falcon.asgi.App[Any, Any], keys: KeyService) -> None:
    """Give *app* every resource of this page."""
    for path, resource in (
        ("", Keyring(keys)),
        ("/unlock", Unlock(keys)),
        ("/lock", Lock(keys)),
    ):
        app.add_route(KEYRING_PATH + path, resource)


class _Resource:
    """A resource, and the door behind it."""

    def __init__(self, keys: KeyService) -> None:
        self._keys = keys


class Keyring(_Resource):
    """The keyring as a whole."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """Tell all that can be told of it now."""
        answer(req, resp, await self._keys.status(caller(req)))


class Unlock(_Resource):
    """What opens the keyring."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """Unlock every worker, and tell the status."""
        said = await body(req, Typed)
        await self._keys.unlock(caller(req), said.text)
        _done(req, resp)


class Lock(_Resource):
    """What closes it."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """Lock every worker."""
        await self._keys.lock(caller(req))
        _done(req, resp)


def _done(req: Request, resp: Response) -> None:
    resp.status = falcon.HTTP_204
    answer(req, resp, None)

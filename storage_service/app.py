"""The service as an ASGI application: identify, then hand over; and one place where errors become answers.

request ──▶ who asks? ──▶ /secrets…   the raw endpoint of Custodia's contract
                     └──▶ the rest    falcon: model verbs, API keys, status
"""

import logging
from collections.abc import Callable
from typing import Any, Final

import falcon
import falcon.asgi

from storage_service import asgi, authn, head, resources
from storage_service.asgi import Receive, Scope, Send
from storage_service.authn import PEER_EXTENSION, Peer
from storage_service.backends import open_backend
from storage_service.backends.base import Backend
from storage_service.bootstrap import Page, Parts, build, no_old_place
from storage_service.config import ReadThroughSettings, ServiceSettings
from storage_service.custodia import SecretsEndpoint
from storage_service.errors import (
    Denied,
    Internal,
    Invalid,
    MethodNotAllowed,
    NotAuthenticated,
    NotFound,
    ServiceError,
    StrongroomError,
)
from storage_service.read_through import OldPlace
from storage_service.service import Caller
from storage_service.wire import SECRETS_PATH

Request = falcon.asgi.Request
Response = falcon.asgi.Response

log = logging.getLogger(__name__)

OPEN_PATHS: Final = frozenset({"/livez", "/readyz"})  # answered to anyone: they tell no more than up or down


class StorageApp:
    """The application that gunicorn serves on the unix socket."""

    def __init__(
        self,
        settings: ServiceSettings,
        page: Page,
        opener: Callable[[str], Backend] = open_backend,
        old_places: Callable[[ReadThroughSettings], OldPlace] = no_old_place,
    ) -> None:
        """Take the settings, what the workers share, and what makes the store of its URL and old places of theirs."""
        self._settings = settings
        self._page = page
        self._opener = opener
        self._old_places = old_places
        self._parts: Parts | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the worker's start and end."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            self._parts = await build(self._settings, self._page, self._opener, self._old_places)
        except StrongroomError as error:
            # gunicorn logs the message and ends the server: what is wrong here does not get better by trying again.
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        self._secrets = SecretsEndpoint(self._parts.service)
        self._rest = _falcon_app(self._parts)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._parts.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts = self._parts
        assert parts is not None  # noqa: S101  # gunicorn serves nothing before lifespan startup is complete
        request_id = "-"
        try:
            fields = head.read(scope["headers"], parts.head_fields)
            request_id = fields.request_id or "-"
            path = asgi.path_of(scope)
            if path in OPEN_PATHS:
                await self._rest(scope, receive, send)
                return
            peer: Peer | None = (scope.get("extensions") or {}).get(PEER_EXTENSION)
            try:
                principal = await authn.authenticate(parts.authenticators, fields, peer)
            except (NotAuthenticated, Denied) as error:
                await parts.service.refuse(request_id, scope["method"], path, str(error), peer)
                raise
            caller = Caller(principal, request_id, peer, fields.on_behalf_of)
            if path == SECRETS_PATH or path.startswith(SECRETS_PATH + "/"):
                await self._secrets(scope, receive, send, path=path, caller=caller, head=fields)
            else:
                scope["strongroom.caller"] = caller
                await self._rest(scope, receive, send)
        except ServiceError as error:
            if isinstance(error, Internal):
                # Told in full already: a traceback would add nothing but places where a value could hide.
                log.error("request %s: %s", request_id, error)  # noqa: TRY400
            await asgi.respond_problem(send, request_id, error)
        except Exception:
            # Without the traceback's locals; the types of this project keep secrets out of what remains.
            log.exception("request %s: unexpected error", request_id)
            await asgi.respond_problem(send, request_id, Internal("unexpected"))


def create_app(
    settings: ServiceSettings,
    page: Page | None = None,
    old_places: Callable[[ReadThroughSettings], OldPlace] = no_old_place,
) -> StorageApp:
    """Return the application; it touches nothing before its worker starts.

    *page* is what the workers of one service share; without one, this is the only worker. *old_places* makes what asks
    an old place, where settings name one.
    """
    return StorageApp(settings, page or Page(), old_places=old_places)


def _falcon_app(parts: Parts) -> falcon.asgi.App[Request, Response]:
    app: falcon.asgi.App[Request, Response] = falcon.asgi.App()
    app.add_error_handler(Exception, _reraise)
    app.add_error_handler(falcon.HTTPError, _translate)
    resources.add_routes(app, parts)
    return app


async def _reraise(_: Request, __: Response, error: Exception, ___: dict[str, Any]) -> None:
    # Out of falcon, to the one place that answers errors.
    raise error


async def _translate(_: Request, __: Response, error: falcon.HTTPError, ___: dict[str, Any]) -> None:
    if isinstance(error, falcon.HTTPNotFound):
        raise NotFound("no such path") from None
    if isinstance(error, falcon.HTTPMethodNotAllowed):
        raise MethodNotAllowed("no such method on this path") from None
    raise Invalid("the request is malformed") from None

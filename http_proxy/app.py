"""The proxy, put together: the door, the way of the secrets, and falcon for everything else.

request ──▶ AuthenticationManager ──▶ /api/v0/secrets…   Forwarder, to the service's socket, unread
            (one spelling a path,  └▶ the rest           falcon: health, the description, the model routes
             nobody unknown)
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import falcon.asgi
import msgspec

from http_proxy import authn, errors
from http_proxy.asgi import Receive, Scope, Send, request_id_of
from http_proxy.errors import FalconApp, Request, Response
from http_proxy.forward import Forwarder
from http_proxy.middleware import AuthenticationManager
from http_proxy.openapi import DOCUMENT
from http_proxy.resources import add_routes
from http_proxy.resources.base import Storage, respond
from http_proxy.upstream import Upstream, UpstreamError
from storage_service import wire
from storage_service.config import ProxySettings
from storage_service.errors import Unavailable

READY_TIMEOUT: Final = 2.0  # seconds for the service to say that it can work
_DESCRIPTION: Final = msgspec.json.encode(DOCUMENT)
_ASK_READY: Final = b"GET /readyz HTTP/1.1\r\nhost: strongroom\r\nforwarded: for=unknown\r\n\r\n"


def create_app(settings: ProxySettings, notes: Callable[[], Sequence[str]] = tuple) -> AuthenticationManager:
    """Return the proxy as an ASGI application. Nothing is opened, and no environment is read.

    Args:
        settings: all that it is told.
        notes: gives what readiness is to warn of at that moment; everybody can read it.

    Raises:
        ConfigurationError: an authenticator, or a self-authenticated path, that cannot be.
    """
    upstream = Upstream(str(settings.socket), settings.connections)
    storage = Storage(settings)
    forward = Forwarder(upstream, timeout=settings.timeout, connections=settings.connections)
    rest = _falcon_app(upstream, storage, notes)
    secrets = wire.PROXIED_SECRETS_PATH.encode("ascii")
    below = secrets + b"/"

    def route(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            path: bytes = scope["raw_path"]
            if path.startswith(below) or path == secrets:
                return forward(scope, receive, send)
        return rest(scope, receive, send)

    return AuthenticationManager(route, authn.make(settings.authenticators, upstream), settings.self_auths)


def _falcon_app(upstream: Upstream, storage: Storage, notes: Callable[[], Sequence[str]] = tuple) -> FalconApp:
    app: FalconApp = falcon.asgi.App()
    app.add_middleware(_RequestId())
    app.add_middleware(_Lifespan(upstream, storage))
    app.req_options.strip_url_path_trailing_slash = True
    errors.install(app)
    app.add_route("/livez", Alive())
    app.add_route("/readyz", Ready(upstream, notes))
    app.add_route("/openapi.json", Description())
    add_routes(app, storage)
    return app


class Alive:
    """Whether the process serves at all; asks nobody else."""

    async def on_get(self, _: Request, resp: Response) -> None:
        """Say that it does."""
        respond(resp, {"status": "alive"})


class Ready:
    """Whether requests would be answered: the service is asked the same. What should be seen to is told beside it."""

    def __init__(self, upstream: Upstream, notes: Callable[[], Sequence[str]]) -> None:
        self._upstream = upstream
        self._notes = notes

    async def on_get(self, _: Request, resp: Response) -> None:
        """Say that they would, or 503."""
        try:
            status, body = await self._upstream.fetch(_ASK_READY, asyncio.get_running_loop().time() + READY_TIMEOUT)
        except UpstreamError as exc:
            raise Unavailable("the service does not answer") from exc
        if status != 200:
            raise wire.error_of(status, body)
        warnings = list(self._notes())
        respond(resp, {"status": "ready"} | ({"warnings": warnings} if warnings else {}))


class Description:
    """What the proxy serves, as an OpenAPI document."""

    async def on_get(self, _: Request, resp: Response) -> None:
        """Show it."""
        resp.content_type = wire.JSON
        resp.data = _DESCRIPTION


class _RequestId:
    """Falcon middleware: every answer goes by the id of its request."""

    async def process_request(self, req: Request, _: Response) -> None:
        state = req.scope.setdefault("state", {})
        state["request_id"] = request_id_of(req.scope["headers"]).decode("ascii")

    async def process_response(self, req: Request, resp: Response, _: object, __: bool) -> None:
        resp.set_header(wire.REQUEST_ID_HEADER, req.scope["state"]["request_id"])


class _Lifespan:
    """Falcon middleware: what was opened for a worker is closed with it. Opening happens on first use."""

    def __init__(self, upstream: Upstream, storage: Storage) -> None:
        self._upstream = upstream
        self._storage = storage

    async def process_shutdown(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        del scope, event
        self._upstream.close()
        await self._storage.close()

"""The proxy, put together: the door, the way of the secrets, and falcon for everything else.

request ──▶ AuthenticationManager ──▶ /api/v0/secrets…   Forwarder, to the service's socket, unread
            (one spelling a path,  └▶ the rest           falcon: health, the description, the model routes
             nobody unknown)
"""

import asyncio
import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import falcon.asgi
import msgspec

from strongroom.http_proxy import authn, errors
from strongroom.http_proxy.authn.base import Identity
from strongroom.http_proxy.authn.certificate import CertificateAuthenticator
from strongroom.http_proxy.errors import FalconApp, Request, Response, answer_problem
from strongroom.http_proxy.forward import Forwarder
from strongroom.http_proxy.metrics import Metrics
from strongroom.http_proxy.middleware import AuthenticationManager
from strongroom.http_proxy.openapi import DOCUMENT
from strongroom.http_proxy.refusals import RefusalReporter, RefusedRequest, why
from strongroom.http_proxy.request import forwarded, proof_of, request_id_of
from strongroom.http_proxy.resources import add_routes
from strongroom.http_proxy.resources.base import Conditions, Storage, respond
from strongroom.models.strict_json import UNREADABLE
from strongroom.storage_service import wire
from strongroom.storage_service.client.pool import Place, Pool, UpstreamError
from strongroom.storage_service.config import ProxySettings
from strongroom.storage_service.errors import TooLarge
from strongroom.storage_service.meter import PROXY, Meter
from strongroom.storage_service.wire.http1 import Exchange

READY_TIMEOUT: Final = 2.0  # seconds for the service to say that it can work
_DESCRIPTION: Final = msgspec.json.encode(DOCUMENT)
_ASK_READY: Final = b"GET /readyz HTTP/1.1\r\nhost: strongroom\r\nforwarded: for=unknown\r\n\r\n"
_BELOW_SECRETS: Final = wire.PROXIED_SECRETS_PATH + "/"


class ProxyApp:
    """The proxy as the connection's face. Nothing is opened before the first request needs it."""

    def __init__(
        self,
        settings: ProxySettings,
        notes: Callable[[], Sequence[str]] = tuple,
        meter: Meter | None = None,
        expiry: float | None = None,
    ) -> None:
        """Take the settings, and what gives the warnings that readiness tells, which everybody can read.

        *meter* is what the workers count in, *expiry* when the certificate expires that they show.

        Raises:
            ConfigurationError: an authenticator, or a self-authenticated path, that cannot be.
        """
        self._pool = Pool(Place(str(settings.socket)), settings.connections)
        self._storage = Storage(settings)
        self._refusals = RefusalReporter(self._pool, settings)
        proof = proof_of(settings)
        forwarder = functools.partial(
            Forwarder,
            self._pool,
            timeout=settings.timeout,
            connections=settings.connections,
            proof=proof,
            refused=self._refusals.note,
        )
        self._forward = forwarder()
        self._also = [
            (prefix + "/", forwarder(prefix=prefix, target=target)) for prefix, target in wire.PROXIED.items()
        ]
        meter = meter or Meter(PROXY)
        metrics = Metrics(self._pool, proof, meter, expiry)
        self._rest = _falcon_app(self._pool, self._storage, metrics, notes)
        authenticators = authn.make(settings.authenticators, self._pool, proof)
        if settings.tls_client_certificates != "off":
            authenticators += (CertificateAuthenticator(self._pool, proof),)
        self._door = AuthenticationManager(
            self._behind,
            authenticators,
            settings.self_auths,
            self._refusals,
            metrics_token=settings.metrics_token,
            trusted_proxies=settings.trusted_proxies,
            meter=meter,
        )

    async def open(self) -> None:
        """Open nothing: the service need not be there yet."""

    async def close(self) -> None:
        """Close the connections to the service, when it was told who was refused."""
        await self._refusals.close()
        self._pool.close()
        await self._storage.close()

    def __call__(self, exchange: Exchange) -> Coroutine[Any, Any, None] | None:
        """Serve one request."""
        return self._door(exchange)

    def _behind(self, exchange: Exchange, path: str, identity: Identity | None) -> Coroutine[Any, Any, None] | None:
        if path.startswith(_BELOW_SECRETS) or path == wire.PROXIED_SECRETS_PATH:
            return self._forward(exchange, path)
        for below, forward in self._also:
            if path.startswith(below):
                return forward(exchange, path)
        known = request_id_of(exchange.request.fields)
        if exchange.request.length > wire.MAX_BODY:  # here: falcon awaits the beginning of a body first
            error = TooLarge("the body is longer than it may be")
            self._refusals.note(RefusedRequest(exchange, path, known, identity), why(error))
            answer_problem(exchange, error, known)
            return None
        request_id = known.decode("ascii")
        sender = forwarded(exchange.client, exchange.scheme)
        refused = functools.partial(self._refusals.note, RefusedRequest(exchange, path, known, identity))
        return exchange.asgi(self._rest, request_id=request_id, identity=identity, forwarded=sender, refused=refused)


def create_app(
    settings: ProxySettings,
    notes: Callable[[], Sequence[str]] = tuple,
    meter: Meter | None = None,
    expiry: float | None = None,
) -> ProxyApp:
    """Return the proxy. Nothing is opened, and no environment is read.

    Args:
        settings: all that it is told.
        notes: gives what readiness is to warn of at that moment; everybody can read it.
        meter: what the workers count in; made before they are forked.
        expiry: when the certificate expires that they show, in seconds since 1970; None: they show none.

    Raises:
        ConfigurationError: an authenticator, or a self-authenticated path, that cannot be.
    """
    return ProxyApp(settings, notes, meter, expiry)


def _falcon_app(pool: Pool, storage: Storage, metrics: Metrics, notes: Callable[[], Sequence[str]]) -> FalconApp:
    app: FalconApp = falcon.asgi.App()
    app.add_middleware([_RequestId(), Conditions()])
    app.req_options.strip_url_path_trailing_slash = True
    errors.install(app)
    app.add_route("/livez", Alive())
    app.add_route("/readyz", Ready(pool, notes))
    app.add_route(wire.METRICS_PATH, metrics)
    app.add_route("/openapi.json", Description())
    add_routes(app, storage)
    return app


class Alive:
    """Whether the process serves at all; asks nobody else."""

    async def on_get(self, _: Request, resp: Response) -> None:
        """Say that it does."""
        respond(resp, {"status": "alive"})


class Ready:
    """Whether requests would be answered: the service is asked the same. What should be seen to is told beside it.

    Everybody may read it, so it is words of ours and truth values, whatever the service says.
    """

    def __init__(self, pool: Pool, notes: Callable[[], Sequence[str]]) -> None:
        self._pool = pool
        self._notes = notes

    async def on_get(self, _: Request, resp: Response) -> None:
        """Say that they would, or 503."""
        found = await self._ask()
        ready = found.status == "ready"
        told: dict[str, object] = {
            "status": "ready" if ready else "unready",
            "state": found.state,
            "checks": {"service": found.state is not None} | dict(found.checks.items()),
        }
        if warnings := list(self._notes()):
            told["warnings"] = warnings
        respond(resp, told, 200 if ready else 503)
        if not ready:
            resp.set_header("Retry-After", str(wire.RETRY_AFTER))

    async def _ask(self) -> wire.Readiness:
        try:
            _, body = await self._pool.fetch(_ASK_READY, asyncio.get_running_loop().time() + READY_TIMEOUT)
            return msgspec.json.decode(body, type=wire.Readiness)
        except (UpstreamError, *UNREADABLE):
            return wire.Readiness(status="unready")


class Description:
    """What the proxy serves, as an OpenAPI document."""

    async def on_get(self, _: Request, resp: Response) -> None:
        """Show it."""
        resp.content_type = wire.JSON
        resp.data = _DESCRIPTION


class _RequestId:
    """Falcon middleware: every answer goes by the id of its request."""

    async def process_response(self, req: Request, resp: Response, _: object, __: bool) -> None:
        resp.set_header(wire.REQUEST_ID_HEADER, req.scope["state"]["request_id"])

"""The service as the connection's face: identify, then hand over; and one place where errors become answers.

request ──▶ who asks? ──▶ /secrets…   the raw endpoint of Custodia's contract
                     └──▶ the rest    falcon: model verbs, API keys, status
"""

import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

import falcon
import falcon.asgi

from storage_service import authn, head, resources, wire
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
    TooLarge,
)
from storage_service.read_through import OldPlace
from storage_service.service import Caller
from storage_service.wire import SECRETS_PATH
from storage_service.wire.http1 import Exchange, Gone
from storage_service.wire.paths import check_query, read_path

Request = falcon.asgi.Request
Response = falcon.asgi.Response

log = logging.getLogger(__name__)

OPEN_PATHS: Final = frozenset({"/livez", "/readyz"})  # answered to anyone: they tell no more than up or down
_BELOW_SECRETS: Final = SECRETS_PATH + "/"


class StorageApp:
    """The application that is served on the unix socket."""

    def __init__(
        self,
        settings: ServiceSettings,
        page: Page,
        opener: Callable[[str], Backend] = open_backend,
        old_places: Callable[[ReadThroughSettings], OldPlace] = no_old_place,
        *,
        renew: Callable[[], None] | None = None,
    ) -> None:
        """Take the settings, what the workers share, what makes stores and old places, and what renews the workers."""
        self._settings = settings
        self._page = page
        self._opener = opener
        self._old_places = old_places
        self._renew = renew
        self._parts: Parts | None = None

    async def open(self) -> None:
        """Open store, keys and audit log; nothing is served before.

        Raises:
            StrongroomError: as `bootstrap.build`: what is wrong does not get better by trying again.
        """
        self._parts = await build(self._settings, self._page, self._opener, self._old_places, self._renew)
        self._secrets = SecretsEndpoint(self._parts.service)
        self._rest = _falcon_app(self._parts)

    async def close(self) -> None:
        """Close what was opened."""
        if self._parts is not None:
            await self._parts.close()

    def __call__(self, exchange: Exchange) -> Coroutine[Any, Any, None]:
        """Serve one request."""
        return self._answer(exchange)

    async def _answer(self, exchange: Exchange) -> None:
        parts = self._parts
        assert parts is not None  # noqa: S101  # nothing is accepted before `open` is done
        request = exchange.request
        request_id = "-"
        try:
            try:
                fields = head.read(request.fields, parts.head_fields)
            except Invalid:
                request_id = head.request_id_of(request.fields)  # a proxy takes no answer that goes by another
                raise
            request_id = fields.request_id or "-"
            path = read_path(request.path)
            check_query(request.query)
            if path in OPEN_PATHS:
                await exchange.asgi(self._rest)
                return
            peer = exchange.peer
            try:
                principal = await authn.authenticate(parts.authenticators, fields, peer)
            except (NotAuthenticated, Denied) as error:
                await parts.service.refuse(request_id, request.method.decode(), path, str(error), peer)
                raise
            caller = Caller(principal, request_id, peer, fields.on_behalf_of)
            if path.startswith(_BELOW_SECRETS) or path == SECRETS_PATH:
                await self._secrets(exchange, path=path, caller=caller, head=fields)
            elif request.length > wire.MAX_BODY:
                raise TooLarge("the body is over its limit")  # here: falcon awaits the beginning of a body first
            else:
                await exchange.asgi(self._rest, caller=caller)
        except ServiceError as error:
            if isinstance(error, Internal):
                # Told in full already: a traceback would add nothing but places where a value could hide.
                log.error("request %s: %s", request_id, error)  # noqa: TRY400
            exchange.answer(*wire.problem_answer(error, request_id))
        except Gone:
            raise
        except Exception:
            # Without the traceback's locals; the types of this project keep secrets out of what remains.
            log.exception("request %s: unexpected error", request_id)
            exchange.answer(*wire.problem_answer(Internal("unexpected"), request_id))


def create_app(
    settings: ServiceSettings,
    page: Page | None = None,
    old_places: Callable[[ReadThroughSettings], OldPlace] = no_old_place,
    renew: Callable[[], None] | None = None,
) -> StorageApp:
    """Return the application; it touches nothing before it is opened.

    *page* is what the workers of one service share; without one, this is the only worker. *old_places* makes what asks
    an old place, where settings name one; *renew* lets new workers take the place of all.
    """
    return StorageApp(settings, page or Page(), old_places=old_places, renew=renew)


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
        allowed = error.headers or {}
        listed = allowed.get("Allow", "") if isinstance(allowed, dict) else dict(allowed).get("Allow", "")
        raise MethodNotAllowed("no such method on this path", tuple(listed.split(", "))) from None
    raise Invalid("the request is malformed") from None

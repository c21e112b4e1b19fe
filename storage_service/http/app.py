"""The service as the connection's face: identify, then hand over; and one place where errors become answers.

request ──▶ who asks? ──▶ /secrets…   the raw endpoint of Custodia's contract
                     └──▶ the rest    falcon: model verbs, API keys, status
"""

import logging
import os
from collections.abc import Callable, Coroutine
from typing import Any, Final, Literal

import falcon
import falcon.asgi

from strongroom.storage_service import wire
from strongroom.storage_service.access import authenticators
from strongroom.storage_service.access.base import Principal
from strongroom.storage_service.access.limits import Rates, place_of
from strongroom.storage_service.access.networks import LOGIN
from strongroom.storage_service.access.networks import UNKNOWN as UNKNOWN_ADDRESS
from strongroom.storage_service.access.sign_ins import PasswordRefused
from strongroom.storage_service.backends import open_backend
from strongroom.storage_service.backends.base import Backend
from strongroom.storage_service.backends.read_through import OldPlace
from strongroom.storage_service.bootstrap import Parts, SharedRoot, build, no_old_place
from strongroom.storage_service.config import ReadThroughSettings, ServiceSettings
from strongroom.storage_service.errors import (
    AuditUnavailable,
    Busy,
    Denied,
    Internal,
    Invalid,
    MethodNotAllowed,
    NotAuthenticated,
    NotFound,
    ServiceError,
    TooLarge,
    TooManyAttempts,
    TooManyRequests,
    Undecipherable,
)
from strongroom.storage_service.failure_log import FailureLog
from strongroom.storage_service.http import records
from strongroom.storage_service.http import rules as rule_resources
from strongroom.storage_service.http.logins import OPEN_PATHS as LOGIN_PATHS
from strongroom.storage_service.http.secrets import SecretsEndpoint, allow_of
from strongroom.storage_service.meter import STORAGE, Meter, Refused, Unknown
from strongroom.storage_service.services.door import Caller
from strongroom.storage_service.strangers import bounded, network_of
from strongroom.storage_service.traces import trace_of
from strongroom.storage_service.wire import METRICS_PATH, SECRETS_PATH, head
from strongroom.storage_service.wire.access import SETUP_PATH
from strongroom.storage_service.wire.head import Head
from strongroom.storage_service.wire.http1 import Exchange, Gone
from strongroom.storage_service.wire.http1 import allowed as allowed_methods
from strongroom.storage_service.wire.paths import check_query, read_path

Request = falcon.asgi.Request
Response = falcon.asgi.Response

log = logging.getLogger(__name__)

STRANGERS_PATHS: Final = LOGIN_PATHS | {SETUP_PATH}  # asked before anybody is known; what is shown is looked at there
WHOAMI_PATH: Final = "/whoami"
OPEN_PATHS: Final = frozenset({"/livez", "/readyz"})  # answered to anyone: they tell no more than up or down
STRANGER: Final = Principal("unknown", (), frozenset())  # who is nobody, and reaches nothing
_BELOW_SECRETS: Final = SECRETS_PATH + "/"


class StorageApp:
    """The application that is served on the unix socket."""

    def __init__(
        self,
        settings: ServiceSettings,
        shared: SharedRoot,
        opener: Callable[[str], Backend] = open_backend,
        old_places: Callable[[ReadThroughSettings], OldPlace] = no_old_place,
        *,
        renew: Callable[[], None] | None = None,
        meter: Meter | None = None,
    ) -> None:
        """Take the settings, what the workers share, what makes stores and old places, and what renews the workers.

        *meter* is what the workers count in.
        """
        self._meter = meter or Meter(STORAGE)
        self._settings = settings
        self._shared = shared
        self._opener = opener
        self._old_places = old_places
        self._renew = renew
        self._parts: Parts | None = None
        self._failures = FailureLog()
        self._rates = Rates(settings.rate_limit) if settings.rate_limit else None

    async def open(self) -> None:
        """Open store, keys and audit log; nothing is served before.

        Raises:
            StrongroomError: as `bootstrap.build`: what is wrong does not get better by trying again.
        """
        self._parts = await build(
            self._settings, self._shared, self._opener, self._old_places, self._renew, meter=self._meter
        )
        self._slow = self._parts.slow
        self._secrets = SecretsEndpoint(self._parts.secrets)
        self._rest = _falcon_app(self._parts, self._failures)

    async def close(self) -> None:
        """Close what was opened."""
        self._failures.close()
        if self._parts is not None:
            await self._parts.close()

    def __call__(self, exchange: Exchange) -> Coroutine[Any, Any, None]:
        """Serve one request."""
        return self._answer(exchange)

    async def _answer(self, exchange: Exchange) -> None:  # noqa: PLR0915  # the order of the checks is the point
        parts = self._parts
        assert parts is not None  # noqa: S101  # nothing is accepted before `open` is done
        request = exchange.request
        caller: Caller | None = None
        path = _as_sent(request.path)
        request_id = "-"
        try:
            try:
                fields = head.read(request.fields, parts.head_fields)
            except Invalid as error:
                request_id = head.request_id_of(request.fields)  # a proxy takes no answer that goes by another
                await self._turn_away(exchange, Head(request_id), path, error)
                raise
            request_id = fields.request_id or "-"
            fault: Invalid | None = None
            try:
                path = read_path(request.path)
                check_query(request.query)
            except Invalid as error:
                fault = error
            if fault is None and path in OPEN_PATHS:
                await exchange.asgi(self._rest)
                return
            if fault is None and path == METRICS_PATH and self._watches(fields, exchange):
                await exchange.asgi(self._rest)
                return
            if fault is None and request.method == b"OPTIONS":
                await self._tell_methods(exchange, path, request_id)
                return
            known = self._stranger if path in STRANGERS_PATHS else self._identified
            caller = await known(exchange, fields, path, fault)
            _limit(self._rates, caller, path)
            if fault is not None:
                raise fault
            if path.startswith(_BELOW_SECRETS) or path == SECRETS_PATH:
                await self._secrets(exchange, path=path, caller=caller, head=fields)
            elif request.length > wire.MAX_BODY:
                raise TooLarge("the body is over its limit")  # here: falcon awaits the beginning of a body first
            else:
                if not rule_resources.conditional(path, request.method):
                    head.check_unconditional(fields, request.method)
                await exchange.asgi(self._rest, caller=caller)
        except ServiceError as error:
            self._tell_of(error, request_id)
            await self._end(exchange, caller, path, error)
            stranger = caller is None or caller.principal is STRANGER
            exchange.answer(*wire.problem_answer(error, request_id, stranger=stranger))
        except Gone:
            # Nothing was decided on, but that the credentials are right may have been told (100 Continue).
            if caller is not None and not caller.allowed and not exchange.streaming:
                await self._end(exchange, caller, path, Invalid("the client left before its request was whole"))
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, its place is told and the client is answered
            log.error("request %s: unexpected %s", request_id, trace_of(error))  # noqa: TRY400  # its text may quote
            unexpected = Internal("unexpected")
            await self._end(exchange, caller, path, unexpected, expected=False)
            exchange.answer(*wire.problem_answer(unexpected, request_id))

    def _tell_of(self, error: ServiceError, request_id: str) -> None:
        """Count and log what an operator may want to know of."""
        if isinstance(error, Busy):
            self._meter.refuse(Refused.BUSY)
        if isinstance(error, Internal):
            # Told in full already: a traceback would add nothing but places where a value could hide.
            log.error("request %s: %s", request_id, error)
        elif wire.problem_of(error).status in (500, 503):
            self._failures.tell(error, request_id)

    async def _tell_methods(self, exchange: Exchange, path: str, request_id: str) -> None:
        """Answer what *path* allows, to everybody: no credentials are looked at, so that no answer tells of them.

        Raises:
            NotFound: it is no path.
        """
        if path.startswith(_BELOW_SECRETS) or path == SECRETS_PATH:
            exchange.answer(204, ((b"x-request-id", request_id.encode()), *allow_of(path)))
        else:
            await exchange.asgi(self._rest)

    async def _identified(self, exchange: Exchange, fields: Head, path: str, fault: Invalid | None) -> Caller:
        """Return who calls; whoever is nobody is recorded, and told *fault* first where the request has one.

        Raises:
            ServiceError: nobody, or it cannot be told who.
        """
        parts = self._parts
        assert parts is not None  # noqa: S101
        address: str | None = None
        through_proxy = False
        place, claimed = "", authenticators.claimed_in(fields)
        if fields.authorization is not None:  # nobody tries one while nobody would know of the guess
            await parts.door.check_audit()
        try:
            through_proxy = fields.proxy is not None and parts.proxy.shown(fields.proxy)
            if through_proxy:
                address = authenticators.address_in(fields.forwarded or "")
                if fields.authorization is not None:
                    fields = fields._replace(address=address)
                parts.networks.check(address)  # before any password is tried
            elif fields.certificate is not None:  # of which nobody else is believed
                fields = fields._replace(certificate=None)
            if claimed is not None:
                place = place_of(address, exchange.peer)
                self._slow.refuse_early(place, claimed)
            if path == wire.ACTS_PATH:
                principal = await authenticators.authenticate(parts.own_user, fields, exchange.peer)
            else:
                principal = await authenticators.authenticate(
                    parts.authenticators, fields, exchange.peer, parts.process
                )
        except ServiceError as error:
            if isinstance(error, Denied) and claimed is not None:
                self._slow.failed(place, claimed)
            if isinstance(error, NotAuthenticated | Denied):
                self._meter.turn_away(Unknown.NOBODY if isinstance(error, NotAuthenticated) else Unknown.WRONG)
            await self._turn_away(exchange, fields, path, fault or error, through_proxy=through_proxy)
            raise fault or error from None
        if claimed is not None:
            self._slow.passed(place, claimed)
        if fields.proxy is not None and not through_proxy:
            await self._turn_away(exchange, fields, path, Denied("claimed to be the proxy, with another key"))
        if through_proxy:
            principal = principal.at(address or UNKNOWN_ADDRESS)
        spoken_for = authenticators.whom_in(fields.on_behalf_of) if principal.id == parts.proxy.principal else None
        caller = Caller(principal, fields.request_id or "-", exchange.peer, spoken_for, address, through_proxy)
        caller.trace = fields.trace
        return caller

    async def _stranger(self, exchange: Exchange, fields: Head, path: str, fault: Invalid | None) -> Caller:
        """Return a caller who is nobody yet: whatever credentials the request has, nothing looks at them.

        Raises:
            Denied: it claims to be the proxy's, with another key; or from there nobody may log in.
        """
        parts = self._parts
        assert parts is not None  # noqa: S101
        through_proxy = fields.proxy is not None and parts.proxy.shown(fields.proxy)
        if fields.proxy is not None and not through_proxy:
            error = Denied("claimed to be the proxy, with another key")
            await self._turn_away(exchange, fields, path, fault or error)
            raise fault or error
        address = authenticators.address_in(fields.forwarded or "") if through_proxy else None
        if through_proxy:
            try:
                parts.networks.check(address, LOGIN)
            except Denied as error:
                await self._turn_away(exchange, fields, path, fault or error, through_proxy=True)
                raise fault or error from None
        caller = Caller(STRANGER, fields.request_id or "-", exchange.peer, None, address, through_proxy)
        caller.trace = fields.trace
        return caller

    def _watches(self, fields: Head, exchange: Exchange) -> bool:
        """Whether the proxy asks in its own name, or the service's own user, or root, on this machine.

        No key is looked up for that, so that the service tells of itself while it is locked or has no store.
        """
        parts, peer = self._parts, exchange.peer
        assert parts is not None  # noqa: S101
        if fields.auth_id is not None or fields.auth_key is not None or fields.authorization is not None:
            return False
        if fields.proxy is not None:
            return parts.proxy.shown(fields.proxy)
        return peer is not None and fields.forwarded is None and peer.uid in {0, os.geteuid()}

    async def _turn_away(
        self, exchange: Exchange, fields: Head, path: str, error: ServiceError, *, through_proxy: bool = False
    ) -> None:
        """Record that somebody was turned away of whom nothing is known but where he is, and what he claims.

        What the proxy says it was asked, and from where, counts *through_proxy*.

        Raises:
            AuditUnavailable: it cannot be recorded.
        """
        parts = self._parts
        assert parts is not None  # noqa: S101
        method, name, address = exchange.request.method.decode(), path, None
        if through_proxy:
            address = authenticators.address_in(fields.forwarded or "")
            if fields.asked:
                method, _, name = fields.asked.partition(" ")
        await parts.door.turn_away(
            wire.Refusal(
                request=fields.request_id or "-",
                action=bounded(method),
                name=bounded(name),
                reason=error.recorded,
                decision="refused" if isinstance(error, Invalid) else _told(error),
                claimed=self._claimed(fields.auth_id, error),
                address=address,
                peer=exchange.peer._asdict() if exchange.peer else None,
                trace=fields.trace,
            )
        )

    def _claimed(self, key_id: str | None, error: ServiceError) -> list[str]:
        """Return whom a stranger claims to be, if there is somebody of that id: what else stands there may be a key."""
        if isinstance(error, PasswordRefused):
            return [error.claimed] if error.claimed else []
        assert self._parts is not None  # noqa: S101
        exists = self._parts.access.knows(key_id) or (isinstance(error, Undecipherable) and key_id is not None)
        return [f"apikey:{key_id}"] if exists else []

    async def _end(
        self, exchange: Exchange, caller: Caller | None, path: str, error: ServiceError, *, expected: bool = True
    ) -> None:
        """Record what became of the request of *caller*; where that cannot be, the answer is what it is all the same.

        That it was begun is on record, and a write that may have been done must not be answered as one that was not.
        """
        if caller is None:
            return
        assert self._parts is not None  # noqa: S101
        method = exchange.request.method.decode()
        try:
            await self._parts.door.end(caller, error, method, path, expected=expected)
        except AuditUnavailable as unavailable:
            log.error("request %s: its outcome (%s) is not recorded: %s", caller.request_id, error.code, unavailable)  # noqa: TRY400


def create_app(
    settings: ServiceSettings,
    shared: SharedRoot | None = None,
    old_places: Callable[[ReadThroughSettings], OldPlace] = no_old_place,
    renew: Callable[[], None] | None = None,
    meter: Meter | None = None,
) -> StorageApp:
    """Return the application; it touches nothing before it is opened.

    *shared* is what the workers of one service share; without one, this is the only worker. *old_places* makes what
    asks an old place, where settings name one; *renew* lets new workers take the place of all; *meter* is what they
    count in.
    """
    return StorageApp(settings, shared or SharedRoot(), old_places=old_places, renew=renew, meter=meter)


def _limit(rates: Rates | None, caller: Caller, path: str) -> None:
    """Count a request of *caller*, but where the proxy asks who somebody is, before it asks for him.

    The service's own key has no limit: who stops a flood needs it.

    Raises:
        TooManyRequests: there were too many.
    """
    if rates is None or path == WHOAMI_PATH or (caller.principal.exempt and caller.on_behalf_of is None):
        return
    place = network_of(caller.address) if caller.address is not None else ""
    if (wait := rates.take(f"{caller.holder} {place}")) > 0:
        raise TooManyRequests("there were too many requests", wait, rates.requests)


def _falcon_app(parts: Parts, failures: FailureLog) -> falcon.asgi.App[Request, Response]:
    app: falcon.asgi.App[Request, Response] = falcon.asgi.App()
    app.add_error_handler(Exception, _reraise)
    app.add_error_handler(falcon.HTTPError, _translate)
    records.add_routes(app, parts, failures)
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
        raise MethodNotAllowed("no such method on this path", allowed_methods(listed.split(", "))) from None
    raise Invalid("the request is malformed") from None


def _as_sent(path: bytes) -> str:
    """Return a *path* that may be unreadable, for the audit log."""
    return path.decode("latin-1")


def _told(error: ServiceError) -> Literal["denied", "failed"]:
    """Return whether *error* says that somebody is nobody here, or that this cannot be told."""
    return "denied" if isinstance(error, Denied | NotAuthenticated | TooManyAttempts) else "failed"

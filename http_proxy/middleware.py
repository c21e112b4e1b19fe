"""The door of the proxy: one spelling for every path, and nobody past it unknown.

A path is refused before anything else looks at it unless it is spelled in the grammar of ``strongroom.models.names``,
so the path that is matched here is the path that everyone behind sees.
"""

import hmac
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol

from strongroom.http_proxy.authn.base import Authenticator, Identity, Refused
from strongroom.http_proxy.certificate import told
from strongroom.http_proxy.errors import answer_problem
from strongroom.http_proxy.refusals import RefusalReporter, RefusedRequest, why
from strongroom.http_proxy.request import ASKED, CERTIFICATE, client_of, forwarded, request_id_of, settle_id
from strongroom.models.secret import Secret
from strongroom.storage_service import wire
from strongroom.storage_service.errors import ConfigurationError, Denied, Invalid, NotAuthenticated, ServiceError
from strongroom.storage_service.meter import Meter
from strongroom.storage_service.meter import Unknown as Nobody
from strongroom.storage_service.strangers import network_of
from strongroom.storage_service.wire.http1 import Exchange, Field
from strongroom.storage_service.wire.paths import check_query, read_path

OPEN: Final = frozenset(("/livez", "/readyz", "/openapi.json"))
"""Paths that anyone may read."""

API_ROOT: Final = wire.API_PATH + "/"
_NO_TOKEN: Final = Secret("")
_KEYS: Final = frozenset((*wire.AUTH_ID_HEADERS, *wire.AUTH_KEY_HEADERS))
_ONCE: Final = _KEYS | {b"authorization"}

Work = Coroutine[Any, Any, None]


class Behind(Protocol):
    """What lies behind the door."""

    def __call__(self, exchange: Exchange, path: str, identity: Identity | None) -> Work | None:
        """Answer a request for *path*, of *identity* or, where that is not asked for, of anybody."""


class AuthenticationManager:
    """Stands before what answers, and lets nobody through unknown.

    Paths at or below one of *self_auths* bypass the authenticators: what answers there authenticates for itself.
    For all others the authenticators are asked in their order; without any, everyone is refused.
    """

    def __init__(
        self,
        behind: Behind,
        authenticators: Sequence[Authenticator],
        self_auths: Sequence[str] = (wire.PROXIED_SECRETS_PATH,),
        refusals: RefusalReporter | None = None,
        *,
        metrics_token: Secret = _NO_TOKEN,
        trusted_proxies: int = 0,
        meter: Meter | None = None,
    ) -> None:
        """Take what lies behind, who is asked in what order, what is passed by, and where refusals are counted.

        *trusted_proxies* is how many stand before this one, and say whom they ask for.
        Who shows *metrics_token* reads the metrics, and nothing else; without one, they are for who is known.
        """
        self._bearer = f"Bearer {metrics_token.reveal()}".encode() if metrics_token else b""
        self._trusted = trusted_proxies
        self._meter = meter
        self._behind = behind
        self._refusals = refusals
        self._authenticators = tuple(authenticators)
        bare = tuple(prefix.rstrip("/") for prefix in self_auths)
        if not all(prefix.startswith("/") for prefix in bare):
            raise ConfigurationError("a self-authenticated path begins with a slash and is not the root")
        bare += tuple(wire.PROXIED)
        self._passed = OPEN.union(bare)
        self._passed_below = tuple(prefix + "/" for prefix in bare)

    def __call__(self, exchange: Exchange) -> Work | None:
        """Pass on, or refuse."""
        request = exchange.request
        if self._trusted:
            exchange.client = client_of(request, self._trusted)
            exchange.address = network_of(exchange.client)
        try:
            path = read_path(request.path, API_ROOT)
            check_query(request.query)
        except Invalid as exc:
            request_id = request_id_of(request.fields)
            self._note(RefusedRequest(exchange, request.path.decode("latin-1"), request_id), exc)
            answer_problem(exchange, exc, request_id)
            return None
        # What a path allows is told to everybody: who is not looked at learns nothing of whether credentials are right.
        if request.method == b"OPTIONS" or path.startswith(self._passed_below) or path in self._passed:
            return self._behind(exchange, path, None)
        if path == wire.METRICS_PATH and self._shows_token(request.fields):
            return self._behind(exchange, path, None)
        return self._authenticated(exchange, path)

    def _shows_token(self, fields: Sequence[Field]) -> bool:
        """Whether the one ``Authorization`` is the token of the metrics; no store is asked, so that it always opens."""
        shown = [value for name, value in fields if name == b"authorization"]
        return bool(self._bearer) and len(shown) == 1 and hmac.compare_digest(shown[0], self._bearer)

    async def _authenticated(self, exchange: Exchange, path: str) -> None:
        request_id = settle_id(exchange.request)
        try:
            identity = await self._identify(exchange, path)
        except Unknown as unknown:
            exc = unknown.error
            if self._meter is not None and isinstance(exc, NotAuthenticated | Denied):
                shown = any(name == b"authorization" for name, _ in exchange.request.fields)
                self._meter.turn_away(Nobody.WRONG if shown or isinstance(exc, Denied) else Nobody.NOBODY)
            self._note(RefusedRequest(exchange, path, request_id), exc)
            challenges = [a.challenge for a in self._authenticators if a.challenge is not None]
            asked = challenges if isinstance(exc, NotAuthenticated) else ()
            answer_problem(exchange, exc, request_id, asked, stranger=True)
            return
        work = self._behind(exchange, path, identity)
        if work is not None:
            await work

    async def _identify(self, exchange: Exchange, path: str) -> Identity:
        """Return who asks for *path*.

        Raises:
            Unknown: nobody, or it cannot be told who.
        """
        try:
            fields = _single(exchange.request.fields)
            _refuse_two(fields)
            fields[b"forwarded"] = forwarded(exchange.client, exchange.scheme).encode("ascii")
            fields.pop(CERTIFICATE, None)
            if shown := told(exchange.certificate):
                fields[CERTIFICATE] = shown
            fields[ASKED] = b"%b %b" % (exchange.request.method, path.encode("ascii")[: wire.MAX_TOLD])
            for authenticator in self._authenticators:
                identity = await authenticator.authenticate(fields)
                if identity is not None:
                    return identity
        except Refused as refused:
            denied = Denied("the credentials are wrong")
            denied.told = refused.told
            raise Unknown(denied) from None
        except ServiceError as error:
            raise Unknown(error) from error
        raise Unknown(NotAuthenticated("no credentials"))

    def _note(self, turned: RefusedRequest, error: ServiceError) -> None:
        if self._refusals is not None:
            self._refusals.note(turned, why(error))


class Unknown(Exception):
    """Nobody who is known asks; *error* is the answer."""

    def __init__(self, error: ServiceError) -> None:
        super().__init__(str(error))
        self.error = error


def _refuse_two(fields: Mapping[bytes, bytes]) -> None:
    """Refuse an API key beside a token or a password: which of the two is meant is not guessed.

    Raises:
        Refused: both are shown.
    """
    scheme = fields.get(b"authorization", b"").partition(b" ")[0].lower()
    if scheme in (b"basic", b"bearer") and not _KEYS.isdisjoint(fields):
        raise Refused


def _single(headers: Sequence[Field]) -> dict[bytes, bytes]:
    """Return *headers* by name; credentials that stand twice are two claims, and which one holds is not guessed.

    Raises:
        Invalid: a field of credentials appears twice.
    """
    fields: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in fields and name in _ONCE:
            raise Invalid("a field of credentials appears twice")
        fields[name] = value
    return fields

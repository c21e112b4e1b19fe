"""The door of the proxy: one spelling for every path, and nobody past it unknown.

A path is refused before anything else looks at it unless it is spelled in the grammar of ``models.names``: no
percent-encoding (nothing that a name may hold needs it), no empty or dot segments, no backslash, no control or
non-ASCII byte. So the path that is matched here is the path that everyone behind sees.
"""

import re
from collections.abc import Awaitable, Mapping, Sequence
from typing import Final

from http_proxy.asgi import App, Receive, Scope, Send, body_length, request_id_of
from http_proxy.authn.base import Authenticator, Identity, Refused
from http_proxy.errors import send_problem
from models import names
from models.errors import InvalidName
from storage_service import wire
from storage_service.errors import ConfigurationError, Denied, Invalid, NotAuthenticated, ServiceError

OPEN: Final = frozenset(("/livez", "/readyz", "/openapi.json"))
"""Paths that anyone may read."""

_API_ROOT: Final = wire.API_PATH + "/"
_QUERY = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:@/?%-]*")  # RFC 3986 sec. 3.4
_ONCE: Final = frozenset((b"authorization", *wire.AUTH_ID_HEADERS, *wire.AUTH_KEY_HEADERS))


def check_path(raw_path: bytes) -> str:
    """Return the path that *raw_path* plainly spells.

    Below ``/api/v0/`` it is, without that prefix, a name of ``models.names`` with its limits.

    Raises:
        Invalid: it can be read in two ways, or is spelled with more than it needs.
    """
    try:
        path = raw_path.decode("ascii")
        if path not in {"/", _API_ROOT}:
            if not path.startswith("/"):
                raise Invalid("the request target is not a path")
            names.check(path[len(_API_ROOT) if path.startswith(_API_ROOT) else 1 :])
    except UnicodeDecodeError:
        raise Invalid("a path is ASCII") from None
    except InvalidName as exc:
        raise Invalid(f"the path is not spelled plainly: {exc}") from None
    return path


class AuthenticationManager:
    """An ASGI application round another that lets nobody through unknown.

    Paths at or below one of *self_auths* bypass the authenticators: what answers there authenticates for itself.
    For all others the authenticators are asked in their order; without any, everyone is refused. Who was recognised
    stands in ``scope["state"]["identity"]``, the request's id in ``scope["state"]["request_id"]``.
    """

    def __init__(
        self, app: App, authenticators: Sequence[Authenticator], self_auths: Sequence[str] = ("/api/v0/secrets",)
    ) -> None:
        self._app = app
        self._authenticators = tuple(authenticators)
        bare = tuple(prefix.rstrip("/") for prefix in self_auths)
        if not all(prefix.startswith("/") for prefix in bare):
            raise ConfigurationError("a self-authenticated path begins with a slash and is not the root")
        self._passed = OPEN.union(bare)
        self._passed_below = tuple(prefix + "/" for prefix in bare)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """ASGI: pass on, or refuse. Not a coroutine itself, to keep the short way short."""
        if scope["type"] != "http":
            return self._app(scope, receive, send) if scope["type"] == "lifespan" else _close_websocket(send)
        try:
            path = check_path(scope["raw_path"])
            if scope["query_string"] and _QUERY.fullmatch(scope["query_string"]) is None:
                raise Invalid("the query is not spelled as RFC 3986 says")
        except Invalid as exc:
            return send_problem(scope, send, exc, request_id_of(scope["headers"]))
        if path.startswith(self._passed_below) or path in self._passed:
            return self._app(scope, receive, send)
        return self._authenticated(scope, receive, send)

    async def _authenticated(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            identity = await self._identify(scope["headers"])
        except ServiceError as exc:
            challenges = [a.challenge for a in self._authenticators if a.challenge is not None]
            asked = challenges if isinstance(exc, NotAuthenticated) else ()
            await send_problem(scope, send, exc, request_id_of(scope["headers"]), asked)
            return
        scope.setdefault("state", {})["identity"] = identity
        await self._app(scope, receive, send)

    async def _identify(self, headers: Sequence[tuple[bytes, bytes]]) -> Identity:
        fields = _single(headers)
        # Here and not behind: falcon awaits the beginning of a body before it looks at anything.
        body_length([value for name, value in headers if name == b"content-length"], b"transfer-encoding" in fields)
        try:
            for authenticator in self._authenticators:
                identity = await authenticator.authenticate(fields)
                if identity is not None:
                    return identity
        except Refused:
            raise Denied("the credentials are wrong") from None
        raise NotAuthenticated("no credentials")


def _single(headers: Sequence[tuple[bytes, bytes]]) -> Mapping[bytes, bytes]:
    """Return *headers* by name; credentials that stand twice are two claims, and which one holds is not guessed.

    Raises:
        Invalid: a field of credentials stands twice.
    """
    fields: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in fields and name in _ONCE:
            raise Invalid("a field of credentials stands twice")
        fields[name] = value
    return fields


async def _close_websocket(send: Send) -> None:
    await send({"type": "websocket.close", "code": 1002})

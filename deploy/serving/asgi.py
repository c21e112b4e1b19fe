"""All but the hot paths, as ASGI 3.0: an exchange becomes a scope and two callables, and what they get an answer.

Peer credentials stand in ``scope["extensions"]`` where the kernel knows them. A body is given on in the pieces it comes
in, and no more of it is read than the application asks for.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import unquote_to_bytes

from strongroom.storage_service.wire.http1 import CHUNKED, Field, allowed

if TYPE_CHECKING:
    from strongroom.deploy.serving.connection import Exchange

App: TypeAlias = Callable[
    [dict[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]
]

PEER_EXTENSION: Final = "strongroom.peer"
_FRAMING: Final = frozenset((b"content-length", b"transfer-encoding", b"connection", b"date"))


async def run(app: App, exchange: "Exchange", state: Mapping[str, object]) -> None:
    """Let *app* answer *exchange*; *state* stands in the scope's ``state``.

    Raises:
        RuntimeError: it ended without an answer, or sent something else.
    """
    conversation = _Conversation(exchange)
    await app(_scope(exchange, state), conversation.receive, conversation.send)
    if exchange.open:
        raise RuntimeError("the application gave no answer")


def _scope(exchange: "Exchange", state: Mapping[str, object]) -> dict[str, Any]:
    request = exchange.request
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": f"1.{request.minor}",
        "method": request.method.decode("ascii"),
        "scheme": exchange.scheme,
        "path": unquote_to_bytes(request.path).decode("utf-8", "replace"),
        "raw_path": request.path,
        "query_string": request.query,
        "root_path": "",
        "headers": request.fields,
        "client": (exchange.client, 0) if exchange.client else None,
        "server": None,
        "state": dict(state),
        "extensions": {PEER_EXTENSION: exchange.peer} if exchange.peer is not None else {},
    }


class _Conversation:
    """The two callables of one request."""

    def __init__(self, exchange: "Exchange") -> None:
        self._exchange = exchange
        self._told = False  # the application knows that the body is complete
        self._asked = False  # it has asked for the body
        self._head: tuple[int, list[Field], int] | None = None

    async def receive(self) -> dict[str, Any]:
        """Give the next piece of the body; after its end there is nothing to wait for but the client's leaving.

        Raises:
            Gone: the client left before its end; falcon would take what is there, or nothing, for the whole.
        """
        if self._told:
            return {"type": "http.disconnect"}
        if not self._asked:
            self._asked = True
            if not (self._exchange.held or self._exchange.whole):
                # falcon asks once before it looks for who answers: nobody has decided that the body is wanted.
                return {"type": "http.request", "body": b"", "more_body": True}
        body = await self._exchange.read() if self._exchange.request.length else b""
        more = bool(body) and not self._exchange.whole
        self._told = not more
        return {"type": "http.request", "body": body, "more_body": more}

    async def send(self, message: dict[str, Any]) -> None:
        """Take a part of the answer."""
        exchange = self._exchange
        if message["type"] == "http.response.start":
            self._head = _head_of(message)
        elif message["type"] == "http.response.body" and self._head is not None:
            body: bytes = message.get("body", b"")
            more: bool = message.get("more_body", False)
            status, fields, length = self._head
            if not exchange.streaming and not more:
                exchange.answer(status, fields, bytes(body))
                return
            if not exchange.streaming:
                exchange.start(status, fields, length)
            await exchange.write(bytes(body))
            if not more:
                exchange.finish()
        else:
            raise RuntimeError("the application sent something that is not part of an answer")


def _head_of(message: Mapping[str, Any]) -> tuple[int, list[Field], int]:
    length = CHUNKED
    fields: list[Field] = []
    for name, value in message.get("headers", ()):
        if b"\r" in value or b"\n" in value or b"\r" in name or b"\n" in name:
            raise RuntimeError("a header field holds a line break")
        if name == b"content-length":
            length = int(value)
        if name == b"allow":
            fields.append((name, ", ".join(allowed(value.decode("ascii").split(", "))).encode("ascii")))
        elif name not in _FRAMING:
            fields.append((name, value))
    return message["status"], fields, length

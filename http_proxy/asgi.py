"""The words of ASGI that the parts of the proxy share, and what every request is told by: its id, and who sent it."""

import ipaddress
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias

from storage_service import wire
from storage_service.errors import Invalid, TooLarge

Scope: TypeAlias = dict[str, Any]
Message: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST_ID: Final = wire.REQUEST_ID_HEADER.lower().encode()
UNFRAMED: Final = -1  # the length of a body that comes in chunks
_LENGTH_DIGITS: Final = 15


def request_id(given: bytes | None) -> bytes:
    """Return *given* if it is a request id (8 to 64 of ``[A-Za-z0-9._-]``), else a new one."""
    if given is not None and wire.REQUEST_ID.fullmatch(given.decode("latin-1")):
        return given
    return os.urandom(12).hex().encode()


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the id of the request with *headers*: its own, or a new one."""
    return request_id(next((value for name, value in headers if name == REQUEST_ID), None))


def body_length(lengths: Sequence[bytes], coded: bool) -> int:
    """Return how many bytes of body a request announces, or `UNFRAMED` (RFC 9112 sec. 6.2 and 6.3).

    Args:
        lengths: the values of its ``Content-Length`` fields.
        coded: whether it has a ``Transfer-Encoding``.

    Raises:
        Invalid: the length can be read in two ways.
        TooLarge: it is over the limit.
    """
    if not lengths:
        return UNFRAMED if coded else 0
    if coded or len(lengths) > 1 or not lengths[0].isdigit():
        raise Invalid("the body's length can be read in two ways")
    length = int(lengths[0]) if len(lengths[0]) <= _LENGTH_DIGITS else wire.MAX_BODY + 1
    if length > wire.MAX_BODY:
        raise TooLarge("the body is longer than it may be")
    return length


def forwarded(scope: Scope) -> str:
    """Return the ``Forwarded`` field that tells the service where a request came from (RFC 7239 sec. 4)."""
    client = scope["client"]
    return _forwarded(client[0] if client else "", scope["scheme"])


@lru_cache(maxsize=1024)
def _forwarded(client: str, scheme: str) -> str:
    try:
        address = ipaddress.ip_address(client)
        node = f'"[{address.compressed}]"' if address.version == 6 else address.compressed
    except ValueError:
        node = "unknown"  # it came over a unix socket
    return f"for={node};proto={'https' if scheme == 'https' else 'http'}"

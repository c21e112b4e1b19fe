"""The words of ASGI that the parts of the proxy share, and what every request is told by: its id, and who sent it."""

import ipaddress
import os
import re
from collections.abc import Awaitable, Callable, Iterable
from functools import lru_cache
from typing import Any, Final, TypeAlias

from storage_service import wire

Scope: TypeAlias = dict[str, Any]
Message: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST_ID: Final = wire.REQUEST_ID_HEADER.lower().encode()
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")


def request_id(given: bytes | None) -> bytes:
    """Return *given* if it is a request id (8 to 64 of ``[A-Za-z0-9._-]``), else a new one."""
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return os.urandom(12).hex().encode()


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the id of the request with *headers*: its own, or a new one."""
    return request_id(next((value for name, value in headers if name == REQUEST_ID), None))


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

"""How every request is identified: its id, and who sent it."""

import ipaddress
import os
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from strongroom.storage_service import wire
from strongroom.storage_service.config import ProxySettings
from strongroom.storage_service.wire.http1 import Request

CERTIFICATE: Final = wire.CERTIFICATE_HEADER.lower().encode()
REQUEST_ID: Final = wire.REQUEST_ID_HEADER.lower().encode()
ASKED: Final = wire.ASKED_HEADER.lower().encode()
FORWARDED_FOR: Final = b"x-forwarded-for"
UNKNOWN: Final = "unknown"


def request_id(given: bytes | None) -> bytes:
    """Return *given* if it is a request id (8 to 64 of ``[A-Za-z0-9._-]``), else a new one."""
    if given is not None and wire.REQUEST_ID.fullmatch(given.decode("latin-1")):
        return given
    return os.urandom(12).hex().encode()


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the id of the request with *headers*: its own, or a new one."""
    return request_id(next((value for name, value in headers if name == REQUEST_ID), None))


def settle_id(request: Request) -> bytes:
    """Return the id of *request*, which has it from now on: whoever looks for it again finds the same."""
    settled = request_id_of(request.fields)
    request.fields = [*(field for field in request.fields if field[0] != REQUEST_ID), (REQUEST_ID, settled)]
    return settled


def proof_of(settings: ProxySettings) -> bytes:
    """Return the line of a request's head that shows the service that it comes from the proxy."""
    return f"{wire.PROXY_HEADER.lower()}: {settings.api_id}:{settings.api_key.reveal()}\r\n".encode()


def client_of(request: Request, trusted: int) -> str:
    """Return the address of whom *request* is, as told by the *trusted* proxies that stand before this one.

    Each appends the address that it was asked from to ``X-Forwarded-For``, so the client's is that many from the right;
    what stands before it, anybody may have written. Where there are fewer, or it is no address, nobody knows it.
    """
    told = b",".join(value for name, value in request.fields if name == FORWARDED_FOR).split(b",")
    if len(told) < trusted:
        return UNKNOWN
    return plain(told[-trusted].decode("latin-1").strip(" \t")) or UNKNOWN


@lru_cache(maxsize=1024)
def plain(client: str) -> str | None:
    """Return the network address *client* as it is written, an IPv4 one within IPv6 as that, or None."""
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return None  # it came over a unix socket
    mapped = address.ipv4_mapped if address.version == 6 else None
    return (mapped or address).compressed


@lru_cache(maxsize=1024)
def forwarded(client: str, scheme: str) -> str:
    """Return the ``Forwarded`` field that tells the service where a request came from (RFC 7239 sec. 4)."""
    address = plain(client)
    node = UNKNOWN if address is None else f'"[{address}]"' if ":" in address else address
    return f"for={node};proto={'https' if scheme == 'https' else 'http'}"

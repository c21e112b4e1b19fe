"""The few ASGI moves that the raw endpoint and the application share."""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import unquote_to_bytes

from storage_service import wire
from storage_service.backends.base import ABSENT, PRESENT
from storage_service.errors import Invalid, ServiceError, TooLarge
from storage_service.head import Head

Scope: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]
Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]
Header: TypeAlias = tuple[bytes, bytes]

_NO_STORE: Final[Header] = (b"cache-control", b"no-store")
_ETAG = re.compile(r'"([1-9][0-9]{0,18})"', re.ASCII)


def path_of(scope: Scope) -> str:
    """Return the request's path, decoded, from the bytes that were sent.

    Raises:
        Invalid: it encodes a slash or a dot, or is not UTF-8: two readers could take it for two paths.
    """
    raw: bytes = scope["raw_path"]
    if b"%" not in raw:
        return raw.decode("latin-1")
    if re.search(rb"%2[ef]|%5c|%00", raw, re.IGNORECASE):
        raise Invalid("the path encodes a slash, a dot or a control character")
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise Invalid("the path is not UTF-8") from None


async def read_body(receive: Receive, head: Head) -> bytes:
    """Return the request's whole body.

    Raises:
        TooLarge: it is, or says it is, over `wire.MAX_BODY`.
        Invalid: the client left before its end.
    """
    if head.content_length is not None and head.content_length.isdigit() and int(head.content_length) > wire.MAX_BODY:
        raise TooLarge("the body is over its limit")
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) > wire.MAX_BODY:
            raise TooLarge("the body is over its limit")
        return body
    chunks: list[bytes] = []
    size = 0
    while True:
        if message["type"] != "http.request":
            raise Invalid("the body ended early")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > wire.MAX_BODY:
            raise TooLarge("the body is over its limit")
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)
        message = await receive()


def expected_revision(head: Head) -> int:
    """Return the revision that If-Match asks for: ABSENT without one or for `wire.NEW`, PRESENT for ``*``.

    Raises:
        Invalid: it is no tag of ours, or contradicts If-None-Match.
    """
    if head.if_match is None:
        if head.if_none_match not in (None, "*"):
            raise Invalid("If-None-Match on a write is *")
        return ABSENT
    if head.if_none_match is not None:
        raise Invalid("If-Match and If-None-Match contradict each other")
    return ABSENT if head.if_match == wire.NEW else revision_of(head.if_match)


def revision_of(etag: str) -> int:
    """Return the revision that *etag* stands for: PRESENT for ``*``.

    Raises:
        Invalid: it is no tag of ours.
    """
    if etag == "*":
        return PRESENT
    tag = _ETAG.fullmatch(etag)
    if tag is None:
        raise Invalid("what a record is expected at is an entity tag of ours, or *")
    return int(tag[1])


async def respond(send: Send, request_id: str, status: int, body: bytes, *headers: Header) -> None:
    """Send one whole response; nothing that this service says is to be stored on its way."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-length", b"%d" % len(body)),
                (b"x-request-id", request_id.encode()),
                _NO_STORE,
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def respond_problem(send: Send, request_id: str, error: ServiceError) -> None:
    """Send *error* as an RFC 9457 problem."""
    status, headers, body = wire.problem_response(error, request_id)
    await respond(send, request_id, status, body, *headers)

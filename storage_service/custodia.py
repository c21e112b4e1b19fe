"""Custodia's contract for secrets, as a raw ASGI endpoint (seed: Custodia 0.6.0, ``/secrets``).

It stands before falcon because it is the path that every reader of a secret takes, and a route, a request and a
response object a request cost a fifth of it. The contract and what we add to it: docs/http-api.md.
"""

import base64
import binascii
from collections.abc import Awaitable
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs

import msgspec

from models import names, strict_json
from models.errors import InvalidName
from storage_service import asgi
from storage_service.asgi import Header, Receive, Scope, Send
from storage_service.backends.base import ABSENT, PRESENT
from storage_service.errors import (
    Denied,
    Invalid,
    MethodNotAllowed,
    NotAcceptable,
    NotImplementedHere,
    TooLarge,
)
from storage_service.head import Head
from storage_service.service import Caller, Service
from storage_service.wire import (
    JSON,
    MAX_BATCH_NAMES,
    MAX_NAMES_BODY,
    MAX_SECRET,
    NEW,
    OCTET_STREAM,
    SECRETS_PATH,
    etag_of,
)

_JSON_TYPE: Final = (b"content-type", b"application/json; charset=utf-8")
_OCTETS_TYPE: Final = (b"content-type", OCTET_STREAM.encode())
_encode = msgspec.json.Encoder().encode


class _Request(NamedTuple):
    """One request: *trail* is its path below ``/secrets/``, decoded."""

    trail: str
    query: bytes
    receive: Receive
    send: Send
    caller: Caller
    head: Head

    def answer(self, status: int, body: bytes, *headers: Header) -> Awaitable[None]:
        """Send the whole response."""
        return asgi.respond(self.send, self.caller.request_id, status, body, *headers)


class SecretsEndpoint:
    """``/secrets`` and all below it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._methods = {"GET": self._get, "PUT": self._put, "POST": self._post, "DELETE": self._delete}

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send, *, path: str, caller: Caller, head: Head
    ) -> None:
        """Answer one request of an authenticated *caller* for *path*, the decoded one.

        Raises:
            ServiceError: every refusal; the application around turns it into a problem.
        """
        method = self._methods.get(scope["method"])
        if method is None:
            raise NotImplementedHere("no such method on secrets")
        await method(_Request(path[len(SECRETS_PATH) + 1 :], scope["query_string"], receive, send, caller, head))

    async def _get(self, request: _Request) -> None:
        _check_query(request.query)
        if request.trail == "" or request.trail.endswith("/"):
            listed = await self._service.list_container(request.caller, self._container(request.trail, request.caller))
            await request.answer(200, _encode(listed), _JSON_TYPE)
            return
        binary = _wants_octets(request.head.accept)
        entry = await self._service.get(request.caller, _secret_name(request.trail))
        etag = etag_of(entry.revision)
        # At an old place (`storage_service.read_through`) a value has no revision, and may have changed.
        known = request.head.if_none_match is not None and etag in request.head.if_none_match
        if known and entry.revision != ABSENT:
            await request.answer(304, b"", (b"etag", etag.encode()))
        elif binary:
            await request.answer(200, _octets(entry.value), _OCTETS_TYPE, (b"etag", etag.encode()))
        else:
            body = b'{"type":"simple","value":%s}' % _encode(entry.value.decode())
            await request.answer(200, body, _JSON_TYPE, (b"etag", etag.encode()))

    async def _put(self, request: _Request) -> None:
        if request.trail == "" or request.trail.endswith("/"):
            raise MethodNotAllowed("a secret's name has no trailing slash")
        body = await asgi.read_body(request.receive, request.head)
        value = _value_of(request.head.content_type, body)
        expected = asgi.expected_revision(request.head)
        revision = await self._service.put(request.caller, _secret_name(request.trail), value, expected)
        status = 201 if expected == ABSENT else 200
        await request.answer(status, b"", (b"etag", etag_of(revision).encode()))

    async def _delete(self, request: _Request) -> None:
        if request.trail == "":
            raise MethodNotAllowed("the root of all secrets is not deleted")
        _check_message(await asgi.read_body(request.receive, request.head))
        if request.trail.endswith("/"):
            await self._service.delete_container(request.caller, _container_name(request.trail))
        else:
            expected = asgi.expected_revision(request.head)
            if request.head.if_match == NEW:
                raise Invalid("what is deleted cannot be expected to be absent")
            await self._service.delete(
                request.caller, _secret_name(request.trail), PRESENT if expected == ABSENT else expected
            )
        await request.answer(204, b"")

    async def _post(self, request: _Request) -> None:
        if request.trail == "" and request.query == b"batch=get":
            body = await asgi.read_body(request.receive, request.head)
            if len(body) > MAX_NAMES_BODY:
                raise TooLarge("the body is over its limit")
            await self._batch_get(request, body)
            return
        if not request.trail.endswith("/"):
            raise MethodNotAllowed("a container's name has a trailing slash")
        _check_message(await asgi.read_body(request.receive, request.head))
        created = await self._service.create_container(request.caller, _container_name(request.trail))
        await request.answer(201 if created else 200, b"")

    async def _batch_get(self, request: _Request, body: bytes) -> None:
        try:
            wanted = msgspec.convert(strict_json.decode(body), _BatchGet).names
        except (strict_json.MalformedJSON, msgspec.ValidationError):
            raise Invalid('a batch get is {"names": [name, …]}') from None
        if len(wanted) > MAX_BATCH_NAMES:
            raise Invalid(f"a batch get is at most {MAX_BATCH_NAMES} names")
        full = [_secret_name(name) for name in wanted]
        parts = []
        async with self._service.read_many(request.caller, full) as values:
            async for name, entry in values:
                message = b"null" if entry is None else b'{"type":"simple","value":%s}' % _encode(entry.value.decode())
                parts.append(b"%s:%s" % (_encode(name[len(names.SECRETS) :]), message))
            await request.answer(200, b"{%s}" % b",".join(parts), _JSON_TYPE)

    def _container(self, trail: str, caller: Caller) -> str:
        if trail != "":
            return _container_name(trail)
        own = self._service.own_container(caller)
        if own is None:
            raise Denied("there is no default container")
        return own


class _BatchGet(msgspec.Struct, forbid_unknown_fields=True):
    names: list[str]


def _secret_name(trail: str) -> str:
    if "/" not in trail:
        raise Denied("a secret lies in a container")
    return _checked(trail)


def _container_name(trail: str) -> str:
    return _checked(trail)


def _checked(trail: str) -> str:
    try:
        return names.check(names.SECRETS + trail)
    except InvalidName as error:
        raise Invalid(str(error)) from None


def _check_query(query: bytes) -> None:
    """Refuse a GET whose query asks for another message type than simple (Custodia: 406)."""
    if query:
        fields: dict[str, Any] = parse_qs(query.decode("latin-1"), keep_blank_values=True, max_num_fields=16)
        if fields.get("type") != ["simple"] or len(fields.get("value", [""])) != 1:
            raise NotAcceptable("only simple messages are served")


def _check_message(body: bytes) -> None:
    """Refuse a POST's or DELETE's body that is not a simple message (Custodia: 406); none is the usual case."""
    if body:
        try:
            _message_value(body)
        except Invalid as error:
            raise NotAcceptable(str(error)) from None


def _value_of(content_type: str | None, body: bytes) -> bytes:
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if media_type == OCTET_STREAM:
        sent, value = len(body), base64.b64encode(body)
    elif media_type == JSON:
        value = _message_value(body).encode()
        sent = len(value)
    else:
        raise Invalid("Content-Type is application/json or application/octet-stream")
    if not value:
        raise Invalid("an empty value is no secret")
    if sent > MAX_SECRET:
        raise TooLarge("the value is over its limit")
    return value


def _message_value(body: bytes) -> str:
    try:
        message = strict_json.decode(body)
    except strict_json.MalformedJSON as error:
        raise Invalid(str(error)) from None
    if not isinstance(message, dict) or "type" not in message or "value" not in message:
        raise Invalid('a message is {"type":"simple","value":"…"}')
    kind, value = (m[0] if isinstance(m := message[key], list) and len(m) == 1 else m for key in ("type", "value"))
    if isinstance(kind, list) or isinstance(value, list):
        raise Invalid("type and value are not lists")
    if kind != "simple":
        raise NotAcceptable("only simple messages are served")
    if not isinstance(value, str):
        raise Invalid("the value is not a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Invalid("the value is not Unicode text") from None  # a lone surrogate
    return value


def _wants_octets(accept: str | None) -> bool:
    """Custodia's reading of Accept: octet-stream if named, unless JSON is named too."""
    if accept is None:
        return False
    types = [part.partition(";")[0].strip() for part in accept.split(",")]
    return OCTET_STREAM in types and JSON not in types


def _octets(value: bytes) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        # Custodia answers 500 here; the fault is the reader's, who asked bytes of a text.
        raise NotAcceptable("the value was stored as text") from None

"""Custodia's contract for secrets, answered from the connection (seed: Custodia 0.6.0, ``/secrets``).

It stands before falcon because it is the path that every reader of a secret takes, and a route, a request and a
response object a request cost a fifth of it. The contract and what we add to it: docs/http-api.md.
"""

import base64
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs

import msgspec

from strongroom.models import names
from strongroom.models.errors import InvalidName
from strongroom.models.strict_json import UNREADABLE
from strongroom.storage_service.access.base import Action
from strongroom.storage_service.backends.base import Entry
from strongroom.storage_service.errors import (
    Denied,
    Exists,
    Invalid,
    MethodNotAllowed,
    NotAcceptable,
    NotImplementedHere,
    TooLarge,
)
from strongroom.storage_service.http.answering import decoded
from strongroom.storage_service.services.door import Caller
from strongroom.storage_service.services.secrets import Containers, Listing, Reached, SecretService, Values
from strongroom.storage_service.turns import Turn
from strongroom.storage_service.wire import (
    JSON,
    MAX_BATCH_NAMES,
    MAX_NAMES_BODY,
    MAX_NAMES_PAGE,
    MAX_SECRET,
    MAX_SECRET_BODY,
    NEW,
    NO_STORE,
    OCTET_STREAM,
    SECRETS_PATH,
    message,
)
from strongroom.storage_service.wire.etags import ABSENT, PRESENT, etag_of, expected_revision
from strongroom.storage_service.wire.head import Head
from strongroom.storage_service.wire.http1 import Exchange, Field

_JSON_TYPE: Final = (b"content-type", b"application/json; charset=utf-8")
_OCTETS_TYPE: Final = (b"content-type", OCTET_STREAM.encode())
_LIMIT: Final = re.compile("[1-9][0-9]{0,3}", re.ASCII)
_encode = msgspec.json.Encoder().encode
_decode_base64 = msgspec.json.Decoder(bytes).decode  # as strict as binascii's strict mode, in a third of its time


class _Request(NamedTuple):
    """One request: *trail* is its path below ``/secrets/``."""

    trail: str
    exchange: Exchange
    caller: Caller
    head: Head

    def answer(self, status: int, body: bytes, *fields: Field) -> None:
        """Send the whole response."""
        self.exchange.answer(status, self._head(fields), body)

    async def stream(self, parts: AsyncIterator[bytes], *fields: Field, turn: Turn | None = None) -> None:
        """Send a response part by part, as fast as the client takes it; what fails in between ends the connection.

        In a *turn*, a client that is slow may lose it.
        """
        exchange = self.exchange
        exchange.start(200, self._head(fields))
        if turn is not None:
            turn.await_client()
        async for part in parts:
            await exchange.write(part)
            if turn is not None:
                turn.moved(len(part))
        exchange.finish()

    def _head(self, fields: tuple[Field, ...]) -> tuple[Field, ...]:
        return (b"x-request-id", self.caller.request_id.encode()), NO_STORE, *fields


class SecretsEndpoint:
    """``/secrets`` and all below it."""

    def __init__(self, secrets: SecretService) -> None:
        self._secrets = secrets
        self._methods = {
            b"GET": self._get,
            b"PUT": self._put,
            b"POST": self._post,
            b"DELETE": self._delete,
        }

    async def __call__(self, exchange: Exchange, *, path: str, caller: Caller, head: Head) -> None:
        """Answer one request of an authenticated *caller* for *path*, the decoded one.

        Raises:
            ServiceError: every refusal; the application around turns it into a problem.
        """
        method = self._methods.get(exchange.request.method)
        if method is None:
            raise NotImplementedHere("no such method on secrets")
        await method(_Request(path[len(SECRETS_PATH) + 1 :], exchange, caller, head))

    async def _get(self, request: _Request) -> None:
        asked = _query_of(request.exchange.request.query)
        if request.trail == "" or request.trail.endswith("/"):
            await self._list(request, asked)
            return
        if asked:
            raise Invalid("a secret has no pages")
        binary = _wants_octets(request.head.accept)
        entry = await self._secrets.get(request.caller, _secret_name(request.trail))
        etag = etag_of(entry.revision)
        # At an old place (`backends.read_through`) a value has no revision, and may have changed.
        known = request.head.if_none_match is not None and etag in request.head.if_none_match
        if known and entry.revision != ABSENT:
            request.answer(304, b"", (b"etag", etag.encode()))
        elif binary:
            request.answer(200, _octets(entry.value), _OCTETS_TYPE, (b"etag", etag.encode()))
        else:
            body = message.TEMPLATE % _encode(entry.value.decode())
            request.answer(200, body, _JSON_TYPE, (b"etag", etag.encode()))

    async def _list(self, request: _Request, asked: "_Page | None") -> None:
        if asked is not None:
            await self._list_page(request, asked)
            return
        name = _container_name(request.trail) if request.trail else self._secrets.own_container(request.caller)
        # Custodia refuses to list the root where there is no default container; a container is found by it here.
        listing = await (
            self._secrets.containers(request.caller) if name is None else self._secrets.listing(request.caller, name)
        )
        if listing.large:
            await request.stream(_array(listing), _JSON_TYPE)
        else:
            request.answer(200, b"".join([part async for part in _array(listing)]), _JSON_TYPE)

    async def _list_page(self, request: _Request, asked: "_Page") -> None:
        """Answer a part of a listing. That of the root is of containers, whoever has one of its own."""
        if request.trail:
            name = _container_name(request.trail)
            found = await self._secrets.page(request.caller, name, asked.after, asked.limit)
        else:
            found = await self._secrets.containers_page(request.caller, asked.after, asked.limit)
        request.answer(200, _encode(found), _JSON_TYPE)

    async def _put(self, request: _Request) -> None:
        if request.trail == "" or request.trail.endswith("/"):
            raise MethodNotAllowed("a secret's name has no trailing slash", _allowed(request.trail))
        name, expected = (
            _secret_name(request.trail),
            expected_revision(request.head.if_match, request.head.if_none_match),
        )
        action = Action.CREATE if expected == ABSENT else Action.MODIFY
        value = await _value_of(request.head.content_type, await self._body(request, action, name))
        try:
            revision = await self._secrets.put(request.caller, name, value, expected)
        except Exists as error:
            raise Exists(f"{error}; send If-Match to replace it") from None
        status = 201 if expected == ABSENT else 200
        request.answer(status, b"", (b"etag", etag_of(revision).encode()))

    async def _delete(self, request: _Request) -> None:
        if request.trail == "":
            raise MethodNotAllowed("the root of all secrets cannot be deleted", _allowed(""))
        container = request.trail.endswith("/")
        name = _container_name(request.trail) if container else _secret_name(request.trail)
        await _check_message(await self._body(request, Action.DELETE, name))
        if container:
            await self._secrets.delete_container(request.caller, name)
        else:
            expected = expected_revision(request.head.if_match, request.head.if_none_match)
            if request.head.if_match == NEW:
                raise Invalid("a record to delete cannot be expected to be absent")
            await self._secrets.delete(request.caller, name, PRESENT if expected == ABSENT else expected)
        request.answer(204, b"")

    async def _post(self, request: _Request) -> None:
        if request.trail == "" and request.exchange.request.query == b"batch=get":
            await self._secrets.expect_some(request.caller, Action.GET)
            await self._batch_get(request, await request.exchange.body(MAX_NAMES_BODY))
            return
        if not request.trail.endswith("/"):
            raise MethodNotAllowed("a container's name has a trailing slash", _allowed(request.trail))
        name = _container_name(request.trail)
        await _check_message(await self._body(request, Action.CREATE, name))
        created = await self._secrets.create_container(request.caller, name)
        request.answer(201 if created else 200, b"")

    async def _batch_get(self, request: _Request, body: bytes) -> None:
        try:
            wanted = msgspec.convert(await decoded(body), _BatchGet).names
        except (Invalid, msgspec.ValidationError):
            raise Invalid('a batch get is {"names": [name, …]}') from None
        if len(wanted) > MAX_BATCH_NAMES:
            raise Invalid(f"a batch get is at most {MAX_BATCH_NAMES} names")
        full = [_wanted(name) for name in wanted]
        async with self._secrets.read_many(request.caller, full) as values:
            if values.turn is not None:
                await request.stream(_batch(values), _JSON_TYPE, turn=values.turn)
            else:
                members = [_member(name, entry) for name, entry in values.held()]
                request.answer(200, b"{%s}" % b",".join(members), _JSON_TYPE)

    async def _body(self, request: _Request, action: Action, name: str) -> bytes:
        """Return the body, which is not read for those who may not do *action* to *name* whatever it holds."""
        await self._secrets.expect(request.caller, action, name)
        return await request.exchange.body(MAX_SECRET_BODY)


def _member(name: str, entry: Entry | None) -> bytes:
    said = b"null" if entry is None else message.TEMPLATE % _encode(entry.value.decode())
    return b"%s:%s" % (_encode(name[len(names.SECRETS) :]), said)


async def _batch(values: Values) -> AsyncIterator[bytes]:
    """Yield the JSON object of a batch, a secret at a time."""
    before = b"{"
    async for name, entry in values:
        yield before + _member(name, entry)
        before = b","
    yield b"{}" if before == b"{" else b"}"


async def _array(listing: Listing | Containers | Reached) -> AsyncIterator[bytes]:
    """Yield the JSON array of a listing, a page at a time."""
    before = b"["
    async for page in listing:
        if page:
            yield before + _encode(page)[1:-1]
            before = b","
    yield b"[]" if before == b"[" else b"]"


class _Page(NamedTuple):
    """Which part of a listing is asked for."""

    after: str
    limit: int


class _BatchGet(msgspec.Struct, forbid_unknown_fields=True):
    names: list[str]


def allow_of(path: str) -> tuple[Field, ...]:
    """Return what is answered to whoever asks what *path*, which lies at or below ``/secrets``, allows."""
    return NO_STORE, (b"allow", ", ".join(_allowed(path[len(SECRETS_PATH) + 1 :])).encode())


def _allowed(trail: str) -> tuple[str, ...]:
    """Return the methods that fit the path: of the root of all secrets, of a container, of a secret."""
    if trail == "":
        return ("GET", "HEAD", "POST", "OPTIONS")
    return ("GET", "HEAD", "POST" if trail.endswith("/") else "PUT", "DELETE", "OPTIONS")


def _secret_name(trail: str) -> str:
    """Return the name of the secret at *trail*, the end of a path that was checked as a whole."""
    if "/" not in trail:
        raise Denied("a secret must lie in a container")
    return names.SECRETS + trail


def _container_name(trail: str) -> str:
    return names.SECRETS + trail


def _wanted(name: str) -> str:
    """Return the name of the secret that a body calls *name*.

    Raises:
        Denied: it would lie in no container.
        Invalid: it is no secret's. A container's is refused here, for what is in one is told by its listing alone.
    """
    full = _secret_name(name)
    try:
        names.check(full)
    except InvalidName as error:
        raise Invalid(str(error)) from None
    if names.is_container(full):
        raise Invalid("a secret's name has no trailing slash")
    return full


def _query_of(query: bytes) -> _Page | None:
    """Return which page the query of a GET asks for, if it asks for one.

    Raises:
        NotAcceptable: it asks for another message type than simple (Custodia: 406).
        Invalid: there is no such page.
    """
    if not query:
        return None
    try:
        fields: dict[str, Any] = parse_qs(query.decode("latin-1"), keep_blank_values=True, max_num_fields=16)
    except ValueError:
        raise NotAcceptable(message.ONLY_SIMPLE) from None
    pages = fields.keys() & {"limit", "after"}
    if fields.get("type", [message.SIMPLE] if pages else []) != [message.SIMPLE]:
        raise NotAcceptable(message.ONLY_SIMPLE)
    if len(fields.get("value", [""])) != 1:
        raise NotAcceptable(message.ONLY_SIMPLE)
    return _page_of(fields) if pages else None


def _page_of(fields: dict[str, Any]) -> _Page:
    """Return the page that the *fields* of a query ask for.

    Raises:
        Invalid: there is no such page.
    """
    limit, after = fields.get("limit", [str(MAX_NAMES_PAGE)]), fields.get("after", [""])
    if len(limit) != 1 or _LIMIT.fullmatch(limit[0]) is None or int(limit[0]) > MAX_NAMES_PAGE:
        raise Invalid(f"a page of names has a limit of 1 to {MAX_NAMES_PAGE}")
    if len(after) != 1 or len(after[0]) > names.MAX_NAME or not (after[0].isascii() and after[0].isprintable()):
        raise Invalid("a page of names begins after one name")
    return _Page(after[0], int(limit[0]))


async def _check_message(body: bytes) -> None:
    """Refuse a POST's or DELETE's body that is not a simple message (Custodia: 406); none is the usual case."""
    if body:
        try:
            message.value_of(await decoded(body))
        except Invalid as error:
            raise NotAcceptable(str(error)) from None


async def _value_of(content_type: str | None, body: bytes) -> bytes:
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if media_type == OCTET_STREAM:
        sent, value = len(body), base64.b64encode(body)
    elif media_type == JSON:
        value = message.value_of(await decoded(body)).encode()
        sent = len(value)
    else:
        raise Invalid("Content-Type is application/json or application/octet-stream")
    if not value:
        raise Invalid("a secret must not be empty")
    if sent > MAX_SECRET:
        raise TooLarge("the value is over its limit")
    return value


def _wants_octets(accept: str | None) -> bool:
    """Custodia's reading of Accept: octet-stream if named, unless JSON is named too."""
    if accept is None:
        return False
    types = [part.partition(";")[0].strip() for part in accept.split(",")]
    return OCTET_STREAM in types and JSON not in types


def _octets(value: bytes) -> bytes:
    if b"\\" not in value:  # what JSON would take for an escape is no base64 either
        with contextlib.suppress(*UNREADABLE):
            return _decode_base64(b'"%b"' % value)
    # Custodia answers 500 here; the fault is the reader's, who asked bytes of a text.
    raise NotAcceptable("the value was stored as text")

"""What the resources share: who asks the service for them, bodies in and out, and changes that lose nothing."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import ClassVar, Final, TypeGuard, TypeVar, get_type_hints

import msgspec

from strongroom.http_proxy.authn.base import Identity
from strongroom.http_proxy.errors import Request, Response
from strongroom.http_proxy.resources.places import HostPlaces
from strongroom.models import Model, strict_json
from strongroom.storage_service import wire
from strongroom.storage_service.client import AsyncStorageClient, Record
from strongroom.storage_service.client.operations import ANY_REVISION
from strongroom.storage_service.config import ProxySettings
from strongroom.storage_service.errors import (
    Busy,
    Changed,
    Denied,
    Exists,
    Invalid,
    Malformed,
    NotAuthenticated,
    NotFound,
    TooLarge,
)
from strongroom.storage_service.wire.etags import expected_revision
from strongroom.storage_service.wire.head import refuse_condition, trace_in

M = TypeVar("M", bound=Model)

RETRIES: Final = 3  # within half a second: who asks has a client, and patience, of their own
ATTEMPTS: Final = 16  # at one change, while other workers change the same record
NONE_TO_CHANGE: Final = "there is no such record to change; without If-Match it is made"
CHANGED: Final = "the record is not at the revision in If-Match"
_THERE: Final = "the record is there, and If-None-Match says that there is none"


class Storage:
    """The storage service, as each caller may use it; all callers share its connections."""

    def __init__(self, settings: ProxySettings) -> None:
        self._client = AsyncStorageClient(
            socket=settings.socket,
            api_id=settings.api_id,
            api_key=settings.api_key,
            timeout=settings.timeout,
            connections=settings.connections,
            retries=RETRIES,
        )
        self._proof = f"{settings.api_id}:{settings.api_key.reveal()}"
        self._changing = asyncio.Lock()
        self.hosts = HostPlaces()

    def for_caller(self, req: Request) -> AsyncStorageClient:
        """Return a client that asks as the caller of *req* may.

        What callers have shown goes along, and the service decides; the proxy's own key reaches nothing.

        Raises:
            NotAuthenticated: nobody was recognised: the path is among the self-authenticated and this is no such.
        """
        identity = identity_of(req)
        headers = {
            wire.FORWARDED_HEADER: req.scope["state"]["forwarded"],
            wire.REQUEST_ID_HEADER: req.scope["state"]["request_id"],
            wire.PROXY_HEADER: self._proof,
        }
        traceparent = req.get_header(wire.TRACE_HEADER) or ""
        if trace_in(traceparent) is not None:
            headers[wire.TRACE_HEADER] = traceparent
        if identity.certificate is not None:
            headers[wire.CERTIFICATE_HEADER] = identity.certificate
        if identity.api_id is not None and identity.api_key is not None:
            return self._client.acting_for(api_id=identity.api_id, api_key=identity.api_key, headers=headers)
        return self._client.acting_for(authorization=identity.authorization, headers=headers)

    async def change(self, client: AsyncStorageClient, model: type[M], key: str, edit: Callable[[M], bool]) -> M:
        """Return the record of *key* after *edit* changed it; as `changed`."""
        return (await self.changed(client, model, key, edit))[0].model

    async def changed(
        self,
        client: AsyncStorageClient,
        model: type[M],
        key: str,
        edit: Callable[[M], bool],
        *,
        etag: str = ANY_REVISION,
        read: Callable[[], Awaitable[Record[M]]] | None = None,
    ) -> tuple[Record[M], bool]:
        """Return the record of *key* after *edit* changed it, and whether it did.

        Nothing that others change meanwhile is lost.

        Args:
            client: whose rights count.
            model: what the record is.
            key: its primary key.
            edit: changes the record it is given and says whether it did; called again when others were faster.
            etag: the revision that is to be changed, where it is not whatever there is.
            read: how to read the record, where it is not by its key alone.

        Raises:
            NotFound: there is no such record.
            Changed: it is not at the revision *etag*.
            Busy: others changed it every time.
        """
        read = read or functools.partial(client.get, model, key)
        # One change at a time in this process: what is left to race with are the other workers.
        async with self._changing:
            for _ in range(ATTEMPTS):
                record = await read()
                check_at(etag, record.etag)
                if not edit(record.model):
                    return record, False
                try:
                    return await client.save(record.model, etag=record.etag), True
                except Changed:
                    continue
        raise Busy("others keep changing this record")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


class Resource:
    """A resource over the storage service."""

    guarded: ClassVar[frozenset[str]] = frozenset()
    """The methods that do nothing unless If-Match and If-None-Match hold; of all others `Conditions` refuses them."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    async def read_for(self, req: Request, model: type[Model], key: str | None) -> dict[str, object]:
        """Return the body of *req*, which is to change the record that the path names, or one that it names itself.

        Whether the caller may do that is asked first: of who may not, nothing is read. Without a *key*, it is whether
        there can be a record that the caller may change.

        Raises:
            Denied: the caller may not, which the service has recorded.
            Invalid, TooLarge: as `read_object`.
        """
        await self.storage.for_caller(req).check_may("put", model, key)
        body = await read_object(req)
        return {field: whole(value) if field in _whole_fields(model) else value for field, value in body.items()}


class Conditions:
    """Falcon middleware: a condition that nobody would look at is refused, so that nobody believes that it held."""

    async def process_resource(
        self, req: Request, resp: Response, resource: object, params: Mapping[str, object]
    ) -> None:
        """Refuse a change of *resource* under a condition that it does not know.

        Raises:
            Invalid: so it is.
        """
        del resp, params
        if not isinstance(resource, Resource) or not hasattr(resource, f"on_{req.method.lower()}"):
            return
        if req.method not in resource.guarded:
            refuse_condition(req.method, req.get_header("If-Match"), req.get_header("If-None-Match"))


def expected_of(req: Request) -> str | None:
    """Return the tag that *req* says the record to be at: `NEW` for If-None-Match: *, None where it says nothing.

    Raises:
        Invalid: it is no tag of ours.
        Changed: the two fields contradict each other.
    """
    if_match, if_none_match = req.get_header("If-Match"), req.get_header("If-None-Match")
    expected_revision(if_match, if_none_match)
    return wire.NEW if if_none_match is not None else if_match


def is_update(told: str | None) -> TypeGuard[str]:
    """Return whether who says *told* wants to change what is there, and to make nothing."""
    return told not in (None, wire.NEW)


def check_new(told: str | None) -> None:
    """Return unless what is there is *told* to be new.

    Raises:
        Exists: it is.
    """
    if told == wire.NEW:
        raise Exists("it is there already")


def check_at(told: str | None, etag: str | None) -> None:
    """Return unless what is there, at *etag*, is *told* to be at another revision.

    Raises:
        Changed: it is.
    """
    if told not in (None, ANY_REVISION, etag):
        raise Changed(_THERE if told == wire.NEW else CHANGED)


def names_revision(told: str | None) -> TypeGuard[str]:
    """Return whether *told* names one revision, and not whatever there is."""
    return told not in (None, wire.NEW, ANY_REVISION)


def overlay(body: dict[str, object], wanted: M) -> Callable[[M], bool]:
    """Return the change that puts what *body* names of *wanted* into a record, and leaves all else as it is."""

    def edit(record: M) -> bool:
        differs = differing(body, wanted, record)
        for field in differs:
            setattr(record, field, getattr(wanted, field))
        return bool(differs)

    return edit


def differing(body: dict[str, object], wanted: Model, record: Model) -> list[str]:
    """Return those fields that *body* names of which *record* says something else than *wanted*."""
    return [field for field in body if getattr(record, field) != getattr(wanted, field)]


async def as_told(change: Awaitable[tuple[Record[M], bool]]) -> Record[M]:
    """Return the record after a *change* that If-Match asked for.

    Raises:
        Changed: it is not at that revision, or there is none.
    """
    try:
        return (await change)[0]
    except NotFound:
        raise Changed(NONE_TO_CHANGE) from None


def show(resp: Response, record: Record[M], status: int = 200) -> None:
    """Answer with the safe form of *record* and the tag of its revision."""
    resp.set_header("ETag", record.etag)
    respond(resp, record.model.to_dict_safe(), status)


@functools.cache
def _whole_fields(model: type[Model]) -> frozenset[str]:
    return frozenset(name for name, hint in get_type_hints(model).items() if hint is int)


def whole(value: object) -> object:
    """Return a whole number that was written as 8.0 as 8: to JSON, and in the description, it is the same number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def identity_of(req: Request) -> Identity:
    """Return who calls.

    Raises:
        NotAuthenticated: nobody was recognised.
    """
    identity = req.scope["state"].get("identity")
    if not isinstance(identity, Identity):
        raise NotAuthenticated("nobody was recognised")
    return identity


async def read_object(req: Request) -> dict[str, object]:
    """Return the JSON object that is the request's body; an empty body is an empty object.

    Raises:
        Invalid: it is no such thing.
        TooLarge: it is over the limit of one record; one that says so itself is not read.
    """
    if req.content_length is not None and req.content_length > wire.MAX_MODEL_BODY:
        raise TooLarge("the body is over its limit")
    body: bytes = await req.stream.read(wire.MAX_MODEL_BODY + 1)
    if len(body) > wire.MAX_MODEL_BODY:
        raise TooLarge("the body is over its limit")
    try:
        if strict_json.short(body):
            value = strict_json.decode(body) if body else {}
        else:  # others get their turn meanwhile
            value = await asyncio.to_thread(strict_json.decode, body, wire.MAX_RECORD_STRUCTURE)
    except strict_json.MalformedJSON as exc:
        raise Invalid(f"the body is not accepted as JSON: {exc}") from None
    if not isinstance(value, dict):
        raise Invalid("the body is not a JSON object")
    return value


def settle(body: dict[str, object], field: str, from_path: str) -> None:
    """See to it that *body* says of *field* what the path says.

    Raises:
        Invalid: it says something else.
    """
    if body.setdefault(field, from_path) != from_path:
        raise Invalid("path and body contradict each other", ((field, "is not what the path says"),))


def texts(body: dict[str, object], field: str) -> list[str]:
    """Return the list of texts that *field* holds.

    Raises:
        Invalid: it is missing, or something else.
    """
    value = body.get(field)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Invalid("the body is not valid", ((field, "must be a list of strings"),))
    return value


def respond(resp: Response, body: object, status: int = 200) -> None:
    """Answer with *body* as JSON."""
    resp.status = status
    resp.content_type = wire.JSON
    resp.set_header("Cache-Control", "no-store")
    resp.data = msgspec.json.encode(body)


async def find(client: AsyncStorageClient, model: type[M], key: str) -> M | None:
    """Return the model of *key*, or None."""
    found = await find_record(client, model, key)
    return None if found is None else found.model


async def look(client: AsyncStorageClient, model: type[M], key: str, unseen: Exception) -> M | None:
    """Return the model of *key*, or None; raise *unseen* where the caller may not see it, which is on record."""
    try:
        return await find(client, model, key)
    except Denied:
        raise unseen from None


async def find_record(client: AsyncStorageClient, model: type[M], key: str) -> Record[M] | None:
    """Return the record of *key*, or None."""
    with suppress(NotFound):
        return await client.get(model, key)
    return None


async def tag_of(client: AsyncStorageClient, model: type[Model], key: str) -> str | None:
    """Return the tag of the record of *key*, None where it is no valid one: before what belongs to it is removed.

    Raises:
        NotFound: there is none.
    """
    with suppress(Malformed):
        return (await client.get(model, key)).etag
    return None


async def check_there(client: AsyncStorageClient, model: type[Model], key: str) -> None:
    """Return if there is a record of *key*, valid or not: before what belongs to it is removed.

    Raises:
        NotFound: there is none.
    """
    await tag_of(client, model, key)


async def save_new(client: AsyncStorageClient, model: M) -> Record[M]:
    """Store a record that does not exist yet.

    Raises:
        Exists: it does by now.
    """
    return await client.save(model, etag=wire.NEW)


async def remove_if_there(client: AsyncStorageClient, model: type[Model], key: str) -> None:
    """Delete the record of *key*; that there is none is no error, any other failure is."""
    with suppress(NotFound):
        await client.delete(model, key)

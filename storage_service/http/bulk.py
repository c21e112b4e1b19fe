"""The socket's ``/bulk``: what is encrypted, as it is stored. The proxy forwards none of it."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final, Generic, TypeVar

import falcon.asgi
import msgspec

from strongroom.models import strict_json
from strongroom.storage_service import wire
from strongroom.storage_service.access.base import Action
from strongroom.storage_service.backends.base import MAX_BATCH, Check, Delete, Put
from strongroom.storage_service.errors import Invalid
from strongroom.storage_service.http.answering import Request, Response, answer, answer_held, caller, not_a
from strongroom.storage_service.http.large_bodies import LargeBodies, Sent
from strongroom.storage_service.services.bulk import BulkService, Text
from strongroom.storage_service.turns import Turns
from strongroom.storage_service.wire.etags import etag_of, revision_of

T = TypeVar("T", bound=msgspec.Struct)


def add_routes(app: falcon.asgi.App[Any, Any], bulk: BulkService, bodies: LargeBodies) -> None:
    """Give *app* every resource of this page."""
    for path, resource in (
        ("", Limits(bulk, bodies)),
        ("/read", Read(bulk, bodies)),
        ("/list", List(bulk, bodies)),
        ("/commit", Commit(bulk, bodies)),
    ):
        app.add_route(wire.BULK_PATH + path, resource)


class _Body(Generic[T]):
    """Reads bodies of one type.

    PERF: in one go, where `strongroom.storage_service.http.answering.body` looks for members that stand twice, lest two
    parsers differ: nothing but this parser ever reads these. What it costs depends on how many strings there are, so
    those are counted.
    """

    def __init__(self, of: type[T], limit: int, most: int) -> None:
        """Take the type, and how many bytes and strings a body of it may have."""
        self._of = of
        self._limit = limit
        self._marks = 2 * most
        self._decode = msgspec.json.Decoder(of).decode

    async def read(self, sent: Sent) -> T:
        """Return what *sent* says.

        Raises:
            TooLarge: it is over its limit.
            Invalid: it is no such thing; nothing of it is repeated.
            Unavailable: it is large, and no turn for it came, or it was lost.
        """
        text = await sent.content(self._limit)
        return self._read(text) if len(text) <= strict_json.SHORT else await asyncio.to_thread(self._read, text)

    def _read(self, text: bytes) -> T:
        # At least as many strings begin or end here: a mark after two backslashes is not counted.
        if text.count(b'"') - text.count(b'\\"') > self._marks:
            raise Invalid("the body holds more than can be done at once")
        try:
            return self._decode(text)
        except strict_json.UNREADABLE:
            pass
        raise not_a(self._of)  # after the handler: the error that was caught may hold the body


_NAMES: Final = _Body(wire.BulkNames, wire.MAX_NAMES_BODY, wire.MAX_BULK_READ + 16)
_LISTING: Final = _Body(wire.BulkListing, wire.MAX_LISTING_BODY, 16)
_COMMIT: Final = _Body(wire.BulkCommit, wire.MAX_COMMIT_BODY, 8 * MAX_BATCH)  # a change has up to seven


class _Resource:
    """A resource, the door behind it, and the turns of large bodies."""

    def __init__(self, bulk: BulkService, bodies: LargeBodies) -> None:
        self._bulk = bulk
        self._bodies = bodies


class Limits(_Resource):
    """How much at once."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """Tell it, as it is now."""
        answer(req, resp, wire.BulkLimits(max_changes=await self._bulk.limit(caller(req))))


class Read(_Resource):
    """The verb that reads values."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """Answer them in the order asked."""
        await self._bulk.expect(caller(req), Action.GET)
        async with self._bodies.of(req) as sent:
            said = await _NAMES.read(sent)
        texts, turn = await self._bulk.read_held(caller(req), said.names)
        await answer_held(req, resp, await entries_of(texts), turn)


class List(_Resource):
    """The verb that lists names."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """Answer a page of them."""
        await self._bulk.expect(caller(req), Action.LIST)
        async with self._bodies.of(req) as sent:
            said = await _LISTING.read(sent)
        page = await self._bulk.list(caller(req), said.prefix, said.after, said.limit)
        answer(req, resp, wire.BulkPage(names=list(page.names), more=page.more))


class Commit(_Resource):
    """The verb that writes, removes and guards."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """Do all of it or nothing."""
        await self._bulk.expect(caller(req), Action.PUT)
        async with self._bodies.of(req) as sent:
            said = await _COMMIT.read(sent)
            revision = await self._bulk.commit(caller(req), await changes_of(said.changes))
        answer(req, resp, wire.BulkCommitted(etag=etag_of(revision)))


async def entries_of(texts: Sequence[Text | None]) -> wire.BulkEntries:
    """Return *texts* as they are answered; others get their turn in between."""
    turns = Turns()
    entries: list[wire.BulkEntry | None] = []
    for text in texts:
        await turns.take()
        entries.append(None if text is None else wire.BulkEntry(value=text.value, etag=etag_of(text.revision)))
    return wire.BulkEntries(entries=entries)


async def changes_of(said: Sequence[wire.BulkChange]) -> list[Put | Delete | Check]:
    """Return what is *said* as changes of the store; others get their turn in between.

    Raises:
        Invalid: one of them is invalid.
    """
    turns = Turns()
    changes = []
    for each in said:
        await turns.take()
        changes.append(_change_of(each))
    return changes


def _change_of(said: wire.BulkChange) -> Put | Delete | Check:
    expected = None if said.etag is None else revision_of(said.etag)
    if said.check:
        if said.value is not None or expected is None:
            raise Invalid("a check has an etag and no value")
        return Check(said.name, expected)
    return Delete(said.name, expected) if said.value is None else Put(said.name, said.value.encode(), expected)

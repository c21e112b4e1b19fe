"""Records of models, each kept by the handler that the configuration gives its class."""

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from strongroom.models import Model, names
from strongroom.models.errors import InvalidName
from strongroom.storage_service.access.base import Action
from strongroom.storage_service.backends.base import ABSENT
from strongroom.storage_service.errors import Invalid, TooLarge
from strongroom.storage_service.handlers import Handler, KeyPage, RecordPage, Stored
from strongroom.storage_service.routing import Kept, Routing
from strongroom.storage_service.services.door import Act, Caller, Door, check_distinct
from strongroom.storage_service.services.large_answers import LargeAnswers
from strongroom.storage_service.turns import Turn
from strongroom.storage_service.wire import LARGE_ANSWER


class Reference(NamedTuple):
    """A record that is meant: its primary key, and for a host the handler that its *source* names."""

    key: str
    source: str = ""


class RecordService:
    """All that can be done to records of models."""

    def __init__(self, door: Door, routing: Routing, large_answers: LargeAnswers | None = None) -> None:
        """Take the parts; *routing* gives secret models to a handler that encrypts, which the bootstrap sees to."""
        self._door = door
        self._routing = routing
        self._large_answers = large_answers or LargeAnswers()

    async def expect(self, caller: Caller, action: Action, model: type[Model], key: str) -> None:
        """Refuse, and record that, what would be refused to *caller* anyway: before a body is read.

        Raises:
            Denied, Invalid, AuditUnavailable
        """
        await self._door.expect(caller, action, [_name_of(model, Reference(key))])

    async def expect_some(self, caller: Caller, action: Action, model: type[Model] | None = None) -> None:
        """Refuse, and record that, who may do *action* to no record of *model*, or of any: where a body has the keys.

        Raises:
            Denied, AuditUnavailable
        """
        await self._door.expect_some(caller, action, "" if model is None else model.prefix())

    async def save(
        self, caller: Caller, records: Sequence[Model], expected: Sequence[int | None]
    ) -> list[Stored[Model]]:
        """Write *records* by the handlers that keep them, and return them with their revisions.

        What one handler keeps is written as `Handler.save_many` says; one handler comes after another.

        Raises:
            Denied, Invalid, TooLarge, Changed, Locked, Unavailable, AuditUnavailable
        """
        handlers = [self._routing.handler_for(record) for record in records]
        acts = [Act(_writes(at), record.record_name) for record, at in zip(records, expected, strict=True)]
        await self._door.permit_each(caller, acts)
        saved: dict[int, Stored[Model]] = {}
        for handler, places in _by_handler(handlers):
            with caller.doing([acts[place] for place in places]):
                stored = await handler.save_many(
                    [records[place] for place in places], [expected[place] for place in places]
                )
            saved.update(zip(places, stored, strict=True))
        return [saved[place] for place in range(len(records))]

    async def fetch(
        self, caller: Caller, model: type[Model], wanted: Sequence[Reference]
    ) -> list[Stored[Model] | None]:
        """Return the records of *model* that *wanted* refers to, None for each that does not exist.

        Raises:
            Invalid: one stands twice.
            TooLarge: in a handler's store they take more than `wire.MAX_BATCH_STORED` bytes; nothing was read.
            Denied, Undecipherable, Internal, Locked, Unavailable, AuditUnavailable
        """
        stored, turn = await self.fetch_held(caller, model, wanted)
        if turn is not None:
            turn.end()
        return stored

    async def fetch_held(
        self, caller: Caller, model: type[Model], wanted: Sequence[Reference], *, tags: bool = False
    ) -> tuple[list[Stored[Model] | None], Turn | None]:
        """Return what `fetch` does, and of a large answer the turn, which its caller ends when it was handed over.

        *tags*: nothing but their revisions will be told, which is for those, too, who may list them.
        """
        check_distinct(wanted)
        handlers = [self._routing.handler_of(model, reference.source) for reference in wanted]

        async def read(limit: int) -> list[Stored[Model] | None]:
            found: dict[int, Stored[Model] | None] = {}
            for handler, places in _by_handler(handlers):
                stored = await handler.get_many(model, [wanted[place].key for place in places], limit)
                found.update(zip(places, stored, strict=True))
            return [found[place] for place in range(len(wanted))]

        full = [_name_of(model, reference) for reference in wanted]
        unread = tags and await self._door.able(caller, Action.GET, full) != full
        action = Action.LIST if unread else Action.GET
        return await self._door.read(caller, action, full, lambda: self._large_answers.made(caller.holder, read))

    async def remove(
        self, caller: Caller, model: type[Model], wanted: Sequence[Reference], expected: Sequence[int | None]
    ) -> list[bool]:
        """Remove records of *model*, and return for each whether it was there.

        Raises:
            Denied, Invalid, Changed, Unavailable, AuditUnavailable
        """
        handlers = [self._routing.handler_of(model, reference.source) for reference in wanted]
        full = [_name_of(model, reference) for reference in wanted]
        await self._door.permit(caller, Action.DELETE, full)
        removed: dict[int, bool] = {}
        for handler, places in _by_handler(handlers):
            with caller.doing([Act(Action.DELETE, full[place]) for place in places]):
                were_there = await handler.delete_many(
                    model, [wanted[place].key for place in places], [expected[place] for place in places]
                )
            removed.update(zip(places, were_there, strict=True))
        return [removed[place] for place in range(len(wanted))]

    async def list_records(
        self, caller: Caller, model: type[Model], after: str | None, limit: int, source: str = ""
    ) -> RecordPage[Model]:
        """Return a page of the records of *model* that its own handler keeps, in the order of their keys.

        Of hosts, with *source*: that the handler of that name keeps. There are fewer than *limit* in it, and more to
        come, where they would take more than `wire.LARGE_ANSWER` bytes in the store; but one in any case.

        Raises:
            Denied, Invalid, Undecipherable, Internal, Locked, Unavailable, AuditUnavailable
        """
        handler = self._routing.handler_of(model, source)

        async def page_after(behind: str | None) -> RecordPage[Model]:
            with suppress(TooLarge):
                return await handler.list(model, behind, limit, LARGE_ANSWER)
            return await handler.list(model, behind, 1)

        async def read() -> RecordPage[Model]:
            page = await page_after(after)
            while True:  # until there is one that may be seen: who goes on from a page goes on from its last record
                seen = set(await self._door.readable(caller, [each.record.record_name for each in page.records]))
                if len(seen) == len(page.records):
                    return page
                if seen or not page.more:
                    return RecordPage(
                        tuple(each for each in page.records if each.record.record_name in seen), page.more
                    )
                page = await page_after(page.records[-1].record.key)

        return await self._door.read(caller, Action.LIST, [model.prefix()], read)

    async def list_record_keys(
        self, caller: Caller, model: type[Model], after: str | None, limit: int, source: str = ""
    ) -> KeyPage:
        """Return a page of the keys of what `list_records` reads, of records that are not valid, too.

        Raises:
            Denied, Invalid, Unavailable, AuditUnavailable
        """
        handler = self._routing.handler_of(model, source)

        async def read() -> KeyPage:
            behind = after
            while True:
                page = await handler.keys(model, behind, limit)
                seen = await self._door.visible(caller, [model.prefix() + key for key in page.keys])
                if len(seen) == len(page.keys) or seen or not page.more:
                    return KeyPage(tuple(name.removeprefix(model.prefix()) for name in seen), page.more)
                behind = page.keys[-1]

        return await self._door.read(caller, Action.LIST, [model.prefix()], read)

    async def handlers(self, caller: Caller) -> Sequence[Kept]:
        """Return which models are kept where, which whoever is known may know.

        Raises:
            AuditUnavailable: it cannot be recorded.
        """
        await self._door.note(caller, Action.LIST, names.HANDLERS)
        return self._routing.handlers()


def _writes(expected: int | None) -> Action:
    """Return what it is to write a record that is *expected* to be at a revision; None: whether it is there or not."""
    if expected is None:
        return Action.PUT
    return Action.CREATE if expected == ABSENT else Action.MODIFY


def _by_handler(handlers: Sequence[Handler]) -> list[tuple[Handler, list[int]]]:
    """Return the handlers among *handlers*, each with the places it stands at."""
    places: dict[int, tuple[Handler, list[int]]] = {}
    for place, handler in enumerate(handlers):
        places.setdefault(id(handler), (handler, []))[1].append(place)
    return list(places.values())


def _name_of(model: type[Model], reference: Reference) -> str:
    try:
        return model.name_of(reference.key)
    except InvalidName as error:
        raise Invalid("a primary key is not valid", ((model.primary_key, str(error)),)) from None

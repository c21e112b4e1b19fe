"""The one door: every act on a record is decided, recorded, and only then done.

What cannot be recorded is not done, and nothing is answered before its record is on disk: a read may run while its
record is being written, a write begins after. The audit line says what was decided. Of what was allowed and came to
nothing a second line says so (`Door.end`), ``failed`` or ``unknown``, with the reason, which no caller is told in full.
Refusals are counted (`strangers`), whoever is refused; what was allowed has a line for each act.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypeVar

from strongroom.models import Model, names
from strongroom.models.errors import InvalidName
from strongroom.models.secret import Secret
from strongroom.storage_service.apikeys import ApiKeyRecord, ApiKeys
from strongroom.storage_service.audit import AuditLog, AuditRecord
from strongroom.storage_service.authz.base import Action, Decider, Principal
from strongroom.storage_service.authz.paths import UserNameSpace, covers, decide
from strongroom.storage_service.backends.base import (
    ABSENT,
    PRESENT,
    Backend,
    Check,
    Conflict,
    Delete,
    Entry,
    Page,
    Put,
    Vacant,
)
from strongroom.storage_service.errors import (
    AuditUnavailable,
    Changed,
    Denied,
    Exists,
    Fate,
    Invalid,
    NoContainer,
    NotEmpty,
    NotFound,
    ServiceError,
    TooLarge,
    Unavailable,
    Undecipherable,
)
from strongroom.storage_service.handlers import Handler, KeyPage, RecordPage, Stored
from strongroom.storage_service.large_answers import LargeAnswers
from strongroom.storage_service.overlay import Closed, Discreet
from strongroom.storage_service.routing import Routing
from strongroom.storage_service.strangers import Strangers, bounded
from strongroom.storage_service.turns import Turn, Turns
from strongroom.storage_service.wire import (
    LARGE_ANSWER,
    MAX_BATCH_STORED,
    MAX_CLAIMED,
    HandlerInfo,
    Refusal,
    problem_of,
)
from strongroom.storage_service.wire.http1 import Peer

T = TypeVar("T")

Decision = Literal["denied", "refused", "failed"]

MANY: Final = 100  # names, which take about a millisecond to decide on, and as long to write down

ROOT: Final = names.SECRETS  # the top of the secrets tree: neither a secret nor a container
_AFTER_SLASH: Final = "0"  # the character that comes next: what lies in a container sorts before its name with this


@dataclass(slots=True, eq=False)
class Caller:
    """Who asks, in which request, and through whom."""

    principal: Principal
    request_id: str
    peer: Peer | None = None
    on_behalf_of: str | None = None  # said by the proxy
    address: str | None = None  # on the network, where the proxy told it
    through_proxy: bool = False
    allowed: "tuple[Act, ...]" = field(
        default=(), repr=False
    )  # what this request was allowed and is not known to have done
    ended: bool = False  # it is recorded that it came to nothing, and why

    @property
    def holder(self) -> str:
        """Who is counted where everybody may hold only so much: each for whom the proxy acts by himself."""
        if self.on_behalf_of is None:
            return self.principal.id
        return f"{self.principal.id} for {self.on_behalf_of}"


class Reference(NamedTuple):
    """A record that is meant: its primary key, and for a host the handler that its *source* names."""

    key: str
    source: str = ""


class Act(NamedTuple):
    """Something that is to be done to a name."""

    action: Action
    name: str


class Values:
    """Secrets in the order asked, each with its name, None for one that does not exist: to be gone through once.

    With a *turn* they are to be handed over one by one in it, for all of them together are many bytes; what is small is
    open already, and *held* gives it without further ado.
    """

    def __init__(
        self, wanted: Sequence[str], found: Mapping[str, Entry] | Mapping[str, Closed], turn: Turn | None = None
    ) -> None:
        self.turn = turn
        self._wanted = wanted
        self._found: dict[str, Entry | Closed] = dict(found)

    def held(self) -> Iterator[tuple[str, Entry | None]]:
        """Yield them, where they are not large."""
        for name in self._wanted:
            found = self._found.get(name)
            yield name, found.open() if isinstance(found, Closed) else found

    async def __aiter__(self) -> AsyncIterator[tuple[str, Entry | None]]:
        turns = Turns()
        for name in self._wanted:
            found = self._found.pop(name, None)
            yield name, found.open() if isinstance(found, Closed) else found
            await turns.take()


class Listing:
    """The names in a container, relative to it, in pages: to be gone through once, as fast as somebody takes them.

    So much of a container is in memory as one page holds, and others get their turn between two of them.
    """

    def __init__(self, backend: Backend, container: str, first: Page) -> None:
        """Take the first page of *container*.

        Raises:
            NotFound: there is no such container; its own marker sorts before everything in it.
        """
        if first.names[:1] != (container,):
            raise NotFound("there is no such container")
        self._backend = backend
        self._container = container
        self._page = Page(first.names[1:], first.more)

    @property
    def large(self) -> bool:
        """Whether there is more than the first page."""
        return self._page.more

    async def __aiter__(self) -> AsyncIterator[Sequence[str]]:
        page, after = self._page, self._container
        while True:
            yield [name.removeprefix(self._container) for name in page.names]
            if not page.more:
                return
            after = page.names[-1] if page.names else after
            await asyncio.sleep(0)
            page = await self._backend.list(self._container, after)


class Containers:
    """The containers at the top, in pages, like a `Listing`; what lies in them is passed over, however much it is."""

    def __init__(self, backend: Backend, first: Page) -> None:
        """Take the first page of all secrets."""
        self._backend = backend
        self._page = first

    @property
    def large(self) -> bool:
        """Whether there is more than the first page."""
        return self._page.more

    async def __aiter__(self) -> AsyncIterator[Sequence[str]]:
        page = self._page
        while True:
            tops = dict.fromkeys(name.removeprefix(ROOT).partition("/")[0] for name in page.names)
            yield [f"{top}/" for top in tops]
            if not page.more:
                return
            await asyncio.sleep(0)
            page = await self._backend.list(ROOT, f"{ROOT}{next(reversed(tops))}{_AFTER_SLASH}")


class Door:
    """Decides and records; what it lets through may be done."""

    def __init__(self, deciders: Sequence[Decider], audit: AuditLog, refusals: Strangers | None = None) -> None:
        """Take who decides, where it is recorded, and what counts refusals, if another door counts with it."""
        self._deciders = tuple(deciders)
        self._audit = audit
        self._refusals = refusals or Strangers(self._record_refusals, audit.has_room)

    async def check_audit(self) -> None:
        """Return if acts can be recorded.

        Raises:
            AuditUnavailable: they cannot.
        """
        await self._audit.check()

    def narrowed(self, decider: Decider) -> "Door":
        """Return a door at which *decider* has to agree, too."""
        return Door((decider, *self._deciders), self._audit, self._refusals)

    async def close(self) -> None:
        """Write down who was counted and not told yet."""
        await self._refusals.close()

    async def permit(self, caller: Caller, action: Action, wanted: Sequence[str]) -> None:
        """Let *caller* do *action* to all of *wanted*, or to none.

        Raises:
            Denied: one of them is out of reach; those that are were recorded.
            AuditUnavailable: it cannot be recorded.
        """
        if not wanted:
            await self.note(caller, action, "")
        else:
            await self.permit_each(caller, [Act(action, name) for name in wanted])

    async def permit_each(self, caller: Caller, acts: Sequence[Act]) -> None:
        """Let *caller* do all of *acts*, or none of them; as `permit`."""
        denied = [act for act in acts if not decide(self._deciders, caller.principal, act.action, act.name)]
        if denied:
            await self._deny(caller, denied)
            raise Denied("outside what these credentials reach")
        await self._audit.append(*_records(caller, acts, "allowed"))
        caller.allowed += tuple(acts)

    def reaches(self, caller: Caller, action: Action, name: str) -> bool:
        """Whether `permit` would let *caller* do it."""
        return bool(decide(self._deciders, caller.principal, action, name))

    async def deny(self, caller: Caller, action: Action, name: str, reason: str) -> None:
        """Record that an act is refused that `permit` might allow.

        Raises:
            AuditUnavailable: it cannot be recorded.
        """
        await self._deny(caller, [Act(action, name)], reason)

    async def _deny(self, caller: Caller, acts: Sequence[Act], reason: str = "") -> None:
        caller.ended = True
        await self.turn_away(*[_refusal(caller, action.value, name, "denied", reason) for action, name in acts])

    async def expect(self, caller: Caller, action: Action, wanted: Sequence[str]) -> None:
        """Refuse, and record that, what `permit` would refuse; nothing is recorded of what is still to be permitted.

        Raises:
            Denied, AuditUnavailable: as `permit`.
        """
        denied = [name for name in wanted if not decide(self._deciders, caller.principal, action, name)]
        if denied:
            await self.permit(caller, action, denied)

    async def expect_some(self, caller: Caller, action: Action, below: str) -> None:
        """Refuse, and record that, who may not do *action* to any name that begins with *below*; "": to any at all.

        Raises:
            Denied, AuditUnavailable: as `permit`.
        """
        if any(decider.rules_out(caller.principal, action, below) for decider in self._deciders):
            await self._deny(caller, [Act(action, below)])
            raise Denied("outside what these credentials reach")

    async def read(self, caller: Caller, action: Action, wanted: Sequence[str], read: Callable[[], Awaitable[T]]) -> T:
        """Return what *read* returns, if *caller* may have all of *wanted*; it runs while that is being recorded.

        Raises:
            Denied, AuditUnavailable: as `permit`.
            Undecipherable: of *read*; that, too, was recorded.
        """
        acts = [Act(action, name) for name in wanted]
        if any(not decide(self._deciders, caller.principal, action, name) for name in wanted):
            await self.permit_each(caller, acts)  # says no, and records it
        if len(acts) > MANY:
            await asyncio.sleep(0)
        recorded = self._audit.append(*_records(caller, acts or [Act(action, "")], "allowed"))
        caller.allowed += tuple(acts)
        try:
            return await read()
        except Undecipherable as error:
            await self.failed(caller, action, error.name, error.reason)
            raise
        finally:
            await recorded

    async def failed(self, caller: Caller, action: Action, name: str, reason: str) -> None:
        """Record that an act that was allowed did not succeed, and why.

        Raises:
            AuditUnavailable: it cannot be recorded.
        """
        await self._audit.append(*_records(caller, [Act(action, name)], "failed", reason))
        caller.ended = True

    async def note(self, caller: Caller, action: Action, name: str) -> None:
        """Record an act that nobody who is known is refused.

        Raises:
            AuditUnavailable: it cannot be recorded.
        """
        await self._audit.append(*_records(caller, [Act(action, name)], "allowed"))

    async def end(self, caller: Caller, error: ServiceError, method: str, path: str, *, expected: bool = True) -> None:
        """Record that a request came to nothing, unless it has been recorded.

        What it was allowed failed; where nobody can tell what became of a write, that is said. Where nothing was
        decided on yet, the request itself is refused.

        Args:
            caller: whose request it is.
            error: what it is answered with.
            method: of the request.
            path: as it was read; as it was sent, where it cannot be.
            expected: it is an error of ours; of others nobody can tell how far a write had come.

        Raises:
            AuditUnavailable: it cannot be recorded.
        """
        if caller.ended or isinstance(error, AuditUnavailable):
            return
        caller.ended = True
        reason = f"{error.code}: {error}"
        if caller.allowed:
            acts = list(dict.fromkeys(caller.allowed))
            unknown = not expected and any(act.action in (Action.PUT, Action.DELETE) for act in acts)
            await self._audit.append(*_records(caller, acts, "unknown" if unknown else _outcome(error), reason))
            return
        decision: Decision = (
            "denied" if isinstance(error, Denied) else "failed" if problem_of(error).status == 500 else "refused"
        )
        await self.turn_away(_refusal(caller, method, path, decision, reason))

    async def turn_away(self, *refusals: Refusal) -> None:
        """Record that somebody was turned away, with the others of a second.

        Raises:
            AuditUnavailable: it cannot be recorded.
        """
        await self._refusals.turn_away(*refusals)

    async def _record_refusals(self, refusals: Sequence[Refusal]) -> None:
        await self._audit.append(*map(_record_of, refusals))


class Service:
    """All that can be done to records, whoever asks and however."""

    def __init__(
        self,
        *,
        secrets: Discreet,
        routing: Routing,
        keys: ApiKeys,
        deciders: Sequence[Decider],
        audit: AuditLog,
        large_answers: LargeAnswers | None = None,
        proxy: str = "",
    ) -> None:
        """Take the parts; *secrets* must be an encrypting backend, which the bootstrap sees to.

        *proxy* is the principal that may report whom it turned away.
        """
        self._large_answers = large_answers or LargeAnswers()
        self._secrets = secrets
        self._routing = routing
        self._keys = keys
        self._door = Door(deciders, audit)
        self._proxy = proxy
        self._namespaces = [decider for decider in deciders if isinstance(decider, UserNameSpace)]

    async def close(self) -> None:
        """Write down who was counted and not told yet."""
        await self._door.close()

    def door(self, decider: Decider) -> Door:
        """Return a door for something beside records, at which *decider* has to agree, too."""
        return self._door.narrowed(decider)

    # Secrets

    async def get(self, caller: Caller, name: str) -> Entry:
        """Return the secret *name*: its value and its revision.

        Raises:
            Denied, NotFound, Undecipherable, Locked, Unavailable, AuditUnavailable
        """
        entry = await self._door.read(caller, Action.GET, [name], lambda: self._secrets.get(name))
        if entry is None:
            raise NotFound("there is no such secret")
        return entry

    @asynccontextmanager
    async def read_many(self, caller: Caller, wanted: Sequence[str]) -> AsyncIterator[Values]:
        """Give the secrets *wanted*, one by one; if one may not be read or does not open, none is.

        All is decided, recorded, and found to open before the first is given. Of a large answer no value is in memory
        in the clear before its turn, and it is the only one of its worker, until this is left: when it was handed over.

        Raises:
            Invalid: a name stands twice.
            TooLarge: they take more than `wire.MAX_BATCH_STORED` bytes in the store; nothing was decrypted.
            Denied, Undecipherable, Locked, Unavailable, AuditUnavailable
        """
        check_distinct(wanted)
        if not wanted:
            await self._door.note(caller, Action.GET, ROOT)
            yield Values([], {})
            return
        async with AsyncExitStack() as stack:

            async def read() -> Values:
                # PERF: what is small is opened at once, for there is no need to look at it twice.
                with suppress(TooLarge):
                    found = await self._secrets.get_many(wanted, limit=LARGE_ANSWER)
                    return Values(wanted, found)
                turn = await stack.enter_async_context(await self._large_answers.begin(caller.holder))
                return Values(wanted, await self._secrets.get_closed(wanted, limit=MAX_BATCH_STORED), turn)

            yield await self._door.read(caller, Action.GET, wanted, read)

    async def get_many(self, caller: Caller, wanted: Sequence[str]) -> Mapping[str, Entry]:
        """Return those of *wanted* that exist, all of them in memory; raises what `read_many` does."""
        async with self.read_many(caller, wanted) as values:
            return {name: entry async for name, entry in values if entry is not None}

    async def put(self, caller: Caller, name: str, value: bytes, expected: int) -> int:
        """Write a secret into an existing container and return its revision.

        *expected* is ABSENT (create), PRESENT (replace) or the revision to replace.

        Raises:
            Denied, NoContainer, Exists, Changed, Locked, Unavailable, AuditUnavailable
        """
        await self._door.permit(caller, Action.PUT, [name])
        container = names.container_of(name)
        write = Put(name, value, expected)
        try:
            return await self._secrets.commit([write, Check(container, PRESENT)])
        except Conflict as conflict:
            if write in conflict.failed:
                raise _not_as_expected(expected) from None
        if container != self._own_container(caller.principal):
            raise NoContainer("the container does not exist")
        # Custodia makes a principal's own container when it is the one thing missing.
        try:
            return await self._secrets.commit([write, Put(container, b"", ABSENT)])
        except Conflict:
            return await self.put(caller, name, value, expected)

    async def delete(self, caller: Caller, name: str, expected: int = PRESENT) -> None:
        """Remove a secret.

        Raises:
            Denied, NotFound, Changed, Unavailable, AuditUnavailable
        """
        await self._door.permit(caller, Action.DELETE, [name])
        try:
            await self._secrets.commit([Delete(name, expected)])
        except Conflict:
            if expected == PRESENT:
                raise NotFound("there is no such secret") from None
            raise _not_as_expected(expected) from None

    # Containers

    def own_container(self, caller: Caller) -> str | None:
        """Return the caller's default container (Custodia's default namespace), where one is configured."""
        return self._own_container(caller.principal)

    async def create_container(self, caller: Caller, name: str) -> bool:
        """See to it that container *name* exists; return whether it is new.

        Raises:
            Denied, NoContainer (its parent), Unavailable, AuditUnavailable
        """
        await self._door.permit(caller, Action.PUT, [name])
        parent = names.container_of(name)
        write = Put(name, b"", ABSENT)
        try:
            await self._secrets.commit([write] if parent == ROOT else [write, Check(parent, PRESENT)])
        except Conflict as conflict:
            if write in conflict.failed:
                return False
            raise NoContainer("the container's own container does not exist") from None
        return True

    async def list_container(self, caller: Caller, name: str) -> list[str]:
        """Return what `listing` yields, all of it in memory; raises what `listing` does."""
        return [inner async for page in await self.listing(caller, name) for inner in page]

    async def listing(self, caller: Caller, name: str) -> Listing:
        """Return all names in container *name*, relative to it, in order; containers in it keep their slash.

        Raises:
            Denied, NotFound, Unavailable, AuditUnavailable
        """

        async def read() -> Listing:
            return Listing(self._secrets, name, await self._secrets.list(name))

        return await self._door.read(caller, Action.LIST, [name], read)

    async def containers(self, caller: Caller) -> Containers:
        """Return the containers that lie in no other, in order, each with its slash.

        Raises:
            Denied, Unavailable, AuditUnavailable
        """

        async def read() -> Containers:
            return Containers(self._secrets, await self._secrets.list(ROOT))

        return await self._door.read(caller, Action.LIST, [ROOT], read)

    async def delete_container(self, caller: Caller, name: str) -> None:
        """Remove an empty container.

        Raises:
            Denied, NotFound, NotEmpty, Unavailable, AuditUnavailable
        """
        await self._door.permit(caller, Action.DELETE, [name])
        removal = Delete(name, PRESENT)
        try:
            await self._secrets.commit([removal, Vacant(name)])
        except Conflict as conflict:
            if removal in conflict.failed:
                raise NotFound("there is no such container") from None
            raise NotEmpty("the container is not empty") from None

    # Records of models

    async def save(
        self, caller: Caller, records: Sequence[Model], expected: Sequence[int | None]
    ) -> list[Stored[Model]]:
        """Write *records* by the handlers that keep them, and return them with their revisions.

        What one handler keeps is written as `Handler.save_many` says; one handler comes after another.

        Raises:
            Denied, Invalid, TooLarge, Changed, Locked, Unavailable, AuditUnavailable
        """
        handlers = [self._routing.handler_for(record) for record in records]
        await self._door.permit(caller, Action.PUT, [record.record_name for record in records])
        saved: dict[int, Stored[Model]] = {}
        for handler, places in _by_handler(handlers):
            with _done(caller, [Act(Action.PUT, records[place].record_name) for place in places]):
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
        self, caller: Caller, model: type[Model], wanted: Sequence[Reference]
    ) -> tuple[list[Stored[Model] | None], Turn | None]:
        """Return what `fetch` does, and of a large answer the turn, which its caller ends when it was handed over."""
        check_distinct(wanted)
        handlers = [self._routing.handler_of(model, reference.source) for reference in wanted]

        async def read(limit: int) -> list[Stored[Model] | None]:
            found: dict[int, Stored[Model] | None] = {}
            for handler, places in _by_handler(handlers):
                stored = await handler.get_many(model, [wanted[place].key for place in places], limit)
                found.update(zip(places, stored, strict=True))
            return [found[place] for place in range(len(wanted))]

        full = [_name_of(model, reference) for reference in wanted]
        return await self._door.read(caller, Action.GET, full, lambda: self._large_answers.made(caller.holder, read))

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
            with _done(caller, [Act(Action.DELETE, full[place]) for place in places]):
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

        async def read() -> RecordPage[Model]:
            with suppress(TooLarge):
                return await handler.list(model, after, limit, LARGE_ANSWER)
            return await handler.list(model, after, 1)

        return await self._door.read(caller, Action.LIST, [model.prefix()], read)

    async def list_record_keys(
        self, caller: Caller, model: type[Model], after: str | None, limit: int, source: str = ""
    ) -> KeyPage:
        """Return a page of the keys of what `list_records` reads, of records that are not valid, too.

        Raises:
            Denied, Invalid, Unavailable, AuditUnavailable
        """
        handler = self._routing.handler_of(model, source)
        return await self._door.read(caller, Action.LIST, [model.prefix()], lambda: handler.keys(model, after, limit))

    def handlers(self) -> Sequence[HandlerInfo]:
        """Return which models are kept where."""
        return self._routing.handlers()

    # API keys

    async def create_key(
        self, caller: Caller, key_id: str, paths: Sequence[str], actions: Sequence[str]
    ) -> tuple[Secret, ApiKeyRecord]:
        """Make an API key that reaches no further than the caller's own.

        Raises:
            Denied, Invalid, Exists, Unavailable, AuditUnavailable
        """
        name, reach = _key_name(key_id), caller.principal
        await self._door.expect(caller, Action.PUT, [name])
        if not (set(actions) <= reach.actions and all(covers(reach.paths, path) for path in paths)):
            await self._door.deny(caller, Action.PUT, name, "it would reach further than the key that makes it")
            raise Denied("a key reaches no further than the key that makes it")
        await self._door.permit(caller, Action.PUT, [name])
        return await self._keys.create(key_id, paths, actions)

    async def list_keys(self, caller: Caller) -> list[tuple[str, ApiKeyRecord]]:
        """Return all API keys: who has access, not with what.

        Raises:
            Denied, Unavailable, AuditUnavailable
        """
        return await self._door.read(caller, Action.LIST, [names.APIKEYS], self._keys.list)

    async def revoke_key(self, caller: Caller, key_id: str) -> None:
        """End an API key that reaches no further than the caller's own, at once and everywhere.

        Raises:
            Denied, Invalid, NotFound, Unavailable, AuditUnavailable
        """
        name, reach = _key_name(key_id), caller.principal
        await self._door.expect(caller, Action.DELETE, [name])
        if reach.id == f"apikey:{key_id}":
            await self._door.deny(caller, Action.DELETE, name, "a key does not revoke itself")
            raise Invalid("a key does not revoke itself")
        await self._door.permit(caller, Action.DELETE, [name])
        if not reach.is_whole:  # who reaches everything ends what is damaged, too
            record = await self._keys.record(key_id)
            if not (set(record.actions) <= reach.actions and all(covers(reach.paths, path) for path in record.paths)):
                raise Denied("a key ends no key that reaches further than itself")
        await self._keys.revoke(key_id)

    # Decide, record, act

    async def turn_away(self, refusal: Refusal) -> None:
        """Record that somebody unknown was turned away, with the others of a second.

        Raises:
            AuditUnavailable: it cannot be recorded.
        """
        await self._door.turn_away(refusal)

    async def check_audit(self) -> None:
        """Return if acts can be recorded.

        Raises:
            AuditUnavailable: they cannot, so that every act is refused.
        """
        await self._door.check_audit()

    def check_is_proxy(self, caller: Caller) -> None:
        """Return if *caller* is the proxy.

        Raises:
            Denied: it is not.
        """
        if caller.principal.id != self._proxy:
            raise Denied("that is the proxy's to tell")

    async def take_report(self, caller: Caller, refusals: Sequence[Refusal]) -> None:
        """Record whom the proxy turned away, with the others.

        Raises:
            Denied: *caller* is not the proxy.
            AuditUnavailable: it cannot be recorded.
        """
        self.check_is_proxy(caller)
        await self._door.turn_away(*refusals)

    async def end(self, caller: Caller, error: ServiceError, method: str, path: str, *, expected: bool = True) -> None:
        """Record that a request of *caller* came to nothing, as `Door.end`."""
        await self._door.end(caller, error, method, path, expected=expected)

    async def note(self, caller: Caller, action: Action, name: str) -> None:
        """Record an act that nobody who is known is refused.

        Raises:
            AuditUnavailable: it cannot be recorded.
        """
        await self._door.note(caller, action, name)

    def reaches(self, caller: Caller, action: Action, name: str) -> bool:
        """Whether *caller* may do it, for who tells more to some; nothing is recorded."""
        return self._door.reaches(caller, action, name)

    async def allow(self, caller: Caller, action: Action, name: str) -> None:
        """Decide and record an act that has no record of its own behind it (the ping, a status).

        Raises:
            Denied, AuditUnavailable
        """
        await self._door.permit(caller, action, [name])

    async def expect(self, caller: Caller, action: Action, wanted: Sequence[str]) -> None:
        """Refuse, and record that, what would be refused to *caller* anyway: before a body is read, say.

        Raises:
            Denied, AuditUnavailable
        """
        await self._door.expect(caller, action, wanted)

    async def expect_some(self, caller: Caller, action: Action, below: str) -> None:
        """Refuse, and record that, who could name nothing that begins with *below*: where a body has the names.

        Raises:
            Denied, AuditUnavailable
        """
        await self._door.expect_some(caller, action, below)

    async def failed(self, caller: Caller, action: Action, name: str, reason: str) -> None:
        """Record that an act that was allowed did not succeed, and why.

        Raises:
            AuditUnavailable: it cannot be recorded.
        """
        await self._door.failed(caller, action, name, reason)

    def _own_container(self, principal: Principal) -> str | None:
        for namespace in self._namespaces:
            return f"{namespace.path.strip('/')}/{principal.namespace}/".lstrip("/")
        return None


def check_distinct(wanted: Sequence[object]) -> None:
    """Refuse to answer one name more than once.

    Raises:
        Invalid: one stands twice.
    """
    if len(set(wanted)) < len(wanted):
        raise Invalid("a name stands twice")


def _not_as_expected(expected: int) -> Exists | Changed:
    """Return why a secret was not written or removed that was to be at the revision *expected*."""
    if expected == ABSENT:
        return Exists("the secret exists already")
    if expected == PRESENT:
        return Changed("there is no such secret to replace")
    return Changed("the secret is not at the revision that was expected")


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


@contextmanager
def _done(caller: Caller, acts: Sequence[Act]) -> Iterator[None]:
    """Do *acts* inside: those that are done are none of those of *caller* that a later error is told of."""
    done = len(acts)
    try:
        yield
    except ServiceError as error:
        done = error.applied
        raise
    except BaseException:
        done = 0
        raise
    finally:
        finished = set(acts[:done])
        caller.allowed = tuple(act for act in caller.allowed if act not in finished)


def _outcome(error: ServiceError) -> str:
    """Return what an act that was allowed came to."""
    if isinstance(error, Denied):
        return "denied"
    if isinstance(error, Unavailable):
        return {Fate.UNKNOWN: "unknown", Fate.APPLIED: "allowed", Fate.NOT_APPLIED: "failed"}[error.fate]
    return "failed"


def _records(caller: Caller, acts: Sequence[Act], decision: str, reason: str | None = None) -> list[AuditRecord]:
    return [_record(caller, action.value, name, decision, reason) for action, name in acts]


def _record(caller: Caller, action: str, name: str, decision: str, reason: str | None) -> AuditRecord:
    return AuditRecord(
        caller.request_id,
        caller.principal.id,
        action,
        name,
        decision,
        reason,
        caller.on_behalf_of,
        None if caller.peer is None else caller.peer._asdict(),
        caller.address,
    )


def _refusal(caller: Caller, action: str, name: str, decision: Decision, reason: str) -> Refusal:
    return Refusal(
        request=caller.request_id,
        action=action,
        name=bounded(name),
        reason=reason,
        decision=decision,
        principal=caller.principal.id,
        on_behalf_of=caller.on_behalf_of,
        address=caller.address,
        peer=None if caller.peer is None else caller.peer._asdict(),
    )


def _record_of(refusal: Refusal) -> AuditRecord:
    return AuditRecord(
        refusal.request,
        bounded(refusal.principal),
        bounded(refusal.action),
        bounded(refusal.name),
        refusal.decision,
        bounded(refusal.reason) or None,
        refusal.on_behalf_of,
        refusal.peer,
        None if refusal.address is None else bounded(refusal.address),
        [bounded(each) for each in refusal.claimed[:MAX_CLAIMED]],
        refusal.count,
    )


def _key_name(key_id: str) -> str:
    try:
        return names.check(names.APIKEYS + key_id)
    except InvalidName:
        raise Invalid("that is no API id") from None

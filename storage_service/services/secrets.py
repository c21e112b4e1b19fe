"""The tree of secrets, as Custodia has it: containers, the secrets in them, and batches of secrets.

PERF: a get is the path that is measured (docs/adr/0019): it goes through the door and to the store, and nothing else.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Final, TypeAlias

from strongroom.models import names
from strongroom.storage_service.access.base import Action
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
from strongroom.storage_service.backends.closed import Closed, Discreet
from strongroom.storage_service.errors import Changed, Denied, Exists, NoContainer, NotEmpty, NotFound, TooLarge
from strongroom.storage_service.services.door import Caller, Door, check_distinct
from strongroom.storage_service.services.large_answers import LargeAnswers
from strongroom.storage_service.turns import Turn, Turns
from strongroom.storage_service.wire import LARGE_ANSWER, MAX_BATCH_STORED

ROOT: Final = names.SECRETS  # the top of the secrets tree: neither a secret nor a container
_SOME: Final = 32  # containers that are looked for at once


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


See: TypeAlias = Callable[[Sequence[str]], Awaitable[Sequence[str]]]
"""What returns those of some names that may be seen, in their order."""


async def _all(wanted: Sequence[str]) -> Sequence[str]:
    return wanted


class Listing:
    """The names in a container, relative to it, in pages: to be gone through once, as fast as somebody takes them.

    So much of a container is in memory as one page holds, and others get their turn between two of them.
    """

    def __init__(self, backend: Backend, container: str, first: Page, see: See = _all) -> None:
        """Take the first page of *container*, and what says which of some names are to be seen.

        Raises:
            NotFound: there is no such container; its own marker sorts before everything in it.
        """
        if first.names[:1] != (container,):
            raise NotFound("there is no such container")
        self._backend = backend
        self._container = container
        self._see = see
        self._page = Page(first.names[1:], first.more)

    @property
    def large(self) -> bool:
        """Whether there is more than the first page."""
        return self._page.more

    async def __aiter__(self) -> AsyncIterator[Sequence[str]]:
        page, after = self._page, self._container
        while True:
            yield [name.removeprefix(self._container) for name in await self._see(page.names)]
            if not page.more:
                return
            after = page.names[-1] if page.names else after
            await asyncio.sleep(0)
            page = await self._backend.list(self._container, after)


class Containers:
    """The containers at the top, in pages, like a `Listing`; what lies in them is passed over, however much it is."""

    def __init__(self, backend: Backend, first: Page, see: See = _all) -> None:
        """Take the first page of all secrets, and what says which of some names are to be seen."""
        self._backend = backend
        self._see = see
        self._page = first

    @property
    def large(self) -> bool:
        """Whether there is more than the first page."""
        return self._page.more

    async def __aiter__(self) -> AsyncIterator[Sequence[str]]:
        page = self._page
        while True:
            tops = dict.fromkeys(name.removeprefix(ROOT).partition("/")[0] for name in page.names)
            yield [name.removeprefix(ROOT) for name in await self._see([f"{ROOT}{top}/" for top in tops])]
            if not page.more:
                return
            await asyncio.sleep(0)
            page = await self._backend.list(ROOT, names.past(f"{ROOT}{next(reversed(tops))}/"))


class Reached:
    """Those of some containers that exist, by their names below the root, like a `Listing`."""

    def __init__(self, backend: Backend, wanted: Sequence[str]) -> None:
        """Take the names of the containers, in order."""
        self._backend = backend
        self._wanted = wanted

    @property
    def large(self) -> bool:
        """Whether there may be more than one page."""
        return len(self._wanted) > _SOME

    async def __aiter__(self) -> AsyncIterator[Sequence[str]]:
        for start in range(0, len(self._wanted), _SOME):
            some = self._wanted[start : start + _SOME]
            found = await asyncio.gather(*[self._backend.list(name, limit=1) for name in some])
            yield [name.removeprefix(ROOT) for name, page in zip(some, found, strict=True) if page.names[:1] == (name,)]


class SecretService:
    """All that can be done to secrets and their containers."""

    def __init__(self, door: Door, secrets: Discreet, large_answers: LargeAnswers | None = None) -> None:
        """Take the parts; *secrets* must be an encrypting backend, which the bootstrap sees to."""
        self._door = door
        self._secrets = secrets
        self._large_answers = large_answers or LargeAnswers()

    async def expect(self, caller: Caller, action: Action, name: str) -> None:
        """Refuse, and record that, what would be refused to *caller* anyway: before a body is read.

        Raises:
            Denied, AuditUnavailable
        """
        await self._door.expect(caller, action, [name])

    async def expect_some(self, caller: Caller, action: Action) -> None:
        """Refuse, and record that, who may do *action* to no secret at all: where a body has the names.

        Raises:
            Denied, AuditUnavailable
        """
        await self._door.expect_some(caller, action, ROOT)

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
            Invalid: a name appears twice.
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
        await self._door.permit(caller, Action.CREATE if expected == ABSENT else Action.MODIFY, [name])
        container = names.container_of(name)
        write = Put(name, value, expected)
        try:
            return await self._secrets.commit([write, Check(container, PRESENT)])
        except Conflict as conflict:
            if write in conflict.failed:
                raise _not_as_expected(expected) from None
        if container != self._door.own_container(caller.principal):
            raise NoContainer("the container does not exist")
        # Custodia makes a principal's own container when it is the one thing missing.
        try:
            return await self._secrets.commit([write, Put(container, b"", ABSENT)])
        except Conflict:
            return await self.put(caller, name, value, expected)

    async def delete(self, caller: Caller, name: str, expected: int = PRESENT) -> None:
        """Remove a secret; one that is *expected* to be absent is looked for, and removed in no case.

        Raises:
            Denied, NotFound, Changed, Unavailable, AuditUnavailable
        """
        await self._door.permit(caller, Action.DELETE, [name])
        try:
            await self._secrets.commit([Check(name, PRESENT) if expected == ABSENT else Delete(name, expected)])
        except Conflict:
            if expected in (PRESENT, ABSENT):
                raise NotFound("there is no such secret") from None
            raise _not_as_expected(expected) from None
        if expected == ABSENT:
            raise Changed("the secret is there, and If-None-Match says that there is none")

    # Containers

    def own_container(self, caller: Caller) -> str | None:
        """Return the caller's default container (Custodia's default namespace), where one is configured."""
        return self._door.own_container(caller.principal)

    async def create_container(self, caller: Caller, name: str) -> bool:
        """See to it that container *name* exists; return whether it is new.

        Raises:
            Denied, NoContainer (its parent), Unavailable, AuditUnavailable
        """
        await self._door.permit(caller, Action.CREATE, [name])
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
            see = functools.partial(self._door.visible, caller)
            return Listing(self._secrets, name, await self._secrets.list(name), see)

        return await self._door.read(caller, Action.LIST, [name], read)

    async def page(self, caller: Caller, name: str, after: str, limit: int) -> list[str]:
        """Return the next *limit* names of `listing`, fewer at the end: those that sort behind *after*.

        Raises:
            Denied, NotFound, Unavailable, AuditUnavailable
        """

        async def read() -> list[str]:
            found: list[str] = []
            behind, more, any_there = name + after, True, False
            while more and len(found) < limit:
                page = await self._secrets.list(name, behind, limit - len(found))
                found += await self._door.visible(caller, page.names)
                behind, more = page.names[-1] if page.names else behind, page.more
                any_there = any_there or bool(page.names)
                await asyncio.sleep(0)
            if not any_there:
                Listing(self._secrets, name, await self._secrets.list(name, limit=1))  # says so where there is none
            return [each.removeprefix(name) for each in found]

        return await self._door.read(caller, Action.LIST, [name], read)

    async def containers(self, caller: Caller, after: str = "") -> Containers | Reached:
        """Return the containers at the top of what the caller may list, in order, each with its slash.

        For who may list all, that is those that lie in no other; else the outermost that it may list. *after* is the
        name of one, which they sort behind.

        Raises:
            Denied, Unavailable, AuditUnavailable
        """
        tops = await self._door.tops(caller, Action.LIST, ROOT)
        if not tops:
            await self._door.deny(caller, Action.LIST, ROOT, "it may list no container")
            raise Denied("outside what these credentials reach")
        wanted = [top for top in tops if top > ROOT + after]

        async def read() -> Containers | Reached:
            if tops != [ROOT]:
                return Reached(self._secrets, wanted)
            top, slash, _ = after.partition("/")
            behind = names.past(f"{ROOT}{top}/") if slash else f"{ROOT}{top}"
            first = await self._secrets.list(ROOT, behind)
            return Containers(self._secrets, first, functools.partial(self._door.visible, caller))

        return await self._door.read(caller, Action.LIST, wanted or tops, read)

    async def containers_page(self, caller: Caller, after: str, limit: int) -> list[str]:
        """Return the next *limit* names of `containers`, fewer at the end; raises what `containers` does."""
        found: list[str] = []
        async for some in await self.containers(caller, after):
            found += some
            if len(found) >= limit:
                break
        return found[:limit]

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


def _not_as_expected(expected: int) -> Exists | Changed:
    """Return why a secret was not written or removed that was to be at the revision *expected*."""
    if expected == ABSENT:
        return Exists("the secret exists already")
    if expected == PRESENT:
        return Changed("there is no such secret to replace")
    return Changed("the secret is not at the revision that was expected")

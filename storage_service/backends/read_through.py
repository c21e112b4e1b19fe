"""While a source is half moved: what the store does not have is looked up where it still lies.

The old place is another system, of which nothing is known here but how to ask it (`OldPlace`): it may be down, or hold
what is no text, and neither is ever told as "there is none". What is found there has the revision of what does not
exist, so that saving it back creates it, and fails if it has moved meanwhile. What is removed leaves a tombstone

    system/journal/read_through/secrets/hosts/10.0.0.7

in the same commit, and where there is one, the old place is not asked. Why it is so: docs/adr/0016.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from functools import partial
from typing import Final, Protocol, TypeGuard, TypeVar

from strongroom.models.names import SECRETS, TOMBSTONES, is_container
from strongroom.storage_service.backends.base import (
    ABSENT,
    MAX_PAGE,
    PRESENT,
    Change,
    Check,
    Conflict,
    Delete,
    Entry,
    Page,
    Put,
    Vacant,
    check_batch,
    check_size,
    not_applied,
)
from strongroom.storage_service.backends.closed import Closed, Discreet
from strongroom.storage_service.errors import Unavailable, Undecipherable

ATTEMPTS: Final = 8  # at one batch, while others move its records
AT_ONCE: Final = 16  # names of which an old place is asked at a time where their values may not be many bytes
DEADLINE: Final = 5.0  # seconds that an old place has to open, or to answer

log = logging.getLogger(__name__)

T = TypeVar("T")


class OldPlace(Protocol):
    """Another system, in which records still lie that the store does not have."""

    @property
    def identity(self) -> str:
        """Which one: the same words for the same source, and no credential in them."""

    async def open(self) -> None:
        """Connect; called on the event loop that will ask, again after each time it was refused.

        Raises:
            Unavailable: it does not answer, or does not accept us.
            ConfigurationError: it is not what it was said to be.
        """

    async def close(self) -> None:
        """Let go of everything; a second call does nothing."""

    async def find(self, names: Sequence[str]) -> Mapping[str, str | None]:
        """Return what each of *names* that is there would have as its stored value; None: it is there, but malformed.

        At most `MAX_PAGE` names.

        Raises:
            Unavailable: it does not answer, or does not accept us.
        """


class OldPlaces:
    """Old places, asked one after the other; *count* says how many records were read there since the start."""

    def __init__(self, places: Iterable[OldPlace], deadline: float = DEADLINE) -> None:
        """Take the places, unopened, and the seconds that each has for an answer."""
        self._places = [_Place(place, deadline) for place in places]
        self.count = 0

    @property
    def identities(self) -> list[str]:
        """Which they are, in the order in which they are asked."""
        return [place.identity for place in self._places]

    async def open(self) -> None:
        """Open those that answer; each of the others is opened when it is first asked.

        Raises:
            ConfigurationError: one is not what it was said to be.
        """
        for place in self._places:
            try:
                await place.open()
            except Unavailable:
                continue  # it has been logged; the service has more to serve than what lies there

    async def close(self) -> None:
        """Close all of them."""
        for place in self._places:
            await place.close()

    async def find(self, names: Sequence[str]) -> Mapping[str, Entry]:
        """Return those of *names* that lie in an old place, each as the first that has it tells it.

        Raises:
            Unavailable: one that may have it does not answer.
            Undecipherable: one is malformed there.
        """
        found: dict[str, Entry] = {}
        for place in self._places:
            wanted = [name for name in names if name not in found]
            if wanted:
                found |= {name: _entry(name, value) for name, value in (await place.find(wanted)).items()}
        if found and not self.count:
            log.info("the first record was read where it still lies; what has not moved is told by: migrate status")
        self.count += len(found)
        return found


class _Place:
    """One old place: opened when it can be, and asked no longer than it may take."""

    def __init__(self, place: OldPlace, deadline: float) -> None:
        self._place = place
        self._deadline = deadline
        self._opening = asyncio.Lock()
        self._opened = False
        self._answers = True

    @property
    def identity(self) -> str:
        return self._place.identity

    async def open(self) -> None:
        async with self._opening:
            if not self._opened:
                await self._ask(self._place.open())
                self._opened = True

    async def close(self) -> None:
        self._opened = False
        await self._place.close()

    async def find(self, names: Sequence[str]) -> Mapping[str, str | None]:
        if not self._opened:
            await self.open()
        found = await self._ask(self._place.find(names))
        return {name: found[name] for name in names if name in found}

    async def _ask(self, question: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._deadline):
                answer = await question
        except TimeoutError:
            raise self._silent("it took too long") from None
        except Unavailable as error:
            raise self._silent(str(error)) from None
        self._answers = True
        return answer

    def _silent(self, why: str) -> Unavailable:
        if self._answers:
            log.warning("what has not moved cannot be read: %s does not answer: %s", self.identity, why)
        self._answers = False
        return not_applied("an old place does not answer")


class ReadThroughBackend:
    """A backend in which secrets that lie in an old place seem to be, until they are written or removed.

    The backend within encrypts. Listings show what it has, and no more. Of a commit, a guard `PRESENT` holds for what
    lies in an old place, too, and a guard `ABSENT` as well: it is at that revision.

    Besides what the backend within raises, everything but `list` raises `Unavailable`, not applied, when an old place
    does not answer, and `Undecipherable` for what is malformed there.
    """

    def __init__(self, backend: Discreet, old: OldPlaces) -> None:
        self._backend = backend
        self._old = old

    def __repr__(self) -> str:
        return f"<ReadThroughBackend round {self._backend!r}>"

    @property
    def max_batch(self) -> int:
        """Changes in one commit, at most: a record brings its tombstone; always a record and its container."""
        return max(2, self._backend.max_batch // 2)

    async def open(self) -> None:
        """Open the backend within, and the old places."""
        await self._backend.open()
        await self._old.open()

    async def close(self) -> None:
        """Close the old places, and the backend within."""
        await self._old.close()
        await self._backend.close()

    async def get(self, name: str) -> Entry | None:
        """Return what is stored under *name*, here or else in an old place."""
        entry = await self._backend.get(name)
        if entry is None and _moves(name):
            here, there = await self._elsewhere([name])
            return here.get(name) or there.get(name)
        return entry

    async def get_many(self, names: Sequence[str], *, limit: int | None = None) -> Mapping[str, Entry]:
        """Return those of *names* that exist, here (as of one moment) or else in an old place.

        *limit* is of what is stored here, and again of what lies in old places.
        """
        found, there = await self._found(names, limit, partial(self._backend.get_many, names, limit=limit))
        return {**found, **there} if there else found

    async def get_closed(self, names: Sequence[str], *, limit: int | None = None) -> Mapping[str, Closed]:
        """Return those of *names* that exist, as `get_many`; what lies in an old place was never encrypted for us."""
        found, there = await self._found(names, limit, partial(self._backend.get_closed, names, limit=limit))
        return {**found, **{name: Closed.of(entry) for name, entry in there.items()}} if there else found

    async def list(self, prefix: str, after: str | None = None, limit: int = MAX_PAGE) -> Page:
        """Return a page of the names here."""
        return await self._backend.list(prefix, after, limit)

    async def commit(self, changes: Sequence[Change]) -> int:
        """Apply all of *changes* or none, and lay or lift the tombstones."""
        check_batch(changes)
        unmoved: set[str] = set()  # what was expected to be there, and lies in an old place
        for _ in range(ATTEMPTS):
            batch = [_with_tombstone(change, unmoved) for change in changes]
            try:
                return await self._backend.commit([part for parts in batch for part in parts])
            except Conflict as conflict:
                # The caller knows its own changes, not what became of them here.
                own = {id(part): place for place, parts in enumerate(batch) for part in parts}
                failed = [changes[place] for place in sorted({own[id(part)] for part in conflict.failed})]
            overtaken = {change.name for change in failed if _expects_any(change) and change.name in unmoved}
            doubtful = [change.name for change in failed if _expects_any(change) and change.name not in unmoved]
            here, there = await self._elsewhere(doubtful)
            found = {*here, *there}
            wrong = [change for change in failed if not (_expects_any(change) and change.name in {*overtaken, *found})]
            if wrong:
                raise Conflict(wrong)
            unmoved -= overtaken
            unmoved |= there.keys()
        raise not_applied("others keep moving the records of this batch")

    async def _found(
        self, names: Sequence[str], limit: int | None, read: Callable[[], Awaitable[Mapping[str, T]]]
    ) -> tuple[Mapping[str, T], Mapping[str, Entry]]:
        """Return what *read* finds of *names* here, and what of the rest lies in an old place.

        Raises:
            Unavailable: others moved one of them during every attempt.
        """
        for _ in range(ATTEMPTS):
            found = await read()
            moved, there = await self._elsewhere([name for name in names if name not in found and _moves(name)], limit)
            if not moved:
                return found, there
            # What has come here since was written in one commit, perhaps, with what *read* saw before that.
        raise not_applied("others keep moving these records")

    async def _elsewhere(
        self, missing: Sequence[str], limit: int | None = None
    ) -> tuple[Mapping[str, Entry], Mapping[str, Entry]]:
        """Return those of *missing*, which were not here, that are here by now, and those that lie in an old place.

        What an old place answers counts only if the record is neither here nor removed after that: so much can happen
        between two questions that it was removed, made anew (which lifts the tombstone), and has another value now.

        Raises:
            TooLarge: the values of either are more than *limit* bytes together.
        """
        buried = await self._buried(missing)
        wanted = [name for name in missing if name not in buried]
        found: dict[str, Entry] = {}
        # No old place tells beforehand what a value weighs: with a limit, they are asked little by little.
        size = max(1, len(wanted)) if limit is None else AT_ONCE
        for start in range(0, len(wanted), size):
            found |= await self._old.find(wanted[start : start + size])
            check_size(sum(len(entry.value) for entry in found.values()), limit)
        here: dict[str, Entry] = {}
        for start in range(0, len(wanted), MAX_PAGE // 2):
            asked = wanted[start : start + MAX_PAGE // 2]
            now = await self._backend.get_many([*asked, *(TOMBSTONES + name for name in asked)], limit=limit)
            here |= {name: now[name] for name in asked if name in now}
            check_size(sum(len(entry.value) for entry in here.values()), limit)
            for name in asked:
                if name in now or TOMBSTONES + name in now:
                    found.pop(name, None)
        return here, found

    async def _buried(self, names: Sequence[str]) -> Set[str]:
        """Return those of *names* that were removed."""
        tombstones = await self._backend.get_many([TOMBSTONES + name for name in names]) if names else {}
        return {tombstone.removeprefix(TOMBSTONES) for tombstone in tombstones}


def _moves(name: str) -> bool:
    """Whether what has that name may lie in an old place: a secret."""
    return name.startswith(SECRETS) and not is_container(name)


def _expects_any(change: Change) -> TypeGuard[Put | Delete | Check]:
    """Whether *change* expects a secret to be there, at whatever revision."""
    return not isinstance(change, Vacant) and change.expected == PRESENT and _moves(change.name)


def _with_tombstone(change: Change, unmoved: Set[str]) -> list[Change]:
    """Return what is to be done within for *change*; what is *unmoved* has to be so still."""
    if isinstance(change, Vacant) or not _moves(change.name):
        return [change]
    tombstone = TOMBSTONES + change.name
    if change.name in unmoved:
        if isinstance(change, Delete):
            return [Check(change.name, ABSENT), Put(tombstone, b"", ABSENT)]
        return [replace(change, expected=ABSENT), Check(tombstone, ABSENT)]
    if isinstance(change, Put):
        return [change, Delete(tombstone)]
    if isinstance(change, Delete):
        return [change, Put(tombstone, b"")]
    return [change]


def _entry(name: str, value: str | None) -> Entry:
    try:
        if value:
            return Entry(value.encode(), ABSENT)
    except UnicodeEncodeError:
        pass
    raise Undecipherable(name, "it is malformed in its old place")  # after the handler: its error holds the value

"""What another Strongroom holds, read past the records that it cannot open.

A service answers many at once or not at all: where it cannot, they are asked for in halves. Of plain records only those
that can be read have their keys told; so where one cannot, its key is found out, by asking what comes after others.
"""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from migration.errors import EstateRefused, EstateUnavailable
from migration.records import Record, plain_model
from models import LIST_MODELS, Host, ListModel, Model, names
from models.errors import InvalidName
from models.secret import Secret
from storage_service import wire
from storage_service.client import AsyncStorageClient
from storage_service.client.operations import Page
from storage_service.client.sealed_operations import Sealed
from storage_service.errors import Denied, Internal, Locked, NotAuthenticated, ServiceError, Unavailable

APIKEYS: Final = names.SYSTEM + "access/apikeys/"
SEALED: Final = (APIKEYS, names.SECRETS)

PAGE: Final = 200  # records in one question, at most
FIRST: Final = 16  # in the first: nobody knows how large they are
ENOUGH: Final = 4 * 1024 * 1024  # characters of values in one answer; if it has more, the next one is asked for fewer
UNREADABLE: Final = "unreadable"
"""The mark of what cannot be read."""

_LETTERS: Final = sorted("+-.0123456789:@ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz")  # of keys, in order
_LAST: Final = _LETTERS[-1] * 64  # no key comes after it

T = TypeVar("T")
R = TypeVar("R")


class Shelf(NamedTuple):
    """The plain records of one model that one storage handler keeps; "" stands for the model's own."""

    many: type[ListModel[Any]]
    handler: str = ""

    @property
    def model(self) -> type[Model]:
        """The model."""
        return self.many.item


class Found(NamedTuple):
    """What lies under a name, None if it cannot be read; its mark; and what of it stays behind."""

    record: Record | None
    mark: str
    notes: tuple[str, ...] = ()


SHELVES: Final = tuple(sorted(map(Shelf, LIST_MODELS.values()), key=lambda shelf: shelf.model.prefix()))
"""Every plain model, at its own handler."""


async def ask(call: Awaitable[T], where: str, *passing: type[ServiceError]) -> T:
    """Return what *call* answers; *passing* are errors that the caller knows what to do about.

    Raises:
        EstateUnavailable: the service at *where* does not answer, is locked, or cannot.
        EstateRefused: the key is wrong, or does not reach everything.
    """
    try:
        return await call
    except passing:
        raise
    except (Denied, NotAuthenticated):
        raise EstateRefused(
            f"{where} does not accept the API key for this: give one that reaches everything,"
            " such as the one in the client.json of its home, with -o client_file=PATH"
        ) from None
    except Locked:
        raise EstateUnavailable(f"{where} is locked; unlock it there with: strongroom key unlock") from None
    except Unavailable as error:
        raise EstateUnavailable(f"{where} does not answer: {error}") from None
    except ServiceError as error:
        raise EstateUnavailable(f"{where} answered with an error, and its log says why: {error}") from None


class Reading:
    """Reads one service."""

    def __init__(self, client: AsyncStorageClient, where: str) -> None:
        self._client = client
        self._where = where
        self._size = FIRST

    # What is sealed

    async def walk(self, prefix: str) -> AsyncIterator[tuple[str, Found]]:
        """Yield every name that begins with *prefix* and what lies there, in order of names."""
        after: str | None = None
        while True:
            page = await ask(self._client.list_sealed(prefix, after), self._where)
            async for name, found in self.sealed(page.names):
                yield name, found
            if not page.more:
                return
            after = page.names[-1]

    async def sealed(self, wanted: Sequence[str]) -> AsyncIterator[tuple[str, Found]]:
        """Yield those of *wanted* that exist, and what lies there; a name that nothing can have does not."""

        async def read(some: Sequence[str]) -> Sequence[Sealed | None]:
            return await ask(self._client.read_sealed(some), self._where, Internal)

        left = [name for name in wanted if _may_be_sealed(name)]
        while left:
            some, left = left[: self._size], left[self._size :]
            entries = await _in_halves(some, read)
            self._pace(sum(len(entry.value) for entry in entries if entry))
            for name, entry in zip(some, entries, strict=True):
                if entry is False:
                    yield name, Found(None, UNREADABLE)
                elif entry is not None and entry.etag != wire.NEW:  # what is read through to an old place lies there
                    yield name, Found(Record(name, entry.value), entry.etag)

    def _pace(self, characters: int) -> None:
        """Ask for as many at once as can be held without a thought."""
        self._size = max(1, self._size // 2) if characters > ENOUGH else min(PAGE, self._size * 2)

    # What is plain

    async def shelf(self, shelf: Shelf) -> AsyncIterator[tuple[str, Found]]:
        """Yield the name of every record of a shelf and what lies there, in order of keys."""
        after: str | None = None
        limit = PAGE
        while True:
            try:
                page = await self._page(shelf, after, limit)
            except Internal:
                if limit > 1:
                    limit //= 2
                    continue
                after = await self._unreadable_key(shelf, after or "")
                yield shelf.model.name_of(after), Found(None, UNREADABLE)
                limit = PAGE
                continue
            for model, etag in page.records:
                yield model.record_name, _found(model, etag)
            if page.after is None:
                return
            after, limit = page.after, min(PAGE, limit * 2)

    async def plain(self, wanted: Sequence[str], handler: str = "") -> AsyncIterator[tuple[str, Found]]:
        """Yield those plain records of *wanted* that exist, and what lies there, as `sealed` does."""
        by_model: dict[type[Model], list[str]] = {}
        for name in wanted:
            model = _model_of(name)
            if model is not None and (not handler or model is Host):
                by_model.setdefault(model, []).append(name)
        for model, several in by_model.items():
            read = functools.partial(self._stored, model, handler)
            for start in range(0, len(several), PAGE):
                some = several[start : start + PAGE]
                for name, stored in zip(some, await _in_halves(some, read), strict=True):
                    if stored is not None:
                        yield name, Found(None, UNREADABLE) if stored is False else _found(stored.model, stored.etag)

    async def _stored(self, model: type[Model], handler: str, wanted: Sequence[str]) -> Sequence[Any]:
        keys = [name.removeprefix(model.prefix()) for name in wanted]
        return await ask(self._client.get_many(model, keys, source=handler), self._where, Internal)

    async def _page(self, shelf: Shelf, after: str | None, limit: int) -> Page[Any]:
        call = self._client.page(shelf.many, after, limit=limit, source=shelf.handler)
        return await ask(call, self._where, Internal)

    # The keys of what cannot be read

    async def _unreadable_key(self, shelf: Shelf, after: str) -> str:
        """Return the key of the record that comes next after *after*, and is not told as it is no valid one.

        What comes next can be asked of any key, there or not, and is that record for as long as the key is less than
        its own; so its letters are found one after the other, each by bisection.

        Raises:
            EstateUnavailable: no record explains why the service does not answer.
        """
        key = ""
        if not await self._precedes(shelf, _LAST, after):
            while len(key) < len(_LAST):
                low, high = 0, len(_LETTERS)  # it comes after the key with each letter before low, not with high
                while low < high:
                    middle = (low + high) // 2
                    if await self._precedes(shelf, key + _LETTERS[middle], after):
                        low = middle + 1
                    else:
                        high = middle
                if low < len(_LETTERS) and await self._is_unreadable(shelf, key + _LETTERS[low]):
                    return key + _LETTERS[low]
                if low == 0:
                    break
                key += _LETTERS[low - 1]
        raise EstateUnavailable(f"{self._where} lists no {shelf.model.plural}; its log says why")

    async def _precedes(self, shelf: Shelf, key: str, after: str) -> bool:
        """Whether what comes next after *key* is what cannot be read, as it is after *after*."""
        if key <= after:
            return True
        if key.strip(".") == "" and len(key) < 3:  # no key: the last one before it stands for it
            key = key[:-1] + "-" + _LAST
        try:
            await self._page(shelf, key, 1)
        except Internal:
            return True
        return False

    async def _is_unreadable(self, shelf: Shelf, key: str) -> bool:
        found = self.plain([shelf.model.prefix() + key], shelf.handler)
        return any([each.record is None async for _, each in found])


async def _in_halves(wanted: Sequence[T], read: Callable[[Sequence[T]], Awaitable[Sequence[R | None]]]) -> Any:
    """Return what *read* answers for each of *wanted*, False for those that it cannot answer even alone."""
    if not wanted:
        return []
    try:
        return list(await read(wanted))
    except Internal:
        pass
    if len(wanted) == 1:
        return [False]
    middle = len(wanted) // 2
    return await _in_halves(wanted[:middle], read) + await _in_halves(wanted[middle:], read)


def _found(model: Model, etag: str) -> Found:
    """Return a plain record; which handler keeps a host is each service's own affair."""
    notes: tuple[str, ...] = ()
    if isinstance(model, Host) and model.source:
        model.source = ""
        notes = ("the field source stays behind: handlers have names of their own in each service",)
    return Found(Record(model.record_name, Secret(model.to_json().decode())), etag, notes)


def _is_name(text: str) -> bool:
    try:
        return names.check(text) == text
    except InvalidName:
        return False


def _may_be_sealed(name: str) -> bool:
    """Whether a secret, a container or an API key may have that name."""
    if not _is_name(name):
        return False
    if name.startswith(APIKEYS):
        return not names.is_container(name)
    if not name.startswith(names.SECRETS) or name == names.SECRETS:
        return False
    return names.is_container(name) or names.container_of(name) != names.SECRETS


def _model_of(name: str) -> type[Model] | None:
    """Return the plain model whose record may have that name; None: none may."""
    try:
        model = plain_model(names.check(name))
    except (InvalidName, KeyError):
        return None
    return None if names.is_container(name) else model

"""What another Strongroom holds, read past the records that it cannot open.

A service answers many at once or not at all: where it cannot, they are asked for in halves.
"""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from strongroom.migration.errors import SourceRefused, SourceUnavailable
from strongroom.migration.records import Record, plain_model
from strongroom.models import LIST_MODELS, Host, ListModel, Model, names
from strongroom.models.errors import InvalidName
from strongroom.models.secret import Secret
from strongroom.models.steps import Option, Step
from strongroom.storage_service import wire
from strongroom.storage_service.backends.base import pages
from strongroom.storage_service.client import AsyncStorageClient
from strongroom.storage_service.client.bulk_operations import BulkValue
from strongroom.storage_service.errors import Denied, Internal, Locked, NotAuthenticated, ServiceError, Unavailable

SEALED: Final = (names.APIKEYS, names.SECRETS)

PAGE: Final = 200  # records in one question, at most
FIRST: Final = 16  # in the first: nobody knows how large they are
ENOUGH: Final = 4 * 1024 * 1024  # characters of values in one answer; if it has more, the next one is asked for fewer
UNREADABLE: Final = "unreadable"
"""The mark of what cannot be read."""

T = TypeVar("T")
R = TypeVar("R")


class Where(NamedTuple):
    """A service to read: in words, and as the options that lead a verb to it."""

    words: str
    options: dict[str, Option]

    def __str__(self) -> str:
        return self.words


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


async def ask(call: Awaitable[T], where: Where, *passing: type[ServiceError]) -> T:
    """Return what *call* answers; *passing* are errors that the caller knows what to do about.

    Raises:
        SourceUnavailable: the service at *where* does not answer, is locked, or cannot.
        SourceRefused: the key is wrong, or does not reach everything.
    """
    try:
        return await call
    except passing:
        raise
    except (Denied, NotAuthenticated):
        raise SourceRefused(
            f"{where} does not accept the API key for this: give one that reaches everything,"
            " such as the one in the client.json of its home, with -o client_file=PATH"
        ) from None
    except Locked:
        raise SourceUnavailable(f"{where} is locked").advising(
            Step("unlock it there", "key unlock", where.options)
        ) from None
    except Unavailable as error:
        raise SourceUnavailable(f"{where} does not answer: {error}") from None
    except ServiceError as error:
        raise SourceUnavailable(f"{where} answered with an error, and its log says why: {error}") from None


class Reading:
    """Reads one service."""

    def __init__(self, client: AsyncStorageClient, where: Where) -> None:
        self._client = client
        self._where = where
        self._size = FIRST

    # What is sealed

    async def walk(self, prefix: str) -> AsyncIterator[tuple[str, Found]]:
        """Yield every name that begins with *prefix* and what lies there, in order of names."""
        async for page in pages(self._listed, prefix):
            async for name, found in self.sealed(page):
                yield name, found

    async def _listed(self, prefix: str, after: str | None, limit: int) -> wire.BulkPage:
        return await ask(self._client.list_bulk(prefix, after, limit), self._where)

    async def sealed(self, wanted: Sequence[str]) -> AsyncIterator[tuple[str, Found]]:
        """Yield those of *wanted* that exist, and what lies there; a name that nothing can have does not."""

        async def read(some: Sequence[str]) -> Sequence[BulkValue | None]:
            return await ask(self._client.read_bulk(some), self._where, Internal)

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
        while True:
            keys, after = await ask(self._client.list_keys(shelf.many, after, source=shelf.handler), self._where)
            async for name, found in self.plain([shelf.model.prefix() + key for key in keys], shelf.handler):
                yield name, found
            if after is None:
                return

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
    if name.startswith(names.APIKEYS):
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

"""Sources of a migration as old places: what the running service asks for secrets that have not moved yet."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from strongroom.migration.digest import Digest
from strongroom.migration.errors import SourceRefused, SourceUnavailable
from strongroom.migration.sources import open_source
from strongroom.migration.sources.base import Findable, Source
from strongroom.migration.sources.reading import fit_record
from strongroom.storage_service.backends.read_through import OldPlace
from strongroom.storage_service.config import ReadThroughSettings
from strongroom.storage_service.errors import ConfigurationError, Unavailable


class FindableSource(Source, Findable, Protocol):
    """A source that can be asked for a record by its name."""


def old_place(settings: ReadThroughSettings) -> OldPlace:
    """Return the old place that *settings* name, unopened.

    Raises:
        ConfigurationError: there is no such source, it does not understand its place or options, or it cannot be asked
            for a record by its name.
    """
    source = open_source(settings.source, settings.place, settings.options)
    if not isinstance(source, Findable):
        raise ConfigurationError(
            f"read_through: a source {settings.source!r} cannot be asked for a record by its name; move it whole, and"
            " take it out of the configuration"
        )
    return SourcePlace(source)


class SourcePlace:
    """A source as an old place."""

    def __init__(self, source: FindableSource) -> None:
        self._source = source

    def __repr__(self) -> str:
        return f"<SourcePlace {self.identity}>"

    @property
    def identity(self) -> str:
        """Which source it is."""
        return self._source.identity

    async def open(self) -> None:
        """Connect.

        Raises:
            Unavailable: it does not answer, or does not accept us.
            ConfigurationError: it is no source of its kind.
        """
        async with _answering():
            await self._source.open(Digest())

    async def close(self) -> None:
        """Let go of everything."""
        await self._source.close()

    async def find(self, names: Sequence[str]) -> Mapping[str, str | None]:
        """Return what each of *names* that is there would have as its stored value; None: it is malformed.

        Raises:
            Unavailable: it does not answer, or does not accept us.
        """
        async with _answering():
            there = await self._source.find(names)
        found = {name: None if record is None else fit_record(record) for name, record in there.items()}
        return {name: None if record is None else record.value.reveal() for name, record in found.items()}


@asynccontextmanager
async def _answering() -> AsyncIterator[None]:
    try:
        yield
    except (SourceUnavailable, SourceRefused) as error:
        raise Unavailable(str(error)).advising(*error.next) from None

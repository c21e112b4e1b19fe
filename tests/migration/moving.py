"""An estate and the service it moves into, brought together as the command does it: a process for each verb.

What both sides hold can be told, kept and laid down elsewhere, so that a story that began once is gone on with often.
"""

import copy
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from strongroom.migration.apply import Apply
from strongroom.migration.journal import Journal, new_run
from strongroom.migration.plan import plan
from strongroom.migration.records import is_sealed
from strongroom.migration.report import Report
from strongroom.migration.retries import Retries
from strongroom.migration.rollback import Rollback
from strongroom.migration.scrub import Scrub
from strongroom.migration.sources.base import Source
from strongroom.migration.status import Status, status
from strongroom.migration.target import Target
from strongroom.migration.verify import verify
from strongroom.models import Hosts, Networks, names
from strongroom.models.names import MIGRATION
from strongroom.storage_service.backends.base import Backend, Put, pages
from strongroom.storage_service.client import AsyncStorageClient
from tests.migration.house import house
from tests.migration.sources.memory import MALFORMED, MemoryEstate, MemorySource, Row

HASTY: Final = Retries(first=0.0)  # nobody pauses before trying again
TOGETHER: Final = 60  # rows in one commit of a copy


@dataclass
class Mover:
    """What the command does: each verb finds its run anew, opens a source of its own, and takes the lock.

    The lock is taken over from whoever has it: the dead of a test live in its own process.
    """

    client: AsyncStorageClient
    estate: MemoryEstate
    retries: Retries = HASTY
    source: MemorySource = field(init=False)  # the last one

    def __post_init__(self) -> None:
        self.source = self.estate.source()

    async def plan(self, **said: Any) -> Report:
        """Plan; nothing is held."""
        journal = await self.journal()
        self.source = self.estate.source()
        await self.source.open(journal.digest)
        return await plan(self.source, Target(self.client, self.retries), journal, **said)

    async def apply(self, source: Source | None = None, **said: Any) -> Report:
        """Apply."""
        async with self._held("apply", source) as (opened, target, journal):
            return await Apply(opened, target, journal, **said).run()

    async def verify(self, source: Source | None = None, **said: Any) -> Report:
        """Verify."""
        async with self._held("verify", source) as (opened, target, journal):
            return await verify(opened, target, journal, **said)

    async def scrub(self, source: Source | None = None, *, search_only: bool = False, **said: Any) -> Report:
        """Scrub."""
        async with self._held("scrub", source) as (opened, target, journal):
            return await Scrub(opened, target, journal, **said).run(search_only=search_only)

    async def rollback(self, source: Source | None = None, **said: Any) -> Report:
        """Roll back."""
        async with self._held("rollback", source) as (opened, target, journal):
            return await Rollback(opened, target, journal, **said).run()

    async def status(self) -> Status:
        """Tell how the run of the estate is."""
        journal = await self.journal()
        self.source = self.estate.source()
        await self.source.open(journal.digest)
        return await status(Target(self.client, self.retries), self.source, journal.run.name)

    async def journal(self) -> Journal:
        """Return the journal of the estate's run, or of the one that is to begin."""
        run = new_run(self.estate.kind, self.estate.place, {}, self.source.identity)
        target = Target(self.client, self.retries)
        return await Journal.find(target, run.name) or Journal(target, run)

    @asynccontextmanager
    async def _held(self, verb: str, source: Source | None) -> AsyncIterator[tuple[Source, Target, Journal]]:
        if source is None:
            source = self.source = self.estate.source()
        journal = await self.journal()
        await source.open(journal.digest)
        async with journal.held(verb, take_over=True):
            yield source, Target(self.client, self.retries), journal


@asynccontextmanager
async def moving(estate: MemoryEstate, store: Backend) -> AsyncIterator[Mover]:
    """Give a mover of *estate* into a house over *store*."""
    async with house(store) as client:
        yield Mover(client, estate)


# What both sides hold.


async def contents(client: AsyncStorageClient) -> dict[str, str]:
    """Return everything that the service holds for its users, by name: also containers."""
    found: dict[str, str] = {}
    async for page in pages(client.list_bulk, names.SECRETS):
        for name, entry in zip(page, await client.read_bulk(page), strict=True):
            assert entry is not None
            found[name] = entry.value.reveal()
    for listed in (Hosts, Networks):
        async for record in client.list(listed):
            found[record.model.record_name] = record.model.to_json().decode()
    return found


async def kept(client: AsyncStorageClient) -> list[str]:
    """Return the names of the rows that a journal has besides its head, which says how the run is."""
    return [name for name in await journalled(client) if not name.endswith("/run")]


async def journalled(client: AsyncStorageClient) -> list[str]:
    """Return the names of all rows of journals of migrations."""
    return await Target(client).names(MIGRATION)


def lying(estate: MemoryEstate) -> dict[str, bytes]:
    """Return what the estate holds, but for revisions."""
    return {key: content for key, (_, content) in estate.rows.items()}


def sealed_in(lies: Mapping[str, bytes]) -> dict[str, str]:
    """Return the secret records of what lies at a source."""
    rows = [msgspec.json.decode(content, type=Row) for content in lies.values() if not content.startswith(MALFORMED)]
    return {name: value for row in rows for name, value in row.records if is_sealed(name)}


def sealed_at(estate: MemoryEstate) -> dict[str, str]:
    """Return the secret records that an estate holds."""
    return sealed_in(lying(estate))


# Keeping and laying down.


async def rows_of(store: Backend) -> dict[str, bytes]:
    """Return what *store* holds, as it holds it."""
    found: dict[str, bytes] = {}
    async for page in pages(store.list, ""):
        found |= {name: entry.value for name, entry in (await store.get_many(page)).items()}
    return found


async def lay_down(rows: Mapping[str, bytes], store: Backend) -> None:
    """Put *rows* into an empty store."""
    puts = [Put(name, value) for name, value in rows.items()]
    for start in range(0, len(puts), TOGETHER):
        await store.commit(puts[start : start + TOGETHER])


def another(estate: MemoryEstate) -> MemoryEstate:
    """Return a copy of an estate, which is taken for the same."""
    return copy.deepcopy(estate)

"""An apply during which the keyring grows: a commit takes fewer changes from one moment to the next."""

import asyncio

from strongroom.migration.apply import Apply
from strongroom.migration.journal import Journal, new_run
from strongroom.migration.target import Target
from strongroom.storage_service.backends.memory import MemoryBackend
from tests.migration.house import house
from tests.migration.sources.memory import MemoryEstate, MemorySource

ITEMS = 300


async def test_batches_shrink_with_the_keyring() -> None:
    """Rotations in the middle make commits take half as much; everything moves all the same, and nothing twice."""
    estate = MemoryEstate()
    estate.put_many(range(ITEMS))
    source = MemorySource(estate)
    some_moved = asyncio.Event()
    async with house(MemoryBackend()) as client:
        target = Target(client)
        journal = Journal(target, new_run(estate.kind, estate.place, {}, source.identity))
        await source.open(journal.digest)
        before = await client.bulk_limit()

        async def rotate() -> None:
            await some_moved.wait()
            for _ in range(3):
                await client.rotate_keyset("default")

        async with journal.held("apply"):
            apply = Apply(source, target, journal, advance=lambda _: some_moved.set())
            report, _ = await asyncio.gather(apply.run(), rotate())

        assert await client.bulk_limit() < before
        assert report.complete
        records = [record async for item in source.items() for record in item.records]
        assert report.counts["created"] == len(records)
        held = await target.read([record.name for record in records])
        assert all(held[record.name].value == record.value for record in records)

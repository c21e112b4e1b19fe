"""What the tests of the verbs share: an estate in memory, a store that can fail, and what moves one into the other."""

from collections.abc import AsyncIterator

import pytest

from strongroom.storage_service.backends.faulty import FaultyBackend
from strongroom.storage_service.backends.memory import MemoryBackend
from tests.migration.moving import Mover, moving
from tests.migration.sources.memory import MemoryEstate


@pytest.fixture
def estate() -> MemoryEstate:
    """An estate with a few items."""
    made = MemoryEstate()
    made.put_many(range(6))
    return made


@pytest.fixture
def store() -> FaultyBackend:
    """The service's store."""
    return FaultyBackend(MemoryBackend())


@pytest.fixture
async def mover(estate: MemoryEstate, store: FaultyBackend) -> AsyncIterator[Mover]:
    """What moves it."""
    async with moving(estate, store) as mover:
        yield mover

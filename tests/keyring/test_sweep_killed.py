"""A rotation with all that follows, killed or failed at each of its operations on the store, while others write.

The story is told once for each operation: it is cut off there, others go on, and another process looks at what is
left. Every record reads as it was last written, the index is true, and the story, begun again, comes to its end.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Final

import pytest

from strongroom.storage_service.backends.base import Backend, Delete, Put
from strongroom.storage_service.backends.faulty import Fault, FaultyBackend, Killed
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import InUse, NotFound, Unavailable
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.overlay import EncryptedBackend
from strongroom.storage_service.keyring.usage import sweep
from tests.keyring.story import (
    ROOT,
    Rings,
    assert_index_is_true,
    change,
    generations,
    initialize,
    names,
    read_all,
    read_document,
    sweep_all,
)

NAMES: Final = tuple(f"secrets/{number}" for number in range(5))
PASSES: Final = 50  # of re-encryption, until nobody has come between


class Narrow(FaultyBackend):
    """A store that takes few changes at once, so that a step has several commits under way."""

    @property
    def max_batch(self) -> int:
        """Two records, and the guard."""
        return 8


class Written:
    """What each record may read as: what was acknowledged last, and what was asked for since without an answer."""

    def __init__(self, values: Mapping[str, bytes]) -> None:
        self._may: dict[str, set[bytes | None]] = {name: {value} for name, value in values.items()}

    async def write(self, secrets: Backend, name: str, value: bytes | None) -> None:
        """Write *value*, or delete the record for None."""
        self._may.setdefault(name, {None}).add(value)
        await secrets.commit([Delete(name) if value is None else Put(name, value)])
        self._may[name] = {value}

    async def check(self, store: Backend) -> None:
        """Assert that everything reads as it may, that the index is true, and that no key is lost."""
        found = await read_all(EncryptedBackend(store, Rings(store)))
        assert found.keys() <= self._may.keys()
        assert all(found.get(name) in may for name, may in self._may.items())
        await assert_index_is_true(store)
        document, _ = await read_document(store)
        assert {*(await generations(store)).values()} <= {*document.generations}


async def rekey(store: Backend) -> None:
    """Bring everything under a second generation and destroy the first, however much of that is done already."""
    await change(
        store, lambda said: said if said.keysets["default"].active > 1 else said.rotated("default", stored.now())
    )
    rings = Rings(store)
    for _ in range(PASSES):
        await sweep_all(store, rings, "default", limit=5)
        with contextlib.suppress(InUse):
            await sweep.settle(store, ROOT, "default")
            break
    with contextlib.suppress(NotFound):
        await sweep.retire(store, ROOT, "default.1")


async def write_some(written: Written, store: Backend, names: Sequence[str], ended: asyncio.Event) -> None:
    """Write, write again and delete records of one's own, at least once each, until the others have *ended*."""
    secrets = EncryptedBackend(store, Rings(store))
    number = 0
    while number < len(names) or not ended.is_set():
        name = names[number % len(names)]
        await written.write(secrets, name, None if number % 5 == 4 else b"%d" % number)
        number += 1
        await asyncio.sleep(0)


async def tell(store: Backend, fault: Fault | None, operation: int, writers: int) -> bool:
    """Tell the story with a *fault* at one *operation*, and return whether it came to that.

    Args:
        store: an empty one.
        fault: what happens; None: nothing.
        operation: at which operation.
        writers: how many write meanwhile, the first in the process that is killed, the others in their own.
    """
    written = Written(dict.fromkeys(NAMES, b"first"))
    await initialize(store)
    await EncryptedBackend(store, Rings(store)).commit([Put(name, b"first") for name in NAMES])
    faulty = Narrow(store, {operation: fault} if fault else {})
    ended = asyncio.Event()

    async def process() -> None:
        within = asyncio.create_task(write_some(written, faulty, [NAMES[0], "secrets/new"], ended))
        try:
            with contextlib.suppress(Killed, Unavailable):
                await rekey(faulty)
        finally:
            ended.set()
            with contextlib.suppress(Killed, Unavailable):
                await within

    others = [(NAMES[1], "secrets/other"), (NAMES[2], NAMES[3])][: writers - 1]
    await asyncio.gather(process(), *(write_some(written, store, mine, ended) for mine in others))

    await written.check(store)
    await rekey(store)
    await written.check(store)
    assert {*(await generations(store)).values()} == {"default.2"}
    document, _ = await read_document(store)
    assert document.generations == ("access.1", "default.2")
    return operation < len(faulty.operations)


async def told_with_all(store: Backend, fault: Fault, writers: int) -> None:
    """Tell the story with the fault at each of its operations."""
    operation = 0
    while await tell(store, fault, operation, writers):
        operation += 1
        left = await names(store, "")
        await store.commit([Delete(name) for name in left])
    assert operation > 15


@pytest.mark.parametrize("writers", [1, 3])
@pytest.mark.parametrize("fault", [Fault.DIE_BEFORE, Fault.DIE_AFTER], ids=lambda each: each.name)
async def test_killed_anywhere(store: Backend, fault: Fault, writers: int) -> None:
    """At whichever operation the process is killed, no secret or key is lost, and others can finish what it began."""
    await told_with_all(store, fault, writers)


@pytest.mark.parametrize("writers", [1, 3])
@pytest.mark.parametrize("fault", [each for each in Fault if each is not Fault.SLOW], ids=lambda each: each.name)
async def test_cut_off_anywhere(fault: Fault, writers: int) -> None:
    """Whichever operation is killed, fails or loses its answer: no secret or key is lost, and it can be finished."""
    store = MemoryBackend()
    await store.open()
    await told_with_all(store, fault, writers)

"""Starts of a service: what opens or makes the keyring with nobody at hand, what stops it, and who races whom."""

import asyncio
import gc
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Final

import pytest

from strongroom.models.names import KEYRING_DOCUMENT
from strongroom.storage_service.backends import open_backend
from strongroom.storage_service.backends.base import Backend, Change, Delete, Put
from strongroom.storage_service.backends.faulty import Fault, FaultyBackend
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import (
    ConfigurationError,
    KeyFileMissing,
    KeyFileUnusable,
    KeyringDamaged,
    Locked,
    ServiceError,
    StartupError,
    Unavailable,
    Uninitialized,
    WrongRootKey,
)
from strongroom.storage_service.jose import jwe, jwk
from strongroom.storage_service.jose.key import Key
from strongroom.storage_service.keyring import rootkey, stored
from strongroom.storage_service.keyring.document import Document
from strongroom.storage_service.keyring.holder import Holder
from strongroom.storage_service.keyring.opening import wraps
from strongroom.storage_service.keyring.opening.unattended import KeyFile, as_recipient
from strongroom.storage_service.keyring.overlay import EncryptedBackend
from strongroom.storage_service.keyring.rootkey import RootKey
from strongroom.storage_service.keyring.shared_root import SharedRoot, State
from tests.keyring.keeping import (
    DATA_BITS,
    FILE_BITS,
    NOW,
    PUT,
    ROOT_BITS,
    STRANGER,
    Services,
    Waiting,
    Worker,
    changed,
    given,
    key_file,
    spellings,
    unlock_key,
)
from tests.keyring.racing import race
from tests.keyring.story import Known


@pytest.fixture
async def store() -> MemoryBackend:
    backend = MemoryBackend()
    await backend.open()
    return backend


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secrets.key"


@pytest.fixture
async def services() -> AsyncIterator[Services]:
    async with AsyncExitStack() as stack:
        yield Services(stack)


# Starts.


async def test_the_first_start_makes_file_and_keyring(store: MemoryBackend, path: Path, services: Services) -> None:
    """With store and file empty, a file is made, and a keyring whose root key is wrapped for it, in one commit."""
    worker = await services.by_file(store, path)

    assert worker.ring is not None
    assert repr(worker.ring) == "<Ring access.1* default.1*>"
    assert worker.holder.state is State.UNLOCKED
    sealed = await stored.read(store)
    assert sealed is not None
    recipient = as_recipient(rootkey.read(path))
    [wrap] = await wraps.wraps_of(store, sealed.root)
    document = stored.open_document(sealed, wraps.unwrap(wrap, recipient))
    assert document.ring().everywhere.get("default.1") == worker.ring.everywhere.get("default.1")
    assert (await store.list("")).names == (KEYRING_DOCUMENT, wraps.name_of(sealed.root, recipient.kid))
    assert store.calls["commit"] == 1


async def test_the_second_start_makes_nothing(store: MemoryBackend, path: Path, services: Services) -> None:
    """Later starts read the same keys and write nothing, neither file nor store, whether a file may be made or not."""
    first = await services.by_file(store, path)
    before, commits = path.stat().st_mtime_ns, store.calls["commit"]

    for autogen in (True, False):
        again = await services.by_file(store, path, autogen=autogen)
        assert again.ring is not None
        assert first.ring is not None
        assert again.ring.active() == first.ring.active()
    assert (path.stat().st_mtime_ns, store.calls["commit"]) == (before, commits)


async def test_every_store_has_its_own_keys(store: MemoryBackend, path: Path, services: Services) -> None:
    """Two stores under one root key file share neither a data key nor the root key."""
    other = MemoryBackend()
    await other.open()
    first, second = await services.by_file(store, path), await services.by_file(other, path)

    assert first.ring is not None
    assert second.ring is not None
    assert first.ring.active() != second.ring.active()
    sealed = [await stored.read(each) for each in (store, other)]
    assert len({each.root for each in sealed if each}) == 2


async def test_a_custodia_key_file_is_taken_over(store: MemoryBackend, path: Path, services: Services) -> None:
    """A key file that is there before the store is the one that the root key is wrapped for, and stays as it is."""
    path.write_bytes(jwk.encode(FILE_BITS))
    path.chmod(0o600)
    await services.by_file(store, path)

    sealed = await stored.read(store)
    assert sealed is not None
    [wrap] = await wraps.wraps_of(store, sealed.root)
    assert wrap.recipient == as_recipient(RootKey(FILE_BITS)).kid
    assert path.read_bytes() == jwk.encode(FILE_BITS)


async def test_all_generations_are_opened(store: MemoryBackend, path: Path, services: Services) -> None:
    """Every key of the keyring is in the ring, whoever made it, and the active generations are the document's."""
    root = await given(store, as_recipient(key_file(path)))
    for keyset in ("default", "default", "access"):
        await changed(store, lambda document, keyset=keyset: document.rotated(keyset, NOW), root)  # type: ignore[misc]
    await changed(store, lambda document: document.reverted("default").with_keyset("x", NOW, 2), root)

    worker = await services.by_file(store, path)

    assert repr(worker.ring) == "<Ring access.1 access.2* default.1 default.2* default.3 x.1.1* x.1.2*>"


# What stops a start.

Story = Callable[[Backend, Path], Awaitable[None]]


async def file_lost(store: Backend, path: Path) -> None:
    await given(store, as_recipient(RootKey(FILE_BITS)))


async def container_alone(store: Backend, path: Path) -> None:
    await store.commit([Put("secrets/hosts/", b"")])


async def secret_without_keyring(store: Backend, path: Path) -> None:
    await given(store, as_recipient(key_file(path)))
    await store.commit([Put("secrets/a", b"x"), Delete(KEYRING_DOCUMENT)])


async def access_without_keyring(store: Backend, path: Path) -> None:
    key_file(path)
    await store.commit([Put("system/access/apikeys/ci", b"x")])


async def wraps_without_keyring(store: Backend, path: Path) -> None:
    await given(store, as_recipient(key_file(path)))
    await store.commit([Delete(KEYRING_DOCUMENT)])


async def file_of_another_store(store: Backend, path: Path) -> None:
    await file_lost(store, path)
    key_file(path, STRANGER.reveal())


async def broken_file(store: Backend, path: Path) -> None:
    await file_lost(store, path)
    path.write_bytes(b"")
    path.chmod(0o600)


async def broken_file_of_a_new_store(store: Backend, path: Path) -> None:
    path.write_bytes(b"")
    path.chmod(0o600)


async def garbage(store: Backend, path: Path) -> None:
    await given(store, as_recipient(key_file(path)))
    await store.commit([Put(KEYRING_DOCUMENT, b"garbage")])


async def in_the_clear(store: Backend, path: Path) -> None:
    await given(store, as_recipient(key_file(path)))
    await store.commit([Put(KEYRING_DOCUMENT, Document.new(NOW, random=lambda size: DATA_BITS[:size]).encode())])


async def edited(store: Backend, path: Path) -> None:
    root = await given(store, as_recipient(key_file(path)))
    await store.commit([Put(KEYRING_DOCUMENT, jwe.encrypt(Key(root.kid, bytes(64)), KEYRING_DOCUMENT, b"{}"))])


async def of_the_future(store: Backend, path: Path) -> None:
    root = await given(store, as_recipient(key_file(path)))
    await store.commit([Put(KEYRING_DOCUMENT, jwe.encrypt(root, KEYRING_DOCUMENT, b'{"format":4,"seed":1}'))])


async def wrap_of_another_root_key(store: Backend, path: Path) -> None:
    recipient = as_recipient(key_file(path))
    root = await given(store, recipient)
    planted = wraps.put(wraps.wrap(STRANGER, recipient, NOW))
    await store.commit([Put(wraps.name_of(root.kid, recipient.kid), planted.value)])


async def whole_keyring_of_anothers(store: Backend, path: Path) -> None:
    """Who can write the store puts a keyring of their own there, under a root key of their own."""
    recipient = as_recipient(key_file(path))
    await given(store, Key(recipient.kid, bytes(64)), root=STRANGER)


STOPS: Final[dict[str, tuple[Story, type[StartupError], str]]] = {
    "the file is lost": (file_lost, KeyFileMissing, "no new one will be made"),
    "a container, and neither keyring nor file": (container_alone, KeyringDamaged, "no new key will be made"),
    "a secret, and the keyring is gone": (secret_without_keyring, KeyringDamaged, "no new key will be made"),
    "an API key, and the keyring is gone": (access_without_keyring, KeyringDamaged, "no new key will be made"),
    "wraps, and the keyring is gone": (wraps_without_keyring, KeyringDamaged, "no new key will be made"),
    "the file of another store": (file_of_another_store, WrongRootKey, "put the secrets.key that was made with this"),
    "the file is broken": (broken_file, KeyFileUnusable, "not JSON"),
    "all is new, but the file": (broken_file_of_a_new_store, KeyFileUnusable, "not JSON"),
    "the keyring is garbage": (garbage, KeyringDamaged, "is not a keyring"),
    "the keyring is not encrypted": (in_the_clear, KeyringDamaged, "is not a keyring"),
    "the keyring was edited": (edited, KeyringDamaged, "its tag is wrong"),
    "the keyring is of the future": (of_the_future, ConfigurationError, "a later version wrote it"),
    "a wrap of another root key": (wrap_of_another_root_key, KeyringDamaged, "belongs under another name"),
    "a keyring of somebody else's": (whole_keyring_of_anothers, KeyringDamaged, "its tag is wrong"),
}


@pytest.mark.parametrize(("story", "error", "text"), STOPS.values(), ids=STOPS)
async def test_what_stops_a_start(
    store: MemoryBackend, path: Path, services: Services, story: Story, error: type[StartupError], text: str
) -> None:
    """Each state that is not sound is refused by its reason, says what to do, and stays as it was, file and store."""
    await story(store, path)
    file = path.read_bytes() if path.exists() else None
    commits = store.calls["commit"]
    shared = SharedRoot()

    with pytest.raises(error) as caught:
        await services.by_file(store, path, shared)

    assert type(caught.value) is error
    assert text in str(caught.value)
    assert (path.read_bytes() if path.exists() else None) == file
    assert store.calls["commit"] == commits
    assert shared.read()[1:] == (State.FRESH, None)


async def test_without_permission_no_keyring_is_made(store: MemoryBackend, path: Path, services: Services) -> None:
    """Where no file may be made, a new store waits for somebody to make a keyring, with a file there or without."""
    for file in (False, True):
        if file:
            key_file(path)
        worker = await services.by_file(store, path, autogen=False)

        assert worker.holder.state is State.UNINITIALIZED
        for act in (worker.holder.sync(), worker.reads(), worker.holder.unlock("x"), worker.secrets.commit([PUT])):
            with pytest.raises(Uninitialized):
                await act
        assert path.exists() == file
        assert (await store.list("")).names == ()


@pytest.mark.parametrize("story", [file_lost, file_of_another_store, broken_file], ids=lambda story: story.__name__)
async def test_where_people_can_open_a_start_is_locked(
    store: MemoryBackend, path: Path, services: Services, story: Story, caplog: pytest.LogCaptureFixture
) -> None:
    """What is wrong with the file is a warning, and the service starts locked, if somebody holds an unlock key."""
    text, key = unlock_key()
    await story(store, path)
    await store.commit([wraps.put(wraps.wrap(RootKey(ROOT_BITS), key, NOW))])
    worker = await services.by_file(store, path)

    assert worker.holder.state is State.LOCKED
    assert str(path) in caplog.text
    with pytest.raises(Locked):
        await worker.reads()
    await worker.holder.unlock(text)
    assert await worker.reads() is None


async def test_a_store_without_a_wrap_for_a_file_starts_locked(
    store: MemoryBackend, path: Path, services: Services
) -> None:
    """A keyring for people alone is neither opened by a file nor made anew, and the file is not made either."""
    await given(store, unlock_key()[1])
    worker = await services.by_file(store, path)

    assert worker.holder.state is State.LOCKED
    assert not path.exists()


async def test_ways_are_tried_in_order(store: MemoryBackend, path: Path, services: Services) -> None:
    """A way that fails keeps no other from opening; what it said matters only if none does."""
    await given(store, as_recipient(RootKey(FILE_BITS)), root=RootKey(bytes(range(64))))

    worker = await services.start(store, ways=[KeyFile(path), Known()])  # the file is lost

    assert worker.holder.state is State.UNLOCKED


async def test_what_a_way_opened_is_wiped(store: MemoryBackend, services: Services) -> None:
    """The root key that opened the keyring is kept in the shared root and nowhere else, whether it fits or not."""
    root = await given(store)
    for sound in (True, False):
        way = Waiting(root)
        way.go_on.set()
        if not sound:
            await store.commit([Put(KEYRING_DOCUMENT, jwe.encrypt(root, KEYRING_DOCUMENT, b"{}"))])
        with suppress(KeyringDamaged):
            await services.start(store, ways=[way])
        assert way.given is not None
        with pytest.raises(Locked):
            way.given.reveal()


# Races.


async def test_racing_services_agree(store: MemoryBackend, path: Path, services: Services) -> None:
    """Many first starts at one moment, on one machine, end with one file and one keyring."""
    workers = await asyncio.gather(*(services.by_file(store, path) for _ in range(12)))

    rings = [worker.ring for worker in workers]
    assert rings[0] is not None
    assert all(ring is not None and ring.active() == rings[0].active() for ring in rings)
    assert len((await store.list("")).names) == 2


async def test_racing_workers_agree(store: MemoryBackend, path: Path, services: Services) -> None:
    """The workers of one service, started at one moment, share one root key."""
    shared = SharedRoot()
    workers = await asyncio.gather(*(services.by_file(store, path, shared) for _ in range(8)))

    assert shared.tick == 1
    for number, worker in enumerate(workers):
        await worker.secrets.commit([Put(f"secrets/{number}", b"x")])
    for worker in workers:
        assert len(await worker.secrets.get_many([f"secrets/{number}" for number in range(8)])) == 8


async def test_racing_machines_do_not_disagree(store: MemoryBackend, tmp_path: Path, services: Services) -> None:
    """Where each machine makes its own file, one is first; the others are told so, and none holds another key."""
    paths = [tmp_path / str(number) / "secrets.key" for number in range(8)]
    for path in paths:
        path.parent.mkdir()

    outcomes = await asyncio.gather(*(services.by_file(store, path) for path in paths), return_exceptions=True)

    (winner,) = [path for path, outcome in zip(paths, outcomes, strict=True) if isinstance(outcome, Worker)]
    assert all(isinstance(outcome, Worker | WrongRootKey) for outcome in outcomes)
    assert len((await store.list("")).names) == 2
    # The operator does as the text says: the winner's file goes to the others.
    for path in paths:
        path.write_bytes(winner.read_bytes())
        assert (await services.by_file(store, path)).holder.state is State.UNLOCKED


def test_racing_processes_agree(tmp_path: Path) -> None:
    """Many workers that start at one moment on a new SQLite store end with the same keys; what each wrote opens."""
    program = (
        "import asyncio\n"
        "from pathlib import Path\n"
        "from strongroom.storage_service.backends import open_backend\n"
        "from strongroom.storage_service.backends.base import Put\n"
        "from strongroom.storage_service.keyring.holder import Holder\n"
        "from strongroom.storage_service.keyring.shared_root import SharedRoot\n"
        "from strongroom.storage_service.keyring.opening.unattended import KeyFile\n"
        "from strongroom.storage_service.keyring.overlay import EncryptedBackend\n"
        "async def main():\n"
        "    store = open_backend(sys.argv[1])\n"
        "    await store.open()\n"
        "    file = KeyFile(Path(sys.argv[2]))\n"
        "    holder = Holder(store, SharedRoot(), [file], file)\n"
        "    await holder.open()\n"
        "    await EncryptedBackend(store, holder).commit([Put(f'secrets/{sys.argv[3]}', sys.argv[3].encode())])\n"
        "    print(holder.current)\n"
        "    await holder.close()\n"
        "    await store.close()\n"
        "ready()\n"
        "asyncio.run(main())\n"
    )
    url, path, racers = f"sqlite:{tmp_path}/store.db", tmp_path / "secrets.key", [str(number) for number in range(6)]

    printed = race(program, [(url, str(path), racer) for racer in racers])

    assert set(printed) == {"<Ring access.1* default.1*>"}

    async def read() -> None:
        store = open_backend(url)
        await store.open()
        file = KeyFile(path)
        keys = Holder(store, SharedRoot(), [file])
        try:
            await keys.open()
            secrets = EncryptedBackend(store, keys)
            for racer in racers:
                entry = await secrets.get(f"secrets/{racer}")
                assert entry is not None
                assert entry.value == racer.encode()
        finally:
            await keys.close()
            await store.close()

    asyncio.run(read())


# Faults at a start.


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER, Fault.LOST])
async def test_a_store_that_fails_at_any_step_of_a_first_start(
    tmp_path: Path, services: Services, fault: Fault
) -> None:
    """Wherever the store fails, nothing is opened; the next start succeeds, and then all agree on what is stored."""
    counted = FaultyBackend(MemoryBackend())
    await counted.open()
    await services.by_file(counted, tmp_path / "counted.key")

    for step in range(len(counted.operations)):
        store = MemoryBackend()
        await store.open()
        path = tmp_path / f"{fault.name}.{step}.key"
        shared = SharedRoot()

        with pytest.raises(Unavailable):
            await services.by_file(FaultyBackend(store, {step: fault}), path, shared)
        written = await store.get(KEYRING_DOCUMENT)
        assert (shared.state in (State.FRESH, State.UNLOCKED)) and (shared.state is State.FRESH or written)
        worker = await services.by_file(store, path)

        assert written in (None, await store.get(KEYRING_DOCUMENT)), (
            "a keyring that was persisted is the one that is used"
        )
        again = await services.by_file(store, path)
        assert worker.ring is not None
        assert again.ring is not None
        assert again.ring.active() == worker.ring.active()


async def test_a_ring_holds_what_the_store_gave_back(store: MemoryBackend, path: Path, services: Services) -> None:
    """Who loses the race to make the keyring does not use the keys it drew."""
    recipient = as_recipient(key_file(path))

    class Overtaken(FaultyBackend):
        async def commit(self, changes: Sequence[Change]) -> int:
            await given(store, recipient)  # somebody else, a moment earlier
            return await super().commit(changes)

    worker = await services.by_file(Overtaken(store), path)

    assert worker.ring is not None
    assert worker.ring.active().reveal() == DATA_BITS


# What must not come out.


async def test_no_key_comes_out(
    path: Path, services: Services, caplog: pytest.LogCaptureFixture, store: MemoryBackend
) -> None:
    """Through all of the above, no repr, error, traceback or log line holds a key's bits, or what was typed."""
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    for story, _, _ in STOPS.values():
        fresh = MemoryBackend()
        await fresh.open()
        path.unlink(missing_ok=True)
        await story(fresh, path)
        try:
            await services.by_file(fresh, path)
        except StartupError as error:
            said += [*traceback.format_exception(error), repr(error)]
    text, key = unlock_key()
    await given(store, as_recipient(key_file(path)), key)
    shared = SharedRoot()
    worker = await services.by_file(store, path, shared)
    await worker.secrets.commit([PUT])
    said += [repr(part) for part in (worker.holder, worker.secrets, shared, worker.ring, store, vars(worker.holder))]
    worker.holder.lock()
    wrong = unlock_key()[0]
    for typed in (wrong, text[:-1], text):
        try:
            await worker.holder.unlock(typed)
        except ServiceError as error:
            said += [*traceback.format_exception(error), repr(error)]

    told = "\n".join([*said, caplog.text])
    for bits in (ROOT_BITS, DATA_BITS, FILE_BITS):
        for spelling in spellings(bits):
            assert spelling not in told
    assert text[:-1] not in told
    assert wrong not in told
    assert "a wrong unlock key was given" in told


async def test_the_root_key_is_let_go(store: MemoryBackend, path: Path, services: Services) -> None:
    """When the keyring is open, no object holds the root key: it lies in the shared root alone."""
    root = await given(store, as_recipient(key_file(path)), root=stored.new_root())
    bits = root.reveal()
    root.wipe()
    worker = await services.by_file(store, path)
    await worker.secrets.commit([PUT])
    await asyncio.sleep(0)  # the event loop itself holds the last result until its next step
    gc.collect()

    held = [held for held in gc.get_objects() if isinstance(held, RootKey)]
    assert RootKey(bits) not in held
    assert bytes(worker.holder._shared.read()[2] or b"") == bits

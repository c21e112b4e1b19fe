"""Who holds keys: starts and what stops them, workers that lock and unlock together, and whatever comes in between."""

import asyncio
import base64
import gc
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from storage_service.backends import open_backend
from storage_service.backends.base import Backend, Change, Delete, Put
from storage_service.backends.faulty import Fault, FaultyBackend
from storage_service.backends.memory import MemoryBackend
from storage_service.errors import (
    ConfigurationError,
    Exists,
    Halted,
    Internal,
    KeyFileMissing,
    KeyFileUnusable,
    KeyringDamaged,
    Locked,
    ServiceError,
    StartupError,
    TooManyAttempts,
    Unavailable,
    Undecipherable,
    Uninitialized,
    WrongKey,
    WrongRootKey,
)
from storage_service.keyring import envelope, jwk, keeper, rootkey, unlock, vault, wraps
from storage_service.keyring.document import NAME, Document
from storage_service.keyring.keeper import Keeper
from storage_service.keyring.page import FIRST_WAIT, Page, State
from storage_service.keyring.ring import Key, Ring
from storage_service.keyring.rootkey import RootKey
from storage_service.keyring.unattended import KeyFile, Way, as_recipient
from storage_service.keyring.unlock import Mistyped
from storage_service.overlay import EncryptedBackend
from tests.keyring.racing import race
from tests.keyring.story import Known

NOW: Final = "2026-11-22T09:30:00Z"
ROOT_BITS: Final = b"root-key-bits-that-must-never-be-shown-anywhere-outside-the-page"
DATA_BITS: Final = b"data-key-bits-that-must-never-be-shown-anywhere-outside-the-ring"
FILE_BITS: Final = b"file-key-bits-that-must-never-be-shown-anywhere-outside-the-file"
STRANGER: Final = RootKey(bytes(64))
PATIENCE: Final = 10.0  # seconds until what should have happened is taken for what never will


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers look at the page so often that no test waits for it."""
    monkeypatch.setattr(keeper, "LOOK", 0.002)


@pytest.fixture
async def store() -> MemoryBackend:
    backend = MemoryBackend()
    await backend.open()
    return backend


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secrets.key"


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Worker:
    """One worker of a service: what it holds, and the secrets as it sees them."""

    def __init__(self, keeper: Keeper, store: Backend) -> None:
        self.keeper = keeper
        self.secrets = EncryptedBackend(store, keeper)

    @property
    def ring(self) -> Ring | None:
        """The ring it has in its memory, usable or not."""
        return self.keeper._ring

    async def reads(self, name: str = "secrets/a") -> bytes | None:
        """Return the value of a secret."""
        entry = await self.secrets.get(name)
        return None if entry is None else entry.value


class Services:
    """Starts workers, and ends them with the test."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.clock = Clock()

    async def start(
        self, store: Backend, page: Page | None = None, ways: Sequence[Way] = (), autogen: KeyFile | None = None
    ) -> Worker:
        """Start a worker of the service whose *page* that is, or of a new one."""
        started = Keeper(store, page or Page(), ways, autogen, self.clock)
        self._stack.push_async_callback(started.close)
        await started.open()
        return Worker(started, store)

    async def by_file(self, store: Backend, path: Path, page: Page | None = None, autogen: bool = True) -> Worker:
        """Start a worker that opens the keyring by the root key file, and may make both."""
        file = KeyFile(path)
        return await self.start(store, page, [file], file if autogen else None)


@pytest.fixture
async def services() -> AsyncIterator[Services]:
    async with AsyncExitStack() as stack:
        yield Services(stack)


async def until(true: Callable[[], object]) -> None:
    """Wait until *true* is."""
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.001)


def key_file(path: Path, bits: bytes = FILE_BITS) -> RootKey:
    """Make a root key file with those bits, in the place of what is there."""
    path.unlink(missing_ok=True)
    return rootkey.make(path, lambda _: bits)


async def given(store: Backend, *recipients: Key, root: RootKey | None = None) -> RootKey:
    """Give *store* a keyring whose root key is wrapped for *recipients*, and return that root key."""
    root = root or RootKey(ROOT_BITS)
    document = Document.new(NOW, random=lambda size: DATA_BITS[:size])
    await vault.create(store, root, document, [wraps.put(wraps.wrap(root, each, NOW)) for each in recipients])
    return root


async def changed(store: Backend, change: Callable[[Document], Document], root: RootKey | None = None) -> None:
    """Change the keyring, as another machine would."""
    await vault.edit(store, root or RootKey(ROOT_BITS), change)


async def rotated_root(store: Backend, new: RootKey, *recipients: Key, old: RootKey | None = None) -> None:
    """Rotate the root key to *new*, as another machine would."""
    sealed = await vault.read(store)
    assert sealed is not None
    document = vault.open_document(sealed, old or RootKey(ROOT_BITS))
    also = [wraps.put(wraps.wrap(new, each, NOW)) for each in recipients]
    await vault.replace(store, new, document, sealed.revision, [*also, *await wraps.others_than(store, new.kid)])


def unlock_key() -> tuple[str, Key]:
    """Return an unlock key: what is typed, and the key."""
    [(text, key)] = unlock.make_keys(1)
    return text.reveal(), key


class Waiting:
    """A way that opens when it is let; *given* is the key that it gave."""

    def __init__(self, root: RootKey) -> None:
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()
        self.given: RootKey | None = None
        self._root = root

    async def open(self, backend: Backend, root: str) -> RootKey | None:
        """Return the root key."""
        self.asked.set()
        await self.go_on.wait()
        self.given = RootKey(self._root.reveal())
        return self.given


# Starts.


async def test_the_first_start_makes_file_and_keyring(store: MemoryBackend, path: Path, services: Services) -> None:
    """With store and file empty, a file is made, and a keyring whose root key is wrapped for it, in one commit."""
    worker = await services.by_file(store, path)

    assert worker.ring is not None
    assert repr(worker.ring) == "<Ring access.1* default.1*>"
    assert worker.keeper.state is State.UNLOCKED
    sealed = await vault.read(store)
    assert sealed is not None
    recipient = as_recipient(rootkey.read(path))
    [wrap] = await wraps.wraps_of(store, sealed.root)
    document = vault.open_document(sealed, wraps.unwrap(wrap, recipient))
    assert document.ring().get("default.1") == worker.ring.get("default.1")
    assert (await store.list("")).names == (NAME, wraps.name_of(sealed.root, recipient.kid))
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
    sealed = [await vault.read(each) for each in (store, other)]
    assert len({each.root for each in sealed if each}) == 2


async def test_a_custodia_key_file_is_taken_over(store: MemoryBackend, path: Path, services: Services) -> None:
    """A key file that is there before the store is the one that the root key is wrapped for, and stays as it is."""
    path.write_bytes(jwk.encode(FILE_BITS))
    path.chmod(0o600)
    await services.by_file(store, path)

    sealed = await vault.read(store)
    assert sealed is not None
    [wrap] = await wraps.wraps_of(store, sealed.root)
    assert wrap.recipient == as_recipient(RootKey(FILE_BITS)).kid
    assert path.read_bytes() == jwk.encode(FILE_BITS)


async def test_all_versions_are_opened(store: MemoryBackend, path: Path, services: Services) -> None:
    """Every key of the keyring is in the ring, whoever made it, and the active versions are the document's."""
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
    await store.commit([Put("secrets/a", b"x"), Delete(NAME)])


async def access_without_keyring(store: Backend, path: Path) -> None:
    key_file(path)
    await store.commit([Put("system/access/apikeys/ci", b"x")])


async def wraps_without_keyring(store: Backend, path: Path) -> None:
    await given(store, as_recipient(key_file(path)))
    await store.commit([Delete(NAME)])


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
    await store.commit([Put(NAME, b"garbage")])


async def in_the_clear(store: Backend, path: Path) -> None:
    await given(store, as_recipient(key_file(path)))
    await store.commit([Put(NAME, Document.new(NOW, random=lambda size: DATA_BITS[:size]).encode())])


async def edited(store: Backend, path: Path) -> None:
    root = await given(store, as_recipient(key_file(path)))
    await store.commit([Put(NAME, envelope.encrypt(Key(root.kid, bytes(64)), NAME, b"{}"))])


async def of_the_future(store: Backend, path: Path) -> None:
    root = await given(store, as_recipient(key_file(path)))
    await store.commit([Put(NAME, envelope.encrypt(root, NAME, b'{"format":3,"seed":1}'))])


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
    "the keyring is garbage": (garbage, KeyringDamaged, "is no keyring"),
    "the keyring is not encrypted": (in_the_clear, KeyringDamaged, "is no keyring"),
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
    page = Page()

    with pytest.raises(error) as caught:
        await services.by_file(store, path, page)

    assert type(caught.value) is error
    assert text in str(caught.value)
    assert (path.read_bytes() if path.exists() else None) == file
    assert store.calls["commit"] == commits
    assert page.read()[1:] == (State.FRESH, None)


async def test_without_permission_no_keyring_is_made(store: MemoryBackend, path: Path, services: Services) -> None:
    """Where no file may be made, a new store waits for somebody to make a keyring, with a file there or without."""
    for file in (False, True):
        if file:
            key_file(path)
        worker = await services.by_file(store, path, autogen=False)

        assert worker.keeper.state is State.UNINITIALIZED
        for act in (worker.keeper.sync(), worker.reads(), worker.keeper.unlock("x"), worker.secrets.commit([PUT])):
            with pytest.raises(Uninitialized):
                await act
        assert path.exists() == file
        assert (await store.list("")).names == ()


PUT: Final = Put("secrets/a", b"value")


@pytest.mark.parametrize("story", [file_lost, file_of_another_store, broken_file], ids=lambda story: story.__name__)
async def test_where_people_can_open_a_start_is_locked(
    store: MemoryBackend, path: Path, services: Services, story: Story, caplog: pytest.LogCaptureFixture
) -> None:
    """What is wrong with the file is a warning, and the service starts locked, if somebody holds an unlock key."""
    text, key = unlock_key()
    await story(store, path)
    await store.commit([wraps.put(wraps.wrap(RootKey(ROOT_BITS), key, NOW))])
    worker = await services.by_file(store, path)

    assert worker.keeper.state is State.LOCKED
    assert str(path) in caplog.text
    with pytest.raises(Locked):
        await worker.reads()
    await worker.keeper.unlock(text)
    assert await worker.reads() is None


async def test_a_store_without_a_wrap_for_a_file_starts_locked(
    store: MemoryBackend, path: Path, services: Services
) -> None:
    """A keyring for people alone is neither opened by a file nor made anew, and the file is not made either."""
    await given(store, unlock_key()[1])
    worker = await services.by_file(store, path)

    assert worker.keeper.state is State.LOCKED
    assert not path.exists()


async def test_ways_are_tried_in_order(store: MemoryBackend, path: Path, services: Services) -> None:
    """A way that fails keeps no other from opening; what it said matters only if none does."""
    await given(store, as_recipient(RootKey(FILE_BITS)), root=RootKey(bytes(range(64))))

    worker = await services.start(store, ways=[KeyFile(path), Known()])  # the file is lost

    assert worker.keeper.state is State.UNLOCKED


async def test_what_a_way_opened_is_wiped(store: MemoryBackend, services: Services) -> None:
    """The root key that opened the keyring is kept in the shared page and nowhere else, whether it fits or not."""
    root = await given(store)
    for sound in (True, False):
        way = Waiting(root)
        way.go_on.set()
        if not sound:
            await store.commit([Put(NAME, envelope.encrypt(root, NAME, b"{}"))])
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
    page = Page()
    workers = await asyncio.gather(*(services.by_file(store, path, page) for _ in range(8)))

    assert page.generation == 1
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
        assert (await services.by_file(store, path)).keeper.state is State.UNLOCKED


def test_racing_processes_agree(tmp_path: Path) -> None:
    """Many workers that start at one moment on a new SQLite store end with the same keys; what each wrote opens."""
    program = (
        "import asyncio\n"
        "from pathlib import Path\n"
        "from storage_service.backends import open_backend\n"
        "from storage_service.backends.base import Put\n"
        "from storage_service.keyring.keeper import Keeper\n"
        "from storage_service.keyring.page import Page\n"
        "from storage_service.keyring.unattended import KeyFile\n"
        "from storage_service.overlay import EncryptedBackend\n"
        "async def main():\n"
        "    store = open_backend(sys.argv[1])\n"
        "    await store.open()\n"
        "    file = KeyFile(Path(sys.argv[2]))\n"
        "    keeper = Keeper(store, Page(), [file], file)\n"
        "    await keeper.open()\n"
        "    await EncryptedBackend(store, keeper).commit([Put(f'secrets/{sys.argv[3]}', sys.argv[3].encode())])\n"
        "    print(keeper.current)\n"
        "    await keeper.close()\n"
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
        keys = Keeper(store, Page(), [file])
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
        page = Page()

        with pytest.raises(Unavailable):
            await services.by_file(FaultyBackend(store, {step: fault}), path, page)
        written = await store.get(NAME)
        assert (page.state in (State.FRESH, State.UNLOCKED)) and (page.state is State.FRESH or written)
        worker = await services.by_file(store, path)

        assert written in (None, await store.get(NAME)), "a keyring that was persisted is the one that is used"
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


# Workers that lock and unlock together.


@asynccontextmanager
async def unlocked(store: Backend, services: Services, workers: int) -> AsyncIterator[tuple[list[Worker], str]]:
    """Give the workers of a service, one of which was unlocked, and what was typed; a secret is there."""
    text, key = unlock_key()
    await given(store, key)
    page = Page()
    started = [await services.start(store, page) for _ in range(workers)]
    await started[-1].keeper.unlock(text)
    await started[0].secrets.commit([PUT])
    yield started, text


@pytest.mark.parametrize("workers", [1, 2, 4])
async def test_an_unlock_in_one_worker_is_one_in_all(store: MemoryBackend, services: Services, workers: int) -> None:
    """Started locked, all workers serve secrets from the next request on after any of them was unlocked."""
    text, key = unlock_key()
    await given(store, key)
    page = Page()
    started = [await services.start(store, page) for _ in range(workers)]
    for worker in started:
        assert worker.keeper.state is State.LOCKED
        for act in (worker.reads(), worker.secrets.commit([PUT]), worker.keeper.sync()):
            with pytest.raises(Locked):
                await act

    await started[0].keeper.unlock(text)

    for worker in reversed(started):
        assert worker.keeper.state is State.UNLOCKED
        await worker.secrets.commit([PUT])
        assert await worker.reads() == b"value"


@pytest.mark.parametrize("workers", [1, 2, 4])
async def test_a_lock_in_one_worker_is_one_in_all(store: MemoryBackend, services: Services, workers: int) -> None:
    """From the lock on no request in any worker gets a key, and soon no worker has one, asked or not."""
    async with unlocked(store, services, workers) as (started, text):
        rings = [await worker.keeper.sync() for worker in started]

        started[0].keeper.lock()

        for worker in started:
            assert worker.keeper.current is None
            assert worker.keeper.state is State.LOCKED
        await until(lambda: all(worker.ring is None for worker in started))
        for ring in rings:
            with pytest.raises(Locked):
                ring.active().reveal()
        for worker in started:
            for act in (worker.reads(), worker.secrets.commit([PUT]), worker.secrets.list("secrets/")):
                with pytest.raises(Locked):
                    await act

        await started[-1].keeper.unlock(text)
        assert [await worker.reads() for worker in started] == [b"value"] * workers


async def test_a_lock_elsewhere_is_found_by_the_next_request(
    store: MemoryBackend, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is asked for a secret before it has looked at the page drops its keys then and there."""
    monkeypatch.setattr(keeper, "LOOK", 3600)
    async with unlocked(store, services, 2) as (started, _):
        ring = await started[1].keeper.sync()
        started[0].keeper.lock()
        assert ring.active().reveal()
        with pytest.raises(Locked):
            await started[1].reads()

        assert started[1].ring is None
        with pytest.raises(Locked):
            ring.active().reveal()


async def test_a_worker_that_starts_late_finds_things_as_they_are(
    store: MemoryBackend, path: Path, services: Services
) -> None:
    """It serves where the others do, by no way of its own; where the service was locked no way opens it."""
    page = Page()
    first = await services.by_file(store, path, page)
    await first.secrets.commit([PUT])

    late = await services.start(store, page)
    assert await late.reads() == b"value"

    late.keeper.lock()
    later = await services.by_file(store, path, page)
    assert later.keeper.state is State.LOCKED
    with pytest.raises(Locked):
        await later.reads()
    assert page.generation == 2

    new = await services.by_file(store, path)  # a service that starts anew, with a page of its own
    assert await new.reads() == b"value"


async def test_a_locked_service_asks_nothing_of_the_store(store: MemoryBackend, services: Services) -> None:
    """Requests to a locked service cost no read of the keyring, however many there are."""
    async with unlocked(store, services, 1) as ([worker], _):
        worker.keeper.lock()
        await until(lambda: worker.ring is None)
        store.calls.clear()
        for _ in range(10):
            with pytest.raises(Locked):
                await worker.reads()

        assert store.calls.total() == 0


# Typing keys.


async def test_any_of_several_unlock_keys_opens(store: MemoryBackend, services: Services) -> None:
    """Each holder of an unlock key can unlock; so can whoever holds keys of other stores beside the right one."""
    keys = unlock.make_keys(3)
    await given(store, *(key for _, key in keys))
    worker = await services.start(store)
    for text in (keys[0][0].reveal(), f"{unlock_key()[0]}\n{keys[2][0].reveal().lower()}"):
        await worker.keeper.unlock(text)
        assert worker.keeper.state is State.UNLOCKED
        worker.keeper.lock()


async def test_enough_shares_open_together(store: MemoryBackend, services: Services) -> None:
    """Fewer than needed are told how many are missing, which counts as no wrong key."""
    shares, key = unlock.make_shares(2, 3)
    await given(store, key)
    worker = await services.start(store)

    with pytest.raises(Mistyped, match="1 more share is needed"):
        await worker.keeper.unlock(shares[0].reveal())
    assert worker.keeper.wrong_keys == 0
    await worker.keeper.unlock("\n".join(share.reveal() for share in shares[1:]))

    assert worker.keeper.state is State.UNLOCKED


async def test_wrong_keys_are_counted_and_slowed(store: MemoryBackend, services: Services) -> None:
    """Each wrong key makes the next wait twice as long, in all workers, up to half a minute; a right one forgets it."""
    text, key = unlock_key()
    await given(store, key)
    page = Page()
    workers = [await services.start(store, page) for _ in range(2)]
    wrong = unlock_key()[0]
    waits = []
    for number in range(9):
        one, other = workers[number % 2].keeper, workers[1 - number % 2].keeper
        with pytest.raises(WrongKey):
            await one.unlock(wrong)
        assert (one.wrong_keys, one.state) == (number + 1, State.LOCKED)
        waits.append(other.wait)
        for typed in (text, wrong):
            with pytest.raises(TooManyAttempts) as caught:
                await other.unlock(typed)
            assert caught.value.wait == waits[-1]
        assert one.wrong_keys == number + 1, "what was not tried is not counted"
        services.clock.now += waits[-1]

    assert waits == [FIRST_WAIT * 2**n for n in range(7)] + [30.0, 30.0]
    await workers[0].keeper.unlock(text)
    assert (workers[1].keeper.wrong_keys, workers[1].keeper.wait) == (0, 0.0)


async def test_many_tries_at_once_are_one(store: MemoryBackend, services: Services) -> None:
    """Who sends wrong keys all at the same moment has one of them tried."""
    await given(store, unlock_key()[1])
    worker = await services.start(store)

    outcomes = await asyncio.gather(*(worker.keeper.unlock(unlock_key()[0]) for _ in range(20)), return_exceptions=True)

    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["TooManyAttempts"] * 19 + ["WrongKey"]
    assert worker.keeper.wrong_keys == 1


async def test_what_cannot_be_a_key_is_not_counted(store: MemoryBackend, services: Services) -> None:
    """A mistyped key is told by its line, slows nobody, and repeats nothing."""
    text, key = unlock_key()
    await given(store, key)
    worker = await services.start(store)
    for typed in ("", "canary", text[:-1] + ("0" if text[-1] != "0" else "1")):
        with pytest.raises(Mistyped) as caught:
            await worker.keeper.unlock(typed)
        assert "canary" not in str(caught.value)
        assert text[4:20] not in "".join(traceback.format_exception(caught.value))

    assert (worker.keeper.wrong_keys, worker.keeper.wait) == (0, 0.0)


async def test_an_unlocked_service_is_not_unlocked(store: MemoryBackend, services: Services) -> None:
    """Keys are not tried against a service that is open: nobody learns there whether one is right."""
    async with unlocked(store, services, 2) as (started, text):
        for typed in (text, unlock_key()[0], "nonsense"):
            with pytest.raises(Exists):
                await started[0].keeper.unlock(typed)
        assert started[0].keeper.wrong_keys == 0


async def test_a_broken_keyring_is_not_a_wrong_key(store: MemoryBackend, services: Services) -> None:
    """Who types the right key is told that the wrap, or the keyring, is broken; the service stays locked."""
    text, key = unlock_key()
    root = await given(store, key)
    worker = await services.start(store)
    sound = await store.get_many([NAME, wraps.name_of(root.kid, key.kid)])
    for name, value in (
        (wraps.name_of(root.kid, key.kid), wraps.put(wraps.wrap(root, Key(key.kid, bytes(64)), NOW)).value),
        (NAME, envelope.encrypt(Key(root.kid, bytes(64)), NAME, b"{}")),
    ):
        await store.commit([Put(name, value)])
        with pytest.raises(KeyringDamaged, match="its tag is wrong"):
            await worker.keeper.unlock(text)
        assert (worker.keeper.state, worker.keeper.wrong_keys) == (State.LOCKED, 0)
        await store.commit([Put(name, sound[name].value)])

    await worker.keeper.unlock(text)


async def test_two_who_unlock_at_one_moment_both_succeed(store: MemoryBackend, services: Services) -> None:
    """It is unlocked once, and neither of them is told off."""
    keys = unlock.make_keys(2)
    await given(store, *(key for _, key in keys))
    page = Page()
    workers = [await services.start(store, page) for _ in range(2)]
    before = page.generation

    await asyncio.gather(*(w.keeper.unlock(text.reveal()) for w, (text, _) in zip(workers, keys, strict=True)))

    assert page.generation == before + 1


# A lock that comes in between.


async def test_a_lock_undoes_an_unlock_under_way(store: MemoryBackend, services: Services) -> None:
    """At whichever step of an unlock somebody locks the service, it is locked, and whoever unlocks is told."""
    text, key = unlock_key()
    await given(store, key)
    slow = FaultyBackend(store)
    page = Page()
    one, other = await services.start(slow, page), await services.start(store, page)
    steps = len(slow.operations)
    await one.keeper.unlock(text)
    steps = len(slow.operations) - steps
    assert steps > 4

    for step in range(steps):
        one.keeper.lock()
        await until(lambda: one.ring is None)
        slow._released.clear()
        slow.faults = {len(slow.operations) + step: Fault.SLOW}
        begun = len(slow.operations)
        unlocking = asyncio.create_task(one.keeper.unlock(text))
        await until(lambda begun=begun, step=step: len(slow.operations) > begun + step)  # type: ignore[misc]
        other.keeper.lock()
        slow.release()

        with pytest.raises(Locked):
            await unlocking
        assert page.read()[1:] == (State.LOCKED, None)
        assert one.keeper.current is None
        assert one.ring is None
    await other.keeper.unlock(text)


async def test_a_lock_holds_who_is_reading_the_keys(store: MemoryBackend, services: Services) -> None:
    """A worker that is opening the keyring while another locks the service gives out no ring, and keeps none."""
    async with unlocked(store, services, 1) as ([other], text):
        slow = FaultyBackend(store)
        page = other.keeper._page
        for step in range(4):
            late = Keeper(slow, page, [])
            slow.faults = {len(slow.operations) + step: Fault.SLOW}
            begun = len(slow.operations)
            reading = asyncio.create_task(late.sync())
            await until(lambda begun=begun, step=step: len(slow.operations) > begun + step)  # type: ignore[misc]
            other.keeper.lock()
            slow.release()

            with pytest.raises(Locked):
                await reading
            assert late._ring is None
            slow._released.clear()
            await other.keeper.unlock(text)


async def test_a_lock_holds_who_is_starting(store: MemoryBackend, services: Services) -> None:
    """An operator who locks the service while a worker is still opening a file has locked it."""
    root = await given(store)
    page = Page()
    way = Waiting(root)
    starting = asyncio.create_task(services.start(store, page, [way]))
    await way.asked.wait()
    page.lock()
    way.go_on.set()
    worker = await starting

    assert worker.keeper.state is State.LOCKED
    with pytest.raises(Locked):
        await worker.reads()


async def test_a_batch_under_way_when_the_lock_falls_writes_nothing(store: MemoryBackend, services: Services) -> None:
    """What is being encrypted then is Locked, in the worker that locks and in any other; the store sees none of it."""
    async with unlocked(store, services, 2) as (started, text):
        before = (await store.list("")).names
        puts = [Put(f"secrets/{number}", bytes(200_000)) for number in range(8)]
        for worker in started:
            await worker.keeper.sync()
            writing = asyncio.create_task(worker.secrets.commit(puts))
            await asyncio.sleep(0)
            assert not writing.done()
            worker.keeper.lock()

            with pytest.raises(Locked):
                await writing
            assert (await store.list("")).names == before
            await worker.keeper.unlock(text)


async def test_the_watch_drops_keys_though_the_store_hangs(store: MemoryBackend, services: Services) -> None:
    """A worker that waits for a store that does not answer drops its keys as soon as any other."""
    text, key = unlock_key()
    await given(store, key)
    slow = FaultyBackend(store)
    page = Page()
    worker, other = await services.start(slow, page), await services.start(store, page)
    await worker.keeper.unlock(text)
    held = worker.ring
    assert held is not None
    slow.faults = {len(slow.operations): Fault.SLOW}
    hanging = asyncio.create_task(worker.keeper.refresh(held))
    await asyncio.sleep(0)

    other.keeper.lock()

    await until(lambda: worker.ring is None)
    assert not hanging.done()
    with pytest.raises(Locked):
        held.active().reveal()
    slow.release()
    with suppress(Locked):
        await hanging
    assert worker.ring is None


# What others do to the keyring.


@pytest.mark.parametrize("known", [True, False], ids=["by a way", "by a person"])
async def test_a_keyring_made_elsewhere_is_noticed(
    store: MemoryBackend, path: Path, services: Services, known: bool
) -> None:
    """A service that waits for a keyring begins with it when another made one, by its own ways or by being unlocked."""
    page = Page()
    text, key = unlock_key()
    workers = [await services.by_file(store, path, page, autogen=False) for _ in range(2)]
    assert page.state is State.UNINITIALIZED
    await given(store, as_recipient(key_file(path)) if known else key)

    await until(lambda: page.state is (State.UNLOCKED if known else State.LOCKED))

    if not known:
        await workers[0].keeper.unlock(text)
    assert [await worker.reads() for worker in workers] == [None, None]


async def test_a_keyring_made_elsewhere_can_be_unlocked_at_once(
    store: MemoryBackend, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is quicker than the look at the store need not wait for it."""
    monkeypatch.setattr(keeper, "LOOK", 3600)
    worker = await services.start(store)
    text, key = unlock_key()
    await given(store, key)
    await worker.keeper.unlock(text)

    assert await worker.reads() is None


async def test_a_key_rotated_elsewhere_is_used(store: MemoryBackend, services: Services) -> None:
    """Writes go under the version that another machine made, and its values open, though nobody said a word."""
    async with unlocked(store, services, 2) as (started, _):
        await changed(store, lambda document: document.rotated("default", NOW))
        await started[0].secrets.commit([Put("secrets/b", b"new")])

        stored = await store.get("secrets/b")
        assert stored is not None
        assert envelope.kid_of(stored.value) == "default.2"
        assert await started[1].reads("secrets/b") == b"new"
        assert [repr(worker.ring) for worker in started] == ["<Ring access.1* default.1 default.2*>"] * 2


async def test_a_change_here_is_told_to_all(store: MemoryBackend, services: Services) -> None:
    """After `changed` every worker has the new keyring before its next request, and soon without one."""
    async with unlocked(store, services, 3) as (started, _):
        await changed(store, lambda document: document.rotated("default", NOW))
        started[0].keeper.changed()

        assert all(worker.keeper.current is None for worker in started)
        await until(lambda: all(worker.keeper.current is not None for worker in started))
        assert {repr(worker.ring) for worker in started} == {"<Ring access.1* default.1 default.2*>"}


async def test_a_refresh_that_finds_nothing_gives_the_same_ring(store: MemoryBackend, services: Services) -> None:
    """Whoever asks for a newer ring and there is none has theirs back; whoever is behind has the one that is here."""
    async with unlocked(store, services, 1) as ([worker], _):
        ring = await worker.keeper.sync()
        assert await worker.keeper.refresh(ring) is ring
        await changed(store, lambda document: document.rotated("default", NOW))
        newer = await worker.keeper.refresh(ring)
        assert newer is not ring
        reads = store.calls.total()
        assert await worker.keeper.refresh(ring) is newer
        assert store.calls.total() == reads
        assert ring.active().reveal(), "requests under way may use it still"


async def test_a_key_that_nobody_has_is_looked_for_once_a_read(store: MemoryBackend, services: Services) -> None:
    """A planted value under an unknown key is Undecipherable, and the ring stays what it is."""
    async with unlocked(store, services, 1) as ([worker], _):
        stranger = envelope.encrypt(Key("default.9", bytes(64)), "secrets/x", b"x")
        await store.commit([Put("secrets/x", stranger)])
        ring = worker.ring

        with pytest.raises(Undecipherable):
            await worker.reads("secrets/x")

        assert worker.ring is ring


async def test_a_root_key_rotated_elsewhere_is_followed_by_file(
    store: MemoryBackend, path: Path, services: Services
) -> None:
    """Where the new root key is wrapped for the file too, all workers go on as if nothing had been."""
    recipient = as_recipient(key_file(path))
    await given(store, recipient)
    page = Page()
    workers = [await services.by_file(store, path, page) for _ in range(2)]
    await rotated_root(store, STRANGER, recipient)

    await workers[0].secrets.commit([PUT])

    assert [await worker.reads() for worker in workers] == [b"value"] * 2
    _, state, bits = page.read()
    assert (state, bits) == (State.UNLOCKED, bytearray(STRANGER.reveal()))


async def test_a_root_key_rotated_elsewhere_locks_who_cannot_follow(
    store: MemoryBackend, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """Where it takes a person, all workers lock as soon as one notices; the new keys unlock, and the old do not."""
    text, key = unlock_key()
    async with unlocked(store, services, 2) as (started, old):
        await rotated_root(store, STRANGER, key)
        with pytest.raises(Locked):
            await started[0].secrets.commit([PUT])

        await until(lambda: all(worker.ring is None for worker in started))
        assert started[1].keeper.state is State.LOCKED
        assert "rotated elsewhere; unlock this service with the new keys" in caplog.text
        with pytest.raises(WrongKey):
            await started[0].keeper.unlock(old)
        services.clock.now += FIRST_WAIT
        await started[0].keeper.unlock(text)
        assert [await worker.reads() for worker in started] == [b"value"] * 2


# Operations on the keyring.


async def test_the_root_key_is_given_for_one_operation(store: MemoryBackend, services: Services) -> None:
    """Whoever has it for an operation has it no longer afterwards, however the operation ended."""
    async with unlocked(store, services, 1) as ([worker], _):
        async with worker.keeper.root() as root:
            assert root == RootKey(ROOT_BITS)
        with pytest.raises(Locked):
            root.reveal()
        with pytest.raises(RuntimeError):
            async with worker.keeper.root() as root:
                raise RuntimeError
        with pytest.raises(Locked):
            root.reveal()

        worker.keeper.lock()
        with pytest.raises(Locked):
            async with worker.keeper.root():
                pytest.fail("there is none")


async def test_an_operation_has_the_root_key_of_now(store: MemoryBackend, path: Path, services: Services) -> None:
    """An operation begins with the keyring as it is in the store, also if another machine rotated the root key."""
    recipient = as_recipient(key_file(path))
    await given(store, recipient)
    worker = await services.by_file(store, path)
    await rotated_root(store, STRANGER, recipient)

    async with worker.keeper.root() as root:
        await vault.edit(store, root, lambda document: document.rotated("default", NOW))

    assert root.kid == STRANGER.kid


async def test_a_halt_stops_writing_in_all_workers(store: MemoryBackend, services: Services) -> None:
    """Halted, values are read and deleted and none is written, in every worker, until it is resumed."""
    async with unlocked(store, services, 2) as (started, _):
        started[0].keeper.halt()
        for worker in started:
            assert worker.keeper.state is State.HALTED
            assert await worker.reads() == b"value"
            with pytest.raises(Halted):
                await worker.secrets.commit([PUT])
        late = await services.start(store, started[0].keeper._page)
        with pytest.raises(Halted):
            await late.secrets.commit([PUT])

        late.keeper.resume()
        for worker in (*started, late):
            await worker.secrets.commit([PUT])


async def test_a_halt_in_the_store_outlives_the_service(store: MemoryBackend, services: Services) -> None:
    """What the document says halts every service, and no worker can lift it but by changing the document."""
    async with unlocked(store, services, 2) as (started, _):
        await changed(store, lambda document: document.halt("default", NOW, "why"))
        started[0].keeper.changed()
        started[0].keeper.resume()
        for worker in started:
            with pytest.raises(Halted):
                await worker.secrets.commit([PUT])
        await changed(store, lambda document: document.resumed())
        started[0].keeper.changed()
        for worker in started:
            await worker.secrets.commit([PUT])


@pytest.mark.parametrize("state", [State.UNLOCKED, State.LOCKED])
async def test_a_new_root_key_is_adopted_by_who_is_unlocked(
    store: MemoryBackend, services: Services, state: State
) -> None:
    """After a rotation here all workers hold the new root key; a lock that came meanwhile stays."""
    text, key = unlock_key()
    async with unlocked(store, services, 2) as (started, _):
        if state is State.LOCKED:
            started[1].keeper.lock()
        await rotated_root(store, STRANGER, key)
        started[0].keeper.adopt(STRANGER)

        assert started[1].keeper.state is state
        if state is State.LOCKED:
            await started[0].keeper.unlock(text)
        assert [await worker.reads() for worker in started] == [b"value"] * 2


# What breaks under a service that runs.


async def deleted(store: Backend) -> None:
    await store.commit([Delete(NAME)])


async def replaced_by_garbage(store: Backend) -> None:
    await store.commit([Put(NAME, b"garbage")])


async def edited_under_us(store: Backend) -> None:
    await store.commit([Put(NAME, envelope.encrypt(Key(RootKey(ROOT_BITS).kid, bytes(64)), NAME, b"{}"))])


async def rewritten_by_the_future(store: Backend) -> None:
    await store.commit([Put(NAME, envelope.encrypt(RootKey(ROOT_BITS), NAME, b'{"format":3}'))])


@pytest.mark.parametrize(
    "breaks",
    [deleted, replaced_by_garbage, edited_under_us, rewritten_by_the_future],
    ids=lambda breaks: breaks.__name__,
)
async def test_a_keyring_that_breaks_is_an_error_and_no_end(
    store: MemoryBackend, services: Services, breaks: Callable[[Backend], Awaitable[None]]
) -> None:
    """Nothing is written under a keyring that cannot be read; callers get an answer, and what is mended works."""
    async with unlocked(store, services, 2) as (started, _):
        sound = await store.get(NAME)
        assert sound is not None
        await breaks(store)
        before = await store.list("")

        with pytest.raises(Internal):
            await started[0].secrets.commit([Put("secrets/b", b"x")])
        with pytest.raises(Internal):
            async with started[0].keeper.root():
                pytest.fail("there is nothing to operate on")
        started[1].keeper.changed()
        for worker in started:
            with pytest.raises(Internal):
                await worker.reads()
        assert await store.list("") == before

        await store.commit([Put(NAME, sound.value)])
        for worker in started:
            await worker.secrets.commit([PUT])


async def test_the_watch_outlives_a_dead_store(
    store: MemoryBackend, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that cannot read the keyring says so once, goes on looking, and has it when the store is back."""
    asked = FaultyBackend(store)
    async with unlocked(asked, services, 2) as (started, _):
        await changed(store, lambda document: document.rotated("default", NOW))
        await store.close()
        begun = len(asked.operations)
        started[0].keeper.changed()
        await until(lambda: len(asked.operations) > begun + 20)
        for worker in started:
            with pytest.raises(Unavailable):
                await worker.keeper.sync()
        said = [record for record in caplog.records if "could not be followed" in record.message]
        assert len(said) == len(started)

        await store.open()
        await until(lambda: all(worker.keeper.current is not None for worker in started))
        assert {repr(worker.ring) for worker in started} == {"<Ring access.1* default.1 default.2*>"}


async def test_a_lock_needs_no_store(store: MemoryBackend, services: Services) -> None:
    """With the store gone, a lock holds in every worker, and their keys are wiped."""
    async with unlocked(store, services, 2) as (started, _):
        rings = [await worker.keeper.sync() for worker in started]
        await store.close()
        started[0].keeper.lock()

        await until(lambda: all(worker.ring is None for worker in started))
        for ring in rings:
            with pytest.raises(Locked):
                ring.active().reveal()
        for worker in started:
            with pytest.raises(Locked):
                await worker.reads()


async def test_closing_wipes_what_one_worker_held(store: MemoryBackend, services: Services) -> None:
    """A worker that ends drops its ring, and leaves the others unlocked."""
    async with unlocked(store, services, 2) as (started, _):
        ring = started[0].ring
        assert ring is not None
        await started[0].keeper.close()

        with pytest.raises(Locked):
            ring.active().reveal()
        assert await started[1].reads() == b"value"


async def test_opening_is_told(store: MemoryBackend, services: Services) -> None:
    """Whoever asked is told each time that a worker has keys and had none, and not of a change of them."""
    async with unlocked(store, services, 1) as ([worker], text):
        told: list[str] = []
        worker.keeper.on_open = lambda: told.append("open")
        await changed(store, lambda document: document.rotated("default", NOW))
        worker.keeper.changed()
        await worker.keeper.sync()
        assert told == []
        worker.keeper.lock()
        await worker.keeper.unlock(text)
        assert told == ["open"]


# What must not come out.


def spellings(bits: bytes) -> list[str]:
    """Return how *bits* might be spelled, wherever in a text they begin."""
    return [
        bits.decode(),
        bits.hex(),
        base64.b64encode(bits).decode().rstrip("="),
        *(base64.b64encode(bits[start : start + 30]).decode() for start in range(3)),
    ]


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
    page = Page()
    worker = await services.by_file(store, path, page)
    await worker.secrets.commit([PUT])
    said += [repr(part) for part in (worker.keeper, worker.secrets, page, worker.ring, store, vars(worker.keeper))]
    worker.keeper.lock()
    wrong = unlock_key()[0]
    for typed in (wrong, text[:-1], text):
        try:
            await worker.keeper.unlock(typed)
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
    """When the keyring is open, no object holds the root key: it lies in the shared page alone."""
    root = await given(store, as_recipient(key_file(path)))
    bits = root.reveal()
    root.wipe()
    worker = await services.by_file(store, path)
    await worker.secrets.commit([PUT])
    await asyncio.sleep(0)  # the event loop itself holds the last result until its next step
    gc.collect()

    held = [held for held in gc.get_objects() if isinstance(held, RootKey)]
    assert RootKey(bits) not in held
    assert bytes(worker.keeper._page.read()[2] or b"") == bits

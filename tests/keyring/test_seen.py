"""A keyring that is older than one that was seen here opens nothing, whoever reads it, until a person says so."""

import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import pytest

from strongroom.models.names import KEYRING_DOCUMENT
from strongroom.storage_service.backends.base import Entry, Put
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import Behind, KeyFileUnusable, KeyringOutdated, StrongroomError
from strongroom.storage_service.jose import jwe, jwk
from strongroom.storage_service.jose.jwe import kid_of
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.ceremonies.export import export, open_root, read
from strongroom.storage_service.keyring.ceremonies.restore import restore
from strongroom.storage_service.keyring.document import Document
from strongroom.storage_service.keyring.holder import Holder
from strongroom.storage_service.keyring.opening.unattended import KeyFile
from strongroom.storage_service.keyring.overlay import EncryptedBackend
from strongroom.storage_service.keyring.rootkey import RootKey
from strongroom.storage_service.keyring.seen import Seen
from strongroom.storage_service.keyring.shared_root import SharedRoot
from strongroom.storage_service.keyring.usage import sweep
from strongroom.storage_service.keyring.usage.index import complete

KEEPERS_NAME: Final = "keyring.seen"


class Home:
    """A store, a home, and the services that are started on both, one at a time."""

    def __init__(self, path: Path, stack: AsyncExitStack) -> None:
        self.store = MemoryBackend()
        self.path = path
        self.shared = SharedRoot()
        self._stack = stack

    @property
    def seen(self) -> Path:
        return self.path / KEEPERS_NAME

    async def worker(self, *, anew: bool = False) -> "Worker":
        """Start a worker of the service, or of one that starts *anew*."""
        if anew:
            self.shared = SharedRoot()
        file = KeyFile(self.path / "secrets.key")
        holder = Holder(self.store, self.shared, [file], file, seen=self.seen)
        self._stack.push_async_callback(holder.close)
        await holder.open()
        return Worker(holder, EncryptedBackend(self.store, holder))

    async def row(self) -> Entry:
        entry = await self.store.get(KEYRING_DOCUMENT)
        assert entry is not None
        return entry

    async def put_back(self, row: Entry) -> None:
        """Do what somebody does who writes the store."""
        await self.store.commit([Put(KEYRING_DOCUMENT, row.value)])


class Worker(NamedTuple):
    holder: Holder
    secrets: EncryptedBackend

    async def edit(self, change: Callable[[Document], Document]) -> Document:
        """Change the keyring as the door for keys does."""
        async with self.holder.root() as root:
            try:
                return (await stored.edit(self.holder._store, root, change))[0]
            finally:
                self.holder.changed()

    async def rotate(self) -> None:
        await self.edit(lambda said: said.rotated("default", stored.now()))


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    """A home in which nothing was started yet."""
    async with AsyncExitStack() as stack:
        made = Home(tmp_path, stack)
        await made.store.open()
        yield made


async def _rolled_back(home: Home) -> Worker:
    """Rotate away the key that leaked, and put the keyring from before back."""
    worker = await home.worker()
    old = await home.row()
    await worker.rotate()
    await worker.secrets.commit([Put("secrets/before", b"value")])
    await home.put_back(old)
    return worker


async def test_nothing_is_written_under_a_key_that_was_rotated_away(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    """While the old keyring lies there, a service that knows better writes nothing; what it holds it reads on."""
    worker = await _rolled_back(home)
    good = worker.holder.current

    with pytest.raises(Behind):
        await worker.secrets.commit([Put("secrets/a", b"value")])

    assert "older than the one that was seen here last" in caplog.text
    assert f"remove {home.seen} and start the service anew" in caplog.text
    assert await home.store.get("secrets/a") is None
    assert worker.holder.current is good
    entry = await worker.secrets.get("secrets/before")
    assert entry is not None and entry.value == b"value"


async def test_every_worker_refuses_it_and_every_start(home: Home) -> None:
    """Another worker of the service opens nothing with it, and the service does not start anew with it."""
    await _rolled_back(home)

    other = await home.worker()
    with pytest.raises(Behind):
        await other.secrets.get("secrets/before")
    with pytest.raises(KeyringOutdated, match=r"older.*remove .*/keyring\.seen and start the service anew"):
        await home.worker(anew=True)


async def test_a_person_accepts_it(home: Home) -> None:
    """Who removes the file and starts the service anew works with what is there, and that is seen from now on."""
    await _rolled_back(home)
    home.seen.unlink()

    worker = await home.worker(anew=True)
    await worker.secrets.commit([Put("secrets/a", b"value")])

    entry = await home.store.get("secrets/a")
    assert entry is not None and kid_of(entry.value) == "default.1"
    assert home.seen.stat().st_mode & 0o777 == 0o600


async def test_when_the_newest_is_back_all_is_well(home: Home) -> None:
    """Once somebody has put the right keyring in its place again the service goes on by itself."""
    worker = await home.worker()
    old = await home.row()
    await worker.rotate()
    new = await home.row()
    await home.put_back(old)
    with pytest.raises(StrongroomError):
        await worker.secrets.commit([Put("secrets/a", b"value")])

    await home.put_back(new)
    await worker.secrets.commit([Put("secrets/a", b"value")])

    entry = await home.store.get("secrets/a")
    assert entry is not None and kid_of(entry.value) == "default.2"


async def _edit(store: MemoryBackend, root: RootKey) -> None:
    await stored.edit(store, root, lambda said: said.rotated("default", stored.now()))


async def _settle(store: MemoryBackend, root: RootKey) -> None:
    await sweep.settle(store, root, None)


async def _retire(store: MemoryBackend, root: RootKey) -> None:
    await sweep.retire(store, root, "access.1")


async def _export(store: MemoryBackend, root: RootKey) -> None:
    await export(store, root)


@pytest.mark.parametrize("act", [_edit, _settle, _retire, _export], ids=lambda act: act.__name__.lstrip("_"))
async def test_no_ceremony_builds_on_it(home: Home, act: Callable[[MemoryBackend, RootKey], object]) -> None:
    """A store that shows the service one keyring and a ceremony an older one gets no new edition out of that."""
    worker = await home.worker()
    old = await home.row()
    await worker.rotate()
    async with worker.holder.root() as root:
        await home.put_back(old)
        with pytest.raises(KeyringOutdated):
            await act(home.store, root)  # type: ignore[misc]

    assert (await home.row()).value == old.value


async def test_another_of_the_same_edition_is_no_better(home: Home) -> None:
    """Of two documents of one edition that which was seen first is the keyring."""
    worker = await home.worker()
    async with worker.holder.root() as root:
        document, sealed = await stored.current(home.store, root)
        other = msgspec.structs.replace(document.rotated("default", ""), edition=document.edition)
        await home.store.commit([Put(KEYRING_DOCUMENT, jwe.encrypt(root, KEYRING_DOCUMENT, other.encode()))])

        with pytest.raises(KeyringOutdated):
            await stored.current(home.store, root)
        await home.store.commit(
            [Put(KEYRING_DOCUMENT, sealed.token)]
        )  # as a machine that is revoked makes the epoch grow
        assert (await stored.current(home.store, root))[0] == document


async def test_another_keyring_that_the_same_file_opens(home: Home, tmp_path: Path) -> None:
    """The keyring of another store is refused, although the same root key file opens it and it is younger."""
    await home.worker()
    home.store, first = MemoryBackend(), home.store
    await home.store.open()
    other = home.path / "other"
    home.path.joinpath(KEEPERS_NAME).rename(other)
    await home.worker(anew=True)
    other.rename(home.seen)
    for name in (await home.store.list("system/keyring/")).names:
        entry = await home.store.get(name)
        assert entry is not None
        await first.commit([Put(name, entry.value)])
    home.store = first

    with pytest.raises(KeyringOutdated, match="not the one that was seen here last"):
        await home.worker(anew=True)


async def test_what_others_wrote_meanwhile_makes_nothing_old(home: Home) -> None:
    """A worker that has read the keyring just before another changed it reads again, and does not take it for old."""
    worker, writer = await home.worker(), await home.worker()
    await worker.secrets.commit([Put("secrets/a", b"value")])
    slow = home.store.get
    read_by = 0

    async def get(name: str) -> Entry | None:
        nonlocal read_by
        entry = await slow(name)
        if name == KEYRING_DOCUMENT and not read_by:
            read_by = 1
            await writer.rotate()
        return entry

    home.store.get = get  # type: ignore[method-assign]
    worker.holder.changed()
    ring = await worker.holder.sync()

    assert ring.active_generations["default"] == "default.2"
    async with worker.holder.root() as root:
        read_by = 0
        assert (await stored.current(home.store, root))[0].active_generations["default"] == "default.3"


async def test_an_old_root_key_brings_no_old_keyring_back(home: Home) -> None:
    """The keyring from before a rotation of the root key is refused, although its own root key opens it."""
    worker = await home.worker()
    old = [
        Put(each, entry.value)
        for each in (await home.store.list("system/keyring/")).names
        if (entry := await home.store.get(each))
    ]
    async with worker.holder.root() as root:
        document, sealed = await stored.current(home.store, root)
        new = RootKey(bytes(range(64)), root.seen)
        await stored.replace(home.store, new, document, sealed.revision)
        worker.holder.adopt(new)
    await home.store.commit(old)  # and the file still opens it

    with pytest.raises(Behind):
        await worker.secrets.commit([Put("secrets/a", b"value")])
    with pytest.raises(KeyringOutdated):
        await home.worker(anew=True)


async def test_what_is_brought_back_by_hand_is_new(home: Home) -> None:
    """An old export takes the place of the keyring for every home, also for one that has seen the newer one."""
    worker = await home.worker()
    async with worker.holder.root() as root:
        exported = read(await export(home.store, root))
    await worker.rotate()
    elsewhere = home.seen.read_bytes()
    async with worker.holder.root() as root:
        edition = (await stored.current(home.store, root))[0].edition
    await home.store.commit([Put(KEYRING_DOCUMENT, b"damaged")])

    seen = Seen(SharedRoot(), home.seen)
    await seen.load()
    key = RootKey(jwk.octets_of(jwk.decode((home.path / "secrets.key").read_bytes())))
    await restore(home.store, exported, open_root(exported, key), replace=True, seen=seen)

    for kept in (home.seen.read_bytes(), elsewhere):
        home.seen.write_bytes(kept)
        started = await home.worker(anew=True)
        async with started.holder.root() as root:
            document, _ = await stored.current(home.store, root)
            assert document.edition > edition
            assert document.active_generations["default"] == "default.1"


async def test_an_import_joins_no_old_keyring(home: Home) -> None:
    """Generations are not added to a keyring that is older than the one this home has seen."""
    worker = await home.worker()
    async with worker.holder.root() as root:
        exported = read(await export(home.store, root))
    old = await home.row()
    await worker.rotate()
    await home.put_back(old)
    seen = Seen(SharedRoot(), home.seen)
    await seen.load()
    key = RootKey(jwk.octets_of(jwk.decode((home.path / "secrets.key").read_bytes())))

    with pytest.raises(KeyringOutdated):
        await restore(home.store, exported, open_root(exported, key), seen=seen)

    assert (await home.row()).value == old.value


@pytest.mark.parametrize(
    "text", [b"", b"{", b'{"keyring":"","edition":1,"digest":""}', b'{"keyring":"zz","edition":1,"digest":""}']
)
async def test_a_file_that_says_nothing_is_not_taken_for_none(home: Home, text: bytes) -> None:
    """A damaged file ends the start with the words that mend it: it is not the same as one that was removed by hand."""
    await home.worker()
    home.seen.write_bytes(text)

    with pytest.raises(KeyFileUnusable, match="remove it"):
        await home.worker(anew=True)


async def test_where_the_file_cannot_be_written_the_workers_know_it_still(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a place for the file that is said in the log, and an old keyring is refused until the service ends."""
    home.path.joinpath(KEEPERS_NAME).mkdir()
    with pytest.raises(KeyFileUnusable):
        await home.worker()
    home.path.joinpath(KEEPERS_NAME).rmdir()
    worker = await home.worker()
    old = await home.row()
    home.seen.unlink()
    home.seen.mkdir()  # what cannot be replaced by a file, whoever runs this

    with caplog.at_level(logging.WARNING):
        await worker.rotate()

    assert "the next start cannot tell an old keyring" in caplog.text
    await home.put_back(old)
    with pytest.raises(Behind):
        await worker.secrets.commit([Put("secrets/a", b"value")])
    assert [each.name for each in home.path.iterdir() if each.name.startswith(".")] == []


def _changes(shared: SharedRoot) -> Sequence[Callable[[], object]]:
    return [
        lambda: shared.unlock(bytes(64)),
        shared.halt,
        shared.touch,
        lambda: shared.failed(0.0),
        shared.lock,
        lambda: shared.unlock(b"x" * 64),
    ]


def test_the_page_keeps_the_mark_whatever_else_changes() -> None:
    """Locking, unlocking, halting and counting wrong keys leave the mark; putting one leaves all the rest."""
    shared = SharedRoot()
    marks = [bytes([number]) * len(shared.mark) for number in range(8)]
    for before, after, change in zip(marks[:-1], marks[1:], [*_changes(shared), lambda: None], strict=True):
        assert shared.put_mark(before, after)
        state, failures, tick = shared.state, shared.failures, shared.tick
        assert not shared.put_mark(before, marks[-1])
        assert (shared.state, shared.failures, shared.tick) == (state, failures, tick)
        change()
        assert shared.mark == after
    assert shared.read()[2] == bytearray(b"x" * 64)
    with pytest.raises(ValueError, match="bytes"):
        shared.put_mark(shared.mark, b"short")


async def test_the_index_completes_on_the_keyring_that_was_seen(home: Home) -> None:
    """What only says that the index is complete is an edition like any other."""
    worker = await home.worker()
    async with worker.holder.root() as root:
        before = json.loads(home.seen.read_bytes())["edition"]
        await complete(home.store, root, worker.holder)
        assert json.loads(home.seen.read_bytes())["edition"] > before

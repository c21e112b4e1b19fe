"""What stories of services that hold keys are told with: workers, what is typed, and what others do to the keyring."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from strongroom.storage_service.backends.base import Backend, Put
from strongroom.storage_service.jose.key import Key
from strongroom.storage_service.keyring import rootkey, stored
from strongroom.storage_service.keyring.document import Document
from strongroom.storage_service.keyring.holder import Holder
from strongroom.storage_service.keyring.opening import unlock_keys, wraps
from strongroom.storage_service.keyring.opening.unattended import KeyFile, Way
from strongroom.storage_service.keyring.overlay import EncryptedBackend
from strongroom.storage_service.keyring.ring import Ring
from strongroom.storage_service.keyring.rootkey import RootKey
from strongroom.storage_service.keyring.shared_root import SharedRoot

NOW: Final = "2026-11-22T09:30:00Z"
ROOT_BITS: Final = b"root-key-bits-that-must-never-be-shown-anywhere-outside-the-page"
DATA_BITS: Final = b"data-key-bits-that-must-never-be-shown-anywhere-outside-the-ring"
FILE_BITS: Final = b"file-key-bits-that-must-never-be-shown-anywhere-outside-the-file"
STRANGER: Final = RootKey(bytes(64))
PATIENCE: Final = 10.0  # seconds until what should have happened is taken for what never will
PUT: Final = Put("secrets/a", b"value")


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Worker:
    """One worker of a service: what it holds, and the secrets as it sees them."""

    def __init__(self, holder: Holder, store: Backend) -> None:
        self.holder = holder
        self.secrets = EncryptedBackend(store, holder)

    @property
    def ring(self) -> Ring | None:
        """The ring it has in its memory, usable or not."""
        return self.holder._ring

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
        self, store: Backend, shared: SharedRoot | None = None, ways: Sequence[Way] = (), autogen: KeyFile | None = None
    ) -> Worker:
        """Start a worker of the service whose *shared* that is, or of a new one."""
        started = Holder(store, shared or SharedRoot(), ways, autogen, clock=self.clock)
        self._stack.push_async_callback(started.close)
        await started.open()
        return Worker(started, store)

    async def by_file(
        self, store: Backend, path: Path, shared: SharedRoot | None = None, autogen: bool = True
    ) -> Worker:
        """Start a worker that opens the keyring by the root key file, and may make both."""
        file = KeyFile(path)
        return await self.start(store, shared, [file], file if autogen else None)


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
    await stored.create(store, root, document, [wraps.put(wraps.wrap(root, each, NOW)) for each in recipients])
    return root


async def changed(store: Backend, change: Callable[[Document], Document], root: RootKey | None = None) -> None:
    """Change the keyring, as another machine would."""
    await stored.edit(store, root or RootKey(ROOT_BITS), change)


async def rotated_root(store: Backend, new: RootKey, *recipients: Key, old: RootKey | None = None) -> None:
    """Rotate the root key to *new*, as another machine would."""
    sealed = await stored.read(store)
    assert sealed is not None
    document = stored.open_document(sealed, old or RootKey(ROOT_BITS))
    also = [wraps.put(wraps.wrap(new, each, NOW)) for each in recipients]
    await stored.replace(store, new, document, sealed.revision, [*also, *await wraps.others_than(store, new.kid)])


def unlock_key() -> tuple[str, Key]:
    """Return an unlock key: what is typed, and the key."""
    [(text, key)] = unlock_keys.make_keys(1)
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


@asynccontextmanager
async def unlocked(store: Backend, services: Services, workers: int) -> AsyncIterator[tuple[list[Worker], str]]:
    """Give the workers of a service, one of which was unlocked, and what was typed; a secret is there."""
    text, key = unlock_key()
    await given(store, key)
    shared = SharedRoot()
    started = [await services.start(store, shared) for _ in range(workers)]
    await started[-1].holder.unlock(text)
    await started[0].secrets.commit([PUT])
    yield started, text


def spellings(bits: bytes) -> list[str]:
    """Return how *bits* might be spelled, wherever in a text they begin."""
    return [
        bits.decode(),
        bits.hex(),
        base64.b64encode(bits).decode().rstrip("="),
        *(base64.b64encode(bits[start : start + 30]).decode() for start in range(3)),
    ]

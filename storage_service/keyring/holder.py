"""The holder of the keys in one worker of the service, and how all workers obtain or drop them together.

The root key lies, while the service is unlocked, in the page of memory that all its workers share, and nowhere else;
each worker holds the ring of data keys that it opened with it. A counter in that page says when to look again: it is
read before every use of a key, so that a lock holds for every request that begins after it, in every worker, and a
worker that starts later follows. A task looks five times a second, too, so that keys are dropped where nobody asks.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

from strongroom.models.names import KEYRING_DOCUMENT
from strongroom.models.steps import Step
from strongroom.storage_service.backends.base import Backend
from strongroom.storage_service.errors import (
    Behind,
    Exists,
    KeyFileMissing,
    KeyFileUnusable,
    KeyringDamaged,
    KeyringOutdated,
    Locked,
    NotFollowed,
    StartupError,
    StrongroomError,
    TooManyAttempts,
    Uninitialized,
    WrongKey,
    WrongRootKey,
)
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.opening import unlock_keys, wraps
from strongroom.storage_service.keyring.opening.unattended import KeyFile, Way
from strongroom.storage_service.keyring.ring import Ring
from strongroom.storage_service.keyring.rootkey import RootKey
from strongroom.storage_service.keyring.seen import Seen
from strongroom.storage_service.keyring.shared_root import WITH_KEY, SharedRoot, State
from strongroom.storage_service.keyring.stored import Sealed

# What the right file, put in its place, mends, or a person who knows better:
_BEHIND: Final = (KeyFileMissing, KeyFileUnusable, KeyringOutdated, WrongRootKey)
_ATTEMPTS: Final = 3  # at a keyring that looks old
LOOK: Final = 0.2  # seconds between two looks at the shared root by a worker that is asked nothing

T = TypeVar("T")

log = logging.getLogger(__name__)


class Holder:
    """What one worker holds of the keyring.

    Args:
        store: the store, opened; the bare one, not one that encrypts.
        shared: what all workers of the service share.
        ways: how the keyring may be opened with nobody at hand, in order.
        autogen: the file to make a first keyring with, in a store that was never used; None: wait for somebody to.
        seen: the file that says which keyring this home has seen; None: none does.
        clock: monotonic seconds, the same for all workers.
    """

    def __init__(
        self,
        store: Backend,
        shared: SharedRoot,
        ways: Sequence[Way],
        autogen: KeyFile | None = None,
        *,
        seen: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._shared = shared
        self.seen: Final = Seen(shared, seen)
        self._ways = tuple(ways)
        self._autogen = autogen
        self._clock = clock
        self._ring: Ring | None = None
        self._seen = -1  # the tick of the shared root that what is held here belongs to
        self._turn = asyncio.Lock()
        self.on_open: Callable[[], object] = bool  # called whenever this worker has keys and had none
        self.on_drop: Callable[[], object] = bool  # called whenever it lets go of them
        self._watching: asyncio.Task[None] | None = None
        self._behind = ""  # why the keyring that is in the store does not open here

    # Holding keys

    async def open(self) -> None:
        """Open the keyring if that can be done with nobody at hand, and begin to follow the shared root.

        Raises:
            StartupError: it should have opened, and did not; the text says what to do.
            Unavailable: the store does not answer.
        """
        await self.seen.load()
        async with self._turn:
            with contextlib.suppress(Locked):
                if self._shared.state is State.FRESH:
                    await self._load()
                else:  # of a service that runs: it has plain records to serve, and may be helped while it does
                    await self._load_or_fall_behind()
        self._watching = asyncio.create_task(self._watch(), name="keyring")

    async def close(self) -> None:
        """Drop what is held."""
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
        self._drop()

    @property
    def current(self) -> Ring | None:
        """The ring to use now; None: `sync` has to be asked."""
        return self._ring if self._shared.tick == self._seen else None

    @property
    def state(self) -> State:
        """Whether the service is locked; FRESH stands for a shared root that nobody has looked at yet."""
        return self._shared.state

    @property
    def behind(self) -> bool:
        """Whether the keyring in the store did not open here when this worker last looked."""
        return bool(self._behind) and self._shared.state in WITH_KEY

    async def look(self) -> None:
        """See whether the keyring that is in the store is the one that is held here; locked, there is none to hold.

        Raises:
            Behind, Internal: it is another, and cannot be opened.
            Unavailable: the store does not answer.
        """
        try:
            await self.refresh(await self.sync())
        except Behind:
            raise
        except Locked:
            pass

    async def sync(self) -> Ring:
        """Return the ring to use now, after following what the shared root says.

        Raises:
            Behind: what the store has now does not open with what this machine has; the log says why.
            Uninitialized: the store has no keyring yet.
            Locked: nobody has unlocked the service.
            NotFollowed: the keyring in the store can no longer be used; the log says why.
            Unavailable: the store does not answer.
        """
        async with self._turn:
            if (ring := self.current) is not None:
                return ring
            return await self._follow()

    async def refresh(self, seen: Ring) -> Ring:
        """Return the ring of the keyring that is in the store, *seen* if it is still that; raises what `sync` does."""
        async with self._turn:
            ring = self.current
            if ring is not None and ring is not seen:
                return ring
            if ring is not None and await self._is_at(seen.revision):
                return seen
            return await self._follow()

    async def _follow(self) -> Ring:
        """Load what shared root and store say, in a service that runs: it does not end where the keyring is broken."""
        try:
            return await self._load_or_fall_behind()
        except StartupError as error:
            raise NotFollowed(f"the keyring cannot be used: {error}").advising(*error.next) from None

    async def _load_or_fall_behind(self) -> Ring:
        """Load what shared root and store say, and tell, once for each reason, where what is here does not open it."""
        try:
            ring = await self._load()
        except _BEHIND as error:
            why = str(error)
            if why != self._behind:
                log.error(  # noqa: TRY400  # its text is the whole story
                    "secrets cannot be written, or read by a new worker, until this is mended: %s",
                    why,
                    extra={"next": error.next},
                )
            self._behind = why
            raise Behind("the store's keyring does not open here") from None
        if self._behind:
            log.info("the store's keyring opens here again")
        self._behind = ""
        return ring

    async def _is_at(self, revision: int) -> bool:
        """Whether the keyring in the store is at that revision still; where it cannot even be read, it is not."""
        try:
            sealed = await stored.read(self._store)
        except StartupError:
            return False
        return sealed is not None and sealed.revision == revision

    async def _load(self) -> Ring:
        return await _while_newer_are_seen(self._load_once)

    async def _load_once(self) -> Ring:
        while True:
            tick, state, bits = self._shared.read()
            if state is State.FRESH:
                await self._open_unattended(tick)
                continue
            if bits is None:
                self._drop()
                self._seen = tick
                if state is State.UNINITIALIZED:
                    raise Uninitialized("there is no keyring")
                raise Locked("the service is locked")
            with self._root_of(bits) as root:
                sealed = await stored.read(self._store)
                if sealed is None:
                    raise KeyringDamaged("the keyring is gone from the store; restore it from a backup")
                if sealed.root != root.kid:
                    await self._follow_rotation(sealed, tick)
                    continue
                opened = stored.open_document(sealed, root)
            await self.seen.note(opened.keyring, opened.edition, sealed.token)
            if self._shared.tick == tick:  # nobody locked the service while its keys were read
                break
        # What was held before is not wiped: requests under way may use it still, and it opens no more than this does.
        held, self._ring = self._ring, opened.ring(sealed.revision, halted=state is State.HALTED)
        self._seen = tick
        if held is None:
            self.on_open()
        return self._ring

    async def _follow_rotation(self, sealed: Sealed, since: int) -> None:
        """Another process rotated the root key: open the new one if that needs nobody, or be locked."""
        sealed, opened = await self._open_by_ways(sealed)
        if opened is None:
            log.warning("the root key was rotated elsewhere; unlock this service with the new keys")
        self._share(sealed, opened, since)

    async def _open_unattended(self, since: int) -> None:
        """Give the shared root its first state: of all workers that begin together, whichever is first.

        An operator may lock the service by another worker while this one opens a file; then it stays locked.
        """
        sealed = await stored.read(self._store)
        if sealed is None and self._autogen is not None:
            recipient = await self._autogen.make()
            root = stored.new_root()
            root.seen = self.seen
            await stored.create_if_new(self._store, root, [wraps.put(wraps.wrap(root, recipient, stored.now()))])
            root.wipe()
            sealed = await stored.read(self._store)
        if sealed is None:
            self._shared.lock(State.UNINITIALIZED, since)
            log.info("the store has no keyring", extra={"next": (Step("make one", "key init"),)})
            return
        sealed, opened = await self._open_by_ways(sealed)
        if opened is None:
            log.info("locked", extra={"next": (Step("unlock it", "key unlock"),)})
        self._share(sealed, opened, since)

    def _share(self, sealed: Sealed, opened: RootKey | None, since: int) -> None:
        """Unlock all workers with *opened*, or lock them for want of it, unless the shared root has changed *since*.

        Raises:
            KeyringDamaged, ConfigurationError: what is sealed under it is no keyring, or of a later version.
            KeyringOutdated: a newer one was seen.
        """
        if opened is None:
            self._shared.lock(since=since)
            return
        opened.seen = self.seen
        try:
            stored.open_document(sealed, opened)  # first: nobody is unlocked with what opens nothing
            self._shared.unlock(opened.reveal(), since)
        finally:
            opened.wipe()

    async def _open_by_ways(self, sealed: Sealed) -> tuple[Sealed, RootKey | None]:
        """Return the keyring and its root key, None where it takes a person.

        Whoever rotates the root key drops the old wraps; where none opened, it may be that they went meanwhile, and
        then those of the next root key are tried.

        Raises:
            StartupError: no way opens it and no person could.
        """
        while True:
            try:
                opened, failed = await self._try_ways(sealed.root), None
            except StartupError as error:
                opened, failed = None, error
            newer = None if opened is not None else await stored.read(self._store)
            if newer is None or newer.root == sealed.root:
                if failed is not None:
                    raise failed
                return sealed, opened
            sealed = newer

    async def _try_ways(self, root: str) -> RootKey | None:
        """Return the root key *root*, or None where it takes a person.

        Raises:
            StartupError: no way opens it and no person could.
        """
        failed: list[StartupError] = []
        for way in self._ways:
            try:
                opened = await way.open(self._store, root)
            except StartupError as error:
                failed.append(error)
                continue
            if opened is not None:
                return opened
        if any(wrap.kind in wraps.HUMAN for wrap in await wraps.wraps_of(self._store, root)):
            for each in failed:
                log.warning("the service starts locked: %s", each)
            return None
        if failed:
            raise failed[0]
        return None

    def _drop(self) -> None:
        ring, self._ring = self._ring, None
        if ring is not None:
            ring.wipe()
            self.on_drop()

    async def _watch(self) -> None:
        said = ""
        while True:
            await asyncio.sleep(LOOK)
            if self._shared.state not in WITH_KEY:
                self._drop()  # without waiting for a store that somebody else may be waiting for
            if self._shared.state is State.UNINITIALIZED:
                with contextlib.suppress(StrongroomError):
                    await self.look_for_keyring()
            if self._shared.tick != self._seen:
                try:
                    await self.sync()
                except StrongroomError as error:
                    if str(error) != said and not isinstance(error, Locked):
                        log.warning("the keyring could not be followed: %s", error, extra={"next": error.next})
                    said = str(error)
                else:
                    said = ""

    async def look_for_keyring(self) -> None:
        """If a store without a keyring has one now, whoever made it, begin as if it had been there."""
        since = self._shared.tick
        if self._shared.state is State.UNINITIALIZED and await self._store.get(KEYRING_DOCUMENT) is not None:
            self._shared.lock(State.FRESH, since)

    # Locking and unlocking

    @contextlib.asynccontextmanager
    async def root(self) -> AsyncIterator[RootKey]:
        """Give the root key for one operation on the keyring, and wipe that copy of it afterwards.

        Raises:
            Uninitialized, Locked: there is none.
        """
        await self.refresh(await self.sync())  # who rotated the root key elsewhere told no worker here
        _, _, bits = self._shared.read()
        if bits is None:
            raise Locked("the service is locked")
        with self._root_of(bits) as root:
            yield root

    async def unlock(self, text: str) -> None:
        """Unlock every worker of the service with what people typed: an unlock key, or shares.

        Args:
            text: one unlock key, or enough shares, a line each.

        Raises:
            Mistyped: it cannot be right; says which line.
            WrongKey: it opens nothing here. Counted, and the next one has to wait longer each time.
            TooManyAttempts: it has to wait still; nothing was tried.
            Exists: the service is unlocked.
            Locked: somebody locked it meanwhile.
            Uninitialized: there is nothing to unlock.
            KeyringDamaged, ConfigurationError: the store's wraps or document are broken, or of a later version.
            Unavailable: the store does not answer.
        """
        since = self._shared.tick
        if self._shared.state in WITH_KEY:
            raise Exists("the service is unlocked already")
        sealed = await stored.read(self._store)
        if sealed is None:
            raise Uninitialized("there is no keyring")
        candidate = await asyncio.to_thread(unlock_keys.parse, text)
        held = {wrap.recipient: wrap for wrap in await wraps.wraps_of(self._store, sealed.root)}
        # From here on nothing is awaited until a wrong key is counted: many at once get no more tries than one.
        if (wait := self.wait) > 0:
            raise TooManyAttempts("wrong keys were given", wait)
        for key in candidate.keys:
            if key.kid in held:
                self._share(sealed, wraps.unwrap(held[key.kid], key), since)
                await self.sync()
                return
        self._shared.failed(self._clock())
        log.warning("a wrong unlock key was given (%d since the last right one)", self._shared.failures)
        raise WrongKey("no key that was given opens the keyring")

    async def unlock_unattended(self) -> None:
        """Unlock every worker of the service, as it would be when all of it starts anew: with nobody at hand.

        Raises:
            WrongKey: it takes a person.
            Exists: the service is unlocked.
            Uninitialized: there is nothing to unlock.
            StartupError: it should have opened, and did not; the text says what to do.
            Unavailable: the store does not answer.
        """
        since = self._shared.tick
        if self._shared.state in WITH_KEY:
            raise Exists("the service is unlocked already")
        sealed = await stored.read(self._store)
        if sealed is None:
            raise Uninitialized("there is no keyring")
        sealed, opened = await self._open_by_ways(sealed)
        if opened is None:
            raise WrongKey("an unlock key or shares are needed")
        self._share(sealed, opened, since)
        await self.sync()

    def lock(self) -> None:
        """Drop the root key and the data keys, in every worker of the service.

        Requests that are under way get `Locked` when they next use a key. Until somebody unlocks the service, or all
        of it starts anew, no worker opens the keyring by itself.
        """
        if self._shared.state is not State.UNINITIALIZED:
            self._shared.lock()
        self._drop()

    def forget(self) -> None:
        """Drop all keys, in every worker of the service: the store has no keyring any more, and is watched for one."""
        self._shared.lock(State.UNINITIALIZED)
        self._drop()

    @property
    def wrong_keys(self) -> int:
        """How many there were since the last right one."""
        return self._shared.failures

    @property
    def wait(self) -> float:
        """Seconds until another key may be tried."""
        return self._shared.wait_left(self._clock())

    def adopt(self, root: RootKey) -> None:
        """Unlock every worker with *root*, which has taken the place of the root key they hold."""
        since = self._shared.tick
        if self._shared.state in WITH_KEY:  # a lock that came meanwhile stays
            self._shared.unlock(root.reveal(), since)

    def changed(self) -> None:
        """Let every worker look at the keyring in the store again."""
        self._shared.touch()

    def halt(self) -> None:
        """Stop writing secrets in every worker, where not even that can be written down in the store."""
        self._shared.halt()

    def resume(self) -> None:
        """Let every worker write secrets again, unless the store says that none is to be written."""
        tick, state, bits = self._shared.read()
        if bits is not None:
            if state is State.HALTED:
                self._shared.unlock(bits, tick)
            bits[:] = bytes(len(bits))

    @contextlib.contextmanager
    def _root_of(self, bits: bytearray) -> Iterator[RootKey]:
        """Give the root key of these *bits*, which are wiped, as the key is in the end."""
        root = RootKey(bytes(bits), self.seen)
        bits[:] = bytes(len(bits))
        try:
            yield root
        finally:
            root.wipe()


async def _while_newer_are_seen(act: Callable[[], Awaitable[T]]) -> T:
    """Return what *act* returns; what another worker has seen since the keyring was read makes it no old one."""
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(KeyringOutdated):
            return await act()
    return await act()

"""Workers that hold keys: they lock and unlock together, follow what others do to the keyring, and outlive faults."""

import asyncio
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from strongroom.models.names import KEYRING_DOCUMENT
from strongroom.storage_service.backends.base import Backend, Delete, Put
from strongroom.storage_service.backends.faulty import Fault, FaultyBackend
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import (
    Exists,
    Halted,
    Internal,
    KeyringDamaged,
    Locked,
    TooManyAttempts,
    Unavailable,
    Undecipherable,
    WrongKey,
)
from strongroom.storage_service.jose import jwe
from strongroom.storage_service.jose.key import Key
from strongroom.storage_service.keyring import holder as module
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.holder import Holder
from strongroom.storage_service.keyring.opening import unlock_keys, wraps
from strongroom.storage_service.keyring.opening.unattended import as_recipient
from strongroom.storage_service.keyring.opening.unlock_keys import Mistyped
from strongroom.storage_service.keyring.rootkey import RootKey
from strongroom.storage_service.keyring.shared_root import FIRST_WAIT, SharedRoot, State
from tests.keyring.keeping import (
    NOW,
    PUT,
    ROOT_BITS,
    STRANGER,
    Services,
    Waiting,
    changed,
    given,
    key_file,
    rotated_root,
    unlock_key,
    unlocked,
    until,
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers look at the shared root so often that no test waits for it."""
    monkeypatch.setattr(module, "LOOK", 0.002)


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


# Workers that lock and unlock together.


@pytest.mark.parametrize("workers", [1, 2, 4])
async def test_an_unlock_in_one_worker_is_one_in_all(store: MemoryBackend, services: Services, workers: int) -> None:
    """Started locked, all workers serve secrets from the next request on after any of them was unlocked."""
    text, key = unlock_key()
    await given(store, key)
    shared = SharedRoot()
    started = [await services.start(store, shared) for _ in range(workers)]
    for worker in started:
        assert worker.holder.state is State.LOCKED
        for act in (worker.reads(), worker.secrets.commit([PUT]), worker.holder.sync()):
            with pytest.raises(Locked):
                await act

    await started[0].holder.unlock(text)

    for worker in reversed(started):
        assert worker.holder.state is State.UNLOCKED
        await worker.secrets.commit([PUT])
        assert await worker.reads() == b"value"


@pytest.mark.parametrize("workers", [1, 2, 4])
async def test_a_lock_in_one_worker_is_one_in_all(store: MemoryBackend, services: Services, workers: int) -> None:
    """From the lock on no request in any worker gets a key, and soon no worker has one, asked or not."""
    async with unlocked(store, services, workers) as (started, text):
        rings = [await worker.holder.sync() for worker in started]

        started[0].holder.lock()

        for worker in started:
            assert worker.holder.current is None
            assert worker.holder.state is State.LOCKED
        await until(lambda: all(worker.ring is None for worker in started))
        for ring in rings:
            with pytest.raises(Locked):
                ring.active().reveal()
        for worker in started:
            for act in (worker.reads(), worker.secrets.commit([PUT]), worker.secrets.list("secrets/")):
                with pytest.raises(Locked):
                    await act

        await started[-1].holder.unlock(text)
        assert [await worker.reads() for worker in started] == [b"value"] * workers


async def test_a_lock_elsewhere_is_found_by_the_next_request(
    store: MemoryBackend, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is asked for a secret before it has looked at the shared root drops its keys then and there."""
    monkeypatch.setattr(module, "LOOK", 3600)
    async with unlocked(store, services, 2) as (started, _):
        ring = await started[1].holder.sync()
        started[0].holder.lock()
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
    shared = SharedRoot()
    first = await services.by_file(store, path, shared)
    await first.secrets.commit([PUT])

    late = await services.start(store, shared)
    assert await late.reads() == b"value"

    late.holder.lock()
    later = await services.by_file(store, path, shared)
    assert later.holder.state is State.LOCKED
    with pytest.raises(Locked):
        await later.reads()
    assert shared.tick == 2

    new = await services.by_file(store, path)  # a service that starts anew, with a shared root of its own
    assert await new.reads() == b"value"


async def test_a_locked_service_asks_nothing_of_the_store(store: MemoryBackend, services: Services) -> None:
    """Requests to a locked service cost no read of the keyring, however many there are."""
    async with unlocked(store, services, 1) as ([worker], _):
        worker.holder.lock()
        await until(lambda: worker.ring is None)
        store.calls.clear()
        for _ in range(10):
            with pytest.raises(Locked):
                await worker.reads()

        assert store.calls.total() == 0


# Typing keys.


async def test_any_of_several_unlock_keys_opens(store: MemoryBackend, services: Services) -> None:
    """Each holder of an unlock key can unlock; so can whoever holds keys of other stores beside the right one."""
    keys = unlock_keys.make_keys(3)
    await given(store, *(key for _, key in keys))
    worker = await services.start(store)
    for text in (keys[0][0].reveal(), f"{unlock_key()[0]}\n{keys[2][0].reveal().lower()}"):
        await worker.holder.unlock(text)
        assert worker.holder.state is State.UNLOCKED
        worker.holder.lock()


async def test_enough_shares_open_together(store: MemoryBackend, services: Services) -> None:
    """Fewer than needed are told how many are missing, which counts as no wrong key."""
    shares, key = unlock_keys.make_shares(2, 3)
    await given(store, key)
    worker = await services.start(store)

    with pytest.raises(Mistyped, match="1 more share is needed"):
        await worker.holder.unlock(shares[0].reveal())
    assert worker.holder.wrong_keys == 0
    await worker.holder.unlock("\n".join(share.reveal() for share in shares[1:]))

    assert worker.holder.state is State.UNLOCKED


async def test_wrong_keys_are_counted_and_slowed(store: MemoryBackend, services: Services) -> None:
    """Each wrong key makes the next wait twice as long, in all workers, up to half a minute; a right one forgets it."""
    text, key = unlock_key()
    await given(store, key)
    shared = SharedRoot()
    workers = [await services.start(store, shared) for _ in range(2)]
    wrong = unlock_key()[0]
    waits = []
    for number in range(9):
        one, other = workers[number % 2].holder, workers[1 - number % 2].holder
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
    await workers[0].holder.unlock(text)
    assert (workers[1].holder.wrong_keys, workers[1].holder.wait) == (0, 0.0)


async def test_many_tries_at_once_are_one(store: MemoryBackend, services: Services) -> None:
    """Who sends wrong keys all at the same moment has one of them tried."""
    await given(store, unlock_key()[1])
    worker = await services.start(store)

    outcomes = await asyncio.gather(*(worker.holder.unlock(unlock_key()[0]) for _ in range(20)), return_exceptions=True)

    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["TooManyAttempts"] * 19 + ["WrongKey"]
    assert worker.holder.wrong_keys == 1


async def test_what_cannot_be_a_key_is_not_counted(store: MemoryBackend, services: Services) -> None:
    """A mistyped key is told by its line, slows nobody, and repeats nothing."""
    text, key = unlock_key()
    await given(store, key)
    worker = await services.start(store)
    for typed in ("", "canary", text[:-1] + ("0" if text[-1] != "0" else "1")):
        with pytest.raises(Mistyped) as caught:
            await worker.holder.unlock(typed)
        assert "canary" not in str(caught.value)
        assert text[4:20] not in "".join(traceback.format_exception(caught.value))

    assert (worker.holder.wrong_keys, worker.holder.wait) == (0, 0.0)


async def test_an_unlocked_service_is_not_unlocked(store: MemoryBackend, services: Services) -> None:
    """Keys are not tried against a service that is open: nobody learns there whether one is right."""
    async with unlocked(store, services, 2) as (started, text):
        for typed in (text, unlock_key()[0], "nonsense"):
            with pytest.raises(Exists):
                await started[0].holder.unlock(typed)
        assert started[0].holder.wrong_keys == 0


async def test_a_broken_keyring_is_not_a_wrong_key(store: MemoryBackend, services: Services) -> None:
    """Who types the right key is told that the wrap, or the keyring, is broken; the service stays locked."""
    text, key = unlock_key()
    root = await given(store, key)
    worker = await services.start(store)
    sound = await store.get_many([KEYRING_DOCUMENT, wraps.name_of(root.kid, key.kid)])
    for name, value in (
        (wraps.name_of(root.kid, key.kid), wraps.put(wraps.wrap(root, Key(key.kid, bytes(64)), NOW)).value),
        (KEYRING_DOCUMENT, jwe.encrypt(Key(root.kid, bytes(64)), KEYRING_DOCUMENT, b"{}")),
    ):
        await store.commit([Put(name, value)])
        with pytest.raises(KeyringDamaged, match="its tag is wrong"):
            await worker.holder.unlock(text)
        assert (worker.holder.state, worker.holder.wrong_keys) == (State.LOCKED, 0)
        await store.commit([Put(name, sound[name].value)])

    await worker.holder.unlock(text)


async def test_two_who_unlock_at_one_moment_both_succeed(store: MemoryBackend, services: Services) -> None:
    """It is unlocked once, and neither of them is told off."""
    keys = unlock_keys.make_keys(2)
    await given(store, *(key for _, key in keys))
    shared = SharedRoot()
    workers = [await services.start(store, shared) for _ in range(2)]
    before = shared.tick

    await asyncio.gather(*(w.holder.unlock(text.reveal()) for w, (text, _) in zip(workers, keys, strict=True)))

    assert shared.tick == before + 1


# A lock that comes in between.


async def test_a_lock_undoes_an_unlock_under_way(store: MemoryBackend, services: Services) -> None:
    """At whichever step of an unlock somebody locks the service, it is locked, and whoever unlocks is told."""
    text, key = unlock_key()
    await given(store, key)
    slow = FaultyBackend(store)
    shared = SharedRoot()
    one, other = await services.start(slow, shared), await services.start(store, shared)
    steps = len(slow.operations)
    await one.holder.unlock(text)
    steps = len(slow.operations) - steps
    assert steps > 3

    for step in range(steps):
        one.holder.lock()
        await until(lambda: one.ring is None)
        slow._released.clear()
        slow.faults = {len(slow.operations) + step: Fault.SLOW}
        begun = len(slow.operations)
        unlocking = asyncio.create_task(one.holder.unlock(text))
        await until(lambda begun=begun, step=step: len(slow.operations) > begun + step)  # type: ignore[misc]
        other.holder.lock()
        slow.release()

        with pytest.raises(Locked):
            await unlocking
        assert shared.read()[1:] == (State.LOCKED, None)
        assert one.holder.current is None
        assert one.ring is None
    await other.holder.unlock(text)


async def test_a_lock_holds_who_is_reading_the_keys(store: MemoryBackend, services: Services) -> None:
    """A worker that is opening the keyring while another locks the service gives out no ring, and keeps none."""
    async with unlocked(store, services, 1) as ([other], _):
        slow = FaultyBackend(store)
        shared = other.holder._shared
        late = Holder(slow, shared, [])
        slow.faults = {0: Fault.SLOW}
        reading = asyncio.create_task(late.sync())
        await until(lambda: bool(slow.operations))
        other.holder.lock()
        slow.release()

        with pytest.raises(Locked):
            await reading
        assert late._ring is None


async def test_a_lock_holds_who_is_starting(store: MemoryBackend, services: Services) -> None:
    """An operator who locks the service while a worker is still opening a file has locked it."""
    root = await given(store)
    shared = SharedRoot()
    way = Waiting(root)
    starting = asyncio.create_task(services.start(store, shared, [way]))
    await way.asked.wait()
    shared.lock()
    way.go_on.set()
    worker = await starting

    assert worker.holder.state is State.LOCKED
    with pytest.raises(Locked):
        await worker.reads()


async def test_a_batch_under_way_when_the_lock_falls_writes_nothing(store: MemoryBackend, services: Services) -> None:
    """What is being encrypted then is Locked, in the worker that locks and in any other; the store sees none of it."""
    async with unlocked(store, services, 2) as (started, text):
        before = (await store.list("")).names
        puts = [Put(f"secrets/{number}", bytes(200_000)) for number in range(8)]
        for worker in started:
            await worker.holder.sync()
            writing = asyncio.create_task(worker.secrets.commit(puts))
            await asyncio.sleep(0)
            assert not writing.done()
            worker.holder.lock()

            with pytest.raises(Locked):
                await writing
            assert (await store.list("")).names == before
            await worker.holder.unlock(text)


async def test_the_watch_drops_keys_though_the_store_hangs(store: MemoryBackend, services: Services) -> None:
    """A worker that waits for a store that does not answer drops its keys as soon as any other."""
    text, key = unlock_key()
    await given(store, key)
    slow = FaultyBackend(store)
    shared = SharedRoot()
    worker, other = await services.start(slow, shared), await services.start(store, shared)
    await worker.holder.unlock(text)
    held = worker.ring
    assert held is not None
    slow.faults = {len(slow.operations): Fault.SLOW}
    hanging = asyncio.create_task(worker.holder.refresh(held))
    await asyncio.sleep(0)

    other.holder.lock()

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
    shared = SharedRoot()
    text, key = unlock_key()
    workers = [await services.by_file(store, path, shared, autogen=False) for _ in range(2)]
    assert shared.state is State.UNINITIALIZED
    await given(store, as_recipient(key_file(path)) if known else key)

    await until(lambda: shared.state is (State.UNLOCKED if known else State.LOCKED))

    if not known:
        await workers[0].holder.unlock(text)
    assert [await worker.reads() for worker in workers] == [None, None]


async def test_a_keyring_made_elsewhere_can_be_unlocked_at_once(
    store: MemoryBackend, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is quicker than the look at the store need not wait for it."""
    monkeypatch.setattr(module, "LOOK", 3600)
    worker = await services.start(store)
    text, key = unlock_key()
    await given(store, key)
    await worker.holder.unlock(text)

    assert await worker.reads() is None


async def test_a_key_rotated_elsewhere_is_used(store: MemoryBackend, services: Services) -> None:
    """Writes go under the generation that another machine made, and its values open, though nobody said a word."""
    async with unlocked(store, services, 2) as (started, _):
        await changed(store, lambda document: document.rotated("default", NOW))
        await started[0].secrets.commit([Put("secrets/b", b"new")])

        entry = await store.get("secrets/b")
        assert entry is not None
        assert jwe.kid_of(entry.value) == "default.2"
        assert await started[1].reads("secrets/b") == b"new"
        assert [repr(worker.ring) for worker in started] == ["<Ring access.1* default.1 default.2*>"] * 2


async def test_a_change_here_is_told_to_all(store: MemoryBackend, services: Services) -> None:
    """After `changed` every worker has the new keyring before its next request, and soon without one."""
    async with unlocked(store, services, 3) as (started, _):
        await changed(store, lambda document: document.rotated("default", NOW))
        started[0].holder.changed()

        assert all(worker.holder.current is None for worker in started)
        await until(lambda: all(worker.holder.current is not None for worker in started))
        assert {repr(worker.ring) for worker in started} == {"<Ring access.1* default.1 default.2*>"}


async def test_a_refresh_that_finds_nothing_gives_the_same_ring(store: MemoryBackend, services: Services) -> None:
    """Whoever asks for a newer ring and there is none has theirs back; whoever is behind has the one that is here."""
    async with unlocked(store, services, 1) as ([worker], _):
        ring = await worker.holder.sync()
        assert await worker.holder.refresh(ring) is ring
        await changed(store, lambda document: document.rotated("default", NOW))
        newer = await worker.holder.refresh(ring)
        assert newer is not ring
        reads = store.calls.total()
        assert await worker.holder.refresh(ring) is newer
        assert store.calls.total() == reads
        assert ring.active().reveal(), "requests under way may use it still"


async def test_a_key_that_nobody_has_is_looked_for_once_a_read(store: MemoryBackend, services: Services) -> None:
    """A planted value under an unknown key is Undecipherable, and the ring stays what it is."""
    async with unlocked(store, services, 1) as ([worker], _):
        stranger = jwe.encrypt(Key("default.9", bytes(64)), "secrets/x", b"x")
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
    shared = SharedRoot()
    workers = [await services.by_file(store, path, shared) for _ in range(2)]
    await rotated_root(store, STRANGER, recipient)

    await workers[0].secrets.commit([PUT])

    assert [await worker.reads() for worker in workers] == [b"value"] * 2
    _, state, bits = shared.read()
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
        assert started[1].holder.state is State.LOCKED
        assert "rotated elsewhere; unlock this service with the new keys" in caplog.text
        with pytest.raises(WrongKey):
            await started[0].holder.unlock(old)
        services.clock.now += FIRST_WAIT
        await started[0].holder.unlock(text)
        assert [await worker.reads() for worker in started] == [b"value"] * 2


# Operations on the keyring.


async def test_the_root_key_is_given_for_one_operation(store: MemoryBackend, services: Services) -> None:
    """Whoever has it for an operation has it no longer afterwards, however the operation ended."""
    async with unlocked(store, services, 1) as ([worker], _):
        async with worker.holder.root() as root:
            assert root == RootKey(ROOT_BITS)
        with pytest.raises(Locked):
            root.reveal()
        with pytest.raises(RuntimeError):
            async with worker.holder.root() as root:
                raise RuntimeError
        with pytest.raises(Locked):
            root.reveal()

        worker.holder.lock()
        with pytest.raises(Locked):
            async with worker.holder.root():
                pytest.fail("there is none")


async def test_an_operation_has_the_root_key_of_now(store: MemoryBackend, path: Path, services: Services) -> None:
    """An operation begins with the keyring as it is in the store, also if another machine rotated the root key."""
    recipient = as_recipient(key_file(path))
    await given(store, recipient)
    worker = await services.by_file(store, path)
    await rotated_root(store, STRANGER, recipient)

    async with worker.holder.root() as root:
        await stored.edit(store, root, lambda document: document.rotated("default", NOW))

    assert root.kid == STRANGER.kid


async def test_a_halt_stops_writing_in_all_workers(store: MemoryBackend, services: Services) -> None:
    """Halted, values are read and deleted and none is written, in every worker, until it is resumed."""
    async with unlocked(store, services, 2) as (started, _):
        started[0].holder.halt()
        for worker in started:
            assert worker.holder.state is State.HALTED
            assert await worker.reads() == b"value"
            with pytest.raises(Halted):
                await worker.secrets.commit([PUT])
        late = await services.start(store, started[0].holder._shared)
        with pytest.raises(Halted):
            await late.secrets.commit([PUT])

        late.holder.resume()
        for worker in (*started, late):
            await worker.secrets.commit([PUT])


async def test_a_halt_in_the_store_outlives_the_service(store: MemoryBackend, services: Services) -> None:
    """What the document says halts every service, and no worker can lift it but by changing the document."""
    async with unlocked(store, services, 2) as (started, _):
        await changed(store, lambda document: document.halt("default", NOW, "why"))
        started[0].holder.changed()
        started[0].holder.resume()
        for worker in started:
            with pytest.raises(Halted):
                await worker.secrets.commit([PUT])
        await changed(store, lambda document: document.resumed())
        started[0].holder.changed()
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
            started[1].holder.lock()
        await rotated_root(store, STRANGER, key)
        started[0].holder.adopt(STRANGER)

        assert started[1].holder.state is state
        if state is State.LOCKED:
            await started[0].holder.unlock(text)
        assert [await worker.reads() for worker in started] == [b"value"] * 2


# What breaks under a service that runs.


async def deleted(store: Backend) -> None:
    await store.commit([Delete(KEYRING_DOCUMENT)])


async def replaced_by_garbage(store: Backend) -> None:
    await store.commit([Put(KEYRING_DOCUMENT, b"garbage")])


async def edited_under_us(store: Backend) -> None:
    await store.commit(
        [Put(KEYRING_DOCUMENT, jwe.encrypt(Key(RootKey(ROOT_BITS).kid, bytes(64)), KEYRING_DOCUMENT, b"{}"))]
    )


async def rewritten_by_the_future(store: Backend) -> None:
    await store.commit([Put(KEYRING_DOCUMENT, jwe.encrypt(RootKey(ROOT_BITS), KEYRING_DOCUMENT, b'{"format":4}'))])


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
        sound = await store.get(KEYRING_DOCUMENT)
        assert sound is not None
        await breaks(store)
        before = await store.list("")

        with pytest.raises(Internal):
            await started[0].secrets.commit([Put("secrets/b", b"x")])
        with pytest.raises(Internal):
            async with started[0].holder.root():
                pytest.fail("there is nothing to operate on")
        started[1].holder.changed()
        for worker in started:
            with pytest.raises(Internal):
                await worker.reads()
        assert await store.list("") == before

        await store.commit([Put(KEYRING_DOCUMENT, sound.value)])
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
        started[0].holder.changed()
        await until(lambda: len(asked.operations) > begun + 20)
        for worker in started:
            with pytest.raises(Unavailable):
                await worker.holder.sync()
        said = [record for record in caplog.records if "could not be followed" in record.message]
        assert len(said) == len(started)

        await store.open()
        await until(lambda: all(worker.holder.current is not None for worker in started))
        assert {repr(worker.ring) for worker in started} == {"<Ring access.1* default.1 default.2*>"}


async def test_a_lock_needs_no_store(store: MemoryBackend, services: Services) -> None:
    """With the store gone, a lock holds in every worker, and their keys are wiped."""
    async with unlocked(store, services, 2) as (started, _):
        rings = [await worker.holder.sync() for worker in started]
        await store.close()
        started[0].holder.lock()

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
        await started[0].holder.close()

        with pytest.raises(Locked):
            ring.active().reveal()
        assert await started[1].reads() == b"value"


async def test_opening_is_told(store: MemoryBackend, services: Services) -> None:
    """Whoever asked is told each time that a worker has keys and had none, and not of a change of them."""
    async with unlocked(store, services, 1) as ([worker], text):
        told: list[str] = []
        worker.holder.on_open = lambda: told.append("open")
        await changed(store, lambda document: document.rotated("default", NOW))
        worker.holder.changed()
        await worker.holder.sync()
        assert told == []
        worker.holder.lock()
        await worker.holder.unlock(text)
        assert told == ["open"]

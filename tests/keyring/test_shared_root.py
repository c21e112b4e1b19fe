"""The root key that all workers share: every process sees it alike, it is whole whoever dies, and gone once locked."""

import copy
import logging
import os
import pickle
import resource
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from strongroom.storage_service.keyring import shared_root as module
from strongroom.storage_service.keyring.shared_root import SharedRoot, State
from tests.forking import end_of, fork, in_child
from tests.keyring.shared_roots import (
    BITS,
    KILLED,
    NOW,
    OTHER,
    fail,
    halt,
    key_of,
    killed_at_each,
    lock,
    memory,
    told,
    touch,
    uninitialized,
    unlock,
    unlock_with_another,
)

NOBODY: Final = 65534


@pytest.fixture
def shared() -> Iterator[SharedRoot]:
    """A shared root that nobody has touched yet."""
    made = SharedRoot()
    yield made
    made.close()


STORIES: Final = {
    "nobody has done anything": ([], State.FRESH, 0, None),
    "the store is new": ([uninitialized], State.UNINITIALIZED, 1, None),
    "opened": ([unlock], State.UNLOCKED, 1, BITS),
    "locked": ([unlock, lock], State.LOCKED, 2, None),
    "locked twice": ([unlock, lock, lock], State.LOCKED, 3, None),
    "opened again": ([unlock, lock, unlock], State.UNLOCKED, 3, BITS),
    "opened with another root key": ([unlock, unlock_with_another], State.UNLOCKED, 2, OTHER),
    "halted: reading needs the key": ([unlock, halt], State.HALTED, 2, BITS),
    "halted while locked": ([lock, halt], State.LOCKED, 2, None),
    "halted, then locked": ([unlock, halt, lock], State.LOCKED, 3, None),
    "halted, then opened": ([unlock, halt, unlock], State.UNLOCKED, 3, BITS),
    "the keyring has changed": ([unlock, touch], State.UNLOCKED, 2, BITS),
    "changed while locked": ([lock, touch], State.LOCKED, 2, None),
    "a wrong key is no change": ([lock, fail], State.LOCKED, 1, None),
    "a wrong key takes no right one away": ([unlock, fail, fail], State.UNLOCKED, 1, BITS),
}


@pytest.mark.parametrize("story", STORIES)
def test_what_the_page_tells(shared: SharedRoot, story: str) -> None:
    """State, tick and key after each story; and the bits are nowhere in the shared root but where they belong."""
    acts, state, tick, octets = STORIES[story]

    for act in acts:
        act(shared)

    assert shared.read() == (tick, state, octets)
    assert (shared.tick, shared.state) == (tick, state)
    for bits in (BITS, OTHER):
        assert memory(shared).count(bits) == (1 if bits == octets else 0)


def test_changes_return_the_generation(shared: SharedRoot) -> None:
    """Each says which tick it made."""
    made = [shared.lock(State.UNINITIALIZED), shared.unlock(BITS), shared.touch(), shared.halt(), shared.lock()]

    assert made == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("act", [lambda shared: shared.unlock(OTHER, 0), lambda shared: shared.lock(since=0)])
def test_what_is_out_of_date_is_not_done(shared: SharedRoot, act: Callable[[SharedRoot], int]) -> None:
    """Whoever acts upon an older tick changes nothing, and learns which it is now."""
    shared.unlock(BITS, since=0)
    before = told(shared)

    assert act(shared) == 1
    assert told(shared) == before


def test_what_is_up_to_date_is_done(shared: SharedRoot) -> None:
    """The same with the tick that is."""
    assert shared.unlock(BITS, since=0) == 1
    assert shared.lock(State.LOCKED, since=1) == 2


def test_the_copy_is_the_callers(shared: SharedRoot) -> None:
    """Wiping what was read wipes nothing in the shared root, and what was given may be wiped, too."""
    given = bytearray(BITS)
    shared.unlock(given)
    given[:] = bytes(64)
    _, _, octets = shared.read()
    assert octets is not None
    octets[:] = bytes(64)

    assert key_of(shared) == BITS


class TestWaiting:
    """How long after wrong keys none is tried."""

    def test_waits_grow(self, shared: SharedRoot) -> None:
        """Doubling from a quarter of a second to half a minute, however many there were."""
        assert [shared.failed(NOW) for _ in range(10)] == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
        for _ in range(2000):
            shared.failed(NOW)
        assert (shared.failures, shared.failed(NOW)) == (2010, 30.0)

    def test_a_wait_passes(self, shared: SharedRoot) -> None:
        """None before the first wrong key, and none afterwards."""
        assert shared.wait_left(NOW) == 0.0
        shared.failed(NOW)
        waits = [shared.wait_left(NOW + seconds) for seconds in (0, 0.125, 0.25, 60)]
        assert waits == [0.25, 0.125, 0.0, 0.0]

    def test_a_wait_is_not_shortened(self, shared: SharedRoot) -> None:
        """A worker that read its clock a little earlier takes nothing away from what another has said."""
        for _ in range(8):
            shared.failed(NOW)
        assert shared.failed(NOW - 1) == 31.0

    def test_a_right_key_ends_it(self, shared: SharedRoot) -> None:
        """It is forgotten by an unlock, and by nothing else."""
        shared.failed(NOW)
        shared.lock()
        shared.touch()
        assert (shared.failures, shared.wait_left(NOW)) == (1, 0.25)
        shared.unlock(BITS)
        assert (shared.failures, shared.wait_left(NOW)) == (0, 0.0)

    def test_all_workers_wait(self, shared: SharedRoot) -> None:
        """The count is one for all processes: as many tries as one worker allows, not as many times the workers."""
        children = [fork(lambda: [shared.failed(NOW) for _ in range(50)]) for _ in range(4)]

        assert [end_of(child) for child in children] == [0] * 4
        assert shared.failures == 200


class TestProcesses:
    """Workers and their master."""

    def test_one_unlocks_all(self, shared: SharedRoot) -> None:
        """What one worker does, another that runs, one that starts later, and the master see."""
        told_reading, told_writing = os.pipe()
        go_reading, go_writing = os.pipe()

        def wait_and_tell() -> None:
            os.read(go_reading, 1)
            os.write(told_writing, key_of(shared) or b"none")

        running = fork(wait_and_tell)
        assert end_of(fork(lambda: shared.unlock(BITS))) == 0
        os.write(go_writing, b".")

        assert os.read(told_reading, 64) == BITS
        assert end_of(running) == 0
        assert in_child(lambda: (shared.tick, shared.state, list(key_of(shared) or b""))) == [1, 3, list(BITS)]
        assert shared.read() == (1, State.UNLOCKED, BITS)
        assert in_child(shared.lock) == 2
        assert (shared.state, key_of(shared)) == (State.LOCKED, None)
        for descriptor in (told_reading, told_writing, go_reading, go_writing):
            os.close(descriptor)

    def test_writers_take_turns(self, shared: SharedRoot) -> None:
        """No change is lost between processes that change it at the same time, nor between threads of each."""

        def worker() -> None:
            threads = [threading.Thread(target=lambda: [shared.touch() for _ in range(100)]) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        children = [fork(worker) for _ in range(3)]

        assert [end_of(child) for child in children] == [0] * 3
        assert shared.tick == 900

    def test_nobody_reads_half_a_key(self, shared: SharedRoot) -> None:
        """While others replace it and take it away, a reader has a whole key of theirs, or none when locked."""

        def replace(octet: int) -> None:
            for _ in range(300):
                shared.unlock(bytes([octet]) * 64)
                shared.lock()

        writers = [fork(partial(replace, octet)) for octet in (1, 2)]
        seen = set()
        while writers:
            _, state, octets = shared.read()
            assert (octets is None) == (state in {State.FRESH, State.LOCKED})
            assert octets is None or bytes(octets) in {b"\1" * 64, b"\2" * 64}
            seen.add(state)
            pid, status = os.waitpid(writers[0], os.WNOHANG)
            if pid:
                assert status == 0
                writers.remove(pid)
        assert State.LOCKED in seen | {shared.state}

    def test_a_close_is_ones_own(self, shared: SharedRoot) -> None:
        """A worker that ends lets go of its view; the others keep theirs."""
        shared.unlock(BITS)

        assert in_child(lambda: [shared.close(), repr(shared)]) == [None, "<SharedRoot closed>"]
        assert key_of(shared) == BITS


@pytest.mark.parametrize("story", KILLED)
def test_who_is_killed_leaves_the_page_whole(story: str) -> None:
    """Killed before each single bytecode of a change: up to one of them nothing has happened, from there on all of it.

    The others can go on, and once one of them has read the shared root no key bits are left but the key's own.
    """
    happened, whole = zip(*killed_at_each(story), strict=True)

    assert all(whole), "bits of a key are left, or too few"
    after = happened[-1]
    turned = happened.index(after)
    assert after is not None
    assert 0 < turned < len(happened) - 1
    assert happened == (None,) * turned + (after,) * (len(happened) - turned)


def test_what_does_not_hold_says_nothing(shared: SharedRoot) -> None:
    """Whatever stands in the record that does not hold, whole or torn, it is no key, no count, and wiped at once."""
    shared.unlock(BITS)
    shared.lock()
    for record in module._RECORDS:
        shared._bytes[record : record + module._RECORD_SIZE] = bytes(module._RECORD_SIZE)
    spare = module._RECORDS[1 - (shared._word[0] & 1)]
    shared._bytes[spare : spare + module._RECORD_SIZE] = b"\xff" * module._RECORD_SIZE

    assert told(shared) == (2, State.LOCKED, None, 0, 0.0)
    assert b"\xff" not in memory(shared)


class TestMemory:
    """What the kernel is asked for the shared root."""

    @staticmethod
    def flags() -> list[str]:
        """Return what the kernel says of this process' view of the shared root."""
        maps = Path("/proc/self/smaps").read_text().partition("/memfd:strongroom")[2]
        return maps.partition("VmFlags:")[2].partition("\n")[0].split()

    def test_no_core_dump_has_it(self, shared: SharedRoot) -> None:
        """The shared root is left out ("dd"), in every worker."""
        shared.touch()

        assert "dd" in self.flags()
        assert "dd" in in_child(self.flags)

    def test_it_is_not_swapped_out(self, shared: SharedRoot) -> None:
        """The shared root is locked into memory ("lo") where the process may do so."""
        soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)

        assert ("lo" in self.flags()) == (os.geteuid() == 0 or soft == resource.RLIM_INFINITY or soft >= 4096)

    def test_it_goes_without(self) -> None:
        """Where it may not be locked, a warning says so, and it works."""

        def act() -> object:
            said: list[str] = []
            handler = logging.Handler()
            handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
            logging.getLogger("strongroom.storage_service.hardening").addHandler(handler)
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
            if os.geteuid() == 0:
                os.setresuid(NOBODY, NOBODY, NOBODY)  # root may lock whatever the limit
            shared = SharedRoot()
            shared.unlock(BITS)
            return said, list(key_of(shared) or b"")

        (warning,), octets = in_child(act)

        assert warning.startswith("the root key's page can be swapped out (RLIMIT_MEMLOCK): ")
        assert bytes(octets) == BITS


class TestRedaction:
    """The key comes out of `read` and nowhere else."""

    def test_repr(self, shared: SharedRoot) -> None:
        """It shows state and tick."""
        shared.unlock(BITS)
        assert repr(shared) == "<SharedRoot UNLOCKED tick 1>"

    @pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
    def test_a_page_is_not_copied(self, shared: SharedRoot, copied: Callable[[SharedRoot], object]) -> None:
        """It is shared by inheritance alone."""
        with pytest.raises(TypeError, match="a shared root is inherited over a fork, not pickled"):
            copied(shared)

    @pytest.mark.parametrize("size", [0, 32, 63, 65])
    def test_a_key_of_another_size_is_refused(self, shared: SharedRoot, size: int) -> None:
        """The refusal quotes nothing, and nothing is changed."""
        with pytest.raises(ValueError, match=r"^a root key is 64 bytes$"):
            shared.unlock(b"k" * size)
        assert shared.read() == (0, State.FRESH, None)

    @pytest.mark.parametrize("state", [State.UNLOCKED, State.HALTED])
    def test_no_state_without_its_key(self, shared: SharedRoot, state: State) -> None:
        """A shared root is not locked into a state that has a key."""
        with pytest.raises(ValueError, match="without a root key"):
            shared.lock(state)
        assert shared.read() == (0, State.FRESH, None)

    def test_a_closed_page_tells_nothing(self) -> None:
        """Whatever is asked of it is an error, and its memory is no longer mapped."""
        before = Path("/proc/self/maps").read_text().count("memfd:strongroom")
        shared = SharedRoot()
        shared.unlock(BITS)
        shared.close()

        assert repr(shared) == "<SharedRoot closed>"
        for ask in (lambda: shared.tick, lambda: shared.state, shared.read, shared.touch):
            with pytest.raises(ValueError, match=r"released|negative"):
                ask()
        assert Path("/proc/self/maps").read_text().count("memfd:strongroom") == before

"""The page that all workers share: seen by every process alike, whole whoever dies, and without a key once locked."""

import copy
import itertools
import logging
import os
import pickle
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from strongroom.storage_service.keyring import shared_root as module
from strongroom.storage_service.keyring.shared_root import Page, State
from tests.forking import end_of, fork, in_child, killed_at

BITS: Final = bytes(range(100, 164))
OTHER: Final = bytes(range(164, 228))
NOW: Final = 1000.0  # seconds; any clock will do
NOBODY: Final = 65534


@pytest.fixture
def page() -> Iterator[Page]:
    """A page that nobody has touched yet."""
    made = Page()
    yield made
    made.close()


def memory(page: Page) -> bytes:
    """Return all that is in the page."""
    return bytes(page._bytes)


def key_of(page: Page) -> bytes | None:
    _, _, octets = page.read()
    return None if octets is None else bytes(octets)


def told(page: Page) -> tuple[object, ...]:
    """Return all that the page tells."""
    tick, state, octets = page.read()
    return tick, state, octets, page.failures, page.wait_left(NOW)


def unlock(page: Page) -> object:
    return page.unlock(BITS)


def unlock_with_another(page: Page) -> object:
    return page.unlock(OTHER)


def lock(page: Page) -> object:
    return page.lock()


def halt(page: Page) -> object:
    return page.halt()


def touch(page: Page) -> object:
    return page.touch()


def fail(page: Page) -> object:
    return page.failed(NOW)


def uninitialized(page: Page) -> object:
    return page.lock(State.UNINITIALIZED)


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
def test_what_the_page_tells(page: Page, story: str) -> None:
    """State, tick and key after each story; and the bits are nowhere in the page but where they belong."""
    acts, state, tick, octets = STORIES[story]

    for act in acts:
        act(page)

    assert page.read() == (tick, state, octets)
    assert (page.tick, page.state) == (tick, state)
    for bits in (BITS, OTHER):
        assert memory(page).count(bits) == (1 if bits == octets else 0)


def test_changes_return_the_generation(page: Page) -> None:
    """Each says which tick it made."""
    made = [page.lock(State.UNINITIALIZED), page.unlock(BITS), page.touch(), page.halt(), page.lock()]

    assert made == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("act", [lambda page: page.unlock(OTHER, 0), lambda page: page.lock(since=0)])
def test_what_is_out_of_date_is_not_done(page: Page, act: Callable[[Page], int]) -> None:
    """Whoever acts upon an older tick changes nothing, and learns which it is now."""
    page.unlock(BITS, since=0)
    before = told(page)

    assert act(page) == 1
    assert told(page) == before


def test_what_is_up_to_date_is_done(page: Page) -> None:
    """The same with the tick that is."""
    assert page.unlock(BITS, since=0) == 1
    assert page.lock(State.LOCKED, since=1) == 2


def test_the_copy_is_the_callers(page: Page) -> None:
    """Wiping what was read wipes nothing in the page, and what was given may be wiped, too."""
    given = bytearray(BITS)
    page.unlock(given)
    given[:] = bytes(64)
    _, _, octets = page.read()
    assert octets is not None
    octets[:] = bytes(64)

    assert key_of(page) == BITS


class TestWaiting:
    """How long after wrong keys none is tried."""

    def test_waits_grow(self, page: Page) -> None:
        """Doubling from a quarter of a second to half a minute, however many there were."""
        assert [page.failed(NOW) for _ in range(10)] == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
        for _ in range(2000):
            page.failed(NOW)
        assert (page.failures, page.failed(NOW)) == (2010, 30.0)

    def test_a_wait_passes(self, page: Page) -> None:
        """None before the first wrong key, and none afterwards."""
        assert page.wait_left(NOW) == 0.0
        page.failed(NOW)
        waits = [page.wait_left(NOW + seconds) for seconds in (0, 0.125, 0.25, 60)]
        assert waits == [0.25, 0.125, 0.0, 0.0]

    def test_a_wait_is_not_shortened(self, page: Page) -> None:
        """A worker that read its clock a little earlier takes nothing away from what another has said."""
        for _ in range(8):
            page.failed(NOW)
        assert page.failed(NOW - 1) == 31.0

    def test_a_right_key_ends_it(self, page: Page) -> None:
        """It is forgotten by an unlock, and by nothing else."""
        page.failed(NOW)
        page.lock()
        page.touch()
        assert (page.failures, page.wait_left(NOW)) == (1, 0.25)
        page.unlock(BITS)
        assert (page.failures, page.wait_left(NOW)) == (0, 0.0)

    def test_all_workers_wait(self, page: Page) -> None:
        """The count is one for all processes: as many tries as one worker allows, not as many times the workers."""
        children = [fork(lambda: [page.failed(NOW) for _ in range(50)]) for _ in range(4)]

        assert [end_of(child) for child in children] == [0] * 4
        assert page.failures == 200


class TestProcesses:
    """Workers and their master."""

    def test_one_unlocks_all(self, page: Page) -> None:
        """What one worker does, another that runs, one that starts later, and the master see."""
        told_reading, told_writing = os.pipe()
        go_reading, go_writing = os.pipe()

        def wait_and_tell() -> None:
            os.read(go_reading, 1)
            os.write(told_writing, key_of(page) or b"none")

        running = fork(wait_and_tell)
        assert end_of(fork(lambda: page.unlock(BITS))) == 0
        os.write(go_writing, b".")

        assert os.read(told_reading, 64) == BITS
        assert end_of(running) == 0
        assert in_child(lambda: (page.tick, page.state, list(key_of(page) or b""))) == [1, 3, list(BITS)]
        assert page.read() == (1, State.UNLOCKED, BITS)
        assert in_child(page.lock) == 2
        assert (page.state, key_of(page)) == (State.LOCKED, None)
        for descriptor in (told_reading, told_writing, go_reading, go_writing):
            os.close(descriptor)

    def test_writers_take_turns(self, page: Page) -> None:
        """No change is lost between processes that change the page at the same time, nor between threads of each."""

        def worker() -> None:
            threads = [threading.Thread(target=lambda: [page.touch() for _ in range(100)]) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        children = [fork(worker) for _ in range(3)]

        assert [end_of(child) for child in children] == [0] * 3
        assert page.tick == 900

    def test_nobody_reads_half_a_key(self, page: Page) -> None:
        """While others replace it and take it away, a reader has a whole key of theirs, or none when locked."""

        def replace(octet: int) -> None:
            for _ in range(300):
                page.unlock(bytes([octet]) * 64)
                page.lock()

        writers = [fork(lambda octet=octet: replace(octet)) for octet in (1, 2)]
        seen = set()
        while writers:
            _, state, octets = page.read()
            assert (octets is None) == (state in {State.FRESH, State.LOCKED})
            assert octets is None or bytes(octets) in {b"\1" * 64, b"\2" * 64}
            seen.add(state)
            pid, status = os.waitpid(writers[0], os.WNOHANG)
            if pid:
                assert status == 0
                writers.remove(pid)
        assert State.LOCKED in seen | {page.state}

    def test_a_close_is_ones_own(self, page: Page) -> None:
        """A worker that ends lets go of its view; the others keep theirs."""
        page.unlock(BITS)

        assert in_child(lambda: [page.close(), repr(page)]) == [None, "<Page closed>"]
        assert key_of(page) == BITS


KILLED: Final = {
    "while unlocking": ([lock], unlock),
    "while unlocking for the first time": ([], unlock),
    "while another root key takes the place of one": ([unlock], unlock_with_another),
    "while locking": ([unlock], lock),
    "while halting": ([unlock], halt),
    "while counting a wrong key": ([unlock], fail),
}


@pytest.mark.parametrize("story", KILLED)
def test_who_is_killed_leaves_the_page_whole(story: str) -> None:
    """Killed before each single bytecode of a change: up to one of them nothing has happened, from there on all of it.

    The others can go on, and once one of them has read the page no key bits are left but the key's own.
    """
    before_acts, act = KILLED[story]
    outcomes = []
    for step in itertools.count(1):
        page = Page()
        for each in before_acts:
            each(page)
        before = told(page)

        killed = killed_at(step, module.__file__, lambda page=page: act(page))
        outcome = told(page)

        bits_left = sum(memory(page).count(bits) for bits in (BITS, OTHER))
        assert bits_left == (1 if key_of(page) else 0)
        outcomes.append("before" if outcome == before else outcome)
        page.touch()
        page.close()
        if not killed:
            break
    after = outcomes[-1]
    turned = outcomes.index(after)
    assert after != "before"
    assert 0 < turned < len(outcomes) - 1
    assert outcomes == ["before"] * turned + [after] * (len(outcomes) - turned)


def test_what_does_not_hold_says_nothing(page: Page) -> None:
    """Whatever stands in the record that does not hold, whole or torn, it is no key, no count, and wiped at once."""
    page.unlock(BITS)
    page.lock()
    for record in module._RECORDS:
        page._bytes[record : record + module._RECORD_SIZE] = bytes(module._RECORD_SIZE)
    spare = module._RECORDS[1 - (page._word[0] & 1)]
    page._bytes[spare : spare + module._RECORD_SIZE] = b"\xff" * module._RECORD_SIZE

    assert told(page) == (2, State.LOCKED, None, 0, 0.0)
    assert b"\xff" not in memory(page)


class TestMemory:
    """What the kernel is asked for the page."""

    @staticmethod
    def flags() -> list[str]:
        """Return what the kernel says of this process' view of the page."""
        maps = Path("/proc/self/smaps").read_text().partition("/memfd:strongroom")[2]
        return maps.partition("VmFlags:")[2].partition("\n")[0].split()

    def test_no_core_dump_has_it(self, page: Page) -> None:
        """The page is left out ("dd"), in every worker."""
        page.touch()

        assert "dd" in self.flags()
        assert "dd" in in_child(self.flags)

    def test_it_is_not_swapped_out(self, page: Page) -> None:
        """The page is locked into memory ("lo") where the process may do so."""
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
            page = Page()
            page.unlock(BITS)
            return said, list(key_of(page) or b"")

        (warning,), octets = in_child(act)

        assert warning.startswith("the root key's page can be swapped out (RLIMIT_MEMLOCK): ")
        assert bytes(octets) == BITS


class TestRedaction:
    """The key comes out of `read` and nowhere else."""

    def test_repr(self, page: Page) -> None:
        """It shows state and tick."""
        page.unlock(BITS)
        assert repr(page) == "<Page UNLOCKED tick 1>"

    @pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
    def test_a_page_is_not_copied(self, page: Page, copied: Callable[[Page], object]) -> None:
        """It is shared by inheritance alone."""
        with pytest.raises(TypeError, match="a page is inherited over a fork, not pickled"):
            copied(page)

    @pytest.mark.parametrize("size", [0, 32, 63, 65])
    def test_a_key_of_another_size_is_refused(self, page: Page, size: int) -> None:
        """The refusal quotes nothing, and nothing is changed."""
        with pytest.raises(ValueError, match=r"^a root key is 64 bytes$"):
            page.unlock(b"k" * size)
        assert page.read() == (0, State.FRESH, None)

    @pytest.mark.parametrize("state", [State.UNLOCKED, State.HALTED])
    def test_no_state_without_its_key(self, page: Page, state: State) -> None:
        """A page is not locked into a state that has a key."""
        with pytest.raises(ValueError, match="without a root key"):
            page.lock(state)
        assert page.read() == (0, State.FRESH, None)

    def test_a_closed_page_tells_nothing(self) -> None:
        """Whatever is asked of it is an error, and its memory is no longer mapped."""
        before = Path("/proc/self/maps").read_text().count("memfd:strongroom")
        page = Page()
        page.unlock(BITS)
        page.close()

        assert repr(page) == "<Page closed>"
        for ask in (lambda: page.tick, lambda: page.state, page.read, page.touch):
            with pytest.raises(ValueError, match=r"released|negative"):
                ask()
        assert Path("/proc/self/maps").read_text().count("memfd:strongroom") == before

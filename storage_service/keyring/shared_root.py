"""The memory that all workers of a service share: whether the keyring is open, and the root key while it is.

One page, made before gunicorn forks its workers and inherited by each, so that an unlock or a lock in one of them is
one in all, and a worker that starts later finds things as they are:

    offset 0     word       tick << 8 | state << 1 | which of the records holds
          64     record 0   wrong keys (8) ‖ not before (8, seconds) ‖ root key (64, zeros while there is none) ‖
                            mark of the keyring that was seen last (56, zeros while none was)
         256    record 1    the same

The word is loaded and stored whole, being eight aligned bytes. A change is written into the record that does not
hold; storing the word makes it hold; then the other is wiped. A process that is killed therefore leaves the page as it
was or as it was to be, whichever step it had come to. Key bits that it may leave in the record that does not hold
mean nothing to anyone, and whoever takes the lock next wipes them before doing anything else.

Writers exclude each other, and so do readers of more than the word: by a lock of fcntl(2), which a dying process gives
up, and within a process by one of its threads. Reading without it, and again if the word has changed meanwhile, would
need memory barriers that Python does not have; and there is little to gain, as workers read a record only when the
tick has told them to.
"""

import fcntl
import mmap
import os
import struct
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Final, NamedTuple, NoReturn, Self

from strongroom.storage_service.hardening import keep_in_memory
from strongroom.storage_service.jose.content_encryption import KEY_SIZE

FIRST_WAIT: Final = 0.25  # seconds before another key is tried after a first wrong one; doubled with each more
LONGEST_WAIT: Final = 30.0  # seconds
_DOUBLINGS: Final = 7  # from the first wait to beyond the longest

_RECORDS: Final = (64, 256)  # offsets, on cache lines apart from the word, which is read all the time
_TRIES: Final = struct.Struct("@Qd")
MARK_SIZE: Final = 56  # bytes; what is in them is the affair of `strongroom.storage_service.keyring.seen`
_RECORD_SIZE: Final = _TRIES.size + KEY_SIZE + MARK_SIZE
_WIPED: Final = bytes(_RECORD_SIZE)
_NO_KEY: Final = bytes(KEY_SIZE)


class State(IntEnum):
    """What the workers may do; only UNLOCKED and HALTED have a root key."""

    FRESH = 0  # nobody has tried to open the keyring yet
    UNINITIALIZED = 1  # the store has no keyring
    LOCKED = 2
    UNLOCKED = 3
    HALTED = 4  # reading goes on, writing has stopped


WITH_KEY: Final = frozenset({State.UNLOCKED, State.HALTED})


class _Word(NamedTuple):
    """The page's first eight bytes."""

    tick: int
    state: State
    holds: int  # number of the record that does

    @classmethod
    def unpack(cls, value: int) -> Self:
        return cls(value >> 8, State(value >> 1 & 0x7F), value & 1)

    def pack(self) -> int:
        return self.tick << 8 | self.state << 1 | self.holds

    @property
    def spare(self) -> int:
        """Number of the other record."""
        return 1 - self.holds

    def after(self, since: int | None) -> bool:
        """Whether the page has changed since that tick."""
        return since is not None and since != self.tick


class _Tries(NamedTuple):
    """The keys that opened nothing since the last one that did."""

    wrong: int = 0
    not_before: float = 0.0  # seconds of CLOCK_MONOTONIC; until then no other is tried


_NO_TRIES: Final = _Tries()


class SharedRoot:
    """The page; one object, made in the process that forks the others, before it does, while it has one thread.

    Every change but a wrong key makes the tick grow by one: whoever has seen the same tick twice has
    missed nothing. A change that says *since* is made only while the tick is that one, so that a worker that
    finds the key file on starting does not undo the lock that an operator has asked another for meanwhile. Times are
    of CLOCK_MONOTONIC (``time.monotonic``), which is one for all processes.

    A process that can read this one's memory can read the root key: `strongroom.storage_service.hardening` says who
    that is.
    """

    def __init__(self) -> None:
        self._file = os.memfd_create("strongroom")
        self._close_file = weakref.finalize(self, os.close, self._file)
        os.ftruncate(self._file, mmap.PAGESIZE)
        self._map = mmap.mmap(self._file, mmap.PAGESIZE)  # MAP_SHARED
        keep_in_memory(self._map)
        self._bytes = memoryview(self._map)
        self._word = self._bytes[:8].cast("Q")
        self._thread = threading.Lock()

    @property
    def tick(self) -> int:
        """How many changes there have been; one load from memory, cheap enough for every request."""
        return self._word[0] >> 8  # as _Word.unpack, which takes ten times as long

    @property
    def state(self) -> State:
        """What the workers may do at this moment; read as cheaply."""
        return _Word.unpack(self._word[0]).state

    def read(self) -> tuple[int, State, bytearray | None]:
        """Return tick, state and root key as they belong together; the key is a copy that the caller wipes."""
        with self._alone() as word:
            octets = bytearray(self._key(word.holds)) if word.state in WITH_KEY else None
            return word.tick, word.state, octets

    def unlock(self, octets: bytes | bytearray, since: int | None = None) -> int:
        """Share the root key, in place of one that is shared already, and forget the wrong ones.

        Args:
            octets: the 64 bytes; they are copied.
            since: do it only if the tick is this.

        Returns:
            The tick.

        Raises:
            ValueError: there are not 64 of them.
        """
        if len(octets) != KEY_SIZE:
            raise ValueError(f"a root key is {KEY_SIZE} bytes")
        with self._alone() as word:
            if word.after(since):
                return word.tick
            return self._replace(word, word.tick + 1, State.UNLOCKED, octets=octets)

    def lock(self, state: State = State.LOCKED, since: int | None = None) -> int:
        """Wipe the root key, if there is one, and let the state be one without.

        Args:
            state: any but UNLOCKED and HALTED.
            since: do it only if the tick is this.

        Returns:
            The tick.

        Raises:
            ValueError: *state* is one with a root key.
        """
        if state in WITH_KEY:
            raise ValueError(f"without a root key the state is not {state.name}")
        with self._alone() as word:
            if word.after(since):
                return word.tick
            return self._replace(word, word.tick + 1, state, self._tries(word.holds))

    def halt(self) -> int:
        """Stop writing but not reading, until the next unlock or lock; return the tick.

        A page without a root key stays in its state, which allows less.
        """
        with self._alone() as word:
            return self._advance(word, State.HALTED if word.state in WITH_KEY else word.state)

    def touch(self) -> int:
        """Let every worker look at the keyring document again; return the tick."""
        with self._alone() as word:
            return self._advance(word, word.state)

    def failed(self, now: float) -> float:
        """Count a wrong key, and return the seconds until another may be tried."""
        with self._alone() as word:
            tries = self._tries(word.holds)
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(tries.wrong, _DOUBLINGS))
            tries = _Tries(tries.wrong + 1, max(tries.not_before, now + wait))
            self._replace(word, word.tick, word.state, tries, self._key(word.holds))
            return tries.not_before - now

    def wait_left(self, now: float) -> float:
        """Return the seconds until a key may be tried; 0 if it may now."""
        with self._alone() as word:
            return max(0.0, self._tries(word.holds).not_before - now)

    @property
    def failures(self) -> int:
        """The wrong keys since the last right one."""
        with self._alone() as word:
            return self._tries(word.holds).wrong

    @property
    def mark(self) -> bytes:
        """The mark of the keyring that was seen last, zeros while none was."""
        with self._alone() as word:
            return bytes(self._mark(word.holds))

    def put_mark(self, known: bytes, mark: bytes) -> bool:
        """Put *mark* in the place of *known*, and return whether that was what stood there; nobody has to look again.

        Raises:
            ValueError: it is not `MARK_SIZE` bytes.
        """
        if len(mark) != MARK_SIZE:
            raise ValueError(f"a mark is {MARK_SIZE} bytes")
        with self._alone() as word:
            if self._mark(word.holds) != known:
                return False
            held = word.holds
            self._replace(word, word.tick, word.state, self._tries(held), self._key(held), mark=mark)
            return True

    def close(self) -> None:
        """Let go of the page; the other processes keep it as it is."""
        self._word.release()
        self._bytes.release()
        self._map.close()
        self._close_file()
        self._file = -1  # the number may become another file's

    @contextmanager
    def _alone(self) -> Iterator[_Word]:
        """Hold the lock and give out the word, when what one who was killed may have left is wiped."""
        with self._thread:
            fcntl.lockf(self._file, fcntl.LOCK_EX)
            try:
                word = _Word.unpack(self._word[0])
                self._wipe(word.spare)
                yield word
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN)

    def _replace(
        self,
        word: _Word,
        tick: int,
        state: State,
        tries: _Tries = _NO_TRIES,
        octets: bytes | bytearray | memoryview = _NO_KEY,
        *,
        mark: bytes | None = None,
    ) -> int:
        """Fill the spare record, let it hold, and wipe the other; return *tick*. The mark stays unless given."""
        _TRIES.pack_into(self._map, _RECORDS[word.spare], *tries)
        self._key(word.spare)[:] = octets
        self._mark(word.spare)[:] = self._mark(word.holds) if mark is None else mark
        self._word[0] = _Word(tick, state, word.spare).pack()  # from here on it is so
        self._wipe(word.holds)
        return tick

    def _advance(self, word: _Word, state: State) -> int:
        """Leave the record as it is; return the next tick."""
        self._word[0] = _Word(word.tick + 1, state, word.holds).pack()
        return word.tick + 1

    def _tries(self, record: int) -> _Tries:
        return _Tries(*_TRIES.unpack_from(self._map, _RECORDS[record]))

    def _key(self, record: int) -> memoryview:
        start = _RECORDS[record] + _TRIES.size
        return self._bytes[start : start + KEY_SIZE]

    def _mark(self, record: int) -> memoryview:
        start = _RECORDS[record] + _TRIES.size + KEY_SIZE
        return self._bytes[start : start + MARK_SIZE]

    def _wipe(self, record: int) -> None:
        start = _RECORDS[record]
        self._bytes[start : start + _RECORD_SIZE] = _WIPED

    def __repr__(self) -> str:
        try:
            word = _Word.unpack(self._word[0])
        except ValueError:
            return "<SharedRoot closed>"
        return f"<SharedRoot {word.state.name} tick {word.tick}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a shared root is inherited over a fork, not pickled")

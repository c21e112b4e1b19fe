"""What is done to a shared root, and what it tells; and deaths at each bytecode of it, in a process of their own.

A process of tests is large, and to fork it takes long: so a small one forks those who die, more than a thousand.
"""

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from strongroom.storage_service.keyring import shared_root as module
from strongroom.storage_service.keyring.shared_root import SharedRoot, State
from tests.forking import killed_at

BITS: Final = bytes(range(100, 164))
OTHER: Final = bytes(range(164, 228))
NOW: Final = 1000.0  # seconds; any clock will do
ROOT: Final = Path(__file__).resolve().parents[2]

Act: TypeAlias = Callable[[SharedRoot], object]


def memory(shared: SharedRoot) -> bytes:
    """Return all that is in the shared root."""
    return bytes(shared._bytes)


def key_of(shared: SharedRoot) -> bytes | None:
    _, _, octets = shared.read()
    return None if octets is None else bytes(octets)


def told(shared: SharedRoot) -> tuple[object, ...]:
    """Return all that the shared root tells."""
    tick, state, octets = shared.read()
    return tick, state, octets, shared.failures, shared.wait_left(NOW)


def unlock(shared: SharedRoot) -> object:
    return shared.unlock(BITS)


def unlock_with_another(shared: SharedRoot) -> object:
    return shared.unlock(OTHER)


def lock(shared: SharedRoot) -> object:
    return shared.lock()


def halt(shared: SharedRoot) -> object:
    return shared.halt()


def touch(shared: SharedRoot) -> object:
    return shared.touch()


def fail(shared: SharedRoot) -> object:
    return shared.failed(NOW)


def uninitialized(shared: SharedRoot) -> object:
    return shared.lock(State.UNINITIALIZED)


KILLED: Final[Mapping[str, tuple[Sequence[Act], Act]]] = {
    "while unlocking": ([lock], unlock),
    "while unlocking for the first time": ([], unlock),
    "while another root key takes the place of one": ([unlock], unlock_with_another),
    "while locking": ([unlock], lock),
    "while halting": ([unlock], halt),
    "while counting a wrong key": ([unlock], fail),
}


def killed_at_each(story: str) -> Sequence[tuple[str | None, bool]]:
    """Return what is told after a death before each bytecode of an act, and last after none.

    Returns:
        What the shared root tells, None if it is as before the act; and whether the bits of keys are nowhere in it but
        where its key is.
    """
    done = subprocess.run(
        [sys.executable, "-c", "from tests.keyring.shared_roots import main; main()", story],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [(happened, whole) for happened, whole in json.loads(done.stdout)]


def main() -> None:
    """Print what `killed_at_each` returns, of the story that the command line names."""
    before_acts, act = KILLED[sys.argv[1]]
    outcomes: list[tuple[str | None, bool]] = []
    killed = True
    for step in itertools.count(1):
        if not killed:
            break
        shared = SharedRoot()
        for each in before_acts:
            each(shared)
        before = told(shared)

        killed = killed_at(step, str(module.__file__), partial(act, shared))
        outcome = told(shared)

        bits_left = sum(memory(shared).count(bits) for bits in (BITS, OTHER))
        whole = bits_left == (1 if key_of(shared) else 0)
        outcomes.append((None if outcome == before else repr(outcome), whole))
        shared.touch()
        shared.close()
    json.dump(outcomes, sys.stdout)

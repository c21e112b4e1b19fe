"""Wrong credentials slow who showed them where, and nobody else; memory is bounded, and clocks are the test's."""

from typing import Final

import pytest

from strongroom.storage_service.access import limits
from strongroom.storage_service.access.limits import (
    FIRST_WAIT,
    FORGOTTEN,
    FREE,
    FREE_AT_ADDRESS,
    KNOWN,
    LONGEST_WAIT,
    MOST,
    WINDOW,
    Rates,
    Slowdown,
)

HERE: Final = "192.0.2.7"
THERE: Final = "198.51.100.4"


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 5000.0

    def __call__(self) -> float:
        return self.now


def failing(slow: Slowdown, times: int, address: str = HERE, name: str = "ci") -> None:
    """Let credentials of *name* be wrong."""
    for _ in range(times):
        slow.failed(address, name)


def test_the_wait_doubles_up_to_a_minute() -> None:
    """So many are free; then each failure doubles what the next has to wait, and time takes from it."""
    clock = Clock()
    slow = Slowdown(clock)
    failing(slow, FREE)
    assert slow.wait(HERE, "ci") == 0
    waits = []
    for _ in range(10):
        failing(slow, 1)
        waits.append(slow.wait(HERE, "ci"))
        clock.now += waits[-1]
        assert slow.wait(HERE, "ci") == 0
    assert waits == [min(FIRST_WAIT * 2**i, LONGEST_WAIT) for i in range(10)]
    failing(slow, 1000)
    assert slow.wait(HERE, "ci") == LONGEST_WAIT


def test_nobody_else_waits() -> None:
    """The same name elsewhere, and another name at the same address, are looked at once."""
    slow = Slowdown(Clock())
    failing(slow, FREE + 5)
    assert slow.wait(HERE, "ci") > 0
    assert slow.wait(THERE, "ci") == 0
    assert slow.wait(HERE, "other") == 0


def test_who_tries_many_names_waits_with_each() -> None:
    """An address that got many names wrong is slowed for every name but those that were right there lately."""
    clock = Clock()
    slow = Slowdown(clock)
    slow.passed(HERE, "regular")
    for number in range(FREE_AT_ADDRESS + 3):
        failing(slow, 1, name=f"guess{number}")
    assert slow.wait(HERE, "one more") == FIRST_WAIT * 4
    assert slow.wait(HERE, "regular") == 0
    assert slow.wait(THERE, "one more") == 0
    clock.now += KNOWN
    failing(slow, FREE_AT_ADDRESS + 1)
    assert slow.wait(HERE, "regular") > 0


def test_what_was_right_ends_it() -> None:
    """The right credentials make a name's failures there forgotten, and so does a quarter of an hour of quiet."""
    clock = Clock()
    slow = Slowdown(clock)
    for _ in range(2):  # as one that is new there, and as one that is known
        failing(slow, FREE + 1)
        assert slow.wait(HERE, "ci") > 0
        slow.passed(HERE, "ci")
        assert slow.wait(HERE, "ci") == 0
    failing(slow, FREE + 1)
    clock.now += FORGOTTEN
    failing(slow, 1)
    assert slow.wait(HERE, "ci") == 0


def test_a_bucket_empties_and_fills() -> None:
    """So many requests are served at once, then one for each that fits into the minute; others have their own."""
    clock = Clock()
    rates = Rates(6, clock)
    assert [rates.take("ann") for _ in range(6)] == [0.0] * 6
    assert rates.take("ann") == pytest.approx(10)
    assert rates.take("bo") == 0
    clock.now += 9.9
    assert rates.take("ann") == pytest.approx(0.1)
    clock.now += 0.2
    assert rates.take("ann") == 0
    assert rates.take("ann") > 0
    clock.now += WINDOW
    assert [rates.take("ann") > 0 for _ in range(7)] == [False] * 6 + [True]


def test_buckets_are_bounded() -> None:
    """However many ask, so many are remembered, the latest."""
    rates = Rates(1, Clock())
    for number in range(MOST + 9):
        assert rates.take(str(number)) == 0
    assert rates.take(str(MOST + 8)) > 0
    assert rates.take("0") == 0
    assert len(rates._full) == MOST


def test_memory_is_bounded() -> None:
    """However many addresses and names there are, so many are remembered, the latest."""
    slow = Slowdown(Clock())
    for number in range(MOST + 50):
        slow.failed(f"a{number}", "n")
        slow.passed(f"b{number}", "n")
    failing(slow, FREE + 1, f"a{MOST + 49}", "n")
    assert slow.wait(f"a{MOST + 49}", "n") > 0
    assert len(slow._pairs) == len(slow._addresses) == len(slow._right) == limits.MOST

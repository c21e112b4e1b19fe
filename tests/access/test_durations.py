"""How long: what people write, and no other spelling."""

from datetime import timedelta

import pytest

from strongroom.storage_service.access.durations import clipped, duration

DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("1Y", 365 * DAY),
        ("1M", 30 * DAY),
        ("2w", 14 * DAY),
        ("1d", DAY),
        ("1h", timedelta(hours=1)),
        ("10m", timedelta(minutes=10)),
        ("90s", timedelta(seconds=90)),
        ("1500ms", timedelta(milliseconds=1500)),
        ("0h10m", timedelta(minutes=10)),
        (
            "1Y2M3w4d5h6m7s8ms",
            365 * DAY + 60 * DAY + 25 * DAY + timedelta(hours=5, minutes=6, seconds=7, milliseconds=8),
        ),
    ],
)
def test_units_add_up(text: str, meant: timedelta) -> None:
    """Each unit counts what it says, and they add up."""
    assert duration(text) == meant


@pytest.mark.parametrize(
    "text",
    ["", "0s", "1", "h", "-1h", "+1h", "1.5h", "1h ", " 1h", "1m1h", "1h1h", "1H", "1y", "\u0661h", "1h\n", "9999999h"],
)
def test_other_spellings_are_refused(text: str) -> None:
    """What is out of order, twice, empty, of other digits or no time at all is refused, and not repeated."""
    with pytest.raises(ValueError, match=r"^a duration is [a-zA-Z0-9 ,]+$"):
        duration(text)


def test_longer_than_allowed_is_clipped() -> None:
    """What is asked for is given up to the most, and the most where nothing is asked for."""
    most = timedelta(minutes=10)

    assert clipped("1m", most) == timedelta(minutes=1)
    assert clipped("1Y", most) == clipped("", most) == most

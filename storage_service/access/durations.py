"""How long something is to live, as people write it: ``1h``, ``1w2d``, ``10m30s``.

nY nM nw nd nh nm ns nms    each once at most, in this order; Y is 365 days, M is 30
"""

import re
from datetime import timedelta
from typing import Final

_UNITS: Final[dict[str, timedelta]] = {
    "Y": timedelta(days=365),
    "M": timedelta(days=30),
    "w": timedelta(weeks=1),
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}
_DURATION: Final = re.compile("".join(rf"(?:([0-9]{{1,6}}){unit})?" for unit in _UNITS), re.ASCII)


def duration(text: str) -> timedelta:
    """Return how long *text* says.

    Raises:
        ValueError: it says nothing of the kind, or no time at all; the message does not repeat it.
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError("a duration is numbers with Y, M, w, d, h, m, s or ms, in this order, as in 1h30m")
    total = sum((int(count or 0) * unit for count, unit in zip(found.groups(), _UNITS.values(), strict=True)), _NONE)
    if not total:
        raise ValueError("a duration is longer than nothing")
    return total


def clipped(text: str, longest: timedelta) -> timedelta:
    """Return how long *text* says, or *longest* where that is shorter, or where *text* is empty.

    Raises:
        ValueError: it says nothing of the kind.
    """
    return min(duration(text), longest) if text else longest


_NONE: Final = timedelta()

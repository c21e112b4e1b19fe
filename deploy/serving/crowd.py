"""What the workers of a server know of each other: a page of memory that they share, made before they are forked.

The kernel wakes every worker for a new connection, and whoever is first takes all that wait; a pool of sixteen that was
opened in one go then lies with one of two workers. So a worker that has more than another lets that one go first.

A worker that is told to end sees here, too, whether others take its place: gunicorn sends the same signal either way.
"""

import mmap
import struct
from typing import Final

_SLOTS: Final = 64  # more workers than that share some, which makes the spreading coarser and nothing wrong
_COUNT: Final = struct.Struct("i")
_ALL: Final = struct.Struct(f"{_SLOTS}i")
_ABSENT: Final = -1


class Crowd:
    """The counts, one slot a worker; a worker is known by the number that gunicorn gives it (its age)."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, _ALL.size + _COUNT.size)  # anonymous and shared
        _ALL.pack_into(self._page, 0, *[_ABSENT] * _SLOTS)

    def tell(self, number: int, count: int) -> None:
        """Say that the worker *number* has *count* connections."""
        _COUNT.pack_into(self._page, number % _SLOTS * _COUNT.size, count)

    @property
    def reloads(self) -> int:
        """How often all workers were replaced."""
        count: int = _COUNT.unpack_from(self._page, _ALL.size)[0]
        return count

    def reload(self) -> None:
        """Say that all workers of now are about to be replaced; called in the process that forks them."""
        _COUNT.pack_into(self._page, _ALL.size, self.reloads + 1)

    def leave(self, number: int) -> None:
        """Say that the worker *number* accepts no more, or is gone."""
        self.tell(number, _ABSENT)

    def has_less(self, number: int, count: int) -> bool:
        """Whether another worker than *number* has fewer than *count* connections."""
        counts = _ALL.unpack_from(self._page)
        own = number % _SLOTS
        return any(_ABSENT < theirs < count for slot, theirs in enumerate(counts) if slot != own)

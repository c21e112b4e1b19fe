"""What is counted of requests: a page of memory that the workers share, made before they are forked.

Each worker counts in a part of the page that is its own, so nobody waits for a lock, and whoever is asked adds up all
parts. A worker that is gone leaves its counts, which never go down, to the next of its place; what it had under way is
forgotten with it. Everything that is told apart comes from the tables below, never from a request: a stranger makes
no number that was not there before.
"""

import mmap
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from strongroom.storage_service import wire

PLACES: Final = 128  # more workers than that share some, which makes the counts coarser and nothing wrong
METHODS: Final = ("GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "other")
OUTCOMES: Final = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")  # none: the client left, or the answer broke off
BOUNDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)  # seconds
OTHER: Final = "other"

_METHODS: Final = {name.encode(): place for place, name in enumerate(METHODS)}
_HEAD: Final = METHODS.index("HEAD")
_OTHER_METHOD: Final = METHODS.index(OTHER)
_BEHIND_API: Final = wire.API_PATH.encode() + b"/"
_FIRST: Final = len(_BEHIND_API)
_NANO: Final = 1e9
_KINDS: Final = len(METHODS)
_ENDS: Final = len(OUTCOMES)


class Refused(StrEnum):
    """Why somebody was not served, before or beside what the service decides."""

    MALFORMED = "malformed"  # no request, or one that could be read as two
    LATE = "late"  # it did not come in time
    CROWDED = "crowded"  # closed to make room, or let in no more: too many connections
    HANDSHAKE = "handshake"  # TLS that came to nothing
    BUSY = "busy"  # no turn came


class Unknown(StrEnum):
    """Why somebody was not known."""

    NOBODY = "none"  # no credentials
    WRONG = "wrong"


class Level(IntEnum):
    """What goes up and down."""

    WORKERS = 0
    CONNECTIONS = 1
    IN_FLIGHT = 2


@dataclass(frozen=True, slots=True)
class Face:
    """One of the two processes: its name, and the classes that its paths fall into."""

    name: str
    routes: tuple[str, ...]  # the last is that of all other paths
    place_of: Callable[[bytes], int]  # of a path, among *routes*


def _of_storage() -> Face:
    first = {b"secrets": 0, b"storage": 1, b"bulk": 2, b"keyring": 3, b"apikeys": 4, b"access": 5, b"auth": 5}
    first |= dict.fromkeys((b"livez", b"readyz", b"metrics", b"status", b"whoami"), 6)
    get = first.get

    def place_of(path: bytes) -> int:
        end = path.find(b"/", 1)
        return get(path[1:] if end < 0 else path[1:end], 7)

    return Face("storage", ("secrets", "records", "bulk", "keyring", "apikeys", "access", "health", OTHER), place_of)


def _of_proxy() -> Face:
    first = dict.fromkeys((b"livez", b"readyz", b"metrics"), 2)
    models = (b"hosts", b"host", b"clusters", b"cluster", b"networks", b"network")
    first |= dict.fromkeys((*models, b"containermanagers", b"containermanager"), 1)
    first[b"secrets"] = 0
    get = first.get

    def place_of(path: bytes) -> int:
        begin = _FIRST if path.startswith(_BEHIND_API) else 1
        end = path.find(b"/", begin)
        place = get(path[begin:] if end < 0 else path[begin:end], 3)
        return place if (place == 2) is (begin == 1) else 3

    return Face("proxy", ("secrets", "models", "health", OTHER), place_of)


STORAGE: Final = _of_storage()
PROXY: Final = _of_proxy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """All parts of a page, added up."""

    requests: Mapping[tuple[str, str, str], int]  # route, method, outcome; those that there were
    seconds: Mapping[str, tuple[tuple[int, ...], float]]  # route: how many took how long, and all together
    refused: Mapping[Refused, int]
    unknown: Mapping[Unknown, int]
    failed_audits: int
    levels: Mapping[Level, int]


class Meter:
    """The page, and the part of it that this process counts in."""

    def __init__(self, face: Face) -> None:
        self.face: Final = face
        self.since: Final = time.time()
        self._place_of = face.place_of
        routes = len(face.routes)
        self._seconds = routes * len(METHODS) * len(OUTCOMES)
        self._width = len(BOUNDS) + 2  # of one histogram: with those over the last bound, and the sum
        self._refused = self._seconds + routes * self._width
        self._unknown = self._refused + len(Refused)
        self._audits = self._unknown + len(Unknown)
        self._levels = self._audits + 1
        self._size = self._levels + len(Level)
        self._page = memoryview(mmap.mmap(-1, self._size * PLACES * 8)).cast("q")  # anonymous and shared
        self._base = 0

    def sit(self, number: int) -> None:
        """Count as the worker *number* from now on, in the place of one that is gone."""
        self._base = number % PLACES * self._size
        self.leave(number)
        self._page[self._base + self._levels + Level.WORKERS] = 1

    def leave(self, number: int) -> None:
        """Say that the worker *number* is gone, and what it had under way with it."""
        base = number % PLACES * self._size + self._levels
        for level in Level:
            self._page[base + level] = 0

    # PERF: what a request costs; see docs/adr/0040.

    def begin(self) -> float:
        """Count a request as under way, and return when it began."""
        self._page[self._base + self._levels + 2] += 1  # Level.IN_FLIGHT
        return time.perf_counter()

    def end(self, path: bytes, method: bytes, head_only: bool, status: int, began: float) -> None:
        """Count a request as answered with *status*; 0: not, or not to its end."""
        page, base = self._page, self._base
        route = self._place_of(path)
        kind = _HEAD if head_only else _METHODS.get(method, _OTHER_METHOD)
        page[base + (route * _KINDS + kind) * _ENDS + status // 100] += 1
        took = time.perf_counter() - began
        histogram = base + self._seconds + route * self._width
        page[histogram + bisect_left(BOUNDS, took)] += 1
        page[histogram + self._width - 1] += int(took * _NANO)
        page[base + self._levels + 2] -= 1

    def connected(self, count: int) -> None:
        """Say how many connections this worker has."""
        self._page[self._base + self._levels + Level.CONNECTIONS] = count

    def refuse(self, why: Refused) -> None:
        """Count somebody who was not served."""
        self._page[self._base + self._refused + _REFUSED[why]] += 1

    def turn_away(self, why: Unknown) -> None:
        """Count somebody who was not known."""
        self._page[self._base + self._unknown + _UNKNOWN[why]] += 1

    def audit_failed(self) -> None:
        """Count a group of lines that did not reach the audit log."""
        self._page[self._base + self._audits] += 1

    def counts(self) -> Counts:
        """Return what all workers counted."""
        size = self._size
        parts = [self._page[base : base + size].tolist() for base in range(0, size * PLACES, size)]
        cells = [sum(column) for column in zip(*(part for part in parts if any(part)), strict=True)] or [0] * size
        routes, width = self.face.routes, self._width
        requests = {
            (route, method, outcome): count
            for r, route in enumerate(routes)
            for m, method in enumerate(METHODS)
            for o, outcome in enumerate(OUTCOMES)
            if (count := cells[(r * len(METHODS) + m) * len(OUTCOMES) + o])
        }
        seconds = {}
        for r, route in enumerate(routes):
            start = self._seconds + r * width
            seconds[route] = tuple(cells[start : start + width - 1]), cells[start + width - 1] / _NANO
        return Counts(
            requests=requests,
            seconds=seconds,
            refused={why: cells[self._refused + place] for why, place in _REFUSED.items()},
            unknown={why: cells[self._unknown + place] for why, place in _UNKNOWN.items()},
            failed_audits=cells[self._audits],
            levels={level: cells[self._levels + level] for level in Level},
        )


_REFUSED: Final = {why: place for place, why in enumerate(Refused)}
_UNKNOWN: Final = {why: place for place, why in enumerate(Unknown)}

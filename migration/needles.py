"""Search for what must be found nowhere: any number of byte strings, in files of any size, in bounded memory.

Of each needle up to `WINDOWS` pieces of `WINDOW` bytes are looked for (of a shorter one the whole), spread over all of
it, so that what a file still has of a value that was overwritten in part, or was cut up into pages, is found as well.
What all keys of a kind have in common is no piece of any: the lines round a PEM, and how OpenSSH's keys begin. So many
needles are looked for at once as `AT_ONCE` pieces come from, and a place is read again for each such group.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import ahocorasick_rs

from strongroom.migration.errors import MigrationError
from strongroom.migration.sources.base import Place

SHORTEST: Final = 8  # bytes of a needle: shorter ones are found in everything
WINDOW: Final = 32  # bytes of a piece: long enough never to be there by chance
WINDOWS: Final = 8  # pieces of one needle
AT_ONCE: Final = 20_000  # pieces in one automaton: about 30 MB
_SLICE: Final = 128 * 1024  # bytes in one call: its answer names every place where something is found

_BEGIN: Final = b"-----BEGIN"
_END: Final = b"-----END"
_HEAD: Final = 132  # bytes: the first line of a PEM (RFC 7468), and what OpenSSH's keys begin with (PROTOCOL.key)
_FOOT: Final = 36  # bytes: its last line


@dataclass(slots=True)
class Finding:
    """What a search found in one place: how much, and never what."""

    place: Place
    needles: int = 0  # that something was found of
    unreachable: str = ""  # why it could not be read, if so

    @property
    def clean(self) -> bool:
        """Whether all of it was read, and nothing found."""
        return not self.needles and not self.unreachable


@dataclass(slots=True)
class Search:
    """A search of some places for needles, of which it holds a bounded part."""

    places: Sequence[Place]
    advance: Callable[[int], object] = bool  # called with how many needles more were looked for everywhere
    findings: Sequence[Finding] = field(init=False)
    needles: int = 0  # that were looked for
    short: int = 0  # that were too short to be

    def __post_init__(self) -> None:
        self.findings = [
            Finding(place, unreachable="" if place.chunks else "it cannot be searched") for place in self.places
        ]

    async def run(self, needles: AsyncIterator[bytes]) -> Sequence[Finding]:
        """Look for *needles*, and return what was found, place by place."""
        group: dict[bytes, None] = {}
        pieces = 0
        async for needle in needles:
            if len(needle) < SHORTEST:
                self.short += 1
            elif needle not in group:
                group[needle] = None
                pieces += len(windows(needle))
            if pieces >= AT_ONCE:
                await self._look_for(list(group))
                group, pieces = {}, 0
        if group:
            await self._look_for(list(group))
        return self.findings

    async def _look_for(self, needles: Sequence[bytes]) -> None:
        matcher = await asyncio.to_thread(Matcher, needles)
        for finding in self.findings:
            if finding.place.chunks is None or finding.unreachable:
                continue
            try:
                found = await _found(matcher, finding.place.chunks())
            except MigrationError as error:
                finding.unreachable = str(error)
            except OSError as error:
                finding.unreachable = f"it cannot be read: {error.strerror}"
            else:
                finding.needles += len(found)
        self.needles += len(needles)
        self.advance(len(needles))


class Matcher:
    """Finds pieces of some needles in one stream of bytes after another."""

    def __init__(self, needles: Sequence[bytes]) -> None:
        """Take needles, none shorter than `SHORTEST`."""
        owners: dict[bytes, list[int]] = {}
        for number, needle in enumerate(needles):
            for piece in windows(needle):
                owners.setdefault(piece, []).append(number)
        self._owners = list(owners.values())
        # A compact automaton: the fast one takes many times the memory.
        self._automaton = ahocorasick_rs.BytesAhoCorasick(
            list(owners), implementation=ahocorasick_rs.Implementation.ContiguousNFA
        )

    def find(self, text: bytes) -> set[int]:
        """Return which needles, by number, have a piece in *text*."""
        found: set[int] = set()
        for start in range(0, len(text), _SLICE):
            some = text[start : start + _SLICE + WINDOW - 1]
            for piece in {piece for piece, _, _ in self._automaton.find_matches_as_indexes(some, overlapping=True)}:
                found.update(self._owners[piece])
        return found


def windows(needle: bytes) -> Sequence[bytes]:
    """Return the pieces of *needle* that are looked for: those of one up to `WINDOWS` times `WINDOW` are all of it."""
    body = _distinctive(needle)
    if len(body) <= WINDOW:
        return [body]
    count = min(WINDOWS, -(-len(body) // WINDOW))
    step = (len(body) - WINDOW) / (count - 1)
    return [body[start : start + WINDOW] for start in (int(number * step) for number in range(count))]


def _distinctive(needle: bytes) -> bytes:
    """Return what of *needle* is its own: of a key in PEM, or in PEM in base64, without what others begin and end with.

    What is left is the whole where it would be too short to tell.
    """
    body = needle
    if needle.startswith(_BEGIN):
        end = needle.rfind(_END)
        body = needle[_HEAD : end if end > 0 else None]
    elif needle.startswith(b"LS0tLS1CRUdJTi"):  # the same in base64
        body = needle[_HEAD * 4 // 3 : -_FOOT * 4 // 3]
    return body if len(body) >= WINDOW else needle


async def _found(matcher: Matcher, chunks: AsyncIterator[bytes]) -> set[int]:
    found: set[int] = set()
    tail = b""
    async for chunk in chunks:
        text = tail + chunk
        found |= await asyncio.to_thread(matcher.find, text)
        tail = text[-(WINDOW - 1) :]
    return found

"""Search for what must be found nowhere: any number of byte strings, in files of any size, in bounded memory.

Of each pattern up to `WINDOWS` pieces of `WINDOW` bytes are looked for (of a shorter one the whole), spread over all of
it, so that what a file still has of a value that was overwritten in part, or was cut up into pages, is found as well.
What all keys of a kind have in common is no piece of any: the lines round a PEM, and how OpenSSH's keys begin. So many
patterns are looked for at once as `AT_ONCE` pieces come from, and a place is read again for each such group.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import ahocorasick_rs

from strongroom.migration.errors import MigrationError
from strongroom.migration.sources.base import Place

SHORTEST: Final = 8  # bytes of a pattern: shorter ones are found in everything
WINDOW: Final = 32  # bytes of a piece: long enough never to be there by chance
WINDOWS: Final = 8  # pieces of one pattern
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
    patterns: int = 0  # that something was found of
    unreachable: str = ""  # why it could not be read, if so

    @property
    def clean(self) -> bool:
        """Whether all of it was read, and nothing found."""
        return not self.patterns and not self.unreachable


@dataclass(slots=True)
class Search:
    """A search of some places for patterns, of which it holds a bounded part."""

    places: Sequence[Place]
    advance: Callable[[int], object] = bool  # called with how many patterns more were looked for everywhere
    findings: Sequence[Finding] = field(init=False)
    patterns: int = 0  # that were looked for
    short: int = 0  # that were too short to be

    def __post_init__(self) -> None:
        self.findings = [
            Finding(place, unreachable="" if place.chunks else "it cannot be searched") for place in self.places
        ]

    async def run(self, patterns: AsyncIterator[bytes]) -> Sequence[Finding]:
        """Look for *patterns*, and return what was found, place by place."""
        group: dict[bytes, None] = {}
        pieces = 0
        async for pattern in patterns:
            if len(pattern) < SHORTEST:
                self.short += 1
            elif pattern not in group:
                group[pattern] = None
                pieces += len(windows(pattern))
            if pieces >= AT_ONCE:
                await self._look_for(list(group))
                group, pieces = {}, 0
        if group:
            await self._look_for(list(group))
        return self.findings

    async def _look_for(self, patterns: Sequence[bytes]) -> None:
        matcher = await asyncio.to_thread(Matcher, patterns)
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
                finding.patterns += len(found)
        self.patterns += len(patterns)
        self.advance(len(patterns))


class Matcher:
    """Finds pieces of some patterns in one stream of bytes after another."""

    def __init__(self, patterns: Sequence[bytes]) -> None:
        """Take patterns, none shorter than `SHORTEST`."""
        owners: dict[bytes, list[int]] = {}
        for number, pattern in enumerate(patterns):
            for piece in windows(pattern):
                owners.setdefault(piece, []).append(number)
        self._owners = list(owners.values())
        # A compact automaton: the fast one takes many times the memory.
        self._automaton = ahocorasick_rs.BytesAhoCorasick(
            list(owners), implementation=ahocorasick_rs.Implementation.ContiguousNFA
        )

    def find(self, text: bytes) -> set[int]:
        """Return which patterns, by number, have a piece in *text*."""
        found: set[int] = set()
        for start in range(0, len(text), _SLICE):
            some = text[start : start + _SLICE + WINDOW - 1]
            for piece in {piece for piece, _, _ in self._automaton.find_matches_as_indexes(some, overlapping=True)}:
                found.update(self._owners[piece])
        return found


def windows(pattern: bytes) -> Sequence[bytes]:
    """Return the pieces of *pattern* that are looked for: those of one up to `WINDOWS` times `WINDOW` are all of it."""
    body = _distinctive(pattern)
    if len(body) <= WINDOW:
        return [body]
    count = min(WINDOWS, -(-len(body) // WINDOW))
    step = (len(body) - WINDOW) / (count - 1)
    return [body[start : start + WINDOW] for start in (int(number * step) for number in range(count))]


def _distinctive(pattern: bytes) -> bytes:
    """Return what of *pattern* is its own: of a PEM key, or one in base64, without what others begin and end with.

    What is left is the whole where it would be too short to tell.
    """
    body = pattern
    if pattern.startswith(_BEGIN):
        end = pattern.rfind(_END)
        body = pattern[_HEAD : end if end > 0 else None]
    elif pattern.startswith(b"LS0tLS1CRUdJTi"):  # the same in base64
        body = pattern[_HEAD * 4 // 3 : -_FOOT * 4 // 3]
    return body if len(body) >= WINDOW else pattern


async def _found(matcher: Matcher, chunks: AsyncIterator[bytes]) -> set[int]:
    found: set[int] = set()
    tail = b""
    async for chunk in chunks:
        text = tail + chunk
        found |= await asyncio.to_thread(matcher.find, text)
        tail = text[-(WINDOW - 1) :]
    return found

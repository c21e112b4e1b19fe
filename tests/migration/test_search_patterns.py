"""The search for what must be found nowhere, against a naive one."""

import base64
import errno
import itertools
import os
import tracemalloc
from collections.abc import AsyncIterator, Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.migration import search_patterns
from strongroom.migration.errors import SourceUnavailable
from strongroom.migration.search_patterns import SHORTEST, WINDOW, WINDOWS, Search, windows
from strongroom.migration.sources.base import Place

_bytes = st.binary(min_size=SHORTEST, max_size=WINDOW * WINDOWS + 40)
_few_letters = st.lists(st.sampled_from(b"ab-"), min_size=SHORTEST, max_size=90).map(bytes)  # which often meet


def key(seed: bytes) -> bytes:
    """Return a key file as OpenSSH writes them: all begin and end with the same."""
    constant = b"openssh-key-v1\0\0\0\0\4none\0\0\0\4none\0\0\0\0\0\0\0\1\0\0\0\x33\0\0\0\x0bssh-ed25519\0\0\0\x20"
    text = base64.encodebytes(constant + (seed * 300)[:300]).replace(b"\n", b"")
    lines = b"\n".join(text[start : start + 70] for start in range(0, len(text), 70))
    return b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + lines + b"\n-----END OPENSSH PRIVATE KEY-----\n"


async def each(wanted: Iterable[bytes]) -> AsyncIterator[bytes]:
    for pattern in wanted:
        yield pattern


def place(name: str, *chunks: bytes) -> Place:
    """Return a place that has those bytes."""
    return Place(name, lambda: each(chunks), "delete it")


async def found_in(wanted: Sequence[bytes], *chunks: bytes) -> int:
    """Return how many of *wanted* a search finds in one place."""
    (finding,) = await Search([place("here", *chunks)]).run(each(wanted))
    return finding.patterns


def cut(text: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Return *text* in parts."""
    at = sorted({0, len(text), *(each % (len(text) + 1) for each in cuts)})
    return [text[start:end] for start, end in itertools.pairwise(at)]


@settings(max_examples=60, deadline=None)
@given(
    wanted=st.lists(_bytes | _few_letters, min_size=1, max_size=8, unique=True),
    around=st.lists(_bytes | _few_letters, max_size=8),
    there=st.sets(st.integers(0, 7)),
    cuts=st.lists(st.integers(0, 4000), max_size=6),
)
async def test_it_finds_what_a_naive_search_finds(
    wanted: list[bytes], around: list[bytes], there: set[int], cuts: list[int]
) -> None:
    """However a place is cut into parts, a pattern is found if and only if a piece of it is there."""
    text = b"".join(
        [*around[::2], *(pattern for number, pattern in enumerate(wanted) if number in there), *around[1::2]]
    )
    naive = sum(any(piece in text for piece in windows(pattern)) for pattern in wanted)

    assert await found_in(wanted, *cut(text, cuts)) == naive
    assert naive >= sum(pattern in text for pattern in wanted)


@settings(max_examples=60, deadline=None)
@given(pattern=_bytes)
def test_pieces_are_of_the_pattern(pattern: bytes) -> None:
    """Of a pattern that is not too long, the pieces leave nothing out; there are never more than a few."""
    pieces = windows(pattern)

    assert 1 <= len(pieces) <= WINDOWS
    assert all(piece in pattern and len(piece) <= WINDOW for piece in pieces)
    if len(pattern) <= WINDOW:
        assert pieces == [pattern]
    elif len(pattern) <= WINDOW * WINDOWS:
        starts = [pattern.find(piece) for piece in pieces]
        assert starts[0] == 0
        assert pattern.endswith(pieces[-1])


@pytest.mark.parametrize("size", [40, 64, 100, 256, 1000, 20_000])
async def test_a_fragment_is_found(size: int) -> None:
    """What is left of a value that was overwritten in part is found: an eighth of it, and a piece's length more."""
    pattern = os.urandom(size)
    left = -(-size // WINDOWS) + 2 * WINDOW
    for start in range(0, size, max(1, size // 9)):
        fragment = pattern[start : start + left]
        if len(fragment) == min(left, size):
            assert await found_in([pattern], b"before", fragment, b"after") == 1


@pytest.mark.parametrize("spell", [lambda key: key, base64.b64encode], ids=["as it is", "in base64"])
async def test_what_keys_have_in_common_is_none_of_them(spell: "type[bytes]") -> None:
    """Another key begins and ends like the one that is looked for, and is not taken for it; its own half is."""
    mine, other = spell(key(b"mine")), spell(key(b"other"))

    assert await found_in([mine], b"..." + other + b"...") == 0
    assert await found_in([mine], b"..." + mine[len(mine) // 2 :]) == 1


async def test_short_ones_are_counted() -> None:
    """What would be found everywhere is not looked for, and that is told."""
    search = Search([place("here", b"abc")])
    (finding,) = await search.run(each([b"abc", b"", b"long enough"]))

    assert finding.clean
    assert (search.short, search.patterns) == (2, 1)


async def test_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """More patterns than are looked for at once: each place is read again for each group, and all are found."""
    monkeypatch.setattr(search_patterns, "AT_ONCE", 20)
    wanted = [b"pattern number %06d" % number for number in range(101)]
    reads = 0

    def chunks() -> AsyncIterator[bytes]:
        nonlocal reads
        reads += 1
        return each([b"".join(wanted[:77])])

    advanced: list[int] = []
    search = Search([Place("here", chunks, ""), place("there", wanted[100])], advance=advanced.append)
    here, there = await search.run(each(wanted))

    assert (here.patterns, there.patterns) == (77, 1)
    assert reads == 6
    assert sum(advanced) == search.patterns == 101


async def test_a_pattern_that_comes_twice_is_one() -> None:
    """Two items with one secret are one pattern."""
    assert await found_in([b"the same secret", b"the same secret"], b"the same secret") == 1


async def test_places_that_cannot_be_read() -> None:
    """A place that cannot be reached, or breaks off, is told apart from a clean one, and stops nothing."""

    async def breaks_off() -> AsyncIterator[bytes]:
        yield b"the secret"
        raise SourceUnavailable("its disk is gone")

    async def fails() -> AsyncIterator[bytes]:
        yield b"the secret"
        raise OSError(errno.EIO, "Input/output error")

    wanted = [b"the secret"]
    places = [Place("a", None, "ask"), Place("b", breaks_off, "mend"), Place("c", fails, "mend")]
    hidden, broken, failing, clean, rest = await Search(
        [*places, place("d", b"nothing"), place("e", b"the secret")]
    ).run(each(wanted))

    assert (hidden.unreachable, hidden.clean) == ("it cannot be searched", False)
    assert (broken.unreachable, broken.clean) == ("its disk is gone", False)
    assert (failing.unreachable, failing.clean) == ("it cannot be read: Input/output error", False)
    assert clean.clean
    assert rest.patterns == 1


async def test_flat_memory() -> None:
    """A place that is nothing but a pattern, over and over, takes no more memory than some of its parts."""
    pattern = b"A" * 64
    tracemalloc.start()
    try:
        count = await found_in([pattern], b"A" * 1024 * 1024)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert count == 1
    assert peak < 40 * 1024 * 1024

"""How much one JSON document may hold, counted before it is parsed."""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from strongroom.models import strict_json
from strongroom.models.strict_json import (
    MAX_DEPTH,
    MAX_FLOATS,
    MAX_NUMBER,
    MAX_STRUCTURE,
    SHORT,
    SHORT_STRUCTURE,
    MalformedJSON,
    decode,
    short,
    structure,
)

# Documents with exactly that many of ``{ [ : ,`` in them.
SHAPES: dict[str, Callable[[int], bytes]] = {
    "numbers": lambda most: b"[" + b"1," * (most - 1) + b"1]",
    "texts": lambda most: b"[" + b'"",' * (most - 1) + b'""]',
    "arrays": lambda most: b"[" + b"[]," * (most // 2 - 1) + b"[]]",
    "objects": lambda most: b"[" + b"{}," * (most // 2 - 1) + b"{}]",
    "members": lambda most: b"{" + b",".join(b'"%x":0' % number for number in range(most // 2)) + b"}",
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("most", [100, MAX_STRUCTURE])
def test_so_much_is_read_and_no_more(shape: str, most: int) -> None:
    """A document with the most that is allowed is read, whatever it holds; with one thing more it is refused."""
    text = SHAPES[shape](most)
    assert structure(text) == most

    assert decode(text, most) == json.loads(text)
    with pytest.raises(MalformedJSON, match=f"more than {most - 1} objects"):
        decode(text, most - 1)


def test_the_default_is_what_an_event_loop_bears() -> None:
    """Who says nothing reads `MAX_STRUCTURE`."""
    assert len(decode(SHAPES["numbers"](MAX_STRUCTURE))) == MAX_STRUCTURE
    with pytest.raises(MalformedJSON, match="more than"):
        decode(SHAPES["numbers"](MAX_STRUCTURE + 1))


@pytest.mark.parametrize("content", ["{[:,", '\\",', "\\\\,", '\\\\\\",[', "\\u0022,", '{\\"a\\":[1,2]},'])
def test_what_stands_in_a_text_is_not_counted(content: str) -> None:
    """A text may hold as many brackets and commas as it likes, behind escaped marks and backslashes, too."""
    text = f'{{"type":"simple","value":"{content * MAX_STRUCTURE}"}}'.encode()
    assert decode(text) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        b'"' * 100_000,
        b'["' + b'","' * MAX_STRUCTURE + b'"]',
        b'"\\"' + b"[]," * MAX_STRUCTURE,
        b'"\\\\"' + b"[]," * MAX_STRUCTURE,
        b"[" * 1_000_000,
        b"}" * 1_000_000 + b"," * 20_000,
    ],
)
def test_what_is_malformed_is_not_counted_short(text: bytes) -> None:
    """No escape, and no text that never ends, hides what follows it; each is refused."""
    with pytest.raises(MalformedJSON):
        decode(text)


@pytest.mark.parametrize("opener", [b"[", b'{"a":', b'{"]":', b'{"\\"[":'])
@pytest.mark.parametrize("beside", [b"", b"[]," * 100, b'"[[{{",' * 100, b'{"a":[{}]},' * 100])
def test_depth_is_that_of_brackets_outside_texts(opener: bytes, beside: bytes) -> None:
    """`MAX_DEPTH` levels are read, one more is refused, whatever stands beside them."""
    closer = b"]" if opener == b"[" else b"}"
    deepest = MAX_DEPTH - 1
    for levels in (1, deepest):
        text = b"[" + beside + opener * levels + b"0" + closer * levels + b"]"
        assert decode(text) == json.loads(text)
    with pytest.raises(MalformedJSON, match=f"deeper than {MAX_DEPTH}"):
        decode(b"[" + beside + opener * MAX_DEPTH + b"0" + closer * MAX_DEPTH + b"]")


def test_numbers_are_short() -> None:
    """A number of `MAX_NUMBER` characters is read; a longer one, whole or not, is refused."""
    whole, broken = b"9" * MAX_NUMBER, b"0." + b"1" * (MAX_NUMBER - 2)
    assert decode(b"[%b,%b,-1.7976931348623157e+308]" % (whole, broken)) == [
        int(whole),
        float(broken),
        -1.7976931348623157e308,
    ]
    for number in (whole + b"9", broken + b"1", b"-" + whole, b"1e" + b"0" * MAX_NUMBER):
        with pytest.raises(MalformedJSON, match="a number is longer"):
            decode(number)


def test_fractions_are_few() -> None:
    """A document has `MAX_FLOATS` fractions at most, and the next one begins to count anew."""
    text = b"[" + b",".join([b"1.5"] * MAX_FLOATS) + b"]"
    assert decode(text) == decode(text) == [1.5] * MAX_FLOATS
    with pytest.raises(MalformedJSON, match=f"more than {MAX_FLOATS} fractions"):
        decode(text[:-1] + b",2.5]")


def _anything(draw: random.Random, depth: int) -> Any:
    kinds: list[Callable[[], Any]] = [
        lambda: draw.randrange(-(10**9), 10**9),
        draw.random,
        lambda: None,
        lambda: "".join(draw.choices('{}[]:,"\\ aü\n', k=draw.randrange(12))),
    ]
    if depth:
        kinds += [
            lambda: [_anything(draw, depth - 1) for _ in range(draw.randrange(5))],
            lambda: {str(number) + '{"': _anything(draw, depth - 1) for number in range(draw.randrange(5))},
        ]
    return draw.choice(kinds)()


def _things(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + len(value) + max(0, len(value) - 1) + sum(map(_things, value.values()))
    if isinstance(value, list):
        return 1 + max(0, len(value) - 1) + sum(map(_things, value))
    return 0


@pytest.mark.parametrize("seed", range(40))
def test_the_count_is_exact(seed: int) -> None:
    """Whatever texts hold, a document is refused exactly if it has more things in it than it may."""
    draw = random.Random(seed)
    value = [_anything(draw, 6) for _ in range(20)]
    text = json.dumps(value, ensure_ascii=bool(seed % 2)).encode()

    assert decode(text, _things(value)) == value
    with pytest.raises(MalformedJSON, match="more than"):
        decode(text, _things(value) - 1)


def test_structure_is_counted_within_texts_too() -> None:
    """The quick count is never too low: where it is within the limit, the slow one need not be made."""
    assert strict_json.structure(b'{"a,b":[1,2]}') == 5


def test_half_a_surrogate_pair_is_no_text() -> None:
    """Half a pair cannot be written out again and is refused; a whole one is the character that it means."""
    with pytest.raises(MalformedJSON, match="surrogate"):
        decode(b'["\\ud800"]')
    assert decode(b'["\\ud83d\\ude00"]') == ["\U0001f600"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'"' + b"x" * (SHORT - 2) + b'"', True),
        (b'"' + b"x" * (SHORT - 1) + b'"', False),
        (b"[" + b"0," * (SHORT_STRUCTURE - 1) + b"0]", True),
        (b"[" + b"0," * SHORT_STRUCTURE + b"0]", False),
        (b'"' + b":" * (SHORT_STRUCTURE + 1) + b'"', False),
        (b"", True),
    ],
)
def test_what_an_event_loop_may_parse_is_short_in_bytes_and_in_things(text: bytes, expected: bool) -> None:
    """A document is short with so many bytes and so many marks, within texts, too; one more of either is too many."""
    assert short(text) is expected


@pytest.mark.parametrize("size", [SHORT, SHORT + 1, 3 * SHORT, 3 * SHORT + 7])
def test_marks_are_counted_across_slices(size: int) -> None:
    """A document that is looked through slice by slice has as many marks as one that is not."""
    text = (b"x{[:,}]" * (size // 7 + 1))[:size]
    assert structure(text) == sum(text.count(mark) for mark in (b"{", b"[", b":", b","))

"""JSON as RFC 8259 recommends it be sent: UTF-8, no member twice, not nested without end, and no more than can be held.

Two parsers that disagree on a duplicate member are how a request passes one check and means another; so it is refused.

A document is parsed in one go, and meanwhile an event loop does nothing else. What that costs depends little on the
bytes of a document and much on how many things it holds, so those are counted first: every object, array, member and
element of it brings one of ``{ [ : ,``. A megabyte that is one string costs as much as 5,000 members do. With one such
mark the costliest thing is a float of many digits, as much as 20 strings, so of those there are fewer; then comes a
member or an object, as much as 10, a whole number, 7, and an array, 3.

What is not `short` is parsed in a thread. What is costly there for how much it holds (objects, numbers) calls back into
Python, so the event loop gets its turns meanwhile; what does not, 40,000 arrays inside one another or a megabyte of
escapes, is one stretch of less than ten milliseconds.
"""

import json
import re
from typing import Any, Final, NoReturn

import msgspec

MAX_DEPTH: Final = 32  # objects and arrays inside one another
MAX_STRUCTURE: Final = 10_000  # of ``{ [ : ,`` in one document, unless its reader says otherwise
SHORT: Final = 256 * 1024  # bytes, and …
SHORT_STRUCTURE: Final = 5000  # … of ``{ [ : ,``, within texts, too: what an event loop may parse itself
MAX_NUMBER: Final = 32  # characters of one number; no double needs more than 24, and a long integer costs its square
MAX_FLOATS: Final = 1000

_STRUCTURE: Final = b"{[:,"
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"{}[]"))
_ALL_SQUARE: Final = bytes.maketrans(b"{}", b"[]")


UNREADABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError)
"""What a parser raises at bytes that are not what it was told to expect: also at those that are not UTF-8, or too deep.

Catching only msgspec's own errors would let two of the three through, so nobody names those.
"""


class MalformedJSON(ValueError):
    """The text is not JSON of this kind; the message names the rule and never the text."""


_HALF: Final = re.compile(rb"\\u[dD][89a-fA-F]")  # of a surrogate pair; two halves together are a character


def decode(text: bytes, most: int = MAX_STRUCTURE) -> Any:
    """Return the value that *text* holds.

    Args:
        text: the document.
        most: how many objects, arrays, members and elements it may hold, by their ``{ [ : ,``.

    Raises:
        MalformedJSON: not UTF-8, not JSON, a member twice, NaN or Infinity, nested deeper than `MAX_DEPTH`, a number
            longer than `MAX_NUMBER`, more than `MAX_FLOATS` fractions, or more in it than *most*.
    """
    bare = text  # without its strings, where that makes a difference
    if structure(text) > most:
        bare = _without_strings(text, most)
        if structure(bare) > most:
            raise _too_much(most)
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedJSON("the text is not UTF-8") from None
    try:
        value = json.loads(
            decoded,
            object_pairs_hook=_members,
            parse_int=_integer,
            parse_float=_Floats().read,
            parse_constant=_no_constant,
        )
    except MalformedJSON:
        raise
    except ValueError:
        # "from None": the parser's own error carries the whole document.
        raise MalformedJSON("the text is not JSON") from None
    except RecursionError:
        raise MalformedJSON(f"the text is nested deeper than {MAX_DEPTH}") from None
    if _HALF.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise MalformedJSON("the text holds half of a surrogate pair") from None
    # As many openers as the limit or fewer cannot be too deep, which spares nearly every document the look.
    if text.count(b"{") + text.count(b"[") > MAX_DEPTH:
        _check_depth(_without_strings(text, most) if bare is text else bare)
    return value


def structure(text: bytes) -> int:
    """Return how many ``{ [ : ,`` stand in *text*, within its strings, too: no fewer than it has things in it."""
    if len(text) <= SHORT:
        return len(text) - len(text.translate(None, delete=_STRUCTURE))
    return sum(structure(text[at : at + SHORT]) for at in range(0, len(text), SHORT))


def short(text: bytes) -> bool:
    """Whether *text* costs so little, whatever is in it, that an event loop may parse it itself."""
    return len(text) <= SHORT and structure(text) <= SHORT_STRUCTURE


def _without_strings(text: bytes, most: int) -> bytes:
    """Return *text*, which may be malformed, without what stands between its quotation marks.

    Raises:
        MalformedJSON: it has more strings than a document with *most* in it can have.
    """
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    if text.count(b'"') > 2 * (most + 1):
        raise _too_much(most)
    return b"".join(text.split(b'"')[::2])


def _too_much(most: int) -> MalformedJSON:
    return MalformedJSON(f"the text has more than {most} objects, arrays, members and elements")


def _check_depth(bare: bytes) -> None:
    """Refuse the brackets of a well-formed document that are nested too deep: each round takes the innermost away."""
    brackets = bare.translate(_ALL_SQUARE, delete=_NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")
        if not brackets:
            return
    raise MalformedJSON(f"the text is nested deeper than {MAX_DEPTH}")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise MalformedJSON("a member appears twice in one object")
    return members


def _integer(digits: str) -> int:
    if len(digits) > MAX_NUMBER:
        raise _long_number()
    return int(digits)


class _Floats:
    """The fractions of one document."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = MAX_FLOATS

    def read(self, digits: str) -> float:
        if len(digits) > MAX_NUMBER:
            raise _long_number()
        self._left -= 1
        if self._left < 0:
            raise MalformedJSON(f"the text has more than {MAX_FLOATS} fractions")
        return float(digits)


def _long_number() -> MalformedJSON:
    return MalformedJSON(f"a number is longer than {MAX_NUMBER} characters")


def _no_constant(_: str) -> NoReturn:
    raise MalformedJSON("NaN and Infinity are not JSON")

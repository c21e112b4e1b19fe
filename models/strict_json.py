"""JSON as RFC 8259 recommends it be sent: UTF-8, no member twice, not nested without end.

Two parsers that disagree on a duplicate member are how a request passes one check and means another; so it is refused.
"""

import json
from typing import Any, Final, NoReturn

MAX_DEPTH: Final = 32  # objects and arrays inside one another


class MalformedJSON(ValueError):
    """The text is not JSON of this kind; the message names the rule and never the text."""


def decode(text: bytes) -> Any:
    """Return the value that *text* holds.

    Raises:
        MalformedJSON: not UTF-8, not JSON, a member twice, NaN or Infinity, or nested deeper than `MAX_DEPTH`.
    """
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedJSON("the text is not UTF-8") from None
    try:
        value = json.loads(decoded, object_pairs_hook=_members, parse_constant=_no_constant)
    except MalformedJSON:
        raise
    except ValueError:
        # "from None": the parser's own error carries the whole document.
        raise MalformedJSON("the text is not JSON") from None
    except RecursionError:
        raise MalformedJSON(f"the text is nested deeper than {MAX_DEPTH}") from None
    # As many openers as the limit or fewer cannot be too deep, which spares nearly every document the walk.
    if text.count(b"{") + text.count(b"[") > MAX_DEPTH:
        _check_depth(value)
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise MalformedJSON("a member stands twice in one object")
    return members


def _no_constant(_: str) -> NoReturn:
    raise MalformedJSON("NaN and Infinity are not JSON")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not level:
            return
    if any(isinstance(value, dict | list) for value in level):
        raise MalformedJSON(f"the text is nested deeper than {MAX_DEPTH}")

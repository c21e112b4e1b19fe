"""JSON objects as they are spelt: one member is taken out, and every other byte of the rest stays as it was.

Reading a value and writing it anew would change numbers and escapes that do not concern us, and what is to be
found nowhere must be looked for as it lay there. All texts here are objects that `strongroom.models.strict_json`
accepts.
"""

import json
import re
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple, TypeAlias

Path: TypeAlias = tuple[str, ...]
"""Where a member stands: its name, behind those of the objects round it."""

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_DECODER: Final = json.JSONDecoder()


class Member(NamedTuple):
    """One member of an object: its name, all of it as it is spelt, and its value as that is spelt."""

    name: str
    text: str
    value: str


def members(text: str) -> Sequence[Member]:
    """Return the members of an object in their order."""
    found = []
    at = _past_space(text, _past_space(text, 0) + 1)
    while text[at] != "}":
        start = at
        name, at = _DECODER.raw_decode(text, start)
        value = _past_space(text, _past_space(text, at) + 1)
        _, at = _DECODER.raw_decode(text, value)
        found.append(Member(name, text[start:at], text[value:at]))
        at = _past_space(text, at)
        if text[at] == ",":
            at = _past_space(text, at + 1)
    return found


def member(text: str, path: Path) -> Member:
    """Return the member at *path*, which is there."""
    name, *below = path
    found = next(each for each in members(text) if each.name == name)
    return member(found.value, tuple(below)) if below else found


def without(text: str, paths: Collection[Path]) -> str:
    """Return the object without the members at *paths*; what is left keeps its order and its spelling."""
    kept = []
    for each in members(text):
        below = [path[1:] for path in paths if path[0] == each.name]
        if () in below:
            continue
        if below:
            kept.append(each.text[: len(each.text) - len(each.value)] + without(each.value, below))
        else:
            kept.append(each.text)
    return "{" + ", ".join(kept) + "}"


def _past_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at

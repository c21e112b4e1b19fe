"""What a field may hold, read off its annotation: one `Field` for each, made once when the model's class is made.

    str  int  bool  Secret            exactly that; a bool is no int
    a StrEnum                         one of its members; its text is taken for it
    list[...]                         each item of the one kind
    dict[str, object]                 a JSON object, nested at most `strict_json.MAX_DEPTH` deep
    Annotated[<one of these>, rule…]  and what the rules say; see ``strongroom.models.rules``

Reasons name what would be right and never the value that is wrong.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, TypeAlias, get_args, get_origin

from strongroom.models.secret import REDACTED, Secret
from strongroom.models.strict_json import MAX_DEPTH

Rule: TypeAlias = Callable[[Any], str | None]
"""Says why a value is wrong, or None; it is asked only about values of the right type."""

MAX_INT: Final = 2**63 - 1
"""Beyond 64 bits, other readers of the same JSON see another number (RFC 8259 sec. 6)."""


def _as_it_is(value: object) -> object:
    return value


@dataclass(frozen=True, slots=True)
class Field:
    """One field's law: how its JSON form is taken in, what is wrong with a value, and whether it is secret."""

    fault: Rule
    adopt: Callable[[object], object] = _as_it_is
    secret: bool = False
    required: bool = True


def field_of(annotation: Any) -> Field:
    """Return the law that *annotation* states.

    Raises:
        TypeError: it is not one of the forms that this module's first lines list.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        kind, *rules = arguments
        law = field_of(kind)
        return Field(fault=first_of(law.fault, *rules), adopt=law.adopt, secret=law.secret)
    if origin is list:
        return _list_of(field_of(arguments[0]))
    if annotation == dict[str, object]:
        return Field(fault=_not_a_json_object)
    if annotation is Secret:
        return Field(fault=_not_a_secret, adopt=_adopt_secret, secret=True)
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return _one_of(annotation)
    if annotation in _PLAIN:
        return Field(fault=_PLAIN[annotation])
    raise TypeError(f"a field cannot be annotated {annotation!r}; strongroom.models.fields lists what it can be")


def first_of(*rules: Rule) -> Rule:
    """Return the rule that says what the first of *rules* with anything to say does."""

    def fault(value: Any) -> str | None:
        return next((reason for rule in rules if (reason := rule(value)) is not None), None)

    return fault


def _not_text(value: object) -> str | None:
    if not isinstance(value, str):
        return "must be text"
    try:
        value.isascii() or value.encode()
    except UnicodeEncodeError:
        return "must be text that UTF-8 can carry"
    return None


def _not_an_int(value: object) -> str | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return "must be a whole number"
    return None if -MAX_INT <= value <= MAX_INT else "must be a whole number of at most 64 bits"


def _not_a_bool(value: object) -> str | None:
    return None if isinstance(value, bool) else "must be true or false"


_PLAIN: Final[dict[Any, Rule]] = {str: _not_text, int: _not_an_int, bool: _not_a_bool}


def _adopt_secret(value: object) -> object:
    return Secret(value) if isinstance(value, str) else value


def _not_a_secret(value: object) -> str | None:
    if not isinstance(value, Secret):
        return "must be text"
    if value.reveal() == REDACTED:
        return "is the mask of a safe form, not the secret itself"
    return _not_text(value.reveal())


def _one_of(members: type[StrEnum]) -> Field:
    named = ", ".join(member for member in members if member)
    reason = f"must be {'empty or ' if '' in set(members) else ''}one of: {named}"
    by_text: dict[object, StrEnum] = {member.value: member for member in members}

    def adopt(value: object) -> object:
        return by_text.get(value, value) if isinstance(value, str) else value

    def fault(value: object) -> str | None:
        return None if isinstance(value, str) and value in by_text else reason

    return Field(fault=fault, adopt=adopt)


def _list_of(item: Field) -> Field:
    def adopt(value: object) -> object:
        return [item.adopt(member) for member in value] if isinstance(value, list) else value

    def fault(value: object) -> str | None:
        if not isinstance(value, list):
            return "must be a list"
        reason = next((reason for member in value if (reason := item.fault(member)) is not None), None)
        return reason and f"holds an item that {reason}"

    return Field(fault=fault, adopt=adopt, secret=item.secret)


def _not_a_json_object(value: object) -> str | None:
    if not isinstance(value, dict):
        return "must be an object"
    return _not_json(value, MAX_DEPTH - 1)  # the record round it is one level itself


def _not_json(value: object, depth: int) -> str | None:
    match value:
        case None | bool():
            return None
        case int():
            return _not_an_int(value) and "holds a number that JSON cannot carry"
        case float():
            return None if math.isfinite(value) else "holds a number that JSON cannot carry"
        case str():
            return _not_text(value) and "holds text that UTF-8 cannot carry"
        case list() | dict() if depth == 0:
            return f"is nested deeper than {MAX_DEPTH}"
        case list():
            children = value
        case dict() if all(isinstance(member, str) for member in value):
            children = [*value, *value.values()]
        case _:
            return "holds something that JSON cannot carry"
    return next((reason for child in children if (reason := _not_json(child, depth - 1)) is not None), None)

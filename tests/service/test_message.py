"""The message that a secret's value travels in: written in one form, and read as Custodia reads it."""

import json
from typing import Final

import msgspec
import pytest

from strongroom.storage_service.errors import Invalid, NotAcceptable, ServiceError
from strongroom.storage_service.wire.message import Message, encode, value_of

VALUES: Final = ("", "plain", 'a "quote" and a \\', "Grüße, \U0001f511", "\n\x00")

REFUSED: Final[dict[str, tuple[object, type[ServiceError]]]] = {
    "not an object": (["simple", "x"], Invalid),
    "without a type": ({"value": "x"}, Invalid),
    "without a value": ({"type": "simple"}, Invalid),
    "two values": ({"type": "simple", "value": ["x", "y"]}, Invalid),
    "no type in a list": ({"type": [], "value": "x"}, Invalid),
    "another type": ({"type": "kem", "value": "x"}, NotAcceptable),
    "a value that is no text": ({"type": "simple", "value": 7}, Invalid),
}


@pytest.mark.parametrize("value", VALUES, ids=ascii)
def test_a_message_comes_back(value: str) -> None:
    """What is written is the simple message of the value, for us and for any reader of JSON."""
    assert json.loads(encode(value)) == {"type": "simple", "value": value}
    assert msgspec.json.decode(encode(value), type=Message) == Message(value)
    assert value_of(json.loads(encode(value))) == value


def test_members_may_be_lists_of_one() -> None:
    """Custodia takes what a form has made of a message, a list of one for each member."""
    assert value_of({"type": ["simple"], "value": ["x"]}) == "x"


@pytest.mark.parametrize(("message", "error"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(message: object, error: type[ServiceError]) -> None:
    """Anything else is refused, and the error says what a message is or which are served, and repeats nothing."""
    with pytest.raises(error) as caught:
        value_of(message)
    assert "simple" in str(caught.value) or "value" in str(caught.value)
    assert '"x"' not in str(caught.value)


def test_a_message_does_not_show_its_value() -> None:
    """The repr of a message is its type."""
    assert repr(Message("hunter2")) == "<Message simple>"

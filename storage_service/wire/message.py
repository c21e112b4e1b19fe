"""The message that a secret's value travels in: Custodia's simple one, the only form that there is.

{"type":"simple","value":"correct horse"}
"""

from typing import Final

import msgspec

from strongroom.storage_service.errors import Invalid, NotAcceptable

SIMPLE: Final = "simple"
ONLY_SIMPLE: Final = "only simple messages are served"
TEMPLATE: Final = b'{"type":"simple","value":%s}'  # with the value as JSON; PERF: for who writes a message a secret

_encode = msgspec.json.Encoder().encode


class Message(msgspec.Struct):
    """A message, for who reads what a service answered."""

    value: str
    type: str = SIMPLE

    def __repr__(self) -> str:
        return f"<Message {self.type}>"


def encode(value: str) -> bytes:
    """Return the message of *value*."""
    return TEMPLATE % _encode(value)


def value_of(message: object) -> str:
    """Return the value of a *message* that somebody sent; its members may be lists of one, as forms have them.

    Raises:
        Invalid: it is not a message.
        NotAcceptable: it is of another type.
    """
    if not isinstance(message, dict) or "type" not in message or "value" not in message:
        raise Invalid("a message is " + TEMPLATE.decode() % '"…"')
    kind, value = (m[0] if isinstance(m := message[key], list) and len(m) == 1 else m for key in ("type", "value"))
    if isinstance(kind, list) or isinstance(value, list):
        raise Invalid("type and value are not lists")
    if kind != SIMPLE:
        raise NotAcceptable(ONLY_SIMPLE)
    if not isinstance(value, str):
        raise Invalid("the value is not a string")
    return value

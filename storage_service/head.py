"""What the service reads of a request's head, in one pass over its header fields."""

import os
from collections.abc import Iterable
from typing import Final

from storage_service import wire
from storage_service.errors import Invalid

_REQUEST_ID: Final = wire.REQUEST_ID_HEADER.lower().encode()

# header name -> attribute of Head; the spellings of one credential share an attribute
_FIELDS: Final[dict[bytes, str]] = {
    b"accept": "accept",
    b"content-type": "content_type",
    b"content-length": "content_length",
    b"if-match": "if_match",
    b"if-none-match": "if_none_match",
    _REQUEST_ID: "request_id",
    wire.FORWARDED_HEADER.lower().encode(): "forwarded",
    wire.ON_BEHALF_HEADER.lower().encode(): "on_behalf_of",
    **dict.fromkeys(wire.AUTH_ID_HEADERS, "auth_id"),
    **dict.fromkeys(wire.AUTH_KEY_HEADERS, "auth_key"),
}


class Head:
    """The header fields that mean something here; the credentials stay out of the repr."""

    __slots__ = (
        "accept",
        "auth_id",
        "auth_key",
        "content_length",
        "content_type",
        "forwarded",
        "if_match",
        "if_none_match",
        "on_behalf_of",
        "request_id",
    )

    accept: str | None
    auth_id: str | None
    auth_key: str | None
    content_length: str | None
    content_type: str | None
    forwarded: str | None
    if_match: str | None
    if_none_match: str | None
    on_behalf_of: str | None
    request_id: str | None

    def __init__(self) -> None:
        self.accept = self.content_type = self.content_length = None
        self.if_match = self.if_none_match = None
        self.request_id = self.forwarded = self.on_behalf_of = None
        self.auth_id = self.auth_key = None

    def __repr__(self) -> str:
        return f"<Head of request {self.request_id}>"


def read(headers: Iterable[tuple[bytes, bytes]], fields: dict[bytes, str] = _FIELDS) -> Head:
    """Return the head that *headers* (names in lower case, as ASGI gives them) make.

    A request id that is not well-formed is replaced by a new one.

    Raises:
        Invalid: a field stands twice, in one spelling or in two.
    """
    head = Head()
    seen: set[str] = set()
    for name, value in headers:
        attribute = fields.get(name)
        if attribute is not None:
            if attribute in seen:
                raise Invalid("a header field stands twice, or in two spellings")
            seen.add(attribute)
            setattr(head, attribute, value.decode("latin-1"))
    if head.request_id is None or wire.REQUEST_ID.fullmatch(head.request_id) is None:
        head.request_id = os.urandom(12).hex()
    return head


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the id of a request whose head is refused: its own where that is well-formed, else a new one."""
    for name, value in headers:
        if name == _REQUEST_ID and wire.REQUEST_ID.fullmatch(given := value.decode("latin-1")) is not None:
            return given
    return os.urandom(12).hex()


def fields_with(id_header: str, key_header: str) -> dict[bytes, str]:
    """Return the header table with the names that a configuration gives the two credentials added to it."""
    table = dict(_FIELDS)
    for header, attribute in ((id_header, "auth_id"), (key_header, "auth_key")):
        name = header.lower().encode()
        table[name] = table[name.replace(b"_", b"-")] = table[name.replace(b"-", b"_")] = attribute
    return table

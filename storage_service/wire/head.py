"""What the service reads of a request's head, in one pass over its header fields."""

import os
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from strongroom.storage_service import wire
from strongroom.storage_service.errors import Invalid


class Head(NamedTuple):
    """The header fields that mean something here; the credentials stay out of the repr.

    *address* is no field: it is the client's, where whoever is believed about it has told it.
    """

    request_id: str | None = None
    auth_id: str | None = None
    auth_key: str | None = None
    accept: str | None = None
    content_type: str | None = None
    if_match: str | None = None
    if_none_match: str | None = None
    forwarded: str | None = None
    on_behalf_of: str | None = None
    proxy: str | None = None
    asked: str | None = None
    authorization: str | None = None
    address: str | None = None
    certificate: str | None = None
    traceparent: str | None = None

    @property
    def trace(self) -> str | None:
        """The id of the trace that the request is part of, if it says one."""
        return None if self.traceparent is None else trace_in(self.traceparent)

    def __repr__(self) -> str:
        return f"<Head of request {self.request_id}>"


Table = dict[bytes, int]  # header name -> place in `Head`; the spellings of one credential share a place

_REQUEST_ID: Final = wire.REQUEST_ID_HEADER.lower().encode()
_PLACES: Final = {name: place for place, name in enumerate(Head._fields)}
_TRACE: Final = _PLACES["traceparent"]
_NOTHING: Final[tuple[str | None, ...]] = (None,) * len(_PLACES)
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?", re.ASCII)
_SAFE: Final = frozenset(("GET", "HEAD", "OPTIONS"))  # methods that change nothing
_TABLE: Final[Table] = {
    _REQUEST_ID: _PLACES["request_id"],
    b"accept": _PLACES["accept"],
    b"content-type": _PLACES["content_type"],
    b"if-match": _PLACES["if_match"],
    b"if-none-match": _PLACES["if_none_match"],
    wire.FORWARDED_HEADER.lower().encode(): _PLACES["forwarded"],
    wire.ON_BEHALF_HEADER.lower().encode(): _PLACES["on_behalf_of"],
    wire.PROXY_HEADER.lower().encode(): _PLACES["proxy"],
    wire.ASKED_HEADER.lower().encode(): _PLACES["asked"],
    wire.CERTIFICATE_HEADER.lower().encode(): _PLACES["certificate"],
    b"authorization": _PLACES["authorization"],
    wire.TRACE_HEADER.encode(): _PLACES["traceparent"],
    **dict.fromkeys(wire.AUTH_ID_HEADERS, _PLACES["auth_id"]),
    **dict.fromkeys(wire.AUTH_KEY_HEADERS, _PLACES["auth_key"]),
}


def read(headers: Iterable[tuple[bytes, bytes]], table: Table = _TABLE) -> Head:
    """Return the head that *headers* (names in lower case) make.

    A request id that is not well-formed is replaced by a new one; what says of two traces says of none.

    Raises:
        Invalid: another field stands twice, in one spelling or in two.
    """
    values = list(_NOTHING)
    for name, value in headers:
        place = table.get(name)
        if place is not None:
            if values[place] is not None and place != _TRACE:
                raise Invalid("a header field appears twice, or in two spellings")
            values[place] = value.decode("latin-1") if values[place] is None else ""
    given = values[0]
    if given is None or wire.REQUEST_ID.fullmatch(given) is None:
        values[0] = os.urandom(12).hex()
    return Head(*values)


def trace_in(traceparent: str) -> str | None:
    """Return the id of the trace that ``traceparent`` speaks of; None where it is malformed (W3C Trace Context 3.2)."""
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return None
    version, trace, parent, more = found.groups()
    known = version != "ff" and not (version == "00" and more)
    return trace if known and trace.strip("0") and parent.strip("0") else None


def check_unconditional(head: Head, method: bytes) -> None:
    """Return if *head* has no condition, where none is looked at; as `refuse_condition`."""
    refuse_condition(method.decode("ascii"), head.if_match, head.if_none_match)


def refuse_condition(method: str, if_match: str | None, if_none_match: str | None) -> None:
    """Return if there is no condition, where none is looked at: whoever changes something must not believe it held.

    Raises:
        Invalid: there is one, and *method* is not one that changes nothing.
    """
    if method not in _SAFE and (if_match is not None or if_none_match is not None):
        raise Invalid("neither If-Match nor If-None-Match is looked at here; nothing was done")


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the id of a request whose head is refused: its own where that is well-formed, else a new one."""
    for name, value in headers:
        if name == _REQUEST_ID and wire.REQUEST_ID.fullmatch(given := value.decode("latin-1")) is not None:
            return given
    return os.urandom(12).hex()


def table_with(id_header: str, key_header: str) -> Table:
    """Return the table with the names that a configuration gives the two credentials added to it."""
    table = dict(_TABLE)
    for header, field in ((id_header, "auth_id"), (key_header, "auth_key")):
        name = header.lower().encode()
        for spelling in (name, name.replace(b"_", b"-"), name.replace(b"-", b"_")):
            table[spelling] = _PLACES[field]
    return table

"""What every resource does with a request: identify the caller, read the body, and answer."""

import asyncio
from typing import Any, Final, Self, TypeVar

import falcon.asgi
import msgspec

from strongroom.models import strict_json
from strongroom.storage_service import wire
from strongroom.storage_service.errors import Invalid, TooLarge
from strongroom.storage_service.services.door import Caller
from strongroom.storage_service.turns import Turn

T = TypeVar("T", bound=msgspec.Struct)

Request = falcon.asgi.Request
Response = falcon.asgi.Response

PIECE: Final = 64 * 1024  # bytes of an answer that are sent at once


def caller(req: Request) -> Caller:
    """Return who asks, as the application found out before it handed the request over."""
    known: Caller = req.scope["state"]["caller"]
    return known


async def body(req: Request, of: type[T], limit: int) -> T:
    """Return the request's body, of at most *limit* bytes, as an *of*.

    Raises:
        TooLarge: it is over *limit*.
        Invalid: it is no such thing; nothing of it is repeated.
    """
    said = await decoded(await content(req, limit))
    try:
        return msgspec.convert(said, of)
    except msgspec.ValidationError:
        raise not_a(of) from None


async def decoded(text: bytes, most: int = strict_json.MAX_STRUCTURE) -> Any:
    """Return the value of the JSON *text* with at most *most* in it; what is not short is parsed in a thread.

    Raises:
        Invalid: it is no such thing; nothing of it is repeated.
    """
    try:
        if strict_json.short(text):
            return strict_json.decode(text, most)
        return await asyncio.to_thread(strict_json.decode, text, most)
    except strict_json.MalformedJSON as error:
        reason = str(error)
    raise Invalid(reason)  # after the handler: what was caught may hold the body in its frames


async def content(req: Request, limit: int) -> bytes:
    """Return the request's body as it was sent; one that says it is over *limit* is not read.

    What may be over 1 MiB is read by `strongroom.storage_service.http.large_bodies`.

    Raises:
        TooLarge: it is over *limit*.
        Invalid: its client left before its end.
    """
    if req.content_length is not None and req.content_length > limit:
        raise TooLarge("the body is over its limit")
    sent: bytes = await req.stream.read(limit + 1)
    if len(sent) > limit:
        raise TooLarge("the body is over its limit")
    check_whole(req, len(sent))
    return sent


def check_whole(req: Request, size: int) -> None:
    """Raise `Invalid` if *size* bytes are less than the length that was said: falcon ends a body that was cut off."""
    if size < (req.content_length or 0):
        raise Invalid("the body ended before its declared length")


def not_a(of: type[msgspec.Struct]) -> Invalid:
    """The refusal of a body that should have been an *of*."""
    return Invalid(f"the body is not a {of.__name__}: see docs/http-api.md")


def answer(req: Request, resp: Response, said: object) -> None:
    """Answer *said* as JSON, or nothing for None; it is not to be stored on its way."""
    resp.set_header("Cache-Control", "no-store")
    resp.set_header(wire.REQUEST_ID_HEADER, caller(req).request_id)
    if said is None:
        return
    resp.content_type = wire.JSON
    resp.data = msgspec.json.encode(said)


async def answer_held(req: Request, resp: Response, said: msgspec.Struct, turn: Turn | None) -> None:
    """Answer *said* as `answer` does; a large answer, which has a *turn*, is made in a thread and sent in pieces."""
    if turn is None:
        answer(req, resp, said)
        return
    try:
        text = await asyncio.to_thread(_encoded, said)
    except BaseException:
        turn.end()
        raise
    answer(req, resp, None)
    resp.content_type = wire.JSON
    resp.content_length = len(text)
    resp.stream = _Pieces(text, turn)


def _encoded(said: msgspec.Struct) -> bytes:
    """Return *said* as JSON, made element by element: no stretch that keeps the event loop out is longer than one's."""
    encode = msgspec.json.Encoder().encode
    members = []
    for name in said.__struct_fields__:
        value = getattr(said, name)
        text = b"[%b]" % b",".join(map(encode, value)) if isinstance(value, list) else encode(value)
        members.append(b'"%b":%b' % (name.encode(), text))
    return b"{%b}" % b",".join(members)


class _Pieces:
    """An answer, piece by piece, each when the one before it was handed over; with the last, its turn ends.

    A turn that is lost takes the answer along: its reader sees the connection end.
    """

    def __init__(self, text: bytes, turn: Turn) -> None:
        self._text = text
        self._at = 0
        self._turn = turn

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        piece = self._text[self._at : self._at + PIECE]
        if not piece:
            raise StopAsyncIteration
        if self._at:
            self._turn.moved(PIECE)
        else:
            self._turn.await_client()
        self._at += PIECE
        return piece

    async def close(self) -> None:
        """End the turn; falcon calls this whatever became of the answer, once it has begun."""
        self._turn.end()

    def __del__(self) -> None:
        self._turn.end()  # of one whose client left before it began

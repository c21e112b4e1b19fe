"""What every resource does with a request: see who asks, read what is said, and answer it."""

from typing import TypeVar

import falcon.asgi
import msgspec

from models import strict_json
from storage_service import wire
from storage_service.errors import Invalid, TooLarge
from storage_service.service import Caller

T = TypeVar("T", bound=msgspec.Struct)

Request = falcon.asgi.Request
Response = falcon.asgi.Response


def caller(req: Request) -> Caller:
    """Return who asks, as the application found out before it handed the request over."""
    known: Caller = req.scope["state"]["caller"]
    return known


async def body(req: Request, of: type[T]) -> T:
    """Return the request's body as an *of*.

    Raises:
        TooLarge: it is over `wire.MAX_BODY`.
        Invalid: it is no such thing; nothing of it is repeated.
    """
    text = await content(req)
    try:
        return msgspec.convert(strict_json.decode(text), of)
    except strict_json.MalformedJSON as error:
        raise Invalid(str(error)) from None
    except msgspec.ValidationError:
        raise not_a(of) from None


async def content(req: Request) -> bytes:
    """Return the request's body as it was sent.

    Raises:
        TooLarge: it is over `wire.MAX_BODY`.
    """
    if req.content_length is not None and req.content_length > wire.MAX_BODY:
        raise TooLarge("the body is over its limit")
    sent: bytes = await req.stream.read(wire.MAX_BODY + 1)
    if len(sent) > wire.MAX_BODY:
        raise TooLarge("the body is over its limit")
    return sent


def not_a(of: type[msgspec.Struct]) -> Invalid:
    """The refusal of a body that should have been an *of*."""
    return Invalid(f"the body is not a {of.__name__}: see docs/http-api.md")


def answer(req: Request, resp: Response, said: object) -> None:
    """Answer *said* as JSON, or nothing for None; it is not to be stored on its way."""
    resp.set_header("Cache-Control", "no-store")
    resp.set_header(wire.REQUEST_ID_HEADER, caller(req).request_id)
    if said is not None:
        resp.content_type = wire.JSON
        resp.data = msgspec.json.encode(said)

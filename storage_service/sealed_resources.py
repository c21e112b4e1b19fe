"""The socket's ``/sealed``: what is encrypted, as it is stored. The proxy forwards none of it."""

from typing import Any, Final, Generic, TypeVar

import falcon.asgi
import msgspec

from storage_service import wire
from storage_service.answering import Request, Response, answer, caller, content, not_a
from storage_service.sealed_service import SealedService

T = TypeVar("T", bound=msgspec.Struct)


def add_routes(app: falcon.asgi.App[Any, Any], sealed: SealedService) -> None:
    """Give *app* every resource of this page."""
    for path, resource in (
        ("", Limits(sealed)),
        ("/read", Read(sealed)),
        ("/list", List(sealed)),
        ("/commit", Commit(sealed)),
    ):
        app.add_route(wire.SEALED_PATH + path, resource)


class _Body(Generic[T]):
    """Reads bodies of one type.

    PERF: in one go, where `storage_service.answering.body` looks for members that stand twice, lest two parsers differ:
    nothing but this parser ever reads these.
    """

    def __init__(self, of: type[T]) -> None:
        self._of = of
        self._decode = msgspec.json.Decoder(of).decode

    async def read(self, req: Request) -> T:
        """Return the body of *req*.

        Raises:
            TooLarge: it is over `wire.MAX_BODY`.
            Invalid: it is no such thing; nothing of it is repeated.
        """
        text = await content(req)
        try:
            return self._decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            pass
        raise not_a(self._of)  # after the handler: the error that was caught may hold the body


_NAMES: Final = _Body(wire.SealedNames)
_LISTING: Final = _Body(wire.SealedListing)
_COMMIT: Final = _Body(wire.SealedCommit)


class _Resource:
    """A resource, and the door behind it."""

    def __init__(self, sealed: SealedService) -> None:
        self._sealed = sealed


class Limits(_Resource):
    """How much at once."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """Tell it, as it is now."""
        answer(req, resp, await self._sealed.limits(caller(req)))


class Read(_Resource):
    """The verb that reads values."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """Answer them in the order asked."""
        said = await _NAMES.read(req)
        answer(req, resp, await self._sealed.read(caller(req), said.names))


class List(_Resource):
    """The verb that lists names."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """Answer a page of them."""
        said = await _LISTING.read(req)
        answer(req, resp, await self._sealed.list(caller(req), said.prefix, said.after, said.limit))


class Commit(_Resource):
    """The verb that writes, removes and guards."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """Do all of it or nothing."""
        said = await _COMMIT.read(req)
        answer(req, resp, await self._sealed.commit(caller(req), said.changes))

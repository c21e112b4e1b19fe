"""How refusals and failures look to an HTTP client: RFC 9457 problems, from the one table in ``storage_service.wire``.

Nothing that a client sent stands in them, and of the inside no more than the row of the table.
"""

import logging
from collections.abc import Iterable
from http import HTTPStatus
from typing import TypeAlias

import falcon
import falcon.asgi
import msgspec

from http_proxy.refusals import Why, why
from models.errors import InvalidName, ValidationError
from storage_service import wire
from storage_service.errors import Internal, Invalid, ServiceError
from storage_service.wire.http1 import Exchange

_log = logging.getLogger(__name__)

Request: TypeAlias = falcon.asgi.Request
Response: TypeAlias = falcon.asgi.Response
FalconApp: TypeAlias = "falcon.asgi.App[Request, Response]"


def answer_problem(exchange: Exchange, error: ServiceError, request_id: bytes, challenges: Iterable[str] = ()) -> None:
    """Answer with *error*; *challenges* take the place of the service's own."""
    status, fields, body = wire.problem_answer(error, request_id.decode("ascii"))
    if challenges:
        fields = [field for field in fields if field[0] != b"www-authenticate"]
        fields += [(b"www-authenticate", challenge.encode("ascii")) for challenge in challenges]
    exchange.answer(status, fields, body)


class Rejected(Exception):
    """A request that contradicts the records as they are; *title* is ours, and says no more than why."""

    def __init__(self, status: int, title: str) -> None:
        super().__init__(title)
        self.status = status
        self.title = title


def install(app: FalconApp) -> None:
    """Let *app* answer every error of ours, and of falcon's own, with a problem."""
    app.add_error_handler(Exception, _on_anything)
    app.add_error_handler(falcon.HTTPError, _on_http_error)
    app.add_error_handler(ValidationError, _on_validation_error)
    app.add_error_handler(InvalidName, _on_invalid_name)
    app.add_error_handler(ServiceError, _on_service_error)
    app.add_error_handler(Rejected, _on_rejected)


async def _on_service_error(req: Request, resp: Response, error: ServiceError, params: dict[str, object]) -> None:
    del params
    _respond(req, resp, error)


async def _on_validation_error(req: Request, resp: Response, error: ValidationError, params: dict[str, object]) -> None:
    del params
    _respond(req, resp, Invalid("the record is invalid", error.faults))


async def _on_invalid_name(req: Request, resp: Response, error: InvalidName, params: dict[str, object]) -> None:
    del params
    _respond(req, resp, Invalid(str(error)))


async def _on_rejected(req: Request, resp: Response, error: Rejected, params: dict[str, object]) -> None:
    del params
    resp.status = error.status
    _note(req, Why(error.status, error.title))
    _fill_plain(req, resp, error.status, error.title)


async def _on_anything(req: Request, resp: Response, error: Exception, params: dict[str, object]) -> None:
    del params
    # The class and the place, never the text: an exception of a library may quote what it was given.
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else "nowhere"
    _log.error("request %s: %s at %s", _request_id(req), type(error).__name__, place)
    _respond(req, resp, Internal("see the log"))


async def _on_http_error(req: Request, resp: Response, error: falcon.HTTPError, params: dict[str, object]) -> None:
    """What falcon itself refuses (no route, no such verb, no JSON) has the status and nothing more to say."""
    del params
    resp.status = error.status_code
    if error.headers:
        resp.set_headers(error.headers)
    phrase = HTTPStatus(error.status_code).phrase
    _note(req, Why(error.status_code, phrase))
    _fill_plain(req, resp, error.status_code, phrase)


def _respond(req: Request, resp: Response, error: ServiceError) -> None:
    status, fields, body = wire.problem_response(error, _request_id(req))
    resp.status = status
    _note(req, why(error))
    resp.set_headers([(name.decode("ascii"), value.decode("ascii")) for name, value in fields])
    _fill(resp, body)


def _note(req: Request, reason: Why) -> None:
    """Count what is refused here, for the audit log."""
    refused = req.scope["state"].get("refused")
    if refused is not None:
        refused(reason)


def _fill_plain(req: Request, resp: Response, status: int, title: str) -> None:
    """Fill in a problem that has no type of its own (RFC 9457 sec. 4.2.1)."""
    _fill(resp, msgspec.json.encode({"title": title, "status": status, "request_id": _request_id(req)}))


def _fill(resp: Response, body: bytes) -> None:
    resp.content_type = wire.PROBLEM_JSON
    resp.set_header("Cache-Control", "no-store")
    resp.text = resp.media = None
    resp.data = body


def _request_id(req: Request) -> str:
    return str(req.scope["state"]["request_id"])

"""How refusals and failures look to an HTTP client: RFC 9457 problems.

The one table of them is in ``strongroom.storage_service.wire``.
Nothing that a client sent stands in them, and of the inside no more than the row of the table.
"""

import logging
from collections.abc import Iterable
from http import HTTPStatus
from typing import TypeAlias

import falcon
import falcon.asgi
import msgspec

from strongroom.http_proxy.refusals import Why, why
from strongroom.models.errors import InvalidName, ValidationError
from strongroom.models.steps import Step
from strongroom.storage_service import wire
from strongroom.storage_service.errors import Contradicted, Internal, Invalid, MethodNotAllowed, ServiceError
from strongroom.storage_service.traces import trace_of
from strongroom.storage_service.wire.http1 import Exchange, Gone

_log = logging.getLogger(__name__)

Request: TypeAlias = falcon.asgi.Request
Response: TypeAlias = falcon.asgi.Response
FalconApp: TypeAlias = "falcon.asgi.App[Request, Response]"


def answer_problem(
    exchange: Exchange,
    error: ServiceError,
    request_id: bytes,
    challenges: Iterable[str] = (),
    *,
    stranger: bool = False,
) -> None:
    """Answer whoever is known, or a *stranger*, with *error*; *challenges* take the place of the service's own."""
    status, fields, body = wire.problem_answer(error, request_id.decode("ascii"), stranger=stranger)
    if challenges:
        fields = [field for field in fields if field[0] != b"www-authenticate"]
        fields += [(b"www-authenticate", challenge.encode("ascii")) for challenge in challenges]
    exchange.answer(status, fields, body)


class Rejected(Exception):
    """A request that contradicts the records as they are; *reason* is ours, and says no more than why."""

    def __init__(self, status: int, reason: str, *steps: Step) -> None:
        super().__init__(reason)
        self.status = status
        self.steps = steps  # what can be done about it


def install(app: FalconApp) -> None:
    """Let *app* answer every error of ours, and of falcon's own, with a problem."""
    app.add_error_handler(Exception, _on_anything)
    app.add_error_handler(Gone, _on_gone)
    app.add_error_handler(falcon.HTTPError, _on_http_error)
    app.add_error_handler(ValidationError, _on_validation_error)
    app.add_error_handler(InvalidName, _on_invalid_name)
    app.add_error_handler(ServiceError, _on_service_error)
    app.add_error_handler(Rejected, _on_rejected)
    app.add_middleware(_Allow())


class _Allow:
    """Falcon middleware: a 405 says what else may be asked of the resource (RFC 9110 sec. 15.5.6)."""

    async def process_response(self, req: Request, resp: Response, resource: object, succeeded: bool) -> None:
        del succeeded
        if resp.status_code == 405 and resp.get_header("Allow") is None:
            served = {name.removeprefix("on_").upper() for name in dir(resource) if name.startswith("on_")}
            resp.set_header("Allow", ", ".join(sorted(served - {req.method})))


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
    _respond(req, resp, (MethodNotAllowed if error.status == 405 else Contradicted)(str(error)).advising(*error.steps))


async def _on_anything(req: Request, resp: Response, error: Exception, params: dict[str, object]) -> None:
    del params
    _log.error("request %s: unexpected %s", _request_id(req), trace_of(error))
    _respond(req, resp, Internal("see the log"))


async def _on_gone(req: Request, resp: Response, error: Gone, params: dict[str, object]) -> None:
    del resp, params
    _note(req, why(Invalid("the client left before its request was whole")))
    raise error  # there is nobody to answer


async def _on_http_error(req: Request, resp: Response, error: falcon.HTTPError, params: dict[str, object]) -> None:
    """What falcon itself refuses (no route, no such verb, no JSON) has the status and nothing more to say."""
    del params
    resp.status = error.status_code
    if error.headers:
        resp.set_headers(error.headers)
    status, phrase = error.status_code, HTTPStatus(error.status_code).phrase
    _note(req, Why(status, phrase))
    problem = {"type": wire.type_of(status), "title": phrase, "status": status, "request_id": _request_id(req)}
    _fill(resp, msgspec.json.encode(problem))


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


def _fill(resp: Response, body: bytes) -> None:
    resp.content_type = wire.PROBLEM_JSON
    resp.set_header("Cache-Control", "no-store")
    resp.text = resp.media = None
    resp.data = body


def _request_id(req: Request) -> str:
    return str(req.scope["state"]["request_id"])

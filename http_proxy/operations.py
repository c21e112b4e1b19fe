"""The words of which a description of operations is made: answers, problems, bodies."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final, TypeAlias

from strongroom.storage_service import wire

Json: TypeAlias = dict[str, Any]


def ref(kind: str, name: str) -> Json:
    """Return where the component of that *name* stands."""
    return {"$ref": f"#/components/{kind}/{name}"}


def schema(name: str) -> Json:
    """Return where the schema of that *name* stands."""
    return ref("schemas", name)


def content(of: Json, media: str = wire.JSON) -> Json:
    """Return the content that is *of* a schema."""
    return {"content": {media: {"schema": of}}}


def answer(text: str, of: Json | None = None, *, tagged: bool = False) -> Json:
    """Return an answer; one that is *tagged* has the tag of the record's revision."""
    headers = {"headers": {"ETag": ref("headers", "ETag")}} if tagged else {}
    return {"description": text, **headers, **(content(of) if of else {})}


def body(of: Json, *, required: bool = True) -> Json:
    """Return a body *of* a schema."""
    return {"required": required, **content(of)}


def list_of(of: Json) -> Json:
    """Return the schema of a list."""
    return {"type": "array", "items": of}


_PLAIN: Final = (400, 405, 408, 414, 415, 417, 431, 500, 501, 503)  # whatever is asked; most of it by the connection
_KNOWN: Final = (401, 403, 429)  # where credentials are asked for
_BODY: Final = (413,)

PROBLEMS: Final[Mapping[int, str]] = {
    400: "It is not valid: `errors` says which fields, where they are at fault.",
    401: "No credentials were given.",
    403: "The credentials are wrong, or do not allow this.",
    404: "It does not exist.",
    405: "It cannot be asked for here, or not yet; `Allow` says what can.",
    406: "Another type or form is asked for than is served.",
    408: "The request did not come in time.",
    409: "It contradicts the records as they are: it exists already, is another, or is not empty.",
    412: "It is not at the revision in If-Match, or not there; or it is there, and If-None-Match says that it is not.",
    413: "The body, the value or the answer is too large.",
    414: "The request target is too long.",
    415: "The body has a Content-Encoding.",
    417: "The expectation is not served.",
    429: "Wrong credentials were shown, or there were too many requests; `wait` says for how many seconds to wait.",
    431: "The head is too large.",
    500: "Something broke, or the stored record is not valid; `detail` says which, and `fate` what became of a write.",
    501: "There is no such method.",
    503: "It cannot be done now: the service is locked, busy, or its store away. `fate` says what became of a write.",
}
_TYPICAL: Final = {405: "Allow", 401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}


def problem(status: int) -> Json:
    """Return the answer that is a problem of that *status*."""
    headers = {"headers": {name: ref("headers", name)}} if (name := _TYPICAL.get(status)) else {}
    return {"description": PROBLEMS[status], **headers, **content(schema("Problem"), wire.PROBLEM_JSON)}


def phrase(status: int) -> str:
    """Return how the answer of that *status* is called among the components."""
    return "".join(word.capitalize() for word in HTTPStatus(status).phrase.replace("-", " ").split())


def operation(
    summary: str,
    answers: Mapping[int, Json],
    said: Json | None = None,
    *,
    id: str,  # noqa: A002  # the field's word
    problems: Iterable[int] = (),
    **more: Any,
) -> Json:
    """Return an operation: its *answers*, and the *problems* that are its own beside those of every one of its kind."""
    secured = more.get("security") != []
    statuses = {*_PLAIN, *problems, *(_KNOWN if secured else ()), *(_BODY if said else ())}
    told = {str(status): answer for status, answer in answers.items()}
    told |= {str(status): ref("responses", phrase(status)) for status in sorted(statuses - answers.keys())}
    request = {"requestBody": said} if said else {}
    return {"operationId": id, "summary": summary, "responses": told, **request, **more}


def at(*parameters: str, **operations: Json) -> Json:
    """Return a path with its *parameters* and its operations by method."""
    told = {"parameters": [ref("parameters", name) for name in parameters]} if parameters else {}
    return {**told, **operations}


TEXTS: Final = list_of({"type": "string"})
OPEN: Final[Json] = {"security": []}
GUARDS: Final[Json] = {"parameters": [ref("parameters", "ifMatch"), ref("parameters", "ifNoneMatch")]}

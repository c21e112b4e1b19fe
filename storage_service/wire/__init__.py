"""What crosses a wire, stated once: limits, header names, problem types and their statuses.

The service, its client and the proxy all read this page; it imports nothing but the errors it tells of.
"""

import base64
import binascii
import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal, NamedTuple, TypeAlias

import msgspec

from strongroom.models.steps import Step
from strongroom.models.strict_json import UNREADABLE
from strongroom.storage_service import errors
from strongroom.storage_service.wire.etags import NEW as NEW
from strongroom.storage_service.wire.etags import etag_of as etag_of

VERSION: Final = "0.1.0"

MAX_BODY: Final = 10 * 1024 * 1024  # bytes of one request, whatever it asks for; more is 413
MAX_SECRET: Final = 512 * 1024  # bytes of one secret's value, as sent
MAX_STORED: Final = 1024 * 1024  # bytes of one stored value: a 512 KiB secret as base64 in a message in a JWE
MAX_BATCH_NAMES: Final = 1000  # names in one batch get
MAX_NAMES_PAGE: Final = 1000  # names in one page of a listing
MAX_BATCH_STORED: Final = 8 * 1024 * 1024  # bytes that what one batch reads has in the store, in all; more is 413
LARGE_ANSWER: Final = 512 * 1024  # bytes in the store from which on a worker gives one such answer at a time
MAX_RECORDS: Final = 1000  # records in one save, get or delete
MAX_RECORD_STRUCTURE: Final = 40_000  # objects, arrays, members and elements of one record: a cluster of as many hosts

# Bytes of a body, by what it is. All are within MAX_BODY, which is asked before anybody knows what it is.
MAX_SECRET_BODY: Final = 1024 * 1024  # one secret: as octets, or as text with every second character escaped
MAX_NAMES_BODY: Final = 700 * 1024  # the names of a batch: 1,000 of 512 bytes, quoted
MAX_MODEL_BODY: Final = 1024 * 1024  # one record of a model, on the proxy
MAX_RECORDS_BODY: Final = MAX_BODY  # records of a model, on the socket
MAX_COMMIT_BODY: Final = MAX_BODY  # what is written sealed
MAX_KEY_BODY: Final = 64 * 1024  # a new API key and what it reaches
MAX_CEREMONY_BODY: Final = 16 * 1024  # whatever is said of keys: unlock keys and shares, a line each
MAX_LISTING_BODY: Final = 4 * 1024  # which page of which listing

SECRETS_PATH: Final = "/secrets"  # on the socket
METRICS_PATH: Final = "/metrics"  # on both
API_PATH: Final = "/api/v0"  # on the proxy
AUTH_PATH: Final = "/auth"
ACCESS_PATH: Final = "/access"
PROXIED: Final = {API_PATH + path: path for path in (AUTH_PATH, ACCESS_PATH)}
"""What the proxy passes over the socket beside the secrets: whoever asks there shows the service who he is."""
PROXIED_SECRETS_PATH: Final = API_PATH + SECRETS_PATH  # on the proxy; forwarded to SECRETS_PATH

# Credentials (Custodia's SimpleAuthKeys; CPD-101 names the key header CUSTODIA_KEY_ID). Any client may write each
# with underscores or dashes; two spellings of one in a request are refused.
AUTH_ID_HEADERS: Final = (b"custodia_auth_id", b"custodia-auth-id")
AUTH_KEY_HEADERS: Final = (b"custodia_auth_key", b"custodia-auth-key", b"custodia_key_id", b"custodia-key-id")
ID_HEADER: Final = "CUSTODIA-AUTH-ID"  # what our own clients send
KEY_HEADER: Final = "CUSTODIA-AUTH-KEY"

CHALLENGE: Final = 'Custodia realm="strongroom"'  # WWW-Authenticate: what the service itself asks for

REQUEST_ID_HEADER: Final = "X-Request-ID"
TRACE_HEADER: Final = "traceparent"  # W3C Trace Context: which trace the request is part of
REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{8,64}", re.ASCII)  # what a caller may send; else it gets a new one
FORWARDED_HEADER: Final = "Forwarded"  # RFC 7239; the proxy always sets it, and who carries it is no local peer
ON_BEHALF_HEADER: Final = "Strongroom-On-Behalf-Of"  # whom the proxy's own credentials speak for; audit only
ASKED_HEADER: Final = "Strongroom-Asked"  # method and path of what the proxy asks about a key for; audit only
PROXY_HEADER: Final = "Strongroom-Proxy"  # <id>:<key> of the proxy, on all that it sends: who shows it is believed
CERTIFICATE_HEADER: Final = "Strongroom-Certificate"  # of the client, as the proxy's TLS verified it: SHA256:… uri …
MAX_CERTIFICATE: Final = 4096  # bytes of that

JSON: Final = "application/json"
OCTET_STREAM: Final = "application/octet-stream"
PROBLEM_JSON: Final = "application/problem+json"  # RFC 9457
RETRY_AFTER: Final = 1  # seconds, with every 503 whose error knows no better


def fits(value: bytes) -> bool:
    """Whether a stored value is a secret within `MAX_SECRET`: as text, or as the octets that it is base64 of."""
    if len(value) <= MAX_SECRET:
        return True
    if len(value) > -(-MAX_SECRET // 3) * 4:
        return False
    try:
        return len(base64.b64decode(value, validate=True)) <= MAX_SECRET
    except binascii.Error:
        return False


class Problem(NamedTuple):
    """One row of the table: an error, its HTTP status, its title, and whether callers are told its own text, too.

    They are where it is of their request; not where it is of them, or of the inside of the service. *next* is what can
    be done about every such error; where callers are told an error's own text, its own steps come in place of these.
    """

    error: type[errors.ServiceError]
    status: int
    title: str
    detail: bool = False
    next: tuple[Step, ...] = ()


PROBLEMS: Final[Mapping[str, Problem]] = {
    problem.error.code: problem
    for problem in (
        Problem(errors.Invalid, 400, "The request is not valid", detail=True),
        Problem(errors.NotAuthenticated, 401, "No credentials were given"),
        Problem(errors.Denied, 403, "The credentials are wrong or do not allow this"),
        Problem(errors.Forbidden, 403, "It may not be done so", detail=True),
        Problem(errors.NotFound, 404, "It does not exist", detail=True),
        Problem(errors.NoContainer, 404, "There is no such container", detail=True),
        Problem(errors.MethodNotAllowed, 405, "The method does not fit the path", detail=True),
        Problem(errors.NotAcceptable, 406, "That message type or form is not served here", detail=True),
        Problem(errors.Exists, 409, "It exists already", detail=True),
        Problem(errors.Contradicted, 409, "The request contradicts the records as they are", detail=True),
        Problem(errors.NotEmpty, 409, "The container is not empty", detail=True),
        Problem(errors.Changed, 412, "The record has changed since", detail=True),
        Problem(errors.TooLarge, 413, "The body or the value is too large", detail=True),
        Problem(errors.Internal, 500, "Something went wrong inside; the log of the service says what"),
        Problem(
            errors.Malformed,
            500,
            "The stored record is not valid; write it anew, or remove it",
            detail=True,
        ),
        Problem(errors.NotImplementedHere, 501, "There is no such method", detail=True),
        Problem(errors.WrongKey, 403, "That key opens nothing here; the service stays locked", detail=True),
        Problem(errors.InUse, 409, "It is still in use", detail=True),
        Problem(
            errors.Unusable, 500, "The keyring, or a file or wrap that opens it, cannot be used as it is", detail=True
        ),
        Problem(
            errors.Overtaken,
            409,
            "Somebody else changed the keyring meanwhile; look at its status and try again",
            detail=True,
        ),
        Problem(errors.TooManyAttempts, 429, "Wrong keys were given; wait before the next"),
        Problem(errors.TooManyRequests, 429, "There were too many requests; wait before the next"),
        Problem(errors.Locked, 503, "The service is locked", next=(Step("unlock it", "key unlock"),)),
        Problem(errors.Uninitialized, 503, "The store has no keyring yet", next=(Step("make one", "key init"),)),
        Problem(
            errors.Behind,
            503,
            "The root key was rotated on another machine, and this one cannot open the new one yet; its log says why",
        ),
        Problem(
            errors.Halted,
            503,
            "Secrets are not written until a reversal is finished",
            detail=True,
            next=(Step("finish it", "key reencrypt", {"resume": True}),),
        ),
        Problem(
            errors.Unavailable, 503, "The service or its store cannot do this now; the log of the service says why"
        ),
        Problem(errors.Busy, 503, "The service is busy; ask again in a moment", detail=True),
        Problem(errors.AuditUnavailable, 503, "The audit log cannot be written, so nothing was done"),
    )
}

_NOT_RECORDED: Final = "the audit log cannot be written, so nothing was done: "  # and why
_TYPE_PREFIX: Final = "urn:strongroom:problem:"
_TYPES: Final = {  # of what is refused before anybody looks at what is asked for
    404: "not-found",
    405: "method-not-allowed",
    408: "request-timeout",
    413: "too-large",
    414: "uri-too-long",
    415: "unsupported-media-type",
    417: "expectation-failed",
    431: "head-too-large",
    501: "not-implemented",
}


def problem_of(error: errors.ServiceError) -> Problem:
    """Return the row for *error*; what has no row of its own is 'internal'."""
    return PROBLEMS[error.code]


def type_named(name: str) -> str:
    """Return the type of problem that *name* is short for."""
    return _TYPE_PREFIX + name


def type_of(status: int) -> str:
    """Return the type of a problem of which there is nothing to tell but its *status*."""
    return _TYPE_PREFIX + _TYPES.get(status, "internal" if status >= 500 else "invalid")


def problem_body(error: errors.ServiceError, request_id: str, *, stranger: bool = False) -> bytes:
    """Return the RFC 9457 body for *error*: nothing in it comes from the request.

    Its row says whether its text is told; of a store or an audit log that fails, what kind of failure it is, to all
    but a *stranger*.
    ``Invalid`` adds its faults, ``InUse`` and ``Halted`` their holders, ``TooManyAttempts`` the seconds to wait. What
    can be done about it is data, *next*: no text has a command in it. The fate of a write is said by all that is
    answered with 500 or 503, and by what else does not mean that nothing was applied.
    """
    problem = problem_of(error)
    body: dict[str, object] = {
        "type": _TYPE_PREFIX + error.code,
        "title": problem.title,
        "status": problem.status,
        "request_id": request_id,
    }
    if problem.detail and error.text:
        body["detail"] = error.text
    elif isinstance(error, errors.StoreFails) and not stranger:
        body["detail"] = f"{error.plain}; the log of the service says more"
    elif isinstance(error, errors.AuditUnavailable) and error.plain and not stranger:
        body["detail"] = f"{_NOT_RECORDED}{error.plain}"
    if isinstance(error, errors.Invalid):
        if error.faults:
            body["errors"] = [{"field": field, "reason": reason} for field, reason in error.faults]
    elif isinstance(error, (errors.InUse, errors.Halted)):
        body["holders"] = list(error.holders)
    elif isinstance(error, (errors.TooManyAttempts, errors.TooManyRequests)):
        body["wait"] = math.ceil(error.wait)
    if following := (problem.detail and error.next) or problem.next:
        body["next"] = following
    if problem.status in (500, 503) or error.fate is not errors.Fate.NOT_APPLIED:
        body["fate"] = error.fate.value
    return msgspec.json.encode(body)


def problem_response(
    error: errors.ServiceError, request_id: str, *, stranger: bool = False
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Return status, header fields and body of the answer that *error* is to whoever is known, or to a *stranger*."""
    status = problem_of(error).status
    headers = [(b"content-type", PROBLEM_JSON.encode())]
    if status == 503:
        known = error.retry_after if isinstance(error, errors.Unavailable) else None
        headers.append((b"retry-after", b"%d" % (RETRY_AFTER if known is None else math.ceil(known))))
    elif isinstance(error, (errors.TooManyAttempts, errors.TooManyRequests)):
        headers.append((b"retry-after", b"%d" % math.ceil(error.wait)))
        if isinstance(error, errors.TooManyRequests) and error.limit:
            headers.append((b"ratelimit-policy", b'"requests";q=%d;w=60' % error.limit))
            headers.append((b"ratelimit", b'"requests";r=0;t=%d' % math.ceil(error.wait)))
    elif status == 401:
        headers.append((b"www-authenticate", CHALLENGE.encode()))
    elif isinstance(error, errors.MethodNotAllowed) and error.allowed:
        headers.append((b"allow", ", ".join(error.allowed).encode()))
    return status, headers, problem_body(error, request_id, stranger=stranger)


NO_STORE: Final = (b"cache-control", b"no-store")  # nothing that is said here is to be kept on its way


def problem_answer(
    error: errors.ServiceError, request_id: str, *, stranger: bool = False
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Return the whole answer that *error* is: what `problem_response` gives, and what every answer carries."""
    status, fields, body = problem_response(error, request_id, stranger=stranger)
    return status, [(b"x-request-id", request_id.encode()), NO_STORE, *fields], body


def error_of(status: int, body: bytes) -> errors.ServiceError:
    """Return the error that *body*, an answer with *status*, tells of: the inverse of :func:`problem_body`.

    A body that is no problem of ours becomes the first error of that status, or `Invalid` or `Internal`.
    """
    problem, row = _read(status, body)
    error = _error_of(row, problem)
    fate = str(problem.get("fate"))
    if fate in set(errors.Fate) and fate != error.fate:
        error.fate = errors.Fate(fate)
    error.told = True
    if following := tuple(_steps(problem.get("next"))):
        error.next = following
    return error


def _steps(said: object) -> Iterator[Step]:
    """Yield those steps of an answer that this version knows."""
    for each in said if isinstance(said, list) else ():
        with contextlib.suppress(*UNREADABLE):
            yield msgspec.convert(each, Step)


def _read(status: int, body: bytes) -> tuple[dict[str, object], Problem]:
    """Return what *body* says, and the row of the table that it is of, or that is nearest."""
    try:
        problem = msgspec.json.decode(body, type=dict[str, object])
    except UNREADABLE:
        problem = {}
    code = str(problem.get("type", "")).removeprefix(_TYPE_PREFIX)
    other = PROBLEMS["invalid" if 400 <= status < 500 else "internal"]
    return problem, PROBLEMS.get(code) or next((p for p in PROBLEMS.values() if p.status == status), other)


def _error_of(row: Problem, problem: dict[str, object]) -> errors.ServiceError:
    detail = problem.get("detail")
    said = detail if row.detail and isinstance(detail, str) and detail else row.title
    if row.error is errors.Invalid:
        listed = problem.get("errors")
        faults = tuple(
            (str(fault.get("field", "")), str(fault.get("reason", "")))
            for fault in (listed if isinstance(listed, list) else ())
            if isinstance(fault, dict)
        )
        return errors.Invalid(said, faults)
    if row.error in (errors.InUse, errors.Halted):
        holders = problem.get("holders")
        return row.error(said, tuple(map(str, holders if isinstance(holders, list) else ())))
    if row.error in (errors.TooManyAttempts, errors.TooManyRequests):
        wait = problem.get("wait")
        return row.error(said, float(wait) if isinstance(wait, int) else 1.0)
    if row.error is errors.Unavailable:
        of_the_store = detail if isinstance(detail, str) and detail else said
        return errors.Unavailable(of_the_store, errors.Fate.UNKNOWN)
    if row.error is errors.AuditUnavailable and isinstance(detail, str) and detail.startswith(_NOT_RECORDED):
        return errors.AuditUnavailable(detail, plain=detail.removeprefix(_NOT_RECORDED))
    return row.error(said)


# The model verbs on the socket: POST /storage/<verb>, one uniform model a request, at most MAX_RECORDS records.
STORAGE_PATH: Final = "/storage"


class Records(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Body of save, get and delete: records of one model; get and delete need only the primary key (and source).

    *etags* go with the records: a tag, "*" for "must exist", `NEW` for "must not", or null for whatever it is.
    Absent: all null. With *tags*, of get the tags alone are told, to who may list the names, too.
    """

    model: str
    records: list[dict[str, object]]
    etags: list[str | None] | None = None
    tags: bool = False

    def __repr__(self) -> str:
        return f"<Records {self.model}>"


class Listing(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Body of list: a list model's name (``Hosts``), a page at a time; *after* is the last key of the page before.

    *source* names the storage handler whose hosts are listed, where that is not the model's own. With *keys* the keys
    alone are told, of records that are not valid, too.
    """

    model: str
    source: str = ""
    keys: bool = False
    after: str | None = None
    limit: int = 1000


Verb: TypeAlias = Literal["get", "list", "put", "delete"]  # what reaches and audit lines know


class Intent(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Body of may: what somebody is about to do to the record of *model* with *key*, or to one whose key is to come."""

    action: Verb | Literal["create"]
    model: str
    key: str | None = None


class RecordsAnswer(msgspec.Struct, kw_only=True):
    """Answer of save, get and list: records in the order asked, null where there is none, each with its tag."""

    records: list[dict[str, object] | None]
    etags: list[str | None]
    more: bool = False

    def __repr__(self) -> str:
        return f"<RecordsAnswer of {len(self.records)}>"


class KeysAnswer(msgspec.Struct, kw_only=True):
    """Answer of list with *keys*."""

    keys: list[str]
    more: bool


class DeletedAnswer(msgspec.Struct, kw_only=True):
    """Answer of delete: for each record asked, whether it was there."""

    deleted: list[bool]


SECRETS_HANDLER: Final = "secrets"  # the name of the handler for secrets, which no other handler has


class HandlerInfo(msgspec.Struct, kw_only=True):
    """One handler as ``GET /storage/handlers`` lists it; its configuration never holds a credential."""

    name: str
    type: str
    models: list[str]


# API keys on the socket: GET /apikeys, POST /apikeys, DELETE /apikeys/<id>; POST /apikeys/<id>/rotation, which makes
# another key in the place of one, and DELETE /apikeys/<id>/former, which ends the one before.
APIKEYS_PATH: Final = "/apikeys"


class NewApiKey(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Body that asks for a key: its id, the paths it reaches (SimplePathAuthz entries) and what it may do there."""

    id: str
    paths: list[str] = msgspec.field(default_factory=lambda: ["/secrets"])
    actions: list[str] = msgspec.field(default_factory=lambda: ["get", "list", "put", "delete"])
    expires: str | None = None


class Rotation(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Body that asks for another key: for how long the one before is good, too ("": it ends at once), and its end."""

    overlap: str = "24h"
    expires: str | None = None


class ApiKeyInfo(msgspec.Struct, kw_only=True):
    """One API key as it is listed; *key* stands only in the answer that makes it."""

    id: str
    paths: list[str]
    actions: list[str]
    created: str  # RFC 3339, UTC
    used: str | None = None  # when it was last seen in use, to the minute
    expires: str | None = None
    former_ends: str | None = None  # until when the key before it is good, too
    former_used: str | None = None
    key: str | None = None

    def __repr__(self) -> str:
        return f"<ApiKeyInfo {self.id}>"


class WhoAmI(msgspec.Struct, kw_only=True):
    """Answer of ``GET /whoami``: whom the service takes the caller for."""

    principal: str
    paths: list[str]
    actions: list[str]
    groups: list[str] = []
    credential: str | None = None  # which of its credentials it has shown, or its token was given for
    token_id: str | None = None  # of the token that was shown, by which it can be revoked
    expires: str | None = None  # until when that token is good; RFC 3339, UTC
    ruled: bool = False  # rules alone say what it may do; paths and actions are its credential's bounds


class Status(msgspec.Struct, kw_only=True):
    """Answer of ``GET /status``: the state of the service, and where the secrets endpoint is (CPD-101)."""

    version: str
    state: str  # "uninitialized" | "locked" | "unlocked" | "rotating" | "fatal": docs/http-api.md
    store: str  # scheme of the secrets store, e.g. "sqlite"
    store_fault: str = ""  # what keeps that store from its work, where something does
    endpoints: dict[str, str]  # e.g. {"secrets": "/secrets/"} on the socket
    # and these to who may read the service's own records; to others they are as if there were none
    keys: list[str] = []  # key ids in the ring
    active_key: str = ""
    read_through: list[str] = []  # the old places where what has not moved is read, by identity
    reads_through: int = 0  # records that were, by the worker that answers, since it started


# What the proxy turned away itself: POST /refusals, which the service takes of the proxy alone.
class Readiness(msgspec.Struct, kw_only=True):
    """Whether requests would be served; *state* is None where nobody could be asked."""

    status: Literal["ready", "unready"]
    state: Literal["uninitialized", "locked", "unlocked", "rotating", "behind", "fatal"] | None = None
    checks: dict[Literal["audit", "store", "keyring"], bool] = {}


REFUSALS_PATH: Final = "/refusals"
MAX_REFUSALS: Final = 128  # in one report
MAX_REFUSALS_BODY: Final = 512 * 1024
MAX_TOLD: Final = 256  # characters of a text that strangers sent, in the audit log
MAX_CLAIMED: Final = 8  # names that strangers claimed, in one line of it
MAX_COUNTED: Final = 2**53  # of them in one line: what every reader of JSON can hold


_Told = Annotated[str, msgspec.Meta(max_length=MAX_TOLD)]


class Refusal(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One who was turned away, or *count* of them, of whom it tells the last."""

    request: _Told
    action: _Told  # the HTTP method
    name: _Told  # the path
    reason: _Told
    decision: Literal["denied", "refused", "failed"] = "denied"
    principal: _Told = "unknown"
    on_behalf_of: _Told | None = None  # whom the proxy acted for
    claimed: Annotated[list[_Told], msgspec.Meta(max_length=MAX_CLAIMED)] = []  # principals that they said they were
    address: _Told | None = None
    peer: Annotated[dict[str, int], msgspec.Meta(max_length=0)] | None = None  # of the socket: no report tells it
    count: Annotated[int, msgspec.Meta(ge=1, le=MAX_COUNTED)] = 1
    decided: Annotated[dict[str, object], msgspec.Meta(max_length=0)] | None = None  # by rules: no report tells it
    about: Annotated[str, msgspec.Meta(max_length=0)] | None = None  # what of the record: no report tells it
    trace: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")] | None = None


class RefusalReport(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Body of a report."""

    refusals: list[Refusal]


# What commands do on this machine beside the service, and hand over to be recorded: POST /acts, which it takes of
# processes of its own user and of root alone, as the kernel tells it.
ACTS_PATH: Final = "/acts"
MAX_ACT_BODY: Final = 4 * 1024


class CommandAct(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Body of that: what *by*, a machine, is about to do to a name, or was refused. It is done after the answer."""

    by: str
    action: Verb
    name: str
    decision: Literal["allowed", "denied"] = "allowed"


# What is encrypted, as it is stored: secrets and journals, read and written by whoever reaches everything.
BULK_PATH: Final = "/bulk"  # GET: how much one commit takes; POST /read, /list, /commit
MAX_BULK_READ: Final = 1000  # names in one read
MAX_JOURNAL: Final = 767 * 1024  # bytes of one row of a journal: what fits, encrypted, into MAX_STORED


class BulkNames(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Body of read: names below ``secrets/`` and ``system/journal/``, read as of one moment."""

    names: list[str]


class BulkListing(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Body of list: names that begin with *prefix*, after the name *after*, in order."""

    prefix: str
    after: str | None = None
    limit: int = 1000


class BulkChange(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One change of a commit: a write of *value*, without one a removal, and with *check* neither: a guard alone.

    The *etag* is a tag, "*" for "must exist", `NEW` for "must not", or null for whatever there is.
    """

    name: str
    value: str | None = None
    etag: str | None = None
    check: bool = False

    def __repr__(self) -> str:
        return f"<BulkChange {self.name}>"


class BulkCommit(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Body of commit: changes that are applied together or not at all, no two of one name."""

    changes: list[BulkChange]


class BulkEntry(msgspec.Struct, kw_only=True):
    """One stored value: of a secret its message's value, of a container nothing."""

    value: str
    etag: str

    def __repr__(self) -> str:
        return f"<BulkEntry {self.etag}>"


class BulkEntries(msgspec.Struct, kw_only=True):
    """Answer of read: in the order asked, null where there is nothing."""

    entries: list[BulkEntry | None]


class BulkPage(msgspec.Struct, kw_only=True):
    """Answer of list."""

    names: list[str]
    more: bool


class BulkCommitted(msgspec.Struct, kw_only=True):
    """Answer of commit: the tag that everything written with it has now."""

    etag: str


class BulkLimits(msgspec.Struct, kw_only=True):
    """Answer of ``GET /bulk``: changes in one commit at most, one for each container of its writes among them."""

    max_changes: int

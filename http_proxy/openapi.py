"""What the proxy serves, as an OpenAPI 3.1 document; tests hold it to the routes, and to what they answer.

The schemas are made of the types (`strongroom.http_proxy.schemas`). Each operation has an id, by which generators name
what they make of it, a tag, and every status that it is answered with.
"""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

from strongroom.http_proxy.schemas import SCHEMAS, SEGMENT
from strongroom.models.names import MAX_NAME
from strongroom.storage_service import wire
from strongroom.storage_service.metrics import CONTENT_TYPE

_Json = dict[str, Any]


def _ref(kind: str, name: str) -> _Json:
    return {"$ref": f"#/components/{kind}/{name}"}


def _schema(name: str) -> _Json:
    return _ref("schemas", name)


def _content(schema: _Json, media: str = wire.JSON) -> _Json:
    return {"content": {media: {"schema": schema}}}


def _answer(text: str, schema: _Json | None = None, *, tagged: bool = False) -> _Json:
    """Return an answer; one that is *tagged* has the tag of the record's revision."""
    headers = {"headers": {"ETag": _ref("headers", "ETag")}} if tagged else {}
    return {"description": text, **headers, **(_content(schema) if schema else {})}


def _body(schema: _Json, *, required: bool = True) -> _Json:
    return {"required": required, **_content(schema)}


def _list(of: _Json) -> _Json:
    return {"type": "array", "items": of}


_PLAIN: Final = (400, 405, 408, 414, 415, 417, 431, 500, 501, 503)  # whatever is asked; most of it by the connection
_KNOWN: Final = (401, 403)  # where credentials are asked for
_BODY: Final = (413,)

_PROBLEMS: Final[Mapping[int, str]] = {
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
    431: "The head is too large.",
    500: "Something broke, or the stored record is not valid; `detail` says which, and `fate` what became of a write.",
    501: "There is no such method.",
    503: "It cannot be done now: the service is locked, busy, or its store away. `fate` says what became of a write.",
}
_TYPICAL: Final = {405: "Allow", 401: "WWW-Authenticate", 503: "Retry-After"}


def _problem(status: int) -> _Json:
    headers = {"headers": {name: _ref("headers", name)}} if (name := _TYPICAL.get(status)) else {}
    return {"description": _PROBLEMS[status], **headers, **_content(_schema("Problem"), wire.PROBLEM_JSON)}


def _phrase(status: int) -> str:
    return "".join(word.capitalize() for word in HTTPStatus(status).phrase.replace("-", " ").split())


def _operation(
    summary: str,
    answers: Mapping[int, _Json],
    body: _Json | None = None,
    *,
    id: str,  # noqa: A002  # the field's word
    problems: Iterable[int] = (),
    **more: Any,
) -> _Json:
    """Return an operation: its *answers*, and the *problems* that are its own beside those of every one of its kind."""
    secured = more.get("security") != []
    statuses = {*_PLAIN, *problems, *(_KNOWN if secured else ()), *(_BODY if body else ())}
    told = {str(status): answer for status, answer in answers.items()}
    told |= {str(status): _ref("responses", _phrase(status)) for status in sorted(statuses - answers.keys())}
    request = {"requestBody": body} if body else {}
    return {"operationId": id, "summary": summary, "responses": told, **request, **more}


def _at(*parameters: str, **operations: _Json) -> _Json:
    """Return a path with its *parameters* and its operations by method."""
    told = {"parameters": [_ref("parameters", name) for name in parameters]} if parameters else {}
    return {**told, **operations}


_TEXTS: Final = _list({"type": "string"})
_REMOVED: Final = {200: _answer("Removed.", {**_TEXTS, "maxItems": 0})}
_OPEN: Final[_Json] = {"security": []}
_OWN_KEY: Final[_Json] = {"security": [{"apiId": [], "apiKey": []}]}
_GUARDS: Final[_Json] = {"parameters": [_ref("parameters", "ifMatch"), _ref("parameters", "ifNoneMatch")]}
_MESSAGE: Final = _schema("Message")
_VALUE: Final[_Json] = {
    "content": {wire.JSON: {"schema": _MESSAGE}, wire.OCTET_STREAM: {"schema": {"type": "string", "format": "binary"}}}
}
_PUT: Final = (
    "With `If-Match`, change what the body names of it, and nothing else; 412 where it is not at that revision."
)


def _cluster_operation(word: str, model: str, *, needs: bool) -> _Json:
    record = _schema(model)
    return _at(
        "name",
        get=_operation(
            f"How far the {word} is",
            {200: _answer("Its record.", record, tagged=True)},
            id=f"get{model}",
            problems=[404],
        ),
        put=_operation(
            f"Ask for a {word}; the platform does it",
            {
                200: _answer("Sent back as it was shown: its record, and nothing is started.", record, tagged=True),
                201: _answer("Its record.", record, tagged=True),
            },
            _body(_schema(f"New{model}"), required=needs),
            id=f"start{model}",
            problems=[404, 409, 412],
            **_GUARDS,
        ),
    )


_SECRET_ITEM: Final = _at(
    "container",
    "key",
    get=_operation(
        "Read a secret",
        {
            200: {
                "description": "The message, or the bytes themselves where Accept asks for them.",
                "headers": {"ETag": _ref("headers", "ETag")},
                **_VALUE,
            },
            304: {"description": "It is the one that If-None-Match names."},
        },
        id="getSecret",
        problems=[404, 406],
        parameters=[{"name": "If-None-Match", "in": "header", "required": False, "schema": {"type": "string"}}],
        **_OWN_KEY,
    ),
    put=_operation(
        "Create a secret, or with If-Match replace it",
        {200: _answer("Replaced.", tagged=True), 201: _answer("Created.", tagged=True)},
        {"required": True, **_VALUE},
        id="setSecret",
        problems=[404, 406, 409, 412],
        **_GUARDS,
        **_OWN_KEY,
    ),
    delete=_operation(
        "Remove a secret",
        {204: _answer("Removed.")},
        id="deleteSecret",
        problems=[404, 412],
        **_GUARDS,
        **_OWN_KEY,
    ),
)

_PAGE: Final = [_ref("parameters", "limit"), _ref("parameters", "after")]

_CONTAINER: Final = _at(
    "container",
    get=_operation(
        "List a container and those within",
        {200: _answer("Names; containers end in a slash.", _TEXTS)},
        id="listContainer",
        problems=[404, 413],
        parameters=_PAGE,
        **_OWN_KEY,
    ),
    post=_operation(
        "Create a container",
        {200: _answer("It was there already."), 201: _answer("Created.")},
        id="createContainer",
        problems=[404],
        **_OWN_KEY,
    ),
    delete=_operation(
        "Remove an empty container",
        {204: _answer("Removed.")},
        id="deleteContainer",
        problems=[404, 409],
        **_OWN_KEY,
    ),
)

_TOP: Final = _at(
    get=_operation(
        "List the outermost containers that the caller may list",
        {200: _answer("Names; each ends in a slash.", _TEXTS)},
        id="listContainers",
        problems=[404, 413],
        parameters=_PAGE,
        **_OWN_KEY,
    ),
    post=_operation(
        "Read up to 1,000 secrets at once (with ?batch=get)",
        {
            200: _answer(
                "Messages by name, null where there is no such secret.",
                {"type": "object", "additionalProperties": {"oneOf": [_MESSAGE, {"type": "null"}]}},
            )
        },
        _body(_schema("Names")),
        id="getSecrets",
        parameters=[{"name": "batch", "in": "query", "required": True, "schema": {"const": "get"}}],
        **_OWN_KEY,
    ),
)

_HOST: Final = _schema("Host")
_UNTOLD: Final = "who may not see credentials hears 409 whatever ones are sent with it."


def _put(what: str, record: str, body: _Json, *, id: str, rest: str = "") -> _Json:  # noqa: A002
    """Return the PUT of a record that is made by it, found the same, or with If-Match changed."""
    told = _schema(record)
    return _operation(
        f"Make {what}, or with If-Match change it",
        {
            200: _answer("It was there already, the same; or it is changed.", told, tagged=True),
            201: _answer("Made.", told, tagged=True),
        },
        body,
        id=id,
        problems=[409, 412],
        description=f"{_PUT}{rest}",
        **_GUARDS,
    )


def _collection(of: str, id: str) -> _Json:  # noqa: A002
    return _at(get=_operation(f"All {of}", {200: _answer("Their names.", _TEXTS)}, id=id))


_KNOWN_HOST: Final = f" Without it, of a known host, 409 where it says something else of it; {_UNTOLD}"
_API: Final[dict[str, _Json]] = {
    "/": _at(
        get=_operation(
            "Where things are", {200: _answer("Endpoints by name.", _schema("Endpoints"))}, id="listEndpoints"
        )
    ),
    "/secrets/": _TOP,
    "/secrets/{container}/": _CONTAINER,
    "/secrets/{container}/{key}": _SECRET_ITEM,
    "/hosts/": _at(
        get=_operation("All hosts, of all handlers", {200: _answer("Their records.", _list(_HOST))}, id="listHosts")
    ),
    "/host/": _at(
        put=_put(
            "a host, by the address in the body", "Host", _body(_schema("NewHost")), id="addHost", rest=_KNOWN_HOST
        )
    ),
    "/host/{address}": _at(
        "address",
        get=_operation(
            "One host, whichever handler keeps it",
            {200: _answer("Its record.", _HOST, tagged=True)},
            id="getHost",
            problems=[404],
        ),
        put=_put(
            "a host and its credentials",
            "Host",
            _body(_schema("HostChange"), required=False),
            id="putHost",
            rest=_KNOWN_HOST,
        ),
        delete=_operation(
            "Remove a host and its credentials", _REMOVED, id="deleteHost", problems=[404, 409, 412], **_GUARDS
        ),
    ),
    "/host/{address}/creds": _at(
        "address",
        get=_operation(
            "What opens a host; for those who may see it",
            {200: _answer("The credentials, in the clear.", _schema("HostCreds"), tagged=True)},
            id="getHostCreds",
            problems=[404],
        ),
        put=_operation(
            "Replace what opens a host",
            {204: _answer("Replaced.", tagged=True)},
            _body(_schema("HostCredsChange"), required=True),
            id="putHostCreds",
            problems=[404, 409, 412],
            **_GUARDS,
        ),
    ),
    "/host/{address}/status": _at(
        "address",
        get=_operation(
            "How a host is", {200: _answer("Its status.", _schema("HostStatus"))}, id="getHostStatus", problems=[404]
        ),
    ),
    "/clusters/": _collection("clusters", "listClusters"),
    "/cluster/{name}": _at(
        "name",
        get=_operation(
            "One cluster",
            {
                200: _answer(
                    "Its record and counts; the tag is of the record alone.", _schema("ClusterSeen"), tagged=True
                )
            },
            id="getCluster",
            problems=[404],
        ),
        put=_operation(
            "Make a cluster, or change it; its hosts stay unless given",
            {
                200: _answer("Changed.", _schema("Cluster"), tagged=True),
                201: _answer("Made.", _schema("Cluster"), tagged=True),
            },
            _body(_schema("ClusterChange"), required=False),
            id="putCluster",
            problems=[409, 412],
            **_GUARDS,
        ),
        delete=_operation(
            "Remove a cluster; its hosts stay", _REMOVED, id="deleteCluster", problems=[404, 409, 412], **_GUARDS
        ),
    ),
    "/cluster/{name}/hosts/": _at(
        "name",
        get=_operation(
            "The hosts of a cluster",
            {200: _answer("Their addresses; the tag is the cluster's.", _TEXTS, tagged=True)},
            id="listClusterHosts",
            problems=[404],
        ),
        put=_operation(
            "Put other hosts in their place",
            {200: _answer("The new addresses; the tag is the cluster's.", _TEXTS, tagged=True)},
            _body(_schema("Replacement")),
            id="replaceClusterHosts",
            problems=[404, 409, 412],
            **_GUARDS,
        ),
    ),
    "/cluster/{name}/hosts/{address}": _at(
        "name",
        "address",
        get=_operation(
            "Whether a host is in a cluster", {200: _answer("It is.", _TEXTS)}, id="getClusterHost", problems=[404]
        ),
        put=_operation(
            "Add a host to a cluster", {200: _answer("All addresses.", _TEXTS)}, id="addClusterHost", problems=[404]
        ),
        delete=_operation("Take a host out of a cluster", _REMOVED, id="removeClusterHost", problems=[404]),
    ),
    "/cluster/{name}/deploy": _cluster_operation("deployment", "ClusterDeploy", needs=True),
    "/cluster/{name}/restart": _cluster_operation("restart", "ClusterRestart", needs=False),
    "/cluster/{name}/upgrade": _cluster_operation("upgrade", "ClusterUpgrade", needs=False),
    "/networks/": _collection("networks", "listNetworks"),
    "/network/{name}": _at(
        "name",
        get=_operation(
            "One network",
            {200: _answer("Its record.", _schema("Network"), tagged=True)},
            id="getNetwork",
            problems=[404],
        ),
        put=_put("a network", "Network", _body(_schema("NetworkChange"), required=False), id="putNetwork"),
        delete=_operation("Remove a network", _REMOVED, id="deleteNetwork", problems=[404, 412], **_GUARDS),
    ),
    "/containermanagers/": _collection("container managers", "listContainerManagers"),
    "/containermanager/{name}": _at(
        "name",
        get=_operation(
            "One container manager",
            {200: _answer("Its record.", _schema("ContainerManager"), tagged=True)},
            id="getContainerManager",
            problems=[404],
        ),
        put=_put(
            "a container manager; what opens it is kept apart and never shown",
            "ContainerManager",
            _body(_schema("ContainerManagerChange"), required=False),
            id="putContainerManager",
            rest=f" Without it, of a known one, 409 where it is another; {_UNTOLD}",
        ),
        delete=_operation(
            "Remove a container manager and what opens it",
            _REMOVED,
            id="deleteContainerManager",
            problems=[404, 409, 412],
            **_GUARDS,
        ),
    ),
}
_TAGS: Final = {
    "health": "Whether the proxy and the service behind it work, what they measure, and this document.",
    "secrets": "Secrets in containers, by Custodia's contract.",
    "hosts": "Machines, and apart from them what opens them.",
    "clusters": "Sets of hosts, and operations over them.",
    "networks": "What clusters are joined to.",
    "containermanagers": "How to reach container managers, and apart from that what opens them.",
    "index": "Where things are.",
}


def _tag_of(path: str) -> str:
    word = path.removeprefix(wire.API_PATH).strip("/").partition("/")[0] if path.startswith(wire.API_PATH) else "health"
    return next((tag for tag in _TAGS if tag in (word, f"{word}s")), "index")


def _tagged(path: str, item: _Json) -> _Json:
    """Return *item*, each operation of it with the tag of its *path*."""
    return {
        method: told if method == "parameters" else {**told, "tags": [_tag_of(path)]} for method, told in item.items()
    }


_PATHS: Final[dict[str, _Json]] = {
    "/livez": _at(
        get=_operation("Whether the proxy runs", {200: _answer("It does.", _schema("Alive"))}, id="isAlive", **_OPEN)
    ),
    "/readyz": _at(
        get=_operation(
            "Whether requests would be answered",
            {200: _answer("They would.", _schema("Ready")), 503: _answer("Not now.", _schema("Ready"))},
            id="isReady",
            **_OPEN,
        )
    ),
    "/metrics": _at(
        get=_operation(
            "What both processes measure of themselves, for Prometheus",
            {200: {"description": "The metrics, as text.", "content": {CONTENT_TYPE: {"schema": {"type": "string"}}}}},
            id="getMetrics",
            security=[{"apiId": [], "apiKey": []}, {"metricsToken": []}],
        )
    ),
    "/openapi.json": _at(
        get=_operation("This document", {200: _answer("It.", {"type": "object"})}, id="getDescription", **_OPEN)
    ),
    **{wire.API_PATH + path: item for path, item in _API.items()},
}
PATHS: Final = {path: _tagged(path, item) for path, item in _PATHS.items()}


def _segment(name: str, text: str) -> _Json:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": text,
        "schema": {"type": "string", "pattern": SEGMENT},
    }


def _header(name: str, text: str, **schema: Any) -> _Json:
    return {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"} | schema}


DOCUMENT: Final[_Json] = {
    "openapi": "3.1.1",
    "info": {
        "title": "Strongroom",
        "version": wire.VERSION,
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        "description": (
            "Records of a platform, and apart from them their secrets. The percent-encoding of a character that a name "
            "may hold is that character, and a name is at most 512 bytes; on the model routes a trailing slash may be "
            "left out."
        ),
    },
    "servers": [{"url": "/"}],
    "security": [{"apiId": [], "apiKey": []}, {"basic": []}],
    "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
    "paths": PATHS,
    "components": {
        "schemas": SCHEMAS,
        "responses": {_phrase(status): _problem(status) for status in _PROBLEMS},
        "headers": {
            "ETag": {
                "description": "The tag of the record's revision.",
                "required": True,
                "schema": {"type": "string"},
            },
            "Allow": {"description": "What can be asked for.", "required": True, "schema": {"type": "string"}},
            "Retry-After": {"description": "Seconds.", "schema": {"type": "string"}},
            "WWW-Authenticate": {"description": "Which credentials.", "required": True, "schema": {"type": "string"}},
        },
        "parameters": {
            "address": _segment("address", "A host's address."),
            "name": _segment("name", "The record's name."),
            "container": _segment("container", "A container of secrets; containers within are joined by slashes."),
            "key": _segment("key", "A secret's key."),
            "limit": {
                "name": "limit",
                "in": "query",
                "required": False,
                "description": "Names in this page, at most; without it, all are listed.",
                "schema": {"type": "integer", "minimum": 1, "maximum": wire.MAX_NAMES_PAGE},
            },
            "after": {
                "name": "after",
                "in": "query",
                "required": False,
                "description": "What the names of this page sort behind; without limit, it has 1,000.",
                "schema": {"type": "string", "maxLength": MAX_NAME, "pattern": "^[ -~]*$"},
            },
            "ifMatch": _header(
                "If-Match",
                "The ETag that it must be at, or * for any.",
                anyOf=[{"type": "string", "enum": ["*"]}, {"type": "string", "pattern": '^"[1-9][0-9]{0,17}"$'}],
            ),
            "ifNoneMatch": _header("If-None-Match", "* where there must be none yet.", enum=["*"]),
        },
        "securitySchemes": {
            "apiId": {"type": "apiKey", "in": "header", "name": wire.ID_HEADER},
            "apiKey": {"type": "apiKey", "in": "header", "name": wire.KEY_HEADER},
            "basic": {"type": "http", "scheme": "basic"},
            "metricsToken": {"type": "http", "scheme": "bearer"},
        },
    },
}

"""What the proxy serves, as an OpenAPI 3.1 document; tests hold it to the routes, and to what they answer.

The schemas are made of the types (`strongroom.http_proxy.schemas`). Each operation has an id, by which generators name
what they make of it, a tag, and every status that it is answered with.
"""

from typing import Any, Final

from strongroom.http_proxy.access_description import ACCESS, ACCESS_PARAMETERS, ACCESS_TAGS, AUTH
from strongroom.http_proxy.operations import (
    GUARDS,
    OPEN,
    PROBLEMS,
    TEXTS,
    Json,
    answer,
    at,
    body,
    list_of,
    operation,
    phrase,
    problem,
    ref,
    schema,
)
from strongroom.http_proxy.schemas import SCHEMAS, SEGMENT
from strongroom.models.names import MAX_NAME
from strongroom.storage_service import wire
from strongroom.storage_service.metrics import CONTENT_TYPE

_REMOVED: Final = {200: answer("Removed.", {**TEXTS, "maxItems": 0})}
_MESSAGE: Final = schema("Message")
_VALUE: Final[Json] = {
    "content": {wire.JSON: {"schema": _MESSAGE}, wire.OCTET_STREAM: {"schema": {"type": "string", "format": "binary"}}}
}
_PUT: Final = (
    "With `If-Match`, change what the body names of it, and nothing else; 412 where it is not at that revision."
)


def _clusteroperation(word: str, model: str, *, needs: bool) -> Json:
    record = schema(model)
    return at(
        "name",
        get=operation(
            f"How far the {word} is",
            {200: answer("Its record.", record, tagged=True)},
            id=f"get{model}",
            problems=[404],
        ),
        put=operation(
            f"Ask for a {word}; the platform does it",
            {
                200: answer("Sent back as it was shown: its record, and nothing is started.", record, tagged=True),
                201: answer("Its record.", record, tagged=True),
            },
            body(schema(f"New{model}"), required=needs),
            id=f"start{model}",
            problems=[404, 409, 412],
            **GUARDS,
        ),
    )


_SECRET_ITEM: Final = at(
    "container",
    "key",
    get=operation(
        "Read a secret",
        {
            200: {
                "description": "The message, or the bytes themselves where Accept asks for them.",
                "headers": {"ETag": ref("headers", "ETag")},
                **_VALUE,
            },
            304: {"description": "It is the one that If-None-Match names."},
        },
        id="getSecret",
        problems=[404, 406],
        parameters=[{"name": "If-None-Match", "in": "header", "required": False, "schema": {"type": "string"}}],
    ),
    put=operation(
        "Create a secret, or with If-Match replace it",
        {200: answer("Replaced.", tagged=True), 201: answer("Created.", tagged=True)},
        {"required": True, **_VALUE},
        id="setSecret",
        problems=[404, 406, 409, 412],
        **GUARDS,
    ),
    delete=operation(
        "Remove a secret",
        {204: answer("Removed.")},
        id="deleteSecret",
        problems=[404, 412],
        **GUARDS,
    ),
)

_PAGE: Final = [ref("parameters", "limit"), ref("parameters", "after")]

_CONTAINER: Final = at(
    "container",
    get=operation(
        "List a container and those within",
        {200: answer("Names; containers end in a slash.", TEXTS)},
        id="listContainer",
        problems=[404, 413],
        parameters=_PAGE,
    ),
    post=operation(
        "Create a container",
        {200: answer("It was there already."), 201: answer("Created.")},
        id="createContainer",
        problems=[404],
    ),
    delete=operation(
        "Remove an empty container",
        {204: answer("Removed.")},
        id="deleteContainer",
        problems=[404, 409],
    ),
)

_TOP: Final = at(
    get=operation(
        "List the outermost containers that the caller may list",
        {200: answer("Names; each ends in a slash.", TEXTS)},
        id="listContainers",
        problems=[404, 413],
        parameters=_PAGE,
    ),
    post=operation(
        "Read up to 1,000 secrets at once (with ?batch=get)",
        {
            200: answer(
                "Messages by name, null where there is no such secret.",
                {"type": "object", "additionalProperties": {"oneOf": [_MESSAGE, {"type": "null"}]}},
            )
        },
        body(schema("Names")),
        id="getSecrets",
        parameters=[{"name": "batch", "in": "query", "required": True, "schema": {"const": "get"}}],
    ),
)

_HOST: Final = schema("Host")
_UNTOLD: Final = "who may not see credentials hears 409 whatever ones are sent with it."


def _put(what: str, record: str, said: Json, *, id: str, rest: str = "") -> Json:  # noqa: A002
    """Return the PUT of a record that is made by it, found the same, or with If-Match changed."""
    told = schema(record)
    return operation(
        f"Make {what}, or with If-Match change it",
        {
            200: answer("It was there already, the same; or it is changed.", told, tagged=True),
            201: answer("Made.", told, tagged=True),
        },
        said,
        id=id,
        problems=[409, 412],
        description=f"{_PUT}{rest}",
        **GUARDS,
    )


def _collection(of: str, id: str) -> Json:  # noqa: A002
    return at(get=operation(f"All {of}", {200: answer("Their names.", TEXTS)}, id=id))


_KNOWN_HOST: Final = f" Without it, of a known host, 409 where it says something else of it; {_UNTOLD}"
_API: Final[dict[str, Json]] = {
    "/": at(
        get=operation("Where things are", {200: answer("Endpoints by name.", schema("Endpoints"))}, id="listEndpoints")
    ),
    "/secrets/": _TOP,
    "/secrets/{container}/": _CONTAINER,
    "/secrets/{container}/{key}": _SECRET_ITEM,
    "/hosts/": at(
        get=operation("All hosts, of all handlers", {200: answer("Their records.", list_of(_HOST))}, id="listHosts")
    ),
    "/host/": at(
        put=_put("a host, by the address in the body", "Host", body(schema("NewHost")), id="addHost", rest=_KNOWN_HOST)
    ),
    "/host/{address}": at(
        "address",
        get=operation(
            "One host, whichever handler keeps it",
            {200: answer("Its record.", _HOST, tagged=True)},
            id="getHost",
            problems=[404],
        ),
        put=_put(
            "a host and its credentials",
            "Host",
            body(schema("HostChange"), required=False),
            id="putHost",
            rest=_KNOWN_HOST,
        ),
        delete=operation(
            "Remove a host and its credentials", _REMOVED, id="deleteHost", problems=[404, 409, 412], **GUARDS
        ),
    ),
    "/host/{address}/creds": at(
        "address",
        get=operation(
            "What opens a host; for those who may see it",
            {200: answer("The credentials, in the clear.", schema("HostCreds"), tagged=True)},
            id="getHostCreds",
            problems=[404],
        ),
        put=operation(
            "Replace what opens a host",
            {204: answer("Replaced.", tagged=True)},
            body(schema("HostCredsChange"), required=True),
            id="putHostCreds",
            problems=[404, 409, 412],
            **GUARDS,
        ),
    ),
    "/host/{address}/status": at(
        "address",
        get=operation(
            "How a host is", {200: answer("Its status.", schema("HostStatus"))}, id="getHostStatus", problems=[404]
        ),
    ),
    "/clusters/": _collection("clusters", "listClusters"),
    "/cluster/{name}": at(
        "name",
        get=operation(
            "One cluster",
            {200: answer("Its record and counts; the tag is of the record alone.", schema("ClusterSeen"), tagged=True)},
            id="getCluster",
            problems=[404],
        ),
        put=operation(
            "Make a cluster, or change it; its hosts stay unless given",
            {
                200: answer("Changed.", schema("Cluster"), tagged=True),
                201: answer("Made.", schema("Cluster"), tagged=True),
            },
            body(schema("ClusterChange"), required=False),
            id="putCluster",
            problems=[409, 412],
            **GUARDS,
        ),
        delete=operation(
            "Remove a cluster; its hosts stay", _REMOVED, id="deleteCluster", problems=[404, 409, 412], **GUARDS
        ),
    ),
    "/cluster/{name}/hosts/": at(
        "name",
        get=operation(
            "The hosts of a cluster",
            {200: answer("Their addresses; the tag is the cluster's.", TEXTS, tagged=True)},
            id="listClusterHosts",
            problems=[404],
        ),
        put=operation(
            "Put other hosts in their place",
            {200: answer("The new addresses; the tag is the cluster's.", TEXTS, tagged=True)},
            body(schema("Replacement")),
            id="replaceClusterHosts",
            problems=[404, 409, 412],
            **GUARDS,
        ),
    ),
    "/cluster/{name}/hosts/{address}": at(
        "name",
        "address",
        get=operation(
            "Whether a host is in a cluster", {200: answer("It is.", TEXTS)}, id="getClusterHost", problems=[404]
        ),
        put=operation(
            "Add a host to a cluster", {200: answer("All addresses.", TEXTS)}, id="addClusterHost", problems=[404]
        ),
        delete=operation("Take a host out of a cluster", _REMOVED, id="removeClusterHost", problems=[404]),
    ),
    "/cluster/{name}/deploy": _clusteroperation("deployment", "ClusterDeploy", needs=True),
    "/cluster/{name}/restart": _clusteroperation("restart", "ClusterRestart", needs=False),
    "/cluster/{name}/upgrade": _clusteroperation("upgrade", "ClusterUpgrade", needs=False),
    "/networks/": _collection("networks", "listNetworks"),
    "/network/{name}": at(
        "name",
        get=operation(
            "One network",
            {200: answer("Its record.", schema("Network"), tagged=True)},
            id="getNetwork",
            problems=[404],
        ),
        put=_put("a network", "Network", body(schema("NetworkChange"), required=False), id="putNetwork"),
        delete=operation("Remove a network", _REMOVED, id="deleteNetwork", problems=[404, 412], **GUARDS),
    ),
    "/containermanagers/": _collection("container managers", "listContainerManagers"),
    "/containermanager/{name}": at(
        "name",
        get=operation(
            "One container manager",
            {200: answer("Its record.", schema("ContainerManager"), tagged=True)},
            id="getContainerManager",
            problems=[404],
        ),
        put=_put(
            "a container manager; what opens it is kept apart and never shown",
            "ContainerManager",
            body(schema("ContainerManagerChange"), required=False),
            id="putContainerManager",
            rest=f" Without it, of a known one, 409 where it is another; {_UNTOLD}",
        ),
        delete=operation(
            "Remove a container manager and what opens it",
            _REMOVED,
            id="deleteContainerManager",
            problems=[404, 409, 412],
            **GUARDS,
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
    **ACCESS_TAGS,
    "index": "Where things are.",
}


def _tag_of(path: str) -> str:
    if not path.startswith(wire.API_PATH):
        return "health"
    words = path.removeprefix(wire.API_PATH).strip("/").split("/")
    word = words[1] if words[0] == "access" else words[0]
    return next((tag for tag in _TAGS if tag in (word, f"{word}s")), "index")


def _tagged(path: str, item: Json) -> Json:
    """Return *item*, each operation of it with the tag of its *path*."""
    return {
        method: told if method == "parameters" else {**told, "tags": [_tag_of(path)]} for method, told in item.items()
    }


_PATHS: Final[dict[str, Json]] = {
    "/livez": at(
        get=operation("Whether the proxy runs", {200: answer("It does.", schema("Alive"))}, id="isAlive", **OPEN)
    ),
    "/readyz": at(
        get=operation(
            "Whether requests would be answered",
            {200: answer("They would.", schema("Ready")), 503: answer("Not now.", schema("Ready"))},
            id="isReady",
            **OPEN,
        )
    ),
    "/metrics": at(
        get=operation(
            "What both processes measure of themselves, for Prometheus",
            {200: {"description": "The metrics, as text.", "content": {CONTENT_TYPE: {"schema": {"type": "string"}}}}},
            id="getMetrics",
            security=[{"apiId": [], "apiKey": []}, {"metricsToken": []}],
        )
    ),
    "/openapi.json": at(
        get=operation("This document", {200: answer("It.", {"type": "object"})}, id="getDescription", **OPEN)
    ),
    **{wire.API_PATH + path: item for path, item in (_API | AUTH | ACCESS).items()},
}
PATHS: Final = {path: _tagged(path, item) for path, item in _PATHS.items()}


def _segment(name: str, text: str) -> Json:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": text,
        "schema": {"type": "string", "pattern": SEGMENT},
    }


def _header(name: str, text: str, **schema: Any) -> Json:
    return {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"} | schema}


DOCUMENT: Final[Json] = {
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
    "security": [{"apiId": [], "apiKey": []}, {"bearer": []}, {"basic": []}],
    "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
    "paths": PATHS,
    "components": {
        "schemas": SCHEMAS,
        "responses": {phrase(status): problem(status) for status in PROBLEMS},
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
            **ACCESS_PARAMETERS,
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
            "bearer": {"type": "http", "scheme": "bearer", "description": "The token of a login."},
            "basic": {"type": "http", "scheme": "basic"},
            "certificate": {"type": "mutualTLS"},
            "metricsToken": {"type": "http", "scheme": "bearer"},
        },
    },
}

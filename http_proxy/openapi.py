"""What the proxy serves, as an OpenAPI 3.1 document; a test holds it to the routes that there are."""

from typing import Any, Final

from strongroom.storage_service import wire
from strongroom.storage_service.metrics import CONTENT_TYPE
from strongroom.storage_service.wire.message import SIMPLE

_Json = dict[str, Any]


def _ref(kind: str, name: str) -> _Json:
    return {"$ref": f"#/components/{kind}/{name}"}


def _content(schema: _Json, media: str = wire.JSON) -> _Json:
    return {"content": {media: {"schema": schema}}}


def _answer(text: str, schema: _Json | None = None) -> _Json:
    return {"description": text, **(_content(schema) if schema else {})}


def _operation(summary: str, answers: dict[int, _Json], body: _Json | None = None, **more: Any) -> _Json:
    """Return an operation; whatever is not listed among its answers is a problem."""
    told = {str(status): answer for status, answer in answers.items()}
    told["default"] = _ref("responses", "Problem")
    request = {"requestBody": {"required": True, **_content(body)}} if body else {}
    return {"summary": summary, "responses": told, **request, **more}


def _at(*parameters: str, **operations: _Json) -> _Json:
    """Return a path with its *parameters* and its operations by method."""
    return {"parameters": [_ref("parameters", name) for name in parameters], **operations}


def _object(*required: str, **properties: _Json) -> _Json:
    return {"type": "object", "properties": properties, **({"required": list(required)} if required else {})}


def _list(of: _Json) -> _Json:
    return {"type": "array", "items": of}


_TEXT: Final[_Json] = {"type": "string"}
_WHOLE: Final[_Json] = {"type": "integer"}
_TEXTS: Final = _list(_TEXT)
_ANYTHING: Final[_Json] = {"type": "object", "additionalProperties": True}
_SECRET: Final[_Json] = {"type": "string", "writeOnly": True}
_REMOVED: Final = {200: _answer("Removed.", {"type": "array", "maxItems": 0})}
_OPEN: Final[_Json] = {"security": []}
_OWN_KEY: Final[_Json] = {"security": [{"apiId": [], "apiKey": []}]}
_MESSAGE: Final = _ref("schemas", "Message")


def _cluster_operation(word: str, model: str, *required: str) -> _Json:
    schema = _ref("schemas", model)
    body = _object(*required, **dict.fromkeys(required, _TEXT))
    return _at(
        "name",
        get=_operation(f"How far the {word} is", {200: _answer("Its record.", schema)}),
        put=_operation(f"Ask for a {word}; the platform does it", {201: _answer("Its record.", schema)}, body),
    )


def _operation_record(done: str, **more: _Json) -> _Json:
    return _object(
        name=_TEXT,
        status={"enum": ["", "in_process", "finished", "failed"]},
        **more,
        **{done: _TEXTS},
        in_process=_TEXTS,
        started_at=_TEXT,
        finished_at=_TEXT,
    )


_SECRET_ITEM: Final = _at(
    "container",
    "key",
    get=_operation(
        "Read a secret",
        {
            200: {
                "description": "The message, or the bytes themselves where Accept asks for them.",
                "headers": {"ETag": {"schema": _TEXT}},
                "content": {wire.JSON: {"schema": _MESSAGE}, wire.OCTET_STREAM: {"schema": {}}},
            },
            304: _answer("It is the one that If-None-Match names."),
        },
        **_OWN_KEY,
    ),
    put={
        **_operation(
            "Create a secret, or with If-Match replace it",
            {200: _answer("Replaced."), 201: _answer("Created.")},
            **_OWN_KEY,
        ),
        "parameters": [_ref("parameters", "ifMatch")],
        "requestBody": {
            "required": True,
            "content": {wire.JSON: {"schema": _MESSAGE}, wire.OCTET_STREAM: {"schema": {}}},
        },
    },
    delete=_operation("Remove a secret", {204: _answer("Removed.")}, **_OWN_KEY),
)

_CONTAINER: Final = _at(
    "container",
    get=_operation(
        "List a container and those within", {200: _answer("Names; containers end in a slash.", _TEXTS)}, **_OWN_KEY
    ),
    post=_operation(
        "Create a container", {200: _answer("It was there already."), 201: _answer("Created.")}, **_OWN_KEY
    ),
    delete=_operation("Remove an empty container", {204: _answer("Removed.")}, **_OWN_KEY),
)

_TOP: Final = _at(
    get=_operation(
        "List the containers that lie in no other", {200: _answer("Names; each ends in a slash.", _TEXTS)}, **_OWN_KEY
    ),
    post=_operation(
        "Read up to 1,000 secrets at once (with ?batch=get)",
        {
            200: _answer(
                "Messages by name, null where there is no such secret.",
                {"type": "object", "additionalProperties": {"oneOf": [_MESSAGE, {"type": "null"}]}},
            )
        },
        _object("names", names=_list(_TEXT)),
        parameters=[{"name": "batch", "in": "query", "required": True, "schema": {"const": "get"}}],
        **_OWN_KEY,
    ),
)

_HOST: Final = _ref("schemas", "Host")
_UNTOLD: Final = "who may not see credentials hears 409 whatever ones are sent with it."
_PUT_HOST: Final = _operation(
    "Add a host and its credentials",
    {
        200: _answer("It was there already, the same.", _HOST),
        201: _answer("Added.", _HOST),
    },
    _ref("schemas", "NewHost"),
    description=f"Of a known host, 409 where it is another; {_UNTOLD}",
)

_TRUTH: Final[_Json] = {"type": "boolean"}
_READY: Final = _object(
    *("status", "state", "checks"),
    status={"enum": ["ready", "unready"]},
    state={"enum": ["uninitialized", "locked", "unlocked", "behind", "fatal", None]},
    checks=_object("service", service=_TRUTH, audit=_TRUTH, store=_TRUTH, keyring=_TRUTH),
    warnings=_TEXTS,
)

_API: Final[dict[str, _Json]] = {
    "/": _at(
        get=_operation(
            "Where things are",
            {200: _answer("Endpoints by name.", _object("endpoints", endpoints=_ANYTHING))},
        )
    ),
    "/secrets/": _TOP,
    "/secrets/{container}/": _CONTAINER,
    "/secrets/{container}/{key}": _SECRET_ITEM,
    "/hosts/": _at(get=_operation("All hosts, of all handlers", {200: _answer("Their records.", _list(_HOST))})),
    "/host/": _at(put=_PUT_HOST),
    "/host/{address}": _at(
        "address",
        get=_operation("One host, whichever handler keeps it", {200: _answer("Its record.", _HOST)}),
        put=_PUT_HOST,
        delete=_operation("Remove a host and its credentials", _REMOVED),
    ),
    "/host/{address}/creds": _at(
        "address",
        get=_operation(
            "What opens a host; for those who may see it",
            {200: _answer("The credentials, in the clear.", _ref("schemas", "HostCreds"))},
        ),
        put=_operation(
            "Replace what opens a host",
            {204: _answer("Replaced.")},
            _ref("schemas", "HostCreds"),
            parameters=[_ref("parameters", "ifMatch")],
        ),
    ),
    "/host/{address}/status": _at(
        "address", get=_operation("How a host is", {200: _answer("Its status.", _ref("schemas", "HostStatus"))})
    ),
    "/clusters/": _at(get=_operation("All clusters", {200: _answer("Their names.", _TEXTS)})),
    "/cluster/{name}": _at(
        "name",
        get=_operation("One cluster", {200: _answer("Its record and counts.", _ref("schemas", "ClusterSeen"))}),
        put=_operation(
            "Make a cluster, or change it; its hosts stay unless given",
            {200: _answer("Changed.", _ref("schemas", "Cluster")), 201: _answer("Made.", _ref("schemas", "Cluster"))},
            _ref("schemas", "NewCluster"),
        ),
        delete=_operation("Remove a cluster; its hosts stay", _REMOVED),
    ),
    "/cluster/{name}/hosts/": _at(
        "name",
        get=_operation("The hosts of a cluster", {200: _answer("Their addresses.", _TEXTS)}),
        put=_operation(
            "Put other hosts in their place",
            {200: _answer("The new addresses.", _TEXTS)},
            _object("old", "new", old=_TEXTS, new=_TEXTS),
        ),
    ),
    "/cluster/{name}/hosts/{address}": _at(
        "name",
        "address",
        get=_operation("Whether a host is in a cluster", {200: _answer("It is.", _TEXTS)}),
        put=_operation("Add a host to a cluster", {200: _answer("All addresses.", _TEXTS)}),
        delete=_operation("Take a host out of a cluster", _REMOVED),
    ),
    "/cluster/{name}/deploy": _cluster_operation("deployment", "ClusterDeploy", "version"),
    "/cluster/{name}/restart": _cluster_operation("restart", "ClusterRestart"),
    "/cluster/{name}/upgrade": _cluster_operation("upgrade", "ClusterUpgrade"),
    "/networks/": _at(get=_operation("All networks", {200: _answer("Their names.", _TEXTS)})),
    "/network/{name}": _at(
        "name",
        get=_operation("One network", {200: _answer("Its record.", _ref("schemas", "Network"))}),
        put=_operation(
            "Make a network",
            {
                200: _answer("It was there already, the same.", _ref("schemas", "Network")),
                201: _answer("Made.", _ref("schemas", "Network")),
            },
            _ref("schemas", "Network"),
        ),
        delete=_operation("Remove a network", _REMOVED),
    ),
    "/containermanagers/": _at(get=_operation("All container managers", {200: _answer("Their names.", _TEXTS)})),
    "/containermanager/{name}": _at(
        "name",
        get=_operation("One container manager", {200: _answer("Its record.", _ref("schemas", "ContainerManager"))}),
        put=_operation(
            "Make a container manager; what opens it is kept apart and never shown",
            {
                200: _answer("It was there already, the same.", _ref("schemas", "ContainerManager")),
                201: _answer("Made.", _ref("schemas", "ContainerManager")),
            },
            _ref("schemas", "NewContainerManager"),
            description=f"Of a known container manager, 409 where it is another; {_UNTOLD}",
        ),
        delete=_operation("Remove a container manager and what opens it", _REMOVED),
    ),
}
PATHS: Final[dict[str, _Json]] = {
    "/livez": _at(get=_operation("Whether the proxy runs", {200: _answer("It does.")}, **_OPEN)),
    "/readyz": _at(
        get=_operation(
            "Whether requests would be answered",
            {200: _answer("They would.", _READY), 503: _answer("Not now.", _READY)},
            **_OPEN,
        )
    ),
    "/metrics": _at(
        get=_operation(
            "What both processes measure of themselves, for Prometheus",
            {200: {"description": "The metrics, as text.", **_content(_TEXT, CONTENT_TYPE)}},
            security=[{"apiId": [], "apiKey": []}, {"metricsToken": []}],
        )
    ),
    "/openapi.json": _at(get=_operation("This document", {200: _answer("It.", {"type": "object"})}, **_OPEN)),
    **{wire.API_PATH + path: item for path, item in _API.items()},
}

_CLUSTER: Final = {
    "name": _TEXT,
    "status": {"enum": ["", "ok", "degraded", "failed"]},
    "network": _TEXT,
    "container_manager": _TEXT,
}
_CONTAINER_MANAGER: Final = {"name": _TEXT, "type": {"enum": ["openshift", "trivial"]}}

SCHEMAS: Final[dict[str, _Json]] = {
    "Problem": {
        "description": "RFC 9457. Nothing in it comes from the request.",
        **_object(
            "type",
            "title",
            "status",
            type={"type": "string", "format": "uri"},
            title=_TEXT,
            status=_WHOLE,
            request_id=_TEXT,
            detail=_TEXT,
            errors=_list(_object("field", "reason", field=_TEXT, reason=_TEXT)),
            fate={"enum": ["not-applied", "applied", "unknown"]},
            next=_list(_ref("schemas", "Step")),
        ),
    },
    "Step": {
        "description": "What can be done about it; strongroom's own command has a command for each verb.",
        **_object(
            *("reason", "verb", "options"), reason=_TEXT, verb={"type": ["string", "null"]}, options={"type": "object"}
        ),
    },
    "Message": _object("type", "value", type={"const": SIMPLE}, value=_TEXT),
    "Host": _object(
        "address",
        address=_TEXT,
        status={"enum": ["", "investigating", "bootstrapping", "active", "disassociated", "failed"]},
        os={"enum": ["", "atomic", "centos", "fedora", "redhat", "rhel"]},
        cpus=_WHOLE,
        memory=_WHOLE,
        space=_WHOLE,
        last_check=_TEXT,
        source=_TEXT,
    ),
    "NewHost": {
        "allOf": [_HOST, _object(ssh_priv_key=_SECRET, remote_user=_TEXT, cluster=_TEXT)],
    },
    "HostCreds": _object(
        address=_TEXT, ssh_priv_key={"type": "string", "contentEncoding": "base64"}, remote_user=_TEXT
    ),
    "HostStatus": _object(type=_TEXT, host=_ANYTHING, container_manager=_ANYTHING),
    "Cluster": _object(**_CLUSTER),
    "ClusterSeen": _object(**_CLUSTER, hosts=_object(total=_WHOLE, available=_WHOLE, unavailable=_WHOLE)),
    "NewCluster": _object(**_CLUSTER, hostset=_TEXTS),
    "ClusterDeploy": _operation_record("deployed", version=_TEXT),
    "ClusterRestart": _operation_record("restarted"),
    "ClusterUpgrade": _operation_record("upgraded"),
    "Network": _object(name=_TEXT, type={"enum": ["flannel_etcd", "flannel_server"]}, options=_ANYTHING),
    "ContainerManager": _object(**_CONTAINER_MANAGER, options=_ANYTHING),
    "NewContainerManager": _object(
        **_CONTAINER_MANAGER,
        options={
            **_object(token=_SECRET, username=_SECRET, password=_SECRET, certificate=_SECRET, certificate_key=_SECRET),
            "additionalProperties": True,
        },
    ),
}


def _segment(name: str, text: str) -> _Json:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": text,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._@:+-]+$"},
    }


DOCUMENT: Final[_Json] = {
    "openapi": "3.1.1",
    "info": {
        "title": "Strongroom",
        "version": wire.VERSION,
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        "description": (
            "Records of a platform, and apart from them their secrets. Paths are spelled without percent-encoding; "
            "on the model routes a trailing slash may be left out."
        ),
    },
    "servers": [{"url": "/"}],
    "security": [{"apiId": [], "apiKey": []}, {"basic": []}],
    "paths": PATHS,
    "components": {
        "schemas": SCHEMAS,
        "responses": {
            "Problem": {"description": "A problem.", **_content(_ref("schemas", "Problem"), wire.PROBLEM_JSON)}
        },
        "parameters": {
            "address": _segment("address", "A host's address."),
            "name": _segment("name", "The record's name."),
            "container": _segment("container", "A container of secrets; containers within are joined by slashes."),
            "key": _segment("key", "A secret's key."),
            "ifMatch": {"name": "If-Match", "in": "header", "required": False, "schema": _TEXT},
        },
        "securitySchemes": {
            "apiId": {"type": "apiKey", "in": "header", "name": wire.ID_HEADER},
            "apiKey": {"type": "apiKey", "in": "header", "name": wire.KEY_HEADER},
            "basic": {"type": "http", "scheme": "basic"},
            "metricsToken": {"type": "http", "scheme": "bearer"},
        },
    },
}

"""The schemas of the description, made of the types: what a model says of its fields stands in its schema.

A record is described three times over: as it is shown (all its fields, secrets apart), as what a request may say of it
(nothing else, and not its name, which the path says), and, where a path says no name, as the same with it.
"""

import inspect
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from strongroom.models import (
    Cluster,
    ClusterDeploy,
    ClusterRestart,
    ClusterUpgrade,
    ContainerManagerConfig,
    ContainerManagerCreds,
    Host,
    HostCreds,
    HostStatus,
    Model,
    Network,
)
from strongroom.models.access import MAX_ENTRIES, MAX_NOTE, Right
from strongroom.models.fields import MAX_INT
from strongroom.models.names import MAX_NAME
from strongroom.models.rules import base64_text, not_empty
from strongroom.models.secret import Secret
from strongroom.models.steps import Step
from strongroom.storage_service import wire
from strongroom.storage_service.errors import Fate
from strongroom.storage_service.wire import access, login, rules
from strongroom.storage_service.wire.message import SIMPLE

SEGMENT: Final = r"^\.*[A-Za-z0-9_@:+-][A-Za-z0-9._@:+-]*$"
"""One segment of a name, as ``strongroom.models.names`` has it but for those of three dots or more."""
_NAME: Final = r"^[A-Za-z0-9_@:+-][A-Za-z0-9._@:+-]*(/[A-Za-z0-9_@:+-][A-Za-z0-9._@:+-]*)+$"
_BASE64: Final = r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{3}=|[A-Za-z0-9+/][AQgw]==)?$"

_Segment: TypeAlias = Annotated[str, Meta(pattern=SEGMENT)]
_Int: TypeAlias = Annotated[int, Meta(ge=-MAX_INT, le=MAX_INT, extra_json_schema={"format": "int64"})]
_Member: TypeAlias = tuple[str, Any] | tuple[str, Any, Any]
_SECRET: Final[dict[str, object]] = {"writeOnly": True}


class Counts(Struct, kw_only=True):
    """How many hosts of a cluster there are, and how many of them are active."""

    total: int
    available: int
    unavailable: int


class Fault(Struct, kw_only=True):
    """What is wrong with a field."""

    field: str
    reason: str


class Problem(Struct, kw_only=True):
    """RFC 9457. Nothing in it comes from the request. *next*: what can be done about it."""

    type: Annotated[str, Meta(extra_json_schema={"format": "uri"})]
    title: str
    status: int
    request_id: str | msgspec.UnsetType = msgspec.UNSET
    detail: str | msgspec.UnsetType = msgspec.UNSET
    errors: list[Fault] | msgspec.UnsetType = msgspec.UNSET
    fate: Fate | msgspec.UnsetType = msgspec.UNSET
    holders: list[str] | msgspec.UnsetType = msgspec.UNSET
    wait: int | msgspec.UnsetType = msgspec.UNSET
    next: list[Step] | msgspec.UnsetType = msgspec.UNSET


class Message(Struct, kw_only=True):
    """A secret as Custodia's clients send and read it."""

    type: Annotated[str, Meta(extra_json_schema={"const": SIMPLE})]
    value: Annotated[str, Meta(min_length=1)]


class Names(Struct, kw_only=True, forbid_unknown_fields=True):
    """The names of secrets: container and key."""

    names: Annotated[
        list[Annotated[str, Meta(pattern=_NAME)]],
        Meta(max_length=wire.MAX_BATCH_NAMES, extra_json_schema={"uniqueItems": True}),
    ]


class Replacement(Struct, kw_only=True):
    """Which hosts a cluster has, and which it is to have."""

    old: list[_Segment]
    new: list[_Segment]


class Endpoints(Struct, kw_only=True):
    """Where things are, by name."""

    endpoints: dict[str, str]


class Checks(Struct, kw_only=True):
    """What was looked at: true where it is as it should be, and absent where it was not looked at."""

    service: bool
    audit: bool | msgspec.UnsetType = msgspec.UNSET
    store: bool | msgspec.UnsetType = msgspec.UNSET
    keyring: bool | msgspec.UnsetType = msgspec.UNSET


class Ready(Struct, kw_only=True):
    """Whether requests would be answered, and what should be seen to all the same."""

    status: Literal["ready", "unready"]
    state: Literal["uninitialized", "locked", "unlocked", "behind", "fatal"] | None
    checks: Checks
    warnings: list[str] | msgspec.UnsetType = msgspec.UNSET


class Alive(Struct, kw_only=True):
    """That the proxy runs."""

    status: Literal["alive"]


def _type_of(model: type[Model], name: str) -> Any:
    """Return the type of a field as JSON has it: a secret is text, and the rules are what schemas can say of them."""
    hint = get_type_hints(model, include_extras=True)[name]
    kind, *rules = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if name in (model.primary_key, "network"):
        return _Segment
    if kind is int:
        return _Int
    if base64_text in rules:
        return Annotated[str, Meta(pattern=_BASE64, extra_json_schema={"contentEncoding": "base64"})]
    if not_empty in rules:
        return Annotated[str, Meta(min_length=1)]
    if kind == dict[str, object]:
        return dict[str, Any]
    return str if kind is Secret else kind


class NewClusterDeploy(Struct, kw_only=True, forbid_unknown_fields=True):
    """Which version is to be deployed."""

    version: _type_of(ClusterDeploy, "version")  # type: ignore[valid-type]  # what the model says


class NewClusterRestart(Struct, kw_only=True, forbid_unknown_fields=True):
    """Nothing needs to be said of a restart."""


class NewClusterUpgrade(Struct, kw_only=True, forbid_unknown_fields=True):
    """Nothing needs to be said of an upgrade."""


def _shown(name: str, model: type[Model], *more: _Member) -> type[Struct]:
    """Return what an answer has of *model*: every field, but for the hidden."""
    fields = [(field, _type_of(model, field)) for field in model.__struct_fields__ if field not in model.hidden]
    return msgspec.defstruct(name, [*fields, *more], kw_only=True, namespace={"__doc__": model.__doc__})


def _read_only(field: str, kind: Any) -> _Member:
    return field, Annotated[kind, Meta(extra_json_schema={"readOnly": True})] | msgspec.UnsetType, msgspec.UNSET


def _said(
    name: str, *models: type[Model], key: bool = False, more: Iterable[_Member] = (), needed: str = "", shown: str = ""
) -> type[Struct]:
    """Return what a request may say of a record of *models*, with its *key* where the path does not say it.

    Its key is told as read only otherwise, and so is what is *shown* and never stored: both are in what an answer has,
    and may be sent back. The field that is *needed* is there, and not empty.
    No default is told: in an update, what is not said stays.
    """
    fields: dict[str, _Member] = {}
    for model in models:
        for field in model.__struct_fields__:
            kind = list[_Segment] if field == "hostset" else _type_of(model, field)
            if field == shown or (field == model.primary_key and not key):
                fields[field] = _read_only(field, kind)
                continue
            told = Annotated[kind, Meta(extra_json_schema=_SECRET)] if model._fields[field].secret else kind
            if field == needed:
                fields[field] = (field, Annotated[told, Meta(min_length=1)])
            elif field == model.primary_key:
                fields[field] = (field, kind)
            else:
                fields[field] = (field, told | msgspec.UnsetType, msgspec.UNSET)
    doc = {"__doc__": f"What a request says. {models[0].__doc__}"}
    fields |= {member[0]: member for member in more}
    members = list(fields.values())
    return msgspec.defstruct(name, members, kw_only=True, forbid_unknown_fields=True, namespace=doc)


_Options: Final = msgspec.defstruct(
    "NewOptions",
    [
        (
            field,
            Annotated[str, Meta(extra_json_schema=_SECRET if law.secret else {})] | msgspec.UnsetType,
            msgspec.UNSET,
        )
        for field, law in ContainerManagerCreds._fields.items()
        if field != ContainerManagerCreds.primary_key
    ],
    kw_only=True,
    namespace={"__doc__": "Options, and among them what opens the container manager: kept apart, and never shown."},
)
_CLUSTER: Final[_Member] = ("cluster", Annotated[str, Meta(pattern=f"^$|{SEGMENT}")] | msgspec.UnsetType, msgspec.UNSET)

_ACCESS: Final = (
    login.AskedChallenge,
    login.Challenge,
    login.Answer,
    login.Token,
    wire.WhoAmI,
    access.NewPrincipal,
    access.AddedPrincipal,
    access.PrincipalInfo,
    access.PrincipalPage,
    access.NewCredential,
    access.CredentialInfo,
    access.NewGroup,
    access.GroupInfo,
    access.Membership,
    access.Setup,
    rules.RuleBody,
    rules.RuleInfo,
    rules.RulePage,
    rules.RulesDiff,
    rules.TrialInfo,
    rules.Question,
    rules.ExplanationInfo,
    rules.WhoCanQuestion,
    rules.WhoInfo,
    rules.WhatCanQuestion,
    rules.ReachInfo,
    rules.CaseInfo,
)
"""What the wire says of logins, principals and rules: described as it is."""

KINDS: Final = ("password", "access-key", "certificate", "process")
"""The kinds of credentials, which the service has in a table of its own."""
_SUBJECT: Final = r"^(\*|(user|service|apikey|machine|group):[A-Za-z0-9][A-Za-z0-9._@+-]{0,63})$"
_SOME: Final = SEGMENT.strip("^$")
_PART: Final = rf"({_SOME}|\*|\{{principal\}})"
_PATTERN: Final = rf"^({_PART}/)*({_PART}/?|\*\*)$"
_DAY: Final = (
    "([0-9]{4}-((0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)"
    "|[0-9]{2}(0[48]|[2468][048]|[13579][26])-02-29|([02468][048]|[13579][26])00-02-29)"
)
_MOMENT: Final = {"pattern": f"^(?!0000){_DAY}T([01][0-9]|2[0-3])(:[0-5][0-9]){{2}}Z$"}
_ACTIONS: Final = sorted({"get", "put", *map(str, Right)})
_ASKED: Final = {"pattern": rf"^({_SOME}/)*{_SOME}/?$", "maxLength": MAX_NAME}


def _entries(**each: Any) -> dict[str, Any]:
    return {"minItems": 1, "maxItems": MAX_ENTRIES, "uniqueItems": True, "items": {"type": "string", **each}}


_GRAMMAR: Final[Mapping[tuple[str, str], dict[str, Any]]] = {
    ("AskedChallenge", "principal"): {"minLength": 1, "maxLength": login.MAX_PRINCIPAL, "pattern": "^[!-~]+$"},
    ("NewCredential", "kind"): {"enum": list(KINDS)},
    ("NewCredential", "data"): {"minLength": 1, "writeOnly": True},
    ("NewPrincipal", "note"): {"maxLength": MAX_NOTE},
    ("NewGroup", "note"): {"maxLength": MAX_NOTE},
    ("Setup", "principal"): {"pattern": "^(user|service):[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$"},
    ("Setup", "code"): {"writeOnly": True},
    ("Answer", "answer"): {"writeOnly": True},
    ("Question", "action"): {"enum": _ACTIONS},
    ("Question", "name"): _ASKED,
    ("WhoCanQuestion", "action"): {"enum": _ACTIONS},
    ("WhoCanQuestion", "name"): _ASKED,
    ("AddedPrincipal", "code"): {"readOnly": True},
    ("Token", "token"): {"readOnly": True},
    ("RuleBody", "subjects"): _entries(pattern=_SUBJECT),
    ("RuleBody", "actions"): _entries(enum=[*map(str, Right)]),
    ("RuleBody", "names"): _entries(pattern=_PATTERN),
    ("RuleBody", "networks"): _entries() | {"minItems": 0},
    ("RuleBody", "note"): {"maxLength": MAX_NOTE},
    ("RuleBody", "expires"): {"anyOf": [{"type": "string", **_MOMENT}, {"type": "null"}]},
    ("NewCredential", "expires"): {"anyOf": [{"type": "string", **_MOMENT}, {"type": "null"}]},
}
"""What the service refuses, and the types of the wire do not say, because it says which field is at fault."""

_DOCUMENT: Final[dict[str, Any]] = {
    "title": "RulesDocument",
    "type": "object",
    "description": "Rules by name, in YAML.",
    "properties": {
        "rules": {
            "type": "object",
            "propertyNames": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$"},
            "additionalProperties": {"$ref": "#/components/schemas/WrittenRule"},
        }
    },
    "required": ["rules"],
    "additionalProperties": False,
}

TYPES: Final[Mapping[str, type[Struct]]] = {
    made.__name__: made
    for made in (
        *_ACCESS,
        Problem,
        Alive,
        Ready,
        Endpoints,
        Message,
        Names,
        Replacement,
        _shown("Host", Host),
        _said("HostChange", Host, HostCreds, more=[_CLUSTER]),
        _said("NewHost", Host, HostCreds, key=True, more=[_CLUSTER]),
        _shown("HostCreds", HostCreds),
        _said("HostCredsChange", HostCreds, needed="ssh_priv_key"),
        _shown("HostStatus", HostStatus),
        _shown("Cluster", Cluster),
        _shown("ClusterSeen", Cluster, ("hosts", Counts)),
        _said("ClusterChange", Cluster, more=[_read_only("hosts", Counts)], shown="status"),
        _shown("ClusterDeploy", ClusterDeploy),
        NewClusterDeploy,
        _shown("ClusterRestart", ClusterRestart),
        NewClusterRestart,
        _shown("ClusterUpgrade", ClusterUpgrade),
        NewClusterUpgrade,
        _shown("Network", Network),
        _said("NetworkChange", Network),
        _shown("ContainerManager", ContainerManagerConfig),
        _said(
            "ContainerManagerChange",
            ContainerManagerConfig,
            more=[("options", _Options | msgspec.UnsetType, msgspec.UNSET)],
        ),
    )
}


def _schemas() -> dict[str, dict[str, Any]]:
    _, made = msgspec.json.schema_components(TYPES.values(), ref_template="#/components/schemas/{name}")
    for schema in made.values():
        if "description" in schema:
            schema["description"] = inspect.cleandoc(schema["description"])
    for (name, member), told in _GRAMMAR.items():
        made[name]["properties"][member] |= told
    rule = made["RuleBody"]
    members = rule["properties"] | {"expires": {"type": "string", **_MOMENT}}  # in YAML it is a text, or is left out
    written = rule | {"title": "WrittenRule", "description": "A rule in a document.", "properties": members}
    return dict(sorted((made | {"RulesDocument": _DOCUMENT, "WrittenRule": written}).items()))


SCHEMAS: Final = _schemas()

"""The description of what is served, held to what is served."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import falcon.inspect
import pytest
from openapi_spec_validator import validate

from strongroom.http_proxy.access_description import ACCESS_NAME, DURATION, PRINCIPAL_NAME
from strongroom.http_proxy.app import _falcon_app
from strongroom.http_proxy.metrics import Metrics
from strongroom.http_proxy.openapi import DOCUMENT
from strongroom.http_proxy.resources import ENDPOINTS
from strongroom.http_proxy.resources.base import Storage
from strongroom.http_proxy.schemas import KINDS, SEGMENT
from strongroom.models import MODELS, Cluster, ContainerManagerConfig, Host, HostCreds, Model, Network, names
from strongroom.models.access import InvalidAccess, check_name, check_pattern, check_subject, check_time
from strongroom.models.errors import InvalidName
from strongroom.models.secret import Secret
from strongroom.storage_service import wire
from strongroom.storage_service.access.credentials.registry import CREDENTIALS
from strongroom.storage_service.access.durations import duration
from strongroom.storage_service.bootstrap import SharedRoot
from strongroom.storage_service.client.pool import Place, Pool
from strongroom.storage_service.config import ProxySettings, ServiceSettings
from strongroom.storage_service.http.app import STRANGERS_PATHS, StorageApp
from strongroom.storage_service.meter import PROXY, Meter
from tests.proxy.conftest import Proxy
from tests.raw_http import ScriptedService, ask, request

PASSED_ON = tuple(path + "/" for path in wire.PROXIED)


def test_the_document_is_valid() -> None:
    """It is OpenAPI 3.1 to those who read such."""
    validate(DOCUMENT)


async def test_the_document_is_served_to_anyone(proxy: Proxy, service: ScriptedService) -> None:
    """Without credentials, and without asking the service."""
    answer = await ask(proxy.port, request("GET", "/openapi.json"))

    assert (answer.status, answer.get("content-type")) == (200, "application/json")
    assert json.loads(answer.body) == json.loads(json.dumps(DOCUMENT))
    assert service.heard == []


def test_every_route_is_in_the_document_and_the_reverse() -> None:
    """Paths and methods are the same on both sides; the secrets are forwarded, and are no route of falcon's."""
    settings = ProxySettings(socket=Path("/nowhere"), api_id="a", api_key=Secret("b"))
    pool = Pool(Place("/nowhere"), 1)
    app = _falcon_app(pool, Storage(settings), Metrics(pool, b"", Meter(PROXY), None), tuple)
    served = {
        (route.path.rstrip("/"), method.method.lower())
        for route in falcon.inspect.inspect_routes(app)
        for method in route.methods
        if not method.internal
    }
    described = {
        (path.rstrip("/"), method)
        for path, operations in DOCUMENT["paths"].items()
        for method in operations
        if method != "parameters" and not path.startswith((wire.PROXIED_SECRETS_PATH, *PASSED_ON))
    }
    assert served == described


async def test_every_route_that_is_passed_on_is_in_the_document_and_the_reverse(tmp_path: Path) -> None:
    """Paths, to their last slash, and methods are those that the service itself has below what the proxy passes on."""
    app = StorageApp(
        ServiceSettings(
            socket=tmp_path / "s",
            audit_log=tmp_path / "audit.log",
            root_key=tmp_path / "secrets.key",
            store="memory:",
            api_id="own",
            api_key=Secret("key"),
        ),
        SharedRoot(),
    )
    await app.open()
    try:
        routes = falcon.inspect.inspect_routes(app._rest)
    finally:
        await app.close()
    served = {
        (wire.API_PATH + route.path, method.method.lower())
        for route in routes
        for method in route.methods
        if not method.internal and (wire.API_PATH + route.path).startswith(PASSED_ON)
    }
    described = {
        (path, method)
        for path, operations in DOCUMENT["paths"].items()
        for method in operations
        if method != "parameters" and path.startswith(PASSED_ON)
    }
    assert len(served) > 40
    assert served == described


def test_who_is_nobody_yet_is_asked_for_nothing() -> None:
    """Below what is passed on, those paths alone need no credentials that the service answers to strangers."""
    unasked = {path for path, told in operations() if path.startswith(PASSED_ON) and told.get("security") == []}
    assert unasked == {wire.API_PATH + path for path in STRANGERS_PATHS}


def is_time(said: str) -> bool:
    """Whether the service takes it for a moment."""
    try:
        check_time(said, "expires")
    except InvalidAccess:
        return False
    return True


def test_the_words_of_access_are_the_services() -> None:
    """The kinds of credentials, the actions and the grammar of names are told as the service has them."""
    assert set(KINDS) == set(CREDENTIALS)
    for good in ("ann", "a", "a+b@example.net", "A" * 64, "7a"):
        assert re.search(PRINCIPAL_NAME, good)
        assert check_name(good)
    for bad in ("", ".a", "a/b", "a:b", "a,b", "*", "{principal}", "ä", "A" * 65):
        assert not re.search(ACCESS_NAME, bad)
        with pytest.raises(InvalidName):
            check_name(bad)
    for good in ("10m", "1h30m", "1Y2M3w4d5h6m7s8ms", "0h1m"):
        assert re.search(DURATION, good)
        assert duration(good)
    for bad in ("", "0s", "m", "30m1h", "1.5h", "-1h", "1 h", "1234567s"):
        assert not re.search(DURATION, bad)
        with pytest.raises(ValueError, match="a duration is"):
            duration(bad)
    rule = DOCUMENT["components"]["schemas"]["RuleBody"]["properties"]
    for given, member, check in (
        (("*", "user:ann", "group:ops", "apikey:ci"), "subjects", check_subject),
        (("**", "*", "secrets/**", "secrets/*/x", "secrets/{principal}/**", "secrets/db/"), "names", check_pattern),
    ):
        for good in given:
            assert re.search(rule[member]["items"]["pattern"], good), good
            assert check(good)
    moment = rule["expires"]["anyOf"][0]["pattern"]
    days = [
        f"{year}-{month:02}-{day:02}" for year in (2023, 2024, 2000, 2100) for month in range(14) for day in range(33)
    ]
    for said in [*(f"{day}T23:59:59Z" for day in days), "2026-11-30T24:00:00Z", "2026-11-30", "0000-01-01T00:00:00Z"]:
        assert bool(re.search(moment, said)) == is_time(said), said
    asked = DOCUMENT["components"]["schemas"]["Question"]["properties"]["name"]["pattern"]
    for good in ("a", "a/", "secrets/db/key", "secrets/..a/"):
        assert re.search(asked, good)
        assert names.check(good)
    for bad in ("", "/", "/a", "a//b", "a/../b", "a b", "a/*"):
        assert not re.search(asked, bad), bad
    for bad, member in (("ann", "subjects"), ("user:", "subjects"), ("a//b", "names"), ("a**", "names"), ("", "names")):
        assert not re.search(rule[member]["items"]["pattern"], bad), bad


def test_every_endpoint_of_the_index_is_in_the_document() -> None:
    """What the index points to exists."""
    assert set(ENDPOINTS.values()) <= set(DOCUMENT["paths"])


def operations() -> list[tuple[str, dict[str, Any]]]:
    """Return every operation with its path."""
    return [
        (path, told)
        for path, item in DOCUMENT["paths"].items()
        for method, told in item.items()
        if method != "parameters"
    ]


def test_generators_have_names_for_all() -> None:
    """Every operation has an id of its own, in the form of a function's name, and one tag that is described."""
    ids = [told["operationId"] for _, told in operations()]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z]+([A-Z][a-z]+)*", each) for each in ids)
    described = {tag["name"] for tag in DOCUMENT["tags"]}
    assert {tag for _, told in operations() for tag in told["tags"]} == described
    assert all(len(told["tags"]) == 1 for _, told in operations())


def schemas_in(told: object) -> Iterator[dict[str, Any]]:
    """Yield what stands in the place of a schema below *told*, however deep."""
    if isinstance(told, dict):
        for name, value in told.items():
            if name in {"schema", "items", "additionalProperties"} and isinstance(value, dict):
                yield value
            elif name == "properties":
                yield from value.values()
            yield from schemas_in(value)
    elif isinstance(told, list):
        for each in told:
            yield from schemas_in(each)


def test_generators_know_the_type_of_all() -> None:
    """What a generator stumbles over is nowhere: a list of it knows not what, content, or a field, of no type.

    openapi-python-client 0.29 left out the operations that had these, or made what cannot be called.
    """
    found = list(schemas_in(DOCUMENT))
    assert len(found) > 200
    assert [told for told in found if not told.keys() & {"$ref", "type", "enum", "const", "oneOf", "anyOf"}] == []
    assert [told for told in found if told.get("type") == "array" and "items" not in told] == []
    parameters = [*DOCUMENT["components"]["parameters"].values()]
    parameters += [each for _, told in operations() for each in told.get("parameters", ()) if "$ref" not in each]
    branches = [each["schema"].get("anyOf", [each["schema"]]) for each in parameters]
    assert [each for each in branches if not all(branch.keys() & {"type", "const"} for branch in each)] == []
    bodies = [told["requestBody"]["content"] for _, told in operations() if "requestBody" in told]
    assert [
        body for body in bodies if not all(each["schema"].keys() & {"$ref", "type"} for each in body.values())
    ] == []


def test_every_status_is_told() -> None:
    """No operation leaves its errors to a default; each is a problem, and all that the wire knows of are among them."""
    for path, told in operations():
        problems = {status: answer for status, answer in told["responses"].items() if int(status) >= 400}
        if path == "/readyz":
            assert problems.pop("503") == {**told["responses"]["200"], "description": "Not now."}
            problems["503"] = problems["500"]  # for what follows: readiness is told in a form of its own
        assert "default" not in told["responses"]
        assert {"400", "405", "500", "503"} <= set(problems), path
        assert {"401", "403"} <= set(problems) or told["security"] == [], path
        assert "413" in problems or "requestBody" not in told, path
        assert all(answer["$ref"].startswith("#/components/responses/") for answer in problems.values())
    statuses = {row.status for row in wire.PROBLEMS.values()}
    assert statuses <= {int(status) for _, told in operations() for status in told["responses"]}


def test_a_body_is_required_where_one_is() -> None:
    """A PUT without a body is what it says: of what can be made of nothing it is no error, of all else it is 400."""
    needed = {told["operationId"] for _, told in operations() if told.get("requestBody", {}).get("required")}
    records = {told["operationId"] for path, told in operations() if not path.startswith(PASSED_ON)}
    assert needed & records == {
        "setSecret",
        "getSecrets",
        "addHost",
        "putHostCreds",
        "replaceClusterHosts",
        "startClusterDeploy",
    }
    access = {
        told["operationId"] for path, told in operations() if "requestBody" in told and path.startswith(PASSED_ON)
    }
    assert needed - records == access


def test_bodies_take_no_member_that_is_refused() -> None:
    """What is said of a record has the fields of its model, secrets told to be written alone, and nothing else."""
    schemas = DOCUMENT["components"]["schemas"]
    for name, models in {
        "HostChange": (Host, HostCreds),
        "HostCredsChange": (HostCreds,),
        "ClusterChange": (Cluster,),
        "NetworkChange": (Network,),
        "ContainerManagerChange": (ContainerManagerConfig,),
    }.items():
        fields = {field for model in models for field in model.__struct_fields__ if field != model.primary_key}
        said = {member for member, told in schemas[name]["properties"].items() if not told.get("readOnly")}
        counted = {"status"} if name == "ClusterChange" else set()
        assert said - {"cluster"} == fields - counted
        assert schemas[name]["additionalProperties"] is False
    secret = {name for name, told in schemas["NewOptions"]["properties"].items() if told.get("writeOnly")}
    assert secret == {"token", "password", "certificate", "certificate_key"}
    assert schemas["HostChange"]["properties"]["ssh_priv_key"]["writeOnly"] is True


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ("Host", "HostChange"),
        ("HostCreds", "HostCredsChange"),
        ("ClusterSeen", "ClusterChange"),
        ("Network", "NetworkChange"),
        ("ContainerManager", "ContainerManagerChange"),
    ],
)
def test_what_an_answer_has_a_body_may_have(shown: str, said: str) -> None:
    """Every member that GET answers with stands among those of PUT; what PUT never stores is told as read only."""
    schemas = DOCUMENT["components"]["schemas"]
    assert set(schemas[shown]["properties"]) <= set(schemas[said]["properties"])
    counted = {"status", "hosts"} if said == "ClusterChange" else set()
    read_only = {name for name, told in schemas[said]["properties"].items() if told.get("readOnly")}
    assert read_only == counted | {"address" if said.startswith("Host") else "name"}


def test_the_pattern_of_a_segment_is_the_grammar() -> None:
    """It takes what a name may hold and refuses what none may; the grammar has three dots and more besides."""
    for good in ("a", "10.0.0.7", "fe80::1", "web@1", "a+b", ".a", "..a", "a.", "-"):
        assert re.search(SEGMENT, good)
        assert Host.name_of(good)
    for bad in ("", ".", "..", "a b", "a/b", "ü", "%41", "a\x00"):
        assert not re.search(SEGMENT, bad)


@pytest.mark.parametrize(
    ("model", "schema"),
    [
        *((MODELS[name], name) for name in ("ClusterDeploy", "ClusterRestart", "ClusterUpgrade")),
        (Host, "Host"),
        (HostCreds, "HostCreds"),
        (Cluster, "Cluster"),
        (Network, "Network"),
        (ContainerManagerConfig, "ContainerManager"),
    ],
)
def test_records_are_described_as_they_are(model: type[Model], schema: str) -> None:
    """A schema has the fields of its model, all but the hidden."""
    described = DOCUMENT["components"]["schemas"][schema]["properties"]
    assert set(described) == set(model.__struct_fields__) - set(model.hidden)

"""The description of what is served, held to what is served."""

import json
from pathlib import Path

import falcon.inspect
import pytest
from openapi_spec_validator import validate

from strongroom.http_proxy.app import _falcon_app
from strongroom.http_proxy.metrics import Metrics
from strongroom.http_proxy.openapi import DOCUMENT
from strongroom.http_proxy.resources import ENDPOINTS
from strongroom.http_proxy.resources.base import Storage
from strongroom.models import MODELS, Cluster, ContainerManagerConfig, Host, HostCreds, Model, Network
from strongroom.models.secret import Secret
from strongroom.storage_service import wire
from strongroom.storage_service.client.pool import Place, Pool
from strongroom.storage_service.config import ProxySettings
from strongroom.storage_service.meter import PROXY, Meter
from tests.proxy.conftest import Proxy
from tests.raw_http import ScriptedService, ask, request


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
        if method != "parameters" and not path.startswith(wire.PROXIED_SECRETS_PATH)
    }
    assert served == described


def test_every_endpoint_of_the_index_is_in_the_document() -> None:
    """What the index points to exists."""
    assert set(ENDPOINTS.values()) <= set(DOCUMENT["paths"])


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

"""The running product for the tests of this folder: both processes, and a raw HTTP client on each of its faces."""

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import pytest

from strongroom.deploy.pytest_plugin import Server
from strongroom.storage_service import wire


@dataclass(frozen=True)
class Face:
    """One way in: a client that sends nothing of its own, and where the secrets are."""

    client: httpx.Client
    secrets: str
    credentials: dict[str, str] = field(repr=False)

    def ask(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, content: bytes | str | None = None
    ) -> httpx.Response:
        """Send one request below the secrets path, with the service's own credentials."""
        return self.client.request(
            method, self.secrets + path, headers={**self.credentials, **(headers or {})}, content=content
        )

    def put(self, path: str, value: str, **headers: str) -> httpx.Response:
        """Put *value* as a simple message."""
        message = json.dumps({"type": "simple", "value": value})
        return self.ask("PUT", path, headers={"Content-Type": wire.JSON, **headers}, content=message)


@pytest.fixture(params=["socket", "proxy"])
def face(request: pytest.FixtureRequest, strongroom_server: Server) -> Iterator[Face]:
    """The unix socket, and the proxy: one contract."""
    known = json.loads((strongroom_server.home / "client.json").read_text())
    credentials = {wire.ID_HEADER: known["api_id"], wire.KEY_HEADER: known["api_key"]}
    if request.param == "socket":
        transport = httpx.HTTPTransport(uds=str(strongroom_server.socket))
        client, path = httpx.Client(transport=transport, base_url="http://socket"), wire.SECRETS_PATH
    else:
        client, path = httpx.Client(base_url=strongroom_server.url), wire.PROXIED_SECRETS_PATH
    with client:
        yield Face(client, path, credentials)


@pytest.fixture
def container(face: Face) -> str:
    """A new container's name, without slashes; the container exists and is empty."""
    name = secrets.token_hex(6)
    assert face.ask("POST", f"/{name}/").status_code == 201
    return name

"""What the tests of the client share."""

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from strongroom.deploy.pytest_plugin import (  # the fixtures, whether or not the product is installed here
    Server,
    strongroom,
    strongroom_async,
    strongroom_home,
    strongroom_proxy_url,
    strongroom_server,
)
from strongroom.storage_service.client.address import read_home
from tests.client.faces import FACES
from tests.client.scripted_service import ScriptedService

__all__ = ["strongroom", "strongroom_async", "strongroom_home", "strongroom_proxy_url", "strongroom_server"]


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory for sockets: the kernel takes 107 bytes of a socket's path, and pytest's are longer than that."""
    path = Path(tempfile.mkdtemp(prefix="sr-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def service(short_path: Path) -> Iterator[ScriptedService]:
    """A service that does as told."""
    with ScriptedService(short_path / "s") as service:
        yield service


@pytest.fixture(params=FACES)
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Make clients, of one face and then of the other; they are closed in the end."""
    made = []

    def connect(**arguments: Any) -> Any:
        client = FACES[request.param](**{"api_id": "tests", "api_key": "k", "jitter": lambda: 0.0} | arguments)
        made.append(client)
        return client

    yield connect
    for client in made:
        client.close()


@pytest.fixture
def client(connect: Callable[..., Any], strongroom_server: Server) -> Any:
    """A client of the real service, on its socket and with all rights."""
    address, caller = read_home(strongroom_server.home)
    return connect(socket=address.socket, api_id=caller.api_id, api_key=caller.api_key)


@pytest.fixture(params=["socket", "url"])
def keeper(request: pytest.FixtureRequest, client: Any, connect: Callable[..., Any], strongroom_server: Server) -> Any:
    """A client of the real service for its secrets: on the socket, and through the proxy."""
    if request.param == "socket":
        return client
    _, caller = read_home(strongroom_server.home)
    return connect(url=strongroom_server.url, api_id=caller.api_id, api_key=caller.api_key)


_containers = itertools.count()


@pytest.fixture
def container() -> str:
    """The name of a container that no other test uses."""
    return f"tests-{next(_containers)}"

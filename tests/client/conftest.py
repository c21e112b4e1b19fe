"""What the tests of the client share."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faces import FACES
from scripted_service import ScriptedService


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

"""A node whose root key file is behind, on the running product: what it answers, says and logs, and how it recovers."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from strongroom.storage_service.client import StorageClient
from strongroom.storage_service.errors import Behind, Fate
from tests.deploy.running import Up, descendants, eventually, strongroom, up


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory with a short path, for the sockets in it."""
    path = Path(tempfile.mkdtemp(prefix="sr"))
    (path / "data").mkdir(mode=0o700)
    yield path
    shutil.rmtree(path)


def home_of(directory: Path, name: str) -> Path:
    """A home on the one store that all of these share."""
    home = directory / name
    home.mkdir(mode=0o700)
    (home / "strongroom.toml").write_text(f'store = "sqlite:{directory}/data/store.db"\n')
    return home


def ready(service: Up) -> tuple[int, dict[str, object]]:
    """What both faces say to a balancer."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(service.socket))) as client:
        inner = client.get("http://socket/readyz")
    answer = httpx.get(f"{service.url}/readyz")
    assert answer.status_code == inner.status_code
    return inner.status_code, inner.json()


def test_a_node_whose_root_key_file_is_behind_says_so(directory: Path) -> None:
    """It reads, refuses writes as not applied, is not ready and logs why; the new file mends it."""
    a, b = home_of(directory, "a"), home_of(directory, "b")
    with ExitStack() as stack:
        stack.enter_context(up(a))
        shutil.copy2(a / "secrets.key", b / "secrets.key")
        serving = stack.enter_context(up(b))
        client = stack.enter_context(StorageClient.from_home(b))
        client.create_container("db")
        client.set_secret("db", "one", "1")
        well = {"audit": True, "store": True, "keyring": True}
        assert ready(serving) == (200, {"status": "ready", "state": "unlocked", "checks": well})

        assert strongroom("--home", a, "key", "rotate", "root").code == 0

        behind = {"status": "unready", "state": "behind", "checks": well | {"keyring": False}}
        assert ready(serving) == (503, behind)
        with pytest.raises(Behind) as caught:
            client.set_secret("db", "two", "2")
        assert caught.value.fate is Fate.NOT_APPLIED
        assert client.get_secret("db", "one").reveal() == "1"
        assert client.status().state == "behind"
        told = strongroom("--home", b, "key", "status", "--json")
        assert (told.code, told.json["state"]) == (0, "behind")
        assert strongroom("--home", b, "key", "rotate", "keyset", "default").code == 3

        # A worker that starts now does not end the service, which has plain records to serve.
        (worker,) = descendants(serving.gunicorn("storage"))
        signal.pidfd_send_signal(os.pidfd_open(worker), signal.SIGKILL)
        eventually(lambda: [pid for pid in descendants(serving.gunicorn("storage")) if pid != worker])
        eventually(lambda: ready(serving)[0] == 503)
        with pytest.raises(Behind):
            client.get_secret("db", "one")

        shutil.copy2(a / "secrets.key", b / "secrets.key")
        eventually(lambda: ready(serving)[0] == 200)
        client.set_secret("db", "two", "2")
        assert client.get_secret("db", "one").reveal() == "1"
        assert client.status().state == "unlocked"
        ended = serving.end()
    said = [line for line in ended.err.splitlines() if "secrets.key" in line]
    assert any("put the secrets.key that was made with this store in its place" in line for line in said)
    assert len(said) <= 4

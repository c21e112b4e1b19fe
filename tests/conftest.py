"""What tests of several rooms share: one real etcd a session, on which each test keeps to a prefix of its own."""

import resource
from collections.abc import Iterator

import pytest

from strongroom.storage_service import hygiene
from tests.deploy.running import ended_after
from tests.etcd_server import Etcd, running


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """Run an etcd of one member, without TLS and without users."""
    with running(tmp_path_factory.mktemp("etcd")) as store:
        yield store


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    """End the commands that a test started and, because it failed, did not end."""
    with ended_after():
        yield


@pytest.fixture(autouse=True)
def _open_to_debuggers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the process of the tests stay as it is, where a command runs in it: what closes one is tried in others.

    A limit that a test lowers for good would fail others, in some orders.
    """
    before = resource.getrlimit(resource.RLIMIT_CORE)
    if request.path.name != "test_hygiene.py":
        monkeypatch.setattr(hygiene, "_refuse_debuggers", lambda: None)
        monkeypatch.setattr(hygiene, "_refuse_core_dumps", lambda: None)
    yield
    assert resource.getrlimit(resource.RLIMIT_CORE) == before

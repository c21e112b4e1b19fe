"""What tests of several rooms share: one real etcd a session, on which each test keeps to a prefix of its own."""

import resource
from collections.abc import Iterator

import pytest

from tests.etcd_server import Etcd, running


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """Run an etcd of one member, without TLS and without users."""
    with running(tmp_path_factory.mktemp("etcd")) as store:
        yield store


@pytest.fixture(autouse=True)
def _no_lasting_limit() -> Iterator[None]:
    """A limit that a test lowers for good would fail others, in some orders: what closes a process runs in a child."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    yield
    assert resource.getrlimit(resource.RLIMIT_CORE) == before

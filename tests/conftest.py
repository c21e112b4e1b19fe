"""What tests of several rooms share: one real etcd a session, on which each test keeps to a prefix of its own.

Several processes may run them side by side; each has a session, an etcd and servers of its own (ADR 0029).
"""

import gc
import resource
import signal
import threading
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from strongroom.storage_service import hardening
from tests import collection, groups
from tests.etcd_server import Etcd, running

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling


def pytest_configure() -> None:
    """Take signals again that a shell ignored, which began this in the background: what ignores them hands that on."""
    if threading.current_thread() is threading.main_thread():
        for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)):
            if signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, usual)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Collect without a program within reach, and see whether something outside is touched: test_suite asks."""
    with collection.watched():
        gc.disable()  # what is collected stays
        try:
            return (yield)
        finally:
            gc.freeze()  # no later search for garbage goes through the tests, and no fork copies them for one
            gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes longest, where several processes share the tests."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: groups.turn_of(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> "LoadScopeScheduling | None":
    """With ``--dist loadgroup``, give out groups in the order of their turns.

    Groups are told from ids: a mark would stand in the ids of what failed, which could not be given to pytest again.
    """
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return groups.group_of(nodeid)

    config.option.loadscopereorder = False  # by how many tests there are, which says little of how long they take
    return Groups(config, log)


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """Run an etcd of one member, without TLS and without users."""
    with running(tmp_path_factory.mktemp("etcd")) as store:
        yield store


@pytest.fixture(autouse=True)
def _open_to_debuggers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the process of the tests stay as it is, where a command runs in it: what closes one is tried in others.

    A limit that a test lowers for good would fail others, in some orders.
    """
    before = resource.getrlimit(resource.RLIMIT_CORE)
    if request.path.name != "test_hygiene.py":
        monkeypatch.setattr(hardening, "_refuse_debuggers", lambda: None)
        monkeypatch.setattr(hardening, "_refuse_core_dumps", lambda: None)
    yield
    assert resource.getrlimit(resource.RLIMIT_CORE) == before

"""A client that was used before a fork, or on another event loop: every caller gets the answer to its own question."""

import asyncio
import os
import ssl
import stat
import threading
from pathlib import Path

import pytest
import trustme

from strongroom.deploy.pytest_plugin import Server
from strongroom.storage_service.client import AsyncStorageClient, StorageClient
from tests.client.scripted_service import Echo, ScriptedService
from tests.forking import end_of, fork, in_child

ASKED = 200


@pytest.fixture
def secrets(strongroom: StorageClient, container: str) -> list[str]:
    """The names of five secrets, each of which has its own name as its value."""
    strongroom.create_container(container)
    for n in range(5):
        strongroom.set_secret(container, f"k{n}", f"k{n}")
    return [container, *(f"k{n}" for n in range(5))]


def right_answers(client: StorageClient, container: str, key: str) -> int:
    """How many of so many answers are the secret that was asked for."""
    return sum(client.get_secret(container, key).reveal() == key for _ in range(ASKED))


@pytest.mark.parametrize("where", ["socket", "url"])
def test_forked_children_get_their_own_answers(strongroom_server: Server, secrets: list[str], where: str) -> None:
    """Four children and their parent ask at the same time with one client made and used before: none gets another's."""
    container, own, *keys = secrets
    with _client(strongroom_server, where) as client:
        assert right_answers(client, container, own) == ASKED
        before = repr(client._transport)
        children = [fork(lambda key=key: _all_right(client, container, key)) for key in keys]  # type: ignore[misc]
        assert right_answers(client, container, own) == ASKED
        assert [end_of(child) for child in children] == [0] * 4
        assert right_answers(client, container, own) == ASKED
        assert repr(client._transport) == before


def _client(server: Server, where: str) -> StorageClient:
    known = StorageClient.from_home(server.home)
    if where == "socket":
        return known
    caller = known._caller
    return StorageClient(url=server.url, api_id=caller.api_id, api_key=caller.api_key, retries=0)


def _all_right(client: StorageClient, container: str, key: str) -> None:
    assert right_answers(client, container, key) == ASKED


def test_a_fork_beside_busy_threads_disturbs_nobody(strongroom_server: Server, secrets: list[str]) -> None:
    """Threads in the middle of their exchanges go on with them; each child, whose threads are gone, asks anew."""
    container, *keys = secrets
    with StorageClient.from_home(strongroom_server.home, retries=0) as client:
        stop = threading.Event()
        wrong: list[object] = []

        def ask(key: str) -> None:
            try:
                while not stop.is_set():
                    if client.get_secret(container, key).reveal() != key:
                        wrong.append(key)
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=ask, args=(key,)) for key in keys[1:]]
        for thread in threads:
            thread.start()
        try:
            for _ in range(10):
                assert end_of(fork(lambda: client.get_secret(container, keys[0]).reveal() == keys[0] or 1 / 0)) == 0
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert wrong == []


@pytest.mark.parametrize("tls", [False, True])
def test_a_child_says_no_word_on_its_parents_connections(short_path: Path, tls: bool) -> None:
    """The child's requests come on a new connection, and the parent's goes on, over TLS, too; no descriptor is left."""
    context = None
    ca = trustme.CA()
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("localhost").configure_cert(context)
    with ScriptedService(None if tls else short_path / "s", context) as service:
        service.script(*[Echo()] * 4)
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        ca.configure_trust(trust)
        with StorageClient(**service.where, api_id="t", api_key="k", ssl_context=trust, retries=0) as client:
            client.get_secret("db", "parent")
            (inherited,) = client._transport._all
            number = inherited._socket.fileno()

            def ask() -> list[object]:
                closed = inherited._socket.fileno() < 0 and not Path(f"/proc/self/fd/{number}").exists()
                return [closed, client.get_secret("db", "child").reveal().endswith("/db/child")]

            assert in_child(ask) == [True, True]
            assert service.connections == 2
            assert client.get_secret("db", "parent").reveal().endswith("/db/parent")
            assert client.get_secret("db", "parent").reveal().endswith("/db/parent")
            assert service.connections == 2


# Event loops


async def _ask(client: AsyncStorageClient, container: str, key: str, times: int = ASKED) -> int:
    async def some() -> int:
        answers = [(await client.get_secret(container, key)).reveal() for _ in range(times // 8)]
        return sum(answer == key or answer.endswith(f"/{key}") for answer in answers)

    return sum(await asyncio.gather(*(some() for _ in range(8))))


def test_each_event_loop_has_connections_of_its_own(strongroom_server: Server, secrets: list[str]) -> None:
    """One client on loops in several threads at the same time, and on one after another: every answer is right."""
    container, *keys = secrets
    client = AsyncStorageClient.from_home(strongroom_server.home, retries=0)
    right: list[int] = []

    async def visit(key: str) -> None:
        right.append(await _ask(client, container, key))
        await client.close()

    threads = [threading.Thread(target=asyncio.run, args=(visit(key),)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for key in keys:
        asyncio.run(visit(key))
    assert right == [ASKED] * 10


def test_an_awaiting_client_may_be_forked(short_path: Path) -> None:
    """Children ask on loops and connections of their own, and the parent goes on with its own connection."""
    with ScriptedService(short_path / "s") as service:
        service.script(*[Echo()] * 100)
        client = AsyncStorageClient(socket=service.path, api_id="t", api_key="k", connections=1, retries=0)
        with asyncio.Runner() as runner:
            assert runner.run(_ask(client, "db", "parent", 8)) == 8
            assert service.connections == 1

            (inherited,) = next(iter(client._transport._pools.values()))._idle
            assert inherited._transport is not None
            number = inherited._transport.get_extra_info("socket").fileno()

            def ask() -> list[object]:
                holds = stat.S_ISSOCK(os.fstat(number).st_mode)
                return [holds, asyncio.run(_ask(client, "db", "child", 8))]

            assert [in_child(ask) for _ in range(2)] == [[False, 8]] * 2
            assert service.connections == 3
            assert runner.run(_ask(client, "db", "parent", 8)) == 8
            assert service.connections == 3
            runner.run(client.close())


def test_a_child_on_its_parents_loop_gets_its_own_answers(short_path: Path) -> None:
    """A child that goes on with the very loop, whose epoll is the parent's, too, takes nothing from the parent."""
    with ScriptedService(short_path / "s") as service:
        service.script(*[Echo()] * 100)
        client = AsyncStorageClient(socket=service.path, api_id="t", api_key="k", connections=2, retries=0)
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(_ask(client, "db", "parent", 8)) == 8
        opened = service.connections

        assert in_child(lambda: loop.run_until_complete(_ask(client, "db", "child", 8))) == 8
        assert loop.run_until_complete(_ask(client, "db", "parent", 8)) == 8
        assert service.connections <= 2 * opened + 2
        loop.run_until_complete(client.close())
        loop.close()

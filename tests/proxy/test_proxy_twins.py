"""Records and their credentials, through the real proxy, when two change the same ones: write by write, and at once."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from strongroom.models import (
    Cluster,
    ClusterDeploy,
    ContainerManagerConfig,
    ContainerManagerCreds,
    Host,
    HostCreds,
    Model,
)
from strongroom.models.secret import Secret
from strongroom.storage_service.client import AsyncStorageClient
from tests.proxy.conftest import Platform
from tests.proxy.test_proxy_resources import KEY, OTHER, Api, as_user, fresh
from tests.raw_http import DEADLINE, Client, Exchange, ScriptedService, request
from tests.served import PROXY, SERVICE, gunicorn, tcp_listener, unix_listener

OLD = "b2xk"
MOST = 8  # writes of one request that another can come between; those of today are fewer
WRITES = frozenset({"/storage/save", "/storage/delete"})

# The handler for all models, and one more for hosts that name it.
HANDLERS = """
from strongroom.storage_service import config
from strongroom.storage_service.config import HandlerSettings

_made = config.ServiceSettings


def ServiceSettings(**told):
    alt = HandlerSettings(name="alt", type="sqlite", models=(), options={{"url": "sqlite:{home}/alt.db"}})
    return _made(storage_handlers=(HandlerSettings(type="sqlite"), alt), **told)


config.ServiceSettings = ServiceSettings
"""


@dataclass
class Held:
    """A request whose writes wait, each until it is let through: what it read before has been read by then."""

    identifier: str = field(default_factory=lambda: fresh("held-request"))
    waiting: tuple[str, str] | None = None  # verb and model of the write that waits
    came: asyncio.Event = field(default_factory=asyncio.Event)
    let: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    task: asyncio.Task[tuple[int, Any]] | None = None

    async def begin(self, asked: Coroutine[Any, Any, tuple[int, Any]]) -> None:
        """Send it, and return when its first write waits."""
        self.task = asyncio.create_task(asked)
        await self._settle()

    async def step(self) -> bool:
        """Let one write through, and return when the next one waits, or all is answered; False: it was already."""
        if self.waiting is None:
            return False
        self.waiting = None
        self.came.clear()
        self.let.release()
        await self._settle()
        return True

    async def until(self, *call: str) -> None:
        """Let writes through until *call* waits."""
        while self.waiting != call:
            assert await self.step()

    async def end(self) -> tuple[int, Any]:
        """Let all writes through, and return the answer."""
        while await self.step():
            pass
        assert self.task is not None
        return await self.task

    async def _settle(self) -> None:
        assert self.task is not None
        came = asyncio.create_task(self.came.wait())
        try:
            done, _ = await asyncio.wait({came, self.task}, return_when=asyncio.FIRST_COMPLETED, timeout=DEADLINE)
            assert done
        finally:
            came.cancel()


class Between:
    """Stands between the proxy and the service, and hands on all that is not held."""

    def __init__(self, service: Path) -> None:
        self._service = service
        self._clients: dict[asyncio.StreamWriter, Client] = {}
        self.held: dict[str, Held] = {}

    async def script(self, exchange: Exchange) -> None:
        """Hand on one call."""
        head, body = exchange.head, await exchange.body()
        held = self.held.get(head.get("x-request-id") or "")
        if held is not None and head.target in WRITES:
            held.waiting = head.target.removeprefix("/storage/"), json.loads(body)["model"]
            held.came.set()
            await held.let.acquire()
        lines = [f"{name}: {value}" for name, value in head.fields if name not in ("content-length", "host", "expect")]
        if exchange.writer not in self._clients:
            self._clients[exchange.writer] = await Client.at(self._service)
        told = await self._clients[exchange.writer].ask(request(head.method, head.target, *lines, body=body))
        kept = [f"{name}: {value}" for name, value in told.fields if name in ("content-type", "retry-after", "allow")]
        exchange.answer(told.status, told.body, *kept)

    def close(self) -> None:
        """Close the connections to the service."""
        for client in self._clients.values():
            client.writer.transport.abort()


@pytest.fixture(scope="module")
def processes(short_dir: Path, users_file: Path) -> Iterator[tuple[Path, Path, int, Path]]:
    """A service with several places for hosts, and a proxy that looks for it where somebody may stand between."""
    home, front, key = short_dir / "twins", short_dir / "twins-front", secrets.token_hex(32)
    home.mkdir(mode=0o700)
    front.mkdir()
    (home / "key").write_text(key)
    outside = PROXY.format(socket=str(front / "s"), key=key, connections=16, timeout=10.0, users=str(users_file))
    inside = HANDLERS.format(home=home) + SERVICE.format(home=str(home), key=key, users=str(users_file))
    with (
        unix_listener(home / "s") as inner,
        tcp_listener() as outer,
        gunicorn(home, inside, listener=inner),
        gunicorn(front, outside, listener=outer) as running,
    ):
        yield home, front / "s", outer.getsockname()[1], running.log


@pytest.fixture
async def between(processes: tuple[Path, Path, int, Path]) -> AsyncIterator[Between]:
    """What stands between."""
    home, socket, _, _ = processes
    between = Between(home / "s")
    async with ScriptedService(socket, between.script):
        yield between
    between.close()


@pytest.fixture
async def platform(processes: tuple[Path, Path, int, Path], between: Between) -> AsyncIterator[Platform]:
    """The whole, with a client on the service's own socket that has every right."""
    del between  # it is there before anybody asks the proxy
    home, _, port, log = processes
    async with AsyncStorageClient(socket=home / "s", api_id="own", api_key=(home / "key").read_text()) as client:
        yield Platform(home, port, log, client)


@pytest.fixture
def api(platform: Platform) -> Api:
    """The API as alice sees it, who may see credentials."""
    return Api(platform, as_user("alice"))


@dataclass(frozen=True)
class Asked:
    """A request of a story: who sends it, and the credential that is stored where it is answered 201."""

    method: str
    path: str = ""
    body: Any = None
    user: str = "alice"
    key: str | None = None


@dataclass(frozen=True)
class Told:
    """What a request was answered."""

    asked: Asked
    status: int


def put(key: str, user: str = "alice", **more: str) -> Asked:
    return Asked("PUT", body={"ssh_priv_key": key, **more}, user=user, key=key)


DELETE = Asked("DELETE")


async def every_way(
    platform: Platform,
    between: Between,
    kind: str,
    pair: tuple[Asked, Asked],
    begin: Callable[[str], Awaitable[None]],
    check: Callable[[str, list[Told]], Awaitable[None]],
) -> None:
    """Do a *pair* of requests in every order where each is interrupted once: so many writes, so many, and the rest."""
    for one, other in (pair, pair[::-1]):
        for first in range(MOST):
            reached = first
            for second in range(1, MOST):
                name = fresh("twin")
                await begin(name)
                requests = [Held(), Held()]
                for asked, held in zip((one, other), requests, strict=True):
                    between.held[held.identifier] = held
                    api = Api(platform, as_user(asked.user), f"x-request-id: {held.identifier}")
                    await held.begin(api(asked.method, f"{kind}/{name}{asked.path}", asked.body))
                    if held is requests[0]:  # the other has not read anything yet
                        reached = [await held.step() for _ in range(first)].count(True)
                passed = [await requests[1].step() for _ in range(second)].count(True)
                told = [Told(asked, (await held.end())[0]) for asked, held in zip((one, other), requests, strict=True)]
                await check(name, told)
                if passed < second:
                    break
            if reached < first:
                break
        else:
            pytest.fail("requests are longer than what was looked at")


async def hosts_of(platform: Platform, address: str) -> list[Host]:
    """Return what all places have of *address*; two of them have the same store."""
    found = [(await platform.inside.get_many(Host, [address], source=source))[0] for source in ("", "alt")]
    return [record.model for record in found if record is not None]


async def check_host(platform: Platform, address: str, told: list[Told], before: str | None) -> None:
    """See that a host has the credentials of who was told 201, and that there are none without a host."""
    hosts = await hosts_of(platform, address)
    (creds,) = await platform.inside.get_many(HostCreds, [address])
    winners = [each.asked.key for each in told if each.status == 201]
    removed = any(each.asked.method == "DELETE" and each.status == 200 for each in told)
    summary = address, [each.status for each in told], len(hosts), creds is not None
    assert {each.status for each in told} <= {200, 201, 204, 404, 409, 412}, summary
    assert len(winners) < 2 or removed, summary
    assert len(hosts) < 2, summary
    if not hosts:
        assert creds is None, summary
        assert removed or not winners, summary
        assert (await Api(platform, as_user("alice"))("PUT", f"host/{address}", {"ssh_priv_key": KEY}))[0] == 201
    elif creds is None:
        assert before is None, summary
        assert not winners, summary
    else:
        replaced = [each.asked.key for each in told if each.status == 204]
        kept = [before] if before is not None and not removed else []
        assert creds.model.ssh_priv_key.reveal() in [*winners, *replaced, *kept], summary


HOST_STORIES: dict[str, tuple[str | None, bool, tuple[Asked, Asked]]] = {
    "two add one": (None, False, (put(KEY), put(OTHER))),
    "two add one in two places": (None, False, (put(KEY, source="alt"), put(OTHER))),
    "two end what failed half-way": (None, True, (put(KEY), put(OTHER, "bob"))),
    "one ends what failed half-way, one removes it": (None, True, (put(KEY), DELETE)),
    "one adds it again, one removes it": (OLD, True, (put(KEY), DELETE)),
    "one gives it another key, one removes it": (
        OLD,
        True,
        (Asked("PUT", "/creds", {"ssh_priv_key": KEY}, key=KEY), DELETE),
    ),
    "one gives it its first key, one removes it": (
        None,
        True,
        (Asked("PUT", "/creds", {"ssh_priv_key": KEY}, key=KEY), DELETE),
    ),
}


@pytest.mark.parametrize("story", HOST_STORIES)
async def test_a_host_and_its_credentials_come_and_go_together(
    platform: Platform, between: Between, story: str
) -> None:
    """However the writes of two fall, no credentials are without a host, and who is told 201 has his stored."""
    before, is_there, pair = HOST_STORIES[story]

    async def begin(address: str) -> None:
        if is_there:
            await platform.inside.save(Host(address=address))
        if before is not None:
            await platform.inside.save(HostCreds(address=address, ssh_priv_key=Secret(before)))

    async def check(address: str, told: list[Told]) -> None:
        await check_host(platform, address, told, before)

    await every_way(platform, between, "host", pair, begin, check)


def manager(token: str, user: str = "alice") -> Asked:
    return Asked("PUT", body={"options": {"token": token}}, user=user, key=token)


BARE = Asked("PUT", body={}, key="")

MANAGER_STORIES: dict[str, tuple[str | None, bool, tuple[Asked, Asked]]] = {
    "two make one": (None, False, (manager("a"), manager("b"))),
    "two make one where another left credentials": (OLD, False, (manager("a"), manager("b"))),
    "two make one, and one without credentials": (OLD, False, (manager("a"), BARE)),
    "two end what failed half-way": (None, True, (manager("a"), manager("b", "bob"))),
    "one ends what failed half-way, one removes it": (None, True, (manager("a"), DELETE)),
    "one makes it again, one removes it": (OLD, True, (manager("a"), DELETE)),
}


@pytest.mark.parametrize("story", MANAGER_STORIES)
async def test_a_container_manager_and_its_credentials_come_and_go_together(
    platform: Platform, between: Between, story: str
) -> None:
    """However the writes of two requests fall, the credentials are of him who was told 201, or there are none."""
    before, is_there, pair = MANAGER_STORIES[story]

    async def begin(name: str) -> None:
        if is_there:
            await platform.inside.save(ContainerManagerConfig(name=name))
        if before is not None:
            await platform.inside.save(ContainerManagerCreds(name=name, token=Secret(before)))

    async def check(name: str, told: list[Told]) -> None:
        (config,) = await platform.inside.get_many(ContainerManagerConfig, [name])
        (creds,) = await platform.inside.get_many(ContainerManagerCreds, [name])
        token = None if creds is None else creds.model.token.reveal()
        winners = [each.asked.key for each in told if each.status == 201]
        removed = any(each.asked.method == "DELETE" and each.status == 200 for each in told)
        summary = name, [each.status for each in told], config is not None, token
        assert {each.status for each in told} <= {200, 201, 404, 409}, summary
        if config is None:
            assert token is None or (token == before and not removed and not is_there), summary
            assert removed or not winners, summary
        elif winners:
            # One without credentials may get its first ones by the same PUT with some, which ends it.
            assert len([key for key in winners if key]) < 2 or removed, summary
            assert (token or "") in winners, summary
            assert token is not None or not any(winners), summary
        else:
            assert token == before, summary

    await every_way(platform, between, "containermanager", pair, begin, check)


# path, what it is made with, what belongs to it, and what a PUT changes of it
TAGGED: dict[str, tuple[str, dict[str, Any], tuple[str, dict[str, Any]] | None, type[Model], dict[str, Any]]] = {
    "a host": ("host/{0}", {"ssh_priv_key": KEY}, None, HostCreds, {"cpus": 8}),
    "a cluster": ("cluster/{0}", {}, ("/deploy", {"version": "7"}), ClusterDeploy, {"container_manager": "b"}),
    "a container manager": (
        "containermanager/{0}",
        {"options": {"token": "t"}},
        None,
        ContainerManagerCreds,
        {"type": "trivial"},
    ),
}


async def tagged(api: Api, story: str) -> tuple[str, str, str]:
    """Make a record and what belongs to it; return its name, its path and its tag."""
    shape, first, more, _, _ = TAGGED[story]
    name = fresh("twin")
    path = shape.format(name)
    assert (await api("PUT", path, first))[0] == 201
    if more is not None:
        assert (await api("PUT", path + more[0], more[1]))[0] == 201
    tag = (await api.ask("GET", path)).get("etag")
    assert tag is not None
    return name, path, tag


@pytest.mark.parametrize("story", TAGGED)
async def test_of_a_put_and_a_delete_at_one_tag_one_is_done(
    platform: Platform, between: Between, api: Api, story: str
) -> None:
    """Whichever writes first is 200 and the other 412; a DELETE that is told 412 has removed nothing at all."""
    _, _, _, belongs, change = TAGGED[story]
    for put_first in (True, False):
        name, path, tag = await tagged(api, story)
        condition, held = f"if-match: {tag}", Held()
        between.held[held.identifier] = held
        await held.begin(api("DELETE", path, None, condition, f"x-request-id: {held.identifier}"))
        if not put_first:
            assert await held.step()
        put, delete = (await api("PUT", path, change, condition))[0], (await held.end())[0]

        assert (put, delete) == ((200, 412) if put_first else (412, 200))
        assert (await api("GET", path))[0] == (200 if put_first else 404)
        assert (await platform.inside.get_many(belongs, [name]) != [None]) == put_first


@pytest.mark.parametrize("story", TAGGED)
async def test_a_delete_at_a_tag_never_removes_what_came_later(between: Between, api: Api, story: str) -> None:
    """A change that falls between its writes stays; the DELETE is 409 then, not 412, and may be sent again."""
    change = TAGGED[story][4]
    _, path, tag = await tagged(api, story)
    held = Held()
    between.held[held.identifier] = held
    await held.begin(api("DELETE", path, None, f"if-match: {tag}", f"x-request-id: {held.identifier}"))
    assert await held.step()
    assert (await api("PUT", path, change, "if-match: *"))[0] == 200

    status, problem = await held.end()
    assert (status, problem["type"]) == (409, "urn:strongroom:problem:contradicted")
    assert change.items() <= (await api("GET", path))[1].items()
    assert await api("DELETE", path) == (200, [])


@pytest.mark.parametrize("story", TAGGED)
async def test_many_puts_and_deletes_at_one_tag(api: Api, story: str) -> None:
    """Of real requests at once, one PUT and one DELETE at the same tag, never both are told that it is done."""
    for _ in range(10):
        _, path, tag = await tagged(api, story)
        condition = f"if-match: {tag}"
        told = await asyncio.gather(api("DELETE", path, None, condition), api("PUT", path, TAGGED[story][4], condition))
        assert sorted(status for status, _ in told) == [200, 412]


@pytest.mark.parametrize("same", [True, False])
async def test_who_loses_leaves_the_cluster_that_he_joined(
    platform: Platform, between: Between, api: Api, same: bool
) -> None:
    """Of two who add a host to clusters, the one who is told 409 takes his membership back, and no other's."""
    address, lost = fresh("twin"), fresh("cluster")
    won = lost if same else fresh("cluster")
    for cluster in {lost, won}:
        await api("PUT", f"cluster/{cluster}", {})
    held = Held()
    between.held[held.identifier] = held
    body = {"ssh_priv_key": OTHER, "cluster": lost}
    await held.begin(api("PUT", f"host/{address}", body, f"x-request-id: {held.identifier}"))
    await held.until("save", "HostCreds")

    assert (await platform.inside.get(Cluster, lost)).model.hostset == [address]
    assert (await api("PUT", f"host/{address}", {"ssh_priv_key": KEY, "cluster": won}))[0] == 201
    assert (await held.end())[0] == 409
    assert (await platform.inside.get(Cluster, won)).model.hostset == [address]
    assert same or (await platform.inside.get(Cluster, lost)).model.hostset == []
    assert (await platform.inside.get(HostCreds, address)).model.ssh_priv_key.reveal() == KEY


async def test_who_is_told_409_leaves_nothing_that_he_made(platform: Platform, api: Api) -> None:
    """A PUT that finds credentials left behind makes no host with them, joins no cluster, and destroys nothing."""
    address, cluster = fresh("twin"), fresh("cluster")
    await api("PUT", f"cluster/{cluster}", {})
    left = await platform.inside.save(HostCreds(address=address, ssh_priv_key=Secret(OLD)))

    body = {"ssh_priv_key": KEY, "cluster": cluster}
    status, problem = await api("PUT", f"host/{address}", body)
    assert (status, problem["type"]) == (409, "urn:strongroom:problem:contradicted")
    assert await hosts_of(platform, address) == []
    assert (await platform.inside.get(Cluster, cluster)).model.hostset == []
    assert (await platform.inside.get(HostCreds, address)).etag == left.etag
    # The way out: a host beside them, as the command line makes it.
    assert [(step["verb"], step["options"]) for step in problem["next"]] == [("host put", {"address": address})]


async def test_credentials_without_a_host_are_not_shown(platform: Platform, api: Api) -> None:
    """GET of the credentials of an address that is no host's is 404."""
    address = fresh("twin")
    await platform.inside.save(HostCreds(address=address, ssh_priv_key=Secret(OLD)))

    assert (await api("GET", f"host/{address}/creds"))[0] == 404


async def test_a_platform_that_changes_a_new_host_stops_no_put(platform: Platform, between: Between, api: Api) -> None:
    """A host that is changed by others between the writes of a PUT is added all the same, with what they wrote."""
    address, held = fresh("twin"), Held()
    between.held[held.identifier] = held
    body = {"ssh_priv_key": KEY}
    await held.begin(api("PUT", f"host/{address}", body, f"x-request-id: {held.identifier}"))
    await held.until("save", "HostCreds")
    await platform.inside.save(Host(address=address, cpus=4))

    assert (await held.end())[0] == 201
    assert (await platform.inside.get(Host, address)).model.cpus == 4
    assert (await platform.inside.get(HostCreds, address)).model.ssh_priv_key.reveal() == KEY


async def test_many_at_once_leave_no_credentials_without_a_host(platform: Platform, api: Api) -> None:
    """Whatever ten real requests for one address do at once, when all is quiet the host has a winner's credentials."""
    bob = Api(platform, as_user("bob"))
    for index in range(8):
        address = fresh("twin")
        asked = [put(KEY), put(OTHER), put(OLD, "bob"), put(KEY, source="alt")]
        asked += [DELETE] * (index % 3) + [put(OTHER, "bob"), put(KEY)] + [DELETE] * (index % 2)
        callers = {"alice": api, "bob": bob}
        answers = await asyncio.gather(
            *(callers[each.user](each.method, f"host/{address}", each.body) for each in asked)
        )
        await check_host(
            platform, address, [Told(each, status) for each, (status, _) in zip(asked, answers, strict=True)], None
        )


async def test_many_at_once_make_one_container_manager(platform: Platform, api: Api) -> None:
    """Of ten real requests that make one container manager, at most one is told 201, and his token is stored."""
    for _ in range(8):
        name = fresh("twin")
        tokens = [str(number) for number in range(10)]
        answers = await asyncio.gather(
            *(api("PUT", f"containermanager/{name}", {"options": {"token": token}}) for token in tokens)
        )
        winners = [token for token, (status, _) in zip(tokens, answers, strict=True) if status == 201]
        (creds,) = await platform.inside.get_many(ContainerManagerCreds, [name])
        assert len(winners) <= 1
        assert ([] if creds is None else [creds.model.token.reveal()]) == winners

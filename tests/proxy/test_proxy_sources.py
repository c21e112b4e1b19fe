"""Hosts whose *source* names a storage handler, over REST: they are hosts like all others."""

import secrets
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from strongroom.models import Cluster, Host, HostCreds, HostState
from strongroom.storage_service.client import AsyncStorageClient
from tests.proxy.conftest import Platform
from tests.proxy.test_proxy_resources import KEY, OTHER, Api, as_user, fresh
from tests.served import PROXY, SERVICE, gunicorn, tcp_listener, unix_listener

# The handler for all models, one for no model, and one more on the store of the first: what it has, both have.
HANDLERS = """
from strongroom.storage_service import config
from strongroom.storage_service.config import HandlerSettings

_made = config.ServiceSettings


def ServiceSettings(**told):
    alt = {{"url": "sqlite:{home}/alt.db"}}
    handlers = (
        HandlerSettings(type="sqlite"),
        HandlerSettings(name="alt", type="sqlite", models=(), options=alt),
        HandlerSettings(name="same", type="sqlite", models=()),
    )
    return _made(storage_handlers=handlers, **told)


config.ServiceSettings = ServiceSettings
"""


@pytest.fixture(scope="module")
def processes(short_dir: Path, users_file: Path) -> Iterator[tuple[Path, int, Path]]:
    """A service with three handlers, and the proxy before it."""
    home, key = short_dir / "sources", secrets.token_hex(32)
    home.mkdir(mode=0o700)
    (home / "key").write_text(key)
    front = short_dir / "sources-front"
    front.mkdir()
    outside = PROXY.format(socket=str(home / "s"), key=key, connections=4, timeout=10.0, users=str(users_file))
    inside = HANDLERS.format(home=home) + SERVICE.format(home=str(home), key=key, users=str(users_file))
    with (
        unix_listener(home / "s") as inner,
        tcp_listener() as outer,
        gunicorn(home, inside, listener=inner),
        gunicorn(front, outside, listener=outer) as running,
    ):
        yield home, outer.getsockname()[1], running.log


@pytest.fixture
async def platform(processes: tuple[Path, int, Path]) -> AsyncIterator[Platform]:
    """The whole, with a client on the socket that has every right."""
    home, port, log = processes
    async with AsyncStorageClient(socket=home / "s", api_id="own", api_key=(home / "key").read_text()) as client:
        yield Platform(home, port, log, client)


@pytest.fixture
def api(platform: Platform) -> Api:
    """The API as alice sees it, who may see credentials."""
    return Api(platform, as_user("alice"))


@pytest.mark.parametrize("source", ["alt", "same", "sqlite"])
async def test_a_host_of_a_named_handler_is_a_host(platform: Platform, api: Api, source: str) -> None:
    """What PUT stored with a source is shown, listed once, told of, opened, and a second PUT finds it the same."""
    address = fresh("sourced")
    body = {"ssh_priv_key": KEY, "source": source, "status": "active"}
    status, told = await api("PUT", f"host/{address}", body)

    assert (status, told["source"]) == (201, source)
    assert (await platform.inside.get(Host, address, source=source)).model.source == source
    assert await api("GET", f"host/{address}") == (200, told)
    assert (await api("GET", "hosts/"))[1].count(told) == 1
    assert (await api("GET", f"host/{address}/status"))[1]["host"]["status"] == "active"
    assert (await api("GET", f"host/{address}/creds"))[1]["ssh_priv_key"] == KEY
    assert await api("PUT", f"host/{address}", body) == (200, told)
    assert await api("PUT", f"host/{address}", {"ssh_priv_key": KEY}) == (200, told)
    assert (await api("PUT", f"host/{address}", {"ssh_priv_key": OTHER}))[0] == 409
    assert (await api("PUT", f"host/{address}/creds", {"ssh_priv_key": OTHER}))[0] == 204


@pytest.mark.parametrize("source", ["alt", "same", "sqlite", ""])
async def test_a_host_is_updated_where_it_is(platform: Platform, api: Api, source: str) -> None:
    """PUT with its tag changes it with the handler that keeps it, and puts nothing with another."""
    address = fresh("sourced")
    made = await api.ask("PUT", f"host/{address}", {"ssh_priv_key": KEY, "source": source})
    tag = f"if-match: {made.get('etag')}"

    status, told = await api("PUT", f"host/{address}", {"cpus": 8}, tag)

    assert (status, told["cpus"], told["source"]) == (200, 8, source)
    assert (await platform.inside.get(Host, address, source=source)).model.cpus == 8
    kept = [await platform.inside.get_many(Host, [address], source=place) for place in ("", "alt")]
    assert [record is None for (record,) in kept] == [source == "alt", source != "alt"]
    assert (await api("PUT", f"host/{address}", {"cpus": 9}, tag))[0] == 412


@pytest.mark.parametrize("source", ["alt", "same", "sqlite", ""])
async def test_deleting_a_host_of_a_named_handler_deletes_all_of_it(platform: Platform, api: Api, source: str) -> None:
    """The record goes, wherever it is, with its credentials and memberships; a second time there is none."""
    address, cluster = fresh("sourced"), fresh("cluster")
    await api("PUT", f"cluster/{cluster}", {})
    await api("PUT", f"host/{address}", {"ssh_priv_key": KEY, "source": source, "cluster": cluster})

    assert await api("DELETE", f"host/{address}") == (200, [])
    for place in ("", "alt", "same"):
        assert await platform.inside.get_many(Host, [address], source=place) == [None]
    assert await platform.inside.get_many(HostCreds, [address]) == [None]
    assert (await platform.inside.get(Cluster, cluster)).model.hostset == []
    assert (await api("DELETE", f"host/{address}"))[0] == 404


async def test_a_host_that_lies_twice_is_one(platform: Platform, api: Api) -> None:
    """Of an address that two handlers have, the one for hosts tells; both go with it."""
    address = fresh("sourced")
    await platform.inside.save(Host(address=address, source="alt", cpus=1))
    await platform.inside.save(Host(address=address, cpus=2))

    assert (await api("GET", f"host/{address}"))[1]["cpus"] == 2
    assert [host["cpus"] for host in (await api("GET", "hosts"))[1] if host["address"] == address] == [2]
    assert await api("DELETE", f"host/{address}") == (200, [])
    assert await platform.inside.get_many(Host, [address], source="alt") == [None]


async def test_a_host_of_a_named_handler_joins_and_counts(platform: Platform, api: Api) -> None:
    """It joins clusters by every way, and counts among the available."""
    address, other, cluster = fresh("sourced"), fresh("sourced"), fresh("cluster")
    for each in (address, other):
        await platform.inside.save(Host(address=each, source="alt", status=HostState.ACTIVE))
    await api("PUT", f"cluster/{cluster}", {})

    assert await api("PUT", f"cluster/{cluster}/hosts/{address}") == (200, [address])
    body = {"old": [address], "new": [address, other]}
    assert await api("PUT", f"cluster/{cluster}/hosts", body) == (200, [address, other])
    _, told = await api("GET", f"cluster/{cluster}")
    assert told["hosts"] == {"total": 2, "available": 2, "unavailable": 0}


async def test_a_host_is_not_moved_by_a_put(platform: Platform, api: Api) -> None:
    """A known host that is said to be of another source is 409, and a source that is none 400."""
    address = fresh("sourced")
    await api("PUT", f"host/{address}", {"ssh_priv_key": KEY, "source": "alt"})

    assert (await api("PUT", f"host/{address}", {"ssh_priv_key": KEY, "source": "same"}))[0] == 409
    assert await platform.inside.get_many(Host, [address], source="same") == [None]
    assert (await api("PUT", f"host/{fresh('sourced')}", {"source": "nowhere"}))[0] == 400


async def test_a_damaged_host_can_be_deleted(platform: Platform, api: Api, processes: tuple[Path, int, Path]) -> None:
    """A record that is no valid host any more is told as that, and goes with its credentials."""
    address = fresh("sourced")
    await api("PUT", f"host/{address}", {"ssh_priv_key": KEY, "source": "alt", "os": "fedora"})
    _damage(processes[0] / "alt.db", f"hosts/{address}")

    status, problem = await api("GET", f"host/{address}")
    assert (status, problem["type"]) == (500, "urn:strongroom:problem:malformed-record")
    assert problem["detail"].startswith(f"hosts/{address} holds no valid Host: os ")
    assert await api("DELETE", f"host/{address}") == (200, [])
    assert await platform.inside.get_many(HostCreds, [address]) == [None]
    assert (await api("GET", f"host/{address}"))[0] == 404


def _damage(store: Path, name: str) -> None:
    """Write an operating system that there is not into the record *name*."""
    change = "UPDATE entry SET value = CAST(replace(CAST(value AS TEXT), 'fedora', 'plan9') AS BLOB) WHERE name = ?"
    with closing(sqlite3.connect(store)) as connection, connection:
        assert connection.execute(change, [name]).rowcount == 1

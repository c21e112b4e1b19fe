"""Conditions of requests that change something (RFC 9110 sec. 13): each is looked at, or refused, everywhere."""

import json
from typing import Any

import pytest

from strongroom.http_proxy.openapi import DOCUMENT
from strongroom.models import Cluster, ContainerManagerConfig, Network
from strongroom.storage_service import wire
from tests.proxy.conftest import Platform
from tests.proxy.test_proxy_resources import KEY, Api, fresh
from tests.raw_http import Client, Message, ask, request

CHANGES = {
    told["operationId"]: (
        method.upper(),
        path,
        {ref["$ref"].rpartition("/")[2] for ref in told.get("parameters", ()) if "$ref" in ref},
    )
    for path, item in DOCUMENT["paths"].items()
    for method, told in item.items()
    if method in {"put", "post", "delete", "patch"} and not path.startswith(tuple(wire.PROXIED))
}
"""Every operation that may change something: its method, its path, and which parameters of its own it has.

Those about access have other names and tags: tests/product/test_access_negative.py.
"""

BODIES: dict[str, Any] = {
    "setSecret": {"type": "simple", "value": "x"},
    "getSecrets": {"names": []},
    "addHost": {"address": "{address}", "cpus": 2},
    "putHost": {"cpus": 2},
    "putHostCreds": {"ssh_priv_key": KEY},
    "putCluster": {"container_manager": "b"},
    "replaceClusterHosts": {"old": [], "new": []},
    "startClusterDeploy": {"version": "2"},
    "putNetwork": {"options": {"a": "c"}},
    "putContainerManager": {"options": {"server_url": "https://b"}},
}
"""What is sent with those that take a body."""

IF_MATCH, IF_NONE_MATCH = "if-match", "if-none-match"
OLD = '"1"'  # the tag of a revision that nothing made here is at


class Everything:
    """One record of each kind, and whoever may do anything to it."""

    def __init__(self, platform: Platform, key: Api) -> None:
        self.inside = platform.inside
        self.key = key
        self.names = {name: fresh("if") for name in ("address", "name", "container", "key")}

    async def make(self) -> "Everything":
        """Make them."""
        name, address = self.names["name"], self.names["address"]
        await self.inside.save(Cluster(name=name))
        await self.inside.save(Network(name=name))
        await self.inside.save(ContainerManagerConfig(name=name))
        await self.inside.create_container(self.names["container"])
        await self.inside.set_secret(self.names["container"], self.names["key"], "first")
        assert (await self.key("PUT", f"host/{address}", {"ssh_priv_key": KEY}))[0] == 201
        for word, body in (("deploy", {"version": "1"}), ("restart", {}), ("upgrade", {})):
            assert (await self.key("PUT", f"cluster/{name}/{word}", body))[0] == 201
        return self

    async def do(self, operation: str, *lines: str, names: dict[str, str] | None = None) -> Message:
        """Ask for *operation*, under the conditions in *lines*, of what is here or else of what *names* say."""
        method, path, _ = CHANGES[operation]
        asked = self.names if names is None else names
        body = BODIES.get(operation)
        text = b"" if body is None else json.dumps(body).replace("{address}", asked["address"]).encode()
        target = path.format(**asked) + ("?batch=get" if operation == "getSecrets" else "")
        kind = ["content-type: application/json"] if text else []
        return await ask(self.key.port, request(method, target, *self.key.lines, *kind, *lines, body=text))

    async def seen(self) -> list[object]:
        """Return all that there is of it, to compare."""
        name, address = self.names["name"], self.names["address"]
        found: list[object] = []
        for path in (
            f"host/{address}",
            f"host/{address}/creds",
            f"cluster/{name}",
            f"cluster/{name}/hosts/",
            *(f"cluster/{name}/{word}" for word in ("deploy", "restart", "upgrade")),
            f"network/{name}",
            f"containermanager/{name}",
            f"secrets/{self.names['container']}/",
            f"secrets/{self.names['container']}/{self.names['key']}",
        ):
            answer = await self.key.ask("GET", path)
            found.append((path, answer.status, answer.get("etag"), answer.body))
        return found


@pytest.fixture
async def all_there(platform: Platform) -> Everything:
    """One record of each kind, and an API key that reaches them all."""
    return await Everything(platform, Api(platform, *own_key(platform))).make()


def own_key(platform: Platform) -> tuple[str, str]:
    """Return the lines of the key that has every right."""
    return "custodia-auth-id: own", f"custodia-auth-key: {(platform.home / 'key').read_text()}"


def problem(answer: Message) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["type"].rpartition(":")[2]


EVALUATED = [operation for operation, (_, _, told) in CHANGES.items() if told & {"ifMatch", "ifNoneMatch"}]
REFUSED = [operation for operation in CHANGES if operation not in EVALUATED]


def test_every_operation_that_changes_something_is_tried() -> None:
    """Those of the description, none forgotten; an operation knows both conditions or none."""
    assert len(CHANGES) >= 21
    assert BODIES.keys() <= CHANGES.keys()
    assert all(CHANGES[operation][2] >= {"ifMatch", "ifNoneMatch"} for operation in EVALUATED)
    assert set(REFUSED) == {
        "createContainer",
        "deleteContainer",
        "getSecrets",
        "addClusterHost",
        "removeClusterHost",
    }


@pytest.mark.parametrize("operation", EVALUATED)
async def test_a_condition_that_does_not_hold_stops_it(all_there: Everything, operation: str) -> None:
    """412 for an older tag, and for If-None-Match: * of what is there (409 where it makes); 400 for what is no tag."""
    before = await all_there.seen()

    assert problem(await all_there.do(operation, f"{IF_MATCH}: {OLD}")) == (412, "changed")
    there = problem(await all_there.do(operation, f"{IF_NONE_MATCH}: *"))
    makes = CHANGES[operation][0] == "PUT" and operation != "replaceClusterHosts"
    assert there == ((409, "exists") if makes else (412, "changed"))
    assert problem(await all_there.do(operation, f"{IF_MATCH}: {OLD}", f"{IF_NONE_MATCH}: *")) == (412, "changed")
    for wrong in (f"{IF_MATCH}: red", f'{IF_MATCH}: W/"1"', f'{IF_NONE_MATCH}: "1"'):
        assert problem(await all_there.do(operation, wrong)) == (400, "invalid")

    assert await all_there.seen() == before


@pytest.mark.parametrize("operation", EVALUATED)
async def test_a_condition_that_holds_lets_it_be_done(all_there: Everything, operation: str) -> None:
    """Of what is there, the present tag and any; of what is not there, a DELETE is 404 whatever it expects.

    A secret is its own contract's: a tag of one that is not there is 412.
    """
    _, path, _ = CHANGES[operation]
    names = all_there.names
    if CHANGES[operation][0] == "DELETE":
        nothing = {**names, "address": fresh("no"), "name": fresh("no"), "key": fresh("no")}
        assert problem(await all_there.do(operation, f"{IF_NONE_MATCH}: *", names=nothing)) == (404, "not-found")
        for condition in (f"{IF_MATCH}: *", f"{IF_MATCH}: {OLD}") if operation != "deleteSecret" else ():
            assert problem(await all_there.do(operation, condition, names=nothing)) == (404, "not-found")
    shown = path.format(**names).removeprefix("/api/v0/") + (names["address"] if operation == "addHost" else "")
    tag = (await all_there.key.ask("GET", shown)).get("etag")
    assert tag is not None

    assert (await all_there.do(operation, f"{IF_MATCH}: {tag}")).status in {200, 201, 204}
    again = await all_there.do(operation, f"{IF_MATCH}: *")
    assert again.status in ({404} if CHANGES[operation][0] == "DELETE" else {200, 201, 204})


@pytest.mark.parametrize("operation", REFUSED)
async def test_a_condition_that_is_not_looked_at_is_refused(all_there: Everything, operation: str) -> None:
    """Where there is no tag that it could name, it is 400 and says so, and nothing is done."""
    before = await all_there.seen()

    for condition in (f"{IF_MATCH}: *", f"{IF_MATCH}: {OLD}", f"{IF_NONE_MATCH}: *", f"{IF_NONE_MATCH}: x"):
        answer = await all_there.do(operation, condition)
        assert problem(answer) == (400, "invalid")
        assert "If-Match" in json.loads(answer.body)["detail"]
    assert await all_there.seen() == before


@pytest.mark.parametrize("operation", ["deleteHost", "deleteNetwork", "deleteSecret", "deleteContainer", "putCluster"])
async def test_a_date_is_no_condition(all_there: Everything, operation: str) -> None:
    """No answer has Last-Modified, and of what has no date a date must be passed over (RFC 9110 sec. 13.1.4)."""
    if operation == "deleteContainer":
        await all_there.do("deleteSecret")

    dates = [f"{name}: Thu, 01 Jan 1970 00:00:00 GMT" for name in ("if-unmodified-since", "if-modified-since")]
    assert (await all_there.do(operation, *dates)).status in {200, 204}


async def test_two_lines_of_one_condition_are_refused(all_there: Everything) -> None:
    """Neither of two tags is taken for the one that was meant."""
    before = await all_there.seen()
    for operation in CHANGES:
        assert (await all_there.do(operation, f"{IF_MATCH}: *", f"{IF_MATCH}: *")).status == 400
    assert await all_there.seen() == before


@pytest.mark.parametrize("condition", [f"{IF_MATCH}: *", f"{IF_NONE_MATCH}: *"])
async def test_the_socket_refuses_what_it_does_not_look_at(platform: Platform, condition: str) -> None:
    """Verbs over records have their tags in the body: with a condition in the head it is 400, and nothing is saved."""
    name = fresh("if")
    key = own_key(platform)
    said = json.dumps({"model": "Network", "records": [{"name": name}]}).encode()

    async def save(*lines: str) -> Message:
        async with await Client.at(platform.home / "s") as client:
            return await client.ask(request("POST", "/storage/save", *key, *lines, body=said))

    assert problem(await save(condition)) == (400, "invalid")
    assert await platform.inside.get_many(Network, [name]) == [None]
    assert (await save()).status == 200

"""Commissaire's REST paths, through the real proxy to the real service."""

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest

from strongroom.models import Cluster, ClusterRestart, Clusters, ContainerManagerCreds, Host, HostCreds, HostState
from strongroom.models.secret import Secret
from strongroom.storage_service.client import IssuedKey
from strongroom.storage_service.errors import NotFound
from tests.audit_lines import audit_lines
from tests.proxy.conftest import PASSWORD, Platform
from tests.raw_http import Message, ask, request

KEY = base64.b64encode(b"-----BEGIN OPENSSH PRIVATE KEY-----\ncanary-8f3a\n").decode()
OTHER = base64.b64encode(b"another").decode()


def fresh(kind: str) -> str:
    """Return a name that no other test uses."""
    return f"{kind}-{secrets.token_hex(4)}"


def as_user(name: str) -> str:
    return f"authorization: Basic {base64.b64encode(f'{name}:{PASSWORD}'.encode()).decode()}"


class Api:
    """The API as one caller sees it."""

    def __init__(self, platform: Platform, *lines: str) -> None:
        self.port = platform.port
        self.lines = lines

    async def ask(self, method: str, path: str, body: object = None, *lines: str) -> Message:
        text = b"" if body is None else json.dumps(body).encode()
        return await ask(self.port, request(method, f"/api/v0/{path}", *self.lines, *lines, body=text))

    async def __call__(self, method: str, path: str, body: object = None, *lines: str) -> tuple[int, Any]:
        answer = await self.ask(method, path, body, *lines)
        return answer.status, json.loads(answer.body) if answer.body else None


def as_key(key: IssuedKey) -> tuple[str, str]:
    return f"custodia-auth-id: {key.api_id}", f"custodia-auth-key: {key.api_key.reveal()}"


@pytest.fixture
def api(platform: Platform) -> Api:
    """The API as alice sees it, who may see credentials."""
    return Api(platform, as_user("alice"))


@pytest.fixture
async def narrow_key(platform: Platform) -> AsyncIterator[IssuedKey]:
    """An API key of the service that reaches hosts, and no secrets."""
    key = await platform.inside.create_apikey(fresh("narrow"), paths=["/hosts"])
    yield key
    await platform.inside.revoke_apikey(key.api_id)


async def test_a_host_and_its_credentials_part_ways(platform: Platform, api: Api) -> None:
    """PUT stores two records; the one that is shown holds nothing that opens the host."""
    address = fresh("host")
    status, told = await api("PUT", f"host/{address}", {"ssh_priv_key": KEY, "remote_user": "core"})

    assert (status, told["address"]) == (201, address)
    assert set(told) == {"address", "status", "os", "cpus", "memory", "space", "last_check", "source"}
    creds = (await platform.inside.get(HostCreds, address)).model
    assert (creds.ssh_priv_key.reveal(), creds.remote_user) == (KEY, "core")
    assert await api("GET", f"host/{address}") == (200, told)
    assert told in (await api("GET", "hosts/"))[1]


async def test_credentials_never_reach_store_or_log_in_the_clear(platform: Platform, api: Api) -> None:
    """Neither the key nor its base64 is anywhere on the disk, nor in a log at its most talkative."""
    address = fresh("host")
    await api("PUT", f"host/{address}", {"ssh_priv_key": KEY})
    await api("GET", f"host/{address}/creds")

    kept = b"".join(path.read_bytes() for path in [*platform.home.rglob("*"), platform.log] if path.is_file())
    assert address.encode() in kept
    for secret in (KEY.encode(), KEY.encode()[20:40], b"canary-8f3a", PASSWORD.encode()):
        assert secret not in kept


@pytest.mark.parametrize("slash", ["", "/"])
async def test_a_trailing_slash_may_be_left_out(api: Api, slash: str) -> None:
    """Commissaire's clients write it, others need not."""
    address = fresh("host")
    assert (await api("PUT", f"host/{address}{slash}", {"ssh_priv_key": KEY}))[0] == 201
    for path in (f"host/{address}", f"host/{address}/status", f"host/{address}/creds", "hosts", "clusters", "networks"):
        assert (await api("GET", path + slash))[0] == 200
    assert (await api("GET", slash or ""))[0] in {200, 400}


async def test_an_address_may_stand_in_the_body(api: Api) -> None:
    """PUT /host/ takes it from there, and without it there is no host to add."""
    address = fresh("host")
    assert (await api("PUT", "host/", {"address": address}))[0] == 201
    status, problem = await api("PUT", "host/", {})
    assert status == 400
    assert [fault["field"] for fault in problem["errors"]] == ["address"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("host/{0}", {"address": "another"}),
        ("cluster/{0}", {"name": "another"}),
        ("network/{0}", {"name": "another"}),
        ("containermanager/{0}", {"name": "another"}),
        ("cluster/{0}/deploy", {"name": "another", "version": "7"}),
        ("host/{0}/creds", {"address": "another", "ssh_priv_key": KEY}),
    ],
)
async def test_the_path_wins_over_the_body(api: Api, path: str, body: dict[str, str]) -> None:
    """A body that means another record is refused, not obeyed."""
    status, problem = await api("PUT", path.format(fresh("x")), body)

    assert status == 400
    assert "another" not in json.dumps(problem)
    assert len(problem["errors"]) == 1


async def test_a_whole_number_is_one_however_it_is_written(platform: Platform, api: Api) -> None:
    """8.0 is 8, as JSON and the description have it; 8.5, and what is over 64 bits, is not a whole number."""
    address = fresh("host")
    assert (await api("PUT", f"host/{address}", {"cpus": 8.0}))[0] == 201
    assert repr((await platform.inside.get(Host, address)).model.cpus) == "8"
    for wrong in (8.5, 1e300, True):
        status, problem = await api("PUT", f"host/{fresh('host')}", {"cpus": wrong})
        assert (status, [fault["field"] for fault in problem["errors"]]) == (400, ["cpus"])


async def test_a_cluster_takes_no_host_that_cannot_be(platform: Platform, api: Api) -> None:
    """What is not an address is 400; a cluster that has such a one, from the socket, is shown all the same."""
    name = fresh("cluster")
    status, problem = await api("PUT", f"cluster/{name}", {"hostset": ["10.0.0.1", "a b"]})
    assert (status, [fault["field"] for fault in problem["errors"]]) == (400, ["hostset"])

    await platform.inside.save(Cluster(name=name, hostset=["", "a b"]))
    status, told = await api("GET", f"cluster/{name}")
    assert (status, told["hosts"]) == (200, {"total": 2, "available": 0, "unavailable": 2})
    assert (await api("PUT", f"cluster/{name}/hosts/", {"old": ["", "a b"], "new": [".."]}))[0] == 400
    assert (await api("PUT", f"cluster/{name}/hosts/", {"old": ["", "a b"], "new": []}))[0] == 200


BAD_HOSTS: dict[str, tuple[Any, list[str]]] = {
    "an unknown field": ({"colour": "red"}, ["(unknown)"]),
    "a wrong type": ({"cpus": "many"}, ["cpus"]),
    "an unknown status": ({"status": "sleepy"}, ["status"]),
    "a key that is no base64": ({"ssh_priv_key": "-----BEGIN"}, ["ssh_priv_key"]),
    "a key that is no text": ({"ssh_priv_key": {"a": "b"}}, ["ssh_priv_key"]),
    "a cluster that is no text": ({"cluster": ["a"]}, ["cluster"]),
}


@pytest.mark.parametrize("story", BAD_HOSTS)
async def test_a_host_that_breaks_the_rules_is_400(platform: Platform, api: Api, story: str) -> None:
    """Every fault is told by its field, no value is repeated, and nothing is stored."""
    address = fresh("host")
    body, fields = BAD_HOSTS[story]
    status, problem = await api("PUT", f"host/{address}", body)

    assert status == 400
    assert [fault["field"] for fault in problem["errors"]] == fields
    for value in ("red", "many", "sleepy", "BEGIN"):
        assert value not in json.dumps(problem)
    assert await platform.inside.get_many(Host, [address]) == [None]
    assert await platform.inside.get_many(HostCreds, [address]) == [None]


async def test_a_known_host_is_shown_if_it_is_the_same(api: Api) -> None:
    """200 for the same key, 409 for another, 409 for a cluster that it is not in."""
    address, cluster = fresh("host"), fresh("cluster")
    await api("PUT", f"cluster/{cluster}", {})
    assert (await api("PUT", f"host/{address}", {"ssh_priv_key": KEY, "cluster": cluster}))[0] == 201
    assert (await api("PUT", f"host/{address}", {"ssh_priv_key": KEY, "cluster": cluster}))[0] == 200
    assert (await api("PUT", f"host/{address}", {"ssh_priv_key": KEY}))[0] == 200
    assert (await api("PUT", f"host/{address}", {"ssh_priv_key": OTHER}))[0] == 409
    assert (await api("PUT", f"host/{address}", {"ssh_priv_key": KEY, "cluster": fresh("cluster")}))[0] == 409
    assert await api("GET", f"cluster/{cluster}/hosts/") == (200, [address])


async def test_a_host_does_not_join_a_cluster_that_is_not(platform: Platform, api: Api) -> None:
    """409, and nothing of the host is kept."""
    address = fresh("host")
    status, problem = await api("PUT", f"host/{address}", {"ssh_priv_key": KEY, "cluster": fresh("cluster")})

    assert (status, problem["detail"]) == (409, "There is no such cluster to join")
    assert await platform.inside.get_many(HostCreds, [address]) == [None]


async def test_deleting_a_host_deletes_what_opens_it(platform: Platform, api: Api) -> None:
    """The record, its credentials and its place in clusters go together; a second time there is none."""
    address, cluster = fresh("host"), fresh("cluster")
    await api("PUT", f"cluster/{cluster}", {})
    await api("PUT", f"host/{address}", {"ssh_priv_key": KEY, "cluster": cluster})

    assert await api("DELETE", f"host/{address}/") == (200, [])
    assert await platform.inside.get_many(HostCreds, [address]) == [None]
    assert await api("GET", f"cluster/{cluster}/hosts/") == (200, [])
    for method, path in (("GET", ""), ("GET", "/creds"), ("GET", "/status"), ("DELETE", "")):
        assert (await api(method, f"host/{address}{path}"))[0] == 404


async def test_credentials_that_cannot_be_deleted_are_not_passed_over(
    platform: Platform, api: Api, narrow_key: IssuedKey
) -> None:
    """A caller whose key does not reach the secret is told so, and the host stays where it is."""
    address = fresh("host")
    await api("PUT", f"host/{address}", {"ssh_priv_key": KEY})
    caller = Api(platform, *as_key(narrow_key))

    assert (await caller("DELETE", f"host/{address}"))[0] == 403
    assert (await api("GET", f"host/{address}"))[0] == 200
    assert (await api("GET", f"host/{address}/creds"))[0] == 200


async def test_credentials_are_for_those_who_may_see_them(platform: Platform, api: Api, narrow_key: IssuedKey) -> None:
    """A user needs the flag; of an API key, the service decides by what it reaches."""
    address = fresh("host")
    await api("PUT", f"host/{address}", {"ssh_priv_key": KEY})
    wide = await platform.inside.create_apikey(fresh("wide"), paths=["/secrets", "/hosts"])
    callers = {
        "alice": Api(platform, as_user("alice")),
        "bob": Api(platform, as_user("bob")),
        "narrow": Api(
            platform, f"CUSTODIA_AUTH_ID: {narrow_key.api_id}", f"CUSTODIA_AUTH_KEY: {narrow_key.api_key.reveal()}"
        ),
        "wide": Api(platform, f"custodia-auth-id: {wide.api_id}", f"custodia-key-id: {wide.api_key.reveal()}"),
    }
    for name, status in {"alice": 200, "bob": 403, "narrow": 403, "wide": 200}.items():
        assert (await callers[name]("GET", f"host/{address}"))[0] == 200
        told = await callers[name].ask("GET", f"host/{address}/creds")
        assert (name, told.status, KEY.encode() in told.body) == (name, status, status == 200)
        assert told.get("cache-control") == "no-store"
        assert (await callers[name]("PUT", f"host/{address}/creds", {"ssh_priv_key": KEY}))[0] == (
            204 if status == 200 else 403
        )


async def test_changed_credentials_can_be_saved(platform: Platform, api: Api) -> None:
    """Replacing them works, and with If-Match only for those who saw the last ones."""
    address = fresh("host")
    assert (await api("PUT", f"host/{address}/creds", {"ssh_priv_key": KEY}))[0] == 404
    await api("PUT", f"host/{address}", {"ssh_priv_key": KEY})
    etag = (await api.ask("GET", f"host/{address}/creds")).get("etag")

    assert (await api("PUT", f"host/{address}/creds", {"ssh_priv_key": OTHER}, f"if-match: {etag}"))[0] == 204
    assert (await api("PUT", f"host/{address}/creds", {"ssh_priv_key": KEY}, f"if-match: {etag}"))[0] == 412
    assert (await api("GET", f"host/{address}/creds"))[1]["ssh_priv_key"] == OTHER


async def secrets_read(platform: Platform, request_id: str) -> list[str]:
    """Return the names below ``secrets/`` that were read in a request, by the audit log."""
    lines = audit_lines(platform.home / "audit.log")
    return [
        line["name"]
        for line in lines
        if (line["request"], line["action"], line["decision"]) == (request_id, "get", "allowed")
        and line["name"].startswith("secrets/")
    ]


GUESSES: dict[str, Any] = {
    "a wrong one": OTHER,
    "the right one": KEY,
    "an empty one": "",
}


@pytest.mark.parametrize("story", GUESSES)
async def test_no_answer_tells_whether_a_guess_is_the_key(platform: Platform, api: Api, story: str) -> None:
    """A user who may not see credentials hears of a known host the same whatever key he says, and nothing is read."""
    address, cluster = fresh("host"), fresh("cluster")
    await api("PUT", f"cluster/{cluster}", {})
    await api("PUT", f"host/{address}", {"ssh_priv_key": KEY, "remote_user": "core", "cluster": cluster})
    bob = Api(platform, as_user("bob"))
    asked = fresh("guessing-request")
    for body in (
        {"ssh_priv_key": GUESSES[story]},
        {"ssh_priv_key": GUESSES[story], "remote_user": "core"},
        {"ssh_priv_key": GUESSES[story], "cluster": cluster},
    ):
        for path in (f"host/{address}", "host"):
            status, problem = await bob("PUT", path, {"address": address, **body}, f"x-request-id: {asked}")
            assert (status, problem["detail"]) == (409, "The host is known; send it without credentials to see it")
    assert (await bob("PUT", f"host/{address}", {"remote_user": "core"}, f"x-request-id: {asked}"))[0] == 409

    assert await secrets_read(platform, asked) == []
    creds = (await platform.inside.get(HostCreds, address)).model
    assert (creds.ssh_priv_key.reveal(), creds.remote_user) == (KEY, "core")


async def test_who_may_not_see_credentials_adds_hosts_all_the_same(platform: Platform, api: Api) -> None:
    """A user without the flag adds one, sees a known one, ends a PUT that failed half-way, and reads no credentials."""
    bob = Api(platform, as_user("bob"))
    address, half, cluster = fresh("host"), fresh("host"), fresh("cluster")
    await api("PUT", f"cluster/{cluster}", {})
    asked = fresh("adding-request")

    async def put(name: str, **body: object) -> int:
        return (await bob("PUT", f"host/{name}", body, f"x-request-id: {asked}"))[0]

    assert await put(address, ssh_priv_key=KEY, cluster=cluster) == 201
    assert await put(address) == 200
    assert await put(address, cluster=cluster) == 200
    other = fresh("cluster")
    await api("PUT", f"cluster/{other}", {})
    assert await put(address, cluster=other) == 409
    assert await put(address, cluster=fresh("cluster")) == 409
    await platform.inside.save(Host(address=half))
    assert await put(half, ssh_priv_key=KEY, cluster=fresh("cluster")) == 409
    assert await put(half, ssh_priv_key=KEY, cluster=cluster) == 201

    assert await secrets_read(platform, asked) == []
    assert await api("GET", f"cluster/{cluster}/hosts/") == (200, [address, half])
    for name in (address, half):
        assert (await platform.inside.get(HostCreds, name)).model.ssh_priv_key.reveal() == KEY


@pytest.mark.parametrize("password", ["hunter7", "wrong", ""])
async def test_no_answer_tells_whether_a_guess_opens_a_container_manager(
    platform: Platform, api: Api, password: str
) -> None:
    """A user who may not see credentials hears the same whatever password he says, and nothing is read."""
    name = fresh("manager")
    plain = {"server_url": "https://cm.example"}

    def saying(**credentials: str) -> dict[str, object]:
        return {"type": "openshift", "options": {**plain, **credentials}}

    await api("PUT", f"containermanager/{name}", saying(username="admin", password="hunter7"))
    bob, asked = Api(platform, as_user("bob")), fresh("guessing-request")
    line = f"x-request-id: {asked}"
    for guess in (saying(username="admin", password=password), saying(password=password), saying(token=password)):
        status, problem = await bob("PUT", f"containermanager/{name}", guess, line)
        assert (status, problem["detail"].partition(";")[0]) == (409, "There is a container manager of that name")
    assert (await bob("PUT", f"containermanager/{name}", saying(), line))[0] == 200
    assert (await bob("PUT", f"containermanager/{name}", {"options": {"server_url": "https://x"}}, line))[0] == 409

    assert await secrets_read(platform, asked) == []
    assert (await api("PUT", f"containermanager/{name}", saying(username="admin", password="hunter7")))[0] == 200


async def test_a_key_that_reads_the_secret_may_say_it_again(platform: Platform, api: Api) -> None:
    """An API key that reaches the credentials sends the same PUT twice and hears 200; another credential is 409."""
    paths = ["/hosts", "/container_managers", "/secrets/hosts", "/secrets/container_managers"]
    key = Api(platform, *as_key(await platform.inside.create_apikey(fresh("wide"), paths=paths)))
    host, manager = fresh("host"), fresh("manager")
    for status in (201, 200):
        assert (await key("PUT", f"host/{host}", {"ssh_priv_key": KEY}))[0] == status
        assert (await key("PUT", f"containermanager/{manager}", {"options": {"token": "t"}}))[0] == status
    assert (await key("PUT", f"host/{host}", {"ssh_priv_key": OTHER}))[0] == 409
    assert (await key("PUT", f"containermanager/{manager}", {"options": {"token": "u"}}))[0] == 409


JUNK = {
    "no base64": "not base64, but junk-7d1c!",
    "no record": base64.b64encode(b'{"canary": "junk-7d1c"}').decode(),
    "another host's": base64.b64encode(b'{"address": "junk-7d1c"}').decode(),
}


@pytest.mark.parametrize("story", JUNK)
async def test_what_is_no_record_is_named(platform: Platform, api: Api, story: str) -> None:
    """Junk where credentials should be is told by its name, nothing of it is repeated, and it can be removed."""
    address = fresh("host")
    await api("PUT", f"host/{address}", {"ssh_priv_key": KEY})
    await platform.inside.set_secret("hosts", address, JUNK[story], etag="*")

    for method, path, body in (("GET", "/creds", None), ("PUT", "", {"ssh_priv_key": KEY})):
        answer = await api.ask(method, f"host/{address}{path}", body)
        problem = json.loads(answer.body)
        assert (answer.status, problem["type"]) == (500, "urn:strongroom:problem:malformed-record")
        assert problem["detail"].startswith(f"secrets/hosts/{address} holds no valid HostCreds: ")
        assert b"junk-7d1c" not in answer.body
        assert JUNK[story].encode() not in answer.body
    assert (await api("PUT", f"host/{address}/creds", {"ssh_priv_key": KEY}))[0] == 204
    assert (await api("GET", f"host/{address}/creds"))[1]["ssh_priv_key"] == KEY


async def test_a_delete_of_what_is_no_host_destroys_nothing(platform: Platform, api: Api) -> None:
    """Where there is no host, DELETE is 404, and credentials and memberships of that address stay."""
    address, cluster = fresh("host"), fresh("cluster")
    await platform.inside.save(HostCreds(address=address, remote_user="core"))
    await platform.inside.save(Cluster(name=cluster, hostset=[address]))

    assert (await api("DELETE", f"host/{address}"))[0] == 404
    assert (await platform.inside.get(HostCreds, address)).model.remote_user == "core"
    assert (await platform.inside.get(Cluster, cluster)).model.hostset == [address]


async def test_a_delete_of_any_other_that_is_none_destroys_nothing(platform: Platform, api: Api) -> None:
    """Nor is what belongs to a container manager or a cluster removed where there is none of that name."""
    name = fresh("gone")
    await platform.inside.save(ContainerManagerCreds(name=name, token=Secret("t0ken")))
    await platform.inside.save(ClusterRestart(name=name))

    for kind in ("containermanager", "cluster"):
        assert (await api("DELETE", f"{kind}/{name}"))[0] == 404
    assert (await platform.inside.get(ContainerManagerCreds, name)).model.token.reveal() == "t0ken"
    assert (await platform.inside.get(ClusterRestart, name)).model.name == name


async def test_a_hosts_status_is_made_of_its_record(platform: Platform, api: Api) -> None:
    """The document has Commissaire's shape."""
    address = fresh("host")
    await api("PUT", f"host/{address}", {})
    await platform.inside.save(Host(address=address, status=HostState.ACTIVE, last_check="now"))

    assert await api("GET", f"host/{address}/status") == (
        200,
        {"type": "host_only", "host": {"last_check": "now", "status": "active"}, "container_manager": {}},
    )


async def test_a_cluster_tells_how_it_is(platform: Platform, api: Api) -> None:
    """Counts and status are made from the hosts when asked; members are not part of the record shown."""
    name = fresh("cluster")
    assert (await api("GET", f"cluster/{name}"))[0] == 404
    status, told = await api("PUT", f"cluster/{name}", {"container_manager": "cm"})
    assert (status, told["container_manager"], "hostset" in told) == (201, "cm", False)
    assert name in (await api("GET", "clusters/"))[1]

    async def is_now(*states: HostState) -> tuple[str, dict[str, int]]:
        hosts = [Host(address=fresh("host"), status=state) for state in states]
        if hosts:
            await platform.inside.save_many(hosts)
        await platform.inside.save(Cluster(name=name, hostset=[host.address for host in hosts]))
        _, seen = await api("GET", f"cluster/{name}")
        return seen["status"], seen["hosts"]

    assert await is_now() == ("ok", {"total": 0, "available": 0, "unavailable": 0})
    assert await is_now(HostState.ACTIVE) == ("ok", {"total": 1, "available": 1, "unavailable": 0})
    assert await is_now(HostState.ACTIVE, HostState.FAILED) == (
        "degraded",
        {"total": 2, "available": 1, "unavailable": 1},
    )
    assert await is_now(HostState.FAILED) == ("failed", {"total": 1, "available": 0, "unavailable": 1})


async def test_putting_a_cluster_again_keeps_its_hosts(platform: Platform, api: Api) -> None:
    """What the body does not say does not change."""
    name = fresh("cluster")
    await platform.inside.save(Cluster(name=name, hostset=["a", "b"], container_manager="cm"))

    status, told = await api("PUT", f"cluster/{name}", {"network": "no-such-network"})
    assert (status, told["container_manager"], told["network"]) == (200, "cm", "default")
    assert await api("GET", f"cluster/{name}/hosts") == (200, ["a", "b"])
    await api("PUT", f"cluster/{name}", {"hostset": ["a"]})
    assert await api("GET", f"cluster/{name}/hosts") == (200, ["a"])


async def test_members_come_and_go(platform: Platform, api: Api) -> None:
    """One by one, or all at once if the caller knows who was there."""
    name = fresh("cluster")
    active, failed, member = (fresh("host") for _ in range(3))
    await platform.inside.save_many(
        [Host(address=active, status=HostState.ACTIVE), Host(address=failed, status=HostState.FAILED)]
    )
    await platform.inside.save(Cluster(name=name, hostset=[member]))
    hosts = f"cluster/{name}/hosts"

    assert (await api("GET", f"{hosts}/{active}"))[0] == 404
    for _ in range(2):
        assert await api("PUT", f"{hosts}/{active}") == (200, [member, active])
    assert await api("GET", f"{hosts}/{active}") == (200, [active])
    assert (await api("PUT", f"{hosts}/{fresh('host')}"))[0] == 404
    for _ in range(2):
        assert await api("DELETE", f"{hosts}/{active}") == (200, [])
    assert await api("GET", hosts) == (200, [member])

    assert (await api("PUT", hosts, {"old": [member]}))[0] == 400
    assert (await api("PUT", hosts, {"old": [member], "new": "all"}))[0] == 400
    assert (await api("PUT", hosts, {"old": [], "new": [active]}))[0] == 409
    assert (await api("PUT", hosts, {"old": [], "new": [failed]}))[0] == 409  # whoever is to join
    assert (await api("PUT", hosts, {"old": [], "new": [fresh("host")]}))[0] == 409
    assert (await api("PUT", hosts, {"old": [member], "new": [failed]}))[0] == 405
    assert (await api("PUT", hosts, {"old": [member], "new": [fresh("host")]}))[0] == 404
    assert await api("PUT", hosts, {"old": [member], "new": [member, active]}) == (200, [member, active])


@pytest.mark.parametrize("path", ["", "/hosts", "/hosts/h", "/deploy", "/restart", "/upgrade"])
async def test_a_cluster_that_is_not_is_404(api: Api, path: str) -> None:
    """Wherever it is asked for."""
    assert (await api("GET", f"cluster/{fresh('cluster')}{path}"))[0] == 404


async def test_what_contradicts_the_records_says_so(platform: Platform, api: Api) -> None:
    """A 409 of the proxy's own has a type and its reason; its 405 says, too, what else may be asked there."""
    name, failed = fresh("cluster"), fresh("host")
    await platform.inside.save(Host(address=failed, status=HostState.FAILED))
    await api("PUT", f"cluster/{name}", {})
    await api("PUT", f"network/{name}", {"options": {"a": "b"}})

    status, problem = await api("PUT", f"network/{name}", {"options": {"a": "c"}})
    assert (status, problem["type"]) == (409, "urn:strongroom:problem:contradicted")
    assert problem["detail"] == "There is another network of that name; send If-Match to change it"

    answer = await api.ask("PUT", f"cluster/{name}/hosts", {"old": [], "new": [failed]})
    problem = json.loads(answer.body)
    assert (answer.status, problem["type"]) == (405, "urn:strongroom:problem:method-not-allowed")
    assert problem["detail"] == "A host joins a cluster when it is active or disassociated"
    assert answer.get("allow") == "GET, HEAD, OPTIONS"


async def test_no_change_of_membership_is_lost(platform: Platform, api: Api) -> None:
    """Forty hosts that join and leave at the same time all get their way."""
    name = fresh("cluster")
    leaving, joining = ([fresh("host") for _ in range(20)] for _ in range(2))
    await platform.inside.save_many([Host(address=address) for address in joining])
    await platform.inside.save(Cluster(name=name, hostset=leaving))

    told = await asyncio.gather(
        *(api("DELETE", f"cluster/{name}/hosts/{address}") for address in leaving),
        *(api("PUT", f"cluster/{name}/hosts/{address}") for address in joining),
    )

    assert {status for status, _ in told} == {200}
    assert set((await platform.inside.get(Cluster, name)).model.hostset) == set(joining)


@pytest.mark.parametrize(
    ("word", "body", "done"),
    [("deploy", {"version": "7.2"}, "deployed"), ("restart", None, "restarted"), ("upgrade", {}, "upgraded")],
)
async def test_an_operation_is_written_down(api: Api, word: str, body: object, done: str) -> None:
    """Its record says that it began; the rest is the platform's."""
    name = fresh("cluster")
    assert (await api("PUT", f"cluster/{name}/{word}", body))[0] == 404
    await api("PUT", f"cluster/{name}", {})
    assert (await api("GET", f"cluster/{name}/{word}"))[0] == 404
    status, told = await api("PUT", f"cluster/{name}/{word}", body)

    assert (status, told["name"], told["status"], told[done], told["finished_at"]) == (201, name, "in_process", [], "")
    assert told["started_at"]
    assert await api("GET", f"cluster/{name}/{word}") == (200, told)
    assert await api("DELETE", f"cluster/{name}") == (200, [])
    assert (await api("GET", f"cluster/{name}/{word}"))[0] == 404


async def test_a_deployment_needs_a_version(api: Api) -> None:
    """Without one there is nothing to deploy."""
    name = fresh("cluster")
    await api("PUT", f"cluster/{name}", {})
    status, problem = await api("PUT", f"cluster/{name}/deploy", {})
    assert (status, [fault["field"] for fault in problem["errors"]]) == (400, ["version"])


async def test_a_network_is_made_once(api: Api) -> None:
    """The same again is shown, another is a conflict."""
    name = fresh("network")
    body = {"type": "flannel_server", "options": {"address": "10.1.1.1"}}
    status, told = await api("PUT", f"network/{name}", body)
    assert (status, told) == (201, {"name": name, **body})
    assert await api("PUT", f"network/{name}/", body) == (200, told)
    assert (await api("PUT", f"network/{name}", {}))[0] == 409
    assert await api("GET", f"network/{name}") == (200, told)
    assert name in (await api("GET", "networks/"))[1]
    assert (await api("PUT", f"network/{fresh('network')}", {"type": "carrier-pigeon"}))[0] == 400
    assert await api("DELETE", f"network/{name}") == (200, [])
    assert (await api("DELETE", f"network/{name}"))[0] == 404


async def test_what_opens_a_container_manager_is_kept_apart(platform: Platform, api: Api) -> None:
    """Token and key go to the secret twin and are never shown; the plain record keeps the rest."""
    name = fresh("manager")
    opens = {"token": "t0ken", "certificate_key": "pem"}
    body = {"type": "openshift", "options": {"server_url": "https://cm.example", **opens}}
    status, told = await api("PUT", f"containermanager/{name}", body)

    assert (status, told["options"]) == (201, {"server_url": "https://cm.example"})
    creds = (await platform.inside.get(ContainerManagerCreds, name)).model
    assert (creds.token.reveal(), creds.certificate_key.reveal()) == ("t0ken", "pem")
    assert await api("GET", f"containermanager/{name}") == (200, told)
    assert name in (await api("GET", "containermanagers/"))[1]
    assert await api("PUT", f"containermanager/{name}", body) == (200, told)
    body["options"]["token"] = "another"  # type: ignore[index]  # it is the dict of two lines above
    assert (await api("PUT", f"containermanager/{name}", body))[0] == 409
    assert (await api("PUT", f"containermanager/{name}", {}))[0] == 409

    assert await api("DELETE", f"containermanager/{name}") == (200, [])
    with pytest.raises(NotFound):
        await platform.inside.get(ContainerManagerCreds, name)
    assert (await api("GET", f"containermanager/{name}"))[0] == 404


@pytest.mark.parametrize("options", [{"apiKey": "x"}, {"nested": {"password": "x"}}, {"url": "https://a:b@c"}, "text"])
async def test_options_that_hide_a_secret_are_refused(api: Api, options: object) -> None:
    """What cannot be kept apart by its name is not kept in the clear."""
    status, problem = await api("PUT", f"containermanager/{fresh('manager')}", {"options": options})

    assert (status, [fault["field"] for fault in problem["errors"]]) == (400, ["options"])


BODIES = {
    "a list": b"[]",
    "no JSON": b"{",
    "a member twice": b'{"a": 1, "a": 2}',
    "too deep": b'{"options": ' + b"[" * 40 + b"]" * 40 + b"}",
    "no UTF-8": b'{"a": "\xff"}',
}


@pytest.mark.parametrize("story", BODIES)
async def test_a_body_is_a_plain_object(platform: Platform, story: str) -> None:
    """What two parsers could read in two ways is not read at all."""
    sent = request("PUT", f"/api/v0/network/{fresh('network')}", as_user("alice"), body=BODIES[story])
    assert (await ask(platform.port, sent)).status == 400


async def test_a_body_that_is_too_long_is_413(platform: Platform) -> None:
    """Before it is read."""
    sent = request("PUT", "/api/v0/network/n", as_user("alice"), "content-length: 10485761")
    assert (await ask(platform.port, sent)).status == 413


async def test_the_service_decides_for_api_keys(platform: Platform, narrow_key: IssuedKey) -> None:
    """A key that reaches hosts reaches no clusters here either."""
    caller = Api(platform, *as_key(narrow_key))
    address = fresh("host")
    await platform.inside.save(Host(address=address))

    assert (await caller("GET", f"host/{address}"))[0] == 200
    assert (await caller("GET", "clusters/"))[0] == 403
    assert (await caller("PUT", f"cluster/{fresh('cluster')}", {}))[0] == 403


async def test_the_audit_log_knows_on_whose_behalf(platform: Platform, api: Api) -> None:
    """What the proxy does with its own key is written down as done for the user, under the request's id."""
    identifier = fresh("audited-request")
    await api("GET", "hosts/", None, f"x-request-id: {identifier}")

    lines = [line for line in (platform.home / "audit.log").read_text().splitlines() if identifier in line]
    assert lines
    assert all("user:alice" in line for line in lines)


async def test_secrets_pass_with_the_services_own_credentials(platform: Platform) -> None:
    """Custodia's contract, end to end: what a client of the proxy sees of containers, secrets, tags and batches."""
    key = await platform.inside.create_apikey(fresh("ci"))
    named = (f"CUSTODIA_AUTH_ID: {key.api_id}", f"CUSTODIA_KEY_ID: {key.api_key.reveal()}")
    box = fresh("box")
    port, base = platform.port, "/api/v0/secrets"

    async def does(method: str, path: str, body: bytes = b"", *lines: str) -> Message:
        return await ask(port, request(method, f"{base}/{path}", *named, *lines, body=body))

    assert (await does("POST", f"{box}/")).status == 201
    assert (await does("POST", f"{box}/")).status == 200
    message = b'{"type":"simple","value":"s3cret"}'
    assert (await does("PUT", f"{box}/a", message, "content-type: application/json")).status == 201
    assert (await does("PUT", f"{box}/a", message, "content-type: application/json")).status == 409
    told = await does("GET", f"{box}/a")
    assert (told.status, json.loads(told.body)["value"]) == (200, "s3cret")
    tag = told.get("etag")
    assert told.get("cache-control") == "no-store"
    raw = ("content-type: application/octet-stream",)
    big = bytes(range(256)) * 2000
    assert (await does("PUT", f"{box}/a", big, *raw, f"if-match: {tag}")).status == 200
    assert (await does("PUT", f"{box}/a", big, *raw, f"if-match: {tag}")).status == 412
    assert (await does("GET", f"{box}/a", b"", "accept: application/octet-stream")).body == big
    names = json.dumps({"names": [f"{box}/a", f"{box}/none"]}).encode()
    batch = await does("POST", "?batch=get", names, "content-type: application/json")
    assert (batch.status, json.loads(batch.body)[f"{box}/none"]) == (200, None)
    assert json.loads((await does("GET", f"{box}/")).body) == ["a"]
    assert (await does("DELETE", f"{box}/")).status == 409
    assert (await does("DELETE", f"{box}/a")).status == 204
    assert (await does("DELETE", f"{box}/a")).status == 404
    assert (await does("DELETE", f"{box}/")).status == 204


CREDENTIALS = {
    "none": ([], 401),
    "a wrong key": (["custodia-auth-id: {0}", "custodia-auth-key: nope"], 403),
    "an unknown id": (["custodia-auth-id: nobody", "custodia-auth-key: {1}"], 403),
    "no key": (["custodia-auth-id: {0}"], 403),
    "one spelling": (["CUSTODIA_AUTH_ID: {0}", "CUSTODIA_AUTH_KEY: {1}"], 404),
    "the other": (["custodia-auth-id: {0}", "custodia-auth-key: {1}"], 404),
    "a mixture": (["custodia-auth-id: {0}", "CUSTODIA_KEY_ID: {1}"], 404),
    "the id twice": (["custodia-auth-id: {0}", "CUSTODIA_AUTH_ID: {0}", "custodia-auth-key: {1}"], 400),
    "the key twice": (["custodia-auth-id: {0}", "custodia-auth-key: {1}", "CUSTODIA_AUTH_KEY: {1}"], 400),
    "the key by two names": (["custodia-auth-id: {0}", "custodia-auth-key: {1}", "custodia-key-id: {1}"], 400),
    "one spelling twice": (["custodia-auth-id: {0}", "custodia-auth-id: {0}", "custodia-auth-key: {1}"], 400),
    "a user of the proxy": ([as_user("alice")], 403),
    "Custodia's other headers": (["REMOTE_USER: proxy", "CUSTODIA_CERT_AUTH: yes"], 401),
}


@pytest.mark.parametrize("story", CREDENTIALS)
async def test_credentials_for_secrets_are_the_services_affair(platform: Platform, story: str) -> None:
    """Every spelling arrives from any client, two of one are refused, and being behind the proxy gives no rights."""
    key = await platform.inside.create_apikey(fresh("ci"))
    lines, status = CREDENTIALS[story]
    filled = [line.format(key.api_id, key.api_key.reveal()) for line in lines]
    answer = await ask(platform.port, request("GET", "/api/v0/secrets/none/none", *filled))

    assert answer.status == status
    assert answer.get("content-type") == "application/problem+json"
    assert key.api_key.reveal().encode() not in answer.body


async def test_clusters_are_listed_as_the_store_has_them(platform: Platform, api: Api) -> None:
    """The names of all clusters, in order."""
    for _ in range(3):
        await api("PUT", f"cluster/{fresh('cluster')}", {})
    listed = [record.model.name async for record in platform.inside.list(Clusters)]

    assert await api("GET", "clusters") == (200, listed)

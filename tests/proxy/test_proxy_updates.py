"""Changing a plain record over REST: by PUT, at the revision that If-Match names, and nothing without being told."""

import asyncio
import json
from typing import Any

import pytest

from strongroom.models import Cluster, ContainerManagerCreds, Host, HostCreds, HostState
from strongroom.models.secret import Secret
from tests.proxy.conftest import Platform
from tests.proxy.test_proxy_resources import KEY, OTHER, Api, api, as_user, fresh
from tests.raw_http import Message

__all__ = ["api"]  # a fixture

# path; what it is made with; what is changed of it; what it is then, but for its key
RECORDS: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "a host": (
        "host/{0}",
        {"ssh_priv_key": KEY, "cpus": 1, "memory": 2},
        {"cpus": 8, "status": "active"},
        {"cpus": 8, "memory": 2, "status": "active", "os": "", "space": 0, "last_check": "", "source": ""},
    ),
    "a cluster": (
        "cluster/{0}",
        {"hostset": ["10.0.0.1"], "container_manager": "a"},
        {"container_manager": "b"},
        {"container_manager": "b", "network": "default", "status": ""},
    ),
    "a network": (
        "network/{0}",
        {"type": "flannel_server", "options": {"a": "b"}},
        {"options": {"a": "c"}},
        {"type": "flannel_server", "options": {"a": "c"}},
    ),
    "a container manager": (
        "containermanager/{0}",
        {"options": {"server_url": "https://a", "token": "t0ken"}},
        {"options": {"server_url": "https://b"}},
        {"type": "openshift", "options": {"server_url": "https://b"}},
    ),
}


def etag(answer: Message) -> str:
    """Return the tag of an answer, which must have one."""
    tag = answer.get("etag")
    assert tag is not None
    return tag


async def made(api: Api, story: str) -> tuple[str, str]:
    """Make a record; return its path and its tag."""
    path = RECORDS[story][0].format(fresh("up"))
    answer = await api.ask("PUT", path, RECORDS[story][1])
    assert answer.status == 201
    return path, etag(answer)


@pytest.mark.parametrize("story", RECORDS)
async def test_what_the_body_names_is_changed_and_nothing_else(api: Api, story: str) -> None:
    """PUT with the tag that the record was made or read with answers 200 and a new tag; what it does not name stays."""
    path, tag = await made(api, story)
    _, _, changes, expected = RECORDS[story]
    assert etag(await api.ask("GET", path)) == tag

    status, told = await api("PUT", path, changes, f"if-match: {tag}")

    assert (status, {name: value for name, value in told.items() if name not in ("name", "address")}) == (200, expected)
    seen = await api.ask("GET", path)
    assert etag(seen) != tag
    shown = (await api("GET", path))[1]
    assert {name: shown[name] for name in expected if name != "status"} == {
        name: value for name, value in expected.items() if name != "status"
    }


@pytest.mark.parametrize("story", RECORDS)
async def test_an_older_tag_changes_and_removes_nothing(api: Api, story: str) -> None:
    """412 for who did not see the last change, of a PUT and of a DELETE; a tag that is not ours is 400."""
    path, tag = await made(api, story)
    changes = RECORDS[story][2]
    newer = etag(await api.ask("PUT", path, changes, f"if-match: {tag}"))

    for method in ("PUT", "DELETE"):
        body = changes if method == "PUT" else None
        status, problem = await api(method, path, body, f"if-match: {tag}")
        assert (status, problem["type"]) == (412, "urn:strongroom:problem:changed")
        assert (await api(method, path, body, "if-match: red"))[0] == 400
    assert etag(await api.ask("GET", path)) == newer
    assert (await api("DELETE", path, None, f"if-match: {newer}"))[0] == 200
    assert (await api("GET", path))[0] == 404


@pytest.mark.parametrize("story", RECORDS)
async def test_if_match_makes_nothing_and_if_none_match_changes_nothing(api: Api, story: str) -> None:
    """If-Match: * of what is not there is 412; If-None-Match: * of what is there is 409, and else it makes it."""
    path = RECORDS[story][0].format(fresh("up"))
    _, first, changes, _ = RECORDS[story]

    assert (await api("PUT", path, changes, "if-match: *"))[0] == 412
    assert (await api("GET", path))[0] == 404
    assert (await api("PUT", path, first, "if-none-match: *"))[0] == 201
    tag = etag(await api.ask("GET", path))
    for body in (first, changes):
        status, problem = await api("PUT", path, body, "if-none-match: *")
        assert (status, problem["type"]) == (409, "urn:strongroom:problem:exists")
    assert etag(await api.ask("GET", path)) == tag
    assert (await api("PUT", path, changes, "if-match: *"))[0] == 200


@pytest.mark.parametrize("lines", [[], ["if-match: *"], ["if-match: {tag}"]])
@pytest.mark.parametrize("story", RECORDS)
async def test_what_get_gives_put_takes_back(platform: Platform, api: Api, story: str, lines: list[str]) -> None:
    """What was read, sent back as it is, is 200 and writes nothing: with the tag, with any, and with none."""
    path, _ = await made(api, story)
    if story == "a cluster":  # one with counts that are not nothing, and a status that no record of it has
        member = fresh("up")
        await platform.inside.save(Host(address=member, status=HostState.ACTIVE))
        assert (await api("PUT", path, {"hostset": [member, fresh("up")]}))[0] == 200
    answer = await api.ask("GET", path)
    tag, seen = etag(answer), (await api("GET", path))[1]

    status, told = await api("PUT", path, seen, *(line.format(tag=tag) for line in lines))

    assert (status, {**seen, **told}) == (200, {**seen, "status": ""} if story == "a cluster" else seen)
    assert etag(await api.ask("GET", path)) == tag


@pytest.mark.parametrize("user", ["alice", "bob"])
async def test_a_put_without_a_key_never_locks_out_the_first(platform: Platform, user: str) -> None:
    """What GET gave of a host without a key is 200 and stores nothing, a new one gets none, and the first PUT does."""
    api, stored, added = Api(platform, as_user(user)), fresh("up"), fresh("up")
    tag = (await platform.inside.save(Host(address=stored, status=HostState.ACTIVE))).etag
    seen = (await api("GET", f"host/{stored}"))[1]

    assert await api("PUT", f"host/{stored}", seen) == (200, seen)
    assert (await api("PUT", f"host/{added}", {"status": "active", "ssh_priv_key": ""}))[0] == 201
    assert (await api("PUT", f"host/{fresh('up')}", {"remote_user": "core"}))[0] == 409
    assert await platform.inside.get_many(HostCreds, [stored, added]) == [None, None]
    assert (await platform.inside.get(Host, stored)).etag == tag
    for address in (stored, added):
        body = {"status": "active", "ssh_priv_key": KEY, "remote_user": "core"}
        assert (await api("PUT", f"host/{address}", body))[0] == 201
        assert (await platform.inside.get(HostCreds, address)).model.remote_user == "core"


@pytest.mark.parametrize("user", ["alice", "bob"])
async def test_empty_credentials_never_lock_out_the_first(platform: Platform, user: str) -> None:
    """A container manager whose token is said to be empty gets no credentials, and the first ones are stored."""
    api, name = Api(platform, as_user(user)), fresh("up")
    path, empty = f"containermanager/{name}", {"options": {"token": "", "username": ""}}

    assert (await api("PUT", path, empty))[0] == 201
    assert await api("PUT", path, (await api("GET", path))[1]) == await api("GET", path)
    assert (await api("PUT", path, empty))[0] == 200
    assert await platform.inside.get_many(ContainerManagerCreds, [name]) == [None]
    assert (await api("PUT", path, {"options": {"token": "first"}}))[0] == 201
    assert (await platform.inside.get(ContainerManagerCreds, name)).model.token.reveal() == "first"


async def test_a_host_without_a_key_is_not_opened_by_what_was_left(platform: Platform, api: Api) -> None:
    """Where credentials were left behind, a host that comes without a key is 409, and not there."""
    address = fresh("up")
    await platform.inside.save(HostCreds(address=address, ssh_priv_key=Secret(KEY)))

    assert (await api("PUT", f"host/{address}", {}))[0] == 409
    assert await platform.inside.get_many(Host, [address]) == [None]


async def test_what_of_a_cluster_is_counted_is_never_stored(platform: Platform, api: Api) -> None:
    """A status and counts that are not so are no error and change nothing; counts that are none are 400."""
    name, none = fresh("cluster"), {"total": 0, "available": 0, "unavailable": 0}
    said = {"status": "failed", "hosts": none | {"total": 7}, "container_manager": "a"}

    assert (await api("PUT", f"cluster/{name}", said))[0] == 201
    assert (await platform.inside.get(Cluster, name)).model == Cluster(name=name, container_manager="a")
    seen = await api.ask("GET", f"cluster/{name}")
    assert json.loads(seen.body) == {**said, "name": name, "network": "default", "status": "ok", "hosts": none}
    for lines in ([], ["if-match: *"]):
        assert etag(await api.ask("PUT", f"cluster/{name}", said, *lines)) == etag(seen)
        for wrong in ({"hosts": ["10.0.0.1"]}, {"hosts": {"total": 1}}, {"hosts": None}, {"status": "fine"}):
            problem = (await api("PUT", f"cluster/{name}", wrong, *lines))[1]
            assert (problem["status"], [fault["field"] for fault in problem["errors"]]) == (400, list(wrong))


async def test_the_same_once_more_writes_nothing(api: Api) -> None:
    """An update that changes nothing keeps the tag, so nobody who has it is told 412 for no change."""
    path, _ = await made(api, "a host")
    first = etag(await api.ask("PUT", path, {"cpus": 4}, "if-match: *"))

    assert etag(await api.ask("PUT", path, {"cpus": 4}, "if-match: *")) == first


@pytest.mark.parametrize("field", [{"cpus": 8}, {"status": "active"}, {"remote_user": "core"}])
async def test_a_field_is_never_passed_over(platform: Platform, api: Api, field: dict[str, Any]) -> None:
    """PUT of a known host that says something else of it is 409 and says how to change it; it was 200, and ignored."""
    address = fresh("up")
    assert (await api("PUT", f"host/{address}", {"ssh_priv_key": KEY, "cpus": 1}))[0] == 201

    status, problem = await api("PUT", f"host/{address}", {"ssh_priv_key": KEY, **field})

    assert (status, problem["type"]) == (409, "urn:strongroom:problem:contradicted")
    assert "If-Match" in problem["detail"] or "creds" in problem["detail"]
    assert (await platform.inside.get(Host, address)).model == Host(address=address, cpus=1)
    assert (await api("PUT", f"host/{address}", {"ssh_priv_key": KEY, "cpus": 1}))[0] == 200


async def test_an_update_leaves_credentials_source_and_cluster_alone(platform: Platform, api: Api) -> None:
    """What it says of them must be so, else it is 409 and changes nothing; what it does not say stays."""
    address, cluster = fresh("up"), fresh("cluster")
    await api("PUT", f"cluster/{cluster}", {})
    await api("PUT", f"host/{address}", {"ssh_priv_key": KEY, "remote_user": "core", "cluster": cluster})
    path, always = f"host/{address}", "if-match: *"

    for other in ({"ssh_priv_key": OTHER}, {"remote_user": "root"}, {"cluster": fresh("no")}, {"source": "elsewhere"}):
        assert (await api("PUT", path, {"cpus": 8, **other}, always))[0] == 409
    assert (await platform.inside.get(Host, address)).model.cpus == 0
    same = {"ssh_priv_key": KEY, "remote_user": "core", "cluster": cluster, "source": ""}
    assert (await api("PUT", path, {"cpus": 8, **same}, always))[0] == 200
    assert (await api("PUT", path, {"cpus": 9}, always))[0] == 200

    creds = (await platform.inside.get(HostCreds, address)).model
    assert (creds.ssh_priv_key.reveal(), creds.remote_user) == (KEY, "core")
    assert await api("GET", f"cluster/{cluster}/hosts/") == (200, [address])


async def test_an_update_of_a_container_manager_keeps_what_opens_it(platform: Platform, api: Api) -> None:
    """Options that are said anew leave the token where it is; the same token may be said, another is 409."""
    path, _ = await made(api, "a container manager")
    name = path.rpartition("/")[2]

    def saying(token: str) -> dict[str, object]:
        return {"options": {"server_url": "https://c", "token": token}}

    assert (await api("PUT", path, saying("another"), "if-match: *"))[0] == 409
    assert (await api("PUT", path, saying("t0ken"), "if-match: *"))[0] == 200
    assert (await api("GET", path))[1]["options"] == {"server_url": "https://c"}
    assert (await platform.inside.get(ContainerManagerCreds, name)).model.token.reveal() == "t0ken"


@pytest.mark.parametrize("guess", [KEY, OTHER, ""])
async def test_no_update_tells_whether_a_guess_is_the_key(platform: Platform, api: Api, guess: str) -> None:
    """A user who may not see credentials hears the same whatever key an update says, and changes fields without one."""
    address, bob = fresh("up"), Api(platform, as_user("bob"))
    await api("PUT", f"host/{address}", {"ssh_priv_key": KEY})
    status, problem = await bob("PUT", f"host/{address}", {"cpus": 8, "ssh_priv_key": guess}, "if-match: *")

    assert (status, problem["detail"]) == (409, "The host is known; send it without credentials to see it")
    assert (await platform.inside.get(Host, address)).model.cpus == 0
    assert (await bob("PUT", f"host/{address}", {"cpus": 8}, "if-match: *"))[0] == 200


async def test_of_many_who_update_at_one_tag_one_does(platform: Platform, api: Api) -> None:
    """Of eight PUTs at one tag one is 200, the others 412; of eight at whatever there is, none is lost."""
    path, tag = await made(api, "a host")
    address = path.rpartition("/")[2]
    answers = await asyncio.gather(*(api("PUT", path, {"cpus": n}, f"if-match: {tag}") for n in range(2, 10)))

    assert sorted(status for status, _ in answers) == [200, *[412] * 7]
    fields = ("cpus", "memory", "space")
    assert {
        status
        for status, _ in await asyncio.gather(*(api("PUT", path, {field: 77}, "if-match: *") for field in fields))
    } == {200}
    host = (await platform.inside.get(Host, address)).model
    assert (host.cpus, host.memory, host.space) == (77, 77, 77)


async def test_a_host_without_credentials_is_updated_like_any_other(platform: Platform, api: Api) -> None:
    """A host whose credentials were never stored is changed as any other, and gets none by that."""
    address = fresh("up")
    await platform.inside.save(Host(address=address))
    assert (await api("PUT", f"host/{address}", {"status": "active"}, "if-match: *"))[0] == 200
    assert (await api("PUT", f"host/{address}", {"ssh_priv_key": KEY}, "if-match: *"))[0] == 409

    assert (await platform.inside.get(Host, address)).model.status is HostState.ACTIVE
    assert await platform.inside.get_many(HostCreds, [address]) == [None]


async def test_credentials_are_not_destroyed_by_saying_nothing(platform: Platform, api: Api) -> None:
    """A PUT of credentials without a key is 400, and one that is to be the first is refused where there are some."""
    address = fresh("up")
    await api("PUT", f"host/{address}", {"ssh_priv_key": KEY, "remote_user": "core"})
    path = f"host/{address}/creds"

    for body in ({}, {"remote_user": "root"}, {"ssh_priv_key": ""}):
        assert (await api("PUT", path, body))[0] == 400
        assert (await api("PUT", path, body, "if-none-match: *"))[0] == 400
    assert (await api("PUT", path, {"ssh_priv_key": OTHER}, "if-none-match: *"))[0] in {409, 412}

    creds = (await platform.inside.get(HostCreds, address)).model
    assert (creds.ssh_priv_key.reveal(), creds.remote_user) == (KEY, "core")
    await platform.inside.delete(HostCreds, address)
    assert (await api("PUT", path, {"ssh_priv_key": OTHER}, "if-none-match: *"))[0] == 204


@pytest.mark.parametrize(("word", "done"), [("deploy", "deployed"), ("restart", "restarted"), ("upgrade", "upgraded")])
async def test_how_far_an_operation_is_says_no_body(api: Api, word: str, done: str) -> None:
    """What is reckoned is never stored, and what GET gave, sent back, is 200 and starts nothing."""
    path = f"cluster/{fresh('cluster')}"
    await api("PUT", path, {})
    version = {"version": "7"} if word == "deploy" else {}
    computed = {done: ["evil"], "in_process": ["evil"], "finished_at": "yesterday", "status": "failed"}

    status, told = await api("PUT", f"{path}/{word}", {**version, **computed})
    assert (status, told[done], told["in_process"], told["finished_at"]) == (201, [], [], "")
    assert told["status"] == "in_process"
    seen = await api.ask("GET", f"{path}/{word}")
    for lines in ([], ["if-match: *"], [f"if-match: {etag(seen)}"]):
        again = await api.ask("PUT", f"{path}/{word}", told, *lines)
        assert (again.status, etag(again), json.loads(again.body)) == (200, etag(seen), told)
    assert (await api("PUT", f"{path}/{word}", version))[0] == 201

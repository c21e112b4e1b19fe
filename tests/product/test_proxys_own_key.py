"""The proxy's own key, in real processes, which opens nothing; and the users of a file, whom the service knows."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import argon2
import httpx
import pytest

from strongroom.models import (
    Cluster,
    ClusterDeploy,
    ClusterRestart,
    ClusterUpgrade,
    ContainerManagerConfig,
    ContainerManagerCreds,
    Host,
    HostCreds,
    Network,
)
from strongroom.storage_service import wire
from strongroom.storage_service.access.paths import matches
from strongroom.storage_service.access.users_file import REACH
from tests.audit_lines import audit_lines
from tests.deploy.running import Up, up
from tests.product.test_faults import credentials

SSH_KEY = base64.b64encode(b"-----BEGIN OPENSSH PRIVATE KEY-----\nof a host\n").decode()
ROUTED = (
    Host,
    HostCreds,
    Cluster,
    ClusterDeploy,
    ClusterRestart,
    ClusterUpgrade,
    Network,
    ContainerManagerConfig,
    ContainerManagerCreds,
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A service with two users of a file, of whom alice may see credentials."""
    home = tmp_path_factory.mktemp("front") / "home"
    home.mkdir(mode=0o700)
    hashed = argon2.PasswordHasher.from_parameters(argon2.profiles.CHEAPEST).hash("right")
    users = home / "users.json"
    users.write_text(json.dumps({"alice": {"hash": hashed, "reveal_credentials": True}, "bob": {"hash": hashed}}))
    users.chmod(0o600)
    (home / "strongroom.toml").write_text(f'proxy_authenticators = [{{name = "basic", filepath = "{users}"}}]\n')
    with up(home) as started:
        yield started


def own_key(home: Path) -> dict[str, str]:
    """Return the headers of the proxy's own key."""
    known = json.loads((home / "proxy.json").read_text())
    return {wire.ID_HEADER: known["api_id"], wire.KEY_HEADER: known["api_key"]}


def on_socket(running: Up, headers: dict[str, str], auth: tuple[str, str] | None = None) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=str(running.socket))
    return httpx.Client(transport=transport, base_url="http://socket", headers=headers, auth=auth, timeout=15)


def test_they_reach_every_record_of_the_routes_and_no_other() -> None:
    """The list of paths covers each model that a route serves, and each path is one of theirs."""
    prefixes = {"/" + model.prefix().rstrip("/") for model in ROUTED}

    assert set(REACH) == prefixes
    assert not matches(REACH, "/system/access/apikeys/x")
    assert not matches(REACH, "/secrets/db/x")


def test_a_user_of_the_file_can_do_all_that_the_routes_do(running: Up) -> None:
    """Hosts and their credentials, clusters and their acts, networks, container managers: made, read, removed."""
    with httpx.Client(base_url=running.url + wire.API_PATH, auth=("alice", "right"), timeout=15) as alice:
        made = [
            alice.put("/network/n", json={}),
            alice.put("/containermanager/m", json={"type": "openshift", "options": {"token": "t0ken"}}),
            alice.put("/cluster/c", json={}),
            alice.put("/host/192.0.2.7", json={"ssh_priv_key": SSH_KEY, "cluster": "c"}),
            alice.put("/cluster/c/deploy", json={"version": "7"}),
            alice.put("/cluster/c/restart", json={}),
            alice.put("/cluster/c/upgrade", json={}),
        ]
        assert all(answer.is_success for answer in made), [(answer.status_code, answer.text) for answer in made]
        assert alice.get("/host/192.0.2.7/creds").json()["ssh_priv_key"] == SSH_KEY
        lists = ("/hosts", "/clusters", "/networks", "/containermanagers")
        assert all(len(alice.get(path).json()) >= 1 for path in lists)
        gone = [alice.delete(path) for path in ("/host/192.0.2.7", "/cluster/c", "/containermanager/m", "/network/n")]
        assert all(answer.is_success for answer in gone), [(answer.status_code, answer.text) for answer in gone]


@pytest.mark.parametrize("face", ["proxy", "socket"])
def test_what_users_of_the_file_may(running: Up, face: str) -> None:
    """On both faces plain records, credentials where the file says so, and neither other secrets nor access."""
    with on_socket(running, credentials(running.home)) as operator:
        assert operator.post("/secrets/owned/").is_success
        assert operator.put("/secrets/owned/a", json={"type": "simple", "value": "v"}).status_code in (201, 409)
    root, host = ("", "") if face == "socket" else (wire.API_PATH, "198.51.100.7")
    for name, sees in {"alice": True, "bob": False}.items():
        with (
            httpx.Client(base_url=running.url, auth=(name, "right"), timeout=15)
            if face == "proxy"
            else on_socket(running, {}, auth=(name, "right"))
        ) as user:
            if face == "proxy":
                assert user.put(f"{root}/host/{host}", json={"ssh_priv_key": SSH_KEY}).status_code == 201
                assert user.get(f"{root}/host/{host}").status_code == 200
                assert user.get(f"{root}/host/{host}/creds").status_code == (200 if sees else 403)
                again = user.put(f"{root}/host/{host}/creds", json={"ssh_priv_key": SSH_KEY})
                assert again.status_code == (204 if sees else 403)
                assert user.get(f"{root}/secrets/hosts/{host}").status_code == (200 if sees else 403)
                assert user.delete(f"{root}/host/{host}").status_code == 200
            refused = {
                "secret": user.get(f"{root}/secrets/owned/a"),
                "write": user.put(f"{root}/secrets/owned/b", json={"type": "simple", "value": "v"}),
                "removal": user.delete(f"{root}/secrets/owned/a"),
                "listing": user.get(f"{root}/secrets/owned/"),
                "users": user.get(f"{root}/access/users/"),
                "new user": user.put(f"{root}/access/users/eve", json={"admin": True}),
                "own record": user.get(f"{root}/access/users/{name}"),
                "rules": user.get(f"{root}/access/rules/x"),
            }
            assert {each: answer.status_code for each, answer in refused.items()} == dict.fromkeys(refused, 403)


def test_a_deny_holds_for_a_user_of_the_file(running: Up) -> None:
    """Rules come on top: what one denies to user:bob is denied to the bob of the file, and to nobody else."""
    rule = {"effect": "deny", "subjects": ["user:bob"], "actions": ["read", "list"], "names": ["networks/**"]}
    with on_socket(running, credentials(running.home)) as operator:
        assert operator.put("/access/rules/no-networks", json=rule).is_success
        for name, status in {"bob": 403, "alice": 200}.items():
            assert httpx.get(f"{running.url}{wire.API_PATH}/networks", auth=(name, "right")).status_code == status
        assert operator.delete("/access/rules/no-networks").is_success
    assert httpx.get(f"{running.url}{wire.API_PATH}/networks", auth=("bob", "right")).status_code == 200


def test_who_takes_it_takes_nothing(running: Up) -> None:
    """With the proxy's key nothing is read, no key made, no keyring exported and nothing locked, whomever it is for."""
    with on_socket(running, credentials(running.home)) as operator:
        assert operator.post("/secrets/db/").status_code == 201
        assert operator.put("/secrets/db/a", json={"type": "simple", "value": "v"}).status_code == 201
    with on_socket(running, own_key(running.home) | {wire.ON_BEHALF_HEADER: "user:alice"}) as thief:
        asked = {
            "secret": thief.get("/secrets/db/a"),
            "write": thief.put("/secrets/db/b", json={"type": "simple", "value": "v"}),
            "listing": thief.get("/secrets/db/"),
            "record": thief.post("/storage/get", json={"model": "Host", "records": [{"address": "192.0.2.7"}]}),
            "records": thief.post("/storage/list", json={"model": "Hosts"}),
            "api key": thief.post("/apikeys", json={"id": "x", "paths": ["/"]}),
            "export": thief.post("/keyring/export", json={}),
            "lock": thief.post("/keyring/lock", json={}),
            "sealed": thief.get("/bulk"),
        }
    assert {name: answer.status_code for name, answer in asked.items()} == dict.fromkeys(asked, 403)


def test_operator_and_user_are_two(running: Up) -> None:
    """The log tells what the operator did from what a user of the file did, who acts himself."""
    with httpx.Client(base_url=running.url + wire.API_PATH, auth=("alice", "right"), timeout=15) as alice:
        through = alice.get("/hosts").headers["x-request-id"]
    with on_socket(running, credentials(running.home)) as operator:
        direct = operator.get("/secrets/").headers["x-request-id"]

    lines = audit_lines(running.home / "log/audit.log")
    said = {line["request"]: (line["principal"], line.get("for")) for line in lines}
    assert said[through] == ("user:alice", None)
    assert said[direct] == ("apikey:storage_service", None)


def test_a_lost_key_is_replaced_at_the_next_start(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whoever deletes the file and starts anew has another key, and the one before opens nothing."""
    home = tmp_path_factory.mktemp("again") / "home"
    with up(home):
        before = own_key(home)
    (home / "proxy.json").unlink()

    with up(home) as again, on_socket(again, before) as thief, on_socket(again, own_key(home)) as proxy:
        assert thief.get("/whoami").status_code == 403
        who = proxy.get("/whoami").json()
        assert (who["principal"], who["paths"]) == ("apikey:http_proxy", [])

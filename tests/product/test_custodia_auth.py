"""Custodia's authenticators and authorizers, configured as its users configure them, on the running product."""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from strongroom.storage_service import wire
from tests.audit_lines import audit_lines
from tests.deploy.running import Up, up
from tests.product.test_faults import credentials, put, through_proxy


@contextmanager
def configured(home: Path, toml: str) -> Iterator[Up]:
    """Run the product with these settings."""
    home.mkdir(mode=0o700)
    (home / "strongroom.toml").write_text(toml)
    with up(home) as running:
        yield running


def on_socket(running: Up, **headers: str) -> httpx.Client:
    """Return a client of the secrets path on the socket, without credentials but for *headers*."""
    transport = httpx.HTTPTransport(uds=str(running.socket))
    return httpx.Client(transport=transport, base_url="http://socket/secrets", headers=headers, timeout=10)


def audited(running: Up) -> list[dict[str, object]]:
    """Return the audit log."""
    return audit_lines(running.home / "log" / "audit.log")


def test_a_user_of_the_machine_is_known_by_the_kernel(tmp_path: Path) -> None:
    """With SimpleCredsAuth our own user needs no key on the socket, and the audit log names the process."""
    toml = f'authenticators = [{{handler = "SimpleCredsAuth", uid = "{os.getuid()}"}}]'
    with configured(tmp_path / "home", toml) as running, on_socket(running) as client:
        made, stored = client.post("/box/"), put(client, "box/a", "aaa")

        line = audited(running)[-1]

    assert (made.status_code, stored.status_code) == (201, 201)
    assert line["principal"] == f"service:{os.getuid()}"
    assert line["peer"] == {"pid": os.getpid(), "uid": os.getuid(), "gid": os.getgid()}


def test_another_user_of_the_machine_is_refused(tmp_path: Path) -> None:
    """With SimpleCredsAuth for somebody else our user is refused, whatever else it shows, and that is on record."""
    both = (
        f'authenticators = [{{handler = "SimpleCredsAuth", uid = "{os.getuid() + 1}"}}, {{handler = "SimpleAuthKeys"}}]'
    )
    with configured(tmp_path / "home", both) as running, on_socket(running) as client:
        bare = client.get("/box/")
        with_key = client.get("/box/", headers=credentials(running.home))

        lines = audited(running)

    assert (bare.status_code, with_key.status_code) == (403, 403)
    assert {(line["principal"], line["decision"]) for line in lines} == {("unknown", "denied")}


def test_a_group_beside_the_user_lets_more_in(tmp_path: Path) -> None:
    """With another's uid and our gid we get in, with or without a key; who shows one has that key's rights."""
    both = (
        f'authenticators = [{{handler = "SimpleCredsAuth", uid = "{os.getuid() + 1}", gid = "{os.getgid()}"}},'
        ' {handler = "SimpleAuthKeys"}]'
    )
    with configured(tmp_path / "home", both) as running, on_socket(running) as client:
        answers = [client.post("/box/"), client.get("/box/", headers=credentials(running.home))]

        known = [line["principal"] for line in audited(running)][-2:]

    assert [answer.status_code for answer in answers] == [201, 200]
    assert known == [f"service:{os.getuid()}", "apikey:storage_service"]


def test_the_proxys_user_opens_nothing_for_strangers(tmp_path: Path) -> None:
    """The proxy runs as a user whom the service trusts; what it forwards for a stranger is a stranger's still."""
    both = f'authenticators = [{{handler = "SimpleCredsAuth", uid = "{os.getuid()}"}}, {{handler = "SimpleAuthKeys"}}]'
    with configured(tmp_path / "home", both) as running, on_socket(running) as local:
        local.post("/box/")
        put(local, "box/a", "aaa")
        with httpx.Client(base_url=running.url + wire.PROXIED_SECRETS_PATH) as stranger:
            tried = [
                stranger.get("/box/a"),
                stranger.get("/box/a", headers={"Forwarded": ""}),
                stranger.get("/box/a", headers={"REMOTE_USER": "root", "CUSTODIA_CERT_AUTH": "true"}),
            ]
        with through_proxy(running) as known:
            read = known.get("/box/a", headers={"Accept": wire.OCTET_STREAM})

    assert [answer.status_code for answer in tried] == [401, 401, 401]
    assert read.text == "aaa"


def test_each_has_a_container_of_its_own(tmp_path: Path) -> None:
    """With UserNameSpace a key's first PUT makes the container of its name, / stands for it, and others' are closed."""
    toml = 'authorizers = [{handler = "UserNameSpace", path = "/secrets"}]'
    with configured(tmp_path / "home", toml) as running, through_proxy(running) as own:
        other_id = f"k{secrets.token_hex(4)}"
        with httpx.Client(
            transport=httpx.HTTPTransport(uds=str(running.socket)),
            base_url="http://socket",
            headers=credentials(running.home),
        ) as socket:
            made = socket.post("/apikeys", json={"id": other_id}).json()
        other = {wire.ID_HEADER: other_id, wire.KEY_HEADER: made["key"]}

        story = [
            put(own, "storage_service/a", "aaa").status_code,
            own.get("/").json(),
            own.get("/storage_service/a", headers=other).status_code,
            own.get(f"/{other_id}/b").status_code,
            own.get("/", headers=other).status_code,
            own.post("/elsewhere/").status_code,
        ]

    assert story == [201, ["a"], 403, 403, 404, 403]


def test_nobody_comes_by_the_container_of_another(tmp_path: Path) -> None:
    """Who may make and revoke keys makes none of an id that was another's, and ends none that reaches further."""
    toml = 'authorizers = [{handler = "UserNameSpace", path = "/secrets/own"}]'
    with configured(tmp_path / "home", toml) as running:

        def socket(headers: Mapping[str, str]) -> httpx.Client:
            transport = httpx.HTTPTransport(uds=str(running.socket))
            return httpx.Client(transport=transport, base_url="http://socket", headers=headers)

        def make(client: httpx.Client, key_id: str, *paths: str) -> tuple[int, dict[str, str]]:
            answer = client.post("/apikeys", json={"id": key_id, "paths": list(paths)})
            return answer.status_code, {wire.ID_HEADER: key_id, wire.KEY_HEADER: answer.json().get("key", "")}

        with socket(credentials(running.home)) as own:
            own.post("/bulk/commit", json={"changes": [{"name": "secrets/own/", "value": ""}]})
            _, alice = make(own, "alice", "/secrets/own")
            _, wide = make(own, "wide", "/secrets")
            _, manager = make(own, "manager", "/secrets/own", "/system/access/apikeys")
        with socket(alice) as client:
            stored = put(client, "secrets/own/alice/k", "private").status_code
        with socket(manager) as client:
            story = [
                client.get("/secrets/own/alice/k").status_code,
                client.delete("/apikeys/wide").status_code,
                client.delete("/apikeys/alice").status_code,
                make(client, "alice", "/secrets/own")[0],
                client.get("/secrets/own/alice/k").status_code,
            ]
        with socket(wide) as client:
            still = client.get("/whoami").status_code

    assert (stored, story, still) == (201, [403, 403, 204, 409, 403], 200)


def test_paths_limit_everybody(tmp_path: Path) -> None:
    """With the proposal's paths the ping and the secrets are open to keys; with narrower ones, only what they cover."""
    toml = 'authorizers = [{handler = "SimplePathAuthz", paths = "/. /secrets/open"}]'
    with configured(tmp_path / "home", toml) as running, through_proxy(running) as client:
        with on_socket(running, **credentials(running.home)) as socket:
            ping = socket.get("http://socket/")
        story = [
            client.post("/open/").status_code,
            put(client, "open/a", "aaa").status_code,
            client.get("/open/a").status_code,
            client.post("/opened/").status_code,
            client.get("/other/a").status_code,
        ]

    assert ping.json() == {"message": "Quis custodiet ipsos custodes?"}
    assert story == [201, 201, 200, 403, 403]

"""What stays on record of whoever tries, and of what came of it: the real processes, the socket and the proxy."""

import base64
import json
import os
import secrets
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import argon2
import httpx
import pytest

from strongroom.storage_service import wire
from strongroom.storage_service.strangers import MOST_ACTS
from tests.audit_lines import audit_lines
from tests.deploy.running import Up, eventually, up
from tests.product.test_faults import credentials, put, through_proxy

Line = dict[str, Any]
OTHER = "127.0.0.9"  # an address of this machine that nobody else comes from


@dataclass(frozen=True)
class Rig:
    """A running service, and a key that reaches one container and one for keys."""

    running: Up
    narrow: dict[str, str]

    def lines(self) -> list[Line]:
        """The whole log."""
        return audit_lines(self.running.home / "log/audit.log")

    def of(self, answer: httpx.Response, count: int = 1) -> list[Line]:
        """The lines of a request, of which there are so many soon."""
        return self.until(lambda line: line["request"] == answer.headers["x-request-id"], count)

    def until(self, wanted: Callable[[Line], bool], count: int = 1) -> list[Line]:
        """Those lines that are *wanted*, when there are so many."""
        end = time.monotonic() + 15
        while True:
            found = [line for line in self.lines() if wanted(line)]
            if len(found) >= count or time.monotonic() > end:
                return found
            time.sleep(0.02)

    def socket(self, **headers: str) -> httpx.Client:
        """A client on the socket."""
        transport = httpx.HTTPTransport(uds=str(self.running.socket))
        return httpx.Client(transport=transport, base_url="http://socket", headers=headers, timeout=15)

    def proxy(self, headers: dict[str, str] | None = None, address: str = OTHER) -> httpx.Client:
        """A client of the proxy that comes from *address*."""
        transport = httpx.HTTPTransport(local_address=address)
        return httpx.Client(transport=transport, base_url=self.running.url, headers=headers, timeout=15)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One service for this page, with two users at the proxy, of whom bob may not see credentials."""
    home = tmp_path_factory.mktemp("evidence") / "home"
    home.mkdir(mode=0o700)
    hashed = argon2.PasswordHasher.from_parameters(argon2.profiles.CHEAPEST).hash("right")
    users = home / "users.json"
    users.write_text(json.dumps({"bob": {"hash": hashed}}))
    users.chmod(0o600)
    (home / "strongroom.toml").write_text(
        f'proxy_authenticators = [{{name = "apikey"}}, {{name = "basic", filepath = "{users}"}}]\n'
    )
    with up(home) as running:
        with through_proxy(running) as client:
            client.post("/box/")
            put(client, "box/a", "aaa")
        own = credentials(home)
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(running.socket)), headers=own) as client:
            paths = ["/secrets/box", "/system/access/apikeys"]
            made = client.post("http://socket/apikeys", json={"id": "narrow", "paths": paths}).json()
        yield Rig(running, {wire.ID_HEADER: "narrow", wire.KEY_HEADER: made["key"]})


def told(lines: list[Line]) -> list[tuple[str, str, str, str]]:
    """Who, what, on which name, and what came of it."""
    return [(line["principal"], line["action"], line["name"], line["decision"]) for line in lines]


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


# What was allowed, and what came of it


def test_a_good_get_is_one_line_with_its_address(rig: Rig) -> None:
    """A secret that was read through the proxy has one line, which says from where on the network it was read."""
    with rig.proxy(rig.narrow) as client:
        answer = client.get(wire.PROXIED_SECRETS_PATH + "/box/a")

    assert answer.status_code == 200
    assert told(rig.of(answer)) == [("apikey:narrow", "get", "secrets/box/a", "allowed")]
    assert rig.of(answer)[0]["from"] == OTHER


@pytest.mark.parametrize(
    ("method", "name", "action", "reason"),
    [
        ("GET", "box/none", "get", "not-found"),
        ("DELETE", "box/none", "delete", "not-found"),
        ("PUT", "box/a", "put", "exists"),
        ("DELETE", "box/", "delete", "not-empty"),
    ],
)
def test_what_was_allowed_and_came_to_nothing_says_so(
    rig: Rig, method: str, name: str, action: str, reason: str
) -> None:
    """An act that was allowed and then refused by what is there has a second line: failed, and why."""
    message = {"type": "simple", "value": "x"}
    with rig.socket(**rig.narrow) as client:
        answer = client.request(method, f"/secrets/{name}", json=message if method == "PUT" else None)

    first, second = rig.of(answer, 2)
    assert told([first, second]) == [
        ("apikey:narrow", action, f"secrets/{name}", "allowed"),
        ("apikey:narrow", action, f"secrets/{name}", "failed"),
    ]
    assert second["reason"].startswith(reason + ":")


def test_a_key_that_tries_to_make_a_wider_one_is_denied(rig: Rig) -> None:
    """The attempt is on record as denied, and nothing says that it was allowed."""
    with rig.socket(**rig.narrow) as client:
        answer = client.post("/apikeys", json={"id": "wider", "paths": ["/"]})

    assert answer.status_code == 403
    (line,) = rig.of(answer)
    assert told([line]) == [("apikey:narrow", "put", "system/access/apikeys/wider", "denied")]
    assert "further" in line["reason"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/secrets/box/%2e%2e/x", 400),
        ("GET", "/secrets/box/a%01b", 400),
        ("PATCH", "/secrets/box/a", 501),
        ("PUT", "/secrets/box/", 405),
        ("GET", "/nope", 404),
        ("PUT", "/secrets/box/b", 400),
        ("GET", "/secrets/box/a?type=kem", 406),
        ("POST", "/apikeys", 400),
        ("GET", "/secrets/a", 403),
    ],
)
def test_whatever_an_identified_caller_is_refused_has_a_line(rig: Rig, method: str, path: str, status: int) -> None:
    """No request of somebody known goes by without a line that names him, what he asked and the reason."""
    with rig.socket(**rig.narrow) as client:
        answer = client.request(method, path)

    assert answer.status_code == status
    line = rig.of(answer)[-1]
    assert (line["principal"], line["decision"] in {"refused", "denied"}) == ("apikey:narrow", True)
    assert line["reason"]


@pytest.mark.parametrize("path", ["/status", "/whoami", "/storage/handlers"])
def test_what_everybody_may_ask_has_a_line_too(rig: Rig, path: str) -> None:
    """What no key is refused is recorded like every other act."""
    with rig.socket(**rig.narrow) as client:
        answer = client.get(path)

    assert [(line["principal"], line["decision"]) for line in rig.of(answer)] == [("apikey:narrow", "allowed")]


@pytest.mark.parametrize("known", ["user", "key"])
def test_whoever_asks_where_things_are_has_a_line(rig: Rig, known: str) -> None:
    """The root of the API tells no stranger's credentials right without a line, though it tells nothing else."""
    with rig.proxy(basic("bob", "right") if known == "user" else rig.narrow) as client:
        answer = client.get("/api/v0/")

    assert answer.status_code == 200
    (line,) = rig.of(answer)
    assert (line["action"], line["name"], line["decision"], line["from"]) == ("get", "system/status", "allowed", OTHER)
    assert line.get("for", line["principal"]) == {"user": "user:bob", "key": "apikey:narrow"}[known]


@pytest.mark.parametrize("face", ["socket", "proxy"])
def test_who_leaves_before_the_body_has_a_line(rig: Rig, face: str) -> None:
    """Whoever is told that a body is wanted, and so that a key is right, and goes without sending it is on record."""
    known, path = f"leaves-{face}", (wire.PROXIED_SECRETS_PATH if face == "proxy" else "/secrets") + "/box/new"
    fields = {**rig.narrow, wire.REQUEST_ID_HEADER: known, "Host": "x", "Expect": "100-continue", "Content-Length": "9"}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    with closing(socket.socket(socket.AF_UNIX if face == "socket" else socket.AF_INET)) as raw:
        url = urlsplit(rig.running.url)
        raw.connect(str(rig.running.socket) if face == "socket" else (url.hostname, url.port))
        raw.sendall(f"PUT {path} HTTP/1.1\r\n{head}\r\n".encode())
        raw.settimeout(15)
        assert b" 100 " in raw.recv(100)

    (line,) = rig.until(lambda line: line["request"] == known)
    assert told([line]) == [("apikey:narrow", "PUT", "/secrets/box/new", "refused")]
    assert "left" in line["reason"]


@pytest.mark.parametrize("framing", ["Content-Length: 9", "Transfer-Encoding: chunked"])
def test_a_record_whose_body_did_not_come_is_not_made(rig: Rig, framing: str) -> None:
    """Nothing is taken for the whole of what broke off: no record is there, and who began it is on record."""
    known = "half-" + framing[:7].lower()
    url, fields = urlsplit(rig.running.url), credentials(rig.running.home) | {wire.REQUEST_ID_HEADER: known}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    head = f"PUT /api/v0/cluster/{known} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n{framing}\r\n{head}\r\n"
    with closing(socket.create_connection((str(url.hostname), url.port or 0), timeout=15)) as raw:
        raw.sendall(head.encode())
        assert b" 100 " in raw.recv(100)

    (line,) = rig.until(lambda line: line["request"] == known)
    assert (line["name"], line["decision"]) == (f"/api/v0/cluster/{known}", "refused")
    with rig.proxy(credentials(rig.running.home)) as client:
        assert client.get(f"/api/v0/cluster/{known}").status_code == 404


# Strangers


@pytest.mark.parametrize(
    ("face", "path"),
    [
        ("proxy", "/api/v0/"),
        ("proxy", "/api/v0/hosts/"),
        ("proxy", "/api/v0/host/10.0.0.7/creds"),
        ("proxy", "/api/v0/secrets/box/a"),
        ("socket", "/secrets/box/a"),
        ("socket", "/status"),
        ("socket", "/apikeys"),
    ],
)
def test_what_a_path_allows_tells_nothing_of_credentials(rig: Rig, face: str, path: str) -> None:
    """OPTIONS answers whoever asks the same, and looks at no credentials: it is no place to try some without a line."""
    wrong = {wire.ID_HEADER: "narrow", wire.KEY_HEADER: "wrong"}
    tries = [{}, rig.narrow, wrong]
    if face == "proxy":
        tries += [basic("bob", "right"), basic("bob", "wrong"), basic("mallory", "wrong")]
    answers = []
    for headers in tries:
        with rig.proxy(headers) if face == "proxy" else rig.socket(**headers) as client:
            answers.append(client.options(path))

    said = {(answer.status_code, answer.headers["allow"], answer.content) for answer in answers}
    assert len(said) == 1
    assert said.pop()[0] in {200, 204}
    with rig.socket(**rig.narrow) as client:  # what came before it is in the log when it is
        rig.of(client.get("/whoami"))
    ids = {answer.headers["x-request-id"] for answer in answers if "x-request-id" in answer.headers}
    assert not [line for line in rig.lines() if line["request"] in ids or line["action"] == "OPTIONS"]


def test_a_wrong_key_at_a_model_route_is_written_as_what_was_asked(rig: Rig) -> None:
    """The line has the id of the answer, the method and the path, whether or not the client chose the id."""
    for number, chosen in enumerate(({}, {wire.REQUEST_ID_HEADER: "chosen-by-me"})):
        guess = {wire.ID_HEADER: "narrow", wire.KEY_HEADER: "wrong", **chosen, wire.ASKED_HEADER: "GET /forged"}
        with rig.proxy(guess, f"127.0.5.{number + 1}") as client:
            answer = client.delete("/api/v0/host/10.0.0.7")

        assert answer.status_code == 403
        (line,) = rig.of(answer)
        assert told([line]) == [("unknown", "DELETE", "/api/v0/host/10.0.0.7", "denied")]
        assert (line["claimed"], line["from"]) == (["apikey:narrow"], f"127.0.5.{number + 1}")


def test_nobody_but_the_proxy_says_what_was_asked(rig: Rig) -> None:
    """On the socket a stranger's request is written down as what it is."""
    with rig.socket(**{wire.ID_HEADER: "narrow", wire.KEY_HEADER: "wrong", wire.ASKED_HEADER: "PUT /forged"}) as client:
        answer = client.get("/secrets/box/asked")

    def mine() -> list[Line]:
        found = [line for line in rig.lines() if line["name"] == "/secrets/box/asked"]
        return [line for line in found if line["action"] == "GET" and line["decision"] == "denied"]

    assert answer.status_code == 403
    eventually(lambda: bool(mine()))
    assert not [line for line in rig.lines() if line["name"] == "/forged"]


def test_who_has_the_proxys_key_tries_right_keys_without_a_line(rig: Rig) -> None:
    """Where the proxy asks whose a key is, a wrong one has a line and a right one none: what it is used for has one."""
    kept = json.loads((rig.running.home / "proxy.json").read_text())
    proof = {wire.PROXY_HEADER: f"{kept['api_id']}:{kept['api_key']}", wire.FORWARDED_HEADER: "for=127.0.6.1"}
    with rig.socket(**{**rig.narrow, **proof}) as client:
        right = client.get("/whoami")
    with rig.socket(**{**rig.narrow, **proof, wire.KEY_HEADER: "wrong"}) as client:
        wrong = client.get("/whoami")

    assert [right.status_code, wrong.status_code] == [200, 403]
    assert [line["decision"] for line in rig.of(wrong)] == ["denied"]
    assert not [line for line in rig.lines() if line["request"] == right.headers["x-request-id"]]


def test_a_guess_says_what_was_claimed_and_from_where(rig: Rig) -> None:
    """A wrong key through the proxy has the id that was claimed, and the network address, but no part of the key."""
    guess = secrets.token_hex(8)
    with rig.proxy({wire.ID_HEADER: "narrow", wire.KEY_HEADER: guess}, "127.0.0.21") as client:
        answer = client.get(wire.PROXIED_SECRETS_PATH + "/box/a")

    (line,) = rig.of(answer)
    assert answer.status_code == 403
    assert (line["principal"], line["decision"], line["claimed"], line["from"]) == (
        "unknown",
        "denied",
        ["apikey:narrow"],
        "127.0.0.21",
    )
    assert guess not in (rig.running.home / "log/audit.log").read_text()


def test_a_credential_in_the_wrong_field_is_not_written_down(rig: Rig) -> None:
    """Whoever sends key and id the wrong way round, or a password for a name, does not find it in the log."""
    slip = "sl1p" + secrets.token_hex(8)
    with rig.socket(**{wire.ID_HEADER: slip, wire.KEY_HEADER: "narrow"}) as client:
        assert client.get("/secrets/box/a").status_code == 403
    with rig.proxy({wire.ID_HEADER: slip, wire.KEY_HEADER: "narrow"}, "127.0.4.1") as client:
        answers = [client.get("/api/v0/secrets/box/a"), client.get("/api/v0/hosts/")]
        answers.append(client.get("/api/v0/hosts/", headers=basic(slip, "bob")))
        answers.append(client.get("/api/v0/hosts/", headers={wire.KEY_HEADER: ""}))
    assert {answer.status_code for answer in answers} == {403}

    eventually(
        lambda: sum(line.get("count", 1) for line in rig.lines() if line.get("from") == "127.0.4.1") >= len(answers)
    )
    assert slip not in (rig.running.home / "log/audit.log").read_text()


REFUSED_AT_THE_PROXY: dict[str, tuple[str, dict[str, str], int, str]] = {
    "a wrong password": ("/api/v0/hosts/", basic("bob", "wrong"), 403, "denied"),
    "nobody of that name": ("/api/v0/hosts/", basic("mallory", "wrong"), 403, "denied"),
    "no credentials": ("/api/v0/hosts/", {}, 401, "denied"),
    "a key that is none": ("/api/v0/hosts/", {wire.ID_HEADER: "narrow"}, 403, "denied"),
    "a wrong key": ("/api/v0/hosts/", {wire.ID_HEADER: "narrow", wire.KEY_HEADER: "wrong"}, 403, "denied"),
    "a path of two readings": ("/api/v0/secrets/box/%2e%2e/a", {}, 400, "refused"),
}


@pytest.mark.parametrize("kind", REFUSED_AT_THE_PROXY)
def test_what_the_proxy_refuses_stands_in_the_log_of_the_service(rig: Rig, kind: str) -> None:
    """Sign-ins that fail, requests of nobody and malformed ones leave a line with their address, though no act came."""
    path, headers, status, decision = REFUSED_AT_THE_PROXY[kind]
    address = f"127.0.1.{sorted(REFUSED_AT_THE_PROXY).index(kind) + 1}"
    with rig.proxy(headers, address) as client:
        answer = client.get(path)

    assert answer.status_code == status
    (line,) = rig.until(lambda line: line.get("from") == address)
    assert (line["principal"], line["decision"]) == ("unknown", decision)
    claimed = {"a wrong password": ["user:bob"], "a wrong key": ["apikey:narrow"]}
    assert line.get("claimed") == claimed.get(kind)


def test_what_a_known_user_is_refused_at_the_proxy_names_him(rig: Rig) -> None:
    """Who may not see credentials is on record by name, with what he wanted, and so is a request for no path."""
    with rig.proxy(basic("bob", "right")) as client:
        denied = client.get("/api/v0/host/10.0.0.7/creds")
        nowhere = client.get("/api/v0/nowhere")

    assert [denied.status_code, nowhere.status_code] == [403, 404]
    (first,), (second,) = rig.of(denied), rig.of(nowhere)
    assert told([first, second]) == [
        ("user:bob", "get", "secrets/hosts/10.0.0.7", "denied"),
        ("user:bob", "GET", "/api/v0/nowhere", "refused"),
    ]
    assert first["from"] == OTHER


def test_many_guesses_are_few_lines_and_all_of_them_counted(rig: Rig) -> None:
    """Three hundred refusals in a moment make the log grow by a few lines, whose numbers add up."""
    path, address, count = wire.PROXIED_SECRETS_PATH + "/box/" + "a" * 300, "127.0.2.1", 300
    size = (rig.running.home / "log/audit.log").stat().st_size
    began = time.monotonic()
    with rig.proxy(address=address) as client:
        assert {client.get(path).status_code for _ in range(count)} == {401}
    took = time.monotonic() - began

    def counted() -> int:
        return sum(line.get("count", 1) for line in rig.lines() if line.get("from") == address)

    eventually(lambda: counted() >= count)
    found = [line for line in rig.lines() if line.get("from") == address]
    assert counted() == count
    assert len(found) <= 2 * 2 * (took + 2)  # of two workers, one a second and one at its beginning
    assert (rig.running.home / "log/audit.log").stat().st_size - size < 1000 * len(found) + 10_000
    assert all(len(line["name"]) <= wire.MAX_TOLD for line in found)


# What is believed


@pytest.mark.parametrize("proof", [None, "narrow:guess", "storage_service:guess", ":", "narrow"])
def test_nobody_but_the_proxy_is_believed_about_the_network(rig: Rig, proof: str | None) -> None:
    """Whoever says on the socket where he comes from, or whom he acts for, is not written down as saying it.

    That he showed a key as the proxy's that is not its own is written down, with the user he is to the kernel.
    """
    said = {wire.FORWARDED_HEADER: "for=203.0.113.9;proto=http", wire.ON_BEHALF_HEADER: "user:ceo"}
    if proof is not None:
        said[wire.PROXY_HEADER] = proof
    with rig.socket(**rig.narrow, **said) as client:
        answer = client.get("/secrets/box/a")

    assert answer.status_code == 200
    lines = rig.of(answer, 1 if proof is None else 2)
    assert [line for line in lines if not {"from", "for"}.isdisjoint(line)] == []
    posed = [] if proof is None else [("unknown", "denied", True, os.getuid())]
    assert sorted(
        (line["principal"], line["decision"], "apikey:narrow" in line.get("claimed", []), line["peer"]["uid"])
        for line in lines
    ) == [("apikey:narrow", "allowed", False, os.getuid()), *posed]


def test_many_who_pose_as_the_proxy_are_few_lines(rig: Rig) -> None:
    """Three hundred requests with a wrong key of the proxy's are served, and counted in few lines beside their own."""
    count = 300
    before = len(rig.lines())
    began = time.monotonic()
    with rig.socket(**rig.narrow, **{wire.PROXY_HEADER: "proxy:guess"}) as client:
        assert {client.get("/secrets/box/a").status_code for _ in range(count)} == {200}
    took = time.monotonic() - began

    def posing() -> list[Line]:
        return [line for line in rig.lines()[before:] if "claimed to be the proxy" in line.get("reason", "")]

    eventually(lambda: sum(line.get("count", 1) for line in posing()) >= count)
    assert sum(line.get("count", 1) for line in posing()) == count
    assert len(posing()) <= 2 * 2 * (took + 2)
    assert len([line for line in rig.lines()[before:] if line["principal"] == "apikey:narrow"]) == count


def test_many_refusals_of_a_key_are_few_lines_and_its_acts_have_one_each(rig: Rig) -> None:
    """A key that is refused five hundred things at once is counted under its name; what it may do is a line each."""
    count, refused = 500, "/secrets/elsewhere/"
    before = len(rig.lines())
    began = time.monotonic()
    with rig.socket(**rig.narrow) as client:
        for number in range(count):
            assert client.get(f"{refused}{number}").status_code == 403
            assert number % 10 or client.get("/secrets/box/a").status_code == 200
    took = time.monotonic() - began

    def lines(decision: str) -> list[Line]:
        found = [line for line in rig.lines()[before:] if line["principal"] == "apikey:narrow"]
        return [line for line in found if line["decision"] == decision]

    eventually(lambda: sum(line.get("count", 1) for line in lines("denied")) >= count)
    assert sum(line.get("count", 1) for line in lines("denied")) == count
    assert len(lines("denied")) <= 2 * 2 * (MOST_ACTS + 1) * (took + 2)
    assert len(lines("denied")) < count
    assert len(lines("allowed")) == count // 10


def test_a_client_of_the_proxy_names_no_address_but_its_own(rig: Rig) -> None:
    """What a client says of where it comes from does not reach the log; what the proxy sees does."""
    said = {"Forwarded": "for=203.0.113.9", "X-Forwarded-For": "203.0.113.9", wire.ON_BEHALF_HEADER: "user:ceo"}
    with rig.proxy({**rig.narrow, **said, wire.PROXY_HEADER: "a:b"}) as client:
        answer = client.get(wire.PROXIED_SECRETS_PATH + "/box/a")

    (line,) = rig.of(answer)
    assert (line["from"], "for" in line) == (OTHER, False)


def test_refusals_are_reported_by_the_proxy_alone(rig: Rig) -> None:
    """Another key cannot write into the log what it likes, and that it tried is on record."""
    forged = {"request": "forged-1", "action": "GET", "name": "/x", "reason": "r", "principal": "user:ceo"}
    with rig.socket(**rig.narrow) as client:
        answer = client.post(wire.REFUSALS_PATH, json={"refusals": [forged]})

    assert answer.status_code == 403
    assert told(rig.of(answer)) == [("apikey:narrow", "POST", wire.REFUSALS_PATH, "denied")]
    assert not [line for line in rig.lines() if line["request"] == "forged-1"]


def test_a_terminal_shows_what_a_stranger_sent_as_escapes(rig: Rig) -> None:
    """Control characters in a path, C1 and DEL among them, stand in no byte of the log."""
    with closing(socket.socket(socket.AF_UNIX)) as raw:
        raw.connect(str(rig.running.socket))
        raw.sendall(b"GET /x%7f%c2%9b31m\x9bRED%e2%80%ae HTTP/1.1\r\nhost: x\r\nx-request-id: escapes-1\r\n\r\n")
        assert b" 400 " in raw.recv(100)
    log = (rig.running.home / "log/audit.log").read_bytes()

    assert b"\x7f" not in log
    assert all(char.isprintable() for char in log.decode().replace("\n", ""))


def test_no_password_is_tried_while_refusals_cannot_be_recorded(rig: Rig) -> None:
    """With the log gone a wrong password is not judged, nor a right one; when it is back each guess is."""
    log, away, address = rig.running.home / "log", rig.running.home / "away", "127.0.3.1"
    with rig.proxy(basic("bob", "right"), address) as bob, rig.proxy(basic("bob", "wrong"), address) as guessing:
        assert bob.get("/api/v0/hosts/").status_code == 200
        log.rename(away)
        told_off = [guessing.get("/api/v0/hosts/"), guessing.get("/api/v0/hosts/"), bob.get("/api/v0/hosts/")]
        away.rename(log)
        after = bob.get("/api/v0/hosts/")
        guesses = sum(guessing.get("/api/v0/hosts/").status_code == 403 for _ in range(3))

    def counted() -> int:
        found = rig.until(lambda line: line.get("from") == address and line["decision"] == "denied")
        assert [line["claimed"] for line in found] == [["user:bob"]] * len(found)
        return sum(line.get("count", 1) for line in found)

    assert after.status_code == 200
    assert {answer.json()["type"] for answer in told_off} == {"urn:strongroom:problem:audit-unavailable"}
    eventually(lambda: counted() >= guesses)
    assert counted() == guesses == 3


# What was tampered with


def test_a_tampered_key_record_leaves_a_line(tmp_path: Path) -> None:
    """A key's record that was copied to another id opens nothing, is 500, and the log names it and says why."""
    with up(tmp_path / "home") as running:
        own = credentials(running.home)
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(running.socket)), base_url="http://socket") as client:
            key = client.post("/apikeys", json={"id": "real"}, headers=own).json()["key"]
            with closing(sqlite3.connect(running.home / "data" / "strongroom.db")) as store, store:
                copied = "select 'system/access/apikeys/planted', revision, value from entry where name = ?"
                store.execute(f"insert into entry (name, revision, value) {copied}", ("system/access/apikeys/real",))
    with up(tmp_path / "home") as running:  # again, for records of access are read when the epoch says so
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(running.socket)), base_url="http://socket") as client:
            answer = client.get("/secrets/a/b", headers={wire.ID_HEADER: "planted", wire.KEY_HEADER: key})
        lines = audit_lines(running.home / "log/audit.log")

    assert answer.status_code == 500
    (line,) = [line for line in lines if line["request"] == answer.headers["x-request-id"]]
    assert (line["principal"], line["decision"], line["claimed"]) == ("unknown", "failed", ["apikey:planted"])
    assert "system/access/apikeys/planted" in line["reason"]

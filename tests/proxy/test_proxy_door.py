"""The door: which spellings of a path pass, who is let through, and who is told what."""

import base64
import json
import os
from pathlib import Path

import pytest

from strongroom.http_proxy.app import create_app
from strongroom.http_proxy.authn.base import Identity
from strongroom.http_proxy.middleware import API_ROOT, AuthenticationManager
from strongroom.http_proxy.request import forwarded, request_id
from strongroom.models.secret import Secret
from strongroom.storage_service.config import ProxySettings
from strongroom.storage_service.errors import ConfigurationError, Invalid
from strongroom.storage_service.wire import http1
from strongroom.storage_service.wire.paths import read_path
from tests.in_process import inside
from tests.proxy.conftest import PASSWORD, Proxy
from tests.raw_http import Client, Exchange, ScriptedService, ask, request

S = "/api/v0/secrets"
STATUS = b'{"version":"1","state":"unlocked","store":"memory","endpoints":{}}'  # and what else a service may say
IDENTIFIED = b'{"principal":"apikey:ci","paths":["/"],"actions":["get"]}'

PLAIN = [
    "/",
    "/livez",
    "/api/v0",
    "/api/v0/",
    S,
    f"{S}/",
    f"{S}/hosts",
    f"{S}/hosts/",
    f"{S}/hosts/10.0.0.7",
    f"{S}/hosts/fe80::1",
    f"{S}/a/b/c/d/",
    f"{S}/a/user@example.org",
    f"{S}/a/..b",
    f"{S}/a/b..",
    f"{S}/a/...",
    f"{S}/a/.b",
    f"{S}/a/-_.+:@",
    f"{S}/{'n' * 504}",
    "/api/v0/secretsX/a",
    "/API/V0/secrets/a",
]
ENCODED = {
    f"{S}/%61/b": f"{S}/a/b",
    f"{S}/%41bc": f"{S}/Abc",
    f"{S}/hosts/fe80%3A%3a1": f"{S}/hosts/fe80::1",
    f"{S}/a/user%40example.org": f"{S}/a/user@example.org",
    "/api/v0/%73ecrets/a": f"{S}/a",
    "/api/%76%30/secrets/a": f"{S}/a",
}

AMBIGUOUS = [
    f"{S}/hosts/../system/keyring",
    f"{S}/hosts/./a",
    f"{S}/..",
    f"{S}/.",
    f"{S}/../hosts/",
    f"{S}/a/..",
    f"{S}/a/../",
    "/..",
    "/../etc/passwd",
    "/api/v0/hosts/../secrets/a",
    "/api/v0/secretsX/../secrets/a",
    f"{S}/%2e%2e/a",
    f"{S}/%2E%2E/a",
    f"{S}/.%2e/a",
    f"{S}/%2e/a",
    f"{S}/hosts%2fa",
    f"{S}/hosts%2Fa",
    "/api/v0%2fsecrets/a",
    "/api%2Fv0/secrets/a",
    f"{S}/a%5cb",
    f"{S}/a%5Cb",
    f"{S}/a\\b",
    f"{S}\\a",
    f"{S}//a",
    f"/{S}/a",
    f"//{S}/a",
    "/api//v0/secrets/a",
    f"{S}/a//",
    f"{S}/a/%00",
    f"{S}/a%00b",
    f"{S}/a%0ab",
    f"{S}/a%0d%0ab",
    f"{S}/a%09b",
    f"{S}/a%7f",
    f"{S}/a%20b",
    f"{S}/%252e%252e/a",
    f"{S}/%25",
    f"{S}/%",
    f"{S}/%2",
    f"{S}/%zz",
    f"{S}/%u002e",
    f"{S}/%c0%ae%c0%ae/a",
    f"{S}/%c0%af",
    f"{S}/%e0%80%af",
    f"{S}/%ff",
    f"{S}/%c3%a9",
    f"{S}/\xc3\xa9",
    f"{S}/\xe9",
    f"{S}/\xc0\xae\xc0\xae/a",
    f"{S}/a;b",
    f"{S}/a;/../b",
    f"{S}/a,b",
    f"{S}/a*",
    f"{S}/a~b",
    f"{S}/a'b",
    f"{S}/a$b",
    f"{S}/a&b",
    f"{S}/a=b",
    f"{S}/(a)",
    f"{S}/[a]",
    f"{S}/a|b",
    f'{S}/a"b',
    f"{S}/a^b",
    f"{S}/<a>",
    f"{S}/`a`",
    f"{S}/{{a}}",
    f"{S}/a#b",
    f"{S}/{'n' * 505}",
    f"http://test{S}/a",
    f"https://test{S}/a",
    f"http:{S}/a",
    "*",
    S.removeprefix("/"),
]


@pytest.mark.parametrize("path", PLAIN)
def test_plain_paths_are_themselves(path: str) -> None:
    """What passes the check is exactly what was sent."""
    assert read_path(path.encode("latin-1"), API_ROOT) == path


@pytest.mark.parametrize("path", ENCODED)
def test_the_encoding_of_a_legal_character_is_that_character(path: str) -> None:
    """Two spellings are one path (RFC 3986 sec. 6.2.2.2), and the plain one is what everybody sees."""
    assert read_path(path.encode("latin-1"), API_ROOT) == ENCODED[path]


@pytest.mark.parametrize("path", ENCODED)
async def test_the_service_is_asked_for_the_plain_spelling(proxy: Proxy, service: ScriptedService, path: str) -> None:
    """However the client encodes a path, the service hears the one spelling."""
    assert (await ask(proxy.port, request("GET", path))).status == 200
    assert [heard.target for heard in service.heard] == [ENCODED[path].removeprefix("/api/v0")]


async def test_an_encoded_path_finds_its_route(proxy: Proxy, service: ScriptedService) -> None:
    """The routes of the records see the plain spelling, too, which is the one that was let through."""
    plain, encoded = [
        await ask(proxy.port, request("GET", path, basic(f"alice:{PASSWORD}")))
        for path in ("/api/v0/host/fe80::1", "/api/v0/%68ost/fe80%3a%3a1")
    ]
    assert (encoded.status, encoded.get("content-type")) == (plain.status, plain.get("content-type"))
    bodies = [[heard.body for heard in service.heard[turn::2]] for turn in range(2)]
    assert bodies[0] == bodies[1] != []


@pytest.mark.parametrize("path", [*AMBIGUOUS, "", f"{S}/a\x00b", f"{S}/a\nb", f"{S}/a b", f"{S}/a\x7f", f"{S}/a\n"])
def test_everything_else_is_refused(path: str) -> None:
    """The check does not mend a path, and what it says of one does not repeat it."""
    with pytest.raises(Invalid) as told:
        read_path(path.encode("latin-1"), API_ROOT)
    assert len(path) < 8 or path not in str(told.value)


@pytest.mark.parametrize("path", AMBIGUOUS)
async def test_an_ambiguous_path_is_400_before_anything_else(proxy: Proxy, service: ScriptedService, path: str) -> None:
    """Whoever sends it, and wherever it might lead: the service hears nothing of it, the client no echo."""
    answer = await ask(proxy.port, request("GET", path, "custodia-auth-id: a", "custodia-auth-key: b"))

    assert answer.status == 400
    assert service.heard == []
    assert answer.get("content-type") == "application/problem+json"
    problem = json.loads(answer.body)
    if answer.get("x-request-id"):  # else it is no request at all, and the connection was faster
        assert problem["type"] == "urn:strongroom:problem:invalid"
        assert problem["request_id"] == answer.get("x-request-id")
    assert path.encode("latin-1") not in answer.body or len(path) < 8


@pytest.mark.parametrize("query", ["a b", "a\\b", "a\x01", "\xe9", "a<b", "a#b", "{}", "|", '"'])
async def test_a_query_is_spelled_as_the_standard_says(proxy: Proxy, service: ScriptedService, query: str) -> None:
    """Bytes that no query may hold are refused, not sent on."""
    answer = await ask(proxy.port, request("GET", f"{S}/a?{query}"))

    assert answer.status == 400
    assert service.heard == []


LOOKALIKES = ["/api/v0/secretsX", "/api/v0/secretsX/a", "/api/v0/secret", "/api/v0/Secrets/a", "/api/v1/secrets/a"]


@pytest.mark.parametrize("path", LOOKALIKES)
async def test_a_path_that_looks_like_the_secrets_is_not(proxy: Proxy, service: ScriptedService, path: str) -> None:
    """Only whole segments make a self-authenticated path."""
    answer = await ask(proxy.port, request("GET", path))

    assert answer.status == 401
    assert service.heard == []


@pytest.mark.parametrize("path", [S, f"{S}/", f"{S}/a/b"])
async def test_secrets_bypass_the_authenticators(proxy: Proxy, service: ScriptedService, path: str) -> None:
    """No credentials, or the wrong ones, and it is still the service that answers."""
    assert (await ask(proxy.port, request("GET", path))).status == 200
    assert (await ask(proxy.port, request("GET", path, "authorization: Basic bm9ib2R5Ong="))).status == 200


async def test_without_credentials_the_ways_in_are_told(proxy: Proxy, service: ScriptedService) -> None:
    """A 401 says which credentials there are."""
    answer = await ask(proxy.port, request("GET", "/api/v0/hosts/"))

    assert answer.status == 401
    assert answer.all("www-authenticate") == [
        'Custodia realm="strongroom"',
        'Basic realm="strongroom", charset="UTF-8"',
    ]
    assert json.loads(answer.body)["type"] == "urn:strongroom:problem:not-authenticated"
    assert service.heard == []


def basic(text: str) -> str:
    return f"authorization: Basic {base64.b64encode(text.encode()).decode()}"


async def identified(exchange: Exchange) -> None:
    """Know whoever asks."""
    exchange.answer(200, IDENTIFIED if "whoami" in exchange.head.first else STATUS)


WRONG = {
    "a wrong password": basic("alice:nope"),
    "an unknown user": basic(f"mallory:{PASSWORD}"),
    "no colon": basic("alice"),
    "an empty password": basic("alice:"),
    "an empty user": basic(f":{PASSWORD}"),
    "no base64": "authorization: Basic a$b",
    "nothing": "authorization: Basic",
    "no UTF-8": "authorization: Basic /////w==",
    "half a key": "custodia-auth-id: ci",
    "the other half": "custodia_auth_key: x",
}


@pytest.mark.parametrize("story", WRONG)
async def test_wrong_credentials_end_the_chain(proxy: Proxy, service: ScriptedService, story: str) -> None:
    """403, and not a word about which part was wrong: what has the form of a password the service judges."""

    async def script(exchange: Exchange) -> None:
        assert "whoami" in exchange.head.first
        exchange.answer(403)

    service.script = script
    answer = await ask(proxy.port, request("GET", "/api/v0/", WRONG[story]))

    assert answer.status == 403
    assert json.loads(answer.body)["title"] == "The credentials are wrong or do not allow this"


@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC"])
async def test_a_user_is_let_through(proxy: Proxy, service: ScriptedService, scheme: str) -> None:
    """With a password that has colons in it; the scheme's case does not matter."""
    service.script = identified
    line = basic(f"alice:{PASSWORD}").replace("Basic", scheme)
    answer = await ask(proxy.port, request("GET", "/api/v0/", line))

    assert answer.status == 200
    assert json.loads(answer.body)["endpoints"]["secrets"] == "/api/v0/secrets/"


TWICE = {
    "one spelling twice": ["custodia-auth-id: a", "custodia-auth-id: a", "custodia-auth-key: b"],
    "two spellings of the id": ["custodia-auth-id: a", "CUSTODIA_AUTH_ID: a", "custodia-auth-key: b"],
    "two spellings of the key": ["custodia-auth-id: a", "CUSTODIA_AUTH_KEY: b", "custodia-auth-key: b"],
    "two names of the key": ["custodia-auth-id: a", "custodia-key-id: b", "custodia-auth-key: b"],
    "two users": [basic(f"alice:{PASSWORD}"), basic(f"bob:{PASSWORD}")],
}


@pytest.mark.parametrize("story", TWICE)
async def test_credentials_that_stand_twice_are_refused(proxy: Proxy, service: ScriptedService, story: str) -> None:
    """Which of two claims holds is not guessed."""
    answer = await ask(proxy.port, request("GET", "/api/v0/", *TWICE[story]))

    assert answer.status == 400
    assert service.heard == []


async def test_an_api_key_is_judged_by_the_service(proxy: Proxy, service: ScriptedService) -> None:
    """The service is asked with the caller's own key, as for somebody who is no local process."""
    service.script = identified
    answer = await ask(proxy.port, request("GET", "/api/v0/", "CUSTODIA_AUTH_ID: ci", "CUSTODIA_KEY_ID: k3y"))

    assert answer.status == 200
    heard, then = service.heard
    assert [heard.first, then.first] == ["GET /whoami HTTP/1.1", "GET /status HTTP/1.1"]
    assert (heard.get("custodia-auth-id"), heard.get("custodia-auth-key")) == ("ci", "k3y")
    assert heard.get("x-request-id") == then.get("x-request-id") == answer.get("x-request-id")
    assert heard.get("strongroom-asked") == "GET /api/v0/"
    assert heard.get("forwarded") is not None


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ((403, b'{"type":"urn:strongroom:problem:denied"}'), 403),
        ((401, b'{"type":"urn:strongroom:problem:not-authenticated"}'), 403),
        ((503, b'{"type":"urn:strongroom:problem:locked"}'), 503),
        ((503, b'{"type":"urn:strongroom:problem:audit-unavailable"}'), 503),
        ((500, b"oops"), 500),
        ((500, b'{"type":"\xff"}'), 500),
        ((503, b'{"type":' + b"[" * 60_000), 503),
        ((200, b"oops"), 503),
        ((200, b'{"principal":"\xff","paths":[],"actions":[]}'), 503),
        ((200, b'{"principal":' + b"[" * 60_000), 503),
        ((200, b'{"else":' + b"[" * 60_000), 503),
        ((200, b'{"principal":7}'), 503),
    ],
)
async def test_only_a_clear_yes_lets_through(
    proxy: Proxy, service: ScriptedService, told: tuple[int, bytes], status: int
) -> None:
    """Whatever else the service says of a key, the caller stays outside."""

    async def script(exchange: Exchange) -> None:
        exchange.answer(*told)

    service.script = script
    answer = await ask(proxy.port, request("GET", "/api/v0/", "custodia-auth-id: a", "custodia-auth-key: b"))

    assert answer.status == status


async def test_a_service_that_is_away_lets_no_api_key_in(proxy: Proxy, service: ScriptedService) -> None:
    """What cannot be checked is a 503, not a yes."""
    await service.stop()
    answer = await ask(proxy.port, request("GET", "/api/v0/", "custodia-auth-id: a", "custodia-auth-key: b"))

    assert (answer.status, answer.get("retry-after")) == (503, "1")


async def test_health_is_open_and_readiness_is_the_services(proxy: Proxy, service: ScriptedService) -> None:
    """/livez never asks the service; /readyz says what it says, and of what is no such answer nothing."""
    checks = {"audit": True, "store": True, "keyring": True}
    said = {"status": "ready", "state": "locked", "checks": checks}

    async def script(exchange: Exchange) -> None:
        exchange.answer(503 if said["status"] == "unready" else 200, json.dumps(said).encode())

    service.script = script
    assert (await ask(proxy.port, request("GET", "/livez"))).status == 200
    assert service.heard == []
    answer = await ask(proxy.port, request("GET", "/readyz"))
    assert (answer.status, json.loads(answer.body)) == (200, said | {"checks": {"service": True, **checks}})
    assert [heard.target for heard in service.heard] == ["/readyz"]

    said["status"] = "unready"
    answer = await ask(proxy.port, request("GET", "/readyz"))
    assert (answer.status, json.loads(answer.body)["status"]) == (503, "unready")
    said["checks"] = {"audit": "sesame"}
    nothing = {"status": "unready", "state": None, "checks": {"service": False}}
    answer = await ask(proxy.port, request("GET", "/readyz"))
    assert (answer.status, json.loads(answer.body)) == (503, nothing)
    await service.stop()
    assert (await ask(proxy.port, request("GET", "/livez"))).status == 200
    answer = await ask(proxy.port, request("GET", "/readyz"))
    assert (answer.status, answer.get("retry-after"), json.loads(answer.body)) == (503, "1", nothing)


ERRORS = [
    ("GET", "/api/v0/nothing", 404),
    ("GET", "/nothing", 404),
    ("GET", "/", 404),
    ("DELETE", "/api/v0/hosts/", 405),
    ("PATCH", "/api/v0/host/a", 405),
    ("PUT", "/api/v0/host/a", 400),
]


@pytest.mark.parametrize(("method", "path", "status"), ERRORS)
async def test_every_error_is_a_problem_with_an_id(
    proxy: Proxy, service: ScriptedService, method: str, path: str, status: int
) -> None:
    """Also those that the framework finds itself."""
    service.script = identified
    sent = request(method, path, basic(f"alice:{PASSWORD}"), "x-request-id: my-request-1", body=b"not json")
    answer = await ask(proxy.port, sent)

    assert answer.status == status
    assert answer.get("content-type") == "application/problem+json"
    problem = json.loads(answer.body)
    assert (problem["status"], problem["request_id"]) == (status, "my-request-1")
    code = {400: "invalid", 404: "not-found", 405: "method-not-allowed"}[status]
    assert problem["type"] == f"urn:strongroom:problem:{code}"
    assert (answer.get("allow") is not None) is (status == 405)
    assert answer.all("x-request-id") == ["my-request-1"]
    assert "not json" not in answer.body.decode()


async def test_a_head_request_is_answered_without_a_body(proxy: Proxy, service: ScriptedService) -> None:
    """A refusal of HEAD is all head."""
    async with await Client.to(proxy.port) as client:
        client.writer.write(request("HEAD", "/api/v0/hosts/", "connection: close"))
        told = await client.reader.read()

    assert told.startswith(b"HTTP/1.1 401 ")
    assert told.endswith(b"\r\n\r\n")


async def test_an_upgrade_is_not_taken(proxy: Proxy, service: ScriptedService) -> None:
    """Nobody has to agree to one (RFC 9110 sec. 7.8): the request is served, and the wish stays here."""
    upgrade = ["upgrade: websocket", "connection: upgrade", "sec-websocket-version: 13"]
    upgrade.append(f"sec-websocket-key: {base64.b64encode(os.urandom(16)).decode()}")
    async with await Client.to(proxy.port) as client:
        for turn in range(2):
            assert (await client.ask(request("GET", f"{S}/a/{turn}", *upgrade))).status == 200
        assert (await client.ask(request("GET", "/api/v0/hosts/", *upgrade))).status == 401

    assert [heard.target for heard in service.heard] == ["/secrets/a/0", "/secrets/a/1"]
    assert all(heard.get("upgrade") is heard.get("connection") is None for heard in service.heard)


async def test_nobody_passes_where_nothing_is_configured() -> None:
    """A proxy without authenticators lets nobody through but to what authenticates itself."""
    passed: list[str] = []

    def behind(exchange: http1.Exchange, path: str, identity: Identity | None) -> None:
        passed.append(path)
        assert identity is None
        exchange.answer(200, ())

    paths = ("/api/v0/hosts", "/api/v0/secrets/a", "/", "/livez")
    async with inside(AuthenticationManager(behind, [])) as served:
        statuses = [(await served.ask(request("GET", path, "custodia-auth-id: a"))).status for path in paths]

    assert passed == ["/api/v0/secrets/a", "/livez"]
    assert statuses == [401, 200, 401, 200]


async def test_a_self_authenticated_path_that_cannot_authenticate_lets_nobody_in() -> None:
    """A model route that is configured to bypass the authenticators knows no caller, and refuses."""
    prefixes = ("/api/v0/secrets", "/api/v0/hosts")
    app = create_app(ProxySettings(socket=Path("/nowhere"), api_id="a", api_key=Secret("b"), self_auths=prefixes))
    async with inside(app) as served:
        assert (await served.ask(request("GET", "/api/v0/hosts"))).status == 401


@pytest.mark.parametrize("prefix", ["/", "", "api/v0/secrets"])
def test_the_root_does_not_authenticate_itself(prefix: str) -> None:
    """A prefix that everything lies below would let everyone in; it is refused at the start."""

    def behind(exchange: object, path: str, identity: object) -> None:
        """Do nothing."""

    with pytest.raises(ConfigurationError):
        AuthenticationManager(behind, [], [prefix])


@pytest.mark.parametrize(
    ("client", "scheme", "told"),
    [
        ("10.0.0.7", "http", "for=10.0.0.7;proto=http"),
        ("fe80::1", "https", 'for="[fe80::1]";proto=https'),
        ("/", "http", "for=unknown;proto=http"),
        ("10.0.0.7, for=evil", "http", "for=unknown;proto=http"),
        ("", "gopher", "for=unknown;proto=http"),
    ],
)
def test_forwarded_tells_the_address_and_nothing_else(client: str, scheme: str, told: str) -> None:
    """An address is written as RFC 7239 says; what is none is unknown."""
    assert forwarded(client, scheme) == told


@pytest.mark.parametrize(("given", "kept"), [(b"abcdefgh", True), (b"a" * 64, True), (b"a-b_c.d8", True)])
def test_a_wellformed_request_id_is_kept(given: bytes, kept: bool) -> None:
    """It is the client's own, for its logs and ours."""
    assert (request_id(given) == given) is kept


@pytest.mark.parametrize(
    "given", [None, b"", b"short", b"a" * 65, b"abcdefg\n", b"abc defgh", b"abcdefg\xe9", b"<abcdefg>"]
)
def test_any_other_request_id_is_replaced(given: bytes | None) -> None:
    """What could forge a line of a log never gets there."""
    assert request_id(given) != given
    assert len(request_id(given)) == 24

"""Engines, each by itself: what it is asked, every way in which it fails, and the breaker."""

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trustme

from strongroom.models.access import Right
from strongroom.models.secret import Secret
from strongroom.storage_service.access.engines.base import (
    DEADLINE,
    EngineFailed,
    Outcome,
    Stance,
    action_of,
    resource_of,
)
from strongroom.storage_service.access.engines.breaker import PAUSE, THRESHOLD, Breaker
from strongroom.storage_service.access.engines.opa import Opa
from strongroom.storage_service.access.engines.openfga import OpenFga
from strongroom.storage_service.access.engines.panel import PERIOD, WIDTH, Panel, Question, Seat
from strongroom.storage_service.access.engines.rbac import Permission, Rbac
from strongroom.storage_service.access.engines.server import MAX_ANSWER, Server, Url
from strongroom.storage_service.errors import ConfigurationError
from tests.access.policy_server import Asked, Behave, PolicyServer, policy, response, saying, serving

TOKEN: Final = "t0ken-of-the-engine"
ANN: Final = {"subject": "user:ann", "action": "secrets.read", "resource": "secrets:db/password"}


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def server(policies: PolicyServer, clock: Clock | None = None, token: str | None = None) -> Server:
    """Return who asks *policies*."""
    secret = None if token is None else Secret(token)
    return Server(Url.of(policies.url, plain=False), token=secret, now=clock or Clock())


@asynccontextmanager
async def opa(behave: Behave, clock: Clock | None = None) -> AsyncIterator[tuple[Opa, PolicyServer]]:
    """Give an engine, and the server behind it."""
    async with serving(behave) as policies:
        engine = Opa(server(policies, clock))
        try:
            yield engine, policies
        finally:
            engine.close()


# RBAC


async def test_roles_allow_what_they_have_a_permission_for() -> None:
    """A role's permission is for one action on one resource or on all; what is taken back is gone, once or twice."""
    rbac = Rbac()
    rbac.grant_role("user:ann", "reader")
    rbac.bind_role_to_permission("reader", "secrets.read", "secrets:db/password")
    rbac.bind_role_to_permission("reader", "hosts.list", "*")
    assert await rbac.check(**ANN)
    assert await rbac.check(subject="user:ann", action="hosts.list", resource="hosts:h1")
    assert not await rbac.check(subject="user:ann", action="secrets.modify", resource="secrets:db/password")
    assert not await rbac.check(subject="user:ann", action="secrets.read", resource="secrets:db/other")
    assert not await rbac.check(subject="user:bo", action="secrets.read", resource="secrets:db/password")
    for _ in range(2):
        rbac.unbind_role_from_permission("reader", "secrets.read", "secrets:db/password")
        assert not await rbac.check(**ANN)
    for _ in range(2):
        rbac.revoke_role("user:ann", "reader")
        assert not await rbac.check(subject="user:ann", action="hosts.list", resource="hosts:h1")
    rbac.revoke_role("user:nobody", "none")
    rbac.unbind_role_from_permission("none", "secrets.read", "*")


async def test_a_star_that_is_asked_about_is_no_wildcard() -> None:
    """Who may do it to one resource may not do it to ``*``; who has the permission for ``*`` may."""
    rbac = Rbac()
    rbac.grant_role("user:ann", "one")
    rbac.bind_role_to_permission("one", "secrets.read", "secrets:db/password")
    assert not await rbac.check(subject="user:ann", action="secrets.read", resource="*")
    rbac.bind_role_to_permission("one", "secrets.read", "*")
    assert await rbac.check(subject="user:ann", action="secrets.read", resource="*")


async def test_no_role_includes_another() -> None:
    """Who is granted a role by a role's name has no more than that: names of roles are no subjects."""
    rbac = Rbac()
    rbac.grant_role("user:ann", "admin")
    rbac.grant_role("admin", "reader")
    rbac.bind_role_to_permission("reader", "secrets.read", "*")
    assert not await rbac.check(**ANN)


def test_what_is_told_of_roles_does_not_change_with_them() -> None:
    """Roles and permissions are told as frozen copies."""
    rbac = Rbac()
    rbac.grant_role("user:ann", "reader")
    rbac.bind_role_to_permission("reader", "secrets.read", "*")
    roles, permissions = rbac.roles_of("user:ann"), rbac.permissions_of("reader")
    rbac.revoke_role("user:ann", "reader")
    rbac.unbind_role_from_permission("reader", "secrets.read", "*")
    assert (roles, permissions) == ({"reader"}, {Permission("secrets.read", "*")})
    assert isinstance(roles, frozenset)
    assert isinstance(permissions, frozenset)
    assert (rbac.roles_of("user:ann"), rbac.permissions_of("reader")) == (frozenset(), frozenset())


async def test_roles_come_from_settings_and_a_file(tmp_path: Path) -> None:
    """Both say the same things, and add up."""
    file = tmp_path / "roles.json"
    said = {"grants": {"user:bo": ["writer"]}, "permissions": {"writer": [["secrets.modify", "*"]]}}
    file.write_text(json.dumps(said))
    file.chmod(0o600)
    options = {"grants": "user:ann reader", "permissions": "reader secrets.read *", "file": str(file)}
    rbac = Rbac.from_options(options, None)
    assert await rbac.check(**ANN)
    assert await rbac.check(subject="user:bo", action="secrets.modify", resource="secrets:db/password")


@pytest.mark.parametrize("text", ["[]", "{", '{"grants": {"user:ann": "reader"}}', '{"rules": {}}', "\xff"])
def test_a_file_of_roles_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    """A file that says anything else ends the start, and is not quoted."""
    file = tmp_path / "roles.json"
    file.write_bytes(text.encode("latin-1"))
    file.chmod(0o600)
    with pytest.raises(ConfigurationError, match=r"roles\.json: an engine Rbac reads"):
        Rbac.from_options({"file": str(file)}, None)


def test_a_file_of_roles_that_others_may_change_is_refused(tmp_path: Path) -> None:
    """Whoever may write it could give themselves a role."""
    file = tmp_path / "roles.json"
    file.write_text("{}")
    file.chmod(0o666)
    with pytest.raises(ConfigurationError, match=r"roles\.json"):
        Rbac.from_options({"file": str(file)}, None)
    with pytest.raises(ConfigurationError, match="No such file"):
        Rbac.from_options({"file": str(tmp_path / "none")}, None)


@pytest.mark.parametrize("options", [{"grants": "user:ann"}, {"permissions": "reader secrets.read"}])
def test_half_a_grant_is_refused(options: dict[str, str]) -> None:
    """A role without a subject, or a permission without a resource, ends the start."""
    with pytest.raises(ConfigurationError, match="an engine Rbac has grants such as"):
        Rbac.from_options(options, None)


# Words


def test_names_become_words_of_an_engine() -> None:
    """The domain is the first segment of a name; a domain's own container is ``/`` in it."""
    assert action_of(Right.READ, "secrets/db/password") == "secrets.read"
    assert action_of(Right.LOCK, "system/keyring/lock") == "system.lock"
    assert resource_of("secrets/db/password") == "secrets:db/password"
    assert resource_of("secrets/db/") == "secrets:db/"
    assert resource_of("secrets/") == "secrets:/"


# OPA and OpenFGA


@pytest.mark.parametrize("answer", [True, False])
@pytest.mark.parametrize("form", ["plain", "document"])
async def test_opa_is_asked_and_answers(answer: bool, form: str) -> None:
    """The question is the policy's input and nothing else; the result is a truth value, or has one named allow."""
    result = answer if form == "plain" else {"allow": answer, "why": "because"}
    async with opa(saying({"result": result})) as (engine, policies):
        assert await engine.check(**ANN) is answer
        (asked,) = policies.asked
    assert asked.line == "POST /v1/data/strongroom/allow HTTP/1.1"
    assert asked.body == {"input": ANN}
    assert asked.fields["content-type"] == "application/json"
    assert asked.fields["host"] == f"127.0.0.1:{policies.port}"
    assert "authorization" not in asked.fields


@pytest.mark.parametrize("answer", [True, False])
async def test_openfga_is_asked_and_answers(answer: bool) -> None:
    """The question is a tuple key, with the model where one is named; the token goes along."""
    async with serving(saying({"allowed": answer, "resolution": ""})) as policies:
        options = {"url": f"http://127.0.0.1:{policies.port}", "store": "01ARZ3", "model": "01HMOD"}
        engine = OpenFga.from_options(options, Secret(TOKEN))
        assert await engine.check(**ANN) is answer
        engine.close()
        (asked,) = policies.asked
    assert asked.line == "POST /stores/01ARZ3/check HTTP/1.1"
    assert asked.fields["authorization"] == f"Bearer {TOKEN}"
    assert asked.body == {
        "tuple_key": {"user": "user:ann", "relation": "secrets.read", "object": "secrets:db/password"},
        "authorization_model_id": "01HMOD",
    }


async def test_openfga_takes_relations_of_a_model() -> None:
    """A right that has a relation is asked for by that; the second colon of an id is written otherwise."""
    async with serving(saying({"allowed": True})) as policies:
        options = {
            "url": f"http://127.0.0.1:{policies.port}/fga/",
            "store": "s",
            "relations": "read=viewer list=viewer",
        }
        engine = OpenFga.from_options(options, None)
        assert await engine.check(subject="apikey:a:b", action="secrets.read", resource="secrets:user:ann/x")
        assert await engine.check(subject="apikey:a", action="secrets.delete", resource="secrets:x/y")
        engine.close()
        first, second = policies.asked
    assert first.line == "POST /fga/stores/s/check HTTP/1.1"
    assert first.body == {"tuple_key": {"user": "apikey:a%3Ab", "relation": "viewer", "object": "secrets:user%3Aann/x"}}
    assert second.body["tuple_key"]["relation"] == "secrets.delete"


async def _dripping(asked: Asked, writer: asyncio.StreamWriter) -> None:
    del asked
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n")
    for _ in range(400):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


async def _huge(asked: Asked, writer: asyncio.StreamWriter) -> None:
    del asked
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(MAX_ANSWER // 1024 + 2):
        writer.write(b"400\r\n" + b" " * 1024 + b"\r\n")
        await writer.drain()
    writer.write(b"f\r\n" + b'{"result":true}' + b"\r\n0\r\n\r\n")


async def _silent(asked: Asked, writer: asyncio.StreamWriter) -> None:
    del asked, writer
    await asyncio.sleep(30)


async def _leaving(asked: Asked, writer: asyncio.StreamWriter) -> None:
    del asked
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n{")
    writer.close()


async def _no_http(asked: Asked, writer: asyncio.StreamWriter) -> None:
    del asked
    writer.write(b"* OK IMAP4rev1 ready\r\n\r\n\r\n\r\n")


YES: Final = {"result": True, "allowed": True}

# How a server fails, what the error says, and whether the breaker counts it.
FAILING: Final[dict[str, tuple[Behave, str, bool]]] = {
    "500": (saying(YES, "500 Internal Server Error"), "it answers with status 500", False),
    "503": (saying(YES, "503 Service Unavailable"), "it answers with status 503", True),
    "429": (saying(YES, "429 Too Many Requests"), "it answers with status 429", True),
    "401": (saying(YES, "401 Unauthorized"), "it answers with status 401", False),
    "201": (saying(YES, "201 Created"), "it answers with status 201", False),
    "204": (saying(b"", "204 No Content"), "", False),
    "no JSON": (saying(b"yes"), "its answer is not JSON", False),
    "no text": (saying(b"\xff\xfe"), "its answer is not JSON", False),
    "deep": (saying(b"[" * 60_000), "its answer is not JSON", False),
    "nothing": (saying(b""), "its answer is not JSON", False),
    "undefined": (saying({}), "its answer", False),
    "a list": (saying([True]), "its answer", False),
    "a truth alone": (saying(True), "its answer", False),
    "a number": (saying({"result": 1, "allowed": 1}), "its answer", False),
    "a text": (saying({"result": "true", "allowed": "true"}), "its answer", False),
    "null": (saying({"result": None, "allowed": None}), "its answer", False),
    "a deep yes": (saying({"result": {"allow": {"allow": True}}, "allowed": {"allowed": True}}), "its answer", False),
    "silence": (_silent, "it did not answer within 250 ms", True),
    "drip": (_dripping, "it did not answer within 250 ms", True),
    "huge": (_huge, "its answer is broken, or longer than", True),
    "broken off": (_leaving, "its answer is broken, or longer than", True),
    "another protocol": (_no_http, "its answer is broken, or longer than", True),
}


@pytest.mark.parametrize("how", FAILING)
@pytest.mark.parametrize("kind", ["opa", "openfga"])
async def test_every_failure_is_one_and_takes_no_longer(how: str, kind: str) -> None:
    """Whatever a server does that is no plain yes or no, the question fails, in a quarter of a second."""
    behave, text, counted = FAILING[how]
    async with serving(behave) as policies:
        asker = server(policies)
        engine = Opa(asker) if kind == "opa" else OpenFga(asker)
        began = asyncio.get_running_loop().time()
        with pytest.raises(EngineFailed) as failed:
            await engine.check(**ANN)
        assert asyncio.get_running_loop().time() - began < DEADLINE + 0.5
        assert text in str(failed.value)
        for _ in range(THRESHOLD - 1):
            with pytest.raises(EngineFailed):
                await engine.check(**ANN)
        assert asker.breaker.is_open is counted
        engine.close()


async def test_a_redirect_is_not_followed() -> None:
    """Whoever answers with another place has not said yes, and that place is asked nothing."""
    async with serving(saying(YES)) as other:
        async with opa(saying(YES, "307 Temporary Redirect", f"Location: {other.url}")) as (engine, _):
            with pytest.raises(EngineFailed, match="status 307"):
                await engine.check(**ANN)
        assert not other.asked


async def test_no_word_of_a_question_leads_elsewhere() -> None:
    """Whatever stands in a name or an id, the request is the same but for its body, which is JSON."""
    odd = 'x/../../admin?a=b#c@evil.example:1\r\nHost: evil.example\r\n\r\n"}} \u202e'
    async with opa(saying({"result": False})) as (engine, policies):
        assert not await engine.check(**ANN)
        assert not await engine.check(subject=odd, action=odd, resource=odd)
        plain, asked = policies.asked
    assert asked.body == {"input": {"subject": odd, "action": odd, "resource": odd}}
    assert asked.line == plain.line
    del plain.fields["content-length"], asked.fields["content-length"]
    assert asked.fields == plain.fields
    async with serving(saying({"allowed": False})) as policies:
        relations = OpenFga(server(policies))
        assert not await relations.check(subject=odd, action=odd, resource=odd)
        relations.close()
        assert policies.asked[0].line == plain.line


async def test_nobody_listens() -> None:
    """A refused connection is a failure."""
    async with serving(saying(YES)) as policies:
        pass
    engine = Opa(server(policies))
    with pytest.raises(EngineFailed, match="nobody listens there"):
        await engine.check(**ANN)
    engine.close()


async def test_connections_are_kept_and_bounded() -> None:
    """One after the other share a connection; many at once have sixteen, and who finds none free fails in time."""

    async def slowly(asked: Asked, writer: asyncio.StreamWriter) -> None:
        del asked
        await asyncio.sleep(0.1)
        writer.write(response(b'{"result":true}'))

    async with opa(saying({"result": True})) as (engine, policies):
        for _ in range(5):
            assert await engine.check(**ANN)
        assert policies.connections == 1
        policies.behave = slowly
        outcomes = await asyncio.gather(*[engine.check(**ANN) for _ in range(80)], return_exceptions=True)
        assert policies.busiest == 16
        failed = [each for each in outcomes if each is not True]
        assert failed
        assert all(isinstance(each, EngineFailed) for each in failed)
        policies.behave = saying({"result": True})
        assert await engine.check(**ANN)  # own crowding is no failure of the server's


async def test_a_connection_that_was_closed_meanwhile_is_replaced() -> None:
    """A server that closes idle connections fails nobody."""

    async def once(asked: Asked, writer: asyncio.StreamWriter) -> None:
        del asked
        writer.write(response(b'{"result":true}'))
        await writer.drain()
        writer.close()

    async with opa(once) as (engine, policies):
        for _ in range(3):
            assert await engine.check(**ANN)
        assert policies.connections == 3


async def test_https_is_verified(tmp_path: Path) -> None:
    """A certificate of an authority that is named is trusted, and no other; the answer of a stranger is not heard."""
    ca, stranger = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    stranger.cert_pem.write_to_path(tmp_path / "stranger.pem")
    async with serving(saying({"result": True}), context) as policies:
        url = policies.url.replace("http:", "https:")
        engine = Opa.from_options({"url": url, "ca": str(tmp_path / "ca.pem")}, None)
        assert await engine.check(**ANN)
        engine.close()
        engine = Opa.from_options({"url": url, "ca": str(tmp_path / "stranger.pem")}, None)
        with pytest.raises(EngineFailed, match="certificate is not trusted"):
            await engine.check(**ANN)
        engine.close()
        assert len(policies.asked) == 1


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", "is such as https://"),
        ("opa.example", "is such as https://"),
        ("ftp://opa.example/x", "is such as https://"),
        ("https:///x", "is such as https://"),
        ("https://opa.example:x/", "is such as https://"),
        ("https://opa.example/a b", "is such as https://"),
        ("https://opa.example/\r\nx: y", "is such as https://"),
        ("https://ada:c4nary@opa.example/", "has credentials in it"),
        ("https://opa.example/?x=1", "neither a query nor a fragment"),
        ("http://opa.example/v1", "anybody on the way could answer yes"),
        ("http://10.0.0.7:8181/v1", "anybody on the way could answer yes"),
    ],
)
def test_a_url_that_will_not_do_is_refused(url: str, text: str) -> None:
    """What is no URL of http, has more in it, or would cross the network in the clear, ends the start unquoted."""
    with pytest.raises(ConfigurationError, match=text) as refused:
        Url.of(url, plain=False)
    assert "c4nary" not in str(refused.value)


def test_http_within_reach_or_by_word() -> None:
    """Plain HTTP goes to this machine, and elsewhere for who says so."""
    assert Url.of("http://[::1]:8181/v1", plain=False).authority == "[::1]:8181"
    assert Url.of("http://localhost/v1/", plain=False) == Url("http", "localhost", 80, "/v1")
    assert Url.of("http://opa.example/v1", plain=True).authority == "opa.example"


@pytest.mark.parametrize(
    ("options", "text"),
    [({}, "'store'"), ({"store": "a/b"}, "'store'"), ({"store": "a", "model": "?"}, "'store'"),
     ({"store": "a", "relations": "read"}, "'relations'"), ({"store": "a", "plain_http": "ja"}, "'plain_http'")],
)  # fmt: skip
def test_options_of_openfga_that_will_not_do(options: dict[str, str], text: str) -> None:
    """They end the start."""
    with pytest.raises(ConfigurationError, match=text):
        OpenFga.from_options({"url": "http://127.0.0.1:1"} | options, None)


# The breaker


def test_five_failures_one_after_another_open_it() -> None:
    """Four do not, nor do five with an answer among them; open, it lets nobody through for thirty seconds."""
    clock = Clock()
    breaker = Breaker(clock)

    def ask() -> Any:
        admission = breaker.admit()
        assert admission is not None
        return admission

    for _ in range(THRESHOLD - 1):
        ask().failed()
    ask().passed()
    for _ in range(THRESHOLD - 1):
        ask().failed()
    assert not breaker.is_open
    ask().failed()
    assert breaker.is_open
    clock.now += PAUSE - 0.001
    assert breaker.admit() is None


def test_one_probe_decides() -> None:
    """After the pause one is let through and no second; its failure is another whole pause, its answer opens to all."""
    clock = Clock()
    breaker = Breaker(clock)
    early = breaker.admit()
    assert early is not None
    for _ in range(THRESHOLD):
        breaker.admit().failed()  # type: ignore[union-attr]
    clock.now += PAUSE
    probe = breaker.admit()
    assert probe is not None
    assert breaker.admit() is None
    early.failed()  # of one that had begun before it opened: it frees no place for a second probe
    assert breaker.admit() is None
    probe.failed()
    clock.now += PAUSE - 0.001
    assert breaker.admit() is None
    clock.now += 0.001
    probe = breaker.admit()
    assert probe is not None
    probe.left()  # who asked went away
    probe = breaker.admit()
    assert probe is not None
    probe.passed()
    assert not breaker.is_open
    assert breaker.admit() is not None


async def test_a_server_that_is_silent_is_left_alone() -> None:
    """After five failures nothing is sent for thirty seconds; then one question is, and its answer ends that."""
    clock = Clock()
    async with opa(saying(YES, "503 Service Unavailable"), clock) as (engine, policies):
        for _ in range(THRESHOLD):
            with pytest.raises(EngineFailed, match="status 503"):
                await engine.check(**ANN)
        for _ in range(3):
            with pytest.raises(EngineFailed, match="left alone for a while"):
                await engine.check(**ANN)
        assert len(policies.asked) == THRESHOLD
        policies.behave = saying({"result": True})
        clock.now += PAUSE
        assert await engine.check(**ANN)
        assert await engine.check(**ANN)


async def test_failures_are_not_remembered() -> None:
    """The question after one that failed is sent, and heard."""
    async with opa(saying(b"?")) as (engine, policies):
        with pytest.raises(EngineFailed):
            await engine.check(**ANN)
        policies.behave = saying({"result": True})
        assert await engine.check(**ANN)
        policies.behave = saying({"result": False})
        assert not await engine.check(**ANN)


async def test_a_probe_that_is_given_up_leaves_its_place() -> None:
    """A caller that leaves while the one question is under way does not keep the engine shut."""
    clock = Clock()
    async with opa(saying(YES, "503 Service Unavailable"), clock) as (engine, policies):
        for _ in range(THRESHOLD):
            with pytest.raises(EngineFailed):
                await engine.check(**ANN)
        clock.now += PAUSE
        arrived = asyncio.Event()

        async def hang(asked: Asked, writer: asyncio.StreamWriter) -> None:
            arrived.set()
            await _silent(asked, writer)

        policies.behave = hang
        probe = asyncio.create_task(engine.check(**ANN))
        await arrived.wait()
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        policies.behave = saying({"result": True})
        assert await engine.check(**ANN)


# Several engines


class Fixed:
    """An engine that says always the same."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.times = 0

    async def check(self, *, subject: str, action: str, resource: str) -> bool:
        del subject, action, resource
        self.times += 1
        if self.outcome is Outcome.FAILED:
            raise EngineFailed("it is out")
        return self.outcome is Outcome.ALLOWED

    def close(self) -> None:
        """Nothing is open."""


OPINIONS: Final = (True, None, False)


def expected(seats: list[tuple[Stance, Outcome]], opinion: bool | None) -> bool:
    """Return what all together say, in the words of the issue: any no is no, one yes is needed."""
    votes: list[bool | None] = [opinion]
    for stance, outcome in seats:
        if stance is Stance.MAY:
            votes.append(True if outcome is Outcome.ALLOWED else None)
        else:
            votes.append(None if outcome is Outcome.ALLOWED else False)
    return False not in votes and True in votes


@pytest.mark.parametrize("opinion", OPINIONS)
@pytest.mark.parametrize("first", [(stance, outcome) for stance in Stance for outcome in Outcome])
@pytest.mark.parametrize("second", [None, *[(stance, outcome) for stance in Stance for outcome in Outcome]])
async def test_the_matrix(
    opinion: bool | None, first: tuple[Stance, Outcome], second: tuple[Stance, Outcome] | None
) -> None:
    """Any stance, outcome and opinion of the others: what engines come to; who cannot matter is not asked."""
    seats = [each for each in (first, second) if each is not None]
    engines = [Fixed(outcome) for _, outcome in seats]
    panel = Panel(
        [Seat(f"e{i}", stance, engine) for i, ((stance, _), engine) in enumerate(zip(seats, engines, strict=True))]
    )
    question = Question((Right.READ,), "secrets/db/password", opinion)
    (heard,) = await panel.ask("user:ann", [question])
    assert heard.allowed is expected(seats, opinion)
    lonely = opinion is None and all(stance is Stance.MUST for stance, _ in seats)
    for i, ((stance, outcome), engine) in enumerate(zip(seats, engines, strict=True)):
        idle = opinion is False or lonely or (opinion is True and stance is Stance.MAY)
        assert heard.said.get(f"e{i}") == (None if idle else outcome)
        assert engine.times == (0 if idle else 1)
    both = await panel.ask("user:ann", [question, question])
    assert [each.allowed for each in both] == [heard.allowed] * 2


async def test_of_several_rights_each_is_needed() -> None:
    """What needs two rights is allowed by who allows both."""
    rbac = Rbac()
    rbac.grant_role("user:ann", "maker")
    rbac.bind_role_to_permission("maker", "secrets.create", "*")
    panel = Panel([Seat("roles", Stance.MAY, rbac)])
    question = Question((Right.CREATE, Right.MODIFY), "secrets/db/x", None)
    assert not (await panel.ask("user:ann", [question]))[0].allowed
    rbac.bind_role_to_permission("maker", "secrets.modify", "*")
    assert (await panel.ask("user:ann", [question]))[0].allowed


async def test_of_many_names_few_are_asked_about_at_a_time() -> None:
    """A list takes half of an engine's connections at most, whoever asks for how much, and leaves the rest to acts."""
    async with opa(policy(lambda asked: asked["resource"].endswith("0"))) as (engine, policies):
        panel = Panel([Seat("opa", Stance.MUST, engine)])
        questions = [Question((Right.LIST,), f"secrets/db/{i}", True) for i in range(100)]
        lists = await asyncio.gather(*[panel.ask("user:ann", questions) for _ in range(3)])
        assert policies.busiest <= WIDTH
    for heard in lists:
        assert [i for i, each in enumerate(heard) if each.allowed] == list(range(0, 100, 10))


async def test_the_log_says_what_failed_and_no_more_than_it_should(caplog: pytest.LogCaptureFixture) -> None:
    """One line at once, then one a minute with a count; an answer is cut, escaped, and our token in it is not shown."""
    clock = Clock()
    echo = f"{TOKEN}\n\x1b[31m".encode() + b"x" * 5000
    async with serving(saying(echo, "500 Internal Server Error")) as policies:
        engine = Opa(server(policies, token=TOKEN))
        panel = Panel([Seat("main", Stance.MUST, engine)], clock)
        question = Question((Right.READ,), "secrets/db/c4nary", True)
        with caplog.at_level(logging.WARNING):
            for _ in range(4):
                assert not (await panel.ask("user:ann", [question]))[0].allowed
            assert len(caplog.messages) == 1
            clock.now += PERIOD
            await panel.ask("user:ann", [question])
        panel.close()
    first, second = caplog.messages
    assert first.startswith("engine main gave no answer: it answers with status 500: ********\\u000a\\u001b[31mxxx")
    assert first.count("x") < 200
    assert "and 3 times since" in second
    assert TOKEN not in caplog.text
    assert TOKEN not in repr(engine) + repr(vars(engine)) + repr(panel)

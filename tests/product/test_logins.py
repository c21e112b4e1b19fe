"""From nobody to somebody: a principal is made, proves itself with a key of SSH, and does what rules let it."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from strongroom.models.access import Right, Rule
from strongroom.models.names import TOKENS
from strongroom.models.secret import Secret
from strongroom.storage_service.backends.base import Delete, Put
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.bootstrap import SharedRoot
from strongroom.storage_service.client import login as logins
from strongroom.storage_service.client.login_key import FileKey
from strongroom.storage_service.config import ServiceSettings
from strongroom.storage_service.http.app import StorageApp
from strongroom.storage_service.services import principals
from strongroom.storage_service.wire import login
from tests.access.ssh_holders import generated
from tests.audit_lines import audit_lines
from tests.in_process import Inside, inside
from tests.raw_http import Message, request

OWN: Final = ("custodia-auth-id: own", "custodia-auth-key: own-key")
ADDRESS: Final = "http://secrets.test"


@dataclass
class House:
    """A service, and what asks it."""

    server: Inside
    app: StorageApp
    log: Path
    rules: dict[str, Rule] = field(default_factory=dict)

    async def ask(self, method: str, path: str, said: Any = None, *fields: str) -> Message:
        """Ask as who shows *fields*."""
        body = b"" if said is None else msgspec.json.encode(said)
        kind = () if said is None else ("content-type: application/json",)
        return await self.server.ask(request(method, path, *kind, *fields, body=body))

    async def add(self, name: str, key: Path, kind: str = "users", *, admin: bool = False) -> None:
        """Add a principal with an access key."""
        public = key.with_suffix(".pub").read_text()
        said = {"admin": admin, "credentials": [{"kind": "access-key", "data": public}]}
        answer = await self.ask("PUT", f"/access/{kind}/{name}", said, *OWN)
        assert answer.status == 201, answer.body

    async def rule(self, name: str, rule: Rule | None) -> None:
        """Let *rule* hold, or no longer."""
        directory = self.app._parts.principals._principals._directory  # type: ignore[union-attr]

        def make(known: Any) -> list[Put | Delete]:
            where = known.rule_name(name)
            return [Delete(where) if rule is None else Put(where, msgspec.json.encode(rule))]

        await directory.change(make)

    async def log_in(self, principal: str, key: Path, service: str = ADDRESS, how: str = "sign") -> Message:
        """Return the answer to a login."""
        held = FileKey(key.read_bytes())
        asked = logins.asked(principal, service, held if how == "decrypt" else None)
        given = await self.ask("POST", login.CHALLENGE_PATH, asked)
        if given.status != 200:
            return given
        challenge = msgspec.json.decode(given.body, type=login.Challenge)
        return await self.ask("POST", login.LOGIN_PATH, logins.answer(challenge, asked, held))

    async def token(self, principal: str, key: Path) -> str:
        """Return the field that shows a new token."""
        answer = await self.log_in(principal, key)
        assert answer.status == 201, answer.body
        return f"authorization: Bearer {json.loads(answer.body)['token']}"


def told(house: House) -> dict[str | None, dict[str, Any]]:
    """Return what the audit log says last of each request."""
    return {line["request"]: line for line in audit_lines(house.log)}


async def held_by(house: House, name: str) -> list[dict[str, Any]]:
    """Return the credentials of a user, as they are shown."""
    shown: list[dict[str, Any]] = json.loads((await house.ask("GET", f"/access/users/{name}", None, *OWN)).body)[
        "credentials"
    ]
    return shown


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A service with a secret in ``secrets/db/`` and one in ``secrets/web/``."""
    store, shared = MemoryBackend(), SharedRoot()
    settings = ServiceSettings(
        socket=tmp_path / "socket",
        audit_log=tmp_path / "audit.log",
        root_key=tmp_path / "secrets.key",
        store="memory:",
        api_id="own",
        api_key=Secret("own-key"),
        addresses=(ADDRESS,),
    )
    app = StorageApp(settings, shared, lambda _: store)
    await app.open()
    async with inside(app) as server:
        there = House(server, app, settings.audit_log)
        for container in ("db", "web"):
            assert (await there.ask("POST", f"/secrets/{container}/", None, *OWN)).status == 201
            told = {"type": "simple", "value": "of " + container}
            assert (await there.ask("PUT", f"/secrets/{container}/key", told, *OWN)).status == 201
        yield there
    await app.close()
    shared.close()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Private keys of two people, made by ssh-keygen."""
    folder = tmp_path_factory.mktemp("keys")
    return {kind: generated(folder, kind) for kind in ("ed25519", "rsa", "p256")}


def allow(subject: str, *names: str, effect: str = "allow", actions: tuple[Right, ...] = ()) -> Rule:
    """Return a rule about all that can be done to a secret, or *actions*."""
    usual = (Right.READ, Right.LIST, Right.CREATE, Right.MODIFY, Right.DELETE)
    return Rule(effect=effect, subjects=(subject,), actions=actions or usual, names=names)  # type: ignore[arg-type]


async def test_who_logs_in_does_what_rules_allow_and_nothing_else(house: House, keys: dict[str, Path]) -> None:
    """Without a rule everything is refused; with one its names are allowed, for every verb, and no others."""
    await house.add("ann", keys["ed25519"])
    ann = await house.token("user:ann", keys["ed25519"])
    assert (await house.ask("GET", "/secrets/db/key", None, ann)).status == 403
    assert (await house.ask("GET", "/secrets/", None, ann)).status == 403

    await house.rule("db", allow("user:ann", "secrets/db/**"))

    assert json.loads((await house.ask("GET", "/secrets/db/key", None, ann)).body) == {
        "type": "simple",
        "value": "of db",
    }
    assert json.loads((await house.ask("GET", "/secrets/", None, ann)).body) == ["db/"]
    assert (await house.ask("GET", "/secrets/web/key", None, ann)).status == 403
    assert (await house.ask("GET", "/secrets/web/", None, ann)).status == 403
    assert (await house.ask("PUT", "/secrets/db/new", {"type": "simple", "value": "x"}, ann)).status == 201
    assert (await house.ask("DELETE", "/secrets/db/new", None, ann)).status == 204
    for path in ("/access/users/", "/apikeys", "/keyring", "/bulk"):
        assert (await house.ask("GET", path, None, ann)).status == 403
    told = json.loads((await house.ask("GET", "/whoami", None, ann)).body)
    assert (told["principal"], told["ruled"], told["groups"]) == ("user:ann", True, [])


async def test_a_rule_that_denies_holds_in_listings_and_batches(house: House, keys: dict[str, Path]) -> None:
    """A name that is denied is in no listing, and a batch with it gives nothing; for API keys of any reach, too."""
    await house.add("ann", keys["ed25519"])
    await house.rule("db", allow("user:ann", "secrets/**"))
    await house.rule("no", allow("*", "secrets/db/key", effect="deny"))
    ann = await house.token("user:ann", keys["ed25519"])
    made = await house.ask("POST", "/apikeys", {"id": "ci", "paths": ["/secrets"], "actions": ["get", "list"]}, *OWN)
    ci = ("custodia-auth-id: ci", f"custodia-auth-key: {json.loads(made.body)['key']}")

    for shown in ((ann,), ci):
        assert (await house.ask("GET", "/secrets/db/key", None, *shown)).status == 403
        assert json.loads((await house.ask("GET", "/secrets/db/", None, *shown)).body) == []
        batch = await house.ask("POST", "/secrets?batch=get", {"names": ["web/key", "db/key"]}, *shown)
        assert batch.status == 403
    assert (await house.ask("GET", "/secrets/db/key", None, *OWN)).status == 200  # which no rule can shut out


async def test_creating_and_changing_are_two_rights(house: House, keys: dict[str, Path]) -> None:
    """Who may create alone replaces nothing, and who may modify alone makes nothing."""
    await house.add("ann", keys["ed25519"])
    ann = await house.token("user:ann", keys["ed25519"])
    told = {"type": "simple", "value": "x"}
    await house.rule("db", allow("user:ann", "secrets/db/*", actions=(Right.CREATE,)))
    assert (await house.ask("PUT", "/secrets/db/key", told, ann, "if-match: *")).status == 403
    assert (await house.ask("PUT", "/secrets/db/new", told, ann)).status == 201
    await house.rule("db", allow("user:ann", "secrets/db/*", actions=(Right.MODIFY,)))
    assert (await house.ask("PUT", "/secrets/db/key", told, ann, "if-match: *")).status == 200
    assert (await house.ask("PUT", "/secrets/db/other", told, ann)).status == 403


@pytest.mark.parametrize(
    ("kind", "how"), [("ed25519", "sign"), ("rsa", "sign"), ("rsa", "decrypt"), ("p256", "decrypt")]
)
async def test_every_key_logs_in_its_own_way(house: House, keys: dict[str, Path], kind: str, how: str) -> None:
    """Keys sign; those of RSA and of curves decrypt, too."""
    await house.add("ann", keys[kind])
    assert (await house.log_in("user:ann", keys[kind], how=how)).status == 201


async def test_who_is_nobody_gets_a_challenge_and_nothing_else(house: House, keys: dict[str, Path]) -> None:
    """An unknown name, another's key and another service's address all end the same; strangers are counted."""
    await house.add("ann", keys["ed25519"])
    answers = [await house.log_in("user:ann", keys["rsa"]), await house.log_in("user:bob", keys["ed25519"])]
    answers += [await house.log_in("service:ann", keys["ed25519"]), await house.log_in("nonsense", keys["ed25519"])]
    assert {answer.status for answer in answers} == {403}
    problems = [json.loads(answer.body) for answer in answers]
    assert len({json.dumps({**each, "request_id": ""}) for each in problems}) == 1
    assert (await house.log_in("user:ann", keys["ed25519"], service="http://elsewhere.test")).status == 400


async def test_an_answer_is_good_once(house: House, keys: dict[str, Path]) -> None:
    """The same answer gives no second token, and no part of it another."""
    await house.add("ann", keys["ed25519"])
    held = FileKey(keys["ed25519"].read_bytes())
    asked = logins.asked("user:ann", ADDRESS)
    given = await house.ask("POST", login.CHALLENGE_PATH, asked)
    answer = logins.answer(msgspec.json.decode(given.body, type=login.Challenge), asked, held)
    assert (await house.ask("POST", login.LOGIN_PATH, answer)).status == 201
    assert (await house.ask("POST", login.LOGIN_PATH, answer)).status == 403


async def test_whatever_ends_a_token_ends_it_at_once(house: House, keys: dict[str, Path]) -> None:
    """Logging out, another epoch, a disabled or removed principal, a credential taken away: 401 from then on."""
    await house.add("ann", keys["ed25519"])
    await house.add("bob", keys["rsa"])
    await house.rule("db", allow("*", "secrets/db/**"))

    async def ends(token: str, method: str, path: str, said: Any = None, shown: tuple[str, ...] = OWN) -> None:
        assert (await house.ask("GET", "/secrets/db/key", None, token)).status == 200
        assert (await house.ask(method, path, said, *shown)).status in (200, 204), path
        assert (await house.ask("GET", "/secrets/db/key", None, token)).status == 401

    first, second = [await house.token("user:ann", keys["ed25519"]) for _ in range(2)]
    await ends(first, "DELETE", login.TOKEN_PATH, shown=(first,))
    await ends(second, "DELETE", "/access/users/ann/tokens")
    await ends(await house.token("user:ann", keys["ed25519"]), "PUT", "/access/users/ann/disabled")
    assert (await house.log_in("user:ann", keys["ed25519"])).status == 403
    assert (await house.ask("DELETE", "/access/users/ann/disabled", None, *OWN)).status in (200, 204)
    await ends(await house.token("user:ann", keys["ed25519"]), "DELETE", "/access/users/ann")
    await ends(await house.token("user:bob", keys["rsa"]), "PUT", "/access/users/bob/disabled")


async def test_an_administrator_may_do_everything_and_the_record_says_why(house: House, keys: dict[str, Path]) -> None:
    """The first administrator's rule lets its members do all; each line tells rule, groups, credential and revision."""
    await house.add("root", keys["ed25519"], admin=True)
    root = await house.token("user:root", keys["ed25519"])
    assert (await house.ask("GET", "/secrets/web/key", None, root)).status == 200
    assert (await house.ask("PUT", "/access/users/eve", {}, root)).status == 201
    lines = audit_lines(house.log)
    (read,) = [each for each in lines if each["principal"] == "user:root" and each["name"] == "secrets/web/key"]
    decided = read["decided"]
    assert (decided["rights"], decided["groups"], decided["rules"]) == (
        ["read"],
        ["administrators"],
        ["administrators"],
    )
    assert len(decided["credential"]) == 32
    assert decided["revision"] > 0


async def test_nothing_that_lets_somebody_in_is_on_the_record(house: House, keys: dict[str, Path]) -> None:
    """Neither tokens nor challenges nor answers are in the audit log."""
    await house.add("ann", keys["ed25519"])
    before = datetime.now(UTC)
    token = (await house.token("user:ann", keys["ed25519"])).rpartition(" ")[2]
    await house.ask("GET", "/secrets/db/key", None, f"authorization: Bearer {token}x")
    log = house.log.read_text()
    assert before
    assert token.rpartition(".")[2] not in log
    assert "SSH SIGNATURE" not in log


async def test_who_may_do_something_makes_nothing_that_may_do_more(house: House, keys: dict[str, Path]) -> None:
    """Rights to API keys, secrets and the listing of rules together make no key, by whichever way, and end none."""
    made = await house.ask("POST", "/apikeys", {"id": "ci", "paths": ["/"], "actions": ["get"]}, *OWN)
    assert made.status == 201
    await house.add("ann", keys["ed25519"])
    await house.rule("most", allow("user:ann", "secrets/**"))
    access = ("system/access/apikeys/**", "system/access/rules/", "system/access/users/**")
    await house.rule("some", allow("user:ann", *access, "system/journal/**", actions=(Right.ACCESS, Right.MIGRATE)))
    ann = await house.token("user:ann", keys["ed25519"])
    assert (await house.ask("GET", "/secrets/db/key", None, ann)).status == 200

    record = {"format": 1, "verifier": "0" * 64, "paths": ["/"], "actions": ["get"], "created": "2026-11-30T12:00:00Z"}
    put = {"put": "system/access/apikeys/evil", "value": json.dumps(record)}
    for answer in (
        await house.ask("POST", "/apikeys", {"id": "evil", "paths": ["/"], "actions": ["get"]}, ann),
        await house.ask("DELETE", "/apikeys/ci", None, ann),
        await house.ask("POST", "/apikeys/ci/rotation", {"overlap": ""}, ann),
        await house.ask("DELETE", "/apikeys/ci/former", None, ann),
        await house.ask("GET", "/bulk", None, ann),
        await house.ask("POST", "/bulk/list", {"prefix": "secrets/"}, ann),
        await house.ask("POST", "/bulk/commit", {"changes": [put]}, ann),
    ):
        assert answer.status == 403, answer.body
    listed = json.loads((await house.ask("GET", "/apikeys", None, *OWN)).body)
    assert [each["id"] for each in listed] == ["ci"]


async def test_nobody_shuts_all_administrators_out_by_a_group(house: House, keys: dict[str, Path]) -> None:
    """A group that a rule denies everything takes no last administrator who could mend that."""
    await house.add("root", keys["ed25519"], admin=True)
    assert (await house.ask("PUT", "/access/groups/quarantine", {}, *OWN)).status == 201
    await house.rule("shut", allow("group:quarantine", "**", effect="deny", actions=tuple(Right)))
    path = "/access/groups/quarantine/members/user:root"
    answer = await house.ask("PUT", path, {}, *OWN)
    assert (answer.status, json.loads(answer.body)["type"].rpartition(":")[2]) == (409, "in-use")
    await house.add("eve", keys["rsa"], admin=True)
    assert (await house.ask("PUT", path, {}, *OWN)).status in (200, 201, 204)
    eve = "/access/groups/quarantine/members/user:eve"
    assert (await house.ask("PUT", eve, {}, *OWN)).status == 409


async def test_the_record_tells_which_login_gave_a_token(house: House, keys: dict[str, Path]) -> None:
    """The line of a login names the token and the credential, that of its end the token; each by its id."""
    await house.add("ann", keys["ed25519"])
    ann = await house.token("user:ann", keys["ed25519"])
    assert (await house.ask("DELETE", login.TOKEN_PATH, None, ann)).status in (200, 204)

    given, ended = [line["about"] for line in audit_lines(house.log) if line["name"] == TOKENS]
    (credential,) = [each["id"] for each in await held_by(house, "ann")]
    assert given == f"{ended}, by credential {credential}"
    assert len(ended) == 32


async def test_the_record_tells_why_a_login_failed(house: House, keys: dict[str, Path]) -> None:
    """A key that is nobody's, and a token that is none, are told apart in the log alone; the trace stands beside."""
    await house.add("ann", keys["ed25519"])
    trace = "0af7651916cd43dd8448eb211c80319c"
    field = f"traceparent: 00-{trace}-b7ad6b7169203331-01"
    refused = await house.log_in("user:ann", keys["rsa"])
    forged = await house.ask("GET", "/secrets/db/key", None, "authorization: Bearer a.b.c", field)

    assert (refused.status, forged.status) == (403, 401)
    assert b"access key" not in refused.body
    async with asyncio.timeout(30):  # the second of a second is written down with the next
        while (line := told(house).get(forged.get("x-request-id"))) is None:
            await asyncio.sleep(0.02)
    assert "the key is not among the principal's access keys" in told(house)[refused.get("x-request-id")]["reason"]
    assert "service_auth." in line["reason"]
    assert line["trace"] == trace


async def test_a_stolen_token_changes_nobodys_way_in(
    house: House, keys: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the login was too long ago one's own credentials stay as they are, until one logs in again."""
    await house.add("ann", keys["ed25519"])
    another = {"kind": "password", "data": "correct horse"}
    place = "/access/users/ann/credentials/"
    ann = await house.token("user:ann", keys["ed25519"])
    assert (await house.ask("POST", place, another, ann)).status == 201
    credential = (await held_by(house, "ann"))[-1]["id"]
    monkeypatch.setattr(principals, "FRESH", timedelta(seconds=-1))  # a while later, to this token
    for method, path, said in (("POST", place, another), ("DELETE", place + credential, None)):
        answer = await house.ask(method, path, said, ann)
        assert answer.status == 403
        assert b"a login of the last five minutes" in answer.body
    assert (await house.ask("GET", "/access/users/ann", None, ann)).status == 200
    assert len(await held_by(house, "ann")) == 2
    monkeypatch.undo()
    assert (await house.ask("DELETE", place + credential, None, ann)).status in (200, 204)
    (line,) = [each for each in audit_lines(house.log) if "without" in each.get("about", "")]
    assert line["about"] == f"without the password {credential}"

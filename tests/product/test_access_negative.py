"""What others' stores of secrets once let happen about access, and what the first systems were to do, tried on ours.

What each was, and what holds it here; what is not of this file was there before.

| class | held by |
|---|---|
| identity through names | access/test_rules.py::test_a_principal_of_an_odd_name_reaches_nothing_more |
| | access/test_rules.py::test_a_name_is_never_a_pattern |
| | product/test_access_negative.py::test_nobody_is_called_as_a_pattern |
| case folding of names and policies | access/test_principals.py::test_a_name_is_one_in_whatever_case |
| | access/test_rules.py::test_case_is_never_folded |
| | product/test_access_negative.py::test_another_case_is_nobody_else |
| a listing against a deny | access/test_rules.py::test_a_deny_holds_for_a_listing_too |
| | product/test_logins.py::test_a_rule_that_denies_holds_in_listings_and_batches |
| a token although the login failed | product/test_access_negative.py::test_no_token_comes_with_an_error |
| ceremonies of nobody | product/test_access_negative.py::test_nobody_changes_anything |
| ending what is another's | product/test_access_negative.py::test_nobody_ends_what_is_anothers |
| the time of an unknown name | access/test_login_passwords.py::test_unknown_names_cost_what_some_principal_costs |
| | access/test_challenges.py::test_what_is_nobodys_looks_alike |
| | product/test_access_negative.py::test_a_name_that_is_nobodys_takes_as_many_steps |
| error bodies that echo | product/test_access_negative.py::test_no_error_repeats_what_was_sent |
| a token that goes on with another credential | product/test_logins.py::test_whatever_ends_a_token_ends_it_at_once |
| an answer that is used twice | product/test_logins.py::test_an_answer_is_good_once |
| an engine that fails open | access/test_engines.py::test_every_failure_is_one_and_takes_no_longer |

| the first systems' check | held by |
|---|---|
| 7.4 2: a key gives a token until its end | product/test_logins.py::test_whatever_ends_a_token_ends_it_at_once |
| 7.4 2: a token is clipped | access/test_durations.py::test_longer_than_allowed_is_clipped |
| | product/test_access_negative.py::test_a_token_lives_no_longer_than_is_allowed |
| 7.4 4: the matrix of rules | access/test_rules.py::test_the_matrix |
| | access/test_rules.py::test_no_rule_means_no |
| | access/test_rules.py::test_neither_order_nor_closeness_means_anything |
| 7.4 4: commands open no store | access/test_rules.py::test_a_rule_of_all_rights_but_one_lends_none_of_the_others |
| 7.4 8: root and recovery stay, and the last key | access/test_principals.py::test_root_and_recovery_stay |
| | access/test_principals.py::test_of_one_name_and_at_most_thirty_two |
| 7.6 2: each way of writing | product/test_access_negative.py::test_each_way_of_writing_is_one_line_of_one_name |
| 7.6 5: user, key, token: at once, everywhere | product/test_access_negative.py::test_what_ends_ends_on_every_worker |
| 7.6 5: a machine's wrap | keyring/test_enrolment.py::test_revoking |
"""

import asyncio
import base64
import hmac
import json
import os
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import falcon.inspect
import msgspec
import pytest

from strongroom.http_proxy.openapi import DOCUMENT
from strongroom.models import names
from strongroom.models.access import Right
from strongroom.models.secret import Secret
from strongroom.storage_service import wire
from strongroom.storage_service.backends.base import Entry
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.bootstrap import SharedRoot
from strongroom.storage_service.client import login as logins
from strongroom.storage_service.client.login_key import FileKey
from strongroom.storage_service.config import ServiceSettings
from strongroom.storage_service.http.app import OPEN_PATHS, STRANGERS_PATHS, StorageApp
from strongroom.storage_service.wire import login
from tests.access.ssh_holders import generated
from tests.audit_lines import audit_lines
from tests.in_process import inside
from tests.product.test_logins import ADDRESS, OWN, House, allow
from tests.raw_http import request
from tests.test_threat_model import collected_in

CANARY: Final = "canary-7d20"


class Counting(MemoryBackend):
    """A store that counts how often it was asked."""

    asked = 0

    async def get(self, name: str) -> Entry | None:
        """Count it."""
        self.asked += 1
        return await super().get(name)

    async def get_many(self, names: Sequence[str], *, limit: int | None = None) -> Mapping[str, Entry]:
        """Count it."""
        self.asked += 1
        return await super().get_many(names, limit=limit)


def settings(home: Path) -> ServiceSettings:
    """Return those of a service with its files in *home*."""
    return ServiceSettings(
        socket=home / "socket",
        audit_log=home / "audit.log",
        root_key=home / "secrets.key",
        store="memory:",
        api_id="own",
        api_key=Secret("own-key"),
        addresses=(ADDRESS,),
    )


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncIterator[list[House]]:
    """Two workers of one service, with a secret in ``secrets/db/``."""
    store, shared = Counting(), SharedRoot()
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(2):
            app = StorageApp(settings(tmp_path), shared, lambda _: store)
            await app.open()
            stack.push_async_callback(app.close)
            made.append(House(await stack.enter_async_context(inside(app)), app, tmp_path / "audit.log"))
        assert (await made[0].ask("POST", "/secrets/db/", None, *OWN)).status == 201
        told = {"type": "simple", "value": "of db"}
        assert (await made[0].ask("PUT", "/secrets/db/key", told, *OWN)).status == 201
        yield made
    shared.close()


@pytest.fixture
def house(workers: list[House]) -> House:
    """One of them."""
    return workers[0]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Private keys of two people."""
    folder = tmp_path_factory.mktemp("keys")
    return {kind: generated(folder, kind) for kind in ("ed25519", "p256")}


def test_what_is_named_is_there() -> None:
    """Every test that the tables name is collected."""
    assert __doc__ is not None
    named = [each.partition("::") for each in re.findall(r"[\w/]+\.py::\w+", __doc__)]
    assert len(named) > 25
    assert [f"{file}::{name}" for file, _, name in named if name not in collected_in(file)] == []


@pytest.mark.parametrize(
    "name", ["*", "**", "a%2Ab", "a,b", "%7Bprincipal%7D", "a%2Fb", "..", "user:ann", "a%0Ab", "%20ann", "group:ops"]
)
async def test_nobody_is_called_as_a_pattern(house: House, name: str) -> None:
    """Neither a user nor a service, a group or a rule is called so, and no rule speaks of one that would be."""
    rule = {"effect": "allow", "subjects": ["*"], "actions": ["read"], "names": ["secrets/db/**"]}
    for path, said in (("users", {}), ("services", {}), ("groups", {}), ("rules", rule)):
        assert (await house.ask("PUT", f"/access/{path}/{name}", said, *OWN)).status in (400, 404), path
    said = rule | {"subjects": [f"user:{name}"]}
    assert (await house.ask("PUT", "/access/rules/one", said, *OWN)).status == 400
    for listed in ("users", "services"):
        assert json.loads((await house.ask("GET", f"/access/{listed}/", None, *OWN)).body)["principals"] == []
    assert json.loads((await house.ask("GET", "/access/rules/", None, *OWN)).body)["rules"] == []


async def test_another_case_is_nobody_else(house: House, keys: dict[str, Path]) -> None:
    """Who is called as another but for the case is not made, logs nobody in, and no rule of the one is his."""
    await house.add("ann", keys["ed25519"])
    for path in ("users/Ann", "services/ANN", "users/ann"):
        assert (await house.ask("PUT", f"/access/{path}", {}, *OWN)).status == 409
    assert (await house.log_in("user:Ann", keys["ed25519"])).status == 403
    assert (await house.log_in("USER:ann", keys["ed25519"])).status in (400, 403)
    await house.rule("db", allow("user:Ann", "secrets/db/**"))
    token = await house.token("user:ann", keys["ed25519"])
    assert (await house.ask("GET", "/secrets/db/key", None, token)).status == 403


async def test_no_token_comes_with_an_error(house: House, keys: dict[str, Path]) -> None:
    """A login that is right and cannot be recorded is an error without a token, and so is one with a bad lifetime."""
    await house.add("ann", keys["ed25519"])
    asked = logins.asked("user:ann", ADDRESS)
    held = FileKey(keys["ed25519"].read_bytes())

    async def answered(**more: str) -> login.Answer:
        given = await house.ask("POST", login.CHALLENGE_PATH, asked)
        answer = logins.answer(msgspec.json.decode(given.body, type=login.Challenge), asked, held)
        return msgspec.structs.replace(answer, **more)

    refused = await house.ask("POST", login.LOGIN_PATH, await answered(lifetime="for ever"))
    assert refused.status == 400
    right = await answered()
    assert house.app._parts is not None
    log = house.app._parts.door._audit
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        os.dup2(full, log._descriptor)
    finally:
        os.close(full)
    unrecorded = await house.ask("POST", login.LOGIN_PATH, right)
    assert unrecorded.status == 503
    for answer in (refused, unrecorded):
        said = json.loads(answer.body)
        assert said["type"].startswith("urn:strongroom:problem:")
        assert "token" not in said
        assert re.search(rb"eyJ[\w-]+\.", answer.body) is None


def filled(path: str, word: str = "some") -> str:
    """Return *path* with *word* in the place of what it names."""
    return re.sub(r"\{\w+\}", word, path)


async def test_nobody_changes_anything(house: House) -> None:
    """Without credentials every method of every path is 401, but for what strangers may ask, and what tells of life."""
    assert house.app._parts is not None
    own = OPEN_PATHS | STRANGERS_PATHS | {wire.ACTS_PATH, wire.METRICS_PATH}  # the last two: of the service's own user
    asked = [
        (method.method, filled(route.path, "some-name"))
        for route in falcon.inspect.inspect_routes(house.app._rest)
        for method in route.methods
        if not method.internal and route.path not in own
    ]
    assert len(asked) > 70
    assert {"/keyring/root", "/keyring/unlock", "/keyring/export"} <= {path for _, path in asked}
    found = {
        (method, path): (await house.ask(method, path, {} if method in ("POST", "PUT") else None)).status
        for method, path in asked
    }
    assert {asked: status for asked, status in found.items() if status != 401} == {}


async def test_nobody_ends_what_is_anothers(house: House, keys: dict[str, Path]) -> None:
    """Bob's token, by its id in any spelling, his credentials and his account stay, whatever ann tries; hers go."""
    await house.add("ann", keys["ed25519"])
    await house.add("bob", keys["p256"])
    ann, bob = await house.token("user:ann", keys["ed25519"]), await house.token("user:bob", keys["p256"])
    his = json.loads((await house.ask("GET", login.WHOAMI_PATH, None, bob)).body)
    jti, credential = his["token_id"], his["credential"]
    for wanted in (jti, jti.upper(), jti[:-1], f"{jti}x", "user:bob", "bob"):
        assert (await house.ask("DELETE", f"{login.TOKEN_PATH}/{wanted}", None, ann)).status == 403
    for method, path, said in (
        ("DELETE", "users/bob", None),
        ("DELETE", "users/Bob", None),
        ("PUT", "users/bob/disabled", None),
        ("DELETE", "users/bob/tokens", None),
        ("DELETE", f"users/bob/credentials/{credential}", None),
        ("DELETE", f"services/bob/credentials/{credential}", None),
        ("POST", "users/bob/credentials/", {"kind": "password", "data": "a long enough one"}),
    ):
        assert (await house.ask(method, f"/access/{path}", said, ann)).status == 403, path
    # by her own account: an id of his is none of hers
    assert (await house.ask("DELETE", f"/access/users/ann/credentials/{credential}", None, ann)).status == 404
    assert (await house.ask("GET", login.WHOAMI_PATH, None, bob)).status == 200
    assert (await house.ask("DELETE", "/access/users/ann/tokens", None, ann)).status == 204
    assert (await house.ask("GET", login.WHOAMI_PATH, None, ann)).status == 401
    assert (await house.ask("GET", login.WHOAMI_PATH, None, bob)).status == 200


async def test_a_name_that_is_nobodys_takes_as_many_steps(
    house: House, keys: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong code asks the store, and compares, as often for nobody as for who waits and for who waits no more."""
    await house.add("ann", keys["ed25519"])
    assert (await house.ask("PUT", "/access/users/eve", {}, *OWN)).status == 201
    assert house.app._parts is not None
    store = house.app._parts.principals._principals._directory._store
    assert isinstance(store, Counting)
    compared = 0
    compare = hmac.compare_digest

    def counted(one: Any, other: Any) -> bool:
        nonlocal compared
        compared += 1
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    steps = {}
    for who in ("user:eve", "user:ann", "user:nobody", "service:eve"):
        before = store.asked, compared
        said = {"principal": who, "code": "wrong", "credential": {"kind": "process", "data": "70"}}
        answer = await house.ask("POST", "/access/setup", said)
        steps[who] = store.asked - before[0], compared - before[1], answer.status
    assert len(set(steps.values())) == 1
    assert steps["user:nobody"][1:] == (1, 403)
    assert steps["user:nobody"][0] > 0


def passed_on() -> list[tuple[str, str, dict[str, Any]]]:
    """Return method, path on the socket and description of all that the proxy passes on."""
    return [
        (method.upper(), path.removeprefix(wire.API_PATH), told)
        for path, item in DOCUMENT["paths"].items()
        for method, told in item.items()
        if method != "parameters" and path.startswith(tuple(wire.PROXIED))
    ]


@pytest.mark.parametrize("credentials", [OWN, (), (f"authorization: Bearer {CANARY}",)], ids=["own", "none", "wrong"])
async def test_no_error_repeats_what_was_sent(house: House, credentials: tuple[str, ...]) -> None:
    """Not a name in the path, a parameter, a field, a member or a value of a body stands in an error."""
    bodies: list[Any] = [{CANARY: CANARY}, [CANARY], CANARY, {"principal": CANARY, "code": CANARY}]
    errors = 0
    for method, path, _ in passed_on():
        for name in (CANARY, f"%2A{CANARY}"):
            for query in ("", f"?in={CANARY}&since={CANARY}&limit={CANARY}&after={CANARY}"):
                said = bodies if method in ("PUT", "POST") else [None]
                for each in said:
                    fields = (f'if-match: "{CANARY}"',) if method in ("PUT", "DELETE") and query else ()
                    answer = await house.ask(method, filled(path, name) + query, each, *fields, *credentials)
                    if answer.status >= 400:
                        errors += 1
                        assert CANARY.encode() not in answer.body, (method, path)
    assert errors > 100


async def test_an_answer_counts_once_where_clocks_differ(house: House, keys: dict[str, Path]) -> None:
    """A login at a machine whose clock is minutes ahead takes no mark away that another machine needs."""
    await house.add("ann", keys["ed25519"])
    asked = logins.asked("user:ann", ADDRESS)
    given = await house.ask("POST", login.CHALLENGE_PATH, asked)
    held = FileKey(keys["ed25519"].read_bytes())
    answer = logins.answer(msgspec.json.decode(given.body, type=login.Challenge), asked, held)
    assert (await house.ask("POST", login.LOGIN_PATH, answer)).status == 201
    desk = house.app._parts.logins._logins  # type: ignore[union-attr]
    for ahead in (120, 300):
        desk._now = lambda ahead=ahead: time.time() + ahead
        await house.token("user:ann", keys["ed25519"])
        assert (await house.ask("POST", login.LOGIN_PATH, answer)).status == 403
    desk._now = lambda: time.time() + 600
    await house.token("user:ann", keys["ed25519"])
    marks = await desk._sealed.list(names.LOGINS, None, 10)
    assert len(marks.names) == 1


@pytest.mark.parametrize(
    ("kind", "asks", "gets"),
    [
        ("user", "1Y", timedelta(minutes=10)),
        ("user", "1h", timedelta(minutes=10)),
        ("user", "", timedelta(minutes=10)),
        ("user", "5m", timedelta(minutes=5)),
        ("service", "1Y", timedelta(hours=1)),
        ("service", "", timedelta(hours=1)),
        ("service", "5m", timedelta(minutes=5)),
    ],
)
async def test_a_token_lives_no_longer_than_is_allowed(
    house: House, keys: dict[str, Path], kind: str, asks: str, gets: timedelta
) -> None:
    """A user gets ten minutes at most and a service an hour, as the answer says; so long the token is good."""
    await house.add("ann", keys["ed25519"], f"{kind}s")
    asked = logins.asked(f"{kind}:ann", ADDRESS)
    before = datetime.now(UTC).replace(microsecond=0)
    given = await house.ask("POST", login.CHALLENGE_PATH, asked)
    held = FileKey(keys["ed25519"].read_bytes())
    answer = logins.answer(msgspec.json.decode(given.body, type=login.Challenge), asked, held)
    told = await house.ask("POST", login.LOGIN_PATH, msgspec.structs.replace(answer, lifetime=asks))
    token = msgspec.json.decode(told.body, type=login.Token)
    assert before + gets <= datetime.fromisoformat(token.expires) <= datetime.now(UTC) + gets
    said = token.token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(said + "=" * (-len(said) % 4)))
    assert claims["exp"] == datetime.fromisoformat(token.expires).timestamp()
    shown = await house.ask("GET", login.WHOAMI_PATH, None, f"authorization: Bearer {token.token}")
    assert json.loads(shown.body)["expires"] == token.expires


async def test_each_way_of_writing_is_one_line_of_one_name(house: House, keys: dict[str, Path]) -> None:
    """As a secret or as credentials of a host: who may read its name alone reads it, and one line says who wrote it."""
    await house.add("ann", keys["ed25519"])
    await house.add("bob", keys["p256"])
    await house.rule("ann", allow("user:ann", "secrets/db/**", "secrets/hosts/**", "hosts/**"))
    await house.rule("bob", allow("user:bob", "secrets/db/**", actions=(Right.READ,)))
    ann, bob = await house.token("user:ann", keys["ed25519"]), await house.token("user:bob", keys["p256"])
    message = {"type": "simple", "value": "of ann"}
    assert (await house.ask("PUT", "/secrets/db/new", message, ann)).status == 201
    host = {"address": "10.0.0.7", "remote_user": "root", "ssh_priv_key": "YQ=="}
    saved = await house.ask("POST", "/storage/save", {"model": "HostCreds", "records": [host]}, ann)
    assert saved.status == 200, saved.body
    lines = audit_lines(house.log)
    puts = [each["name"] for each in lines if each["action"] == "put" and each["principal"] == "user:ann"]
    (place,) = [name for name in puts if "10.0.0.7" in name]
    assert sorted(each for each in puts if each.startswith("secrets/")) == sorted(["secrets/db/new", place])
    assert (await house.ask("GET", "/secrets/db/new", None, bob)).status == 200
    assert (await house.ask("GET", f"/{place}", None, bob)).status == 403
    keyed = {"model": "HostCreds", "keys": ["10.0.0.7"]}
    assert (await house.ask("POST", "/storage/get", keyed, bob)).status in (400, 403)
    reads = audit_lines(house.log)
    read = [each for each in reads if each["principal"] == "user:bob" and each["decision"] == "allowed"]
    assert [each["name"] for each in read if each["action"] == "get"] == ["secrets/db/new"]


async def test_what_ends_ends_on_every_worker(workers: list[House], keys: dict[str, Path]) -> None:
    """A token, an access key and a user that end at one worker are worth nothing at the other one's next request."""
    here, there = workers
    await here.add("ann", keys["ed25519"])
    await here.add("bob", keys["p256"])
    await here.rule("db", allow("*", "secrets/db/**"))

    async def reads(token: str) -> list[int]:
        return [(await each.ask("GET", "/secrets/db/key", None, token)).status for each in workers]

    token, other = await here.token("user:ann", keys["ed25519"]), await there.token("user:ann", keys["ed25519"])
    assert await reads(token) == await reads(other) == [200, 200]
    assert (await here.ask("DELETE", login.TOKEN_PATH, None, token)).status == 204
    assert await reads(token) == [401, 401]
    assert await reads(other) == [200, 200]

    await here.ask("POST", "/access/users/ann/credentials/", {"kind": "process", "data": "71"}, *OWN)
    (first,) = [
        each["id"]
        for each in json.loads((await here.ask("GET", "/access/users/ann", None, *OWN)).body)["credentials"]
        if each["kind"] == "access-key"
    ]
    assert (await there.ask("DELETE", f"/access/users/ann/credentials/{first}", None, *OWN)).status == 204
    assert await reads(other) == [401, 401]
    assert [(await each.log_in("user:ann", keys["ed25519"])).status for each in workers] == [403, 403]

    token = await there.token("user:bob", keys["p256"])
    assert await reads(token) == [200, 200]
    assert (await here.ask("DELETE", "/access/users/bob", None, *OWN)).status == 204
    assert await reads(token) == [401, 401]
    assert [(await each.log_in("user:bob", keys["p256"])).status for each in workers] == [403, 403]


async def test_conditions_of_rules_hold_over_http(house: House) -> None:
    """A rule, and the document of all, are written by their tags or not at all; elsewhere a condition is refused."""
    rule = {"effect": "allow", "subjects": ["*"], "actions": ["read"], "names": ["secrets/db/**"]}
    path, document = "/access/rules/one", "/access/rules/-/document"
    made = await house.ask("PUT", path, rule, "if-none-match: *", *OWN)
    assert made.status == 201
    assert (await house.ask("PUT", path, rule, "if-none-match: *", *OWN)).status in (409, 412)
    other = await house.ask("PUT", path, rule | {"note": "x"}, f"if-match: {made.get('etag')}", *OWN)
    assert other.status == 204
    for method, said in (("PUT", rule), ("DELETE", None)):
        assert (await house.ask(method, path, said, f"if-match: {made.get('etag')}", *OWN)).status == 412
    assert (await house.ask("DELETE", path, None, f"if-match: {other.get('etag')}", *OWN)).status == 204
    whole = await house.ask("GET", document, None, *OWN)
    assert (await house.ask("PUT", path, rule, *OWN)).status == 201
    text = whole.body
    fields = ("content-type: application/yaml", f"if-match: {whole.get('etag')}", *OWN)
    assert (await house.server.ask(request("PUT", document, *fields, body=text))).status == 412
    looks = {"putRule", "removeRule", "replaceRules"}
    for method, where, told in passed_on():
        if method != "GET" and told["operationId"] not in looks:
            answer = await house.ask(method, filled(where, "some-name"), None, "if-none-match: *", *OWN)
            assert (answer.status, b"is looked at here" in answer.body) == (400, True), where


async def test_no_stranger_learns_what_is_wrong_inside(house: House) -> None:
    """Where nothing can be recorded, who is known is told why, and a stranger, or who guesses, that it is so."""
    house.log.unlink()
    house.log.mkdir()
    guesses = ("custodia-auth-id: own", "custodia-auth-key: another"), ("authorization: Basic YTpi",), ()
    known = await house.ask("GET", "/secrets/db/key", None, *OWN)
    unknown = [await house.ask("GET", "/secrets/db/key", None, *fields) for fields in guesses]

    assert known.status == 503
    assert json.loads(known.body)["detail"].startswith("the audit log cannot be written, so nothing was done: ")
    for answer in unknown:
        assert answer.status == 503
        assert "detail" not in json.loads(answer.body)
    house.log.rmdir()


async def test_a_guess_counts_whoever_hears_of_it(house: House) -> None:
    """Who leaves before he is told that a password is wrong has guessed all the same, and it is written down."""
    said = {"credentials": [{"kind": "password", "data": "correct horse"}]}
    assert (await house.ask("PUT", "/access/users/ann", said, *OWN)).status == 201
    guess = base64.b64encode(b"ann:wrong horse").decode()
    async with await house.server.connect() as leaving:
        leaving.writer.write(request("GET", "/secrets/db/key", f"authorization: Basic {guess}"))
        await leaving.writer.drain()
    async with asyncio.timeout(30):
        while not [line for line in audit_lines(house.log) if line.get("claimed") == ["user:ann"]]:
            await asyncio.sleep(0.02)

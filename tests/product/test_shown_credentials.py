"""What a request shows of who asks, at the service: passwords, beside tokens and API keys."""

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import argon2
import msgspec
import pytest

from strongroom.models.access import Right, Rule
from strongroom.models.secret import Secret
from strongroom.storage_service.backends.base import Put
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.bootstrap import SharedRoot
from strongroom.storage_service.config import ProxyKey, ServiceSettings
from strongroom.storage_service.http.app import StorageApp
from tests.in_process import Inside, inside
from tests.raw_http import Message, request

OWN: Final = ("custodia-auth-id: own", "custodia-auth-key: own-key")
PROOF: Final = "strongroom-proxy: front:front-key"
CHEAP: Final = argon2.PasswordHasher.from_parameters(argon2.profiles.CHEAPEST)


def basic(name: str, password: str) -> str:
    """Return the field that shows a password."""
    return "authorization: Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


@dataclass
class Rig:
    """A service with a proxy's key, and what asks it."""

    server: Inside
    app: StorageApp
    log: Path

    async def ask(self, method: str, path: str, *fields: str, said: Any = None) -> Message:
        """Ask as who shows *fields*."""
        body = b"" if said is None else msgspec.json.encode(said)
        kind = () if said is None else ("content-type: application/json",)
        return await self.server.ask(request(method, path, *kind, *fields, body=body))

    async def add(self, kind: str, name: str, *credentials: dict[str, Any]) -> None:
        """Add a principal with these credentials."""
        answer = await self.ask("PUT", f"/access/{kind}/{name}", *OWN, said={"credentials": credentials})
        assert answer.status == 201, answer.body

    async def allow(self, subject: str, *patterns: str, networks: tuple[str, ...] = ()) -> None:
        """Let a rule allow *subject* to read and list *patterns*."""
        directory = self.app._parts.principals._principals._directory  # type: ignore[union-attr]
        rule = Rule(
            effect="allow", subjects=(subject,), actions=(Right.READ, Right.LIST), names=patterns, networks=networks
        )
        name = f"of-{subject.replace(':', '-')}"
        await directory.change(lambda known: [Put(known.rule_name(name), msgspec.json.encode(rule))])

    async def who(self, *fields: str) -> str | int:
        """Return whom the service takes who shows *fields* for, or its status."""
        answer = await self.ask("GET", "/whoami", *fields)
        return str(json.loads(answer.body)["principal"]) if answer.status == 200 else answer.status

    def lines(self) -> list[dict[str, Any]]:
        """Return the audit log."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A service with one secret."""
    store, shared = MemoryBackend(), SharedRoot()
    settings = ServiceSettings(
        socket=tmp_path / "socket",
        audit_log=tmp_path / "audit.log",
        root_key=tmp_path / "secrets.key",
        store="memory:",
        api_id="own",
        api_key=Secret("own-key"),
        proxy=ProxyKey(api_id="front", api_key=Secret("front-key")),
    )
    app = StorageApp(settings, shared, lambda _: store)
    await app.open()
    async with inside(app) as server:
        made = Rig(server, app, settings.audit_log)
        assert (await made.ask("POST", "/secrets/db/", *OWN)).status == 201
        told = {"type": "simple", "value": "v"}
        assert (await made.ask("PUT", "/secrets/db/key", *OWN, said=told)).status == 201
        yield made
    await app.close()
    shared.close()


def password(given: str, *, hashed: bool = False) -> dict[str, Any]:
    """Return a password as a new credential."""
    return {"kind": "password", "data": given, "hashed": hashed}


async def test_a_password_does_what_rules_allow(rig: Rig) -> None:
    """Who signs in is the principal of the record, and the record says by which credential and where from."""
    await rig.add("users", "ann", password("correct horse"))
    ann = basic("ann", "correct horse")
    assert await rig.who(ann) == "user:ann"
    assert (await rig.ask("GET", "/secrets/db/key", ann)).status == 403
    await rig.allow("user:ann", "secrets/db/**")
    assert (await rig.ask("GET", "/secrets/db/key", ann, PROOF, "forwarded: for=192.0.2.7;proto=http")).status == 200

    line = rig.lines()[-1]
    assert (line["principal"], line["from"], line["decision"]) == ("user:ann", "192.0.2.7", "allowed")
    assert len(line["decided"]["credential"]) == 32


async def test_a_rule_of_a_network_holds_for_who_comes_from_there(rig: Rig) -> None:
    """The address is the one that the proxy tells; nobody else is believed about it."""
    await rig.add("users", "ann", password("correct horse"))
    await rig.allow("user:ann", "secrets/db/**", networks=("192.0.2.0/24",))
    ann, there = basic("ann", "correct horse"), "forwarded: for=192.0.2.7;proto=http"

    assert (await rig.ask("GET", "/secrets/db/key", ann, there, PROOF)).status == 200
    assert (await rig.ask("GET", "/secrets/db/key", ann, there)).status == 403
    assert (await rig.ask("GET", "/secrets/db/key", ann, there, PROOF + "x")).status == 403
    assert (await rig.ask("GET", "/secrets/db/key", ann, PROOF, "forwarded: for=198.51.100.7;proto=http")).status == 403


async def test_a_wrong_password_is_refused_and_on_the_record(rig: Rig) -> None:
    """403 for a wrong password and for an unknown name alike; the log says whom somebody guesses at, who exists."""
    await rig.add("users", "ann", password("correct horse"))
    answers = [
        await rig.ask("GET", "/secrets/db/key", basic(*shown), PROOF, f"forwarded: for=192.0.2.{n};proto=http")
        for n, shown in enumerate((("ann", "wr0ng"), ("hunter2-my-own", "wr0ng"), ("", ""), ("front", "front-key")))
    ]
    assert {answer.status for answer in answers} == {403}
    assert len({json.dumps({**json.loads(answer.body), "request_id": ""}) for answer in answers}) == 1

    claimed = [line.get("claimed") for line in rig.lines() if line["principal"] == "unknown"]
    assert claimed == [["user:ann"], None, None, None]
    assert not any(secret in rig.log.read_text() for secret in ("wr0ng", "hunter2", "correct horse"))


@pytest.mark.parametrize(
    "field", ["Basic", "Basic !!!", "Basic YWJj", "Basic " + "_" * 8, "basic \xff", "Basic YTpi YTpi"]
)
async def test_what_is_no_name_and_password_is_wrong(rig: Rig, field: str) -> None:
    """Half a credential is not none: 403, whatever stands there."""
    assert await rig.who(f"authorization: {field}") == 403


async def test_another_scheme_is_nobody(rig: Rig) -> None:
    """What no authenticator knows is no credential, and an API key beside it counts."""
    assert await rig.who("authorization: Digest x") == 401
    assert await rig.who("authorization: Digest x", *OWN) == "apikey:own"


async def test_of_two_credentials_nothing_is_guessed(rig: Rig) -> None:
    """A right password beside a right API key is refused; half a key, too."""
    await rig.add("users", "ann", password("correct horse"))
    ann = basic("ann", "correct horse")
    for also in (OWN, OWN[:1], OWN[1:]):
        assert await rig.who(ann, *also) == 403
    assert await rig.who("authorization: Bearer x", *OWN) == 403


async def test_an_older_hash_is_kept_anew(rig: Rig) -> None:
    """After the first right password the record holds a hash as new ones are, and it lets in as before."""
    await rig.add("users", "ann", password(CHEAP.hash("correct horse"), hashed=True))
    directory = rig.app._parts.principals._principals._directory  # type: ignore[union-attr]
    known = (await directory.current()).records["system/access/users/ann"].credentials[0]
    assert await rig.who(basic("ann", "correct horse")) == "user:ann"
    assert rig.app._parts is not None
    (by_password,) = [each for each in rig.app._parts.authenticators if type(each).__name__ == "Basic"]
    await by_password.sign_ins.close()  # type: ignore[attr-defined]

    now = (await directory.current()).records["system/access/users/ann"].credentials[0]
    assert (now.id, now.name) == (known.id, known.name)
    assert now.data != known.data
    assert not argon2.PasswordHasher().check_needs_rehash(now.data)
    (again,) = [each for each in rig.app._parts.authenticators if type(each).__name__ == "Basic"]
    assert again is by_password


async def test_who_ends_is_out_at_once(rig: Rig) -> None:
    """A disabled user, and a password that was taken away, open nothing from then on."""
    await rig.add("users", "ann", password("correct horse"), password("second horse"))
    ann = basic("ann", "correct horse")
    assert await rig.who(ann) == "user:ann"
    shown = json.loads((await rig.ask("GET", "/access/users/ann", *OWN)).body)["credentials"]
    first = shown[0]["id"]
    assert (await rig.ask("DELETE", f"/access/users/ann/credentials/{first}", *OWN)).status in (200, 204)
    assert await rig.who(ann) == 403
    assert await rig.who(basic("ann", "second horse")) == "user:ann"
    assert (await rig.ask("PUT", "/access/users/ann/disabled", *OWN)).status in (200, 204)
    assert await rig.who(basic("ann", "second horse")) == 403

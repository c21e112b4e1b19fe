"""What a request shows of who asks, at the service: passwords, certificates and processes, beside API keys."""

import base64
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import argon2
import msgspec
import pytest

from strongroom.models.access import Credential, Kind, Right, Rule
from strongroom.models.secret import Secret
from strongroom.storage_service.access.authenticators import Basic
from strongroom.storage_service.access.directory import Snapshot
from strongroom.storage_service.backends.base import Put
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.bootstrap import SharedRoot
from strongroom.storage_service.config import AuthenticatorSettings, NetworkRuleSettings, ProxyKey, ServiceSettings
from strongroom.storage_service.errors import Locked
from strongroom.storage_service.http.app import StorageApp
from tests.audit_lines import audit_lines
from tests.in_process import Inside, inside
from tests.raw_http import Message, request

OWN: Final = ("custodia-auth-id: own", "custodia-auth-key: own-key")
PROOF: Final = "strongroom-proxy: front:front-key"
CHEAP: Final = argon2.PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)


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
        return audit_lines(self.log)


@asynccontextmanager
async def served(home: Path, *, ready: bool = True, **more: Any) -> AsyncIterator[Rig]:
    """Serve a service with one secret, if it is *ready* for whoever shows its own key."""
    store, shared = MemoryBackend(), SharedRoot()
    (home / "log").mkdir()
    settings = ServiceSettings(
        socket=home / "socket",
        audit_log=home / "log" / "audit.log",
        root_key=home / "secrets.key",
        store="memory:",
        api_id="own",
        api_key=Secret("own-key"),
        proxy=ProxyKey(api_id="front", api_key=Secret("front-key")),
        **more,
    )
    app = StorageApp(settings, shared, lambda _: store)
    await app.open()
    async with inside(app) as server:
        made = Rig(server, app, settings.audit_log)
        if ready:
            assert (await made.ask("POST", "/secrets/db/", *OWN)).status == 201
            told = {"type": "simple", "value": "v"}
            assert (await made.ask("PUT", "/secrets/db/key", *OWN, said=told)).status == 201
        yield made
    await app.close()
    shared.close()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A service with one secret."""
    async with served(tmp_path) as made:
        yield made


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
    (by_password,) = [each for each in rig.app._parts.authenticators if isinstance(each, Basic)]
    await by_password.sign_ins.close()

    now = (await directory.current()).records["system/access/users/ann"].credentials[0]
    assert (now.id, now.name) == (known.id, known.name)
    assert now.data != known.data
    assert not argon2.PasswordHasher().check_needs_rehash(now.data)


async def test_no_password_is_tried_while_a_guess_cannot_be_recorded(rig: Rig) -> None:
    """With the log gone a right password is not told from a wrong one, and is not hashed; when it is back it counts."""
    await rig.add("users", "ann", password("correct horse"))
    right, wrong = basic("ann", "correct horse"), basic("ann", "wrong")
    away = rig.log.parent.rename(rig.log.parent.with_name("away"))
    assert await rig.who(wrong) == 503  # by which it is known that nothing can be recorded
    (by_password,) = [each for each in rig.app._parts.authenticators if isinstance(each, Basic)]  # type: ignore[union-attr]
    assert [await rig.who(shown, PROOF) for shown in (right, wrong, right)] == [503, 503, 503]
    assert by_password.sign_ins._remembered == {}

    away.rename(rig.log.parent)
    assert await rig.who(right) == "user:ann"
    assert await rig.who(wrong) == 403


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


# Certificates, as the proxy tells of them

PRINT: Final = "SHA256:" + "ab" * 32
OTHER_PRINT: Final = "SHA256:" + "cd" * 32
URI: Final = "spiffe://example.net/runner"


def certificate(*names: str) -> str:
    """Return the field by which the proxy tells of a certificate."""
    return "strongroom-certificate: " + " ".join(names)


@pytest.mark.parametrize("data", [PRINT, URI])
async def test_a_certificate_is_whose_record_names_it(rig: Rig, data: str) -> None:
    """By its fingerprint or by a URI of its names; its holder does what rules allow."""
    await rig.add("services", "runner", {"kind": "certificate", "data": data})
    shown = (PROOF, certificate(PRINT, "spiffe://example.net/other", URI), "forwarded: for=192.0.2.7;proto=https")
    assert await rig.who(*shown) == "service:runner"
    assert (await rig.ask("GET", "/secrets/db/key", *shown)).status == 403
    await rig.allow("service:runner", "secrets/db/**")
    assert (await rig.ask("GET", "/secrets/db/key", *shown)).status == 200
    assert await rig.who(PROOF, certificate(OTHER_PRINT)) == 401


async def test_nobody_but_the_proxy_is_believed_about_a_certificate(rig: Rig) -> None:
    """Without its proof, or with a wrong one, the field says nothing; the operator's own key proves nothing of it."""
    await rig.add("services", "runner", {"kind": "certificate", "data": PRINT})
    for also in ((), ("strongroom-proxy: front:wrong",), ("strongroom-proxy: own:own-key",), ("forwarded: for=a",)):
        assert await rig.who(certificate(PRINT), *also) == 401
    assert await rig.who(certificate(PRINT), *OWN) == "apikey:own"


async def test_beside_another_credential_a_certificate_is_the_gate_alone(rig: Rig) -> None:
    """What else is shown counts, right or wrong, and the certificate adds nothing to it."""
    await rig.add("services", "runner", {"kind": "certificate", "data": PRINT})
    await rig.add("users", "ann", password("correct horse"))
    shown = (PROOF, certificate(PRINT))
    assert await rig.who(*shown, basic("ann", "correct horse")) == "user:ann"
    assert await rig.who(*shown, *OWN) == "apikey:own"
    assert await rig.who(*shown, basic("ann", "wrong")) == 403
    assert await rig.who(*shown, OWN[0]) == 403
    assert await rig.who(*shown, "authorization: Digest x") == 401


async def test_a_certificate_of_several_is_nobodys(rig: Rig) -> None:
    """Whose names are those of several principals is refused, rather than guessed."""
    await rig.add("services", "runner", {"kind": "certificate", "data": PRINT})
    await rig.add("services", "walker", {"kind": "certificate", "data": URI})
    assert await rig.who(PROOF, certificate(PRINT, URI)) == 403
    assert await rig.who(PROOF, certificate(URI)) == "service:walker"


@pytest.mark.parametrize("said", ["", " ", "SHA256:ab", "x" * 3000, "spiffe://", f"{PRINT},", PRINT[7:]])
async def test_what_is_no_certificates_name_is_nobodys(rig: Rig, said: str) -> None:
    """Whatever stands there, nobody is taken for anybody by it."""
    await rig.add("services", "runner", {"kind": "certificate", "data": PRINT})
    assert await rig.who(PROOF, certificate(said)) == 401


async def test_a_certificates_holder_ends_at_once(rig: Rig) -> None:
    """Disabled or removed, and the certificate opens nothing."""
    await rig.add("services", "runner", {"kind": "certificate", "data": PRINT})
    assert await rig.who(PROOF, certificate(PRINT)) == "service:runner"
    assert (await rig.ask("PUT", "/access/services/runner/disabled", *OWN)).status in (200, 204)
    assert await rig.who(PROOF, certificate(PRINT)) == 401
    assert (await rig.ask("DELETE", "/access/services/runner/disabled", *OWN)).status in (200, 204)
    assert await rig.who(PROOF, certificate(PRINT)) == "service:runner"
    assert (await rig.ask("DELETE", "/access/services/runner", *OWN)).status in (200, 204)
    assert await rig.who(PROOF, certificate(PRINT)) == 401


# Processes

ME: Final = {"kind": "process", "data": str(os.getuid())}


async def test_a_process_is_whose_record_names_its_user(rig: Rig) -> None:
    """Who shows nothing on the socket is the holder of the uid that the kernel tells; without one, nobody."""
    assert await rig.who() == 401
    await rig.add("services", "runner", ME)
    await rig.allow("service:runner", "secrets/db/**")
    assert await rig.who() == "service:runner"
    assert (await rig.ask("GET", "/secrets/db/key")).status == 200
    assert (await rig.ask("GET", "/apikeys")).status == 403


async def test_a_process_that_shows_something_is_not_known_by_its_user(rig: Rig) -> None:
    """A credential counts, and a wrong one is not made good by the process; nor is it where somebody forwards."""
    await rig.add("services", "runner", ME)
    assert await rig.who(*OWN) == "apikey:own"
    for shown in (OWN[0], "authorization: Bearer x", basic("ann", "x")):
        assert await rig.who(shown) in (401, 403)
    for shown in ("authorization: Digest x", "forwarded: for=192.0.2.7;proto=http", "forwarded: x"):
        assert await rig.who(shown) == 401
    assert await rig.who(PROOF, "forwarded: for=192.0.2.7;proto=http") == 401


@pytest.mark.parametrize("by_group", [False, True])
async def test_whom_the_configuration_lets_in_is_whom_the_record_names(tmp_path: Path, by_group: bool) -> None:
    """SimpleCredsAuth lets a user in, and a record says who that is: rules decide then, and no reach of its own."""
    options = {"gid" if by_group else "uid": str(os.getgid() if by_group else os.getuid()), "proxies": ""}
    by_process = AuthenticatorSettings(handler="SimpleCredsAuth", options=options)
    by_key = AuthenticatorSettings(handler="SimpleAuthKeys")
    async with served(tmp_path, authenticators=(by_key, by_process)) as rig:
        assert await rig.who() == f"service:{os.getuid()}"
        assert (await rig.ask("GET", "/secrets/db/key")).status == 200
        await rig.add("services", "runner", ME)
        assert await rig.who() == "service:runner"
        assert (await rig.ask("GET", "/secrets/db/key")).status == 403
        assert await rig.who(*OWN) == "service:runner"  # the last to know, as the configuration has it


async def test_a_user_who_may_not_use_the_socket_is_kept_out_though_a_record_names_him(tmp_path: Path) -> None:
    """SimpleCredsAuth says who may use the socket: another's record opens it for nobody, nor does ``Forwarded``."""
    another = AuthenticatorSettings(handler="SimpleCredsAuth", options={"uid": str(os.getuid() + 1), "proxies": ""})
    async with served(tmp_path, ready=False, authenticators=(another,)) as rig:
        directory = rig.app._parts.principals._principals  # type: ignore[union-attr]
        held = Credential(
            id="0" * 32, kind="process", name="here", data=str(os.getuid()), created="2026-11-30T12:00:00Z"
        )
        await directory.add(Kind.SERVICE, "runner", "test", credentials=[held])
        for shown in ((), ("forwarded: x",), OWN, (PROOF,)):
            assert await rig.who(*shown) == 403


async def test_while_locked_the_configuration_alone_says_who_a_process_is(tmp_path: Path) -> None:
    """Records cannot be opened then: who is let in as a process goes on, and who is known by a record waits."""
    by_process = AuthenticatorSettings(handler="SimpleCredsAuth", options={"uid": str(os.getuid()), "proxies": ""})
    async with served(tmp_path, authenticators=(by_process,)) as rig:
        assert rig.app._parts is not None
        holders = rig.app._parts.process.holders

        async def locked() -> Snapshot:
            raise Locked("the service is locked")

        known, holders._directory.current = holders._directory.current, locked  # type: ignore[method-assign]
        assert await rig.who() == f"service:{os.getuid()}"
        holders._directory.current = known  # type: ignore[method-assign]


# From where


async def test_network_rules_hold_over_the_network_alone(tmp_path: Path) -> None:
    """With one configured, what none allows is 403 from there, for every key; the socket has no network."""
    inside_alone = NetworkRuleSettings(type="allow", addresses=("192.0.2.0/24",), commands=("read", "login"))
    there, elsewhere = "forwarded: for=192.0.2.7;proto=http", "forwarded: for=198.51.100.7;proto=http"
    async with served(tmp_path, network_rules=(inside_alone,)) as rig:
        assert (await rig.ask("GET", "/secrets/db/key", PROOF, there, *OWN)).status == 200
        assert (await rig.ask("GET", "/secrets/db/", PROOF, there, *OWN)).status == 403
        for address in (elsewhere, "forwarded: for=unknown;proto=http", "forwarded: for=127.0.0.1;proto=http"):
            assert (await rig.ask("GET", "/secrets/db/key", PROOF, address, *OWN)).status == 403
        assert (await rig.ask("GET", "/secrets/db/", *OWN)).status == 200
        assert (await rig.ask("GET", "/secrets/db/", elsewhere, *OWN)).status == 200  # who is not believed is here

        asked = {"principal": "user:ann", "service": "http://x", "how": "sign"}
        for address, status in ((there, 400), (elsewhere, 403)):
            assert (await rig.ask("POST", "/auth/challenge", PROOF, address, said=asked)).status == status
        assert "198.51.100.7" in {line.get("from") for line in rig.lines() if line["principal"] == "unknown"}


async def test_from_where_nobody_may_come_no_password_is_tried(tmp_path: Path) -> None:
    """A right password and a wrong one are the same there, and neither costs a hash."""
    nobody = NetworkRuleSettings(type="deny", addresses=("198.51.100.0/24",), commands=("*",))
    async with served(tmp_path, network_rules=(nobody,)) as rig:
        await rig.add("users", "ann", password("correct horse"))
        there = (PROOF, "forwarded: for=198.51.100.7;proto=http")
        for word in ("correct horse", "wrong"):
            assert await rig.who(*there, basic("ann", word)) == 403
            assert "claimed" not in rig.lines()[-1]
        assert await rig.who(basic("ann", "correct horse")) == "user:ann"

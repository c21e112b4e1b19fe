"""Who is believed about the network, and about whom he acts for: the proxy, by its own key, and nobody else."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from strongroom.models.secret import Secret
from strongroom.storage_service.access.authenticators import address_in, whom_in
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.config import ProxyKey
from strongroom.storage_service.http.app import StorageApp
from strongroom.storage_service.keyring.shared_root import SharedRoot
from tests.audit_lines import audit_lines
from tests.in_process import Inside, inside
from tests.raw_http import Message, request
from tests.service.test_outcomes import settings

OWN = ("own", "own-key")
FRONT = ("front", "front-key")


@dataclass
class Rig:
    """A service in this process whose proxy has a key of its own."""

    server: Inside
    log: Path

    async def ask(self, who: tuple[str, str], *lines: str, method: str = "GET", path: str = "/whoami") -> Message:
        """Return the answer to who asks with an id and a key."""
        key = (f"custodia-auth-id: {who[0]}", f"custodia-auth-key: {who[1]}", "content-type: application/json")
        return await self.server.ask(request(method, path, *key, *lines))

    async def line(self, *lines: str, who: tuple[str, str] = OWN) -> dict[str, Any]:
        """Return what is written down of a request with these fields, beside that somebody posed as the proxy."""
        answer = await self.ask(who, *lines, path="/status")
        assert answer.status == 200
        (found,) = [
            line
            for line in audit_lines(self.log)
            if line["request"] == answer.get("x-request-id") and line["principal"] != "unknown"
        ]
        return dict(found)

    @property
    def proof(self) -> str:
        """The field that shows the proxy's key."""
        return f"strongroom-proxy: {FRONT[0]}:{FRONT[1]}"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """One, with a proxy."""
    shared = SharedRoot()
    proxy = ProxyKey(api_id=FRONT[0], api_key=Secret(FRONT[1]))
    app = StorageApp(replace(settings(tmp_path), proxy=proxy), shared, lambda _: MemoryBackend())
    await app.open()
    async with inside(app) as server:
        yield Rig(server, tmp_path / "audit.log")
    await app.close()
    shared.close()


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("for=192.0.2.7;proto=http", "192.0.2.7"),
        ('for="[2001:db8::7]";proto=https', "2001:db8::7"),
        ("for=unknown;proto=http", None),
    ],
)
async def test_the_proxy_is_believed_about_the_address(rig: Rig, said: str, written: str | None) -> None:
    """Beside whatever key the caller has, the proxy's own lets its Forwarded be written down."""
    assert (await rig.line(rig.proof, f"forwarded: {said}")).get("from") == written


async def test_a_key_that_reaches_everything_is_not_the_proxys(rig: Rig) -> None:
    """The operator's own key proves nothing of the network, shown either way, and speaks for nobody."""
    said = ("forwarded: for=192.0.2.7;proto=http", "strongroom-on-behalf-of: user:ceo")

    assert {"from", "for"}.isdisjoint(await rig.line(*said))
    assert {"from", "for"}.isdisjoint(await rig.line(*said, "strongroom-proxy: own:own-key"))
    for wrong in (f"{rig.proof}x", rig.proof[:-1], f"{rig.proof[:-1]}x", rig.proof.replace(":f", ":x", 1)):
        assert {"from", "for"}.isdisjoint(await rig.line(*said, wrong)), wrong


async def test_the_proxy_speaks_for_others_with_its_own_key_alone(rig: Rig) -> None:
    """Whom it acts for counts where the request is the proxy's own; of others' it tells the address and no more."""
    said = "strongroom-on-behalf-of: user:alice"

    assert (await rig.line(said, who=FRONT))["for"] == "user:alice"
    assert "for" not in await rig.line(said, rig.proof)


async def test_the_proxys_key_reaches_nothing(rig: Rig) -> None:
    """It is known by its own name, and no more than that, whomever it says that it speaks for."""
    who = json.loads((await rig.ask(FRONT)).body)
    assert (who["principal"], who["paths"]) == ("apikey:front", [])

    for method, path in (
        ("POST", "/apikeys"),
        ("GET", "/secrets/hosts/a"),
        ("POST", "/bulk/list"),
        ("POST", "/storage/get"),
    ):
        for said in ((), ("strongroom-on-behalf-of: user:alice", rig.proof)):
            assert (await rig.ask(FRONT, *said, method=method, path=path)).status == 403, path


@pytest.mark.parametrize(("method", "path"), [("POST", "/apikeys"), ("DELETE", "/apikeys/front")])
async def test_the_proxys_key_is_no_record(rig: Rig, method: str, path: str) -> None:
    """Nobody can make another key of its id, or revoke it: it is the configuration's."""
    body = json.dumps({"id": "front", "paths": ["/"], "actions": ["get"]}).encode() if method == "POST" else b""
    fields = ("custodia-auth-id: own", "custodia-auth-key: own-key", "content-type: application/json")

    answer = await rig.server.ask(request(method, path, *fields, body=body))

    assert answer.status == (409 if method == "POST" else 404)
    assert (await rig.ask(FRONT)).status == 200


async def test_without_a_key_nobody_is_the_proxy(tmp_path: Path) -> None:
    """A service that was told of no proxy believes nobody, whatever is shown."""
    shared = SharedRoot()
    app = StorageApp(settings(tmp_path), shared, lambda _: MemoryBackend())
    await app.open()
    async with inside(app) as server:
        rig = Rig(server, tmp_path / "audit.log")
        said = ("forwarded: for=192.0.2.7;proto=http", "strongroom-on-behalf-of: user:ceo")
        for shown in (":", "own:own-key", ""):
            assert {"from", "for"}.isdisjoint(await rig.line(*said, f"strongroom-proxy: {shown}"))
        assert (await rig.ask(OWN, method="POST", path="/refusals")).status == 403
    await app.close()
    shared.close()


LONG = "x" * 257


@pytest.mark.parametrize(
    "bad",
    [
        *[{field: LONG} for field in ("request", "action", "name", "reason", "principal", "on_behalf_of", "address")],
        *[{"claimed": [LONG]}, {"claimed": ["x"] * 9}, {"peer": {"uid": 0}}],
        *[{"count": 0}, {"count": -1}, {"count": 2**53 + 1}, {"decision": "allowed"}],
    ],
    ids=str,
)
async def test_a_report_is_held_to_its_bounds(rig: Rig, bad: dict[str, object]) -> None:
    """What whoever has the proxy's key reports is short, counts up, and claims no process; else it is 400."""
    good: dict[str, object] = {"request": "r", "action": "GET", "name": "/", "reason": "no"}
    key = (f"custodia-auth-id: {FRONT[0]}", f"custodia-auth-key: {FRONT[1]}", "content-type: application/json")

    async def report(refusal: dict[str, object]) -> int:
        body = json.dumps({"refusals": [refusal]}).encode()
        return (await rig.server.ask(request("POST", "/refusals", *key, body=body))).status

    assert await report(good) == 204
    assert await report(good | bad) == 400


@pytest.mark.parametrize(
    "said",
    ["for=evil;proto=http", "for=1.2.3.4", "for=1.2.3.4;proto=http,for=5.6.7.8", "for=1.2.3.4\x9b;proto=http", ""],
)
def test_an_address_is_read_as_the_proxy_writes_it(said: str) -> None:
    """Whatever else stands there is no address."""
    assert address_in(said) is None


@pytest.mark.parametrize("said", ["user:ceo\x9b31m", "", "u" * 129, "a b", None])
def test_whom_it_acts_for_is_short_and_prints(said: str | None) -> None:
    """Whatever cannot be somebody's name is nobody."""
    assert whom_in(said) is None

"""Who is believed about the network, and about whom he acts for: the proxy, by its own key, and nobody else."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from storage_service import authn
from storage_service.app import StorageApp
from storage_service.authn import address_in, whom_in
from storage_service.backends.memory import MemoryBackend
from storage_service.keyring.page import Page
from tests.in_process import Inside, inside
from tests.raw_http import Message, request
from tests.service.test_outcomes import settings

OWN = ("own", "own-key")


@dataclass
class Rig:
    """A service in this process whose proxy has a key of its own."""

    server: Inside
    log: Path
    front: str

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
            for line in map(json.loads, self.log.read_text().splitlines())
            if line["request"] == answer.get("x-request-id") and line["principal"] != "unknown"
        ]
        return dict(found)

    @property
    def proof(self) -> str:
        """The field that shows the proxy's key."""
        return f"strongroom-proxy: front:{self.front}"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """One, with the key made."""
    page = Page()
    app = StorageApp(replace(settings(tmp_path), proxy_id="front"), page, lambda _: MemoryBackend())
    await app.open()
    async with inside(app) as server:
        body = json.dumps({"id": "front", "paths": ["/none/"], "actions": ["get"]}).encode()
        key = ("custodia-auth-id: own", "custodia-auth-key: own-key")
        made = await server.ask(request("POST", "/apikeys", *key, "content-type: application/json", body=body))
        yield Rig(server, tmp_path / "audit.log", json.loads(made.body)["key"])
    await app.close()
    page.close()


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
    assert {"from", "for"}.isdisjoint(await rig.line(*said, f"strongroom-proxy: front:{rig.front}x"))


async def test_the_proxy_speaks_for_others_with_its_own_key_alone(rig: Rig) -> None:
    """Whom it acts for counts where the request is the proxy's own; of others' it tells the address and no more."""
    said = "strongroom-on-behalf-of: user:alice"

    assert (await rig.line(said, who=("front", rig.front)))["for"] == "user:alice"
    assert "for" not in await rig.line(said, rig.proof)


async def test_a_proxys_key_that_was_revoked_is_believed_no_more(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Revoking the proxy's key ends what it is believed, as soon as it is looked at again."""
    monkeypatch.setattr(authn, "BELIEVED", 0.0)
    said = "forwarded: for=192.0.2.7;proto=http"
    assert "from" in await rig.line(rig.proof, said)

    assert (await rig.ask(OWN, method="DELETE", path="/apikeys/front")).status == 204

    assert "from" not in await rig.line(rig.proof, said)


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

"""A service whose callers show wrong keys: they wait, nobody else does, and each refusal is on record."""

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from strongroom.models.secret import Secret
from strongroom.storage_service.access.limits import FREE, Rates, Slowdown
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.config import ProxyKey
from strongroom.storage_service.http.app import StorageApp
from strongroom.storage_service.keyring.shared_root import SharedRoot
from strongroom.storage_service.wire import ON_BEHALF_HEADER
from tests.audit_lines import audit_lines
from tests.in_process import Inside, inside
from tests.raw_http import Message, request
from tests.service.test_outcomes import settings

HERE: Final = "for=192.0.2.7;proto=https"
THERE: Final = "for=198.51.100.4;proto=https"


class Rig:
    """A service in this process, with the clock of its slowdown."""

    def __init__(self, app: StorageApp, server: Inside, log: Path) -> None:
        self.server = server
        self.app = app
        self.now = 1000.0
        self._log = log

    async def ask(self, api_id: str, key: str, forwarded: str) -> Message:
        """Return the answer to somebody whom the proxy forwards."""
        fields = (f"custodia-auth-id: {api_id}", f"custodia-auth-key: {key}", "strongroom-proxy: front:front-key")
        return await self.server.ask(request("GET", "/whoami", *fields, f"forwarded: {forwarded}"))

    async def sign_in(self, name: str, password: str, forwarded: str) -> Message:
        """Return the answer to somebody who shows a password."""
        shown = base64.b64encode(f"{name}:{password}".encode()).decode()
        fields = (f"authorization: Basic {shown}", "strongroom-proxy: front:front-key")
        return await self.server.ask(request("GET", "/whoami", *fields, f"forwarded: {forwarded}"))

    async def flush(self) -> None:
        """Have written down who was counted."""
        assert self.app._parts is not None
        await self.app._parts.door.close()

    def reasons(self) -> list[str]:
        """All reasons that are on record."""
        return [line.get("reason", "") for line in audit_lines(self._log)]

    def refusals(self) -> list[str]:
        """Why strangers were refused, in order."""
        lines = audit_lines(self._log)
        return [line["reason"] for line in lines if line["principal"] == "unknown"]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """One with a proxy."""
    shared = SharedRoot()
    proxy = ProxyKey(api_id="front", api_key=Secret("front-key"))
    app = StorageApp(replace(settings(tmp_path), proxy=proxy), shared, lambda _: MemoryBackend())
    await app.open()
    async with inside(app) as server:
        made = Rig(app, server, tmp_path / "audit.log")
        app._slow = Slowdown(lambda: made.now)
        yield made
    await app.close()
    shared.close()


async def test_wrong_keys_wait(rig: Rig) -> None:
    """After so many the next is not looked at, right or wrong, and is told when to come again; then it counts again."""
    for _ in range(FREE + 2):
        assert (await rig.ask("own", "wrong", HERE)).status in (403, 429)
    rig.now += 1
    assert (await rig.ask("own", "wrong", HERE)).status == 403
    answer = await rig.ask("own", "own-key", HERE)
    assert answer.status == 429
    assert answer.get("retry-after") == "1"
    assert json.loads(answer.body)["wait"] == 1
    rig.now += 1
    assert (await rig.ask("own", "own-key", HERE)).status == 200
    assert (await rig.ask("own", "wrong", HERE)).status == 403  # and all of it begins anew


async def test_the_right_key_from_elsewhere_does_not_wait(rig: Rig) -> None:
    """However often somebody is wrong at one address, the owner of the key goes on at his."""
    for _ in range(FREE * 3):
        await rig.ask("own", "wrong", HERE)
    assert (await rig.ask("own", "own-key", HERE)).status == 429
    assert (await rig.ask("own", "own-key", THERE)).status == 200
    assert (await rig.ask("front", "front-key", HERE)).status == 200


async def test_wrong_passwords_wait_whoever_is_meant(rig: Rig) -> None:
    """They wait as keys do, by name and address, whether there is somebody of the name or not."""
    ann = {"credentials": [{"kind": "password", "data": "correct horse"}]}
    fields = ("custodia-auth-id: own", "custodia-auth-key: own-key", "content-type: application/json")
    made = await rig.server.ask(request("PUT", "/access/users/ann", *fields, body=json.dumps(ann).encode()))
    assert made.status == 201

    for name in ("ann", "nobody"):
        told = [(await rig.sign_in(name, "wrong horse", HERE)).status for _ in range(FREE + 2)]
        assert told == [403] * (FREE + 1) + [429]
    answer = await rig.sign_in("ann", "correct horse", HERE)
    assert (answer.status, answer.get("retry-after")) == (429, "1")
    assert (await rig.sign_in("ann", "correct horse", THERE)).status == 200
    assert (await rig.sign_in("other", "wrong horse", HERE)).status == 403
    rig.now += 1
    assert (await rig.sign_in("ann", "correct horse", HERE)).status == 200


async def test_who_waits_is_on_record(rig: Rig) -> None:
    """A refusal without a look is told like any other stranger's."""
    for _ in range(FREE + 2):
        await rig.ask("own", "wrong", HERE)
    assert (await rig.ask("own", "wrong", HERE)).status == 429
    await rig.flush()
    assert "wrong credentials were shown" in rig.refusals()


async def test_who_asks_too_often_waits(rig: Rig) -> None:
    """A principal at an address has its requests; over them it is told when to come, and that is recorded."""
    rig.app._rates = Rates(2, lambda: rig.now)

    async def ask(forwarded: str, who: str = "user:ann", path: str = "/status") -> Message:
        fields = ("custodia-auth-id: front", "custodia-auth-key: front-key", "strongroom-proxy: front:front-key")
        behalf = f"{ON_BEHALF_HEADER}: {who}"
        return await rig.server.ask(request("GET", path, *fields, behalf, f"forwarded: {forwarded}"))

    assert [(await ask(HERE)).status for _ in range(2)] == [200, 200]
    answer = await ask(HERE)
    assert (answer.status, answer.get("retry-after")) == (429, "30")
    assert answer.get("ratelimit-policy") == '"requests";q=2;w=60'
    assert answer.get("ratelimit") == '"requests";r=0;t=30'
    said = json.loads(answer.body)
    assert (said["type"].rpartition(":")[2], said["wait"]) == ("too-many-requests", 30)
    assert (await ask(THERE)).status == 200
    assert (await ask(HERE, "user:bo")).status == 200
    assert (await ask(HERE, path="/whoami")).status == 200
    assert [(await rig.ask("own", "own-key", HERE)).status for _ in range(5)] == [200] * 5
    rig.now += 30
    assert (await ask(HERE)).status == 200
    await rig.flush()
    assert "too-many-requests: there were too many requests" in rig.reasons()


async def test_wrong_setup_codes_wait_as_keys_do(rig: Rig) -> None:
    """The same rule holds for them: the next is answered 429, and says when to come again."""
    said = {"principal": "user:eve", "code": "wrong", "credential": {"kind": "process", "data": "7"}}
    body = json.dumps(said).encode()
    fields = ("strongroom-proxy: front:front-key", f"forwarded: {HERE}", "content-type: application/json")
    statuses = [
        (await rig.server.ask(request("POST", "/access/setup", *fields, body=body))).status for _ in range(FREE + 1)
    ]
    answer = await rig.server.ask(request("POST", "/access/setup", *fields, body=body))

    assert set(statuses) == {403}
    assert (answer.status, answer.get("retry-after")) == (429, "1")
    assert (await rig.ask("own", "own-key", HERE)).status == 200

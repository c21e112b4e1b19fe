"""What the service measures of itself, of its parts in this process: hanging stores, failing logs and refusals."""

import asyncio
import errno
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parsed

from strongroom.http_proxy.app import READY_TIMEOUT
from strongroom.models.secret import Secret
from strongroom.storage_service.backends.base import Backend, Entry
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.bootstrap import SharedRoot
from strongroom.storage_service.config import ProxyKey, ServiceSettings
from strongroom.storage_service.http.app import StorageApp
from strongroom.storage_service.services import health, telemetry
from tests.in_process import Inside, inside
from tests.raw_http import request

PROXY = "strongroom-proxy: proxy:proxy-key"


class Slow(MemoryBackend):
    """A store that stops answering when it is told to."""

    hangs = False

    async def get(self, name: str) -> Entry | None:
        if self.hangs:
            await asyncio.Event().wait()
        return await super().get(name)


@asynccontextmanager
async def running(home: Path, store: Backend) -> AsyncIterator[Inside]:
    settings = ServiceSettings(
        socket=home / "s",
        audit_log=home / "audit.log",
        root_key=home / "secrets.key",
        store="memory:",
        api_id="own",
        api_key=Secret("own-key"),
        proxy=ProxyKey(api_id="proxy", api_key=Secret("proxy-key")),
    )
    shared = SharedRoot()
    app = StorageApp(settings, shared, lambda _: store)
    await app.open()
    async with inside(app) as server:
        yield server
    await app.close()
    shared.close()


async def told(server: Inside) -> dict[tuple[str, ...], float]:
    """Return what the proxy is told in its own name."""
    answer = await server.ask(request("GET", "/metrics", PROXY))
    assert answer.status == 200
    return {
        (sample.name.removeprefix("strongroom_storage_"), *sample.labels.values()): sample.value
        for family in parsed(answer.body.decode())
        for sample in family.samples
    }


async def test_a_store_that_hangs_is_told_as_unwell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it longer than patience lasts, and what is not known of it is not there."""
    monkeypatch.setattr(telemetry, "PATIENCE", 0.1)
    store = Slow()
    async with running(tmp_path, store) as server:
        well = await told(server)
        store.hangs = True
        unwell = await told(server)
        store.hangs = False
        again = await told(server)

    assert (well["check", "store"], unwell["check", "store"], again["check", "store"]) == (1, 0, 1)
    assert ("store_probe_seconds",) in well and ("store_probe_seconds",) not in unwell
    assert ("keysets",) in well and ("keysets",) not in unwell
    assert unwell["state", "unlocked"] == 1


async def test_readiness_blames_the_store_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks still waits when the answer comes: it is the store that does not answer, and not the service."""
    assert health.PATIENCE < READY_TIMEOUT
    monkeypatch.setattr(health, "PATIENCE", 0.1)
    store = Slow()
    async with running(tmp_path, store) as server:
        store.hangs = True
        answer = await server.ask(request("GET", "/readyz"))

    said = json.loads(answer.body)
    assert (answer.status, said["checks"]["store"], said["checks"]["audit"]) == (503, False, True)


async def test_lines_that_do_not_reach_the_audit_log_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the disk is full the log is unwell, its errors grow, and the metrics are told all the same."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    ask = request("GET", "/status", "custodia-auth-id: own", "custodia-auth-key: own-key")
    async with running(tmp_path, MemoryBackend()) as server:
        assert (await server.ask(ask)).status == 200
        before = await told(server)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            assert (await server.ask(ask)).status == 503
            during = await told(server)
        after = await told(server)

    assert (before["audit_errors_total",], before["check", "audit"]) == (0, 1)
    assert during["audit_errors_total",] >= 1 and during["check", "audit"] == 0
    assert after["check", "audit"] == 1 and after["audit_errors_total",] >= during["audit_errors_total",]
    assert before["audit_bytes",] == (tmp_path / "audit.log").stat().st_size > 0
    assert before["audit_free_bytes",] > 0 and before["audit_last_write_timestamp_seconds",] > 1.7e9


async def test_who_is_nobody_is_counted_by_what_was_shown(tmp_path: Path) -> None:
    """No credentials are one count, wrong ones another; right ones are none."""
    wrong = ("custodia-auth-id: own", "custodia-auth-key: guess")
    async with running(tmp_path, MemoryBackend()) as server:
        for lines in ((), wrong, wrong, ("custodia-auth-id: own", "custodia-auth-key: own-key")):
            await server.ask(request("GET", "/status", *lines))
        page = await told(server)

    assert (page["authentication_failures_total", "none"], page["authentication_failures_total", "wrong"]) == (1, 2)

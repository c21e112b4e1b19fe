"""The line says what came of it: done, failed, or that nobody can tell, on a store that fails at a word."""

import json
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from strongroom.models.secret import Secret
from strongroom.storage_service.backends.base import Change, Put
from strongroom.storage_service.backends.faulty import Fault, FaultyBackend
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.config import ServiceSettings
from strongroom.storage_service.http.app import StorageApp
from strongroom.storage_service.keyring.shared_root import SharedRoot
from tests.audit_lines import audit_lines
from tests.in_process import Inside, inside
from tests.raw_http import Message, request

OWN = ("custodia-auth-id: own", "custodia-auth-key: own-key")
MESSAGE = b'{"type":"simple","value":"x"}'


class Store(FaultyBackend):
    """A store that fails on command, also by an error that nobody thought of, and takes so many changes at once."""

    def __init__(self) -> None:
        super().__init__(MemoryBackend())
        self.broken = False
        self.refused = ""
        self.most = super().max_batch

    @property
    def max_batch(self) -> int:
        """As many as it is told."""
        return self.most

    async def commit(self, changes: Sequence[Change]) -> int:
        """Commit, or not."""
        if self.broken:
            raise ZeroDivisionError
        if any(isinstance(change, Put) and self.refused and change.name.endswith(self.refused) for change in changes):
            self.faults[len(self.operations)] = Fault.BEFORE
        return await super().commit(changes)


@dataclass
class Rig:
    """A service in this process."""

    store: Store
    server: Inside
    log: Path

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[Message, list[tuple[str, str, str]]]:
        """Return the answer to a request, and what its lines say: action, name and decision."""
        answer = await self.server.ask(request(method, path, *OWN, "content-type: application/json", body=body))
        lines = audit_lines(self.log)
        return answer, [
            (line["action"], line["name"], line["decision"])
            for line in lines
            if line["request"] == answer.get("x-request-id")
        ]


def settings(home: Path) -> ServiceSettings:
    return ServiceSettings(
        socket=home / "s",
        audit_log=home / "audit.log",
        root_key=home / "secrets.key",
        store="memory:",
        api_id="own",
        api_key=Secret("own-key"),
    )


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """One with a container ``box``."""
    store, shared = Store(), SharedRoot()
    app = StorageApp(settings(tmp_path), shared, lambda _: store)
    await app.open()
    async with inside(app) as server:
        made = Rig(store, server, tmp_path / "audit.log")
        assert (await made.ask("POST", "/secrets/box/"))[0].status == 201
        yield made
    await app.close()
    shared.close()


FAULTS = {Fault.BEFORE: "failed", Fault.LOST: "unknown", Fault.AFTER: "unknown"}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_write_that_failed_says_what_is_known_of_it(rig: Rig, fault: Fault) -> None:
    """Not done is failed, and an answer that was lost is unknown, whichever it was."""
    rig.store.faults[len(rig.store.operations)] = fault

    answer, lines = await rig.ask("PUT", "/secrets/box/a", MESSAGE)

    assert answer.status == 503
    assert lines == [("put", "secrets/box/a", "allowed"), ("put", "secrets/box/a", FAULTS[fault])]


async def test_an_error_that_nobody_thought_of_leaves_a_write_unknown(rig: Rig) -> None:
    """Where the service itself breaks, the log says that nobody can tell how far a write had come."""
    rig.store.broken = True

    answer, lines = await rig.ask("PUT", "/secrets/box/a", MESSAGE)

    assert answer.status == 500
    assert lines[1:] == [("put", "secrets/box/a", "unknown")]


async def test_a_write_that_went_well_has_one_line(rig: Rig) -> None:
    """No second line stands behind what was done."""
    answer, lines = await rig.ask("PUT", "/secrets/box/a", MESSAGE)

    assert answer.status == 201
    assert lines == [("put", "secrets/box/a", "allowed")]


@pytest.mark.parametrize(("etag", "status", "decision"), [(None, 503, "unknown"), ('"77"', 412, "failed")])
async def test_of_several_writes_those_that_are_done_are_not_said_to_have_failed(
    rig: Rig, etag: str | None, status: int, decision: str
) -> None:
    """Records that went with an earlier batch stay allowed, and the others have a second line."""
    rig.store.most = 3
    rig.store.refused = "/h4" if etag is None else ""
    records = [{"address": f"h{number}"} for number in range(1, 6)]
    said = {"model": "Host", "records": records, "etags": [None, None, None, etag, None]}

    answer, lines = await rig.ask("POST", "/storage/save", json.dumps(said).encode())

    assert answer.status == status
    assert lines == [
        *[("put", f"hosts/h{number}", "allowed") for number in range(1, 6)],
        *[("put", f"hosts/h{number}", decision) for number in (4, 5)],
    ]


async def test_on_a_full_disk_refusals_are_few_lines_and_acts_go_on(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """With little room left fifty strangers are a line of a minute, a key's fifty refusals another; acts go on."""
    body = json.dumps({"id": "narrow", "paths": ["/secrets/box"], "actions": ["put"]}).encode()
    made = await rig.server.ask(request("POST", "/apikeys", *OWN, "content-type: application/json", body=body))
    narrow = ("custodia-auth-id: narrow", f"custodia-auth-key: {json.loads(made.body)['key']}")
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((1, 1, 1000, 99, 99, 1, 1, 1, 0, 255)))
    before = rig.log.read_text()
    for number in range(50):
        assert (await rig.server.ask(request("GET", f"/secrets/box/{number}"))).status == 401
        assert (await rig.server.ask(request("GET", f"/secrets/box/{number}", *narrow))).status == 403
    for number in range(5):
        put = request("PUT", f"/secrets/box/k{number}", *narrow, "content-type: application/json", body=MESSAGE)
        assert (await rig.server.ask(put)).status == 201

    lines = [json.loads(line) for line in rig.log.read_text().removeprefix(before).splitlines()]
    assert [(line["principal"], line["decision"]) for line in lines] == [
        ("unknown", "denied"),
        ("apikey:narrow", "denied"),
        *[("apikey:narrow", "allowed")] * 5,
    ]


async def test_who_was_counted_is_written_down_at_the_end(tmp_path: Path) -> None:
    """A service that is told to end in the middle of a second writes down whom it had counted."""
    store, shared = Store(), SharedRoot()
    app = StorageApp(settings(tmp_path), shared, lambda _: store)
    await app.open()
    async with inside(app) as server:
        for _ in range(7):
            assert (await server.ask(request("GET", "/secrets/box/a"))).status == 401
        await app.close()
    shared.close()

    lines = audit_lines(tmp_path / "audit.log")
    assert sum(line.get("count", 1) for line in lines) == 7


async def test_an_outcome_that_cannot_be_recorded_does_not_change_the_answer(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A write that may have been done is answered so though the log is full by then, and the service's log says it."""
    commit = rig.store.commit

    async def lost(changes: Sequence[Change]) -> int:
        (rig.log).rename(rig.log.with_name("away"))
        rig.log.mkdir()  # from now on no line can be written
        rig.store.faults[len(rig.store.operations)] = Fault.LOST
        return await commit(changes)

    monkeypatch.setattr(rig.store, "commit", lost)
    answer = await rig.server.ask(
        request("PUT", "/secrets/box/a", *OWN, "content-type: application/json", body=MESSAGE)
    )

    assert (answer.status, json.loads(answer.body)["fate"]) == (503, "unknown")
    assert "its outcome (unavailable) is not recorded" in caplog.text
    rig.log.rmdir()

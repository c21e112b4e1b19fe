"""The audit log: on disk before it is said to be, whole lines only, and a refusal when it cannot be written."""

import asyncio
import errno
import fcntl
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from storage_service.audit import AuditLog, AuditRecord
from storage_service.errors import AuditUnavailable

RECORD = AuditRecord("request-1", "apikey:ci", "get", "secrets/hosts/a", "allowed")


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_a_record_is_one_json_line(tmp_path: Path) -> None:
    """A record becomes one line with its fields, its time, and no empty ones."""
    log = AuditLog(tmp_path / "audit.log", now=lambda: datetime(2026, 11, 22, 9, 30, tzinfo=UTC))
    log.open()

    await log.append(RECORD)

    assert lines(tmp_path / "audit.log") == [
        {
            "time": "2026-11-22T09:30:00.000000Z",
            "request": "request-1",
            "principal": "apikey:ci",
            "action": "get",
            "name": "secrets/hosts/a",
            "decision": "allowed",
        }
    ]
    await log.close()


async def test_a_hostile_name_stays_in_its_line(tmp_path: Path) -> None:
    """Line breaks in what a caller sent are escaped, so nobody writes a line of their own."""
    log = AuditLog(tmp_path / "audit.log")
    log.open()

    await log.append(AuditRecord("r", "unknown", "GET", '/x\n{"decision":"allowed"}', "denied"))

    assert [line["decision"] for line in lines(tmp_path / "audit.log")] == ["denied"]
    await log.close()


async def test_waiting_records_share_a_write_and_keep_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred records appended at once take far fewer synchronous writes than a hundred, and stand in order."""
    writes = 0
    write = os.write

    def counting(descriptor: int, data: bytes) -> int:
        nonlocal writes
        writes += 1
        assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DSYNC
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", counting)
    log = AuditLog(tmp_path / "audit.log")
    log.open()

    await asyncio.gather(*[log.append(AuditRecord(str(n), "p", "get", "n", "allowed")) for n in range(100)])

    assert [line["request"] for line in lines(tmp_path / "audit.log")] == [str(n) for n in range(100)]
    assert 1 <= writes <= 2
    await log.close()


async def test_a_full_disk_refuses_and_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a line is cut off by a full disk its act is refused, and the next line is still a line of its own."""
    log = AuditLog(tmp_path / "audit.log")
    log.open()
    await log.append(RECORD)
    write = os.write
    calls = 0

    def full(descriptor: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            return write(descriptor, bytes(data)[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(AuditUnavailable, match="No space left"):
            await log.append(RECORD)

    await log.append(RECORD)

    text = (tmp_path / "audit.log").read_text().splitlines()
    assert [len(text), json.loads(text[0]), len(text[1])] == [3, json.loads(text[0]), 10]
    assert json.loads(text[2])["request"] == "request-1"
    await log.close()


@pytest.mark.parametrize("move", ["rename", "unlink"])
async def test_a_log_moved_away_is_begun_anew(tmp_path: Path, move: str) -> None:
    """After rotation or removal of the file, the next record goes to a new file of the same name."""
    path = tmp_path / "audit.log"
    log = AuditLog(path)
    log.open()
    await log.append(RECORD)
    if move == "rename":
        path.rename(tmp_path / "audit.log.1")
    else:
        path.unlink()

    await log.append(RECORD)

    assert len(lines(path)) == 1
    await log.close()


async def test_a_line_torn_by_a_crash_is_ended_first(tmp_path: Path) -> None:
    """A file whose last line was cut off by a crash gets a line end before the next record."""
    path = tmp_path / "audit.log"
    path.write_text('{"time":"cut')
    log = AuditLog(path)
    log.open()

    await log.append(RECORD)

    assert path.read_text().startswith('{"time":"cut\n{"time":')
    await log.close()


async def test_a_log_that_cannot_be_opened_is_a_refusal(tmp_path: Path) -> None:
    """Opening fails with the system's reason when the directory is not there."""
    with pytest.raises(AuditUnavailable, match="No such file"):
        AuditLog(tmp_path / "none" / "audit.log").open()


async def test_a_directory_that_disappears_is_a_refusal(tmp_path: Path) -> None:
    """When the file's whole directory is gone, acts are refused instead of being recorded nowhere."""
    directory = tmp_path / "log"
    directory.mkdir()
    log = AuditLog(directory / "audit.log")
    log.open()
    (directory / "audit.log").unlink()
    directory.rmdir()

    with pytest.raises(AuditUnavailable):
        await log.append(RECORD)
    await log.close()


async def test_a_closed_log_refuses(tmp_path: Path) -> None:
    """Nothing is appended after the end, and nobody waits for it."""
    log = AuditLog(tmp_path / "audit.log")
    log.open()
    await log.close()

    with pytest.raises(AuditUnavailable, match="closed"):
        await log.append(RECORD)


async def test_a_hanging_disk_refuses_within_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that does not answer refuses what waits on it, and works on when it answers again."""
    import threading

    release = threading.Event()
    write = os.write

    def hanging(descriptor: int, data: bytes) -> int:
        release.wait()
        return write(descriptor, data)

    monkeypatch.setattr("storage_service.audit.DEADLINE", 0.05)
    monkeypatch.setattr(os, "write", hanging)
    log = AuditLog(tmp_path / "audit.log")
    log.open()

    with pytest.raises(AuditUnavailable, match="too long"):
        await log.append(RECORD)
    with pytest.raises(AuditUnavailable, match="too long"):
        await log.append(RECORD)

    release.set()
    monkeypatch.setattr("storage_service.audit.DEADLINE", 5.0)
    while True:
        try:
            await log.append(RECORD)
            break
        except AuditUnavailable:
            continue
    await log.close()


@pytest.mark.parametrize("kind", ["a pipe", "a device"])
async def test_only_a_regular_file_is_a_log(tmp_path: Path, kind: str) -> None:
    """What takes everything and keeps nothing is refused when it is opened, and nobody waits for a reader."""
    path = tmp_path / "audit.log"
    if kind == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null")
    with pytest.raises(AuditUnavailable):
        AuditLog(path).open()

"""The audit log: on disk before it is said to be, whole lines only, and a refusal when it cannot be written."""

import asyncio
import errno
import fcntl
import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from strongroom.storage_service import wire
from strongroom.storage_service.audit.log import AuditLog, AuditRecord
from strongroom.storage_service.errors import AuditUnavailable

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


async def test_whoever_writes_the_log_is_not_found_out(tmp_path: Path) -> None:
    """The file is its owner's alone whatever the umask allows; lines that he takes out or adds are missed by nobody."""
    path = tmp_path / "audit.log"
    log = AuditLog(path)
    umask = os.umask(0)
    log.open()
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o600
    await log.append(RECORD)
    await log.append(AuditRecord("request-2", "apikey:ci", "get", "secrets/b", "allowed"))

    first, second = path.read_text().splitlines(keepends=True)
    with path.open("r+") as file:
        file.write(second + second.replace("secrets/b", "secrets/c"))
        file.truncate()
    await log.append(RECORD)

    assert first not in path.read_text().splitlines(keepends=True)
    assert [line["name"] for line in lines(path)] == ["secrets/b", "secrets/c", "secrets/hosts/a"]
    await log.close()


@pytest.mark.parametrize("open_to_all", ["the log", "its directory", "what a link leads to"])
async def test_a_log_that_others_may_change_is_none(tmp_path: Path, open_to_all: str) -> None:
    """Whoever could edit it, or put another in its place, makes it no evidence; the text says what to run."""
    directory = tmp_path / "log"
    path = directory / "audit.log"
    if open_to_all == "what a link leads to":
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere").chmod(0o1777)
        directory.symlink_to("elsewhere")
    else:
        directory.mkdir()
        path.touch(0o600)
        path.chmod(0o666 if open_to_all == "the log" else 0o600)
        directory.chmod(0o700 if open_to_all == "the log" else 0o770)
    named = path if open_to_all == "the log" else directory

    with pytest.raises(
        AuditUnavailable, match=f"{named} can be changed by others .mode [0-7]*.; run: chmod go-w {named}"
    ):
        AuditLog(path).open()


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
        with pytest.raises(AuditUnavailable, match="No space left") as refused:
            await log.append(RECORD)

    told = wire.error_of(503, wire.problem_body(refused.value, "1"))
    assert str(told) == "the audit log cannot be written, so nothing was done: No space left on device"
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

    monkeypatch.setattr("strongroom.storage_service.audit.log.DEADLINE", 0.05)
    monkeypatch.setattr(os, "write", hanging)
    log = AuditLog(tmp_path / "audit.log")
    log.open()

    with pytest.raises(AuditUnavailable, match="too long"):
        await log.append(RECORD)
    with pytest.raises(AuditUnavailable, match="too long"):
        await log.append(RECORD)

    release.set()
    monkeypatch.setattr("strongroom.storage_service.audit.log.DEADLINE", 5.0)
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


UNPRINTABLE = {
    "DEL": ("a\x7fb", b"a\\u007fb"),
    "CSI": ("a\x9b31mb", b"a\\u009b31mb"),
    "NEL": ("a\x85b", b"a\\u0085b"),
    "a line separator": ("a\u2028b", b"a\\u2028b"),
    "right to left": ("a\u202eb", b"a\\u202eb"),
    "of no width": ("a\u200bb", b"a\\u200bb"),
    "a tag beyond the first plane": ("a\U000e0041b", b"a\\udb40\\udc41b"),
    "what prints": ("aéß漢b", "aéß漢b".encode()),
}


@pytest.mark.parametrize("kind", UNPRINTABLE)
async def test_what_does_not_print_is_escaped(tmp_path: Path, kind: str) -> None:
    """No byte of the log moves a cursor or hides others, and whoever reads the JSON has the text that was sent."""
    log = AuditLog(tmp_path / "audit.log")
    log.open()
    text, written = UNPRINTABLE[kind]

    await log.append(AuditRecord("r", "unknown", "GET", text, "denied"), RECORD)

    assert b'"name":"%b"' % written in (tmp_path / "audit.log").read_bytes()
    assert [line["name"] for line in lines(tmp_path / "audit.log")] == [text, "secrets/hosts/a"]
    await log.close()


async def test_no_line_sticks_to_anothers_torn_one(tmp_path: Path) -> None:
    """Where another process's line was cut off since we wrote last, ours begins on a line of its own."""
    log = AuditLog(tmp_path / "audit.log")
    log.open()
    await log.append(RECORD)
    with (tmp_path / "audit.log").open("ab") as other:
        other.write(b'{"time":"cut')

    await log.append(RECORD)

    assert [len(line) for line in (tmp_path / "audit.log").read_text().splitlines()][1] == len('{"time":"cut')
    await log.close()


async def test_a_line_that_stuck_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another's line is cut off between our look and our write, our record still gets a line of its own."""
    log = AuditLog(tmp_path / "audit.log")
    log.open()
    await log.append(RECORD)
    write, torn = os.write, False

    def late(descriptor: int, data: bytes) -> int:
        nonlocal torn
        if not torn:
            torn = True
            write(descriptor, b'{"time":"cut')
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", late)
    await asyncio.gather(log.append(AuditRecord("one", "p", "get", "n", "allowed")), log.append(RECORD))

    text = (tmp_path / "audit.log").read_text().splitlines()
    assert text[1].startswith('{"time":"cut{')
    assert [json.loads(line)["request"] for line in text[2:]] == ["request-1", "one"]
    await log.close()


async def test_a_record_is_one_write_and_no_more_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record costs one write and, of one process, not one read of the file."""
    log = AuditLog(tmp_path / "audit.log")
    log.open()
    await log.append(RECORD)
    calls: list[str] = []
    for name in ("write", "pread", "fsync", "open"):
        call = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, call=call: (calls.append(name), call(*a))[1])

    await log.append(RECORD)

    assert calls == ["write"]
    await log.close()


@pytest.mark.parametrize(
    ("free", "size", "room"), [(50, 1000, False), (150, 1000, True), (2**31, 2**41, True), (2**29, 2**41, False)]
)
def test_room_is_a_tenth_of_the_disk_or_a_gibibyte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, size: int, room: bool
) -> None:
    """Refusals leave a tenth of the disk, or a gibibyte if that is less."""
    disk = os.statvfs_result((1, 1, size, free, free, 1, 1, 1, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: disk)

    assert AuditLog(tmp_path / "audit.log").has_room() is room


def removed_files_open() -> int:
    """How many files that have no name any more this process holds open, which take room all the same."""
    names = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            names.append(str(link.readlink()))
    return sum("audit.log" in name and name.endswith(" (deleted)") for name in names)


async def test_a_log_that_was_moved_off_a_full_disk_frees_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without a name is let go of before its successor is opened, for that may need the room."""
    path = tmp_path / "audit.log"
    log = AuditLog(path)
    log.open()
    await log.append(RECORD)
    path.unlink()
    real = os.open

    def full(name: Path, flags: int, *more: int) -> int:
        if flags & os.O_CREAT and removed_files_open():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(name, flags, *more)

    monkeypatch.setattr(os, "open", full)
    await log.append(RECORD)

    assert (removed_files_open(), len(lines(path))) == (0, 1)
    await log.close()


async def test_each_who_is_refused_has_an_error_of_his_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several in one group none holds what another's request held, and nothing of theirs stays with the log."""
    log = AuditLog(tmp_path / "audit.log")
    log.open()
    with monkeypatch.context() as patch:

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(os, "write", full)
        told = await asyncio.gather(log.append(RECORD), log.append(RECORD), return_exceptions=True)

    assert [type(each) for each in told] == [AuditUnavailable, AuditUnavailable]
    assert told[0] is not told[1]
    assert not any(isinstance(each, BaseException) for each in vars(log).values())
    await log.append(RECORD)
    await log.close()


async def test_who_looks_hears_of_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anybody is refused it is known that the next line has no room, and when it has again."""
    log = AuditLog(tmp_path / "audit.log")
    log.open()
    await log.check()
    real = os.statvfs
    with monkeypatch.context() as patch:

        def full(path: Path) -> os.statvfs_result:
            found = list(real(path))
            found[3] = found[4] = 0  # f_bfree, f_bavail
            return os.statvfs_result(found)

        patch.setattr(os, "statvfs", full)
        with pytest.raises(AuditUnavailable, match="its disk is full"):
            await log.check()
    await log.check()
    await log.close()


async def test_who_looks_lets_go_of_a_log_that_was_moved_away(tmp_path: Path) -> None:
    """A worker that nobody asks anything holds no file without a name for long: readiness is asked of it."""
    log = AuditLog(tmp_path / "audit.log")
    log.open()
    (tmp_path / "audit.log").unlink()
    assert removed_files_open() == 1

    await log.check()

    assert removed_files_open() == 0
    assert (tmp_path / "audit.log").read_bytes() == b""
    await log.close()

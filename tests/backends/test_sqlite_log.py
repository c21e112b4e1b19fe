"""A store's file without its log: told where the newest records are missing, and whole where nobody had it open."""

import asyncio
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from strongroom.storage_service.backends.base import Put
from strongroom.storage_service.backends.sqlite import SqliteBackend
from strongroom.storage_service.errors import ConfigurationError
from tests.backends import sqlite_process

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a store may be made."""
    return tmp_path / "data" / "store.db"


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteBackend]:
    """Give the store at *path*, and close it."""
    backend = SqliteBackend(path)
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()


def copy_of(path: Path, to: str, *, log: bool = False) -> Path:
    """Return a copy of the file, by hand: with its log, or without."""
    copy = path.parent.parent / to / path.name
    copy.parent.mkdir(mode=0o700)
    shutil.copy(path, copy)
    if log:
        shutil.copy(f"{path}-wal", f"{copy}-wal")
    return copy


async def holds(path: Path) -> list[str]:
    """Return the names in the store at *path*."""
    async with opened(path) as store:
        return list((await store.list("")).names)


async def refused(path: Path) -> str:
    """Return what is said of a file that is refused by who would use it and by who would copy it, and left alone."""
    before = {each.name: each.read_bytes() for each in path.parent.iterdir()}
    with pytest.raises(ConfigurationError, match="without its log") as caught:
        await SqliteBackend(path).open()
    with pytest.raises(ConfigurationError, match="without its log"):
        async with SqliteBackend(path).snapshot():
            pass
    assert {each.name: each.read_bytes() for each in path.parent.iterdir()} == before
    return str(caught.value)


@pytest.mark.parametrize("commits", [0, 1, 50])
async def test_a_copy_without_the_log_is_refused(path: Path, commits: int) -> None:
    """From the moment the store is open its file alone is no store, however much is in the file by then."""
    async with opened(path) as store:
        for number in range(commits):
            await store.commit([Put(f"a/{number:02}", b"x" * 3000)])
        alone, whole = copy_of(path, "alone"), copy_of(path, "whole", log=True)

        text = await refused(alone)

    assert "restore a backup" in text
    assert len(await holds(whole)) == commits
    await asyncio.to_thread(Path(text.rpartition("touch ")[2]).touch)  # what it says to run
    assert len(await holds(alone)) <= commits


async def test_a_file_that_nobody_has_open_is_whole(path: Path) -> None:
    """Once the last has closed it there is no log, and a copy of the file alone has everything."""
    async with opened(path) as one:
        async with opened(path) as other:
            await other.commit([Put("a", b"")])
        await refused(copy_of(path, "first"))
        await one.commit([Put("b", b"")])
    assert [each.name for each in path.parent.iterdir()] == [path.name]

    assert await holds(copy_of(path, "second")) == ["a", "b"]
    assert await holds(path) == ["a", "b"]


async def test_all_who_close_at_once_leave_it_whole(path: Path) -> None:
    """Whichever of many that end together is the last: the file is whole, each time."""
    for turn in range(5):
        stores = [SqliteBackend(path) for _ in range(6)]
        await asyncio.gather(*(store.open() for store in stores))
        await stores[0].commit([Put(f"a/{turn}", b"")])
        await asyncio.gather(*(store.close() for store in stores))

        assert [each.name for each in path.parent.iterdir()] == [path.name]
        assert len(await holds(copy_of(path, f"copy{turn}"))) == turn + 1


async def test_who_reads_on_keeps_the_log(path: Path) -> None:
    """A moment that is still held when the last service ends keeps the log; the next one begins with it."""
    store = SqliteBackend(path)
    await store.open()
    await store.commit([Put("a", b"")])
    async with store.snapshot() as snapshot:
        await store.commit([Put("b", b"")])
        await store.close()
        assert [row[0] async for page in snapshot.pages() for row in page] == ["a"]
        await refused(copy_of(path, "copy"))

    assert await holds(path) == ["a", "b"]


@pytest.mark.parametrize("written", [1, 20])
async def test_a_process_that_was_killed_leaves_its_log(path: Path, written: int) -> None:
    """After a kill the store opens as it is, with all that was acknowledged."""
    command = ["-m", sqlite_process.__name__, "write", str(path), "100000", "2"]
    child = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE, cwd=ROOT, env=dict(os.environ)
    )
    assert child.stdout is not None
    said = [int(await child.stdout.readline()) for _ in range(written)]
    child.send_signal(signal.SIGKILL)
    await child.wait()

    async with opened(path) as store:
        assert len(await store.get_many([f"left/{number}" for number in said])) == written


async def test_a_store_of_an_earlier_state_opens(path: Path) -> None:
    """A file that was closed before files said whether they are in use has no log, and is whole."""
    async with opened(path) as store:
        await store.commit([Put("a", b"")])
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("SELECT * FROM entry").fetchall()
    db.close()
    assert not Path(f"{path}-wal").exists()

    assert await holds(path) == ["a"]

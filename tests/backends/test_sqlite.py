"""What the SQLite store promises beyond the law: crashes, full disks, other processes, foreign files, no traces."""

import asyncio
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

import pytest

from strongroom.storage_service.backends.base import PRESENT, Check, Conflict, Delete, Entry, Put, Vacant, pages
from strongroom.storage_service.backends.sqlite import SqliteBackend
from strongroom.storage_service.backends.sqlite.file import APPLICATION_ID, IN_USE, SCHEMA_VERSION
from strongroom.storage_service.errors import ConfigurationError, Fate, TooLarge, Unavailable
from tests.backends import sqlite_process

ROOT: Final = Path(__file__).parents[2]
PATIENCE: Final = 20.0  # seconds until what should happen is taken not to


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a store may be made: in a directory that is not there yet."""
    return tmp_path / "data" / "store.db"


@asynccontextmanager
async def opened(path: Path, **options: Any) -> AsyncGenerator[SqliteBackend, None]:
    """Give the store at *path*, and close it."""
    backend = SqliteBackend(path, **options)
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()


@asynccontextmanager
async def process(*arguments: object) -> AsyncGenerator[Process, None]:
    """Give another process at work on a store, ended by the end at the latest."""
    command = ["-m", sqlite_process.__name__, *map(str, arguments)]
    child = await asyncio.create_subprocess_exec(sys.executable, *command, stdin=PIPE, stdout=PIPE, cwd=ROOT)
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def run(*arguments: object) -> list[str]:
    """Return the lines that another process said until its end, which must be a good one."""
    async with process(*arguments) as child:
        said, _ = await asyncio.wait_for(child.communicate(), PATIENCE)
        assert child.returncode == 0
        return said.decode().splitlines()


async def every_name(backend: SqliteBackend, prefix: str = "") -> list[str]:
    """Return every name under *prefix*."""
    return [name async for page in pages(backend.list, prefix) for name in page]


def bytes_on_disk(path: Path) -> bytes:
    """Return all that the store's files hold, its log included."""
    return b"".join(file.read_bytes() for file in sorted(path.parent.iterdir()))


# Files.


async def test_what_was_committed_is_there_after_reopening(path: Path) -> None:
    """Values, revisions and the order of revisions outlive the process' hold on the file."""
    async with opened(path) as backend:
        first = await backend.commit([Put("a", b"one"), Put("b", b"two")])
        second = await backend.commit([Delete("b")])
    async with opened(path) as backend:
        assert await backend.get("a") == Entry(b"one", first)
        assert await backend.get("b") is None
        assert await backend.commit([Put("c", b"three")]) > second


async def test_revisions_grow_though_deletions_are_forgotten(path: Path) -> None:
    """Where everything is deleted, by this process or before it, no revision is given again."""
    async with opened(path) as backend:
        await backend.commit([Put(f"n/{i}", b"") for i in range(5)])
        emptied = await backend.commit([Delete(f"n/{i}") for i in range(5)])
    async with opened(path) as backend:
        assert await backend.commit([Put("a", b"")]) > emptied


async def test_files_are_their_owners_alone(path: Path) -> None:
    """The directory is made 0700 and every file in it 0600, whatever the umask allows."""
    before = os.umask(0)
    try:
        async with opened(path) as backend:
            await backend.commit([Put("a", b"one")])
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)

    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert modes == {"store.db": 0o600, "store.db-wal": 0o600, "store.db-shm": 0o600}


async def test_a_file_open_to_others_is_closed_to_them(path: Path) -> None:
    """A store whose file was made readable to others is its owner's alone again once it was opened."""
    async with opened(path):
        pass
    path.chmod(0o644)
    async with opened(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_an_empty_file_becomes_a_store(path: Path) -> None:
    """A file that somebody prepared, and nobody wrote, is taken."""
    path.parent.mkdir()
    path.touch()
    async with opened(path) as backend:
        assert await backend.commit([Put("a", b"one")]) > 0


def make_text(path: Path) -> None:
    path.write_text("[strongroom]\nstore = 'sqlite'\n" * 100)


def make_other_database(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE recipe (name TEXT)")
    db.close()


def make_other_application(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA application_id = 42")
        db.execute("PRAGMA user_version = 1")
        db.execute("CREATE TABLE entry (name TEXT)")
    db.close()


def make_other_in_wal(path: Path) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("CREATE TABLE recipe (name TEXT)")
    db.close()


def make_version(path: Path, version: int) -> None:
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {version}")
        db.execute("CREATE TABLE entry (name TEXT)")
    db.close()


def make_zeros(path: Path) -> None:
    path.write_bytes(bytes(100_000))


class Foreign(NamedTuple):
    """A file that is no store of this version, and what its refusal says."""

    make: Callable[[Path], None]
    says: str


FOREIGN: Final = {
    "text": Foreign(make_text, "not an SQLite database"),
    "zeros": Foreign(make_zeros, "not an SQLite database"),
    "another database": Foreign(make_other_database, "belongs to another program"),
    "another database in WAL mode": Foreign(make_other_in_wal, "belongs to another program"),
    "another application's": Foreign(make_other_application, "belongs to another program"),
    "a later version's": Foreign(lambda path: make_version(path, SCHEMA_VERSION + 1), "upgrade"),
    "one before the first release": Foreign(lambda path: make_version(path, SCHEMA_VERSION - 1), "first release"),
    "one before it, in use": Foreign(lambda path: make_version(path, SCHEMA_VERSION - 1 | IN_USE), "first release"),
    "a later version's, in use": Foreign(lambda path: make_version(path, SCHEMA_VERSION + 1 | IN_USE), "upgrade"),
}


@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=FOREIGN)
async def test_a_foreign_file_is_refused_untouched(path: Path, foreign: Foreign) -> None:
    """A file that is not ours, or of another version, is a ConfigurationError, and no byte or mode of it changes."""
    path.parent.mkdir()
    foreign.make(path)
    path.chmod(0o644)
    before = path.read_bytes()

    with pytest.raises(ConfigurationError, match=foreign.says):
        await SqliteBackend(path).open()

    assert path.read_bytes() == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [file.name for file in path.parent.iterdir()] == [path.name]


async def test_a_directory_is_no_store(path: Path) -> None:
    """A directory in the file's place is a ConfigurationError."""
    path.mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        await SqliteBackend(path).open()


async def test_no_directory_can_be_made_below_a_file(tmp_path: Path) -> None:
    """Where the directory cannot be made, the ConfigurationError says which store it was for."""
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "store.db"
    with pytest.raises(ConfigurationError, match="cannot be made") as caught:
        await SqliteBackend(path).open()
    assert str(path) in str(caught.value)


async def test_a_cut_file_is_said_to_be_damaged(path: Path) -> None:
    """A store whose file was cut short does not open, and says to restore it."""
    async with opened(path) as backend:
        await backend.commit([Put(f"n/{i}", b"x" * 5000) for i in range(50)])
    os.truncate(path, path.stat().st_size // 2)

    with pytest.raises(ConfigurationError, match="damaged; restore"):
        await SqliteBackend(path).open()


async def test_overwritten_pages_are_never_a_value(path: Path) -> None:
    """Where the file's pages were overwritten, opening or reading says so; nothing wrong is read."""
    async with opened(path) as backend:
        await backend.commit([Put(f"n/{i}", b"x" * 100) for i in range(128)])
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)

    async def open_and_read() -> None:
        async with opened(path) as backend:
            await backend.get("n/1")

    with pytest.raises((ConfigurationError, Unavailable), match="damaged"):
        await open_and_read()


# Crashes and full disks.


@pytest.mark.parametrize("writers", [1, 16])
@pytest.mark.parametrize("kill_after", [1, 150, 500, 950])
async def test_a_killed_process_loses_nothing_it_answered(path: Path, kill_after: int, writers: int) -> None:
    """After kill -9 amid 1,000 writes, every commit that was answered is there, and each that is there is whole."""
    answered: list[int] = []
    async with process("write", path, 1000, writers) as child:
        assert child.stdout is not None
        while len(answered) < kill_after:
            answered.append(int(await asyncio.wait_for(child.stdout.readline(), PATIENCE)))
        child.kill()
        answered += [int(line) for line in (await child.stdout.read()).splitlines()]

    async with opened(path) as backend:
        left = {name.removeprefix("left/") for name in await every_name(backend, "left/")}
        right = {name.removeprefix("right/") for name in await every_name(backend, "right/")}
        assert left == right
        assert left >= {str(n) for n in answered}
        assert len(left) - len(answered) <= writers, "at most what was under way is there unanswered"
        for n in left:
            pair = await backend.get_many([f"left/{n}", f"right/{n}"])
            assert {entry.value for entry in pair.values()} == {n.encode() * 500}
            assert len({entry.revision for entry in pair.values()}) == 1
        assert await backend.commit([Put("after", b"")]) > len(left)


async def test_a_full_disk_loses_nothing(path: Path) -> None:
    """While files cannot grow, commits are Unavailable and truly not applied, reads go on; with room, all is well."""
    said = [line.split() for line in await run("fill", path)]
    done = {words[1] for words in said if words[0] == "done"}
    failed = {words[1]: words[2] for words in said if words[0] == "failed"}

    assert len(failed) == 3
    assert set(failed.values()) == {Fate.NOT_APPLIED}
    assert ["readable", str(len(done) - 1)] in said
    async with opened(path) as backend:
        assert {name.removeprefix("n/") for name in await every_name(backend, "n/")} == done
        assert {name.removeprefix("m/") for name in await every_name(backend, "m/")} == done


class SmallDisk(sqlite3.Connection):
    """A connection whose file may have no more than 60 pages."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        """Run a statement, with the limit set before each transaction."""
        if sql == "BEGIN IMMEDIATE":
            super().execute("PRAGMA max_page_count = 60")
        return super().execute(sql, *parameters)


async def test_a_full_store_still_deletes_and_then_takes_again(path: Path) -> None:
    """A commit that does not fit is Unavailable, not applied; deleting makes room for it."""
    async with opened(path, factory=SmallDisk) as backend:
        await backend.commit([Put("old", b"x" * 150_000)])
        with pytest.raises(Unavailable, match="full") as caught:
            await backend.commit([Put("small", b""), Put("new", b"y" * 150_000)])
        assert caught.value.fate is Fate.NOT_APPLIED
        assert await every_name(backend) == ["old"]

        await backend.commit([Delete("old", PRESENT)])
        revision = await backend.commit([Put("new", b"y" * 150_000)])
        assert await backend.get("new") == Entry(b"y" * 150_000, revision)


# Groups.


class Gated(sqlite3.Connection):
    """A connection that waits at each COMMIT for the gate; *commits* counts them."""

    gate: ClassVar[threading.Event]
    reached: ClassVar[threading.Event]
    commits: ClassVar[int] = 0

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        """Run a statement; a COMMIT says that it is reached and waits."""
        if sql == "COMMIT" and self.in_transaction:
            Gated.reached.set()
            assert Gated.gate.wait(PATIENCE)
            Gated.commits += 1
        return super().execute(sql, *parameters)


@asynccontextmanager
async def gated(path: Path, factory: type[Gated] = Gated) -> AsyncGenerator[SqliteBackend, None]:
    """Give a store whose next COMMIT waits until ``Gated.gate`` is set."""
    Gated.gate, Gated.reached = threading.Event(), threading.Event()
    Gated.gate.set()
    async with opened(path, factory=factory) as backend:
        Gated.commits = 0
        Gated.gate.clear()
        Gated.reached.clear()
        try:
            yield backend
        finally:
            Gated.gate.set()


async def under_way(commit: Awaitable[int]) -> "asyncio.Task[int]":
    """Begin *commit*, and return when the writer stands before its COMMIT."""

    async def wait() -> int:
        return await commit

    task = asyncio.create_task(wait())
    assert await asyncio.to_thread(Gated.reached.wait, PATIENCE)
    return task


async def test_waiting_commits_share_a_transaction(path: Path) -> None:
    """Commits that wait while one is written become one transaction, each with a revision of its own, in order."""
    async with gated(path) as backend:
        first = await under_way(backend.commit([Put("first", b"")]))
        waiting = [asyncio.create_task(backend.commit([Put(f"n/{i}", b"")])) for i in range(20)]
        await asyncio.sleep(0)
        Gated.gate.set()
        revisions = [await first, *await asyncio.gather(*waiting)]

        assert Gated.commits == 2
        assert revisions == list(range(revisions[0], revisions[0] + 21))
        assert [entry.revision for entry in (await backend.get_many(["n/0", "n/19"])).values()] == [
            revisions[1],
            revisions[20],
        ]


async def test_a_group_is_decided_in_order(path: Path) -> None:
    """Within one transaction, a later commit sees what the earlier ones made of the store."""
    async with gated(path) as backend:
        first = await under_way(backend.commit([Put("a", b"1"), Put("gone", b"")]))
        answers = asyncio.gather(
            backend.commit([Put("a", b"2", PRESENT), Put("new", b"")]),
            backend.commit([Delete("gone", PRESENT)]),
            backend.commit([Check("gone", PRESENT), Put("never", b"")]),
            backend.commit([Delete("new", PRESENT)]),
            backend.commit([Put("a", b"3"), Put("gone", b"again", 0)]),
            return_exceptions=True,
        )
        await asyncio.sleep(0)
        Gated.gate.set()
        one = await first
        second, third, refused, fourth, fifth = await answers

        assert Gated.commits == 2
        assert [second, third, fourth, fifth] == [one + 1, one + 2, one + 3, one + 4]
        assert isinstance(refused, Conflict)
        assert refused.failed == (Check("gone", PRESENT),)
        assert await every_name(backend) == ["a", "gone"]
        assert await backend.get_many(["a", "gone"]) == {"a": Entry(b"3", one + 4), "gone": Entry(b"again", one + 4)}


async def test_vacancy_is_decided_within_the_group(path: Path) -> None:
    """Within one transaction, Vacant counts what the group put and does not count what it deleted."""
    async with gated(path) as backend:
        first = await under_way(backend.commit([Put(f"{box}/{i}", b"") for box in ("full", "half") for i in range(2)]))
        answers = asyncio.gather(
            backend.commit([Put("new/0", b"")]),
            backend.commit([Vacant("new/")]),
            backend.commit([Delete("new/0"), Delete("full/0"), Delete("full/1"), Delete("half/0")]),
            backend.commit([Vacant("half/")]),
            backend.commit([Vacant("new/"), Vacant("full/"), Put("end", b"")]),
            return_exceptions=True,
        )
        await asyncio.sleep(0)
        Gated.gate.set()
        await first
        refused = [answer.failed if isinstance(answer, Conflict) else None for answer in await answers]

        assert refused == [None, (Vacant("new/"),), None, (Vacant("half/"),), None]
        assert await every_name(backend) == ["end", "half/1"]


async def test_reads_go_on_while_the_disk_is_busy(path: Path) -> None:
    """While a COMMIT waits for the disk, the event loop reads what was there before it."""
    async with gated(path) as backend:
        commit = await under_way(backend.commit([Put("a", b"one")]))
        assert await backend.get("a") is None
        assert await every_name(backend) == []
        assert not commit.done()
        Gated.gate.set()
        assert await backend.get("a") is None or commit.done() or await commit


async def test_a_cancelled_commit_that_waits_is_withdrawn(path: Path) -> None:
    """A commit cancelled before its turn is not applied, and the others of its group are."""
    async with gated(path) as backend:
        first = await under_way(backend.commit([Put("first", b"")]))
        tasks = [asyncio.create_task(backend.commit([Put(f"n/{i}", b"")])) for i in range(4)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        Gated.gate.set()
        await first
        await asyncio.gather(tasks[0], tasks[2], tasks[3])

        assert tasks[1].cancelled()
        assert await every_name(backend, "n/") == ["n/0", "n/2", "n/3"]


async def test_closing_writes_what_waits(path: Path) -> None:
    """Commits that wait when the store is closed are written and answered; later ones are refused."""
    async with gated(path) as backend:
        first = await under_way(backend.commit([Put("first", b"")]))
        waiting = [asyncio.create_task(backend.commit([Put(f"n/{i:03}", b"")])) for i in range(150)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(backend.close())
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="closed") as caught:
            await backend.commit([Put("late", b"")])
        assert caught.value.fate is Fate.NOT_APPLIED
        Gated.gate.set()
        await closing
        await asyncio.gather(first, *waiting)
    async with opened(path) as backend:
        assert len(await every_name(backend, "n/")) == 150
        assert await backend.get("late") is None


class SmallGated(Gated):
    """Waits at each COMMIT, on a small disk."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        """Run a statement, with the limit set before each transaction."""
        if sql == "BEGIN IMMEDIATE":
            super().execute("PRAGMA max_page_count = 60")
        return super().execute(sql, *parameters)


async def test_one_that_cannot_be_written_does_not_spoil_its_group(path: Path) -> None:
    """Of commits that wait together, the one that does not fit fails, and all others are written."""
    async with gated(path, SmallGated) as backend:
        first = await under_way(backend.commit([Put("first", b"")]))
        answers = asyncio.gather(
            backend.commit([Put("small/1", b"")]),
            backend.commit([Put("giant", b"x" * 500_000)]),
            backend.commit([Put("small/2", b"")]),
            return_exceptions=True,
        )
        await asyncio.sleep(0)
        Gated.gate.set()
        await first
        one, giant, two = await answers

        assert isinstance(one, int)
        assert isinstance(two, int)
        assert isinstance(giant, Unavailable)
        assert giant.fate is Fate.NOT_APPLIED
        assert await every_name(backend) == ["first", "small/1", "small/2"]


class FailingCommit(sqlite3.Connection):
    """A connection whose next COMMIT fails with *code*, as SQLite's do, before anything is committed."""

    code: ClassVar[int | None] = None

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        """Run a statement, or fail."""
        if sql == "COMMIT" and self.code is not None:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode, FailingCommit.code = self.code, None
            error.sqlite_errorname = "SQLITE_TEST"
            raise error
        return super().execute(sql, *parameters)


FATES: Final = {
    "no room for the log": (sqlite3.SQLITE_FULL, Fate.NOT_APPLIED),
    "the log not written": (sqlite3.SQLITE_IOERR_WRITE, Fate.NOT_APPLIED),
    "locked": (sqlite3.SQLITE_BUSY, Fate.NOT_APPLIED),
    "written but not synced": (sqlite3.SQLITE_IOERR_FSYNC, Fate.UNKNOWN),
    "the index of the log": (sqlite3.SQLITE_IOERR_SHMMAP, Fate.UNKNOWN),
    "out of memory": (sqlite3.SQLITE_NOMEM, Fate.UNKNOWN),
}


@pytest.mark.parametrize(("code", "fate"), FATES.values(), ids=FATES)
async def test_a_failed_commit_says_what_became_of_it(path: Path, code: int, fate: Fate) -> None:
    """Only where the log cannot hold the commit is it said not to be applied; the next commit is taken as ever."""
    async with opened(path, factory=FailingCommit) as backend:
        FailingCommit.code = code
        with pytest.raises(Unavailable) as caught:
            await backend.commit([Put("a", b"one")])
        assert caught.value.fate is fate

        assert await backend.get("a") is None
        revision = await backend.commit([Put("a", b"two")])
        assert await backend.get("a") == Entry(b"two", revision)


# Files that cannot be written.


@pytest.fixture
def immutable(path: Path) -> Iterator[Callable[[bool], None]]:
    """Give what makes the store's file one that nobody may write, not even root, or makes it as it was."""

    def turn(on: bool) -> None:
        if os.geteuid() == 0:  # whom no mode stops
            subprocess.run(["chattr", "+i" if on else "-i", path], check=True)
        else:
            path.chmod(0o400 if on else 0o600)

    yield turn
    if path.exists():
        turn(False)


async def test_a_file_that_may_not_be_written_is_no_store_to_start_with(
    path: Path, immutable: Callable[[bool], None]
) -> None:
    """Who may only read the file learns it at the start, in words that say so; when it may be written, it is opened."""
    async with opened(path) as backend:
        await backend.commit([Put("a", b"1")])
    immutable(True)
    with pytest.raises(ConfigurationError, match="may not be written"):
        await SqliteBackend(path).open()

    immutable(False)
    async with opened(path) as backend:
        await backend.commit([Put("a", b"2")])


class ReadOnly(sqlite3.Connection):
    """A connection made while *forbidden* may not write, and stays so, as SQLite's do."""

    forbidden: ClassVar[bool] = False

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        """Run a statement, or refuse to write."""
        if ReadOnly.forbidden:
            super().execute("PRAGMA query_only = ON")
        return super().execute(sql, *parameters)


async def test_a_file_that_becomes_read_only_heals(path: Path) -> None:
    """While it may not be written, commits and checks say so; afterwards both work, on another connection."""
    ReadOnly.forbidden = False
    async with opened(path, factory=ReadOnly) as backend:
        await backend.commit([Put("a", b"1")])
        await backend.check()
        ReadOnly.forbidden = True
        for _ in range(2):
            with pytest.raises(Unavailable, match="may not be written") as caught:
                await backend.commit([Put("a", b"2")])
            assert caught.value.fate is Fate.NOT_APPLIED
        backend._well_until = 0
        for _ in range(2):
            with pytest.raises(Unavailable, match="may not be written"):
                await backend.check()
        assert await backend.get("a") == Entry(b"1", 2)
        ReadOnly.forbidden = False

        await backend.check()
        await backend.commit([Put("a", b"3")])


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_file_that_is_moved_away_takes_no_writes(path: Path, tmp_path: Path, replaced: bool) -> None:
    """What would be written into a file that nobody finds any more is refused; put back, it is the store again."""
    async with opened(path) as backend:
        await backend.commit([Put("a", b"1")])
        away = tmp_path / "away"
        path.rename(away)
        if replaced:
            path.write_bytes(b"")
        answers = await asyncio.gather(
            backend.commit([Put("a", b"2")]), backend.check(), backend.commit([Delete("a")]), return_exceptions=True
        )
        assert [getattr(answer, "fate", None) for answer in answers] == [Fate.NOT_APPLIED] * 3
        assert all("moved or replaced" in str(answer) for answer in answers)
        assert path.exists() is replaced
        away.rename(path)

        await backend.check()
        await backend.commit([Put("b", b"2")])
    async with opened(path) as backend:
        assert await every_name(backend) == ["a", "b"]


async def test_a_check_and_commits_share_a_turn(path: Path) -> None:
    """Whoever asks whether the store can be written is answered beside those who write, and writes nothing."""
    async with opened(path) as backend:
        before = await backend.commit([Put("a", b"1")])
        _, revision, _ = await asyncio.gather(backend.check(), backend.commit([Put("a", b"2")]), backend.check())
        assert revision == before + 1


async def test_a_full_store_is_not_well_before_something_was_written(path: Path) -> None:
    """A disk that was full is believed to have room only when something went there."""
    async with opened(path, factory=FailingCommit) as backend:
        await backend.check()
        FailingCommit.code = sqlite3.SQLITE_FULL
        with pytest.raises(Unavailable):
            await backend.commit([Put("a", b"1")])
        backend._well_until, FailingCommit.code = 0, sqlite3.SQLITE_FULL
        with pytest.raises(Unavailable, match="full"):
            await backend.check()

        await backend.check()
        assert await every_name(backend) == []


async def test_a_lock_of_another_process_is_no_want_of_a_store(path: Path) -> None:
    """While another process writes, the store is well: it can be written, a moment later."""
    async with opened(path) as backend, process("hold", path) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert await asyncio.wait_for(child.stdout.readline(), PATIENCE) == b"held\n"
        await backend.check()
        child.stdin.close()
        await child.wait()


class NoCheckpoint(sqlite3.Connection):
    """A connection that cannot write into the file itself while *forbidden*."""

    forbidden: ClassVar[bool] = False

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        """Run a statement, or fail as the disk does."""
        if NoCheckpoint.forbidden and "wal_checkpoint" in sql:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_IOERR_WRITE, "SQLITE_IOERR_WRITE"
            raise error
        return super().execute(sql, *parameters)


async def test_a_log_that_cannot_be_brought_into_the_file_is_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the file itself takes no writes any more, the log says so once, and the store is not well until it does."""
    NoCheckpoint.forbidden = False
    async with opened(path, factory=NoCheckpoint) as backend:
        await backend.commit([Put("a", b"1")])
        NoCheckpoint.forbidden = True
        await backend.commit([Put("a", b"2")])
        async with asyncio.timeout(PATIENCE):
            while not caplog.messages:
                await asyncio.sleep(0.05)
        backend._well_until = 0
        with pytest.raises(Unavailable):
            await backend.check()
        NoCheckpoint.forbidden = False
        async with asyncio.timeout(PATIENCE):
            while True:
                with suppress(Unavailable):
                    await backend.check()
                    break
                await asyncio.sleep(0.05)
    assert len([message for message in caplog.messages if "written to its file" in message]) == 1


async def test_errors_tell_nothing_of_what_was_asked(path: Path) -> None:
    """An error's text holds neither the name nor the value it was about."""
    async with opened(path, factory=SmallDisk) as backend:
        with pytest.raises(Unavailable) as caught:
            await backend.commit([Put("secrets/planted-name", b"planted-value" * 50_000)])
    assert "planted" not in repr(caught.value) + str(caught.value) + repr(caught.value.__cause__)


class Broken(sqlite3.Connection):
    """A connection that, once told, fails in a way that no SQLite error is."""

    broken: ClassVar[bool] = False

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        """Run a statement, or fail."""
        if Broken.broken:
            raise MemoryError
        return super().execute(sql, *parameters)


async def test_a_writer_that_dies_leaves_nobody_waiting(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the writer's thread ends by a defect, who waits is told, later commits are refused, and the log has it."""
    Broken.broken = False
    async with opened(path, factory=Broken) as backend:
        Broken.broken = True
        answers = await asyncio.gather(
            *(backend.commit([Put(f"n/{i}", b"")]) for i in range(3)), return_exceptions=True
        )
        assert [getattr(answer, "fate", None) for answer in answers] == [Fate.UNKNOWN] * 3
        with pytest.raises(Unavailable) as caught:
            await backend.commit([Put("a", b"")])
        assert caught.value.fate is Fate.NOT_APPLIED
        assert await backend.get("a") is None
    assert "the writer of the SQLite store has stopped" in caplog.text


async def test_a_defect_while_opening_is_raised(path: Path) -> None:
    """A defect that ends the writer's thread while it opens the file is raised by open."""
    Broken.broken = True
    with pytest.raises(MemoryError):
        await SqliteBackend(path, factory=Broken).open()


# Other processes.


async def test_a_lock_of_another_process_is_waited_for_and_then_said(path: Path) -> None:
    """While another process holds the lock, reads go on and commits are Unavailable, not applied, after the timeout."""
    async with opened(path, busy_timeout=0.05) as backend, process("hold", path) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert await asyncio.wait_for(child.stdout.readline(), PATIENCE) == b"held\n"
        answers = await asyncio.gather(
            *(backend.commit([Put(f"n/{i}", b"")]) for i in range(3)), return_exceptions=True
        )
        assert [getattr(answer, "fate", None) for answer in answers] == [Fate.NOT_APPLIED] * 3
        assert all("locked by another process" in str(answer) for answer in answers)
        assert await every_name(backend) == []

        child.stdin.close()
        await child.wait()
        await backend.commit([Put("n/0", b"")])
        assert await every_name(backend) == ["n/0"]


async def test_what_is_too_large_is_measured_and_not_read(path: Path) -> None:
    """Over a limit the values stay in the file: they are asked for their lengths, and then for nothing."""
    backend = SqliteBackend(path)
    await backend.open()
    names = [f"l/{number}" for number in range(4)]
    await backend.commit([Put(name, bytes(1000)) for name in names])
    assert backend._reader is not None
    asked: list[str] = []
    backend._reader.set_trace_callback(asked.append)

    with pytest.raises(TooLarge):
        await backend.get_many(names, limit=3999)
    assert [statement.split()[0] for statement in asked] == ["BEGIN", "SELECT", "COMMIT"]
    assert "length(value)" in asked[1]
    asked.clear()
    assert set(await backend.get_many(names, limit=4000)) == set(names)
    assert [statement.split()[0] for statement in asked] == ["BEGIN", "SELECT", "SELECT", "COMMIT"]
    await backend.close()


async def test_two_processes_count_together(path: Path) -> None:
    """Compare-and-set holds across processes: no increment is lost."""
    async with opened(path) as backend, process("count", path, 100) as child:
        await sqlite_process.count_on(backend, 100)
        said, _ = await asyncio.wait_for(child.communicate(), PATIENCE)
        assert said == b"counted\n"
        entry = await backend.get("counter")
        assert entry is not None
        assert entry.value == b"200"


async def test_what_another_process_writes_is_read(path: Path) -> None:
    """Reads see another process' commits as soon as they are answered there."""
    async with opened(path) as backend:
        first, second = map(int, await run("put", path, "n/a", "n/b"))

        assert await backend.get("n/a") == Entry(b"n/a", first)
        assert await backend.get("n/b") == Entry(b"n/b", second)


async def test_several_processes_may_make_the_store(path: Path) -> None:
    """Processes that find no file all at once make one store together."""
    said = await asyncio.gather(*(run("put", path, f"n/{i}") for i in range(4)))

    assert len({int(line) for (line,) in said}) == 4
    async with opened(path) as backend:
        assert await every_name(backend) == ["n/0", "n/1", "n/2", "n/3"]


async def test_two_backends_of_one_process_share_a_file(path: Path) -> None:
    """Two backends on one file see each other, and closing one leaves the other its locks."""
    async with opened(path) as one:
        async with opened(path) as two:
            revision = await one.commit([Put("a", b"one")])
            assert await two.get("a") == Entry(b"one", revision)
            assert await two.commit([Put("a", b"two", revision)]) > revision
        await SqliteBackend(path).close()
        assert (await run("put", path, "b")) != []
        await one.commit([Put("c", b"")])
        assert await every_name(one) == ["a", "b", "c"]


# Traces.

SIZES: Final = (8, 100, 900, 1100, 2400, 4000, 4200, 9000, 60_000)


def marked(number: int, size: int) -> bytes:
    """Return a value of at least *size* bytes in which every stretch of 8 is recognisable."""
    return (b"<mk%04d>" % number) * (size // 8 + 1)


async def test_no_trace_of_replaced_or_deleted_values(path: Path) -> None:
    """After closing, no byte of a value that was replaced or deleted is in any of the files, whatever its size."""
    kept: list[int] = []
    number = 0
    async with opened(path) as backend:
        for turn in range(12):
            batch: list[Put | Delete] = []
            for i in range(len(SIZES) * 3):
                number += 1
                if (turn + i) % 5 == 0:
                    batch.append(Delete(f"n/{i}"))
                else:
                    batch.append(Put(f"n/{i}", marked(number, SIZES[(turn + i) % len(SIZES)])))
                    if turn == 11:
                        kept.append(number)
            await backend.commit(batch)
    content = bytes_on_disk(path)

    assert all(b"<mk%04d>" % n in content for n in kept)
    assert [n for n in range(1, number + 1) if n not in kept and b"<mk%04d>" % n in content] == []


@contextmanager
def reading(path: Path) -> Generator[None, None, None]:
    """Read from the store as another program might, for as long as the body runs: the log cannot be cut meanwhile."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM entry").fetchone()
        yield


async def until_gone(trace: bytes, path: Path) -> None:
    """Return when no file of the store holds *trace*."""
    async with asyncio.timeout(PATIENCE):
        while trace in bytes_on_disk(path):
            await asyncio.sleep(0.05)


async def test_the_log_is_scrubbed_while_the_store_is_open(path: Path) -> None:
    """A replaced value is soon gone from all files, the log too, once nobody reads from the log any more."""
    async with opened(path) as backend:
        await backend.commit([Put("a", marked(1, 5000))])
        with reading(path):
            await backend.commit([Put("a", marked(2, 5000))])
            assert b"<mk0001>" in bytes_on_disk(path)
        await until_gone(b"<mk0001>", path)

        entry = await backend.get("a")
        assert entry is not None
        assert entry.value == marked(2, 5000)


async def test_closing_scrubs_the_log_that_others_keep(path: Path) -> None:
    """What was replaced is gone when the store is closed, though another backend keeps files and log open."""
    async with opened(path) as other:
        async with opened(path) as backend:
            await backend.commit([Put("a", marked(1, 5000))])
            await backend.commit([Put("a", marked(2, 5000))])
        assert b"<mk0001>" not in bytes_on_disk(path)
        assert await other.get("a") is not None


async def test_the_log_of_a_killed_process_is_scrubbed(path: Path, tmp_path: Path) -> None:
    """What a process that was killed left in the log goes when the store is next opened, without any writing."""
    copy = tmp_path / "copy" / "store.db"
    copy.parent.mkdir()
    async with opened(path) as backend:
        await backend.commit([Put("a", marked(1, 5000))])
        with reading(path):
            await backend.commit([Put("a", marked(2, 5000))])
            for suffix in ("", "-wal"):  # as they would lie there after a kill
                shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    assert b"<mk0001>" in bytes_on_disk(copy)

    async with opened(copy) as backend:
        await until_gone(b"<mk0001>", copy)
        entry = await backend.get("a")
        assert entry is not None
        assert entry.value == marked(2, 5000)


async def test_closing_twice_or_unopened_does_nothing(path: Path) -> None:
    """A backend that was never opened, or failed to open, can be closed; and it answers nothing."""
    backend = SqliteBackend(path)
    await backend.close()
    for call in (lambda: backend.get("a"), lambda: backend.commit([Put("a", b"")])):
        with pytest.raises(Unavailable, match="closed"):
            await call()
    assert not path.exists()

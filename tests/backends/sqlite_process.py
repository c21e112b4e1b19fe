"""Another process on an SQLite store, for the tests that need one: ``python -m tests.backends.sqlite_process VERB …``.

Each verb says on standard output, a line at a time, what it has done.
"""

import asyncio
import os
import resource
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from strongroom.storage_service.backends.base import ABSENT, Conflict, Put
from strongroom.storage_service.backends.sqlite import SqliteBackend
from strongroom.storage_service.errors import Unavailable

ROOM = 400_000  # bytes a file may grow to while the disk is "full"


def say(line: object) -> None:
    """Write a line at once: what was said before a kill was really said."""
    os.write(1, f"{line}\n".encode())


async def write(path: Path, total: str, writers: str) -> None:
    """Commit pairs left/<n>, right/<n>, saying each n when it is answered."""
    backend = SqliteBackend(path)
    await backend.open()
    numbers = iter(range(int(total)))

    async def writer() -> None:
        for n in numbers:
            await backend.commit([Put(f"left/{n}", b"%d" % n * 500), Put(f"right/{n}", b"%d" % n * 500)])
            say(n)

    await asyncio.gather(*(writer() for _ in range(int(writers))))
    await backend.close()


async def fill(path: Path) -> None:
    """Commit until no file may grow, read, make room, and go on; say what was answered, in order."""
    backend = SqliteBackend(path)
    await backend.open()
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, hard))
    number = 0
    failures = 0
    while failures < 3:
        try:
            await backend.commit([Put(f"n/{number}", b"x" * 50_000), Put(f"m/{number}", b"")])
            say(f"done {number}")
        except Unavailable as exc:
            failures += 1
            say(f"failed {number} {exc.fate}")
        number += 1
    say(f"readable {len((await backend.list('n/')).names)}")
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await backend.commit([Put(f"n/{number}", b"x" * 50_000), Put(f"m/{number}", b"")])
    say(f"done {number}")
    await backend.close()


async def hold(path: Path) -> None:
    """Hold the store's write lock until standard input ends."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    say("held")
    await asyncio.to_thread(sys.stdin.read)
    db.execute("ROLLBACK")
    db.close()


async def count(path: Path, times: str) -> None:
    """Add one to "counter" so many times."""
    backend = SqliteBackend(path)
    await backend.open()
    await count_on(backend, int(times))
    await backend.close()
    say("counted")


async def count_on(backend: SqliteBackend, times: int) -> None:
    """Add one to "counter" on *backend* so many times, trying again whenever another was faster."""
    while times:
        entry = await backend.get("counter")
        value, expected = (int(entry.value), entry.revision) if entry else (0, ABSENT)
        try:
            await backend.commit([Put("counter", b"%d" % (value + 1), expected)])
        except Conflict:
            continue
        times -= 1


async def put(path: Path, *names: str) -> None:
    """Commit each of *names*, one after the other, each saying its revision."""
    backend = SqliteBackend(path)
    await backend.open()
    for name in names:
        say(await backend.commit([Put(name, name.encode())]))
    await backend.close()


VERBS: dict[str, Callable[..., Awaitable[None]]] = {
    "write": write,
    "fill": fill,
    "hold": hold,
    "count": count,
    "put": put,
}


async def run(verb: str, path: str, *arguments: str) -> None:
    """Do what the command line says."""
    await VERBS[verb](Path(path), *arguments)


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:]))

"""The record of who did what to which secret: one JSON line an act, on disk before the answer leaves.

    {"time":"2026-11-22T09:30:00.123456Z","request":"9f…","principal":"apikey:ci","action":"get",
     "name":"secrets/hosts/10.0.0.7","decision":"allowed","peer":{"pid":812,"uid":990,"gid":990}}

*decision* is ``allowed``, ``denied`` or ``failed`` (allowed, but the stored value did not open); *reason* says why
for the last two; *for* names whom a proxy spoke for. There is no field that could hold a value.
"""

import asyncio
import errno
import os
import queue
import stat
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from storage_service.errors import AuditUnavailable

DEADLINE: Final = 5.0  # seconds a line may take to reach the disk before its act is refused
LINGER: Final = 0.001  # seconds a group waits for more while several callers are at work (PostgreSQL's commit_delay)


class AuditRecord(msgspec.Struct, omit_defaults=True, rename={"for_": "for"}):
    """One act: who, what, on which name, and the decision."""

    request: str
    principal: str
    action: str
    name: str
    decision: str
    reason: str | None = None
    for_: str | None = None
    peer: dict[str, int] | None = None


class AuditLog:
    """An append-only file of JSON lines with group commit: acts that wait together share one write and one fsync.

    One thread writes, so that the event loop never waits for the disk. Several processes may append to one file:
    each group is one ``write`` to a descriptor opened with O_APPEND. When the file was renamed or removed behind the
    service's back (log rotation, an accident), the next group goes to a new file of the same path.
    """

    def __init__(self, path: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._path = path
        self._now = now
        self._encode = msgspec.json.Encoder().encode
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._writing: list[tuple[bytes, asyncio.Future[None]]] | None = None
        self._groups: queue.SimpleQueue[tuple[bytes, bool] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._crowded = False
        self._descriptor = -1
        self._place: tuple[int, int] | None = None  # device and inode of the file that is open
        self._torn = False  # the last write stopped inside a line

    def open(self) -> None:
        """Open the file for appending, and start its thread. Called on the event loop that will append.

        Raises:
            AuditUnavailable: the file cannot be opened for writing.
        """
        self._loop = asyncio.get_running_loop()
        try:
            self._descriptor = self._open()
        except OSError as error:
            raise AuditUnavailable(f"the audit log cannot be opened: {error.strerror}") from error
        self._thread = threading.Thread(target=self._write_groups, name="audit", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Write what waits, end the thread and close the file."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        waiting = [future for _, future in [*self._waiting, *(self._writing or ())]]
        if waiting:
            await asyncio.wait(waiting, timeout=DEADLINE)
        self._groups.put(None)
        await asyncio.to_thread(thread.join, DEADLINE)
        os.close(self._descriptor)

    def append(self, *records: AuditRecord) -> asyncio.Future[None]:
        """Return a future that is done when *records* are on disk; it fails with `AuditUnavailable` if they cannot be.

        They are queued at once: the caller may do other work before it awaits, but must await before it answers.
        """
        stamp = self._now().isoformat(timespec="microseconds").removesuffix("+00:00").encode()
        line = b"".join([b'{"time":"%sZ",%s\n' % (stamp, self._encode(record)[1:]) for record in records])
        future = self._loop.create_future()
        if self._thread is None:
            future.set_exception(AuditUnavailable("the audit log is closed"))
            return future
        self._waiting.append((line, future))
        if self._writing is None and len(self._waiting) == 1:
            self._begin_soon()
        return future

    def _begin_soon(self) -> None:
        # A caller alone goes when the callbacks that are ready now have run; where the last group was of several, it
        # pays to wait for several again: a group costs a thread's wake-up and an fsync, whatever its size.
        if self._crowded:
            self._loop.call_later(LINGER, self._begin_group)
        else:
            self._loop.call_soon(self._begin_group)

    def _begin_group(self) -> None:
        if self._writing is not None or not self._waiting:
            return
        group = self._writing = self._waiting
        self._waiting = []
        self._crowded = len(group) > 1
        self._timer = self._loop.call_later(DEADLINE, self._expire, group)
        # The thread has to win the interpreter for each call it makes, so all but the write itself is done here.
        self._groups.put((b"".join([line for line, _ in group]), self._replaced()))

    def _end_group(self, error: OSError | None) -> None:
        self._timer.cancel()
        group, self._writing = self._writing or [], None
        if self._waiting:
            self._begin_soon()
        for _, future in group:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(AuditUnavailable(f"the audit log cannot be written: {error.strerror}"))
                future.exception()  # a caller that went away has nobody to tell

    def _expire(self, group: list[tuple[bytes, asyncio.Future[None]]]) -> None:
        # The disk hangs: refuse what waits on it. The thread stays with it, and whatever comes meanwhile expires too.
        for _, future in [*group, *self._waiting]:
            if not future.done():
                future.set_exception(AuditUnavailable("the audit log took too long"))
                future.exception()
        self._waiting.clear()
        self._timer = self._loop.call_later(DEADLINE, self._expire, group)

    def _replaced(self) -> bool:
        """Whether another file, or none, has the path now: a look into the kernel's memory, not at the disk."""
        try:
            named = self._path.stat()
        except OSError:
            return True
        return (named.st_dev, named.st_ino) != self._place

    # What follows runs on the writer thread alone.

    def _write_groups(self) -> None:
        while (group := self._groups.get()) is not None:
            error: OSError | None = None
            try:
                self._write(*group)
            except OSError as caught:
                error = caught
            try:
                self._loop.call_soon_threadsafe(self._end_group, error)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more

    def _write(self, data: bytes, replaced: bool) -> None:
        if replaced:
            replacement = self._open()
            os.close(self._descriptor)
            self._descriptor = replacement
        if self._torn:
            data = b"\n" + data  # what was cut off stays a line of its own
        written = os.write(self._descriptor, data)
        if written < len(data):
            self._torn = True
            os.write(self._descriptor, data[written:])  # raises with the reason the first one stopped
        self._torn = False

    def _open(self) -> int:
        # A write returns when it is on disk; and nothing waits for somebody to read from a pipe.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_DSYNC | os.O_NONBLOCK
        descriptor = os.open(self._path, flags, 0o600)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):  # a device or a pipe takes everything, and keeps nothing
            os.close(descriptor)
            raise OSError(errno.EINVAL, "it is no regular file")
        self._place = found.st_dev, found.st_ino
        if found.st_size:
            with self._path.open("rb") as written:
                written.seek(found.st_size - 1)
                self._torn = written.read(1) != b"\n"
        else:
            self._torn = False
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)  # a new file's name must outlive a crash, too
            finally:
                os.close(directory)
        return descriptor

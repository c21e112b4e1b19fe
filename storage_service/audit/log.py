"""The record of who did what to which secret: one JSON line an act, on disk before the answer leaves.

    {"time":"2026-11-22T09:30:00.123456Z","request":"9f…","principal":"apikey:ci","action":"get",
     "name":"secrets/hosts/10.0.0.7","decision":"allowed","peer":{"pid":812,"uid":990,"gid":990}}

*decision* is ``allowed``; or ``denied`` (not within these credentials, or they are wrong), or ``refused`` (no request
that could be decided on). An act that was allowed and came to nothing has a second line, ``failed``, or ``unknown``
where nobody can tell what became of it. *reason* says why, *for* names whom the proxy spoke for, *from* is the network
address that the proxy told, *trace* the trace (W3C Trace Context) that the request is part of. *about* is what of the
record was to be changed: a member, a credential, never a value. *decided* is what rules decided by, where they did: the
rights that the act needs, the groups and the credential of the principal, the rules that matched, and the revision of
all access as it was then; so it can be decided again by other rules. Its *engines* are those that were asked, with what
each said. A line of refusals stands for *count* of them, strangers *claimed* to be these; the rule for that is in
`strangers`.
There is no field that could hold a value; what does not print is escaped.
"""

import asyncio
import contextlib
import errno
import os
import queue
import stat
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from strongroom.storage_service.errors import AuditUnavailable
from strongroom.storage_service.files import sync_directory
from strongroom.storage_service.printable import printable
from strongroom.storage_service.reach import changed_by_others

DEADLINE: Final = 5.0  # seconds a line may take to reach the disk before its act is refused
KEPT: Final = 1024**3  # bytes at most that refusals leave free on the disk of the log: a tenth of it, if that is less
BLOCK: Final = 4096  # bytes that a file grows by on the disk
LINGER: Final = 0.001  # seconds a group waits for more while several callers are at work (PostgreSQL's commit_delay)


class AuditRecord(msgspec.Struct, omit_defaults=True, rename={"for_": "for", "from_": "from"}):
    """One act: who, what, on which name, and the decision."""

    request: str
    principal: str
    action: str
    name: str
    decision: str
    reason: str | None = None
    for_: str | None = None
    peer: dict[str, int] | None = None
    from_: str | None = None
    claimed: list[str] = []
    count: int = 1
    decided: dict[str, object] | None = None
    about: str | None = None
    trace: str | None = None


class Measure(NamedTuple):
    """How an audit log is: room on its disk and its size in bytes, and when it was written last."""

    free: int | None
    size: int | None
    written: float | None  # seconds since 1970


class AuditLog:
    """An append-only file of JSON lines with group commit: acts that wait together share one write and one fsync.

    One thread writes, so that the event loop never waits for the disk. Several processes may append to one file:
    each group is one ``write`` to a descriptor opened with O_APPEND. When the file was renamed or removed behind the
    service's back (log rotation, an accident), the next group goes to a new file of the same path.

    A full disk cuts lines off, ours or another process's. Nothing is said to be recorded that stands behind such a
    piece: a group begins with a line break where the file does not end in one, and if another was cut off in between,
    the line that stuck to it is written once more.
    """

    def __init__(
        self,
        path: Path,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the path, the clock, and what is told of each group of lines that could not be written."""
        self._path = path
        self._on_failure = on_failure
        self._now = now
        self._encode = msgspec.json.Encoder().encode
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._writing: list[tuple[bytes, asyncio.Future[None]]] | None = None
        self._groups: queue.SimpleQueue[tuple[bytes, bool] | None] = queue.SimpleQueue()
        self._written = b""  # what was given to the thread last
        self._size = 0  # of the file, when that was given
        self._thread: threading.Thread | None = None
        self._crowded = False
        self._descriptor = -1
        self._place: tuple[int, int] | None = None  # device and inode of the file that is open
        self._end = 0  # where our last write ended
        self._torn = False  # it was cut off
        self._fault = ""  # why the last group is not on disk; text alone, for an error would keep who awaited it

    def open(self) -> None:
        """Open the file for appending, and start its thread. Called on the event loop that will append.

        Raises:
            AuditUnavailable: the file cannot be opened for writing.
        """
        self._loop = asyncio.get_running_loop()
        try:
            self._descriptor = self._open()
        except OSError as error:
            raise AuditUnavailable(f"the audit log cannot be opened: {error.strerror}", plain=_plain(error)) from error
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
        self._let_go()

    def append(self, *records: AuditRecord) -> asyncio.Future[None]:
        """Return a future that is done when *records* are on disk; it fails with `AuditUnavailable` if they cannot be.

        They are queued at once: the caller may do other work before it awaits, but must await before it answers.
        """
        stamp = self._now().isoformat(timespec="microseconds").removesuffix("+00:00").encode()
        line = b"".join([b'{"time":"%sZ",%s\n' % (stamp, self._encode(record)[1:]) for record in records])
        if not line.isascii() or b"\x7f" in line:
            line = b"".join([printable(each.decode()).encode() + b"\n" for each in line.split(b"\n")[:-1]])
        return self._put(line)

    def _put(self, line: bytes) -> asyncio.Future[None]:
        future = self._loop.create_future()
        if self._thread is None:
            future.set_exception(AuditUnavailable("the audit log is closed"))
            return future
        self._waiting.append((line, future))
        if self._writing is None and len(self._waiting) == 1:
            self._begin_soon()
        return future

    async def check(self) -> None:
        """Return if what comes now can be recorded, as far as that can be told without a line.

        Raises:
            AuditUnavailable: the disk is full, or the last line could not be written and nor can the next.
        """
        with contextlib.suppress(OSError):  # the write itself says what is wrong
            disk = os.statvfs(self._path.parent)
            free = disk.f_bfree if os.geteuid() == 0 else disk.f_bavail
            if free * disk.f_frsize < BLOCK:
                raise AuditUnavailable(
                    "the audit log cannot be written: its disk is full", plain=os.strerror(errno.ENOSPC)
                )
        if self._fault or self._replaced():  # who has moved a full log away wants its room back
            await self._put(b"")

    def has_room(self) -> bool:
        """Whether refusals may go on filling the disk: so much is kept from them as is told by `KEPT`."""
        try:
            disk = os.statvfs(self._path.parent)
        except OSError:
            return True  # the write itself says what is wrong
        return disk.f_bavail * disk.f_frsize >= min(KEPT, disk.f_blocks * disk.f_frsize // 10)

    def measure(self) -> Measure:
        """Return how the file and its disk are now; what cannot be seen is None."""
        free, size, written = None, None, None
        with contextlib.suppress(OSError):
            disk = os.statvfs(self._path.parent)
            free = disk.f_bavail * disk.f_frsize
        with contextlib.suppress(OSError):
            named = self._path.stat()
            size, written = named.st_size, named.st_mtime
        return Measure(free, size, written)

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
        self._hand_over(b"".join([line for line, _ in group]))

    def _hand_over(self, data: bytes) -> None:
        replaced = self._replaced()
        self._written = data if replaced else self._apart(data)
        self._groups.put((self._written, replaced))

    def _end_group(self, error: OSError | None) -> None:
        with contextlib.suppress(OSError):
            self._end = os.lseek(self._descriptor, 0, os.SEEK_CUR)
        if error is None and self._stuck():
            self._hand_over(self._written[: self._written.index(b"\n") + 1])
            return
        self._timer.cancel()
        group, self._writing = self._writing or [], None
        if self._waiting:
            self._begin_soon()
        self._fault = "" if error is None else f"the audit log cannot be written: {error.strerror}"
        plain = "" if error is None else _plain(error)
        if error is not None:
            self._on_failure()
        for _, future in group:
            if future.done():
                continue
            if not self._fault:
                future.set_result(None)
            else:
                future.set_exception(AuditUnavailable(self._fault, plain=plain))
                future.exception()  # a caller that went away has nobody to tell

    def _expire(self, group: list[tuple[bytes, asyncio.Future[None]]]) -> None:
        self._on_failure()
        # The disk hangs: refuse what waits on it. The thread stays with it, and whatever comes meanwhile expires too.
        for _, future in [*group, *self._waiting]:
            if not future.done():
                future.set_exception(AuditUnavailable("the audit log took too long", plain="its disk does not answer"))
                future.exception()
        self._waiting.clear()
        self._timer = self._loop.call_later(DEADLINE, self._expire, group)

    def _replaced(self) -> bool:
        """Whether another file, or none, has the path now: a look into the kernel's memory, not at the disk."""
        try:
            named = self._path.stat()
        except OSError:
            return True
        self._size = named.st_size
        return (named.st_dev, named.st_ino) != self._place

    def _apart(self, data: bytes) -> bytes:
        """Return *data*, behind a line break where the file, which has just been looked at, does not end in one."""
        if self._size == self._end:  # nobody wrote since, and we know how we ended
            return b"\n" + data if self._torn else data
        return data if self._ends_a_line(self._size) else b"\n" + data

    def _stuck(self) -> bool:
        """Whether what was just written stands behind another process's line that was cut off meanwhile."""
        start = self._end - len(self._written)
        return (
            bool(self._written) and start != self._size and self._written[:1] != b"\n" and not self._ends_a_line(start)
        )

    def _ends_a_line(self, place: int) -> bool:
        try:
            return place <= 0 or os.pread(self._descriptor, 1, place - 1) in (b"\n", b"")
        except OSError:
            return False  # in doubt

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
            self._let_go()  # first: a file that was removed takes the disk's room for as long as it is open
            self._descriptor = self._open()
            if self._torn:
                data = b"\n" + data
        written = os.write(self._descriptor, data)
        self._torn = written < len(data)
        if self._torn:
            os.write(self._descriptor, b"\n")  # raises what stopped the first; else the piece is a line of its own
            self._torn = False
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _let_go(self) -> None:
        """Close the file; every line in it that counts is on disk."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._place = -1, None

    def _open(self) -> int:
        # A write returns when it is on disk; and nothing waits for somebody to read from a pipe.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_DSYNC | os.O_NONBLOCK
        descriptor = os.open(self._path, flags, 0o600)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):  # a device or a pipe takes everything, and keeps nothing
            os.close(descriptor)
            raise OSError(errno.EINVAL, "it is not a regular file")
        fault = changed_by_others(self._path, found) or changed_by_others(self._path.parent, self._path.parent.stat())
        if fault is not None:
            os.close(descriptor)
            raise OSError(errno.EPERM, fault)
        self._place = found.st_dev, found.st_ino
        self._end = found.st_size
        self._torn = found.st_size > 0 and os.pread(descriptor, 1, found.st_size - 1) != b"\n"
        if not found.st_size:
            sync_directory(self._path.parent)  # a new file's name must outlive a crash, too
        return descriptor


def _plain(error: OSError) -> str:
    """Return why the log cannot be written, without the name of a file."""
    if error.errno == errno.EPERM and error.strerror != os.strerror(errno.EPERM):  # it was refused here
        return "it, or its directory, can be changed by others"
    return error.strerror or type(error).__name__

"""The journal of a run: what was moved, what is needed to undo it, and who is at it. All of it is sealed in the store.

    system/journal/migration/lock                    who has a migration of this service under way
    system/journal/migration/<run>/run               what is moved from where, and how far that is
    system/journal/migration/<run>/applied/<number>  records that were written with it, in one commit
    system/journal/migration/<run>/former/<number>   what lay under names that were replaced
    system/journal/migration/<run>/scrubbed/<number> items as they lay at the source, before they were scrubbed
    system/journal/migration/<run>/left/<number>     what the last apply was told to leave behind

A row stands before what it tells of is done, or is done in the same commit. So whatever happens, the journal knows of
every record that a run wrote and of every item that it changed, and can tell by looking whether that came about.
"""

import os
import platform
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from jwcrypto import jwk

from strongroom.migration.digest import Digest
from strongroom.migration.errors import MigrationError, NoSuchRun, RunHeld
from strongroom.migration.report import Problem
from strongroom.migration.target import Target
from strongroom.models.names import MIGRATION
from strongroom.models.secret import Secret
from strongroom.models.steps import Step
from strongroom.models.strict_json import UNREADABLE
from strongroom.storage_service import wire
from strongroom.storage_service.backends.base import pages
from strongroom.storage_service.client.bulk_operations import BulkValue, Remove, Require, Write
from strongroom.storage_service.errors import Changed, NotFound

R = TypeVar("R", bound=msgspec.Struct)

LOCK: Final = MIGRATION + "lock"
FORMAT: Final = 1
LIST_RUNS: Final = Step("the runs are listed by", "migrate status")
RUN_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}", re.ASCII)
MAX_ROW: Final = 384 * 1024  # characters of values in one row: with what a commit writes beside it, all fits any store
_KINDS: Final = ("applied", "former", "scrubbed", "left")
_PAGE: Final = 50  # rows in one question
_ENDED: Final = ("Z", "X")  # states of processes that nobody has waited for yet (proc(5))
UNDONE: Final = "undone"  # of a `Copy`: a rollback has taken it out, so nothing is known of that name any more
MOVING: Final = "moving"  # the stage of a run whose apply has begun and not ended; its counts say what there is
ROLLED_BACK: Final = "rolled back"  # the stage of a run of which nothing is left but its head, once it is complete


class Stage(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How a verb last ended."""

    at: str  # RFC 3339, UTC
    complete: bool
    counts: dict[str, int]
    sum: str = ""  # of verify: the keyed hash over all that was compared


class Run(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The head of a run. It holds keys, so it lives in sealed rows and in memory, and its repr shows none."""

    name: str
    kind: str
    place: str
    options: dict[str, list[str]]
    identity: str
    created: str
    digest_key: str  # hex
    signing_key: str  # JWK of an Ed25519 key pair (RFC 8037), with which reports are signed
    stages: dict[str, Stage] = {}
    format: int = FORMAT

    def __repr__(self) -> str:
        return f"<Run {self.name}>"


class Copy(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What became of one record of an item."""

    item: str
    mark: str  # of the item when it was read
    name: str
    act: str  # "created", "replaced", "present": it was there and equal; "kept": it was there and differs; `UNDONE`
    digest: str  # of what was to lie under the name
    former: int = 0  # the row that holds what was replaced


class Applied(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A row of ``applied/``."""

    copies: list[Copy]
    containers: list[str] = []  # that were made for them


class Former(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A row of ``former/``: values by name."""

    values: dict[str, str]

    def __repr__(self) -> str:
        return f"<Former of {len(self.values)} records>"


class Scrubbed(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A row of ``scrubbed/``: for each item its id, its mark and its content."""

    originals: list[tuple[str, str, str]]

    def __repr__(self) -> str:
        return f"<Scrubbed of {len(self.originals)} items>"


class Left(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A row of ``left/``: of each problem what `Journal.left_as` says. Rows of old say less, and are like nothing."""

    problems: list[tuple[str, ...]]


class Holder(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Who has a migration under way: a process, and where it can be looked for."""

    verb: str
    run: str
    since: str
    host: str
    machine: str
    boot: str
    namespace: str  # of process ids
    pid: int
    started: str  # of the process, in the kernel's own count


def now() -> str:
    """Return the time as the journal spells it: RFC 3339, UTC, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def run_name(kind: str, identity: str) -> str:
    """Return the name of the run of a source: the same for the same source."""
    # No secret is in an identity; the key is fixed so that every process arrives at the same name.
    tail = Digest(b"strongroom migration run").of(identity).lower().replace("_", "").replace("-", "")
    return f"{kind}-{tail[:10]}"


def new_run(kind: str, place: str, options: dict[str, list[str]], identity: str) -> Run:
    """Return the head of a new run, with keys of its own."""
    return Run(
        name=run_name(kind, identity),
        kind=kind,
        place=place,
        options=options,
        identity=identity,
        created=now(),
        digest_key=os.urandom(32).hex(),
        signing_key=jwk.JWK.generate(kty="OKP", crv="Ed25519").export_private(),
    )


class Journal:
    """The journal of one run, or of the one that is to begin."""

    def __init__(self, target: Target, run: Run, etag: str = wire.NEW) -> None:
        self._target = target
        self._run = run
        self._etag = etag
        self._guard: Require | None = None
        self._next = 1

    @property
    def run(self) -> Run:
        """The head."""
        return self._run

    @property
    def digest(self) -> Digest:
        """The keyed hash of this run."""
        return Digest(bytes.fromhex(self._run.digest_key))

    @property
    def guard(self) -> Require:
        """What every commit of this run carries: that nobody else has taken it over.

        Raises:
            RunHeld: this process does not hold the lock.
        """
        if self._guard is None:
            raise RunHeld("this process does not hold the migration's lock")
        return self._guard

    # Runs

    @staticmethod
    async def find(target: Target, name: str) -> "Journal | None":
        """Return the journal of the run *name*, or None.

        Raises:
            MigrationError: a later version of this program wrote it, or it is damaged.
        """
        if not RUN_NAME.fullmatch(name):
            raise NoSuchRun("that is not the name of a run").advising(LIST_RUNS)
        (head,) = await target.client.read_bulk([f"{MIGRATION}{name}/run"])
        if head is None:
            return None
        return Journal(target, _decoded(head, Run, name), head.etag)

    @staticmethod
    async def runs(target: Target) -> "list[str]":
        """Return the names of all runs."""
        return [
            name.removeprefix(MIGRATION).removesuffix("/run")
            async for page in pages(target.client.list_bulk, MIGRATION)
            for name in page
            if name.endswith("/run") and name.count("/") == MIGRATION.count("/") + 1
        ]

    async def begin(self) -> None:
        """Store the head of a run that has none yet, or was rolled back.

        Raises:
            RunHeld: another process was faster, or has taken the lock.
        """
        undone = self._run.stages.get(ROLLED_BACK)
        if undone is not None and undone.complete:
            await self.clear()  # the rollback may have died before it did
            await self.left(ROLLED_BACK)
        if self._etag == wire.NEW:
            await self._store_head()

    async def reached(self, stage: str, ended: Stage) -> None:
        """Note in the head how a verb ended.

        Raises:
            RunHeld: another process has taken this run over.
        """
        self._run.stages[stage] = ended
        await self._store_head()

    async def left(self, *stages: str) -> None:
        """Note in the head that what those stages said no longer holds."""
        gone = [self._run.stages.pop(stage, None) for stage in stages]
        if any(gone):
            await self._store_head()

    async def _store_head(self) -> None:
        text = Secret(_encoded(self._run))
        try:
            self._etag = await self._target.client.commit_bulk(
                [Write(f"{MIGRATION}{self._run.name}/run", text, self._etag), self.guard]
            )
        except Changed:
            raise RunHeld("another process has taken this migration over; nothing more is done here") from None

    async def forget(self) -> None:
        """Remove every row of this run, the head last.

        Raises:
            RunHeld: another process has taken this run over.
        """
        await self.clear()
        await self._remove([f"{MIGRATION}{self._run.name}/run"])
        self._etag = wire.NEW
        self._run.stages = {}

    async def clear(self) -> None:
        """Remove every row of this run but the head.

        Raises:
            RunHeld: another process has taken this run over.
        """
        for kind in _KINDS:
            await self._clear(kind)

    async def _clear(self, kind: str) -> None:
        names = [self.row_name(kind, number) for number in await self.numbers(kind)]
        while names:
            size = max(1, await self._target.room() - 1)  # beside the lock
            await self._remove(names[:size])
            del names[:size]

    async def _remove(self, names: Sequence[str]) -> None:
        try:
            await self._target.client.commit_bulk([*map(Remove, names), self.guard])
        except Changed:  # the lock: nothing else is guarded here
            raise RunHeld("another process has taken this migration over; nothing more is removed here") from None

    def left_as(self, problem: Problem) -> tuple[str, ...]:
        """Return what is kept of a problem that is left behind: its kind, item and record's name, and a keyed hash.

        The hash is of the item as it was read, and of what was wrong: another item in its place is another problem.
        """
        return problem.kind, problem.item, problem.name, self.digest.of(problem.mark, problem.why)

    async def leave(self, problems: Iterable[Problem]) -> None:
        """Keep what is left behind, in the place of what was kept before.

        Raises:
            RunHeld: another process has taken this run over.
        """
        await self._clear("left")
        row: list[tuple[str, ...]] = []
        size = 0
        for problem in map(self.left_as, problems):
            grown = len(msgspec.json.encode(problem))
            if row and size + grown > MAX_ROW:
                await self._keep_left(row)
                row, size = [], 0
            row.append(problem)
            size += grown
        if row:
            await self._keep_left(row)

    async def _keep_left(self, problems: list[tuple[str, ...]]) -> None:
        row = self.row("left", self.next_number(), Left(problems=problems))
        try:
            await self._target.commit([row, self.guard], row.name)
        except Changed:
            raise RunHeld("another process has taken this migration over; nothing more is done here") from None

    # The lock

    @asynccontextmanager
    async def held(self, verb: str, *, take_over: bool = False) -> AsyncIterator[None]:
        """Hold the one lock there is: two migrations of one service at once would tread on each other.

        A process that died is succeeded at once, where it can be seen to be dead. Every commit is guarded by the lock,
        so one that was taken for dead and was not writes nothing more.

        Raises:
            RunHeld: somebody else has it.
        """
        await self._take(_myself(verb, self._run.name), take_over=take_over)
        try:
            await self._find_next()
            yield
        finally:
            guard, self._guard = self._guard, None
            if guard is not None:
                with suppress(Changed, NotFound):
                    await self._target.client.commit_bulk([Remove(LOCK, guard.etag)])

    async def _take(self, me: Holder, *, take_over: bool) -> None:
        client = self._target.client
        (entry,) = await client.read_bulk([LOCK])
        if entry is not None:
            holder = _decoded(entry, Holder, "lock")
            state = _state_of(holder)
            if state is not False and not take_over:
                raise RunHeld(_who(holder, sure=state is True))
        try:
            etag = await client.commit_bulk([Write(LOCK, Secret(_encoded(me)), entry.etag if entry else wire.NEW)])
        except Changed:
            raise RunHeld("another migration began in this moment").advising(LIST_RUNS) from None
        self._guard = Require(LOCK, etag)

    async def check_held(self) -> None:
        """See whether it was the lock that a commit found changed.

        Raises:
            RunHeld: it was.
        """
        (lock,) = await self._target.client.read_bulk([LOCK])
        if lock is None or lock.etag != self.guard.etag:
            raise RunHeld("another process has taken this migration over; nothing more is written here")

    @staticmethod
    async def holder(target: Target) -> "Holder | None":
        """Return who has a migration under way; None: nobody, or a process that is seen to be dead."""
        (entry,) = await target.client.read_bulk([LOCK])
        if entry is None:
            return None
        holder = _decoded(entry, Holder, "lock")
        return None if _state_of(holder) is False else holder

    # Rows

    def row_name(self, kind: str, number: int) -> str:
        """Return the name of a row."""
        return f"{MIGRATION}{self._run.name}/{kind}/{number:010}"

    def next_number(self) -> int:
        """Return a number that no row has yet."""
        number, self._next = self._next, self._next + 1
        return number

    def row(self, kind: str, number: int, content: Applied | Former | Scrubbed | Left) -> Write:
        """Return the write of a row that is not there yet."""
        return Write(self.row_name(kind, number), Secret(_encoded(content)), wire.NEW)

    async def numbers(self, kind: str) -> "list[int]":
        """Return the numbers of all rows of a kind, in order."""
        prefix = f"{MIGRATION}{self._run.name}/{kind}/"
        return [int(name.removeprefix(prefix)) for name in await self._target.names(prefix)]

    async def rows(self, kind: str, of: type[R], numbers: Sequence[int] | None = None) -> AsyncIterator[tuple[int, R]]:
        """Yield rows of a kind, all in order, or those of *numbers*.

        Raises:
            MigrationError: one is gone, damaged, or of a later version.
        """
        wanted = await self.numbers(kind) if numbers is None else numbers
        page = 1 if kind != "applied" else _PAGE  # rows of the other kinds are as large as rows may be
        for start in range(0, len(wanted), page):
            some = wanted[start : start + page]
            entries = await self._target.client.read_bulk([self.row_name(kind, number) for number in some])
            for number, entry in zip(some, entries, strict=True):
                if entry is None:
                    raise MigrationError(f"row {number} of {kind} is gone from the journal of {self._run.name}")
                yield number, _decoded(entry, of, f"{kind}/{number}")

    async def _find_next(self) -> None:
        last = [(await self.numbers(kind))[-1:] for kind in _KINDS]
        self._next = 1 + max((number for numbers in last for number in numbers), default=0)


def _encoded(content: msgspec.Struct) -> str:
    return msgspec.json.encode(content).decode()


def _decoded(entry: BulkValue, of: type[R], which: str) -> R:
    decoded: R | None = None
    with suppress(*UNREADABLE):  # its text would quote from the row
        decoded = msgspec.json.decode(entry.value.reveal().encode(), type=of)
    if decoded is None or getattr(decoded, "format", FORMAT) != FORMAT:
        raise MigrationError(f"the journal's {which} is damaged, or a later version of this program wrote it")
    return decoded


# Processes


def _myself(verb: str, run: str) -> Holder:
    return Holder(
        verb=verb,
        run=run,
        since=now(),
        host=platform.node(),
        machine=_text(Path("/etc/machine-id")),
        boot=_text(Path("/proc/sys/kernel/random/boot_id")),
        namespace=_namespace(),
        pid=os.getpid(),
        started=_started(os.getpid()),
    )


def _state_of(holder: Holder) -> bool | None:
    """Whether that process lives; None: it cannot be seen from here."""
    me = _myself("", "")
    if holder.machine != me.machine or holder.host != me.host:
        return None
    if holder.boot != me.boot:
        return False
    if holder.namespace != me.namespace:
        return None
    return bool(holder.started) and holder.started == _started(holder.pid)


def _who(holder: Holder, *, sure: bool) -> str:
    where = f"process {holder.pid} on {holder.host}, since {holder.since}"
    if sure:
        return f"a migration is under way: {holder.verb} of {holder.run} by {where}; wait for it, or end it"
    return (
        f"a migration was begun: {holder.verb} of {holder.run} by {where}, which cannot be seen from here;"
        " if it has ended, say --take-over"
    )


def _namespace() -> str:
    with suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text().strip()
    return ""


def _started(pid: int) -> str:
    """Return when a process began, in clock ticks since the boot (proc(5)); "" if there is none, or it has ended."""
    fields = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return fields[19] if fields and fields[0] not in _ENDED else ""

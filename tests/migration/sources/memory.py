"""An estate in memory, and a source of it that keeps the whole law: for tests of what is done with sources.

It lies in one file, as it were, which holds a row of JSON an item, the last of its id being the one that holds; what a
row was before stays in the file until it is purged:

    {"id":"hosts/h7","revision":12,"records":[["hosts/h7","{…}"],["secrets/hosts/h7","eyJ…"]],"notes":[]}

Items that begin with ``hosts/`` become a host and its credentials, others one secret. Scrubbing takes the secret
records out of a row, and the row away if that leaves none. There is a compare-and-set: the revision.
"""

import asyncio
import base64
from bisect import bisect_right, insort
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import ClassVar, Final, NoReturn

import msgspec

from strongroom.migration.digest import Digest
from strongroom.migration.errors import SourceRefused, SourceUnavailable
from strongroom.migration.records import Item, Record, is_sealed
from strongroom.migration.sources.base import Options, Original, Place
from strongroom.models import Host, HostCreds
from strongroom.models.secret import Secret
from strongroom.storage_service.backends.faulty import Fault, Killed
from tests.migration.sources.base import Estate
from tests.ssh_keys import in_base64, private_key

PAGE: Final = 100  # items in one operation of reading
MALFORMED: Final = b"{malformed"

_NUMBERS: Final = count()


class Row(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What the estate holds of an item, but its revision."""

    records: list[tuple[str, str]]
    notes: list[str] = []


class MemoryEstate:
    """The system: what it holds outlives its sources.

    While *refusing*, nobody is accepted. *snapshots* are files that nothing purges; *hidden* names places that cannot
    be looked into.
    """

    kind: ClassVar[str] = "memory"
    options: ClassVar[Options] = {}

    def __init__(self) -> None:
        self.place = f"memory-{next(_NUMBERS)}"
        self.refusing = False
        self.snapshots: dict[str, bytes] = {}
        self.hidden: list[str] = []
        self.rows: dict[str, tuple[int, bytes]] = {}  # id -> revision, content
        self._order: list[str] = []
        self._file = bytearray()
        self._revision = 0
        self._secrets: dict[int, str] = {}
        self._serial = count()
        self._stopped = False

    # As a test's hands

    def put(self, number: int) -> str:
        """Make or change the host *number*."""
        text = f"the secret of {number}, {next(self._serial)}, of {self.place}"
        return self.put_secret(number, text if number % 3 else private_key(text))

    def put_secret(self, number: int, text: str) -> str:
        """Make or change the secret *number*; of those that are multiples of three a host, with base64 of *text*."""
        if number % 3:
            key = f"secrets/{self.place}/s{number:06}"
            self._secrets[number] = text
            return self.put_records(key, [Record(key, Secret(text))])
        creds = HostCreds(address=f"h{number:06}", ssh_priv_key=Secret(_base64(text)))
        record = Record.of(creds)
        self._secrets[number] = creds.ssh_priv_key.reveal()
        return self.put_records(f"hosts/{creds.address}", [Record.of(Host(address=creds.address)), record])

    def put_many(self, numbers: Sequence[int]) -> list[str]:
        """Make many."""
        return [self.put(number) for number in numbers]

    def put_records(self, key: str, records: Sequence[Record], notes: Sequence[str] = ()) -> str:
        """Make or change an item that becomes *records*."""
        row = Row(records=[(record.name, record.value.reveal()) for record in records], notes=list(notes))
        self.write(key, msgspec.json.encode(row))
        return key

    def break_one(self) -> str:
        """Put a row in that is no JSON."""
        key = f"broken/{next(self._serial)}"
        self.write(key, MALFORMED + b" and the secret of a broken one")
        return key

    def change(self, key: str) -> None:
        """Change the secrets of an item, and leave the rest."""
        row = msgspec.json.decode(self.rows[key][1], type=Row)
        row.records = [
            (name, (_other(name, next(self._serial)) if is_sealed(name) else value)) for name, value in row.records
        ]
        self.write(key, msgspec.json.encode(row))

    def remove(self, key: str) -> None:
        """Remove an item."""
        self.write(key, None)

    def secret_of(self, number: int) -> str:
        """Return what `put` made last for *number*: of a host its key, in base64."""
        return self._secrets[number]

    def raw(self) -> Iterator[bytes]:
        """Yield the file, and every snapshot."""
        yield bytes(self._file)
        yield from self.snapshots.values()

    def stop(self) -> None:
        """Answer nobody."""
        self._stopped = True

    def start(self) -> None:
        """Answer again."""
        self._stopped = False

    def source(self, faults: Mapping[int, Fault] | None = None) -> "MemorySource":
        """Return a source of this estate, as a process of its own would have it."""
        return MemorySource(self, faults)

    # As the system

    def write(self, key: str, content: bytes | None, expected: bytes | None = None) -> bool:
        """Let an item be *content* (None: not be), if it is *expected* where that is said; return whether it is so."""
        if expected is not None and (key not in self.rows or self.rows[key][1] != expected):
            return False
        self._revision += 1
        if content is None:
            if self.rows.pop(key, None) is not None:
                self._order.remove(key)
            self._file += msgspec.json.encode({"id": key, "removed": True}) + b"\n"
        else:
            if key not in self.rows:
                insort(self._order, key)
            self.rows[key] = (self._revision, content)
            self._append(key)
        return True

    def page(self, after: str) -> Sequence[str]:
        """Return some of the ids that come after one, in order."""
        start = bisect_right(self._order, after)
        return self._order[start : start + PAGE]

    def compact(self) -> None:
        """Forget what rows were before."""
        self._file.clear()
        for key in self.rows:
            self._append(key)

    def check(self) -> None:
        """Answer, if anybody is answered.

        Raises:
            SourceUnavailable: it is stopped.
            SourceRefused: it refuses.
        """
        if self._stopped:
            raise SourceUnavailable(f"{self.place} does not answer: start it")
        if self.refusing:
            raise SourceRefused(f"{self.place} does not accept us: ask who keeps it")

    def _append(self, key: str) -> None:
        revision, content = self.rows[key]
        self._file += msgspec.json.encode({"id": key, "revision": revision})[:-1] + b","
        self._file += (content[1:] if content.startswith(b"{") else content) + b"\n"


class MemorySource:
    """The source. As with `FaultyBackend`, its operations are numbered from 0 as they are asked, and told by name.

    One operation is: to open, count, read a page, ask for marks, originals or records by name, to write *one* item of
    a batch, or to purge. *faults* holds the way in which the one of a number fails (LOST like BEFORE, but without
    telling so; AFTER with the answer lost), and *edits* what somebody does at the source right before it. Once a fault
    has killed the process, nothing that is asked through this source is done any more, and all of it raises `Killed`.
    """

    scrub_batch: ClassVar[int] = 16

    def __init__(self, estate: MemoryEstate, faults: Mapping[int, Fault] | None = None) -> None:
        self.faults = dict(faults or {})
        self.edits: dict[int, Callable[[], object]] = {}
        self.operations: list[str] = []
        self._estate = estate
        self._released = asyncio.Event()
        self._dead = False

    @property
    def identity(self) -> str:
        """Its place."""
        return f"memory:{self._estate.place}"

    def release(self) -> None:
        """Let slow operations go on, those to come too."""
        self._released.set()

    async def open(self, digest: Digest) -> None:
        """Begin to read; there are revisions, so nothing is digested."""
        async with self._operation("open"):
            pass

    async def close(self) -> None:
        """Let go of nothing."""

    async def count(self) -> int | None:
        """Return how many items there are."""
        async with self._operation("count"):
            return len(self._estate.rows)

    async def items(self) -> AsyncIterator[Item]:
        """Yield every item, in order of ids."""
        after = ""
        while True:
            async with self._operation("page"):
                page = [self._item(key) for key in self._estate.page(after)]
            for item in page:
                yield item
            if len(page) < PAGE:
                return
            after = page[-1].id

    async def marks(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Return their revisions."""
        async with self._operation("marks"):
            return {key: str(self._estate.rows[key][0]) for key in ids if key in self._estate.rows}

    async def find(self, names: Sequence[str]) -> Mapping[str, Record | None]:
        """Return the records that have those names."""
        async with self._operation("find"):
            records = (record for key in self._estate.rows for record in self._item(key).records)
            return {record.name: record for record in records if record.name in names}

    async def originals(self, ids: Sequence[str]) -> Mapping[str, Original]:
        """Return rows as they are."""
        async with self._operation("originals"):
            rows = {key: self._estate.rows[key] for key in ids if key in self._estate.rows}
            return {
                key: Original(key, str(revision), Secret(content.decode())) for key, (revision, content) in rows.items()
            }

    async def scrub(self, originals: Sequence[Original]) -> Sequence[bool]:
        """Take the secret records out, one item after the other."""
        return [await self._scrub_one(original) for original in originals]

    async def restore(self, originals: Sequence[Original]) -> Sequence[bool]:
        """Put rows back, one after the other."""
        return [await self._restore_one(original) for original in originals]

    def search_patterns(self, original: Original) -> Sequence[bytes]:
        """Return the secret values, as JSON writes them."""
        row = msgspec.json.decode(original.content.reveal().encode(), type=Row)
        return [msgspec.json.encode(value)[1:-1] for name, value in row.records if is_sealed(name)]

    async def purge(self) -> Sequence[str]:
        """Compact the file."""
        async with self._operation("purge"):
            self._estate.compact()
            return ["compacted the file"]

    async def places(self) -> Sequence[Place]:
        """Return the file, the snapshots, and what is hidden."""
        async with self._operation("places"):
            estate = self._estate
            return [
                Place("the file", lambda: _chunks(bytes(estate._file)), "purge it"),
                *(
                    Place(name, lambda name=name: _chunks(estate.snapshots[name]), "delete it")  # type: ignore[misc]
                    for name in estate.snapshots
                ),
                *(Place(name, None, "look into it yourself") for name in estate.hidden),
            ]

    def __repr__(self) -> str:
        return f"<MemorySource {self._estate.place}>"

    def _item(self, key: str) -> Item:
        revision, content = self._estate.rows[key]
        try:
            row = msgspec.json.decode(content, type=Row)
        except msgspec.DecodeError:
            return Item(key, str(revision), fault="it is not JSON")
        records = tuple(Record(name, Secret(value)) for name, value in row.records)
        return Item(key, str(revision), records, notes=tuple(row.notes))

    async def _scrub_one(self, original: Original) -> bool:
        content = original.content.reveal().encode()
        scrubbed = _without_secrets(content)
        async with self._operation("scrub"):
            if self._content(original.id) == scrubbed:
                return True
            return self._estate.write(original.id, scrubbed, expected=content)

    async def _restore_one(self, original: Original) -> bool:
        content = original.content.reveal().encode()
        async with self._operation("restore"):
            now = self._content(original.id)
            if now == content:
                return True
            if now != _without_secrets(content):
                return False
            return self._estate.write(original.id, content)

    def _content(self, key: str) -> bytes | None:
        return self._estate.rows[key][1] if key in self._estate.rows else None

    @asynccontextmanager
    async def _operation(self, name: str) -> AsyncIterator[None]:
        """Be one operation, with the fault of its number before or after what is done within."""
        fault, edit = self.faults.get(len(self.operations)), self.edits.get(len(self.operations))
        self.operations.append(name)
        self._check_alive()
        if edit is not None:
            edit()
        if fault is Fault.DIE_BEFORE:
            self._die()
        if fault in (Fault.BEFORE, Fault.LOST):
            raise SourceUnavailable("the source does not answer (injected)")
        if fault is Fault.SLOW:
            await self._released.wait()
            self._check_alive()
        self._estate.check()
        yield
        if fault is Fault.DIE_AFTER:
            self._die()
        if fault is Fault.AFTER:
            raise SourceUnavailable("the source's answer was lost (injected)")

    def _check_alive(self) -> None:
        if self._dead:
            raise Killed

    def _die(self) -> NoReturn:
        self._dead = True
        self._released.set()
        raise Killed


@contextmanager
def estate(directory: Path) -> Iterator[Estate]:
    """Give an estate in memory; the directory stays empty."""
    yield MemoryEstate()


def _without_secrets(content: bytes) -> bytes | None:
    """Return a row without its secret records; None where that leaves nothing."""
    row = msgspec.json.decode(content, type=Row)
    row.records = [(name, value) for name, value in row.records if not is_sealed(name)]
    return msgspec.json.encode(row) if row.records else None


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _other(name: str, serial: int) -> str:
    """Return another valid value for a secret record."""
    if name.startswith(HostCreds.prefix()):
        creds = HostCreds(
            address=name.removeprefix(HostCreds.prefix()), ssh_priv_key=Secret(in_base64(f"new {serial}"))
        )
        return Record.of(creds).value.reveal()
    return f"changed to {serial}"


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 1024 * 1024):
        yield content[start : start + 1024 * 1024]

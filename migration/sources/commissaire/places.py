"""The files of etcd's members: where values lie long after no interface shows them.

    member/wal/*.wal            the log: every change as it was asked for
    member/snap/db              the database of the v3 interface, with pages that are free and not wiped
    member/snap/*.snap          what the v2 interface keeps, with its last 1,000 events
    member/snap/*.snap.db       a database that came from another member

A log begins with the ids of its cluster and member, so that it is known whose files were searched. Everything blocks.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strongroom.migration.errors import SourceUnavailable
from strongroom.migration.sources.base import Place
from strongroom.storage_service.errors import ConfigurationError

CHUNK: Final = 1024 * 1024  # bytes read at once

_HEAD: Final = 4096  # bytes of a log that hold its first two records
_FRAME: Final = 8  # bytes before each: 56 bits of length, little-endian, and a byte that says how it is padded
_METADATA: Final = 1  # the type of the record that has the ids

_REPLACE: Final = (
    "give each member new files from a snapshot taken now (etcdctl snapshot save, etcdctl snapshot restore;"
    " for keys of the v2 interface ETCDCTL_API=2 etcdctl backup, once a member has run with --snapshot-count=1),"
    " and destroy the old ones"
)
_LOG: Final = f"etcd keeps every change in its log until it drops the segment: {_REPLACE}"
_DATABASE: Final = "scrub again: that compacts and defragments the member"
_SNAPSHOT: Final = f"etcd keeps the last ones of these: {_REPLACE}"
_OTHER: Final = "if it is not one of etcd's own, destroy it; otherwise " + _REPLACE
_UNSEEN: Final = (
    "run this where its files are, with -o data_dir=PATH, to search them; its log holds what was scrubbed in any case: "
    + _REPLACE
)
_BACKUPS: Final = (
    "whoever keeps backups or snapshots of etcd made before now has the secrets: destroy those, or change the keys"
)


@dataclass(frozen=True, slots=True)
class Machine:
    """A member of a cluster: its ids, how it is called in a report, and where the place reaches it, if it does."""

    cluster: int
    id: int
    words: str
    endpoint: str = ""

    @property
    def named(self) -> bool:
        """Whether the place names it, and it answers."""
        return bool(self.endpoint)


def check_directories(directories: Sequence[Path]) -> None:
    """Return if each of *directories* has files of etcd below it.

    Raises:
        ConfigurationError: one has not, or cannot be read.
    """
    for directory in directories:
        if not any(directory.rglob("*.wal")) and not any(directory.rglob("snap/db")):
            raise ConfigurationError(f"data_dir {directory}: no files of etcd can be found there")


def places_of(machines: Sequence[Machine], directories: Sequence[Path]) -> Sequence[Place]:
    """Return each file below *directories*, each of *machines* whose files are not among them, and past backups."""
    found = [place for directory in directories for place in _walk(directory)]
    seen = {ids for directory in directories for log in sorted(directory.rglob("*.wal")) if (ids := ids_of(log))}
    unseen = [machine for machine in machines if (machine.cluster, machine.id) not in seen]
    return [
        *found,
        *(Place(f"the files of {machine.words}", None, _UNSEEN) for machine in unseen),
        Place("backups and snapshots made before", None, _BACKUPS),
    ]


def ids_of(log: Path) -> tuple[int, int] | None:
    """Return the ids of the cluster and the member that wrote a log; None: it does not say (walpb, etcd's package)."""
    try:
        with log.open("rb") as file:
            head = file.read(_HEAD)
        at = 0
        for _ in range(2):  # the first record is a checksum
            length = int.from_bytes(head[at : at + 7], "little")
            record = _Message(head[at + _FRAME : at + _FRAME + length])
            if record.numbers.get(1) == _METADATA:
                ids = _Message(record.parts[3]).numbers
                return ids[2], ids[1]
            padding = head[at + 7] & 7 if head[at + 7] & 0x80 else 0
            at += _FRAME + length + padding
    except (OSError, LookupError, ValueError):
        pass
    return None


def _walk(directory: Path) -> Iterator[Place]:
    """Yield a place for each file below, and for each thing that cannot be looked into."""
    hidden: list[OSError] = []
    for folder, folders, files in os.walk(directory, onerror=hidden.append):
        for name in sorted((*folders, *files)):
            path = Path(folder) / name
            if path.is_symlink():
                yield Place(f"{path}", None, "it leads elsewhere: name what it leads to as a data_dir too")
            elif path.is_file():
                yield Place(f"{path}", lambda path=path: _read(path), _advice(path))  # type: ignore[misc]  # a default is how a loop's variable is kept
    for error in hidden:
        yield Place(f"{error.filename}", None, f"it cannot be read ({error.strerror}): run this as a user who can")


def _advice(path: Path) -> str:
    if path.suffix == ".wal":
        return _LOG
    if path.name == "db":
        return _DATABASE
    return _SNAPSHOT if path.parent.name == "snap" else _OTHER


async def _read(path: Path) -> AsyncIterator[bytes]:
    """Yield a file in chunks; one that etcd has removed meanwhile ends."""
    try:
        file = await asyncio.to_thread(path.open, "rb", 0)
    except FileNotFoundError:
        return
    except OSError as error:
        raise SourceUnavailable(f"{path} cannot be read: {error.strerror}") from None
    with file:
        while True:
            try:
                chunk = await asyncio.to_thread(file.read, CHUNK)
            except OSError as error:
                raise SourceUnavailable(f"{path} cannot be read: {error.strerror}") from None
            if not chunk:
                return
            yield chunk


class _Message:
    """A message of protobuf that has numbers (varints) and parts (bytes) alone, each by the number of its field."""

    def __init__(self, message: bytes) -> None:
        """Read it.

        Raises:
            IndexError, ValueError: it is invalid.
        """
        self.numbers: dict[int, int] = {}
        self.parts: dict[int, bytes] = {}
        at = 0
        while at < len(message):
            tag, at = _varint(message, at)
            value, at = _varint(message, at)
            if tag & 7 == 2:
                self.parts[tag >> 3] = message[at : at + value]
                at += value
            elif tag & 7 == 0:
                self.numbers[tag >> 3] = value
            else:
                raise ValueError("a field of another kind")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at

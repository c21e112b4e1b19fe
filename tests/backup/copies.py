"""What stories of backups are told with: a store in use, its copy, and what any store holds."""

import io
from collections.abc import Iterable
from typing import Final

import msgspec

from strongroom.storage_service.backends.base import Backend, Copyable, Put, Snapshot
from strongroom.storage_service.backup.checking import Checked, check
from strongroom.storage_service.backup.form import End, Head, Reader, Writer
from strongroom.storage_service.backup.taking import copy
from strongroom.storage_service.jose.key import Key
from strongroom.storage_service.keyring.ceremonies.export import export
from strongroom.storage_service.keyring.rootkey import RootKey
from tests.keyring import keeping
from tests.keyring.story import ROOT, opened

CANARIES: Final = ("canary-one-of-the-secrets", "canary-two-of-the-secrets")
NOW: Final = "2026-11-30T07:33:12Z"
FILE: Final = RootKey(keeping.FILE_BITS)  # what a root key file would hold


async def fill(store: Backend, more: int = 0) -> None:
    """Let *store* be one in use: a keyring, secrets, *more* of them, a plain record, a value that is no text."""
    await keeping.given(store, Key("file." + FILE.kid.partition(".")[2], FILE.reveal()), root=ROOT)
    async with opened(store) as worker:
        await worker.secrets.commit([Put("secrets/db/", b"")])
        for number, canary in enumerate(CANARIES):
            await worker.secrets.commit([Put(f"secrets/db/{number}", canary.encode())])
        for number in range(more):
            await worker.secrets.commit([Put(f"secrets/more/{number:04}", b"x" * 9000)])
    await store.commit([Put("hosts/10.0.0.7", b'{"address":"10.0.0.7"}'), Put("networks/odd", b"\xff\x00")])


def snapshot_of(store: Backend) -> Copyable:
    """Return *store* as what can be copied."""
    assert isinstance(store, Copyable)
    return store


async def head_of(store: Backend, snapshot: Snapshot) -> Head:
    """Return what is said first of a copy of *store*."""
    keyring = msgspec.json.decode(await export(store, ROOT))
    return Head(version="0", label="one", taken=NOW, store="any", revision=snapshot.revision, keyring=keyring)


async def copied(store: Backend) -> io.BytesIO:
    """Return a backup of *store*, to be read from its beginning."""
    file = io.BytesIO()
    async with snapshot_of(store).snapshot() as snapshot:
        await copy(snapshot, await head_of(store, snapshot), file, lambda _: None)
    file.seek(0)
    return file


async def held(store: Backend) -> dict[str, bytes]:
    """Return all that *store* holds."""
    async with snapshot_of(store).snapshot() as snapshot:
        return {name: value async for page in snapshot.pages() for name, value in page}


def checked(file: io.BytesIO, root: RootKey | None = ROOT) -> Checked:
    """Return what a check of *file* finds."""
    file.seek(0)
    return check(Reader(file), lambda _: None, root)


def rewritten(file: io.BytesIO, rows: Iterable[tuple[str, bytes]]) -> io.BytesIO:
    """Return a backup with the head of *file*, and other rows: what somebody makes who can count checksums, too."""
    file.seek(0)
    made = io.BytesIO()
    writer = Writer(made, Reader(file).head)
    writer.add(sorted(rows))
    assert isinstance(writer.end(), End)
    made.seek(0)
    return made


def rows_of(file: io.BytesIO) -> dict[str, bytes]:
    """Return the rows in *file*."""
    file.seek(0)
    return dict(Reader(file).rows())

"""Restore a backup file into a store.

    1  the store is empty, and gets the marker                     one commit
    2  the rows, all but the keyring                               many commits, each only while the marker stands
    3  the store is read, as of one moment, and held against the file, row by row
    4  the keyring, and the marker goes                            one commit

Killed before 1 it leaves an empty store, after 4 a whole one, and in between one that says what it is: no service
starts on it, and the same file finishes it. Rows that are written again are as they were, so nothing is to be
remembered.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import IO

import msgspec

from strongroom.models.names import KEYRING_DOCUMENT, RESTORE
from strongroom.storage_service.backends.base import (
    ABSENT,
    Backend,
    Change,
    Check,
    Conflict,
    Copyable,
    Delete,
    Put,
    Vacant,
)
from strongroom.storage_service.backup.checking import Checked
from strongroom.storage_service.backup.form import Reader
from strongroom.storage_service.errors import Exists, Invalid, Overtaken
from strongroom.storage_service.wire import MAX_STORED


async def restore(file: IO[bytes], store: Backend, checked: Checked, advance: Callable[[int], None]) -> None:
    """Fill *store* with the rows of *file*, and see that it holds them and nothing else.

    Args:
        file: what was checked, to be read again from its beginning, twice.
        store: an open one, empty, or half restored from the same file.
        checked: what `checking.check` found.
        advance: told how many rows more are done; each row is done twice.

    Raises:
        Exists: the store is not empty.
        Overtaken: somebody else wrote into it meanwhile; it stays half restored.
        Invalid: the file changed since it was checked.
        Unavailable: the store went away, or is full; it stays half restored.
    """
    revision = await _begin(store, checked)
    for batch in _batches(_rows(file, checked), store.max_batch - 1):
        changes: list[Change] = [*batch, Check(RESTORE, revision)]
        try:
            await store.commit(changes)
        except Conflict:
            raise Overtaken("somebody else restores into this store, or emptied it meanwhile") from None
        advance(len(batch))
    await _compare(file, store, checked, advance)
    last: list[Change] = [Put(KEYRING_DOCUMENT, checked.keyring, expected=ABSENT), Delete(RESTORE, expected=revision)]
    try:
        await store.commit(last)
    except Conflict:
        raise _meddled() from None


async def refuse_filled(store: Backend, checked: Checked) -> None:
    """Refuse a store that cannot be filled, before anything is done for it elsewhere.

    Raises:
        Exists: it is not empty, and not half restored from the same file.
        Unavailable: it does not answer.
    """
    found = await store.get(RESTORE)
    if found is None and (await store.list("", limit=1)).names:
        raise _filled()
    if found is not None and found.value != _mark(checked):
        raise _another()


async def _begin(store: Backend, checked: Checked) -> int:
    """Set the marker in an empty store, or find it in one that is half restored; return its revision."""
    said = _mark(checked)
    found = await store.get(RESTORE)
    if found is None:
        try:
            return await store.commit([Put(RESTORE, said, expected=ABSENT), Vacant("")])
        except Conflict:
            raise _filled() from None
    if found.value != said:
        raise _another()
    return found.revision


def _mark(checked: Checked) -> bytes:
    return msgspec.json.encode({"head": checked.end.head, "body": checked.end.body})


def _filled() -> Exists:
    return Exists("the store is not empty; a backup can be restored only into an empty store")


def _another() -> Exists:
    return Exists("the store is half restored from another backup; empty it first")


def _rows(file: IO[bytes], checked: Checked) -> Iterator[tuple[str, bytes]]:
    """Give out the rows but the keyring, and see in the end that they are those which were checked."""
    file.seek(0)
    reader = Reader(file)
    for name, value in reader.rows():
        if name != KEYRING_DOCUMENT:
            yield name, value
    if reader.end != checked.end:
        raise Invalid("the backup was changed while it was restored")


def _batches(rows: Iterator[tuple[str, bytes]], most: int) -> Iterator[Sequence[Put]]:
    """Give out *rows* as changes, as many as fit into one commit."""
    batch: list[Put] = []
    size = 0
    for name, value in rows:
        if batch and (len(batch) == most or size + len(value) > MAX_STORED):
            yield batch
            batch, size = [], 0
        batch.append(Put(name, value))
        size += len(value)
    if batch:
        yield batch


async def _compare(file: IO[bytes], store: Backend, checked: Checked, advance: Callable[[int], None]) -> None:
    """Hold the store against the file."""
    if not isinstance(store, Copyable):
        raise TypeError("a store that cannot be read as a whole")
    expected = _rows(file, checked)
    async with store.snapshot() as snapshot:
        async for page in snapshot.pages():
            for row in page:
                if row[0] != RESTORE and row != next(expected, None):
                    raise _meddled()
            advance(len(page))
    if next(expected, None) is not None:
        raise _meddled()


def _meddled() -> Overtaken:
    return Overtaken(
        "somebody else wrote into the store while it was restored; empty it, stop whoever wrote, and begin again"
    )

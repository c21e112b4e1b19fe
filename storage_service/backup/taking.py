"""Write a store, as of one moment, to a backup file."""

from collections.abc import Callable
from typing import IO

from strongroom.models.names import RESTORE
from strongroom.storage_service.backends.base import Snapshot
from strongroom.storage_service.backup.checking import Openers, exported_in
from strongroom.storage_service.backup.form import End, Head, Writer
from strongroom.storage_service.errors import ConfigurationError


async def copy(
    snapshot: Snapshot, head: Head, file: IO[bytes], advance: Callable[[int], None], *, leave_out: str = ""
) -> End:
    """Write all of *snapshot* to *file*, and return the file's end.

    Args:
        snapshot: the moment.
        head: what is said of it first.
        file: where to; it is neither flushed nor closed.
        advance: told how many rows more are done.
        leave_out: what rows' names begin with that nothing reads any more; "": none.

    Raises:
        Invalid: the store has not the recipients that are in the head.
        ConfigurationError: the store is half restored, so that there is nothing whole to copy.
        Unavailable: the store went away.
        OSError: the file cannot be written.
    """
    if await snapshot.get(RESTORE) is not None:
        raise ConfigurationError("the store is half restored: finish that, or copy the backup that it comes from")
    openers = Openers(exported_in(head))
    writer = Writer(file, head)
    async for page in snapshot.pages():
        kept = [row for row in page if not (leave_out and row[0].startswith(leave_out))]
        for name, value in kept:
            openers.see(name, value)
        writer.add(kept)
        advance(len(page))
    openers.end()
    return writer.end()

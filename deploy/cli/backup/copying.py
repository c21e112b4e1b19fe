"""Copying a store, and letting the key index know, so that no key goes that the copy needs."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import IO, TYPE_CHECKING, Any, Final, Protocol

import click

from strongroom.deploy.cli import show
from strongroom.deploy.cli.interruption import Stretch
from strongroom.models.names import MACHINES

if TYPE_CHECKING:
    from strongroom.storage_service.backends.base import Snapshot
    from strongroom.storage_service.backup.form import End
    from strongroom.storage_service.client import StorageClient
    from strongroom.storage_service.config import ServiceSettings

ATTEMPTS: Final = 8  # at finding a moment at which nobody changes the keyring
PAUSE: Final = 0.1  # seconds between them


class Index(Protocol):
    """The key index: what knows which generations of keys a backup needs."""

    async def register(self, label: str) -> None:
        """Let it know a backup, which is about to be made."""

    async def forget(self, label: str) -> None:
        """Let it forget that."""

    async def keyring(self, label: str) -> dict[str, Any] | None:
        """Return the keyring's export; None if a generation has come that is not kept for that backup."""


class Asked:
    """The key index of the running service, which decides on every act and records it."""

    def __init__(self, service: "StorageClient") -> None:
        self._service = service

    async def register(self, label: str) -> None:
        """Let it know."""
        self._service.register_backup(label)

    async def forget(self, label: str) -> None:
        """Let it forget."""
        self._service.forget_backup(label)

    async def keyring(self, label: str) -> dict[str, Any] | None:
        """Return the export, if afterwards all generations are kept.

        No two keyrings have the same token. So if the store has that of the export even later, the list of generations,
        which is read in between, was that of the same keyring.
        """
        exported: dict[str, Any] = json.loads(self._service.export_keyring())
        status = self._service.keyring()
        kept = {generation for each in status.backups if each.label == label for generation in each.generations}
        return (
            exported if kept >= {each.generation for keyset in status.keysets for each in keyset.generations} else None
        )


def moment_of(url: str) -> "AbstractAsyncContextManager[Snapshot]":
    """Return what holds a moment of the store at *url*.

    Raises:
        UsageError: it is of a kind that cannot be copied.
    """
    from strongroom.storage_service.backends import open_backend
    from strongroom.storage_service.backends.base import Copyable

    store = open_backend(url)
    if not isinstance(store, Copyable):
        raise click.UsageError("a store of that kind cannot be copied")
    return store.snapshot()


async def copy(
    settings: "ServiceSettings", index: Index, label: str, out: IO[bytes], stretch: Stretch | None = None
) -> "End":
    """Copy the store of *settings* to *out* as the backup *label*, and finish that where it is a new file.

    *stretch* is told of each record. If that does not come about, the index forgets the label again.

    Raises:
        Exists: the index knows a backup of that label.
        Overtaken: no moment was found.
        OSError: it cannot be written.
        Unavailable, ConfigurationError: the store cannot be read.
    """
    from strongroom.deploy.home import NewFile
    from strongroom.storage_service.errors import StrongroomError

    await _insist(index.register, label)
    try:
        end = await _copy(settings, index, label, out, stretch or Stretch(""))
        out.flush()
        if isinstance(out, NewFile):
            out.finish()
    except BaseException:
        with suppress(StrongroomError):  # what is left there keeps keys, and loses nothing
            await _insist(index.forget, label)
        raise
    return end


async def _insist(change: Callable[[str], Awaitable[None]], label: str) -> None:
    """Change the index, also where somebody else changes the keyring at the same time."""
    from strongroom.storage_service.errors import Overtaken

    for _ in range(ATTEMPTS):
        with suppress(Overtaken):
            return await change(label)
        await asyncio.sleep(PAUSE)
    return await change(label)


async def _copy(settings: "ServiceSettings", index: Index, label: str, out: IO[bytes], stretch: Stretch) -> "End":
    """Copy a moment at which keyring and recipients are those of the export, and all its generations are kept.

    Where the documents of machines lie in a file, rows of theirs are from before that: nothing reads them, and what
    they say may have passed. They are left out; a restore writes those of the export.
    """
    from strongroom.storage_service.backup import taking
    from strongroom.storage_service.backup.checking import Openers
    from strongroom.storage_service.backup.form import Head
    from strongroom.storage_service.errors import Overtaken
    from strongroom.storage_service.keyring.ceremonies.export import read
    from strongroom.storage_service.keyring.ceremonies.offline import now
    from strongroom.storage_service.wire import VERSION

    url, apart = settings.store, settings.machine_documents is not None

    for _ in range(ATTEMPTS):
        keyring = await index.keyring(label)
        if keyring is None:
            await _insist(index.forget, label)
            await _insist(index.register, label)
            continue
        async with moment_of(url) as moment:
            openers = Openers(read(json.dumps(keyring).encode()))
            if await _keyring_of(moment) == keyring["keys"] and await openers.are_in(moment, machines=not apart):
                scheme, taken = url.partition(":")[0], now()
                head = Head(
                    version=VERSION, label=label, taken=taken, store=scheme, revision=moment.revision, keyring=keyring
                )
                with show.progress("copying", moment.count) as advance:
                    return await taking.copy(
                        moment, head, out, stretch.counting(advance), leave_out=MACHINES if apart else ""
                    )
        await asyncio.sleep(PAUSE)
    raise Overtaken(
        "the store does not hold the keyring of the service: say with --store where the service keeps its records; or "
        "others keep changing its keyring"
    )


async def _keyring_of(moment: "Snapshot") -> str | None:
    from strongroom.models.names import KEYRING_DOCUMENT

    value = await moment.get(KEYRING_DOCUMENT)
    return None if value is None else value.decode(errors="replace")

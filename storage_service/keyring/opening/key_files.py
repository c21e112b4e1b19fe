"""The root key file and the next one, as a rotation of the root key uses them: alone, and off the event loop.

At every moment one of the two opens the keyring, if a file is to open it at all: the next one is on disk before any
wrap for it is in the store, and nothing removes or replaces a file that opens the root key in use.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from strongroom.storage_service.backends.base import Backend
from strongroom.storage_service.errors import Invalid, KeyFileMissing, KeyFileUnusable, Overtaken
from strongroom.storage_service.keyring import rootkey
from strongroom.storage_service.keyring.opening import next_file, wraps
from strongroom.storage_service.keyring.opening.unattended import KeyFile, as_recipient
from strongroom.storage_service.keyring.opening.wraps import Wrap
from strongroom.storage_service.keyring.rootkey import RootKey

PATIENCE: Final = 10.0  # seconds to wait while another process is at the files
_PAUSE: Final = 0.01  # seconds between two looks whether it still is

_Answer = TypeVar("_Answer")


class KeyFiles:
    """What a rotation does with the root key file *file*; None: the service has none.

    Every method raises `Invalid` for a file that is missing, unusable or cannot be written; the text says which.
    """

    def __init__(self, file: KeyFile | None, patience: float = PATIENCE) -> None:
        self._file = file
        self._patience = patience

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Let nobody else change the files until the block ends.

        Raises:
            Overtaken: another process is at them, and does not finish.
        """
        if self._file is None:
            yield
            return
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._patience
        try:
            while True:
                with next_file.alone(self._file.path) as free:
                    if free:
                        yield
                        return
                if clock() >= deadline:
                    raise Overtaken("another process is changing the root key file and has not finished")
                await asyncio.sleep(_PAUSE)
        except KeyFileUnusable as error:
            raise Invalid(str(error)) from None

    async def make(self) -> RootKey:
        """Return the key in the file, made if there is none."""
        return await _on_disk(rootkey.make, self._given.path)

    async def kept(self) -> RootKey:
        """Return the key in the file that is there."""
        return await _on_disk(rootkey.read, self._given.path)

    async def make_next(self) -> RootKey:
        """Return the key in a new file beside the one in use, on disk; who calls this is alone."""
        try:
            return await asyncio.to_thread(next_file.make, self._given.path)
        except KeyFileUnusable as error:
            raise Invalid(
                f"{error}; to go on with the file that is there, rotate with --keep-file",
                (("keep_file", "is needed where no file can be made"),),
            ) from None

    async def prepared(self, recipients: Collection[str]) -> RootKey:
        """Return the key, read from the disk, that is for one of *recipients*: the file's own, or that of the next."""
        return await _on_disk(_prepared, self._given, recipients)

    async def take_place(self, key: RootKey) -> None:
        """Put the next file, if it holds *key*, in the place of the one in use; who calls this is alone."""
        await _on_disk(next_file.take_place, self._given.path, key)

    async def settle(self, store: Backend, root: RootKey) -> None:
        """Leave one file, the one for *root*, in its place: do or undo what a rotation that was cut off has left.

        Who calls this is alone, and has seen since that *root* is in use.

        Raises:
            KeyringDamaged, ConfigurationError: a wrap is broken, or of a later version.
            Unavailable: the store does not answer.
        """
        if self._file is not None:
            held = {wrap.recipient: wrap for wrap in await wraps.wraps_of(store, root.kid)}
            await _on_disk(_settle, self._file, held)

    @property
    def _given(self) -> KeyFile:
        if self._file is None:
            raise Invalid("this service has no root key file", (("mode", "needs a root key file"),))
        return self._file


def _settle(file: KeyFile, held: Mapping[str, Wrap]) -> None:
    for path in (file.path, file.next):
        try:
            key = rootkey.read(path)
        except KeyFileMissing:
            continue
        recipient = as_recipient(key)
        if recipient.kid in held:
            wraps.unwrap(held[recipient.kid], recipient).wipe()  # that the store has such a wrap proves nothing
            if path == file.next:
                next_file.take_place(file.path, key)
            break
    next_file.remove(file.path)


def _prepared(file: KeyFile, recipients: Collection[str]) -> RootKey:
    for path in (file.path, file.next):
        try:
            key = rootkey.read(path)
        except KeyFileMissing:
            continue
        if as_recipient(key).kid in recipients:
            return key
    raise KeyFileMissing(f"the root key file that was prepared is not at {file.next} any more; prepare another one")


async def _on_disk(act: Callable[..., _Answer], *arguments: object) -> _Answer:
    try:
        return await asyncio.to_thread(act, *arguments)
    except (KeyFileMissing, KeyFileUnusable) as error:
        raise Invalid(str(error)) from None

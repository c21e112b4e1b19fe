"""Which keyring this home has seen, and how far: an older one is authentic, and refused all the same.

Whoever can write the store can put an older keyring document back. It opens, for a holder of the root key wrote it; and
with it a generation comes back that was rotated away because it leaked, one that was retired, a number that was given
out already. So every document bears the name of its keyring and an edition that grows with each change, and what was
seen of them last is kept where who writes the store does not come: in the shared root that all workers of a service
share, and in a file of the home, for its next start.

    keyring.seen   {"keyring":"<its name>","edition":1764489600000,"digest":"<SHA-256 of the document as stored, hex>"}

The first keyring that a home sees is taken on trust. If an older one is right all the same (a store was put back from a
copy) a person says so, by removing the file and starting the service anew.
"""

import asyncio
import hashlib
import logging
import struct
from pathlib import Path
from typing import Final, NamedTuple, Self

import msgspec

from strongroom.models.strict_json import UNREADABLE
from strongroom.storage_service.errors import KeyFileMissing, KeyFileUnusable, KeyringOutdated
from strongroom.storage_service.files import replace_private
from strongroom.storage_service.keyring.shared_root import MARK_SIZE, SharedRoot
from strongroom.storage_service.private_file import PrivateFile

_FILE: Final = PrivateFile("record of the keyring that was seen last", "it is to be removed", of_services=True)
_MAX: Final = 1024  # bytes
_PACKED: Final = struct.Struct("@16sQ32s")
_NOTHING: Final = bytes(MARK_SIZE)

log: Final = logging.getLogger(__name__)


class Mark(NamedTuple):
    """One document: the name of its keyring, its edition, and the hash of it as it was stored."""

    keyring: bytes
    edition: int
    digest: bytes

    @classmethod
    def of(cls, keyring: str, edition: int, token: bytes) -> Self:
        """Return the mark of a document."""
        return cls(bytes.fromhex(keyring), edition, hashlib.sha256(token).digest())

    def replaces(self, other: "Mark | None") -> bool:
        """Whether this is to be remembered in the place of *other*."""
        return other is None or self.keyring != other.keyring or self.edition > other.edition


class _Kept(msgspec.Struct, forbid_unknown_fields=True):
    """What the file holds."""

    keyring: str
    edition: int
    digest: str


class Seen:
    """What the workers of one service have seen, and their home before them.

    Args:
        shared: what the workers share.
        file: where it is kept for the next start; None: nowhere.
    """

    def __init__(self, shared: SharedRoot, file: Path | None = None) -> None:
        self._shared = shared
        self._file = file

    @property
    def last(self) -> Mark | None:
        """What was seen last."""
        packed = self._shared.mark
        return None if packed == _NOTHING else Mark(*_PACKED.unpack(packed))

    async def load(self) -> None:
        """Take what the file says for seen, unless the workers have seen something by themselves.

        Raises:
            KeyFileUnusable: it cannot be read, or is open to others.
        """
        if self._file is not None and self.last is None:
            kept = await asyncio.to_thread(self._read, self._file)
            if kept is not None:
                self._shared.put_mark(_NOTHING, _PACKED.pack(*kept))

    def check(self, keyring: str, edition: int, token: bytes) -> None:
        """Accept a document that takes the place of what was seen last, or is that.

        Raises:
            KeyringOutdated: it is older, or another of the same edition, or one of another keyring.
        """
        last, mark = self.last, Mark.of(keyring, edition, token)
        if last is None or mark == last:
            return
        if mark.keyring == last.keyring and mark.edition <= last.edition:
            fault = f"is older than the one that was seen here last (edition {edition} after {last.edition})"
        elif mark.keyring != last.keyring:
            fault = "is not the one that was seen here last"
        else:
            return
        raise KeyringOutdated(
            f"the keyring in the store {fault}: somebody may have put an old one there, with keys that were given up. "
            + self.advice
        )

    async def note(self, keyring: str, edition: int, token: bytes) -> None:
        """Remember a document that was accepted or just written, and that it cannot be kept in the file if so."""
        mark = Mark.of(keyring, edition, token)
        while mark.replaces(last := self.last):
            if self._shared.put_mark(_NOTHING if last is None else _PACKED.pack(*last), _PACKED.pack(*mark)):
                await self._keep()
                return

    async def forget(self) -> None:
        """Take the next document on trust."""
        self._shared.put_mark(self._shared.mark, _NOTHING)
        if self._file is not None:
            await asyncio.to_thread(self._file.unlink, missing_ok=True)

    @property
    def advice(self) -> str:
        """What a person does who knows better."""
        accept = "start the service anew" if self._file is None else f"remove {self._file} and start the service anew"
        return f"If it is right, because the store was put back from a copy, {accept}"

    async def _keep(self) -> None:
        if self._file is not None:
            try:
                await asyncio.to_thread(self._write, self._file)
            except OSError as error:  # the workers know it still
                why = error.strerror
                log.warning("%s is not written, and the next start cannot tell an old keyring: %s", self._file, why)

    def _read(self, path: Path) -> Mark | None:
        try:
            kept = msgspec.json.decode(_FILE.read(path, _MAX), type=_Kept)
            mark = Mark(bytes.fromhex(kept.keyring), kept.edition, bytes.fromhex(kept.digest))
            if _PACKED.unpack(_PACKED.pack(*mark)) == mark:
                return mark
        except KeyFileMissing:
            return None
        except (*UNREADABLE, struct.error):
            pass
        raise KeyFileUnusable(
            f"{path} does not say which keyring was seen here last; put it back, or, to take the one in the store on "
            "trust, remove it"
        )

    def _write(self, path: Path) -> None:
        """Bring what was seen last to the disk, whole or not at all.

        Several may write at once, none of them behind a lock: who has the directory's may wait for this very act. So
        each looks again, and whoever wrote what is no longer the latest writes once more.
        """
        while (last := self.last) is not None:
            self._replace(path, last)
            if self.last == last:
                return

    def _replace(self, path: Path, mark: Mark) -> None:
        kept = _Kept(mark.keyring.hex(), mark.edition, mark.digest.hex())
        replace_private(path, msgspec.json.encode(kept), for_service=True)

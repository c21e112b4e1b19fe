"""Check a backup file: what it holds, and whether all of it opens; nothing is written anywhere."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from strongroom.models.names import KEYRING_DOCUMENT, MACHINES, RESTORE, SYSTEM, WRAPS
from strongroom.storage_service.backends.base import Snapshot
from strongroom.storage_service.backup.form import End, Head, Reader
from strongroom.storage_service.errors import InUse, Invalid, StrongroomError, Undecipherable
from strongroom.storage_service.jose import jwe
from strongroom.storage_service.keyring.ceremonies import export
from strongroom.storage_service.keyring.ceremonies.export import Exported
from strongroom.storage_service.keyring.machines.document import MachineDocument
from strongroom.storage_service.keyring.opening import wraps
from strongroom.storage_service.keyring.ring import Ring
from strongroom.storage_service.keyring.rootkey import RootKey
from strongroom.storage_service.keyring.usage import index

NAMED: Final = 20  # records that a refusal names; it counts them all
STEP: Final = 256  # rows between two words to who looks on


@dataclass(slots=True)
class Checked:
    """A file that was read to its end, and is whole."""

    head: Head
    end: End
    keyring: bytes  # the keyring document, as the store has it
    by_place: Mapping[str, int]  # how many rows are under each first segment
    unreadable: list[str] = field(default_factory=list)  # sealed records that do not open, some of them
    opened: int = 0  # sealed records that do
    strangers: int = 0  # sealed records that do not, all of them


class Openers:
    """Holds the rows of recipients against those in the keyring's export: who opens the one must open the other.

    The wraps below the root key in use are those of the export, each and no more. A machine's document is as in the
    export where the rows have one. Where they have none, documents lie outside the store, or were taken out, and a
    restore writes that of the export.
    """

    def __init__(self, exported: Exported) -> None:
        """Take the export; no row was seen yet."""
        self._root = exported.root
        self._prefix = f"{WRAPS}{exported.root}/"
        self._wraps = {each.name: each for each in exported.wraps}
        self._machines = {MACHINES + each.fingerprint: each for each in exported.machines}
        self._missing = set(self._wraps)

    async def are_in(self, moment: Snapshot, *, machines: bool = True) -> bool:
        """Whether *moment* has them, the *machines* too; rows that it has beyond them are not looked for."""
        for name in self._wraps:
            value = await moment.get(name)
            if value is None or not self._fits(name, value):
                return False
        for name in self._machines if machines else ():
            value = await moment.get(name)
            if value is not None and not self._fits(name, value):
                return False
        return True

    def see(self, name: str, value: bytes) -> None:
        """Take the next row, of whatever kind.

        Raises:
            Invalid: it is of a recipient, and not as in the export.
        """
        if (name.startswith(self._prefix) or name in self._machines) and not self._fits(name, value):
            raise _not_of_one_moment()
        self._missing.discard(name)

    def end(self) -> None:
        """Take that there are no more rows.

        Raises:
            Invalid: a wrap is missing.
        """
        if self._missing:
            raise _not_of_one_moment()

    def _fits(self, name: str, value: bytes) -> bool:
        try:
            if name in self._machines:
                own = self._machines[name]
                return export.only_of(MachineDocument.decode(value, own.fingerprint), self._root) == own
            return wraps.decode(name, value) == self._wraps.get(name)
        except StrongroomError:  # damaged, or of a later version: the export has what is neither
            return False


def exported_in(head: Head) -> Exported:
    """Return the keyring's export in the head of a file.

    Raises:
        Invalid: it is damaged.
        ConfigurationError: a later version of this program wrote it.
    """
    return export.read(msgspec.json.encode(head.keyring))


def check(reader: Reader, advance: Callable[[int], None], root: RootKey | None = None) -> Checked:
    """Return what is in the file of *reader*, whose rows were not read yet.

    Args:
        reader: of the file.
        advance: told how many rows more are done.
        root: the root key of its keyring; with it, every sealed record is opened. None: nothing is.

    Raises:
        Invalid: it is damaged, or its rows and its keyring do not belong together.
        WrongRootKey, KeyringDamaged, ConfigurationError: as `export.prove`.
    """
    exported = exported_in(reader.head)
    ring = None if root is None else export.prove(exported, root).ring()
    try:
        return _read(reader, exported, ring, advance)
    finally:
        if ring is not None:
            ring.wipe()


def refuse_unreadable(checked: Checked) -> None:
    """Refuse a file in which a sealed record does not open.

    Raises:
        InUse: one does not; names some.
    """
    if checked.strangers:
        raise InUse(
            f"{checked.strangers} records of the backup do not open with its keyring", tuple(checked.unreadable)
        )


def _read(reader: Reader, exported: Exported, ring: Ring | None, advance: Callable[[int], None]) -> Checked:
    places: Counter[str] = Counter()
    keyring = b""
    found = Checked(reader.head, End(rows=0, head="", body=""), b"", places)
    openers = Openers(exported)
    count = 0
    for count, (name, value) in enumerate(reader.rows(), 1):
        places[_place(name)] += 1
        openers.see(name, value)
        if name == KEYRING_DOCUMENT:
            keyring = value
        elif name == RESTORE:
            raise Invalid("the backup is of a store that was half restored")
        elif ring is not None and index.is_counted(name):
            _open(found, ring, name, value)
        if count % STEP == 0:
            advance(STEP)
    advance(count % STEP)
    if keyring != exported.keys:
        raise _not_of_one_moment()
    openers.end()
    assert reader.end is not None  # noqa: S101  # its rows came to their end
    found.end, found.keyring = reader.end, keyring
    return found


def _not_of_one_moment() -> Invalid:
    return Invalid("the backup is damaged or was changed: its rows and its keyring are not of one moment")


def _place(name: str) -> str:
    parts = name.split("/", 2)
    return "/".join(parts[:2] if name.startswith(SYSTEM) else parts[:1])


def _open(found: Checked, ring: Ring, name: str, value: bytes) -> None:
    try:
        jwe.decrypt(ring.at(name), name, value)
    except Undecipherable:
        found.strangers += 1
        if len(found.unreadable) < NAMED:
            found.unreadable.append(name)
    else:
        found.opened += 1

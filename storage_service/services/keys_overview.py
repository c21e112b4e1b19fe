"""What can be told of the keyring without showing a key: its state, who can open it, and what is under way with it."""

import time
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from strongroom.models.steps import Step
from strongroom.storage_service.backends.base import Backend
from strongroom.storage_service.errors import Behind, KeyringDamaged, Overtaken, StartupError
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.ceremonies.recipients import Mode
from strongroom.storage_service.keyring.document import PROTECTED, Document
from strongroom.storage_service.keyring.holder import Holder
from strongroom.storage_service.keyring.machines.document import MachineDocument
from strongroom.storage_service.keyring.machines.stored import MachineDocuments
from strongroom.storage_service.keyring.opening import wraps
from strongroom.storage_service.keyring.shared_root import State as SharedState
from strongroom.storage_service.keyring.usage import index, sweep

MAX_NAMED: Final = 20  # records that one answer names
COUNTED_EVERY: Final = 300.0  # seconds

State: TypeAlias = Literal["uninitialized", "locked", "unlocked", "rotating", "behind", "fatal"]

_STATES: Final[dict[SharedState, State]] = {
    SharedState.FRESH: "locked",
    SharedState.UNINITIALIZED: "uninitialized",
    SharedState.LOCKED: "locked",
    SharedState.UNLOCKED: "unlocked",
    SharedState.HALTED: "fatal",
}


@dataclass(slots=True, kw_only=True)
class Recipient:
    """Somebody who can open the keyring; nothing here is secret."""

    kind: str  # "file" | "unlock" | "shares" | "machine"
    id: str
    created: str
    needed: int | None = None  # of shares
    total: int | None = None
    name: str | None = None  # of a machine


@dataclass(slots=True, kw_only=True)
class Generation:
    """One generation of a keyset, and how many records the index counts under it."""

    generation: str
    created: str
    keys: int
    active: bool
    records: int


@dataclass(slots=True, kw_only=True)
class Keyset:
    """A keyset and its generations, oldest first."""

    name: str
    active: str
    keys: int
    reverting: bool
    protected: bool
    generations: list[Generation]


@dataclass(slots=True, kw_only=True)
class Place:
    """The keyset of the records under a prefix, and those *before* it that records there may still be under."""

    prefix: str
    keyset: str
    before: list[str]


@dataclass(slots=True, kw_only=True)
class Backup:
    """A registered copy of the store, and the generations without which it cannot be read."""

    label: str
    taken: str
    generations: list[str]


@dataclass(slots=True, kw_only=True)
class Halt:
    """Why secrets are not written for now."""

    keyset: str
    since: str
    reason: str


@dataclass(slots=True, kw_only=True)
class Pending:
    """Something that was begun, or is due, and what goes on with it."""

    what: str
    next: list[Step]
    keyset: str | None = None
    root: str | None = None
    records: int | None = None
    recipients: list[Recipient] = field(default_factory=list)  # of a root key that was prepared


@dataclass(slots=True, kw_only=True)
class Overview:
    """All that can be told of the keyring; while the service is locked, only what can be told without keys."""

    state: State
    wrong_keys: int  # since the last right one
    wait: float  # seconds until another may be tried
    root: str | None = None
    recipients: list[Recipient] = field(default_factory=list)
    keysets: list[Keyset] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    backups: list[Backup] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)
    halted: Halt | None = None
    counted: bool | None = None  # whether the index is known to be complete
    proposed: Mode | None = None  # while there is no keyring: who is to open it, going by what the service was given


@dataclass(slots=True, kw_only=True)
class Vitals:
    """The keyring in numbers and moments (RFC 3339), without a name."""

    keysets: int
    generations: int
    active: list[str]  # when the generations in use were made
    wraps: list[str]  # when what opens the root key was
    backups: list[str]  # when the registered backups were taken
    pending: bool
    records: int  # encrypted under the active generation of their keyset
    records_of_older: int


class Counting:
    """Counts records seldom, for that takes a look at each row of the index."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._again = 0.0
        self._records: Mapping[str, int] = {}

    async def vitals(self, store: Backend, holder: Holder, machines: MachineDocuments) -> Vitals:
        """Return what can be told in numbers; how many records there are, as of `COUNTED_EVERY` ago at most.

        Raises:
            StrongroomError: the keyring cannot be read now.
        """
        document, root = await read(store, holder)
        active = {f"{name}.{keyset.active}" for name, keyset in document.keysets.items()}
        if self._clock() >= self._again:
            self._again = self._clock() + COUNTED_EVERY
            self._records = await index.count(store, document.generations)
        return Vitals(
            keysets=len(document.keysets),
            generations=len(document.generations),
            active=[
                generation.created
                for keyset in document.keysets.values()
                for generation in keyset.generations
                if generation.number == keyset.active
            ],
            wraps=[each.created for each in await recipients(store, machines, root)],
            backups=[each.taken for each in document.backups.values()],
            pending=await is_under_way(store, document),
            records=sum(count for generation, count in self._records.items() if generation in active),
            records_of_older=sum(count for generation, count in self._records.items() if generation not in active),
        )


def state_of(holder: Holder) -> State:
    """Return the state as this worker knows it, at no cost; what is under way is not looked for."""
    if holder.behind:
        return "behind"
    ring = holder.current
    return "fatal" if ring is not None and ring.halted else _STATES[holder.state]


async def read(store: Backend, holder: Holder) -> tuple[Document, str]:
    """Return the keyring document, and the kid of the root key that it is under.

    Raises:
        Locked, Uninitialized: there is no key to open it with.
        StartupError: it does not open.
        Unavailable: the store does not answer.
    """
    async with holder.root() as root:
        try:
            document, _ = await stored.current(store, root)
        except Overtaken:
            raise KeyringDamaged("the keyring is gone from the store; restore it from a backup") from None
        return document, root.kid


async def tell(store: Backend, holder: Holder, machines: MachineDocuments) -> Overview:
    """Return all that can be told now: while the service is locked, what needs no key.

    Raises:
        StartupError: the keyring, or a wrap, is damaged or of a later version.
        Unavailable: the store does not answer.
    """
    with suppress(Behind):
        await holder.look()
    said = Overview(state=state_of(holder), wrong_keys=holder.wrong_keys, wait=holder.wait)
    if said.state in ("uninitialized", "locked", "behind"):
        sealed = await stored.read(store)
        if sealed is not None:
            said.root, said.recipients = sealed.root, await recipients(store, machines, sealed.root)
        return said
    document, said.root = await read(store, holder)
    said.state = state_of(holder)  # what it says may have come since this worker last looked
    said.recipients = await recipients(store, machines, said.root)
    said.keysets = await keysets(store, document)
    said.places = [
        Place(prefix=prefix, keyset=each.keyset, before=list(each.before)) for prefix, each in document.places.items()
    ]
    said.backups = backups(document)
    said.pending = await pending(store, machines, document)
    if document.halted is not None:
        halt = document.halted
        said.halted = Halt(keyset=halt.keyset, since=halt.since, reason=halt.reason)
    said.counted = document.counted
    if said.state == "unlocked" and said.pending:
        said.state = "rotating"
    return said


async def recipients(store: Backend, machines: MachineDocuments, root: str) -> list[Recipient]:
    """Return who can open the root key with the kid *root*, as the store says.

    Raises:
        StartupError: a wrap is damaged or of a later version; a machine's document, which only that machine needs,
            is left out then.
        Unavailable: the store does not answer.
    """
    found = [
        Recipient(kind=wrap.kind, id=wrap.id, created=wrap.created, needed=wrap.threshold, total=wrap.total)
        for wrap in await wraps.wraps_of(store, root)
    ]
    for fingerprint, entry in (await machines.get_all()).items():
        try:
            machine = MachineDocument.decode(entry.value, fingerprint)
        except StartupError:
            continue
        if root in machine.keys:
            found.append(Recipient(kind="machine", id=fingerprint, created=machine.created(), name=machine.name))
    return found


async def keysets(store: Backend, document: Document) -> list[Keyset]:
    """Return all keysets, and by the index how many records are under each of their generations.

    Raises:
        Unavailable: the store does not answer.
    """
    records = await index.count(store, document.generations)
    return [
        Keyset(
            name=name,
            active=f"{name}.{keyset.active}",
            keys=keyset.keys,
            reverting=keyset.reverting,
            protected=name in PROTECTED,
            generations=[
                Generation(
                    generation=f"{name}.{generation.number}",
                    created=generation.created,
                    keys=len(generation.keys),
                    active=generation.number == keyset.active,
                    records=records[f"{name}.{generation.number}"],
                )
                for generation in keyset.generations
            ],
        )
        for name, keyset in sorted(document.keysets.items())
    ]


def backups(document: Document) -> list[Backup]:
    """Return the registered backups."""
    return [
        Backup(label=label, taken=each.taken, generations=list(each.generations))
        for label, each in document.backups.items()
    ]


async def pending(store: Backend, machines: MachineDocuments, document: Document) -> list[Pending]:
    """Return what was begun and not finished, or is due, each with the step that goes on with it.

    Raises:
        StartupError: as `recipients`.
        Unavailable: the store does not answer.
    """
    due: list[Pending] = []
    if document.halted is not None:
        name = document.halted.keyset
        step = Step("secrets are not written until it is done", "key reencrypt", {"keyset": name, "resume": True})
        due.append(Pending(what="resume", keyset=name, next=[step]))
    for name in sorted(document.keysets):
        records = await _count(store, document, name)
        if records or _is_unsettled(document, name):
            what = "revert" if document.keysets[name].reverting else "re-encrypt"
            step = Step("records are under other generations than the active one", "key reencrypt", {"keyset": name})
            due.append(Pending(what=what, keyset=name, records=records, next=[step]))
    if not document.counted:
        step = Step("not all records are counted yet", "key usage", {"scan": True, "repair": True})
        due.append(Pending(what="count records", next=[step]))
    if document.pending is not None:
        root = document.pending.root
        step = Step("a new root key is prepared", "key rotate root", {"confirm": root})
        due.append(Pending(what="confirm", root=root, next=[step], recipients=await recipients(store, machines, root)))
    return due


async def is_under_way(store: Backend, document: Document) -> bool:
    """Whether anything is: what `pending` tells, without counting.

    Raises:
        Unavailable: the store does not answer.
    """
    if document.halted is not None or not document.counted or document.pending is not None:
        return True
    for name in document.keysets:
        if _is_unsettled(document, name) or await names_left(store, document, name, 1):
            return True
    return False


async def names_left(store: Backend, document: Document, name: str, limit: int = MAX_NAMED) -> tuple[str, ...]:
    """Return up to *limit* records to be moved to the active generation of keyset *name*: ``default.2: secrets/a``.

    Raises:
        Unavailable: the store does not answer.
    """
    found: list[tuple[str, str]] = []
    async with aclosing(sweep.due(store, document, name)) as pages:
        async for rows in pages:
            found += rows
            if len(found) >= limit:
                break
    return tuple(f"{generation}: {record}" for generation, record in found[:limit])


async def _count(store: Backend, document: Document, name: str) -> int:
    return sum([len(rows) async for rows in sweep.due(store, document, name)])


def _is_unsettled(document: Document, name: str) -> bool:
    """Whether the document says that records of keyset *name* are on their way."""
    assigned = any(place.before for place in document.places.values() if place.keyset == name)
    return document.keysets[name].reverting or assigned

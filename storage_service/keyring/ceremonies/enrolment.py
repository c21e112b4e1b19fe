"""What machines do about machines: the first one, those that it authorizes, and their end; directly on the store.

    initialize   this machine becomes the first authorizer, of a new keyring or of one that people or a file open
    authorize    another machine may open the keyring, and perhaps authorize others, too
    revoke       a machine's document is removed
    listed       every row, whatever is wrong with it
    verify       what this machine's own key opens

Each is recorded before it is done, and not done where it cannot be. A document that comes or goes does so in one
commit with the keyring's own, which is written anew as it is: so the epoch grows, and of a rotation of the root key
and all of these, at one moment, one wins and the others are told. Documents in a file of their own cannot share a
commit, and lie in order instead; a process that is killed between the two writes leaves

    initialize, authorize   the file first. The machine is authorized. A rotation that had read the file before may
                            leave it without the new root key; then it is revoked and authorized again.
    initialize              of a new keyring: a document of a root key that never was; the next one replaces it.
    revoke                  the file last. Nobody is revoked yet.

Authorizing takes the root key, and a flag that says so. Revoking takes neither: whoever can write the store can remove
a row by any means, and when the machine that was stolen is the only authorizer, this must still be possible.
"""

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from strongroom.models.names import KEYRING_DOCUMENT, MACHINES
from strongroom.models.steps import Step
from strongroom.storage_service.access.base import Action
from strongroom.storage_service.backends.base import ABSENT, Backend, Change, Conflict, Entry, Put
from strongroom.storage_service.errors import (
    Denied,
    Exists,
    Fate,
    InUse,
    Overtaken,
    StrongroomError,
    Unavailable,
    Uninitialized,
    WrongKey,
)
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.ceremonies import rotation
from strongroom.storage_service.keyring.ceremonies.recipients import Recipients
from strongroom.storage_service.keyring.machines import document as machines
from strongroom.storage_service.keyring.machines import endorsement
from strongroom.storage_service.keyring.machines import wraps as machine_wraps
from strongroom.storage_service.keyring.machines.document import FlagTampered, MachineDocument, Row
from strongroom.storage_service.keyring.machines.endorsement import PinnedRoots
from strongroom.storage_service.keyring.machines.key import MachineKey
from strongroom.storage_service.keyring.machines.stored import MachineDocuments, StoredDocuments
from strongroom.storage_service.keyring.opening import wraps
from strongroom.storage_service.keyring.rootkey import RootKey
from strongroom.storage_service.keyring.seen import Seen
from strongroom.storage_service.keyring.stored import Sealed

UNAUTHORIZED: Final = "this machine is not authorized: carry its public key to an authorizer"

_FINGERPRINT: Final = re.compile(rf"[0-9a-f]{{{machines.SHORT},64}}", re.ASCII)  # or its beginning

Record = Callable[[str, Action, str, str], Awaitable[None]]
"""Writes down who does what to which name, and whether that is ``allowed`` or ``denied``; or raises: it is not done."""

Opener = Callable[[Sealed], Awaitable[RootKey]]
"""Opens the keyring by another way than a machine's key, or raises."""


class Listing(NamedTuple):
    """All machines, by name.

    *why* says why this machine's own key opens nothing, "" if it does; *next* what can be done about that.
    """

    rows: tuple[Row, ...]
    why: str
    next: tuple[Step, ...] = ()


class Verified(NamedTuple):
    """What this machine's own key opens, and may do."""

    fingerprint: str
    name: str
    root: str  # kid of the root key
    authorizer: bool


@dataclass(frozen=True, slots=True)
class _Opened:
    """The keyring, opened by this machine's own key."""

    sealed: Sealed
    root: RootKey
    own: MachineDocument


class Enrolment:
    """What one machine does about itself and others.

    Args:
        store: the bare store, opened. Untrusted, as are the documents.
        documents: where the documents of machines lie.
        key: this machine's key.
        record: writes the audit log.
        clock: seconds since 1970-01-01, UTC.
        knows: what this machine knows of root keys, by which it tells its keyring from another; None: nothing.
        seen: which keyring this home has seen; None: none.

    Every method raises Unavailable, with its fate, where store or documents cannot be reached, what *record* raises,
    and KeyringDamaged or ConfigurationError where the keyring is broken or of a later version.
    """

    def __init__(
        self,
        store: Backend,
        documents: MachineDocuments,
        key: MachineKey,
        record: Record,
        clock: Callable[[], float] = time.time,
        *,
        knows: PinnedRoots | None = None,
        seen: Seen | None = None,
    ) -> None:
        self._store = store
        self._documents = documents
        self._key = key
        self._record = record
        self._clock = clock
        self._knows = knows
        self._seen = seen

    async def initialize(self, name: str, otherwise: Opener) -> MachineDocument:
        """Make this machine the first authorizer, and the store's first keyring if it has none; return its document.

        Args:
            name: what people are to call it.
            otherwise: opens a keyring that the store has already.

        Raises:
            Exists: there are machines, or others make the first keyring at this moment.
            Invalid: the name is invalid.
            Overtaken: somebody else changed the keyring meanwhile; nothing was done.
            and whatever *otherwise* raises.
        """
        document = self._new(name, self._key.public_jwk())
        # Before the machines: one that comes after this shows in the epoch.
        sealed = await stored.read(self._store)
        rows = await self._documents.get_all()
        if rows and not self._is_left_over(rows, sealed):
            raise Exists("already initialized").advising(Step("to see existing keys", "machine list"))
        who, what = f"machine:{name}", MACHINES + self._key.fingerprint
        if sealed is None:
            await self._record(who, Action.PUT, what, "allowed")
            await rotation.initialize(
                self._store,
                Recipients("machine"),
                None,
                machines=self._documents,
                machine=document,
                seen=self._seen,
            )
            return document
        root = await otherwise(sealed)
        root.seen = self._seen
        try:
            stored.open_document(sealed, root)
            await self._record(who, Action.PUT, what, "allowed")
            expected = rows[self._key.fingerprint].revision if rows else ABSENT
            return await self._add(sealed, document.with_root(root, allowed=True), expected)
        finally:
            root.wipe()

    async def authorize(self, public: Mapping[str, str], name: str, *, allowed: bool) -> MachineDocument:
        """Let another machine open the keyring; return its document.

        Args:
            public: the members of its public key's JWK. That they are that machine's is for people to see to.
            name: what people are to call it.
            allowed: whether it may authorize others.

        Raises:
            Denied: this machine may not.
            FlagTampered: whether it may cannot be told.
            WrongKey: this machine's key opens nothing here.
            Exists: a machine has that name, or that key.
            Invalid: the name or the key is invalid.
            Overtaken: somebody else changed the keyring meanwhile; nothing was done.
            Uninitialized: there is no keyring.
        """
        document = self._new(name, public)
        what = MACHINES + document.fingerprint
        async with self._opened() as mine:
            who = f"machine:{mine.own.name}"
            try:
                may = mine.own.allowed(mine.root)
            except FlagTampered:
                await self._record(who, Action.PUT, what, "denied")
                raise
            if not may:
                await self._record(who, Action.PUT, what, "denied")
                raise Denied("this machine is not an authorizer")
            _refuse_known(await self._documents.get_all(), document)
            await self._record(who, Action.PUT, what, "allowed")
            return await self._add(mine.sealed, document.with_root(mine.root, allowed), ABSENT)

    async def revoke(self, wanted: str, agree: Callable[[Row], object] = bool, *, force: bool = False) -> Row:
        """Remove a machine's document; return its row.

        The machine cannot open the keyring any more. This rotates nothing: the root key, once opened, it may have kept.

        Args:
            wanted: its name, or the beginning of its fingerprint.
            agree: is told which machine it is, before anything is done; may raise.
            force: also if then nothing is left that opens the keyring.

        Raises:
            Invalid: *wanted* is empty, or more than one machine is meant.
            NotFound: none is.
            InUse: it is the last way into the keyring.
            Overtaken: somebody else changed the keyring meanwhile; nothing was done.
            and whatever *agree* raises.
        """
        sealed = await stored.read(self._store)
        entries = await self._documents.get_all()
        row = machines.find([machines.listed(entry.value, None, each) for each, entry in entries.items()], wanted)
        if sealed is not None and not force:
            await self._refuse_last(sealed.root, entries, row.fingerprint)
        agree(row)
        await self._record(await self._principal(), Action.DELETE, MACHINES + row.fingerprint, "allowed")
        epoch: list[Change] = [] if sealed is None else [_anew(sealed)]
        if isinstance(self._documents, StoredDocuments):
            await self._commit([*epoch, self._documents.removal(row.fingerprint, entries[row.fingerprint].revision)])
            return row
        if epoch:
            await self._commit(epoch)
        await self._documents.delete(row.fingerprint)
        return row

    async def listed(self) -> Listing:
        """Return all machines; what cannot be told of one hides no other."""
        await self._record(await self._principal(), Action.LIST, MACHINES, "allowed")
        try:
            async with self._opened() as mine:
                return Listing(await self._rows(mine.root), "")
        except Unavailable:
            raise
        except StrongroomError as error:
            return Listing(await self._rows(None), str(error), error.next)

    async def verify(self) -> Verified:
        """Open the keyring by this machine's own key, and tell what that gave.

        Raises:
            WrongKey: it opens nothing here.
            FlagTampered: it opens the root key, but whether it may authorize others cannot be told.
            Uninitialized: there is no keyring.
        """
        fingerprint = self._key.fingerprint
        await self._record(await self._principal(), Action.GET, MACHINES + fingerprint, "allowed")
        async with self._opened() as mine:
            return Verified(fingerprint, mine.own.name, mine.root.kid, mine.own.allowed(mine.root))

    def _new(self, name: str, public: Mapping[str, str]) -> MachineDocument:
        return MachineDocument.new(name, public, int(self._clock()))

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[_Opened]:
        """Give the keyring, opened by this machine's own key, and wipe the root key afterwards."""
        sealed = await stored.read(self._store)
        if sealed is None:
            raise Uninitialized("there is no keyring").advising(Step("make one", "machine init"))
        entry = await self._documents.get(self._key.fingerprint)
        if entry is None:
            raise WrongKey(UNAUTHORIZED).advising(Step("and have it let in there", "machine authorize"))
        own = MachineDocument.decode(entry.value, self._key.fingerprint)
        root = own.opened_by(self._key, sealed.root)
        root.seen = self._seen
        try:
            stored.open_document(sealed, root)
            if self._knows is not None:
                await endorsement.accept(self._store, self._knows, root)
            yield _Opened(sealed, root, own)
        finally:
            root.wipe()

    async def _principal(self) -> str:
        """Return who this machine is in the audit log: its name, or, where it has none yet, its fingerprint."""
        fingerprint = self._key.fingerprint
        entry = await self._documents.get(fingerprint)
        if entry is not None:
            name = machines.listed(entry.value, None, fingerprint).name
            if machines.is_name(name):
                return f"machine:{name}"
        return f"machine:{fingerprint[: machines.SHORT]}"

    async def _rows(self, root: RootKey | None) -> tuple[Row, ...]:
        entries = await self._documents.get_all()
        rows = [machines.listed(entry.value, root, fingerprint) for fingerprint, entry in entries.items()]
        return tuple(sorted(rows, key=lambda row: (row.name, row.fingerprint)))

    def _is_left_over(self, rows: Mapping[str, Entry], sealed: Sealed | None) -> bool:
        """Whether the only document is one of this machine for another root key: what a killed `initialize` leaves."""
        entry = rows.get(self._key.fingerprint)
        if entry is None or len(rows) > 1:
            return False
        root = None if sealed is None else sealed.root
        return not _opens(entry, self._key.fingerprint, root)

    async def _refuse_last(self, root: str, entries: Mapping[str, Entry], fingerprint: str) -> None:
        """Refuse to remove what alone opens the keyring; that a wrap is there is taken for a way in."""
        ways = {each for each, entry in entries.items() if _opens(entry, each, root)}
        if ways == {fingerprint} and not await wraps.wraps_of(self._store, root):
            raise InUse(
                "that machine's key is the last way into the keyring: authorize another machine, or rotate the root "
                "key to people or a file; with --force every secret is lost for good",
                ("the keyring",),
            )

    async def _add(self, sealed: Sealed, document: MachineDocument, expected: int) -> MachineDocument:
        """Write *document*, and let the epoch grow with it."""
        changes = await machine_wraps.save(self._documents, [(document, expected)])
        try:
            await self._commit([_anew(sealed), *changes])
        except (Overtaken, Unavailable):
            if not changes:
                await self._take_back(document)
            raise
        return document

    async def _take_back(self, document: MachineDocument) -> None:
        """Remove from a file what is not to be there, for the keyring could not be told of it."""
        try:
            await self._documents.delete(document.fingerprint)
        except Unavailable as error:
            raise Unavailable(str(error), Fate.UNKNOWN) from None

    async def _commit(self, changes: list[Change]) -> None:
        try:
            await self._store.commit(changes)
        except Conflict:
            raise Overtaken("somebody else changed the keyring or its machines meanwhile; nothing was done") from None


def unexpected(rows: Sequence[Row], expected: Collection[str]) -> list[Row]:
    """Return those of *rows* that are authorizers, or may be, and are not *expected*.

    Args:
        rows: all machines.
        expected: fingerprints, or at least the beginning that is shown; or names, which nothing proves, so that a name
            stands for none of those who share it.
    """
    names = [row.name for row in rows]
    prefixes = tuple(each for each in map(str.lower, expected) if _FINGERPRINT.fullmatch(each))
    return [
        row
        for row in rows
        if row.authority != "No"
        and not row.fingerprint.startswith(prefixes)
        and not (row.name in expected and names.count(row.name) == 1)
    ]


def _anew(sealed: Sealed) -> Put:
    """Return the change that writes the keyring as it is: the epoch grows, and no key is needed for it."""
    return Put(KEYRING_DOCUMENT, sealed.token, sealed.revision)


def _opens(entry: Entry, fingerprint: str, root: str | None) -> bool:
    """Whether a document has a wrap of that root key; it may open or not."""
    with suppress(StrongroomError):
        return root in MachineDocument.decode(entry.value, fingerprint).keys
    return False


def _refuse_known(entries: Mapping[str, Entry], document: MachineDocument) -> None:
    """Refuse a second document of one key, or one name."""
    if document.fingerprint in entries:
        raise Exists("a machine with that key is there already; to authorize it anew, revoke it first")
    known = {machines.listed(entry.value, None, each).name for each, entry in entries.items()}
    if document.name in known:
        raise Exists("a machine of that name is there already")

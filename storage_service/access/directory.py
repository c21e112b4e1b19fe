"""All records of access, as one worker knows them, and the one way to change them.

    system/access/epoch    {"format":1,"number":57,"edition":"9f…","recent":[{"number":57,"names":["…/users/ann"]}]}

Every change of access is one commit that writes the epoch, too, at the revision that it expects. So whoever knows the
epoch's revision knows all that it has known before to be so still: each request asks the store for that revision, and
what changed is read first where it is another. A revocation ends what it revokes for every request that begins after
it, on every worker and machine; where the store cannot tell, there is no answer. And what was looked at to make a
change holds when it is committed: that a name was never given, that somebody else is left who may come in.

The rules lie in an *edition*: a whole new one is written beside the old, however long that takes, and one commit of
the epoch puts it in force. What a broken off import left is removed with the next.

The store is untrusted: a record that does not open, or says nothing that
is understood, is kept as damaged. Whoever it is of is told so, and
where it is a rule or a group nobody is allowed anything by rules, for it may have been one that denies.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from strongroom.models import access, names
from strongroom.models.access import Group, Kind, PrincipalRecord, Rule
from strongroom.models.strict_json import UNREADABLE
from strongroom.storage_service.backends.base import ABSENT, Backend, Change, Conflict, Delete, Put, Vacant, pages
from strongroom.storage_service.errors import Busy, Exists, Internal, Invalid, ServiceError, Undecipherable
from strongroom.storage_service.traces import trace_of

ATTEMPTS: Final = 16  # at one change, while others change something
KEPT: Final = 64  # of the last changes, that the epoch names
NAMED: Final = 256  # names in all of them
MOST: Final = 32  # names of one change; of one with more, everything is read again
_OURS: Final = (names.ACCESS, names.SPENT)
_LOOKS: Final = 8  # at an epoch that changes while the records are read

log = logging.getLogger(__name__)

Records = Mapping[str, Any]


class Changed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One change: its number, and the names of the records; none: everything is to be read again."""

    number: int
    names: tuple[str, ...] = ()


class Epoch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"format_": "format"}):
    """What the row of the epoch holds."""

    number: int = 0
    edition: str = "0"
    recent: tuple[Changed, ...] = ()
    format_: int = 1

    def after(self, changed: Iterable[str], edition: str | None = None) -> "Epoch":
        """Return the epoch after a change of the records *changed*; of a new *edition*, everything is new."""
        listed = tuple(changed)
        if edition is not None or len(listed) > MOST:
            listed = ()
        number = self.number + 1
        recent = [*self.recent, Changed(number, listed)][-KEPT:]
        while sum(len(each.names) for each in recent) > NAMED and len(recent) > 1:
            del recent[0]
        return Epoch(number, edition or self.edition, tuple(recent))

    def since(self, number: int, edition: str) -> set[str] | None:
        """Return the names of what changed after the change *number*; None: everything may have."""
        missed = [each for each in self.recent if each.number > number]
        if edition != self.edition or len(missed) != self.number - number or not all(each.names for each in missed):
            return None
        return {name for each in missed for name in each.names}


@dataclass(frozen=True, slots=True)
class Damaged:
    """A record that cannot be used, and why."""

    error: ServiceError


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All records of access as of one epoch, by their names in the store; and what follows from them."""

    revision: int = ABSENT  # of the epoch
    epoch: Epoch = field(default_factory=Epoch)
    records: Records = field(default_factory=dict, repr=False)
    spent: frozenset[str] = frozenset()  # markers of names that were given once and are nobody's
    gone: frozenset[str] = frozenset()  # those of them that principals had, without case
    taken: Mapping[str, str] = field(default_factory=dict, repr=False)  # a name without case -> ``user:ann``, …
    groups: Mapping[str, frozenset[str]] = field(default_factory=dict, repr=False)  # ``user:ann`` -> names of groups
    rules: Mapping[str, Rule] = field(default_factory=dict, repr=False)  # by their names
    damaged: ServiceError | None = None  # why nobody may be allowed anything by rules

    def principal(self, kind: Kind, name: str) -> PrincipalRecord | None:
        """Return the record of a principal.

        Raises:
            Undecipherable, Internal: it is damaged.
        """
        found: PrincipalRecord | None = self.record(principal_name(kind, name))
        return found

    def group(self, name: str) -> Group | None:
        """Return the record of a group.

        Raises:
            Undecipherable, Internal: it is damaged.
        """
        found: Group | None = self.record(names.GROUPS + name)
        return found

    def record(self, name: str) -> Any:
        """Return the record of that name in the store, or None.

        Raises:
            Undecipherable, Internal: it is damaged.
        """
        found = self.records.get(name)
        if isinstance(found, Damaged):
            raise found.error
        return found

    def below(self, prefix: str) -> dict[str, Any]:
        """Return the records below *prefix*, by what follows it, in order.

        Raises:
            Undecipherable, Internal: one of them is damaged.
        """
        return {
            name.removeprefix(prefix): self.record(name) for name in sorted(self.records) if name.startswith(prefix)
        }

    def rule_name(self, name: str) -> str:
        """Return where the rule *name* lies in the store."""
        return f"{names.RULES}{self.epoch.edition}/{name}"


def principal_name(kind: Kind, name: str) -> str:
    """Return where the record of a principal lies in the store."""
    return {Kind.USER: names.USERS, Kind.SERVICE: names.SERVICES}[kind] + name


def record_of(principal: str) -> str | None:
    """Return where the record of ``user:ann`` lies in the store; None of what has none."""
    kind, _, name = principal.partition(":")
    folder = _FOLDERS.get(kind)
    return None if folder is None else folder + name


def spent(kind: str, name: str) -> str:
    """Return the name that is there when *name* was a *kind*'s (``users``, ``apikeys`` …) and is nobody's any more.

    A container: a name that is there, in the clear, and carries nothing.
    """
    return f"{names.SPENT}{kind}/{name}/"


def refuse_taken(known: Snapshot, name: str) -> None:
    """Refuse a name for something new that somebody has or had, in whatever case.

    Raises:
        Exists: somebody has or had it.
    """
    folded = name.casefold()
    if folded in known.taken:
        kind, _, other = known.taken[folded].partition(":")
        what = {"apikey": "an API key of that id"}.get(kind, f"a {kind} of that name")
        raise Exists(f"{what} exists" if other == name else f"{what} exists, in another case")
    if folded in known.gone:
        raise Exists("that name was given once, and a name is never given again")


class Directory:
    """The records of access of a store. *kinds* says how what lies below each prefix is decoded.

    Args:
        store: the store; of it, no more than revisions are believed.
        sealed: the encrypting backend round it.
        kinds: prefix to a function that makes a record of bytes, which raises ValueError or `StrongroomError`.
        changed: told of every snapshot that is new.
    """

    def __init__(
        self,
        store: Backend,
        sealed: Backend,
        kinds: Mapping[str, Callable[[bytes], Any]],
        changed: Callable[[Snapshot], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._sealed = sealed
        self._kinds = {**RECORDS, **kinds}
        self._changed = changed
        self._known: Snapshot | None = None
        self._reading = asyncio.Lock()
        self._learning: asyncio.Task[None] | None = None

    @property
    def known(self) -> Snapshot:
        """What was known last; nothing, where nothing was ever read."""
        return self._known or Snapshot()

    async def current(self) -> Snapshot:
        """Return the records as they are now.

        Raises:
            Unavailable: the store does not answer, so nobody can be told from anybody.
            Locked, Uninitialized: something changed that only keys open.
        """
        known = self._known
        entry = await self._store.get(names.EPOCH)
        if known is not None and known.revision == (ABSENT if entry is None else entry.revision):
            return known
        async with self._reading:
            return await self._read()

    async def change(self, make: Callable[[Snapshot], Sequence[Change]], *, edition: str | None = None) -> int:
        """Commit what *make* makes of the records as they are, and return the revision that all of it has.

        *make* is called again where somebody else was faster. What it raises is raised. *edition*: of the rules, to be
        in force from then on.

        Raises:
            Invalid: it is more than one commit takes.
            Conflict: a guard that *make* set did not hold.
            Busy: others change access without end; nothing was done.
            Unavailable: the store does not answer; with the fate of the change.
        """
        for _ in range(ATTEMPTS):
            snapshot = await self.current()
            changes = make(snapshot)
            if not changes and edition is None:
                return snapshot.revision
            changed = [change.name for change in changes if isinstance(change, Put | Delete)]
            if len(changes) + 1 > self._sealed.max_batch:
                raise Invalid(f"that changes {len(changes)} records, and one commit takes {self._sealed.max_batch - 1}")
            epoch = snapshot.epoch.after([name for name in changed if name.startswith(_OURS)], edition)
            write = Put(names.EPOCH, msgspec.json.encode(epoch), snapshot.revision)
            try:
                revision = await self._sealed.commit([*changes, write])
            except Conflict as conflict:
                if any(failed.name != names.EPOCH for failed in conflict.failed if not isinstance(failed, Vacant)):
                    raise
                continue
            self.learn()  # so that it is known here while the service is locked
            return revision
        raise Busy("others are changing access all the time; nothing was done")

    def learn(self) -> None:
        """Begin to read the records, while others are served: so that they are known while the service is locked."""
        if self._learning is None or self._learning.done():
            self._learning = asyncio.create_task(self._learn(), name="access")

    async def close(self) -> None:
        """Read no more of them."""
        if self._learning is not None:
            self._learning.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._learning

    async def _learn(self) -> None:
        # What cannot be told now is asked for again when somebody comes, and he is told what is wrong.
        try:
            await self.current()
        except ServiceError:
            pass
        except Exception as error:  # noqa: BLE001  # its place is told, and its text is not
            log.error("access was not read beforehand: unexpected %s", trace_of(error))  # noqa: TRY400

    async def _read(self) -> Snapshot:
        """Read what changed, until nothing does meanwhile: so that it is all of one epoch."""
        known = self._known
        for _ in range(_LOOKS):
            entry = await self._store.get(names.EPOCH)
            revision = ABSENT if entry is None else entry.revision
            if known is not None and known.revision == revision:
                if known is not self._known:
                    self._known = known
                    self._changed(known)
                return known
            opened = None if entry is None else await self._sealed.get(names.EPOCH)
            if (entry is None) != (opened is None) or (opened is not None and opened.revision != revision):
                continue
            epoch = Epoch() if opened is None else _epoch(opened.value)
            missed = None if known is None else epoch.since(known.epoch.number, known.epoch.edition)
            if known is None or missed is None:
                records, spent_names = await self._read_all(epoch)
            else:
                records, spent_names = await self._read_some(known, missed)
            known = snapshot_of(revision, epoch, records, spent_names)
        raise Busy("others are changing access all the time")

    async def _read_all(self, epoch: Epoch) -> tuple[dict[str, Any], frozenset[str]]:
        records: dict[str, Any] = {}
        for prefix, decode in self._kinds.items():
            where = f"{prefix}{epoch.edition}/" if prefix == names.RULES else prefix
            async for page in pages(self._store.list, where):
                await self._take(records, page, decode)
        spent_names = [name async for page in pages(self._store.list, names.SPENT) for name in page]
        return records, frozenset(spent_names)

    async def _read_some(self, known: Snapshot, missed: set[str]) -> tuple[dict[str, Any], frozenset[str]]:
        records = {name: record for name, record in known.records.items() if name not in missed}
        for prefix, decode in self._kinds.items():
            await self._take(records, [name for name in missed if name.startswith(prefix)], decode)
        return records, known.spent.union(name for name in missed if name.startswith(names.SPENT))

    async def _take(self, records: dict[str, Any], wanted: Sequence[str], decode: Callable[[bytes], Any]) -> None:
        """Add those of *wanted* that exist to *records*."""
        if not wanted:
            return
        try:
            found = await self._sealed.get_many(wanted)
        except Undecipherable as error:
            if len(wanted) == 1:
                records[wanted[0]] = Damaged(error)
                return
            for name in wanted:  # one of them is damaged, and the others are not to be lost with it
                await self._take(records, [name], decode)
            return
        for name, entry in found.items():
            try:
                records[name] = decode(entry.value)
            except (*UNREADABLE, access.InvalidAccess):
                records[name] = Damaged(Internal("a stored record of access is damaged, or of a later format"))


def _rule(text: bytes) -> Rule:
    rule: Rule = access.decode(text, Rule)
    return access.check_rule(rule)


RECORDS: Final[Mapping[str, Callable[[bytes], Any]]] = {
    names.USERS: lambda text: access.decode(text, PrincipalRecord),
    names.SERVICES: lambda text: access.decode(text, PrincipalRecord),
    names.GROUPS: lambda text: access.decode(text, Group),
    names.RULES: _rule,
}
"""Prefix to how what lies below it is read; API keys bring their own."""

_KINDS: Final = {names.USERS: "user", names.SERVICES: "service", names.APIKEYS: "apikey"}
_FOLDERS: Final = {kind: folder for folder, kind in _KINDS.items()}
_ENDED: Final = tuple(names.SPENT + folder.removeprefix(names.ACCESS) for folder in _KINDS)


def snapshot_of(revision: int, epoch: Epoch, records: Records, spent_names: frozenset[str]) -> Snapshot:
    """Return all *records* as one snapshot, with what follows from them."""
    taken: dict[str, str] = {}
    groups: dict[str, set[str]] = {}
    rules: dict[str, Rule] = {}
    damaged: ServiceError | None = None
    # What was put back into the store after its end is not there.
    live = {name: record for name, record in records.items() if _marker(name) not in spent_names}
    for name, record in live.items():
        prefix, _, last = name.rpartition("/")
        kind = _KINDS.get(f"{prefix}/")
        if kind is not None:
            taken[last.casefold()] = f"{kind}:{last}"
        elif isinstance(record, Damaged):
            damaged = record.error if name.startswith((names.GROUPS, names.RULES)) else damaged
        elif isinstance(record, Rule):
            rules[last] = record
        elif isinstance(record, Group):
            for member in record.members:
                if record_of(member) in live:  # one that was ended is nobody, and in no group
                    groups.setdefault(member, set()).add(last)
    return Snapshot(
        revision,
        epoch,
        live,
        spent_names,
        frozenset(_spent(name) for name in spent_names if name.startswith(_ENDED)),
        taken,
        {member: frozenset(of) for member, of in groups.items()},
        rules,
        damaged,
    )


def _epoch(text: bytes) -> Epoch:
    try:
        epoch = msgspec.json.decode(text, type=Epoch)
    except UNREADABLE:
        raise Internal("the epoch of access is damaged") from None
    if epoch.format_ != Epoch().format_:
        raise Internal("the epoch of access is of a later format")
    return epoch


def _marker(name: str) -> str:
    """Return the name that is there when the record *name* was ended."""
    return f"{names.SPENT}{name.removeprefix(names.ACCESS)}/"


def _spent(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].casefold()

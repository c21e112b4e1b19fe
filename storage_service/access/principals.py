"""Users, services and groups: who is there, and the rules that hold whoever asks.

Everything here is looked at and changed in one commit (`Directory.change`), so that two who act at the same time cannot
do together what neither might: take the last way in, give one name twice.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import msgspec

from strongroom.models import access, names
from strongroom.models.access import (
    ADMINISTRATORS,
    MAX_CREDENTIALS,
    MAX_MEMBERS,
    PROTECTED,
    Credential,
    Group,
    Kind,
    Pending,
    PrincipalRecord,
    Right,
    Role,
    Rule,
    told,
)
from strongroom.models.errors import InvalidName
from strongroom.models.secret import Secret
from strongroom.storage_service.access.credentials.registry import CREDENTIALS, kind_named
from strongroom.storage_service.access.directory import (
    Damaged,
    Directory,
    Snapshot,
    principal_name,
    record_of,
    refuse_taken,
    snapshot_of,
    spent,
)
from strongroom.storage_service.access.way_in import END, askers_of, can_mend
from strongroom.storage_service.backends.base import Change, Delete, Put
from strongroom.storage_service.errors import Denied, Exists, InUse, Invalid, NotFound, TooLarge
from strongroom.storage_service.wire import MAX_JOURNAL

WINDOW: Final = 300  # seconds in which a new principal is set up; …
FIRST_WINDOW: Final = 900  # … the first administrator
_FOLDERS: Final = {Kind.USER: "users", Kind.SERVICE: "services"}


class Added(NamedTuple):
    """A principal that is new: the *code* that sets it up until *expires*; with credentials there is none.

    *first*: it is an administrator, and there was none who could come in.
    """

    code: Secret | None
    expires: str | None
    first: bool


class Principals:
    """The users, services and groups of a store."""

    def __init__(
        self,
        directory: Directory,
        *,
        reserved: Iterable[str] = (),
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        random: Callable[[], str] = lambda: secrets.token_urlsafe(16),
    ) -> None:
        """Take the *directory* that holds them, the clock, and what makes codes of 128 random bits.

        *reserved* are the API ids that the configuration gives, of which there is no record.
        """
        self._directory = directory
        self._reserved = frozenset(map(str.casefold, reserved))
        self._now = now
        self._random = random

    @property
    def now(self) -> str:
        """The moment, as records say it."""
        return told(self._now())

    async def current(self) -> Snapshot:
        """Return all records as they are."""
        return await self._directory.current()

    async def get(self, kind: Kind, name: str) -> PrincipalRecord:
        """Return the record of a principal.

        Raises:
            NotFound: there is no such principal.
            Undecipherable, Internal: its record is damaged.
        """
        return _found(await self._directory.current(), kind, name)

    async def add(
        self,
        kind: Kind,
        name: str,
        by: str,
        *,
        credentials: Sequence[Credential] = (),
        admin: bool = False,
        note: str = "",
        window: int | None = None,
    ) -> Added:
        """Add a principal, and return the code with which it sets its first credential within the *window* (seconds).

        With *credentials* it needs no code, and gets none. One whose window has passed is given another, and is what
        is said now: no administrator, if that is not said again.

        Raises:
            Invalid: a name that nobody can have, or too long a note.
            Exists: the name is or was somebody's; or its window has not passed yet; or somebody has a credential.
        """
        _check_name(name)
        if name.isdigit():
            raise Invalid("a number is what processes are called", (("name", "is a number"),))
        if name.casefold() in self._reserved:
            raise Exists("that name is the API id of the service, or of its proxy")
        _check_note(note)
        _check_distinct(credentials)
        code = None if credentials else self._random()
        added = Added(None, None, first=False)

        def make(known: Snapshot) -> list[Change]:
            nonlocal added
            now = self._now()
            first = admin and not self._can_be_administered(known)
            ends = told(now + timedelta(seconds=window or (FIRST_WINDOW if first else WINDOW)))
            pending = None if code is None else Pending(code=_hashed(code), expires=ends)
            added = Added(None, None, first) if code is None else Added(Secret(code), ends, first)
            old = known.principal(kind, name)
            if old is None:
                refuse_taken(known, name)
                record = PrincipalRecord(
                    created=told(now), created_by=by, note=note, credentials=tuple(credentials), pending=pending
                )
            elif old.pending is None:
                raise Exists(f"that {kind} exists already")
            elif old.pending.expires > told(now):
                raise Exists(f"that {kind} is waiting for setup")
            else:
                record = msgspec.structs.replace(
                    old,
                    pending=pending,
                    credentials=tuple(credentials),
                    note=note or old.note,
                    disabled=False,
                    epoch=old.epoch + 1,
                )
            _refuse_known_credentials(known, credentials)
            changes: list[Change] = [_put(principal_name(kind, name), record)]
            if admin:
                changes += self._administer(known, f"{kind}:{name}", by)
            elif ADMINISTRATORS in known.groups.get(f"{kind}:{name}", ()):
                changes.append(_put_group(ADMINISTRATORS, _without(known, ADMINISTRATORS, f"{kind}:{name}")))
            return changes

        await self._directory.change(make)
        return added

    async def check_code(self, kind: Kind, name: str, code: str) -> None:
        """Return if a principal waits to be set up with that *code*; nothing is written.

        Raises:
            Denied: it waits for none, or no longer, or for one with another code; which, it is not told.
        """
        self._waiting(await self._directory.current(), kind, name, code)

    async def set_up(self, kind: Kind, name: str, code: str, credential: Credential) -> None:
        """Give a principal that waits for it its first credential; the code is worth nothing afterwards.

        Raises:
            Denied: as `check_code`.
            Exists: somebody has that credential.
        """

        def make(known: Snapshot) -> list[Change]:
            record = self._waiting(known, kind, name, code)
            _refuse_known_credentials(known, [credential])
            changed = msgspec.structs.replace(record, pending=None, credentials=(credential,))
            return [_put(principal_name(kind, name), changed)]

        await self._directory.change(make)

    def _waiting(self, known: Snapshot, kind: Kind, name: str, code: str) -> PrincipalRecord:
        """Return the record of a principal that waits for *code*; who waits for none costs as much.

        Raises:
            Denied: as `check_code`.
        """
        found = known.records.get(principal_name(kind, name))
        record = found if isinstance(found, PrincipalRecord) else None
        pending = None if record is None else record.pending
        right = hmac.compare_digest(_hashed(code), _NOTHING if pending is None else pending.code)
        if record is None or pending is None or not right or pending.expires <= told(self._now()):
            raise Denied("there is nothing to set up with that code, or it has expired")
        return record

    async def remove(self, kind: Kind, name: str) -> None:
        """End a principal, at once and everywhere; its name is never given to another.

        Raises:
            NotFound: there is no such principal.
            InUse: it is protected, or the last administrator who can come in.
        """

        def make(known: Snapshot) -> list[Change]:
            record = principal_name(kind, name)
            if record not in known.records:  # one that is damaged can be ended, too
                raise NotFound(f"there is no such {kind}")
            if kind is Kind.USER and name.casefold() in PROTECTED:
                raise InUse("the users root and recovery are protected: disable the user, or remove its credentials")
            # Groups name it still, however many they are, and nobody is meant: it is dropped when they change.
            return self._someone_is_left(known, [Delete(record), Put(spent(_FOLDERS[kind], name), b"")])

        await self._directory.change(make)

    async def disable(self, kind: Kind, name: str, *, disabled: bool = True) -> None:
        """Let a principal in no more, or again; its tokens of before are worth nothing.

        Raises:
            NotFound: there is no such principal.
            InUse: it is the last administrator who can come in.
        """

        def make(known: Snapshot) -> list[Change]:
            record = _found(known, kind, name)
            changed = msgspec.structs.replace(record, disabled=disabled, epoch=record.epoch + 1)
            return self._someone_is_left(known, [_put(principal_name(kind, name), changed)])

        await self._directory.change(make)

    async def end_tokens(self, kind: Kind, name: str, after: timedelta = timedelta()) -> None:
        """Make all tokens that a principal has worth nothing, at once or *after* a while.

        What has ended so is not alive again, and what is to end does not end later: where tokens have ended at a moment
        before, another one to come ends at once all that were given until now.

        Raises:
            NotFound: there is no such principal.
        """

        def make(known: Snapshot) -> list[Change]:
            record = _found(known, kind, name)
            now = self.now
            passed = record.ends is not None and record.ends <= now
            if not after:
                changed = msgspec.structs.replace(record, epoch=record.epoch + 1, ends=None)
            elif record.ends is None or passed:
                epoch = record.epoch + passed
                changed = msgspec.structs.replace(record, epoch=epoch, ends=told(self._now() + after))
            else:
                ends = min(record.ends, told(self._now() + after))
                changed = msgspec.structs.replace(record, ends=ends)
            return [_put(principal_name(kind, name), changed)]

        await self._directory.change(make)

    # Credentials

    async def add_credential(self, kind: Kind, name: str, credential: Credential) -> None:
        """Give a principal one more credential.

        Raises:
            NotFound: there is no such principal.
            Invalid: it waits to be set up, or it has as many as it may.
            Exists: somebody has that credential, or this one has another of that name.
        """

        def make(known: Snapshot) -> list[Change]:
            record = _found(known, kind, name)
            if record.pending is not None:
                raise Invalid(f"that {kind} is waiting for setup: its first credential takes its code")
            if len(record.credentials) >= MAX_CREDENTIALS:
                raise Invalid(f"a principal has at most {MAX_CREDENTIALS} credentials")
            if any(each.name == credential.name for each in record.credentials):
                raise Exists("that principal has a credential of that name")
            _refuse_known_credentials(known, [credential])
            changed = msgspec.structs.replace(record, credentials=(*record.credentials, credential))
            return [_put(principal_name(kind, name), changed)]

        await self._directory.change(make)

    async def replace_credential(self, kind: Kind, name: str, credential: Credential) -> None:
        """Keep another form of a credential of the same id: the hash of a password, made anew.

        Raises:
            NotFound: there is no such principal, or no such credential of it.
        """

        def make(known: Snapshot) -> list[Change]:
            record = _found(known, kind, name)
            if all(each.id != credential.id for each in record.credentials):
                raise NotFound("there is no such credential")
            kept = tuple(credential if each.id == credential.id else each for each in record.credentials)
            return [_put(principal_name(kind, name), msgspec.structs.replace(record, credentials=kept))]

        await self._directory.change(make)

    async def remove_credential(self, kind: Kind, name: str, credential: str) -> None:
        """Take a credential, by its id or its name, from a principal; tokens that it was given for end with it.

        Raises:
            NotFound: there is no such principal, or no such credential of it.
            InUse: it is the only one, or that of the last administrator who can come in.
        """

        def make(known: Snapshot) -> list[Change]:
            record = _found(known, kind, name)
            ended = _credential(record, credential)
            kept = tuple(each for each in record.credentials if each.id != ended.id)
            if not any(self._holds(each) for each in kept) and (not kept or self._holds(ended)):
                raise InUse(f"it is the only credential of that {kind}: add another first, or remove the {kind}")
            changed = _put(principal_name(kind, name), msgspec.structs.replace(record, credentials=kept))
            return self._someone_is_left(known, [changed])

        await self._directory.change(make)

    # Groups

    async def group(self, name: str) -> Group:
        """Return a group.

        Raises:
            NotFound: there is no such group.
            Undecipherable, Internal: its record is damaged.
        """
        return _found_group(await self._directory.current(), name)

    async def groups(self) -> dict[str, Group]:
        """Return all groups, by name."""
        known = await self._directory.current()
        return {name: _alive(known, group) for name, group in known.below(names.GROUPS).items()}

    async def add_group(self, name: str, by: str, note: str = "") -> None:
        """Add a group without members.

        Raises:
            Invalid: a name that no group can have, or too long a note.
            Exists: there is one of that name, or was.
        """
        _check_name(name)
        _check_note(note)

        def make(known: Snapshot) -> list[Change]:
            others = {each.removeprefix(names.GROUPS).casefold() for each in known.records if _is_group(each)}
            if name.casefold() in others:
                raise Exists("a group of that name exists")
            if spent("groups", name).casefold() in {each.casefold() for each in known.spent if _was_group(each)}:
                raise Exists("that name was given once, and a name is never given again")
            return [_put_group(name, Group(created=told(self._now()), created_by=by, note=note))]

        await self._directory.change(make)

    async def remove_group(self, name: str) -> None:
        """Remove a group; its members are in it no more, and its name is never given again.

        Raises:
            NotFound: there is no such group.
            InUse: it is the administrators'.
        """

        def make(known: Snapshot) -> list[Change]:
            if names.GROUPS + name not in known.records:
                raise NotFound("there is no such group")
            if name == ADMINISTRATORS:
                raise InUse("the group of the administrators is protected")
            return [Delete(names.GROUPS + name), Put(spent("groups", name), b"")]

        await self._directory.change(make)

    async def add_member(self, group: str, member: str, role: Role) -> None:
        """Put a principal into a group, or give it another role there.

        Raises:
            NotFound: there is no such group, or no such principal.
            Invalid: the group has as many members as it may.
        """

        def make(known: Snapshot) -> list[Change]:
            record = _found_group(known, group)
            if record_of(member) not in known.records:
                raise NotFound("there is no such principal")
            if member not in record.members and len(record.members) >= MAX_MEMBERS:
                raise Invalid(f"a group has at most {MAX_MEMBERS} members")
            changed = msgspec.structs.replace(record, members={**record.members, member: role})
            return self._someone_is_left(known, [_put_group(group, changed)])

        await self._directory.change(make)

    async def remove_member(self, group: str, member: str) -> None:
        """Take a principal out of a group.

        Raises:
            NotFound: there is no such group, or no such member of it.
            InUse: it is the last administrator who can come in.
        """

        def make(known: Snapshot) -> list[Change]:
            if member not in _found_group(known, group).members:
                raise NotFound("there is no such member of that group")
            return self._someone_is_left(known, [_put_group(group, _without(known, group, member))])

        await self._directory.change(make)

    # Administrators

    def _administer(self, known: Snapshot, member: str, by: str) -> list[Change]:
        """Return what makes *member* an administrator: with the first, the group and its rule.

        A group that is damaged is made anew: nobody is in it then but who is added now.
        """
        now = told(self._now())
        found = known.records.get(names.GROUPS + ADMINISTRATORS)
        group = found if isinstance(found, Group) else Group(created=now, created_by=by, note="may do everything")
        members = {**_alive(known, group).members, member: Role.MANAGER}
        changes: list[Change] = [_put_group(ADMINISTRATORS, msgspec.structs.replace(group, members=members))]
        if ADMINISTRATORS not in known.rules:
            rule = Rule(
                effect="allow",
                subjects=(f"group:{ADMINISTRATORS}",),
                actions=tuple(Right),
                names=("**",),
                note="administrators may do everything",
                created=now,
                created_by=by,
            )
            changes.append(_put(known.rule_name(ADMINISTRATORS), rule))
        return changes

    def administrators(self, known: Snapshot) -> set[str]:
        """Return the administrators who can come in; nobody, where that cannot be told."""
        return self._administrators(known) if self._can_be_administered(known) else set()

    def _can_be_administered(self, known: Snapshot) -> bool:
        """Whether some administrator can come in; nobody can by a group that is damaged."""
        damaged = isinstance(known.records.get(names.GROUPS + ADMINISTRATORS), Damaged)
        return not damaged and bool(self._administrators(known))

    def _administrators(self, known: Snapshot) -> set[str]:
        """Return the administrators who can come in: those with a credential that holds, who are not shut out."""
        group = known.group(ADMINISTRATORS)
        return {
            member
            for member in ({} if group is None else group.members)
            if isinstance(record := known.records.get(record_of(member) or ""), PrincipalRecord)
            and not record.disabled
            and any(map(self._holds, record.credentials))
        }

    def _holds(self, credential: Credential) -> bool:
        return credential.expires is None or credential.expires > self.now

    def _someone_is_left(self, known: Snapshot, changes: list[Change]) -> list[Change]:
        """Return *changes*, unless nobody could come in and administer access, or mend the rules, after them.

        Raises:
            InUse: so it would be, and is not so before.
        """
        if not self._administrators(known):
            return changes
        records = dict(known.records)
        for change in changes:
            if isinstance(change, Delete):
                records.pop(change.name, None)
            elif isinstance(change, Put) and change.value:
                kind = Group if change.name.startswith(names.GROUPS) else PrincipalRecord
                records[change.name] = access.decode(change.value, kind)
        after = snapshot_of(known.revision, known.epoch, records, known.spent)
        left = self._administrators(after)
        if not left:
            raise InUse("it is the last administrator who can come in: make another first")
        before = askers_of(known, self._administrators(known))
        for moment in (self._now(), END):
            if can_mend(known.rules, before, moment) and not can_mend(known.rules, askers_of(after, left), moment):
                raise InUse("no administrator could change the rules any more: let another rule allow it first")
        return changes


def _put(name: str, record: msgspec.Struct) -> Put:
    return Put(name, msgspec.json.encode(record))


def _put_group(name: str, group: Group) -> Put:
    """Return what writes a group.

    Raises:
        TooLarge: sealed, it would not fit into the store.
    """
    put = _put(names.GROUPS + name, group)
    if len(put.value) > MAX_JOURNAL:
        raise TooLarge("the group has more members than its record holds: make a second one")
    return put


def _hashed(code: str) -> str:
    return hashlib.sha256(code.encode(errors="surrogatepass")).hexdigest()


_NOTHING: Final = "0" * 64  # the hash of no code


def _is_group(name: str) -> bool:
    return name.startswith(names.GROUPS)


def _was_group(name: str) -> bool:
    return name.startswith(spent("groups", "").removesuffix("/"))


def _alive(known: Snapshot, group: Group) -> Group:
    """Return *group* without members that were ended since: their names are nobody's."""
    members = {member: role for member, role in group.members.items() if record_of(member) in known.records}
    return group if len(members) == len(group.members) else msgspec.structs.replace(group, members=members)


def _credential(record: PrincipalRecord, wanted: str) -> Credential:
    """Return the credential of that id, or else of that name.

    Raises:
        NotFound: there is none.
    """
    for each in record.credentials:
        if wanted == each.id:
            return each
    for each in record.credentials:
        if wanted == each.name:
            return each
    raise NotFound("there is no such credential")


def _found(known: Snapshot, kind: Kind, name: str) -> PrincipalRecord:
    record = known.principal(kind, name)
    if record is None:
        raise NotFound(f"there is no such {kind}")
    return record


def _found_group(known: Snapshot, name: str) -> Group:
    group = known.group(name)
    if group is None:
        raise NotFound("there is no such group")
    return _alive(known, group)


def _without(known: Snapshot, group: str, member: str) -> Group:
    record = _found_group(known, group)
    return msgspec.structs.replace(record, members={each: of for each, of in record.members.items() if each != member})


def _refuse_known_credentials(known: Snapshot, credentials: Sequence[Credential]) -> None:
    """Refuse what somebody proves himself with already: whoever had it could be either of them.

    Raises:
        Exists: somebody does.
    """
    wanted = {(each.kind, each.data) for each in credentials if _is_ones_own(each)}
    for record in known.records.values() if wanted else ():
        if isinstance(record, PrincipalRecord) and any((each.kind, each.data) in wanted for each in record.credentials):
            raise Exists("somebody has that credential already")


def _is_ones_own(credential: Credential) -> bool:
    """Whether nobody else may have the like; of two passwords nobody is told that they are alike."""
    return credential.kind in CREDENTIALS and kind_named(credential.kind).identity(credential.data) is not None


def _check_distinct(credentials: Sequence[Credential]) -> None:
    """Refuse credentials of one principal that are one, or have one name.

    Raises:
        Exists: there are two such.
    """
    if len({each.name for each in credentials}) < len(credentials):
        raise Exists("two credentials of one principal have different names")
    if len({(each.kind, each.data) for each in credentials}) < len(credentials):
        raise Exists("one credential is given twice")


def _check_name(name: str) -> None:
    try:
        access.check_name(name)
    except InvalidName as error:
        raise Invalid(f"a name cannot be so: {error}", (("name", "is not a name"),)) from None


def _check_note(note: str) -> None:
    if len(note) > access.MAX_NOTE:
        raise Invalid(f"a note is at most {access.MAX_NOTE} characters", (("note", "is too long"),))

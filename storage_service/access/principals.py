"""Users, services and groups: who is there, and the rules that hold whoever asks.

Everything here is looked at and changed in one commit (`Directory.change`), so that two who act at the same time cannot
do together what neither might: take the last way in, give one name twice.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

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
from strongroom.storage_service.access.directory import Directory, Snapshot, principal_name, refuse_taken, spent
from strongroom.storage_service.backends.base import Change, Delete, Put
from strongroom.storage_service.errors import Denied, Exists, InUse, Invalid, NotFound

WINDOW: Final = 300  # seconds in which a new principal is set up; …
FIRST_WINDOW: Final = 900  # … the first administrator
_FOLDERS: Final = {Kind.USER: "users", Kind.SERVICE: "services"}


class Principals:
    """The users, services and groups of a store."""

    def __init__(
        self,
        directory: Directory,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        random: Callable[[], str] = lambda: secrets.token_urlsafe(16),
    ) -> None:
        """Take the *directory* that holds them, the clock, and what makes codes of 128 random bits."""
        self._directory = directory
        self._now = now
        self._random = random

    async def get(self, kind: Kind, name: str) -> PrincipalRecord:
        """Return the record of a principal.

        Raises:
            NotFound: there is no such principal.
            Undecipherable, Internal: its record is damaged.
        """
        return _found(await self._directory.current(), kind, name)

    async def all(self, kind: Kind) -> dict[str, PrincipalRecord]:
        """Return all principals of a *kind*, by name."""
        return (await self._directory.current()).below(principal_name(kind, ""))

    async def groups_of(self, kind: Kind, name: str) -> frozenset[str]:
        """Return the names of the groups that a principal is in."""
        return (await self._directory.current()).groups.get(f"{kind}:{name}", frozenset())

    async def add(
        self,
        kind: Kind,
        name: str,
        by: str,
        *,
        credentials: Sequence[Credential] = (),
        admin: bool = False,
        note: str = "",
        window: int = WINDOW,
    ) -> str | None:
        """Add a principal, and return the code with which it sets its first credential within the *window* (seconds).

        With *credentials* it needs no code, and gets none. One whose window has passed is given another.

        Raises:
            Invalid: a name that nobody can have, or too long a note.
            Exists: the name is or was somebody's; or its window has not passed yet.
        """
        _check_name(name)
        _check_note(note)
        code = None if credentials else self._random()

        def make(known: Snapshot) -> list[Change]:
            now = self._now()
            first = admin and not self._administrators(known)
            ends = told(now + timedelta(seconds=max(window, FIRST_WINDOW) if first else window))
            pending = None if code is None else Pending(code=_hashed(code), expires=ends)
            old = known.principal(kind, name)
            if old is None:
                refuse_taken(known, name)
                record = PrincipalRecord(
                    created=told(now), created_by=by, note=note, credentials=tuple(credentials), pending=pending
                )
            elif old.pending is None:
                raise Exists(f"that {kind} already exists")
            elif old.pending.expires > told(now):
                raise Exists(f"that {kind} is waiting for setup")
            else:
                record = msgspec.structs.replace(old, pending=pending, credentials=tuple(credentials))
            _refuse_known_credentials(known, credentials)
            changes: list[Change] = [_put(principal_name(kind, name), record)]
            if admin:
                changes += self._administer(known, f"{kind}:{name}", by)
            return changes

        await self._directory.change(make)
        return code

    async def set_up(self, kind: Kind, name: str, code: str, credential: Credential) -> None:
        """Give a principal that waits for it its first credential; the code is worth nothing afterwards.

        Raises:
            Denied: it waits for none, or no longer, or for one with another code; which, it is not told.
            Exists: somebody has that credential.
        """

        def make(known: Snapshot) -> list[Change]:
            record = known.principal(kind, name)
            pending = None if record is None else record.pending
            expected = _hashed("") if pending is None else pending.code
            right = hmac.compare_digest(_hashed(code), expected) and code != ""
            if record is None or pending is None or not right or pending.expires <= told(self._now()):
                raise Denied("there is nothing to set up with that code, or it has expired")
            _refuse_known_credentials(known, [credential])
            changed = msgspec.structs.replace(record, pending=None, credentials=(credential,))
            return [_put(principal_name(kind, name), changed)]

        await self._directory.change(make)

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
            if kind is Kind.USER and name in PROTECTED:
                raise InUse(f"the user {name} is protected")
            changes: list[Change] = [Delete(record), Put(spent(_FOLDERS[kind], name), b"")]
            changes += [
                _put(names.GROUPS + group, _without(known, group, f"{kind}:{name}"))
                for group in sorted(known.groups.get(f"{kind}:{name}", ()))
            ]
            return self._someone_is_left(known, changes)

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

        Raises:
            NotFound: there is no such principal.
        """

        def make(known: Snapshot) -> list[Change]:
            record = _found(known, kind, name)
            if after:
                changed = msgspec.structs.replace(record, ends=told(self._now() + after))
            else:
                changed = msgspec.structs.replace(record, epoch=record.epoch + 1)
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
            kept = tuple(each for each in record.credentials if credential not in (each.id, each.name))
            if len(kept) == len(record.credentials):
                raise NotFound("there is no such credential")
            if not kept:
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
        return (await self._directory.current()).below(names.GROUPS)

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
            if spent("groups", name) in known.spent:
                raise Exists("that name was given once, and a name is never given again")
            return [_put(names.GROUPS + name, Group(created=told(self._now()), created_by=by, note=note))]

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
            if not _exists(known, member):
                raise NotFound("there is no such principal")
            if member not in record.members and len(record.members) >= MAX_MEMBERS:
                raise Invalid(f"a group has at most {MAX_MEMBERS} members")
            changed = msgspec.structs.replace(record, members={**record.members, member: role})
            return [_put(names.GROUPS + group, changed)]

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
            return self._someone_is_left(known, [_put(names.GROUPS + group, _without(known, group, member))])

        await self._directory.change(make)

    # Administrators

    def _administer(self, known: Snapshot, member: str, by: str) -> list[Change]:
        """Return what makes *member* an administrator: with the first, the group and its rule."""
        now = told(self._now())
        group = known.group(ADMINISTRATORS) or Group(created=now, created_by=by, note="may do everything")
        members = {**group.members, member: Role.MANAGER}
        changes: list[Change] = [_put(names.GROUPS + ADMINISTRATORS, msgspec.structs.replace(group, members=members))]
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

    def _administrators(self, known: Snapshot) -> set[str]:
        """Return the administrators who can come in: those with a credential that holds, who are not shut out."""
        group = known.group(ADMINISTRATORS)
        now = told(self._now())
        return {
            member
            for member in ({} if group is None else group.members)
            if (record := known.records.get(_record_of(member)))
            and isinstance(record, PrincipalRecord)
            and not record.disabled
            and any(each.expires is None or each.expires > now for each in record.credentials)
        }

    def _someone_is_left(self, known: Snapshot, changes: list[Change]) -> list[Change]:
        """Return *changes*, unless nobody could administer access after them who can before.

        Raises:
            InUse: so it would be.
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
        if not self._administrators(Snapshot(records=records)):
            raise InUse("it is the last administrator who can come in: make another first")
        return changes


def _put(name: str, record: msgspec.Struct) -> Put:
    return Put(name, msgspec.json.encode(record))


def _hashed(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()


def _is_group(name: str) -> bool:
    return name.startswith(names.GROUPS)


def _record_of(principal: str) -> str:
    """Return where the record of ``user:ann`` lies in the store; of other kinds nowhere."""
    kind, _, name = principal.partition(":")
    folder = {"user": names.USERS, "service": names.SERVICES, "apikey": names.APIKEYS}.get(kind, "")
    return folder + name


def _exists(known: Snapshot, principal: str) -> bool:
    return _record_of(principal) in known.records and not principal.startswith("group:")


def _found(known: Snapshot, kind: Kind, name: str) -> PrincipalRecord:
    record = known.principal(kind, name)
    if record is None:
        raise NotFound(f"there is no such {kind}")
    return record


def _found_group(known: Snapshot, name: str) -> Group:
    group = known.group(name)
    if group is None:
        raise NotFound("there is no such group")
    return group


def _without(known: Snapshot, group: str, member: str) -> Group:
    record = _found_group(known, group)
    return msgspec.structs.replace(record, members={each: of for each, of in record.members.items() if each != member})


def _refuse_known_credentials(known: Snapshot, credentials: Sequence[Credential]) -> None:
    """Refuse what somebody proves himself with already: whoever had it could be either of them.

    Raises:
        Exists: somebody does.
    """
    wanted = {(each.kind, each.data) for each in credentials if each.kind != "password"}
    for record in known.records.values() if wanted else ():
        if isinstance(record, PrincipalRecord) and any((each.kind, each.data) in wanted for each in record.credentials):
            raise Exists("somebody has that credential already")


def _check_name(name: str) -> None:
    try:
        access.check_name(name)
    except InvalidName as error:
        raise Invalid(f"a name cannot be so: {error}", (("name", "is not a name"),)) from None


def _check_note(note: str) -> None:
    if len(note) > access.MAX_NOTE:
        raise Invalid(f"a note is at most {access.MAX_NOTE} characters", (("note", "is too long"),))

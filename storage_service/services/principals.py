"""Users, services and groups: who may look at them and change them, and what people may do for themselves.

What is decided on is where the record lies: ``system/access/users/ann``. A change takes credentials that reach
everything, or a rule; no narrow key makes somebody who reaches further than itself. Whoever touches an administrator
needs the right to change the group ``administrators``, too. For oneself one may read one's own record, add and remove
one's own credentials and end one's own tokens; the manager of a group adds and removes its members: unless a rule
denies it. And who has the code that somebody gave him sets himself up with it, whom nobody knows before.

What one gives oneself is what one has to prove with each sign-in: a password, an access key. To say whom a process of
this machine or the holder of a certificate is takes the right, as a password's hash does, which says what each sign-in
costs; and so does a credential that outlives the one that is shown. Whoever shows a token must have logged in just now:
one that was stolen neither stays in by a key of the thief's nor locks its owner out.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final, NamedTuple, TypeVar

import msgspec

from strongroom.models import access, names
from strongroom.models.access import (
    ADMINISTRATORS,
    Credential,
    Group,
    InvalidAccess,
    Kind,
    PrincipalRecord,
    Role,
)
from strongroom.models.errors import InvalidName
from strongroom.models.steps import Step
from strongroom.storage_service.access.base import Action, Principal
from strongroom.storage_service.access.credentials import making
from strongroom.storage_service.access.credentials.registry import CREDENTIALS
from strongroom.storage_service.access.directory import Snapshot, principal_name, record_of
from strongroom.storage_service.access.limits import Slowdown, place_of
from strongroom.storage_service.access.paths import Itself, WholeReach
from strongroom.storage_service.access.principals import Added, Principals
from strongroom.storage_service.access.uses import Uses
from strongroom.storage_service.errors import Denied, Forbidden, Invalid, NotFound, ServiceError, TooManyAttempts
from strongroom.storage_service.services.door import Act, Caller, Door
from strongroom.storage_service.wire import Refusal
from strongroom.storage_service.wire.access import FOLDERS, MAX_PAGE, NewCredential

T = TypeVar("T")

_ADMINISTRATION: Final = names.GROUPS + ADMINISTRATORS
_TOLD_BY_OTHERS: Final = frozenset(("process", "certificate"))  # who registers one need not hold it
_NOT_FOR_ONESELF: Final = (
    "by oneself one adds a password or an access key; a process, a certificate or a password's hash is for whoever has "
    "the right access to the record"
)
FRESH: Final = timedelta(minutes=5)  # since the login by which one changes how one comes in
_STALE: Final = "this takes a login of the last five minutes"
_OUTLIVES: Final = "by oneself one adds no credential that outlives the one that was shown"


class Known(NamedTuple):
    """A principal: its record, None if that is damaged, and its roles in groups."""

    name: str
    record: PrincipalRecord | None
    groups: Mapping[str, Role]
    used: Mapping[str, str] = MappingProxyType({})  # when credentials were last used, by their ids; of one that is read


class KnownGroup(NamedTuple):
    """A group: its record, None if that is damaged."""

    name: str
    record: Group | None


class Page(NamedTuple):
    """Some principals, by name, and whether there are more."""

    principals: list[Known]
    more: bool


class PrincipalService:
    """All that can be done with users, services and groups.

    Every method raises Denied and AuditUnavailable before anything is done; Locked where it takes keys to tell and
    there are none; and Unavailable, with the fate of what was to be written.
    """

    def __init__(self, door: Door, principals: Principals, slow: Slowdown, uses: Uses | None = None) -> None:
        """Take the parts; *slow* remembers wrong codes, too."""
        self._uses = uses
        self._door = door
        self._whole = door.beside(WholeReach())
        self._own = door.beside(Itself())
        self._principals = principals
        self._slow = slow

    @property
    def now(self) -> str:
        """The moment, as records say it."""
        return self._principals.now

    async def expect(self, caller: Caller, action: Action, kind: Kind, name: str) -> None:
        """Refuse *caller* what would be refused anyway, before anything is read.

        Raises:
            Denied, AuditUnavailable
        """
        door = self._own if _is_itself(caller, kind, name) else self._whole
        await door.expect(caller, action, [_record_name(kind, name)])

    async def expect_group(self, caller: Caller, action: Action, name: str) -> None:
        """Refuse *caller* what would be refused anyway, as `expect`, where it is no manager of the group.

        Raises:
            Denied, AuditUnavailable
        """
        manages = action is Action.MODIFY and await self._manages(caller, name)
        await (self._own if manages else self._whole).expect(caller, action, [_group_name(name)])

    # Looking

    async def page(self, caller: Caller, kind: Kind, after: str = "", limit: int = MAX_PAGE) -> Page:
        """Return the principals of a *kind* behind *after*, those that the caller may list and get."""

        async def read() -> Page:
            known = await self._principals.current()
            folder = principal_name(kind, "")
            listed = sorted(name for name in known.records if name.startswith(folder) and name > folder + after)
            visible = await self._door.readable(caller, listed)
            some = visible[:limit]
            return Page([_known(known, kind, each.removeprefix(folder)) for each in some], len(visible) > limit)

        return await self._door.read(caller, Action.LIST, [principal_name(kind, "")], read)

    async def get(self, caller: Caller, kind: Kind, name: str) -> Known:
        """Return one principal; oneself without a right to it.

        Raises:
            NotFound: there is no such principal.
        """

        async def read() -> Known:
            known = await self._principals.current()
            if principal_name(kind, name) not in known.records:
                raise NotFound(f"there is no such {kind}")
            found = _known(known, kind, name)
            used = {} if self._uses is None else await self._uses.of(f"{FOLDERS[kind]}/{name}")
            return found._replace(used=used)

        door = self._own if _is_itself(caller, kind, name) else self._door
        return await door.read(caller, Action.GET, [_record_name(kind, name)], read)

    async def groups(self, caller: Caller) -> list[KnownGroup]:
        """Return the groups that the caller may list and get."""

        async def read() -> list[KnownGroup]:
            known = await self._principals.current()
            listed = sorted(name for name in known.records if name.startswith(names.GROUPS))
            visible = await self._door.readable(caller, listed)
            return [await self._group(known, name.removeprefix(names.GROUPS)) for name in visible]

        return await self._door.read(caller, Action.LIST, [names.GROUPS], read)

    async def group(self, caller: Caller, name: str) -> KnownGroup:
        """Return one group; one's own, as its manager, without a right to it.

        Raises:
            NotFound: there is no such group.
        """

        async def read() -> KnownGroup:
            known = await self._principals.current()
            if names.GROUPS + name not in known.records:
                raise NotFound("there is no such group")
            return await self._group(known, name)

        door = self._own if await self._manages(caller, name) else self._door
        return await door.read(caller, Action.GET, [_group_name(name)], read)

    async def _group(self, known: Snapshot, name: str) -> KnownGroup:
        found = known.records[names.GROUPS + name]
        return KnownGroup(name, await self._principals.group(name) if isinstance(found, Group) else None)

    # Principals

    async def add(
        self,
        caller: Caller,
        kind: Kind,
        name: str,
        credentials: Sequence[NewCredential] = (),
        *,
        admin: bool = False,
        note: str = "",
        window: int | None = None,
    ) -> Added:
        """Add a principal; without credentials, it gets a code that is told this once.

        Raises:
            Invalid: a name, a note or a credential cannot be so.
            Exists: the name is or was somebody's, or waits to be set up; or somebody has such a credential.
        """
        await self._permit(caller, Action.CREATE, kind, name, admin=admin)
        made = [await self._made(each) for each in credentials]
        by = caller.principal.id
        return await self._principals.add(kind, name, by, credentials=made, admin=admin, note=note, window=window)

    async def remove(self, caller: Caller, kind: Kind, name: str) -> None:
        """End a principal, at once and everywhere; its name is never given to another.

        Raises:
            NotFound: there is no such principal.
            InUse: it is protected, or the last administrator who can come in.
        """
        await self._permit(caller, Action.DELETE, kind, name)
        await self._principals.remove(kind, name)

    async def disable(self, caller: Caller, kind: Kind, name: str, *, disabled: bool) -> None:
        """Shut a principal out, or let it in again.

        Raises:
            NotFound: there is no such principal.
            InUse: it is the last administrator who can come in.
        """
        await self._permit(caller, Action.MODIFY, kind, name, "shut out" if disabled else "let in again")
        await self._principals.disable(kind, name, disabled=disabled)

    async def end_tokens(self, caller: Caller, kind: Kind, name: str, after: timedelta = timedelta()) -> None:
        """Make all tokens of a principal, or one's own, worth nothing, at once or *after* a while.

        Raises:
            NotFound: there is no such principal.
        """
        await self._permit_itself(caller, kind, name, "its tokens")
        await self._principals.end_tokens(kind, name, after)

    async def add_credential(self, caller: Caller, kind: Kind, name: str, credential: NewCredential) -> Credential:
        """Give a principal, or oneself, one more credential.

        Raises:
            NotFound: there is no such principal.
            Invalid: it cannot be so; or the principal waits to be set up, or has as many as it may.
            Exists: somebody has such a one, or this one has another of that name.
            Forbidden: oneself has no right to one of that kind, or to one that outlives the one that is shown, or is
                to log in again.
        """
        credential = await self._permit_credential(caller, kind, name, credential)
        made = await self._made(credential)
        await self._principals.add_credential(kind, name, made)
        return made

    async def remove_credential(self, caller: Caller, kind: Kind, name: str, credential: str) -> None:
        """Take a credential, by its id or name, from a principal, or from oneself.

        Raises:
            NotFound: there is no such principal, or no such credential of it.
            InUse: it is the only one, or that of the last administrator who can come in.
            Forbidden: it is one's own, and one is to log in again.
        """
        await self._check_fresh(caller, kind, name)
        held = await self._credential(kind, name, credential)
        await self._permit_itself(caller, kind, name, "without a credential" if held is None else _without(held))
        await self._principals.remove_credential(kind, name, credential)

    async def set_up(self, caller: Caller, principal: str, code: str, credential: NewCredential) -> None:
        """Give a principal that waits for it its first credential; *caller* is a stranger with a code.

        Nothing is written for whoever has none: no record, and of the audit log a line that counts strangers.

        Raises:
            Denied: the code is wrong, has expired, or is another's; which, it is not told.
            Invalid: the credential cannot be so; the code is good still.
            Exists: somebody has such a credential; the code is good still.
            TooManyAttempts: codes were wrong where *caller* is; this one was not looked at.
        """
        kind, name = kind_and_name(principal)
        place, whose = place_of(caller.address, caller.peer), f"{kind}:{name}"
        try:
            self._slow.refuse_early(place, whose)
            await self._principals.check_code(kind, name, code)
        except (Denied, TooManyAttempts) as error:
            if isinstance(error, Denied):
                self._slow.failed(place, whose)
            await self._turn_away(caller, kind, name, error)
            raise
        self._slow.passed(place, whose)
        if not _is_for_oneself(credential):
            raise Invalid(_NOT_FOR_ONESELF, (("credential", "takes a right"),))
        made = await self._made(credential)
        itself = Caller(
            Principal(f"{kind}:{name}"), caller.request_id, caller.peer, None, caller.address, caller.through_proxy
        )
        itself.trace = caller.trace
        await self._door.note(itself, Action.MODIFY, principal_name(kind, name), f"its first {made.kind}, {made.id}")
        try:
            await self._principals.set_up(kind, name, code, made)
        except ServiceError as error:
            await self._door.failed(itself, Action.MODIFY, principal_name(kind, name), f"{error.code}: {error}")
            caller.ended = True
            raise

    async def _turn_away(self, caller: Caller, kind: Kind, name: str, error: ServiceError) -> None:
        """Record that a code was wrong, or had to wait; whose it was said to be, if anybody's: else it may be one."""
        known = await self._principals.current()
        exists = principal_name(kind, name) in known.records
        refusal = Refusal(
            request=caller.request_id,
            action=Action.MODIFY.word,
            name=principal_name(kind, name) if exists else principal_name(kind, ""),
            reason=error.recorded,
            claimed=[f"{kind}:{name}"] if exists else [],
            address=caller.address,
            peer=None if caller.peer is None else caller.peer._asdict(),
            trace=caller.trace,
        )
        caller.ended = True
        await self._door.turn_away(refusal)

    # Groups

    async def add_group(self, caller: Caller, name: str, note: str = "") -> None:
        """Add a group without members.

        Raises:
            Invalid: a name that no group can have, or too long a note.
            Exists: there is one of that name, or was.
        """
        await self._whole.permit(caller, Action.CREATE, [_group_name(name)])
        await self._principals.add_group(name, caller.principal.id, note)

    async def remove_group(self, caller: Caller, name: str) -> None:
        """Remove a group; its name is never given again.

        Raises:
            NotFound: there is no such group.
            InUse: it is the administrators'.
        """
        await self._whole.permit(caller, Action.DELETE, [_group_name(name)])
        await self._principals.remove_group(name)

    async def add_member(self, caller: Caller, group: str, member: str, role: Role) -> None:
        """Put a principal into a group, or give it another role there; a manager may do so in its own.

        Raises:
            NotFound: there is no such group, or no such principal.
            Invalid: the group has as many members as it may.
        """
        await self._permit_member(caller, group, f"{member} as {role}" if _is_principal(member) else "a member")
        await self._principals.add_member(group, member, role)

    async def remove_member(self, caller: Caller, group: str, member: str) -> None:
        """Take a principal out of a group; a manager may do so in its own.

        Raises:
            NotFound: there is no such group, or no such member of it.
            InUse: it is the last administrator who can come in.
        """
        await self._permit_member(caller, group, f"without {member}" if _is_principal(member) else "without a member")
        await self._principals.remove_member(group, member)

    # Who may

    async def _permit(
        self, caller: Caller, action: Action, kind: Kind, name: str, about: str = "", *, admin: bool = False
    ) -> None:
        """Let *caller* change a principal; an administrator if it may change who is one."""
        record = _record_name(kind, name)
        await self._whole.expect(caller, action, [record])  # before the store is asked
        acts = [Act(action, record, about)]
        known = await self._principals.current()
        if admin or known.damaged is not None or ADMINISTRATORS in known.groups.get(f"{kind}:{name}", ()):
            acts.append(Act(Action.MODIFY, _ADMINISTRATION))
        await self._whole.permit_each(caller, acts)

    async def _permit_itself(self, caller: Caller, kind: Kind, name: str, about: str) -> None:
        if _is_itself(caller, kind, name):
            await self._own.permit(caller, Action.MODIFY, [_record_name(kind, name)], about)
        else:
            await self._permit(caller, Action.MODIFY, kind, name, about)

    async def _permit_credential(
        self, caller: Caller, kind: Kind, name: str, credential: NewCredential
    ) -> NewCredential:
        """Let *caller* add a credential, and return it as it may be: one's own ends with the one that is shown."""
        about = f"with a new {credential.kind}" if credential.kind in CREDENTIALS else "with a new credential"
        if not _is_itself(caller, kind, name):
            await self._permit(caller, Action.MODIFY, kind, name, about)
            return credential
        await self._check_fresh(caller, kind, name)
        ends = await self._ends(caller, kind, name)
        if ends is not None and credential.expires is None:
            credential = msgspec.structs.replace(credential, expires=ends)
        outlives = ends is not None and _is_later(credential.expires, ends)
        if _is_for_oneself(credential) and not outlives:
            await self._own.permit(caller, Action.MODIFY, [_record_name(kind, name)], about)
            return credential
        try:
            await self._permit(caller, Action.MODIFY, kind, name, about)
        except Denied:
            raise Forbidden(_OUTLIVES if _is_for_oneself(credential) else _NOT_FOR_ONESELF) from None
        return credential

    async def _check_fresh(self, caller: Caller, kind: Kind, name: str) -> None:
        """Refuse, and record that, who shows a token of a login a while ago, where it is about himself.

        Raises:
            Forbidden: he is to log in again.
            AuditUnavailable: it cannot be recorded.
        """
        since = caller.principal.since
        if since is None or not _is_itself(caller, kind, name):
            return
        if access.told(datetime.fromtimestamp(since, UTC) + FRESH) < self.now:
            await self._own.deny(caller, Action.MODIFY, _record_name(kind, name), "the login was too long ago")
            raise Forbidden(_STALE).advising(Step("log in again", "login"))

    async def _credential(self, kind: Kind, name: str, credential: str) -> Credential | None:
        """Return the credential of that id or name, if a principal has it."""
        return next((each for each in await self._held(kind, name) if credential in (each.id, each.name)), None)

    async def _ends(self, caller: Caller, kind: Kind, name: str) -> str | None:
        """Return when the credential that *caller* has shown, one of this principal, is worth nothing any more."""
        shown = caller.principal.credential
        return next((each.expires for each in await self._held(kind, name) if each.id == shown), None)

    async def _held(self, kind: Kind, name: str) -> Sequence[Credential]:
        """Return the credentials of a principal; none where there is no such one, or its record is damaged."""
        record = (await self._principals.current()).records.get(principal_name(kind, name))
        return record.credentials if isinstance(record, PrincipalRecord) else ()

    async def _permit_member(self, caller: Caller, group: str, about: str) -> None:
        door = self._own if await self._manages(caller, group) else self._whole
        await door.permit(caller, Action.MODIFY, [_group_name(group)], about)

    async def _manages(self, caller: Caller, group: str) -> bool:
        """Whether *caller* is a manager of *group*, by a record that is not damaged."""
        who = caller.principal
        if not who.ruled:
            return False
        known = await self._principals.current()
        found = known.records.get(names.GROUPS + group)
        is_manager = isinstance(found, Group) and found.members.get(who.id) is Role.MANAGER
        return is_manager and record_of(who.id) in known.records

    async def _made(self, given: NewCredential) -> Credential:
        return await making.make(
            given.kind, given.data, now=self.now, name=given.name, expires=given.expires, hashed=given.hashed
        )


def kind_and_name(principal: str) -> tuple[Kind, str]:
    """Return the kind and the name in ``user:ann``.

    Raises:
        Invalid: it is no user or service.
    """
    kind, _, name = principal.partition(":")
    try:
        return Kind(kind), access.check_name(name)
    except (ValueError, InvalidName):
        pass
    raise Invalid("a principal is user: or service:, and a name", (("principal", "is not one"),))


def _without(credential: Credential) -> str:
    return f"without the {credential.kind} {credential.id}"


def _is_principal(said: str) -> bool:
    """Whether it can be somebody's name, an API key's too: what else was said is not written down."""
    try:
        access.check_subject(said)
    except InvalidName:
        return False
    return record_of(said) is not None


def _is_itself(caller: Caller, kind: Kind, name: str) -> bool:
    """Whether *caller* is that principal, by its record; processes are called by numbers, and have none."""
    return caller.principal.ruled and caller.principal.id == f"{kind}:{name}"


def _is_for_oneself(credential: NewCredential) -> bool:
    """Whether who has no right may give it to himself: it is proven with each sign-in, and costs what ours do."""
    return credential.kind not in _TOLD_BY_OTHERS and not credential.hashed


def _is_later(expires: str | None, ends: str) -> bool:
    """Whether *expires* is behind *ends*; of what is no time whoever makes the credential says so."""
    try:
        return expires is not None and access.told(access.check_time(expires, "expires")) > ends
    except InvalidAccess:
        return False


def _known(known: Snapshot, kind: Kind, name: str) -> Known:
    found = known.records[principal_name(kind, name)]
    principal = f"{kind}:{name}"
    roles = {
        group: record.members[principal]
        for group in sorted(known.groups.get(principal, ()))
        if isinstance(record := known.records.get(names.GROUPS + group), Group)
    }
    return Known(name, found if isinstance(found, PrincipalRecord) else None, roles)


def _record_name(kind: Kind, name: str) -> str:
    return _checked(principal_name(kind, name))


def _group_name(name: str) -> str:
    return _checked(names.GROUPS + name)


def _checked(name: str) -> str:
    try:
        return names.check(name)
    except InvalidName:
        raise Invalid("that is not a name that somebody, or a group, can have") from None

"""Passwords that people show with each request, and whose they are: of a record, or of the users file.

A right one is remembered for a minute, as long as its principal has it; a wrong one is hashed each time. Passwords are
verified a few at a time, and those who wait have their turns by address and name (`Line`). Nothing of that depends on
whether there is somebody of the name, and a name that is nobody's takes as long as somebody's (`Passwords`).
"""

import asyncio
import functools
import hashlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NamedTuple

import msgspec

from strongroom.models import names
from strongroom.models.access import Credential, InvalidAccess, Kind, PrincipalRecord, told
from strongroom.storage_service.access.base import Principal
from strongroom.storage_service.access.credentials.making import PASSWORD
from strongroom.storage_service.access.credentials.password import Passwords, hashed, verify
from strongroom.storage_service.access.directory import Directory, Snapshot
from strongroom.storage_service.access.users_file import Users, UsersFile
from strongroom.storage_service.errors import Denied, ServiceError
from strongroom.storage_service.line import Line

REMEMBERED: Final = 60.0  # seconds that a right password is not hashed again
MAX_REMEMBERED: Final = 1024  # passwords
THREADS: Final = 2  # for hashing, which takes tens of milliseconds each time
MAX_WAITING: Final = 64  # sign-ins that wait for a thread; more are told to come back
PATIENCE: Final = 10.0  # seconds that one waits
COME_BACK: Final = 5.0  # seconds after which one is told to

_KINDS: Final = {names.USERS: Kind.USER, names.SERVICES: Kind.SERVICE}
_GONE: Final = tuple(names.SPENT + folder.removeprefix(names.ACCESS) for folder in _KINDS)

_log = logging.getLogger(__name__)

Keep = Callable[[Kind, str, Credential], Awaitable[None]]


class PasswordRefused(Denied):
    """A password is wrong; *claimed* is whose it was to be, where there is somebody of that name."""

    def __init__(self, claimed: str = "") -> None:
        super().__init__("wrong user or password")
        self.claimed = claimed


class _Claim(NamedTuple):
    """The principal that a caller claims to be, and the caller's address."""

    address: str
    name: str
    password: bytes
    digest: bytes  # of name and password

    def __repr__(self) -> str:
        return "<_Claim>"


class _Found(NamedTuple):
    """The credential that a password is; *anew*: its hash in the way of now, where it had an older one."""

    credential: Credential
    anew: Credential | None = None


@dataclass(frozen=True, slots=True)
class _Known:
    """Who has passwords, as of one state of the records, and until when none of them expires."""

    people: Mapping[str, Kind]
    by_name: Mapping[str, tuple[Credential, ...]]
    until: str | None
    users: Users = field(default_factory=dict)  # of the file, who have no record

    def kind_of(self, name: str) -> Kind | None:
        return self.people.get(name)


@dataclass(eq=False, slots=True)
class _Check:
    """A verification under way, and how many wait for what comes of it."""

    task: "asyncio.Task[Credential | None]"
    callers: int = 0


class SignIns:
    """Who signs in with a name and a password. Trusted: this class turns them into a principal.

    Args:
        directory: all records of access.
        keep: keeps another form of a principal's credential, the hash made anew.
        file: the users who have no records, if there is such a file. A name that has, or had, a record is its alone.
        clock: in seconds, for what is remembered.
        verify: whether a password is the one that was hashed so.
        now: the time, for what expires.
    """

    def __init__(
        self,
        directory: Directory,
        keep: Keep,
        file: UsersFile | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        verify: Callable[[str, bytes], bool] = verify,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._keep = keep
        self._file = file
        self._clock = clock
        self._verify = verify
        self._now = now
        self._snapshot: Snapshot | None = None
        self._users: Users = {}  # as the file had them last
        self._passed_over: set[str] = set()  # those of whom it was said that their record counts
        self._known = _Known({}, {}, None)
        self._passwords = Passwords({}, verify)
        self._remembered: dict[bytes, tuple[float, Credential]] = {}  # by digest: until when, and what it was
        self._digest_key = os.urandom(32)
        self._checks: dict[tuple[str, bytes], _Check] = {}  # by address, and digest of name and password
        self._line = Line(THREADS, MAX_WAITING, PATIENCE, COME_BACK)
        self._executor: ThreadPoolExecutor | None = None  # made on first use, after any fork
        self._keeping: dict[str, asyncio.Task[None]] = {}  # by the id of the credential

    def __repr__(self) -> str:
        return "<SignIns>"

    async def close(self) -> None:
        """Finish keeping what was hashed anew, and verify no more."""
        if self._keeping:
            await asyncio.wait(set(self._keeping.values()))
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    async def authenticate(self, name: str, password: bytes, address: str) -> Principal:
        """Return who *name* is, whose *password* this is; *address* is whom the sign-in counts for.

        Raises:
            PasswordRefused: there is no such user or service, or the password is another.
            Busy: too many sign-ins at once.
            Locked, Uninitialized, Unavailable: it cannot be told now.
        """
        snapshot = await self._directory.current()
        known = self._take(snapshot)
        digest = _digest(self._digest_key, name, password)
        until, shown = self._remembered.get(digest, (0.0, None))
        if shown is None or until < self._clock() or shown not in known.by_name.get(name, ()):
            shown = await self._sign_in(_Claim(address, name, password, digest))
            snapshot = await self._directory.current()  # as it is by now
            known = self._take(snapshot)
        kind = known.kind_of(name)
        if shown is None or kind is None or all(each.id != shown.id for each in known.by_name[name]):
            raise PasswordRefused("" if kind is None else f"{kind}:{name}")
        principal = f"{kind}:{name}"
        groups = snapshot.groups.get(principal, frozenset())
        if (user := known.users.get(name)) is not None:
            return user.principal(name, groups)
        return Principal(principal, groups=groups, ruled=True, credential=shown.id)

    async def _sign_in(self, claim: _Claim) -> Credential | None:
        """Return the credential that *claim* shows; verified once for all who say so from there at the same time.

        Raises:
            Busy: too many sign-ins at once.
        """
        key = claim.address, claim.digest
        check = self._checks.get(key)
        if check is None:
            check = self._checks[key] = _Check(asyncio.create_task(self._verified(claim)))
            check.task.add_done_callback(functools.partial(self._forget, key))
        check.callers += 1
        try:
            return await asyncio.shield(check.task)
        finally:
            check.callers -= 1
            if not check.callers and not check.task.done():  # nobody is left who would hear of it
                self._forget(key, check.task)
                check.task.cancel()

    async def _verified(self, claim: _Claim) -> Credential | None:
        """Return the credential that *claim* shows, as the records are when its turn comes."""
        await self._line.enter(claim.address, claim.name)
        try:
            known = self._take(await self._directory.current())
            if self._executor is None:
                self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="sign-in")
            hashing = asyncio.get_running_loop().run_in_executor(
                self._executor, _match, self._passwords, known.by_name, claim
            )
        except BaseException:
            self._line.leave()
            raise
        hashing.add_done_callback(lambda _: self._line.leave())  # a thread goes on, whoever leaves
        found = await asyncio.shield(hashing)
        if found is None:
            return None
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[claim.digest] = self._clock() + REMEMBERED, found.credential
        if found.anew is not None and claim.name not in known.users and found.credential.id not in self._keeping:
            kept = asyncio.create_task(self._keep_anew(known.people[claim.name], claim.name, found.anew))
            self._keeping[found.anew.id] = kept
            kept.add_done_callback(lambda _: self._keeping.pop(found.credential.id, None))
        return found.credential

    def _forget(self, key: tuple[str, bytes], task: "asyncio.Task[Credential | None]") -> None:
        if key in self._checks and self._checks[key].task is task:
            del self._checks[key]

    async def _keep_anew(self, kind: Kind, name: str, credential: Credential) -> None:
        """Keep a hash that was made anew; where that cannot be, it is made again with a later sign-in."""
        try:
            await self._keep(kind, name, credential)
        except ServiceError as error:
            _log.warning("the password of %s:%s was hashed anew, and that could not be kept: %s", kind, name, error)
        else:
            _log.info("the password of %s:%s is hashed as new ones are", kind, name)

    def _take(self, snapshot: Snapshot) -> _Known:
        """Return who has passwords in *snapshot*."""
        now = told(datetime.fromtimestamp(self._now(), UTC))
        users = {} if self._file is None else self._file.current()
        expired = self._known.until is not None and self._known.until <= now
        if snapshot is not self._snapshot or users is not self._users or expired:
            known = _known_in(snapshot, now, self._without_records(snapshot, users))
            self._users = users
            if known.by_name != self._known.by_name:
                self._passwords = Passwords(known.by_name, self._verify)
            self._snapshot, self._known = snapshot, known
        return self._known

    def _without_records(self, snapshot: Snapshot, users: Users) -> Users:
        """Return those of *users* whose names no record has or had, in whatever case; the log tells once of others."""
        if not users:
            return users
        ours = {folded for folded, whose in snapshot.taken.items() if not whose.startswith("apikey:")}
        ours |= {each.split("/")[-2].casefold() for each in snapshot.spent if each.startswith(_GONE)}
        for name in sorted(name for name in users if name.casefold() in ours and name not in self._passed_over):
            self._passed_over.add(name)
            _log.warning("%s has or had a record, which counts: the users file lets in nobody of that name", name)
        return {name: user for name, user in users.items() if name.casefold() not in ours}


def _known_in(snapshot: Snapshot, now: str, users: Users) -> _Known:
    people = dict.fromkeys(users, Kind.USER)
    by_name: dict[str, tuple[Credential, ...]] = {name: (user.credential(name),) for name, user in users.items()}
    ends: list[str] = []
    for place, record in snapshot.records.items():
        prefix, _, name = place.rpartition("/")
        kind = _KINDS.get(f"{prefix}/")
        if kind is None or not isinstance(record, PrincipalRecord) or record.disabled:
            continue
        shown = tuple(
            each
            for each in record.credentials
            if each.kind == PASSWORD and (each.expires is None or each.expires > now)
        )
        if shown:
            people[name], by_name[name] = kind, shown
            ends += [each.expires for each in shown if each.expires is not None]
    return _Known(people, by_name, min(ends, default=None), users)


def _match(
    passwords: Passwords, by_name: Mapping[str, tuple[Credential, ...]], claim: _Claim
) -> _Found | None:  # in a thread
    match = passwords.match(claim.name, claim.password)
    if match is None:
        return None
    credential = next(each for each in by_name[claim.name] if each.id == match.credential)
    if not match.rehash:
        return _Found(credential)
    try:
        return _Found(credential, msgspec.structs.replace(credential, data=hashed(claim.password.decode())))
    except (InvalidAccess, UnicodeDecodeError):  # too short for a new one: it stays as it is
        return _Found(credential)


def _digest(key: bytes, name: str, password: bytes) -> bytes:
    return hashlib.blake2b(b"%b:%b" % (name.encode(), password), key=key, digest_size=32).digest()

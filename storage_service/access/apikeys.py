"""API keys: an id and 256 random bits, of which the store keeps a verifier alone.

    system/access/apikeys/<id>   {"format":1,"verifier":"<SHA-256 of the key, hex>","paths":["/secrets"],
                                  "actions":["get","list"],"created":"2026-11-22T09:30:00Z"}

                                  "expires" ends it; "former" is the verifier of the key that it took the place of, and
                                  until when that one is good, too.

    system/spent/apikeys/<id>/   (empty) an id that was revoked, and is given to nobody else

An id leaves things under its name: its own container, lines in the audit log, places where it is let in.
So no id is given out twice, nor one that a user or a service has or had; in which case makes no difference.

A plain SHA-256 is enough because a key is random: there is nothing to guess (slow hashes are for people's passwords).
The record is encrypted like a secret, not to hide it but to seal it: who may write the store cannot plant a key, widen
one, or give one another's id. The `Directory` knows whether records are still so: a revoked key ends with the
revocation, on every worker and machine.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from strongroom.models import names
from strongroom.models.access import InvalidAccess, check_time, told
from strongroom.models.errors import InvalidName
from strongroom.models.names import APIKEYS
from strongroom.models.secret import Secret
from strongroom.models.steps import Step
from strongroom.models.strict_json import UNREADABLE
from strongroom.storage_service.access.base import ALL_ACTIONS, Action, Principal
from strongroom.storage_service.access.directory import Directory, Snapshot, refuse_taken, spent
from strongroom.storage_service.access.uses import FORMER, KEY, Uses
from strongroom.storage_service.backends.base import Change, Delete, Put
from strongroom.storage_service.config import ProxyKey
from strongroom.storage_service.errors import Contradicted, Denied, Exists, Invalid, NotFound

LONGEST_OVERLAP: Final = timedelta(days=90)
_FORMAT: Final = 1
_FOLDER: Final = "apikeys"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}", re.ASCII)
_OF_URLS: Final = "/api/"  # what addresses of the HTTP API begin with, and no name of a record
_VERIFIER = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Former(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The key before, which is good until it *ends*."""

    verifier: str
    ends: str


class ApiKeyRecord(msgspec.Struct, kw_only=True, rename={"format_": "format"}, forbid_unknown_fields=True):
    """What the store holds of a key; nothing in it opens anything."""

    format_: int = _FORMAT
    verifier: str
    paths: list[str]
    actions: list[Action]
    created: str  # RFC 3339, UTC, as the others
    expires: str | None = None
    former: Former | None = None


class Expired(Denied):
    """A key was right once. Whoever shows it is told no more than of a wrong one."""

    def __init__(self, why: str) -> None:
        super().__init__("wrong API id or key")
        self.inner = why


class ApiKeys:
    """The API keys of a store. Trusted: this class alone turns an id and a key into a principal."""

    def __init__(
        self,
        directory: Directory,
        own: tuple[str, Secret],
        *,
        proxy: ProxyKey | None = None,
        uses: Uses | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        random_key: Callable[[], str] = lambda: secrets.token_urlsafe(32),
    ) -> None:
        """Take the *directory* that holds them, the service's *own* id and key, the *proxy*'s, and what notes *uses*.

        These two are the ones that the configuration gives, and no record holds them. The own key reaches everything,
        the proxy's nothing.
        """
        self._directory = directory
        self._own = {own[0]: (_verifier(own[1].reveal()), Principal(f"apikey:{own[0]}", exempt=True))}
        if proxy is not None:
            principal = Principal(f"apikey:{proxy.api_id}", (), exempt=True)
            self._own[proxy.api_id] = (_verifier(proxy.api_key.reveal()), principal)
        self._uses = uses
        self._now = now
        self._random_key = random_key
        self._known = Snapshot()
        self._principals: dict[str, Principal] = {}  # of the snapshot that was known last

    @property
    def configured(self) -> frozenset[str]:
        """The ids of the keys that no record holds."""
        return frozenset(self._own)

    async def authenticate(self, key_id: str, key: str) -> Principal | None:
        """Return the principal whose *key* this is, or None; an unknown id takes the same steps as a wrong key.

        Raises:
            Expired: it was the principal's.
            Unavailable: the store does not answer, so nobody can be told from anybody.
            Undecipherable: the record was planted or edited in the store.
        """
        offered = _verifier(key)
        if key_id in self._own:
            own_verifier, own = self._own[key_id]
            return own if hmac.compare_digest(offered, own_verifier) else None
        known = await self._directory.current()
        record: ApiKeyRecord | None = known.record(APIKEYS + key_id)
        former = None if record is None else record.former
        # both are looked at for everybody: what stands in for one that there is not is nobody's, whatever is offered
        is_current = hmac.compare_digest(offered, _NOBODY if record is None else record.verifier)
        is_former = hmac.compare_digest(offered, _NOBODY if former is None else former.verifier)
        if record is None or not (is_current or (former is not None and is_former)):
            return None
        ends = record.expires if is_current or former is None else former.ends
        if ends is not None and ends <= told(self._now()):
            raise Expired("the key has expired" if is_current else "the key was rotated, and its overlap has ended")
        if self._uses is not None:
            self._uses.note(f"{_FOLDER}/{key_id}", KEY if is_current else FORMER)
        if known is not self._known:
            self._known, self._principals = known, {}
        principal = self._principals.get(key_id)
        if principal is None:
            self._principals[key_id] = principal = principal_of(known, key_id, record)
        return principal

    def knows(self, key_id: str | None) -> bool:
        """Whether *key_id* is the id of a key, as far as records were read here: it is for whoever just showed it."""
        return key_id is not None and (key_id in self._own or APIKEYS + key_id in self._directory.known.records)

    async def create(
        self, key_id: str, paths: Iterable[str], actions: Iterable[str], expires: str | None = None
    ) -> tuple[Secret, ApiKeyRecord]:
        """Make a new key, keep its verifier, and return the key, which nobody can tell again.

        Raises:
            Invalid: the id, a path, an action or the moment it expires is invalid.
            Exists: the name is taken, was so once, or is the service's own or its proxy's.
            Unavailable: the store does not answer.
        """
        if key_id.casefold() in map(str.casefold, self._own):
            raise Exists("that id is the service's own, or its proxy's")
        key = Secret(self._random_key())
        record = self._record(key_id, key, paths, actions)
        record.expires = self._checked(expires)

        def make(known: Snapshot) -> list[Change]:
            refuse_taken(known, key_id)
            return [Put(APIKEYS + key_id, msgspec.json.encode(record))]

        await self._directory.change(make)
        return key, record

    async def rotate(self, key_id: str, overlap: timedelta, expires: str | None = None) -> tuple[Secret, ApiKeyRecord]:
        """Make another key in the place of one, which stays good for the *overlap* and no longer than it was to be.

        Raises:
            Invalid: the overlap is negative or too long, or the new key would have expired.
            NotFound: there is no key of that id.
            Contradicted: the key before is still good: a third one would end it before its time.
            Unavailable: the store does not answer; with the fate of the rotation.
        """
        if not timedelta() <= overlap <= LONGEST_OVERLAP:
            why = f"an overlap is {LONGEST_OVERLAP.days} days at most"
            raise Invalid(why, (("overlap", "is too long"),))
        ends = self._checked(expires)
        key = Secret(self._random_key())
        made: list[ApiKeyRecord] = []

        def make(known: Snapshot) -> Sequence[Change]:
            record = _found(known, key_id)
            now = self._now()
            if record.former is not None and record.former.ends > told(now):
                raise Contradicted(f"the key before it is good until {record.former.ends}: end that first").advising(
                    Step("end it now", "apikey end-former", {"id": key_id})
                )
            last = min(told(now + overlap), record.expires or told(datetime.max.replace(tzinfo=UTC)))
            former = Former(verifier=record.verifier, ends=last) if overlap else None
            new = msgspec.structs.replace(
                record, verifier=_verifier(key.reveal()), created=told(now), expires=ends, former=former
            )
            made[:] = [new]
            return [Put(APIKEYS + key_id, msgspec.json.encode(new))]

        await self._directory.change(make)
        return key, made[0]

    async def end_former(self, key_id: str) -> None:
        """End the key before, for every request that begins after this returns.

        Raises:
            NotFound: there is no key of that id, or none before it that is still good.
            Unavailable: the store does not answer; with the fate of this.
        """

        def make(known: Snapshot) -> Sequence[Change]:
            record = _found(known, key_id)
            if record.former is None or record.former.ends <= told(self._now()):
                raise NotFound("no key before it is good any more")
            return [Put(APIKEYS + key_id, msgspec.json.encode(msgspec.structs.replace(record, former=None)))]

        await self._directory.change(make)

    async def list(self) -> list[tuple[str, ApiKeyRecord]]:
        """Return every key's id and record, by id."""
        return list((await self._directory.current()).below(APIKEYS).items())

    async def used(self, key_ids: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
        """Return when keys, and the ones before them, were last used (`KEY`, `FORMER`), as far as that is known."""
        if self._uses is None:
            return {}
        found = await self._uses.of_many([f"{_FOLDER}/{key_id}" for key_id in key_ids])
        return {owner.rpartition("/")[2]: each for owner, each in found.items()}

    async def revoke(self, key_id: str) -> None:
        """End a key, for every request that begins after this returns; its id is given to no other.

        Raises:
            NotFound: there is no key of that id.
            Unavailable: the store does not answer; with the fate of the revocation.
        """

        def make(known: Snapshot) -> list[Change]:
            if APIKEYS + key_id not in known.records:  # one that is damaged can be ended, too
                raise NotFound("there is no such API key")
            return [Delete(APIKEYS + key_id), Put(spent(_FOLDER, key_id), b"")]

        await self._directory.change(make)

    async def record(self, key_id: str) -> ApiKeyRecord:
        """Return the record of a key.

        Raises:
            NotFound: there is no key of that id.
            Undecipherable, Internal: the record was planted or edited in the store, or is of a later form.
            Unavailable: the store does not answer.
        """
        return _found(await self._directory.current(), key_id)

    def _checked(self, expires: str | None) -> str | None:
        """Return when a new key *expires*.

        Raises:
            Invalid: that is no moment, or has passed.
        """
        if expires is None:
            return None
        try:
            moment = check_time(expires, "expires")
        except InvalidAccess as error:
            raise Invalid(str(error), (("expires", "is not such a time"),)) from None
        if moment <= self._now():
            raise Invalid("that has passed: a key expires in the future", (("expires", "has passed"),))
        return expires

    def _record(self, key_id: str, key: Secret, paths: Iterable[str], actions: Iterable[str]) -> ApiKeyRecord:
        if _ID.fullmatch(key_id) is None:
            raise Invalid(
                "an API id is 1 to 64 of [A-Za-z0-9._@+-] and begins with a letter or digit",
                (("id", "is not an API id"),),
            )
        listed = list(paths)
        if not listed or not all(_is_path(path) for path in listed):
            raise Invalid(
                "paths begin with a slash and go on with a name, such as /secrets/db",
                (("paths", "is not a list of such paths"),),
            )
        if any(f"{path}/".startswith(_OF_URLS) for path in listed):
            raise Invalid(
                "a path is the name of records here, without what stands before it in a URL: /hosts, nothing before it",
                (("paths", "has an address of the HTTP API, which reaches nothing"),),
            )
        try:
            allowed = [Action(action) for action in actions]
        except ValueError:
            allowed = []
        if not allowed or not ALL_ACTIONS.issuperset(allowed):
            raise Invalid("actions are get, list, put and delete", (("actions", "is not a list of actions"),))
        created = told(self._now())
        return ApiKeyRecord(verifier=_verifier(key.reveal()), paths=listed, actions=allowed, created=created)

    def check(self, key_id: str, value: bytes) -> None:
        """Refuse what is no record of an API key that could be made here.

        Raises:
            Invalid: the id, or something in the record, is invalid; nothing of it is repeated.
        """
        if _ID.fullmatch(key_id) is None or key_id in self._own:
            raise Invalid("that is not the id of an API key, or it is the service's or its proxy's own")
        try:
            record = msgspec.json.decode(value, type=ApiKeyRecord)
        except UNREADABLE:
            raise Invalid("that is not the record of an API key") from None
        if (
            record.format_ != _FORMAT
            or _VERIFIER.fullmatch(record.verifier) is None
            or not (record.paths and all(_is_path(path) for path in record.paths))
            or not record.actions
            or not ALL_ACTIONS.issuperset(record.actions)
            or not _is_moment(record.expires)
            or not (record.former is None or _VERIFIER.fullmatch(record.former.verifier))
            or not (record.former is None or _is_moment(record.former.ends))
        ):
            raise Invalid("that is not the record of an API key")


def _found(known: Snapshot, key_id: str) -> ApiKeyRecord:
    record: ApiKeyRecord | None = known.record(APIKEYS + key_id)
    if record is None:
        raise NotFound("there is no such API key")
    return record


def _is_moment(said: str | None) -> bool:
    try:
        return said is None or bool(check_time(said, "expires"))
    except InvalidAccess:
        return False


def _is_path(entry: str) -> bool:
    """Whether *entry* is one of SimplePathAuthz: a slash and a name, perhaps with the mark for "exactly" behind it."""
    if not entry.startswith("/"):
        return False
    bare = entry[1:-1] if entry[1:].endswith((".", "/")) else entry[1:]
    try:
        return bare == "" or names.check(bare) == bare
    except InvalidName:
        return False


def principal_of(known: Snapshot, key_id: str, record: ApiKeyRecord) -> Principal:
    """Return who the key of that *record* is, in *known*."""
    name = f"apikey:{key_id}"
    groups = known.groups.get(name, frozenset())
    return Principal(name, tuple(record.paths), frozenset(record.actions), groups)


def _verifier(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def decode(text: bytes) -> ApiKeyRecord:
    """Return the record that *text* holds.

    Raises:
        ValueError, msgspec.MsgspecError: it holds none, or one of a later format.
    """
    record = msgspec.json.decode(text, type=ApiKeyRecord)
    if record.format_ != _FORMAT:
        raise ValueError
    return record


_NOBODY: Final = _verifier("")

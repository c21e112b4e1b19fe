"""API keys: an id and 256 random bits, of which the store keeps a verifier alone.

    system/access/apikeys/<id>   {"format":1,"verifier":"<SHA-256 of the key, hex>","paths":["/secrets"],
                                  "actions":["get","list"],"created":"2026-11-22T09:30:00Z"}

    system/spent/apikeys/<id>/   (empty) an id that was revoked, and is given to nobody else

An id leaves things under its name: its own container, lines in the audit log, places where it is let in.
So no id is given out twice.

A plain SHA-256 is enough because a key is random: there is nothing to guess (slow hashes are for people's passwords).
The record is encrypted like a secret, not to hide it but to seal it: who may write the store cannot plant a key, widen
one, or give one another's id. Every request asks the store for the record's revision, so that a revoked key ends with
the revocation, on every worker and machine; a record of a known revision is not opened twice. So that the holders of
keys are known while the service is locked, each worker opens records beforehand, when it gets the keys to do so.
"""

import asyncio
import contextlib
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Final

import msgspec

from strongroom.models import names
from strongroom.models.errors import InvalidName
from strongroom.models.names import APIKEYS, SPENT_APIKEYS
from strongroom.models.secret import Secret
from strongroom.models.strict_json import UNREADABLE
from strongroom.storage_service.access.base import Action, Principal
from strongroom.storage_service.backends.base import (
    ABSENT,
    PRESENT,
    Backend,
    Check,
    Conflict,
    Delete,
    Entry,
    Put,
    Vacant,
    pages,
)
from strongroom.storage_service.config import ProxyKey
from strongroom.storage_service.errors import Exists, Internal, Invalid, NotFound, ServiceError

_FORMAT: Final = 1
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}", re.ASCII)
_OF_URLS: Final = "/api/"  # what addresses of the HTTP API begin with, and no name of a record
_VERIFIER = re.compile(r"[0-9a-f]{64}", re.ASCII)


class ApiKeyRecord(msgspec.Struct, kw_only=True, rename={"format_": "format"}, forbid_unknown_fields=True):
    """What the store holds of a key; nothing in it opens anything."""

    format_: int = _FORMAT
    verifier: str
    paths: list[str]
    actions: list[Action]
    created: str


class ApiKeys:
    """The API keys of a store. Trusted: this class alone turns an id and a key into a principal."""

    def __init__(
        self,
        store: Backend,
        sealed: Backend,
        own: tuple[str, Secret],
        *,
        proxy: ProxyKey | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        random_key: Callable[[], str] = lambda: secrets.token_urlsafe(32),
    ) -> None:
        """Take the *store*, the encrypting backend round it (*sealed*), the service's *own* id and key, the *proxy*'s.

        These two are the ones that the configuration gives, and no record holds them. The own key reaches everything.
        """
        self._store = store
        self._sealed = sealed
        self._own = {own[0]: (_verifier(own[1].reveal()), Principal(f"apikey:{own[0]}"))}
        if proxy is not None:
            principal = Principal(f"apikey:{proxy.api_id}", proxy.paths)
            self._own[proxy.api_id] = (_verifier(proxy.api_key.reveal()), principal)
        self._now = now
        self._random_key = random_key
        self._opened: dict[str, tuple[int, str, Principal]] = {}  # id -> revision, verifier, principal
        self._learning: asyncio.Task[None] | None = None

    async def authenticate(self, key_id: str, key: str) -> Principal | None:
        """Return the principal whose *key* this is, or None; an unknown id takes the same steps as a wrong key.

        Raises:
            Unavailable: the store does not answer, so nobody can be told from anybody.
            Undecipherable: the record was planted or edited in the store.
        """
        offered = _verifier(key)
        if key_id in self._own:
            own_verifier, own = self._own[key_id]
            return own if hmac.compare_digest(offered, own_verifier) else None
        legal = _ID.fullmatch(key_id) is not None
        known = await self._known(key_id if legal else _NOBODY_ID)
        if known is None:
            hmac.compare_digest(offered, _NOBODY)
            return None
        _, verifier, principal = known
        return principal if hmac.compare_digest(offered, verifier) else None

    def knows(self, key_id: str | None) -> bool:
        """Whether *key_id* is the id of a key, as far as a record was opened here: it is for whoever just showed it."""
        return key_id is not None and (key_id in self._own or key_id in self._opened)

    def learn(self) -> None:
        """Begin to open records, as many as are in one page, while others are served."""
        if self._learning is None or self._learning.done():
            self._learning = asyncio.create_task(self._learn(), name="apikeys")

    async def close(self) -> None:
        """Open no more of them."""
        if self._learning is not None:
            self._learning.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._learning

    async def create(self, key_id: str, paths: Iterable[str], actions: Iterable[str]) -> tuple[Secret, ApiKeyRecord]:
        """Make a new key, keep its verifier, and return the key, which nobody can tell again.

        Raises:
            Invalid: the id, a path or an action is invalid.
            Exists: the id is taken, was so once, or is the service's own or its proxy's.
            Unavailable: the store does not answer.
        """
        if key_id in self._own:
            raise Exists("that id is the service's own, or its proxy's")
        key = Secret(self._random_key())
        record = self._record(key_id, key, paths, actions)
        try:
            await self._sealed.commit(
                [Put(APIKEYS + key_id, msgspec.json.encode(record), ABSENT), Check(spent(key_id), ABSENT)]
            )
        except Conflict as conflict:
            if any(change.name == spent(key_id) for change in conflict.failed if not isinstance(change, Vacant)):
                raise Exists("an API key of that id was revoked, and an id is never used again") from None
            raise Exists("an API key of that id exists") from None
        return key, record

    async def list(self) -> list[tuple[str, ApiKeyRecord]]:
        """Return every key's id and record, by id."""
        found: list[tuple[str, ApiKeyRecord]] = []
        async for page in pages(self._store.list, APIKEYS):
            entries = await self._sealed.get_many(page)
            found += [(name.removeprefix(APIKEYS), _decode(entries[name])) for name in page if name in entries]
        return found

    async def revoke(self, key_id: str) -> None:
        """End a key, for every request that begins after this returns; its id is given to no other.

        Raises:
            NotFound: there is no key of that id.
            Unavailable: the store does not answer; with the fate of the revocation.
        """
        if _ID.fullmatch(key_id) is None:
            raise NotFound("there is no such API key")
        try:
            # A container: a name that is there, in the clear, and carries nothing.
            await self._sealed.commit([Delete(APIKEYS + key_id, PRESENT), Put(spent(key_id), b"")])
        except Conflict:
            raise NotFound("there is no such API key") from None

    async def record(self, key_id: str) -> ApiKeyRecord:
        """Return the record of a key.

        Raises:
            NotFound: there is no key of that id.
            Undecipherable, Internal: the record was planted or edited in the store, or is of a later form.
            Unavailable: the store does not answer.
        """
        entry = await self._sealed.get(APIKEYS + key_id) if _ID.fullmatch(key_id) else None
        if entry is None:
            raise NotFound("there is no such API key")
        return _decode(entry)

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
                "a path is the name of records here, without what stands before it in a URL: /hosts, not /api/v0/hosts",
                (("paths", "has an address of the HTTP API, which reaches nothing"),),
            )
        try:
            allowed = [Action(action) for action in actions]
        except ValueError:
            allowed = []
        if not allowed:
            raise Invalid("actions are get, list, put and delete", (("actions", "is not a list of actions"),))
        created = self._now().isoformat(timespec="seconds").replace("+00:00", "Z")
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
        ):
            raise Invalid("that is not the record of an API key")

    async def _learn(self) -> None:
        # What cannot be told now is asked for again when somebody comes with the key, and he is told what is wrong.
        with contextlib.suppress(ServiceError):
            for name in (await self._store.list(APIKEYS)).names:
                with contextlib.suppress(Internal):
                    await self._known(name.removeprefix(APIKEYS))

    async def _known(self, key_id: str) -> tuple[int, str, Principal] | None:
        name = APIKEYS + key_id
        entry = await self._store.get(name)
        if entry is None:
            self._opened.pop(key_id, None)
            return None
        known = self._opened.get(key_id)
        if known is None or known[0] != entry.revision:
            opened = await self._sealed.get(name)
            if opened is None:
                return None
            record = _decode(opened)
            principal = Principal(f"apikey:{key_id}", tuple(record.paths), frozenset(record.actions))
            known = self._opened[key_id] = (opened.revision, record.verifier, principal)
        return known


def spent(key_id: str) -> str:
    """Return the name that is there when *key_id* was revoked."""
    return f"{SPENT_APIKEYS}{key_id}/"


def _is_path(entry: str) -> bool:
    """Whether *entry* is one of SimplePathAuthz: a slash and a name, perhaps with the mark for "exactly" behind it."""
    if not entry.startswith("/"):
        return False
    bare = entry[1:-1] if entry[1:].endswith((".", "/")) else entry[1:]
    try:
        return bare == "" or names.check(bare) == bare
    except InvalidName:
        return False


def _verifier(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _decode(entry: Entry) -> ApiKeyRecord:
    try:
        record = msgspec.json.decode(entry.value, type=ApiKeyRecord)
    except UNREADABLE:
        raise Internal("a stored API key record is damaged") from None
    if record.format_ != _FORMAT:
        raise Internal("a stored API key record is of a later format")
    return record


_NOBODY: Final = _verifier("")
_NOBODY_ID: Final = "-"  # no legal id, so no record has it

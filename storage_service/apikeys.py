"""API keys: an id and 256 random bits, of which the store keeps a verifier alone.

    system/access/apikeys/<id>   {"format":1,"verifier":"<SHA-256 of the key, hex>","paths":["/secrets"],
                                  "actions":["get","list"],"created":"2026-11-22T09:30:00Z"}

A plain SHA-256 is enough because a key is random: there is nothing to guess (slow hashes are for people's passwords).
Every request reads the record anew, so that a revoked key ends with the revocation, on every worker and machine.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Final

import msgspec

from models import names
from models.errors import InvalidName
from models.secret import Secret
from storage_service.authz.base import Action, Principal
from storage_service.backends.base import ABSENT, PRESENT, Backend, Conflict, Delete, Entry, Put
from storage_service.errors import Exists, Internal, Invalid, NotFound

PREFIX: Final = "system/access/apikeys/"
_FORMAT: Final = 1
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}", re.ASCII)


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
        backend: Backend,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        random_key: Callable[[], str] = lambda: secrets.token_urlsafe(32),
    ) -> None:
        self._backend = backend
        self._now = now
        self._random_key = random_key
        # id -> (revision, verifier, principal): parsing is spared while the record read is the one parsed before
        self._parsed: dict[str, tuple[int, str, Principal]] = {}

    async def authenticate(self, key_id: str, key: str) -> Principal | None:
        """Return the principal whose *key* this is, or None; an unknown id takes the same steps as a wrong key.

        Raises:
            Unavailable: the store does not answer, so nobody can be told from anybody.
        """
        legal = _ID.fullmatch(key_id) is not None
        entry = await self._backend.get(PREFIX + (key_id if legal else "-"))
        offered = _verifier(key)
        if entry is None or not legal:
            hmac.compare_digest(offered, _NOBODY)
            return None
        verifier, principal = self._read(key_id, entry)
        return principal if hmac.compare_digest(offered, verifier) else None

    async def create(self, key_id: str, paths: Iterable[str], actions: Iterable[str]) -> tuple[Secret, ApiKeyRecord]:
        """Make a new key, keep its verifier, and return the key, which nobody can tell again.

        Raises:
            Invalid: the id, a path or an action is none.
            Exists: the id is taken.
            Unavailable: the store does not answer.
        """
        key = Secret(self._random_key())
        record = self._record(key_id, key, paths, actions)
        try:
            await self._backend.commit([Put(PREFIX + key_id, msgspec.json.encode(record), ABSENT)])
        except Conflict:
            raise Exists("an API key of that id exists") from None
        return key, record

    async def ensure(self, key_id: str, key: Secret) -> None:
        """See to it that *key* is valid for *key_id*, everywhere: the key that the configuration gives us ourselves.

        Raises:
            Invalid: the id is none.
            Unavailable: the store does not answer.
        """
        entry = await self._backend.get(PREFIX + key_id)
        if entry is not None and hmac.compare_digest(self._read(key_id, entry)[0], _verifier(key.reveal())):
            return
        record = self._record(key_id, key, ["/"], list(Action))
        await self._backend.commit([Put(PREFIX + key_id, msgspec.json.encode(record))])

    async def list(self) -> list[tuple[str, ApiKeyRecord]]:
        """Return every key's id and record, by id."""
        found: list[tuple[str, ApiKeyRecord]] = []
        after: str | None = None
        while True:
            page = await self._backend.list(PREFIX, after)
            entries = await self._backend.get_many(page.names) if page.names else {}
            found += [(name.removeprefix(PREFIX), _decode(entries[name])) for name in page.names if name in entries]
            if not page.more:
                return found
            after = page.names[-1]

    async def revoke(self, key_id: str) -> None:
        """End a key, for every request that begins after this returns.

        Raises:
            NotFound: there is no key of that id.
            Unavailable: the store does not answer; with the fate of the revocation.
        """
        if _ID.fullmatch(key_id) is None:
            raise NotFound("there is no such API key")
        try:
            await self._backend.commit([Delete(PREFIX + key_id, PRESENT)])
        except Conflict:
            raise NotFound("there is no such API key") from None
        self._parsed.pop(key_id, None)

    def _record(self, key_id: str, key: Secret, paths: Iterable[str], actions: Iterable[str]) -> ApiKeyRecord:
        if _ID.fullmatch(key_id) is None:
            raise Invalid(
                "an API id is 1 to 64 of [A-Za-z0-9._@+-] and begins with a letter or digit",
                (("id", "is not an API id"),),
            )
        listed = list(paths)
        if not listed or not all(_is_path(path) for path in listed):
            raise Invalid("a path is a slash and segments", (("paths", "is not a list of paths"),))
        try:
            allowed = [Action(action) for action in actions]
        except ValueError:
            allowed = []
        if not allowed:
            raise Invalid("actions are get, list, put and delete", (("actions", "is not a list of actions"),))
        created = self._now().isoformat(timespec="seconds").replace("+00:00", "Z")
        return ApiKeyRecord(verifier=_verifier(key.reveal()), paths=listed, actions=allowed, created=created)

    def _read(self, key_id: str, entry: Entry) -> tuple[str, Principal]:
        parsed = self._parsed.get(key_id)
        if parsed is None or parsed[0] != entry.revision:
            record = _decode(entry)
            principal = Principal(f"apikey:{key_id}", tuple(record.paths), frozenset(record.actions))
            parsed = self._parsed[key_id] = (entry.revision, record.verifier, principal)
        return parsed[1], parsed[2]


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
    except msgspec.DecodeError:
        raise Internal("a stored API key record is damaged") from None
    if record.format_ != _FORMAT:
        raise Internal("a stored API key record is of a later format")
    return record


_NOBODY: Final = _verifier("")

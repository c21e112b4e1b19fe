"""Logging in, and the tokens that come of it: who shows one, and when it is worth nothing any more.

A token says who it speaks for, which credential it was given for, and the epoch of the principal. It is good as long as
all of that is so, and until it expires: what the `Directory` says is asked at each request, so that what ends here ends
at once, on every worker and machine. It is flat: no token is made of a token.
"""

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple, Protocol

import msgspec

from strongroom.models import names
from strongroom.models.access import Credential, Kind, PrincipalRecord, check_time, told
from strongroom.storage_service.access import durations
from strongroom.storage_service.access.base import Principal
from strongroom.storage_service.access.challenges import Challenges, LoginRefused, Proof, Reason, Sealed
from strongroom.storage_service.access.credentials.access_key import access_key
from strongroom.storage_service.access.derivation import challenge_keys, token_secrets
from strongroom.storage_service.access.directory import Directory, Snapshot
from strongroom.storage_service.access.tokens import Claims, Failure, Signer, TokenRefused, Verifier
from strongroom.storage_service.access.uses import Uses
from strongroom.storage_service.backends.base import ABSENT, Backend, Change, Conflict, Delete, Put
from strongroom.storage_service.errors import NotFound
from strongroom.storage_service.wire import login

ISSUER: Final = "strongroom"
AUDIENCE: Final = "strongroom"
LONGEST: Final = {Kind.USER: timedelta(minutes=10), Kind.SERVICE: timedelta(hours=1)}
_FOLDERS: Final = {Kind.USER: "users", Kind.SERVICE: "services"}  # of rows of uses
KEPT: Final = 300  # seconds that a mark outlives its challenge, which a machine whose clock is behind takes for so long
SWEPT: Final = 8  # marks of old logins that one login takes away, and revocations that one revocation does
REMEMBERED: Final = 1024  # tokens whose signature need not be looked at twice
FRESH: Final = 1.0  # seconds between two looks whether the keys were rotated elsewhere, for what they did not sign


class Desk(NamedTuple):
    """What is made of the keys."""

    signer: Signer
    verifier: Verifier
    challenges: Challenges


class Desks(Protocol):
    """Where the desk of now is had from."""

    async def current(self) -> Desk:
        """Return the desk of the keys that are held.

        Raises:
            Locked, Uninitialized: there are none.
            Unavailable: the store does not answer.
        """

    async def refreshed(self) -> Desk:
        """Return the desk of the keys in the store, which somebody else may have rotated; raises as `current`."""


def desk(keys: tuple[bytes, ...]) -> Desk:
    """Return what logins and tokens are made and read with; *keys* come newest first."""
    made = token_secrets(keys)
    longest = int(max(LONGEST.values()).total_seconds())
    return Desk(Signer(made[0], ISSUER, longest), Verifier(made, AUDIENCE, (ISSUER,)), Challenges(challenge_keys(keys)))


class Revocation(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A token that is worth nothing, from when on, and when it would have expired."""

    expires: str
    after: str | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """A token that was given out, for whom and to which of his credentials. It stays out of the repr."""

    text: str
    principal: str
    expires: str
    jti: str
    credential: str

    def __repr__(self) -> str:
        return f"<Token for {self.principal}>"


class Logins:
    """Who logs in, and who shows a token. Trusted: this class alone turns either into a principal."""

    def __init__(
        self,
        directory: Directory,
        sealed: Backend,
        keys: Desks,
        *,
        longest: dict[Kind, timedelta] | None = None,
        uses: Uses | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Take the *directory*, the encrypting backend, the *keys*, and how long tokens live at most.

        *uses*: what notes the uses of credentials.
        """
        self._directory = directory
        self._sealed = sealed
        self._keys = keys
        self._longest = longest or LONGEST
        self._uses = uses
        self._now = now
        self._verified: OrderedDict[bytes, Claims] = OrderedDict()  # by the hash of the token
        self._verified_by: Verifier | None = None
        self._looked = float("-inf")

    async def challenge(self, asked: login.AskedChallenge) -> login.Challenge:
        """Return a challenge for whoever asks; no record is read for it.

        Raises:
            Invalid: what was asked for is malformed.
            Locked, Uninitialized, Unavailable: there are no keys to seal it with.
        """
        return (await self._keys.current()).challenges.give(asked)

    async def log_in(self, answer: login.Answer, services: frozenset[str] | None = None) -> Token:
        """Return a token for whoever answered a challenge, which is good once.

        Raises:
            LoginRefused: the answer is wrong; why, is for the log alone.
            Invalid: the lifetime is malformed.
            Locked, Uninitialized, Unavailable: it cannot be told now.
        """
        del services
        now = datetime.fromtimestamp(self._now(), UTC)
        opened = await self._opened(answer.challenge)
        known = await self._directory.current()
        kind, name = _parted(opened.principal)
        record = None if kind is None else known.principal(kind, name)
        usable = [] if record is None else [each for each in record.credentials if _holds(record, each, now)]
        keys = {_fingerprint(each.data): each for each in usable if each.kind == "access-key"}
        proof = opened.proven_by(answer.answer, keys.keys())
        await self._mark(proof, now)
        assert kind is not None  # noqa: S101  # what is proven has keys
        assert record is not None  # noqa: S101
        credential = keys[proof.fingerprint].id
        token = await self.issue(kind, name, record, credential, answer.lifetime)
        if self._uses is not None:
            self._uses.note(f"{_FOLDERS[kind]}/{name}", credential)
        return token

    async def issue(self, kind: Kind, name: str, record: PrincipalRecord, credential: str, lifetime: str = "") -> Token:
        """Return a token for a principal that has shown *credential*.

        Raises:
            ValueError: the lifetime is malformed.
            Locked, Uninitialized, Unavailable: there are no keys to sign it with.
        """
        lives = durations.clipped(lifetime, self._longest[kind])
        signer = (await self._keys.current()).signer
        seconds = max(1, int(lives.total_seconds()))
        principal = f"{kind}:{name}"
        expires = told(datetime.fromtimestamp(int(self._now()) + seconds, UTC))
        jti = secrets.token_hex(16)
        text = signer.sign(
            AUDIENCE,
            principal,
            jti,
            {"credential": credential, "epoch": record.epoch},
            ttl_seconds=seconds,
        )
        return Token(text, principal, expires, jti, credential)

    async def authenticate(self, token: str) -> tuple[Principal, Claims]:
        """Return whom *token* speaks for, and what it says.

        Raises:
            TokenRefused: it is worth nothing, or no more.
            Locked, Uninitialized, Unavailable: it cannot be told now.
        """
        claims = await self._claims(token)
        known = await self._directory.current()
        kind, name = _parted(claims.sub or "")
        record = None if kind is None else known.principal(kind, name)
        now = datetime.fromtimestamp(self._now(), UTC)
        credential = claims.extra.get("credential")
        held = () if record is None else record.credentials
        shown = next((each for each in held if each.id == credential), None)
        if record is None or shown is None or not _holds(record, shown, now):
            raise TokenRefused(Failure.INVALID)
        ended = record.ends is not None and record.ends <= told(now) and claims.iat < _seconds(record.ends)
        if ended or claims.extra.get("epoch") != record.epoch or _is_revoked(known, claims.jti or "", now):
            raise TokenRefused(Failure.INVALID)
        principal = f"{kind}:{name}"
        groups = known.groups.get(principal, frozenset())
        return Principal(principal, groups=groups, ruled=True, credential=shown.id, since=claims.iat), claims

    async def revoke(self, token: str | None = None, *, jti: str = "", after: timedelta = timedelta()) -> None:
        """Make one token worth nothing, at once or *after* a while: the one that is shown, or the one of that id.

        Raises:
            TokenRefused: the one that is shown is worth nothing already.
            NotFound: there can be no token of that id.
        """
        now = datetime.fromtimestamp(self._now(), UTC)
        expires = told(now + max(self._longest.values()) + timedelta(minutes=1))
        if token is not None:
            claims = await self._claims(token)
            jti = claims.jti or ""
        if len(jti) != 32 or not set(jti) <= set("0123456789abcdef"):
            raise NotFound("there is no token of that id")
        revoked = Revocation(expires=expires, after=told(now + after) if after else None)

        def make(known: Snapshot) -> list[Change]:
            old = [name for name, each in known.below(names.REVOKED).items() if each.expires <= told(now)]
            return [
                Put(names.REVOKED + jti, msgspec.json.encode(revoked)),
                *(Delete(names.REVOKED + each) for each in old[:SWEPT]),
            ]

        await self._directory.change(make)

    async def _claims(self, token: str) -> Claims:
        """Return what *token* says, if it was signed here and has not expired."""
        verifier = (await self._keys.current()).verifier
        if verifier is not self._verified_by:
            self._verified.clear()
            self._verified_by = verifier
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        claims = self._verified.get(digest)
        if claims is not None:
            if claims.exp > self._now():
                return claims
            del self._verified[digest]
        try:
            claims = verifier.verify(token)
        except TokenRefused as refused:
            if refused.failure is not Failure.SIGNATURE or not await self._rotated():
                raise
            return await self._claims(token)
        if len(self._verified) >= REMEMBERED:
            self._verified.popitem(last=False)
        self._verified[digest] = claims
        return claims

    async def _rotated(self) -> bool:
        """Whether the keys were rotated elsewhere; looked at once a second at most, for strangers may ask for it."""
        now = time.monotonic()
        if now < self._looked + FRESH:
            return False
        self._looked = now
        before = await self._keys.current()
        return await self._keys.refreshed() is not before

    async def _opened(self, challenge: str) -> Sealed:
        try:
            return (await self._keys.current()).challenges.open(challenge)
        except LoginRefused as refused:
            if refused.reason is not Reason.UNSEALED or not await self._rotated():
                raise
        return (await self._keys.current()).challenges.open(challenge)

    async def _mark(self, proof: Proof, now: datetime) -> None:
        """Write that a challenge was answered, and take away marks of such as have expired on every machine.

        Raises:
            LoginRefused: it was answered before.
        """
        mark = Put(names.LOGINS + proof.mark, b"{}", ABSENT)
        page = await self._sealed.list(names.LOGINS, None, max(1, min(SWEPT, self._sealed.max_batch - 1)))
        expired = f"{names.LOGINS}{int(now.timestamp()) - KEPT:010x}-"
        changes: list[Change] = [mark, *(Delete(name) for name in page.names if name < expired)]
        try:
            await self._sealed.commit(changes)
        except Conflict:
            raise LoginRefused(Reason.ANSWERED) from None


def decode_revocation(text: bytes) -> Revocation:
    """Return the record of a token that was revoked.

    Raises:
        ValueError, InvalidAccess: it is damaged.
    """
    revoked = msgspec.json.decode(text, type=Revocation)
    check_time(revoked.expires, "expires")
    return revoked


@lru_cache(maxsize=4096)
def _fingerprint(data: str) -> str:
    """Return what an access key is known by; to read one takes as long as to verify with it, and tells who has many."""
    return access_key(data).fingerprint


def _parted(principal: str) -> tuple[Kind | None, str]:
    kind, _, name = principal.partition(":")
    return (Kind(kind), name) if kind in ("user", "service") else (None, name)


def _holds(record: PrincipalRecord, credential: Credential, now: datetime) -> bool:
    """Whether a credential lets its principal in."""
    return not record.disabled and (credential.expires is None or credential.expires > told(now))


def _is_revoked(known: Snapshot, jti: str, now: datetime) -> bool:
    revoked: Revocation | None = known.record(names.REVOKED + jti)
    return revoked is not None and (revoked.after is None or revoked.after <= told(now))


def _seconds(text: str) -> float:
    return check_time(text, "ends").timestamp()

"""The challenge of a login: a sealed token that is kept nowhere, and one answer to it.

A stranger who asks for one writes nothing, and learns nothing: it is made of what was asked, and no record is read. So
a name that is nobody's gets what everybody gets, at the same cost. To be decrypted, the challenge is encrypted to the
public key that the asker brings; whether it is anybody's key is asked when the answer is there.

The answer is a signature (`SSHSIG`) over nonce, principal and the service's address, or the nonce that was encrypted
with these two. It is good once: whoever lets somebody in commits the `Proof.mark`, guarded by its absence, in the same
commit as everything else; a mark may go when its expiry, the number that it begins with, has passed.
"""

import hashlib
import hmac
import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, NoReturn

import msgspec

from strongroom.models.access import InvalidAccess, told
from strongroom.models.strict_json import UNREADABLE
from strongroom.storage_service.access.credentials.access_key import NotProven, access_key, key_of
from strongroom.storage_service.errors import Denied, Invalid, Undecipherable
from strongroom.storage_service.jose import base64url, jwe, to_public_key
from strongroom.storage_service.jose.key import Key
from strongroom.storage_service.wire import login, ssh

_KID: Final = "login"
_BOUND: Final = "login/challenge"  # what a sealed challenge is bound to, so that it is nothing else
_NONCE: Final = 32  # bytes


class Reason(StrEnum):
    """Why a login failed. For the log: outside, all of these are one."""

    UNSEALED = "the challenge was not made here"
    EXPIRED = "the challenge has expired"
    WRONG = "the answer is wrong"
    ANSWERED = "the challenge was answered before"
    NOT_REGISTERED = "the key is not among the principal's access keys"


class LoginRefused(Denied):
    """A login failed. *reason* and *detail* stay inside."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__("the login failed")
        self.reason = reason
        self.detail = self.inner = detail or reason.value


@dataclass(frozen=True, slots=True)
class Proof:
    """Who logged in, with which access key; *mark* is the name that makes it the only time."""

    principal: str
    service: str
    fingerprint: str
    mark: str


class Sealed(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What a challenge holds; only this service reads it."""

    principal: str
    service: str
    how: login.How
    nonce: str
    expires: int
    fingerprint: str = ""  # of the key that it was encrypted to

    def __repr__(self) -> str:
        return f"<Sealed for {self.principal}>"

    @property
    def mark(self) -> str:
        """The name of what is written when it was answered: when it expires, and which it was."""
        return f"{self.expires:010x}-{hashlib.sha256(self.nonce.encode()).hexdigest()}"

    def proven_by(self, answer: str, registered: Collection[str]) -> Proof:
        """Return the proof that *answer* is.

        Args:
            answer: a signature in armour, or the nonce.
            registered: the fingerprints of the access keys that are the principal's and good now; empty, where there is
                no such principal. They are looked at last: until then the work is the same for everybody.

        Raises:
            LoginRefused: it proves nothing.
        """
        fingerprint = self._signed(answer) if self.how == "sign" else self._decrypted(answer)
        if fingerprint not in registered:
            raise LoginRefused(Reason.NOT_REGISTERED)
        return Proof(self.principal, self.service, fingerprint, self.mark)

    def _signed(self, answer: str) -> str:
        try:
            signature = ssh.signature_of(answer)
            key = key_of(signature.key)
            message = login.message(self.nonce, self.principal, self.service)
            key.verify(ssh.to_be_signed(message, signature.hash), signature.signature)
        except (ssh.Malformed, NotProven, InvalidAccess) as error:
            detail = str(error)
        else:
            return key.fingerprint
        raise LoginRefused(Reason.WRONG, detail)

    def _decrypted(self, answer: str) -> str:
        given = answer.encode(errors="replace")
        if not hmac.compare_digest(given, self.nonce.encode()):
            raise LoginRefused(Reason.WRONG)
        return self.fingerprint


class Challenges:
    """Makes challenges and opens them. Any worker of any machine with the same keys opens what another made."""

    __slots__ = ("_keys", "_now", "_random")

    def __init__(
        self,
        keys: Sequence[bytes],
        *,
        now: Callable[[], float] = time.time,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Take the *keys* of ``derivation.challenge_keys``, newest first: the first one seals, each opens.

        Raises:
            ValueError: there is none, or one is not 64 bytes.
        """
        if not keys:
            raise ValueError("challenges are sealed with one key or more")
        self._keys = [Key(_KID, key) for key in keys]
        self._now = now
        self._random = random

    def __repr__(self) -> str:
        return f"<Challenges under {len(self._keys)} keys>"

    def give(self, asked: login.AskedChallenge) -> login.Challenge:
        """Return a challenge for whoever asks; that the address is one of the service's is for the caller to see.

        Raises:
            Invalid: what was asked for is malformed, or the key cannot decrypt.
        """
        nonce = base64url.encode(self._random(_NONCE)).decode()
        try:
            message = login.message(nonce, asked.principal, asked.service)
        except ValueError as error:
            raise Invalid(str(error)) from None
        expires = int(self._now()) + login.LIFETIMES[asked.how]
        encrypted, fingerprint = "", ""
        if asked.how == "decrypt":
            encrypted, fingerprint = _encrypted(asked.key, message)
        elif asked.key:
            _refuse("key", "a challenge to be signed is for any key")
        sealed = Sealed(
            principal=asked.principal,
            service=asked.service,
            how=asked.how,
            nonce=nonce,
            expires=expires,
            fingerprint=fingerprint,
        )
        return login.Challenge(
            how=asked.how,
            challenge=jwe.encrypt(self._keys[0], _BOUND, msgspec.json.encode(sealed), self._random).decode(),
            expires=told(datetime.fromtimestamp(expires, UTC)),
            nonce=nonce if asked.how == "sign" else "",
            encrypted=encrypted,
        )

    def open(self, challenge: str) -> Sealed:
        """Return what *challenge* holds.

        Raises:
            LoginRefused: it was not made here, or has expired.
        """
        text = challenge.encode(errors="replace")
        if len(text) <= login.MAX_CHALLENGE:
            for key in self._keys:
                try:
                    sealed = msgspec.json.decode(jwe.decrypt({_KID: key}, _BOUND, text), type=Sealed)
                except (Undecipherable, *UNREADABLE):
                    continue
                if sealed.expires <= self._now():
                    raise LoginRefused(Reason.EXPIRED)
                return sealed
        raise LoginRefused(Reason.UNSEALED)


def _encrypted(line: str, message: bytes) -> tuple[str, str]:
    """Return *message*, encrypted to the key that *line* spells, and the key's fingerprint."""
    try:
        key = access_key(line)
    except InvalidAccess as error:
        raise Invalid("the key is not accepted", (("key", str(error)),)) from None
    if key.encrypts is None:
        _refuse("key", "a key of this kind signs and does not decrypt")
    return to_public_key.encrypt(key.encrypts, message).decode(), key.fingerprint


def _refuse(field: str, why: str) -> NoReturn:
    raise Invalid("a challenge cannot be made so", ((field, why),))

"""Passwords of people, kept as Argon2id (RFC 9106); bcrypt, which older files have, is taken and to be hashed anew.

Verifying takes tens of milliseconds, on purpose, so it is for a thread. A name that is nobody's costs what somebody's
does: it is tried against the hashes of some principal, always the same one for a name, and refused whatever comes of
it. Each principal bids for a name, with a keyed hash under its own hashes, and the highest bid has it; so of unknown
names as many take long as of known ones, and who does not know the hashes cannot tell which.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import argon2
import bcrypt

from strongroom.models.access import Credential, InvalidAccess

MIN_CHARACTERS: Final = 8
MAX_BYTES: Final = 1024
BCRYPT_BYTES: Final = 72  # all that bcrypt ever looked at
MIN_MEMORY: Final = 7 * 1024  # KiB
MIN_WORK: Final = 5 * MIN_MEMORY  # memory by passes: the least that is advised, however it is parted
MAX_MEMORY: Final = 64 * 1024  # KiB; a hash that asks for more stops the service rather than the guesser
MAX_WORK: Final = 4 * MAX_MEMORY
MAX_LANES: Final = 4
BCRYPT_COSTS: Final = range(10, 16)  # powers of two of its rounds

_ARGON2: Final = "$argon2"
_BCRYPT: Final = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}", re.ASCII)


class Match(NamedTuple):
    """The credential that a password is; *rehash*: it is kept in an older way than passwords are hashed now."""

    credential: str
    rehash: bool


def hashed(password: str) -> str:
    """Return how *password* is kept. Takes tens of milliseconds.

    Raises:
        InvalidAccess: it is too short or too long.
    """
    octets = password.encode(errors="surrogatepass")
    if len(password) < MIN_CHARACTERS or len(octets) > MAX_BYTES:
        raise InvalidAccess(f"a password is {MIN_CHARACTERS} characters or more, and at most {MAX_BYTES} bytes", "data")
    return argon2.PasswordHasher().hash(octets)


def verify(stored: str, password: bytes) -> bool:
    """Return whether *password* is the one that was hashed as *stored*. Takes tens of milliseconds."""
    try:
        if stored.startswith(_ARGON2):
            return argon2.PasswordHasher().verify(stored, password)
        return bcrypt.checkpw(password[:BCRYPT_BYTES], stored.encode())
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError, ValueError):
        return False


def is_old(stored: str) -> bool:
    """Return whether *stored* is to be hashed anew, now that the password is known."""
    return not stored.startswith("$argon2id$") or argon2.PasswordHasher().check_needs_rehash(stored)


class Passwords:
    """The passwords of all principals as they are at one moment: made anew when access changes."""

    __slots__ = ("_by_name", "_rows", "_verify")

    def __init__(
        self,
        by_name: Mapping[str, Sequence[Credential]],
        verify: Callable[[str, bytes], bool] = verify,
    ) -> None:
        """Take the credentials of kind ``password`` of each principal that has any."""
        self._by_name = {name: tuple(each) for name, each in by_name.items() if each}
        self._rows = [(_bidder(each), each) for each in self._by_name.values()]
        self._verify = verify

    def __repr__(self) -> str:
        return f"<Passwords of {len(self._by_name)}>"

    def match(self, name: str, password: bytes) -> Match | None:
        """Return which credential of the principal *name* the *password* is; as slow where there is none of the name.

        Each of its passwords is tried, whichever it was. Takes tens of milliseconds for each.
        """
        if not self._rows or len(password) > MAX_BYTES:
            return None
        own, other = self._by_name.get(name), self._stand_in(name)  # both for everybody: it takes a moment
        right = [each for each in own or other if self._verify(each.data, password)]
        return Match(right[0].id, is_old(right[0].data)) if own and right else None

    def _stand_in(self, name: str) -> tuple[Credential, ...]:
        bid_for = hashlib.blake2b(name.encode(errors="surrogatepass")).digest()
        return max(self._rows, key=lambda row: hashlib.blake2b(bid_for, key=row[0], digest_size=16).digest())[1]


def _bidder(credentials: tuple[Credential, ...]) -> bytes:
    return hashlib.blake2b("\n".join(each.data for each in credentials).encode()).digest()


def canonical(given: str) -> str:
    """Return the hash *given*, as an older file has it; a password itself is for `hashed`.

    Raises:
        InvalidAccess: it is no hash of Argon2 or bcrypt, or costs less than is safe or more than can be borne.
    """
    if found := _BCRYPT.fullmatch(given):
        if int(found[1]) in BCRYPT_COSTS:
            return given
        raise InvalidAccess(f"a hash of bcrypt has a cost of {BCRYPT_COSTS[0]} to {BCRYPT_COSTS[-1]}", "data")
    try:
        asked = argon2.extract_parameters(given)
    except (argon2.exceptions.InvalidHashError, ValueError):
        raise InvalidAccess("a password is kept as a hash of Argon2 or bcrypt", "data") from None
    if (
        asked.memory_cost > MAX_MEMORY
        or asked.memory_cost * asked.time_cost > MAX_WORK
        or asked.parallelism > MAX_LANES
    ):
        raise InvalidAccess(
            f"a hash of Argon2 takes at most {MAX_MEMORY:,} KiB, by its passes {MAX_WORK:,}, and {MAX_LANES} lanes",
            "data",
        )
    if asked.memory_cost < MIN_MEMORY or asked.memory_cost * asked.time_cost < MIN_WORK:
        raise InvalidAccess(
            f"a hash of Argon2 takes {MIN_MEMORY:,} KiB or more, and by its passes {MIN_WORK:,} or more", "data"
        )
    return given


def identity(data: str) -> None:
    """Return None: two people may have the same password, and nobody is told."""
    del data


def shown(data: str) -> dict[str, str]:
    """Return how it is hashed, and nothing of it."""
    return {"hash": "argon2" if data.startswith(_ARGON2) else "bcrypt"}

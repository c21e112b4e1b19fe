"""Users and passwords (RFC 7617), from a file of password hashes.

    {"alice": {"hash": "$argon2id$v=19$…", "reveal_credentials": true}, "bob": {"hash": "$2b$12$…"}}

Hashes are Argon2 (RFC 9106) or bcrypt. The file is read again when it changes; one that cannot be read, that others
than its owner may write, or that holds anything else, lets nobody in, and the log says so without quoting it.

A wrong password and an unknown user cost the same: the unknown are checked against the hash of some user, and refused
whatever comes of it. A user's hash always takes the same time, so a name must stand for the same hash at each try, in
all workers, and after a restart; and of unknown names, as many must take long as of known ones. So each
stored hash bids for a name, with a keyed hash under itself, and the highest bid has it. Who does not know what the file
holds cannot tell which; a user who is added, changed or removed moves the names that it has, and no others.

Passwords are verified a few at a time, and those who wait have their turns by address and name (`Line`).
"""

import asyncio
import binascii
import functools
import hashlib
import logging
import os
import re
import time
from base64 import b64decode
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Self

import argon2
import bcrypt
import msgspec

from strongroom.http_proxy.authn.base import Identity, Refused
from strongroom.http_proxy.request import sender
from strongroom.models.strict_json import UNREADABLE
from strongroom.storage_service.client.pool import Pool
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.line import Line
from strongroom.storage_service.reach import changed_by_others
from strongroom.storage_service.strangers import network_of

_log = logging.getLogger(__name__)

REMEMBERED: Final = 60.0  # seconds that a right password is not hashed again
MAX_REMEMBERED: Final = 1024  # passwords
THREADS: Final = 2  # for hashing, which takes tens of milliseconds each time
MAX_WAITING: Final = 64  # sign-ins that wait for a thread; more are told to come back
PATIENCE: Final = 10.0  # seconds that one waits
COME_BACK: Final = 5.0  # seconds after which one is told to
MAX_FILE: Final = 1024 * 1024  # bytes
_BCRYPT_BYTES: Final = 72  # all that bcrypt ever looked at

_USER = re.compile(r"[A-Za-z0-9._@-]{1,64}", re.ASCII)
_ARGON2: Final = "$argon2"
_BCRYPT: Final = ("$2a$", "$2b$", "$2y$")


def verify(stored: str, password: bytes) -> bool:
    """Return whether *password* is the one that was hashed as *stored*. Takes tens of milliseconds, on purpose."""
    try:
        if stored.startswith(_ARGON2):
            return argon2.PasswordHasher().verify(stored, password)
        return bcrypt.checkpw(password[:_BCRYPT_BYTES], stored.encode())
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError, ValueError):
        return False


class _User(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One user of the file. Its hash stays out of the repr."""

    hash: str
    reveal_credentials: bool = False

    def __repr__(self) -> str:
        return "<_User>"


class _Users:
    """What the file held at one moment, and the passwords found right since."""

    def __init__(self, by_name: Mapping[str, _User]) -> None:
        self._by_name = by_name
        self._bidders = [(hashlib.blake2b(user.hash.encode()).digest(), user) for user in by_name.values()]
        self.remembered: dict[bytes, float] = {}  # a sign-in's digest, until when

    def get(self, name: str) -> _User | None:
        return self._by_name.get(name)

    def match(self, name: str, password: bytes, verify: Callable[[str, bytes], bool]) -> _User | None:
        """Return the user *name* if that is its password; takes as long where there is none of that name."""
        if not self._bidders:
            return None
        user, other = self._by_name.get(name), self._stand_in(name)  # both for everybody: it takes a moment
        return user if verify((user or other).hash, password) else None

    def remember(self, digest: bytes, until: float) -> None:
        """Let the sign-in *digest* count as right for a while."""
        if len(self.remembered) >= MAX_REMEMBERED:
            self.remembered.clear()
        self.remembered[digest] = until

    def _stand_in(self, name: str) -> _User:
        """Return a user, always the same for one *name*."""
        bid_for = hashlib.blake2b(name.encode()).digest()  # a name may be long
        return max(self._bidders, key=lambda one: hashlib.blake2b(bid_for, key=one[0], digest_size=16).digest())[1]


class _Claim(NamedTuple):
    """The user that a caller claims to be, and the caller's address."""

    address: str
    name: str
    password: bytes
    digest: bytes  # of name and password

    def __repr__(self) -> str:
        return "<_Claim>"


@dataclass(eq=False, slots=True)
class _Check:
    """A verification under way, and how many wait for what comes of it."""

    task: "asyncio.Task[_User | None]"
    callers: int = 0


class BasicAuthenticator:
    """Knows users by name and password."""

    challenge: str | None = 'Basic realm="strongroom", charset="UTF-8"'

    def __init__(
        self,
        path: Path,
        clock: Callable[[], float] = time.monotonic,
        verify: Callable[[str, bytes], bool] = verify,
    ) -> None:
        self._path = path
        self._clock = clock
        self._verify = verify
        self._mark: tuple[int, ...] | None = None  # of the file that was read last
        self._users = _Users({})
        self._digest_key = os.urandom(32)
        self._checks: dict[tuple[str, bytes], _Check] = {}  # by address, and digest of name and password
        self._line = Line(THREADS, MAX_WAITING, PATIENCE, COME_BACK)
        self._executor: ThreadPoolExecutor | None = None  # made on first use, after any fork

    @classmethod
    def from_options(cls, options: Mapping[str, str], pool: Pool, proof: bytes) -> Self:
        """Return the authenticator that a configuration describes: ``filepath``, the users file.

        Raises:
            ConfigurationError: the options are not these.
        """
        del pool, proof
        if set(options) != {"filepath"}:
            raise ConfigurationError("the authenticator basic takes one option: filepath")
        return cls(Path(options["filepath"]))

    async def authenticate(self, headers: Mapping[bytes, bytes]) -> Identity | None:
        """Return the user that an ``Authorization: Basic`` names.

        Raises:
            Refused: there is no such user, the password is wrong, or the field is malformed.
            Busy: too many sign-ins at once.
        """
        scheme, _, encoded = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"basic":
            return None
        name, password = _read(encoded)
        users = self._current()
        digest = hashlib.blake2b(b"%b:%b" % (name.encode(), password), key=self._digest_key, digest_size=32).digest()
        user = users.get(name)
        if user is None or users.remembered.get(digest, 0.0) < self._clock():
            address = network_of(sender(headers.get(b"forwarded", b"")))
            found = await self._sign_in(_Claim(address, name, password, digest))
            if found is None:
                raise Refused("" if user is None else f"user:{name}")
            user = found
        return Identity(f"user:{name}", reveal_credentials=user.reveal_credentials)

    async def _sign_in(self, claim: _Claim) -> _User | None:
        """Return the user whom *claim* shows; verified once for all who say so from there at the same time.

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

    async def _verified(self, claim: _Claim) -> _User | None:
        """Return the user whom *claim* shows, as the file is when its turn comes."""
        await self._line.enter(claim.address, claim.name)
        users = self._current()
        if self._executor is None:
            self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="sign-in")
        hashing = asyncio.get_running_loop().run_in_executor(
            self._executor, users.match, claim.name, claim.password, self._verify
        )
        hashing.add_done_callback(lambda _: self._line.leave())  # a thread goes on, whoever leaves
        user = await asyncio.shield(hashing)
        if user is not None:
            users.remember(claim.digest, self._clock() + REMEMBERED)
        return user

    def _forget(self, key: tuple[str, bytes], task: "asyncio.Task[_User | None]") -> None:
        if key in self._checks and self._checks[key].task is task:
            del self._checks[key]

    def _current(self) -> _Users:
        """Return the users as the file has them now: a look at its times here, a short read when they changed."""
        try:
            found = self._path.stat()
            mark: tuple[int, ...] = (found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size)
        except OSError as exc:
            mark = (exc.errno or 0,)
        if mark != self._mark:
            self._users = _Users({})  # whatever happens below, nobody is in by what the file held before
            self._users = _Users(_load(self._path))
            self._mark = mark
        return self._users


def _read(encoded: bytes) -> tuple[str, bytes]:
    """Return user and password (RFC 7617 sec. 2): the first colon parts them, and the password may hold more.

    Raises:
        Refused: it is no such thing.
    """
    try:
        name, colon, password = b64decode(encoded.strip(), validate=True).partition(b":")
        user = name.decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        raise Refused from None
    if not colon:
        raise Refused
    return user, password


def _load(path: Path) -> Mapping[str, _User]:
    """Return the users of the file, or none where anything is wrong with it."""
    try:
        with path.open("rb") as file:
            fault = changed_by_others(path, os.fstat(file.fileno()))
            text = file.read(MAX_FILE + 1)
    except OSError as exc:
        _log.error("nobody can sign in: %s cannot be read: %s", path, exc.strerror)
        return {}
    if fault is not None:
        _log.error("nobody can sign in: %s", fault)
        return {}
    fault, users = _read_users(text)
    if fault:
        _log.error('nobody can sign in: %s %s; it must be of the form {"user": {"hash": "$argon2…"}, …}', path, fault)
    else:
        _log.info("%d users read from %s", len(users), path)
    return users


def _read_users(text: bytes) -> tuple[str, Mapping[str, _User]]:
    """Return what is wrong with a file of users, which quotes nothing of it, and the users if nothing is."""
    if len(text) > MAX_FILE:
        return f"is longer than {MAX_FILE} bytes", {}
    try:
        users = msgspec.json.decode(text, type=dict[str, _User])
    except UnicodeDecodeError:
        return "is not UTF-8", {}
    except UNREADABLE:
        return "is not a JSON object of users", {}
    for number, (name, user) in enumerate(users.items(), 1):
        if not _USER.fullmatch(name):
            return f"has for user {number} a name that is not allowed", {}
        if not (user.hash.startswith((_ARGON2, *_BCRYPT)) and user.hash.isascii()):
            return f"has for user {number} a hash that is neither Argon2 nor bcrypt", {}
    return "", users

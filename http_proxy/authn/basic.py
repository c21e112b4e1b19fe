"""Users and passwords (RFC 7617), from a file of password hashes.

    {"alice": {"hash": "$argon2id$v=19$…", "reveal_credentials": true}, "bob": {"hash": "$2b$12$…"}}

Hashes are Argon2 (RFC 9106) or bcrypt. The file is read again when it changes; one that cannot be read, that others
may change, or that holds anything else, lets nobody in, and the log says so without quoting it. A wrong password and an
unknown user cost the same: the unknown are checked against the hash of some user, and refused whatever comes of it.
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
from pathlib import Path
from typing import Final, Self

import argon2
import bcrypt
import msgspec

from http_proxy.authn.base import Identity, Refused
from storage_service.client.pool import Pool
from storage_service.errors import ConfigurationError, Unavailable
from storage_service.reach import changed_by_others

_log = logging.getLogger(__name__)

REMEMBERED: Final = 60.0  # seconds that a right password is not hashed again
MAX_REMEMBERED: Final = 1024  # passwords
THREADS: Final = 2  # for hashing, which takes tens of milliseconds each time
MAX_WAITING: Final = 64  # sign-ins under way at once; more are told to come back
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
        self._all = tuple(by_name.values())
        self.remembered: dict[bytes, float] = {}  # a sign-in's digest, until when

    def get(self, name: str) -> _User | None:
        return self._by_name.get(name)

    def someone(self, digest: bytes) -> _User | None:
        """Return a user, always the same for one *digest*; None where there are none."""
        return self._all[int.from_bytes(digest[:8], "big") % len(self._all)] if self._all else None


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
        self._checks: dict[bytes, asyncio.Future[bool]] = {}
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
            Unavailable: too many sign-ins at once.
        """
        scheme, _, encoded = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"basic":
            return None
        name, password = _read(encoded)
        users = self._current()
        digest = hashlib.blake2b(b"%b:%b" % (name.encode(), password), key=self._digest_key, digest_size=32).digest()
        user = users.get(name)
        if user is None or users.remembered.get(digest, 0.0) < self._clock():
            claimed = user or users.someone(digest)
            if claimed is None or not await self._check(digest, claimed.hash, password) or user is None:
                raise Refused("" if user is None else f"user:{name}")
            if len(users.remembered) >= MAX_REMEMBERED:
                users.remembered.clear()
            users.remembered[digest] = self._clock() + REMEMBERED
        return Identity(f"user:{name}", reveal_credentials=user.reveal_credentials)

    async def _check(self, digest: bytes, stored: str, password: bytes) -> bool:
        """Verify a password off the event loop, once for all who ask for the same at the same time."""
        check = self._checks.get(digest)
        if check is None:
            if len(self._checks) >= MAX_WAITING:
                raise Unavailable("too many sign-ins at once")
            if self._executor is None:
                self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="sign-in")
            check = asyncio.get_running_loop().run_in_executor(self._executor, self._verify, stored, password)
            self._checks[digest] = check
            check.add_done_callback(functools.partial(self._forget, digest))
        return await asyncio.shield(check)

    def _forget(self, digest: bytes, _: asyncio.Future[bool]) -> None:
        del self._checks[digest]

    def _current(self) -> _Users:
        """Return the users as the file has them now: a look at its times here, a short read when they changed."""
        try:
            found = self._path.stat()
            mark: tuple[int, ...] = (found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size)
        except OSError as exc:
            mark = (exc.errno or 0,)
        if mark != self._mark:
            self._mark = mark
            self._users = _Users(_load(self._path))
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
    try:
        users = msgspec.json.decode(text, type=dict[str, _User]) if len(text) <= MAX_FILE else None
    except msgspec.DecodeError:
        users = None
    if users is None or not all(
        _USER.fullmatch(name) and user.hash.startswith((_ARGON2, *_BCRYPT)) for name, user in users.items()
    ):
        _log.error('nobody can sign in: %s is not of the form {"user": {"hash": "$argon2… or $2b$…"}, …}', path)
        return {}
    _log.info("%d users read from %s", len(users), path)
    return users

"""The users of a file of password hashes, who have no records, and what they reach.

    {"alice": {"hash": "$argon2id$v=19$…", "reveal_credentials": true}, "bob": {"hash": "$2b$12$…"}}

Hashes are Argon2 (RFC 9106) or bcrypt. The file is read again when it changes; one that cannot be read, that others
than its owner may write, or that holds anything else, lets nobody in, and the log says so without quoting it.
"""

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from strongroom.models.access import Credential
from strongroom.models.strict_json import UNREADABLE
from strongroom.storage_service.access.base import Principal
from strongroom.storage_service.access.credentials.making import PASSWORD
from strongroom.storage_service.reach import changed_by_others, why_denied

MAX_FILE: Final = 1024 * 1024  # bytes

# What the proxy's routes for records are about.
_RECORDS: Final = (
    "/hosts",
    "/clusters",
    "/cluster_deploys",
    "/cluster_restarts",
    "/cluster_upgrades",
    "/networks",
    "/container_managers",
)
_CREDENTIALS: Final = ("/secrets/hosts", "/secrets/container_managers")
REACH: Final = _RECORDS + _CREDENTIALS

_USER = re.compile(r"[A-Za-z0-9._@-]{1,64}", re.ASCII)
_HASHES: Final = ("$argon2", "$2a$", "$2b$", "$2y$")

_log = logging.getLogger(__name__)


class FileUser(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One user of the file. Its hash stays out of the repr."""

    hash: str
    reveal_credentials: bool = False

    def __repr__(self) -> str:
        return "<FileUser>"

    def credential(self, name: str) -> Credential:
        """Return the password of the user, who is called *name*, as if a record had it."""
        return Credential(id=f"file:{name}", kind=PASSWORD, name="users file", data=self.hash, created="")

    def principal(self, name: str, groups: frozenset[str]) -> Principal:
        """Return who the user is: the records of the proxy's routes are within reach, and what rules deny is not.

        Of credentials one makes and removes those that one cannot see, unless the file says that one may.
        """
        unseen = () if self.reveal_credentials else _CREDENTIALS
        return Principal(f"user:{name}", REACH, groups=groups, unseen=unseen)


Users = Mapping[str, FileUser]


class UsersFile:
    """The users, as the file has them now."""

    def __init__(self, path: Path) -> None:
        """Take where the file lies; it need not be there."""
        self._path = path
        self._mark: tuple[int, ...] | None = None  # of the file that was read last
        self._users: Users = {}

    def __repr__(self) -> str:
        return "<UsersFile>"

    def current(self) -> Users:
        """Return the users, the same mapping until the file changes: a look at its times, and a short read then."""
        try:
            found = self._path.stat()
            mark: tuple[int, ...] = (found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size)
        except OSError as exc:
            mark = (exc.errno or 0,)
        if mark != self._mark:
            self._users = {}  # whatever happens below, nobody is in by what the file held before
            self._users = _load(self._path)
            self._mark = mark
        return self._users


def _load(path: Path) -> Users:
    """Return the users of the file, or none where anything is wrong with it."""
    try:
        with path.open("rb") as file:
            fault = changed_by_others(path, os.fstat(file.fileno()))
            text = file.read(MAX_FILE + 1)
    except PermissionError:
        _log.error("nobody of the users file can sign in: %s", why_denied(path))
        return {}
    except OSError as exc:
        _log.error("nobody of the users file can sign in: %s cannot be read: %s", path, exc.strerror)
        return {}
    if fault is not None:
        _log.error("nobody of the users file can sign in: %s", fault)
        return {}
    fault, users = _read_users(text)
    if fault:
        form = '{"user": {"hash": "$argon2…"}, …}'
        _log.error("nobody of the users file can sign in: %s %s; it must be of the form %s", path, fault, form)
    else:
        _log.info("%d users read from %s", len(users), path)
    return users


def _read_users(text: bytes) -> tuple[str, Users]:
    """Return what is wrong with a file of users, which quotes nothing of it, and the users if nothing is."""
    if len(text) > MAX_FILE:
        return f"is longer than {MAX_FILE} bytes", {}
    try:
        users = msgspec.json.decode(text, type=dict[str, FileUser])
    except UnicodeDecodeError:
        return "is not UTF-8", {}
    except UNREADABLE:
        return "is not a JSON object of users", {}
    for number, (name, user) in enumerate(users.items(), 1):
        if not _USER.fullmatch(name):
            return f"has for user {number} a name that is not allowed", {}
        if not (user.hash.startswith(_HASHES) and user.hash.isascii()):
            return f"has for user {number} a hash that is neither Argon2 nor bcrypt", {}
    return "", users

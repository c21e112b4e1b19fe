"""Where a user's logins are kept: a token each, one for every service, for this user alone.

    $XDG_RUNTIME_DIR/strongroom/<hash of the service's address>.json
    ~/.local/state/strongroom/…                       where there is no runtime directory ($XDG_STATE_HOME)

    {"service": "https://secrets.example.net", "principal": "user:ann", "token": "…", "expires": "…", "key": "SHA256:…",
     "lifetime": "10m"}

Whoever can read the file is its user until the token expires. So it is made and read within a directory that was looked
at: no link, this user's, and nobody else's to enter. It is replaced whole.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from strongroom.models.access import InvalidAccess, check_time
from strongroom.models.secret import Secret
from strongroom.models.strict_json import UNREADABLE
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.files import replace_private_in

_NAME: Final = "strongroom"
_MAX_FILE: Final = 16 * 1024  # bytes
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class KeptLogin(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One login. Its token stays out of the repr."""

    service: str
    principal: str
    token: str
    expires: str  # RFC 3339, UTC
    key: str = ""  # the fingerprint of the key that was logged in with
    lifetime: str = ""  # that was asked for

    def __repr__(self) -> str:
        return f"<KeptLogin of {self.principal} at {self.service}>"

    @property
    def secret(self) -> Secret:
        """The token."""
        return Secret(self.token)

    def left(self) -> float:
        """Return the seconds until it expires; less than nothing where it has."""
        return (check_time(self.expires, "expires") - datetime.now(UTC)).total_seconds()


def keep(login: KeptLogin) -> None:
    """Keep *login* in the place of the one before it, at the same service.

    Raises:
        ConfigurationError: there is no directory that is this user's alone.
    """
    with _refused("written"), _opened(make=True) as directory:
        replace_private_in(directory, _file_of(login.service), msgspec.json.encode(login))


def kept(service: str) -> KeptLogin | None:
    """Return what is kept of a login at *service*, whether or not it is good still.

    Raises:
        ConfigurationError: it is kept where others than this user may have written or read it.
    """
    name = _file_of(service)
    try:
        with _refused("read"), _opened(make=False) as directory:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
            with os.fdopen(descriptor, "rb") as file:
                _check(os.fstat(descriptor), stat.S_ISREG, "the file of this login")
                text = file.read(_MAX_FILE)
    except FileNotFoundError:
        return None
    with suppress(InvalidAccess, *UNREADABLE):  # what is none logs nobody in, and the next login replaces it
        login = msgspec.json.decode(text, type=KeptLogin)
        check_time(login.expires, "expires")
        return login if login.service == service else None
    return None


def forget(service: str) -> None:
    """Remove what is kept of a login at *service*, if anything is.

    Raises:
        ConfigurationError: it lies where others than this user may have written or read it.
    """
    with suppress(FileNotFoundError), _refused("removed"), _opened(make=False) as directory:
        os.unlink(_file_of(service), dir_fd=directory)


def _file_of(service: str) -> str:
    return hashlib.sha256(service.encode()).hexdigest()[:32] + ".json"


@contextmanager
def _refused(done: str) -> Iterator[None]:
    """Tell an error of the disk as one of this place; a file that is not there stays one."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigurationError(f"the login cannot be {done} below {_base()}: {error.strerror}") from None


def _base() -> Path:
    """Return the directory in which ours lies.

    Raises:
        ConfigurationError: this user has none.
    """
    runtime, state = (Path(os.environ.get(name, "")) for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME"))
    if runtime.is_absolute() and runtime.is_dir():
        return runtime
    try:
        return state if state.is_absolute() else Path("~/.local/state").expanduser()
    except RuntimeError:
        raise ConfigurationError("this user has no home to keep a login in: set XDG_RUNTIME_DIR") from None


@contextmanager
def _opened(*, make: bool) -> Iterator[int]:
    """Give the directory that the files lie in, once it was looked at; with *make*, it is made where it is not there.

    Raises:
        ConfigurationError: it is a link, another user's, or open to others.
        OSError: it cannot be made or opened; FileNotFoundError: it is not there.
    """
    base = _base()
    if make:
        base.mkdir(0o700, parents=True, exist_ok=True)
    outer = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = os.fstat(outer)
        if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ConfigurationError(
                f"{base} is not this user's alone to write, so no login is kept there: set XDG_RUNTIME_DIR to a "
                "directory that is"
            )
        if make:
            with suppress(FileExistsError):
                os.mkdir(_NAME, 0o700, dir_fd=outer)
        try:
            inner = os.open(_NAME, _DIRECTORY, dir_fd=outer)
        except NotADirectoryError:
            raise ConfigurationError(f"{base / _NAME} is a link or no directory: remove it") from None
        try:
            _check(os.fstat(inner), stat.S_ISDIR, str(base / _NAME))
            yield inner
        finally:
            os.close(inner)
    finally:
        os.close(outer)


def _check(status: os.stat_result, is_kind: Callable[[int], bool], what: str) -> None:
    """Refuse a file or directory that is not this user's alone.

    Raises:
        ConfigurationError: it is not.
    """
    if not is_kind(status.st_mode) or status.st_uid != os.geteuid():
        raise ConfigurationError(f"{what} is a link, of another kind, or another user's: remove it, and log in again")
    if status.st_mode & 0o077:
        raise ConfigurationError(
            f"{what} is open to others (mode {stat.S_IMODE(status.st_mode):04o}): end the token in it with strongroom "
            "token revoke, remove it, and log in again"
        )

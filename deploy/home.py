"""The directory that ``strongroom up`` lives in, and the lock that one of them at a time holds on it.

DIR/                 0700
    strongroom.toml  0600  the settings, for people to edit
    client.json      0600  url, socket, api_id, api_key: how the command and local programs reach the service
    proxy.json       0600  the same of the proxy, which reaches less
    secrets.key      0600  made by the service
    store.json       0600  which store the records are in, once there are keys in it
    run/             storage.sock, and up.pid while something runs
    data/  log/      the store; the audit log
"""

import errno
import io
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strongroom.deploy.places import CLIENT, CONFIG, PROXY_CLIENT, SOCKET
from strongroom.models.secret import Secret
from strongroom.storage_service.client.file import ClientFile
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.files import replace_private, sync_directory, try_lock

API_KEY_BYTES: Final = 32  # 256 bits, from the kernel's generator
API_ID: Final = "storage_service"  # CPD-101's name for the platform's own key
PROXY_ID: Final = "http_proxy"
MARK: Final = "initialized"  # holds the kid of the root key of the first keyring
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})  # what link(2) says there
STALE_WAIT: Final = 5.0  # seconds that the processes of a killed `up` may take to follow it

TEMPLATE: Final = """\
# Settings of this strongroom. Every line may be left out; docs/configuration.md tells of them all.
# A flag of the command comes before a variable STRONGROOM_<NAME>, and that before this file.

# Where secrets and records are kept: "sqlite" (a file in data/), or etcd://HOST:PORT,HOST:PORT/PREFIX
# store = "sqlite"

# Where the HTTP proxy listens.
# listen = "127.0.0.1:8000"

# With tls_certificate and tls_key the proxy speaks TLS of this version or a later one; "1.2" lets older clients in.
tls_minimum = "1.3"
"""


class AlreadyRunning(ConfigurationError):
    """Another ``strongroom up`` holds this home."""


def write_client(client: ClientFile, path: Path) -> None:
    """Write *client* to *path*, mode 0600."""
    replace_private(path, client.text())


def make_client(path: Path, api_id: str, *, url: str = "", socket: Path | None = None) -> None:
    """Write a file with a fresh API key to *path*, unless there is one.

    Raises:
        OSError: it cannot be written.
    """
    if not path.exists():
        write_client(ClientFile(url, socket, api_id, Secret(secrets.token_urlsafe(API_KEY_BYTES))), path)


class NewFile(io.BufferedWriter):
    """A file of mode 0600 to write, which gets the name *path* when it is finished, whole and on disk.

    Raises:
        FileExistsError: there is something of that name.
        OSError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        self.finished = False
        self._path = path
        self.temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        super().__init__(io.FileIO(os.open(self.temporary, flags, 0o600), "wb"))

    def finish(self) -> None:
        """Give the file its name; if this fails, nothing of that name was made.

        Raises:
            FileExistsError: there is something of that name by now.
            OSError: it cannot be written.
        """
        self.flush()
        os.fsync(self.fileno())
        _name_new(self.temporary, self._path)
        try:
            sync_directory(self._path.parent)
        except BaseException:
            self._path.unlink(missing_ok=True)
            raise
        self.finished = True


@contextmanager
def new_private(path: Path) -> Iterator[NewFile]:
    """Give a new file to write, which is finished once the block has ended well, if it did not do that itself.

    It never takes the place of another; what is killed meanwhile leaves it under a name that begins with a dot.

    Raises:
        FileExistsError: there is something of that name.
        OSError: it cannot be made, or written.
    """
    file = NewFile(path)
    try:
        with file:
            yield file
            if not file.finished:
                file.finish()
    finally:
        file.temporary.unlink(missing_ok=True)


def _name_new(temporary: Path, path: Path) -> None:
    """Give *temporary* the name *path*, which nothing has."""
    try:
        os.link(temporary, path)  # unlike a rename, a link replaces nothing
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    else:
        return
    # A file system without hard links: an empty file, which only one process can make, holds the name until the rename.
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        temporary.rename(path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@dataclass(frozen=True, slots=True)
class Home:
    """A home directory, existing or to be made."""

    path: Path

    @property
    def config(self) -> Path:
        """The settings file."""
        return self.path / CONFIG

    @property
    def client(self) -> Path:
        """The file with the API key."""
        return self.path / CLIENT

    def prepare(self) -> None:
        """Make the directories that are missing, and check what is there.

        Raises:
            ConfigurationError: the home is another user's, is open to others, or cannot be made.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.check()
            for directory in self.directories:
                directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"{error.filename or self.path}: {error.strerror}") from error

    def furnish(self) -> ClientFile:
        """Make the files that are missing, under the lock, and return how to reach the service.

        Raises:
            ConfigurationError: they cannot be made, or others can read the API key.
        """
        try:
            if not self.config.exists():
                replace_private(self.config, TEMPLATE.encode())
            make_client(self.client, API_ID, socket=self.path / SOCKET)
            make_client(self.path / PROXY_CLIENT, PROXY_ID, socket=self.path / SOCKET)
        except OSError as error:
            raise ConfigurationError(f"{self.path}: {error.strerror}") from error
        return ClientFile.read(self.client)

    @property
    def directories(self) -> tuple[Path, ...]:
        """The directories in it, which `prepare` makes."""
        return tuple(self.path / name for name in ("run", "data", "log"))

    def check(self) -> None:
        """Accept a home that is there.

        Raises:
            ConfigurationError: it is no directory, another user's, or open to others.
            OSError: it is not there, or cannot be looked at.
        """
        state = self.path.stat()
        if not stat.S_ISDIR(state.st_mode):
            raise ConfigurationError(f"{self.path} is not a directory")
        if state.st_uid != os.geteuid():
            raise ConfigurationError(f"{self.path} belongs to another user; choose another --home")
        if state.st_mode & 0o077:
            raise ConfigurationError(f"{self.path} is open to others than its owner; run: chmod 700 {self.path}")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the home for this process and the ones it forks; `up.pid` tells others who that is.

        The lock is on the open directory ``run`` (flock(2)): it needs no file of its own, ends with the last process
        that shares it, and cannot be left behind.

        Raises:
            AlreadyRunning: another process holds it.
        """
        run = self.path / "run"
        pid_file = run / "up.pid"
        descriptor = os.open(run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            deadline = time.monotonic() + STALE_WAIT
            while not try_lock(descriptor):
                pid = _pid_in(pid_file)
                # A killed `up` leaves processes that are about to end; a living one is not waited for.
                if _alive(pid) or time.monotonic() > deadline:
                    who = f"process {pid}" if pid else "another process"
                    raise AlreadyRunning(f"{self.path} is in use by {who}; stop that first, or choose another --home")
                time.sleep(0.05)
            replace_private(pid_file, f"{os.getpid()}\n".encode())
            try:
                yield
            finally:
                pid_file.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _pid_in(path: Path) -> int:
    """Return the process id in *path*; 0 where there is none."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def refuse_lost(directory: Path) -> None:
    """Refuse to make the first keys of a store that had some, as the mark in *directory* says.

    Raises:
        ConfigurationError: the store that is empty now was not.
    """
    mark = directory / MARK
    if mark.exists():
        raise ConfigurationError(
            f"the store is empty, and it was not (its root key was {mark.read_text().strip()}): see that the service"
            f" has the right store, or restore a backup; to begin with nothing all the same, remove {mark}"
        )

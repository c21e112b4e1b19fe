"""A file that holds a key and is ours alone: how one is read, made and looked at, whatever key it holds.

Whoever can read such a file has the key; so it is refused unless it is a plain file of ours or root's that nobody
else can read or change. A link of ours or root's is followed, for that is how Kubernetes hands files over, and what
it leads to is judged. It is made once, whole or not at all, whatever number of workers try; nothing here ever
replaces or removes one.

All of this blocks on the disk; who calls it does so off the event loop.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strongroom.storage_service.errors import KeyFileMissing, KeyFileUnusable
from strongroom.storage_service.files import create_private, sync_directory
from strongroom.storage_service.reach import why_denied

_CREDENTIAL_MODE: Final = 0o440  # what systemd's LoadCredential= shows where it lets the unit in by an ACL


@dataclass(frozen=True, slots=True)
class PrivateFile:
    """One sort of key file, known by what is said of it."""

    noun: str  # what it is called: "root key file"
    exposed: str  # what is to be done if others could have read one
    of_services: bool = False  # root's commands read the one that a service's user keeps

    def read(self, path: Path, limit: int) -> bytes:
        """Return what the file at *path* holds, of a longer one *limit* bytes and one more.

        Raises:
            KeyFileMissing: there is no such file.
            KeyFileUnusable: it cannot be read, is no plain file, or is open to others.
        """
        try:
            named = os.lstat(path)
            if stat.S_ISLNK(named.st_mode) and named.st_uid not in (os.geteuid(), 0):
                raise KeyFileUnusable(f"{path} is another user's link; give the path of the {self.noun} itself")
            # O_NONBLOCK: a FIFO must not hang the start.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            if path.is_symlink():
                raise KeyFileUnusable(f"{path} is a symbolic link to nothing; put the {self.noun} there") from None
            raise KeyFileMissing(f"there is no {self.noun} at {path}") from None
        except OSError as error:
            raise self._unusable(path, "opened", error) from None
        try:
            status = os.fstat(descriptor)
            me = os.geteuid()
            self.check(path, status, status.st_uid if self.of_services and me == 0 else me)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(limit + 1)
        except OSError as error:
            raise self._unusable(path, "read", error) from None
        finally:
            os.close(descriptor)

    def make(self, path: Path, text: Callable[[], bytes]) -> bool:
        """Make the file at *path*, unless something is there already, and return whether this call made it.

        However many callers race, one file wins, and no reader ever sees part of it. When this returns, the file and
        its name are on disk, whoever made it.

        Args:
            path: where; the directory must exist.
            text: gives what the file is to hold; asked only if nothing is there.

        Raises:
            KeyFileUnusable: the file cannot be made here.
        """
        try:
            made = not os.path.lexists(path) and create_private(path, text())
            sync_directory(path.parent)
        except OSError as error:
            raise self._unusable(path, "made", error) from None
        return made

    def look(self, path: Path) -> None:
        """Judge the file at *path* without reading it, if there is one; root looks at other users' settings.

        Raises:
            KeyFileUnusable: as `check`.
        """
        try:
            status = path.stat()
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._unusable(path, "opened", error) from None
        self.check(path, status, os.geteuid() or status.st_uid)

    def check(self, path: Path, status: os.stat_result, uid: int) -> None:
        """Accept a file with this *status* for a process that runs as *uid*.

        Raises:
            KeyFileUnusable: it is no plain file, another user's, or open to others; the text says what to run.
        """
        if not stat.S_ISREG(status.st_mode):
            raise KeyFileUnusable(f"{path} is not a plain file; give the path of the {self.noun} itself")
        if status.st_uid not in (uid, 0):
            raise KeyFileUnusable(f"{path} belongs to another user; run: chown {uid} {path}")
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077 and not (status.st_uid == 0 and mode == _CREDENTIAL_MODE):
            raise KeyFileUnusable(
                f"{path} is open to others (mode {mode:04o}); run: chmod 600 {path}; "
                f"if others could really have read it, {self.exposed}"
            )

    def _unusable(self, path: Path, done: str, error: OSError) -> KeyFileUnusable:
        why = why_denied(path) if isinstance(error, PermissionError) else error.strerror
        return KeyFileUnusable(f"the {self.noun} {path} cannot be {done}: {why}")

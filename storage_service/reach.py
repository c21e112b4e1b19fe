"""Who reaches a path: what stands in the way of this user, and whether others may change what lies there."""

import grp
import os
import pwd
import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from strongroom.storage_service.errors import ConfigurationError

_MOUNTS: Final = Path("/proc/self/mountinfo")
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")
_FUSE: Final = "fuse"


def user_name() -> str:
    """Return the name of the user whom this runs as, or the number where there is no name."""
    uid = os.geteuid()
    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)


def closed_directory(path: Path) -> Path | None:
    """Return the first directory on the way to *path* that this user may not enter; None where each lets it in."""
    path = Path(os.path.realpath(path.parent)) / path.name  # the way is that of what links lead to
    for directory in reversed(path.parents):
        if directory.is_dir() and not os.access(directory, os.X_OK, effective_ids=True):
            return directory
    return None


def why_denied(path: Path) -> str:
    """Return what is to be mended, after this user was denied *path*: a directory on the way, or *path* itself."""
    directory = closed_directory(path)
    if directory is not None:
        return (
            f"user {user_name()} may not enter {directory}, where {path} lies; let that user in: {_let_in(directory)}"
        )
    with suppress(OSError):
        state = path.stat()
        group = str(state.st_gid)
        with suppress(KeyError):
            group = grp.getgrgid(state.st_gid).gr_name
        return (
            f"user {user_name()} may not open {path}, which is group {group}'s, mode {stat.S_IMODE(state.st_mode):04o}"
        )
    return f"user {user_name()} may not open {path}"


def changed_by_others(path: Path, status: os.stat_result) -> str | None:
    """Return that others than its owner may change what lies at *path*, and what mends it; None where they may not.

    The one rule for what is believed because of where it lies: settings, the users file, the audit log, the
    directories of log and store. Each is ours or root's, for its owner can write it, or put another file in the place
    of ours. A directory of root's may be open to a group of ours, as containers are given volumes. A file that is
    mounted by itself may be anybody's: whoever starts a container hands it one so, and is believed as root is.

    Args:
        path: as it was said; of a link, what it leads to counts.
        status: of what lies there.
    """
    mode = stat.S_IMODE(status.st_mode)
    directory, others = stat.S_ISDIR(status.st_mode), 0o022
    if not directory and not stat.S_ISREG(status.st_mode):
        return None  # a pipe or a terminal holds nothing that could be changed
    me = os.geteuid()
    if me not in (0, status.st_uid) and status.st_uid != 0 and (directory or not _is_mounted(path)):
        lies = "what lies there" if directory else "it"
        return f"{path} belongs to another user, who can change {lies}; run: chown {user_name()} {path}"
    if directory and me != 0 and status.st_uid == 0 and status.st_gid in {os.getegid(), *os.getgroups()}:
        others = 0o002
    if mode & others:
        return f"{path} can be changed by others (mode {mode:04o}); run: chmod go-w {path}"
    return None


def refuse_changed_by_others(path: Path) -> None:
    """Refuse what others may change.

    Raises:
        ConfigurationError: they may; the text says what to run.
        OSError: there is nothing, or it cannot be looked at.
    """
    if (fault := changed_by_others(path, path.stat())) is not None:
        raise ConfigurationError(fault)


def _is_mounted(path: Path) -> bool:
    """Whether something is mounted over *path* itself, by whoever made the mounts that this process sees (proc(5)).

    What FUSE mounts does not count: any user may.
    """
    place, kind = os.path.realpath(path), _FUSE
    with suppress(OSError):
        for line in os.fsdecode(_MOUNTS.read_bytes()).splitlines():
            said = line.split(" ")
            if _ESCAPED.sub(lambda found: chr(int(found[1], 8)), said[4]) == place:
                kind = said[said.index("-", 6) + 1]  # the last one lies on top
    return not kind.startswith(_FUSE)


def _let_in(directory: Path) -> str:
    return f"setfacl -m u:{user_name()}:x {directory}, or chmod and chgrp"


def why_unread(error: OSError | UnicodeDecodeError) -> str:
    """Return why a file was not read: what the system said, or that it is not text."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    return error.strerror or type(error).__name__

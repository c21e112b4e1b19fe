"""What stands in the way of a path: what is to be mended when the kernel says no more than "Permission denied"."""

import grp
import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path


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


def _let_in(directory: Path) -> str:
    return f"setfacl -m u:{user_name()}:x {directory}, or chmod and chgrp"

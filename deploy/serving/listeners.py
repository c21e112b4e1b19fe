"""Who listens at a port of this machine, as far as the kernel tells whoever asks (proc(5))."""

import pwd
from contextlib import suppress
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_LISTENS: Final = "0A"  # TCP_LISTEN
_LOCAL, _STATE, _UID, _INODE = 1, 3, 7, 9  # columns


def listener_at(port: int) -> str:
    """Return who listens at *port*: the program and its process where they may be seen, else its user, else nobody.

    Other users' processes, and those that shut themselves off as ours do, are seen by root alone.
    """
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (_PROC / "net" / table).read_text().splitlines()[1:]:
                columns = line.split()
                if columns[_STATE] == _LISTENS and int(columns[_LOCAL].rpartition(":")[2], 16) == port:
                    return _program(columns[_INODE]) or f"a program of the user {_user(int(columns[_UID]))}"
    return "something"


def _program(inode: str) -> str:
    """Return the program that holds the socket *inode* open, with its process; "" where none may be seen."""
    for process in _PROC.glob("[0-9]*"):
        with suppress(OSError):
            if any(_leads_to(entry, f"socket:[{inode}]") for entry in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (process {process.name})"
    return ""


def _leads_to(entry: Path, place: str) -> bool:
    try:
        return str(entry.readlink()) == place
    except OSError:  # it was closed meanwhile
        return False


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)

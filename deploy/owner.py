"""Whose a service's files are, for commands that root runs beside it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def owner_of_store(url: str) -> Iterator[None]:
    """Be the one whom the directory of an SQLite file belongs to, as `owner_of` says; other stores have no files."""
    from strongroom.storage_service.backends.url import file_of, split

    parts = split(url)
    if parts.scheme == "sqlite":
        with owner_of(file_of(parts.path).parent):
            yield
    else:
        yield


@contextmanager
def owner_of(directory: Path) -> Iterator[None]:
    """Be the one whom *directory* belongs to, under systemd the service's user, if this is root.

    So what is made there is that user's; and whatever lies there, a link among it, is opened with no more rights than
    he has. A directory of root's that lies in another user's is that user's: he could have led to it by a link.
    """
    owner = _first_but_root(directory) if os.geteuid() == 0 else None
    if owner is None:
        yield
        return
    groups = os.getgroups()
    os.setgroups([owner.st_gid])
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def _first_but_root(directory: Path) -> os.stat_result | None:
    """Return what *directory* is, or the first above it, that is not root's; None: all are, or there is none."""
    found: list[os.stat_result] = []
    for place in (directory.absolute(), *directory.absolute().parents):
        with suppress(FileNotFoundError):
            found.append(place.stat())
    return next((each for each in found if each.st_uid != 0), None)

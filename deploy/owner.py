"""Whose a service's files are, for commands that root runs beside it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
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
    he has.
    """
    if os.geteuid() != 0 or not directory.exists() or not directory.stat().st_uid:
        yield
        return
    owner, groups = directory.stat(), os.getgroups()
    os.setgroups([owner.st_gid])
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)

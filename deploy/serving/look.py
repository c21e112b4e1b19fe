"""Checks the files that a start would find, without starting or making anything.

`strongroom config check` says it beforehand, and a start says it in one line before there is a process to fail.
"""

import os
import stat
from pathlib import Path

from strongroom.deploy.home import Home
from strongroom.deploy.serving.server import Role
from strongroom.deploy.settings import Settings, refuse_another_store
from strongroom.storage_service.backends.url import file_of, split
from strongroom.storage_service.errors import ConfigurationError, KeyFileUnusable
from strongroom.storage_service.keyring.ceremonies import files as key_files
from strongroom.storage_service.reach import refuse_changed_by_others, user_name, why_denied


def look(settings: Settings, role: Role | None = None, *, by_up: bool) -> list[str]:
    """Return what should be seen to, after nothing was found that ends the start.

    Run it as the user of the process: root is let through everywhere.

    Args:
        settings: what the operator said.
        role: the process that will run; None: both.
        by_up: ``strongroom up`` will start it, which has the home for itself and makes the directories in it.

    Raises:
        ConfigurationError: the home or a directory is open to others, another user's, missing or not to be written; a
            key file, the audit log or the users file is one that others may read or change; or the records are in
            another store.
    """
    notes = []
    if role is not Role.PROXY:
        home = Home(settings.home)
        made = home.directories if by_up else ()
        if by_up and _is_there(settings.home):
            home.check()
        refuse_another_store(settings)
        _look_at_keys(settings)
        _look_at_file("the audit log", settings.service.audit_log, settings, made)
        store = split(settings.service.store)
        if store.scheme == "sqlite":
            _look_at_file("the store", file_of(store.path), settings, made)
        if not by_up and not _is_there(settings.service.socket.parent) and not settings.makedirs:
            notes.append(f"{settings.service.socket.parent} does not exist; the unit of the socket makes it, or you do")
        notes += _look_at_users(settings.service.users_file)
    return notes


def _look_at_keys(settings: Settings) -> None:
    try:
        key_files.look(settings.service.root_key, settings.service.machine_key)
    except KeyFileUnusable as error:
        raise ConfigurationError(str(error)).advising(*error.next) from None


def _look_at_file(what: str, path: Path, settings: Settings, made: tuple[Path, ...]) -> None:
    """Look at a file that the service writes, and at its directory, in which it makes others."""
    if not _is_there(path.parent):
        if path.parent in made or settings.makedirs:
            return
        raise ConfigurationError(f"{path.parent} does not exist; make it, or say makedirs = true")
    refuse_changed_by_others(path.parent)
    if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
        raise ConfigurationError(f"{what} cannot be written: user {user_name()} may make no file in {path.parent}")
    if not _is_there(path):
        return
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise ConfigurationError(f"{what} {path} is not a regular file")
    refuse_changed_by_others(path)
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
        raise ConfigurationError(
            f"{what} {path} may not be written by user {user_name()}: see to its owner, its mode "
            f"({stat.S_IMODE(mode):04o}), and that nothing makes it read-only"
        )


def _look_at_users(path: Path | None) -> list[str]:
    if path is None:
        return []
    if not _is_there(path):
        return [f"nobody of the users file can sign in: there is no {path}"]
    refuse_changed_by_others(path)
    if not os.access(path, os.R_OK, effective_ids=True):
        return [f"nobody of the users file can sign in: {why_denied(path)}"]
    return []


def _is_there(path: Path) -> bool:
    """Whether something lies at *path*.

    Raises:
        ConfigurationError: this user cannot see that.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        why = why_denied(path) if isinstance(error, PermissionError) else error.strerror
        raise ConfigurationError(f"{path} cannot be looked at: {why}") from None
    return True

"""Convection's storage directory: its files, and the keys that open them.

    root.key         the root key, once under each unlock key: a Fernet token a line
    keymap.db        under the root key, in TOML: keymap.<store> = {keyset, store_type}, and keysets
    <keyset>.key     under the root key: the keys of the keyset, one a line
    secrets/<store>  a generic store whose name has no slash; the path of one that has some is its name.
                     One Fernet token under any key of its keyset, of TOML: metadata, config, store.<secret>, stats

Convection (1.0.1, with its generic stores 1.0.0) overwrites these files in place, so a reader of a directory in use
looks again before it believes in damage. Here a store is replaced whole: readers see the one or the other.

All of this blocks on the disk and computes; `migration.sources.convection` calls it off the event loop. A store is one
token and opens only as a whole, so as a whole it is in memory, one at a time.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from migration.errors import EstateRefused, EstateUnavailable
from migration.sources import convection_toml
from storage_service.errors import ConfigurationError

GENERIC: Final = "generic"
UNFINISHED: Final = ".strongroom-new"
"""What the name of a file ends in that was being written here."""

MAX_FILE: Final = 16 * 1024 * 1024
"""Bytes of one store. Convection takes minutes for one access to a store of that size, so nobody has one."""

_LOOKS: Final = 4  # at what does not open, before it is taken for damaged
_PAUSE: Final = 0.1  # seconds between them: Convection writes a store in less
_STORE: Final = "store"  # the table of secrets


class Damaged(Exception):
    """A file cannot be used; the text says what is wrong with it, and repeats nothing that it holds."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the keymap says of a store."""

    keyset: str
    type: str


class Opened:
    """A store as it lay in its file at one moment. Its repr shows nothing."""

    __slots__ = ("_sum", "document")

    def __init__(self, token: bytes, document: Mapping[str, object]) -> None:
        self._sum = hashlib.sha256(token).digest()
        self.document = document

    @property
    def secrets(self) -> Mapping[str, object]:
        """The secrets by name."""
        store = self.document[_STORE]
        return store if isinstance(store, Mapping) else {}

    def is_of(self, token: bytes) -> bool:
        """Whether this was read from exactly that."""
        return hmac.compare_digest(self._sum, hashlib.sha256(token).digest())

    def __repr__(self) -> str:
        return f"<Opened of {len(self.secrets)} secrets>"


class Directory:
    """A storage directory, unlocked."""

    def __init__(self, path: Path, key: Fernet) -> None:
        """Take the root key with an unlock key, and read the keymap.

        Raises:
            ConfigurationError: this is no storage directory.
            EstateRefused: the unlock key opens no copy of the root key.
            EstateUnavailable: a file cannot be read, or is damaged.
        """
        self._path = path
        self._root = _root_key(_own_file(path, "root.key"), key, path)
        try:
            keymap = tomllib.loads(self._root.decrypt(_own_file(path, "keymap.db")).decode())
            self.keymap, self._keysets = _stores_and_keysets(keymap)
        except (InvalidToken, ValueError, TypeError, KeyError):
            raise EstateUnavailable(
                f"{path}/keymap.db is damaged: put it back from a backup, or have Convection make it anew"
            ) from None

    def path_of(self, store: str) -> Path:
        """Return the path of a store's file, links followed as Convection follows them.

        Raises:
            Damaged: it is outside of the directory.
        """
        inside = store.removeprefix("/") if "/" in store else f"secrets/{store}"
        root = self._path.resolve()
        path = (root / inside).resolve()
        if not path.is_relative_to(root):
            raise Damaged("its file is outside of the storage directory")
        return path

    def read(self, store: str, last: Opened | None = None) -> Opened:
        """Return a store of the keymap as it is now; *last* itself if it is as it was then.

        Raises:
            Damaged: it does not open.
            EstateUnavailable: its file cannot be read.
        """
        path = self.path_of(store)
        for look in range(_LOOKS):
            if look:
                time.sleep(_PAUSE)
            token = _read(path)
            if last is not None and last.is_of(token):
                return last
            with contextlib.suppress(InvalidToken):
                return Opened(token, _document(self._keyset(self.keymap[store].keyset).decrypt(token)))
        raise Damaged("its file does not open with the keys of its keyset: it is damaged, or under other keys")

    def write(self, store: str, was: Opened, changed: Mapping[str, object]) -> Opened:
        """Replace a store, if it is still as it *was*, by one with other secrets under a key of its keyset.

        When this returns, the file is on disk, with the owner and the mode of the old one.

        Raises:
            EstateUnavailable: it is not as it was, or the file cannot be written; it is as it was before.
            Damaged: its keyset does not open.
        """
        document = {**was.document, _STORE: changed}
        text = convection_toml.dumps(document)
        keys = self._keys(self.keymap[store].keyset)
        token = Fernet(secrets.choice(keys)).encrypt(text.encode())
        # What cannot be read back is not put in the place of what can.
        if convection_toml.dumps(_document(MultiFernet(list(map(Fernet, keys))).decrypt(token))) != text:
            raise EstateUnavailable(f"the store {store!r} holds what cannot be written back; nothing was changed")
        _replace(self.path_of(store), was, token)
        return Opened(token, document)

    def opened_secrets(self, token: bytes) -> Mapping[str, object]:
        """Return the secrets in what may be a store, or a copy of one, under any keyset; none if it does not open."""
        for keyset in self._keysets:
            with contextlib.suppress(InvalidToken, Damaged):
                return Opened(token, _document(self._keyset(keyset).decrypt(token))).secrets
        return {}

    def _keyset(self, name: str) -> MultiFernet:
        return MultiFernet(list(map(Fernet, self._keys(name))))

    def _keys(self, name: str) -> Sequence[bytes]:
        try:
            keys = self._root.decrypt(_read(self._path / f"{name}.key")).splitlines()
            for key in keys:
                Fernet(key)
        except (InvalidToken, ValueError):
            keys = []
        if not keys:
            raise Damaged(f"its keyset {name!r} does not open with the root key")
        return keys

    def __repr__(self) -> str:
        return f"<Directory {self._path}>"


def files_below(path: Path) -> Iterator[Path]:
    """Yield every plain file in and below a directory, in order; links are not followed.

    Raises:
        EstateUnavailable: a directory cannot be read.
    """

    def fail(error: OSError) -> None:
        raise EstateUnavailable(f"{error.filename} cannot be read: {error.strerror}") from None

    for directory, folders, names in os.walk(path, onerror=fail):
        folders.sort()
        for name in sorted(names):
            file = Path(directory, name)
            if file.is_file() and not file.is_symlink():
                yield file


def sync_directory(path: Path) -> None:
    """Bring the names in a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _own_file(directory: Path, name: str) -> bytes:
    """Return what a file holds that every storage directory has.

    Raises:
        ConfigurationError: this one does not.
    """
    try:
        return _read(directory / name)
    except Damaged as error:
        raise ConfigurationError(
            f"{directory} is no storage directory of Convection: {name}: {error}; give the directory that config.path"
            " names in convection-secrets.toml"
        ) from None


def _root_key(copies: bytes, key: Fernet, path: Path) -> Fernet:
    """Return the root key that one of its *copies* opens to.

    Raises:
        EstateRefused: none opens.
    """
    for copy in copies.splitlines():
        with contextlib.suppress(InvalidToken, ValueError):
            return Fernet(key.decrypt(copy))
    raise EstateRefused(
        f"the unlock key opens none of the root keys in {path}/root.key: give one of those that are in use now"
    )


def _read(path: Path) -> bytes:
    try:
        # O_NONBLOCK: a FIFO in the place of a file must not hang the reader.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Damaged("its file is no plain file")
            content = file.read(MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise Damaged("its file is missing") from None
    except OSError as error:
        raise EstateUnavailable(f"{path} cannot be read: {error.strerror}; run this as the user who owns it") from None
    if len(content) > MAX_FILE:
        raise Damaged(f"its file is larger than {MAX_FILE // 1024 // 1024} MiB")
    return content


def _replace(path: Path, was: Opened, token: bytes) -> None:
    """Put *token* in the place of the file at *path* if that is still as it *was*.

    Raises:
        EstateUnavailable: it is not, or it cannot be done.
    """
    draft = path.with_name(f".{path.name}{UNFINISHED}")
    try:
        draft.unlink(missing_ok=True)  # of an earlier run that was killed
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                status = path.stat()
                os.fchown(descriptor, status.st_uid, status.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
                file.write(token)
                file.flush()
                os.fsync(descriptor)
            if not was.is_of(_read(path)):
                raise EstateUnavailable(
                    f"{path} was changed meanwhile, and was left as it is: stop the Convection server"
                )
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        sync_directory(path.parent)
    except (OSError, Damaged) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise EstateUnavailable(f"{path} cannot be replaced: {reason}; run this as the user who owns it") from None


def _document(text: bytes) -> Mapping[str, object]:
    try:
        document = tomllib.loads(text.decode())
    except (ValueError, RecursionError):
        raise Damaged("what its file opens to is no TOML") from None
    if not isinstance(document.get(_STORE), dict):
        raise Damaged("what its file opens to is no generic store")
    return document


def _stores_and_keysets(document: Mapping[str, object]) -> tuple[Mapping[str, Entry], Sequence[str]]:
    """Return what a keymap says.

    Raises:
        TypeError, KeyError: it is none.
    """
    stores, keysets = document["keymap"], document["keysets"]
    if not isinstance(stores, dict) or not isinstance(keysets, list):
        raise TypeError
    entries = {name: Entry(_text(entry["keyset"]), _text(entry["store_type"])) for name, entry in stores.items()}
    return entries, [_text(keyset) for keyset in keysets]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value

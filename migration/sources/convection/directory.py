"""Convection's storage directory: its files, and the keys that open them.

    root.key         the root key, once under each unlock key: a Fernet token a line
    keymap.db        under the root key, in TOML: keymap.<store> = {keyset, store_type}, and keysets
    <keyset>.key     under the root key: the keys of the keyset, one a line
    secrets/<store>  a generic store whose name has no slash; the path of one that has some is its name.
                     One Fernet token under any key of its keyset, of TOML: metadata, config, store.<secret>, stats

Convection (1.0.1, with its generic stores 1.0.0) overwrites these files in place, so a reader of a directory in use
looks again before it believes in damage. Here a store is replaced whole: readers see the one or the other.

All of this blocks on the disk and computes; `convection.source` calls it off the event loop. A store is one
token and opens only as a whole, so as a whole it is in memory, one at a time.
"""

import contextlib
import hashlib
import hmac
import secrets
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from strongroom.migration.errors import SourceRefused, SourceUnavailable
from strongroom.migration.sources import files
from strongroom.migration.sources.convection import toml
from strongroom.migration.sources.files import Unfit
from strongroom.models import names
from strongroom.models.strict_json import UNREADABLE
from strongroom.storage_service.errors import ConfigurationError

GENERIC: Final = "generic"

MAX_FILE: Final = 16 * 1024 * 1024
"""Bytes of one store. Convection takes minutes for one access to a store of that size, so nobody has one."""

_LOOKS: Final = 4  # at what does not open, before it is taken for damaged
_PAUSE: Final = 0.1  # seconds between them: Convection writes a store in less
_STORE: Final = "store"  # the table of secrets


@dataclass(frozen=True, slots=True)
class Entry:
    """What the keymap says of a store."""

    keyset: str
    type: str


class Opened:
    """A store as it lay in its file at one moment. Its repr shows nothing."""

    __slots__ = ("_sum", "document", "secrets")

    def __init__(self, token: bytes, document: Mapping[str, object]) -> None:
        """Take the document that the token opens to.

        Raises:
            Unfit: it does not belong to a generic store.
        """
        store = document.get(_STORE)
        if not isinstance(store, dict):
            raise Unfit("its decrypted file is not a generic store")
        self._sum = hashlib.sha256(token).digest()
        self.document = document
        self.secrets: Mapping[str, object] = store

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
            SourceRefused: the unlock key opens no copy of the root key.
            SourceUnavailable: a file cannot be read, or is damaged.
        """
        self._path = path
        if not path.is_dir():
            raise SourceUnavailable(f"there is no directory {path}, or it cannot be reached")
        self._root = _root_key(_own_file(path, "root.key"), key, path)
        try:
            keymap = tomllib.loads(self._root.decrypt(_own_file(path, "keymap.db")).decode())
            self.keymap, self._keysets = _stores_and_keysets(keymap)
        except (InvalidToken, *UNREADABLE, TypeError, KeyError):
            raise SourceUnavailable(
                f"{path}/keymap.db is damaged: put it back from a backup, or have Convection make it anew"
            ) from None

    def path_of(self, store: str) -> Path:
        """Return the path of a store's file, links followed as Convection follows them.

        Raises:
            Unfit: it is outside of the directory.
        """
        inside = store.removeprefix("/") if "/" in store else f"{names.SECRETS}{store}"
        root = self._path.resolve()
        path = (root / inside).resolve()
        if not path.is_relative_to(root):
            raise Unfit("its file is outside of the storage directory")
        return path

    def read(self, store: str, last: Opened | None = None) -> Opened:
        """Return a store of the keymap as it is now; *last* itself if it is as it was then.

        Raises:
            Unfit: it does not open.
            SourceUnavailable: the whole directory is gone.
        """
        path = self.path_of(store)
        for look in range(_LOOKS):
            if look:
                time.sleep(_PAUSE)
            token = self._token(path)
            if last is not None and last.is_of(token):
                return last
            with contextlib.suppress(InvalidToken):
                return Opened(token, _document(self._keyset(self.keymap[store].keyset).decrypt(token)))
        raise Unfit("its file does not open with the keys of its keyset: it is damaged, or under other keys")

    def write(self, store: str, was: Opened, changed: Mapping[str, object]) -> Opened:
        """Replace a store, if it is still as it *was*, by one with other secrets under a key of its keyset.

        When this returns, the file is on disk, with the owner and the mode of the old one.

        Raises:
            SourceUnavailable: it is not as it was, or the file cannot be written; it is as it was before.
            Unfit: its keyset does not open.
        """
        document = {**was.document, _STORE: changed}
        text = toml.dumps(document)
        keys = self._keys(self.keymap[store].keyset)
        token = Fernet(secrets.choice(keys)).encrypt(text.encode())
        # What cannot be read back is not put in the place of what can.
        if toml.dumps(_document(self._keyset(self.keymap[store].keyset).decrypt(token))) != text:
            raise SourceUnavailable(f"the store {store!r} holds what cannot be written back; nothing was changed")
        path = self.path_of(store)
        with files.replacing(path, files.identity(path)) as file:
            file.write(token)
            if not was.is_of(self._token(path)):
                raise SourceUnavailable(f"{path} was changed meanwhile, and left as it is: stop the Convection server")
        return Opened(token, document)

    def opened_secrets(self, token: bytes) -> Mapping[str, object]:
        """Return the secrets in what may be a store, or a copy of one, under any keyset; none if it does not open."""
        for keyset in self._keysets:
            with contextlib.suppress(InvalidToken, Unfit):
                return Opened(token, _document(self._keyset(keyset).decrypt(token))).secrets
        return {}

    def _token(self, path: Path) -> bytes:
        try:
            return files.read(path, MAX_FILE).content
        except Unfit as error:
            if not self._path.is_dir():
                raise SourceUnavailable(f"there is no directory {self._path} any more") from None
            raise Unfit(f"its file {error}") from None

    def _keyset(self, name: str) -> MultiFernet:
        return MultiFernet(list(map(Fernet, self._keys(name))))

    def _keys(self, name: str) -> Sequence[bytes]:
        keys: Sequence[bytes] = ()
        with contextlib.suppress(InvalidToken, Unfit):
            keys = self._root.decrypt(files.read(self._path / f"{name}.key", MAX_FILE).content).splitlines()
        if not keys:
            raise Unfit(f"its keyset {name!r} is missing, or does not open with the root key")
        return keys

    def __repr__(self) -> str:
        return f"<Directory {self._path}>"


def _own_file(directory: Path, name: str) -> bytes:
    """Return what a file holds that every storage directory has.

    Raises:
        ConfigurationError: this one does not.
    """
    try:
        return files.read(directory / name, MAX_FILE).content
    except Unfit as error:
        reason = str(error)
    raise ConfigurationError(
        f"{directory} is not readable as a storage directory of Convection: {name} {reason}; give the directory that"
        " config.path names in convection-secrets.toml, and run this as the user who owns it"
    )


def _root_key(copies: bytes, key: Fernet, path: Path) -> Fernet:
    """Return the root key that one of its *copies* opens to.

    Raises:
        SourceRefused: none opens.
    """
    for copy in copies.splitlines():
        with contextlib.suppress(InvalidToken, ValueError):
            return Fernet(key.decrypt(copy))
    raise SourceRefused(
        f"the unlock key opens none of the root keys in {path}/root.key: give one of those that are in use now"
    )


def _document(text: bytes) -> Mapping[str, object]:
    try:
        return tomllib.loads(text.decode())
    except UNREADABLE:
        pass
    raise Unfit("its decrypted file is not TOML")  # out here: the error knows the text


def _stores_and_keysets(document: Mapping[str, object]) -> tuple[Mapping[str, Entry], Sequence[str]]:
    """Return what a keymap says.

    Raises:
        TypeError, KeyError: it is invalid.
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

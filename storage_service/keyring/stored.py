"""The keyring in the store: the document under the root key, read and replaced; every change at once or not at all.

    system/keyring/keys                     the keyring document, encrypted under the root key
    system/keyring/wraps/<root kid>/…       the root key, encrypted for its recipients

The store is untrusted: the document opens under the root key and its own name, or nothing is done with it. It is
replaced by compare-and-set alone, and a data key is in it before anything can be encrypted under that key. Two things
must never happen, and each has its rule. A keyring must not be made beside secrets that another one protects: so one
is made only for a store that holds nothing sealed. And of all who race to make or to change it, the store lets one
through; the others are told, and have done nothing.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from strongroom.models.names import ENCRYPTED, KEYRING_DOCUMENT, WRAPS
from strongroom.models.steps import Step
from strongroom.storage_service.backends.base import ABSENT, Backend, Change, Conflict, Put
from strongroom.storage_service.errors import KeyringDamaged, KeyringOutdated, Overtaken, Undecipherable, WrongRootKey
from strongroom.storage_service.jose import jwe
from strongroom.storage_service.jose.content_encryption import KEY_SIZE
from strongroom.storage_service.keyring.document import Document, Random
from strongroom.storage_service.keyring.rootkey import RootKey, is_root_kid

_ATTEMPTS: Final = 8  # at a document that looks old, while others write newer ones


@dataclass(frozen=True, slots=True)
class Sealed:
    """The document as it lies in the store."""

    token: bytes
    revision: int
    root: str  # kid of the root key that it says it is encrypted under

    def __repr__(self) -> str:
        return f"<Sealed under {self.root}, revision {self.revision}>"


def now() -> str:
    """Return the time as everything of the keyring spells it: RFC 3339, UTC, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def new_root(random: Random = secrets.token_bytes) -> RootKey:
    """Return a new root key."""
    return RootKey(random(KEY_SIZE))


async def read(backend: Backend) -> Sealed | None:
    """Return the store's keyring document, or None for a store that was never used.

    Raises:
        KeyringDamaged: the store holds secrets or wraps but no document, or what lies there is none.
        Unavailable: the store does not answer.
    """
    entry = await backend.get(KEYRING_DOCUMENT)
    if entry is None:
        used = [prefix for prefix in (*ENCRYPTED, WRAPS) if (await backend.list(prefix, limit=1)).names]
        # Once more: what needs it is written with it or after it, so whoever saw that must see the document too.
        entry = await backend.get(KEYRING_DOCUMENT)
    if entry is None:
        if used:
            raise KeyringDamaged(
                f"the store holds secrets or wraps, but no {KEYRING_DOCUMENT}, and no new key will be made: restore "
                "that from the backup that they come from"
            ).advising(Step("or bring an exported keyring back", "key import"))
        return None
    root = jwe.kid_of(entry.value)
    if root is None or not is_root_kid(root):
        raise KeyringDamaged(f"the store's {KEYRING_DOCUMENT} is not a keyring; restore it from a backup")
    return Sealed(entry.value, entry.revision, root)


def open_document(sealed: Sealed, root: RootKey) -> Document:
    """Return the document in *sealed*.

    Raises:
        WrongRootKey: it is encrypted under another root key.
        KeyringDamaged: it does not open, or its content is invalid.
        KeyringOutdated: *root* has seen a newer one. It may have been written since this one was read, too.
        ConfigurationError: a later version of this program wrote it.
    """
    if sealed.root != root.kid:
        raise WrongRootKey(f"the keyring is encrypted under {sealed.root}, but the given root key is {root.kid}")
    try:
        document = Document.decode(jwe.decrypt({root.kid: root}, KEYRING_DOCUMENT, sealed.token))
    except Undecipherable as error:
        raise KeyringDamaged(
            f"the store's {KEYRING_DOCUMENT} does not open: {error.reason}; restore it from a backup"
        ) from None
    if root.seen is not None:
        root.seen.check(document.keyring, document.edition, sealed.token)
    return document


async def current(backend: Backend, root: RootKey) -> tuple[Document, Sealed]:
    """Return the store's document, opened, and as it lies there.

    Raises:
        Overtaken: it is gone.
        KeyringOutdated: *root* has seen a newer one.
        WrongRootKey, KeyringDamaged, ConfigurationError: as `open_document`.
        Unavailable: the store does not answer.
    """
    refused: list[bytes] = []
    while True:
        sealed = await read(backend)
        if sealed is None:
            raise Overtaken("the keyring is gone")
        try:
            return open_document(sealed, root), sealed
        except KeyringOutdated:  # read again: others may have written a newer one, and seen it, since it was read
            if sealed.token in refused or len(refused) == _ATTEMPTS:
                raise
            refused.append(sealed.token)


async def create(backend: Backend, root: RootKey, document: Document, also: Sequence[Put]) -> int:
    """Store the first document of a store, with the wraps *also*, and return its revision.

    Raises:
        Overtaken: another process was faster; nothing was stored.
        Unavailable: with its fate.
    """
    return (await replace(backend, root, document, ABSENT, also))[1]


async def replace(
    backend: Backend, root: RootKey, document: Document, revision: int, also: Sequence[Change] = ()
) -> tuple[Document, int]:
    """Store *document* in the place of the one at *revision*, and *also* other changes with it.

    Returns:
        The document as it was stored, of an edition of its own, and its revision.

    Raises:
        Overtaken: somebody else changed the keyring, or a guard of *also* does not hold; nothing was stored.
        Unavailable: with its fate.
    """
    document = document.stored_at(int(time.time() * 1000))
    token = jwe.encrypt(root, KEYRING_DOCUMENT, document.encode())
    try:
        written = await backend.commit([Put(KEYRING_DOCUMENT, token, expected=revision), *also])
    except Conflict:
        raise Overtaken("somebody else changed the keyring meanwhile") from None
    if root.seen is not None:
        await root.seen.note(document.keyring, document.edition, token)
    return document, written


async def edit(
    backend: Backend, root: RootKey, change: Callable[[Document], Document], also: Sequence[Change] = ()
) -> tuple[Document, int]:
    """Change the document by *change*, and return the new one with its revision.

    Raises:
        Overtaken: somebody else changed it between its reading and its writing.
        WrongRootKey, KeyringDamaged, KeyringOutdated, ConfigurationError: as `open_document`.
        Unavailable: with its fate.
        and whatever *change* raises.
    """
    said, sealed = await current(backend, root)
    return await replace(backend, root, change(said), sealed.revision, also)


async def create_if_new(
    backend: Backend, root: RootKey, also: Sequence[Put], keys: int = 1, random: Random = secrets.token_bytes
) -> None:
    """Give a store its first keyring, unless another process is faster; theirs is as good, and is read like ours."""
    with suppress(Overtaken):
        await create(backend, root, Document.new(now(), keys, random), also)

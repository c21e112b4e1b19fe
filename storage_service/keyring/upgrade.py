"""From the first form of the keyring to that of today, in one step.

    system/keyring/default.1  =  JWE under the key in the root key file, bound to that name, of
                                 {"format":1,"k":"<512 bits>","kid":"default.1","kty":"oct"}

That was all of it: one row a key, no document, no root key but the one in the file, and no census. Every key keeps
its kid, so that every record opens as before; the file stays what it is, and becomes the recipient of a new root key.
The rows go and the document comes in one commit, which holds only while each row is the one that was read: of all
workers that begin together one does it, and whoever is killed leaves the first form or that of today, whole.

Services of the first form know nothing of the document and go on writing: stop them first. The rows are not trusted:
each opens under the file's key and its own name, or nothing is done.
"""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from strongroom.models.names import ACCESS, KEYRING, KEYRING_DOCUMENT
from strongroom.storage_service.backends.base import ABSENT, Backend, Change, Delete, Entry
from strongroom.storage_service.errors import (
    ConfigurationError,
    KeyFileMissing,
    KeyringDamaged,
    KeyringOutdated,
    Overtaken,
    Undecipherable,
    WrongRootKey,
)
from strongroom.storage_service.jose import envelope, jwk
from strongroom.storage_service.jose.content_encryption import KEY_SIZE
from strongroom.storage_service.keyring import rootkey, vault, wraps
from strongroom.storage_service.keyring.document import (
    ACCESS_KEYSET,
    Assignment,
    Document,
    Keyset,
    Random,
    Version,
)
from strongroom.storage_service.keyring.ring import DEFAULT_KEYSET, DataKey, version_of
from strongroom.storage_service.keyring.rootkey import RootKey, is_root_kid
from strongroom.storage_service.keyring.seen import Seen
from strongroom.storage_service.keyring.unattended import KeyFile, as_recipient

FORMAT: Final = 1  # of a wrapped data key


async def is_first_form(backend: Backend) -> bool:
    """Whether the store has a keyring of the first form, and none of today's.

    Raises:
        KeyringDamaged: it holds more keys than any keyring of that form had.
        Unavailable: the store does not answer.
    """
    return bool(await _rows(backend))


async def upgrade(
    backend: Backend, file: KeyFile, random: Random = secrets.token_bytes, *, seen: Seen | None = None
) -> bool:
    """Give a store of the first form its document, and return whether this call did so; of other stores touch nothing.

    Afterwards the document says that the census is not complete: no record has a row yet.

    Args:
        backend: the store, opened; the bare one, not one that encrypts.
        file: the root key file that the keys are wrapped under.
        random: gives that many unpredictable bytes.
        seen: which keyring this home has seen; None: none.

    Raises:
        KeyringOutdated: it has seen one of today's form.
        KeyFileMissing: there is no such file.
        KeyFileUnusable: the file is no key, or is open to others.
        WrongRootKey: the keys are wrapped under another file's key.
        KeyringDamaged: a key does not open, or there are more than one commit can replace.
        ConfigurationError: a key is of a later format.
        Overtaken: the rows changed meanwhile; nothing was done.
        Unavailable: the store does not answer; with the fate of the upgrade.
    """
    rows = await _rows(backend)
    if not rows:
        return False
    if seen is not None and seen.last is not None:
        raise KeyringOutdated(
            "the store has a keyring of the first form, and a later one was seen here: somebody may have put the old "
            f"one there. {seen.advice}"
        )
    held = await asyncio.to_thread(_read, file.path)
    now, root = vault.now(), vault.new_root(random)
    document = _document([_unwrap(held, file.path, kid, entry.value) for kid, entry in rows.items()], now, random)
    also: list[Change] = [wraps.put(wraps.wrap(root, as_recipient(held), now))]
    also += [Delete(KEYRING + kid, entry.revision) for kid, entry in rows.items()]
    if len(also) >= backend.max_batch:
        raise _too_many(len(rows))
    try:
        await vault.replace(backend, root, document, ABSENT, also)
    except Overtaken:
        if await is_first_form(backend):
            raise
        return False  # another worker was faster, and made as good a document
    finally:
        root.wipe()
        held.wipe()
    return True


async def _rows(backend: Backend) -> Mapping[str, Entry]:
    """Return the wrapped keys by their kids; none if there is a document."""
    page = await backend.list(KEYRING)
    names = [name for name in page.names if version_of(kid := name.removeprefix(KEYRING)) == kid]
    entries = await backend.get_many(names) if names else {}
    # The document after the rows: whoever saw them before an upgrade sees what took their place.
    if not entries or await backend.get(KEYRING_DOCUMENT) is not None:
        return {}
    if page.more:
        raise _too_many(len(page.names))
    return {name.removeprefix(KEYRING): entry for name, entry in entries.items()}


def _read(path: Path) -> RootKey:
    """Return the key in the file at *path*. Blocks on the disk."""
    try:
        return rootkey.read(path)
    except KeyFileMissing:
        raise KeyFileMissing(
            f"the store holds keys that are wrapped under a root key file, but there is none at {path}: restore the "
            f"{path.name} that was made with this store; no new one will be made, as it could open none of them"
        ) from None


def _unwrap(held: RootKey, path: Path, kid: str, token: bytes) -> DataKey:
    """Return the data key that *token*, found as that of *kid*, wraps."""
    name = KEYRING + kid
    claimed = envelope.kid_of(token)
    if claimed is not None and claimed != held.kid and is_root_kid(claimed):
        raise WrongRootKey(
            f"the store's {name} is wrapped under the root key {claimed}, but {path} holds {held.kid}: "
            f"put the {path.name} that was made with this store in its place"
        )
    try:
        members = jwk.decode(envelope.decrypt({held.kid: held}, name, token))
        if members.get("format") == FORMAT:
            if members.get("kid") != kid:
                raise ValueError("it says that it is another key")
            return DataKey(kid, jwk.octets_of(members))
    except Undecipherable as error:
        raise KeyringDamaged(f"the store's {name} does not open: {error.reason}; restore it from a backup") from None
    except ValueError as error:
        raise KeyringDamaged(f"the store's {name} opens, but {error}; restore it from a backup") from None
    raise ConfigurationError(
        f"the store's {name} is of a kind that this version does not know: a later version wrote it; run that one"
    )


def _document(keys: Sequence[DataKey], now: str, random: Random) -> Document:
    """Return the document of these *keys*; when they were made nobody wrote down, so it says *now*.

    Raises:
        KeyringDamaged: the keys that new secrets are written under are not among them.
    """
    versions: dict[str, list[Version]] = {}
    for key in sorted(keys, key=lambda key: (key.keyset, key.number)):
        versions.setdefault(key.keyset, []).append(Version(key.number, now, (key.reveal(),)))
    if DEFAULT_KEYSET not in versions:
        raise KeyringDamaged(f"the keys of {DEFAULT_KEYSET} are missing under {KEYRING}; restore them from a backup")
    held = set(versions)
    # API keys lie under the keyset of everything else, and move to their own with the next re-encryption.
    versions.setdefault(ACCESS_KEYSET, [Version(1, now, (random(KEY_SIZE),))])
    # There were no places: whatever keysets there are, everything may be under each.
    others = tuple(sorted(held - {DEFAULT_KEYSET, ACCESS_KEYSET}))
    places = {ACCESS: Assignment(ACCESS_KEYSET, before=(DEFAULT_KEYSET, *others))}
    if elsewhere := tuple(sorted(held - {DEFAULT_KEYSET})):
        places[""] = Assignment(DEFAULT_KEYSET, before=elsewhere)
    return Document(
        keysets={name: Keyset(of[-1].number, 1, tuple(of)) for name, of in versions.items()},
        numbers={name: of[-1].number for name, of in versions.items()},
        places=places,
        counted=False,
    )


def _too_many(count: int) -> KeyringDamaged:
    return KeyringDamaged(f"the store holds {count} wrapped keys or more; no keyring of its form grew so large")

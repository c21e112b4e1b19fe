"""Opening the keys of a store: the root key file on one side, the wrapped data keys in the store on the other.

    system/keyring/default.1  =  JWE under the root key, bound to that name, of
                                 {"format":1,"k":"<512 bits>","kid":"default.1","kty":"oct"}

The store is untrusted: what it holds under ``system/keyring/`` opens under the root key and its own name, or the
service does not start. A data key is persisted before anything can be encrypted under it: `open_ring` returns only
keys it has read back from the store. The root key is held while the keys are unwrapped, and let go of when the ring
is returned; Python cannot wipe it, so its bytes may stay in freed memory until the allocator uses the place again.

Two things must never happen, and each has its rule. A new root key must not be made beside secrets that an old one
protects: so the store is looked at before the file, and a file is made only for an empty store. And a secret must
not be written under a key that others do not see: so of all who race to make the first data key the store lets one
through, and the others read the winner's.
"""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from models.names import SECRETS, SYSTEM
from storage_service.backends.base import ABSENT, Backend, Conflict, Put
from storage_service.errors import (
    ConfigurationError,
    KeyFileMissing,
    KeyringDamaged,
    Undecipherable,
    WrongRootKey,
)
from storage_service.keyring import envelope, jwk, rootkey
from storage_service.keyring.content_encryption import KEY_SIZE
from storage_service.keyring.ring import DEFAULT_KEYSET, DataKey, Ring, is_kid
from storage_service.keyring.rootkey import RootKey

KEYRING: Final = SYSTEM + "keyring/"  # where the wrapped data keys lie
_SEALED: Final = (SECRETS, SYSTEM + "access/")  # where values are that only these keys open
FORMAT: Final = 1  # of a wrapped data key; a later one is refused, not guessed at


async def open_ring(
    backend: Backend,
    root_key_path: Path,
    autogen: bool = True,
    random: Callable[[int], bytes] = secrets.token_bytes,
) -> Ring:
    """Return the data keys of the store, after making the first one, and the root key file, for an empty store.

    Args:
        backend: the store, opened; the bare one, not one that encrypts.
        root_key_path: where ``secrets.key`` is, or is to be.
        autogen: make the root key file when store and file are both new; False: never make one.
        random: gives that many unpredictable bytes.

    Raises:
        KeyFileMissing: the file is gone but the store is in use, or *autogen* is off and there is none.
        KeyFileUnusable: the file is no key, or is open to others.
        WrongRootKey: the store's keys are wrapped under another root key.
        KeyringDamaged: the store holds secrets but no keys, or keys that do not open under their own root key.
        ConfigurationError: a later version of this program wrote the keys.
        Unavailable: the store does not answer.
    """
    # Secrets first, keys second, the file last: each is written only after the next in this order, so whatever we
    # see of another process' first start, we see what must be there for it, too.
    sealed = [prefix for prefix in _SEALED if (await backend.list(prefix, limit=1)).names]
    names = await _names(backend)
    root = await asyncio.to_thread(_root_key, root_key_path, autogen, bool(names or sealed))
    if not names:
        if sealed:
            raise KeyringDamaged(
                f"the store holds secrets, but no keys under {KEYRING}: restore those from the backup that the secrets "
                "come from; no new key will be made"
            )
        await _make_first(backend, root, random)
        names = await _names(backend)
    entries = await backend.get_many(names)
    return Ring(_unwrap(root, root_key_path, name, entry.value) for name, entry in entries.items())


async def _names(backend: Backend) -> tuple[str, ...]:
    page = await backend.list(KEYRING)
    if page.more:
        raise KeyringDamaged(f"the store holds more than {len(page.names)} keys; no keyring grows so large")
    return page.names


def _root_key(path: Path, autogen: bool, in_use: bool) -> RootKey:
    """Return the root key, made if it may be. Blocks on the disk."""
    if in_use or not autogen:
        try:
            return rootkey.read(path)
        except KeyFileMissing:
            if in_use:
                raise KeyFileMissing(
                    f"the store holds secrets or their keys, but there is no root key file at {path}: restore the "
                    "secrets.key that was made with this store; no new one will be made, as it could open none of them"
                ) from None
            raise KeyFileMissing(
                f"there is no root key file at {path}, and making one is turned off: provide it, or turn "
                "autogen_root_key on for the first start"
            ) from None
    return rootkey.make(path)


async def _make_first(backend: Backend, root: RootKey, random: Callable[[int], bytes]) -> None:
    """Persist a first data key, unless another process was faster."""
    key = DataKey(f"{DEFAULT_KEYSET}.1", random(KEY_SIZE))
    name = KEYRING + key.kid
    with suppress(Conflict):  # theirs is read back like ours would be
        await backend.commit([Put(name, _wrap(root, key), expected=ABSENT)])


def _wrap(root: RootKey, key: DataKey) -> bytes:
    """Return *key* as the store keeps it: the document drawn above, encrypted under *root*."""
    return envelope.encrypt(root, KEYRING + key.kid, jwk.encode(key.reveal(), format=FORMAT, kid=key.kid))


def _unwrap(root: RootKey, path: Path, name: str, token: bytes) -> DataKey:
    """Return the data key that *token*, found under *name*, wraps."""
    kid = name.removeprefix(KEYRING)
    claimed = envelope.kid_of(token)
    if claimed is not None and claimed != root.kid and rootkey.is_root_kid(claimed):
        raise WrongRootKey(
            f"the store's {name} is wrapped under the root key {claimed}, but {path} holds {root.kid}: "
            "put the secrets.key that was made with this store in its place"
        )
    try:
        members = jwk.decode(envelope.decrypt({root.kid: root}, name, token))
        if members.get("format") == FORMAT and is_kid(kid):
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

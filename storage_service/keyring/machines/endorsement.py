"""Which root key a machine accepts: the one it knows, or the one that a holder of that has put in its place.

A machine's wrap proves nothing of who made it, for public keys are public: whoever can write the store could put a
whole keyring of their own in the place of the one that is there, wrap its root key for the machine, and read whatever
is written from then on. So a machine keeps beside its private key what it knows the root key by, and takes another one
only upon an endorsement of the one before it, which every rotation leaves in the store.

    machine.key.knows.<16>             the pin: a key derived from the root key root.<16>, which opens endorsements only
    system/keyring/endorsements/<kid>  the endorsement of the root key <kid>: a JWE under the key derived from the root
                                       key before it, bound to its name

The first root key that a machine opens is taken on trust. A machine that has slept through two rotations no longer
knows how the second follows from the first; then a person has to say that the keyring is the right one, by removing
the file.
"""

import asyncio
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from strongroom.models.names import ENDORSEMENTS
from strongroom.storage_service.backends.base import Backend, Change, Delete, Put
from strongroom.storage_service.errors import KeyFileUnusable, Undecipherable, WrongRootKey
from strongroom.storage_service.jose import jwe, jwk
from strongroom.storage_service.jose.content_encryption import KEY_SIZE
from strongroom.storage_service.jose.key import Key
from strongroom.storage_service.keyring.rootkey import RootKey
from strongroom.storage_service.private_file import PrivateFile

KNOWS: Final = ".knows."  # in the name of a file, after that of the machine's key, before what the root key is called

log: Final = logging.getLogger(__name__)

_FILE: Final = PrivateFile("record of a root key", "it is to be removed")


def derived(root: RootKey) -> Key:
    """Return the key that endorsements of *root* are under (HKDF, RFC 5869); it tells nothing of *root*."""
    octets = HKDF(SHA512(), KEY_SIZE, salt=None, info=b"strongroom endorsement v1").derive(root.reveal())
    return Key(f"knows.{root.kid}", octets)


def endorse(before: RootKey, root: RootKey) -> Put:
    """Return the change that says: *root* takes the place of *before*."""
    name = ENDORSEMENTS + root.kid
    return Put(name, jwe.encrypt(derived(before), name, root.kid.encode()))


async def others_than(store: Backend, roots: Collection[str]) -> Sequence[Change]:
    """Return the changes that drop the endorsements of all root keys but *roots*: who needs one has slept too long."""
    page = await store.list(ENDORSEMENTS)
    return [Delete(name) for name in page.names if name.removeprefix(ENDORSEMENTS) not in roots]


@dataclass(frozen=True, slots=True)
class PinnedRoots:
    """The root keys that the machine whose private key is in the file *key* has pinned. Reading and writing blocks."""

    key: Path

    def known(self) -> Sequence[Key]:
        """Return the keys it has for endorsements; none before the first root key that it opened.

        Raises:
            KeyFileUnusable: a file is no key, or is open to others.
        """
        return [self._read(path) for path in self._files()]

    def keep(self, root: RootKey) -> None:
        """Know *root* from now on, and no other.

        Raises:
            KeyFileUnusable: the directory cannot be written.
        """
        path = self.key.with_name(self.key.name + KNOWS + _called(root.kid))
        _FILE.make(path, lambda: jwk.encode(derived(root).reveal()))
        for other in self._files():
            if other != path:
                try:
                    other.unlink(missing_ok=True)
                except OSError as error:
                    raise KeyFileUnusable(f"{other} cannot be removed: {error.strerror}") from None

    def _files(self) -> Sequence[Path]:
        return sorted(path for path in self.key.parent.iterdir() if path.name.startswith(self.key.name + KNOWS))

    def _read(self, path: Path) -> Key:
        try:
            octets = jwk.octets_of(jwk.decode(_FILE.read(path, jwk.MAX_JWK)))
            return Key(f"knows.root.{path.name.rpartition('.')[2]}", octets)
        except ValueError as error:
            raise KeyFileUnusable(f"{path} is not a record of a root key: {error}; put it back, or remove it") from None


async def accept(store: Backend, machine: PinnedRoots, root: RootKey) -> None:
    """Let *machine* know *root* from now on, if it may.

    Raises:
        WrongRootKey: it knows another one, and nothing shows that *root* took its place.
        KeyFileUnusable: what it knows cannot be read.
        Unavailable: the store does not answer.
    """
    known = await asyncio.to_thread(machine.known)
    if known and not await follows(store, known, root):
        raise WrongRootKey(
            f"the keyring is under {root.kid}, and nothing shows that it took the place of the one that this machine "
            "knows: somebody may have put another keyring there. If it is the right one, remove "
            f"{machine.key}{KNOWS}* and start again"
        )
    if len(known) != 1 or known[0] != derived(root):
        try:
            await asyncio.to_thread(machine.keep, root)
        except KeyFileUnusable as error:  # a directory that is read-only: what is known already stays good for a while
            log.warning("this machine cannot record which root key it knows: %s", error)


async def follows(store: Backend, known: Sequence[Key], root: RootKey) -> bool:
    """Whether *root* is a root key that is *known*, or one that took the place of one, by the endorsement in the store.

    Raises:
        Unavailable: the store does not answer.
    """
    if derived(root) in known:
        return True
    name = ENDORSEMENTS + root.kid
    entry = await store.get(name)
    if entry is None:
        return False
    try:
        said = jwe.decrypt({key.kid: key for key in known}, name, entry.value)
    except Undecipherable:
        return False
    return said == root.kid.encode()


def _called(kid: str) -> str:
    return kid.partition(".")[2]

"""The secrets of logins and tokens, derived from the data keys of the keyset ``tokens``, which this module is given.

A data key encrypts nothing here and signs nothing: what signs tokens and what seals challenges are two keys, which say
nothing of each other or of the data key (HKDF, RFC 5869, with SHA-512).
"""

from collections.abc import Sequence
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

ACCEPTED: Final = 2  # generations: the active one, and the one before
SIZE: Final = 64  # bytes

_TOKENS: Final = b"strongroom tokens"
_LOGIN: Final = b"strongroom login"


def token_secrets(keys: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return the secrets of tokens, of the newest two of *keys*, which come newest first."""
    return _derived(keys, _TOKENS)


def challenge_keys(keys: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return the keys of challenges, of the newest two of *keys*, which come newest first."""
    return _derived(keys, _LOGIN)


def _derived(keys: Sequence[bytes], info: bytes) -> tuple[bytes, ...]:
    """Return a secret for each.

    Raises:
        ValueError: a key is shorter than what is made of it, or there is none.
    """
    if not keys or any(len(key) < SIZE for key in keys):
        raise ValueError(f"there is one data key or more, of {SIZE} bytes each")
    return tuple(HKDF(SHA512(), SIZE, None, info).derive(key) for key in keys[:ACCEPTED])

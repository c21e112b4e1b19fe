"""Key pairs for tests: one of each kind, made once, and the private key that RFC 7517 A.2 shows."""

from functools import cache
from typing import Final

from strongroom.storage_service.keyring.machines import key as machine_key
from strongroom.storage_service.keyring.machines.key import Kind, MachineKey
from strongroom.storage_service.keyring.rootkey import RootKey

ROOT: Final = RootKey(bytes(range(64)))
NEXT_ROOT: Final = RootKey(bytes(range(64, 128)))
RFC_7517: Final = {
    "kty": "EC",
    "crv": "P-256",
    "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
    "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
    "d": "870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE",
}


@cache
def key_of(kind: Kind) -> MachineKey:
    """Return the one key pair of that kind: those of RSA take long to make."""
    return machine_key.make(kind)

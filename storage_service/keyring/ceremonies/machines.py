"""Machines as commands make, name and show them. What is done about their documents: `ceremonies.enrolment`."""

import json
from pathlib import Path

from strongroom.storage_service.errors import Exists
from strongroom.storage_service.files import replace_private
from strongroom.storage_service.keyring.machines import key as machine_key
from strongroom.storage_service.keyring.machines.document import SHORT, Row, is_name
from strongroom.storage_service.keyring.machines.key import Kind, MachineKey, parse_public

__all__ = ["SHORT", "Kind", "MachineKey", "Row", "is_name", "make_pair", "parse_public"]


def make_pair(private: Path, public: Path, kind: Kind) -> str:
    """Make a machine's key pair, a file each, and return its fingerprint. Blocks on the disk.

    Raises:
        Exists: there is a private key already; it is never replaced. The public one is written again if it is gone.
        KeyFileUnusable: the one that is there is not to be used, or none can be made.
        OSError: the public key cannot be written.
    """
    if private.exists():
        _write(public, machine_key.read_private(private))
        raise Exists(
            f"there is a machine's key at {private} already, and it is not replaced; {public.name} is beside it"
        )
    key = machine_key.make(kind)
    machine_key.write_private(private, key)
    _write(public, key)
    return key.fingerprint


def _write(path: Path, key: MachineKey) -> None:
    replace_private(path, json.dumps(key.public_jwk(), sort_keys=True).encode() + b"\n")

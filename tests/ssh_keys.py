"""SSH private keys for tests, which OpenSSH itself reads: new ones, or one for each label."""

import base64
import hashlib
import os
import textwrap
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


def private_key(label: str | None = None) -> str:
    """Return a key in OpenSSH's form (PROTOCOL.key): of one label always the same, without one always another."""
    seed = os.urandom(32) if label is None else hashlib.sha256(label.encode()).digest()
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    pair = _string(b"ssh-ed25519") + _string(public)
    check = seed[:4] * 2
    secret = check + pair + _string(seed + public) + _string((label or "").encode()[:80])
    secret += bytes(range(1, 1 + -len(secret) % 8))
    none = _string(b"none")
    whole = b"openssh-key-v1\0" + none + none + _string(b"") + (1).to_bytes(4) + _string(pair) + _string(secret)
    body = "\n".join(textwrap.wrap(base64.b64encode(whole).decode(), 70))
    return f"-----BEGIN OPENSSH PRIVATE KEY-----\n{body}\n-----END OPENSSH PRIVATE KEY-----\n"


def in_base64(label: str | None = None) -> str:
    """Return a key as `HostCreds` keeps it."""
    return base64.b64encode(private_key(label).encode()).decode()


def _string(content: bytes) -> bytes:
    return len(content).to_bytes(4) + content


def with_a_word(word: str) -> str:
    """Return a key in PEM with *word* before it, as ssh reads it and as it moves: where it went can be looked for."""
    return f"{word}: of nobody\n{_PKCS8}"


_PKCS8: Final = (
    ec.derive_private_key(2**200 + 1, ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
).decode()

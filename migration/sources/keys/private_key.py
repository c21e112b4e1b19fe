"""What a file with an SSH private key looks like, as far as that is seen without its passphrase.

Known are OpenSSH's own form (PROTOCOL.key), and PKCS #1, PKCS #8 (RFC 5958) and SEC 1 in PEM (RFC 7468). The lengths
that stand in a key are followed to its end, so that one that was cut short does not pass for a key; no number in it is
checked, which for many thousands of RSA keys would take hours.
"""

import base64
import re
from typing import Final

from strongroom.migration.sources.files import Unfit

_PEM: Final = re.compile(
    rb"-----BEGIN ((?:OPENSSH |RSA |EC |DSA |ENCRYPTED )?)PRIVATE KEY-----\s+(.*?)-----END \1PRIVATE KEY-----",
    re.DOTALL,
)
_PUBLIC: Final = (
    b"ssh-",
    b"ecdsa-",
    b"sk-",
    b"-----BEGIN CERTIFICATE-----",
    b"-----BEGIN PUBLIC KEY-----",
    b"-----BEGIN RSA PUBLIC KEY-----",
    b"---- BEGIN SSH2 PUBLIC KEY ----",
)
_OPENSSH: Final = b"openssh-key-v1\0"
_DAMAGED: Final = "it is a private key that is damaged, or was cut short"


def is_public(content: bytes) -> bool:
    """Whether this is what is no secret: a public key, or a certificate."""
    return content.lstrip().startswith(_PUBLIC)


def has_passphrase(content: bytes) -> bool:
    """Return whether a private key is encrypted.

    Raises:
        Unfit: it is invalid, or one that OpenSSH does not read.
    """
    if content.startswith(b"PuTTY-User-Key-File-"):
        raise Unfit("it is a key in PuTTY's form: convert it with puttygen -O private-openssh")
    found = _PEM.search(content)
    if found is None:
        if not content.strip():
            raise Unfit("it is empty")
        raise Unfit(_DAMAGED if b"PRIVATE KEY-----" in content else "it holds no private key that OpenSSH reads")
    kind, lines = found[1], found[2].splitlines()
    headers = [line for line in lines if b":" in line]  # RFC 1421 sec. 4.6: before the key, and only where it is old
    try:
        key = base64.b64decode(b"".join(line.strip() for line in lines if b":" not in line), validate=True)
    except ValueError:
        key = b""
    if kind == b"OPENSSH ":
        return _cipher(key) != b"none"
    if any(b"ENCRYPTED" in header for header in headers):
        return True
    _check_sequence(key)
    return kind == b"ENCRYPTED "


def _cipher(key: bytes) -> bytes:
    """Return the cipher of a key in OpenSSH's form, after a look at all of its parts (PROTOCOL.key sec. 1)."""
    if not key.startswith(_OPENSSH):
        raise Unfit(_DAMAGED)
    cipher, at = _part(key, len(_OPENSSH))
    for _ in range(2):  # the key derivation, and its options
        _, at = _part(key, at)
    count, at = int.from_bytes(key[at : at + 4]), at + 4
    for _ in range(count + 1):  # the public keys, and all private ones in one part
        _, at = _part(key, at)
    return cipher


def _part(key: bytes, at: int) -> tuple[bytes, int]:
    """Return the string (RFC 4251 sec. 5) that begins at *at*, and where it ends."""
    start = at + 4
    end = start + int.from_bytes(key[at:start])
    if not start <= end <= len(key):
        raise Unfit(_DAMAGED)
    return key[start:end], end


def _check_sequence(key: bytes) -> None:
    """Return if this is one DER sequence, and nothing else (X.690 sec. 8.1.3)."""
    length, start = (key[1], 2) if len(key) > 2 else (0, 0)
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(key[2:start])
    if key[:1] != b"\x30" or start + length != len(key):
        raise Unfit(_DAMAGED)

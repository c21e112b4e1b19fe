"""What an SSH private key looks like as far as that is seen without its passphrase, and whether ssh will read it.

Known are OpenSSH's own form (PROTOCOL.key), and PKCS #1, PKCS #8 (RFC 5958) and SEC 1 in PEM (RFC 7468). The lengths
that stand in a key are followed to its end, so that one that was cut short does not pass for a key; no number in it is
checked, which for many thousands of RSA keys would take hours.

ssh reads a key of its own form only if nothing stands before it, its lines end as Unix ends them, and the last of them
ends at all; of the other forms it takes Windows's line ends, and text before and after. What it would refuse for its
spelling alone is spelled anew (`examine`), and the same key always in the same way.
"""

import base64
import re
import textwrap
from collections.abc import Iterator
from typing import Final, NamedTuple

from strongroom.migration.sources.files import Unfit

_PEM: Final = re.compile(
    rb"-----BEGIN ((?:OPENSSH |RSA |EC |DSA |ENCRYPTED )?)PRIVATE KEY-----"
    rb"\s?((?>[^-]*(?:-(?!----)[^-]*)*))-----END \1PRIVATE KEY-----"
)
_AS_SSH_READS_IT: Final = re.compile(
    rb"(?<![^\n])-----BEGIN (?:RSA |EC |DSA |ENCRYPTED )?PRIVATE KEY-----[ \t]*\r?\n"
    rb"(?:[A-Za-z-]+:[^\n]*\n)*(?:[ \t]*\r?\n)?(?:[A-Za-z0-9+/=]+[ \t]*\r?\n)+-----END [A-Z ]+-----[ \t]*\r?(?:\n|\Z)"
)
_OWN_AS_SSH_READS_IT: Final = re.compile(
    rb"-----BEGIN OPENSSH PRIVATE KEY-----\n[A-Za-z0-9+/=\n]+-----END OPENSSH PRIVATE KEY-----"
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
_PRIVATE: Final = b"PRIVATE KEY-----"
_BOM: Final = b"\xef\xbb\xbf"
_OPENSSH: Final = b"openssh-key-v1\0"
_DAMAGED: Final = "is a private key that is damaged, or was cut short"
_FOLDED: Final = "is a key with a passphrase that has lost its line breaks: give its headers lines of their own"
_SHORTEST_RSA: Final = 1024  # bits; OpenSSH refuses a shorter one

_RSA: Final = bytes.fromhex("06092a864886f70d010101")
_DSA: Final = bytes.fromhex("06072a8648ce380401")
_ED25519: Final = bytes.fromhex("06032b6570")
_CURVES: Final = tuple(map(bytes.fromhex, ("06082a8648ce3d030107", "06052b81040022", "06052b81040023")))
"""The object identifiers of P-256, P-384 and P-521."""

_IS_DSA: Final = "is a DSA key, which OpenSSH no longer takes: replace it at its host"
_IS_SHORT: Final = f"is an RSA key of less than {_SHORTEST_RSA:,} bits, which OpenSSH refuses: replace it at its host"
_IS_UNKNOWN: Final = "is of a kind that OpenSSH cannot use: replace it at its host"
_IS_HARDWARE: Final = "opens nothing without the security key (FIDO) that it was made with"
_IS_ED25519: Final = (
    "is an Ed25519 key in PKCS #8, which OpenSSH reads from version 9.6 on: there, ssh-keygen -p writes it in its own"
    " form"
)
_MAY_BE_ED25519: Final = "is in PKCS #8: if it is an Ed25519 key, OpenSSH reads it from version 9.6 on"
_IS_ENCRYPTED: Final = "has a passphrase, which stays behind: whoever uses the key must know it"
_WAS_OPEN: Final = "had no line break at its end, without which ssh refuses it: one was added"
_STOOD_AMONG_TEXT: Final = "stood among other text, which stays behind"


class Examined(NamedTuple):
    """A key as ssh reads it, and what is to be told of it, each beginning with a verb."""

    content: bytes
    notes: tuple[str, ...]


def is_public(content: bytes) -> bool:
    """Whether this is what is no secret: a public key, or a certificate, and no private key behind it."""
    return content.removeprefix(_BOM).lstrip().startswith(_PUBLIC) and _PRIVATE not in content


def examine(content: bytes) -> Examined:
    """Return the private key in *content*, spelled so that ssh reads it, and what is to be told of it.

    Raises:
        Unfit: it is not a private key, or not in a form of OpenSSH's. The text begins with a verb, and leaves it to
            the caller to say whose key.
    """
    if content.startswith(b"PuTTY-User-Key-File-"):
        raise Unfit("is in PuTTY's form: convert it with puttygen -O private-openssh")
    spelled, as_it_is = content, _PEM.search(content)
    if b"\\n" in (content if as_it_is is None else as_it_is[2]):
        spelled = content.replace(b"\\r", b"").replace(b"\\n", b"\n")
    found = _PEM.search(spelled)
    if found is None:
        if not content.strip():
            raise Unfit("is empty")
        if is_public(content):
            raise Unfit("is a public key or a certificate")
        raise Unfit(_DAMAGED if _PRIVATE in content else "holds no private key that OpenSSH reads")
    kind = found[1].decode().strip()
    headers, key = _parts_of(found[2])
    notes = tuple(_notes_on(kind, headers, key))
    mended, told = _spelled(content, spelled, found, headers, key)
    return Examined(mended, (*told, *notes))


def _parts_of(body: bytes) -> tuple[list[bytes], bytes]:
    """Return the headers of a PEM (RFC 1421 sec. 4.6: before the key, and only where it is old), and what it holds."""
    lines = body.splitlines() if b":" in body else [body]
    headers = [line.strip() for line in lines if b":" in line]
    try:
        return headers, base64.b64decode(
            b"".join(b"".join(line.split()) for line in lines if b":" not in line), validate=True
        )
    except ValueError:
        return headers, b""


# Its spelling


def _spelled(
    content: bytes, spelled: bytes, found: "re.Match[bytes]", headers: list[bytes], key: bytes
) -> tuple[bytes, tuple[str, ...]]:
    """Return the key as ssh reads it, and in words what was changed."""
    own = found[1] == b"OPENSSH "
    if spelled is content:
        if not own and _AS_SSH_READS_IT.match(spelled, found.start()):
            return content, ()
        as_it_is = _OWN_AS_SSH_READS_IT.match(content) if own else None
        if as_it_is is not None and content[as_it_is.end() :].startswith(b"\n"):
            return content, ()
        if as_it_is is not None and as_it_is.end() == len(content):
            return content + b"\n", (_WAS_OPEN,)
    reasons = ", ".join(_oddities(content, spelled, found)) or "its line breaks"
    told: tuple[str, ...] = (f"was written anew, for ssh refuses it with {reasons}",)
    outside = spelled[: found.start()].removeprefix(_BOM) + spelled[found.end() :]
    if outside.strip():
        told = (*told, _STOOD_AMONG_TEXT)
    label = found[1] + b"PRIVATE KEY-----\n"
    width = 70 if own else 64  # characters in a line, as ssh-keygen and OpenSSL write them
    lines = textwrap.wrap(base64.b64encode(key).decode(), width)
    before = b"".join(header + b"\n" for header in headers) + (b"\n" if headers else b"")
    return b"-----BEGIN " + label + before + "\n".join([*lines, ""]).encode() + b"-----END " + label, told


def _oddities(content: bytes, spelled: bytes, found: "re.Match[bytes]") -> Iterator[str]:
    if spelled is not content:
        yield "line breaks that are written as \\n"
    if content.startswith(_BOM):
        yield "a byte order mark"
    if spelled[: found.start()].removeprefix(_BOM).strip():
        yield "text before it"
    elif spelled[: found.start()].removeprefix(_BOM):
        yield "blanks before it"
    if b"\r" in found[0]:
        yield "line ends other than Unix's"
    if b"\n" not in found[2] and b"\r" not in found[2]:
        yield "no line breaks in it"
    elif re.search(rb"[ \t]", found[2]):
        yield "blanks in its lines"
    if re.match(rb"[ \t]", spelled[found.end() :]):
        yield "blanks at its end"


# Its kind


def _notes_on(kind: str, headers: list[bytes], key: bytes) -> Iterator[str]:
    """Yield what is to be told of a key of this kind.

    Raises:
        Unfit: it is damaged.
    """
    if kind == "OPENSSH":
        yield from _notes_on_own(key)
        return
    if any(b"ENCRYPTED" in header for header in headers):
        if not key:
            raise Unfit(_FOLDED if len(headers) == 1 else _DAMAGED)
        yield _IS_ENCRYPTED
        if kind == "DSA":
            yield _IS_DSA
        return
    start, end = _sequence(key)
    if end != len(key):
        raise Unfit(_DAMAGED)
    if kind == "ENCRYPTED":
        yield _IS_ENCRYPTED
        yield _MAY_BE_ED25519
    elif kind == "DSA":
        yield _IS_DSA
    elif kind == "RSA":
        yield from _notes_on_rsa(key, start)
    elif kind == "EC":
        if not any(curve in key for curve in _CURVES):
            yield _IS_UNKNOWN
    else:
        yield from _notes_on_pkcs8(key, start)


def _notes_on_own(key: bytes) -> Iterator[str]:
    """Look at all parts of a key in OpenSSH's form (PROTOCOL.key sec. 1)."""
    if not key.startswith(_OPENSSH):
        raise Unfit(_DAMAGED)
    cipher, at = _part(key, len(_OPENSSH))
    for _ in range(2):  # the key derivation, and its options
        _, at = _part(key, at)
    count, at = int.from_bytes(key[at : at + 4]), at + 4
    public = b""
    for number in range(count + 1):  # the public keys, and all private ones in one part
        part, at = _part(key, at)
        public = part if number == 0 and count else public
    if cipher != b"none":
        yield _IS_ENCRYPTED
    name, at = _part(public, 0) if public else (b"", 0)
    if name == b"ssh-dss":
        yield _IS_DSA
    elif name == b"ssh-rsa":
        _, at = _part(public, at)
        modulus, _ = _part(public, at)
        if _bits(modulus) < _SHORTEST_RSA:
            yield _IS_SHORT
    elif name.startswith(b"sk-"):
        yield _IS_HARDWARE


def _notes_on_rsa(key: bytes, at: int) -> Iterator[str]:
    """Look at a key of PKCS #1 (RFC 8017 A.1.2): a version, the modulus, and more."""
    _, _, at = _element(key, at)
    _, start, end = _element(key, at)
    if _bits(key[start:end]) < _SHORTEST_RSA:
        yield _IS_SHORT


def _notes_on_pkcs8(key: bytes, at: int) -> Iterator[str]:
    """Look at a key of PKCS #8 (RFC 5958 sec. 2): a version, the algorithm, and the key."""
    _, _, at = _element(key, at)
    _, start, end = _element(key, at)
    algorithm = key[start:end]
    if algorithm.startswith(_RSA):
        _, inner, _ = _element(key, end)
        yield from _notes_on_rsa(key, _element(key, inner)[1])
    elif algorithm.startswith(_DSA):
        yield _IS_DSA
    elif algorithm.startswith(_ED25519):
        yield _IS_ED25519
    elif not any(curve in algorithm for curve in _CURVES):
        yield _IS_UNKNOWN


def _bits(number: bytes) -> int:
    return int.from_bytes(number).bit_length()


def _part(key: bytes, at: int) -> tuple[bytes, int]:
    """Return the string (RFC 4251 sec. 5) that begins at *at*, and where it ends."""
    start = at + 4
    end = start + int.from_bytes(key[at:start])
    if not start <= end <= len(key):
        raise Unfit(_DAMAGED)
    return key[start:end], end


def _sequence(key: bytes) -> tuple[int, int]:
    """Return where the one DER sequence that this is has its content, and where it ends."""
    tag, start, end = _element(key, 0)
    if tag != 0x30:
        raise Unfit(_DAMAGED)
    return start, end


def _element(key: bytes, at: int) -> tuple[int, int, int]:
    """Return the tag of the DER element that begins at *at*, where its content begins, and ends (X.690 sec. 8.1)."""
    if len(key) < at + 2:
        raise Unfit(_DAMAGED)
    length, start = key[at + 1], at + 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(key[at + 2 : start])
    if start + length > len(key):
        raise Unfit(_DAMAGED)
    return key[at], start, start + length

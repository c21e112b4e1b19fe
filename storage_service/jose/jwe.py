"""The one form in which a value is encrypted: a compact JWE (RFC 7516 sec. 7.1) that opens under its own name alone.

    BASE64URL(header) . . BASE64URL(IV, 16 bytes) . BASE64URL(ciphertext) . BASE64URL(tag, 32 bytes)

    {"alg":"dir","enc":"A256CBC-HS512","kid":"default.1","custodia.key":"keys/hosts/10.0.0.7"}

The header is authenticated (RFC 7518 sec. 5.2.5), so a value moved to another name or given another kid does not
open. ``custodia.key`` is the header that Custodia's EncryptedOverlay pins values with: what is written here opens
there under the same key. What Custodia writes names no key, and does not open here; a migration brings it in.

The stored text is not trusted in the least: it is measured before it is decoded, decoded strictly (one spelling for
one value), and its header may say nothing but the four members above. The framing is ours because ``jwcrypto.jwe``
costs several times as much; it is the oracle in the tests.
"""

import functools
import os
import re
from collections.abc import Callable, Container
from enum import StrEnum
from typing import Final, Protocol, TypeAlias, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature

from strongroom.models import strict_json
from strongroom.models.names import SECRETS
from strongroom.storage_service.errors import Undecipherable
from strongroom.storage_service.jose import base64url
from strongroom.storage_service.jose.content_encryption import BLOCK, IV_SIZE, TAG_SIZE, ContentEncryption
from strongroom.storage_service.jose.key import Key
from strongroom.storage_service.wire import MAX_STORED

ALG: Final = "dir"
ENC: Final = "A256CBC-HS512"
PIN: Final = "custodia.key"  # the member of a header that binds a value to its name
PINNED: Final = "keys/"  # where Custodia keeps what lies under secrets/ here

MAX_HEADER: Final = 1024  # bytes of base64url; the longest name and the longest kid need 866
MAX_VALUE: Final = (MAX_STORED - MAX_HEADER - 128) // 4 * 3 - BLOCK  # bytes that fit, encrypted, into a stored value


class Reason(StrEnum):
    """Why a value does not open. For the audit log: outside, all of these are one error."""

    MALFORMED = "it is not a compact JWE of the accepted form"
    ALGORITHM = "its header asks for an algorithm or an extension that is not accepted"
    WRONG_NAME = "it was not written under this name"
    NO_KID = "it names no key: Custodia wrote it, or somebody planted it"
    UNKNOWN_KID = "it names no key of the ring"
    MISPLACED = "its key belongs to a keyset that opens nothing here: it was planted, or put back from an old copy"
    WRONG_TAG = "its tag is wrong: it was changed, or the key is another one"


K_co = TypeVar("K_co", bound=Key, covariant=True)
T = TypeVar("T")

_Parts: TypeAlias = tuple[bytes, bytes, bytes, bytes]  # protected header, IV, ciphertext, tag


class Misplaced(KeyError):
    """That key is there, but not for what lies under that name."""


class Keys(Protocol[K_co]):
    """Where keys are found by their id. A dict will do."""

    def __getitem__(self, kid: str, /) -> K_co:
        """Return the key.

        Raises:
            Misplaced: it is there, but not for what is asked.
            KeyError: it is not there.
        """


def encrypt(key: Key, name: str, value: bytes, random: Callable[[int], bytes] = os.urandom) -> bytes:
    """Encrypt *value* so that it opens only under *name*.

    Args:
        key: what to encrypt under; its kid goes into the header.
        name: the record's name; bound as associated data, so that rows cannot be swapped.
        value: the plaintext, at most `MAX_VALUE` bytes. An empty one opens here, but not in Custodia.
        random: gives that many unpredictable bytes, for the IV.

    Returns:
        The compact JWE that the module's docstring draws.

    Raises:
        ValueError: the value does not fit, or *name* is one that no record can have.
    """
    if len(value) > MAX_VALUE:
        raise ValueError(f"a value to encrypt is at most {MAX_VALUE} bytes")
    header = _HEAD + key.kid.encode() + _tail(bound_name(name))  # a kid needs no escapes
    protected = base64url.encode(header)
    if len(protected) > MAX_HEADER:
        raise ValueError("the name is too long to be bound")
    iv = random(IV_SIZE)
    ciphertext, tag = key.content.encrypt(protected, value, iv)
    encode = base64url.encode
    return b"%b..%b.%b.%b" % (protected, encode(iv), encode(ciphertext), encode(tag))


def decrypt(keys: Keys[Key], name: str, token: bytes) -> bytes:
    """Return the value that was encrypted under *name*; everything as `opened`."""
    return opened(keys, name, token)[1]


def opened(keys: Keys[K_co], name: str, token: bytes) -> tuple[K_co, bytes]:
    """Return the value that was encrypted under *name*, after the key that it was encrypted under.

    Args:
        keys: where the kid in the header is looked up; nothing else is ever done with a kid.
        name: the name the token was found under.
        token: what was found there; untrusted.

    Raises:
        Undecipherable: with the `Reason` for which it does not open, and nothing of what is inside.
    """
    key, _, value = _carried_out(ContentEncryption.decrypt, keys, name, token)
    return key, value


def verified(keys: Keys[Key], name: str, token: bytes) -> "Verified":
    """Return what `opened` would open, still encrypted; arguments and errors are the same."""
    key, parts, _ = _carried_out(ContentEncryption.verify, keys, name, token)
    return Verified(key, parts)


class Verified:
    """A value that was found to open under its name, still encrypted."""

    __slots__ = ("_key", "_parts")

    def __init__(self, key: Key, parts: _Parts) -> None:
        self._key = key
        self._parts = parts

    def __repr__(self) -> str:
        return "<Verified>"

    def open(self) -> bytes:
        """Return the value.

        Raises:
            Locked: its key was wiped since it was verified.
        """
        return self._key.content.decrypt(*self._parts)


def kid_of(token: bytes) -> str | None:
    """Return the kid that *token* claims to be encrypted under, unproven; None if it claims none that can be read."""
    try:
        protected, *_ = segments(token)
        return members_of(base64url.decode(protected)).get("kid")
    except (Refused, ValueError):
        return None


def _carried_out(
    act: Callable[[ContentEncryption, bytes, bytes, bytes, bytes], T], keys: Keys[K_co], name: str, token: bytes
) -> tuple[K_co, _Parts, T]:
    """Return the key of *token*, what it takes to decrypt it, and what *act* makes of that; errors as `opened`."""
    try:
        protected, iv, ciphertext, tag = segments(token)
        key = keys[_kid_for(name, protected)]
        return key, (protected, iv, ciphertext, tag), act(key.content, protected, iv, ciphertext, tag)
    except Refused as refused:
        reason = refused.reason
    except Misplaced:
        reason = Reason.MISPLACED
    except KeyError:
        reason = Reason.UNKNOWN_KID
    except InvalidSignature:
        reason = Reason.WRONG_TAG
    except ValueError:  # base64url, JSON or padding; its text adds nothing
        reason = Reason.MALFORMED
    # Raised after the handlers, so that neither a frame nor a text of theirs hangs on this error.
    raise Undecipherable(name, reason)


def bound_name(name: str) -> str:
    """Return what *name* is bound as: Custodia's ``keys/…`` for ``secrets/…``, and every other name as it is.

    Raises:
        ValueError: *name* itself begins with ``keys/``: it would be bound like the secret of that name.
    """
    if name.startswith(SECRETS):
        return PINNED + name[len(SECRETS) :]
    if name.startswith(PINNED):
        raise ValueError(f"no record's name begins with {PINNED}")
    return name


UNKNOWN: Final = frozenset({Reason.UNKNOWN_KID, Reason.MISPLACED})
"""The reasons for which a value may open with a keyring that is newer than the one it was tried with."""


class Refused(Exception):
    """The way out of the checks, with the reason."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


_KID: Final = re.compile(rb"[A-Za-z0-9._-]+")  # what stands in JSON as it is
_HEADERS: Final = 4096  # remembered, some 500 bytes each

_HEAD: Final = f'{{"alg":"{ALG}","enc":"{ENC}","kid":"'.encode()
_BINDING: Final = f'","{PIN}":'.encode()


def _tail(bound: str) -> bytes:
    return _BINDING + msgspec.json.encode(bound) + b"}"


def segments(token: bytes, tag_size: int = TAG_SIZE, max_header: int = MAX_HEADER) -> tuple[bytes, bytes, bytes, bytes]:
    """Return the protected header as it stands, the IV, the ciphertext and the tag, all of right sizes.

    Raises:
        Refused: there are not five segments of the right sizes.
        ValueError: a segment is not canonical base64url.
    """
    if len(token) > MAX_STORED:
        raise Refused(Reason.MALFORMED)
    protected, wrapped, *sealed = token.split(b".", 5)  # a sixth would be one too many, however many more there are
    if wrapped or len(sealed) != 3 or len(protected) > max_header:
        raise Refused(Reason.MALFORMED)
    iv, ciphertext, tag = map(base64url.decode, sealed)
    if len(iv) != IV_SIZE or len(tag) != tag_size or not ciphertext or len(ciphertext) % BLOCK:
        raise Refused(Reason.MALFORMED)
    return protected, iv, ciphertext, tag


@functools.lru_cache(maxsize=_HEADERS)
def _kid_for(name: str, protected: bytes) -> str:
    """Return the kid in the *protected* header, if that is one to accept for *name*.

    A function of the two alone, and nothing in them is secret; so what was found is remembered for names in use.

    Raises:
        Refused: it is not.
        ValueError: it is no canonical base64url, or no JSON.
    """
    try:
        bound = bound_name(name)
    except ValueError:
        raise Refused(Reason.WRONG_NAME) from None
    header = base64url.decode(protected)
    # The header that we would have written is beyond doubt, and needs no parser.
    tail = _tail(bound)
    if (
        header.startswith(_HEAD)
        and header.endswith(tail)
        and _KID.fullmatch(header, len(_HEAD), len(header) - len(tail))
    ):
        return header[len(_HEAD) : -len(tail)].decode("ascii")
    members = members_of(header)
    if members.get(PIN) != bound:
        raise Refused(Reason.WRONG_NAME)
    try:
        return members["kid"]
    except KeyError:
        raise Refused(Reason.NO_KID) from None


def members_of(header: bytes, encs: Container[str] = (ENC,)) -> dict[str, str]:
    """Return the members of *header*, which are those of ours, or of Custodia's, and no others.

    ``zip`` (a bomb, and a side channel), ``crit``, and all that names keys or places (``jwk``, ``jku``, ``x5u`` …)
    are refused for what they ask, as is every pair of algorithms but ``dir`` and one of *encs* (RFC 8725 sec. 3.1).

    Raises:
        Refused: it asks for what is not accepted.
        ValueError: it is not JSON, or has a member twice.
    """
    members = strict_json.decode(header)
    if not isinstance(members, dict):
        raise Refused(Reason.MALFORMED)
    if members.get("alg") != ALG or members.get("enc") not in encs or not members.keys() <= _ACCEPTED:
        raise Refused(Reason.ALGORITHM)
    if not all(isinstance(member, str) for member in members.values()):
        raise Refused(Reason.MALFORMED)
    return members


_ACCEPTED: Final = frozenset({"alg", "enc", "kid", PIN})

"""A machine's key pair, the file it lies in, and the wrap of a root key for it.

    the key      {"crv":"P-256","d":"…","kty":"EC","x":"…","y":"…"}, or RSA of 3072 bits: a JWK (RFC 7517)
    fingerprint  the SHA-256 thumbprint (RFC 7638) of the public key, in hex, because people type its beginning
    a wrap       the root key's JWK in a compact JWE (RFC 7516 sec. 7.1), whose header is authenticated:
                 {"alg":"ECDH-ES+A256KW","enc":"A256CBC-HS512","epk":{…},"kid":"root.…","machine":"<fingerprint>"}

A wrap comes from the store and is not trusted: it is measured before it is decoded, decoded strictly, and its header
may say nothing but the members above, for this machine and the root key that is asked for. What opens is proven to be
the root key with that kid. It is *not* proven who made the wrap: public keys are public, so whoever may write the
store can make one, of a root key of their own. The kid to ask for must come from where the store cannot put it.
"""

import contextlib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

import msgspec
from jwcrypto.common import JWException
from jwcrypto.jwe import JWE
from jwcrypto.jwk import JWK

from strongroom.models import strict_json
from strongroom.models.names import MACHINES
from strongroom.models.secret import Secret
from strongroom.storage_service.errors import Exists, Invalid, KeyFileUnusable, Undecipherable
from strongroom.storage_service.jose import base64url, jwk
from strongroom.storage_service.jose.content_encryption import BLOCK, IV_SIZE, TAG_SIZE
from strongroom.storage_service.jose.jwe import ENC, Reason
from strongroom.storage_service.keyring.rootkey import RootKey
from strongroom.storage_service.private_file import PrivateFile

MAX_WRAP: Final = 2048  # characters; the longest that is made here has about 930

_FILE: Final = PrivateFile("machine key file", exposed="revoke this machine and rotate the root key")


class Kind(StrEnum):
    """Which sort of key pair a machine has."""

    EC = "EC"  # on the curve P-256
    RSA = "RSA"  # of 3072 bits; making one takes some tenths of a second, reading one a tenth


class _Form(NamedTuple):
    """What the JWK of a kind holds (RFC 7518 sec. 6.2, 6.3), and what a wrap for it looks like."""

    alg: str
    fixed: Mapping[str, str]  # members, and their only value
    sized: Mapping[str, int]  # public members, and their bytes
    private: frozenset[str]  # the other members of a private key
    bits: int
    header: frozenset[str]  # what the header of a wrap may say
    wrapped: int  # bytes of the encrypted content encryption key


_HEADER: Final = frozenset({"alg", "enc", "kid", "machine"})
_FORMS: Final[Mapping[str, _Form]] = {
    Kind.EC: _Form(
        alg="ECDH-ES+A256KW",
        fixed={"kty": "EC", "crv": "P-256"},
        sized={"x": 32, "y": 32},
        private=frozenset({"d"}),
        bits=256,
        header=_HEADER | {"epk"},
        wrapped=72,
    ),
    Kind.RSA: _Form(
        alg="RSA-OAEP-256",
        fixed={"kty": "RSA", "e": "AQAB"},
        sized={"n": 384},
        private=frozenset({"d", "p", "q", "dp", "dq", "qi"}),
        bits=3072,
        header=_HEADER,
        wrapped=384,
    ),
}


class MachineKey:
    """The key pair of one machine; the private half comes out of :meth:`private_text` alone.

    Args:
        members: the private key's JWK.

    Raises:
        ValueError: it is not of an accepted kind; the message repeats nothing of it.
    """

    __slots__ = ("_fingerprint", "_form", "_jwk")

    def __init__(self, members: Mapping[str, object]) -> None:
        self._form = _form_of(members)
        self._jwk = _key(members, self._form, private=True)
        self._fingerprint = _thumbprint(self._jwk)

    @property
    def fingerprint(self) -> str:
        """The thumbprint of the public key, 64 hex digits."""
        return self._fingerprint

    def public_jwk(self) -> dict[str, str]:
        """Return the members of the public key's JWK."""
        return dict(self._jwk.export_public(as_dict=True))

    def private_text(self) -> Secret:
        """Return the private key's JWK: what its file holds."""
        return Secret(msgspec.json.encode(self._jwk.export_private(as_dict=True), order="sorted").decode())

    def unwrap(self, root_kid: str, text: str) -> RootKey:
        """Return the root key *root_kid*, which *text* wraps for this machine.

        Raises:
            Undecipherable: it does not open, or is not a wrap of that root key for this machine; with the reason.
        """
        try:
            reason: str | None = self._fault(root_kid, text)
            if reason is None:
                token = JWE(algs=[self._form.alg, ENC])
                token.deserialize(text)
                token.decrypt(self._jwk)
                root = RootKey(jwk.octets_of(jwk.decode(token.payload)))
                if root.kid == root_kid:
                    return root
                reason = "it holds another root key than it names"
        except JWException:
            reason = Reason.WRONG_TAG
        except ValueError:  # base64url, JSON, or the key is invalid; its text adds nothing
            reason = Reason.MALFORMED
        # Raised after the handlers, so that neither a frame nor a text of theirs hangs on this error.
        raise Undecipherable(MACHINES + self._fingerprint, reason)

    def _fault(self, root_kid: str, text: str) -> Reason | None:
        """Return why *text* cannot be the wrap of that root key, by its form and header; None if it can.

        Raises:
            ValueError: a segment is not canonical base64url, or the header not JSON, or its key none.
        """
        if len(text) > MAX_WRAP:
            return Reason.MALFORMED
        segments = [base64url.decode(segment) for segment in text.encode("ascii").split(b".", 5)]
        if len(segments) != 5:
            return Reason.MALFORMED
        head, *(wrapped, iv, ciphertext, tag) = segments
        header = strict_json.decode(head)
        if not isinstance(header, dict):
            return Reason.MALFORMED
        if (header.get("alg"), header.get("enc")) != (self._form.alg, ENC):
            return Reason.ALGORITHM
        # zip, crit, apu, and all that names keys or places, are refused for what they ask (RFC 8725 sec. 3.1).
        if not header.keys() <= self._form.header:
            return Reason.ALGORITHM
        if (header.get("kid"), header.get("machine")) != (root_kid, self._fingerprint):
            return Reason.WRONG_NAME
        sizes = (len(wrapped), len(iv), len(tag))
        if sizes != (self._form.wrapped, IV_SIZE, TAG_SIZE) or not ciphertext or len(ciphertext) % BLOCK:
            return Reason.MALFORMED
        if "epk" in self._form.header:
            _key(header.get("epk"), self._form)
        return None

    def __repr__(self) -> str:
        return f"<MachineKey {self._fingerprint[:16]}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a machine's key is not pickled")


def make(kind: Kind = Kind.EC) -> MachineKey:
    """Return a new key pair."""
    if kind is Kind.RSA:
        return MachineKey(JWK.generate(kty="RSA", size=_FORMS[kind].bits))
    return MachineKey(JWK.generate(kty="EC", crv="P-256"))


def look(path: Path) -> None:
    """Judge the file at *path* without reading it, if there is one; raises what reading it would."""
    _FILE.look(path)


def read_private(path: Path) -> MachineKey:
    """Return the key pair in the file at *path*. Blocks on the disk.

    Raises:
        KeyFileMissing: there is no such file.
        KeyFileUnusable: it cannot be read, is no plain file, is open to others, or holds no machine's private key.
    """
    text = _FILE.read(path, jwk.MAX_JWK)
    try:
        return MachineKey(jwk.decode(text))
    except ValueError as error:
        reason = str(error)
    raise KeyFileUnusable(f"{path} does not hold a machine's private key: {reason}")


def write_private(path: Path, key: MachineKey) -> None:
    """Write the key pair to a new file at *path*, 0600, whole or not at all. Blocks on the disk.

    Raises:
        Exists: something is there already; it is never replaced.
        KeyFileUnusable: the file cannot be made here.
    """
    if not _FILE.make(path, lambda: key.private_text().reveal().encode()):
        raise Exists(f"{path} exists already, and is not replaced")


def parse_public(text: bytes) -> dict[str, str]:
    """Return the members of the public key whose JWK *text* is, as it was handed over by its machine.

    Raises:
        Invalid: it is no machine's public key.
    """
    try:
        members = jwk.decode(text)
        fingerprint_of(members)
    except ValueError as error:
        reason = str(error)
    else:
        return members
    raise Invalid(f"that is not a machine's public key: {reason}", (("public", reason),))


def fingerprint_of(public: Mapping[str, object]) -> str:
    """Return the fingerprint of the public key with these members.

    Raises:
        ValueError: it is no machine's public key; the message repeats nothing of it.
    """
    return _thumbprint(_key(public, _form_of(public)))


def wrap(root: RootKey, public: Mapping[str, object]) -> str:
    """Return *root*, wrapped for the machine with this public key.

    Raises:
        ValueError: it is no machine's public key.
    """
    form = _form_of(public)
    key = _key(public, form)
    header = {"alg": form.alg, "enc": ENC, "kid": root.kid, "machine": _thumbprint(key)}
    token = JWE(jwk.encode(root.reveal()), protected=header, algs=[form.alg, ENC], recipient=key)
    return str(token.serialize(compact=True))


def _form_of(members: Mapping[str, object]) -> _Form:
    kind = members.get("kty")
    form = _FORMS.get(kind) if isinstance(kind, str) else None
    if form is None:
        raise ValueError("it is not a key of type EC or RSA")
    return form


def _key(members: object, form: _Form, *, private: bool = False) -> JWK:
    """Return the key with these members, which are exactly those of *form*, spelled as they must be.

    Raises:
        ValueError: they are not, or are no key.
    """
    names = form.fixed.keys() | form.sized.keys() | (form.private if private else set())
    members = members if isinstance(members, dict) else {}
    if not private and members.keys() & form.private:
        raise ValueError("it is a private key, which no machine may give away")
    if members.keys() != names:
        raise ValueError(f"it lacks members of a {'private' if private else 'public'} key, or has others")
    if any(members[name] != value for name, value in form.fixed.items()):
        raise ValueError(f"it is not of {form.bits} bits, or of another curve or exponent")
    for name in names - form.fixed.keys():
        spelled = members[name]
        if not isinstance(spelled, str) or not spelled.isascii():
            raise ValueError("one of its members is not base64url")
        octets = base64url.decode(spelled.encode())
        if len(octets) != form.sized.get(name, len(octets)):
            raise ValueError("one of its members has not the right size")
    return _checked(JWK(**members), form, private=private)


def _checked(key: JWK, form: _Form, *, private: bool) -> JWK:
    """Return *key* if its numbers are a key: a point of the curve, and halves that belong together."""
    bits = 0
    with contextlib.suppress(ValueError, JWException):
        bits = key.get_op_key("unwrapKey" if private else "wrapKey").key_size
    if bits != form.bits:
        raise ValueError("its numbers do not make a key")
    return key


def _thumbprint(key: JWK) -> str:
    return base64url.decode(key.thumbprint().encode()).hex()

"""Access keys: public keys whose private halves sign or decrypt a challenge, mostly those that people have for SSH.

RSA of 3,072 bits and more, EC on P-256, P-384 and P-521, Ed25519, and keys of hardware (``sk-``), in PEM or as a line
of OpenSSH. All are kept as that line, without options and comment, because it can spell each of them; the same key in
two spellings is one line and has one fingerprint.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from strongroom.models.access import InvalidAccess
from strongroom.storage_service.wire import ssh

MIN_RSA: Final = 3072  # bits
MAX_RSA: Final = 16384
MAX_GIVEN: Final = 16 * 1024  # characters

_RSA: Final = "ssh-rsa"
_ED25519: Final = "ssh-ed25519"
_SK_ED25519: Final = "sk-ssh-ed25519@openssh.com"
_SK_ECDSA: Final = "sk-ecdsa-sha2-nistp256@openssh.com"
_CURVES: Final[Mapping[str, tuple[str, ec.EllipticCurve, hashes.HashAlgorithm]]] = {
    "ecdsa-sha2-nistp256": ("nistp256", ec.SECP256R1(), hashes.SHA256()),
    "ecdsa-sha2-nistp384": ("nistp384", ec.SECP384R1(), hashes.SHA384()),
    "ecdsa-sha2-nistp521": ("nistp521", ec.SECP521R1(), hashes.SHA512()),
    _SK_ECDSA: ("nistp256", ec.SECP256R1(), hashes.SHA256()),
}
KINDS: Final = frozenset((_RSA, _ED25519, _SK_ED25519, *_CURVES))
_HARDWARE: Final = frozenset((_SK_ED25519, _SK_ECDSA))
_RSA_HASHES: Final[Mapping[str, hashes.HashAlgorithm]] = {
    "rsa-sha2-512": hashes.SHA512(),
    "rsa-sha2-256": hashes.SHA256(),
}
_PRESENT: Final = 0x01  # the flag of a hardware key: somebody touched it
_OF_OPENSSH: Final = "ssh:"  # what the application of a key for SSH begins with; others are of web sites

Public: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | Ed25519PublicKey


class NotProven(ValueError):
    """A signature shows nothing. The message is for the log, and repeats nothing of it."""


@dataclass(frozen=True, slots=True)
class AccessKey:
    """A public key that is good enough."""

    kind: str  # as SSH calls it
    blob: bytes  # as SSH spells it
    public: Public
    application: str = ""  # of a hardware key

    @property
    def line(self) -> str:
        """How it is kept."""
        return ssh.line_of(self.blob)

    @property
    def fingerprint(self) -> str:
        """What it is known by."""
        return ssh.fingerprint_of(self.blob)

    @property
    def encrypts(self) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey | None:
        """The key to encrypt to, where its private half can decrypt."""
        return None if self.kind in _HARDWARE or isinstance(self.public, Ed25519PublicKey) else self.public

    def verify(self, signed: bytes, signature: bytes) -> None:
        """Return if *signature*, as SSH spells it, is this key's over *signed*; of hardware, if somebody was there.

        Raises:
            NotProven: it is not.
        """
        try:
            reader = ssh.Reader(signature)
            algorithm, body = reader.text(), reader.string()
            tail = reader.take(5) if self.kind in _HARDWARE else b""  # flags and a counter
            reader.end()
            if tail:
                application = hashlib.sha256(self.application.encode()).digest()
                signed = application + tail + hashlib.sha256(signed).digest()
                if not tail[0] & _PRESENT:
                    _disprove("nobody touched the key")
            self._verify(algorithm, signed, body)
        except ssh.Malformed as error:
            raise NotProven(str(error)) from None
        except InvalidSignature:
            raise NotProven("the signature is wrong") from None

    def _verify(self, algorithm: str, signed: bytes, body: bytes) -> None:
        if isinstance(self.public, rsa.RSAPublicKey):
            if algorithm not in _RSA_HASHES:
                _disprove("it is signed with neither rsa-sha2-512 nor rsa-sha2-256")
            size = self.public.key_size + 7 >> 3
            padded = body.rjust(size, b"\0")  # OpenSSH drops zeros
            self.public.verify(padded, signed, padding.PKCS1v15(), _RSA_HASHES[algorithm])
            return
        if algorithm != self.kind:
            _disprove("it is signed with another algorithm than the key's")
        if isinstance(self.public, Ed25519PublicKey):
            self.public.verify(body, signed)
            return
        reader = ssh.Reader(body)
        r, s = reader.positive(), reader.positive()
        reader.end()
        self.public.verify(encode_dss_signature(r, s), signed, ec.ECDSA(_CURVES[self.kind][2]))


def access_key(given: str) -> AccessKey:
    """Return the key that *given* is: PEM, or a line of OpenSSH, whose comment is dropped.

    Raises:
        InvalidAccess: it is not accepted; the message says why and repeats nothing of it.
    """
    text = given.strip()
    if len(text) > MAX_GIVEN:
        _refuse("it is longer than a public key can be")
    if "PRIVATE KEY-----" in text:
        _refuse(
            "that is a private key, which is known now to more than its holder: make a new one, and give the public"
        )
    return key_of(_of_pem(text) if text.startswith("-----") else _of_line(text))


def key_of(blob: bytes) -> AccessKey:
    """Return the key that SSH spells *blob*, which has one spelling.

    Raises:
        InvalidAccess: it is not accepted.
    """
    if len(blob) > ssh.MAX_KEY:
        _refuse("it is longer than a public key can be")
    try:
        return _read(blob)
    except ssh.Malformed as error:
        raise InvalidAccess(f"it is not a public key as OpenSSH writes it: {error}", "data") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        if isinstance(error, InvalidAccess):
            raise
    raise InvalidAccess("its numbers do not make a public key of its kind", "data")


def _read(blob: bytes) -> AccessKey:
    reader = ssh.Reader(blob)
    kind = reader.text()
    _check_kind(kind)
    public: Public
    if kind == _RSA:
        exponent, modulus = reader.positive(), reader.positive()
        _check_rsa(exponent, modulus)
        public = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    elif kind in _CURVES:
        name, curve, _ = _CURVES[kind]
        if reader.text() != name:
            _refuse("its curve is not the one that its kind names")
        point = reader.string()
        if point[:1] != b"\x04":
            _refuse("its point is not spelled in full")
        public = ec.EllipticCurvePublicKey.from_encoded_point(curve, point)
    else:
        public = Ed25519PublicKey.from_public_bytes(reader.string())
    application = reader.text() if kind in _HARDWARE else ""
    reader.end()
    if kind in _HARDWARE and not application.startswith(_OF_OPENSSH):
        _refuse(f"it is a hardware key for something else than SSH: its application does not begin with {_OF_OPENSSH}")
    return AccessKey(kind, blob, public, application)


def _check_kind(kind: str) -> None:
    if kind in KINDS:
        return
    if "-cert-v0" in kind:
        _refuse("it is a certificate of SSH: give the public key itself")
    if kind == "ssh-dss":
        _refuse("it is a DSA key, which is too weak: make an Ed25519 key")
    _refuse("it is not RSA, ECDSA, Ed25519 or of an sk- kind of these, or has options before it")


def _check_rsa(exponent: int, modulus: int) -> None:
    if not MIN_RSA <= modulus.bit_length() <= MAX_RSA:
        _refuse(f"an RSA key has {MIN_RSA:,} to {MAX_RSA:,} bits")
    if not 17 <= exponent.bit_length() <= 32 or not exponent & 1 or not modulus & 1:
        _refuse("an RSA key's exponent is odd and has 17 to 32 bits: the usual one is 65537")


def _of_line(text: str) -> bytes:
    """Return what a line of OpenSSH holds."""
    if text.startswith("---- BEGIN SSH2"):
        _refuse("it is in the form of RFC 4716: ssh-keygen -i makes a line of OpenSSH of it")
    if len(text.splitlines()) != 1:
        _refuse("it is one line of OpenSSH, or one block of PEM")
    kind, _, rest = text.partition(" ")
    _check_kind(kind)
    try:
        blob = base64.b64decode(rest.split(maxsplit=1)[0], validate=True)
    except (IndexError, ValueError, binascii.Error):
        raise InvalidAccess("what stands after its kind is not base64", "data") from None
    try:
        if ssh.kind_of(blob) != kind:
            _refuse("it says that it is of one kind, and is of another")
    except ssh.Malformed as error:
        raise InvalidAccess(f"it is not a public key as OpenSSH writes it: {error}", "data") from None
    return blob


def _of_pem(text: str) -> bytes:
    """Return what a block of PEM holds, as SSH spells it; cryptography reads it."""
    if "BEGIN CERTIFICATE" in text:
        _refuse("it is a certificate: give the public key itself, or add it as one")
    if text.count("-----BEGIN ") != 1 or text.count("-----END ") != 1 or not text.endswith("-----"):
        _refuse("it is one block of PEM, with nothing before or after")
    try:
        public = serialization.load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidAccess("it is not a public key in PEM", "data") from None
    if not isinstance(public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | Ed25519PublicKey):
        _refuse("it is neither RSA nor EC nor Ed25519")
    if isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name not in _CURVE_NAMES:
        _refuse("its curve is not one of P-256, P-384 and P-521")
    line = public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return base64.b64decode(line.split()[1])


_CURVE_NAMES: Final = frozenset(curve.name for _, curve, _ in _CURVES.values())


def _refuse(why: str) -> NoReturn:
    raise InvalidAccess(why, "data")


def _disprove(why: str) -> NoReturn:
    raise NotProven(why)


def canonical(given: str) -> str:
    """Return the line of OpenSSH that *given* is kept as.

    Raises:
        InvalidAccess: it is no key that is taken.
    """
    return access_key(given).line


def identity(data: str) -> str:
    """Return the fingerprint: a key is one principal's."""
    return shown(data)["fingerprint"]


def shown(data: str) -> dict[str, str]:
    """Return kind, fingerprint and line: it is public."""
    kind, _, blob = data.partition(" ")
    return {"type": kind, "fingerprint": ssh.fingerprint_of(base64.b64decode(blob)), "public_key": data}

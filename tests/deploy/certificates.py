"""Certificates and keys as real files, made anew for a test: good ones, and whatever a test wants to be wrong."""

import datetime
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

NOW: Final = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
DAY: Final = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Issued:
    """A certificate with its key, and those that signed it."""

    certificate: x509.Certificate
    key: Key
    above: tuple[x509.Certificate, ...] = ()  # the intermediates, nearest first

    @property
    def pem(self) -> bytes:
        """The certificate and its intermediates, as a server's file has them."""
        return b"".join(each.public_bytes(Encoding.PEM) for each in (self.certificate, *self.above))

    @property
    def key_pem(self) -> bytes:
        """The key, unencrypted."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()


def issue(
    name: str = "127.0.0.1",
    signer: Issued | None = None,
    *,
    authority: bool = False,
    not_before: datetime.datetime = NOW - DAY,
    not_after: datetime.datetime = NOW + 365 * DAY,
    key: Key | None = None,
    uris: Sequence[str] = (),
) -> Issued:
    """Return a new certificate for *name*, and *uris*; without a *signer* it signs itself."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    names: list[x509.GeneralName] = [x509.DNSName(name)]
    if name[0].isdigit():
        names = [x509.IPAddress(ipaddress.ip_address(name))]
    names += [x509.UniformResourceIdentifier(uri) for uri in uris]
    signing = signer.key if signer else key
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer.certificate.subject if signer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
        .sign(signing, hashes.SHA256())
    )
    root = signer is None or signer.certificate.issuer == signer.certificate.subject
    return Issued(certificate, key, () if root or signer is None else (signer.certificate, *signer.above))


@dataclass(frozen=True)
class Files:
    """The two files that the settings name, and whose certificates clients trust."""

    directory: Path
    authority: Issued

    @classmethod
    def at(cls, directory: Path) -> "Files":
        """Return such files, not written yet, of a new authority."""
        directory.mkdir()
        return cls(directory, issue("authority", authority=True))

    @property
    def certificate(self) -> Path:
        """Where the certificate lies."""
        return self.directory / "chain.pem"

    @property
    def key(self) -> Path:
        """Where the key lies."""
        return self.directory / "key.pem"

    @property
    def environ(self) -> dict[str, str]:
        """The variables that name both."""
        return {"STRONGROOM_TLS_CERTIFICATE": str(self.certificate), "STRONGROOM_TLS_KEY": str(self.key)}

    def write(self, issued: Issued) -> Issued:
        """Put the pair in place, one file after the other, each in one step."""
        self.put(self.certificate, issued.pem)
        self.put(self.key, issued.key_pem)
        return issued

    def renew(self, name: str = "127.0.0.1", **more: Any) -> Issued:
        """Put a new pair in place."""
        return self.write(issue(name, self.authority, **more))

    def put(self, path: Path, text: bytes) -> None:
        """Put *text* at *path* in one step, mode 0600."""
        new = path.with_suffix(".new")
        new.write_bytes(text)
        new.chmod(0o600)
        new.replace(path)

    def trusting(self, shown: Issued | None = None) -> ssl.SSLContext:
        """Return the context of a client that trusts the authority, and shows a certificate if it is given one."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.authority.pem.decode())
        if shown is not None:
            both = self.directory / "shown.pem"
            self.put(both, shown.pem + shown.key_pem)
            context.load_cert_chain(both)
        return context

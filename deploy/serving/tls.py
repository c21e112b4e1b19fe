"""The certificate and the key that the proxy shows: read and tried once, before anything listens.

    two files ── read once ──▶ checked ──▶ OpenSSL, from memory ──▶ Pair ── fork ──▶ every worker

The process that forks the workers holds the pair, so that a worker that is replaced never meets a file that is being
renewed; only a reload reads anew. What cannot be served ends the start, and leaves the old pair serving at a reload.
There is no way from here to serving without TLS where TLS was asked for.
"""

import logging
import os
import ssl
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from strongroom.storage_service.client.file import is_credential
from strongroom.storage_service.config import ProxySettings
from strongroom.storage_service.errors import ConfigurationError, KeyFileUnusable
from strongroom.storage_service.private_file import PrivateFile
from strongroom.storage_service.reach import changed_by_others, closed_directory, user_name

SOON: Final = timedelta(days=14)  # before its end a certificate is spoken of
MAX_FILE: Final = 1024 * 1024  # bytes; a chain has some ten thousand, a bundle of authorities some hundred thousand

# What is forward secret and authenticated; TLS 1.3 has nothing else. Level 2 refuses RSA below 2048 bits, and SHA-1.
_CIPHERS: Final = "@SECLEVEL=2:ECDHE+AESGCM:ECDHE+CHACHA20"
_MINIMUM: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_ASKED: Final = {"off": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_UNPARSED: Final = (  # what cryptography raises for what is no such thing
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
_KEY_FILE: Final = PrivateFile("TLS key file", "have a certificate made for a new key")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its key, as it was read once and as OpenSSL took it."""

    context: ssl.SSLContext = field(repr=False)  # ready to serve; nobody changes it any more
    certificate: Path
    names: tuple[str, ...]  # whom the certificate is for, to be read by people
    not_before: datetime  # UTC; when all of the chain is valid
    not_after: datetime
    fingerprint: str  # SHA-256 of the certificate, in hexadecimal digits

    @property
    def name(self) -> str:
        """The first of its names, and whether there are more."""
        return self.names[0] + (" and others" if len(self.names) > 1 else "")

    def fault(self, now: datetime) -> str | None:
        """Return why clients refuse the certificate at *now*; None where they do not."""
        if now > self.not_after:
            return f"the certificate of {self.name} expired on {_day(self.not_after)}: renew it, and reload"
        if now < self.not_before:
            return (
                f"the certificate of {self.name} is not valid before {_day(self.not_before)}:"
                " see that this machine's clock is right, or use the one before it"
            )
        return None

    def note(self, now: datetime) -> str | None:
        """Return that the certificate expires soon; None where it does not."""
        if now <= self.not_after < now + SOON:
            return f"the certificate of {self.name} expires on {_day(self.not_after)}: renew it, and reload"
        return None


class Holder:
    """The pair that is served, held by the process that forks the workers; each has what was current at its fork."""

    def __init__(self, settings: ProxySettings) -> None:
        """Load the pair.

        Raises:
            ConfigurationError: see `load`.
        """
        self._settings = settings
        self.current = load(settings)
        self.trouble: str | None = None  # why the last renewal failed

    def renew(self) -> None:
        """Load the pair anew: one that can be served becomes current, any other leaves the old one serving."""
        try:
            new = load(self._settings)
            # One out of its time is served where there is none better, which a start cannot know; here there is one.
            now = datetime.now(UTC)
            if (fault := new.fault(now)) and not self.current.fault(now):
                raise ConfigurationError(fault)
        except Exception as error:  # noqa: BLE001  # a reload must not end the server, whatever is in those files
            why = str(error) if isinstance(error, ConfigurationError) else f"unexpected {type(error).__name__}"
            self.trouble = why
            _log.error(
                "TLS: the new certificate is not served: %s; the old one of %s goes on until %s",
                why,
                self.current.name,
                _day(self.current.not_after),
            )
        else:
            self.current, self.trouble = new, None
            self.announce()

    def announce(self) -> None:
        """Log what is served, and what is wrong with it."""
        pair, now = self.current, datetime.now(UTC)
        _log.info(
            "TLS: the certificate of %s, valid until %s, SHA-256 %s",
            ", ".join(pair.names),
            _day(pair.not_after),
            pair.fingerprint,
        )
        if fault := pair.fault(now):
            _log.error("TLS: %s: %s", pair.certificate, fault)
        if note := pair.note(now):
            _log.warning("TLS: %s: %s", pair.certificate, note)

    def warnings(self, now: datetime) -> list[str]:
        """Return what is wrong with what is served, for readiness: strangers see it, so no file is named."""
        failed = self.trouble and "the last renewal of the TLS certificate failed; the log says why"
        return [text for text in (failed, self.current.fault(now), self.current.note(now)) if text]

    def notes(self) -> list[str]:
        """Return the `warnings` of this moment."""
        return self.warnings(datetime.now(UTC))


def holder(settings: ProxySettings) -> Holder | None:
    """Return a holder of the pair that *settings* name; None where they name none and no TLS is spoken.

    Raises:
        ConfigurationError: see `load`.
    """
    return Holder(settings) if settings.tls_certificate or settings.tls_key else None


def check(settings: ProxySettings, now: datetime) -> Pair | None:
    """Return the pair that *settings* name, if they name one, and clients will take it.

    Raises:
        ConfigurationError: see `load`; or it has expired, or is not valid yet.
    """
    held = holder(settings)
    if held is None:
        return None
    if fault := held.current.fault(now):
        raise ConfigurationError(f"{held.current.certificate}: {fault}")
    return held.current


def load(settings: ProxySettings) -> Pair:
    """Read the certificate chain and the key once, and try them.

    Raises:
        ConfigurationError: a file is missing, cannot be read by this user, is not what it should be, or is a key
            that others can read; or the two are no pair. The text says which file, why, and what to do.
    """
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None or key is None:
        lacking, there = ("tls_certificate", "tls_key") if certificate is None else ("tls_key", "tls_certificate")
        raise ConfigurationError(f"'{there}' needs '{lacking}', too: TLS is spoken with both")
    chain_text = _read(certificate, "tls_certificate")
    key_text = _read(key, "tls_key", private=True)
    chain = _certificates(certificate, chain_text)
    _check_pair(certificate, chain, key, _private_key(key, key_text))
    context = _context(settings.tls_minimum)
    _load_chain(context, certificate, chain_text, key, key_text)
    if settings.tls_client_certificates != "off":
        _ask_clients(context, settings)
    try:
        return Pair(
            context=context,
            certificate=certificate,
            names=_names(chain[0]),
            not_before=max(each.not_valid_before_utc for each in _counted(chain)),
            not_after=min(each.not_valid_after_utc for each in _counted(chain)),
            fingerprint=chain[0].fingerprint(SHA256()).hex(),
        )
    except _UNPARSED:
        raise _no_certificate(certificate) from None


def _read(path: Path, setting: str, *, private: bool = False, trusted: bool = False) -> bytes:
    """Return what the file at *path* holds; links are followed, for that is how certificates are kept and renewed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not hang the start
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ConfigurationError(f"{path} is not a plain file; '{setting}' names a file in PEM")
            if private and not is_credential(path):
                _KEY_FILE.check(path, status, os.geteuid() or status.st_uid)  # root looks at other users' settings
            if trusted and (fault := changed_by_others(path, status)) is not None:
                raise ConfigurationError(f"{fault} - who changes it could add an authority of their own")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                text = file.read(MAX_FILE + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise ConfigurationError(f"there is no {path}, which '{setting}' names; put the file there") from None
    except KeyFileUnusable as error:
        raise ConfigurationError(
            f"{error}; where another user must own it, hand it over with systemd's LoadCredential="
        ) from None
    except OSError as error:
        raise _unreadable(path, setting, error, private=private) from None
    if len(text) > MAX_FILE:
        raise ConfigurationError(f"{path} has more than {MAX_FILE} bytes; '{setting}' names a file in PEM")
    return text


def _unreadable(path: Path, setting: str, error: OSError, *, private: bool) -> ConfigurationError:
    """Say who cannot read the file, what keeps it from that, and what mends it: what is public needs no owner."""
    why = f"{path} cannot be read by user {user_name()}, whom this runs as"
    directory = closed_directory(path) if isinstance(error, PermissionError) else None
    if directory is not None:
        return ConfigurationError(
            f"{why}, for that user may not enter {directory}: let it in, or put what '{setting}' names elsewhere, or"
            " hand it over with systemd's LoadCredential="
        )
    mend = f"chown {os.geteuid()} {path}" if private else f"chmod a+r {path}"
    return ConfigurationError(
        f"{why}: {error.strerror}; '{setting}' names a file that this user can read: {mend}, or systemd's"
        " LoadCredential="
    )


def _certificates(path: Path, text: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(text)
    except _UNPARSED:
        raise _no_certificate(path) from None


def _no_certificate(path: Path) -> ConfigurationError:
    return ConfigurationError(
        f"{path} holds no certificate that can be read; give it in PEM: -----BEGIN CERTIFICATE-----, the server's own"
        " first, then those that signed it"
    )


def _private_key(path: Path, text: bytes) -> PrivateKeyTypes:
    encrypted = False
    try:
        return load_pem_private_key(text, password=None)
    except TypeError:
        encrypted = True
    except _UNPARSED:
        pass
    if encrypted:
        raise ConfigurationError(
            f"{path} is encrypted, and nobody is there to type its passphrase; store the key without one, in a file"
            f" of mode 600: openssl pkey -in {path} -out NEW"
        )
    raise ConfigurationError(
        f"{path} holds no private key that can be read; give it in PEM, unencrypted: -----BEGIN PRIVATE KEY-----"
    )


def _check_pair(certificate: Path, chain: list[x509.Certificate], key: Path, private: PrivateKeyTypes) -> None:
    """Accept a key that is that of the first certificate."""
    try:
        public = _spki(private.public_key())
        fits = [_spki(each.public_key()) == public for each in chain]
    except _UNPARSED:
        raise ConfigurationError(f"{certificate} has a key of a kind that is not known here; use EC or RSA") from None
    if any(fits[1:]) and not fits[0]:
        raise ConfigurationError(
            f"{certificate}: certificate {fits.index(True) + 1} of the file is the one that the key fits; put it first"
        )
    if not fits[0]:
        raise ConfigurationError(
            f"the key in {key} does not fit the certificate in {certificate}; give the two that were made together,"
            " and if they are being renewed, try again when both are new"
        )


def _spki(public: object) -> bytes:
    encoded: bytes = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return encoded


def _context(minimum: str) -> ssl.SSLContext:
    """Return a context for a server; unlike ssl's default one it writes no keys to where SSLKEYLOGFILE says."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _MINIMUM[minimum]
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    # No tickets: what encrypts them opens what was recorded for as long as this process lives.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    return context


def _load_chain(context: ssl.SSLContext, certificate: Path, chain: bytes, key: Path, key_text: bytes) -> None:
    """Let OpenSSL load what was read, and not what lies in the files by now."""
    try:
        with _in_memory(chain) as chain_file, _in_memory(key_text) as key_file:
            context.load_cert_chain(chain_file, key_file, password="")  # "": so that nobody is asked
    except ssl.SSLError as error:
        why = (error.reason or "unknown").lower().replace("_", " ")
        raise ConfigurationError(
            f"OpenSSL does not take the certificate in {certificate} with the key in {key}: {why}; have one made with"
            " an EC key, or with RSA of 2048 bits or more, and signed with SHA-256"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"TLS cannot be set up in memory: {error.strerror}; see that /proc is there") from None


@contextmanager
def _in_memory(text: bytes) -> Iterator[str]:
    """Give out the path of a file that holds *text*, lies in no file system, and is gone afterwards."""
    descriptor = os.memfd_create("strongroom-tls", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        file.write(text)
        file.flush()
        yield f"/proc/self/fd/{descriptor}"


def _ask_clients(context: ssl.SSLContext, settings: ProxySettings) -> None:
    """Let *context* ask clients for certificates of the authorities that are configured."""
    path = settings.tls_client_ca
    if path is None:
        raise ConfigurationError("'tls_client_certificates' needs 'tls_client_ca', the authority that signs them")
    authorities = _certificates(path, _read(path, "tls_client_ca", trusted=True))
    text = "".join(each.public_bytes(Encoding.PEM).decode("ascii") for each in authorities)
    try:
        context.load_verify_locations(cadata=text)
    except ssl.SSLError as error:
        why = (error.reason or "unknown").lower().replace("_", " ")
        raise ConfigurationError(f"OpenSSL does not take the authorities in {path}: {why}") from None
    context.verify_mode = _ASKED[settings.tls_client_certificates]


def _counted(chain: list[x509.Certificate]) -> Iterable[x509.Certificate]:
    """Return those of *chain* that clients hold against the clock: not a root that is sent along."""
    return [chain[0], *(each for each in chain[1:] if each.issuer != each.subject)]


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return whom *certificate* is for, in characters that can be printed."""
    try:
        others = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [*others.get_values_for_type(x509.DNSName), *map(str, others.get_values_for_type(x509.IPAddress))]
    except (x509.ExtensionNotFound, *_UNPARSED):
        names = []
    names = names or [certificate.subject.rfc4514_string() or "nobody"]
    return tuple("".join(char if char.isprintable() else "?" for char in name) for name in names)


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")

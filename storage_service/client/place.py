"""Where the service listens, and what became of a request that got no answer: shared by both pools.

``pool`` keeps connections for an event loop, ``sockets`` for threads. They tell the same troubles in the same words,
which are ours: a library's text may quote what was sent.
"""

import os
import socket
import ssl
from pathlib import Path
from typing import Final, NamedTuple, Protocol
from weakref import WeakSet

from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.reach import closed_directory, why_denied
from strongroom.storage_service.wire.http1 import Malformed

KEPT_OPEN: Final = 30.0  # seconds an idle connection is used again within; the service closes it after 75
FULL_QUEUE_PAUSE: Final = 0.01  # seconds before a unix socket whose queue is full is tried again

_ABSENT: Final = "does not listen"
_FILE: Final = "SSL_CERT_FILE"  # OpenSSL's own variables, which Python's default context heeds
_DIRECTORY: Final = "SSL_CERT_DIR"
_NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"})
_PLAIN: Final = (
    "see that its proxy has a certificate (tls_certificate and tls_key), or say http:// where plain HTTP is meant"
)
_WHY_UNTRUSTED: Final = {  # by OpenSSL's number (x509_vfy.h); whatever else is wrong, nobody vouches for it
    9: "its certificate is not valid yet: check the clocks on both sides",
    10: "its certificate has expired: renew it there",
    62: "its certificate is for another name: call it by that name, or give it a certificate for this one",
    64: "its certificate is for another address: call it by its name, or give it a certificate for this address",
}


class UpstreamError(Exception):
    """The service gave no whole answer.

    Attributes:
        unread: the service cannot have read the whole request, so nothing has come of it.
        answered: some of an answer had come.
        status: the status of the answer that broke off; 0 while its head was not whole, or was another's.
        untrusted: who listens there is not who was wanted; asking again makes no difference.
        barred: this user may not open the socket.
        absent: nobody listens there.
    """

    def __init__(
        self,
        reason: str,
        *,
        unread: bool = False,
        answered: bool = False,
        status: int = 0,
        untrusted: bool = False,
        barred: bool = False,
        absent: bool = False,
    ) -> None:
        super().__init__(reason)
        self.absent = absent
        self.barred = barred
        self.unread = unread
        self.answered = answered
        self.status = status
        self.untrusted = untrusted

    def anew(self) -> "UpstreamError":
        """Return the same to be raised: an error that was raised holds its frames, and they what was sent."""
        return UpstreamError(
            str(self),
            unread=self.unread,
            answered=self.answered,
            status=self.status,
            untrusted=self.untrusted,
            barred=self.barred,
            absent=self.absent,
        )


class HandshakeUnanswered(OSError):
    """Somebody listens, and does not speak TLS, or not in time."""


class SpeaksTls(Malformed):
    """What came in place of an answer is TLS."""

    def __init__(self) -> None:
        super().__init__("the service speaks TLS there, and was called without: say https:// in the url")


def refuse_tls(data: bytes) -> None:
    """Refuse what an answer begins with, if that is a record of TLS (RFC 8446 sec. 5.1): an alert to who speaks none.

    Raises:
        SpeaksTls: it is.
    """
    if data[:2] == b"\x15\x03":
        raise SpeaksTls


def closed_early(*, silent: bool) -> str:
    """Return that the service closed; *silent*: over plain HTTP, and without a word, as a server of TLS does."""
    hint = "; if it speaks TLS there, say https:// in the url" if silent else ""
    return f"the service closed the connection before its answer was whole{hint}"


def trusting(ca: Path | None) -> tuple[ssl.SSLContext, str]:
    """Return what trusts the authorities in *ca*, and nobody besides; and what that is called.

    None: those whom ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` name, each in the place of the system's own.

    Raises:
        ConfigurationError: what is named has no certificates that this user can read. OpenSSL passes over it in
            silence, and then trusts nobody.
    """
    if ca is not None:
        return _of_authorities(ca, None, str(ca)), str(ca)
    file, directory = (os.environ.get(name, "") for name in (_FILE, _DIRECTORY))
    if directory:
        _refuse_unreadable_directory(Path(directory))
    if not file:
        told = f"{directory}, which {_DIRECTORY} names," if directory else ""
        return ssl.create_default_context(), told
    context = _of_authorities(Path(file), directory or None, f"{_FILE} names {file}, which")
    return context, f"{file}, which {_FILE} names,"


def _of_authorities(file: Path, directory: str | None, named: str) -> ssl.SSLContext:
    why = "a file of certificates in PEM is expected"
    try:
        return ssl.create_default_context(cafile=file, capath=directory)
    except ssl.SSLError:
        pass
    except PermissionError:
        why = why_denied(file)
    except OSError as error:
        why = str(error.strerror)
    raise ConfigurationError(f"{named} cannot be used: {why}")


def _refuse_unreadable_directory(directory: Path) -> None:
    try:
        os.scandir(directory).close()
    except OSError as error:
        why = why_denied(directory) if isinstance(error, PermissionError) else error.strerror
        raise ConfigurationError(f"{_DIRECTORY} names {directory}, which cannot be used: {why}") from None


class Place(NamedTuple):
    """Where the service listens: a unix socket, or a host and port, with TLS where there is a context."""

    socket: str = ""
    host: str = ""
    port: int = 0
    context: ssl.SSLContext | None = None
    vouched: str = ""  # what the context knows its authorities from; "": from the system

    def __str__(self) -> str:
        if self.socket:
            return self.socket
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'http' if self.context is None else 'https'}://{host}:{self.port}"

    def unreachable(self, error: OSError) -> UpstreamError:
        """Return why no connection came about; nothing was sent."""
        if isinstance(error, ssl.SSLCertVerificationError):
            why = _WHY_UNTRUSTED.get(error.verify_code) or _nobody_vouches(self.vouched)
            return UpstreamError(f"the service at {self} is not asked: {why}", unread=True, untrusted=True)
        if isinstance(error, ssl.SSLError) and error.reason in _NO_TLS:
            return UpstreamError(f"the service at {self} does not speak TLS: {_PLAIN}", unread=True, untrusted=True)
        if isinstance(error, socket.gaierror):
            return UpstreamError(f"the service at {self} is not found: its name cannot be resolved", unread=True)
        if isinstance(error, PermissionError) and self.socket:
            return UpstreamError(_barred(Path(self.socket)), unread=True, barred=True)
        trouble = self._trouble(error)
        return UpstreamError(f"the service at {self} {trouble}", unread=True, absent=trouble.startswith(_ABSENT))

    def _trouble(self, error: OSError) -> str:
        if isinstance(error, ssl.SSLEOFError | ConnectionResetError | ConnectionAbortedError | HandshakeUnanswered):
            return f"listens, but does not answer a TLS handshake: {_PLAIN}"
        if isinstance(error, ssl.SSLError):
            return f"failed the TLS handshake: {(error.reason or 'unknown').lower().replace('_', ' ')}"
        if isinstance(error, TimeoutError | BlockingIOError):
            return "has no room for another connection" if self.socket else "cannot be reached in time"
        missing = self.socket and isinstance(error, FileNotFoundError)
        return f"{_ABSENT}: there is no such socket" if missing else _ABSENT


def _nobody_vouches(known: str) -> str:
    """Return that no authority that is trusted signed a certificate, and how to name another."""
    why = "its certificate is not trusted"
    if known:
        return f"{why}: no authority in {known} signed it; name a file with the one that did"
    return f"{why}: name a file with the authority that signed it in STRONGROOM_CA, or for all programs in {_FILE}"


def _barred(path: Path) -> str:
    """Return why this user may not connect to the socket at *path*, and what to do."""
    text = f"the service cannot be asked: {why_denied(path)}"
    if closed_directory(path) is None:
        text += "; add that user to the group, or see to socket_mode in the settings"
    return text


def connect_unix(path: str) -> socket.socket:
    """Return a connection to the unix socket at *path*, which never blocks.

    Raises:
        BlockingIOError: the service's queue of connections is full; try again.
        OSError: nobody listens there.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        connection.connect(path)  # done at once, or not at all: a unix socket has no connecting under way
    except BaseException:
        connection.close()
        raise
    return connection


class Inherited(Protocol):
    """What a forked child must not go on using."""

    def forget(self) -> None:
        """In the child: give up every connection, so that the parent's goes on undisturbed."""


_inherited: "WeakSet[Inherited]" = WeakSet()


def forget_in_children(pool: Inherited) -> None:
    """Let *pool* be forgotten in every process that is forked from this one."""
    _inherited.add(pool)


def _forget_all() -> None:
    for pool in list(_inherited):
        pool.forget()


os.register_at_fork(after_in_child=_forget_all)

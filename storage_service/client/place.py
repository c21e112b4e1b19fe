"""Where the service listens, and what a request came to that got no answer: what both pools share.

``pool`` keeps connections for an event loop, ``sockets`` for threads. They tell the same troubles in the same words,
which are ours: a library's text may quote what was sent.
"""

import os
import socket
import ssl
from typing import Final, NamedTuple, Protocol
from weakref import WeakSet

KEPT_OPEN: Final = 30.0  # seconds an idle connection is used again within; the service closes it after 75
FULL_QUEUE_PAUSE: Final = 0.01  # seconds before a unix socket whose queue is full is tried again

_UNTRUSTED: Final = "its certificate is not trusted: set SSL_CERT_FILE, or give the client an ssl_context"
_WHY_UNTRUSTED: Final = {  # by OpenSSL's number (x509_vfy.h); whatever else is wrong, nobody vouches for it
    9: "its certificate is not valid yet: see to the clocks, here and there",
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
    """

    def __init__(
        self, reason: str, *, unread: bool = False, answered: bool = False, status: int = 0, untrusted: bool = False
    ) -> None:
        super().__init__(reason)
        self.unread = unread
        self.answered = answered
        self.status = status
        self.untrusted = untrusted

    def anew(self) -> "UpstreamError":
        """Return the same to be raised: an error that was raised holds its frames, and they what was sent."""
        return UpstreamError(
            str(self), unread=self.unread, answered=self.answered, status=self.status, untrusted=self.untrusted
        )


class Place(NamedTuple):
    """Where the service listens: a unix socket, or a host and port, with TLS where there is a context."""

    socket: str = ""
    host: str = ""
    port: int = 0
    context: ssl.SSLContext | None = None

    def __str__(self) -> str:
        if self.socket:
            return self.socket
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'http' if self.context is None else 'https'}://{host}:{self.port}"

    def unreachable(self, error: OSError) -> UpstreamError:
        """Return why no connection came about; nothing was sent."""
        if isinstance(error, ssl.SSLCertVerificationError):
            why = _WHY_UNTRUSTED.get(error.verify_code, _UNTRUSTED)
            return UpstreamError(f"the service at {self} is not asked: {why}", unread=True, untrusted=True)
        if isinstance(error, ssl.SSLError):
            return UpstreamError(f"the service at {self} came to no terms over TLS", unread=True)
        if isinstance(error, socket.gaierror):
            return UpstreamError(f"the service at {self} is not found: its name leads nowhere", unread=True)
        return UpstreamError(f"the service at {self} does not listen", unread=True)


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

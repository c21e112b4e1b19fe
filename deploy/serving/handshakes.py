"""Failed handshakes, logged in few lines: an operator must see that clients cannot connect.

The first is told at once; what follows is counted, and told together every so often. Of what was sent nothing is told,
only the sort of failure and from where: however many strangers knock, the log grows by one line in that time.
"""

import asyncio
import logging
import ssl
from collections import Counter
from typing import Final

TOLD_EVERY: Final = 30.0  # seconds between two lines of one worker

_PLAIN_HTTP: Final = "spoke plain HTTP, not TLS: give the client an https:// url"
_NO_TLS: Final = "spoke no TLS"
_LEFT: Final = "left before the handshake was over"
_LATE: Final = "did not finish the handshake in time"
_UNTRUSTING: Final = "does not trust our certificate"
_UNTRUSTED: Final = "showed no client certificate that we trust"
_TERMS: Final = "offered no version or cipher that we take"
_BROKEN: Final = "broke the handshake"
_REASONS: Final = {
    "HTTP_REQUEST": _PLAIN_HTTP,
    "HTTPS_PROXY_REQUEST": _PLAIN_HTTP,
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "PACKET_LENGTH_TOO_LONG": _NO_TLS,
    "UNEXPECTED_EOF_WHILE_READING": _LEFT,
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": _UNTRUSTED,
    "CERTIFICATE_VERIFY_FAILED": _UNTRUSTED,
    "UNSUPPORTED_PROTOCOL": _TERMS,
    "NO_SHARED_CIPHER": _TERMS,
    "VERSION_TOO_LOW": _TERMS,
    "NO_SUITABLE_SIGNATURE_ALGORITHM": _TERMS,
    "TLSV1_ALERT_UNKNOWN_CA": _UNTRUSTING,
    "SSLV3_ALERT_BAD_CERTIFICATE": _UNTRUSTING,
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": _UNTRUSTING,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": _UNTRUSTING,
    "TLSV1_ALERT_PROTOCOL_VERSION": _TERMS,
}

log = logging.getLogger(__name__)


def reason_of(error: OSError) -> str:
    """Return what sort of failure *error* is; there are as many sorts as stand above."""
    if isinstance(error, ssl.SSLError):
        return _REASONS.get(error.reason or "", _BROKEN)
    return _LATE if isinstance(error, TimeoutError | ConnectionAbortedError) else _LEFT


class Failures:
    """Those of one worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._counts: Counter[str] = Counter()
        self._last: dict[str, str] = {}  # reason -> the last address: as many as there are reasons
        self._quiet = False  # a line was written lately

    def note(self, error: OSError, client: str) -> None:
        """Count a handshake with *client* that ended in *error*."""
        reason = reason_of(error)
        self._counts[reason] += 1
        self._last[reason] = client
        if not self._quiet:
            self._tell()

    def _tell(self) -> None:
        """Write one line about what was counted, if anything was; and no other for a while."""
        self._quiet = bool(self._counts)
        if not self._quiet:
            return
        told = "; ".join(f"{count} {reason} (last {self._last[reason]})" for reason, count in self._counts.items())
        # A connection that comes and goes may be a balancer that looks whether somebody listens.
        level = logging.INFO if set(self._counts) == {_LEFT} else logging.WARNING
        log.log(level, "TLS: clients that did not come in: %s", told)
        self._counts.clear()
        self._last.clear()
        self._loop.call_later(TOLD_EVERY, self._tell)

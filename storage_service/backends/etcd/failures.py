"""What a failed call says about the request: the one table from gRPC's and etcd's errors to ours.

etcd tells many of its errors apart by their text alone (one code covers a request too large and a token too old),
so the table goes by text first; the texts are those of etcd's ``api/v3rpc/rpctypes/error.go`` and of gRPC core. A
text that the table does not know is taken for the worst: the request may have been applied.
"""

from enum import Enum, auto
from typing import Any, Final, NamedTuple

from grpc import StatusCode
from grpc.aio import AioRpcError

from strongroom.storage_service.errors import ConfigurationError, Fate, StoreFails, StrongroomError, TooLarge


class Kind(Enum):
    """What may be done next."""

    NOT_DONE = auto()  # surely not applied; another member, or this one in a moment, may do it
    LOST = auto()  # perhaps applied, perhaps still under way: no answer came, or one that does not say
    FULL = auto()  # perhaps applied, but not under way: etcd answered that it is out of space
    LOGIN = auto()  # not applied; the token is missing, expired, or older than the store of users
    COMPACTED = auto()  # that revision is no longer kept
    TOO_LARGE = auto()  # not applied, nor will it ever be
    UNTRUSTED = auto()  # never sent: this member, or the certificate we show it, is not accepted
    REFUSED = auto()  # not applied; asking again changes nothing until an operator acts


_PLAIN: Final = {  # what callers are told; the log has more
    Kind.FULL: "the store is full",
    Kind.LOGIN: "the store does not let the service in",
    Kind.UNTRUSTED: "the store is not trusted, or does not trust the service",
    Kind.REFUSED: "the store refuses the service",
}


class CallFailed(Exception):
    """A call to etcd failed; stays inside this package, where `answer` turns it into an error of the house."""

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.retry_after: float | None = None  # seconds, where it is known when asking again may help
        self.shared = False  # it went with others, and one of them may be to blame
        self.fate = Fate.UNKNOWN if kind in {Kind.LOST, Kind.FULL} else Fate.NOT_APPLIED  # until more is known

    def answer(self) -> StrongroomError:
        """Return what a caller of the backend is told."""
        if self.kind is Kind.TOO_LARGE:
            return TooLarge(self.reason)
        plain = _PLAIN.get(self.kind, "the store does not answer")
        return StoreFails(self.reason, self.fate, self.retry_after, plain=plain)

    def startup_answer(self) -> StrongroomError:
        """Return what whoever opens the backend is told: what only an operator can mend is a configuration error."""
        if self.kind in {Kind.UNTRUSTED, Kind.REFUSED, Kind.LOGIN}:
            return ConfigurationError(self.reason)
        return self.answer()


class _Row(NamedTuple):
    text: str
    kind: Kind
    reason: str


_NO_CONNECTION: Final = "failed to connect to all addresses"  # gRPC's word that nothing was sent

_CONNECTING: Final = (  # the same words about a connection that stood would leave open what was sent over it
    _Row("CERTIFICATE_VERIFY_FAILED", Kind.UNTRUSTED, "etcd's certificate is not from the CA that cacert names"),
    _Row("Hostname Verification", Kind.UNTRUSTED, "etcd's certificate is for another host"),
    _Row("TSI_DATA_CORRUPTED", Kind.UNTRUSTED, "etcd does not accept our client certificate, or requires one"),
    _Row("security handshaker", Kind.UNTRUSTED, "the certificates for etcd cannot be used"),
    _Row(_NO_CONNECTION, Kind.NOT_DONE, "no member of etcd accepts a connection"),
)

_TEXTS: Final = (
    _Row("DNS resolution failed", Kind.NOT_DONE, "the host name of an etcd member is not known"),
    # etcd, before it proposes anything to its log.
    _Row("etcdserver: no leader", Kind.NOT_DONE, "etcd has no leader"),
    _Row("etcdserver: too many requests", Kind.NOT_DONE, "etcd has too much to do"),
    _Row("rpc not supported for learner", Kind.NOT_DONE, "this member of etcd is still learning"),
    _Row("raft proposal dropped", Kind.NOT_DONE, "etcd's leader takes no proposals at this moment"),
    _Row("invalid auth token", Kind.LOGIN, "etcd no longer knows our token"),
    _Row("user name is empty", Kind.LOGIN, "etcd wants a user and a password"),
    _Row("request is too large", Kind.TOO_LARGE, "the batch is larger than etcd's --max-request-bytes"),
    _Row("received message larger than max", Kind.TOO_LARGE, "the batch is larger than etcd's --max-request-bytes"),
    _Row("too many operations in txn", Kind.REFUSED, "etcd's --max-txn-ops is below 128, the least we work with"),
    _Row("revision has been compacted", Kind.COMPACTED, "etcd no longer keeps that revision"),
    # etcd, when it applies the request; what it refuses there, it refuses whole.
    _Row("revision of auth store is old", Kind.LOGIN, "etcd's users have changed since we logged in"),
    _Row("permission denied", Kind.REFUSED, "etcd's user may not read and write all keys under the prefix"),
    _Row("invalid user ID or password", Kind.REFUSED, "etcd does not accept the user and the password"),
    _Row("authentication is not enabled", Kind.REFUSED, "a user is configured, but etcd's authentication is off"),
    _Row("corrupt cluster", Kind.REFUSED, "etcd has raised its CORRUPT alarm"),
    _Row("database space exceeded", Kind.FULL, "etcd is out of space: compact, defragment, then disarm the alarm"),
)

_CODES: Final = {
    StatusCode.DEADLINE_EXCEEDED: _Row("", Kind.LOST, "etcd did not answer in time"),
    StatusCode.UNAVAILABLE: _Row("", Kind.LOST, "the connection to etcd was lost"),
    StatusCode.UNIMPLEMENTED: _Row("", Kind.REFUSED, "the server that answers is not an etcd v3 store"),
}


def diagnose(error: AioRpcError) -> CallFailed:
    """Return what *error*, which gRPC raised for a call, means for its request."""
    code: Any = error.code()
    return _named(error.details()) or CallFailed(*_CODES.get(code, _unknown(code.name))[1:])


def _named(text: str | None) -> CallFailed | None:
    text = text or ""
    rows = _CONNECTING if _NO_CONNECTION in text else _TEXTS
    return next((CallFailed(row.kind, row.reason) for row in rows if row.text in text), None)


def _unknown(code: str) -> _Row:
    return _Row("", Kind.LOST, f"etcd failed ({code})")

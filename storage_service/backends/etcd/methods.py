"""The calls of etcd's API v3 that we make: paths and shapes are etcd's, messages are those of ``messages.proto``.

They are made on bare channels: the stubs that gRPC generates would call them by the name of our own package.
"""

from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar

from strongroom.storage_service.backends.etcd.messages_pb2 import (
    AuthenticateRequest,
    AuthenticateResponse,
    CompactionRequest,
    CompactionResponse,
    DefragmentRequest,
    DefragmentResponse,
    MemberListRequest,
    MemberListResponse,
    RangeRequest,
    RangeResponse,
    SnapshotRequest,
    SnapshotResponse,
    StatusRequest,
    StatusResponse,
    TxnRequest,
    TxnResponse,
)

Q = TypeVar("Q")  # what is asked
A = TypeVar("A")  # what is answered

Metadata: TypeAlias = tuple[tuple[str, str], ...]  # what goes with a request: a token
Shape: TypeAlias = Literal["unary_unary", "unary_stream"]


@dataclass(frozen=True, slots=True, eq=False)
class Method(Generic[Q, A]):
    """One call: where it goes, what it takes, what it gives, and whether that is a stream."""

    path: str
    request: type[Q]
    answer: type[A]
    shape: Shape = "unary_unary"

    def on(self, channel: Any) -> Any:
        """Return what makes this call on *channel*, which is one of ``grpc`` or ``grpc.aio``."""
        request: Any = self.request
        answer: Any = self.answer
        make = getattr(channel, self.shape)
        return make(self.path, request_serializer=request.SerializeToString, response_deserializer=answer.FromString)


RANGE: Final = Method("/etcdserverpb.KV/Range", RangeRequest, RangeResponse)
TXN: Final = Method("/etcdserverpb.KV/Txn", TxnRequest, TxnResponse)
COMPACT: Final = Method("/etcdserverpb.KV/Compact", CompactionRequest, CompactionResponse)
AUTHENTICATE: Final = Method("/etcdserverpb.Auth/Authenticate", AuthenticateRequest, AuthenticateResponse)
MEMBERS: Final = Method("/etcdserverpb.Cluster/MemberList", MemberListRequest, MemberListResponse)
STATUS: Final = Method("/etcdserverpb.Maintenance/Status", StatusRequest, StatusResponse)
DEFRAGMENT: Final = Method("/etcdserverpb.Maintenance/Defragment", DefragmentRequest, DefragmentResponse)
SNAPSHOT: Final = Method("/etcdserverpb.Maintenance/Snapshot", SnapshotRequest, SnapshotResponse, "unary_stream")

"""Real etcd on loopback for tests: one member or three, which can be stopped, paused, killed and started again.

Every process has a parent-death signal, so that none outlives the tests; all data lies in the directory given.
Readiness is asked for (the member's own ``/health``), never slept for.
"""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc

from strongroom.storage_service.backends.etcd.messages_pb2 import (
    AuthenticateRequest,
    CompactionRequest,
    DefragmentRequest,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    SnapshotRequest,
    StatusRequest,
)
from strongroom.storage_service.backends.etcd.methods import (
    AUTHENTICATE,
    COMPACT,
    DEFRAGMENT,
    RANGE,
    SNAPSHOT,
    STATUS,
    A,
    Method,
    Q,
)
from tests.etcd_admin_pb2 import (
    AlarmRequest,
    AlarmResponse,
    AuthEnableRequest,
    AuthEnableResponse,
    AuthRoleAddRequest,
    AuthRoleAddResponse,
    AuthRoleGrantPermissionRequest,
    AuthRoleGrantPermissionResponse,
    AuthUserAddRequest,
    AuthUserAddResponse,
    AuthUserChangePasswordRequest,
    AuthUserChangePasswordResponse,
    AuthUserGrantRoleRequest,
    AuthUserGrantRoleResponse,
    DeleteRangeResponse,
    LeaseGrantRequest,
    LeaseGrantResponse,
    Permission,
    PutResponse,
)

READY_WITHIN: Final = 20.0  # seconds for a member to become healthy, also on a busy machine
POLL: Final = 0.02  # seconds between two questions
LOGINS: Final = 5  # of an administrator, for one call
LOOPBACK: Final = "127.0.0.1"

PUT: Final = Method("/etcdserverpb.KV/Put", PutRequest, PutResponse)
DELETE_RANGE: Final = Method("/etcdserverpb.KV/DeleteRange", DeleteRangeRequest, DeleteRangeResponse)
LEASE_GRANT: Final = Method("/etcdserverpb.Lease/LeaseGrant", LeaseGrantRequest, LeaseGrantResponse)
ALARM: Final = Method("/etcdserverpb.Maintenance/Alarm", AlarmRequest, AlarmResponse)
AUTH_ENABLE: Final = Method("/etcdserverpb.Auth/AuthEnable", AuthEnableRequest, AuthEnableResponse)
USER_ADD: Final = Method("/etcdserverpb.Auth/UserAdd", AuthUserAddRequest, AuthUserAddResponse)
USER_CHANGE_PASSWORD: Final = Method(
    "/etcdserverpb.Auth/UserChangePassword", AuthUserChangePasswordRequest, AuthUserChangePasswordResponse
)
USER_GRANT_ROLE: Final = Method("/etcdserverpb.Auth/UserGrantRole", AuthUserGrantRoleRequest, AuthUserGrantRoleResponse)
ROLE_ADD: Final = Method("/etcdserverpb.Auth/RoleAdd", AuthRoleAddRequest, AuthRoleAddResponse)
ROLE_GRANT_PERMISSION: Final = Method(
    "/etcdserverpb.Auth/RoleGrantPermission", AuthRoleGrantPermissionRequest, AuthRoleGrantPermissionResponse
)
_NO_LIMIT: Final = [
    ("grpc.max_receive_message_length", -1)
]  # an administrator looks at all that a session's tests left
PORTS: Final = range(20000, 32000)  # below the ephemeral ports, so that a member finds its own again when restarted


def binary() -> str:
    """Return the etcd to run: the one on PATH, or the one that the tree's set-up put into ``.tools``."""
    tools = Path(__file__).resolve().parent.parent / ".tools" / "bin"
    found = shutil.which("etcd", path=os.pathsep.join([os.environ.get("PATH", ""), str(tools)]))
    if found is None:
        raise RuntimeError("no etcd: install Debian's etcd-server, or run the tree's set-up")
    return found


def free_port() -> int:
    """Return a port of loopback on which nothing listens."""
    for port in random.SystemRandom().sample(PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port on loopback")


@dataclass(frozen=True)
class Tls:
    """Files of a server's certificate; *client_ca* also demands certificates of clients."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    @property
    def flags(self) -> list[str]:
        """What etcd is told of them."""
        demand = ["--client-cert-auth", f"--trusted-ca-file={self.client_ca}"] if self.client_ca else []
        return [f"--cert-file={self.cert}", f"--key-file={self.key}", *demand]


@dataclass
class Member:
    """One etcd process and the directory it lives in."""

    name: str
    directory: Path
    scheme: str
    client_port: int = field(default_factory=free_port)
    peer_port: int = field(default_factory=free_port)
    metrics_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    flags: Sequence[str] = ()

    @property
    def endpoint(self) -> str:
        """Where clients reach it."""
        return f"{LOOPBACK}:{self.client_port}"

    @property
    def peer(self) -> str:
        """How the others know it."""
        return f"{self.name}=http://{LOOPBACK}:{self.peer_port}"

    def start(self) -> None:
        """Start it, on the data it has; `wait` says when it serves.

        Called from the main thread only: the signal comes when the thread that started it ends (prctl(2)).
        """
        client, peer = f"{self.scheme}://{self.endpoint}", f"http://{LOOPBACK}:{self.peer_port}"
        command = [
            *("setpriv", "--pdeathsig", "KILL", binary()),
            *(f"--name={self.name}", f"--data-dir={self.directory / self.name}", "--logger=zap"),
            *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
            *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
            f"--listen-metrics-urls=http://{LOOPBACK}:{self.metrics_port}",
            *self.flags,
        ]
        with (self.directory / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def wait(self) -> None:
        """Return when the member is healthy: it has a leader and commits.

        Raises:
            RuntimeError: it ended, or did not become healthy in time.
        """
        until = time.monotonic() + READY_WITHIN
        while time.monotonic() < until:
            if self.process is None or self.process.poll() is not None:
                break
            if self._is_healthy():
                return
            time.sleep(POLL)
        raise RuntimeError(f"etcd is not healthy; see {self.directory / self.name}.log")

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{self.metrics_port}/health", timeout=1) as answer:
                return b'"true"' in answer.read()
        except OSError:
            return False

    def signal(self, number: int) -> None:
        """Send it a signal: SIGSTOP makes it slow without end, SIGCONT lets it go on."""
        assert self.process is not None
        self.process.send_signal(number)
        if number == signal.SIGSTOP:  # each of its threads goes on until it next comes by the kernel
            threads = list(Path(f"/proc/{self.process.pid}/task").iterdir())
            end = time.monotonic() + 15
            while any((each / "stat").read_text().rpartition(")")[2].split()[0] != "T" for each in threads):
                assert time.monotonic() < end, "etcd does not stop"
                time.sleep(0.001)

    def kill(self) -> None:
        """End it as a power cut would, and wait until it is gone. A second call does nothing."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def restart(self) -> None:
        """Start it again on the same data and ports, and wait until it serves."""
        self.kill()
        self.start()
        self.wait()


@dataclass
class Etcd:
    """A running store: one member, or a cluster of three."""

    members: Sequence[Member]
    ca: bytes | None = None  # PEM, to reach it with TLS

    @property
    def endpoints(self) -> str:
        """All members, as they stand in a URL."""
        return ",".join(member.endpoint for member in self.members)

    def url(self, prefix: str = "", user: str = "") -> str:
        """Return the backend URL for a *prefix* of its own."""
        return f"etcd://{user + '@' if user else ''}{self.endpoints}{'/' + prefix if prefix else ''}"

    def logins(self) -> int:
        """Return how many logins the first member has answered since it started."""
        return self.calls("Authenticate")

    def calls(self, method: str) -> int:
        """Return how many calls of *method* the first member has answered since it started."""
        with urllib.request.urlopen(f"http://{LOOPBACK}:{self.members[0].metrics_port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(
            int(line.rpartition(" ")[2])
            for line in lines
            if line.startswith("grpc_server_handled_total") and f'grpc_method="{method}"' in line
        )

    def leader(self) -> Member:
        """Return the member that leads at this moment."""
        for member in self.members:
            with grpc.insecure_channel(member.endpoint) as channel:
                status = STATUS.on(channel)(StatusRequest())
            if status.leader == status.header.member_id:
                return member
        raise RuntimeError("the cluster has no leader")

    @contextlib.contextmanager
    def admin(self, user: str = "", password: str = "") -> Iterator["Admin"]:
        """Yield an administrator's hands on the first member."""
        address = self.members[0].endpoint
        if self.ca is None:
            channel = grpc.insecure_channel(address, _NO_LIMIT)
        else:
            channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(self.ca), _NO_LIMIT)
        with channel:
            yield Admin(channel, user, password)


class Admin:
    """What an administrator does with etcdctl, without needing it: raw, blocking calls."""

    def __init__(self, channel: grpc.Channel, user: str, password: str) -> None:
        self._channel = channel
        self._who = AuthenticateRequest(name=user, password=password) if user else None

    def call(self, method: Method[Q, A], request: Q) -> A:
        """Return the answer to *request*, with a token of this moment.

        etcd counts the life of a JWT in whole seconds from a second that is half over already, so one of a second may
        be dead on arrival: then there is another login.
        """
        for _ in range(LOGINS):
            token = AUTHENTICATE.on(self._channel)(self._who).token if self._who else None
            try:
                answer: A = method.on(self._channel)(request, metadata=(("token", token),) if token else ())
            except grpc.RpcError as error:
                if not self._who or error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                    raise
            else:
                return answer
        raise AssertionError("etcd refuses the tokens that it has just issued")

    def keys(self, prefix: str = "/") -> dict[str, Any]:
        """Return every key under *prefix* with etcd's own record of it."""
        kvs = self.call(RANGE, RangeRequest(key=prefix.encode(), range_end=b"\xff")).kvs
        return {kv.key.decode(): kv for kv in kvs if kv.key.startswith(prefix.encode())}

    def put(self, key: str, value: bytes) -> None:
        """Write a key past the backend."""
        self.call(PUT, PutRequest(key=key.encode(), value=value))

    def delete_all(self, prefix: str) -> None:
        """Remove every key under *prefix* past the backend."""
        self.call(DELETE_RANGE, DeleteRangeRequest(key=prefix.encode(), range_end=_end(prefix)))

    def compact(self) -> int:
        """Forget all history up to this moment, and return the revision it ends at."""
        revision = self.call(RANGE, RangeRequest(key=b"/")).header.revision
        self.call(COMPACT, CompactionRequest(revision=revision, physical=True))
        return revision

    def snapshot(self) -> bytes:
        """Return the member's database as it streams it."""
        return b"".join(part.blob for part in SNAPSHOT.on(self._channel)(SnapshotRequest()))

    def free_space(self) -> None:
        """Do what an operator does about NOSPACE: compact, defragment, disarm."""
        self.compact()
        self.call(DEFRAGMENT, DefragmentRequest())
        for alarm in self.call(ALARM, AlarmRequest(action=AlarmRequest.GET)).alarms:
            self.call(ALARM, AlarmRequest(action=AlarmRequest.DEACTIVATE, memberID=alarm.memberID, alarm=alarm.alarm))

    def enable_auth(self, user: str, password: str, prefix: str) -> None:
        """Switch authentication on: ``root`` (with the same *password*) and *user*, who may use *prefix* only."""
        for name in ("root", user):
            self.call(USER_ADD, AuthUserAddRequest(name=name, password=password))
            self.call(ROLE_ADD, AuthRoleAddRequest(name=name))
            self.call(USER_GRANT_ROLE, AuthUserGrantRoleRequest(user=name, role=name))
        permission = Permission(permType=Permission.READWRITE, key=prefix.encode(), range_end=_end(prefix))
        self.call(ROLE_GRANT_PERMISSION, AuthRoleGrantPermissionRequest(name=user, perm=permission))
        self.call(AUTH_ENABLE, AuthEnableRequest())

    def touch_auth(self, name: str) -> None:
        """Change the store of users: every JWT that is out becomes 'revision of auth store is old'."""
        self.call(ROLE_ADD, AuthRoleAddRequest(name=name))

    def change_password(self, user: str, password: str) -> None:
        """Give *user* another password."""
        self.call(USER_CHANGE_PASSWORD, AuthUserChangePasswordRequest(name=user, password=password))


def _end(prefix: str) -> bytes:
    """Return the first key past all that begin with *prefix*."""
    return prefix[:-1].encode() + bytes([ord(prefix[-1]) + 1])


@contextlib.contextmanager
def running(
    directory: Path, members: int = 1, flags: Sequence[str] = (), tls: Tls | None = None, ca: bytes | None = None
) -> Iterator[Etcd]:
    """Run a store of so many *members* in *directory* until the block ends."""
    scheme = "https" if tls else "http"
    names = [f"m{number}" for number in range(members)]
    all_members = [Member(name, directory, scheme) for name in names]
    cluster = ["--initial-cluster=" + ",".join(member.peer for member in all_members)]
    for member in all_members:
        member.flags = [*cluster, *flags, *(tls.flags if tls else ())]
    try:
        for member in all_members:
            member.start()
        for member in all_members:
            member.wait()
        yield Etcd(all_members, ca)
    finally:
        for member in all_members:
            with contextlib.suppress(AssertionError, ProcessLookupError):
                member.signal(signal.SIGCONT)
            member.kill()

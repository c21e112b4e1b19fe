"""Calls and streams to whichever member of etcd answers, logged in, each with a deadline.

One channel goes to each member. All calls go to one of them until it fails one, and then to the next. What may be
asked again is asked again within the operation's deadline, elsewhere or a little later; ``failures`` says what may.
Where no member answers for a while, operations fail at once (``breaker``).
A token that etcd no longer accepts is replaced by one login, however many calls found out at once.
"""

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import grpc
from grpc.aio import AioRpcError

from strongroom.models.secret import Secret
from strongroom.storage_service.backends.base import Entry
from strongroom.storage_service.backends.etcd.breaker import Breaker
from strongroom.storage_service.backends.etcd.failures import CallFailed, Kind, diagnose
from strongroom.storage_service.backends.etcd.messages_pb2 import AuthenticateRequest
from strongroom.storage_service.backends.etcd.methods import AUTHENTICATE, A, Metadata, Method, Q
from strongroom.storage_service.backends.etcd.reads import Reads
from strongroom.storage_service.backends.etcd.target import Target
from strongroom.storage_service.errors import ConfigurationError, Fate
from strongroom.storage_service.reach import why_unread

ATTEMPT: Final = 0.4  # of an operation's timeout, for one of its attempts: time is left to ask elsewhere
FIRST_PAUSE: Final = 0.05  # seconds, once every member has been asked; doubled each time …
LONGEST_PAUSE: Final = 0.4  # … up to here
LOGINS: Final = 5  # in one operation; each follows a token that was good and no longer is
BLAMELESS: Final = frozenset({Kind.NOT_DONE, Kind.LOGIN, Kind.UNTRUSTED})  # failures of all that go together alike
REFUSAL_KEPT: Final = 10.0  # seconds until a login that etcd refused is tried again

CHANNEL_OPTIONS: Final = (
    ("grpc.enable_http_proxy", 0),  # secrets take no detour that an environment variable names
    ("grpc.use_local_subchannel_pool", 1),  # closing a channel closes its connection
    ("grpc.max_receive_message_length", -1),  # etcd bounds what it stores, pages bound what is asked
    ("grpc.keepalive_time_ms", 10_000),  # while an answer is waited for; etcd allows pings every 5 seconds
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.min_reconnect_backoff_ms", 1_000),  # also how long one attempt to connect may take
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),  # a member that is back is found within a second
)

ANONYMOUS: Final[Metadata] = (("hasleader", "true"),)  # a member cut off from its leader says so at once

_CLOSED: Final = "the store is closed"

log = logging.getLogger(__name__)


class Member:
    """One member of the cluster, and the channel to it."""

    def __init__(self, endpoint: str, credentials: Any) -> None:
        self.endpoint = endpoint
        if credentials is None:
            self.channel = grpc.aio.insecure_channel(endpoint, CHANNEL_OPTIONS)
        else:
            self.channel = grpc.aio.secure_channel(endpoint, credentials, CHANNEL_OPTIONS)
        self.reads = Reads(self.channel)
        self._calls: dict[Method[Any, Any], Any] = {}

    def __call__(self, method: Method[Any, Any]) -> Any:
        """Return what makes calls of *method* to this member."""
        call = self._calls.get(method)
        if call is None:
            call = self._calls[method] = method.on(self.channel)
        return call


class Cluster:
    """The members of one etcd cluster. Every method raises `CallFailed` and nothing else of gRPC's."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._password = target.password
        self._members: tuple[Member, ...] = ()
        self._current = 0
        self._token = ANONYMOUS
        self._login: asyncio.Task[None] | None = None
        self._refused_until = 0.0  # on the loop's clock
        self._breaker = Breaker()
        self._open = False
        self._under_way = 0
        self._idle = asyncio.Event()
        self._streams: set[Any] = set()

    async def open(self) -> None:
        """Make the channels and log in. Files are read in a thread.

        Raises:
            ConfigurationError: a file of ours cannot be read or used.
            CallFailed: no member can be reached, or it does not accept us.
        """
        credentials, self._password = await asyncio.to_thread(_load, self._target)
        self._members = tuple(Member(endpoint, credentials) for endpoint in self._target.endpoints)
        self._open = True
        if self._target.user:
            await self._log_in(self._token, self.deadline())

    @property
    def members(self) -> Sequence[Member]:
        """The members that the target names; none before `open`."""
        return self._members

    @property
    def is_open(self) -> bool:
        """Whether operations are taken."""
        return self._open

    async def drain(self) -> bool:
        """Take no more operations, end streams, and let operations under way end; return whether it was open."""
        was_open, self._open = self._open, False
        for stream in tuple(self._streams):
            stream.cancel()
        while self._under_way:
            self._idle.clear()
            await self._idle.wait()  # each of them has a deadline
        return was_open

    async def close(self) -> None:
        """Close the channels; nothing is to be called any more."""
        if self._login is not None:
            self._login.cancel()
        for member in self._members:
            await member.channel.close()

    def time(self) -> float:
        """Return the present on the clock of deadlines (seconds)."""
        return asyncio.get_running_loop().time()

    def deadline(self) -> float:
        """Return when an operation that begins now must end."""
        return self.time() + self._target.timeout

    @contextmanager
    def operation(self) -> Iterator[None]:
        """Mark an operation as under way, so that `close` waits for it; all calls belong to one.

        Raises:
            CallFailed: the cluster is closed, or has not answered for a while.
        """
        if not self._open:
            raise CallFailed(Kind.REFUSED, _CLOSED)
        probe = self._breaker.admit(self.time())
        cut_short = True
        self._under_way += 1
        try:
            yield
            cut_short = False
        except Exception:
            cut_short = False
            raise
        finally:
            if probe:
                self._breaker.probed(self.time(), cut_short=cut_short)
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def call(
        self,
        method: Method[Q, A],
        request: Q,
        *,
        idempotent: bool,
        deadline: float | None = None,
        token: Metadata | None = None,
    ) -> A:
        """Return the answer to *request*.

        Args:
            method: one of keys, for instance RANGE.
            request: a message for it.
            idempotent: whether it may be sent again where its first sending may have been applied.
            deadline: when to give up, of what `deadline` gave for the whole operation (None: from now on).
            token: what to send instead of ours; such a call never logs in.

        Raises:
            CallFailed: with the fate of what is not idempotent; of what is, nothing needs to be known.
        """

        async def attempt(member: Member, sent: Metadata, until: float) -> A:
            return await self._send(member, method, request, sent, until - self.time())

        return await self._persist(attempt, idempotent=idempotent, deadline=deadline or self.deadline(), token=token)

    async def get(self, key: bytes) -> Entry | None:
        """Return what is stored under *key*; what is asked for at the same time goes to etcd together.

        A read that failed in company is done again alone, so that no other's value can be to blame for it.

        Raises:
            CallFailed: as of `call`.
        """
        alone = False

        async def attempt(member: Member, sent: Metadata, until: float) -> Entry | None:
            nonlocal alone
            try:
                return await member.reads.get(key, sent, until, alone=alone)
            except CallFailed as failure:
                if alone or not failure.shared or failure.kind in BLAMELESS:
                    raise
                alone = True
                if failure.kind is Kind.LOST:
                    raise
            return await member.reads.get(key, sent, until, alone=True)

        return await self._persist(attempt, idempotent=True, deadline=self.deadline())

    async def _persist(
        self,
        attempt: Callable[[Member, Metadata, float], Awaitable[A]],
        *,
        idempotent: bool,
        deadline: float,
        token: Metadata | None = None,
    ) -> A:
        """Return what *attempt* gives for a member, a token and a time to give up, tried again where that may help."""
        logins = untrusted = 0
        pauses = self._pauses()
        while True:
            member, sent = self._members[self._current], token or self._token
            try:
                answer = await attempt(member, sent, min(deadline, self.time() + self._target.timeout * ATTEMPT))
            except CallFailed as failure:
                if idempotent:
                    failure.fate = Fate.NOT_APPLIED
                pause = 0.0
                untrusted = untrusted + 1 if failure.kind is Kind.UNTRUSTED else 0
                if failure.kind in {Kind.NOT_DONE, Kind.LOST, Kind.UNTRUSTED}:
                    self._leave(member, failure)
                if failure.kind is Kind.LOGIN and self._target.user and token is None and logins < LOGINS:
                    logins += 1
                    self._breaker.answered()
                    await self._log_in(sent, deadline)
                elif failure.kind is Kind.NOT_DONE or (failure.kind is Kind.LOST and idempotent):
                    pause = next(pauses)
                elif failure.kind is not Kind.UNTRUSTED or untrusted == len(self._members):
                    if failure.kind is not Kind.LOST:
                        self._breaker.answered()
                    raise
                if self.time() + pause >= deadline:
                    if failure.kind in {Kind.NOT_DONE, Kind.LOST}:
                        self._breaker.unanswered(self.time())
                    raise
            else:
                self._breaker.answered()
                return answer
            await asyncio.sleep(pause)

    async def ask(self, member: Member, method: Method[Q, A], request: Q, timeout: float) -> A:
        """Return the answer of that one *member* to what it may be asked twice, for instance to defragment itself.

        Args:
            member: one of `members`.
            method: COMPACT, MEMBERS, STATUS or DEFRAGMENT.
            request: a message for it.
            timeout: seconds; such calls may take longer than an operation on keys.

        Raises:
            CallFailed: no other member is asked instead.
        """
        sent = self._token
        try:
            return await self._send(member, method, request, sent, timeout)
        except CallFailed as failure:
            if failure.kind is not Kind.LOGIN or not self._target.user:
                raise
        await self._log_in(sent, self.deadline())
        return await self._send(member, method, request, self._token, timeout)

    async def stream(self, member: Member, method: Method[Q, A], request: Q, timeout: float) -> AsyncGenerator[A, None]:
        """Yield the answers that one *member* streams, each of which may take *timeout* seconds to come.

        Args:
            member: one of `members`.
            method: SNAPSHOT.
            request: a message for it.
            timeout: seconds.

        Raises:
            CallFailed: also in the middle.
        """
        for logged_in in (not self._target.user, True):
            sent, began = self._token, False
            call = member(method)(request, metadata=sent)
            self._streams.add(call)
            try:
                while (answer := await self._next(call, timeout)) is not grpc.aio.EOF:
                    began = True
                    yield answer
            except CallFailed as failure:
                if failure.kind is not Kind.LOGIN or logged_in or began:
                    raise
            else:
                return
            finally:
                self._streams.discard(call)
                call.cancel()
            await self._log_in(sent, self.deadline())

    async def _send(self, member: Member, method: Method[Q, A], request: Q, token: Metadata, timeout: float) -> A:
        try:
            answer: A = await member(method)(request, metadata=token, timeout=timeout)
        except AioRpcError as error:
            raise diagnose(error) from error
        return answer

    async def _next(self, stream: Any, timeout: float) -> Any:
        """Return the next answer of *stream*, or EOF."""
        try:
            async with asyncio.timeout(timeout):
                return await stream.read()
        except TimeoutError:
            raise CallFailed(Kind.LOST, "etcd did not answer in time") from None
        except AioRpcError as error:
            raise diagnose(error) from error

    async def _log_in(self, stale: Metadata, deadline: float) -> None:
        """Replace the token in *stale*, unless that has been done; all who ask meanwhile share one login.

        Raises:
            CallFailed: etcd does not accept user and password, or cannot be asked. The request was not applied.
        """
        if self._token is not stale:
            return
        if self.time() < self._refused_until:
            raise CallFailed(Kind.REFUSED, "etcd refused our login a moment ago")
        if self._login is None or self._login.done():
            self._login = asyncio.create_task(self._authenticate())
            self._login.add_done_callback(_retrieve)
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.shield(self._login)
        except TimeoutError:
            raise CallFailed(Kind.NOT_DONE, "etcd did not accept our login in time") from None
        except asyncio.CancelledError:
            self._raise_if_closed()
            raise

    async def _authenticate(self) -> None:
        request = AuthenticateRequest(name=self._target.user, password=self._password.reveal())
        try:
            answer = await self.call(AUTHENTICATE, request, idempotent=True, token=ANONYMOUS)
        except CallFailed as failure:
            if failure.kind is Kind.REFUSED:
                self._refused_until = self.time() + REFUSAL_KEPT
            raise
        self._token = (*ANONYMOUS, ("token", answer.token))

    def _raise_if_closed(self) -> None:
        """Tell a cancelling of ours, on closing, from one of whoever waits."""
        task = asyncio.current_task()
        if not self._open and not (task and task.cancelling()):
            raise CallFailed(Kind.REFUSED, _CLOSED) from None

    def _leave(self, member: Member, failure: CallFailed) -> None:
        """Let the calls to come go to the next member; of all that fail at one at once, the first does it."""
        if member is self._members[self._current] and len(self._members) > 1:
            self._current = (self._current + 1) % len(self._members)
            member.reads.turn_away(CallFailed(Kind.NOT_DONE, failure.reason))
            log.warning("etcd member %s: %s; the next is asked", member.endpoint, failure.reason)

    def _pauses(self) -> Iterator[float]:
        """Give the pauses between attempts: none until each member has been asked, then ever longer ones."""
        yield from (0.0 for _ in self._members[1:])
        pause = FIRST_PAUSE
        while True:
            yield pause
            pause = min(2 * pause, LONGEST_PAUSE)


def _load(target: Target) -> tuple[Any, Secret]:
    """Read the files that *target* names, and return gRPC's credentials (None: no TLS) and the password.

    Raises:
        ConfigurationError: a file cannot be read, or is no such thing as it should be.
    """
    try:
        password = target.password
        if target.password_file is not None:
            password = Secret(target.password_file.read_text().strip("\r\n"))
        if target.cacert is None:
            return None, password
        # gRPC would say no more of bad files than that a handshake failed; OpenSSL reads them first.
        context = ssl.create_default_context(cafile=target.cacert)
        if target.cert is not None and target.key is not None:
            context.load_cert_chain(target.cert, target.key, password="")
        pems = [path.read_bytes() if path else None for path in (target.cacert, target.key, target.cert)]
    except ssl.SSLError as error:
        raise ConfigurationError(
            "the files of etcd's cacert, cert and key are not PEM, or do not belong together"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"a file named for etcd (password_file, cacert, cert or key) cannot be read: {why_unread(error)}"
        ) from error
    if target.password_file is not None and not password:
        raise ConfigurationError("the file of etcd's password is empty")
    return grpc.ssl_channel_credentials(*pems), password


def _retrieve(task: asyncio.Task[None]) -> None:
    """Look at how a login ended: all who waited for it may have ceased to, and asyncio would complain."""
    if not task.cancelled():
        task.exception()

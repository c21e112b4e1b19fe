"""Connections to the storage service for threads: a bounded pool of HTTP/1.1 conversations kept open, on plain sockets.

What a broken connection says of a request, and when it is sent once more, is as in ``pool``, which is the same for an
event loop. No socket here ever blocks: every wait is a poll that ends at the exchange's deadline.
"""

import math
import select
import socket
import ssl
import time
from collections import deque
from contextlib import suppress
from threading import TIMEOUT_MAX, Lock
from typing import Final

from strongroom.storage_service.client.place import (
    FULL_QUEUE_PAUSE,
    KEPT_OPEN,
    HandshakeUnanswered,
    Place,
    SpeaksTls,
    UpstreamError,
    closed_early,
    connect_unix,
    forget_in_children,
    refuse_tls,
)
from strongroom.storage_service.client.retries import Answer
from strongroom.storage_service.wire import http1
from strongroom.storage_service.wire.http1 import Malformed

RECEIVE: Final = 64 * 1024  # bytes taken from a socket at a time
LONGEST_POLL: Final = 3600.0  # seconds: a poll takes no more than some weeks of milliseconds

_NOT_NOW: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Connection:
    """One conversation with the service: an exchange at a time, never pipelined, by one thread at a time."""

    __slots__ = ("_heard", "_keep", "_local", "_number", "_poll", "_reader", "_socket", "_status", "since", "used")

    def __init__(self, place: Place, deadline: float) -> None:
        """Connect, until *deadline*.

        Raises:
            OSError: the service does not listen, or not in time, or is not whom it should be.
        """
        self._local = bool(place.socket)
        self._poll = select.poll()
        self._reader = http1.AnswerReader()
        self._heard = False  # something of the current answer came
        self._status = 0  # of the current answer, once it is known as the request's own
        self._keep = True
        self.since = 0.0  # when it was last used
        self.used = False  # an exchange went well before this one
        self._socket = _connect_unix(place.socket, deadline) if place.socket else _connect_tcp(place, deadline)
        self._number = self._socket.fileno()
        self._poll.register(self._number, select.POLLIN)

    def __repr__(self) -> str:
        return f"<Connection {'closed' if self._socket.fileno() < 0 else 'to be closed' if not self._keep else 'open'}>"

    @property
    def reusable(self) -> bool:
        """Whether the last answer was read to its end and the service goes on listening."""
        return self._keep

    def is_fresh(self, now: float) -> bool:
        """Whether it was used lately, and nothing came since: not even its end."""
        return self._keep and now - self.since < KEPT_OPEN and not self._poll.poll(0)

    def ask(self, request: bytes, deadline: float, request_id: bytes) -> Answer:
        """Send a whole *request* and return its whole answer.

        Raises:
            UpstreamError: there is none.
        """
        keep, self._keep = self._keep, False  # whatever ends this early
        self._heard, self._status = False, 0
        sent = reset = False
        try:
            sent, early = self._send(request, deadline)
            answer, keep_open = self._receive(early, deadline, request_id)
        except SpeaksTls as error:
            raise UpstreamError(str(error), unread=True, untrusted=True) from None
        except Malformed as error:
            why = str(error)
        except TimeoutError:
            why = "the service did not answer in time"
        except OSError as error:
            reset = self._local and isinstance(error, BrokenPipeError | ConnectionResetError)
            plain = not self._local and not isinstance(self._socket, ssl.SSLSocket)
            why = closed_early(silent=plain and not self._heard)
        else:
            self._keep = keep and keep_open and sent
            return answer
        unread = not sent or (reset and not self._heard)
        raise UpstreamError(why, unread=unread, answered=self._heard, status=self._status)

    def spoil(self) -> None:
        """Say that this connection must not be used again, whatever comes of the exchange."""
        self._keep = False

    def let_go(self) -> None:
        """Hold nothing of the last exchange any more."""
        self._reader.pieces = []
        self._reader.fields = []

    def close(self) -> None:
        """Close this process's end; no word goes out (TLS would say goodbye for a parent, too)."""
        self._keep = False
        self.let_go()
        with suppress(OSError):
            self._socket.close()

    def _send(self, request: bytes, deadline: float) -> tuple[bool, bytes]:
        """Return whether all of *request* was written, and what came before that.

        Raises:
            TimeoutError: it was not written in time.
        """
        try:
            count = self._socket.send(request)
        except _NOT_NOW:
            count = 0
        except OSError:
            return False, b""  # an answer may have come before
        if count == len(request):
            return True, b""
        self._poll.modify(self._number, select.POLLIN | select.POLLOUT)
        try:
            return self._send_rest(memoryview(request)[count:], deadline)
        finally:
            self._poll.modify(self._number, select.POLLIN)

    def _send_rest(self, rest: memoryview, deadline: float) -> tuple[bool, bytes]:
        """As `_send`; a service that has decided may answer, or leave, without reading all."""
        while rest:
            events = self._wait(deadline)
            try:
                if events & ~select.POLLOUT:
                    with suppress(*_NOT_NOW):  # then it was a word of TLS's own
                        return False, self._socket.recv(RECEIVE)
                rest = rest[self._socket.send(rest) :]
            except _NOT_NOW:
                continue
            except OSError:
                return False, b""
        return True, b""

    def _receive(self, data: bytes, deadline: float, request_id: bytes) -> tuple[Answer, bool]:
        """Return the answer that *data* is the beginning of, and whether the connection may be used again.

        Raises:
            Malformed: it is malformed, or another request's.
            TimeoutError: it was not whole in time.
            OSError: the connection ended before.
        """
        reader = self._reader
        self._heard = bool(data)
        head: http1.Answer | None = None
        while head is None:
            end = http1.find_head(data)
            if not end:
                refuse_tls(data)
                data += self._more(deadline)
                continue
            head = reader.head(data[:end])
            data = data[end:]
            self._heard = head is not None or bool(data)  # after an interim answer nothing is decided yet
        http1.check_id(head, request_id)
        self._status = head.status
        if head.length and data:
            data = reader.feed_body(data)
        while not reader.complete:
            data = reader.feed_body(self._more(deadline))
        pieces = reader.pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return Answer.of(head.status, head.fields, body), head.keep and not data

    def _more(self, deadline: float) -> bytes:
        """Return what comes next.

        Raises:
            TimeoutError: nothing came in time.
            OSError: the connection ended.
        """
        while True:
            if self._local or not isinstance(self._socket, ssl.SSLSocket):
                self._wait(deadline)
            elif time.monotonic() >= deadline:
                raise TimeoutError
            try:
                data = self._socket.recv(RECEIVE)
            except ssl.SSLWantWriteError:
                self._poll.modify(self._number, select.POLLOUT)
                self._wait(deadline)
                self._poll.modify(self._number, select.POLLIN)
                continue
            except _NOT_NOW:
                self._wait(deadline)
                continue
            if not data:
                raise ConnectionAbortedError
            self._heard = True
            return data

    def _wait(self, deadline: float) -> int:
        """Return what the socket is ready for.

        Raises:
            TimeoutError: for nothing, until *deadline*.
        """
        while (left := deadline - time.monotonic()) > 0:
            for _, events in self._poll.poll(math.ceil(min(left, LONGEST_POLL) * 1000)):
                return events
        raise TimeoutError


class SocketPool:
    """At most *connections* conversations at a time, waiting threads served in their order.

    Connections are opened when they are first needed. A forked child begins without any.
    """

    def __init__(self, place: Place, connections: int, connect_timeout: float) -> None:
        self._place = place
        self._limit = connections
        self._connect_timeout = connect_timeout
        self._begin()
        forget_in_children(self)

    def _begin(self) -> None:
        self._lock = Lock()
        self._open = 0  # connections that exist or are being made
        self._idle: list[Connection] = []  # the last used is used first, so that a quiet hour needs few
        self._all: set[Connection] = set()
        self._waiting: deque[_Turn] = deque()

    def __repr__(self) -> str:
        return f"<SocketPool {self._open} of {self._limit} open, {len(self._idle)} idle, {len(self._waiting)} waiting>"

    def exchange(self, request: bytes, seconds: float, *, repeatable: bool, request_id: bytes) -> Answer:
        """Send a whole *request* and return its whole answer, within *seconds*.

        A connection that had been kept open may turn out closed; then the request goes once more over a new one,
        if it is *repeatable* or cannot have been read, and there is time.

        Raises:
            UpstreamError: there is no answer; *unread* says whether something may have come of the request.
        """
        deadline = time.monotonic() + seconds
        connection = self._take(deadline)
        try:
            try:
                return connection.ask(request, deadline, request_id)
            except UpstreamError as error:
                late = time.monotonic() >= deadline
                if late or not connection.used or error.answered or not (repeatable or error.unread):
                    raise
            connection = self._replace(connection, deadline)
            return connection.ask(request, deadline, request_id)
        finally:
            self._finish(connection)

    def close(self) -> None:
        """Close what is idle; what is busy ends with its exchange."""
        with self._lock:
            idle, self._idle = self._idle, []
            for connection in self._all:
                connection.spoil()
        for connection in idle:
            self._finish(connection)

    def forget(self) -> None:
        """In a forked child: begin anew, without a connection; the parent's go on, for no word is said on them."""
        inherited = self._all
        self._begin()
        for connection in inherited:
            connection.close()

    def _take(self, deadline: float) -> Connection:
        """Return a connection for one exchange, waiting for one until *deadline*.

        Raises:
            UpstreamError: none came free, or none could be made; nothing was sent.
        """
        connection: Connection | None = None
        turn: _Turn | None = None
        with self._lock:
            if self._idle:
                connection = self._idle.pop()
            elif self._open < self._limit:
                self._open += 1
            else:
                turn = _Turn()
                self._waiting.append(turn)
        if turn is not None:
            connection = self._await(turn, deadline)
        if connection is not None and connection.is_fresh(time.monotonic()):
            return connection
        try:
            return self._connect(deadline) if connection is None else self._replace(connection, deadline)
        except BaseException:
            with self._lock:
                if connection is not None:
                    self._all.discard(connection)
                self._pass_on(None)
            raise

    def _await(self, turn: "_Turn", deadline: float) -> Connection | None:
        """Return what *turn* brings: a connection, or a place for a new one.

        Raises:
            UpstreamError: nothing, until *deadline*.
        """
        try:
            if turn.came.acquire(timeout=min(max(deadline - time.monotonic(), 0.0), TIMEOUT_MAX)):
                return turn.given
            raise UpstreamError("every connection to the service is busy", unread=True)
        except BaseException:
            with self._lock:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                else:  # it came, but too late
                    self._pass_on(turn.given)
            raise

    def _connect(self, deadline: float) -> Connection:
        """Return a new connection, in a place that the caller has taken and gives back.

        Raises:
            UpstreamError: the service does not listen.
        """
        try:
            connection = Connection(self._place, min(deadline, time.monotonic() + self._connect_timeout))
        except OSError as error:
            raise self._place.unreachable(error) from None
        with self._lock:
            self._all.add(connection)
        return connection

    def _replace(self, connection: Connection, deadline: float) -> Connection:
        """Return a new connection in the place of one that has had its time."""
        connection.close()
        replacing = self._connect(deadline)
        with self._lock:
            self._all.discard(connection)
        return replacing

    def _finish(self, connection: Connection) -> None:
        """Give back a connection; it is kept only if its exchange ended cleanly."""
        connection.let_go()
        if not connection.reusable:
            connection.close()
        connection.used, connection.since = True, time.monotonic()
        with self._lock:
            if connection not in self._all:
                return  # another process's: the fork came in the middle of its exchange
            if connection.reusable:
                self._pass_on(connection)
            else:
                self._all.discard(connection)
                self._pass_on(None)

    def _pass_on(self, given: Connection | None) -> None:
        """Give a connection, or the place of one, to who has waited longest. The lock is held."""
        if self._waiting:
            turn = self._waiting.popleft()
            turn.given = given
            turn.came.release()
        elif given is None:
            self._open -= 1
        else:
            self._idle.append(given)


class _Turn:
    """One thread that waits for a connection."""

    __slots__ = ("came", "given")

    def __init__(self) -> None:
        self.came = Lock()  # free once something is given
        self.came.acquire()
        self.given: Connection | None = None  # or the place for one


def _connect_unix(path: str, deadline: float) -> socket.socket:
    """Return a connection to a unix socket, waiting for room in the service's queue of them.

    Raises:
        OSError: nobody listens there, or there was no room in time.
    """
    while True:
        try:
            return connect_unix(path)
        except BlockingIOError:
            if time.monotonic() + FULL_QUEUE_PAUSE >= deadline:
                raise
        time.sleep(FULL_QUEUE_PAUSE)


def _connect_tcp(place: Place, deadline: float) -> socket.socket:
    """Return a connection to the first of a host's addresses that has one, over TLS where that is wanted.

    Raises:
        OSError: none has, in time; or who listens there is not whom the context trusts.
    """
    failure: OSError = TimeoutError()
    for family, kind, protocol, _, address in socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM):
        if deadline - time.monotonic() <= 0:
            break
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            connection.connect(address)
        except OSError as error:
            connection.close()
            failure = error
            continue
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if place.context is not None:
                connection.settimeout(max(deadline - time.monotonic(), 0.001))
                connection = _shake_hands(connection, place.context, place.host)
            connection.setblocking(False)
        except BaseException:
            connection.close()
            raise
        return connection
    raise failure


def _shake_hands(connection: socket.socket, context: ssl.SSLContext, host: str) -> ssl.SSLSocket:
    """Return *connection* with TLS on it.

    Raises:
        HandshakeUnanswered: nothing came of it in time.
        OSError: it came to no terms.
    """
    try:
        return context.wrap_socket(connection, server_hostname=host)
    except TimeoutError:
        raise HandshakeUnanswered from None

"""An HTTP server that does as its script says, connection troubles included, and remembers what it heard.

It listens on a unix socket, or on loopback, over TLS if it is given a context.
"""

import select
import socket
import ssl
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias


@dataclass(frozen=True)
class Heard:
    """One request as it arrived; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """Answer, and keep the connection. The answer goes by the id of its request unless it says another."""

    body: bytes = b"{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    leave: bool = False  # close after it, with no word of that in it

    def bytes(self, request_id: str = "") -> bytes:
        """Return it as it is sent."""
        lines = [f"HTTP/1.1 {self.status} -", f"Content-Length: {len(self.body)}"]
        said = {"X-Request-ID": request_id} | self.headers
        lines += [f"{name}: {value}" for name, value in said.items() if value]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


@dataclass(frozen=True)
class CloseUnread:
    """Close while bytes of the request are unread."""


@dataclass(frozen=True)
class CloseAfterReading:
    """Read the whole request and close without a word."""


@dataclass(frozen=True)
class CloseWithinAnswer:
    """Answer with a head of *status* and half of a body."""

    status: int = 200


@dataclass(frozen=True)
class Silence:
    """Read the whole request and say nothing until the client gives up."""


@dataclass(frozen=True)
class Drip:
    """Answer with a body that goes on without end, a byte at a time, until the client gives up."""


@dataclass(frozen=True)
class Raw:
    """Read the whole request and send these bytes, the request's id in the place of ``{id}``."""

    data: bytes


@dataclass(frozen=True)
class Echo:
    """Answer with a secret, whose value is the path that was asked for."""


@dataclass(frozen=True)
class Refuse:
    """Answer as soon as the head is there, and read nothing of the body."""

    status: int = 413
    leave: bool = False  # close at once; else when the client has


@dataclass(frozen=True)
class Deaf:
    """Read nothing at all, until the client gives up."""


Act: TypeAlias = (
    Raw | Echo | Refuse | Deaf | Reply | CloseUnread | CloseAfterReading | CloseWithinAnswer | Silence | Drip
)


class ScriptedService:
    """Serves one act for each request (for `CloseUnread` and `Deaf`: for each connection), in order."""

    def __init__(self, path: Path | None = None, context: ssl.SSLContext | None = None) -> None:
        self.path = path
        self._context = context
        self.heard: list[Heard] = []
        self.connections = 0
        self._script: deque[Act] = deque()
        if path is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(path))
            self._listener.listen()
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def where(self) -> dict[str, Any]:
        """What leads a client here."""
        if self.path is not None:
            return {"socket": self.path}
        scheme = "http" if self._context is None else "https"
        return {"url": f"{scheme}://localhost:{self._listener.getsockname()[1]}"}

    def script(self, *acts: Act) -> None:
        """Say what to do next."""
        self._script.extend(acts)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            with suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        self._open.add(connection)
        with connection, suppress(OSError):
            if self._context is None:
                while self._serve_one(connection):
                    pass
            else:
                with self._context.wrap_socket(connection, server_side=True) as secure:
                    self._open.add(secure)
                    while self._serve_one(secure):
                        pass
                    self._open.discard(secure)
        self._open.discard(connection)

    def _serve_one(self, connection: socket.socket) -> bool:
        if self._script and isinstance(self._script[0], CloseUnread):
            self._script.popleft()
            connection.recv(1)
            return False
        if self._script and isinstance(self._script[0], Deaf):
            self._script.popleft()
            return wait_for_end(connection)
        if self._script and isinstance(self._script[0], Refuse):
            return self._refuse(connection)
        request = _read(connection)
        if request is None:
            return False
        self.heard.append(request)
        request_id = request.headers.get("x-request-id", "")
        match self._script.popleft() if self._script else Reply(status=599):
            case Reply() as reply:
                connection.sendall(reply.bytes(request_id))
                return not reply.leave
            case Echo():
                connection.sendall(Reply(b'{"type":"simple","value":"%b"}' % request.path.encode()).bytes(request_id))
                return True
            case Raw(data):
                connection.sendall(data.replace(b"{id}", request_id.encode()))
                return True
            case CloseWithinAnswer(status):
                connection.sendall(head(status, 10, request_id) + b"half")
            case Silence():
                connection.recv(1)
            case Drip():
                connection.sendall(head(200, 1_000_000, request_id))
                for _ in range(1_000_000):
                    connection.sendall(b" ")
        return False

    def _refuse(self, connection: socket.socket) -> bool:
        data = b""
        while b"\r\n\r\n" not in data:
            received = connection.recv(1024)
            if not received:
                return False
            data += received
        act = self._script.popleft()
        request_id = data.lower().partition(b"x-request-id: ")[2].partition(b"\r\n")[0].decode()
        assert isinstance(act, Refuse)
        connection.sendall(Reply(b"{}", act.status).bytes(request_id))
        return False if act.leave else wait_for_end(connection)


def wait_for_end(connection: socket.socket) -> bool:
    """Wait until the other end has closed, and read nothing; return that no more will come."""
    ended = select.poll()
    ended.register(connection, select.POLLRDHUP)
    ended.poll()
    return False


def head(status: int, length: int, request_id: str) -> bytes:
    """Return the head of an answer that says how long its body is."""
    return f"HTTP/1.1 {status} -\r\nContent-Length: {length}\r\nX-Request-ID: {request_id}\r\n\r\n".encode()


def _read(connection: socket.socket) -> Heard | None:
    data = b""
    while b"\r\n\r\n" not in data:
        received = connection.recv(65536)
        if not received:
            return None
        data += received
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        body += connection.recv(65536)
    return Heard(method, path, headers, body)


def paths(heard: Iterable[Heard]) -> list[str]:
    """Return method and path of each request."""
    return [f"{request.method} {request.path}" for request in heard]

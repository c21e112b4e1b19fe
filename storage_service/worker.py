"""gunicorn's asgi worker, with the credentials of the peer in the scope, and no large request lost to haste.

gunicorn's own scope names neither the socket nor who is at its other end, and Custodia's SimpleCredsAuth needs that.
The protocol class asks the kernel once per connection. It leans on private places of gunicorn 27.0.1 (the name
``ASGIProtocol`` in the worker's module, ``_build_http_scope``, and how a connection waits for its next request),
which is why that version is pinned.
"""

import socket
import struct
from http import HTTPStatus
from typing import Any, Final

from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers import gasgi

from storage_service.authn import PEER_EXTENSION, Peer

MAX_AHEAD: Final = 32 * 1024  # bytes of a next request that gunicorn's parser may keep
_UCRED: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))


class PatientProtocol(ASGIProtocol):
    """An HTTP/1.1 connection that loses no hasty request, starts no task for a request, and quotes nothing in errors.

    A client that has its answer may send the next request before gunicorn's loop has come round to expecting one.
    gunicorn_h1c keeps 64 KiB of such early bytes and gunicorn closes the connection, unanswered, when there were
    more: on a unix socket, every third secret of 512 KiB on one connection. What is over half of that waits here, and
    reading with it.
    """

    def __init__(self, worker: Any) -> None:
        super().__init__(worker)
        self._ahead = 0  # early bytes that the parser keeps
        self._early = bytearray()  # those after them

    def data_received(self, data: bytes) -> None:
        """Take bytes from the socket, in the order they came."""
        if self._early or (self._is_answering() and self._ahead + len(data) > MAX_AHEAD):
            self._early += data
            self._pause_reading()
        else:
            self._ahead = self._ahead + len(data) if self._is_answering() else 0
            super().data_received(data)

    def _resume_reading(self) -> None:
        # gunicorn's loop calls this after each request; then it gives the parser what that had kept, and only then
        # lets anyone else run.
        self._ahead = 0
        if self._early:
            self.worker.loop.call_soon(self._take_early)
        super()._resume_reading()

    def _take_early(self) -> None:
        if self._early and not self._is_answering():
            early, self._early = bytes(self._early), bytearray()
            super().data_received(early)

    def _is_answering(self) -> bool:
        receiver = self._body_receiver
        return receiver is not None and receiver._complete

    async def _serve_http_request(self, request: Any, sockname: Any, peername: Any) -> bool:
        # gunicorn runs the application in a task of its own, for those that go on working after their answer. Ours do
        # not, and the task and its way back were a tenth of the cost of a short request.
        keep_alive: bool = await self._handle_http_request(request, sockname, peername)
        return keep_alive

    def _send_error_response(self, status: int, message: str, extra_headers: Any = ()) -> None:
        # The parser's messages quote from the request, and what is malformed may be a credential.
        del message
        super()._send_error_response(status, HTTPStatus(status).phrase, extra_headers)


class PeerProtocol(PatientProtocol):
    """An HTTP connection that knows the process at its other end, if it is on this machine."""

    _peer: Peer | None = None

    def connection_made(self, transport: Any) -> None:
        """Ask the kernel who connected; a TCP connection has no such answer."""
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family == socket.AF_UNIX:
            self._peer = Peer(*_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))
        super().connection_made(transport)

    def _build_http_scope(self, request: Any, sockname: Any, peername: Any) -> dict[str, Any]:
        scope: dict[str, Any] = super()._build_http_scope(request, sockname, peername)
        if self._peer is not None:
            scope.setdefault("extensions", {})[PEER_EXTENSION] = self._peer
        return scope


class StrongroomWorker(gasgi.ASGIWorker):
    """The asgi worker whose connections are `PeerProtocol`."""

    def init_process(self) -> None:
        """Serve with our protocol class; this runs in the worker's own process, after the fork."""
        serve_with(PeerProtocol)
        super().init_process()


def serve_with(protocol: type[ASGIProtocol]) -> None:
    """Let the worker of this process serve connections with *protocol*."""
    # gunicorn looks for its C parser once, and looks for the answer on its own class, not on ours.
    ASGIProtocol._check_h1c_protocol_available()
    gasgi.ASGIProtocol = protocol

"""gunicorn's asgi worker, with the credentials of the peer in the scope.

gunicorn's own scope names neither the socket nor who is at its other end, and Custodia's SimpleCredsAuth needs that.
The protocol class asks the kernel once per connection. It leans on two private places of gunicorn 27.0.1 (the name
``ASGIProtocol`` in the worker's module, and ``_build_http_scope``), which is why that version is pinned.
"""

import socket
import struct
from typing import Any, Final

from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers import gasgi

from storage_service.authn import PEER_EXTENSION, Peer

_UCRED: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))


class PeerProtocol(ASGIProtocol):
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
        # gunicorn looks for its C parser once, and looks for the answer on its own class, not on ours.
        ASGIProtocol._check_h1c_protocol_available()
        gasgi.ASGIProtocol = PeerProtocol
        super().init_process()

"""The worker classes of the two processes: gunicorn's asgi worker, ending without waiting for those who say nothing.

When told to end, gunicorn 27.0.1's worker notices within a second and then waits, up to ``graceful_timeout``, for
every open connection, also for those that are merely kept alive; clients that pool connections would hold up each
stop that long. Here the worker notices at once, closes the connections on which nobody waits for an answer, and
waits for the others. It leans on private names of that version, as ``storage_service.worker`` does.
"""

import asyncio
import logging
import weakref
from typing import Any

from gunicorn.workers import gasgi

from storage_service.hygiene import harden
from storage_service.worker import PatientProtocol, StrongroomWorker, serve_with


class DrainingWorker(gasgi.ASGIWorker):
    """An asgi worker that knows its connections."""

    async def _serve(self) -> None:
        make = gasgi.ASGIProtocol  # read here: the class that serves may have been put there in init_process
        self._connections: weakref.WeakSet[Any] = weakref.WeakSet()

        def connection(worker: Any) -> Any:
            protocol = make(worker)
            self._connections.add(protocol)
            return protocol

        gasgi.ASGIProtocol = connection
        self._serving = asyncio.current_task()
        await super()._serve()

    def handle_exit_signal(self) -> None:
        """Begin to end, now rather than at the next heartbeat."""
        already = not self.alive
        super().handle_exit_signal()
        if self.servers and not already and self._serving is not None:
            self._serving.cancel()  # gunicorn's loop takes this for the end of its pause, and goes on to shut down

    async def _shutdown(self) -> None:
        for server in self.servers:
            server.close()
        for protocol in list(self._connections):
            if protocol._awaiting_request:
                protocol._keepalive_timeout()
        await super()._shutdown()


class ProxyWorker(DrainingWorker):
    """The worker of the HTTP proxy."""

    def init_process(self) -> None:
        """Serve with our protocol class; this runs in the worker's own process, after the fork."""
        serve_with(PatientProtocol)
        super().init_process()


class StorageWorker(StrongroomWorker, DrainingWorker):
    """The worker of the storage service: it knows the process at the other end of each connection."""

    def init_process(self) -> None:
        """Begin; of the workers of one start the first says why it fails, and the others fail for the same reason."""
        if 1 < self.age <= self.cfg.workers:
            logging.getLogger("gunicorn.error").addFilter(_is_no_startup_failure)
        super().init_process()

    def load_wsgi(self) -> None:
        """Make the application, after closing the process to others anew: a change of user may have opened it."""
        harden()
        super().load_wsgi()


def _is_no_startup_failure(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("ASGI lifespan startup failed")

"""The worker that gunicorn forks: one event loop, which accepts, serves, and ends in good order.

It plugs in where gunicorn documents it (``worker_class``, a subclass of ``gunicorn.workers.base.Worker``). gunicorn's
master keeps what it is good at: signals, sockets, replacing workers. Told to end, a worker stops accepting, closes the
connections on which nobody waits for an answer, and finishes the others; at a reload, the former after a moment.
"""

import asyncio
import contextlib
import errno
import functools
import logging
import os
import re
import signal
import socket
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import uvloop
from gunicorn.workers.base import Worker

from strongroom.deploy.serving.connection import Connection, Exchange, Face, Server, peer_of
from strongroom.deploy.serving.crowd import Crowd
from strongroom.deploy.serving.handshakes import Failures
from strongroom.deploy.serving.limits import Ledger, Limits, raise_descriptors
from strongroom.deploy.serving.signals import SERVING
from strongroom.storage_service.errors import AuditUnavailable, StrongroomError, Unavailable
from strongroom.storage_service.meter import STORAGE, Meter, Refused
from strongroom.storage_service.strangers import network_of
from strongroom.storage_service.traces import trace_of

# The exit codes upon which gunicorn's master ends the server instead of forking another, and which it passes on.
BOOT_ERROR: Final = 3  # what is away may come back: the store, the audit log
FOR_GOOD: Final = 4  # somebody has to mend something first
FIRST_TELLS: Final = 5.0  # seconds for the first worker of a start to say why it failed, and to end the others
TICK: Final = 1.0  # seconds between two looks at deadlines, the parent and the heartbeat
YIELD: Final = 0.002  # seconds that a worker lets others accept, who have fewer connections
ACCEPTED_AT_ONCE: Final = 16  # connections, before others get their turn on the event loop
EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
FAREWELL: Final = 1.0  # seconds that idle connections are left when this worker is replaced, to say that it ends
PAUSE: Final = 0.1  # seconds without accepting, when the process or the machine has no descriptors left

log = logging.getLogger(__name__)


class Application(Face, Protocol):
    """A face with a beginning and an end."""

    async def open(self) -> None:
        """Open what it needs; raises `StrongroomError` when it cannot serve."""

    async def close(self) -> None:
        """Close it, when the last answer is out."""


@dataclass(frozen=True, slots=True)
class Served:
    """What gunicorn loads in each worker, where others load a WSGI application."""

    application: Application
    limits: Limits
    tls: ssl.SSLContext | None  # made before the fork; None: plain HTTP
    crowd: Crowd
    meter: Meter = field(default_factory=lambda: Meter(STORAGE))  # made before the fork, to be of all workers
    always: bytes = b""  # header lines that every answer carries

    def __call__(self, exchange: Exchange) -> Coroutine[Any, Any, None] | None:
        """Be the application, for gunicorn loads nothing else than what can be called."""
        return self.application(exchange)


class StrongroomWorker(Worker):
    """Serves one application on the listeners that it was forked with."""

    wsgi: Served

    def init_signals(self) -> None:
        """Leave the signals as they are until there is a loop to take them: what comes before that ends the worker."""
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        for number in (signal.SIGUSR1, signal.SIGWINCH):
            signal.signal(number, signal.SIG_IGN)

    def run(self) -> None:
        """Serve until told to end."""
        raise_descriptors()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = runner.run(self._serve())
        if code:
            raise SystemExit(code)

    async def _serve(self) -> int:
        """Serve, and return the exit code."""
        served: Served = self.wsgi
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_unhandled)
        told = asyncio.Event()
        reloads = served.crowd.reloads
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            loop.add_signal_handler(number, told.set)
        loop.add_signal_handler(signal.SIGUSR1, self.log.reopen_files)
        served.meter.sit(self.age)
        ledger = Ledger(served.limits, functools.partial(self._tell, served, told))
        server = Server(served.application, ledger, served.limits, loop, served.meter, always=served.always)
        ticker = asyncio.create_task(self._tick(server, told))
        try:
            if await _unless(told, served.application.open()):
                await self._accept(server, served, told, reloads)
                await served.application.close()
        except StrongroomError as error:
            if not await self._told_by_the_first(told):
                log.error("%s", error, extra={"next": error.next})  # noqa: TRY400  # its text is the whole story
            return BOOT_ERROR if isinstance(error, Unavailable | AuditUnavailable) else FOR_GOOD
        finally:
            served.crowd.leave(self.age)
            served.meter.leave(self.age)
            ticker.cancel()
        return 0

    async def _told_by_the_first(self, told: asyncio.Event) -> bool:
        """Whether another worker tells why none can start: all of one start fail for the same reason.

        A worker that ends so ends the others, too; so the first is waited for, or the reason would be lost.
        """
        if not 1 < self.age <= self.cfg.workers:
            return False
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(told.wait(), FIRST_TELLS)
        return told.is_set()

    def _tell(self, served: Served, told: asyncio.Event, count: int) -> None:
        """Tell the other workers the count, as long as anybody comes to this one."""
        served.meter.connected(count)
        if not told.is_set():
            served.crowd.tell(self.age, count)

    async def _accept(self, server: Server, served: Served, told: asyncio.Event, reloads: int) -> None:
        """Let connections in until told to end, and then let what is under way finish.

        Where others take its place, there have been more than *reloads*, and who is idle hears in its next answer that
        the connection ends: closed under it, the request that it may be sending would be lost.
        """
        served.crowd.tell(self.age, 0)
        doors = [
            Door(server, socket.socket(fileno=os.dup(listener.fileno())), served.tls, served.crowd, self.age)
            for listener in self.sockets
        ]
        if os.getppid() == self.ppid:
            os.kill(self.ppid, SERVING)
        await told.wait()
        served.crowd.leave(self.age)
        for door in doors:
            door.close()
        for listener in self.sockets:
            listener.close()  # or the kernel would go on letting in who finds nobody here
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.cfg.graceful_timeout):
                await server.drain(FAREWELL if served.crowd.reloads != reloads else 0.0)
        server.abort()

    async def _tick(self, server: Server, told: asyncio.Event) -> None:
        while True:
            self.notify()
            server.tick()
            if os.getppid() != self.ppid:  # the master is gone, and nobody would ever end us
                told.set()
            await asyncio.sleep(TICK)


class Door:
    """One listener of one worker: accepts while the worker has no more connections than its fellows."""

    def __init__(
        self, server: Server, listener: socket.socket, context: ssl.SSLContext | None, crowd: Crowd, number: int
    ) -> None:
        """Take the listener, the context to speak TLS with, and what tells the *number* how others fare."""
        self._server = server
        self._socket = listener
        self._socket.setblocking(False)
        self._context = context
        self._crowd = crowd
        self._number = number
        self._connecting: set[asyncio.Task[None]] = set()
        self._failures = Failures(server.loop)
        self._later: asyncio.TimerHandle | None = None
        self._listen()

    def close(self) -> None:
        """Accept no more; handshakes under way go on."""
        self._server.loop.remove_reader(self._socket)
        self._socket.close()
        if self._later is not None:
            self._later.cancel()

    def _listen(self) -> None:
        self._later = None
        self._server.loop.add_reader(self._socket, self._ready)

    def _ready(self) -> None:
        count = len(self._server.ledger)
        if self._crowd.has_less(self._number, count):
            self._pause(YIELD, self._accept_after_all)
        else:
            self._accept()

    def _pause(self, seconds: float, then: Callable[[], None]) -> None:
        self._server.loop.remove_reader(self._socket)
        self._later = self._server.loop.call_later(seconds, then)

    def _accept_after_all(self) -> None:
        """Accept one: the others had their time, and did not."""
        self._listen()
        self._accept()

    def _accept(self) -> None:
        server = self._server
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                accepted, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    raise
                log.error("no connection can be accepted: %s", error.strerror)  # noqa: TRY400
                self._pause(PAUSE, self._listen)
                return
            self._welcome(accepted, address)
            if self._crowd.has_less(self._number, len(server.ledger)):
                return

    def _welcome(self, accepted: socket.socket, address: Any) -> None:
        server = self._server
        accepted.setblocking(False)
        peer = peer_of(accepted)
        client = "" if peer is not None else str(address[0])
        counted = network_of(client) if peer is None else f"uid {peer.uid}"
        if not server.ledger.enter(counted):
            server.meter.refuse(Refused.CROWDED)
            accepted.close()
            return
        scheme = "http" if self._context is None else "https"
        connection = Connection(server, accepted, counted, client, scheme)
        if peer is None:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        handshake = None if self._context is None else server.limits.head
        connecting = server.loop.connect_accepted_socket(
            lambda: connection, accepted, ssl=self._context, ssl_handshake_timeout=handshake
        )
        task = connection.handshake = server.loop.create_task(connecting)
        self._connecting.add(task)
        task.add_done_callback(functools.partial(self._connected, accepted, connection))

    def _connected(self, accepted: socket.socket, connection: Connection, task: asyncio.Task[Any]) -> None:
        """Leave nothing of a connection that did not come about, be it that its task never began."""
        self._connecting.discard(task)
        connection.handshake = None
        error = None if task.cancelled() else task.exception()
        if error is None and not task.cancelled():
            return
        if connection.transport is None:
            self._server.leave(connection)
        accepted.close()
        if not isinstance(error, OSError | None):
            raise error
        if error is not None and self._context is not None:  # ssl.SSLError is one: a handshake that came to nothing
            self._failures.note(error, connection.client)
            self._server.meter.refuse(Refused.HANDSHAKE)


def _unhandled(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Tell of what broke on the event loop; of asyncio's words what comes before those that were passed about."""
    what = re.split(r"[(<'\"]", str(context.get("message", "")), maxsplit=1)[0].strip(" :")
    error = context.get("exception")
    log.error("on the event loop: %s%s", what, f": {trace_of(error)}" if error is not None else "")


async def _unless(told: asyncio.Event, opening: Coroutine[Any, Any, None]) -> bool:
    """Let *opening* come to its end, and return True; False if *told* was set before, which ends it."""
    task, ended = asyncio.create_task(opening), asyncio.create_task(told.wait())
    await asyncio.wait((task, ended), return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        await asyncio.wait((task,))
        return False
    ended.cancel()
    task.result()
    return not told.is_set()

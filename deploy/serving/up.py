"""``strongroom up``: both processes in the foreground, from one command, on a home that it makes if there is none.

The parent imports what both need, then forks one gunicorn each, so that they share those pages; it opens no store,
loads no key and starts no thread. It binds both addresses itself, asks both processes whether they are ready, and
from then on only waits: for a signal, upon which it drains the proxy and then the service, or for a child that ends
unbidden, upon which it ends the other. Each child leads a process group of its own, so that a terminal's Ctrl-C
reaches the parent alone; the kernel tells the children if the parent dies (PR_SET_PDEATHSIG).
"""

import gc
import importlib
import logging.config
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from strongroom.deploy.home import Home, write_client
from strongroom.deploy.serving import log
from strongroom.deploy.serving.look import look
from strongroom.deploy.serving.server import Role, Server, listener, make_directories, options, rehearse
from strongroom.deploy.serving.signals import ASK_FOR_THE_END, HELD_BACK, asked_for_the_end, held_back, let_through
from strongroom.deploy.serving.tls import Holder, holder
from strongroom.deploy.settings import Settings, load
from strongroom.models.strict_json import UNREADABLE
from strongroom.storage_service.client.file import ClientFile
from strongroom.storage_service.errors import StartupError, StrongroomError
from strongroom.storage_service.hardening import PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG, harden, prctl
from strongroom.storage_service.traces import trace_of
from strongroom.storage_service.wire.login import url_address

READY_WITHIN: Final = 30.0  # seconds for both to become ready; gunicorn gives an application as long to start
POLL: Final = 0.02  # seconds between two questions for readiness
_READINESS: Final = 4096  # bytes of an answer about readiness, at most
ORPHANS: Final = 2.0  # seconds for the workers of a killed child to follow it
_SHARED: Final = (
    "strongroom.storage_service.http.app",
    "strongroom.http_proxy.app",
    "strongroom.deploy.serving.workers",
    "uvloop",
    "httptools",
)


class Failed(StartupError):
    """A process did not start, or ended unbidden; what it said itself is in the log above."""


@dataclass(frozen=True, slots=True)
class Running:
    """What runs, and where; shown when it is ready."""

    home: Path
    settings: Settings
    client: ClientFile


def up(
    home: Path,
    *,
    environ: Mapping[str, str],
    flags: Mapping[str, object],
    sets: Mapping[str, str],
    ready: Callable[[Running], None],
    level: str = "WARNING",
) -> None:
    """Run both processes until a signal ends them; one that comes while they start is waited for like any other.

    Args:
        home: the directory to live in; made if it is not there.
        environ: the environment.
        flags: settings given on the command line.
        sets: what ``--set`` said.
        ready: called once, when both are ready.
        level: the lowest level that is logged.

    Raises:
        ConfigurationError: the settings are wrong, a certificate or key cannot be served, the home is in use or not
            private, or an address is taken.
        Traced: a debugger is attached to this process.
        Failed: a process did not start, or ended unbidden; the other was ended.
    """
    harden()  # first: the children inherit it, and so no process that holds anything was ever open
    with held_back():  # from before the first file on, so that no signal leaves one
        _up(Home(home), environ=environ, flags=flags, sets=sets, ready=ready, level=level)


def _up(
    home: Home,
    *,
    environ: Mapping[str, str],
    flags: Mapping[str, object],
    sets: Mapping[str, str],
    ready: Callable[[Running], None],
    level: str,
) -> None:
    # Before anything is made:
    rehearse(load(environ=environ, home=home.path, flags=flags, sets=sets, without_key=True))
    home.prepare()
    with home.lock():
        home.furnish()
        settings = load(environ=environ, home=home.path, flags=flags, sets=sets)
        rehearse(settings)
        look(settings, by_up=True)
        make_directories(settings)
        tls = holder(settings.proxy)  # before anything listens
        with _Sockets(settings) as sockets:
            client = ClientFile(sockets.url, settings.service.socket, settings.service.api_id, settings.service.api_key)
            client = replace(client, ca=ClientFile.read(home.client).ca if home.client.exists() else None)
            write_client(client, home.client)
            with _Family(settings.grace) as family:
                if (asked := asked_for_the_end()) is not None:
                    _tell_the_end(asked, settings)
                    return
                storage = family.start(Role.STORAGE, _spoken_to(settings, sockets.url), sockets, level)
                proxy = family.start(Role.PROXY, settings, sockets, level, tls)
                sockets.let_go()
                if family.wait_until_ready(sockets.storage_ready) and family.wait_until_ready(sockets.proxy_ready):
                    ready(Running(home.path, settings, client))
                    family.wait_for_the_end()
                _tell_the_end(family.asked_by, settings)
                family.stop(proxy)
                family.stop(storage)


def _spoken_to(settings: Settings, url: str) -> Settings:
    """Return the settings of a service that is spoken to at *url*, too: which port it is may be known only now."""
    addresses = dict.fromkeys((*settings.service.addresses, url_address(url)))
    return replace(settings, service=replace(settings.service, addresses=tuple(addresses)))


def _tell_the_end(asked_by: signal.Signals, settings: Settings) -> None:
    """Log which signal ends all of this: who finds it ended in the morning is not to guess."""
    logging.config.dictConfig(log.configuration(settings.log_format, "INFO", settings.home))  # the children have theirs
    logging.getLogger(__name__).info("%s: the proxy ends, then the service", asked_by.name)


class _Sockets:
    """The two bound sockets, and how to ask behind them. Leaving removes the unix socket's file."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.service.socket
        self._tls = settings.proxy.tls_certificate is not None
        self._certified = settings.proxy.tls_client_certificates == "required"
        self._bound = {Role.STORAGE: listener(Role.STORAGE, settings)}
        try:
            self._bound[Role.PROXY] = listener(Role.PROXY, settings)
        except BaseException:
            self.__exit__()
            raise
        host, port = self._bound[Role.PROXY].getsockname()[:2]
        wildcard = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # where to reach what listens everywhere
        self._address = (wildcard.get(host, host), port)
        named = f"[{self._address[0]}]" if ":" in self._address[0] else self._address[0]
        self.url = f"{'https' if self._tls else 'http'}://{named}:{port}"

    def __enter__(self) -> "_Sockets":
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()
        self._path.unlink(missing_ok=True)

    def take(self, role: Role) -> str:
        """Return gunicorn's name for the socket of *role*, and close the other; called in the child."""
        descriptor = self._bound.pop(role).detach()
        self.let_go()
        return f"fd://{descriptor}"

    def let_go(self) -> None:
        """Close this process' ends."""
        for bound in self._bound.values():
            bound.close()

    def storage_ready(self) -> bool:
        """Whether the service says that it is ready."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1.0)
            connection.connect(str(self._path))
            return _says_ready(connection)

    def proxy_ready(self) -> bool:
        """Whether the proxy does."""
        with socket.create_connection(self._address, timeout=1.0) as connection:
            if not self._tls:
                return _says_ready(connection)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False  # this asks whether it is up, not who it is; nothing is sent that matters
            context.verify_mode = ssl.CERT_NONE
            try:
                with context.wrap_socket(connection) as wrapped:
                    return self._certified or _says_ready(wrapped)
            except ssl.SSLError:
                # It wants a certificate, which we have not: a worker is there, and refuses strangers as it should.
                if self._certified:
                    return True
                raise


def _says_ready(connection: socket.socket) -> bool:
    """Return whether what listens has all that it needs: one that waits to be unlocked has, whatever balancers hear."""
    connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: strongroom\r\nConnection: close\r\n\r\n")
    answer = b""
    while len(answer) < _READINESS and (piece := connection.recv(_READINESS)):
        answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.split(b" ", 2)[1:2] == [b"200"]:
        return True
    try:
        return all(msgspec.json.decode(body)["checks"].values())
    except (*UNREADABLE, KeyError, TypeError, AttributeError):
        return False


@dataclass(slots=True)
class _Child:
    """One forked gunicorn, leader of its process group."""

    role: Role
    pid: int
    status: int | None = None  # as waitpid(2) gives it, once it has ended

    @property
    def end(self) -> str:
        """How it ended, in words."""
        code = os.waitstatus_to_exitcode(self.status or 0)
        how = f"was ended by signal {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return f"the {'storage service' if self.role is Role.STORAGE else 'HTTP proxy'} {how}"


class _Family:
    """The children. Signals are held back, and waited for in here, so that nothing happens between two lines.

    Leaving ends every child that is left, and everything that descends from one.
    """

    def __init__(self, grace: int) -> None:
        self.asked_by = signal.SIGTERM  # what asked for the end, once something has
        self._grace = grace
        self._children: list[_Child] = []

    def __enter__(self) -> "_Family":
        for name in _SHARED:
            importlib.import_module(name)
        prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphans come to this process, which can then wait for them
        gc.collect()
        gc.freeze()  # what is here stays out of the collections of the children, and its pages stay shared
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            _end_group(child.pid)

    def start(self, role: Role, settings: Settings, sockets: _Sockets, level: str, tls: Holder | None = None) -> _Child:
        """Fork *role*."""
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._be(role, settings, sockets, level, parent, tls=tls)
        with suppress(ProcessLookupError, PermissionError):
            os.setpgid(pid, pid)  # in both processes, so that it is done whichever comes first
        child = _Child(role, pid)
        self._children.append(child)
        return child

    def _be(
        self, role: Role, settings: Settings, sockets: _Sockets, level: str, parent: int, *, tls: Holder | None
    ) -> NoReturn:
        """Be the child; never return into what the parent was doing."""
        code: int | str | None = 1
        try:
            os.setpgid(0, 0)
            follow(parent)
            let_through()
            configured = options(role, settings, bind=sockets.take(role), level=level, tls=tls)
            configured["post_fork"] = lambda arbiter, _: follow(arbiter.pid)
            Server(role, settings, configured, tls).run()
        except SystemExit as end:
            code = end.code
        except BaseException as error:  # noqa: BLE001  # whatever it is, it is told, and the child ends
            said = str(error) if isinstance(error, StrongroomError) else f"unexpected {trace_of(error)}"
            sys.stderr.write(f"strongroom: {role}: {said}\n")
        finally:
            with suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 0 if code is None else 1)

    def wait_until_ready(self, asked: Callable[[], bool]) -> bool:
        """Return True when *asked* says so, False when a signal asks for the end meanwhile.

        Raises:
            Failed: a child ended, or it takes too long.
        """
        deadline = time.monotonic() + READY_WITHIN
        while time.monotonic() < deadline:
            with suppress(OSError):
                if asked():
                    return True
            if self._ended(POLL):
                return False
        raise Failed(f"not ready after {READY_WITHIN:.0f} seconds; the output of the processes is above")

    def wait_for_the_end(self) -> None:
        """Return when a signal asks for the end.

        Raises:
            Failed: a child ended unbidden.
        """
        while not self._ended(None):
            pass

    def _ended(self, seconds: float | None) -> bool:
        """Wait for one signal; return whether it asks for the end."""
        got = signal.sigwaitinfo(HELD_BACK) if seconds is None else signal.sigtimedwait(HELD_BACK, seconds)
        if got is None:
            return False
        if got.si_signo in ASK_FOR_THE_END:
            self.asked_by = signal.Signals(got.si_signo)
            return True
        for child in self._children:
            if self._reap(child):
                raise Failed(f"{child.end}; its output is above")
        return False

    def _reap(self, child: _Child) -> bool:
        """Return whether *child* has ended; other descendants that ended are buried on the way."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                pid, status = 0, 0
            if pid == 0:
                return child.status is not None
            for each in self._children:
                if each.pid == pid:
                    each.status = status

    def stop(self, child: _Child) -> None:
        """Let *child* finish what is under way and end; a second signal, or too long, and it is not asked again."""
        with suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + self._grace + ORPHANS
        while not self._reap(child) and time.monotonic() < deadline:
            got = signal.sigtimedwait(HELD_BACK, 1.0)
            if got is not None and got.si_signo in ASK_FOR_THE_END:
                break
        _end_group(child.pid)


def _end_group(group: int) -> None:
    """End whatever is left of a process group, and wait until it is gone."""
    deadline = time.monotonic() + ORPHANS
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
        while True:
            try:
                pid, _ = os.waitpid(-group, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                if number is signal.SIGTERM and time.monotonic() > deadline:
                    break
                signal.sigtimedwait({signal.SIGCHLD}, POLL)


def follow(parent: int) -> None:
    """Let this process be told to end when *parent* dies."""
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the line above
        os.kill(os.getpid(), signal.SIGTERM)

"""gunicorn, told once how to serve each of the two processes: in one command, under systemd, or started by itself.

`options` is the whole of its configuration; ``strongroom.deploy.serving.gunicorn`` offers the same to a plain
``gunicorn -c``.
"""

import errno
import os
import signal
import socket
import stat
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NoReturn

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from strongroom.deploy.serving import log
from strongroom.deploy.serving.crowd import Crowd
from strongroom.deploy.serving.limits import Limits
from strongroom.deploy.serving.listeners import listener_at
from strongroom.deploy.serving.signals import lose_no_signal_in_a_fork, tell_systemd_when_serving
from strongroom.deploy.serving.tls import Holder, holder
from strongroom.deploy.serving.workers import Served
from strongroom.deploy.settings import Settings
from strongroom.models.secret import Secret
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.hardening import harden
from strongroom.storage_service.keyring.ceremonies.sharing import SharedRoot
from strongroom.storage_service.meter import PROXY, STORAGE, Meter

FOR_BROWSERS: Final = (
    b"x-content-type-options: nosniff\r\ncontent-security-policy: default-src 'none'; frame-ancestors 'none'\r\n"
    b"referrer-policy: no-referrer\r\n"
)
"""What keeps a browser from taking an answer for a page, on every answer of the proxy."""
ONLY_TLS: Final = b"strict-transport-security: max-age=31536000\r\n"
"""That a browser is to come by TLS alone for a year (RFC 6797), where the proxy serves TLS."""
HEARTBEAT: Final = 30  # seconds without a sign of life after which gunicorn replaces a worker


class Role(StrEnum):
    """Which of the two processes."""

    STORAGE = "storage"
    PROXY = "proxy"


def make_app(
    role: Role,
    settings: Settings,
    crowd: Crowd,
    meter: Meter,
    *,
    shared: SharedRoot | None = None,
    tls: Holder | None = None,
) -> Served:
    """Return what a worker of *role* serves; it opens nothing before the worker's loop runs.

    Args:
        role: which process.
        settings: what the operator said.
        crowd: what the workers tell each other; made before they were forked.
        meter: what they count; likewise.
        shared: what the storage service's workers share; likewise.
        tls: what the proxy shows; loaded before its workers were forked.
    """
    harden()  # anew: a change of user may have opened the process
    if role is Role.STORAGE:
        from strongroom.deploy.old_places import old_place
        from strongroom.storage_service.http.app import create_app

        storage = create_app(settings.service, shared, old_place, _renewal(), meter)
        return Served(storage, Limits(), None, crowd, meter)
    from strongroom.http_proxy.app import create_app as create_proxy

    expiry = tls.current.not_after.timestamp() if tls else None
    application = create_proxy(settings.proxy, tls.notes if tls else tuple, meter, expiry)
    always = FOR_BROWSERS + (ONLY_TLS if tls else b"")
    return Served(application, Limits(), tls.current.context if tls else None, crowd, meter, always)


def make_meter(role: Role) -> Meter:
    """Return what the workers of *role* count in; made before they are forked."""
    return Meter(STORAGE if role is Role.STORAGE else PROXY)


def _renewal() -> Callable[[], None]:
    """Return what lets new workers take the place of all, as gunicorn's master does at a SIGHUP; called in a worker."""
    master = os.getppid()

    def renew() -> None:
        if os.getppid() == master:  # else it is gone, and this worker is about to follow
            os.kill(master, signal.SIGHUP)

    return renew


def rehearse(settings: Settings) -> None:
    """Make of the settings what can be made before a fork, so that what is wrong with them is told in one line.

    Stores and old places are left out: gRPC, which etcd's need, does not survive a fork.

    Raises:
        ConfigurationError: a storage handler, an authenticator of the proxy or a path cannot be as it is said.
    """
    from strongroom.http_proxy.app import create_app
    from strongroom.storage_service.routing import plan

    plan(settings.service.storage_handlers, settings.service.store)
    create_app(settings.proxy if settings.proxy.api_key else replace(settings.proxy, api_key=Secret("not made yet")))


def rehearse_stores(settings: Settings) -> None:
    """Make the stores and old places without opening them; not for who forks afterwards.

    Raises:
        ConfigurationError: a store's URL, an old place or one of their options cannot be as it is said.
    """
    from strongroom.deploy.old_places import old_place
    from strongroom.storage_service.backends import open_backend
    from strongroom.storage_service.routing import plan

    open_backend(settings.service.store)
    for assignment in plan(settings.service.storage_handlers, settings.service.store):
        open_backend(assignment.store.url, **dict(assignment.store.options))
    for old in settings.service.read_through:
        old_place(old)


def options(
    role: Role, settings: Settings, *, bind: str | None = None, level: str = "INFO", tls: Holder | None = None
) -> dict[str, Any]:
    """Return gunicorn's settings for *role*.

    Args:
        role: which process.
        settings: what the operator said.
        bind: an inherited listener, ``fd://N``; None: bind what the settings name.
        level: the lowest level that is logged; debugging, when switched on, overrules it.
        tls: the pair that the proxy shows, loaded.

    Raises:
        RuntimeError: the settings name a certificate and none was loaded: nothing is served without TLS then.
    """
    level = "DEBUG" if settings.debug else level
    common = {
        "on_starting": _starting(tls),
        "proc_name": f"strongroom-{role}",
        "workers": settings.proxy_workers if role is Role.PROXY else settings.workers,
        "worker_class": "strongroom.deploy.serving.workers.StrongroomWorker",
        "timeout": HEARTBEAT,
        "graceful_timeout": settings.grace,
        "umask": settings.umask,
        "worker_tmp_dir": "/dev/shm" if os.access("/dev/shm", os.W_OK) else None,  # noqa: S108  # unlinked at once
        "control_socket_disable": True,  # a way in that nobody here uses, and a thread before the fork
        "logger_class": "strongroom.deploy.serving.log.NoAccessLog",
        "accesslog": None,
        "errorlog": None,
        "loglevel": level.lower(),
        "logconfig_dict": log.configuration(settings.log_format, level, settings.home, tls=tls is not None),
    }
    if role is Role.PROXY:
        if settings.proxy.tls_certificate and tls is None:
            raise RuntimeError("TLS is configured, and no certificate was loaded")
        return common | {"bind": bind or settings.proxy.listen}
    return common | {
        "bind": bind or f"unix:{settings.service.socket}",
        "when_ready": _set_socket_mode(settings),
    }


def reloading(crowd: Crowd, tls: Holder | None) -> Callable[[Any], None]:
    """Return the hook for SIGHUP, which comes before the new workers are forked and the old ones told to end."""

    def on_reload(_: Any) -> None:
        crowd.reload()
        if tls is not None:
            tls.renew()

    return on_reload


def _starting(tls: Holder | None) -> Callable[[Any], None]:
    """Return the hook for the process that forks the workers: once there is a log, and before anything listens."""

    def on_starting(_: Any) -> None:
        harden()  # before there is a worker, which has the keys, or passes secrets on
        if tls is not None:
            tls.announce()
        tell_systemd_when_serving()
        lose_no_signal_in_a_fork()

    return on_starting


def _set_socket_mode(settings: Settings) -> Callable[[Any], None]:
    """Return a hook that opens the socket to its group: it was bound under the umask, open to its owner alone."""

    def when_ready(arbiter: Any) -> None:
        if not arbiter.systemd and settings.service.socket.exists():
            settings.service.socket.chmod(settings.service.socket_mode)

    return when_ready


class Server(BaseApplication):
    """One gunicorn, configured by us alone: no file of the working directory and no GUNICORN_CMD_ARGS has a say.

    Workers share pages of memory, made here, in the process that forks them: they stay what they are when workers are
    replaced, one by one or all of them by SIGHUP. So does the certificate that was loaded here, until a SIGHUP.
    """

    def __init__(
        self, role: Role, settings: Settings, configured: Mapping[str, Any], tls: Holder | None = None
    ) -> None:
        self.tls = tls
        self._role = role
        self._settings = settings
        self._configured = configured
        self._crowd = Crowd()
        self._meter = make_meter(role)
        self._shared = SharedRoot() if role is Role.STORAGE else None
        super().__init__(prog=f"strongroom serve {role}")

    def load_config(self) -> None:
        """Give gunicorn its settings."""
        for name, value in self._configured.items():
            self.cfg.set(name, value)
        self.cfg.set("on_reload", reloading(self._crowd, self.tls))
        self.cfg.set("child_exit", self._gone)

    def load(self) -> Any:
        """Return what is served; called in each worker."""
        return make_app(self._role, self._settings, self._crowd, self._meter, shared=self._shared, tls=self.tls)

    def _gone(self, _: Any, worker: Any) -> None:
        """Forget what a worker had under way that ended, or was ended, before it could say so."""
        self._crowd.leave(worker.age)
        self._meter.leave(worker.age)

    def run(self) -> NoReturn:
        """Serve until told to end.

        Raises:
            SystemExit: always; code 0 after an orderly end.
        """
        try:
            Arbiter(self).run()
        except HaltServer as halt:
            # gunicorn stumbles over a second worker that fails while the first one's failure ends the server.
            raise SystemExit(halt.exit_status) from None
        raise SystemExit(0)


def serve(role: Role, settings: Settings) -> NoReturn:
    """Run one process in the foreground, on the sockets that systemd hands over, or on its own.

    Raises:
        Traced: a debugger is attached to this process.
        ConfigurationError: its certificate and key cannot be served, or it cannot listen where the settings say.
        SystemExit: when it has ended.
    """
    harden()  # before there is a page that could be opened
    tls = holder(settings.proxy) if role is Role.PROXY else None  # before anything listens
    inherited = os.environ.get("LISTEN_PID") == str(os.getpid()) or "GUNICORN_FD" in os.environ
    bind = None if inherited else f"fd://{listener(role, settings).detach()}"
    Server(role, settings, options(role, settings, bind=bind, tls=tls), tls).run()


def listener(role: Role, settings: Settings) -> socket.socket:
    """Return the bound socket of *role*; gunicorn makes it listen.

    Raises:
        ConfigurationError: the address is taken, or does not belong to this machine.
    """
    if role is Role.STORAGE:
        return _bind_unix(settings.service.socket, settings.service.socket_mode)
    return _bind_tcp(settings.proxy.listen)


def _bind_tcp(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, int(port)))
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            who = listener_at(int(port))
            raise ConfigurationError(f"{who} listens at {address} already; choose another with --listen") from None
        raise ConfigurationError(f"cannot listen at {address}: {error.strerror}") from None
    return bound


def _bind_unix(path: Path, mode: int) -> socket.socket:
    """Return a socket bound to *path*; what a killed process left there goes, what still listens there stays."""
    if path.exists():
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise ConfigurationError(f"{path} is in the way and is not a socket")
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
            except OSError as error:
                raise ConfigurationError(f"{path}: {error.strerror}") from None
            else:
                raise ConfigurationError(f"something listens at {path} already; stop that first")
    bound = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)  # nobody else gets in before the mode is set
    try:
        bound.bind(str(path))
        path.chmod(mode)
    except OSError as error:
        bound.close()
        raise ConfigurationError(f"cannot listen at {path}: {error.strerror}") from None
    finally:
        os.umask(before)
    return bound


def make_directories(settings: Settings) -> None:
    """Make the directories of the service's files, if the settings say so (Custodia's ``makedirs``).

    Raises:
        ConfigurationError: one is missing and not to be made, or cannot be made.
    """
    for directory in settings.directories():
        if directory.is_dir():
            continue
        if not settings.makedirs:
            raise ConfigurationError(f"{directory} does not exist; make it, or say makedirs = true")
        try:
            directory.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"{directory}: {error.strerror}") from None

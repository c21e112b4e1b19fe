"""Processes under test: gunicorn with our worker, on a listener that the test opened."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

# What the processes ask of gunicorn; strongroom.deploy.serving.server gives them the same.
GUNICORN = """
from strongroom.deploy.serving.crowd import Crowd
from strongroom.deploy.serving.signals import lose_no_signal_in_a_fork, tell_systemd_when_serving

crowd = Crowd()
worker_class = "strongroom.deploy.serving.workers.StrongroomWorker"
graceful_timeout = 1
control_socket_disable = True
loglevel = "debug"


def on_starting(arbiter):
    tell_systemd_when_serving()
    lose_no_signal_in_a_fork()


def on_reload(arbiter):
    crowd.reload()


def child_exit(arbiter, worker):
    crowd.leave(worker.age)
"""

# What an application's module ends with: the names that a test sets otherwise stand in *limits*.
SERVED = """
from strongroom.deploy.serving.limits import Limits
from strongroom.deploy.serving.workers import Served
from gunicorn_conf import crowd

served = Served(app, Limits({limits}), None, crowd)
"""


# The two applications as the product makes them.
PROXY = """
from pathlib import Path
from strongroom.http_proxy.app import create_app
from strongroom.models.secret import Secret
from strongroom.storage_service.config import ProxySettings

app = create_app(ProxySettings(
    socket=Path({socket!r}), api_id="proxy", api_key=Secret({key!r}), connections={connections}, timeout={timeout},
    authenticators=(("apikey", {{}}), ("basic", {{"filepath": {users!r}}})),
))
"""

SERVICE = """
from pathlib import Path
from strongroom.models.secret import Secret
from strongroom.storage_service.http.app import create_app
from strongroom.storage_service.config import ProxyKey, ServiceSettings

home = Path({home!r})
app = create_app(ServiceSettings(
    socket=home / "s", audit_log=home / "audit.log", root_key=home / "secrets.key", store=f"sqlite:{{home}}/store.db",
    api_id="own", api_key=Secret({key!r}),
    proxy=ProxyKey(api_id="proxy", api_key=Secret({key!r})), users_file=Path({users!r}),
))
"""


@dataclass(frozen=True)
class Running:
    """A gunicorn that runs: its master, and where all of it logs."""

    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def workers(self) -> set[int]:
        """The processes that serve."""
        pid = self.process.pid
        return {int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


@contextmanager
def gunicorn(
    home: Path,
    application: str,
    *,
    listener: socket.socket,
    limits: str = "",
    workers: int = 1,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """Serve *application*, the source text of a module that makes ``app``, a face.

    Connections wait in the listener until a worker runs, so nobody has to wait for it. *limits* are arguments for
    `Limits`, in Python.
    """
    name = f"app_{home.name.replace('-', '_')}"
    (home / f"{name}.py").write_text(application + SERVED.format(limits=limits))
    (home / "gunicorn_conf.py").write_text(
        GUNICORN + f'bind = "fd://{listener.fileno()}"\nwsgi_app = "{name}:served"\nworkers = {workers}\n'
    )
    log = home / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-c", "python:gunicorn_conf"],
            cwd=home,
            env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{home}"} | dict(environ or {}),
            pass_fds=[listener.fileno()],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Running(process, log)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def tcp_listener() -> socket.socket:
    """Return a listener on a free port of the loopback."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    return listener


def unix_listener(path: Path) -> socket.socket:
    """Return a listener on a unix socket."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1024)
    return listener

"""Processes under test: gunicorn with our worker, on a listener that the test opened."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]

# What the processes ask of gunicorn; deploy.serving.server gives them the same.
GUNICORN = """
from deploy.serving.signals import lose_no_signal_in_a_fork, tell_systemd_when_serving

worker_class = "deploy.serving.workers.StrongroomWorker"
graceful_timeout = 1
control_socket_disable = True
loglevel = "debug"


def on_starting(arbiter):
    tell_systemd_when_serving()
    lose_no_signal_in_a_fork()
"""

# What an application's module ends with: the names that a test sets otherwise stand in *limits*.
SERVED = """
from deploy.serving.crowd import Crowd
from deploy.serving.limits import Limits
from deploy.serving.workers import Served

served = Served(app, Limits({limits}), None, Crowd())
"""


@contextmanager
def gunicorn(home: Path, application: str, *, listener: socket.socket, limits: str = "") -> Iterator[Path]:
    """Serve *application*, the source text of a module that makes ``app``, a face; yield the path of the log.

    Connections wait in the listener until the worker runs, so nobody has to wait for it. *limits* are arguments for
    `Limits`, in Python.
    """
    name = f"app_{home.name.replace('-', '_')}"
    (home / f"{name}.py").write_text(application + SERVED.format(limits=limits))
    (home / "gunicorn_conf.py").write_text(
        GUNICORN + f'bind = "fd://{listener.fileno()}"\nwsgi_app = "{name}:served"\n'
    )
    log = home / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-c", str(home / "gunicorn_conf.py")],
            cwd=home,
            env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{home}"},
            pass_fds=[listener.fileno()],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield log
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

"""Processes under test: gunicorn with its asgi worker, on a listener that the test opened."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]

# What the proxy asks of gunicorn; deploy.serving.server gives it the same.
GUNICORN = """
worker_class = "asgi"
asgi_loop = "uvloop"
asgi_lifespan = "on"
http_protocols = "h1"
keepalive = 75
graceful_timeout = 1
limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 8190
header_map = "drop"
forwarder_headers = "CUSTODIA_AUTH_ID,CUSTODIA_AUTH_KEY,CUSTODIA_KEY_ID"
forwarded_allow_ips = "*"
secure_scheme_headers = {}
control_socket_disable = True
loglevel = "debug"
"""


@contextmanager
def gunicorn(home: Path, application: str, *, listener: socket.socket, worker: str = "asgi") -> Iterator[Path]:
    """Serve *application*, the source text of a module that makes ``app``; yield the path of the log.

    Connections wait in the listener until the worker runs, so nobody has to wait for it.
    """
    name = f"app_{home.name.replace('-', '_')}"
    (home / f"{name}.py").write_text(application)
    (home / "gunicorn_conf.py").write_text(
        GUNICORN + f'bind = "fd://{listener.fileno()}"\nworker_class = "{worker}"\nwsgi_app = "{name}:app"\n'
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

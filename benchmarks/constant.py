"""The smallest falcon application that answers with as much as a secret is, on our worker through its ASGI bridge."""

from collections.abc import Coroutine
from typing import Any

from falcon.asgi import App, Request, Response

from strongroom.deploy.serving.crowd import Crowd
from strongroom.deploy.serving.limits import Limits
from strongroom.deploy.serving.signals import tell_systemd_when_serving
from strongroom.deploy.serving.workers import Served
from strongroom.storage_service.wire.http1 import Exchange

BODY = b"x" * 1700

# What gunicorn is told; this file is its configuration, too, and what it serves.
worker_class = "strongroom.deploy.serving.workers.StrongroomWorker"
control_socket_disable = True
loglevel = "error"
wsgi_app = "benchmarks.constant:served"


def on_starting(_: object) -> None:
    """Be ready for the signal by which a worker says that it serves."""
    tell_systemd_when_serving()


class Constant:
    """One resource, one answer."""

    async def on_get(self, _request: Request, response: Response, name: str) -> None:
        """Answer without looking at anything."""
        del name
        response.data = BODY


class Nothing:
    """A face that hands everything on to falcon."""

    def __init__(self) -> None:
        self._app: App[Request, Response] = App()
        self._app.add_route("/{name}", Constant())

    async def open(self) -> None:
        """Open nothing."""

    async def close(self) -> None:
        """Close nothing."""

    def __call__(self, exchange: Exchange) -> Coroutine[Any, Any, None]:
        """Answer."""
        return exchange.asgi(self._app)


served = Served(Nothing(), Limits(), None, Crowd())

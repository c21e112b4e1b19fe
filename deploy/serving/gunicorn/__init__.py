"""Configuration modules for gunicorn's ``-c python:…``, for whoever runs it without the ``strongroom`` command."""

import functools
import os
from typing import Any

from strongroom.deploy.serving.crowd import Crowd
from strongroom.deploy.serving.server import Role, make_meter, options, reloading
from strongroom.deploy.serving.tls import Holder, holder
from strongroom.deploy.settings import Settings, load
from strongroom.storage_service.config import ProxySettings
from strongroom.storage_service.hardening import harden
from strongroom.storage_service.keyring.ceremonies.sharing import SharedRoot
from strongroom.storage_service.meter import Meter

# gunicorn runs a configuration module in the process that forks the workers, and may run it anew at each SIGHUP; this
# package is imported once, so what the workers share outlives that.


def configure(role: Role) -> tuple[Settings, dict[str, Any]]:
    """Return what the operator said, and gunicorn's settings for *role*.

    Raises:
        Traced: a debugger is attached to this process.
        ConfigurationError: see ``strongroom.deploy.settings.load``; or the certificate and key of the proxy cannot be
        served.
    """
    harden()  # before there is a shared root that could be opened
    settings = load(environ=os.environ, role=role)
    tls = shared_tls(settings.proxy) if role is Role.PROXY else None
    meter = shared_meter(role)
    hooks = {
        "on_reload": reloading(shared_crowd(), tls),
        "child_exit": lambda _, worker: meter.leave(worker.age),
    }
    return settings, options(role, settings, tls=tls) | hooks


@functools.cache
def shared_root() -> SharedRoot:
    """Return the page of memory that holds the root key for all workers of the storage service."""
    return SharedRoot()


@functools.cache
def shared_crowd() -> Crowd:
    """Return what the workers tell each other about their connections."""
    return Crowd()


@functools.cache
def shared_meter(role: Role) -> Meter:
    """Return what the workers of *role* count in."""
    return make_meter(role)


_held: list[Holder | None] = []


def shared_tls(settings: ProxySettings) -> Holder | None:
    """Return what the proxy's workers show, loaded once: a reload renews it, and does not begin anew.

    Raises:
        ConfigurationError: the certificate and key cannot be served.
    """
    if not _held:
        _held.append(holder(settings))
    return _held[0]

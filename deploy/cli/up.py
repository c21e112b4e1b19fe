"""``strongroom up``: everything, from one command."""

import ipaddress
import json
import os
import shlex
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from strongroom.deploy.cli import show
from strongroom.deploy.cli.common import common, common_options, home_or_default
from strongroom.deploy.cli.settings_options import flags_of, settings_options
from strongroom.deploy.cli.words import Verb
from strongroom.deploy.serving.signals import held_back

if TYPE_CHECKING:
    from strongroom.deploy.serving.up import Running

# state -> why it serves no secrets, and the verb that mends it
_FIRST: Final = {
    "uninitialized": ("it has no keys yet", "init"),
    "locked": ("it is locked", "unlock"),
}


@click.command(cls=Verb)
@settings_options
@common_options
def up(*, sets: dict[str, str], **options: Any) -> None:
    """Run the storage service and the HTTP proxy in the foreground, until Ctrl-C.

    The first time, it makes the home: its settings, an API key (client.json) and a root key (secrets.key).
    """
    with held_back():  # the imports take longest, and a signal that comes meanwhile asks for the same end
        from strongroom.storage_service.hardening import harden

        harden()  # before the other imports, which take a while
        from strongroom.deploy.serving.up import up as run

        run(home_or_default(), environ=os.environ, flags=flags_of(options), sets=sets, ready=_ready)


def _ready(running: "Running") -> None:
    service, proxy = running.settings.service, running.settings.proxy
    state = _state(service.socket)
    if exposed := _exposed(proxy.listen, tls=proxy.tls_certificate is not None):
        show.note(exposed)
    if common().as_json:
        show.answer(
            {
                "url": running.client.url,
                "socket": str(service.socket),
                "home": str(running.home),
                "audit_log": str(service.audit_log),
                "pid": os.getpid(),
                "state": state,
            }
        )
        return
    command = f"strongroom --home {shlex.quote(str(running.home))}"
    if state in _FIRST:
        what, verb = _FIRST[state]
        click.echo(
            f"Ready at {running.client.url} and {service.socket}, without secrets, for {what}: {command} key {verb}\n"
            f"API key in {running.home / 'client.json'}, audit log in {service.audit_log}\n"
            "Ctrl-C ends it."
        )
        return
    click.echo(
        f"Ready at {running.client.url} and {service.socket}\n"
        f"API key in {running.home / 'client.json'}, root key in {service.root_key}, audit log in {service.audit_log}\n"
        f"Try:  {command} secret put --parents db/password\n"
        f"      {command} secret get db/password\n"
        f"      {command} status\n"
        "Ctrl-C ends it."
    )


def _exposed(listen: str, *, tls: bool) -> str:
    """Return the warning that others than this machine reach *listen* without TLS; "" where that is not so."""
    host = listen.rpartition(":")[0].strip("[]")
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if tls or local:
        return ""
    return (
        f"strongroom: {listen} is open to the network without TLS: secrets and keys cross it in the clear; say --listen"
        " 127.0.0.1:PORT, or set tls_certificate and tls_key"
    )


def _state(path: Path) -> str:
    """Return the state of the service behind the socket, as it tells anyone; "" where that cannot be told."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1.0)
            connection.connect(str(path))
            connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: strongroom\r\nConnection: close\r\n\r\n")
            body = connection.makefile("rb").read().partition(b"\r\n\r\n")[2]
            return str(json.loads(body)["state"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return ""

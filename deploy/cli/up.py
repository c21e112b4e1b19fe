"""``strongroom up``: everything, from one command."""

import os
import shlex
from typing import TYPE_CHECKING, Any

import click

from deploy.cli import show
from deploy.cli.common import common, common_options, home_or_default
from deploy.cli.settings_options import flags_of, settings_options

if TYPE_CHECKING:
    from deploy.up import Running


@click.command()
@settings_options
@common_options
def up(*, sets: dict[str, str], **options: Any) -> None:
    """Run the storage service and the HTTP proxy in the foreground, until Ctrl-C.

    The first time, it makes the home: its settings, an API key (client.json) and a root key (secrets.key).
    """
    from deploy.up import up as run

    run(home_or_default(), environ=os.environ, flags=flags_of(options), sets=sets, ready=_ready)


def _ready(running: "Running") -> None:
    service = running.settings.service
    if common().as_json:
        show.answer(
            {
                "url": running.client.url,
                "socket": str(service.socket),
                "home": str(running.home),
                "audit_log": str(service.audit_log),
                "pid": os.getpid(),
            }
        )
        return
    command = f"strongroom --home {shlex.quote(str(running.home))}"
    click.echo(
        f"Ready at {running.client.url} and {service.socket}\n"
        f"API key in {running.home / 'client.json'}, root key in {service.root_key}, audit log in {service.audit_log}\n"
        f"Try:  {command} secret put --parents db/password\n"
        f"      {command} secret get db/password\n"
        f"      {command} status\n"
        "Ctrl-C ends it."
    )

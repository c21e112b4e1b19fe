"""``strongroom serve``: one process in the foreground, as a systemd unit runs it."""

import os
from pathlib import Path
from typing import Any

import click

from strongroom.deploy.cli.common import common, common_options
from strongroom.deploy.cli.settings_options import flags_of, settings_options
from strongroom.deploy.cli.words import Verb


@click.command(cls=Verb)
@click.argument("role", type=click.Choice(["storage", "proxy"]))
@click.option("--config", "file", type=click.Path(path_type=Path), metavar="FILE", help="The TOML file to read.")
@settings_options
@common_options
def serve(*, role: str, file: Path | None, sets: dict[str, str], **options: Any) -> None:
    """Run the storage service, or the HTTP proxy, until told to end.

    It tells systemd when it is up (Type=notify) and takes the sockets of a .socket unit.
    """
    from strongroom.storage_service.hardening import harden

    harden()  # before the imports, which take a while
    from strongroom.deploy.serving import server
    from strongroom.deploy.serving.look import look
    from strongroom.deploy.settings import load

    settings = load(environ=os.environ, home=common().home, config=file, flags=flags_of(options), sets=sets, role=role)
    server.rehearse(settings)
    look(settings, server.Role(role), by_up=False)
    if role == server.Role.STORAGE:
        server.make_directories(settings)
    server.serve(server.Role(role), settings)

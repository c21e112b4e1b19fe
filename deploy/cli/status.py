"""``strongroom status``: how the service is, and whom it takes the caller for."""

from typing import Final

import click
import msgspec

from strongroom.deploy.cli import show
from strongroom.deploy.cli.common import client, common_options
from strongroom.deploy.cli.words import Verb

_NEXT: Final = {
    "uninitialized": "no secrets before there are keys: strongroom key init",
    "locked": "no secrets before it is unlocked: strongroom key unlock",
    "rotating": "what is under way with the keys: strongroom key status",
    "behind": "no secret is written before this machine has the new key file; its log says which, and where",
    "fatal": "no secret is written, and here is why: strongroom key status",
}


@click.command(cls=Verb)
@common_options
def status() -> None:
    """Show how the service is, and whom it takes you for."""
    with client() as service:
        said, me = service.status(), service.whoami()
    if show.as_json():
        show.answer(msgspec.to_builtins(said) | {"whoami": msgspec.to_builtins(me)})
        return
    keys = {"active key": said.active_key, "keys": said.keys} if said.keys else {}  # they are not everybody's to know
    show.fields(
        {
            "version": said.version,
            "state": said.state,
            "store": said.store,
            **keys,
            "secrets at": said.endpoints.get("secrets"),
            "you are": me.principal,
            "you reach": me.paths,
            "you may": me.actions,
        }
    )
    if said.state in _NEXT:
        show.line(_NEXT[said.state])

"""``strongroom status``: how the service is, and whom it takes the caller for."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import click
import msgspec

from strongroom.deploy.cli import show
from strongroom.deploy.cli.common import client, common_options
from strongroom.deploy.cli.words import Verb as Command

if TYPE_CHECKING:
    from strongroom.models.steps import Verb

_BEHIND: Final = "no secret is written before this machine has the new key file; its log says which, and where"
_NEXT: "Final[Mapping[str, tuple[str, Verb]]]" = {
    "uninitialized": ("no secrets before there are keys", "key init"),
    "locked": ("no secrets before it is unlocked", "key unlock"),
    "rotating": ("what is under way with the keys", "key status"),
    "fatal": ("no secret is written, and here is why", "key status"),
}


@click.command(cls=Command)
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
            "store": f"{said.store}: {said.store_fault}" if said.store_fault else said.store,
            **keys,
            "secrets at": said.endpoints.get("secrets"),
            "you are": me.principal,
            **({"you are in": me.groups} if me.groups else {}),
            "you reach": me.paths,
            "you may": me.actions,
        }
    )
    if said.state == "behind":
        show.words(_BEHIND)
    elif said.state in _NEXT:
        show.words(show.advice(*_NEXT[said.state]))

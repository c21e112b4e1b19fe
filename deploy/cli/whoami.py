"""``strongroom whoami``: whom the service takes the caller for, by what, and until when."""

import click

from strongroom.deploy.cli import show
from strongroom.deploy.cli.common import client, common_options
from strongroom.deploy.cli.words import Verb


@click.command(cls=Verb)
@common_options
def whoami() -> None:
    """Show whom the service takes you for, by which credential, and until when."""
    with client() as service:
        me = service.whoami()
    data = {
        "principal": me.principal,
        "groups": me.groups,
        "credential": me.credential,
        "token": me.token_id,
        "expires": me.expires,
        "ruled": me.ruled,
        "paths": [] if me.ruled else me.paths,
        "actions": [] if me.ruled else me.actions,
    }
    if show.as_json():
        show.answer(data)
        return
    reach = {"you may": "what rules allow"} if me.ruled else {"you reach": me.paths, "you may": me.actions}
    show.fields(
        {
            "you are": me.principal,
            **({"you are in": me.groups} if me.groups else {}),
            **({"known by": me.credential} if me.credential else {}),
            **({"token": me.token_id, "until": me.expires} if me.token_id else {}),
            **reach,
        }
    )

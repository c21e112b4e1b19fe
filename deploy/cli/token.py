"""``strongroom token``: the end of tokens, which are kept nowhere, and so are in no list."""

import click

from strongroom.deploy.cli import show
from strongroom.deploy.cli.common import client, common_options
from strongroom.deploy.cli.words import Noun


@click.group(cls=Noun)
def token() -> None:
    """End the token of a login. The service keeps none, so there is no list of them."""


@token.command()
@click.argument("jti", metavar="TOKEN")
@click.option("--in", "after", default="", metavar="10m", help="After which time, in the place of at once.")
@common_options
def revoke(*, jti: str, after: str) -> None:
    """End the token of that id, on every worker and machine: whoami shows its holder the id."""
    with client() as service:
        service.revoke_token(jti, after)
    when = f"ends in {after}" if after else "is ended"
    show.done({"token": jti, "revoked": True, "in": after or None}, f"{jti} {when}")

"""``strongroom logout``: the token of a login is worth nothing any more, here and at the service."""

import click

from strongroom.deploy.cli import show
from strongroom.deploy.cli.common import RETRIES, common_options, places
from strongroom.deploy.cli.words import Verb


@click.command(cls=Verb)
@common_options
def logout() -> None:
    """End this login: at the service, at once and everywhere, and here. Who is not logged in may say so, too."""
    from strongroom.deploy import kept_logins
    from strongroom.deploy.cli import logged_in
    from strongroom.storage_service.errors import NotAuthenticated

    there = logged_in.address(places())
    login = kept_logins.kept(there.service)
    ended = False
    try:
        if login is not None and login.left() > 0:
            with logged_in.of(there, 10.0, RETRIES, login) as service:
                service.logout()
            ended = True
    except NotAuthenticated:  # it was ended before
        pass
    finally:
        kept_logins.forget(there.service)
    who = login and login.principal
    text = "nobody was logged in" if login is None else f"logged out {who}"
    show.done({"principal": who, "ended": ended}, text)

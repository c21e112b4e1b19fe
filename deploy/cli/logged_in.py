"""Who is logged in: the service that is meant, and a client that shows it the token that a login has left here.

A token that has expired, or is about to, is replaced without a word where the SSH agent still holds the key that it was
given for.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from strongroom.deploy import kept_logins
from strongroom.deploy.kept_logins import KeptLogin
from strongroom.deploy.places import CLIENT, PREFIX, SOCKET
from strongroom.models.errors import StrongroomError
from strongroom.models.steps import Option, Step
from strongroom.storage_service.client import StorageClient
from strongroom.storage_service.client.address import Address, address_said, read_environment
from strongroom.storage_service.errors import NoCredentials, NotAuthenticated

if TYPE_CHECKING:
    from strongroom.storage_service.client.login import LoggedIn, Signs

AHEAD: Final = 15.0  # seconds before its end from which on a token is replaced: a command may take as long


def address(environ: Mapping[str, str]) -> Address:
    """Return where the service is that *environ* leads to, whether or not there is anything to show it.

    Raises:
        ConfigurationError: nothing leads to one.
    """
    try:
        return read_environment(environ)[0]
    except NoCredentials:
        said = address_said(environ)
        if said is not None:
            return said
        home, file = environ.get(f"{PREFIX}HOME"), environ.get(f"{PREFIX}CLIENT")
        if home and file in (None, "", CLIENT):  # which is not for us; where the socket is by default is known
            return Address(socket=Path(home) / SOCKET)
        raise


def of(there: Address, timeout: float, retries: int, login: KeptLogin | None = None) -> StorageClient:
    """Return a client of the service *there*, which shows the token of *login*, or nothing."""
    return StorageClient(
        socket=there.socket,
        url=there.url,
        ca=there.ca,
        token=None if login is None else login.secret,
        timeout=timeout,
        retries=retries,
    )


def client(environ: Mapping[str, str], timeout: float, retries: int) -> tuple[StorageClient, str] | None:
    """Return a client that shows the token which is kept for the service, and whose that is; None where none is kept.

    Raises:
        ConfigurationError: nothing leads to a service, or the token is kept where it is not safe.
        NotAuthenticated: it has expired, and could not be replaced.
    """
    there = address(environ)
    login = kept_logins.kept(there.service)
    if login is None:
        return None
    if login.left() < AHEAD:
        login = _renewed(there, login, timeout, retries)
    return of(there, timeout, retries, login), login.principal


def keep(there: Address, given: "LoggedIn", lifetime: str) -> KeptLogin:
    """Keep what a login gave.

    Raises:
        ConfigurationError: it cannot be kept safely.
    """
    login = KeptLogin(
        service=there.service,
        principal=given.principal,
        token=given.token.reveal(),
        expires=given.expires,
        key=given.key,
        lifetime=lifetime,
    )
    kept_logins.keep(login)
    return login


def _renewed(there: Address, login: KeptLogin, timeout: float, retries: int) -> KeptLogin:
    """Log in again with the same key, if the agent holds it; else return *login* while it lasts.

    Raises:
        NotAuthenticated: it has expired.
    """
    from strongroom.storage_service.client.login import picked
    from strongroom.storage_service.client.ssh_agent import Agent

    why = "no SSH agent is here to log in again with"
    agent = Agent.of_environment()
    try:
        if agent is not None:
            key: Signs = picked(agent, login.key)
            with of(there, timeout, retries) as service:
                given = service.login(login.principal, key, lifetime=login.lifetime)
            return keep(there, given, login.lifetime)
    except StrongroomError as error:
        why = getattr(error, "text", "") or str(error)
    if login.left() > 0:
        return login
    who: dict[str, Option] = {"as": login.principal}
    raise NotAuthenticated(f"the login as {login.principal} has expired, and {why}").advising(
        Step("log in again", "login", who)
    )

"""Logins on the socket: a challenge, an answer to it, a token, and its end."""

from typing import Any, Final

import falcon
import falcon.asgi

from strongroom.storage_service.access.tokens import bearer
from strongroom.storage_service.http.answering import Request, Response, answer, body, caller
from strongroom.storage_service.services.logins import LoginService
from strongroom.storage_service.wire import login

OPEN_PATHS: Final = frozenset((login.CHALLENGE_PATH, login.LOGIN_PATH))
"""What strangers may ask: their bodies are small, and what they write is nothing."""


def add_routes(app: falcon.asgi.App[Any, Any], logins: LoginService) -> None:
    """Add the resources."""
    app.add_route(login.CHALLENGE_PATH, ChallengePage(logins))
    app.add_route(login.LOGIN_PATH, LoginPage(logins))
    app.add_route(login.TOKEN_PATH, OwnToken(logins))
    app.add_route(login.TOKEN_PATH + "/{jti}", AnyToken(logins))


class ChallengePage:
    """A challenge, for whoever asks."""

    def __init__(self, logins: LoginService) -> None:
        self._logins = logins

    async def on_post(self, req: Request, resp: Response) -> None:
        """Give one."""
        asked = await body(req, login.AskedChallenge, login.MAX_BODY)
        answer(req, resp, await self._logins.challenge(asked))


class LoginPage:
    """A token, for whoever answers a challenge."""

    def __init__(self, logins: LoginService) -> None:
        self._logins = logins

    async def on_post(self, req: Request, resp: Response) -> None:
        """Give it, this once."""
        given = await body(req, login.Answer, login.MAX_BODY)
        token = await self._logins.log_in(caller(req), given)
        resp.status = falcon.HTTP_201
        answer(req, resp, login.Token(token=token.text, principal=token.principal, expires=token.expires))


class OwnToken:
    """The token that the request shows."""

    def __init__(self, logins: LoginService) -> None:
        self._logins = logins

    async def on_delete(self, req: Request, resp: Response) -> None:
        """End it."""
        await self._logins.log_out(caller(req), bearer(req.get_header("Authorization") or ""))
        resp.status = falcon.HTTP_204
        answer(req, resp, None)


class AnyToken:
    """A token, by its id."""

    def __init__(self, logins: LoginService) -> None:
        self._logins = logins

    async def on_delete(self, req: Request, resp: Response, jti: str) -> None:
        """End it, at once or ``?in=10m``."""
        await self._logins.revoke(caller(req), jti, req.get_param("in") or "")
        resp.status = falcon.HTTP_204
        answer(req, resp, None)

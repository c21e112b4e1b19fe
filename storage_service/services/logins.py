"""The door for logins: strangers ask for a challenge and answer it; whoever has a token can end it."""

import re
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Final

from strongroom.models import names
from strongroom.models.access import told
from strongroom.storage_service.access import durations
from strongroom.storage_service.access.base import Action, Principal
from strongroom.storage_service.access.logins import Logins, Token
from strongroom.storage_service.errors import Invalid
from strongroom.storage_service.services.door import Caller, Door
from strongroom.storage_service.wire import login

_JTI: Final = re.compile("[0-9a-f]{32}", re.ASCII)  # what else was said may be a token, and is not written down


class LoginService:
    """All that can be done about logins.

    A stranger writes nothing: what he asks for costs him a seal, and what he gets wrong is counted (`strangers`).
    """

    def __init__(self, door: Door, logins: Logins, addresses: Collection[str]) -> None:
        """Take the parts, and the *addresses* at which this service is spoken to: a login is for one of them."""
        self._door = door
        self._logins = logins
        self._addresses = frozenset(addresses)

    async def challenge(self, asked: login.AskedChallenge) -> login.Challenge:
        """Return a challenge; who asks, and whether there is somebody of that name, plays no part.

        Raises:
            Invalid: it is for another service, or malformed.
            Locked, Uninitialized, Unavailable: there are no keys to seal it with.
        """
        if asked.service not in self._addresses:
            raise Invalid(
                "this service is not spoken to at that address: name the one that it has, or add it to `addresses`",
                (("service", "is not an address of this service"),),
            )
        return await self._logins.challenge(asked)

    async def log_in(self, caller: Caller, answer: login.Answer) -> Token:
        """Return a token for whoever answered a challenge; that is recorded as his, before he has it.

        Raises:
            Invalid: the lifetime is malformed.
            Denied: the answer is wrong, or comes too late, or again; which, is told to nobody.
            Locked, Uninitialized, Unavailable, AuditUnavailable
        """
        try:
            durations.clipped(answer.lifetime, timedelta.max)
        except ValueError as error:
            raise Invalid(str(error), (("lifetime", "is not a duration"),)) from None
        token = await self._logins.log_in(answer)
        caller.principal = Principal(token.principal, ruled=True)
        await self._door.note(caller, Action.CREATE, names.TOKENS, f"{token.jti}, by credential {token.credential}")
        return token

    async def shown(self, token: str) -> tuple[str, str]:
        """Return the id of the *token* that its bearer is known by, and until when it is good."""
        _, claims = await self._logins.authenticate(token)
        return claims.jti or "", told(datetime.fromtimestamp(claims.exp, UTC))

    async def log_out(self, caller: Caller, token: str) -> None:
        """End the token that *caller* has shown, at once and everywhere.

        Raises:
            NotAuthenticated: it was worth nothing already.
            Locked, Uninitialized, Unavailable, AuditUnavailable
        """
        jti, _ = await self.shown(token)
        await self._door.note(caller, Action.DELETE, names.TOKENS, jti)
        await self._logins.revoke(token)

    async def revoke(self, caller: Caller, jti: str, after: str) -> None:
        """End the token of that id, at once or *after* a while.

        Raises:
            Denied, NotFound, Invalid, Locked, Uninitialized, Unavailable, AuditUnavailable
        """
        try:
            wait = durations.duration(after) if after else timedelta()
        except ValueError as error:
            raise Invalid(str(error), (("in", "is not a duration"),)) from None
        await self._door.permit(caller, Action.DELETE, [names.TOKENS], jti if _JTI.fullmatch(jti) else "")
        await self._logins.revoke(jti=jti, after=wait)

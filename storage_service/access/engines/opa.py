"""Open Policy Agent: a rule of a policy, asked over its REST API (``POST /v1/data/…``)."""

from collections.abc import Mapping
from typing import Self

from strongroom.models.secret import Secret
from strongroom.storage_service.access.engines.base import EngineFailed
from strongroom.storage_service.access.engines.server import Server


class Opa:
    """Asks the rule at ``url``, with ``{"input": {"subject", "action", "resource"}}``.

    It says ``{"result": true}`` or ``{"result": {"allow": true}}``. A rule that is undefined has no result, and that
    is a failure: give it a default.
    """

    def __init__(self, server: Server) -> None:
        """Take the server, whose URL is the rule's."""
        self._server = server

    @classmethod
    def from_options(cls, options: Mapping[str, str], token: Secret | None) -> Self:
        """Return the engine that *options* describe.

        Raises:
            ConfigurationError: they are not understood.
        """
        return cls(Server.from_options(options, token))

    async def check(self, *, subject: str, action: str, resource: str) -> bool:
        """Return what the rule says.

        Raises:
            EngineFailed: it says neither, or nothing.
        """
        question = {"input": {"subject": subject, "action": action, "resource": resource}}
        answer = await self._server.ask(question)
        result = answer.get("result") if isinstance(answer, dict) else None
        if isinstance(result, dict):
            result = result.get("allow")
        if not isinstance(result, bool):
            raise EngineFailed("its answer has no result that is true or false")
        return result

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

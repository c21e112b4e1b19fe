"""OpenFGA: whether a user has a relation to an object (``POST /stores/{store}/check``)."""

import re
from collections.abc import Mapping
from typing import Any, Final, Self

from strongroom.models.secret import Secret
from strongroom.storage_service.access.engines.base import EngineFailed
from strongroom.storage_service.access.engines.server import Server
from strongroom.storage_service.errors import ConfigurationError

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


class OpenFga:
    """Asks for the subject as user, the action as relation, and the resource as object.

    *relations* give rights the names of a model's relations (``read`` is ``viewer``); a right without one is asked for
    by the action itself. In an object's id there is one colon: others are written ``%3A``, which stands in no name.
    """

    def __init__(self, server: Server, model: str | None = None, relations: Mapping[str, str] | None = None) -> None:
        """Take the server, whose URL is that of the store's check, and which model of the store is meant."""
        self._server = server
        self._model = model
        self._relations = dict(relations or {})

    @classmethod
    def from_options(cls, options: Mapping[str, str], token: Secret | None) -> Self:
        """Return the engine that *options* describe: ``store``, ``model``, ``relations`` (``read=viewer …``).

        Raises:
            ConfigurationError: they are not understood.
        """
        store, model = options.get("store", ""), options.get("model")
        if _ID.fullmatch(store) is None or (model is not None and _ID.fullmatch(model) is None):
            raise ConfigurationError("'store' of an engine OpenFga is the store's id, and 'model' that of a model")
        pairs = [each.partition("=") for each in options.get("relations", "").split()]
        if not all(right and relation for right, _, relation in pairs):
            raise ConfigurationError("'relations' of an engine OpenFga are such as read=viewer, modify=editor")
        server = Server.from_options(options, token, f"/stores/{store}/check")
        return cls(server, model, {right: relation for right, _, relation in pairs})

    async def check(self, *, subject: str, action: str, resource: str) -> bool:
        """Return whether there is such a relation.

        Raises:
            EngineFailed: the server says neither, or nothing.
        """
        relation = self._relations.get(action.rpartition(".")[2], action)
        key = {"user": _one_colon(subject), "relation": relation, "object": _one_colon(resource)}
        question: dict[str, Any] = {"tuple_key": key}
        if self._model is not None:
            question["authorization_model_id"] = self._model
        answer = await self._server.ask(question)
        allowed = answer.get("allowed") if isinstance(answer, dict) else None
        if not isinstance(allowed, bool):
            raise EngineFailed("its answer does not say whether it is allowed")
        return allowed

    def close(self) -> None:
        """Close the connections."""
        self._server.close()


def _one_colon(text: str) -> str:
    kind, colon, rest = text.partition(":")
    return kind + colon + rest.replace(":", "%3A")

"""The ways of knowing and judging a caller, by the names that settings and Custodia's files give them.

A new one is a file, and a line here: what it is made by, and the options that it takes. Who only wants names and
options loads none of them.
"""

import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, cast

from strongroom.storage_service.errors import ConfigurationError

if TYPE_CHECKING:
    from strongroom.models.secret import Secret
    from strongroom.storage_service.access.apikeys import ApiKeys
    from strongroom.storage_service.access.authenticators import Authenticator
    from strongroom.storage_service.access.base import Decider
    from strongroom.storage_service.access.engines.base import Engine
    from strongroom.storage_service.access.engines.panel import Seat
    from strongroom.storage_service.config import AuthenticatorSettings, AuthorizerSettings, EngineSettings


class Kind(NamedTuple):
    """One row: ``module:class``, and the options that the class's ``from_options`` understands."""

    place: str
    options: tuple[str, ...]


AUTHENTICATORS: Final[Mapping[str, Kind]] = {
    "SimpleAuthKeys": Kind(
        "strongroom.storage_service.access.authenticators:SimpleAuthKeys", ("id_header", "key_header")
    ),
    "SimpleCredsAuth": Kind(
        "strongroom.storage_service.access.authenticators:SimpleCredsAuth", ("uid", "gid", "proxies")
    ),
}

AUTHORIZERS: Final[Mapping[str, Kind]] = {
    "SimplePathAuthz": Kind("strongroom.storage_service.access.paths:SimplePathAuthz", ("paths", "principals")),
    "UserNameSpace": Kind("strongroom.storage_service.access.paths:UserNameSpace", ("path",)),
}


ENGINES: Final[Mapping[str, Kind]] = {
    "Rbac": Kind("strongroom.storage_service.access.engines.rbac:Rbac", ("grants", "permissions", "file")),
    "Opa": Kind("strongroom.storage_service.access.engines.opa:Opa", ("url", "ca", "token_file", "plain_http")),
    "OpenFga": Kind(
        "strongroom.storage_service.access.engines.openfga:OpenFga",
        ("url", "ca", "token_file", "plain_http", "store", "model", "relations"),
    ),
}
FILES: Final = frozenset({"file", "ca", "token_file"})  # options of engines that name a file


class _AuthenticatorClass(Protocol):
    def from_options(self, options: Mapping[str, str], keys: "ApiKeys") -> "Authenticator":
        """Return the authenticator that *options* describe; *keys* are the API keys that the service knows."""


class _AuthorizerClass(Protocol):
    def from_options(self, options: Mapping[str, str]) -> "Decider":
        """Return the authorizer that *options* describe."""


class _EngineClass(Protocol):
    def from_options(self, options: Mapping[str, str], token: "Secret | None") -> "Engine":
        """Return the engine that *options* describe; *token* is what the file ``token_file`` holds."""


def make_authenticator(settings: "AuthenticatorSettings", keys: "ApiKeys") -> "Authenticator":
    """Return the authenticator that *settings* describe.

    Raises:
        ConfigurationError: there is none of that name, or its options are not understood.
    """
    found = cast("_AuthenticatorClass", _class(AUTHENTICATORS, settings.handler, "authenticator"))
    return found.from_options(settings.options, keys)


def make_authorizer(settings: "AuthorizerSettings") -> "Decider":
    """Return the authorizer that *settings* describe.

    Raises:
        ConfigurationError: there is none of that name, or its options are not understood.
    """
    found = cast("_AuthorizerClass", _class(AUTHORIZERS, settings.handler, "authorizer"))
    return found.from_options(settings.options)


def make_engine(settings: "EngineSettings", token: "Secret | None") -> "Seat":
    """Return the engine that *settings* describe, with what its answers count for.

    Raises:
        ConfigurationError: there is none of that name, or its options are not understood.
    """
    from strongroom.storage_service.access.engines.base import Stance
    from strongroom.storage_service.access.engines.panel import Seat

    found = cast("_EngineClass", _class(ENGINES, settings.handler, "engine"))
    return Seat(settings.name, Stance(settings.stance), found.from_options(settings.options, token))


def _class(table: Mapping[str, Kind], name: str, what: str) -> object:
    if name not in table:
        raise ConfigurationError(f"there is no {what} {name!r}; there are {' and '.join(table)}")
    return pkgutil.resolve_name(table[name].place)

"""The table of kinds of credentials; a new kind is a row here and a module beside."""

import pkgutil
from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol, cast

from strongroom.models.access import InvalidAccess


class CredentialKind(Protocol):
    """What the module of a kind has."""

    def canonical(self, given: str) -> str:
        """Return how *given* is kept: two spellings of one thing become one.

        Raises:
            InvalidAccess: it is nothing of this kind, or nothing that is good enough.
        """

    def identity(self, data: str) -> str | None:
        """Return what no other credential of this kind may have; None where two may be alike."""

    def shown(self, data: str) -> dict[str, str]:
        """Return what may be told of it."""


class Row(NamedTuple):
    """A module, and what people call such a credential."""

    place: str
    title: str


CREDENTIALS: Final[Mapping[str, Row]] = {
    "password": Row("strongroom.storage_service.access.credentials.password", "a password"),
    "access-key": Row("strongroom.storage_service.access.credentials.access_key", "an access key"),
    "certificate": Row("strongroom.storage_service.access.credentials.certificate", "a client certificate"),
    "process": Row("strongroom.storage_service.access.credentials.process", "a process's user on this machine"),
}


def kind_named(name: str) -> CredentialKind:
    """Return the kind of that *name*; what it needs is imported now.

    Raises:
        InvalidAccess: there is none.
    """
    if name not in CREDENTIALS:
        raise InvalidAccess(f"a credential is of kind {', '.join(CREDENTIALS)}", "kind")
    return cast("CredentialKind", pkgutil.resolve_name(CREDENTIALS[name].place))

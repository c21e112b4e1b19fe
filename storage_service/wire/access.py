"""What client and service say to each other of users, services and groups, below ``/access``.

    /access/users/                          GET
    /access/users/<name>                    GET, PUT (new), DELETE
    /access/users/<name>/disabled           PUT, DELETE
    /access/users/<name>/credentials/       POST
    /access/users/<name>/credentials/<id>   DELETE
    /access/users/<name>/tokens             DELETE (``?in=10m``: in a while)
    /access/services/…                      the same
    /access/groups/                         GET
    /access/groups/<name>                   GET, PUT (new), DELETE
    /access/groups/<name>/members/<whom>    PUT, DELETE
    /access/setup                           POST, of whoever has a code

Of a credential nothing comes back but what is public of it.
"""

from typing import Annotated, Final, Literal

import msgspec

from strongroom.models.access import MAX_CREDENTIALS, Role
from strongroom.storage_service.wire import ACCESS_PATH as ACCESS_PATH  # noqa: PLC0414  # its pages are here

SETUP_PATH: Final = ACCESS_PATH + "/setup"
FOLDERS: Final[dict[str, str]] = {"user": "users", "service": "services"}
MAX_ACCESS_BODY: Final = 64 * 1024
MAX_SETUP_BODY: Final = 20 * 1024  # of strangers
MAX_PAGE: Final = 1000  # principals in one answer
MAX_WINDOW: Final = 7 * 24 * 3600  # seconds
MIN_WINDOW: Final = 30

State = Literal["active", "disabled", "waiting", "expired", "damaged"]


class NewCredential(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A credential to be: *data* is a password, a public key, a certificate's URI or fingerprint, or a uid.

    *hashed*: the password is given as its hash, as an older file has it.
    """

    kind: str
    data: str
    name: str = ""
    expires: str | None = None
    hashed: bool = False

    def __repr__(self) -> str:
        return f"<NewCredential of kind {self.kind}>"


class NewPrincipal(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Body that makes a user or a service. Without credentials it gets a code that is good for *window* seconds."""

    admin: bool = False
    note: str = ""
    window: Annotated[int, msgspec.Meta(ge=MIN_WINDOW, le=MAX_WINDOW)] | None = None
    credentials: Annotated[list[NewCredential], msgspec.Meta(max_length=MAX_CREDENTIALS)] = []


class AddedPrincipal(msgspec.Struct, kw_only=True):
    """The answer to that: *code* stands in it alone, and nobody can tell it again."""

    principal: str
    administrator: bool
    first: bool  # there was no administrator who could come in
    code: str | None = None
    expires: str | None = None  # RFC 3339, UTC

    def __repr__(self) -> str:
        return f"<AddedPrincipal {self.principal}>"


class CredentialInfo(msgspec.Struct, kw_only=True):
    """A credential as it is listed; *shown* is what may be told of one of its kind: a fingerprint, a URI, a uid."""

    id: str
    kind: str
    name: str
    created: str
    expires: str | None = None
    used: str | None = None  # when it was last seen in use, to the minute; told of one principal, not in lists
    shown: dict[str, str] = {}


class PrincipalInfo(msgspec.Struct, kw_only=True):
    """A user or a service: whether it may come in, in which groups it is as what, and how it proves itself."""

    principal: str
    state: State
    groups: dict[str, Role] = {}
    credentials: list[CredentialInfo] = []
    created: str = ""
    created_by: str = ""
    note: str = ""
    setup_until: str | None = None


class PrincipalPage(msgspec.Struct, kw_only=True):
    """Some of them, by name."""

    principals: list[PrincipalInfo]
    more: bool = False


class Setup(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Body of a setup: who it is, the code that somebody gave it, and how it will prove itself."""

    principal: str
    code: str
    credential: NewCredential

    def __repr__(self) -> str:
        return "<Setup>"


class NewGroup(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Body that makes a group."""

    note: str = ""


class GroupInfo(msgspec.Struct, kw_only=True):
    """A group: its members, ``user:ann`` …, each with a role; *damaged*: its record cannot be read."""

    name: str
    members: dict[str, Role] = {}
    created: str = ""
    created_by: str = ""
    note: str = ""
    damaged: bool = False


class Membership(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Body that puts somebody into a group."""

    role: Role = Role.MEMBER

"""The operations on users, services and groups, in the manner of ``operations``.

A principal is spelled with its kind, ``user:ann``, ``service:runner``; a group by its name. What a credential is made
of may be given as `Secret`, and the code of somebody new comes as one.
"""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from strongroom.models.access import Kind, Role, check_name
from strongroom.models.errors import InvalidName
from strongroom.models.secret import Secret
from strongroom.storage_service import wire
from strongroom.storage_service.client.operations import decode, segment
from strongroom.storage_service.client.retries import Call, Effect, Operation
from strongroom.storage_service.wire import access as access_wire
from strongroom.storage_service.wire.access import (
    ACCESS_PATH,
    FOLDERS,
    SETUP_PATH,
    CredentialInfo,
    GroupInfo,
    PrincipalInfo,
)


class NewCredential(NamedTuple):
    """A credential to be: of kind ``password``, ``access-key``, ``certificate`` or ``process``.

    *data* is a password, a public key, a certificate's URI or fingerprint, or a uid; *name* what it is to be called;
    from *expires* on (``2027-01-31T12:00:00Z``) it is worth nothing. *hashed*: the password is given as its hash.
    """

    kind: str
    data: str | Secret
    name: str = ""
    expires: str | None = None
    hashed: bool = False

    def __repr__(self) -> str:
        return f"<NewCredential of kind {self.kind}>"


class AddedPrincipal(NamedTuple):
    """A principal that is new. With the *code* it is set up until *expires*; nobody can tell it again."""

    principal: str
    code: Secret | None  # None: it was given credentials
    expires: str | None
    administrator: bool
    first: bool  # there was no administrator who could come in


class PrincipalPage(NamedTuple):
    """A part of a listing; *after* is where the next one begins, None at the end."""

    principals: list[PrincipalInfo]
    after: str | None


def list_principals(kind: str, after: str = "", *, limit: int = access_wire.MAX_PAGE) -> Operation[PrincipalPage]:
    """Return the users (*kind* ``user``) or services (``service``) behind the name *after*, *limit* of them at most."""
    path = f"{ACCESS_PATH}/{FOLDERS[Kind(kind)]}/?limit={limit}&after={check_name(after) if after else ''}"
    said = decode((yield Call("GET", path, Effect.READ)), access_wire.PrincipalPage)
    last = said.principals[-1].principal.partition(":")[2] if said.more and said.principals else None
    return PrincipalPage(said.principals, last)


def get_principal(principal: str) -> Operation[PrincipalInfo]:
    """Return what is known of a user or service; oneself needs no right to it.

    Raises:
        NotFound: there is none.
    """
    return decode((yield Call("GET", _path(principal), Effect.READ)), PrincipalInfo)


def add_principal(
    principal: str,
    credentials: Iterable[NewCredential] = (),
    *,
    admin: bool = False,
    note: str = "",
    window: int | None = None,
) -> Operation[AddedPrincipal]:
    """Add a user or a service. Without credentials it gets a code, with which it sets its first one itself.

    Args:
        principal: who; nobody has or had the name, in whatever case.
        credentials: what it proves itself with.
        admin: it may do everything.
        note: what is to be remembered of it.
        window: seconds for which the code is good; None: 300, and 900 for the first administrator.

    Raises:
        Exists: the name is or was somebody's, or waits to be set up; or somebody has such a credential.
        Invalid: a name, a note or a credential cannot be so.
    """
    wanted = access_wire.NewPrincipal(
        admin=admin, note=note, window=window, credentials=[_credential(each) for each in credentials]
    )
    made = decode((yield _put(_path(principal), wanted)), access_wire.AddedPrincipal)
    code = None if made.code is None else Secret(made.code)
    return AddedPrincipal(made.principal, code, made.expires, made.administrator, made.first)


def remove_principal(principal: str) -> Operation[None]:
    """End a user or a service, at once and everywhere; its name is never given to another.

    Raises:
        NotFound: there is none.
        InUse: it is protected, or the last administrator who can come in.
    """
    yield _delete(_path(principal))


def disable_principal(principal: str, *, disabled: bool = True) -> Operation[None]:
    """Shut a user or a service out, or let it in again (*disabled* false); its tokens of before end.

    Raises:
        NotFound: there is none.
        InUse: it is the last administrator who can come in.
    """
    yield Call("PUT" if disabled else "DELETE", _path(principal) + "/disabled", Effect.WRITE)


def add_credential(principal: str, credential: NewCredential) -> Operation[CredentialInfo]:
    """Give a user or a service, or oneself, one more credential; return it with its id.

    Raises:
        NotFound: there is no such principal.
        Exists: somebody has such a credential, or this one has another of that name.
        Invalid: it cannot be so; or the principal waits to be set up, or has as many as it may.
    """
    path = _path(principal) + "/credentials/"
    return decode((yield _post(path, _credential(credential))), CredentialInfo)


def remove_credential(principal: str, credential: str) -> Operation[None]:
    """Take a credential, by its id or name, from a user or a service, or from oneself.

    Raises:
        NotFound: there is no such principal, or no such credential.
        InUse: it is the only one.
    """
    yield _delete(f"{_path(principal)}/credentials/{segment(credential)}")


def end_tokens(principal: str, after: str = "") -> Operation[None]:
    """End all tokens of a user or a service, or one's own, at once or *after* a while (``10m``).

    Raises:
        NotFound: there is no such principal.
    """
    if not after.isalnum() and after:
        raise InvalidName("a duration is numbers with Y, M, w, d, h, m, s or ms, as in 1h30m")
    yield _delete(_path(principal) + "/tokens" + (f"?in={after}" if after else ""))


def set_up(principal: str, code: str | Secret, credential: NewCredential) -> Operation[None]:
    """Set up a user or a service with the code that was told when it was added; it takes no other credentials.

    Raises:
        Denied: the code is wrong, or no longer good, or another's.
        Exists: somebody has such a credential; the code is good still.
        Invalid: the credential cannot be so; the code is good still.
    """
    _path(principal)  # is one
    said = access_wire.Setup(principal=principal, code=_revealed(code), credential=_credential(credential))
    yield _post(SETUP_PATH, said)


def list_groups() -> Operation[list[GroupInfo]]:
    """Return the groups and their members."""
    return decode((yield Call("GET", f"{ACCESS_PATH}/groups/", Effect.READ)), list[GroupInfo])


def get_group(group: str) -> Operation[GroupInfo]:
    """Return a group and its members; its managers need no right to it.

    Raises:
        NotFound: there is none.
    """
    return decode((yield Call("GET", _group(group), Effect.READ)), GroupInfo)


def add_group(group: str, *, note: str = "") -> Operation[None]:
    """Add a group without members.

    Raises:
        Exists: there is one of that name, or was.
    """
    yield _put(_group(group), access_wire.NewGroup(note=note))


def remove_group(group: str) -> Operation[None]:
    """Remove a group; its name is never given again.

    Raises:
        NotFound: there is none.
        InUse: it is the administrators'.
    """
    yield _delete(_group(group))


def add_member(group: str, member: str, *, manager: bool = False) -> Operation[None]:
    """Put a principal into a group, or give it another role there: a manager adds and removes members.

    Raises:
        NotFound: there is no such group, or no such principal.
    """
    said = access_wire.Membership(role=Role.MANAGER if manager else Role.MEMBER)
    yield _put(f"{_group(group)}/members/{segment(member)}", said)


def remove_member(group: str, member: str) -> Operation[None]:
    """Take a principal out of a group.

    Raises:
        NotFound: there is no such group, or no such member of it.
        InUse: it is the last administrator who can come in.
    """
    yield _delete(f"{_group(group)}/members/{segment(member)}")


def _path(principal: str) -> str:
    """Return where a principal is.

    Raises:
        InvalidName: it is no user or service.
    """
    kind, _, name = principal.partition(":")
    if kind not in FOLDERS:
        raise InvalidName("a principal is user: or service:, and a name")
    return f"{ACCESS_PATH}/{FOLDERS[kind]}/{check_name(name)}"


def _group(group: str) -> str:
    return f"{ACCESS_PATH}/groups/{check_name(group)}"


def _credential(given: NewCredential) -> access_wire.NewCredential:
    return access_wire.NewCredential(
        kind=given.kind,
        data=_revealed(given.data),
        name=given.name,
        expires=given.expires,
        hashed=given.hashed,
    )


def _revealed(text: str | Secret) -> str:
    return text.reveal() if isinstance(text, Secret) else text


def _put(path: str, said: msgspec.Struct) -> Call:
    return Call("PUT", path, Effect.WRITE, msgspec.json.encode(said), {"Content-Type": wire.JSON})


def _post(path: str, said: msgspec.Struct) -> Call:
    return Call("POST", path, Effect.WRITE, msgspec.json.encode(said), {"Content-Type": wire.JSON})


def _delete(path: str) -> Call:
    return Call("DELETE", path, Effect.WRITE)

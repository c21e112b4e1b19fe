"""Users, services and groups on the socket, under ``/access``: one class for each noun, which only translates."""

from datetime import timedelta
from typing import Any, TypeVar

import falcon
import falcon.asgi
import msgspec

from strongroom.models.access import Credential, Kind
from strongroom.storage_service.access.base import Action
from strongroom.storage_service.access.credentials.registry import CREDENTIALS, kind_named
from strongroom.storage_service.access.durations import duration
from strongroom.storage_service.errors import Invalid
from strongroom.storage_service.http.answering import Request, Response, answer, body, caller
from strongroom.storage_service.services.principals import Known, KnownGroup, PrincipalService
from strongroom.storage_service.wire.access import (
    ACCESS_PATH,
    FOLDERS,
    MAX_ACCESS_BODY,
    MAX_PAGE,
    MAX_SETUP_BODY,
    SETUP_PATH,
    AddedPrincipal,
    CredentialInfo,
    GroupInfo,
    Membership,
    NewCredential,
    NewGroup,
    NewPrincipal,
    PrincipalInfo,
    PrincipalPage,
    Setup,
    State,
)

T = TypeVar("T", bound=msgspec.Struct)


def add_routes(app: falcon.asgi.App[Any, Any], principals: PrincipalService) -> None:
    """Give *app* every resource of this page."""
    for kind in Kind:
        folder = f"{ACCESS_PATH}/{FOLDERS[kind]}/"
        one = folder + "{name}"
        app.add_route(folder, Principals(principals, kind))
        app.add_route(one, OnePrincipal(principals, kind))
        app.add_route(one + "/disabled", Disabled(principals, kind))
        app.add_route(one + "/tokens", Tokens(principals, kind))
        app.add_route(one + "/credentials/", Credentials(principals, kind))
        app.add_route(one + "/credentials/{credential}", OneCredential(principals, kind))
    app.add_route(f"{ACCESS_PATH}/groups/", Groups(principals))
    app.add_route(ACCESS_PATH + "/groups/{name}", OneGroup(principals))
    app.add_route(ACCESS_PATH + "/groups/{name}/members/{member}", Member(principals))
    app.add_route(SETUP_PATH, SettingUp(principals))


class _Resource:
    """A resource, and the service behind it."""

    def __init__(self, principals: PrincipalService, kind: Kind = Kind.USER) -> None:
        self._principals = principals
        self._kind = kind


class Principals(_Resource):
    """All users, or all services."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """Tell a page of them."""
        limit = req.get_param_as_int("limit", default=MAX_PAGE)
        if not 1 <= limit <= MAX_PAGE:
            raise Invalid(f"limit is 1 to {MAX_PAGE}")
        page = await self._principals.page(caller(req), self._kind, req.get_param("after", default=""), limit)
        now = self._principals.now
        told = [_principal(self._kind, each, now) for each in page.principals]
        answer(req, resp, PrincipalPage(principals=told, more=page.more))


class OnePrincipal(_Resource):
    """One user, or one service."""

    async def on_get(self, req: Request, resp: Response, name: str) -> None:
        """Tell its record, without anything that opens."""
        found = await self._principals.get(caller(req), self._kind, name)
        answer(req, resp, _principal(self._kind, found, self._principals.now))

    async def on_put(self, req: Request, resp: Response, name: str) -> None:
        """Make it, and tell its code, if it gets one, this once."""
        await self._principals.expect(caller(req), Action.CREATE, self._kind, name)
        said = await body(req, NewPrincipal, MAX_ACCESS_BODY)
        made = await self._principals.add(
            caller(req), self._kind, name, said.credentials, admin=said.admin, note=said.note, window=said.window
        )
        resp.status = falcon.HTTP_201
        told = AddedPrincipal(
            principal=f"{self._kind}:{name}",
            administrator=said.admin,
            first=made.first,
            code=None if made.code is None else made.code.reveal(),
            expires=made.expires,
        )
        answer(req, resp, told)

    async def on_delete(self, req: Request, resp: Response, name: str) -> None:
        """End it, at once and everywhere."""
        await self._principals.remove(caller(req), self._kind, name)
        _done(req, resp)


class Disabled(_Resource):
    """That a principal is shut out."""

    async def on_put(self, req: Request, resp: Response, name: str) -> None:
        """Shut it out."""
        await self._principals.disable(caller(req), self._kind, name, disabled=True)
        _done(req, resp)

    async def on_delete(self, req: Request, resp: Response, name: str) -> None:
        """Let it in again."""
        await self._principals.disable(caller(req), self._kind, name, disabled=False)
        _done(req, resp)


class Tokens(_Resource):
    """The tokens of a principal."""

    async def on_delete(self, req: Request, resp: Response, name: str) -> None:
        """End all that were given until now, at once or in a while (``?in=10m``)."""
        said = req.get_param("in")
        try:
            after = timedelta() if said is None else duration(said)
        except ValueError as error:
            raise Invalid(str(error), (("in", "is not a duration"),)) from None
        await self._principals.end_tokens(caller(req), self._kind, name, after)
        _done(req, resp)


class Credentials(_Resource):
    """What a principal proves itself with."""

    async def on_post(self, req: Request, resp: Response, name: str) -> None:
        """Give it one more."""
        await self._principals.expect(caller(req), Action.MODIFY, self._kind, name)
        said = await body(req, NewCredential, MAX_ACCESS_BODY)
        made = await self._principals.add_credential(caller(req), self._kind, name, said)
        resp.status = falcon.HTTP_201
        answer(req, resp, _credential(made))


class OneCredential(_Resource):
    """One of these."""

    async def on_delete(self, req: Request, resp: Response, name: str, credential: str) -> None:
        """Take it away; *credential* is its id or its name."""
        await self._principals.remove_credential(caller(req), self._kind, name, credential)
        _done(req, resp)


class Groups(_Resource):
    """All groups."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """Tell them."""
        answer(req, resp, [_group(each) for each in await self._principals.groups(caller(req))])


class OneGroup(_Resource):
    """One group."""

    async def on_get(self, req: Request, resp: Response, name: str) -> None:
        """Tell it and its members."""
        answer(req, resp, _group(await self._principals.group(caller(req), name)))

    async def on_put(self, req: Request, resp: Response, name: str) -> None:
        """Make it."""
        await self._principals.expect_group(caller(req), Action.CREATE, name)
        said = await body(req, NewGroup, MAX_ACCESS_BODY)
        await self._principals.add_group(caller(req), name, said.note)
        resp.status = falcon.HTTP_201
        answer(req, resp, None)

    async def on_delete(self, req: Request, resp: Response, name: str) -> None:
        """Remove it."""
        await self._principals.remove_group(caller(req), name)
        _done(req, resp)


class Member(_Resource):
    """That somebody is in a group."""

    async def on_put(self, req: Request, resp: Response, name: str, member: str) -> None:
        """Put it in, or give it another role there."""
        await self._principals.expect_group(caller(req), Action.MODIFY, name)
        said = await body(req, Membership, MAX_ACCESS_BODY)
        await self._principals.add_member(caller(req), name, member, said.role)
        _done(req, resp)

    async def on_delete(self, req: Request, resp: Response, name: str, member: str) -> None:
        """Take it out."""
        await self._principals.remove_member(caller(req), name, member)
        _done(req, resp)


class SettingUp(_Resource):
    """A principal's first credential, which who has its code gives it: the caller is nobody."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """Take it."""
        said = await body(req, Setup, MAX_SETUP_BODY)
        await self._principals.set_up(caller(req), said.principal, said.code, said.credential)
        _done(req, resp)


def _done(req: Request, resp: Response) -> None:
    resp.status = falcon.HTTP_204
    answer(req, resp, None)


def _principal(kind: Kind, known: Known, now: str) -> PrincipalInfo:
    record = known.record
    if record is None:
        return PrincipalInfo(principal=f"{kind}:{known.name}", state="damaged", groups=dict(known.groups))
    pending = record.pending
    state: State = "disabled" if record.disabled else "active"
    if pending is not None and not record.disabled:
        state = "waiting" if pending.expires > now else "expired"
    return PrincipalInfo(
        principal=f"{kind}:{known.name}",
        state=state,
        groups=dict(known.groups),
        credentials=[_credential(each, known.used.get(each.id)) for each in record.credentials],
        created=record.created,
        created_by=record.created_by,
        note=record.note,
        setup_until=None if pending is None else pending.expires,
    )


def _credential(credential: Credential, used: str | None = None) -> CredentialInfo:
    """Return what may be told of a credential; of a kind that is not known here, nothing is public."""
    known = credential.kind in CREDENTIALS
    return CredentialInfo(
        id=credential.id,
        kind=credential.kind,
        name=credential.name,
        created=credential.created,
        expires=credential.expires,
        used=used,
        shown=kind_named(credential.kind).shown(credential.data) if known else {},
    )


def _group(known: KnownGroup) -> GroupInfo:
    record = known.record
    if record is None:
        return GroupInfo(name=known.name, damaged=True)
    return GroupInfo(
        name=known.name,
        members=dict(record.members),
        created=record.created,
        created_by=record.created_by,
        note=record.note,
    )

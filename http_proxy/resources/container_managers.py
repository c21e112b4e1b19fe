"""``/containermanagers`` and ``/containermanager/{name}``: how to reach them, and apart from that what opens them."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import msgspec

from strongroom.http_proxy.errors import Rejected, Request, Response
from strongroom.http_proxy.resources.base import (
    NONE_TO_CHANGE,
    Resource,
    as_told,
    check_at,
    check_new,
    expected_of,
    find,
    is_update,
    look,
    names_revision,
    overlay,
    remove_if_there,
    respond,
    settle,
    show,
    tag_of,
)
from strongroom.http_proxy.resources.twins import ATTEMPTS, check_may_each, claim, lock, save_where_none, take_back
from strongroom.models import ContainerManagerConfig, ContainerManagerConfigs, ContainerManagerCreds
from strongroom.storage_service import wire
from strongroom.storage_service.client import AsyncStorageClient, Record
from strongroom.storage_service.errors import Busy, Changed, Invalid, NotFound

_CREDENTIALS: Final = frozenset(field.name for field in msgspec.structs.fields(ContainerManagerCreds)) - {
    ContainerManagerCreds.primary_key
}
_OTHER: Final = "There is another container manager of that name; send If-Match to change it"
_OTHER_CREDS: Final = "The container manager is known with other credentials; remove it, and make it anew"
_KNOWN: Final = "There is a container manager of that name; send it without credentials to see whether it is the same"
_LEFT: Final = "The container manager was changed at the same time, and stays, without credentials; remove it again"
_MEANWHILE: Final = "Somebody else made or removed a container manager of that name at the same time"


class ContainerManagerCollection(Resource):
    """All container managers."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """List their names."""
        client = self.storage.for_caller(req)
        respond(resp, [record.model.name async for record in client.list(ContainerManagerConfigs)])


class ContainerManagerItem(Resource):
    """One container manager."""

    guarded = frozenset(("PUT", "DELETE"))

    async def on_get(self, req: Request, resp: Response, name: str) -> None:
        """Show how to reach it; what opens it lies elsewhere and is not shown."""
        show(resp, await self.storage.for_caller(req).get(ContainerManagerConfig, name))

    async def on_put(self, req: Request, resp: Response, name: str) -> None:
        """Make it; one that is there already must be the same, or is changed where If-Match names it.

        Options that open it (``token``, ``password`` and the other fields of its credentials) are taken out and kept
        as a secret. Of many who make one of a name at a time, he wins whose plain record is stored, and he alone stores
        credentials. A PUT that failed half-way, before it stored them, can be sent again.

        Who may not see credentials is not told whether those of a known one are these: nobody looks.
        """
        told = expected_of(req)
        body = await self.read_for(req, ContainerManagerConfig, name)
        settle(body, "name", name)
        options = body.get("options", {})
        if not isinstance(options, dict):
            raise Invalid("the body is not valid", (("options", "must be an object"),))
        if "options" in body:
            body["options"] = {option: value for option, value in options.items() if option not in _CREDENTIALS}
        taken = {option: value for option, value in options.items() if option in _CREDENTIALS}
        config = ContainerManagerConfig.from_dict(body)
        creds = ContainerManagerCreds.from_dict({"name": name, **taken}) if taken else None
        client = self.storage.for_caller(req)
        if is_update(told):
            (existing,) = await client.get_many(ContainerManagerConfig, [name])
            if existing is None:
                raise Changed(NONE_TO_CHANGE)
            check_at(told, existing.etag)
            if creds is not None:
                await _check_same(client, creds, taken)
            change = self.storage.changed(client, ContainerManagerConfig, name, overlay(body, config), etag=told)
            show(resp, await as_told(change))
            return
        if creds is not None:
            await client.check_may("create", ContainerManagerCreds, name)
        (existing,) = await client.get_many(ContainerManagerConfig, [name])
        if existing is None:
            made = await _make(client, config, _to_store(creds))
        else:
            check_new(told)
            completed = await _complete(client, existing, config, creds, said=taken)
            if completed is None:
                show(resp, existing)
                return
            made = completed
        resp.location = f"{wire.API_PATH}/containermanager/{name}"
        show(resp, made, 201)

    async def on_delete(self, req: Request, resp: Response, name: str) -> None:
        """Remove it, what opens it first: a deletion that fails is told, and can be asked for again.

        Who may not do all of it does nothing of it. One that is made anew meanwhile is removed, too (see ``twins``).
        With a tag in If-Match, it is the revision of that tag that is removed, and no other.
        """
        told = expected_of(req)
        client = self.storage.for_caller(req)
        await check_may_each(client, "delete", (ContainerManagerConfig, name), (ContainerManagerCreds, name))
        if names_revision(told):
            await client.check_may("put", ContainerManagerConfig, name)
        for _ in range(ATTEMPTS):
            etag = await tag_of(client, ContainerManagerConfig, name)
            check_at(told, etag)
            if names_revision(told):
                etag = (await claim(client, await client.get(ContainerManagerConfig, name), told)).etag
            await remove_if_there(client, ContainerManagerCreds, name)
            with suppress(Changed):
                await client.delete(ContainerManagerConfig, name, etag=etag)
                break
            if names_revision(told):
                raise Rejected(409, _LEFT)
        else:
            raise Busy("others keep changing this container manager")
        respond(resp, [])


def _to_store(creds: ContainerManagerCreds | None) -> ContainerManagerCreds | None:
    """Return *creds* if they open something: those that are empty would only stand in the way of the first."""
    if creds is None or not _differ(None, creds, _CREDENTIALS):
        return None
    return creds


def _differ(stored: ContainerManagerCreds | None, creds: ContainerManagerCreds, said: Iterable[str]) -> bool:
    """Return whether one of the fields *said* of *creds* is not as it is *stored*; where nothing is, all are empty."""
    there = stored or ContainerManagerCreds(name=creds.name)
    return any(getattr(there, field) != getattr(creds, field) for field in said)


async def _make(
    client: AsyncStorageClient, config: ContainerManagerConfig, creds: ContainerManagerCreds | None
) -> Record[ContainerManagerConfig]:
    """Make a container manager that is not there, and return it.

    What an earlier one of the name left must not open this one, and goes first. It is no credentials of one that was
    made meanwhile: those are stored after their config, and there is still none after their revision was read.

    Raises:
        Exists: there is one by now.
        Rejected: somebody else is making or removing one at the same time.
    """
    left = await client.find_tag(ContainerManagerCreds, config.name)
    if left is not None:
        await client.check_may("delete", ContainerManagerCreds, config.name)
        if await find(client, ContainerManagerConfig, config.name) is not None:
            raise Rejected(409, _MEANWHILE)
        try:
            await client.delete(ContainerManagerCreds, config.name, etag=left)
        except (Changed, NotFound):
            raise Rejected(409, _MEANWHILE) from None
    made = await client.save(config, etag=wire.NEW)
    if creds is None:
        return made
    if (opened := await _open(client, made, creds)) is not None:
        return opened
    await take_back(client, made)
    raise Rejected(409, _MEANWHILE)


async def _open(
    client: AsyncStorageClient, config: Record[ContainerManagerConfig], creds: ContainerManagerCreds
) -> Record[ContainerManagerConfig] | None:
    """Store *creds* of *config* where there are none; return it if they and it were stored, else nothing is."""
    opened = await save_where_none(client, creds)
    if opened is None:
        return None
    locked = await lock(client, config)
    if locked is None:
        await take_back(client, opened)
    return locked


async def _check_same(client: AsyncStorageClient, creds: ContainerManagerCreds, said: Iterable[str]) -> None:
    """Return if those fields that an update has *said* of the credentials, which it does not change, are so.

    Raises:
        Rejected: they are not, or the caller may not know whether they are.
    """
    stored = await look(client, ContainerManagerCreds, creds.name, Rejected(409, _KNOWN))
    if _differ(stored, creds, said):
        raise Rejected(409, _OTHER_CREDS)


async def _complete(
    client: AsyncStorageClient,
    existing: Record[ContainerManagerConfig],
    config: ContainerManagerConfig,
    creds: ContainerManagerCreds | None,
    *,
    said: Iterable[str],
) -> Record[ContainerManagerConfig] | None:
    """Return *existing*, which is *config*, if it had no credentials yet and has *creds* now; None if it is complete.

    Of credentials that it has, those fields must be so that were *said*: none, by who sends back what was shown.

    Raises:
        Rejected: it is another, or the caller says credentials and may not know whether they are the same.
    """
    if existing.model != config:
        raise Rejected(409, _OTHER)
    if creds is None:
        return None
    stored = None
    if await client.find_tag(ContainerManagerCreds, config.name) is not None:
        stored = await look(client, ContainerManagerCreds, config.name, Rejected(409, _KNOWN))
    if stored is not None:
        if _differ(stored, creds, said):
            raise Rejected(409, _OTHER_CREDS)
        return None
    if _to_store(creds) is None:
        return None
    completed = await _open(client, existing, creds)
    if completed is None:
        raise Rejected(409, _MEANWHILE)
    return completed

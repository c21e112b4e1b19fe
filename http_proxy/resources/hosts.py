"""``/hosts`` and ``/host/{address}``: machines, and apart from them what opens them."""

import functools
from collections.abc import Container
from contextlib import suppress
from typing import Final, NamedTuple

import falcon

from strongroom.http_proxy.errors import Rejected, Request, Response
from strongroom.http_proxy.resources.additions import NO_CLUSTER, Addition
from strongroom.http_proxy.resources.base import (
    CHANGED,
    NONE_TO_CHANGE,
    Resource,
    Storage,
    as_told,
    check_at,
    check_new,
    differing,
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
)
from strongroom.http_proxy.resources.clusters import leaving
from strongroom.http_proxy.resources.twins import ATTEMPTS, check_may_each, claim, take_back
from strongroom.models import Cluster, Clusters, Host, HostCreds, HostStatus, Model
from strongroom.storage_service import wire
from strongroom.storage_service.client import AsyncStorageClient, Record
from strongroom.storage_service.client.operations import ANY_REVISION
from strongroom.storage_service.errors import Busy, Changed, Invalid, NotFound

_CREDENTIALS: Final = ("ssh_priv_key", "remote_user")  # members of a PUT that belong to HostCreds
_OTHER_KEY: Final = "The host is known with another key; PUT its creds to change that"
_OTHER_USER: Final = "The host is known with another remote_user; PUT its creds to change that"
_OTHER_FIELDS: Final = "The host is known, and says something else of the fields sent; send If-Match to change it"
_NO_KEY_YET: Final = "The host is known and has no credentials yet; send them without If-Match"
_OTHER_SOURCE: Final = "The host is known with another source"
_NO_KEY: Final = "A remote_user without a key opens nothing; send ssh_priv_key, too"
_KNOWN: Final = "The host is known; send it without credentials to see it"
_LEFT: Final = (
    "The host was changed at the same time, and stays, without credentials; remove it again, or PUT its creds"
)
_NOT_THERE: Final = "The host is known and not in that cluster"


class HostCollection(Resource):
    """All hosts."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """List their records, without credentials."""
        client = self.storage.for_caller(req)
        respond(resp, [host.to_dict_safe() async for host in self.storage.hosts.list(client)])


class NewHost(Resource):
    """A host whose address stands in the body."""

    guarded = frozenset(("PUT",))

    async def on_put(self, req: Request, resp: Response) -> None:
        """Add it, or change it, as `HostItem` does."""
        await _put(self.storage, req, resp, await self.read_for(req, Host, None))


class HostItem(Resource):
    """One host. Investigating a new one and joining it to its cluster's software is the platform's part."""

    guarded = frozenset(("PUT", "DELETE"))

    async def on_get(self, req: Request, resp: Response, address: str) -> None:
        """Show its record, without credentials."""
        show(resp, await self.storage.hosts.get_record(self.storage.for_caller(req), address))

    async def on_put(self, req: Request, resp: Response, address: str) -> None:
        """Add it: ``ssh_priv_key``, ``remote_user`` and, if it is to join one, ``cluster``; If-Match changes it."""
        body = await self.read_for(req, Host, address)
        settle(body, "address", address)
        await _put(self.storage, req, resp, body)

    async def on_delete(self, req: Request, resp: Response, address: str) -> None:
        """Remove the host, its credentials first: a deletion that fails is told, and can be asked for again.

        Who may not do all of it does nothing of it. Of what is no host nothing is removed, credentials of that
        address neither. If the host is changed or made anew meanwhile, it is removed as it is then (see ``twins``).
        With a tag in If-Match, it is the revision of that tag that is removed, and no other.
        """
        told = expected_of(req)
        client, hosts = self.storage.for_caller(req), self.storage.hosts
        await check_may_each(client, "delete", (Host, address), (HostCreds, address))
        if names_revision(told):
            await client.check_may("put", Host, address)
        removed = False
        for _ in range(ATTEMPTS):
            found = await hosts.revisions(client, address)
            if not found:
                break
            check_at(told, found[0].etag)
            clusters = [record.model.name async for record in client.list(Clusters) if address in record.model.hostset]
            for action in ("get", "put"):
                await check_may_each(client, action, *((Cluster, name) for name in clusters))
            if names_revision(told):
                claimed = await claim(client, await hosts.get_record(client, address), told)
                found = await hosts.revisions(client, address)
                if not found or found[0].etag != claimed.etag:
                    raise Changed(CHANGED)
            await remove_if_there(client, HostCreds, address)
            for name in clusters:
                with suppress(NotFound):  # it went meanwhile
                    await self.storage.change(client, Cluster, name, leaving(address))
            gone = await hosts.remove(client, address, found)
            removed |= any(gone)
            if all(gone) or (names_revision(told) and gone[0]):
                break
            if names_revision(told) and await hosts.is_there(client, address):
                raise Rejected(409, _LEFT)
        else:
            raise Busy("others keep changing this host")
        if not removed:
            raise NotFound("there is no such host")
        respond(resp, [])


class HostCredentials(Resource):
    """What opens a host; for those alone who may see credentials."""

    guarded = frozenset(("PUT",))

    async def on_get(self, req: Request, resp: Response, address: str) -> None:
        """Show it in the clear; of an address that is no host's nothing is shown."""
        client = self.storage.for_caller(req)
        record = await client.get(HostCreds, address)
        await self.storage.hosts.check_there(client, address)
        resp.set_header("ETag", record.etag)
        respond(resp, record.model.to_dict())

    async def on_put(self, req: Request, resp: Response, address: str) -> None:
        """Replace it, for a key that was changed; with ``If-Match``, only if it is still the one that was read.

        With ``If-None-Match: *``, only where there is none. A key that is missing destroys none.

        A host that has none yet gets it, as by a PUT of the host.
        """
        body = await self.read_for(req, HostCreds, address)
        settle(body, "address", address)
        creds = HostCreds.from_dict(body)
        if not creds.ssh_priv_key:
            raise Invalid("credentials without a key would destroy the key", (("ssh_priv_key", "is missing"),))
        client = self.storage.for_caller(req)
        await self.storage.hosts.check_there(client, address)
        told = expected_of(req)
        try:
            saved = await client.save(creds, etag=ANY_REVISION if told is None else told)
        except Changed:
            if told is not None:
                raise
            saved = await self._save_first(client, creds)
        if not await self.storage.hosts.is_there(client, address):
            await take_back(client, saved)
            raise NotFound("there is no such host any more")
        resp.set_header("ETag", saved.etag)
        resp.status = falcon.HTTP_204

    async def _save_first(self, client: AsyncStorageClient, creds: HostCreds) -> Record[HostCreds]:
        """Store *creds* of a host that has none.

        Raises:
            Rejected: others store some, or change or remove the host, at the same time.
        """
        await client.check_may("put", Host, creds.address)
        host = await self.storage.hosts.find_record(client, creds.address)
        if host is None:
            raise NotFound("there is no such host")
        addition = Addition(self.storage, client, creds.address, creds)
        await addition.finish(host)
        return addition.opened


class HostStatusItem(Resource):
    """How a host is."""

    async def on_get(self, req: Request, resp: Response, address: str) -> None:
        """Show what its record says; what a container manager knows of it, the platform adds."""
        host = await self.storage.hosts.get(self.storage.for_caller(req), address)
        status = HostStatus(type="host_only", host={"last_check": host.last_check, "status": host.status})
        respond(resp, status.to_dict_safe())


class _Wanted(NamedTuple):
    """What the body of a PUT says of a host."""

    own: dict[str, object]  # members of the host's own record that can be changed, and
    host: Host  # that record, had it nothing else
    given: dict[str, object]  # members of its credentials, and
    creds: HostCreds  # those, had they nothing else
    cluster: str  # to be in; "" for none

    @property
    def opens(self) -> HostCreds | None:
        """The credentials to store; None without a key, for then they would stand in the way of the first."""
        return self.creds if self.creds.ssh_priv_key else None

    def check_user(self) -> None:
        """Return unless a user is said of a host that has no key, and none is said.

        Raises:
            Rejected: so it is.
        """
        if "remote_user" in self.given and self.opens is None:
            raise Rejected(409, _NO_KEY)

    @classmethod
    def of(cls, body: dict[str, object]) -> "_Wanted":
        """Read *body*.

        Raises:
            Invalid, ValidationError: it is not valid.
        """
        cluster = body.pop("cluster", "")
        if not isinstance(cluster, str):
            raise Invalid("the body is not valid", (("cluster", "must be a string"),))
        given: dict[str, object] = {name: body.pop(name) for name in _CREDENTIALS if name in body}
        host = Host.from_dict(body)
        return cls(
            {field: value for field, value in body.items() if field != "source"},
            host,
            given,
            HostCreds.from_dict({"address": host.address, **given}),
            cluster,
        )


async def _put(storage: Storage, req: Request, resp: Response, body: dict[str, object]) -> None:
    told = expected_of(req)
    if is_update(told):
        await _update(storage, req, resp, _Wanted.of(body), told)
    else:
        await _add(storage, req, resp, _Wanted.of(body), told)


async def _update(storage: Storage, req: Request, resp: Response, wanted: _Wanted, told: str) -> None:
    """Put what the body names of the host's own record into the record that If-Match means.

    Its credentials, source and place in clusters are not changed here: what is said of them must be so.
    """
    client, host = storage.for_caller(req), wanted.host
    existing = await storage.hosts.find_record(client, host.address)
    if existing is None:
        raise Changed(NONE_TO_CHANGE)
    check_at(told, existing.etag)
    _check_source(host, existing.model)
    await _find_cluster(client, wanted, is_member=True)
    if wanted.given:
        stored = await look(client, HostCreds, host.address, Rejected(409, _KNOWN))
        if stored is None:
            raise Rejected(409, _NO_KEY_YET)
        _check_same(stored, wanted, wanted.given)
    read = functools.partial(storage.hosts.get_record, client, host.address)
    edit = overlay(wanted.own, host)
    show(resp, await as_told(storage.changed(client, Host, host.address, edit, etag=told, read=read)))


async def _add(storage: Storage, req: Request, resp: Response, wanted: _Wanted, told: str | None) -> None:
    """Add a host and what opens it (see `Addition`).

    The credentials are written last and only where there are none: so of many who add one host at a time one wins, and
    a PUT that failed half-way can be sent again. Without a key none are written, and a later PUT brings them. A host
    that is there with its credentials is only shown, provided that all that is said of it is so. Who may not see
    credentials is not told whether a key is the same, for nobody looks: those of a known host are not said again.
    """
    host, cluster = wanted.host, wanted.cluster
    client = storage.for_caller(req)
    each: list[tuple[type[Model], str]] = [(Host, host.address), *([(Cluster, cluster)] if cluster else [])]
    await check_may_each(client, "put", *each)
    await client.check_may("create", HostCreds, host.address)

    existing = await storage.hosts.find_record(client, host.address)
    if existing is not None:
        check_new(told)
        _check_source(host, existing.model)
    joined = await _find_cluster(client, wanted)
    if existing is not None and differing(wanted.own, host, existing.model):
        raise Rejected(409, _OTHER_FIELDS)
    outside = joined is not None and host.address not in joined.hostset
    addition = Addition(storage, client, host.address, wanted.opens, cluster)
    if existing is None:
        wanted.check_user()
        added = await addition.make(host)
    elif not await _is_known(client, wanted, outside=outside):
        added = await addition.finish(existing)
    elif outside:
        raise Rejected(409, _NOT_THERE)
    else:
        show(resp, existing)
        return
    resp.location = f"{wire.API_PATH}/host/{host.address}"
    show(resp, added, 201)


async def _is_known(client: AsyncStorageClient, wanted: _Wanted, *, outside: bool) -> bool:
    """Return whether a host that is there is all that is said of it; if not, the addition has something to do.

    That is credentials, where it has none and some are said, or to join the cluster that it is *outside* of, where it
    has none. Those that there are nobody reads where none are said.

    Raises:
        Rejected: they are others than those said, or the caller said some and may not know whether they are.
    """
    address = wanted.host.address
    if await client.find_tag(HostCreds, address) is not None:
        if not wanted.given:
            return True
        if (stored := await look(client, HostCreds, address, Rejected(409, _KNOWN))) is not None:
            _check_same(stored, wanted, wanted.given)
            return True
    wanted.check_user()
    return wanted.opens is None and not outside


async def _find_cluster(client: AsyncStorageClient, wanted: _Wanted, *, is_member: bool = False) -> Cluster | None:
    """Return the cluster that a host is to be in, None where none is said.

    Raises:
        Rejected: there is none of that name, or the host, which *is_member*, is not in it.
    """
    if not wanted.cluster:
        return None
    cluster = await find(client, Cluster, wanted.cluster)
    if cluster is None:
        raise Rejected(409, NO_CLUSTER)
    if is_member and wanted.host.address not in cluster.hostset:
        raise Rejected(409, _NOT_THERE)
    return cluster


def _check_source(host: Host, existing: Host) -> None:
    if host.source.strip() not in ("", existing.source.strip()):
        raise Rejected(409, _OTHER_SOURCE)


def _check_same(stored: HostCreds, wanted: _Wanted, fields: Container[str]) -> None:
    """Return if those *fields* of a host's credentials are as the caller wants them.

    Raises:
        Rejected: one is not.
    """
    if "ssh_priv_key" in fields and stored.ssh_priv_key != wanted.creds.ssh_priv_key:
        raise Rejected(409, _OTHER_KEY)
    if "remote_user" in fields and stored.remote_user != wanted.creds.remote_user:
        raise Rejected(409, _OTHER_USER)

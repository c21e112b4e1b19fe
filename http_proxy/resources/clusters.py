"""``/clusters`` and ``/cluster/{name}``: sets of hosts, their members, and the operations over all of them."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import msgspec

from strongroom.http_proxy.errors import Rejected, Request, Response
from strongroom.http_proxy.resources.base import (
    Resource,
    Storage,
    as_told,
    check_at,
    check_new,
    differing,
    expected_of,
    find,
    is_update,
    names_revision,
    overlay,
    remove_if_there,
    respond,
    save_new,
    settle,
    show,
    tag_of,
    texts,
)
from strongroom.http_proxy.resources.places import is_address
from strongroom.http_proxy.resources.twins import check_may_each, claim
from strongroom.http_proxy.schemas import Counts
from strongroom.models import (
    DEFAULT_NETWORK,
    Cluster,
    ClusterDeploy,
    ClusterRestart,
    Clusters,
    ClusterState,
    ClusterUpgrade,
    HostState,
    Model,
    Network,
    OperationState,
)
from strongroom.storage_service import wire
from strongroom.storage_service.client import AsyncStorageClient, Record
from strongroom.storage_service.client.operations import ANY_REVISION
from strongroom.storage_service.errors import Changed, Invalid, NotFound

_MAY_JOIN: Final = frozenset((HostState.ACTIVE, HostState.DISASSOCIATED))
_NO_HOSTS: Final = {"total": 0, "available": 0, "unavailable": 0}
_LEFT: Final = "The cluster was changed at the same time, and stays, without its operations; remove it again"
_OPERATIONS: Final = (ClusterDeploy, ClusterRestart, ClusterUpgrade)


class ClusterCollection(Resource):
    """All clusters."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """List their names."""
        respond(resp, [record.model.name async for record in self.storage.for_caller(req).list(Clusters)])


class ClusterItem(Resource):
    """One cluster."""

    guarded = frozenset(("PUT", "DELETE"))

    async def on_get(self, req: Request, resp: Response, name: str) -> None:
        """Show its record, with how many of its hosts are available and what that makes of its status."""
        client = self.storage.for_caller(req)
        cluster, etag = await client.get(Cluster, name)
        hosts = await self.storage.hosts.get_many(client, cluster.hostset)
        total = len(cluster.hostset)
        available = sum(host is not None and host.status is HostState.ACTIVE for host in hosts)
        cluster.status = _state(total, available)
        counts = {"total": total, "available": available, "unavailable": total - available}
        resp.set_header("ETag", etag)  # of the record: what is counted has none
        respond(resp, {**cluster.to_dict_safe(), "hosts": counts})

    async def on_put(self, req: Request, resp: Response, name: str) -> None:
        """Make the cluster, or change what the body says of it and nothing else: its hosts stay unless given.

        What is reckoned when it is shown may be sent back, and counts for nothing. A network that does not exist
        becomes the default one. With If-Match, only at that revision.
        """
        told = expected_of(req)
        body = await self.read_for(req, Cluster, name)
        settle(body, "name", name)
        _drop_counts(body)
        wanted = Cluster.from_dict(body)
        _drop_status(body, wanted)
        _check_addresses("hostset", wanted.hostset)
        client = self.storage.for_caller(req)
        if "network" in body and await find(client, Network, wanted.network) is None:
            wanted.network = DEFAULT_NETWORK
        edit = overlay(body, wanted)
        if is_update(told):
            show(resp, await as_told(self.storage.changed(client, Cluster, name, edit, etag=told)))
            return
        if told is None:
            with suppress(NotFound):
                cluster, _ = await self.storage.changed(client, Cluster, name, edit)
                show(resp, cluster)
                return
        show(resp, await save_new(client, wanted), 201)
        resp.location = f"{wire.API_PATH}/cluster/{name}"

    async def on_delete(self, req: Request, resp: Response, name: str) -> None:
        """Remove the cluster and the records of operations over it; its hosts stay.

        Who may not do all of it does nothing of it. With a tag in If-Match, it is the revision of that tag that is
        removed, and no other.
        """
        told = expected_of(req)
        client = self.storage.for_caller(req)
        await check_may_each(client, "delete", (Cluster, name), *((operation, name) for operation in _OPERATIONS))
        if names_revision(told):
            await client.check_may("put", Cluster, name)
        check_at(told, await tag_of(client, Cluster, name))
        etag = None
        if names_revision(told):
            etag = (await claim(client, await client.get(Cluster, name), told)).etag
        for operation in _OPERATIONS:
            await remove_if_there(client, operation, name)
        try:
            await client.delete(Cluster, name, etag=etag)
        except Changed:
            raise Rejected(409, _LEFT) from None
        respond(resp, [])


class ClusterMembers(Resource):
    """The hosts of a cluster; their tag is the cluster's."""

    guarded = frozenset(("PUT",))

    async def on_get(self, req: Request, resp: Response, name: str) -> None:
        """List their addresses."""
        _list_hosts(resp, await self.storage.for_caller(req).get(Cluster, name))

    async def on_put(self, req: Request, resp: Response, name: str) -> None:
        """Put the hosts *new* in the place of *old*, provided that *old* is what they are.

        With If-Match, only of a cluster at that revision.
        """
        told = expected_of(req)
        body = await self.read_for(req, Cluster, name)
        old, new = texts(body, "old"), list(dict.fromkeys(texts(body, "new")))
        _check_addresses("new", new)
        client = self.storage.for_caller(req)

        def replace(cluster: Cluster) -> bool:
            _check_same(cluster, old)
            cluster.hostset = new
            return True

        cluster, etag = await client.get(Cluster, name)
        check_at(told, etag)
        _check_same(cluster, old)
        await _check_may_join(self.storage, client, [address for address in new if address not in old])
        changed, _ = await self.storage.changed(client, Cluster, name, replace, etag=told or ANY_REVISION)
        _list_hosts(resp, changed)


class ClusterMember(Resource):
    """One host of a cluster."""

    async def on_get(self, req: Request, resp: Response, name: str, address: str) -> None:
        """Show that it is one."""
        cluster = (await self.storage.for_caller(req).get(Cluster, name)).model
        if address not in cluster.hostset:
            raise NotFound("no host of this cluster")
        respond(resp, [address])

    async def on_put(self, req: Request, resp: Response, name: str, address: str) -> None:
        """Add it; that it is there already is no error."""
        client = self.storage.for_caller(req)
        await self.storage.hosts.get(client, address)
        respond(resp, (await self.storage.change(client, Cluster, name, joining(address))).hostset)

    async def on_delete(self, req: Request, resp: Response, name: str, address: str) -> None:
        """Remove it; that it is not there is no error."""
        await self.storage.change(self.storage.for_caller(req), Cluster, name, leaving(address))
        respond(resp, [])


class ClusterOperation(Resource):
    """One kind of operation over all hosts of a cluster.

    Only its record is kept here. Starting the work, and writing down how far it is, is the platform's part.
    """

    guarded = frozenset(("PUT",))

    def __init__(self, storage: Storage, model: type[Model], now: Callable[[], datetime] | None = None) -> None:
        super().__init__(storage)
        self._model = model
        self._now = now or (lambda: datetime.now(UTC))

    async def on_get(self, req: Request, resp: Response, name: str) -> None:
        """Show how far it is."""
        show(resp, await self.storage.for_caller(req).get(self._model, name))

    async def on_put(self, req: Request, resp: Response, name: str) -> None:
        """Ask for it; a deployment needs the ``version``.

        With If-Match, only in the place of the one at that revision; with If-None-Match, only where there is none.
        How far one is may be said, and counts for nothing: who sends back what he was shown starts none.
        """
        told = expected_of(req)
        body = await self.read_for(req, self._model, name)
        settle(body, "name", name)
        begun = {
            "status": OperationState.IN_PROCESS.value,
            "started_at": self._now().replace(tzinfo=None).isoformat(timespec="microseconds"),
        }
        said = self._model.from_dict(body)
        asked: dict[str, object] = {field: body[field] for field in ("name", "version") if field in body}
        operation = self._model.from_dict({**asked, **begun})
        client = self.storage.for_caller(req)
        await client.get(Cluster, name)
        if body.get("started_at"):
            (there,) = await client.get_many(self._model, [name])
            if there is not None and not differing(body, said, there.model):
                check_new(told)
                check_at(told, there.etag)
                show(resp, there)
                return
        show(resp, await client.save(operation, etag=told), 201)


def joining(address: str) -> Callable[[Cluster], bool]:
    """Return the change that adds a host to a cluster."""

    def edit(cluster: Cluster) -> bool:
        joins = address not in cluster.hostset
        if joins:
            cluster.hostset = [*cluster.hostset, address]
        return joins

    return edit


def staying(address: str) -> Callable[[Cluster], bool]:
    """Return the change that has a host in a cluster, and gives the cluster another revision in any case."""

    def edit(cluster: Cluster) -> bool:
        joining(address)(cluster)
        return True

    return edit


def leaving(address: str) -> Callable[[Cluster], bool]:
    """Return the change that takes a host out of a cluster."""

    def edit(cluster: Cluster) -> bool:
        leaves = address in cluster.hostset
        cluster.hostset = [member for member in cluster.hostset if member != address]
        return leaves

    return edit


def _list_hosts(resp: Response, cluster: Record[Cluster]) -> None:
    resp.set_header("ETag", cluster.etag)
    respond(resp, cluster.model.hostset)


def _state(total: int, available: int) -> ClusterState:
    if available == total:
        return ClusterState.OK
    return ClusterState.DEGRADED if available else ClusterState.FAILED


def _drop_counts(body: dict[str, object]) -> None:
    """Take the counts of hosts out of *body*: they are what they are, whoever sends back what was shown.

    Raises:
        Invalid: they are no such counts.
    """
    try:
        msgspec.convert(body.pop("hosts", _NO_HOSTS), Counts)
    except msgspec.ValidationError:
        raise Invalid("the body is not valid", (("hosts", "must be counts, as the cluster is shown with"),)) from None


def _drop_status(body: dict[str, object], wanted: Cluster) -> None:
    """Take the status out of *body* and of the *wanted* record, where it would be stored and never shown."""
    body.pop("status", None)
    wanted.status = ClusterState.UNKNOWN


def _check_addresses(field: str, addresses: list[str]) -> None:
    if not all(map(is_address, addresses)):
        raise Invalid("the body is not valid", ((field, "holds an item that is not the address of a host"),))


def _check_same(cluster: Cluster, hosts: list[str]) -> None:
    if set(hosts) != set(cluster.hostset):
        raise Rejected(409, "The cluster has other hosts than the body says")


async def _check_may_join(storage: Storage, client: AsyncStorageClient, addresses: list[str]) -> None:
    for host in await storage.hosts.get_many(client, addresses):
        if host is None:
            raise NotFound("there is no such host")
        if host.status not in _MAY_JOIN:
            raise Rejected(405, "A host joins a cluster when it is active or disassociated")

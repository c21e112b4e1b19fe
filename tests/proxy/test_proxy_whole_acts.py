"""An act that takes several writes is refused before the first of them, or not at all."""

from collections.abc import Sequence

import pytest

from strongroom.models import (
    Cluster,
    ClusterDeploy,
    ClusterRestart,
    ClusterUpgrade,
    Host,
    HostCreds,
)
from strongroom.models.secret import Secret
from tests.proxy.conftest import Platform
from tests.proxy.test_proxy_resources import KEY, Api, as_key, fresh

ALL = ("get", "list", "put", "delete")

NARROW: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "no clusters": (["/hosts", "/secrets/hosts"], ALL),
    "no list of clusters": (["/"], ["get", "delete"]),
    "no change of a cluster": (["/"], ["get", "list", "delete"]),
    "no look at a cluster": (["/"], ["list", "put", "delete"]),
    "another cluster": (["/hosts", "/secrets/hosts", "/clusters/", "/clusters/another"], ALL),
    "no credentials": (["/hosts", "/clusters"], ALL),
    "no delete": (["/"], ["get", "list", "put"]),
}


@pytest.mark.parametrize("story", NARROW)
async def test_a_refused_deletion_of_a_host_destroys_nothing(platform: Platform, story: str) -> None:
    """A key that may not do all of it is told 403, and host, credentials and membership are as they were."""
    address, cluster = fresh("whole"), fresh("cluster")
    await platform.inside.save(Host(address=address))
    creds = await platform.inside.save(HostCreds(address=address, ssh_priv_key=Secret(KEY)))
    member = await platform.inside.save(Cluster(name=cluster, hostset=[address]))
    paths, actions = NARROW[story]
    key = await platform.inside.create_apikey(fresh("narrow"), paths=paths, actions=actions)

    assert (await Api(platform, *as_key(key))("DELETE", f"host/{address}"))[0] == 403
    assert (await platform.inside.get(HostCreds, address)).etag == creds.etag
    assert (await platform.inside.get(Cluster, cluster)).etag == member.etag
    assert (await platform.inside.get(Host, address)).model.address == address


OPERATIONS = (ClusterDeploy, ClusterRestart, ClusterUpgrade)


@pytest.mark.parametrize("left_out", [Cluster, *OPERATIONS])
async def test_a_refused_deletion_of_a_cluster_destroys_nothing(
    platform: Platform, left_out: type[Cluster | ClusterDeploy | ClusterRestart | ClusterUpgrade]
) -> None:
    """A key that does not reach one of the records is told 403, and all of them are there."""
    name = fresh("whole")
    await platform.inside.save(Cluster(name=name))
    await platform.inside.save(ClusterDeploy(name=name, version="7"))
    await platform.inside.save(ClusterRestart(name=name))
    await platform.inside.save(ClusterUpgrade(name=name))
    paths = [f"/{model.plural}" for model in (Cluster, *OPERATIONS) if model is not left_out]
    key = await platform.inside.create_apikey(fresh("narrow"), paths=paths)

    assert (await Api(platform, *as_key(key))("DELETE", f"cluster/{name}"))[0] == 403
    for model in (Cluster, *OPERATIONS):
        assert (await platform.inside.get(model, name)).model.key == name


async def test_a_refused_addition_of_a_host_leaves_nothing(platform: Platform) -> None:
    """A key that may not store the credentials, or join the cluster, adds no host."""
    address, cluster = fresh("whole"), fresh("cluster")
    await platform.inside.save(Cluster(name=cluster))
    for paths, body in (
        (["/hosts", "/clusters"], {"ssh_priv_key": KEY}),
        (["/hosts", "/clusters"], {"ssh_priv_key": KEY, "cluster": cluster}),
        (["/hosts", "/secrets/hosts"], {"ssh_priv_key": KEY, "cluster": cluster}),
    ):
        key = Api(platform, *as_key(await platform.inside.create_apikey(fresh("narrow"), paths=paths)))
        for path, more in ((f"host/{address}", {}), ("host", {"address": address})):
            assert (await key("PUT", path, {**body, **more}))[0] == 403
    assert await platform.inside.get_many(Host, [address]) == [None]
    assert await platform.inside.get_many(HostCreds, [address]) == [None]
    assert (await platform.inside.get(Cluster, cluster)).model.hostset == []


async def test_a_deletion_takes_no_more_rights_than_it_uses(platform: Platform) -> None:
    """What an act does not take is not asked for: a host without memberships needs no right to change clusters."""
    address = fresh("whole")
    await platform.inside.save(Host(address=address))
    await platform.inside.save(HostCreds(address=address, ssh_priv_key=Secret(KEY)))
    key = await platform.inside.create_apikey(fresh("narrow"), paths=["/"], actions=["get", "list", "delete"])

    assert await Api(platform, *as_key(key))("DELETE", f"host/{address}") == (200, [])
    assert await platform.inside.get_many(HostCreds, [address]) == [None]

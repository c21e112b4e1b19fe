"""The model routes: Commissaire's REST paths, over the records that the storage service keeps."""

from typing import Final

from strongroom.http_proxy.errors import FalconApp, Request, Response
from strongroom.http_proxy.resources.base import Resource, Storage, respond
from strongroom.http_proxy.resources.clusters import (
    ClusterCollection,
    ClusterItem,
    ClusterMember,
    ClusterMembers,
    ClusterOperation,
)
from strongroom.http_proxy.resources.container_managers import ContainerManagerCollection, ContainerManagerItem
from strongroom.http_proxy.resources.hosts import HostCollection, HostCredentials, HostItem, HostStatusItem, NewHost
from strongroom.http_proxy.resources.networks import NetworkCollection, NetworkItem
from strongroom.models import ClusterDeploy, ClusterRestart, ClusterUpgrade
from strongroom.storage_service import wire

ENDPOINTS: Final = {
    "secrets": f"{wire.PROXIED_SECRETS_PATH}/",
    "hosts": f"{wire.API_PATH}/hosts/",
    "clusters": f"{wire.API_PATH}/clusters/",
    "networks": f"{wire.API_PATH}/networks/",
    "containermanagers": f"{wire.API_PATH}/containermanagers/",
}
"""Where things are; CPD-101 asks that the secrets endpoint can be found out."""


class Index(Resource):
    """The root of the API."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """Tell where things are; the service is asked for its status, so that it is on record who came."""
        await self.storage.for_caller(req).status()
        respond(resp, {"endpoints": ENDPOINTS})


def add_routes(app: FalconApp, storage: Storage) -> None:
    """Give *app* every resource of this package."""
    routes: dict[str, Resource] = {
        "/": Index(storage),
        "/hosts": HostCollection(storage),
        "/host": NewHost(storage),
        "/host/{address}": HostItem(storage),
        "/host/{address}/creds": HostCredentials(storage),
        "/host/{address}/status": HostStatusItem(storage),
        "/clusters": ClusterCollection(storage),
        "/cluster/{name}": ClusterItem(storage),
        "/cluster/{name}/hosts": ClusterMembers(storage),
        "/cluster/{name}/hosts/{address}": ClusterMember(storage),
        "/cluster/{name}/deploy": ClusterOperation(storage, ClusterDeploy),
        "/cluster/{name}/restart": ClusterOperation(storage, ClusterRestart),
        "/cluster/{name}/upgrade": ClusterOperation(storage, ClusterUpgrade),
        "/networks": NetworkCollection(storage),
        "/network/{name}": NetworkItem(storage),
        "/containermanagers": ContainerManagerCollection(storage),
        "/containermanager/{name}": ContainerManagerItem(storage),
    }
    for path, resource in routes.items():
        app.add_route(wire.API_PATH + path.rstrip("/"), resource)

"""Networks that clusters are joined to."""

from enum import StrEnum
from typing import Final

from strongroom.models.base import ListModel, Model

DEFAULT_NETWORK: Final = "default"
"""The network of a cluster that names none: ``Network(name=DEFAULT_NETWORK)``."""


class NetworkType(StrEnum):
    """How a network is made."""

    FLANNEL_ETCD = "flannel_etcd"
    FLANNEL_SERVER = "flannel_server"


class Network(Model):
    """A network and how it is made."""

    plural = "networks"
    primary_key = "name"

    name: str
    type: NetworkType = NetworkType.FLANNEL_ETCD
    options: dict[str, object] = {}


class Networks(ListModel[Network]):
    """Many networks."""

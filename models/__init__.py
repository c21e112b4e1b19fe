"""What is kept: the records of a platform, their validation and their names. No I/O, no crypto, no clock."""

from strongroom.models.base import LIST_MODELS, MODELS, ListModel, Model, SecretModel
from strongroom.models.clusters import (
    Cluster,
    ClusterDeploy,
    ClusterDeploys,
    ClusterRestart,
    ClusterRestarts,
    Clusters,
    ClusterState,
    ClusterUpgrade,
    ClusterUpgrades,
    OperationState,
)
from strongroom.models.container_managers import (
    ContainerManagerConfig,
    ContainerManagerConfigs,
    ContainerManagerCreds,
    ContainerManagerType,
)
from strongroom.models.errors import Fault, InvalidName, ModelError, ValidationError
from strongroom.models.hosts import Host, HostCreds, Hosts, HostState, HostStatus, OperatingSystem
from strongroom.models.networks import DEFAULT_NETWORK, Network, Networks, NetworkType
from strongroom.models.secret import Secret
from strongroom.models.watcher import WatcherRecord, WatcherRecords

__all__ = [
    "DEFAULT_NETWORK",
    "LIST_MODELS",
    "MODELS",
    "Cluster",
    "ClusterDeploy",
    "ClusterDeploys",
    "ClusterRestart",
    "ClusterRestarts",
    "ClusterState",
    "ClusterUpgrade",
    "ClusterUpgrades",
    "Clusters",
    "ContainerManagerConfig",
    "ContainerManagerConfigs",
    "ContainerManagerCreds",
    "ContainerManagerType",
    "Fault",
    "Host",
    "HostCreds",
    "HostState",
    "HostStatus",
    "Hosts",
    "InvalidName",
    "ListModel",
    "Model",
    "ModelError",
    "Network",
    "NetworkType",
    "Networks",
    "OperatingSystem",
    "OperationState",
    "Secret",
    "SecretModel",
    "ValidationError",
    "WatcherRecord",
    "WatcherRecords",
]

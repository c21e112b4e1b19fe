"""What is kept: the records of a platform, their validation and their names. No I/O, no crypto, no clock."""

from models.base import LIST_MODELS, MODELS, ListModel, Model, SecretModel
from models.clusters import (
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
from models.container_managers import (
    ContainerManagerConfig,
    ContainerManagerConfigs,
    ContainerManagerCreds,
    ContainerManagerType,
)
from models.errors import Fault, InvalidName, ModelError, ValidationError
from models.hosts import Host, HostCreds, Hosts, HostState, HostStatus, OperatingSystem
from models.networks import DEFAULT_NETWORK, Network, Networks, NetworkType
from models.secret import Secret
from models.watcher import WatcherRecord, WatcherRecords

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

"""Clusters of hosts, and the operations that run over all hosts of one."""

from enum import StrEnum
from typing import Annotated

from strongroom.models.base import ListModel, Model
from strongroom.models.networks import DEFAULT_NETWORK
from strongroom.models.rules import not_empty


class ClusterState(StrEnum):
    """How a cluster is."""

    UNKNOWN = ""
    OK = "ok"
    DEGRADED = "degraded"
    FAILED = "failed"


class OperationState(StrEnum):
    """How far an operation over a cluster is."""

    UNKNOWN = ""
    IN_PROCESS = "in_process"
    FINISHED = "finished"
    FAILED = "failed"


class Cluster(Model):
    """A named set of hosts; how many of them are available is counted when asked for and never stored."""

    plural = "clusters"
    primary_key = "name"
    hidden = ("hostset",)

    name: str
    status: ClusterState = ClusterState.UNKNOWN
    network: str = DEFAULT_NETWORK
    hostset: list[str] = []  # addresses
    container_manager: str = ""


class Clusters(ListModel[Cluster]):
    """Many clusters."""


class ClusterDeploy(Model):
    """The deployment of one version to all hosts of a cluster."""

    plural = "cluster_deploys"
    primary_key = "name"

    name: str  # of the cluster
    status: OperationState = OperationState.UNKNOWN
    version: Annotated[str, not_empty] = ""
    deployed: list[str] = []  # addresses
    in_process: list[str] = []  # addresses
    started_at: str = ""
    finished_at: str = ""


class ClusterRestart(Model):
    """The restart of all hosts of a cluster."""

    plural = "cluster_restarts"
    primary_key = "name"

    name: str  # of the cluster
    status: OperationState = OperationState.UNKNOWN
    restarted: list[str] = []  # addresses
    in_process: list[str] = []  # addresses
    started_at: str = ""
    finished_at: str = ""


class ClusterUpgrade(Model):
    """The upgrade of all hosts of a cluster."""

    plural = "cluster_upgrades"
    primary_key = "name"

    name: str  # of the cluster
    status: OperationState = OperationState.UNKNOWN
    upgraded: list[str] = []  # addresses
    in_process: list[str] = []  # addresses
    started_at: str = ""
    finished_at: str = ""


class ClusterDeploys(ListModel[ClusterDeploy]):
    """Many deployments."""


class ClusterRestarts(ListModel[ClusterRestart]):
    """Many restarts."""


class ClusterUpgrades(ListModel[ClusterUpgrade]):
    """Many upgrades."""

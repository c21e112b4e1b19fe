"""Strongroom for Python programs: the records it keeps, the clients that fetch them, and what they raise.

    from strongroom import Host, StorageClient

    with StorageClient.from_home("/srv/strongroom") as client:
        host = client.get(Host, "10.0.0.7").model

Each name is loaded when it is first asked for, so that a program pays for what it uses. Strongroom's own modules
import each other by their full names, never through here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from strongroom.models import (
        Cluster,
        ClusterDeploy,
        ClusterDeploys,
        ClusterRestart,
        ClusterRestarts,
        Clusters,
        ClusterState,
        ClusterUpgrade,
        ClusterUpgrades,
        ContainerManagerConfig,
        ContainerManagerConfigs,
        ContainerManagerCreds,
        ContainerManagerType,
        Fault,
        Host,
        HostCreds,
        Hosts,
        HostState,
        HostStatus,
        InvalidName,
        ListModel,
        Model,
        ModelError,
        Network,
        Networks,
        NetworkType,
        OperatingSystem,
        OperationState,
        Secret,
        SecretModel,
        ValidationError,
        WatcherRecord,
        WatcherRecords,
    )
    from strongroom.storage_service.client import (
        AddedPrincipal,
        AsyncStorageClient,
        IssuedKey,
        LoggedIn,
        NewCredential,
        NewKeys,
        Record,
        StorageClient,
        StoredSecret,
    )
    from strongroom.storage_service.errors import (
        AuditUnavailable,
        Barred,
        Behind,
        Busy,
        Changed,
        ConfigurationError,
        Contradicted,
        Denied,
        Exists,
        Fate,
        Forbidden,
        Halted,
        Internal,
        InUse,
        Invalid,
        Locked,
        Malformed,
        MethodNotAllowed,
        NoContainer,
        NotAcceptable,
        NotAuthenticated,
        NotEmpty,
        NotFound,
        NotImplementedHere,
        NotListening,
        Overtaken,
        ServiceError,
        StrongroomError,
        TooLarge,
        TooManyAttempts,
        TooManyRequests,
        Unavailable,
        Uninitialized,
        Untrusted,
        Unusable,
        WrongKey,
    )

__all__ = [
    "AddedPrincipal",
    "AsyncStorageClient",
    "AuditUnavailable",
    "Barred",
    "Behind",
    "Busy",
    "Changed",
    "Cluster",
    "ClusterDeploy",
    "ClusterDeploys",
    "ClusterRestart",
    "ClusterRestarts",
    "ClusterState",
    "ClusterUpgrade",
    "ClusterUpgrades",
    "Clusters",
    "ConfigurationError",
    "ContainerManagerConfig",
    "ContainerManagerConfigs",
    "ContainerManagerCreds",
    "ContainerManagerType",
    "Contradicted",
    "Denied",
    "Exists",
    "Fate",
    "Fault",
    "Forbidden",
    "Halted",
    "Host",
    "HostCreds",
    "HostState",
    "HostStatus",
    "Hosts",
    "InUse",
    "Internal",
    "Invalid",
    "InvalidName",
    "IssuedKey",
    "ListModel",
    "Locked",
    "LoggedIn",
    "Malformed",
    "MethodNotAllowed",
    "Model",
    "ModelError",
    "Network",
    "NetworkType",
    "Networks",
    "NewCredential",
    "NewKeys",
    "NoContainer",
    "NotAcceptable",
    "NotAuthenticated",
    "NotEmpty",
    "NotFound",
    "NotImplementedHere",
    "NotListening",
    "OperatingSystem",
    "OperationState",
    "Overtaken",
    "Record",
    "Secret",
    "SecretModel",
    "ServiceError",
    "StorageClient",
    "StoredSecret",
    "StrongroomError",
    "TooLarge",
    "TooManyAttempts",
    "TooManyRequests",
    "Unavailable",
    "Uninitialized",
    "Untrusted",
    "Unusable",
    "ValidationError",
    "WatcherRecord",
    "WatcherRecords",
    "WrongKey",
]

_WHERE: Final = ("strongroom.models", "strongroom.storage_service.errors", "strongroom.storage_service.client")


def __getattr__(name: str) -> Any:
    """Return what is called *name*, from the first module that has it.

    Raises:
        AttributeError: there is no such thing.
    """
    if name in __all__:
        for module in map(import_module, _WHERE):
            if hasattr(module, name):
                globals()[name] = found = getattr(module, name)
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=None)


def __dir__() -> list[str]:
    """Return what there is, loaded or not."""
    return sorted({*globals(), *__all__})

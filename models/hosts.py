"""Hosts: the machines of the platform, and apart from them what opens them."""

from enum import StrEnum
from typing import Annotated

from strongroom.models.base import ListModel, Model, SecretModel
from strongroom.models.rules import base64_text
from strongroom.models.secret import Secret


class HostState(StrEnum):
    """Where a host is on its way into the platform."""

    UNKNOWN = ""
    INVESTIGATING = "investigating"
    BOOTSTRAPPING = "bootstrapping"
    ACTIVE = "active"
    DISASSOCIATED = "disassociated"
    FAILED = "failed"


class OperatingSystem(StrEnum):
    """The operating systems that the platform can bootstrap."""

    UNKNOWN = ""
    ATOMIC = "atomic"
    CENTOS = "centos"
    FEDORA = "fedora"
    REDHAT = "redhat"
    RHEL = "rhel"


class Host(Model):
    """A machine of the platform."""

    plural = "hosts"
    primary_key = "address"

    address: str = ""
    status: HostState = HostState.UNKNOWN
    os: OperatingSystem = OperatingSystem.UNKNOWN
    cpus: int = 0
    memory: int = 0
    space: int = 0
    last_check: str = ""
    source: str = ""  # the store handler that keeps this record, where it is not the one for hosts


class HostCreds(SecretModel):
    """What opens a host: CPD-101 took it out of `Host`, and it shares the host's address."""

    plural = "hosts"
    primary_key = "address"

    address: str
    ssh_priv_key: Annotated[Secret, base64_text] = Secret("")  # the key file in base64, on one line
    remote_user: str = "root"


class Hosts(ListModel[Host]):
    """Many hosts."""


class HostStatus(Model):
    """An answer about one host, put together when it is asked for and never stored."""

    type: str = ""
    host: dict[str, object] = {}
    container_manager: dict[str, object] = {}

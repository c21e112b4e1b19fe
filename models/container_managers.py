"""Container managers: where they are, and apart from that what opens them."""

from enum import StrEnum
from typing import Annotated

from strongroom.models.base import ListModel, Model, SecretModel
from strongroom.models.rules import holds_no_secret
from strongroom.models.secret import Secret


class ContainerManagerType(StrEnum):
    """The container managers that the platform can talk to."""

    OPENSHIFT = "openshift"
    TRIVIAL = "trivial"


class ContainerManagerConfig(Model):
    """How to reach a container manager; *options* that hold what would open it are refused."""

    plural = "container_managers"
    primary_key = "name"

    name: str
    type: ContainerManagerType = ContainerManagerType.OPENSHIFT
    options: Annotated[dict[str, object], holds_no_secret] = {}


class ContainerManagerCreds(SecretModel):
    """What opens a container manager: taken out of its config's options, and of the same name."""

    plural = "container_managers"
    primary_key = "name"

    name: str
    token: Secret = Secret("")
    username: str = ""
    password: Secret = Secret("")
    certificate: Secret = Secret("")  # PEM
    certificate_key: Secret = Secret("")  # PEM


class ContainerManagerConfigs(ListModel[ContainerManagerConfig]):
    """Many container managers."""

"""Where things lie by default; the names that the command and the processes agree on."""

from pathlib import Path
from typing import Final

DEFAULT_HOME: Final = Path("~/.strongroom")
CONFIG: Final = "strongroom.toml"
CLIENT: Final = (
    "client.json"  # strongroom.storage_service.client.file; how the operator and platform services reach the service
)
PROXY_CLIENT: Final = "proxy.json"  # the same of the proxy
STORE: Final = "store.json"  # which store this home's records are in
SOCKET: Final = "run/storage.sock"
PREFIX: Final = "STRONGROOM_"  # what every variable's name begins with

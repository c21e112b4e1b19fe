"""Make what the units load as credentials, unless it is there: the root key, and the API key of proxy and command.

Run it with the Python of the installed Strongroom and the directory that the units name: ``/etc/strongroom``.
"""

import secrets
import sys
from pathlib import Path

from deploy.home import API_ID, API_KEY_BYTES, write_client
from deploy.places import CLIENT
from models.secret import Secret
from storage_service.client_file import ClientFile
from storage_service.keyring import rootkey

URL = "http://127.0.0.1:8000"  # strongroom-proxy.socket
SOCKET = Path("/run/strongroom/storage.sock")  # strongroom-storage.socket


def make_keys(directory: Path) -> None:
    """Make ``secrets.key`` and ``client.json`` in *directory*, mode 0600; neither is ever replaced."""
    rootkey.make(directory / "secrets.key")
    client = directory / CLIENT
    if not client.exists():
        write_client(ClientFile(URL, SOCKET, API_ID, Secret(secrets.token_urlsafe(API_KEY_BYTES))), client)


if __name__ == "__main__":
    make_keys(Path(sys.argv[1]))

"""What is done once for a service that systemd or a container runs, in two steps, with the service started between.

    python -m strongroom.deploy.first_start keys DIRECTORY [--client DIRECTORY] [--proxy DIRECTORY] [--socket PATH]
    python -m strongroom.deploy.first_start keyring DIRECTORY [--keys DIRECTORY]

The first makes what the service is handed: the root key, ``secrets.key``, the API key of the operator's command,
``client.json``, and that of the proxy, ``proxy.json``. The second makes the store's keyring for that root key, and says
what is to be kept. Both can be run again: what is there stays. A store that was lost is not taken for a new one: a mark
beside ``client.json`` says that there was one.
"""

import argparse
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from strongroom.deploy import extras
from strongroom.deploy.home import API_ID, MARK, PROXY_ID, make_client, refuse_lost
from strongroom.deploy.places import CLIENT, PROXY_CLIENT
from strongroom.storage_service.client import StorageClient
from strongroom.storage_service.errors import Exists, StrongroomError, Unavailable
from strongroom.storage_service.files import replace_private
from strongroom.storage_service.wire.keys import KeyringStatus

URL: Final = "http://127.0.0.1:8000"  # strongroom-proxy.socket
SOCKET: Final = Path("/run/strongroom/storage.sock")  # strongroom-storage.socket
ROOT_KEY: Final = "secrets.key"
PATIENCE: Final = 60.0  # seconds for a service to begin


def make_keys(directory: Path, client: Path | None = None, socket: Path = SOCKET, *, proxy: Path | None = None) -> None:
    """Make ``secrets.key``, ``client.json`` and ``proxy.json``, mode 0600; none is replaced.

    Args:
        directory: where they are made.
        client: where ``client.json`` is made instead.
        socket: the service's.
        proxy: where ``proxy.json`` is made instead.

    Raises:
        KeyFileUnusable: the root key file cannot be made, or the one that is there is not to be used.
    """
    from strongroom.storage_service.keyring.ceremonies.files import (
        make_root,  # not for `key init`, which only looks for the mark
    )

    make_root(directory / ROOT_KEY)
    make_client((client or directory) / CLIENT, API_ID, url=URL, socket=socket)
    make_client((proxy or directory) / PROXY_CLIENT, PROXY_ID, socket=socket)


def make_keyring(directory: Path, patience: float = PATIENCE) -> str:
    """Give the store a keyring that the service's root key file opens, if it has none; return the service's state.

    Args:
        directory: that of ``client.json``.
        patience: seconds to wait for a service that does not listen yet.

    Raises:
        ConfigurationError: the store is empty, and it was not.
        StrongroomError: as `StorageClient.init_keyring`.
        Unavailable: nobody listens.
    """
    with StorageClient.from_home(directory) as service:
        found = _when_it_listens(service, patience)
        mark = directory / MARK
        if found.state == "uninitialized":
            refuse_lost(directory)
            with suppress(Exists):  # somebody else was faster
                service.init_keyring("file")
            found = service.keyring()
        if found.root is not None and not mark.exists():
            replace_private(mark, f"{found.root}\n".encode())
        return found.state


def _when_it_listens(service: StorageClient, patience: float) -> KeyringStatus:
    until = time.monotonic() + patience
    while True:
        try:
            return service.keyring()
        except Unavailable:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def _keep(directory: Path, keys: Path) -> str:
    return (
        f"Keep a copy of {keys / ROOT_KEY} where the copies of the store are not: without it nobody can read them, and"
        " whoever has both can.\n"
        f"{directory / CLIENT} holds an API key with all rights: keep it to yourself, it needs no copy."
    )


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="first_start", description="Prepare the first start of a service.")
    steps = parser.add_subparsers(dest="step", required=True)
    keys = steps.add_parser("keys", help="make secrets.key, client.json and proxy.json, unless they are there")
    keys.add_argument("directory", type=Path)
    keys.add_argument("--client", type=Path, metavar="DIRECTORY", help="where client.json lies, if elsewhere")
    keys.add_argument("--proxy", type=Path, metavar="DIRECTORY", help="where proxy.json lies, if elsewhere")
    keys.add_argument("--socket", type=Path, default=SOCKET, metavar="PATH", help=f"the service's [{SOCKET}]")
    keyring = steps.add_parser("keyring", help="make the store's keyring, unless it has one")
    keyring.add_argument("directory", type=Path, help="where client.json lies")
    keyring.add_argument("--keys", type=Path, metavar="DIRECTORY", help="where secrets.key lies, if elsewhere")
    said = parser.parse_args(arguments)
    with extras.needed():
        from strongroom.deploy.cli import exits
    try:
        if said.step == "keys":
            with extras.needed():
                make_keys(said.directory, said.client, said.socket, proxy=said.proxy)
        else:
            state = make_keyring(said.directory)
            sys.stdout.write(f"The service is {state}.\n{_keep(said.directory, said.keys or said.directory)}\n")
    except StrongroomError as error:
        return exits.report(error)
    return exits.DONE


if __name__ == "__main__":
    sys.exit(main())

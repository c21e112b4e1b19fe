"""Show Strongroom at work: start it, store a host with an SSH key over plain HTTP, and look at what its store holds.

    python -m strongroom.deploy.tools.demo [--once]

Everything lies in ``.run``. Without ``--once`` it goes on serving until Ctrl-C.
"""

import argparse
import base64
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from strongroom.deploy.serving.up import follow
from strongroom.models import Host, HostCreds
from strongroom.storage_service import wire
from strongroom.storage_service.client.file import ClientFile
from strongroom.storage_service.files import replace_private
from strongroom.storage_service.jose import base64url

RUN = Path(".run")
HOME = RUN / "home"
HEADERS = RUN / "headers"  # the API id and key as curl reads them, so that they stand on no command line
PORT = 8000
ADDRESS = "10.0.0.7"


def main() -> None:
    """Show it; exit with 1 if what is shown is not so."""
    parser = argparse.ArgumentParser(description="Show Strongroom at work.")
    parser.add_argument("--once", action="store_true", help="end when all is shown")
    arguments = parser.parse_args()
    RUN.mkdir(exist_ok=True)
    with _strongroom() as process:
        url = json.loads(_first_line(process))["url"]
        print(f"Strongroom serves {url}; its home is {HOME}, its log of who asked for what {HOME / 'log/audit.log'}")
        with httpx.Client(base_url=url, headers=_credentials()) as client:
            key = _store_and_fetch(client)
        _show_store(key)
        if arguments.once:
            return
        _say_what_to_try(url)
        print("\nCtrl-C ends it.", flush=True)
        process.wait()


@contextmanager
def _strongroom() -> Iterator[subprocess.Popen[str]]:
    """Run ``strongroom up`` for as long as the block lasts."""
    command = [str(Path(sys.executable).with_name("strongroom")), "up", "--json", "--home", str(HOME)]
    command += ["--listen", f"127.0.0.1:{PORT if _is_free(PORT) else 0}"]
    parent = os.getpid()
    process = subprocess.Popen(  # this process has one thread
        command,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: follow(parent),  # noqa: PLW1509
    )
    try:
        yield process
    except KeyboardInterrupt:
        print()  # a terminal's Ctrl-C has reached the other process as well
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait()


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def _first_line(process: subprocess.Popen[str]) -> str:
    line = process.stdout.readline() if process.stdout is not None else ""
    if not line:
        raise SystemExit("strongroom did not start; its output is above")
    return line


def _credentials() -> dict[str, str]:
    """Return the header fields of the API key that the first start made, and leave them where curl finds them."""
    known = ClientFile.read(HOME / "client.json")
    fields = {wire.ID_HEADER: known.api_id, wire.KEY_HEADER: known.api_key.reveal()}
    replace_private(HEADERS, "".join(f"{name}: {value}\n" for name, value in fields.items()).encode())
    return fields


def _store_and_fetch(client: httpx.Client) -> bytes:
    """Store a host with a key that was never there before, and return the key that came back."""
    made = Ed25519PrivateKey.generate()
    key = made.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = made.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    print(f"\nA new SSH key, whose public half is\n    {public}")

    path = f"{wire.API_PATH}/host/{quote(ADDRESS)}"
    client.delete(path)  # of an earlier run
    body = {"ssh_priv_key": base64.b64encode(key).decode(), "remote_user": "root"}
    stored = client.put(path, json=body)
    print(f"\nPUT {path} with the private half: {stored.status_code}\n    {stored.text}")
    shown = client.get(path).raise_for_status()
    fetched = client.get(f"{path}/creds").raise_for_status()
    returned = base64.b64decode(fetched.json()["ssh_priv_key"])
    print(f"GET {path}: {shown.status_code}, without the key")
    print(f"GET {path}/creds: {fetched.status_code}, and the key is {'the same' if returned == key else 'ANOTHER'}")
    if stored.status_code != httpx.codes.CREATED or "ssh_priv_key" in shown.text or returned != key:
        raise SystemExit("that is not how it should be")
    return key


def _show_store(key: bytes) -> None:
    """Print the host's two rows as they lie in the store, and look for the key in every file that was written."""
    database = next((HOME / "data").glob("*.db"))
    print(f"\nIn {database}:")
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as store:
        for name in (f"{Host.prefix()}{ADDRESS}", f"{HostCreds.prefix()}{ADDRESS}"):
            (value,) = store.execute("select value from entry where name = ?", (name,)).fetchone()
            print(f"    {name}\n        {_shortened(value.decode())}")
    header = value.partition(b".")[0]
    print(f"    its header says  {base64url.decode(header).decode()}")

    files = [path for place in ("data", "log") for path in (HOME / place).rglob("*") if path.is_file()]
    written = [path.read_bytes() for path in files]
    line = key.splitlines()[2]
    once = _as_base64(line)
    found = any(
        form in content for content in written for form in (line, *once, *(f for o in once for f in _as_base64(o)))
    )
    size = f"{sum(map(len, written)):,} bytes of {len(files)} files in data and log"
    print(f"    the private key, sought in {size}: {'FOUND' if found else 'not there'}")
    if found:
        raise SystemExit("the key lies in the clear")


def _as_base64(text: bytes) -> list[bytes]:
    """Return what base64 makes of *text* wherever in a longer text it begins: it may begin in any third of a group."""
    return [base64.b64encode(bytes(shift) + text)[4:-4] for shift in range(3)]


def _shortened(text: str) -> str:
    width = max(60, shutil.get_terminal_size().columns - 24)
    return text if len(text) <= width else f"{text[:width]}… ({len(text)} characters)"


def _say_what_to_try(url: str) -> None:
    print(
        f"""
Try, from another terminal in this folder:
    curl -H @{HEADERS} {url}{wire.API_PATH}/host/{ADDRESS}/creds
    curl -H @{HEADERS} {url}{wire.PROXIED_SECRETS_PATH}/hosts/{ADDRESS}
    curl -i {url}{wire.PROXIED_SECRETS_PATH}/hosts/{ADDRESS}"""
    )


if __name__ == "__main__":
    main()

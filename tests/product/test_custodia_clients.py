"""Custodia's own command and client library (0.6.0, from an environment of their own) against our socket."""

import json
import secrets
import subprocess
from pathlib import Path

import pytest

from strongroom.deploy.pytest_plugin import Server

CUSTODIA = Path(__file__).parents[2] / ".venv-custodia" / "bin"


@pytest.fixture
def credentials(strongroom_server: Server) -> tuple[str, str]:
    """The service's own API id and key."""
    known = json.loads((strongroom_server.home / "client.json").read_text())
    return known["api_id"], known["api_key"]


def cli(server: Server, credentials: tuple[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run the real custodia-cli, as its users do."""
    return subprocess.run(
        [
            CUSTODIA / "custodia-cli",
            *("--server", str(server.socket)),
            *("--header", f"CUSTODIA_AUTH_ID={credentials[0]}", "--header", f"CUSTODIA_AUTH_KEY={credentials[1]}"),
            *words,
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_the_command(strongroom_server: Server, credentials: tuple[str, str]) -> None:
    """custodia-cli makes a container, sets, lists, gets, deletes, and learns of refusals by its exit code."""
    box = secrets.token_hex(6)

    story = [
        (["mkdir", f"{box}/"], 0, ""),
        (["set", f"{box}/key", "s3cret"], 0, ""),
        (["get", f"{box}/key"], 0, "s3cret"),
        (["ls", f"{box}/"], 0, "key"),
        (["set", f"{box}/key", "again"], 1, ""),
        (["get", f"{box}/none"], 1, ""),
        (["rmdir", f"{box}/"], 1, ""),
        (["del", f"{box}/key"], 0, ""),
        (["rmdir", f"{box}/"], 0, ""),
    ]
    told = [cli(strongroom_server, credentials, *words) for words, _, _ in story]

    assert [(answer.returncode, answer.stdout.strip()) for answer in told] == [(code, out) for _, code, out in story]


def test_the_command_with_a_wrong_key(strongroom_server: Server, credentials: tuple[str, str]) -> None:
    """A wrong key ends custodia-cli with its code for an HTTP error."""
    assert cli(strongroom_server, (credentials[0], "wrong"), "ls", "x/").returncode == 1


CLIENT_STORY = """
import sys, json
from urllib.parse import quote
from custodia.client import CustodiaSimpleClient

socket, api_id, api_key, box = sys.argv[1], *json.load(sys.stdin), sys.argv[2]
client = CustodiaSimpleClient("http+unix://" + quote(socket, safe="") + "/secrets/")
client.set_simple_auth_keys(api_id, api_key)
client.create_container(box)
client.create_container(box)
client.set_secret(box + "/a", "one")
client.set_secret(box + "/b", "two")
seen = [client.get_secret(box + "/a"), client.list_container(box)]
client.del_secret(box + "/a")
client.del_secret(box + "/b")
client.delete_container(box)
print(json.dumps(seen))
"""


def test_the_client_library(strongroom_server: Server, credentials: tuple[str, str]) -> None:
    """CustodiaSimpleClient does all it can do, with its own names for the two headers."""
    ran = subprocess.run(
        [CUSTODIA / "python", "-c", CLIENT_STORY, str(strongroom_server.socket), secrets.token_hex(6)],
        check=False,
        input=json.dumps(credentials),
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == ["one", ["a", "b"]]

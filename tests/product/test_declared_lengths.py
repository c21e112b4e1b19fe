"""A body that says it is too large: the answer does not wait for any of it."""

import json
import socket
from typing import Final

import pytest

from strongroom.deploy.pytest_plugin import Server
from strongroom.storage_service import wire

WAITED: Final = 5.0  # seconds for the answer: half of what the service waits for a body that does not come

ROUTES = ["POST /storage/save", "POST /storage/list", "POST /apikeys", "POST /bulk/commit", "POST /keyring/unlock"]
SECRETS = ["PUT /secrets/a/b", "DELETE /secrets/a/b", "POST /secrets/a/", "POST /secrets/?batch=get"]


@pytest.mark.parametrize("route", [*ROUTES, *SECRETS])
def test_a_length_over_the_outermost_limit_is_refused_before_a_byte_comes(
    strongroom_server: Server, route: str
) -> None:
    """Whoever says that more than `MAX_BODY` is to come, and sends none of it, is told so at once."""
    known = json.loads((strongroom_server.home / "client.json").read_text())
    lines = [
        f"{route} HTTP/1.1",
        "Host: x",
        f"{wire.ID_HEADER}: {known['api_id']}",
        f"{wire.KEY_HEADER}: {known['api_key']}",
        "Content-Type: application/json",
        f"Content-Length: {wire.MAX_BODY + 1}",
    ]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(WAITED)
        connection.connect(str(strongroom_server.socket))
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        status = connection.makefile("rb").readline().split()[1]

    assert status == b"413"

"""Large bodies: many of them at once are in no worker's memory, and keep nobody else from being answered."""

import socket
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Thread
from time import monotonic

import pytest

from strongroom.models import HostCreds
from strongroom.storage_service import wire
from strongroom.storage_service.client import StorageClient
from strongroom.storage_service.client.operations import IssuedKey
from tests.deploy.running import Up, descendants, up

AT_ONCE = 64
GROWTH = 250 * 1024  # KiB that all processes together may grow by; that many bodies are 640 MiB
SENT_WITHIN = 20.0  # seconds for what is taken of the bodies


def _peaks(running: Up) -> int:
    """Return the sum of the most KiB that each process has had in memory."""
    total = 0
    for pid in descendants(running.process.pid):
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        total += next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    return total


def _stall(running: Up, key: IssuedKey, framing: bytes, first: bytes) -> tuple[socket.socket, Thread]:
    """Open a connection, and send all but the last byte of a body of 10 MiB from a thread, until it is refused."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(SENT_WITHIN)
    connection.connect(str(running.socket))
    head = f"POST /storage/save HTTP/1.1\r\nHost: x\r\n{wire.ID_HEADER}: {key.api_id}\r\n"
    head += f"{wire.KEY_HEADER}: {key.api_key.reveal()}\r\n"
    connection.sendall(head.encode() + framing + b"\r\n\r\n" + first)

    def send() -> None:
        with suppress(OSError):  # it was refused
            connection.sendall(b" " * (wire.MAX_RECORDS_BODY - 1))

    thread = Thread(target=send)
    thread.start()
    return connection, thread


def _close(connection: socket.socket) -> None:
    with suppress(OSError), connection:
        connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(("keys", "chunked"), [(1, False), (AT_ONCE, True)])
def test_no_64_stalled_bodies_swell_the_service(tmp_path: Path, keys: int, chunked: bool) -> None:
    """64 bodies that lack their last byte, of one key or of 64, take little memory, and an ordinary get is answered."""
    size = wire.MAX_RECORDS_BODY
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
    first = b"%x\r\n" % size if chunked else b""
    with (
        up(tmp_path / "h", "--workers", "2") as running,
        StorageClient.from_home(running.home) as client,
        ExitStack() as stack,
    ):
        client.create_container("db")
        client.set_secret("db", "a", "v")
        issued = [client.create_apikey(f"k{number}", paths=["/hosts/"], actions=["put"]) for number in range(keys)]
        before = _peaks(running)
        sending = []
        for number in range(AT_ONCE):
            connection, thread = _stall(running, issued[number % keys], framing, first)
            stack.callback(thread.join)
            stack.callback(_close, connection)
            sending.append(thread)
        begun = monotonic()
        while any(each.is_alive() for each in sending) and monotonic() < begun + SENT_WITHIN:
            secret = client.get_secret("db", "a")
            assert secret is not None
            assert secret.reveal() == "v"
        grown = _peaks(running) - before

    assert grown < GROWTH, grown


def test_a_large_body_is_taken(tmp_path: Path) -> None:
    """Records of several MiB are saved in one request, one after another, and each is there."""
    key = "k" * (wire.MAX_SECRET // 2)
    with up(tmp_path / "h") as running, StorageClient.from_home(running.home) as client:
        for turn in range(4):
            client.save_many([HostCreds.new(address=f"{turn}-{number}", ssh_priv_key=key) for number in range(12)])
        assert client.get(HostCreds, "3-11").model.ssh_priv_key.reveal() == key

"""The examples for stunnel, run as they stand but for names, ports and paths, between two ends of our own."""

import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import trustme

from tests.deploy_units.programs import ROOT, listens, program, running
from tests.etcd_server import free_port

EXAMPLES = ROOT / "deploy/stunnel"
TIMEOUT = 10.0  # seconds


@contextmanager
def answering(context: ssl.SSLContext | None) -> Iterator[int]:
    """Listen and answer every connection's first bytes with the same bytes; yield the port."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        thread = threading.Thread(target=_answer_all, args=(server, context))
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(TIMEOUT)


def _answer_all(server: socket.socket, context: ssl.SSLContext | None) -> None:
    while True:
        try:
            accepted, _ = server.accept()
        except OSError:
            return
        with accepted:
            accepted.settimeout(TIMEOUT)
            try:
                end = context.wrap_socket(accepted, server_side=True) if context is not None else accepted
                with end:
                    end.sendall(end.recv(100))
            except OSError:  # a peer that hangs up, as stunnel does when it does not like the certificate
                continue


def said_back(connection: socket.socket) -> bytes:
    """Send a word and return what comes back: nothing, if the connection is ended."""
    connection.settimeout(TIMEOUT)
    try:
        connection.sendall(b"word")
        return connection.recv(100)
    except ConnectionError:
        return b""


@pytest.mark.parametrize(
    ("certified_for", "answer"),
    [
        pytest.param("etcd-2", b"word", id="a member"),
        pytest.param("another-host", b"", id="somebody else whom the same authority certified"),
    ],
)
def test_the_tunnel_to_etcd_checks_whom_it_speaks_to(tmp_path: Path, certified_for: str, answer: bytes) -> None:
    """What is sent in the clear on loopback arrives over TLS at a member of the cluster, and nowhere else."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(certified_for).configure_cert(context)
    port = free_port()
    with answering(context) as etcd:
        text = (EXAMPLES / "etcd-client.conf").read_text()
        text = text.replace("accept = 127.0.0.1:2379", f"accept = 127.0.0.1:{port}")
        text = re.sub(r"^connect = .*$", f"connect = 127.0.0.1:{etcd}", text, flags=re.MULTILINE)
        text = text.replace("/etc/strongroom/etcd-ca.pem", str(tmp_path / "ca.pem"))
        (tmp_path / "stunnel.conf").write_text(text)
        command: list[str | Path] = [program("stunnel"), tmp_path / "stunnel.conf"]
        with (
            running(command, tmp_path / "log", lambda: listens(port)),
            socket.create_connection(("127.0.0.1", port)) as end,
        ):
            assert said_back(end) == answer


def test_tls_before_the_proxy(tmp_path: Path) -> None:
    """A client that checks the certificate reaches, over TLS, what listens behind in the clear."""
    ca = trustme.CA()
    cert = ca.issue_cert("strongroom.example")
    cert.cert_chain_pems[0].write_to_path(tmp_path / "tls.pem")
    cert.private_key_pem.write_to_path(tmp_path / "tls-key.pem")
    client = ssl.create_default_context()
    ca.configure_trust(client)
    port = free_port()
    with answering(None) as proxy:
        text = (EXAMPLES / "proxy.conf").read_text()
        text = text.replace("accept = 8443", f"accept = 127.0.0.1:{port}").replace(
            "127.0.0.1:8000", f"127.0.0.1:{proxy}"
        )
        (tmp_path / "stunnel.conf").write_text(text.replace("/etc/strongroom/", f"{tmp_path}/"))
        command: list[str | Path] = [program("stunnel"), tmp_path / "stunnel.conf"]
        with (
            running(command, tmp_path / "log", lambda: listens(port)),
            socket.create_connection(("127.0.0.1", port)) as end,
            client.wrap_socket(end, server_hostname="strongroom.example") as encrypted,
        ):
            assert said_back(encrypted) == b"word"

"""A client asks nobody whose certificate it does not trust, and says what is wrong with it."""

import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from strongroom.storage_service.errors import ConfigurationError, Fate, Unavailable, Untrusted
from tests.client.scripted_service import Reply, ScriptedService
from tests.deploy.running import clean_environment, strongroom

Connect = Callable[..., Any]

SECRET = Reply(b'{"type":"simple","value":"hunter2"}', headers={"ETag": '"1"'})
OURS = trustme.CA()


def trust(ca: trustme.CA) -> ssl.SSLContext:
    """What trusts *ca* alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    return context


@contextmanager
def serving(certificate: trustme.LeafCert) -> Iterator[ScriptedService]:
    """A service over TLS that shows *certificate*."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    with ScriptedService(context=context) as service:
        yield service


def test_a_trusted_service_is_asked_over_one_connection(connect: Connect) -> None:
    """Small and large requests and answers, one after another, with one handshake."""
    with serving(OURS.issue_cert("localhost")) as service:
        service.script(SECRET, Reply(b"", 201, {"ETag": '"2"'}), Reply(b'{"value":"%b"}' % (b"x" * 300_000)))
        client = connect(**service.where, ssl_context=trust(OURS), retries=0)
        assert client.get_secret("db", "p").reveal() == "hunter2"
        client.set_secret("db", "p", "y" * 400_000)
        assert len(client.get_secret("db", "p").reveal()) == 300_000
    assert service.connections == 1


YESTERDAY = datetime.now(UTC) - timedelta(days=1)
TOMORROW = datetime.now(UTC) + timedelta(days=1)
DISTRUST = {
    "of another authority": (
        trustme.CA().issue_cert("localhost"),
        "its certificate is not trusted: no authority in the client's ssl_context signed it",
    ),
    "that has expired": (
        OURS.issue_cert("localhost", not_before=YESTERDAY - timedelta(days=9), not_after=YESTERDAY),
        "its certificate has expired",
    ),
    "that is not valid yet": (
        OURS.issue_cert("localhost", not_before=TOMORROW, not_after=TOMORROW + timedelta(days=9)),
        "its certificate is not valid yet",
    ),
    "of another name": (OURS.issue_cert("vault.example"), "its certificate is for another name"),
}


@pytest.mark.parametrize("which", DISTRUST)
def test_who_is_not_trusted_is_not_asked(connect: Connect, which: str) -> None:
    """The error says what is wrong with the certificate; nothing was sent, and one handshake was enough to know."""
    certificate, words = DISTRUST[which]
    with serving(certificate) as service:
        client = connect(**service.where, ssl_context=trust(OURS))
        with pytest.raises(Untrusted, match=words) as caught:
            client.set_secret("db", "p", "1")
    assert isinstance(caught.value, Unavailable)
    assert caught.value.fate is Fate.NOT_APPLIED
    assert caught.value.__context__ is None
    assert (service.connections, service.heard) == (1, [])


def test_what_speaks_no_tls_is_told_apart(connect: Connect) -> None:
    """A port that answers in the clear is no service that does not listen."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        answering = threading.Thread(target=answer)
        answering.start()
        client = connect(url=f"https://localhost:{listener.getsockname()[1]}", retries=0)
        with pytest.raises(Untrusted, match=r"does not speak TLS: .* say http://") as caught:
            client.set_secret("db", "p", "1")
        answering.join()
    assert caught.value.fate is Fate.NOT_APPLIED


def test_who_listens_and_shakes_no_hands_is_told(connect: Connect) -> None:
    """A port that takes the connection and says nothing does listen; the error speaks of TLS."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = connect(url=f"https://localhost:{listener.getsockname()[1]}", retries=0, connect_timeout=3.0)
        with pytest.raises(Unavailable, match="listens, but does not answer a TLS handshake") as caught:
            client.set_secret("db", "p", "1")
    assert caught.value.fate is Fate.NOT_APPLIED


def test_tls_in_place_of_an_answer_is_told(connect: Connect) -> None:
    """A plain client that gets an alert of TLS is told so, and does not ask again."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def alert() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(bytes.fromhex("15030300020246"))

        alerting = threading.Thread(target=alert)
        alerting.start()
        client = connect(url=f"http://localhost:{listener.getsockname()[1]}")
        with pytest.raises(Untrusted, match=r"speaks TLS there, .*: say https://") as caught:
            client.set_secret("db", "p", "1")
        alerting.join()
    assert caught.value.fate is Fate.NOT_APPLIED


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), (b"none", "certificates in PEM is expected")])
def test_a_file_of_authorities_that_cannot_be_is_refused(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, why: str
) -> None:
    """OpenSSL would pass over it, and every certificate would be blamed."""
    if content is not None:
        (tmp_path / "ca.pem").write_bytes(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with pytest.raises(ConfigurationError, match=f"SSL_CERT_FILE names .*ca.pem, which cannot be used: .*{why}"):
        connect(url="https://localhost:1")


def test_a_socket_that_this_user_may_not_open_is_told(short_path: Path) -> None:
    """The error names the user, the socket's group and mode, or the directory that keeps the user out."""
    code = (
        "import os, sys; from strongroom.storage_service.client import StorageClient\n"
        "from strongroom.storage_service.errors import Barred\n"
        "import encodings.idna\n"
        "client = StorageClient(socket=sys.argv[1], api_id='i', api_key='k', retries=0)\n"
        "if os.getuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: client.get_secret('a', 'b')\n"
        "except Barred as error: print(error)\n"
    )
    inner = short_path / "in"
    inner.mkdir()
    short_path.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(inner / "s"))
        listener.listen()
        (inner / "s").chmod(0o660 if os.geteuid() == 0 else 0)
        command = [sys.executable, "-c", code, str(inner / "s")]
        inner.chmod(0o755)
        said = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=True).stdout
        assert f"may not open {inner / 's'}, which is group " in said
        assert "add that user to the group, or see to socket_mode" in said

        inner.chmod(0o700 if os.geteuid() == 0 else 0o600)
        said = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=True).stdout
        inner.chmod(0o755)
    assert f"may not enter {inner}, where " in said and "socket_mode" not in said


def test_the_system_may_be_told_whom_to_trust(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a context, ``SSL_CERT_FILE`` names the authorities."""
    OURS.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with serving(OURS.issue_cert("localhost")) as service:
        service.script(SECRET)
        assert connect(**service.where, retries=0).get_secret("db", "p").reveal() == "hunter2"


def test_the_command_says_what_to_do() -> None:
    """One line names the certificate and the remedy, and does not say that nobody listens."""
    with serving(OURS.issue_cert("localhost")) as service:
        environ = clean_environment(STRONGROOM_URL=service.where["url"], STRONGROOM_API_ID="ci", STRONGROOM_API_KEY="k")
        done = strongroom("secret", "get", "db/password", environ=environ)
    assert done.code == 2
    assert "its certificate is not trusted: " in done.err
    assert "SSL_CERT_FILE" in done.err and "ssl_context" not in done.err
    assert "listen" not in done.err
    assert "strongroom up" not in done.err
    assert done.err.count("\n") == 1

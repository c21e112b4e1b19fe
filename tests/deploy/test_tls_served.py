"""TLS on the running product: a port that it was configured for answers nobody in the clear, whatever happens."""

import base64
import hashlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from tests.deploy.certificates import DAY, NOW, Files, issue
from tests.deploy.running import (
    ENDED_WITHIN,
    PATIENCE,
    PATIENT,
    ROOT,
    Done,
    Up,
    alive,
    clean_environment,
    descendants,
    eventually,
    spawn,
    strongroom,
    up,
)

KEY = {"STRONGROOM_API_ID": "i", "STRONGROOM_API_KEY": "k", "STRONGROOM_PROXY_KEY": "p"}
ANSWERED = b"HTTP/"
Address = tuple[str, int]

# Does all that needs root's rights (Python's own files may be root's), gives them up, and is the command.
AS_ANOTHER = """
import os, sys
from strongroom.deploy import cli
cli.run(["config", "check", *sys.argv[3:]])
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.exit(cli.run(sys.argv[1:]))
"""

READY: Final[dict[str, object]] = {
    "status": "ready",
    "state": "unlocked",
    "checks": {"service": True, "audit": True, "store": True, "keyring": True},
}


@pytest.fixture
def files(short: Path) -> Files:
    """A good pair."""
    made = Files.at(short / "tls")
    made.renew()
    return made


def free_address() -> Address:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return "127.0.0.1", taken.getsockname()[1]


def address_of(running: Up) -> Address:
    parts = urlsplit(running.url)
    return str(parts.hostname), int(parts.port or 0)


def in_the_clear(address: Address) -> bytes:
    """Return all that comes back when a request with credentials is sent without TLS; nothing where nobody listens."""
    got = b""
    with suppress(OSError), socket.create_connection(address, timeout=10) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\nCUSTODIA-AUTH-ID: a\r\nCUSTODIA-AUTH-KEY: b\r\n\r\n")
        while piece := connection.recv(65536):
            got += piece
    return got


def connect(address: Address, context: ssl.SSLContext) -> http.client.HTTPSConnection:
    return http.client.HTTPSConnection(*address, timeout=ENDED_WITHIN, context=context)


def get(address: Address, path: str, context: ssl.SSLContext) -> tuple[int, Any]:
    """Return status and document of what is at *path*, on a connection of its own."""
    with closing(connect(address, context)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def shown(address: Address, files: Files) -> str:
    """Return the fingerprint of the certificate that a new connection is shown."""
    with (
        socket.create_connection(address, timeout=ENDED_WITHIN) as connection,
        files.trusting().wrap_socket(connection, server_hostname="127.0.0.1") as wrapped,
    ):
        certificate = wrapped.getpeercert(binary_form=True)
        assert certificate is not None
        return hashlib.sha256(certificate).hexdigest()


def ended(process: "subprocess.Popen[str]", address: Address) -> tuple[Done, bytes]:
    """Return how *process* ended, and all that it answered in the clear before."""
    got = b""
    try:
        while process.poll() is None:
            got += in_the_clear(address)
        out, err = process.communicate(timeout=ENDED_WITHIN)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate(timeout=PATIENCE)
    return Done(process.returncode, out, err), got


@contextmanager
def serving(process: "subprocess.Popen[str]") -> Iterator["subprocess.Popen[str]"]:
    """Give out a process, and see that it is gone afterwards."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=PATIENCE)


def reload(running: Up) -> None:
    """Tell the proxy to take its files anew, and return when every worker is one that came after."""
    gunicorn = running.gunicorn("proxy")
    before = set(descendants(gunicorn))
    os.kill(gunicorn, signal.SIGHUP)
    eventually(lambda: set(descendants(gunicorn)) and not any(map(alive, before)))


BAD: dict[str, tuple[Callable[[Files], object], str]] = {
    "mismatched": (lambda f: f.put(f.key, issue().key_pem), "does not fit the certificate"),
    "garbage certificate": (lambda f: f.put(f.certificate, b"\xff" * 99), "holds no certificate"),
    "garbage key": (lambda f: f.put(f.key, b"\xff" * 99), "holds no private key"),
    "missing": (lambda f: f.certificate.unlink(), "there is no"),
    "open to others": (lambda f: f.key.chmod(0o644), "is open to others (mode 0644)"),
}


class TestStart:
    """A pair that cannot be served ends the start."""

    @pytest.mark.parametrize("kind", BAD)
    def test_a_bad_pair_ends_it(self, files: Files, home: Path, kind: str) -> None:
        """`serve proxy` says in one line what is wrong, ends with code 2, and has answered nobody."""
        spoil, text = BAD[kind]
        spoil(files)
        host, port = address = free_address()
        process = spawn(
            *("serve", "proxy", "--home", home, "--listen", f"{host}:{port}"),
            environ=clean_environment(**KEY, **files.environ),
        )
        done, got = ended(process, address)

        assert (done.code, got, done.err.count("\n")) == (2, b"", 1)
        assert text in done.err and str(files.directory) in done.err

    def test_a_key_that_its_user_cannot_read_ends_it(self, files: Files, short: Path) -> None:
        """Root's key and a service that is another user: the likely mistake is told, and nothing is served."""
        files.key.chmod(0o600 if os.geteuid() == 0 else 0)
        for path in (short, files.directory, files.certificate):
            path.chmod(0o755)
        host, port = address = free_address()
        process = subprocess.Popen(
            [sys.executable, "-c", AS_ANOTHER, "serve", "proxy", "--home", short, "--listen", f"{host}:{port}"],
            cwd=ROOT,
            env=clean_environment(**KEY, **files.environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        done, got = ended(process, address)

        assert (done.code, got) == (2, b"")
        assert f"{files.key} cannot be read by user" in done.err and "Permission denied" in done.err

    def test_up_begins_neither_process(self, files: Files, home: Path) -> None:
        """The other process is not begun either, and no socket is left."""
        files.put(files.key, issue().key_pem)
        host, port = address = free_address()
        process = spawn("up", "--home", home, "--listen", f"{host}:{port}", environ=clean_environment(**files.environ))
        done, got = ended(process, address)

        assert (done.code, done.out, got) == (2, "", b"")
        assert "does not fit the certificate" in done.err
        assert list((home / "run").iterdir()) == []

    def test_a_plain_gunicorn_does_not_begin_either(self, files: Files, home: Path) -> None:
        """The configuration module for a gunicorn of one's own loads the pair before that listens."""
        files.put(files.key, issue().key_pem)
        host, port = address = free_address()
        environ = clean_environment(
            **KEY, **files.environ, STRONGROOM_HOME=str(home), STRONGROOM_LISTEN=f"{host}:{port}"
        )
        command = [sys.executable, "-m", "gunicorn", "-c", "python:strongroom.deploy.serving.gunicorn.http_proxy"]
        process = subprocess.Popen(
            command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        done, got = ended(process, address)

        assert done.code != 0
        assert (got, "does not fit the certificate" in done.err) == (b"", True)

    def test_the_service_does_not_need_the_proxys_key(self, files: Files, home: Path) -> None:
        """`serve storage` speaks no TLS, and goes on without being able to read the pair."""
        files.key.unlink()
        environ = clean_environment(**KEY, **files.environ)
        asking = clean_environment(**KEY, STRONGROOM_SOCKET=str(home / "run/storage.sock"))
        with serving(spawn("serve", "storage", "--home", home, "--makedirs", "--workers", "1", environ=environ)):
            eventually(lambda: strongroom("status", environ=asking).code == 0)


class TestServed:
    """While it is served."""

    def test_nothing_is_answered_in_the_clear(self, files: Files, home: Path) -> None:
        """Plain HTTP gets no answer of HTTP, over TLS the same is answered, and the next connection is served."""
        with up(home, environ=clean_environment(**files.environ)) as running:
            address = address_of(running)
            for _ in range(3):
                assert ANSWERED not in in_the_clear(address)
                assert get(address, "/readyz", files.trusting()) == (200, READY)

    def test_who_does_not_come_in_is_told_once(self, files: Files, home: Path) -> None:
        """Of a hundred clients of plain HTTP the log says in a line or two what they do and from where, and no more."""
        with up(home, environ=clean_environment(**files.environ)) as running:
            for _ in range(100):
                in_the_clear(address_of(running))
            with pytest.raises(ssl.SSLCertVerificationError):
                get(address_of(running), "/livez", ssl.create_default_context())
            said = running.end().err
        lines = [line for line in said.splitlines() if "strongroom.deploy.serving.handshakes" in line]
        assert "1 spoke plain HTTP, not TLS: give the client an https:// url (last 127.0.0.1)" in lines[0]
        assert len(lines) <= 2
        assert "CUSTODIA" not in said and "livez" not in said

    def test_the_command_is_told_what_the_port_speaks(self, files: Files, home: Path) -> None:
        """An http url towards TLS and an https url towards plain HTTP end at once, in a line that says which to say."""
        with up(home, environ=clean_environment(**files.environ)) as running:
            done = self._ask(running.url.replace("https:", "http:"))
            assert (done.code, done.err.count("\n")) == (2, 1)
            assert "if it speaks TLS there, say https:// in the url" in done.err
            done = self._ask(running.url, SSL_CERT_FILE=str(files.certificate))
            assert "no authority in" in done.err and "which SSL_CERT_FILE names" in done.err
        with up(home, environ=clean_environment()) as running:
            done = self._ask(running.url.replace("http:", "https:"))
            assert (done.code, done.err.count("\n")) == (2, 1)
            assert "does not speak TLS: see that its proxy has a certificate" in done.err

    def _ask(self, url: str, **more: str) -> Done:
        return strongroom("secret", "get", "a/b", environ=clean_environment(STRONGROOM_URL=url, **KEY, **more))

    def test_the_log_says_https(self, files: Files, home: Path) -> None:
        """Where TLS is spoken, the line about where it listens does not say http."""
        host, port = address = free_address()
        environ = clean_environment(
            **KEY, **files.environ, STRONGROOM_HOME=str(home), STRONGROOM_LISTEN=f"{host}:{port}"
        )
        process = spawn("serve", "proxy", environ=environ)
        try:
            eventually(lambda: get(address, "/livez", files.trusting())[0] == 200)
        finally:
            process.terminate()
            _, said = process.communicate(timeout=ENDED_WITHIN)
        assert f"Listening at: https://{host}:{port} (" in said
        assert "http://" not in said

    def test_a_plain_gunicorn_serves_and_renews_the_same(self, files: Files, home: Path) -> None:
        """It shows the pair that was loaded, takes a new one at SIGHUP, and answers nobody in the clear."""
        host, port = address = free_address()
        environ = clean_environment(
            **KEY, **files.environ, STRONGROOM_HOME=str(home), STRONGROOM_LISTEN=f"{host}:{port}"
        )
        command = [sys.executable, "-m", "gunicorn", "-c", "python:strongroom.deploy.serving.gunicorn.http_proxy"]
        with serving(
            subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        ) as process:
            eventually(lambda: get(address, "/livez", files.trusting())[0] == 200)
            renewed = files.renew()
            process.send_signal(signal.SIGHUP)
            eventually(lambda: shown(address, files) == renewed.fingerprint)
            assert ANSWERED not in in_the_clear(address)

    def test_a_new_home_speaks_tls_1_3_alone(self, files: Files, home: Path) -> None:
        """A client of TLS 1.2 is refused, until the settings let it in."""
        older = files.trusting()
        older.maximum_version = ssl.TLSVersion.TLSv1_2
        with up(home, environ=clean_environment(**files.environ)) as running, pytest.raises(ssl.SSLError):
            get(address_of(running), "/livez", older)

        with up(home, environ=clean_environment(**files.environ, STRONGROOM_TLS_MINIMUM="1.2")) as running:
            assert get(address_of(running), "/livez", older)[0] == 200

    @pytest.mark.parametrize("minimum", ["1.2", "1.3"])
    def test_clients_can_be_asked_for_certificates(self, files: Files, home: Path, minimum: str) -> None:
        """It becomes ready although itself has none; who shows one is served, and who has none is not."""
        friends = issue("friends", authority=True)
        authorities = files.directory / "authorities.pem"
        authorities.write_bytes(friends.pem)
        environ = clean_environment(
            **files.environ,
            STRONGROOM_TLS_MINIMUM=minimum,
            STRONGROOM_TLS_CLIENT_CERTIFICATES="required",
            STRONGROOM_TLS_CLIENT_CA=str(authorities),
        )
        with up(home, environ=environ) as running:
            address = address_of(running)
            for version in {"1.2": ("TLSv1_2", "TLSv1_3"), "1.3": ("TLSv1_3",)}[minimum]:
                friend, stranger = files.trusting(issue("client", friends)), files.trusting()
                friend.maximum_version = stranger.maximum_version = ssl.TLSVersion[version]
                assert get(address, "/readyz", friend)[0] == 200
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    get(address, "/readyz", stranger)

    def test_an_expired_certificate_is_served_and_told(self, files: Files, home: Path) -> None:
        """The log and readiness say that it has expired, config check fails, and who does not mind is served."""
        files.renew(not_before=NOW - 9 * DAY, not_after=NOW - DAY)
        indifferent = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        indifferent.check_hostname = False
        indifferent.verify_mode = ssl.CERT_NONE
        environ = clean_environment(**files.environ)
        with up(home, environ=environ) as running:
            status, document = get(address_of(running), "/readyz", indifferent)
            assert (status, document["status"]) == (200, "ready")
            assert "expired on" in document["warnings"][0] and len(document["warnings"]) == 1
            with pytest.raises(ssl.SSLCertVerificationError):
                get(address_of(running), "/readyz", files.trusting())
            assert strongroom("--home", home, "config", "check", environ=environ).code == 2
            said = running.end().err
        assert " ERROR strongroom.deploy.serving.tls" in said and "expired on" in said


class TestRenewal:
    """While the files are being replaced."""

    def test_a_replaced_worker_has_what_the_last_one_had(self, files: Files, home: Path) -> None:
        """A worker that is killed while the files are half renewed has a successor that serves the old pair."""
        with up(home, environ=clean_environment(**files.environ)) as running:
            address = address_of(running)
            before = shown(address, files)
            files.put(files.key, issue().key_pem)
            gunicorn = running.gunicorn("proxy")
            for _ in range(2):
                (worker,) = descendants(gunicorn)
                os.kill(worker, signal.SIGKILL)
                got = b""
                while descendants(gunicorn) in ([], [worker]):
                    got += in_the_clear(address)
                eventually(lambda: get(address, "/readyz", files.trusting()) == (200, READY))
                assert ANSWERED not in got + in_the_clear(address)
                assert shown(address, files) == before

    def test_a_bad_renewal_leaves_the_old_pair_serving(self, files: Files, home: Path) -> None:
        """After a reload with half a pair the old one is shown, readiness and log tell, and a good reload mends it."""
        with up(home, environ=clean_environment(**files.environ)) as running:
            address = address_of(running)
            before = shown(address, files)
            renewed = issue(signer=files.authority)
            files.put(files.certificate, renewed.pem)
            reload(running)

            assert shown(address, files) == before
            warning = "the last renewal of the TLS certificate failed; the log says why"
            assert get(address, "/readyz", files.trusting()) == (200, READY | {"warnings": [warning]})
            assert ANSWERED not in in_the_clear(address)

            files.put(files.key, renewed.key_pem)
            reload(running)
            assert shown(address, files) == renewed.fingerprint
            assert get(address, "/readyz", files.trusting()) == (200, READY)
            said = running.end().err
        (line,) = (each for each in said.splitlines() if " ERROR " in each)
        assert "the new certificate is not served" in line and "does not fit the certificate" in line
        assert "goes on until" in line

    def test_what_is_under_way_is_finished(self, files: Files, home: Path) -> None:
        """A request whose body is half sent when the pair is renewed is answered on the connection that it came on."""
        with up(home, environ=clean_environment(**files.environ, **PATIENT)) as running:
            address = address_of(running)
            made = strongroom("--home", home, "secret", "put", "--parents", "tls/a", stdin=b"1")
            assert made.code == 0, made.err
            with (
                socket.create_connection(address, timeout=ENDED_WITHIN) as connection,
                files.trusting().wrap_socket(connection, server_hostname="127.0.0.1") as wrapped,
            ):
                fields = credentials(home) | {
                    "Host": "a",
                    "Content-Type": "application/octet-stream",
                    "Content-Length": "8",
                    "Expect": "100-continue",
                }
                head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
                wrapped.sendall(f"PUT /api/v0/secrets/tls/b HTTP/1.1\r\n{head}\r\n".encode())
                assert wrapped.recv(64) == b"HTTP/1.1 100 Continue\r\n\r\n"
                wrapped.sendall(b"half")
                renewed = files.renew()
                os.kill(running.gunicorn("proxy"), signal.SIGHUP)
                eventually(lambda: shown(address, files) == renewed.fingerprint)
                wrapped.sendall(b"full")
                assert wrapped.recv(64).startswith(b"HTTP/1.1 201 ")
            assert strongroom("--home", home, "secret", "get", "tls/b").out == base64.b64encode(b"halffull").decode()

    def test_no_request_is_lost_and_none_is_in_the_clear(self, files: Files, home: Path) -> None:
        """While four clients ask all the time, good and bad pairs are reloaded: each request is answered, over TLS.

        A connection that was idle when its worker ended may be closed, as HTTP allows; its client asks once more on a
        new one, and there an answer must come.
        """
        with up(home, environ=clean_environment(**files.environ, **PATIENT)) as running:
            address = address_of(running)
            made = strongroom("--home", home, "secret", "put", "--parents", "tls/a", stdin=b"value")
            assert made.code == 0, made.err
            asking = [_Asking(address, files.trusting(), credentials(home), keep) for keep in (1, 3, 1000, 1000)]
            stop = threading.Event()
            clear: list[bytes] = []

            def ask_in_the_clear() -> None:
                while not stop.is_set():
                    clear.append(in_the_clear(address))

            threads = [threading.Thread(target=each.run, args=[stop]) for each in asking]
            threads.append(threading.Thread(target=ask_in_the_clear))
            for thread in threads:
                thread.start()
            try:
                for number in range(4):
                    renewed = files.renew()
                    if number % 2:
                        files.put(files.key, issue().key_pem)
                    reload(running)
                    seen = [each.answered for each in asking]
                    eventually(lambda seen=seen: all(e.answered > s for e, s in zip(asking, seen, strict=True)))
                    if not number % 2:
                        assert shown(address, files) == renewed.fingerprint
            finally:
                stop.set()
                for thread in threads:
                    thread.join()

            assert [each.lost for each in asking] == [[]] * 4
            assert clear and not any(ANSWERED in each for each in clear)


def credentials(home: Path) -> dict[str, str]:
    client = json.loads((home / "client.json").read_text())
    return {"CUSTODIA-AUTH-ID": client["api_id"], "CUSTODIA-AUTH-KEY": client["api_key"]}


class _Asking:
    """A client that asks for one secret over and over, and begins a new connection after *keep* answers."""

    def __init__(self, address: Address, context: ssl.SSLContext, fields: dict[str, str], keep: int) -> None:
        self._connection = connect(address, context)
        self._fields = fields
        self._keep = keep
        self.answered = 0
        self.lost: list[str] = []

    def run(self, stop: threading.Event) -> None:
        """Ask until told to stop."""
        while not stop.is_set():
            fresh = self._connection.sock is None
            try:
                self._connection.request("GET", "/api/v0/secrets/tls/a", headers=self._fields)
                answer = self._connection.getresponse()
                if (answer.status, answer.read()) != (200, b'{"type":"simple","value":"value"}'):
                    self.lost.append(f"answered {answer.status}")
                self.answered += 1
                if self.answered % self._keep == 0:
                    self._connection.close()
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                if fresh:
                    self.lost.append(repr(error))
        self._connection.close()

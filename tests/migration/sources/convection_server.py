"""A real Convection server, run and asked as its users do: a process of its own, TLS over its unix socket."""

import base64
import json
import os
import pwd
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import trustme
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

BIN: Final = Path(__file__).resolve().parents[3] / ".venv-convection/bin"  # made by `make test`
_PATIENCE: Final = 60.0  # seconds; only what hangs takes as long
_ANSWER: Final = 65536  # bytes


class Server:
    """A server with its files below one directory: configuration, certificate, socket, log, and ``secrets/``."""

    def __init__(self, directory: Path) -> None:
        """Write its configuration."""
        self.storage = directory / "secrets"
        self.socket = directory / "socket"
        self._directory = directory
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._process: subprocess.Popen[bytes] | None = None
        self._said: dict[str, str] = {}  # what every command is sent with that needs a user
        certificate = trustme.CA().issue_cert("convection")
        certificate.private_key_pem.write_to_path(str(directory / "key.pem"))
        certificate.cert_chain_pems[0].write_to_path(str(directory / "certificate.pem"))
        self.storage.mkdir()
        user = pwd.getpwuid(os.geteuid()).pw_name
        service = {
            "socket_path": str(self.socket),
            "socket_owner": user,
            "socket_group": os.getegid(),
            "tls_cert": str(directory / "certificate.pem"),
            "tls_key": str(directory / "key.pem"),
            "log_file": str(directory / "log"),
        }
        configuration = directory / "convection-secrets/convection-secrets.json"
        configuration.parent.mkdir()
        configuration.write_text(
            json.dumps({"pid_dir": str(directory), "service": service, "config": {"path": str(self.storage)}})
        )

    def start(self) -> None:
        """Start it; it is locked, as it always is then."""
        assert BIN.exists(), "Convection is missing: make .venv-convection/complete"
        with (self._directory / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [BIN / "convection-secrets-manager", "-c", self._directory, "start"],
                cwd=self._directory,
                stdout=output,
                stderr=output,
            )
        until = time.monotonic() + _PATIENCE
        while not self._listens():
            assert self._process.poll() is None, (self._directory / "output").read_text()
            assert time.monotonic() < until, "the server does not listen"
            time.sleep(0.02)

    def stop(self) -> None:
        """End it as one that does not stop by itself is ended, which takes less time; lock it before."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.socket.unlink(missing_ok=True)
            (self._directory / "convection-secrets.pid").unlink(missing_ok=True)

    def initialize(self, unlock_keys: int) -> list[str]:
        """Have keys and a first user made; return the unlock keys."""
        public = self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        answer = self.ask("initialize", num_keys=unlock_keys, root_public_key=public.decode())
        self._said = {"access_key_id": answer["root_access_key_id"]}
        keys: list[str] = answer["keys"]
        return keys

    def unlock(self, key: str) -> None:
        """Unlock it, and log the first user in."""
        said, self._said = self._said, {}
        self.ask("unlock", unlock_key=key)
        with self._connected() as connection:
            challenge = _exchange(connection, "authorize " + json.dumps(said))["response"]
            sha512 = hashes.SHA512()
            token = self._key.decrypt(
                base64.b64decode(challenge), padding.OAEP(padding.MGF1(sha512), algorithm=sha512, label=None)
            ).hex()
            _exchange(connection, token)
        self._said = said | {"auth_token": token}

    def lock(self) -> None:
        """Lock it: it writes no file any more."""
        self.ask("lock")

    def ask(self, command: str, **data: object) -> dict[str, Any]:
        """Return the answer to a command, which must not be an error. A request is below 1 KiB: it reads no more."""
        with self._connected() as connection:
            return _exchange(connection, f"{command} {json.dumps(data | self._said)}")

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as asking:
            return asking.connect_ex(str(self.socket)) == 0

    @contextmanager
    def _connected(self) -> Iterator[ssl.SSLSocket]:
        context = ssl.create_default_context(cafile=str(self._directory / "certificate.pem"))
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        with socket.socket(socket.AF_UNIX) as plain:
            plain.settimeout(_PATIENCE)
            plain.connect(str(self.socket))
            with context.wrap_socket(plain, server_hostname="convection") as connection:
                yield connection


def _exchange(connection: ssl.SSLSocket, request: str) -> dict[str, Any]:
    connection.sendall(request.encode())
    text = b""
    while True:
        part = connection.recv(_ANSWER)
        assert part, f"the server hung up after {text!r}"
        text += part
        try:
            answer: dict[str, Any] = json.loads(text)
        except ValueError:
            continue
        assert answer["result"]["state"], answer["result"]["messages"]
        return answer

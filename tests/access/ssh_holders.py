"""Keys of SSH as their holders have them: files of ssh-keygen, a real ssh-agent, and hardware keys made of software."""

import contextlib
import functools
import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from strongroom.storage_service.wire import ssh

KINDS = {  # what ssh-keygen is told
    "rsa": ("rsa", "3072"),
    "p256": ("ecdsa", "256"),
    "p384": ("ecdsa", "384"),
    "p521": ("ecdsa", "521"),
    "ed25519": ("ed25519", "256"),
}
SK_ED25519 = "sk-ssh-ed25519@openssh.com"
SK_ECDSA = "sk-ecdsa-sha2-nistp256@openssh.com"


def generated(folder: Path, kind: str, passphrase: str = "", *more: str) -> Path:
    """Return the file of a new private key; the public one lies beside."""
    name, bits = KINDS[kind]
    file = folder / f"id_{kind}{'_locked' if passphrase else ''}{'_'.join(more)}"
    command = ["ssh-keygen", "-q", "-t", name, "-b", bits, "-N", passphrase, "-C", f"{kind} of ann", "-f", str(file)]
    subprocess.run([*command, *more], check=True, capture_output=True)
    return file


def signed_by_ssh_keygen(file: Path, message: bytes, *options: str, namespace: str = ssh.NAMESPACE) -> str:
    """Return what ``ssh-keygen -Y sign`` makes of *message*."""
    command = ["ssh-keygen", "-q", "-Y", "sign", "-n", namespace, "-f", str(file), *options]
    return subprocess.run(command, input=message, check=True, capture_output=True).stdout.decode()


@contextlib.contextmanager
def agent() -> Iterator[str]:
    """Run an ssh-agent and yield the path of its socket, short enough to be one."""
    with tempfile.TemporaryDirectory(prefix="agent-", dir="/tmp") as folder:
        path = f"{folder}/s"
        running = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 10
            while not os.path.exists(path):  # noqa: PTH110
                assert running.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield path
        finally:
            running.terminate()
            running.wait(10)


def add(path: str, *files: Path) -> None:
    """Add keys to the agent at *path*."""
    environ = os.environ | {"SSH_AUTH_SOCK": path}
    subprocess.run(["ssh-add", "-q", *map(str, files)], env=environ, check=True, capture_output=True)


@dataclass(frozen=True)
class SoftwareKey:
    """A hardware key without the hardware: it signs as PROTOCOL.u2f of OpenSSH says, and lies when told to."""

    kind: str
    application: str = "ssh:"
    flags: int = 0x01
    counter: int = 7

    @functools.cached_property
    def _private(self) -> Ed25519PrivateKey | ec.EllipticCurvePrivateKey:
        return Ed25519PrivateKey.generate() if self.kind == SK_ED25519 else ec.generate_private_key(ec.SECP256R1())

    @functools.cached_property
    def blob(self) -> bytes:
        """The public key."""
        if isinstance(self._private, Ed25519PrivateKey):
            public = ssh.string(self._private.public_key().public_bytes_raw())
        else:
            point = self._private.public_key().public_bytes(
                serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
            )
            public = ssh.string("nistp256") + ssh.string(point)
        return ssh.string(self.kind) + public + ssh.string(self.application)

    def sign(self, data: bytes) -> bytes:
        """Return the signature over *data*."""
        tail = bytes([self.flags]) + self.counter.to_bytes(4)
        signed = hashlib.sha256(self.application.encode()).digest() + tail + hashlib.sha256(data).digest()
        if isinstance(self._private, Ed25519PrivateKey):
            body = self._private.sign(signed)
        else:
            r, s = decode_dss_signature(self._private.sign(signed, ec.ECDSA(hashes.SHA256())))
            body = ssh.positive(r) + ssh.positive(s)
        return ssh.string(self.kind) + ssh.string(body) + tail

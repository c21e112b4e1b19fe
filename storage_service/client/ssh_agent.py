"""An SSH agent, asked which keys it holds and to sign with one (draft-ietf-sshm-ssh-agent): no private key is read.

Every question has a deadline, and every answer a bound: the socket may lead to another machine.
"""

import math
import os
import socket
import time
from typing import Final, NamedTuple, NoReturn

from strongroom.models.errors import StrongroomError
from strongroom.storage_service.wire import ssh

LIST_TIMEOUT: Final = 5.0  # seconds
SIGN_TIMEOUT: Final = 60.0  # seconds: somebody may have to touch a key, or to say yes
MAX_ANSWER: Final = 256 * 1024  # bytes, as OpenSSH has it
MAX_KEYS: Final = 2048

_REQUEST_IDENTITIES: Final = 11
_IDENTITIES: Final = 12
_SIGN_REQUEST: Final = 13
_SIGNED: Final = 14
_RSA_SHA2_512: Final = 4  # the flag without which RSA signs with SHA-1
_RSA: Final = "ssh-rsa"
_RSA_ALGORITHMS: Final = frozenset(("rsa-sha2-512", "rsa-sha2-256"))


class AgentError(StrongroomError):
    """The agent cannot be asked, or does not do what it is asked; the text says which."""


class AgentKey(NamedTuple):
    """A public key whose private half an agent holds."""

    blob: bytes
    comment: str

    @property
    def fingerprint(self) -> str:
        """What it is known by."""
        return ssh.fingerprint_of(self.blob)


class Agent:
    """An agent behind a socket: a connection for each question, since there are few."""

    def __init__(self, path: str, *, list_timeout: float = LIST_TIMEOUT, sign_timeout: float = SIGN_TIMEOUT) -> None:
        """Take the *path* of its socket; nothing is connected to before it is asked."""
        self._path = path
        self._list_timeout = list_timeout
        self._sign_timeout = sign_timeout

    @classmethod
    def of_environment(cls) -> "Agent | None":
        """Return the agent that ``SSH_AUTH_SOCK`` names, if it names one."""
        path = os.environ.get("SSH_AUTH_SOCK", "")
        return cls(path) if path else None

    def __repr__(self) -> str:
        return f"<Agent at {self._path}>"

    def keys(self) -> list[AgentKey]:
        """Return the keys that it holds, certificates and kinds that nobody here knows among them.

        Raises:
            AgentError: it does not tell.
        """
        kind, reader = self._ask(bytes([_REQUEST_IDENTITIES]), self._list_timeout)
        if kind != _IDENTITIES:
            _fail("does not tell its keys: it may be locked (ssh-add -X unlocks it)")
        try:
            count = reader.number()
            if count > MAX_KEYS:
                _fail(f"says that it holds more than {MAX_KEYS} keys")
            keys = [AgentKey(reader.string(), _shown(reader.string())) for _ in range(count)]
            reader.end()
        except ssh.Malformed:
            keys = None
        if keys is None:
            _fail("gave a malformed answer")
        return keys

    def sign(self, blob: bytes, data: bytes) -> bytes:
        """Return the signature of the key *blob* over *data*, as SSH spells it; never one with SHA-1.

        Raises:
            AgentError: it does not sign: it has no such key, nobody touched or confirmed it, or in no time.
        """
        try:
            rsa = ssh.kind_of(blob) == _RSA
        except ssh.Malformed:
            raise AgentError("that is not a public key") from None
        flags = _RSA_SHA2_512 if rsa else 0
        request = bytes([_SIGN_REQUEST]) + ssh.string(blob) + ssh.string(data) + flags.to_bytes(4)
        kind, reader = self._ask(request, self._sign_timeout)
        if kind != _SIGNED:
            _fail("does not sign with that key: it was not touched or confirmed, or is held no longer")
        try:
            signature = reader.string()
            reader.end()
            algorithm = ssh.kind_of(signature)
        except ssh.Malformed:
            raise AgentError(_said("gave a malformed answer")) from None
        if rsa and algorithm not in _RSA_ALGORITHMS:
            _fail("signs RSA with SHA-1 alone: a newer agent is needed")
        return signature

    def _ask(self, request: bytes, seconds: float) -> tuple[int, ssh.Reader]:
        """Return the kind of the answer to *request*, and what stands in it.

        Raises:
            AgentError: there is none.
        """
        deadline = time.monotonic() + seconds
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                _within(connection, deadline)
                connection.connect(self._path)
                _within(connection, deadline)
                connection.sendall(ssh.string(request))
                size = int.from_bytes(_received(connection, 4, deadline))
                if not 0 < size <= MAX_ANSWER:
                    _fail("gave a malformed answer")
                answer = _received(connection, size, deadline)
        except TimeoutError:
            why = "did not answer in time"
        except (OSError, ValueError) as error:  # a path may be too long, or hold a NUL
            why = f"cannot be asked: {getattr(error, 'strerror', None) or 'its path cannot be a socket'}"
        else:
            return answer[0], ssh.Reader(answer[1:])
        raise AgentError(_said(why))


def _received(connection: socket.socket, count: int, deadline: float) -> bytes:
    """Return the next *count* bytes.

    Raises:
        OSError: they do not come, or not until *deadline*.
    """
    parts = bytearray()
    while len(parts) < count:
        _within(connection, deadline)
        part = connection.recv(count - len(parts))
        if not part:
            raise ConnectionError(0, "it closed the connection")
        parts += part
    return bytes(parts)


def _within(connection: socket.socket, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0 or math.isnan(left):
        raise TimeoutError
    connection.settimeout(left)


def _shown(comment: bytes) -> str:
    """Return a comment that can be shown at a terminal."""
    return "".join(each if each.isprintable() else "?" for each in comment.decode(errors="replace"))[:200]


def _said(what: str) -> str:
    return f"the SSH agent {what}"


def _fail(what: str) -> NoReturn:
    raise AgentError(_said(what))

"""How a client answers the challenge of a login: with a key that signs or decrypts, wherever that key is.

What is signed names the principal and the service as the client means them, and what was decrypted must name them so,
too: a service that hands on another one's challenge gets no answer that is worth anything there. No library of an extra
is needed where an agent holds the key; a key in a file is `strongroom.storage_service.client.login_key`.
"""

import base64
import binascii
import hmac
from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol, runtime_checkable

from strongroom.models.errors import StrongroomError
from strongroom.models.secret import Secret
from strongroom.storage_service.client.ssh_agent import Agent, AgentKey
from strongroom.storage_service.wire import login, ssh

MOST_KEYS: Final = 6  # of an agent that are tried: each that is wrong counts as a stranger

# What signs a login, those first that ask nothing of anybody: a hardware key waits for a finger.
_SIGNING: Final = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)


class Misled(StrongroomError):
    """A challenge is not what it should be: nothing was answered. The text says what is wrong with it."""


class NoKey(StrongroomError):
    """There is no key to log in with; the text says what to do."""


class LoggedIn(NamedTuple):
    """What a login gave: the *token* is good until it *expires*, wherever it is shown; it stays out of the repr."""

    principal: str
    token: Secret
    expires: str  # RFC 3339, UTC
    key: str = ""  # the fingerprint of that which it was given for

    def by(self, key: "Signs") -> "LoggedIn":
        """Return it with the fingerprint of the *key* that it was given for."""
        return self._replace(key=ssh.fingerprint_of(key.blob))


class Signs(Protocol):
    """A private key that signs."""

    @property
    def blob(self) -> bytes:
        """The public key, as SSH spells it."""

    def sign(self, data: bytes) -> bytes:
        """Return its signature over *data*, as SSH spells it."""


@runtime_checkable
class Decrypts(Signs, Protocol):
    """A private key that decrypts, too."""

    def decrypt(self, token: bytes) -> bytes:
        """Return what was encrypted to it as *token*; a ValueError where nothing was."""


class InAgent(NamedTuple):
    """A key that an agent holds."""

    agent: Agent
    blob: bytes

    def sign(self, data: bytes) -> bytes:
        """Return its signature over *data*.

        Raises:
            AgentError: the agent does not sign.
        """
        return self.agent.sign(self.blob, data)


def public_blob(line: str) -> bytes:
    """Return the public key that a line of OpenSSH (a ``.pub`` file) holds, as SSH spells it.

    Raises:
        NoKey: it holds none.
    """
    try:
        kind, spelled, *_ = line.split()
        blob = base64.b64decode(spelled, validate=True)
        if ssh.kind_of(blob) == kind:
            return blob
    except (ValueError, binascii.Error):
        pass
    raise NoKey("that is not a public key of OpenSSH: give the .pub file, or the private key's")


def usable(keys: Iterable[AgentKey]) -> list[AgentKey]:
    """Return those of an agent's *keys* that can log in, those first that need nobody's finger."""
    ranks = {}
    for number, key in enumerate(keys):
        try:
            ranks[key] = (_SIGNING.index(ssh.kind_of(key.blob)), number)
        except ValueError:  # a certificate, or a kind that logs nobody in
            continue
    return sorted(ranks, key=ranks.__getitem__)


def in_agent(agent: Agent | None = None, first: str = "") -> list[InAgent]:
    """Return the keys with which *agent* can log in; that with the fingerprint *first* stands before all others.

    Args:
        agent: None: the one that ``SSH_AUTH_SOCK`` names.
        first: which key is most likely the right one.

    Raises:
        NoKey: there is no agent, or it holds no such key.
        AgentError: it does not tell.
    """
    agent = agent or Agent.of_environment()
    if agent is None:
        raise NoKey("there is no SSH agent (SSH_AUTH_SOCK names none)")
    found = sorted(usable(agent.keys()), key=lambda key: key.fingerprint != first)
    if not found:
        raise NoKey("the SSH agent holds no key that logs in: add one with ssh-add")
    return [InAgent(agent, key.blob) for key in found]


def picked(agent: Agent, fingerprint: str) -> InAgent:
    """Return the key of that *fingerprint* (``SHA256:…``) that *agent* holds.

    Raises:
        NoKey: it holds none.
        AgentError: it does not tell.
    """
    for key in usable(agent.keys()):
        if hmac.compare_digest(key.fingerprint.encode(), fingerprint.encode()):
            return InAgent(agent, key.blob)
    raise NoKey("the SSH agent does not hold that key: add it with ssh-add")


def asked(principal: str, service: str, key: Signs | Decrypts | None = None) -> login.AskedChallenge:
    """Return what to ask for a challenge with: one to be decrypted with *key*, without one one to be signed."""
    if key is None:
        return login.AskedChallenge(principal=principal, service=service)
    return login.AskedChallenge(principal=principal, service=service, how="decrypt", key=ssh.line_of(key.blob))


def answer(
    challenge: login.Challenge, question: login.AskedChallenge, key: Signs | Decrypts, lifetime: str = ""
) -> login.Answer:
    """Return the answer of *key* to the *challenge* that came for *question*.

    Raises:
        Misled: the challenge is for something else.
        AgentError: the agent that holds the key does not sign.
    """
    if challenge.how != question.how:
        raise Misled("the service gave another kind of challenge than it was asked for")
    given = _signed(challenge, question, key) if challenge.how == "sign" else _decrypted(challenge, question, key)
    return login.Answer(challenge=challenge.challenge, answer=given, lifetime=lifetime)


def _signed(challenge: login.Challenge, question: login.AskedChallenge, key: Signs) -> str:
    try:
        message = login.message(challenge.nonce, question.principal, question.service)
    except ValueError as error:
        raise Misled(f"the challenge cannot be signed: {error}") from None
    return ssh.armored(key.blob, key.sign(ssh.to_be_signed(message)))


def _decrypted(challenge: login.Challenge, question: login.AskedChallenge, key: Signs | Decrypts) -> str:
    if not isinstance(key, Decrypts):
        raise Misled("a key that an agent holds signs, and does not decrypt")
    try:
        text = key.decrypt(challenge.encrypted.encode())
        nonce = text.split(b"\n")[1].removeprefix(b"nonce: ").decode("ascii")
        meant = login.message(nonce, question.principal, question.service)
    except (ValueError, IndexError):
        raise Misled("the challenge does not open with this key") from None
    if not hmac.compare_digest(text, meant):
        raise Misled("the challenge was made for somebody else, or by another service: nothing was answered")
    return nonce

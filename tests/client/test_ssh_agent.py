"""An SSH agent is asked with deadlines and bounds, and a key in a file is opened or refused with its reason."""

import contextlib
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from strongroom.storage_service.client import login as client
from strongroom.storage_service.client.login import NoKey, picked, public_blob, usable
from strongroom.storage_service.client.login_key import FileKey, PassphraseNeeded, PassphraseWrong
from strongroom.storage_service.client.ssh_agent import MAX_ANSWER, Agent, AgentError, AgentKey
from strongroom.storage_service.wire import ssh
from tests.access.ssh_holders import KINDS, SK_ED25519, SoftwareKey, add, agent, generated

ED25519 = ssh.string("ssh-ed25519") + ssh.string(bytes(32))
RSA = ssh.string("ssh-rsa") + ssh.string(b"\1\0\1") + ssh.string(b"\x7f" * 384)
SILENT = b""


@contextlib.contextmanager
def answering(answer: bytes | Callable[[socket.socket, bytes], None], **timeouts: float) -> Iterator[Agent]:
    """Yield an agent that gives *answer* to whatever it is asked once; an empty one is never given."""
    with (
        tempfile.TemporaryDirectory(prefix="agent-", dir="/tmp") as folder,
        socket.socket(socket.AF_UNIX) as listening,
    ):
        listening.bind(f"{folder}/s")
        listening.listen()
        done = threading.Event()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):
                request = connection.recv(65536)
                if callable(answer):
                    answer(connection, request)
                elif answer:
                    connection.sendall(answer)
                if answer == SILENT:
                    done.wait(10)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Agent(f"{folder}/s", **timeouts)
        finally:
            done.set()
            thread.join(10)
            assert not thread.is_alive()


def listing(*keys: tuple[bytes, bytes]) -> bytes:
    body = b"\x0c" + len(keys).to_bytes(4) + b"".join(ssh.string(blob) + ssh.string(comment) for blob, comment in keys)
    return ssh.string(body)


def test_a_real_agent_tells_its_keys(tmp_path: Path) -> None:
    """Keys come with their comments, the fingerprint picks one, and an agent without keys says so."""
    files = [generated(tmp_path, kind) for kind in ("ed25519", "p256")]
    with agent() as path:
        asked = Agent(path)
        assert asked.keys() == []
        with pytest.raises(NoKey, match="ssh-add"):
            picked(asked, "SHA256:x")
        add(path, *files)
        keys = asked.keys()

        assert [key.comment for key in keys] == ["ed25519 of ann", "p256 of ann"]
        assert picked(asked, keys[1].fingerprint).blob == keys[1].blob
        with pytest.raises(AgentError, match="does not sign"):
            asked.sign(ED25519, b"data")


def test_a_certificate_in_the_agent_is_passed_over(tmp_path: Path) -> None:
    """Certificates, DSA and kinds that nobody knows log nobody in; hardware keys come last."""
    sk = SoftwareKey(SK_ED25519).blob
    kinds = ["ssh-ed25519-cert-v01@openssh.com", "ssh-dss", "new@example.net"]
    others = [AgentKey(ssh.string(kind), "") for kind in kinds]
    keys = [*others, AgentKey(b"", ""), AgentKey(sk, "yubi"), AgentKey(RSA, ""), AgentKey(ED25519, "")]

    assert [key.blob for key in usable(keys)] == [ED25519, RSA, sk]


def test_comments_can_be_shown() -> None:
    """What an agent says of a key does nothing to a terminal, and has an end."""
    with answering(listing((ED25519, b"\x1b[2J\xff" + b"x" * 500))) as asked:
        (key,) = asked.keys()

    assert key.comment.isprintable()
    assert len(key.comment) == 200


@pytest.mark.parametrize(
    "answer",
    [
        (0).to_bytes(4),
        (MAX_ANSWER + 1).to_bytes(4) + b"x",
        (2**32 - 1).to_bytes(4),
        ssh.string(b"\x0c"),
        ssh.string(b"\x0c" + (1).to_bytes(4)),
        ssh.string(b"\x0c" + (2**32 - 1).to_bytes(4)),
        ssh.string(b"\x0c" + (1).to_bytes(4) + (2**31).to_bytes(4)),
        listing((ED25519, b""))[:-1],
        ssh.string(listing((ED25519, b""))[4:] + b"more"),
        ssh.string(b"\x05"),
        ssh.string(b"\x0e"),
        b"\0",
    ],
)
def test_a_malformed_list_is_an_error(answer: bytes) -> None:
    """Short, long, endless and false answers are errors that name the agent, and nobody waits for more."""
    with (
        answering(answer) as asked,
        pytest.raises(AgentError, match=r"^the SSH agent ") as caught,
    ):
        asked.keys()

    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "answer",
    [
        ssh.string(b"\x05"),
        ssh.string(b"\x0e"),
        ssh.string(b"\x0e" + ssh.string(b"")),
        ssh.string(b"\x0e" + ssh.string(ssh.string("ssh-rsa") + ssh.string(b"sig"))),
        ssh.string(b"\x0e" + ssh.string(ssh.string("rsa-sha2-512") + ssh.string(b"sig")) + b"more"),
    ],
)
def test_a_bad_signature_of_rsa_is_an_error(answer: bytes) -> None:
    """A refusal, a malformed answer and a signature with SHA-1 are errors."""
    with answering(answer) as asked, pytest.raises(AgentError, match=r"^the SSH agent "):
        asked.sign(RSA, b"data")


def test_rsa_is_asked_for_with_sha_2() -> None:
    """The request has the flag without which agents sign with SHA-1, and what comes back is taken."""
    seen = []

    def reply(connection: socket.socket, request: bytes) -> None:
        seen.append(request)
        connection.sendall(ssh.string(b"\x0e" + ssh.string(ssh.string("rsa-sha2-512") + ssh.string(b"sig"))))

    with answering(reply) as asked:
        seen.append(asked.sign(RSA, b"data"))

    flags = (4).to_bytes(4)
    assert seen == [
        ssh.string(b"\x0d" + ssh.string(RSA) + ssh.string(b"data") + flags),
        ssh.string("rsa-sha2-512") + ssh.string(b"sig"),
    ]


def test_a_silent_agent_is_waited_for_no_longer() -> None:
    """Each question has its deadline, also where the answer comes a byte at a time."""

    def drip(connection: socket.socket, _: bytes) -> None:
        connection.sendall((1000).to_bytes(4))
        while True:
            connection.sendall(b"x")
            time.sleep(0.02)

    for answer in (SILENT, drip):
        for ask in (Agent.keys, lambda asked: asked.sign(ED25519, b"data")):
            begun = time.monotonic()
            with (
                answering(answer, list_timeout=0.2, sign_timeout=0.2) as asked,
                pytest.raises(AgentError, match="did not answer in time"),
            ):
                ask(asked)
            assert time.monotonic() - begun < 5


@pytest.mark.parametrize("path", ["/nowhere/agent", "/tmp", "x" * 200, "a\0b"])
def test_an_agent_that_is_not_there_is_an_error(path: str) -> None:
    """A path that leads to no agent is told as that."""
    with pytest.raises(AgentError, match=r"^the SSH agent cannot be asked: "):
        Agent(path).keys()


def test_the_environment_names_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """SSH_AUTH_SOCK says where the agent is; empty or unset, there is none."""
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/agent")
    named = Agent.of_environment()
    monkeypatch.setenv("SSH_AUTH_SOCK", "")

    assert repr(named) == "<Agent at /run/agent>"
    assert Agent.of_environment() is None
    monkeypatch.delenv("SSH_AUTH_SOCK")
    assert Agent.of_environment() is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["OPENSSH", "PEM"])
def test_a_passphrase_is_asked_for(kind: str, form: str, tmp_path: Path) -> None:
    """An encrypted key says that it needs its passphrase, refuses a wrong one, and opens with the right one."""
    more = ("-m", "PEM") if form == "PEM" else ()
    if form == "PEM" and kind == "ed25519":
        more = ("-m", "PKCS8")  # it has no older form; ssh-keygen writes OpenSSH's then
    file = generated(tmp_path, kind, "correct horse", *more)

    with pytest.raises(PassphraseNeeded):
        FileKey.read(file)
    with pytest.raises(PassphraseWrong) as caught:
        FileKey.read(file, b"wrong")

    assert FileKey.read(file, b"correct horse").blob == public_blob(file.with_suffix(".pub").read_text())
    assert caught.value.__cause__ is None


def test_a_passphrase_too_many_is_no_matter(tmp_path: Path) -> None:
    """A key that has no passphrase opens, whatever passphrase is given."""
    assert FileKey.read(generated(tmp_path, "ed25519"), b"passphrase")
    assert FileKey.read(generated(tmp_path, "p256", "", "-m", "PEM"), b"passphrase")


def test_a_file_that_holds_no_key_is_told(tmp_path: Path) -> None:
    """What is missing, too long, public or nonsense is told, and nothing of it is repeated."""
    for text in (b"", b"canary", b"x" * 100_000, b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA"):
        with pytest.raises(NoKey) as caught:
            FileKey(text)
        assert "canary" not in str(caught.value)
    with pytest.raises(NoKey, match="No such file"):
        FileKey.read(tmp_path / "nowhere")
    for line in ("", "ssh-ed25519", "ssh-ed25519 AAAA", "ssh-rsa !!!!", "canary canary"):
        with pytest.raises(NoKey, match="not a public key"):
            public_blob(line)


def test_an_ed25519_file_does_not_decrypt(tmp_path: Path) -> None:
    """Who asks a key to decrypt that only signs is told so."""
    with pytest.raises(NoKey, match="does not decrypt"):
        FileKey.read(generated(tmp_path, "ed25519")).decrypt(b"x")
    assert not isinstance(client.InAgent(Agent("/x"), ED25519), client.Decrypts)

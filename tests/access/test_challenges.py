"""The challenge of a login: answered by real keys of SSH and by decrypting, once, and by nothing that was changed."""

import base64
import dataclasses
import hashlib
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from strongroom.models.access import check_time
from strongroom.storage_service.access.challenges import Challenges, LoginRefused, Proof, Reason
from strongroom.storage_service.access.credentials.access_key import NotProven, access_key
from strongroom.storage_service.access.derivation import challenge_keys, token_secrets
from strongroom.storage_service.client import login as client
from strongroom.storage_service.client.login import Misled, asked, public_blob
from strongroom.storage_service.client.login_key import FileKey
from strongroom.storage_service.client.ssh_agent import Agent
from strongroom.storage_service.errors import Invalid
from strongroom.storage_service.wire import login, ssh
from tests.access.ssh_holders import KINDS, SK_ECDSA, SK_ED25519, SoftwareKey, add, agent, signed_by_ssh_keygen

NOW = 1_764_500_000.5
KEY, OLDER, OTHER = (bytes([number]) * 64 for number in (1, 2, 3))
ANN, HERE = "user:ann", "https://secrets.example.net"
kinds = pytest.mark.parametrize("kind", KINDS)
hardware = pytest.mark.parametrize("kind", [SK_ED25519, SK_ECDSA])


def challenges(*keys: bytes, now: float = NOW) -> Challenges:
    return Challenges(keys or (KEY,), now=lambda: now)


def line_of(file: Path) -> str:
    return file.with_suffix(".pub").read_text()


def given(how: login.How = "sign", key: str = "", principal: str = ANN, service: str = HERE) -> login.Challenge:
    return challenges().give(login.AskedChallenge(principal=principal, service=service, how=how, key=key))


def message_of(challenge: login.Challenge, principal: str = ANN, service: str = HERE) -> bytes:
    return login.message(challenge.nonce, principal, service)


def refused(challenge: login.Challenge, answer: str, *registered: str) -> LoginRefused:
    """Return the refusal of an *answer*; outside, each is the same, and nothing hangs on it."""
    with pytest.raises(LoginRefused, match=r"^the login failed$") as caught:
        challenges().open(challenge.challenge).proven_by(answer, registered)
    error: BaseException = caught.value
    assert error.__context__ is None
    return caught.value


@kinds
@pytest.mark.parametrize("hash_name", ["sha512", "sha256"])
def test_ssh_keygen_signs_a_login(kind: str, hash_name: str, key_files: dict[str, Path]) -> None:
    """What ``ssh-keygen -Y sign`` makes of the text logs in, with each kind of key and either hash."""
    challenge = given()
    answer = signed_by_ssh_keygen(key_files[kind], message_of(challenge), "-O", f"hashalg={hash_name}")
    fingerprint = access_key(line_of(key_files[kind])).fingerprint

    proof = challenges().open(challenge.challenge).proven_by(answer, {fingerprint})

    assert proof == Proof(ANN, HERE, fingerprint, proof.mark)


@kinds
def test_ssh_keygen_verifies_what_the_client_signs(kind: str, key_files: dict[str, Path], tmp_path: Path) -> None:
    """What our client signs with a key's file is a signature in the eyes of ssh-keygen."""
    key = FileKey.read(key_files[kind])
    signature, signers = tmp_path / "signature", tmp_path / "signers"
    signature.write_text(ssh.armored(key.blob, key.sign(ssh.to_be_signed(b"text"))))
    signers.write_text(f"ann {line_of(key_files[kind])}")
    command = ["ssh-keygen", "-Y", "verify", "-n", ssh.NAMESPACE, "-I", "ann", "-f", signers, "-s", signature]

    done = subprocess.run([str(each) for each in command], input=b"text", capture_output=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_an_agent_signs_a_login(key_files: dict[str, Path]) -> None:
    """A real ssh-agent signs with RSA, EC and Ed25519, found by fingerprint, and no private key is read."""
    with agent() as path:
        add(path, *key_files.values())
        for file in key_files.values():
            fingerprint = access_key(line_of(file)).fingerprint
            question, challenge = asked(ANN, HERE), given()
            answer = client.answer(challenge, question, client.picked(Agent(path), fingerprint), "10m")

            proof = challenges().open(answer.challenge).proven_by(answer.answer, {"SHA256:other", fingerprint})

            assert (proof.fingerprint, answer.lifetime) == (fingerprint, "10m")


@kinds
def test_a_key_in_a_file_signs_a_login(kind: str, key_files: dict[str, Path]) -> None:
    """The client signs with a private key's file as an agent does."""
    key, challenge = FileKey.read(key_files[kind]), given()

    answer = client.answer(challenge, asked(ANN, HERE), key)

    assert challenges().open(answer.challenge).proven_by(answer.answer, {ssh.fingerprint_of(key.blob)})


@hardware
def test_a_hardware_key_signs_a_login(kind: str) -> None:
    """A hardware key logs in if it was touched; with a PIN, too."""
    for flags in (0x01, 0x05):
        key, challenge = SoftwareKey(kind, flags=flags), given()
        answer = client.answer(challenge, asked(ANN, HERE), key)

        assert challenges().open(answer.challenge).proven_by(answer.answer, {ssh.fingerprint_of(key.blob)})


@hardware
def test_a_hardware_key_that_nobody_touched_does_not(kind: str) -> None:
    """Without the flag of presence a signature is worth nothing, and a flag put in afterwards breaks it."""
    key, challenge = SoftwareKey(kind, flags=0x04), given()
    signed = ssh.to_be_signed(message_of(challenge))
    signature = key.sign(signed)
    touched = signature[:-5] + b"\x05" + signature[-4:]
    counted = signature[:-5] + b"\x05" + bytes(4)

    details = [
        refused(challenge, ssh.armored(key.blob, each), ssh.fingerprint_of(key.blob)).detail
        for each in (signature, touched, counted, signature[:-1], signature + b"\0", signature[:-5])
    ]

    assert details[:3] == ["nobody touched the key", "the signature is wrong", "the signature is wrong"]
    assert all(details[3:])


@hardware
def test_a_hardware_key_of_another_application_is_another_key(kind: str) -> None:
    """A signature made for a web site, or for another application of SSH, is not one of the registered key."""
    key, challenge = SoftwareKey(kind), given()
    elsewhere = dataclasses.replace(key, application="https://example.net")
    other = ssh.string(kind) + key.blob[len(ssh.string(kind)) : -len(ssh.string("ssh:"))] + ssh.string("ssh:x")
    signed = ssh.to_be_signed(message_of(challenge))
    mine = ssh.fingerprint_of(key.blob)

    assert refused(challenge, ssh.armored(elsewhere.blob, elsewhere.sign(signed)), mine).reason is Reason.WRONG
    assert refused(challenge, ssh.armored(other, key.sign(signed)), mine).reason is Reason.WRONG


@pytest.mark.parametrize("kind", ["rsa", "p256", "p384", "p521"])
def test_decrypting_logs_in(kind: str, key_files: dict[str, Path]) -> None:
    """RSA and EC keys log in by decrypting; the answer shows which key it was."""
    key = FileKey.read(key_files[kind])
    question = asked(ANN, HERE, key)
    challenge = challenges().give(question)

    answer = client.answer(challenge, question, key)
    proof = challenges().open(answer.challenge).proven_by(answer.answer, {ssh.fingerprint_of(key.blob)})

    assert challenge.nonce == ""
    assert proof.fingerprint == ssh.fingerprint_of(key.blob)


def test_another_nonce_than_was_encrypted_logs_nobody_in(key_files: dict[str, Path]) -> None:
    """Whoever cannot decrypt the challenge has nothing to answer: not another nonce, a part of it, or its mark."""
    key = FileKey.read(key_files["p256"])
    question = asked(ANN, HERE, key)
    challenge = challenges().give(question)
    right = client.answer(challenge, question, key).answer
    sealed = challenges().open(challenge.challenge)
    mine = ssh.fingerprint_of(key.blob)
    others = ["", right[:-1], right + "A", right.swapcase(), given().nonce, sealed.mark, challenge.challenge, "\ud800"]

    assert sealed.proven_by(right, {mine})
    assert {refused(challenge, each, mine).reason for each in others} == {Reason.WRONG}
    signed = ssh.armored(key.blob, key.sign(ssh.to_be_signed(login.message(right, ANN, HERE))))
    assert refused(challenge, signed, mine).reason is Reason.WRONG


def test_a_key_that_is_not_registered_logs_nobody_in(key_files: dict[str, Path]) -> None:
    """Whoever signs or decrypts rightly with a key that is not the principal's is refused like a stranger."""
    key = FileKey.read(key_files["p256"])
    for question in (asked(ANN, HERE), asked(ANN, HERE, key)):
        challenge = challenges().give(question)
        answer = client.answer(challenge, question, key).answer
        for registered in ((), ("SHA256:other",)):
            assert refused(challenge, answer, *registered).reason is Reason.NOT_REGISTERED


def test_what_is_nobodys_looks_alike(key_files: dict[str, Path]) -> None:
    """A challenge depends on what was asked alone: for names of one length all its lengths are the same."""
    line = line_of(key_files["rsa"])
    for how, key in (("sign", ""), ("decrypt", line)):
        seen = {
            tuple(map(len, (each.challenge, each.nonce, each.encrypted)))
            for each in (given(how, key, name) for name in ("user:ann", "user:eve", "user:bob"))  # type: ignore[arg-type]
        }
        assert len(seen) == 1


def test_every_field_of_the_sealed_challenge_counts() -> None:
    """A changed character anywhere in a sealed challenge, or one under another key, opens nothing."""
    challenge = given()
    text = challenge.challenge
    changed = [text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :] for at in range(0, len(text), 5)]
    stranger = Challenges((OTHER,), now=lambda: NOW).give(login.AskedChallenge(principal=ANN, service=HERE))

    for each in (*changed, stranger.challenge, "", "a.b.c.d.e", text + "A", "\ud800", "A" * 10_000):
        with pytest.raises(LoginRefused, match=r"^the login failed$") as caught:
            challenges().open(each)
        assert caught.value.reason is Reason.UNSEALED


def test_a_challenge_ends(key_files: dict[str, Path]) -> None:
    """One to be signed is good for sixty seconds, one to be decrypted for fifteen, as it says itself."""
    for how, key, seconds in (("sign", "", 60), ("decrypt", line_of(key_files["p256"]), 15)):
        challenge = given(how, key)  # type: ignore[arg-type]
        end = check_time(challenge.expires, "expires").timestamp()

        assert end == int(NOW) + seconds
        assert challenges(now=end - 0.01).open(challenge.challenge).expires == end
        with pytest.raises(LoginRefused) as caught:
            challenges(now=end).open(challenge.challenge)
        assert caught.value.reason is Reason.EXPIRED


def test_another_worker_opens_it_and_the_key_before_is_accepted() -> None:
    """A challenge opens under the newest key and the one before, whoever made it."""
    old = Challenges((OLDER,), now=lambda: NOW).give(login.AskedChallenge(principal=ANN, service=HERE))

    assert challenges(KEY, OLDER).open(old.challenge).principal == ANN
    with pytest.raises(LoginRefused):
        challenges(KEY).open(old.challenge)


def test_the_mark_is_one_for_a_challenge() -> None:
    """Its name begins with the moment when it may go, in order, and is another for each challenge."""
    sealed = [challenges(now=now).open(given_at(now)) for now in (NOW, NOW, NOW + 1000)]
    marks = [each.mark for each in sealed]

    assert len(set(marks)) == 3
    assert int(marks[0].partition("-")[0], 16) == sealed[0].expires
    assert marks[2] > max(marks[:2])
    assert marks[0].partition("-")[2] == hashlib.sha256(sealed[0].nonce.encode()).hexdigest()
    assert challenges().open(given_at(NOW)).mark not in marks


def given_at(now: float) -> str:
    return challenges(now=now).give(login.AskedChallenge(principal=ANN, service=HERE)).challenge


def test_what_is_signed_for_something_else_is_refused(key_files: dict[str, Path]) -> None:
    """Another principal, service, nonce or namespace, and another hash than was signed, are wrong answers."""
    file, challenge = key_files["ed25519"], given()
    mine = access_key(line_of(file)).fingerprint
    right = message_of(challenge)
    answers = [
        signed_by_ssh_keygen(file, message_of(challenge, principal="user:bob")),
        signed_by_ssh_keygen(file, message_of(challenge, service="https://evil.example.net")),
        signed_by_ssh_keygen(file, message_of(given())),
        signed_by_ssh_keygen(file, right + b"\n"),
        signed_by_ssh_keygen(file, right.rstrip()),
        signed_by_ssh_keygen(file, right, namespace="file"),
        signed_by_ssh_keygen(file, right, namespace="login@strongroom.example.net"),
        "",
        "-----BEGIN SSH SIGNATURE-----\n-----END SSH SIGNATURE-----",
        "-----BEGIN SSH SIGNATURE-----\n!!!!\n-----END SSH SIGNATURE-----",
        "x" * 100_000,
        challenge.nonce,
    ]

    assert {refused(challenge, each, mine).reason for each in answers} == {Reason.WRONG}


def parts_of(key: FileKey, challenge: login.Challenge) -> list[bytes]:
    """Return the parts of a good signature's blob, which can be put together otherwise."""
    signature = key.sign(ssh.to_be_signed(message_of(challenge)))
    strings = [key.blob, ssh.NAMESPACE.encode(), b"", b"sha512", signature]
    return [b"SSHSIG", (1).to_bytes(4), *map(ssh.string, strings)]


def armoured(blob: bytes) -> str:
    return f"-----BEGIN SSH SIGNATURE-----\n{base64.b64encode(blob).decode()}\n-----END SSH SIGNATURE-----\n"


@kinds
def test_every_byte_of_a_signature_counts(kind: str, key_files: dict[str, Path]) -> None:
    """Each part of a signature, changed, is refused; so is what is cut off, or has something at its end."""
    key, challenge = FileKey.read(key_files[kind]), given()
    mine = ssh.fingerprint_of(key.blob)
    whole = b"".join(parts_of(key, challenge))
    assert challenges().open(challenge.challenge).proven_by(armoured(whole), {mine})

    for at in range(0, len(whole), 1 if len(whole) < 400 else 11):
        refused(challenge, armoured(whole[:at] + bytes([whole[at] ^ 0x21]) + whole[at + 1 :]), mine)
    for other in (whole[:-1], whole + b"\0", whole[1:], whole * 2):
        assert refused(challenge, armoured(other), mine).reason is Reason.WRONG


@pytest.mark.parametrize(
    ("place", "other", "why"),
    [
        (1, (2).to_bytes(4), "version 1"),
        (3, ssh.string("file"), "namespace"),
        (4, ssh.string("x"), "reserved"),
        (5, ssh.string("sha1"), "sha512 nor sha256"),
        (5, ssh.string("sha384"), "sha512 nor sha256"),
        (5, ssh.string("sha256"), "signature is wrong"),
    ],
)
def test_each_part_has_its_reason(place: int, other: bytes, why: str, key_files: dict[str, Path]) -> None:
    """Version, namespace, what is reserved and the hash are each told apart inside."""
    key, challenge = FileKey.read(key_files["ed25519"]), given()
    parts = parts_of(key, challenge)
    parts[place] = other

    assert why in refused(challenge, armoured(b"".join(parts)), ssh.fingerprint_of(key.blob)).detail


@kinds
def test_nothing_hides_behind_a_signature(kind: str, key_files: dict[str, Path]) -> None:
    """Bytes after a signature, or after the numbers within it, make it worth nothing."""
    key = FileKey.read(key_files[kind])
    public, signature = access_key(ssh.line_of(key.blob)), key.sign(b"text")
    reader = ssh.Reader(signature)
    algorithm, body = reader.string(), reader.string()

    public.verify(b"text", signature)
    for other in (signature + b"\0", ssh.string(algorithm) + ssh.string(body + b"\0"), ssh.string(algorithm), b""):
        with pytest.raises(NotProven):
            public.verify(b"text", other)


def test_sha_1_is_refused() -> None:
    """RSA that signs with SHA-1, under its own name or another's, is worth nothing; SHA-2 of both sizes is."""
    private = rsa.generate_private_key(65537, 3072)
    numbers = private.public_key().public_numbers()
    key = access_key(ssh.line_of(ssh.string("ssh-rsa") + ssh.positive(numbers.e) + ssh.positive(numbers.n)))
    sha1 = private.sign(b"text", padding.PKCS1v15(), hashes.SHA1())
    sha256 = private.sign(b"text", padding.PKCS1v15(), hashes.SHA256())

    for name, body in (("ssh-rsa", sha1), ("rsa-sha2-256", sha1), ("rsa-sha2-512", sha256), ("ssh-rsa", sha256)):
        with pytest.raises(NotProven):
            key.verify(b"text", ssh.string(name) + ssh.string(body))
    key.verify(b"text", ssh.string("rsa-sha2-256") + ssh.string(sha256))


def test_rsa_signatures_without_their_first_zeros_are_read() -> None:
    """OpenSSH drops zeros at the front of an RSA signature; it is the same signature, and a longer one is not."""
    private = rsa.generate_private_key(65537, 3072)
    numbers = private.public_key().public_numbers()
    key = access_key(ssh.line_of(ssh.string("ssh-rsa") + ssh.positive(numbers.e) + ssh.positive(numbers.n)))
    number = 0
    while (signature := private.sign(b"%d" % number, padding.PKCS1v15(), hashes.SHA512()))[0]:
        number += 1

    key.verify(b"%d" % number, ssh.string("rsa-sha2-512") + ssh.string(signature.lstrip(b"\0")))
    with pytest.raises(NotProven):
        key.verify(b"%d" % number, ssh.string("rsa-sha2-512") + ssh.string(b"\0" + signature))


def test_a_key_of_another_kind_verifies_nothing(key_files: dict[str, Path]) -> None:
    """A signature that names another algorithm than the key's is refused."""
    keys = [FileKey.read(key_files[kind]) for kind in KINDS]
    for key in keys:
        for other in keys:
            if other is not key:
                with pytest.raises(NotProven):
                    access_key(ssh.line_of(key.blob)).verify(b"text", other.sign(b"text"))


@pytest.mark.parametrize(
    ("question", "field"),
    [
        (login.AskedChallenge(principal="", service=HERE), ""),
        (login.AskedChallenge(principal="user:a\nservice: x", service=HERE), ""),
        (login.AskedChallenge(principal="user: ann", service=HERE), ""),
        (login.AskedChallenge(principal="user:\xe4nn", service=HERE), ""),
        (login.AskedChallenge(principal="u" * 129, service=HERE), ""),
        (login.AskedChallenge(principal=ANN, service=""), ""),
        (login.AskedChallenge(principal=ANN, service="https://a\n"), ""),
        (login.AskedChallenge(principal=ANN, service="h" * 513), ""),
        (login.AskedChallenge(principal=ANN, service=HERE, how="decrypt"), "key"),
        (login.AskedChallenge(principal=ANN, service=HERE, how="decrypt", key="ssh-dss AAAA"), "key"),
        (
            login.AskedChallenge(
                principal=ANN, service=HERE, how="decrypt", key=ssh.line_of(SoftwareKey(SK_ECDSA).blob)
            ),
            "key",
        ),
        (login.AskedChallenge(principal=ANN, service=HERE, key="ssh-ed25519 AAAA"), "key"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(question: login.AskedChallenge, field: str) -> None:
    """Names with a line break, empty or long ones, and keys that do not decrypt get no challenge, and are told why."""
    with pytest.raises(Invalid) as caught:
        challenges().give(question)

    assert [name for name, _ in caught.value.faults] == [field] * bool(field)


def test_an_ed25519_key_is_not_encrypted_to(key_files: dict[str, Path]) -> None:
    """Who asks to decrypt with a key that only signs is told so."""
    with pytest.raises(Invalid) as caught:
        given("decrypt", line_of(key_files["ed25519"]))

    assert "signs and does not decrypt" in caught.value.faults[0][1]


def test_the_client_answers_no_challenge_of_somebody_else(key_files: dict[str, Path]) -> None:
    """A service that hands on another one's challenge, or changes the way, gets nothing from the client."""
    key = FileKey.read(key_files["p256"])
    elsewhere = asked(ANN, "https://evil.example.net", key)
    relayed = challenges().give(asked(ANN, HERE, key))
    for challenge, question in (
        (relayed, elsewhere),
        (challenges().give(asked("user:bob", HERE, key)), asked(ANN, HERE, key)),
        (relayed, asked(ANN, HERE)),
        (given(), asked(ANN, HERE, key)),
        (login.Challenge(how="decrypt", challenge="x", expires="", encrypted="a.b.c.d.e"), elsewhere),
        (login.Challenge(how="sign", challenge="x", expires="", nonce="short"), asked(ANN, HERE)),
    ):
        with pytest.raises(Misled):
            client.answer(challenge, question, key)

    signed = client.answer(given(), asked(ANN, "https://evil.example.net"), key)
    assert refused(given(), signed.answer, ssh.fingerprint_of(key.blob)).reason is Reason.WRONG


def test_the_keys_of_logins_and_tokens_say_nothing_of_each_other() -> None:
    """Both are derived from the data key for their own use, two generations of them at most."""
    keys = [KEY, OLDER, OTHER]
    derived = [*token_secrets(keys), *challenge_keys(keys)]

    assert len(set(derived) | set(keys)) == 7
    assert {len(each) for each in derived} == {64}
    assert token_secrets([KEY]) == (derived[0],)
    for bad in ([], [b"short"]):
        with pytest.raises(ValueError, match="data key"):
            token_secrets(bad)


def test_no_secret_is_shown(key_files: dict[str, Path]) -> None:
    """What is sealed, asked and answered shows neither nonce nor answer, and a key's file not the key."""
    key = FileKey.read(key_files["rsa"])
    question = asked(ANN, HERE, key)
    challenge = challenges().give(question)
    answer = client.answer(challenge, question, key)
    shown = repr([challenge, answer, challenges(), challenges().open(challenge.challenge), key])

    assert answer.answer not in shown
    assert challenge.challenge not in shown


def test_a_public_key_of_a_file_is_the_agents(key_files: dict[str, Path]) -> None:
    """The line of a .pub file names the same key as its private file."""
    for file in key_files.values():
        assert public_blob(line_of(file)) == FileKey.read(file).blob

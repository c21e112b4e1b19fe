"""What a login and a token cost without HTTP and store: ``python -m benchmarks.login [--seconds N]``.

A login is a challenge that is opened, an answer that is verified, and a token that is signed. What is told is the time
of the processor, on one thread: neighbours make less of a difference to it.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Iterator

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from strongroom.storage_service.access.challenges import Challenges
from strongroom.storage_service.access.derivation import challenge_keys, token_secrets
from strongroom.storage_service.access.tokens import Signer, Verifier
from strongroom.storage_service.client import login as client
from strongroom.storage_service.client.login_key import FileKey
from strongroom.storage_service.wire import ssh
from strongroom.storage_service.wire.login import AskedChallenge

PRINCIPAL, SERVICE = "user:ann", "https://secrets.example.net"
READY = 64  # answers that are made beforehand, of as many challenges


def main() -> None:
    """Measure each and print what one costs and how many there are in a second."""
    parser = argparse.ArgumentParser(prog="benchmarks.login", description="Measure logins and tokens alone.")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    seconds = parser.parse_args().seconds
    for name, act in _acts():
        rate = _rate(act, seconds)
        print(f"{name:40} {1e6 / rate:8.1f} µs {rate:10,.0f}/s")


def _acts() -> Iterator[tuple[str, Callable[[int], object]]]:
    """Yield what is measured; each is given the number of its turn."""
    keys = [bytes([number]) * 64 for number in (1, 2)]  # two generations, as after a rotation
    challenges, secrets = Challenges(challenge_keys(keys)), token_secrets(keys)
    signer, verifier = Signer(secrets[0], "strongroom"), Verifier(secrets, "strongroom", ("strongroom",))
    question = client.asked(PRINCIPAL, SERVICE)
    yield "challenge to sign", _giving(challenges, question)
    for name, key in _keys():
        yield f"login, {name} signs", _logins(challenges, signer, question, key)
    for name, key in _keys():
        if name != "Ed25519":
            encrypted = client.asked(PRINCIPAL, SERVICE, key)
            yield f"challenge to decrypt, {name}", _giving(challenges, encrypted)
            yield f"login, {name} decrypts", _logins(challenges, signer, encrypted, key)
    token = signer.sign("strongroom", PRINCIPAL)
    yield "token, signed", lambda _: signer.sign("strongroom", PRINCIPAL)
    yield "token, verified", lambda _: verifier.verify(token)


def _giving(challenges: Challenges, question: AskedChallenge) -> Callable[[int], object]:
    return lambda _: challenges.give(question)


def _logins(challenges: Challenges, signer: Signer, question: AskedChallenge, key: FileKey) -> Callable[[int], object]:
    """Return the service's part of a login with *key*."""
    # made in one go: a challenge to decrypt is good for fifteen seconds
    answers = [client.answer(challenges.give(question), question, key) for _ in range(READY)]
    registered = frozenset((ssh.fingerprint_of(key.blob),))

    def log_in(turn: int) -> str:
        answer = answers[turn % READY]
        proof = challenges.open(answer.challenge).proven_by(answer.answer, registered)
        return signer.sign("strongroom", proof.principal, extra_claims={"credential": proof.fingerprint})

    return log_in


def _keys() -> Iterator[tuple[str, FileKey]]:
    for name, private in (
        ("Ed25519", Ed25519PrivateKey.generate()),
        ("P-256", ec.generate_private_key(ec.SECP256R1())),
        ("P-521", ec.generate_private_key(ec.SECP521R1())),
        ("RSA 3072", rsa.generate_private_key(65537, 3072)),
    ):
        form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        yield name, FileKey(private.private_bytes(*form))


def _rate(act: Callable[[int], object], seconds: float) -> float:
    """Return how many there are in a second."""
    begun = time.process_time()
    for number in itertools.count():
        act(number)
        took = time.process_time() - begun
        if took > seconds:
            return (number + 1) / took
    raise AssertionError


if __name__ == "__main__":
    main()

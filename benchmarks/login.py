"""What logins and tokens cost: ``python -m benchmarks.login [--seconds N]``.

First without HTTP and store: a login is a challenge that is opened, an answer that is verified, and a token that is
signed. What is told is the time of the processor, on one thread: neighbours make less of a difference to it.

Then the whole of it: a service of one worker over SQLite with its audit log, asked on its socket by several who log in
with Ed25519, a challenge and an answer each. Told are logins a second, and what one costs the service's processor.
"""

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.processes import Program
from strongroom.models.errors import StrongroomError
from strongroom.storage_service.access.challenges import Challenges
from strongroom.storage_service.access.derivation import challenge_keys, token_secrets
from strongroom.storage_service.access.tokens import Signer, Verifier
from strongroom.storage_service.client import AsyncStorageClient, NewCredential, StorageClient
from strongroom.storage_service.client import login as client
from strongroom.storage_service.client.login_key import FileKey
from strongroom.storage_service.wire import ssh
from strongroom.storage_service.wire.login import AskedChallenge

PRINCIPAL, SERVICE = "user:ann", "https://secrets.example.net"
CALLERS = 16  # who log in at the same time
READY = 64  # answers that are made beforehand, of as many challenges


def main() -> None:
    """Measure each and print what one costs and how many there are in a second."""
    parser = argparse.ArgumentParser(prog="benchmarks.login", description="Measure logins and tokens alone.")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    seconds = parser.parse_args().seconds
    for name, act in _acts():
        rate = _rate(act, seconds)
        print(f"{name:40} {1e6 / rate:8.1f} µs {rate:10,.0f}/s")
    rate, cost = _whole(max(seconds, 2.0))
    print(f"{'whole login, SQLite, audit log':40} {1e6 * cost:8.1f} µs {rate:10,.0f}/s")


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


def _whole(seconds: float) -> tuple[float, float]:
    """Return the logins in a second, and the seconds of processor time that one takes of the service's."""
    with tempfile.TemporaryDirectory(prefix="login-") as folder:
        home = Path(folder) / "home"
        command = [sys.executable, "-m", "strongroom.deploy.cli", "up", "--home", str(home), "--listen", "127.0.0.1:0"]
        program = Program([*command, "--workers", "1"], Path(folder) / "log")
        try:
            program.wait_until(lambda: _serves(home))
            return asyncio.run(_log_in(home, program, seconds))
        finally:
            program.stop()


def _serves(home: Path) -> bool:
    try:
        with StorageClient.from_home(home, retries=0) as own:
            return own.status().state == "unlocked"
    except StrongroomError:
        return False


async def _log_in(home: Path, program: Program, seconds: float) -> tuple[float, float]:
    held = next(key for name, key in _keys() if name == "Ed25519")
    async with AsyncStorageClient.from_home(home) as own:
        await own.add_principal(PRINCIPAL, [NewCredential("access-key", ssh.line_of(held.blob))])
        socket = home / "run/storage.sock"
        done = 0

        async def go_on(until: float) -> None:
            nonlocal done
            while time.perf_counter() < until:
                question = client.asked(PRINCIPAL, stranger.address)
                answer = client.answer(await stranger.challenge(question), question, held)
                await stranger.answer_challenge(answer)
                done += 1

        async with AsyncStorageClient(socket=socket, timeout=60.0) as stranger:
            await go_on(time.perf_counter() + 0.5)
            done, worked, begun = 0, program.worked(), time.perf_counter()
            await asyncio.gather(*(go_on(begun + seconds) for _ in range(CALLERS)))
            took = time.perf_counter() - begun
            return done / took, (program.worked() - worked) / done


if __name__ == "__main__":
    main()

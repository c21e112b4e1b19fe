"""What the keyring costs: from the key to the first secret, re-encryption at full pace, and what readers feel of it.

All of it is measured through the service as it comes, by what an operator would call. What the rate of re-encryption
is held against is the store alone: one full batch of ciphertext after the other, each on disk before the next.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import uvloop

from benchmarks import load
from benchmarks.load import Outcome
from benchmarks.targets import SECRET, Strongroom
from strongroom.deploy.cli.key.rotate import sweep
from strongroom.models.secret import Secret
from strongroom.storage_service.backends import open_backend
from strongroom.storage_service.backends.base import MAX_BATCH, Put
from strongroom.storage_service.client import StorageClient
from strongroom.storage_service.jose.jwe import encrypt
from strongroom.storage_service.keyring.ring import DataKey

CHANGES = 3  # of a record that is re-encrypted: itself, its new row in the index, its old one
READERS = 4  # connections
READS = 400  # a second, over all of them: what leaves the machine time for both
PATIENCE = 60.0  # seconds that one call may take


@dataclass(frozen=True, slots=True)
class Sweep:
    """One round of re-encryption beside one of the store alone, in records a second."""

    created: float  # by the store alone
    replaced: float  # by the store alone
    reencrypted: float


@dataclass(frozen=True, slots=True)
class Reads:
    """Reads while nothing else goes on, and the same reads during a re-encryption at the default pace."""

    quiet: Outcome
    busy: Outcome


def unlocking(target: Strongroom, rounds: int) -> float:
    """Return the median of the seconds from the sending of an unlock key to the first secret.

    The service is started anew for each, and opens by its key file again afterwards.
    """
    key = _rotate_root(target, "unlock")
    took = []
    for _ in range(rounds):
        target.stop()
        target.start(unlocked=False)
        with _client(target) as client:
            begun = time.perf_counter()
            client.unlock(key)
            value = client.get_secret("bench", "h0").reveal_bytes().decode()
            took.append(time.perf_counter() - begun)
        if value != SECRET:
            raise ValueError(f"{target.name} does not give back what it was given")
    _rotate_root(target, "file")
    return statistics.median(took)


def sweeping(target: Strongroom, url: str, records: int, number: int) -> Sweep:
    """Measure round *number* of re-encryption: *records* records that *target* has, and as many in the store *url*."""
    token = encrypt(DataKey("default.1", bytes(64)), "secrets/bench/h000000", SECRET.encode())
    created, replaced = uvloop.run(_raw(url, [f"raw/{number}/{n:06}" for n in range(records)], token))
    with _client(target) as client, _rotated(client):
        begun = time.perf_counter()
        swept = sweep(client, "default", 1.0, _nobody)
        took = time.perf_counter() - begun
    if not swept.settled or swept.moved != records:
        raise ValueError(f"{target.name} re-encrypted {swept.moved} of {records} records")
    return Sweep(created, replaced, records / took)


def reading(target: Strongroom, records: int, seconds: float, number: int) -> Reads:
    """Measure round *number* of reads: in turn the quiet ones and the others first."""
    plan = replace(target.socket.get(records), connections=READERS, seconds=seconds, rate=READS)
    read = lambda: load.run(plan, wrk=False)  # noqa: E731
    if number % 2:
        busy = _while_sweeping(target, read)
        return Reads(read(), busy)
    quiet = read()
    return Reads(quiet, _while_sweeping(target, read))


def _while_sweeping(target: Strongroom, read: Callable[[], Outcome]) -> Outcome:
    """Return what *read* returns while the command re-encrypts; what that left undone is done afterwards."""
    with _client(target) as client, _rotated(client):
        command = [
            sys.executable,
            "-m",
            "strongroom.deploy.cli",
            "key",
            "reencrypt",
            "default",
            "--home",
            str(target.service_home),
        ]
        program = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            before = client.key_usage().generations
            while client.key_usage().generations == before and program.poll() is None:
                time.sleep(0.01)
            outcome = read()
            if program.poll() is not None:
                raise ValueError("the re-encryption was over before the reads were: more records are needed")
        finally:
            program.terminate()
            program.wait()
        sweep(client, "default", 1.0, _nobody)
    return outcome


async def _raw(url: str, names: list[str], value: bytes) -> tuple[float, float]:
    """Return the records a second that the store alone creates, and that it replaces."""
    store = open_backend(url)
    await store.open()
    try:
        rates = []
        for _ in range(2):
            begun = time.perf_counter()
            for start in range(0, len(names), MAX_BATCH):
                await store.commit([Put(name, value) for name in names[start : start + MAX_BATCH]])
            rates.append(len(names) / (time.perf_counter() - begun))
    finally:
        await store.close()
    return rates[0], rates[1]


@contextmanager
def _rotated(client: StorageClient) -> Iterator[None]:
    """Give the keyset of all secrets a new generation, and retire the one before at the end."""
    before = next(each.active for each in client.list_keysets() if each.name == "default")
    client.rotate_keyset("default")
    yield
    client.retire_generation(before)


def _rotate_root(target: Strongroom, mode: Literal["file", "unlock"]) -> Secret | None:
    with _client(target) as client:
        made = client.prepare_root(mode, total=1)
        key = made.keys[0] if made.keys else None
        client.confirm_root(made.root, key)
    return key


def _client(target: Strongroom) -> StorageClient:
    return StorageClient.from_home(target.service_home, timeout=PATIENCE)


def _nobody(_: int) -> None:
    """Be told of progress, and do nothing."""

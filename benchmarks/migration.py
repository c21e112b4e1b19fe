"""What moving a source in costs: the whole of ``strongroom migrate apply``, beside the store alone.

Each host at the source is two records, one of them secret. What the rate is held against is the store alone: the same
records as they lie in it in the end, one full batch after the other, each on disk before the next.
"""

import base64
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import uvloop
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks.targets import Strongroom
from strongroom.models import Host, HostCreds, HostState, OperatingSystem, Secret
from strongroom.storage_service.backends import open_backend
from strongroom.storage_service.backends.base import MAX_BATCH, Put
from strongroom.storage_service.backends.etcd.messages_pb2 import PutRequest, RequestOp, TxnRequest
from strongroom.storage_service.backends.etcd.methods import TXN
from strongroom.storage_service.jose.jwe import encrypt
from strongroom.storage_service.keyring.ring import DataKey

PER_HOST = 2  # records
# As large as a key mostly is: what is none does not move.
_PEM = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
_KEY = base64.b64encode(_PEM).decode()


@dataclass(frozen=True, slots=True)
class Move:
    """One run of apply beside the store alone, in records a second."""

    alone: float
    moved: float
    memory: float  # MiB that the command held at most


def moving(target: Strongroom, source: Sequence[str], url: str, hosts: int) -> Move:
    """Measure one apply of *hosts* hosts from *source* into *target*, then as many into the store *url* alone."""
    weight = target.home / "weight"
    command = [sys.executable, "-m", "strongroom.deploy.tools.peak", str(weight)]
    command += [
        sys.executable,
        "-m",
        "strongroom.deploy.cli",
        "migrate",
        "apply",
        *source,
        "--home",
        str(target.service_home),
    ]
    begun = time.perf_counter()
    program = subprocess.run([*command, "--json"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    took = time.perf_counter() - begun
    report = json.loads(program.stdout)
    if program.returncode != 0 or report["counts"]["created"] != hosts * PER_HOST:
        raise ValueError(f"{target.name} did not move {hosts} hosts: {report['counts']}")
    alone = uvloop.run(_alone(url, hosts))
    return Move(alone, hosts * PER_HOST / took, int(weight.read_text()) / 1024)


def as_lines(path: Path, hosts: int, first: int = 0) -> list[str]:
    """Write a source of JSON lines, and return what names it on the command line."""
    with path.open("w") as file:
        for number in range(first, first + hosts):
            file.write(json.dumps({"model": "Host", **_old_host(number)}) + "\n")
    path.chmod(0o600)
    return ["jsonl", str(path)]


def as_commissaire(address: str, prefix: str, hosts: int, first: int = 0) -> list[str]:
    """Put a source of Commissaire's into the etcd at *address*, and return what names it on the command line."""
    with grpc.insecure_channel(address) as channel:
        transaction = TXN.on(channel)
        for start in range(first, first + hosts, MAX_BATCH):
            puts = [
                RequestOp(
                    request_put=PutRequest(
                        key=f"{prefix}/hosts/{_address(number)}".encode(),
                        value=json.dumps(_old_host(number)).encode(),
                    )
                )
                for number in range(start, min(start + MAX_BATCH, first + hosts))
            ]
            transaction(TxnRequest(success=puts))
    return ["commissaire", f"etcd://{address}{prefix}"]


def _address(number: int) -> str:
    return f"h{number:07}"


def _old_host(number: int) -> dict[str, object]:
    return {
        "address": _address(number),
        "status": "active",
        "os": "fedora",
        "cpus": 2,
        "memory": 11989228,
        "space": 487652,
        "last_check": "2016-07-29T20:39:50.529454",
        "ssh_priv_key": _KEY,
        "remote_user": "root",
    }


def _stored(hosts: int) -> Iterator[Put]:
    """Yield the records of so many hosts as the store gets them."""
    key = DataKey("default.1", bytes(64))
    creds = HostCreds(address=_address(0), ssh_priv_key=Secret(_KEY))
    name = creds.record_name
    token = encrypt(key, name, base64.b64encode(creds.to_json()))
    plain = Host(
        address=_address(0), status=HostState.ACTIVE, os=OperatingSystem.FEDORA, cpus=2, memory=11989228, space=487652
    ).to_json()
    for number in range(hosts):
        yield Put(f"hosts/{_address(number)}", plain)
        yield Put(f"secrets/hosts/{_address(number)}", token)


async def _alone(url: str, hosts: int) -> float:
    """Return the records a second that the store alone takes."""
    store = open_backend(url)
    await store.open()
    try:
        records = list(_stored(hosts))
        begun = time.perf_counter()
        for start in range(0, len(records), MAX_BATCH):
            await store.commit(records[start : start + MAX_BATCH])
        return len(records) / (time.perf_counter() - begun)
    finally:
        await store.close()

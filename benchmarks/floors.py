"""What the stores themselves do without anything above them, in records a second: no system on them can do better."""

import asyncio
import itertools
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc

from benchmarks.targets import SECRET
from strongroom.storage_service.backends.etcd.keyspace import put
from strongroom.storage_service.backends.etcd.messages_pb2 import RangeRequest, TxnRequest
from strongroom.storage_service.backends.etcd.methods import RANGE, TXN

_VALUE = SECRET.encode()
_KEYS = 1000


def sqlite(home: Path, seconds: float) -> dict[str, float]:
    """Put and get in one SQLite file, each put on disk before the next: WAL, ``synchronous=FULL``."""
    store = sqlite3.connect(home / "floor.db", isolation_level=None)
    store.execute("pragma journal_mode = wal")
    store.execute("pragma synchronous = full")
    store.execute("create table floor (name text primary key, value blob) without rowid")
    put = _rate(lambda n: store.execute("insert or replace into floor values (?, ?)", (f"h{n}", _VALUE)), seconds)
    get = _rate(lambda n: store.execute("select value from floor where name = ?", (f"h{n % 50}",)).fetchone(), seconds)
    store.close()
    return {"put 1": put, "get 1": get}


def _rate(act: Callable[[int], object], seconds: float) -> float:
    begun = time.perf_counter()
    for number in itertools.count():
        act(number % _KEYS)
        took = time.perf_counter() - begun
        if took > seconds:
            return (number + 1) / took
    raise AssertionError


def etcd(address: str, seconds: float) -> dict[str, float]:
    """Put and get in etcd through its own protocol, by one and by sixteen clients at a time."""
    return asyncio.run(_etcd(address, seconds))


async def _etcd(address: str, seconds: float) -> dict[str, float]:
    async with grpc.aio.insecure_channel(address) as channel:
        transaction, look = TXN.on(channel), RANGE.on(channel)
        acts: dict[str, Callable[[int], Awaitable[object]]] = {
            "put": lambda n: transaction(TxnRequest(success=[put(f"floor/h{n}".encode(), _VALUE)])),
            "get": lambda n: look(RangeRequest(key=f"floor/h{n}".encode())),
        }
        return {f"{act} {at_once}": await _rate_of(acts[act], at_once, seconds) for act in acts for at_once in (1, 16)}


async def _rate_of(act: Callable[[int], Awaitable[object]], at_once: int, seconds: float) -> float:
    begun = time.perf_counter()
    numbers = itertools.count()

    async def one() -> None:
        while time.perf_counter() - begun < seconds:
            await act(next(numbers) % _KEYS)

    await asyncio.gather(*(one() for _ in range(at_once)))
    return next(numbers) / (time.perf_counter() - begun)

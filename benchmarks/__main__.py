"""Run every measurement and print the tables: ``python -m benchmarks [--rounds N] [--quick]``."""

import argparse
import contextlib
import itertools
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx

from benchmarks import floors, keyring, load, migration, report, rules
from benchmarks.load import Outcome
from benchmarks.report import BATCH, Cell, Measured
from benchmarks.targets import SECRET, Custodia, Door, Etcd, Nothing, OpenBao, Strongroom, Target

RECORDS = 1000
CONNECTIONS = (1, 16)
BLOCK = 1_000_000  # numbers set aside for one measurement of puts: each writes records that are not there

T = TypeVar("T", bound=Target)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    rounds: int
    seconds: float  # of one measurement
    many: int  # records, for the start with many
    swept: int  # records, for re-encryption
    moved: int  # hosts, for a migration


@dataclass(frozen=True, slots=True)
class Job:
    """One measurement: run once a round."""

    cell: Cell
    run: Callable[[], Outcome]


def main() -> None:
    """Measure everything, print the tables, and keep them unless it was only a look."""
    parser = argparse.ArgumentParser(prog="benchmarks", description="Measure Strongroom beside OpenBao and Custodia.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="short and small; leaves RESULTS.md alone")
    parser.add_argument("--requests", action="store_true", help="the requests alone; leaves RESULTS.md alone")
    parser.add_argument("--keyring", action="store_true", help="the keyring alone; leaves RESULTS.md alone")
    parser.add_argument("--migration", action="store_true", help="the migration alone; leaves RESULTS.md alone")
    parser.add_argument("--rules", action="store_true", help="the rules of access alone; leaves RESULTS.md alone")
    arguments = parser.parse_args()
    size = Size(arguments.rounds, 3.0, 100_000, 10_000, 10_000)
    if arguments.quick:
        size = Size(arguments.rounds, 1.0, 2000, 2000, 2000)
    # /var/tmp is on disk where /tmp may be memory, and its short name leaves room for sockets
    home = Path(tempfile.mkdtemp(prefix="strongroom-bench-", dir="/var/tmp"))
    try:
        measured = Measured()
        if arguments.keyring:
            _measure_keyring(home, size, measured)
            _measure_starts(home, size, measured)
        elif arguments.migration:
            _measure_migration(home, size, measured)
        elif arguments.rules:
            _measure_rules(size, measured)
        elif arguments.requests:
            measured = measure(home, size)
        else:
            measured = measure(home, size)
            _measure_keyring(home, size, measured)
            _measure_migration(home, size, measured)
            _measure_starts(home, size, measured)
            _measure_rules(size, measured)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    for asked, told in (
        (arguments.keyring, report.keyring),
        (arguments.migration, report.migration),
        (arguments.rules, report.rules),
    ):
        if asked:
            sys.stdout.write(told(measured) + "\n")
            return
    if arguments.requests:
        sys.stdout.write(report.requests(measured, rounds=size.rounds, seconds=size.seconds, records=RECORDS))
        return
    page = report.page(measured, rounds=size.rounds, seconds=size.seconds, records=RECORDS)
    sys.stdout.write(page)
    if not arguments.quick:
        report.RESULTS.write_text(page, encoding="utf-8")


def measure(home: Path, size: Size) -> Measured:
    """Start everything, measure requests in rounds, and stop everything."""
    measured = Measured()
    with contextlib.ExitStack() as stack:
        etcd = _started(stack, Etcd(home / "etcd"))
        targets: list[Target] = [
            _started(stack, Strongroom(home / "sqlite")),
            _started(stack, Strongroom(home / "on-etcd", f"etcd://{etcd.address}/bench")),
            _started(stack, OpenBao(home / "openbao")),
            _started(stack, OpenBao(home / "openbao-audited", audited=True)),
            _started(stack, Custodia(home / "custodia", on_socket=False)),
            _started(stack, Custodia(home / "custodia-socket", on_socket=True)),
        ]
        for target in targets:
            target.prepare()
            _fill(target, 0, RECORDS)
            _verify(target)
        jobs = list(_jobs([*targets, _started(stack, Nothing(home / "nothing"))], size.seconds))
        for number in range(size.rounds):
            _say(f"round {number + 1} of {size.rounds}: {len(jobs)} measurements of {size.seconds:.0f} s")
            for job in _rotated(jobs, number):
                measured.add(job.cell, job.run())
        measured.memory = {target.name: target.memory() for target in (*targets, etcd)}
        _say("the stores alone")
        measured.floors = {
            "SQLite": floors.sqlite(home, size.seconds),
            "etcd": floors.etcd(etcd.address, size.seconds),
        }
    measured.versions = report.versions()
    return measured


def _started(stack: contextlib.ExitStack, target: T) -> T:
    _say(f"starting {target.name}")
    stack.callback(target.stop)
    target.start()
    return target


def _fill(target: Target, first: int, count: int) -> None:
    load.run(_door(target).fill(first, count), wrk=False)


def _door(target: Target) -> Door:
    door = target.tcp or target.socket
    if door is None:
        raise ValueError(f"{target.name} listens nowhere")
    return door


def _verify(target: Target) -> None:
    """See with our own eyes that the target keeps what it was given, so that the right thing is measured."""
    door = _door(target)
    transport = httpx.HTTPTransport(uds=door.address) if door.address.startswith("/") else None
    host = "localhost" if transport is not None else door.address
    with httpx.Client(transport=transport, headers=door.headers) as client:
        answer = client.get(f"http://{host}{door.root}h{RECORDS - 1}").raise_for_status()
        kept = answer.json()["data"]["value"] if isinstance(target, OpenBao) else answer.text
        batch = target.batch(BATCH)
        if batch is not None:
            url = f"http://{host}{batch.path}"
            values = client.post(url, content=batch.body, headers=batch.headers).raise_for_status().json()
            if len(values) != BATCH or not all(values.values()):
                raise ValueError(f"{target.name} does not give back a batch")
    if kept != SECRET:
        raise ValueError(f"{target.name} does not give back what it was given")


def _jobs(targets: Sequence[Target], seconds: float) -> Iterator[Job]:
    """Yield every measurement of a round, those that are compared next to each other."""
    blocks = itertools.count(0, BLOCK)
    for way, act, connections, target in itertools.product(("network", "socket"), ("get", "put"), CONNECTIONS, targets):
        door = target.tcp if way == "network" else target.socket
        if door is not None and not (act == "put" and isinstance(target, Nothing)):
            cell = Cell(way, act, connections, target.name)
            yield Job(cell, _job(door, act, connections, seconds, blocks, wrk=way == "network"))
    for target, connections in itertools.product(targets, CONNECTIONS):
        batch = target.batch(BATCH)
        if batch is not None:
            plan = replace(batch, connections=connections, seconds=seconds)
            yield Job(Cell("network", "batch", connections, target.name), partial(load.run, plan, wrk=True))
    for target, connections in itertools.product(targets, CONNECTIONS):  # our own generator beside wrk
        if isinstance(target, Nothing):
            run = _job(target.tcp, "get", connections, seconds, blocks, wrk=False)
            yield Job(Cell("own generator", "get", connections, target.name), run)


def _job(
    door: Door, act: str, connections: int, seconds: float, blocks: Iterator[int], *, wrk: bool
) -> Callable[[], Outcome]:
    def run() -> Outcome:
        plan = door.get(RECORDS) if act == "get" else door.put(next(blocks))
        return load.run(replace(plan, connections=connections, seconds=seconds), wrk=wrk)

    return run


def _rotated(jobs: list[Job], by: int) -> list[Job]:
    """Return *jobs* beginning elsewhere in each round, so that nothing always comes after the same neighbour's work."""
    by = by * 7 % len(jobs)
    return jobs[by:] + jobs[:by]


def _measure_keyring(home: Path, size: Size, measured: Measured) -> None:
    """Measure re-encryption beside the stores alone, and what readers feel of it."""
    with contextlib.ExitStack() as stack:
        etcd = _started(stack, Etcd(home / "keyring-etcd"))
        pairs = [
            (_started(stack, Strongroom(home / "keyring-sqlite")), f"sqlite:{home / 'alone.db'}"),
            (
                _started(stack, Strongroom(home / "keyring-on-etcd", f"etcd://{etcd.address}/bench")),
                f"etcd://{etcd.address}/alone",
            ),
        ]
        for target, _ in pairs:
            target.prepare()
            _fill(target, 0, size.swept)
        for number, (target, url) in itertools.product(range(size.rounds), pairs):
            _say(f"{target.name}: round {number + 1} of {size.rounds} of re-encryption")
            measured.sweeps[target.name].append(keyring.sweeping(target, url, size.swept, number))
            measured.reads[target.name].append(keyring.reading(target, size.swept, size.seconds, number))


def _measure_migration(home: Path, size: Size, measured: Measured) -> None:
    """Measure moving sources in beside the stores alone; the command's memory with many hosts, too."""
    with contextlib.ExitStack() as stack:
        etcd, old = _started(stack, Etcd(home / "moving-etcd")), _started(stack, Etcd(home / "moving-source"))
        pairs = [
            (_started(stack, Strongroom(home / "moving-sqlite")), f"sqlite:{home / 'moved'}"),
            (
                _started(stack, Strongroom(home / "moving-on-etcd", f"etcd://{etcd.address}/bench")),
                f"etcd://{etcd.address}/moved",
            ),
        ]
        for number, (target, url) in itertools.product(range(size.rounds), pairs):
            _say(f"{target.name}: round {number + 1} of {size.rounds} of moving in")
            first = number * size.moved
            lines = migration.as_lines(home / f"{number}.jsonl", size.moved, first)
            shared = measured.moves["JSON lines", target.name]
            shared.append(migration.moving(target, lines, f"{url}-lines-{number}", size.moved))
            records = migration.as_commissaire(old.address, f"/{target.name[-4:]}-{number}", size.moved, BLOCK + first)
            shared = measured.moves["Commissaire in etcd", target.name]
            shared.append(migration.moving(target, records, f"{url}-etcd-{number}", size.moved))
        many = size.moved * 10
        _say(f"moving {many:,} hosts in")
        lines = migration.as_lines(home / "many.jsonl", many, 2 * BLOCK)
        measured.many_moved = many, migration.moving(pairs[0][0], lines, f"{pairs[0][1]}-many", many)


def _measure_starts(home: Path, size: Size, measured: Measured) -> None:
    """Measure from the start of the program, or from the key for a locked one, to the first answer."""
    with contextlib.ExitStack() as stack:
        etcd = _started(stack, Etcd(home / "starts-etcd"))
        for target in (
            Strongroom(home / "starts-sqlite"),
            Strongroom(home / "starts-on-etcd", f"etcd://{etcd.address}/bench"),
            OpenBao(home / "starts-openbao"),
        ):
            _started(stack, target)
            target.prepare()
            there = 0
            for wanted in (10, size.many):
                _say(f"{target.name}: starting with {wanted:,} records")
                _fill(target, there, wanted - there)
                there = wanted
                took = []
                for _ in range(size.rounds):
                    target.stop()
                    took.append(target.start())
                measured.starts[target.name, wanted] = statistics.median(took)
                if isinstance(target, Strongroom):
                    measured.unlocks[target.name, wanted] = keyring.unlocking(target, size.rounds)
            target.stop()


def _measure_rules(size: Size, measured: Measured) -> None:
    """Measure decisions by rules, in this process."""
    _say(f"deciding by {rules.RULES:,} rules")
    measured.ruled = [rules.measure() for _ in range(size.rounds)]


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

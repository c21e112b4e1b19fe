"""Measure this tree beside an earlier commit of it, taking turns: ``python -m benchmarks.against COMMIT [--rounds N]``.

Both run in the environment of this tree, so that the code is all that differs. The first ratio is of requests a second,
the second of requests for a second of processor time, which other programs on the machine disturb less. One above 1
means that this tree is faster; each is the median of the ratios within the rounds, which the speed of the machine does
not enter.
"""

import argparse
import contextlib
import itertools
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks import load
from benchmarks.targets import ROOT, Etcd, Strongroom
from strongroom.deploy.tools import links

RECORDS = 1000
BLOCK = 1_000_000  # numbers set aside for one measurement of puts
CONNECTIONS = 16


def main() -> None:
    """Measure, and print a table of ratios."""
    parser = argparse.ArgumentParser(prog="benchmarks.against", description=__doc__)
    parser.add_argument("commit")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="strongroom-against-", dir="/var/tmp"))
    try:
        with _checked_out(arguments.commit, home / "earlier") as earlier:
            ratios = _measure(home, earlier, arguments.rounds, arguments.seconds)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    for what, found in ratios.items():
        print(f"{what:44}", *(_shown(of) for of in zip(*found, strict=True)), sep="   ")


def _shown(ratios: tuple[float, ...]) -> str:
    return f"{statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


@contextlib.contextmanager
def _checked_out(commit: str, path: Path) -> Iterator[Path]:
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--detach", "--quiet", path, commit], check=True)
    if (path / "strongroom").is_dir():
        links.link(path)
    try:
        yield path
    finally:
        subprocess.run([*git, "remove", "--force", path], check=True)


def _measure(home: Path, earlier: Path, rounds: int, seconds: float) -> dict[str, list[tuple[float, float]]]:
    ratios: dict[str, list[tuple[float, float]]] = defaultdict(list)
    blocks = itertools.count(0, BLOCK)
    with contextlib.ExitStack() as stack:
        etcd = Etcd(home / "etcd")
        stack.callback(etcd.stop)
        etcd.start()
        pairs = []
        for store in ("sqlite", "etcd"):
            pair = []
            for which, source in (("now", ROOT), ("then", earlier)):
                url = store if store == "sqlite" else f"etcd://{etcd.address}/{which}"
                target = Strongroom(home / f"{store}-{which}", url, source)
                stack.callback(target.stop)
                target.start()
                target.prepare()
                load.run(target.tcp.fill(0, RECORDS), wrk=False)
                pair.append(target)
            pairs.append((store, pair))
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            for (store, pair), act, way in itertools.product(pairs, ("get", "put"), ("proxy", "socket")):
                gone = {}
                for target in pair if number % 2 else reversed(pair):
                    door = target.tcp if way == "proxy" else target.socket
                    plan = door.get(RECORDS) if act == "get" else door.put(next(blocks))
                    plan = replace(plan, connections=CONNECTIONS, seconds=seconds)
                    before = target.worked()
                    outcome = load.run(plan, wrk=way == "proxy")
                    gone[target] = outcome.rate, outcome.requests / (target.worked() - before)
                now, then = (gone[target] for target in pair)
                what = f"{act}, {way}, {store}, {CONNECTIONS} connections"
                ratios[what].append((now[0] / then[0], now[1] / then[1]))
    return ratios


if __name__ == "__main__":
    main()

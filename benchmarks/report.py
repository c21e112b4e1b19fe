"""What was measured, and the page that says it: medians, ratios, and the facts of the machine that matter."""

import os
import platform
import statistics
import subprocess
from collections import defaultdict
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from benchmarks.keyring import CHANGES, READERS, READS, Reads, Sweep
from benchmarks.load import Outcome
from benchmarks.migration import PER_HOST, Move
from benchmarks.rules import GROUPS, NAMES, PRINCIPALS, RULES, Ruled
from benchmarks.targets import BAO, SECRET

RESULTS = Path(__file__).parent / "RESULTS.md"
BATCH = 100  # names in one batch get
COLUMNS = ("Strongroom, SQLite", "Strongroom, etcd", "OpenBao", "OpenBao, audited", "Custodia")


class Cell(NamedTuple):
    """One thing that is measured once a round."""

    way: str  # "network", "socket", "own generator"
    act: str  # "get", "put", "batch"
    connections: int
    target: str


@dataclass
class Measured:
    """Everything a run found out."""

    outcomes: dict[Cell, list[Outcome]] = field(default_factory=lambda: defaultdict(list))
    memory: dict[str, float] = field(default_factory=dict)  # MiB
    starts: dict[tuple[str, int], float] = field(default_factory=dict)  # seconds, by target and records
    unlocks: dict[tuple[str, int], float] = field(default_factory=dict)  # seconds, by target and records
    sweeps: dict[str, list[Sweep]] = field(default_factory=lambda: defaultdict(list))
    reads: dict[str, list[Reads]] = field(default_factory=lambda: defaultdict(list))
    moves: dict[tuple[str, str], list[Move]] = field(default_factory=lambda: defaultdict(list))  # by source and target
    many_moved: tuple[int, Move] | None = None  # hosts
    ruled: list[Ruled] = field(default_factory=list)
    floors: dict[str, dict[str, float]] = field(default_factory=dict)  # acts a second
    versions: str = ""

    def add(self, cell: Cell, outcome: Outcome) -> None:
        """Keep one outcome."""
        self.outcomes[cell].append(outcome)

    def rate(self, cell: Cell) -> float | None:
        """Return the median of the requests a second, if the cell was measured."""
        outcomes = self.outcomes.get(cell)
        return statistics.median(outcome.rate for outcome in outcomes) if outcomes else None

    def latency(self, cell: Cell) -> tuple[float, float] | None:
        """Return the medians of the rounds' 50th and 99th percentiles, in milliseconds."""
        outcomes = self.outcomes.get(cell)
        if not outcomes:
            return None
        return statistics.median(o.p50 for o in outcomes), statistics.median(o.p99 for o in outcomes)

    def spread(self) -> float:
        """Return how far the rounds of one cell lay apart, as the median over cells of (highest - lowest) / median."""
        spreads = []
        for outcomes in self.outcomes.values():
            rates = [outcome.rate for outcome in outcomes]
            spreads.append((max(rates) - min(rates)) / statistics.median(rates))
        return statistics.median(spreads)


def versions() -> str:
    """Return what ran, and on what: nothing that says where."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    bao = subprocess.run([BAO, "version"], capture_output=True, text=True, check=True).stdout.split()[1]
    etcd = subprocess.run(["etcd", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    return (
        f"{os.cpu_count()} cores ({cpu}), {memory:.0f} GiB of memory, Linux {platform.release().partition('-')[0]}; "
        f"Python {platform.python_version()}, Strongroom {version('strongroom')}, falcon {version('falcon')}, "
        f"gunicorn {version('gunicorn')}, etcd {etcd}, OpenBao {bao.removeprefix('v')}, Custodia 0.6.0."
    )


def page(measured: Measured, *, rounds: int, seconds: float, records: int) -> str:
    """Return the whole page in Markdown."""
    parts = [
        requests(measured, rounds=rounds, seconds=seconds, records=records).rstrip("\n"),
        "## From the start of the program to the first answer, in seconds",
        _starts(measured),
        """\
OpenBao's includes the call that unseals it. Custodia is left out: it would take a quarter of an hour to fill, and its
start does not read its store.""",
        keyring(measured),
        migration(measured),
        rules(measured),
    ]
    return "\n\n".join(parts) + "\n"


def requests(measured: Measured, *, rounds: int, seconds: float, records: int) -> str:
    """Return the page of the requests alone."""
    parts = [
        "# Measurements",
        f"Made by `make bench`, in one run, on one machine: {measured.versions}",
        f"""\
Each number is the median of {rounds} rounds of {seconds:.0f} s each, the systems taking turns within a round while the
others stand idle; the rounds of one number lay {measured.spread():.0%} apart (the median over all numbers). The load
comes from the same cores: wrk on the network side, a generator of our own on the sockets, which wrk does not speak.
Secrets are {len(SECRET):,} bytes, about an RSA-2048 key; gets go over {records:,} of them, every put creates one that
was not there. All systems encrypt, and put a write on disk before they answer. Strongroom and Custodia write an audit
log; OpenBao is measured twice, as it is installed, without one, and with its file audit. OpenBao runs on one node with
raft storage and the key-value engine version 1, Custodia with its encrypted overlay on SQLite. Ratios are medians of
those within the rounds; above 1 means that Strongroom is faster.""",
        "## Requests a second",
        _rates(measured),
        "## Against OpenBao as installed (with its audit)",
        _ratios(measured),
        "## Latency, 50th / 99th percentile, in milliseconds",
        _latencies(measured),
        "## Memory of all processes, in MiB (proportional set size, after the load)",
        _table(["", *measured.memory], [["", *(f"{mib:,.0f}" for mib in measured.memory.values())]]),
        "## What nothing above can beat",
        _floors(measured),
    ]
    return "\n\n".join(parts) + "\n"


def keyring(measured: Measured) -> str:
    """Return what was measured of the keyring."""
    stores = list(measured.sweeps)
    return "\n\n".join(
        [
            "## The keyring",
            "From the sending of an unlock key, to a service that was just started, to the first secret, in seconds:",
            _table(
                ["", *stores],
                [
                    [f"with {records:,} secrets", *(f"{measured.unlocks[store, records]:.2f}" for store in stores)]
                    for records in sorted({records for _, records in measured.unlocks})
                ],
            ),
            f"""\
Re-encryption at full pace, and the store alone, which is given one full batch of ciphertext after the other. A record
that is re-encrypted is read, opened, encrypted anew, and written in {CHANGES} changes: itself, and its rows in the
key usage index, the new one and the old one. Ratios are medians of those within the rounds.""",
            _table(["a second", *stores], _sweeps([measured.sweeps[store] for store in stores])),
            f"""\
{READERS} connections on the socket that read {READS} secrets a second together, while nothing else goes on and during a
re-encryption at the default pace; 50th / 99th percentile, in milliseconds:""",
            _table(["", *stores], _reads([measured.reads[store] for store in stores])),
        ]
    )


def migration(measured: Measured) -> str:
    """Return what was measured of moving sources in."""
    middle = statistics.median
    rows = [
        [
            f"{source} into {target}",
            _number(middle(move.moved for move in moves)),
            _number(middle(move.alone for move in moves)),
            f"{middle(move.moved / move.alone for move in moves):.2f}",
            f"{middle(move.memory for move in moves):.0f}",
        ]
        for (source, target), moves in measured.moves.items()
    ]
    if measured.many_moved is not None:
        hosts, move = measured.many_moved
        label = f"JSON lines into Strongroom, SQLite, {hosts:,} hosts"
        rows.append(
            [label, _number(move.moved), _number(move.alone), f"{move.moved / move.alone:.2f}", f"{move.memory:.0f}"]
        )
    return "\n\n".join(
        [
            "## Moving a source in",
            f"""\
The whole command `strongroom migrate apply`, from its start to its end: each record is read, saved, read back, compared
and journalled. A host is {PER_HOST} records, one of them secret. The store alone is given the same records as they lie
in it in the end, in full batches. Ratios are medians of those within the rounds.""",
            _table(["", "records a second", "the store alone", "ratio", "MiB held at most by the command"], rows),
        ]
    )


def rules(measured: Measured) -> str:
    """Return what was measured of the rules of access."""
    middle = statistics.median
    rows = [
        ["a decision, 50th percentile, in µs", f"{middle(each.median for each in measured.ruled) * 1e6:.1f}"],
        ["a decision, 99th percentile, in µs", f"{middle(each.slow for each in measured.ruled) * 1e6:.1f}"],
        [f"a listing of {NAMES:,} names, in ms", f"{middle(each.listing for each in measured.ruled) * 1e3:.0f}"],
        ["one rule changed, in ms", f"{middle(each.changed for each in measured.ruled) * 1e3:.1f}"],
        ["all rules compiled, in ms", f"{middle(each.compiled for each in measured.ruled) * 1e3:.0f}"],
    ]
    return "\n\n".join(
        [
            "## Rules of access",
            f"""\
The evaluator alone, in one process, with {PRINCIPALS:,} principals, {RULES:,} rules and {GROUPS} groups; whoever asks
is a member of five, and each name is one that rules speak of.""",
            _table(["", "Strongroom"], rows),
        ]
    )


def _sweeps(of: list[list[Sweep]]) -> list[list[str]]:
    middle = statistics.median
    return [
        ["records created by the store alone", *(_number(middle(each.created for each in all_)) for all_ in of)],
        ["records replaced by the store alone", *(_number(middle(each.replaced for each in all_)) for all_ in of)],
        ["records re-encrypted", *(_number(middle(each.reencrypted for each in all_)) for all_ in of)],
        ["changes by re-encryption", *(_number(middle(each.reencrypted * CHANGES for each in all_)) for all_ in of)],
        [
            "ratio of records re-encrypted to created / to replaced",
            *(
                f"{middle(each.reencrypted / each.created for each in all_):.2f} / "
                f"{middle(each.reencrypted / each.replaced for each in all_):.2f}"
                for all_ in of
            ),
        ],
        [
            "the same of changes",
            *(
                f"{middle(each.reencrypted / each.created for each in all_) * CHANGES:.2f} / "
                f"{middle(each.reencrypted / each.replaced for each in all_) * CHANGES:.2f}"
                for all_ in of
            ),
        ],
    ]


def _reads(of: list[list[Reads]]) -> list[list[str]]:
    middle = statistics.median

    def told(outcomes: list[Outcome]) -> str:
        return f"{middle(each.p50 for each in outcomes):.2f} / {middle(each.p99 for each in outcomes):.2f}"

    return [
        ["quiet", *(told([each.quiet for each in all_]) for all_ in of)],
        ["during a re-encryption", *(told([each.busy for each in all_]) for all_ in of)],
        ["ratio of the 99th", *(f"{middle(each.busy.p99 / each.quiet.p99 for each in all_):.2f}" for all_ in of)],
    ]


def _cells(measured: Measured) -> list[tuple[str, str, int]]:
    return [
        (way, act, connections)
        for way in ("network", "socket")
        for act in ("get", "put")
        for connections in sorted({cell.connections for cell in measured.outcomes})
    ]


def _named(way: str, target: str) -> str:
    """Return the name of the target that stands for *target* on that way."""
    return "Custodia, socket" if (way, target) == ("socket", "Custodia") else target


def _label(way: str, act: str, connections: int) -> str:
    if act == "batch":
        return f"secrets in batches of {BATCH}, {connections} connection{'s' if connections > 1 else ''}"
    where = "through the proxy" if way == "network" else "on the socket"
    return f"{act}, {where}, {connections} connection{'s' if connections > 1 else ''}"


def _acts(measured: Measured) -> list[tuple[str, str, int]]:
    """Return what is measured, as rows: those of `_cells`, and the batches."""
    batched = sorted({cell.connections for cell in measured.outcomes if cell.act == "batch"})
    return [*_cells(measured), *(("network", "batch", connections) for connections in batched)]


def _rates(measured: Measured) -> str:
    rows = []
    for way, act, connections in _acts(measured):
        rates = [measured.rate(Cell(way, act, connections, _named(way, name))) for name in COLUMNS]
        if act == "batch":
            rates = [rate * BATCH if rate else None for rate in rates]
        rows.append([_label(way, act, connections), *map(_number, rates)])
    return _table(["", *COLUMNS], rows)


def _ratios(measured: Measured) -> str:
    rows = []
    for way, act, connections in _acts(measured):
        row = [_label(way, act, connections)]
        for name in COLUMNS[:2]:
            ours = Cell(way, act, connections, name)
            against = [Cell(way, act.replace("batch", "get"), connections, peer) for peer in COLUMNS[2:4]]
            installed, audited = (_beside(measured, ours, peer) for peer in against)
            row.append(f"{installed:.2f} ({audited:.2f})" if installed and audited else "")
        custodia = Cell(way, act, connections, _named(way, "Custodia"))
        ratio = _beside(measured, Cell(way, act, connections, COLUMNS[0]), custodia)
        row.append(f"{ratio:.1f}" if ratio else "")
        rows.append(row)
    note = "The ratios of the batches are against OpenBao's single gets: it has no batch, nor has Custodia."
    return f"{_table(['', 'SQLite', 'etcd', 'SQLite ÷ Custodia'], rows)}\n\n{note}"


def _beside(measured: Measured, ours: Cell, theirs: Cell) -> float | None:
    """Return the median of the rounds' ratios: of secrets, where ours are batches."""
    pairs = list(zip(measured.outcomes.get(ours, []), measured.outcomes.get(theirs, []), strict=False))
    if not pairs:
        return None
    return statistics.median(a.rate / b.rate for a, b in pairs) * (BATCH if ours.act == "batch" else 1)


def _latencies(measured: Measured) -> str:
    rows = []
    for way, act, connections in _cells(measured):
        found = [measured.latency(Cell(way, act, connections, _named(way, name))) for name in COLUMNS]
        rows.append(
            [_label(way, act, connections), *(f"{pair[0]:.2f} / {pair[1]:.2f}" if pair else "" for pair in found)]
        )
    return _table(["", *COLUMNS], rows)


def _starts(measured: Measured) -> str:
    targets = dict.fromkeys(target for target, _ in measured.starts)
    rows = [
        [f"with {records:,} secrets", *(f"{measured.starts[target, records]:.2f}" for target in targets)]
        for records in sorted({records for _, records in measured.starts})
    ]
    return _table(["", *targets], rows)


def _floors(measured: Measured) -> str:
    rows = [
        [f"{store} alone, {act.partition(' ')[0]}, {act.partition(' ')[2]} at a time", _number(rate)]
        for store, acts in measured.floors.items()
        for act, rate in acts.items()
    ]
    for way, what in (("network", "wrk"), ("own generator", "our generator")):
        for connections in sorted({cell.connections for cell in measured.outcomes}):
            rate = measured.rate(Cell(way, "get", connections, "a constant"))
            rows.append(
                [f"a constant from falcon on one worker of ours, {connections} at a time ({what})", _number(rate)]
            )
    return _table(["a second", ""], rows)


def _number(value: float | None) -> str:
    return f"{value:,.0f}" if value else ""


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

"""The two load generators: wrk for TCP, and one of our own that speaks unix sockets too, since wrk does not.

Ours keeps the same promise as wrk: a number of connections, each with one request under way at any time, for a number
of seconds. What it costs itself is the same for every peer; ``benchmarks.report`` shows it beside wrk on one target.

    python -m benchmarks.load PLAN.json     run a plan, print a JSON result
"""

import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import uvloop

_HEAD_END = b"\r\n\r\n"
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class LoadError(Exception):
    """A run that measured something else than it was meant to: answers other than 2xx, or broken connections."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send, where, and for how long.

    *path* holds ``{}`` where the number of the record goes: it counts up from *first* and wraps after *count*, or
    never wraps when *count* is 0, so that every request writes a record of its own. Our own generator can also be
    told to send *limit* requests and stop, to fill a store, and to send no more than *rate* a second.
    """

    address: str  # "127.0.0.1:8000", or the path of a unix socket
    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    first: int = 0
    count: int = 0
    connections: int = 1
    seconds: float = 3.0
    limit: int = 0
    rate: float = 0  # over all connections; 0: as many as are answered


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a plan: requests per second, and latencies in milliseconds."""

    rate: float
    p50: float
    p99: float
    requests: int


def run(plan: Plan, *, wrk: bool) -> Outcome:
    """Run *plan* in a process of its own: with wrk, or with our own generator.

    Raises:
        LoadError: not every answer was a 2xx.
    """
    return _run_wrk(plan) if wrk else _run_own(plan)


_SCRIPT = """
local body = {body}
local headers = {{ {headers} }}
local first, count, sent = {first}, {count}, 0
function request()
  local n = first + (count > 0 and sent % count or sent)
  sent = sent + 1
  return wrk.format("{method}", string.format("{path}", n), headers, body)
end
function done(summary, latency)
  local e, line = summary.errors, '\\nRESULT {{"requests":%d,"us":%d,"p50":%f,"p99":%f,"bad":%d,"broken":%d}}\\n'
  io.write(string.format(line, summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.status, e.connect + e.write + e.timeout))
end
"""


def _run_wrk(plan: Plan) -> Outcome:
    script = _SCRIPT.format(
        body=json.dumps(plan.body),
        headers=", ".join(f"[{json.dumps(name)}] = {json.dumps(value)}" for name, value in plan.headers.items()),
        first=plan.first,
        count=plan.count,
        method=plan.method,
        path=plan.path.format("%d"),
    )
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = ["wrk", "--threads", "1", "--connections", str(plan.connections), "--timeout", "10s"]
        command += ["--duration", f"{max(1, round(plan.seconds))}s", "--script", file.name, f"http://{plan.address}/"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.partition("RESULT ")[2])
    if result["bad"] or result["broken"]:
        raise LoadError(f"{plan.method} {plan.path}: {result}")
    return Outcome(
        rate=result["requests"] / (result["us"] / 1e6),
        p50=result["p50"] / 1e3,
        p99=result["p99"] / 1e3,
        requests=result["requests"],
    )


def _run_own(plan: Plan) -> Outcome:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(asdict(plan), file)
        file.flush()
        command = [sys.executable, "-m", "benchmarks.load", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LoadError(f"{plan.method} {plan.path}: {done.stderr[-2000:]}")
    return Outcome(**json.loads(done.stdout))


_UNKNOWN, _CHUNKED, _TO_THE_END = 0, -1, -2  # how long an answer is, while no number says so


class _Numbers:
    """The numbers of the records, shared by all connections."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._sent = 0

    @property
    def all_taken(self) -> bool:
        return bool(self._plan.limit) and self._sent >= self._plan.limit

    def take(self) -> int:
        sent, self._sent = self._sent, self._sent + 1
        return self._plan.first + (sent % self._plan.count if self._plan.count else sent)


class _Connection(asyncio.Protocol):
    """One connection with one request under way; a peer that closes after each answer is dialled again."""

    def __init__(self, generator: "_Generator") -> None:
        self._generator = generator
        self._received = bytearray()
        self._expected = _UNKNOWN  # bytes of the whole answer, when positive
        self._transport: asyncio.Transport | None = None
        self._sent_at = 0.0
        self._waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its ancestry
        self._send()

    def _send(self) -> None:
        assert self._transport is not None
        if self._generator.numbers.all_taken or self._transport.is_closing():
            self._transport.close()
            return
        self._received.clear()
        self._expected = _UNKNOWN
        self._sent_at = time.perf_counter()
        self._waiting = True
        self._transport.write(self._generator.next_request())

    def _send_when_due(self) -> None:
        wait = self._sent_at + self._generator.interval - time.perf_counter()
        if wait > 0:
            asyncio.get_running_loop().call_later(wait, self._send)
        else:
            self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._expected == _UNKNOWN:
            end = self._received.find(_HEAD_END)
            if end < 0:
                return
            self._expected = _length(bytes(self._received[:end]), end + len(_HEAD_END))
        whole = 0 < self._expected <= len(self._received)
        if whole or (self._expected == _CHUNKED and self._received.endswith(_LAST_CHUNK)):
            self._answered()
            assert self._transport is not None
            if self._received.startswith(b"HTTP/1.0"):
                self._transport.close()
            elif not self._generator.over:
                self._send_when_due()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._expected == _TO_THE_END:
            self._answered()
        elif self._expected == _UNKNOWN and self._waiting and not self._generator.over:
            self._generator.fail(f"connection lost before an answer: {exc}")
        if not self._generator.over and not self._generator.numbers.all_taken:
            self._generator.dial()

    def _answered(self) -> None:
        self._waiting = False
        self._generator.count(time.perf_counter() - self._sent_at, bytes(self._received[:64]))


def _length(head: bytes, after_head: int) -> int:
    """Return how long the answer with *head* is, or which mark ends it."""
    length = _LENGTH.search(head)
    if length is not None:
        return after_head + int(length[1])
    if b" 204 " in head[:15]:
        return after_head
    return _CHUNKED if b"chunked" in head.lower() else _TO_THE_END


class _Generator:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.numbers = _Numbers(plan)
        self.interval = plan.connections / plan.rate if plan.rate else 0.0  # seconds between two of one connection
        headers = {"Host": "localhost", **plan.headers}
        if plan.body:
            headers["Content-Length"] = str(len(plan.body.encode()))
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._before = f"{plan.method} {plan.path.partition('{}')[0]}".encode()
        self._after = f"{plan.path.partition('{}')[2]} HTTP/1.1\r\n{head}\r\n{plan.body}".encode()
        self._numbered = "{}" in plan.path
        self._latencies: list[float] = []
        self._dials: set[asyncio.Task[None]] = set()
        self._failure: str | None = None
        self.over = False

    def next_request(self) -> bytes:
        number = str(self.numbers.take()).encode() if self._numbered else b""
        return self._before + number + self._after

    def count(self, seconds: float, head: bytes) -> None:
        if head[9:10] != b"2":
            self.fail(f"answered {head[:40]!r}")
        self._latencies.append(seconds)
        self.over = self.over or len(self._latencies) == self._plan.limit

    def fail(self, reason: str) -> None:
        self._failure = reason
        self.over = True

    def dial(self) -> None:
        task = asyncio.get_running_loop().create_task(self._dial())
        self._dials.add(task)
        task.add_done_callback(self._dialled)

    def _dialled(self, task: asyncio.Task[None]) -> None:
        self._dials.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.fail(f"cannot connect: {task.exception()}")

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        if self._plan.address.startswith("/"):
            while not self.over:
                with suppress(BlockingIOError):  # its queue is full: where TCP would wait, a unix socket says so
                    await loop.create_unix_connection(lambda: _Connection(self), self._plan.address)
                    return
                await asyncio.sleep(0.0005)
        else:
            host, _, port = self._plan.address.partition(":")
            await loop.create_connection(lambda: _Connection(self), host, int(port))

    async def run(self) -> Outcome:
        """Send for as long as the plan says; a request that is under way at the end is not counted."""
        begun = time.perf_counter()
        for _ in range(self._plan.connections):
            self.dial()
        while not self.over and time.perf_counter() - begun < self._plan.seconds:
            await asyncio.sleep(0.02)
        self.over = True
        took = time.perf_counter() - begun
        if self._failure is not None:
            raise LoadError(self._failure)
        latencies = sorted(self._latencies)
        if len(latencies) < max(1, self._plan.limit):
            raise LoadError(f"only {len(latencies)} answers")
        return Outcome(
            rate=len(latencies) / took,
            p50=latencies[len(latencies) // 2] * 1e3,
            p99=latencies[len(latencies) * 99 // 100] * 1e3,
            requests=len(latencies),
        )


def main() -> None:
    """Run the plan in the file that the command line names."""
    plan = Plan(**json.loads(Path(sys.argv[1]).read_text()))
    outcome = uvloop.run(_Generator(plan).run())
    json.dump(asdict(outcome), sys.stdout)


if __name__ == "__main__":
    main()

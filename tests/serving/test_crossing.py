"""No answer ever reaches another request: clients that behave badly, and workers that die, on both real faces."""

import asyncio
import os
import random
import re
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.campaign import as_many_as
from tests.raw_http import Client, Message, read_message, request
from tests.serving.conftest import Served, both

CLIENTS = 24
TURNS = as_many_as(20)  # of each client
BLOWS = as_many_as(12)  # to workers meanwhile, however long the turns take
CANARY = re.compile(rb"canary-(\d\d)-(\d)")


@pytest.fixture
def served() -> Iterator[dict[str, Served]]:
    """Service, with two workers, and proxy; both are this test's own, because their workers die."""
    with tempfile.TemporaryDirectory(prefix="sr-") as place, both(Path(place), workers=2) as served:
        yield served


class Caller:
    """One client, which has secrets of its own: what else it ever hears is another's answer."""

    def __init__(self, served: Served, number: int) -> None:
        self._served = served
        self._number = number
        self._root = "/api/v0/secrets" if isinstance(served.place, int) else "/secrets"
        self._lines = [line for line in served.fields.decode().split("\r\n")[:2] if line]
        self._draw = random.Random(number)
        self._count = 0
        self.turns = 0  # that are over
        self.told: Counter[str] = Counter()

    def _path(self, which: int) -> str:
        return f"{self._root}/crossing/{self._number}-{which}"

    def _get(self, which: int) -> tuple[bytes, str]:
        self._count += 1
        identity = f"call-{self._number:02}-{self._count:06}"
        return request("GET", self._path(which), *self._lines, f"x-request-id: {identity}"), identity

    def _value(self, which: int) -> str:
        return f"canary-{self._number:02}-{which}-" + "v" * (90_000 if which == 3 else 200)

    def _check(self, answer: Message, which: int, identity: str) -> None:
        """See that an answer is the one that was asked for, or none."""
        heard = {(int(number), int(of)) for number, of in CANARY.findall(answer.body)}
        assert heard <= {(self._number, which)}, "another's answer"
        assert answer.get("x-request-id") in {identity, None}, "another's id"
        assert answer.status != 200 or self._value(which).encode() in answer.body
        self.told[str(answer.status)] += 1

    async def prepare(self) -> None:
        """Make the secrets."""
        async with await Client.at(self._served.place) as client:
            assert (await client.ask(request("POST", f"{self._root}/crossing/", *self._lines))).status in {200, 201}
            for which in range(4):
                lines = [*self._lines, "content-type: application/json"]
                body = f'{{"type":"simple","value":"{self._value(which)}"}}'.encode()
                answer = await client.ask(request("PUT", self._path(which), *lines, body=body))
                assert answer.status in {201, 409}

    async def run(self) -> None:
        """Ask in every way, good and bad."""
        ways = [
            self.ask_well,
            self.ask_at_once,
            self.leave,
            self.leave_in_the_middle,
            self.be_refused,
            self.send_slowly,
        ]
        for _ in range(TURNS):
            try:
                async with await Client.at(self._served.place) as client:
                    await self._draw.choice(ways)(client)
            except (OSError, EOFError, TimeoutError):
                self.told["broken off"] += 1
            self.turns += 1

    async def ask_well(self, client: Client) -> None:
        for _ in range(4):
            which = self._draw.randrange(4)
            sent, identity = self._get(which)
            self._check(await client.ask(sent), which, identity)

    async def ask_at_once(self, client: Client) -> None:
        calls = [(which, *self._get(which)) for which in (self._draw.randrange(4) for _ in range(8))]
        client.writer.write(b"".join(sent for _, sent, _ in calls))
        for which, _, identity in calls:
            self._check(await asyncio.wait_for(read_message(client.reader), 15), which, identity)

    async def leave(self, client: Client) -> None:
        client.writer.write(b"".join(self._get(3)[0] for _ in range(self._draw.randrange(1, 5))))
        await asyncio.sleep(self._draw.random() * 0.003)

    async def leave_in_the_middle(self, client: Client) -> None:
        client.writer.write(request("PUT", self._path(5), *self._lines, "content-length: 50000") + b"canary-99-9" * 100)
        await asyncio.sleep(self._draw.random() * 0.003)

    async def be_refused(self, client: Client) -> None:
        size = self._draw.choice((10, 20_000, 200_000))
        client.writer.write(request("PUT", self._path(0), "x-request-id: refused-1", body=b"canary-98-8" + b"u" * size))
        answer = await asyncio.wait_for(read_message(client.reader), 15)
        assert answer.status in {401, 503}
        assert not CANARY.search(answer.body)
        self.told[str(answer.status)] += 1

    async def send_slowly(self, client: Client) -> None:
        lines = [*self._lines, "content-type: application/octet-stream", "transfer-encoding: chunked"]
        client.writer.write(request("PUT", self._path(1), *lines))
        for _ in range(4):
            client.writer.write(b"a\r\ncanary-97-\r\n")
            await client.writer.drain()
            await asyncio.sleep(0.005)
        sent, identity = self._get(2)
        client.writer.write(b"0\r\n\r\n" + sent)
        answer = await asyncio.wait_for(read_message(client.reader), 15)
        assert answer.status in {409, 503}
        assert not CANARY.search(answer.body)
        self._check(await asyncio.wait_for(read_message(client.reader), 15), 2, identity)


@pytest.mark.campaign
async def test_no_answer_reaches_another_request(served: dict[str, Served]) -> None:
    """Twenty-four clients abort, pipeline, are refused early and send slowly, while workers are killed and stopped."""
    callers = [Caller(served[("proxy", "socket")[number % 3 == 0]], number) for number in range(CLIENTS)]
    async with asyncio.TaskGroup() as group:
        for caller in callers:
            group.create_task(caller.prepare())
    running = asyncio.gather(*(caller.run() for caller in callers))
    killed = stopped = 0
    while not running.done():
        await asyncio.wait((running,), timeout=0.02)
        workers = sorted(served["socket"].running.workers)
        due = sum(caller.turns for caller in callers) * BLOWS // (CLIENTS * TURNS)
        if killed + stopped >= due or len(workers) < 2 or running.done():
            continue
        if (killed + stopped) % 2:
            os.kill(workers[0], signal.SIGKILL)
            killed += 1
        else:
            os.kill(workers[-1], signal.SIGSTOP)
            await asyncio.sleep(0.2)
            os.kill(workers[-1], signal.SIGCONT)
            stopped += 1
        if killed == 3:
            for pid in served["proxy"].running.workers:
                os.kill(pid, signal.SIGKILL)
            killed += 1
    await running
    told = sum((caller.told for caller in callers), Counter())
    assert killed > 2 and stopped > 2
    assert told["200"] > CLIENTS * TURNS
    assert set(told) <= {"200", "401", "409", "503", "broken off"}

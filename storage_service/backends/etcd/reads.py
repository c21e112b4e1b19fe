"""Reads of single keys of one member: those that wait together go out as one transaction that only reads.

What is asked for in one turn of the loop goes at its end, at once; while `IN_FLIGHT` transactions are under way, the
next gathers. A transaction is made only of reads that waited when it was sent, so each of them is answered by a state
of the store that was current after it was asked for: linearizable, as a read of its own is.

Each read has its own end in time and its own failure. One that failed in company may have done so through another's
value: `CallFailed.shared` says so, and whoever asked asks again with *alone*.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from grpc.aio import AioRpcError

from strongroom.storage_service.backends.base import MAX_BATCH, Entry
from strongroom.storage_service.backends.etcd.failures import CallFailed, Kind, diagnose
from strongroom.storage_service.backends.etcd.keyspace import read
from strongroom.storage_service.backends.etcd.messages_pb2 import RangeRequest, RangeResponse, TxnRequest
from strongroom.storage_service.backends.etcd.methods import RANGE, TXN, Metadata

IN_FLIGHT: Final = 2  # transactions; one did as well by rate, but lets all wait for the slowest
SIZE: Final = 1024 * 1024  # bytes of values expected in one answer
FADING: Final = 8  # with each answer, an eighth of what was large once and is no more is forgotten


class _Turn:
    """Told to a read that goes by itself: its caller sends it."""


Outcome: TypeAlias = Entry | CallFailed | _Turn | None
_TURN: Final = _Turn()


class _Read:
    """One caller's read; while it is under way, *batch* holds all that were sent with it, itself among them."""

    __slots__ = ("answer", "batch", "key", "task", "token", "until")

    def __init__(self, key: bytes, token: Metadata, until: float, answer: "asyncio.Future[Outcome]") -> None:
        self.key = key
        self.token = token
        self.until = until  # on the loop's clock
        self.answer = answer
        self.batch: Sequence[_Read] = ()
        self.task: asyncio.Task[None] | None = None

    def give(self, outcome: Outcome) -> None:
        """Answer, unless that has been done or nobody waits any more. A failure is each caller's own."""
        if self.answer.done():
            return
        if isinstance(outcome, CallFailed):
            outcome = CallFailed(outcome.kind, outcome.reason)
            outcome.shared = len(self.batch) > 1
        self.answer.set_result(outcome)

    def expire(self) -> None:
        """End it: its time is over."""
        self.give(CallFailed(Kind.LOST, "etcd did not answer in time"))


class Reads:
    """The reads that wait for one member, and those under way."""

    def __init__(self, channel: Any) -> None:
        self._range = RANGE.on(channel)
        self._transaction = TXN.on(channel)
        self._waiting: deque[_Read] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_way = 0
        self._turn_ends = False  # a sending stands at the end of this turn of the loop
        self._largest = SIZE // MAX_BATCH  # bytes of a value, of those read lately; a guess until one has been

    async def get(self, key: bytes, token: Metadata, until: float, *, alone: bool = False) -> Entry | None:
        """Return what is stored under *key*.

        Args:
            key: the whole of it.
            token: what to show to etcd; of reads that go together, the newest one's.
            until: when to give up, on the loop's clock.
            alone: whether to send it by itself, past what waits.

        Raises:
            CallFailed: with ``shared`` where it went with others.
        """
        if alone:
            return await self._ask_alone(key, token, until)
        loop = asyncio.get_running_loop()
        one = _Read(key, token, until, loop.create_future())
        self._waiting.append(one)
        self._send_soon(loop)
        timer = loop.call_at(until, one.expire)
        try:
            outcome = await one.answer
        except asyncio.CancelledError:
            self._forget(one)
            raise
        finally:
            timer.cancel()
        if isinstance(outcome, _Turn):
            try:
                return await self._ask_alone(key, token, until)
            finally:
                self._end()
        if isinstance(outcome, CallFailed):
            raise outcome
        return outcome

    def turn_away(self, failure: CallFailed) -> None:
        """Answer what waits, and was never sent, with *failure*: another member is asked from now on."""
        while self._waiting:
            self._waiting.popleft().give(failure)

    def _send_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        """Send what waits at the end of this turn of the loop, if anything may be sent."""
        if self._waiting and not self._turn_ends and self._under_way < IN_FLIGHT:
            self._turn_ends = True
            loop.call_soon(self._send)

    def _send(self) -> None:
        self._turn_ends = False
        loop = asyncio.get_running_loop()
        while self._under_way < IN_FLIGHT and (batch := self._gathered()):
            self._begin(batch, loop)

    def _gathered(self) -> list[_Read]:
        """Take off the queue what goes next: the first that wait, as many as may go."""
        batch: list[_Read] = []
        room = min(MAX_BATCH, max(1, SIZE // max(1, self._largest)))
        while self._waiting and len(batch) < room:
            one = self._waiting.popleft()
            if not one.answer.done():
                batch.append(one)
        return batch

    def _begin(self, batch: Sequence[_Read], loop: asyncio.AbstractEventLoop) -> None:
        self._under_way += 1
        if len(batch) == 1:
            batch[0].answer.set_result(_TURN)
            return
        task = loop.create_task(self._ask(batch))
        self._tasks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._end)
        for one in batch:
            one.batch, one.task = batch, task

    def _end(self, task: asyncio.Task[None] | None = None) -> None:
        self._under_way -= 1
        if task is not None:
            self._tasks.discard(task)
        self._send_soon(asyncio.get_running_loop())  # not now: who hears of a failure may turn away what waits

    def _forget(self, one: _Read) -> None:
        """Let what was sent for *one* go on for the others, and end it if there are none."""
        if one.task is not None and all(each.answer.done() for each in one.batch):
            one.task.cancel()
        elif one.answer.done() and not one.answer.cancelled() and one.answer.result() is _TURN:
            self._end()  # it was its turn, and it is not taken

    async def _ask_alone(self, key: bytes, token: Metadata, until: float) -> Entry | None:
        left = until - asyncio.get_running_loop().time()
        try:
            answer = await self._range(RangeRequest(key=key), metadata=token, timeout=left)
        except AioRpcError as error:
            raise diagnose(error) from error
        return self._found([answer])[0]

    async def _ask(self, batch: Sequence[_Read]) -> None:
        keys = list(dict.fromkeys(one.key for one in batch))
        request = TxnRequest(success=[read(key) for key in keys])
        left = max(one.until for one in batch) - asyncio.get_running_loop().time()
        try:
            answer = await self._transaction(request, metadata=batch[-1].token, timeout=left)
            entries = dict(zip(keys, self._found([each.response_range for each in answer.responses]), strict=True))
            for one in batch:
                one.give(entries[one.key])
        except AioRpcError as error:
            failure = diagnose(error)
            for one in batch:
                one.give(failure)
        finally:
            for one in batch:
                one.batch, one.task = (), None  # a circle, which would keep values until the next collection

    def _found(self, answers: Sequence[RangeResponse]) -> list[Entry | None]:
        """Return what *answers* to single keys hold, and learn how large values are."""
        found = [Entry(answer.kvs[0].value, answer.kvs[0].mod_revision) if answer.kvs else None for answer in answers]
        largest = max(len(entry.value) if entry else 0 for entry in found)
        self._largest = max(largest, self._largest - self._largest // FADING - 1)
        return found

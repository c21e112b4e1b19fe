"""Few large bodies at a time: so many are in a worker's memory, whoever sends them, and however slowly.

A body is large when it is over `LARGE`; others never wait. Its turn comes before it is read, as far as its length is
said, and else when it turns out to be large. It ends when what was asked has been done: until then the body lies in
memory. Who sends slowly loses it when another principal waits, and what has come is let go of.
"""

import math
from types import TracebackType
from typing import Final, Self

from strongroom.storage_service import wire
from strongroom.storage_service.errors import TooLarge
from strongroom.storage_service.http.answering import PIECE, Request, caller, check_whole
from strongroom.storage_service.turns import Queue, Rule, Turn

LARGE: Final = wire.MAX_MODEL_BODY + 64 * 1024  # bytes: a record that the proxy sends on is never large
RULE: Final = Rule(turns=2, held=1, waiting=4, longest=math.inf)  # what is being committed is not to be cancelled


class LargeBodies:
    """The turns of one worker."""

    def __init__(self, rule: Rule = RULE) -> None:
        """Take who has a turn, and for how long."""
        self.queue = Queue(rule)

    def of(self, req: Request) -> "Sent":
        """Return the body of *req*: a context in which it is read and handled."""
        return Sent(req, self.queue)


class Sent:
    """A body, and its turn if it is large. Left as a context, it ends, and says `Busy` where it was lost."""

    def __init__(self, req: Request, queue: Queue) -> None:
        """Take the request, and where turns are given."""
        self._req = req
        self._queue = queue
        self._turn: Turn | None = None

    async def content(self, limit: int) -> bytes:
        """Return it as it was sent; one that says it is over *limit* is not read.

        Raises:
            TooLarge: it is over *limit*.
            Invalid: its client left before its end.
            Busy: others' bodies took too long, or as many of the caller's as may wait do.
        """
        length = self._req.content_length
        if length is not None and length > limit:
            raise TooLarge("the body is over its limit")
        sent = bytearray()
        try:
            if length is not None and length > LARGE:
                await self._begin()
            while piece := await self._req.stream.read(min(PIECE, limit + 1 - len(sent))):
                sent += piece
                if len(sent) > limit:
                    raise TooLarge("the body is over its limit")
                if self._turn is not None:
                    self._turn.moved(len(piece))
                elif len(sent) > LARGE:
                    await self._begin()
            if self._turn is not None:
                self._turn.client_done()
            check_whole(self._req, len(sent))
            return bytes(sent)
        finally:
            sent.clear()  # at once: an error that is under way keeps this frame

    async def _begin(self) -> None:
        self._turn = await self._queue.begin(caller(self._req).holder)
        self._turn.await_client()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._turn is not None:
            await self._turn.__aexit__(kind, error, traceback)

"""Requests that the proxy refuses itself, which the service never sees: counted here, and reported to its log.

The rule is the service's (`strongroom.storage_service.strangers`): the first of an address is told at once, the others
of a second together. Nothing waits for it, and a request that is let through costs nothing. What cannot be told is
counted on.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from strongroom.http_proxy.authn.base import Identity
from strongroom.http_proxy.request import plain
from strongroom.storage_service import wire
from strongroom.storage_service.client.pool import Pool, UpstreamError
from strongroom.storage_service.config import ProxySettings
from strongroom.storage_service.errors import Denied, NotAuthenticated, ServiceError, Unavailable
from strongroom.storage_service.strangers import UNKNOWN, Strangers, bounded
from strongroom.storage_service.wire.head import trace_in
from strongroom.storage_service.wire.http1 import Exchange, Field

DEADLINE: Final = 5.0  # seconds for the service to take a report
_TRACEPARENT: Final = wire.TRACE_HEADER.encode()
_TOLD: Final = frozenset((*range(400, 500), 501))  # what is refused; all else failed, and is told where it failed


@dataclass(frozen=True, slots=True)
class RefusedRequest:
    """A request that the proxy answers itself: what it is, and who asks, as far as that is known."""

    exchange: Exchange
    path: str
    request_id: bytes
    identity: Identity | None = None


class Why(NamedTuple):
    """What a request is answered with; *judged*: for who it is that asks."""

    status: int
    reason: str
    judged: bool = False


TOLD: Final = Why(0, "")  # the service said so, and has recorded it


def why(error: ServiceError) -> Why:
    """Return what *error* is answered with, if the proxy decided it."""
    if error.told:
        return TOLD
    return Why(wire.problem_of(error).status, error.text, isinstance(error, Denied | NotAuthenticated))


def _trace(fields: Sequence[Field]) -> str | None:
    """Return the id of the trace that a request is part of, if it says one."""
    told = [value for name, value in fields if name == _TRACEPARENT]
    return trace_in(told[0].decode("latin-1")) if len(told) == 1 else None


class RefusalReporter:
    """The requests that one worker of the proxy refuses."""

    def __init__(self, pool: Pool, settings: ProxySettings) -> None:
        """Take the way to the service, and what the proxy is to it."""
        self._pool = pool
        self._head = (
            f"POST {wire.REFUSALS_PATH} HTTP/1.1\r\nhost: strongroom\r\nforwarded: for=unknown\r\n"
            f"{wire.ID_HEADER}: {settings.api_id}\r\n{wire.KEY_HEADER}: {settings.api_key.reveal()}\r\n"
            f"content-type: {wire.JSON}\r\ncontent-length: "
        ).encode()
        self._strangers = Strangers(self._report)

    def __repr__(self) -> str:
        return "<RefusalReporter>"

    def note(self, refused: RefusedRequest, why: Why) -> None:
        """Count a request that is *refused* for *why*."""
        if why.status not in _TOLD:
            return
        request, identity = refused.exchange.request, refused.identity
        self._strangers.note(
            wire.Refusal(
                request=refused.request_id.decode("ascii"),
                action=bounded(request.method.decode("ascii")),
                name=bounded(refused.path),
                reason=bounded(why.reason),
                decision="denied" if why.judged else "refused",
                principal=UNKNOWN if identity is None else identity.name,
                address=plain(refused.exchange.client),
                trace=_trace(request.fields),
            )
        )

    async def close(self) -> None:
        """Tell of those who were not told of yet."""
        await self._strangers.close()

    async def _report(self, refusals: Sequence[wire.Refusal]) -> None:
        body = msgspec.json.encode(wire.RefusalReport(refusals=list(refusals)))
        deadline = asyncio.get_running_loop().time() + DEADLINE
        try:
            status, answer = await self._pool.fetch(b"%b%d\r\n\r\n%b" % (self._head, len(body), body), deadline)
        except UpstreamError as error:
            raise Unavailable(f"the service takes no report: {error}") from None
        if not 200 <= status < 300:
            raise wire.error_of(status, answer)

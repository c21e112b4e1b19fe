"""When credentials were last used: so that people see which can be taken away.

    system/access/used/users/ann    {"format":1,"used":{"94ace6e6c88296315514a068989f872f":"2026-11-30T12:00:00Z"}}

It is written behind the answer, by a task of its own, at most once a minute for each credential, and raises no epoch:
nothing is decided by it. What cannot be written now is not written: the credential's next use is as good. Strangers
write nothing, for only a credential that was right is noted.
"""

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from strongroom.models import names
from strongroom.models.access import told
from strongroom.models.strict_json import UNREADABLE
from strongroom.storage_service.backends.base import ABSENT, Backend, Conflict, Put
from strongroom.storage_service.errors import ServiceError
from strongroom.storage_service.traces import trace_of

EVERY: Final = 60.0  # seconds between two writings of one credential's use
REMEMBERED: Final = 4096  # credentials whose last writing is known; of another, the store says when it was
WAITING: Final = 256  # principals whose uses wait to be written; of more, nothing is
KEPT: Final = 64  # credentials in one row, the last used ones
AT_ONCE: Final = 100  # rows that are read in one go
KEY: Final = "key"  # what the credential of an API key is called here, …
FORMER: Final = "former"  # … and the one that it took the place of
_ATTEMPTS: Final = 3  # at one row, while other workers write it

log = logging.getLogger(__name__)


class Used(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, rename={"format_": "format"}):
    """What a row holds: the moments, by the ids of credentials."""

    format_: int = 1
    used: dict[str, str] = {}


class Uses:
    """The uses of credentials in a store; *sealed* is the encrypting backend, *now* the clock."""

    def __init__(
        self,
        sealed: Backend,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sealed = sealed
        self._now = now
        self._monotonic = monotonic
        self._noted: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._waiting: dict[str, dict[str, str]] = {}
        self._writing: asyncio.Task[None] | None = None

    def note(self, owner: str, credential: str) -> None:
        """Note that *credential* of *owner* (``users/ann``) was used just now; it waits for nothing."""
        key, moment = (owner, credential), self._monotonic()
        if moment < self._noted.get(key, float("-inf")) + EVERY:
            return
        if owner not in self._waiting and len(self._waiting) >= WAITING:
            return
        self._noted.pop(key, None)
        self._noted[key] = moment
        if len(self._noted) > REMEMBERED:
            self._noted.popitem(last=False)
        self._waiting.setdefault(owner, {})[credential] = told(self._now())
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="uses of credentials")

    async def of(self, owner: str) -> Mapping[str, str]:
        """Return when the credentials of *owner* were last used, by their ids; nothing where that cannot be told."""
        return (await self.of_many([owner])).get(owner, {})

    async def of_many(self, owners: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        """Return the same of several."""
        found: dict[str, Mapping[str, str]] = {}
        for start in range(0, len(owners), AT_ONCE):
            some = owners[start : start + AT_ONCE]
            with contextlib.suppress(ServiceError):  # a listing is not to fail for it
                rows = await self._sealed.get_many([names.USED + owner for owner in some])
                found |= {name.removeprefix(names.USED): _decoded(row.value).used for name, row in rows.items()}
        return found

    async def close(self) -> None:
        """Write nothing more."""
        if self._writing is not None:
            self._writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._writing

    async def _write(self) -> None:
        while self._waiting:
            owner = next(iter(self._waiting))
            used = self._waiting.pop(owner)
            try:
                await self._write_one(names.USED + owner, used)
            except ServiceError:
                pass
            except Exception as error:  # noqa: BLE001  # its place is told, and its text is not
                log.error("the use of a credential was not written: unexpected %s", trace_of(error))  # noqa: TRY400

    async def _write_one(self, name: str, used: dict[str, str]) -> None:
        for _ in range(_ATTEMPTS):
            row = await self._sealed.get(name)
            before = {} if row is None else _decoded(row.value).used
            new = {key: when for key, when in used.items() if before.get(key, "") < self._minute_before(when)}
            if not new:
                return  # another worker has written it within this minute
            last = sorted((before | new).items(), key=lambda each: each[1])[-KEPT:]
            text = msgspec.json.encode(Used(used=dict(last)))
            with contextlib.suppress(Conflict):
                await self._sealed.commit([Put(name, text, ABSENT if row is None else row.revision)])
                return

    @staticmethod
    def _minute_before(when: str) -> str:
        return told(datetime.fromisoformat(when) - timedelta(seconds=EVERY - 1))


def _decoded(text: bytes) -> Used:
    """Return what a row holds; of one that is damaged or of a later format, nothing: the next use replaces it."""
    try:
        return msgspec.json.decode(text, type=Used)
    except UNREADABLE:
        return Used()

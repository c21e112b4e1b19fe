"""What the service measures of itself when it is asked: numbers of the whole, and of no record, caller or key.

It answers while it is locked, and while a store does not; what is not known then is left out. What takes reading is
read once a minute at most, and what takes counting records once in five, whoever asks and however often.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final, get_args

from strongroom.models import names
from strongroom.storage_service.access.base import Action
from strongroom.storage_service.backends.base import Backend, Measurable
from strongroom.storage_service.errors import Denied, StrongroomError
from strongroom.storage_service.meter import Meter
from strongroom.storage_service.metrics import written
from strongroom.storage_service.services.door import Caller, Door
from strongroom.storage_service.services.health import HealthService
from strongroom.storage_service.services.keys import KeyService, Vitals
from strongroom.storage_service.services.keys_overview import State

PATIENCE: Final = 2.0  # seconds for a store to answer
STATES: Final = tuple(state for state in get_args(State) if state != "rotating")  # `keyring_pending` says that
KEPT: Final = 60.0  # seconds that what was read of the keyring is told again

_Measured = dict[str, dict[tuple[str, ...], float]]


class TelemetryService:
    """All that ``/metrics`` tells."""

    def __init__(
        self,
        door: Door,
        keys: KeyService,
        health: HealthService,
        stores: Sequence[Backend],
        meter: Meter,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the parts; *stores* are all that there are."""
        self._door = door
        self._keys = keys
        self._health = health
        self._stores = tuple(stores)
        self._meter = meter
        self._clock = clock
        self._vitals: Vitals | None = None
        self._read_again = 0.0

    async def permit(self, caller: Caller) -> None:
        """Let *caller* see it, who may read the service's own status; only a refusal is recorded.

        Raises:
            Denied, AuditUnavailable
        """
        if not await self._door.able(caller, Action.GET, [names.STATUS]):
            await self._door.deny(caller, Action.GET, names.STATUS, "metrics are for who may read the status")
            raise Denied("outside what these credentials reach")

    async def tell(self) -> bytes:
        """Return it as Prometheus reads it."""
        measured: _Measured = defaultdict(dict)
        await self._look(measured)
        self._look_at_audit(measured)
        if measured["check"]["store",]:
            await self._measure_stores(measured)
            await self._look_at_keys(measured)
        measured["wrong_unlock_keys"][()] = self._keys.wrong_keys
        return written(self._meter, measured)

    async def _look(self, measured: _Measured) -> None:
        state, checks, seconds = self._keys.state, dict.fromkeys(("audit", "store", "keyring"), False), None
        try:
            async with asyncio.timeout(PATIENCE):
                found = await self._health.check()
        except TimeoutError:
            pass
        else:
            state, checks, seconds = found.state, dict(found.checks), found.seconds
        measured["state"] = {(each,): each == state for each in STATES}
        measured["check"] = {(check,): well for check, well in checks.items()}
        if seconds is not None:
            measured["store_probe_seconds"][()] = seconds

    def _look_at_audit(self, measured: _Measured) -> None:
        audit = self._door.measure_audit()
        for name, value in (
            ("audit_free_bytes", audit.free),
            ("audit_bytes", audit.size),
            ("audit_last_write_timestamp_seconds", audit.written),
        ):
            if value is not None:
                measured[name][()] = value

    async def _measure_stores(self, measured: _Measured) -> None:
        """Add up what the stores are: of certificates, which one expires first."""
        for store in self._stores:
            if not isinstance(store, Measurable):
                continue
            try:
                async with asyncio.timeout(PATIENCE):
                    found = await store.measure()
            except (TimeoutError, StrongroomError):
                continue
            for (name, label), value in found.items():
                labels = (label,) if label else ()
                before = measured[name].get(labels)
                together = min if name.endswith("timestamp_seconds") else _sum
                measured[name][labels] = value if before is None else together(before, value)

    async def _look_at_keys(self, measured: _Measured) -> None:
        if self._keys.state in ("uninitialized", "locked"):
            self._vitals, self._read_again = None, 0.0
        elif self._clock() >= self._read_again:
            self._read_again = self._clock() + KEPT
            try:
                self._vitals = await self._keys.vitals()
            except StrongroomError:  # whoever uses the keyring hears why
                self._vitals = None
        if self._vitals is not None:
            measured |= _of_keys(self._vitals)


def _of_keys(vitals: Vitals) -> Mapping[str, dict[tuple[str, ...], float]]:
    told: dict[str, dict[tuple[str, ...], float]] = {
        "keysets": {(): vitals.keysets},
        "generations": {(): vitals.generations},
        "keyring_pending": {(): vitals.pending},
        "backups": {(): len(vitals.backups)},
        "encrypted_records": {("active",): vitals.records, ("older",): vitals.records_of_older},
    }
    for name, moments, which in (
        ("oldest_active_generation_timestamp_seconds", vitals.active, min),
        ("oldest_root_wrap_timestamp_seconds", vitals.wraps, min),
        ("last_backup_timestamp_seconds", vitals.backups, max),
    ):
        if moments:
            told[name] = {(): which(map(_seconds, moments))}
    return told


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _sum(one: float, other: float) -> float:
    return one + other

"""What ``/metrics`` shows, by name, and how it is written down for Prometheus.

`SERVING` is the same for both processes, each under its own name; `STORAGE` and `PROXY` are what only one of them can
tell. docs/monitoring.md has the same list for people, and a test holds the two together. Labels take their values from
fixed tables: no name, id, address or path stands anywhere.
"""

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from strongroom.storage_service import wire
from strongroom.storage_service.meter import BOUNDS, Counts, Level, Meter

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
PREFIX: Final = "strongroom"

Values: TypeAlias = Mapping[str, Mapping[tuple[str, ...], float]]
"""What was measured: short name of a metric -> values of its labels -> number. What is not known is not there."""


@dataclass(frozen=True, slots=True)
class Definition:
    """One metric: its name without that of the process, its kind, its labels, and what it says."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    labels: tuple[str, ...] = ()


SERVING: Final = (
    Definition("requests", "counter", "Requests that ended, by what they were and how.", ("route", "method", "status")),
    Definition("request_seconds", "histogram", "From the head of a request to the end of its answer.", ("route",)),
    Definition("requests_in_flight", "gauge", "Requests that are being answered."),
    Definition("connections", "gauge", "Connections that are open."),
    Definition("refused", "counter", "Connections and requests that were not served.", ("reason",)),
    Definition("authentication_failures", "counter", "Requests of whom nobody knows.", ("credentials",)),
    Definition("workers", "gauge", "Worker processes that serve."),
    Definition("start_time_seconds", "gauge", "When the service was started, in seconds since 1970."),
    Definition("build_info", "gauge", "Always 1; its labels say what runs.", ("version", "python")),
)
STORAGE: Final = (
    Definition("state", "gauge", "1 for the state of the keyring, 0 for all others.", ("state",)),
    Definition("check", "gauge", "Whether what the service needs is well: 1 or 0.", ("check",)),
    Definition("store_probe_seconds", "gauge", "How long the store took to answer the last probe."),
    Definition("sqlite_bytes", "gauge", "Size of an SQLite store.", ("file",)),
    Definition("etcd_members", "gauge", "Members of etcd, by whether they answer.", ("health",)),
    Definition("etcd_certificate_expiry_timestamp_seconds", "gauge", "When the client certificate for etcd expires."),
    Definition("audit_errors", "counter", "Groups of lines that did not reach the audit log."),
    Definition("audit_free_bytes", "gauge", "Room on the disk of the audit log."),
    Definition("audit_bytes", "gauge", "Size of the audit log."),
    Definition("audit_last_write_timestamp_seconds", "gauge", "When the audit log was written last."),
    Definition("wrong_unlock_keys", "gauge", "Wrong unlock keys since the last right one."),
    Definition("keysets", "gauge", "Keysets of the keyring."),
    Definition("generations", "gauge", "Generations of keys, of all keysets."),
    Definition("oldest_active_generation_timestamp_seconds", "gauge", "When the oldest generation in use was made."),
    Definition("oldest_root_wrap_timestamp_seconds", "gauge", "When the oldest wrap of the root key was made."),
    Definition("encrypted_records", "gauge", "Encrypted records, by the generation they are under.", ("generation",)),
    Definition("keyring_pending", "gauge", "Whether something of the keyring was begun and is not finished: 1 or 0."),
    Definition("backups", "gauge", "Registered backups."),
    Definition("last_backup_timestamp_seconds", "gauge", "When the latest registered backup was taken."),
)
PROXY: Final = (
    Definition("service_up", "gauge", "Whether the storage service told its own metrics: 1 or 0."),
    Definition("certificate_expiry_timestamp_seconds", "gauge", "When the certificate that is served expires."),
)
OWN: Final = {"storage": STORAGE, "proxy": PROXY}


def full_name(process: str, definition: Definition) -> str:
    """Return the name that Prometheus knows *definition* of *process* by."""
    return f"{PREFIX}_{process}_{definition.name}{'_total' if definition.kind == 'counter' else ''}"


def written(meter: Meter, measured: Values) -> bytes:
    """Return what *meter* counted and what else was *measured*, as Prometheus reads it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Told(meter, measured))
    return generate_latest(registry)


class _Told(Collector):
    """All metrics of one process at one moment, for prometheus-client to write."""

    def __init__(self, meter: Meter, measured: Values) -> None:
        self._meter = meter
        self._measured = measured

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        face, counts = self._meter.face, self._meter.counts()
        values = {**_counted(self._meter, counts), **self._measured}
        if face.name == "storage":
            values |= {"audit_errors": {(): counts.failed_audits}}
        for definition in (*SERVING, *OWN[face.name]):
            name = f"{PREFIX}_{face.name}_{definition.name}"
            if definition.kind == "histogram":
                yield _histogram(name, definition, counts)
            elif definition.name in values:
                kind = CounterMetricFamily if definition.kind == "counter" else GaugeMetricFamily
                family = kind(name, definition.text, labels=definition.labels)
                for labels, value in values[definition.name].items():
                    family.add_metric(labels, value)
                yield family


def _counted(meter: Meter, counts: Counts) -> dict[str, Mapping[tuple[str, ...], float]]:
    return {
        "requests": {tuple(labels): count for labels, count in counts.requests.items()},
        "requests_in_flight": {(): counts.levels[Level.IN_FLIGHT]},
        "connections": {(): counts.levels[Level.CONNECTIONS]},
        "workers": {(): counts.levels[Level.WORKERS]},
        "refused": {(why.value,): count for why, count in counts.refused.items()},
        "authentication_failures": {(why.value,): count for why, count in counts.unknown.items()},
        "start_time_seconds": {(): meter.since},
        "build_info": {(wire.VERSION, platform.python_version()): 1},
    }


def _histogram(name: str, definition: Definition, counts: Counts) -> Metric:
    family = HistogramMetricFamily(name, definition.text, labels=definition.labels)
    for route, (each, total) in counts.seconds.items():
        family.add_metric([route], _cumulated(each), total)
    return family


def _cumulated(each: Sequence[int]) -> list[tuple[str, float]]:
    buckets: list[tuple[str, float]] = []
    sum_so_far = 0
    for bound, count in zip((*map(str, BOUNDS), "+Inf"), each, strict=True):
        sum_so_far += count
        buckets.append((bound, sum_so_far))
    return buckets

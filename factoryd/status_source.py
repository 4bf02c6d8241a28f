"""Where the status screen's figures come from: the daemon's metrics and the database's overview."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from prometheus_client.core import Metric

from console.rates import RateMeter
from storage.overview import LastAlert, LastQuarantined, Overview

RATE_WINDOW_S = 5.0
Samples = Mapping[str, float]
"""Values by name, or name{label value}."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that the screen shows, at one moment. Totals count since the daemon's start."""

    at: datetime
    uptime: timedelta = timedelta()
    state: str = "waiting"
    messages_per_s: float = 0.0
    readings_per_s: float = 0.0
    stored: int = 0
    lag_s: float = 0.0
    unacknowledged: int = 0
    """Readings received and not yet settled."""
    batch_readings: float = 0.0
    """Mean readings per batch in the last seconds."""
    missing: int = 0
    """Sequence numbers that never came."""
    quarantined: Mapping[str, int] = field(default_factory=dict)
    """Readings by reason, without zeros."""
    devices: Mapping[str, int] = field(default_factory=dict)
    """Devices in service by status."""
    last_quarantined: LastQuarantined | None = None
    alerts: Mapping[str, int] = field(default_factory=dict)
    """Open ones by severity, without zeros."""
    last_alert: LastAlert | None = None
    database_error: str | None = None


class StatusSource:
    """Makes a `Snapshot` per call."""

    def __init__(
        self,
        collect: Callable[[], Iterable[Metric]],
        overview: Callable[[], Awaitable[Overview]],
        clock: Callable[[], datetime],
    ) -> None:
        """Starts counting the uptime.

        Args:
            collect: the registry's `collect`, or a parser of what /metrics answered.
            overview: raises ConnectionError while the database is away; the last one is shown then.
            clock: aware UTC.
        """
        self._collect = collect
        self._load = overview
        self._clock = clock
        self._started_at = clock()
        self._overview = Overview()
        self._meters = {name: RateMeter(RATE_WINDOW_S) for name in (*MESSAGES, *BATCHES)}

    async def __call__(self) -> Snapshot:
        """Returns the present figures; never raises for a database that is away."""
        error = None
        try:
            self._overview = await self._load()
        except ConnectionError as unavailable:
            error = str(unavailable)
        snapshot = self._from_metrics(flatten(self._collect()))
        return replace(
            snapshot,
            devices=self._overview.devices,
            last_quarantined=self._overview.last_quarantined,
            last_alert=self._overview.last_alert,
            database_error=error,
        )

    def _from_metrics(self, samples: Samples) -> Snapshot:
        now = self._clock()
        rates = {name: self._rate(name, now, samples) for name in self._meters}
        batches = rates["factoryd_ingest_batch_readings_count"]
        return Snapshot(
            at=now,
            uptime=now - self._started_at,
            state=_state(samples),
            messages_per_s=rates["factoryd_ingest_messages_total"],
            readings_per_s=rates["factoryd_ingest_readings_received_total"],
            stored=round(samples.get("factoryd_ingest_readings_total{stored}", 0)),
            lag_s=samples.get("factoryd_ingest_lag_seconds", 0),
            unacknowledged=round(samples.get("factoryd_ingest_readings_in_flight", 0)),
            batch_readings=rates["factoryd_ingest_batch_readings_sum"] / batches if batches else 0.0,
            missing=round(
                samples.get("factoryd_ingest_sequence_missing_total", 0)
                - samples.get("factoryd_ingest_sequence_filled_total", 0)
            ),
            quarantined={
                name: round(count) for name, count in _labelled(samples, "factoryd_ingest_quarantined_total") if count
            },
            alerts={name: round(count) for name, count in _labelled(samples, "factoryd_alerts_open") if count},
        )

    def _rate(self, name: str, now: datetime, samples: Samples) -> float:
        meter = self._meters[name]
        meter.sample((now - self._started_at).total_seconds(), samples.get(name, 0))
        return meter.per_second or 0.0


MESSAGES = ("factoryd_ingest_messages_total", "factoryd_ingest_readings_received_total")
BATCHES = ("factoryd_ingest_batch_readings_count", "factoryd_ingest_batch_readings_sum")


def flatten(metrics: Iterable[Metric]) -> Samples:
    """Returns samples by name; with labels as name{value,…}."""
    return {
        f"{sample.name}{{{','.join(sample.labels.values())}}}" if sample.labels else sample.name: sample.value
        for metric in metrics
        for sample in metric.samples
    }


def _state(samples: Samples) -> str:
    return next((state for state, holds in _labelled(samples, "factoryd_state") if holds), "starting")


def _labelled(samples: Samples, name: str) -> list[tuple[str, float]]:
    prefix = f"{name}{{"
    return [(key[len(prefix) : -1], value) for key, value in samples.items() if key.startswith(prefix)]

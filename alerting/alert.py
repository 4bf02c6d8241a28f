"""PURE. The nouns of alerting: a rule (one threshold of one device), and an alert from triggered to resolved."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

import msgspec

THRESHOLD = "threshold"
OFFLINE = "offline"
NO_DATA = "no_data"
OFFLINE_METRIC = "_offline"
NO_DATA_METRIC = "_no_data"


class Severity(StrEnum):
    """The schema's alert_severity."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """Higher is worse."""
        return _RANKS[self]


_RANKS = {severity: rank for rank, severity in enumerate(Severity)}


class Status(StrEnum):
    """The schema's alert_status."""

    ACTIVE = "active"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


class Side(StrEnum):
    """Which limit was crossed."""

    HIGH = "high"
    LOW = "low"


class Rule(NamedTuple):
    """One enabled threshold. A value beyond a limit is a breach; the limit itself is not.

    `hysteresis` is in the metric's unit; `max_gap` None: samples may be any time apart.
    """

    threshold_id: int
    device_id: int
    metric: str
    low: float | None
    high: float | None
    severity: Severity
    owner_id: int
    on_delay: timedelta = timedelta()
    hysteresis: float = 0.0
    off_delay: timedelta = timedelta()
    max_gap: timedelta | None = None
    no_data_s: float | None = None
    instruction: str | None = None

    @property
    def condition(self) -> tuple[object, ...]:
        """What its state depends on; a change of anything else leaves the state alone."""
        return (self.device_id, self.metric, self.low, self.high, self.on_delay, self.hysteresis, self.off_delay, self.max_gap)


class Place(msgspec.Struct, frozen=True):
    """A device as an alert names it."""

    id: int
    device: str
    name: str
    location: str
    owner_id: int | None = None
    via_id: int | None = None
    interval_s: float | None = None
    retired: bool = False
    units: dict[str, str] | None = None


class Alert(msgspec.Struct, frozen=True, gc=False):
    """One row of alerts. Times of a crossing are the evaluation's (the device's clock, never ahead of ours)."""

    id: int
    device_id: int
    kind: str
    severity: Severity
    metric: str
    topic: str
    triggered_at: datetime
    message: str
    threshold_id: int | None = None
    owner_id: int | None = None
    side: Side | None = None
    value: float | None = None
    peak_value: float | None = None
    min_value: float | None = None
    max_value: float | None = None
    version: int = 1
    status: Status = Status.ACTIVE
    acknowledged_at: datetime | None = None
    acknowledged_by: int | None = None
    resolved_at: datetime | None = None
    resolved_by: int | None = None
    resolution: str | None = None
    inhibited_by: int | None = None
    announced: bool = False
    """An event said that it is active."""
    shelved_until: datetime | None = None
    stale: bool = False
    flapping: bool = False
    origin: str = "live"
    instruction: str | None = None

    @property
    def open(self) -> bool:
        """Not resolved."""
        return self.status is not Status.RESOLVED

    @property
    def key(self) -> "Key":
        """At most one open alert has it."""
        return (self.device_id, self.kind, self.threshold_id)


Key = tuple[int, str, int | None]
"""(device, kind, threshold)."""


class Entry(NamedTuple):
    """One new version of an alert, and what it is called in its history. `event`: operators are told on the event topic."""

    alert: Alert
    change: str
    at: datetime
    event: bool
    user_id: int | None = None
    note: str | None = None
